//! `[uplink.NAME]`

use std::time::Duration;

use tidegate_domain::command::Name;
use tidegate_domain::limits::{OUTBOX_ITEM_BYTES, PACKET_BYTES};
use tidegate_store::UplinkConfig;
use tidegate_uplink::payload::{Compress, Encoding, Format};

use super::model::{MqttVersion, Uplink, join};
use super::mqtt::{self, Identity};
use super::raw::Entry;
use super::section::{At, Checker, Section, suggest};

/// The kinds that the format knows.
const KINDS: [&str; 1] = ["mqtt"];
/// MQTT 5 unless told otherwise: on 3.1.1 a broker that refuses a message acknowledges it all the same, and it is lost.
const VERSION: &str = "5";
const TOPIC: &str = "tidegate/{gateway}/{kind}";
/// What a 3.1.1 broker takes at once: mosquitto's default.
const IN_FLIGHT_311: i64 = 20;
const IN_FLIGHT_5: i64 = 64;
/// Bytes of messages in flight. Twice as many are in memory, with those that are ready.
const IN_FLIGHT_BYTES: u64 = 1024 * 1024;
const IN_FLIGHT_BYTES_MIN: u64 = 64 * 1024;
const IN_FLIGHT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Packet ids are 16 bits; some are left to spare.
const IN_FLIGHT_MAX: i64 = 16_384;
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: Duration = Duration::from_hours(1);
/// More would make one message of many commits.
const MAX_ITEMS_MAX: i64 = 65_536;
const FAILBACK: Duration = Duration::from_mins(10);
/// Below it an attempt in vain would be all that an uplink does.
const FAILBACK_MIN: Duration = Duration::from_secs(5);
const FAILBACK_MAX: Duration = Duration::from_hours(24);
/// Below it a keep-alive's answer takes longer than the keep-alive.
const RATE_MIN: u64 = 256;
const RATE_MAX: u64 = 1 << 30;
/// In thousandths.
const LIVE_SHARE: u16 = 500;

/// Reads an uplink. `None` where an error was reported that leaves nothing to return.
pub(super) fn uplink(
    cx: &mut Checker,
    entry: &Entry,
    gateway: &str,
    identities: &mut Vec<Identity>,
) -> Option<Uplink> {
    let path = join("uplink", &entry.key);
    let mut section = Section::at(cx, path, &entry.node);
    let kind = section.text_required(cx, "kind", "write kind = \"mqtt\"")?;
    if kind.value != "mqtt" {
        let message = format!("`{}` is no kind of uplink", kind.value);
        cx.error(kind.place, message, suggest(&kind.value, &KINDS));
        return None;
    }
    let client_id = format!("{gateway}-uplink-{}", entry.key);
    let owner = format!("uplink {}", entry.key);
    let broker = mqtt::broker(cx, &mut section, owner, VERSION, &client_id);
    let topic = section.text_or(cx, "topic", TOPIC);
    check_topic(cx, &topic);
    let v311 = broker
        .as_ref()
        .is_some_and(|broker| broker.version == MqttVersion::V311);
    let in_flight = section.integer(
        cx,
        "in-flight",
        1..=IN_FLIGHT_MAX,
        if v311 { IN_FLIGHT_311 } else { IN_FLIGHT_5 },
    );
    let in_flight_bytes = section.size_or(
        cx,
        "in-flight-bytes",
        IN_FLIGHT_BYTES_MIN..=IN_FLIGHT_BYTES_MAX,
        IN_FLIGHT_BYTES,
    );
    let linger = section.duration_or(cx, "linger", Duration::ZERO..=LINGER_MAX, LINGER);
    let item = u64::try_from(OUTBOX_ITEM_BYTES).unwrap_or(u64::MAX);
    let packet = u64::try_from(PACKET_BYTES).unwrap_or(u64::MAX);
    let max_message = section.size_or(cx, "max-message", 1024..=packet, 2 * item);
    let max_items = section.integer(
        cx,
        "max-items",
        1..=MAX_ITEMS_MAX,
        i64::from(UplinkConfig::MESSAGE_ITEMS),
    );
    let failover = mqtt::failover(cx, &mut section, broker.as_ref());
    let failback = section.duration_or(cx, "failback", FAILBACK_MIN..=FAILBACK_MAX, FAILBACK);
    let rate_limit = section.size(cx, "rate-limit", RATE_MIN..=RATE_MAX);
    let live_share = section.share(cx, "live-share", LIVE_SHARE);
    let formats = [("json", Format::Json), ("cbor", Format::Cbor)];
    let format = section.choice(cx, "format", &formats, "json");
    let compressions = [("none", Compress::None), ("zstd", Compress::Zstd)];
    let compress = section.choice(cx, "compress", &compressions, "none");
    let commands = commands(cx, &mut section);
    let id_place = section.key_place("client-id").or(Some(entry.place));
    let file_place = section.key_place("password-file");
    section.finish(cx);
    let broker = broker?;
    if broker.username.is_some() && file_place.is_none() {
        let message = format!("uplink `{}` has a user and no password", entry.key);
        let help = "add password-file = \"secrets/NAME\", or remove `username`";
        cx.missing(id_place, message, help.to_owned());
    }
    let uplink = Uplink {
        name: entry.key.clone(),
        broker,
        topic: topic.value,
        in_flight: u16::try_from(in_flight.value).unwrap_or(u16::MAX),
        in_flight_bytes: usize::try_from(in_flight_bytes.value).unwrap_or(usize::MAX),
        linger: linger.value,
        max_message: usize::try_from(max_message.value).unwrap_or(PACKET_BYTES),
        max_items: u32::try_from(max_items.value).unwrap_or(UplinkConfig::MESSAGE_ITEMS),
        failover,
        failback: failback.value,
        rate_limit: rate_limit.map(|rate| rate.value),
        live_share: live_share.value,
        encoding: Encoding {
            format: format?,
            compress: compress?,
        },
        commands,
    };
    for (host, port) in uplink.addresses() {
        identities.push(Identity {
            host: host.to_owned(),
            port,
            client_id: uplink.broker.client_id.clone(),
            owner: format!("uplink `{}`", entry.key),
            place: id_place,
        });
    }
    Some(uplink)
}

fn commands(cx: &mut Checker, section: &mut Section<'_>) -> Vec<Name> {
    let words = section.texts(cx, "commands");
    if words.is_none() {
        section.default(cx, "commands", "[]");
    }
    let mut commands = Vec::new();
    for word in words.unwrap_or_default() {
        match Name::find(&word.value) {
            Some(name) if commands.contains(&name) => {
                let message = format!("`{name}` is allowed twice");
                cx.error(word.place, message, "remove one of the two".to_owned());
            }
            Some(name) => commands.push(name),
            None => {
                let message = format!("there is no command `{}`", word.value);
                let help = suggest(&word.value, &Name::ALL.map(Name::as_str));
                cx.error(word.place, message, help);
            }
        }
    }
    commands
}

fn check_topic(cx: &mut Checker, topic: &At<String>) {
    let text = topic.value.as_str();
    let help = format!("the default is \"{TOPIC}\"");
    let mut fault = |message: String| cx.error(topic.place, message, help.clone());
    for name in placeholders(text) {
        if name != "gateway" && name != "kind" {
            fault(format!(
                "`{{{name}}}` stands for nothing: a topic knows {{gateway}} and {{kind}}"
            ));
        }
    }
    if !text.contains("{kind}") {
        fault("the topic has no {kind}, so that a receiver could not tell status, alarms and data apart".to_owned());
    }
    if text.contains(['+', '#', '\0']) || text.starts_with('$') {
        fault(
            "a topic to send to has no `+`, `#` or U+0000 and does not begin with `$`".to_owned(),
        );
    }
    if text.len() > 1024 {
        fault("the topic is longer than 1024 bytes, and stands in every message".to_owned());
    }
    if text.contains("{kind}") && !text.contains("{gateway}") {
        cx.warning(
            topic.place,
            "the topic has no {gateway}: several gateways at one broker overwrite each other's retained status",
            help,
        );
    }
}

/// What stands in braces.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .map(|rest| rest.split_once('}').map_or(rest, |(name, _)| name))
}
