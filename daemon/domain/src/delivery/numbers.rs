//! Numbers of messages as ranges: what is settled and not deleted yet is thousands in a row.

use std::collections::BTreeMap;

/// A set of message numbers. It takes the memory of its ranges, not of its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// From the first to the last of each; they neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
    count: usize,
}

impl Numbers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the number is one of them.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.run(number).is_some()
    }

    /// The last of those that follow on this number without a hole; `None` where it is none of them.
    #[must_use]
    pub fn last_in_row(&self, number: u64) -> Option<u64> {
        self.run(number).map(|(_, last)| last)
    }

    /// Adds a number.
    pub fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let before = number.checked_sub(1).and_then(|before| self.run(before));
        let first = before.map_or(number, |(first, _)| first);
        let after = number.checked_add(1);
        let last = after.and_then(|after| self.ranges.remove(&after));
        self.ranges.insert(first, last.unwrap_or(number));
        self.count += 1;
    }

    /// Takes a number out, if it is there.
    pub fn remove(&mut self, number: u64) {
        let Some((first, last)) = self.run(number) else {
            return;
        };
        if first == number {
            self.ranges.remove(&first);
        } else {
            self.ranges.insert(first, number - 1);
        }
        if last > number {
            self.ranges.insert(number + 1, last);
        }
        self.count -= 1;
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The range that the number is in.
    fn run(&self, number: u64) -> Option<(u64, u64)> {
        let (first, last) = self.ranges.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }
}

impl Extend<u64> for Numbers {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, numbers: I) {
        for number in numbers {
            self.insert(number);
        }
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::default();
        set.extend(numbers);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_put_in_and_not_taken_out(
            steps in prop::collection::vec((any::<bool>(), 0u64..40), 0..300),
            ends in prop::collection::vec((any::<bool>(), u64::MAX - 4..=u64::MAX), 0..20),
        ) {
            let (mut numbers, mut plain) = (Numbers::default(), BTreeSet::new());
            for (put, number) in steps.into_iter().chain(ends) {
                if put {
                    numbers.insert(number);
                    plain.insert(number);
                } else {
                    numbers.remove(number);
                    plain.remove(&number);
                }
                prop_assert_eq!(numbers.len(), plain.len());
                prop_assert_eq!(numbers.is_empty(), plain.is_empty());
            }
            prop_assert!(numbers.iter().eq(plain.iter().copied()));
            for number in (0..42).chain(u64::MAX - 6..=u64::MAX) {
                prop_assert_eq!(numbers.contains(number), plain.contains(&number));
                let row = plain.range(number..).zip(number..=u64::MAX).take_while(|(is, row)| *is == row);
                prop_assert_eq!(numbers.last_in_row(number), row.map(|(_, row)| row).last());
            }
            let anew: Numbers = plain.into_iter().collect();
            prop_assert_eq!(anew, numbers);
        }
    }
}
