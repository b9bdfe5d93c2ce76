//! What is done with an epoch that is here: rehearsed, tried, settled or put back, by [`tidegate_domain::install`].
//!
//! Each step is stored before anybody acts by it. A process that ends anywhere begins again from what is stored: chains by what
//! is in force, trials by the records of the store.

pub(crate) mod blame;
mod replay;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tidegate_audit::Action;
use tidegate_deploy::Device;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::channel::Channel;
use tidegate_domain::install::{
    Conditions, Elapsed, Epoch, Failed, Failure, Install, Next, Phase, Retry, Stage, Verdict, Wait,
    place,
};
use tidegate_pipeline::{LoadedModule, SlotLimits, test_vectors};
use tidegate_status::view;
use tidegate_store::{Event, Input};
use tokio::sync::{Notify, mpsc, watch};

pub(crate) use self::blame::Damaged;
use crate::audit::{self, Audit};
use crate::brought::Brought;
use crate::config::{self, Config};
use crate::deploy::random;
use crate::rollouts::{Changed, Rollouts};
use crate::writer::ToWriter;
use crate::{clock, gateway};

/// While pipelines try something: how often they are looked at.
const TRYING: Duration = Duration::from_secs(2);
/// Otherwise: for what waits, and for what a pipeline puts back later.
const RESTING: Duration = Duration::from_mins(1);
/// First and longest wait after a step that could not be stored or taken.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_MOST: Duration = Duration::from_mins(15);
/// Reasons for that which are told until a step is taken again.
const TOLD: usize = 8;

/// What installs.
pub(crate) struct Installer {
    pub(crate) config: Arc<Config>,
    pub(crate) deploy: config::Deploy,
    pub(crate) device: Arc<Device>,
    pub(crate) rollouts: Arc<Rollouts>,
    pub(crate) audit: Audit,
    pub(crate) inbox: mpsc::Sender<ToWriter>,
    pub(crate) status: Arc<Mutex<view::DeployStatus>>,
    /// Has the gateway wired anew.
    pub(crate) anew: Arc<Notify>,
    pub(crate) stop: watch::Receiver<bool>,
    /// The document that was seen last, and since when.
    pub(crate) seen: Option<(String, Instant)>,
    /// When something was rehearsed last; the start of this process counts as that, so that one which ends over and over tries no
    /// more often than another. `None`: whoever asked for a look does not want to wait.
    pub(crate) tried: Option<Instant>,
    /// Why no step is taken at all.
    pub(crate) stuck: Option<Stuck>,
}

/// A step that could not be stored or taken: nothing else can be stored about it either.
pub(crate) struct Stuck {
    again: Instant,
    backoff: Backoff,
    told: BTreeSet<String>,
}

/// Whether there is more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Step,
    Rest(Duration),
}

impl Installer {
    /// Somebody wants it to be tried now, whatever is waited for after a failure.
    pub(crate) fn hurry(&mut self) {
        self.tried = None;
        if let Some(stuck) = &mut self.stuck {
            stuck.again = Instant::now();
        }
    }

    /// Does what can be done now, and says when to come again. Blocks: modules are compiled, files synced.
    pub(crate) fn advance(&mut self) -> Duration {
        if let Some(stuck) = &self.stuck {
            let left = stuck.again.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return left;
            }
        }
        loop {
            if *self.stop.borrow() {
                return RESTING;
            }
            match self.step() {
                Ok(After::Step) => {}
                Ok(After::Rest(wait)) => {
                    self.stuck = None;
                    return wait;
                }
                Err(error) => return self.stick(&error),
            }
        }
    }

    /// Takes note of what keeps every step from being taken, and says when to try again.
    fn stick(&mut self, error: &anyhow::Error) -> Duration {
        let why = format!("{error:#}");
        let mut stuck = self.stuck.take().unwrap_or_else(|| Stuck {
            again: Instant::now(),
            backoff: Backoff::new(AGAIN, AGAIN_MOST),
            told: BTreeSet::new(),
        });
        let wait = stuck.backoff.next(random());
        stuck.again = Instant::now() + wait;
        // The same again is no news.
        if stuck.told.len() < TOLD && stuck.told.insert(why.clone()) {
            tracing::error!("the installation of modules does not go on: {why}");
            self.tell_stuck(&why);
        }
        let tries = stuck.backoff.attempts();
        self.show(|shown| {
            if !matches!(
                shown.state,
                view::InstallState::Trying | view::InstallState::GoingBack
            ) {
                shown.state = view::InstallState::Waiting;
            }
            shown.waiting = Some(view::InstallWait {
                reason: why.clone(),
                until: Some(from_now(wait)),
                failed_tries: tries,
            });
            shown.problem = Some(why);
        });
        self.stuck = Some(stuck);
        wait
    }

    fn step(&mut self) -> anyhow::Result<After> {
        let mut install = self.in_force().install().clone();
        let newest = self.device.newest()?;
        let document = newest.as_ref().map(|epoch| self.device.channel(epoch));
        let document = document.transpose()?.flatten();
        let here = newest.as_ref().zip(document.as_ref());
        if let Some((_, channel)) = here
            && install.raise_minimums(channel)
        {
            self.store(install)?;
            return Ok(After::Step);
        }
        let conditions = self.conditions(here, &install);
        let next = install.next(here, &conditions);
        self.show_install(&install, here, next);
        match (next, here) {
            (Next::Rehearse, Some((epoch, channel))) => {
                self.rehearse(install, epoch, channel, conditions.revoked)
            }
            (Next::Rest | Next::Rehearse, _) => Ok(After::Rest(RESTING)),
            // What is in force may be put back while something newer waits.
            (Next::Wait(wait), _) => Ok(match self.watch(install)? {
                After::Step => After::Step,
                After::Rest(rest) => After::Rest(rest.min(until(wait))),
            }),
            (Next::Watch, _) => self.watch(install),
            (Next::PutBack, _) => self.put_back(install),
        }
    }

    fn in_force(&self) -> Arc<Brought> {
        self.rollouts.brought()
    }

    fn conditions(&mut self, here: Option<(&Epoch, &Channel)>, install: &Install) -> Conditions {
        let clock = clock::now();
        let now = clock.synced.then_some(clock.wall / 1_000_000);
        let (mut mine, mut elapsed) = (0, Elapsed::AtLeast(Duration::ZERO));
        if let Some((epoch, channel)) = here {
            mine = place(&self.config.gateway.id, &epoch.channel, channel.placed_by());
            let since = match &self.seen {
                Some((document, since)) if *document == epoch.document => *since,
                Some(_) | None => {
                    let now = Instant::now();
                    self.seen = Some((epoch.document.clone(), now));
                    now
                }
            };
            elapsed = match now.and_then(|now| u64::try_from(now).ok()) {
                Some(now) => Elapsed::SincePublished(Duration::from_millis(
                    now.saturating_sub(channel.published),
                )),
                None => Elapsed::AtLeast(since.elapsed()),
            };
        }
        Conditions {
            hold: self.deploy.hold,
            place: mine,
            elapsed,
            window: self.deploy.window,
            now,
            revoked: self.rollouts.runs_revoked(install),
            rested: self.tried.map_or(Duration::MAX, |tried| tried.elapsed()),
        }
    }

    /// Stores a state, and lets names of modules mean what it says. No chain changes yet.
    fn store(&self, install: Install) -> anyhow::Result<()> {
        self.device.store_install(&install)?;
        let brought = Arc::new(Brought::new(
            &self.device,
            &self.rollouts.kept,
            &self.deploy,
            install,
        )?);
        self.rollouts.bring(&brought);
        Ok(())
    }

    fn rehearse(
        &mut self,
        mut install: Install,
        epoch: &Epoch,
        channel: &Channel,
        urgent: bool,
    ) -> anyhow::Result<After> {
        let number = epoch.epoch;
        tracing::info!(channel = epoch.channel, epoch = number, "rehearsing");
        let brought = Arc::new(self.in_force().with(epoch, channel));
        let rehearsed = self.try_out(&brought, urgent);
        if *self.stop.borrow() {
            return Ok(After::Rest(RESTING));
        }
        self.tried = Some(Instant::now());
        if let Err(failure) = rehearsed {
            return self.failed(install, epoch, failure);
        }
        install.begin(epoch.clone());
        self.store(install)?;
        self.tell(epoch, Action::EpochBegun, "rehearsed; the pipelines try it");
        self.adopt()
    }

    /// An epoch was not begun.
    fn failed(
        &self,
        mut install: Install,
        epoch: &Epoch,
        failure: Failure,
    ) -> anyhow::Result<After> {
        let said = failure.to_string();
        let failed = install.fail(epoch, failure, clock::wall() / 1_000_000, random());
        // Nothing of it is in use, and the next try is to compile it anew.
        self.rollouts.tidy_between();
        match failed {
            Failed::Refused => {
                let refused = install.refused.as_ref();
                let said = refused.map_or(said, |refused| {
                    format!("{}: {}", refused.stage.as_str(), refused.why)
                });
                tracing::warn!(
                    channel = epoch.channel,
                    epoch = epoch.epoch,
                    "the epoch is refused, and what runs goes on: {said}"
                );
                self.tell(epoch, Action::EpochRefused, &said);
                self.store(install)?;
            }
            Failed::Again { news } => {
                // Stored first: what was told is part of it, and is not told twice.
                self.store(install)?;
                if news {
                    tracing::warn!(
                        channel = epoch.channel,
                        epoch = epoch.epoch,
                        "the epoch is tried again later, and what runs goes on: {said}"
                    );
                    self.tell(epoch, Action::EpochDelayed, &said);
                }
            }
        }
        Ok(After::Step)
    }

    /// Hands the chains what is in force. What cannot be handed over now is at the next step: it is stored what is in force.
    fn adopt(&self) -> anyhow::Result<After> {
        match self.rollouts.adopt()? {
            Changed::Taken | Changed::Nothing => {}
            Changed::Decoders => {
                tracing::info!("a module that decodes is another: the gateway is wired anew");
                self.anew.notify_one();
                return Ok(After::Rest(RESTING));
            }
        }
        Ok(After::Step)
    }

    /// Everything that can be known of an epoch before it touches a reading.
    fn try_out(&self, brought: &Arc<Brought>, urgent: bool) -> Result<(), Failure> {
        let loading = |error: anyhow::Error| blame::failure(Stage::Loading, &error);
        let config = self.rollouts.configuration();
        let maker = self.rollouts.maker_with(&config, Arc::clone(brought));
        let found = maker.load().map_err(loading)?;
        // A name whose files are damaged means something else.
        for (name, module) in brought.modules() {
            let loaded = found.get(name);
            if loaded.is_some_and(|loaded| loaded.inspection.digest.as_str() != module.digest) {
                let what = format!("module {name} {} is damaged", module.version);
                return Err(loading(Damaged(what).into()));
            }
        }
        for place in &self.rollouts.places {
            let name = &config.pipelines[place.pipeline].name;
            let made = maker.wanted(place.pipeline, &found, &<_>::default());
            made.with_context(|| format!("pipeline {name}"))
                .map_err(loading)?;
        }
        for source in &config.sources {
            let engine = &self.rollouts.engine;
            gateway::decoder(&config, source, engine, &found, &<_>::default()).map_err(loading)?;
        }
        // What was revoked runs meanwhile: that is worse than a vector that does not pass.
        if urgent {
            return Ok(());
        }
        for (name, module) in brought.modules() {
            let Some(loaded) = found.get(name) else {
                continue;
            };
            // A start that has to compile may fail where this one did not.
            if let Some(why) = loaded.not_kept() {
                let version = &module.version;
                let why =
                    format!("module {name} {version} is compiled, and cannot be kept so: {why}");
                return Err(blame::of_device(Stage::Loading, why));
            }
            let vectors = brought.vectors(module).map_err(loading)?;
            if let Some(vectors) = vectors {
                self.run_vectors(&config, loaded, &vectors)?;
            }
        }
        for place in &self.rollouts.places {
            replay::replay(&maker, place, &found, &self.stop)?;
        }
        Ok(())
    }

    fn run_vectors(
        &self,
        config: &Config,
        module: &Arc<LoadedModule>,
        vectors: &[u8],
    ) -> Result<(), Failure> {
        let policy = gateway::policy(config);
        let policy = policy.map_err(|error| blame::failure(Stage::Vectors, &error))?;
        let policy: Vec<_> = policy.into_iter().collect();
        let manifest = &module.manifest;
        let named = format!("module {} {}", manifest.name, manifest.version);
        // Within the bounds that it has here, in each place where it stands.
        for ceiling in ceilings(config, &manifest.name) {
            let given = test_vectors::Given {
                policy: &policy,
                ceiling: &ceiling,
                directories: &config.policy.directories,
            };
            let engine = &self.rollouts.engine;
            let results = test_vectors::run_vectors_with(engine, module, &given, vectors);
            let results = results.map_err(|error| {
                let error = anyhow::Error::new(error).context(named.clone());
                blame::failure(Stage::Vectors, &error)
            })?;
            if let Some(failed) = results.iter().find(|result| !result.passed()) {
                return Err(blame::of_module(
                    Stage::Vectors,
                    format!(
                        "{named}: golden vector `{}`: {}",
                        failed.name,
                        failed.problems.join("; ")
                    ),
                ));
            }
        }
        Ok(())
    }

    fn watch(&self, mut install: Install) -> anyhow::Result<After> {
        let phase = install.phase;
        let rest = match phase {
            Phase::Trying => TRYING,
            Phase::Settled | Phase::GoingBack => RESTING,
        };
        let now = clock::wall() / 1_000_000;
        let Some(epoch) = install.in_force.clone() else {
            return Ok(After::Rest(rest));
        };
        match self.rollouts.verdict()? {
            // Begun, and not handed over: the process ended between, or a worker was busy.
            Verdict::Pending if self.rollouts.adopt()? == Changed::Decoders => {
                self.anew.notify_one();
                Ok(After::Rest(rest))
            }
            Verdict::Pending => Ok(After::Rest(rest)),
            Verdict::Taken => {
                if install.settle(now) {
                    self.store(install)?;
                    tracing::info!(
                        channel = epoch.channel,
                        epoch = epoch.epoch,
                        "the epoch is in force everywhere"
                    );
                    self.tell(&epoch, Action::EpochSettled, "in force everywhere");
                    return Ok(After::Step);
                }
                Ok(After::Rest(rest))
            }
            Verdict::PutBack(why) => {
                if install.go_back(why.clone(), now) {
                    self.store(install)?;
                    tracing::warn!(
                        channel = epoch.channel,
                        epoch = epoch.epoch,
                        "the epoch is put back everywhere: {why}"
                    );
                    self.tell(&epoch, Action::EpochPutBack, &why);
                    return Ok(After::Step);
                }
                Ok(After::Rest(rest))
            }
        }
    }

    fn put_back(&self, mut install: Install) -> anyhow::Result<After> {
        let after = self.adopt()?;
        install.went_back();
        self.store(install)?;
        Ok(after)
    }

    /// Into the audit log, and an `event` item for every uplink. Where the writer has no place for it the state on the page says
    /// the same.
    fn tell(&self, epoch: &Epoch, action: Action, text: &str) {
        let about = json!({
            "channel": epoch.channel,
            "epoch": epoch.epoch,
            "document": epoch.document,
            "modules": epoch.modules.iter().map(inventory).collect::<Vec<_>>(),
        });
        self.tell_about(action, about, text, format!("epoch {}", epoch.epoch));
    }

    /// The same where no step is taken: the newest epoch that is here may not be known.
    fn tell_stuck(&self, why: &str) {
        let channel = self.deploy.channel.as_str();
        let about = json!({ "channel": channel });
        self.tell_about(Action::EpochDelayed, about, why, "any epoch".to_owned());
    }

    fn tell_about(&self, action: Action, about: serde_json::Value, text: &str, which: String) {
        audit::epoch(&self.audit, action, &about, text);
        let mut data = about;
        data["reason"] = text.into();
        let event = Event {
            time: clock::wall(),
            code: action.as_str().replace('.', "-"),
            text: format!("channel {} {which}: {text}", self.deploy.channel.as_str()),
            data: Some(data),
        };
        if let Err(error) = self.inbox.try_send(ToWriter::Input(Input::Event(event))) {
            tracing::warn!("an event about the epoch does not go up: {error}");
        }
    }

    fn show(&self, change: impl FnOnce(&mut view::InstallStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status.install);
    }

    fn show_install(&self, install: &Install, here: Option<(&Epoch, &Channel)>, next: Next) {
        let config = self.rollouts.configuration();
        let drift = self.in_force().drift(&config);
        let waiting = match next {
            Next::Wait(wait) => {
                let retry = here.and_then(|(epoch, _)| install.retry_of(epoch));
                Some(waiting(wait, retry))
            }
            Next::Rest | Next::Rehearse | Next::Watch | Next::PutBack => None,
        };
        self.show(|shown| {
            *shown = view::InstallStatus {
                state: match (next, install.phase) {
                    (Next::Wait(_), _) => view::InstallState::Waiting,
                    (Next::Rehearse, _) => view::InstallState::Rehearsing,
                    (Next::PutBack, _) | (_, Phase::GoingBack) => view::InstallState::GoingBack,
                    (_, Phase::Trying) => view::InstallState::Trying,
                    (_, Phase::Settled) => match &install.in_force {
                        Some(_) => view::InstallState::Settled,
                        None => view::InstallState::Nothing,
                    },
                },
                in_force: install.in_force.as_ref().map(|epoch| epoch.epoch),
                channel: install.in_force.as_ref().map(|epoch| epoch.channel.clone()),
                before: install.before.as_ref().map(|epoch| epoch.epoch),
                newest: here.map(|(epoch, _)| epoch.epoch),
                newest_since: here.map(|(_, channel)| channel.placed_by()),
                waiting,
                refused: install.refused.as_ref().map(|refused| view::RefusedEpoch {
                    channel: refused.channel.clone(),
                    epoch: refused.epoch,
                    stage: refused.stage.as_str().to_owned(),
                    reason: refused.why.clone(),
                    time: refused.at,
                }),
                drift: drift
                    .iter()
                    .map(|drift| view::SettingDrift {
                        pipeline: drift.pipeline.clone(),
                        filter: drift.filter.clone(),
                        key: drift.key.clone(),
                        site: drift.site.to_string(),
                        channel: drift.channel.to_string(),
                        wins: match self.deploy.settings {
                            config::SettingsOf::Channel => "channel",
                            config::SettingsOf::Site => "site",
                        }
                        .to_owned(),
                    })
                    .collect(),
                problem: None,
            };
        });
    }
}

/// The bounds up to which a module gets what it wants, each once.
fn ceilings(config: &Config, module: &str) -> Vec<SlotLimits> {
    let site = &config.policy.limits;
    let filters = config.pipelines.iter().flat_map(|p| &p.filters);
    let filters = filters
        .filter(|filter| filter.module == module)
        .map(|filter| filter.limits.ceiling(site));
    let decoders = config
        .sources
        .iter()
        .filter_map(|source| match &source.decode {
            config::Decode::Module(decoder) if decoder.module == module => {
                Some(decoder.limits.ceiling(site))
            }
            config::Decode::Module(_)
            | config::Decode::Json { .. }
            | config::Decode::Text
            | config::Decode::Csv { .. }
            | config::Decode::Regex { .. }
            | config::Decode::Binary { .. }
            | config::Decode::Lines => None,
        });
    let mut ceilings: Vec<SlotLimits> = Vec::new();
    for ceiling in filters.chain(decoders) {
        if !ceilings.contains(&ceiling) {
            ceilings.push(ceiling);
        }
    }
    ceilings
}

fn inventory(module: &tidegate_domain::install::EpochModule) -> serde_json::Value {
    json!({
        "name": module.name,
        "version": module.version,
        "digest": module.digest,
    })
}

/// When to look again at what is waited for.
fn until(wait: Wait) -> Duration {
    let left = match wait {
        Wait::Hold | Wait::Halted => None,
        Wait::Wave { left, .. } | Wait::Window { left } => left,
        Wait::Again { left } => Some(left),
    };
    left.map_or(RESTING, |left| left.min(RESTING))
}

fn waiting(wait: Wait, retry: Option<&Retry>) -> view::InstallWait {
    let (reason, left) = match wait {
        Wait::Hold => (
            "the site holds everything: `hold` in [deploy]".to_owned(),
            None,
        ),
        Wait::Halted => (
            "the publisher halted it: too many gateways refused it".to_owned(),
            None,
        ),
        Wait::Wave { place, left } => (
            match left {
                Some(_) => {
                    format!("this gateway is number {place} of 10000, and its wave comes later")
                }
                None => format!(
                    "this gateway is number {place} of 10000, and the document has no wave for it"
                ),
            },
            left,
        ),
        Wait::Window { left: Some(left) } => (
            "the site's `install-window` is closed".to_owned(),
            Some(left),
        ),
        Wait::Window { left: None } => (
            "the clock is not set, and nobody knows when the site's `install-window` opens"
                .to_owned(),
            None,
        ),
        Wait::Again { left } => {
            let (stage, why) =
                retry.map_or(("", ""), |retry| (retry.stage.as_str(), retry.why.as_str()));
            (format!("{stage}: {why}"), Some(left))
        }
    };
    view::InstallWait {
        reason,
        until: left.map(from_now),
        failed_tries: match wait {
            Wait::Again { .. } => retry.map_or(0, |retry| retry.tries),
            Wait::Hold | Wait::Halted | Wait::Wave { .. } | Wait::Window { .. } => 0,
        },
    }
}

/// Milliseconds since the epoch of Unix.
pub(crate) fn from_now(wait: Duration) -> i64 {
    let millis = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    (clock::wall() / 1_000_000).saturating_add(millis)
}
