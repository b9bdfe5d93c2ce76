//! Space that is kept back, so that deliveries can still be booked and rows be deleted on a full disk.
//!
//! The reserve is a file of allocated blocks beside the database. When the disk is full it is deleted: what the
//! write-ahead log needs to make room fits into it. It is made again when the disk has room. Its bytes are part of the
//! store's bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::aside::parent;
use crate::schema::beside;
use crate::setup::Bounds;

/// Written at a time where the file system cannot allocate.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// What the disk must have free beside it before it is made again.
    margin: u64,
}

impl Reserve {
    pub(crate) fn of(database: &Path, bounds: &Bounds) -> Self {
        Self {
            path: beside(database, ".reserve"),
            bytes: bounds.reserve_bytes,
            margin: bounds.reserve_bytes + bounds.wal_bytes / 4,
        }
    }

    /// Makes it where it is not there and the disk has room. True when it is there.
    pub(crate) fn make(&self) -> bool {
        match fs::metadata(&self.path) {
            // Another bound asked for another size, or the file was not finished.
            Ok(file) if file.len() == self.bytes => return true,
            Ok(_) | Err(_) => {}
        }
        if !self.has_room() {
            return false;
        }
        match self.allocate() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "no space can be kept back in {}", self.path.display());
                self.release();
                false
            }
        }
    }

    /// Gives the space to whoever needs it now.
    pub(crate) fn release(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(
                bytes = self.bytes,
                "the disk is full: the space that was kept back is used to make room"
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "the space that was kept back cannot be used: {}", self.path.display());
            }
        }
    }

    /// Whether the disk has room for it, and for going on afterwards.
    pub(crate) fn has_room(&self) -> bool {
        available(&self.path).is_some_and(|bytes| bytes >= self.bytes + self.margin)
    }

    /// Whether what failed can have failed for want of space.
    pub(crate) fn is_missed(&self) -> bool {
        available(&self.path).is_some_and(|bytes| bytes < self.margin)
    }

    fn allocate(&self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(&mut file, self.bytes)?,
            Err(error) => return Err(error.into()),
        }
        file.sync_all()
    }
}

fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    // Not zeros: some file systems store none of those.
    let chunk = [0xa5; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        file.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Bytes that the file system of a path gives to us; `None` where it does not say.
#[must_use]
pub fn available(path: &Path) -> Option<u64> {
    let found = statvfs(parent(path)).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_blocks_and_gives_them_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds::new(8 * 1024 * 1024);
        let reserve = Reserve::of(&dir.path().join("t.db"), &bounds);
        for _ in 0..2 {
            assert!(reserve.make());
            let file = fs::metadata(&reserve.path).unwrap();
            assert_eq!(file.len(), bounds.reserve_bytes);
            assert!(file.blocks() * 512 >= bounds.reserve_bytes, "no hole");
        }
        reserve.release();
        assert!(!reserve.path.exists());
        reserve.release();
    }

    #[test]
    fn where_blocks_cannot_be_allocated_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = File::create(&path).unwrap();
        fill(&mut file, 200_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 200_000);
    }
}
