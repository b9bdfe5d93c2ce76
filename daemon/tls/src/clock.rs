//! What time it is, where the clock may never have been set.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The wall clock, with the time below which it is not believed.
///
/// A gateway without a battery clock wakes up in 1970, when every certificate is of the future. The time that the
/// program was built is a time that has certainly passed.
#[derive(Clone, Debug)]
pub struct Clock {
    built: u64,
    wall: fn() -> u64,
}

impl Clock {
    /// The system's clock, never below `built`, seconds since the epoch.
    #[must_use]
    pub fn new(built: u64) -> Self {
        Self {
            built,
            wall: || UnixTime::now().as_secs(),
        }
    }

    /// A clock for tests.
    #[cfg(test)]
    pub(crate) fn fixed(built: u64, wall: fn() -> u64) -> Self {
        Self { built, wall }
    }

    /// What the clock shows, believed or not; seconds since the epoch.
    pub(crate) fn shows(&self) -> u64 {
        (self.wall)()
    }

    /// The time to judge by.
    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.shows().max(self.built)))
    }

    /// The time to judge by, in seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX)
    }

    /// Whether the clock shows a time that has certainly passed: then [`Clock::now`] is only the earliest that it can
    /// be.
    pub(crate) fn is_unset(&self) -> bool {
        self.shows() < self.built
    }

    /// Seconds since the program was built; 0 where the clock says that it is not built yet.
    pub(crate) fn since_built(&self) -> u64 {
        self.shows().saturating_sub(self.built)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}
