//! The release document: one version of one module.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::words::{Name, Version, is_digest};
use super::{DocumentError, read, value};
use crate::limits;

/// `modules/<name>/<version>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// [`DOCUMENT_VERSION`](super::DOCUMENT_VERSION).
    pub v: u64,
    /// The module.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// SHA-256 of the component: `sha256:` and 64 hex digits.
    pub digest: String,
    /// Bytes of the component.
    pub bytes: u64,
    /// The world it implements, as in its manifest: `tidegate:module/filter@0.1.0`.
    pub world: String,
    /// The capabilities it wants, as in its manifest. Words that a gateway does not know it does not give.
    #[serde(default)]
    pub grants: BTreeSet<String>,
    /// The bounds it wants other than the defaults, as in its manifest.
    #[serde(default)]
    pub limits: Map<String, Value>,
    /// The number of the form that its state has.
    #[serde(default = "first_schema")]
    pub state_schema: u32,
    /// The least version of the daemon that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_daemon: Option<Version>,
    /// SHA-256 of the golden vectors, the target beside this one; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<String>,
    /// SHA-256 of the debug file that the publisher keeps; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<String>,
    /// The module's own manifest, an object, as it stands beside a local component, with `digest` filled in.
    pub manifest: Map<String, Value>,
}

fn first_schema() -> u32 {
    1
}

impl Release {
    /// Reads and checks a release document. What the manifest in it says beyond name, version and digest is judged by who
    /// reads manifests.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let release: Self = read(json, limits::RELEASE_BYTES)?;
        for (key, digest) in [
            ("digest", Some(&release.digest)),
            ("vectors", release.vectors.as_ref()),
            ("debug", release.debug.as_ref()),
        ] {
            if digest.is_some_and(|digest| !is_digest(digest)) {
                return value(
                    key,
                    "no digest; one is `sha256:` and 64 lower-case hex digits",
                );
            }
        }
        if release.bytes == 0 || release.bytes > limits::MODULE_FILE_MOST_BYTES {
            let most = limits::MODULE_FILE_MOST_BYTES;
            return value(
                "bytes",
                format!("{} bytes; 1 to {most} are possible", release.bytes),
            );
        }
        // One document that says two things could be judged by the one and run by the other.
        let twice = [
            ("name", release.name.to_string()),
            ("version", release.version.to_string()),
            ("digest", release.digest.clone()),
            ("world", release.world.clone()),
        ];
        for (key, outside) in twice {
            let inside = release.manifest.get(key).and_then(Value::as_str);
            if inside != Some(outside.as_str()) {
                let inside = inside.unwrap_or("nothing");
                return value(
                    "manifest",
                    format!("its `{key}` says {inside}, the document {outside}"),
                );
            }
        }
        let wanted = release.manifest.get("grants").and_then(Value::as_array);
        let wanted: BTreeSet<&str> = wanted
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !wanted
            .into_iter()
            .eq(release.grants.iter().map(String::as_str))
        {
            return value("manifest", "its `grants` are others than the document's");
        }
        Ok(release)
    }
}
