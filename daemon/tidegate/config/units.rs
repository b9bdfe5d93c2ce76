//! Durations and sizes as people write them.

use std::time::Duration;

const DURATIONS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
];

const SIZES: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
/// What to write instead.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            "write a whole number and one of ms, s, m, h, d, w, as in \"250ms\" or \"30d\""
                .to_owned()
        })
}

/// Reads a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`.
///
/// # Errors
/// What to write instead.
pub(super) fn size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| {
        // Powers of ten are refused rather than guessed at: who writes MB may mean either.
        let (number, unit) = split(text);
        let binary = match unit.to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => "KiB",
            "m" | "mb" | "mib" => "MiB",
            "g" | "gb" | "gib" => "GiB",
            "t" | "tb" | "tib" => "TiB",
            "b" | "byte" | "bytes" => "B",
            _ => "",
        };
        if binary.is_empty() || binary == unit || number.parse::<u64>().is_err() {
            "write a whole number and one of B, KiB, MiB, GiB, TiB, as in \"64MiB\"".to_owned()
        } else {
            format!("sizes are powers of 1024: write \"{number}{binary}\"")
        }
    })
}

/// The shortest exact way to write a duration; what is below a millisecond is cut.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // Weeks are understood but not written: "30d" is what people say.
    let (unit, scale) = largest(&DURATIONS[..5], millis);
    format!("{}{unit}", millis / scale)
}

/// The shortest exact way to write a size.
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, scale) = largest(&SIZES, bytes);
    format!("{}{unit}", bytes / scale)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = split(text);
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Splits before the first character that belongs to no number, so that "1.5s" is "1.5" and "s".
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

fn largest<'a>(units: &[(&'a str, u64)], amount: u64) -> (&'a str, u64) {
    units
        .iter()
        .rev()
        .find(|(_, scale)| amount >= *scale && amount.is_multiple_of(*scale))
        .or(units.first())
        .copied()
        .unwrap_or(("", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(
                duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            );
        };
        check("250ms", Some(250));
        check("0s", Some(0));
        check("60 s", Some(60_000));
        check("15m", Some(900_000));
        check("30d", Some(2_592_000_000));
        check("2w", Some(1_209_600_000));
        check("", None);
        check("s", None);
        check("60", None);
        check("1.5s", None);
        check("-1s", None);
        check("1h30m", None);
        check("1 year", None);
        check("18446744073709551615w", None);
    }

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: Result<u64, &str>| {
            assert_eq!(
                size(text)
                    .as_ref()
                    .map_err(|e| e.split(": ").last().unwrap()),
                bytes.as_ref().map_err(|e| *e)
            );
        };
        check("64MiB", Ok(64 << 20));
        check("1 KiB", Ok(1024));
        check("7B", Ok(7));
        check("512MB", Err("write \"512MiB\""));
        check("1g", Err("write \"1GiB\""));
        check(
            "17592186044416TiB",
            Err("write a whole number and one of B, KiB, MiB, GiB, TiB, as in \"64MiB\""),
        );
    }

    #[test]
    fn what_is_shown_reads_back() {
        for millis in [0, 1, 999, 1000, 90_000, 3_600_000, 2_592_000_000] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(value)), Ok(value));
        }
        for bytes in [0, 1, 1023, 1024, 512 << 20, 3 << 40] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_duration(Duration::from_hours(720)), "30d");
    }
}
