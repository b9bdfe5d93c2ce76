//! Refusals of what comes from outside, at a bounded pace: whoever knocks a thousand times must not push the log's oldest
//! entries out. What is held back is counted in the next entry of its kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate_audit::{Action, Actor, Entry, Outcome};

/// Entries of one kind that are written as they come.
const BURST: u32 = 20;
/// From then on, one in this time.
const EACH: Duration = Duration::from_secs(60);

/// By kind.
#[derive(Default)]
pub(super) struct Throttle(BTreeMap<Action, Bucket>);

struct Bucket {
    places: u32,
    filled: Instant,
    /// The last one that was held back, with the number of those before it.
    held: Option<Entry>,
}

impl Throttle {
    /// The entry, where it is to be written now.
    pub(super) fn admit(&mut self, entry: Entry, now: Instant) -> Option<Entry> {
        let from_outside = matches!(entry.actor, Actor::Page { .. } | Actor::Cloud { .. });
        if !from_outside || entry.outcome != Outcome::Refused {
            return Some(entry);
        }
        let bucket = self.0.entry(entry.action).or_insert(Bucket {
            places: BURST,
            filled: now,
            held: None,
        });
        let repeated = bucket.held.take().map_or(0, |held| held.repeated + 1);
        let entry = Entry { repeated, ..entry };
        if bucket.take(now) {
            return Some(entry);
        }
        bucket.held = Some(entry);
        None
    }

    /// Those that were held back and may be written now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry> {
        let buckets = self.0.values_mut();
        buckets
            .filter(|bucket| bucket.held.is_some())
            .filter_map(|bucket| bucket.take(now).then(|| bucket.held.take())?)
            .collect()
    }

    /// Those that are held back, at the end.
    pub(super) fn rest(&mut self) -> Vec<Entry> {
        let buckets = self.0.values_mut();
        buckets.filter_map(|bucket| bucket.held.take()).collect()
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        while self.places < BURST && now.duration_since(self.filled) >= EACH {
            self.places += 1;
            self.filled += EACH;
        }
        if self.places == BURST {
            self.filled = now;
        }
        let there = self.places > 0;
        self.places = self.places.saturating_sub(1);
        there
    }
}

#[cfg(test)]
mod tests {
    use tidegate_audit::Stamp;

    use super::*;

    fn refusal(actor: Actor) -> Entry {
        Entry {
            outcome: Outcome::Refused,
            ..Entry::new(Stamp::default(), actor, Action::RequestRefused)
        }
    }

    #[test]
    fn what_is_held_back_is_counted_in_the_next_one() {
        let page = || Actor::Page {
            address: "192.0.2.7".to_owned(),
        };
        let (mut throttle, begin) = (Throttle::default(), Instant::now());
        let written = (0..100).filter_map(|_| throttle.admit(refusal(page()), begin));
        assert_eq!(written.count(), 20);
        assert!(throttle.due(begin).is_empty());
        let due = throttle.due(begin + EACH);
        assert_eq!(due.len(), 1);
        assert_eq!(
            due[0].repeated, 79,
            "80 were held back, and this is one of them"
        );
        // The place was used; the next waits again, and comes with the end.
        assert!(throttle.admit(refusal(page()), begin + EACH).is_none());
        assert_eq!(throttle.rest()[0].repeated, 0);
        assert!(throttle.due(begin + EACH * 5).is_empty());

        // What somebody on this machine does is written each time.
        let operator = || Actor::Operator {
            uid: 0,
            pid: None,
            login: None,
        };
        let written = (0..100).filter_map(|_| throttle.admit(refusal(operator()), begin));
        assert_eq!(written.count(), 100);
    }
}
