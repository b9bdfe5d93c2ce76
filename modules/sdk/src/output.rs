//! What becomes of the rows.

use crate::SERIES_NAME_BYTES;
use crate::batch::{self, Batch, Quality, Row, Value};
use crate::filter::clip;

/// What becomes of each row of a batch. A row goes on as it is unless something else is said about it here; whatever
/// is said, the leanest form crosses back to the gateway: nothing at all for a batch that passes whole, a bit per row for
/// one that only loses rows.
#[derive(Default)]
pub struct Output {
    /// Per row; empty until the first row is dropped or rejected.
    fate: Vec<Fate>,
    dropped: usize,
    rejected: Vec<(u32, String)>,
    /// The columns with their changes; `None` until the first change.
    changed: Option<Changed>,
    /// New names by series; empty until the first one.
    renamed: Vec<Option<String>>,
    derived: Derived,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
    Reject,
}

/// The columns that a filter can change, as they are to be; empty where it left one alone.
#[derive(Default)]
struct Changed {
    time: Vec<i64>,
    kind: Vec<u8>,
    bits: Vec<u64>,
    quality: Vec<u8>,
    /// Texts behind those of the input.
    texts: Vec<String>,
}

#[derive(Default)]
struct Derived {
    batch: Batch,
    names: Names,
    /// By level, and by series of the input: one more than the number of the derived series, 0 where there is none yet.
    levels: Vec<(String, Vec<u32>)>,
}

impl Output {
    /// Takes the row out; it counts as filtered.
    pub fn drop(&mut self, row: Row<'_>) {
        let fate = self.fate(row);
        if *fate == Fate::Keep {
            *fate = Fate::Drop;
            self.dropped += 1;
        }
    }

    /// Sends the row to quarantine because it cannot be judged; the reason is for people and ends after 1 KiB.
    /// Stronger than [`Output::drop`]; the first reason stays.
    pub fn reject(&mut self, row: Row<'_>, reason: impl Into<String>) {
        let fate = self.fate(row);
        match std::mem::replace(fate, Fate::Reject) {
            Fate::Keep => {}
            Fate::Drop => self.dropped -= 1,
            Fate::Reject => return,
        }
        self.rejected.push((row.index_u32(), clip(reason.into())));
    }

    /// Gives the row another value.
    pub fn set_value<'v>(&mut self, row: Row<'_>, value: impl Into<Value<'v>>) {
        let batch = row.batch();
        let changed = self.changed();
        let (kind, bits) = batch::encode(value.into(), &mut changed.texts, batch.texts.len());
        touched(&mut changed.kind, &batch.kind)[row.index()] = kind;
        touched(&mut changed.bits, &batch.bits)[row.index()] = bits;
    }

    /// Gives the row another quality.
    pub fn set_quality(&mut self, row: Row<'_>, quality: Quality) {
        let column = &mut self.changed().quality;
        touched(column, &row.batch().quality)[row.index()] = quality as u8;
    }

    /// Gives the row another time, in nanoseconds since the epoch.
    pub fn set_time(&mut self, row: Row<'_>, time: i64) {
        let column = &mut self.changed().time;
        touched(column, &row.batch().time)[row.index()] = time;
    }

    /// Renames the row's series, for **all** rows of that series. False, and nothing done, where the name is longer than
    /// [`SERIES_NAME_BYTES`].
    pub fn rename(&mut self, row: Row<'_>, series: &str) -> bool {
        if series.len() > SERIES_NAME_BYTES {
            return false;
        }
        self.changed();
        let count = row.batch().names.len();
        self.renamed.resize(count, None);
        self.renamed[row.series_index()] = Some(series.to_owned());
        true
    }

    /// Adds a reading to the series `<series of the row>/<level>`, with the row's time and quality. False, and nothing
    /// done, where that name is longer than [`SERIES_NAME_BYTES`].
    pub fn derive<'v>(&mut self, row: Row<'_>, level: &str, value: impl Into<Value<'v>>) -> bool {
        let Some(series) = self.derived.level(row, level) else {
            return false;
        };
        self.derived
            .batch
            .push(series, row.time(), value.into(), row.quality());
        true
    }

    /// Adds a reading to any series. False, and nothing done, where the name is empty or longer than
    /// [`SERIES_NAME_BYTES`].
    pub fn add<'v>(
        &mut self,
        series: &str,
        time: i64,
        value: impl Into<Value<'v>>,
        quality: Quality,
    ) -> bool {
        if series.is_empty() || series.len() > SERIES_NAME_BYTES {
            return false;
        }
        let series = self.derived.names.intern(series.to_owned());
        self.derived.batch.push(series, time, value.into(), quality);
        true
    }

    fn fate(&mut self, row: Row<'_>) -> &mut Fate {
        if self.fate.is_empty() {
            self.fate = vec![Fate::Keep; row.batch().len()];
        }
        &mut self.fate[row.index()]
    }

    fn changed(&mut self) -> &mut Changed {
        self.changed.get_or_insert_default()
    }

    /// The answer to the gateway, out of the batch that was the input.
    pub(crate) fn finish(mut self, input: Batch) -> Answer {
        let derived = self.derived.finish();
        let keep = if input.len() == self.dropped + self.rejected.len() && self.dropped > 0 {
            Keep::None
        } else {
            match self.changed.take() {
                None if self.dropped == 0 => Keep::All,
                None => Keep::Rows(bitmap(&self.fate)),
                Some(changed) => {
                    let mut batch = changed.over(input);
                    rename(&mut batch, self.renamed);
                    if self.dropped == 0 {
                        batch.forget_unused_texts();
                        Keep::Changed(batch)
                    } else {
                        batch.retain(&self.fate);
                        batch.forget_unused_texts();
                        Keep::RowsChanged(bitmap(&self.fate), batch)
                    }
                }
            }
        };
        Answer {
            keep,
            derived,
            rejected: self.rejected,
        }
    }
}

impl Derived {
    fn finish(self) -> Option<Batch> {
        (!self.batch.is_empty()).then_some(Batch {
            names: self.names.names,
            ..self.batch
        })
    }

    fn level(&mut self, row: Row<'_>, level: &str) -> Option<u32> {
        let place = match self.levels.iter().position(|(name, _)| name == level) {
            Some(place) => place,
            None => {
                self.levels
                    .push((level.to_owned(), vec![0; row.batch().names.len()]));
                self.levels.len() - 1
            }
        };
        if let Some(known) = self.levels[place].1[row.series_index()].checked_sub(1) {
            return Some(known);
        }
        let name = [row.series(), level].join("/");
        if name.len() > SERIES_NAME_BYTES {
            return None;
        }
        let series = self.names.intern(name);
        self.levels[place].1[row.series_index()] = series + 1;
        Some(series)
    }
}

/// A column to write to; the input's contents until then.
fn touched<'c, T: Clone>(column: &'c mut Vec<T>, input: &[T]) -> &'c mut Vec<T> {
    if column.is_empty() {
        *column = input.to_vec();
    }
    column
}

impl Changed {
    fn over(self, input: Batch) -> Batch {
        fn column<T>(changed: Vec<T>, input: Vec<T>) -> Vec<T> {
            if changed.is_empty() { input } else { changed }
        }
        let mut texts = input.texts;
        texts.extend(self.texts);
        Batch {
            names: input.names,
            series: input.series,
            time: column(self.time, input.time),
            kind: column(self.kind, input.kind),
            bits: column(self.bits, input.bits),
            texts,
            quality: column(self.quality, input.quality),
        }
    }
}

impl Batch {
    /// Keeps the rows that go on.
    fn retain(&mut self, fate: &[Fate]) {
        fn column<T>(column: &mut Vec<T>, fate: &[Fate]) {
            let mut fate = fate.iter();
            column.retain(|_| fate.next() == Some(&Fate::Keep));
        }
        column(&mut self.series, fate);
        column(&mut self.time, fate);
        column(&mut self.kind, fate);
        column(&mut self.bits, fate);
        column(&mut self.quality, fate);
    }

    /// Drops texts that no row refers to any more: what a filter replaced must not travel on unseen.
    fn forget_unused_texts(&mut self) {
        if self.texts.is_empty() {
            return;
        }
        let mut moved: Vec<Option<u64>> = vec![None; self.texts.len()];
        let mut texts = Vec::new();
        for (kind, bits) in self.kind.iter().zip(&mut self.bits) {
            if *kind != batch::kind::TEXT {
                continue;
            }
            let Some(place) = usize::try_from(*bits).ok().filter(|&p| p < moved.len()) else {
                continue;
            };
            *bits = *moved[place].get_or_insert_with(|| {
                texts.push(std::mem::take(&mut self.texts[place]));
                texts.len() as u64 - 1
            });
        }
        self.texts = texts;
    }
}

/// Puts new names in place. Names of a batch are distinct, so that series which now share one become one; old names go.
fn rename(batch: &mut Batch, renamed: Vec<Option<String>>) {
    if renamed.is_empty() {
        return;
    }
    let mut names = Names::default();
    let moved: Vec<u32> = std::mem::take(&mut batch.names)
        .into_iter()
        .zip(renamed)
        .map(|(old, new)| names.intern(new.unwrap_or(old)))
        .collect();
    batch.names = names.names;
    for series in &mut batch.series {
        *series = moved[*series as usize];
    }
}

/// Names, each once, with their places in alphabetical order: a map would double a small component.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) names: Vec<String>,
    /// In pieces, none of them empty, so that a new name among many moves few.
    order: Vec<Vec<u32>>,
}

/// Places in one piece of the order; a longer one is cut in two.
const PIECE: usize = 256;

impl Names {
    /// The number of a name that is there.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let (piece, found) = self.seek(name);
        found.ok().map(|at| self.order[piece][at])
    }

    /// The number of a name.
    pub(crate) fn intern(&mut self, name: String) -> u32 {
        let (piece, gap) = match self.seek(&name) {
            (piece, Ok(at)) => return self.order[piece][at],
            (piece, Err(gap)) => (piece, gap),
        };
        // Far fewer than u32::MAX names fit into a module's memory.
        let place = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name);
        if self.order.is_empty() {
            self.order.push(Vec::new());
        }
        let places = &mut self.order[piece];
        places.insert(gap, place);
        if places.len() > PIECE {
            let half = places.split_off(PIECE / 2);
            self.order.insert(piece + 1, half);
        }
        place
    }

    /// In which piece of the order a name stands or belongs, and where in it.
    fn seek(&self, name: &str) -> (usize, Result<usize, usize>) {
        let of = |place: u32| self.names[place as usize].as_str();
        let after = self.order.partition_point(|piece| of(piece[0]) <= name);
        let piece = after.saturating_sub(1);
        let found = self.order.get(piece).map_or(Err(0), |places| {
            places.binary_search_by(|&place| of(place).cmp(name))
        });
        (piece, found)
    }
}

/// Row `n` is bit `n % 8`, least significant first, of byte `n / 8`.
fn bitmap(fate: &[Fate]) -> Vec<u8> {
    fate.chunks(8)
        .map(|rows| {
            rows.iter().enumerate().fold(0, |byte, (bit, fate)| {
                byte | u8::from(*fate == Fate::Keep) << bit
            })
        })
        .collect()
}

/// What crosses back to the gateway.
pub struct Answer {
    pub(crate) keep: Keep,
    pub(crate) derived: Option<Batch>,
    pub(crate) rejected: Vec<(u32, String)>,
}

/// Which rows of the input go on, as in `modules/wit/0.2.0/module.wit`.
pub(crate) enum Keep {
    All,
    None,
    Rows(Vec<u8>),
    Changed(Batch),
    RowsChanged(Vec<u8>, Batch),
}

#[cfg(test)]
mod tests {
    use super::{Names, PIECE};
    use crate::test::{Harness, Owned, Reading};
    use crate::{Batch, Fault, Output, Quality, hash};

    /// What is done to a row is read off its time, so that filter and model see the same.
    fn anything(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
        for row in batch.rows() {
            let deeds = row.time().cast_unsigned();
            let has = |bit: u32| deeds >> bit & 1 == 1;
            if has(0) && has(1) {
                out.drop(row);
            }
            if has(2) && has(3) && has(4) {
                out.reject(row, "first");
                out.reject(row, "second");
                out.drop(row);
            }
            if has(5) {
                out.set_value(row, "new");
            }
            if has(6) {
                out.set_quality(row, Quality::Uncertain);
            }
            if has(7) {
                out.derive(row, "twice", 2.5);
            }
            if row.series() == "a" {
                out.rename(row, "b");
            }
        }
        Ok(())
    }

    /// Random batches against the same said row by row. The harness looks at every answer as the gateway does.
    #[test]
    fn whatever_a_filter_says_about_rows_comes_out_for_those_rows() {
        let mut seen = std::collections::BTreeSet::new();
        for case in 0..4000_u64 {
            let random = |n: u64| hash::mix(case << 32 | n);
            let mask =
                [0, 0x60, 0x80, 0x3, 0x1f, 0xff, 0xe3, 0x7f][usize::try_from(case % 8).unwrap()];
            let renames = random(1) % 2 == 0;
            let input: Vec<Reading> = (0..random(2) % 20)
                .map(|n| {
                    let choice = if renames {
                        &["b", "c", "d/e", "a"][..]
                    } else {
                        &["b", "c"]
                    };
                    let series = choice[usize::try_from(random(n * 8 + 3)).unwrap() % choice.len()];
                    let value: Owned = match random(n * 8 + 4) % 4 {
                        0 => Owned::Float(1.5),
                        1 => Owned::Int(-1),
                        2 => Owned::Bool(true),
                        _ => Owned::Text(format!("old {n}")),
                    };
                    let time = random(n * 8 + 5).cast_signed() & (mask | !0xff);
                    Reading::new(series, time, value)
                })
                .collect();

            let (mut stored, mut derived, mut rejected, mut filtered) = (vec![], vec![], vec![], 0);
            for (row, reading) in (0..).zip(&input) {
                let has = |bit: u32| reading.time >> bit & 1 == 1;
                let mut new = reading.clone();
                if has(5) {
                    new.value = Owned::Text("new".to_owned());
                }
                if has(6) {
                    new.quality = Quality::Uncertain;
                }
                if new.series == "a" {
                    new.series = "b".to_owned();
                }
                if has(7) {
                    let series = format!("{}/twice", reading.series);
                    derived.push(Reading::new(&series, reading.time, 2.5));
                }
                if has(2) && has(3) && has(4) {
                    rejected.push((row, "first".to_owned()));
                } else if has(0) && has(1) {
                    filtered += 1;
                } else {
                    stored.push(new);
                }
            }
            stored.extend(derived);

            let outcome = Harness::new(anything).run(&input).unwrap();
            assert_eq!(outcome.stored, stored, "case {case}");
            assert_eq!(outcome.rejected, rejected, "case {case}");
            assert_eq!(outcome.filtered, filtered, "case {case}");
            seen.insert(outcome.shape);
        }
        assert_eq!(seen.len(), 5, "every shape was among the answers: {seen:?}");
    }

    #[test]
    fn many_names_in_any_order_have_one_number_each_and_few_are_moved_for_a_new_one() {
        const MANY: u32 = 65_000;
        // 7919 and MANY have no common factor: every number comes once, far from the one before.
        for step in [1, 7919, MANY - 1] {
            let mut names = Names::default();
            let name = |n: u32| {
                format!(
                    "plant/line{}/s",
                    u64::from(n) * u64::from(step) % u64::from(MANY)
                )
            };
            for n in 0..MANY {
                assert_eq!(names.find(&name(n)), None);
                assert_eq!(names.intern(name(n)), n);
            }
            for n in 0..MANY {
                assert_eq!(names.find(&name(n)), Some(n));
                assert_eq!(names.intern(name(n)), n);
            }
            assert_eq!((names.find(""), names.find("z")), (None, None));
            assert_eq!(names.names.len(), MANY as usize);
            let longest = names.order.iter().map(Vec::len).max();
            assert!(longest <= Some(PIECE), "{longest:?}");
            let pieces = names.order.len();
            assert!(pieces <= 2 * MANY as usize / PIECE + 1, "{pieces}");
            let order: Vec<&String> = names
                .order
                .iter()
                .flatten()
                .map(|&n| &names.names[n as usize])
                .collect();
            assert!(order.is_sorted());
        }
    }

    #[test]
    fn names_and_reasons_stay_within_their_bounds() {
        fn filter(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
            for row in batch.rows() {
                assert!(!out.derive(row, &"x".repeat(511), 1.0));
                assert!(!out.rename(row, &"x".repeat(513)));
                assert!(!out.add("", 0, 1.0, Quality::Good));
                out.reject(row, "ö".repeat(600));
            }
            Ok(())
        }
        let outcome = Harness::new(filter)
            .run(&[Reading::new("a", 0, 1.0)])
            .unwrap();
        assert_eq!(outcome.rejected[0].1.len(), 1024);
        assert_eq!((outcome.stored.len(), outcome.shape), (0, "all"));
    }
}
