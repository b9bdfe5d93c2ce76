//! The form of JSON that is signed: OLPC's canonical JSON, <http://wiki.laptop.org/go/Canonical_JSON>, as python-tuf and
//! tough make it of what they read.

use serde_json::Value;

/// The bytes; `None` for a number that is no integer, which the form does not have.
pub(crate) fn canonical(value: &Value) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    write(value, &mut bytes)?;
    Some(bytes)
}

fn write(value: &Value, to: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => to.extend_from_slice(b"null"),
        Value::Bool(true) => to.extend_from_slice(b"true"),
        Value::Bool(false) => to.extend_from_slice(b"false"),
        Value::Number(number) => {
            let integer = number.is_i64() || number.is_u64();
            integer.then(|| to.extend_from_slice(number.to_string().as_bytes()))?;
        }
        Value::String(text) => string(text, to),
        Value::Array(items) => {
            to.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    to.push(b',');
                }
                write(item, to)?;
            }
            to.push(b']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            to.push(b'{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    to.push(b',');
                }
                string(key, to);
                to.push(b':');
                write(map.get(key)?, to)?;
            }
            to.push(b'}');
        }
    }
    Some(())
}

/// Nothing is escaped but the quotation mark and the backslash.
fn string(text: &str, to: &mut Vec<u8>) {
    to.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            to.push(b'\\');
        }
        to.push(byte);
    }
    to.push(b'"');
}
