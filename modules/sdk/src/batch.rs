//! Readings as rows with typed values, over columns.

use std::ops::{Index, IndexMut};

/// The readings of one call, as columns. Filters see [`Row`]s.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub(crate) names: Vec<String>,
    pub(crate) series: Vec<u32>,
    pub(crate) time: Vec<i64>,
    pub(crate) kind: Vec<u8>,
    pub(crate) bits: Vec<u64>,
    pub(crate) texts: Vec<String>,
    pub(crate) quality: Vec<u8>,
}

/// The numbers of the `kind` column.
pub(crate) mod kind {
    pub(crate) const FLOAT: u8 = 0;
    pub(crate) const INT: u8 = 1;
    pub(crate) const BOOL: u8 = 2;
    pub(crate) const TEXT: u8 = 3;
}

impl Batch {
    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// True when there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|index| Row { batch: self, index })
    }

    /// Something worked out once for every series of the batch, to be looked up by row.
    pub fn per_series<'a, T>(&'a self, of: impl FnMut(&'a str) -> T) -> PerSeries<T> {
        PerSeries(self.names.iter().map(String::as_str).map(of).collect())
    }

    /// Appends a row whose series is `names[series]`.
    pub(crate) fn push(&mut self, series: u32, time: i64, value: Value<'_>, quality: Quality) {
        let (kind, bits) = encode(value, &mut self.texts, 0);
        self.series.push(series);
        self.time.push(time);
        self.kind.push(kind);
        self.bits.push(bits);
        self.quality.push(quality as u8);
    }
}

/// The two cells of a value. A text is appended to `texts`, which stands behind `offset` other texts.
pub(crate) fn encode(value: Value<'_>, texts: &mut Vec<String>, offset: usize) -> (u8, u64) {
    match value {
        Value::Float(value) => (kind::FLOAT, value.to_bits()),
        Value::Int(value) => (kind::INT, value.cast_unsigned()),
        Value::Bool(value) => (kind::BOOL, u64::from(value)),
        Value::Text(value) => {
            texts.push(value.to_owned());
            (kind::TEXT, (offset + texts.len() - 1) as u64)
        }
    }
}

/// One reading of a batch: cheap to copy, it borrows the columns.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Row<'a> {
    /// Its place in the batch, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// The series' name.
    #[must_use]
    pub fn series(self) -> &'a str {
        &self.batch.names[self.series_index()]
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn time(self) -> i64 {
        self.batch.time[self.index]
    }

    /// How far the value can be trusted.
    #[must_use]
    pub fn quality(self) -> Quality {
        match self.batch.quality[self.index] {
            0 => Quality::Good,
            1 => Quality::Uncertain,
            _ => Quality::Bad,
        }
    }

    /// The value.
    #[must_use]
    pub fn value(self) -> Value<'a> {
        let bits = self.batch.bits[self.index];
        match self.batch.kind[self.index] {
            kind::INT => Value::Int(bits.cast_signed()),
            kind::BOOL => Value::Bool(bits != 0),
            kind::TEXT => Value::Text(
                usize::try_from(bits)
                    .ok()
                    .and_then(|text| self.batch.texts.get(text))
                    .map_or("", String::as_str),
            ),
            _ => Value::Float(f64::from_bits(bits)),
        }
    }

    /// The value where it is a number to calculate with: an integer, as the nearest double, or a finite float.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        let bits = self.batch.bits[self.index];
        match self.batch.kind[self.index] {
            kind::FLOAT => Some(f64::from_bits(bits)).filter(|number| number.is_finite()),
            kind::INT => Some(bits.cast_signed() as f64),
            _ => None,
        }
    }

    /// Index of the series among the names of the batch.
    pub(crate) fn series_index(self) -> usize {
        self.batch.series[self.index] as usize
    }

    /// Index as it crosses the boundary.
    pub(crate) fn index_u32(self) -> u32 {
        // A batch has 1024 rows.
        u32::try_from(self.index).unwrap_or(u32::MAX)
    }

    pub(crate) fn batch(self) -> &'a Batch {
        self.batch
    }
}

/// One `T` for every series of a batch, looked up by row: `per_series[row]`. It is an array behind the row's own series
/// number, so that no name is compared or hashed.
#[derive(Clone, Debug)]
pub struct PerSeries<T>(pub(crate) Vec<T>);

impl<T> Index<Row<'_>> for PerSeries<T> {
    type Output = T;

    fn index(&self, row: Row<'_>) -> &T {
        &self.0[row.series_index()]
    }
}

impl<T> IndexMut<Row<'_>> for PerSeries<T> {
    fn index_mut(&mut self, row: Row<'_>) -> &mut T {
        &mut self.0[row.series_index()]
    }
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An IEEE 754 double; may be NaN or infinite.
    Float(f64),
    /// A signed 64-bit integer.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// A text of at most 16 KiB.
    Text(&'a str),
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

/// How far a value can be trusted, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Quality {
    /// Sound.
    #[default]
    Good = 0,
    /// Usable with doubt.
    Uncertain = 1,
    /// Not to be used as a number.
    Bad = 2,
}
