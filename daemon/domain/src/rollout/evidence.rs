//! What speaks for and against a candidate.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Calls of each side before their times are compared: of fewer, one slow page fault would be the whole truth.
pub(super) const LATENCY_CALLS: u64 = 20;
/// CPU time of a batch, nanoseconds, below which nobody is slow.
const LATENCY_FLOOR: u64 = 500_000;
/// Bytes of memory that a candidate may take above what the active generation does, whatever the factor says.
const MEMORY_FLOOR: u64 = 1024 * 1024;

/// How a candidate is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not at all: it takes over at the next batch.
    Immediate,
    /// It runs on copies and nobody hears it.
    Shadow,
    /// It speaks for a part of the series.
    #[default]
    Canary,
}

impl Mode {
    /// The word in the configuration and on the page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }
}

/// How far values may lie apart and count as equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Of floats, as a part of the greater one.
    pub float: f64,
    /// Of integers, in their unit.
    pub integer: u64,
}

/// What a candidate has to pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// How it is tried.
    pub mode: Mode,
    /// The part of the series that a canary speaks for.
    pub share: f64,
    /// Readings that both generations judged before there is a promotion.
    pub min_samples: u64,
    /// When a candidate that has not got them is rolled back.
    pub time_limit: Duration,
    /// The part of the readings that may come out otherwise.
    pub differences: f64,
    /// See [`Tolerance`].
    pub tolerance: Tolerance,
    /// How many times the CPU time of the active generation's batches a candidate's may take, by their 99th percentiles.
    pub latency: f64,
    /// How many times its memory.
    pub memory: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            mode: Mode::Canary,
            share: 0.05,
            min_samples: 1000,
            time_limit: Duration::from_hours(1),
            differences: 0.01,
            tolerance: Tolerance {
                float: 1e-9,
                integer: 0,
            },
            latency: 4.0,
            memory: 2.0,
        }
    }
}

/// Counts by the kind of value, and of alarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kinds {
    /// Floats.
    pub float: u64,
    /// Integers.
    pub integer: u64,
    /// Truth values.
    pub boolean: u64,
    /// Texts.
    pub text: u64,
    /// Alarms raised and cleared.
    pub alarm: u64,
}

impl Kinds {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.float + self.integer + self.boolean + self.text + self.alarm
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.float += other.float;
        self.integer += other.integer;
        self.boolean += other.boolean;
        self.text += other.text;
        self.alarm += other.alarm;
    }
}

/// One generation during a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// Batches that it was asked about.
    pub batches: u64,
    /// Calls that trapped, the memory limit included.
    pub traps: u64,
    /// Calls that used up their CPU time.
    pub timeouts: u64,
    /// Calls whose output meant nothing.
    pub invalid_outputs: u64,
    /// Calls that answered with a fault.
    pub faults: u64,
    /// CPU time of 99 % of the batches at most, nanoseconds.
    pub cpu_p99: u64,
    /// The most linear memory of a call, bytes.
    pub memory_peak: u64,
}

/// What a trial has shown so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Readings that both judged.
    pub samples: u64,
    /// Readings that both let through, and those that only one did, by kind.
    pub compared: Kinds,
    /// Those among them that came out otherwise.
    pub differing: Kinds,
    /// The active generation, on the same batches.
    pub active: Side,
    /// The candidate.
    pub candidate: Side,
    /// How long it has run.
    pub elapsed: Duration,
}

/// Why a candidate, or an active generation, was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It trapped.
    Trap,
    /// It used up its CPU time.
    Timeout,
    /// Its output meant nothing.
    InvalidOutput,
    /// It answered with faults.
    Fault,
    /// It is slower than it may be.
    Latency,
    /// It takes more memory than it may.
    Memory,
    /// Its output is another.
    Difference,
    /// Too few readings came in time.
    Samples,
    /// It wants more than the generation before it had.
    Drift,
    /// Its state could not be taken over.
    State,
    /// It could not be made to run.
    Unusable,
    /// Somebody said so.
    Operator,
    /// The daemon died soon after each of several starts with it.
    BootLoop,
    /// The configuration names another.
    Withdrawn,
    /// The channel's epoch that it came with was put back as a whole.
    Epoch,
}

impl Reason {
    /// Whether the generation itself is to blame: then it is not tried again as it is.
    pub(super) fn is_its_own(self) -> bool {
        !matches!(self, Self::Withdrawn | Self::Epoch)
    }
}

impl Reason {
    /// The word in events, in the log and on the page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::InvalidOutput => "invalid-output",
            Self::Fault => "fault",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::Difference => "difference",
            Self::Samples => "samples",
            Self::Drift => "drift",
            Self::State => "state",
            Self::Unusable => "unusable",
            Self::Operator => "operator",
            Self::BootLoop => "boot-loop",
            Self::Withdrawn => "withdrawn",
            Self::Epoch => "epoch",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a trial comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The candidate takes over.
    Promote,
    /// It goes, for this reason, in words for people.
    RollBack(Reason, String),
}

impl Evidence {
    /// The verdict, as soon as there is one. What cannot be made good again by further readings counts at once.
    #[must_use]
    pub fn verdict(&self, gates: &Gates) -> Option<Verdict> {
        self.against(gates)
            .map(|(reason, why)| Verdict::RollBack(reason, why))
            .or_else(|| (self.samples >= gates.min_samples).then_some(Verdict::Promote))
            .or_else(|| {
                (self.elapsed >= gates.time_limit).then(|| {
                    let (got, want) = (self.samples, gates.min_samples);
                    let seconds = gates.time_limit.as_secs();
                    let why = format!("{got} readings came within {seconds} s; {want} are needed");
                    Verdict::RollBack(Reason::Samples, why)
                })
            })
    }

    fn against(&self, gates: &Gates) -> Option<(Reason, String)> {
        let (active, candidate) = (&self.active, &self.candidate);
        let failures = [
            (Reason::Trap, candidate.traps, active.traps),
            (Reason::Timeout, candidate.timeouts, active.timeouts),
            (
                Reason::InvalidOutput,
                candidate.invalid_outputs,
                active.invalid_outputs,
            ),
            (Reason::Fault, candidate.faults, active.faults),
        ];
        for (reason, new, old) in failures {
            if new > old {
                let why = format!(
                    "{reason} in {new} calls of {} batches; the active generation: {old}",
                    candidate.batches
                );
                return Some((reason, why));
            }
        }
        let enough = active.batches.min(candidate.batches) >= LATENCY_CALLS;
        if enough
            && exceeds(
                candidate.cpu_p99,
                active.cpu_p99,
                gates.latency,
                LATENCY_FLOOR,
            )
        {
            let why = format!(
                "99 % of its batches took up to {} µs of CPU time; those of the active generation {} µs",
                candidate.cpu_p99 / 1000,
                active.cpu_p99 / 1000
            );
            return Some((Reason::Latency, why));
        }
        let floor = active.memory_peak.saturating_add(MEMORY_FLOOR);
        if exceeds(
            candidate.memory_peak,
            active.memory_peak,
            gates.memory,
            floor,
        ) {
            let why = format!(
                "it took {} KiB of memory; the active generation {} KiB",
                candidate.memory_peak / 1024,
                active.memory_peak / 1024
            );
            return Some((Reason::Memory, why));
        }
        let differing = self.differing.sum();
        let readings = self.samples.max(gates.min_samples);
        if real(differing) > gates.differences * real(readings) {
            let Kinds {
                float,
                integer,
                boolean,
                text,
                alarm,
            } = self.differing;
            let why = format!(
                "{differing} of {} readings came out otherwise ({float} floats, {integer} integers, {boolean} booleans, \
                 {text} texts, {alarm} alarms)",
                self.samples
            );
            return Some((Reason::Difference, why));
        }
        None
    }
}

fn exceeds(new: u64, old: u64, factor: f64, floor: u64) -> bool {
    new > floor && real(new) > real(old) * factor
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn real(count: u64) -> f64 {
    count as f64
}
