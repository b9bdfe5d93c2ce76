//! `make bench-filters`: what filters cost, each figure beside its target. Components, compiler, engine, lanes and store are the
//! gateway's own.
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

mod memory;
mod neighbours;
mod stage;
mod state;
mod swaps;

#[path = "../measure.rs"]
mod measure;
#[path = "../../support/slot.rs"]
mod slot;

use std::path::{Path, PathBuf};

/// Rows of a full batch.
const ROWS: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, dir, ..] = arguments.as_slice()
        && role == memory::ROLE
    {
        memory::hold_slots(Path::new(dir));
        return;
    }
    println!("{}", machine());
    println!("{:<64} {:>12} {:>12}", "", "measured", "target");
    stage::tell();
    memory::tell();
    state::tell();
    swaps::tell();
    neighbours::tell();
}

/// A line of the table.
fn told(what: &str, measured: f64, target: Option<f64>, unit: &str) {
    let (bound, verdict) = match target {
        None => (String::new(), ""),
        Some(target) if measured <= target => (format!("≤ {target} {unit}"), "met"),
        Some(target) => (format!("≤ {target} {unit}"), "missed"),
    };
    println!("{what:<64} {measured:>8.2} {unit:<3} {bound:>12} {verdict}");
}

/// Where a factory module is.
fn component(name: &str) -> PathBuf {
    built("components", name)
}

fn built(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("modules/target")
        .join(folder)
        .join(name)
        .with_extension("wasm")
}

/// The processor that this ran on.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().unwrap();
    format!("{model}, {cores} of its threads")
}
