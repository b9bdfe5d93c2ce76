//! Counting again: what the rows themselves say, beside what the counters say (promise 2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::value::RawValue;
use tidegate_domain::Ledger;

use crate::block;
use crate::books::{Books, Scope, own};
use crate::num::count;
use crate::outbox::{lane_of, uplink_of};
use crate::schema;
use crate::series::Names;
use crate::windows;

/// What a recount found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verification {
    /// The counters as stored.
    pub ledger: Ledger,
    /// The same, with everything that rows can tell taken from the rows.
    pub recounted: Ledger,
    /// Counters and rows that disagree, equations that do not hold, rows that cannot be read. None: it balances.
    pub differences: Vec<Difference>,
}

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Where: `pipeline temperature`.
    pub scope: String,
    /// What, in words.
    pub what: String,
    /// What the counter, or an equation's left side, says.
    pub counter: u64,
    /// What the rows, or its right side, say.
    pub rows: u64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} ({} ≠ {})",
            self.scope, self.what, self.counter, self.rows
        )
    }
}

/// The recount could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The file is no store of a version that this one knows.
    #[error("{} is no store that this version of Tidegate can read", .path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// SQLite cannot open or read it.
    #[error("the store {} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// Recounts all rows of a stopped or a running gateway's store, as they were at one moment. On a running one the
/// write-ahead log grows for as long as it takes.
///
/// # Errors
/// The file cannot be read, or is no store. What is merely wrong in it is a [`Difference`].
pub fn verify(path: &Path) -> Result<Verification, VerifyError> {
    let read = |source| VerifyError::Read {
        path: path.to_owned(),
        source,
    };
    let conn = schema::open_read_only(path).map_err(read)?;
    let transaction = conn.unchecked_transaction().map_err(read)?;
    if !schema::is_ours(&transaction).map_err(read)? {
        return Err(VerifyError::NotAStore {
            path: path.to_owned(),
        });
    }
    let books = Books::load(&transaction).map_err(read)?;
    let mut recount = Recount {
        recounted: books.ledger().clone(),
        conn: &transaction,
        books,
        differences: Vec::new(),
    };
    recount.all().map_err(read)?;
    let Recount {
        books,
        recounted,
        differences,
        ..
    } = recount;
    Ok(Verification {
        ledger: books.ledger().clone(),
        recounted,
        differences,
    })
}

struct Recount<'a> {
    conn: &'a Connection,
    books: Books,
    recounted: Ledger,
    differences: Vec<Difference>,
}

impl Recount<'_> {
    fn all(&mut self) -> Result<(), rusqlite::Error> {
        for imbalance in self.books.ledger().imbalances() {
            self.differ(
                imbalance.scope,
                imbalance.equation,
                imbalance.left,
                imbalance.right,
            );
        }
        self.history()?;
        let waiting = self.items()?;
        self.messages(&waiting.rows)?;
        self.uplinks(&waiting.by_uplink)?;
        self.quarantine()
    }

    fn differ(&mut self, scope: String, what: impl Into<String>, counter: u64, rows: u64) {
        self.differences.push(Difference {
            scope,
            what: what.into(),
            counter,
            rows,
        });
    }

    fn expect(&mut self, scope: String, what: &str, counter: u64, rows: u64) {
        if counter != rows {
            self.differ(scope, what, counter, rows);
        }
    }

    fn history(&mut self) -> Result<(), rusqlite::Error> {
        let conn = self.conn;
        let pipelines = windows::names(conn)?;
        let mut names = Names::new(conn);
        let mut held: BTreeMap<i64, u64> = BTreeMap::new();
        let mut statement =
            conn.prepare("SELECT id, pipeline, rows, data FROM history ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let block: i64 = row.get(0)?;
            let stated = count(row.get(2)?);
            let found = match block::decode(row.get_ref(3)?.as_blob()?, |id| names.get(id)) {
                Ok(batch) => {
                    let found = batch.len() as u64;
                    self.expect(format!("history block {block}"), "readings", stated, found);
                    found
                }
                Err(error) => {
                    self.differ(
                        format!("history block {block}"),
                        format!("damaged: {error}"),
                        stated,
                        0,
                    );
                    0
                }
            };
            *held.entry(row.get(1)?).or_default() += found;
        }
        for (id, name) in &pipelines {
            let rows = held.remove(id).unwrap_or(0);
            let counts = self
                .recounted
                .pipelines
                .entry(name.as_ref().to_owned())
                .or_default();
            let counter = std::mem::replace(&mut counts.held, rows);
            self.expect(format!("pipeline {name}"), "readings held", counter, rows);
        }
        for (id, rows) in held {
            self.differ(
                format!("pipeline number {id}"),
                "readings of an unknown pipeline",
                0,
                rows,
            );
        }
        Ok(())
    }

    fn items(&mut self) -> Result<Waiting, rusqlite::Error> {
        let mut waiting = Waiting::default();
        let mut statement = self
            .conn
            .prepare("SELECT id, items, body FROM item ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let stated = count(row.get(1)?);
            let found = items_in(row.get_ref(2)?.as_blob()?);
            match found {
                Some(found) => self.expect(format!("outbox row {id}"), "items", stated, found),
                None => self.differ(
                    format!("outbox row {id}"),
                    "items that are no JSON",
                    stated,
                    0,
                ),
            }
            let found = found.unwrap_or(0);
            waiting.rows.insert(id, found);
            *waiting.by_uplink.entry(uplink_of(id)).or_default() += found;
        }
        Ok(waiting)
    }

    /// Every sealed message must find its items, and no item may be in two.
    fn messages(&mut self, items: &BTreeMap<i64, u64>) -> Result<(), rusqlite::Error> {
        let mut statement = self
            .conn
            .prepare("SELECT seq, items, first_item, last_item FROM message ORDER BY first_item")?;
        let mut rows = statement.query([])?;
        let mut before: Option<(i64, i64)> = None;
        while let Some(row) = rows.next()? {
            let (seq, stated) = (count(row.get(0)?), count(row.get(1)?));
            let (first, last): (i64, i64) = (row.get(2)?, row.get(3)?);
            let found = if first <= last && lane_of(first) == lane_of(last) {
                items.range(first..=last).map(|(_, items)| items).sum()
            } else {
                0
            };
            let scope = || format!("message {seq} of uplink number {}", uplink_of(first));
            self.expect(scope(), "items", stated, found);
            if let Some((_, end)) = before.filter(|(_, end)| first <= *end) {
                let shared = items.range(first..=end).map(|(_, items)| items).sum();
                self.differ(scope(), "items that are in another message too", 0, shared);
            }
            before = Some((first, last));
        }
        Ok(())
    }

    fn uplinks(&mut self, waiting: &BTreeMap<i64, u64>) -> Result<(), rusqlite::Error> {
        let mut statement = self.conn.prepare(
            "SELECT id, name,
                    coalesce((SELECT max(seq) FROM message WHERE uplink = uplink.id), 0),
                    coalesce((SELECT sum(items) FROM rejected WHERE uplink = uplink.id), 0)
             FROM uplink",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: Arc<str> = row.get(1)?;
            let scope = || format!("uplink {name}");
            let own = |counter| count(self.books.own(Scope::Uplink, &name, counter).unwrap_or(0));
            let (last_seq, discarded) = (own(own::SEQ), own(own::REJECTED_DISCARDED));
            let found = waiting.get(&row.get(0)?).copied().unwrap_or(0);
            let refused = count(row.get(3)?) + discarded;
            let counts = self
                .recounted
                .uplinks
                .entry(name.as_ref().to_owned())
                .or_default();
            let counter = std::mem::replace(&mut counts.waiting, found);
            let rejected = std::mem::replace(&mut counts.rejected, refused);
            self.expect(scope(), "items waiting", counter, found);
            self.expect(scope(), "items rejected", rejected, refused);
            let highest = count(row.get(2)?);
            if highest > last_seq {
                self.differ(scope(), "the highest sealed number", last_seq, highest);
            }
        }
        Ok(())
    }

    fn quarantine(&mut self) -> Result<(), rusqlite::Error> {
        let mut bytes = 0;
        let mut sources: BTreeMap<String, u64> = BTreeMap::new();
        let mut pipelines: BTreeMap<String, u64> = BTreeMap::new();
        let mut statement = self.conn.prepare(
            "SELECT id, source, pipeline, items, bytes, data FROM quarantine ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let stated = count(row.get(3)?);
            bytes += count(row.get(4)?);
            if let Some(source) = row.get(1)? {
                *sources.entry(source).or_default() += stated;
            }
            if let Some(pipeline) = row.get(2)? {
                let found = match block::decode(row.get_ref(5)?.as_blob()?, |_| None) {
                    Ok(batch) => batch.len() as u64,
                    Err(_) => 0,
                };
                self.expect(format!("quarantine row {id}"), "readings", stated, found);
                *pipelines.entry(pipeline).or_default() += found;
            }
        }
        let ledger = self.books.ledger().clone();
        for (name, counts) in &ledger.sources {
            let rows = sources.remove(name).unwrap_or(0);
            self.expect(
                format!("source {name}"),
                "messages in quarantine",
                counts.quarantine.held,
                rows,
            );
            if let Some(counts) = self.recounted.sources.get_mut(name) {
                counts.quarantine.held = rows;
            }
        }
        for (name, counts) in &ledger.pipelines {
            let rows = pipelines.remove(name).unwrap_or(0);
            self.expect(
                format!("pipeline {name}"),
                "readings in quarantine",
                counts.quarantine.held,
                rows,
            );
            if let Some(counts) = self.recounted.pipelines.get_mut(name) {
                counts.quarantine.held = rows;
            }
        }
        for (name, rows) in sources.into_iter().chain(pipelines) {
            self.differ(
                format!("quarantine of {name}"),
                "rows without a counter",
                0,
                rows,
            );
        }
        let counter = count(self.books.store(own::QUARANTINE_BYTES).unwrap_or(0));
        self.expect("quarantine".to_owned(), "bytes", counter, bytes);
        Ok(())
    }
}

/// What waits.
#[derive(Default)]
struct Waiting {
    /// Items by row.
    rows: BTreeMap<i64, u64>,
    /// Items by the uplink's number.
    by_uplink: BTreeMap<i64, u64>,
}

/// The number of JSON objects that a row joins by commas; `None` when it is no JSON.
fn items_in(body: &[u8]) -> Option<u64> {
    let mut list = Vec::with_capacity(body.len() + 2);
    list.push(b'[');
    list.extend_from_slice(body);
    list.push(b']');
    let items: Vec<&RawValue> = serde_json::from_slice(&list).ok()?;
    Some(items.len() as u64)
}
