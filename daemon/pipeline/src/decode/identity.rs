//! The field by which a message is known when it comes again.
//!
//! It is looked for before the message is decoded: a duplicate must leave no trace in filters. What is found is the text
//! as it stands in the payload, since a message that is sent again is the same bytes: `7`, `7.0` and `"7"` are three.

use std::fmt;

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidegate_domain::limits::PAYLOAD_BYTES;

use super::{As, DecodeConfigError};

/// Finds a message's identity in its payload.
#[derive(Clone, Debug)]
pub struct IdentityField {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Json { path: String },
    Csv { column: usize, separator: u8 },
}

impl IdentityField {
    /// `field` is a path into a JSON object, its keys joined by `/`, or the name of a CSV column.
    ///
    /// # Errors
    /// The format has no such field.
    pub fn new(format: &As, field: &str) -> Result<Self, DecodeConfigError> {
        if field.is_empty() {
            return Err(DecodeConfigError::IdentityEmpty);
        }
        let place = match format {
            As::Json => Place::Json {
                path: field.to_owned(),
            },
            As::Text => return Err(DecodeConfigError::IdentityOfText),
            As::Regex { .. } | As::Binary { .. } | As::Lines => {
                return Err(DecodeConfigError::IdentityNowhere);
            }
            As::Csv { columns, separator } => {
                let column = columns.iter().position(|name| name == field);
                Place::Csv {
                    column: column.ok_or_else(|| DecodeConfigError::IdentityNoColumn {
                        field: field.to_owned(),
                    })?,
                    separator: *separator,
                }
            }
        };
        Ok(Self { place })
    }

    /// The identity in a payload: a number, a text or a boolean in JSON, the field of the first line in CSV. `None` where
    /// there is none, or the payload is not what the source says it is.
    #[must_use]
    pub fn find(&self, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() > PAYLOAD_BYTES {
            return None;
        }
        let payload = payload
            .strip_prefix("\u{FEFF}".as_bytes())
            .unwrap_or(payload);
        match &self.place {
            Place::Json { path } => {
                let mut reader = serde_json::Deserializer::from_slice(payload);
                let found = Step { path }.deserialize(&mut reader).ok()??;
                reader.end().ok()?;
                Some(found.get().as_bytes().to_vec())
            }
            Place::Csv { column, separator } => {
                let reader = ReaderBuilder::new().delimiter(*separator).build();
                csv_field(reader, payload, *column)
            }
        }
    }
}

/// What is left of the way to the field.
struct Step<'p> {
    path: &'p str,
}

impl Step<'_> {
    /// What is left of the way below a key; `None` where the key does not lie on it.
    fn below(&self, key: &str) -> Option<&str> {
        match self.path.strip_prefix(key)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() {
            let found: &'de RawValue = serde::Deserialize::deserialize(reader)?;
            let is_one = !matches!(
                found.get().as_bytes().first(),
                Some(b'{' | b'[' | b'n') | None
            );
            return Ok(Some(found).filter(|found| is_one && found.get() != "\"\""));
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.below(&key) {
                // The first of two keys of one name: the message that comes again has them in the same order.
                Some(path) if found.is_none() => found = map.next_value_seed(Step { path })?,
                Some(_) | None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut index) = (None, 0u32);
        loop {
            let path = self.below(&index.to_string()).filter(|_| found.is_none());
            match path {
                Some(path) => match items.next_element_seed(Step { path })? {
                    Some(value) => found = value,
                    None => return Ok(found),
                },
                None => {
                    if items.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            index = index.saturating_add(1);
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A field of the first line, without quotes and the spaces around it.
fn csv_field(mut reader: Reader, payload: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut field = vec![0; payload.len()];
    let (mut input, mut written, mut column) = (payload, 0, 0);
    loop {
        let (result, taken, bytes) = reader.read_field(input, &mut field[written..]);
        input = &input[taken..];
        written += bytes;
        match result {
            // An empty input afterwards tells the reader that this was all.
            ReadFieldResult::InputEmpty => {}
            ReadFieldResult::OutputFull | ReadFieldResult::End => return None,
            ReadFieldResult::Field { .. } if column == wanted => {
                let found = field[..written].trim_ascii();
                return (!found.is_empty()).then(|| found.to_vec());
            }
            ReadFieldResult::Field { record_end: true } => return None,
            ReadFieldResult::Field { record_end: false } => {
                column += 1;
                written = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: &As, field: &str, payload: &str, expect: Option<&str>) {
        let field = IdentityField::new(format, field).unwrap();
        let found = field.find(payload.as_bytes());
        assert_eq!(
            found.as_deref(),
            expect.map(str::as_bytes),
            "{payload}: {:?}",
            found.as_deref().map(String::from_utf8_lossy)
        );
    }

    #[test]
    fn in_json_it_is_the_text_of_a_single_value() {
        let json = |field, payload, expect| check(&As::Json, field, payload, expect);
        json("id", r#"{"temp":1,"id":7}"#, Some("7"));
        json("id", r#"{"id": 7.0 ,"temp":1}"#, Some("7.0"));
        json("id", r#"{"id":"a-7"}"#, Some(r#""a-7""#));
        json(
            "id",
            r#"{"id":12345678901234567890123}"#,
            Some("12345678901234567890123"),
        );
        json("meta/id", r#"{"id":1,"meta":{"x":[],"id":2}}"#, Some("2"));
        json(
            "meta/1/id",
            r#"{"meta":[{"id":1},{"id":2},{"id":3}]}"#,
            Some("2"),
        );
        json("id", r#"{"id":1,"id":2}"#, Some("1"));
        json("id", "\u{FEFF}{\"id\":1}", Some("1"));
        for none in [
            r#"{"temp":1}"#,
            r#"{"id":null}"#,
            r#"{"id":{"a":1}}"#,
            r#"{"id":[1]}"#,
            r#"{"id":""}"#,
            r#"{"id":1"#,
            r#"{"id":1}x"#,
            "7",
            "true",
            "\"id\"",
            "null",
            "[1,2]",
            "",
            "{\"id\":1,}",
        ] {
            json("id", none, None);
        }
        json("meta/id", r#"{"meta":7}"#, None);
        json("meta/9", r#"{"meta":[1,2]}"#, None);
        json("me", r#"{"meta":1}"#, None);
    }

    #[test]
    fn in_csv_it_is_a_field_of_the_first_line() {
        let csv = As::Csv {
            columns: ["ts", "id", "temp"].map(str::to_owned).to_vec(),
            separator: b';',
        };
        check(&csv, "id", "1;a-7;20\n2;a-8;21\n", Some("a-7"));
        check(&csv, "id", "1;\"a;7\";20", Some("a;7"));
        check(&csv, "temp", "1;2;3", Some("3"));
        check(&csv, "ts", "1", Some("1"));
        for none in ["1;;20", "1; ;20", "1\n2;3;4", "", "\n"] {
            check(&csv, "id", none, None);
        }
    }

    #[test]
    fn a_field_that_cannot_be_is_refused() {
        let columns = As::Csv {
            columns: vec!["a".to_owned()],
            separator: b',',
        };
        for (format, field, expect) in [
            (&As::Json, "", DecodeConfigError::IdentityEmpty),
            (&As::Text, "id", DecodeConfigError::IdentityOfText),
            (
                &columns,
                "id",
                DecodeConfigError::IdentityNoColumn {
                    field: "id".to_owned(),
                },
            ),
        ] {
            assert_eq!(IdentityField::new(format, field).unwrap_err(), expect);
        }
    }
}
