//! From what was typed to what it means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_domain::signature::{BadKey, PublicKey};
use tidegate_domain::{alarm, limits};
use tidegate_ingest::Link;
use tidegate_pipeline::manifest::is_directory_name;

use super::bounds::{limits as limits_of, loading};
use super::deploy::deploy;
use super::model::{
    Broker, BusGrant, ClockTrust, Config, Full, Gateway, Modules, Policy, SeriesDescription,
    Source, SourceKind, Status, Store, join,
};
use super::mqtt::{Identity, check_identities, filter_matches};
use super::pipeline::{Names, check_glob, pipeline};
use super::raw::{Entry, Node, Raw, Table, Value};
use super::report::{Place, Problems};
use super::rollout::rollout;
use super::section::{At, Checker, Section, suggest};
use super::source::{STALE_ALARMS, source};
use super::units;
use super::uplink::uplink;
use super::{Loaded, Purpose};

/// Characters of a name. Names stand in topics, metrics and every stored row.
const NAME_CHARS: usize = 64;
/// Places that are remembered for problems found later.
const PLACES: usize = 10_000;
const STATE_DIR: &str = "/var/lib/tidegate";
const MAX_SIZE: u64 = 512 << 20;
/// Below it an empty database with its log has hardly room for a reading.
const MAX_SIZE_MIN: u64 = 4 << 20;
const MAX_SIZE_MAX: u64 = 16 << 40;
const MAX_AGE: Duration = Duration::from_hours(30 * 24);
const MAX_AGE_MIN: Duration = Duration::from_mins(1);
/// Ten years.
const MAX_AGE_MAX: Duration = Duration::from_hours(3650 * 24);
/// An acknowledgement that takes longer makes brokers send again.
const LINGER_MAX: Duration = Duration::from_secs(10);
/// More than anybody reads in a month.
const ALARMS_A_MINUTE_MAX: i64 = 1_000_000;
const LISTEN: &str = "127.0.0.1:8080";
const MODULES_DIR: &str = "/etc/tidegate/modules";
/// What a site grants that says nothing.
const GRANTS: [&str; 4] = ["log", "metrics", "state", "alarm"];
/// Every capability there is. What a filter's own settings and the time of its batch tell it needs no grant.
const CAPABILITIES: [&str; 9] = [
    "log",
    "metrics",
    "state",
    "alarm",
    "secrets",
    "wasi",
    "wasi:clocks",
    "wasi:random",
    "wasi:stdout",
];
const DIRECTORY_ROOT: &str = "/etc/tidegate/files";

/// What the machine says about itself.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) name: Option<String>,
    pub(super) machine_id: Option<String>,
}

impl Host {
    /// This machine.
    pub(super) fn this() -> Self {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        Self {
            name: read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname")),
            machine_id: read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id")),
        }
    }

    /// Host name and 8 hex digits of the machine id, and whether the digits are there: without them cloned images
    /// collide.
    fn gateway_id(&self) -> (String, bool) {
        let name: String = self
            .name
            .as_deref()
            .unwrap_or("gateway")
            .chars()
            .filter(|c| is_id_char(*c))
            .take(NAME_CHARS - 9)
            .collect();
        let name = if name.is_empty() { "gateway" } else { &name };
        let digits: Option<&str> = self
            .machine_id
            .as_deref()
            .and_then(|id| id.get(..8))
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits {
            Some(digits) => (format!("{name}-{digits}"), true),
            None => (name.to_owned(), false),
        }
    }
}

/// Checks the whole tree.
pub(super) fn check(
    raw: &Raw,
    problems: Problems,
    base: &Path,
    host: &Host,
    purpose: Purpose,
) -> Loaded {
    let mut cx = Checker {
        problems,
        settings: Vec::new(),
        base: base.to_owned(),
        purpose,
        state_dir: PathBuf::new(),
        broken: raw.broken,
        broken_lines: raw.broken_lines.clone(),
        dangling: false,
    };
    let mut config = root(&mut cx, &raw.root, host);
    cx.problems.sort();
    config.origins = cx.settings;
    Loaded {
        config: (!cx.problems.has_errors()).then_some(config),
        problems: cx.problems,
    }
}

/// Reports a name that cannot be one.
pub(super) fn check_name(cx: &mut Checker, what: &str, name: &str, place: Option<Place>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_CHARS || !name.bytes().all(plain) {
        let message = format!("`{name}` is no name of a {what}");
        let help = format!("write 1 to {NAME_CHARS} letters, digits, `-` and `_`");
        cx.error(place, message, help);
    }
}

fn root(cx: &mut Checker, table: &Table, host: &Host) -> Config {
    let mut root = Section::root(table);
    let gateway = gateway(cx, &mut root, host);
    let store = store(cx, &mut root);
    let status = status(cx, &mut root);
    let alarms = alarms(cx, &mut root);

    let source_entries = root.named(cx, "source");
    let series_entries = root.named(cx, "series");
    let pipeline_entries = root.named(cx, "pipeline");
    let uplink_entries = root.named(cx, "uplink");
    for (what, entries) in [
        ("source", &source_entries),
        ("pipeline", &pipeline_entries),
        ("uplink", &uplink_entries),
    ] {
        for entry in entries {
            check_name(cx, what, &entry.key, Some(entry.place));
        }
    }
    let names = Names {
        sources: source_entries.iter().map(|e| e.key.as_str()).collect(),
        uplinks: uplink_entries.iter().map(|e| e.key.as_str()).collect(),
    };
    let mut identities: Vec<Identity> = Vec::new();
    let sources: Vec<Source> = source_entries
        .iter()
        .filter_map(|entry| source(cx, entry, &gateway.id, &mut identities))
        .collect();
    let mut series: Vec<SeriesDescription> = series_entries
        .iter()
        .map(|entry| description(cx, entry))
        .collect();
    series.extend(sources.iter().flat_map(measures));
    let pipelines: Vec<_> = pipeline_entries
        .iter()
        .map(|entry| pipeline(cx, entry, &names))
        .collect();
    let uplinks = uplink_entries
        .iter()
        .filter_map(|entry| uplink(cx, entry, &gateway.id, &mut identities))
        .collect();
    check_identities(cx, &identities);

    let deploy = deploy(cx, &mut root);
    let modules = modules(cx, &mut root);
    let policy = policy(cx, &mut root);
    let rollout = rollout(cx, &mut root);
    root.finish(cx);

    let config = Config {
        gateway,
        store,
        status,
        alarms,
        sources,
        series,
        pipelines,
        uplinks,
        deploy,
        modules,
        policy,
        rollout,
        origins: Vec::new(),
        places: places(table),
    };
    check_whole(cx, &config, &source_entries, &uplink_entries);
    config
}

/// What a register map or the kernel says that values measure. What [series] says comes before it.
fn measures(source: &Source) -> Vec<SeriesDescription> {
    let measures: Vec<(String, String)> = match &source.kind {
        SourceKind::Mqtt(_) | SourceKind::Serial(_) | SourceKind::Driver(_) => Vec::new(),
        SourceKind::Modbus(modbus) => {
            let measures = modbus.measures.iter();
            measures
                .map(|(series, measure)| (globset::escape(series), measure.clone()))
                .collect()
        }
        SourceKind::Sysfs(sysfs) => {
            let measures = sysfs.kind.measures(&source.name).into_iter();
            measures
                .map(|(glob, measure)| (glob, measure.to_owned()))
                .collect()
        }
    };
    measures
        .into_iter()
        .map(|(glob, measure)| SeriesDescription {
            glob,
            measure: Some(measure),
            description: None,
            stale_alarm: None,
        })
        .collect()
}

/// What only the whole shows.
fn check_whole(cx: &mut Checker, config: &Config, sources: &[&Entry], uplinks: &[&Entry]) {
    if sources.is_empty() {
        let help = "add a section [source.NAME]; config/tidegate.toml shows one";
        cx.warning(
            None,
            "there is no source: nothing will come in",
            help.to_owned(),
        );
    }
    check_loops(cx, config);
    check_identity_room(cx, config);
    check_devices(cx, config);
    for (index, entry) in sources.iter().enumerate() {
        if !cx.dangling
            && !config
                .pipelines
                .iter()
                .any(|pipeline| pipeline.from.contains(&index))
        {
            let message = format!(
                "no pipeline reads source `{}`: its messages will be counted and dropped",
                entry.key
            );
            let help = format!("add from = [\"{}\"] to a pipeline", entry.key);
            cx.warning(Some(entry.place), message, help);
        }
    }
    for (index, entry) in uplinks.iter().enumerate() {
        let used = config
            .pipelines
            .iter()
            .any(|pipeline| pipeline.to.iter().any(|route| route.uplink == index));
        if !used && !cx.dangling {
            let message = format!("no pipeline sends to uplink `{}`", entry.key);
            let help = format!("add to = [{{ uplink = \"{}\" }}] to a pipeline", entry.key);
            cx.warning(Some(entry.place), message, help);
        }
    }
    for pipeline in &config.pipelines {
        let Some(summary) = &pipeline.summary else {
            continue;
        };
        if summary.window > config.store.max_age {
            let key = join(&join("pipeline", &pipeline.name), "summary.window");
            let message =
                "the window is longer than history is kept: a restart would leave it incomplete";
            cx.warning(
                config.place(&key),
                message,
                "raise store.max-age above it".to_owned(),
            );
        }
    }
}

/// Drivers of one gateway: each holds a place of a guest while its bus keeps it waiting, and those left are for filters.
const DRIVERS: usize = 8;

/// A serial line is one source's: the second one would open nothing, or take half of what comes. So is a device on a bus.
fn check_devices(cx: &mut Checker, config: &Config) {
    let mut seen: BTreeMap<(PathBuf, Option<u32>), &str> = BTreeMap::new();
    let mut devices: Vec<(&Source, &Path, Option<u32>)> = Vec::new();
    let mut drivers = 0;
    for source in &config.sources {
        match &source.kind {
            SourceKind::Mqtt(_) | SourceKind::Sysfs(_) => {}
            SourceKind::Serial(serial) => devices.push((source, &serial.port.device, None)),
            SourceKind::Modbus(modbus) => match &modbus.line.link {
                Link::Serial(port) => devices.push((source, &port.device, None)),
                Link::Tcp { .. } => {}
            },
            SourceKind::Driver(driver) => {
                drivers += 1;
                if drivers == DRIVERS + 1 {
                    let key = join(&join("source", &source.name), "kind");
                    let message = format!("there are more than {DRIVERS} drivers");
                    let help = "let one module read several devices: hand it all of their buses";
                    cx.error(config.place(&key), message, help.to_owned());
                }
                devices.extend(driver.handed.iter().map(|handed| match &handed.grant {
                    BusGrant::I2c { device, address } => {
                        (source, device.as_path(), Some(u32::from(*address)))
                    }
                    BusGrant::Spi { device, .. } => (source, device.as_path(), None),
                    BusGrant::Gpio { chip, line, .. } => (source, chip.as_path(), Some(*line)),
                    BusGrant::Uart { port, .. } => (source, port.device.as_path(), None),
                }));
            }
        }
    }
    for (source, device, part) in devices {
        // A link below /dev/serial and the device that it leads to are the same, where this machine has them.
        let device = std::fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
        let Some(first) = seen.insert((device.clone(), part), &source.name) else {
            continue;
        };
        let key = join(&join("source", &source.name), "device");
        let message = format!("source `{first}` reads `{}` already", device.display());
        let help = "one source has a device: give all slaves of a bus to one Modbus source, or name another device";
        cx.error(config.place(&key), message, help.to_owned());
    }
}

/// Identities are never given up for space: they must leave room for what they identify.
fn check_identity_room(cx: &mut Checker, config: &Config) {
    let identities = config
        .sources
        .iter()
        .filter_map(|source| source.identity.as_ref());
    // 16 bytes each, a row for every commit of them, and an eighth more than the window.
    let bytes: u64 = identities
        .map(|identity| u64::from(identity.window) * 24)
        .sum();
    if bytes > config.store.max_size / 8 {
        let message = format!(
            "the identities of messages can take {} of the store's {}",
            units::show_size(bytes),
            units::show_size(config.store.max_size)
        );
        let help = "they may take an eighth: lower `identity-window`, or raise `store.max-size`";
        cx.error(config.place("store.max-size"), message, help.to_owned());
    }
}

/// A source that reads what an uplink sends multiplies it for ever.
fn check_loops(cx: &mut Checker, config: &Config) {
    for source in &config.sources {
        let SourceKind::Mqtt(mqtt) = &source.kind else {
            continue;
        };
        for uplink in &config.uplinks {
            let topic = uplink
                .topic
                .replace("{gateway}", &config.gateway.id)
                .replace("{kind}", "summary");
            let read = mqtt.subscribe.iter().position(|subscription| {
                uplink
                    .addresses()
                    .any(|address| same_broker(&mqtt.broker, address))
                    && filter_matches(&subscription.topic, &topic)
            });
            let Some(index) = read else { continue };
            let key = join("source", &source.name);
            let message = format!(
                "source `{}` reads what uplink `{}` sends to the same broker: it would go round for ever",
                source.name, uplink.name
            );
            let help = "subscribe to the sensors' topics alone, or send to another broker";
            cx.error(
                config.place(&format!("{key}.subscribe[{index}].topic")),
                message,
                help.to_owned(),
            );
        }
    }
}

fn same_broker(one: &Broker, (host, port): (&str, u16)) -> bool {
    fn name(host: &str) -> &str {
        match host {
            "localhost" | "::1" => "127.0.0.1",
            other => other,
        }
    }
    one.port == port && name(&one.host).eq_ignore_ascii_case(name(host))
}

fn gateway(cx: &mut Checker, root: &mut Section<'_>, host: &Host) -> Gateway {
    let mut section = root.section(cx, "gateway");
    let (default, unique) = host.gateway_id();
    let id = section.text_or(cx, "id", &default);
    let help = format!("write 1 to {NAME_CHARS} letters, digits, `.`, `-` and `_`");
    if id.value.is_empty() || id.value.len() > NAME_CHARS || !id.value.chars().all(is_id_char) {
        let message = format!(
            "`{}` cannot be a gateway's id, which is a level of its topics",
            id.value
        );
        cx.error(id.place, message, help);
    }
    if id.place.is_none() && !unique {
        let message = format!(
            "this machine has no machine id: the gateway is called `{default}`, and so are its clones"
        );
        let help = "write id = \"…\" below [gateway], or run systemd-machine-id-setup";
        cx.warning(section.place(), message, help.to_owned());
    }
    let state_dir = section.text_or(cx, "state-dir", STATE_DIR);
    check_path(cx, &state_dir);
    let clock = section.choice(
        cx,
        "clock",
        &[
            ("set", ClockTrust::Set),
            ("synchronised", ClockTrust::Synchronised),
        ],
        "set",
    );
    section.finish(cx);
    cx.state_dir = cx.resolve(&state_dir.value);
    Gateway {
        id: id.value,
        state_dir: cx.state_dir.clone(),
        clock: clock.unwrap_or(ClockTrust::Set),
    }
}

fn store(cx: &mut Checker, root: &mut Section<'_>) -> Store {
    let mut section = root.section(cx, "store");
    let max_size = section.size_or(cx, "max-size", MAX_SIZE_MIN..=MAX_SIZE_MAX, MAX_SIZE);
    let full = section.choice(
        cx,
        "full",
        &[("evict", Full::Evict), ("stop", Full::Stop)],
        "evict",
    );
    let max_age = section.duration_or(cx, "max-age", MAX_AGE_MIN..=MAX_AGE_MAX, MAX_AGE);
    let linger = section.duration_or(cx, "linger", Duration::ZERO..=LINGER_MAX, limits::LINGER);
    section.finish(cx);
    Store {
        max_size: max_size.value,
        full: full.unwrap_or_default(),
        max_age: max_age.value,
        linger: linger.value,
    }
}

fn status(cx: &mut Checker, root: &mut Section<'_>) -> Status {
    let mut section = root.section(cx, "status");
    let text = section.text_or(cx, "listen", LISTEN);
    section.finish(cx);
    let listen = text.value.parse::<SocketAddr>().unwrap_or_else(|_| {
        let message = format!("`{}` is no address to listen on", text.value);
        let help = format!("write an IP address and a port, as in \"{LISTEN}\" or \"[::1]:8080\"");
        cx.error(text.place, message, help);
        SocketAddr::from(([127, 0, 0, 1], 0))
    });
    if !listen.ip().is_loopback() {
        let message = format!(
            "`{listen}` is reached from other machines, and the page asks nobody for a password"
        );
        let help = format!("write listen = \"{LISTEN}\" and put a proxy that asks before it");
        cx.warning(text.place, message, help);
    }
    Status { listen }
}

fn alarms(cx: &mut Checker, root: &mut Section<'_>) -> alarm::Limits {
    let mut section = root.section(cx, "alarms");
    let default = alarm::Limits::default();
    let mut limit = |key, default: u32| {
        let found = section.integer(cx, key, 2..=ALARMS_A_MINUTE_MAX, i64::from(default));
        u32::try_from(found.value).unwrap_or(default)
    };
    let limits = alarm::Limits {
        alarm: limit("changes-per-minute", default.alarm),
        filter: limit("filter-changes-per-minute", default.filter),
    };
    section.finish(cx);
    limits
}

fn description(cx: &mut Checker, entry: &Entry) -> SeriesDescription {
    let mut section = Section::at(cx, join("series", &entry.key), &entry.node);
    let glob = At {
        value: entry.key.clone(),
        place: Some(entry.place),
    };
    check_glob(cx, &glob);
    let measure = section.text(cx, "measure");
    let description = section.text(cx, "description");
    let stale_alarm = section
        .key_place("stale-alarm")
        .and_then(|_| section.choice(cx, "stale-alarm", &STALE_ALARMS, "none"));
    section.finish(cx);
    SeriesDescription {
        glob: glob.value,
        measure: measure.map(|text| text.value),
        description: description.map(|text| text.value),
        stale_alarm,
    }
}

fn modules(cx: &mut Checker, root: &mut Section<'_>) -> Modules {
    let mut section = root.section(cx, "modules");
    let dir = section.text_or(cx, "dir", MODULES_DIR);
    check_path(cx, &dir);
    let trusted_keys = section.texts(cx, "trusted-keys");
    if trusted_keys.is_none() {
        section.default(cx, "trusted-keys", "[]");
    }
    let trusted_keys = trusted_keys.unwrap_or_default();
    let mut keys: Vec<PublicKey> = Vec::new();
    for key in trusted_keys {
        match key.value.parse() {
            Ok(known) if keys.contains(&known) => cx.error(
                key.place,
                "the key is named twice",
                "remove one of the two".to_owned(),
            ),
            Ok(new) => keys.push(new),
            Err(bad) => {
                let bad: BadKey = bad;
                let help = "`tidegate repo sign` prints the line to write here; a private key stays with its publisher";
                cx.error(key.place, bad.to_string(), help.to_owned());
            }
        }
    }
    let allow_unsigned = section.flag(cx, "allow-unsigned", false);
    if allow_unsigned.value {
        cx.warning(
            allow_unsigned.place,
            "unsigned module files will run: whoever can write to `modules.dir` decides what this gateway does",
            "on a gateway in the field write allow-unsigned = false".to_owned(),
        );
    }
    section.finish(cx);
    Modules {
        dir: cx.resolve(&dir.value),
        trusted_keys: keys,
        allow_unsigned: allow_unsigned.value,
    }
}

fn policy(cx: &mut Checker, root: &mut Section<'_>) -> Policy {
    let mut section = root.section(cx, "policy");
    let written = section.texts(cx, "grants");
    if written.is_none() {
        section.default(cx, "grants", &format!("{GRANTS:?}"));
    }
    let directories = directories(cx, &mut section);
    let limits = limits_of(cx, &mut section);
    let loading = loading(cx, &mut section);
    section.finish(cx);
    let Some(written) = written else {
        return Policy {
            grants: GRANTS.map(str::to_owned).to_vec(),
            directories,
            limits,
            loading,
        };
    };
    for (index, grant) in written.iter().enumerate() {
        if !CAPABILITIES.contains(&grant.value.as_str()) {
            let message = format!("`{}` is nothing that could be granted", grant.value);
            cx.error(grant.place, message, suggest(&grant.value, &CAPABILITIES));
        } else if written
            .iter()
            .take(index)
            .any(|other| other.value == grant.value)
        {
            let message = format!("`{}` is granted twice", grant.value);
            cx.error(grant.place, message, "remove one of the two".to_owned());
        }
    }
    Policy {
        grants: written.into_iter().map(|grant| grant.value).collect(),
        directories,
        limits,
        loading,
    }
}

/// The directories that modules may read in, each with the root that it lies in.
fn directories(cx: &mut Checker, section: &mut Section<'_>) -> BTreeMap<String, PathBuf> {
    let root = section.text_or(cx, "directory-root", DIRECTORY_ROOT);
    check_path(cx, &root);
    let root = cx.resolve(&root.value);
    let written = section.texts(cx, "directories");
    if written.is_none() {
        section.default(cx, "directories", "[]");
    }
    let mut found = BTreeMap::new();
    for name in written.unwrap_or_default() {
        if !is_directory_name(&name.value) {
            let message = format!("`{}` is no name of a directory", name.value.escape_debug());
            let help = "write the name that it has in `directory-root`, made of 1 to 64 of a–z, 0–9 and `-`";
            cx.error(name.place, message, help.to_owned());
        } else if found.contains_key(&name.value) {
            let message = format!("`{}` is named twice", name.value);
            cx.error(name.place, message, "remove one of the two".to_owned());
        } else if found.len() >= limits::DIRECTORIES {
            let message = format!("more than {} directories", limits::DIRECTORIES);
            cx.error(name.place, message, "put several into one".to_owned());
            break;
        } else {
            found.insert(name.value, root.clone());
        }
    }
    found
}

pub(super) fn check_path(cx: &mut Checker, path: &At<String>) {
    if path.value.is_empty() || path.value.contains('\0') {
        let message = format!("`{}` is no path", path.value.escape_debug());
        cx.error(
            path.place,
            message,
            "write an absolute path, or one relative to the main configuration file".to_owned(),
        );
    }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Where every key is written.
fn places(table: &Table) -> BTreeMap<String, Place> {
    let mut found = BTreeMap::new();
    let mut open: Vec<(String, &Node)> = Vec::new();
    push_table(&mut open, "", table);
    while let Some((path, node)) = open.pop() {
        if found.len() >= PLACES {
            break;
        }
        match &node.value {
            Value::Table(table) => push_table(&mut open, &path, table),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    open.push((format!("{path}[{index}]"), item));
                }
            }
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Time(_) => {}
        }
        found.insert(path, node.place);
    }
    found
}

fn push_table<'a>(open: &mut Vec<(String, &'a Node)>, path: &str, table: &'a Table) {
    for entry in &table.entries {
        open.push((join(path, &entry.key), &entry.node));
    }
}
