//! The four roles' metadata, their signatures and the names of their files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::canonical::canonical;
use crate::error::Error;
use crate::keys::Signer;

/// What is written; readers take any 1.x.
const SPEC_VERSION: &str = "1.0.31";
/// The largest file of metadata that is read. Ten thousand targets have 2 MiB.
pub(crate) const METADATA_BYTES: u64 = 64 * 1024 * 1024;

/// A role of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says whose keys the roles have.
    Root,
    /// Says which targets there are.
    Targets,
    /// Says which metadata belong together.
    Snapshot,
    /// Says that this is still so.
    Timestamp,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// The word in metadata and in names of files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == word);
        found.ok_or_else(|| {
            Error::Value(format!(
                "`{word}` is no role: root, targets, snapshot and timestamp are there"
            ))
        })
    }
}

/// A public key as it stands in root metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublicKey {
    keytype: String,
    keyval: KeyValue,
    scheme: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyValue {
    public: String,
}

impl PublicKey {
    pub(crate) fn ed25519(public: &[u8]) -> Self {
        Self {
            keytype: "ed25519".to_owned(),
            keyval: KeyValue {
                public: hex(public),
            },
            scheme: "ed25519".to_owned(),
        }
    }

    /// As `modules.trusted-keys` takes it.
    pub(crate) fn written(&self) -> String {
        format!("{}:{}", self.keytype, self.keyval.public)
    }

    /// What it is called: SHA-256 of its canonical form, as tough demands.
    pub(crate) fn id(&self) -> String {
        // Made of texts alone, it always has one.
        let form = serde_json::to_value(self).ok().as_ref().and_then(canonical);
        hex(&Sha256::digest(form.unwrap_or_default()))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let ours = self.keytype == "ed25519" && self.scheme == "ed25519";
        unhex(&self.keyval.public).is_some_and(|public| {
            ours && UnparsedPublicKey::new(&ED25519, public)
                .verify(message, signature)
                .is_ok()
        })
    }
}

/// Whose signatures a role takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoleKeys {
    pub(crate) keyids: Vec<String>,
    pub(crate) threshold: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Root {
    #[serde(rename = "_type")]
    kind: Role,
    consistent_snapshot: bool,
    pub(crate) expires: jiff::Timestamp,
    pub(crate) keys: BTreeMap<String, PublicKey>,
    pub(crate) roles: BTreeMap<Role, RoleKeys>,
    spec_version: String,
    pub(crate) version: u64,
}

impl Root {
    /// The public keys of each role.
    pub(crate) fn public_keys(&self) -> BTreeMap<Role, Vec<String>> {
        let keys = |by: &RoleKeys| {
            let ids = by.keyids.iter();
            let keys = ids.filter_map(|id| self.keys.get(id));
            keys.map(PublicKey::written).collect()
        };
        let roles = self.roles.iter();
        roles.map(|(role, by)| (*role, keys(by))).collect()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Targets {
    #[serde(rename = "_type")]
    kind: Role,
    pub(crate) expires: jiff::Timestamp,
    spec_version: String,
    pub(crate) targets: BTreeMap<String, Info>,
    pub(crate) version: u64,
}

/// Snapshot and timestamp: which versions of other files belong to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listing {
    #[serde(rename = "_type")]
    kind: Role,
    pub(crate) expires: jiff::Timestamp,
    pub(crate) meta: BTreeMap<String, Meta>,
    spec_version: String,
    pub(crate) version: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    #[serde(flatten)]
    pub(crate) info: Info,
    pub(crate) version: u64,
}

/// Length and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    hashes: Hashes,
    pub(crate) length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hashes {
    sha256: String,
}

impl Info {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            hashes: Hashes {
                sha256: hex(&Sha256::digest(bytes)),
            },
            length: bytes.len() as u64,
        }
    }

    pub(crate) fn sha256(&self) -> &str {
        &self.hashes.sha256
    }
}

/// What the four have in common.
pub(crate) trait Metadata: Serialize + DeserializeOwned {
    fn role(&self) -> Role;
    fn version(&self) -> u64;
}

macro_rules! metadata {
    ($($kind:ty),*) => {$(
        impl Metadata for $kind {
            fn role(&self) -> Role { self.kind }
            fn version(&self) -> u64 { self.version }
        }
    )*};
}
metadata!(Root, Targets, Listing);

impl Root {
    pub(crate) fn new(expires: jiff::Timestamp) -> Self {
        Self {
            kind: Role::Root,
            consistent_snapshot: true,
            expires,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
        }
    }

    /// Gives a role other keys; keys that no role has any more go.
    pub(crate) fn assign(&mut self, role: Role, keys: &[PublicKey], threshold: usize) {
        let mut keyids: Vec<String> = keys.iter().map(PublicKey::id).collect();
        keyids.sort();
        self.keys
            .extend(keys.iter().map(|key| (key.id(), key.clone())));
        self.roles.insert(role, RoleKeys { keyids, threshold });
        let roles = &self.roles;
        self.keys
            .retain(|id, _| roles.values().any(|role| role.keyids.contains(id)));
    }
}

impl Targets {
    pub(crate) fn new(expires: jiff::Timestamp) -> Self {
        Self {
            kind: Role::Targets,
            expires,
            spec_version: SPEC_VERSION.to_owned(),
            targets: BTreeMap::new(),
            version: 1,
        }
    }
}

impl Listing {
    pub(crate) fn new(role: Role, expires: jiff::Timestamp) -> Self {
        Self {
            kind: role,
            expires,
            meta: BTreeMap::new(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    signatures: Vec<Signature>,
    signed: Value,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

/// The bytes of a file with everybody's signature.
pub(crate) fn sign<'a>(
    signed: &impl Metadata,
    signers: impl IntoIterator<Item = &'a Signer>,
) -> Result<Vec<u8>, Error> {
    let unsayable = || Error::Value("metadata that has no canonical form".to_owned());
    let signed = serde_json::to_value(signed).map_err(|_| unsayable())?;
    let message = canonical(&signed).ok_or_else(unsayable)?;
    let mut signatures: Vec<Signature> = signers
        .into_iter()
        .map(|signer| Signature {
            keyid: signer.id().to_owned(),
            sig: hex(&signer.sign(&message)),
        })
        .collect();
    signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    signatures.dedup_by(|a, b| a.keyid == b.keyid);
    let envelope =
        serde_json::to_value(Envelope { signatures, signed }).map_err(|_| unsayable())?;
    canonical(&envelope).ok_or_else(unsayable)
}

/// Reads a file that a threshold of a role's keys, as each of these roots names them, has signed.
pub(crate) fn verified<T: Metadata>(
    path: &Path,
    bytes: &[u8],
    role: Role,
    roots: &[&Root],
) -> Result<T, Error> {
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|error| Error::damaged(path, error))?;
    let message = canonical(&envelope.signed)
        .ok_or_else(|| Error::damaged(path, "a number in it is no integer"))?;
    let signed = envelope.signed;
    for root in roots {
        let by = root
            .roles
            .get(&role)
            .ok_or_else(|| Error::damaged(path, format!("no keys are named for {role}")))?;
        let sound = by.keyids.iter().filter(|id| {
            envelope.signatures.iter().any(|signature| {
                signature.keyid == **id
                    && unhex(&signature.sig).is_some_and(|sig| {
                        let key = root.keys.get(*id);
                        key.is_some_and(|key| key.verifies(&message, &sig))
                    })
            })
        });
        let sound = sound.count();
        if sound < by.threshold.max(1) {
            let problem = format!(
                "{sound} sound signatures of {role}, {} are needed",
                by.threshold
            );
            return Err(Error::damaged(path, problem));
        }
    }
    let metadata: T =
        serde_json::from_value(signed).map_err(|error| Error::damaged(path, error))?;
    if metadata.role() != role {
        let problem = format!("it is the metadata of {}, not of {role}", metadata.role());
        return Err(Error::damaged(path, problem));
    }
    Ok(metadata)
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
    rest.is_empty().then(|| bytes.collect())?
}
