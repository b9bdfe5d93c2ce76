//! Deadband: a value goes on when it differs enough from the last one that went on.

use tidegate_sdk::{Batch, Fault, Output, Row, State, Value, hash, settings};

tidegate_sdk::filter!(deadband);

tidegate_sdk::record! {
    layout 1;
    /// The last reading of a series that went on.
    struct Last {
        /// Nanoseconds since the epoch.
        time: i64,
        /// Of a number its bits, of anything else its fingerprint.
        bits: u64,
        kind: u8,
        quality: u8,
    }
}

const FLOAT: u8 = 0;
const INT: u8 = 1;
/// Truth values, texts and numbers that are not finite: these are equal or not.
const OTHER: u8 = 2;

/// How far a number may move unnoticed.
enum Width {
    Absolute(f64),
    Percent(f64),
}

fn deadband(batch: &Batch, state: &mut State<Last>, out: &mut Output) -> Result<(), Fault> {
    let width = match (settings::number("width"), settings::number("percent")) {
        (Some(width), None) => Width::Absolute(width),
        (None, Some(percent)) => Width::Percent(percent),
        (None, None) | (Some(_), Some(_)) => {
            return Err("one of `width` and `percent` is needed, and not both".into());
        }
    };
    let silence = settings::number("max-silence").map(nanoseconds);

    for row in batch.rows() {
        let now = Last::of(row);
        let passes = match &state[row] {
            None => true,
            Some(last) => {
                // A reading far in the past counts as well: otherwise a single time stamp in the future would keep
                // the series silent until then.
                let silent = silence.is_some_and(|max| last.time.abs_diff(now.time) >= max);
                silent || now.quality != last.quality || now.moved(last, &width)
            }
        };
        if passes {
            state[row] = Some(now);
        } else {
            out.drop(row);
        }
    }
    Ok(())
}

impl Last {
    fn of(row: Row<'_>) -> Self {
        let (kind, bits) = match row.value() {
            Value::Float(number) if number.is_finite() => (FLOAT, number.to_bits()),
            Value::Int(number) => (INT, number.cast_unsigned()),
            other @ (Value::Float(_) | Value::Bool(_) | Value::Text(_)) => {
                (OTHER, hash::value(other))
            }
        };
        Self {
            time: row.time(),
            bits,
            kind,
            quality: row.quality() as u8,
        }
    }

    fn moved(&self, last: &Self, width: &Width) -> bool {
        let distance = match (self.kind, last.kind) {
            // Exact for counters beyond 2^53, whose doubles may be equal.
            (INT, INT) => (self.bits.cast_signed().abs_diff(last.bits.cast_signed())) as f64,
            (FLOAT | INT, FLOAT | INT) => (self.number() - last.number()).abs(),
            _ => return (self.kind, self.bits) != (last.kind, last.bits),
        };
        match *width {
            Width::Absolute(width) => distance > width,
            Width::Percent(percent) => distance > last.number().abs() * percent / 100.0,
        }
    }

    fn number(&self) -> f64 {
        if self.kind == INT {
            self.bits.cast_signed() as f64
        } else {
            f64::from_bits(self.bits)
        }
    }
}

/// Seconds as nanoseconds; what is too long is for ever.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the schema keeps seconds positive, and the cast ends at the largest number"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::deadband;
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            deadband,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    /// JSON has no word for them.
    #[test]
    fn numbers_that_are_not_finite_pass_on_change() {
        let mut harness = Harness::new(deadband).settings(json!({ "width": 5 }));
        let values = [
            1.0,
            f64::NAN,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            2.0,
            3.0,
        ];
        let input: Vec<Reading> = (0..)
            .zip(values)
            .map(|(t, v)| Reading::new("a", t, v))
            .collect();
        let times: Vec<i64> = harness
            .run(&input)
            .unwrap()
            .stored
            .iter()
            .map(|reading| reading.time)
            .collect();
        assert_eq!(times, [0, 1, 3, 4, 5]);
    }
}
