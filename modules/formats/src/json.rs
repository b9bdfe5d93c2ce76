//! JSON (RFC 8259), token by token off a text.
//!
//! A reader of its own for the same reasons as the gateway's: numbers stay as they were written, what is wrong has a place,
//! and nothing is built that nobody asked for.

use std::borrow::Cow;

use tidegate_sdk::{Quality, Value};

use crate::Malformed;

/// One value, or the beginning of one that has others in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Token<'a> {
    /// `{`; [`Reader::key`] reads on.
    Object,
    /// `[`; [`Reader::element`] reads on.
    Array,
    /// A text, without its escapes.
    Text(Cow<'a, str>),
    /// A number, as it was written.
    Number(&'a str),
    /// A truth value.
    Bool(bool),
    /// `null`.
    Null,
}

/// A place within an object or array: whether something was read of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Within(bool);

/// A reader of one text.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning. A byte order mark is no part of the text (RFC 8259, section 8.1).
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{FEFF}') { 3 } else { 0 };
        Self { text, at }
    }

    /// Reads one value; of an object and an array only the beginning.
    ///
    /// # Errors
    /// What is no value.
    pub fn value(&mut self) -> Result<Token<'a>, Malformed> {
        self.space();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                Ok(Token::Object)
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Token::Array)
            }
            Some(b'"') => Ok(Token::Text(self.quoted()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Token::Bool(true)),
            Some(b'f') => self.word("false", Token::Bool(false)),
            Some(b'n') => self.word("null", Token::Null),
            Some(_) => Err(self.wrong("a value was expected")),
            None => Err(self.wrong("the text ends where a value is due")),
        }
    }

    /// The next key of an object, whose value is to be read next; `None` at its end.
    ///
    /// # Errors
    /// What is no key.
    pub fn key(&mut self, within: &mut Within) -> Result<Option<Cow<'a, str>>, Malformed> {
        if !self.next(within, b'}', "`,` or `}` was expected")? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(self.wrong("a key in double quotes was expected"));
        }
        let key = self.quoted()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.wrong("`:` was expected after a key"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether an array has another element, to be read next.
    ///
    /// # Errors
    /// What is neither an element nor the end.
    pub fn element(&mut self, within: &mut Within) -> Result<bool, Malformed> {
        self.next(within, b']', "`,` or `]` was expected")
    }

    /// Reads the rest of a value that nobody wants. `depth` is how many levels it may have.
    ///
    /// # Errors
    /// As [`Reader::value`], and where it is too deep.
    pub fn skip(&mut self, token: &Token<'_>, depth: usize) -> Result<(), Malformed> {
        let mut within = Within::default();
        match token {
            Token::Object => {
                let depth = self.deeper(depth)?;
                while self.key(&mut within)?.is_some() {
                    let value = self.value()?;
                    self.skip(&value, depth)?;
                }
            }
            Token::Array => {
                let depth = self.deeper(depth)?;
                while self.element(&mut within)? {
                    let value = self.value()?;
                    self.skip(&value, depth)?;
                }
            }
            Token::Text(_) | Token::Number(_) | Token::Bool(_) | Token::Null => {}
        }
        Ok(())
    }

    /// One level less.
    ///
    /// # Errors
    /// When there is none left.
    pub fn deeper(&self, depth: usize) -> Result<usize, Malformed> {
        let left = depth.checked_sub(1);
        left.ok_or_else(|| self.wrong("more than 32 levels of objects and arrays"))
    }

    /// # Errors
    /// Where something is left.
    pub fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("text behind the end of the value")),
        }
    }

    /// What is wrong at the place that comes next.
    #[must_use]
    pub fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn next(
        &mut self,
        within: &mut Within,
        end: u8,
        what: &'static str,
    ) -> Result<bool, Malformed> {
        self.space();
        let begun = std::mem::replace(&mut within.0, true);
        match self.peek() {
            Some(byte) if byte == end => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if begun => self.at += 1,
            Some(_) if !begun => {}
            Some(_) => return Err(self.wrong(what)),
            None => return Err(self.wrong("the text ends within an object or an array")),
        }
        self.space();
        Ok(true)
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a value was expected"));
        }
        self.at += word.len();
        Ok(token)
    }

    fn number(&mut self) -> Result<Token<'a>, Malformed> {
        let rest = &self.text[self.at..];
        let length =
            number(rest.as_bytes()).ok_or(self.wrong("a number that JSON does not have"))?;
        self.at += length;
        Ok(Token::Number(&rest[..length]))
    }

    fn quoted(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.at += 1;
        let mut whole = Cow::Borrowed("");
        loop {
            let from = self.at;
            while let Some(byte) = self.peek()
                && !matches!(byte, b'"' | b'\\' | 0..=0x1F)
            {
                self.at += 1;
            }
            // Both ends lie beside ASCII characters, or at the end.
            let plain = &self.text[from..self.at];
            if whole.is_empty() {
                whole = Cow::Borrowed(plain);
            } else {
                whole.to_mut().push_str(plain);
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(whole);
                }
                Some(b'\\') => {
                    let escaped = self.escape()?;
                    whole.to_mut().push(escaped);
                }
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("a string without its closing quote")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let letter = self.text.as_bytes().get(self.at + 1);
        let escaped = match letter {
            Some(letter @ (b'"' | b'\\' | b'/')) => char::from(*letter),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.wrong("an escape that JSON does not have")),
        };
        self.at += 2;
        Ok(escaped)
    }

    /// `\uXXXX`, or two of them that are one character.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let what = "a \\u escape that is no character";
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| hex)
        };
        let first = unit(self.at).ok_or(self.wrong(what))?;
        let pair = [first, unit(self.at + 6).unwrap_or_default()];
        let (units, length) = if (0xD800..0xDC00).contains(&first) {
            (&pair[..], 12)
        } else {
            (&pair[..1], 6)
        };
        let found = char::decode_utf16(units.iter().copied()).next();
        let Some(Ok(character)) = found else {
            return Err(self.wrong(what));
        };
        self.at += length;
        Ok(character)
    }
}

/// The length of the number at the beginning of a text.
fn number(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let sign = usize::from(text.first() == Some(&b'-'));
    let whole = digits(sign);
    if whole == 0 || whole > 1 && text.get(sign) == Some(&b'0') {
        return None;
    }
    let mut at = sign + whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        at += usize::from(matches!(text.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}

/// What a number says as a reading, like the gateway's own decoder of JSON: whole ones up to 64 bits stay integers, one
/// beyond that is the nearest double of uncertain quality, and what is beyond the doubles is of bad quality.
#[must_use]
pub fn reading(number: &str) -> (Value<'static>, Quality) {
    let whole = !number.contains(['.', 'e', 'E']);
    // `-0` has a sign to keep, which integers have no room for.
    if whole
        && number != "-0"
        && let Ok(value) = number.parse::<i64>()
    {
        return (Value::Int(value), Quality::Good);
    }
    // The grammar of JSON is within that of `f64`.
    let value: f64 = number.parse().unwrap_or(f64::NAN);
    let quality = if !value.is_finite() {
        Quality::Bad
    } else if whole && value != 0.0 {
        Quality::Uncertain
    } else {
        Quality::Good
    };
    (Value::Float(value), quality)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEPTH;

    fn read(text: &str) -> Result<(), Malformed> {
        let mut reader = Reader::new(text);
        let value = reader.value()?;
        reader.skip(&value, DEPTH)?;
        reader.end()
    }

    #[test]
    fn what_is_json_is_read_and_nothing_else() {
        for sound in [
            "0",
            "-0",
            "1.5e-3",
            "12345678901234567890",
            "true",
            " null ",
            "\"\"",
            "[]",
            "{}",
            "[1, 2 ,\n3]",
            r#"{"a":{"b":[{"c":"\u00e9\ud83d\ude00\n\/"}]}}"#,
            "\u{FEFF}1",
        ] {
            read(sound).expect(sound);
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1.e1",
            "1e",
            "1e+",
            "0x1",
            "tru",
            "nul",
            "TRUE",
            "'a'",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u+123\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"a\u{1}b\"",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "[1",
            "{",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1",
            "{,}",
            "1 2",
            "[1]]",
            "nan",
            "Infinity",
            "\u{a0}1",
            "\"\\u12é\"",
        ] {
            read(bad).expect_err(bad);
        }
    }

    #[test]
    fn texts_come_without_their_escapes() {
        let text = |json| match Reader::new(json).value() {
            Ok(Token::Text(text)) => text.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(r#""plain é""#), "plain é");
        assert_eq!(text(r#""\"\\\/\b\f\n\r\t""#), "\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(text(r#""a\u00e9b\uD83D\uDE00c""#), "aéb😀c");
        assert_eq!(text(r#""\u0041BC\u0044""#), "ABCD");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        read(&nested(DEPTH)).unwrap();
        assert!(
            read(&nested(DEPTH + 1))
                .unwrap_err()
                .what
                .contains("32 levels")
        );
        read(&"[".repeat(100_000)).unwrap_err();
    }

    #[test]
    fn numbers_are_not_changed_without_a_mark() {
        let check = |text, want: Value<'_>, quality| assert_eq!(reading(text), (want, quality));
        check("9223372036854775807", Value::Int(i64::MAX), Quality::Good);
        check(
            "9223372036854775808",
            Value::Float(9_223_372_036_854_775_808.0),
            Quality::Uncertain,
        );
        check("1e2", Value::Float(100.0), Quality::Good);
        check("-0", Value::Float(-0.0), Quality::Good);
        check("1e400", Value::Float(f64::INFINITY), Quality::Bad);
    }
}
