//! A candidate at work beside the active chain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::outcome::{PipelineOutcome, SlotGeneration, StateDelta};
use tidegate_domain::rollout::{Evidence, Gates, Mode, Share, Side, candidate_key};
use tidegate_domain::{Arrival, Batch};

use super::compare::compare;
use crate::chain::Pipeline;
use crate::columns;
use crate::cpu::thread_time;
use crate::stats::Histogram;

/// How often evidence is stored while there is no verdict. After a crash the trial goes on from there.
const STORED_EVERY: Duration = Duration::from_secs(5);
/// Batches before the times of this process say more than those from before its start.
const BATCHES: u64 = 20;

pub(super) struct Trial {
    candidate: Pipeline,
    gates: Gates,
    /// For which series it speaks; `None` for a shadow.
    share: Option<Share>,
    /// What was stored when it began in this process.
    before: Evidence,
    /// What both had counted then.
    base: (Side, Side),
    /// What it has shown since.
    since: Evidence,
    /// CPU time of batches: of the active chain and of the candidate.
    cpu: (Histogram, Histogram),
    began: Instant,
    stored: (Instant, u64),
}

impl Trial {
    pub(super) fn new(
        candidate: Pipeline,
        active: &Pipeline,
        gates: Gates,
        before: Evidence,
        now: Instant,
    ) -> Self {
        Self {
            base: (active.stats().side(), candidate.stats().side()),
            share: (gates.mode == Mode::Canary).then(|| Share::new(gates.share)),
            candidate,
            gates,
            stored: (now, before.samples),
            before,
            since: Evidence::default(),
            cpu: (Histogram::default(), Histogram::default()),
            began: now,
        }
    }

    pub(super) fn candidate(&self) -> &Pipeline {
        &self.candidate
    }

    pub(super) fn into_candidate(self) -> Pipeline {
        self.candidate
    }

    /// See [`super::Lane::run`].
    pub(super) fn run(
        &mut self,
        active: &mut Pipeline,
        input: &Batch,
        at: (Arrival, Instant),
        out: &mut Vec<PipelineOutcome>,
    ) {
        let Some(share) = &mut self.share else {
            let (mut made, unheard) = self.both(active, input, at);
            take_states(&mut made, unheard);
            out.push(made);
            return;
        };
        input.names.iter().for_each(|name| share.see(name));
        let held: Vec<bool> = input.names.iter().map(|name| share.holds(name)).collect();
        let part = |of_share: bool| {
            columns::gather(input, input.len(), |row| {
                held[input.series[row] as usize] == of_share
            })
        };
        let (mut made, unheard) = self.both(active, &part(false), at);
        take_states(&mut made, unheard);
        let spoken = part(true);
        if spoken.is_empty() {
            out.push(made);
            return;
        }
        let failures = self.candidate.stats().failures();
        let (mut reference, mut heard) = self.both(active, &spoken, at);
        // The states of both are true, whoever is heard.
        made.state.append(&mut reference.state);
        made.state.extend(renamed(&mut heard));
        out.push(made);
        out.push(match self.candidate.stats().failures() == failures {
            true => heard,
            false => reference,
        });
    }

    /// When one of the candidate's filters is to be ticked next.
    pub(super) fn tick_at(&mut self, now: Instant) -> Option<Instant> {
        self.candidate.tick_at(now)
    }

    /// See [`super::Lane::tick`]. What both add is compared like what they make of a batch.
    pub(super) fn tick(
        &mut self,
        active: &mut Pipeline,
        (arrival, now): (Arrival, Instant),
        out: &mut Vec<PipelineOutcome>,
    ) {
        let failures = self.candidate.stats().failures();
        let share = self.share.clone();
        let tick = |chain: &mut Pipeline| {
            let began = thread_time();
            let apart = chain.tick_apart(arrival, now, |series| {
                !share.as_ref().is_some_and(|share| share.holds(series))
            });
            (apart, thread_time().saturating_sub(began))
        };
        let (old, old_time) = tick(active);
        let (new, new_time) = tick(&mut self.candidate);
        if old.is_none() && new.is_none() {
            return;
        }
        let [mut made, mut reference] = old.unwrap_or_default();
        let [unheard, mut heard] = new.unwrap_or_default();
        for (old, new) in [(&made, &unheard), (&reference, &heard)] {
            let (compared, differing) = compare(old, new, self.gates.tolerance);
            self.since.compared.add(&compared);
            self.since.differing.add(&differing);
        }
        self.count(active, old_time, new_time);
        take_states(&mut made, unheard);
        made.state.append(&mut reference.state);
        made.state.extend(renamed(&mut heard));
        out.push(made);
        out.push(match self.candidate.stats().failures() == failures {
            true => heard,
            false => reference,
        });
    }

    /// See [`super::Lane::resume`].
    pub(super) fn resume(
        &mut self,
        made: &mut PipelineOutcome,
        rows: Batch,
        filter: &str,
        ran: &[SlotGeneration],
        (arrival, now): (Arrival, Instant),
    ) {
        let unheard = self.candidate.resume(rows, filter, ran, arrival, now);
        take_states(made, unheard);
        // What was set aside may be what the candidate fails on as well: that says nothing new.
        let candidate = self.candidate.stats().side();
        let base = &mut self.base.1;
        let seen = self.since.candidate;
        base.traps = candidate.traps - seen.traps;
        base.timeouts = candidate.timeouts - seen.timeouts;
        base.invalid_outputs = candidate.invalid_outputs - seen.invalid_outputs;
        base.faults = candidate.faults - seen.faults;
    }

    /// Runs both chains on copies of the same rows, and weighs what came of it.
    pub(super) fn both(
        &mut self,
        active: &mut Pipeline,
        input: &Batch,
        (arrival, now): (Arrival, Instant),
    ) -> (PipelineOutcome, PipelineOutcome) {
        let timed = |chain: &mut Pipeline| {
            let began = thread_time();
            let made = chain.run(input, arrival, now);
            (made, thread_time().saturating_sub(began))
        };
        let (old, old_time) = timed(active);
        let (new, new_time) = timed(&mut self.candidate);
        if old.selected > 0 {
            let (compared, differing) = compare(&old, &new, self.gates.tolerance);
            let since = &mut self.since;
            since.samples += old.selected;
            since.compared.add(&compared);
            since.differing.add(&differing);
            self.count(active, old_time, new_time);
        }
        (old, new)
    }

    /// Counts a batch, or a tick, of both.
    fn count(&mut self, active: &Pipeline, old_time: Duration, new_time: Duration) {
        self.cpu.0.record(old_time);
        self.cpu.1.record(new_time);
        let since = &mut self.since;
        since.active = counted(since.active.batches + 1, active, self.base.0, &self.cpu.0);
        let batches = since.candidate.batches + 1;
        since.candidate = counted(batches, &self.candidate, self.base.1, &self.cpu.1);
    }

    /// What it has shown since it was started first.
    pub(super) fn evidence(&self, now: Instant) -> Evidence {
        let (before, since) = (&self.before, &self.since);
        let mut all = before.clone();
        all.samples += since.samples;
        all.compared.add(&since.compared);
        all.differing.add(&since.differing);
        all.active = joined(&before.active, &since.active);
        all.candidate = joined(&before.candidate, &since.candidate);
        all.elapsed += now.saturating_duration_since(self.began);
        all
    }

    /// Whether its evidence is to be stored by now.
    pub(super) fn is_due(&mut self, evidence: &Evidence, now: Instant) -> bool {
        let (at, samples) = self.stored;
        let due = now.saturating_duration_since(at) >= STORED_EVERY && samples != evidence.samples;
        if due {
            self.stored = (now, evidence.samples);
        }
        due
    }
}

fn counted(batches: u64, chain: &Pipeline, base: Side, cpu: &Histogram) -> Side {
    let now = chain.stats().side();
    Side {
        batches,
        traps: now.traps - base.traps,
        timeouts: now.timeouts - base.timeouts,
        invalid_outputs: now.invalid_outputs - base.invalid_outputs,
        faults: now.faults - base.faults,
        cpu_p99: u64::try_from(cpu.quantile(0.99).as_nanos()).unwrap_or(u64::MAX),
        memory_peak: now.memory_peak,
    }
}

fn joined(before: &Side, since: &Side) -> Side {
    Side {
        batches: before.batches + since.batches,
        traps: before.traps + since.traps,
        timeouts: before.timeouts + since.timeouts,
        invalid_outputs: before.invalid_outputs + since.invalid_outputs,
        faults: before.faults + since.faults,
        // The first calls of a process are slow, and would be all that there is.
        cpu_p99: match before.batches > 0 && since.batches < BATCHES {
            true => before.cpu_p99,
            false => since.cpu_p99,
        },
        memory_peak: before.memory_peak.max(since.memory_peak),
    }
}

/// Takes the states of an outcome that is not heard otherwise.
fn take_states(made: &mut PipelineOutcome, mut unheard: PipelineOutcome) {
    made.state.extend(renamed(&mut unheard));
}

/// A candidate's states, under its own keys.
fn renamed(unheard: &mut PipelineOutcome) -> Vec<StateDelta> {
    let states = std::mem::take(&mut unheard.state).into_iter();
    let own = |delta: StateDelta| StateDelta {
        slot: candidate_key(&delta.slot),
        ..delta
    };
    states.map(own).collect::<Vec<_>>()
}

/// The key of every slot that keeps state.
pub(super) fn stateful(chain: &Pipeline) -> Vec<Arc<str>> {
    chain.stateful()
}
