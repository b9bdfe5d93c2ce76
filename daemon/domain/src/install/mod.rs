//! The installation of a channel's epoch on one gateway: what is in force, what is waited for, when it is tried and when it
//! goes back. A machine without clock, files or modules; what it knows is one value that is stored whole after each step.
//!
//! ```text
//!             wait: hold · wave · window
//!                  │
//! fetched ─────────┴─▶ rehearse ──sound──▶ trying ──every pipeline took it──▶ settled
//!                         │                  │
//!                ▲    │   │ fails            │ one pipeline put it back
//!     tried again └────┘   ▼                  ▼
//!     (the device's   refused ◀── going back, to what was in force before
//!      fault)
//! ```
//! An epoch is one: where one pipeline puts it back, all do. What was refused is not tried again until the channel names
//! something else. What failed by the device's fault is tried again, after waits that grow (`failure.rs`). A minimum version holds from the moment at which it is known, whatever is waited for.

mod epoch;
mod failure;
mod machine;
mod polls;
mod when;

#[cfg(test)]
mod tests;

pub use epoch::{Epoch, EpochModule};
pub use failure::{Blame, Failed, Failure, Retry, UNCLEAR_TRIES};
pub use machine::{Decision, Install, Next, Phase, Refused, Stage, Verdict, Wait};
pub use polls::Polls;
pub use when::{Conditions, DailyWindow, Elapsed, place};
