//! The log that is written. An entry is durable when [`Log::append`] returns: its line first, the head after it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::action::Action;
use crate::durable;
use crate::entry::{Actor, Entry, Record, Stamp, object};
use crate::head::Head;
use crate::hex;
use crate::key::Key;
use crate::segments::{self, SEGMENT_BYTES, SEGMENTS, Segment};

/// Entries that one call writes at most; the caller takes the rest with the next.
const AT_ONCE: usize = 128;

/// A log that is open for writing. One process has it at a time.
#[derive(Debug)]
pub struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) key: Key,
    /// What was signed last, or is to be.
    pub(crate) head: Head,
    /// The head in memory is not yet the one on disk.
    pub(crate) head_due: bool,
    /// Oldest first; the last is written.
    pub(crate) segments: Vec<Segment>,
    /// The file of the last segment; opened when it is needed, and after every trouble.
    pub(crate) file: Option<File>,
    /// Bytes of the last segment that are whole entries. What lies behind them is of a write that failed.
    pub(crate) length: u64,
    /// Segments that the head no longer names.
    pub(crate) removed: Vec<Segment>,
    pub(crate) segment_bytes: u64,
    pub(crate) segments_most: usize,
    /// Held for as long as this lives.
    pub(crate) _lock: File,
}

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log in {} cannot be written; check owner, space and health of the disk", dir.display())]
pub struct LogError {
    pub(crate) dir: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

/// What one call wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The number of the first entry.
    pub first: u64,
    /// How many of those that were handed in.
    pub count: usize,
}

impl Log {
    /// Writes entries: all of those that `count` says, or none.
    ///
    /// # Errors
    /// They could not be made durable. They can be handed in again: what was written of them is cut off before.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Appended, LogError> {
        self.try_append(entries).map_err(|source| {
            // A file that failed is not trusted any further: it is opened again, and its end made good.
            self.file = None;
            LogError {
                dir: self.dir.clone(),
                source,
            }
        })
    }

    /// How far the log goes.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether the head on disk is older than the log.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.head_due
    }

    /// Signs the head that is due.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sign(&mut self) -> Result<(), LogError> {
        self.settle().map_err(|source| LogError {
            dir: self.dir.clone(),
            source,
        })
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let whole = self.segments.len().saturating_sub(1) as u64;
        whole * self.segment_bytes + self.length
    }

    /// For tests: smaller segments, and fewer.
    #[doc(hidden)]
    #[must_use]
    pub fn bounded(mut self, segment_bytes: u64, segments: usize) -> Self {
        self.segment_bytes = segment_bytes;
        self.segments_most = segments;
        self
    }

    fn try_append(&mut self, entries: &[Entry]) -> io::Result<Appended> {
        self.settle()?;
        let Some((first, _)) = entries.split_first() else {
            return Ok(Appended {
                first: self.head.number + 1,
                count: 0,
            });
        };
        let mut head = self.head.clone();
        let begin = match self.segments.last() {
            Some(_) if self.length < self.segment_bytes => None,
            Some(_) | None => Some(Segment::new(&self.dir, head.number + 1)),
        };
        let told = match self.segments.len() + usize::from(begin.is_some()) > self.segments_most {
            true => self.trim(&mut head, &first.at)?,
            false => None,
        };
        let count = entries.len().min(AT_ONCE);
        let given = entries.iter().take(count);
        let mut text = String::new();
        for entry in told.iter().chain(given) {
            let (line, hash) = entry.line(head.number + 1, &head.hash, &self.key);
            text.push_str(&line);
            text.push('\n');
            head.number += 1;
            head.hash = hash;
            head.time = entry.at.time;
            head.boot = entry.at.boot.to_string();
        }
        if let Some(segment) = begin {
            // A process that died may have left one of that name: it held nothing that was ever acknowledged.
            durable::remove(&segment.path)?;
            self.file = Some(durable::append(&segment.path)?);
            self.length = 0;
            self.segments.push(segment);
        }
        let file = self.last_file()?;
        durable::write(file, text.as_bytes())?;
        durable::sync(file)?;
        self.length += text.len() as u64;
        if told.is_some() {
            self.removed.push(self.segments.remove(0));
        }
        self.head = head;
        self.head_due = true;
        let appended = Appended {
            first: self.head.number + 1 - count as u64,
            count,
        };
        // The entries are durable, whatever becomes of the head: it is written with the next ones, or at the next start.
        if let Err(error) = self.settle() {
            tracing::error!(%error, "the head of the audit log is not signed anew until it can be written");
        }
        Ok(appended)
    }

    /// Signs the head that is due, then removes what it no longer names.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.head_due {
            let line = format!("{}\n", self.head.line(&self.key));
            durable::replace(&segments::head_path(&self.dir), line.as_bytes())?;
            self.head_due = false;
        }
        while let Some(segment) = self.removed.last() {
            durable::remove(&segment.path)?;
            self.removed.pop();
        }
        Ok(())
    }

    /// The last segment's file, with nothing behind its last whole entry.
    fn last_file(&mut self) -> io::Result<&mut File> {
        if self.file.is_none()
            && let Some(segment) = self.segments.last()
        {
            let there = std::fs::metadata(&segment.path).map_or(0, |file| file.len());
            if there > self.length {
                durable::cut(&segment.path, self.length)?;
            }
            self.file = Some(durable::append(&segment.path)?);
        }
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::other("there is no segment"))
    }

    /// A head without the oldest segment, and the entry that says so. The segment goes once that head is signed.
    fn trim(&self, head: &mut Head, at: &Stamp) -> io::Result<Option<Entry>> {
        let Some(next) = self.segments.get(1) else {
            return Ok(None);
        };
        let bytes = next.read()?;
        let (lines, _) = segments::lines(&bytes);
        let first = lines.first().copied().unwrap_or_default();
        let first = Record::parse(first).map_err(|why| {
            io::Error::other(format!("entry {} cannot be read: {why}", next.first))
        })?;
        let gone = (head.first, first.number - 1);
        head.first = first.number;
        head.anchor = first.prev;
        Ok(Some(Entry {
            object: object([
                ("from", json!(gone.0)),
                ("to", json!(gone.1)),
                ("hash", json!(hex::encode(&first.prev))),
            ]),
            reason: "the oldest entries make room for new ones".to_owned(),
            ..Entry::new(at.clone(), Actor::Daemon, Action::AuditTrimmed)
        }))
    }

    pub(crate) const BOUNDS: (u64, usize) = (SEGMENT_BYTES, SEGMENTS);

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
