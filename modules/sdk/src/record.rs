//! State per series: fixed-width records, explicit in their layout.

use crate::batch::PerSeries;
use crate::capability::series_state;
use crate::filter::Fault;

/// A record for every series of the batch that has one: `state[row]` is an `Option<R>`. What it holds when the filter
/// returns is kept, together with the batch; `None` forgets the series. After a fault nothing is kept.
pub type State<R> = PerSeries<Option<R>>;

/// A fixed-width record of state. [`record!`](crate::record!) writes the implementation.
///
/// A record of zeros means none, so that one that exists never is all zeros.
pub trait Record: Sized {
    /// Bytes, at most 256; the manifest's `state.series.width`.
    const WIDTH: usize;

    /// The record in `WIDTH` bytes; `None` where there is none or it has another layout.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// Writes it into `WIDTH` bytes.
    fn write(&self, bytes: &mut [u8]);
}

impl<R: Record> State<R> {
    /// Has something done with the records that are kept for so many series, and what it leaves is kept.
    ///
    /// # Errors
    /// What is done fails, or the column is not as wide as the record. Nothing is kept then.
    pub(crate) fn kept(
        series: usize,
        done: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let before = series_state::load();
        if before.len() != series * R::WIDTH {
            return Err(Fault::new(format!(
                "the gateway keeps {} bytes of state for {series} series, this filter {} bytes a series: the manifest's \
                 `state.series.width` is wrong",
                before.len(),
                R::WIDTH
            )));
        }
        let mut state = Self::from_records(&before);
        done(&mut state)?;
        let after = state.to_records();
        if after != before {
            series_state::store(&after);
        }
        Ok(())
    }

    pub(crate) fn from_records(records: &[u8]) -> Self {
        PerSeries(records.chunks_exact(R::WIDTH).map(R::read).collect())
    }

    pub(crate) fn to_records(&self) -> Vec<u8> {
        let mut records = vec![0; self.0.len() * R::WIDTH];
        for (bytes, record) in records.chunks_exact_mut(R::WIDTH).zip(&self.0) {
            if let Some(record) = record {
                record.write(bytes);
            }
        }
        records
    }
}

/// Something of fixed width, little-endian.
pub trait Field: Copy {
    /// Bytes.
    const WIDTH: usize;

    /// Takes it from the front of `bytes`.
    fn take(bytes: &mut &[u8]) -> Self;

    /// Puts it at the front of `bytes`.
    fn put(self, bytes: &mut &mut [u8]);
}

macro_rules! number {
    ($($number:ty)*) => {$(
        impl Field for $number {
            const WIDTH: usize = size_of::<Self>();

            fn take(bytes: &mut &[u8]) -> Self {
                match bytes.split_first_chunk() {
                    Some((head, tail)) => {
                        *bytes = tail;
                        Self::from_le_bytes(*head)
                    }
                    // Not reached: a record is read from as many bytes as its fields have.
                    None => Self::default(),
                }
            }

            fn put(self, bytes: &mut &mut [u8]) {
                if let Some((head, tail)) = std::mem::take(bytes).split_first_chunk_mut() {
                    *head = self.to_le_bytes();
                    *bytes = tail;
                }
            }
        }
    )*};
}

number!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

impl Field for bool {
    const WIDTH: usize = 1;

    fn take(bytes: &mut &[u8]) -> Self {
        u8::take(bytes) != 0
    }

    fn put(self, bytes: &mut &mut [u8]) {
        u8::from(self).put(bytes);
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    const WIDTH: usize = N * T::WIDTH;

    fn take(bytes: &mut &[u8]) -> Self {
        std::array::from_fn(|_| T::take(bytes))
    }

    fn put(self, bytes: &mut &mut [u8]) {
        for field in self {
            field.put(bytes);
        }
    }
}

/// Declares a [`Record`]: a struct of numbers, booleans and arrays of them.
///
/// ```
/// tidegate_sdk::record! {
///     layout 1;
///     /// The last value that went on.
///     struct Last {
///         /// Nanoseconds since the epoch.
///         time: i64,
///         value: f64,
///     }
/// }
/// assert_eq!(<Last as tidegate_sdk::Record>::WIDTH, 17);
/// ```
///
/// The layout's number, 1 to 255, is the record's first byte: give it a new one when fields change, and what an older
/// version stored counts as none instead of being misread.
#[macro_export]
macro_rules! record {
    (
        layout $layout:literal;
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $type:ty),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        $visibility struct $name {
            $($(#[$field_meta])* $field: $type),+
        }

        impl $crate::Record for $name {
            const WIDTH: usize = {
                let width = 1 $(+ <$type as $crate::Field>::WIDTH)+;
                assert!(width <= 256, "a record of state has at most 256 bytes");
                assert!($layout > 0, "a layout's number is 1 to 255");
                width
            };

            fn read(mut bytes: &[u8]) -> Option<Self> {
                let layout: u8 = $crate::Field::take(&mut bytes);
                if layout != $layout {
                    return None;
                }
                Some(Self {
                    $($field: $crate::Field::take(&mut bytes)),+
                })
            }

            fn write(&self, mut bytes: &mut [u8]) {
                $crate::Field::put($layout as u8, &mut bytes);
                $($crate::Field::put(self.$field, &mut bytes);)+
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::test::{Harness, Reading};
    use crate::{Batch, Fault, Output, Record as _, State, Value};

    crate::record! {
        layout 7;
        struct Counted {
            count: u16,
            sum: f64,
            latest: [i32; 2],
            odd: bool,
        }
    }

    fn count(batch: &Batch, state: &mut State<Counted>, _: &mut Output) -> Result<(), Fault> {
        for row in batch.rows() {
            match row.value() {
                Value::Int(number) => {
                    let counted = state[row].get_or_insert(Counted {
                        count: 0,
                        sum: 0.0,
                        latest: [0; 2],
                        odd: false,
                    });
                    counted.count += 1;
                    counted.sum += number as f64;
                    counted.latest = [i32::try_from(number).unwrap(), counted.latest[0]];
                    counted.odd = number % 2 != 0;
                }
                Value::Bool(_) => state[row] = None,
                Value::Float(_) | Value::Text(_) => return Err("stop".into()),
            }
        }
        Ok(())
    }

    #[test]
    fn records_are_little_endian_and_kept_by_series() {
        let mut harness = Harness::new(count);
        let input = [("a", 258), ("b", 0), ("a", -1)]
            .map(|(series, value)| Reading::new(series, 0, i64::from(value)));
        harness.run(&input[..2]).unwrap();
        harness.run(&input[2..]).unwrap();
        let sum = 257_f64.to_le_bytes();
        let mut expect = vec![7, 2, 0];
        expect.extend(sum);
        expect.extend([255, 255, 255, 255, 2, 1, 0, 0, 1]);
        assert_eq!(harness.record("a"), Some(&expect[..]));
        assert_eq!(expect.len(), Counted::WIDTH);
        // All fields are 0, and still there is a record.
        assert_eq!(harness.record("b").unwrap()[..3], [7, 1, 0]);
    }

    #[test]
    fn none_forgets_a_fault_keeps_and_another_layout_is_none() {
        let mut harness = Harness::new(count);
        harness.run(&[Reading::new("a", 0, 1_i64)]).unwrap();
        let before = harness.record("a").unwrap().to_vec();
        let failed = [Reading::new("a", 0, 5_i64), Reading::new("a", 0, 0.5)];
        assert_eq!(harness.run(&failed), Err("stop".into()));
        assert_eq!(harness.record("a"), Some(&before[..]));

        let mut other = before.clone();
        other[0] = 6;
        assert_eq!(Counted::read(&other), None);
        assert_eq!(Counted::read(&before).unwrap().count, 1);

        harness.run(&[Reading::new("a", 0, true)]).unwrap();
        assert_eq!(harness.record("a"), None);
    }
}
