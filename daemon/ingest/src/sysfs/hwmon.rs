//! Channels of hwmon, by the names of their files (`Documentation/hwmon/sysfs-interface.rst` of the kernel).

use std::collections::{BTreeMap, BTreeSet};

use super::channel::{Channel, Measure};

/// The kinds, with what the kernel's numbers are divided by: thousandths and millionths.
pub(super) const MEASURES: [Measure; 8] = [
    ("curr", 1000.0, "A"),
    ("energy", 1_000_000.0, "J"),
    ("fan", 1.0, "1/min"),
    ("freq", 1.0, "Hz"),
    ("humidity", 1000.0, "%"),
    ("in", 1000.0, "V"),
    ("power", 1_000_000.0, "W"),
    ("temp", 1000.0, "°C"),
];

/// The channels that these files hold, by name. Limits, alarms and what sets a fan are none.
pub(super) fn channels(files: &BTreeSet<String>) -> Vec<Channel> {
    let mut found = BTreeMap::new();
    for file in files {
        // Some meters have only an average.
        let value = file
            .strip_suffix("_input")
            .or_else(|| file.strip_suffix("_average"));
        let Some(name) = value else {
            continue;
        };
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(&(kind, divisor, _)) = MEASURES.iter().find(|(word, ..)| *word == kind) else {
            continue;
        };
        if kind.len() == name.len() || (file.ends_with("_average") && found.contains_key(name)) {
            continue;
        }
        let beside =
            |what: &str| Some(format!("{name}_{what}")).filter(|file| files.contains(file));
        let channel = Channel {
            kind: kind.to_owned(),
            name: name.to_owned(),
            value: file.clone(),
            scale: None,
            offset: None,
            label: beside("label"),
            fault: beside("fault"),
            divisor,
        };
        found.insert(name, channel);
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_chip_are_its_channels() {
        let files = [
            "name",
            "temp1_input",
            "temp1_label",
            "temp1_max",
            "temp1_crit_alarm",
            "temp2_input",
            "temp2_fault",
            "in0_input",
            "in0_min",
            "curr1_input",
            "power1_average",
            "power1_average_interval",
            "power2_average",
            "power2_input",
            "fan1_input",
            "fan1_target",
            "pwm1",
            "intrusion0_alarm",
            "temp_input",
            "device",
        ]
        .map(str::to_owned)
        .into();
        let channels = channels(&files);
        let shown: Vec<_> = channels
            .iter()
            .map(|c| (&*c.name, &*c.kind, &*c.value, c.divisor))
            .collect();
        assert_eq!(
            shown,
            [
                ("curr1", "curr", "curr1_input", 1000.0),
                ("fan1", "fan", "fan1_input", 1.0),
                ("in0", "in", "in0_input", 1000.0),
                ("power1", "power", "power1_average", 1_000_000.0),
                ("power2", "power", "power2_input", 1_000_000.0),
                ("temp1", "temp", "temp1_input", 1000.0),
                ("temp2", "temp", "temp2_input", 1000.0),
            ]
        );
        assert_eq!(channels[5].label.as_deref(), Some("temp1_label"));
        assert_eq!(channels[6].fault.as_deref(), Some("temp2_fault"));
    }
}
