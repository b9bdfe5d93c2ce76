//! What goes into the writer and what comes out of it.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tidegate_domain::alarm::Selection;
use tidegate_domain::command;
use tidegate_domain::delivery::Settled;
use tidegate_domain::quarantine;
use tidegate_domain::{AckToken, BatchOutcome, Ledger};

use crate::alarms::{ActiveAlarm, StaleSeries};
use crate::aside::SetAside;

/// Everything that can change the store.
#[derive(Debug)]
pub enum Input {
    /// A batch went through its pipelines.
    Outcome(Box<BatchOutcome>),
    /// The other end answered to a sealed message.
    Settled(Settled),
    /// A source lost messages before they reached a pipeline.
    Gap(SourceGap),
    /// Something happened to the gateway; it goes to every uplink.
    Event(Event),
    /// A command came from the cloud.
    Command(Box<CommandInput>),
    /// Somebody acknowledges alarms.
    Acknowledge(AcknowledgeAlarms),
    /// A redelivered message is about to be processed after an unclean exit. It is counted, and whatever came before it
    /// is committed, before the answer is given. `reply` may be dropped without one; then ask again.
    Attempt {
        /// SHA-256 over topic and payload.
        digest: [u8; 32],
        /// Receives how often it was attempted, this time included. A channel of capacity 1 never blocks the writer.
        reply: SyncSender<u32>,
    },
    /// Redelivered messages are about to be processed together after an unclean exit. Those of which nothing was on
    /// record are put there; otherwise it is as with [`Input::Attempt`].
    Attempts {
        /// SHA-256 over topic and payload.
        digests: Vec<[u8; 32]>,
        /// Receives for each digest, in their order, how often it was attempted before. Capacity 1, as above.
        reply: SyncSender<Vec<u32>>,
    },
    /// An operator's order about quarantine, or a step of one.
    Quarantine(Orders),
}

/// What becomes of an operator's order about quarantine. It is durable from the commit that takes it in; its rows are
/// replayed by outcomes (see [`tidegate_domain::outcome::Replayed`]) or discarded in steps, and in the end it is removed.
#[derive(Debug)]
pub enum Orders {
    /// A new order about the rows that are there now.
    New {
        /// What is to be done.
        action: quarantine::Action,
        /// With which rows.
        selection: quarantine::Selection,
        /// Receives the order's number once it is committed. A channel of capacity 1 never blocks the writer.
        reply: SyncSender<u64>,
    },
    /// Rows that an order discards.
    Discard {
        /// The order's number.
        order: u64,
        /// The rows, each with how often its replay had failed when it was read.
        rows: Vec<(u64, u32)>,
    },
    /// Every row of the order was tried.
    Done {
        /// The order's number.
        order: u64,
    },
}

impl From<Orders> for Input {
    fn from(orders: Orders) -> Self {
        Self::Quarantine(orders)
    }
}

impl From<BatchOutcome> for Input {
    fn from(outcome: BatchOutcome) -> Self {
        Self::Outcome(Box::new(outcome))
    }
}

impl From<Settled> for Input {
    fn from(settled: Settled) -> Self {
        Self::Settled(settled)
    }
}

impl From<SourceGap> for Input {
    fn from(gap: SourceGap) -> Self {
        Self::Gap(gap)
    }
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// A command from the cloud, understood and judged. Its effect, its answer and the memory of it are one commit.
#[derive(Clone, Debug)]
pub struct CommandInput {
    /// Index of the uplink that it came over.
    pub uplink: usize,
    /// Due after the commit.
    pub ack: Option<AckToken>,
    /// Names it; `None` where none could be read: then there is no answer.
    pub id: Option<String>,
    /// Which command, as far as that is known.
    pub name: Option<command::Name>,
    /// When it came, nanoseconds since the epoch.
    pub at: i64,
    /// What to do.
    pub todo: Todo,
}

/// What a command wants of the store.
#[derive(Clone, Debug)]
pub enum Todo {
    /// Say why not.
    Refuse(String),
    /// It is done, and this came of it.
    Answer {
        /// For people.
        text: String,
        /// For programs.
        data: serde_json::Value,
    },
    /// Send every reading of some series for a time.
    Detail {
        /// Which series, as a glob.
        series: String,
        /// Of this pipeline alone.
        pipeline: Option<String>,
        /// For how long.
        lasts: Duration,
    },
    /// Send readings out of history.
    Backfill {
        /// Which series, as a glob.
        series: String,
        /// Of this pipeline alone.
        pipeline: Option<String>,
        /// From this time on, milliseconds since the epoch.
        from: i64,
        /// Up to this time, not in it, likewise.
        to: i64,
        /// Readings at most.
        limit: u64,
    },
    /// Acknowledge alarms.
    Acknowledge {
        /// Which.
        selection: Selection,
        /// On whose behalf.
        by: String,
    },
}

impl From<CommandInput> for Input {
    fn from(command: CommandInput) -> Self {
        Self::Command(Box::new(command))
    }
}

/// A request to acknowledge alarms. It commits at once, and an event item names it.
#[derive(Clone, Debug)]
pub struct AcknowledgeAlarms {
    /// Which.
    pub selection: Selection,
    /// Who does it.
    pub by: String,
    /// When, nanoseconds since the epoch.
    pub at: i64,
    /// Receives how many it were, once that is durable. A channel of capacity 1 never blocks the writer. It may be
    /// dropped without an answer; asking again does no harm.
    pub reply: SyncSender<usize>,
}

impl From<AcknowledgeAlarms> for Input {
    fn from(request: AcknowledgeAlarms) -> Self {
        Self::Acknowledge(request)
    }
}

/// A loss in front of every pipeline. It goes to every uplink as a gap item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceGap {
    /// Index of the source in the configuration's order.
    pub source: usize,
    /// Earliest time that may be missing, nanoseconds since the epoch.
    pub from: i64,
    /// Latest time that may be missing, likewise.
    pub to: i64,
    /// Messages lost, where somebody knows.
    pub count: Option<u64>,
    /// One of [`tidegate_domain::outcome::reason`].
    pub reason: &'static str,
}

/// Something that happened to the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, nanoseconds since the epoch.
    pub time: i64,
    /// Short and stable, for programs.
    pub code: String,
    /// For people.
    pub text: String,
    /// Details for programs.
    pub data: Option<serde_json::Value>,
}

/// What a commit made durable.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Acknowledgements that are due now: index of the source, its tokens.
    pub acks: Vec<(usize, Vec<AckToken>)>,
    /// Acknowledgements of commands that are due now: index of the uplink, and the token where there is one.
    pub commands: Vec<(usize, Option<AckToken>)>,
    /// Messages of the outbox that were settled and are deleted: index of the uplink, their numbers.
    pub settled: Vec<(usize, Vec<u64>)>,
    /// Indices of the uplinks that have newly sealed messages.
    pub sealed: Vec<usize>,
    /// Windows closed by this commit, at most [`Committed::SUMMARIES`], for the page and the console.
    pub summaries: Vec<Arc<ClosedSummary>>,
    /// Rows of quarantine that were replayed or discarded, successfully or not, as far as the commit was told of them.
    pub rows_tried: u64,
    /// Orders about quarantine that it took in or removed.
    pub orders: u64,
    /// All counts after it.
    pub ledger: Arc<Ledger>,
    /// The database was damaged and set aside, and this is the first commit of its successor: whoever holds a reader or a
    /// stream id of the old one must get a new one.
    pub renewed: bool,
    /// The store's condition after it.
    pub stats: StoreStats,
}

impl Committed {
    /// Closed windows that one commit reports at most; the outbox gets all of them.
    pub const SUMMARIES: usize = 256;

    /// Together with what an earlier commit made durable that nobody was told of.
    pub(crate) fn after(mut self, earlier: Option<Self>) -> Self {
        if let Some(earlier) = earlier {
            self.acks.splice(0..0, earlier.acks);
            self.summaries.splice(0..0, earlier.summaries);
            self.sealed.extend(earlier.sealed);
            self.sealed.sort_unstable();
            self.sealed.dedup();
            self.commands.splice(0..0, earlier.commands);
            self.settled.extend(earlier.settled);
            self.rows_tried += earlier.rows_tried;
            self.orders += earlier.orders;
        }
        self
    }
}

/// A closed window, as it went to the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedSummary {
    /// The pipeline's name.
    pub pipeline: String,
    /// The series' name.
    pub series: Arc<str>,
    /// What is measured.
    pub measure: Option<String>,
    /// Begin, milliseconds since the epoch.
    pub from: i64,
    /// End, not in it, likewise.
    pub to: i64,
    /// The statistics.
    pub stats: tidegate_domain::item::Stats,
    /// A supplement to an earlier summary of the same window.
    pub late: bool,
}

/// In what condition the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// Commits succeed.
    #[default]
    Healthy,
    /// A commit failed for a reason that may pass (an I/O error, a busy database) and is retried; or the disk is full
    /// and commits succeed in the place of what was given up.
    Degraded,
    /// The file system refuses writes.
    ReadOnly,
    /// The disk is full, or the bound is reached and nothing is left that may be given up.
    Full,
    /// The database is damaged and will be set aside; or it was, its successor works, and nobody has looked yet.
    Corrupt,
}

impl StoreState {
    /// The word on the page and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
        }
    }
}

/// The store's figures after a commit, or after a failed one.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Its condition.
    pub state: StoreState,
    /// Whether commits succeed: while they do not, nothing is acknowledged.
    pub acknowledges: bool,
    /// Damaged databases that were set aside, oldest first.
    pub set_aside: Vec<SetAside>,
    /// Size of the database file, in bytes.
    pub database_bytes: u64,
    /// Pages of it that are free, in bytes.
    pub free_bytes: u64,
    /// Size of the write-ahead log, in bytes.
    pub wal_bytes: u64,
    /// The bound of both together.
    pub max_bytes: u64,
    /// Bytes in quarantine.
    pub quarantine_bytes: u64,
    /// Readings that were committed since the start of the process.
    pub rows: u64,
    /// Commits since the start of the process.
    pub commits: u64,
    /// Failed commits since the start of the process.
    pub failures: u64,
    /// How long the last commit took, the sync included.
    pub commit_latency: Duration,
    /// The longest commit since the start of the process.
    pub commit_latency_max: Duration,
    /// By uplink, in the configuration's order.
    pub outbox: Vec<OutboxStats>,
    /// Windows that are open.
    pub windows_open: u64,
    /// The same by pipeline, in the configuration's order.
    pub windows_by_pipeline: Vec<u64>,
    /// When the oldest reading of history arrived, nanoseconds since the epoch; `None` without one, or where the clock
    /// was not set then.
    pub oldest: Option<i64>,
    /// Alarms that hold.
    pub alarms_active: u64,
    /// More of alarms and of silent series.
    pub alarms: AlarmStats,
    /// Commands from the cloud.
    pub commands: CommandStats,
    /// What is behind its condition: the last failed commit's error, until one succeeds.
    pub last_error: Option<String>,
    /// The machine's clock.
    pub clock: ClockStats,
}

/// The machine's clock, as the store saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockStats {
    /// It was set in this boot.
    pub set: bool,
    /// Steps of more than a second since the database was made.
    pub steps: u64,
    /// The last of them.
    pub last_step: Option<ClockStep>,
    /// Rows that were taken before it was set are being corrected.
    pub correcting: bool,
}

/// A step of the machine's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockStep {
    /// The time after it, nanoseconds since the epoch.
    pub at: i64,
    /// By how much, nanoseconds; negative backwards.
    pub by: i64,
}

/// Alarms and silent series.
#[derive(Clone, Debug, Default)]
pub struct AlarmStats {
    /// Those that hold and were acknowledged.
    pub acknowledged: u64,
    /// Changes that were counted and not sent, since the database was made.
    pub suppressed: u64,
    /// Alarms that were not kept because there were too many, likewise.
    pub lost: u64,
    /// Filters that are in a flood.
    pub floods: u64,
    /// The first thousand of those that hold, by owner, series and code.
    pub active: Arc<[ActiveAlarm]>,
    /// Series that are listened for.
    pub series: u64,
    /// Those among them that are stale.
    pub stale: u64,
    /// The thousand that have been silent for longest.
    pub stale_series: Arc<[StaleSeries]>,
    /// Readings of series that there is no room to listen for, since the database was made.
    pub unheard: u64,
}

/// Commands from the cloud.
#[derive(Clone, Debug, Default)]
pub struct CommandStats {
    /// By uplink, in the configuration's order.
    pub uplinks: Vec<CommandCounts>,
    /// Series that go up in detail.
    pub details: Arc<[DetailStats]>,
    /// Readings out of history that go up.
    pub backfills: Arc<[BackfillStats]>,
}

/// Commands of one uplink, since the database was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounts {
    /// Carried out.
    pub done: u64,
    /// Refused.
    pub refused: u64,
    /// Known already, and answered again.
    pub repeated: u64,
}

/// A `detail` that is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetailStats {
    /// Index of the uplink.
    pub uplink: usize,
    /// The command's id.
    pub id: String,
    /// Which series, as a glob.
    pub series: String,
    /// Of this pipeline alone.
    pub pipeline: Option<String>,
    /// Until when, nanoseconds since the epoch.
    pub until: i64,
    /// Readings sent so far.
    pub sent: u64,
}

/// A `backfill` that is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillStats {
    /// Index of the uplink.
    pub uplink: usize,
    /// The command's id.
    pub id: String,
    /// Which series, as a glob.
    pub series: String,
    /// Of this pipeline alone.
    pub pipeline: Option<String>,
    /// From this time on, nanoseconds since the epoch.
    pub from: i64,
    /// Up to this time, not in it, likewise.
    pub to: i64,
    /// Readings sent so far.
    pub sent: u64,
}

/// What waits for one uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Items waiting, sealed or not.
    pub items: u64,
    /// Sealed messages among what waits.
    pub messages: u64,
    /// When the oldest of them was committed, nanoseconds since the epoch by the wall clock.
    pub oldest: Option<i64>,
    /// The highest number sealed so far; 0 before the first.
    pub last_seq: u64,
}
