//! What the model sees of a window. Integers throughout, so that every build gives the same: with the feature `simd` the
//! compiler makes vector instructions of its loops, [`dot`] above all.

use crate::model::{COSINE, SINE};

/// Samples of a window.
pub(crate) const SAMPLES: usize = 64;
/// Numbers that the model sees.
pub(crate) const FEATURES: usize = 16;
/// The last line of the spectrum in each band.
const BANDS: [usize; 12] = [1, 2, 3, 4, 6, 8, 11, 14, 18, 22, 27, 31];

/// The spectrum in twelve bands relative to its whole, crest factor, kurtosis, level, and a constant; each in −127…127.
#[inline(always)]
pub(crate) fn features(window: &[i16; SAMPLES]) -> [i16; FEATURES] {
    let mean = window.iter().map(|&sample| i32::from(sample)).sum::<i32>() >> 6;
    let mut x = window.map(|sample| narrow(i32::from(sample) - mean));
    let mut peak = x
        .iter()
        .map(|sample| sample.unsigned_abs())
        .max()
        .unwrap_or(0)
        .max(1);
    let level = log2(1 + energy(&x));
    // So that nothing below depends on how strong the vibration is.
    let shift = peak.leading_zeros() - 1;
    for sample in &mut x {
        *sample <<= shift;
    }
    peak <<= shift;
    let energy = 1 + energy(&x);
    let fourth = 1 + x
        .iter()
        .map(|&sample| {
            let square = u64::from(sample.unsigned_abs()).pow(2) >> 10;
            square * square
        })
        .sum::<u64>();

    let mut power = [0_u64; COSINE.len()];
    for (power, (cosine, sine)) in power.iter_mut().zip(COSINE.iter().zip(&SINE)) {
        let line = |table| u64::from(dot(table, &x).unsigned_abs()).pow(2);
        *power = line(cosine) + line(sine);
    }
    let total = log2(1 + power.iter().sum::<u64>());
    let mut found = [0; FEATURES];
    let mut first = 0;
    for (band, last) in BANDS.into_iter().enumerate() {
        let of_band: u64 = power[first..last].iter().sum();
        found[band] = byte(64 + log2(1 + of_band) - total);
        first = last;
    }
    let samples = SAMPLES as u64;
    found[12] = byte(2 * (log2(u64::from(peak).pow(2) * samples) - log2(energy)));
    found[13] = byte(2 * (log2(fourth * samples) - 2 * log2((energy >> 10).max(1))));
    found[14] = byte(level - 128);
    found[15] = 64;
    found
}

/// The sum of products. No more than 64 samples by 127 comes together in it, so that 32 bits hold it.
#[inline(always)]
pub(crate) fn dot<const N: usize>(a: &[i16; N], b: &[i16; N]) -> i32 {
    let products = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b));
    products.sum()
}

fn energy(x: &[i16; SAMPLES]) -> u64 {
    x.iter()
        .map(|&sample| u64::from(sample.unsigned_abs()).pow(2))
        .sum()
}

/// Eighths of an octave: the position of the highest bit, and the three bits behind it. `value` is not 0.
#[expect(
    clippy::cast_possible_truncation,
    reason = "63 is the highest position, and 7 the highest number of three bits"
)]
fn log2(value: u64) -> i32 {
    let high = value.ilog2();
    let behind = (u128::from(value) << 3 >> high) & 7;
    i32::from(high as u8) * 8 + i32::from(behind as u8)
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to it")]
fn narrow(sample: i32) -> i16 {
    sample.clamp(-32767, 32767) as i16
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to it")]
fn byte(feature: i32) -> i16 {
    feature.clamp(-127, 127) as i16
}
