//! `[source.NAME]`

use std::time::Duration;

use tidegate_domain::limits::IDENTITIES;
use tidegate_domain::outcome::Severity;
use tidegate_ingest::SysfsKind;
use tidegate_pipeline::decode::{
    As, BINARY_FIELDS, BinaryField, BinaryKind, DecodeConfig, Decoder,
};

use super::bounds::limits;
use super::driver::driver;
use super::modbus::modbus;
use super::model::{
    Decode, DecoderModule, EventTime, Identity, IdentityBy, MqttSource, MqttVersion, Source,
    SourceKind, Subscription, TimeUnit, join,
};
use super::mqtt::{self, Identity as ClientIdentity};
use super::pipeline::{check_module, secrets, settings};
use super::raw::{Entry, Node, Value};
use super::report::Place;
use super::section::{At, Checker, Section, suggest};
use super::serial::{order, serial};
use super::sysfs::sysfs;

/// The kinds that there are.
const KINDS: [&str; 7] = [
    "mqtt",
    "serial",
    "modbus-rtu",
    "modbus-tcp",
    "iio",
    "hwmon",
    "driver",
];
/// The window of a 3.1.1 broker unless it is told otherwise: mosquitto's default.
const IN_FLIGHT: i64 = 20;
/// As long as an outage that we promise to survive, with room: the broker keeps what we missed.
const SESSION_EXPIRY: Duration = Duration::from_hours(30 * 24);
/// A dead member of a shared group keeps its share of the messages until its session expires.
const SESSION_EXPIRY_SHARED: Duration = Duration::from_mins(5);
/// Ten years.
const SESSION_EXPIRY_MAX: Duration = Duration::from_hours(3650 * 24);
const STALE_AFTER: Duration = Duration::from_mins(10);
/// A year.
const STALE_AFTER_MAX: Duration = Duration::from_hours(365 * 24);

/// The name by which `identity` means the correlation data of MQTT 5 and not a user property.
pub(crate) const CORRELATION_DATA: &str = "correlation-data";
/// Identities remembered of one source at most: 16 bytes each in the store and about 50 in memory.
const IDENTITIES_MAX: i64 = 1 << 20;
/// Whether the silence of a series is an alarm, and which.
pub(super) const STALE_ALARMS: [(&str, Option<Severity>); 4] = [
    ("none", None),
    ("info", Some(Severity::Info)),
    ("warning", Some(Severity::Warning)),
    ("critical", Some(Severity::Critical)),
];

/// Reads a source. `None` where an error was reported that leaves nothing to return.
pub(super) fn source(
    cx: &mut Checker,
    entry: &Entry,
    gateway: &str,
    identities: &mut Vec<ClientIdentity>,
) -> Option<Source> {
    let path = join("source", &entry.key);
    let mut section = Section::at(cx, path.clone(), &entry.node);
    let kind = section.text_required(cx, "kind", "write kind = \"mqtt\", or kind = \"serial\"")?;
    if kind.value == "serial" {
        return serial_source(cx, section, entry);
    }
    if kind.value == "modbus-rtu" || kind.value == "modbus-tcp" {
        return modbus_source(cx, section, entry, kind.value == "modbus-rtu");
    }
    if let Some(kind) = [SysfsKind::Iio, SysfsKind::Hwmon]
        .into_iter()
        .find(|k| k.as_str() == kind.value)
    {
        return sysfs_source(cx, section, entry, kind);
    }
    if kind.value == "driver" {
        return driver_source(cx, section, entry);
    }
    if kind.value != "mqtt" {
        let message = format!("`{}` is no kind of source", kind.value);
        cx.error(kind.place, message, suggest(&kind.value, &KINDS));
        // What other keys there are depends on the kind.
        return None;
    }
    let client_id = format!("{gateway}-source-{}", entry.key);
    let owner = format!("source {}", entry.key);
    let broker = mqtt::broker(cx, &mut section, owner, "3.1.1", &client_id);
    let v5 = broker
        .as_ref()
        .is_some_and(|broker| broker.version == MqttVersion::V5);
    let subscribe = subscriptions(cx, &mut section);
    let shared: Option<Place> = subscribe
        .iter()
        .find(|subscription| subscription.value.topic.starts_with("$share/"))
        .and_then(|subscription| subscription.place);
    if let Some(place) = shared.filter(|_| broker.is_some() && !v5) {
        cx.warning(
            Some(place),
            "on MQTT 3.1.1 the session of a shared subscription never expires",
            "while this gateway is away the broker keeps its share for it alone: write version = \"5\"".to_owned(),
        );
    }
    let in_flight = section.integer(cx, "in-flight", 1..=i64::from(u16::MAX), IN_FLIGHT);
    if in_flight.place.is_some() && v5 {
        cx.warning(
            in_flight.place,
            format!("`{}` has no effect on MQTT 5", section.path("in-flight")),
            "remove it: on 5 the gateway announces how much it takes".to_owned(),
        );
    }
    let session_expiry = mqtt::seconds(
        cx,
        &mut section,
        "session-expiry",
        Duration::from_secs(1)..=SESSION_EXPIRY_MAX,
        if shared.is_some() {
            SESSION_EXPIRY_SHARED
        } else {
            SESSION_EXPIRY
        },
    );
    if session_expiry.place.is_some() && broker.is_some() && !v5 {
        cx.warning(
            session_expiry.place,
            format!("`{}` has no effect on MQTT 3.1.1", section.path("session-expiry")),
            "set it at the broker (mosquitto: persistent_client_expiration), or write version = \"5\"".to_owned(),
        );
    }
    let decode_path = section.path("decode");
    let decode = match section.node("decode") {
        Some(node) => decode(cx, decode_path, node, false),
        None => {
            cx.list(decode_path, "json", None);
            Some(Decode::Json { time: None })
        }
    };
    let stale_after = section.duration_or(
        cx,
        "stale-after",
        Duration::from_secs(1)..=STALE_AFTER_MAX,
        STALE_AFTER,
    );
    let identity = identity(
        cx,
        &mut section,
        decode.as_ref(),
        broker.as_ref().map(|_| v5),
    );
    let stale_alarm = section.choice(cx, "stale-alarm", &STALE_ALARMS, "none");
    let id_place = section.key_place("client-id").or(Some(entry.place));
    section.finish(cx);
    let broker = broker?;
    identities.push(ClientIdentity {
        host: broker.host.clone(),
        port: broker.port,
        client_id: broker.client_id.clone(),
        owner: format!("source `{}`", entry.key),
        place: id_place,
    });
    Some(Source {
        name: entry.key.clone(),
        kind: SourceKind::Mqtt(MqttSource {
            broker,
            subscribe: subscribe.into_iter().map(|at| at.value).collect(),
            in_flight: u16::try_from(in_flight.value).unwrap_or(u16::MAX),
            session_expiry: session_expiry.value,
        }),
        decode: decode?,
        identity,
        stale_after: stale_after.value,
        stale_alarm: stale_alarm?,
    })
}

/// The rest of a source of `kind = "serial"`.
fn serial_source(cx: &mut Checker, mut section: Section<'_>, entry: &Entry) -> Option<Source> {
    let serial = serial(cx, &mut section);
    let path = section.path("decode");
    let decode = match section.node("decode") {
        Some(node) => decode(cx, path, node, true),
        None => {
            cx.list(path, "json", None);
            Some(Decode::Json { time: None })
        }
    };
    let stale_after = section.duration_or(
        cx,
        "stale-after",
        Duration::from_secs(1)..=STALE_AFTER_MAX,
        STALE_AFTER,
    );
    let stale_alarm = section.choice(cx, "stale-alarm", &STALE_ALARMS, "none");
    section.finish(cx);
    Some(Source {
        name: entry.key.clone(),
        kind: SourceKind::Serial(serial?),
        decode: decode?,
        identity: None,
        stale_after: stale_after.value,
        stale_alarm: stale_alarm?,
    })
}

/// The rest of a Modbus source.
fn modbus_source(
    cx: &mut Checker,
    mut section: Section<'_>,
    entry: &Entry,
    rtu: bool,
) -> Option<Source> {
    let modbus = modbus(cx, &mut section, &entry.key, rtu);
    let stale_after = section.duration_or(
        cx,
        "stale-after",
        Duration::from_secs(1)..=STALE_AFTER_MAX,
        STALE_AFTER,
    );
    let stale_alarm = section.choice(cx, "stale-alarm", &STALE_ALARMS, "none");
    section.finish(cx);
    let modbus = modbus?;
    let rarest = modbus
        .groups
        .iter()
        .map(|group| group.on_change.unwrap_or(group.interval));
    if let Some(rarest) = rarest.max() {
        check_stale(cx, entry, &stale_after, rarest, "interval or max-age");
    }
    Some(Source {
        name: entry.key.clone(),
        kind: SourceKind::Modbus(modbus),
        decode: Decode::Lines,
        identity: None,
        stale_after: stale_after.value,
        stale_alarm: stale_alarm?,
    })
}

/// The rest of a source of what the kernel measures.
fn sysfs_source(
    cx: &mut Checker,
    mut section: Section<'_>,
    entry: &Entry,
    kind: SysfsKind,
) -> Option<Source> {
    let sysfs = sysfs(cx, &mut section, kind);
    let stale_after = section.duration_or(
        cx,
        "stale-after",
        Duration::from_secs(1)..=STALE_AFTER_MAX,
        STALE_AFTER,
    );
    let stale_alarm = section.choice(cx, "stale-alarm", &STALE_ALARMS, "none");
    section.finish(cx);
    let sysfs = sysfs?;
    check_stale(cx, entry, &stale_after, sysfs.interval, "interval");
    Some(Source {
        name: entry.key.clone(),
        kind: SourceKind::Sysfs(sysfs),
        decode: Decode::Lines,
        identity: None,
        stale_after: stale_after.value,
        stale_alarm: stale_alarm?,
    })
}

/// The rest of a source that a module is.
fn driver_source(cx: &mut Checker, mut section: Section<'_>, entry: &Entry) -> Option<Source> {
    let driver = driver(cx, &mut section);
    let stale_after = section.duration_or(
        cx,
        "stale-after",
        Duration::from_secs(1)..=STALE_AFTER_MAX,
        STALE_AFTER,
    );
    let stale_alarm = section.choice(cx, "stale-alarm", &STALE_ALARMS, "none");
    section.finish(cx);
    let driver = driver?;
    check_stale(cx, entry, &stale_after, driver.interval, "interval");
    Some(Source {
        name: entry.key.clone(),
        kind: SourceKind::Driver(driver),
        decode: Decode::Lines,
        identity: None,
        stale_after: stale_after.value,
        stale_alarm: stale_alarm?,
    })
}

/// What comes no more often than it turns stale is stale all the time.
fn check_stale(
    cx: &mut Checker,
    entry: &Entry,
    stale_after: &At<Duration>,
    rarest: Duration,
    shorter: &str,
) {
    if rarest < stale_after.value {
        return;
    }
    let message = format!(
        "values come every {}, and `stale-after` is {}",
        super::units::show_duration(rarest),
        super::units::show_duration(stale_after.value)
    );
    let help = format!("write a longer stale-after, or a shorter {shorter}");
    cx.warning(stale_after.place.or(Some(entry.place)), message, help);
}

/// By what duplicates are known. `v5`: whether the broker speaks MQTT 5, where that is known.
fn identity(
    cx: &mut Checker,
    section: &mut Section<'_>,
    decode: Option<&Decode>,
    v5: Option<bool>,
) -> Option<Identity> {
    const FORM: &str = "write identity = { field = \"id\" }, or on MQTT 5 identity = { property = \"message-id\" }";
    let path = section.path("identity");
    let node = section.node("identity");
    let window = section.integer(
        cx,
        "identity-window",
        1..=IDENTITIES_MAX,
        i64::from(IDENTITIES),
    );
    let Some(node) = node else {
        if window.place.is_some() {
            let message = format!("`{}` without `identity`", section.path("identity-window"));
            cx.error(window.place, message, FORM.to_owned());
        }
        return None;
    };
    let mut inner = Section::at(cx, path.clone(), node);
    if !inner.exists() {
        return None;
    }
    let field = inner.text(cx, "field");
    let property = inner.text(cx, "property");
    let place = inner.place();
    inner.finish(cx);
    let by = match (field, property) {
        (Some(field), None) => {
            check_identity_field(cx, &field, decode);
            IdentityBy::Field(field.value)
        }
        (None, Some(property)) => {
            if v5 == Some(false) {
                let message = "properties come with MQTT 5 alone: this source speaks 3.1.1";
                let help = "write version = \"5\", or name a field of the payload";
                cx.error(property.place, message, help.to_owned());
            }
            if property.value.is_empty() || property.value.len() > usize::from(u16::MAX) {
                let message = format!("`{path}.property` is no name of a property");
                cx.error(property.place, message, FORM.to_owned());
            }
            IdentityBy::Property(property.value)
        }
        (None, None) => {
            cx.missing(
                place,
                "`identity` says neither which field nor which property",
                FORM.to_owned(),
            );
            return None;
        }
        (Some(_), Some(property)) => {
            let message = "`identity` names a field and a property";
            cx.error(property.place, message, "remove one of the two".to_owned());
            return None;
        }
    };
    Some(Identity {
        by,
        window: u32::try_from(window.value).unwrap_or(IDENTITIES),
    })
}

fn check_identity_field(cx: &mut Checker, field: &At<String>, decode: Option<&Decode>) {
    if field.value.is_empty() {
        let help = "name the field, or remove `identity`";
        cx.error(field.place, "`field` is empty", help.to_owned());
        return;
    }
    match decode {
        Some(Decode::Text) => cx.error(
            field.place,
            "`text` has no fields: its payload is one value",
            "write decode = \"json\" or columns, or on MQTT 5 identity = { property = \"message-id\" }".to_owned(),
        ),
        Some(Decode::Regex { .. } | Decode::Binary { .. }) => cx.error(
            field.place,
            "`identity` names a field of JSON or CSV alone",
            "on MQTT 5 write identity = { property = \"message-id\" }, or remove `identity`".to_owned(),
        ),
        Some(Decode::Module(decoder)) => cx.error(
            field.place,
            format!(
                "which field of a payload is the identity, only its decoder knows: `{}` is a module",
                decoder.module
            ),
            "on MQTT 5 write identity = { property = \"message-id\" }, or remove `identity`".to_owned(),
        ),
        Some(Decode::Csv { columns, .. }) if !columns.contains(&field.value) => {
            let message = format!("`identity` names no column: `{}`", field.value);
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            cx.error(field.place, message, suggest(&field.value, &columns));
        }
        // A source with readings of its own has no identity to ask for.
        Some(Decode::Csv { .. } | Decode::Json { .. } | Decode::Lines) | None => {}
    }
}

fn subscriptions(cx: &mut Checker, section: &mut Section<'_>) -> Vec<At<Subscription>> {
    const FORM: &str = "write subscribe = [{ topic = \"plant/+/+\", qos = 1 }]";
    let path = section.path("subscribe");
    let items = section.array(cx, "subscribe");
    let place = section.key_place("subscribe");
    if place.is_none() {
        section.required(cx, "subscribe", FORM);
    } else if items.is_some_and(<[Node]>::is_empty) {
        cx.error(
            place,
            format!("`{path}` is empty: the source would receive nothing"),
            FORM.to_owned(),
        );
    }
    let mut found: Vec<At<Subscription>> = Vec::new();
    for (index, node) in items.unwrap_or_default().iter().enumerate() {
        let mut item = Section::at(cx, format!("{path}[{index}]"), node);
        let topic = item
            .exists()
            .then(|| item.text_required(cx, "topic", FORM))
            .flatten();
        let qos = item.integer(cx, "qos", i64::MIN..=i64::MAX, 1);
        item.finish(cx);
        match qos.value {
            0 | 1 => {}
            2 => cx.error(
                qos.place,
                "subscriptions at QoS 2 are refused: there is no receive state yet that survives a restart",
                "write qos = 1: every message arrives at least once, and the module `dedupe` removes repeated readings"
                    .to_owned(),
            ),
            other => cx.error(qos.place, format!("{other} is no QoS"), "write 0 or 1".to_owned()),
        }
        let Some(topic) = topic else { continue };
        if let Err(reason) = mqtt::check_filter(&topic.value) {
            let message = format!("`{}` is no topic filter: {reason}", topic.value);
            let help = "`+` stands for one level, a last `#` for all that follow, as in \"plant/+/temp\" and \"plant/#\"";
            cx.error(topic.place, message, help.to_owned());
        }
        if found.iter().any(|other| other.value.topic == topic.value) {
            let message = format!("`{}` is subscribed twice", topic.value);
            cx.error(topic.place, message, "remove one of the two".to_owned());
        }
        found.push(At {
            value: Subscription {
                topic: topic.value,
                qos: u8::try_from(qos.value).unwrap_or(1),
            },
            place: topic.place,
        });
    }
    let shown: Vec<String> = found
        .iter()
        .map(|at| format!("{} qos {}", at.value.topic, at.value.qos))
        .collect();
    cx.list(path, &shown.join(", "), place);
    found
}

/// The long form is a table, the short one the word of `as`. `numbered`: whether columns of CSV may go without names.
fn decode(cx: &mut Checker, path: String, node: &Node, numbered: bool) -> Option<Decode> {
    if matches!(node.value, Value::Text(_)) {
        let word = super::section::text_of(cx, &path, node)?;
        cx.list(path, &word.value, word.place);
        return match format_word(cx, &word)? {
            Format::Json => Some(Decode::Json { time: None }),
            Format::Text => Some(Decode::Text),
            Format::Csv if numbered => Some(Decode::Csv {
                columns: Vec::new(),
                separator: b',',
                time: None,
            }),
            Format::Regex | Format::Binary => {
                cx.missing(
                    word.place,
                    format!("`{}` needs to know more", word.value),
                    "write decode = { as = \"regex\", pattern = \"(?P<weight>[0-9.]+)\" }, or { as = \"binary\", fields = [{ name = \"weight\", offset = 0, type = \"uint16\" }] }"
                        .to_owned(),
                );
                None
            }
            Format::Csv => {
                cx.missing(
                    word.place,
                    "`csv` needs to know its columns",
                    "write decode = { as = \"csv\", columns = [\"ts\", \"temp\"] }".to_owned(),
                );
                None
            }
        };
    }
    let mut section = Section::at(cx, path, node);
    if !section.exists() {
        return None;
    }
    if section.key_place("module").is_some() {
        return module(cx, section);
    }
    let word = section.text_or(cx, "as", "json");
    let time_field = section.text(cx, "time-field");
    let time_unit = section.choice(
        cx,
        "time-unit",
        &[
            ("s", TimeUnit::Seconds),
            ("ms", TimeUnit::Milliseconds),
            ("us", TimeUnit::Microseconds),
            ("ns", TimeUnit::Nanoseconds),
            ("rfc3339", TimeUnit::Rfc3339),
        ],
        "ms",
    );
    let columns = section.texts(cx, "columns");
    let separator = section.text_or(cx, "separator", ",");
    let pattern = section.text(cx, "pattern");
    let order = (section.key_place("fields").is_some()).then(|| order(cx, &mut section, "big"));
    let fields = match order {
        Some(big_endian) => fields(cx, &mut section, big_endian.unwrap_or(true)),
        None => None,
    };
    let fields_at = section.key_place("fields");
    let place = section.place();
    let key = |key: &str| section.key_place(key);
    let (columns_at, separator_at, unit_at) = (key("columns"), key("separator"), key("time-unit"));

    let format = format_word(cx, &word);
    section.finish(cx);
    let format = format?;
    let pattern_at = pattern.as_ref().and_then(|pattern| pattern.place);
    for (at, name, of, needs) in [
        (columns_at, "columns", Format::Csv, "csv"),
        (separator_at, "separator", Format::Csv, "csv"),
        (pattern_at, "pattern", Format::Regex, "regex"),
        (fields_at, "fields", Format::Binary, "binary"),
    ] {
        if at.is_some() && format != of {
            let message = format!("`{name}` has no meaning for `{}`", word.value);
            cx.error(at, message, format!("remove it, or write as = \"{needs}\""));
        }
    }
    if time_field.is_none() && unit_at.is_some() {
        cx.missing(
            unit_at,
            "`time-unit` without `time-field`",
            "say which field holds the time, as in time-field = \"ts\", or remove the unit: without a field a reading's time is its arrival"
                .to_owned(),
        );
    }
    if let Some(field) = time_field.as_ref() {
        if field.value.is_empty() {
            cx.error(
                field.place,
                "`time-field` is empty",
                "name the field, or remove the key".to_owned(),
            );
        }
        if matches!(format, Format::Text | Format::Binary) {
            cx.error(
                field.place,
                format!("`time-field` has no meaning for `{}`", word.value),
                "remove it: a reading's time is its arrival".to_owned(),
            );
        }
    }
    let time = match (&time_field, time_unit) {
        (Some(field), Some(unit)) => Some(EventTime {
            field: field.value.clone(),
            unit,
        }),
        (None, _) | (_, None) => None,
    };
    match format {
        Format::Json => Some(Decode::Json { time }),
        Format::Text => Some(Decode::Text),
        Format::Regex => regex(cx, pattern, place, time_field.as_ref(), time),
        Format::Binary => {
            if fields_at.is_none() {
                cx.missing(
                    place,
                    "`binary` needs to know its fields",
                    FIELDS.to_owned(),
                );
            }
            Some(Decode::Binary { fields: fields? })
        }
        Format::Csv if numbered && columns.is_none() && time_field.is_none() => {
            let [separator] = separator.value.as_bytes() else {
                return bad_separator(cx, &separator);
            };
            Some(Decode::Csv {
                columns: Vec::new(),
                separator: *separator,
                time: None,
            })
        }
        Format::Csv => csv(
            cx,
            columns,
            columns_at.or(place),
            &separator,
            time_field.as_ref(),
            time,
        ),
    }
}

/// `decode = { module = "NAME" }`, perhaps with `as = "raw"`, which is what a module always gets.
fn module(cx: &mut Checker, mut section: Section<'_>) -> Option<Decode> {
    let module = section.text(cx, "module");
    if let Some(module) = &module {
        check_module(cx, module);
    }
    let word = section.text_or(cx, "as", "raw");
    if word.value != "raw" {
        let message = format!("`{}` is decoded here, and by a module as well", word.value);
        let help = "remove one of the two: a module gets the payload as it came, as = \"raw\"";
        cx.error(word.place, message, help.to_owned());
    }
    let settings = settings(cx, &mut section);
    let limits = limits(cx, &mut section);
    let secrets = secrets(cx, &mut section);
    section.finish(cx);
    Some(Decode::Module(DecoderModule {
        module: module?.value,
        settings,
        limits,
        secrets,
    }))
}

fn csv(
    cx: &mut Checker,
    columns: Option<Vec<At<String>>>,
    place: Option<Place>,
    separator: &At<String>,
    time_field: Option<&At<String>>,
    time: Option<EventTime>,
) -> Option<Decode> {
    let columns = columns.unwrap_or_default();
    if columns.is_empty() {
        cx.missing(
            place,
            "`csv` needs to know its columns",
            "name them in their order, as in columns = [\"ts\", \"temp\"]".to_owned(),
        );
        return None;
    }
    for (index, column) in columns.iter().enumerate() {
        let twice = columns
            .iter()
            .take(index)
            .any(|other| other.value == column.value);
        if twice && !column.value.is_empty() {
            let message = format!("two columns are named `{}`", column.value);
            let help = "each column becomes a series of its own: rename one, or skip it with \"\"";
            cx.error(column.place, message, help.to_owned());
        }
    }
    let names: Vec<&str> = columns.iter().map(|column| column.value.as_str()).collect();
    if let Some(field) = time_field
        && !names.contains(&field.value.as_str())
    {
        let message = format!("`time-field` names no column: `{}`", field.value);
        cx.error(field.place, message, suggest(&field.value, &names));
    }
    let is_time = |name: &str| time_field.is_some_and(|field| field.value == name);
    if names.iter().all(|name| name.is_empty() || is_time(name)) {
        let message = "no column holds a value";
        let help = "name at least one column besides the time's";
        cx.error(place, message, help.to_owned());
    }
    let [separator_byte] = separator.value.as_bytes() else {
        return bad_separator(cx, separator);
    };
    // What occurs in a number cannot end one.
    if !separator_byte.is_ascii()
        || separator_byte.is_ascii_alphanumeric()
        || b"\"\r\n\0+-.".contains(separator_byte)
    {
        return bad_separator(cx, separator);
    }
    Some(Decode::Csv {
        columns: names.into_iter().map(str::to_owned).collect(),
        separator: *separator_byte,
        time,
    })
}

/// `as = "regex"`
fn regex(
    cx: &mut Checker,
    pattern: Option<At<String>>,
    place: Option<Place>,
    time_field: Option<&At<String>>,
    time: Option<EventTime>,
) -> Option<Decode> {
    let Some(pattern) = pattern else {
        let help = "write one with named groups, as in pattern = \"(?P<weight>[0-9.]+)\"";
        cx.missing(place, "`regex` needs a pattern", help.to_owned());
        return None;
    };
    let config = DecodeConfig {
        format: As::Regex {
            pattern: pattern.value.clone(),
        },
        time_field: time_field.map(|field| field.value.clone()),
        time_unit: tidegate_pipeline::decode::TimeUnit::Millis,
    };
    if let Err(error) = Decoder::new(config) {
        let help = "the syntax is that of https://docs.rs/regex/latest/regex/#syntax; names of groups become the ends of series";
        cx.error(pattern.place, error.to_string(), help.to_owned());
        return None;
    }
    Some(Decode::Regex {
        pattern: pattern.value,
        time,
    })
}

const FIELDS: &str =
    "write fields = [{ name = \"weight\", offset = 0, type = \"uint16\", scale = 0.1 }]";

const BINARY_KINDS: [(&str, BinaryKind); 11] = [
    ("uint16", BinaryKind::Uint16),
    ("bool", BinaryKind::Bool),
    ("int8", BinaryKind::Int8),
    ("int16", BinaryKind::Int16),
    ("int32", BinaryKind::Int32),
    ("int64", BinaryKind::Int64),
    ("uint8", BinaryKind::Uint8),
    ("uint32", BinaryKind::Uint32),
    ("uint64", BinaryKind::Uint64),
    ("float32", BinaryKind::Float32),
    ("float64", BinaryKind::Float64),
];

/// `fields` of `as = "binary"`. `big_endian` is the order of those that say none.
fn fields(
    cx: &mut Checker,
    section: &mut Section<'_>,
    big_endian: bool,
) -> Option<Vec<BinaryField>> {
    let path = section.path("fields");
    let items = section.array(cx, "fields")?;
    let place = section.key_place("fields");
    if !(1..=BINARY_FIELDS).contains(&items.len()) {
        let message = format!("`{path}` has {} fields", items.len());
        cx.error(
            place,
            message,
            format!("write 1 to {BINARY_FIELDS}: {FIELDS}"),
        );
        return None;
    }
    let mut found: Vec<BinaryField> = Vec::new();
    for (index, node) in items.iter().enumerate() {
        let mut item = Section::at(cx, format!("{path}[{index}]"), node);
        if !item.exists() {
            continue;
        }
        let name = item.text_required(cx, "name", FIELDS);
        let offset = item.integer(cx, "offset", 0..=65_535, 0);
        let kind = item.choice(cx, "type", &BINARY_KINDS, "uint16");
        let order = order(cx, &mut item, if big_endian { "big" } else { "little" });
        let scale = item.key_place("scale");
        let factor = item.number(cx, "scale", f64::MIN..=f64::MAX, 1.0);
        item.finish(cx);
        let (Some(name), Some(kind), Some(big_endian), Ok(offset)) =
            (name, kind, order, usize::try_from(offset.value))
        else {
            continue;
        };
        let twice = found.iter().any(|other| other.name == name.value);
        if twice || name.value.is_empty() {
            let message = format!(
                "`{}` is no name of a field, or the second one's",
                name.value
            );
            let help = "each field becomes a series of its own: give it a name of its own";
            cx.error(name.place, message, help.to_owned());
        }
        if kind == BinaryKind::Bool && scale.is_some() {
            let message = "a bool has no scale";
            cx.error(
                scale,
                message,
                "remove it, or write type = \"uint8\"".to_owned(),
            );
        }
        found.push(BinaryField {
            name: name.value,
            offset,
            kind,
            big_endian,
            scale: scale.map(|_| factor),
        });
    }
    Some(found)
}

fn bad_separator(cx: &mut Checker, separator: &At<String>) -> Option<Decode> {
    let message = format!(
        "`{}` cannot separate columns",
        separator.value.escape_debug()
    );
    let help = "write one ASCII character that occurs in no number and is no letter or quote, as in \",\", \";\" or \"\\t\"";
    cx.error(separator.place, message, help.to_owned());
    None
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Csv,
    Regex,
    Binary,
}

fn format_word(cx: &mut Checker, word: &At<String>) -> Option<Format> {
    match word.value.as_str() {
        "json" => Some(Format::Json),
        "text" => Some(Format::Text),
        "csv" => Some(Format::Csv),
        "regex" => Some(Format::Regex),
        "binary" => Some(Format::Binary),
        "raw" => {
            cx.error(
                word.place,
                "`raw` needs a decoder module",
                "write decode = { module = \"NAME\" }, or \"json\", \"text\" or \"csv\"".to_owned(),
            );
            None
        }
        other => {
            let message = format!("`{other}` is no format");
            cx.error(
                word.place,
                message,
                suggest(other, &["json", "text", "csv", "regex", "binary"]),
            );
            None
        }
    }
}
