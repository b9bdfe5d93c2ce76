//! The committed arrival clock: what closes windows. It is the greatest wall time of committed arrivals, advances with
//! the present time while nothing arrives, and runs backwards only when the machine's clock was stepped.
//!
//! Beside it: whether the machine's clock was set in this boot, and the clock by which history grows old.

use tidegate_domain::Arrival;

/// A step is a change of the wall clock against the monotonic one by more than this many nanoseconds. Slewing changes
/// both alike.
const STEP: i64 = 1_000_000_000;

/// A wall clock that is further ahead of what is known than this has to prove itself before anything grows old by it:
/// for as long by the monotonic clock. Nanoseconds, a day.
const TRUST: i64 = 86_400_000_000_000;

/// What the commit knows of time. Pure: arrivals come in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Nanoseconds since the epoch.
    pub(crate) committed: i64,
    /// Wall minus monotonic time of the last arrival. Unknown in a new boot: the monotonic clock of another one means
    /// nothing.
    pub(crate) offset: Option<i64>,
    /// The same, of the first arrival of this boot at which the clock was known to be set.
    pub(crate) set: Option<i64>,
    /// The next arrival counts as after a step.
    step_is_due: bool,
}

/// How one group moves the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advance {
    /// The wall clock was stepped: every open window closes here.
    pub(crate) step: Option<i64>,
    /// By how much, where that is known; nanoseconds.
    pub(crate) stepped_by: Option<i64>,
    /// The clock under which the group's readings find their windows; what is due at it is closed before.
    pub(crate) observe_at: i64,
    /// The clock after the group.
    pub(crate) end_at: i64,
}

impl Clock {
    /// A clock as it was committed. `offset` and `set` are those of the present boot.
    pub(crate) fn at(committed: i64, offset: Option<i64>, set: Option<i64>) -> Self {
        Self {
            committed,
            offset,
            set,
            step_is_due: false,
        }
    }

    /// The clock was stepped while the process was down, or is set only now: the next arrival counts as after it.
    pub(crate) fn step_at_next(&mut self) {
        self.step_is_due = true;
    }

    /// The offset that the clock was set to in this boot, as far as it is known before a group of these arrivals
    /// commits at `idle`, or by it.
    pub(crate) fn set_by(&self, arrivals: &[Arrival], idle: Arrival) -> Option<i64> {
        let is_set = |arrival: &&Arrival| arrival.synced && arrival.monotonic != 0;
        self.set.or_else(|| {
            let mut all = arrivals.iter().chain([&idle]);
            all.find(is_set).map(offset_of)
        })
    }

    /// Moves the clock over a group's arrivals, or to `idle` where nothing arrived.
    ///
    /// The group's readings are observed at its *first* arrival, not at the clock before it: after a long pause
    /// that would lie more than a window in the past, and at its end what arrived in time would be late.
    pub(crate) fn advance(&mut self, arrivals: &[Arrival], idle: Arrival) -> Advance {
        let idle = [idle];
        let arrivals = if arrivals.is_empty() { &idle } else { arrivals };
        let mut step = None;
        let mut stepped_by = None;
        let mut first = i64::MAX;
        let mut last = i64::MIN;
        for arrival in arrivals {
            let due = std::mem::take(&mut self.step_is_due);
            let by = self.moved(arrival).filter(|by| by.abs() > STEP);
            if due || by.is_some() {
                step = Some(arrival.wall);
                stepped_by = match (stepped_by, by) {
                    (Some(before), Some(by)) => Some(i64::saturating_add(before, by)),
                    (before, by) => by.or(before),
                };
                (first, last) = (arrival.wall, arrival.wall);
            }
            first = first.min(arrival.wall);
            last = last.max(arrival.wall);
        }
        let before = step.unwrap_or(self.committed);
        let observe_at = before.max(first);
        let end_at = observe_at.max(last);
        self.committed = end_at;
        Advance {
            step,
            stepped_by,
            observe_at,
            end_at,
        }
    }

    /// Whether the clock was set or stepped by now: worth a commit of its own, though nothing arrived.
    pub(crate) fn is_news(&self, now: Arrival) -> bool {
        let set = self.set.is_none() && self.set_by(&[], now).is_some();
        let mut after = *self;
        set || after.moved(&now).is_some_and(|by| by.abs() > STEP)
    }

    /// By how much the wall clock moved against the monotonic one since the last arrival.
    fn moved(&mut self, arrival: &Arrival) -> Option<i64> {
        // Without a monotonic time there is nothing to compare with.
        if arrival.monotonic == 0 {
            return None;
        }
        let offset = offset_of(arrival);
        let before = self.offset.replace(offset)?;
        Some(offset.saturating_sub(before))
    }
}

/// Wall minus monotonic time.
pub(crate) fn offset_of(arrival: &Arrival) -> i64 {
    arrival.wall.saturating_sub(arrival.monotonic)
}

/// The clock by which history grows old. It follows the wall clock while that is set, but not at once when it leaps
/// ahead: a clock that is years ahead for an hour must not cost the history of a month. After a long time without power
/// nothing is lost by waiting either, for the bound in bytes holds all the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AgeClock {
    /// Nanoseconds since the epoch; `None` before the clock was first known to be set.
    pub(crate) at: Option<i64>,
    /// What it had been when the monotonic clock began, as far as it ran in this process.
    began: Option<i64>,
    /// Since when, by the monotonic clock, the wall clock is too far ahead to be believed.
    doubted_since: Option<i64>,
}

impl AgeClock {
    pub(crate) fn new(at: Option<i64>) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    /// What the clock would say now; `None` while nothing grows old.
    pub(crate) fn peek(mut self, now: Arrival) -> Option<i64> {
        self.advance(now)
    }

    /// Moves on to the present time and returns it; `None` while nothing grows old.
    pub(crate) fn advance(&mut self, now: Arrival) -> Option<i64> {
        if !now.synced {
            return None;
        }
        // Where it should be by now; after a start nobody knows how long it stood.
        let passed = self.began.map(|began| began.saturating_add(now.monotonic));
        let should = passed.max(self.at);
        if should.is_some_and(|at| now.wall > at.saturating_add(TRUST)) {
            let since = *self.doubted_since.get_or_insert(now.monotonic);
            if now.monotonic.saturating_sub(since) < TRUST {
                return None;
            }
        }
        self.doubted_since = None;
        self.began = Some(offset_of(&now));
        self.at = Some(now.wall);
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn arrival((monotonic, wall): (i64, i64)) -> Arrival {
        Arrival {
            monotonic: monotonic * SECOND,
            wall: wall * SECOND,
            synced: true,
        }
    }

    /// Groups of arrivals in seconds, and what each does to a clock that stood at 100.
    #[track_caller]
    fn check(groups: &[(&[(i64, i64)], (Option<(i64, i64)>, i64, i64))]) {
        let mut clock = Clock::at(100 * SECOND, None, None);
        for (arrivals, (step, observe_at, end_at)) in groups {
            let arrivals: Vec<Arrival> = arrivals.iter().copied().map(arrival).collect();
            let expect = Advance {
                step: step.map(|(step, _)| step * SECOND),
                stepped_by: step.map(|(_, by)| by * SECOND),
                observe_at: observe_at * SECOND,
                end_at: end_at * SECOND,
            };
            assert_eq!(clock.advance(&arrivals, arrival((0, 50))), expect);
        }
    }

    #[test]
    fn readings_are_observed_at_the_first_arrival_and_the_clock_ends_at_the_last() {
        check(&[
            (&[(1, 101), (2, 102)], (None, 101, 102)),
            (&[(1, 101), (3, 103)], (None, 102, 103)),
            (&[], (None, 103, 103)),
            (&[(900, 1000)], (None, 1000, 1000)),
        ]);
    }

    #[test]
    fn a_step_is_seen_in_both_directions_and_time_passing_is_none() {
        check(&[
            (&[(1, 101)], (None, 101, 101)),
            (&[(2, 3602)], (Some((3602, 3500)), 3602, 3602)),
            (&[(3, 3603)], (None, 3603, 3603)),
            (&[(4, 104), (5, 105)], (Some((104, -3500)), 104, 105)),
            (&[(5000, 5100)], (None, 5100, 5100)),
            (
                &[(5001, 5201), (5002, 5302)],
                (Some((5302, 200)), 5302, 5302),
            ),
        ]);
    }

    #[test]
    fn a_step_across_a_restart_is_seen_within_a_boot_alone() {
        let offset = Some(100 * SECOND);
        let mut clock = Clock::at(100 * SECOND, offset, offset);
        assert_eq!(
            clock.advance(&[arrival((5, 105))], arrival((5, 105))).step,
            None
        );
        let mut clock = Clock::at(100 * SECOND, offset, offset);
        let advance = clock.advance(&[arrival((5, 205))], arrival((5, 205)));
        assert_eq!(advance.stepped_by, Some(100 * SECOND));
        let mut clock = Clock::at(100 * SECOND, None, None);
        assert_eq!(
            clock.advance(&[arrival((5, 905))], arrival((5, 905))).step,
            None
        );
        clock.step_at_next();
        let advance = clock.advance(&[arrival((6, 906))], arrival((6, 906)));
        assert_eq!(
            (advance.step, advance.stepped_by),
            (Some(906 * SECOND), None)
        );
    }

    #[test]
    fn the_first_arrival_that_is_set_tells_the_offset_for_the_whole_boot() {
        let unset = |(monotonic, wall)| Arrival {
            synced: false,
            ..arrival((monotonic, wall))
        };
        let clock = Clock::at(0, None, None);
        assert_eq!(clock.set_by(&[unset((5, 6))], unset((6, 7))), None);
        let both = [unset((5, 6)), arrival((6, 1006)), arrival((7, 5007))];
        assert_eq!(clock.set_by(&both, arrival((8, 9008))), Some(1000 * SECOND));
        assert_eq!(
            clock.set_by(&[unset((5, 6))], arrival((6, 106))),
            Some(100 * SECOND)
        );
        let set = Clock::at(0, None, Some(SECOND));
        assert_eq!(set.set_by(&both, arrival((8, 9008))), Some(SECOND));
    }

    #[test]
    fn history_grows_old_by_a_clock_that_is_set_and_proved() {
        let day = TRUST / SECOND;
        let at = |clock: AgeClock| clock.at.map(|at| at / SECOND);
        let mut clock = AgeClock::new(None);
        let unset = Arrival {
            synced: false,
            ..arrival((1, 60))
        };
        assert_eq!(clock.advance(unset), None);
        assert_eq!(clock.advance(arrival((1, 1000))), Some(1000 * SECOND));
        // Backwards at once, and forwards by up to a day.
        assert_eq!(clock.advance(arrival((2, 500))), Some(500 * SECOND));
        assert_eq!(
            clock.advance(arrival((3, 500 + day))),
            Some((500 + day) * SECOND)
        );
        // Time that passed is no leap.
        let clock_before = clock;
        assert_eq!(
            clock.advance(arrival((3 + 90 * day, 500 + 91 * day))),
            Some((500 + 91 * day) * SECOND)
        );
        clock = clock_before;
        // A leap of years is not believed for a day, and forgotten when it is taken back.
        let years = 4000 * day;
        assert_eq!(clock.advance(arrival((4, years))), None);
        assert_eq!(clock.advance(arrival((4 + day - 1, years + day - 1))), None);
        assert_eq!(at(clock), Some(500 + day));
        assert_eq!(
            clock.advance(arrival((4 + day, 501 + day))),
            Some((501 + day) * SECOND)
        );
        assert_eq!(clock.advance(arrival((5 + day, years))), None);
        assert_eq!(
            clock.peek(arrival((5 + 2 * day, years + day))),
            Some((years + day) * SECOND)
        );
        assert_eq!(
            clock.advance(arrival((5 + 2 * day, years + day))),
            Some((years + day) * SECOND)
        );
    }
}
