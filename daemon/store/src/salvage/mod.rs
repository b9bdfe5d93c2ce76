//! Salvage: what is readable of a damaged database, row by row, in a new store that is valid.
//!
//! The file is read without SQLite (`pages.rs`), and nothing in it is believed: a block of history must have its checksum,
//! an item must be JSON, every number is bounded. Which table a page belongs to says the map of pages; where that is
//! damaged, the shape of its rows.
//!
//! What the gateway remembers is in `memory.rs`: filter state, identities of messages, answers to commands, alarms.
//!
//! What is not taken: the sealing of messages (all items are sealed anew, in streams of new ids, so that no number can
//! be used twice), open windows, whose readings are in history, and what has no checksum and could do harm if it were
//! wrong, the records of generations: what is configured runs.

mod memory;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, params_from_iter, types::ToSqlOutput};
use tidegate_domain::item::ItemKind;
use tidegate_domain::outcome::reason;

use self::memory::Memory;
use self::pages::{Owner, Pages, Row, Rows, Value};
use crate::block::{self, BlockError};
use crate::books::{DROPPED, Scope, own, quarantine_counter};
use crate::num::{count, sql};
use crate::outbox;
use crate::schema::{self, OpenError};
use crate::verify::items_in;
use crate::{image, names};

/// Rows that one transaction takes over.
const ROWS: u64 = 4096;
/// Names that are kept in memory: more than a store of ours can have.
const NAMES: usize = 4_000_000;

/// Counters above this are damage; sums of some of them stay in range.
const COUNT_MAX: i64 = 1 << 56;

/// What came of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Salvaged {
    /// Pages of the file.
    pub pages: u64,
    /// Pages whose table was told by the shape of their rows alone.
    pub guessed_pages: u64,
    /// Frames of the write-ahead log that were damaged.
    pub damaged_log_frames: u64,
    /// Whether counters were readable: without them nobody knows what was lost.
    pub counters: bool,
    /// Readings of history.
    pub readings: Part,
    /// Items that waited for uplinks.
    pub items: Part,
    /// Messages and readings in quarantine.
    pub quarantine: Part,
    /// Alarms that were raised.
    pub alarms: Part,
    /// States of filters and decoders: what was saved is whole.
    pub states: Part,
    /// Filters and decoders, by pipeline or source and their names there, that begin without the state they had. The first 1000.
    pub begin_anew: Vec<String>,
    /// Identities of messages, by which what a source sends again is known.
    pub identities: Part,
    /// Answers to commands, by which a command that comes again is known.
    pub answers: Part,
    /// Commands that were at work: details and backfills.
    pub at_work: Part,
    /// Series that are listened for.
    pub heard: Part,
    /// Series whose names were lost; they are called `salvaged/series-N`.
    pub nameless_series: u64,
}

/// One kind of row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// Taken over.
    pub saved: u64,
    /// Not readable, by the old counters, or by every page having been read; `None` where nobody knows.
    pub lost: Option<u64>,
    /// Rows that were found and are damaged.
    pub damaged_rows: u64,
}

/// The salvage could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SalvageError {
    /// The damaged file cannot be read at all.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The new file is there already.
    #[error("{} is there already: salvage makes a new file, name another one", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The new file cannot be made.
    #[error("the new store cannot be made")]
    Open(#[from] OpenError),
    /// The new file cannot be written.
    #[error("the new store {} cannot be written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

enum Trouble {
    Read(io::Error),
    Write(rusqlite::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Write(error)
    }
}

/// Reads what is readable of a damaged database into a new store. `now` is the wall clock, nanoseconds since the epoch.
///
/// # Errors
/// The old file cannot be read at all, or the new one cannot be made.
pub fn salvage(damaged: &Path, to: &Path, now: i64) -> Result<Salvaged, SalvageError> {
    if to.exists() {
        return Err(SalvageError::Exists {
            path: to.to_owned(),
        });
    }
    let read = |source| SalvageError::Read {
        path: damaged.to_owned(),
        source,
    };
    let pages = Pages::open(damaged).map_err(read)?;
    let (conn, _) = schema::open(to).map_err(|trouble| trouble.into_error(to))?;
    let salvaged = Salvage::new(pages, &conn).and_then(|salvage| salvage.all(now));
    salvaged.map_err(|trouble| match trouble {
        Trouble::Read(source) => read(source),
        Trouble::Write(source) => SalvageError::Write {
            path: to.to_owned(),
            source,
        },
    })
}

/// The tables that are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Schema,
    Counter,
    Pipeline,
    Uplink,
    Generation,
    Series,
    History,
    Item,
    Alarm,
    Flood,
    Quarantine,
    Slot,
    Snapshot,
    StateLog,
    Source,
    Identity,
    Command,
    Detail,
    Backfill,
    Heard,
}

impl Table {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "counter" => Self::Counter,
            "pipeline" => Self::Pipeline,
            "uplink" => Self::Uplink,
            "generation" => Self::Generation,
            "series" => Self::Series,
            "history" => Self::History,
            "item" => Self::Item,
            "alarm" => Self::Alarm,
            "alarm_flood" => Self::Flood,
            "quarantine" => Self::Quarantine,
            "slot" => Self::Slot,
            "state_snapshot" => Self::Snapshot,
            "state_log" => Self::StateLog,
            "source" => Self::Source,
            "identity" => Self::Identity,
            "command" => Self::Command,
            "detail" => Self::Detail,
            "backfill" => Self::Backfill,
            "heard" => Self::Heard,
            _ => return None,
        })
    }

    /// What a row can only be, by its shape.
    fn of_shape(row: &Row) -> Option<Self> {
        use Value::{Blob, Int, Null, Text};
        match &row.columns[..] {
            [Null, Int(_), _, _, Int(_), Int(_), Int(_), Blob(data), ..] if is_block(data) => {
                Some(Self::History)
            }
            [Null, Int(_), _, Int(_), Int(_), Int(_), Blob(body), ..]
                if items_in(body).is_some() =>
            {
                Some(Self::Item)
            }
            [Null, Text(name), Int(_), Int(sum)]
                if *sum == names::checksum("series", row.id, name) =>
            {
                Some(Self::Series)
            }
            [Null, Int(_), Blob(data)] if memory::is_state(data) => Some(Self::StateLog),
            [Null, Blob(data)] if memory::is_state(data) => Some(Self::Snapshot),
            [Null, Blob(data)] if memory::are_identities(row.id, data) => Some(Self::Identity),
            [Null, Int(_), Text(_), Int(_), Blob(reply)] if memory::is_reply(reply) => {
                Some(Self::Command)
            }
            [
                Null,
                _,
                _,
                _,
                _,
                _,
                Text(_),
                Text(_),
                Int(_),
                Int(_),
                Int(_),
                Int(_),
                Int(_),
                Blob(_),
                ..,
            ] => Some(Self::Quarantine),
            _ => None,
        }
    }
}

/// Whether bytes have a block's checksum, whatever series it names.
fn is_block(data: &[u8]) -> bool {
    match block::decode(data, |_| None) {
        Ok(_) | Err(BlockError::Series(_)) => true,
        Err(
            BlockError::Checksum | BlockError::Layout(_) | BlockError::Short | BlockError::Value(_),
        ) => false,
    }
}

struct Salvage<'a> {
    pages: Pages,
    conn: &'a Connection,
    /// Tables by their root page.
    roots: BTreeMap<u32, Option<Table>>,
    series: BTreeMap<u32, Arc<str>>,
    pipelines: BTreeMap<i64, Arc<str>>,
    uplinks: BTreeMap<i64, String>,
    counters: BTreeMap<(i64, String, String), i64>,
    /// Readings by pipeline, items by uplink, quarantine by source (true) or pipeline, all as saved.
    held: BTreeMap<i64, u64>,
    waiting: BTreeMap<i64, u64>,
    aside: BTreeMap<(bool, String), u64>,
    aside_bytes: u64,
    last_block: i64,
    written: u64,
    seen_ids: BTreeSet<(u8, i64)>,
    memory: Memory,
    /// Tables of which some page or row could not be read.
    holed: BTreeSet<Table>,
    /// Whether a page could be of any table, or is missing.
    unclear: bool,
    report: Salvaged,
}

impl<'a> Salvage<'a> {
    fn new(pages: Pages, conn: &'a Connection) -> Result<Self, Trouble> {
        let mut salvage = Self {
            report: Salvaged {
                pages: u64::from(pages.last),
                damaged_log_frames: pages.damaged_frames,
                ..Salvaged::default()
            },
            unclear: pages.damaged_frames > 0 || pages.is_short,
            pages,
            conn,
            roots: BTreeMap::new(),
            series: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            counters: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            aside: BTreeMap::new(),
            aside_bytes: 0,
            last_block: 0,
            written: 0,
            seen_ids: BTreeSet::new(),
            memory: Memory::default(),
            holed: BTreeSet::new(),
        };
        salvage.read_roots()?;
        Ok(salvage)
    }

    fn all(mut self, now: i64) -> Result<Salvaged, Trouble> {
        // Names first: blocks refer to them. Then what refers.
        self.pass(true)?;
        self.write_names()?;
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        self.pass(false)?;
        self.write_lost_names()?;
        self.write_counters(now)?;
        self.write_memory()?;
        self.conn.execute_batch("COMMIT")?;
        self.conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(self.report)
    }

    /// Which table begins where: as our layout has it, and as the table of tables says, where it can be read.
    fn read_roots(&mut self) -> Result<(), Trouble> {
        self.roots.insert(1, Some(Table::Schema));
        let mut statement = self
            .conn
            .prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            self.roots.insert(row.get(1)?, Table::named(&name));
        }
        let mut stated = BTreeMap::new();
        for number in 1..=self.pages.last {
            if self.pages.owner(number)? != Owner::Root(1) {
                continue;
            }
            for row in self.rows(number)?.rows {
                if let [Value::Text(_), Value::Text(name), _, Value::Int(root), ..] =
                    &row.columns[..]
                    && let Ok(root) = u32::try_from(*root)
                    && root > 1
                {
                    stated.insert(root, Table::named(name));
                }
            }
        }
        if !stated.is_empty() {
            self.roots.extend(stated);
        }
        Ok(())
    }

    fn rows(&self, number: u32) -> Result<Rows, Trouble> {
        let Some(page) = self.pages.page(number)? else {
            return Ok(Rows::default());
        };
        Ok(pages::rows(&self.pages, number, &page)?.unwrap_or_default())
    }

    /// Looks at every page once.
    fn pass(&mut self, names: bool) -> Result<(), Trouble> {
        for number in 1..=self.pages.last {
            let table = match self.pages.owner(number)? {
                Owner::Nobody => continue,
                Owner::Root(root) => match self.roots.get(&root) {
                    Some(Some(table)) => Some(*table),
                    Some(None) => continue,
                    None => None,
                },
                Owner::Unknown => None,
            };
            let Rows { rows, whole } = self.rows(number)?;
            match table {
                Some(table) if !whole => {
                    self.holed.insert(table);
                }
                Some(_) => {}
                None => self.unclear = true,
            }
            if table.is_none() && !rows.is_empty() && names {
                self.report.guessed_pages += 1;
            }
            for row in rows {
                let Some(table) = table.or_else(|| Table::of_shape(&row)) else {
                    continue;
                };
                match names {
                    true => self.take_name(table, row),
                    false => self.take(table, &row)?,
                }
            }
        }
        Ok(())
    }

    fn take_name(&mut self, table: Table, row: Row) {
        use Value::{Int, Null, Text};
        let id = row.id;
        // A store of a layout before 10 has names without one.
        let sound = |table: &str, name: &str, checksum: Option<&Value>| match checksum {
            Some(Int(sum)) => *sum == names::checksum(table, id, name),
            Some(Null) | None => true,
            Some(_) => false,
        };
        match (table, &row.columns[..]) {
            (Table::Series, [Null, Text(name), _, rest @ ..])
                if sound("series", name, rest.first()) =>
            {
                if let Ok(id) = u32::try_from(id)
                    && self.series.len() < NAMES
                {
                    self.series
                        .entry(id)
                        .or_insert_with(|| name.as_str().into());
                }
            }
            (Table::Pipeline, [Null, Text(name), rest @ ..])
                if is_number(id) && sound("pipeline", name, rest.first()) =>
            {
                self.pipelines
                    .entry(id)
                    .or_insert_with(|| name.as_str().into());
            }
            (Table::Uplink, [Null, Text(name), Text(_), rest @ ..])
                if is_uplink(id) && sound("uplink", name, rest.first()) =>
            {
                self.uplinks.entry(id).or_insert_with(|| name.clone());
            }
            (Table::Counter, [Int(scope), Text(name), Text(counter), Int(value)]) => {
                let key = (*scope, name.clone(), counter.clone());
                self.counters.entry(key).or_insert(*value);
            }
            (Table::Slot, [Null, Text(name), rest @ ..])
                if is_number(id) && sound("slot", name, rest.first()) =>
            {
                self.memory.slots.entry(id).or_insert_with(|| name.clone());
            }
            (Table::Source, [Null, Text(name), rest @ ..])
                if memory::is_source(id) && sound("source", name, rest.first()) =>
            {
                self.memory
                    .sources
                    .entry(id)
                    .or_insert_with(|| name.clone());
            }
            _ => {}
        }
    }

    fn write_names(&mut self) -> Result<(), Trouble> {
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut known = BTreeSet::new();
        self.series.retain(|_, name| known.insert(Arc::clone(name)));
        let mut known = BTreeSet::new();
        self.pipelines
            .retain(|_, name| known.insert(Arc::clone(name)));
        let mut known = BTreeSet::new();
        self.uplinks.retain(|_, name| known.insert(name.clone()));
        for (id, name) in &self.series {
            self.conn
                .prepare_cached("INSERT INTO series VALUES (?1, ?2, 0, ?3)")?
                .execute((id, name, names::checksum("series", (*id).into(), name)))?;
        }
        self.conn.execute_batch("COMMIT")?;
        Ok(())
    }

    fn take(&mut self, table: Table, row: &Row) -> Result<(), Trouble> {
        match table {
            Table::History => self.history(row)?,
            Table::Item => self.item(row)?,
            Table::Quarantine => self.quarantine(row)?,
            Table::Alarm => self.alarm(row)?,
            Table::Generation => self.generation(row)?,
            Table::Snapshot | Table::StateLog => self.state(table, row),
            Table::Flood => self.flood(row)?,
            Table::Identity => self.identities(row)?,
            Table::Command => self.answer(row)?,
            Table::Detail => self.detail(row)?,
            Table::Backfill => self.backfill(row)?,
            Table::Heard => self.heard(row)?,
            Table::Schema
            | Table::Counter
            | Table::Pipeline
            | Table::Uplink
            | Table::Series
            | Table::Slot
            | Table::Source => return Ok(()),
        }
        self.written += 1;
        if self.written.is_multiple_of(ROWS) {
            self.conn.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
            self.conn
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    /// False where a row of this number was taken before: an old copy of a page can be around.
    fn is_new(&mut self, table: Table, id: i64) -> bool {
        self.seen_ids.insert((table as u8, id))
    }

    fn history(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Blob, Int};
        let [
            _,
            Int(pipeline),
            generation,
            arrival,
            Int(from),
            Int(to),
            _,
            Blob(data),
            ..,
        ] = &row.columns[..]
        else {
            self.report.readings.damaged_rows += 1;
            return Ok(());
        };
        let mut unknown = BTreeSet::new();
        let series = &self.series;
        let batch = block::decode(data, |id| {
            Some(series.get(&id).cloned().unwrap_or_else(|| {
                unknown.insert(id);
                nameless(id)
            }))
        });
        let Ok(batch) = batch else {
            self.report.readings.damaged_rows += 1;
            return Ok(());
        };
        if !is_number(row.id) || !is_number(*pipeline) {
            self.report.readings.damaged_rows += 1;
            return Ok(());
        }
        if !self.is_new(Table::History, row.id) {
            return Ok(());
        }
        for id in unknown {
            self.series.insert(id, nameless(id));
            self.report.nameless_series += 1;
            let name = nameless(id);
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO series VALUES (?1, ?2, 0, ?3)")?
                .execute((id, &name, names::checksum("series", id.into(), &name)))?;
        }
        let readings = batch.len() as u64;
        self.conn
            .prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute((
                row.id,
                pipeline,
                integer(generation),
                integer(arrival),
                from,
                to,
                sql(readings),
                data,
            ))?;
        *self.held.entry(*pipeline).or_default() += readings;
        self.last_block = self.last_block.max(row.id);
        self.report.readings.saved += readings;
        Ok(())
    }

    fn item(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Blob, Int};
        let [
            _,
            Int(created),
            pipeline,
            _,
            Int(from),
            Int(to),
            Blob(body),
            ..,
        ] = &row.columns[..]
        else {
            self.report.items.damaged_rows += 1;
            return Ok(());
        };
        let uplink = outbox::uplink_of(row.id);
        let (kind, _) = outbox::kind_and_priority(outbox::lane_of(row.id) % outbox::LANES);
        let known = usize::try_from(kind).is_ok_and(|kind| kind < ItemKind::ALL.len())
            && row.id % (1 << outbox::COUNTER_BITS) < 1 << (outbox::COUNTER_BITS - 1);
        let Some(items) = items_in(body).filter(|_| known && is_uplink(uplink)) else {
            self.report.items.damaged_rows += 1;
            return Ok(());
        };
        if !self.is_new(Table::Item, row.id) {
            return Ok(());
        }
        self.conn
            .prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                row.id,
                created,
                integer(pipeline),
                sql(items),
                from,
                to,
                body,
            ))?;
        *self.waiting.entry(uplink).or_default() += items;
        self.report.items.saved += items;
        Ok(())
    }

    fn quarantine(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Blob, Int, Null, Text};
        let [
            _,
            source,
            topic,
            pipeline,
            filter,
            generation,
            Text(reason),
            Text(detail),
            Int(arrival),
            Int(synced),
            _,
            Int(length),
            _,
            Blob(data),
            ..,
        ] = &row.columns[..]
        else {
            self.report.quarantine.damaged_rows += 1;
            return Ok(());
        };
        let owner = match (source, pipeline) {
            (Text(source), Null) => Some(((true, source.clone()), 1)),
            (Null, Text(pipeline)) => block::decode(data, |_| None)
                .ok()
                .map(|batch| ((false, pipeline.clone()), batch.len() as u64)),
            _ => None,
        };
        let Some((owner, items)) = owner.filter(|_| is_number(row.id)) else {
            self.report.quarantine.damaged_rows += 1;
            return Ok(());
        };
        if !self.is_new(Table::Quarantine, row.id) {
            return Ok(());
        }
        let bytes = crate::quarantine::ROW_BYTES + detail.len() + data.len();
        self.conn
            .prepare_cached(
                "INSERT INTO quarantine (id, source, topic, pipeline, filter, generation, reason, detail, arrival,
                                         synced, items, length, bytes, data)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute(params_from_iter([
                Int(row.id),
                source.clone(),
                topic.clone(),
                pipeline.clone(),
                filter.clone(),
                generation.clone(),
                Text(reason.clone()),
                Text(detail.clone()),
                Int(*arrival),
                Int(i64::from(*synced != 0)),
                Int(sql(items)),
                Int(*length),
                Int(crate::num::sql_len(bytes)),
                Blob(data.clone()),
            ]))?;
        *self.aside.entry(owner).or_default() += items;
        self.aside_bytes += bytes as u64;
        self.report.quarantine.saved += items;
        Ok(())
    }

    fn alarm(&mut self, row: &Row) -> Result<(), Trouble> {
        use Value::{Int, Null, Text};
        let raised = || Text("raised".to_owned());
        let alarm: Option<Vec<Value>> = match &row.columns[..] {
            // The first layout's: of a pipeline, and nothing but raised.
            [Text(_), Text(_), Text(_), Text(_), Text(_), Int(_), Text(_)] => {
                let begin = [Int(Scope::Pipeline as i64)]
                    .into_iter()
                    .chain(row.columns.iter().cloned());
                Some(
                    begin
                        .chain([Null, Null, raised(), Null, Null, Int(0), Int(0)])
                        .collect(),
                )
            }
            [
                Int(2 | 1),
                Text(_),
                Text(_),
                Text(_),
                Text(_),
                Text(_),
                Int(_),
                Text(_),
                _,
                _,
                Text(_),
                _,
                _,
                Int(_),
                Int(_),
                ..,
            ] => Some(row.columns[..15].to_vec()),
            _ => None,
        };
        let word = |column: &Value, words: &[&str]| matches!(column, Text(word) if words.contains(&word.as_str()));
        let sound = alarm.filter(|columns| {
            word(&columns[5], &["info", "warning", "critical"])
                && word(&columns[10], &["raised", "acknowledged", "cleared"])
                && matches!(columns[8], Null | Value::Float(_) | Int(_))
                && matches!(columns[9], Null | Text(_))
                && matches!(
                    (&columns[11], &columns[12]),
                    (Null, Null) | (Text(_), Int(_))
                )
                && matches!(
                    (&columns[13], &columns[14]),
                    (Int(0 | 1), Int(0..=COUNT_MAX))
                )
        });
        let Some(columns) = sound else {
            self.report.alarms.damaged_rows += 1;
            return Ok(());
        };
        let inserted = self
            .conn
            .prepare_cached(
                "INSERT OR IGNORE INTO alarm VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params_from_iter(columns))?;
        self.report.alarms.saved += inserted as u64;
        Ok(())
    }

    fn generation(&mut self, row: &Row) -> Result<(), Trouble> {
        if let [_, Value::Text(digest), Value::Text(slots), ..] = &row.columns[..]
            && is_number(row.id)
        {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO generation VALUES (?1, ?2, ?3)")?
                .execute((row.id, digest, slots))?;
        }
        Ok(())
    }

    /// Names for whatever is referred to and has none.
    fn write_lost_names(&mut self) -> Result<(), Trouble> {
        // Where only one is without a name, and only one name is left over in the counters, they belong together.
        let left = |scope: Scope, known: &BTreeSet<String>| {
            let names = self.counters.keys().filter(|(of, ..)| *of == scope as i64);
            let names: BTreeSet<&String> = names.map(|(_, name, _)| name).collect();
            let mut left = names.into_iter().filter(|name| !known.contains(*name));
            left.next().cloned().filter(|_| left.next().is_none())
        };
        let known = self.pipelines.values().map(ToString::to_string).collect();
        if let Some(name) = left(Scope::Pipeline, &known)
            && let Some(id) = only(
                self.held
                    .keys()
                    .filter(|id| !self.pipelines.contains_key(id)),
            )
        {
            self.pipelines.insert(id, name.into());
        }
        let known = self.uplinks.values().cloned().collect();
        if let Some(name) = left(Scope::Uplink, &known)
            && let Some(id) = only(
                self.waiting
                    .keys()
                    .filter(|id| !self.uplinks.contains_key(id)),
            )
        {
            self.uplinks.insert(id, name);
        }
        for id in self.held.keys() {
            let name = || format!("salvaged-pipeline-{id}").into();
            self.pipelines.entry(*id).or_insert_with(name);
        }
        for id in self.waiting.keys() {
            let name = || format!("salvaged-uplink-{id}");
            self.uplinks.entry(*id).or_insert_with(name);
        }
        for (id, name) in &self.pipelines {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO pipeline VALUES (?1, ?2, ?3)")?
                .execute((id, name, names::checksum("pipeline", *id, name)))?;
        }
        for (id, name) in &self.uplinks {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO uplink VALUES (?1, ?2, lower(hex(?3)), ?4)")?
                .execute((
                    id,
                    name,
                    image::random(),
                    names::checksum("uplink", *id, name),
                ))?;
        }
        let seen = self.last_block + 1;
        self.conn.execute("UPDATE series SET seen = ?1", [seen])?;
        Ok(())
    }

    /// The old counts, as far as they are known, made to balance with what was saved: what is missing was lost.
    fn write_counters(&mut self, now: i64) -> Result<(), Trouble> {
        let old = Counters(std::mem::take(&mut self.counters));
        self.report.counters = !old.0.is_empty();
        let mut sources = old.names(Scope::Source);
        let mut pipelines = old.names(Scope::Pipeline);
        pipelines.extend(self.pipelines.values().map(ToString::to_string));
        for (is_source, name) in self.aside.keys() {
            let names = if *is_source {
                &mut sources
            } else {
                &mut pipelines
            };
            names.insert(name.clone());
        }
        let mut held: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, rows) in &self.held {
            if let Some(name) = self.pipelines.get(id) {
                *held.entry(name).or_default() += rows;
            }
        }
        let aside = |is_source: bool, name: &str| {
            self.aside
                .get(&(is_source, name.to_owned()))
                .copied()
                .unwrap_or(0)
        };
        let report = &mut self.report;
        for name in &sources {
            let mut counts = old.of(Scope::Source, name);
            let lost = set_aside(&mut counts, aside(true, name));
            report.quarantine.lost = added(report.quarantine.lost, lost);
            let dropped = sum(&counts, |counter| counter.starts_with(DROPPED));
            let received = get(&counts, "decoded") + get(&counts, "quarantined") + dropped;
            counts.insert("received".to_owned(), received);
            write(self.conn, Scope::Source, name, &counts)?;
        }
        for name in &pipelines {
            let mut counts = old.of(Scope::Pipeline, name);
            let lost = set_aside(&mut counts, aside(false, name));
            report.quarantine.lost = added(report.quarantine.lost, lost);
            let rows = held.get(name.as_str()).copied().unwrap_or(0);
            let before = counts.insert("held".to_owned(), rows);
            let lost = before.map(|before| before.saturating_sub(rows));
            report.readings.lost = added(report.readings.lost, lost);
            *counts.entry("evicted".to_owned()).or_default() += lost.unwrap_or(0);
            let stored = rows + get(&counts, "expired") + get(&counts, "evicted");
            counts.insert("stored".to_owned(), stored);
            let dropped = sum(&counts, |counter| counter.starts_with(DROPPED));
            let right = stored + get(&counts, "filtered") + get(&counts, "quarantined") + dropped;
            let beside = get(&counts, "derived") + get(&counts, "replayed");
            // Where even that was lost, what came out is all that is known to have come in.
            let beside = if beside > right { 0 } else { beside };
            if beside == 0 {
                counts.remove("derived");
                counts.remove("replayed");
            }
            counts.insert("selected".to_owned(), right - beside);
            write(self.conn, Scope::Pipeline, name, &counts)?;
        }
        let to = tidegate_domain::item::millis(now);
        for (id, name) in &self.uplinks {
            let mut counts = old.of(Scope::Uplink, name);
            let saved = self.waiting.get(id).copied().unwrap_or(0);
            let before = counts.insert("waiting".to_owned(), saved);
            let lost = before.map(|before| before.saturating_sub(saved));
            report.items.lost = added(report.items.lost, lost);
            *counts.entry("evicted".to_owned()).or_default() += lost.unwrap_or(0);
            let queued = saved
                + get(&counts, "delivered")
                + get(&counts, "evicted")
                + get(&counts, "rejected");
            counts.insert("queued".to_owned(), queued);
            // Refused messages are not taken over; their number is.
            counts.insert(own::REJECTED_DISCARDED.to_owned(), get(&counts, "rejected"));
            write(self.conn, Scope::Uplink, name, &counts)?;
            if lost != Some(0) {
                self.conn.execute(
                    "INSERT INTO gap (uplink, reason, from_time, to_time, items) VALUES (?1, ?2, 0, ?3, ?4)",
                    (id, reason::CORRUPT, to, lost.map(sql)),
                )?;
            }
        }
        let clock = old.0.get(&(0, String::new(), own::CLOCK.to_owned()));
        for (counter, value) in [
            (own::NEXT_BLOCK, self.last_block + 1),
            (own::QUARANTINE_BYTES, sql(self.aside_bytes)),
            (own::CLEAN, 1),
            (
                own::CLOCK,
                clock.map_or(now, |clock| (*clock).clamp(0, now)),
            ),
        ] {
            self.conn.execute(
                "INSERT OR REPLACE INTO counter VALUES (0, '', ?1, ?2)",
                (counter, value),
            )?;
        }
        Ok(())
    }
}

/// Counters as they were found: scope, name, counter.
struct Counters(BTreeMap<(i64, String, String), i64>);

impl Counters {
    fn names(&self, scope: Scope) -> BTreeSet<String> {
        let keys = self.0.keys().filter(|(known, ..)| *known == scope as i64);
        keys.map(|(_, name, _)| name.clone()).collect()
    }

    /// The counters of the ledger among them that can be true.
    fn of(&self, scope: Scope, name: &str) -> BTreeMap<String, u64> {
        const WORDS: [&str; 14] = [
            "redelivered",
            "decoded",
            "quarantined",
            "derived",
            "replayed",
            "filtered",
            "held",
            "expired",
            "evicted",
            "delivered",
            "waiting",
            "rejected",
            "quarantine.replayed",
            "quarantine.discarded",
        ];
        let first = (scope as i64, name.to_owned(), String::new());
        let found = self
            .0
            .range(first..)
            .take_while(|((known, of, _), _)| *known == scope as i64 && of == name);
        found
            .filter(|((.., counter), value)| {
                let ours = WORDS.contains(&counter.as_str())
                    || counter == quarantine_counter::HELD
                    || counter == quarantine_counter::EVICTED
                    || (counter.starts_with(DROPPED) && counter.len() <= 64);
                ours && (0..=COUNT_MAX).contains(*value)
            })
            .map(|((.., counter), value)| (counter.clone(), count(*value)))
            .collect()
    }
}

/// Makes quarantine's equation hold with what was saved; what is missing of it, where that is known.
fn set_aside(counts: &mut BTreeMap<String, u64>, saved: u64) -> Option<u64> {
    let before = counts.insert(quarantine_counter::HELD.to_owned(), saved);
    let lost = before.map(|before| before.saturating_sub(saved));
    *counts
        .entry(quarantine_counter::EVICTED.to_owned())
        .or_default() += lost.unwrap_or(0);
    let all = sum(counts, |counter| counter.starts_with("quarantine."));
    counts.insert("quarantined".to_owned(), all);
    lost
}

fn get(counts: &BTreeMap<String, u64>, counter: &str) -> u64 {
    counts.get(counter).copied().unwrap_or(0)
}

fn sum(counts: &BTreeMap<String, u64>, which: impl Fn(&str) -> bool) -> u64 {
    let counts = counts.iter().filter(|(counter, _)| which(counter));
    counts.map(|(_, value)| value).sum()
}

fn write(
    conn: &Connection,
    scope: Scope,
    name: &str,
    counts: &BTreeMap<String, u64>,
) -> Result<(), rusqlite::Error> {
    for (counter, value) in counts {
        conn.prepare_cached("INSERT OR REPLACE INTO counter VALUES (?1, ?2, ?3, ?4)")?
            .execute((scope as u8, name, counter, sql(*value)))?;
    }
    Ok(())
}

fn only<'a>(mut ids: impl Iterator<Item = &'a i64>) -> Option<i64> {
    ids.next().copied().filter(|_| ids.next().is_none())
}

fn added(sum: Option<u64>, more: Option<u64>) -> Option<u64> {
    match (sum, more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (sum, more) => sum.or(more),
    }
}

fn nameless(id: u32) -> Arc<str> {
    format!("salvaged/series-{id}").into()
}

/// Whether the lanes of such an uplink fit into an item's id.
fn is_uplink(id: i64) -> bool {
    (1..1 << 17).contains(&id)
}

/// Whether a row's number leaves room for as many again.
fn is_number(id: i64) -> bool {
    (1..1 << 53).contains(&id)
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Null | Value::Float(_) | Value::Text(_) | Value::Blob(_) => None,
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        use rusqlite::types::{Null, ValueRef};
        Ok(match self {
            Self::Null => ToSqlOutput::from(Null),
            Self::Int(value) => ToSqlOutput::from(*value),
            Self::Float(value) => ToSqlOutput::from(*value),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}
