//! What several decoders need, each piece once: CBOR, JSON, times, names of series made of keys, and what is remembered.
//!
//! Everything here takes what a stranger sent: each reader says at which byte something is wrong, is bounded in depth, and
//! allocates no more than the payload has bytes.

pub mod base64url;
pub mod cbor;
pub mod json;
mod kept;
mod path;
pub mod time;

use tidegate_sdk::{Quality, Value};

pub use kept::Kept;
pub use path::Path;

/// Levels of maps, arrays and tags, or of JSON's objects and arrays; what is deeper is refused, as the gateway does with JSON.
pub const DEPTH: usize = 32;

/// What is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The byte of the payload, from 0.
    pub at: usize,
    /// For people.
    pub what: &'static str,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "byte {}: {}", self.at, self.what)
    }
}

impl From<Malformed> for String {
    fn from(wrong: Malformed) -> Self {
        wrong.to_string()
    }
}

/// The beginning of a text that came from outside, for a message to people.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// A whole number as a reading: what 64 bits cannot hold becomes the nearest double of uncertain quality, as the gateway does
/// with JSON.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
pub fn integer(value: i128) -> (Value<'static>, Quality) {
    match i64::try_from(value) {
        Ok(value) => (Value::Int(value), Quality::Good),
        Err(_) => (Value::Float(value as f64), Quality::Uncertain),
    }
}

/// A double as a reading: what is not finite is of bad quality.
#[must_use]
pub fn float(value: f64) -> (Value<'static>, Quality) {
    let quality = if value.is_finite() {
        Quality::Good
    } else {
        Quality::Bad
    };
    (Value::Float(value), quality)
}
