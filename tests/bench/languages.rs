//! `make bench-languages`: what the same filter costs in every language. Components, compiler and engine are the gateway's own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod measure;
#[path = "../support/slot.rs"]
mod slot;

use std::path::Path;

use measure::{batch, measure};
use slot::slot;

/// Rows of a full batch.
const ROWS: usize = 1024;

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
}
