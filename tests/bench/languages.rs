//! `make bench-languages`: what the same filter costs in every language, and a window of `classify` with and without vector
//! instructions. Components, compiler and engine are the gateway's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a panic is a test's report, and its figures are small"
)]

#[path = "../support/slot.rs"]
mod slot;

use std::path::Path;
use std::time::{Duration, Instant};

use slot::slot;
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::{Arrival, Batch, Quality, Value};
use tidegate_pipeline::Pipeline;

/// Rows of a full batch.
const ROWS: usize = 1024;
/// Samples of a window of `classify`.
const WINDOW: usize = 64;
/// How long one figure is measured; the least of the rounds is told, the machines are noisy.
const ROUND: Duration = Duration::from_millis(400);
const ROUNDS: usize = 5;

fn main() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/target");
    let languages = modules.join("languages");
    println!("deadband, one reading of state a series, 16 series");
    println!(
        "{:<18} {:>10} {:>12} {:>14} {:>16}",
        "", "size", "compiled in", "fresh instance", "a reading of 1024"
    );
    for (name, file) in [
        ("Rust", modules.join("components/deadband.wasm")),
        ("C", languages.join("deadband-c.wasm")),
        ("JavaScript", languages.join("deadband-js.wasm")),
        ("Python", languages.join("deadband-python.wasm")),
    ] {
        if !file.exists() {
            println!("{name:<18} not built: run `make modules-languages`");
            continue;
        }
        let settings = serde_json::json!({ "width": 0.5 });
        let (mut pipeline, size, compiled) = slot(&file, settings);
        let one = measure(&mut pipeline, &batch(1, 1));
        let full = measure(&mut pipeline, &batch(ROWS, 16));
        println!(
            "{name:<18} {:>7} KB {:>9} ms {:>11.1} µs {:>13.1} ns",
            size / 1024,
            compiled.as_millis(),
            one.as_secs_f64() * 1e6,
            full.as_secs_f64() * 1e9 / ROWS as f64
        );
    }

    println!("\nclassify, windows of {WINDOW} readings");
    for (name, file) in [
        ("scalar", modules.join("components/classify.wasm")),
        ("simd128", modules.join("simd-components/classify.wasm")),
    ] {
        let settings = serde_json::json!({ "full-scale": 8, "keep": false });
        let (mut pipeline, size, compiled) = slot(&file, settings);
        let full = measure(&mut pipeline, &batch(ROWS, 1));
        println!(
            "{name:<18} {:>7} KB {:>9} ms {:>11.2} µs a window",
            size / 1024,
            compiled.as_millis(),
            full.as_secs_f64() * 1e6 / (ROWS / WINDOW) as f64
        );
    }
}

/// The time of one call, instance and all.
fn measure(pipeline: &mut Pipeline, batch: &Batch) -> Duration {
    let run = |pipeline: &mut Pipeline| {
        let outcome = pipeline.run(batch, Arrival::default(), Instant::now());
        assert!(outcome.quarantined.is_empty(), "{:?}", outcome.quarantined);
    };
    run(pipeline);
    (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            let mut calls = 0;
            while begin.elapsed() < ROUND {
                run(pipeline);
                calls += 1;
            }
            begin.elapsed() / calls
        })
        .min()
        .unwrap()
}

/// Readings that move a little, so that some pass a deadband and some do not.
fn batch(rows: usize, series: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    let names: Vec<_> = (0..series)
        .map(|series| builder.series(&format!("plant/line/{series}").as_str().into()))
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
