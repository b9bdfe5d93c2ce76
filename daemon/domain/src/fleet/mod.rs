//! The publisher's look at its gateways: what they report of a channel's epochs, and whether that opens the next wave of a
//! [staged](crate::channel::Staged) document or halts it. A machine without clock, files or connections.
//!
//! ```text
//! message ──parse──▶ Report ──Fleet::hear──▶ Note ──(stored)──▶ Fleet::apply ──▶ Fleet::decide ──▶ wait · widen · halt
//! ```
//! What a gateway says is believed of that gateway alone. It is one vote in a wave in which it has its place, however often and
//! in whatever order it says something: a vote only goes forward, from begun over taken to failed. So notes can come twice, and
//! what is decided follows from which there are.

mod machine;
mod report;
mod votes;

#[cfg(test)]
mod tests;

pub use machine::{Decision, Fleet, Heard, Idle, Note, Waiting};
pub use report::{Report, ReportError, reports};
pub use votes::{Gateway, Tally, Vote};
