//! Quarantine and the orders about it, as readers see them.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use tidegate_domain::outcome::SlotGeneration;
use tidegate_domain::quarantine::{Action, Key, Selection};
use tidegate_domain::{Arrival, Batch};

use crate::block;
use crate::num::{count, sql, sql_len};
use crate::orders::action_of;
use crate::reader::{ReadError, Reader};

/// One row of quarantine, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct QuarantineEntry {
    /// Its number.
    pub id: u64,
    /// The source's name, for a message.
    pub source: Option<String>,
    /// The message's topic.
    pub topic: Option<String>,
    /// The pipeline's name, for readings.
    pub pipeline: Option<String>,
    /// The filter's name in the pipeline, for readings.
    pub filter: Option<String>,
    /// The chain that ran, for readings.
    pub generation: Option<String>,
    /// One of [`tidegate_domain::outcome::reason`].
    pub reason: String,
    /// What was wrong, for people.
    pub detail: String,
    /// When it arrived, nanoseconds since the epoch.
    pub arrival: i64,
    /// Whether the clock was known to be set then.
    pub synced: bool,
    /// Messages or readings in it.
    pub count: u64,
    /// Length of the payload before it was cut, for a message; of its bytes, for readings.
    pub length: u64,
    /// Bytes that are kept.
    pub kept: u64,
    /// How often its replay failed.
    pub attempts: u32,
    /// The order that is going to replay or drop it.
    pub order: Option<u64>,
    /// What that order does with it: `held`, `replaying`, `dropping`.
    pub state: RowState,
}

/// What is to become of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// It stays until somebody orders something, or it is given up for space or age.
    #[default]
    Held,
    /// An order will replay it.
    Replaying,
    /// An order will discard it.
    Dropping,
}

impl RowState {
    /// The word in lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Replaying => "replaying",
            Self::Dropping => "dropping",
        }
    }
}

impl QuarantineEntry {
    /// Whether bytes are missing from the payload, so that it can never be replayed.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.source.is_some() && self.length > self.kept
    }

    fn key(&self) -> Key<'_> {
        Key {
            id: self.id,
            source: self.source.as_deref(),
            pipeline: self.pipeline.as_deref(),
            reason: &self.reason,
        }
    }
}

/// One row of quarantine, whole.
#[derive(Clone, Debug)]
pub struct QuarantinedRow {
    /// What the list says of it.
    pub entry: QuarantineEntry,
    /// The payload as far as it was kept, for a message.
    pub data: Vec<u8>,
    /// The slots of the chain that ran, for readings, as far as it is known.
    pub slots: Vec<SlotGeneration>,
}

impl QuarantinedRow {
    /// The readings, of a row that holds some.
    ///
    /// # Errors
    /// What is damaged, for a person.
    pub fn readings(&self) -> Result<Batch, String> {
        block::decode(&self.data, |_| None).map_err(|error| format!("the row is damaged: {error}"))
    }

    /// When it arrived.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        Arrival {
            wall: self.entry.arrival,
            synced: self.entry.synced,
            ..Arrival::default()
        }
    }
}

/// An order that is under way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OpenOrder {
    /// Its number.
    pub order: u64,
    /// What it does.
    pub action: Action,
    /// When it was accepted, nanoseconds since the epoch.
    pub accepted: i64,
    /// Which rows.
    pub selection: Selection,
    /// The highest row that it is about.
    pub last: u64,
    /// Rows that left quarantine by it so far.
    pub through: u64,
    /// Rows that stayed because they failed again.
    pub failed: u64,
}

/// Rows that a selection means, by what decides whether they can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// The source, of messages.
    pub source: Option<String>,
    /// The pipeline, of readings.
    pub pipeline: Option<String>,
    /// Payloads that were cut.
    pub cut: bool,
    /// How many rows.
    pub rows: u64,
}

/// What `quarantine` and `quarantine_order` have in common in every query: the selection's conditions.
const CONDITIONS: &str = "(:ids IS NULL OR q.id IN (SELECT value FROM json_each(:ids)))
    AND (:source IS NULL OR q.source = :source)
    AND (:pipeline IS NULL OR q.pipeline = :pipeline)
    AND (:reason IS NULL OR q.reason = :reason)";

const ENTRY: &str = "q.id, q.source, q.topic, q.pipeline, q.filter, g.digest, q.reason, q.detail, q.arrival, q.synced,
    q.items, q.length, length(q.data), q.attempts, q.tried, g.slots";

impl Reader {
    /// A page of quarantine, newest first: rows below `before` that the selection means.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn quarantine(
        &self,
        selection: &Selection,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<QuarantineEntry>, ReadError> {
        self.read("quarantine", |conn| {
            let orders = open_orders(conn)?;
            let sql_text = format!(
                "SELECT {ENTRY} FROM quarantine q LEFT JOIN generation g ON g.id = q.generation
                 WHERE q.id < :before AND {CONDITIONS} ORDER BY q.id DESC LIMIT :limit"
            );
            let ids = ids(selection);
            conn.prepare_cached(&sql_text)?
                .query_map(
                    named_params! {
                        ":before": before.map_or(i64::MAX, sql),
                        ":limit": sql_len(limit),
                        ":ids": ids,
                        ":source": selection.source,
                        ":pipeline": selection.pipeline,
                        ":reason": selection.reason,
                    },
                    |row| entry(row, &orders),
                )?
                .collect()
        })
    }

    /// One row of quarantine; `None` when it is not there.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn quarantined(&self, id: u64) -> Result<Option<QuarantinedRow>, ReadError> {
        self.read("a row of quarantine", |conn| {
            let orders = open_orders(conn)?;
            let sql_text = format!(
                "SELECT {ENTRY}, q.data FROM quarantine q LEFT JOIN generation g ON g.id = q.generation
                 WHERE q.id = ?1"
            );
            conn.prepare_cached(&sql_text)?
                .query_row([sql(id)], |row| whole(row, &orders))
                .optional()
        })
    }

    /// The orders that are under way, in the order in which they are carried out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn orders(&self) -> Result<Vec<OpenOrder>, ReadError> {
        self.read("orders about quarantine", open_orders)
    }

    /// How many rows a selection means.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn matching(&self, selection: &Selection) -> Result<Vec<Matching>, ReadError> {
        self.read("quarantine", |conn| {
            let sql_text = format!(
                "SELECT q.source, q.pipeline, q.source IS NOT NULL AND q.length > length(q.data), count(*)
                 FROM quarantine q WHERE {CONDITIONS} GROUP BY 1, 2, 3"
            );
            let ids = ids(selection);
            conn.prepare_cached(&sql_text)?
                .query_map(
                    named_params! {
                        ":ids": ids,
                        ":source": selection.source,
                        ":pipeline": selection.pipeline,
                        ":reason": selection.reason,
                    },
                    |row| {
                        Ok(Matching {
                            source: row.get(0)?,
                            pipeline: row.get(1)?,
                            cut: row.get(2)?,
                            rows: count(row.get(3)?),
                        })
                    },
                )?
                .collect()
        })
    }

    /// The next rows of an order above `after`, in their order: at most `max_rows`, and no more than `max_bytes` of data,
    /// but one where any is left. Rows on which it failed already are not among them, nor, for a replay, payloads that were
    /// cut.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn order_rows(
        &self,
        order: &OpenOrder,
        after: u64,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<QuarantinedRow>, ReadError> {
        self.read("rows of quarantine", |conn| {
            let data = match order.action {
                Action::Replay => "q.data",
                // Nobody looks at what goes.
                Action::Drop => "x''",
            };
            let sql_text = format!(
                "SELECT {ENTRY}, {data} FROM quarantine q LEFT JOIN generation g ON g.id = q.generation
                 WHERE q.id > :after AND q.id <= :last AND q.tried < :order AND {CONDITIONS}
                   AND (:drop OR q.source IS NULL OR q.length <= length(q.data))
                 ORDER BY q.id LIMIT :limit"
            );
            let ids = ids(&order.selection);
            let mut statement = conn.prepare_cached(&sql_text)?;
            let mut found = statement.query(named_params! {
                ":after": sql(after),
                ":last": sql(order.last),
                ":order": sql(order.order),
                ":drop": order.action == Action::Drop,
                ":limit": sql_len(max_rows),
                ":ids": ids,
                ":source": order.selection.source,
                ":pipeline": order.selection.pipeline,
                ":reason": order.selection.reason,
            })?;
            let mut rows = Vec::new();
            let mut bytes = 0;
            while let Some(row) = found.next()? {
                let row = whole(row, &[])?;
                bytes += row.data.len();
                if !rows.is_empty() && bytes > max_bytes {
                    break;
                }
                rows.push(row);
            }
            Ok(rows)
        })
    }
}

/// The numbers as JSON, for `json_each`.
fn ids(selection: &Selection) -> Option<String> {
    (!selection.ids.is_empty()).then(|| serde_json::Value::from(selection.ids.clone()).to_string())
}

fn open_orders(conn: &Connection) -> Result<Vec<OpenOrder>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT id, action, accepted, selection, last, through, failed FROM quarantine_order ORDER BY id",
    )?
    .query_map([], |row| {
        let selection: String = row.get(3)?;
        Ok(OpenOrder {
            order: count(row.get(0)?),
            action: action_of(row.get(1)?),
            accepted: row.get(2)?,
            // A selection of another version means rows that are not there.
            selection: serde_json::from_str(&selection).unwrap_or_else(|_| Selection {
                ids: vec![0],
                ..Selection::default()
            }),
            last: count(row.get(4)?),
            through: count(row.get(5)?),
            failed: count(row.get(6)?),
        })
    })?
    .collect()
}

fn entry(row: &Row<'_>, orders: &[OpenOrder]) -> Result<QuarantineEntry, rusqlite::Error> {
    let mut entry = QuarantineEntry {
        id: count(row.get(0)?),
        source: row.get(1)?,
        topic: row.get(2)?,
        pipeline: row.get(3)?,
        filter: row.get(4)?,
        generation: row.get(5)?,
        reason: row.get(6)?,
        detail: row.get(7)?,
        arrival: row.get(8)?,
        synced: row.get(9)?,
        count: count(row.get(10)?),
        length: count(row.get(11)?),
        kept: count(row.get(12)?),
        attempts: row.get(13)?,
        order: None,
        state: RowState::Held,
    };
    let tried = count(row.get(14)?);
    let waits = |order: &&OpenOrder| {
        let cut = order.action == Action::Replay && entry.is_cut();
        !cut && entry.id <= order.last
            && tried < order.order
            && order.selection.matches(&entry.key())
    };
    if let Some(order) = orders.iter().find(waits) {
        entry.state = match order.action {
            Action::Replay => RowState::Replaying,
            Action::Drop => RowState::Dropping,
        };
        entry.order = Some(order.order);
    }
    Ok(entry)
}

fn whole(row: &Row<'_>, orders: &[OpenOrder]) -> Result<QuarantinedRow, rusqlite::Error> {
    let slots: Option<String> = row.get(15)?;
    Ok(QuarantinedRow {
        entry: entry(row, orders)?,
        data: row.get(16)?,
        // Without its slots a row is replayed by the filter's name alone.
        slots: slots
            .and_then(|slots| serde_json::from_str(&slots).ok())
            .unwrap_or_default(),
    })
}
