//! Whose a file in `[modules] dir` is: the signature beside it (`tidegate_domain::signature`), verified.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use ring::signature::{ED25519, UnparsedPublicKey};
use tidegate_domain::signature::{self, PublicKey, SIGNATURE_FILE_BYTES, Signature, signed_text};
use tidegate_pipeline::Digest;

/// Whose signature stands beside a component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// A key that the site trusts.
    Trusted(PublicKey),
    /// Nobody whom the site trusts; why, as the end of a sentence that begins with the file's name.
    Nobody(String),
}

/// Judges the file of signatures beside a component by the bytes of component and manifest, as they were read.
///
/// # Errors
/// The file is there and cannot be read.
pub(crate) fn judge(
    component_file: &Path,
    component: &[u8],
    manifest: &[u8],
    trusted: &[PublicKey],
) -> anyhow::Result<Signer> {
    let (file, signatures) = match read(component_file)? {
        None => return Ok(Signer::Nobody("is not signed".to_owned())),
        Some((file, Err(why))) => {
            return Ok(Signer::Nobody(format!(
                "is not signed: {file} is damaged, {why}"
            )));
        }
        Some((file, Ok(signatures))) => (file, signatures),
    };
    let text = text(component, manifest);
    let mut why = format!("is not signed: there is no signature in {file}");
    for signature in &signatures {
        let key = signature.key;
        match (trusted.contains(&key), verifies(signature, &text)) {
            (true, true) => return Ok(Signer::Trusted(key)),
            (true, false) => {
                why = format!(
                    "is not what {key} signed: the component, its manifest or {file} changed since"
                );
            }
            (false, true) => {
                why = format!("is signed by {key}, which is not in `modules.trusted-keys`");
            }
            (false, false) => {
                why = format!(
                    "is not signed: the signature in {file} is not that of its key {key}, which is not in \
                     `modules.trusted-keys` either"
                );
            }
        }
    }
    Ok(Signer::Nobody(why))
}

/// The keys whose signatures beside a component hold, whoever trusts them; the others apart.
///
/// # Errors
/// There is a file of signatures that cannot be read or is none.
pub(crate) fn keys(
    component_file: &Path,
    component: &[u8],
    manifest: &[u8],
) -> anyhow::Result<(Vec<PublicKey>, Vec<PublicKey>)> {
    let Some((file, signatures)) = read(component_file)? else {
        return Ok((Vec::new(), Vec::new()));
    };
    let signatures = match signatures {
        Ok(signatures) => signatures,
        Err(why) => bail!("{file} is damaged, {why}"),
    };
    let text = text(component, manifest);
    let (hold, others): (Vec<_>, Vec<_>) = signatures
        .iter()
        .partition(|signature| verifies(signature, &text));
    let keys = |signatures: Vec<&Signature>| signatures.iter().map(|s| s.key).collect();
    Ok((keys(hold), keys(others)))
}

/// Reads a file that has to be one: a device or a pipe under its name would never end.
///
/// # Errors
/// It is none, cannot be read, or is larger.
pub(crate) fn read_file(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    // Without waiting for whoever writes to a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let found = file
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    if !found.is_file() {
        bail!("{} is no file", path.display());
    }
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > most {
        bail!("{} is larger than {most} bytes, its bound", path.display());
    }
    Ok(bytes)
}

/// The name of the file of signatures, and what is in it or why nothing is.
type Found = (String, Result<Vec<Signature>, signature::SignatureError>);

fn read(component_file: &Path) -> anyhow::Result<Option<Found>> {
    let path = component_file.with_extension("sig");
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let bytes = read_file(&path, SIGNATURE_FILE_BYTES)?;
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    Ok(Some((name, signature::parse(&bytes))))
}

fn text(component: &[u8], manifest: &[u8]) -> String {
    let (component, manifest) = (Digest::of(component), Digest::of(manifest));
    signed_text(component.as_str(), manifest.as_str())
}

fn verifies(signature: &Signature, text: &str) -> bool {
    UnparsedPublicKey::new(&ED25519, signature.key.as_bytes())
        .verify(text.as_bytes(), &signature.bytes)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair(seed: u8) -> (Ed25519KeyPair, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = PublicKey::new(pair.public_key().as_ref()).unwrap();
        (pair, key)
    }

    fn sign(pair: &Ed25519KeyPair, key: PublicKey, component: &[u8], manifest: &[u8]) -> Signature {
        let bytes = pair.sign(text(component, manifest).as_bytes());
        Signature {
            key,
            bytes: bytes.as_ref().to_vec(),
        }
    }

    #[test]
    fn every_changed_byte_of_every_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.wasm");
        let (pair, key) = pair(1);
        let (component, manifest) = (
            b"\0asm and what follows".to_vec(),
            b"{\"name\": \"mine\"}".to_vec(),
        );
        let sound = signature::write(&[sign(&pair, key, &component, &manifest)]).into_bytes();
        let judged = |component: &[u8], manifest: &[u8], signatures: &[u8]| {
            std::fs::write(file.with_extension("sig"), signatures).unwrap();
            judge(&file, component, manifest, &[key]).unwrap()
        };
        assert_eq!(judged(&component, &manifest, &sound), Signer::Trusted(key));
        for bit in 0..8 {
            let flipped = |bytes: &[u8], at: usize| {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= 1 << bit;
                bytes
            };
            for at in 0..component.len() {
                let judged = judged(&flipped(&component, at), &manifest, &sound);
                assert!(matches!(judged, Signer::Nobody(_)), "component, byte {at}");
            }
            for at in 0..manifest.len() {
                let judged = judged(&component, &flipped(&manifest, at), &sound);
                assert!(matches!(judged, Signer::Nobody(_)), "manifest, byte {at}");
            }
            for at in 0..sound.len() {
                let changed = flipped(&sound, at);
                // Another space, or a digit in upper case, says the same.
                let says_the_same = signature::parse(&changed)
                    .is_ok_and(|read| read == signature::parse(&sound).unwrap());
                let judged = judged(&component, &manifest, &changed);
                assert_eq!(
                    judged == Signer::Trusted(key),
                    says_the_same,
                    "signature, byte {at}: {judged:?}"
                );
            }
        }
        // What one signed is not of the other, and component and manifest are not one text.
        let swapped = judged(&manifest, &component, &sound);
        assert!(matches!(swapped, Signer::Nobody(_)));
    }

    #[test]
    fn one_signature_of_a_trusted_key_among_others_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.wasm");
        let ((ours, key), (other, stranger)) = (pair(1), pair(2));
        let sound = sign(&ours, key, b"c", b"m");
        let strange = sign(&other, stranger, b"c", b"m");
        let forged = Signature {
            key,
            ..strange.clone()
        };
        let judged = |signatures: &[Signature]| {
            std::fs::write(file.with_extension("sig"), signature::write(signatures)).unwrap();
            judge(&file, b"c", b"m", &[key]).unwrap()
        };
        assert_eq!(
            judged(&[strange.clone(), forged.clone(), sound]),
            Signer::Trusted(key)
        );
        for signatures in [
            vec![],
            vec![strange.clone()],
            vec![forged.clone()],
            vec![strange, forged],
        ] {
            assert!(
                matches!(judged(&signatures), Signer::Nobody(_)),
                "{signatures:?}"
            );
        }
        let (hold, others) = keys(&file, b"c", b"m").unwrap();
        assert_eq!((hold, others), (vec![stranger], vec![key]));
    }
}
