//! What only `kind = "serial"` has: the device, its settings, how the stream is cut, what is asked.

use std::time::Duration;

use tidegate_ingest::{
    Checksum, Covers, ENVELOPE_BYTES, Envelope, Escape, Flow, Framing, LineSettings, Parity, Port,
    Query, Rs485, Width,
};

use super::model::SerialSource;
use super::raw::{Node, Value};
use super::section::{At, Checker, Section, text_of, wrong_type};

/// What instruments are set to when nobody has touched them.
const SPEED: i64 = 9600;
const SPEED_MAX: i64 = 12_000_000;
/// Bytes of the longest frame.
const LONGEST: u64 = 4 << 10;
const LONGEST_MAX: u64 = 64 << 10;
/// A USB adapter hands over what it has every 16 ms: a shorter pause would be one between its packets.
const PAUSE_IDLE: Duration = Duration::from_millis(50);
/// What begins a frame anew where nothing in the stream does.
const PAUSE_COUNTED: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_hours(1);
const EVERY: Duration = Duration::from_secs(1);
const EVERY_MIN: Duration = Duration::from_millis(10);
const EVERY_MAX: Duration = Duration::from_hours(24);
/// Bytes of what is asked, and of a delimiter.
const QUERY_BYTES: usize = 1024;
const DELIMITER_BYTES: usize = 16;
/// The bound of a delay of RS-485 in the kernel.
const RS485_DELAY_MAX: Duration = Duration::from_millis(100);

/// Reads the keys of a serial source. `None` where an error was reported that leaves nothing to return.
pub(super) fn serial(cx: &mut Checker, section: &mut Section<'_>) -> Option<SerialSource> {
    let port = port(cx, section);
    let frame = frame(cx, section);
    let query = query(cx, section);
    let (framing, longest, pause) = frame?;
    let (initial, query) = query?;
    Some(SerialSource {
        port: port?,
        framing,
        longest,
        pause,
        initial,
        query,
    })
}

/// The device and how it is set.
pub(super) fn port(cx: &mut Checker, section: &mut Section<'_>) -> Option<Port> {
    const DEVICE: &str =
        "write the device, as in device = \"/dev/serial/by-id/usb-…\" or \"/dev/ttyS0\"";
    let device = section.text_required(cx, "device", DEVICE);
    if let Some(device) = device.as_ref()
        && !device.value.starts_with('/')
    {
        let message = format!("`{}` is no absolute path", device.value);
        cx.error(device.place, message, DEVICE.to_owned());
    }
    if let Some(device) = device.as_ref()
        && ["/dev/ttyUSB", "/dev/ttyACM"]
            .iter()
            .any(|name| device.value.starts_with(name))
    {
        let message = format!(
            "`{}` can be another device after the next plugging in",
            device.value
        );
        let help = "name it by what it is: ls -l /dev/serial/by-id shows its link there";
        cx.warning(device.place, message, help.to_owned());
    }
    let speed = section.integer(cx, "speed", 50..=SPEED_MAX, SPEED);
    let data_bits = section.integer(cx, "data-bits", 5..=8, 8);
    let parity = section.choice(
        cx,
        "parity",
        &[
            ("none", Parity::None),
            ("even", Parity::Even),
            ("odd", Parity::Odd),
        ],
        "none",
    );
    let stop_bits = section.integer(cx, "stop-bits", 1..=2, 1);
    let flow = section.choice(
        cx,
        "flow-control",
        &[
            ("none", Flow::None),
            ("software", Flow::Software),
            ("hardware", Flow::Hardware),
        ],
        "none",
    );
    let exclusive = section.flag(cx, "exclusive", true);
    let rs485 = rs485(cx, section);
    Some(Port {
        device: device?.value.into(),
        line: LineSettings {
            speed: u32::try_from(speed.value).ok()?,
            data_bits: u8::try_from(data_bits.value).ok()?,
            parity: parity?,
            stop_bits: u8::try_from(stop_bits.value).ok()?,
            flow: flow?,
        },
        exclusive: exclusive.value,
        rs485: rs485?,
    })
}

/// `Some(None)` where there is none.
#[expect(
    clippy::option_option,
    reason = "the outer one says that an error was reported"
)]
fn rs485(cx: &mut Checker, section: &mut Section<'_>) -> Option<Option<Rs485>> {
    let path = section.path("rs485");
    let Some(node) = section.node("rs485") else {
        return Some(None);
    };
    let mut inner = Section::at(cx, path, node);
    if !inner.exists() {
        return None;
    }
    let rts = inner.choice(cx, "rts-on-send", &[("high", true), ("low", false)], "high");
    let range = Duration::ZERO..=RS485_DELAY_MAX;
    let before = inner.duration_or(cx, "delay-before", range.clone(), Duration::ZERO);
    let after = inner.duration_or(cx, "delay-after", range, Duration::ZERO);
    let receive_own = inner.flag(cx, "receive-own", false);
    inner.finish(cx);
    Some(Some(Rs485 {
        rts_on_send: rts?,
        delay_before: u32::try_from(before.value.as_millis()).ok()?,
        delay_after: u32::try_from(after.value.as_millis()).ok()?,
        receive_own: receive_own.value,
    }))
}

#[derive(Clone, Copy)]
enum Kind {
    Lines,
    Fixed,
    Length,
    Delimiter,
    Slip,
    Cobs,
    Idle,
    StxEtx,
}

const KINDS: [(&str, Kind); 8] = [
    ("lines", Kind::Lines),
    ("fixed", Kind::Fixed),
    ("length", Kind::Length),
    ("delimiter", Kind::Delimiter),
    ("slip", Kind::Slip),
    ("cobs", Kind::Cobs),
    ("idle", Kind::Idle),
    ("stx-etx", Kind::StxEtx),
];

const CHECKSUMS: [(&str, Checksum); 8] = [
    ("none", Checksum::None),
    ("sum", Checksum::Sum),
    ("xor", Checksum::Xor),
    ("crc16-modbus", Checksum::Crc16Modbus),
    ("crc16-ccitt", Checksum::Crc16Ccitt),
    ("crc16-xmodem", Checksum::Crc16Xmodem),
    ("crc16-kermit", Checksum::Crc16Kermit),
    ("crc32", Checksum::Crc32),
];

/// How the stream is cut, bytes of the longest frame, and the pause.
fn frame(
    cx: &mut Checker,
    section: &mut Section<'_>,
) -> Option<(Framing, usize, Option<Duration>)> {
    let path = section.path("frame");
    let Some(node) = section.node("frame") else {
        cx.list(path, "lines", None);
        let longest = usize::try_from(LONGEST).ok()?;
        return Some((Framing::Lines, longest, None));
    };
    let mut inner = Section::at(cx, path, node);
    if !inner.exists() {
        return None;
    }
    let kind = inner.choice(cx, "kind", &KINDS, "lines");
    let most = if matches!(kind, Some(Kind::StxEtx)) {
        ENVELOPE_BYTES as u64
    } else {
        LONGEST_MAX
    };
    let longest = inner.size_or(cx, "max", 1..=most, LONGEST);
    let longest = usize::try_from(longest.value).ok()?;
    let framing = match kind {
        // What other keys there are depends on the kind.
        None => return None,
        Some(Kind::Lines) => Some(Framing::Lines),
        Some(Kind::Slip) => Some(Framing::Slip),
        Some(Kind::Cobs) => Some(Framing::Cobs),
        Some(Kind::Idle) => Some(Framing::IdleGap),
        Some(Kind::Fixed) => fixed(cx, &mut inner, longest),
        Some(Kind::Length) => length(cx, &mut inner),
        Some(Kind::Delimiter) => delimiter(cx, &mut inner),
        Some(Kind::StxEtx) => stx_etx(cx, &mut inner),
    };
    let range = PAUSE_MIN..=PAUSE_MAX;
    let pause = match kind {
        Some(Kind::Idle) => Some(inner.duration_or(cx, "pause", range, PAUSE_IDLE)),
        Some(Kind::Fixed | Kind::Length) => {
            Some(inner.duration_or(cx, "pause", range, PAUSE_COUNTED))
        }
        _ => inner.duration(cx, "pause", range),
    };
    inner.finish(cx);
    Some((framing?, longest, pause.map(|pause| pause.value)))
}

fn fixed(cx: &mut Checker, inner: &mut Section<'_>, longest: usize) -> Option<Framing> {
    if inner.key_place("length").is_none() {
        inner.required(
            cx,
            "length",
            "write how many bytes a frame has, as in length = 16",
        );
    }
    let most = i64::try_from(longest).unwrap_or(i64::MAX);
    let length = inner.whole(cx, "length", 1..=most)?;
    Some(Framing::Fixed {
        length: usize::try_from(length.value).ok()?,
    })
}

fn length(cx: &mut Checker, inner: &mut Section<'_>) -> Option<Framing> {
    let bits = inner.integer(cx, "bits", 8..=32, 16);
    let big_endian = order(cx, inner, "big");
    let width = match bits.value {
        8 => Width::Bits8,
        16 => Width::Bits16,
        32 => Width::Bits32,
        other => {
            let message = format!("a length of {other} bits is not known");
            cx.error(bits.place, message, "write 8, 16 or 32".to_owned());
            return None;
        }
    };
    Some(Framing::Length {
        width,
        big_endian: big_endian?,
    })
}

/// Whether the most significant byte comes first.
pub(super) fn order(
    cx: &mut Checker,
    section: &mut Section<'_>,
    default: &'static str,
) -> Option<bool> {
    section.choice(cx, "order", &[("big", true), ("little", false)], default)
}

fn delimiter(cx: &mut Checker, inner: &mut Section<'_>) -> Option<Framing> {
    const FORM: &str =
        "write 1 to 16 bytes as text, as in delimiter = \"\\r\\n\", or one as a number, as in 0x7E";
    let path = inner.path("delimiter");
    let place = inner.key_place("delimiter");
    let delimiter = match inner.node("delimiter") {
        None => {
            inner.required(cx, "delimiter", FORM);
            None
        }
        Some(Node {
            value: Value::Integer(byte),
            ..
        }) => {
            cx.list(path.clone(), &byte.to_string(), place);
            u8::try_from(*byte).ok().map(|byte| vec![byte])
        }
        Some(node) => text_of(cx, &path, node).and_then(|text| {
            cx.list(path.clone(), &text.value, text.place);
            bytes(&text.value).filter(|bytes| (1..=DELIMITER_BYTES).contains(&bytes.len()))
        }),
    };
    if place.is_some() && delimiter.is_none() {
        cx.error(place, format!("`{path}` is no delimiter"), FORM.to_owned());
    }
    let escape = byte(cx, inner, "escape");
    let xor = inner.integer(cx, "escape-xor", 0..=255, 0);
    let delimiter = delimiter?;
    let escape = match escape {
        Some(escape) => {
            let byte = u8::try_from(escape.value).ok()?;
            if delimiter.contains(&byte) {
                let message = "the escape is a byte of the delimiter";
                cx.error(escape.place, message, "write another byte".to_owned());
            }
            let xor = u8::try_from(xor.value).ok()?;
            Some(Escape { byte, xor })
        }
        None => {
            if xor.place.is_some() {
                let message = format!("`{}` without `escape`", inner.path("escape-xor"));
                cx.error(
                    xor.place,
                    message,
                    "write the escape, as in escape = 0x7D".to_owned(),
                );
            }
            None
        }
    };
    Some(Framing::Delimiter { delimiter, escape })
}

fn stx_etx(cx: &mut Checker, inner: &mut Section<'_>) -> Option<Framing> {
    let start = inner.integer(cx, "start", 0..=255, 2);
    let end = inner.integer(cx, "end", 0..=255, 3);
    let escape = byte(cx, inner, "escape");
    let checksum = inner.choice(cx, "checksum", &CHECKSUMS, "none");
    let covers = inner.choice(
        cx,
        "covers",
        &[
            ("data", Covers::Data),
            ("data-end", Covers::DataEnd),
            ("start-data-end", Covers::All),
        ],
        "data-end",
    );
    // Modbus sends its CRC low byte first, everybody else the other way round.
    let modbus = matches!(checksum, Some(Checksum::Crc16Modbus));
    let big_endian = order(cx, inner, if modbus { "little" } else { "big" });
    let hex = inner.flag(cx, "hex", false);
    let escape_value = escape.as_ref().map(|escape| escape.value);
    if start.value == end.value || [Some(start.value), Some(end.value)].contains(&escape_value) {
        let message = "start, end and escape must be three different bytes";
        let place = end.place.or(start.place).or(inner.place());
        cx.error(
            place,
            message,
            "usual are start = 0x02, end = 0x03, escape = 0x10".to_owned(),
        );
    }
    let byte = |value: i64| u8::try_from(value).ok();
    Some(Framing::StxEtx(Envelope {
        start: byte(start.value)?,
        end: byte(end.value)?,
        escape: escape_value.and_then(byte),
        checksum: checksum?,
        covers: covers?,
        big_endian: big_endian?,
        hex: hex.value,
    }))
}

fn byte(cx: &mut Checker, section: &mut Section<'_>, key: &'static str) -> Option<At<i64>> {
    section.whole(cx, key, 0..=255)
}

/// What is written once, and what again and again. The short form is written once.
fn query(cx: &mut Checker, section: &mut Section<'_>) -> Option<(Vec<u8>, Option<Query>)> {
    let path = section.path("query");
    let Some(node) = section.node("query") else {
        return Some((Vec::new(), None));
    };
    match node.value {
        Value::Text(_) => {
            let text = text_of(cx, &path, node)?;
            cx.list(path, &text.value, text.place);
            return Some((asked(cx, &text)?, None));
        }
        Value::Table(_) => {}
        Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Time(_)
        | Value::Array(_) => {
            wrong_type(
                cx,
                &path,
                node,
                "query = \"…\" or query = { text = \"…\", every = \"1s\" }",
            );
            return None;
        }
    }
    let mut inner = Section::at(cx, path, node);
    let initial = inner.text(cx, "initial");
    let text = inner.text(cx, "text");
    let every = inner.duration_or(cx, "every", EVERY_MIN..=EVERY_MAX, EVERY);
    if text.is_none() && every.place.is_some() {
        inner.required(cx, "text", "write what is asked, as in text = \"SI\\r\\n\"");
    }
    inner.finish(cx);
    let initial = match initial {
        Some(initial) => asked(cx, &initial)?,
        None => Vec::new(),
    };
    let query = match text {
        Some(text) => Some(Query {
            bytes: asked(cx, &text)?,
            every: every.value,
        }),
        None => None,
    };
    Some((initial, query))
}

fn asked(cx: &mut Checker, text: &At<String>) -> Option<Vec<u8>> {
    let bytes = bytes(&text.value).filter(|bytes| (1..=QUERY_BYTES).contains(&bytes.len()));
    if bytes.is_none() {
        let message = format!("`{}` cannot be asked", text.value.escape_debug());
        let help = format!(
            "write 1 to {QUERY_BYTES} characters up to U+00FF, each of which is one byte: \"\\u0005\" is ENQ"
        );
        cx.error(text.place, message, help);
    }
    bytes
}

/// Characters up to U+00FF as the bytes with their numbers.
fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}
