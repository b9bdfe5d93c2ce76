//! The database file: its settings, its layout, and what it says when it cannot be used.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::input::StoreState;
use crate::{aside, names};

/// Migration `n` (from 1) makes layout `n` out of layout `n - 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_identities.sql"),
    include_str!("../migrations/0003_alarms.sql"),
    include_str!("../migrations/0004_orders.sql"),
    include_str!("../migrations/0005_commands.sql"),
    include_str!("../migrations/0006_unset_clock.sql"),
    include_str!("../migrations/0007_gap_series.sql"),
    include_str!("../migrations/0008_rollouts.sql"),
    include_str!("../migrations/0009_kept_input.sql"),
    include_str!("../migrations/0010_checked_names.sql"),
];

/// The layout since which names have a checksum.
const CHECKED_NAMES: usize = 10;

/// Marks the file as ours: "TIDE".
const APPLICATION_ID: i32 = 0x5449_4445;

/// Memory that the writer's connection keeps pages in, in KiB.
const CACHE_KIB: i32 = 4096;

/// Statements that stay prepared; more than the writer has.
const STATEMENTS: usize = 64;

/// How long a checkpoint waits for readers, who hold a transaction for moments; commits never wait for them.
const BUSY: Duration = Duration::from_millis(100);

/// The store could not be opened. Nothing was changed but the lock file, and where [`OpenError::state`] is `None` not
/// even that.
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
    /// The file is no database, or a damaged one, and it could not be set aside.
    #[error(
        "the store {} is damaged ({damage}) and cannot be set aside; make its directory writable, or move it away together with its `-wal` and `-shm` files and keep them",
        .path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        damage: rusqlite::Error,
        /// Why it is still there.
        #[source]
        source: std::io::Error,
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
    /// The store's condition, where trying again may help; `None` where only another configuration, another version of
    /// this program, or the end of another process does.
    #[must_use]
    pub fn state(&self) -> Option<StoreState> {
        match self {
            Self::InUse { .. } | Self::TooNew { .. } | Self::Foreign { .. } => None,
            Self::Damaged { .. } => Some(StoreState::Corrupt),
            Self::Database { source, .. } => Some(state_of(source)),
            Self::Files { source, .. } => Some(state_of_files(source)),
        }
    }
}

fn state_of_files(error: &std::io::Error) -> StoreState {
    let kind = error.kind();
    if matches!(
        kind,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    ) {
        StoreState::ReadOnly
    } else if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        StoreState::Full
    } else {
        StoreState::Degraded
    }
}

/// What an error says about the store.
pub(crate) fn state_of(error: &rusqlite::Error) -> StoreState {
    if is_damage(error) {
        return StoreState::Corrupt;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreState::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreState::ReadOnly,
        Some(_) | None => StoreState::Degraded,
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

/// A file that lies beside the database: its name with an ending.
pub(crate) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Refuses a database that this version must not touch, without touching it. What is damaged, or cannot be read, passes:
/// opening it says why.
///
/// # Errors
/// It is of a newer version, or of another program.
pub fn accept(path: &Path) -> Result<(), OpenError> {
    match peek(path) {
        Some(found) => accept_layout(path, found),
        None => Ok(()),
    }
}

fn accept_layout(path: &Path, found: Layout) -> Result<(), OpenError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    match found {
        Layout::Foreign => Err(OpenError::Foreign {
            path: path.to_owned(),
        }),
        Layout::Ours(found) if found > known => Err(OpenError::TooNew {
            path: path.to_owned(),
            found,
            known,
        }),
        Layout::Ours(_) | Layout::Empty => Ok(()),
    }
}

/// The layout, by reading alone.
fn peek(path: &Path) -> Option<Layout> {
    let mut header = [0; 108];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    if !header.starts_with(b"SQLite format 3\0") {
        return None;
    }
    if file_bytes(&beside(path, "-wal")) > 0 {
        return peek_through_log(path).ok();
    }
    let number = |at: usize| {
        header[at..]
            .first_chunk()
            .map(|bytes| i32::from_be_bytes(*bytes))
    };
    let (version, application) = (number(60)?, number(68)?);
    // The table of tables is one leaf with no cell in it.
    let empty = header[100] == 13 && header[103..105] == [0, 0];
    Some(Layout::of(empty, application, version.into()))
}

/// The newest header may be in the write-ahead log alone. Reading it there makes the shared memory's file.
fn peek_through_log(path: &Path) -> Result<Layout, rusqlite::Error> {
    let shared = beside(path, "-shm");
    let there = shared.exists();
    let conn = open_read_only(path)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let found = layout(&conn);
    drop(conn);
    if !there
        && let Err(error) = fs::remove_file(&shared)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(%error, "{} stays behind", shared.display());
    }
    found
}

/// Opens or creates the database for the writer. True when it was created.
pub(crate) fn open(path: &Path) -> Result<(Connection, bool), Trouble> {
    let conn = connect(path)?;
    let found = layout(&conn)?;
    accept_layout(path, found)?;
    migrate(&conn, found)?;
    // Not only where the file was missing: the last attempt may have ended right after it made the file.
    if matches!(found, Layout::Empty) {
        let dir = aside::parent(path);
        aside::sync(dir).map_err(|source| OpenError::Files {
            path: dir.to_owned(),
            source,
        })?;
    }
    Ok((conn, matches!(found, Layout::Empty)))
}

/// Why a database did not open: what SQLite said, or what we have to say about it.
#[derive(Debug)]
pub(crate) enum Trouble {
    Database(rusqlite::Error),
    Refused(OpenError),
}

impl Trouble {
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Database(error) if is_damage(error))
    }

    pub(crate) fn into_error(self, path: &Path) -> OpenError {
        match self {
            Self::Refused(error) => error,
            Self::Database(source) => OpenError::Database {
                path: path.to_owned(),
                source,
            },
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::Refused(error)
    }
}

/// Opens the database again after a failed commit. The layout is known to be right, and a file that is gone is not made
/// anew.
pub(crate) fn reopen(path: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = connect_with(path, OpenFlags::empty())?;
    configure(&conn)?;
    Ok(conn)
}

/// Opens the database for reading, beside a writer or without one.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = connect_for(path, flags, Duration::from_secs(1))?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -1024)?;
    Ok(conn)
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    connect_with(path, OpenFlags::SQLITE_OPEN_CREATE)
}

fn connect_with(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Opening after a crash may have to wait for a reader that recovers the log at the same moment.
    connect_for(path, flags, Duration::from_secs(5))
}

fn connect_for(
    path: &Path,
    flags: OpenFlags,
    busy: Duration,
) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(busy)?;
    // Without it a statement whose range begins at a parameter is compiled anew for every value, in case another plan suits
    // it better: that was a third of the time of a drain.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

#[derive(Clone, Copy)]
enum Layout {
    Empty,
    Ours(i64),
    Foreign,
}

impl Layout {
    fn of(empty: bool, application: i32, version: i64) -> Self {
        if application == APPLICATION_ID {
            Self::Ours(version)
        } else if empty && version == 0 {
            Self::Empty
        } else {
            Self::Foreign
        }
    }
}

fn layout(conn: &Connection) -> Result<Layout, rusqlite::Error> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let application: i32 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    Ok(Layout::of(tables == 0, application, version))
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
        if version + 1 == CHECKED_NAMES {
            names::seal(&transaction)?;
        }
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

/// Size of a file in bytes; a file that is not there has none.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
