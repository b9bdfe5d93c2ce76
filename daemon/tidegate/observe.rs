//! What the gateway shows of itself: what every stage counts, sampled here, drawn as one picture in `draw` and `chains`.

mod chains;
mod draw;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_domain::Ledger;
use tidegate_ingest::SourceHandle;
use tidegate_pipeline::{LoadedModule, PipelineStats, Shown};
use tidegate_status::view::{self, View};
use tidegate_store::{ClosedSummary, Committed, Recovered, StoreStats};
use tidegate_tls::Tls;
use tidegate_uplink::UplinkHandle;
use tokio::sync::Notify;

pub(crate) use self::draw::{
    alarm_row, gateway_status, recent_errors, source_url, stale_row, store_state, tls_status, url,
};
use self::draw::{source_state, uplink_state};
use crate::audit::Audit;
use crate::config::Config;
use crate::log::RecentErrors;
use crate::recount::Recounted;
use crate::rollouts::Rollouts;
use crate::wear::{self, Wear};
use crate::{clock, deploy, gateway};

/// How often the rates are sampled, and over how many samples they are taken.
const SAMPLE: Duration = Duration::from_secs(1);
const SAMPLES: usize = 10;
/// Commits over which the store's percentiles are taken.
const COMMITS: usize = 256;
/// Closed windows kept for the page.
const SUMMARIES: usize = 600;

/// What the writer said last.
pub(crate) struct Observed {
    ledger: Arc<Ledger>,
    stats: StoreStats,
    /// How long the latest commits took, and their rows.
    commits: VecDeque<(Duration, u64)>,
    summaries: VecDeque<Arc<ClosedSummary>>,
}

impl Observed {
    /// Before the first commit: what the store recovered.
    pub(crate) fn new(recovered: &Recovered) -> Self {
        Self {
            ledger: Arc::clone(&recovered.ledger),
            stats: recovered.stats.clone(),
            commits: VecDeque::with_capacity(COMMITS),
            summaries: VecDeque::new(),
        }
    }

    /// A commit succeeded.
    pub(crate) fn commit(&mut self, committed: Committed) {
        let rows = committed.stats.rows.saturating_sub(self.stats.rows);
        if self.commits.len() == COMMITS {
            self.commits.pop_front();
        }
        self.commits
            .push_back((committed.stats.commit_latency, rows));
        for summary in committed.summaries {
            if self.summaries.len() == SUMMARIES {
                self.summaries.pop_front();
            }
            self.summaries.push_back(summary);
        }
        self.ledger = committed.ledger;
        self.stats = committed.stats;
    }

    /// A commit failed, or the store's condition changed.
    pub(crate) fn changed(&mut self, stats: StoreStats) {
        self.stats = stats;
    }
}

/// How far one worker is, for the watchdog.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// A batch is being decoded or filtered.
    pub(crate) busy: AtomicBool,
    /// Batches taken so far.
    pub(crate) batches: AtomicU64,
}

/// A module that decodes the messages of a source.
pub(crate) struct Decoding {
    /// Index of the source in the configuration.
    pub(crate) source: usize,
    pub(crate) module: Arc<LoadedModule>,
    /// Of one filter, the decoder.
    pub(crate) stats: Arc<PipelineStats>,
}

/// The parts of a running gateway that can be looked at.
pub(crate) struct Observer {
    pub(crate) config: Arc<Config>,
    pub(crate) recent: RecentErrors,
    pub(crate) observed: Arc<Mutex<Observed>>,
    pub(crate) sources: Vec<SourceHandle>,
    pub(crate) uplinks: Vec<UplinkHandle>,
    /// In the configuration's order; `None` where a connection is in clear.
    pub(crate) source_tls: Vec<Option<Arc<Tls>>>,
    /// By uplink and its brokers.
    pub(crate) uplink_tls: Vec<Vec<Option<Arc<Tls>>>>,
    /// In the configuration's order.
    pub(crate) pipelines: Vec<Shown>,
    pub(crate) rollouts: Arc<Rollouts>,
    /// `None` where `[deploy]` is not configured.
    pub(crate) deploy: Option<deploy::Handle>,
    pub(crate) audit: Audit,
    /// The modules that decode, which have no generations.
    pub(crate) decoders: Vec<Decoding>,
    pub(crate) heartbeat: Arc<AtomicU64>,
    pub(crate) workers: Vec<Arc<Progress>>,
    pub(crate) sampled: Mutex<Sampled>,
    pub(crate) recounted: Arc<Mutex<Recounted>>,
    pub(crate) stopping: Notify,
    pub(crate) started: Instant,
    /// Milliseconds since the epoch.
    pub(crate) started_at: i64,
}

/// Counters at one moment.
struct Sample {
    at: Instant,
    /// Messages by source.
    received: Vec<u64>,
    /// Readings in and out by pipeline.
    selected: Vec<u64>,
    stored: Vec<u64>,
    /// Items by uplink.
    delivered: Vec<u64>,
}

/// What only several looks at the counters can tell.
#[derive(Default)]
pub(crate) struct Sampled {
    samples: VecDeque<Sample>,
    /// Per source: the state when last looked at, since when, and when a message came last.
    sources: Vec<Seen<view::SourceState>>,
    uplinks: Vec<Seen<view::UplinkState>>,
    /// The writer's heartbeat, and when it was seen to beat last.
    beat: Option<(u64, Instant)>,
    /// Heartbeat of the writer and batches by worker when the watchdog looked last.
    watched: Option<(u64, Vec<u64>)>,
    wear: Wear,
}

#[derive(Clone, Copy)]
struct Seen<S> {
    state: S,
    /// Milliseconds since the epoch.
    since: i64,
    count: u64,
    counted: Option<Instant>,
}

impl Observer {
    /// Samples the counters once a second until [`Observer::stop`].
    pub(crate) async fn sample(&self) {
        let mut ticks = tokio::time::interval(SAMPLE);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.take_sample(),
                () = self.stopping.notified() => return,
            }
        }
    }

    /// Ends [`Observer::sample`].
    pub(crate) fn stop(&self) {
        self.stopping.notify_one();
    }

    /// Whether the data path moved since the last call.
    ///
    /// # Errors
    /// What stands still.
    pub(crate) fn progress(&self) -> Result<(), String> {
        let beat = self.heartbeat.load(Ordering::Relaxed);
        let batches: Vec<u64> = self
            .workers
            .iter()
            .map(|worker| worker.batches.load(Ordering::Relaxed))
            .collect();
        let mut sampled = lock(&self.sampled);
        let before = sampled.watched.replace((beat, batches.clone()));
        let Some((beat_before, batches_before)) = before else {
            return Ok(());
        };
        if beat == beat_before {
            return Err("the writer makes no progress".to_owned());
        }
        let stuck = self
            .workers
            .iter()
            .zip(batches.iter().zip(&batches_before))
            .position(|(worker, (now, before))| {
                worker.busy.load(Ordering::Relaxed) && now == before
            });
        match stuck {
            Some(worker) => Err(format!("worker {worker} makes no progress")),
            None => Ok(()),
        }
    }

    fn take_sample(&self) {
        let ledger = self.ledger();
        // Before `sampled` is locked: whoever needs both takes this one first.
        let (store, set) = {
            let observed = lock(&self.observed);
            (observed.stats.state, observed.stats.clock.set)
        };
        let modules = self.rollouts.modules();
        let active = modules.into_iter();
        let active = active.filter(|(_, state, _)| *state == view::ModuleState::Active);
        let active: Vec<Arc<LoadedModule>> = active.map(|(module, ..)| module).collect();
        let audit = self.audit.status();
        let says = tidegate_uplink::Status {
            audit: (audit.last > 0).then_some((audit.last, audit.hash)),
            ..gateway::status(store, clock::now().synced || set, &active)
        };
        let config = &self.config;
        let source = |name: &str| ledger.sources.get(name).map_or(0, |counts| counts.received);
        let pipeline = |name: &str| {
            ledger
                .pipelines
                .get(name)
                .map_or((0, 0), |counts| (counts.selected, counts.stored))
        };
        let uplink = |name: &str| {
            ledger
                .uplinks
                .get(name)
                .map_or(0, |counts| counts.delivered)
        };
        let sample = Sample {
            at: Instant::now(),
            received: config.sources.iter().map(|s| source(&s.name)).collect(),
            selected: config
                .pipelines
                .iter()
                .map(|p| pipeline(&p.name).0)
                .collect(),
            stored: config
                .pipelines
                .iter()
                .map(|p| pipeline(&p.name).1)
                .collect(),
            delivered: config.uplinks.iter().map(|u| uplink(&u.name)).collect(),
        };
        let mut sampled = lock(&self.sampled);
        if sampled.samples.len() > SAMPLES {
            sampled.samples.pop_front();
        }
        sampled.samples.push_back(sample);
        if let Some(written) = wear::written() {
            sampled.wear.look(Instant::now(), written);
        }
        let beat = self.heartbeat.load(Ordering::Relaxed);
        if sampled.beat.is_none_or(|(before, _)| before != beat) {
            sampled.beat = Some((beat, Instant::now()));
        }
        let now = clock::wall() / 1_000_000;
        for (index, handle) in self.sources.iter().enumerate() {
            let status = handle.status();
            look(
                &mut sampled.sources,
                index,
                source_state(&status.state),
                status.received,
                now,
            );
        }
        for (index, handle) in self.uplinks.iter().enumerate() {
            handle.set_status(says.clone());
            let status = handle.status();
            look(
                &mut sampled.uplinks,
                index,
                uplink_state(status.state),
                status.delivered,
                now,
            );
        }
    }
}

impl Sampled {
    /// Counts a second between the oldest and the newest sample.
    fn rate(&self, of: impl Fn(&Sample) -> Option<&u64>) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let (Some(before), Some(after)) = (of(first), of(last)) else {
            return 0.0;
        };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let count = after.saturating_sub(*before) as f64;
        if seconds > 0.0 { count / seconds } else { 0.0 }
    }
}

/// Notes a state's change and a count's growth.
fn look<S: Copy + PartialEq>(
    seen: &mut Vec<Seen<S>>,
    index: usize,
    state: S,
    count: u64,
    now: i64,
) {
    match seen.get_mut(index) {
        Some(seen) => {
            if seen.state != state {
                seen.state = state;
                seen.since = now;
            }
            if seen.count != count {
                seen.count = count;
                seen.counted = Some(Instant::now());
            }
        }
        None => seen.push(Seen {
            state,
            since: now,
            count,
            counted: (count > 0).then(Instant::now),
        }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
