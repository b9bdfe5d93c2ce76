//! The rollout of a new generation of a pipeline's chain: what is recorded of it, what is compared, and when it is promoted
//! or rolled back. A machine without clock or threads: evidence and times come in, the next record comes out.
//!
//! ```text
//!            start                      verdict: sound
//! active ───────────▶ active + trial ──────────────────▶ the candidate is active, the former is the last known good
//!   ▲                        │
//!   └────────────────────────┘  verdict: trap, slow, … · operator · boot loop; the candidate is refused
//! ```
//! What is recorded is stored in the transaction that makes it true (`store/src/rollouts.rs`), so that a crash finds the
//! one generation or the other.

mod evidence;
mod record;
mod share;

#[cfg(test)]
mod tests;

pub use evidence::{Evidence, Gates, Kinds, Mode, Reason, Side, Tolerance, Verdict};
pub use record::{
    BOOT_LOOP, Chain, Change, Decision, Note, Plan, Record, Refused, SlotSpec, StateMove, Trial,
    candidate_key, is_candidate_key,
};
pub use share::Share;
pub(crate) use share::place;
