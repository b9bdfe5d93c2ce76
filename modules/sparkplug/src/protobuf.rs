//! Protocol Buffers' wire format, as far as a reader of three messages needs it.
//!
//! Written here instead of generated: the schema has three messages that matter, and a generated reader would build all of
//! a payload before the first metric could be looked at. Source: protobuf.dev, "Encoding".

use formats::Malformed;

/// A field's value, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(Reader<'a>),
    Fixed32(u32),
}

/// A reader of one message, which may lie within another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message begins in the payload.
    base: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            base: 0,
        }
    }

    /// The next field's number and value; `None` at the end.
    ///
    /// # Errors
    /// What is no field.
    pub(crate) fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let begin = self.at;
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(self.wrong(begin, "a field whose number is none of Protocol Buffers"));
        }
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let base = self.base + self.at;
                let bytes = self.take(length)?;
                Wire::Bytes(Reader { bytes, at: 0, base })
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(self.wrong(begin, "a field of a type that Sparkplug does not use")),
        };
        Ok(Some((number, value)))
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn text(&self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes)
            .map_err(|error| self.wrong(error.valid_up_to(), "a text that is no UTF-8"))
    }

    pub(crate) fn wrong(&self, at: usize, what: &'static str) -> Malformed {
        Malformed {
            at: self.base + at,
            what,
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let begin = self.at;
        let mut value = 0;
        for place in 0..10 {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 127);
            if place == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * place);
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(self.wrong(begin, "a number of more than 64 bits"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let end = self.wrong(self.at, "the message ends within a field");
        let taken = self.bytes[self.at..].first_chunk().ok_or(end)?;
        self.at += N;
        Ok(*taken)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.wrong(self.at, "the message ends within a field");
        let taken = self.bytes[self.at..].get(..length).ok_or(end)?;
        self.at += length;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_sdk::test::hex;

    fn read(digits: &str) -> Result<Vec<u64>, Malformed> {
        let bytes = hex(digits);
        let mut reader = Reader::new(&bytes);
        let mut numbers = Vec::new();
        while let Some((number, _)) = reader.field()? {
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// The examples of "Encoding": `150`, `testing`, a message in a message; and the largest number.
    #[test]
    fn fields_are_read() {
        assert_eq!(
            read("08 96 01  12 07 74657374696e67  1a 03 08 96 01"),
            Ok(vec![1, 2, 3])
        );
        let bytes = hex("08 ffffffffffffffffff01 0d 00000040 09 0000000000000040");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.field(), Ok(Some((1, Wire::Varint(u64::MAX)))));
        assert_eq!(reader.field(), Ok(Some((1, Wire::Fixed32(0x4000_0000)))));
        assert_eq!(
            reader.field(),
            Ok(Some((1, Wire::Fixed64(0x4000_0000_0000_0000))))
        );
        assert_eq!(reader.field(), Ok(None));
    }

    #[test]
    fn what_is_no_field_is_refused_with_its_place() {
        for (digits, at, part) in [
            ("08", 1, "ends within"),
            ("08 ff", 2, "ends within"),
            ("08 ffffffffffffffffff02", 1, "more than 64 bits"),
            ("08 ffffffffffffffffffff", 1, "more than 64 bits"),
            ("00", 0, "number is none"),
            ("8080808010 00", 0, "number is none"),
            ("0b", 0, "type that Sparkplug"),
            ("0c", 0, "type that Sparkplug"),
            ("0f", 0, "type that Sparkplug"),
            ("12 02 00", 2, "ends within"),
            ("12 ffffffffffffffffff01 00", 11, "ends within"),
            ("0d 000000", 1, "ends within"),
            ("09 00000000000000", 1, "ends within"),
        ] {
            let wrong = read(digits).expect_err(digits);
            assert!(
                wrong.at == at && wrong.what.contains(part),
                "{digits}: {wrong}"
            );
        }
        let bytes = hex("08 00 12 02 61 ff");
        let mut reader = Reader::new(&bytes);
        reader.field().unwrap();
        let Ok(Some((2, Wire::Bytes(text)))) = reader.field() else {
            panic!("a text");
        };
        assert_eq!(
            text.text().unwrap_err().at,
            5,
            "places are those of the payload"
        );
    }
}
