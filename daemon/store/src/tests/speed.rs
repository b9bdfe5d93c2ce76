//! How fast commits are. Run by hand: `cargo test -p tidegate-store --release -- --ignored --nocapture speed`.

use super::*;

#[test]
#[ignore = "a measurement, not a check"]
fn speed_of_full_batches() {
    let mut with_readings = config();
    with_readings.pipelines[0].to[0].send = Send::Both;
    for (what, config) in [
        ("summaries", config()),
        ("summaries and readings", with_readings),
    ] {
        let mut bench = Bench::with(config);
        let names: Vec<String> = (0..64).map(|n| format!("plant/line{n}/temp")).collect();
        let started = Instant::now();
        let (mut writing, mut readings) = (Duration::ZERO, 0);
        for _ in 0..40 {
            let second = (bench.wall - START) / SECOND;
            let outcomes: Vec<BatchOutcome> = (0..8)
                .map(|batch| {
                    let rows: Vec<(&str, i64, f64)> = (0..1024)
                        .map(|n| (names[n % 64].as_str(), second, 20.0 + f64::from(batch)))
                        .collect();
                    bench.outcome(&rows)
                })
                .collect();
            let begun = Instant::now();
            for outcome in outcomes {
                bench.apply(outcome);
            }
            bench.commit();
            writing += begun.elapsed();
            readings += 8 * 1024;
        }
        let seconds = writing.as_secs_f64();
        let bytes = bench.writer().stats().database_bytes + bench.writer().stats().wal_bytes;
        println!(
            "{what}: {:.0} readings/s, {:.1} bytes a reading on disk, whole test {:?}",
            f64::from(readings) / seconds,
            bytes as f64 / f64::from(readings),
            started.elapsed(),
        );
    }
}
