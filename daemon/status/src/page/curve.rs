//! The latest windows of each series, and the curve that they draw.

use std::collections::BTreeMap;

use crate::format;
use crate::view::SummaryRow;

/// Windows of one series that its curve is drawn from.
const CURVE_WINDOWS: usize = 30;
/// Size of a curve's drawing, in its own units.
const CURVE: (f64, f64) = (160.0, 28.0);

/// One series with its latest windows.
pub(super) struct Series<'a> {
    pub(super) latest: &'a SummaryRow,
    pub(super) curve: Option<Curve>,
}

/// The coordinates of a curve: the band from least to greatest value, the means, and the last mean.
pub(super) struct Curve {
    pub(super) band: String,
    pub(super) line: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) label: String,
}

/// The series in alphabetical order, so that none jumps about while somebody reads.
pub(super) fn series(rows: &[SummaryRow]) -> Vec<Series<'_>> {
    let mut by_series = BTreeMap::<(&str, &str), Vec<&SummaryRow>>::new();
    for row in rows {
        by_series
            .entry((&row.series, &row.pipeline))
            .or_default()
            .push(row);
    }
    by_series
        .into_values()
        .filter_map(|mut rows| {
            rows.sort_by_key(|row| row.from);
            let first = rows.len().saturating_sub(CURVE_WINDOWS);
            let latest = *rows.last()?;
            Some(Series {
                latest,
                curve: curve(&rows[first..]),
            })
        })
        .collect()
}

fn curve(rows: &[&SummaryRow]) -> Option<Curve> {
    let (width, height) = CURVE;
    let points: Vec<(i64, f64, f64, f64)> = rows
        .iter()
        .filter_map(|row| Some((row.from, row.min?, row.mean?, row.max?)))
        .filter(|(_, min, mean, max)| min.is_finite() && mean.is_finite() && max.is_finite())
        .collect();
    let (start, end) = (points.first()?.0, points.last()?.0);
    if points.len() < 2 || start == end {
        return None;
    }
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.3).fold(f64::NEG_INFINITY, f64::max);
    // Half a stroke of room at each edge, and the last point's radius at the right one.
    let x = |time: i64| share(time, start, end) * (width - 6.0) + 2.0;
    let y = |value: f64| {
        let span = high - low;
        if span > 0.0 && span.is_finite() {
            height - 3.0 - (value - low) / span * (height - 6.0)
        } else {
            height / 2.0
        }
    };
    let join = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        points.join(" ")
    };
    let upper = points.iter().map(|p| (x(p.0), y(p.3)));
    let lower = points.iter().rev().map(|p| (x(p.0), y(p.1)));
    let last = points.last()?;
    Some(Curve {
        band: join(&mut upper.chain(lower)),
        line: join(&mut points.iter().map(|p| (x(p.0), y(p.2)))),
        x: format!("{:.1}", x(last.0)),
        y: format!("{:.1}", y(last.2)),
        label: format!(
            "{} windows between {} and {}",
            points.len(),
            format::measured(low),
            format::measured(high)
        ),
    })
}

/// How far `time` is on the way from `start` to `end`, from 0 to 1.
#[expect(
    clippy::cast_precision_loss,
    reason = "a tenth of a unit of the drawing is enough"
)]
fn share(time: i64, start: i64, end: i64) -> f64 {
    time.abs_diff(start) as f64 / end.abs_diff(start) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_stays_in_its_drawing() {
        let row = |from: i64, mean: f64| SummaryRow {
            from,
            min: Some(mean - 1.0),
            mean: Some(mean),
            max: Some(mean + 1.0),
            ..SummaryRow::default()
        };
        let rows = [row(-60, 1e300), row(0, -4.0), row(60, 0.0)];
        let drawn = curve(&rows.iter().collect::<Vec<_>>()).unwrap();
        for point in drawn.band.split(' ').chain(drawn.line.split(' ')) {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=CURVE.0).contains(&x) && (0.0..=CURVE.1).contains(&y));
        }
        assert!(curve(&[&row(0, 1.0)]).is_none());
        assert!(curve(&[&row(0, f64::NAN), &row(1, 1.0)]).is_none());
    }
}
