//! A switch that breaks the store on purpose, for the test that proves our tests. Not in any release.

use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

static NORMAL: AtomicBool = AtomicBool::new(false);

/// From here on a commit returns before it is on the disk, as with `synchronous=NORMAL`.
pub fn commit_without_sync() {
    NORMAL.store(true, Ordering::Relaxed);
}

/// Undoes what [`commit_without_sync`] wants undone.
pub(crate) fn weaken(conn: &Connection) -> Result<(), rusqlite::Error> {
    if NORMAL.load(Ordering::Relaxed) {
        conn.pragma_update(None, "synchronous", "NORMAL")?;
    }
    Ok(())
}
