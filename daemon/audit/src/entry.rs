//! An entry, and the line that it is in the log.
//!
//! A line is a JSON object whose last two members are `prev`, the SHA-256 of the line before, and `sig`, the gateway's
//! signature over everything in front of it. The hash of a line is over all of it but the line feed.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::action::Action;
use crate::hex;
use crate::key::{Key, PublicKey};

/// What a hash is before the first entry.
pub(crate) const NOTHING: [u8; 32] = [0; 32];
/// Bytes of one text in an entry's object. A longer one is cut, and says so.
const TEXT_BYTES: usize = 512;
/// Bytes of the reason, likewise.
const REASON_BYTES: usize = 1024;
/// Bytes of an entry's object; members beyond it are left out, and counted.
const OBJECT_BYTES: usize = 4096;
/// Bytes of a line. A longer one is no entry.
pub(crate) const LINE_BYTES: usize = 16 * 1024;
/// Put in front of what an entry's signature is over.
const PURPOSE: &[u8] = b"tidegate audit entry 1\n";
const SIGNATURE: &[u8] = b",\"sig\":\"";
const END: &[u8] = b"\"}";

/// When something happened, by both clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The wall clock, milliseconds since the epoch.
    pub time: i64,
    /// Milliseconds since the boot.
    pub monotonic: i64,
    /// Which boot.
    pub boot: Arc<str>,
    /// Whether the wall clock was set.
    pub synced: bool,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Actor {
    /// The daemon by itself.
    Daemon,
    /// Whoever wrote the configuration.
    Config,
    /// Somebody on this machine, over the control socket.
    Operator {
        /// The user that the kernel names.
        uid: u32,
        /// The process.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// The user that logged in, whoever they became since (`/proc/PID/loginuid`).
        #[serde(skip_serializing_if = "Option::is_none")]
        login: Option<u32>,
    },
    /// Somebody at the page or its API.
    Page {
        /// From where.
        address: String,
    },
    /// The cloud.
    Cloud {
        /// Over which uplink.
        uplink: String,
        /// The command's id.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Modules over the air.
    Deploy,
    /// The judgement of a candidate.
    Rollout,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is about to be done; another entry, `of` this one, says what came of it.
    Asked,
    /// It was done, or is with this entry.
    Done,
    /// It was not allowed, or made no sense.
    Refused,
    /// It was tried and did not succeed.
    Failed,
}

/// One act.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When.
    pub at: Stamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To what: names, versions, digests.
    pub object: Map<String, Value>,
    /// With which outcome.
    pub outcome: Outcome,
    /// Why, for people; may be empty.
    pub reason: String,
    /// The entry that asked for it.
    pub of: Option<u64>,
    /// So many more of its kind came since the last one that was written.
    pub repeated: u64,
}

impl Entry {
    /// An act that was done, on nothing in particular.
    #[must_use]
    pub fn new(at: Stamp, actor: Actor, action: Action) -> Self {
        Self {
            at,
            actor,
            action,
            object: Map::new(),
            outcome: Outcome::Done,
            reason: String::new(),
            of: None,
            repeated: 0,
        }
    }

    /// The line, without its line feed, and the line's hash.
    pub(crate) fn line(&self, number: u64, prev: &[u8; 32], key: &Key) -> (String, [u8; 32]) {
        let line = Line {
            v: 1,
            number,
            time: self.at.time,
            monotonic: self.at.monotonic,
            boot: &self.at.boot,
            synced: self.at.synced,
            actor: &self.actor,
            action: self.action,
            object: bounded(&self.object),
            outcome: self.outcome,
            reason: cut(&self.reason, REASON_BYTES),
            of: self.of,
            repeated: self.repeated,
            prev: hex::encode(prev),
        };
        // What is made of texts and numbers always has a form.
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.pop();
        let signature = key.sign(&[PURPOSE, text.as_bytes()].concat());
        text.push_str(",\"sig\":\"");
        text.push_str(&hex::encode(&signature));
        text.push_str("\"}");
        let hash = Sha256::digest(text.as_bytes()).into();
        (text, hash)
    }
}

/// An entry's object out of pairs.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    number: u64,
    time: i64,
    monotonic: i64,
    boot: &'a str,
    synced: bool,
    actor: &'a Actor,
    action: Action,
    object: Map<String, Value>,
    outcome: Outcome,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    repeated: u64,
    prev: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An object within its bound.
fn bounded(object: &Map<String, Value>) -> Map<String, Value> {
    let (mut kept, mut bytes, mut left_out) = (Map::new(), 0, 0_u64);
    for (name, value) in object {
        let value = match value {
            Value::String(text) => Value::String(cut(text, TEXT_BYTES)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => value.clone(),
        };
        let size = name.len() + value.to_string().len();
        if bytes + size > OBJECT_BYTES {
            left_out += 1;
            continue;
        }
        bytes += size;
        kept.insert(name.clone(), value);
    }
    if left_out > 0 {
        kept.insert("left-out".to_owned(), left_out.into());
    }
    kept
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!(
        "{}… ({} bytes)",
        text.get(..end).unwrap_or_default(),
        text.len()
    )
}

/// An entry as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// Its line, word for word.
    pub text: String,
    /// What it says.
    pub value: Value,
    pub(crate) prev: [u8; 32],
    pub(crate) hash: [u8; 32],
}

impl Record {
    /// Reads a line, and checks that the key signed it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn read(line: &[u8], key: &PublicKey) -> Result<Self, &'static str> {
        let record = Self::parse(line)?;
        let (signed, signature) = split(line).ok_or("it has no signature")?;
        if !key.verify(&[PURPOSE, signed].concat(), &signature) {
            return Err(
                "its signature is not the gateway's: it was changed, or made by somebody else",
            );
        }
        Ok(record)
    }

    /// The same without the signature.
    ///
    /// # Errors
    /// As [`Record::read`].
    pub(crate) fn parse(line: &[u8]) -> Result<Self, &'static str> {
        const NONE: &str = "it is no entry";
        let text = std::str::from_utf8(line).map_err(|_| NONE)?;
        let value: Value = serde_json::from_str(text).map_err(|_| NONE)?;
        let number = value["number"].as_u64().ok_or(NONE)?;
        let prev = value["prev"].as_str().ok_or(NONE)?;
        Ok(Self {
            number,
            prev: hex::decode(prev.as_bytes()).ok_or(NONE)?,
            hash: Sha256::digest(line).into(),
            text: text.to_owned(),
            value,
        })
    }
}

/// A line's signed part and its signature.
fn split(line: &[u8]) -> Option<(&[u8], [u8; 64])> {
    let rest = line.strip_suffix(END)?;
    let at = rest.len().checked_sub(128)?;
    let (head, signature) = rest.split_at_checked(at)?;
    Some((head.strip_suffix(SIGNATURE)?, hex::decode(signature)?))
}
