//! Ed25519 keys in files: PKCS#8 in PEM (RFC 5958, RFC 8410), encrypted where a passphrase was given (RFC 8018: PBKDF2 with
//! HMAC-SHA-256, AES-256 in CBC), so that `openssl pkey` reads them.
//!
//! A key of a role lies in `<role>-<first eight digits of its id>.pem`; so it is found without the passphrase.

use std::cell::OnceCell;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pkcs8::der::pem::PemLabel;
use pkcs8::der::zeroize::Zeroizing;
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoOwned, LineEnding, SecretDocument};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::error::Error;
use crate::files;
use crate::metadata::{PublicKey, Role, Root};

/// Rounds of PBKDF2, a fifth of a second: what OWASP asks for with SHA-256
/// (<https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>).
const ROUNDS: u32 = 600_000;
/// A key's file is a few lines.
const KEY_BYTES: u64 = 16 * 1024;
/// Before the 32 bytes of the key itself: RFC 8410, section 7.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const SEED_BYTES: usize = 32;

/// What keys are encrypted with.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// As somebody typed it.
    ///
    /// # Errors
    /// There is nothing in it.
    pub fn new(text: String) -> Result<Self, Error> {
        let text = Zeroizing::new(text);
        match text.is_empty() {
            true => Err(Error::Value(
                "an empty passphrase protects no key".to_owned(),
            )),
            false => Ok(Self(text)),
        }
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// A file that cannot be read or has none.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let missing = || {
            Error::key(
                path,
                "the file of the passphrase has no first line of UTF-8",
            )
        };
        let bytes = files::read(path, KEY_BYTES)?.ok_or_else(|| {
            Error::key(path, "there is no such file, which --passphrase-file names")
        })?;
        let text = Zeroizing::new(String::from_utf8(bytes).map_err(|_| missing())?);
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(Zeroizing::new(line.to_owned()))),
            _ => Err(missing()),
        }
    }
}

/// A key that signs.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
    id: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

impl Signer {
    fn from_seed(seed: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = PublicKey::ed25519(pair.public_key().as_ref());
        let id = public.id();
        Some(Self { pair, public, id })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public key's bytes.
    pub(crate) fn public_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// The directories that keys lie in. New ones go into the first.
pub struct KeyStore {
    dirs: Vec<PathBuf>,
    /// Given, or asked for when the first key needed it.
    passphrase: OnceCell<Passphrase>,
    ask: Option<Ask>,
}

/// Asks somebody for the passphrase of a key, whose file is named.
type Ask = Box<dyn Fn(&Path) -> Result<Passphrase, Error>>;

impl KeyStore {
    /// For a key that is named by its file.
    #[must_use]
    pub fn without_dirs(passphrase: Option<Passphrase>) -> Self {
        Self {
            dirs: Vec::new(),
            passphrase: passphrase.map(OnceCell::from).unwrap_or_default(),
            ask: None,
        }
    }

    /// With somebody to ask where a key is encrypted and no passphrase was given; once, for all keys.
    #[must_use]
    pub fn asking(self, ask: impl Fn(&Path) -> Result<Passphrase, Error> + 'static) -> Self {
        Self {
            ask: Some(Box::new(ask)),
            ..self
        }
    }

    /// # Errors
    /// No directory.
    pub fn new(dirs: Vec<PathBuf>, passphrase: Option<Passphrase>) -> Result<Self, Error> {
        if dirs.is_empty() {
            return Err(Error::Value(
                "no directory of keys is named; add --keys".to_owned(),
            ));
        }
        Ok(Self {
            dirs,
            ..Self::without_dirs(passphrase)
        })
    }

    /// Makes a new key of a role and puts it down. The public part and the file's name.
    pub(crate) fn make(&self, role: Role) -> Result<(Signer, PathBuf), Error> {
        let Some(dir) = self.dirs.first() else {
            return Err(Error::Value(
                "no directory of keys is named; add --keys".to_owned(),
            ));
        };
        files::make_dir(dir, 0o700)?;
        let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
        random(seed.as_mut(), dir)?;
        let signer = Signer::from_seed(seed.as_ref())
            .ok_or_else(|| Error::key(dir, "no key could be made"))?;
        let path = dir.join(file_name(role, signer.id()));
        let pem = self.to_pem(seed.as_ref(), &path)?;
        files::write(&path, pem.as_bytes(), files::SECRET)?;
        Ok((signer, path))
    }

    /// The keys of a role that lie here: at least as many as its threshold.
    pub(crate) fn signers(&self, role: Role, root: &Root) -> Result<Vec<Signer>, Error> {
        let Some(by) = root.roles.get(&role) else {
            return Err(Error::Value(format!("the root names no keys for {role}")));
        };
        let mut signers = Vec::new();
        let mut missing = Vec::new();
        for id in &by.keyids {
            let name = file_name(role, id);
            let found = self
                .dirs
                .iter()
                .map(|dir| dir.join(&name))
                .find(|path| path.exists());
            let Some(path) = found else {
                missing.push(name);
                continue;
            };
            let signer = self.load(&path)?;
            if signer.id() != id {
                return Err(Error::key(
                    &path,
                    "it is another key than its name says; put the right one back",
                ));
            }
            signers.push(signer);
        }
        if signers.len() < by.threshold {
            let dirs: Vec<String> = self
                .dirs
                .iter()
                .map(|dir| dir.display().to_string())
                .collect();
            return Err(Error::TooFewKeys {
                role,
                threshold: by.threshold,
                found: signers.len(),
                dirs: dirs.join(", "),
                missing: missing.join(", "),
            });
        }
        Ok(signers)
    }

    /// The one key of a role that lies here, whatever repository it belongs to.
    pub(crate) fn only(&self, role: Role) -> Result<Signer, Error> {
        let mut found = Vec::new();
        for dir in &self.dirs {
            let names = files::names(dir)?.into_iter();
            let of_role = names.filter(|name| {
                let rest = name.strip_prefix(role.as_str());
                rest.is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".pem"))
            });
            found.extend(of_role.map(|name| dir.join(name)));
        }
        match &found[..] {
            [path] => self.load(path),
            _ => {
                let dirs: Vec<String> = self
                    .dirs
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect();
                let names: Vec<String> = found
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                Err(Error::Value(match names.is_empty() {
                    true => format!(
                        "no key of {role} lies in {}; name its directory by --keys, or its file by --key",
                        dirs.join(", ")
                    ),
                    false => format!(
                        "several keys of {role} are there, and one signs; name it by --key: {}",
                        names.join(", ")
                    ),
                }))
            }
        }
    }

    /// The key in a file.
    pub(crate) fn load(&self, path: &Path) -> Result<Signer, Error> {
        let rights = fs::metadata(path).map_err(Error::io("look at", path))?;
        let mode = rights.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::key(
                path,
                format!(
                    "others may read it, its mode is {mode:04o}; run `chmod 600` on it, and think about who has"
                ),
            ));
        }
        let bytes = Zeroizing::new(files::read(path, KEY_BYTES)?.unwrap_or_default());
        let unreadable = || {
            Error::key(
                path,
                "it is no private key in PEM, PKCS#8; put it back from a copy",
            )
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| unreadable())?;
        let (label, document) = SecretDocument::from_pem(text).map_err(|_| unreadable())?;
        let document = match label {
            EncryptedPrivateKeyInfoOwned::PEM_LABEL => {
                let passphrase = self.passphrase_of(path)?;
                let encrypted: EncryptedPrivateKeyInfoOwned =
                    document.decode_msg().map_err(|_| unreadable())?;
                encrypted.decrypt(passphrase.0.as_bytes()).map_err(|_| {
                    Error::key(
                        path,
                        "it has another passphrase than the one that was given",
                    )
                })?
            }
            _ => document,
        };
        let info: pkcs8::PrivateKeyInfoRef<'_> = document.decode_msg().map_err(|_| unreadable())?;
        // An octet string within the octet string: two bytes of head.
        let seed = match info.private_key.as_bytes() {
            [4, 32, seed @ ..]
                if seed.len() == SEED_BYTES && info.algorithm.oid.to_string() == "1.3.101.112" =>
            {
                seed
            }
            _ => return Err(Error::key(path, "it is no Ed25519 key")),
        };
        Signer::from_seed(seed).ok_or_else(unreadable)
    }

    fn passphrase_of(&self, path: &Path) -> Result<&Passphrase, Error> {
        if self.passphrase.get().is_none()
            && let Some(ask) = &self.ask
        {
            let asked = ask(path)?;
            return Ok(self.passphrase.get_or_init(|| asked));
        }
        self.passphrase.get().ok_or_else(|| {
            Error::key(
                path,
                "it is encrypted; name the file of its passphrase by --passphrase-file, or begin this at a terminal",
            )
        })
    }

    fn to_pem(&self, seed: &[u8], path: &Path) -> Result<Zeroizing<String>, Error> {
        let failed = |_| Error::key(path, "it could not be written as PKCS#8");
        let der = Zeroizing::new([PKCS8_HEAD.as_slice(), seed].concat());
        let document = SecretDocument::try_from(der.as_slice()).map_err(failed)?;
        let Some(passphrase) = self.passphrase.get() else {
            return document
                .to_pem("PRIVATE KEY", LineEnding::LF)
                .map_err(failed);
        };
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random(&mut salt, path)?;
        random(&mut iv, path)?;
        let failed = |_| Error::key(path, "it could not be encrypted");
        let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &salt, iv)
            .map_err(failed)?;
        let data = parameters
            .encrypt(passphrase.0.as_bytes(), document.as_bytes())
            .map_err(failed)?;
        let unwritable = |_| Error::key(path, "it could not be written as PKCS#8");
        let encrypted = EncryptedPrivateKeyInfoOwned {
            encryption_algorithm: parameters.into(),
            encrypted_data: pkcs8::der::asn1::OctetString::new(data).map_err(unwritable)?,
        };
        SecretDocument::encode_msg(&encrypted)
            .and_then(|document| {
                document.to_pem(EncryptedPrivateKeyInfoOwned::PEM_LABEL, LineEnding::LF)
            })
            .map_err(unwritable)
    }
}

pub(crate) fn file_name(role: Role, id: &str) -> String {
    format!("{role}-{}.pem", id.get(..8).unwrap_or(id))
}

fn random(bytes: &mut [u8], path: &Path) -> Result<(), Error> {
    getrandom::fill(bytes)
        .map_err(|error| Error::key(path, format!("the system gives no random bytes: {error}")))
}
