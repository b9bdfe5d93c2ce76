//! What an operator orders about quarantine: which rows, and what is to become of them.

use serde::{Deserialize, Serialize};

/// Rows that one order can name one by one; more are chosen by what they have in common.
pub const ORDER_IDS: usize = 1000;
/// Orders that are under way at a time. A further one is refused until one is through.
pub const ORDERS: usize = 64;

/// What is to become of rows in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They go through the present decoder and chain.
    Replay,
    /// They are discarded for ever.
    Drop,
}

impl Action {
    /// The word in commands, events and the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Drop => "drop",
        }
    }
}

/// Which rows. What is given must all hold; `all` stands for no condition, so that none is never meant by accident.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Rows by their numbers, at most [`ORDER_IDS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u64>,
    /// Every row.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Messages of this source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Readings of this pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// Rows set aside for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a selection looks at in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// Its number.
    pub id: u64,
    /// The source, of a message.
    pub source: Option<&'a str>,
    /// The pipeline, of readings.
    pub pipeline: Option<&'a str>,
    /// Why it is there.
    pub reason: &'a str,
}

impl Selection {
    /// Makes a selection that says something, and one thing: numbers are sorted and each is there once.
    ///
    /// # Errors
    /// What it contradicts, for a person.
    pub fn checked(mut self) -> Result<Self, String> {
        let conditions = self.source.is_some() || self.pipeline.is_some() || self.reason.is_some();
        if !self.ids.is_empty() && (self.all || conditions) {
            return Err(
                "name rows by their numbers or by what they have in common, not both".to_owned(),
            );
        }
        if self.all && conditions {
            return Err("all rows, or those of a source, pipeline or reason: not both".to_owned());
        }
        if self.source.is_some() && self.pipeline.is_some() {
            return Err(
                "a row is a message of a source or readings of a pipeline: name one of the two"
                    .to_owned(),
            );
        }
        if self.ids.is_empty() && !self.all && !conditions {
            return Err(
                "which rows? Name their numbers, a source, pipeline or reason, or all".to_owned(),
            );
        }
        self.ids.sort_unstable();
        self.ids.dedup();
        if self.ids.len() > ORDER_IDS {
            return Err(format!(
                "{} rows by number; at most {ORDER_IDS} go into one order: choose them by source, pipeline or reason",
                self.ids.len()
            ));
        }
        Ok(self)
    }

    /// Whether a row is meant, by a selection that is [`checked`](Self::checked).
    #[must_use]
    pub fn matches(&self, row: &Key<'_>) -> bool {
        if !self.ids.is_empty() {
            return self.ids.binary_search(&row.id).is_ok();
        }
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        same(&self.source, row.source)
            && same(&self.pipeline, row.pipeline)
            && same(&self.reason, Some(row.reason))
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.ids.is_empty() {
            return match &self.ids[..] {
                [one] => write!(f, "row {one}"),
                ids => write!(f, "{} rows by number", ids.len()),
            };
        }
        if self.all {
            return f.write_str("all rows");
        }
        f.write_str("rows")?;
        for (word, value) in [
            ("source", &self.source),
            ("pipeline", &self.pipeline),
            ("reason", &self.reason),
        ] {
            if let Some(value) = value {
                write!(f, " of {word} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_ids(ids: &[u64]) -> Selection {
        Selection {
            ids: ids.to_vec(),
            ..Selection::default()
        }
    }

    fn some(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn a_selection_says_one_thing() {
        let check = |selection: Selection, sound: bool| {
            assert_eq!(selection.clone().checked().is_ok(), sound, "{selection:?}");
        };
        let reason = Selection {
            reason: some("trap"),
            ..Selection::default()
        };
        check(Selection::default(), false);
        check(by_ids(&[1]), true);
        check(reason.clone(), true);
        check(
            Selection {
                source: some("plant"),
                ..reason.clone()
            },
            true,
        );
        check(
            Selection {
                source: some("plant"),
                pipeline: some("temperature"),
                ..Selection::default()
            },
            false,
        );
        check(
            Selection {
                all: true,
                ..Selection::default()
            },
            true,
        );
        check(
            Selection {
                all: true,
                ..reason.clone()
            },
            false,
        );
        check(
            Selection {
                ids: vec![1],
                ..reason
            },
            false,
        );
        check(by_ids(&(0..=ORDER_IDS as u64).collect::<Vec<_>>()), false);
        let checked = by_ids(&[3, 1, 3]).checked();
        assert_eq!(checked.map(|checked| checked.ids), Ok(vec![1, 3]));
    }

    #[test]
    fn every_condition_must_hold() {
        let message = Key {
            id: 7,
            source: Some("plant"),
            pipeline: None,
            reason: "undecodable",
        };
        let readings = Key {
            id: 8,
            source: None,
            pipeline: Some("temperature"),
            reason: "trap",
        };
        let check = |selection: &Selection, expect: [bool; 2]| {
            assert_eq!(
                [selection.matches(&message), selection.matches(&readings)],
                expect,
                "{selection}"
            );
        };
        check(&by_ids(&[2, 7]), [true, false]);
        let mut selection = Selection {
            all: true,
            ..Selection::default()
        };
        check(&selection, [true, true]);
        selection.reason = some("trap");
        check(&selection, [false, true]);
        selection.pipeline = some("vibration");
        check(&selection, [false, false]);
        selection = Selection {
            source: some("plant"),
            ..Selection::default()
        };
        check(&selection, [true, false]);
    }

    #[test]
    fn an_unknown_condition_is_no_selection() {
        let read = |text| serde_json::from_str::<Selection>(text).map_err(|e| e.to_string());
        assert_eq!(read(r#"{"ids":[1]}"#), Ok(by_ids(&[1])));
        assert!(read(r#"{"sourec":"plant"}"#).is_err());
    }
}
