//! The committed arrival clock: what closes windows. It is the greatest wall time of committed arrivals, advances with
//! the present time while nothing arrives, and runs backwards only when the machine's clock was stepped.

use tidegate_domain::Arrival;

/// A step is a change of the wall clock against the monotonic one by more than this many nanoseconds. Slewing stays far
/// below it between two arrivals.
const STEP: i64 = 1_000_000_000;

/// What the commit knows of time. Pure: arrivals come in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Nanoseconds since the epoch.
    pub(crate) committed: i64,
    /// Wall minus monotonic time of the last arrival. Unknown after a start: the monotonic clock of another boot means
    /// nothing.
    offset: Option<i64>,
    /// The next arrival counts as after a step.
    step_is_due: bool,
}

/// How one group moves the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advance {
    /// The wall clock was stepped: every open window closes here.
    pub(crate) step: Option<i64>,
    /// The clock under which the group's readings find their windows; what is due at it is closed before.
    pub(crate) observe_at: i64,
    /// The clock after the group.
    pub(crate) end_at: i64,
}

impl Clock {
    pub(crate) fn at(committed: i64) -> Self {
        Self {
            committed,
            ..Self::default()
        }
    }

    /// The clock was stepped while the process was down: the next arrival counts as after it.
    pub(crate) fn step_at_next(&mut self) {
        self.step_is_due = true;
    }

    /// Moves the clock over a group's arrivals, or to `idle` where nothing arrived.
    ///
    /// The group's readings are observed at its *first* arrival, not at the clock before it: after a long pause
    /// that would lie more than a window in the past, and at its end what arrived in time would be late.
    pub(crate) fn advance(&mut self, arrivals: &[Arrival], idle: Arrival) -> Advance {
        let idle = [idle];
        let arrivals = if arrivals.is_empty() { &idle } else { arrivals };
        let mut step = None;
        let mut first = i64::MAX;
        let mut last = i64::MIN;
        for arrival in arrivals {
            if self.stepped(arrival) {
                step = Some(arrival.wall);
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
            observe_at,
            end_at,
        }
    }

    fn stepped(&mut self, arrival: &Arrival) -> bool {
        if std::mem::take(&mut self.step_is_due) {
            return true;
        }
        // Without a monotonic time there is nothing to compare with.
        if arrival.monotonic == 0 {
            return false;
        }
        let offset = arrival.wall.saturating_sub(arrival.monotonic);
        let before = self.offset.replace(offset);
        before.is_some_and(|before| offset.abs_diff(before) > STEP.unsigned_abs())
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
    fn check(groups: &[(&[(i64, i64)], (Option<i64>, i64, i64))]) {
        let mut clock = Clock::at(100 * SECOND);
        for (arrivals, (step, observe_at, end_at)) in groups {
            let arrivals: Vec<Arrival> = arrivals.iter().copied().map(arrival).collect();
            let expect = Advance {
                step: step.map(|step| step * SECOND),
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
            (&[(2, 3602)], (Some(3602), 3602, 3602)),
            (&[(3, 3603)], (None, 3603, 3603)),
            (&[(4, 104), (5, 105)], (Some(104), 104, 105)),
            (&[(5000, 5100)], (None, 5100, 5100)),
        ]);
    }
}
