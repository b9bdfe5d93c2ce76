//! Why something of a repository is not taken, in words for whoever has to do something about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::transport::FetchError;

/// What sort of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file did not come.
    Fetch,
    /// It is not what such a file has to be.
    Malformed,
    /// Too few of the right keys signed it.
    Signatures,
    /// It is older than what was verified before.
    Rollback,
    /// Files of different moments.
    Mixed,
    /// Its time is over.
    Expired,
    /// Length or digest is not the signed one.
    Content,
    /// A name that leads elsewhere.
    Name,
    /// The channel asks for what cannot be.
    Channel,
    /// Something on this device.
    Local,
}

/// Why something is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What sort of thing it is.
    pub kind: Kind,
    /// Which file.
    pub file: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub help: String,
}

impl Refusal {
    pub(crate) fn new(
        kind: Kind,
        file: &str,
        reason: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            file: file.to_owned(),
            reason: reason.into(),
            help: help.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.help)
    }
}

impl std::error::Error for Refusal {}

impl From<FetchError> for Refusal {
    fn from(error: FetchError) -> Self {
        Self::new(error.kind, &error.path, error.what, error.help)
    }
}
