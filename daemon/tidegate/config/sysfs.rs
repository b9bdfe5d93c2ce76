//! What only `kind = "iio"` and `"hwmon"` have: where the devices are, and which of them are read.

use std::time::Duration;

use tidegate_ingest::SysfsKind;

use super::model::SysfsSource;
use super::section::{Checker, Section};

const INTERVAL_IIO: Duration = Duration::from_secs(1);
/// Temperatures of chips and turns of fans.
const INTERVAL_HWMON: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_hours(24);
/// Names of devices.
const DEVICES: usize = 64;

/// Reads the keys. `None` where an error was reported that leaves nothing to return.
pub(super) fn sysfs(
    cx: &mut Checker,
    section: &mut Section<'_>,
    kind: SysfsKind,
) -> Option<SysfsSource> {
    let root = section.text_or(cx, "root", kind.root());
    if !root.value.starts_with('/') {
        let message = format!("`{}` is no absolute path", root.value);
        let help = format!(
            "write the directory of the devices, as in root = \"{}\"",
            kind.root()
        );
        cx.error(root.place, message, help);
    }
    let usual = match kind {
        SysfsKind::Iio => INTERVAL_IIO,
        SysfsKind::Hwmon => INTERVAL_HWMON,
    };
    let interval = section.duration_or(cx, "interval", INTERVAL_MIN..=INTERVAL_MAX, usual);
    let devices = section.texts(cx, "devices").unwrap_or_default();
    let place = section.key_place("devices");
    if place.is_some() && !(1..=DEVICES).contains(&devices.len()) {
        let message = format!("`{}` has {} names", section.path("devices"), devices.len());
        let help = format!(
            "name 1 to {DEVICES} devices as their file `name` does, as in devices = [\"bme280\"]; without this key all are read"
        );
        cx.error(place, message, help);
    }
    Some(SysfsSource {
        kind,
        root: root.value.into(),
        interval: interval.value,
        devices: devices.into_iter().map(|device| device.value).collect(),
    })
}
