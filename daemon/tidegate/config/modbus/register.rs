//! One value of a register map.

use tidegate_domain::limits::SERIES_NAME_BYTES;
use tidegate_ingest::{Kind, Order, Point, Table};

use super::super::raw::Node;
use super::super::report::Place;
use super::super::section::{At, Checker, Section};
use super::{Common, Map, ORDERS, TYPES};

/// Registers that one write sends at most.
const WRITTEN: u16 = 123;

impl Map<'_> {
    /// One value. Its series is still the template.
    pub(super) fn register(
        &mut self,
        cx: &mut Checker,
        path: String,
        node: &Node,
        common: &Common,
        units: &[u8],
    ) -> Option<(Point, At<String>)> {
        let bits = common.table.is_bits();
        let mut item = Section::at(cx, path, node);
        if !item.exists() {
            return None;
        }
        let template = item.text_required(
            cx,
            "series",
            "name it, as in series = \"meter/{unit}/voltage\"",
        );
        if item.key_place("address").is_none() {
            item.required(
                cx,
                "address",
                "write where it stands, as in address = 0; first-address = 1 counts from 1",
            );
        }
        let last = 65_535 + common.base;
        let address = item.whole(cx, "address", common.base..=last);
        let kind = item.choice(cx, "type", &TYPES, if bits { "bool" } else { "uint16" });
        let order = item.choice(cx, "order", &ORDERS, "ABCD");
        let bit = item.whole(cx, "bit", 0..=15);
        let length = item.whole(cx, "length", 1..=i64::from(common.most.min(125)));
        let scale_at = item.key_place("scale").or(item.key_place("offset"));
        let scale = item.number(cx, "scale", -1e15..=1e15, 1.0);
        let offset = item.number(cx, "offset", -1e15..=1e15, 0.0);
        let measure = item.text(cx, "measure");
        let write = item.flag(cx, "write", false);
        let (type_at, order_at) = (item.key_place("type"), item.key_place("order"));
        let place = item.place();
        item.finish(cx);
        let (template, address, kind, order) = (template?, address?, kind?, order?);
        let kind = match kind {
            Kind::Bit(_) => {
                let Some(bit) = &bit else {
                    let help =
                        "write which, as in bit = 3: 0 is the least significant one, 15 the most";
                    cx.missing(place, "`bit` does not say which bit", help.to_owned());
                    return None;
                };
                Kind::Bit(u8::try_from(bit.value).ok()?)
            }
            // `bit = 3` says enough.
            _ if bit.is_some() && type_at.is_none() && !bits => {
                Kind::Bit(u8::try_from(bit.as_ref()?.value).ok()?)
            }
            Kind::Text { .. } => {
                let Some(length) = &length else {
                    let help = "write its registers, of two characters each, as in length = 8";
                    cx.missing(place, "a string has no length", help.to_owned());
                    return None;
                };
                Kind::Text {
                    registers: u8::try_from(length.value).ok()?,
                }
            }
            Kind::Bool
            | Kind::Int8High
            | Kind::Int8Low
            | Kind::Uint8High
            | Kind::Uint8Low
            | Kind::Int16
            | Kind::Uint16
            | Kind::Int32
            | Kind::Uint32
            | Kind::Int64
            | Kind::Uint64
            | Kind::Float16
            | Kind::Float32
            | Kind::Float64
            | Kind::Bcd16
            | Kind::Bcd32 => kind,
        };
        let is_bit = matches!(kind, Kind::Bit(_));
        let is_text = matches!(kind, Kind::Text { .. });
        let mut ok = true;
        let mut wrong = |cx: &mut Checker, at: Option<Place>, message: String, help: &str| {
            cx.error(at, message, help.to_owned());
            ok = false;
        };
        if bits && kind != Kind::Bool {
            let message = format!("the table `{}` holds bits", common.table.as_str());
            wrong(
                cx,
                type_at.or(place),
                message,
                "write type = \"bool\", or read the table `holding` or `input`",
            );
        }
        if let Some(bit) = bit.as_ref().filter(|_| !is_bit) {
            wrong(
                cx,
                bit.place,
                "`bit` has no meaning for this type".to_owned(),
                "remove it, or write type = \"bit\"",
            );
        }
        if let Some(length) = length.as_ref().filter(|_| !is_text) {
            wrong(
                cx,
                length.place,
                "`length` has no meaning for this type".to_owned(),
                "remove it, or write type = \"string\"",
            );
        }
        if scale_at.is_some() && (is_bit || is_text || kind == Kind::Bool) {
            wrong(
                cx,
                scale_at,
                "only numbers have a scale or an offset".to_owned(),
                "remove it",
            );
        }
        if scale == 0.0 {
            wrong(
                cx,
                scale_at,
                "a scale of 0 makes every value 0".to_owned(),
                "write what the register is multiplied by",
            );
        }
        if is_text && matches!(order, Order::Dcba | Order::Cdab) {
            wrong(
                cx,
                order_at,
                "the registers of a string stand in order".to_owned(),
                "write \"ABCD\", or \"BADC\" where the two characters of each are swapped",
            );
        }
        let first = address.value - common.base;
        if !(0..=65_535).contains(&first) {
            // That was reported.
            return None;
        }
        let (begin, end) = (
            u32::try_from(first).ok()?,
            u32::try_from(first).ok()? + u32::from(kind.registers()),
        );
        if end > 65_536 {
            wrong(
                cx,
                address.place,
                "it goes on behind the last register".to_owned(),
                "the last one has address 65535",
            );
        }
        if kind.registers() > common.most {
            let message = format!(
                "it has {} registers, more than one request may read",
                kind.registers()
            );
            wrong(cx, type_at.or(place), message, "raise max-count");
        }
        if common
            .forbidden
            .iter()
            .any(|hole| hole.start < end && begin < hole.end)
        {
            let message = "it lies in what is forbidden to be read".to_owned();
            wrong(
                cx,
                address.place,
                message,
                "remove it, or take it out of `forbidden`",
            );
        }
        if write.value {
            let part = is_bit
                || matches!(
                    kind,
                    Kind::Int8High
                        | Kind::Int8Low
                        | Kind::Uint8High
                        | Kind::Uint8Low
                        | Kind::Float16
                );
            if matches!(common.table, Table::Input | Table::Discrete) {
                let message = format!("the table `{}` cannot be written", common.table.as_str());
                wrong(cx, write.place, message, "remove `write`");
            } else if part || (kind == Kind::Bool && !bits) || kind.registers() > WRITTEN {
                wrong(
                    cx,
                    write.place,
                    "a value of this type cannot be written".to_owned(),
                    "remove `write`, or write a type that has whole registers",
                );
            }
        }
        if !ok {
            return None;
        }
        let point = Point {
            series: "".into(),
            address: u16::try_from(first).ok()?,
            kind,
            order,
            scale,
            offset,
            write: write.value,
        };
        for unit in units {
            let series = self.series(&template.value, *unit, common, point.address);
            if !check_series(cx, &template, &series) {
                return None;
            }
            if self.seen.insert(series.clone(), template.place).is_some() {
                let message = format!("two values are named `{series}`");
                let help =
                    "each needs a series of its own: for several slaves write \"{unit}\" in it";
                cx.error(template.place, message, help.to_owned());
                return None;
            }
            if let Some(measure) = &measure {
                self.measures.push((series, measure.value.clone()));
            }
        }
        Some((point, template))
    }

    /// A template with what is known put in. The address is the one that stands in the configuration.
    pub(super) fn series(&self, template: &str, unit: u8, common: &Common, address: u16) -> String {
        template
            .replace("{source}", self.source)
            .replace("{unit}", &unit.to_string())
            .replace("{table}", common.table.as_str())
            .replace("{address}", &(i64::from(address) + common.base).to_string())
    }
}

fn check_series(cx: &mut Checker, template: &At<String>, series: &str) -> bool {
    let odd = |c: char| c.is_control() || c == '\u{FFFD}' || "{}".contains(c);
    let sound = !series.is_empty()
        && series.len() <= SERIES_NAME_BYTES
        && !series.contains(odd)
        && !series.ends_with('/')
        && !series.contains("//");
    if !sound {
        let message = format!("`{}` is no name of a series", template.value.escape_debug());
        let help = format!(
            "write 1 to {SERIES_NAME_BYTES} bytes, no part of it empty; known are {{source}}, {{unit}}, {{table}} and {{address}}"
        );
        cx.error(template.place, message, help);
    }
    sound
}
