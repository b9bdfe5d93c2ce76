//! Documents that go from wave to wave by what gateways report: published for their first wave, for the next, halted.

use std::collections::BTreeMap;

use tidegate_domain::channel::{
    Channel, Name, OnFailure, Pinned, Staged, StagedWave, Version, Wave, WaveGate,
};

use crate::channels::{Published, above_minimum, next_epoch};
use crate::error::Error;
use crate::keys::KeyStore;
use crate::repository::Repository;

/// How a document spreads.
#[derive(Clone, Debug)]
pub enum Spread {
    /// By time alone; no wave: to all at once.
    Timed(Vec<Wave>),
    /// By what gateways report.
    Staged(Stages),
}

/// What a staged document is told.
#[derive(Clone, Debug)]
pub struct Stages {
    /// Each larger than the one before.
    pub waves: Vec<StagedWave>,
    /// What opens the next.
    pub gate: WaveGate,
    /// What follows where too many gateways refuse it.
    pub on_failure: OnFailure,
    /// For [`OnFailure::Revoke`]: what takes the place of what was bad.
    pub replace: BTreeMap<Name, Version>,
}

/// Which document is meant: a step is taken from there or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The channel.
    pub channel: Name,
    /// The document's number.
    pub epoch: u64,
}

impl Spread {
    /// What of it stands in a document of this epoch.
    pub(crate) fn written(
        self,
        epoch: u64,
        before: Option<&Channel>,
    ) -> (Vec<Wave>, Option<Staged>) {
        match self {
            Self::Timed(waves) => (waves, None),
            Self::Staged(stages) => {
                let staged = Staged {
                    since: epoch,
                    wave: 0,
                    waves: stages.waves,
                    gate: stages.gate,
                    on_failure: stages.on_failure,
                    replace: stages.replace,
                    former: before.map(former).unwrap_or_default(),
                    halted: None,
                };
                (staged.open(), Some(staged))
            }
        }
    }
}

/// What a channel gave to all of its gateways last: what was halted or did not come to the last wave is no place to go back to.
fn former(before: &Channel) -> BTreeMap<Name, Pinned> {
    match &before.staged {
        Some(staged) if staged.halted.is_some() || !staged.is_last() => staged.former.clone(),
        Some(_) | None => before.modules.clone(),
    }
}

impl Repository {
    /// Publishes a staged document for its next wave.
    ///
    /// # Errors
    /// The channel's document is another meanwhile, or has no further wave; keys that are not there; files.
    pub fn widen(&mut self, step: &Step, keys: &KeyStore) -> Result<Published, Error> {
        let (mut document, mut staged) = self.staged(step)?;
        if staged.is_last() {
            return Err(Error::Moved {
                channel: step.channel.to_string(),
                problem: "is at its last wave".to_owned(),
            });
        }
        staged.wave += 1;
        document.waves = staged.open();
        document.staged = Some(staged);
        self.put_next(document, keys)
    }

    /// Publishes that a staged document is halted, and what it wants in that case. What it wants and cannot be is left, and said:
    /// it is halted then.
    ///
    /// # Errors
    /// The channel's document is another meanwhile; keys that are not there; files.
    pub fn halt(&mut self, step: &Step, why: &str, keys: &KeyStore) -> Result<Published, Error> {
        let (document, staged) = self.staged(step)?;
        let back = match staged.on_failure {
            OnFailure::Halt => None,
            OnFailure::RollBack | OnFailure::Revoke => Some(self.back(&document, &staged)),
        };
        let mut document = document;
        let mut why = why.to_owned();
        match back {
            Some(Ok(modules)) => {
                document.modules = modules;
                document.waves = Vec::new();
                document.staged = None;
                return self.put_next(document, keys);
            }
            Some(Err(error)) => {
                let wanted = staged.on_failure.as_str();
                why = format!("{why}; no {wanted}: {error}");
            }
            None => {}
        }
        document.staged = Some(Staged {
            halted: Some(why),
            ..staged
        });
        self.put_next(document, keys)
    }

    /// The document that a step is about.
    fn staged(&self, step: &Step) -> Result<(Channel, Staged), Error> {
        let document = self.channel(&step.channel)?;
        let moved = |problem: &str| Error::Moved {
            channel: step.channel.to_string(),
            problem: problem.to_owned(),
        };
        let document = document.ok_or_else(|| moved("has no document"))?;
        if document.epoch != step.epoch {
            return Err(moved(&format!("is at epoch {}", document.epoch)));
        }
        match document.staged.clone() {
            Some(staged) if staged.halted.is_none() => Ok((document, staged)),
            Some(_) => Err(moved("is halted")),
            None => Err(moved("does not spread by reports")),
        }
    }

    /// What the channel gave before, with what takes the place of a revoked module.
    fn back(&self, document: &Channel, staged: &Staged) -> Result<BTreeMap<Name, Pinned>, Error> {
        let mut modules = staged.former.clone();
        if modules.is_empty() {
            let name = &document.channel;
            return Err(Error::Value(format!(
                "channel `{name}` gave nothing before"
            )));
        }
        for (name, version) in &staged.replace {
            let now = document.modules.get(name);
            let before = modules.get(name).or(now);
            let pinned = Pinned {
                version: version.clone(),
                digest: self.release(name, version)?.digest,
                minimum: Some(version.clone()),
                settings: before.and_then(|pinned| pinned.settings.clone()),
            };
            modules.insert(name.clone(), pinned);
        }
        // A minimum does not go back, whatever else does.
        for (name, pinned) in &mut modules {
            let now = document.modules.get(name);
            let minimum = now.and_then(|now| now.minimum.clone());
            pinned.minimum = pinned.minimum.take().max(minimum);
            above_minimum(&document.channel, name, pinned)?;
        }
        Ok(modules)
    }

    fn put_next(&mut self, mut document: Channel, keys: &KeyStore) -> Result<Published, Error> {
        document.epoch = next_epoch(&document.channel, Some(&document), None)?;
        document.published = self.published()?;
        document.check()?;
        self.put_channel(document, keys)
    }
}
