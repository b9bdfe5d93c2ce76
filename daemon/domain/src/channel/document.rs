//! The channel document: what the gateways of a channel run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::percent::Percent;
use super::staged::Staged;
use super::words::{Name, Version, is_digest};
use super::{DocumentError, read, value};
use crate::limits;
use crate::rollout::{Gates, Mode};

/// `channels/<channel>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// [`DOCUMENT_VERSION`](super::DOCUMENT_VERSION).
    pub v: u64,
    /// The channel.
    pub channel: Name,
    /// Grows by at least one with every document of the channel. A gateway takes none that is not above its own.
    pub epoch: u64,
    /// When it was made, ms since the epoch of Unix, by the publisher's clock.
    pub published: u64,
    /// What it gives, by module.
    #[serde(deserialize_with = "modules")]
    pub modules: BTreeMap<Name, Pinned>,
    /// Which part of the gateways may take it when; none: all at once.
    #[serde(default)]
    pub waves: Vec<Wave>,
    /// How its modules are tried; absent: as the site's `[rollout]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How it goes on from wave to wave by what gateways report; absent: `waves` alone say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
}

/// One module of a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// The version that runs.
    pub version: Version,
    /// Its component's SHA-256.
    pub digest: String,
    /// The least version that may run at all: what is below it is not even a last known good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Version>,
    /// Settings of its slots; absent: the site's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
}

/// From a time on a part of the gateways may take a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Of the gateways.
    pub percent: Percent,
    /// Since `published`: a whole number and one of `s`, `m`, `h`, `d`.
    #[serde(serialize_with = "show_time", deserialize_with = "read_time")]
    pub after: Duration,
}

/// How a channel's modules are tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// What has to be passed.
    #[serde(default)]
    pub gate: Gate,
}

/// The bounds of [`Gates`] that a channel sets; the others are the site's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// How a candidate is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The part of the series that a canary speaks for, above 0, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Readings that both generations judged before there is a promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_samples: Option<u64>,
    /// Seconds after which a candidate that has not got them is rolled back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit_seconds: Option<u64>,
    /// The part of the readings that may come out otherwise, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differences: Option<f64>,
    /// How many times the active generation's CPU time a candidate's may be, 1 and more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_factor: Option<f64>,
    /// How many times its memory, 1 and more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_factor: Option<f64>,
}

impl Channel {
    /// Reads and checks a channel document.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let channel: Self = read(json, limits::CHANNEL_BYTES)?;
        channel.check()?;
        Ok(channel)
    }

    /// What [`Channel::parse`] checks besides the form.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DocumentError> {
        // A fast-forwarded epoch would be the last one for ever, and JSON's readers lose digits above.
        if self.epoch == 0 || self.epoch > limits::CHANNEL_EPOCH_MOST {
            let most = limits::CHANNEL_EPOCH_MOST;
            return value("epoch", format!("{}; 1 to {most} are possible", self.epoch));
        }
        if self.modules.len() > limits::CHANNEL_MODULES {
            return value(
                "modules",
                format!("more than {} modules in a channel", limits::CHANNEL_MODULES),
            );
        }
        for (name, pinned) in &self.modules {
            if !is_digest(&pinned.digest) {
                return value("modules", format!("`{name}` has no sound digest"));
            }
            if let Some(minimum) = &pinned.minimum
                && *minimum > pinned.version
            {
                let version = &pinned.version;
                return value(
                    "modules",
                    format!("`{name}` is at {version}, below its own minimum {minimum}"),
                );
            }
        }
        if self.waves.len() > limits::CHANNEL_WAVES {
            return value(
                "waves",
                format!("more than {} waves", limits::CHANNEL_WAVES),
            );
        }
        let rising =
            |pair: &[Wave]| pair[0].percent < pair[1].percent && pair[0].after < pair[1].after;
        if !self.waves.windows(2).all(rising) {
            return value(
                "waves",
                "each wave has more percent and comes later than the one before",
            );
        }
        if let Some(staged) = &self.staged {
            staged.check(self)?;
        }
        self.canary
            .as_ref()
            .map_or(Ok(()), |canary| canary.gate.check())
    }

    /// How many of the ten thousand [places](crate::install::place) may take the document so long after it was published.
    /// Waves that end below all of them stay there until another document.
    #[must_use]
    pub fn places(&self, since_published: Duration) -> u16 {
        if self.halted().is_some() {
            return 0;
        }
        if self.waves.is_empty() {
            return Percent::ALL.places();
        }
        let begun = self
            .waves
            .iter()
            .filter(|wave| wave.after <= since_published);
        begun.map(|wave| wave.percent.places()).max().unwrap_or(0)
    }
}

impl Gate {
    fn check(&self) -> Result<(), DocumentError> {
        let within = |value: Option<f64>, least: f64, most: f64| {
            value.is_none_or(|value| (least..=most).contains(&value))
        };
        let sound = within(self.share, f64::MIN_POSITIVE, 1.0)
            && within(self.differences, 0.0, 1.0)
            && within(self.latency_factor, 1.0, limits::GATE_FACTOR)
            && within(self.memory_factor, 1.0, limits::GATE_FACTOR)
            && self
                .time_limit_seconds
                .is_none_or(|seconds| (1..=limits::GATE_TIME.as_secs()).contains(&seconds));
        if sound {
            return Ok(());
        }
        value(
            "canary",
            format!(
                "a gate's share and differences are parts of 1, its factors 1 to {}, its time limit 1 to {} seconds",
                limits::GATE_FACTOR,
                limits::GATE_TIME.as_secs()
            ),
        )
    }

    /// A site's gates with what the channel sets.
    #[must_use]
    pub fn over(&self, site: Gates) -> Gates {
        Gates {
            mode: self.mode.unwrap_or(site.mode),
            share: self.share.unwrap_or(site.share),
            min_samples: self.min_samples.unwrap_or(site.min_samples),
            time_limit: self
                .time_limit_seconds
                .map_or(site.time_limit, Duration::from_secs),
            differences: self.differences.unwrap_or(site.differences),
            tolerance: site.tolerance,
            latency: self.latency_factor.unwrap_or(site.latency),
            memory: self.memory_factor.unwrap_or(site.memory),
        }
    }
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Wave {
    /// Reads a time such as `0s` or `36h`.
    #[must_use]
    pub fn time(text: &str) -> Option<Duration> {
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        let number = text.strip_suffix(unit)?;
        let number: u64 = number
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| number.parse().ok())??;
        let time = Duration::from_secs(number.checked_mul(*seconds)?);
        (time <= limits::CHANNEL_WAVE_AFTER).then_some(time)
    }
}

pub(super) fn read_time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    Wave::time(&text).ok_or_else(|| {
        let most = limits::CHANNEL_WAVE_AFTER.as_secs() / 86_400;
        serde::de::Error::custom(format!(
            "a wave comes after a whole number and one of s, m, h, d, as in \"36h\", at most {most} days"
        ))
    })
}

pub(super) fn show_time<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let seconds = time.as_secs();
    let unit = UNITS
        .iter()
        .find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit));
    let (unit, size) = unit.unwrap_or(&("s", 1));
    to.serialize_str(&format!("{}{unit}", seconds / size))
}

/// A map that refuses a name that is there twice, and stops at the bound.
fn modules<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Name, Pinned>, D::Error> {
    struct Modules;
    impl<'de> Visitor<'de> for Modules {
        type Value = BTreeMap<Name, Pinned>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("modules by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            use serde::de::Error;
            let mut modules = BTreeMap::new();
            while let Some((name, pinned)) = map.next_entry::<Name, Pinned>()? {
                if modules.len() == limits::CHANNEL_MODULES {
                    let most = limits::CHANNEL_MODULES;
                    return Err(A::Error::custom(format!("more than {most} modules")));
                }
                if modules.contains_key(&name) {
                    return Err(A::Error::custom(format!(
                        "the module `{name}` is there twice"
                    )));
                }
                modules.insert(name, pinned);
            }
            Ok(modules)
        }
    }
    from.deserialize_map(Modules)
}
