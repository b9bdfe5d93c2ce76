//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th wait is drawn evenly from `0..=min(cap, base * 2^n)`, but is
/// never shorter than `base / 2`. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits from `base` up to `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            attempt: 0,
        }
    }

    /// The same after so many attempts that failed, for whoever remembers them longer than this value lives.
    #[must_use]
    pub fn resumed(base: Duration, cap: Duration, attempts: u32) -> Self {
        Self {
            attempt: attempts,
            ..Self::new(base, cap)
        }
    }

    /// The next wait. `random` is evenly distributed over all of `u64`; it comes from the caller, so that this
    /// stays pure.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1u32 << self.attempt.min(20))
            .min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        #[expect(
            clippy::cast_precision_loss,
            reason = "jitter needs no more than 53 bits"
        )]
        let share = random as f64 / u64::MAX as f64;
        ceiling.mul_f64(share).max(self.base / 2)
    }

    /// Forgets past failures, after a connection has proved itself.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Attempts since the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> = (0..8).map(|_| backoff.next(u64::MAX).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let mut resumed = Backoff::resumed(Duration::from_secs(1), Duration::from_secs(60), 3);
        assert_eq!(resumed.next(u64::MAX), Duration::from_secs(8));
        assert_eq!(backoff.next(0), Duration::from_millis(500));
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX).as_secs(), 1);
    }
}
