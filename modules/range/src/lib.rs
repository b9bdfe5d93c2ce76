//! Range check: numbers outside `min..=max` do not pass as they are.

use tidegate_sdk::{Batch, Fault, Number, Output, Quality, Value, settings};

tidegate_sdk::filter!(range);

/// What happens to a number out of range.
enum Action {
    Reject,
    Drop,
    Mark(Quality),
}

fn range(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let min = settings::number("min").unwrap_or(f64::NEG_INFINITY);
    let max = settings::number("max").unwrap_or(f64::INFINITY);
    if min > max {
        let (min, max) = (Number(min), Number(max));
        return Err(format!("`min` is {min} and `max` is {max}: no number can pass").into());
    }
    let action = match settings::text("action").as_deref() {
        Some("drop") => Action::Drop,
        Some("mark") => Action::Mark(match settings::text("quality").as_deref() {
            Some("uncertain") => Quality::Uncertain,
            _ => Quality::Bad,
        }),
        _ => Action::Reject,
    };

    for row in batch.rows() {
        let number = match row.value() {
            Value::Float(number) => number,
            // Beyond 2^53 the nearest double: the bounds are doubles too.
            Value::Int(number) => number as f64,
            Value::Bool(_) | Value::Text(_) => continue,
        };
        // NaN is in no range; an infinity is not either, whatever the bounds.
        if number >= min && number <= max && number.is_finite() {
            continue;
        }
        match action {
            Action::Reject => out.reject(row, reason(number, min, max)),
            Action::Drop => out.drop(row),
            Action::Mark(quality) => out.set_quality(row, row.quality().max(quality)),
        }
    }
    Ok(())
}

fn reason(number: f64, min: f64, max: f64) -> String {
    let reading = Number(number);
    if !number.is_finite() {
        format!("{reading} is not a finite number")
    } else if number < min {
        format!("{reading} is below {}", Number(min))
    } else {
        format!("{reading} is above {}", Number(max))
    }
}

#[cfg(test)]
mod tests {
    use super::range;
    use tidegate_sdk::Quality;
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            range,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    /// JSON has no word for them.
    #[test]
    fn numbers_that_are_not_finite_are_in_no_range() {
        let input = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0]
            .map(|value| Reading::new("a", 0, value));
        let run = |action: &str| {
            Harness::new(range)
                .settings(json!({ "min": 0, "action": action }))
                .run(&input)
                .unwrap()
        };
        let rejected = run("reject");
        assert_eq!(rejected.stored, input[3..]);
        assert_eq!(
            rejected.rejected,
            [
                (0, "NaN is not a finite number".to_owned()),
                (1, "infinity is not a finite number".to_owned()),
                (2, "-infinity is not a finite number".to_owned()),
            ]
        );
        assert_eq!(run("drop").filtered, 3);
        let qualities: Vec<Quality> = run("mark").stored.iter().map(|r| r.quality).collect();
        assert_eq!(
            qualities,
            [Quality::Bad, Quality::Bad, Quality::Bad, Quality::Good]
        );
    }

    #[test]
    fn says_no_more_than_needed() {
        let shape = |values: &[f64], action: &str| {
            let input: Vec<Reading> = values.iter().map(|&v| Reading::new("a", 0, v)).collect();
            Harness::new(range)
                .settings(json!({ "max": 10, "action": action }))
                .run(&input)
                .unwrap()
                .shape
        };
        assert_eq!(shape(&[1.0, 2.0], "drop"), "all");
        assert_eq!(shape(&[1.0, 20.0], "drop"), "rows");
        assert_eq!(shape(&[20.0, 20.0], "drop"), "none");
        assert_eq!(shape(&[1.0, 20.0], "reject"), "all");
        assert_eq!(shape(&[1.0, 20.0], "mark"), "changed");
    }
}
