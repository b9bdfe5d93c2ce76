//! Whether a log is whole: every entry, in order, unchanged, up to its signed head, and in agreement with a head that
//! somebody kept elsewhere.
//!
//! What is found, of somebody who can write the files and does not have the key: an entry that was changed, put in,
//! exchanged or removed, anywhere up to the signed head, and an end that was cut off. What is not: whole files put back as
//! they were at an earlier moment, head included. A head that was exported since finds that. Behind the signed head there
//! may be what was not acknowledged to anybody, which a power cut may have torn.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::action::Action;
use crate::entry::{NOTHING, Record};
use crate::head::Head;
use crate::key::PublicKey;
use crate::opening::missing;
use crate::segments::{self, Segment, lines};

/// Times that a log is read again that changed meanwhile.
const AGAIN: usize = 5;

/// A log that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The number of its first entry.
    pub first: u64,
    /// The number of its last; one less than `first` where it has none.
    pub last: u64,
    /// The last entry that the signed head names.
    pub signed: u64,
    /// The hash of that.
    pub hash: String,
    /// The fingerprint of the key that signed.
    pub key: String,
    /// Bytes behind the last entry that are none: being written, or torn by a power cut.
    pub torn_bytes: u64,
    /// Where the log began anew because the one before did not hold: number and reason.
    pub breaks: Vec<(u64, String)>,
}

/// What is wrong first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The entry, where it is one's.
    pub number: Option<u64>,
    /// In words.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "entry {number}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl Fault {
    pub(crate) fn new(number: impl Into<Option<u64>>, why: impl Into<String>) -> Self {
        Self {
            number: number.into(),
            why: why.into(),
        }
    }

    fn io(error: &io::Error) -> Self {
        Self::new(None, format!("the log cannot be read: {error}"))
    }
}

/// Verifies the log in a directory, also while it is written, and hands on its entries. `key` is the one that the gateway
/// has; without it, and without an earlier head, the log's own word is taken for whose it is.
///
/// # Errors
/// What is wrong first.
pub fn verify(
    dir: &Path,
    key: Option<&PublicKey>,
    earlier: Option<&Head>,
    mut each: impl FnMut(&Record),
) -> Result<(Verified, Vec<u8>), Fault> {
    let mut tries = 0;
    loop {
        let line = segments::read_head(dir).map_err(|error| Fault::io(&error))?;
        let mut records = Vec::new();
        let verified = verify_once(dir, line.as_deref(), key, earlier, &mut records);
        let now = segments::read_head(dir).map_err(|error| Fault::io(&error))?;
        tries += 1;
        if verified.is_err() && now != line && tries < AGAIN {
            continue;
        }
        let verified = verified?;
        records.iter().for_each(&mut each);
        return Ok((verified, line.unwrap_or_default()));
    }
}

fn verify_once(
    dir: &Path,
    line: Option<&[u8]>,
    key: Option<&PublicKey>,
    earlier: Option<&Head>,
    records: &mut Vec<Record>,
) -> Result<Verified, Fault> {
    let segments = segments::list(dir).map_err(|error| Fault::io(&error))?;
    let Some(line) = line else {
        return Err(Fault::new(
            None,
            match segments.is_empty() {
                true => format!("there is no log in {}", dir.display()),
                false => "the signed head is missing".to_owned(),
            },
        ));
    };
    let head = Head::read(line).map_err(|why| Fault::new(None, why))?;
    let first = segments.first().map_or(head.first, |segment| segment.first);
    let mut chain = Chain::new(&head, key, earlier, first)?;
    let mut torn = 0;
    let mut segments = segments.iter();
    for segment in segments.by_ref() {
        let bytes = segment.read().map_err(|error| Fault::io(&error))?;
        let before = torn;
        torn += take_segment(&mut chain, segment, &bytes, records)?;
        if torn > before {
            break;
        }
    }
    for segment in segments {
        torn += std::fs::metadata(&segment.path).map_or(0, |file| file.len());
    }
    chain.finish(torn)
}

/// Takes a segment's lines; what cannot be read behind the signed head is counted instead.
fn take_segment(
    chain: &mut Chain<'_>,
    segment: &Segment,
    bytes: &[u8],
    records: &mut Vec<Record>,
) -> Result<u64, Fault> {
    let (lines, rest) = lines(bytes);
    if segment.first != chain.next && chain.is_covered() {
        return Err(Fault::new(
            chain.next,
            format!(
                "it should begin a file of its own, and the next file is named {}",
                segment.first
            ),
        ));
    }
    let mut left = bytes.len() as u64;
    for line in lines {
        match chain.take(line) {
            Ok(record) => records.push(record),
            Err(fault) if chain.is_covered() => return Err(fault),
            Err(_) => return Ok(left),
        }
        left -= line.len() as u64 + 1;
    }
    if !rest.is_empty() && chain.is_covered() {
        return Err(Fault::new(
            chain.next,
            "it is not whole, and the signed head names it: it was changed or cut off",
        ));
    }
    Ok(rest.len() as u64)
}

/// Entries one after another.
pub(crate) struct Chain<'a> {
    head: &'a Head,
    earlier: Option<&'a Head>,
    first: u64,
    /// The number that comes next.
    next: u64,
    /// The hash that it has to name; `None` where that is not known.
    prev: Option<[u8; 32]>,
    breaks: Vec<(u64, String)>,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(
        head: &'a Head,
        key: Option<&PublicKey>,
        earlier: Option<&'a Head>,
        first: u64,
    ) -> Result<Self, Fault> {
        let expected = key.copied().or_else(|| earlier.map(|earlier| earlier.key));
        if let Some(expected) = expected
            && expected != head.key
        {
            return Err(Fault::new(
                None,
                format!(
                    "the log is signed by the key {}, and {} was expected: it is another gateway's, or was made by somebody \
                     else",
                    head.key.fingerprint(),
                    expected.fingerprint()
                ),
            ));
        }
        if let Some(earlier) = earlier
            && earlier.key != head.key
        {
            return Err(Fault::new(
                None,
                "the exported head is signed by another key than the log",
            ));
        }
        if first > head.first {
            return Err(Fault::new(
                head.first,
                format!(
                    "entries {} to {} are missing: the oldest that are kept were removed",
                    head.first,
                    first - 1
                ),
            ));
        }
        let prev = match first {
            1 => Some(NOTHING),
            _ if first == head.first => Some(head.anchor),
            _ => None,
        };
        Ok(Self {
            head,
            earlier,
            first,
            next: first,
            prev,
            breaks: Vec::new(),
        })
    }

    /// Whether the signed head names what comes next.
    pub(crate) fn is_covered(&self) -> bool {
        self.next <= self.head.number
    }

    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Record, Fault> {
        let record =
            Record::read(line, &self.head.key).map_err(|why| Fault::new(self.next, why))?;
        let number = record.number;
        if number > self.next {
            return Err(Fault::new(
                self.next,
                format!("it is missing: entry {number} stands in its place"),
            ));
        }
        if number < self.next {
            return Err(Fault::new(
                self.next,
                format!(
                    "entry {number} stands in its place: entries were exchanged or written twice"
                ),
            ));
        }
        if self.prev.is_some_and(|prev| prev != record.prev) {
            return Err(Fault::new(
                number,
                "it does not name the hash of the one before: the one or the other was put in",
            ));
        }
        if number == self.head.number && record.hash != self.head.hash {
            return Err(Fault::new(
                number,
                "it is not the one that the signed head names",
            ));
        }
        if let Some(earlier) = self.earlier
            && earlier.number == number
            && earlier.hash != record.hash
        {
            return Err(Fault::new(
                number,
                "it is not the one that the exported head names: the log was written anew",
            ));
        }
        let began = record.value["action"] == Action::AuditBegun.as_str();
        if began && record.value["outcome"] == "failed" {
            let reason = record.value["reason"].as_str().unwrap_or_default();
            self.breaks.push((number, reason.to_owned()));
        }
        self.next += 1;
        self.prev = Some(record.hash);
        Ok(record)
    }

    pub(crate) fn finish(self, torn_bytes: u64) -> Result<Verified, Fault> {
        let last = self.next.saturating_sub(1);
        if last < self.head.number {
            return Err(Fault::new(None, missing(self.next, self.head.number)));
        }
        if let Some(earlier) = self.earlier {
            if earlier.number > last {
                return Err(Fault::new(
                    None,
                    format!(
                        "the exported head goes to entry {}, and the log ends with entry {last}: the end was cut off, and an older \
                     signed head put in its place",
                        earlier.number
                    ),
                ));
            }
            if earlier.number + 1 == self.head.first && earlier.hash != self.head.anchor {
                return Err(Fault::new(
                    earlier.number,
                    "it is not the one that the exported head names: the log was written anew",
                ));
            }
            if earlier.number + 1 < self.first {
                return Err(Fault::new(
                    None,
                    format!(
                        "the exported head goes to entry {}, and the log keeps what comes from entry {} on: they cannot be compared; \
                     use a head that was exported later",
                        earlier.number, self.first
                    ),
                ));
            }
        }
        Ok(Verified {
            first: self.first,
            last,
            signed: self.head.number,
            hash: self.head.hash(),
            key: self.head.key.fingerprint(),
            torn_bytes,
            breaks: self.breaks,
        })
    }
}

/// The newest entries in front of a number, newest first, as they lie there; nothing is verified.
///
/// # Errors
/// The files cannot be read.
pub fn newest(dir: &Path, before: Option<u64>, most: usize) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for segment in segments::list(dir)?.iter().rev() {
        if before.is_some_and(|before| segment.first >= before) {
            continue;
        }
        let bytes = segment.read()?;
        let (lines, _) = lines(&bytes);
        for line in lines.iter().rev() {
            if records.len() >= most {
                return Ok(records);
            }
            if let Ok(record) = Record::parse(line)
                && before.is_none_or(|before| record.number < before)
            {
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// One entry as it lies there; nothing is verified.
///
/// # Errors
/// The files cannot be read.
pub fn read(dir: &Path, number: u64) -> io::Result<Option<Record>> {
    let found = newest(dir, number.checked_add(1), 1)?;
    Ok(found.into_iter().find(|record| record.number == number))
}
