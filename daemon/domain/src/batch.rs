//! Readings as columns: the shape in which they are decoded, filtered, stored and summarised.

use std::collections::HashMap;
use std::sync::Arc;

use crate::reading::{Kind, Quality, Value};

/// Readings as columns of equal length; the same layout that crosses into WebAssembly.
///
/// Rows refer to their series by an index into `names`, texts by an index into `texts`, so that a row is five
/// numbers and appending one allocates nothing. `names` may hold series that no row refers to any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The distinct series of this batch.
    pub names: Vec<Arc<str>>,
    /// Per row: index into `names`.
    pub series: Vec<u32>,
    /// Per row: nanoseconds since 1970-01-01T00:00:00Z.
    pub time: Vec<i64>,
    /// Per row: a [`Kind`] as its number.
    pub kind: Vec<u8>,
    /// Per row: the value, by kind (see [`Kind`]).
    pub bits: Vec<u64>,
    /// Texts that rows refer to.
    pub texts: Vec<Arc<str>>,
    /// Per row: a [`Quality`] as its number.
    pub quality: Vec<u8>,
}

/// Why columns do not make a batch. Guests and files can hand in anything; nothing is believed unchecked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The columns have different lengths.
    #[error("column `{column}` has {got} rows where `series` has {want}")]
    Length {
        /// The column's name.
        column: &'static str,
        /// Its length.
        got: usize,
        /// The length of `series`.
        want: usize,
    },
    /// An index or number has no meaning.
    #[error("row {row}: `{column}` holds {value}, which means nothing here")]
    Meaning {
        /// Row number, from 0.
        row: usize,
        /// The column's name.
        column: &'static str,
        /// What it holds.
        value: u64,
    },
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

    /// Appends a row whose series is `names[series]`.
    pub fn push(&mut self, series: u32, time: i64, value: Value<'_>, quality: Quality) {
        let (kind, bits) = match value {
            Value::Float(value) => (Kind::Float, value.to_bits()),
            Value::Int(value) => (Kind::Int, value.cast_unsigned()),
            Value::Bool(value) => (Kind::Bool, u64::from(value)),
            Value::Text(value) => {
                self.texts.push(value.into());
                (Kind::Text, self.texts.len() as u64 - 1)
            }
        };
        self.series.push(series);
        self.time.push(time);
        self.kind.push(kind as u8);
        self.bits.push(bits);
        self.quality.push(quality as u8);
    }

    /// The series name of a row.
    ///
    /// # Panics
    /// When `row` is out of bounds, or the batch was not checked by [`Batch::validate`].
    #[must_use]
    pub fn name(&self, row: usize) -> &Arc<str> {
        &self.names[self.series[row] as usize]
    }

    /// The value of a row, under the same condition as [`Batch::name`].
    #[must_use]
    pub fn value(&self, row: usize) -> Value<'_> {
        let bits = self.bits[row];
        match Kind::from_byte(self.kind[row]) {
            Some(Kind::Int) => Value::Int(bits.cast_signed()),
            Some(Kind::Bool) => Value::Bool(bits != 0),
            Some(Kind::Text) => Value::Text(
                usize::try_from(bits)
                    .ok()
                    .and_then(|i| self.texts.get(i))
                    .map_or("", |t| t),
            ),
            Some(Kind::Float) | None => Value::Float(f64::from_bits(bits)),
        }
    }

    /// The quality of a row.
    #[must_use]
    pub fn quality(&self, row: usize) -> Quality {
        Quality::from_byte(self.quality[row]).unwrap_or(Quality::Bad)
    }

    /// Checks every length, index and number, as is due for columns out of a guest or a file.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn validate(&self) -> Result<(), BatchError> {
        let want = self.series.len();
        for (column, got) in [
            ("time", self.time.len()),
            ("kind", self.kind.len()),
            ("bits", self.bits.len()),
            ("quality", self.quality.len()),
        ] {
            if got != want {
                return Err(BatchError::Length { column, got, want });
            }
        }
        for row in 0..want {
            let meaning = |column, value| Err(BatchError::Meaning { row, column, value });
            if self.series[row] as usize >= self.names.len() {
                return meaning("series", u64::from(self.series[row]));
            }
            if Quality::from_byte(self.quality[row]).is_none() {
                return meaning("quality", u64::from(self.quality[row]));
            }
            let bits = self.bits[row];
            let sound = match Kind::from_byte(self.kind[row]) {
                Some(Kind::Float | Kind::Int) => true,
                Some(Kind::Bool) => bits <= 1,
                Some(Kind::Text) => bits < self.texts.len() as u64,
                None => return meaning("kind", u64::from(self.kind[row])),
            };
            if !sound {
                return meaning("bits", bits);
            }
        }
        Ok(())
    }
}

/// Builds a batch row by row from series names, each of which is stored once.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    batch: Batch,
    index: HashMap<Arc<str>, u32>,
}

impl BatchBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The index of a series in this batch, adding it where it is new.
    pub fn series(&mut self, name: &Arc<str>) -> u32 {
        if let Some(&index) = self.index.get(name) {
            return index;
        }
        // A batch has at most `limits::GROUP_ROWS` distinct series, far below u32::MAX.
        let index = u32::try_from(self.batch.names.len()).unwrap_or(u32::MAX);
        self.batch.names.push(Arc::clone(name));
        self.index.insert(Arc::clone(name), index);
        index
    }

    /// Appends a row; `series` comes from [`BatchBuilder::series`].
    pub fn push(&mut self, series: u32, time: i64, value: Value<'_>, quality: Quality) {
        self.batch.push(series, time, value, quality);
    }

    /// Appends one row of another batch.
    pub fn push_row(&mut self, from: &Batch, row: usize) {
        let series = self.series(from.name(row));
        self.push(series, from.time[row], from.value(row), from.quality(row));
    }

    /// Appends all rows of another batch.
    pub fn append(&mut self, from: &Batch) {
        let map: Vec<u32> = from.names.iter().map(|name| self.series(name)).collect();
        for row in 0..from.len() {
            self.push(
                map[from.series[row] as usize],
                from.time[row],
                from.value(row),
                from.quality(row),
            );
        }
    }

    /// The number of rows so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// True when there is no row yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// The batch so far.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The batch.
    #[must_use]
    pub fn finish(self) -> Batch {
        self.batch
    }
}
