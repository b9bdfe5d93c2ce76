//! The gateway's key pair, Ed25519: it signs the audit log, and is what a certificate of the gateway is for.
//!
//! `<state-dir>/identity/key.pem`, PKCS#8 in PEM (RFC 5958, RFC 8410) for the gateway's own user alone, made at the first
//! boot. Its private part never leaves this file but into memory.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::{durable, hex};

/// A key's file is a few lines.
const KEY_BYTES: u64 = 16 * 1024;
/// Before the 32 bytes of the private key: RFC 8410, section 7.
const PRIVATE_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Before the 32 bytes of the public key: RFC 8410, section 4.
const PUBLIC_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const NAME: &str = "key.pem";
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// The key pair.
pub struct Key {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its public part alone.
        write!(f, "Key({})", self.public.fingerprint())
    }
}

/// The public part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or made.
    #[error("the gateway's key {} cannot be read or made; check owner and space of `gateway.state-dir`", path.display())]
    Io {
        /// Where it lies.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its file is no key, or not one's own.
    #[error(
        "the gateway's key {} is of no use: {why}. It is not replaced by itself, because the audit log and the gateway's \
         certificates stand on it: put it back from `identity export`, or move it away to begin with another",
        path.display()
    )]
    Unusable {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Key {
    /// The key in this directory; the first time, a new one. True where it is new.
    ///
    /// # Errors
    /// It cannot be read or made. One that is there is never replaced.
    pub fn load_or_make(dir: &Path) -> Result<(Self, bool), KeyError> {
        if let Some(key) = Self::load(dir)? {
            return Ok((key, false));
        }
        let path = dir.join(NAME);
        let failed = |source| KeyError::Io {
            path: path.clone(),
            source,
        };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| failed(io::Error::other(error.to_string())))?;
        durable::make_private_dir(dir).map_err(failed)?;
        let der = [PRIVATE_HEAD.as_slice(), &seed].concat();
        durable::replace(&path, pem(PRIVATE, &der).as_bytes()).map_err(failed)?;
        // Read back: what signs is what lies there.
        match Self::load(dir)? {
            Some(key) => Ok((key, true)),
            None => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }

    /// The key in this directory; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, others can read it, or it is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, KeyError> {
        let path = dir.join(NAME);
        let failed = |source| KeyError::Io {
            path: path.clone(),
            source,
        };
        let unusable = |why: &str| KeyError::Unusable {
            path: path.clone(),
            why: why.to_owned(),
        };
        let Some(text) = durable::read(&path, KEY_BYTES).map_err(failed)? else {
            return Ok(None);
        };
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(unusable(
                "others than its owner may read it; run `chmod 600` on it, and think about who has",
            ));
        }
        let der = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.starts_with(b"-----"))
            .collect::<Vec<_>>()
            .concat();
        let der = base64_decode(&der).ok_or_else(|| unusable("it is not PEM"))?;
        let seed = der
            .strip_prefix(&PRIVATE_HEAD)
            .ok_or_else(|| unusable("it is no Ed25519 key in PKCS#8"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| unusable("it is no Ed25519 key in PKCS#8"))?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref())
            .map_err(|_| unusable("its public part is none"))?;
        Ok(Some(Self {
            pair,
            public: PublicKey(public),
        }))
    }

    /// The public part.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Where the key lies in such a directory.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// A signature. Whoever asks for one puts in front what it is for, so that none can stand for another.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        // Ed25519's have this length.
        self.pair
            .sign(message)
            .as_ref()
            .try_into()
            .unwrap_or([0; 64])
    }
}

impl PublicKey {
    /// Its 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 64 hex digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text.as_bytes()).map(Self)
    }

    /// As 64 hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(&self.0)
    }

    /// What people compare: the SHA-256 of its `SubjectPublicKeyInfo`, as `openssl pkey -pubin -outform DER | sha256sum`
    /// prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(&Sha256::digest(self.der()))
    }

    /// Its `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        [PUBLIC_HEAD.as_slice(), &self.0].concat()
    }

    /// The same as PEM, which openssl reads.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem(PUBLIC, &self.der())
    }

    /// Whether a signature is this key's.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// Bytes in PEM.
#[must_use]
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let mut lines = vec![format!("-----BEGIN {label}-----")];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        lines.push(line.to_owned());
        rest = more;
    }
    lines.push(format!("-----END {label}-----\n"));
    lines.join("\n")
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let letter = |value: u32, shift: u32| {
        let index = usize::try_from(value >> shift & 63).unwrap_or_default();
        char::from(BASE64.get(index).copied().unwrap_or(b'='))
    };
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let value = at(0) << 16 | at(1) << 8 | at(2);
        text.push(letter(value, 18));
        text.push(letter(value, 12));
        text.push(if group.len() > 1 {
            letter(value, 6)
        } else {
            '='
        });
        text.push(if group.len() > 2 {
            letter(value, 0)
        } else {
            '='
        });
    }
    text
}

fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    let end = text.iter().rposition(|letter| *letter != b'=')? + 1;
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for letter in text.get(..end)? {
        let value = BASE64.iter().position(|known| known == letter)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 255).ok()?);
        }
    }
    Some(bytes)
}
