//! The whole path in one place: every thread, task and channel of the gateway is created in [`start`].
//!
//! ```text
//! source task ──Received──▶ worker thread ──Outcome──▶ writer thread ──sealed──▶ uplink task
//!      ▲                                                │   ▲                        │
//!      └──────────────── acknowledge ───────────────────┘   └── Settled, commands ───┘
//!
//! reader thread ◀──questions, answers──▶ source task, where reading blocks
//!
//! control socket ──order──▶ writer thread        replay thread ──rows of an order──▶ worker threads
//! ```
//! Every channel is bounded. They form no cycle: the writer never waits for anyone; it calls the sources' and
//! uplinks' handles, which do not block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::DirBuilder;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tidegate_domain::limits;
use tidegate_ingest::{SourceEvent, SourceHandle};
use tidegate_pipeline::{LoadedModule, Role, Runtime};
use tidegate_status::Refusals;
use tidegate_store::{Committed, Input, Store};
use tidegate_tls::Tls;
use tidegate_uplink::UplinkHandle;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::audit::{self, Audit};
use crate::brought::Brought;
use crate::config::{self, Config};
use crate::control::{self, Socket};
use crate::driver::Driving;
use crate::kept::Kept;
use crate::log::RecentErrors;
use crate::observe::{Decoding, Observed, Observer, Progress};
use crate::operator::Operator;
use crate::replay::{self, Owner, Replay, Replayer, Tried};
use crate::rollouts::{Maker, Place, Rollouts};
use crate::worker::{Careful, SourceStage, Worker};
use crate::writer::{ToWriter, WriterThread};
use crate::{clock, commands, gateway, recount, rollouts};

/// Outcomes that wait for the writer. When full, workers wait, and with them the sources.
const OUTCOMES: usize = 16;
/// Other changes that wait for the writer. When full, uplinks wait.
const INBOX: usize = 256;
/// Events of one source that wait; further ones are counted in the source's status alone.
const EVENTS: usize = 64;
/// How often the files of TLS are looked at: a few reads that the page cache answers. Connections ask on their own ticks,
/// at least twice a minute, whether they were made with the files that are in use.
const TLS_FILES: Duration = Duration::from_secs(5);
/// The name of the thread that carries out orders about quarantine.
const REPLAY: &str = "replay";
/// The name of the thread that looks at the repository of modules.
const DEPLOY: &str = "deploy";
/// The name of the writer's thread.
const WRITER: &str = "writer";
/// What the names of the desks for commands begin with.
const COMMANDS: &str = "commands of ";

/// A gateway at work.
pub(crate) struct Gateway {
    sources: Vec<SourceHandle>,
    uplinks: Vec<UplinkHandle>,
    workers: Vec<JoinHandle<()>>,
    inbox: mpsc::Sender<ToWriter>,
    tasks: JoinSet<(String, anyhow::Result<()>)>,
    /// Ends what only looks: the status server, the look-out for TLS files.
    stop_status: watch::Sender<bool>,
    stop_control: watch::Sender<bool>,
    socket: Socket,
    observer: Arc<Observer>,
    ended: mpsc::Receiver<Ended>,
    renewed: Arc<Notify>,
    anew: Arc<Notify>,
    rollouts: Arc<Rollouts>,
    /// The thread that looks at the repository of modules.
    desk: Option<JoinHandle<()>>,
}

/// A thread that came to its end.
struct Ended {
    stage: String,
    result: anyhow::Result<()>,
}

/// The store's file.
pub(crate) fn database(config: &Config) -> PathBuf {
    config.gateway.state_dir.join("tidegate.db")
}

/// Loads the modules, and starts every stage on the opened store.
///
/// # Errors
/// Anything that keeps the gateway from working as configured. Nothing has been acknowledged then.
pub(crate) fn start(
    config: &Arc<Config>,
    store: Store,
    listener: TcpListener,
    recent: RecentErrors,
    audit: &Audit,
) -> anyhow::Result<Gateway> {
    let runtime = tokio::runtime::Handle::current();

    // The store came first: what it recovered is what the filters go on with.
    let recovered = store.recovered().clone();
    // Under the store's lock, so that it is nobody else's.
    let (control, socket) = control::listen(&config.gateway.state_dir)?;
    let engine = Arc::new(Runtime::new(gateway::runtime_config(config)?)?);
    let (kept, loaded) = (Kept::new(&config.gateway.state_dir), Mutex::default());
    let brought = Arc::new(Brought::at_start(config)?);
    let maker = Maker {
        brought: Arc::clone(&brought),
        config,
        engine: &engine,
        kept: &kept,
        loaded: &loaded,
        audit,
    };
    let found = maker.load()?;
    let modules: Vec<Arc<LoadedModule>> = found.values().cloned().collect();
    let mut decoders = Vec::new();
    let mut decoding = found.clone();
    decoding.retain(|_, module| module.manifest.world.role() != Role::Filter);

    let (outcomes, made) = mpsc::channel::<Input>(OUTCOMES);
    let (inbox, writer_inbox) = mpsc::channel::<ToWriter>(INBOX);
    let (ended_sender, ended) = mpsc::channel::<Ended>(2 * config.sources.len() + 3);
    let (stop_status, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();

    // Uplinks: sealed messages out of the store, answers into the writer's inbox.
    let mut uplinks = Vec::new();
    let mut uplink_tls = Vec::new();
    let mut desks = Vec::new();
    let rooms: Vec<Arc<Semaphore>> = config.uplinks.iter().map(|_| room()).collect();
    for (index, uplink) in config.uplinks.iter().enumerate() {
        let outbox = Arc::new(gateway::Outbox::new(
            store.reader()?,
            recovered.streams.clone(),
        ));
        let tls = gateway::uplink_tls(uplink)?;
        let settings = gateway::uplink_config(config, index, &tls, &modules);
        uplink_tls.push(tls);
        let (mut task, handle) = tidegate_uplink::mqtt(settings, outbox, inbox.clone())?;
        if !uplink.commands.is_empty() {
            let (commands, received) = mpsc::channel(commands::QUEUE);
            task = task.taking_commands(commands);
            desks.push((index, received));
        }
        let name = format!("uplink {}", uplink.name);
        tasks.spawn_on(
            async move { (name, task.run().await.map_err(Into::into)) },
            &runtime,
        );
        uplinks.push(handle);
    }

    // Workers, with their sources: messages in, outcomes into the writer's inbox.
    let mut sources = BTreeMap::new();
    let mut source_tls = BTreeMap::new();
    let mut pipelines = BTreeMap::new();
    let mut places = Vec::new();
    let mut workers = Vec::new();
    let mut progress = Vec::new();
    let mut replays = Vec::new();
    let mut source_owners = HashMap::new();
    let mut pipeline_owners = HashMap::new();
    let unclean = if recovered.clean_exit {
        0..0
    } else {
        0..config.sources.len()
    };
    let careful = Careful::new(unclean);
    for group in gateway::connected(config) {
        let (intake, received) = mpsc::channel(limits::SOURCE_QUEUE_MESSAGES);
        let mut stages = HashMap::new();
        for &index in &group.sources {
            let source = &config.sources[index];
            // A source that has received before has a session at its broker.
            let had_session = recovered
                .ledger
                .sources
                .get(&source.name)
                .is_some_and(|counts| counts.received > 0);
            let (events, happened) = mpsc::channel::<SourceEvent>(EVENTS);
            let name = format!("source {}", source.name);
            let (tls, handle) = match &source.kind {
                config::SourceKind::Mqtt(mqtt) => {
                    let tls = gateway::tls(&mqtt.broker)?;
                    let settings =
                        gateway::mqtt_config(source, mqtt, index, tls.as_ref(), had_session);
                    let (task, handle) = tidegate_ingest::mqtt(settings, intake.clone(), events)?;
                    tasks.spawn_on(
                        async move { (name, task.run(clock::now).await.map_err(Into::into)) },
                        &runtime,
                    );
                    (tls, handle)
                }
                config::SourceKind::Serial(serial) => {
                    let settings = gateway::serial_config(source, serial, index);
                    let (task, handle) = tidegate_ingest::serial(settings, intake.clone(), events);
                    tasks.spawn_on(
                        async move { (name, task.run(clock::now).await.map_err(Into::into)) },
                        &runtime,
                    );
                    (None, handle)
                }
                config::SourceKind::Modbus(modbus) => {
                    let settings = gateway::modbus_config(source, modbus, index);
                    let (task, handle) = tidegate_ingest::modbus(settings, intake.clone(), events);
                    tasks.spawn_on(
                        async move { (name, task.run(clock::now).await.map_err(Into::into)) },
                        &runtime,
                    );
                    (None, handle)
                }
                config::SourceKind::Driver(driver) => {
                    let settings = gateway::driver_config(source, driver, index);
                    let (task, handle, asks) =
                        tidegate_ingest::polled(settings, intake.clone(), events);
                    let module_driver =
                        gateway::driver(config, source, driver, &engine, &found, &recovered.state)?;
                    if let Some(module) = found.get(&driver.module) {
                        decoders.push(Decoding {
                            source: index,
                            module: Arc::clone(module),
                            stats: module_driver.stats(),
                        });
                    }
                    let mut driving = Driving {
                        source: source.name.clone(),
                        module: driver.module.clone(),
                        driver: module_driver,
                        audit: audit.clone(),
                        refused: BTreeSet::new(),
                    };
                    tasks.spawn_on(
                        async move { (name, task.run(clock::now).await.map_err(Into::into)) },
                        &runtime,
                    );
                    spawn_thread(
                        format!("driver of {}", source.name),
                        &ended_sender,
                        move || {
                            asks.serve(|at| driving.poll(at));
                            Ok(())
                        },
                    )?;
                    (None, handle)
                }
                config::SourceKind::Sysfs(sysfs) => {
                    let (settings, mut reader) = gateway::sysfs_config(source, sysfs, index);
                    let (task, handle, asks) =
                        tidegate_ingest::polled(settings, intake.clone(), events);
                    tasks.spawn_on(
                        async move { (name, task.run(clock::now).await.map_err(Into::into)) },
                        &runtime,
                    );
                    spawn_thread(
                        format!("reader of {}", source.name),
                        &ended_sender,
                        move || {
                            asks.serve(|_| reader.read());
                            Ok(())
                        },
                    )?;
                    (None, handle)
                }
            };
            source_tls.insert(index, tls);
            tasks.spawn_on(
                record_events(source.name.clone(), happened, inbox.clone()),
                &runtime,
            );
            let decoder = gateway::decoder(config, source, &engine, &found, &recovered.state)?;
            if let (config::Decode::Module(named), Some(stats)) = (&source.decode, decoder.stats())
                && let Some(module) = found.get(&named.module)
            {
                decoders.push(Decoding {
                    source: index,
                    module: Arc::clone(module),
                    stats,
                });
            }
            let stage = SourceStage {
                decoder,
                duplicates: gateway::duplicates(
                    source,
                    recovered.identities.get(index).map_or(&[], Vec::as_slice),
                )?,
                pipelines: group.readers_of(config, index),
                receive_window: gateway::receive_window(source),
            };
            if !stage.pipelines.is_empty() {
                let worker = workers.len();
                source_owners.insert(source.name.clone(), Owner { index, worker });
            }
            stages.insert(index, stage);
            sources.insert(index, handle);
        }
        let mut lanes = Vec::new();
        let mut begun = Vec::new();
        let (orders, ordered) = mpsc::channel(rollouts::ORDERS);
        for &index in &group.pipelines {
            let owner = Owner {
                index: lanes.len(),
                worker: workers.len(),
            };
            pipeline_owners.insert(config.pipelines[index].name.clone(), owner);
            let (lane, changes) = maker.lane(index, &found, &recovered)?;
            begun.extend(changes);
            pipelines.insert(index, lane.shown());
            places.push(Place {
                pipeline: index,
                worker: workers.len(),
                lane: lanes.len(),
                orders: orders.clone(),
                shown: lane.shown(),
            });
            lanes.push(lane);
        }
        let working = Arc::new(Progress::default());
        progress.push(Arc::clone(&working));
        let (parts, replayed) = mpsc::channel::<Vec<Replay>>(replay::PARTS);
        replays.push(parts);
        let worker = Worker {
            intake: received,
            outcomes: outcomes.clone(),
            sources: stages,
            pipelines: lanes,
            begun,
            orders: ordered,
            replays: replayed,
            runtime: runtime.clone(),
            careful: careful.clone(),
            progress: working,
            audit: audit.clone(),
        };
        let name = format!("worker {}", workers.len());
        workers.push(spawn_thread(name, &ended_sender, move || {
            worker.run();
            Ok(())
        })?);
    }
    let sources: Vec<SourceHandle> = sources.into_values().collect();
    #[cfg(feature = "test-faults")]
    crate::faults::install(&sources, &inbox);

    let source_tls: Vec<Option<Arc<Tls>>> = source_tls.into_values().collect();
    let rollouts = Arc::new(Rollouts {
        engine,
        kept,
        loaded,
        audit: audit.clone(),
        config: Mutex::new(Arc::clone(config)),
        brought: Mutex::new(brought),
        decoders: decoding,
        places,
        turn: Mutex::default(),
        tryouts: Arc::new(Semaphore::new(1)),
    });
    rollouts.tidy();
    let anew = Arc::new(Notify::new());
    // Modules over the air: a thread of its own, which looks, writes and syncs.
    let (deploy, desk) = {
        let inbox = inbox.clone();
        crate::deploy::open(config, &rollouts, inbox, &anew, stopped.clone(), audit)?.unzip()
    };
    let watched: Vec<Arc<Tls>> = source_tls
        .iter()
        .chain(uplink_tls.iter().flatten())
        .flatten()
        .chain(deploy.as_ref().and_then(|deploy| deploy.tls()))
        .cloned()
        .collect();
    if !watched.is_empty() {
        tasks.spawn_on(watch_files(watched, stopped.clone()), &runtime);
    }
    let desk = desk.map(|desk| {
        let runtime = runtime.clone();
        spawn_thread(DEPLOY.to_owned(), &ended_sender, move || {
            desk.run(&runtime);
            Ok(())
        })
    });
    let desk = desk.transpose()?;
    // Orders about quarantine: from the control socket to the writer, and their rows to the workers again.
    let (tried, commits) = watch::channel(Tried::default());
    let (stop_control, stopping) = watch::channel(false);
    let operator = Operator {
        reader: Arc::new(Mutex::new(store.reader()?)),
        sources: source_owners.clone(),
        pipelines: pipeline_owners.clone(),
        inbox: inbox.clone(),
        rollouts: Arc::clone(&rollouts),
        deploy: deploy.clone(),
        audit: audit.clone(),
    };
    let replayer = Replayer {
        reader: store.reader()?,
        sources: source_owners,
        pipelines: pipeline_owners,
        workers: replays,
        inbox: inbox.clone(),
        tried: commits,
        stop: stopping.clone(),
        careful: !recovered.clean_exit,
        runtime: runtime.clone(),
    };
    spawn_thread(REPLAY.to_owned(), &ended_sender, move || {
        replayer.run();
        Ok(())
    })?;

    // The writer: outcomes and answers in; acknowledgements and sealed messages out, after the commit.
    let store = store.into_writer();
    let recounter = store.recounter();
    let observed = Arc::new(Mutex::new(Observed::new(&recovered)));
    let heartbeat = Arc::new(AtomicU64::new(0));
    let renewed = Arc::new(Notify::new());
    let writer = WriterThread {
        writer: store,
        outcomes: made,
        inbox: writer_inbox,
        runtime: runtime.clone(),
        heartbeat: Arc::clone(&heartbeat),
        looked: Instant::now(),
        committed: {
            let (sources, uplinks, observed) =
                (sources.clone(), uplinks.clone(), Arc::clone(&observed));
            let rooms = rooms.clone();
            let renewed = Arc::clone(&renewed);
            move |committed: Committed| {
                for (source, acks) in &committed.acks {
                    sources[*source].acknowledge(acks);
                }
                for (uplink, seqs) in &committed.settled {
                    uplinks[*uplink].deleted(seqs.iter().copied());
                }
                for &uplink in &committed.sealed {
                    let outbox = committed.stats.outbox.get(uplink);
                    uplinks[uplink].wake(outbox.map_or(0, |outbox| outbox.last_seq));
                }
                if committed.rows_tried + committed.orders > 0 {
                    tried.send_modify(|tried| {
                        tried.rows += committed.rows_tried;
                        tried.orders += committed.orders;
                    });
                }
                for &(uplink, ack) in &committed.commands {
                    if let Some(token) = ack {
                        uplinks[uplink].acknowledge(token);
                    }
                    rooms[uplink].add_permits(1);
                }
                if committed.renewed {
                    renewed.notify_one();
                }
                observed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .commit(committed);
            }
        },
        changed: {
            let observed = Arc::clone(&observed);
            move |stats| {
                observed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .changed(stats)
            }
        },
    };
    spawn_thread(WRITER.to_owned(), &ended_sender, move || Ok(writer.run()?))?;

    // The recount: reads beside the writer, and tells it what does not match.
    let recounted = Arc::new(Mutex::default());
    let recount = recount::run(
        recounter,
        inbox.clone(),
        Arc::clone(&recounted),
        stopped.clone(),
    );
    tasks.spawn_on(
        async move { ("recount".to_owned(), recount.await) },
        &runtime,
    );

    // The status server: read-only views of all of it.
    let observer = Arc::new(Observer {
        decoders,
        config: Arc::clone(config),
        recent,
        observed,
        sources: sources.clone(),
        uplinks: uplinks.clone(),
        source_tls,
        uplink_tls,
        pipelines: pipelines.into_values().collect(),
        rollouts: Arc::clone(&rollouts),
        deploy: deploy.clone(),
        audit: audit.clone(),
        heartbeat,
        workers: progress,
        sampled: Mutex::default(),
        recounted,
        stopping: Notify::new(),
        started: Instant::now(),
        started_at: clock::wall() / 1_000_000,
    });

    // Commands: from the uplinks into the writer's inbox, one desk an uplink that takes any.
    for (index, received) in desks {
        let uplink = &config.uplinks[index];
        let desk = commands::Desk {
            uplink: uplink.name.clone(),
            allowed: uplink.commands.iter().copied().collect(),
            commands: received,
            inbox: inbox.clone(),
            room: Arc::clone(&rooms[index]),
            observer: Arc::clone(&observer),
            rollouts: Arc::clone(&rollouts),
            deploy: deploy.clone(),
            audit: audit.clone(),
        };
        let name = format!("{COMMANDS}{}", uplink.name);
        tasks.spawn_on(
            async move {
                desk.run().await;
                (name, Ok(()))
            },
            &runtime,
        );
    }

    let router = tidegate_status::router(observer.clone());
    let listener =
        tokio::net::TcpListener::from_std(listener).context("the status server's listener")?;
    let refusals = audit::refusals(audit);
    let served = serve_status(listener, router, Arc::clone(&refusals), stopped);
    tasks.spawn_on(served, &runtime);
    // The control socket: the same views, and actions.
    let router = tidegate_status::control_router(observer.clone(), Arc::new(operator));
    tasks.spawn_on(serve_control(control, router, refusals, stopping), &runtime);
    let sampled = Arc::clone(&observer);
    tasks.spawn_on(
        async move {
            sampled.sample().await;
            ("sampler".to_owned(), Ok(()))
        },
        &runtime,
    );

    Ok(Gateway {
        sources,
        uplinks,
        workers,
        inbox,
        tasks,
        stop_status,
        stop_control,
        socket,
        observer,
        ended,
        renewed,
        anew,
        rollouts,
        desk,
    })
}

impl Gateway {
    /// What page and metrics show.
    pub(crate) fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// What changes generations of chains while the gateway runs.
    pub(crate) fn rollouts(&self) -> Arc<Rollouts> {
        Arc::clone(&self.rollouts)
    }

    /// Tells when the store has begun a new database.
    pub(crate) fn renewed(&self) -> Arc<Notify> {
        Arc::clone(&self.renewed)
    }

    /// Tells when what came over the air needs the gateway wired anew.
    pub(crate) fn anew(&self) -> Arc<Notify> {
        Arc::clone(&self.anew)
    }

    /// Waits until a stage ends by itself, and says which. A gateway is whole or it ends: a restart loses nothing.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        loop {
            let (stage, result) = tokio::select! {
                Some(ended) = self.ended.recv() => (ended.stage, ended.result),
                Some(joined) = self.tasks.join_next() => match joined {
                    Ok((stage, Ok(())))
                        if stage.starts_with("events of ") || stage.starts_with(COMMANDS) =>
                    {
                        continue;
                    }
                    Ok(ended) => ended,
                    Err(error) => ("a task".to_owned(), Err(error.into())),
                },
            };
            return match result {
                Ok(()) => anyhow::anyhow!("{stage} ended by itself"),
                Err(error) => error.context(format!("{stage} ended")),
            };
        }
    }

    /// Drains: nothing more is taken in, what was taken is committed and acknowledged, then every connection is
    /// closed. Windows stay open.
    ///
    /// # Errors
    /// Something did not end within the deadline or could not be committed. What was not acknowledged comes again.
    pub(crate) async fn stop(mut self, deadline: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + deadline;
        // The socket goes while the store is still locked: it cannot be another process's.
        self.stop_control.send_replace(true);
        drop(self.socket);
        for source in &self.sources {
            source.stop_intake();
        }
        // Workers end when their sources' queues are empty and nobody can fill them.
        let workers = std::mem::take(&mut self.workers);
        let drained = tokio::task::spawn_blocking(move || {
            workers.into_iter().all(|worker| worker.join().is_ok())
        });
        let drained = tokio::time::timeout_at(until.into(), drained).await;
        for uplink in &self.uplinks {
            uplink.stop();
        }
        let closed = tokio::time::timeout_at(until.into(), async {
            self.inbox
                .send(ToWriter::Close)
                .await
                .context("the writer had ended before")?;
            loop {
                let ended = self
                    .ended
                    .recv()
                    .await
                    .context("the writer ended without a word")?;
                if ended.stage == WRITER {
                    return ended
                        .result
                        .context("the last messages could not be committed and will come again");
                }
            }
        })
        .await;
        for source in &self.sources {
            source.finish();
        }
        self.stop_status.send_replace(true);
        self.observer.stop();
        drop(self.inbox);
        let desk = self.desk.take();
        let finished = tokio::time::timeout_at(until.into(), async {
            // Its files are one gateway's at a time.
            if let Some(desk) = desk {
                let ended = tokio::task::spawn_blocking(move || desk.join().is_ok());
                if !ended.await.unwrap_or(false) {
                    tracing::warn!("the look at the repository of modules ended badly");
                }
            }
            while let Some(joined) = self.tasks.join_next().await {
                match joined {
                    Ok((stage, Err(error))) => {
                        tracing::warn!("{stage} ended with an error: {error:#}")
                    }
                    Ok((_, Ok(()))) => {}
                    Err(error) => tracing::warn!(%error, "a task ended badly"),
                }
            }
        })
        .await;
        closed.context("the writer did not end in time")??;
        anyhow::ensure!(
            drained.context("the workers did not end in time")??,
            "a worker ended badly"
        );
        finished.context("a connection did not end in time")
    }
}

/// Places for commands that are not committed yet.
fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(commands::AT_ONCE))
}

/// The state holds secrets and what the plant measured: for our own user alone.
pub(crate) fn make_state_dir(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "the state directory {} cannot be made; check `gateway.state-dir`",
                dir.display()
            )
        })
}

pub(crate) async fn serve_status(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    refusals: Refusals,
    mut stopped: watch::Receiver<bool>,
) -> (String, anyhow::Result<()>) {
    let served = tidegate_status::serve(listener, router, refusals, told(&mut stopped)).await;
    (
        "status server".to_owned(),
        served.context("the status server"),
    )
}

pub(crate) async fn serve_control(
    listener: tokio::net::UnixListener,
    router: axum::Router,
    refusals: Refusals,
    mut stopped: watch::Receiver<bool>,
) -> (String, anyhow::Result<()>) {
    tidegate_status::serve_control(listener, router, refusals, told(&mut stopped)).await;
    ("control socket".to_owned(), Ok(()))
}

/// Waits until a stage is told to stop. That nobody is left to tell it means that the gateway is gone, which is a reason
/// to stop as well.
async fn told(stopped: &mut watch::Receiver<bool>) {
    stopped
        .wait_for(|stop| *stop)
        .await
        .map(drop)
        .unwrap_or_default();
}

/// Writes what happened to a source into ledger, gaps and log, until the source ends.
async fn record_events(
    source: String,
    mut happened: mpsc::Receiver<SourceEvent>,
    inbox: mpsc::Sender<ToWriter>,
) -> (String, anyhow::Result<()>) {
    while let Some(event) = happened.recv().await {
        for change in gateway::record(&source, event) {
            if inbox.send(change).await.is_err() {
                tracing::warn!(source, "the writer had ended before this could be recorded");
            }
        }
    }
    (format!("events of {source}"), Ok(()))
}

/// Looks for renewed TLS files until the gateway stops.
async fn watch_files(
    watched: Vec<Arc<Tls>>,
    mut stopped: watch::Receiver<bool>,
) -> (String, anyhow::Result<()>) {
    let stage = "TLS files".to_owned();
    let mut ticks = tokio::time::interval(TLS_FILES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // An error means that the gateway is gone, which is a reason to stop as well.
            _ = stopped.wait_for(|stop| *stop) => return (stage, Ok(())),
        }
        let look = watched.clone();
        let looked = tokio::task::spawn_blocking(move || look.iter().for_each(|tls| tls.refresh()));
        if let Err(error) = looked.await {
            return (stage, Err(error.into()));
        }
    }
}

fn spawn_thread(
    stage: String,
    ended: &mpsc::Sender<Ended>,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let ended = ended.clone();
    std::thread::Builder::new()
        .name(stage.clone())
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
                .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked; see the log")));
            // One place for every thread: this cannot be full, and a closed channel means the end of the process.
            if ended.try_send(Ended { stage, result }).is_err() {
                tracing::debug!("nobody waits for the end of a thread any more");
            }
        })
        .context("cannot start a thread")
}
