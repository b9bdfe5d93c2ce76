//! Where the database is: whether the file that is open is still the one of that name. SQLite goes on writing to a file
//! that was deleted or unmounted, and what it acknowledges then is gone with the process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::aside::parent;
use crate::disk;

#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// Device and number of the file and of its directory's file system.
    file: Option<(u64, u64)>,
    dir: Option<u64>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file is there.
    File,
    /// The directory is there, on the file system where it was, and the file is not in it.
    Directory,
    /// Neither.
    Nothing,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            file: file(path),
            dir: device(path),
            path: path.to_owned(),
        }
    }

    /// Whether the file is the one that was opened.
    pub(crate) fn check(&self) -> Result<(), rusqlite::Error> {
        if file(&self.path) == self.file {
            return Ok(());
        }
        Err(disk::error(
            rusqlite::ffi::SQLITE_CANTOPEN,
            "the database file was moved away or deleted while it was open",
        ))
    }

    pub(crate) fn look(&self) -> Found {
        if self.path.exists() {
            Found::File
        } else if self.dir.is_some() && device(&self.path) == self.dir {
            Found::Directory
        } else {
            Found::Nothing
        }
    }
}

fn file(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn device(path: &Path) -> Option<u64> {
    Some(fs::metadata(parent(path)).ok()?.dev())
}
