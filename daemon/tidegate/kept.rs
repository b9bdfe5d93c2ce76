//! The components of the generations on record, kept on the device: what a rollback goes back to is here, whatever
//! became of the files that it came from.
//!
//! `<state-dir>/modules/<digest>.wasm` and `.json`, with `.factory` beside them where the daemon of then had the component
//! built in, `.channel` where it came over the air, or `.signed` with the key that had signed it. A file counts only when its bytes
//! have the digest that the record names. A component that cannot be kept runs
//! all the same; a rollback to it is then not possible once its own file is gone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tidegate_pipeline::{Digest, Manifest, Module, Origin};

use crate::{modules, signed};

/// Bytes of all components that are kept.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// What a component's name ends in that was built into a daemon.
const BUILT_IN: &str = "factory";
/// The same of one that came over the air.
const BROUGHT: &str = "channel";
/// The same of one that was signed; the file holds the key.
const SIGNED: &str = "signed";
/// A key is a line.
const KEY_BYTES: u64 = 1024;

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
    most_bytes: u64,
}

impl Kept {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("modules"),
            most_bytes: KEPT_BYTES,
        }
    }

    /// Keeps a module; one that is there already is left as it is. Where that cannot be it says so in the log.
    pub(crate) fn put(&self, module: &Module) {
        if let Err(error) = self.try_put(module) {
            let Manifest { name, version, .. } = &module.manifest;
            tracing::warn!(
                "module {name} {version} cannot be kept, and no rollback to it is possible once its file has gone: {error:#}"
            );
        }
    }

    fn try_put(&self, module: &Module) -> anyhow::Result<()> {
        let digest = Digest::of(&module.component);
        let (wasm, json) = self.paths(&digest);
        let as_it_is = |kept: Module| kept.origin.stands_before(module.origin);
        if json.exists() && self.get(&digest).is_ok_and(as_it_is) {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("{} cannot be made", self.dir.display()))?;
        let there = self.bytes()?;
        let bytes = there + module.component.len() as u64;
        if bytes > self.most_bytes {
            bail!(
                "{} would hold {bytes} bytes, above the bound of {}; use fewer or smaller modules",
                self.dir.display(),
                self.most_bytes
            );
        }
        // The mark goes first and comes last: never beside a manifest that it was not made for.
        for mark in [BUILT_IN, BROUGHT, SIGNED] {
            remove(&wasm.with_extension(mark))?;
        }
        write(&wasm, &module.component)?;
        // Without its manifest the component is not there.
        let manifest = serde_json::to_vec(&module.manifest)?;
        write(&json, &manifest)?;
        match module.origin {
            Origin::Factory => write(&wasm.with_extension(BUILT_IN), &[])?,
            Origin::Channel => write(&wasm.with_extension(BROUGHT), &[])?,
            Origin::Signed(key) => {
                write(&wasm.with_extension(SIGNED), key.to_string().as_bytes())?;
            }
            Origin::Local => {}
        }
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("{}", self.dir.display()))
    }

    /// A module that was kept, with the origin that it had when it was.
    ///
    /// # Errors
    /// It is not there, or is not what its name says.
    pub(crate) fn get(&self, digest: &Digest) -> anyhow::Result<Module> {
        let (wasm, _) = self.paths(digest);
        let mut module = modules::from_files(&wasm)?;
        let signed = wasm.with_extension(SIGNED);
        if wasm.with_extension(BUILT_IN).exists() {
            module.origin = Origin::Factory;
        } else if wasm.with_extension(BROUGHT).exists() {
            module.origin = Origin::Channel;
        } else if signed.exists() {
            let key = String::from_utf8(signed::read_file(&signed, KEY_BYTES)?)?;
            let key = key.parse();
            module.origin = Origin::Signed(key.with_context(|| format!("{}", signed.display()))?);
        }
        let found = Digest::of(&module.component);
        if found != *digest {
            bail!("{} has {found}: it is damaged and not run", wasm.display());
        }
        Ok(module)
    }

    /// Removes what none of these digests names.
    pub(crate) fn sweep(&self, keep: &BTreeSet<String>) {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, "{} cannot be tidied", self.dir.display());
                return;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let whole = path.extension().is_none_or(|extension| extension != "new");
            if whole && keep.contains(&format!("sha256:{stem}")) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "{} cannot be removed", path.display());
            }
        }
    }

    fn paths(&self, digest: &Digest) -> (PathBuf, PathBuf) {
        let wasm = self.dir.join(format!("{}.wasm", digest.hex()));
        let json = wasm.with_extension("json");
        (wasm, json)
    }

    fn bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.dir)? {
            bytes += entry?.metadata().map_or(0, |file| file.len());
        }
        Ok(bytes)
    }
}

/// Puts a whole file down, or none.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    });
    if written.is_err()
        && let Err(error) = fs::remove_file(&fresh)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, "{} cannot be removed", fresh.display());
    }
    written.with_context(|| format!("{} cannot be written", path.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_kept_by_its_digest_read_only_when_it_fits_and_swept_when_nobody_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        let factory = &crate::factory::FACTORY[0];
        let module = Module {
            manifest: tidegate_pipeline::Manifest::parse(factory.manifest.as_bytes()).unwrap(),
            component: factory.component.into(),
            origin: tidegate_pipeline::Origin::Factory,
        };
        let digest = Digest::of(&module.component);
        assert!(kept.get(&digest).is_err());
        kept.try_put(&module).unwrap();
        kept.try_put(&module).unwrap();
        let read = kept.get(&digest).unwrap();
        assert_eq!(read.origin, Origin::Factory);
        assert_eq!(
            (read.manifest, read.component),
            (module.manifest.clone(), module.component.clone())
        );

        let (wasm, _) = kept.paths(&digest);
        let mut bytes = module.component.to_vec();
        bytes[100] ^= 1;
        fs::write(&wasm, &bytes).unwrap();
        let error = kept.get(&digest).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        kept.try_put(&module).unwrap();
        assert!(kept.get(&digest).is_ok(), "the damage is mended");

        fs::write(wasm.with_extension("new"), "half").unwrap();
        kept.sweep(&[digest.as_str().to_owned()].into());
        assert!(kept.get(&digest).is_ok());
        assert!(!wasm.with_extension("new").exists());
        kept.sweep(&BTreeSet::new());
        assert_eq!(fs::read_dir(&kept.dir).unwrap().count(), 0);
    }

    #[test]
    fn what_is_above_the_bound_is_not_kept_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let factory = &crate::factory::FACTORY[0];
        let module = Module {
            manifest: Manifest::parse(factory.manifest.as_bytes()).unwrap(),
            component: factory.component.into(),
            origin: Origin::Local,
        };
        let kept = Kept {
            most_bytes: factory.component.len() as u64 - 1,
            ..Kept::new(dir.path())
        };
        let error = kept.try_put(&module).unwrap_err().to_string();
        assert!(error.contains("above the bound"), "{error}");
        assert_eq!(fs::read_dir(&kept.dir).unwrap().count(), 0);
        let kept = Kept::new(dir.path());
        kept.put(&module);
        let digest = Digest::of(&module.component);
        assert_eq!(kept.get(&digest).unwrap().origin, Origin::Local);

        // Once somebody answers for it, it stays so, whoever brings the same bytes again.
        let key = |digits: &str| Origin::Signed(digits.repeat(32).parse().unwrap());
        let signed = |origin| Module {
            origin,
            ..module.clone()
        };
        for (put, then) in [
            (key("0a"), key("0a")),
            (Origin::Local, key("0a")),
            (key("0b"), key("0b")),
            (Origin::Factory, Origin::Factory),
            (key("0b"), Origin::Factory),
        ] {
            kept.try_put(&signed(put)).unwrap();
            assert_eq!(kept.get(&digest).unwrap().origin, then, "{put:?}");
        }
        let mark = kept.paths(&digest).0.with_extension(SIGNED);
        kept.try_put(&signed(key("0b"))).unwrap();
        assert!(!mark.exists(), "one mark at a time");
        fs::remove_file(mark.with_extension(BUILT_IN)).unwrap();
        fs::write(&mark, "ed25519:12").unwrap();
        let error = format!("{:#}", kept.get(&digest).unwrap_err());
        assert!(error.contains("no public key"), "{error}");
    }
}
