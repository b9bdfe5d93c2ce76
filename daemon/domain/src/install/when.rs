//! Whether this is the time for an epoch: waves, the site's window, a hold.

use std::time::Duration;

use super::Wait;
use crate::channel::{Channel, Wave};

/// Minutes of a day.
const DAY: u32 = 24 * 60;
const MINUTE_MILLIS: i64 = 60_000;
/// How many places there are.
const PLACES: u64 = 10_000;

/// A daily time in which a site lets modules be installed, by UTC: `22:00-04:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyWindow {
    from: u32,
    to: u32,
}

impl DailyWindow {
    /// Reads `HH:MM-HH:MM`. One that ends before it begins goes over midnight; equal times are no window.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some(Self { from, to })
    }

    /// Milliseconds from `now`, milliseconds since the epoch of Unix, until it is open; 0 where it is.
    #[must_use]
    pub fn opens_in(self, now: i64) -> i64 {
        let day = i64::from(DAY) * MINUTE_MILLIS;
        let (from, to) = (
            i64::from(self.from) * MINUTE_MILLIS,
            i64::from(self.to) * MINUTE_MILLIS,
        );
        let of_day = now.rem_euclid(day);
        let open = if from < to {
            (from..to).contains(&of_day)
        } else {
            !(to..from).contains(&of_day)
        };
        if open {
            0
        } else {
            (from - of_day).rem_euclid(day)
        }
    }
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !two(hour) || !two(minute) {
        return None;
    }
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

/// Where a gateway stands among all that follow a channel, 0 to 9,999: for one epoch
/// ([`Channel::placed_by`]) the same for ever, for the next another,
/// so that it is not always the same sites that try first.
#[must_use]
pub fn place(gateway: &str, channel: &str, epoch: u64) -> u16 {
    let text = format!("{channel}\0{epoch}\0{gateway}");
    u16::try_from(crate::rollout::place(&text) % PLACES).unwrap_or_default()
}

/// How long ago a document was published, as far as a gateway can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elapsed {
    /// By a clock that is set.
    SincePublished(Duration),
    /// The clock is not set: by how long the document has been here. The truth is never less.
    AtLeast(Duration),
}

/// What the site and the time say about taking an epoch now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// The site holds everything.
    pub hold: bool,
    /// This gateway's [`place`].
    pub place: u16,
    /// Since the document was published.
    pub elapsed: Elapsed,
    /// The site's window, where it has one.
    pub window: Option<DailyWindow>,
    /// Milliseconds since the epoch of Unix; `None` where the clock is not set.
    pub now: Option<i64>,
    /// Something runs that was revoked: then nothing is waited for.
    pub revoked: bool,
    /// Since an epoch was tried last, as far as this process knows: since its start at least.
    pub rested: Duration,
}

impl Conditions {
    /// What is waited for, if anything.
    pub(super) fn wait(&self, channel: &Channel) -> Option<Wait> {
        if self.hold {
            return Some(Wait::Hold);
        }
        if channel.halted().is_some() {
            return Some(Wait::Halted);
        }
        let (Elapsed::SincePublished(elapsed) | Elapsed::AtLeast(elapsed)) = self.elapsed;
        if channel.places(elapsed) <= self.place {
            let mine = |wave: &&Wave| wave.percent.places() > self.place;
            let mine = channel.waves.iter().find(mine);
            return Some(Wait::Wave {
                place: self.place,
                left: mine.map(|wave| wave.after.saturating_sub(elapsed)),
            });
        }
        let window = self.window?;
        let left = self.now.map(|now| window.opens_in(now));
        match left {
            Some(0) => None,
            Some(millis) => Some(Wait::Window {
                left: Some(Duration::from_millis(millis.unsigned_abs())),
            }),
            None => Some(Wait::Window { left: None }),
        }
    }
}
