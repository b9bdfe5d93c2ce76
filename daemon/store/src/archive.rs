//! History as it is read back: by time range through the blocks, in the order of commits, a bounded step at a time, so
//! that no transaction keeps the write-ahead log from being recycled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_domain::Batch;

use crate::block;
use crate::num::count;
use crate::reader::{ReadError, Reader};
use crate::series::Names;
use crate::windows;

/// Blocks whose heads are looked at in one transaction.
const STEP_BLOCKS: i64 = 4096;
/// Blocks that one step hands out at most; a block has at most 1024 readings.
const STEP_FOUND: usize = 32;
/// How long one transaction may take before the step ends, whatever was found.
const STEP_TIME: Duration = Duration::from_millis(500);

/// Which part of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRange {
    /// The pipeline's name; every pipeline's without one.
    pub pipeline: Option<String>,
    /// From this reading's time on, nanoseconds since the epoch.
    pub from: i64,
    /// Up to this time, not included, likewise.
    pub to: i64,
}

/// A block of history: readings of one pipeline that were committed together. Some of its readings may lie outside of the
/// range.
#[derive(Clone, Debug)]
pub struct HistoryBlock {
    /// Its number; ascending in the order of commits.
    pub id: u64,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The chain that the readings went through.
    pub generation: Option<Arc<str>>,
    /// When the commit group arrived, nanoseconds since the epoch; `None` where the clock was not set.
    pub arrival: Option<i64>,
    /// The readings, or what is wrong with the block.
    pub readings: Result<Batch, String>,
}

/// What one step found.
#[derive(Clone, Debug)]
pub struct HistoryStep {
    /// Blocks in their order.
    pub blocks: Vec<HistoryBlock>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<u64>,
}

impl Reader {
    /// The blocks of a range from `first` on (0 for the oldest), as far as one short transaction goes.
    ///
    /// # Errors
    /// The database cannot be read. A damaged block is no error of the step.
    pub fn history(&self, range: &HistoryRange, first: u64) -> Result<HistoryStep, ReadError> {
        self.read("history", |conn| step(conn, range, first))
    }
}

fn step(
    conn: &Connection,
    range: &HistoryRange,
    first: u64,
) -> Result<HistoryStep, rusqlite::Error> {
    let begun = Instant::now();
    let pipelines = windows::names(conn)?;
    let mut done = HistoryStep {
        blocks: Vec::new(),
        next: None,
    };
    let wanted = match &range.pipeline {
        None => None,
        Some(name) => match pipelines.iter().find(|(_, known)| known.as_ref() == name) {
            Some((&id, _)) => Some(id),
            None => return Ok(done),
        },
    };
    let (oldest, newest): (Option<i64>, Option<i64>) =
        conn.query_row("SELECT min(id), max(id) FROM history", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else {
        return Ok(done);
    };
    let first = crate::num::sql(first).max(oldest);
    let end = first.saturating_add(STEP_BLOCKS);
    let mut names = Names::new(conn);
    let mut generations = Generations::default();
    let mut statement = conn.prepare_cached(
        "SELECT id, pipeline, generation, arrival, data FROM history
         WHERE id >= ?1 AND id < ?2 AND to_time >= ?3 AND from_time < ?4 AND (?5 IS NULL OR pipeline = ?5)
         ORDER BY id",
    )?;
    let mut rows = statement.query((first, end, range.from, range.to, wanted))?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let number: i64 = row.get(1)?;
        done.blocks.push(HistoryBlock {
            id: count(id),
            pipeline: pipelines
                .get(&number)
                .cloned()
                .unwrap_or_else(|| format!("number {number}").into()),
            generation: generations.name(conn, row.get(2)?)?,
            arrival: row.get(3)?,
            readings: block::decode(row.get_ref(4)?.as_blob()?, |id| names.get(id))
                .map_err(|error| error.to_string()),
        });
        if done.blocks.len() >= STEP_FOUND || begun.elapsed() > STEP_TIME {
            done.next = (id < newest).then_some(count(id + 1));
            return Ok(done);
        }
    }
    done.next = (end <= newest).then_some(count(end));
    Ok(done)
}

/// The chains' digests, by number.
#[derive(Default)]
struct Generations(HashMap<i64, Option<Arc<str>>>);

impl Generations {
    fn name(
        &mut self,
        conn: &Connection,
        number: Option<i64>,
    ) -> Result<Option<Arc<str>>, rusqlite::Error> {
        let Some(number) = number else {
            return Ok(None);
        };
        if let Some(known) = self.0.get(&number) {
            return Ok(known.clone());
        }
        let mut statement = conn.prepare_cached("SELECT digest FROM generation WHERE id = ?1")?;
        let mut rows = statement.query([number])?;
        let name: Option<Arc<str>> = rows.next()?.map(|row| row.get(0)).transpose()?;
        self.0.insert(number, name.clone());
        Ok(name)
    }
}
