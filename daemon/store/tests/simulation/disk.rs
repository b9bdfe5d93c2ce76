//! A disk in memory that knows what was synced. A power cut keeps that, and of the rest whatever the seed says: nothing,
//! all, a prefix whose last write is torn, or any sectors in any order.
//!
//! It is harsher than most: after a failed sync what was not written by then never reaches the disk, although it can
//! be read and the next sync says "fine" (as on Linux since 2018, see "fsyncgate").

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::random::Random;

/// What a power cut tears a write into.
const SECTOR: usize = 512;

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    Sync,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Io,
    Full,
    NotFound,
}

/// `times` calls fail after `after` more have gone well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    pub(crate) call: Call,
    pub(crate) after: u32,
    pub(crate) times: u32,
}

/// How a process or a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `kill -9`: what was written stays, synced or not.
    Kill,
    /// What was not synced is in danger.
    PowerCut,
}

#[derive(Debug, Default)]
struct File {
    /// As the process sees it.
    data: Vec<u8>,
    /// As it is after a power cut.
    durable: Vec<u8>,
    /// What was done to `data` and not to `durable`.
    unsynced: Vec<Change>,
    /// A file of the same length in the real file system: see [`Shadow`].
    shadow: Option<Shadow>,
    locks: BTreeMap<u64, i32>,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// The disk. Files go by their path; handles by the number of the file, so that a deleted one lives until it is closed.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    /// The directory, as it is after a power cut that comes before the journal of the file system.
    durable_names: BTreeMap<String, u64>,
    next: u64,
    /// Handles of an earlier boot are dead.
    boot: u64,
    off: bool,
    ending_in: Option<(u32, Ending)>,
    ended: Option<Ending>,
    failing: Option<Failing>,
    /// Bytes of all files beyond which nothing grows.
    capacity: Option<usize>,
    /// The broken disk of the proof of the proof: a sync does nothing.
    pub(crate) ignores_sync: bool,
    /// The largest sum of the sizes of all files since it was asked for last.
    peak: usize,
    pub(crate) calls: u64,
    pub(crate) syncs: u64,
}

impl Disk {
    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    pub(crate) fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// Opens a file, creating it where that is wanted.
    pub(crate) fn open(&mut self, name: Option<&str>, create: bool) -> Result<u64, Fault> {
        if self.off {
            return Err(Fault::Io);
        }
        if let Some(number) = name.and_then(|name| self.find(name)) {
            self.note_rewritten(number)?;
            return Ok(number);
        }
        if !create {
            return Err(Fault::NotFound);
        }
        self.changes()?;
        self.next += 1;
        let mut file = File::default();
        if let Some(name) = name {
            self.names.insert(name.to_owned(), self.next);
            file.shadow = Some(Shadow::new(name));
        }
        self.files.insert(self.next, file);
        Ok(self.next)
    }

    /// What was written again in whole is as if it had been written for the first time, and synced.
    fn note_rewritten(&mut self, number: u64) -> Result<(), Fault> {
        let ignores_sync = self.ignores_sync;
        let file = self.file(number)?;
        let rewritten = file.shadow.as_ref().is_some_and(Shadow::was_rewritten);
        if rewritten && !ignores_sync {
            file.unsynced.clear();
            file.durable.clone_from(&file.data);
            self.keep_name(number);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &str, sync: bool) -> Result<(), Fault> {
        if self.off {
            return Err(Fault::Io);
        }
        if !self.names.contains_key(name) {
            return Err(Fault::NotFound);
        }
        self.changes()?;
        self.names.remove(name);
        if sync && !self.ignores_sync {
            self.durable_names.remove(name);
        }
        fs::remove_file(name).expect("its shadow is there");
        Ok(())
    }

    /// Reads what is there; the rest of `into` becomes zero. False when something was missing.
    pub(crate) fn read(&mut self, file: u64, at: usize, into: &mut [u8]) -> Result<bool, Fault> {
        self.may_fail(Call::Read)?;
        let data = &self.file(file)?.data;
        let there = data.get(at..).unwrap_or_default();
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        into[length..].fill(0);
        Ok(length == into.len())
    }

    pub(crate) fn write(&mut self, file: u64, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.may_fail(Call::Write)?;
        let grows = (at + bytes.len()).saturating_sub(self.file(file)?.data.len());
        if grows > 0
            && self
                .capacity
                .is_some_and(|most| self.bytes() + grows > most)
        {
            return Err(Fault::Full);
        }
        let last = self.changes();
        let change = Change::Write {
            at,
            bytes: bytes.to_vec(),
        };
        self.change(file, change)?;
        last
    }

    pub(crate) fn truncate(&mut self, file: u64, length: usize) -> Result<(), Fault> {
        self.may_fail(Call::Write)?;
        let last = self.changes();
        self.change(file, Change::Truncate(length))?;
        last
    }

    pub(crate) fn sync(&mut self, file: u64) -> Result<(), Fault> {
        self.syncs += 1;
        if let Err(fault) = self.may_fail(Call::Sync) {
            if !self.off {
                // The pages count as clean from here on.
                self.file(file)?.unsynced.clear();
            }
            return Err(fault);
        }
        self.changes()?;
        if self.ignores_sync {
            return Ok(());
        }
        let file_at = self.file(file)?;
        for change in std::mem::take(&mut file_at.unsynced) {
            change.apply(&mut file_at.durable);
        }
        self.keep_name(file);
        Ok(())
    }

    /// A file's name goes through the journal of the file system with its contents.
    fn keep_name(&mut self, file: u64) {
        self.durable_names.retain(|_, number| *number != file);
        if let Some((name, _)) = self.names.iter().find(|(_, number)| **number == file) {
            self.durable_names.insert(name.clone(), file);
        }
    }

    /// What the store does to a new database's directory, beside SQLite.
    pub(crate) fn sync_directory(&mut self) {
        if !self.off && !self.ignores_sync {
            self.durable_names = self.names.clone();
        }
    }

    pub(crate) fn size(&mut self, file: u64) -> Result<usize, Fault> {
        Ok(self.file(file)?.data.len())
    }

    pub(crate) fn locks(&mut self, file: u64) -> Result<&mut BTreeMap<u64, i32>, Fault> {
        Ok(&mut self.file(file)?.locks)
    }

    /// Bytes of all files that have a name.
    pub(crate) fn bytes(&self) -> usize {
        let size = |number| self.files.get(number).map_or(0, |file| file.data.len());
        self.names.values().map(size).sum()
    }

    pub(crate) fn take_peak(&mut self) -> usize {
        let now = self.bytes();
        std::mem::replace(&mut self.peak, now).max(now)
    }

    pub(crate) fn fail(&mut self, failing: Failing) {
        self.failing = Some(failing);
    }

    /// From now on nothing grows by more than `more` bytes.
    pub(crate) fn fill(&mut self, more: usize) {
        self.capacity = Some(self.bytes() + more);
    }

    pub(crate) fn mend(&mut self) {
        self.failing = None;
        self.capacity = None;
        self.ending_in = None;
    }

    /// The end comes with the n-th change from now on.
    pub(crate) fn end_in(&mut self, changes: u32, ending: Ending) {
        self.ending_in = Some((changes, ending));
    }

    pub(crate) fn end_now(&mut self, ending: Ending) {
        self.off = true;
        self.ended = Some(ending);
    }

    /// How it ended, where it did.
    pub(crate) fn ended(&self) -> Option<Ending> {
        self.ended
    }

    /// The next boot, or the next process: handles are gone, and after a power cut what was in danger is decided.
    pub(crate) fn start(&mut self, random: &mut Random) {
        self.boot += 1;
        self.off = false;
        self.mend();
        let ended = self.ended.take();
        for file in self.files.values_mut() {
            file.locks.clear();
        }
        if ended == Some(Ending::PowerCut) {
            if random.chance(1, 2) {
                for name in self.names.keys() {
                    fs::remove_file(name).expect("its shadow is there");
                }
                self.names = self.durable_names.clone();
            }
            self.durable_names = self.names.clone();
            let named: Vec<u64> = self.names.values().copied().collect();
            self.files.retain(|number, _| named.contains(number));
            for file in self.files.values_mut() {
                lose(
                    &mut file.durable,
                    std::mem::take(&mut file.unsynced),
                    random,
                );
                file.data.clone_from(&file.durable);
            }
            for (name, number) in &self.names {
                let file = self.files.get_mut(number).expect("named files are there");
                let shadow = Shadow::new(name);
                shadow.set_length(file.data.len());
                file.shadow = Some(shadow);
            }
        }
        self.peak = self.bytes();
    }

    fn file(&mut self, number: u64) -> Result<&mut File, Fault> {
        self.files.get_mut(&number).ok_or(Fault::Io)
    }

    fn change(&mut self, file: u64, change: Change) -> Result<(), Fault> {
        let file = self.file(file)?;
        let before = file.data.len();
        change.apply(&mut file.data);
        file.unsynced.push(change);
        if file.data.len() != before
            && let Some(shadow) = &file.shadow
        {
            shadow.set_length(file.data.len());
        }
        self.peak = self.peak.max(self.bytes());
        Ok(())
    }

    /// Something changes: it may be the last thing.
    fn changes(&mut self) -> Result<(), Fault> {
        if let Some((left, ending)) = &mut self.ending_in {
            if *left == 0 {
                let ending = *ending;
                self.ending_in = None;
                self.end_now(ending);
                return Err(Fault::Io);
            }
            *left -= 1;
        }
        Ok(())
    }

    fn may_fail(&mut self, call: Call) -> Result<(), Fault> {
        self.calls += 1;
        if self.off {
            return Err(Fault::Io);
        }
        let Some(failing) = self.failing.as_mut().filter(|failing| failing.call == call) else {
            return Ok(());
        };
        if failing.after > 0 {
            failing.after -= 1;
            return Ok(());
        }
        failing.times = failing.times.saturating_sub(1);
        if failing.times == 0 {
            self.failing = None;
        }
        Err(Fault::Io)
    }
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(data, *at, bytes),
            Self::Truncate(length) => data.truncate(*length),
        }
    }
}

fn put(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].copy_from_slice(bytes);
}

/// What the power cut leaves of what was not synced.
fn lose(durable: &mut Vec<u8>, unsynced: Vec<Change>, random: &mut Random) {
    let kept = match random.below(4) {
        0 => return,
        1 => unsynced.len(),
        _ => random.index(unsynced.len() + 1),
    };
    let scattered = random.chance(1, 2);
    for (nth, change) in unsynced.iter().enumerate() {
        let whole = if scattered {
            kept == unsynced.len()
        } else {
            nth < kept
        };
        match change {
            _ if whole => change.apply(durable),
            Change::Write { at, bytes } if scattered || nth == kept => {
                for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                    if random.chance(1, 2) {
                        put(durable, at + sector * SECTOR, part);
                    }
                }
            }
            Change::Truncate(_) if scattered && random.chance(1, 2) => change.apply(durable),
            Change::Write { .. } | Change::Truncate(_) => {}
        }
    }
}

/// A file in the real file system that stands for one of the disk, as far as the store looks there beside SQLite: it has
/// its length, and tells by its time when the store wrote all of it again and synced it.
#[derive(Debug)]
struct Shadow(fs::File);

impl Shadow {
    fn new(name: &str) -> Self {
        let shadow = Self(fs::File::create(Path::new(name)).expect("the directory takes files"));
        shadow.mark();
        shadow
    }

    fn set_length(&self, length: usize) {
        self.0.set_len(length as u64).expect("a length");
        self.mark();
    }

    fn mark(&self) {
        self.0.set_modified(UNIX_EPOCH).expect("a time");
    }

    fn was_rewritten(&self) -> bool {
        let metadata = self.0.metadata().expect("it is open");
        let rewritten = metadata.modified().expect("it has a time") != UNIX_EPOCH;
        self.mark();
        rewritten
    }
}
