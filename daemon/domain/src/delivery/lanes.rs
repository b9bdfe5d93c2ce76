//! Which message leaves next where new data and a backlog want the same line.
//!
//! Alarms leave first, by number. Then higher priorities leave before lower ones, as the configuration says; within one
//! priority the *live* lane, what was sealed a moment ago, and the *backlog*, everything before, share the line's bytes.
//! What one lane does not use the other has.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Numbers, Window};

/// For how long a sealed message counts as live. On a line that is slower than the data this is how old the newest
/// data that arrives is; what falls behind is backlog.
pub const LIVE_FOR: Duration = Duration::from_secs(30);

/// Commits that lie closer together than this count as one moment, which bounds what is remembered.
const MOMENT: Duration = Duration::from_secs(1);

/// One of the two that share a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Sealed within the last [`LIVE_FOR`].
    Live,
    /// Sealed before.
    Backlog,
}

/// How bytes are shared between the lanes: a deficit that says which of them is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Live data's part, in thousandths.
    live: u16,
    /// Bytes times thousandths that the live lane had beyond its part; negative where the backlog had.
    ahead: i64,
}

impl Share {
    /// Live data's part of the bytes in thousandths: 0 for what the backlog leaves, 1000 for everything it can use.
    #[must_use]
    pub fn new(live: u16) -> Self {
        Self {
            live: live.min(1000),
            ahead: 0,
        }
    }

    /// Which lane goes next, of those in which something waits.
    #[must_use]
    pub fn next(&self, live: bool, backlog: bool) -> Option<Lane> {
        match (live, backlog) {
            (false, false) => None,
            (true, false) => Some(Lane::Live),
            (false, true) => Some(Lane::Backlog),
            (true, true) if self.live > 0 && self.ahead <= 0 => Some(Lane::Live),
            (true, true) => Some(Lane::Backlog),
        }
    }

    /// `bytes` of a lane leave. Only where the other lane waited as well does it count: nobody is in debt for what
    /// nobody else wanted.
    pub fn took(&mut self, lane: Lane, bytes: usize, contended: bool) {
        if !contended {
            return;
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let live = i64::from(self.live);
        self.ahead = match lane {
            Lane::Live => self.ahead.saturating_add(bytes.saturating_mul(1000 - live)),
            Lane::Backlog => self.ahead.saturating_sub(bytes.saturating_mul(live)),
        };
    }
}

/// Where the backlog ends: the highest number that was sealed longer ago than [`LIVE_FOR`].
///
/// Age is counted on a monotonic clock from the moment in which the number was heard of, through connections and
/// outages, so that a line that breaks every few seconds does not make a backlog of everything. What was sealed before
/// the start is backlog.
#[derive(Debug, Default)]
pub struct Horizon {
    mark: Option<u64>,
    /// Moments, and the highest number sealed in each.
    sealed: VecDeque<(Duration, u64)>,
}

impl Horizon {
    /// Everything up to `seq` was sealed by `now`.
    pub fn sealed(&mut self, now: Duration, seq: u64) {
        self.pass(now);
        match self.sealed.back_mut() {
            Some((_, known)) if *known >= seq => {}
            Some((at, known)) if now.saturating_sub(*at) < MOMENT => *known = seq,
            Some(_) | None => self.sealed.push_back((now, seq)),
        }
    }

    /// The highest number of the backlog, or `None` while nothing is known: then everything is.
    pub fn mark(&mut self, now: Duration) -> Option<u64> {
        self.pass(now);
        self.mark
    }

    /// The first look at the outbox after a start found `seq` sealed.
    pub fn begin(&mut self, seq: u64) {
        self.mark.get_or_insert(seq);
    }

    fn pass(&mut self, now: Duration) {
        while let Some(&(at, seq)) = self.sealed.front()
            && now.saturating_sub(at) >= LIVE_FOR
        {
            self.mark = self.mark.max(Some(seq));
            self.sealed.pop_front();
        }
    }
}

/// What is asked of the outbox in one look.
#[derive(Clone, Debug)]
pub struct Request {
    /// Messages that must not be given: on their way, or settled and perhaps not yet deleted.
    pub exclude: Numbers,
    /// How much at most; one message may exceed the bytes.
    pub room: Window,
    /// Alarms alone: others have no room yet.
    pub alarms_only: bool,
    /// The highest number of the backlog.
    pub mark: u64,
    /// How live data and backlog share; it comes back with what was given charged to it.
    pub share: Share,
}

impl Request {
    /// Whether one more message of `bytes` fits after `taken` with `bytes_taken`.
    #[must_use]
    pub fn fits(&self, taken: usize, bytes_taken: usize, bytes: usize) -> bool {
        taken < self.room.messages
            && (taken == 0 || bytes_taken.saturating_add(bytes) <= self.room.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The share of live bytes where both lanes are always full, of messages of these sizes.
    fn split(live: u16, sizes: (usize, usize), messages: usize) -> f64 {
        let mut share = Share::new(live);
        let (mut of_live, mut all) = (0, 0);
        for _ in 0..messages {
            let lane = share.next(true, true).unwrap();
            let bytes = match lane {
                Lane::Live => sizes.0,
                Lane::Backlog => sizes.1,
            };
            share.took(lane, bytes, true);
            of_live += if lane == Lane::Live { bytes } else { 0 };
            all += bytes;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let part = of_live as f64 / all as f64;
        part
    }

    #[test]
    fn bytes_are_shared_and_not_messages() {
        let check = |live: u16, sizes, expect: f64| {
            let part = split(live, sizes, 20_000);
            assert!((part - expect).abs() < 0.01, "{live} of {sizes:?}: {part}");
        };
        check(500, (100, 100), 0.5);
        check(500, (100, 9000), 0.5);
        check(500, (9000, 100), 0.5);
        check(250, (300, 700), 0.25);
        check(900, (700, 300), 0.9);
        check(0, (100, 100), 0.0);
        check(1000, (100, 100), 1.0);
    }

    #[test]
    fn what_one_lane_leaves_the_other_has_without_a_debt() {
        for live in [0, 500, 1000] {
            let mut share = Share::new(live);
            for _ in 0..100 {
                let lane = share.next(true, false).unwrap();
                assert_eq!(lane, Lane::Live);
                share.took(lane, 1_000_000, false);
            }
            assert_eq!(share, Share::new(live));
            assert_eq!(share.next(false, true), Some(Lane::Backlog));
            assert_eq!(share.next(false, false), None);
        }
    }

    #[test]
    fn the_horizon_follows_at_a_distance() {
        let at = Duration::from_secs;
        let mut horizon = Horizon::default();
        assert_eq!(horizon.mark(at(0)), None);
        horizon.sealed(at(5), 120);
        horizon.begin(100);
        assert_eq!(horizon.mark(at(6)), Some(100));
        horizon.sealed(at(20), 130);
        horizon.sealed(at(20), 140);
        assert_eq!(horizon.mark(at(34)), Some(100));
        assert_eq!(horizon.mark(at(35)), Some(120));
        assert_eq!(horizon.mark(at(50)), Some(140));
        horizon.begin(1);
        assert_eq!(horizon.mark(at(500)), Some(140), "it begins once");
    }

    proptest! {
        /// Neither lane falls behind its part by more than a message of each, however they come and go.
        #[test]
        fn neither_lane_starves(
            live in 1u16..1000,
            heads in proptest::collection::vec((1i64..5000, 1i64..5000), 1..300),
        ) {
            let mut share = Share::new(live);
            let (mut of_live, mut of_backlog) = (0_i64, 0_i64);
            for (live_bytes, backlog_bytes) in heads {
                let lane = share.next(true, true).unwrap();
                let bytes = match lane { Lane::Live => live_bytes, Lane::Backlog => backlog_bytes };
                share.took(lane, usize::try_from(bytes).unwrap(), true);
                match lane {
                    Lane::Live => of_live += bytes,
                    Lane::Backlog => of_backlog += bytes,
                }
                let part = i64::from(live);
                let ahead = of_live * (1000 - part) - of_backlog * part;
                prop_assert!(ahead <= 5000 * (1000 - part));
                prop_assert!(ahead >= -5000 * part);
            }
        }

        /// What is remembered is bounded, and the mark never goes back and never names what is live.
        #[test]
        fn the_horizon_is_bounded_and_monotonic(
            commits in proptest::collection::vec((0u64..3000, 0u64..50), 1..400),
        ) {
            let mut horizon = Horizon::default();
            horizon.begin(0);
            let (mut now, mut seq, mut last) = (Duration::ZERO, 0, 0);
            let mut log = Vec::new();
            for (pause, sealed) in commits {
                now += Duration::from_millis(pause);
                seq += sealed;
                log.push((now, seq));
                horizon.sealed(now, seq);
                let mark = horizon.mark(now).unwrap();
                prop_assert!(mark >= last);
                last = mark;
                prop_assert!(horizon.sealed.len() <= 31);
                // Sealed a moment more than LIVE_FOR ago: backlog. Sealed a moment less: live.
                let before = |age: Duration| {
                    let old = log.iter().rev().find(|(at, _)| now - *at >= age);
                    old.map_or(0, |(_, seq)| *seq)
                };
                prop_assert!(mark >= before(LIVE_FOR + MOMENT));
                prop_assert!(mark <= before(LIVE_FOR - MOMENT));
            }
        }
    }
}
