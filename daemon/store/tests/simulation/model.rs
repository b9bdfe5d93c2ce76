//! What must be true, recomputed in the simplest way from what is known to be committed.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_domain::outcome::{AlarmState, PipelineOutcome, StateChange};
use tidegate_domain::{BatchOutcome, Ledger, Value};
use tidegate_store::{Recovered, StoreConfig};

/// A broken promise, in words.
pub(crate) type Violation = String;

macro_rules! violated {
    ($($said:tt)*) => { return Err(format!($($said)*)) };
}
pub(crate) use violated;

/// One window of one series, over all of its instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    pub(crate) count: u64,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Sums {
    pub(crate) fn add(&mut self, count: u64, sum: f64, min: f64, max: f64) {
        if self.count == 0 {
            (self.min, self.max) = (min, max);
        }
        self.count += count;
        self.sum += sum;
        self.min = self.min.min(min);
        self.max = self.max.max(max);
    }
}

/// Pipeline, series and begin in milliseconds.
pub(crate) type WindowName = (String, String, i64);
/// Pipeline, series, time in milliseconds and value.
pub(crate) type SentReading = (String, String, i64, f64);
/// Pipeline, series, code and state.
pub(crate) type SentAlarm = (String, String, String, AlarmState);

/// Everything that committed batches came to.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Without what depends on eviction.
    pub(crate) ledger: Ledger,
    pub(crate) windows: BTreeMap<WindowName, Sums>,
    /// By uplink and pipeline, in the order of the commits.
    pub(crate) readings: BTreeMap<(usize, usize), Vec<SentReading>>,
    /// By uplink, in the order of the commits.
    pub(crate) alarms: BTreeMap<usize, Vec<SentAlarm>>,
    raised: BTreeSet<(usize, String, String)>,
    /// By slot and series.
    state: BTreeMap<(String, String), Vec<u8>>,
    /// How often a message was committed.
    pub(crate) messages: BTreeMap<u64, u32>,
}

impl Model {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let mut model = Self::default();
        for source in &config.sources {
            model.ledger.sources.entry(source.clone()).or_default();
        }
        for pipeline in &config.pipelines {
            let name = pipeline.name.clone();
            model.ledger.pipelines.entry(name).or_default();
        }
        model
    }

    /// A batch is committed. `messages` are those in it.
    pub(crate) fn apply(&mut self, config: &StoreConfig, batch: &BatchOutcome, messages: &[u64]) {
        for message in messages {
            *self.messages.entry(*message).or_default() += 1;
        }
        let source = self.ledger.sources.get_mut(&config.sources[batch.source]);
        source.expect("known").add(&batch.counts);
        for pipeline in &batch.pipelines {
            self.pipeline(config, pipeline);
        }
    }

    fn pipeline(&mut self, config: &StoreConfig, outcome: &PipelineOutcome) {
        let pipeline = &config.pipelines[outcome.pipeline];
        let name = &pipeline.name;
        let counts = self.ledger.pipelines.get_mut(name).expect("known");
        counts.selected += outcome.selected;
        counts.derived += outcome.derived;
        counts.filtered += outcome.filtered;
        counts.stored += outcome.stored.len() as u64;
        for readings in &outcome.quarantined {
            counts.quarantined += readings.rows.len() as u64;
        }
        for (reason, by) in outcome.dropped.iter().filter(|(_, by)| **by > 0) {
            *counts.dropped.entry((*reason).to_owned()).or_default() += by;
        }
        let batch = &outcome.stored;
        for row in 0..batch.len() {
            let Value::Float(value) = batch.value(row) else {
                unreachable!("the simulation's readings are floats");
            };
            let (series, time) = (batch.name(row).to_string(), batch.time[row]);
            if let Some(length) = pipeline.window {
                let length = i64::try_from(length.as_nanos()).expect("short windows");
                let from = time.div_euclid(length) * length / 1_000_000;
                let window = (name.clone(), series.clone(), from);
                self.windows
                    .entry(window)
                    .or_default()
                    .add(1, value, value, value);
            }
            for route in &pipeline.to {
                if !matches!(route.send, tidegate_store::Send::Summary) {
                    let sent = (
                        name.clone(),
                        series.clone(),
                        time.div_euclid(1_000_000),
                        value,
                    );
                    let lane = self.readings.entry((route.uplink, outcome.pipeline));
                    lane.or_default().push(sent);
                }
            }
        }
        for alarm in &outcome.alarms {
            let key = (
                outcome.pipeline,
                alarm.series.to_string(),
                alarm.code.clone(),
            );
            let changed = match alarm.state {
                AlarmState::Raised => self.raised.insert(key),
                AlarmState::Cleared => self.raised.remove(&key),
            };
            let uplinks: BTreeSet<usize> = pipeline.to.iter().map(|route| route.uplink).collect();
            for uplink in uplinks.into_iter().filter(|_| changed) {
                let (series, code) = (alarm.series.to_string(), alarm.code.clone());
                let sent = (name.clone(), series, code, alarm.state);
                self.alarms.entry(uplink).or_default().push(sent);
            }
        }
        for delta in &outcome.state {
            let StateChange::Series {
                width,
                names,
                records,
            } = &delta.change
            else {
                unreachable!("the simulation's states are records of series");
            };
            for (series, record) in names.iter().zip(records.chunks(*width)) {
                let key = (delta.slot.to_string(), series.to_string());
                self.state.insert(key, record.to_vec());
            }
        }
    }

    /// Whether a ledger says what was committed, in everything but where things are now.
    pub(crate) fn check_ledger(&self, found: &Ledger) -> Result<(), Violation> {
        if let Some(imbalance) = found.imbalances().first() {
            violated!("the ledger does not balance: {imbalance:?}");
        }
        for (name, expected) in &self.ledger.sources {
            let mut found = found.sources.get(name).cloned().unwrap_or_default();
            found.quarantine = expected.quarantine.clone();
            if found != *expected {
                violated!("source {name} is counted as {found:?} and was {expected:?}");
            }
        }
        for (name, expected) in &self.ledger.pipelines {
            let mut found = found.pipelines.get(name).cloned().unwrap_or_default();
            found.quarantine = expected.quarantine.clone();
            (found.held, found.expired, found.evicted) = (0, 0, 0);
            if found != *expected {
                violated!("pipeline {name} is counted as {found:?} and was {expected:?}");
            }
        }
        Ok(())
    }

    /// Whether a start found the filters' states and the alarms of the last commit.
    pub(crate) fn check_recovered(
        &self,
        config: &StoreConfig,
        recovered: &Recovered,
    ) -> Result<(), Violation> {
        self.check_ledger(&recovered.ledger)?;
        let mut state = BTreeMap::new();
        for (slot, change) in &recovered.state {
            let StateChange::Series {
                width,
                names,
                records,
            } = change
            else {
                violated!("slot {slot} has keys out of nowhere");
            };
            for (series, record) in names.iter().zip(records.chunks(*width)) {
                state.insert((slot.clone(), series.to_string()), record.to_vec());
            }
        }
        if state != self.state {
            violated!("filter state is {state:?} and was {:?}", self.state);
        }
        let index = |name: &str| config.pipelines.iter().position(|known| known.name == name);
        let alarms = recovered.alarms.iter().filter_map(|alarm| {
            let pipeline = index(alarm.key.owner.pipeline()?)?;
            Some((
                pipeline,
                alarm.key.series.to_string(),
                alarm.key.code.to_string(),
            ))
        });
        let alarms: BTreeSet<_> = alarms.collect();
        if alarms != self.raised {
            violated!("raised are {alarms:?} and were {:?}", self.raised);
        }
        Ok(())
    }
}
