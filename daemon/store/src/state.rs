//! Filter state: an append-only log of what changed, folded into a snapshot when it has outgrown that.
//!
//! Snapshot and log entry are the same bytes, a change: applied in the order snapshot, then log, they give the state.
//! Numbers are varints as in `block.rs`.
//!
//! | part | meaning |
//! |---|---|
//! | byte | layout, 2 |
//! | 4 bytes | checksum of what follows, little-endian |
//! | number | the change's number in its slot: 1, 2, 3 …; a snapshot has that of the last change in it |
//! | byte | 0: records of series, 1: keys |
//! | records | width, count, per record the series' id in the dictionary, then all records |
//! | keys | count, per key: its text, a byte 0 (deleted) or 1 and then the value |
//!
//! By checksum and number salvage knows a state that is whole. Layout 1 had neither; a slot's first change after it folds.
//!
//! A change of another kind or width than what was before replaces all of it: it comes from another module.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::outcome::StateChange;
use tidegate_domain::rollout::StateMove;

use crate::block::{BlockError, Input, crc32, put_bytes, put_number};
use crate::num::sql_len;
use crate::series::Names;

/// A log below this many bytes is not folded, however small the snapshot.
const FOLD_BYTES: usize = 64 * 1024;

/// No record is wider; damage could claim anything.
const MAX_WIDTH: usize = 64 * 1024;

const LAYOUT: u8 = 2;
/// The layout without checksum and number.
const LAYOUT_BARE: u8 = 1;
/// Bytes that hold the number, whatever it is: layout, checksum, varint.
const HEAD_BYTES: usize = 1 + 4 + 10;

/// A slot's state, or a change of it: series by their dictionary ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Series(Records),
    Global(BTreeMap<String, Option<Vec<u8>>>),
}

/// Fixed-width records by series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    width: usize,
    ids: Vec<u32>,
    bytes: Vec<u8>,
    /// Place in `ids`, by id.
    places: HashMap<u32, usize>,
}

impl Records {
    fn new(width: usize) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    fn set(&mut self, id: u32, record: &[u8]) {
        let width = self.width;
        match self.places.get(&id) {
            Some(&place) => self.bytes[place * width..][..width].copy_from_slice(record),
            None => {
                self.places.insert(id, self.ids.len());
                self.ids.push(id);
                self.bytes.extend_from_slice(record);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let record =
            |(place, &id): (usize, &u32)| (id, &self.bytes[place * self.width..][..self.width]);
        self.ids.iter().enumerate().map(record)
    }
}

impl Change {
    /// Merges a later change into this one.
    fn apply(&mut self, later: Self) {
        match (&mut *self, later) {
            (Self::Series(records), Self::Series(later)) if records.width == later.width => {
                for (id, record) in later.iter() {
                    records.set(id, record);
                }
            }
            (Self::Global(keys), Self::Global(later)) => keys.extend(later),
            (_, later) => *self = later,
        }
    }

    /// Drops what says "nothing": records of zeros and deleted keys, which only a log needs.
    fn prune(&mut self) {
        match self {
            Self::Series(records) => {
                let mut kept = Records::new(records.width);
                for (id, record) in records.iter() {
                    if record.iter().any(|&byte| byte != 0) {
                        kept.set(id, record);
                    }
                }
                *records = kept;
            }
            Self::Global(keys) => keys.retain(|_, value| value.is_some()),
        }
    }

    /// `number`: see the table above.
    pub(crate) fn encode(&self, number: u64) -> Vec<u8> {
        let mut out = vec![LAYOUT, 0, 0, 0, 0];
        put_number(&mut out, number);
        match self {
            Self::Series(records) => {
                out.push(0);
                put_number(&mut out, records.width as u64);
                put_number(&mut out, records.ids.len() as u64);
                for &id in &records.ids {
                    put_number(&mut out, u64::from(id));
                }
                out.extend_from_slice(&records.bytes);
            }
            Self::Global(keys) => {
                out.push(1);
                put_number(&mut out, keys.len() as u64);
                for (key, value) in keys {
                    put_bytes(&mut out, key.as_bytes());
                    out.push(u8::from(value.is_some()));
                    if let Some(value) = value {
                        put_bytes(&mut out, value);
                    }
                }
            }
        }
        let crc = crc32(&out[5..]).to_le_bytes();
        out[1..5].copy_from_slice(&crc);
        out
    }

    /// A change with its number; `None` where it has none, and no checksum either.
    pub(crate) fn decode(data: &[u8]) -> Result<(Option<u64>, Self), BlockError> {
        let mut input = Input(data);
        let number = match input.byte()? {
            LAYOUT => {
                let crc = input.take(4)?;
                if crc32(input.0).to_le_bytes() != *crc {
                    return Err(BlockError::Checksum);
                }
                Some(input.number()?)
            }
            LAYOUT_BARE => None,
            other => return Err(BlockError::Layout(other)),
        };
        Ok((number, Self::decode_kind(input)?))
    }

    fn decode_kind(mut input: Input<'_>) -> Result<Self, BlockError> {
        match input.byte()? {
            0 => {
                let width = usize::try_from(input.number()?)
                    .ok()
                    .filter(|&width| width <= MAX_WIDTH)
                    .ok_or(BlockError::Value("the width"))?;
                let count = input.length()?;
                let ids = (0..count)
                    .map(|_| {
                        let id = input.number()?;
                        u32::try_from(id).map_err(|_| BlockError::Series(id))
                    })
                    .collect::<Result<Vec<u32>, _>>()?;
                let mut records = Records::new(width);
                for id in ids {
                    records.set(id, input.take(width)?);
                }
                Ok(Self::Series(records))
            }
            1 => {
                let count = input.length()?;
                let mut keys = BTreeMap::new();
                for _ in 0..count {
                    let key = input.text()?.to_owned();
                    let value = match input.byte()? {
                        0 => None,
                        _ => Some(input.bytes()?.to_vec()),
                    };
                    keys.insert(key, value);
                }
                Ok(Self::Global(keys))
            }
            _ => Err(BlockError::Value("the kind of state")),
        }
    }
}

/// What is known of the slots without reading their states.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    by_name: HashMap<Arc<str>, Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: i64,
    /// Of the last change, 0 where there was none; `None` where what is stored has no numbers.
    number: Option<u64>,
    snapshot_bytes: usize,
    log_bytes: usize,
}

/// The number of a stored change by its first bytes.
fn number_in(head: &[u8]) -> Option<u64> {
    match head.split_first() {
        Some((&LAYOUT, rest)) => Input(rest.get(4..)?).number().ok(),
        Some(_) | None => None,
    }
}

/// The changes of one commit group, merged by slot: a record that changed eight times is written once.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    by_slot: BTreeMap<Arc<str>, Change>,
}

impl Pending {
    /// Adds a change; `id` knows the dictionary.
    pub(crate) fn add(
        &mut self,
        slot: &Arc<str>,
        change: &StateChange,
        mut id: impl FnMut(&Arc<str>) -> Result<u32, rusqlite::Error>,
    ) -> Result<(), rusqlite::Error> {
        match change {
            StateChange::Series {
                width,
                names,
                records,
            } => {
                let target = match self.by_slot.get_mut(slot) {
                    Some(Change::Series(target)) if target.width == *width => target,
                    Some(_) | None => {
                        let new = Change::Series(Records::new(*width));
                        self.by_slot.insert(Arc::clone(slot), new);
                        match self.by_slot.get_mut(slot) {
                            Some(Change::Series(target)) => target,
                            Some(Change::Global(_)) | None => return Ok(()),
                        }
                    }
                };
                if *width == 0 {
                    return Ok(());
                }
                for (name, record) in names.iter().zip(records.chunks_exact(*width)) {
                    target.set(id(name)?, record);
                }
            }
            StateChange::Global(keys) => {
                let change = Change::Global(keys.iter().cloned().collect());
                match self.by_slot.get_mut(slot) {
                    Some(before) => before.apply(change),
                    None => {
                        self.by_slot.insert(Arc::clone(slot), change);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes one log entry a slot, and folds the logs that have grown too long.
    pub(crate) fn write(self, conn: &Connection, slots: &mut Slots) -> Result<(), rusqlite::Error> {
        for (name, change) in self.by_slot {
            append(conn, slots, &name, &change)?;
        }
        Ok(())
    }

    /// Moves whole states between slots. Changes so far come before it, and those added later behind it.
    pub(crate) fn shift(
        &mut self,
        conn: &Connection,
        slots: &mut Slots,
        moved: &StateMove,
        id: impl FnMut(&Arc<str>) -> Result<u32, rusqlite::Error>,
    ) -> Result<(), rusqlite::Error> {
        match moved {
            StateMove::Copy { from, to } => {
                self.flush(conn, slots, from)?;
                self.clear(conn, slots, to)?;
                let (from, to) = (*slots.get(conn, from)?, slots.get(conn, to)?);
                for sql in [
                    "INSERT INTO state_snapshot (slot, data)
                     SELECT ?2, data FROM state_snapshot WHERE slot = ?1",
                    "INSERT INTO state_log (slot, delta)
                     SELECT ?2, delta FROM state_log WHERE slot = ?1 ORDER BY id",
                ] {
                    conn.prepare_cached(sql)?.execute((from.id, to.id))?;
                }
                *to = Slot { id: to.id, ..from };
            }
            StateMove::Move { from, to } => {
                self.flush(conn, slots, from)?;
                self.clear(conn, slots, to)?;
                let source = *slots.get(conn, from)?;
                let to = slots.get(conn, to)?;
                for table in ["state_snapshot", "state_log"] {
                    let sql = format!("UPDATE {table} SET slot = ?2 WHERE slot = ?1");
                    conn.prepare_cached(&sql)?.execute((source.id, to.id))?;
                }
                *to = Slot {
                    id: to.id,
                    ..source
                };
                slots.get(conn, from)?.empty();
            }
            StateMove::Set { slot, change } => {
                self.clear(conn, slots, slot)?;
                self.add(slot, change, id)?;
            }
            StateMove::Drop { slot } => self.clear(conn, slots, slot)?,
        }
        Ok(())
    }

    fn flush(
        &mut self,
        conn: &Connection,
        slots: &mut Slots,
        name: &Arc<str>,
    ) -> Result<(), rusqlite::Error> {
        match self.by_slot.remove(name) {
            Some(change) => append(conn, slots, name, &change),
            None => Ok(()),
        }
    }

    fn clear(
        &mut self,
        conn: &Connection,
        slots: &mut Slots,
        name: &Arc<str>,
    ) -> Result<(), rusqlite::Error> {
        self.by_slot.remove(name);
        let slot = slots.get(conn, name)?;
        for table in ["state_snapshot", "state_log"] {
            let sql = format!("DELETE FROM {table} WHERE slot = ?1");
            conn.prepare_cached(&sql)?.execute([slot.id])?;
        }
        slot.empty();
        Ok(())
    }
}

fn append(
    conn: &Connection,
    slots: &mut Slots,
    name: &Arc<str>,
    change: &Change,
) -> Result<(), rusqlite::Error> {
    let slot = slots.get(conn, name)?;
    let number = slot.number.unwrap_or(0).saturating_add(1);
    let delta = change.encode(number);
    conn.prepare_cached("INSERT INTO state_log (slot, delta) VALUES (?1, ?2)")?
        .execute((slot.id, &delta))?;
    slot.log_bytes += delta.len();
    if slot.number.is_none() || slot.log_bytes > slot.snapshot_bytes.max(FOLD_BYTES) {
        slot.snapshot_bytes = fold(conn, slot.id, number)?;
        slot.log_bytes = 0;
    }
    slot.number = Some(number);
    Ok(())
}

impl Slot {
    fn empty(&mut self) {
        *self = Self {
            id: self.id,
            number: Some(0),
            snapshot_bytes: 0,
            log_bytes: 0,
        };
    }
}

impl Slots {
    pub(crate) fn load(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let mut statement = conn.prepare(
            "SELECT name, id,
                    coalesce((SELECT length(data) FROM state_snapshot WHERE slot = slot.id), 0),
                    coalesce((SELECT sum(length(delta)) FROM state_log WHERE slot = slot.id), 0),
                    coalesce((SELECT substr(delta, 1, ?1) FROM state_log WHERE slot = slot.id ORDER BY id DESC LIMIT 1),
                             (SELECT substr(data, 1, ?1) FROM state_snapshot WHERE slot = slot.id))
             FROM slot",
        )?;
        let mut by_name = HashMap::new();
        let mut rows = statement.query([sql_len(HEAD_BYTES)])?;
        while let Some(row) = rows.next()? {
            let bytes = |value: i64| usize::try_from(value).unwrap_or(0);
            let head: Option<Vec<u8>> = row.get(4)?;
            let slot = Slot {
                id: row.get(1)?,
                number: head.map_or(Some(0), |head| number_in(&head)),
                snapshot_bytes: bytes(row.get(2)?),
                log_bytes: bytes(row.get(3)?),
            };
            by_name.insert(row.get(0)?, slot);
        }
        Ok(Self { by_name })
    }

    fn get(&mut self, conn: &Connection, name: &Arc<str>) -> Result<&mut Slot, rusqlite::Error> {
        if !self.by_name.contains_key(name) {
            let id = crate::names::number(conn, "slot", name)?;
            let slot = Slot {
                id,
                number: Some(0),
                snapshot_bytes: 0,
                log_bytes: 0,
            };
            self.by_name.insert(Arc::clone(name), slot);
        }
        self.by_name
            .get_mut(name)
            .ok_or(rusqlite::Error::QueryReturnedNoRows)
    }
}

/// Every slot's state, as the change that makes it out of nothing.
pub(crate) fn load(conn: &Connection) -> Result<BTreeMap<String, StateChange>, rusqlite::Error> {
    let mut names = Names::new(conn);
    let mut slots = conn.prepare("SELECT id, name FROM slot")?;
    let slots = slots
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, String)>, _>>()?;
    let mut states = BTreeMap::new();
    for (id, slot) in slots {
        let change = match read(conn, id)? {
            None => continue,
            Some(Change::Series(records)) => {
                let mut known = Vec::with_capacity(records.ids.len());
                let mut bytes = Vec::with_capacity(records.bytes.len());
                for (id, record) in records.iter() {
                    if let Some(name) = names.get(id) {
                        known.push(name);
                        bytes.extend_from_slice(record);
                    }
                }
                StateChange::Series {
                    width: records.width,
                    names: known,
                    records: bytes,
                }
            }
            Some(Change::Global(keys)) => StateChange::Global(keys.into_iter().collect()),
        };
        states.insert(slot, change);
    }
    Ok(states)
}

/// The series that any state names.
pub(crate) fn series_in_use(conn: &Connection) -> Result<HashSet<u32>, rusqlite::Error> {
    let mut ids = HashSet::new();
    for sql in [
        "SELECT data FROM state_snapshot",
        "SELECT delta FROM state_log",
    ] {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(Change::Series(records)) = decoded(row.get_ref(0)?.as_blob()?) {
                ids.extend(records.ids);
            }
        }
    }
    Ok(ids)
}

/// Replaces snapshot and log of a slot by a new snapshot, with the number of the last change; returns its size.
fn fold(conn: &Connection, slot: i64, number: u64) -> Result<usize, rusqlite::Error> {
    let data = read(conn, slot)?.map_or_else(Vec::new, |state| state.encode(number));
    conn.prepare_cached("INSERT OR REPLACE INTO state_snapshot (slot, data) VALUES (?1, ?2)")?
        .execute((slot, &data))?;
    conn.prepare_cached("DELETE FROM state_log WHERE slot = ?1")?
        .execute([slot])?;
    tracing::debug!(slot, bytes = sql_len(data.len()), "filter state was folded");
    Ok(data.len())
}

/// A slot's state, pruned; `None` where it has none.
fn read(conn: &Connection, slot: i64) -> Result<Option<Change>, rusqlite::Error> {
    let snapshot: Option<Vec<u8>> = conn
        .prepare_cached("SELECT data FROM state_snapshot WHERE slot = ?1")?
        .query_row([slot], |row| row.get(0))
        .optional()?;
    let mut state = snapshot.as_deref().and_then(decoded);
    let mut log = conn.prepare_cached("SELECT delta FROM state_log WHERE slot = ?1 ORDER BY id")?;
    let mut rows = log.query([slot])?;
    while let Some(row) = rows.next()? {
        if let Some(delta) = decoded(row.get_ref(0)?.as_blob()?) {
            match &mut state {
                Some(state) => state.apply(delta),
                None => state = Some(delta),
            }
        }
    }
    if let Some(state) = &mut state {
        state.prune();
    }
    Ok(state)
}

/// A change out of the database. Damage costs that change and is said, but does not keep the gateway from starting.
fn decoded(data: &[u8]) -> Option<Change> {
    if data.is_empty() {
        return None;
    }
    Change::decode(data)
        .map(|(_, change)| change)
        .inspect_err(
            |error| tracing::error!(%error, "a piece of filter state is damaged and left out"),
        )
        .ok()
}

/// The stored changes of one slot, as salvage finds them.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    snapshot: Option<(u64, Change)>,
    log: BTreeMap<u64, Change>,
}

impl Pieces {
    /// Takes a snapshot; false where it is not what was written.
    pub(crate) fn add_snapshot(&mut self, data: &[u8]) -> bool {
        match Change::decode(data) {
            Ok((Some(number), change)) => {
                self.snapshot = Some((number, change));
                true
            }
            Ok((None, _)) | Err(_) => false,
        }
    }

    /// Takes an entry of the log; false where it is not what was written.
    pub(crate) fn add_entry(&mut self, data: &[u8]) -> bool {
        match Change::decode(data) {
            Ok((Some(number), change)) => {
                self.log.entry(number).or_insert(change);
                true
            }
            Ok((None, _)) | Err(_) => false,
        }
    }

    /// The state and the number of its last change, where every change of it is there, and `known` knows the series of every
    /// record.
    pub(crate) fn whole(self, known: impl Fn(u32) -> bool) -> Option<(u64, Change)> {
        let (mut last, mut state) = match self.snapshot {
            Some((number, change)) => (number, Some(change)),
            None => (0, None),
        };
        // An entry that a snapshot has taken in was deleted; an old copy of its page can be around.
        let mut log = self.log;
        for (number, change) in log.split_off(&last.saturating_add(1)) {
            if number.checked_sub(1) != Some(last) {
                return None;
            }
            last = number;
            match &mut state {
                Some(state) => state.apply(change),
                None => state = Some(change),
            }
        }
        let mut state = state?;
        state.prune();
        let all_known = match &state {
            Change::Series(records) => records.ids.iter().all(|id| known(*id)),
            Change::Global(_) => true,
        };
        all_known.then_some((last, state))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        for sql in [
            include_str!("../migrations/0001_initial.sql"),
            include_str!("../migrations/0002_identities.sql"),
            include_str!("../migrations/0010_checked_names.sql"),
        ] {
            conn.execute_batch(sql).unwrap();
        }
        for id in 1..=9 {
            conn.execute(
                "INSERT INTO series (id, name, seen) VALUES (?1, ?2, 0)",
                (id, format!("s{id}")),
            )
            .unwrap();
        }
        conn
    }

    fn series(width: usize, records: &[(u32, u8)]) -> StateChange {
        StateChange::Series {
            width,
            names: records
                .iter()
                .map(|(id, _)| format!("s{id}").into())
                .collect(),
            records: records
                .iter()
                .flat_map(|&(_, byte)| vec![byte; width])
                .collect(),
        }
    }

    fn global(keys: &[(&str, Option<&str>)]) -> StateChange {
        let value = |value: &str| value.as_bytes().to_vec();
        StateChange::Global(
            keys.iter()
                .map(|(k, v)| ((*k).to_owned(), v.map(value)))
                .collect(),
        )
    }

    fn write(conn: &Connection, slots: &mut Slots, changes: &[StateChange]) {
        let mut pending = Pending::default();
        for change in changes {
            let id = |name: &Arc<str>| Ok(name[1..].parse().unwrap());
            pending.add(&"p/f".into(), change, id).unwrap();
        }
        pending.write(conn, slots).unwrap();
    }

    /// Every inner list is one commit group.
    #[track_caller]
    fn check(groups: &[&[StateChange]], expect: Option<StateChange>) {
        let conn = database();
        let mut slots = Slots::load(&conn).unwrap();
        for changes in groups {
            write(&conn, &mut slots, changes);
        }
        assert_eq!(load(&conn).unwrap().remove("p/f"), expect);
        if let Some(slot) = slots.by_name.get("p/f") {
            fold(&conn, slot.id, slot.number.unwrap()).unwrap();
            assert_eq!(load(&conn).unwrap().remove("p/f"), expect);
        }
    }

    #[test]
    fn the_last_change_counts_and_zeros_delete() {
        check(&[], None);
        check(
            &[&[series(2, &[(1, 7), (2, 8)])]],
            Some(series(2, &[(1, 7), (2, 8)])),
        );
        check(
            &[
                &[series(2, &[(1, 7), (2, 8)]), series(2, &[(2, 9)])],
                &[series(2, &[(1, 0), (3, 5)])],
            ],
            Some(series(2, &[(2, 9), (3, 5)])),
        );
        check(
            &[
                &[global(&[("a", Some("1")), ("b", Some("2"))])],
                &[global(&[("a", None), ("c", Some(""))])],
            ],
            Some(global(&[("b", Some("2")), ("c", Some(""))])),
        );
    }

    #[test]
    fn another_width_or_kind_replaces_all() {
        check(
            &[&[series(2, &[(1, 7)])], &[series(3, &[(2, 8)])]],
            Some(series(3, &[(2, 8)])),
        );
        check(
            &[&[series(2, &[(1, 7)]), global(&[("a", Some("1"))])]],
            Some(global(&[("a", Some("1"))])),
        );
    }

    #[test]
    fn a_long_log_is_folded() {
        let conn = database();
        let mut slots = Slots::load(&conn).unwrap();
        for round in 0..2000u32 {
            let byte = u8::try_from(round % 250).unwrap() + 1;
            write(&conn, &mut slots, &[series(64, &[(1, byte)])]);
        }
        let log: i64 = conn
            .query_row("SELECT sum(length(delta)) FROM state_log", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(usize::try_from(log).unwrap() <= FOLD_BYTES);
        let last = u8::try_from(1999 % 250).unwrap() + 1;
        assert_eq!(load(&conn).unwrap()["p/f"], series(64, &[(1, last)]));
        assert_eq!(
            Slots::load(&conn).unwrap().by_name["p/f"].log_bytes,
            usize::try_from(log).unwrap()
        );
    }

    #[test]
    fn changes_are_numbered_through_folds_restarts_and_moves() {
        let conn = database();
        let mut slots = Slots::load(&conn).unwrap();
        let group = |conn: &Connection, slots: &mut Slots| {
            write(conn, slots, &[series(2, &[(1, 7)])]);
        };
        group(&conn, &mut slots);
        group(&conn, &mut slots);
        assert_eq!(Slots::load(&conn).unwrap().by_name["p/f"].number, Some(2));
        fold(&conn, slots.by_name["p/f"].id, 2).unwrap();
        let mut slots = Slots::load(&conn).unwrap();
        assert_eq!(slots.by_name["p/f"].number, Some(2));
        group(&conn, &mut slots);
        let (from, to): (Arc<str>, Arc<str>) = ("p/f".into(), "p/g".into());
        let copy = StateMove::Copy {
            from,
            to: Arc::clone(&to),
        };
        let mut pending = Pending::default();
        let id = |_: &Arc<str>| Ok(1);
        pending.shift(&conn, &mut slots, &copy, id).unwrap();
        assert_eq!(slots.by_name["p/g"].number, Some(3));
        let gone = StateMove::Drop { slot: to };
        pending.shift(&conn, &mut slots, &gone, id).unwrap();
        assert_eq!(slots.by_name["p/g"].number, Some(0));
        assert_eq!(Slots::load(&conn).unwrap().by_name["p/g"].number, Some(0));
    }

    #[test]
    fn state_of_the_first_layout_is_read_and_folded_by_the_next_change() {
        let conn = database();
        conn.execute("INSERT INTO slot (id, name) VALUES (1, 'p/f')", [])
            .unwrap();
        // Records of width 1: series 1 has 5, series 2 has 6.
        conn.execute(
            "INSERT INTO state_snapshot VALUES (1, x'0100010201020506')",
            [],
        )
        .unwrap();
        assert_eq!(load(&conn).unwrap()["p/f"], series(1, &[(1, 5), (2, 6)]));
        let mut slots = Slots::load(&conn).unwrap();
        assert_eq!(slots.by_name["p/f"].number, None);
        write(&conn, &mut slots, &[series(1, &[(2, 9)])]);
        let wanted = series(1, &[(1, 5), (2, 9)]);
        assert_eq!(load(&conn).unwrap()["p/f"], wanted);
        let mut pieces = Pieces::default();
        let snapshot: Vec<u8> = conn
            .query_row("SELECT data FROM state_snapshot", [], |row| row.get(0))
            .unwrap();
        assert!(pieces.add_snapshot(&snapshot), "it has a checksum now");
        assert_eq!(Slots::load(&conn).unwrap().by_name["p/f"].log_bytes, 0);
    }

    #[test]
    fn a_state_is_whole_only_with_every_change_of_it() {
        let entry = |number: u64| {
            let mut records = Records::new(1);
            records.set(1, &[u8::try_from(number).unwrap()]);
            records.set(2, &[1]);
            Change::Series(records).encode(number)
        };
        let whole = |snapshot: Option<u64>, log: &[u64]| {
            let mut pieces = Pieces::default();
            if let Some(number) = snapshot {
                assert!(pieces.add_snapshot(&entry(number)));
            }
            for &number in log {
                assert!(pieces.add_entry(&entry(number)));
            }
            let (number, change) = pieces.whole(|id| id < 3)?;
            let Change::Series(records) = change else {
                panic!("records");
            };
            Some((number, records.bytes[0]))
        };
        assert_eq!(whole(None, &[]), None);
        assert_eq!(whole(Some(4), &[]), Some((4, 4)));
        assert_eq!(whole(None, &[1, 2]), Some((2, 2)));
        assert_eq!(whole(Some(4), &[5, 6]), Some((6, 6)));
        assert_eq!(whole(Some(4), &[2, 3, 4, 5]), Some((5, 5)), "old copies");
        assert_eq!(whole(Some(4), &[6]), None);
        assert_eq!(whole(None, &[2, 3]), None);
        assert_eq!(whole(Some(4), &[5, 7]), None);
        let mut nameless = Pieces::default();
        assert!(nameless.add_entry(&entry(1)));
        assert_eq!(nameless.whole(|id| id == 1), None);
        let mut flipped = entry(3);
        for at in 0..flipped.len() {
            flipped[at] ^= 0x10;
            assert!(!Pieces::default().add_entry(&flipped), "byte {at}");
            flipped[at] ^= 0x10;
        }
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(mut data in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bare = data.clone();
            bare.insert(0, LAYOUT_BARE);
            // With a right checksum, so that the garbage is looked at.
            let crc = crc32(&data).to_le_bytes();
            data.splice(0..0, [LAYOUT].into_iter().chain(crc));
            for data in [bare, data] {
                if let Ok((number, change)) = Change::decode(&data) {
                    let again = Change::decode(&change.encode(number.unwrap_or(7))).unwrap();
                    prop_assert_eq!(again, (Some(number.unwrap_or(7)), change));
                }
            }
        }
    }
}
