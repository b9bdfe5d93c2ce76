//! Orders about quarantine: durable from the commit that takes them in, carried out row by row over many commits, and
//! exactly once each: a row is released by the transaction that stores what it became, and only where it is the row that
//! was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::Arrival;
use tidegate_domain::outcome::Replayed;
use tidegate_domain::quarantine::{Action, Selection};

use crate::books::{Books, Scope, own, quarantine_counter as counter};
use crate::input::Event;
use crate::num::{count, sql};
use crate::outbox::Pen;
use crate::quarantine::{Origin, Place};

/// Numbers go on after those of rows and orders that are there, also in a file that somebody else has put together.
pub(crate) fn number_on(conn: &Connection, books: &mut Books) -> Result<(), rusqlite::Error> {
    for (counter, table) in [
        (own::NEXT_QUARANTINE, "quarantine"),
        (own::NEXT_ORDER, "quarantine_order"),
    ] {
        let highest: Option<i64> =
            conn.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| {
                row.get(0)
            })?;
        let next = highest.unwrap_or(0) + 1;
        if books.store(counter).is_none_or(|known| known < next) {
            books.set_store(counter, next);
        }
    }
    Ok(())
}

/// Takes in an order about the rows that are there. Returns what to tell the uplinks.
pub(crate) fn accept(
    pen: &mut Pen<'_>,
    action: Action,
    selection: &Selection,
) -> Result<Event, rusqlite::Error> {
    let order = pen.books.take_number(own::NEXT_ORDER);
    let last = pen.books.store(own::NEXT_QUARANTINE).unwrap_or(1) - 1;
    // Strings and numbers alone: this cannot fail; were it to, no row would match.
    let text = serde_json::to_string(selection).unwrap_or_else(|_| "{}".to_owned());
    pen.conn
        .prepare_cached("INSERT INTO quarantine_order VALUES (?1, ?2, ?3, ?4, ?5, 0, 0)")?
        .execute((order, number(action), pen.wall, text, last))?;
    Ok(Event {
        time: pen.wall,
        code: format!("quarantine-{}", action.as_str()),
        text: format!("order {order}: {} {selection}", action.as_str()),
        data: Some(serde_json::json!({ "order": order, "selection": selection })),
    })
}

/// Removes an order whose rows were all tried. Returns what to tell the uplinks; nothing where it is gone already.
pub(crate) fn finish(pen: &mut Pen<'_>, order: u64) -> Result<Option<Event>, rusqlite::Error> {
    let gone: Option<(i64, i64, i64)> = pen
        .conn
        .prepare_cached(
            "DELETE FROM quarantine_order WHERE id = ?1 RETURNING action, through, failed",
        )?
        .query_row([sql(order)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((action, through, failed)) = gone else {
        return Ok(None);
    };
    let (code, text) = match action_of(action) {
        Action::Replay => (
            "quarantine-replayed",
            format!("order {order}: {through} rows replayed, {failed} failed again"),
        ),
        Action::Drop => (
            "quarantine-dropped",
            format!("order {order}: {through} rows dropped"),
        ),
    };
    tracing::info!(order, through, failed, "{code}");
    Ok(Some(Event {
        time: pen.wall,
        code: code.to_owned(),
        text,
        data: Some(serde_json::json!({ "order": order, "through": through, "failed": failed })),
    }))
}

/// Takes a replayed row out of quarantine, or notes why it stays. `None` when it is no longer the row that was read.
pub(crate) fn settle(
    pen: &mut Pen<'_>,
    replayed: &Replayed,
) -> Result<Option<Origin>, rusqlite::Error> {
    match &replayed.failure {
        None => release(pen, replayed),
        Some(failure) => {
            let key = (sql(replayed.row), replayed.attempts);
            let detail: Option<i64> = pen
                .conn
                .prepare_cached(
                    "SELECT length(CAST(detail AS BLOB)) FROM quarantine WHERE id = ?1 AND attempts = ?2",
                )?
                .query_row(key, |row| row.get(0))
                .optional()?;
            let Some(detail) = detail else {
                return Ok(None);
            };
            let grown = crate::num::sql_len(failure.detail.len()) - detail;
            pen.conn
                .prepare_cached(
                    "UPDATE quarantine
                     SET attempts = attempts + 1, tried = ?2, reason = ?3, detail = ?4, bytes = bytes + ?5
                     WHERE id = ?1",
                )?
                .execute((
                    sql(replayed.row),
                    sql(replayed.order),
                    failure.reason,
                    &failure.detail,
                    grown,
                ))?;
            pen.books.add_store(own::QUARANTINE_BYTES, grown);
            Ok(Some(Origin {
                arrival: Arrival::default(),
                row: None,
            }))
        }
    }
}

fn release(pen: &mut Pen<'_>, replayed: &Replayed) -> Result<Option<Origin>, rusqlite::Error> {
    let Some(gone) = take(pen, replayed.row, replayed.attempts, counter::REPLAYED)? else {
        return Ok(None);
    };
    // A message is through when it is decoded. Readings that fail again keep their row, with one more attempt.
    let place = Place {
        row: sql(replayed.row),
        attempts: replayed.attempts.saturating_add(1),
        order: sql(replayed.order),
    };
    Ok(Some(Origin {
        arrival: gone.arrival,
        row: gone.readings.then_some(place),
    }))
}

/// Discards a row. False when it is no longer the row that was read.
pub(crate) fn discard(pen: &mut Pen<'_>, row: u64, attempts: u32) -> Result<bool, rusqlite::Error> {
    Ok(take(pen, row, attempts, counter::DISCARDED)?.is_some())
}

/// A row that was taken out.
struct Gone {
    arrival: Arrival,
    readings: bool,
}

/// Deletes a row and counts it elsewhere.
fn take(
    pen: &mut Pen<'_>,
    row: u64,
    attempts: u32,
    to: &'static str,
) -> Result<Option<Gone>, rusqlite::Error> {
    type Row = (Option<Arc<str>>, Option<Arc<str>>, i64, bool, i64, i64);
    let gone: Option<Row> = pen
        .conn
        .prepare_cached(
            "DELETE FROM quarantine WHERE id = ?1 AND attempts = ?2
             RETURNING source, pipeline, arrival, synced, items, bytes",
        )?
        .query_row((sql(row), attempts), |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
            ))
        })
        .optional()?;
    let Some((source, pipeline, wall, synced, items, bytes)) = gone else {
        return Ok(None);
    };
    let (scope, name) = match (&source, &pipeline) {
        (Some(source), _) => (Scope::Source, source),
        (None, Some(pipeline)) => (Scope::Pipeline, pipeline),
        // Every row has one of the two.
        (None, None) => return Ok(None),
    };
    pen.books.take(scope, name, counter::HELD, count(items));
    pen.books.add(scope, name, to, count(items));
    pen.books.add_store(own::QUARANTINE_BYTES, -bytes);
    Ok(Some(Gone {
        arrival: Arrival {
            wall,
            synced,
            ..Arrival::default()
        },
        readings: source.is_none(),
    }))
}

/// How far orders came in one commit.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Rows that left quarantine, and that stayed, by order.
    orders: BTreeMap<u64, (i64, i64)>,
}

impl Progress {
    pub(crate) fn add(&mut self, order: u64, through: bool) {
        let (left, stayed) = self.orders.entry(order).or_default();
        *(if through { left } else { stayed }) += 1;
    }

    pub(crate) fn write(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        for (order, (through, failed)) in std::mem::take(&mut self.orders) {
            conn.prepare_cached(
                "UPDATE quarantine_order SET through = through + ?2, failed = failed + ?3 WHERE id = ?1",
            )?
            .execute((sql(order), through, failed))?;
        }
        Ok(())
    }
}

fn number(action: Action) -> i64 {
    match action {
        Action::Replay => 0,
        Action::Drop => 1,
    }
}

pub(crate) fn action_of(number: i64) -> Action {
    match number {
        0 => Action::Replay,
        // The table holds what `number` wrote.
        _ => Action::Drop,
    }
}
