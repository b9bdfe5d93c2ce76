//! The first start of a gateway whose modules only the channel gives: they come before anything else does.
//!
//! Without them there is no chain, and without a chain nothing may be acknowledged. So no source is connected to, and the
//! repository is looked at until it has what the configuration names. Waves and the site's window are not waited for: there is
//! nothing here that goes on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tidegate_deploy::{Candidate, Device, Refusal, Transport};
use tidegate_domain::backoff::Backoff;
use tidegate_domain::install::{Epoch, Failed, Install, Stage};
use tidegate_pipeline::{LoadedModule, Runtime};
use tidegate_tls::Tls;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::brought::{self, Brought};
use crate::config::{self, Config, Repository};
use crate::deploy::{admit, now, random, transport};
use crate::install::blame;
use crate::notify::{notify, watchdog_interval};
use crate::{clock, gateway, modules};

/// First wait after a look that did not bring what is missing; the longest is `deploy.poll`.
const AGAIN: Duration = Duration::from_secs(5);
/// Without a watchdog nobody is fed.
const UNFED: Duration = Duration::from_hours(1);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Every module that the configuration names is here, or the start says which is not.
    Here,
    /// A signal ended the wait.
    Stop,
}

/// Waits for the modules that are missing here and may come over the air. Returns at once where none is, where there is no
/// `[deploy]`, and where the site holds everything.
///
/// # Errors
/// The files of TLS cannot be used, or the system gives no runtime.
pub(crate) fn wait_for_modules(config: &Config) -> anyhow::Result<First> {
    let Some(deploy) = config.deploy.as_ref().filter(|deploy| !deploy.hold) else {
        return Ok(First::Here);
    };
    // What cannot be read is told by the start.
    let Ok(brought) = Brought::read(config) else {
        return Ok(First::Here);
    };
    let missing = modules::missing(config, &brought);
    if missing.is_empty() {
        return Ok(First::Here);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Waiting::new(config, deploy, missing)?.run())
}

/// What came of an epoch.
enum Taken {
    /// It is in force.
    InForce,
    /// It is not, and why.
    Not(String),
    /// It failed by this device's fault.
    Again { why: String, left: Duration },
}

struct Waiting<'a> {
    config: &'a Config,
    deploy: &'a config::Deploy,
    device: Device,
    tls: Option<Arc<Tls>>,
    missing: Vec<String>,
    said: Option<String>,
}

impl<'a> Waiting<'a> {
    fn new(
        config: &'a Config,
        deploy: &'a config::Deploy,
        missing: Vec<String>,
    ) -> anyhow::Result<Self> {
        let tls = match &deploy.repository {
            Repository::Directory(_) => None,
            Repository::Http { tls, .. } => tls.clone().map(Tls::new).transpose()?.map(Arc::new),
        };
        Ok(Self {
            config,
            deploy,
            device: brought::device(config, deploy),
            tls,
            missing,
            said: None,
        })
    }

    async fn run(mut self) -> anyhow::Result<First> {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let names = self.missing.join(", ");
        tracing::warn!(
            "waiting for {names}: neither a local file nor a factory module has that name, and channel {} has not brought it yet; \
             nothing is taken in meanwhile",
            self.deploy.channel
        );
        let status = format!(
            "waiting for modules of channel {}: {names}",
            self.deploy.channel
        );
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        let mut backoff = Backoff::new(AGAIN, self.deploy.poll.max(AGAIN));
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = stop(&mut terminate, &mut interrupt) => return Ok(First::Stop),
            };
            let mut wait = backoff.next(random());
            // What came before is tried again, also while the repository cannot be reached.
            let here = match &looked {
                Ok(epoch) => Some(epoch.clone()),
                Err(_) => self.device.newest().unwrap_or_default(),
            };
            let taken = match here {
                Some(epoch) => Some(self.take(&epoch)?),
                None => None,
            };
            let why = match (taken, looked) {
                (Some(Taken::InForce), _) => return Ok(First::Here),
                (Some(Taken::Again { why, left }), _) => {
                    wait = left;
                    why
                }
                (_, Err(refusal)) => refusal.to_string(),
                (Some(Taken::Not(why)), Ok(_)) => why,
                (None, Ok(_)) => "what came is gone again".to_owned(),
            };
            // The same again is no news for the log.
            if self.said.as_ref() != Some(&why) {
                tracing::warn!("still waiting for {names}: {why}");
                self.said = Some(why);
            }
            tokio::select! {
                () = fed(wait) => {}
                () = stop(&mut terminate, &mut interrupt) => return Ok(First::Stop),
            }
        }
    }

    async fn look(&self) -> Result<Epoch, Refusal> {
        let transport: Arc<dyn Transport> = transport(self.deploy, self.tls.as_ref(), None)?;
        let admit = |candidate: &Candidate<'_>| admit(candidate, self.config);
        let poll = self.device.poll(&transport, now(), &admit).await;
        notify(&[NotifyState::Watchdog]);
        poll?;
        self.device.newest()?.ok_or_else(|| Refusal {
            kind: tidegate_deploy::Kind::Channel,
            file: format!("channels/{}.json", self.deploy.channel),
            reason: "what came is gone again".to_owned(),
            help: "look at the disk".to_owned(),
        })
    }

    /// Puts an epoch in force; else why not.
    fn take(&self, epoch: &Epoch) -> anyhow::Result<Taken> {
        let mut install = self.device.install()?;
        if let Some(refused) = &install.refused
            && refused.document == epoch.document
        {
            let why = format!("epoch {}: {}", epoch.epoch, refused.why);
            return Ok(Taken::Not(why));
        }
        let Some(channel) = self.device.channel(epoch)? else {
            return Ok(Taken::Not("the channel's document is damaged".to_owned()));
        };
        install.raise_minimums(&channel);
        let brought = Brought::read(self.config)?.with(epoch, &channel);
        let lacking = modules::missing(self.config, &brought);
        if !lacking.is_empty() {
            return Ok(Taken::Not(format!(
                "epoch {} of channel {} does not name {}, or this site does not take it (`deploy.modules`)",
                epoch.epoch,
                epoch.channel,
                lacking.join(", ")
            )));
        }
        // What does not load here would end every start from now on.
        if let Err(error) = self.load(&brought) {
            let failure = blame::failure(Stage::Loading, &error);
            let why = format!("epoch {}: {}", epoch.epoch, failure.why);
            let failed = install.fail(epoch, failure, clock::wall() / 1_000_000, random());
            self.store(&install);
            return Ok(match (failed, install.retry_of(epoch)) {
                (Failed::Again { .. }, Some(retry)) => Taken::Again {
                    why,
                    left: Duration::from_millis(retry.wait_ms),
                },
                (Failed::Again { .. } | Failed::Refused, _) => Taken::Not(why),
            });
        }
        install.begin(epoch.clone());
        if let Err(refusal) = self.device.store_install(&install) {
            return Ok(Taken::Not(refusal.to_string()));
        }
        tracing::info!(
            channel = epoch.channel,
            epoch = epoch.epoch,
            "the modules are here"
        );
        Ok(Taken::InForce)
    }

    /// What failed counts even where that cannot be stored: on a full disk nothing can.
    fn store(&self, install: &Install) {
        if let Err(refusal) = self.device.store_install(install) {
            tracing::warn!("what became of the epoch is not stored: {refusal}");
        }
    }

    fn load(&self, brought: &Brought) -> anyhow::Result<()> {
        let engine = Runtime::new(gateway::runtime_config(self.config)?)?;
        for name in &self.missing {
            let module = modules::resolve(name, &self.config.modules, brought)?;
            LoadedModule::load(&engine, module).with_context(|| format!("module {name}"))?;
        }
        Ok(())
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Waits, and feeds the watchdog meanwhile.
async fn fed(wait: Duration) {
    let every = watchdog_interval().unwrap_or(UNFED);
    let feeding = async {
        loop {
            notify(&[NotifyState::Watchdog]);
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = feeding => {}
    }
}
