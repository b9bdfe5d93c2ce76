//! `make soak`: a three-week outage, compressed: 20 million readings and 500 alarms into 64 MiB, then everything out.
//! What must hold is checked on the way: see `tests/outage.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a panic is a test's report, and its figures are small"
)]

#[path = "../tests/outage.rs"]
mod outage;

use std::time::Instant;

const READINGS: u64 = 20_000_000;
const ALARMS: u64 = 500;
const MAX_BYTES: u64 = 64 * 1024 * 1024;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    println!(
        "group commit with room, windows and every reading sent up: {:.0} readings/s",
        outage::commit_rate(dir.path(), 100)
    );
    let begin = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let figures = outage::run(dir.path(), READINGS, ALARMS, MAX_BYTES);
    println!(
        "{} readings and {ALARMS} alarms into {MAX_BYTES} bytes: at most {} bytes in any sample, no alarm lost,\n\
         {} items delivered, {} evicted and told in {} gaps that add up;\n\
         {:.0} readings/s in the first tenth, {:.0} in the last: {:.2}; {:.0} s in all",
        figures.readings,
        figures.peak,
        figures.delivered,
        figures.evicted,
        figures.gaps,
        figures.first_rate,
        figures.last_rate,
        figures.last_rate / figures.first_rate,
        begin.elapsed().as_secs_f64(),
    );
    assert!(
        figures.last_rate >= 0.8 * figures.first_rate,
        "the store takes much less than at the beginning"
    );
}
