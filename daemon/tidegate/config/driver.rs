//! What only `kind = "driver"` has: the module, and the buses that are handed to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_ingest::PinBias;

use super::bounds::limits;
use super::model::{BusGrant, DriverSource, Handed, join};
use super::pipeline::{check_module, settings};
use super::raw::{Node, Value};
use super::section::{Checker, Section, wrong_type};
use super::serial::port;

const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_hours(24);
/// A driver that waits holds one of the few places of guests: filters must not wait for it long.
const TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Buses, devices, lines and ports of one source.
const HANDED: usize = 32;
/// Characters of a name.
const NAME_CHARS: usize = 64;
const SPI_SPEED: i64 = 1_000_000;
const SPI_SPEED_MAX: i64 = 100_000_000;
/// How long a read of a serial line waits.
const UART_TIMEOUT: Duration = Duration::from_millis(100);
/// The addresses that I²C leaves to devices (NXP UM10204, table 3).
const ADDRESSES: std::ops::RangeInclusive<i64> = 0x08..=0x77;

const FORM: &str = "write i2c = { sensor = { device = \"/dev/i2c-1\", address = 0x76 } }, and likewise spi, gpio and uart";

/// Reads the keys. `None` where an error was reported that leaves nothing to return.
pub(super) fn driver(cx: &mut Checker, section: &mut Section<'_>) -> Option<DriverSource> {
    let module = section.text_required(
        cx,
        "module",
        "name the module, as in module = \"bme280-driver\"",
    );
    if let Some(module) = &module {
        check_module(cx, module);
    }
    let settings = settings(cx, section);
    let limits = limits(cx, section);
    let interval = section.duration_or(cx, "interval", INTERVAL_MIN..=INTERVAL_MAX, INTERVAL);
    let timeout = section.duration_or(cx, "timeout", TIMEOUT_MIN..=TIMEOUT_MAX, TIMEOUT);
    let mut handed = Vec::new();
    let mut sound = true;
    for (bus, read) in [
        (
            "i2c",
            i2c as fn(&mut Checker, &mut Section<'_>) -> Option<BusGrant>,
        ),
        ("spi", spi),
        ("gpio", gpio),
        ("uart", uart),
    ] {
        let path = section.path(bus);
        let Some(node) = section.node(bus) else {
            continue;
        };
        for (name, node) in entries(cx, &path, node) {
            let mut inner = Section::at(cx, join(&path, name), node);
            if !inner.exists() {
                sound = false;
                continue;
            }
            let grant = read(cx, &mut inner);
            inner.finish(cx);
            sound &= grant.is_some();
            handed.extend(grant.map(|grant| Handed {
                name: name.to_owned(),
                grant,
            }));
        }
    }
    let place = section.place();
    if handed.len() > HANDED {
        let message = format!("{} buses are handed in", handed.len());
        cx.error(place, message, format!("write at most {HANDED}"));
    }
    if handed.is_empty() && sound {
        cx.warning(
            place,
            "no bus is handed to the driver: it can reach nothing",
            FORM.to_owned(),
        );
    }
    Some(DriverSource {
        module: module?.value,
        settings,
        limits,
        interval: interval.value,
        timeout: timeout.value,
        handed: sound.then_some(handed)?,
    })
}

/// The tables below a key, by name.
fn entries<'a>(cx: &mut Checker, path: &str, node: &'a Node) -> BTreeMap<&'a str, &'a Node> {
    let Value::Table(table) = &node.value else {
        wrong_type(cx, path, node, "a table of names, as in { sensor = { … } }");
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for entry in &table.entries {
        let name = entry.key.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > NAME_CHARS || !name.chars().all(plain) {
            let message = format!("`{name}` is no name of a bus");
            let help = format!(
                "write 1 to {NAME_CHARS} letters, digits, \"-\" and \"_\", as the driver calls it"
            );
            cx.error(Some(entry.place), message, help);
        }
        found.insert(name, &entry.node);
    }
    found
}

/// The file of a device.
fn device(
    cx: &mut Checker,
    inner: &mut Section<'_>,
    key: &'static str,
    help: &str,
) -> Option<PathBuf> {
    let device = inner.text_required(cx, key, help)?;
    if !device.value.starts_with('/') {
        let message = format!("`{}` is no absolute path", device.value);
        cx.error(device.place, message, help.to_owned());
    }
    Some(device.value.into())
}

fn i2c(cx: &mut Checker, inner: &mut Section<'_>) -> Option<BusGrant> {
    let device = device(
        cx,
        inner,
        "device",
        "write the bus, as in device = \"/dev/i2c-1\"",
    );
    if inner.key_place("address").is_none() {
        let help = "write the one address that the driver may talk to, as in address = 0x76";
        inner.required(cx, "address", help);
    }
    let address = inner.whole(cx, "address", ADDRESSES);
    Some(BusGrant::I2c {
        device: device?,
        address: u8::try_from(address?.value).ok()?,
    })
}

fn spi(cx: &mut Checker, inner: &mut Section<'_>) -> Option<BusGrant> {
    let device = device(
        cx,
        inner,
        "device",
        "write the device, as in device = \"/dev/spidev0.0\"",
    );
    let speed = inner.integer(cx, "speed", 1000..=SPI_SPEED_MAX, SPI_SPEED);
    let mode = inner.integer(cx, "mode", 0..=3, 0);
    Some(BusGrant::Spi {
        device: device?,
        speed: u32::try_from(speed.value).ok()?,
        mode: u8::try_from(mode.value).ok()?,
    })
}

fn gpio(cx: &mut Checker, inner: &mut Section<'_>) -> Option<BusGrant> {
    let chip = device(
        cx,
        inner,
        "chip",
        "write the chip, as in chip = \"/dev/gpiochip0\"",
    );
    if inner.key_place("line").is_none() {
        inner.required(
            cx,
            "line",
            "write the number of the line at its chip, as in line = 17",
        );
    }
    let line = inner.whole(cx, "line", 0..=65_535);
    let output = inner.choice(cx, "direction", &[("in", false), ("out", true)], "in");
    let active_low = inner.flag(cx, "active-low", false);
    let written = inner.key_place("bias");
    let bias = inner.choice(
        cx,
        "bias",
        &[
            ("as-is", None),
            ("pull-up", Some(PinBias::PullUp)),
            ("pull-down", Some(PinBias::PullDown)),
            ("none", Some(PinBias::None)),
        ],
        "as-is",
    );
    let output = output?;
    if output && written.is_some() {
        let help = "remove it, or write direction = \"in\"";
        cx.error(written, "an output has no `bias`", help.to_owned());
    }
    Some(BusGrant::Gpio {
        chip: chip?,
        line: u32::try_from(line?.value).ok()?,
        output,
        active_low: active_low.value,
        bias: bias?,
    })
}

fn uart(cx: &mut Checker, inner: &mut Section<'_>) -> Option<BusGrant> {
    let port = port(cx, inner);
    let timeout = inner.duration_or(cx, "timeout", TIMEOUT_MIN..=TIMEOUT_MAX, UART_TIMEOUT);
    Some(BusGrant::Uart {
        port: port?,
        timeout: timeout.value,
    })
}
