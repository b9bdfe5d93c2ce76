//! Scaling: a line or a table of points turns raw numbers into physical ones.

use tidegate_sdk::{Batch, Fault, Number, Output, settings};

tidegate_sdk::filter!(scale);

fn scale(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let table = settings::numbers("table");
    if table.is_empty() {
        let factor = settings::number("factor").unwrap_or(1.0);
        let offset = settings::number("offset").unwrap_or(0.0);
        each(batch, out, |number| Ok(number * factor + offset));
        return Ok(());
    }

    let table = Table::new(&table)?;
    let outside = match settings::text("outside").as_deref() {
        Some("reject") => Outside::Reject,
        Some("extrapolate") => Outside::Extrapolate,
        _ => Outside::Clamp,
    };
    each(batch, out, |number| table.look_up(number, &outside));
    Ok(())
}

/// Scales every finite number; the rest goes on as it is.
fn each(batch: &Batch, out: &mut Output, scaled: impl Fn(f64) -> Result<f64, String>) {
    for row in batch.rows() {
        let Some(number) = row.number() else {
            continue;
        };
        match scaled(number) {
            Ok(scaled) if scaled.is_finite() => out.set_value(row, scaled),
            Ok(_) => out.reject(
                row,
                format!("{} scaled is beyond what a float can hold", Number(number)),
            ),
            Err(reason) => out.reject(row, reason),
        }
    }
}

/// What becomes of a number outside the table.
enum Outside {
    /// The value of the nearest point.
    Clamp,
    /// Quarantine.
    Reject,
    /// The line through the two nearest points.
    Extrapolate,
}

/// Points in ascending order of their raw number; at least two.
struct Table(Vec<(f64, f64)>);

impl Table {
    fn new(flat: &[f64]) -> Result<Self, Fault> {
        let (pairs, odd) = flat.as_chunks();
        let points: Vec<(f64, f64)> = pairs.iter().map(|&[raw, value]| (raw, value)).collect();
        if !odd.is_empty() || points.len() < 2 {
            return Err(format!(
                "`table` has {} numbers: it takes pairs of raw number and value, two at least",
                flat.len()
            )
            .into());
        }
        if let Some((left, right)) = points
            .iter()
            .zip(points.iter().skip(1))
            .find(|(left, right)| left.0 >= right.0)
        {
            return Err(format!(
                "`table` goes from the raw number {} to {}: raw numbers have to ascend",
                Number(left.0),
                Number(right.0)
            )
            .into());
        }
        Ok(Self(points))
    }

    fn look_up(&self, number: f64, outside: &Outside) -> Result<f64, String> {
        let points = &self.0;
        let above = points.partition_point(|point| point.0 <= number);
        let beyond = above == 0 || (above == points.len() && number > points[above - 1].0);
        if beyond {
            let edge = points[above.saturating_sub(1)];
            match outside {
                Outside::Clamp => return Ok(edge.1),
                Outside::Reject => {
                    let side = if above == 0 { "below" } else { "above" };
                    return Err(format!(
                        "{} is {side} the table's {}",
                        Number(number),
                        Number(edge.0)
                    ));
                }
                Outside::Extrapolate => {}
            }
        }
        let right = above.clamp(1, points.len() - 1);
        let ((x0, y0), (x1, y1)) = (points[right - 1], points[right]);
        // At a point its very value, without the rounding of the line.
        Ok(if number == x1 {
            y1
        } else {
            y0 + (number - x0) / (x1 - x0) * (y1 - y0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::scale;
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            scale,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    /// JSON has no word for them.
    #[test]
    fn numbers_that_are_not_finite_go_on_as_they_are() {
        let input = [
            Reading::new("a", 0, f64::NAN),
            Reading::new("a", 1, f64::INFINITY),
        ];
        let mut harness = Harness::new(scale).settings(json!({ "factor": 0 }));
        let outcome = harness.run(&input).unwrap();
        assert_eq!((&outcome.stored[..], outcome.shape), (&input[..], "all"));
    }
}
