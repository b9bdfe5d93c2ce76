//! Which rows of a batch a filter cannot take: halves are tried in order, and what fails is halved again, as long as calls
//! and time allow.

use std::ops::Range;

use crate::guest::Failure;

/// The calls that a search may make: one row at fault takes two for every halving, so two rows are found anywhere.
pub(crate) fn calls(rows: usize) -> u32 {
    4 * rows.next_power_of_two().ilog2()
}

/// What became of one range of rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<T> {
    /// The filter answered.
    Sound(Range<usize>, T),
    /// It failed on these rows; with `None` they were not tried, for want of time or calls.
    Failed(Range<usize>, Option<Failure>),
}

/// Tries halves of a batch on which the filter has failed as a whole. `call` answers `None` when there is no time left.
/// The parts come in the order of their rows and cover all of them.
pub(crate) fn bisect<T>(
    rows: usize,
    mut call: impl FnMut(Range<usize>) -> Option<Result<T, Failure>>,
) -> Vec<Part<T>> {
    let mut parts = Vec::new();
    let mut left = calls(rows);
    // The next one is on top.
    let mut waiting = Vec::new();
    halve(0..rows, &mut waiting);
    while let Some(range) = waiting.pop() {
        let result = if left > 0 { call(range.clone()) } else { None };
        left = left.saturating_sub(1);
        match result {
            Some(Ok(answer)) => parts.push(Part::Sound(range, answer)),
            Some(Err(failure)) if range.len() > 1 && failure.worth_a_retry() => {
                halve(range, &mut waiting);
            }
            Some(Err(failure)) => parts.push(Part::Failed(range, Some(failure))),
            None => parts.push(Part::Failed(range, None)),
        }
    }
    parts
}

fn halve(range: Range<usize>, waiting: &mut Vec<Range<usize>>) {
    let middle = range.start + range.len() / 2;
    waiting.push(middle..range.end);
    waiting.push(range.start..middle);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Searches a batch for the rows at fault; gives the ranges that failed and the calls made.
    fn search(rows: usize, at_fault: &[usize], time: u32) -> (Vec<Range<usize>>, u32) {
        let at_fault: BTreeSet<usize> = at_fault.iter().copied().collect();
        let mut made = 0;
        let parts = bisect(rows, |range| {
            if made == time {
                return None;
            }
            made += 1;
            Some(match at_fault.range(range).next() {
                Some(row) => Err(Failure::Trap(row.to_string())),
                None => Ok(()),
            })
        });
        let mut next = 0;
        let mut failed = Vec::new();
        for part in parts {
            let range = match part {
                Part::Sound(range, ()) => {
                    assert_eq!(at_fault.range(range.clone()).next(), None);
                    range
                }
                Part::Failed(range, _) => {
                    failed.push(range.clone());
                    range
                }
            };
            assert_eq!(range.start, next, "in order, without a gap");
            next = range.end;
        }
        assert_eq!(next, rows);
        (failed, made)
    }

    #[test]
    fn any_two_rows_at_fault_are_found_and_nothing_else_is_held_back() {
        for rows in [2_usize, 3, 5, 64, 100, 1024] {
            for first in (0..rows).step_by(rows.div_ceil(17)) {
                for second in (0..rows).step_by(rows.div_ceil(13)) {
                    let (failed, made) = search(rows, &[first, second], u32::MAX);
                    let want: BTreeSet<usize> = [first, second].into();
                    let got: Vec<usize> = failed.iter().map(|range| range.start).collect();
                    assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{rows}");
                    assert!(failed.iter().all(|range| range.len() == 1));
                    assert!(made <= calls(rows), "{made} calls for {rows} rows");
                }
            }
        }
        assert_eq!(search(1024, &[700], u32::MAX).1, 20);
    }

    #[test]
    fn more_rows_than_there_are_calls_for_or_too_little_time_leave_the_rest_together() {
        let all: Vec<usize> = (0..1024).collect();
        let (failed, made) = search(1024, &all, u32::MAX);
        assert_eq!(made, 40);
        assert_eq!(failed.last(), Some(&(512..1024)), "it was not tried");
        let (failed, made) = search(1024, &[0], 3);
        assert_eq!(
            (failed, made),
            (vec![0..64, 64..128, 128..256, 256..512, 512..1024], 3)
        );
        assert_eq!(search(1024, &[0], 0), (vec![0..512, 512..1024], 0));
    }

    #[test]
    fn a_batch_that_fails_only_as_a_whole_goes_through_in_parts() {
        assert_eq!(search(1024, &[], u32::MAX), (Vec::new(), 2));
    }
}
