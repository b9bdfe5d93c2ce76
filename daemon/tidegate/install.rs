//! What is done with an epoch that is here: rehearsed, tried, settled or put back, by [`tidegate_domain::install`].
//!
//! Each step is stored before anybody acts by it. A process that ends anywhere begins again from what is stored: chains by what
//! is in force, trials by the records of the store.

mod replay;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tidegate_audit::Action;
use tidegate_deploy::Device;
use tidegate_domain::channel::Channel;
use tidegate_domain::install::{
    Conditions, Elapsed, Epoch, Install, Next, Phase, Stage, Verdict, Wait, place,
};
use tidegate_pipeline::{LoadedModule, test_vectors};
use tidegate_status::view;
use tidegate_store::{Event, Input};
use tokio::sync::{Notify, mpsc, watch};

use crate::audit::{self, Audit};
use crate::brought::Brought;
use crate::config::{self, Config};
use crate::rollouts::{Changed, Rollouts};
use crate::writer::ToWriter;
use crate::{clock, gateway};

/// While pipelines try something: how often they are looked at.
const TRYING: Duration = Duration::from_secs(2);
/// Otherwise: for what waits, and for what a pipeline puts back later.
const RESTING: Duration = Duration::from_mins(1);
/// After a step that could not be stored or taken.
const AGAIN: Duration = Duration::from_secs(15);

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
    /// Why it does not go on.
    pub(crate) problem: Option<String>,
}

/// Whether there is more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Step,
    Rest(Duration),
}

impl Installer {
    /// Does what can be done now, and says when to come again. Blocks: modules are compiled, files synced.
    pub(crate) fn advance(&mut self) -> Duration {
        loop {
            if *self.stop.borrow() {
                return RESTING;
            }
            match self.step() {
                Ok(After::Step) => {}
                Ok(After::Rest(wait)) => {
                    if self.problem.take().is_some() {
                        self.show(|shown| shown.problem = None);
                    }
                    return wait;
                }
                Err(error) => {
                    let problem = Some(format!("{error:#}"));
                    // The same again is no news for the log.
                    if self.problem != problem {
                        tracing::error!("the installation of modules does not go on: {error:#}");
                    }
                    self.show(|shown| shown.problem.clone_from(&problem));
                    self.problem = problem;
                    return AGAIN;
                }
            }
        }
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
            (Next::Wait(wait), _) => Ok(After::Rest(until(wait))),
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
        &self,
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
        let now = clock::wall() / 1_000_000;
        if let Err((stage, why)) = rehearsed {
            tracing::warn!(
                channel = epoch.channel,
                epoch = number,
                stage = stage.as_str(),
                "the epoch is refused, and what runs goes on: {why}"
            );
            self.tell(
                epoch,
                Action::EpochRefused,
                &format!("{}: {why}", stage.as_str()),
            );
            install.refuse(epoch, stage, why, now);
            self.store(install)?;
            return Ok(After::Step);
        }
        install.begin(epoch.clone());
        self.store(install)?;
        self.tell(epoch, Action::EpochBegun, "rehearsed; the pipelines try it");
        self.adopt()
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
    fn try_out(&self, brought: &Arc<Brought>, urgent: bool) -> Result<(), (Stage, String)> {
        let loading = |error: anyhow::Error| (Stage::Loading, format!("{error:#}"));
        let config = self.rollouts.configuration();
        let maker = self.rollouts.maker_with(&config, Arc::clone(brought));
        let found = maker.load().map_err(loading)?;
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
            let vectors = brought.vectors(module).map_err(loading)?;
            if let Some(vectors) = vectors {
                self.run_vectors(&config, loaded, &vectors)
                    .map_err(|why| (Stage::Vectors, why))?;
            }
        }
        for place in &self.rollouts.places {
            replay::replay(&maker, place, &found, &self.stop)
                .map_err(|why| (Stage::Replay, why))?;
        }
        Ok(())
    }

    fn run_vectors(
        &self,
        config: &Config,
        module: &Arc<LoadedModule>,
        vectors: &[u8],
    ) -> Result<(), String> {
        let policy = gateway::policy(config).map_err(|error| format!("{error:#}"))?;
        let policy: Vec<_> = policy.into_iter().collect();
        let named = |what: &str| {
            let manifest = &module.manifest;
            format!("module {} {}: {what}", manifest.name, manifest.version)
        };
        let results = test_vectors::run_vectors(&self.rollouts.engine, module, &policy, vectors);
        let results = results.map_err(|error| named(&error.to_string()))?;
        match results.iter().find(|result| !result.passed()) {
            Some(failed) => Err(named(&format!(
                "golden vector `{}`: {}",
                failed.name,
                failed.problems.join("; ")
            ))),
            None => Ok(()),
        }
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
        audit::epoch(&self.audit, action, &about, text);
        let mut data = about;
        data["reason"] = text.into();
        let event = Event {
            time: clock::wall(),
            code: action.as_str().replace('.', "-"),
            text: format!("channel {} epoch {}: {text}", epoch.channel, epoch.epoch),
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
            Next::Wait(wait) => Some(waiting(wait)),
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
                before: install.before.as_ref().map(|epoch| epoch.epoch),
                newest: here.map(|(epoch, _)| epoch.epoch),
                newest_since: here.map(|(_, channel)| channel.placed_by()),
                waiting,
                refused: install.refused.as_ref().map(|refused| view::RefusedEpoch {
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
                problem: self.problem.clone(),
            };
        });
    }
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
    };
    left.map_or(RESTING, |left| left.min(RESTING))
}

fn waiting(wait: Wait) -> view::InstallWait {
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
    };
    let until = left.map(|left| {
        let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        (clock::wall() / 1_000_000).saturating_add(millis)
    });
    view::InstallWait { reason, until }
}
