//! When this program was built: a time that has certainly passed, however little the clock knows.

use tidegate_tls::Clock;

/// Seconds since the epoch, as `build.rs` found them.
const BUILT: &str = env!("TIDEGATE_BUILT");

/// The clock by which certificates are judged.
pub(crate) fn clock() -> Clock {
    // build.rs writes a number; without one only a clock that is set would do.
    Clock::new(BUILT.parse().unwrap_or_default())
}
