//! Work on whole columns: a constant number of allocations a batch, none a row.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_domain::reading::{Kind, Quality};
use tidegate_domain::{Batch, limits};

/// The rows that `keep` chooses, with the names and texts that they refer to and no others.
pub(crate) fn gather(from: &Batch, capacity: usize, keep: impl Fn(usize) -> bool) -> Batch {
    let mut to = Batch {
        names: Vec::new(),
        series: Vec::with_capacity(capacity),
        time: Vec::with_capacity(capacity),
        kind: Vec::with_capacity(capacity),
        bits: Vec::with_capacity(capacity),
        texts: Vec::new(),
        quality: Vec::with_capacity(capacity),
    };
    let mut names = Moved::new(from.names.len());
    let mut texts = Moved::new(from.texts.len());
    for row in 0..from.len() {
        if !keep(row) {
            continue;
        }
        let series = names.index(from.series[row] as usize, &from.names, &mut to.names);
        to.series.push(series);
        to.time.push(from.time[row]);
        to.kind.push(from.kind[row]);
        let bits = from.bits[row];
        to.bits.push(if from.kind[row] == Kind::Text as u8 {
            let at = usize::try_from(bits).unwrap_or(usize::MAX);
            u64::from(texts.index(at, &from.texts, &mut to.texts))
        } else {
            bits
        });
        to.quality.push(from.quality[row]);
    }
    to
}

/// Where entries of one table have gone in another.
struct Moved(Vec<u32>);

impl Moved {
    const NOWHERE: u32 = u32::MAX;

    fn new(length: usize) -> Self {
        Self(vec![Self::NOWHERE; length])
    }

    fn index(&mut self, at: usize, from: &[Arc<str>], to: &mut Vec<Arc<str>>) -> u32 {
        if self.0[at] == Self::NOWHERE {
            // Tables have fewer entries than a batch has bytes: far below u32::MAX.
            self.0[at] = u32::try_from(to.len()).unwrap_or(Self::NOWHERE);
            to.push(Arc::clone(&from[at]));
        }
        self.0[at]
    }
}

/// Keeps the rows whose entry in `mask` is true. Names and texts stay.
pub(crate) fn retain(batch: &mut Batch, mask: &[bool]) {
    fn column<T>(values: &mut Vec<T>, mask: &[bool]) {
        let mut mask = mask.iter();
        values.retain(|_| mask.next().copied().unwrap_or(false));
    }
    column(&mut batch.series, mask);
    column(&mut batch.time, mask);
    column(&mut batch.kind, mask);
    column(&mut batch.bits, mask);
    column(&mut batch.quality, mask);
}

/// Puts the rows of one batch behind those of another; equal names become one.
pub(crate) fn append(to: &mut Batch, from: Batch) {
    if to.is_empty() {
        *to = from;
        return;
    }
    if from.is_empty() {
        return;
    }
    let mut index: HashMap<Arc<str>, u32> = HashMap::with_capacity(to.names.len());
    for (at, name) in (0..).zip(&to.names) {
        index.insert(Arc::clone(name), at);
    }
    let names: Vec<u32> = from
        .names
        .into_iter()
        .map(|name| {
            *index.entry(name).or_insert_with_key(|name| {
                to.names.push(Arc::clone(name));
                u32::try_from(to.names.len() - 1).unwrap_or(u32::MAX)
            })
        })
        .collect();
    let texts = to.texts.len() as u64;
    to.series
        .extend(from.series.iter().map(|&series| names[series as usize]));
    to.time.extend(from.time);
    to.bits
        .extend(from.bits.iter().zip(&from.kind).map(|(&bits, &kind)| {
            if kind == Kind::Text as u8 {
                bits + texts
            } else {
                bits
            }
        }));
    to.kind.extend(from.kind);
    to.quality.extend(from.quality);
    to.texts.extend(from.texts);
}

/// Makes a batch out of columns that a guest handed out, if they mean something.
///
/// Equal names become one, and a number that is not finite is of bad quality whatever the guest says.
///
/// # Errors
/// The first thing that does not fit, for people.
pub(crate) fn adopt(mut batch: Batch) -> Result<Batch, String> {
    batch.validate().map_err(|error| error.to_string())?;
    let mut index: HashMap<Arc<str>, u32> = HashMap::with_capacity(batch.names.len());
    for (at, name) in (0..).zip(&batch.names) {
        if name.is_empty() || name.len() > limits::SERIES_NAME_BYTES {
            return Err(format!(
                "series name {at} has {} bytes; 1 to {} are possible",
                name.len(),
                limits::SERIES_NAME_BYTES
            ));
        }
        index.entry(Arc::clone(name)).or_insert(at);
    }
    if index.len() < batch.names.len() {
        for series in &mut batch.series {
            *series = index[&batch.names[*series as usize]];
        }
    }
    if let Some(text) = batch.texts.iter().find(|t| t.len() > limits::TEXT_BYTES) {
        return Err(format!(
            "a text of {} bytes; {} are possible",
            text.len(),
            limits::TEXT_BYTES
        ));
    }
    for row in 0..batch.len() {
        if batch.kind[row] == Kind::Float as u8 && !f64::from_bits(batch.bits[row]).is_finite() {
            batch.quality[row] = Quality::Bad as u8;
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_domain::Value;
    use tidegate_domain::batch::BatchBuilder;

    type Row = (u8, i64, i64, bool);

    fn batch(rows: &[Row]) -> Batch {
        let mut builder = BatchBuilder::new();
        for &(series, time, value, text) in rows {
            let series = builder.series(&format!("s{series}").into());
            let words = value.to_string();
            let value = if text {
                Value::Text(&words)
            } else {
                Value::Int(value)
            };
            builder.push(series, time, value, Quality::Good);
        }
        builder.finish()
    }

    fn rows(batch: &Batch) -> Vec<(String, i64, String)> {
        (0..batch.len())
            .map(|row| {
                (
                    batch.name(row).to_string(),
                    batch.time[row],
                    format!("{:?}", batch.value(row)),
                )
            })
            .collect()
    }

    fn any_rows() -> impl Strategy<Value = Vec<Row>> {
        prop::collection::vec((0..5_u8, any::<i64>(), -3..3_i64, any::<bool>()), 0..40)
    }

    proptest! {
        /// Cutting a batch in two and putting it together again loses nothing and changes no order within the parts.
        #[test]
        fn what_is_gathered_and_appended_is_what_was_there(a in any_rows(), mask in prop::collection::vec(any::<bool>(), 40)) {
            let whole = batch(&a);
            let mut front = gather(&whole, 0, |row| mask[row]);
            let back = gather(&whole, 0, |row| !mask[row]);
            front.validate().unwrap();
            let mut want = rows(&front);
            want.extend(rows(&back));
            let mut kept = whole.clone();
            retain(&mut kept, &mask[..whole.len()]);
            prop_assert_eq!(rows(&kept), rows(&front));
            append(&mut front, back);
            front.validate().unwrap();
            prop_assert_eq!(rows(&front), want);
            let mut names = front.names.clone();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), front.names.len());
        }
    }

    #[test]
    fn equal_names_of_a_guest_become_one_and_infinities_are_bad() {
        let batch = adopt(Batch {
            names: vec!["a".into(), "b".into(), "a".into()],
            series: vec![2, 1],
            time: vec![0, 0],
            kind: vec![0, 0],
            bits: vec![f64::INFINITY.to_bits(), 1_f64.to_bits()],
            texts: Vec::new(),
            quality: vec![0, 1],
        })
        .unwrap();
        assert_eq!(batch.series, [0, 1]);
        assert_eq!(batch.quality, [2, 1]);
    }
}
