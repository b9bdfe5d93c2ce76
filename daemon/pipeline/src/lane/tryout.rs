//! A candidate that nobody will ever hear: it runs on copies of what arrives while somebody looks on, and goes with them.
//!
//! What it would store, set aside or raise goes nowhere, its state lives in memory alone, and nothing of it is on record: there
//! is no way from here into a lane's generations.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tidegate_domain::outcome::{Generation, PipelineOutcome};
use tidegate_domain::rollout::{Evidence, Gates, Mode, Verdict};
use tidegate_domain::{Arrival, Batch};

use super::trial::Trial;
use crate::chain::Pipeline;
use crate::rehearsal::{self, BatchDifference};

/// Rows, and alarms, that wait to be looked at; further ones are counted in the evidence alone.
const EXAMPLES: usize = 64;

/// What somebody who tries a module holds. The lane drops the candidate when this goes.
#[derive(Debug)]
pub struct Tryout(Arc<Shared>);

/// The lane's end of it.
#[derive(Debug)]
pub struct Tried(Weak<Shared>);

/// What a tryout has come to.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whether a lane has taken it.
    pub begun: bool,
    /// What the candidate has shown.
    pub evidence: Evidence,
    /// Some of what came out otherwise since the last look.
    pub examples: BatchDifference,
    /// Why it is over, where it is.
    pub end: Option<End>,
}

/// Why a tryout is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It passed, or failed for a reason that further readings would not mend.
    Judged(Verdict),
    /// It could not begin, or go on.
    Broken(String),
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    begun: bool,
    evidence: Evidence,
    examples: BatchDifference,
    end: Option<End>,
}

impl Tryout {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Tried) {
        let shared = Arc::<Shared>::default();
        let tried = Tried(Arc::downgrade(&shared));
        (Self(shared), tried)
    }

    /// What it has come to. Takes the examples along.
    #[must_use]
    pub fn look(&self) -> Look {
        let mut state = self.0.lock();
        Look {
            begun: state.begun,
            evidence: state.evidence.clone(),
            examples: std::mem::take(&mut state.examples),
            end: state.end.clone(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tried {
    /// Tells why it cannot begin.
    pub(super) fn refuse(self, why: String) {
        self.end(End::Broken(why));
    }

    /// Does something to the state; false where nobody looks on any more.
    fn with(&self, change: impl FnOnce(&mut State)) -> bool {
        self.0
            .upgrade()
            .map(|shared| change(&mut shared.lock()))
            .is_some()
    }

    /// The first end is the one that is told.
    fn end(&self, end: End) {
        self.with(|state| {
            state.end.get_or_insert(end);
        });
    }
}

/// However a lane comes to let go of it, whoever looks on is told.
impl Drop for Tried {
    fn drop(&mut self) {
        let why = "the pipeline's chain changed, or the gateway ended or was wired anew";
        self.end(End::Broken(why.to_owned()));
    }
}

/// A tryout at work.
pub(super) struct Trying {
    trial: Trial,
    gates: Gates,
    tried: Tried,
}

impl Trying {
    /// `candidate` has the states that it begins with.
    pub(super) fn new(
        candidate: Pipeline,
        active: &Pipeline,
        gates: Gates,
        tried: Tried,
        now: Instant,
    ) -> Self {
        let gates = Gates {
            mode: Mode::Shadow,
            ..gates
        };
        tried.with(|state| state.begun = true);
        Self {
            trial: Trial::new(candidate, active, gates, Evidence::default(), now),
            gates,
            tried,
        }
    }

    pub(super) fn generation(&self) -> &Arc<Generation> {
        self.trial.candidate().generation()
    }

    /// Runs both chains on a batch and answers with what the active one made of it.
    pub(super) fn run(
        &mut self,
        active: &mut Pipeline,
        input: &Batch,
        (arrival, now): (Arrival, Instant),
    ) -> PipelineOutcome {
        let before = self.trial.evidence(now).differing.sum();
        let (made, unheard) = self.trial.both(active, input, (arrival, now));
        if self.trial.evidence(now).differing.sum() > before {
            self.tried.with(|state| {
                let kept = &mut state.examples;
                if kept.rows.len() >= EXAMPLES || kept.alarms.len() >= EXAMPLES {
                    return;
                }
                let found = rehearsal::difference(&made, &unheard);
                kept.rows.extend(found.rows);
                kept.rows.truncate(EXAMPLES);
                kept.alarms.extend(found.alarms);
                kept.alarms.truncate(EXAMPLES);
            });
        }
        made
    }

    /// Whether it goes on. Whoever looks on knows what there is to know.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let evidence = self.trial.evidence(now);
        let verdict = evidence.verdict(&self.gates);
        let over = verdict.is_some();
        let watched = self.tried.with(|state| {
            state.evidence = evidence;
            state.end = verdict.map(End::Judged);
        });
        watched && !over
    }
}

impl fmt::Debug for Trying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trying")
            .field("generation", self.generation())
            .finish_non_exhaustive()
    }
}
