//! Modules over the air, in the running gateway: when the repository is looked at, by whom, and what is said of it.
//!
//! A thread of its own looks and installs, because that writes and syncs files and compiles modules. What it does with what is
//! here is `install.rs`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_deploy::{
    Candidate, Device, Directory, Expiry, Http, HttpConfig, Kind, Now, Pace, Polled, Refusal,
    Transport,
};
use tidegate_domain::channel::{Target, Version};
use tidegate_domain::install::{Epoch, Polls};
use tidegate_pipeline::{LoadLimits, Manifest, inspect};
use tidegate_status::{Refused, view};
use tidegate_store::{Event, Input};
use tidegate_tls::Tls;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::audit::{self, Audit};
use crate::config::{self, Config, Repository};
use crate::install::Installer;
use crate::rollouts::Rollouts;
use crate::writer::ToWriter;
use crate::{brought, clock};

/// Orders that wait. Each is somebody at a terminal.
const ORDERS: usize = 4;
/// Time left to metadata at which it is worth saying: a week.
const SOON: i64 = 7 * 86_400;
/// A look that takes longer is given up; what came of files is kept.
const LONGEST: Duration = Duration::from_hours(6);

/// A look that somebody waits for.
struct Order {
    /// A folder to look at instead of the configured repository.
    from: Option<PathBuf>,
    reply: oneshot::Sender<Result<Value, Refused>>,
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
}

/// What looks.
pub(crate) struct Desk {
    config: Arc<Config>,
    deploy: config::Deploy,
    device: Arc<Device>,
    installer: Installer,
    tls: Option<Arc<Tls>>,
    orders: mpsc::Receiver<Order>,
    status: Arc<Mutex<view::DeployStatus>>,
    stop: watch::Receiver<bool>,
    audit: Audit,
    inbox: mpsc::Sender<ToWriter>,
    /// The end of metadata that was told, and whether it had come.
    told_expiry: Mutex<Option<(i64, bool)>>,
}

/// Makes both, where `[deploy]` is configured. `anew` is told when the gateway has to be wired anew.
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
    let Some(deploy) = config.deploy.clone() else {
        return Ok(None);
    };
    let device = Arc::new(brought::device(config, &deploy));
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
    let installer = Installer {
        config: Arc::clone(config),
        deploy: deploy.clone(),
        device: Arc::clone(&device),
        rollouts: Arc::clone(rollouts),
        audit: audit.clone(),
        inbox: inbox.clone(),
        status: Arc::clone(&status),
        anew: Arc::clone(anew),
        stop: stop.clone(),
        seen: None,
        tried: Some(Instant::now()),
        stuck: None,
    };
    let desk = Desk {
        installer,
        config: Arc::clone(config),
        deploy,
        device,
        tls,
        orders: received,
        status: Arc::clone(&status),
        stop,
        audit: audit.clone(),
        inbox,
        told_expiry: Mutex::default(),
    };
    desk.show_newest();
    Ok(Some((Handle { orders, status }, desk)))
}

impl Handle {
    /// What is said of it now.
    pub(crate) fn status(&self) -> view::DeployStatus {
        lock(&self.status).clone()
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
        let mut polls = Polls::new(self.deploy.poll);
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
                let answer = result.map_err(|refusal| refused(&refusal));
                if order.reply.send(answer).is_err() {
                    tracing::debug!("whoever ordered the look is gone");
                }
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
            result = self.look(from) => Some(result),
        }
    }

    fn show_next(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        lock(&self.status).next_check = Some(clock::wall() / 1_000_000 + millis(left));
    }

    /// One look, and what is said of it.
    async fn look(&self, from: Option<PathBuf>) -> Result<Value, Refusal> {
        lock(&self.status).checking = true;
        let now = now();
        let polled = match transport(&self.deploy, self.tls.as_ref(), from) {
            Err(refusal) => Err(refusal),
            Ok(transport) => {
                let admit = |candidate: &Candidate<'_>| admit(candidate, &self.config);
                let poll = self.device.poll(&transport, now, &admit);
                match tokio::time::timeout(LONGEST, poll).await {
                    Ok(polled) => polled,
                    Err(_) => Err(took_too_long(&transport.place())),
                }
            }
        };
        self.show(&polled, now);
        self.tell_expiry(now);
        let polled = polled?;
        Ok(json!({
            "channel": self.deploy.channel.as_str(),
            "epoch": polled.epoch,
            "publication": polled.publication,
            "news": polled.news,
            "bytes": polled.bytes,
            "expires": { "role": polled.expiry.role, "time": polled.expiry.at.as_millisecond() },
            "modules": lock(&self.status).modules,
        }))
    }

    fn show(&self, polled: &Result<Polled, Refusal>, now: Now) {
        let time = clock::wall() / 1_000_000;
        let mut status = lock(&self.status);
        status.checking = false;
        status.last_check = Some(time);
        status.checks += 1;
        match polled {
            Ok(polled) => {
                status.state = view::DeployState::Current;
                status.error = None;
                status.last_success = Some(time);
                status.publication = Some(polled.publication);
                show_expiry(&mut status, &polled.expiry, now);
                drop(status);
                if polled.news {
                    self.show_newest();
                    let status = lock(&self.status).clone();
                    audit::fetched(&self.audit, &status, polled.epoch);
                    tracing::info!(
                        channel = self.deploy.channel.as_str(),
                        epoch = polled.epoch,
                        bytes = polled.bytes,
                        "the channel names something new, and all of it is verified and here"
                    );
                }
            }
            Err(refusal) => {
                status.failures += 1;
                status.state = match refusal.kind {
                    Kind::Fetch => view::DeployState::Unreachable,
                    Kind::Expired => view::DeployState::Expired,
                    Kind::Malformed
                    | Kind::Signatures
                    | Kind::Rollback
                    | Kind::Mixed
                    | Kind::Content
                    | Kind::Name
                    | Kind::Channel
                    | Kind::Local => view::DeployState::Refused,
                };
                let error = view::DeployError {
                    file: refusal.file.clone(),
                    reason: refusal.reason.clone(),
                    help: refusal.help.clone(),
                };
                // The same again is no news for the log.
                if status.error.as_ref() != Some(&error) {
                    audit::not_taken(&self.audit, &status, refusal);
                    tracing::warn!("nothing is taken from the repository: {refusal}");
                }
                status.error = Some(error);
            }
        }
    }

    /// Says a week ahead that nothing new will be installed any more, and says it when that has come: into the log, and up the
    /// line. Also while the repository cannot be reached, which is when it matters.
    fn tell_expiry(&self, now: Now) {
        let Some(expires) = lock(&self.status).expires.clone() else {
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
        let channel = self.deploy.channel.as_str();
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

    fn show_newest(&self) {
        let newest = match self.device.newest() {
            Ok(newest) => newest,
            Err(refusal) => {
                tracing::error!("what the channel named is not known any more: {refusal}");
                None
            }
        };
        let mut status = lock(&self.status);
        status.epoch = newest.as_ref().map(|newest| newest.epoch);
        status.modules = newest.as_ref().map(modules).unwrap_or_default();
    }
}

/// The way to the configured repository, or to a folder in its place.
///
/// # Errors
/// There is none to such an address.
pub(crate) fn transport(
    deploy: &config::Deploy,
    tls: Option<&Arc<Tls>>,
    from: Option<PathBuf>,
) -> Result<Arc<dyn Transport>, Refusal> {
    let silence = deploy.timeout;
    if let Some(dir) = from {
        return Ok(Arc::new(Directory::new(dir, silence)));
    }
    Ok(match &deploy.repository {
        Repository::Directory(dir) => Arc::new(Directory::new(dir, silence)),
        Repository::Http { url, .. } => Arc::new(Http::new(HttpConfig {
            url: url.clone(),
            tls: tls.cloned(),
            pace: Pace {
                silence,
                most_bytes_per_second: deploy.rate_limit,
            },
        })?),
    })
}

fn show_expiry(status: &mut view::DeployStatus, expiry: &Expiry, now: Now) {
    if expiry.at.as_second() - now.time.as_second() < SOON {
        status.state = view::DeployState::Expiring;
    }
    status.expires = Some(view::DeployExpiry {
        role: expiry.role.to_owned(),
        time: expiry.at.as_millisecond(),
    });
}

fn modules(epoch: &Epoch) -> Vec<view::DeployModule> {
    let modules = epoch.modules.iter();
    modules
        .map(|module| view::DeployModule {
            name: module.name.clone(),
            version: module.version.clone(),
            digest: module.digest.clone(),
            world: module.world.clone(),
            size_bytes: module.bytes,
            sbom: module.sbom.clone(),
            provenance: module.provenance.clone(),
        })
        .collect()
}

/// What can be said of a module without running it: that it is one, that this daemon is new enough, that the site takes one of
/// its size.
pub(crate) fn admit(candidate: &Candidate<'_>, config: &Config) -> Result<(), (String, String)> {
    let publisher =
        |what: String| Err((what, "the publisher has to make another version".to_owned()));
    let release = candidate.release;
    let daemon: Result<Version, _> = env!("CARGO_PKG_VERSION").parse();
    if let (Some(minimum), Ok(daemon)) = (&release.minimum_daemon, daemon)
        && *minimum > daemon
    {
        return Err((
            format!("it needs version {minimum} of the daemon, and this is {daemon}"),
            "update the daemon first".to_owned(),
        ));
    }
    let manifest = Value::Object(release.manifest.clone()).to_string();
    let manifest = match Manifest::parse(manifest.as_bytes()) {
        Ok(manifest) => manifest,
        Err(error) => return publisher(format!("its manifest: {error}")),
    };
    let allowed = LoadLimits::granted(&manifest.limits, &config.policy.loading);
    let size = candidate.component.len() as u64;
    if size > allowed.module_bytes {
        return Err((
            format!(
                "it has {size} bytes, and {} are allowed",
                allowed.module_bytes
            ),
            inspect::smaller(allowed.module_bytes).to_owned(),
        ));
    }
    match inspect::inspect(candidate.component) {
        Ok(_) => Ok(()),
        Err(error) => publisher(format!("it is no module: {error}")),
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

fn took_too_long(place: &str) -> Refusal {
    Refusal {
        kind: Kind::Fetch,
        file: place.to_owned(),
        reason: format!("the look took longer than {} hours", LONGEST.as_secs() / 3600),
        help: "what came is kept, and the next poll goes on from there; is `deploy.rate-limit` too low?".to_owned(),
    }
}

/// The time by which metadata is judged, as certificates are.
pub(crate) fn now() -> Now {
    let clock = crate::built::clock();
    let time = tidegate_deploy::time(clock.seconds());
    Now {
        time,
        set: clock::now().synced,
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
