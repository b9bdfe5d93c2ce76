//! Readings as bytes: the contents of `history.data` and `quarantine.data`.
//!
//! Layout 1. Numbers are LEB128 varints unless they say otherwise; *signed* ones are zigzag-coded first.
//!
//! | part | meaning |
//! |---|---|
//! | byte | layout, 1 |
//! | byte | bit 0: the series table holds names, otherwise ids of table `series` |
//! | number | rows |
//! | number | series in the table |
//! | each | an id; or a name, as its length and its UTF-8 |
//! | byte | unit of time: 10^n nanoseconds, n in 0, 3, 6, 9 |
//! | signed | per row: time in that unit, as the difference from the row before (from 0 for the first), wrapping |
//! | byte | the kind of all rows, or 255 and then one byte a row |
//! | byte | the quality of all rows, or 255 and then one byte a row |
//! | number | per row: index into the series table; left out where that has one entry |
//! | | per row, by kind: a double (8 bytes, little-endian), a signed number, a byte 0 or 1, or a text as length and UTF-8 |
//! | 4 bytes | CRC-32 (IEEE, little-endian) of all before |
//!
//! A file can hold anything: the decoder believes nothing, and allocates no more than the input is long.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_domain::{Batch, Kind, Quality, Value};

/// Rows of one block at most, so that eviction takes small bites.
pub(crate) const BLOCK_ROWS: usize = 1024;
/// Bytes of values at which a block is cut, for long texts.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

const LAYOUT: u8 = 1;
const FLAG_NAMES: u8 = 1;
const MIXED: u8 = 255;

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("the checksum does not match")]
    Checksum,
    #[error("layout {0} is unknown")]
    Layout(u8),
    #[error("it ends too early")]
    Short,
    #[error("{0} makes no sense")]
    Value(&'static str),
    #[error("series {0} is unknown")]
    Series(u64),
}

/// Encodes blocks one after the other, keeping its buffers.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    /// The series table, encoded.
    table: Vec<u8>,
    /// Place in the table, by dictionary id.
    places: HashMap<u32, u32>,
    series: Vec<u32>,
    time: Vec<i64>,
    kind: Vec<u8>,
    quality: Vec<u8>,
    values: Vec<u8>,
    from: i64,
    to: i64,
    out: Vec<u8>,
}

/// A finished block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Encoded<'a> {
    pub(crate) rows: usize,
    /// Least and greatest time in it, nanoseconds.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) data: &'a [u8],
}

impl BlockWriter {
    pub(crate) fn rows(&self) -> usize {
        self.time.len()
    }

    /// True when the next row should go into a new block.
    pub(crate) fn is_full(&self) -> bool {
        self.rows() >= BLOCK_ROWS || self.values.len() >= BLOCK_BYTES
    }

    /// The place of a series in this block's table, by its dictionary id.
    pub(crate) fn place(&mut self, id: u32) -> u32 {
        let next = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let table = &mut self.table;
        *self.places.entry(id).or_insert_with(|| {
            put_number(table, u64::from(id));
            next
        })
    }

    /// Appends one row of a batch; `place` comes from [`BlockWriter::place`].
    pub(crate) fn push(&mut self, place: u32, batch: &Batch, row: usize) {
        let time = batch.time[row];
        if self.time.is_empty() {
            (self.from, self.to) = (time, time);
        }
        self.from = self.from.min(time);
        self.to = self.to.max(time);
        self.series.push(place);
        self.time.push(time);
        self.quality.push(batch.quality[row]);
        let kind = match batch.value(row) {
            Value::Float(value) => {
                self.values
                    .extend_from_slice(&value.to_bits().to_le_bytes());
                Kind::Float
            }
            Value::Int(value) => {
                put_signed(&mut self.values, value);
                Kind::Int
            }
            Value::Bool(value) => {
                self.values.push(u8::from(value));
                Kind::Bool
            }
            Value::Text(text) => {
                put_bytes(&mut self.values, text.as_bytes());
                Kind::Text
            }
        };
        self.kind.push(kind as u8);
    }

    /// Ends the block and starts the next; `None` when there is no row.
    pub(crate) fn finish(&mut self) -> Option<Encoded<'_>> {
        let series = self.places.len();
        self.encode(series, 0)
    }

    fn encode(&mut self, series: usize, flags: u8) -> Option<Encoded<'_>> {
        let rows = self.rows();
        if rows == 0 {
            return None;
        }
        let out = &mut self.out;
        out.clear();
        out.extend_from_slice(&[LAYOUT, flags]);
        put_number(out, rows as u64);
        put_number(out, series as u64);
        out.extend_from_slice(&self.table);
        put_times(out, &self.time);
        put_column(out, &self.kind);
        put_column(out, &self.quality);
        if series != 1 {
            for &place in &self.series {
                put_number(out, u64::from(place));
            }
        }
        out.extend_from_slice(&self.values);
        let crc = crc32(out);
        out.extend_from_slice(&crc.to_le_bytes());
        self.table.clear();
        self.places.clear();
        self.series.clear();
        self.time.clear();
        self.kind.clear();
        self.quality.clear();
        self.values.clear();
        Some(Encoded {
            rows,
            from: self.from,
            to: self.to,
            data: &self.out,
        })
    }
}

/// A whole batch as one block that holds its series' names: for quarantine, which must outlive the dictionary's entries.
/// Empty for an empty batch.
pub(crate) fn encode_with_names(batch: &Batch) -> Vec<u8> {
    let mut writer = BlockWriter::default();
    for name in &batch.names {
        put_bytes(&mut writer.table, name.as_bytes());
    }
    for row in 0..batch.len() {
        writer.push(batch.series[row], batch, row);
    }
    writer
        .encode(batch.names.len(), FLAG_NAMES)
        .map_or_else(Vec::new, |block| block.data.to_vec())
}

/// Decodes a block. `name` knows the dictionary's ids.
pub(crate) fn decode(
    data: &[u8],
    mut name: impl FnMut(u32) -> Option<Arc<str>>,
) -> Result<Batch, BlockError> {
    let mut input = Input(checked(data)?);
    let flags = input.header()?;
    // Every row takes a byte of time at least, and every series a byte of the table.
    let rows = input.length()?;
    let series = input.length()?;
    let mut batch = Batch::default();
    for _ in 0..series {
        batch.names.push(if flags & FLAG_NAMES != 0 {
            input.text()?.into()
        } else {
            let id = input.number()?;
            u32::try_from(id)
                .ok()
                .and_then(&mut name)
                .ok_or(BlockError::Series(id))?
        });
    }
    batch.time = input.times(rows)?;
    batch.kind = input.column(rows)?;
    batch.quality = input.column(rows)?;
    if batch
        .quality
        .iter()
        .any(|&quality| Quality::from_byte(quality).is_none())
    {
        return Err(BlockError::Value("a quality"));
    }
    for _ in 0..rows {
        let place = if series == 1 { 0 } else { input.number()? };
        let place = u32::try_from(place)
            .ok()
            .filter(|&place| (place as usize) < series)
            .ok_or(BlockError::Value("a series index"))?;
        batch.series.push(place);
    }
    for row in 0..rows {
        let bits = match Kind::from_byte(batch.kind[row]) {
            Some(Kind::Float) => u64::from_le_bytes(input.chunk()?),
            Some(Kind::Int) => input.signed()?.cast_unsigned(),
            Some(Kind::Bool) => match input.byte()? {
                bit @ (0 | 1) => u64::from(bit),
                _ => return Err(BlockError::Value("a boolean")),
            },
            Some(Kind::Text) => {
                batch.texts.push(input.text()?.into());
                batch.texts.len() as u64 - 1
            }
            None => return Err(BlockError::Value("a kind")),
        };
        batch.bits.push(bits);
    }
    if !input.0.is_empty() {
        return Err(BlockError::Value("what follows the last value"));
    }
    Ok(batch)
}

/// A block with all its times moved by `by` nanoseconds, and its least and greatest one. What else it holds stays as it is.
pub(crate) fn shift(data: &[u8], by: i64) -> Result<(Vec<u8>, i64, i64), BlockError> {
    let body = checked(data)?;
    let mut input = Input(body);
    let flags = input.header()?;
    let rows = input.length()?;
    let series = input.length()?;
    for _ in 0..series {
        if flags & FLAG_NAMES != 0 {
            input.bytes()?;
        } else {
            input.number()?;
        }
    }
    let (head, _) = body.split_at(body.len() - input.0.len());
    let mut times = input.times(rows)?;
    for time in &mut times {
        *time = time.saturating_add(by);
    }
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend_from_slice(head);
    put_times(&mut out, &times);
    out.extend_from_slice(input.0);
    let crc = crc32(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    let range = times.iter().min().zip(times.iter().max());
    let (&from, &to) = range.ok_or(BlockError::Short)?;
    Ok((out, from, to))
}

/// What stands before the checksum, where that is right.
fn checked(data: &[u8]) -> Result<&[u8], BlockError> {
    let (body, crc) = data.split_last_chunk::<4>().ok_or(BlockError::Short)?;
    if crc32(body) != u32::from_le_bytes(*crc) {
        return Err(BlockError::Checksum);
    }
    Ok(body)
}

/// The unit, and the times as differences.
fn put_times(out: &mut Vec<u8>, times: &[i64]) {
    let (exponent, unit) = unit(times);
    out.push(exponent);
    let mut before = 0i64;
    for time in times {
        let time = time / unit;
        put_signed(out, time.wrapping_sub(before));
        before = time;
    }
}

/// The largest unit in which every time is whole.
fn unit(times: &[i64]) -> (u8, i64) {
    let whole = |unit: i64| times.iter().all(|time| time % unit == 0);
    // Most are whole milliseconds or not even microseconds: two passes, not four.
    if whole(1_000_000) {
        if whole(1_000_000_000) {
            (9, 1_000_000_000)
        } else {
            (6, 1_000_000)
        }
    } else if whole(1_000) {
        (3, 1_000)
    } else {
        (0, 1)
    }
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low seven bits are meant"
        )]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is below 0x80")]
    out.push(number as u8);
}

fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_column(out: &mut Vec<u8>, column: &[u8]) {
    match column.first() {
        Some(&first) if column.iter().all(|&byte| byte == first) => out.push(first),
        Some(_) | None => {
            out.push(MIXED);
            out.extend_from_slice(column);
        }
    }
}

/// Bytes that are read from the front.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, BlockError> {
        let (&first, rest) = self.0.split_first().ok_or(BlockError::Short)?;
        self.0 = rest;
        Ok(first)
    }

    /// Layout and flags; returns the flags.
    fn header(&mut self) -> Result<u8, BlockError> {
        let layout = self.byte()?;
        if layout != LAYOUT {
            return Err(BlockError::Layout(layout));
        }
        self.byte()
    }

    /// The unit of time and the times, in nanoseconds.
    fn times(&mut self, rows: usize) -> Result<Vec<i64>, BlockError> {
        let unit = match self.byte()? {
            exponent @ (0 | 3 | 6 | 9) => 10i64.pow(u32::from(exponent)),
            _ => return Err(BlockError::Value("the unit of time")),
        };
        let mut times = Vec::with_capacity(rows);
        let mut time = 0i64;
        for _ in 0..rows {
            time = time.wrapping_add(self.signed()?);
            let nanoseconds = time.checked_mul(unit);
            times.push(nanoseconds.ok_or(BlockError::Value("a time"))?);
        }
        Ok(times)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], BlockError> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(BlockError::Short)?;
        self.0 = rest;
        Ok(*chunk)
    }

    pub(crate) fn number(&mut self) -> Result<u64, BlockError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(BlockError::Value("a number"));
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(BlockError::Value("a number"))
    }

    fn signed(&mut self) -> Result<i64, BlockError> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    /// A count of things that take a byte each at least.
    pub(crate) fn length(&mut self) -> Result<usize, BlockError> {
        let number = self.number()?;
        usize::try_from(number)
            .ok()
            .filter(|&length| length <= self.0.len())
            .ok_or(BlockError::Short)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], BlockError> {
        let length = self.length()?;
        self.take(length)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], BlockError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BlockError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, BlockError> {
        str::from_utf8(self.bytes()?).map_err(|_| BlockError::Value("a text"))
    }

    fn column(&mut self, rows: usize) -> Result<Vec<u8>, BlockError> {
        Ok(match self.byte()? {
            MIXED => self.take(rows)?.to_vec(),
            all => vec![all; rows],
        })
    }
}

/// CRC-32 as in IEEE 802.3, eight tables of one would be faster and are not needed: this is 1 ns a byte.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (crc >> 8) ^ CRC_TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_domain::batch::BatchBuilder;

    use super::*;

    fn name(id: u32) -> Arc<str> {
        format!("series/{id}").into()
    }

    /// Encodes with dictionary ids, series `i` of the batch having id `7 * i`, and decodes again.
    fn round_trip(batch: &Batch) -> Batch {
        let mut writer = BlockWriter::default();
        for row in 0..batch.len() {
            let place = writer.place(7 * batch.series[row]);
            writer.push(place, batch, row);
        }
        let block = writer.finish().unwrap();
        assert_eq!(block.rows, batch.len());
        assert_eq!(Some(&block.from), batch.time.iter().min());
        assert_eq!(Some(&block.to), batch.time.iter().max());
        decode(block.data, |id| Some(name(id))).unwrap()
    }

    fn rows(batch: &Batch) -> Vec<(Arc<str>, i64, u8, u64, Option<String>, u8)> {
        (0..batch.len())
            .map(|row| {
                let text = match batch.value(row) {
                    Value::Text(text) => Some(text.to_owned()),
                    Value::Float(_) | Value::Int(_) | Value::Bool(_) => None,
                };
                let bits = if text.is_some() { 0 } else { batch.bits[row] };
                let name = Arc::clone(batch.name(row));
                let quality = batch.quality[row];
                (name, batch.time[row], batch.kind[row], bits, text, quality)
            })
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Any {
        Float(u64),
        Int(i64),
        Bool(bool),
        Text(String),
    }

    fn a_batch() -> impl Strategy<Value = Batch> {
        let value = prop_oneof![
            any::<u64>().prop_map(Any::Float),
            any::<i64>().prop_map(Any::Int),
            any::<bool>().prop_map(Any::Bool),
            ".{0,20}".prop_map(Any::Text),
        ];
        let time = prop_oneof![
            any::<i64>(),
            (0i64..1_000_000).prop_map(|ms| 1_766_000_000_000_000_000 + ms * 1_000_000),
        ];
        prop::collection::vec((0u32..5, time, value, 0u8..3), 1..60).prop_map(|rows| {
            let mut builder = BatchBuilder::new();
            for (series, time, value, quality) in rows {
                let series = builder.series(&name(7 * series));
                let quality = Quality::from_byte(quality).unwrap();
                let value = match &value {
                    Any::Float(bits) => Value::Float(f64::from_bits(*bits)),
                    Any::Int(value) => Value::Int(*value),
                    Any::Bool(value) => Value::Bool(*value),
                    Any::Text(text) => Value::Text(text),
                };
                builder.push(series, time, value, quality);
            }
            builder.finish()
        })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(batch in a_batch()) {
            // `round_trip` names series by their place in the batch, `a_batch` by number: align the two.
            let mut batch = batch;
            for (place, known) in batch.names.iter_mut().enumerate() {
                *known = name(7 * u32::try_from(place).unwrap());
            }
            prop_assert_eq!(rows(&round_trip(&batch)), rows(&batch));
            let named = encode_with_names(&batch);
            prop_assert_eq!(rows(&decode(&named, |_| None).unwrap()), rows(&batch));
        }

        #[test]
        fn shifting_moves_the_times_and_nothing_else(batch in a_batch(), by in any::<i64>(), named in any::<bool>()) {
            let mut batch = batch;
            for (place, known) in batch.names.iter_mut().enumerate() {
                *known = name(7 * u32::try_from(place).unwrap());
            }
            let data = if named {
                encode_with_names(&batch)
            } else {
                let mut writer = BlockWriter::default();
                for row in 0..batch.len() {
                    let place = writer.place(7 * batch.series[row]);
                    writer.push(place, &batch, row);
                }
                writer.finish().unwrap().data.to_vec()
            };
            let (shifted, from, to) = shift(&data, by).unwrap();
            for time in &mut batch.time {
                *time = time.saturating_add(by);
            }
            prop_assert_eq!(Some(&from), batch.time.iter().min());
            prop_assert_eq!(Some(&to), batch.time.iter().max());
            prop_assert_eq!(rows(&decode(&shifted, |id| Some(name(id))).unwrap()), rows(&batch));
        }

        #[test]
        fn garbage_is_an_error_or_a_sound_batch(mut body in prop::collection::vec(any::<u8>(), 0..200), layout in any::<bool>()) {
            if layout && body.len() > 1 {
                body[0] = LAYOUT;
                body[1] &= FLAG_NAMES;
            }
            // With a right checksum, so that the garbage is looked at.
            let crc = crc32(&body);
            body.extend_from_slice(&crc.to_le_bytes());
            if let Ok(batch) = decode(&body, |id| Some(name(id))) {
                prop_assert_eq!(batch.validate(), Ok(()));
                prop_assert_eq!(shift(&body, 1).is_ok(), !batch.is_empty());
            }
        }

        #[test]
        fn a_flipped_bit_is_found(batch in a_batch(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut data = encode_with_names(&batch);
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
            prop_assert_eq!(decode(&data, |_| None), Err(BlockError::Checksum));
        }
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_reading_of_a_steady_series_takes_few_bytes() {
        let mut batch = Batch::default();
        batch.names.push("plant/line1/temp".into());
        for row in 0..1000 {
            let time = (1_766_000_000_000 + row * 1000) * 1_000_000;
            batch.push(0, time, Value::Int(row), Quality::Good);
        }
        let mut writer = BlockWriter::default();
        let place = writer.place(3);
        for row in 0..batch.len() {
            writer.push(place, &batch, row);
        }
        assert!(writer.finish().unwrap().data.len() < 3100);
    }
}
