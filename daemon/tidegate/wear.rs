//! What the process writes to disk, which is what wears a gateway's flash.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often a look is kept, and for how many of them: the rate is that of the last hour.
const EVERY: Duration = Duration::from_secs(60);
const LOOKS: usize = 60;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes that this process has sent to the storage layer since it started: `write_bytes` of `/proc/self/io` (proc(5)),
/// which counts pages when they become dirty. `None` on a kernel that does not count them.
pub(crate) fn written() -> Option<u64> {
    write_bytes(&std::fs::read_to_string("/proc/self/io").ok()?)
}

fn write_bytes(io: &str) -> Option<u64> {
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?
        .trim()
        .parse()
        .ok()
}

/// Looks at the count, at most one kept a minute.
#[derive(Debug, Default)]
pub(crate) struct Wear {
    /// The first look of all.
    begin: Option<u64>,
    kept: VecDeque<(Instant, u64)>,
    latest: Option<(Instant, u64)>,
}

impl Wear {
    /// Takes a look.
    pub(crate) fn look(&mut self, now: Instant, written: u64) {
        self.begin.get_or_insert(written);
        self.latest = Some((now, written));
        let due = |&(last, _): &(Instant, u64)| now.saturating_duration_since(last) >= EVERY;
        if self.kept.back().is_none_or(due) {
            if self.kept.len() >= LOOKS {
                self.kept.pop_front();
            }
            self.kept.push_back((now, written));
        }
    }

    /// Bytes since the first look.
    pub(crate) fn total(&self) -> Option<u64> {
        let (_, latest) = self.latest?;
        Some(latest.saturating_sub(self.begin?))
    }

    /// Bytes that a day would take at the rate of the last hour; `None` in the first minute.
    pub(crate) fn per_day(&self) -> Option<u64> {
        let &(since, before) = self.kept.front()?;
        let (now, written) = self.latest?;
        let span = now.saturating_duration_since(since).as_millis();
        if span < EVERY.as_millis() {
            return None;
        }
        let bytes = u128::from(written.saturating_sub(before));
        u64::try_from(bytes * DAY.as_millis() / span).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_understood() {
        let io = "rchar: 5\nwchar: 9\nsyscr: 1\nsyscw: 2\nread_bytes: 0\nwrite_bytes: 40960\ncancelled_write_bytes: 3\n";
        assert_eq!(write_bytes(io), Some(40_960));
        assert_eq!(write_bytes("rchar: 5\n"), None);
        assert_eq!(write_bytes("write_bytes: many\n"), None);
    }

    /// Looks as (second, bytes), and what a day takes then.
    #[track_caller]
    fn check(looks: &[(u64, u64)], total: Option<u64>, per_day: Option<u64>) {
        let begin = Instant::now();
        let mut wear = Wear::default();
        for &(second, written) in looks {
            wear.look(begin + Duration::from_secs(second), written);
        }
        assert_eq!(wear.total(), total);
        assert_eq!(wear.per_day(), per_day);
        assert!(wear.kept.len() <= LOOKS);
    }

    #[test]
    fn a_day_is_told_from_the_last_hour() {
        check(&[], None, None);
        check(&[(0, 1000)], Some(0), None);
        check(&[(0, 1000), (59, 9000)], Some(8000), None);
        check(&[(0, 1000), (60, 61_000)], Some(60_000), Some(86_400_000));
        // A busy hour, then a silent one: an hour later nothing of it is left.
        let looks: Vec<(u64, u64)> = (0..7300).map(|s| (s, s.min(3600) * 10)).collect();
        check(&looks, Some(36_000), Some(0));
    }
}
