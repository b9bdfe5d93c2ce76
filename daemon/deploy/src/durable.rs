//! Files that are whole or not there, after a power cut too.
//!
//! Everything that a poll writes goes through here, step by step, so that a test can cut the power between any two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::faults;

/// A file's bytes, at most so many; `None` where there is no such file.
///
/// # Errors
/// It cannot be read, or is larger.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces a file, or makes it: stage, sync, rename, sync the directory.
///
/// # Errors
/// As the system says; the file is then as it was, or whole and new.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    faults::step()?;
    let mut file = File::create(&fresh)?;
    faults::torn(&mut file, bytes)?;
    file.write_all(bytes)?;
    faults::step()?;
    file.sync_all()?;
    rename(&fresh, path)
}

/// Gives a synced file its name, and syncs the directory.
///
/// # Errors
/// As the system says.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::step()?;
    fs::rename(from, to)?;
    faults::step()?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Opens a file to go on writing at its end.
///
/// # Errors
/// As the system says.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    faults::step()?;
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes a piece.
///
/// # Errors
/// As the system says.
pub(crate) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    faults::torn(file, bytes)?;
    file.write_all(bytes)
}

/// What was written is there after a power cut.
///
/// # Errors
/// As the system says.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    faults::step()?;
    file.sync_all()
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// As the system says.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    faults::step()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a directory that lasts.
///
/// # Errors
/// As the system says.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    faults::step()?;
    fs::create_dir_all(path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
