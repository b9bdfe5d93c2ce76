//! How far two generations' outputs for the same batch lie apart.

use std::collections::{BTreeSet, HashMap};

use tidegate_domain::reading::Kind;
use tidegate_domain::rollout::{Kinds, Tolerance};
use tidegate_domain::{Batch, PipelineOutcome};

/// Readings compared and differing, by kind. A reading that only one of them let through, or changed in time or series, differs.
pub(super) fn compare(
    active: &PipelineOutcome,
    candidate: &PipelineOutcome,
    tolerance: Tolerance,
) -> (Kinds, Kinds) {
    let mut found = Found::default();
    let (old, new) = (&active.stored, &candidate.stored);
    let same_rows = old.len() == new.len()
        && (0..old.len())
            .all(|row| old.time[row] == new.time[row] && old.name(row) == new.name(row));
    if same_rows {
        for row in 0..old.len() {
            found.both(old, row, new, row, tolerance);
        }
    } else {
        by_series_and_time(old, new, tolerance, &mut found);
    }
    let alarms = |outcome: &PipelineOutcome| -> BTreeSet<String> {
        let alarms = outcome.alarms.iter();
        alarms
            .map(|a| {
                format!(
                    "{} {} {:?} {:?} {}",
                    a.series, a.code, a.state, a.severity, a.time
                )
            })
            .collect()
    };
    if !active.alarms.is_empty() || !candidate.alarms.is_empty() {
        let (old, new) = (alarms(active), alarms(candidate));
        found.compared.alarm = old.union(&new).count() as u64;
        found.differing.alarm = old.symmetric_difference(&new).count() as u64;
    }
    (found.compared, found.differing)
}

#[derive(Default)]
struct Found {
    compared: Kinds,
    differing: Kinds,
}

impl Found {
    fn both(&mut self, old: &Batch, a: usize, new: &Batch, b: usize, tolerance: Tolerance) {
        let kind = old.kind[a];
        *counter(&mut self.compared, kind) += 1;
        if !equal(old, a, new, b, tolerance) {
            *counter(&mut self.differing, kind) += 1;
        }
    }

    fn one(&mut self, kind: u8) {
        *counter(&mut self.compared, kind) += 1;
        *counter(&mut self.differing, kind) += 1;
    }
}

fn counter(kinds: &mut Kinds, kind: u8) -> &mut u64 {
    match Kind::from_byte(kind) {
        Some(Kind::Int) => &mut kinds.integer,
        Some(Kind::Bool) => &mut kinds.boolean,
        Some(Kind::Text) => &mut kinds.text,
        Some(Kind::Float) | None => &mut kinds.float,
    }
}

/// The n-th reading of a series at a time belongs to the n-th of the other side.
fn by_series_and_time(old: &Batch, new: &Batch, tolerance: Tolerance, found: &mut Found) {
    let mut waiting: HashMap<(&str, i64), Vec<usize>> = HashMap::with_capacity(old.len());
    for row in (0..old.len()).rev() {
        waiting
            .entry((old.name(row), old.time[row]))
            .or_default()
            .push(row);
    }
    for row in 0..new.len() {
        let twin = waiting
            .get_mut(&(&**new.name(row), new.time[row]))
            .and_then(Vec::pop);
        match twin {
            Some(twin) => found.both(old, twin, new, row, tolerance),
            None => found.one(new.kind[row]),
        }
    }
    let mut left: Vec<usize> = waiting.into_values().flatten().collect();
    left.sort_unstable();
    left.into_iter().for_each(|row| found.one(old.kind[row]));
}

fn equal(old: &Batch, a: usize, new: &Batch, b: usize, tolerance: Tolerance) -> bool {
    if old.kind[a] != new.kind[b] || old.quality[a] != new.quality[b] {
        return false;
    }
    let (x, y) = (old.bits[a], new.bits[b]);
    match Kind::from_byte(old.kind[a]) {
        Some(Kind::Float) => {
            let (x, y) = (f64::from_bits(x), f64::from_bits(y));
            let scale = x.abs().max(y.abs());
            x.to_bits() == y.to_bits()
                || (x - y).abs() <= tolerance.float * scale
                || (x.is_nan() && y.is_nan())
        }
        Some(Kind::Int) => x.cast_signed().abs_diff(y.cast_signed()) <= tolerance.integer,
        Some(Kind::Text) => old.value(a) == new.value(b),
        Some(Kind::Bool) | None => x == y,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_domain::batch::BatchBuilder;
    use tidegate_domain::{Quality, Value};

    use super::*;

    fn outcome(rows: &[(&str, i64, Value<'_>)]) -> PipelineOutcome {
        let mut batch = BatchBuilder::new();
        for (series, time, value) in rows {
            let series = batch.series(&(*series).into());
            batch.push(series, *time, *value, Quality::Good);
        }
        PipelineOutcome {
            stored: batch.finish(),
            ..PipelineOutcome::default()
        }
    }

    #[test]
    fn values_are_equal_within_the_tolerance_of_their_kind_and_rows_that_one_side_lacks_differ() {
        let tolerance = Tolerance {
            float: 1e-3,
            integer: 1,
        };
        let check = |old: &[(&str, i64, Value<'_>)],
                     new: &[(&str, i64, Value<'_>)],
                     compared,
                     differing| {
            let (c, d) = compare(&outcome(old), &outcome(new), tolerance);
            assert_eq!((c.sum(), d.sum()), (compared, differing), "{old:?} {new:?}");
        };
        use Value::{Bool as Boolean, Float, Int as Integer, Text};
        check(&[], &[], 0, 0);
        check(&[("a", 1, Float(1.0))], &[("a", 1, Float(1.0005))], 1, 0);
        check(&[("a", 1, Float(1.0))], &[("a", 1, Float(1.002))], 1, 1);
        check(
            &[("a", 1, Float(f64::NAN))],
            &[("a", 1, Float(f64::NAN))],
            1,
            0,
        );
        check(
            &[("a", 1, Integer(i64::MIN))],
            &[("a", 1, Integer(i64::MAX))],
            1,
            1,
        );
        check(&[("a", 1, Integer(5))], &[("a", 1, Integer(6))], 1, 0);
        check(&[("a", 1, Integer(1))], &[("a", 1, Float(1.0))], 1, 1);
        check(
            &[("a", 1, Boolean(true))],
            &[("a", 1, Boolean(false))],
            1,
            1,
        );
        check(&[("a", 1, Text("x"))], &[("a", 1, Text("x"))], 1, 0);
        check(&[("a", 1, Text("x"))], &[("a", 1, Text("y"))], 1, 1);
        // One that is missing, in the middle; one that is too many; the order does not matter.
        let three = [
            ("a", 1, Float(1.0)),
            ("b", 1, Float(2.0)),
            ("a", 2, Float(3.0)),
        ];
        check(&three, &[three[0], three[2]], 3, 1);
        check(&[three[1]], &three, 3, 2);
        check(&three, &[three[2], three[1], three[0]], 3, 0);
        check(&[("a", 1, Float(1.0))], &[("a", 2, Float(1.0))], 2, 2);
    }
}
