//! What was taken before the machine's clock was set, and how it is put right.
//!
//! A gateway without a battery clock boots in 1970. Until its clock is set, times by it mean something within the boot
//! alone: with the boot's name and the monotonic time they can be put right once the clock is set.
//!
//! - Rows of history and quarantine are listed in table `unset` by the transaction that stores them. When the clock is
//!   set, each commit corrects some of them and takes them off the list, in one transaction: each exactly once. What a
//!   boot leaves on the list stays there: no other boot's clock says anything about it.
//! - What arrived before and commits with or after the setting is corrected before it is stored.
//! - Windows close at the setting, so that no open one reaches over rows that are corrected. They and every other item of
//!   the outbox carry boot and monotonic time; an event gives the offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::Arrival;
use tidegate_domain::item::millis;

use crate::block;
use crate::books::{Books, own};
use crate::clock::offset_of;
use crate::num::sql_len;

/// Rows that one commit corrects at most: blocks of up to 1024 readings, which are written again.
const BITE: usize = 32;
/// Boots that are remembered though nothing refers to them.
const BOOTS: i64 = 16;

/// Which clock that was not set a time is by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The boot's number in the database.
    pub(crate) boot: i64,
    /// Wall minus monotonic time as the clock stood, nanoseconds.
    pub(crate) offset: i64,
}

impl Mark {
    /// Milliseconds of the monotonic clock at a time in nanoseconds.
    pub(crate) fn mono(self, time: i64) -> i64 {
        millis(time.saturating_sub(self.offset))
    }
}

/// What is listed beside a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowMark {
    pub(crate) mark: Mark,
    /// When it arrived, by the monotonic clock.
    pub(crate) monotonic: i64,
    /// The readings brought their times along.
    pub(crate) own_times: bool,
}

impl RowMark {
    /// Whether rows with these marks may lie in one block: a clock that is not set is read twice with a difference of
    /// microseconds.
    pub(crate) fn fits(one: Option<Self>, other: Option<Self>) -> bool {
        const SAME: u64 = 1_000_000;
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one.own_times == other.own_times
                    && one.mark.boot == other.mark.boot
                    && one.mark.offset.abs_diff(other.mark.offset) < SAME
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

/// What kind of row it is. The numbers are those of `unset.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Block = 0,
    Quarantine = 1,
}

/// The boots that the database knows.
#[derive(Debug)]
pub(crate) struct Boots {
    /// The present one's number.
    pub(crate) present: i64,
    /// The offset that its clock was set to, where it was.
    pub(crate) set_offset: Option<i64>,
    /// The boot of the last commit, and whether its clock was ever set; `None` in a new database.
    pub(crate) last: Option<(i64, bool)>,
    /// Rows of this boot may wait to be corrected.
    pub(crate) left: bool,
    names: BTreeMap<i64, Arc<str>>,
}

impl Boots {
    pub(crate) fn load(
        conn: &Connection,
        boot: &str,
        books: &Books,
    ) -> Result<Self, rusqlite::Error> {
        let mut select = conn.prepare("SELECT id, name, set_offset FROM boot")?;
        let rows = select
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<Vec<(i64, Arc<str>, Option<i64>)>, _>>()?;
        let present = rows.iter().find(|(_, name, _)| &**name == boot);
        let &(present, _, set_offset) = present.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let last = books.store(own::BOOT).map(|last| {
            let set = |&(id, _, set): &(i64, _, Option<i64>)| id == last && set.is_some();
            (last, rows.iter().any(set))
        });
        let left = conn
            .prepare("SELECT 1 FROM unset WHERE boot = ?1")?
            .exists([present])?;
        Ok(Self {
            present,
            set_offset,
            last,
            left,
            names: rows.into_iter().map(|(id, name, _)| (id, name)).collect(),
        })
    }

    /// Whether the last commit was of the present boot; `None` in a new database.
    pub(crate) fn is_same(&self) -> Option<bool> {
        self.last.map(|(last, _)| last == self.present)
    }

    /// The mark of what arrived so; `None` where the clock was set, or the monotonic time is not known.
    pub(crate) fn mark(&self, arrival: &Arrival) -> Option<Mark> {
        let unset = !arrival.synced && arrival.monotonic != 0;
        unset.then(|| Mark {
            boot: self.present,
            offset: offset_of(arrival),
        })
    }

    /// A boot's name, as it stands in items.
    pub(crate) fn name(&self, mark: Mark) -> &str {
        self.names.get(&mark.boot).map_or("", |name| name)
    }

    /// The clock was set.
    pub(crate) fn set(&mut self, conn: &Connection, offset: i64) -> Result<(), rusqlite::Error> {
        self.set_offset = Some(offset);
        conn.prepare_cached("UPDATE boot SET set_offset = ?2 WHERE id = ?1")?
            .execute((self.present, offset))?;
        Ok(())
    }

    /// Corrects some rows of this boot, once its clock is set. True when history changed.
    pub(crate) fn correct(&mut self, conn: &Connection) -> Result<bool, rusqlite::Error> {
        let Some(set) = self.set_offset.filter(|_| self.left) else {
            return Ok(false);
        };
        let mut select = conn.prepare_cached(
            "SELECT kind, id, monotonic, clock_offset, own_times FROM unset WHERE boot = ?1 ORDER BY kind, id LIMIT ?2",
        )?;
        let rows = select
            .query_map((self.present, sql_len(BITE)), |row| {
                Ok(Unset {
                    kind: row.get(0)?,
                    id: row.get(1)?,
                    arrival: row.get::<_, i64>(2)?.saturating_add(set),
                    by: set.saturating_sub(row.get(3)?),
                    own_times: row.get(4)?,
                })
            })?
            .collect::<Result<Vec<Unset>, _>>()?;
        self.left = rows.len() == BITE;
        let mut delete =
            conn.prepare_cached("DELETE FROM unset WHERE boot = ?1 AND kind = ?2 AND id = ?3")?;
        for row in &rows {
            if row.kind == Kind::Block as u8 {
                row.correct_block(conn)?;
            } else {
                row.correct_quarantine(conn)?;
            }
            delete.execute((self.present, row.kind, row.id))?;
        }
        Ok(!rows.is_empty())
    }
}

/// A row to be corrected.
struct Unset {
    kind: u8,
    id: i64,
    /// When it arrived, as is known now.
    arrival: i64,
    /// How far its times are off.
    by: i64,
    own_times: bool,
}

impl Unset {
    fn correct_block(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        if !self.own_times {
            let data: Option<Vec<u8>> = conn
                .prepare_cached("SELECT data FROM history WHERE id = ?1")?
                .query_row([self.id], |row| row.get(0))
                .optional()?;
            if let Some(Ok((data, from, to))) = data.map(|data| self.shifted(&data)) {
                conn.prepare_cached(
                    "UPDATE history SET from_time = ?2, to_time = ?3, data = ?4 WHERE id = ?1",
                )?
                .execute((self.id, from, to, data))?;
            }
        }
        conn.prepare_cached("UPDATE history SET arrival = ?2 WHERE id = ?1")?
            .execute((self.id, self.arrival))?;
        Ok(())
    }

    fn correct_quarantine(&self, conn: &Connection) -> Result<(), rusqlite::Error> {
        if !self.own_times {
            let data: Option<Vec<u8>> = conn
                .prepare_cached("SELECT data FROM quarantine WHERE id = ?1 AND pipeline NOT NULL")?
                .query_row([self.id], |row| row.get(0))
                .optional()?;
            if let Some(Ok((data, ..))) = data.map(|data| self.shifted(&data)) {
                conn.prepare_cached(
                    "UPDATE quarantine SET data = ?2, length = length(?2) WHERE id = ?1",
                )?
                .execute((self.id, data))?;
            }
        }
        conn.prepare_cached("UPDATE quarantine SET arrival = ?2, synced = 1 WHERE id = ?1")?
            .execute((self.id, self.arrival))?;
        Ok(())
    }

    /// A damaged block keeps its times with its damage, which `verify` tells of.
    fn shifted(&self, data: &[u8]) -> Result<(Vec<u8>, i64, i64), block::BlockError> {
        block::shift(data, self.by).inspect_err(|error| {
            let what = if self.kind == Kind::Block as u8 { "block" } else { "quarantine row" };
            tracing::error!(id = self.id, %error, "a {what} is damaged: the times of its readings cannot be corrected");
        })
    }
}

/// Lists a row whose times are by a clock that is not set.
pub(crate) fn list(
    conn: &Connection,
    kind: Kind,
    id: i64,
    row: RowMark,
) -> Result<(), rusqlite::Error> {
    conn.prepare_cached("INSERT OR REPLACE INTO unset VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute((
            row.mark.boot,
            kind as u8,
            id,
            row.monotonic,
            row.mark.offset,
            row.own_times,
        ))?;
    Ok(())
}

/// The clock that a block's times are by, where that is not set: they are those of its arrival, and not corrected yet. What
/// brought its times along has none.
pub(crate) fn times_of_block(
    conn: &Connection,
    block: i64,
) -> Result<Option<Mark>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT boot, clock_offset FROM unset
         WHERE boot IN (SELECT id FROM boot) AND kind = ?1 AND id = ?2 AND NOT own_times",
    )?
    .query_row((Kind::Block as u8, block), |row| {
        Ok(Mark {
            boot: row.get(0)?,
            offset: row.get(1)?,
        })
    })
    .optional()
}

/// Takes rows up to an id off the list: they are gone.
pub(crate) fn forget(conn: &Connection, kind: Kind, up_to: i64) -> Result<(), rusqlite::Error> {
    conn.prepare_cached(
        "DELETE FROM unset WHERE boot IN (SELECT id FROM boot) AND kind = ?1 AND id <= ?2",
    )?
    .execute((kind as u8, up_to))?;
    Ok(())
}

/// Numbers the present boot, and forgets old ones that nothing refers to.
pub(crate) fn register(conn: &Connection, boot: &str, now: Arrival) -> Result<(), rusqlite::Error> {
    let set = (now.synced && now.monotonic != 0).then(|| offset_of(&now));
    let new = conn.execute(
        "INSERT INTO boot (name, set_offset) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        (boot, set),
    )?;
    if new > 0 {
        conn.execute(
            "DELETE FROM boot WHERE id <= (SELECT max(id) FROM boot) - ?1
             AND id NOT IN (SELECT boot FROM unset)
             AND id NOT IN (SELECT boot FROM open_window WHERE boot NOT NULL)",
            [BOOTS],
        )?;
    }
    Ok(())
}
