//! Which broker of several is tried next.

use std::time::Duration;

/// Attempts in a row that a broker may fail before the next one is tried.
pub const ATTEMPTS_BEFORE_FAILOVER: u32 = 3;

/// The brokers of an uplink in the order of preference, and which of them has its turn.
///
/// An attempt fails when nothing was acknowledged on it. After the third failure the next broker has its turn, in a
/// ring. Away from the first one, `failback` after the present one proved itself the first is tried again: once, and
/// if that fails the turn goes back to where messages got through.
#[derive(Debug)]
pub struct Brokers {
    count: usize,
    failback: Duration,
    turn: usize,
    failures: u32,
    /// Where messages got through last.
    proved: usize,
    /// When the way back to the first is looked at again; while away from it.
    look: Option<Duration>,
    returning: bool,
}

impl Brokers {
    /// `count` of them, at least one; the turn is the first one's.
    #[must_use]
    pub fn new(count: usize, failback: Duration) -> Self {
        Self {
            count: count.max(1),
            failback,
            turn: 0,
            failures: 0,
            proved: 0,
            look: None,
            returning: false,
        }
    }

    /// Whose turn it is.
    #[must_use]
    pub fn turn(&self) -> usize {
        self.turn
    }

    /// Attempts in a row that failed at this broker.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Something was acknowledged.
    pub fn proved(&mut self, now: Duration) {
        self.failures = 0;
        self.returning = false;
        self.proved = self.turn;
        if self.turn == 0 {
            self.look = None;
        } else {
            self.look.get_or_insert(now + self.failback);
        }
    }

    /// An attempt ended on which nothing was acknowledged. Says whether another broker has its turn now, which is then
    /// tried without a wait.
    pub fn failed(&mut self, now: Duration) -> bool {
        if self.returning {
            self.returning = false;
            self.turn = self.proved;
            self.look = Some(now + self.failback);
            return true;
        }
        self.failures += 1;
        if self.failures < ATTEMPTS_BEFORE_FAILOVER || self.count == 1 {
            return false;
        }
        self.failures = 0;
        self.turn = (self.turn + 1) % self.count;
        self.look = None;
        true
    }

    /// Whether it is time to look whether the first broker can be reached.
    #[must_use]
    pub fn looks_back(&self, now: Duration) -> bool {
        self.turn != 0 && self.look.is_some_and(|at| now >= at)
    }

    /// The first cannot be reached: the next look is a while later.
    pub fn stays(&mut self, now: Duration) {
        self.look = Some(now + self.failback);
    }

    /// The present connection comes to an orderly end, and the turn is the first one's.
    pub fn returns(&mut self) {
        self.turn = 0;
        self.failures = 0;
        self.look = None;
        self.returning = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILBACK: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn after_three_failures_the_next_has_its_turn_in_a_ring() {
        let check = |count: usize, expect: &[usize]| {
            let mut brokers = Brokers::new(count, FAILBACK);
            let turns: Vec<usize> = (0..expect.len())
                .map(|_| {
                    let turn = brokers.turn();
                    let moved = brokers.failed(at(0));
                    assert_eq!(moved, brokers.turn() != turn);
                    turn
                })
                .collect();
            assert_eq!(turns, expect);
        };
        check(1, &[0; 8]);
        check(2, &[0, 0, 0, 1, 1, 1, 0, 0, 0, 1]);
        check(3, &[0, 0, 0, 1, 1, 1, 2, 2, 2, 0]);
    }

    #[test]
    fn a_success_starts_the_count_over() {
        let mut brokers = Brokers::new(2, FAILBACK);
        for _ in 0..10 {
            assert!(!brokers.failed(at(0)) && !brokers.failed(at(0)));
            brokers.proved(at(0));
        }
        assert_eq!(brokers.turn(), 0);
        assert!(!brokers.looks_back(at(100_000)), "it is where it belongs");
    }

    fn away() -> Brokers {
        let mut brokers = Brokers::new(3, FAILBACK);
        while brokers.turn() != 2 {
            brokers.failed(at(0));
        }
        brokers
    }

    #[test]
    fn the_way_back_is_looked_at_after_a_while_that_no_lost_connection_prolongs() {
        let mut brokers = away();
        assert!(!brokers.looks_back(at(9999)), "nothing got through yet");
        brokers.proved(at(10));
        brokers.failed(at(300));
        brokers.proved(at(400));
        assert!(!brokers.looks_back(at(609)));
        assert!(brokers.looks_back(at(610)));
        brokers.stays(at(610));
        assert!(!brokers.looks_back(at(1209)));
        assert!(brokers.looks_back(at(1210)));
        brokers.returns();
        assert_eq!(brokers.turn(), 0);
        brokers.proved(at(1211));
        assert!(!brokers.looks_back(at(99_999)));
        assert!(!brokers.failed(at(1300)), "three attempts as at the start");
    }

    #[test]
    fn a_return_that_fails_leads_back_at_once() {
        let mut brokers = away();
        brokers.proved(at(0));
        brokers.returns();
        assert!(brokers.failed(at(700)));
        assert_eq!(brokers.turn(), 2, "to where messages got through");
        assert!(!brokers.looks_back(at(1299)));
        brokers.proved(at(701));
        assert!(brokers.looks_back(at(1300)));
    }
}
