//! Anomalies: readings far from what their series usually does, or faster than it may change, raise an alarm.
//!
//! Mean and variance are exact over the first `samples` readings (Welford) and exponentially weighted after them: one
//! formula, with the weight 1/n until n reaches `samples`. Source: T. Finch, "Incremental calculation of weighted mean and
//! variance", 2009. What a reading may teach ends at the threshold, so that one spike does not widen what counts as
//! usual, while a lasting shift is learned in the end.

use tidegate_sdk::alarm::{self, Severity};
use tidegate_sdk::{Batch, Fault, Number, Output, Quality, Row, State, settings};

tidegate_sdk::filter!(anomaly);

tidegate_sdk::record! {
    layout 1;
    /// What is known of a series.
    struct Model {
        /// Readings learned, up to `samples`.
        count: u32,
        mean: f64,
        variance: f64,
        /// The latest reading.
        last: f64,
        /// Its time, nanoseconds since the epoch.
        time: i64,
        score_raised: bool,
        rate_raised: bool,
        /// Usual readings in a row while the alarm is raised.
        score_calm: u16,
        rate_calm: u16,
    }
}

struct Settings {
    /// Threshold of the z-score; 0 watches none.
    zscore: f64,
    /// Threshold of the change, per second.
    rate: Option<f64>,
    samples: u32,
    warm_up: u32,
    /// The least standard deviation that is assumed.
    noise: f64,
    /// Which part of a threshold a reading has to stay below to count as usual again.
    clear: f64,
    /// How many usual readings in a row clear an alarm.
    hold: u16,
    severity: Severity,
    derive: bool,
}

const SCORE: &str = "zscore";
const RATE: &str = "rate";

fn anomaly(batch: &Batch, state: &mut State<Model>, out: &mut Output) -> Result<(), Fault> {
    let settings = Settings::read();
    for row in batch.rows() {
        let number = match row.number() {
            Some(number) if row.quality() != Quality::Bad => number,
            _ => continue,
        };
        match &mut state[row] {
            Some(model) => model.judge(row, number, &settings, out),
            none => *none = Some(Model::first(row, number)),
        }
    }
    Ok(())
}

impl Settings {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the schema keeps counts positive, and the cast ends at the largest number"
    )]
    fn read() -> Self {
        let count = |key, default| settings::number(key).unwrap_or(default) as u32;
        let samples = count("samples", 100.0);
        Self {
            zscore: settings::number("zscore").unwrap_or(4.0),
            rate: settings::number("rate"),
            samples,
            warm_up: count("warm-up", 30.0).min(samples),
            noise: settings::number("noise").unwrap_or(0.0),
            clear: settings::number("clear").unwrap_or(0.75),
            hold: count("hold", 3.0) as u16,
            severity: settings::text("severity")
                .and_then(|word| Severity::from_word(&word))
                .unwrap_or(Severity::Warning),
            derive: settings::boolean("derive").unwrap_or(false),
        }
    }
}

impl Model {
    fn first(row: Row<'_>, number: f64) -> Self {
        Self {
            count: 1,
            mean: number,
            variance: 0.0,
            last: number,
            time: row.time(),
            score_raised: false,
            rate_raised: false,
            score_calm: 0,
            rate_calm: 0,
        }
    }

    fn judge(&mut self, row: Row<'_>, number: f64, settings: &Settings, out: &mut Output) {
        if self.count >= settings.warm_up
            && let Some(score) = self.score(number, settings)
        {
            if settings.derive {
                out.derive(row, SCORE, score);
            }
            self.judge_score(row, number, score, settings);
        }
        self.judge_rate(row, number, settings);
        self.learn(number, settings);
        // Late readings are judged, but never turn the series back.
        if row.time() >= self.time {
            self.last = number;
            self.time = row.time();
        }
    }

    /// Standard deviations from the mean; `None` where nothing is known about the deviation.
    fn score(&self, number: f64, settings: &Settings) -> Option<f64> {
        let distance = number - self.mean;
        let deviation = self.variance.sqrt().max(settings.noise);
        if deviation > 0.0 {
            Some(distance / deviation)
        } else {
            (distance == 0.0).then_some(0.0)
        }
    }

    fn judge_score(&mut self, row: Row<'_>, number: f64, score: f64, settings: &Settings) {
        if settings.zscore <= 0.0 {
            return;
        }
        let change = hysteresis(
            &mut self.score_raised,
            &mut self.score_calm,
            score.abs(),
            settings.zscore,
            settings,
        );
        match change {
            Some(true) => alarm::raise(
                row,
                settings.severity,
                SCORE,
                format!(
                    "{} is {} standard deviations away from the mean {} (limit {})",
                    Number(number),
                    Number((score.abs() * 10.0).round() / 10.0),
                    Number(self.mean),
                    Number(settings.zscore)
                ),
            ),
            Some(false) => alarm::clear(row, SCORE),
            None => {}
        }
    }

    fn judge_rate(&mut self, row: Row<'_>, number: f64, settings: &Settings) {
        // Readings out of order, or with the same time, have no rate.
        let Some(limit) = settings.rate.filter(|_| row.time() > self.time) else {
            return;
        };
        let seconds = row.time().abs_diff(self.time) as f64 / 1e9;
        let rate = (number - self.last).abs() / seconds;
        let change = hysteresis(
            &mut self.rate_raised,
            &mut self.rate_calm,
            rate,
            limit,
            settings,
        );
        match change {
            Some(true) => alarm::raise(
                row,
                settings.severity,
                RATE,
                format!(
                    "from {} to {} in {} s: {} per second (limit {})",
                    Number(self.last),
                    Number(number),
                    Number(seconds),
                    Number(rate),
                    Number(limit)
                ),
            ),
            Some(false) => alarm::clear(row, RATE),
            None => {}
        }
    }

    fn learn(&mut self, number: f64, settings: &Settings) {
        let mut distance = number - self.mean;
        let deviation = self.variance.sqrt().max(settings.noise);
        if self.count >= settings.warm_up && settings.zscore > 0.0 && deviation > 0.0 {
            let most = settings.zscore * deviation;
            distance = distance.clamp(-most, most);
        }
        self.count = (self.count + 1).min(settings.samples);
        let weight = 1.0 / f64::from(self.count);
        let mean = self.mean + distance * weight;
        let variance = (1.0 - weight) * (self.variance + distance * distance * weight);
        // Numbers so large that their squares are none teach nothing.
        if mean.is_finite() && variance.is_finite() {
            self.mean = mean;
            self.variance = variance;
        }
    }
}

/// Whether the alarm changes: `Some(true)` raises, `Some(false)` clears it.
fn hysteresis(
    raised: &mut bool,
    calm: &mut u16,
    value: f64,
    limit: f64,
    settings: &Settings,
) -> Option<bool> {
    if value > limit {
        *calm = 0;
        let change = !*raised;
        *raised = true;
        return change.then_some(true);
    }
    if !*raised {
        return None;
    }
    // Between the two thresholds a reading is neither.
    if value > limit * settings.clear {
        *calm = 0;
        return None;
    }
    *calm += 1;
    if *calm < settings.hold {
        return None;
    }
    *raised = false;
    *calm = 0;
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::anomaly;
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            anomaly,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    /// During warm-up mean and variance are those of the textbook; the score of the reading after it shows them.
    #[test]
    fn the_score_is_the_textbooks() {
        let numbers = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]; // mean 5, standard deviation 2
        let mut harness =
            Harness::new(anomaly).settings(json!({ "warm-up": 8, "derive": true, "zscore": 3 }));
        let mut input: Vec<Reading> = (0..)
            .zip(numbers)
            .map(|(time, number)| Reading::new("a", time, number))
            .collect();
        input.push(Reading::new("a", 8, 12.0));
        let outcome = harness.run(&input).unwrap();
        assert_eq!(outcome.stored.len(), 10);
        assert_eq!(outcome.stored[9].series, "a/zscore");
        let tidegate_sdk::test::Owned::Float(score) = outcome.stored[9].value else {
            panic!("{:?}", outcome.stored[9]);
        };
        assert!((score - 3.5).abs() < 1e-12, "{score}");
        assert_eq!(
            outcome.alarms[0].text,
            "12 is 3.5 standard deviations away from the mean 5 (limit 3)"
        );
    }

    /// A step from one level to another is an anomaly at first and usual in the end.
    #[test]
    fn a_lasting_shift_is_learned() {
        let noise = |i: i64| if i % 2 == 0 { 0.5 } else { -0.5 };
        let input: Vec<Reading> = (0..600)
            .map(|i| Reading::new("a", i, if i < 200 { 20.0 } else { 60.0 } + noise(i)))
            .collect();
        let mut harness = Harness::new(anomaly);
        let outcome = harness.run(&input).unwrap();
        let changes: Vec<&str> = outcome.alarms.iter().map(|alarm| alarm.state).collect();
        assert_eq!(changes, ["raised", "cleared"]);
        assert_eq!((outcome.stored.len(), outcome.shape), (600, "all"));
    }
}
