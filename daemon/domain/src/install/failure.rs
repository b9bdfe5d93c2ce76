//! What keeps an epoch from being tried, whose fault that is, and when it is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Epoch, Stage};
use crate::backoff::Backoff;

/// First and longest wait after a failure that is not the module's. Compiling costs a minute of a core: not more often.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_MOST: Duration = Duration::from_hours(1);
/// Tries of what may be the module's fault or the device's; then it counts as the module's. With the waits between them they take
/// half an hour: load passes in that time, and a module that compiles for ever has cost eight bounded compilations.
pub const UNCLEAR_TRIES: u32 = 8;
/// Reasons that are told of one epoch. A device on which everything fails in turn fills no log.
const TOLD: usize = 8;
/// Bytes of a reason that are kept.
const WHY_BYTES: usize = 1024;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The module's, its settings', or the epoch's: the same would come of another try.
    Module,
    /// The device's: its disk, memory, processes. It passes, or somebody mends it.
    Device,
    /// Either's: a compiler that ran out of time may have been slow, or have had an endless task.
    Unclear,
}

/// Why an epoch cannot be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", stage.as_str())]
pub struct Failure {
    /// What was done when it failed.
    pub stage: Stage,
    /// Whose fault it is.
    pub blame: Blame,
    /// For people.
    pub why: String,
}

/// What became of an epoch that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It is not tried again.
    Refused,
    /// It waits for another try.
    Again {
        /// This reason was not told before.
        news: bool,
    },
}

/// An epoch that is tried again. Stored, so that a restart neither begins to count anew nor tells the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retry {
    /// Name, version and digest of what it names: a document that goes on to more gateways is the same epoch to this.
    pub modules: Vec<String>,
    /// What was done when it failed last.
    pub stage: Stage,
    /// For people.
    pub why: String,
    /// Tries that failed.
    pub tries: u32,
    /// Those of them that may have been the module's fault.
    pub unclear: u32,
    /// How long is waited after the last one.
    pub wait_ms: u64,
    /// Reasons that were told.
    pub told: Vec<String>,
}

impl Retry {
    /// Of an epoch that never failed.
    pub(super) fn new(epoch: &Epoch) -> Self {
        Self {
            modules: modules(epoch),
            stage: Stage::Loading,
            why: String::new(),
            tries: 0,
            unclear: 0,
            wait_ms: 0,
            told: Vec::new(),
        }
    }

    /// Whether it is about this epoch.
    pub(super) fn is_about(&self, epoch: &Epoch) -> bool {
        self.modules == modules(epoch)
    }

    /// Takes a failure in that is not the module's alone. `random`: evenly distributed over all of `u64`.
    pub(super) fn count(&mut self, failure: &Failure, random: u64) -> Failed {
        if failure.blame == Blame::Unclear {
            self.unclear = self.unclear.saturating_add(1);
            if self.unclear >= UNCLEAR_TRIES {
                return Failed::Refused;
            }
        }
        let mut backoff = Backoff::resumed(AGAIN, AGAIN_MOST, self.tries);
        let wait = backoff.next(random);
        self.tries = self.tries.saturating_add(1);
        self.wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.stage = failure.stage;
        self.why = cut(&failure.why);
        let news = self.told.len() < TOLD && !self.told.contains(&self.why);
        if news {
            self.told.push(self.why.clone());
        }
        Failed::Again { news }
    }

    /// What is left of the wait, where so much time has passed since the last try.
    pub(super) fn left(&self, rested: Duration) -> Option<Duration> {
        let left = Duration::from_millis(self.wait_ms).saturating_sub(rested);
        (!left.is_zero()).then_some(left)
    }
}

fn modules(epoch: &Epoch) -> Vec<String> {
    let modules = epoch.modules.iter();
    modules
        .map(|module| format!("{} {} {}", module.name, module.version, module.digest))
        .collect()
}

/// The beginning of a reason.
fn cut(why: &str) -> String {
    let mut end = why.len().min(WHY_BYTES);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].to_owned()
}
