//! Names, versions and digests as they stand in documents and in targets' names.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// The name of a module or of a channel: 1 to 64 of `a`–`z`, `0`–`9` and `-`. It is one segment of a path and of an address,
/// and never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A semantic version without build metadata: `1.2.0`, `2.0.0-rc.1`. It is one segment of a path, and text and meaning are
/// one to one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    core: [u64; 3],
    /// What stands behind the `-`, part by part.
    pre: Vec<String>,
}

/// A text that is no name or no version.
#[derive(Debug, thiserror::Error)]
pub enum BadWord {
    /// No name.
    #[error("`{0}` is no name: one is made of 1 to 64 of a–z, 0–9 and `-`")]
    Name(String),
    /// No version.
    #[error(
        "`{0}` is no version: one is three numbers as in 1.2.0, with a further part as in 2.0.0-rc.1 where it is a \
         pre-release, and has no `+`"
    )]
    Version(String),
}

impl Name {
    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// Whether it has a part behind a `-`.
    #[must_use]
    pub fn is_pre_release(&self) -> bool {
        !self.pre.is_empty()
    }
}

impl FromStr for Name {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let sound = (1..=limits::NAME_BYTES).contains(&text.len()) && text.bytes().all(letters);
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadWord::Name(shortened(text)))
        }
    }
}

impl FromStr for Version {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| BadWord::Version(shortened(text)))
    }
}

fn parse(text: &str) -> Option<Version> {
    if text.len() > limits::NAME_BYTES {
        return None;
    }
    let (core, pre) = match text.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (text, None),
    };
    let mut parts = core.split('.').map(number);
    let core = [parts.next()??, parts.next()??, parts.next()??];
    if parts.next().is_some() {
        return None;
    }
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let mut identifiers = Vec::new();
    for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        if part.is_empty() || !part.bytes().all(letters) || (digits && number(part).is_none()) {
            return None;
        }
        identifiers.push(part.to_owned());
    }
    Some(Version {
        core,
        pre: identifiers,
    })
}

/// A number without leading zeros or sign.
fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    (plain && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// What is said of a text that may be anything.
fn shortened(text: &str) -> String {
    text.chars().take(limits::NAME_BYTES + 1).collect()
}

impl Ord for Version {
    /// Precedence by <https://semver.org/#spec-item-11>.
    fn cmp(&self, other: &Self) -> Ordering {
        let release = |version: &Self| version.pre.is_empty();
        self.core
            .cmp(&other.core)
            .then_with(|| release(self).cmp(&release(other)))
            .then_with(|| {
                let mut pairs = self.pre.iter().zip(&other.pre);
                pairs
                    .find_map(|(a, b)| Some(identifiers(a, b)).filter(|order| order.is_ne()))
                    .unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Numbers by their value and below words; words by their bytes.
fn identifiers(a: &str, b: &str) -> Ordering {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.core;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.pre.is_empty() {
            return Ok(());
        }
        write!(f, "-{}", self.pre.join("."))
    }
}

impl TryFrom<String> for Name {
    type Error = BadWord;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Version {
    type Error = BadWord;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// Whether a text is a digest: `sha256:` and 64 lower-case hex digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
