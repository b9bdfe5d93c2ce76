//! What is recorded of a pipeline's generations, and how it changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::outcome::StateChange;

use super::evidence::{Evidence, Gates, Mode, Reason};

/// Unclean exits in a row, each soon after the start, after which the generation that was active at all of them is put
/// back.
pub const BOOT_LOOP: u32 = 3;

/// Stands behind a slot's key, `pipeline/filter`, for a candidate's state. No name can hold it.
const CANDIDATE: &str = "@candidate";

/// Where a candidate's state is kept, by the key of its slot.
#[must_use]
pub fn candidate_key(slot: &str) -> Arc<str> {
    format!("{slot}{CANDIDATE}").into()
}

/// Whether a slot's key is that of a candidate.
#[must_use]
pub fn is_candidate_key(slot: &str) -> bool {
    slot.ends_with(CANDIDATE)
}

/// Everything that one slot runs: enough to make it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SlotSpec {
    /// The filter's name in the pipeline.
    pub filter: String,
    /// The module's name.
    pub module: String,
    /// Its version.
    pub version: String,
    /// `sha256:` and 64 hex digits of its component.
    pub digest: String,
    /// The slot's settings, an object.
    pub settings: serde_json::Value,
    /// `pass`, `drop` or `quarantine`.
    pub on_failure: String,
    /// Its bounds, as the module runtime writes them.
    pub limits: serde_json::Value,
    /// What the module asks for, by the words of `[policy] grants`.
    pub wants: BTreeSet<String>,
    /// What of that it was given.
    pub grants: BTreeSet<String>,
    /// The names of the secrets that the site gives it.
    pub secrets: BTreeSet<String>,
}

/// A chain: what a pipeline runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Chain {
    /// The id of its generation, see [`crate::outcome::Generation`].
    pub id: String,
    /// Its slots, in order.
    pub slots: Vec<SlotSpec>,
}

/// Two chains are the same when they run the same; the id leaves out what happens on a failure.
impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl Chain {
    /// Whether a module is in it.
    #[must_use]
    pub fn runs(&self, module: &str) -> bool {
        self.slots.iter().any(|slot| slot.module == module)
    }

    /// What a new version of a module wants beyond the version that `before` runs in the same place, in words; `None`
    /// where nothing. Another module in a place is what the configuration says, and no drift.
    #[must_use]
    pub fn drift(&self, before: &Self) -> Option<String> {
        let wanted: Vec<String> = self
            .slots
            .iter()
            .filter_map(|slot| {
                let old = before
                    .slots
                    .iter()
                    .find(|old| old.filter == slot.filter && old.module == slot.module)?;
                let more: Vec<&str> = slot
                    .wants
                    .difference(&old.wants)
                    .map(String::as_str)
                    .collect();
                (!more.is_empty()).then(|| {
                    format!(
                        "module {} {} wants {}, which {} did not",
                        slot.module,
                        slot.version,
                        more.join(", "),
                        old.version
                    )
                })
            })
            .collect();
        (!wanted.is_empty()).then(|| wanted.join("; "))
    }

    /// Whether it runs the same components as another, in the same places: then what differs is what the site wrote.
    #[must_use]
    pub fn same_modules(&self, other: &Self) -> bool {
        let modules = |chain: &Self| -> Vec<(String, String)> {
            let slots = chain.slots.iter();
            slots
                .map(|slot| (slot.filter.clone(), slot.digest.clone()))
                .collect()
        };
        modules(self) == modules(other)
    }
}

/// A candidate on trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What is tried.
    pub candidate: Chain,
    /// What it has to pass. `mode` is how it is really tried: a canary that may speak for no series is a shadow.
    pub gates: Gates,
    /// What it has shown.
    pub evidence: Evidence,
}

/// A generation that is not to be tried again as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// What was tried.
    pub chain: Chain,
    /// Why it was put back.
    pub reason: Reason,
    /// The same for people.
    pub why: String,
}

/// What became of the last candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When, nanoseconds since the epoch.
    pub at: i64,
    /// The generation that came, or went.
    pub generation: String,
    /// Why it went; `None` where it was promoted.
    pub reason: Option<Reason>,
    /// The same for people.
    pub why: String,
}

/// The generations of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// What speaks.
    pub active: Chain,
    /// What was active before it.
    pub last_good: Option<Chain>,
    /// What is tried.
    pub trial: Option<Trial>,
    /// What is not tried again.
    pub refused: Option<Refused>,
    /// What was decided last.
    pub decision: Option<Decision>,
    /// Unclean exits in a row, each soon after the start, with these generations.
    pub early_exits: u32,
}

/// What to do about what the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It runs, or is on trial.
    Keep,
    /// It runs, and the candidate is no longer asked for.
    Withdraw,
    /// It was refused before and has not changed since.
    Known,
    /// It is a new candidate.
    Try,
}

impl Record {
    /// A pipeline that nothing is known of: what is configured runs.
    #[must_use]
    pub fn new(active: Chain) -> Self {
        Self {
            active,
            ..Self::default()
        }
    }

    /// Judges what the configuration asks for.
    #[must_use]
    pub fn plan(&self, wanted: &Chain) -> Plan {
        if *wanted == self.active {
            return match self.trial {
                Some(_) => Plan::Withdraw,
                None => Plan::Keep,
            };
        }
        let tried = |trial: &Trial| trial.candidate == *wanted;
        if self.trial.as_ref().is_some_and(tried) {
            return Plan::Keep;
        }
        match &self.refused {
            Some(refused) if refused.chain == *wanted => Plan::Known,
            Some(_) | None => Plan::Try,
        }
    }

    /// Puts a candidate on trial, in the place of one that may be there.
    pub fn start(&mut self, candidate: Chain, gates: Gates) {
        self.early_exits = 0;
        self.trial = Some(Trial {
            candidate,
            gates,
            evidence: Evidence::default(),
        });
    }

    /// The candidate, or `chain` where there was no trial, is what speaks from now on.
    pub fn promote(&mut self, chain: Chain, at: i64, why: String) {
        self.decision = Some(Decision {
            at,
            generation: chain.id.clone(),
            reason: None,
            why,
        });
        self.last_good = Some(std::mem::replace(&mut self.active, chain));
        self.trial = None;
        self.refused = None;
        self.early_exits = 0;
    }

    /// The candidate goes. One that was withdrawn may come again.
    pub fn drop_candidate(&mut self, reason: Reason, why: String, at: i64) {
        if let Some(trial) = self.trial.take() {
            self.refuse(trial.candidate, reason, why, at);
        }
    }

    /// A chain is not tried, or not any more. Where it is not to blame it may come again.
    pub fn refuse(&mut self, chain: Chain, reason: Reason, why: String, at: i64) {
        self.decision = Some(Decision {
            at,
            generation: chain.id.clone(),
            reason: Some(reason),
            why: why.clone(),
        });
        self.refused = reason
            .is_its_own()
            .then_some(Refused { chain, reason, why });
        self.early_exits = 0;
    }

    /// The active generation goes, and the last known good one takes its place; false where there is none.
    pub fn put_back(&mut self, reason: Reason, why: String, at: i64) -> bool {
        let Some(good) = self.last_good.take() else {
            return false;
        };
        self.trial = None;
        let bad = std::mem::replace(&mut self.active, good);
        self.refuse(bad, reason, why, at);
        true
    }

    /// What a start does after so many early exits: the candidate is under suspicion first, then the active generation.
    /// True where something was put back.
    pub fn boot(&mut self, at: i64) -> bool {
        if self.early_exits < BOOT_LOOP {
            return false;
        }
        let exits = self.early_exits;
        let why =
            format!("the daemon ended unexpectedly soon after each of {exits} starts with it");
        if self.trial.is_some() {
            self.drop_candidate(Reason::BootLoop, why, at);
            return true;
        }
        self.put_back(Reason::BootLoop, why, at)
    }

    /// Every chain whose components are to be kept.
    pub fn chains(&self) -> impl Iterator<Item = &Chain> {
        let trial = self.trial.as_ref().map(|trial| &trial.candidate);
        std::iter::once(&self.active)
            .chain(self.last_good.as_ref())
            .chain(trial)
    }

    /// The word for its condition: `active`, `shadow` or `canary`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match &self.trial {
            None => "active",
            Some(trial) => match trial.gates.mode {
                Mode::Immediate | Mode::Canary => "canary",
                Mode::Shadow => "shadow",
            },
        }
    }
}

/// What happens to stored state when a generation changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateMove {
    /// A candidate begins with what another slot has.
    Copy {
        /// The slot's key.
        from: Arc<str>,
        /// The candidate's.
        to: Arc<str>,
    },
    /// A candidate takes over with what it has.
    Move {
        /// The candidate's key.
        from: Arc<str>,
        /// The slot's.
        to: Arc<str>,
    },
    /// A slot has this state, and nothing else.
    Set {
        /// The key.
        slot: Arc<str>,
        /// What makes the state out of nothing.
        change: StateChange,
    },
    /// A slot has no state any more.
    Drop {
        /// The key.
        slot: Arc<str>,
    },
}

/// Something that is told upwards and in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// When, nanoseconds since the epoch.
    pub time: i64,
    /// Short and stable, for programs.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// Details for programs.
    pub data: serde_json::Value,
}

/// A step of a rollout: it commits with the batch that it came with, or alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// What is recorded from now on.
    pub record: Record,
    /// What becomes of the filters' states, in order, before the batch's own changes.
    pub states: Vec<StateMove>,
    /// What is told of it.
    pub note: Option<Note>,
}
