//! What the gateway shows of itself: the one picture from which page, API and metrics are drawn.
//!
//! The binary fills a [`Snapshot`] about once a second and hands it out behind an [`Arc`]; nothing here reads
//! the store or waits for the data path, so that a hundred viewers cost no reading its commit.
//!
//! Units are the same everywhere: times are milliseconds since the epoch, durations are seconds, sizes are bytes.
//! The structs are the JSON of `/api/v1/status`: a field renamed here is renamed there, and a test holds
//! `assets/openapi.json` to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tidegate_domain::Ledger;

/// What the status server asks of the gateway. Every call must return at once: no lock that the data path
/// holds while it works, no query.
pub trait View: Send + Sync + 'static {
    /// The latest picture.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// The ledger as of the last commit.
    fn ledger(&self) -> Arc<Ledger>;

    /// Alarms that hold, at most a thousand, gravest first, then newest.
    fn alarms(&self) -> Vec<AlarmRow> {
        self.snapshot().alarms.items.clone()
    }

    /// Series that are stale, at most a thousand, the longest silent first.
    fn stale_series(&self) -> Vec<StaleRow> {
        self.snapshot().alarms.stale_items.clone()
    }

    /// Entries of the audit log in front of a number, newest first. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// Why it cannot be read, for a person.
    fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<serde_json::Value>, String>;

    /// Whether the gateway does its work: sources subscribed or backing off, store healthy, filters loaded. It
    /// never depends on the cloud.
    fn ready(&self) -> Readiness;

    /// Whether the process can go on.
    ///
    /// # Errors
    /// What has stopped, for a person. A supervisor should restart the process.
    fn healthy(&self) -> Result<(), String>;
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True when every condition holds.
    pub ready: bool,
    /// The conditions that do not hold, each a sentence for a person.
    pub reasons: Vec<String>,
}

/// The gateway at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// When this was taken, milliseconds since the epoch. Ages on the page are counted from here; a page whose
    /// snapshot is old says so.
    pub time: i64,
    /// The gateway itself.
    pub gateway: GatewayStatus,
    /// Sources, in the configuration's order.
    pub sources: Vec<SourceStatus>,
    /// Pipelines, in the configuration's order.
    pub pipelines: Vec<PipelineStatus>,
    /// The store.
    pub store: StoreStatus,
    /// Uplinks, in the configuration's order.
    pub uplinks: Vec<UplinkStatus>,
    /// Modules that the gateway knows, in the order of their names.
    pub modules: Vec<ModuleStatus>,
    /// Modules over the air; `None` where `[deploy]` is not configured.
    pub deploy: Option<DeployStatus>,
    /// The audit log; `None` while the gateway waits for its store.
    pub audit: Option<AuditStatus>,
    /// Alarms and silent series.
    pub alarms: AlarmsStatus,
    /// Commands from the cloud.
    pub commands: CommandsStatus,
    /// Messages and readings that are in quarantine now.
    pub quarantine_total: u64,
    /// Warnings and errors of late, grouped, newest first. Bounded by whoever fills it (50 is a good bound).
    pub recent_errors: Vec<ErrorGroup>,
    /// Windows that closed of late, newest first; several of a series draw its curve. Bounded by whoever fills
    /// it (30 series of 20 windows is a good bound).
    pub recent_summaries: Vec<SummaryRow>,
}

/// The gateway itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GatewayStatus {
    /// `[gateway] id`.
    pub id: String,
    /// The daemon's version.
    pub version: String,
    /// Identifies the machine's current boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// When the process started, milliseconds since the epoch.
    pub started: i64,
    /// Whole seconds since the process started, by the monotonic clock.
    pub uptime_seconds: u64,
    /// Whether the wall clock is known to be set.
    pub clock_synced: bool,
    /// The last step of the wall clock by more than a second.
    pub clock_last_step: Option<ClockStep>,
    /// Such steps since the store was made.
    pub clock_steps: u64,
    /// Readings that were taken before the clock was set are being corrected.
    pub clock_correcting: bool,
    /// Everything as configured, or not.
    pub state: GatewayState,
    /// Where the gateway keeps its files.
    pub state_dir: String,
}

/// A step of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClockStep {
    /// When it was, by the clock after it, milliseconds since the epoch.
    pub time: i64,
    /// How far, in seconds; negative backwards.
    pub seconds: f64,
}

/// `online` or `degraded`, in the words of the uplink's status message, which counts the store alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayState {
    /// Everything works as configured.
    #[default]
    Online,
    /// Something does not: the other parts of the snapshot say what.
    Degraded,
}

/// One source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SourceStatus {
    /// `[source.NAME]`.
    pub name: String,
    /// `mqtt`, `serial`, …
    pub kind: String,
    /// Where it is, without user name and password.
    pub url: String,
    /// Its TLS; `null` where the connection is in clear.
    pub tls: Option<TlsStatus>,
    /// How its connection is.
    pub state: SourceState,
    /// Since when it is in that state, milliseconds since the epoch.
    pub since: i64,
    /// While backing off: when the next attempt is made, milliseconds since the epoch.
    pub backing_off_until: Option<i64>,
    /// What went wrong last, for a person; kept after it recovered.
    pub last_error: Option<String>,
    /// The module that decodes its messages: rows in are messages, rows out readings. `null` where the daemon decodes them
    /// itself.
    pub decoder: Option<FilterStatus>,
    /// Messages taken in, as in the ledger.
    pub received: u64,
    /// Messages among them that the source had sent before.
    pub redelivered: u64,
    /// Messages among them without the identity that the source is configured to give.
    pub unidentified: u64,
    /// Messages that became readings.
    pub decoded: u64,
    /// Messages set aside.
    pub quarantined: u64,
    /// Messages dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Messages a second over the last ten or so.
    pub rate: f64,
    /// Messages taken in and not yet acknowledged.
    pub in_flight: u64,
    /// Messages the source sends without an acknowledgement; `null` where it has no such window or it is not known.
    pub receive_window: Option<u32>,
    /// Seconds since the last message; `null` where none came since the start.
    pub last_message_age_seconds: Option<f64>,
    /// The slaves of a Modbus source, by address; empty for other kinds.
    pub slaves: Vec<SlaveStatus>,
}

/// A Modbus slave. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SlaveStatus {
    /// Its address.
    pub unit: u8,
    /// Whether it answers; `null` before it was asked first.
    pub answers: Option<bool>,
    /// Requests sent to it.
    pub requests: u64,
    /// Answers with data.
    pub answered: u64,
    /// Refusals and errors that it answered with.
    pub exceptions: u64,
    /// Requests without any answer in time.
    pub silent: u64,
    /// Requests whose answer was damaged or belonged to another request.
    pub garbled: u64,
    /// Polls left out because the one before was not done.
    pub missed: u64,
    /// Values of the register map that it refuses.
    pub refused: u64,
    /// From request to answer, the last time.
    pub round_trip_seconds: f64,
    /// The longest one.
    pub round_trip_longest_seconds: f64,
    /// All together, of answered requests and exceptions.
    pub round_trip_sum_seconds: f64,
    /// What went wrong last; kept after it recovered.
    pub last_error: Option<String>,
}

/// How a source's connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// The first attempt, or one after a wait, is under way.
    #[default]
    Connecting,
    /// Connected, and everything asked for was granted.
    Subscribed,
    /// An attempt failed; the next one waits.
    BackingOff,
}

/// One pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PipelineStatus {
    /// `[pipeline.NAME]`.
    pub name: String,
    /// The sources it reads.
    pub from: Vec<String>,
    /// The uplinks it sends to.
    pub to: Vec<String>,
    /// Readings that entered, as in the ledger.
    pub selected: u64,
    /// Readings that filters added.
    pub derived: u64,
    /// Readings that entered again from quarantine.
    pub replayed: u64,
    /// Readings that came through.
    pub stored: u64,
    /// Readings that filters took out.
    pub filtered: u64,
    /// Readings set aside.
    pub quarantined: u64,
    /// Readings dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Readings that entered, a second, over the last ten or so.
    pub rate: f64,
    /// Readings that came through, a second, likewise.
    pub stored_rate: f64,
    /// The chain it runs: the first 16 hex digits of its digest; empty without filters.
    pub generation: String,
    /// Its filters, in the order of the chain.
    pub filters: Vec<FilterStatus>,
    /// Windows that are open now, of all series.
    pub windows_open: u64,
    /// Its generations.
    pub rollout: RolloutStatus,
}

/// The generations of a pipeline's chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RolloutStatus {
    /// `active`, or how a candidate is tried: `shadow`, `canary`.
    pub state: String,
    /// What is on trial.
    pub candidate: Option<CandidateStatus>,
    /// Unsigned modules that somebody tries with `tidegate module try`: heard by nobody and on no record.
    pub tried: Vec<ChainSlot>,
    /// The generation that a rollback goes back to.
    pub last_good: Option<String>,
    /// What stands in its slots.
    pub last_good_slots: Vec<ChainSlot>,
    /// A generation that was put back and is not tried again until a module or a setting of it changes.
    pub refused: Option<String>,
    /// What was decided last.
    pub decision: Option<RolloutDecision>,
}

/// What stands in one slot of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChainSlot {
    /// The slot's name in the pipeline.
    pub filter: String,
    /// The module's name.
    pub module: String,
    /// The module's version.
    pub version: String,
    /// `sha256:` and 64 hex digits of the component.
    pub digest: String,
}

/// Counts by the kind of value, and of alarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differing {
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

/// A candidate, with what it has shown so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CandidateStatus {
    /// Its generation, as in [`PipelineStatus::generation`].
    pub generation: String,
    /// Names and versions of its modules.
    pub modules: Vec<String>,
    /// Its slots, with what they did since it began in this process.
    pub filters: Vec<FilterStatus>,
    /// The part of the series that it speaks for; `null` for a shadow, which nobody hears.
    pub share: Option<f64>,
    /// Readings that both generations judged.
    pub samples: u64,
    /// Readings that the verdict needs.
    pub min_samples: u64,
    /// Readings and alarms that came out of either generation.
    pub compared: u64,
    /// Those among them that came out otherwise.
    pub differing: u64,
    /// The same by kind.
    pub differing_by: Differing,
    /// Its calls that trapped.
    pub traps: u64,
    /// Its calls that used up their CPU time.
    pub timeouts: u64,
    /// Its calls that answered with a fault, or with what means nothing.
    pub faults: u64,
    /// Its calls that failed, by kind.
    pub failures: FilterFailures,
    /// Those of the active generation on the same batches.
    pub active_failures: FilterFailures,
    /// CPU time of 99 % of its batches at most, in seconds.
    pub cpu_p99_seconds: f64,
    /// The same of the active generation on the same batches.
    pub active_cpu_p99_seconds: f64,
    /// The most linear memory of a call, in bytes.
    pub memory_peak_bytes: u64,
    /// The same of the active generation.
    pub active_memory_peak_bytes: u64,
    /// How long it has been on trial, in seconds.
    pub elapsed_seconds: u64,
    /// When it is put back unless it has got its readings by then, in seconds from now.
    pub seconds_left: u64,
}

/// What became of a candidate, or of an active generation that was put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RolloutDecision {
    /// When, milliseconds since the epoch.
    pub time: i64,
    /// Which generation.
    pub generation: String,
    /// Why it was put back; `null` where it was promoted.
    pub reason: Option<String>,
    /// The same for people.
    pub why: String,
}

/// One slot of a pipeline's chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FilterStatus {
    /// Its name in the pipeline.
    pub name: String,
    /// The module's name.
    pub module: String,
    /// The module's version.
    pub version: String,
    /// `sha256:` and 64 hex digits of the component.
    pub digest: String,
    /// Whether it runs.
    pub state: FilterState,
    /// Rows that entered.
    pub rows_in: u64,
    /// Rows that left, derived ones included.
    pub rows_out: u64,
    /// Calls made.
    pub calls: u64,
    /// Calls that failed, by kind.
    pub failures: FilterFailures,
    /// Median duration of one call, in seconds; `null` before the first one.
    pub p50_seconds: Option<f64>,
    /// 99th percentile, likewise.
    pub p99_seconds: Option<f64>,
    /// Batches and ticks that it was not asked about because it was switched off.
    pub skipped_batches: u64,
    /// What it did as time passed; `null` where it has no ticks.
    pub ticks: Option<TickStatus>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that was, milliseconds since the epoch.
    pub last_error_time: Option<i64>,
}

/// What a filter's ticks did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TickStatus {
    /// Ticks on which it was called.
    pub called: u64,
    /// Those of them that failed, as a whole or for some of the series.
    pub failed: u64,
    /// Rows that they added.
    pub derived: u64,
}

/// Whether a filter runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterState {
    /// Every batch goes through it.
    #[default]
    Running,
    /// It failed too often: batches pass it by as its `on-failure` says, until the next trial.
    Tripped,
}

/// Calls of a filter that failed, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilterFailures {
    /// The code trapped, or exceeded its memory.
    pub trap: u64,
    /// It used up its CPU time.
    pub timeout: u64,
    /// It answered with a fault.
    pub fault: u64,
    /// It answered with columns that mean nothing.
    pub invalid: u64,
}

impl FilterFailures {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.trap + self.timeout + self.fault + self.invalid
    }
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StoreStatus {
    /// What it can do.
    pub state: StoreState,
    /// Whether commits succeed: while they do not, nothing is acknowledged.
    pub acknowledges: bool,
    /// Damaged databases that were set aside, oldest first.
    pub set_aside: Vec<SetAside>,
    /// The last recount of the rows; `null` before the first since the start.
    pub recount: Option<Recount>,
    /// The database file.
    pub path: String,
    /// Bytes of database and WAL together: what `max_bytes` bounds.
    pub bytes: u64,
    /// The bound, in bytes.
    pub max_bytes: u64,
    /// Bytes of the WAL alone.
    pub wal_bytes: u64,
    /// Readings in history.
    pub history_rows: u64,
    /// The oldest reading's time, milliseconds since the epoch.
    pub oldest: Option<i64>,
    /// Commits since the start.
    pub commits: u64,
    /// Median duration of a commit, in seconds; `null` before the first one.
    pub commit_p50_seconds: Option<f64>,
    /// 99th percentile, likewise.
    pub commit_p99_seconds: Option<f64>,
    /// Rows of a commit, on average, over the last hundred or so.
    pub rows_per_commit: f64,
    /// Bytes that the process has written to disk since the gateway started; `null` where the system does not count them.
    pub written_bytes: Option<u64>,
    /// What a day takes at the rate of the last hour; `null` in the first minute.
    pub written_bytes_per_day: Option<u64>,
    /// Bytes written for each reading that was committed since the start; `null` before the first.
    pub written_bytes_per_reading: Option<f64>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A recount of the stored rows, compared with the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recount {
    /// When it ended, milliseconds since the epoch.
    pub time: i64,
    /// Counters and rows that disagree.
    pub differences: u64,
    /// Some of them, in words.
    pub named: Vec<String>,
    /// Why it could not be done.
    pub error: Option<String>,
}

/// A damaged database that was set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Its directory.
    pub dir: String,
    /// When that was, milliseconds since the epoch.
    pub time: i64,
    /// Its bytes.
    pub bytes: u64,
    /// What was wrong with it.
    pub why: String,
}

/// What the store can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreState {
    /// Commits.
    #[default]
    Healthy,
    /// Trouble that may pass: a commit or opening failed and is tried again; or the disk is full, and commits take the
    /// place of what is given up.
    Degraded,
    /// The file system no longer takes writes: nothing is acknowledged.
    ReadOnly,
    /// No space left on the disk, or below the bound: nothing is acknowledged.
    Full,
    /// The database is damaged and must be set aside; or it was, and its successor works.
    Corrupt,
}

/// One uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UplinkStatus {
    /// `[uplink.NAME]`.
    pub name: String,
    /// The broker that has its turn, without user name and password.
    pub url: String,
    /// Its TLS; `null` where the connection is in clear.
    pub tls: Option<TlsStatus>,
    /// Whether that is another than the first.
    pub failover: bool,
    /// How often another broker got its turn, since the start.
    pub failovers: u64,
    /// How its connection is.
    pub state: UplinkState,
    /// Whether it lets messages through.
    pub circuit: Circuit,
    /// Since when it is in that state, milliseconds since the epoch.
    pub since: i64,
    /// While connected: since when, milliseconds since the epoch.
    pub connected_since: Option<i64>,
    /// While backing off: when the next attempt is made, milliseconds since the epoch.
    pub backing_off_until: Option<i64>,
    /// While backing off: attempts in a row on which nothing got through.
    pub attempts: u64,
    /// Items that entered the outbox, as in the ledger.
    pub queued: u64,
    /// Items that the other end acknowledged.
    pub delivered: u64,
    /// Items in the outbox.
    pub waiting: u64,
    /// Items given up for space or age.
    pub evicted: u64,
    /// Items that the other end refused.
    pub rejected: u64,
    /// Sealed messages that wait or are in flight.
    pub messages_waiting: u64,
    /// Messages that the broker took since the start.
    pub messages_delivered: u64,
    /// Seconds since the oldest waiting item entered the outbox; `null` when none waits.
    pub oldest_waiting_age_seconds: Option<f64>,
    /// Messages sent and not yet acknowledged.
    pub in_flight: u64,
    /// Items acknowledged a second, over the last ten or so.
    pub rate: f64,
    /// What went wrong last; kept after it recovered.
    pub last_error: Option<String>,
}

/// Whether an uplink lets messages through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// It does: the other end acknowledges.
    Closed,
    /// It does not; nothing is tried before `backing_off_until`.
    Open,
    /// An attempt is under way, and nothing was acknowledged on it yet.
    #[default]
    HalfOpen,
}

/// How an uplink's connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkState {
    /// An attempt is under way.
    #[default]
    Connecting,
    /// Connected: what waits is being sent.
    Connected,
    /// An attempt failed; the next one waits.
    BackingOff,
}

/// TLS of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsStatus {
    /// By role, those that expire first in front; 16 of a role at most. The broker's is that of the latest connection.
    pub certificates: Vec<CertificateStatus>,
    /// Why renewed files are not used; the earlier ones still are.
    pub error: Option<String>,
}

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// Whose it is.
    pub role: CertificateRole,
    /// Its common name, or another part of its subject.
    pub subject: String,
    /// The end of its validity, milliseconds since the epoch.
    pub not_after: i64,
}

/// Whose certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateRole {
    /// The gateway's, or one between it and its CA.
    #[default]
    Own,
    /// One that may sign the broker's, where the configuration names them.
    Ca,
    /// The broker's.
    Server,
}

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModuleStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `sha256:` and 64 hex digits of the component.
    pub digest: String,
    /// What the gateway does with it.
    pub state: ModuleState,
    /// How a candidate is tried: `canary` or `shadow`.
    pub trial: Option<&'static str>,
    /// Where it came from.
    pub origin: ModuleOrigin,
    /// The key that signed a local file, `ed25519:` and 64 hex digits.
    pub signed_by: Option<String>,
    /// `filter`, `decoder`, `driver`.
    pub world: String,
    /// Bytes of the component.
    pub size_bytes: u64,
}

/// What the gateway does with a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleState {
    /// Known, and in no chain.
    #[default]
    Idle,
    /// At least one chain runs it.
    Active,
    /// It is on trial, or the channel names it and nothing runs it yet.
    Candidate,
    /// A chain ran it before the present one, and goes back to it where that fails.
    Previous,
    /// It did not load, or a trial put it back; `recent_errors` and `deploy.install.refused` say why.
    Refused,
}

/// Where a module came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleOrigin {
    /// Embedded in the daemon.
    #[default]
    Factory,
    /// A file in `[modules] dir` that nobody signed whom the site trusts.
    Local,
    /// A file in `[modules] dir`, signed by a key in `trusted-keys`.
    Signed,
    /// The channel that `[deploy]` follows.
    Channel,
}

/// Modules over the air.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeployStatus {
    /// What became of the last look.
    pub state: DeployState,
    /// Where the repository is.
    pub repository: String,
    /// Which channel this gateway follows.
    pub channel: String,
    /// The channel's number, of what is here.
    pub epoch: Option<u64>,
    /// The publication that was verified last, by the version of its timestamp.
    pub publication: Option<u64>,
    /// A look is under way.
    pub checking: bool,
    /// When the last look ended, milliseconds since the epoch.
    pub last_check: Option<i64>,
    /// When the last one ended that was not refused, likewise.
    pub last_success: Option<i64>,
    /// When the next one begins, likewise.
    pub next_check: Option<i64>,
    /// What of the metadata expires first. From then on nothing is installed until the publisher renews it.
    pub expires: Option<DeployExpiry>,
    /// Why nothing was taken, where the last look was refused.
    pub error: Option<DeployError>,
    /// Looks since the start.
    pub checks: u64,
    /// Those that were refused or did not get through.
    pub failures: u64,
    /// TLS of the way to the repository; `None` where that is in clear, or a folder.
    pub tls: Option<TlsStatus>,
    /// What the channel names, by name; all of it is here.
    pub modules: Vec<DeployModule>,
    /// What became of it on this gateway.
    pub install: InstallStatus,
}

/// What became of the channel's epochs on this gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstallStatus {
    /// What is done about them now.
    pub state: InstallState,
    /// The epoch in force: what names of modules mean.
    pub in_force: Option<u64>,
    /// Whose epoch it is: another channel's than the one that is followed, until that one's is taken.
    pub channel: Option<String>,
    /// The one before it, to which a rollback goes.
    pub before: Option<u64>,
    /// The newest that is here.
    pub newest: Option<u64>,
    /// The epoch since which the channel gives the same as in the newest.
    pub newest_since: Option<u64>,
    /// What the newest waits for.
    pub waiting: Option<InstallWait>,
    /// What is not tried again.
    pub refused: Option<RefusedEpoch>,
    /// Where the channel and the site's own file set the same otherwise.
    pub drift: Vec<SettingDrift>,
    /// Why it does not go on.
    pub problem: Option<String>,
}

/// What is done about the channel's epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstallState {
    /// None is in force.
    #[default]
    Nothing,
    /// The newest waits.
    Waiting,
    /// The newest is loaded, and run on its vectors and on what was kept.
    Rehearsing,
    /// The pipelines try the one in force.
    Trying,
    /// The pipelines run the one in force.
    Settled,
    /// One was refused, and the pipelines go back.
    GoingBack,
}

/// What an epoch waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstallWait {
    /// For people.
    pub reason: String,
    /// Until when, milliseconds since the epoch, where that is known.
    pub until: Option<i64>,
    /// Tries that failed by the device's fault; 0 where the site, the wave or a window is waited for.
    pub failed_tries: u32,
}

/// An epoch that is not tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusedEpoch {
    /// Its channel.
    pub channel: String,
    /// Its number.
    pub epoch: u64,
    /// `admission`, `loading`, `vectors`, `replay` or `trial`.
    pub stage: String,
    /// For people.
    pub reason: String,
    /// Milliseconds since the epoch.
    pub time: i64,
}

/// A setting that the channel and the site's own file both set, and not to the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingDrift {
    /// The pipeline.
    pub pipeline: String,
    /// The filter.
    pub filter: String,
    /// Which.
    pub key: String,
    /// The site's value, as JSON.
    pub site: String,
    /// The channel's, likewise.
    pub channel: String,
    /// Whose is used: `channel` or `site`.
    pub wins: String,
}

/// What became of a look at the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployState {
    /// There was none yet.
    #[default]
    Waiting,
    /// What the channel names is verified and here.
    Current,
    /// Likewise, and its metadata expires within a week.
    Expiring,
    /// Its metadata has expired.
    Expired,
    /// Nothing came.
    Unreachable,
    /// What came was not taken.
    Refused,
}

/// What expires when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeployExpiry {
    /// `root`, `timestamp`, `snapshot` or `targets`
    pub role: String,
    /// Milliseconds since the epoch.
    pub time: i64,
}

/// Why nothing was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeployError {
    /// Which file.
    pub file: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub help: String,
}

/// A module that the channel names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeployModule {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of the component.
    pub digest: String,
    /// `filter`, `decoder`, `driver`.
    pub world: String,
    /// Bytes of the component.
    pub size_bytes: u64,
    /// Of its software bill of materials, where there is one.
    pub sbom: Option<String>,
    /// Of its provenance, where there is one.
    pub provenance: Option<String>,
}

/// The audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditStatus {
    /// The fingerprint of the key that signs it.
    pub key: String,
    /// The number of the first entry that is kept.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// Its hash.
    pub hash: String,
    /// When it was made, milliseconds since the epoch.
    pub time: i64,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Entries that wait until the log can be written.
    pub waiting: u64,
    /// Entries that were lost since the start.
    pub lost: u64,
    /// Since when the log cannot be written, milliseconds since the epoch.
    pub failing_since: Option<i64>,
    /// Why.
    pub error: Option<String>,
    /// Why the log that this start found was set aside.
    pub broken: Option<String>,
}

/// Commands from the cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandsStatus {
    /// Uplinks that take any.
    pub uplinks: Vec<CommandCounts>,
    /// Series whose every reading goes up for a time.
    pub details: Vec<DetailRow>,
    /// Readings out of history that are on their way up.
    pub backfills: Vec<BackfillRow>,
}

/// Commands of one uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandCounts {
    /// `[uplink.NAME]`.
    pub uplink: String,
    /// What it may ask for.
    pub allowed: Vec<String>,
    /// Carried out, ever.
    pub done: u64,
    /// Refused, ever.
    pub refused: u64,
    /// Known already and answered again, ever.
    pub repeated: u64,
}

/// A `detail` that is at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DetailRow {
    /// Which uplink.
    pub uplink: String,
    /// The command's id.
    pub id: String,
    /// Which series, as a glob.
    pub series: String,
    /// Of this pipeline alone.
    pub pipeline: Option<String>,
    /// Until when, milliseconds since the epoch.
    pub until: i64,
    /// Readings sent so far.
    pub sent: u64,
}

/// A `backfill` that is at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackfillRow {
    /// Which uplink.
    pub uplink: String,
    /// The command's id.
    pub id: String,
    /// Which series, as a glob.
    pub series: String,
    /// Of this pipeline alone.
    pub pipeline: Option<String>,
    /// From this time on, milliseconds since the epoch.
    pub from: i64,
    /// Up to this time, not in it, milliseconds since the epoch.
    pub to: i64,
    /// Readings sent so far.
    pub sent: u64,
}

/// Alarms and silent series.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlarmsStatus {
    /// Alarms that hold.
    pub active: u64,
    /// Those among them that somebody acknowledged.
    pub acknowledged: u64,
    /// Changes that were counted and not sent because there were too many, ever.
    pub suppressed: u64,
    /// Alarms that were not kept because there were too many at once, ever.
    pub lost: u64,
    /// Filters that change too many alarms now.
    pub floods: u64,
    /// Series that are listened for.
    pub series: u64,
    /// Those among them that have been silent for longer than their source's `stale-after`.
    pub stale: u64,
    /// Readings of series that there is no room to listen for, ever.
    pub unheard: u64,
    /// The gravest alarms, at most [`AlarmsStatus::ITEMS`]; `/api/v1/alarms` has more.
    pub items: Vec<AlarmRow>,
    /// The series that have been silent for longest, likewise.
    pub stale_items: Vec<StaleRow>,
}

impl AlarmsStatus {
    /// Alarms, and stale series, that a snapshot holds.
    pub const ITEMS: usize = 50;
}

/// An alarm that holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlarmRow {
    /// The source's name, where the gateway itself found something at a source.
    pub source: Option<String>,
    /// The pipeline's name, where a filter raised it.
    pub pipeline: Option<String>,
    /// The filter's name.
    pub filter: String,
    /// The series it is about.
    pub series: String,
    /// Short and stable.
    pub code: String,
    /// How grave.
    pub severity: AlarmSeverity,
    /// Where in its life it is.
    pub state: AlarmState,
    /// The causing reading's time, milliseconds since the epoch.
    pub time: i64,
    /// For people.
    pub text: String,
    /// The value that caused it, where it is a number.
    pub value: Option<f64>,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// When, milliseconds since the epoch.
    pub acknowledged_at: Option<i64>,
    /// It changes too often: changes are counted and not sent.
    pub flooding: bool,
    /// Changes that were not sent since the last one that was.
    pub suppressed: u64,
}

/// A series that has been silent for too long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StaleRow {
    /// The source's name.
    pub source: String,
    /// The series' name.
    pub series: String,
    /// When it was heard last, milliseconds since the epoch.
    pub heard: i64,
}

/// How grave an alarm is; the order is that of gravity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmSeverity {
    /// Worth knowing.
    #[default]
    Info,
    /// Needs somebody's attention.
    Warning,
    /// Needs somebody now.
    Critical,
}

/// Where in its life an alarm is that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmState {
    /// Nobody has acknowledged it.
    #[default]
    Raised,
    /// Somebody knows.
    Acknowledged,
}

/// Warnings or errors that say the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorGroup {
    /// When it happened last, milliseconds since the epoch.
    pub time: i64,
    /// How grave.
    pub level: ErrorLevel,
    /// What it came from: `source plant`, `pipeline temperature`, a log target.
    pub target: String,
    /// What it says.
    pub message: String,
    /// How often it happened since the start.
    pub count: u64,
}

/// How grave a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorLevel {
    /// Something failed.
    #[default]
    Error,
    /// Something is not as it should be.
    Warn,
}

/// One closed window of one series: `from <= time < to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SummaryRow {
    /// The series' name, as the device sent it.
    pub series: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Begin of the window, milliseconds since the epoch.
    pub from: i64,
    /// End of the window, not in it, milliseconds since the epoch.
    pub to: i64,
    /// Readings in it.
    pub count: u64,
    /// Least value; `null` where the window holds no number.
    pub min: Option<f64>,
    /// Greatest value, likewise.
    pub max: Option<f64>,
    /// Arithmetic mean, likewise.
    pub mean: Option<f64>,
    /// The value with the greatest time, likewise.
    pub last: Option<f64>,
    /// What is measured, as configured in `[series."…"]`: `°C`.
    pub measure: Option<String>,
}

/// A one-word name for each state, as in the API.
macro_rules! words {
    ($($type:ident { $($variant:ident => $word:literal),+ $(,)? })+) => { $(
        impl $type {
            /// Every state, in the order of the words.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word of the API and of the metrics' `state` label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+ };
}

words! {
    GatewayState { Online => "online", Degraded => "degraded" }
    SourceState { Connecting => "connecting", Subscribed => "subscribed", BackingOff => "backing-off" }
    FilterState { Running => "running", Tripped => "tripped" }
    StoreState {
        Healthy => "healthy", Degraded => "degraded", ReadOnly => "read-only", Full => "full",
        Corrupt => "corrupt",
    }
    UplinkState { Connecting => "connecting", Connected => "connected", BackingOff => "backing-off" }
    CertificateRole { Own => "own", Ca => "ca", Server => "server" }
    Circuit { Closed => "closed", Open => "open", HalfOpen => "half-open" }
    ModuleState {
        Idle => "idle", Active => "active", Candidate => "candidate",
        Previous => "previous", Refused => "refused"
    }
    ModuleOrigin { Factory => "factory", Local => "local", Signed => "signed", Channel => "channel" }
    InstallState {
        Nothing => "nothing", Waiting => "waiting", Rehearsing => "rehearsing", Trying => "trying",
        Settled => "settled", GoingBack => "going-back",
    }
    DeployState {
        Waiting => "waiting", Current => "current", Expiring => "expiring", Expired => "expired",
        Unreachable => "unreachable", Refused => "refused",
    }
    ErrorLevel { Error => "error", Warn => "warn" }
    AlarmSeverity { Info => "info", Warning => "warning", Critical => "critical" }
    AlarmState { Raised => "raised", Acknowledged => "acknowledged" }
}
