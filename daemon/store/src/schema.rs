//! The database file: its lock, its settings, its layout.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::FlockOperation;

/// Migration `n` (from 1) makes layout `n` out of layout `n - 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_identities.sql"),
    include_str!("../migrations/0003_alarms.sql"),
    include_str!("../migrations/0004_orders.sql"),
    include_str!("../migrations/0005_commands.sql"),
    include_str!("../migrations/0006_unset_clock.sql"),
];

/// Marks the file as ours: "TIDE".
const APPLICATION_ID: i32 = 0x5449_4445;

/// Memory that the writer's connection keeps pages in, in KiB.
const CACHE_KIB: i32 = 4096;

/// Statements that stay prepared; more than the writer has.
const STATEMENTS: usize = 64;

/// How long a checkpoint waits for readers, who hold a transaction for moments; commits never wait for them.
const BUSY: Duration = Duration::from_millis(100);

/// The store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store {} is in use by process {holder}; two daemons cannot share a state directory: stop that one, or give this one another `gateway.state-dir`",
        .path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
        /// The other process' id, or `unknown`.
        holder: String,
    },
    /// A newer version wrote it.
    #[error(
        "the store {} has layout {found}, and this version knows layouts up to {known}: install the newer version again, or start with another `gateway.state-dir`",
        .path.display()
    )]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The newest layout that this version knows.
        known: i64,
    },
    /// A SQLite database, but not ours.
    #[error("{} is a database of another program: give Tidegate another `gateway.state-dir`", .path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file is no database, or a damaged one.
    #[error(
        "the store {} is damaged: move it away together with its `-wal` and `-shm` files and keep them, then start again; what still waited in it for the uplinks is in those files alone",
        .path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite cannot open or write it.
    #[error("the store {} cannot be opened; check owner, permissions and free space of its directory", .path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The lock file or the directory cannot be used.
    #[error("{} cannot be used; check owner, permissions and free space", .path.display())]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl OpenError {
    pub(crate) fn database(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_damage(&source) {
            Self::Damaged { path, source }
        } else {
            Self::Database { path, source }
        }
    }
}

/// Whether SQLite says that the file's contents are wrong.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        // A column of another type than the layout says.
        None => matches!(
            error,
            rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        ),
    }
}

/// Keeps a second daemon away from the store for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The lock goes when the file is closed.
    _file: File,
}

impl Lock {
    /// Takes the lock file beside the database, and leaves our process id in it.
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let path = beside(database, ".lock");
        let files = |source| OpenError::Files {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(files)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let read = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
                let holder = match read {
                    Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
                    Ok(_) | Err(_) => "unknown".to_owned(),
                };
                return Err(OpenError::InUse {
                    path: database.to_owned(),
                    holder,
                });
            }
            Err(error) => return Err(files(error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(files)?;
        Ok(Self { _file: file })
    }
}

/// A file that lies beside the database: its name with an ending.
pub(crate) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Opens or creates the database for the writer. True when it was created.
pub(crate) fn open(path: &Path) -> Result<(Connection, bool), OpenError> {
    let conn = connect(path).map_err(|source| OpenError::database(path, source))?;
    let found = layout(&conn).map_err(|source| OpenError::database(path, source))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    match found {
        Layout::Foreign => {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
        Layout::Ours(found) if found > known => {
            return Err(OpenError::TooNew {
                path: path.to_owned(),
                found,
                known,
            });
        }
        Layout::Ours(_) | Layout::Empty => {}
    }
    migrate(&conn, found).map_err(|source| OpenError::database(path, source))?;
    // Not only where the file was missing: the last attempt may have ended right after it made the file.
    if matches!(found, Layout::Empty) {
        sync_directory(path)?;
    }
    Ok((conn, matches!(found, Layout::Empty)))
}

/// Opens the database again after a failed commit. The layout is known to be right.
pub(crate) fn reopen(path: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = connect(path)?;
    configure(&conn)?;
    Ok(conn)
}

/// Opens the database for reading, beside a writer or without one.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(1))?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -1024)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    // Opening after a crash may have to wait for a reader that recovers the log at the same moment.
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

#[derive(Clone, Copy)]
enum Layout {
    Empty,
    Ours(i64),
    Foreign,
}

fn layout(conn: &Connection) -> Result<Layout, rusqlite::Error> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let application: i32 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    Ok(if application == APPLICATION_ID {
        Layout::Ours(version)
    } else if tables == 0 && version == 0 {
        Layout::Empty
    } else {
        Layout::Foreign
    })
}

/// Whether it is a store with a layout that this version knows.
pub(crate) fn is_ours(conn: &Connection) -> Result<bool, rusqlite::Error> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    Ok(matches!(layout(conn)?, Layout::Ours(version) if (1..=known).contains(&version)))
}

fn migrate(conn: &Connection, found: Layout) -> Result<(), rusqlite::Error> {
    let from = match found {
        Layout::Ours(version) => usize::try_from(version).unwrap_or(0),
        Layout::Empty | Layout::Foreign => {
            // Both take effect only before the first page is written.
            conn.pragma_update(None, "page_size", 4096)?;
            conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            0
        }
    };
    configure(conn)?;
    for (version, sql) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = conn.unchecked_transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(
            None,
            "user_version",
            i64::try_from(version + 1).unwrap_or(0),
        )?;
        transaction.commit()?;
    }
    Ok(())
}

/// Settings of the writer's connection.
fn configure(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // Measured: after a power cut FULL kept every acknowledged commit, NORMAL none (both intact).
    conn.pragma_update(None, "synchronous", "FULL")?;
    #[cfg(feature = "test-faults")]
    crate::faults::weaken(conn)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Checkpoints are ours: see disk.rs.
    conn.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.busy_timeout(BUSY)
}

/// Makes a new file's name durable: without it a power cut could lose the whole database.
fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| OpenError::Files {
            path: directory.to_owned(),
            source,
        })
}

/// Size of a file in bytes; a file that is not there has none.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
