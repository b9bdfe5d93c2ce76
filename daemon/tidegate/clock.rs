//! The machine's clocks. Everything below gets the time as an argument.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tidegate_domain::Arrival;

/// A wall clock before this was never set: 2025-01-01T00:00:00Z in nanoseconds, before any build of this program.
const PLAUSIBLE: i64 = 1_735_689_600_000_000_000;

/// Both clocks now. The wall clock counts as set where it shows a time at which this program can have run; whether it
/// is exact is not known.
pub(crate) fn now() -> Arrival {
    let monotonic = clock_gettime(ClockId::Boottime);
    let wall = wall();
    Arrival {
        monotonic: monotonic
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(monotonic.tv_nsec),
        wall,
        synced: wall >= PLAUSIBLE,
    }
}

/// Nanoseconds since the epoch by the wall clock; negative before it.
pub(crate) fn wall() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The kernel's name for this boot; empty where it has none.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
