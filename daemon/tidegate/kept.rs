//! The components of the generations on record, kept on the device: what a rollback goes back to is here, whatever
//! became of the files that it came from.
//!
//! `<state-dir>/modules/<digest>.wasm` and `.json`. A file counts only when its bytes have the digest that the record
//! names.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tidegate_pipeline::{Digest, Module};

use crate::modules;

/// Bytes of all components that are kept. A candidate beyond is not tried: without its components no rollback is certain.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    dir: PathBuf,
}

impl Kept {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("modules"),
        }
    }

    /// Keeps a module; one that is there already is left as it is.
    ///
    /// # Errors
    /// The directory does not take it, or is full by its bound.
    pub(crate) fn put(&self, module: &Module) -> anyhow::Result<()> {
        let digest = Digest::of(&module.component);
        let (wasm, json) = self.paths(&digest);
        if json.exists() && self.get(&digest).is_ok() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("{} cannot be made", self.dir.display()))?;
        let there = self.bytes()?;
        let bytes = there + module.component.len() as u64;
        if bytes > KEPT_BYTES {
            bail!(
                "{} would hold {bytes} bytes, above the bound of {KEPT_BYTES}; use fewer or smaller modules",
                self.dir.display()
            );
        }
        write(&wasm, &module.component)?;
        // The manifest comes last: without it the component is not there.
        let manifest = serde_json::to_vec(&module.manifest)?;
        write(&json, &manifest)?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("{}", self.dir.display()))
    }

    /// A module that was kept.
    ///
    /// # Errors
    /// It is not there, or is not what its name says.
    pub(crate) fn get(&self, digest: &Digest) -> anyhow::Result<Module> {
        let (wasm, _) = self.paths(digest);
        let module = modules::from_files(&wasm)?;
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
            if keep.contains(&format!("sha256:{stem}")) {
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
    written.with_context(|| format!("{} cannot be written", path.display()))
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
        kept.put(&module).unwrap();
        kept.put(&module).unwrap();
        let read = kept.get(&digest).unwrap();
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
        kept.put(&module).unwrap();
        assert!(kept.get(&digest).is_ok(), "the damage is mended");

        kept.sweep(&[digest.as_str().to_owned()].into());
        assert!(kept.get(&digest).is_ok());
        kept.sweep(&BTreeSet::new());
        assert!(!wasm.exists());
    }
}
