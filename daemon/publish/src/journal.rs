//! What is known of a channel's gateways, as a file that outlives the process.
//!
//! ```text
//! STATE/stable.jsonl   {"format":1,"channel":"stable"}   then one note of `tidegate_domain::fleet` a line
//! ```
//! Notes are appended and synced before anybody acts by them. A line that was cut off at the end is nobody's: the message that it
//! came from was not acknowledged, and comes again. Where most lines say what later ones say again, the file is written anew.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tidegate_domain::channel::Name;
use tidegate_domain::fleet::{Fleet, Note};
use tidegate_domain::limits;

use crate::error::Error;
use crate::files;

/// The format of the file.
const FORMAT: u32 = 1;
/// Bytes of a line: names and texts of bounded length, of which every byte can be written as six.
const LINE_BYTES: u64 = 16 * 1024;
/// Lines that may be there beside two for each gateway.
const SPARE_LINES: usize = 10_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    channel: Name,
}

/// The file, open for one process.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    channel: Name,
    file: File,
    lines: usize,
    /// Held with the process.
    _lock: File,
}

impl Journal {
    /// Opens the journal of a channel in a directory, or begins one, with what it comes to.
    ///
    /// # Errors
    /// Another process has it; the file cannot be read or written, or is damaged.
    pub fn open(dir: &Path, channel: &Name) -> Result<(Self, Fleet), Error> {
        files::make_dir(dir, 0o700)?;
        let lock = lock(dir, channel)?;
        let path = path(dir, channel);
        let read = read(&path, channel)?;
        if read.is_none() {
            files::write(&path, &head(channel)?, files::SECRET)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let (fleet, lines) = match read {
            Some(Whole {
                fleet,
                lines,
                bytes,
            }) => {
                // What was cut off at the end.
                file.set_len(bytes)
                    .and_then(|()| file.sync_all())
                    .map_err(Error::io("write", &path))?;
                (fleet, lines)
            }
            None => (Fleet::new(channel.as_str()), 0),
        };
        file.seek(SeekFrom::End(0))
            .map_err(Error::io("read", &path))?;
        let journal = Self {
            path,
            channel: channel.clone(),
            file,
            lines,
            _lock: lock,
        };
        Ok((journal, fleet))
    }

    /// What a channel's journal comes to, for looking at it while another process may write it.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn look(dir: &Path, channel: &Name) -> Result<Fleet, Error> {
        let read = read(&path(dir, channel), channel)?;
        Ok(read.map_or_else(|| Fleet::new(channel.as_str()), |read| read.fleet))
    }

    /// Stores notes: they are on the disk afterwards.
    ///
    /// # Errors
    /// They cannot be written. Nothing may be done by them; the process has to begin anew, for nobody knows what is on the disk.
    pub fn append(&mut self, notes: &[Note]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        for note in notes {
            bytes.extend(line(note)?);
        }
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(Error::io("write", &self.path))?;
        self.lines += notes.len();
        Ok(())
    }

    /// Writes the file anew where most of it is superseded.
    ///
    /// # Errors
    /// As of [`Journal::append`].
    pub fn tidy(&mut self, fleet: &Fleet) -> Result<(), Error> {
        if self.lines <= 2 * fleet.gateways().count() + SPARE_LINES {
            return Ok(());
        }
        let mut bytes = head(&self.channel)?;
        let mut lines = 0;
        for note in fleet.notes() {
            bytes.extend(line(&note)?);
            lines += 1;
        }
        files::write(&self.path, &bytes, files::SECRET)?;
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(Error::io("open", &self.path))?;
        self.lines = lines;
        Ok(())
    }
}

/// A journal's file, as far as it is whole.
struct Whole {
    fleet: Fleet,
    lines: usize,
    bytes: u64,
}

fn read(path: &Path, channel: &Name) -> Result<Option<Whole>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io("open", path)(source)),
    };
    let mut reader = BufReader::new(file);
    let mut fleet = Fleet::new(channel.as_str());
    let (mut lines, mut bytes) = (0, 0);
    // Two for each gateway, and as many again as may come before it is tidied.
    let most = 4 * limits::FLEET_GATEWAYS + SPARE_LINES;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(Error::io("read", path))?;
        if read == 0 || line.last() != Some(&b'\n') {
            if u64::try_from(read).is_ok_and(|read| read >= LINE_BYTES) || lines == 0 && bytes == 0
            {
                return Err(damaged(path, lines, "the line has no end"));
            }
            return Ok(Some(Whole {
                fleet,
                lines,
                bytes,
            }));
        }
        if bytes == 0 {
            let head: Head =
                serde_json::from_slice(&line).map_err(|error| damaged(path, lines, error))?;
            if head.format != FORMAT || head.channel != *channel {
                return Err(damaged(path, lines, "it is of another format or channel"));
            }
        } else {
            let note: Note =
                serde_json::from_slice(&line).map_err(|error| damaged(path, lines, error))?;
            fleet.apply(&note);
            lines += 1;
        }
        bytes += u64::try_from(read).unwrap_or(LINE_BYTES);
        if lines > most {
            return Err(damaged(
                path,
                lines,
                "there are more lines than are ever written",
            ));
        }
    }
}

fn damaged(path: &Path, lines: usize, problem: impl std::fmt::Display) -> Error {
    Error::Journal {
        path: path.to_owned(),
        problem: format!("line {}: {problem}", lines + 1),
    }
}

fn path(dir: &Path, channel: &Name) -> PathBuf {
    dir.join(format!("{channel}.jsonl"))
}

fn head(channel: &Name) -> Result<Vec<u8>, Error> {
    line(&Head {
        format: FORMAT,
        channel: channel.clone(),
    })
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::Value(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

/// The kernel lets go of it with the process. A file of its own, for the journal is replaced.
fn lock(dir: &Path, channel: &Name) -> Result<File, Error> {
    let path = dir.join(format!("{channel}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(files::SECRET)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Watched {
            channel: channel.to_string(),
            dir: dir.to_owned(),
        }),
        Err(error) => Err(Error::io("lock", path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use tidegate_domain::fleet::Vote;

    fn note(name: &str, epoch: u64) -> Note {
        Note::Gateway {
            name: name.to_owned(),
            epoch,
            vote: Vote::Taken,
            counts: true,
            runs: Some("range 1.0.0".to_owned()),
            reason: String::new(),
            at: 1,
        }
    }

    fn size(path: &Path) -> u64 {
        fs::metadata(path).unwrap().len()
    }

    fn names(fleet: &Fleet) -> Vec<(String, u64)> {
        fleet
            .gateways()
            .map(|(name, gateway)| (name.to_owned(), gateway.epoch))
            .collect()
    }

    #[test]
    fn it_comes_to_the_same_after_an_end_at_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let channel: Name = "stable".parse().unwrap();
        let (mut journal, fleet) = Journal::open(dir.path(), &channel).unwrap();
        assert!(names(&fleet).is_empty());
        journal.append(&[note("a", 1), note("b", 1)]).unwrap();
        journal.append(&[note("a", 2)]).unwrap();
        journal
            .append(&[Note::Halt {
                since: 2,
                why: "no".to_owned(),
            }])
            .unwrap();
        let path = path(dir.path(), &channel);
        let whole = fs::read(&path).unwrap();
        let second = Journal::open(dir.path(), &channel).unwrap_err().to_string();
        assert!(second.contains("watched"), "{second}");
        drop(journal);
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for cut in ends[0] + 1..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, fleet) = Journal::open(dir.path(), &channel).unwrap();
            let lines = ends.iter().filter(|end| **end < cut).count() - 1;
            let expect = [
                vec![],
                vec![("a".to_owned(), 1)],
                vec![("a".to_owned(), 1), ("b".to_owned(), 1)],
                vec![("a".to_owned(), 2), ("b".to_owned(), 1)],
                vec![("a".to_owned(), 2), ("b".to_owned(), 1)],
            ];
            assert_eq!(names(&fleet), expect[lines], "{cut}");
            assert_eq!(fleet.halted_since(2).is_some(), lines == 4);
            // And it goes on from there.
            journal.append(&[note("c", 3)]).unwrap();
            drop(journal);
            let fleet = Journal::look(dir.path(), &channel).unwrap();
            assert_eq!(names(&fleet).last(), Some(&("c".to_owned(), 3)));
        }
    }

    #[test]
    fn damage_is_an_error_and_what_is_superseded_goes() {
        let dir = tempfile::tempdir().unwrap();
        let channel: Name = "stable".parse().unwrap();
        let path = path(dir.path(), &channel);
        for damaged in [
            "",
            "{}\n",
            "{\"format\":2,\"channel\":\"stable\"}\n",
            "{\"format\":1,\"channel\":\"other\"}\n",
            "{\"format\":1,\"channel\":\"stable\"}\nx\n",
        ] {
            fs::write(&path, damaged).unwrap();
            let error = Journal::open(dir.path(), &channel).unwrap_err().to_string();
            assert!(error.contains("move the file away"), "{damaged:?}: {error}");
        }
        fs::remove_file(&path).unwrap();
        let (mut journal, mut fleet) = Journal::open(dir.path(), &channel).unwrap();
        for epoch in 1..=20_000 {
            let notes = [note("a", epoch)];
            fleet.apply(&notes[0]);
            if epoch % 5000 == 0 {
                journal.append(&notes).unwrap();
            } else {
                journal.file.write_all(&line(&notes[0]).unwrap()).unwrap();
                journal.lines += 1;
            }
        }
        let before = size(&path);
        journal.tidy(&fleet).unwrap();
        assert!(size(&path) * 100 < before);
        journal.append(&[note("b", 1)]).unwrap();
        drop(journal);
        let found = Journal::look(dir.path(), &channel).unwrap();
        assert_eq!(
            names(&found),
            [("a".to_owned(), 20_000), ("b".to_owned(), 1)]
        );
    }
}
