//! Channel documents: published, promoted, and with versions revoked.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use tidegate_domain::channel::{
    Canary, Channel, DOCUMENT_VERSION, Name, OnFailure, Part, Pinned, Release, Staged, Target,
    Version, Wave,
};
use tidegate_domain::limits;

use crate::error::Error;
use crate::keys::KeyStore;
use crate::module::pretty;
use crate::repository::{Next, Repository};
use crate::staged::Spread;

/// What a channel is to run.
#[derive(Clone, Debug)]
pub struct Order {
    /// The channel; a new one begins with its first document.
    pub channel: Name,
    /// Modules that it gets in a version, beside those that it has. None: the newest release of every module.
    pub modules: Vec<(Name, Version)>,
    /// Modules that it has no more.
    pub without: Vec<Name>,
    /// Settings of modules; those of the others stay as they were.
    pub settings: Vec<(Name, Map<String, Value>)>,
    /// How it spreads.
    pub spread: Spread,
    /// How its modules are tried; absent: as in the document before.
    pub canary: Option<Canary>,
    /// The document's number; absent: the next.
    pub epoch: Option<u64>,
}

/// What a channel takes over from another.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// Where it was tried.
    pub from: Name,
    /// Where it goes.
    pub to: Name,
    /// As in [`Order`].
    pub spread: Spread,
    /// As in [`Order`]; absent: as in `to` before, else as in `from`.
    pub canary: Option<Canary>,
}

/// What may run no more.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// The channel.
    pub channel: Name,
    /// The module.
    pub module: Name,
    /// The least version that may run.
    pub minimum: Version,
    /// The version that the channel's gateways go to; absent: that which they have, where that is no lower.
    pub to: Option<Version>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Published {
    /// The channel.
    pub channel: Name,
    /// The document's number.
    pub epoch: u64,
    /// What it gives.
    pub modules: BTreeMap<Name, Pinned>,
}

/// Judges settings by the manifest of a release: what is wrong with them.
pub type Check<'a> = &'a dyn Fn(&Release, &Map<String, Value>) -> Result<(), String>;

impl Repository {
    /// Publishes a channel document.
    ///
    /// # Errors
    /// Modules, versions or epochs that cannot be; keys that are not there; files.
    pub fn publish(
        &mut self,
        order: Order,
        check: Check<'_>,
        keys: &KeyStore,
    ) -> Result<Published, Error> {
        let before = self.channel(&order.channel)?;
        let epoch = next_epoch(&order.channel, before.as_ref(), order.epoch)?;
        let old = before
            .as_ref()
            .map(|channel| channel.modules.clone())
            .unwrap_or_default();
        let mut wanted: BTreeMap<Name, Version> = BTreeMap::new();
        if order.modules.is_empty() {
            wanted.extend(self.newest()?);
        } else {
            wanted.extend(
                old.iter()
                    .map(|(name, pinned)| (name.clone(), pinned.version.clone())),
            );
            wanted.extend(order.modules);
        }
        for name in &order.without {
            if wanted.remove(name).is_none() {
                return Err(Error::Unknown {
                    what: format!("module `{name}`"),
                    next: format!("it cannot be taken from channel `{}`", order.channel),
                });
            }
        }
        let mut modules = BTreeMap::new();
        for (name, version) in wanted {
            let was = old.get(&name);
            let pinned = Pinned {
                digest: self.release(&name, &version)?.digest,
                minimum: was.and_then(|pinned| pinned.minimum.clone()),
                settings: was.and_then(|pinned| pinned.settings.clone()),
                version,
            };
            above_minimum(&order.channel, &name, &pinned)?;
            modules.insert(name, pinned);
        }
        for (name, settings) in order.settings {
            let Some(pinned) = modules.get_mut(&name) else {
                return Err(Error::Unknown {
                    what: format!("module `{name}`"),
                    next: "settings are for a module that the channel gives".to_owned(),
                });
            };
            pinned.settings = Some(settings);
        }
        let of_old = before.as_ref().and_then(|channel| channel.canary.clone());
        let spread = order.spread.written(epoch, before.as_ref());
        let canary = order.canary.or(of_old);
        let document = self.document(order.channel, epoch, modules, spread, canary)?;
        self.check_settings(&document, check)?;
        self.put_channel(document, keys)
    }

    /// Gives a channel what another has, settings included. Minimum versions of both stay.
    ///
    /// # Errors
    /// A channel that is not there; what [`Repository::publish`] refuses.
    pub fn promote(
        &mut self,
        order: Promotion,
        check: Check<'_>,
        keys: &KeyStore,
    ) -> Result<Published, Error> {
        if order.from == order.to {
            return Err(Error::Value(format!(
                "channel `{}` cannot be promoted to itself",
                order.to
            )));
        }
        let from = self
            .channel(&order.from)?
            .ok_or_else(|| self.no_channel(&order.from))?;
        let before = self.channel(&order.to)?;
        let epoch = next_epoch(&order.to, before.as_ref(), None)?;
        let mut modules = from.modules;
        if let Some(before) = &before {
            for (name, pinned) in &mut modules {
                let other = before.modules.get(name).and_then(|old| old.minimum.clone());
                pinned.minimum = pinned.minimum.take().max(other);
                above_minimum(&order.to, name, pinned)?;
            }
        }
        let spread = order.spread.written(epoch, before.as_ref());
        let of_old = before.and_then(|channel| channel.canary);
        let canary = order.canary.or(of_old).or(from.canary);
        let document = self.document(order.to, epoch, modules, spread, canary)?;
        self.check_settings(&document, check)?;
        self.put_channel(document, keys)
    }

    /// Raises the least version of a module that the channel's gateways may run, at once and everywhere.
    ///
    /// # Errors
    /// A minimum that goes back or that nothing in the channel reaches; keys that are not there; files.
    pub fn revoke(&mut self, order: Revocation, keys: &KeyStore) -> Result<Published, Error> {
        let Revocation {
            channel: name,
            module,
            minimum,
            to,
        } = order;
        let before = self.channel(&name)?.ok_or_else(|| self.no_channel(&name))?;
        let epoch = next_epoch(&name, Some(&before), None)?;
        let mut modules = before.modules;
        let Some(pinned) = modules.get_mut(&module) else {
            let known: Vec<&str> = modules.keys().map(Name::as_str).collect();
            return Err(Error::Unknown {
                what: format!("module `{module}` of channel `{name}`"),
                next: format!("the channel has {}", known.join(", ")),
            });
        };
        if let Some(old) = &pinned.minimum
            && *old > minimum
        {
            return Err(Error::Minimum {
                problem: format!(
                    "channel `{name}` has {module} at least at {old}, and a minimum does not go back to {minimum}: \
                     publish what is good under a version above {old}"
                ),
            });
        }
        if let Some(to) = to {
            pinned.digest = self.release(&module, &to)?.digest;
            pinned.version = to;
        }
        pinned.minimum = Some(minimum);
        above_minimum(&name, &module, pinned)?;
        // No waves: what must not run must not run anywhere.
        let document = self.document(name, epoch, modules, (Vec::new(), None), before.canary)?;
        self.put_channel(document, keys)
    }

    /// A channel's newest document.
    ///
    /// # Errors
    /// A damaged file.
    pub fn channel(&self, name: &Name) -> Result<Option<Channel>, Error> {
        let bytes = self.read_target(&Target::Channel(name.clone()))?;
        Ok(bytes.map(|bytes| Channel::parse(&bytes)).transpose()?)
    }

    pub(crate) fn release(&self, name: &Name, version: &Version) -> Result<Release, Error> {
        let (of, part) = (name.clone(), Part::Release);
        let target = Target::Module {
            name: of,
            version: version.clone(),
            part,
        };
        let bytes = self.read_target(&target)?.ok_or_else(|| {
            let there: Vec<String> = self
                .versions(name)
                .iter()
                .map(ToString::to_string)
                .collect();
            Error::Unknown {
                what: format!("{name} {version}"),
                next: match there.as_slice() {
                    [] => format!("no version of `{name}` is; add one with `tidegate repo add`"),
                    there => format!("the versions of `{name}` are {}", there.join(", ")),
                },
            }
        })?;
        Ok(Release::parse(&bytes)?)
    }

    /// Versions of a module, in order.
    fn versions(&self, of: &Name) -> Vec<Version> {
        let releases = self.releases();
        let mut versions: Vec<Version> = releases
            .filter(|(name, _)| name == of)
            .map(|(_, version)| version)
            .collect();
        versions.sort();
        versions
    }

    fn releases(&self) -> impl Iterator<Item = (Name, Version)> {
        let targets = self.targets.targets.keys();
        targets.filter_map(|target| match Target::parse(target)? {
            Target::Module {
                name,
                version,
                part: Part::Release,
            } => Some((name, version)),
            Target::Module { .. } | Target::Channel(_) => None,
        })
    }

    /// The newest release of every module; pre-releases have to be asked for.
    fn newest(&self) -> Result<BTreeMap<Name, Version>, Error> {
        let mut newest: BTreeMap<Name, Version> = BTreeMap::new();
        for (name, version) in self
            .releases()
            .filter(|(_, version)| !version.is_pre_release())
        {
            let known = newest.entry(name).or_insert_with(|| version.clone());
            *known = known.clone().max(version);
        }
        if newest.is_empty() {
            return Err(Error::Unknown {
                what: "a released module".to_owned(),
                next: "add one with `tidegate repo add`; pre-releases are published by --module NAME=VERSION".to_owned(),
            });
        }
        Ok(newest)
    }

    fn document(
        &self,
        channel: Name,
        epoch: u64,
        modules: BTreeMap<Name, Pinned>,
        (waves, staged): (Vec<Wave>, Option<Staged>),
        canary: Option<Canary>,
    ) -> Result<Channel, Error> {
        let published = self.published()?;
        self.check_replaced(staged.as_ref())?;
        let document = Channel {
            v: DOCUMENT_VERSION,
            channel,
            epoch,
            published,
            modules,
            waves,
            canary,
            staged,
        };
        document.check()?;
        Ok(document)
    }

    /// What would take the place of a revoked module is there, and there is something to go back to.
    fn check_replaced(&self, staged: Option<&Staged>) -> Result<(), Error> {
        let Some(staged) = staged else { return Ok(()) };
        for (name, version) in &staged.replace {
            self.release(name, version)?;
        }
        if staged.on_failure != OnFailure::Halt && staged.former.is_empty() {
            return Err(Error::Value(
                "the channel gave nothing before that it could go back to: publish with --on-failure halt".to_owned(),
            ));
        }
        Ok(())
    }

    /// The time, as documents have it.
    pub(crate) fn published(&self) -> Result<u64, Error> {
        u64::try_from(self.now.as_millisecond()).map_err(|_| {
            Error::Value("the time lies before 1970; set the clock or SOURCE_DATE_EPOCH".to_owned())
        })
    }

    fn check_settings(&self, document: &Channel, check: Check<'_>) -> Result<(), Error> {
        for (name, pinned) in &document.modules {
            if let Some(settings) = &pinned.settings {
                let release = self.release(name, &pinned.version)?;
                check(&release, settings).map_err(|problem| {
                    let version = &pinned.version;
                    Error::Value(format!(
                        "the settings of {name} {version} in channel `{}`: {problem}",
                        document.channel
                    ))
                })?;
            }
        }
        Ok(())
    }

    pub(crate) fn put_channel(
        &mut self,
        document: Channel,
        keys: &KeyStore,
    ) -> Result<Published, Error> {
        let hands = self.hands(keys)?;
        let bytes = pretty(&document)?;
        // As a gateway will read it.
        Channel::parse(&bytes)?;
        let target = Target::Channel(document.channel.clone());
        self.commit(Next::With(vec![(target, bytes)]), &hands)?;
        Ok(Published {
            channel: document.channel,
            epoch: document.epoch,
            modules: document.modules,
        })
    }

    fn no_channel(&self, name: &Name) -> Error {
        let targets = self.targets.targets.keys();
        let known: Vec<String> = targets
            .filter_map(|target| match Target::parse(target)? {
                Target::Channel(name) => Some(name.to_string()),
                Target::Module { .. } => None,
            })
            .collect();
        Error::Unknown {
            what: format!("channel `{name}`"),
            next: match known.as_slice() {
                [] => "no channel is; `tidegate repo publish` begins one".to_owned(),
                known => format!("the channels are {}", known.join(", ")),
            },
        }
    }
}

pub(crate) fn next_epoch(
    channel: &Name,
    before: Option<&Channel>,
    asked: Option<u64>,
) -> Result<u64, Error> {
    let now = before.map_or(0, |channel| channel.epoch);
    let epoch = asked.unwrap_or(now.saturating_add(1));
    if epoch <= now {
        let channel = channel.to_string();
        return Err(Error::EpochBack { channel, now });
    }
    if epoch > limits::CHANNEL_EPOCH_MOST {
        let most = limits::CHANNEL_EPOCH_MOST;
        return Err(Error::Value(format!(
            "epoch {epoch} is above the last one, {most}"
        )));
    }
    Ok(epoch)
}

pub(crate) fn above_minimum(channel: &Name, name: &Name, pinned: &Pinned) -> Result<(), Error> {
    let Pinned {
        version, minimum, ..
    } = pinned;
    match minimum {
        Some(minimum) if version < minimum => Err(Error::Minimum {
            problem: format!(
                "channel `{channel}` may run {name} at {minimum} and above, not at {version}: add a version that is, and name \
                 it by --module (publish) or --to (revoke)"
            ),
        }),
        Some(_) | None => Ok(()),
    }
}
