//! Quarantine: what a decoder or a filter failed on, with the reason and the bytes, replayable after a fix. It has a share
//! of the store's bytes; the oldest goes first.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::item::millis;
use tidegate_domain::outcome::{QuarantinedMessage, QuarantinedReadings, reason};
use tidegate_domain::{Arrival, cover};

use crate::block::{decode, encode_with_names};
use crate::books::{Scope, own, quarantine_counter as counter};
use crate::gaps::{Gaps, Loss};
use crate::num::{count, sql, sql_len};
use crate::outbox::Pen;
use crate::setup::Setup;
use crate::unset::{self, Kind, RowMark};

/// What a row takes beside its texts and bytes.
pub(crate) const ROW_BYTES: usize = 100;
/// Rows that one commit gives up at most for age.
const BITE: usize = 256;

/// Sets a message aside.
pub(crate) fn insert_message(
    pen: &mut Pen<'_>,
    source: &Arc<str>,
    message: &QuarantinedMessage,
    unset: Option<RowMark>,
) -> Result<(), rusqlite::Error> {
    let bytes = ROW_BYTES + message.topic.len() + message.detail.len() + message.payload.len();
    let id = pen.books.take_number(own::NEXT_QUARANTINE);
    pen.conn
        .prepare_cached(
            "INSERT INTO quarantine (id, source, topic, reason, detail, arrival, synced, items, length, bytes, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10)",
        )?
        .execute((
            id,
            source,
            &message.topic,
            message.reason,
            &message.detail,
            message.arrival.wall,
            message.arrival.synced,
            sql(message.length),
            sql_len(bytes),
            &message.payload[..],
        ))?;
    if let Some(mark) = unset {
        unset::list(pen.conn, Kind::Quarantine, id, mark)?;
    }
    pen.books.add(Scope::Source, source, counter::HELD, 1);
    pen.books.add_store(own::QUARANTINE_BYTES, sql_len(bytes));
    Ok(())
}

/// Where readings that are set aside come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// When they arrived.
    pub(crate) arrival: Arrival,
    /// The row in which they were before, with the order that replayed it.
    pub(crate) row: Option<Place>,
}

/// A row of quarantine whose readings are set aside again: it keeps its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) row: i64,
    pub(crate) attempts: u32,
    pub(crate) order: i64,
}

/// Sets readings aside.
pub(crate) fn insert_readings(
    pen: &mut Pen<'_>,
    pipeline: &Arc<str>,
    generation: Option<i64>,
    readings: &QuarantinedReadings,
    origin: Origin,
    unset: Option<RowMark>,
) -> Result<(), rusqlite::Error> {
    if readings.rows.is_empty() {
        return Ok(());
    }
    let data = encode_with_names(&readings.rows);
    let bytes = ROW_BYTES + readings.detail.len() + data.len();
    let items = readings.rows.len();
    let arrival = origin.arrival;
    let id = match origin.row {
        Some(place) => place.row,
        None => pen.books.take_number(own::NEXT_QUARANTINE),
    };
    pen.conn
        .prepare_cached(
            "INSERT INTO quarantine
                (id, pipeline, filter, generation, reason, detail, arrival, synced, items, length, bytes, data, attempts,
                 tried)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute((
            id,
            pipeline,
            &readings.filter,
            generation,
            readings.reason,
            &readings.detail,
            arrival.wall,
            arrival.synced,
            sql_len(items),
            sql_len(data.len()),
            sql_len(bytes),
            &data,
            origin.row.map_or(0, |place| place.attempts),
            origin.row.map_or(0, |place| place.order),
        ))?;
    if let Some(mark) = unset {
        unset::list(pen.conn, Kind::Quarantine, id, mark)?;
    }
    pen.books
        .add(Scope::Pipeline, pipeline, "quarantined", items as u64);
    pen.books
        .add(Scope::Pipeline, pipeline, counter::HELD, items as u64);
    pen.books.add_store(own::QUARANTINE_BYTES, sql_len(bytes));
    Ok(())
}

/// Keeps quarantine within its share, and gives up what came before `oldest`, where the clock is known.
pub(crate) fn enforce(
    pen: &mut Pen<'_>,
    setup: &Setup,
    gaps: &mut Gaps,
    oldest: Option<i64>,
) -> Result<(), rusqlite::Error> {
    let share = setup.bounds.quarantine_bytes;
    while count(pen.books.store(own::QUARANTINE_BYTES).unwrap_or(0)) > share {
        if !evict(pen, setup, gaps, reason::QUARANTINE_SIZE)? {
            break;
        }
    }
    let Some(oldest) = oldest else {
        return Ok(());
    };
    for _ in 0..BITE {
        let expired = pen
            .conn
            .prepare_cached(
                "SELECT 1 FROM quarantine WHERE id = (SELECT min(id) FROM quarantine) AND synced AND arrival < ?1",
            )?
            .exists([oldest])?;
        if !expired || !evict(pen, setup, gaps, reason::QUARANTINE_AGE)? {
            break;
        }
    }
    Ok(())
}

/// Gives up the oldest row. False when there is none.
pub(crate) fn evict(
    pen: &mut Pen<'_>,
    setup: &Setup,
    gaps: &mut Gaps,
    reason: &'static str,
) -> Result<bool, rusqlite::Error> {
    type Row = (
        i64,
        Option<Arc<str>>,
        Option<Arc<str>>,
        i64,
        i64,
        i64,
        Vec<u8>,
    );
    let oldest: Option<Row> = pen
        .conn
        .prepare_cached(
            "DELETE FROM quarantine WHERE id = (SELECT min(id) FROM quarantine)
             RETURNING id, source, pipeline, arrival, items, bytes, data",
        )?
        .query_row([], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
            ))
        })
        .optional()?;
    let Some((id, source, pipeline, arrival, items, bytes, data)) = oldest else {
        return Ok(false);
    };
    unset::forget(pen.conn, Kind::Quarantine, id)?;
    let items = count(items);
    pen.books.add_store(own::QUARANTINE_BYTES, -bytes);
    let owner = match (&source, &pipeline) {
        (Some(source), _) => Some((Scope::Source, source)),
        (None, Some(pipeline)) => Some((Scope::Pipeline, pipeline)),
        (None, None) => None,
    };
    if let Some((scope, name)) = owner {
        pen.books.take(scope, name, counter::HELD, items);
        pen.books.add(scope, name, counter::EVICTED, items);
    }
    let loss = Loss {
        reason,
        from: millis(arrival),
        to: millis(arrival),
        items: Some(items),
        seq: None,
        series: pipeline.as_ref().and_then(|_| series(&data)),
        source,
        pipeline,
    };
    for uplink in uplinks(setup, &loss) {
        gaps.record(uplink, &loss);
    }
    Ok(true)
}

/// What covers the series of a block that names them.
fn series(data: &[u8]) -> Option<String> {
    let batch = decode(data, |_| None).ok()?;
    let names = batch.names.iter().map(|name| cover::of(name).into_owned());
    names.reduce(|known, name| cover::join(&known, &name).into_owned())
}

/// The uplinks that miss something: those of the pipeline; for a message, all.
fn uplinks(setup: &Setup, loss: &Loss) -> Vec<usize> {
    match &loss.pipeline {
        Some(pipeline) => {
            let known = setup.pipelines.iter().find(|known| known.name == *pipeline);
            known.map_or_else(Vec::new, |known| known.uplinks.clone())
        }
        None => (0..setup.uplinks.len()).collect(),
    }
}

/// How old the oldest row is; `None` while there is none, or its age is unknown.
pub(crate) fn oldest(conn: &Connection) -> Result<Option<i64>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT arrival FROM quarantine WHERE id = (SELECT min(id) FROM quarantine) AND synced",
    )?
    .query_row([], |row| row.get(0))
    .optional()
}
