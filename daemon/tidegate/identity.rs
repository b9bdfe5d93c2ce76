//! The gateway's own key and certificate, below the state directory: what `cert = "identity"` means, and how a certificate gets
//! there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tidegate_audit::Key;
use tidegate_tls::{Certificate, Identity, check_identity, date};

use crate::audit::identity_dir;
use crate::built;

/// The files. The key is there from the first boot on, the certificate from `tidegate identity install` on.
pub(crate) fn files(state_dir: &Path) -> Identity {
    let dir = identity_dir(state_dir);
    Identity {
        cert: dir.join("cert.pem"),
        key: Key::path(&dir),
    }
}

/// Judges a file's certificates: the first is the gateway's own, and valid now. One that is no longer, or not yet, would
/// only end the connections that there are.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn judge(state_dir: &Path, file: &Path) -> anyhow::Result<Certificate> {
    let wanted = Identity {
        cert: file.to_owned(),
        ..files(state_dir)
    };
    let certificates = check_identity(&wanted)?;
    let first = certificates.into_iter().next();
    let certificate = first.context("a file that was checked has a certificate")?;
    let now = built::clock().seconds();
    let Certificate {
        subject,
        not_before,
        not_after,
    } = &certificate;
    if *not_after < now {
        bail!(
            "the certificate of `{subject}` expired on {}: have it signed anew, the request stays the same",
            date(*not_after)
        );
    }
    if *not_before > now {
        bail!(
            "the certificate of `{subject}` begins on {}, which lies ahead: is this machine's clock set?",
            date(*not_before)
        );
    }
    Ok(certificate)
}

/// Puts certificates in place, for the owner of the state directory: whole or not at all. `before` is called when nothing is
/// wrong with them.
///
/// # Errors
/// They do not fit, or cannot be written. What was there still is.
pub(crate) fn install(
    state_dir: &Path,
    pem: &[u8],
    before: impl FnOnce(),
) -> anyhow::Result<Certificate> {
    let place = files(state_dir).cert;
    let fresh = place.with_extension("new");
    write(&fresh, pem, state_dir)
        .with_context(|| format!("{} cannot be written", fresh.display()))?;
    let certificate = judge(state_dir, &fresh)?;
    before();
    let take = || -> io::Result<()> {
        fs::rename(&fresh, &place)?;
        File::open(identity_dir(state_dir))?.sync_all()
    };
    take().with_context(|| format!("{} cannot be written", place.display()))?;
    Ok(certificate)
}

fn write(file: &Path, bytes: &[u8], state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    opened.write_all(bytes)?;
    opened.sync_all()?;
    give(state_dir, file)
}

/// What root makes for a gateway is the gateway's.
///
/// # Errors
/// As the system says.
pub(crate) fn give(state_dir: &Path, file: &Path) -> io::Result<()> {
    let (owner, found) = (fs::metadata(state_dir)?, fs::metadata(file)?);
    if (owner.uid(), owner.gid()) == (found.uid(), found.gid()) {
        return Ok(());
    }
    chown(file, Some(owner.uid()), Some(owner.gid()))
}

/// How a certificate's file is named in the audit log.
pub(crate) fn digest(pem: &[u8]) -> String {
    let hex = Sha256::digest(pem);
    let hex: String = hex.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
