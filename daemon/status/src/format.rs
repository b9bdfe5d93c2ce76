//! Numbers as a person reads them: thousands separated, units attached with a space that does not break.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Between a number and its unit: the line must not break there.
const SPACE: char = '\u{a0}';
/// What stands for a figure that there is none of.
pub(crate) const NONE: &str = "–";

/// `1,204,331`.
pub(crate) fn count(value: u64) -> String {
    group(&value.to_string())
}

/// `1 item`, `1,204 items`.
pub(crate) fn counted(value: u64, one: &str, many: &str) -> String {
    let word = if value == 1 { one } else { many };
    format!("{}{SPACE}{word}", count(value))
}

/// `812 B`, `63.2 MiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value}{SPACE}B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be shown as 1,024 of this unit.
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let digits = if scaled < 9.995 {
        2
    } else if scaled < 99.95 {
        1
    } else {
        0
    };
    format!("{}{SPACE}{}", fixed(scaled, digits), UNITS[unit])
}

/// A rate per second: `0`, `0.04`, `3.2`, `412`, `12,800`.
pub(crate) fn rate(value: f64) -> String {
    if !value.is_finite() || value <= 0.0 {
        "0".to_owned()
    } else if value < 0.01 {
        "<\u{2009}0.01".to_owned()
    } else if value < 0.995 {
        fixed(value, 2)
    } else if value < 99.95 {
        fixed(value, 1)
    } else {
        fixed(value, 0)
    }
}

/// A measured value with about five digits: `21.613`, `1,013.2`, `0.00042`, `6.02e23`.
pub(crate) fn measured(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = if size < 0.1 {
        5
    } else if size < 1.0 {
        4
    } else if size < 100.0 {
        3
    } else if size < 10_000.0 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    // 21.600 claims digits that nobody measured.
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    group(text)
}

/// How long something takes or took, with the two largest units: `180 µs`, `4.2 ms`, `42 s`, `3 min`, `2 h 14 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let Ok(duration) = Duration::try_from_secs_f64(seconds) else {
        return NONE.to_owned();
    };
    if duration < Duration::from_nanos(999_500) {
        let digits = usize::from(seconds < 9.95e-6);
        return format!("{}{SPACE}µs", fixed(seconds * 1e6, digits));
    }
    if duration < Duration::from_micros(99_950) {
        return format!("{}{SPACE}ms", fixed(seconds * 1e3, 1));
    }
    if duration < Duration::from_micros(999_500) {
        return format!("{}{SPACE}ms", fixed(seconds * 1e3, 0));
    }
    if duration < Duration::from_millis(9_950) {
        return format!("{}{SPACE}s", fixed(seconds, 1));
    }
    whole(duration.as_secs())
}

/// How long ago something was: `just now`, `3 min ago`.
pub(crate) fn age(seconds: f64) -> String {
    if seconds < 2.0 {
        format!("just{SPACE}now")
    } else {
        let Ok(duration) = Duration::try_from_secs_f64(seconds) else {
            return NONE.to_owned();
        };
        format!("{}{SPACE}ago", whole(duration.as_secs()))
    }
}

/// Whole seconds with the two largest units: `0 s`, `42 s`, `3 min`, `2 h 14 min`, `12 d 4 h`.
pub(crate) fn whole(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{}{SPACE}{large_unit}", count(large))
        } else {
            let large = count(large);
            format!("{large}{SPACE}{large_unit}{SPACE}{small}{SPACE}{small_unit}")
        }
    };
    if minutes == 0 {
        format!("{seconds}{SPACE}s")
    } else if minutes < 10 {
        pair(minutes, "min", seconds % 60, "s")
    } else if hours == 0 {
        format!("{minutes}{SPACE}min")
    } else if days == 0 {
        pair(hours, "h", minutes % 60, "min")
    } else {
        pair(days, "d", hours % 24, "h")
    }
}

/// A moment as seen from another, both in milliseconds: `just now`, `3 min ago`, `in 12 s`.
pub(crate) fn relative(time: i64, now: i64) -> String {
    let distance = whole(time.abs_diff(now) / 1000);
    if time > now && time - now >= 1000 {
        format!("in{SPACE}{distance}")
    } else if now.saturating_sub(time) < 2000 {
        format!("just{SPACE}now")
    } else {
        format!("{distance}{SPACE}ago")
    }
}

/// `2026-03-03T14:02:11Z`, for machines.
pub(crate) fn machine_time(time: i64) -> String {
    strftime(time, "%Y-%m-%dT%H:%M:%SZ")
}

/// `2026-03-03 14:02:11 UTC`, for people.
pub(crate) fn absolute(time: i64) -> String {
    strftime(time, "%Y-%m-%d %H:%M:%S UTC")
}

/// `14:02:11`, UTC.
pub(crate) fn clock(time: i64) -> String {
    strftime(time, "%H:%M:%S")
}

/// The share of `part` in `whole`, in percent, at most 100: `0`, `0.4`, `12`, `100`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let percent = share(part, whole);
    if percent == 0.0 {
        "0".to_owned()
    } else if percent < 0.05 {
        "<\u{2009}0.1".to_owned()
    } else if percent < 9.95 {
        format!("{percent:.1}")
    } else {
        format!("{percent:.0}")
    }
}

/// Likewise as a length of a drawing, for programs to read.
pub(crate) fn width(part: u64, whole: u64) -> String {
    format!("{:.2}", share(part, whole))
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64 * 100.0).min(100.0)
    }
}

/// The first twelve hex digits of a digest; the whole of it goes into a title.
pub(crate) fn short_digest(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

fn strftime(time: i64, format: &str) -> String {
    // A clock that claims a year beyond 9999 is wrong; its number says so better than no answer.
    Timestamp::from_millisecond(time).map_or_else(
        |_| format!("{time} ms"),
        |time| time.to_zoned(TimeZone::UTC).strftime(format).to_string(),
    )
}

fn fixed(value: f64, digits: usize) -> String {
    group(&format!("{value:.digits$}"))
}

/// Thousands separators into the integer part of a decimal number.
fn group(number: &str) -> String {
    let (sign, number) = number
        .strip_prefix('-')
        .map_or(("", number), |number| ("−", number));
    let (integer, fraction) = number
        .find('.')
        .map_or((number, ""), |at| number.split_at(at));
    let mut grouped = String::with_capacity(number.len() + number.len() / 3 + sign.len());
    grouped.push_str(sign);
    for (at, digit) in integer.chars().enumerate() {
        if at > 0 && (integer.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped.push_str(fraction);
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace([SPACE, '\u{2009}'], " ")
    }

    #[test]
    fn counts_and_sizes() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204), "1,204");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(plain(&counted(1, "item", "items")), "1 item");
        let check = |value, expect| assert_eq!(plain(&bytes(value)), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.00 KiB");
        check(1024 * 1024 - 1, "1.00 MiB");
        check(66_270_000, "63.2 MiB");
        check(512 << 20, "512 MiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn rates_and_values() {
        let check = |value, expect| assert_eq!(plain(&rate(value)), expect);
        check(0.0, "0");
        check(f64::NAN, "0");
        check(0.001, "< 0.01");
        check(0.04, "0.04");
        check(0.999, "1.0");
        check(99.94, "99.9");
        check(12_800.4, "12,800");
        let check = |value, expect| assert_eq!(measured(value), expect);
        check(21.6, "21.6");
        check(-40.0, "−40");
        check(1_013.25, "1,013.2");
        check(123_456.7, "123,457");
        check(0.000_42, "0.00042");
        check(6.02e23, "6.020e23");
        check(f64::NAN, "–");
    }

    #[test]
    fn durations_and_times() {
        let check = |value, expect| assert_eq!(plain(&duration(value)), expect);
        check(0.000_006_1, "6.1 µs");
        check(0.000_18, "180 µs");
        check(0.004_21, "4.2 ms");
        check(0.25, "250 ms");
        check(1.26, "1.3 s");
        check(42.9, "42 s");
        check(-1.0, "–");
        let check = |value, expect| assert_eq!(plain(&age(value)), expect);
        check(0.002, "just now");
        check(2.9, "2 s ago");
        check(184.6, "3 min 4 s ago");
        let check = |value, expect| assert_eq!(plain(&whole(value)), expect);
        check(0, "0 s");
        check(184, "3 min 4 s");
        check(600, "10 min");
        check(8_040, "2 h 14 min");
        check(86_400 * 12, "12 d");
        let check = |time, expect| assert_eq!(plain(&relative(time, 1_000_000)), expect);
        check(1_000_000, "just now");
        check(999_000, "just now");
        check(1_000_500, "just now");
        check(1_012_000, "in 12 s");
        check(970_000, "30 s ago");
        check(
            i64::MIN,
            "106751991167 d 7 h ago"
                .replace("106751991167", "106,751,991,167")
                .as_str(),
        );
        assert_eq!(absolute(1_772_546_531_000), "2026-03-03 14:02:11 UTC");
        assert_eq!(machine_time(-1), "1969-12-31T23:59:59Z");
        assert_eq!(absolute(i64::MAX), "9223372036854775807 ms");
    }

    #[test]
    fn shares() {
        assert_eq!(percent(1, 0), "0");
        assert_eq!(percent(1, 300), "0.3");
        assert_eq!(plain(&percent(1, u64::MAX)), "< 0.1");
        assert_eq!(percent(2, 1), "100");
        assert_eq!(width(1, 8), "12.50");
        assert_eq!(width(1, 0), "0.00");
    }
}
