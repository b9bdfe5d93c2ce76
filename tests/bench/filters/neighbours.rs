//! What a source's batches wait for while another source's slot misbehaves: a worker thread each, as in the gateway.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_domain::Arrival;
use tidegate_pipeline::{LoadedModule, Pipeline};

use crate::measure::{batch, run};
use crate::slot::{module, pipeline, runtime};
use crate::{built, component, told};

/// Batches of the sound source in one measurement, and the time between them.
const BATCHES: usize = 1000;
const EVERY: Duration = Duration::from_millis(2);
/// Measurements with and without the other, taken in turns; the median of their ratios is told.
const ROUNDS: usize = 5;

pub(crate) fn tell() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let load = |file: &Path| Arc::new(LoadedModule::load(&runtime, module(file)).unwrap());
    let range = load(&component("range"));
    let mut sound = pipeline(&runtime, range, json!({ "min": -1000 }));
    for name in ["endless", "trap"] {
        let file = built("test-components", name);
        let mut hostile = pipeline(&runtime, load(&file), json!({ "always": true }));
        let mut ratios = Vec::new();
        let mut alone = Vec::new();
        for _ in 0..ROUNDS {
            let without = latency(&mut sound);
            let with = beside(&mut hostile, || latency(&mut sound));
            alone.push(without);
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        alone.sort();
        let what = format!(
            "p99 of a batch beside `{name}`, times that alone ({:.0} µs)",
            alone[ROUNDS / 2].as_secs_f64() * 1e6
        );
        told(&what, ratios[ROUNDS / 2], Some(1.5), "×");
    }
}

/// The 99th percentile of batches that come at a steady pace, from when they were due.
fn latency(sound: &mut Pipeline) -> Duration {
    let input = batch(64, 16);
    let mut times = Vec::with_capacity(BATCHES);
    let mut due = Instant::now();
    for _ in 0..BATCHES {
        due += EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let begin = Instant::now();
        run(sound, &input);
        times.push(begin.elapsed());
    }
    times.sort();
    times[BATCHES * 99 / 100]
}

/// Runs something while the hostile slot is called without a break, and never rests: its breaker sees a minute pass after every
/// batch.
fn beside<T>(hostile: &mut Pipeline, run: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let input = batch(64, 16);
            let mut now = Instant::now();
            let mut failed = 0;
            while !done.load(Relaxed) {
                let outcome = hostile.run(&input, Arrival::default(), now);
                failed += outcome.quarantined.len();
                now += Duration::from_secs(61);
            }
            assert!(failed > 0, "it did not misbehave");
        });
        let result = run();
        done.store(true, Relaxed);
        worker.join().unwrap();
        result
    })
}
