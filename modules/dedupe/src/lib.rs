//! Deduplication: a reading that came a moment ago does not come again.
//!
//! The same is what has the same series, time, value and quality. The window is one of arrival: a source that delivers
//! twice does so with the reading's own time.

use tidegate_sdk::{Batch, Fault, Output, Row, State, clock, hash, settings};

tidegate_sdk::filter!(dedupe);

/// Readings remembered of each series: 194 bytes of state.
const REMEMBERED: usize = 16;

tidegate_sdk::record! {
    layout 1;
    /// The latest different readings of a series: a ring.
    struct Seen {
        /// Fingerprints; 0 where there is none.
        prints: [u64; REMEMBERED],
        /// When each arrived: milliseconds of the gateway's clock, modulo 2^32 (50 days).
        arrived: [u32; REMEMBERED],
        /// The place that is overwritten next: the oldest.
        next: u8,
    }
}

/// The window's default, in seconds.
const WINDOW: f64 = 10.0;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the schema keeps the window below a day; the clock is cut on purpose"
)]
fn dedupe(batch: &Batch, state: &mut State<Seen>, out: &mut Output) -> Result<(), Fault> {
    let window = (settings::number("window").unwrap_or(WINDOW) * 1e3) as u32;
    let now = (clock::now() / 1_000_000) as u32;
    for row in batch.rows() {
        let seen = state[row].get_or_insert(Seen {
            prints: [0; REMEMBERED],
            arrived: [0; REMEMBERED],
            next: 0,
        });
        let print = fingerprint(row);
        let again = seen
            .prints
            .iter()
            .zip(seen.arrived)
            .any(|(&known, arrived)| known == print && now.wrapping_sub(arrived) <= window);
        if again {
            out.drop(row);
            continue;
        }
        let place = usize::from(seen.next) % REMEMBERED;
        seen.prints[place] = print;
        seen.arrived[place] = now;
        seen.next = ((place + 1) % REMEMBERED) as u8;
    }
    Ok(())
}

/// Never 0, which stands for none.
fn fingerprint(row: Row<'_>) -> u64 {
    let time = hash::mix(row.time().cast_unsigned());
    let value = hash::value(row.value());
    hash::mix(time ^ value.rotate_left(1) ^ u64::from(row.quality() as u8)).max(1)
}

#[cfg(test)]
mod tests {
    use super::dedupe;
    use tidegate_sdk::test::{Harness, Reading, check_vectors};

    #[test]
    fn golden_vectors() {
        check_vectors(
            dedupe,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    #[test]
    fn remembers_the_latest_sixteen_of_each_series() {
        let readings = |times: std::ops::Range<i64>| -> Vec<Reading> {
            times.map(|time| Reading::new("a", time, 1.0)).collect()
        };
        let mut harness = Harness::new(dedupe).at(1_000_000_000);
        assert_eq!(harness.run(&readings(0..17)).unwrap().filtered, 0);
        assert_eq!(harness.run(&readings(1..17)).unwrap().shape, "none");
        assert_eq!(harness.run(&readings(0..1)).unwrap().shape, "all");
    }

    /// Where the cut clock starts anew (4294967.296 s after some begin) the window goes on.
    #[test]
    fn the_window_spans_the_end_of_the_cut_clock() {
        let end = 4_294_967_296 * 1_000_000;
        let reading = [Reading::new("a", 5, 1.0)];
        let mut harness = Harness::new(dedupe).at(end - 4_000_000_000);
        assert_eq!(harness.run(&reading).unwrap().filtered, 0);
        let mut harness = harness.at(end + 4_000_000_000);
        assert_eq!(harness.run(&reading).unwrap().filtered, 1);
        let mut harness = harness.at(end + 7_000_000_000);
        assert_eq!(harness.run(&reading).unwrap().filtered, 0);
    }
}
