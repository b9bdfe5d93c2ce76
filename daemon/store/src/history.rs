//! History: what came through, as blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::{Arrival, Batch};

use crate::block::{BlockWriter, Encoded};
use crate::books::{Books, Scope};
use crate::config::Measures;
use crate::num::{count, sql_len};
use crate::series::{Dictionary, Series};
use crate::unset::{self, Kind, RowMark};

/// Blocks that are deleted at once.
const BITE: usize = 16;
/// Blocks that one commit gives up at most for age.
const EXPIRE_BLOCKS: usize = 64;
/// How far the head is looked at for a block whose age is known.
const HEAD_BLOCKS: i64 = 64;

/// Writes the blocks of one commit group.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) next_block: i64,
    /// One open block a pipeline, so that a pipeline's readings stay in the order in which windows see them.
    open: BTreeMap<usize, Open>,
    places: Vec<Option<u32>>,
    /// The series of the batch at hand, by index into its names, as far as rows name them.
    pub(crate) known: Vec<Option<Series>>,
    /// When the oldest block whose age is known was written. `None` where that was not looked up.
    head: Option<Head>,
}

#[derive(Debug, Default)]
struct Open {
    generation: Option<i64>,
    /// Where the clock was not set.
    unset: Option<RowMark>,
    writer: BlockWriter,
}

/// The oldest blocks.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// All up to this block are at least as old as `arrival`.
    block: i64,
    arrival: Option<i64>,
}

/// Where a block goes.
#[derive(Clone, Copy)]
pub(crate) struct Shelf<'a> {
    pub(crate) conn: &'a Connection,
    /// The pipeline's number in the database.
    pub(crate) pipeline: i64,
    /// The group's last arrival.
    pub(crate) arrival: Arrival,
    /// Where the clock was not set when the batch at hand arrived.
    pub(crate) unset: Option<RowMark>,
}

impl History {
    pub(crate) fn new(next_block: i64) -> Self {
        Self {
            next_block,
            ..Self::default()
        }
    }

    /// Appends a batch to the pipeline's block. Afterwards `known` names its series.
    pub(crate) fn append(
        &mut self,
        shelf: Shelf<'_>,
        dictionary: &mut Dictionary,
        measures: &Measures,
        pipeline: usize,
        generation: Option<i64>,
        batch: &Batch,
    ) -> Result<(), rusqlite::Error> {
        let open = self.open.entry(pipeline).or_default();
        if open.generation != generation || !RowMark::fits(open.unset, shelf.unset) {
            if let Some(block) = open.writer.finish() {
                shelf.put(&mut self.next_block, open.generation, open.unset, &block)?;
            }
            open.generation = generation;
        }
        if open.writer.rows() == 0 {
            open.unset = shelf.unset;
        } else if let (Some(open), Some(now)) = (&mut open.unset, shelf.unset) {
            // A block arrived when its last reading did.
            open.monotonic = open.monotonic.max(now.monotonic);
        }
        self.known.clear();
        self.known.resize(batch.names.len(), None);
        self.places.clear();
        self.places.resize(batch.names.len(), None);
        for (row, &name) in batch.series.iter().enumerate() {
            let name = name as usize;
            let place = match self.places[name] {
                Some(place) => place,
                None => {
                    let series = match self.known[name] {
                        Some(series) => series,
                        None => dictionary.series(
                            shelf.conn,
                            measures,
                            &batch.names[name],
                            self.next_block,
                        )?,
                    };
                    self.known[name] = Some(series);
                    let place = open.writer.place(series.id);
                    self.places[name] = Some(place);
                    place
                }
            };
            open.writer.push(place, batch, row);
            if open.writer.is_full() {
                if let Some(block) = open.writer.finish() {
                    shelf.put(&mut self.next_block, open.generation, open.unset, &block)?;
                }
                open.unset = shelf.unset;
                self.places.fill(None);
            }
        }
        Ok(())
    }

    /// Writes the blocks that are still open; `shelf` knows the pipelines' numbers.
    pub(crate) fn write<'a>(
        &mut self,
        shelf: impl Fn(usize) -> Shelf<'a>,
    ) -> Result<(), rusqlite::Error> {
        for (&pipeline, open) in &mut self.open {
            if let Some(block) = open.writer.finish() {
                shelf(pipeline).put(&mut self.next_block, open.generation, open.unset, &block)?;
            }
        }
        Ok(())
    }

    /// The oldest block that is held; the next one's id when none is.
    pub(crate) fn oldest_block(&self, conn: &Connection) -> Result<i64, rusqlite::Error> {
        let oldest: Option<i64> = conn
            .prepare_cached("SELECT min(id) FROM history")?
            .query_row([], |row| row.get(0))?;
        Ok(oldest.unwrap_or(self.next_block))
    }

    /// When the oldest block was written, as far as that is known.
    pub(crate) fn oldest_arrival(
        &mut self,
        conn: &Connection,
    ) -> Result<Option<i64>, rusqlite::Error> {
        Ok(self.head(conn)?.arrival)
    }

    fn head(&mut self, conn: &Connection) -> Result<Head, rusqlite::Error> {
        if let Some(head) = self.head {
            return Ok(head);
        }
        // Blocks from before the clock was set are as old as the first one after it, at least.
        let mut head = Head {
            block: 0,
            arrival: None,
        };
        let mut statement =
            conn.prepare_cached("SELECT id, arrival FROM history ORDER BY id LIMIT ?1")?;
        let mut rows = statement.query([HEAD_BLOCKS])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            head.block = row.get(0)?;
            head.arrival = row.get(1)?;
            if head.arrival.is_some() {
                break;
            }
        }
        // What was not found may be there after the next commit.
        if head.arrival.is_some() || seen == HEAD_BLOCKS {
            self.head = Some(head);
        }
        Ok(head)
    }

    /// Times of blocks changed: what is known of the oldest ones is out of date.
    pub(crate) fn corrected(&mut self) {
        self.head = None;
    }

    /// Deletes what was written before `oldest`, a bounded number of blocks, none of them at or above `end`.
    pub(crate) fn expire(
        &mut self,
        conn: &Connection,
        books: &mut Books,
        pipelines: &BTreeMap<i64, Arc<str>>,
        oldest: i64,
        end: i64,
    ) -> Result<(), rusqlite::Error> {
        let mut blocks = 0;
        while blocks < EXPIRE_BLOCKS {
            let head = self.head(conn)?;
            if head.arrival.is_none_or(|arrival| arrival >= oldest) || head.block >= end {
                break;
            }
            let deleted = self.delete(conn, books, pipelines, "expired", head.block + 1)?;
            blocks += deleted.max(1);
        }
        Ok(())
    }

    /// Deletes some of the oldest blocks below `end`. False when there is none.
    pub(crate) fn evict(
        &mut self,
        conn: &Connection,
        books: &mut Books,
        pipelines: &BTreeMap<i64, Arc<str>>,
        end: i64,
    ) -> Result<bool, rusqlite::Error> {
        Ok(self.delete(conn, books, pipelines, "evicted", end)? > 0)
    }

    fn delete(
        &mut self,
        conn: &Connection,
        books: &mut Books,
        pipelines: &BTreeMap<i64, Arc<str>>,
        counter: &'static str,
        end: i64,
    ) -> Result<usize, rusqlite::Error> {
        let mut last = None;
        let mut blocks = 0;
        let mut statement = conn.prepare_cached(
            "SELECT id, pipeline, rows, from_time, to_time FROM history WHERE id < ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut rows = statement.query([end, sql_len(BITE)])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let pipeline: i64 = row.get(1)?;
            let readings = count(row.get(2)?);
            if let Some(name) = pipelines.get(&pipeline) {
                books.take(Scope::Pipeline, name, "held", readings);
                books.add(Scope::Pipeline, name, counter, readings);
            }
            // Of no consequence while the process lives: it has them in memory.
            conn.prepare_cached(
                "UPDATE open_window SET incomplete = 1
                 WHERE pipeline = ?1 AND first_block <= ?2 AND from_time <= ?4 AND to_time >= ?3",
            )?
            .execute((pipeline, id, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))?;
            last = Some(id);
            blocks += 1;
        }
        if let Some(last) = last {
            conn.prepare_cached("DELETE FROM history WHERE id <= ?1")?
                .execute([last])?;
            unset::forget(conn, Kind::Block, last)?;
            self.head = None;
        }
        Ok(blocks)
    }
}

impl Shelf<'_> {
    fn put(
        self,
        next_block: &mut i64,
        generation: Option<i64>,
        unset: Option<RowMark>,
        block: &Encoded<'_>,
    ) -> Result<(), rusqlite::Error> {
        let id = *next_block;
        *next_block += 1;
        if let Some(mark) = unset {
            unset::list(self.conn, Kind::Block, id, mark)?;
        }
        let arrival = (self.arrival.synced && unset.is_none()).then_some(self.arrival.wall);
        self.conn
            .prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute((
                id,
                self.pipeline,
                generation,
                arrival,
                block.from,
                block.to,
                sql_len(block.rows),
                block.data,
            ))?;
        Ok(())
    }
}
