//! The dictionary: series and generations by number, so that blocks hold a byte or two where a name would stand.
//!
//! A series that no block, window or state names any more is forgotten by [`Dictionary::sweep`], or topics with random
//! parts would fill the store with names. `seen` tells which: every block that names a series has an id below
//! `seen + step`, and `seen` is written once in `step` blocks. The step is a quarter of the blocks that are held: a name
//! outlives its last block by no more than that, and a series costs four writes in the time that history spans.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::outcome::Generation;

use crate::config::Measures;
use crate::{names, state};

/// The least step, in blocks.
const LEAST_STEP: i64 = 8;
/// Entries kept in memory; what is above is looked up in the database again.
const CACHED: usize = 100_000;
/// New series between two sweeps, at most.
const SWEEP_AFTER: u64 = 10_000;
/// What a name takes in the database, roughly: row and index.
const NAME_BYTES: u64 = 150;

/// A known series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) id: u32,
    /// For [`Measures::text`].
    pub(crate) measure: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    series: HashMap<Arc<str>, (Series, i64)>,
    generations: HashMap<String, i64>,
    /// Since the last sweep.
    created: u64,
    sweep_after: u64,
    step: i64,
}

impl Dictionary {
    /// `step` is the last one, from the database; `main_bytes` is what names and everything else may take.
    pub(crate) fn new(step: i64, main_bytes: u64) -> Self {
        Self {
            step: step.max(LEAST_STEP),
            sweep_after: SWEEP_AFTER.min(main_bytes / NAME_BYTES / 8),
            ..Self::default()
        }
    }

    /// Adapts the step to the number of blocks that are held, and returns it. It never falls: what was seen by a longer
    /// step may be named by blocks up to that.
    pub(crate) fn set_held(&mut self, blocks: i64) -> i64 {
        self.step = self.step.max(blocks / 4);
        self.step
    }

    /// The number of a series that something in the store will name, at block `block` or a later one; new ones are inserted.
    pub(crate) fn series(
        &mut self,
        conn: &Connection,
        measures: &Measures,
        name: &Arc<str>,
        block: i64,
    ) -> Result<Series, rusqlite::Error> {
        let (series, seen) = match self.series.get(name) {
            Some(&known) => known,
            None => self.look_up(conn, measures, name, block)?,
        };
        if block.saturating_sub(seen) >= self.step {
            conn.prepare_cached("UPDATE series SET seen = ?2 WHERE id = ?1")?
                .execute((series.id, block))?;
            self.series.insert(Arc::clone(name), (series, block));
        }
        Ok(series)
    }

    fn look_up(
        &mut self,
        conn: &Connection,
        measures: &Measures,
        name: &Arc<str>,
        block: i64,
    ) -> Result<(Series, i64), rusqlite::Error> {
        let stored: Option<(u32, i64)> = conn
            .prepare_cached("SELECT id, seen FROM series WHERE name = ?1")?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (id, seen) = match stored {
            Some(stored) => stored,
            None => {
                self.created += 1;
                let (id, checksum) = names::next(conn, "series", name)?;
                conn.prepare_cached(
                    "INSERT INTO series (id, name, seen, checksum) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((id, name, block, checksum))?;
                let id = u32::try_from(id)
                    .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, id))?;
                (id, block)
            }
        };
        if self.series.len() >= CACHED {
            self.series.clear();
        }
        let series = Series {
            id,
            measure: measures.find(name),
        };
        self.series.insert(Arc::clone(name), (series, seen));
        Ok((series, seen))
    }

    /// The number of a generation.
    pub(crate) fn generation(
        &mut self,
        conn: &Connection,
        generation: &Generation,
    ) -> Result<i64, rusqlite::Error> {
        if let Some(&id) = self.generations.get(&generation.id) {
            return Ok(id);
        }
        // Strings alone: this cannot fail; were it to, the digest still names the generation.
        let slots = serde_json::to_string(&generation.slots).unwrap_or_else(|_| "[]".to_owned());
        conn.prepare_cached(
            "INSERT INTO generation (digest, slots) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        )?
        .execute((&generation.id, slots))?;
        let id = conn
            .prepare_cached("SELECT id FROM generation WHERE digest = ?1")?
            .query_row([&generation.id], |row| row.get(0))?;
        self.generations.insert(generation.id.clone(), id);
        Ok(id)
    }

    /// Whether enough new series came in for a sweep to be worth its reads.
    pub(crate) fn wants_sweep(&self) -> bool {
        self.created >= self.sweep_after
    }

    /// Forgets series that nothing names any more. `oldest_block` is the oldest that is held. Returns how many went.
    pub(crate) fn sweep(
        &mut self,
        conn: &Connection,
        oldest_block: i64,
    ) -> Result<usize, rusqlite::Error> {
        self.created = 0;
        let in_state: HashSet<u32> = state::series_in_use(conn)?;
        let mut candidates = conn.prepare_cached(
            "SELECT id FROM series WHERE seen <= ?1 AND id NOT IN (SELECT series FROM open_window)",
        )?;
        let ids = candidates
            .query_map([oldest_block.saturating_sub(self.step)], |row| row.get(0))?
            .collect::<Result<Vec<u32>, _>>()?;
        let mut delete = conn.prepare_cached("DELETE FROM series WHERE id = ?1")?;
        let mut gone = 0;
        for id in ids.iter().filter(|id| !in_state.contains(id)) {
            gone += delete.execute([id])?;
        }
        self.series.clear();
        tracing::debug!(gone, "series that nothing names any more were forgotten");
        Ok(gone)
    }
}

/// The names of series, by number, as far as they are in the dictionary.
pub(crate) struct Names<'a> {
    conn: &'a Connection,
    known: HashMap<u32, Option<Arc<str>>>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(conn: &'a Connection) -> Self {
        Self {
            conn,
            known: HashMap::new(),
        }
    }

    /// `None` for a number that is unknown, or that could not be read.
    pub(crate) fn get(&mut self, id: u32) -> Option<Arc<str>> {
        self.known
            .entry(id)
            .or_insert_with(|| {
                self.conn
                    .prepare_cached("SELECT name FROM series WHERE id = ?1")
                    .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
                    .ok()
            })
            .clone()
    }
}
