//! A pipeline with its generations: what is active, what is on trial, and the change from the one to the other between
//! two batches.
//!
//! A candidate is a whole chain, with state of its own. As a *shadow* it runs on copies of everything and nobody hears it.
//! As a *canary* it speaks for a part of the series: those go through both chains apart from the others, so that what is
//! derived, rejected or failed on belongs to the one part or the other, and the active chain, unheard there, keeps its
//! state whole. Where the candidate fails on them the active chain's output is taken.

mod compare;
mod swap;
mod trial;
mod tryout;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tidegate_domain::outcome::{Generation, PipelineOutcome, SlotGeneration};
use tidegate_domain::rollout::{Change, Gates, Mode, Record};
use tidegate_domain::{Arrival, Batch};

use self::trial::Trial;
use self::tryout::Trying;
pub use self::tryout::{End, Look, Tried, Tryout};
use crate::chain::Pipeline;
use crate::slot::Slot;
use crate::stats::PipelineStats;

/// A pipeline and its generations. It belongs to one worker.
pub struct Lane {
    active: Pipeline,
    trial: Option<Trial>,
    tried: Option<Trying>,
    record: Record,
    shown: Shown,
}

/// What others see of a lane, at any time.
#[derive(Clone, Debug)]
pub struct Shown(Arc<Mutex<Showing>>);

/// The generations of a lane at one moment.
#[derive(Clone, Debug)]
pub struct Showing {
    /// What speaks.
    pub generation: Arc<Generation>,
    /// Its numbers.
    pub stats: Arc<PipelineStats>,
    /// What is on trial, with its numbers.
    pub candidate: Option<(Arc<Generation>, Arc<PipelineStats>)>,
    /// What somebody tries who looks on, unheard and not on record.
    pub tried: Option<Arc<Generation>>,
    /// What is recorded of them.
    pub record: Record,
}

impl Shown {
    /// The generations now.
    #[must_use]
    pub fn now(&self) -> Showing {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Showing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// A pipeline of which `record` tells what is active. `candidate`, with its own state, goes on with the trial that is
    /// on record.
    #[must_use]
    pub fn new(
        active: Pipeline,
        record: Record,
        candidate: Option<Pipeline>,
        now: Instant,
    ) -> Self {
        let shown = Shown(Arc::new(Mutex::new(Showing {
            generation: Arc::clone(active.generation()),
            stats: active.stats(),
            candidate: None,
            tried: None,
            record: record.clone(),
        })));
        let mut lane = Self {
            trial: None,
            tried: None,
            active,
            record,
            shown,
        };
        if let (Some(candidate), Some(recorded)) = (candidate, lane.record.trial.clone()) {
            let evidence = recorded.evidence;
            let trial = Trial::new(candidate, &lane.active, recorded.gates, evidence, now);
            lane.trial = Some(trial);
            lane.show();
        }
        lane
    }

    /// Sends what the pipeline selects of a batch through its chains; see [`Pipeline::run`]. One outcome, or two where a
    /// canary speaks for some of the rows.
    pub fn run(
        &mut self,
        input: &Batch,
        arrival: Arrival,
        now: Instant,
        out: &mut Vec<PipelineOutcome>,
    ) {
        match (&mut self.trial, &mut self.tried) {
            (None, None) => out.push(self.active.run(input, arrival, now)),
            (Some(trial), _) => trial.run(&mut self.active, input, (arrival, now), out),
            (None, Some(tried)) => {
                out.push(tried.run(&mut self.active, input, (arrival, now)));
                self.look_after_tryout(now);
            }
        }
    }

    /// Has a chain, which was made without state, run on copies of what arrives from now on, for as long as somebody holds the
    /// other end of `tried` and there is no verdict. Nothing of it is heard, stored or recorded.
    pub fn try_out(
        &mut self,
        mut candidate: Pipeline,
        gates: Gates,
        tried: Tried,
        arrival: Arrival,
        now: Instant,
    ) {
        let name = self.name();
        if self.trial.is_some() {
            return tried.refuse(format!(
                "pipeline {name} has a candidate on trial; wait for its verdict, or roll it back"
            ));
        }
        if self.tried.is_some() {
            return tried.refuse(format!("another module is being tried in pipeline {name}"));
        }
        match self.copy_states(&mut candidate, arrival, now) {
            Ok(()) => {
                let trying = Trying::new(candidate, &self.active, gates, tried, now);
                self.tried = Some(trying);
                self.show();
            }
            Err(why) => tried.refuse(why),
        }
    }

    fn look_after_tryout(&mut self, now: Instant) {
        if self.tried.as_mut().is_some_and(|tried| !tried.goes_on(now)) {
            self.tried = None;
            self.show();
        }
    }

    /// When one of its filters is to be ticked next; `None` where none has ticks.
    pub fn tick_at(&mut self, now: Instant) -> Option<Instant> {
        let candidate = self.trial.as_mut().and_then(|trial| trial.tick_at(now));
        [self.active.tick_at(now), candidate]
            .into_iter()
            .flatten()
            .min()
    }

    /// Ticks the filters that are due; see [`Pipeline::tick`]. What came of it is to be stored like the outcome of a batch:
    /// nothing, one outcome, or two where a canary speaks for some of the rows.
    pub fn tick(&mut self, arrival: Arrival, now: Instant, out: &mut Vec<PipelineOutcome>) {
        let before = out.len();
        match &mut self.trial {
            None => out.extend(self.active.tick(arrival, now)),
            Some(trial) => trial.tick(&mut self.active, (arrival, now), out),
        }
        let mut place = 0;
        out.retain(|outcome| {
            place += 1;
            place <= before || !outcome.is_empty()
        });
    }

    /// Sends readings out of quarantine through the rest of the active chain; see [`Pipeline::resume`]. A candidate gets a
    /// copy for its state, and is not judged by it.
    pub fn resume(
        &mut self,
        rows: Batch,
        filter: &str,
        ran: &[SlotGeneration],
        arrival: Arrival,
        now: Instant,
    ) -> PipelineOutcome {
        let Some(trial) = &mut self.trial else {
            return self.active.resume(rows, filter, ran, arrival, now);
        };
        let copy = rows.clone();
        let mut made = self.active.resume(rows, filter, ran, arrival, now);
        trial.resume(&mut made, copy, filter, ran, (arrival, now));
        made
    }

    /// Whether a candidate is on trial, or tried: then [`Lane::judge`] is due from time to time also when nothing arrives.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.trial.is_some() || self.tried.is_some()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.active.name()
    }

    /// What others see of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// What is recorded of its generations.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record as it is, to be stored.
    #[must_use]
    pub fn recorded(&self) -> Change {
        Change {
            pipeline: self.name().into(),
            record: self.record.clone(),
            states: Vec::new(),
            note: None,
        }
    }

    fn show(&self) {
        let trial = self.trial.as_ref();
        *self.shown.lock() = Showing {
            generation: Arc::clone(self.active.generation()),
            stats: self.active.stats(),
            candidate: trial.map(|trial| {
                let candidate = trial.candidate();
                (Arc::clone(candidate.generation()), candidate.stats())
            }),
            tried: self
                .tried
                .as_ref()
                .map(|tried| Arc::clone(tried.generation())),
            record: self.record.clone(),
        };
    }

    /// What a candidate really has to pass: one that cannot be heard for a part of the series is a shadow.
    fn gates_for(&self, candidate: &Pipeline, gates: Gates) -> Gates {
        let divisible = |chain: &Pipeline| chain.slots.iter().all(Slot::is_divisible);
        let mode = match gates.mode {
            Mode::Canary if !divisible(candidate) || !divisible(&self.active) => Mode::Shadow,
            Mode::Immediate | Mode::Shadow | Mode::Canary => gates.mode,
        };
        Gates { mode, ..gates }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("active", &self.active)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}
