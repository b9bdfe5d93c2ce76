//! Modules over the air, in the running gateway: when the repository is looked at, by whom, and what is said of it.
//!
//! A thread of its own looks and installs, because that writes and syncs files and compiles modules. What it does with what is
//! here is `install.rs`; one look is `deploy/look.rs`.

mod look;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_deploy::{Kind, Now, Refusal};
use tidegate_domain::channel::Target;
use tidegate_domain::install::Polls;
use tidegate_status::{Refused, view};
use tidegate_store::{Event, Input};
use tidegate_tls::Tls;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(crate) use self::look::Looker;
use crate::audit::Audit;
use crate::config::{self, Config, Repository};
use crate::install::Installer;
use crate::rollouts::Rollouts;
use crate::writer::ToWriter;
use crate::{brought, clock, observe};

/// Orders that wait. Each is somebody at a terminal.
const ORDERS: usize = 4;
/// Time left to metadata at which it is worth saying: a week.
const SOON: i64 = 7 * 86_400;

/// A look that somebody waits for.
pub(crate) struct Order {
    /// A folder to look at instead of the configured repository.
    pub(crate) from: Option<PathBuf>,
    reply: oneshot::Sender<Result<Value, Refused>>,
}

impl Order {
    /// Tells whoever ordered it what came of the look.
    pub(crate) fn answer(self, looked: Result<Value, Refusal>) {
        let answer = looked.map_err(|refusal| refused(&refusal));
        if self.reply.send(answer).is_err() {
            tracing::debug!("whoever ordered the look is gone");
        }
    }
}

/// Why the desk does something.
enum Woken {
    End,
    Look,
    Install,
    Order(Order),
}

/// What the rest of the gateway has of it.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: mpsc::Sender<Order>,
    status: Arc<Mutex<view::DeployStatus>>,
    tls: Option<Arc<Tls>>,
}

/// What looks.
pub(crate) struct Desk {
    looker: Looker,
    installer: Installer,
    orders: mpsc::Receiver<Order>,
    stop: watch::Receiver<bool>,
    inbox: mpsc::Sender<ToWriter>,
    /// The end of metadata that was told, and whether it had come.
    told_expiry: Mutex<Option<(i64, bool)>>,
}

/// What looks, and what the rest of the gateway has of it, which orders the looks that it gets.
///
/// # Errors
/// The files of its TLS cannot be used.
pub(crate) fn counter(
    config: &Arc<Config>,
    deploy: &config::Deploy,
    audit: &Audit,
) -> anyhow::Result<(Handle, Looker, mpsc::Receiver<Order>)> {
    let (place, tls) = match &deploy.repository {
        Repository::Directory(dir) => (dir.display().to_string(), None),
        Repository::Http { url, tls } => {
            let tls = tls.clone().map(Tls::new).transpose()?.map(Arc::new);
            (url.to_string(), tls)
        }
    };
    let status = Arc::new(Mutex::new(view::DeployStatus {
        repository: place,
        channel: deploy.channel.to_string(),
        ..view::DeployStatus::default()
    }));
    let (orders, received) = mpsc::channel(ORDERS);
    let handle = Handle {
        orders,
        status: Arc::clone(&status),
        tls: tls.clone(),
    };
    let looker = Looker {
        config: Arc::clone(config),
        deploy: deploy.clone(),
        device: Arc::new(brought::device(config, deploy)),
        tls,
        status,
        audit: audit.clone(),
    };
    looker.show_newest();
    Ok((handle, looker, received))
}

/// What looks and installs, where `[deploy]` is configured. `anew` is told when the gateway has to be wired anew.
///
/// # Errors
/// The files of its TLS cannot be used.
pub(crate) fn open(
    config: &Arc<Config>,
    rollouts: &Arc<Rollouts>,
    inbox: mpsc::Sender<ToWriter>,
    anew: &Arc<Notify>,
    stop: watch::Receiver<bool>,
    audit: &Audit,
) -> anyhow::Result<Option<(Handle, Desk)>> {
    let Some(deploy) = &config.deploy else {
        return Ok(None);
    };
    let (handle, looker, orders) = counter(config, deploy, audit)?;
    let installer = Installer {
        config: Arc::clone(config),
        deploy: deploy.clone(),
        device: Arc::clone(&looker.device),
        rollouts: Arc::clone(rollouts),
        audit: audit.clone(),
        inbox: inbox.clone(),
        status: Arc::clone(&looker.status),
        anew: Arc::clone(anew),
        stop: stop.clone(),
        seen: None,
        tried: Some(Instant::now()),
        stuck: None,
    };
    let desk = Desk {
        looker,
        installer,
        orders,
        stop,
        inbox,
        told_expiry: Mutex::default(),
    };
    Ok(Some((handle, desk)))
}

impl Handle {
    /// What is said of it now.
    pub(crate) fn status(&self) -> view::DeployStatus {
        view::DeployStatus {
            tls: self.tls.as_deref().map(observe::tls_status),
            ..lock(&self.status).clone()
        }
    }

    /// TLS of the way to the repository.
    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// The modules of the channel, as far as nothing runs them, and one that was refused.
    pub(crate) fn modules(&self) -> Vec<view::ModuleStatus> {
        let status = self.status();
        let install = &status.install;
        let refused = install.refused.as_ref();
        let refused = refused.filter(|refused| refused.channel == status.channel);
        let refused = refused.map(|refused| refused.epoch);
        // Also where it was refused in a document that this one goes on from.
        let since = match install.newest == status.epoch {
            true => install.newest_since,
            false => status.epoch,
        };
        let gives = since
            .zip(status.epoch)
            .map(|(since, newest)| since..=newest);
        let state = if gives
            .zip(refused)
            .is_some_and(|(gives, epoch)| gives.contains(&epoch))
        {
            view::ModuleState::Refused
        } else {
            view::ModuleState::Candidate
        };
        let here = status.modules.iter().map(|module| view::ModuleStatus {
            name: module.name.clone(),
            version: module.version.clone(),
            digest: module.digest.clone(),
            state,
            trial: None,
            origin: view::ModuleOrigin::Channel,
            signed_by: None,
            world: module.world.clone(),
            size_bytes: module.size_bytes,
        });
        let refused = status.error.iter().filter_map(|error| {
            let Some(Target::Module { name, version, .. }) = Target::parse(&error.file) else {
                return None;
            };
            Some(view::ModuleStatus {
                name: name.to_string(),
                version: version.to_string(),
                state: view::ModuleState::Refused,
                origin: view::ModuleOrigin::Channel,
                ..view::ModuleStatus::default()
            })
        });
        here.chain(refused).collect()
    }

    /// Looks at the repository at once, or at a folder, and waits for what comes of it.
    ///
    /// # Errors
    /// Why nothing was taken.
    pub(crate) async fn look(&self, from: Option<PathBuf>) -> Result<Value, Refused> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| {
            Refused::Unavailable(
                "others wait for a look at the repository; try again when it is through".to_owned(),
            )
        };
        self.orders.try_send(Order { from, reply }).map_err(busy)?;
        answer
            .await
            .map_err(|_| Refused::Unavailable("the gateway is ending".to_owned()))?
    }
}

impl Desk {
    /// Looks and installs until `stop` says so. Blocks; `runtime` moves the connections.
    pub(crate) fn run(mut self, runtime: &tokio::runtime::Handle) {
        // Steps are handed to workers from here, which needs the runtime and may block.
        let _entered = runtime.enter();
        let mut polls = Polls::new(self.looker.deploy.poll);
        let mut at = Instant::now() + Polls::first(random());
        loop {
            let again = Instant::now() + self.installer.advance();
            self.show_next(at);
            let order = match runtime.block_on(self.wait(at, again)) {
                Woken::End => return,
                Woken::Install => continue,
                Woken::Look => None,
                Woken::Order(order) => Some(order),
            };
            if order.is_some() {
                self.installer.hurry();
            }
            let from = order.as_ref().and_then(|order| order.from.clone());
            // A look that is cut off here goes on from its last file.
            let Some(result) = runtime.block_on(self.look_unless_stopped(from)) else {
                return;
            };
            let wait = match &result {
                Ok(_) => polls.after_success(random()),
                Err(_) => polls.after_failure(random()),
            };
            at = Instant::now() + wait;
            if let Some(order) = order {
                order.answer(result);
            }
        }
    }

    async fn wait(&mut self, look: Instant, install: Instant) -> Woken {
        tokio::select! {
            // The gateway ends where `stop` is gone, too.
            _ = self.stop.wait_for(|stop| *stop) => Woken::End,
            () = tokio::time::sleep_until(look.into()) => Woken::Look,
            () = tokio::time::sleep_until(install.into()) => Woken::Install,
            // Nobody can order any more: the gateway is ending.
            order = self.orders.recv() => order.map_or(Woken::End, Woken::Order),
        }
    }

    async fn look_unless_stopped(&self, from: Option<PathBuf>) -> Option<Result<Value, Refusal>> {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => None,
            result = self.looker.look(from) => {
                self.tell_expiry(look::now());
                Some(result)
            }
        }
    }

    fn show_next(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        lock(&self.looker.status).next_check = Some(clock::wall() / 1_000_000 + millis(left));
    }

    /// Says a week ahead that nothing new will be installed any more, and says it when that has come: into the log, and up the
    /// line. Also while the repository cannot be reached, which is when it matters.
    fn tell_expiry(&self, now: Now) {
        let Some(expires) = lock(&self.looker.status).expires.clone() else {
            return;
        };
        let left = expires.time / 1000 - now.time.as_second();
        let telling = (left < SOON).then_some((expires.time, left < 0));
        let mut told = self
            .told_expiry
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if telling.is_none() || *told == telling {
            return;
        }
        *told = telling;
        drop(told);
        let (role, at) = (&expires.role, tidegate_deploy::time(expires.time / 1000));
        let (code, text) = if left < 0 {
            let text = format!(
                "metadata/{role}.json expired on {at:.0}: nothing new is installed until the publisher renews it; what runs goes on"
            );
            ("deploy-expired", text)
        } else {
            let text = format!(
                "metadata/{role}.json expires on {at:.0}: then nothing new is installed until the publisher renews it"
            );
            ("deploy-expiring", text)
        };
        tracing::warn!("{text}");
        let channel = self.looker.deploy.channel.as_str();
        let event = Event {
            time: clock::wall(),
            code: code.to_owned(),
            text,
            data: Some(json!({ "channel": channel, "role": role, "expires": expires.time })),
        };
        if let Err(error) = self.inbox.try_send(ToWriter::Input(Input::Event(event))) {
            tracing::warn!("an event about the repository does not go up: {error}");
        }
    }
}

fn refused(refusal: &Refusal) -> Refused {
    match refusal.kind {
        Kind::Fetch | Kind::Local => Refused::Unavailable(refusal.to_string()),
        Kind::Malformed
        | Kind::Signatures
        | Kind::Rollback
        | Kind::Mixed
        | Kind::Expired
        | Kind::Content
        | Kind::Name
        | Kind::Channel => Refused::Request(refusal.to_string()),
    }
}

/// Without randomness gateways do not spread, and that is all.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn lock(status: &Mutex<view::DeployStatus>) -> MutexGuard<'_, view::DeployStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
