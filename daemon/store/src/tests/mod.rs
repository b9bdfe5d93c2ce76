//! The store as a whole, on files.

mod alarms;
mod bounds;
mod commands;
mod crash;
mod history;
mod identities;
mod kept;
mod ledger;
mod opening;
mod orders;
mod outbox;
mod rollouts;
mod salvage;
mod speed;
mod trouble;
mod unset;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_domain::delivery::{Request, SealedMessage, Settled, Share, Verdict, Window};
use tidegate_domain::item::Priority;
use tidegate_domain::outcome::{
    AlarmChange, AlarmState, Generation, MessageCounts, PipelineOutcome, Severity,
};
use tidegate_domain::{AckToken, Arrival, Batch, BatchOutcome, Quality, Value};

use crate::*;

pub(crate) const SECOND: i64 = 1_000_000_000;
/// Where every test's clock begins: a whole minute.
pub(crate) const START: i64 = 1_766_000_040 * SECOND;

/// A store in a directory of its own, with clocks that only the test moves.
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) config: StoreConfig,
    pub(crate) writer: Option<Writer>,
    pub(crate) reader: Option<Reader>,
    pub(crate) now: Instant,
    pub(crate) wall: i64,
}

/// One source, one pipeline with windows of a minute, one uplink that seals at once.
pub(crate) fn config() -> StoreConfig {
    StoreConfig {
        path: PathBuf::new(),
        boot: "boot-1".to_owned(),
        max_bytes: 64 * 1024 * 1024,
        full: Full::Evict,
        max_age: Duration::from_secs(30 * 86_400),
        linger: Duration::from_millis(100),
        lateness: Duration::from_secs(2),
        sources: vec!["plant".to_owned()],
        identity_windows: vec![0],
        pipelines: vec![PipelineConfig {
            name: "temperature".to_owned(),
            window: Some(Duration::from_secs(60)),
            keep_input: None,
            to: vec![Route {
                uplink: 0,
                send: Send::Summary,
                priority: Priority::Normal,
            }],
        }],
        uplinks: vec![UplinkConfig {
            linger: Duration::ZERO,
            ..UplinkConfig::new("cloud")
        }],
        measures: Measures::new(vec![("*/temp".to_owned(), "°C".to_owned())]).unwrap(),
        alarm_limits: Default::default(),
        silence: Default::default(),
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(mut config: StoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        config.path = dir.path().join("store.db");
        Self::beside(dir, config)
    }

    /// A store that lies elsewhere than in the bench's own directory.
    pub(crate) fn at(mut config: StoreConfig, path: PathBuf) -> Self {
        config.path = path;
        Self::beside(tempfile::tempdir().unwrap(), config)
    }

    fn beside(dir: TempDir, config: StoreConfig) -> Self {
        let mut bench = Self {
            dir,
            config,
            writer: None,
            reader: None,
            now: Instant::now(),
            wall: START,
        };
        bench.open();
        bench
    }

    pub(crate) fn arrival(&self) -> Arrival {
        Arrival {
            monotonic: self.wall - START + SECOND,
            wall: self.wall,
            synced: true,
        }
    }

    pub(crate) fn open(&mut self) -> Recovered {
        let arrival = self.arrival();
        self.open_at(arrival)
    }

    fn open_at(&mut self, arrival: Arrival) -> Recovered {
        let store = Store::open(self.config.clone(), arrival).unwrap();
        self.reader = Some(store.reader().unwrap());
        let recovered = store.recovered().clone();
        self.writer = Some(store.into_writer());
        recovered
    }

    /// The process dies: nothing is closed, memory is gone.
    pub(crate) fn crash(&mut self) -> Recovered {
        let arrival = self.arrival();
        self.crash_at(arrival)
    }

    /// The same, with other clocks at the next start.
    pub(crate) fn crash_at(&mut self, arrival: Arrival) -> Recovered {
        self.reader = None;
        // Closing the connection would write the log back; a copy of the files has not seen that.
        let copy = tempfile::tempdir().unwrap();
        for ending in ["", "-wal"] {
            let name = format!("store.db{ending}");
            let from = self.dir.path().join(&name);
            if from.exists() {
                std::fs::copy(from, copy.path().join(&name)).unwrap();
            }
        }
        self.writer = None;
        self.config.path = copy.path().join("store.db");
        self.dir = copy;
        self.open_at(arrival)
    }

    /// The process dies and is started again, on a store that lies elsewhere than in the bench's own directory.
    pub(crate) fn crash_beside(&mut self) -> Recovered {
        (self.reader, self.writer) = (None, None);
        self.open()
    }

    pub(crate) fn close(&mut self) -> Option<Committed> {
        self.reader = None;
        let (now, arrival) = (self.now, self.arrival());
        self.writer.take().unwrap().close(now, arrival).unwrap()
    }

    pub(crate) fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    pub(crate) fn reader(&self) -> &Reader {
        self.reader.as_ref().unwrap()
    }

    pub(crate) fn advance(&mut self, nanoseconds: i64) {
        self.now += Duration::from_nanos(nanoseconds.unsigned_abs());
        self.wall += nanoseconds;
    }

    pub(crate) fn apply(&mut self, input: impl Into<Input>) {
        let now = self.now;
        self.writer().apply(input.into(), now);
    }

    /// Commits what is due now.
    pub(crate) fn try_commit(&mut self) -> Result<Option<Committed>, CommitError> {
        let (now, arrival) = (self.now, self.arrival());
        self.writer().commit_if_due(now, arrival)
    }

    /// Lets linger pass and commits.
    pub(crate) fn commit(&mut self) -> Committed {
        self.advance(SECOND);
        self.try_commit().unwrap().expect("something was due")
    }

    /// Readings of one batch, `(series, second after START, value)`.
    pub(crate) fn outcome(&self, readings: &[(&str, i64, f64)]) -> BatchOutcome {
        let mut stored = Batch::default();
        for (series, second, value) in readings {
            let place = stored.names.iter().position(|name| **name == **series);
            let place = place.unwrap_or_else(|| {
                stored.names.push((*series).into());
                stored.names.len() - 1
            });
            let time = START + second * SECOND;
            let place = u32::try_from(place).unwrap();
            stored.push(place, time, Value::Float(*value), Quality::Good);
        }
        let count = readings.len() as u64;
        BatchOutcome {
            arrival: self.arrival(),
            acks: vec![AckToken {
                connection: 1,
                id: count,
            }],
            bytes: readings.len() * 20,
            counts: MessageCounts {
                received: 1,
                decoded: 1,
                ..MessageCounts::default()
            },
            pipelines: vec![PipelineOutcome {
                selected: count,
                generation: Some(generation()),
                stored,
                ..PipelineOutcome::default()
            }],
            ..BatchOutcome::default()
        }
    }

    /// All messages that wait, the most urgent first.
    pub(crate) fn messages(&self) -> Vec<SealedMessage> {
        self.reader()
            .next_messages(0, &[], usize::MAX, usize::MAX)
            .unwrap()
    }

    /// All items that wait in sealed messages, by sequence number.
    pub(crate) fn items(&self) -> Vec<(u64, serde_json::Value)> {
        let mut messages = self.messages();
        messages.sort_by_key(|message| message.seq);
        messages.iter().flat_map(items).collect()
    }

    pub(crate) fn settle(&mut self, seq: u64, verdict: Verdict) {
        self.apply(Settled {
            uplink: 0,
            seq,
            verdict,
        });
    }

    #[track_caller]
    pub(crate) fn check_balance(&self) -> Verification {
        let verification = verify(&self.config.path).unwrap();
        assert_eq!(verification.differences, []);
        assert_eq!(verification.recounted, verification.ledger);
        verification
    }
}

pub(crate) fn items(message: &SealedMessage) -> Vec<(u64, serde_json::Value)> {
    let body = std::str::from_utf8(&message.body).unwrap();
    let items: Vec<serde_json::Value> = serde_json::from_str(&format!("[{body}]")).unwrap();
    assert_eq!(items.len(), usize::try_from(message.items).unwrap());
    items.into_iter().map(|item| (message.seq, item)).collect()
}

pub(crate) fn generation() -> Arc<Generation> {
    Arc::new(Generation {
        id: "00112233aabbccdd".to_owned(),
        slots: Vec::new(),
    })
}

pub(crate) fn alarm(series: &str, state: AlarmState) -> AlarmChange {
    AlarmChange {
        filter: "anomaly".to_owned(),
        series: series.into(),
        time: START,
        state,
        severity: Severity::Warning,
        code: "spike".to_owned(),
        text: "too high".to_owned(),
        value: Some(99.0),
    }
}

/// Readings per series and window in summaries: `(series, from in seconds after START) -> count`.
pub(crate) fn counts(items: &[(u64, serde_json::Value)]) -> BTreeMap<(String, i64), u64> {
    let mut counts = BTreeMap::new();
    for (_, item) in items {
        if let (Some(count), Some(from)) = (item["count"].as_u64(), item["from"].as_i64()) {
            let series = item["series"].as_str().unwrap().to_owned();
            *counts
                .entry((series, from / 1000 - START / SECOND))
                .or_default() += count;
        }
    }
    counts
}
