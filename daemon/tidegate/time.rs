//! Times as people write and read them.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::parse_duration as duration;

/// Reads a time: RFC 3339 (`2026-11-27T15:04:05Z`), a date (its beginning in UTC), `now`, or a duration before it (`-2h`).
/// `now` is the present, in nanoseconds since the epoch, and so is the result.
///
/// # Errors
/// What to write instead.
pub(crate) fn read(text: &str, now: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(before) = text.strip_prefix('-')
        && let Ok(before) = duration(before)
    {
        let before = i64::try_from(before.as_nanos()).unwrap_or(i64::MAX);
        return Ok(now.saturating_sub(before));
    }
    let time = Timestamp::from_str(text).ok().or_else(|| {
        let date = jiff::civil::Date::from_str(text).ok()?;
        // A date with a time and no zone means one thing here and another there.
        let midnight = (text.len() == "2026-11-27".len()).then_some(date)?;
        Some(midnight.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .ok_or_else(|| {
            format!(
                "`{text}` is no time: write it as 2026-11-27T15:04:05Z, as a date, as \"now\", or as \"-2h\" for two hours ago"
            )
        })
}

/// A time in RFC 3339, UTC, with as many digits as it has. `time` is in nanoseconds since the epoch.
pub(crate) fn show(time: i64) -> String {
    // Every number of nanoseconds in 64 bits is within the years that a timestamp can be in.
    Timestamp::from_nanosecond(i128::from(time))
        .map_or_else(|_| time.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_766_000_000_123_456_789;

    #[test]
    fn times_are_absolute_or_before_now() {
        let check = |text: &str, expect: Option<i64>| {
            assert_eq!(read(text, NOW).ok(), expect, "{text}");
        };
        check("now", Some(NOW));
        check("-2h", Some(NOW - 7_200_000_000_000));
        check("-250ms", Some(NOW - 250_000_000));
        check("1970-01-01T00:00:01.5Z", Some(1_500_000_000));
        check("1970-01-01T01:00:01+01:00", Some(1_000_000_000));
        check("1970-01-02", Some(86_400_000_000_000));
        check("-2 parsecs", None);
        check("yesterday", None);
        check("1970-01-01T00:00:01", None);
        check("", None);
        check("99999-01-01T00:00:00Z", None);
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for time in [0, NOW, -1, 1_766_000_000_000_000_000, i64::MIN, i64::MAX] {
            assert_eq!(read(&show(time), NOW), Ok(time), "{}", show(time));
        }
        assert_eq!(show(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
