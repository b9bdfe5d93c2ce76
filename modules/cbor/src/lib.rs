//! CBOR (RFC 8949): what the gateway does with JSON by itself, for CBOR.
//!
//! | a payload | becomes |
//! |---|---|
//! | a map, nested or not | one reading for each value; keys and array indices join the topic with `/` |
//! | a bare value | one reading of the topic's series |
//!
//! `null` and `undefined` are no reading. A whole number beyond 64 bits with a sign becomes the nearest double of uncertain
//! quality, as with JSON; a bignum is refused. Bytes become a text as section 6.1 of the RFC has it: base64url, unless a tag
//! says otherwise. Keys are texts or whole numbers. Of tags without a meaning here the content counts.

use std::borrow::Cow;

use formats::cbor::{Base, Entries, Item, Reader};
use formats::{DEPTH, Path, base64url, shown, time};
use tidegate_sdk::{Decoded, Fault, Message, Messages, Quality, Value, settings};

tidegate_sdk::decoder!(cbor);

/// Any bytes as messages: what the fuzz target calls, and the test with what that kept.
#[cfg(not(target_arch = "wasm32"))]
pub fn fuzz(input: &[u8]) -> bool {
    tidegate_sdk::test::DecoderHarness::new(cbor).fuzz(input)
}

/// Tags of RFC 8949, section 3.4, and RFC 9277.
mod tag {
    pub(crate) const DATE_TIME: u64 = 0;
    pub(crate) const EPOCH: u64 = 1;
    pub(crate) const BIGNUM: u64 = 2;
    pub(crate) const NEGATIVE_BIGNUM: u64 = 3;
    pub(crate) const DECIMAL_FRACTION: u64 = 4;
    pub(crate) const BIGFLOAT: u64 = 5;
    pub(crate) const BASE16: u64 = 23;
}

fn cbor(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let field = settings::text("time-field");
    let unit = match settings::text("time-unit").as_deref() {
        Some("s") => time::SECOND,
        Some("us") => time::MICROSECOND,
        Some("ns") => 1,
        Some(_) | None => time::MILLISECOND,
    };
    let mut path = Path::default();
    for message in messages.iter() {
        out.message(message, |rows| {
            let at = match &field {
                Some(field) => time_of(message, field, unit, &mut path)?,
                None => message.time(),
            };
            path.begin(message.topic());
            let mut walk = Walk {
                reader: Reader::new(message.payload()),
                path: &mut path,
                time_field: field.as_deref(),
            };
            walk.whole(&mut |name, value| {
                let (value, quality) = value.reading();
                rows.add(name, at, value, quality)
            })
        });
    }
    Ok(())
}

/// The time that the message itself gives.
fn time_of(message: Message<'_>, field: &str, unit: i64, path: &mut Path) -> Result<i64, String> {
    path.begin(message.topic());
    let mut found = None;
    let mut walk = Walk {
        reader: Reader::new(message.payload()),
        path,
        time_field: None,
    };
    let below = message.topic().len() + 1;
    walk.whole(&mut |name, value| {
        if name.get(below..) != Some(field) {
            return Ok(());
        }
        let time = value.time(unit).ok_or_else(|| {
            format!("the time field `{field}` is {value}, which is no time from 1677 to 2262; is `time-unit` right?")
        })?;
        match found.replace(time) {
            None => Ok(()),
            Some(_) => Err(format!("the time field `{field}` occurs twice")),
        }
    })?;
    found.ok_or_else(|| format!("the time field `{field}` is missing"))
}

/// A value that can be a reading.
enum Leaf<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(Cow<'a, str>),
    /// A number of seconds, of tag 1.
    Seconds(Box<Leaf<'a>>),
}

impl Leaf<'_> {
    fn reading(&self) -> (Value<'_>, Quality) {
        match self {
            Self::Integer(value) => formats::integer(*value),
            Self::Float(value) => formats::float(*value),
            Self::Bool(value) => (Value::Bool(*value), Quality::Good),
            Self::Text(text) => (Value::Text(text), Quality::Good),
            Self::Seconds(value) => value.reading(),
        }
    }

    fn time(&self, unit: i64) -> Option<i64> {
        match self {
            Self::Integer(value) => time::from_integer(*value, unit),
            Self::Float(value) => time::from_float(*value, unit),
            Self::Bool(_) => None,
            Self::Text(text) => time::from_rfc3339(text),
            Self::Seconds(value) => value.time(time::SECOND),
        }
    }
}

impl std::fmt::Display for Leaf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{}", tidegate_sdk::Number(*value)),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "`{}`", shown(text)),
            Self::Seconds(value) => write!(f, "{value} s"),
        }
    }
}

/// What is done with a value of a series.
type Visit<'v> = dyn FnMut(&str, Leaf<'_>) -> Result<(), String> + 'v;

/// A walk through a payload, value by value.
struct Walk<'a, 'p> {
    reader: Reader<'a>,
    path: &'p mut Path,
    /// The value that is left out.
    time_field: Option<&'p str>,
}

impl<'a> Walk<'a, '_> {
    /// All of a payload.
    fn whole(&mut self, visit: &mut Visit<'_>) -> Result<(), String> {
        if self.reader.end().is_ok() {
            return Err("the payload is empty".to_owned());
        }
        let first = self.reader.item()?;
        self.value(first, DEPTH, visit)?;
        Ok(self.reader.end()?)
    }

    fn value(&mut self, item: Item<'a>, depth: usize, visit: &mut Visit<'_>) -> Result<(), String> {
        match item {
            Item::Map(entries) => self.map(entries, depth, visit),
            Item::Array(entries) => self.array(entries, depth, visit),
            Item::Tag(tag) => self.tagged(tag, depth, visit),
            Item::Integer(value) => self.leaf(Leaf::Integer(value), visit),
            Item::Float(value) => self.leaf(Leaf::Float(value), visit),
            Item::Bool(value) => self.leaf(Leaf::Bool(value), visit),
            Item::Text(text) => self.leaf(Leaf::Text(text), visit),
            Item::Bytes(bytes) => self.leaf(Leaf::Text(base64url::encode(&bytes).into()), visit),
            Item::Null | Item::Undefined => Ok(()),
            Item::Simple(number) => Err(format!(
                "the simple value {number} at `{}` has no meaning",
                shown(self.path.name())
            )),
        }
    }

    fn leaf(&mut self, leaf: Leaf<'_>, visit: &mut Visit<'_>) -> Result<(), String> {
        if self.time_field == Some(self.path.below()) {
            return Ok(());
        }
        visit(self.path.name(), leaf)
    }

    fn map(
        &mut self,
        mut entries: Entries,
        depth: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), String> {
        let depth = self.reader.deeper(depth)?;
        while self.reader.more(&mut entries)? {
            let at = self.reader.at();
            let item = self.reader.item()?;
            let key = if let Item::Text(key) = item {
                key
            } else if let Item::Integer(key) = item {
                key.to_string().into()
            } else {
                return Err(format!(
                    "byte {at}: a key that is neither a text nor a whole number"
                ));
            };
            let back = self
                .path
                .descend(&key)
                .map_err(|why| format!("byte {at}: {why}"))?;
            let item = self.reader.item()?;
            self.value(item, depth, visit)?;
            self.path.ascend(back);
        }
        Ok(())
    }

    fn array(
        &mut self,
        mut entries: Entries,
        depth: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), String> {
        let depth = self.reader.deeper(depth)?;
        let mut index = 0_u32;
        while self.reader.more(&mut entries)? {
            let back = self.path.descend(&index.to_string())?;
            let item = self.reader.item()?;
            self.value(item, depth, visit)?;
            self.path.ascend(back);
            index += 1;
        }
        Ok(())
    }

    fn tagged(&mut self, tag: u64, depth: usize, visit: &mut Visit<'_>) -> Result<(), String> {
        let depth = self.reader.deeper(depth)?;
        let at = self.reader.at();
        match tag {
            tag::BIGNUM | tag::NEGATIVE_BIGNUM => Err(format!(
                "byte {at}: a bignum (tag {tag}) at `{}`, which no reading can hold; send it as a number or a text",
                shown(self.path.name())
            )),
            tag::DECIMAL_FRACTION | tag::BIGFLOAT => {
                let base = if tag == tag::BIGFLOAT {
                    Base::Two
                } else {
                    Base::Ten
                };
                let value = self.reader.fraction(base)?;
                self.leaf(Leaf::Float(value), visit)
            }
            tag::DATE_TIME => {
                if let Item::Text(text) = self.reader.item()?
                    && time::from_rfc3339(&text).is_some()
                {
                    return self.leaf(Leaf::Text(text), visit);
                }
                Err(format!(
                    "byte {at}: tag 0 without a date and time as in RFC 3339"
                ))
            }
            tag::EPOCH => {
                let item = self.reader.item()?;
                let leaf = if let Item::Integer(value) = item {
                    Leaf::Integer(value)
                } else if let Item::Float(value) = item {
                    Leaf::Float(value)
                } else {
                    return Err(format!("byte {at}: tag 1 without a number of seconds"));
                };
                self.leaf(Leaf::Seconds(Box::new(leaf)), visit)
            }
            tag::BASE16 => {
                let item = self.reader.item()?;
                let Item::Bytes(bytes) = item else {
                    return self.value(item, depth, visit);
                };
                let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                let text: String = digits
                    .map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)]))
                    .collect();
                self.leaf(Leaf::Text(text.into()), visit)
            }
            _ => {
                let item = self.reader.item()?;
                self.value(item, depth, visit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_sdk::test::{
        DecoderHarness, Received, cases, check_decoder_vectors, damaged, hex, json,
    };

    use super::*;

    #[test]
    fn golden_vectors() {
        check_decoder_vectors(cbor, include_str!("../vectors.json"));
    }

    #[test]
    fn the_corpus_harms_nobody() {
        tidegate_sdk::test::replay_corpus(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/cbor"),
            fuzz,
        );
    }

    fn reason(digits: &str) -> String {
        let mut harness = DecoderHarness::new(cbor);
        let outcome = harness.run(&[Received::new("t", 0, &hex(digits))]).unwrap();
        assert_eq!(outcome.undecoded.len(), 1, "{digits}");
        outcome
            .undecoded
            .into_iter()
            .map(|(_, reason)| reason)
            .collect()
    }

    #[test]
    fn what_cannot_be_read_is_undecoded_with_the_place() {
        for (digits, want) in [
            ("", "the payload is empty"),
            ("ff", "byte 0: a \"break\""),
            ("83 01 02", "byte 3: the payload ends where an item is due"),
            ("01 02", "byte 1: bytes behind the end"),
            (
                "a1 6161 c2 49 010000000000000000",
                "byte 4: a bignum (tag 2) at `t/a`",
            ),
            ("c3 49 010000000000000000", "a bignum (tag 3)"),
            ("a1 80 01", "byte 1: a key that is neither"),
            ("a1 60 01", "byte 1: an empty key"),
            ("a1 62 2f61 01", "an empty part"),
            ("a1 61 0a 01", "control character"),
            ("f0", "the simple value 16 at `t`"),
            ("f8 ff", "the simple value 255"),
            ("c0 01", "byte 1: tag 0 without"),
            ("c0 61 78", "byte 1: tag 0 without"),
            ("c1 61 78", "byte 1: tag 1 without"),
            ("c4 01", "no array of two whole numbers"),
            ("7a ffffffff 00", "ends within a string"),
            ("9b ffffffffffffffff 00", "ends where an item is due"),
        ] {
            let reason = reason(digits);
            assert!(reason.contains(want), "{digits}: {reason}");
        }
        let deep = format!("{}01", "81".repeat(33));
        assert!(reason(&deep).contains("32 levels"));
        let many = format!("9a 00010001 {}", "01".repeat(65_537));
        assert!(reason(&many).contains("more than 65536 readings"));
        let long = format!("7a 00004001 {}", "61".repeat(16_385));
        assert!(reason(&long).contains("16385 bytes"));
        let name = format!("a1 79 0200 {} 01", "61".repeat(512));
        assert!(reason(&name).contains("514 bytes; 512 are possible"));
    }

    #[test]
    fn a_time_that_cannot_be_read_sets_its_message_aside() {
        let mut harness =
            DecoderHarness::new(cbor).settings(json!({ "time-field": "t", "time-unit": "s" }));
        for (digits, want) in [
            ("a1 6161 01", "`t` is missing"),
            ("01", "`t` is missing"),
            ("a1 6174 f5", "`t` is true, which is no time"),
            (
                "a1 6174 1b 7fffffffffffffff",
                "`t` is 9223372036854775807, which is no time",
            ),
            (
                "a1 6174 fb 7ff8000000000000",
                "`t` is NaN, which is no time",
            ),
            ("a1 6174 6178", "`t` is `x`, which is no time"),
            ("a2 6174 01 6174 02", "occurs twice"),
            ("a1 6174 a1 6174 01", "`t` is missing"),
        ] {
            let outcome = harness.run(&[Received::new("t", 0, &hex(digits))]).unwrap();
            assert!(
                outcome.undecoded[0].1.contains(want),
                "{digits}: {outcome:?}"
            );
        }
    }

    /// Whatever comes, the answer keeps the contract, which the harness looks at, and nothing panics.
    #[test]
    fn damaged_payloads_harm_nobody() {
        let sound = hex(
            "a6 6174 c1 fb 41d452d9e2200000 6161 83 01 f9 3e00 f6 6162 5f 42 0102 41 03 ff 20 c4 82 21 19 6ab3 \
                         6163 bf 6178 7f 6161 6162 ff ff 6164 c0 74 323031332d30332d32315432303a30343a30305a",
        );
        let mut harness = DecoderHarness::new(cbor).settings(json!({ "time-field": "t" }));
        let mut plain = DecoderHarness::new(cbor);
        assert_eq!(
            harness
                .run(&[Received::new("t", 0, &sound)])
                .unwrap()
                .undecoded,
            []
        );
        for case in 0..cases(20_000) {
            let payload = damaged(
                &sound,
                case,
                b"\xff\x00\x5f\x7f\x9f\xbf\xf9\xfb\xc0\xc1\xc4",
            );
            harness.run(&[Received::new("t", 0, &payload)]).unwrap();
            plain.run(&[Received::new("t", 0, &payload)]).unwrap();
        }
    }
}
