//! `as = "binary"`: fields at fixed places.

use tidegate_domain::{Quality, Value};

use super::rows::Rows;
use super::{DecodeConfigError, DecodeFailure};

/// Fields of one layout at most.
pub const BINARY_FIELDS: usize = 1024;

/// One field of a binary message.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryField {
    /// What follows the topic in its series.
    pub name: String,
    /// Where its first byte stands, from 0.
    pub offset: usize,
    /// What it is.
    pub kind: BinaryKind,
    /// Whether its most significant byte comes first.
    pub big_endian: bool,
    /// What it is multiplied by; `None` leaves a whole number whole.
    pub scale: Option<f64>,
}

/// The types of binary fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BinaryKind {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float32,
    Float64,
}

impl BinaryKind {
    /// Bytes of a field.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Bool | Self::Int8 | Self::Uint8 => 1,
            Self::Int16 | Self::Uint16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }
}

/// What a layout makes of messages.
pub(super) struct Layout {
    fields: Vec<BinaryField>,
}

impl Layout {
    pub(super) fn new(fields: Vec<BinaryField>) -> Result<Self, DecodeConfigError> {
        if fields.is_empty() || fields.len() > BINARY_FIELDS {
            return Err(DecodeConfigError::NoFields);
        }
        for (index, field) in fields.iter().enumerate() {
            if fields[..index].iter().any(|other| other.name == field.name) {
                return Err(DecodeConfigError::ColumnTwice {
                    column: field.name.clone(),
                });
            }
        }
        Ok(Self { fields })
    }

    /// A message that is too short for a field fails; what is behind the last field does not matter.
    pub(super) fn decode(&self, payload: &[u8], rows: &mut Rows) -> Result<(), DecodeFailure> {
        for field in &self.fields {
            let end = field.offset.saturating_add(field.kind.width());
            let bytes = payload.get(field.offset..end).ok_or_else(|| {
                DecodeFailure::undecodable(format!(
                    "the message has {} bytes; the field `{}` ends at byte {end}",
                    payload.len(),
                    field.name
                ))
            })?;
            let (value, quality) = field.value(bytes);
            let back = rows.descend();
            rows.path().push_str(&field.name);
            let pushed = rows.push(value, quality);
            rows.ascend(back);
            pushed?;
        }
        Ok(())
    }
}

impl BinaryField {
    fn value(&self, bytes: &[u8]) -> (Value<'static>, Quality) {
        let shift = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
        let bits = if self.big_endian {
            bytes.iter().fold(0, shift)
        } else {
            bytes.iter().rev().fold(0, shift)
        };
        // The sign stands at the top of the field's own bits.
        let unused = 64 - 8 * self.kind.width();
        let signed = (bits << unused).cast_signed() >> unused;
        match self.kind {
            BinaryKind::Bool => (Value::Bool(bits != 0), Quality::Good),
            BinaryKind::Int8 | BinaryKind::Int16 | BinaryKind::Int32 | BinaryKind::Int64 => {
                self.whole(i128::from(signed))
            }
            BinaryKind::Uint8 | BinaryKind::Uint16 | BinaryKind::Uint32 | BinaryKind::Uint64 => {
                self.whole(i128::from(bits))
            }
            BinaryKind::Float32 => {
                let bits = u32::try_from(bits).unwrap_or(u32::MAX);
                self.float(f64::from(f32::from_bits(bits)))
            }
            BinaryKind::Float64 => self.float(f64::from_bits(bits)),
        }
    }

    fn whole(&self, number: i128) -> (Value<'static>, Quality) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "beyond 53 bits it is marked, or scaled as was asked"
        )]
        let near = number as f64;
        match (self.scale, i64::try_from(number)) {
            (Some(_), _) => self.float(near),
            (None, Ok(number)) => (Value::Int(number), Quality::Good),
            (None, Err(_)) => (Value::Float(near), Quality::Uncertain),
        }
    }

    fn float(&self, number: f64) -> (Value<'static>, Quality) {
        let number = self.scale.map_or(number, |scale| number * scale);
        let quality = if number.is_finite() {
            Quality::Good
        } else {
            Quality::Bad
        };
        (Value::Float(number), quality)
    }
}
