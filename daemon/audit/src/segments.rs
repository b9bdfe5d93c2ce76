//! The files of a log: segments named by the number of their first entry, and the head.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::entry::LINE_BYTES;

/// Bytes from which on a segment is followed by a new one.
pub(crate) const SEGMENT_BYTES: u64 = 512 * 1024;
/// Segments that are kept, the one that is written among them.
pub(crate) const SEGMENTS: usize = 16;
/// The most that a segment has: what it was followed at, and what is written at once.
pub(crate) const SEGMENT_MOST_BYTES: u64 = SEGMENT_BYTES + 256 * LINE_BYTES as u64;
/// A head is one line.
const HEAD_BYTES: u64 = 16 * 1024;
const HEAD: &str = "head";
const SUFFIX: &str = "log";
/// Files in the directory that are looked at. It has a few more than there are segments.
const LISTED: usize = 1024;

/// One file of entries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    /// The number of its first entry.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Segment {
    pub(crate) fn new(dir: &Path, first: u64) -> Self {
        Self {
            first,
            path: dir.join(format!("{first:020}.{SUFFIX}")),
        }
    }

    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        Ok(durable::read(&self.path, SEGMENT_MOST_BYTES)?.unwrap_or_default())
    }
}

/// The segments, oldest first.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries.take(LISTED) {
        let name = entry?.file_name();
        let first = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse().ok());
        if let Some(first) = first {
            segments.push(Segment::new(dir, first));
        }
    }
    segments.sort();
    Ok(segments)
}

pub(crate) fn head_path(dir: &Path) -> PathBuf {
    dir.join(HEAD)
}

/// The head's line, without its line feed; `None` where there is none.
pub(crate) fn read_head(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let bytes = durable::read(&head_path(dir), HEAD_BYTES)?;
    Ok(bytes.map(|mut bytes| {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        bytes
    }))
}

/// Whole lines without their line feeds, and the bytes behind the last line feed.
pub(crate) fn lines(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    (lines, rest)
}
