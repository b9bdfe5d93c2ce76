//! The publisher's side of modules over the air: a repository of The Update Framework, version 1.0
//! (<https://theupdateframework.github.io/specification/v1.0.33/>), as a directory that any static server serves.
//!
//! ```text
//! DIR/metadata/  1.root.json 2.root.json … N.targets.json N.snapshot.json timestamp.json
//! DIR/targets/   modules/range/<sha256>.1.2.0.wasm     where python-tuf looks
//!                <sha256>.modules/range/1.2.0.wasm     where tough looks: the same file by a second name
//! ```
//! What stands in the targets is `tidegate_domain::channel`; this crate makes, signs and keeps it. A file gets its name once
//! it is whole and synced, and `timestamp.json` gets its new content last, so that whoever reads finds the repository of before
//! or that of after. One publisher at a time holds `DIR/.lock`.
//!
//! Nothing here compiles or runs a module: whoever offers one ([`Offered`]) has judged it.

mod canonical;
mod channels;
mod error;
mod files;
mod journal;
mod keys;
mod metadata;
mod module;
mod prune;
mod repository;
mod rotate;
mod sbom;
mod sign;
mod staged;
#[cfg(test)]
mod tests;

pub use channels::{Check, Order, Promotion, Published, Revocation};
pub use error::Error;
pub use journal::Journal;
pub use keys::{KeyStore, Passphrase};
pub use metadata::Role;
pub use module::{Added, Offered};
pub use repository::{Repository, Standing, Thresholds, Validity};
pub use rotate::Rotated;
pub use sign::{By, Signed};
pub use staged::{Spread, Stages, Step};
