//! Identities of messages: the latest of each source, so that what comes again after a restart is known.
//!
//! A commit appends one row a source with all identities of the group, 16 bytes each: it changes one page at the end of the
//! source's range, whatever the identities are, where an index over them would change a page for each. Rows that the window
//! has left behind go several at once.

use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::Identity;

use crate::names;
use crate::num::sql_len;
use crate::setup::Setup;

/// Bits of the counter in a row's id.
pub(crate) const COUNTER_BITS: u32 = 40;
const BYTES: usize = size_of::<Identity>();

/// What is kept, by source in the configuration's order; `None` for one that gives no identities.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    sources: Vec<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    next_id: i64,
    /// How many the source's window holds.
    window: usize,
    /// How many are in the database.
    held: usize,
    /// Those of the open group, not yet written.
    open: Vec<u8>,
}

impl Identities {
    pub(crate) fn load(conn: &Connection, setup: &Setup) -> Result<Self, rusqlite::Error> {
        let mut sources = Vec::new();
        for (name, &window) in setup.sources.iter().zip(&setup.config.identity_windows) {
            if window == 0 {
                sources.push(None);
                continue;
            }
            let base = base(conn, name)?;
            let (last, bytes): (Option<i64>, i64) = conn.query_row(
                "SELECT max(id), coalesce(sum(length(data)), 0) FROM identity WHERE id BETWEEN ?1 AND ?2",
                (base, end(base)),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            sources.push(Some(Kept {
                next_id: last.map_or(base, |last| last + 1),
                window,
                held: usize::try_from(bytes).unwrap_or(0) / BYTES,
                open: Vec::new(),
            }));
        }
        Ok(Self { sources })
    }

    /// Takes the identities of one batch into the open group.
    pub(crate) fn push(&mut self, source: usize, identities: &[Identity]) {
        if let Some(Some(kept)) = self.sources.get_mut(source) {
            kept.open.extend_from_slice(identities.as_flattened());
        }
    }

    /// Writes the group's, and deletes what the windows have left behind.
    pub(crate) fn write(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        for kept in self.sources.iter_mut().flatten() {
            if kept.open.is_empty() {
                continue;
            }
            conn.prepare_cached("INSERT INTO identity VALUES (?1, ?2)")?
                .execute((kept.next_id, &kept.open))?;
            kept.held += kept.open.len() / BYTES;
            kept.next_id += 1;
            kept.open.clear();
            // An eighth at once: deleting changes pages at the other end of the range.
            if kept.held > kept.window + kept.window / 8 {
                kept.trim(conn)?;
            }
        }
        Ok(())
    }
}

impl Kept {
    /// Deletes the oldest rows that the window does without.
    fn trim(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let base = self.next_id >> COUNTER_BITS << COUNTER_BITS;
        let mut gone = None;
        let mut select = conn.prepare_cached(
            "SELECT id, length(data) FROM identity WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
        )?;
        let mut rows = select.query((base, end(base)))?;
        while let Some(row) = rows.next()? {
            let here = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0) / BYTES;
            if self.held < self.window + here {
                break;
            }
            self.held -= here;
            gone = Some(row.get::<_, i64>(0)?);
        }
        if let Some(last) = gone {
            conn.prepare_cached("DELETE FROM identity WHERE id BETWEEN ?1 AND ?2")?
                .execute((base, last))?;
        }
        Ok(())
    }
}

/// Numbers the sources that give identities, and forgets those of sources that no longer do.
pub(crate) fn register(conn: &Connection, setup: &Setup) -> Result<(), rusqlite::Error> {
    let mut kept = Vec::new();
    for (name, &window) in setup.sources.iter().zip(&setup.config.identity_windows) {
        if window > 0 {
            names::number(conn, "source", name)?;
            kept.push(Arc::clone(name));
        }
    }
    let mut select = conn.prepare("SELECT id, name FROM source")?;
    let stored = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, Arc<str>)>, _>>()?;
    for (id, _) in stored.iter().filter(|(_, name)| !kept.contains(name)) {
        let base = id << COUNTER_BITS;
        conn.execute(
            "DELETE FROM identity WHERE id BETWEEN ?1 AND ?2",
            (base, end(base)),
        )?;
    }
    Ok(())
}

/// The latest identities of every source, oldest first, at most what its window holds.
pub(crate) fn latest(
    conn: &Connection,
    setup: &Setup,
) -> Result<Vec<Vec<Identity>>, rusqlite::Error> {
    let mut all = Vec::new();
    for (name, &window) in setup.sources.iter().zip(&setup.config.identity_windows) {
        if window == 0 {
            all.push(Vec::new());
            continue;
        }
        let base = base(conn, name)?;
        let mut newest_first: Vec<Identity> = Vec::new();
        let mut select = conn.prepare(
            "SELECT data FROM identity WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT ?3",
        )?;
        // A row holds one at least.
        let mut rows = select.query((base, end(base), sql_len(window)))?;
        while newest_first.len() < window
            && let Some(row) = rows.next()?
        {
            let (identities, _) = row.get_ref(0)?.as_blob()?.as_chunks::<BYTES>();
            newest_first.extend(identities.iter().rev());
        }
        newest_first.truncate(window);
        newest_first.reverse();
        all.push(newest_first);
    }
    Ok(all)
}

/// The first id of a source's range.
fn base(conn: &Connection, source: &Arc<str>) -> Result<i64, rusqlite::Error> {
    let id: i64 = conn
        .prepare_cached("SELECT id FROM source WHERE name = ?1")?
        .query_row([source], |row| row.get(0))?;
    Ok(id << COUNTER_BITS)
}

/// The last id of the range that begins at `base`.
fn end(base: i64) -> i64 {
    base | ((1 << COUNTER_BITS) - 1)
}
