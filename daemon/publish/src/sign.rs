//! Signatures of modules that reach a gateway without a repository, as files (`tidegate_domain::signature`).

use std::path::{Path, PathBuf};

use serde::Serialize;
use tidegate_domain::signature::{PublicKey, Signature, signed_text, write};

use crate::error::Error;
use crate::files;
use crate::keys::KeyStore;
use crate::metadata::{Info, Role};

/// Who signs.
#[derive(Clone, Debug)]
pub enum By {
    /// The key of a role, by the name of its file.
    Role(Role),
    /// The key in a file.
    File(PathBuf),
}

/// What was signed.
#[derive(Clone, Debug, Serialize)]
pub struct Signed {
    /// The file of the signature.
    pub file: PathBuf,
    /// Whose it is, as `modules.trusted-keys` takes it.
    pub key: PublicKey,
    /// `sha256:` and 64 hex digits of the component.
    pub component: String,
    /// The same of the manifest.
    pub manifest: String,
}

impl KeyStore {
    /// Signs a component and its manifest, and puts the signature down; what stood in that file is replaced.
    ///
    /// # Errors
    /// No key, or a file that cannot be written.
    pub fn sign(
        &self,
        by: &By,
        component: &[u8],
        manifest: &[u8],
        file: &Path,
    ) -> Result<Signed, Error> {
        let signer = match by {
            By::Role(role) => self.only(*role)?,
            By::File(path) => self.load(path)?,
        };
        let digest = |bytes| format!("sha256:{}", Info::of(bytes).sha256());
        let (component, manifest) = (digest(component), digest(manifest));
        let key = PublicKey::new(signer.public_bytes())
            .ok_or_else(|| Error::Value("the key is none of Ed25519".to_owned()))?;
        let signature = Signature {
            key,
            bytes: signer.sign(signed_text(&component, &manifest).as_bytes()),
        };
        files::write(file, write(&[signature]).as_bytes(), files::PUBLIC)?;
        Ok(Signed {
            file: file.to_owned(),
            key,
            component,
            manifest,
        })
    }
}
