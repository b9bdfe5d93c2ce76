//! Channels of Industrial I/O, by the names of their files (`Documentation/ABI/testing/sysfs-bus-iio` of the kernel).

use std::collections::{BTreeMap, BTreeSet};

use super::channel::{Channel, Measure};

/// What the kernel's documentation says of the kinds: a longer word stands before one that it begins with.
pub(super) const MEASURES: [Measure; 37] = [
    ("accel", 1.0, "m/s²"),
    ("activity", 1000.0, "%"),
    ("altcurrent", 1000.0, "A"),
    ("altvoltage", 1000.0, "V"),
    ("anglvel", 1.0, "rad/s"),
    ("angl", 1.0, "rad"),
    ("attention", 1.0, "%"),
    ("capacitance", 1.0, "nF"),
    ("cct", 1.0, "K"),
    ("concentration", 1.0, "%"),
    ("count", 1.0, ""),
    ("current", 1000.0, "A"),
    ("deltaangl", 1.0, "rad"),
    ("deltavelocity", 1.0, "m/s"),
    ("distance", 1.0, "m"),
    ("electricalconductivity", 1.0, "S/m"),
    ("energy", 1.0, "J"),
    ("gravity", 1.0, "m/s²"),
    ("humidityrelative", 1000.0, "%"),
    ("illuminance", 1.0, "lx"),
    ("incli", 1.0, "°"),
    ("intensity", 1.0, ""),
    ("magn", 1.0, "G"),
    ("massconcentration", 1.0, "µg/m³"),
    ("phase", 1.0, "rad"),
    ("ph", 1.0, ""),
    ("positionrelative", 1000.0, "%"),
    ("powerfactor", 1.0, ""),
    ("power", 1000.0, "W"),
    ("pressure", 1.0, "kPa"),
    ("proximity", 1.0, "m"),
    ("resistance", 1.0, "Ω"),
    ("temp", 1000.0, "°C"),
    ("steps", 1.0, ""),
    ("uvindex", 1.0, ""),
    ("velocity", 1.0, "m/s"),
    ("voltage", 1000.0, "V"),
];

/// The channels that these files hold, by name. Outputs, events, and what is several numbers at once (rotations) are none.
pub(super) fn channels(files: &BTreeSet<String>) -> Vec<Channel> {
    let mut found: BTreeMap<&str, Channel> = BTreeMap::new();
    for file in files {
        let inner = file.strip_prefix("in_");
        let Some((name, processed)) = inner.and_then(|file| {
            let input = file.strip_suffix("_input").map(|name| (name, true));
            input.or_else(|| Some((file.strip_suffix("_raw")?, false)))
        }) else {
            continue;
        };
        let Some(&(kind, divisor, _)) = MEASURES.iter().find(|(kind, ..)| is_of(name, kind)) else {
            continue;
        };
        // What the driver has computed already comes before what is to be computed here.
        if !processed && found.contains_key(name) {
            continue;
        }
        let beside = |what: &str| beside(files, name, what);
        let channel = Channel {
            kind: kind.to_owned(),
            name: name.to_owned(),
            value: file.clone(),
            scale: (!processed).then(|| beside("scale")).flatten(),
            offset: (!processed).then(|| beside("offset")).flatten(),
            label: Some(format!("in_{name}_label")).filter(|file| files.contains(file)),
            fault: None,
            divisor,
        };
        found.insert(name, channel);
    }
    found.into_values().collect()
}

/// Whether a channel's name is that word, alone or with an index, a modifier or a second channel behind it.
fn is_of(name: &str, kind: &str) -> bool {
    let rest = name.strip_prefix(kind);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || c == '_' || c == '-')
    })
}

/// The file with what belongs to a channel: its own, else that of a group that it is in, as `in_accel_scale` for `accel_x` and
/// `in_voltage-voltage_scale` for `voltage0-voltage1`.
fn beside(files: &BTreeSet<String>, channel: &str, what: &str) -> Option<String> {
    let mut name = channel;
    loop {
        let without_index: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
        for name in [name, &without_index] {
            let file = format!("in_{name}_{what}");
            if files.contains(&file) {
                return Some(file);
            }
        }
        name = name.rsplit_once('_')?.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> BTreeSet<String> {
        files.iter().map(|file| (*file).to_owned()).collect()
    }

    #[test]
    fn the_files_of_a_device_are_its_channels() {
        let files = names(&[
            "name",
            "dev",
            "uevent",
            "in_temp_input",
            "in_temp_raw",
            "in_temp_scale",
            "in_humidityrelative_input",
            "in_voltage0_raw",
            "in_voltage1_raw",
            "in_voltage1_scale",
            "in_voltage1_label",
            "in_voltage_scale",
            "in_voltage0-voltage1_raw",
            "in_voltage-voltage_scale",
            "in_accel_x_raw",
            "in_accel_scale",
            "in_accel_x_offset",
            "in_voltage0_mean_raw",
            "in_rot_quaternion_raw",
            "in_powerfactor_raw",
            "in_tempest_raw",
            "out_voltage0_raw",
            "in_voltage_sampling_frequency",
        ]);
        let shown: Vec<String> = channels(&files)
            .iter()
            .map(|channel| {
                let or = |file: &Option<String>| file.clone().unwrap_or_else(|| "-".to_owned());
                format!(
                    "{} {} {} {} {} {} {}",
                    channel.kind,
                    channel.name,
                    channel.value,
                    or(&channel.scale),
                    or(&channel.offset),
                    or(&channel.label),
                    channel.divisor
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "accel accel_x in_accel_x_raw in_accel_scale in_accel_x_offset - 1",
                "humidityrelative humidityrelative in_humidityrelative_input - - - 1000",
                "powerfactor powerfactor in_powerfactor_raw - - - 1",
                "temp temp in_temp_input - - - 1000",
                "voltage voltage0 in_voltage0_raw in_voltage_scale - - 1000",
                "voltage voltage0-voltage1 in_voltage0-voltage1_raw in_voltage-voltage_scale - - 1000",
                "voltage voltage0_mean in_voltage0_mean_raw in_voltage_scale - - 1000",
                "voltage voltage1 in_voltage1_raw in_voltage1_scale - in_voltage1_label 1000",
            ]
        );
    }

    #[test]
    fn each_word_is_found_before_one_that_it_begins_with() {
        for (at, (kind, ..)) in MEASURES.iter().enumerate() {
            let first = MEASURES.iter().position(|(other, ..)| is_of(kind, other));
            assert_eq!(first, Some(at), "{kind}");
        }
    }
}
