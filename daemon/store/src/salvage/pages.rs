//! A database file as pages, without SQLite and without trust: the newest committed version of each, out of the file
//! and its write-ahead log. Source of the layout: <https://www.sqlite.org/fileformat2.html>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::schema::{beside, file_bytes};

/// Our page size since the first layout. A header that says otherwise is damaged.
pub(super) const PAGE: usize = 4096;
/// The longest record that is read, bytes: more than any row of ours.
const RECORD_BYTES: usize = 64 * 1024 * 1024;
/// The lock of SQLite lies on this byte, and its page holds nothing.
const PENDING_BYTE: u64 = 0x4000_0000;

#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    log: Option<File>,
    /// Where in the log the newest version of a page is.
    newest: BTreeMap<u32, u64>,
    /// The number of the last page.
    pub(super) last: u32,
    /// Frames of the log that were not what their checksum says.
    pub(super) damaged_frames: u64,
    /// Whether the file is shorter than its header says, or the header cannot be read.
    pub(super) is_short: bool,
    free: BTreeSet<u32>,
}

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It belongs to the table with this root.
    Root(u32),
    /// Nothing in it counts.
    Nobody,
    /// The map of pages is damaged there.
    Unknown,
}

impl Pages {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let pages = file.metadata()?.len().div_ceil(PAGE as u64);
        let log = beside(path, "-wal");
        let log = match file_bytes(&log) {
            0 => None,
            _ => Some(File::open(log)?),
        };
        let mut pages = Self {
            file,
            log,
            newest: BTreeMap::new(),
            last: u32::try_from(pages).unwrap_or(u32::MAX),
            damaged_frames: 0,
            is_short: false,
            free: BTreeSet::new(),
        };
        pages.read_log()?;
        pages.read_free()?;
        let header = pages.page(1)?;
        pages.is_short = header.is_none_or(|header| {
            !header.starts_with(b"SQLite format 3\0") || number_at(&header, 28) > pages.last
        });
        Ok(pages)
    }

    /// The newest committed version of a page; `None` where the file is too short.
    pub(super) fn page(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        let (file, at) = match (self.newest.get(&number), &self.log) {
            (Some(&at), Some(log)) => (log, at),
            _ if number == 0 => return Ok(None),
            _ => (&self.file, u64::from(number - 1) * PAGE as u64),
        };
        let mut page = vec![0; PAGE];
        match file.read_exact_at(&mut page, at) {
            Ok(()) => Ok(Some(page)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            // A sector that cannot be read is a page less, and no reason to give up the others.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Which table a page belongs to, by the map of pages that our databases keep.
    pub(super) fn owner(&self, number: u32) -> io::Result<Owner> {
        if number == 1 {
            return Ok(Owner::Root(1));
        }
        if is_map(number) || u64::from(number - 1) * PAGE as u64 == PENDING_BYTE {
            return Ok(Owner::Nobody);
        }
        if self.free.contains(&number) {
            return Ok(Owner::Nobody);
        }
        let mut at = number;
        // A tree is not deeper than this; a ring in a damaged map is.
        for _ in 0..32 {
            let Some((kind, parent)) = self.map_entry(at)? else {
                return Ok(Owner::Unknown);
            };
            match kind {
                1 => return Ok(Owner::Root(at)),
                2..=4 if at == number => return Ok(Owner::Nobody),
                5 if parent == 1 => return Ok(Owner::Root(1)),
                5 if parent > 1 && parent <= self.last => at = parent,
                _ => return Ok(Owner::Unknown),
            }
        }
        Ok(Owner::Unknown)
    }

    fn map_entry(&self, number: u32) -> io::Result<Option<(u8, u32)>> {
        let map = map_of(number);
        let Some(page) = self.page(map)? else {
            return Ok(None);
        };
        let entry = number
            .checked_sub(map + 1)
            .and_then(|entry| page.get(entry as usize * 5..)?.first_chunk::<5>().copied());
        Ok(entry.map(|[kind, parent @ ..]| (kind, u32::from_be_bytes(parent))))
    }

    /// The bytes of a record that begins with `local` and goes on in a chain of pages.
    pub(super) fn overflow(
        &self,
        local: &[u8],
        length: usize,
        first: u32,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut record = local.to_vec();
        let mut next = first;
        while record.len() < length {
            // Every page of the chain brings bytes: a ring ends with the length.
            let Some(page) = self.page(next)? else {
                return Ok(None);
            };
            let wanted = (length - record.len()).min(PAGE - 4);
            record.extend_from_slice(&page[4..4 + wanted]);
            next = number_at(&page, 0);
        }
        Ok(Some(record))
    }

    fn read_log(&mut self) -> io::Result<()> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let mut header = [0; 32];
        if log.read_exact_at(&mut header, 0).is_err() {
            return Ok(());
        }
        let magic = number_at(&header, 0);
        if magic & !1 != 0x377f_0682 || number_at(&header, 8) as usize != PAGE {
            self.damaged_frames += 1;
            return Ok(());
        }
        let big_endian = magic & 1 == 1;
        let salt = &header[16..24];
        let mut sum = (number_at(&header, 24), number_at(&header, 28));
        let mut pending: Vec<(u32, u64)> = Vec::new();
        let mut at = 32;
        let mut frame = vec![0; 24 + PAGE];
        while log.read_exact_at(&mut frame, at).is_ok() {
            // Frames of an earlier round of the log begin here.
            if frame[8..16] != *salt {
                break;
            }
            sum = checksum(big_endian, sum, &frame[..8]);
            sum = checksum(big_endian, sum, &frame[24..]);
            let stated = (number_at(&frame, 16), number_at(&frame, 20));
            if sum == stated {
                pending.push((number_at(&frame, 0), at + 24));
            } else {
                self.damaged_frames += 1;
                // Where only the page is damaged, the sum that stands there leads on.
                sum = stated;
            }
            let pages = number_at(&frame, 4);
            if pages != 0 {
                self.newest.extend(pending.drain(..));
                self.last = self.last.max(pages);
            }
            at += frame.len() as u64;
        }
        // What is beyond the last commit does not count. Nor does a page that no file could have.
        let end = self
            .file
            .metadata()?
            .len()
            .saturating_add(at)
            .div_ceil(PAGE as u64);
        self.last = self.last.min(u32::try_from(end).unwrap_or(u32::MAX));
        Ok(())
    }

    /// The pages that are free, by the list that begins in the header.
    fn read_free(&mut self) -> io::Result<()> {
        let Some(header) = self.page(1)? else {
            return Ok(());
        };
        let mut trunk = number_at(&header, 32);
        while trunk > 1 && trunk <= self.last && self.free.insert(trunk) {
            let Some(page) = self.page(trunk)? else {
                break;
            };
            let count = (number_at(&page, 4) as usize).min(PAGE / 4 - 2);
            for leaf in 0..count {
                self.free.insert(number_at(&page, 8 + leaf * 4));
            }
            trunk = number_at(&page, 0);
        }
        Ok(())
    }
}

/// A value of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Float(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// A row: its number, where the table has such, and its columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) columns: Vec<Value>,
}

/// What was read of a page.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// Whether nothing of it was passed over.
    pub(super) whole: bool,
}

/// The rows of a page of a table, as far as they can be read. `None` for what is no such page.
pub(super) fn rows(pages: &Pages, number: u32, page: &[u8]) -> io::Result<Option<Rows>> {
    let start = if number == 1 { 100 } else { 0 };
    // Inner pages of tables without ids hold rows, too, each behind the number of a page.
    let (with_ids, pointers, before) = match page[start] {
        2 => (false, start + 12, 4),
        5 => {
            return Ok(Some(Rows {
                rows: Vec::new(),
                whole: true,
            }));
        }
        10 => (false, start + 8, 0),
        13 => (true, start + 8, 0),
        _ => return Ok(None),
    };
    let cells = usize::from(u16::from_be_bytes([page[start + 3], page[start + 4]]));
    let mut rows = Rows {
        rows: Vec::new(),
        whole: true,
    };
    for cell in 0..cells {
        let pointer = pointers + cell * 2;
        let Some(pointer) = page.get(pointer..pointer + 2) else {
            rows.whole = false;
            break;
        };
        let at = usize::from(u16::from_be_bytes([pointer[0], pointer[1]])) + before;
        match row(pages, page, at, with_ids)? {
            Some(row) => rows.rows.push(row),
            None => rows.whole = false,
        }
    }
    Ok(Some(rows))
}

fn row(pages: &Pages, page: &[u8], at: usize, with_ids: bool) -> io::Result<Option<Row>> {
    let mut input = Input(page.get(at..).unwrap_or_default());
    let Some(length) = input
        .varint()
        .and_then(|length| usize::try_from(length).ok())
    else {
        return Ok(None);
    };
    let id = match with_ids {
        true => input.varint(),
        false => Some(0),
    };
    let Some(id) = id.filter(|_| length <= RECORD_BYTES) else {
        return Ok(None);
    };
    let most = match with_ids {
        true => PAGE - 35,
        false => (PAGE - 12) * 64 / 255 - 23,
    };
    let record = if length <= most {
        input.take(length).map(<[u8]>::to_vec)
    } else {
        let least = (PAGE - 12) * 32 / 255 - 23;
        let local = least + (length - least) % (PAGE - 4);
        let local = if local <= most { local } else { least };
        match (input.take(local), input.take(4)) {
            (Some(local), Some(next)) => pages.overflow(local, length, number_at(next, 0))?,
            _ => None,
        }
    };
    Ok(record
        .and_then(|record| columns(&record))
        .map(|columns| Row { id, columns }))
}

fn columns(record: &[u8]) -> Option<Vec<Value>> {
    let mut input = Input(record);
    let header = usize::try_from(input.varint()?).ok()?;
    let mut kinds = Input(record.get(record.len() - input.0.len()..header)?);
    let mut values = Input(record.get(header..)?);
    let mut columns = Vec::new();
    while !kinds.0.is_empty() {
        let kind = kinds.varint()?;
        columns.push(match kind {
            0 => Value::Null,
            1..=4 => Value::Int(values.integer(usize::try_from(kind).ok()?)?),
            5 => Value::Int(values.integer(6)?),
            6 => Value::Int(values.integer(8)?),
            7 => Value::Float(f64::from_be_bytes(*values.take(8)?.first_chunk()?)),
            8 => Value::Int(0),
            9 => Value::Int(1),
            12.. => {
                let bytes = values
                    .take(usize::try_from((kind - 12) / 2).ok()?)?
                    .to_vec();
                if kind % 2 == 0 {
                    Value::Blob(bytes)
                } else {
                    Value::Text(String::from_utf8(bytes).ok()?)
                }
            }
            _ => return None,
        });
    }
    Some(columns)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// SQLite's: big-endian, seven bits a byte, all of the ninth.
    fn varint(&mut self) -> Option<i64> {
        let mut number: u64 = 0;
        for _ in 0..8 {
            let byte = self.take(1)?[0];
            number = number << 7 | u64::from(byte & 0x7f);
            if byte < 0x80 {
                return Some(number.cast_signed());
            }
        }
        let byte = self.take(1)?[0];
        Some((number << 8 | u64::from(byte)).cast_signed())
    }

    fn integer(&mut self, bytes: usize) -> Option<i64> {
        let bytes = self.take(bytes)?;
        let negative = bytes.first()? & 0x80 != 0;
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[8 - bytes.len()..].copy_from_slice(bytes);
        Some(i64::from_be_bytes(whole))
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    number.map_or(0, |number| u32::from_be_bytes(*number))
}

/// The map page that describes a page: one in 820, from the second on.
fn map_of(number: u32) -> u32 {
    const EVERY: u32 = 4096 / 5 + 1;
    let map = number.saturating_sub(2) / EVERY * EVERY + 2;
    match u64::from(map - 1) * PAGE as u64 == PENDING_BYTE {
        true => map + 1,
        false => map,
    }
}

fn is_map(number: u32) -> bool {
    map_of(number) == number
}

fn checksum(big_endian: bool, (mut one, mut two): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        match big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        }
    };
    for pair in bytes.chunks_exact(8) {
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    (one, two)
}
