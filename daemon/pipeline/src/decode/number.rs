//! Decimal numbers as text.

use tidegate_domain::{Quality, Value};

/// The longest number at the beginning of a text: its length in bytes, and whether it is whole, without a fraction or
/// an exponent. Accepts what people and devices write: a plus sign, leading zeros, no digit on one side of the point.
pub(super) fn scan(text: &[u8]) -> Option<(usize, bool)> {
    let digits = |from: usize| {
        text.get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let before = digits(at);
    at += before;
    let mut whole = true;
    if text.get(at) == Some(&b'.') {
        let after = digits(at + 1);
        if before + after == 0 {
            return None;
        }
        at += 1 + after;
        whole = false;
    } else if before == 0 {
        return None;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        // Without digits it is the beginning of a unit: `3 eV`.
        if exponent > 0 {
            at += 1 + sign + exponent;
            whole = false;
        }
    }
    Some((at, whole))
}

/// The value of a number that [`scan`] has found, and how far it can be trusted.
pub(super) fn value(text: &str, whole: bool) -> (Value<'static>, Quality) {
    // `-0` has a sign to keep, which integers have no room for.
    if whole
        && let Ok(value) = text.parse::<i64>()
        && !(value == 0 && text.starts_with('-'))
    {
        return (Value::Int(value), Quality::Good);
    }
    // The grammar of `scan` is within that of `f64`.
    let value: f64 = text.parse().unwrap_or(f64::NAN);
    let quality = if !value.is_finite() {
        Quality::Bad
    } else if whole && value != 0.0 {
        Quality::Uncertain
    } else {
        Quality::Good
    };
    (Value::Float(value), quality)
}
