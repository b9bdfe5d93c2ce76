//! The life of the process: start, signals, reload, drain.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::audit::{self, Audit};
use crate::config::Config;
use crate::first::{self, First};
use crate::log::RecentErrors;
use crate::notify::{notify, watchdog_interval};
use crate::waiting::{self, Waited};
use crate::wiring::{self, Gateway};

/// How long draining may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Signals within this time are one.
const SAME_WISH: Duration = Duration::from_millis(300);

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loading {
    /// Nothing runs yet: modules that the channel may bring are waited for.
    ToWait,
    /// Everything that it names must be there.
    ToRun,
}

/// Why the gateway did not run to an orderly end.
#[derive(Debug)]
pub(crate) enum Error {
    /// A restart would change nothing: exit code 78.
    Unusable(anyhow::Error),
    /// A restart may help: exit code 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        let error = error.into();
        if matches!(
            error.downcast_ref(),
            Some(
                tidegate_store::OpenError::TooNew { .. }
                    | tidegate_store::OpenError::Foreign { .. }
            )
        ) {
            return Self::Unusable(error);
        }
        Self::Failed(error)
    }
}

/// What ends the present wiring.
enum End {
    Stop,
    Reload(Box<Config>),
    /// The database was set aside: everybody who read from it begins anew.
    Renew,
    /// A module that came over the air can only be taken from the start.
    Anew,
    Failed(anyhow::Error),
}

/// Runs the gateway until a signal ends it. `reload` reads the configuration anew, on SIGHUP and when
/// modules have come that it names.
///
/// # Errors
/// The gateway could not start, a stage ended by itself, or draining was not finished in time.
pub(crate) fn run(
    config: Config,
    recent: RecentErrors,
    reload: impl Fn(Loading) -> anyhow::Result<Config>,
) -> Result<u8, Error> {
    // Two threads carry the connections; filters and the store have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(supervise(config, recent, reload))
}

async fn supervise(
    config: Config,
    recent: RecentErrors,
    reload: impl Fn(Loading) -> anyhow::Result<Config>,
) -> Result<u8, Error> {
    let mut signals = Signals::new()?;
    let mut audit = Audit::start(&config.gateway.state_dir, &config.gateway.id)?;
    audit::started(&audit);
    let ended = serve(config, recent, &mut audit, &mut signals, reload).await;
    audit::stopped(&audit, &ended);
    ended
}

/// One wiring after another, until a signal or a failure ends it.
async fn serve(
    mut config: Config,
    recent: RecentErrors,
    audit: &mut Audit,
    signals: &mut Signals,
    reload: impl Fn(Loading) -> anyhow::Result<Config>,
) -> Result<u8, Error> {
    loop {
        let address = config.status.listen;
        let listener = listen(&config)?;
        audit.follow(&config)?;
        let mut shared = Arc::new(config);
        let waited =
            waiting::for_store(&shared, &listener, &recent, audit, signals, &reload).await?;
        let store = match waited {
            Waited::Opened(store) => *store,
            Waited::Stop => return Ok(0),
            Waited::Reload(new) => {
                config = *new;
                continue;
            }
        };
        let first =
            first::for_modules(&shared, &listener, &recent, audit, signals, &reload).await?;
        match first {
            First::Here => {}
            First::Stop => return Ok(0),
            First::Anew(new) => {
                config = *new;
                continue;
            }
        }
        audit::in_force(audit, &shared);
        let mut gateway = wiring::start(&shared, store, listener, recent.clone(), audit)?;
        tracing::info!("the gateway runs; its page is http://{address}/");
        notify(&[NotifyState::Ready, NotifyState::Status("running")]);
        let end = watch(&mut gateway, &mut shared, audit, signals, &reload).await;
        notify(&[match end {
            End::Reload(_) | End::Renew | End::Anew => NotifyState::Reloading,
            End::Stop | End::Failed(_) => NotifyState::Stopping,
        }]);
        tracing::info!("draining");
        let stopped = tokio::select! {
            stopped = gateway.stop(DRAIN) => stopped,
            () = signals.second_stop() => {
                tracing::warn!("a second signal ends the gateway at once; what was not acknowledged will come again");
                return Ok(1);
            }
        };
        match end {
            End::Failed(error) => {
                if let Err(also) = stopped {
                    tracing::error!("draining was not finished: {also:#}");
                }
                return Err(Error::Failed(error));
            }
            End::Stop => {
                stopped?;
                tracing::info!("the gateway has drained and ends");
                return Ok(0);
            }
            End::Reload(new) => {
                stopped?;
                config = *new;
            }
            End::Renew | End::Anew => {
                stopped?;
                config = Arc::unwrap_or_clone(shared);
            }
        }
    }
}

/// Waits for what ends the present wiring, and feeds the watchdog meanwhile.
async fn watch(
    gateway: &mut Gateway,
    shared: &mut Arc<Config>,
    audit: &Audit,
    signals: &mut Signals,
    reload: &impl Fn(Loading) -> anyhow::Result<Config>,
) -> End {
    let observer = Arc::clone(gateway.observer());
    let (renewed, anew) = (gateway.renewed(), gateway.anew());
    let mut swap: Option<Swap> = None;
    let (mut again, hangup) = (false, Notify::new());
    let mut feed = tokio::time::interval(watchdog_interval().unwrap_or(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            asked = wish(signals, &hangup) => match asked {
                Asked::Stop => return End::Stop,
                Asked::Reload => match reload(Loading::ToRun) {
                    Ok(config) => {
                        // One at a time: what comes meanwhile is read when this one is through.
                        if swap.is_some() {
                            again = true;
                            continue;
                        }
                        let config = Arc::new(config);
                        let (rollouts, new) = (gateway.rollouts(), Arc::clone(&config));
                        let taking = tokio::task::spawn_blocking(move || rollouts.take(&new));
                        swap = Some(Swap { config, taking });
                    }
                    Err(error) => kept(audit, &error),
                },
            },
            taken = Swap::finish(&mut swap) => {
                match taken {
                    Ok((config, true)) => {
                        audit::in_force(audit, &config);
                        tracing::info!("the configuration is in force");
                        *shared = config;
                    }
                    Ok((config, false)) => return End::Reload(Box::new(Arc::unwrap_or_clone(config))),
                    Err(error) => kept(audit, &error),
                }
                if std::mem::take(&mut again) {
                    hangup.notify_one();
                }
            }
            () = renewed.notified() => {
                tracing::warn!("the gateway starts over with the new database");
                return End::Renew;
            }
            () = anew.notified() => return End::Anew,
            error = gateway.failed() => return End::Failed(error),
            _ = feed.tick() => match observer.progress() {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(stuck) => tracing::error!("the watchdog is not fed: {stuck}"),
            },
        }
    }
}

fn kept(audit: &Audit, error: &anyhow::Error) {
    tracing::error!("the configuration is kept as it is: {error:#}");
    audit::not_in_force(audit, error);
}

/// A configuration whose changes of chains are being made ready while everything goes on.
struct Swap {
    config: Arc<Config>,
    /// False where it changes something else, and everything has to begin anew.
    taking: JoinHandle<anyhow::Result<bool>>,
}

impl Swap {
    /// Waits for the end of what is under way, for ever where nothing is. Can be cancelled.
    async fn finish(swap: &mut Option<Self>) -> anyhow::Result<(Arc<Config>, bool)> {
        let Some(under_way) = swap else {
            return std::future::pending().await;
        };
        let taken = (&mut under_way.taking).await;
        let config = Arc::clone(&under_way.config);
        *swap = None;
        Ok((config, taken.context("the change was not finished")??))
    }
}

/// The next signal, or a reload that was asked for while another was under way. Can be cancelled.
async fn wish(signals: &mut Signals, hangup: &Notify) -> Asked {
    tokio::select! {
        asked = signals.next() => asked,
        () = hangup.notified() => Asked::Reload,
    }
}

fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.status.listen;
    let listener = TcpListener::bind(address).with_context(|| {
        format!("the page cannot listen on {address}; choose another `status.listen`")
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Stop,
    Reload,
}

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Can be cancelled.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// A second signal that asks for the end. One that comes with the first, from whoever signals a process and its
    /// group, is the same wish. Can be cancelled.
    async fn second_stop(&mut self) {
        let first = Instant::now();
        while self.next().await != Asked::Stop || first.elapsed() < SAME_WISH {}
    }
}
