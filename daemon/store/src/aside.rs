//! Damaged databases, set aside for whoever salvages them.
//!
//! A set is the database with its write-ahead log and shared memory, moved together into a directory beside it:
//! `tidegate.db.damaged-1`. While files are being moved the directory's name ends in `.partial`; a start that finds one
//! moves the rest, so that no crash can leave a log beside a database that it does not belong to.
//!
//! Bounded: two sets, and together no more bytes than the store may have; the oldest goes first, the newest always stays.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::schema::{beside, file_bytes};

/// Sets that are kept.
const SETS: usize = 2;
/// The files of a database. The log goes first: alone, it is nothing that SQLite would take for a database.
const ENDINGS: [&str; 3] = ["-wal", "-shm", ""];
/// Between the database's name and the set's number.
const MARK: &str = ".damaged-";
/// At the end of a directory's name while files are being moved into it.
const PARTIAL: &str = ".partial";
/// Why a set is there, as JSON.
const NOTE: &str = "why.json";
/// There once somebody has seen the set.
const SEEN: &str = "seen";
/// There once a committed gap and event tell of the set.
const TOLD: &str = "told";

/// A damaged database that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SetAside {
    /// Its directory.
    pub dir: PathBuf,
    /// The database file in it.
    pub database: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// What was wrong with it.
    pub why: String,
    /// When it was set aside, milliseconds since the epoch by the wall clock.
    pub time: i64,
    /// Whether an operator has seen it: `tidegate doctor` ran.
    pub seen: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Note {
    time: i64,
    why: String,
}

/// Moves the database's files away together. `time` in milliseconds.
pub(crate) fn set_aside(
    database: &Path,
    why: &str,
    time: i64,
    max_bytes: u64,
) -> io::Result<SetAside> {
    let number = numbers(database)?.last().map_or(1, |last| last + 1);
    let partial = partial(database, number);
    fs::create_dir(&partial)?;
    let note = Note {
        time,
        why: why.to_owned(),
    };
    if let Err(error) = write_note(&partial, &note) {
        // A full disk must not keep the files here: the note is the least of it.
        tracing::warn!(%error, "the reason cannot be written beside the damaged database");
    }
    sync(parent(database))?;
    let dir = move_files(database, number)?;
    if let Err(error) = prune(database, max_bytes) {
        tracing::warn!(%error, "an older damaged database could not be deleted and takes space beyond its bound");
    }
    Ok(read_set(&dir, database))
}

/// Completes what a crash interrupted. To be called before the database is opened.
pub(crate) fn finish(database: &Path) -> io::Result<()> {
    for number in numbers(database)? {
        if partial(database, number).exists() {
            move_files(database, number)?;
        }
    }
    Ok(())
}

/// The sets beside a database, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list(database: &Path) -> io::Result<Vec<SetAside>> {
    let numbers = numbers(database)?.into_iter();
    let dirs = numbers.map(|number| complete(database, number));
    Ok(dirs
        .filter(|dir| dir.exists())
        .map(|dir| read_set(&dir, database))
        .collect())
}

/// Notes that an operator has seen a set.
///
/// # Errors
/// The file that says so cannot be made.
pub fn mark_seen(set: &SetAside) -> io::Result<()> {
    File::create(set.dir.join(SEEN))?.sync_all()
}

/// The newest set of which no commit has told yet: that of a database whose successor is new.
pub(crate) fn untold(database: &Path) -> io::Result<Option<SetAside>> {
    let newest = list(database)?.pop();
    Ok(newest.filter(|set| !set.dir.join(TOLD).exists()))
}

/// Notes that a commit tells of a set.
pub(crate) fn mark_told(set: &SetAside) -> io::Result<()> {
    File::create(set.dir.join(TOLD))?.sync_all()
}

/// Whether any set is there that nobody has seen; a set that cannot be looked at counts as unseen.
pub(crate) fn any_unseen(sets: &[SetAside]) -> bool {
    sets.iter()
        .any(|set| set.dir.exists() && !set.dir.join(SEEN).exists())
}

fn move_files(database: &Path, number: u64) -> io::Result<PathBuf> {
    let partial = partial(database, number);
    for ending in ENDINGS {
        let from = beside(database, ending);
        let Some(name) = from.file_name() else {
            continue;
        };
        match fs::rename(&from, partial.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sync(&partial)?;
    sync(parent(database))?;
    let dir = complete(database, number);
    fs::rename(&partial, &dir)?;
    sync(parent(database))?;
    Ok(dir)
}

/// Deletes the oldest sets beyond the bound.
fn prune(database: &Path, max_bytes: u64) -> io::Result<()> {
    let mut sets = list(database)?;
    while sets.len() > 1 {
        let bytes: u64 = sets.iter().map(|set| set.bytes).sum();
        if sets.len() <= SETS && bytes <= max_bytes {
            break;
        }
        let oldest = sets.remove(0);
        tracing::warn!(
            "the damaged database in {} is deleted: a newer one was set aside",
            oldest.dir.display()
        );
        fs::remove_dir_all(&oldest.dir)?;
    }
    sync(parent(database))
}

fn read_set(dir: &Path, database: &Path) -> SetAside {
    let file = dir.join(database.file_name().unwrap_or_default());
    let note = fs::read(dir.join(NOTE))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
    SetAside {
        bytes: ENDINGS
            .iter()
            .map(|ending| file_bytes(&beside(&file, ending)))
            .sum(),
        database: file,
        why: note
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |note| note.why.clone()),
        time: note.map_or(0, |note| note.time),
        seen: dir.join(SEEN).exists(),
        dir: dir.to_owned(),
    }
}

fn write_note(dir: &Path, note: &Note) -> io::Result<()> {
    let mut file = File::create(dir.join(NOTE))?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()
}

/// The numbers of the sets that are there, whole or partial, in order.
fn numbers(database: &Path) -> io::Result<Vec<u64>> {
    let mut prefix = database.file_name().unwrap_or_default().to_owned();
    prefix.push(MARK);
    let prefix = prefix.to_string_lossy().into_owned();
    let mut numbers = Vec::new();
    for entry in fs::read_dir(parent(database))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix(&prefix)
            .map(|rest| rest.strip_suffix(PARTIAL).unwrap_or(rest))
            .and_then(|number| number.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn complete(database: &Path, number: u64) -> PathBuf {
    beside(database, &format!("{MARK}{number}"))
}

fn partial(database: &Path, number: u64) -> PathBuf {
    beside(database, &format!("{MARK}{number}{PARTIAL}"))
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Makes a directory's names durable.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u64 = 1 << 40;

    fn database(dir: &tempfile::TempDir, bytes: usize) -> PathBuf {
        let path = dir.path().join("t.db");
        fs::write(&path, vec![1; bytes]).unwrap();
        fs::write(beside(&path, "-wal"), [2; 10]).unwrap();
        fs::write(beside(&path, "-shm"), [3; 5]).unwrap();
        path
    }

    #[test]
    fn the_files_go_together_and_at_most_two_sets_stay() {
        let dir = tempfile::tempdir().unwrap();
        for round in 1..=4 {
            let path = database(&dir, 100);
            let set = set_aside(&path, "torn", round, MANY).unwrap();
            assert_eq!((set.bytes, set.time, set.seen), (115, round, false));
            assert_eq!(fs::read(beside(&set.database, "-wal")).unwrap(), [2; 10]);
            assert!(!path.exists() && !beside(&path, "-wal").exists());
            let sets = list(&path).unwrap();
            let times: Vec<i64> = sets.iter().map(|set| set.time).collect();
            let first = if round == 1 { 1 } else { round - 1 };
            assert_eq!(times, (first..=round).collect::<Vec<_>>());
            assert!(any_unseen(&sets));
            assert_eq!(untold(&path).unwrap(), Some(set.clone()));
            mark_told(&set).unwrap();
            assert_eq!(untold(&path).unwrap(), None);
            mark_seen(&set).unwrap();
        }
        assert!(!any_unseen(&list(&dir.path().join("t.db")).unwrap()));
    }

    #[test]
    fn sets_take_no_more_than_the_store_may_but_the_newest_stays() {
        let dir = tempfile::tempdir().unwrap();
        set_aside(&database(&dir, 100), "torn", 1, 200).unwrap();
        let newest = set_aside(&database(&dir, 500), "torn", 2, 200).unwrap();
        assert_eq!(list(&dir.path().join("t.db")).unwrap(), [newest]);
    }

    #[test]
    fn what_a_crash_interrupted_is_finished_wherever_it_came() {
        for moved in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let path = database(&dir, 100);
            let partial = partial(&path, 1);
            fs::create_dir(&partial).unwrap();
            for ending in &ENDINGS[..moved] {
                let from = beside(&path, ending);
                fs::rename(&from, partial.join(from.file_name().unwrap())).unwrap();
            }
            finish(&path).unwrap();
            let sets = list(&path).unwrap();
            assert_eq!((sets.len(), sets[0].bytes), (1, 115), "after {moved} files");
            assert!(!path.exists() && !partial.exists());
        }
    }
}
