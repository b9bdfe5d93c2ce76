//! A JSON document as CBOR (RFC 8949), value by value, without a tree of it in memory.
//!
//! The same document gives the same bytes for ever: members keep their order, lengths are definite, integers and lengths
//! take the shortest form. A number with a point or an exponent is a float, of 32 bits where that loses nothing, and one
//! without is an integer of up to 64 bits, whole.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Major types, in the upper three bits of the first byte.
const UNSIGNED: u8 = 0 << 5;
const NEGATIVE: u8 = 1 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
/// Simple values and floats, whole.
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const FLOAT_32: u8 = 0xfa;
const FLOAT_64: u8 = 0xfb;

/// The document as CBOR.
///
/// # Errors
/// It is no JSON.
pub(super) fn from_json(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(json.len());
    let mut document = serde_json::Deserializer::from_slice(json);
    Write(&mut out).deserialize(&mut document)?;
    document.end()?;
    Ok(out)
}

/// Writes the value that it is given.
struct Write<'a>(&'a mut Vec<u8>);

impl Write<'_> {
    fn head(&mut self, major: u8, number: u64) {
        let (bytes, length) = head(major, number);
        self.0.extend_from_slice(&bytes[..length]);
    }

    fn text(&mut self, text: &str) {
        self.head(TEXT, length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Puts the head before what was written since `at`, now that the number of members is known.
    fn close(&mut self, at: usize, major: u8, members: u64) {
        let (bytes, length) = head(major, members);
        self.0.splice(at..at, bytes[..length].iter().copied());
    }
}

/// Type and number in the shortest form, and its length.
fn head(major: u8, number: u64) -> ([u8; 9], usize) {
    let mut bytes = [0; 9];
    let be = number.to_be_bytes();
    let (info, length) = match number {
        // In the first byte itself.
        0..=23 => (be[7], 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        0x1_0000_0000.. => (27, 8),
    };
    bytes[0] = major | info;
    bytes[1..=length].copy_from_slice(&be[8 - length..]);
    (bytes, 1 + length)
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl<'de> DeserializeSeed<'de> for Write<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Write<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(NULL);
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.head(UNSIGNED, value);
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        match u64::try_from(value) {
            Ok(value) => self.head(UNSIGNED, value),
            // CBOR counts them down from -1.
            Err(_) => self.head(NEGATIVE, value.unsigned_abs() - 1),
        }
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "taken only where it loses nothing"
        )]
        let short = value as f32;
        if f64::from(short).to_bits() == value.to_bits() {
            self.0.push(FLOAT_32);
            self.0.extend_from_slice(&short.to_be_bytes());
        } else {
            self.0.push(FLOAT_64);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.text(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let (at, mut count) = (self.0.len(), 0);
        while members.next_element_seed(Write(self.0))?.is_some() {
            count += 1;
        }
        self.close(at, ARRAY, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let (at, mut count) = (self.0.len(), 0);
        while members.next_key_seed(Write(self.0))?.is_some() {
            members.next_value_seed(Write(self.0))?;
            count += 1;
        }
        self.close(at, MAP, count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_standard_s_examples() {
        let check = |json: &str, hex: &str| {
            let bytes = from_json(json.as_bytes()).unwrap();
            let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, hex, "{json}");
        };
        // RFC 8949, appendix A, but for the floats of 16 bits.
        check("0", "00");
        check("23", "17");
        check("24", "1818");
        check("1000000", "1a000f4240");
        check("18446744073709551615", "1bffffffffffffffff");
        check("-1", "20");
        check("-9223372036854775808", "3b7fffffffffffffff");
        check("1.1", "fb3ff199999999999a");
        check("100000.0", "fa47c35000");
        check("21.0", "fa41a80000");
        check("[false, true, null]", "83f4f5f6");
        check(r#""ü""#, "62c3bc");
        check(r#"{"a": 1, "b": [2, 3]}"#, "a26161016162820203");
        check(r#"{"b": {}, "a": []}"#, "a26162a0616180");
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-40i64..400).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<f32>().prop_map(|value| Value::from(f64::from(value))),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 30, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..30).prop_map(Value::from),
                proptest::collection::btree_map(".{0,8}", inner, 0..30).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_reader_finds_the_same_document(document in document()) {
            let json = document.to_string();
            let cbor = from_json(json.as_bytes()).unwrap();
            let read: Value = ciborium::from_reader(cbor.as_slice()).unwrap();
            // What JSON cannot say of a float (not finite) it said as null already.
            let said: Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read, said);
        }
    }
}
