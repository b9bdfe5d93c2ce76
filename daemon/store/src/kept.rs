//! What entered pipelines, kept for a while so that a module can be rehearsed on it. It serves nobody but whoever looks:
//! it counts in no ledger, it goes before anything else when room is short, and it is read a bounded step at a time.

use rusqlite::Connection;
use tidegate_domain::{Arrival, Batch};

use crate::block;
use crate::num::{count, sql, sql_len};
use crate::reader::{ReadError, Reader};
use crate::setup::Setup;

/// What a row takes beside its readings, bytes: both trees and their cells.
const ROW_BYTES: u64 = 48;
/// Rows that are deleted at once for space.
const BITE: usize = 16;
/// Rows of one pipeline that a commit deletes at most for age: more than it adds.
const EXPIRE: usize = 64;
/// Batches that one step hands out at most, and the bytes at which it ends.
const STEP_BATCHES: usize = 256;
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// What the writer knows of it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// What all of it takes.
    pub(crate) bytes: u64,
}

impl Kept {
    pub(crate) fn load(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let (rows, bytes): (i64, i64) = conn.query_row(
            "SELECT count(*), ifnull(sum(length(data)), 0) FROM input",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(Self {
            bytes: count(bytes) + count(rows) * ROW_BYTES,
        })
    }

    /// Keeps a batch as it entered the pipeline of this number.
    pub(crate) fn insert(
        &mut self,
        conn: &Connection,
        pipeline: i64,
        arrival: Arrival,
        batch: &Batch,
    ) -> Result<(), rusqlite::Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let data = block::encode_with_names(batch);
        conn.prepare_cached("INSERT INTO input (pipeline, arrival, data) VALUES (?1, ?2, ?3)")?
            .execute((pipeline, arrival.wall, &data))?;
        self.bytes += data.len() as u64 + ROW_BYTES;
        Ok(())
    }

    /// Deletes what is older than its pipeline keeps it, or of a pipeline that keeps nothing any more; not all at once.
    pub(crate) fn expire(
        &mut self,
        conn: &Connection,
        setup: &Setup,
        pipeline_ids: &[i64],
        wall: i64,
    ) -> Result<(), rusqlite::Error> {
        if self.bytes == 0 {
            return Ok(());
        }
        for (pipeline, &id) in setup.pipelines.iter().zip(pipeline_ids) {
            let since = match pipeline.keep_input {
                // What seems to be of the future was taken before the clock was stepped back.
                Some(keep) => wall.saturating_sub(keep)..=wall.saturating_add(keep),
                None => i64::MAX..=i64::MAX,
            };
            self.delete(
                conn,
                "SELECT id, length(data), arrival FROM input WHERE pipeline = ?1 ORDER BY id LIMIT ?2",
                (id, sql_len(EXPIRE)),
                |arrival| !since.contains(&arrival),
            )?;
        }
        Ok(())
    }

    /// Deletes the oldest. False when there is none.
    pub(crate) fn evict(&mut self, conn: &Connection) -> Result<bool, rusqlite::Error> {
        if self.bytes == 0 {
            return Ok(false);
        }
        let deleted = self.delete(
            conn,
            "SELECT id, length(data), arrival FROM input WHERE ?1 = ?1 ORDER BY id LIMIT ?2",
            (0, sql_len(BITE)),
            |_| true,
        )?;
        Ok(deleted > 0)
    }

    /// Deletes rows from the oldest on, up to the first that is not `over`.
    fn delete(
        &mut self,
        conn: &Connection,
        select: &str,
        parameters: (i64, i64),
        over: impl Fn(i64) -> bool,
    ) -> Result<usize, rusqlite::Error> {
        let rows: Vec<(i64, i64, i64)> = conn
            .prepare_cached(select)?
            .query_map(parameters, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut deleted = 0;
        for (id, length, _) in rows.into_iter().take_while(|row| over(row.2)) {
            conn.prepare_cached("DELETE FROM input WHERE id = ?1")?
                .execute([id])?;
            self.bytes = self.bytes.saturating_sub(count(length) + ROW_BYTES);
            deleted += 1;
        }
        Ok(deleted)
    }
}

/// A batch as it entered a pipeline.
#[derive(Clone, Debug)]
pub struct KeptBatch {
    /// What its filters saw as the present, nanoseconds since the epoch.
    pub arrival: i64,
    /// The readings, or what is wrong with them.
    pub readings: Result<Batch, String>,
}

/// What one step found.
#[derive(Clone, Debug)]
pub struct KeptStep {
    /// Batches in the order of their commits.
    pub batches: Vec<KeptBatch>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<u64>,
}

impl Reader {
    /// What entered a pipeline since `since` (nanoseconds since the epoch), from `first` on (0 for the oldest), as far as one
    /// short transaction goes. Nothing of a pipeline that the database does not know.
    ///
    /// # Errors
    /// The database cannot be read. A damaged batch is no error of the step.
    pub fn kept_input(
        &self,
        pipeline: &str,
        since: i64,
        first: u64,
    ) -> Result<KeptStep, ReadError> {
        self.read("kept input", |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT input.id, arrival, data FROM input JOIN pipeline ON pipeline.id = input.pipeline
                 WHERE pipeline.name = ?1 AND input.id >= ?2 AND arrival >= ?3 ORDER BY input.id",
            )?;
            let mut rows = statement.query((pipeline, sql(first), since))?;
            let mut step = KeptStep {
                batches: Vec::new(),
                next: None,
            };
            let mut bytes = 0;
            while let Some(row) = rows.next()? {
                if step.batches.len() >= STEP_BATCHES || bytes > STEP_BYTES {
                    step.next = Some(count(row.get(0)?));
                    break;
                }
                let data = row.get_ref(2)?.as_blob()?;
                bytes += data.len();
                step.batches.push(KeptBatch {
                    arrival: row.get(1)?,
                    readings: block::decode(data, |_| None).map_err(|error| error.to_string()),
                });
            }
            Ok(step)
        })
    }
}
