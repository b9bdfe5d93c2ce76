//! What the gateway remembers beside data, taken over where it is readable.
//!
//! Filter state is taken whole or not at all: every change of it has a checksum and a number (`state.rs`), and a filter that
//! begins anew is better than one that goes on from numbers that never were. A state whose last changes are lost without
//! a trace is taken as it was before them. Identities have no checksum and need none: one that is damaged is of no message.
//! Answers must be JSON, commands at work must make sense and are bounded as they were when they came in.

use std::collections::BTreeMap;

use rusqlite::params_from_iter;
use tidegate_domain::Identity;
use tidegate_domain::rollout::is_candidate_key;
use tidegate_domain::series::SeriesFilter;

use super::pages::{Row, Value};
use super::{COUNT_MAX, Salvage, Table, Trouble, is_number, is_uplink, nameless};
use crate::commands::AT_ONCE;
use crate::identities::COUNTER_BITS;
use crate::names::checksum;
use crate::state::{Change, Pieces};

/// Names that are listed of filters that begin anew.
const LISTED: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) slots: BTreeMap<i64, String>,
    pub(super) sources: BTreeMap<i64, String>,
    pieces: BTreeMap<i64, Pieces>,
    /// Commands that were taken, by kind and uplink.
    at_work: BTreeMap<(u8, i64), usize>,
}

/// Whether bytes are state with the checksum that they were written with.
pub(super) fn is_state(data: &[u8]) -> bool {
    matches!(Change::decode(data), Ok((Some(_), _)))
}

/// Whether a row can be identities of messages: its number names a source, and they are all of one length.
pub(super) fn are_identities(id: i64, data: &[u8]) -> bool {
    let whole = data.len().is_multiple_of(size_of::<Identity>());
    is_source(id >> COUNTER_BITS) && !data.is_empty() && whole
}

/// Whether the identities of such a source fit into an id.
pub(super) fn is_source(id: i64) -> bool {
    (1..1 << (62 - COUNTER_BITS)).contains(&id)
}

/// Whether bytes are an answer to a command.
pub(super) fn is_reply(reply: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(reply).is_ok()
}

impl Salvage<'_> {
    pub(super) fn state(&mut self, table: Table, row: &Row) {
        use Value::{Blob, Int, Null};
        let taken = match (table, &row.columns[..]) {
            (Table::Snapshot, [Null, Blob(data), ..]) => {
                let pieces = self.memory.pieces.entry(row.id).or_default();
                pieces.add_snapshot(data)
            }
            (Table::StateLog, [Null, Int(slot), Blob(data), ..]) => {
                let pieces = self.memory.pieces.entry(*slot).or_default();
                pieces.add_entry(data)
            }
            _ => false,
        };
        if !taken {
            self.report.states.damaged_rows += 1;
        }
    }

    pub(super) fn identities(&mut self, row: &Row) -> Result<(), Trouble> {
        let source = row.id >> COUNTER_BITS;
        let ([Value::Null, Value::Blob(data), ..], Some(name)) =
            (&row.columns[..], self.memory.sources.get(&source))
        else {
            self.report.identities.damaged_rows += 1;
            return Ok(());
        };
        if !are_identities(row.id, data) {
            self.report.identities.damaged_rows += 1;
            return Ok(());
        }
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO source VALUES (?1, ?2, ?3)")?
            .execute((source, name, checksum("source", source, name)))?;
        if self.is_new(Table::Identity, row.id) {
            self.conn
                .prepare_cached("INSERT INTO identity VALUES (?1, ?2)")?
                .execute((row.id, data))?;
            self.report.identities.saved += (data.len() / size_of::<Identity>()) as u64;
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Blob, Int, Null, Text};
        match &row.columns[..] {
            [Null, Int(uplink), Text(id), Int(time), Blob(reply), ..]
                if is_number(row.id) && is_uplink(*uplink) && is_reply(reply) =>
            {
                let inserted = self
                    .conn
                    .prepare_cached("INSERT OR IGNORE INTO command VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute((row.id, uplink, id, time, reply))?;
                self.report.answers.saved += inserted as u64;
            }
            _ => self.report.answers.damaged_rows += 1,
        }
        Ok(())
    }

    pub(super) fn detail(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Int, Text};
        let sound = match &row.columns[..] {
            [
                Int(uplink),
                Text(_),
                pipeline,
                Text(series),
                Int(_),
                Int(0..=COUNT_MAX),
                ..,
            ] => is_pipeline(pipeline) && self.has_place(0, *uplink, series),
            _ => false,
        };
        self.command_at_work(sound, "detail", &row.columns, 6)
    }

    pub(super) fn backfill(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Int, Text};
        let sound = match &row.columns[..] {
            [
                Int(uplink),
                Text(_),
                pipeline,
                Text(series),
                Int(_),
                Int(_),
                Int(0..=COUNT_MAX),
                Int(next),
                Int(end),
                Int(0..=COUNT_MAX),
                Int(0 | 1),
                ..,
            ] if is_number(*next) && is_number(*end) => {
                is_pipeline(pipeline) && self.has_place(1, *uplink, series)
            }
            _ => false,
        };
        self.command_at_work(sound, "backfill", &row.columns, 11)
    }

    /// Whether there may be one more command of a kind for an uplink, and its series can be read.
    fn has_place(&self, kind: u8, uplink: i64, series: &str) -> bool {
        let taken = self.memory.at_work.get(&(kind, uplink));
        is_uplink(uplink)
            && taken.is_none_or(|&taken| taken < AT_ONCE)
            && SeriesFilter::new(&[series.to_owned()]).is_ok()
    }

    fn command_at_work(
        &mut self,
        sound: bool,
        table: &str,
        columns: &[Value],
        count: usize,
    ) -> Result<(), Trouble> {
        let (true, Some(Value::Int(uplink))) = (sound, columns.first()) else {
            self.report.at_work.damaged_rows += 1;
            return Ok(());
        };
        let places: Vec<String> = (1..=count).map(|place| format!("?{place}")).collect();
        let sql = format!(
            "INSERT OR IGNORE INTO {table} VALUES ({})",
            places.join(", ")
        );
        let inserted = self
            .conn
            .prepare_cached(&sql)?
            .execute(params_from_iter(&columns[..count]))?;
        let kind = u8::from(table == "backfill");
        *self.memory.at_work.entry((kind, *uplink)).or_default() += inserted;
        self.report.at_work.saved += inserted as u64;
        Ok(())
    }

    pub(super) fn heard(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Int, Null, Text};
        match &row.columns[..] {
            [Text(source), Text(series), Null | Int(_), ..] => {
                let inserted = self
                    .conn
                    .prepare_cached("INSERT OR IGNORE INTO heard VALUES (?1, ?2, ?3)")?
                    .execute((source, series, &row.columns[2]))?;
                self.report.heard.saved += inserted as u64;
            }
            _ => self.report.heard.damaged_rows += 1,
        }
        Ok(())
    }

    /// Filters that change too many alarms. They are counted with the alarms when they are damaged, for those they belong to.
    pub(super) fn flood(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Int, Text};
        match &row.columns[..] {
            [
                Int(scope @ (1 | 2)),
                Text(owner),
                Text(filter),
                Int(suppressed @ 0..=COUNT_MAX),
                ..,
            ] => {
                self.conn
                    .prepare_cached("INSERT OR IGNORE INTO alarm_flood VALUES (?1, ?2, ?3, ?4)")?
                    .execute((scope, owner, filter, suppressed))?;
            }
            _ => self.report.alarms.damaged_rows += 1,
        }
        Ok(())
    }

    /// Whatever had to wait until all rows were there, and what is known to be missing.
    pub(super) fn write_memory(&mut self) -> Result<(), Trouble> {
        self.write_states()?;
        // Blocks beyond the last one that was saved are numbers that come again.
        let whole = self.report.readings.lost == Some(0);
        self.conn.execute(
            "UPDATE backfill SET end_block = min(end_block, ?1), incomplete = max(incomplete, ?2)",
            (self.last_block + 1, !whole),
        )?;
        let lost = |tables: &[Table]| {
            let read = tables.iter().all(|table| !self.holed.contains(table));
            (read && !self.unclear).then_some(0)
        };
        let alarms = lost(&[Table::Alarm, Table::Flood]);
        let identities = lost(&[Table::Identity, Table::Source]);
        let answers = lost(&[Table::Command]);
        let at_work = lost(&[Table::Detail, Table::Backfill]);
        let heard = lost(&[Table::Heard]);
        let report = &mut self.report;
        for (part, lost) in [
            (&mut report.alarms, alarms),
            (&mut report.identities, identities),
            (&mut report.answers, answers),
            (&mut report.at_work, at_work),
            (&mut report.heard, heard),
        ] {
            part.lost = lost.filter(|_| part.damaged_rows == 0);
        }
        Ok(())
    }

    fn write_states(&mut self) -> Result<(), Trouble> {
        let read = [Table::Slot, Table::Snapshot, Table::StateLog]
            .iter()
            .all(|table| !self.holed.contains(table));
        let all_read = read && !self.unclear;
        let Memory {
            slots, mut pieces, ..
        } = std::mem::take(&mut self.memory);
        let mut anew = 0;
        for (id, name) in &slots {
            // A trial begins anew.
            let found = pieces.remove(id);
            if is_candidate_key(name) {
                continue;
            }
            let nothing_found = found.is_none();
            let known = |id| {
                let name = self.series.get(&id);
                name.is_some_and(|name| *name != nameless(id))
            };
            let whole = found.and_then(|found| found.whole(known));
            if let Some((number, state)) = whole {
                let inserted = self
                    .conn
                    .prepare_cached("INSERT OR IGNORE INTO slot VALUES (?1, ?2, ?3)")?
                    .execute((id, name, checksum("slot", *id, name)))?;
                if inserted == 1 {
                    self.conn
                        .prepare_cached("INSERT INTO state_snapshot VALUES (?1, ?2)")?
                        .execute((id, state.encode(number)))?;
                    self.report.states.saved += 1;
                    continue;
                }
            } else if nothing_found && all_read {
                // It had none.
                continue;
            }
            anew += 1;
            if self.report.begin_anew.len() < LISTED {
                self.report.begin_anew.push(name.clone());
            }
        }
        // Of these not even the names are known.
        anew += pieces.len() as u64;
        self.report.states.lost = all_read.then_some(anew);
        Ok(())
    }
}

fn is_pipeline(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Text(_))
}
