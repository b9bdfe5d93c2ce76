//! Every bound of the data path, with its unit in its name and its consequence beside it (DESIGN 10).

use std::time::Duration;

/// Readings that go through a filter in one call. A longer batch is cut; nothing is refused.
pub const BATCH_ROWS: usize = 1024;
/// Payload bytes taken from a source into one batch. A longer queue waits for the next batch.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Readings in one commit group; the group commits when it is reached.
pub const GROUP_ROWS: usize = 8192;
/// Payload bytes in one commit group; the group commits when it is reached.
pub const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Answers of uplinks in one commit group; the group commits when it is reached. Four times as many may wait for their
/// commit, then nothing more is sent up.
pub const SETTLED_TOGETHER: usize = 1024;
/// Messages of one source that wait for the pipeline. When full, the source's connection is read no further.
pub const SOURCE_QUEUE_MESSAGES: usize = 4096;
/// Payload bytes of one source that wait for the pipeline, likewise.
pub const SOURCE_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// The largest payload that is decoded. A larger one goes to quarantine, cut to `QUARANTINE_BYTES`.
pub const PAYLOAD_BYTES: usize = 1024 * 1024;
/// The largest MQTT packet that is read from a broker. It leaves room for a topic of 64 KiB and properties
/// above `PAYLOAD_BYTES`, so that an oversize payload is quarantined instead of ending the connection.
pub const PACKET_BYTES: usize = 16 * 1024 * 1024;
/// Bytes kept of one quarantined message. The ledger counts it whole, its row says how long it was.
pub const QUARANTINE_BYTES: usize = 64 * 1024;
/// Nesting of a JSON payload. A deeper one goes to quarantine.
pub const JSON_DEPTH: usize = 32;
/// Readings out of one message. A message with more goes to quarantine.
pub const MESSAGE_READINGS: usize = 65_536;
/// Bytes of a series name. A message that would name a longer one goes to quarantine.
pub const SERIES_NAME_BYTES: usize = 512;
/// Bytes of a text value. A longer text makes its message go to quarantine.
pub const TEXT_BYTES: usize = 16 * 1024;
/// One outbox item; readings of one batch are cut into as many items as needed.
pub const OUTBOX_ITEM_BYTES: usize = 64 * 1024;
/// Linear memory of one filter instance. A filter that asks for more traps.
pub const FILTER_MEMORY_BYTES: usize = 16 * 1024 * 1024;
/// Directories that a site names for modules, and that one manifest asks for.
pub const DIRECTORIES: usize = 16;
/// Series that one call of a filter's `tick` is about. With more of them there are more calls.
pub const TICK_SERIES: usize = 1024;
/// Time between two ticks of a filter whose manifest does not say.
pub const TICK: Duration = Duration::from_mins(1);
/// The least: what a tick costs is its deadline, and this keeps the part of a core that it may use down to a half.
pub const TICK_MIN: Duration = Duration::from_secs(1);
/// The most.
pub const TICK_MAX: Duration = Duration::from_hours(24);
/// CPU time of one filter call. A filter that needs more is stopped, which counts as a trap.
pub const FILTER_DEADLINE: Duration = Duration::from_millis(250);
/// Entries of one function table of a filter. A filter that asks for more traps; an interpreter compiled to WebAssembly has
/// some thousands.
pub const TABLE_ELEMENTS: usize = 20_000;
/// Bytes of the rows that one filter call changes or adds, each row with its own name and text. More are an answer that
/// means nothing: a text that many rows refer to is stored and sent with each of them.
pub const OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that one host call may move in or out of a filter.
pub const HOST_CALL_BYTES: usize = 4 * 1024 * 1024;
/// One record of per-series filter state.
pub const SERIES_STATE_BYTES: usize = 256;
/// All of a filter's global state, keys and values.
pub const GLOBAL_STATE_BYTES: usize = 1024 * 1024;
/// Keys of a filter's global state; a further one is refused to the module.
pub const GLOBAL_STATE_KEYS: usize = 10_000;
/// Bytes of one key of global state.
pub const GLOBAL_STATE_KEY_BYTES: usize = 1024;
/// Series that one filter keeps state for; a state for a further one is refused as a fault of the filter.
pub const STATE_SERIES: usize = 100_000;
/// A module's component file. A larger one is refused, unless its manifest asks for more and the site's policy lets it.
pub const MODULE_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// What no manifest and no policy goes beyond: the component is held in memory while it is checked and compiled.
pub const MODULE_FILE_MOST_BYTES: u64 = 64 * 1024 * 1024;
/// Wall time of one compilation; then the child is killed and the module refused.
pub const COMPILE_TIME: Duration = Duration::from_secs(60);
/// Address space of one compilation above what the child has mapped at its start.
pub const COMPILE_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Log lines of one module in a second; further ones are counted and dropped.
pub const LOG_LINES_PER_SECOND: u32 = 10;
/// Names of metrics of one filter; further ones are counted and ignored.
pub const METRIC_NAMES: usize = 32;
/// Changes of alarms of one filter in a minute; a call that makes more has failed, and its batch goes by the filter's
/// policy. (From far fewer on the alarms are a flood: see `alarm::Limits`.)
pub const ALARMS_PER_MINUTE: u32 = 10_000;
/// Body of a request to the status server.
pub const HTTP_BODY_BYTES: usize = 1024 * 1024;
/// Bytes of one root of a repository. A larger one is refused.
pub const DEPLOY_ROOT_BYTES: u64 = 512 * 1024;
/// Bytes of a repository's timestamp.
pub const DEPLOY_TIMESTAMP_BYTES: u64 = 16 * 1024;
/// Bytes of a repository's snapshot.
pub const DEPLOY_SNAPSHOT_BYTES: u64 = 1024 * 1024;
/// Bytes of a repository's targets: room for some ten thousand files.
pub const DEPLOY_TARGETS_BYTES: u64 = 4 * 1024 * 1024;
/// Roots that one look follows. A device that missed more needs a newer one from its operator.
pub const DEPLOY_ROOTS: u64 = 256;
/// Metadata files that one look fetches.
pub const DEPLOY_METADATA_FILES: usize = 300;
/// Bytes of metadata that one look fetches and holds.
pub const DEPLOY_METADATA_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of all files that a channel keeps on the device. A channel that names more is refused.
pub const DEPLOY_KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// Silence after which a transfer from a repository is given up.
pub const DEPLOY_SILENCE: Duration = Duration::from_secs(30);
/// Processing attempts of a redelivered message after unclean exits, the first of them in a batch; the last one goes to
/// quarantine undecoded.
pub const ATTEMPTS: u32 = 4;
/// Identities of messages that are remembered of one source, unless it is told otherwise. A message that comes twice with
/// more new ones in between is taken for new.
pub const IDENTITIES: u32 = 65_536;
/// How long after its end a window stays open for readings that arrive late.
pub const LATENESS: Duration = Duration::from_secs(2);
/// How long a commit group waits for company.
pub const LINGER: Duration = Duration::from_millis(100);
/// Letters of the name or version of a published module, and of a channel's name.
pub const NAME_BYTES: usize = 64;
/// A release document, which holds a manifest. A larger one is refused.
pub const RELEASE_BYTES: usize = 512 * 1024;
/// A module's golden vectors. A larger file is refused.
pub const VECTORS_BYTES: usize = 4 * 1024 * 1024;
/// A module's bill of materials. A larger one is refused.
pub const SBOM_BYTES: usize = 1024 * 1024;
/// A module's provenance. A larger one is refused.
pub const PROVENANCE_BYTES: usize = 64 * 1024;
/// A channel document. A larger one is refused.
pub const CHANNEL_BYTES: usize = 256 * 1024;
/// Modules of one channel. A document with more is refused.
pub const CHANNEL_MODULES: usize = 256;
/// The last epoch of a channel: beyond 2^53 readers of JSON lose digits.
pub const CHANNEL_EPOCH_MOST: u64 = 1 << 53;
/// Waves of one channel document. One with more is refused.
pub const CHANNEL_WAVES: usize = 16;
/// How long after its document a wave may come.
pub const CHANNEL_WAVE_AFTER: Duration = Duration::from_hours(90 * 24);
/// Gateways of one channel that the publisher's side remembers. The reports of further ones do not count, and that is said.
pub const FLEET_GATEWAYS: usize = 250_000;
/// Bytes of a gateway's name there. What comes under a longer one does not count.
pub const FLEET_GATEWAY_BYTES: usize = 128;
/// Bytes that are kept of what a gateway gives as its reason, and of the list of what it runs; the rest is cut.
pub const FLEET_TEXT_BYTES: usize = 512;
/// Bytes of one message of reports, in clear. A larger one is counted as unreadable.
pub const FLEET_MESSAGE_BYTES: usize = 1024 * 1024;
/// A gateway that said nothing new for so long no longer belongs to the fleet: it does not count as a part of a wave. Gateways
/// report epochs alone, so that it is longer than channels go without one.
pub const FLEET_FORGET: Duration = Duration::from_hours(400 * 24);
/// The greatest factor of a channel's gate: a greater one would judge nothing.
pub const GATE_FACTOR: f64 = 1000.0;
/// The longest time that a channel's gate gives a candidate.
pub const GATE_TIME: Duration = Duration::from_hours(30 * 24);
