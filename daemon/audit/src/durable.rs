//! Files that are whole or not there, after a power cut too; step by step, so that a test can cut the power between any
//! two.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::faults;

/// A file's bytes, at most so many; `None` where there is no such file.
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

/// Replaces a file of our own user's, or makes it: stage, sync, rename, sync the directory.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // What a process that died left there may have other permissions.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    faults::step()?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    write(&mut file, bytes)?;
    sync(&file)?;
    faults::step()?;
    fs::rename(&fresh, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Opens a file to write at its end; the directory has it for good.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    faults::step()?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    faults::opened(&file);
    sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

/// Writes a piece.
pub(crate) fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    faults::torn(file, bytes)?;
    file.write_all(bytes)
}

/// What was written is there after a power cut.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    faults::step()?;
    file.sync_all()?;
    faults::synced(file);
    Ok(())
}

/// Cuts a file at a length, for good.
pub(crate) fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    faults::step()?;
    file.set_len(length)?;
    sync(&file)
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    faults::step()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Gives a directory another name.
pub(crate) fn rename_dir(from: &Path, to: &Path) -> io::Result<()> {
    faults::step()?;
    fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// A directory for our own user alone, that lasts.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        faults::step()?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
    }
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn sync_dir(path: &Path) -> io::Result<()> {
    faults::step()?;
    File::open(path)?.sync_all()
}
