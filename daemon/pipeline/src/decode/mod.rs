//! Native decoding: messages in, readings out, without a module.
//!
//! | as | a message | becomes |
//! |---|---|---|
//! | `json` | an object, nested or not | one reading for each value; keys and array indices join the topic with `/` |
//! | `json` | a bare value | one reading of the topic's series |
//! | `text` | one value | one reading of the topic's series; a unit after a number is cut off |
//! | `csv` | lines of fields | one reading for each named field of each line |
//! | `regex` | a text in which a pattern is found | one reading for each named group |
//! | `binary` | fields at fixed places | one reading for each field |
//! | `lines` | readings already, from a source that decodes what it reads (Modbus) | themselves |
//!
//! Numbers are never changed without a mark: whole ones up to 64 bits stay integers, a whole one beyond that becomes
//! the nearest double with quality *uncertain*, and one beyond the doubles becomes an infinity with quality *bad*. Of
//! decimal fractions the nearest double is taken. `null` and an empty field are no reading. A key that occurs twice
//! gives two readings. A message that has no value at all is decoded, and has no reading.
//!
//! Where a time field is named, it must be there and be readable: a message without it fails, rather than getting the
//! time at which it happened to arrive. A message either becomes all of its readings or fails with one reason.

mod binary;
mod csv;
mod identity;
mod json;
mod lines;
mod names;
mod number;
mod regex;
mod rows;
#[cfg(test)]
mod tests;
mod text;
mod time;

use tidegate_domain::limits::PAYLOAD_BYTES;
use tidegate_domain::outcome::reason;
use tidegate_domain::{Batch, Message};

pub use binary::{BINARY_FIELDS, BinaryField, BinaryKind};
pub use identity::IdentityField;
pub use time::TimeUnit;

use self::regex::Pattern;
use binary::Layout;
use csv::Csv;
use rows::Rows;

/// How a source's messages are decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeConfig {
    /// What the payloads are.
    pub format: As,
    /// Where the time of a message is: a path into a JSON object, its keys joined by `/`, or the name of a CSV
    /// column. `None`: a reading's time is its message's arrival.
    pub time_field: Option<String>,
    /// What the number in the time field counts. A text in it is read as RFC 3339, whatever the unit is, unless it
    /// is a number in quotes.
    pub time_unit: TimeUnit,
}

/// What payloads are.
#[derive(Clone, Debug, PartialEq)]
pub enum As {
    /// JSON (RFC 8259).
    Json,
    /// One value as text.
    Text,
    /// Lines of separated fields (RFC 4180), without a header.
    Csv {
        /// The columns' names in order. A column with an empty name is skipped. Without any, every field is a value: the one
        /// field of a line has the topic's series, several have their numbers, from 0, behind it.
        columns: Vec<String>,
        /// What stands between fields.
        separator: u8,
    },
    /// A pattern, as the crate `regex` reads it, found once in a message.
    Regex {
        /// With named groups.
        pattern: String,
    },
    /// Fields at fixed places.
    Binary {
        /// The fields, each with a name of its own.
        fields: Vec<BinaryField>,
    },
    /// Readings, as [`tidegate_domain::lines`] has them.
    Lines,
}

/// A configuration that decodes nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeConfigError {
    /// Text has no fields.
    #[error(
        "`time-field` needs fields, which `text` has not; use `json` or `csv`, or leave it out"
    )]
    TimeFieldOfText,
    /// A time field with no name.
    #[error("`time-field` is empty; name a field, or leave it out")]
    TimeFieldEmpty,
    /// A time field that is no column.
    #[error("`time-field` names `{field}`, which is none of the columns")]
    TimeFieldNoColumn {
        /// The time field.
        field: String,
    },
    /// Only a field of a text can be a time.
    #[error("`time-field` has no meaning for `binary`: a reading's time is its arrival")]
    TimeFieldOfBinary,
    /// A time field that is no group.
    #[error("`time-field` names `{field}`, which is none of the pattern's groups")]
    TimeFieldNoGroup {
        /// The time field.
        field: String,
    },
    /// A pattern that is none, or is too large.
    #[error("the pattern is no regular expression: {error}")]
    Pattern {
        /// What is wrong with it.
        error: String,
    },
    /// A pattern without a value.
    #[error("the pattern names no group with a value; write one as in `(?P<weight>[0-9.]+)`")]
    NoGroups,
    /// A layout without a field, or with too many.
    #[error("a layout has 1 to {BINARY_FIELDS} fields")]
    NoFields,
    /// These have no field that could be one.
    #[error("`identity` needs `json` or `csv`, or a property")]
    IdentityNowhere,
    /// An identity with no name.
    #[error("the field of `identity` is empty; name one, or leave `identity` out")]
    IdentityEmpty,
    /// Text has no fields.
    #[error("`identity` needs fields, which `text` has not; use `json` or `csv`, or a property")]
    IdentityOfText,
    /// An identity that is no column.
    #[error("`identity` names `{field}`, which is none of the columns")]
    IdentityNoColumn {
        /// The field.
        field: String,
    },
    /// No column has a name other than the time's.
    #[error("`columns` names no column with values")]
    NoColumns,
    /// Two columns of one name.
    #[error("`columns` names `{column}` twice")]
    ColumnTwice {
        /// The column.
        column: String,
    },
    /// A separator that cannot be told from what it separates.
    #[error(
        "the separator must be one ASCII character that occurs in no number: no letter, digit, quote, line end or `+-.`"
    )]
    Separator,
}

/// What messages became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The readings, in the order of the messages.
    pub batch: Batch,
    /// For every message, how many rows of the batch are its own; 0 where it failed.
    pub rows: Vec<u32>,
    /// The messages that failed, by their index.
    pub failures: Vec<(usize, DecodeFailure)>,
    /// How many did not fail.
    pub decoded: u64,
}

/// Why a message could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeFailure {
    /// [`reason::UNDECODABLE`] or [`reason::OVERSIZE`].
    pub reason: &'static str,
    /// What is wrong, and where, for a person.
    pub detail: String,
}

impl DecodeFailure {
    fn undecodable(detail: impl Into<String>) -> Self {
        Self {
            reason: reason::UNDECODABLE,
            detail: detail.into(),
        }
    }

    fn oversize(detail: impl Into<String>) -> Self {
        Self {
            reason: reason::OVERSIZE,
            detail: detail.into(),
        }
    }
}

/// Decodes the messages of one source.
///
/// It remembers the series it has seen, so that a reading of a known one allocates nothing.
pub struct Decoder {
    format: Format,
    time: Option<TimeField>,
    rows: Rows,
}

enum Format {
    Json { scratch: String },
    Text,
    Csv(Csv),
    Regex(Pattern),
    Binary(Layout),
    Lines,
}

/// A time field as it is looked for.
#[derive(Clone, Debug)]
struct TimeField {
    path: String,
    unit: TimeUnit,
}

impl Decoder {
    /// A decoder for one source.
    ///
    /// # Errors
    /// What the configuration contradicts.
    pub fn new(config: DecodeConfig) -> Result<Self, DecodeConfigError> {
        let time = config.time_field.map(|path| TimeField {
            path,
            unit: config.time_unit,
        });
        if time.as_ref().is_some_and(|time| time.path.is_empty()) {
            return Err(DecodeConfigError::TimeFieldEmpty);
        }
        let format = match config.format {
            As::Json => Format::Json {
                scratch: String::new(),
            },
            As::Lines => Format::Lines,
            As::Text if time.is_some() => return Err(DecodeConfigError::TimeFieldOfText),
            As::Text => Format::Text,
            As::Csv { columns, separator } => {
                Format::Csv(Csv::new(&columns, separator, time.as_ref())?)
            }
            As::Regex { pattern } => Format::Regex(Pattern::new(&pattern, time.as_ref())?),
            As::Binary { .. } if time.is_some() => {
                return Err(DecodeConfigError::TimeFieldOfBinary);
            }
            As::Binary { fields } => Format::Binary(Layout::new(fields)?),
        };
        Ok(Self {
            format,
            time,
            rows: Rows::new(),
        })
    }

    /// Decodes messages. Each of them fails or succeeds on its own.
    pub fn decode(&mut self, messages: &[Message]) -> Decoded {
        let mut decoded = Decoded {
            rows: Vec::with_capacity(messages.len()),
            ..Decoded::default()
        };
        for (index, message) in messages.iter().enumerate() {
            self.rows.begin(&message.topic, message.arrival.wall);
            match self.message(message) {
                Ok(()) => {
                    decoded.decoded += 1;
                    decoded.rows.push(self.rows.keep());
                }
                Err(failure) => {
                    self.rows.discard();
                    decoded.rows.push(0);
                    decoded.failures.push((index, failure));
                }
            }
        }
        decoded.batch = self.rows.finish();
        decoded
    }

    fn message(&mut self, message: &Message) -> Result<(), DecodeFailure> {
        let payload = &message.payload[..];
        if payload.len() > PAYLOAD_BYTES {
            return Err(DecodeFailure::oversize(format!(
                "the payload has {} bytes; {PAYLOAD_BYTES} are decoded at most",
                payload.len()
            )));
        }
        if message.topic.is_empty() {
            return Err(DecodeFailure::undecodable("the topic is empty"));
        }
        if let Format::Binary(layout) = &self.format {
            return layout.decode(payload, &mut self.rows);
        }
        let text = std::str::from_utf8(payload).map_err(|error| {
            let at = error.valid_up_to();
            DecodeFailure::undecodable(format!("byte {at} ({:#04x}) is no UTF-8", payload[at]))
        })?;
        // A byte order mark is no part of the text (RFC 8259, section 8.1).
        let (text, skipped) = match text.strip_prefix('\u{FEFF}') {
            Some(rest) => (rest, 3),
            None => (text, 0),
        };
        if text.trim_ascii().is_empty() {
            return Err(DecodeFailure::undecodable("the payload is empty"));
        }
        match &mut self.format {
            Format::Json { scratch } => {
                json::decode(text, skipped, self.time.as_ref(), &mut self.rows, scratch)
            }
            Format::Text => text::decode(text, &mut self.rows),
            Format::Csv(csv) => csv.decode(text, &mut self.rows),
            Format::Regex(pattern) => pattern.decode(text, &mut self.rows),
            Format::Binary(layout) => layout.decode(payload, &mut self.rows),
            Format::Lines => lines::decode(text, &mut self.rows),
        }
    }
}
