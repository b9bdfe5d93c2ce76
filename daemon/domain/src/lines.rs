//! Readings as lines of text: what a source hands over that has readings and no messages, such as a poll of registers.
//!
//! A line is `series TAB kind TAB value TAB quality`. Quarantine can show it, a replay reads it without the register map that made
//! it, and nothing is rounded on the way: whole numbers go in all their digits, doubles in the shortest digits that give the same
//! double again.

use std::fmt::Write;

use crate::reading::{Quality, Value};

/// A line that is no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no reading: `series TAB kind TAB value TAB quality` is expected")]
pub struct NoReading {
    /// From 1.
    pub line: usize,
}

/// Appends one reading.
pub fn write_reading(lines: &mut String, series: &str, value: Value<'_>, quality: Quality) {
    lines.push_str(series);
    let written = match value {
        Value::Float(value) => write!(lines, "\tfloat\t{value}"),
        Value::Int(value) => write!(lines, "\tint\t{value}"),
        Value::Bool(value) => write!(lines, "\tbool\t{value}"),
        Value::Text(value) => {
            lines.push_str("\ttext\t");
            for character in value.chars() {
                match character {
                    '\\' => lines.push_str("\\\\"),
                    '\n' => lines.push_str("\\n"),
                    '\t' => lines.push_str("\\t"),
                    other => lines.push(other),
                }
            }
            Ok(())
        }
    };
    // A string takes whatever is written to it.
    debug_assert!(written.is_ok());
    lines.push('\t');
    lines.push_str(quality.as_str());
    lines.push('\n');
}

/// Gives each reading of the lines to `take`, whose error ends it.
///
/// # Errors
/// `take`'s, or that of the first line that is no reading.
pub fn read_readings<E: From<NoReading>>(
    lines: &str,
    mut take: impl FnMut(&str, Value<'_>, Quality) -> Result<(), E>,
) -> Result<(), E> {
    let mut text = String::new();
    for (index, line) in lines.split_terminator('\n').enumerate() {
        let mut fields = line.split('\t');
        let (series, kind, value, quality, None) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return Err(NoReading { line: index + 1 }.into());
        };
        let read = series.zip(value).zip(quality.and_then(quality_of));
        let read = read.and_then(|((series, value), quality)| {
            let value = match kind? {
                "float" => Value::Float(value.parse().ok()?),
                "int" => Value::Int(value.parse().ok()?),
                "bool" => Value::Bool(value.parse().ok()?),
                "text" => {
                    unescape(value, &mut text)?;
                    Value::Text(&text)
                }
                _ => return None,
            };
            Some((series, value, quality))
        });
        let Some((series, value, quality)) = read else {
            return Err(NoReading { line: index + 1 }.into());
        };
        take(series, value, quality)?;
    }
    Ok(())
}

fn quality_of(word: &str) -> Option<Quality> {
    [Quality::Good, Quality::Uncertain, Quality::Bad]
        .into_iter()
        .find(|quality| quality.as_str() == word)
}

fn unescape(value: &str, text: &mut String) -> Option<()> {
    text.clear();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                't' => '\t',
                _ => return None,
            },
            other => other,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<Vec<String>, NoReading> {
        let mut found = Vec::new();
        read_readings(lines, |series, value, quality| {
            found.push(format!("{series} {value:?} {quality:?}"));
            Ok::<(), NoReading>(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let values = [
            Value::Float(0.1 + 0.2),
            Value::Float(f64::MIN_POSITIVE),
            Value::Float(f64::NAN),
            Value::Float(f64::NEG_INFINITY),
            Value::Float(-0.0),
            Value::Int(i64::MIN),
            Value::Int(9_007_199_254_740_993),
            Value::Bool(true),
            Value::Text("a\tb\\n\nc\\"),
            Value::Text(""),
        ];
        let mut lines = String::new();
        let mut expect = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let quality = [Quality::Good, Quality::Uncertain, Quality::Bad][index % 3];
            write_reading(&mut lines, "meter/1/x", value, quality);
            expect.push(format!("meter/1/x {value:?} {quality:?}"));
        }
        assert_eq!(read(&lines), Ok(expect));
    }

    #[test]
    fn what_is_no_reading_is_named() {
        for (lines, line) in [
            ("a\tint\t1\tgood\nb\tint\t1.5\tgood\n", 2),
            ("a\tint\t1\n", 1),
            ("a\tint\t1\tgood\t\n", 1),
            ("a\tint\t1\tfine\n", 1),
            ("a\ttext\t\\x\tgood\n", 1),
            ("\n", 1),
        ] {
            assert_eq!(read(lines), Err(NoReading { line }), "{lines:?}");
        }
        assert_eq!(read(""), Ok(Vec::new()));
    }
}
