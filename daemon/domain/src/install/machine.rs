//! The machine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::epoch::{Epoch, least};
use super::failure::{Blame, Failed, Failure, Retry};
use super::when::Conditions;
use crate::channel::{Channel, Version};

/// What a gateway has installed of a channel. Stored whole after each step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Install {
    /// What names of modules mean here. `None`: nothing that came over the air.
    pub in_force: Option<Epoch>,
    /// What was in force before it, and is again where it is put back.
    pub before: Option<Epoch>,
    /// How far `in_force` got.
    pub phase: Phase,
    /// What is not tried again.
    pub refused: Option<Refused>,
    /// What is tried again, after a failure of the device. A file without it is one of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The least versions that may run, ever named by a channel. They only rise.
    pub minimums: BTreeMap<String, Version>,
    /// What was decided last.
    pub decision: Option<Decision>,
}

/// How far an epoch got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is in force everywhere.
    #[default]
    Settled,
    /// Pipelines try it.
    Trying,
    /// Another was refused, and pipelines go back to this one.
    GoingBack,
}

/// Where an epoch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The site's policy.
    Admission,
    /// Compilation, linking, settings.
    Loading,
    /// Its own golden vectors.
    Vectors,
    /// What was kept of the pipelines' input.
    Replay,
    /// A pipeline's trial, or what it did afterwards.
    Trial,
}

impl Stage {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Loading => "loading",
            Self::Vectors => "vectors",
            Self::Replay => "replay",
            Self::Trial => "trial",
        }
    }
}

/// An epoch that is not tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Refused {
    /// Its channel.
    pub channel: String,
    /// Its number.
    pub epoch: u64,
    /// SHA-256 of its document.
    pub document: String,
    /// Where it failed.
    pub stage: Stage,
    /// For people.
    pub why: String,
    /// Milliseconds since the epoch of Unix.
    pub at: i64,
}

/// What became of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Decision {
    /// Its number.
    pub epoch: u64,
    /// It is in force everywhere; else it was refused.
    pub taken: bool,
    /// Milliseconds since the epoch of Unix.
    pub at: i64,
}

/// What is waited for before an epoch is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The site holds everything.
    Hold,
    /// The publisher halted it: too many gateways refused it.
    Halted,
    /// The gateway's place is in a later wave.
    Wave {
        /// Its place.
        place: u16,
        /// Until its wave; `None` where the document has none for it.
        left: Option<Duration>,
    },
    /// The site's window is closed.
    Window {
        /// Until it opens; `None` while the clock is not set, for nobody knows then.
        left: Option<Duration>,
    },
    /// It failed by the device's fault, and is tried again.
    Again {
        /// Until then.
        left: Duration,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: nothing is here that was not refused, and nothing is in force.
    Rest,
    /// Nothing yet.
    Wait(Wait),
    /// Load it, run its vectors, replay what was kept; then [`Install::begin`] or [`Install::fail`].
    Rehearse,
    /// Look at what the pipelines make of what is in force; then [`Install::settle`] or [`Install::go_back`].
    Watch,
    /// Put the pipelines back; then [`Install::went_back`].
    PutBack,
}

/// What the pipelines make of what is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of them run it.
    Taken,
    /// Some are still trying.
    Pending,
    /// One put it back; why.
    PutBack(String),
}

impl Install {
    /// Takes note of what a channel says may run at least. True where something rose: store it.
    pub fn raise_minimums(&mut self, channel: &Channel) -> bool {
        let mut risen = false;
        for (name, pinned) in &channel.modules {
            let Some(minimum) = &pinned.minimum else {
                continue;
            };
            let known = self.minimums.get(name.as_str());
            if known.is_none_or(|known| known < minimum) {
                self.minimums.insert(name.to_string(), minimum.clone());
                risen = true;
            }
        }
        risen
    }

    /// Why a version of a module may not run, where it may not.
    #[must_use]
    pub fn revoked(&self, module: &str, version: &str) -> Option<String> {
        let least = least(&self.minimums, module, version)?;
        Some(format!(
            "module {module} {version} was revoked: the channel lets nothing of it run below {least}"
        ))
    }

    /// What is to be done about what is here. `here`: the newest epoch on the device, with its document.
    #[must_use]
    pub fn next(&self, here: Option<(&Epoch, &Channel)>, conditions: &Conditions) -> Next {
        if self.phase == Phase::GoingBack {
            return Next::PutBack;
        }
        let otherwise = if self.in_force.is_some() {
            Next::Watch
        } else {
            Next::Rest
        };
        let Some((here, channel)) = here else {
            return otherwise;
        };
        // A document that only goes on to more gateways names nothing else: neither what took it here nor what refused it begins
        // again.
        let same = |name: &str, epoch: u64, document: &str| {
            document == here.document || (name == here.channel && channel.goes_on_from(epoch))
        };
        let mut now = self.in_force.iter();
        let mut refused = self.refused.iter();
        if now.any(|now| same(&now.channel, now.epoch, &now.document))
            || refused.any(|it| same(&it.channel, it.epoch, &it.document))
        {
            return otherwise;
        }
        let again = self.retry_of(here);
        let again = again.and_then(|retry| retry.left(conditions.rested));
        let again = again.map(|left| Wait::Again { left });
        // What runs may do so no longer: neither a wave, nor the site's window, nor a trial is waited for.
        if conditions.revoked && again.is_none() {
            return Next::Rehearse;
        }
        if self.phase == Phase::Trying {
            return Next::Watch;
        }
        let conditions = conditions.wait(channel).filter(|_| !conditions.revoked);
        match conditions.or(again) {
            Some(wait) => Next::Wait(wait),
            None => Next::Rehearse,
        }
    }

    /// The failed tries of an epoch, where there were any.
    #[must_use]
    pub fn retry_of(&self, epoch: &Epoch) -> Option<&Retry> {
        let retry = self.retry.as_ref();
        retry.filter(|retry| retry.is_about(epoch))
    }

    /// An epoch passed the rehearsal: it is in force, and the pipelines try it.
    pub fn begin(&mut self, epoch: Epoch) {
        self.retry = None;
        let former = self.in_force.replace(epoch);
        // What is tried in the place of a trial was never proven: what was before both stays.
        if self.phase == Phase::Settled {
            self.before = former;
        }
        self.phase = Phase::Trying;
    }

    /// An epoch failed before it was in force. What the module is to blame for is refused; what the device is to blame for is tried
    /// again for ever, and what can be either's, a bounded number of times. `at`: milliseconds since the epoch of Unix; `random`
    /// is evenly distributed over all of `u64`.
    pub fn fail(&mut self, epoch: &Epoch, failure: Failure, at: i64, random: u64) -> Failed {
        if failure.blame == Blame::Module {
            self.refuse(epoch, failure.stage, failure.why, at);
            return Failed::Refused;
        }
        let known = self.retry.take();
        let known = known.filter(|retry| retry.is_about(epoch));
        let mut retry = known.unwrap_or_else(|| Retry::new(epoch));
        let failed = retry.count(&failure, random);
        match failed {
            Failed::Again { .. } => self.retry = Some(retry),
            Failed::Refused => {
                let why = format!("{}; it was tried {} times", failure.why, retry.unclear);
                self.refuse(epoch, failure.stage, why, at);
            }
        }
        failed
    }

    fn refuse(&mut self, epoch: &Epoch, stage: Stage, why: String, at: i64) {
        self.retry = None;
        self.decision = Some(Decision {
            epoch: epoch.epoch,
            taken: false,
            at,
        });
        self.refused = Some(Refused {
            channel: epoch.channel.clone(),
            epoch: epoch.epoch,
            document: epoch.document.clone(),
            stage,
            why,
            at,
        });
    }

    /// Every pipeline runs what is in force. True where that is new.
    pub fn settle(&mut self, at: i64) -> bool {
        if self.phase != Phase::Trying {
            return false;
        }
        self.phase = Phase::Settled;
        self.refused = None;
        self.decision = self.in_force.as_ref().map(|epoch| Decision {
            epoch: epoch.epoch,
            taken: true,
            at,
        });
        true
    }

    /// A pipeline put back what is in force: all do, to what was in force before. False, and nothing changes, where nothing is
    /// in force, or what was before may not run any more.
    pub fn go_back(&mut self, why: String, at: i64) -> bool {
        let revoked = |before| self.is_revoked(before);
        if self.before.as_ref().is_some_and(revoked) {
            return false;
        }
        let Some(bad) = self.in_force.take() else {
            return false;
        };
        self.refuse(&bad, Stage::Trial, why, at);
        self.in_force = self.before.take();
        self.phase = Phase::GoingBack;
        true
    }

    /// Every pipeline runs what it ran before.
    pub fn went_back(&mut self) {
        self.phase = Phase::Settled;
    }

    fn is_revoked(&self, epoch: &Epoch) -> bool {
        let mut modules = epoch.modules.iter();
        modules.any(|module| least(&self.minimums, &module.name, &module.version).is_some())
    }
}
