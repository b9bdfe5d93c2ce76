//! `[rollout]`

use std::time::Duration;

use tidegate_domain::rollout::{Gates, Mode, Tolerance};

use super::section::{Checker, Section};
use crate::rollouts::Settings;

const MODES: [(&str, Mode); 3] = [
    ("canary", Mode::Canary),
    ("shadow", Mode::Shadow),
    ("immediate", Mode::Immediate),
];
/// Beyond it nobody waits for a verdict.
const TIME_LIMIT_MAX: Duration = Duration::from_hours(30 * 24);
const TIME_LIMIT_MIN: Duration = Duration::from_secs(1);
const SAMPLES_MAX: i64 = 1_000_000_000;
/// A factor above it judges nothing.
const FACTOR_MAX: f64 = 1000.0;

/// Reads it.
pub(super) fn rollout(cx: &mut Checker, root: &mut Section<'_>) -> Settings {
    let mut section = root.section(cx, "rollout");
    let default = Gates::default();
    let mode = section.choice(cx, "mode", &MODES, "canary");
    let settings = section.choice(cx, "settings-mode", &MODES, "immediate");
    let share = section.share(cx, "share", 50);
    let samples = section.integer(cx, "min-samples", 1..=SAMPLES_MAX, 1000);
    let range = TIME_LIMIT_MIN..=TIME_LIMIT_MAX;
    let time_limit = section.duration_or(cx, "time-limit", range, default.time_limit);
    let differences = section.share(cx, "differences", 10);
    let tolerance = Tolerance {
        float: section.number(cx, "float-tolerance", 0.0..=1.0, default.tolerance.float),
        integer: u64::try_from(
            section
                .integer(cx, "integer-tolerance", 0..=i64::MAX, 0)
                .value,
        )
        .unwrap_or_default(),
    };
    let latency = section.number(cx, "latency-factor", 1.0..=FACTOR_MAX, default.latency);
    let memory = section.number(cx, "memory-factor", 1.0..=FACTOR_MAX, default.memory);
    let more_grants = section.flag(cx, "more-grants", false);
    section.finish(cx);
    Settings {
        gates: Gates {
            mode: mode.unwrap_or_default(),
            share: f64::from(share.value) / 1000.0,
            min_samples: u64::try_from(samples.value).unwrap_or(default.min_samples),
            time_limit: time_limit.value,
            differences: f64::from(differences.value) / 1000.0,
            tolerance,
            latency,
            memory,
        },
        settings: settings.unwrap_or(Mode::Immediate),
        more_grants: more_grants.value,
    }
}
