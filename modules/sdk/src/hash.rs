//! Fingerprints of values, for state of fixed width.

use crate::batch::Value;

/// A 64-bit fingerprint of a value, kind included: 1 and 1.0 differ, as do 0.0 and -0.0; NaN equals NaN. Two values
/// share one by chance once in 2^64; nothing protects against somebody who looks for such a pair.
#[must_use]
pub fn value(value: Value<'_>) -> u64 {
    match value {
        Value::Float(number) if number.is_nan() => mix(1),
        Value::Float(number) => mix(mix(2) ^ number.to_bits()),
        Value::Int(number) => mix(mix(3) ^ number.cast_unsigned()),
        Value::Bool(truth) => mix(mix(4) ^ u64::from(truth)),
        Value::Text(text) => mix(mix(5) ^ bytes(text.as_bytes())),
    }
}

/// FNV-1a, 64 bits. Source: Fowler, Noll and Vo, draft-eastlake-fnv.
#[must_use]
pub fn bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads every bit over all others, reversibly. Source: `SplitMix64`, Steele, Lea and Flood, OOPSLA 2014.
#[must_use]
pub fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
