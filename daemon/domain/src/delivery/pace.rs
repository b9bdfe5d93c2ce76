//! How many bytes may be on their way over a line of this speed.

use std::time::Duration;

/// How much longer than the shortest a message may take to be acknowledged before the line counts as full.
const QUEUED: Duration = Duration::from_secs(2);

/// Where the window begins with every connection: what a line of 8 KiB/s carries in four seconds.
const FIRST: usize = 32 * 1024;

/// Fewer bytes than this are not worth a wait for the other end.
const LEAST: usize = 4 * 1024;

/// The window in bytes, between [`LEAST`] and what is configured.
///
/// A slow line takes as many bytes into its buffers as it is given, and what is new waits behind all of them. So the
/// window begins small and grows by what is acknowledged. It halves when acknowledgements come late, measured against the
/// quickest of the connection, and from then on grows by one message for each of its lengths while they come in time. Where
/// they come late even with the least window it is the way that became long, or a message that is: that counts as the
/// quickest from then on.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    bytes: usize,
    quickest: Option<Duration>,
    /// When it was halved last: what was sent before says nothing of the window since.
    halved: Option<Duration>,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            bytes: most.min(FIRST),
            quickest: None,
            halved: None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The line was full with fewer bytes than are configured, and has not taken all of them since.
    pub(super) fn is_slow(&self) -> bool {
        self.halved.is_some() && self.bytes < self.most
    }

    /// A message of `bytes` that was sent at `sent` is acknowledged.
    pub(super) fn acknowledged(&mut self, now: Duration, sent: Duration, bytes: usize) {
        let took = now.saturating_sub(sent);
        let quickest = self.quickest.map_or(took, |known| known.min(took));
        self.quickest = Some(quickest);
        if took.saturating_sub(quickest) < QUEUED {
            let more = match self.halved {
                None => bytes,
                Some(_) => (bytes.saturating_mul(bytes) / self.bytes.max(1)).clamp(1, bytes.max(1)),
            };
            self.bytes = self.bytes.saturating_add(more).min(self.most);
        } else if self.halved.is_none_or(|at| sent >= at) {
            let least = LEAST.min(self.most);
            if self.bytes == least {
                self.quickest = Some(took);
            }
            self.bytes = (self.bytes / 2).max(least);
            self.halved = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A line that carries so many bytes a second and answers after `answer`; returns how long the last of `messages`
    /// took, and how many bytes left a second.
    fn line(rate: f64, answer: Duration, size: usize, most: usize, messages: usize) -> (f64, f64) {
        let mut pace = Pace::new(most);
        let mut now = Duration::ZERO;
        let mut free = Duration::ZERO;
        let mut flight: VecDeque<(Duration, Duration)> = VecDeque::new();
        let mut took = Duration::ZERO;
        for _ in 0..messages {
            while !flight.is_empty() && (flight.len() + 1) * size > pace.bytes() {
                let (sent, answered) = flight.pop_front().unwrap();
                now = now.max(answered);
                took = now - sent;
                pace.acknowledged(now, sent, size);
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let carried = Duration::from_secs_f64(size as f64 / rate);
            free = free.max(now) + carried;
            flight.push_back((now, free + answer));
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let rate = (messages * size) as f64 / now.as_secs_f64();
        (took.as_secs_f64(), rate)
    }

    #[test]
    fn a_slow_line_is_kept_full_without_a_queue_of_minutes() {
        let mib = 1024 * 1024;
        let check = |rate: f64, answer: u64, size, most_took: f64| {
            let (took, carried) = line(rate, Duration::from_millis(answer), size, mib, 20_000);
            assert!(took <= most_took, "{rate}: {took} s");
            assert!(carried >= 0.9 * rate, "{rate}: {carried} bytes a second");
        };
        check(1e9, 0, 500, 0.1);
        check(64e3, 50, 500, 4.5);
        check(64e3, 700, 500, 5.5);
        check(8e3, 50, 500, 5.0);
        check(8e3, 50, 16_000, 6.5);
    }

    #[test]
    fn a_long_way_is_no_slow_line() {
        let mut pace = Pace::new(1000);
        for second in 0..100 {
            let sent = Duration::from_secs(second);
            pace.acknowledged(sent + Duration::from_secs(5), sent, 10);
            assert_eq!(pace.bytes(), 1000);
        }
    }

    #[test]
    fn a_way_that_becomes_long_is_filled_again() {
        let mut pace = Pace::new(1_000_000);
        let mut now = Duration::ZERO;
        let mut widest = 0;
        for round in 0..400 {
            let answer = Duration::from_millis(if round < 3 { 50 } else { 3000 });
            let (sent, window) = (now, pace.bytes());
            now += answer;
            for _ in 0..(window / 1000).max(1) {
                pace.acknowledged(now, sent, 1000);
            }
            widest = window;
        }
        assert!(widest > 200_000, "{widest}");
    }
}
