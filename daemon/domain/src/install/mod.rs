//! The installation of a channel's epoch on one gateway: what is in force, what is waited for, when it is tried and when it
//! goes back. A machine without clock, files or modules; what it knows is one value that is stored whole after each step.
//!
//! ```text
//!             wait: hold · wave · window
//!                  │
//! fetched ─────────┴─▶ rehearse ──sound──▶ trying ──every pipeline took it──▶ settled
//!                         │                  │
//!                         │ fails            │ one pipeline put it back
//!                         ▼                  ▼
//!                      refused ◀── going back, to what was in force before
//! ```
//! An epoch is one: where one pipeline puts it back, all do. What was refused is not tried again until the channel names
//! something else. A minimum version holds from the moment at which it is known, whatever is waited for.

mod epoch;
mod machine;
mod polls;
mod when;

#[cfg(test)]
mod tests;

pub use epoch::{Epoch, EpochModule};
pub use machine::{Decision, Install, Next, Phase, Refused, Stage, Verdict, Wait};
pub use polls::Polls;
pub use when::{Conditions, DailyWindow, Elapsed, place};
