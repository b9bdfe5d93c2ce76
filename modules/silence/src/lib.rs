//! Silence: an alarm about a series of which nothing has come for too long.
//!
//! Time is counted from one look at a series to the next, and a pause between two looks counts as three quarters of the
//! longest silence at most: neither a clock that is set late or stepped, nor a gateway that was off, makes all series
//! silent at once. While readings come, a record changes only when an eighth of that time has passed.

use tidegate_sdk::alarm::{self, Severity};
use tidegate_sdk::{Added, Batch, Fault, Number, Output, Quality, State, Tick, clock, settings};

tidegate_sdk::filter!(hear, tick = look);

const CODE: &str = "silent";

tidegate_sdk::record! {
    layout 1;
    /// What is known of a series. Times are nanoseconds.
    struct Watched {
        /// When it was looked at last, since the epoch.
        looked: i64,
        /// For how long it had been silent then.
        silent: i64,
        raised: bool,
    }
}

/// The setting `after`, in nanoseconds.
fn after() -> Result<i64, Fault> {
    let seconds = settings::number("after").ok_or("the setting `after` is missing")?;
    #[expect(clippy::cast_possible_truncation, reason = "the schema ends at a year")]
    Ok((seconds * 1e9) as i64)
}

fn hear(batch: &Batch, state: &mut State<Watched>, _: &mut Output) -> Result<(), Fault> {
    let (after, now) = (after()?, clock::now());
    let bad_counts = settings::boolean("bad-counts").unwrap_or(false);
    for row in batch.rows() {
        if row.quality() == Quality::Bad && !bad_counts {
            // A series begins to be watched with its first reading, whatever that is.
            state[row].get_or_insert(Watched::heard(now));
            continue;
        }
        match &mut state[row] {
            Some(watched) if watched.raised => {
                alarm::clear(row, CODE);
                *watched = Watched::heard(now);
            }
            // A clock that was set back counts as well.
            Some(watched)
                if watched.silent == 0 && (0..after / 8).contains(&(now - watched.looked)) => {}
            watched => *watched = Some(Watched::heard(now)),
        }
    }
    Ok(())
}

fn look(tick: &Tick, state: &mut State<Watched>, out: &mut Added) -> Result<(), Fault> {
    let after = after()?;
    let word = settings::text("severity");
    let severity = word.as_deref().and_then(Severity::from_word);
    for series in tick.series() {
        let Some(watched) = &mut state[series] else {
            continue;
        };
        let pause = tick.now().saturating_sub(watched.looked);
        let silent = watched.silent + pause.clamp(0, after / 4 * 3);
        // The last reading may have come an eighth later than is known.
        let too_long = silent >= after + after / 8;
        if watched.raised || (!too_long && (0..after / 4).contains(&pause)) {
            continue;
        }
        watched.looked = tick.now();
        watched.silent = silent;
        if !too_long {
            continue;
        }
        // Nothing is known of it from here on: no value, which is not the same as its last one.
        if let Some(row) = out.add(series.name(), tick.now(), f64::NAN, Quality::Bad) {
            let mut text = "no reading for ".to_owned();
            text.push_str(&Number(after as f64 / 1e9).to_string());
            text.push_str(" s");
            alarm::raise(row, severity.unwrap_or(Severity::Warning), CODE, text);
            watched.raised = true;
        }
    }
    Ok(())
}

impl Watched {
    fn heard(now: i64) -> Self {
        Self {
            looked: now,
            silent: 0,
            raised: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{hear, look};
    use tidegate_sdk::test::{Harness, Reading, check_ticking_vectors, json};

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn golden_vectors() {
        check_ticking_vectors(
            hear,
            look,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    /// Ticks of every length up to half of it, readings at every distance from them.
    #[test]
    fn the_alarm_comes_in_time_and_never_early() {
        for tick in [1, 3, 7, 10, 20, 30] {
            for last in 0..80 {
                let mut harness = Harness::new(hear)
                    .ticking(look)
                    .settings(json!({ "after": 60 }));
                let mut raised = None;
                for second in 0..400 {
                    harness = harness.at(second * SECOND);
                    if second % tick == 0 && raised.is_none() {
                        let alarms = harness.tick().unwrap().alarms.len();
                        raised = (alarms == 1).then_some(second);
                    }
                    if second <= last {
                        harness.run(&[Reading::new("a", 0, 1.0)]).unwrap();
                    }
                }
                let after = raised.unwrap() - last;
                assert!(after >= 60, "tick {tick}, last {last}: {after}");
                // An eighth and a tick.
                assert!(after <= 68 + tick, "tick {tick}, last {last}: {after}");
            }
        }
    }

    #[test]
    fn a_clock_that_leaps_and_a_gateway_that_was_off_are_no_silence() {
        let mut harness = Harness::new(hear)
            .ticking(look)
            .settings(json!({ "after": 60 }));
        let reading = [Reading::new("a", 0, 1.0)];
        harness = harness.at(10 * SECOND);
        harness.run(&reading).unwrap();
        let year = 365 * 86400 * SECOND;
        for (now, what) in [(56 * year, "ahead"), (year, "back"), (year + SECOND, "on")] {
            harness = harness.at(now);
            assert!(harness.tick().unwrap().alarms.is_empty(), "{what}");
        }
        harness.run(&reading).unwrap();
        for second in [10, 20, 30, 40, 50, 60] {
            harness = harness.at(year + second * SECOND);
            assert!(harness.tick().unwrap().alarms.is_empty(), "{second}");
        }
    }

    /// What lies on flash is written anew for every change of a record.
    #[test]
    fn a_series_that_speaks_changes_its_record_eight_times_in_that_time_at_most() {
        let mut harness = Harness::new(hear)
            .ticking(look)
            .settings(json!({ "after": 80 }));
        let mut changes = 0;
        let mut before = None;
        for second in 0..800 {
            harness = harness.at(second * SECOND);
            harness.run(&[Reading::new("a", 0, 1.0)]).unwrap();
            harness.tick().unwrap();
            let now = harness.record("a").map(<[u8]>::to_vec);
            changes += i32::from(now != before);
            before = now;
        }
        assert!((60..=80).contains(&changes), "{changes}");
    }
}
