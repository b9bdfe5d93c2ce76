//! `as = "json"`: a reader of RFC 8259 that writes readings.
//!
//! A reader of its own, because a general one loses what is promised here: numbers as they were written (64-bit
//! integers, correct rounding, what lies beyond a double), the byte at which something is wrong, and no allocation
//! for a value whose series is known.

use tidegate_domain::limits::JSON_DEPTH;
use tidegate_domain::{Quality, Value};

use super::rows::Rows;
use super::{DecodeFailure, TimeField, number, time};

/// Appends the readings of one payload. `skipped` is how many bytes stood before `text`.
pub(super) fn decode(
    text: &str,
    skipped: usize,
    time: Option<&TimeField>,
    rows: &mut Rows,
    scratch: &mut String,
) -> Result<(), DecodeFailure> {
    let mut reader = Reader {
        text,
        at: 0,
        skipped,
        time,
        found: None,
        rows,
        scratch,
    };
    reader.space();
    reader.value(JSON_DEPTH)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.wrong("text after the end of the JSON value"));
    }
    match (time, reader.found) {
        (Some(_), Some(found)) => reader.rows.set_time(found),
        (Some(field), None) => {
            return Err(DecodeFailure::undecodable(format!(
                "the time field `{}` is missing",
                field.path
            )));
        }
        (None, _) => {}
    }
    Ok(())
}

struct Reader<'a, 'r> {
    text: &'a str,
    /// The next byte.
    at: usize,
    skipped: usize,
    time: Option<&'r TimeField>,
    /// The message's time, once it was seen.
    found: Option<i64>,
    rows: &'r mut Rows,
    /// A text without its escapes.
    scratch: &'r mut String,
}

impl<'r> Reader<'_, 'r> {
    /// Reads one value and what is in it; `depth` is how many levels it may have.
    fn value(&mut self, depth: usize) -> Result<(), DecodeFailure> {
        match self.peek() {
            Some(b'{') => self.object(self.deeper(depth)?),
            Some(b'[') => self.array(self.deeper(depth)?),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Some(true)),
            Some(b'f') => self.literal("false", Some(false)),
            Some(b'n') => self.literal("null", None),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, DecodeFailure> {
        depth.checked_sub(1).ok_or_else(|| {
            DecodeFailure::oversize(format!(
                "more than {JSON_DEPTH} levels at byte {}",
                self.skipped + self.at
            ))
        })
    }

    fn object(&mut self, depth: usize) -> Result<(), DecodeFailure> {
        self.at += 1;
        self.space();
        if self.skip(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.at;
            let back = self.rows.descend();
            quoted(self.text, &mut self.at, self.rows.path())
                .map_err(|wrong| at(wrong, self.skipped + self.at))?;
            if self.rows.path().len() == back + 1 {
                return Err(at("an empty key", self.skipped + key));
            }
            self.space();
            if !self.skip(b':') {
                return Err(self.unexpected("`:` after a key"));
            }
            self.space();
            self.value(depth)?;
            self.rows.ascend(back);
            self.space();
            if self.skip(b'}') {
                return Ok(());
            }
            if !self.skip(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
            self.space();
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), DecodeFailure> {
        self.at += 1;
        self.space();
        if self.skip(b']') {
            return Ok(());
        }
        let mut index = 0;
        loop {
            let back = self.rows.descend();
            push_decimal(self.rows.path(), index);
            self.value(depth)?;
            self.rows.ascend(back);
            self.space();
            if self.skip(b']') {
                return Ok(());
            }
            if !self.skip(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
            self.space();
            index += 1;
        }
    }

    fn string(&mut self) -> Result<(), DecodeFailure> {
        self.scratch.clear();
        quoted(self.text, &mut self.at, self.scratch)
            .map_err(|wrong| at(wrong, self.skipped + self.at))?;
        match self.time_here() {
            Some(field) => self.time(field, time::from_text(self.scratch, field.unit)),
            None => self.rows.push(Value::Text(self.scratch), Quality::Good),
        }
    }

    fn number(&mut self) -> Result<(), DecodeFailure> {
        let rest = &self.text.as_bytes()[self.at..];
        let digits = &rest[usize::from(rest[0] == b'-')..];
        let (length, whole) = number::scan(rest).ok_or_else(|| self.unexpected("a number"))?;
        // What `scan` allows and JSON does not: leading zeros, and a point without a digit on each side.
        let text = &self.text[self.at..self.at + length];
        let bare = |point: usize| {
            !text
                .as_bytes()
                .get(point + 1)
                .is_some_and(u8::is_ascii_digit)
        };
        if digits[0] == b'.' || text.find('.').is_some_and(bare) {
            return Err(self.wrong("a number without a digit on each side of its point"));
        }
        if digits[0] == b'0' && digits.get(1).is_some_and(u8::is_ascii_digit) {
            return Err(self.wrong("a number with a leading zero"));
        }
        self.at += length;
        match self.time_here() {
            Some(field) => self.time(field, time::from_number(text, field.unit)),
            None => {
                let (value, quality) = number::value(text, whole);
                self.rows.push(value, quality)
            }
        }
    }

    fn literal(&mut self, word: &'static str, value: Option<bool>) -> Result<(), DecodeFailure> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        match (self.time_here(), value) {
            (Some(field), _) => self.time(field, Err(format!("is {word}"))),
            (None, Some(value)) => self.rows.push(Value::Bool(value), Quality::Good),
            (None, None) => Ok(()),
        }
    }

    /// The time field, where the value at hand is it.
    fn time_here(&self) -> Option<&'r TimeField> {
        self.time.filter(|field| field.path == self.rows.field())
    }

    fn time(&mut self, field: &TimeField, time: Result<i64, String>) -> Result<(), DecodeFailure> {
        let wrong = match time {
            Ok(_) if self.found.is_some() => "occurs twice".to_owned(),
            Ok(time) => {
                self.found = Some(time);
                return Ok(());
            }
            Err(wrong) => wrong,
        };
        Err(DecodeFailure::undecodable(format!(
            "the time field `{}` {wrong}",
            field.path
        )))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> DecodeFailure {
        let byte = self.skipped + self.at;
        DecodeFailure::undecodable(match self.text[self.at..].chars().next() {
            Some(found) => format!("{found:?} at byte {byte}, where {wanted} belongs"),
            None => format!("the JSON ends at byte {byte}, where {wanted} belongs"),
        })
    }

    fn wrong(&self, what: &str) -> DecodeFailure {
        at(what, self.skipped + self.at)
    }
}

fn at(what: &str, byte: usize) -> DecodeFailure {
    DecodeFailure::undecodable(format!("{what} at byte {byte}"))
}

/// Appends the string in quotes that begins at `at`, and moves `at` behind it, or to where it is wrong.
fn quoted(text: &str, at: &mut usize, out: &mut String) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    *at += 1;
    loop {
        let from = *at;
        while let Some(byte) = bytes.get(*at)
            && !matches!(byte, b'"' | b'\\' | 0..=0x1F)
        {
            *at += 1;
        }
        // Both ends lie beside ASCII characters, or at the end.
        out.push_str(&text[from..*at]);
        match bytes.get(*at) {
            Some(b'"') => {
                *at += 1;
                return Ok(());
            }
            Some(b'\\') => out.push(escape(bytes, at)?),
            Some(_) => return Err("a control character in a string"),
            None => return Err("a string without its closing quote"),
        }
    }
}

/// The character of the escape that begins at `at`.
fn escape(bytes: &[u8], at: &mut usize) -> Result<char, &'static str> {
    let simple = match bytes.get(*at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{C}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(bytes, at),
        _ => return Err("an unknown escape"),
    };
    *at += 2;
    Ok(simple)
}

/// The character of `\uXXXX`, or of a surrogate pair of them.
fn unicode(bytes: &[u8], at: &mut usize) -> Result<char, &'static str> {
    let first = hex(bytes, *at)?;
    let mut length = 6;
    let code = match first {
        0xD800..=0xDBFF => {
            let second = hex(bytes, *at + 6).unwrap_or_default();
            if !(0xDC00..=0xDFFF).contains(&second) {
                return Err("half a surrogate pair");
            }
            length = 12;
            0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        }
        _ => first,
    };
    let character = char::from_u32(code).ok_or("half a surrogate pair")?;
    *at += length;
    Ok(character)
}

fn hex(bytes: &[u8], at: usize) -> Result<u32, &'static str> {
    const WRONG: &str = "a \\u escape without four hex digits";
    let digits = bytes
        .get(at..at + 6)
        .and_then(|escape| escape.strip_prefix(b"\\u"))
        .ok_or(WRONG)?;
    digits.iter().try_fold(0, |code, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(WRONG)?;
        Ok(code * 16 + digit)
    })
}

fn push_decimal(out: &mut String, number: u32) {
    if number >= 10 {
        push_decimal(out, number / 10);
    }
    out.extend(char::from_digit(number % 10, 10));
}
