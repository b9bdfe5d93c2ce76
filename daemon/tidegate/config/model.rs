//! What a configuration means after checking: plain values, every default filled in, every name resolved.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_deploy::Url;
use tidegate_domain::alarm;
use tidegate_domain::channel::Name;
use tidegate_domain::command;
use tidegate_domain::install::DailyWindow;
use tidegate_domain::item::Priority;
use tidegate_domain::outcome::Severity;
use tidegate_domain::signature::PublicKey;
use tidegate_ingest::{Framing, Link, ModbusLine, PinBias, Port, Query, ReadGroup, SysfsKind};
use tidegate_pipeline::LoadLimits;
use tidegate_pipeline::decode::BinaryField;
use tidegate_tls::TlsConfig;
use tidegate_uplink::payload::Encoding;

use super::bounds::Limits;
use super::report::Place;
use crate::rollouts;

/// A valid configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Who this gateway is and where it keeps its state.
    pub(crate) gateway: Gateway,
    /// Bounds of the database.
    pub(crate) store: Store,
    /// The status page.
    pub(crate) status: Status,
    /// From how many changes of alarms in a minute on it is a flood.
    pub(crate) alarms: alarm::Limits,
    /// Where data comes from, in the order of the files.
    pub(crate) sources: Vec<Source>,
    /// Descriptions of series; the first that matches counts.
    pub(crate) series: Vec<SeriesDescription>,
    /// What happens to it, in the order of the files.
    pub(crate) pipelines: Vec<Pipeline>,
    /// Where it goes, in the order of the files.
    pub(crate) uplinks: Vec<Uplink>,
    /// Updates over the air.
    pub(crate) deploy: Option<Deploy>,
    /// Local modules.
    pub(crate) modules: Modules,
    /// What this site lets any module have.
    pub(crate) policy: Policy,
    /// How new generations of chains come in.
    pub(crate) rollout: rollouts::Settings,
    /// Every effective value and where it comes from, in the order of the sections.
    pub(crate) origins: Vec<Setting>,
    pub(super) places: BTreeMap<String, Place>,
}

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its key, as in `source.plant.in-flight`.
    pub(crate) key: String,
    /// The value as text, passwords masked.
    pub(crate) value: String,
    /// Who set it.
    pub(crate) from: From,
}

/// Where an effective value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// A file, and the line in it from 1.
    File(String, usize),
    /// An environment variable.
    Environment(String),
    /// Nobody set it.
    Default,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// The identity in topics, payloads and client ids.
    pub(crate) id: String,
    /// Database, compiled modules and the device's secret.
    pub(crate) state_dir: PathBuf,
    /// When the wall clock counts as set.
    pub(crate) clock: ClockTrust,
}

/// When the wall clock counts as set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockTrust {
    /// When it shows a time after this program was built.
    Set,
    /// When the kernel says besides that it is synchronised.
    Synchronised,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    /// Bytes of database and write-ahead log together.
    pub(crate) max_size: u64,
    /// What happens at that bound.
    pub(crate) full: Full,
    /// Age at which history expires.
    pub(crate) max_age: Duration,
    /// How long a commit group waits for company.
    pub(crate) linger: Duration,
}

/// What happens when `store.max-size` is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Full {
    /// What matters least is given up.
    #[default]
    Evict,
    /// Nothing undelivered is given up: sources wait.
    Stop,
}

/// `[status]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Where the page is served.
    pub(crate) listen: SocketAddr,
}

/// `[source.NAME]`
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) name: String,
    /// What it is, with what only that kind has.
    pub(crate) kind: SourceKind,
    /// How a payload becomes readings.
    pub(crate) decode: Decode,
    /// By what a message that comes twice is known.
    pub(crate) identity: Option<Identity>,
    /// Silence of a series after which it is stale.
    pub(crate) stale_after: Duration,
    /// Which alarm that is; `None` for none.
    pub(crate) stale_alarm: Option<Severity>,
}

/// `identity` and `identity-window`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Where it is.
    pub(crate) by: IdentityBy,
    /// How many are remembered.
    pub(crate) window: u32,
}

/// Where a message's identity is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IdentityBy {
    /// A path into a JSON object or the name of a CSV column.
    Field(String),
    /// A user property of MQTT 5, or `correlation-data`.
    Property(String),
}

/// The kinds of source.
#[derive(Clone, Debug)]
pub(crate) enum SourceKind {
    /// Subscriptions at an MQTT broker.
    Mqtt(MqttSource),
    /// Frames of a serial line.
    Serial(SerialSource),
    /// Registers of Modbus slaves.
    Modbus(ModbusSource),
    /// Sensors that the kernel reads.
    Sysfs(SysfsSource),
    /// A module on a bus.
    Driver(DriverSource),
}

impl SourceKind {
    /// The word in the configuration.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Mqtt(_) => "mqtt",
            Self::Serial(_) => "serial",
            Self::Modbus(modbus) => match modbus.line.link {
                Link::Serial(_) => "modbus-rtu",
                Link::Tcp { .. } => "modbus-tcp",
            },
            Self::Sysfs(sysfs) => sysfs.kind.as_str(),
            Self::Driver(_) => "driver",
        }
    }
}

/// `kind = "serial"`
#[derive(Clone, Debug)]
pub(crate) struct SerialSource {
    /// The device and how it is set.
    pub(crate) port: Port,
    /// How the stream is cut.
    pub(crate) framing: Framing,
    /// Bytes of the longest frame.
    pub(crate) longest: usize,
    /// Silence that ends a frame, or what is begun of one.
    pub(crate) pause: Option<Duration>,
    /// Written once, when the line is opened.
    pub(crate) initial: Vec<u8>,
    /// Written again and again.
    pub(crate) query: Option<Query>,
}

/// `kind = "driver"`
#[derive(Clone, Debug)]
pub(crate) struct DriverSource {
    /// Which module runs.
    pub(crate) module: String,
    /// A JSON object.
    pub(crate) settings: serde_json::Value,
    /// Bounds of its own, within those of the site.
    pub(crate) limits: Limits,
    /// Time between two polls.
    pub(crate) interval: Duration,
    /// How long one may take.
    pub(crate) timeout: Duration,
    /// What it may reach.
    pub(crate) handed: Vec<Handed>,
}

/// A bus that a driver is handed.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    /// What the driver calls it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) grant: BusGrant,
}

/// What a driver may reach.
#[derive(Clone, Debug)]
pub(crate) enum BusGrant {
    /// One address of an I²C bus.
    I2c { device: PathBuf, address: u8 },
    /// A device on SPI.
    Spi {
        device: PathBuf,
        speed: u32,
        mode: u8,
    },
    /// A single line.
    Gpio {
        chip: PathBuf,
        line: u32,
        output: bool,
        active_low: bool,
        bias: Option<PinBias>,
    },
    /// A serial line.
    Uart { port: Port, timeout: Duration },
}

impl BusGrant {
    /// For people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::I2c { device, address } => format!("{} 0x{address:02x}", device.display()),
            Self::Spi { device, .. } => device.display().to_string(),
            Self::Gpio { chip, line, .. } => format!("{} line {line}", chip.display()),
            Self::Uart { port, .. } => port.device.display().to_string(),
        }
    }
}

/// `kind = "iio"` and `"hwmon"`
#[derive(Clone, Debug)]
pub(crate) struct SysfsSource {
    /// Which of the two.
    pub(crate) kind: SysfsKind,
    /// The directory of the devices.
    pub(crate) root: PathBuf,
    /// Time between two readings.
    pub(crate) interval: Duration,
    /// Those that are read, by name, label or place; empty for all.
    pub(crate) devices: Vec<String>,
}

/// `kind = "modbus-rtu"` and `"modbus-tcp"`
#[derive(Clone, Debug)]
pub(crate) struct ModbusSource {
    /// How slaves are reached.
    pub(crate) line: ModbusLine,
    /// What is read.
    pub(crate) groups: Vec<ReadGroup>,
    /// Units of measure, by series.
    pub(crate) measures: Vec<(String, String)>,
}

/// `kind = "mqtt"`
#[derive(Clone, Debug)]
pub(crate) struct MqttSource {
    /// How to reach and greet the broker.
    pub(crate) broker: Broker,
    /// What to subscribe to; at least one.
    pub(crate) subscribe: Vec<Subscription>,
    /// Unacknowledged messages that a 3.1.1 broker sends; on 5 we announce a number of our own.
    pub(crate) in_flight: u16,
    /// How long the broker keeps the session after a disconnect; 5 only.
    pub(crate) session_expiry: Duration,
}

/// A broker and our identity at it.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// What the connection's TLS is made of; without it the connection is in clear.
    pub(crate) tls: Option<TlsConfig>,
    /// The protocol.
    pub(crate) version: MqttVersion,
    /// Stable, so that the session survives restarts; unique at the broker.
    pub(crate) client_id: String,
    /// The user, if the broker wants one.
    pub(crate) username: Option<String>,
    /// The password; never without a user.
    pub(crate) password: Option<Secret<String>>,
    /// The file it was read from, for those who read it again for every connection.
    pub(crate) password_file: Option<PathBuf>,
    /// Silence after which a ping is sent; whole seconds.
    pub(crate) keep_alive: Duration,
}

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MqttVersion {
    /// 3.1.1
    V311,
    /// 5
    V5,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// The topic filter.
    pub(crate) topic: String,
    /// 0 or 1.
    pub(crate) qos: u8,
}

/// How a payload becomes readings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decode {
    /// A JSON value or object.
    Json {
        /// Where the time stands; arrival otherwise.
        time: Option<EventTime>,
    },
    /// One value, units cut off.
    Text,
    /// A decoder module.
    Module(DecoderModule),
    /// Separated columns.
    Csv {
        /// Their names, in order; one with an empty name is skipped. Without any, fields have numbers.
        columns: Vec<String>,
        /// What stands between them; ASCII.
        separator: u8,
        /// Which of them is the time; arrival otherwise.
        time: Option<EventTime>,
    },
    /// The named groups of a pattern.
    Regex {
        /// The pattern.
        pattern: String,
        /// Which of its groups is the time; arrival otherwise.
        time: Option<EventTime>,
    },
    /// Fields at fixed places.
    Binary {
        /// The fields.
        fields: Vec<BinaryField>,
    },
    /// The source has readings already.
    Lines,
}

/// `decode = { module = … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecoderModule {
    /// Which module runs.
    pub(crate) module: String,
    /// A JSON object.
    pub(crate) settings: serde_json::Value,
    /// Bounds of its own, within those of the site.
    pub(crate) limits: Limits,
    /// Secrets by the name under which the module asks for them.
    pub(crate) secrets: BTreeMap<String, Secret<Vec<u8>>>,
}

/// The field that says when a value was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventTime {
    /// Its name.
    pub(crate) field: String,
    /// How it is written.
    pub(crate) unit: TimeUnit,
}

/// How a time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeUnit {
    /// Seconds since the epoch.
    Seconds,
    /// Milliseconds since the epoch.
    Milliseconds,
    /// Microseconds since the epoch.
    Microseconds,
    /// Nanoseconds since the epoch.
    Nanoseconds,
    /// RFC 3339 text.
    Rfc3339,
}

/// `[series."GLOB"]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeriesDescription {
    /// Which series it describes.
    pub(crate) glob: String,
    /// The unit of measure.
    pub(crate) measure: Option<String>,
    /// For people.
    pub(crate) description: Option<String>,
    /// Which alarm its silence is, `Some(None)` for none; `None` leaves that to its source.
    pub(crate) stale_alarm: Option<Option<Severity>>,
}

/// `[pipeline.NAME]`
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    /// Its name.
    pub(crate) name: String,
    /// Indexes into [`Config::sources`], in the order written; at least one.
    pub(crate) from: Vec<usize>,
    /// Which series it takes; empty for all.
    pub(crate) series: Vec<String>,
    /// The chain.
    pub(crate) filters: Vec<Filter>,
    /// Summaries, if there are to be any.
    pub(crate) summary: Option<Summary>,
    /// How long what enters it is kept for rehearsals; `None` for not at all.
    pub(crate) keep_input: Option<Duration>,
    /// Where results go.
    pub(crate) to: Vec<Route>,
}

/// One filter of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// Unique in its pipeline; the module's name unless set, with `-2`, `-3` where it repeats.
    pub(crate) name: String,
    /// Which module runs.
    pub(crate) module: String,
    /// A JSON object.
    pub(crate) settings: serde_json::Value,
    /// What happens to a batch on which the module fails twice.
    pub(crate) on_failure: OnFailure,
    /// Bounds of its own, within those of the site.
    pub(crate) limits: Limits,
    /// Time between two ticks, where it is not the module that says.
    pub(crate) tick: Option<Duration>,
    /// Secrets by the name under which the module asks for them.
    pub(crate) secrets: BTreeMap<String, Secret<Vec<u8>>>,
}

/// What happens to a batch on which a module fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// It goes on unfiltered.
    Pass,
    /// It is counted and gone.
    Drop,
    /// It is kept aside, to be replayed.
    Quarantine,
}

/// `summary = { … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Length of the tumbling windows.
    pub(crate) window: Duration,
}

/// One entry of `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index into [`Config::uplinks`].
    pub(crate) uplink: usize,
    /// What is sent.
    pub(crate) send: Send,
    /// Low, normal or high; never alarm.
    pub(crate) priority: Priority,
}

/// What a route sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Send {
    /// Closed windows.
    Summary,
    /// Single readings.
    Readings,
    /// Both.
    Both,
}

/// `[uplink.NAME]`
#[derive(Clone, Debug)]
pub(crate) struct Uplink {
    /// Its name.
    pub(crate) name: String,
    /// How to reach and greet the broker.
    pub(crate) broker: Broker,
    /// The topic with `{kind}`, and perhaps `{gateway}`, still to be filled in.
    pub(crate) topic: String,
    /// Messages sent and not yet acknowledged.
    pub(crate) in_flight: u16,
    /// Their bytes.
    pub(crate) in_flight_bytes: usize,
    /// How long items wait to be sealed into a message together.
    pub(crate) linger: Duration,
    /// Bytes of a message's items.
    pub(crate) max_message: usize,
    /// Items of a message.
    pub(crate) max_items: u32,
    /// Hosts and ports of the brokers that have their turn when the first fails, with the same settings.
    pub(crate) failover: Vec<(String, u16)>,
    /// How long until the first is looked for again.
    pub(crate) failback: Duration,
    /// Bytes a second that may leave.
    pub(crate) rate_limit: Option<u64>,
    /// Live data's part of the bytes, in thousandths.
    pub(crate) live_share: u16,
    /// Format and compression of messages.
    pub(crate) encoding: Encoding,
    /// Commands that are taken over it.
    pub(crate) commands: Vec<command::Name>,
}

impl Uplink {
    /// Hosts and ports of its brokers, the first one first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, u16)> {
        let others = self
            .failover
            .iter()
            .map(|(host, port)| (host.as_str(), *port));
        std::iter::once((self.broker.host.as_str(), self.broker.port)).chain(others)
    }
}

/// `[deploy]`
#[derive(Clone, Debug)]
pub(crate) struct Deploy {
    /// The folder that holds `metadata/` and `targets/`.
    pub(crate) repository: Repository,
    /// The root metadata that is trusted at first.
    pub(crate) root: PathBuf,
    /// Which channel this gateway follows.
    pub(crate) channel: Name,
    /// How often it looks.
    pub(crate) poll: Duration,
    /// Silence after which a transfer is given up.
    pub(crate) timeout: Duration,
    /// Bytes a second that may come in.
    pub(crate) rate_limit: Option<u64>,
    /// Nothing new is installed.
    pub(crate) hold: bool,
    /// When something new may be installed, every day; always where there is none.
    pub(crate) window: Option<DailyWindow>,
    /// Which modules the site takes from the channel, as globs; empty: all.
    pub(crate) modules: Vec<String>,
    /// Whose settings win where both set one.
    pub(crate) settings: SettingsOf,
}

/// Whose settings win where the channel and the site's own file set the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingsOf {
    Channel,
    Site,
}

/// Where a repository is.
#[derive(Clone, Debug)]
pub(crate) enum Repository {
    /// On a web server.
    Http {
        /// `http` or `https`, with a host.
        url: Url,
        /// For `https`.
        tls: Option<TlsConfig>,
    },
    /// On this machine.
    Directory(PathBuf),
}

/// `[modules]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modules {
    /// Where local modules are: `<name>.wasm` and `<name>.json`.
    pub(crate) dir: PathBuf,
    /// Whose signature makes a local file runnable.
    pub(crate) trusted_keys: Vec<PublicKey>,
    /// Whether unsigned local files run.
    pub(crate) allow_unsigned: bool,
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Names of capabilities.
    pub(crate) grants: Vec<String>,
    /// Directories that modules may read in, by name; each lies in the root beside it.
    pub(crate) directories: BTreeMap<String, PathBuf>,
    /// What no filter's own limits go beyond.
    pub(crate) limits: Limits,
    /// What loading any module may use at most.
    pub(crate) loading: LoadLimits,
}

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps it.
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, to be handed on and never shown.
    pub(crate) fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Config {
    /// Where a key is written, for problems found by those who know more, such as a module's schema. A key that is not
    /// written answers with the nearest table around it.
    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(*place);
            }
            let cut = key.rfind(['.', '['])?;
            key = key.get(..cut)?;
        }
    }
}

/// A key below another, quoted where TOML would quote it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let dot = if path.is_empty() { "" } else { "." };
    if bare {
        format!("{path}{dot}{key}")
    } else {
        format!("{path}{dot}{key:?}")
    }
}
