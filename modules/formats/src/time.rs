//! Times, as nanoseconds since 1970-01-01T00:00:00Z.

/// Nanoseconds of a second.
pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub const MILLISECOND: i64 = 1_000_000;
/// Nanoseconds of a microsecond: what a double of seconds still holds in this century.
pub const MICROSECOND: i64 = 1_000;

/// So many units of `unit` nanoseconds; `None` outside the years 1677 to 2262.
#[must_use]
pub fn from_integer(value: i128, unit: i64) -> Option<i64> {
    i64::try_from(value).ok()?.checked_mul(unit)
}

/// The same of a double. It is rounded to a microsecond, beyond which a double's digits are none of the time's.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "units are below 2^53, and both parts are within 64 bits"
)]
pub fn from_float(value: f64, unit: i64) -> Option<i64> {
    let whole = value.trunc();
    if !(-9.3e18..=9.3e18).contains(&whole) {
        return None;
    }
    let step = unit.min(MICROSECOND);
    let fraction = (value - whole) * (unit / step) as f64;
    (whole as i64)
        .checked_mul(unit)?
        .checked_add(fraction.round() as i64 * step)
}

/// A text as in RFC 3339, `2026-01-31T12:00:00.5+01:00`. A leap second is the second before it.
#[must_use]
pub fn from_rfc3339(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    sign(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    sign(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    sign(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2)?;
    sign(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    sign(&mut rest, b":")?;
    let second = digits(&mut rest, 2)?;
    let mut nanos = 0;
    if rest.first() == Some(&b'.') {
        rest = &rest[1..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        for place in 0..9 {
            let digit = rest[..count].get(place).map_or(0, |byte| byte - b'0');
            nanos = nanos * 10 + i64::from(digit);
        }
        rest = &rest[count..];
    }
    let offset = match sign(&mut rest, b"Zz+-")? {
        direction @ (b'+' | b'-') => {
            let hours = digits(&mut rest, 2)?;
            sign(&mut rest, b":")?;
            let minutes = digits(&mut rest, 2)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if direction == b'-' { -seconds } else { seconds }
        }
        _ => 0,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let within = (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !within || !rest.is_empty() {
        return None;
    }
    let seconds = day_number(year, month, day) * 86_400 + hour * 3600 + minute * 60;
    (seconds + second.min(59) - offset)
        .checked_mul(SECOND)?
        .checked_add(nanos)
}

/// Days since 1970-01-01. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (taken, behind) = rest.split_at_checked(count)?;
    let number = taken.iter().try_fold(0, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        Some(number * 10 + digit)
    })?;
    *rest = behind;
    Some(number)
}

fn sign(rest: &mut &[u8], one_of: &[u8]) -> Option<u8> {
    let (&first, behind) = rest.split_first()?;
    *rest = behind;
    one_of.contains(&first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_times() {
        assert_eq!(
            from_integer(1_766_000_000, SECOND),
            Some(1_766_000_000 * SECOND)
        );
        assert_eq!(from_integer(i128::from(u64::MAX), 1), None);
        assert_eq!(from_integer(9_300_000_000, SECOND), None);
        assert_eq!(
            from_float(1_276_020_076.001, SECOND),
            Some(1_276_020_076_001_000_000)
        );
        assert_eq!(from_float(-0.5, SECOND), Some(-500_000_000));
        assert_eq!(
            from_float(1_766_000_000_123.5, MILLISECOND),
            Some(1_766_000_000_123_500_000)
        );
        assert_eq!(from_float(1e18, 1), Some(1_000_000_000_000_000_000));
        for none in [f64::NAN, f64::INFINITY, 1e300, -1e19, 9.3e9] {
            assert_eq!(from_float(none, SECOND), None, "{none}");
        }
    }

    #[test]
    fn texts_are_times() {
        let check = |text, want: Option<i64>| assert_eq!(from_rfc3339(text), want, "{text}");
        // RFC 3339, section 5.8, counted with date(1).
        check("1985-04-12T23:20:50.52Z", Some(482_196_050_520_000_000));
        check("1996-12-19T16:39:57-08:00", Some(851_042_397 * SECOND));
        check("1990-12-31T23:59:60Z", Some(662_687_999 * SECOND));
        check(
            "1937-01-01T12:00:27.87+00:20",
            Some(-1_041_337_172_130_000_000),
        );
        check("2000-02-29t00:00:00z", Some(951_782_400 * SECOND));
        check("1970-01-01T00:00:00.1234567899Z", Some(123_456_789));
        for none in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00ZZ",
            "9999-01-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
            "２026-01-01T00:00:00Z",
        ] {
            check(none, None);
        }
    }
}
