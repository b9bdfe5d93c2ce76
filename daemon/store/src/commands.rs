//! Commands that are at work, and answers that are remembered.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::Arrival;
use tidegate_domain::command::DETAIL;
use tidegate_domain::series::SeriesFilter;

use crate::num::{count, sql, sql_len};
use crate::setup::{Setup, nanoseconds};

/// Answers that are remembered for each uplink: a command that comes again after so many others is a new one.
const REMEMBERED: i64 = 1024;
/// For how long, by a clock that is known to be set, nanoseconds. Brokers keep commands for a day.
const REMEMBERED_FOR: i64 = 7 * 86_400 * 1_000_000_000;
/// Bytes of all answers that are remembered, as a part of the store.
const REMEMBERED_PART: u64 = 64;
/// The least of that.
const REMEMBERED_BYTES: u64 = 64 * 1024;

/// Commands of one kind that are at work for one uplink at once.
pub(crate) const AT_ONCE: usize = 16;
/// Time between two slices of a backfill, nanoseconds: it costs a commit.
const SLICE_EVERY: i64 = 100_000_000;
/// Items that wait for an uplink beyond which a backfill waits, too: it is not to push out what is new.
const WAITING: u64 = 20_000;

/// Every reading of some series goes up, for a time.
#[derive(Clone, Debug)]
pub(crate) struct Detail {
    pub(crate) uplink: usize,
    pub(crate) id: String,
    pub(crate) pipeline: Option<String>,
    pub(crate) series: String,
    pub(crate) filter: SeriesFilter,
    /// By the wall clock, nanoseconds.
    pub(crate) until: i64,
    /// By the monotonic clock, nanoseconds: this one decides.
    pub(crate) due: i64,
    pub(crate) sent: u64,
    pub(crate) changed: bool,
}

/// Readings out of history go up.
#[derive(Clone, Debug)]
pub(crate) struct Backfill {
    pub(crate) uplink: usize,
    pub(crate) id: String,
    pub(crate) pipeline: Option<String>,
    pub(crate) series: String,
    pub(crate) filter: SeriesFilter,
    /// Nanoseconds since the epoch.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) most: u64,
    pub(crate) next_block: i64,
    pub(crate) end_block: i64,
    pub(crate) sent: u64,
    /// Some of it was no longer there, or could not be read.
    pub(crate) incomplete: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) details: Vec<Detail>,
    pub(crate) backfills: Vec<Backfill>,
    /// When the next slice of a backfill may go, by the monotonic clock.
    pub(crate) next_slice: i64,
    /// Since they were shown last.
    pub(crate) changed: bool,
}

impl Commands {
    /// What was at work before. `now`: the present.
    pub(crate) fn load(
        conn: &Connection,
        setup: &Setup,
        uplink_ids: &[i64],
        now: Arrival,
    ) -> Result<Self, rusqlite::Error> {
        let mut commands = Self {
            changed: true,
            ..Self::default()
        };
        for (uplink, id) in uplink_ids.iter().enumerate().take(setup.uplinks.len()) {
            let mut statement = conn.prepare(
                "SELECT id, pipeline, series, until, sent FROM detail WHERE uplink = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                let (series, until): (String, i64) = (row.get(2)?, row.get(3)?);
                // The wall clock may be anywhere after a start; a day is the longest in any case.
                let left = until.saturating_sub(now.wall).clamp(0, nanoseconds(DETAIL));
                commands.details.push(Detail {
                    uplink,
                    id: row.get(0)?,
                    pipeline: row.get(1)?,
                    filter: filter(&series)?,
                    series,
                    until,
                    due: now.monotonic.saturating_add(left),
                    sent: count(row.get(4)?),
                    changed: false,
                });
            }
            let mut statement = conn.prepare(
                "SELECT id, pipeline, series, from_time, to_time, most, next_block, end_block, sent, incomplete
                 FROM backfill WHERE uplink = ?1 ORDER BY id",
            )?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                let series: String = row.get(2)?;
                commands.backfills.push(Backfill {
                    uplink,
                    id: row.get(0)?,
                    pipeline: row.get(1)?,
                    filter: filter(&series)?,
                    series,
                    from: row.get(3)?,
                    to: row.get(4)?,
                    most: count(row.get(5)?),
                    next_block: row.get(6)?,
                    end_block: row.get(7)?,
                    sent: count(row.get(8)?),
                    incomplete: row.get(9)?,
                });
            }
        }
        Ok(commands)
    }

    /// When something is to be done, by the monotonic clock. `waiting`: items by uplink.
    pub(crate) fn next_due(&self, waiting: impl Fn(usize) -> u64) -> Option<i64> {
        let ends = self.details.iter().map(|detail| detail.due).min();
        let may_go = |job: &Backfill| has_room(waiting(job.uplink));
        let slice = self.backfills.iter().any(may_go).then_some(self.next_slice);
        [ends, slice].into_iter().flatten().min()
    }

    /// The backfills whose turn it is, as indices: the first of each uplink that has room.
    pub(crate) fn slices(&mut self, now: i64, waiting: impl Fn(usize) -> u64) -> Vec<usize> {
        if now < self.next_slice {
            return Vec::new();
        }
        let mut turns: Vec<usize> = Vec::new();
        for (index, job) in self.backfills.iter().enumerate() {
            let first = turns
                .iter()
                .all(|&turn| self.backfills[turn].uplink != job.uplink);
            if first && has_room(waiting(job.uplink)) {
                turns.push(index);
            }
        }
        if !turns.is_empty() {
            self.next_slice = now.saturating_add(SLICE_EVERY);
        }
        turns
    }
}

fn has_room(waiting: u64) -> bool {
    waiting < WAITING
}

/// A glob that was checked when the command came in; one that cannot be read any more selects nothing.
fn filter(series: &str) -> Result<SeriesFilter, rusqlite::Error> {
    SeriesFilter::new(&[series.to_owned()]).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, error.into())
    })
}

/// What was answered to a command of that id.
pub(crate) fn remembered(
    conn: &Connection,
    uplink: i64,
    id: &str,
) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    conn.prepare_cached("SELECT reply FROM command WHERE uplink = ?1 AND id = ?2")?
        .query_row((uplink, id), |row| row.get(0))
        .optional()
}

/// Remembers an answer, in the place of an earlier one to the same command, and forgets what is too many, too much or too
/// old. `now`: the wall clock where it is known to be set.
pub(crate) fn remember(
    conn: &Connection,
    setup: &Setup,
    uplink: i64,
    id: &str,
    (time, now): (i64, Option<i64>),
    reply: &[u8],
) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(
        "INSERT INTO command (uplink, id, time, reply) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET reply = ?4",
    )?
    .execute((uplink, id, time, reply))?;
    conn.prepare_cached(
        "DELETE FROM command WHERE uplink = ?1 AND number <=
         (SELECT number FROM command WHERE uplink = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute((uplink, REMEMBERED))?;
    if let Some(now) = now {
        conn.prepare_cached("DELETE FROM command WHERE time < ?1")?
            .execute([now.saturating_sub(REMEMBERED_FOR)])?;
    }
    let most = REMEMBERED_BYTES.max(setup.bounds.max_bytes / REMEMBERED_PART);
    let mut bytes = 0;
    let mut statement =
        conn.prepare_cached("SELECT number, length(reply) FROM command ORDER BY number DESC")?;
    let mut rows = statement.query([])?;
    let mut first = true;
    while let Some(row) = rows.next()? {
        bytes += count(row.get(1)?);
        if bytes > most && !std::mem::take(&mut first) {
            let number: i64 = row.get(0)?;
            conn.prepare_cached("DELETE FROM command WHERE number <= ?1")?
                .execute([number])?;
            break;
        }
        first = false;
    }
    Ok(())
}

impl Detail {
    pub(crate) fn insert(&self, conn: &Connection, uplink: i64) -> Result<(), rusqlite::Error> {
        conn.prepare_cached("INSERT OR REPLACE INTO detail VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute((
                uplink,
                &self.id,
                &self.pipeline,
                &self.series,
                self.until,
                sql(self.sent),
            ))?;
        Ok(())
    }

    pub(crate) fn delete(&self, conn: &Connection, uplink: i64) -> Result<(), rusqlite::Error> {
        conn.prepare_cached("DELETE FROM detail WHERE uplink = ?1 AND id = ?2")?
            .execute((uplink, &self.id))?;
        Ok(())
    }
}

impl Backfill {
    pub(crate) fn insert(&self, conn: &Connection, uplink: i64) -> Result<(), rusqlite::Error> {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO backfill VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute((
            uplink,
            &self.id,
            &self.pipeline,
            &self.series,
            self.from,
            self.to,
            sql(self.most),
            self.next_block,
            self.end_block,
            sql(self.sent),
            self.incomplete,
        ))?;
        Ok(())
    }

    pub(crate) fn delete(&self, conn: &Connection, uplink: i64) -> Result<(), rusqlite::Error> {
        conn.prepare_cached("DELETE FROM backfill WHERE uplink = ?1 AND id = ?2")?
            .execute((uplink, &self.id))?;
        Ok(())
    }
}

/// Forgets what was at work for uplinks that are no longer configured.
pub(crate) fn forget_uplinks(
    conn: &Connection,
    uplinks: &[Arc<str>],
) -> Result<(), rusqlite::Error> {
    let known = conn
        .prepare("SELECT id, name FROM uplink")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, Arc<str>)>, _>>()?;
    for (id, _) in known.iter().filter(|(_, name)| !uplinks.contains(name)) {
        for table in ["detail", "backfill", "command"] {
            conn.execute(&format!("DELETE FROM {table} WHERE uplink = ?1"), [id])?;
        }
    }
    Ok(())
}

/// How much a slice of a backfill does: heads of blocks that are looked at, blocks that are read.
pub(crate) const SLICE_HEADS: usize = 256;
/// See [`SLICE_HEADS`].
pub(crate) const SLICE_BLOCKS: usize = 8;

/// A block's place in history.
pub(crate) struct Head {
    pub(crate) block: i64,
    pub(crate) pipeline: i64,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// The heads of some blocks from one on, in order.
pub(crate) fn heads(conn: &Connection, from: i64, end: i64) -> Result<Vec<Head>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT id, pipeline, from_time, to_time FROM history WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?
    .query_map((from, end, sql_len(SLICE_HEADS)), |row| {
        Ok(Head {
            block: row.get(0)?,
            pipeline: row.get(1)?,
            from: row.get(2)?,
            to: row.get(3)?,
        })
    })?
    .collect()
}
