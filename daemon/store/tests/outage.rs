//! A three-week outage, compressed: readings and alarms into a small store that nobody empties, then everything out.
//! `make soak` runs the same with 20 million readings (`benches/outage.rs`).
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a panic is a test's report, and its figures are small"
)]

#[path = "../../../tests/support/sizes.rs"]
mod sizes;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_domain::delivery::{Settled, Verdict};
use tidegate_domain::item::Priority;
use tidegate_domain::outcome::{AlarmChange, AlarmState, MessageCounts, PipelineOutcome, Severity};
use tidegate_domain::{AckToken, Arrival, Batch, BatchOutcome, Quality};
use tidegate_store::{
    Committed, Full, Measures, PipelineConfig, Reader, Route, Send, Store, StoreConfig,
    UplinkConfig, Writer, verify,
};

use sizes::Sizes;

/// Readings of one commit, in batches of the worker's size.
const COMMIT: u64 = 8 * BATCH;
const BATCH: u64 = 1024;
const SERIES: u64 = 64;
/// How long a commit's readings take to arrive: 20 million in three weeks.
const SPAN: Duration = Duration::from_millis(21 * 86_400_000 * COMMIT / 20_000_000);
/// Nanoseconds since the epoch when it begins: on a minute, in December 2025.
const BEGIN: i64 = 1_766_000_040_000_000_000;

#[test]
fn no_alarm_is_lost_the_bound_is_kept_and_gaps_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let figures = run(dir.path(), 400_000, 100, 6 * 1024 * 1024);
    println!(
        "{} readings: {} items evicted and told in {} gaps; {:.0} readings/s in the first tenth, {:.0} in the last",
        figures.readings, figures.evicted, figures.gaps, figures.first_rate, figures.last_rate
    );
}

/// What it came to.
pub(crate) struct Figures {
    pub(crate) readings: u64,
    /// Readings a second into the store over the first and the last tenth, evictions included.
    pub(crate) first_rate: f64,
    pub(crate) last_rate: f64,
    /// The largest sample of database and write-ahead log, bytes.
    pub(crate) peak: u64,
    pub(crate) delivered: u64,
    pub(crate) evicted: u64,
    pub(crate) gaps: usize,
}

/// Runs it in a directory, and checks everything that does not depend on the machine's speed.
pub(crate) fn run(dir: &Path, readings: u64, alarms: u64, max_bytes: u64) -> Figures {
    let path = dir.join("store.db");
    let commits = readings / COMMIT;
    let mut plant = Plant::new(&path, max_bytes);
    let sizes = Sizes::watch(&path);
    let mut times = Vec::new();
    let mut raised = 0;
    for commit in 0..commits {
        let outcomes = plant.outcomes(SPAN);
        let mut outcomes: Vec<BatchOutcome> = outcomes.collect();
        while raised < alarms * (commit + 1) / commits {
            outcomes[0].pipelines[0].alarms.push(plant.alarm(raised));
            raised += 1;
        }
        let begin = Instant::now();
        plant.take(outcomes);
        times.push(begin.elapsed());
    }
    let tenth = times.len() / 10;
    let rate = |times: &[Duration]| {
        let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
        (times.len() as u64 * COMMIT) as f64 / seconds
    };
    let (first_rate, last_rate) = (rate(&times[..tenth]), rate(&times[times.len() - tenth..]));

    // Silence closes the rest of the windows; then the line is back.
    for _ in 0..4 {
        plant.pass(Duration::from_secs(3600));
        plant
            .writer
            .commit_if_due(plant.now, arrival(plant.wall))
            .unwrap();
    }
    let told = plant.drain();
    let peak = sizes.end();
    assert!(
        peak <= max_bytes,
        "{peak} bytes, and the bound is {max_bytes}"
    );
    let report = verify(&path).unwrap();
    assert_eq!(report.differences, []);
    let uplink = &report.ledger.uplinks["cloud"];
    assert!(
        uplink.evicted > readings / 10,
        "the bound was hardly reached: {uplink:?}"
    );
    let wanted: BTreeSet<String> = (0..alarms).map(alarm_series).collect();
    assert_eq!(told.alarms, wanted, "alarms were lost");
    assert_eq!(told.gap_items, uplink.evicted, "gaps do not add up");
    let holes: Vec<u64> = (1..=told.last_seq)
        .filter(|seq| !told.seqs.contains(seq))
        .filter(|seq| {
            !told
                .ranges
                .iter()
                .any(|(from, to)| (from..=to).contains(&seq))
        })
        .collect();
    assert!(
        holes.is_empty(),
        "{} messages are in no gap: {:?}",
        holes.len(),
        &holes[..holes.len().min(9)]
    );
    assert_eq!((uplink.waiting, uplink.rejected), (0, 0));
    assert_eq!(uplink.queued, uplink.delivered + uplink.evicted);
    assert_eq!(uplink.delivered, told.items);
    assert_eq!(report.ledger.pipelines["line"].stored, commits * COMMIT);
    Figures {
        readings: commits * COMMIT,
        first_rate,
        last_rate,
        peak,
        delivered: uplink.delivered,
        evicted: uplink.evicted,
        gaps: told.gaps,
    }
}

/// Readings a second into a store with room, in groups of the worker's size.
pub(crate) fn commit_rate(dir: &Path, commits: u32) -> f64 {
    let mut plant = Plant::new(&dir.join("store.db"), 1 << 32);
    let mut time = Duration::ZERO;
    for _ in 0..commits {
        let outcomes: Vec<BatchOutcome> = plant.outcomes(Duration::from_secs(60)).collect();
        let begin = Instant::now();
        plant.take(outcomes);
        time += begin.elapsed();
    }
    (u64::from(commits) * COMMIT) as f64 / time.as_secs_f64()
}

/// The store with a clock that runs as told.
struct Plant {
    writer: Writer,
    reader: Reader,
    now: Instant,
    wall: i64,
    names: Vec<Arc<str>>,
}

/// What the receiver hears in the end.
#[derive(Default)]
struct Told {
    items: u64,
    seqs: BTreeSet<u64>,
    last_seq: u64,
    alarms: BTreeSet<String>,
    gaps: usize,
    gap_items: u64,
    ranges: Vec<(u64, u64)>,
}

impl Plant {
    fn new(path: &Path, max_bytes: u64) -> Self {
        let route = |send, priority| Route {
            uplink: 0,
            send,
            priority,
        };
        let config = StoreConfig {
            path: path.to_owned(),
            boot: "boot".to_owned(),
            max_bytes,
            full: Full::Evict,
            max_age: Duration::from_secs(30 * 86_400),
            linger: Duration::from_millis(100),
            lateness: Duration::from_secs(2),
            sources: vec!["plant".to_owned()],
            identity_windows: Vec::new(),
            pipelines: vec![PipelineConfig {
                name: "line".to_owned(),
                window: Some(Duration::from_secs(60)),
                keep_input: None,
                to: vec![
                    route(Send::Summary, Priority::Normal),
                    route(Send::Readings, Priority::Low),
                ],
            }],
            uplinks: vec![UplinkConfig::new("cloud")],
            measures: Measures::new(Vec::new()).unwrap(),
            alarm_limits: Default::default(),
            silence: Default::default(),
        };
        let (now, wall) = (Instant::now(), BEGIN);
        let store = Store::open(config, arrival(wall)).unwrap();
        let reader = store.reader().unwrap();
        Self {
            writer: store.into_writer(),
            reader,
            now,
            wall,
            names: (0..SERIES)
                .map(|n| format!("plant/line{n}/temp").into())
                .collect(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += i64::try_from(time.as_nanos()).unwrap();
    }

    /// As the daemon's writer thread does: into the open group while there is room, then a commit.
    fn take(&mut self, outcomes: Vec<BatchOutcome>) {
        for outcome in outcomes {
            if self.writer.is_full() {
                let arrival = arrival(self.wall);
                self.writer.commit_if_due(self.now, arrival).unwrap();
            }
            self.writer.apply(outcome.into(), self.now);
        }
        self.commit();
    }

    fn commit(&mut self) -> Committed {
        self.pass(Duration::from_secs(1));
        let committed = self
            .writer
            .commit_if_due(self.now, arrival(self.wall))
            .unwrap();
        committed.expect("something was due")
    }

    /// One commit's batches over a span of time that begins now, and ends before the next.
    fn outcomes(&mut self, span: Duration) -> impl Iterator<Item = BatchOutcome> + use<> {
        let step = i64::try_from(span.as_nanos()).unwrap() / i64::try_from(COMMIT).unwrap();
        let begin = self.wall;
        self.pass(span.saturating_sub(Duration::from_secs(1)));
        let (names, arrival) = (self.names.clone(), arrival(self.wall));
        (0..COMMIT / BATCH).map(move |batch| {
            let mut stored = Batch {
                names: names.clone(),
                ..Batch::default()
            };
            for n in batch * BATCH..(batch + 1) * BATCH {
                let value = 20.0 + (n % 97) as f64 / 8.0;
                let time = begin + step * i64::try_from(n).unwrap();
                let series = u32::try_from(n % SERIES).unwrap();
                stored.push(
                    series,
                    time,
                    tidegate_domain::Value::Float(value),
                    Quality::Good,
                );
            }
            BatchOutcome {
                arrival,
                acks: vec![AckToken {
                    connection: 1,
                    id: batch,
                }],
                bytes: 20 * BATCH as usize,
                counts: MessageCounts {
                    received: BATCH,
                    decoded: BATCH,
                    ..MessageCounts::default()
                },
                pipelines: vec![PipelineOutcome {
                    selected: BATCH,
                    stored,
                    ..PipelineOutcome::default()
                }],
                ..BatchOutcome::default()
            }
        })
    }

    fn alarm(&self, n: u64) -> AlarmChange {
        AlarmChange {
            filter: "watch".to_owned(),
            series: alarm_series(n).into(),
            time: self.wall,
            state: AlarmState::Raised,
            severity: Severity::Critical,
            code: "hot".to_owned(),
            text: "bearing temperature above 90 °C".to_owned(),
            value: Some(93.5),
        }
    }

    /// Delivers everything in the order in which an uplink would.
    fn drain(&mut self) -> Told {
        let mut told = Told::default();
        loop {
            let messages = self.reader.next_messages(0, &[], 64, 1 << 20).unwrap();
            if messages.is_empty() {
                // Gaps that waited for others are queued by the commit that settled those.
                self.pass(Duration::from_secs(10));
                if self
                    .writer
                    .commit_if_due(self.now, arrival(self.wall))
                    .unwrap()
                    .is_none()
                {
                    return told;
                }
                continue;
            }
            for message in messages {
                let body = String::from_utf8(message.body.clone()).unwrap();
                let items: Vec<Value> = serde_json::from_str(&format!("[{body}]")).unwrap();
                assert!(told.seqs.insert(message.seq), "{} came twice", message.seq);
                told.last_seq = told.last_seq.max(message.seq);
                told.items += items.len() as u64;
                for item in &items {
                    match message.kind.as_str() {
                        "alarm" => {
                            told.alarms
                                .insert(item["series"].as_str().unwrap().to_owned());
                        }
                        "gap" => {
                            told.gaps += 1;
                            told.gap_items += item["count"].as_u64().unwrap();
                            let range = (item["seq_from"].as_u64(), item["seq_to"].as_u64());
                            told.ranges.extend(range.0.zip(range.1));
                        }
                        _ => {}
                    }
                }
                let settled = Settled {
                    uplink: 0,
                    seq: message.seq,
                    verdict: Verdict::Delivered,
                };
                self.writer.apply(settled.into(), self.now);
            }
            self.commit();
        }
    }
}

fn alarm_series(n: u64) -> String {
    format!("plant/press{n}/temp")
}

fn arrival(wall: i64) -> Arrival {
    Arrival {
        monotonic: wall - BEGIN + 1,
        wall,
        synced: true,
    }
}
