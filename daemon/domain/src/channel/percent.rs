//! A part of the gateways.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A part of the gateways, 0.01 to 100 percent, in steps of 0.01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

/// A text that is no such part.
#[derive(Debug, thiserror::Error)]
#[error("a part of the gateways is 0.01 to 100 percent, with at most two digits behind the point")]
pub struct BadPercent;

impl Percent {
    /// All of them.
    pub const ALL: Self = Self(Self::MOST);
    const MOST: u16 = 10_000;

    /// In hundredths of a percent, 1 to 10,000: as many [places](crate::install::place) are in it.
    #[must_use]
    pub fn places(self) -> u16 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = BadPercent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| {
            !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit())
        };
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(BadPercent);
        }
        let whole: u16 = whole.parse().map_err(|_| BadPercent)?;
        let hundredths: u16 = format!("{part:0<2}").parse().map_err(|_| BadPercent)?;
        let places = whole * 100 + hundredths;
        (1..=Self::MOST)
            .contains(&places)
            .then_some(Self(places))
            .ok_or(BadPercent)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match (part, part % 10) {
            (0, _) => write!(f, "{whole}"),
            (_, 0) => write!(f, "{whole}.{}", part / 10),
            (_, _) => write!(f, "{whole}.{part:02}"),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // A whole number is written as one, as every reader of before expects it.
        if self.0.is_multiple_of(100) {
            to.serialize_u16(self.0 / 100)
        } else {
            to.serialize_f64(f64::from(self.0) / 100.0)
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(from)?;
        number.to_string().parse().map_err(serde::de::Error::custom)
    }
}
