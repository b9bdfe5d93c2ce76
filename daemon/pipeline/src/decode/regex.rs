//! `as = "regex"`: the named groups of a pattern.

use regex::{Regex, RegexBuilder};

use super::rows::Rows;
use super::{DecodeConfigError, DecodeFailure, TimeField, csv, time};

/// Bytes that a pattern may compile to, and that its lazily built automaton may take. Matching takes time in proportion to
/// pattern and text, whatever both are.
const PATTERN_BYTES: usize = 1024 * 1024;

/// A pattern, found once in a message. Its named groups are fields as in CSV.
pub(super) struct Pattern {
    pattern: Regex,
    /// Index and name of the groups with a value.
    groups: Vec<(usize, String)>,
    time: Option<(usize, TimeField)>,
}

impl Pattern {
    pub(super) fn new(pattern: &str, time: Option<&TimeField>) -> Result<Self, DecodeConfigError> {
        let compiled = RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build()
            .map_err(|error| {
                // What is wrong stands in the last line, below a drawing of the pattern.
                let error = error.to_string();
                let last = error.lines().next_back().unwrap_or_default();
                let error = last.trim_start_matches("error: ").to_owned();
                DecodeConfigError::Pattern { error }
            })?;
        let names = compiled.capture_names().enumerate();
        let mut groups: Vec<(usize, String)> = names
            .filter_map(|(index, name)| Some((index, name?.to_owned())))
            .collect();
        let time = match time {
            Some(field) => {
                let place = groups.iter().position(|(_, name)| *name == field.path);
                let place = place.ok_or_else(|| DecodeConfigError::TimeFieldNoGroup {
                    field: field.path.clone(),
                })?;
                Some((groups.remove(place).0, field.clone()))
            }
            None => None,
        };
        if groups.is_empty() {
            return Err(DecodeConfigError::NoGroups);
        }
        Ok(Self {
            pattern: compiled,
            groups,
            time,
        })
    }

    pub(super) fn decode(&self, text: &str, rows: &mut Rows) -> Result<(), DecodeFailure> {
        let found = self
            .pattern
            .captures(text)
            .ok_or_else(|| DecodeFailure::undecodable("the pattern is not found in the message"))?;
        let time = match &self.time {
            Some((group, field)) => {
                let text = found
                    .get(*group)
                    .map_or("", |found| found.as_str())
                    .trim_ascii();
                time::from_text(text, field.unit).map_err(|wrong| {
                    DecodeFailure::undecodable(format!("the time field `{}` {wrong}", field.path))
                })?
            }
            None => rows.arrival(),
        };
        for (group, name) in &self.groups {
            let text = found
                .get(*group)
                .map_or("", |found| found.as_str())
                .trim_ascii();
            if text.is_empty() {
                continue;
            }
            let (value, quality) = csv::value(text);
            let back = rows.descend();
            rows.path().push_str(name);
            let column = rows.column();
            rows.ascend(back);
            rows.push_at(column?, time, value, quality)?;
        }
        Ok(())
    }
}
