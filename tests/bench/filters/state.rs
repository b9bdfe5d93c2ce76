//! A filter with state by series over 50,000 of them, and what its changes cost on disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::outcome::{MessageCounts, PipelineOutcome, StateChange, StateDelta};
use tidegate_domain::{Arrival, Batch, BatchOutcome, Quality, Value};
use tidegate_pipeline::Pipeline;
use tidegate_store::{Full, Measures, PipelineConfig, Store, StoreConfig, Writer};

use crate::slot::slot;
use crate::{ROWS, component, told};

const SERIES: usize = 50_000;
/// Bytes of a page of the database.
const PAGE: f64 = 4096.0;
const ROUNDS: usize = 5;

pub(crate) fn tell() {
    // Every reading differs from the last one of its series: all go on, and every record changes.
    let (mut pipeline, _, _) = slot(&component("deadband"), json!({ "width": 0 }));
    let mut value = 0.0;
    let mut round = |pipeline: &mut Pipeline| {
        value += 1.0;
        let batches = batches(value);
        let begin = Instant::now();
        let outcomes: Vec<PipelineOutcome> = batches
            .iter()
            .map(|batch| pipeline.run(batch, Arrival::default(), Instant::now()))
            .collect();
        (begin.elapsed(), outcomes)
    };
    let (_, first) = round(&mut pipeline);
    let mut times = Vec::new();
    let mut last = Vec::new();
    for _ in 0..ROUNDS {
        let (time, outcomes) = round(&mut pipeline);
        times.push(time);
        last = outcomes;
    }
    times.sort();
    let reading = times[ROUNDS / 2].as_secs_f64() * 1e9 / SERIES as f64;
    told(
        "deadband, a reading over 50,000 series, every record changed",
        reading,
        Some(20.0),
        "ns",
    );
    written(&first, &last);
}

/// One reading of every series, in full batches.
fn batches(value: f64) -> Vec<Batch> {
    let series: Vec<usize> = (0..SERIES).collect();
    series
        .chunks(ROWS)
        .map(|chunk| {
            let mut builder = BatchBuilder::new();
            for number in chunk {
                let name = builder.series(&format!("plant/line/{number}").as_str().into());
                builder.push(name, 0, Value::Float(value), Quality::Good);
            }
            builder.finish()
        })
        .collect()
}

/// Commits the same changes with and without the others' part in it: what is more is the state's.
fn written(first: &[PipelineOutcome], last: &[PipelineOutcome]) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Bench::open(dir.path());
    // The series get their numbers, which later changes refer to.
    for outcome in first {
        store.commit(outcome.state.clone());
    }
    for changed in [1, 64, ROWS] {
        let mut ratios: Vec<f64> = last
            .iter()
            .filter_map(|outcome| {
                let [delta] = outcome.state.as_slice() else {
                    panic!("{} changes of state", outcome.state.len());
                };
                let (delta, bytes) = part(delta, changed)?;
                let without = store.commit(Vec::new());
                let with = store.commit(vec![delta]);
                Some((with.saturating_sub(without) as f64 - PAGE).max(0.0) / bytes as f64)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let what = format!("written a byte changed above a page, {changed} records at once");
        told(&what, ratios[ratios.len() / 2], Some(2.0), "B");
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        told(
            "  the same on average, snapshots and checkpoints included",
            mean,
            None,
            "B",
        );
    }
}

/// The first records of a change, and their bytes; nothing where it has fewer.
fn part(delta: &StateDelta, records: usize) -> Option<(StateDelta, usize)> {
    let StateChange::Series {
        width,
        names,
        records: bytes,
    } = &delta.change
    else {
        panic!("{delta:?}");
    };
    let bytes = bytes.get(..records * width)?.to_vec();
    let length = bytes.len();
    let change = StateChange::Series {
        width: *width,
        names: names[..records].to_vec(),
        records: bytes,
    };
    let slot = delta.slot.clone();
    Some((StateDelta { slot, change }, length))
}

/// A store with one pipeline, and a clock that only moves here.
struct Bench {
    writer: Writer,
    now: Instant,
    arrival: Arrival,
}

impl Bench {
    fn open(dir: &Path) -> Self {
        let config = StoreConfig {
            path: dir.join("store.db"),
            boot: "boot-1".to_owned(),
            max_bytes: 256 * 1024 * 1024,
            full: Full::Evict,
            max_age: Duration::from_hours(24),
            linger: Duration::from_millis(100),
            lateness: Duration::from_secs(2),
            sources: vec!["plant".to_owned()],
            identity_windows: vec![0],
            pipelines: vec![PipelineConfig {
                name: "bench".to_owned(),
                window: None,
                keep_input: None,
                to: Vec::new(),
            }],
            uplinks: Vec::new(),
            measures: Measures::new(Vec::new()).unwrap(),
            alarm_limits: Default::default(),
            silence: Default::default(),
        };
        let arrival = Arrival {
            monotonic: 1_000_000_000,
            wall: 1_766_000_040_000_000_000,
            synced: true,
        };
        Self {
            writer: Store::open(config, arrival).unwrap().into_writer(),
            now: Instant::now(),
            arrival,
        }
    }

    /// Bytes that a commit of a message with these changes writes, whatever file they go to.
    fn commit(&mut self, state: Vec<StateDelta>) -> u64 {
        let before = characters_written();
        let outcome = BatchOutcome {
            arrival: self.arrival,
            bytes: 20,
            counts: MessageCounts {
                received: 1,
                decoded: 1,
                ..MessageCounts::default()
            },
            pipelines: vec![PipelineOutcome {
                state,
                ..PipelineOutcome::default()
            }],
            ..BatchOutcome::default()
        };
        self.writer.apply(outcome.into(), self.now);
        self.now += Duration::from_secs(1);
        self.arrival.monotonic += 1_000_000_000;
        self.arrival.wall += 1_000_000_000;
        let committed = self.writer.commit_if_due(self.now, self.arrival).unwrap();
        assert!(committed.is_some());
        characters_written() - before
    }
}

/// What this process wrote so far, by all system calls.
fn characters_written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find(|line| line.starts_with("wchar: "));
    line.unwrap()["wchar: ".len()..].parse().unwrap()
}
