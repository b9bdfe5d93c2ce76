//! A document that spreads by what gateways report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{Channel, Pinned, Wave, read_time, show_time};
use super::percent::Percent;
use super::words::{Name, Version, is_digest};
use super::{DocumentError, value};
use crate::limits;

/// How a document goes from few gateways to all. The publisher's `tidegate fleet` reads it, and makes the next document; to a
/// gateway only `since` and `halted` matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// The epoch that began it. All documents from there to this one give the same, to more and more gateways: a gateway has
    /// one place in all of them, and does not try again what it took or refused in one.
    pub since: u64,
    /// Which of `waves` this document is for, from 0.
    pub wave: usize,
    /// The waves, each larger than the one before.
    pub waves: Vec<StagedWave>,
    /// What opens the next.
    #[serde(default)]
    pub gate: WaveGate,
    /// What follows where too many gateways refuse it.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// For [`OnFailure::Revoke`]: the versions that take the place, and below which nothing runs any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replace: BTreeMap<Name, Version>,
    /// What the channel gave before.
    #[serde(default)]
    pub former: BTreeMap<Name, Pinned>,
    /// Why no further gateway takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
}

/// A part of the gateways, and how long it tries at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedWave {
    /// Of the gateways.
    pub percent: Percent,
    /// The least time before the next wave, or before the last counts as through: a whole number and one of `s`, `m`, `h`, `d`.
    #[serde(serialize_with = "show_time", deserialize_with = "read_time")]
    pub soak: Duration,
}

/// What the gateways of a wave have to say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaveGate {
    /// The part of the wave's gateways that may refuse it or put it back, 0 to 1. More halt it.
    pub failures: f64,
    /// The part of the wave's gateways that must have taken it before there is a next wave, 0 to 1.
    pub taken: f64,
}

impl Default for WaveGate {
    fn default() -> Self {
        Self {
            failures: 0.02,
            taken: 0.5,
        }
    }
}

/// What follows where too many gateways refuse a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// No further gateway takes it; those that took it keep it.
    #[default]
    Halt,
    /// All go back to what the channel gave before.
    RollBack,
    /// Likewise, and what was bad may run no more: a newer version takes its place.
    Revoke,
}

impl OnFailure {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::RollBack => "roll-back",
            Self::Revoke => "revoke",
        }
    }
}

impl Staged {
    /// The waves of the document: the one that is open, at once.
    #[must_use]
    pub fn open(&self) -> Vec<Wave> {
        let open = self.waves.get(self.wave);
        open.map(|wave| Wave {
            percent: wave.percent,
            after: Duration::ZERO,
        })
        .into_iter()
        .collect()
    }

    /// Whether there is no further wave.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.wave + 1 >= self.waves.len()
    }

    pub(super) fn check(&self, channel: &Channel) -> Result<(), DocumentError> {
        if self.since == 0 || self.since > channel.epoch {
            return value("staged", "`since` is an epoch up to the document's own");
        }
        if self.waves.len() > limits::CHANNEL_WAVES {
            return value(
                "staged",
                format!("more than {} waves", limits::CHANNEL_WAVES),
            );
        }
        let rising = |pair: &[StagedWave]| pair[0].percent < pair[1].percent;
        if !self.waves.windows(2).all(rising) {
            return value("staged", "each wave has more percent than the one before");
        }
        if self.wave >= self.waves.len() || channel.waves != self.open() {
            return value(
                "staged",
                "the document's `waves` are its wave number `wave`, after 0s",
            );
        }
        let part = |part: f64| (0.0..=1.0).contains(&part);
        if !part(self.gate.failures) || !part(self.gate.taken) {
            return value("staged", "`failures` and `taken` are parts of 1");
        }
        if self.former.len() > limits::CHANNEL_MODULES
            || !self.former.values().all(|former| is_digest(&former.digest))
        {
            return value("staged", "`former` is no list of modules");
        }
        if (self.on_failure == OnFailure::Revoke) == self.replace.is_empty() {
            return value(
                "staged",
                "`replace` names what takes the place of a revoked module, and is there where `on_failure` is `revoke`",
            );
        }
        for (name, version) in &self.replace {
            let above = |given: &Pinned| *version > given.version;
            if !channel.modules.get(name).is_some_and(above) {
                return value(
                    "staged",
                    format!(
                        "`{name}` {version} cannot take the place of what is revoked: it needs a version above the channel's own"
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Channel {
    /// The epoch by which gateways are [placed](crate::install::place): that of the document which began it.
    #[must_use]
    pub fn placed_by(&self) -> u64 {
        self.staged
            .as_ref()
            .map_or(self.epoch, |staged| staged.since)
    }

    /// Whether a document of an earlier epoch of this channel gave the same.
    #[must_use]
    pub fn goes_on_from(&self, epoch: u64) -> bool {
        self.staged
            .as_ref()
            .is_some_and(|staged| (staged.since..=self.epoch).contains(&epoch))
    }

    /// Why no further gateway takes it, where that is so.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.staged.as_ref()?.halted.as_deref()
    }
}
