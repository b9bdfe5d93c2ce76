//! `as = "text"`: one value.

use tidegate_domain::{Quality, Value};

use super::rows::Rows;
use super::{DecodeFailure, number};

/// The longest unit, in characters. What is longer after a number is a sentence.
const UNIT_CHARACTERS: usize = 16;

/// One value: a number with or without a unit, `true`, `false`, `on` or `off` in any case, or else a text. A text that
/// begins like a number must be one: `12,5` and `3 of 4` fail, rather than becoming texts of a series of numbers.
pub(super) fn decode(text: &str, rows: &mut Rows) -> Result<(), DecodeFailure> {
    let text = text.trim_ascii();
    let (value, quality) = value(text)?;
    rows.push(value, quality)
}

fn value(text: &str) -> Result<(Value<'_>, Quality), DecodeFailure> {
    if let Some((length, whole)) = number::scan(text.as_bytes()) {
        let (number, rest) = text.split_at(length);
        if !rest.is_empty() && !is_unit(rest.trim_start()) {
            let shown: String = rest.chars().take(32).collect();
            return Err(DecodeFailure::undecodable(format!(
                "`{}` at byte {length} is neither part of the number before it nor its unit",
                shown.escape_debug()
            )));
        }
        return Ok(number::value(number, whole));
    }
    if let Some(value) = word(text) {
        return Ok((Value::Bool(value), Quality::Good));
    }
    // The words for what is no number, as C and Python print them.
    let unsigned = text.trim_start_matches(['+', '-']);
    if unsigned.eq_ignore_ascii_case("nan") {
        return Ok((Value::Float(f64::NAN), Quality::Bad));
    }
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        let infinity = if text.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
        return Ok((Value::Float(infinity), Quality::Bad));
    }
    if let Some((at, found)) = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        return Err(DecodeFailure::undecodable(format!(
            "the control character {found:?} at byte {at} is no part of a text"
        )));
    }
    Ok((Value::Text(text), Quality::Good))
}

/// The value of a word for true or false.
fn word(text: &str) -> Option<bool> {
    [
        ("true", true),
        ("false", false),
        ("on", true),
        ("off", false),
    ]
    .into_iter()
    .find_map(|(word, value)| text.eq_ignore_ascii_case(word).then_some(value))
}

/// `°C`, `%`, `m³/h`, `kWh`: begins with a letter or a sign for a unit, and is one short word.
fn is_unit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || "%°‰/\"'$€£".contains(c))
        && text.chars().count() <= UNIT_CHARACTERS
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}
