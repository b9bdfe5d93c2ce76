//! Reading one table: every key that is asked for is known from then on, and what nobody asked for is a mistake.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Purpose;
use super::model::{From, Setting, join};
use super::raw::{Entry, Node, Table, Value, fold};
use super::report::{Place, Problems, masked};
use super::units;

/// Effective values that are listed with their origin; a configuration with more is listed in part.
const SETTINGS: usize = 4096;
/// Characters of a listed value.
const VALUE_CHARS: usize = 200;
/// Distance up to which a name is taken for a mistyped other one: every third character may be wrong.
const TYPO_SHARE: usize = 3;

/// What every check needs.
pub(super) struct Checker {
    pub(super) problems: Problems,
    pub(super) settings: Vec<Setting>,
    /// What relative paths are relative to: the directory of the main file.
    pub(super) base: PathBuf,
    pub(super) purpose: Purpose,
    /// `gateway.state-dir`, which is read first.
    pub(super) state_dir: PathBuf,
    /// A text could not be read whole, so that nothing can be said to be missing.
    pub(super) broken: bool,
    pub(super) broken_lines: Vec<Place>,
    /// A reference names nothing: what seems unused may be what it means.
    pub(super) dangling: bool,
}

/// A value and where it is written; nowhere when it is a default.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Option<Place>,
}

impl Checker {
    pub(super) fn error(
        &mut self,
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        if !self.follows_from_syntax(place) {
            self.problems.error(place, message, help);
        }
    }

    /// An error about something that is not there.
    pub(super) fn missing(
        &mut self,
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        if !self.broken {
            self.problems.error(place, message, help);
        }
    }

    pub(super) fn warning(
        &mut self,
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        if !self.broken {
            self.problems.warning(place, message, help);
        }
    }

    /// Lists an effective value.
    pub(super) fn list(&mut self, key: String, value: &str, place: Option<Place>) {
        if self.settings.len() >= SETTINGS {
            return;
        }
        let input = place.and_then(|place| Some((place, self.problems.inputs().get(place.input)?)));
        let from = match input {
            None => From::Default,
            Some((_, input)) if input.environment => From::Environment(input.name.clone()),
            Some((place, input)) => {
                let line = self.problems.line_column(place).map_or(1, |(line, _)| line);
                From::File(input.name.clone(), line)
            }
        };
        let value = masked(value).chars().take(VALUE_CHARS).collect();
        self.settings.push(Setting { key, value, from });
    }

    /// A path as the operating system understands it.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(Path::new(path))
    }

    /// The text of a value that an environment variable set: what TOML took for a number may be meant as a name.
    fn environment_text(&self, node: &Node) -> Option<String> {
        let input = self.problems.inputs().get(node.place.input)?;
        let text = input.text.get(node.place.start..node.place.end)?;
        let scalar = !matches!(node.value, Value::Array(_) | Value::Table(_));
        (input.environment && scalar).then(|| text.to_owned())
    }

    fn is_environment(&self, place: Place) -> bool {
        self.problems
            .inputs()
            .get(place.input)
            .is_some_and(|input| input.environment)
    }

    fn follows_from_syntax(&self, place: Option<Place>) -> bool {
        place.is_some_and(|place| {
            self.broken_lines.iter().any(|broken| {
                broken.input == place.input
                    && self.problems.line_column(*broken).map(|(line, _)| line)
                        == self.problems.line_column(place).map(|(line, _)| line)
            })
        })
    }
}

/// A table that is being read.
pub(super) struct Section<'a> {
    path: String,
    place: Option<Place>,
    table: Option<&'a Table>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The table itself.
    pub(super) fn root(table: &'a Table) -> Self {
        Self {
            path: String::new(),
            place: None,
            table: Some(table),
            asked: Vec::new(),
        }
    }

    /// The table at a node; another type is a mistake and then the table reads as empty.
    pub(super) fn at(cx: &mut Checker, path: String, node: &'a Node) -> Self {
        let table = match &node.value {
            Value::Table(table) => Some(table),
            other @ (Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::Array(_)) => {
                let message = format!("`{path}` is {}: a table belongs here", other.describe());
                cx.error(Some(node.place), message, None);
                None
            }
        };
        Self {
            path,
            place: Some(node.place),
            table,
            asked: Vec::new(),
        }
    }

    /// A table that may be absent.
    pub(super) fn section(&mut self, cx: &mut Checker, key: &'static str) -> Section<'a> {
        let path = self.path(key);
        match self.node(key) {
            Some(node) => Section::at(cx, path, node),
            None => Section {
                path,
                place: self.place,
                table: None,
                asked: Vec::new(),
            },
        }
    }

    /// The tables below a key, such as all of `[source.NAME]`.
    pub(super) fn named(&mut self, cx: &mut Checker, key: &'static str) -> Vec<&'a Entry> {
        let path = self.path(key);
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let section = Section::at(cx, path.clone(), node);
        let entries = section.table.map_or(&[][..], |table| &table.entries);
        entries
            .iter()
            .filter(|entry| {
                let table = matches!(entry.node.value, Value::Table(_));
                if !table {
                    let message = format!(
                        "[{path}] has no name, so that `{}` belongs to nothing",
                        entry.key
                    );
                    let help = format!("give it one, as in [{path}.NAME]");
                    cx.error(Some(entry.place), message, help);
                }
                table
            })
            .collect()
    }

    /// Whether the table is written at all.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Where the table is written.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// The full name of a key.
    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The value of a key.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.table?.get(key).map(|entry| &entry.node)
    }

    /// The place of a key that is written.
    pub(super) fn key_place(&self, key: &str) -> Option<Place> {
        self.table?.get(key).map(|entry| entry.place)
    }

    /// Says that a key must be there.
    pub(super) fn required(&self, cx: &mut Checker, key: &str, help: &str) {
        let message = format!("`{}` is missing", self.path(key));
        cx.missing(self.place, message, help.to_owned());
    }

    /// A text that may be absent.
    pub(super) fn text(&mut self, cx: &mut Checker, key: &'static str) -> Option<At<String>> {
        let path = self.path(key);
        let node = self.node(key)?;
        let text = text_of(cx, &path, node)?;
        cx.list(path, &text.value, text.place);
        Some(text)
    }

    /// A text that may not be absent; `help` says what belongs there.
    pub(super) fn text_required(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        help: &str,
    ) -> Option<At<String>> {
        let text = self.text(cx, key);
        if self.key_place(key).is_none() {
            self.required(cx, key, help);
        }
        text
    }

    /// A text with a default.
    pub(super) fn text_or(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        default: &str,
    ) -> At<String> {
        let text = self.text(cx, key);
        text.unwrap_or_else(|| {
            self.default(cx, key, default);
            At {
                value: default.to_owned(),
                place: None,
            }
        })
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        words: &[(&'static str, T)],
        default: &'static str,
    ) -> Option<T> {
        let path = self.path(key);
        let text = self.text_or(cx, key, default);
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("`{}` is no value of `{path}`", text.value);
            cx.error(text.place, message, suggest(&text.value, &words));
        }
        found.map(|(_, value)| *value)
    }

    /// A flag.
    pub(super) fn flag(&mut self, cx: &mut Checker, key: &'static str, default: bool) -> At<bool> {
        let path = self.path(key);
        if let Some(node) = self.node(key) {
            if let Value::Boolean(value) = node.value {
                cx.list(path, &value.to_string(), Some(node.place));
                return At {
                    value,
                    place: Some(node.place),
                };
            }
            wrong_type(cx, &path, node, "true or false");
        } else {
            self.default(cx, key, &default.to_string());
        }
        At {
            value: default,
            place: None,
        }
    }

    /// A whole number between bounds.
    pub(super) fn integer(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> At<i64> {
        let path = self.path(key);
        if let Some(node) = self.node(key) {
            if let Value::Integer(value) = node.value {
                cx.list(path.clone(), &value.to_string(), Some(node.place));
                if !range.contains(&value) {
                    let message = format!("{value} is out of range for `{path}`");
                    let help = format!("write a number from {} to {}", range.start(), range.end());
                    cx.error(Some(node.place), message, help);
                }
                return At {
                    value,
                    place: Some(node.place),
                };
            }
            wrong_type(cx, &path, node, "a whole number");
        } else {
            self.default(cx, key, &default.to_string());
        }
        At {
            value: default,
            place: None,
        }
    }

    /// A whole number between bounds that may be absent.
    pub(super) fn whole(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<At<i64>> {
        let Some(_) = self.key_place(key) else {
            self.asked.push(key);
            return None;
        };
        Some(self.integer(cx, key, range, 0))
    }

    /// A number between bounds, with or without a point.
    pub(super) fn number(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<f64>,
        default: f64,
    ) -> f64 {
        let path = self.path(key);
        let Some(node) = self.node(key) else {
            self.default(cx, key, &default.to_string());
            return default;
        };
        let number = match node.value {
            Value::Float(number) => Some(number),
            Value::Integer(number) => i32::try_from(number).ok().map(f64::from),
            Value::Text(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::Array(_)
            | Value::Table(_) => None,
        };
        let Some(number) = number else {
            wrong_type(cx, &path, node, "a number");
            return default;
        };
        cx.list(path.clone(), &number.to_string(), Some(node.place));
        if range.contains(&number) {
            return number;
        }
        let message = format!("{number} is out of range for `{path}`");
        let help = format!("write a number from {} to {}", range.start(), range.end());
        cx.error(Some(node.place), message, help);
        default
    }

    /// A part of a whole, in thousandths.
    pub(super) fn share(&mut self, cx: &mut Checker, key: &'static str, default: u16) -> At<u16> {
        let path = self.path(key);
        let Some(node) = self.node(key) else {
            self.default(cx, key, &(f64::from(default) / 1000.0).to_string());
            return At {
                value: default,
                place: None,
            };
        };
        let place = Some(node.place);
        let part = match node.value {
            Value::Float(part) => Some(part),
            // 0 and 1 without a point.
            Value::Integer(part) => i32::try_from(part).ok().map(f64::from),
            Value::Text(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::Array(_)
            | Value::Table(_) => None,
        };
        let Some(part) = part else {
            wrong_type(cx, &path, node, "a number from 0.0 to 1.0");
            return At {
                value: default,
                place,
            };
        };
        cx.list(path.clone(), &part.to_string(), place);
        if !(0.0..=1.0).contains(&part) {
            let message = format!("{part} is out of range for `{path}`");
            cx.error(place, message, "write a number from 0.0 to 1.0".to_owned());
            return At {
                value: default,
                place,
            };
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1000"
        )]
        let value = (part * 1000.0).round() as u16;
        At { value, place }
    }

    /// A duration between bounds that may be absent.
    pub(super) fn duration(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        self.measure(
            cx,
            key,
            "duration",
            range,
            units::duration,
            units::show_duration,
        )
    }

    /// A duration between bounds with a default.
    pub(super) fn duration_or(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> At<Duration> {
        let value = self.duration(cx, key, range);
        value.unwrap_or_else(|| {
            self.default(cx, key, &units::show_duration(default));
            At {
                value: default,
                place: None,
            }
        })
    }

    /// A size in bytes between bounds that may be absent.
    pub(super) fn size(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        self.measure(cx, key, "size", range, units::size, units::show_size)
    }

    /// A size in bytes between bounds with a default.
    pub(super) fn size_or(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> At<u64> {
        let value = self.size(cx, key, range);
        value.unwrap_or_else(|| {
            self.default(cx, key, &units::show_size(default));
            At {
                value: default,
                place: None,
            }
        })
    }

    /// The items of an array that may be absent.
    pub(super) fn array(&mut self, cx: &mut Checker, key: &'static str) -> Option<&'a [Node]> {
        let path = self.path(key);
        let node = self.node(key)?;
        if let Value::Array(items) = &node.value {
            return Some(items);
        }
        wrong_type(cx, &path, node, "an array in [ ]");
        None
    }

    /// An array of texts that may be absent.
    pub(super) fn texts(&mut self, cx: &mut Checker, key: &'static str) -> Option<Vec<At<String>>> {
        let path = self.path(key);
        let items = self.array(cx, key)?;
        let texts: Vec<At<String>> = items
            .iter()
            .enumerate()
            .filter_map(|(index, node)| text_of(cx, &format!("{path}[{index}]"), node))
            .collect();
        let shown: Vec<&str> = texts.iter().map(|text| text.value.as_str()).collect();
        cx.list(path, &format!("{shown:?}"), self.key_place(key));
        Some(texts)
    }

    /// Lists a default.
    pub(super) fn default(&self, cx: &mut Checker, key: &str, value: &str) {
        if self.key_place(key).is_none() {
            cx.list(self.path(key), value, None);
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self, cx: &mut Checker) {
        let entries = self.table.map_or(&[][..], |table| &table.entries);
        for entry in entries {
            if self.asked.contains(&entry.key.as_str()) {
                continue;
            }
            let message = if self.path.is_empty() {
                format!("unknown section `{}`", entry.key)
            } else {
                format!("unknown key `{}` in `{}`", entry.key, self.path)
            };
            let help = if cx.is_environment(entry.place) {
                let names: Vec<String> = self.asked.iter().map(|name| variable(name)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                suggest(&variable(&entry.key), &names)
            } else {
                suggest(&entry.key, &self.asked)
            };
            cx.error(Some(entry.place), message, help);
        }
    }

    fn measure<T: PartialOrd + Copy>(
        &mut self,
        cx: &mut Checker,
        key: &'static str,
        what: &str,
        range: RangeInclusive<T>,
        parse: fn(&str) -> Result<T, String>,
        show: fn(T) -> String,
    ) -> Option<At<T>> {
        let path = self.path(key);
        let node = self.node(key)?;
        let text = match (&node.value, cx.environment_text(node)) {
            (Value::Text(text), _) => text.clone(),
            (_, Some(text)) => text,
            (other, None) => {
                let message = format!("`{path}` is {}: a {what} is a string", other.describe());
                let help = parse("").err();
                cx.error(Some(node.place), message, help);
                return None;
            }
        };
        match parse(&text) {
            Err(help) => {
                let message = format!("`{text}` is no {what}");
                cx.error(Some(node.place), message, help);
                None
            }
            Ok(value) => {
                if !range.contains(&value) {
                    let message = format!("`{text}` is out of range for `{path}`");
                    let help = format!(
                        "write a {what} from {} to {}",
                        show(*range.start()),
                        show(*range.end())
                    );
                    cx.error(Some(node.place), message, help);
                }
                cx.list(path, &show(value), Some(node.place));
                Some(At {
                    value,
                    place: Some(node.place),
                })
            }
        }
    }
}

/// A node that must be a text.
pub(super) fn text_of(cx: &mut Checker, path: &str, node: &Node) -> Option<At<String>> {
    let place = Some(node.place);
    if let Value::Text(text) = &node.value {
        return Some(At {
            value: text.clone(),
            place,
        });
    }
    if let Some(value) = cx.environment_text(node) {
        return Some(At { value, place });
    }
    wrong_type(cx, path, node, "a string in quotes");
    None
}

/// Reports a value of another type than wanted.
pub(super) fn wrong_type(cx: &mut Checker, path: &str, node: &Node, wanted: &str) {
    let message = format!("`{path}` is {}", node.value.describe());
    cx.error(Some(node.place), message, format!("write {wanted}"));
}

/// "did you mean …?", or everything that would be right.
pub(super) fn suggest(written: &str, names: &[&str]) -> String {
    let mut names: Vec<&str> = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let nearest = names
        .iter()
        .map(|name| (strsim::osa_distance(&fold(written), &fold(name)), *name))
        .filter(|(distance, name)| {
            *distance
                <= name
                    .chars()
                    .count()
                    .max(written.chars().count())
                    .div_ceil(TYPO_SHARE)
        })
        .min();
    match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "there is nothing to choose from".to_owned(),
        None => format!("possible here: {}", names.join(", ")),
    }
}

/// A key as it stands in the name of an environment variable.
fn variable(key: &str) -> String {
    key.to_ascii_uppercase().replace('-', "_")
}
