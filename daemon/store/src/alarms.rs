//! Alarms in the database, and as they are shown.

use std::sync::Arc;

use rusqlite::{Connection, Row};
use tidegate_domain::Arrival;
use tidegate_domain::alarm::{
    Acknowledgement, Alarm, Alarms, Cause, Flood, Key, Limits, Owner, State,
};
use tidegate_domain::outcome::Severity;
use tidegate_domain::silence::Silence;

use crate::books::Scope;
use crate::num::{count, sql, sql_len};
use crate::setup::{Setup, nanoseconds};

/// Alarms that are shown at once; all of them are kept, counted and sent.
pub(crate) const SHOWN: usize = 1000;

/// Alarms acknowledged by one request. Asking again acknowledges the rest.
pub(crate) const ACKNOWLEDGED_AT_ONCE: usize = 10_000;

/// An alarm that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveAlarm {
    /// Whose it is, about what.
    pub key: Key,
    /// How it is.
    pub alarm: Alarm,
}

/// A series that has been silent for longer than its source allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleSeries {
    /// The source's name.
    pub source: Arc<str>,
    /// The series' name.
    pub series: Arc<str>,
    /// When it was heard last, nanoseconds since the epoch.
    pub heard: i64,
}

/// All alarms as a start finds them. `now`: the monotonic clock.
pub(crate) fn load(conn: &Connection, limits: Limits, now: i64) -> Result<Alarms, rusqlite::Error> {
    let mut statement = conn.prepare("SELECT scope, owner, filter, suppressed FROM alarm_flood")?;
    let floods = statement
        .query_map([], |row| {
            let flood = Flood {
                flooding: true,
                suppressed: count(row.get(3)?),
            };
            Ok((owner(row)?, row.get(2)?, flood))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let alarms = rows(conn, "", i64::MAX)?;
    Ok(Alarms::restore(limits, now, alarms, floods))
}

/// The series that are listened for, as a start finds them. Rows of sources that were configured away
/// are removed by `image::register`.
pub(crate) fn load_silence(
    conn: &Connection,
    setup: &Setup,
    now: Arrival,
) -> Result<Silence, rusqlite::Error> {
    let watched = &setup.config.silence.sources;
    let after = watched.iter().map(|source| nanoseconds(source.after));
    let mut silence = Silence::new(after.collect());
    let mut statement = conn.prepare("SELECT series, stale FROM heard WHERE source = ?1")?;
    for (index, name) in setup.sources.iter().enumerate().take(watched.len()) {
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            silence.restore(index, row.get(0)?, row.get(1)?, (now.monotonic, now.wall));
        }
    }
    Ok(silence)
}

/// Forgets the series of sources that are no longer configured.
pub(crate) fn forget_sources(conn: &Connection, setup: &Setup) -> Result<(), rusqlite::Error> {
    let known = conn
        .prepare("SELECT DISTINCT source FROM heard")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<Arc<str>>, _>>()?;
    for gone in known.iter().filter(|name| !setup.sources.contains(name)) {
        conn.execute("DELETE FROM heard WHERE source = ?1", [gone])?;
    }
    Ok(())
}

/// Alarms that hold, by owner, series and code.
pub(crate) fn active(conn: &Connection, limit: usize) -> Result<Vec<ActiveAlarm>, rusqlite::Error> {
    let rows = rows(conn, "WHERE state <> 'cleared'", sql_len(limit))?;
    let active = rows
        .into_iter()
        .map(|(key, alarm)| ActiveAlarm { key, alarm });
    Ok(active.collect())
}

/// Series that are stale, the longest silent first.
pub(crate) fn stale(conn: &Connection, limit: usize) -> Result<Vec<StaleSeries>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT source, series, stale FROM heard WHERE stale IS NOT NULL ORDER BY stale LIMIT ?1",
    )?
    .query_map([sql_len(limit)], |row| {
        Ok(StaleSeries {
            source: row.get(0)?,
            series: row.get(1)?,
            heard: row.get(2)?,
        })
    })?
    .collect()
}

fn rows(
    conn: &Connection,
    condition: &str,
    limit: i64,
) -> Result<Vec<(Key, Alarm)>, rusqlite::Error> {
    let sql = format!(
        "SELECT scope, owner, series, code, filter, severity, time, text, value, generation, state,
                acknowledged_by, acknowledged_at, flooding, suppressed
         FROM alarm {condition} ORDER BY scope, owner, series, code LIMIT ?1"
    );
    conn.prepare(&sql)?
        .query_map([limit], |row| Ok((key(row)?, alarm(row)?)))?
        .collect()
}

fn owner(row: &Row<'_>) -> Result<Owner, rusqlite::Error> {
    let (scope, name): (i64, Arc<str>) = (row.get(0)?, row.get(1)?);
    Ok(if scope == Scope::Source as i64 {
        Owner::Source(name)
    } else {
        Owner::Pipeline(name)
    })
}

fn key(row: &Row<'_>) -> Result<Key, rusqlite::Error> {
    Ok(Key {
        owner: owner(row)?,
        series: row.get(2)?,
        code: row.get(3)?,
    })
}

fn alarm(row: &Row<'_>) -> Result<Alarm, rusqlite::Error> {
    let severity: String = row.get(5)?;
    let state: String = row.get(10)?;
    let by: Option<String> = row.get(11)?;
    let at: Option<i64> = row.get(12)?;
    Ok(Alarm {
        state: match state.as_str() {
            "cleared" => State::Cleared,
            "acknowledged" => State::Acknowledged,
            _ => State::Raised,
        },
        cause: Cause {
            filter: row.get(4)?,
            severity: match severity.as_str() {
                "info" => Severity::Info,
                "warning" => Severity::Warning,
                _ => Severity::Critical,
            },
            time: row.get(6)?,
            text: row.get(7)?,
            value: row.get(8)?,
            generation: row.get(9)?,
        },
        acknowledged: by.zip(at).map(|(by, at)| Acknowledgement { by, at }),
        flooding: row.get(13)?,
        suppressed: count(row.get(14)?),
    })
}

/// Writes down what changed. True when anything did.
pub(crate) fn write(conn: &Connection, alarms: &mut Alarms) -> Result<bool, rusqlite::Error> {
    let changed = alarms.take_changed();
    let floods = alarms.take_changed_floods();
    let any = !changed.is_empty() || !floods.is_empty();
    for (key, alarm) in &changed {
        let (scope, owner) = scope(&key.owner);
        let Some(alarm) = alarm else {
            conn.prepare_cached(
                "DELETE FROM alarm WHERE scope = ?1 AND owner = ?2 AND series = ?3 AND code = ?4",
            )?
            .execute((scope, owner, &key.series, &key.code))?;
            continue;
        };
        let (cause, acknowledged) = (&alarm.cause, alarm.acknowledged.as_ref());
        conn.prepare_cached(
            "INSERT OR REPLACE INTO alarm VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(rusqlite::params![
            scope,
            owner,
            key.series,
            key.code,
            cause.filter,
            cause.severity.as_str(),
            cause.time,
            cause.text,
            cause.value,
            cause.generation,
            alarm.state.as_str(),
            acknowledged.map(|by| &by.by),
            acknowledged.map(|by| by.at),
            alarm.flooding,
            sql(alarm.suppressed),
        ])?;
    }
    for (owner, filter, flood) in &floods {
        let (scope, owner) = scope(owner);
        match flood {
            Some(flood) => conn
                .prepare_cached("INSERT OR REPLACE INTO alarm_flood VALUES (?1, ?2, ?3, ?4)")?
                .execute((scope, owner, filter, sql(flood.suppressed)))?,
            None => conn
                .prepare_cached(
                    "DELETE FROM alarm_flood WHERE scope = ?1 AND owner = ?2 AND filter = ?3",
                )?
                .execute((scope, owner, filter))?,
        };
    }
    Ok(any)
}

fn scope(owner: &Owner) -> (u8, &Arc<str>) {
    match owner {
        Owner::Source(name) => (Scope::Source as u8, name),
        Owner::Pipeline(name) => (Scope::Pipeline as u8, name),
    }
}
