//! Opening the store, however long it takes. A disk that is full, read-only, broken or not yet mounted is no reason to end:
//! the page says what is wrong, nothing is taken in, and opening is tried again. The page serves whoever else has to wait, too.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use sd_notify::NotifyState;
use tidegate_domain::Ledger;
use tidegate_domain::backoff::Backoff;
use tidegate_status::view::{self, Readiness, Snapshot, View};
use tidegate_store::{OpenError, Store, StoreState};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::{self, Audit};
use crate::config::Config;
use crate::log::RecentErrors;
use crate::notify::{notify, watchdog_interval};
use crate::supervise::{Asked, Loading, Signals};
use crate::{clock, deploy, gateway, observe, wiring};

/// First and longest wait before opening is tried again.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How waiting ended.
pub(crate) enum Waited {
    /// The store is open.
    Opened(Box<Store>),
    /// A signal asked for the end.
    Stop,
    /// A signal asked for another configuration.
    Reload(Box<Config>),
}

/// Opens the store. While it cannot be opened, `listener` serves what keeps it.
///
/// # Errors
/// What no waiting ends: another process has the store, or it is of a newer version or of another program.
pub(crate) async fn for_store(
    config: &Arc<Config>,
    listener: &TcpListener,
    recent: &RecentErrors,
    audit: &Audit,
    signals: &mut Signals,
    reload: &impl Fn(Loading) -> anyhow::Result<Config>,
) -> anyhow::Result<Waited> {
    #[cfg(feature = "test-faults")]
    crate::faults::switch_store();
    clock::trust(config.gateway.clock);
    let mut backoff = Backoff::new(RETRY, RETRY_MAX);
    let mut page: Option<Page> = None;
    let mut feed = tokio::time::interval(watchdog_interval().unwrap_or(Duration::from_secs(3600)));
    let waited = loop {
        let trouble = match open(config).await? {
            Ok(store) => break Waited::Opened(Box::new(store)),
            Err(trouble) => trouble,
        };
        let retry_in = backoff.next(u64::MAX);
        tracing::error!(
            "nothing is taken in until the store can be used ({}): {:#}; next attempt in {} ms",
            trouble.state.as_str(),
            trouble.error,
            retry_in.as_millis()
        );
        let why = Why {
            store: trouble.state,
            store_error: Some(format!("{:#}", trouble.error)),
            unready: format!(
                "the store is {}: {:#}",
                trouble.state.as_str(),
                trouble.error
            ),
            before: "the store can be used",
            deploy: None,
        };
        match &page {
            Some(page) => page.found(why),
            None => {
                page = Some(Page::serve(config, listener, recent, audit, why)?);
                // The process does what it can: a service manager that takes it for stuck would only start it again.
                notify(&[NotifyState::Ready]);
            }
        }
        notify(&[NotifyState::Status(
            "waiting for the store; the page says why",
        )]);
        let due = tokio::time::sleep(retry_in);
        tokio::pin!(due);
        let end = loop {
            tokio::select! {
                () = &mut due => break None,
                _ = feed.tick() => notify(&[NotifyState::Watchdog]),
                asked = signals.next() => match asked {
                    Asked::Stop => break Some(Waited::Stop),
                    Asked::Reload => match reload(Loading::ToWait) {
                        Ok(config) => break Some(Waited::Reload(Box::new(config))),
                        Err(error) => tracing::error!("the configuration is kept as it is: {error:#}"),
                    },
                },
            }
        };
        if let Some(end) = end {
            break end;
        }
    };
    if let Some(page) = page {
        page.close().await;
        tracing::info!("waiting for the store is over");
    }
    Ok(waited)
}

/// Why the store cannot be used yet.
struct Trouble {
    state: StoreState,
    error: anyhow::Error,
}

/// One attempt. It may read for seconds, so it has a thread of its own.
async fn open(config: &Arc<Config>) -> anyhow::Result<Result<Store, Trouble>> {
    let config = Arc::clone(config);
    let settings = gateway::store_config(&config)?;
    let attempt = move || {
        if let Err(error) = wiring::make_state_dir(&config.gateway.state_dir) {
            let state = error
                .downcast_ref::<std::io::Error>()
                .map_or(StoreState::Degraded, state_of);
            return Ok(Err(Trouble { state, error }));
        }
        match Store::open(settings, clock::now()) {
            Ok(store) => Ok(Ok(store)),
            Err(error) => match error.state() {
                Some(state) => Ok(Err(Trouble {
                    state,
                    error: error.into(),
                })),
                None => Err(error),
            },
        }
    };
    let opened: Result<_, OpenError> = tokio::task::spawn_blocking(attempt)
        .await
        .context("opening the store did not come to its end")?;
    Ok(opened?)
}

fn state_of(error: &std::io::Error) -> StoreState {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = error.kind();
    if kind == ReadOnlyFilesystem || kind == PermissionDenied {
        StoreState::ReadOnly
    } else if kind == StorageFull || kind == QuotaExceeded {
        StoreState::Full
    } else {
        StoreState::Degraded
    }
}

/// What a gateway that takes nothing in waits for.
pub(crate) struct Why {
    pub(crate) store: StoreState,
    pub(crate) store_error: Option<String>,
    /// Why it is not ready, for people.
    pub(crate) unready: String,
    /// `it is not connected before …`
    pub(crate) before: &'static str,
    pub(crate) deploy: Option<deploy::Handle>,
}

/// The status server while there is nothing but that to show.
pub(crate) struct Page {
    view: Arc<Waiting>,
    stop: watch::Sender<bool>,
    server: JoinHandle<(String, anyhow::Result<()>)>,
}

impl Page {
    pub(crate) fn serve(
        config: &Arc<Config>,
        listener: &TcpListener,
        recent: &RecentErrors,
        audit: &Audit,
        why: Why,
    ) -> anyhow::Result<Self> {
        let view = Arc::new(Waiting {
            config: Arc::clone(config),
            recent: recent.clone(),
            audit: audit.clone(),
            why: Mutex::new(why),
            started: Instant::now(),
            started_at: clock::wall() / 1_000_000,
        });
        let listener = listener
            .try_clone()
            .context("the status server's listener")?;
        let listener =
            tokio::net::TcpListener::from_std(listener).context("the status server's listener")?;
        let (stop, stopped) = watch::channel(false);
        let router = tidegate_status::router(view.clone());
        let server = tokio::spawn(wiring::serve_status(
            listener,
            router,
            audit::refusals(audit),
            stopped,
        ));
        Ok(Self { view, stop, server })
    }

    pub(crate) fn found(&self, why: Why) {
        *self.view.why() = why;
    }

    /// What it shows, for the control socket as well.
    pub(crate) fn view(&self) -> Arc<dyn View> {
        self.view.clone()
    }

    pub(crate) async fn close(self) {
        self.stop.send_replace(true);
        match self.server.await {
            Ok((_, Ok(()))) => {}
            Ok((_, Err(error))) => tracing::warn!("the status server ended badly: {error:#}"),
            Err(error) => tracing::warn!(%error, "the status server ended badly"),
        }
    }
}

/// A gateway of which not all is there.
struct Waiting {
    config: Arc<Config>,
    recent: RecentErrors,
    audit: Audit,
    why: Mutex<Why>,
    started: Instant,
    started_at: i64,
}

impl Waiting {
    fn why(&self) -> MutexGuard<'_, Why> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for Waiting {
    fn snapshot(&self) -> Arc<Snapshot> {
        let why = self.why();
        let error = format!("it is not connected before {}", why.before);
        let config = &self.config;
        let now = clock::now();
        Arc::new(Snapshot {
            time: now.wall / 1_000_000,
            gateway: view::GatewayStatus {
                state: view::GatewayState::Degraded,
                ..observe::gateway_status(config, self.started, self.started_at)
            },
            sources: config
                .sources
                .iter()
                .map(|source| view::SourceStatus {
                    name: source.name.clone(),
                    url: observe::source_url(source),
                    kind: source.kind.as_str().to_owned(),
                    state: view::SourceState::Connecting,
                    since: self.started_at,
                    last_error: Some(error.clone()),
                    ..view::SourceStatus::default()
                })
                .collect(),
            pipelines: config
                .pipelines
                .iter()
                .map(|pipeline| view::PipelineStatus {
                    name: pipeline.name.clone(),
                    ..view::PipelineStatus::default()
                })
                .collect(),
            store: view::StoreStatus {
                state: observe::store_state(why.store),
                path: wiring::database(config).display().to_string(),
                max_bytes: config.store.max_size,
                last_error: why.store_error.clone(),
                ..view::StoreStatus::default()
            },
            uplinks: config
                .uplinks
                .iter()
                .map(|uplink| view::UplinkStatus {
                    name: uplink.name.clone(),
                    url: observe::url(&uplink.broker),
                    state: view::UplinkState::Connecting,
                    since: self.started_at,
                    last_error: Some(error.clone()),
                    ..view::UplinkStatus::default()
                })
                .collect(),
            deploy: why.deploy.as_ref().map(deploy::Handle::status),
            audit: Some(self.audit.status()),
            recent_errors: observe::recent_errors(&self.recent),
            ..Snapshot::default()
        })
    }

    fn ledger(&self) -> Arc<Ledger> {
        Arc::default()
    }

    fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<serde_json::Value>, String> {
        let entries = self.audit.newest(before, most);
        entries.map_err(|error| format!("the audit log cannot be read: {error}"))
    }

    fn ready(&self) -> Readiness {
        Readiness {
            ready: false,
            reasons: vec![self.why().unready.clone()],
        }
    }

    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
}
