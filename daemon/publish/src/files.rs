//! Files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

/// Rights of what everybody may read.
pub(crate) const PUBLIC: u32 = 0o644;
/// Rights of a key.
pub(crate) const SECRET: u32 = 0o600;
/// How a file is called while it is written; such names are swept up by the next command.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// A file's bytes; `None` where there is none. A larger one than expected is damaged.
pub(crate) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io("open", path)(source)),
    };
    let mut bytes = Vec::new();
    let more = most.saturating_add(1);
    file.take(more)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > most {
        return Err(Error::damaged(path, format!("more than {most} bytes")));
    }
    Ok(Some(bytes))
}

/// Puts a file in its place once it is whole and synced; what was there is replaced.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let (dir, name) = split(path)?;
    let unfinished = dir.join(format!("{UNFINISHED}{name}"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("remove", &unfinished)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)
        .map_err(Error::io("create", &unfinished))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::io("put in its place", path))?;
    sync_dir(dir)
}

/// Gives a file a second name. Where the file system has no links, a copy.
pub(crate) fn link(from: &Path, to: &Path, bytes: &[u8]) -> Result<(), Error> {
    let (dir, _) = split(to)?;
    if read(to, u64::MAX)?.is_some_and(|there| there == bytes) {
        return Ok(());
    }
    match fs::hard_link(from, to) {
        Ok(()) => sync_dir(dir),
        Err(_) => write(to, bytes, PUBLIC),
    }
}

/// Makes a directory with those above it.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = match dir.parent() {
        Some(above) if above != Path::new("") => above,
        _ => Path::new("."),
    };
    make_dir(above, 0o755)?;
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other.map_err(Error::io("make the directory", dir))?,
    }
    sync_dir(above)
}

/// Names in a directory, in order; none where it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::io("list", dir)(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        // What is no UTF-8 is none of ours.
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync", dir))
}

fn split(path: &Path) -> Result<(&Path, &str), Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent()
        .zip(name)
        .ok_or_else(|| Error::Value(format!("{} is no name of a file", path.display())))
}
