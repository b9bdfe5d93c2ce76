//! When a gateway looks at its repository.

use std::time::Duration;

use crate::backoff::Backoff;

/// The first look comes this long after the start, and up to six times as long: sources come first, and gateways where the power
/// came back do not ask all at once.
const FIRST: Duration = Duration::from_secs(10);
/// First wait after a look that failed; the longest is the poll itself.
const RETRY: Duration = Duration::from_secs(30);
/// A share of the poll by which a wait may be shorter: gateways that started together spread.
const JITTER: f64 = 0.2;

/// Waits between looks. `random` is evenly distributed over all of `u64`.
#[derive(Clone, Debug)]
pub struct Polls {
    every: Duration,
    backoff: Backoff,
}

impl Polls {
    /// A look about `every` so often.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            backoff: Backoff::new(RETRY, every.max(RETRY)),
        }
    }

    /// From the start to the first look.
    #[must_use]
    pub fn first(random: u64) -> Duration {
        FIRST.mul_f64(1.0 + 5.0 * share(random))
    }

    /// From a look that went well to the next.
    pub fn after_success(&mut self, random: u64) -> Duration {
        self.backoff.reset();
        self.every.mul_f64(1.0 - JITTER * share(random))
    }

    /// From a look that failed to the next.
    pub fn after_failure(&mut self, random: u64) -> Duration {
        self.backoff.next(random)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "jitter needs no more than 53 bits"
)]
fn share(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_spread_and_failures_back_off_to_the_poll() {
        let mut polls = Polls::new(Duration::from_mins(15));
        assert_eq!(Polls::first(0), FIRST);
        assert_eq!(Polls::first(u64::MAX), FIRST * 6);
        assert_eq!(polls.after_success(0), Duration::from_mins(15));
        assert_eq!(polls.after_success(u64::MAX), Duration::from_mins(12));
        let waits: Vec<u64> = (0..7)
            .map(|_| polls.after_failure(u64::MAX).as_secs())
            .collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900]);
        polls.after_success(0);
        assert_eq!(polls.after_failure(u64::MAX), RETRY);
    }
}
