//! Datatypes, and what a value of one is as a reading (section 6.4.17).

use formats::{float, integer, shown};
use tidegate_sdk::{Quality, Value};

use crate::payload::Raw;

/// A datatype whose values can be readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// So many bits, sent as if they had no sign.
    Signed(u32),
    Unsigned(u32),
    Float,
    Bool,
    Text,
}

/// What a datatype's number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datatype {
    Scalar(Scalar),
    /// One that no reading can hold: bytes, files, datasets, templates, arrays.
    Other(&'static str),
}

const OTHERS: [(u64, &str); 18] = [
    (16, "DataSet"),
    (17, "Bytes"),
    (18, "File"),
    (19, "Template"),
    (20, "PropertySet"),
    (22, "Int8Array"),
    (23, "Int16Array"),
    (24, "Int32Array"),
    (25, "Int64Array"),
    (26, "UInt8Array"),
    (27, "UInt16Array"),
    (28, "UInt32Array"),
    (29, "UInt64Array"),
    (30, "FloatArray"),
    (31, "DoubleArray"),
    (32, "BooleanArray"),
    (33, "StringArray"),
    (34, "DateTimeArray"),
];

impl Datatype {
    /// `None` where Sparkplug has no such number.
    pub(crate) fn of(number: u64) -> Option<Self> {
        let scalar = match number {
            1 => Scalar::Signed(8),
            2 => Scalar::Signed(16),
            3 => Scalar::Signed(32),
            4 => Scalar::Signed(64),
            5 => Scalar::Unsigned(8),
            6 => Scalar::Unsigned(16),
            7 => Scalar::Unsigned(32),
            // DateTime counts milliseconds since the epoch.
            8 | 13 => Scalar::Unsigned(64),
            9 | 10 => Scalar::Float,
            11 => Scalar::Bool,
            // String, Text, UUID.
            12 | 14 | 15 => Scalar::Text,
            _ => {
                let found = OTHERS.iter().find(|(other, _)| *other == number);
                return found.map(|(_, name)| Self::Other(name));
            }
        };
        Some(Self::Scalar(scalar))
    }

    /// That of a value which says by itself what it is; integers do not.
    pub(crate) fn of_value(raw: Raw<'_>) -> Option<Self> {
        match raw {
            Raw::Integer(_) => None,
            Raw::Float(_) => Some(Self::Scalar(Scalar::Float)),
            Raw::Bool(_) => Some(Self::Scalar(Scalar::Bool)),
            Raw::Text(_) => Some(Self::Scalar(Scalar::Text)),
            Raw::Other => Some(Self::Other("bytes")),
        }
    }
}

impl Scalar {
    /// # Errors
    /// A value of another datatype, or beyond this one.
    pub(crate) fn reading(self, raw: Raw<'_>) -> Result<(Value<'_>, Quality), String> {
        match (self, raw) {
            (Self::Signed(bits), Raw::Integer(value)) => {
                let value = signed(value, bits).ok_or_else(|| beyond(value, bits))?;
                Ok((Value::Int(value), Quality::Good))
            }
            (Self::Unsigned(bits), Raw::Integer(value)) => {
                if bits < 64 && value >> bits != 0 {
                    return Err(beyond(value, bits));
                }
                Ok(integer(value.into()))
            }
            (Self::Float, Raw::Float(value)) => Ok(float(value)),
            (Self::Bool, Raw::Bool(value)) => Ok((Value::Bool(value), Quality::Good)),
            (Self::Text, Raw::Text(text)) => Ok((Value::Text(text), Quality::Good)),
            (_, raw) => Err(match raw {
                Raw::Integer(value) => format!("the integer {value} is not of its datatype"),
                Raw::Float(_) => "a float is not of its datatype".to_owned(),
                Raw::Bool(value) => format!("{value} is not of its datatype"),
                Raw::Text(text) => format!("the text `{}` is not of its datatype", shown(text)),
                Raw::Other => "bytes are not of its datatype".to_owned(),
            }),
        }
    }
}

fn beyond(value: u64, bits: u32) -> String {
    format!("{value} does not fit into {bits} bits, as its datatype has")
}

/// Negative numbers are sent as two's complement in a field without a sign: in as many bits as they have, or extended to 32
/// or 64 of them.
fn signed(value: u64, bits: u32) -> Option<i64> {
    let shift = 64 - bits;
    // The sign is the highest of its own bits.
    let number = (value << shift).cast_signed() >> shift;
    let extended = number.cast_unsigned();
    let possible = [
        value >> (bits - 1) >> 1 == 0,
        value == extended,
        value == extended & u64::from(u32::MAX),
    ];
    possible.contains(&true).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_numbers_come_as_unsigned() {
        for (value, bits, want) in [
            (0xff, 8, Some(-1)),
            (0x7f, 8, Some(127)),
            (0xffff_ffff, 8, Some(-1)),
            (0xffff_ff80, 8, Some(-128)),
            (u64::MAX, 8, Some(-1)),
            (0x100, 8, None),
            (0xffff_ff7f, 8, None),
            (0xffff_fe80, 8, None),
            (0x8000, 16, Some(-32_768)),
            (0xffff_8000, 16, Some(-32_768)),
            (0x1_0000, 16, None),
            (0xffff_ffff, 32, Some(-1)),
            (u64::MAX, 32, Some(-1)),
            (0x1_0000_0000, 32, None),
            (u64::MAX, 64, Some(-1)),
            (1 << 63, 64, Some(i64::MIN)),
            (5, 64, Some(5)),
        ] {
            assert_eq!(signed(value, bits), want, "{value:#x} in {bits}");
        }
    }
}
