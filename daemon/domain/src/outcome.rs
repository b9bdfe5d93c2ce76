//! What a batch became: the unit that the store commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::identity::Identity;
use crate::message::{AckToken, Arrival};
use crate::rollout;

/// The source of an outcome that comes from none: from quarantine, from a step of a rollout, from the time that has passed.
pub const NO_SOURCE: usize = usize::MAX;

/// Everything that one batch of one source became. It commits as a whole or not at all, and only then are its
/// messages acknowledged.
#[derive(Clone, Debug, Default)]
pub struct BatchOutcome {
    /// Index of the source in the configuration's order; [`NO_SOURCE`] where it comes from none.
    pub source: usize,
    /// The latest arrival in the batch: the committed arrival clock advances to it.
    pub arrival: Arrival,
    /// The readings' times are those of their messages' arrival, and are corrected with it. False where messages bring
    /// their times along.
    pub arrival_times: bool,
    /// Acknowledgements due after the commit.
    pub acks: Vec<AckToken>,
    /// Payload bytes of the batch, for the group's bound.
    pub bytes: usize,
    /// How many messages the source sends without an acknowledgement, as far as is known; 0 where it has no
    /// such window.
    pub receive_window: u32,
    /// The counts for the source's ledger.
    pub counts: MessageCounts,
    /// The series that the batch's readings name, as they came from the source.
    pub heard: Vec<Arc<str>>,
    /// Messages that could not be decoded; they are among `counts.quarantined`.
    pub quarantined: Vec<QuarantinedMessage>,
    /// What every pipeline that reads the source made of it, in the configuration's order; two of a pipeline whose canary
    /// speaks for a part of the series.
    pub pipelines: Vec<PipelineOutcome>,
    /// What became of the state of the source's decoder, where that is a module with any.
    pub state: Vec<StateDelta>,
    /// What the source's decoder has to say to people, as events.
    pub notes: Vec<String>,
    /// Steps of rollouts that come before it.
    pub rollouts: Vec<rollout::Change>,
    /// Digests of redelivered messages, or replayed rows, whose persisted attempt count can go with this commit.
    pub attempts_done: Vec<[u8; 32]>,
    /// What the source calls its messages by, those that were new, in their order: remembered from this commit on.
    pub identities: Vec<Identity>,
    /// Where all of this comes from a row of quarantine rather than from a source.
    pub replayed: Option<Replayed>,
}

/// A row of quarantine that was sent through decoder and chain again. Its outcome counts only where the very same row
/// is still in quarantine when it commits, so that none counts twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The row's number.
    pub row: u64,
    /// How often its replay had failed when it was read. A row that changed since is another one.
    pub attempts: u32,
    /// The order that it was replayed for.
    pub order: u64,
    /// Why the row stays where it is; `None` when it leaves quarantine.
    pub failure: Option<ReplayFailure>,
}

/// Why a row was not replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayFailure {
    /// One of [`reason`].
    pub reason: &'static str,
    /// What was wrong, where, for a person.
    pub detail: String,
}

impl BatchOutcome {
    /// Whether anything arrived with it. What comes from quarantine arrived long ago, and a step of a rollout alone never
    /// did: neither moves a clock.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        self.replayed.is_none() && (self.rollouts.is_empty() || self.counts.received > 0)
    }

    /// Corrects what was taken before the clock was set; see [`Arrival::corrected`]. All its messages arrived by one
    /// clock.
    pub fn correct(&mut self, offset: i64) {
        let arrival = self.arrival.corrected(offset);
        let by = arrival.wall.saturating_sub(self.arrival.wall);
        self.arrival = arrival;
        for message in &mut self.quarantined {
            message.arrival = message.arrival.corrected(offset);
        }
        if !self.arrival_times || by == 0 {
            return;
        }
        for pipeline in &mut self.pipelines {
            let quarantined = pipeline.quarantined.iter_mut().map(|q| &mut q.rows);
            for batch in quarantined.chain([&mut pipeline.stored]) {
                for time in &mut batch.time {
                    *time = time.saturating_add(by);
                }
            }
            for alarm in &mut pipeline.alarms {
                alarm.time = alarm.time.saturating_add(by);
            }
        }
    }
}

/// A source's counts of one batch: `received = decoded + quarantined + Σ dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages taken in.
    pub received: u64,
    /// Those among them that the source marked as sent before.
    pub redelivered: u64,
    /// Those among them without the identity that the source is configured to give.
    pub unidentified: u64,
    /// Messages that became readings (none is a possible number of them).
    pub decoded: u64,
    /// Messages set aside.
    pub quarantined: u64,
    /// Messages dropped, by reason; see [`reason`].
    pub dropped: BTreeMap<&'static str, u64>,
}

/// The words for losses, as they stand in the ledger, in quarantine and in gap items.
pub mod reason {
    /// A source that no pipeline reads.
    pub const NO_PIPELINE: &str = "no-pipeline";
    /// The source gave it an identity that it had given before.
    pub const DUPLICATE: &str = "duplicate";
    /// QoS 0 came faster than it could be taken in.
    pub const OVERFLOW: &str = "overflow";
    /// What a serial line sent came faster than it could be taken in.
    pub const OVERRUN: &str = "overrun";
    /// Bytes of a serial line that belong to no frame.
    pub const UNFRAMED: &str = "unframed";
    /// A filter failed and its `on-failure` is `drop`.
    pub const FILTER_FAILURE: &str = "filter-failure";
    /// The payload is not what `decode` says.
    pub const UNDECODABLE: &str = "undecodable";
    /// The payload, a name or a text is above its bound.
    pub const OVERSIZE: &str = "oversize";
    /// The daemon died on this message too often.
    pub const ATTEMPTS: &str = "attempts";
    /// A filter trapped.
    pub const TRAP: &str = "trap";
    /// A filter used up its CPU time.
    pub const TIMEOUT: &str = "timeout";
    /// A filter answered with a fault.
    pub const FAULT: &str = "fault";
    /// A filter rejected single rows.
    pub const REJECTED: &str = "rejected";
    /// A filter returned columns that mean nothing.
    pub const INVALID_OUTPUT: &str = "invalid-output";
    /// The store's bound in bytes.
    pub const SIZE: &str = "size";
    /// The store's bound in age.
    pub const AGE: &str = "age";
    /// Quarantine's share of the store's bound in bytes.
    pub const QUARANTINE_SIZE: &str = "quarantine-size";
    /// The store's bound in age, for what was in quarantine.
    pub const QUARANTINE_AGE: &str = "quarantine-age";
    /// The database was damaged and set aside: nobody knows what waited in it.
    pub const CORRUPT: &str = "corrupt";
    /// The broker lost the session: nobody knows what it dropped.
    pub const SESSION_LOST: &str = "session-lost";
}

/// A message that could not become readings.
#[derive(Clone, Debug)]
pub struct QuarantinedMessage {
    /// MQTT topic or line name.
    pub topic: Arc<str>,
    /// The bytes, cut to [`crate::limits::QUARANTINE_BYTES`].
    pub payload: Bytes,
    /// The payload's length before it was cut.
    pub length: u64,
    /// One of [`reason`].
    pub reason: &'static str,
    /// What was wrong, where, for a person.
    pub detail: String,
    /// When it arrived.
    pub arrival: Arrival,
}

/// What one pipeline made of one batch:
/// `selected + derived + replayed = stored + filtered + Σ quarantined + Σ dropped`.
#[derive(Clone, Debug, Default)]
pub struct PipelineOutcome {
    /// What entered, where the pipeline keeps that.
    pub input: Option<Batch>,
    /// Index of the pipeline in the configuration's order.
    pub pipeline: usize,
    /// The chain that handled it.
    pub generation: Option<Arc<Generation>>,
    /// Readings that entered.
    pub selected: u64,
    /// Readings that filters added.
    pub derived: u64,
    /// Readings that entered from quarantine.
    pub replayed: u64,
    /// Readings that filters took out.
    pub filtered: u64,
    /// Readings dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Readings that came through: they are stored, summarised and, where wanted, sent.
    pub stored: Batch,
    /// Readings that a filter failed on or rejected.
    pub quarantined: Vec<QuarantinedReadings>,
    /// What changed in the filters' states.
    pub state: Vec<StateDelta>,
    /// Alarms raised and cleared.
    pub alarms: Vec<AlarmChange>,
}

impl PipelineOutcome {
    /// Whether there is nothing in it to be stored: nothing entered, and nothing came of that.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let entered = self.selected + self.derived + self.replayed;
        entered == 0 && self.state.is_empty() && self.alarms.is_empty()
    }
}

/// What a pipeline's chain ran: named in every stored and sent row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// The first 16 hex digits of the SHA-256 over all of the below; identifies the generation for ever.
    pub id: String,
    /// The slots in the order of the chain.
    pub slots: Vec<SlotGeneration>,
}

/// One slot of a [`Generation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotGeneration {
    /// The filter's name in the pipeline.
    pub filter: String,
    /// The module's name, version and digest (`sha256:…` of the component).
    pub module: String,
    /// Semantic version.
    pub version: String,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// SHA-256 of settings, grants and limits, in hex.
    pub settings: String,
}

/// Readings set aside with the reason, replayable after a fix.
#[derive(Clone, Debug)]
pub struct QuarantinedReadings {
    /// The filter's name in the pipeline.
    pub filter: String,
    /// One of [`reason`].
    pub reason: &'static str,
    /// What the filter said, or what the trap was.
    pub detail: String,
    /// The rows as they entered that filter.
    pub rows: Batch,
}

/// What one filter's state became in one batch.
#[derive(Clone, Debug)]
pub struct StateDelta {
    /// `pipeline/filter`.
    pub slot: Arc<str>,
    /// The changes.
    pub change: StateChange,
}

/// The two kinds of filter state that a manifest can declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// New records of some series, as one column.
    Series {
        /// Bytes of one record.
        width: usize,
        /// The series whose records changed.
        names: Vec<Arc<str>>,
        /// `names.len() * width` bytes; a record of zeros means none.
        records: Vec<u8>,
    },
    /// Keys set, or deleted where the value is `None`.
    Global(Vec<(String, Option<Vec<u8>>)>),
}

/// How grave an alarm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Needs somebody's attention.
    Warning,
    /// Needs somebody now.
    Critical,
}

impl Severity {
    /// The word in payloads, in the configuration and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Whether an alarm begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// It holds from now on.
    Raised,
    /// It no longer holds.
    Cleared,
}

/// An alarm raised or cleared by a filter, staged with its batch.
#[derive(Clone, Debug, PartialEq)]
pub struct AlarmChange {
    /// The filter's name in the pipeline.
    pub filter: String,
    /// The series it is about.
    pub series: Arc<str>,
    /// The reading's time, nanoseconds since the epoch.
    pub time: i64,
    /// Raised or cleared.
    pub state: AlarmState,
    /// How grave.
    pub severity: Severity,
    /// Short and stable, for programs: `spike`.
    pub code: String,
    /// For people.
    pub text: String,
    /// The value that caused it, where it is a number.
    pub value: Option<f64>,
}
