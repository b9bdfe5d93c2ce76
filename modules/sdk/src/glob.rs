//! Choosing series by name, as the gateway's own configuration does: `*` stands for any characters within one level,
//! `?` for one of them, `**` as a whole level for any number of levels. A level `{}` matches as `*` does; modules use it to
//! mark a level that they mean to change.

/// Whether a glob matches a series name. Sets and classes (`{a,b}`, `[ab]`) have no meaning here: a module's schema keeps
/// them out.
#[must_use]
pub fn matches(glob: &str, name: &str) -> bool {
    levels(Some(glob), Some(name), true)
}

/// `None` is the end behind the last level. `first` is true at the very beginning.
fn levels(glob: Option<&str>, name: Option<&str>, first: bool) -> bool {
    let Some(glob) = glob else {
        return name.is_none();
    };
    let (level, rest) = split(glob);
    if level == "**" {
        if rest.is_none() {
            // A closing `**` wants at least one level, unless it stands alone.
            return name.is_some() || first;
        }
        return levels(rest, name, false)
            || name.is_some_and(|name| levels(Some(glob), split(name).1, false));
    }
    name.is_some_and(|name| {
        let (head, tail) = split(name);
        (level == "{}" || matches_level(level, head)) && levels(rest, tail, false)
    })
}

fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (path, None),
    }
}

/// One level against its pattern, going back to the latest `*` at most: time is the product of the lengths.
fn matches_level(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut star = None;
    loop {
        match pattern.next() {
            Some('*') => {
                star = Some((pattern.clone(), name.clone()));
                continue;
            }
            Some(wanted) => {
                let got = name.next();
                let fits = got.is_some_and(|got| wanted == '?' || wanted == got);
                if fits {
                    continue;
                }
            }
            None if name.as_str().is_empty() => return true,
            None => {}
        }
        // It did not fit: the latest star takes one more character.
        let Some((behind, taken)) = &mut star else {
            return false;
        };
        if taken.next().is_none() {
            return false;
        }
        (pattern, name) = (behind.clone(), taken.clone());
    }
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    /// Every glob and every name of a small alphabet, against the library that the gateway uses.
    #[test]
    fn agrees_with_the_gateways_globs() {
        let names = words("ab/", 5);
        for glob in words("a/*?", 5) {
            let oracle = GlobBuilder::new(&glob)
                .literal_separator(true)
                .build()
                .unwrap()
                .compile_matcher();
            for name in names.iter().filter(|name| series(name)) {
                if series(&glob) {
                    assert_eq!(
                        super::matches(&glob, name),
                        oracle.is_match(name),
                        "glob {glob:?}, name {name:?}"
                    );
                }
            }
        }
    }

    /// No level of a series name is empty.
    fn series(path: &str) -> bool {
        path.split('/').all(|level| !level.is_empty())
    }

    fn words(alphabet: &str, longest: usize) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut from = 0;
        for _ in 0..longest {
            let to = words.len();
            for i in from..to {
                for letter in alphabet.chars() {
                    let mut word = words[i].clone();
                    word.push(letter);
                    words.push(word);
                }
            }
            from = to;
        }
        words
    }

    #[test]
    fn a_star_takes_whole_characters_of_one_level() {
        for (glob, name, expect) in [
            ("plant/*/temp", "plant/line1/temp", true),
            ("plant/*/temp", "plant/a/b/temp", false),
            ("plant/**/temp", "plant/a/b/temp", true),
            ("plant/**/temp", "plant/temp", true),
            ("halle/?fen/**", "halle/öfen/1", true),
            ("*x*y*", "aaxbbxccydd", true),
            ("**", "a/b", true),
            ("a/**", "a", false),
            ("a/{}/c", "a/b/c", true),
            ("a/{}/c", "a/b/b/c", false),
        ] {
            assert_eq!(super::matches(glob, name), expect, "{glob} {name}");
        }
    }
}
