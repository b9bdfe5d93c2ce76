//! A driver module in its place: a poll of its buses, readings out, with its state and with what happens when it fails.
//!
//! Every poll has an instance of its own, bounded in CPU time as every other call and in the time that its buses take besides. The
//! readings come out as lines, so that they go the way of every other source's: queue, pipelines, store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidegate_domain::lines::write_reading;
use tidegate_domain::outcome::{StateChange, StateDelta};
use tidegate_domain::{Batch, Quality, Value, limits};

use crate::breaker::{Breaker, BreakerState};
use crate::buses::{BusRefusal, Buses, PollBuses};
use crate::contract::{Fault, GuestBatch, bytes};
use crate::engine::{Profile, Runtime};
use crate::grants::{Directories, Grant};
use crate::guest::{Called, Failure, Function, Guest};
use crate::host::{Call, Context, LogRate};
use crate::manifest::{LoadedModule, SlotLimits};
use crate::slot::SlotError;
use crate::state::{GlobalView, SlotState};
use crate::stats::{FilterStats, LastError, PipelineStats};
use crate::worlds::{POLL, Role};

/// The name of a driver in its statistics.
const NAME: &str = "driver";

/// What a source's driver runs and how.
#[derive(Debug)]
pub struct DriverConfig {
    /// The source's name. Its series are below it; state belongs to it and the module.
    pub source: String,
    /// The module.
    pub module: Arc<LoadedModule>,
    /// The settings: an object, empty where there are none.
    pub settings: serde_json::Value,
    /// Bounds of every call.
    pub limits: SlotLimits,
    /// What the site's policy gives and the manifest asks for. What is in `buses` comes on top, where the manifest asks for it.
    pub grants: BTreeSet<Grant>,
    /// What the source hands in.
    pub buses: Buses,
    /// How long a poll may take, its buses included.
    pub timeout: Duration,
}

/// What a poll came to.
#[derive(Clone, Debug, Default)]
pub struct DriverPoll {
    /// The readings, as [`lines`](tidegate_domain::lines) has them.
    pub lines: String,
    /// What became of the driver's state; it is the truth once it is committed with the readings.
    pub state: Vec<StateDelta>,
    /// Why there are none, or only bad ones.
    pub trouble: Option<String>,
    /// What it reached for and was not handed.
    pub refused: Vec<BusRefusal>,
}

/// The driver of one source.
pub struct ModuleDriver {
    source: String,
    guest: Guest,
    poll: Function,
    context: Arc<Context>,
    state: SlotState,
    breaker: Breaker,
    last_failure: Option<String>,
    buses: Buses,
    timeout: Duration,
    /// The series of the last poll that brought some; empty once they were told as lost.
    known: Vec<Arc<str>>,
}

impl std::fmt::Debug for ModuleDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleDriver")
            .field("source", &self.source)
            .field("module", &self.context.module)
            .finish_non_exhaustive()
    }
}

type Results = (Result<GuestBatch, Fault>,);

impl ModuleDriver {
    /// The key under which a module keeps state as the driver of a source: that of a decoder there, which it cannot have besides.
    #[must_use]
    pub fn state_key(source: &str, module: &str) -> String {
        crate::decoder::ModuleDecoder::state_key(source, module)
    }

    /// Links a driver with what it was granted and checks its settings. `snapshot` is its state.
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn new(
        runtime: &Runtime,
        config: DriverConfig,
        snapshot: Option<&StateChange>,
    ) -> Result<Self, SlotError> {
        let DriverConfig {
            source,
            module,
            settings,
            limits,
            mut grants,
            buses,
            timeout,
        } = config;
        let manifest = &module.manifest;
        let handed = buses.grants().into_iter();
        grants.extend(handed.filter(|grant| manifest.grants.contains(grant)));
        let guest = Guest::in_place(
            runtime,
            &module,
            Role::Driver,
            &settings,
            (&grants, &Directories::new()),
            limits,
        )?;
        let poll = guest
            .function::<(), Results>(POLL)
            .map_err(|detail| SlotError::link(manifest, detail))?;
        let slot: Arc<str> = Self::state_key(&source, &manifest.name).into();
        let state = SlotState::restore(manifest.state, snapshot, &slot);
        let stats = Arc::new(PipelineStats {
            filters: vec![FilterStats::new(NAME, &manifest.name, &manifest.version)],
            ..PipelineStats::default()
        });
        let context = Arc::new(Context {
            slot,
            module: format!("{} {}", manifest.name, manifest.version),
            settings,
            secrets: std::collections::BTreeMap::new(),
            directories: Directories::new(),
            limits: *guest.limits(),
            log: LogRate::default(),
            stats,
            index: 0,
            rehearsal: runtime.profile() == Profile::Metered,
        });
        Ok(Self {
            source,
            guest,
            poll,
            context,
            state,
            breaker: Breaker::new(),
            last_failure: None,
            buses,
            timeout,
            known: Vec::new(),
        })
    }

    /// Its numbers, for reading from any thread: one entry in `filters`.
    #[must_use]
    pub fn stats(&self) -> Arc<PipelineStats> {
        Arc::clone(&self.context.stats)
    }

    /// Polls once. Blocks for as long as the driver computes and its buses take. `arrival` is the time of the readings, nanoseconds
    /// since the epoch; `now` moves the back-off of a failing driver.
    ///
    /// The buses are those of the instance before: a device that needs to be opened anew does so by itself.
    pub fn poll(&mut self, arrival: i64, now: Instant) -> DriverPoll {
        let context = Arc::clone(&self.context);
        let counters = &context.stats().counters;
        if !self.breaker.admits(now) {
            counters.skipped_batches.fetch_add(1, Relaxed);
            let last = self.last_failure.clone().unwrap_or_default();
            return DriverPoll {
                trouble: Some(format!(
                    "the driver is left out after repeated failures; the last: {last}"
                )),
                ..DriverPoll::default()
            };
        }
        let (result, state, refused, fault) = self.attempt(arrival, now);
        let mut made = DriverPoll {
            refused,
            ..DriverPoll::default()
        };
        match result {
            Ok(rows) => {
                self.breaker.succeeded();
                counters.rows_out.fetch_add(rows.len() as u64, Relaxed);
                self.write(&rows, &mut made.lines);
                made.state.extend(state);
            }
            Err(failure) => {
                match failure {
                    // An orderly answer: the driver works, and says what is wrong with its device.
                    Failure::Fault(_) => self.breaker.succeeded(),
                    Failure::Trap(_) | Failure::Timeout(_) | Failure::InvalidOutput(_) => {
                        self.breaker.failed(now);
                    }
                }
                let stats = self.context.stats();
                stats.failed_by(&failure);
                stats.failed(LastError {
                    reason: failure.reason(),
                    detail: failure.detail().to_owned(),
                    at: arrival,
                });
                // What the device said tells more than what the driver makes of it.
                let trouble = match fault {
                    Some(fault) => format!("{} ({fault})", failure.detail()),
                    None => failure.detail().to_owned(),
                };
                self.last_failure = Some(trouble.clone());
                made.trouble = Some(trouble);
                for series in std::mem::take(&mut self.known) {
                    let lost = Value::Float(f64::NAN);
                    write_reading(&mut made.lines, &series, lost, Quality::Bad);
                }
            }
        }
        let state = self.breaker.state();
        let before = self.context.stats().breaker.swap(state as u8, Relaxed);
        if before == BreakerState::Closed as u8 && state == BreakerState::Open {
            tracing::error!(
                source = self.source,
                module = self.context.module,
                "the driver keeps failing and is left out for a while"
            );
        }
        made
    }

    /// One call on an instance of its own.
    fn attempt(
        &mut self,
        arrival: i64,
        now: Instant,
    ) -> (
        Result<Batch, Failure>,
        Option<StateDelta>,
        Vec<BusRefusal>,
        Option<String>,
    ) {
        let buses = PollBuses::new(std::mem::take(&mut self.buses), self.timeout);
        let call = Call {
            global: match &self.state {
                SlotState::Global(state) => Some(GlobalView::new(state, self.guest.limits())),
                SlotState::None | SlotState::Series(_) => None,
            },
            buses: Some(buses),
            ..Call::new(&self.context, now, arrival)
        };
        let called: Called<Results> = self.guest.call(&self.poll, call, ());
        let stats = self.context.stats();
        stats.called(called.used, called.call.memory.peak);
        let (mut refused, mut fault) = (Vec::new(), None);
        if let Some(buses) = called.call.buses {
            (self.buses, refused, fault) = buses.finish();
        }
        let rows = match called.result {
            Ok((Ok(rows),)) => self.judge(rows).map_err(Failure::InvalidOutput),
            Ok((Err(fault),)) => Err(Failure::Fault(fault.message())),
            Err(failure) => Err(failure),
        };
        if rows.is_err() {
            return (rows, None, refused, fault);
        }
        stats.add_metrics(called.call.metrics, self.guest.limits().metric_names);
        let change = match (&mut self.state, called.call.global) {
            (SlotState::Global(state), Some(view)) => view.commit(state),
            (SlotState::None | SlotState::Series(_) | SlotState::Global(_), _) => None,
        };
        let slot = &self.context.slot;
        let state = change.map(|change| StateDelta {
            slot: Arc::clone(slot),
            change,
        });
        (rows, state, refused, fault)
    }

    /// # Errors
    /// What in the answer means nothing, for people.
    fn judge(&self, rows: GuestBatch) -> Result<Batch, String> {
        let rows = rows.adopt()?;
        let limits = self.guest.limits();
        let size = bytes(&rows);
        if rows.len() > limits.output_rows || size > limits.output_bytes {
            return Err(format!(
                "{} rows with {size} bytes; {} with {} are possible",
                rows.len(),
                limits.output_rows,
                limits.output_bytes
            ));
        }
        for name in &rows.names {
            if name.contains(char::is_control) || name.split('/').any(str::is_empty) {
                return Err(format!("`{}` is no name of a series", name.escape_debug()));
            }
            let full = self.source.len() + 1 + name.len();
            if full > limits::SERIES_NAME_BYTES {
                return Err(format!(
                    "the series `{name}` has {full} bytes below its source; {} are possible",
                    limits::SERIES_NAME_BYTES
                ));
            }
        }
        Ok(rows)
    }

    fn write(&mut self, rows: &Batch, lines: &mut String) {
        let names: Vec<Arc<str>> = rows
            .names
            .iter()
            .map(|name| format!("{}/{name}", self.source).into())
            .collect();
        for row in 0..rows.len() {
            if let Some(name) = names.get(rows.series[row] as usize) {
                write_reading(lines, name, rows.value(row), rows.quality(row));
            }
        }
        if !names.is_empty() {
            self.known = names;
        }
    }
}
