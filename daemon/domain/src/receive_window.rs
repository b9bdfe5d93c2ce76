//! How many messages a source sends without an acknowledgement (DESIGN 2): when that many wait for the open commit
//! group, nothing more will come, and waiting for `linger` is idle time.
//!
//! MQTT 5 announces the number. On 3.1.1 it is a setting of the broker that the protocol does not carry, so that it
//! is learned: where linger runs out three times in a row with the same number in flight, the broker has evidently
//! stopped there.

/// The number at which learning believes what it sees: linger ran out this often in a row with the same number.
const AGREE: u32 = 3;

/// Windows below this commit when they are full; larger ones at half, so that the other half is under way
/// while the commit runs.
const SMALL: u32 = 64;

/// The receive window of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveWindow {
    window: u32,
    learns: bool,
    seen: u32,
    times: u32,
}

impl ReceiveWindow {
    /// A window that both sides know. 0 stands for a source without one: it never makes a group commit.
    #[must_use]
    pub fn fixed(window: u32) -> Self {
        Self {
            window,
            learns: false,
            seen: 0,
            times: 0,
        }
    }

    /// A window that is assumed to be `initial` until there is evidence; 0 where there is not even an assumption.
    #[must_use]
    pub fn learning(initial: u32) -> Self {
        Self {
            learns: true,
            ..Self::fixed(initial)
        }
    }

    /// Messages that the source sends without an acknowledgement, as far as is known; 0 where it has no such window.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.window
    }

    /// Messages waiting for their acknowledgement at which a group should commit: the whole of a small window,
    /// half of a large one; `u32::MAX` where the source has no window.
    ///
    /// A small window is emptied as a whole because every commit costs pages of flash, and a short stall costs less.
    #[must_use]
    pub fn commit_at(&self) -> u32 {
        match self.window {
            0 => u32::MAX,
            window if window < SMALL => window,
            window => window / 2,
        }
    }

    /// `in_flight` messages were received and not acknowledged at one moment, whatever the reason. More than the
    /// window proves that it is larger; less proves nothing.
    pub fn on_in_flight(&mut self, in_flight: u32) {
        if self.learns && in_flight > self.window && self.window > 0 {
            self.window = in_flight;
            self.times = 0;
        }
    }

    /// `linger` ran out with `in_flight` messages received and not acknowledged.
    ///
    /// A source that is merely slow can teach a window that is too small. That costs nothing while it is slow
    /// (its groups would commit as often by linger), and [`Self::on_in_flight`] undoes it as soon as more arrives.
    pub fn on_linger_expired(&mut self, in_flight: u32) {
        if !self.learns {
            return;
        }
        self.on_in_flight(in_flight);
        if in_flight != self.seen {
            self.seen = in_flight;
            self.times = 0;
        }
        if in_flight == 0 {
            return;
        }
        self.times = self.times.saturating_add(1);
        if self.times >= AGREE {
            self.window = in_flight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mut window: ReceiveWindow, linger_expired_with: &[u32], current: u32, commit_at: u32) {
        for &in_flight in linger_expired_with {
            window.on_linger_expired(in_flight);
        }
        assert_eq!((window.current(), window.commit_at()), (current, commit_at));
    }

    #[test]
    fn three_equal_numbers_in_a_row_are_the_window() {
        check(ReceiveWindow::learning(20), &[], 20, 20);
        check(ReceiveWindow::learning(20), &[10, 10], 20, 20);
        check(ReceiveWindow::learning(20), &[10, 10, 10], 10, 10);
        check(ReceiveWindow::learning(20), &[10, 10, 9, 10, 10], 20, 20);
        check(ReceiveWindow::learning(20), &[10, 10, 0, 10, 10], 20, 20);
        check(ReceiveWindow::learning(20), &[0, 0, 0, 0], 20, 20);
        check(ReceiveWindow::learning(0), &[7, 7], 0, u32::MAX);
        check(ReceiveWindow::learning(0), &[7, 7, 7], 7, 7);
    }

    #[test]
    fn a_larger_number_raises_it_at_once() {
        check(ReceiveWindow::learning(20), &[10, 10, 10, 15], 15, 15);
        check(ReceiveWindow::learning(20), &[10, 10, 10, 15, 10], 15, 15);
        check(ReceiveWindow::learning(20), &[100], 100, 50);
        let mut window = ReceiveWindow::learning(20);
        window.on_in_flight(5);
        assert_eq!(window.current(), 20);
        window.on_linger_expired(10);
        window.on_linger_expired(10);
        window.on_in_flight(33);
        window.on_linger_expired(10);
        assert_eq!(
            window.current(),
            33,
            "what it saw before proves nothing now"
        );
    }

    #[test]
    fn an_announced_window_stays_and_a_large_one_commits_at_half() {
        check(ReceiveWindow::fixed(1024), &[5, 5, 5, 2000], 1024, 512);
        check(ReceiveWindow::fixed(64), &[], 64, 32);
        check(ReceiveWindow::fixed(63), &[], 63, 63);
        check(ReceiveWindow::fixed(1), &[], 1, 1);
        check(ReceiveWindow::fixed(0), &[3, 3, 3], 0, u32::MAX);
    }
}
