//! JSON of which there is one reading. A document that two parsers understand differently is refused before either is
//! asked: RFC 8259 leaves open what a name means that stands twice, and signatures cover what one of them read.

use std::collections::BTreeSet;
use std::fmt;

use olpc_cjson::CanonicalFormatter;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use tough::schema::{Role, Signed};

/// Checks that bytes are one JSON value without a name that stands twice in one object. serde_json bounds the depth by 128.
///
/// # Errors
/// What is wrong, with line and column.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<Once>(bytes)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Checks metadata besides: signatures in the one way to write them, so that no byte of the file can change unseen.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_metadata(bytes: &[u8]) -> Result<(), String> {
    check(bytes)?;
    let outer: Outer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let lower = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    for signature in &outer.signatures {
        if !lower(&signature.keyid) || !lower(&signature.sig) {
            return Err("a signature is not written in lower-case hex digits".to_owned());
        }
    }
    Ok(())
}

/// Checks that tough reads what is written. It judges signatures by what it has read, written again: a time in other letters, or
/// an escape in a name, is the same to it.
///
/// # Errors
/// It reads something else, or nothing.
pub(crate) fn check_reading<T: Role + DeserializeOwned>(bytes: &[u8]) -> Result<(), String> {
    let words = |error: &dyn fmt::Display| error.to_string();
    let outer: Outer = serde_json::from_slice(bytes).map_err(|error| words(&error))?;
    let read: Signed<T> = serde_json::from_slice(bytes).map_err(|error| words(&error))?;
    let mut written = Vec::new();
    let mut canonical =
        serde_json::Serializer::with_formatter(&mut written, CanonicalFormatter::new());
    let done = outer.signed.serialize(&mut canonical);
    done.map_err(|error| words(&error))?;
    let read = read.signed.canonical_form();
    if read.map_err(|error| words(&error))? != written {
        return Err("it is not written in the form in which it was signed".to_owned());
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    signed: serde_json::Value,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

/// Any value; names of an object once each.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Once;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_str<E>(self, _: &str) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Once, A::Error> {
        while items.next_element::<Once>()?.is_some() {}
        Ok(Once)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Once, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            if names.contains(&name) {
                let name = name.escape_debug();
                return Err(de::Error::custom(format_args!("duplicate key `{name}`")));
            }
            names.insert(name);
            entries.next_value::<Once>()?;
        }
        Ok(Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once_at_every_depth() {
        let check = |text: &str, expect: &str| match check(text.as_bytes()) {
            Ok(()) => assert_eq!(expect, "", "{text}"),
            Err(error) => assert!(
                !expect.is_empty() && error.contains(expect),
                "{text}: {error}"
            ),
        };
        check(r#"{"a":1,"b":{"a":[true,null,-1,2.5,"x"]}}"#, "");
        check(r#"{"a":1,"a":1}"#, "duplicate key `a`");
        check(r#"[{"x":{"b":1,"c":2,"b":1}}]"#, "duplicate key `b`");
        // The same name, written in two ways.
        check(r#"{"a":1,"\u0061":2}"#, "duplicate key `a`");
        check(r#"{"a":1} x"#, "trailing");
        check(&"[".repeat(200), "recursion limit");
    }

    #[test]
    fn a_signature_has_one_way_to_be_written() {
        let good = r#"{"signed":{},"signatures":[{"keyid":"0a","sig":"ff"}]}"#;
        assert_eq!(check_metadata(good.as_bytes()), Ok(()));
        for (from, to) in [
            ("ff", "fF"),
            ("0a", "0A"),
            ("\"signed\":{}", "\"signed\":{},\"x\":1"),
        ] {
            assert!(check_metadata(good.replace(from, to).as_bytes()).is_err());
        }
    }
}
