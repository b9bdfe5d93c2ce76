//! When a filter that keeps failing is left alone.

use std::time::{Duration, Instant};

/// Failed batches in a row that open the breaker.
pub(crate) const FAILURES: u32 = 5;
/// The first pause; each failed probe doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a filter that recovers is back within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Closed: every batch runs. Open: none does until a time. Then one batch is the probe, and decides.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
}

/// What the page shows of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum BreakerState {
    /// The filter runs.
    Closed = 0,
    /// The filter is left out for a while: it failed too often.
    Open = 1,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self {
            failures: 0,
            open: None,
        }
    }

    /// Whether the next batch may run.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        self.open.as_ref().is_none_or(|open| now >= open.until)
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::new();
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match &self.open {
            Some(open) => (open.pause * 2).min(LONGEST_PAUSE),
            None if self.failures >= FAILURES => FIRST_PAUSE,
            None => return,
        };
        self.open = Some(Open {
            until: now + pause,
            pause,
        });
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.open {
            Some(_) => BreakerState::Open,
            None => BreakerState::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_probes_with_one_batch_and_backs_off() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new();
        for _ in 1..FAILURES {
            breaker.failed(at(0));
        }
        breaker.succeeded();
        for _ in 1..FAILURES {
            breaker.failed(at(0));
            assert!(breaker.admits(at(0)), "not yet {FAILURES} in a row");
        }
        breaker.failed(at(0));
        assert!(!breaker.admits(at(0)));
        // Each probe fails: the pauses are 1, 2, 4 … 60, 60 s.
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!breaker.admits(at(now + pause) - Duration::from_millis(1)));
            now += pause;
            assert!(breaker.admits(at(now)));
            breaker.failed(at(now));
        }
        breaker.succeeded();
        assert!(breaker.admits(at(now)));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
