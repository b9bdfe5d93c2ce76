//! The cap on a line's bytes.

use std::time::Duration;

const NANOS: i128 = 1_000_000_000;

/// A token bucket: it fills at a rate, holds what comes in one second, and every byte sent takes from it.
///
/// A message leaves when the bucket holds it, or is full; what it takes beyond the content is a debt that those after it
/// wait for. Alarms do not wait for content: they leave until the debt is a whole bucket. So in any time `t` no more
/// leaves than `rate · t`, one bucket for a burst, one for alarms, and one message.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bytes a second; at least one.
    rate: u64,
    /// Bytes times 10⁹, so that nothing is rounded away however often time is asked for.
    content: i128,
    filled: Duration,
}

impl Bucket {
    /// A full bucket of `rate` bytes.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        Self {
            rate,
            content: i128::from(rate) * NANOS,
            filled: Duration::ZERO,
        }
    }

    /// What it holds at most, in bytes: what a second brings.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.rate
    }

    /// How long until `bytes` may leave; zero for now.
    #[must_use]
    pub fn wait(&mut self, now: Duration, bytes: usize, alarm: bool) -> Duration {
        self.fill(now);
        let needed = if alarm {
            // More than an empty bucket of debt, or it would never be less than a whole one.
            1 - self.full()
        } else {
            self.full().min(in_bucket(bytes))
        };
        let missing = (needed - self.content).max(0);
        let rate = i128::from(self.rate);
        let nanos = (missing + rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// `bytes` leave.
    pub fn take(&mut self, now: Duration, bytes: usize) {
        self.fill(now);
        self.content = self.content.saturating_sub(in_bucket(bytes));
    }

    fn full(&self) -> i128 {
        i128::from(self.rate) * NANOS
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_nanos();
        let came = i128::try_from(passed)
            .unwrap_or(i128::MAX)
            .saturating_mul(i128::from(self.rate));
        self.content = self.content.saturating_add(came).min(self.full());
        self.filled = self.filled.max(now);
    }
}

fn in_bucket(bytes: usize) -> i128 {
    i128::try_from(bytes)
        .unwrap_or(i128::MAX)
        .saturating_mul(NANOS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_second_s_worth_leaves_at_once_and_the_rest_at_the_rate() {
        let mut bucket = Bucket::new(1000);
        for _ in 0..4 {
            assert_eq!(bucket.wait(millis(0), 250, false), Duration::ZERO);
            bucket.take(millis(0), 250);
        }
        assert_eq!(bucket.wait(millis(0), 250, false), millis(250));
        assert_eq!(bucket.wait(millis(100), 250, false), millis(150));
        assert_eq!(bucket.wait(millis(250), 250, false), Duration::ZERO);
        bucket.take(millis(250), 250);
        // An hour of silence saves no more than a second.
        assert_eq!(bucket.wait(millis(3_600_000), 1000, false), Duration::ZERO);
        bucket.take(millis(3_600_000), 1000);
        assert_eq!(bucket.wait(millis(3_600_000), 1, false), millis(1));
    }

    #[test]
    fn a_message_larger_than_the_bucket_leaves_when_it_is_full_and_the_next_pays() {
        let mut bucket = Bucket::new(1000);
        assert_eq!(bucket.wait(millis(0), 5000, false), Duration::ZERO);
        bucket.take(millis(0), 5000);
        assert_eq!(bucket.wait(millis(0), 10, false), millis(4010));
    }

    #[test]
    fn an_alarm_waits_for_no_content_but_not_for_ever_more_debt() {
        let mut bucket = Bucket::new(1000);
        bucket.take(millis(0), 1000);
        for _ in 0..10 {
            assert_eq!(bucket.wait(millis(0), 100, true), Duration::ZERO);
            bucket.take(millis(0), 100);
        }
        let wait = bucket.wait(millis(0), 100, true);
        assert!(wait > Duration::ZERO && wait <= millis(1), "{wait:?}");
        assert_eq!(bucket.wait(millis(0), 100, false), millis(1100));
    }

    proptest! {
        /// In every span of time no more leaves than the rate and the bursts allow, and what waits leaves in the end.
        #[test]
        fn no_span_of_time_carries_more_than_was_promised(
            rate in 1u64..5000,
            sends in proptest::collection::vec((0u64..400, 1usize..9000, proptest::bool::weighted(0.2)), 1..80),
        ) {
            let mut bucket = Bucket::new(rate);
            let mut now = Duration::ZERO;
            let mut log: Vec<(Duration, u64, bool)> = Vec::new();
            for (pause, bytes, alarm) in sends {
                now += millis(pause);
                now += bucket.wait(now, bytes, alarm);
                prop_assert_eq!(bucket.wait(now, bytes, alarm), Duration::ZERO);
                bucket.take(now, bytes);
                log.push((now, bytes as u64, alarm));
            }
            for from in 0..log.len() {
                let mut sum = 0;
                let mut largest = 0;
                let mut alarms = false;
                for (at, bytes, alarm) in &log[from..] {
                    sum += bytes;
                    largest = largest.max(*bytes);
                    alarms |= alarm;
                    let span = (*at - log[from].0).as_secs_f64();
                    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                    let allowed = rate as f64 * (span + if alarms { 2.0 } else { 1.0 }) + largest as f64;
                    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                    let left = sum as f64;
                    prop_assert!(left <= allowed + 1.0, "{} in {} s at {}", sum, span, rate);
                }
            }
        }
    }
}
