//! The first start of a gateway whose modules only the channel gives: they come before anything else does.
//!
//! Without them there is no chain, and without a chain nothing may be acknowledged. So no source is connected to, and the
//! repository is looked at until it has what the configuration names. Waves and the site's window are not waited for: there is
//! nothing here that goes on meanwhile. The page says what is waited for, and the control socket takes a look, or a stick.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tidegate_audit::Action as Act;
use tidegate_deploy::Refusal;
use tidegate_domain::alarm;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::install::{Epoch, Failed, Failure, Install, Stage};
use tidegate_domain::quarantine::{Action, Selection};
use tidegate_pipeline::{LoadedModule, Runtime};
use tidegate_status::{Actions, Answer, Caller, Refused, TryRequest, view};
use tidegate_store::StoreState;
use tokio::sync::{mpsc, watch};

use crate::audit::{self, Audit};
use crate::brought::Brought;
use crate::config::Config;
use crate::deploy::{self, Looker, Order, random};
use crate::install::{blame, from_now};
use crate::log::RecentErrors;
use crate::notify::{notify, watchdog_interval};
use crate::supervise::{self, Asked, Loading, Signals};
use crate::waiting::{Page, Why};
use crate::{clock, control, gateway, modules, operator, wiring};

/// First wait after a look that did not bring what is missing; the longest is `deploy.poll`.
const AGAIN: Duration = Duration::from_secs(5);
/// Without a watchdog nobody is fed.
const UNFED: Duration = Duration::from_hours(1);

/// What came of it.
pub(crate) enum First {
    /// Every module that the configuration names is here, or the start says which is not.
    Here,
    /// A signal ended the wait.
    Stop,
    /// The modules have come, or a signal asked for another configuration: with it everything begins anew.
    Anew(Box<Config>),
}

/// Waits for the modules that are missing here and may come over the air. Returns at once where none is, where there is no
/// `[deploy]`, and where the site holds everything. To be called under the store's lock.
///
/// # Errors
/// The files of TLS cannot be used, the control socket cannot be made, or what came does not fit the configuration.
pub(crate) async fn for_modules(
    config: &Arc<Config>,
    listener: &TcpListener,
    recent: &RecentErrors,
    audit: &Audit,
    signals: &mut Signals,
    reload: &impl Fn(Loading) -> anyhow::Result<Config>,
) -> Result<First, supervise::Error> {
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
    let (handle, looker, orders) = deploy::counter(config, deploy, audit)?;
    let names = missing.join(", ");
    let status = format!("waiting for modules of channel {}: {names}", deploy.channel);
    let why = Why {
        store: StoreState::Healthy,
        store_error: None,
        unready: status.clone(),
        before: "the channel has brought the modules",
        deploy: Some(handle.clone()),
    };
    let page = Page::serve(config, listener, recent, audit, why)?;
    let (socket_listener, socket) = control::listen(&config.gateway.state_dir)?;
    let desk = Arc::new(Desk {
        deploy: handle,
        audit: audit.clone(),
    });
    let router = tidegate_status::control_router(page.view(), desk);
    let (stop, stopped) = watch::channel(false);
    let refusals = audit::refusals(audit);
    let served = tokio::spawn(wiring::serve_control(
        socket_listener,
        router,
        refusals,
        stopped,
    ));
    tracing::warn!(
        "waiting for {names}: neither a local file nor a factory module has that name, and channel {} has not brought it yet; \
         nothing is taken in meanwhile",
        deploy.channel
    );
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let waiting = Waiting {
        config,
        poll: deploy.poll,
        looker,
        audit,
        missing,
        said: None,
    };
    let first = waiting.run(orders, signals, reload).await;
    stop.send_replace(true);
    if let Err(error) = served.await {
        tracing::warn!(%error, "the control socket ended badly");
    }
    drop(socket);
    page.close().await;
    first
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

/// Why the wait does something.
enum Woken {
    Look,
    Order(Order),
    Asked(Asked),
}

struct Waiting<'a> {
    config: &'a Config,
    poll: Duration,
    looker: Looker,
    audit: &'a Audit,
    missing: Vec<String>,
    said: Option<String>,
}

impl Waiting<'_> {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        signals: &mut Signals,
        reload: &impl Fn(Loading) -> anyhow::Result<Config>,
    ) -> Result<First, supervise::Error> {
        let mut backoff = Backoff::new(AGAIN, self.poll.max(AGAIN));
        let mut wait = Duration::ZERO;
        loop {
            let woken = tokio::select! {
                () = fed(wait) => Woken::Look,
                Some(order) = orders.recv() => Woken::Order(order),
                asked = signals.next() => Woken::Asked(asked),
            };
            let order = match woken {
                Woken::Look => None,
                Woken::Order(order) => Some(order),
                Woken::Asked(Asked::Stop) => return Ok(First::Stop),
                Woken::Asked(Asked::Reload) => match reload(Loading::ToWait) {
                    Ok(config) => return Ok(First::Anew(Box::new(config))),
                    Err(error) => {
                        tracing::error!("the configuration is kept as it is: {error:#}");
                        continue;
                    }
                },
            };
            let from = order.as_ref().and_then(|order| order.from.clone());
            let looked = tokio::select! {
                looked = self.looker.look(from) => looked,
                asked = signals.next() => match asked {
                    Asked::Stop => return Ok(First::Stop),
                    // It is asked again when this look is through, or cut off by its own bounds.
                    Asked::Reload => continue,
                },
            };
            notify(&[NotifyState::Watchdog]);
            wait = backoff.next(random());
            let why = match self.came(&looked)? {
                Taken::InForce => None,
                Taken::Not(why) => Some(why),
                Taken::Again { why, left } => {
                    wait = left;
                    Some(why)
                }
            };
            if let Some(order) = order {
                order.answer(looked);
            }
            let Some(why) = why else {
                return match reload(Loading::ToRun) {
                    Ok(config) => Ok(First::Anew(Box::new(config))),
                    Err(error) => Err(supervise::Error::Unusable(error)),
                };
            };
            self.show(&why, wait);
            // The same again is no news for the log.
            if self.said.as_ref() != Some(&why) {
                tracing::warn!("still waiting for {}: {why}", self.missing.join(", "));
                self.said = Some(why);
            }
        }
    }

    /// What there is to take after a look. What came before is tried again, also while the repository cannot be reached.
    fn came(&self, looked: &Result<Value, Refusal>) -> anyhow::Result<Taken> {
        let here = self.looker.device.newest().unwrap_or_default();
        // Modules are compiled and files synced.
        let taken = here.map(|epoch| tokio::task::block_in_place(|| self.take(&epoch)));
        Ok(match (taken.transpose()?, looked) {
            (Some(taken @ (Taken::InForce | Taken::Again { .. })), _) => taken,
            (_, Err(refusal)) => Taken::Not(refusal.to_string()),
            (Some(taken), Ok(_)) => taken,
            (None, Ok(_)) => Taken::Not("what came is gone again: look at the disk".to_owned()),
        })
    }

    /// Puts an epoch in force; else why not.
    fn take(&self, epoch: &Epoch) -> anyhow::Result<Taken> {
        let device = &self.looker.device;
        let mut install = device.install()?;
        if let Some(refused) = &install.refused
            && refused.document == epoch.document
        {
            let why = format!("epoch {}: {}", epoch.epoch, refused.why);
            return Ok(Taken::Not(why));
        }
        let Some(channel) = device.channel(epoch)? else {
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
            return Ok(self.failed(install, epoch, failure));
        }
        install.begin(epoch.clone());
        if let Err(refusal) = device.store_install(&install) {
            return Ok(Taken::Not(refusal.to_string()));
        }
        self.record(epoch, Act::EpochBegun, "the first, which was waited for");
        tracing::info!(
            channel = epoch.channel,
            epoch = epoch.epoch,
            "the modules are here"
        );
        Ok(Taken::InForce)
    }

    fn failed(&self, mut install: Install, epoch: &Epoch, failure: Failure) -> Taken {
        let said = failure.to_string();
        let why = format!("epoch {}: {}", epoch.epoch, failure.why);
        let failed = install.fail(epoch, failure, clock::wall() / 1_000_000, random());
        let stored = self.looker.device.store_install(&install);
        if let Err(refusal) = &stored {
            // It is told when it can be: what was told is stored with it.
            tracing::warn!("what became of the epoch is not stored: {refusal}");
        }
        match failed {
            Failed::Refused => self.record(epoch, Act::EpochRefused, &said),
            Failed::Again { news: true } if stored.is_ok() => {
                self.record(epoch, Act::EpochDelayed, &said);
            }
            Failed::Again { .. } => {}
        }
        match (failed, install.retry_of(epoch)) {
            (Failed::Again { .. }, Some(retry)) => Taken::Again {
                why,
                left: Duration::from_millis(retry.wait_ms),
            },
            (Failed::Again { .. } | Failed::Refused, _) => Taken::Not(why),
        }
    }

    fn record(&self, epoch: &Epoch, action: Act, why: &str) {
        let about = json!({
            "channel": epoch.channel,
            "epoch": epoch.epoch,
            "document": epoch.document,
        });
        audit::epoch(self.audit, action, &about, why);
    }

    fn show(&self, why: &str, wait: Duration) {
        let install = self.looker.device.install().unwrap_or_default();
        let tries = install.retry.as_ref().map_or(0, |retry| retry.tries);
        self.looker.show(|status| {
            status.next_check = Some(from_now(wait));
            status.install = view::InstallStatus {
                state: view::InstallState::Waiting,
                newest: status.epoch,
                waiting: Some(view::InstallWait {
                    reason: why.to_owned(),
                    until: Some(from_now(wait)),
                    failed_tries: tries,
                }),
                ..view::InstallStatus::default()
            };
        });
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

/// What an operator can do meanwhile.
struct Desk {
    deploy: deploy::Handle,
    audit: Audit,
}

impl Desk {
    fn not_yet<T: Send + 'static>() -> Answer<'static, T> {
        let why = "the gateway waits for its modules, and does nothing else before they are here; `tidegate module update` looks \
                   for them now, and `tidegate module import` takes them from a folder";
        Box::pin(std::future::ready(Err(Refused::Unavailable(
            why.to_owned(),
        ))))
    }
}

impl Actions for Desk {
    fn update(&self, by: Caller, from: Option<PathBuf>) -> Answer<'_> {
        let entry = audit::operator(by, Act::ModuleUpdate, json!({ "from": from }));
        Box::pin(operator::recorded(
            &self.audit,
            entry,
            self.deploy.look(from),
        ))
    }

    fn quarantine(&self, _by: Caller, _action: Action, _selection: Selection) -> Answer<'_> {
        Self::not_yet()
    }

    fn roll_back(&self, _by: Caller, _module: String) -> Answer<'_> {
        Self::not_yet()
    }

    fn install(&self, _by: Caller, _certificate: String) -> Answer<'_> {
        Self::not_yet()
    }

    fn acknowledge(&self, _by: Caller, _request: alarm::Request) -> Answer<'_> {
        Self::not_yet()
    }

    fn try_out(&self, _by: Caller, _request: TryRequest) -> Answer<'_, mpsc::Receiver<Value>> {
        Self::not_yet()
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
