//! Reading beside the writer.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::delivery::{Request, SealedMessage, Share, Window};
use tidegate_domain::item::JsonValue;
use tidegate_domain::{Ledger, Quality};

use crate::alarms::{self, ActiveAlarm, StaleSeries};
use crate::block;
use crate::books::{Books, Scope, own};
use crate::fetch;
use crate::input::ClosedSummary;
use crate::num::{count, sql_len};
use crate::schema;
use crate::series::Names;
use crate::windows;
use crate::writer::Shared;

/// Newest blocks that are searched for the latest readings.
const LATEST_BLOCKS: usize = 64;

/// A read-only connection. Every call is one short transaction, so that the write-ahead log can be recycled.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    uplinks: Vec<Arc<str>>,
    shared: Arc<Shared>,
    /// A read found damage. The second one is believed.
    damaged: Cell<bool>,
}

/// A read failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be read from the store {path}")]
pub struct ReadError {
    /// What was asked for.
    pub what: &'static str,
    /// The database file.
    pub path: String,
    #[source]
    source: rusqlite::Error,
}

/// The latest reading of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestReading {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The series' name.
    pub series: Arc<str>,
    /// Nanoseconds since the epoch.
    pub time: i64,
    /// As it stands in a payload.
    pub value: serde_json::Value,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// A message that the other end refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// Its number in the uplink's stream.
    pub seq: u64,
    /// Items in it.
    pub items: u64,
    /// Why.
    pub reason: String,
    /// When it was refused, nanoseconds since the epoch.
    pub time: i64,
}

impl Reader {
    /// Opens the database beside a daemon in another process, or without one. `uplinks` are names; methods take an
    /// index into them. Inside the daemon use [`Store::reader`](crate::Store::reader): what this one hands out, the
    /// writer does not know of.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, uplinks: &[String]) -> Result<Self, ReadError> {
        Self::sharing(path, uplinks, Arc::new(Shared::new(uplinks.len())))
    }

    pub(crate) fn sharing(
        path: &Path,
        uplinks: &[String],
        shared: Arc<Shared>,
    ) -> Result<Self, ReadError> {
        let conn = schema::open_read_only(path).map_err(|source| ReadError {
            what: "anything",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self {
            conn,
            uplinks: uplinks.iter().map(|name| name.as_str().into()).collect(),
            shared,
            damaged: Cell::new(false),
        })
    }

    /// Sealed messages that wait, the most urgent first, then by number: at most `max_messages`, and no more than
    /// `max_bytes` of bodies, but one where any waits. Those in `exclude` are left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn next_messages(
        &self,
        uplink: usize,
        exclude: &[u64],
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<SealedMessage>, ReadError> {
        let mut request = Request {
            exclude: exclude.iter().copied().collect(),
            room: Window {
                messages: max_messages,
                bytes: max_bytes,
            },
            alarms_only: false,
            // All of it is backlog: one lane.
            mark: u64::MAX,
            share: Share::new(0),
        };
        self.look(uplink, &mut request)
    }

    /// Sealed messages that wait, as the request wants them. What is handed out counts as in flight, and is never given
    /// up for space, until it is settled.
    ///
    /// # Errors
    /// The database cannot be read; the request's share may have been charged.
    pub fn look(
        &self,
        uplink: usize,
        request: &mut Request,
    ) -> Result<Vec<SealedMessage>, ReadError> {
        // Before the database is looked at: see `evict`.
        let in_flight = self.shared.in_flight.lock(uplink);
        let messages = self.read("sealed messages", |conn| {
            let Some(id) = self.uplink_id(conn, uplink)? else {
                return Ok(Vec::new());
            };
            fetch::take(conn, id, request)
        })?;
        if let Some(mut in_flight) = in_flight {
            in_flight.extend(messages.iter().map(|message| message.seq));
        }
        Ok(messages)
    }

    /// The highest number sealed so far; 0 before the first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn last_sealed_seq(&self, uplink: usize) -> Result<u64, ReadError> {
        self.read("the last sealed number", |conn| {
            let Some(name) = self.uplinks.get(uplink) else {
                return Ok(0);
            };
            Ok(count(
                Books::load(conn)?
                    .own(Scope::Uplink, name, own::SEQ)
                    .unwrap_or(0),
            ))
        })
    }

    /// 16 hex digits, drawn once for this database file and uplink.
    ///
    /// # Errors
    /// The database cannot be read, or does not know the uplink.
    pub fn stream_id(&self, uplink: usize) -> Result<String, ReadError> {
        self.read("the stream id", |conn| {
            conn.prepare_cached("SELECT stream FROM uplink WHERE name = ?1")?
                .query_row([self.uplinks.get(uplink)], |row| row.get(0))
        })
    }

    /// All counts.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn ledger(&self) -> Result<Ledger, ReadError> {
        self.read("the ledger", |conn| Ok(Books::load(conn)?.ledger().clone()))
    }

    /// The latest closed windows since the daemon started, newest first.
    #[must_use]
    pub fn latest_summaries(&self, limit: usize) -> Vec<Arc<ClosedSummary>> {
        self.shared.recent(limit)
    }

    /// The latest reading of each series that occurs in the newest 64 blocks of history, by pipeline and series.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn latest_readings(&self, limit: usize) -> Result<Vec<LatestReading>, ReadError> {
        self.read("the latest readings", |conn| latest_readings(conn, limit))
    }

    /// Alarms that hold, by source or pipeline, series and code.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn alarms(&self, limit: usize) -> Result<Vec<ActiveAlarm>, ReadError> {
        self.read("alarms", |conn| alarms::active(conn, limit))
    }

    /// Series that are stale, the longest silent first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn stale_series(&self, limit: usize) -> Result<Vec<StaleSeries>, ReadError> {
        self.read("stale series", |conn| alarms::stale(conn, limit))
    }

    /// What the other end refused, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn rejected(&self, uplink: usize, limit: usize) -> Result<Vec<RejectedEntry>, ReadError> {
        self.read("refused messages", |conn| {
            conn.prepare_cached(
                "SELECT seq, items, reason, time FROM rejected WHERE uplink = ?1 ORDER BY id DESC LIMIT ?2",
            )?
            .query_map((self.uplink_id(conn, uplink)?, sql_len(limit)), |row| {
                Ok(RejectedEntry {
                    seq: count(row.get(0)?),
                    items: count(row.get(1)?),
                    reason: row.get(2)?,
                    time: row.get(3)?,
                })
            })?
            .collect()
        })
    }

    /// One transaction: everything in it is of the same moment.
    pub(crate) fn read<T>(
        &self,
        what: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, ReadError> {
        let transaction = self.conn.unchecked_transaction();
        let found = transaction.and_then(|transaction| {
            let found = read(&transaction)?;
            transaction.finish()?;
            Ok(found)
        });
        let damage = found
            .as_ref()
            .err()
            .filter(|error| schema::is_damage(error));
        if let Some(error) = damage
            && self.damaged.replace(true)
        {
            self.shared.suspect(error);
        }
        found.map_err(|source| ReadError {
            what,
            path: self.conn.path().unwrap_or_default().to_owned(),
            source,
        })
    }

    fn uplink_id(&self, conn: &Connection, uplink: usize) -> Result<Option<i64>, rusqlite::Error> {
        let mut statement = conn.prepare_cached("SELECT id FROM uplink WHERE name = ?1")?;
        let mut rows = statement.query([self.uplinks.get(uplink)])?;
        rows.next()?.map(|row| row.get(0)).transpose()
    }
}

fn latest_readings(conn: &Connection, limit: usize) -> Result<Vec<LatestReading>, rusqlite::Error> {
    let pipelines = windows::names(conn)?;
    let mut names = Names::new(conn);
    let mut latest: BTreeMap<(Arc<str>, Arc<str>), LatestReading> = BTreeMap::new();
    let mut statement =
        conn.prepare_cached("SELECT pipeline, data FROM history ORDER BY id DESC LIMIT ?1")?;
    let mut rows = statement.query([sql_len(LATEST_BLOCKS)])?;
    while let Some(row) = rows.next()? {
        let Some(pipeline) = pipelines.get(&row.get(0)?) else {
            continue;
        };
        // A damaged block is reported where it matters: by the writer and by `verify`.
        let Ok(batch) = block::decode(row.get_ref(1)?.as_blob()?, |id| names.get(id)) else {
            continue;
        };
        let mut seen = HashSet::new();
        for at in (0..batch.len()).rev() {
            if !seen.insert(batch.series[at]) {
                continue;
            }
            let key = (Arc::clone(pipeline), Arc::clone(batch.name(at)));
            if latest.len() >= limit && !latest.contains_key(&key) {
                continue;
            }
            latest
                .entry(key)
                .or_insert_with_key(|(pipeline, series)| LatestReading {
                    pipeline: Arc::clone(pipeline),
                    series: Arc::clone(series),
                    time: batch.time[at],
                    value: match JsonValue::from(batch.value(at)) {
                        JsonValue::Float(value) => value.into(),
                        JsonValue::Int(value) => value.into(),
                        JsonValue::Bool(value) => value.into(),
                        JsonValue::Text(text) => text.into(),
                        JsonValue::Null(()) => serde_json::Value::Null,
                    },
                    quality: batch.quality(at),
                });
        }
    }
    Ok(latest.into_values().collect())
}
