//! Tumbling windows of one pipeline: what becomes a summary.
//!
//! **Which window.** A reading's time alone decides: `from <= time < to`, windows aligned to the epoch, also before
//! 1970. Where the first or the last window would reach beyond 64-bit nanoseconds it is cut there, and the last one
//! includes `i64::MAX`.
//!
//! **Which instance.** A window goes up once as an ordinary instance, and as supplements (`late`) for the rest; the
//! receiver adds all instances of a window, in whatever order. Every reading is in exactly one:
//! 1. the ordinary one, if it is open and the clock is below `to + lateness`;
//! 2. else the supplement, if one is open;
//! 3. else a new one. It is ordinary if the clock is below `to + lateness`, `from` is at most one length ahead of the
//!    clock, and no window with that end was closed before its time (see [`WindowSet::step`] and
//!    [`WindowSet::MAX_OPEN`]); otherwise a supplement.
//!
//! **When it closes.** An ordinary one when the clock reaches `to + lateness`. A supplement when the clock reaches
//! `lateness` after its opening, or, if its window had not ended by then, after the window's end, but at most a
//! length and `lateness` after its opening. So a reading far ahead of the clock, out of a sender with a wrong clock or
//! before the gateway's own is set, goes up soon and holds no memory until its time comes.
//!
//! At any moment at most one ordinary instance and one supplement of a series and window are open, and between two
//! calls of [`WindowSet::close_due`] no [`WindowKey`] is opened twice and none that was closed is opened again: a
//! store that inserts what was opened and then deletes what was closed holds exactly the open ones.
//!
//! The *clock* is the committed arrival clock, nanoseconds since the epoch. It never runs backwards here, except by
//! [`WindowSet::step`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::batch::Batch;
use crate::item::Stats;
use crate::reading::{Quality, Value};
use crate::sketch::Sketch;

/// Names one open window instance of a pipeline. All four parts belong to its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowKey {
    /// The series.
    pub series: Arc<str>,
    /// First nanosecond since the epoch that is in the window.
    pub from: i64,
    /// First nanosecond after it.
    pub to: i64,
    /// A supplement to what went up for this window at another time.
    pub late: bool,
}

/// A window instance that takes no more readings.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedWindow {
    /// Which one.
    pub key: WindowKey,
    /// What its readings came to.
    pub stats: Stats,
    /// The clock was stepped while it was open, and it closed there.
    pub stepped: bool,
    /// It was rebuilt after readings of it had been evicted.
    pub incomplete: bool,
}

/// The open windows of one pipeline. See the module for the rules.
///
/// Memory: about 300 bytes for an open window and its series, 8 more for each of its first 32 readings, 4.5 KiB at
/// the very most. It stays at its peak.
#[derive(Debug)]
pub struct WindowSet {
    length: i64,
    lateness: i64,
    max_open: usize,
    clock: i64,
    closed_before: i64,
    closed_early: u64,
    by_name: HashMap<Arc<str>, usize>,
    series: Vec<Series>,
    free_series: Vec<usize>,
    windows: Vec<Window>,
    free_windows: Vec<usize>,
    /// Every open window by its place, for what `Series::recent` does not answer. One map for all series, so that a
    /// series with 100,000 late windows costs no more than 100,000 series with one.
    open: BTreeMap<Place, usize>,
    /// Every open window by the clock at which it closes.
    due: BTreeMap<i64, Vec<usize>>,
    /// Kept for its allocation: see `observe_batch`.
    resolved: Vec<usize>,
}

/// `(series, from, to, late)`. `to` is part of it since a restored window can have the length of an older
/// configuration.
type Place = (usize, i64, i64, bool);

/// Stands for a series of a batch that was not looked up yet.
const UNRESOLVED: usize = usize::MAX;

impl WindowSet {
    /// Open windows of one set. [`WindowSet::close_due`] closes what is above, last due first, so that only the
    /// excess is cut into pieces: the next reading of such a window opens a supplement, and the receiver gets the same
    /// readings in more summaries. Counted by [`WindowSet::closed_early`]. 50,000 series need up to twice as many
    /// windows, since the old one stays open for `lateness`. Between two calls every reading can add one more.
    pub const MAX_OPEN: usize = 200_000;

    /// No open window. `length_ns` below 1 counts as 1 and `lateness_ns` below 0 as 0.
    #[must_use]
    pub fn new(length_ns: i64, lateness_ns: i64) -> Self {
        Self {
            length: length_ns.max(1),
            lateness: lateness_ns.max(0),
            max_open: Self::MAX_OPEN,
            clock: i64::MIN,
            closed_before: i64::MIN,
            closed_early: 0,
            by_name: HashMap::new(),
            series: Vec::new(),
            free_series: Vec::new(),
            windows: Vec::new(),
            free_windows: Vec::new(),
            open: BTreeMap::new(),
            due: BTreeMap::new(),
            resolved: Vec::new(),
        }
    }

    /// Takes one committed reading at the committed arrival clock `clock`. When it opened an instance, that is
    /// returned, for the store to persist together with [`WindowSet::clock`].
    pub fn observe(
        &mut self,
        clock: i64,
        series: &Arc<str>,
        time: i64,
        value: Value<'_>,
        quality: Quality,
    ) -> Option<WindowKey> {
        self.clock = self.clock.max(clock);
        let series = self.resolve(series);
        self.add(series, time, usable(value, quality))
    }

    /// [`WindowSet::observe`] for all rows of a batch, looking each series up once; opened instances are appended
    /// to `opened`.
    ///
    /// # Panics
    /// When a row's series is not among the batch's names: see [`Batch::validate`].
    pub fn observe_batch(&mut self, clock: i64, batch: &Batch, opened: &mut Vec<WindowKey>) {
        self.clock = self.clock.max(clock);
        let mut resolved = std::mem::take(&mut self.resolved);
        resolved.clear();
        resolved.resize(batch.names.len(), UNRESOLVED);
        for (row, (&name, &time)) in batch.series.iter().zip(&batch.time).enumerate() {
            let name = name as usize;
            if resolved[name] == UNRESOLVED {
                resolved[name] = self.resolve(&batch.names[name]);
            }
            let number = usable(batch.value(row), batch.quality(row));
            opened.extend(self.add(resolved[name], time, number));
        }
        self.resolved = resolved;
    }

    /// Closes every instance that is due at `clock`, and what is above [`WindowSet::MAX_OPEN`]; ordered by
    /// `from`, then series, then `to`, ordinary before late.
    pub fn close_due(&mut self, clock: i64) -> Vec<ClosedWindow> {
        self.clock = self.clock.max(clock);
        let mut closed = Vec::new();
        while let Some(first) = self.due.first_entry()
            && *first.key() <= self.clock
        {
            for window in first.remove() {
                closed.push(self.close(window));
            }
        }
        while self.open.len() > self.max_open {
            let Some(mut last) = self.due.last_entry() else {
                break;
            };
            let window = last.get_mut().pop();
            if last.get().is_empty() {
                last.remove();
            }
            if let Some(window) = window {
                self.note_closed_early(window);
                self.closed_early = self.closed_early.saturating_add(1);
                closed.push(self.close(window));
            }
        }
        in_order(closed)
    }

    /// The number of instances that [`WindowSet::close_due`] would close at `clock` because they are due.
    #[must_use]
    pub fn due_at(&self, clock: i64) -> usize {
        self.due.range(..=clock).map(|(_, due)| due.len()).sum()
    }

    /// Closes at most `at_most` of the instances that are due at `clock`, those that have been for longest first, so that
    /// [`WindowSet::close_due`] is left with as few as one transaction can take. The clock stays where it is. What is
    /// closed here stays closed: see [`WindowSet::closed_before`].
    pub fn close_ahead(&mut self, clock: i64, at_most: usize) -> Vec<ClosedWindow> {
        self.close_first(|due| due <= clock, at_most, false)
    }

    /// The same before [`WindowSet::step`], for any instance: those that are closed are marked `stepped`.
    pub fn step_ahead(&mut self, at_most: usize) -> Vec<ClosedWindow> {
        self.close_first(|_| true, at_most, true)
    }

    fn close_first(
        &mut self,
        is_due: impl Fn(i64) -> bool,
        at_most: usize,
        stepped: bool,
    ) -> Vec<ClosedWindow> {
        let mut closed = Vec::new();
        while closed.len() < at_most
            && let Some(mut first) = self.due.first_entry()
            && is_due(*first.key())
        {
            let window = first.get_mut().pop();
            if first.get().is_empty() {
                first.remove();
            }
            if let Some(window) = window {
                self.note_closed_early(window);
                self.windows[window].stepped = stepped;
                closed.push(self.close(window));
            }
        }
        in_order(closed)
    }

    /// The wall clock was stepped; `clock` is the first committed arrival after it and may be earlier than the last.
    /// Every open instance closes, marked `stepped`, in the order of [`WindowSet::close_due`]. After a step backwards
    /// what was closed stays closed: its windows are supplements when they come by again.
    pub fn step(&mut self, clock: i64) -> Vec<ClosedWindow> {
        self.closed_before = self.closed_before();
        let mut closed = Vec::with_capacity(self.open.len());
        for (_, windows) in std::mem::take(&mut self.due) {
            for window in windows {
                self.note_closed_early(window);
                self.windows[window].stepped = true;
                closed.push(self.close(window));
            }
        }
        self.clock = clock;
        in_order(closed)
    }

    /// The earliest clock at which [`WindowSet::close_due`] returns something; `None` while no window is open.
    #[must_use]
    pub fn next_due(&self) -> Option<i64> {
        if self.open.len() > self.max_open {
            return Some(self.clock);
        }
        self.due.first_key_value().map(|(&due, _)| due)
    }

    /// The number of open window instances.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True when no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Instances closed before their time since the set was made: see [`WindowSet::MAX_OPEN`].
    #[must_use]
    pub fn closed_early(&self) -> u64 {
        self.closed_early
    }

    /// The clock as it stands; `i64::MIN` at the beginning.
    #[must_use]
    pub fn clock(&self) -> i64 {
        self.clock
    }

    /// A window whose `to` is at most this counts as closed: a reading that finds it not open opens a supplement.
    /// To be persisted with the clock, and given to [`WindowSet::resume`].
    #[must_use]
    pub fn closed_before(&self) -> i64 {
        self.closed_before
            .max(self.clock.saturating_sub(self.lateness))
    }

    /// Continues, after a restart, at the clock and the [`WindowSet::closed_before`] of the last commit. To be called
    /// on a new set, before [`WindowSet::restore`].
    pub fn resume(&mut self, clock: i64, closed_before: i64) {
        self.clock = self.clock.max(clock);
        self.closed_before = self.closed_before.max(closed_before);
    }

    /// Opens an instance again, empty, after a restart; `opened` is the clock at which it was opened first. Its
    /// readings come by [`WindowSet::observe_into`]. An instance that is open already is left alone.
    ///
    /// In the order in which they were opened, the set is the one before the restart in everything; another order
    /// changes only which of them close early above [`WindowSet::MAX_OPEN`]. A window that has the length of an older
    /// configuration takes no new readings and closes in its time.
    pub fn restore(&mut self, key: &WindowKey, opened: i64) {
        let series = self.resolve(&key.series);
        let place = (series, key.from, key.to, key.late);
        if !self.open.contains_key(&place) {
            self.open(place, opened);
        }
    }

    /// Puts a reading into an instance whatever its time and the clock: it was there before the restart. In the order
    /// of their commits, the statistics are the same to the last bit. False when no such instance is open, and
    /// nothing was changed.
    #[must_use = "false means that the reading is in no window"]
    pub fn observe_into(
        &mut self,
        key: &WindowKey,
        time: i64,
        value: Value<'_>,
        quality: Quality,
    ) -> bool {
        let Some(window) = self.find(key) else {
            return false;
        };
        self.windows[window].add(time, usable(value, quality));
        true
    }

    /// Notes that readings of an instance are missing because they were evicted. False when it is not open.
    pub fn mark_incomplete(&mut self, key: &WindowKey) -> bool {
        let Some(window) = self.find(key) else {
            return false;
        };
        self.windows[window].incomplete = true;
        true
    }

    /// Whether an instance is open.
    #[must_use]
    pub fn is_open(&self, key: &WindowKey) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &WindowKey) -> Option<usize> {
        let series = *self.by_name.get(&key.series)?;
        self.open
            .get(&(series, key.from, key.to, key.late))
            .copied()
    }

    /// The number of a series, given to it where it has none. It lives as long as the series has an open window, so
    /// that the caller must see to one being opened.
    fn resolve(&mut self, name: &Arc<str>) -> usize {
        if let Some(&series) = self.by_name.get(name) {
            return series;
        }
        let new = Series {
            name: Arc::clone(name),
            open: 0,
            recent: Recent::NONE,
        };
        let series = put(&mut self.series, &mut self.free_series, new);
        self.by_name.insert(Arc::clone(name), series);
        series
    }

    #[inline]
    fn add(&mut self, series: usize, time: i64, number: Option<f64>) -> Option<WindowKey> {
        let recent = &self.series[series].recent;
        if recent.takes(time, self.clock) {
            self.windows[recent.window].add(time, number);
            return None;
        }
        self.add_elsewhere(series, time, number)
    }

    fn add_elsewhere(
        &mut self,
        series: usize,
        time: i64,
        number: Option<f64>,
    ) -> Option<WindowKey> {
        let (from, to) = bounds(time, self.length);
        let due = to.saturating_add(self.lateness);
        let found = (self.open.get(&(series, from, to, false)))
            .filter(|_| self.clock < due)
            .or_else(|| self.open.get(&(series, from, to, true)));
        let mut opened = None;
        let window = if let Some(&window) = found {
            window
        } else {
            let ordinary = self.clock < due
                && to > self.closed_before
                && from <= self.clock.saturating_add(self.length);
            let late = !ordinary;
            opened = Some(WindowKey {
                series: Arc::clone(&self.series[series].name),
                from,
                to,
                late,
            });
            self.open((series, from, to, late), self.clock)
        };
        self.series[series].recent = Recent::of(window, &self.windows[window]);
        self.windows[window].add(time, number);
        opened
    }

    fn open(&mut self, place: Place, opened: i64) -> usize {
        let (series, from, to, late) = place;
        let end = if late {
            to.clamp(opened, opened.saturating_add(self.length))
        } else {
            to
        };
        let new = Window {
            series,
            from,
            to,
            due: end.saturating_add(self.lateness),
            late,
            stepped: false,
            incomplete: false,
            readings: Accumulator::default(),
        };
        let due = new.due;
        let window = put(&mut self.windows, &mut self.free_windows, new);
        self.series[series].open += 1;
        self.open.insert(place, window);
        self.due.entry(due).or_default().push(window);
        window
    }

    /// Takes a window out of everything but `due`, from which the caller took it.
    fn close(&mut self, window: usize) -> ClosedWindow {
        let Window {
            series,
            from,
            to,
            late,
            stepped,
            incomplete,
            ..
        } = self.windows[window];
        let readings = std::mem::take(&mut self.windows[window].readings);
        self.free_windows.push(window);
        self.open.remove(&(series, from, to, late));
        let of = &mut self.series[series];
        let name = Arc::clone(&of.name);
        of.open -= 1;
        if of.recent.window == window {
            of.recent = Recent::NONE;
        }
        if of.open == 0 {
            self.by_name.remove(&name);
            self.free_series.push(series);
        }
        ClosedWindow {
            key: WindowKey {
                series: name,
                from,
                to,
                late,
            },
            stats: readings.stats(),
            stepped,
            incomplete,
        }
    }

    /// An ordinary window is about to close before its time: it must not be opened as ordinary again.
    fn note_closed_early(&mut self, window: usize) {
        let window = &self.windows[window];
        if !window.late {
            self.closed_before = self.closed_before.max(window.to);
        }
    }
}

/// Puts `new` into a free place or at the end.
fn put<T>(all: &mut Vec<T>, free: &mut Vec<usize>, new: T) -> usize {
    if let Some(place) = free.pop() {
        all[place] = new;
        return place;
    }
    all.push(new);
    all.len() - 1
}

fn in_order(mut closed: Vec<ClosedWindow>) -> Vec<ClosedWindow> {
    closed.sort_unstable_by(|a, b| {
        let order = |c: &ClosedWindow| (c.key.to, c.key.late);
        (a.key.from.cmp(&b.key.from))
            .then_with(|| a.key.series.cmp(&b.key.series))
            .then_with(|| order(a).cmp(&order(b)))
    });
    closed
}

/// The window of a time: aligned to the epoch, cut at the ends of time.
fn bounds(time: i64, length: i64) -> (i64, i64) {
    let from = i128::from(time).div_euclid(i128::from(length)) * i128::from(length);
    let to = from + i128::from(length);
    (
        i64::try_from(from).unwrap_or(i64::MIN),
        i64::try_from(to).unwrap_or(i64::MAX),
    )
}

fn usable(value: Value<'_>, quality: Quality) -> Option<f64> {
    match quality {
        Quality::Good | Quality::Uncertain => value.as_number(),
        Quality::Bad => None,
    }
}

#[derive(Debug)]
struct Series {
    name: Arc<str>,
    /// Its open windows.
    open: usize,
    recent: Recent,
}

/// The window that the last reading of a series went into: most likely also the next one's.
#[derive(Debug)]
struct Recent {
    first: i64,
    /// The last nanosecond in it; below `first` where there is no window.
    last: i64,
    /// The clock from which it takes no more.
    until: i64,
    window: usize,
}

impl Recent {
    const NONE: Self = Self {
        first: 0,
        last: -1,
        until: i64::MIN,
        window: usize::MAX,
    };

    fn of(index: usize, window: &Window) -> Self {
        Self {
            first: window.from,
            // `i64::MAX` itself, which the last window includes, goes the long way.
            last: window.to - 1,
            // A supplement takes readings until it is closed.
            until: if window.late { i64::MAX } else { window.due },
            window: index,
        }
    }

    #[inline]
    fn takes(&self, time: i64, clock: i64) -> bool {
        self.first <= time && time <= self.last && clock < self.until
    }
}

#[derive(Debug)]
struct Window {
    series: usize,
    from: i64,
    to: i64,
    due: i64,
    late: bool,
    stepped: bool,
    incomplete: bool,
    readings: Accumulator,
}

impl Window {
    #[inline]
    fn add(&mut self, time: i64, number: Option<f64>) {
        match number {
            Some(number) => self.readings.add(time, number),
            None => self.readings.unusable += 1,
        }
    }
}

/// Statistics in one pass. Mean and deviation: B. P. Welford, "Note on a Method for Calculating Corrected Sums of
/// Squares and Products", Technometrics 4(3), 1962.
#[derive(Debug, Default)]
struct Accumulator {
    numbers: u64,
    unusable: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
    first: (i64, f64),
    last: (i64, f64),
    sketch: Sketch,
}

impl Accumulator {
    /// `number` is finite.
    #[inline]
    fn add(&mut self, time: i64, number: f64) {
        if self.numbers == 0 {
            (self.min, self.max) = (number, number);
            (self.first, self.last) = ((time, number), (time, number));
        }
        self.numbers += 1;
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        if time < self.first.0 {
            self.first = (time, number);
        }
        if time >= self.last.0 {
            self.last = (time, number);
        }
        let count = self.numbers as f64;
        let distance = number - self.mean;
        if distance.is_finite() {
            self.mean += distance / count;
            self.squares += distance * (number - self.mean);
        } else {
            // Two numbers at opposite ends of the doubles: the mean is one, the deviation is not.
            self.mean += number / count - self.mean / count;
            self.squares = f64::INFINITY;
        }
        self.sketch.add(number);
    }

    fn stats(&self) -> Stats {
        let count = self.numbers + self.unusable;
        let unusable = self.unusable;
        if self.numbers == 0 {
            return Stats {
                count,
                unusable,
                ..Stats::default()
            };
        }
        let deviation = (self.squares / self.numbers as f64).sqrt();
        let quantile = |percent| {
            let value = self.sketch.quantile(percent)?;
            Some(value.clamp(self.min, self.max))
        };
        Stats {
            count,
            unusable,
            min: Some(self.min),
            max: Some(self.max),
            mean: Some(self.mean),
            // Above 1e154 the squares can leave the doubles.
            stddev: Some(deviation).filter(|deviation| deviation.is_finite()),
            first: Some(self.first.1),
            last: Some(self.last.1),
            p50: quantile(50),
            p95: quantile(95),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::BatchBuilder;

    /// The rules of the module's documentation, told slowly: everything is kept, nothing is computed before it is asked.
    struct Naive {
        length: i64,
        lateness: i64,
        max_open: usize,
        clock: i64,
        /// The greatest clock before the last step.
        before_step: i64,
        early_ends: Vec<i64>,
        open: Vec<NaiveWindow>,
    }

    #[derive(Clone)]
    struct NaiveWindow {
        key: WindowKey,
        opened: i64,
        due: i64,
        rows: Vec<Row>,
    }

    #[derive(Clone, Debug)]
    struct Row {
        series: Arc<str>,
        time: i64,
        value: OwnedValue,
        quality: Quality,
    }

    #[derive(Clone, Debug)]
    enum OwnedValue {
        Float(f64),
        Int(i64),
        Bool(bool),
        Text,
    }

    impl Row {
        fn value(&self) -> Value<'_> {
            match self.value {
                OwnedValue::Float(value) => Value::Float(value),
                OwnedValue::Int(value) => Value::Int(value),
                OwnedValue::Bool(value) => Value::Bool(value),
                OwnedValue::Text => Value::Text("open"),
            }
        }

        fn number(&self) -> Option<f64> {
            let number = match self.value {
                OwnedValue::Float(value) => value,
                OwnedValue::Int(value) => value as f64,
                OwnedValue::Bool(value) => f64::from(u8::from(value)),
                OwnedValue::Text => f64::NAN,
            };
            Some(number).filter(|number| number.is_finite() && self.quality != Quality::Bad)
        }
    }

    impl Naive {
        fn observe(&mut self, clock: i64, row: &Row) -> Option<WindowKey> {
            self.clock = self.clock.max(clock);
            let from = row.time - row.time.rem_euclid(self.length);
            let to = from + self.length;
            let ended = |clock| clock >= to + self.lateness;
            let of_window = |w: &&mut NaiveWindow| {
                (&w.key.series, w.key.from, w.key.to) == (&row.series, from, to)
            };
            let mut here: Vec<_> = self.open.iter_mut().filter(of_window).collect();
            here.sort_by_key(|window| window.key.late);
            let takes = |w: &&mut NaiveWindow| w.key.late || !ended(self.clock);
            if let Some(window) = here.into_iter().find(takes) {
                window.rows.push(row.clone());
                return None;
            }
            let late = ended(self.clock)
                || ended(self.before_step)
                || self.early_ends.iter().any(|&end| end >= to)
                || from > self.clock + self.length;
            let end = if late && to <= self.clock {
                self.clock
            } else if late && to > self.clock + self.length {
                self.clock + self.length
            } else {
                to
            };
            let key = WindowKey {
                series: Arc::clone(&row.series),
                from,
                to,
                late,
            };
            self.open.push(NaiveWindow {
                key: key.clone(),
                opened: self.clock,
                due: end + self.lateness,
                rows: vec![row.clone()],
            });
            Some(key)
        }

        fn close_due(&mut self, clock: i64) -> Vec<NaiveWindow> {
            self.clock = self.clock.max(clock);
            let (mut closed, open): (Vec<_>, Vec<_>) =
                (self.open.drain(..)).partition(|window| window.due <= self.clock);
            self.open = open;
            while self.open.len() > self.max_open {
                let last = (0..self.open.len())
                    .max_by_key(|&i| (self.open[i].due, i))
                    .unwrap();
                closed.push(self.open.remove(last));
                self.closed_early(&closed[closed.len() - 1..]);
            }
            closed
        }

        fn step(&mut self, clock: i64) -> Vec<NaiveWindow> {
            let closed = std::mem::take(&mut self.open);
            self.closed_early(&closed);
            self.before_step = self.before_step.max(self.clock);
            self.clock = clock;
            closed
        }

        fn closed_early(&mut self, closed: &[NaiveWindow]) {
            let ordinary = closed.iter().filter(|window| !window.key.late);
            self.early_ends.extend(ordinary.map(|window| window.key.to));
        }
    }

    fn ordered(mut keys: Vec<WindowKey>) -> Vec<WindowKey> {
        keys.sort_by(|a, b| {
            (a.from, &a.series, a.to, a.late).cmp(&(b.from, &b.series, b.to, b.late))
        });
        keys
    }

    /// The statistics of some rows, from their definitions.
    #[track_caller]
    fn check_stats(stats: &Stats, rows: &[Row]) {
        let numbers: Vec<f64> = rows.iter().filter_map(Row::number).collect();
        assert_eq!(stats.count, rows.len() as u64);
        assert_eq!(stats.unusable, (rows.len() - numbers.len()) as u64);
        if numbers.is_empty() {
            let none = Stats {
                count: stats.count,
                unusable: stats.unusable,
                ..Stats::default()
            };
            assert_eq!(*stats, none);
            return;
        }
        let mut sorted = numbers.clone();
        sorted.sort_by(f64::total_cmp);
        let scale = 1.0 + sorted[0].abs().max(sorted[sorted.len() - 1].abs());
        #[track_caller]
        fn near(found: Option<f64>, want: f64, error: f64) {
            let found = found.unwrap();
            assert!((found - want).abs() <= error, "{found} for {want}");
        }
        near(stats.min, sorted[0], 0.0);
        near(stats.max, sorted[sorted.len() - 1], 0.0);
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        near(stats.mean, mean, 1e-9 * scale);
        let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
        let deviation = (squares / numbers.len() as f64).sqrt();
        near(stats.stddev, deviation, 1e-6 * scale);
        for (found, percent) in [(stats.p50, 50), (stats.p95, 95)] {
            let want = sorted[(numbers.len() * percent).div_ceil(100) - 1];
            let exact = numbers.len() <= crate::sketch::EXACT_VALUES;
            let error = if exact { 0.0 } else { 0.010_000_1 * want.abs() };
            near(found, want, error);
        }
        let usable: Vec<&Row> = rows.iter().filter(|row| row.number().is_some()).collect();
        let first = usable.iter().min_by_key(|row| row.time).unwrap();
        let last = usable.iter().max_by_key(|row| row.time).unwrap();
        assert_eq!(stats.first, first.number());
        assert_eq!(stats.last, last.number());
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Rows, each at this distance from the clock, which has moved on by so much before.
        Batch(i64, Vec<(u8, i64, OwnedValue, Quality)>),
        Close(i64),
        Step(i64),
        Crash,
    }

    fn op(length: i64) -> impl Strategy<Value = Op> {
        let distance = prop_oneof![
            8 => -length..=length,
            1 => -20 * length..=4 * length,
        ];
        let value = prop_oneof![
            6 => (-1000.0..1000.0).prop_map(OwnedValue::Float),
            1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(0.0)].prop_map(OwnedValue::Float),
            1 => (-5i64..5).prop_map(OwnedValue::Int),
            1 => any::<bool>().prop_map(OwnedValue::Bool),
            1 => Just(OwnedValue::Text),
        ];
        let quality = prop_oneof![
            8 => Just(Quality::Good),
            1 => Just(Quality::Uncertain),
            1 => Just(Quality::Bad),
        ];
        let row = (0u8..4, distance, value, quality);
        prop_oneof![
            8 => (0..=length / 2, proptest::collection::vec(row, 1..60)).prop_map(|(by, rows)| Op::Batch(by, rows)),
            4 => (0..=length).prop_map(Op::Close),
            1 => (-10 * length..=10 * length).prop_map(Op::Step),
            1 => Just(Op::Crash),
        ]
    }

    fn history() -> impl Strategy<Value = (i64, i64, usize, i64, Vec<Op>)> {
        (2i64..100).prop_flat_map(|length| {
            (
                Just(length),
                0..=length * 2,
                prop_oneof![Just(WindowSet::MAX_OPEN), 1usize..12],
                -300i64..300,
                proptest::collection::vec(op(length), 1..40),
            )
        })
    }

    fn new_set(length: i64, lateness: i64, max_open: usize) -> WindowSet {
        WindowSet {
            max_open,
            ..WindowSet::new(length, lateness)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Against the naive rules, and against itself without the crashes.
        #[test]
        fn every_reading_is_in_exactly_one_instance((length, lateness, max_open, start, ops) in history()) {
            let names: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
            let mut naive = Naive {
                length,
                lateness,
                max_open,
                clock: start,
                before_step: i64::MIN,
                early_ends: Vec::new(),
                open: Vec::new(),
            };
            let mut set = new_set(length, lateness, max_open);
            let mut whole = new_set(length, lateness, max_open);
            set.resume(start, i64::MIN);
            whole.resume(start, i64::MIN);
            let (mut readings, mut summed) = (0, 0);
            let mut opened_since_close: Vec<WindowKey> = Vec::new();

            for op in ops.into_iter().chain([Op::Step(0)]) {
                let closed = match op {
                    Op::Batch(by, rows) => {
                        let clock = naive.clock + by;
                        let rows: Vec<Row> = (rows.into_iter())
                            .map(|(series, distance, value, quality)| Row {
                                series: Arc::clone(&names[usize::from(series)]),
                                time: clock + distance,
                                value,
                                quality,
                            })
                            .collect();
                        let mut batch = BatchBuilder::new();
                        for row in &rows {
                            let series = batch.series(&row.series);
                            batch.push(series, row.time, row.value(), row.quality);
                        }
                        let mut opened = Vec::new();
                        set.observe_batch(clock, batch.batch(), &mut opened);
                        let one_by_one: Vec<WindowKey> = (rows.iter())
                            .filter_map(|row| whole.observe(clock, &row.series, row.time, row.value(), row.quality))
                            .collect();
                        prop_assert_eq!(&opened, &one_by_one);
                        let want: Vec<WindowKey> = rows.iter().filter_map(|row| naive.observe(clock, row)).collect();
                        prop_assert_eq!(&opened, &want);
                        readings += rows.len() as u64;
                        for key in opened {
                            prop_assert!(!opened_since_close.contains(&key), "opened twice: {:?}", key);
                            prop_assert!(set.is_open(&key));
                            opened_since_close.push(key);
                        }
                        continue;
                    }
                    Op::Close(by) => {
                        let clock = naive.clock + by;
                        let due = set.next_due();
                        let closed = set.close_due(clock);
                        prop_assert_eq!(due.is_some_and(|due| due <= clock), !closed.is_empty());
                        prop_assert_eq!(&closed, &whole.close_due(clock));
                        prop_assert!(set.len() <= max_open);
                        (closed, naive.close_due(clock), false)
                    }
                    Op::Step(by) => {
                        let clock = naive.clock + by;
                        let closed = set.step(clock);
                        prop_assert_eq!(&closed, &whole.step(clock));
                        prop_assert_eq!(set.len(), 0);
                        (closed, naive.step(clock), true)
                    }
                    Op::Crash => {
                        let mut after = new_set(length, lateness, max_open);
                        after.resume(set.clock(), set.closed_before());
                        for window in &naive.open {
                            after.restore(&window.key, window.opened);
                            for row in &window.rows {
                                prop_assert!(after.observe_into(&window.key, row.time, row.value(), row.quality));
                            }
                        }
                        set = after;
                        continue;
                    }
                };
                opened_since_close.clear();
                let (closed, want, stepped) = closed;
                let keys: Vec<WindowKey> = closed.iter().map(|window| window.key.clone()).collect();
                let mut rows = BTreeMap::new();
                for window in want {
                    let key = window.key;
                    rows.insert((key.from, key.series, key.to, key.late), window.rows);
                }
                prop_assert_eq!(&keys, &ordered(keys.clone()), "out of order");
                prop_assert_eq!(keys.len(), rows.len());
                for window in closed {
                    let key = window.key;
                    let rows = &rows[&(key.from, key.series, key.to, key.late)];
                    check_stats(&window.stats, rows);
                    prop_assert_eq!((window.stepped, window.incomplete), (stepped, false));
                    summed += window.stats.count;
                }
                prop_assert_eq!(set.len(), naive.open.len());
            }
            prop_assert_eq!(readings, summed);
            prop_assert!(set.by_name.is_empty() && set.due.is_empty() && set.next_due().is_none());
        }
    }

    const LENGTH: i64 = 60;
    const LATENESS: i64 = 2;

    /// Observes good values at `(clock, time)` and says what was opened, as `(from, to, late)`.
    fn observe(set: &mut WindowSet, clock: i64, time: i64) -> Option<(i64, i64, bool)> {
        set.observe(clock, &Arc::from("s"), time, Value::Int(1), Quality::Good)
            .map(|key| (key.from, key.to, key.late))
    }

    fn closed(windows: &[ClosedWindow]) -> Vec<(i64, bool, u64)> {
        (windows.iter())
            .map(|window| (window.key.from, window.key.late, window.stats.count))
            .collect()
    }

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides() {
        #[track_caller]
        fn check(time: i64, want: (i64, i64)) {
            assert_eq!(bounds(time, LENGTH), want);
        }
        check(0, (0, 60));
        check(59, (0, 60));
        check(60, (60, 120));
        check(-1, (-60, 0));
        check(-60, (-60, 0));
        check(-61, (-120, -60));
        check(i64::MAX, (i64::MAX - 7, i64::MAX));
        check(i64::MIN, (i64::MIN, i64::MIN + 8));
    }

    #[test]
    fn a_silent_series_closes_and_what_comes_later_is_a_supplement() {
        let mut set = WindowSet::new(LENGTH, LATENESS);
        assert_eq!(observe(&mut set, 10, 10), Some((0, 60, false)));
        assert_eq!(set.next_due(), Some(62));
        assert_eq!(set.close_due(61), []);
        assert_eq!(observe(&mut set, 61, 59), None, "still within lateness");
        // At 62 the window is over, whether or not it was closed already.
        assert_eq!(observe(&mut set, 62, 59), Some((0, 60, true)));
        assert_eq!(closed(&set.close_due(62)), [(0, false, 2)]);
        assert_eq!(observe(&mut set, 63, 58), None);
        assert_eq!(set.next_due(), Some(64));
        assert_eq!(closed(&set.close_due(64)), [(0, true, 2)]);
        assert_eq!(observe(&mut set, 65, 57), Some((0, 60, true)));
        assert_eq!(closed(&set.close_due(67)), [(0, true, 1)]);
        assert!(set.is_empty());
    }

    #[test]
    fn a_reading_far_ahead_of_the_clock_does_not_wait_for_its_time() {
        let mut set = WindowSet::new(LENGTH, LATENESS);
        assert_eq!(observe(&mut set, 10, 119), Some((60, 120, false)));
        assert_eq!(observe(&mut set, 10, 6000), Some((6000, 6060, true)));
        assert_eq!(closed(&set.close_due(72)), [(6000, true, 1)]);
        assert_eq!(closed(&set.close_due(122)), [(60, false, 1)]);
    }

    #[test]
    fn after_a_step_back_no_window_is_ordinary_twice() {
        let mut set = WindowSet::new(LENGTH, LATENESS);
        observe(&mut set, 10, 10);
        observe(&mut set, 130, 130);
        let stepped = set.step(65);
        assert_eq!(closed(&stepped), [(0, false, 1), (120, false, 1)]);
        assert!(stepped.iter().all(|window| window.stepped));
        assert_eq!(observe(&mut set, 65, 65), Some((60, 120, true)));
        assert_eq!(observe(&mut set, 119, 119), None);
        assert_eq!(observe(&mut set, 121, 121), Some((120, 180, true)));
        // Supplements too stay open as long as their window lasts.
        assert_eq!(closed(&set.close_due(121)), []);
        assert_eq!(closed(&set.close_due(122)), [(60, true, 2)]);
        assert_eq!(closed(&set.close_due(182)), [(120, true, 1)]);
        assert_eq!(observe(&mut set, 182, 182), Some((180, 240, false)));
    }

    #[test]
    fn above_the_bound_the_last_due_closes_early() {
        let mut set = new_set(LENGTH, LATENESS, 2);
        for (name, time) in [("a", 1), ("b", 2), ("c", 3), ("c", 4)] {
            let value = Value::Int(time);
            set.observe(0, &Arc::from(name), time, value, Quality::Good);
        }
        assert_eq!((set.len(), set.next_due()), (3, Some(0)));
        let early = set.close_due(0);
        assert_eq!(early.len(), 1);
        assert_eq!((&*early[0].key.series, early[0].stats.count), ("c", 2));
        assert_eq!((set.len(), set.closed_early()), (2, 1));
        let again = set.observe(0, &Arc::from("c"), 5, Value::Int(5), Quality::Good);
        assert!(again.is_some_and(|key| key.late));
    }

    #[test]
    fn the_ends_of_time_overflow_nothing() {
        let ends = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        for length in [i64::MIN, 0, 1, 2, 60, i64::MAX] {
            for lateness in [i64::MIN, 0, 5, i64::MAX] {
                for start in ends {
                    let mut set = WindowSet::new(length, lateness);
                    let mut readings = 0;
                    let mut summed = 0;
                    for time in ends.iter().chain(&ends) {
                        observe(&mut set, start, *time);
                        readings += 1;
                    }
                    let mut count = |closed: Vec<ClosedWindow>| {
                        summed += closed.iter().map(|c| c.stats.count).sum::<u64>();
                    };
                    count(set.close_due(start));
                    count(set.step(start));
                    count(set.close_due(i64::MAX));
                    assert_eq!(readings, summed);
                }
            }
        }
    }

    #[test]
    fn statistics_of_numbers_that_leave_the_doubles_are_null() {
        let mut set = WindowSet::new(LENGTH, LATENESS);
        for (time, value) in [(0, f64::MAX), (1, -f64::MAX), (2, f64::MAX), (3, -f64::MAX)] {
            set.observe(0, &Arc::from("s"), time, Value::Float(value), Quality::Good);
        }
        let stats = set.close_due(62)[0].stats;
        assert_eq!((stats.min, stats.max), (Some(-f64::MAX), Some(f64::MAX)));
        assert_eq!(stats.stddev, None);
        assert!(
            stats.mean.is_some_and(|mean| mean.abs() < 1e300),
            "{stats:?}"
        );
    }

    #[test]
    fn a_rebuilt_window_says_what_it_lacks() {
        let mut set = WindowSet::new(LENGTH, LATENESS);
        let key = WindowKey {
            series: Arc::from("s"),
            from: 0,
            to: 30,
            late: false,
        };
        assert!(!set.mark_incomplete(&key));
        assert!(!set.observe_into(&key, 1, Value::Int(1), Quality::Good));
        set.resume(20, -40);
        set.restore(&key, 5);
        assert!(set.observe_into(&key, 1, Value::Int(1), Quality::Good));
        assert!(set.mark_incomplete(&key));
        // Its length was another one: new readings go into a window of today's.
        assert_eq!(observe(&mut set, 20, 20), Some((0, 60, false)));
        let closed = set.close_due(32);
        assert_eq!(closed.len(), 1);
        assert_eq!((closed[0].stats.count, closed[0].incomplete), (1, true));
    }
}
