//! A payload that an uplink wrote, as JSON, however it was written.

use serde_json::Value;

use super::encoding::{OpenError, open};
use super::json_string;

/// Nesting of what is read, deeper than anything that is written.
const DEPTH: usize = 32;
/// The major types and simple values that are written; see `cbor`.
const MAP: u8 = 5;

/// A payload as JSON: decompressed, and out of CBOR where it is that.
///
/// # Errors
/// It is longer than `most` bytes in clear, or damaged.
pub fn json(payload: &[u8], most: usize) -> Result<Vec<u8>, OpenError> {
    let clear = open(payload, most)?;
    if clear.first().is_none_or(|first| first >> 5 != MAP) {
        return Ok(clear.into_owned());
    }
    let mut reader = Reader {
        input: &clear,
        out: String::new(),
        most,
    };
    match reader.value(DEPTH) {
        Some(()) if reader.input.is_empty() => Ok(reader.out.into_bytes()),
        Some(()) | None if reader.out.len() > most => Err(OpenError::TooLarge { most }),
        Some(()) | None => Err(OpenError::Damaged(
            "it is no CBOR as uplinks write it".to_owned(),
        )),
    }
}

struct Reader<'a> {
    input: &'a [u8],
    out: String,
    most: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.input.split_at_checked(usize::try_from(count).ok()?)?;
        self.input = rest;
        Some(taken)
    }

    /// Major type, and the number with it.
    fn head(&mut self) -> Option<(u8, u8, u64)> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let number = match info {
            0..=23 => u64::from(info),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                bytes
                    .iter()
                    .fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
            28.. => return None,
        };
        Some((major, info, number))
    }

    /// The next value. `None`: none that is written.
    fn value(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let (major, info, number) = self.head()?;
        match (major, info) {
            (0, _) => self.out.push_str(&number.to_string()),
            (1, _) => self.out.push_str(&(-1 - i128::from(number)).to_string()),
            (3, _) => self.text(number)?,
            (4, _) => {
                self.out.push('[');
                for member in 0..number {
                    self.separate(member);
                    self.value(depth)?;
                }
                self.out.push(']');
            }
            (MAP, _) => {
                self.out.push('{');
                for member in 0..number {
                    self.separate(member);
                    let (3, _, length) = self.head()? else {
                        return None;
                    };
                    self.text(length)?;
                    self.out.push(':');
                    self.value(depth)?;
                }
                self.out.push('}');
            }
            (7, 20) => self.out.push_str("false"),
            (7, 21) => self.out.push_str("true"),
            (7, 22) => self.out.push_str("null"),
            (7, 26) => self.float(f64::from(f32::from_bits(u32::try_from(number).ok()?))),
            (7, 27) => self.float(f64::from_bits(number)),
            (_, _) => return None,
        }
        (self.out.len() <= self.most).then_some(())
    }

    fn text(&mut self, length: u64) -> Option<()> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.out.push_str(&json_string(text));
        Some(())
    }

    /// What is not finite is `null`.
    fn float(&mut self, number: f64) {
        self.out.push_str(&Value::from(number).to_string());
    }

    fn separate(&mut self, member: u64) {
        if member > 0 {
            self.out.push(',');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::payload::cbor;

    const DOCUMENT: &str = r#"{"v":1,"items":[{"a":-5,"b":1.5,"c":0.1,"d":null,"e":[true,false,"ä\n\"",[],{}],
        "f":18446744073709551615,"g":-9223372036854775808,"h":[300,70000,5000000000,"0123456789012345678901234567890"]}]}"#;

    fn read(payload: &[u8]) -> Result<Value, String> {
        let text = json(payload, 100_000).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_as_cbor_is_read_as_it_was() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let written = cbor::from_json(DOCUMENT.as_bytes()).unwrap();
        assert_eq!(read(&written).unwrap(), document);
        assert_eq!(read(DOCUMENT.as_bytes()).unwrap(), document);
        for end in 1..written.len() {
            assert!(json(&written[..end], 100_000).is_err(), "{end}");
        }
        assert!(json(&written, 100).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        let deep = cbor::from_json(deep.as_bytes()).unwrap();
        assert!(json(&deep, 100_000).is_err());
        // A length that nobody sent, and one without an end.
        assert!(json(&[0xbb, 255, 255, 255, 255, 255, 255, 255, 255], 1000).is_err());
        assert!(json(&[0xbf, 0xff], 1000).is_err());
        assert_eq!(
            read(&[0xa1, 0x61, b'a', 0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0]).unwrap(),
            json!({"a": null})
        );
    }

    proptest! {
        #[test]
        fn damaged_cbor_harms_nobody(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut written = cbor::from_json(DOCUMENT.as_bytes()).unwrap();
            let at = at.index(written.len());
            written[at] = byte;
            // Refused, or JSON.
            if let Ok(text) = json(&written, 100_000)
                && written[0] >> 5 == MAP
            {
                prop_assert!(serde_json::from_slice::<Value>(&text).is_ok());
            }
        }
    }
}
