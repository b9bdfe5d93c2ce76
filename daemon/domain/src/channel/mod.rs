//! What a repository of modules carries besides the metadata of The Update Framework: names of targets, the document about
//! one version of a module, and the document about what a channel's gateways run.
//!
//! ```text
//! modules/range/1.2.0.wasm            the component
//! modules/range/1.2.0.json            the release document, with the module's own manifest in it
//! modules/range/1.2.0.vectors.json    its golden vectors, where it has any
//! modules/range/1.2.0.cdx.json        software bill of materials, CycloneDX 1.5
//! modules/range/1.2.0.intoto.json     in-toto statement 1 with SLSA provenance 1
//! channels/stable.json                the channel document
//! ```
//! Both documents are versioned by `v`; keys that are not known are ignored, so that a newer publisher can talk to an older
//! gateway. Who signed them is no matter of this module.

mod document;
mod percent;
mod release;
mod staged;
mod target;
#[cfg(test)]
mod tests;
mod words;

pub use document::{Canary, Channel, Gate, Pinned, Wave};
pub use percent::{BadPercent, Percent};
pub use release::Release;
pub use staged::{OnFailure, Staged, StagedWave, WaveGate};
pub use target::{Part, Target};
pub use words::{BadWord, Name, Version, is_digest};

/// The version of both documents.
pub const DOCUMENT_VERSION: u64 = 1;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than such a document has.
    #[error("it has {got} bytes, {most} are allowed")]
    Size {
        /// Its size.
        got: usize,
        /// The bound.
        most: usize,
    },
    /// No JSON, a key that is missing or twice there, a value of another type or out of its range.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A document of a later version.
    #[error(
        "it is a document of version {0}, this is for version {DOCUMENT_VERSION}; update the daemon"
    )]
    Version(u64),
    /// A value that means nothing.
    #[error("`{key}`: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what is expected.
        problem: String,
    },
}

/// Reads a document after a look at its size and version.
fn read<T: serde::de::DeserializeOwned>(json: &[u8], most: usize) -> Result<T, DocumentError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u64,
    }
    if json.len() > most {
        let got = json.len();
        return Err(DocumentError::Size { got, most });
    }
    let Versioned { v } = serde_json::from_slice(json)?;
    if v != DOCUMENT_VERSION {
        return Err(DocumentError::Version(v));
    }
    Ok(serde_json::from_slice(json)?)
}

fn value<T>(key: &'static str, problem: impl Into<String>) -> Result<T, DocumentError> {
    let problem = problem.into();
    Err(DocumentError::Value { key, problem })
}
