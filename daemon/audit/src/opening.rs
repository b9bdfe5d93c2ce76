//! What a start finds. Behind the last signed head there may be whole entries, which are taken, and one that a power cut
//! tore, which is cut off. What is missing or changed in front of the signed head is no power cut: the log is set aside as it
//! is, and another begins where its head says that it ended.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::action::Action;
use crate::durable;
use crate::entry::{Actor, Entry, Outcome, Record, Stamp, object};
use crate::head::Head;
use crate::key::Key;
use crate::log::{Log, LogError};
use crate::segments::{self, Segment, lines};

/// Logs that are set aside. The first ones are the evidence; of further ones the last is replaced.
const ASIDE: usize = 3;

/// A log that was opened.
#[derive(Debug)]
pub struct Opened {
    /// It goes on, or begins.
    pub log: Log,
    /// What the caller has to write first.
    pub notes: Vec<Entry>,
    /// Why it does not go on from the log before.
    pub begun: Option<Begun>,
}

/// Why a log began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// There was none.
    First,
    /// The one before was set aside.
    Anew {
        /// Where.
        aside: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What lies there.
struct Found {
    head: Head,
    head_due: bool,
    segments: Vec<Segment>,
    removed: Vec<Segment>,
    length: u64,
    torn: u64,
}

enum Broken {
    Io(io::Error),
    /// With the head, where it is this key's.
    Changed(String, Option<Head>),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Log {
    /// Opens the log in a directory, or begins one.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has the log.
    pub fn open(dir: &Path, key: Key, gateway: &str, at: &Stamp) -> Result<Opened, LogError> {
        try_open(dir, key, gateway, at).map_err(|source| LogError {
            dir: dir.to_owned(),
            source,
        })
    }
}

fn try_open(dir: &Path, key: Key, gateway: &str, at: &Stamp) -> io::Result<Opened> {
    if let Some(parent) = dir.parent() {
        durable::make_private_dir(parent)?;
    }
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.with_extension("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another process has it open"))?;
    durable::make_private_dir(dir)?;
    let (found, begun) = match inspect(dir, &key) {
        Ok(Some(found)) => (found, None),
        Ok(None) => {
            let head = Head::begin(gateway, &key, at);
            (begin(dir, head, &key)?, Some(Begun::First))
        }
        Err(Broken::Io(error)) => return Err(error),
        Err(Broken::Changed(why, head)) => {
            let aside = set_aside(dir)?;
            durable::make_private_dir(dir)?;
            let fresh = Head::begin(gateway, &key, at);
            let fresh = match head {
                // Numbers go on, and the new log stands on the hash where the old one ended.
                Some(old) => Head {
                    number: old.number,
                    first: old.number + 1,
                    hash: old.hash,
                    anchor: old.hash,
                    ..fresh
                },
                None => fresh,
            };
            (begin(dir, fresh, &key)?, Some(Begun::Anew { aside, why }))
        }
    };
    let torn = found.torn;
    let head = Head {
        gateway: gateway.to_owned(),
        ..found.head
    };
    let mut log = Log {
        dir: dir.to_owned(),
        key,
        head,
        head_due: found.head_due,
        segments: found.segments,
        file: None,
        length: found.length,
        removed: found.removed,
        segment_bytes: Log::BOUNDS.0,
        segments_most: Log::BOUNDS.1,
        _lock: lock,
    };
    log.settle()?;
    let notes = notes(&log, begun.as_ref(), torn, at);
    Ok(Opened { log, notes, begun })
}

fn notes(log: &Log, begun: Option<&Begun>, torn: u64, at: &Stamp) -> Vec<Entry> {
    let mut notes = Vec::new();
    let entry = |action| Entry::new(at.clone(), Actor::Daemon, action);
    let key = log.key.public().fingerprint();
    let gateway = &log.head.gateway;
    match begun {
        None => {}
        Some(Begun::First) => notes.push(Entry {
            object: object([("gateway", json!(gateway)), ("key", json!(key))]),
            reason: "there was no log".to_owned(),
            ..entry(Action::AuditBegun)
        }),
        Some(Begun::Anew { aside, why }) => notes.push(Entry {
            object: object([
                ("gateway", json!(gateway)),
                ("key", json!(key)),
                ("aside", json!(aside.display().to_string())),
            ]),
            outcome: Outcome::Failed,
            reason: format!("the log before does not hold and was set aside: {why}"),
            ..entry(Action::AuditBegun)
        }),
    }
    if torn > 0 {
        notes.push(Entry {
            object: object([("bytes", json!(torn))]),
            reason: "what was being written when the process or the power went, and was not acknowledged".to_owned(),
            ..entry(Action::AuditRecovered)
        });
    }
    notes
}

/// A log without entries: its head comes first, so that entries without a head are never the work of a power cut.
fn begin(dir: &Path, head: Head, key: &Key) -> io::Result<Found> {
    let line = format!("{}\n", head.line(key));
    durable::replace(&segments::head_path(dir), line.as_bytes())?;
    Ok(Found {
        head,
        head_due: false,
        segments: Vec::new(),
        removed: Vec::new(),
        length: 0,
        torn: 0,
    })
}

fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let place = |turn: usize| dir.with_extension(format!("aside-{turn}"));
    let free = (1..=ASIDE).map(place).find(|place| !place.exists());
    let place = match free {
        Some(free) => free,
        None => {
            let last = place(ASIDE);
            std::fs::remove_dir_all(&last)?;
            last
        }
    };
    durable::rename_dir(dir, &place)?;
    Ok(place)
}

/// Looks at the end of what lies there; `None` where nothing does. Signatures in front of the head are for `verify`.
fn inspect(dir: &Path, key: &Key) -> Result<Option<Found>, Broken> {
    let mut segments = segments::list(dir)?;
    let Some(line) = segments::read_head(dir)? else {
        return match segments.is_empty() {
            true => Ok(None),
            false => Err(Broken::Changed(
                "its signed head is missing".to_owned(),
                None,
            )),
        };
    };
    let head = Head::read(&line).map_err(|why| Broken::Changed(why, None))?;
    if head.key != key.public() {
        let why = format!(
            "it is signed by another key, of fingerprint {}",
            head.key.fingerprint()
        );
        return Err(Broken::Changed(why, None));
    }
    let broken = |why: String| Broken::Changed(why, Some(head.clone()));
    // What the head no longer names, and a power cut left.
    let kept_from = segments
        .iter()
        .rposition(|segment| segment.first <= head.first)
        .unwrap_or_default();
    let removed: Vec<Segment> = segments.drain(..kept_from).collect();
    let has = |segment: &Segment| segment.first <= head.number;
    let at = segments.iter().rposition(has);
    let mut number = match (at, head.number >= head.first) {
        (Some(at), _) => segments
            .get(at)
            .map_or(0, |segment| segment.first.saturating_sub(1)),
        (None, false) => head.number,
        (None, true) => return Err(broken(missing(head.first, head.number))),
    };
    let mut prev = (number == head.number).then_some(head.hash);
    let (mut length, mut torn, mut whole) = (0, 0, at.unwrap_or_default());
    let mut sound = true;
    for (index, segment) in segments.iter().enumerate().skip(at.unwrap_or_default()) {
        let bytes = segment.read()?;
        if !sound {
            torn += bytes.len() as u64;
            continue;
        }
        let (lines, _) = lines(&bytes);
        let mut good = 0_u64;
        for line in lines {
            let covered = number < head.number;
            let read = match covered {
                true => Record::parse(line),
                false => Record::read(line, &head.key),
            };
            let read = read.and_then(|record| {
                let follows = prev.is_none_or(|prev| record.prev == prev);
                match record.number == number + 1 && follows {
                    true => Ok(record),
                    false => Err("it does not follow the one before"),
                }
            });
            match read {
                Ok(record) => {
                    number = record.number;
                    prev = Some(record.hash);
                    good += line.len() as u64 + 1;
                    if number == head.number && record.hash != head.hash {
                        return Err(broken(format!(
                            "entry {number} is not the one that was signed"
                        )));
                    }
                }
                Err(why) if covered => {
                    return Err(broken(format!("entry {}: {why}", number + 1)));
                }
                Err(_) => break,
            }
        }
        torn += bytes.len() as u64 - good;
        sound = good == bytes.len() as u64;
        (whole, length) = (index, good);
        if number < head.number && !sound {
            break;
        }
    }
    if number < head.number {
        return Err(broken(missing(number + 1, head.number)));
    }
    // Behind the head: what holds nothing whole goes.
    for segment in segments.iter().skip(whole + 1) {
        durable::remove(&segment.path)?;
    }
    segments.truncate(whole + 1);
    if let Some(last) = segments.last() {
        if torn > 0 {
            durable::cut(&last.path, length)?;
        }
        // One that holds nothing and has another name than its first entry will have is begun anew.
        if length == 0 && last.first != number + 1 {
            durable::remove(&last.path)?;
            segments.pop();
            length = match segments.last() {
                Some(last) => std::fs::metadata(&last.path)?.len(),
                None => 0,
            };
        }
    }
    let head_due = number != head.number;
    let head = Head {
        number,
        hash: prev.unwrap_or(head.hash),
        ..head
    };
    Ok(Some(Found {
        head,
        head_due,
        segments,
        removed,
        length,
        torn,
    }))
}

/// Entries that the head names and the log does not have.
pub(crate) fn missing(from: u64, to: u64) -> String {
    match from == to {
        true => {
            format!("entry {from} is missing, and the signed head names it: the log was cut off")
        }
        false => format!(
            "entries {from} to {to} are missing, and the signed head names them: the log was cut off"
        ),
    }
}
