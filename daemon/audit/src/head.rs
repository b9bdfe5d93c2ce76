//! The signed head: how far the log goes, and where what is kept of it begins.
//!
//! One line of JSON in `head`, replaced as a whole after every entry. It ends in a signature, as entries do.

use serde::{Deserialize, Serialize};

use crate::entry::{NOTHING, Stamp};
use crate::hex;
use crate::key::{Key, PublicKey};

/// Put in front of what a head's signature is over.
const PURPOSE: &[u8] = b"tidegate audit head 1\n";
const SIGNATURE: &str = ",\"sig\":\"";
const END: &str = "\"}";
/// The format.
const FORMAT: u32 = 1;

/// How far a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose log it is, `[gateway] id`.
    pub gateway: String,
    /// The key that signs it.
    pub key: PublicKey,
    /// The number of the last entry; 0 before the first.
    pub number: u64,
    /// The number of the first entry that is kept.
    pub first: u64,
    /// When the head was signed, milliseconds since the epoch.
    pub time: i64,
    pub(crate) hash: [u8; 32],
    /// The hash of the entry before the first.
    pub(crate) anchor: [u8; 32],
    pub(crate) boot: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    head: u32,
    gateway: String,
    key: String,
    number: u64,
    hash: String,
    first: u64,
    anchor: String,
    time: i64,
    boot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl Head {
    /// Before the first entry.
    pub(crate) fn begin(gateway: &str, key: &Key, at: &Stamp) -> Self {
        Self {
            gateway: gateway.to_owned(),
            key: key.public(),
            number: 0,
            first: 1,
            time: at.time,
            hash: NOTHING,
            anchor: NOTHING,
            boot: at.boot.to_string(),
        }
    }

    /// The hash of the last entry, as hex digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(&self.hash)
    }

    /// The line, without its line feed.
    pub(crate) fn line(&self, key: &Key) -> String {
        let line = Line {
            head: FORMAT,
            gateway: self.gateway.clone(),
            key: self.key.to_hex(),
            number: self.number,
            hash: self.hash(),
            first: self.first,
            anchor: hex::encode(&self.anchor),
            time: self.time,
            boot: self.boot.clone(),
            sig: None,
        };
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.pop();
        let signature = key.sign(&[PURPOSE, text.as_bytes()].concat());
        format!("{text}{SIGNATURE}{}{END}", hex::encode(&signature))
    }

    /// Reads a line, and checks the signature by the key that it names. Whether that is the right one is the caller's to
    /// know.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        let none = |why: &str| format!("the signed head {why}");
        let text = std::str::from_utf8(line).map_err(|_| none("is no text"))?;
        let read: Line = serde_json::from_str(text).map_err(|_| none("cannot be read"))?;
        if read.head != FORMAT {
            return Err(none(&format!(
                "has format {}, and this version reads {FORMAT}",
                read.head
            )));
        }
        let damaged = || none("is damaged");
        let key = PublicKey::from_hex(&read.key).ok_or_else(damaged)?;
        let signature = read
            .sig
            .as_deref()
            .and_then(|sig| hex::decode(sig.as_bytes()));
        let signature: [u8; 64] = signature.ok_or_else(damaged)?;
        let tail = format!("{SIGNATURE}{}{END}", hex::encode(&signature));
        let signed = text.strip_suffix(&tail).ok_or_else(damaged)?;
        if !key.verify(&[PURPOSE, signed.as_bytes()].concat(), &signature) {
            return Err(none(
                "does not bear the signature of the key that it names: it was changed",
            ));
        }
        Ok(Self {
            gateway: read.gateway,
            key,
            number: read.number,
            first: read.first,
            time: read.time,
            hash: hex::decode(read.hash.as_bytes()).ok_or_else(damaged)?,
            anchor: hex::decode(read.anchor.as_bytes()).ok_or_else(damaged)?,
            boot: read.boot,
        })
    }
}
