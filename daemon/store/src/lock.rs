//! The lock beside the database: one daemon a store.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW};

use crate::schema::{OpenError, beside};

/// Keeps a second daemon away from the store for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The lock goes when the file is closed.
    file: File,
    path: PathBuf,
    created: bool,
}

impl Lock {
    /// Takes the lock file beside the database. Its contents stay as they are until [`Lock::sign`].
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, ".lock");
        let files = |source| OpenError::Files {
            path: path.clone(),
            source,
        };
        let (mut file, created) = open(&path).map_err(files)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    path: database.to_owned(),
                    holder: signature(&mut file).unwrap_or_else(|| "unknown".to_owned()),
                });
            }
            Err(error) => return Err(files(error.into())),
        }
        Ok(Self {
            file,
            path,
            created,
        })
    }

    /// Leaves our process id in it, for whoever finds it taken.
    pub(crate) fn sign(&mut self) -> Result<(), OpenError> {
        let file = &mut self.file;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| OpenError::Files {
                path: self.path.clone(),
                source,
            })
    }

    /// Changes the file's times, for the sake of the answer: whether the file system still takes changes. It costs no write of
    /// its own and goes to the disk whenever the file system sees fit.
    ///
    /// A sync that returned well says less. Where ext4 gives up its journal while a sync is under way (an I/O error, `errors=remount-ro`,
    /// a shutdown), the transaction that the sync waits for ends unwritten, and the sync may find nothing left to
    /// wait for. A change that begins after the sync cannot miss it.
    pub(crate) fn touch(&self) -> std::io::Result<()> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let now = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // Twice: ext4 does not report that the first one met a journal that was given up, but refuses the next.
        rustix::fs::futimens(&self.file, &now)?;
        Ok(rustix::fs::futimens(&self.file, &now)?)
    }

    /// Leaves everything as it was found: the store is not ours to use.
    pub(crate) fn withdraw(self) {
        if !self.created {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "the lock file {} stays behind", self.path.display());
        }
    }

    /// Whether the file that is locked is still the one beside the database.
    pub(crate) fn is_in_place(&self) -> bool {
        let (Ok(ours), Ok(there)) = (self.file.metadata(), fs::metadata(&self.path)) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

/// Opens the lock file; true when it was not there before.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((options.open(path)?, false)),
        Err(error) => Err(error),
    }
}

/// The process id in a lock file.
fn signature(file: &mut File) -> Option<String> {
    let mut holder = String::new();
    Read::by_ref(file)
        .take(20)
        .read_to_string(&mut holder)
        .ok()?;
    let holder = holder.trim();
    (!holder.is_empty()).then(|| holder.to_owned())
}

/// Who has the store of this database open, without taking anything: `None` when nobody does.
///
/// # Errors
/// The lock file is there and cannot be read.
pub fn holder(database: &Path) -> std::io::Result<Option<String>> {
    let mut file = match File::open(beside(database, ".lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(
            signature(&mut file).unwrap_or_else(|| "unknown".to_owned()),
        )),
        Err(error) => Err(error.into()),
    }
}
