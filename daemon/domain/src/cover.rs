//! The narrowest glob over several series: what a gap says of losses that were summed up.

use std::borrow::Cow;

/// Covers one series: its name, but for levels that a glob would take for patterns.
#[must_use]
pub fn of(series: &str) -> Cow<'_, str> {
    if !series.contains(METACHARACTERS) {
        return Cow::Borrowed(series);
    }
    let levels: Vec<&str> = series.split('/').map(literal).collect();
    Cow::Owned(levels.join("/"))
}

/// Covers what two covers cover: `plant/line1/temp` and `plant/line2/temp` give `plant/*/temp`, names of different
/// depth what they have in common at both ends, around `**`.
#[must_use]
pub fn join<'a>(one: &'a str, other: &str) -> Cow<'a, str> {
    if one == other || one == ANY_LEVELS {
        return Cow::Borrowed(one);
    }
    let (one, other): (Vec<&str>, Vec<&str>) =
        (one.split('/').collect(), other.split('/').collect());
    let open = |levels: &[&str]| levels.contains(&ANY_LEVELS);
    if one.len() == other.len() && !open(&one) && !open(&other) {
        let levels = one.iter().zip(&other);
        let levels: Vec<&str> = levels
            .map(|(one, other)| both(one, other).unwrap_or(ANY_LEVEL))
            .collect();
        return Cow::Owned(levels.join("/"));
    }
    let least = least_levels(&one).min(least_levels(&other));
    let common = |one: &mut dyn Iterator<Item = &'a str>, other: &mut dyn Iterator<Item = &str>| {
        one.zip(other)
            .map_while(|(one, other)| both(one, other).map(str::to_owned))
            .collect::<Vec<String>>()
    };
    let mut begin = common(&mut one.iter().copied(), &mut other.iter().copied());
    let mut end = common(
        &mut one.iter().rev().copied(),
        &mut other.iter().rev().copied(),
    );
    begin.truncate(least);
    end.truncate(least - begin.len());
    if end.is_empty() {
        // At the end `**` stands for one level at least.
        begin.truncate(least - 1);
    }
    begin.push(ANY_LEVELS.to_owned());
    begin.extend(end.into_iter().rev());
    Cow::Owned(begin.join("/"))
}

const ANY_LEVEL: &str = "*";
const ANY_LEVELS: &str = "**";
const METACHARACTERS: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

fn literal(level: &str) -> &str {
    if level.contains(METACHARACTERS) {
        ANY_LEVEL
    } else {
        level
    }
}

/// What covers two levels, where that is not just anything.
fn both<'a>(one: &'a str, other: &str) -> Option<&'a str> {
    if one == ANY_LEVELS || other == ANY_LEVELS {
        None
    } else if one == other || one == ANY_LEVEL {
        Some(one)
    } else if other == ANY_LEVEL {
        Some(ANY_LEVEL)
    } else {
        None
    }
}

/// The levels of the shortest name that is covered.
fn least_levels(cover: &[&str]) -> usize {
    let levels = cover.iter().filter(|level| **level != ANY_LEVELS).count();
    levels + usize::from(cover.last() == Some(&ANY_LEVELS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::series::SeriesFilter;

    fn cover(names: &[&str]) -> String {
        let mut names = names.iter();
        let first = of(names.next().unwrap()).into_owned();
        names.fold(first, |known, name| join(&known, &of(name)).into_owned())
    }

    #[test]
    fn names_are_widened_no_more_than_needed() {
        for (names, expect) in [
            (&["plant/line1/temp"][..], "plant/line1/temp"),
            (
                &["plant/line1/temp", "plant/line1/temp"],
                "plant/line1/temp",
            ),
            (&["plant/line1/temp", "plant/line2/temp"], "plant/*/temp"),
            (&["plant/line1/temp", "plant/line2/hum"], "plant/*/*"),
            (&["a/b", "a/x/b"], "a/**/b"),
            (&["a", "a/x"], "**"),
            (&["a/b", "a/b/c"], "a/**"),
            (&["b", "a/b"], "**/b"),
            (&["a/1/b", "a/2/b", "a/1/2/b"], "a/*/**/b"),
            (&["a/b", "a/x/b", "a/c"], "a/**"),
            (&["x/y", "p"], "**"),
            (&["odd/[1]/t"], "odd/*/t"),
        ] {
            assert_eq!(cover(names), expect, "{names:?}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab*\\[{]{0,2}", 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn what_was_joined_is_covered(names in prop::collection::vec(name(), 1..6)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let cover = cover(&names);
            let filter = SeriesFilter::new(std::slice::from_ref(&cover)).unwrap();
            for name in names {
                prop_assert!(filter.matches(name), "{} does not cover {}", cover, name);
            }
        }
    }
}
