//! What a filter does as time passes: its `tick`, between two batches.
//!
//! A tick has no rows that could be lost. Where it fails, nothing has happened, and the next one comes in its time; of
//! the series that it is about those at fault are left out, found as the rows of a batch are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidegate_domain::limits::TICK_SERIES;
use tidegate_domain::outcome::PipelineOutcome;
use tidegate_domain::{Arrival, Batch};

use super::{Answer, Judgement, Slot, count};
use crate::bisect::{self, Part};
use crate::breaker::{Breaker, BreakerState};
use crate::columns;
use crate::contract::{Output, TickResults};
use crate::guest::{Called, Failure, Function};
use crate::state::SlotState;

/// The ticks of one slot.
pub(super) struct Ticking {
    function: Function,
    every: Duration,
    /// When the next one is; `None` until somebody has looked.
    due: Option<Instant>,
    /// The place of the record that the next one begins with: where the one before ran out of time.
    place: usize,
    /// Its own, so that ticks that fail hold back no readings.
    breaker: Breaker,
}

impl Ticking {
    pub(super) fn new(function: Function, every: Duration) -> Self {
        Self {
            function,
            every,
            due: None,
            place: 0,
            breaker: Breaker::new(),
        }
    }

    pub(super) fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// One tick is taken, the next is an interval later; those that were missed are not made up for.
    fn take(&mut self, now: Instant) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else {
            return false;
        };
        let next = due + self.every;
        self.due = Some(if next > now { next } else { now + self.every });
        true
    }
}

/// How a tick, or a part of one, ended.
struct Ended {
    /// The last thing that went wrong.
    failure: Option<Failure>,
    /// The filter works: it fails on single series at most, and finding them takes no longer than one call may.
    works: bool,
}

impl Ended {
    const WELL: Self = Self {
        failure: None,
        works: true,
    };
}

impl Slot {
    /// When its next tick is; the first is one interval after the first look.
    pub(crate) fn tick_at(&mut self, now: Instant) -> Option<Instant> {
        let ticking = self.ticking.as_mut()?;
        Some(*ticking.due.get_or_insert(now + ticking.every))
    }

    /// Makes a tick due whatever its time.
    pub(crate) fn tick_now(&mut self, now: Instant) {
        if let Some(ticking) = &mut self.ticking {
            ticking.due = Some(now);
        }
    }

    /// Ticks when the slot before it would have.
    pub(super) fn keep_time(&mut self, before: &Self) {
        if let (Some(ticking), Some(before)) = (&mut self.ticking, &before.ticking)
            && ticking.every == before.every
        {
            ticking.due = before.due;
        }
    }

    /// Calls the filter's `tick`, where that is due, and gives the rows that it adds. Alarms and state go into the
    /// outcome. All of its calls together take two deadlines of CPU time at most; the series that there was no time for
    /// are the first of the next tick.
    pub(crate) fn tick(
        &mut self,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
    ) -> Option<Batch> {
        if !self.ticking.as_mut()?.take(now) {
            return None;
        }
        let counters = &self.stats().counters;
        if !self.ticking.as_ref()?.breaker.admits(now) {
            counters.skipped_batches.fetch_add(1, Relaxed);
            return Some(Batch::default());
        }
        counters.ticks.fetch_add(1, Relaxed);
        let mut added = Batch::default();
        let ended = self.tick_all(arrival, now, outcome, &mut added);
        let breaker = &mut self.ticking.as_mut()?.breaker;
        match ended.works {
            true => breaker.succeeded(),
            false => breaker.failed(now),
        }
        if let Some(failure) = &ended.failure {
            self.stats().counters.ticks_failed.fetch_add(1, Relaxed);
            self.report(failure, "a filter failed on a tick", arrival, now);
        }
        self.tell_of_breaker("its ticks are left out for a while");
        let counters = &self.stats().counters;
        counters.derived.fetch_add(count(&added), Relaxed);
        counters.ticks_derived.fetch_add(count(&added), Relaxed);
        Some(self.counted(added))
    }

    fn tick_all(
        &mut self,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
        added: &mut Batch,
    ) -> Ended {
        let began = self.guest.time();
        let at = (arrival, now);
        let places = match &self.state {
            SlotState::Series(state) => state.places(),
            SlotState::None | SlotState::Global(_) => {
                return self.tick_some(&[], began, at, outcome, added);
            }
        };
        let mut ended = Ended::WELL;
        let mut left = places;
        let start = self.ticking.as_ref().map_or(0, |ticking| ticking.place);
        let mut place = if start < places { start } else { 0 };
        // Each begins with a whole deadline before it.
        let deadline = self.guest.limits().deadline;
        while left > 0 && self.tick_budget(began) >= deadline {
            let SlotState::Series(state) = &self.state else {
                break;
            };
            let (series, next) = state.series_in(place..places.min(place + left), TICK_SERIES);
            left -= next - place;
            place = if next < places { next } else { 0 };
            if series.is_empty() {
                continue;
            }
            let part = self.tick_some(&series, began, at, outcome, added);
            ended.works &= part.works;
            ended.failure = part.failure.or(ended.failure);
        }
        if let Some(ticking) = &mut self.ticking {
            ticking.place = if left > 0 { place } else { 0 };
        }
        ended
    }

    /// One call about these series; where it fails a second time, several about parts of them.
    fn tick_some(
        &mut self,
        series: &[Arc<str>],
        began: Duration,
        at: (Arrival, Instant),
        outcome: &mut PipelineOutcome,
        added: &mut Batch,
    ) -> Ended {
        let answer = match self.tick_once(series, began, at) {
            Err(failure) if failure.worth_a_retry() && !self.tick_budget(began).is_zero() => {
                self.stats().counters.retries.fetch_add(1, Relaxed);
                self.tick_once(series, began, at)
            }
            answered => answered,
        };
        let failure = match answer {
            Ok(judgement) => {
                self.add(judgement, outcome, added);
                return Ended::WELL;
            }
            Err(failure) => failure,
        };
        // A fault is an orderly answer: the filter works, and says that it can do nothing now.
        let mut works = matches!(failure, Failure::Fault(_));
        if series.len() > 1 && failure.worth_a_retry() {
            let parts = bisect::bisect(series.len(), |range| {
                let left = !self.tick_budget(began).is_zero();
                left.then(|| self.tick_once(&series[range], began, at))
            });
            let spent = self.guest.time().saturating_sub(began);
            works = spent <= self.guest.limits().deadline;
            for part in parts {
                match part {
                    Part::Sound(_, judgement) => self.add(judgement, outcome, added),
                    Part::Failed(range, _) => works &= range.len() == 1,
                }
            }
        }
        Ended {
            failure: Some(failure),
            works,
        }
    }

    /// CPU time that is left of a tick's.
    fn tick_budget(&self, began: Duration) -> Duration {
        let spent = self.guest.time().saturating_sub(began);
        (2 * self.guest.limits().deadline).saturating_sub(spent)
    }

    /// One call on an instance of its own. What it leaves in the state is the truth from here on.
    fn tick_once(
        &mut self,
        series: &[Arc<str>],
        began: Duration,
        (arrival, now): (Arrival, Instant),
    ) -> Result<Judgement, Failure> {
        let mut answer = self.tick_attempt(series, began, arrival, now)?;
        // Out of it for a moment: the alarms are about these rows.
        let rows = answer.verdict.derived.take().unwrap_or_default();
        let mut judgement = self.accept(&rows, series, answer, now)?;
        judgement.verdict.derived = Some(rows);
        Ok(judgement)
    }

    fn tick_attempt(
        &self,
        series: &[Arc<str>],
        began: Duration,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Answer, Failure> {
        let Some(ticking) = &self.ticking else {
            return Err(Failure::Fault("it has no tick".to_owned()));
        };
        let limits = self.guest.limits();
        let budget = self.tick_budget(began).min(limits.deadline);
        // Which rows there are is known when it has answered.
        let call = self.call(series, limits.output_rows, arrival, now);
        let called: Called<TickResults> =
            self.guest
                .call_within(budget, &ticking.function, call, (arrival.wall, series));
        let judged = match called.result {
            Ok((Ok(rows),)) => Output::adding(rows)
                .judge(0, limits)
                .and_then(|verdict| {
                    let rows = verdict.derived.as_ref().map_or(0, Batch::len);
                    match called.call.alarms.iter().find(|alarm| alarm.row >= rows) {
                        Some(alarm) => Err(format!("an alarm for row {} of {rows}", alarm.row)),
                        None => Ok(verdict),
                    }
                })
                .map_err(Failure::InvalidOutput),
            Ok((Err(fault),)) => Err(Failure::Fault(fault.message())),
            Err(failure) => Err(failure),
        };
        self.answer(judged, called.call, called.used)
    }

    fn add(&self, judgement: Judgement, outcome: &mut PipelineOutcome, added: &mut Batch) {
        let Judgement {
            verdict,
            alarms,
            state,
        } = judgement;
        let rows = verdict.derived.unwrap_or_default();
        self.stage(&rows, alarms, state, outcome);
        columns::append(added, rows);
    }
}
