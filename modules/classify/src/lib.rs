//! Classify: what a small network makes of windows of a vibration signal.
//!
//! A window is 64 readings of a series in a row, kept as 16-bit samples in the series' state until it is full. `features.rs`
//! reduces it to 16 numbers, the network (16 → 16 → 3, eight-bit weights, `model.rs`) names the condition. `train.py` makes
//! the data, trains the network and writes its tables.

use tidegate_sdk::alarm::{self, Severity};
use tidegate_sdk::{Batch, Fault, Output, State, settings};

mod features;
mod model;

use features::{FEATURES, SAMPLES, dot, features};

tidegate_sdk::filter!(classify);

tidegate_sdk::record! {
    layout 1;
    /// The window that is being filled, and what became of those before.
    struct Window {
        filled: u8,
        /// The condition of the last window, and how many in a row had it.
        class: u8,
        run: u8,
        raised: bool,
        samples: [i16; SAMPLES],
    }
}

const CLASSES: [&str; 3] = ["normal", "imbalance", "bearing-fault"];
const NORMAL: u8 = 0;
/// The alarm's code.
const CONDITION: &str = "condition";

struct Settings {
    full_scale: f64,
    keep: bool,
    hold: u8,
    severity: Severity,
}

fn classify(batch: &Batch, state: &mut State<Window>, out: &mut Output) -> Result<(), Fault> {
    let settings = Settings::read()?;
    for row in batch.rows() {
        let Some(number) = row.number() else {
            // A hole: what comes behind it is no continuation. Texts and truth values are no samples, and pass.
            if let Some(window) = &mut state[row] {
                window.filled = 0;
            }
            continue;
        };
        if !settings.keep {
            out.drop(row);
        }
        let window = state[row].get_or_insert(Window::EMPTY);
        window.samples[usize::from(window.filled) % SAMPLES] = sample(number / settings.full_scale);
        window.filled += 1;
        if usize::from(window.filled) < SAMPLES {
            continue;
        }
        window.filled = 0;
        let class = judge(&window.samples);
        out.derive(row, CONDITION, CLASSES[usize::from(class)]);
        if window.class == class {
            window.run = window.run.saturating_add(1);
        } else {
            (window.class, window.run) = (class, 1);
        }
        if window.run < settings.hold || window.raised == (class != NORMAL) {
            continue;
        }
        window.raised = class != NORMAL;
        if window.raised {
            let text = format!(
                "{} windows of {SAMPLES} readings in a row look like {}",
                window.run,
                CLASSES[usize::from(class)]
            );
            alarm::raise(row, settings.severity, CONDITION, text);
        } else {
            alarm::clear(row, CONDITION);
        }
    }
    Ok(())
}

impl Window {
    const EMPTY: Self = Self {
        filled: 0,
        class: NORMAL,
        run: 0,
        raised: false,
        samples: [0; SAMPLES],
    };
}

impl Settings {
    fn read() -> Result<Self, Fault> {
        let severity = settings::text("severity");
        Ok(Self {
            full_scale: settings::number("full-scale")
                .ok_or("the setting `full-scale` is missing")?,
            keep: settings::boolean("keep").unwrap_or(true),
            hold: settings::integer("hold")
                .and_then(|hold| u8::try_from(hold).ok())
                .unwrap_or(3),
            severity: severity
                .and_then(|word| Severity::from_word(&word))
                .unwrap_or(Severity::Warning),
        })
    }
}

/// The condition that the network finds most likely; of equal ones the first.
#[expect(
    clippy::cast_possible_truncation,
    reason = "there are three conditions"
)]
#[cfg_attr(
    all(feature = "simd", target_arch = "wasm32"),
    target_feature(enable = "simd128")
)]
fn judge(samples: &[i16; SAMPLES]) -> u8 {
    let found: [i16; FEATURES] = features(samples);
    let hidden = model::FIRST.map(|weights| activation(dot(&weights, &found)));
    let scores = model::SECOND.map(|weights| dot(&weights, &hidden));
    let mut best = 0;
    for class in 1..scores.len() {
        if scores[class] > scores[best] {
            best = class;
        }
    }
    best as u8
}

fn activation(sum: i32) -> i16 {
    (sum >> model::HIDDEN_SHIFT).clamp(0, 127) as i16
}

/// A part of full scale as 16 bits; what is beyond is clipped, as in a converter.
#[expect(clippy::cast_possible_truncation, reason = "clamped to it")]
fn sample(part: f64) -> i16 {
    (part * 32767.0).round().clamp(-32767.0, 32767.0) as i16
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, classify};
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            classify,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    #[test]
    fn a_hole_begins_the_window_anew_and_silence_has_a_condition() {
        let mut harness =
            Harness::new(classify).settings(json!({ "full-scale": 1, "keep": false }));
        let still: Vec<Reading> = (0..63).map(|t| Reading::new("a", t, 0.0)).collect();
        assert!(harness.run(&still).unwrap().stored.is_empty());
        let hole = harness.run(&[Reading::new("a", 63, f64::NAN)]).unwrap();
        assert_eq!(hole.stored.len(), 1, "it passes");
        assert!(harness.run(&still).unwrap().stored.is_empty());
        let last = harness.run(&[Reading::new("a", 200, 0.0)]).unwrap().stored;
        assert_eq!((last.len(), &*last[0].series), (1, "a/condition"));
        assert!(CLASSES.iter().any(|class| last[0].value == (*class).into()));
    }

    /// The loudest that there is must not overflow.
    #[test]
    fn full_scale_and_beyond_is_clipped() {
        let mut harness =
            Harness::new(classify).settings(json!({ "full-scale": 1, "keep": false }));
        let loud: Vec<Reading> = (0..128)
            .map(|t| Reading::new("a", t, if t % 2 == 0 { 1e300 } else { -1e300 }))
            .collect();
        assert_eq!(harness.run(&loud).unwrap().stored.len(), 2);
    }
}
