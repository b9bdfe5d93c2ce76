//! The register map: what stands where, and what its bits mean.

use std::sync::Arc;

use tidegate_domain::{Quality, Value};

/// The four tables of a slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Single bits that can be written.
    Coil,
    /// Single bits.
    Discrete,
    /// Registers of 16 bits.
    Input,
    /// Registers that can be written.
    Holding,
}

impl Table {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }

    /// Whether it holds bits and no registers.
    #[must_use]
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// What one request reads of it at most (Modbus Application Protocol 1.1b3, 6.1 to 6.4).
    #[must_use]
    pub fn most(self) -> u16 {
        if self.is_bits() { 2000 } else { 125 }
    }

    /// The function that reads it.
    pub(super) fn read_function(self) -> u8 {
        match self {
            Self::Coil => 0x01,
            Self::Discrete => 0x02,
            Self::Holding => 0x03,
            Self::Input => 0x04,
        }
    }
}

/// In which order the bytes of a value stand, A being the most significant one. Of values of 16 bits and of texts only the order
/// within a register counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As the protocol sends a register: big-endian throughout.
    Abcd,
    /// Little-endian throughout.
    Dcba,
    /// Registers in order, their bytes swapped.
    Badc,
    /// Registers reversed, their bytes in order.
    Cdab,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    /// A coil or discrete input; of a register, whether it is anything but 0.
    Bool,
    /// One bit of a register, 0 being the least significant one.
    Bit(u8),
    Int8High,
    Int8Low,
    Uint8High,
    Uint8Low,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float16,
    Float32,
    Float64,
    /// Four decimal digits.
    Bcd16,
    /// Eight.
    Bcd32,
    /// Two characters in a register, up to the first NUL, without the blanks at the end.
    Text {
        registers: u8,
    },
}

impl Kind {
    /// Registers of a value; in a table of bits, bits.
    #[must_use]
    pub fn registers(self) -> u16 {
        match self {
            Self::Bool
            | Self::Bit(_)
            | Self::Int8High
            | Self::Int8Low
            | Self::Uint8High
            | Self::Uint8Low
            | Self::Int16
            | Self::Uint16
            | Self::Float16
            | Self::Bcd16 => 1,
            Self::Int32 | Self::Uint32 | Self::Float32 | Self::Bcd32 => 2,
            Self::Int64 | Self::Uint64 | Self::Float64 => 4,
            Self::Text { registers } => u16::from(registers),
        }
    }

    fn is_number(self) -> bool {
        !matches!(self, Self::Bool | Self::Bit(_) | Self::Text { .. })
    }
}

/// One value of a slave.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The series of its readings.
    pub series: Arc<str>,
    /// Of its first register, or its bit, from 0 as it goes over the line.
    pub address: u16,
    /// What it is.
    pub kind: Kind,
    /// How its bytes stand.
    pub order: Order,
    /// What the number is multiplied by. Where this and `offset` are whole numbers, a whole number stays whole.
    pub scale: f64,
    /// What is added after that.
    pub offset: f64,
    /// Whether `tidegate modbus write` may write it.
    pub write: bool,
}

/// A value that was read. NaN, what has no meaning and what is not finite is of bad quality.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The value.
    pub value: Decoded,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// [`Value`] that owns its text.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "those of `Value`")]
pub enum Decoded {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

impl Decoded {
    /// As the rest of the daemon has it.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Float(value) => Value::Float(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Bool(value) => Value::Bool(*value),
            Self::Text(value) => Value::Text(value),
        }
    }
}

/// Why a text cannot be written to a register.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WriteError {
    /// It means nothing for the type.
    #[error("`{text}` is no value of this register: {expected} is expected")]
    NoValue {
        /// What was to be written.
        text: String,
        /// What could be.
        expected: &'static str,
    },
    /// It does not go in.
    #[error(
        "{text} does not fit into this register: it takes {least} to {most}, before scale and offset"
    )]
    Range {
        /// What was to be written.
        text: String,
        /// The least number.
        least: i128,
        /// The greatest.
        most: i128,
    },
    /// Scale and offset leave no whole number.
    #[error("{text} falls between two steps of this register, whose scale is {scale}")]
    Step {
        /// What was to be written.
        text: String,
        /// The scale.
        scale: f64,
    },
    /// Only a part of a register would change.
    #[error("a part of a register cannot be written: somebody else may change the rest meanwhile")]
    Part,
}

impl Point {
    /// The address behind it.
    pub(super) fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.kind.registers())
    }

    /// What a coil or discrete input says.
    pub(super) fn bit(bit: bool) -> Read {
        good(Decoded::Bool(bit))
    }

    /// What registers say; `words` are all of its own.
    #[must_use]
    pub fn read(&self, words: &[u16]) -> Read {
        let first = words.first().copied().unwrap_or_default();
        let [high, low] = self.swapped(first).to_be_bytes();
        match self.kind {
            Kind::Bool => good(Decoded::Bool(first != 0)),
            Kind::Bit(bit) => good(Decoded::Bool(self.swapped(first) >> bit & 1 == 1)),
            Kind::Int8High => self.whole(i128::from(high.cast_signed())),
            Kind::Int8Low => self.whole(i128::from(low.cast_signed())),
            Kind::Uint8High => self.whole(i128::from(high)),
            Kind::Uint8Low => self.whole(i128::from(low)),
            Kind::Int16 | Kind::Int32 | Kind::Int64 => {
                let unused = 64 - 16 * u32::from(self.kind.registers());
                self.whole(i128::from(
                    (self.bits(words) << unused).cast_signed() >> unused,
                ))
            }
            Kind::Uint16 | Kind::Uint32 | Kind::Uint64 => self.whole(i128::from(self.bits(words))),
            Kind::Float16 => self.float(half(self.swapped(first))),
            Kind::Float32 => {
                let bits = u32::try_from(self.bits(words)).unwrap_or(u32::MAX);
                self.float(f64::from(f32::from_bits(bits)))
            }
            Kind::Float64 => self.float(f64::from_bits(self.bits(words))),
            Kind::Bcd16 | Kind::Bcd32 => match self.digits(words) {
                Some(number) => self.whole(number),
                None => bad(),
            },
            Kind::Text { .. } => self.text(words),
        }
    }

    /// The registers that a text becomes, or for a coil one that is not 0 for on.
    ///
    /// # Errors
    /// A text that the register cannot hold.
    pub fn write(&self, text: &str) -> Result<Vec<u16>, WriteError> {
        let no_value = |expected| WriteError::NoValue {
            text: text.to_owned(),
            expected,
        };
        if self.kind.is_number() {
            return self.write_number(text);
        }
        match self.kind {
            Kind::Bool => match text {
                "true" | "on" | "1" => Ok(vec![1]),
                "false" | "off" | "0" => Ok(vec![0]),
                _ => Err(no_value("true or false")),
            },
            Kind::Text { registers } => {
                let mut bytes = text.as_bytes().to_vec();
                if bytes.len() > 2 * usize::from(registers) {
                    return Err(no_value("a text that is no longer than the register"));
                }
                bytes.resize(2 * usize::from(registers), 0);
                let words = bytes
                    .chunks_exact(2)
                    .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                Ok(words.map(|word| self.swapped(word)).collect())
            }
            Kind::Bit(_)
            | Kind::Int8High
            | Kind::Int8Low
            | Kind::Uint8High
            | Kind::Uint8Low
            | Kind::Int16
            | Kind::Uint16
            | Kind::Int32
            | Kind::Uint32
            | Kind::Int64
            | Kind::Uint64
            | Kind::Float16
            | Kind::Float32
            | Kind::Float64
            | Kind::Bcd16
            | Kind::Bcd32 => Err(WriteError::Part),
        }
    }

    fn write_number(&self, text: &str) -> Result<Vec<u16>, WriteError> {
        let no_value = || WriteError::NoValue {
            text: text.to_owned(),
            expected: "a number",
        };
        let (least, most): (i128, i128) = match self.kind {
            Kind::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Kind::Uint16 => (0, u16::MAX.into()),
            Kind::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Kind::Uint32 => (0, u32::MAX.into()),
            Kind::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Kind::Uint64 => (0, u64::MAX.into()),
            Kind::Bcd16 => (0, 9999),
            Kind::Bcd32 => (0, 99_999_999),
            Kind::Float32 | Kind::Float64 => {
                let number: f64 = text.parse().map_err(|_| no_value())?;
                let number = (number - self.offset) / self.scale;
                if !number.is_finite() {
                    return Err(no_value());
                }
                let bits = if self.kind == Kind::Float64 {
                    number.to_bits()
                } else {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "the register is no longer"
                    )]
                    let short = number as f32;
                    if !short.is_finite() {
                        return Err(no_value());
                    }
                    u64::from(short.to_bits())
                };
                return Ok(self.words(bits));
            }
            Kind::Bool
            | Kind::Bit(_)
            | Kind::Int8High
            | Kind::Int8Low
            | Kind::Uint8High
            | Kind::Uint8Low
            | Kind::Float16
            | Kind::Text { .. } => return Err(WriteError::Part),
        };
        // Whole numbers without scale never go through a double.
        let plain = self.scale.to_bits() == 1.0f64.to_bits() && self.offset == 0.0;
        let number: i128 = match text.parse() {
            Ok(number) if plain => number,
            _ => {
                let number: f64 = text.parse().map_err(|_| no_value())?;
                let steps = (number - self.offset) / self.scale;
                if !steps.is_finite() || (steps - steps.round()).abs() > 1e-6 {
                    return Err(WriteError::Step {
                        text: text.to_owned(),
                        scale: self.scale,
                    });
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "it saturates, and is checked"
                )]
                let steps = steps.round() as i128;
                steps
            }
        };
        if !(least..=most).contains(&number) {
            return Err(WriteError::Range {
                text: text.to_owned(),
                least,
                most,
            });
        }
        let bits = if matches!(self.kind, Kind::Bcd16 | Kind::Bcd32) {
            let digit = |place: u32| u64::try_from(number / 10i128.pow(place) % 10).unwrap_or(0);
            (0..8).fold(0, |bits, place| bits | digit(place) << (4 * place))
        } else {
            // The low bits of a negative number are its two's complement.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "in range, as its bits"
            )]
            let bits = number as u64;
            bits
        };
        Ok(self.words(bits))
    }

    /// The bits of up to four registers, the first byte being the most significant one.
    fn bits(&self, words: &[u16]) -> u64 {
        let fold = |bits: u64, word: &u16| bits << 16 | u64::from(self.swapped(*word));
        if self.reversed() {
            words.iter().rev().fold(0, fold)
        } else {
            words.iter().fold(0, fold)
        }
    }

    /// The inverse of `bits`.
    fn words(&self, bits: u64) -> Vec<u16> {
        let bytes = bits.to_be_bytes();
        let words = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let skip = 4usize.saturating_sub(usize::from(self.kind.registers()));
        let mut words: Vec<u16> = words.skip(skip).map(|word| self.swapped(word)).collect();
        if self.reversed() {
            words.reverse();
        }
        words
    }

    fn swapped(&self, word: u16) -> u16 {
        match self.order {
            Order::Abcd | Order::Cdab => word,
            Order::Badc | Order::Dcba => word.swap_bytes(),
        }
    }

    fn reversed(&self) -> bool {
        matches!(self.order, Order::Cdab | Order::Dcba)
    }

    /// Binary coded decimals; `None` where a digit is beyond 9.
    fn digits(&self, words: &[u16]) -> Option<i128> {
        let bits = self.bits(words);
        (0..16).rev().try_fold(0, |number, place| {
            let digit = i128::from(bits >> (4 * place) & 0xF);
            (digit <= 9).then_some(number * 10 + digit)
        })
    }

    fn text(&self, words: &[u16]) -> Read {
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| self.swapped(*word).to_be_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        match String::from_utf8(bytes) {
            Ok(text) => good(Decoded::Text(text.trim_end().to_owned())),
            // Letters of Latin-1, or nothing at all.
            Err(error) => Read {
                value: Decoded::Text(
                    error
                        .as_bytes()
                        .iter()
                        .map(|byte| char::from(*byte))
                        .collect(),
                ),
                quality: Quality::Uncertain,
            },
        }
    }

    fn whole(&self, number: i128) -> Read {
        let whole = |number: f64| number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
        if whole(self.scale) && whole(self.offset) {
            #[expect(clippy::cast_possible_truncation, reason = "whole numbers below 2^53")]
            let (scale, offset) = (self.scale as i128, self.offset as i128);
            // Below 2^117.
            let number = number * scale + offset;
            return match i64::try_from(number) {
                Ok(number) => good(Decoded::Int(number)),
                // Beyond what a reading holds: the nearest double, and marked.
                #[expect(clippy::cast_precision_loss, reason = "it is marked")]
                Err(_) => Read {
                    value: Decoded::Float(number as f64),
                    quality: Quality::Uncertain,
                },
            };
        }
        #[expect(clippy::cast_precision_loss, reason = "scaled as was asked")]
        self.float(number as f64)
    }

    fn float(&self, number: f64) -> Read {
        // 0.01 is no double, but 100 is: 12345 becomes 123.45 and not 123.45000000000002.
        let divisor = 1.0 / self.scale;
        let scaled = if divisor.fract() == 0.0 {
            number / divisor
        } else {
            number * self.scale
        };
        let number = scaled + self.offset;
        if number.is_finite() {
            good(Decoded::Float(number))
        } else {
            Read {
                value: Decoded::Float(number),
                quality: Quality::Bad,
            }
        }
    }
}

fn good(value: Decoded) -> Read {
    Read {
        value,
        quality: Quality::Good,
    }
}

/// A reading without a value.
pub(super) fn bad() -> Read {
    Read {
        value: Decoded::Float(f64::NAN),
        quality: Quality::Bad,
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3FF);
    let magnitude = match bits >> 10 & 0x1F {
        0 => fraction * 2f64.powi(-24),
        0x1F if fraction == 0.0 => f64::INFINITY,
        0x1F => f64::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests;
