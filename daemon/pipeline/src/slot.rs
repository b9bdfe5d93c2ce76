//! One filter in its place: module, settings, grants and limits, its state, and what happens when it fails.

mod handover;
mod spec;
mod tick;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_domain::outcome::{
    AlarmChange, AlarmState, PipelineOutcome, QuarantinedReadings, Severity, SlotGeneration,
    StateChange, StateDelta, reason,
};
use tidegate_domain::rollout::SlotSpec;
use tidegate_domain::{Arrival, Batch, limits};

use crate::alarm_rate::AlarmRate;
use crate::bisect::{self, Part};
use crate::breaker::{Breaker, BreakerState};
use crate::columns;
use crate::contract::{
    BatchRef, Contents, Parameters, Results, TickParameters, TickResults, Verdict,
};
use crate::engine::{Profile, Runtime};
use crate::grants::{Directories, Grant, NotGranted};
use crate::guest::{Called, Failure, Function, Guest};
use crate::host::{Call, Context, LogRate, Secret, SeriesColumn, StagedAlarm};
use crate::inspect;
use crate::manifest::{LoadedModule, Manifest, SlotLimits, StateKind};
use crate::migrate::{MigrateParameters, MigrateResults};
use crate::state::{GlobalView, SlotState};
use crate::stats::{FilterStats, LastError, Metric, PipelineStats};
use crate::worlds::{MIGRATE, PROCESS, Role, TICK, World};

/// What happens to the rows on which the filter trapped, ran out of time or memory, or answered with something that means
/// nothing, twice. Of a batch they are the rows at fault where those can be found in time, else all of them. (Rows that a filter rejects, and batches that it answers with a fault, always go
/// to quarantine: that is an answer, not a failure.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They go on unfiltered.
    Pass,
    /// They are dropped, and counted as such.
    Drop,
    /// They are set aside, to be replayed after a fix.
    #[default]
    Quarantine,
}

/// What a slot runs and how.
#[derive(Clone, Debug)]
pub struct SlotConfig {
    /// The filter's name, unique in its pipeline. State belongs to it.
    pub filter: String,
    /// The module.
    pub module: Arc<LoadedModule>,
    /// The settings: an object, empty where there are none. Checked against the module's schema by
    /// [`crate::Pipeline::new`].
    pub settings: serde_json::Value,
    /// See [`OnFailure`].
    pub on_failure: OnFailure,
    /// Bounds of every call.
    pub limits: SlotLimits,
    /// What it may import; see [`crate::grants::granted`].
    pub grants: BTreeSet<Grant>,
    /// The directories that it may read in; see [`crate::grants::directories`].
    pub directories: Directories,
    /// The secrets that the site named for this slot, by the names that the module knows them by.
    pub secrets: BTreeMap<String, Secret>,
}

/// Why a slot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Two filters of a pipeline have the same name.
    #[error("there are two filters of this name; give one of them a `name` of its own")]
    Name,
    /// A module of another kind.
    #[error("module `{module}` is {}", .role.place())]
    Role {
        /// The module.
        module: String,
        /// What it is.
        role: Role,
    },
    /// Imports that were not granted.
    #[error(transparent)]
    Grants(#[from] NotGranted),
    /// Settings that the module's schema refuses.
    #[error("the settings do not fit module `{module}`: {}", .problems.join("; "))]
    Settings {
        /// The module.
        module: String,
        /// Everything that is wrong.
        problems: Vec<String>,
    },
    /// Ticks of a module that has none.
    #[error(
        "module `{module}` has no `tick`: remove the key `tick` from the filter, or name a module of the world `{}`",
        World::TickingFilter
    )]
    Tick {
        /// The module.
        module: String,
    },
    /// The component's types are not those of the contract.
    #[error("module `{module}` does not fit the contract, {world}: {detail}")]
    Link {
        /// The module.
        module: String,
        /// The world that its manifest names.
        world: World,
        /// Where they differ.
        detail: String,
    },
}

impl SlotError {
    /// What a component's types are at odds with.
    pub(crate) fn link(manifest: &Manifest, detail: String) -> Self {
        Self::Link {
            module: manifest.name.clone(),
            world: manifest.world,
            detail,
        }
    }
}

pub(crate) use self::handover::Handover;
use self::tick::Ticking;

/// One filter in its place.
pub(crate) struct Slot {
    spec: SlotSpec,
    filter: String,
    module: Arc<LoadedModule>,
    on_failure: OnFailure,
    guest: Guest,
    process: Function,
    /// Where the module has one.
    migrate: Option<Function>,
    /// Likewise.
    ticking: Option<Ticking>,
    context: Arc<Context>,
    state: SlotState,
    alarm_rate: AlarmRate,
    breaker: Breaker,
    /// Why the breaker opened.
    last_failure: Option<Failure>,
}

/// What one batch came to when the filter answered.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) alarms: Vec<StagedAlarm>,
    pub(crate) state: Option<StateChange>,
}

/// What a successful instance leaves behind.
struct Answer {
    verdict: Verdict,
    series: Option<SeriesColumn>,
    global: Option<GlobalView>,
    alarms: Vec<StagedAlarm>,
    metrics: BTreeMap<String, Metric>,
}

impl Slot {
    pub(crate) fn new(
        runtime: &Runtime,
        pipeline: &str,
        config: SlotConfig,
        index: usize,
        stats: Arc<PipelineStats>,
        snapshot: Option<&StateChange>,
    ) -> Result<Self, SlotError> {
        let spec = config.spec();
        let SlotConfig {
            filter,
            module,
            settings,
            on_failure,
            limits,
            grants,
            directories,
            secrets,
        } = config;
        let manifest = &module.manifest;
        let guest = Guest::in_place(
            runtime,
            &module,
            Role::Filter,
            &settings,
            (&grants, &directories),
            limits,
        )?;
        let link = |detail| SlotError::link(manifest, detail);
        let process = guest
            .function::<Parameters<'static>, Results>(PROCESS)
            .map_err(link)?;
        let migrate = match module.inspection.exports.iter().any(|e| e == MIGRATE) {
            true => Some(
                guest
                    .function::<MigrateParameters<'static>, MigrateResults>(MIGRATE)
                    .map_err(link)?,
            ),
            false => None,
        };
        let ticking = match (limits.tick.or(manifest.tick()), manifest.world.ticks()) {
            (Some(every), true) => {
                let function = guest.function::<TickParameters<'static>, TickResults>(TICK);
                Some(Ticking::new(function.map_err(link)?, every))
            }
            (Some(_), false) => {
                return Err(SlotError::Tick {
                    module: manifest.name.clone(),
                });
            }
            (None, _) => None,
        };

        stats.filters[index]
            .ticking
            .store(ticking.is_some(), Relaxed);

        let slot: Arc<str> = format!("{pipeline}/{filter}").into();
        let state = SlotState::restore(manifest.state, snapshot, &slot);
        let context = Arc::new(Context {
            slot,
            module: format!("{} {}", manifest.name, manifest.version),
            settings,
            secrets,
            directories,
            limits: *guest.limits(),
            log: LogRate::default(),
            stats,
            index,
            rehearsal: runtime.profile() == Profile::Metered,
        });
        Ok(Self {
            spec,
            filter,
            on_failure,
            guest,
            process,
            migrate,
            ticking,
            context,
            state,
            alarm_rate: AlarmRate::default(),
            breaker: Breaker::new(),
            last_failure: None,
            module,
        })
    }

    /// Sends rows through the filter and says what goes on; everything else goes into the outcome.
    pub(crate) fn run(
        &mut self,
        rows: Batch,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
    ) -> Batch {
        if rows.len() <= limits::BATCH_ROWS {
            return self.run_one(rows, arrival, now, outcome);
        }
        let mut through = Batch::default();
        let mut start = 0;
        while start < rows.len() {
            let end = (start + limits::BATCH_ROWS).min(rows.len());
            let part = columns::gather(&rows, end - start, |row| (start..end).contains(&row));
            columns::append(&mut through, self.run_one(part, arrival, now, outcome));
            start = end;
        }
        through
    }

    fn run_one(
        &mut self,
        rows: Batch,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
    ) -> Batch {
        let counters = &self.stats().counters;
        counters.rows_in.fetch_add(count(&rows), Relaxed);
        if !self.breaker.admits(now) {
            counters.skipped_batches.fetch_add(1, Relaxed);
            let failure = self.last_failure.clone();
            let failure =
                failure.unwrap_or_else(|| Failure::Trap("it failed too often".to_owned()));
            let detail = format!(
                "left out after repeated failures; the last: {}",
                failure.detail()
            );
            let through = self.by_policy(rows, failure.reason(), detail, outcome);
            return self.counted(through);
        }
        let began = self.guest.time();
        let through = match self.judge(&rows, arrival, now) {
            Ok(judgement) => {
                self.breaker.succeeded();
                self.apply(rows, judgement, outcome)
            }
            Err(failure) => {
                self.report(&failure, "a filter failed on a batch", arrival, now);
                if let Failure::Fault(message) = failure {
                    // An orderly answer: the filter works, the batch is the problem.
                    self.breaker.succeeded();
                    self.quarantine(rows, reason::FAULT, message, outcome);
                    Batch::default()
                } else {
                    let (through, works) =
                        self.isolate(rows, &failure, began, arrival, now, outcome);
                    if works {
                        self.breaker.succeeded();
                    } else {
                        self.breaker.failed(now);
                    }
                    self.last_failure = Some(failure);
                    through
                }
            }
        };
        self.tell_of_breaker("it is left out for a while; its rows go by `on-failure`");
        self.counted(through)
    }

    /// Tells when one of its breakers opens, and when both are closed again.
    fn tell_of_breaker(&self, meanwhile: &str) {
        let of_ticks = self.ticking.as_ref().map(Ticking::breaker);
        let open = [Some(self.breaker.state()), of_ticks].contains(&Some(BreakerState::Open));
        let breaker = match open {
            true => BreakerState::Open,
            false => BreakerState::Closed,
        };
        let before = self.stats().breaker.swap(breaker as u8, Relaxed);
        if before == BreakerState::Closed as u8 && open {
            tracing::error!(
                filter = &*self.context.slot,
                module = self.context.module,
                "the filter keeps failing: {meanwhile}"
            );
        } else if before == BreakerState::Open as u8 && !open {
            tracing::info!(filter = &*self.context.slot, "the filter works again");
        }
    }

    /// Looks for the rows on which it fails, so that the others go on. All of this batch's calls together take two
    /// deadlines of CPU time at most: after two timeouts nothing is left, and the batch goes by policy whole. Says besides
    /// whether the filter works: it fails on single rows, and finding them takes no longer than one call may.
    fn isolate(
        &mut self,
        rows: Batch,
        failure: &Failure,
        began: Duration,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
    ) -> (Batch, bool) {
        let whole = |slot: &Self, rows, outcome: &mut PipelineOutcome| {
            let detail = failure.detail().to_owned();
            slot.by_policy(rows, failure.reason(), detail, outcome)
        };
        if rows.len() < 2 || !failure.worth_a_retry() {
            return (whole(self, rows, outcome), false);
        }
        let deadline = self.guest.limits().deadline;
        let part =
            |range: &Range<usize>| columns::gather(&rows, range.len(), |row| range.contains(&row));
        let parts = bisect::bisect(rows.len(), |range| {
            let spent = self.guest.time().saturating_sub(began);
            let budget = (2 * deadline).saturating_sub(spent).min(deadline);
            if budget.is_zero() {
                return None;
            }
            let rows = part(&range);
            let answer = self.attempt(&rows, arrival, now, Some(budget));
            Some(answer.and_then(|answer| self.accept(&rows, &rows.names, answer, now)))
        });
        if parts.iter().all(|part| matches!(part, Part::Failed(..))) {
            return (whole(self, rows, outcome), false);
        }
        let mut works = self.guest.time().saturating_sub(began) <= deadline;
        let mut through = Batch::default();
        for found in parts {
            let went_on = match found {
                Part::Sound(range, judgement) => self.apply(part(&range), judgement, outcome),
                Part::Failed(range, Some(Failure::Fault(message))) => {
                    self.quarantine(part(&range), reason::FAULT, message, outcome);
                    Batch::default()
                }
                Part::Failed(range, found) => {
                    works &= range.len() == 1;
                    let why = found.as_ref().unwrap_or(failure);
                    let detail = why.detail().to_owned();
                    self.by_policy(part(&range), why.reason(), detail, outcome)
                }
            };
            columns::append(&mut through, went_on);
        }
        (through, works)
    }

    fn counted(&self, through: Batch) -> Batch {
        let rows_out = &self.stats().counters.rows_out;
        rows_out.fetch_add(count(&through), Relaxed);
        through
    }

    /// Asks the filter, a second time on a fresh instance where that can help. What the filter kept in its state is the
    /// truth from here on: a commit that fails is tried again with the same outcome, never with the same input.
    pub(crate) fn judge(
        &mut self,
        rows: &Batch,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Judgement, Failure> {
        let answer = match self.attempt(rows, arrival, now, None) {
            Err(failure) if failure.worth_a_retry() => {
                self.stats().counters.retries.fetch_add(1, Relaxed);
                self.attempt(rows, arrival, now, None)
            }
            answered => answered,
        }?;
        self.accept(rows, &rows.names, answer, now)
    }

    /// Makes what an instance left behind the truth. Alarms are about `rows`, records of state about `names`.
    fn accept(
        &mut self,
        rows: &Batch,
        names: &[Arc<str>],
        answer: Answer,
        now: Instant,
    ) -> Result<Judgement, Failure> {
        let limits = *self.guest.limits();
        self.alarm_rate
            .take(rows, &answer.alarms, limits.alarms_per_minute, now)
            .map_err(|detail| {
                let failure = Failure::InvalidOutput(detail);
                self.context.stats().failed_by(&failure);
                failure
            })?;
        let state = match (&mut self.state, answer.series, answer.global) {
            (SlotState::Series(state), Some(column), _) => state
                .replace(names, &column.before, &column.after, limits.state_series)
                .map_err(|error| Failure::Fault(error.to_string()))?,
            (SlotState::Global(state), _, Some(view)) => view.commit(state),
            (SlotState::None | SlotState::Series(_) | SlotState::Global(_), _, _) => None,
        };
        self.stats()
            .add_metrics(answer.metrics, limits.metric_names);
        Ok(Judgement {
            verdict: answer.verdict,
            alarms: answer.alarms,
            state,
        })
    }

    /// One call on an instance of its own, which is gone afterwards whatever happened in it; within the slot's deadline
    /// or a CPU time of its own.
    fn attempt(
        &self,
        rows: &Batch,
        arrival: Arrival,
        now: Instant,
        budget: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let call = self.call(&rows.names, rows.len(), arrival, now);
        let parameters: Parameters<'_> = (BatchRef::from(rows),);
        let called: Called<Results> = match budget {
            None => self.guest.call(&self.process, call, parameters),
            Some(budget) => self
                .guest
                .call_within(budget, &self.process, call, parameters),
        };
        let judged = match called.result {
            Ok((Ok(output),)) => output
                .judge(rows.len(), self.guest.limits())
                .map_err(Failure::InvalidOutput),
            Ok((Err(fault),)) => Err(Failure::Fault(fault.message())),
            Err(failure) => Err(failure),
        };
        self.answer(judged, called.call, called.used)
    }

    /// What a call about the series `names` and so many rows sees.
    fn call(&self, names: &[Arc<str>], rows: usize, arrival: Arrival, now: Instant) -> Call {
        Call {
            rows,
            series: match &self.state {
                SlotState::Series(state) => Some(SeriesColumn::new(state.column(names))),
                SlotState::None | SlotState::Global(_) => None,
            },
            global: match &self.state {
                SlotState::Global(state) => Some(GlobalView::new(state, self.guest.limits())),
                SlotState::None | SlotState::Series(_) => None,
            },
            ..Call::new(&self.context, now, arrival.wall)
        }
    }

    /// Counts a call, and takes what it left behind where it succeeded.
    fn answer(
        &self,
        judged: Result<Verdict, Failure>,
        call: Call,
        used: Duration,
    ) -> Result<Answer, Failure> {
        self.stats().called(used, call.memory.peak);
        if let Err(failure) = &judged {
            self.stats().failed_by(failure);
        }
        Ok(Answer {
            verdict: judged?,
            series: call.series,
            global: call.global,
            alarms: call.alarms,
            metrics: call.metrics,
        })
    }

    /// Carries out what the filter said.
    fn apply(&self, mut rows: Batch, judgement: Judgement, outcome: &mut PipelineOutcome) -> Batch {
        let Judgement {
            verdict,
            alarms,
            state,
        } = judgement;
        let entered = rows.len();
        self.stage(&rows, alarms, state, outcome);
        let rejected = verdict.rejected.len();
        self.reject(&rows, verdict.rejected, outcome);

        let mut through = match (verdict.contents, &verdict.kept) {
            (Contents::Input, None) => rows,
            (Contents::Input, Some(mask)) => {
                columns::retain(&mut rows, mask);
                rows
            }
            (Contents::Whole(mut changed), Some(mask)) => {
                columns::retain(&mut changed, mask);
                changed
            }
            (Contents::Whole(changed), None) | (Contents::Kept(changed), _) => changed,
        };
        let filtered = (entered - through.len() - rejected) as u64;
        let derived = verdict.derived.as_ref().map_or(0, count);
        outcome.filtered += filtered;
        outcome.derived += derived;
        let counters = &self.stats().counters;
        counters.filtered.fetch_add(filtered, Relaxed);
        counters.derived.fetch_add(derived, Relaxed);
        counters.rejected.fetch_add(rejected as u64, Relaxed);
        if let Some(derived) = verdict.derived {
            columns::append(&mut through, derived);
        }
        through
    }

    /// Alarms and state go into the outcome.
    fn stage(
        &self,
        rows: &Batch,
        alarms: Vec<StagedAlarm>,
        state: Option<StateChange>,
        outcome: &mut PipelineOutcome,
    ) {
        outcome.alarms.extend(
            alarms
                .into_iter()
                .map(|alarm| alarm_change(&self.filter, rows, alarm)),
        );
        outcome.state.extend(state.map(|change| StateDelta {
            slot: Arc::clone(&self.context.slot),
            change,
        }));
    }

    /// One entry in quarantine for every reason, in the order in which the reasons first appear.
    fn reject(&self, rows: &Batch, rejected: Vec<(usize, String)>, outcome: &mut PipelineOutcome) {
        let mut order: Vec<String> = Vec::new();
        let mut by_reason: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (row, reason) in rejected {
            if let Some(rows) = by_reason.get_mut(&reason) {
                rows.insert(row);
            } else {
                order.push(reason.clone());
                by_reason.insert(reason, BTreeSet::from([row]));
            }
        }
        for detail in order {
            let of_reason = by_reason.remove(&detail).unwrap_or_default();
            let set_aside = columns::gather(rows, of_reason.len(), |row| of_reason.contains(&row));
            self.quarantine(set_aside, reason::REJECTED, detail, outcome);
        }
    }

    fn by_policy(
        &self,
        rows: Batch,
        reason: &'static str,
        detail: String,
        outcome: &mut PipelineOutcome,
    ) -> Batch {
        let counters = &self.stats().counters;
        match self.on_failure {
            OnFailure::Pass => {
                counters.passed_on_failure.fetch_add(count(&rows), Relaxed);
                rows
            }
            OnFailure::Drop => {
                let dropped = outcome.dropped.entry(reason::FILTER_FAILURE).or_default();
                *dropped += count(&rows);
                counters.dropped.fetch_add(count(&rows), Relaxed);
                Batch::default()
            }
            OnFailure::Quarantine => {
                self.quarantine(rows, reason, detail, outcome);
                Batch::default()
            }
        }
    }

    fn quarantine(
        &self,
        rows: Batch,
        reason: &'static str,
        detail: String,
        outcome: &mut PipelineOutcome,
    ) {
        let counters = &self.stats().counters;
        counters.quarantined.fetch_add(count(&rows), Relaxed);
        outcome.quarantined.push(QuarantinedReadings {
            filter: self.filter.clone(),
            reason,
            detail,
            rows,
        });
    }

    fn report(&self, failure: &Failure, what: &str, arrival: Arrival, now: Instant) {
        if self.context.log.admits(now, limits::LOG_LINES_PER_SECOND) {
            tracing::warn!(
                filter = &*self.context.slot,
                module = self.context.module,
                reason = failure.reason(),
                detail = failure.detail(),
                "{what}"
            );
        }
        self.stats().failed(LastError {
            reason: failure.reason(),
            detail: failure.detail().to_owned(),
            at: arrival.wall,
        });
    }

    fn stats(&self) -> &FilterStats {
        self.context.stats()
    }

    /// What is recorded with every row that this slot has handled.
    pub(crate) fn generation(&self, grants: &BTreeSet<Grant>) -> SlotGeneration {
        let manifest = &self.module.manifest;
        let secrets: Vec<&String> = self.context.secrets.keys().collect();
        // Maps of serde_json are sorted: equal settings give equal text.
        let mut text = serde_json::json!({
            "settings": self.context.settings,
            "grants": grants,
            "secrets": secrets,
            "limits": self.guest.limits(),
        });
        // Only where there are any, so that all others have the id that they had before there were directories.
        if !self.context.directories.is_empty() {
            text["directories"] = serde_json::json!(self.context.directories);
        }
        let text = text.to_string();
        SlotGeneration {
            filter: self.filter.clone(),
            module: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: self.module.inspection.digest.as_str().to_owned(),
            settings: inspect::hex(&Sha256::digest(text.as_bytes())),
        }
    }

    /// Everything that it runs.
    pub(crate) fn spec(&self) -> &SlotSpec {
        &self.spec
    }

    /// The filter's name in the pipeline.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    /// `pipeline/filter` where the filter keeps state.
    pub(crate) fn state_key(&self) -> Option<Arc<str>> {
        (self.module.manifest.state != StateKind::None).then(|| Arc::clone(&self.context.slot))
    }
}

fn count(rows: &Batch) -> u64 {
    rows.len() as u64
}

fn alarm_change(filter: &str, rows: &Batch, alarm: StagedAlarm) -> AlarmChange {
    let StagedAlarm { row, raised, code } = alarm;
    let (state, severity, text) = match raised {
        Some((severity, text)) => (AlarmState::Raised, severity, text),
        None => (AlarmState::Cleared, Severity::Info, String::new()),
    };
    AlarmChange {
        filter: filter.to_owned(),
        series: Arc::clone(rows.name(row)),
        time: rows.time[row],
        state,
        severity,
        code,
        text,
        value: rows.value(row).as_number(),
    }
}
