//! What was typed: the texts that configuration comes from, merged into one tree that remembers where each key and
//! each value was written. Nothing here knows which keys there are.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::report::{Input, Place, Problems, line_of};

/// Bytes of one configuration file. A longer one is refused: it is not a configuration.
const FILE_BYTES: u64 = 1024 * 1024;
/// Files in `conf.d`. With more the rest is refused, so that a wrong directory does not fill the memory.
const FRAGMENTS: usize = 256;
/// Levels of tables and arrays. TOML allows thousands, which would end in a stack overflow.
const DEPTH: usize = 32;
/// What an environment variable begins with.
pub(super) const PREFIX: &str = "TIDEGATE__";

/// A value and where it is written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Time(String),
    Array(Vec<Node>),
    Table(Table),
}

/// A table in the order in which its keys were first written.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// The merged tree.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) root: Table,
    /// A text could not be read whole: what seems to be missing may be there.
    pub(super) broken: bool,
    /// Lines with a syntax error, as places; further problems on them are its consequence.
    pub(super) broken_lines: Vec<Place>,
}

impl Value {
    /// The type, with its article.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Time(_) => "a date or time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Reads the main file, `conf.d/*.toml` beside it in the order of their names, and the environment variables in the
/// order of theirs. Later wins by key, tables merge, arrays replace.
pub(super) fn read(path: &Path, env: Vec<(OsString, OsString)>, problems: &mut Problems) -> Raw {
    let mut raw = Raw {
        root: Table::default(),
        broken: false,
        broken_lines: Vec::new(),
    };
    raw.add_file(path, problems);
    for fragment in fragments(path, &mut raw, problems) {
        raw.add_file(&fragment, problems);
    }
    raw.add_environment(env, problems);
    raw
}

impl Raw {
    fn add_file(&mut self, path: &Path, problems: &mut Problems) {
        let input = problems.add_input(Input {
            name: path.display().to_string(),
            text: String::new(),
            environment: false,
        });
        match read_text(path) {
            Ok(text) => {
                problems.set_text(input, text);
                let text = problems
                    .inputs()
                    .get(input)
                    .map(|i| i.text.clone())
                    .unwrap_or_default();
                self.add_text(&text, input, problems);
            }
            Err((text, start, message)) => {
                self.broken = true;
                problems.set_text(input, text);
                let place = start.map(|start| Place {
                    input,
                    start,
                    end: start,
                });
                let help = (input == 0).then(|| {
                    "name the configuration with --config FILE; config/tidegate.toml is a commented one".to_owned()
                });
                problems.error(place, message, help);
            }
        }
    }

    /// Parses a file's text and merges it. Where blanking the lines with errors leaves a document without any, the
    /// errors were of those lines alone and the rest can be judged; otherwise only the first one is sure to be true.
    fn add_text(&mut self, text: &str, input: usize, problems: &mut Problems) {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let over = self.table(table.into_inner(), input, 0, problems);
            merge(&mut self.root, over);
            return;
        }
        self.broken = true;
        let mut found: Vec<(Place, &str)> = Vec::new();
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let place = Place {
                input,
                start: span.start,
                end: span.end,
            };
            let line = line_of(text, place.start);
            if !found
                .iter()
                .any(|(other, _)| line_of(text, other.start) == line)
            {
                found.push((place, error.message()));
            }
        }
        found.sort_by_key(|(place, _)| *place);

        let mut rest = text.as_bytes().to_vec();
        let mut header = false;
        for (place, _) in &found {
            let line = line_of(text, place.start);
            let written = text.get(line.clone()).unwrap_or_default();
            header |= written.trim_start().starts_with('[');
            for byte in rest.get_mut(line).unwrap_or_default() {
                *byte = b' ';
            }
        }
        let rest = String::from_utf8_lossy(&rest).into_owned();
        let (table, more) = DeTable::parse_recoverable(&rest);
        let alone = more.is_empty() && !header;
        if !more.is_empty() {
            found.truncate(1);
        }
        for (place, message) in &found {
            let help = syntax_help(message);
            problems.error(Some(*place), format!("TOML: {message}"), help);
            self.broken_lines.push(*place);
        }
        if alone {
            let over = self.table(table.into_inner(), input, 0, problems);
            merge(&mut self.root, over);
        }
    }

    fn add_environment(&mut self, mut env: Vec<(OsString, OsString)>, problems: &mut Problems) {
        env.retain(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        env.sort();
        for (name, value) in env {
            let shown = name.to_string_lossy().into_owned();
            let text = format!("{shown}={}", value.to_string_lossy());
            let input = problems.add_input(Input {
                name: shown.clone(),
                text,
                environment: true,
            });
            let name_place = Place {
                input,
                start: 0,
                end: shown.len(),
            };
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                problems.error(
                    Some(name_place),
                    format!("the environment variable `{shown}` is not UTF-8"),
                    None,
                );
                continue;
            };
            let segments: Vec<&str> = name
                .get(PREFIX.len()..)
                .unwrap_or_default()
                .split("__")
                .collect();
            if segments.iter().any(|segment| segment.is_empty()) || segments.len() > DEPTH {
                problems.error(
                    Some(name_place),
                    format!("the environment variable `{shown}` names no key"),
                    Some(
                        "sections and key are separated by two underscores, as in TIDEGATE__STORE__MAX_SIZE"
                            .to_owned(),
                    ),
                );
                continue;
            }
            let node = self.environment_value(name, value, input, problems);
            if let Err(message) = put(&mut self.root, &segments, name_place, node) {
                problems.error(Some(name_place), message, None);
            }
        }
    }

    /// A TOML value where the text is one, else the text itself. `NAME=value` is a TOML document by itself, so that
    /// positions come out right.
    fn environment_value(
        &mut self,
        name: &str,
        value: &str,
        input: usize,
        problems: &mut Problems,
    ) -> Node {
        let document = format!("{name}={value}");
        if let Ok(table) = DeTable::parse(&document) {
            let mut table = self.table(table.into_inner(), input, 0, problems);
            if table.entries.len() == 1
                && let Some(entry) = table.entries.pop()
                && entry.key == name
            {
                return entry.node;
            }
        }
        Node {
            value: Value::Text(value.to_owned()),
            place: Place {
                input,
                start: name.len() + 1,
                end: document.len(),
            },
        }
    }

    fn table(
        &mut self,
        table: DeTable<'_>,
        input: usize,
        depth: usize,
        problems: &mut Problems,
    ) -> Table {
        let mut entries: Vec<Entry> = table
            .into_iter()
            .map(|(key, value)| {
                let span = key.span();
                let value_span = value.span();
                Entry {
                    key: key.into_inner().into_owned(),
                    place: Place {
                        input,
                        start: span.start,
                        end: span.end,
                    },
                    node: self.value(value.into_inner(), value_span, input, depth, problems),
                }
            })
            .collect();
        // The parser sorts by name; the order in the text decides which description matches first.
        entries.sort_by_key(|entry| entry.place);
        Table { entries }
    }

    fn value(
        &mut self,
        value: DeValue<'_>,
        span: std::ops::Range<usize>,
        input: usize,
        depth: usize,
        problems: &mut Problems,
    ) -> Node {
        let place = Place {
            input,
            start: span.start,
            end: span.end,
        };
        if depth >= DEPTH && (value.is_array() || value.is_table()) {
            problems.error(
                Some(place),
                format!("tables and arrays are nested more than {DEPTH} deep"),
                None,
            );
            self.broken = true;
            let value = Value::Table(Table::default());
            return Node { value, place };
        }
        let value = match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => Value::Integer(
                i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_else(|_| {
                    problems.error(
                        Some(place),
                        "the number does not fit 64 bits",
                        Some(format!("the range is {} to {}", i64::MIN, i64::MAX)),
                    );
                    0
                }),
            ),
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or_else(|_| {
                problems.error(Some(place), "the number cannot be read", None);
                0.0
            })),
            DeValue::Boolean(flag) => Value::Boolean(flag),
            DeValue::Datetime(time) => Value::Time(time.to_string()),
            DeValue::Array(array) => Value::Array(
                array
                    .into_iter()
                    .map(|item| {
                        let span = item.span();
                        self.value(item.into_inner(), span, input, depth + 1, problems)
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table, input, depth + 1, problems)),
        };
        Node { value, place }
    }
}

/// `conf.d/*.toml` beside the main file, by name.
fn fragments(path: &Path, raw: &mut Raw, problems: &mut Problems) -> Vec<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let mut fail = |error: &std::io::Error| {
        raw.broken = true;
        problems.error(
            None,
            format!("cannot list `{}`: {error}", directory.display()),
            Some("make the directory readable, or remove it".to_owned()),
        );
    };
    let listing = match std::fs::read_dir(&directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            fail(&error);
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for entry in listing {
        match entry {
            Ok(entry) => {
                let path = entry.path();
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                if !hidden && path.extension().is_some_and(|end| end == "toml") {
                    found.push(path);
                }
            }
            Err(error) => fail(&error),
        }
    }
    found.sort();
    if found.len() > FRAGMENTS {
        raw.broken = true;
        problems.error(
            None,
            format!(
                "`{}` holds {} files: at most {FRAGMENTS} are read",
                directory.display(),
                found.len()
            ),
            Some("join some of them".to_owned()),
        );
        found.truncate(FRAGMENTS);
    }
    found
}

/// The text of a file without a byte order mark; else what is readable of it, where it ends, and what is wrong.
fn read_text(path: &Path) -> Result<String, (String, Option<usize>, String)> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let message = format!("cannot read `{}`: {error}", path.display());
            (String::new(), None, message)
        })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES {
        let message = format!("`{}` is larger than 1MiB", path.display());
        return Err((String::new(), None, message));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(valid);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Err((
                text,
                Some(valid),
                "the file is not UTF-8 from here on".to_owned(),
            ))
        }
    }
}

fn syntax_help(message: &str) -> Option<String> {
    let help = if message.starts_with("string values must be quoted") {
        "put the value in quotes: durations and sizes are strings too, as in \"30d\""
    } else if message.starts_with("duplicate key") {
        "a key or section stands once in a file; remove one of the two"
    } else if message.starts_with("key with no value") {
        "write key = value"
    } else {
        return None;
    };
    Some(help.to_owned())
}

/// Lays a tree over another: tables merge, everything else replaces.
fn merge(base: &mut Table, over: Table) {
    for entry in over.entries {
        match base.entries.iter_mut().find(|have| have.key == entry.key) {
            None => base.entries.push(entry),
            Some(have) => merge_entry(have, entry),
        }
    }
}

fn merge_entry(have: &mut Entry, over: Entry) {
    if let (Value::Table(base), Value::Table(_)) = (&mut have.node.value, &over.node.value) {
        if let Value::Table(table) = over.node.value {
            merge(base, table);
        }
    } else {
        have.place = over.place;
        have.node = over.node;
    }
}

/// Sets the key that an environment variable names. An existing key is meant whatever its case and whether it has
/// dashes or underscores; a new one is written in lower case with dashes.
fn put(table: &mut Table, segments: &[&str], place: Place, node: Node) -> Result<(), String> {
    let Some((first, rest)) = segments.split_first() else {
        return Ok(());
    };
    let wanted = fold(first);
    let mut same = table
        .entries
        .iter_mut()
        .filter(|entry| fold(&entry.key) == wanted);
    let have = same.next();
    if let (Some(one), Some(two)) = (&have, same.next()) {
        return Err(format!(
            "`{first}` can mean `{}` or `{}`: set it in a file",
            one.key, two.key
        ));
    }
    let place_of_table = node.place;
    let over = |key: String, node: Node| Entry { key, place, node };
    match have {
        Some(entry) if rest.is_empty() => {
            let key = entry.key.clone();
            merge_entry(entry, over(key, node));
            Ok(())
        }
        Some(entry) => {
            if !matches!(entry.node.value, Value::Table(_)) {
                entry.place = place;
                entry.node = Node {
                    value: Value::Table(Table::default()),
                    place,
                };
            }
            match &mut entry.node.value {
                Value::Table(inner) => put(inner, rest, place, node),
                Value::Text(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Time(_)
                | Value::Array(_) => Ok(()),
            }
        }
        None if rest.is_empty() => {
            table.entries.push(over(wanted, node));
            Ok(())
        }
        None => {
            let mut inner = Table::default();
            put(&mut inner, rest, place, node)?;
            table.entries.push(over(
                wanted,
                Node {
                    value: Value::Table(inner),
                    place: place_of_table,
                },
            ));
            Ok(())
        }
    }
}

/// A key as environment variables can write it.
pub(super) fn fold(key: &str) -> String {
    key.to_ascii_lowercase().replace('_', "-")
}
