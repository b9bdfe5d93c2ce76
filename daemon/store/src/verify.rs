//! Counting again: what the rows themselves say, beside what the counters say (promise 2).
//!
//! It goes on beside a writing daemon, in transactions of a moment each, so that the write-ahead log can be recycled. That
//! the sum is right although everything moves rests on what can no longer change:
//!
//! - **History and quarantine** get new rows at the end and lose old ones at the front. A slice of them is counted once;
//!   the last transaction takes the counters, the sums of the slices that are whole, counts the one that was cut into,
//!   and what came after the last slice. (Rows of quarantine that an operator takes out of the middle are counted by
//!   counters of their own; when those moved, quarantine is counted again.)
//! - **The outbox.** A sealed message never changes, and goes together with its rows. That message and rows agree, and
//!   that every row before the last message of its lane is in one, is looked at message by message; how many items
//!   wait is then the sum over the small table of messages, and over the few rows that are not sealed yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::value::RawValue;
use tidegate_domain::Ledger;

use crate::block;
use crate::books::{Books, Scope, own};
use crate::num::count;
use crate::outbox::{self, lane_of};
use crate::schema;
use crate::series::Names;
use crate::windows;
use crate::writer::Shared;

/// How long one transaction takes, roughly; the last row can take it a little beyond.
const SLICE: Duration = Duration::from_millis(100);
/// Differences that are told one by one.
const DIFFERENCES: usize = 256;
/// How often quarantine is counted again because rows were taken out of its middle.
const AGAIN: u32 = 8;

/// What a recount found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Verification {
    /// The counters as stored.
    pub ledger: Ledger,
    /// The same, with everything that rows can tell taken from the rows.
    pub recounted: Ledger,
    /// Counters and rows that disagree, equations that do not hold, rows that cannot be read. None: it balances.
    pub differences: Vec<Difference>,
    /// Differences beyond those.
    pub more_differences: u64,
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

/// Recounts all rows of a stopped or a running gateway's store.
///
/// # Errors
/// The file cannot be read, or is no store. What is merely wrong in it is a [`Difference`].
pub fn verify(path: &Path) -> Result<Verification, VerifyError> {
    let mut recount = Recount::open(path)?;
    loop {
        if let Some(verification) = recount.step()? {
            return Ok(verification);
        }
    }
}

/// What SQLite itself finds wrong with a database, at most a hundred problems. It takes as long as reading all of it, in one
/// transaction: not for beside a running gateway.
///
/// # Errors
/// The file cannot be read at all.
pub fn integrity(path: &Path) -> Result<Vec<String>, VerifyError> {
    let check = || {
        let conn = schema::open_read_only(path)?;
        let mut statement = conn.prepare("PRAGMA integrity_check(100)")?;
        let found = statement.query_map([], |row| row.get(0))?;
        found.collect::<Result<Vec<String>, _>>()
    };
    let mut found = check().map_err(|source| VerifyError::Read {
        path: path.to_owned(),
        source,
    })?;
    found.retain(|problem| problem != "ok");
    Ok(found)
}

/// Begins recounts inside the daemon, whose writer hears of damage that they find.
#[derive(Clone, Debug)]
pub struct Recounter {
    pub(crate) path: PathBuf,
    pub(crate) shared: Arc<Shared>,
}

impl Recounter {
    /// Begins one.
    ///
    /// # Errors
    /// The file cannot be read, or is no store.
    pub fn begin(&self) -> Result<Recount, VerifyError> {
        Recount::sharing(&self.path, Some(Arc::clone(&self.shared)))
    }
}

/// A recount under way.
#[derive(Debug)]
pub struct Recount {
    path: PathBuf,
    conn: Connection,
    shared: Option<Arc<Shared>>,
    phase: Phase,
    history: Slices<i64>,
    quarantine: Slices<Owner>,
    /// What was taken out of quarantine's middle when counting it began.
    taken_out: u64,
    again: u32,
    found: Found,
    /// Rows that one transaction looks at.
    rows: usize,
}

#[derive(Clone, Debug)]
enum Phase {
    History,
    Quarantine,
    /// The lanes that are to be looked at, the next one last.
    Outbox(Vec<Lane>),
    Sum,
}

/// One lane of the outbox, and how far it was looked at.
#[derive(Clone, Debug)]
struct Lane {
    uplink: i64,
    name: Arc<str>,
    kind: i64,
    priority: i64,
    /// The last message that was looked at.
    seq: i64,
    /// The last row.
    row: i64,
    /// All messages were: what follows is not sealed.
    tail: bool,
}

/// Whose row of quarantine it is: a source's (true) or a pipeline's, by name.
type Owner = (bool, String);

/// What is wrong.
#[derive(Debug, Default)]
struct Found {
    differences: Vec<Difference>,
    more: u64,
}

impl Found {
    fn differ(&mut self, scope: String, what: impl Into<String>, counter: u64, rows: u64) {
        if self.differences.len() == DIFFERENCES {
            self.more += 1;
            return;
        }
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
}

/// Sums over a table whose rows come at the end and go at the front.
#[derive(Debug)]
struct Slices<K> {
    slices: Vec<Slice<K>>,
}

#[derive(Debug)]
struct Slice<K> {
    first: i64,
    last: i64,
    sums: BTreeMap<K, u64>,
    bytes: u64,
}

impl<K: Ord + Clone> Slices<K> {
    fn new() -> Self {
        Self { slices: Vec::new() }
    }

    /// The last row that was counted.
    fn end(&self) -> i64 {
        self.slices.last().map_or(0, |slice| slice.last)
    }

    /// The sums over the slices that are whole, now that everything before `front` is gone; and the rows that are to
    /// be counted beside: what is left of the one that was cut into.
    fn whole(&self, front: i64) -> (BTreeMap<K, u64>, u64, Option<(i64, i64)>) {
        let mut sums = BTreeMap::new();
        let mut bytes = 0;
        let mut cut = None;
        for slice in &self.slices {
            if slice.last < front {
                continue;
            }
            if slice.first < front {
                cut = Some((front, slice.last));
                continue;
            }
            bytes += slice.bytes;
            for (key, sum) in &slice.sums {
                *sums.entry(key.clone()).or_default() += sum;
            }
        }
        (sums, bytes, cut)
    }
}

impl Recount {
    /// Begins to count a store's rows.
    ///
    /// # Errors
    /// The file cannot be read, or is no store.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        Self::sharing(path, None)
    }

    fn sharing(path: &Path, shared: Option<Arc<Shared>>) -> Result<Self, VerifyError> {
        let read = |source| VerifyError::Read {
            path: path.to_owned(),
            source,
        };
        let conn = schema::open_read_only(path).map_err(read)?;
        if !schema::is_ours(&conn).map_err(read)? {
            return Err(VerifyError::NotAStore {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            conn,
            shared,
            phase: Phase::History,
            history: Slices::new(),
            quarantine: Slices::new(),
            taken_out: 0,
            again: 0,
            found: Found::default(),
            rows: usize::MAX,
        })
    }

    /// Goes on for a moment, in one transaction. `Some` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> Result<Option<Verification>, VerifyError> {
        let step = self.advance().or_else(|error| {
            // One damaged read can be an accident on its way; the second one is believed.
            if !schema::is_damage(&error) {
                return Err(error);
            }
            self.conn = schema::open_read_only(&self.path)?;
            self.advance()
        });
        if let (Err(error), Some(shared)) = (&step, &self.shared)
            && schema::is_damage(error)
        {
            shared.suspect(error);
        }
        step.map_err(|source| VerifyError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn advance(&mut self) -> Result<Option<Verification>, rusqlite::Error> {
        let transaction = self.conn.unchecked_transaction()?;
        let mut pass = Pass {
            conn: &transaction,
            found: &mut self.found,
            until: Instant::now() + SLICE,
            rows: self.rows,
        };
        let mut done = None;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Sum) {
            Phase::History => match pass.history(&mut self.history)? {
                true => {
                    self.taken_out = taken_out(&Books::load(&transaction)?);
                    Phase::Quarantine
                }
                false => Phase::History,
            },
            Phase::Quarantine => match pass.quarantine(&mut self.quarantine)? {
                true => Phase::Outbox(lanes(&transaction)?),
                false => Phase::Quarantine,
            },
            Phase::Outbox(mut lanes) => {
                while let Some(lane) = lanes.last_mut() {
                    if !pass.lane(lane)? {
                        break;
                    }
                    lanes.pop();
                }
                match lanes.is_empty() {
                    true => Phase::Sum,
                    false => Phase::Outbox(lanes),
                }
            }
            Phase::Sum => {
                let books = Books::load(&transaction)?;
                let taken_out = taken_out(&books);
                let moved = taken_out != self.taken_out;
                if moved {
                    self.again += 1;
                    self.taken_out = taken_out;
                    self.quarantine = Slices::new();
                }
                if moved && self.again < AGAIN {
                    Phase::Quarantine
                } else {
                    // Where it went on moving, all of it is summed up here: it has its bound.
                    let sum = Sum {
                        conn: &transaction,
                        recounted: books.ledger().clone(),
                        books,
                        found: std::mem::take(&mut self.found),
                    };
                    done = Some(sum.all(&self.history, &self.quarantine)?);
                    Phase::Sum
                }
            }
        };
        Ok(done)
    }
}

/// Rows of quarantine that went by other ways than the front.
fn taken_out(books: &Books) -> u64 {
    let ledger = books.ledger();
    let sources = ledger.sources.values().map(|counts| &counts.quarantine);
    let pipelines = ledger.pipelines.values().map(|counts| &counts.quarantine);
    sources
        .chain(pipelines)
        .map(|counts| counts.replayed + counts.discarded)
        .sum()
}

/// Every lane that can have rows.
fn lanes(conn: &Connection) -> Result<Vec<Lane>, rusqlite::Error> {
    let mut lanes = Vec::new();
    let mut statement = conn.prepare("SELECT id, name FROM uplink")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (uplink, name): (i64, Arc<str>) = (row.get(0)?, row.get(1)?);
        for lane in 0..outbox::LANES {
            let (kind, priority) = outbox::kind_and_priority(lane);
            lanes.push(Lane {
                uplink,
                name: Arc::clone(&name),
                kind,
                priority,
                seq: 0,
                row: outbox::base(uplink, lane) - 1,
                tail: false,
            });
        }
    }
    Ok(lanes)
}

/// One transaction's look at rows.
struct Pass<'a> {
    conn: &'a Connection,
    found: &'a mut Found,
    until: Instant,
    /// Rows that are left to it.
    rows: usize,
}

impl Pass<'_> {
    fn is_over(&mut self) -> bool {
        self.rows = self.rows.saturating_sub(1);
        self.rows == 0 || Instant::now() >= self.until
    }

    /// True when no row is left.
    fn history(&mut self, slices: &mut Slices<i64>) -> Result<bool, rusqlite::Error> {
        let mut names = Names::new(self.conn);
        let mut slice: Option<Slice<i64>> = None;
        let mut statement = self.conn.prepare_cached(
            "SELECT id, pipeline, rows, data FROM history WHERE id > ?1 ORDER BY id",
        )?;
        let mut rows = statement.query([slices.end()])?;
        let mut over = false;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let stated = count(row.get(2)?);
            let scope = || format!("history block {id}");
            let found = match block::decode(row.get_ref(3)?.as_blob()?, |id| names.get(id)) {
                Ok(batch) => {
                    let found = batch.len() as u64;
                    self.found.expect(scope(), "readings", stated, found);
                    found
                }
                Err(error) => {
                    self.found
                        .differ(scope(), format!("damaged: {error}"), stated, 0);
                    0
                }
            };
            let slice = slice.get_or_insert_with(|| Slice::at(id));
            slice.last = id;
            *slice.sums.entry(row.get(1)?).or_default() += found;
            if self.is_over() {
                over = true;
                break;
            }
        }
        slices.slices.extend(slice);
        Ok(!over)
    }

    fn quarantine(&mut self, slices: &mut Slices<Owner>) -> Result<bool, rusqlite::Error> {
        let mut slice: Option<Slice<Owner>> = None;
        let mut statement = self.conn.prepare_cached(
            "SELECT id, source, pipeline, items, bytes, data FROM quarantine WHERE id > ?1 ORDER BY id",
        )?;
        let mut rows = statement.query([slices.end()])?;
        let mut over = false;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let stated = count(row.get(3)?);
            let source: Option<String> = row.get(1)?;
            let pipeline: Option<String> = row.get(2)?;
            let slice = slice.get_or_insert_with(|| Slice::at(id));
            slice.last = id;
            slice.bytes += count(row.get(4)?);
            if let Some(source) = source {
                *slice.sums.entry((true, source)).or_default() += stated;
            }
            if let Some(pipeline) = pipeline {
                let found = match block::decode(row.get_ref(5)?.as_blob()?, |_| None) {
                    Ok(batch) => batch.len() as u64,
                    Err(_) => 0,
                };
                let scope = format!("quarantine row {id}");
                self.found.expect(scope, "readings", stated, found);
                *slice.sums.entry((false, pipeline)).or_default() += found;
            }
            if self.is_over() {
                over = true;
                break;
            }
        }
        slices.slices.extend(slice);
        Ok(!over)
    }

    /// True when the lane's last row was seen.
    fn lane(&mut self, lane: &mut Lane) -> Result<bool, rusqlite::Error> {
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, items, first_item, last_item FROM message
             WHERE uplink = ?1 AND priority = ?2 AND kind = ?3 AND seq > ?4 ORDER BY seq",
        )?;
        let number = (lane.row + 1) >> outbox::COUNTER_BITS;
        let mut rows = statement.query((lane.uplink, lane.priority, lane.kind, lane.seq))?;
        while !lane.tail {
            let Some(row) = rows.next()? else {
                lane.tail = true;
                break;
            };
            lane.seq = row.get(0)?;
            let stated = count(row.get(1)?);
            let (first, last): (i64, i64) = (row.get(2)?, row.get(3)?);
            let scope = || format!("uplink {}, message {}", lane.name, lane.seq);
            if first > last || lane_of(first) != number || lane_of(last) != number {
                self.found
                    .differ(scope(), "rows that cannot be its own", stated, 0);
                continue;
            }
            if first <= lane.row {
                let both = self.items(first - 1, lane.row)?;
                self.found
                    .differ(scope(), "items that are in another message too", 0, both);
            }
            let between = self.items(lane.row, first - 1)?;
            self.found.expect(
                scope(),
                "items before it that are in no message",
                0,
                between,
            );
            let own = self.items(first - 1, last)?;
            self.found.expect(scope(), "items", stated, own);
            lane.row = lane.row.max(last);
            if self.is_over() {
                return Ok(false);
            }
        }
        let end = ((number + 1) << outbox::COUNTER_BITS) - 1;
        let mut statement = self.conn.prepare_cached(ITEMS)?;
        let mut rows = statement.query([lane.row, end])?;
        while let Some(row) = rows.next()? {
            self.item(row)?;
            lane.row = row.get(0)?;
            if self.is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The items in the rows after one up to another.
    fn items(&mut self, after: i64, last: i64) -> Result<u64, rusqlite::Error> {
        let mut sum = 0;
        let mut statement = self.conn.prepare_cached(ITEMS)?;
        let mut rows = statement.query([after, last])?;
        while let Some(row) = rows.next()? {
            sum += self.item(row)?;
        }
        Ok(sum)
    }

    fn item(&mut self, row: &rusqlite::Row<'_>) -> Result<u64, rusqlite::Error> {
        let id: i64 = row.get(0)?;
        let stated = count(row.get(1)?);
        let scope = format!("outbox row {id}");
        match items_in(row.get_ref(2)?.as_blob()?) {
            Some(found) => {
                self.found.expect(scope, "items", stated, found);
                Ok(found)
            }
            None => {
                self.found
                    .differ(scope, "items that are no JSON", stated, 0);
                Ok(0)
            }
        }
    }
}

const ITEMS: &str = "SELECT id, items, body FROM item WHERE id > ?1 AND id <= ?2 ORDER BY id";

impl<K> Slice<K> {
    fn at(first: i64) -> Self {
        Self {
            first,
            last: first,
            sums: BTreeMap::new(),
            bytes: 0,
        }
    }
}

/// The last transaction: counters, and sums that go with them.
struct Sum<'a> {
    conn: &'a Connection,
    books: Books,
    recounted: Ledger,
    found: Found,
}

impl Sum<'_> {
    fn all(
        mut self,
        history: &Slices<i64>,
        quarantine: &Slices<Owner>,
    ) -> Result<Verification, rusqlite::Error> {
        for imbalance in self.books.ledger().imbalances() {
            self.found.differ(
                imbalance.scope,
                imbalance.equation,
                imbalance.left,
                imbalance.right,
            );
        }
        self.history(history)?;
        self.quarantine(quarantine)?;
        self.uplinks()?;
        Ok(Verification {
            ledger: self.books.ledger().clone(),
            recounted: self.recounted,
            differences: self.found.differences,
            more_differences: self.found.more,
        })
    }

    fn front(&self, table: &str) -> Result<i64, rusqlite::Error> {
        let sql = format!("SELECT min(id) FROM {table}");
        let front: Option<i64> = self.conn.query_row(&sql, [], |row| row.get(0))?;
        Ok(front.unwrap_or(i64::MAX))
    }

    fn history(&mut self, slices: &Slices<i64>) -> Result<(), rusqlite::Error> {
        let (mut held, _, cut) = slices.whole(self.front("history")?);
        let mut statement = self.conn.prepare(
            "SELECT pipeline, sum(rows) FROM history WHERE id BETWEEN ?1 AND ?2 GROUP BY pipeline",
        )?;
        for (first, last) in cut.into_iter().chain([(slices.end() + 1, i64::MAX)]) {
            let mut rows = statement.query([first, last])?;
            while let Some(row) = rows.next()? {
                *held.entry(row.get(0)?).or_default() += count(row.get(1)?);
            }
        }
        for (id, name) in &windows::names(self.conn)? {
            let rows = held.remove(id).unwrap_or(0);
            let counts = self
                .recounted
                .pipelines
                .entry(name.as_ref().to_owned())
                .or_default();
            let counter = std::mem::replace(&mut counts.held, rows);
            let scope = format!("pipeline {name}");
            self.found.expect(scope, "readings held", counter, rows);
        }
        for (id, rows) in held {
            let scope = format!("pipeline number {id}");
            self.found
                .differ(scope, "readings of an unknown pipeline", 0, rows);
        }
        Ok(())
    }

    fn quarantine(&mut self, slices: &Slices<Owner>) -> Result<(), rusqlite::Error> {
        let (mut held, mut bytes, cut) = slices.whole(self.front("quarantine")?);
        let mut statement = self.conn.prepare(
            "SELECT source, pipeline, sum(items), sum(bytes) FROM quarantine
             WHERE id BETWEEN ?1 AND ?2 GROUP BY source, pipeline",
        )?;
        for (first, last) in cut.into_iter().chain([(slices.end() + 1, i64::MAX)]) {
            let mut rows = statement.query([first, last])?;
            while let Some(row) = rows.next()? {
                let owners = [(true, row.get(0)?), (false, row.get(1)?)];
                for (is_source, name) in owners {
                    if let Some(name) = name {
                        *held.entry((is_source, name)).or_default() += count(row.get(2)?);
                    }
                }
                bytes += count(row.get(3)?);
            }
        }
        let ledger = self.books.ledger().clone();
        for (name, counts) in &ledger.sources {
            let rows = held.remove(&(true, name.clone())).unwrap_or(0);
            let scope = format!("source {name}");
            let counter = counts.quarantine.held;
            self.found
                .expect(scope, "messages in quarantine", counter, rows);
            if let Some(counts) = self.recounted.sources.get_mut(name) {
                counts.quarantine.held = rows;
            }
        }
        for (name, counts) in &ledger.pipelines {
            let rows = held.remove(&(false, name.clone())).unwrap_or(0);
            let scope = format!("pipeline {name}");
            let counter = counts.quarantine.held;
            self.found
                .expect(scope, "readings in quarantine", counter, rows);
            if let Some(counts) = self.recounted.pipelines.get_mut(name) {
                counts.quarantine.held = rows;
            }
        }
        for ((_, name), rows) in held {
            let scope = format!("quarantine of {name}");
            self.found.differ(scope, "rows without a counter", 0, rows);
        }
        let counter = count(self.books.store(own::QUARANTINE_BYTES).unwrap_or(0));
        self.found
            .expect("quarantine".to_owned(), "bytes", counter, bytes);
        Ok(())
    }

    fn uplinks(&mut self) -> Result<(), rusqlite::Error> {
        let mut sealed: BTreeMap<i64, u64> = BTreeMap::new();
        let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
        let mut statement = self.conn.prepare(
            "SELECT uplink, sum(items), max(last_item) FROM message GROUP BY uplink, priority, kind",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *sealed.entry(row.get(0)?).or_default() += count(row.get(1)?);
            let last: i64 = row.get(2)?;
            ends.insert(lane_of(last), last);
        }
        let mut statement = self.conn.prepare(
            "SELECT id, name,
                    coalesce((SELECT max(seq) FROM message WHERE uplink = uplink.id), 0),
                    coalesce((SELECT sum(items) FROM rejected WHERE uplink = uplink.id), 0)
             FROM uplink",
        )?;
        let mut unsealed = self
            .conn
            .prepare("SELECT coalesce(sum(items), 0) FROM item WHERE id > ?1 AND id < ?2")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let name: Arc<str> = row.get(1)?;
            let scope = || format!("uplink {name}");
            let own = |counter| count(self.books.own(Scope::Uplink, &name, counter).unwrap_or(0));
            let (last_seq, discarded) = (own(own::SEQ), own(own::REJECTED_DISCARDED));
            let mut found = sealed.remove(&id).unwrap_or(0);
            for lane in 0..outbox::LANES {
                let base = outbox::base(id, lane);
                let after = ends.get(&lane_of(base)).copied().unwrap_or(base - 1);
                let end = base + (1 << outbox::COUNTER_BITS);
                let items: i64 = unsealed.query_row([after, end], |row| row.get(0))?;
                found += count(items);
            }
            let refused = count(row.get(3)?) + discarded;
            let counts = self
                .recounted
                .uplinks
                .entry(name.as_ref().to_owned())
                .or_default();
            let counter = std::mem::replace(&mut counts.waiting, found);
            let rejected = std::mem::replace(&mut counts.rejected, refused);
            self.found.expect(scope(), "items waiting", counter, found);
            self.found
                .expect(scope(), "items rejected", rejected, refused);
            let highest = count(row.get(2)?);
            if highest > last_seq {
                self.found
                    .differ(scope(), "the highest sealed number", last_seq, highest);
            }
        }
        for (id, items) in sealed {
            let scope = format!("uplink number {id}");
            self.found
                .differ(scope, "messages of an unknown uplink", 0, items);
        }
        Ok(())
    }
}

/// The number of JSON objects that a row joins by commas; `None` when it is no JSON.
pub(crate) fn items_in(body: &[u8]) -> Option<u64> {
    let mut list = Vec::with_capacity(body.len() + 2);
    list.push(b'[');
    list.extend_from_slice(body);
    list.push(b']');
    let items: Vec<&RawValue> = serde_json::from_slice(&list).ok()?;
    Some(items.len() as u64)
}

#[cfg(test)]
impl Recount {
    /// A recount that looks at so many rows in one transaction.
    pub(crate) fn of_rows(path: &Path, rows: usize) -> Self {
        let mut recount = Self::open(path).unwrap();
        recount.rows = rows;
        recount
    }
}
