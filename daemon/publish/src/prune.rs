//! What no gateway can be about to read any more goes.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::files;
use crate::metadata::METADATA_BYTES;
use crate::repository::metadata;

/// Versions of targets and snapshot that are kept besides the newest. A gateway that began to read with a timestamp so many
/// publications old begins again. Roots are kept for ever: a gateway goes through them all.
const KEPT: u64 = 8;

/// Takes away old metadata, channel documents that no kept metadata names, and what killed commands left unfinished.
pub(crate) fn prune(dir: &Path, targets: u64, snapshot: u64) -> Result<(), Error> {
    for name in files::names(&dir.join("metadata"))? {
        let old = |suffix: &str, newest: u64| {
            let version: Option<u64> = name.strip_suffix(suffix).and_then(|text| text.parse().ok());
            version.is_some_and(|version| version.saturating_add(KEPT) < newest)
        };
        let unfinished = name.starts_with(files::UNFINISHED);
        if unfinished || old(".targets.json", targets) || old(".snapshot.json", snapshot) {
            remove(&metadata(dir, &name))?;
        }
    }
    let named = named(dir)?;
    let folder = dir.join("targets");
    let channels = folder.join("channels");
    for name in files::names(&channels)? {
        if !name
            .split_once('.')
            .is_some_and(|(sha, _)| named.contains(sha))
        {
            remove(&channels.join(name))?;
        }
    }
    for name in files::names(&folder)? {
        let Some(sha) = name.strip_suffix(".channels") else {
            continue;
        };
        if !named.contains(sha) {
            let other = folder.join(&name);
            for file in files::names(&other)? {
                remove(&other.join(file))?;
            }
            fs::remove_dir(&other).map_err(Error::io("remove", &other))?;
        }
    }
    Ok(())
}

/// Hashes of all targets of all metadata that is kept.
fn named(dir: &Path) -> Result<BTreeSet<String>, Error> {
    let mut named = BTreeSet::new();
    for name in files::names(&dir.join("metadata"))? {
        if !name.ends_with(".targets.json") {
            continue;
        }
        let bytes = files::read(&metadata(dir, &name), METADATA_BYTES)?.unwrap_or_default();
        // A damaged old file names nothing; the newest has been checked.
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let targets = json["signed"]["targets"].as_object();
        let hashes = targets
            .into_iter()
            .flatten()
            .filter_map(|(_, info)| info["hashes"]["sha256"].as_str());
        named.extend(hashes.map(ToOwned::to_owned));
    }
    Ok(named)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
