//! The words of Tidegate and the pure machines behind its promises.
//!
//! Nothing here knows tokio, a socket, a file or a clock: time comes in as an argument, and a state machine
//! returns what is to be done. Every other crate of the daemon depends on this one and on no other.

pub mod alarm;
pub mod backoff;
pub mod batch;
pub mod channel;
pub mod command;
pub mod cover;
pub mod delivery;
pub mod fleet;
pub mod identity;
pub mod install;
pub mod item;
pub mod ledger;
pub mod limits;
pub mod lines;
pub mod message;
pub mod outcome;
pub mod quarantine;
pub mod reading;
pub mod receive_window;
pub mod rollout;
pub mod series;
pub mod signature;
pub mod silence;
pub mod sketch;
pub mod window;

pub use batch::Batch;
pub use identity::{Identity, IdentityWindow};
pub use item::Item;
pub use ledger::Ledger;
pub use message::{AckToken, Arrival, Message};
pub use outcome::{BatchOutcome, PipelineOutcome};
pub use reading::{Kind, Quality, Value};
pub use window::{ClosedWindow, WindowKey, WindowSet};
