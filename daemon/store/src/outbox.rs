//! The outbox: items by lane, sealed into messages.
//!
//! A *lane* is what leaves in one order: one uplink, kind and priority. A row of `item` holds one or several encoded
//! items of one pipeline, so that a commit adds one row a lane; its id is the lane in the upper bits and a counter in the lower
//! 40, so that a lane is one range of the table. A message is sealed by writing its number beside a range of its lane:
//! the bytes are not written again.

mod body;
mod settle;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::cover;
use tidegate_domain::item::{ItemKind, Priority};
use tidegate_domain::limits;
use tidegate_domain::outcome::reason;

use crate::books::{Books, Scope, own};
use crate::config::UplinkConfig;
use crate::gaps::{Gaps, Loss};
use crate::num::{count, sql, sql_len};
use crate::setup::Setup;

pub(crate) use self::body::body;

/// Bits of the counter in an item's id.
pub(crate) const COUNTER_BITS: u32 = 40;
/// Lanes that an uplink can have: kind (3 bits) and priority (2 bits).
pub(crate) const LANES: i64 = 1 << 5;
/// In the order in which they are given up.
const PRIORITIES: [Priority; 4] = [
    Priority::Low,
    Priority::Normal,
    Priority::High,
    Priority::Alarm,
];

/// Which lane: the order is that in which lanes are sealed within one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneKey {
    pub(crate) uplink: usize,
    pub(crate) priority: Priority,
    pub(crate) kind: ItemKind,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// The configured uplinks in their order, then those that only the database knows.
    uplinks: Vec<Uplink>,
    configured: usize,
    lanes: BTreeMap<LaneKey, Lane>,
}

#[derive(Debug)]
struct Uplink {
    id: i64,
    name: Arc<str>,
    seq: u64,
    /// Sealed ones that wait.
    messages: u64,
    max_message_bytes: usize,
    max_message_items: u32,
    linger: Duration,
}

#[derive(Debug)]
struct Lane {
    /// The lane's first id.
    base: i64,
    next_id: i64,
    /// Rows that no message has yet, oldest first.
    unsealed: VecDeque<Row>,
    unsealed_bytes: usize,
    unsealed_items: u32,
    /// Since when the oldest of them waits.
    since: Option<Instant>,
    open: OpenRow,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    id: i64,
    bytes: usize,
    items: u32,
}

/// Items that are not yet in the database.
#[derive(Debug, Default)]
struct OpenRow {
    pipeline: Option<i64>,
    items: u32,
    from: i64,
    to: i64,
    body: Vec<u8>,
}

/// What a transaction of the outbox needs.
pub(crate) struct Pen<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) books: &'a mut Books,
    /// The wall clock, nanoseconds since the epoch.
    pub(crate) wall: i64,
}

/// An item to be queued. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) pipeline: Option<i64>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) json: &'a [u8],
}

impl Outbox {
    pub(crate) fn load(
        conn: &Connection,
        setup: &Setup,
        books: &Books,
        now: Instant,
    ) -> Result<Self, rusqlite::Error> {
        let mut stored = conn.prepare("SELECT id, name FROM uplink")?;
        let stored = stored
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(i64, Arc<str>)>, _>>()?;
        let mut uplinks: Vec<Uplink> = Vec::new();
        for (index, config) in setup.config.uplinks.iter().enumerate() {
            let name = &setup.uplinks[index];
            let known = stored.iter().find(|(_, stored)| stored == name);
            let (id, _) = known.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            uplinks.push(Uplink::new(*id, name, config, books));
        }
        let configured = uplinks.len();
        for (id, name) in &stored {
            if !setup.uplinks.contains(name) {
                let config = UplinkConfig::new(name.as_ref());
                uplinks.push(Uplink::new(*id, name, &config, books));
            }
        }
        let mut outbox = Self {
            uplinks,
            configured,
            lanes: BTreeMap::new(),
        };
        for uplink in 0..outbox.uplinks.len() {
            outbox.load_lanes(conn, uplink, now)?;
        }
        Ok(outbox)
    }

    fn load_lanes(
        &mut self,
        conn: &Connection,
        uplink: usize,
        now: Instant,
    ) -> Result<(), rusqlite::Error> {
        let id = self.uplinks[uplink].id;
        let mut sealed = BTreeMap::new();
        let mut statement = conn.prepare(
            "SELECT priority, kind, max(last_item), count(*) FROM message WHERE uplink = ?1 GROUP BY priority, kind",
        )?;
        let mut rows = statement.query([id])?;
        while let Some(row) = rows.next()? {
            let lane: (i64, i64) = (row.get(0)?, row.get(1)?);
            sealed.insert(lane, row.get::<_, i64>(2)?);
            self.uplinks[uplink].messages += count(row.get(3)?);
        }
        for priority in PRIORITIES {
            for kind in ItemKind::ALL {
                let key = LaneKey {
                    uplink,
                    priority,
                    kind,
                };
                let mut lane = Lane::new(lane_base(id, key));
                let last_sealed = sealed.get(&(priority as i64, kind as i64)).copied();
                let after = last_sealed.unwrap_or(lane.base - 1);
                let mut statement = conn.prepare_cached(
                    "SELECT id, length(body), items FROM item WHERE id > ?1 AND id < ?2 ORDER BY id",
                )?;
                let mut rows = statement.query([after, lane.end()])?;
                while let Some(row) = rows.next()? {
                    let bytes: i64 = row.get(1)?;
                    lane.add(
                        Row {
                            id: row.get(0)?,
                            bytes: usize::try_from(bytes).unwrap_or(0),
                            items: row.get(2)?,
                        },
                        now,
                    );
                }
                let last = lane.unsealed.back().map(|row| row.id).or(last_sealed);
                if let Some(last) = last {
                    lane.next_id = last + 1;
                    self.lanes.insert(key, lane);
                }
            }
        }
        Ok(())
    }

    /// The highest sealed number of an uplink.
    pub(crate) fn seq(&self, uplink: usize) -> u64 {
        self.uplinks.get(uplink).map_or(0, |uplink| uplink.seq)
    }

    /// Queues an item.
    pub(crate) fn push(
        &mut self,
        pen: &mut Pen<'_>,
        key: LaneKey,
        entry: Entry<'_>,
    ) -> Result<(), rusqlite::Error> {
        let Some(uplink) = self.uplinks.get(key.uplink) else {
            return Ok(());
        };
        let lane = self
            .lanes
            .entry(key)
            .or_insert_with(|| Lane::new(lane_base(uplink.id, key)));
        let row = &lane.open;
        let row_bytes = limits::OUTBOX_ITEM_BYTES.min(uplink.max_message_bytes);
        if row.items > 0
            && (row.pipeline != entry.pipeline
                || row.items >= uplink.max_message_items
                || row.body.len() + 1 + entry.json.len() > row_bytes)
        {
            lane.flush(pen, &uplink.name)?;
        }
        let row = &mut lane.open;
        if row.items == 0 {
            row.pipeline = entry.pipeline;
            (row.from, row.to) = (entry.from, entry.to);
        } else {
            row.body.push(b',');
        }
        row.from = row.from.min(entry.from);
        row.to = row.to.max(entry.to);
        row.items += 1;
        row.body.extend_from_slice(entry.json);
        Ok(())
    }

    /// Writes what was queued, and seals the messages that are due at `now`. Adds the uplinks that have new ones.
    pub(crate) fn write(
        &mut self,
        pen: &mut Pen<'_>,
        now: Instant,
        sealed: &mut BTreeSet<usize>,
    ) -> Result<(), rusqlite::Error> {
        for (key, lane) in &mut self.lanes {
            let uplink = &mut self.uplinks[key.uplink];
            lane.flush(pen, &uplink.name)?;
            if let (None, Some(_)) = (lane.since, lane.unsealed.front()) {
                lane.since = Some(now);
            }
            while let Some(message) = lane.next_message(*key, uplink, now) {
                let rows = lane.unsealed.drain(..message.rows);
                let (mut first, mut last) = (0, 0);
                for row in rows {
                    first = if first == 0 { row.id } else { first };
                    last = row.id;
                }
                lane.unsealed_bytes = lane.unsealed_bytes.saturating_sub(message.bytes);
                lane.unsealed_items = lane.unsealed_items.saturating_sub(message.items);
                if lane.unsealed.is_empty() {
                    lane.since = None;
                }
                uplink.seq += 1;
                uplink.messages += 1;
                pen.conn
                    .prepare_cached("INSERT INTO message VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
                    .execute((
                        uplink.id,
                        key.priority as u8,
                        sql(uplink.seq),
                        key.kind as u8,
                        message.items,
                        sql_len(message.bytes),
                        first,
                        last,
                    ))?;
                pen.books
                    .set_own(Scope::Uplink, &uplink.name, own::SEQ, sql(uplink.seq));
                if key.uplink < self.configured {
                    sealed.insert(key.uplink);
                }
            }
        }
        Ok(())
    }

    /// When the next message is due by its linger.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = |(key, lane): (&LaneKey, &Lane)| {
            let linger = self.uplinks[key.uplink].linger_of(*key);
            lane.since.map(|since| since + linger)
        };
        self.lanes.iter().filter_map(due).min()
    }

    /// Whether gap items of an uplink are waiting: then further losses are summed up first, so that their number stays small.
    pub(crate) fn gaps_wait(
        &self,
        conn: &Connection,
        uplink: usize,
    ) -> Result<bool, rusqlite::Error> {
        let Some(id) = self.uplinks.get(uplink).map(|uplink| uplink.id) else {
            return Ok(true);
        };
        let key = LaneKey {
            uplink,
            priority: Priority::High,
            kind: ItemKind::Gap,
        };
        let base = lane_base(id, key);
        conn.prepare_cached("SELECT 1 FROM item WHERE id >= ?1 AND id < ?2 LIMIT 1")?
            .exists([base, base + (1 << COUNTER_BITS)])
    }

    /// Sealed messages that wait for an uplink.
    pub(crate) fn messages(&self, uplink: usize) -> u64 {
        self.uplinks.get(uplink).map_or(0, |uplink| uplink.messages)
    }

    /// When the oldest item of an uplink was queued.
    pub(crate) fn oldest(
        &self,
        conn: &Connection,
        uplink: usize,
    ) -> Result<Option<i64>, rusqlite::Error> {
        let mut oldest: Option<i64> = None;
        for (_, lane) in self.lanes.iter().filter(|(key, _)| key.uplink == uplink) {
            let created = created(conn, lane.base, lane.end())?;
            oldest = match (oldest, created) {
                (Some(oldest), Some(created)) => Some(oldest.min(created)),
                (oldest, created) => oldest.or(created),
            };
        }
        Ok(oldest)
    }

    /// Gives up what waits for an uplink that is no longer configured. False when there is nothing.
    pub(crate) fn evict_unconfigured(
        &mut self,
        pen: &mut Pen<'_>,
    ) -> Result<bool, rusqlite::Error> {
        for uplink in self.configured..self.uplinks.len() {
            for priority in PRIORITIES {
                if let Some(victim) = self.victim(pen.conn, uplink, priority, &BTreeSet::new())? {
                    self.give_up(pen, uplink, victim, |_, _| {})?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Gives up the oldest that waits at a priority, over all uplinks: a sealed message that is not in flight, or a
    /// row that is not sealed. Gap items never go. False when there is nothing.
    pub(crate) fn evict(
        &mut self,
        pen: &mut Pen<'_>,
        priority: Priority,
        in_flight: &[&BTreeSet<u64>],
        gaps: &mut Gaps,
        pipelines: &BTreeMap<i64, Arc<str>>,
    ) -> Result<bool, rusqlite::Error> {
        let nothing = BTreeSet::new();
        let mut oldest: Option<(i64, usize, Victim)> = None;
        for uplink in 0..self.configured {
            let in_flight = in_flight.get(uplink).copied().unwrap_or(&nothing);
            let Some(victim) = self.victim(pen.conn, uplink, priority, in_flight)? else {
                continue;
            };
            let first = victim.first();
            let created = created(pen.conn, first, first + 1)?.unwrap_or(0);
            if oldest.as_ref().is_none_or(|(known, ..)| created < *known) {
                oldest = Some((created, uplink, victim));
            }
        }
        let Some((_, uplink, victim)) = oldest else {
            return Ok(false);
        };
        self.give_up(pen, uplink, victim, |pipeline, loss| {
            let pipeline = pipeline.and_then(|id| pipelines.get(&id).cloned());
            gaps.record(uplink, &Loss { pipeline, ..loss });
        })?;
        Ok(true)
    }

    /// Deletes it; `tell` hears of the loss, by the pipeline's number.
    fn give_up(
        &mut self,
        pen: &mut Pen<'_>,
        uplink: usize,
        victim: Victim,
        mut tell: impl FnMut(Option<i64>, Loss),
    ) -> Result<(), rusqlite::Error> {
        let (first, last, seq) = match &victim {
            Victim::Message(message) => (message.first, message.last, Some(message.seq)),
            Victim::Row(_, row) => (row.id, row.id, None),
        };
        let name = Arc::clone(&self.uplinks[uplink].name);
        for (pipeline, lost) in lost(pen.conn, first, last, uplink < self.configured)? {
            pen.books.add(Scope::Uplink, &name, "evicted", lost.items);
            pen.books.take(Scope::Uplink, &name, "waiting", lost.items);
            let loss = Loss {
                source: None,
                pipeline: None,
                series: lost.series,
                reason: reason::SIZE,
                from: lost.from,
                to: lost.to,
                items: Some(lost.items),
                seq,
            };
            tell(pipeline, loss);
        }
        match victim {
            Victim::Message(message) => self.uplinks[uplink].delete(pen.conn, &message),
            Victim::Row(key, row) => {
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.forget(row);
                }
                pen.conn
                    .prepare_cached("DELETE FROM item WHERE id = ?1")?
                    .execute([row.id])?;
                Ok(())
            }
        }
    }

    fn victim(
        &self,
        conn: &Connection,
        uplink: usize,
        priority: Priority,
        in_flight: &BTreeSet<u64>,
    ) -> Result<Option<Victim>, rusqlite::Error> {
        let mut statement = conn.prepare_cached(
            "SELECT seq, kind, items, first_item, last_item FROM message
             WHERE uplink = ?1 AND priority = ?2 AND kind <> ?3 ORDER BY seq",
        )?;
        let mut rows =
            statement.query((self.uplinks[uplink].id, priority as u8, ItemKind::Gap as u8))?;
        while let Some(row) = rows.next()? {
            let seq = count(row.get(0)?);
            if !in_flight.contains(&seq) {
                let message = Found {
                    seq,
                    priority: priority as u8,
                    kind: row.get(1)?,
                    items: count(row.get(2)?),
                    first: row.get(3)?,
                    last: row.get(4)?,
                };
                return Ok(Some(Victim::Message(message)));
            }
        }
        let lanes = self.lanes.iter().filter(|(key, _)| {
            key.uplink == uplink && key.priority == priority && key.kind != ItemKind::Gap
        });
        let rows = lanes.filter_map(|(key, lane)| Some((*key, *lane.unsealed.front()?)));
        // Of several lanes the one with more to give; their ages differ by a linger at most.
        let largest = rows.max_by_key(|(_, row)| row.bytes);
        Ok(largest.map(|(key, row)| Victim::Row(key, row)))
    }

    /// Gives up the bytes of the oldest refused message. False when there is none.
    pub(crate) fn discard_rejected(&self, pen: &mut Pen<'_>) -> Result<bool, rusqlite::Error> {
        let oldest: Option<(i64, i64, i64, i64)> = pen
            .conn
            .prepare_cached(
                "DELETE FROM rejected WHERE id = (SELECT min(id) FROM rejected)
                 RETURNING id, uplink, items, length(body)",
            )?
            .query_row([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((_, uplink, items, bytes)) = oldest else {
            return Ok(false);
        };
        pen.books.add_store(own::REJECTED_BYTES, -bytes);
        if let Some(uplink) = self.uplinks.iter().find(|known| known.id == uplink) {
            pen.books
                .add_own(Scope::Uplink, &uplink.name, own::REJECTED_DISCARDED, items);
        }
        Ok(true)
    }
}

impl Uplink {
    fn new(id: i64, name: &Arc<str>, config: &UplinkConfig, books: &Books) -> Self {
        Self {
            id,
            name: Arc::clone(name),
            messages: 0,
            seq: count(books.own(Scope::Uplink, name, own::SEQ).unwrap_or(0)),
            max_message_bytes: config.max_message_bytes.max(1),
            max_message_items: config.max_message_items.max(1),
            linger: config.linger,
        }
    }

    /// Deletes a sealed message and its items.
    fn delete(&mut self, conn: &Connection, message: &Found) -> Result<(), rusqlite::Error> {
        settle::delete_items(conn, message.first, message.last)?;
        conn.prepare_cached(
            "DELETE FROM message WHERE uplink = ?1 AND priority = ?2 AND seq = ?3",
        )?
        .execute((self.id, message.priority, sql(message.seq)))?;
        self.messages = self.messages.saturating_sub(1);
        Ok(())
    }

    fn linger_of(&self, key: LaneKey) -> Duration {
        match key.kind {
            // Seldom and wanted at once.
            ItemKind::Alarm | ItemKind::Gap | ItemKind::Reply => Duration::ZERO,
            ItemKind::Event | ItemKind::Summary | ItemKind::Readings => self.linger,
        }
    }
}

/// How much of a lane's unsealed rows the next message takes.
struct Next {
    rows: usize,
    bytes: usize,
    items: u32,
}

impl Lane {
    fn new(base: i64) -> Self {
        Self {
            base,
            next_id: base,
            unsealed: VecDeque::new(),
            unsealed_bytes: 0,
            unsealed_items: 0,
            since: None,
            open: OpenRow::default(),
        }
    }

    /// The first id after the lane.
    fn end(&self) -> i64 {
        self.base + (1 << COUNTER_BITS)
    }

    fn add(&mut self, row: Row, now: Instant) {
        self.since.get_or_insert(now);
        self.unsealed_bytes += row.bytes;
        self.unsealed_items = self.unsealed_items.saturating_add(row.items);
        self.unsealed.push_back(row);
    }

    fn flush(&mut self, pen: &mut Pen<'_>, uplink: &Arc<str>) -> Result<(), rusqlite::Error> {
        let open = &mut self.open;
        if open.items == 0 {
            return Ok(());
        }
        let id = self.next_id;
        // In the order of commits, whatever the wall clock does: what waits longest is given up first.
        let last = pen.books.store(own::CREATED).unwrap_or(i64::MIN);
        let created = pen.wall.max(last.saturating_add(1));
        pen.books.set_store(own::CREATED, created);
        pen.conn
            .prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                id,
                created,
                open.pipeline,
                open.items,
                open.from,
                open.to,
                &open.body,
            ))?;
        let items = u64::from(open.items);
        pen.books.add(Scope::Uplink, uplink, "queued", items);
        pen.books.add(Scope::Uplink, uplink, "waiting", items);
        let row = Row {
            id,
            bytes: open.body.len(),
            items: open.items,
        };
        open.items = 0;
        open.body.clear();
        self.next_id += 1;
        self.unsealed_bytes += row.bytes;
        self.unsealed_items = self.unsealed_items.saturating_add(row.items);
        self.unsealed.push_back(row);
        Ok(())
    }

    fn forget(&mut self, row: Row) {
        self.unsealed.retain(|unsealed| unsealed.id != row.id);
        self.unsealed_bytes = self.unsealed_bytes.saturating_sub(row.bytes);
        self.unsealed_items = self.unsealed_items.saturating_sub(row.items);
        if self.unsealed.is_empty() {
            self.since = None;
        }
    }

    /// The next message, where bytes, items or linger say that it is due.
    fn next_message(&self, key: LaneKey, uplink: &Uplink, now: Instant) -> Option<Next> {
        let mut next = Next {
            rows: 0,
            bytes: 0,
            items: 0,
        };
        let mut full = self.unsealed_bytes >= uplink.max_message_bytes
            || self.unsealed_items >= uplink.max_message_items;
        for row in &self.unsealed {
            if next.rows > 0
                && (next.bytes + row.bytes > uplink.max_message_bytes
                    || next.items.saturating_add(row.items) > uplink.max_message_items)
            {
                full = true;
                break;
            }
            next.rows += 1;
            next.bytes += row.bytes;
            next.items = next.items.saturating_add(row.items);
        }
        let waited = || {
            self.since
                .is_some_and(|since| since + uplink.linger_of(key) <= now)
        };
        (next.rows > 0 && (full || waited())).then_some(next)
    }
}

/// What is given up of one pipeline.
struct Lost {
    items: u64,
    from: i64,
    to: i64,
    series: Option<String>,
}

/// What a range of rows holds, by the pipeline's number; with the series where somebody will be told.
fn lost(
    conn: &Connection,
    first: i64,
    last: i64,
    named: bool,
) -> Result<BTreeMap<Option<i64>, Lost>, rusqlite::Error> {
    let mut all: BTreeMap<Option<i64>, Lost> = BTreeMap::new();
    let mut statement = conn.prepare_cached(
        "SELECT pipeline, items, from_time, to_time, body FROM item WHERE id BETWEEN ?1 AND ?2",
    )?;
    let mut rows = statement.query([first, last])?;
    while let Some(row) = rows.next()? {
        let (from, to) = (row.get(2)?, row.get(3)?);
        let lost = all.entry(row.get(0)?).or_insert(Lost {
            items: 0,
            from,
            to,
            series: None,
        });
        lost.items += count(row.get(1)?);
        lost.from = lost.from.min(from);
        lost.to = lost.to.max(to);
        if named {
            widen(&mut lost.series, row.get_ref(4)?.as_blob()?);
        }
    }
    Ok(all)
}

/// Widens a cover to the series that encoded items name. Between quotes of a string no quote stands unescaped, so that
/// the key is found by its bytes alone, an order of magnitude faster than by parsing.
fn widen(cover: &mut Option<String>, items: &[u8]) {
    const KEY: &str = "\"series\":\"";
    let Ok(items) = std::str::from_utf8(items) else {
        return;
    };
    let mut before = "";
    for (at, _) in items.match_indices(KEY) {
        let text = &items[at + KEY.len() - 1..];
        let plain = text[1..].find(['"', '\\']);
        let Some(end) = plain.filter(|end| text.as_bytes()[end + 1] == b'"') else {
            // A name with an escape in it.
            let name = serde_json::Deserializer::from_str(text)
                .into_iter::<String>()
                .next();
            if let Some(Ok(name)) = name {
                join(cover, &name);
            }
            continue;
        };
        let name = &text[1..=end];
        if name != before {
            join(cover, name);
            before = name;
        }
    }
}

fn join(cover: &mut Option<String>, series: &str) {
    let series = cover::of(series);
    match cover {
        None => *cover = Some(series.into_owned()),
        Some(known) => {
            let wider = match cover::join(known, &series) {
                Cow::Owned(wider) => wider,
                Cow::Borrowed(_) => return,
            };
            *known = wider;
        }
    }
}

/// What goes next when space is needed.
enum Victim {
    Message(Found),
    Row(LaneKey, Row),
}

impl Victim {
    fn first(&self) -> i64 {
        match self {
            Self::Message(message) => message.first,
            Self::Row(_, row) => row.id,
        }
    }
}

/// A sealed message without its bytes.
struct Found {
    seq: u64,
    priority: u8,
    kind: u8,
    items: u64,
    first: i64,
    last: i64,
}

/// When the first row of a range was queued.
fn created(conn: &Connection, from: i64, end: i64) -> Result<Option<i64>, rusqlite::Error> {
    conn.prepare_cached("SELECT created FROM item WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1")?
        .query_row([from, end], |row| row.get(0))
        .optional()
}

/// The first id of a lane: uplink, kind (3 bits) and priority (2 bits) above the counter.
fn lane_base(uplink: i64, key: LaneKey) -> i64 {
    base(uplink, ((key.kind as i64) << 2) | key.priority as i64)
}

/// The first id of one of an uplink's lanes, by number.
pub(crate) fn base(uplink: i64, lane: i64) -> i64 {
    ((uplink * LANES) | lane) << COUNTER_BITS
}

/// What a lane's number says.
pub(crate) fn kind_and_priority(lane: i64) -> (i64, i64) {
    (lane >> 2, lane & 3)
}

/// The number of the uplink in an item's id.
pub(crate) fn uplink_of(item: i64) -> i64 {
    item >> (COUNTER_BITS + 5)
}

/// The lane in an item's id.
pub(crate) fn lane_of(item: i64) -> i64 {
    item >> COUNTER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_items_are_found_whatever_stands_beside_them() {
        for (items, expect) in [
            (r#"{"pipeline":"p","series":"a/t","time":1}"#, Some("a/t")),
            (
                r#"{"series":"a/t"},{"series":"b/t"},{"series":"b/t"}"#,
                Some("*/t"),
            ),
            (r#"{"series":"a\"b/t"}"#, Some("a\"b/t")),
            (
                r#"{"series":"a/t","value":"x\"series\":\"y\""}"#,
                Some("a/t"),
            ),
            (r#"{"code":"start","text":"series"}"#, None),
            (r#"{"series":"cut"#, None),
            (r#"{"series":""#, None),
        ] {
            let mut cover = None;
            widen(&mut cover, items.as_bytes());
            assert_eq!(cover.as_deref(), expect, "{items}");
        }
    }
}
