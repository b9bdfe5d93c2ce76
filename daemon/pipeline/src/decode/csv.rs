//! `as = "csv"`: lines of fields.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use tidegate_domain::{Quality, Value};

use super::rows::Rows;
use super::{DecodeConfigError, DecodeFailure, TimeField, number, time};

/// Lines of fields. A field is a number, `true` or `false` in any case, or else a text; spaces around it do not
/// count. Every line must have as many fields as there are columns.
pub(super) struct Csv {
    reader: Reader,
    columns: Vec<Column>,
    time: Option<(usize, TimeField)>,
    /// Nobody named the columns: fields are known by their numbers.
    numbered: bool,
    /// The fields of one line, without quotes, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
}

/// Fields of a line whose columns nobody named.
const NUMBERED: usize = 256;

struct Column {
    name: String,
    /// Its series in the present message, once it has had a value.
    series: Option<u32>,
}

impl Csv {
    pub(super) fn new(
        columns: &[String],
        separator: u8,
        time: Option<&TimeField>,
    ) -> Result<Self, DecodeConfigError> {
        if !separator.is_ascii()
            || separator.is_ascii_alphanumeric()
            || b"\"\r\n\0+-.".contains(&separator)
        {
            return Err(DecodeConfigError::Separator);
        }
        for (index, column) in columns.iter().enumerate() {
            if !column.is_empty() && columns[..index].contains(column) {
                return Err(DecodeConfigError::ColumnTwice {
                    column: column.clone(),
                });
            }
        }
        let time = match time {
            Some(field) => {
                let column = columns.iter().position(|name| *name == field.path);
                let column = column.ok_or_else(|| DecodeConfigError::TimeFieldNoColumn {
                    field: field.path.clone(),
                })?;
                Some((column, field.clone()))
            }
            None => None,
        };
        if columns.is_empty() {
            let columns: Vec<String> = (0..NUMBERED).map(|index| index.to_string()).collect();
            return Ok(Self {
                numbered: true,
                ..Self::new(&columns, separator, None)?
            });
        }
        let is_time = |index| time.as_ref().is_some_and(|(column, _)| *column == index);
        let mut named = columns.iter().enumerate();
        if named.all(|(index, name)| name.is_empty() || is_time(index)) {
            return Err(DecodeConfigError::NoColumns);
        }
        Ok(Self {
            reader: ReaderBuilder::new().delimiter(separator).build(),
            // One more than there are columns, so that a line with one field too many is seen whole.
            ends: vec![0; columns.len() + 1],
            columns: columns
                .iter()
                .map(|name| Column {
                    name: name.clone(),
                    series: None,
                })
                .collect(),
            time,
            numbered: false,
            fields: Vec::new(),
        })
    }

    pub(super) fn decode(&mut self, text: &str, rows: &mut Rows) -> Result<(), DecodeFailure> {
        self.reader.reset();
        for column in &mut self.columns {
            column.series = None;
        }
        // Fields without their quotes are never longer than with them.
        self.fields.resize(text.len(), 0);
        let mut input = text.as_bytes();
        let (mut written, mut ended) = (0, 0);
        let mut line = 1;
        loop {
            let (result, taken, bytes, ends) = self.reader.read_record(
                input,
                &mut self.fields[written..],
                &mut self.ends[ended..],
            );
            input = &input[taken..];
            written += bytes;
            ended += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record => {
                    self.line(line, ended, rows)?;
                    (written, ended) = (0, 0);
                    line = self.reader.line();
                }
                ReadRecordResult::OutputEndsFull => return Err(self.fields_of(line, None)),
                ReadRecordResult::OutputFull => self.fields.resize(self.fields.len() * 2, 0),
                ReadRecordResult::End => return Ok(()),
            }
        }
    }

    fn line(&mut self, line: u64, count: usize, rows: &mut Rows) -> Result<(), DecodeFailure> {
        if self.numbered && count == 1 {
            // A bare value, as in JSON.
            let (value, quality) = value(self.field(line, 0)?);
            return rows.push(value, quality);
        }
        if count != self.columns.len() && !self.numbered {
            return Err(self.fields_of(line, Some(count)));
        }
        let time = match &self.time {
            Some((column, field)) => {
                let text = self.field(line, *column)?;
                if text.is_empty() {
                    return Err(DecodeFailure::undecodable(format!(
                        "line {line}: the time field `{}` is empty",
                        field.path
                    )));
                }
                time::from_text(text, field.unit).map_err(|wrong| {
                    DecodeFailure::undecodable(format!(
                        "line {line}: the time field `{}` {wrong}",
                        field.path
                    ))
                })?
            }
            None => rows.arrival(),
        };
        for index in 0..count {
            let is_time = self
                .time
                .as_ref()
                .is_some_and(|(column, _)| *column == index);
            if is_time || self.columns[index].name.is_empty() {
                continue;
            }
            let series = self.columns[index].series;
            let text = self.field(line, index)?;
            if text.is_empty() {
                continue;
            }
            let (value, quality) = value(text);
            let series = match series {
                Some(series) => series,
                None => {
                    let back = rows.descend();
                    rows.path().push_str(&self.columns[index].name);
                    let series = rows.column();
                    rows.ascend(back);
                    series?
                }
            };
            rows.push_at(series, time, value, quality)?;
            self.columns[index].series = Some(series);
        }
        Ok(())
    }

    fn field(&self, line: u64, index: usize) -> Result<&str, DecodeFailure> {
        let from = match index.checked_sub(1) {
            Some(before) => self.ends[before],
            None => 0,
        };
        // Separators and quotes are ASCII, so that what is between them is UTF-8 where the payload is.
        match std::str::from_utf8(&self.fields[from..self.ends[index]]) {
            Ok(text) => Ok(text.trim_ascii()),
            Err(error) => Err(DecodeFailure::undecodable(format!(
                "line {line}: field {} is no UTF-8: {error}",
                index + 1
            ))),
        }
    }

    fn fields_of(&self, line: u64, count: Option<usize>) -> DecodeFailure {
        let want = self.columns.len();
        DecodeFailure::undecodable(match count {
            Some(count) => format!("line {line} has {count} fields; `columns` names {want}"),
            None => {
                format!("line {line} has more than {want} fields, as many as there are columns")
            }
        })
    }
}

/// What a field says.
pub(super) fn value(text: &str) -> (Value<'_>, Quality) {
    match number::scan(text.as_bytes()) {
        Some((length, whole)) if length == text.len() => number::value(text, whole),
        _ if text.eq_ignore_ascii_case("true") => (Value::Bool(true), Quality::Good),
        _ if text.eq_ignore_ascii_case("false") => (Value::Bool(false), Quality::Good),
        _ => (Value::Text(text), Quality::Good),
    }
}
