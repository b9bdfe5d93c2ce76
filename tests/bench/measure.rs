//! How long a call takes, and batches to call with.

use std::time::{Duration, Instant};

use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::{Arrival, Batch, Quality, Value};
use tidegate_pipeline::Pipeline;

/// How long one figure is measured; the median of the rounds is told, the machines are noisy.
const ROUND: Duration = Duration::from_millis(400);
const ROUNDS: usize = 5;

/// The time of one call, instance and all.
pub(crate) fn measure(pipeline: &mut Pipeline, batch: &Batch) -> Duration {
    run(pipeline, batch);
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            let mut calls = 0;
            while begin.elapsed() < ROUND {
                run(pipeline, batch);
                calls += 1;
            }
            begin.elapsed() / calls
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

pub(crate) fn run(pipeline: &mut Pipeline, batch: &Batch) {
    let outcome = pipeline.run(batch, Arrival::default(), Instant::now());
    assert!(outcome.quarantined.is_empty(), "{:?}", outcome.quarantined);
}

/// Readings that move a little, so that some pass a deadband and some do not.
pub(crate) fn batch(rows: usize, series: usize) -> Batch {
    let names: Vec<String> = (0..series)
        .map(|number| format!("plant/line/{number}"))
        .collect();
    let mut builder = BatchBuilder::new();
    let names: Vec<_> = names
        .iter()
        .map(|name| builder.series(&name.as_str().into()))
        .collect();
    for row in 0..rows {
        let value = (row as f64 * 0.7).sin() * 2.0;
        builder.push(
            names[row % series],
            row as i64,
            Value::Float(value),
            Quality::Good,
        );
    }
    builder.finish()
}
