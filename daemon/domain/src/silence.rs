//! Which series of a source have fallen silent.
//!
//! A series is known from its first reading on. One that was not heard for as long as its source allows is *stale*, once,
//! until it is heard again. Silence counts by the monotonic clock and only while the gateway listens: a step of the wall
//! clock makes nothing stale, and after a start every series has its whole time again, but what was stale stays so.
//!
//! A reading costs one look into a map. Every series that is not stale stands in a heap once, at the time at which it would
//! be stale had it not been heard since it was put there; only when that comes is it looked at again. So 50,000 series cost
//! 50,000 looks in the time that they may be silent, and nothing with every commit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

/// Series that are listened for. Beyond it the one that has been stale for longest is forgotten, and where none is stale
/// a new one is not listened for.
pub const SERIES: usize = 100_000;

/// What a reading of a series means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was expected.
    Again,
    /// The series was stale and is no longer.
    Back,
    /// The series is new.
    New {
        /// A series that had to be forgotten for it: its source, and its name.
        instead_of: Option<(usize, Arc<str>)>,
    },
    /// There is no room to listen for one more.
    Unheard,
}

/// A series that fell silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallen {
    /// Index of the source.
    pub source: usize,
    /// Its name.
    pub series: Arc<str>,
    /// When it was heard last by the wall clock, nanoseconds since the epoch; the start of the gateway where that was
    /// later.
    pub heard: i64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// By the monotonic clock.
    at: i64,
    /// By the wall clock.
    wall: i64,
    stale: bool,
}

/// All series of all sources.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    /// By source: how long its series may be silent, nanoseconds.
    after: Vec<i64>,
    series: Vec<HashMap<Arc<str>, Last>>,
    due: BinaryHeap<Reverse<(i64, usize, Arc<str>)>>,
    /// By when they were heard last.
    stale: BTreeMap<(i64, usize, Arc<str>), ()>,
    known: usize,
}

impl Silence {
    /// Nothing is known. `after`: by source, how long its series may be silent, nanoseconds.
    #[must_use]
    pub fn new(after: Vec<i64>) -> Self {
        Self {
            series: vec![HashMap::new(); after.len()],
            after,
            ..Self::default()
        }
    }

    /// A series that was known before a restart; `stale`: when it was heard last, where it was stale. `now` is the
    /// present by both clocks.
    pub fn restore(
        &mut self,
        source: usize,
        series: Arc<str>,
        stale: Option<i64>,
        now: (i64, i64),
    ) {
        let last = Last {
            at: now.0,
            wall: stale.unwrap_or(now.1),
            stale: stale.is_some(),
        };
        self.insert(source, &series, last);
    }

    /// A series was heard at a time by both clocks.
    pub fn hear(&mut self, source: usize, series: &Arc<str>, (at, wall): (i64, i64)) -> Heard {
        let Some(known) = self.series.get_mut(source) else {
            return Heard::Unheard;
        };
        if let Some(last) = known.get_mut(series) {
            let was = *last;
            *last = Last {
                at: was.at.max(at),
                wall,
                stale: false,
            };
            if !was.stale {
                return Heard::Again;
            }
            self.stale.remove(&(was.wall, source, Arc::clone(series)));
            self.wait(source, series, at);
            return Heard::Back;
        }
        let mut instead_of = None;
        if self.known >= SERIES {
            let Some(((_, source, series), ())) = self.stale.pop_first() else {
                return Heard::Unheard;
            };
            if let Some(known) = self.series.get_mut(source) {
                known.remove(&series);
            }
            self.known -= 1;
            instead_of = Some((source, series));
        }
        let last = Last {
            at,
            wall,
            stale: false,
        };
        self.insert(source, series, last);
        Heard::New { instead_of }
    }

    /// Series that are stale from now on, at most `limit`; call again while [`Silence::next_due`] lies in the past.
    pub fn tick(&mut self, now: i64, limit: usize) -> Vec<Fallen> {
        let mut fallen = Vec::new();
        while fallen.len() < limit && self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse((_, source, series))) = self.due.pop() else {
                break;
            };
            let after = self.after.get(source).copied().unwrap_or(i64::MAX);
            let Some(last) = self
                .series
                .get_mut(source)
                .and_then(|known| known.get_mut(&series))
            else {
                continue;
            };
            let (at, wall) = (last.at, last.wall);
            if last.stale {
                continue;
            }
            if at.saturating_add(after) > now {
                self.wait(source, &series, at);
                continue;
            }
            last.stale = true;
            self.stale.insert((wall, source, Arc::clone(&series)), ());
            fallen.push(Fallen {
                source,
                series,
                heard: wall,
            });
        }
        fallen
    }

    /// When [`Silence::tick`] is to be called, by the monotonic clock.
    #[must_use]
    pub fn next_due(&self) -> Option<i64> {
        self.due.peek().map(|Reverse((due, ..))| *due)
    }

    /// Series that are listened for.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known
    }

    /// Stale ones, by how long they have been silent, the longest first: source, name, and when they were heard last.
    pub fn stale(&self) -> impl ExactSizeIterator<Item = (usize, &Arc<str>, i64)> {
        self.stale
            .keys()
            .map(|(wall, source, series)| (*source, series, *wall))
    }

    fn insert(&mut self, source: usize, series: &Arc<str>, last: Last) {
        let Some(known) = self.series.get_mut(source) else {
            return;
        };
        if known.insert(Arc::clone(series), last).is_none() {
            self.known += 1;
        }
        if last.stale {
            self.stale
                .insert((last.wall, source, Arc::clone(series)), ());
        } else {
            self.wait(source, series, last.at);
        }
    }

    fn wait(&mut self, source: usize, series: &Arc<str>, at: i64) {
        let after = self.after.get(source).copied().unwrap_or(i64::MAX);
        let due = at.saturating_add(after);
        self.due.push(Reverse((due, source, Arc::clone(series))));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn names(fallen: &[Fallen]) -> Vec<(&str, i64)> {
        let name = |fallen: &Fallen| (fallen.series.to_string(), fallen.heard);
        let mut names: Vec<(String, i64)> = fallen.iter().map(name).collect();
        names.sort();
        let leak = |(name, heard): (String, i64)| (&*name.leak(), heard);
        names.into_iter().map(leak).collect()
    }

    #[test]
    fn a_series_is_stale_once_until_it_is_heard_again() {
        let mut silence = Silence::new(vec![10, 100]);
        let (a, b) = ("a".into(), "b".into());
        assert_eq!(
            silence.hear(0, &a, (0, 1000)),
            Heard::New { instead_of: None }
        );
        assert_eq!(
            silence.hear(1, &b, (0, 1000)),
            Heard::New { instead_of: None }
        );
        assert_eq!(silence.hear(0, &a, (5, 1005)), Heard::Again);
        assert_eq!(silence.next_due(), Some(10));
        assert_eq!(names(&silence.tick(14, 9)), []);
        assert_eq!(names(&silence.tick(15, 9)), [("a", 1005)]);
        assert_eq!(names(&silence.tick(90, 9)), []);
        assert_eq!(silence.stale().len(), 1);
        assert_eq!(silence.hear(0, &a, (95, 1095)), Heard::Back);
        assert_eq!(silence.stale().len(), 0);
        assert_eq!(names(&silence.tick(104, 9)), [("b", 1000)]);
        assert_eq!(names(&silence.tick(105, 9)), [("a", 1095)]);
        assert_eq!(silence.next_due(), None);
    }

    #[test]
    fn a_restart_raises_nothing_and_forgets_nothing() {
        let mut silence = Silence::new(vec![10]);
        silence.restore(0, "fresh".into(), None, (1000, 7));
        silence.restore(0, "stale".into(), Some(3), (1000, 7));
        assert_eq!(names(&silence.tick(1009, 9)), []);
        assert_eq!(
            silence.stale().map(|(_, _, at)| at).collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(names(&silence.tick(1010, 9)), [("fresh", 7)]);
        assert_eq!(silence.hear(0, &"stale".into(), (1011, 8)), Heard::Back);
        assert_eq!(silence.known(), 2);
    }

    #[test]
    fn a_step_of_the_wall_clock_makes_nothing_stale() {
        let mut silence = Silence::new(vec![10]);
        silence.hear(0, &"a".into(), (0, 0));
        for n in 1..50 {
            let step = if n % 2 == 0 { 1 << 60 } else { -(1 << 60) };
            assert_eq!(silence.hear(0, &"a".into(), (n, step)), Heard::Again);
            assert!(silence.tick(n, 9).is_empty());
        }
    }

    #[test]
    fn many_fall_in_slices() {
        let mut silence = Silence::new(vec![10]);
        for n in 0..2_500 {
            silence.hear(0, &n.to_string().into(), (0, 0));
        }
        let slices: Vec<usize> = (0..4).map(|_| silence.tick(10, 1_000).len()).collect();
        assert_eq!(slices, [1_000, 1_000, 500, 0]);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let mut silence = Silence::new(vec![10]);
        for n in 0..SERIES {
            silence.hear(0, &n.to_string().into(), (0, 0));
        }
        assert_eq!(silence.hear(0, &"x".into(), (1, 1)), Heard::Unheard);
        assert_eq!(silence.tick(10, 1).len(), 1);
        let Heard::New {
            instead_of: Some((0, _)),
        } = silence.hear(0, &"x".into(), (11, 11))
        else {
            panic!("the stale one makes room");
        };
        assert_eq!(silence.known(), SERIES);
        assert_eq!(silence.stale().len(), 0);
    }

    proptest! {
        /// As a scan of everything would find it.
        #[test]
        fn it_finds_what_a_scan_finds(ops in prop::collection::vec((0usize..2, 0u8..6, 0i64..8), 0..200)) {
            let after = [9i64, 25];
            let mut silence = Silence::new(after.to_vec());
            let mut last: BTreeMap<(usize, String), i64> = BTreeMap::new();
            let mut now = 0;
            for (source, series, wait) in ops {
                now += wait;
                silence.tick(now, usize::MAX);
                let scan: BTreeSet<(usize, String)> = last.iter()
                    .filter(|((source, _), at)| now - **at >= after[*source])
                    .map(|(key, _)| key.clone())
                    .collect();
                let found: BTreeSet<(usize, String)> = silence.stale()
                    .map(|(source, series, _)| (source, series.to_string()))
                    .collect();
                prop_assert_eq!(&found, &scan);
                let heard = silence.hear(source, &series.to_string().into(), (now, now));
                let key = (source, series.to_string());
                let expect = if scan.contains(&key) { Heard::Back }
                    else if last.contains_key(&key) { Heard::Again }
                    else { Heard::New { instead_of: None } };
                prop_assert_eq!(heard, expect);
                last.insert(key, now);
                // Those that are not stale stand in the heap once.
                prop_assert!(silence.due.len() <= silence.known() + silence.stale().len() + 12);
            }
        }
    }
}
