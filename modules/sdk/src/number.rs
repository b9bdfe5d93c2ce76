//! Numbers in texts for people.

use std::fmt::{self, Write as _};

/// A number as a text for people: nine significant digits at most, no trailing zeros, an exponent where it is very large
/// or very small. The standard library's exact formatting costs a component 15 KB, half of its size.
///
/// ```
/// # use tidegate_sdk::Number;
/// assert_eq!(Number(131.5).to_string(), "131.5");
/// assert_eq!(Number(-0.1 - 0.2).to_string(), "-0.3");
/// assert_eq!(Number(1.5e300).to_string(), "1.5e300");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

/// Ten to the number of significant digits.
const SCALE: f64 = 1e9;
const WHOLE: u32 = 1_000_000_000;

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.abs();
        if self.0.is_nan() {
            return f.write_str("NaN");
        }
        if self.0.is_sign_negative() && number > 0.0 {
            f.write_str("-")?;
        }
        if number.is_infinite() {
            return f.write_str("infinity");
        }
        if number == 0.0 {
            return f.write_str("0");
        }
        let (digits, exponent) = significant(number);
        // The digits say 0.ddddddddd times ten to the exponent.
        let scientific = !(-3..=15).contains(&exponent);
        let point = if scientific { 1 } else { exponent };
        if point <= 0 {
            f.write_str("0.")?;
            (point..0).try_for_each(|_| f.write_char('0'))?;
        }
        let mut place = 0;
        for digit in digits.into_iter().map(char::from) {
            if place == point && place > 0 {
                f.write_char('.')?;
            }
            f.write_char(digit)?;
            place += 1;
        }
        (place..point).try_for_each(|_| f.write_char('0'))?;
        if scientific {
            write!(f, "e{}", exponent - 1)?;
        }
        Ok(())
    }
}

/// The digits without trailing zeros, and the exponent of ten in front of which they stand as a fraction.
fn significant(number: f64) -> (Vec<u8>, i32) {
    let mut exponent = 0;
    let mut scaled = number;
    // Powers first: the error of many single steps would reach the digits.
    for (power, step) in [(1e256, 256), (1e64, 64), (1e16, 16), (1e4, 4), (1e1, 1)] {
        while scaled >= power {
            scaled /= power;
            exponent += step;
        }
        while scaled < 1.0 / power {
            scaled *= power;
            exponent -= step;
        }
    }
    if scaled >= 1.0 {
        scaled /= 10.0;
        exponent += 1;
    }
    // 0.1 <= scaled < 1, but for an error in the last bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nine digits and not negative"
    )]
    let mut digits = (scaled * SCALE + 0.5) as u32;
    if digits >= WHOLE {
        digits /= 10;
        exponent += 1;
    } else if digits < WHOLE / 10 {
        digits *= 10;
        exponent -= 1;
    }
    while digits.is_multiple_of(10) && digits > 0 {
        digits /= 10;
    }
    let mut text = Vec::new();
    while digits > 0 {
        // A remainder below ten.
        text.push(b'0' + u8::try_from(digits % 10).unwrap_or(0));
        digits /= 10;
    }
    text.reverse();
    (text, exponent)
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn reads_as_a_person_would_write_it() {
        for (number, expect) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-40.0, "-40"),
            (125.0, "125"),
            (0.2, "0.2"),
            (0.1 + 0.2, "0.3"),
            (99.999_999_999, "100"),
            (0.999_999_999_9, "1"),
            (123_456_789.0, "123456789"),
            (1_234_567_891.0, "1234567890"),
            (20.95, "20.95"),
            (0.001_25, "0.00125"),
            (0.000_012_5, "1.25e-5"),
            (1e15, "1e15"),
            (1e14, "100000000000000"),
            (6.022e23, "6.022e23"),
            (5e-324, "4.94065646e-324"),
            (f64::MAX, "1.79769313e308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-infinity"),
        ] {
            assert_eq!(Number(number).to_string(), expect, "{number:e}");
        }
    }

    #[test]
    fn is_near_the_number_over_the_whole_range() {
        for exponent in -307..308 {
            for mantissa in [1.0, 1.234_567_891, 3.3, 9.999_999_999, 5.5] {
                let number: f64 = mantissa * format!("1e{exponent}").parse::<f64>().unwrap();
                let read: f64 = Number(number).to_string().parse().unwrap();
                assert!(
                    ((read - number) / number).abs() < 5.1e-9,
                    "{number:e} became {read:e}"
                );
            }
        }
    }
}
