//! Times in messages.

/// What the number in a time field counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds since 1970-01-01T00:00:00Z, with or without a fraction.
    Seconds,
    /// Milliseconds since then.
    #[default]
    Millis,
    /// Microseconds since then.
    Micros,
    /// Nanoseconds since then.
    Nanos,
    /// No number: a text as in RFC 3339, `2026-01-31T12:00:00.5+01:00`.
    Rfc3339,
}

impl TimeUnit {
    /// Decimal digits between the unit and nanoseconds.
    fn digits(self) -> Option<i32> {
        match self {
            Self::Seconds => Some(9),
            Self::Millis => Some(6),
            Self::Micros => Some(3),
            Self::Nanos => Some(0),
            Self::Rfc3339 => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Millis => "milliseconds",
            Self::Micros => "microseconds",
            Self::Nanos => "nanoseconds",
            Self::Rfc3339 => "rfc3339",
        }
    }
}

/// Significant digits of a time that are looked at; 36 fit into 128 bits whatever they are.
const DIGITS: usize = 36;

/// Nanoseconds since the epoch from a number as it was written, so that no digit is lost to a double.
pub(super) fn from_number(text: &str, unit: TimeUnit) -> Result<i64, String> {
    let Some(digits) = unit.digits() else {
        return Err(format!(
            "is the number {text}, and `time-unit` is rfc3339; set it to s, ms, us or ns"
        ));
    };
    nanos(text, digits).ok_or_else(|| {
        format!(
            "is {text}, which as {} lies outside the years 1677 to 2262; is `time-unit` right?",
            unit.name()
        )
    })
}

/// Nanoseconds since the epoch from a text: RFC 3339, or a number in quotes.
pub(super) fn from_text(text: &str, unit: TimeUnit) -> Result<i64, String> {
    let text = text.trim_ascii();
    if unit != TimeUnit::Rfc3339
        && super::number::scan(text.as_bytes()).is_some_and(|(length, _)| length == text.len())
    {
        return from_number(text, unit);
    }
    let time: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| {
        let shown: String = text.chars().take(64).collect();
        format!("is `{}`, no RFC 3339 time: {error}", shown.escape_debug())
    })?;
    i64::try_from(time.as_nanosecond())
        .map_err(|_| format!("is {text}, which lies outside the years 1677 to 2262"))
}

/// A decimal number times 10^`digits`, rounded down; `None` where that is beyond 64 bits.
fn nanos(text: &str, digits: i32) -> Option<i64> {
    // Most times are whole.
    if let Ok(whole) = text.parse::<i64>() {
        return whole.checked_mul(10i64.checked_pow(digits.unsigned_abs())?);
    }
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut value: i128 = 0;
    let mut scale = exponent.checked_add(digits)?;
    let mut significant = 0;
    let digits = whole.bytes().zip(std::iter::repeat(false));
    let digits = digits.chain(fraction.bytes().zip(std::iter::repeat(true)));
    for (digit, fractional) in digits {
        if significant == DIGITS {
            // Too small to matter behind the point; before it, the number is too large in any unit.
            if fractional {
                break;
            }
            return None;
        }
        value = value * 10 + i128::from(digit - b'0');
        significant += usize::from(value != 0);
        scale = scale.checked_sub(i32::from(fractional))?;
    }
    if negative {
        value = -value;
    }
    if value == 0 {
        return Some(0);
    }
    let power = 10i128.checked_pow(scale.unsigned_abs());
    let value = match (scale >= 0, power) {
        (true, power) => value.checked_mul(power?)?,
        (false, Some(power)) => value.div_euclid(power),
        (false, None) => {
            if negative {
                -1
            } else {
                0
            }
        }
    };
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, unit: TimeUnit, expect: Result<i64, &str>) {
        let got = from_text(text, unit);
        match (&got, expect) {
            (Ok(got), Ok(expect)) if *got == expect => {}
            (Err(got), Err(part)) if got.contains(part) => {}
            (_, _) => panic!("{text:?} in {unit:?}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn no_digit_of_a_time_is_lost() {
        use TimeUnit::{Micros, Millis, Nanos, Rfc3339, Seconds};
        check("1766000000", Seconds, Ok(1_766_000_000_000_000_000));
        check(
            "1766000000.123456789999",
            Seconds,
            Ok(1_766_000_000_123_456_789),
        );
        check("1.766e9", Seconds, Ok(1_766_000_000_000_000_000));
        check("1766000000123", Millis, Ok(1_766_000_000_123_000_000));
        check("1766000000123.5", Millis, Ok(1_766_000_000_123_500_000));
        check("1766000000123456", Micros, Ok(1_766_000_000_123_456_000));
        check("9223372036854775807", Nanos, Ok(i64::MAX));
        check("-9223372036854775808", Nanos, Ok(i64::MIN));
        check("9223372036854775808", Nanos, Err("years 1677 to 2262"));
        check("1766000000123", Seconds, Err("is `time-unit` right?"));
        check("-0.5", Nanos, Ok(-1));
        check("1e-99999", Seconds, Ok(0));
        check("1e99999", Seconds, Err("outside"));
        check("1e99999999999", Seconds, Err("outside"));
        check("0e99999", Seconds, Ok(0));
        check(&"9".repeat(400), Nanos, Err("outside"));
        check(
            "2025-12-17T19:33:20.000000001Z",
            Millis,
            Ok(1_766_000_000_000_000_001),
        );
        check(
            "2025-12-17T20:33:20+01:00",
            Rfc3339,
            Ok(1_766_000_000_000_000_000),
        );
        check("2025-12-17T19:33:20", Rfc3339, Err("no RFC 3339 time"));
        check("9999-01-01T00:00:00Z", Rfc3339, Err("years 1677 to 2262"));
        check("1766000000", Rfc3339, Err("no RFC 3339 time"));
        check("", Seconds, Err("no RFC 3339 time"));
    }
}
