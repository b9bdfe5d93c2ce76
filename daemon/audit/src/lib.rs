//! The audit log: what was done to this gateway, by whom, and what came of it, so that somebody else can believe it later.
//!
//! Append-only, in files of its own beside the database. Every entry names the hash of the one before and bears a signature
//! of the gateway's key; a signed head says how far the log goes, so that its end cannot be cut off. It is bounded: the
//! oldest segment goes when a new one does not fit, and the head says where the rest begins and on which hash it stands.
//!
//! | file | what |
//! |---|---|
//! | `entry` | an entry, and its line |
//! | `action` | what can be recorded, and which control each record shows |
//! | `key`, `request` | the gateway's key pair, and a certificate request of it |
//! | `head` | the signed head |
//! | `log` | the log that is written |
//! | `opening` | what a start finds, after a power cut too |
//! | `verify` | whether a log, or evidence that was exported, is whole |
//! | `evidence` | the export for an auditor |
//!
//! Nothing here has a thread, a channel or a clock: times come in.

mod action;
mod durable;
mod entry;
mod evidence;
mod faults;
mod head;
mod hex;
mod key;
mod log;
mod opening;
mod request;
mod segments;
mod verify;

#[cfg(test)]
mod tests;

pub use action::{Action, CONTROLS, Control};
pub use entry::{Actor, Entry, Outcome, Record, Stamp, object};
pub use evidence::{Export, export, verify_export};
#[cfg(feature = "test-faults")]
pub use faults::cut_after;
pub use head::Head;
pub use key::{Key, KeyError, PublicKey};
pub use log::{Appended, Log, LogError};
pub use opening::{Begun, Opened};
pub use verify::{Fault, Verified, newest, read, verify};
