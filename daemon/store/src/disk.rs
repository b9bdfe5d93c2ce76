//! The store's size on disk, and what keeps it there: checkpoints of the write-ahead log, free pages given back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::commit::Room;
use crate::num::{count, sql};
use crate::schema::{beside, file_bytes};
use crate::setup::Bounds;

const PAGE_BYTES: u64 = 4096;
/// A page in the write-ahead log: the page and its header.
pub(crate) const FRAME_BYTES: u64 = PAGE_BYTES + 24;
/// Free pages that stay for the next inserts; giving them back and taking them again would cost writes.
const SPARE_PAGES: u64 = 256;

/// Bytes of the log that are written again at once.
const REWRITE_BYTES: usize = 1024 * 1024;

/// Sizes within the open transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) all: u64,
    pub(crate) free: u64,
}

impl Pages {
    pub(crate) fn of(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let pragma = |name: &str| -> Result<u64, rusqlite::Error> {
            Ok(count(
                conn.prepare_cached(name)?.query_row([], |row| row.get(0))?,
            ))
        };
        Ok(Self {
            all: pragma("PRAGMA page_count")?,
            free: pragma("PRAGMA freelist_count")?,
        })
    }

    /// The file's size once the log is written back, in bytes.
    pub(crate) fn file_bytes(self) -> u64 {
        self.all * PAGE_BYTES
    }

    pub(crate) fn free_bytes(self) -> u64 {
        self.free * PAGE_BYTES
    }

    /// What rows take.
    pub(crate) fn used_bytes(self) -> u64 {
        self.all.saturating_sub(self.free) * PAGE_BYTES
    }
}

/// Gives free pages back to the file system, within the open transaction: what makes the file larger than it may be, and,
/// unless they are to be spared, what is more than a quarter of the file; not all of it in one commit, for giving a page
/// back moves another one, and both go through the log.
pub(crate) fn vacuum(conn: &Connection, room: Room) -> Result<(), rusqlite::Error> {
    let pages = Pages::of(conn)?;
    let above = pages
        .file_bytes()
        .saturating_sub(room.file_bytes)
        .div_ceil(PAGE_BYTES);
    let spare = match room.spare {
        true => u64::MAX,
        false => SPARE_PAGES.max(pages.all / 4),
    };
    let wanted = above.min(pages.free).max(pages.free.saturating_sub(spare));
    let wanted = wanted.min(room.vacuum_pages);
    if wanted == 0 {
        return Ok(());
    }
    // It frees a page a step.
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({wanted})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// The write-ahead log beside the database.
#[derive(Debug)]
pub(crate) struct Wal {
    path: PathBuf,
}

impl Wal {
    pub(crate) fn of(database: &Path) -> Self {
        Self {
            path: beside(database, "-wal"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        file_bytes(&self.path)
    }

    /// Makes what an earlier process, or an earlier connection, left in the log durable: writes its bytes again where they
    /// are, and syncs them. To be called before the log is appended to by a new connection.
    ///
    /// After a sync that failed, the system takes what was not written for clean: it can be read, the next sync says
    /// "fine", and after a power cut it is not there, nor is anything that was committed behind it. Writing the same
    /// bytes makes them dirty again.
    pub(crate) fn rewrite(&self) -> std::io::Result<()> {
        let log = match File::options().read(true).write(true).open(&self.path) {
            Ok(log) => log,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut part = vec![0; REWRITE_BYTES];
        let mut at = 0;
        loop {
            let read = log.read_at(&mut part, at)?;
            if read == 0 {
                break;
            }
            log.write_all_at(&part[..read], at)?;
            at += read as u64;
        }
        if at > 0 {
            log.sync_all()?;
        }
        Ok(())
    }

    /// Writes the log back when it is worth it, and empties it when it is near its bound.
    /// Sees to it that the next transaction fits: half of the log's bound is its own.
    pub(crate) fn make_room(
        &self,
        conn: &Connection,
        bounds: &Bounds,
    ) -> Result<(), rusqlite::Error> {
        if self.bytes() <= bounds.wal_bytes / 2 || checkpoint_all(conn)? {
            return Ok(());
        }
        Err(error(
            rusqlite::ffi::SQLITE_BUSY,
            "a reader keeps the write-ahead log from being written back, and it may not grow",
        ))
    }

    /// Writes the log back as far as readers let it, so that its file need not grow.
    pub(crate) fn write_back(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)").map(|_| ())
    }

    pub(crate) fn checkpoint(
        &self,
        conn: &Connection,
        bounds: &Bounds,
    ) -> Result<(), rusqlite::Error> {
        if self.bytes() > bounds.wal_bytes / 2 {
            return checkpoint(conn, "PRAGMA wal_checkpoint(TRUNCATE)").map(|_| ());
        }
        let frames = checkpoint(conn, "PRAGMA wal_checkpoint(NOOP)")?;
        if frames.pending() * FRAME_BYTES > bounds.checkpoint_bytes {
            checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }
}

/// Keeps the database file within its bound, whatever a transaction does. A file that is larger can only shrink.
pub(crate) fn limit(conn: &Connection, bytes: u64) -> Result<(), rusqlite::Error> {
    let pages = sql((bytes / PAGE_BYTES).max(1));
    conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

/// Somebody else is writing the log back, or reads what is in it.
pub(crate) fn busy() -> rusqlite::Error {
    error(rusqlite::ffi::SQLITE_BUSY, "the write-ahead log is in use")
}

/// An error as if SQLite had said it.
pub(crate) fn error(code: std::ffi::c_int, what: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(what.to_owned()))
}

/// Writes all of the log into the database and syncs it. True when nothing is left in the log.
pub(crate) fn checkpoint_all(conn: &Connection) -> Result<bool, rusqlite::Error> {
    let frames = checkpoint(conn, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(!frames.busy && frames.pending() == 0)
}

/// What a checkpoint says.
struct Frames {
    busy: bool,
    log: i64,
    written_back: i64,
}

impl Frames {
    fn pending(&self) -> u64 {
        count(self.log.saturating_sub(self.written_back))
    }
}

fn checkpoint(conn: &Connection, pragma: &str) -> Result<Frames, rusqlite::Error> {
    conn.prepare_cached(pragma)?.query_row([], |row| {
        Ok(Frames {
            busy: row.get(0)?,
            log: row.get(1)?,
            written_back: row.get(2)?,
        })
    })
}
