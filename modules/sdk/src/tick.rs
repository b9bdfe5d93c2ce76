//! What a filter does as time passes, also when nothing arrives.

use std::ops::{Index, IndexMut};

use crate::SERIES_NAME_BYTES;
use crate::batch::{Batch, PerSeries, Quality, Value};
use crate::capability::alarm;
use crate::filter::{Fault, Stateful, Stateless};
use crate::output::Names;
use crate::record::{Record, State};

/// What a tick is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    now: i64,
    series: Vec<String>,
}

impl Tick {
    /// The present by the gateway's clock: nanoseconds since 1970-01-01T00:00:00Z. That clock may be stepped, also by
    /// years where a gateway without a battery gets its time late.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.now
    }

    /// The series that a record of state is kept for, at most 1024 of them in one call; none where the filter keeps no
    /// state by series.
    pub fn series(&self) -> impl ExactSizeIterator<Item = Series<'_>> {
        let names = self.series.iter().enumerate();
        names.map(|(index, name)| Series { name, index })
    }
}

/// A series that a tick is about; `state[series]` is what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series<'a> {
    name: &'a str,
    index: usize,
}

impl<'a> Series<'a> {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.name
    }
}

impl<T> Index<Series<'_>> for PerSeries<T> {
    type Output = T;

    fn index(&self, series: Series<'_>) -> &T {
        &self.0[series.index]
    }
}

impl<T> IndexMut<Series<'_>> for PerSeries<T> {
    fn index_mut(&mut self, series: Series<'_>) -> &mut T {
        &mut self.0[series.index]
    }
}

/// The rows that a tick adds, at most 1024: they are stored as derived ones and go through the filters behind this one.
#[derive(Default)]
pub struct Added {
    batch: Batch,
    names: Names,
}

/// A row that a tick added: alarms are raised and cleared about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedRow(u32);

impl alarm::About for AddedRow {
    fn row(&self) -> u32 {
        self.0
    }
}

impl Added {
    /// Adds a reading. `None`, and nothing done, where the name is empty or longer than [`SERIES_NAME_BYTES`].
    pub fn add<'v>(
        &mut self,
        series: &str,
        time: i64,
        value: impl Into<Value<'v>>,
        quality: Quality,
    ) -> Option<AddedRow> {
        if series.is_empty() || series.len() > SERIES_NAME_BYTES {
            return None;
        }
        let row = u32::try_from(self.batch.len()).ok()?;
        let series = self.names.intern(series.to_owned());
        self.batch.push(series, time, value.into(), quality);
        Some(AddedRow(row))
    }

    fn finish(self) -> Batch {
        Batch {
            names: self.names.names,
            ..self.batch
        }
    }
}

/// What the [`filter!`](crate::filter!) macro takes for `tick`: a function over a [`Tick`], with or without a [`State`].
/// `Kind` tells the two apart and is always inferred.
pub trait OnTick<Kind> {
    /// Bytes of a record of state; 0 where there is none.
    const WIDTH: usize;

    /// Runs it once.
    ///
    /// # Errors
    /// What the function says, and a column of state that is not as wide as the record.
    fn run(&self, now: i64, series: Vec<String>) -> Result<Batch, Fault>;
}

impl<F: Fn(&Tick, &mut Added) -> Result<(), Fault>> OnTick<Stateless> for F {
    const WIDTH: usize = 0;

    fn run(&self, now: i64, series: Vec<String>) -> Result<Batch, Fault> {
        let mut added = Added::default();
        self(&Tick { now, series }, &mut added)?;
        Ok(added.finish())
    }
}

impl<R: Record, F: Fn(&Tick, &mut State<R>, &mut Added) -> Result<(), Fault>> OnTick<Stateful<R>>
    for F
{
    const WIDTH: usize = R::WIDTH;

    fn run(&self, now: i64, series: Vec<String>) -> Result<Batch, Fault> {
        let mut added = Added::default();
        State::kept(series.len(), |state| {
            self(&Tick { now, series }, state, &mut added)
        })?;
        Ok(added.finish())
    }
}

/// Lets the compiler say early, and in the filter's own file, that a function is no `tick`.
#[doc(hidden)]
pub const fn is_tick<Kind, F: OnTick<Kind>>(_: &F) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::{Harness, Reading};
    use crate::{Output, alarm::Severity};

    crate::record! {
        layout 1;
        struct Seen { times: u32 }
    }

    fn count(batch: &Batch, state: &mut State<Seen>, _: &mut Output) -> Result<(), Fault> {
        for row in batch.rows() {
            state[row].get_or_insert(Seen { times: 0 }).times += 1;
        }
        Ok(())
    }

    /// Tells how often each series was seen, and forgets those that were seen once.
    fn tell(tick: &Tick, state: &mut State<Seen>, out: &mut Added) -> Result<(), Fault> {
        for series in tick.series() {
            let times = state[series].as_ref().map_or(0, |seen| seen.times);
            if times > 8 {
                return Err("too many".into());
            }
            let name = [series.name(), "seen"].join("/");
            if let Some(row) = out.add(&name, tick.now(), i64::from(times), Quality::Good) {
                alarm::raise(row, Severity::Info, "seen", "it was there");
            }
            if times == 1 {
                state[series] = None;
            }
        }
        Ok(())
    }

    #[test]
    fn a_tick_is_about_what_is_kept_and_a_fault_changes_nothing() {
        let mut harness = Harness::new(count).ticking(tell).at(7);
        let rows = ["b", "a", "b"].map(|series| Reading::new(series, 0, 1.0));
        harness.run(&rows).unwrap();
        let outcome = harness.tick().unwrap();
        let want = [("a/seen", 1_i64), ("b/seen", 2)];
        assert_eq!(
            outcome.stored,
            want.map(|(series, n)| Reading::new(series, 7, n))
        );
        let about: Vec<&str> = outcome.alarms.iter().map(|a| a.series.as_str()).collect();
        assert_eq!(about, ["a/seen", "b/seen"]);
        assert_eq!(harness.record("a"), None);
        for _ in 0..4 {
            harness.run(&rows[2..]).unwrap();
            harness.run(&rows).unwrap();
        }
        let before = harness.record("b").unwrap().to_vec();
        assert_eq!(harness.tick(), Err("too many".into()));
        assert_eq!(harness.record("b"), Some(&before[..]));
    }
}
