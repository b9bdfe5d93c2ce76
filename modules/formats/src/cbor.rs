//! CBOR (RFC 8949), head by head off a slice.
//!
//! [`Reader::item`] gives one item; of a map, an array and a tag only the head, behind which [`Reader::more`] tells whether
//! there is another entry. How deep to go is the caller's affair; [`crate::DEPTH`] is the bound of all of them.

use std::borrow::Cow;

use crate::Malformed;

/// One item, or the head of one that has others in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<'a> {
    /// A whole number, from -2^64 to 2^64 - 1.
    Integer(i128),
    /// A number of 16, 32 or 64 bits. The text of a smaller one is that of the double it is equal to.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// `null`.
    Null,
    /// `undefined`.
    Undefined,
    /// A simple value that no standard gives a meaning to.
    Simple(u8),
    /// A text, put together where it came in pieces.
    Text(Cow<'a, str>),
    /// Bytes, put together where they came in pieces.
    Bytes(Cow<'a, [u8]>),
    /// An array; its items follow.
    Array(Entries),
    /// A map; its keys and values follow, in turn.
    Map(Entries),
    /// A tag; the item that it is about follows.
    Tag(u64),
}

/// How many entries of a map or an array are to come; `None`: until a "break".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries(Option<u64>);

/// A reader of one payload.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The first byte of an item with its argument.
struct Head {
    /// Where it stands.
    at: usize,
    major: u8,
    /// `None`: of indefinite length, or a "break".
    argument: Option<u64>,
    /// How many bytes the argument has behind the first one.
    width: usize,
}

const BREAK: u8 = 0xff;

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The byte that comes next, from 0.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Reads one item.
    ///
    /// # Errors
    /// What is not well-formed (RFC 8949, section 5.3 and appendix C), and texts that are no UTF-8.
    pub fn item(&mut self) -> Result<Item<'a>, Malformed> {
        let head = self.head()?;
        let Some(argument) = head.argument else {
            return self.indefinite(&head);
        };
        Ok(match head.major {
            0 => Item::Integer(argument.into()),
            1 => Item::Integer(-1 - i128::from(argument)),
            2 => Item::Bytes(self.take(&head, argument)?.into()),
            3 => Item::Text(self.text(&head, argument)?.into()),
            4 => Item::Array(Entries(Some(argument))),
            5 => Item::Map(Entries(Some(argument))),
            6 => Item::Tag(argument),
            _ => simple(&head, argument)?,
        })
    }

    /// Whether another entry is there, to be read next; of a map it is a key with its value.
    ///
    /// # Errors
    /// The end of the payload where an array or map of indefinite length is not closed.
    pub fn more(&mut self, entries: &mut Entries) -> Result<bool, Malformed> {
        match &mut entries.0 {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => match self.bytes.get(self.at) {
                Some(&BREAK) => {
                    self.at += 1;
                    Ok(false)
                }
                Some(_) => Ok(true),
                None => Err(wrong(self.at, "the payload ends within an array or a map")),
            },
        }
    }

    /// Reads the rest of an item that nobody wants. `depth` is how many levels it may have.
    ///
    /// # Errors
    /// As [`Reader::item`], and where it is too deep.
    pub fn skip(&mut self, item: &Item<'_>, depth: usize) -> Result<(), Malformed> {
        let (entries, items) = match item {
            Item::Array(entries) => (*entries, 1),
            Item::Map(entries) => (*entries, 2),
            Item::Tag(_) => (Entries(Some(1)), 1),
            Item::Integer(_)
            | Item::Float(_)
            | Item::Bool(_)
            | Item::Null
            | Item::Undefined
            | Item::Simple(_)
            | Item::Text(_)
            | Item::Bytes(_) => return Ok(()),
        };
        let depth = self.deeper(depth)?;
        let mut entries = entries;
        while self.more(&mut entries)? {
            for _ in 0..items {
                let item = self.item()?;
                self.skip(&item, depth)?;
            }
        }
        Ok(())
    }

    /// One level less.
    ///
    /// # Errors
    /// When there is none left.
    pub fn deeper(&self, depth: usize) -> Result<usize, Malformed> {
        let left = depth.checked_sub(1);
        left.ok_or_else(|| wrong(self.at, "more than 32 levels of arrays, maps and tags"))
    }

    /// A decimal fraction or a bigfloat, behind its tag: the double nearest to `mantissa × base^exponent` (RFC 8949,
    /// section 3.4.4).
    ///
    /// # Errors
    /// What is no array of two whole numbers, and what no double can hold.
    pub fn fraction(&mut self, base: Base) -> Result<f64, Malformed> {
        let at = self.at;
        let form = wrong(
            at,
            "a decimal fraction or bigfloat that is no array of two whole numbers",
        );
        let Item::Array(Entries(Some(2))) = self.item()? else {
            return Err(form);
        };
        let (Item::Integer(exponent), Item::Integer(mantissa)) = (self.item()?, self.item()?)
        else {
            return Err(form);
        };
        // Beyond these every double is zero or infinite, whatever the mantissa.
        let exponent = i32::try_from(exponent.clamp(-2_000, 2_000)).unwrap_or_default();
        let value = match base {
            // The text's value is rounded once.
            Base::Ten => format!("{mantissa}e{exponent}").parse().unwrap_or(f64::NAN),
            Base::Two => times_two_to(mantissa, exponent),
        };
        if value.is_finite() {
            Ok(value)
        } else {
            Err(wrong(at, "a decimal fraction or bigfloat beyond a double"))
        }
    }

    /// # Errors
    /// Where something is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(wrong(self.at, "bytes behind the end of the item"))
        }
    }

    fn head(&mut self) -> Result<Head, Malformed> {
        let at = self.at;
        let end = wrong(at, "the payload ends where an item is due");
        let first = *self.bytes.get(at).ok_or(end)?;
        let info = first & 31;
        let width = match info {
            0..=23 | 31 => 0,
            24..=27 => 1 << (info - 24),
            _ => return Err(wrong(at, "a length of a reserved kind")),
        };
        let rest = &self.bytes[at + 1..];
        let argument = rest.get(..width).ok_or(wrong(
            at,
            "the payload ends within an item's length or number",
        ))?;
        self.at = at + 1 + width;
        let argument = match info {
            0..=23 => Some(info.into()),
            31 => None,
            _ => Some(
                argument
                    .iter()
                    .fold(0, |bits, &byte| bits << 8 | u64::from(byte)),
            ),
        };
        Ok(Head {
            at,
            major: first >> 5,
            argument,
            width,
        })
    }

    fn indefinite(&mut self, head: &Head) -> Result<Item<'a>, Malformed> {
        match head.major {
            2 => Ok(Item::Bytes(self.pieces(head, Self::take)?.into())),
            3 => {
                let pieces = self.pieces(head, |reader, head, length| {
                    Ok(reader.text(head, length)?.as_bytes())
                })?;
                // Every piece is a text of its own.
                let text = String::from_utf8(pieces)
                    .map_err(|_| wrong(head.at, "a text that is no UTF-8"))?;
                Ok(Item::Text(text.into()))
            }
            4 => Ok(Item::Array(Entries(None))),
            5 => Ok(Item::Map(Entries(None))),
            7 => Err(wrong(head.at, "a \"break\" where an item is due")),
            _ => Err(wrong(head.at, "a number or tag of indefinite length")),
        }
    }

    /// What comes in pieces until a "break": each a string of the same kind and of definite length.
    fn pieces(
        &mut self,
        whole: &Head,
        take: impl Fn(&mut Self, &Head, u64) -> Result<&'a [u8], Malformed>,
    ) -> Result<Vec<u8>, Malformed> {
        let mut bytes = Vec::new();
        let mut entries = Entries(None);
        while self.more(&mut entries)? {
            let head = self.head()?;
            match head.argument {
                Some(length) if head.major == whole.major => {
                    bytes.extend_from_slice(take(self, &head, length)?);
                }
                _ => {
                    return Err(wrong(
                        head.at,
                        "a piece of a string that is of another kind",
                    ));
                }
            }
        }
        Ok(bytes)
    }

    fn take(&mut self, head: &Head, length: u64) -> Result<&'a [u8], Malformed> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.bytes[self.at..].get(..length))
            .ok_or(wrong(head.at, "the payload ends within a string"))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn text(&mut self, head: &Head, length: u64) -> Result<&'a str, Malformed> {
        let taken = self.take(head, length)?;
        std::str::from_utf8(taken).map_err(|_| wrong(head.at, "a text that is no UTF-8"))
    }
}

/// Of what a fraction's exponent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// A decimal fraction, tag 4.
    Ten,
    /// A bigfloat, tag 5.
    Two,
}

fn wrong(at: usize, what: &'static str) -> Malformed {
    Malformed { at, what }
}

/// Major type 7.
fn simple(head: &Head, argument: u64) -> Result<Item<'static>, Malformed> {
    let low = u32::try_from(argument & u64::from(u32::MAX)).unwrap_or_default();
    Ok(match (head.width, argument) {
        (0, 20) => Item::Bool(false),
        (0, 21) => Item::Bool(true),
        (0, 22) => Item::Null,
        (0, 23) => Item::Undefined,
        (1, 0..32) => return Err(wrong(head.at, "a simple value in two bytes that has one")),
        (0 | 1, simple) => Item::Simple(u8::try_from(simple).unwrap_or(u8::MAX)),
        (2, half) => Item::Float(from_half(u16::try_from(half).unwrap_or_default())),
        (4, _) => Item::Float(f32::from_bits(low).into()),
        (_, bits) => Item::Float(f64::from_bits(bits)),
    })
}

/// IEEE 754 binary16 (RFC 8949, appendix D).
fn from_half(half: u16) -> f64 {
    let exponent = i32::from(half >> 10 & 31);
    let mantissa = f64::from(half & 1023);
    let magnitude = match exponent {
        0 => times_two_to(1, -24) * mantissa,
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => times_two_to(1, exponent - 25) * (mantissa + 1024.0),
    };
    if half >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// A mantissa of at most 65 bits times two to a power. In two steps, of which only the second one can leave the doubles.
#[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
fn times_two_to(mantissa: i128, exponent: i32) -> f64 {
    let half = exponent / 2;
    mantissa as f64 * 2_f64.powi(half) * 2_f64.powi(exponent - half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEPTH;
    use tidegate_sdk::hash;
    use tidegate_sdk::test::{cases, hex};

    fn read(digits: &str) -> Result<(), Malformed> {
        let bytes = hex(digits);
        let mut reader = Reader::new(&bytes);
        let item = reader.item()?;
        reader.skip(&item, DEPTH)?;
        reader.end()
    }

    /// RFC 8949, appendix F, all of it.
    #[test]
    fn what_is_not_well_formed_is_refused() {
        for digits in [
            // End of input in a head.
            "18",
            "19",
            "1a",
            "1b",
            "19 01",
            "1a 01 02",
            "1b 01 02 03 04 05 06 07",
            "38",
            "58",
            "78",
            "98",
            "9a 01 ff 00",
            "b8",
            "d8",
            "f8",
            "f9 00",
            "fa 00 00",
            "fb 00 00 00",
            // Strings with short data.
            "41",
            "61",
            "5a ff ff ff ff 00",
            "5b ff ff ff ff ff ff ff ff 01 02 03",
            "7a ff ff ff ff 00",
            "7b 7f ff ff ff ff ff ff ff 01 02 03",
            // Maps and arrays not closed with enough items.
            "81",
            "81 81 81 81 81 81 81 81 81",
            "82 00",
            "a1",
            "a2 01 02",
            "a1 00",
            "a2 00 00 00",
            // A tag without content.
            "c0",
            // Strings, maps and arrays without a "break".
            "5f 41 00",
            "7f 61 00",
            "9f",
            "9f 01 02",
            "bf",
            "bf 01 02 01 02",
            "81 9f",
            "9f 80 00",
            "9f 9f 9f 9f 9f ff ff ff ff",
            "9f 81 9f 81 9f 9f ff ff ff",
            // Reserved additional information.
            "1c",
            "1d",
            "1e",
            "3c",
            "3d",
            "3e",
            "5c",
            "5d",
            "5e",
            "7c",
            "7d",
            "7e",
            "9c",
            "9d",
            "9e",
            "bc",
            "bd",
            "be",
            "dc",
            "dd",
            "de",
            "fc",
            "fd",
            "fe",
            // Reserved two-byte encodings of simple values.
            "f8 00",
            "f8 01",
            "f8 18",
            "f8 1f",
            // Pieces of another kind.
            "5f 00 ff",
            "5f 21 ff",
            "5f 61 00 ff",
            "5f 80 ff",
            "5f a0 ff",
            "5f c0 00 ff",
            "5f e0 ff",
            "7f 41 00 ff",
            "5f 5f 41 00 ff ff",
            "7f 7f 61 00 ff ff",
            // A "break" outside of an item of indefinite length.
            "ff",
            "81 ff",
            "82 00 ff",
            "a1 ff",
            "a1 ff 00",
            "a1 00 ff",
            "a2 00 00 ff",
            "9f 81 ff",
            "9f 82 9f 81 9f 9f ff ff ff ff",
            "bf 00 ff",
            "bf 00 00 00 ff",
            // Major types 0, 1 and 6 with additional information 31.
            "1f",
            "3f",
            "df",
            // Beyond the appendix: no item, two items, texts that are no UTF-8.
            "",
            "00 00",
            "61 ff",
            "7f 61 c3 61 a9 ff",
        ] {
            read(digits).expect_err(digits);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}00", "81".repeat(levels));
        read(&nested(DEPTH)).unwrap();
        assert!(
            read(&nested(DEPTH + 1))
                .unwrap_err()
                .what
                .contains("32 levels")
        );
        read(&format!("{}00", "c1".repeat(DEPTH + 1))).unwrap_err();
        read(&"9f".repeat(100_000)).unwrap_err();
    }

    /// RFC 8949, section 3.4.4, and the ends of the doubles.
    #[test]
    fn fractions_are_the_nearest_double() {
        let check = |digits: &str, base, want: Option<f64>| {
            let bytes = hex(digits);
            let got = Reader::new(&bytes).fraction(base);
            assert_eq!(got.ok(), want, "{digits}");
        };
        check("82 21 19 6ab3", Base::Ten, Some(273.15));
        check("82 20 03", Base::Two, Some(1.5));
        check("82 39 07cf 01", Base::Ten, Some(0.0));
        check("82 39 0431 01", Base::Two, Some(5e-324));
        check("82 19 ffff 00", Base::Ten, Some(0.0));
        check("82 19 ffff 01", Base::Ten, None);
        check(
            "82 3b ffffffffffffffff 3b ffffffffffffffff",
            Base::Two,
            Some(-0.0),
        );
        check("82 20", Base::Two, None);
        check("81 20", Base::Two, None);
        check("82 20 f9 3c00", Base::Ten, None);
    }

    /// Whatever comes, it is read to its end or refused, in time linear in its length.
    #[test]
    fn noise_harms_nobody() {
        for case in 0..cases(50_000) {
            let length = usize::try_from(hash::mix(case) % 40).unwrap();
            let bytes: Vec<u8> = (0..length)
                .map(|place| hash::mix(case << 8 | place as u64).to_le_bytes()[0])
                .collect();
            let mut reader = Reader::new(&bytes);
            let result = reader.item().and_then(|item| reader.skip(&item, DEPTH));
            assert!(reader.at() <= bytes.len());
            if let Err(wrong) = result {
                assert!(wrong.at <= bytes.len(), "{wrong}");
            }
        }
    }
}
