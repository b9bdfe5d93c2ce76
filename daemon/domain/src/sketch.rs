//! Quantiles of a stream in bounded memory: exact for few values, then a DDSketch.
//!
//! Source: Ch. Masson, J. E. Rim, H. K. Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
//! Relative-Error Guarantees", PVLDB 12(12), 2019. Own code rather than `sketches-ddsketch` 0.4, whose stores are
//! dense: the first value costs 1 KiB, mixed signs 2 KiB, so that 50,000 open windows would take 50 to 100 MB. It
//! also calls the platform's `ln`, which is slower and not the same on every machine.
//!
//! **Error.** Up to [`EXACT_VALUES`] values the quantile is exact. Beyond, it is off by at most 1 % of itself,
//! unless the values occupy more than [`MAX_BINS`] bins. Then those of least magnitude count as zero. They are at
//! least 150 times smaller than the largest magnitude in the sketch (20,000 times where all have one sign), and so
//! is the error; a larger quantile keeps its 1 %. The paper folds upwards, into the lowest bin that is kept; folding
//! into zero keeps a true zero, the value of an idle sensor, exact. Subnormal numbers count as zero too.

/// Values that are kept as they are, 8 bytes each.
pub const EXACT_VALUES: usize = 32;

/// Bins of a sketch, 8 bytes each: 4 KiB at the most. A sensor whose values stay within 10 % needs about ten.
pub const MAX_BINS: usize = 512;

/// A quantile sketch.
#[derive(Clone, Debug)]
pub struct Sketch(Form);

#[derive(Clone, Debug)]
enum Form {
    Exact(Vec<f64>),
    Bins(Box<Bins>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self::new()
    }
}

impl Sketch {
    /// An empty sketch; it allocates with its first value.
    #[must_use]
    pub fn new() -> Self {
        Self(Form::Exact(Vec::new()))
    }

    /// Adds a value. What is not finite has no place among quantiles and is left out.
    #[inline]
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        match &mut self.0 {
            Form::Bins(bins) => bins.add(key(value), 1),
            Form::Exact(values) if values.len() < EXACT_VALUES => values.push(value),
            Form::Exact(values) => {
                let mut bins = Box::new(Bins::default());
                for &value in values.iter().chain([&value]) {
                    bins.add(key(value), 1);
                }
                self.0 = Form::Bins(bins);
            }
        }
    }

    /// The value that `percent` of the values do not exceed, within the stated error: by nearest rank, the
    /// ⌈n·percent/100⌉-th in ascending order, the first at least. `None` when there is no value. Above 100 counts
    /// as 100.
    #[must_use]
    pub fn quantile(&self, percent: u8) -> Option<f64> {
        match &self.0 {
            Form::Exact(values) => {
                let rank = nearest_rank(values.len() as u64, percent)?;
                let mut sorted = [0.0; EXACT_VALUES];
                let sorted = &mut sorted[..values.len()];
                sorted.copy_from_slice(values);
                sorted.sort_unstable_by(f64::total_cmp);
                sorted.get(usize::try_from(rank).ok()?).copied()
            }
            Form::Bins(bins) => bins.quantile(percent),
        }
    }
}

/// Rank from 0.
fn nearest_rank(count: u64, percent: u8) -> Option<u64> {
    let rank = (u128::from(count) * u128::from(percent.min(100))).div_ceil(100);
    count.checked_sub(1)?;
    u64::try_from(rank.max(1) - 1).ok()
}

/// Occupied bins in ascending order of their values. A bin is one word, its key above its count, so that words sort
/// as keys do.
#[derive(Clone, Debug, Default)]
struct Bins {
    words: Vec<u64>,
    /// Keys up to this magnitude count as zero.
    floor: u32,
}

/// Bits of a bin's count. 2^46 values, 22 years at 100,000 a second, then the count stays where it is.
const COUNT_BITS: u32 = 46;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// Added to a key to make it a natural number; keys lie within ±71,611.
const KEY_BIAS: i32 = 1 << 17;

impl Bins {
    fn add(&mut self, key: i32, count: u64) {
        loop {
            let key = if key.unsigned_abs() <= self.floor {
                0
            } else {
                key
            };
            let place = self.words.partition_point(|&word| key_of(word) < key);
            let full = self.words.len() >= MAX_BINS;
            match self.words.get_mut(place) {
                Some(word) if key_of(*word) == key => {
                    *word += count.min(COUNT_MAX - count_of(*word));
                    return;
                }
                _ if full => self.fold(),
                _ => {
                    self.words.insert(place, word(key, count));
                    return;
                }
            }
        }
    }

    /// Makes the bin of least magnitude part of the zero bin, which may have to be made of it.
    fn fold(&mut self) {
        let positive = self.words.partition_point(|&word| key_of(word) <= 0);
        let negative = self.words.partition_point(|&word| key_of(word) < 0);
        let magnitude = |place: usize| {
            self.words
                .get(place)
                .map_or(u32::MAX, |&word| key_of(word).unsigned_abs())
        };
        let below = negative.checked_sub(1);
        let place = match below {
            Some(below) if magnitude(below) < magnitude(positive) => below,
            _ => positive,
        };
        if place < self.words.len() {
            let least = self.words.remove(place);
            self.floor = key_of(least).unsigned_abs();
            let zero = self.words.partition_point(|&word| key_of(word) < 0);
            match self.words.get_mut(zero) {
                Some(word) if key_of(*word) == 0 => {
                    *word += count_of(least).min(COUNT_MAX - count_of(*word));
                }
                _ => self.words.insert(zero, word(0, count_of(least))),
            }
        }
    }

    fn quantile(&self, percent: u8) -> Option<f64> {
        let total = self.words.iter().map(|&word| count_of(word)).sum();
        let rank = nearest_rank(total, percent)?;
        let mut below = 0;
        let word = self.words.iter().find(|&&word| {
            below += count_of(word);
            below > rank
        })?;
        Some(value_of(key_of(*word)))
    }
}

fn word(key: i32, count: u64) -> u64 {
    // The sum is positive: see `KEY_BIAS`.
    u64::from((key + KEY_BIAS).unsigned_abs()) << COUNT_BITS | count
}

fn key_of(word: u64) -> i32 {
    (word >> COUNT_BITS) as i32 - KEY_BIAS
}

fn count_of(word: u64) -> u64 {
    word & COUNT_MAX
}

// The key of a value is a binary logarithm in steps whose fraction is a cubic in the mantissa. Its slope against the
// natural logarithm is never below 10/7, where 1/ln 2 = 1.443 would be exact: a bin is at most (7/10)/STEPS = 0.02
// wide, and the error tanh(0.01) < 1 %. This needs 1 % more bins than the logarithm itself, takes a few nanoseconds,
// and is the same on every machine. Source: the authors' `CubicallyInterpolatedMapping` (sketches-java).
const CUBIC: [f64; 3] = [6.0 / 35.0, -3.0 / 5.0, 10.0 / 7.0];
/// Bins to a factor of two.
const STEPS: i32 = 35;
/// Makes the key of the least normal double 1.
const KEY_SHIFT: i32 = 1022 * STEPS + 1;

/// The bin of a finite value: 0 for zero and for what is closer to it than any normal double, then outwards.
#[inline]
fn key(value: f64) -> i32 {
    let magnitude = value.abs();
    if magnitude < f64::MIN_POSITIVE {
        return 0;
    }
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1.0f64.to_bits());
    let log = fraction(mantissa - 1.0) + f64::from(exponent);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within ±35,840, and rounded down before"
    )]
    let steps = (log * f64::from(STEPS)).floor() as i32;
    let key = steps + KEY_SHIFT;
    if value < 0.0 { -key } else { key }
}

/// The value that stands for a bin: its harmonic middle, whose relative error is the same at both ends.
fn value_of(key: i32) -> f64 {
    if key == 0 {
        return 0.0;
    }
    let low = lower_bound(key.abs());
    let high = lower_bound(key.abs() + 1).min(f64::MAX);
    let middle = (2.0 / (1.0 / low + 1.0 / high)).min(f64::MAX);
    if key < 0 { -middle } else { middle }
}

/// The least magnitude of a bin; infinite for the bin after the last.
fn lower_bound(key: i32) -> f64 {
    let steps = key - KEY_SHIFT;
    let exponent = steps.div_euclid(STEPS);
    let wanted = f64::from(steps.rem_euclid(STEPS)) / f64::from(STEPS);
    // Newton's steps, as the closed form needs a cube root, which is not the same on every machine. The first guess
    // is off by less than 0.1, and every step squares that.
    let mut mantissa = wanted;
    for _ in 0..5 {
        mantissa -= (fraction(mantissa) - wanted) / slope(mantissa);
    }
    let power = f64::from_bits(u64::from((exponent + 1023).unsigned_abs()) << 52);
    (1.0 + mantissa) * power
}

#[inline]
fn fraction(mantissa: f64) -> f64 {
    let [a, b, c] = CUBIC;
    ((a * mantissa + b) * mantissa + c) * mantissa
}

/// The derivative of `fraction`: nowhere below 0.7 in an octave.
fn slope(mantissa: f64) -> f64 {
    let [a, b, c] = CUBIC;
    (3.0 * a * mantissa + 2.0 * b) * mantissa + c
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every quantile is within the stated error of the true one, and the memory within its bound.
    #[track_caller]
    fn check(values: &[f64]) {
        let mut sketch = Sketch::new();
        values.iter().for_each(|&value| sketch.add(value));
        if let Form::Bins(bins) = &sketch.0 {
            assert!(bins.words.capacity() <= MAX_BINS);
            assert!(bins.words.is_sorted());
        }

        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let largest = values
            .iter()
            .fold(0.0, |max: f64, value| max.max(value.abs()));
        for percent in 0..=100_u8 {
            let rank = (values.len() * usize::from(percent)).div_ceil(100).max(1);
            let exact = sorted[rank - 1];
            let found = sketch.quantile(percent).unwrap();
            let error = (found - exact).abs();
            let stated = if values.len() <= EXACT_VALUES {
                0.0
            } else if exact.abs() > largest / 150.0 {
                // A rounded key may put a value at the very edge of a bin into its neighbour.
                0.01 * exact.abs() * (1.0 + 1e-9)
            } else {
                exact.abs().max(f64::MIN_POSITIVE)
            };
            assert!(
                error <= stated,
                "p{percent} of {} values: {found:e} for {exact:e}",
                values.len()
            );
        }
    }

    fn numbers(count: u32) -> impl Iterator<Item = f64> {
        // Weyl's sequence: evenly distributed and the same on every run.
        (1..=count).map(|i| (f64::from(i) * 0.618_033_988_749_894_9).fract())
    }

    #[test]
    fn quantiles_are_within_the_stated_error() {
        check(&[3.5]);
        check(&numbers(32).collect::<Vec<_>>());
        check(&numbers(33).map(|x| 20.0 + x).collect::<Vec<_>>());
        check(&vec![21.5; 1000]);
        check(&vec![0.0; 1000]);
        check(&(0..5000).map(f64::from).collect::<Vec<_>>());
        check(&numbers(5000).map(|x| -30.0 - x).collect::<Vec<_>>());
        let exponential = numbers(5000).map(|x| -(1.0 - x).ln());
        check(&exponential.collect::<Vec<_>>());
        let wave = numbers(5000).map(|x| 230.0 * (x * std::f64::consts::TAU).sin());
        check(&wave.collect::<Vec<_>>());
        let idle = numbers(5000).map(|x| if x < 0.9 { 0.0 } else { x });
        check(&idle.collect::<Vec<_>>());
        let decades = numbers(5000).map(|x| 10f64.powf(40.0 * x - 20.0));
        check(&decades.collect::<Vec<_>>());
        check(&vec![f64::MAX; 100]);
        check(&vec![f64::MIN_POSITIVE; 100]);
    }

    #[test]
    fn one_percent_holds_where_the_bins_suffice() {
        // Four decades, which is what 512 bins hold of one sign; the general check asks less of small quantiles.
        let mut sketch = Sketch::new();
        numbers(100_000).for_each(|x| sketch.add(10f64.powf(4.0 * x)));
        for percent in 1..=99_u8 {
            let exact = 10f64.powf(4.0 * f64::from(percent) / 100.0);
            let found = sketch.quantile(percent).unwrap();
            // The sequence itself is even to about 1e-4 of its range.
            assert!((found / exact - 1.0).abs() < 0.0115, "p{percent}: {found}");
        }
    }

    #[test]
    fn what_is_folded_is_of_least_magnitude_and_keeps_a_true_zero() {
        let mut sketch = Sketch::new();
        for step in 0..2000 {
            let magnitude = 1.02f64.powi(step);
            sketch.add(magnitude);
            sketch.add(-magnitude);
            sketch.add(0.0);
        }
        assert_eq!(sketch.quantile(50), Some(0.0));
        let Form::Bins(bins) = &sketch.0 else {
            panic!("6000 values are not kept one by one")
        };
        let kept: Vec<u32> = (bins.words.iter())
            .map(|&word| key_of(word).unsigned_abs())
            .filter(|&magnitude| magnitude > 0)
            .collect();
        assert!(kept.len() >= MAX_BINS - 2);
        assert!(bins.floor > 0 && kept.iter().all(|&magnitude| magnitude >= bins.floor));
        let total: u64 = bins.words.iter().map(|&word| count_of(word)).sum();
        assert_eq!(total, 6000);
    }

    #[test]
    fn without_a_value_there_is_no_quantile() {
        let mut sketch = Sketch::new();
        sketch.add(f64::NAN);
        sketch.add(f64::INFINITY);
        assert_eq!(sketch.quantile(50), None);
    }

    proptest! {
        #[test]
        fn any_doubles_stay_within_error_and_memory(
            values in proptest::collection::vec(
                proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO,
                1..2000,
            )
        ) {
            check(&values);
        }

        #[test]
        fn a_bin_stands_for_its_values(value in proptest::num::f64::NORMAL) {
            let found = value_of(key(value));
            prop_assert!((found / value - 1.0).abs() <= 0.01, "{found:e} for {value:e}");
            prop_assert_eq!(key(-value), -key(value));
            let word = word(key(value), 5);
            prop_assert_eq!((key_of(word), count_of(word)), (key(value), 5));
        }
    }
}
