//! What only `kind = "modbus-rtu"` and `"modbus-tcp"` have: the line, and the register map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tidegate_ingest::{Kind, Link, ModbusLine, Order, Point, ReadGroup, Table};

use super::model::ModbusSource;
use super::raw::{Node, Value};
use super::report::Place;
use super::section::{At, Checker, Section, text_of, wrong_type};
use super::serial::port;

mod register;

/// A slave on a line is slow, one behind a network may be slower.
const TIMEOUT_RTU: Duration = Duration::from_millis(500);
const TIMEOUT_TCP: Duration = Duration::from_secs(1);
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_mins(1));
const RETRIES: i64 = 2;
const RETRIES_MAX: i64 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_hours(24);
const MAX_AGE: Duration = Duration::from_mins(5);
/// Values of one source.
const POINTS: usize = 10_000;

const READ: &str = "write read = [{ unit = 1, table = \"holding\", registers = [{ series = \"meter/voltage\", address = 0, type = \"float32\" }] }]";

const TABLES: [(&str, Table); 4] = [
    ("coil", Table::Coil),
    ("discrete", Table::Discrete),
    ("input", Table::Input),
    ("holding", Table::Holding),
];

const ORDERS: [(&str, Order); 4] = [
    ("ABCD", Order::Abcd),
    ("DCBA", Order::Dcba),
    ("BADC", Order::Badc),
    ("CDAB", Order::Cdab),
];

/// The names of types. Those of `bit` and `string` come with a key of their own.
pub(crate) const TYPES: [(&str, Kind); 18] = [
    ("uint16", Kind::Uint16),
    ("bool", Kind::Bool),
    ("bit", Kind::Bit(0)),
    ("int8h", Kind::Int8High),
    ("int8l", Kind::Int8Low),
    ("uint8h", Kind::Uint8High),
    ("uint8l", Kind::Uint8Low),
    ("int16", Kind::Int16),
    ("int32", Kind::Int32),
    ("uint32", Kind::Uint32),
    ("int64", Kind::Int64),
    ("uint64", Kind::Uint64),
    ("float16", Kind::Float16),
    ("float32", Kind::Float32),
    ("float64", Kind::Float64),
    ("bcd16", Kind::Bcd16),
    ("bcd32", Kind::Bcd32),
    ("string", Kind::Text { registers: 1 }),
];

/// Reads the keys of a Modbus source. `None` where an error was reported that leaves nothing to return.
pub(super) fn modbus(
    cx: &mut Checker,
    section: &mut Section<'_>,
    name: &str,
    rtu: bool,
) -> Option<ModbusSource> {
    let link = if rtu {
        port(cx, section).map(Link::Serial)
    } else {
        tcp(cx, section)
    };
    let timeout = if rtu { TIMEOUT_RTU } else { TIMEOUT_TCP };
    let timeout = section.duration_or(cx, "timeout", TIMEOUT.0..=TIMEOUT.1, timeout);
    let retries = section.integer(cx, "retries", 0..=RETRIES_MAX, RETRIES);
    let range = Duration::ZERO..=TIMEOUT.1;
    let quarantine = section.duration_or(cx, "quarantine", range, timeout.value);
    let pause = section.duration_or(cx, "pause", Duration::ZERO..=PAUSE_MAX, Duration::ZERO);
    let mut map = Map {
        source: name,
        rtu,
        seen: BTreeMap::new(),
        measures: Vec::new(),
        groups: Vec::new(),
    };
    let path = section.path("read");
    match section.array(cx, "read") {
        None if section.key_place("read").is_none() => section.required(cx, "read", READ),
        None => {}
        Some([]) => {
            let message = format!("`{path}` is empty: the source would read nothing");
            cx.error(section.key_place("read"), message, READ.to_owned());
        }
        Some(items) => {
            for (index, node) in items.iter().enumerate() {
                map.group(cx, format!("{path}[{index}]"), node);
            }
        }
    }
    if map.seen.len() > POINTS {
        let message = format!("{} values are more than one source reads", map.seen.len());
        let help = format!("write at most {POINTS}, and further ones in another source");
        cx.error(section.key_place("read"), message, help);
    }
    Some(ModbusSource {
        line: ModbusLine {
            link: link?,
            timeout: timeout.value,
            quarantine: quarantine.value,
            pause: pause.value,
            retries: u32::try_from(retries.value).ok()?,
        },
        groups: map.groups,
        measures: map.measures,
    })
}

fn tcp(cx: &mut Checker, section: &mut Section<'_>) -> Option<Link> {
    const URL: &str = "write the device's address, as in url = \"tcp://10.0.0.7:502\"";
    let url = section.text_required(cx, "url", URL);
    let rtu = section.choice(cx, "framing", &[("tcp", false), ("rtu", true)], "tcp");
    let url = url?;
    let Some((host, port)) = address(&url.value) else {
        let message = format!("`{}` is no address of a Modbus device", url.value);
        cx.error(url.place, message, URL.to_owned());
        return None;
    };
    Some(Link::Tcp {
        host,
        port,
        rtu: rtu?,
    })
}

/// `tcp://host:port`, the port being 502 where it is left out.
fn address(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("tcp://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => rest.find(':').map_or((rest, ""), |at| rest.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if port.is_empty() => 502,
        None => return None,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then(|| (host.to_owned(), port))
}

/// The register map while it is read.
struct Map<'a> {
    source: &'a str,
    rtu: bool,
    /// Series, and where they are written.
    seen: BTreeMap<String, Option<Place>>,
    measures: Vec<(String, String)>,
    groups: Vec<ReadGroup>,
}

/// What all values of a group have in common.
struct Common {
    table: Table,
    /// The address that the first register has here.
    base: i64,
    most: u16,
    forbidden: Vec<Range<u32>>,
}

impl Map<'_> {
    fn group(&mut self, cx: &mut Checker, path: String, node: &Node) {
        let mut group = Section::at(cx, path, node);
        if !group.exists() {
            return;
        }
        let units = self.units(cx, &mut group);
        let table = if group.key_place("table").is_none() {
            group.required(
                cx,
                "table",
                "write table = \"holding\", \"input\", \"coil\" or \"discrete\"",
            );
            group.node("table");
            None
        } else {
            group.choice(cx, "table", &TABLES, "holding")
        };
        let interval = group.duration_or(cx, "interval", INTERVAL_MIN..=INTERVAL_MAX, INTERVAL);
        let base = group.integer(cx, "first-address", 0..=1, 0);
        let most = table.map_or(125, Table::most);
        let most = group.integer(cx, "max-count", 1..=i64::from(most), i64::from(most));
        let fill = group.integer(cx, "fill", 0..=2000, 0);
        let on_change = group.flag(cx, "on-change", false);
        let max_age = group.duration_or(cx, "max-age", INTERVAL_MIN..=INTERVAL_MAX, MAX_AGE);
        if max_age.place.is_some() && !on_change.value {
            let message = format!("`{}` without `on-change`", group.path("max-age"));
            cx.error(
                max_age.place,
                message,
                "write on-change = true, or remove it".to_owned(),
            );
        }
        let forbidden = forbidden(cx, &mut group, base.value);
        let registers_path = group.path("registers");
        let registers = group.array(cx, "registers");
        let place = group.key_place("registers");
        if place.is_none() {
            group.required(cx, "registers", READ);
        } else if registers.is_some_and(<[Node]>::is_empty) {
            let message = format!("`{registers_path}` is empty: nothing would be read");
            cx.error(place, message, READ.to_owned());
        }
        group.finish(cx);
        let (Some(table), Some(units), Some(forbidden)) = (table, units, forbidden) else {
            return;
        };
        let common = Common {
            table,
            base: base.value,
            most: u16::try_from(most.value).unwrap_or(table.most()),
            forbidden,
        };
        let mut points: Vec<(Point, At<String>)> = Vec::new();
        for (index, node) in registers.unwrap_or_default().iter().enumerate() {
            points.extend(self.register(
                cx,
                format!("{registers_path}[{index}]"),
                node,
                &common,
                &units,
            ));
        }
        for unit in units {
            let of_unit = points.iter().map(|(point, template)| Point {
                series: self
                    .series(&template.value, unit, &common, point.address)
                    .into(),
                ..point.clone()
            });
            let points: Vec<Point> = of_unit.collect();
            if points.is_empty() {
                continue;
            }
            self.groups.push(ReadGroup {
                unit,
                table,
                interval: interval.value,
                most: common.most,
                fill: u16::try_from(fill.value).unwrap_or(0),
                forbidden: common.forbidden.clone(),
                on_change: on_change.value.then_some(max_age.value),
                points: points.into(),
            });
        }
    }

    /// One address, or several slaves that are alike.
    fn units(&self, cx: &mut Checker, group: &mut Section<'_>) -> Option<Vec<u8>> {
        const FORM: &str = "write the slave's address, as in unit = 1, or several that are alike, as in unit = [1, 2]";
        let path = group.path("unit");
        let place = group.key_place("unit");
        let Some(node) = group.node("unit") else {
            group.required(cx, "unit", FORM);
            return None;
        };
        let nodes = match &node.value {
            Value::Array(nodes) => nodes.as_slice(),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::Table(_) => std::slice::from_ref(node),
        };
        // 0 is a broadcast on a line, and what is above 247 is reserved; over TCP 0 and 255 are the device itself.
        let range = if self.rtu { 1..=247 } else { 0..=255 };
        let mut units = Vec::new();
        for node in nodes {
            let Value::Integer(unit) = node.value else {
                wrong_type(cx, &path, node, "a whole number, or several in [ ]");
                return None;
            };
            if !range.contains(&unit) {
                let message = format!("{unit} is no address of a slave");
                let help = format!("write a number from {} to {}", range.start(), range.end());
                cx.error(Some(node.place), message, help);
                return None;
            }
            let unit = u8::try_from(unit).ok()?;
            if units.contains(&unit) {
                let message = format!("slave {unit} is named twice");
                cx.error(
                    Some(node.place),
                    message,
                    "remove one of the two".to_owned(),
                );
                return None;
            }
            units.push(unit);
        }
        if units.is_empty() {
            cx.error(place, format!("`{path}` is empty"), FORM.to_owned());
            return None;
        }
        cx.list(path, &format!("{units:?}"), place);
        Some(units)
    }
}

/// `forbidden = [7, "10-12"]`, as addresses from 0.
fn forbidden(cx: &mut Checker, group: &mut Section<'_>, base: i64) -> Option<Vec<Range<u32>>> {
    const FORM: &str = "write addresses and ranges of them, as in forbidden = [7, \"10-12\"]";
    let path = group.path("forbidden");
    let Some(node) = group.node("forbidden") else {
        return Some(Vec::new());
    };
    let Value::Array(items) = &node.value else {
        wrong_type(cx, &path, node, "an array in [ ]");
        return None;
    };
    let mut found = Vec::new();
    for item in items {
        let range = match &item.value {
            Value::Integer(address) => Some((*address, *address)),
            Value::Text(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::Array(_)
            | Value::Table(_) => {
                let text = text_of(cx, &path, item)?;
                let ends = text.value.split_once('-');
                ends.and_then(|(first, last)| {
                    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
                })
            }
        };
        let range = range.and_then(|(first, last): (i64, i64)| {
            let first = u32::try_from(first.checked_sub(base)?).ok()?;
            let last = u32::try_from(last.checked_sub(base)?).ok()?;
            (first <= last && last <= 65_535).then_some(first..last + 1)
        });
        let Some(range) = range else {
            cx.error(
                Some(item.place),
                "this is no range of addresses",
                FORM.to_owned(),
            );
            return None;
        };
        found.push(range);
    }
    cx.list(path, &format!("{found:?}"), Some(node.place));
    Some(found)
}

#[cfg(test)]
mod tests;
