//! The ledger in the database: every count is a row of table `counter`, changed by the transaction that stores what
//! it counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::Ledger;
use tidegate_domain::ledger::QuarantineCounts;
use tidegate_domain::outcome::MessageCounts;

use crate::num::{count, sql};

/// Whose counter it is. The numbers are those of `counter.scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Scope {
    Store = 0,
    Source = 1,
    Pipeline = 2,
    Uplink = 3,
}

impl Scope {
    fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Store),
            1 => Some(Self::Source),
            2 => Some(Self::Pipeline),
            3 => Some(Self::Uplink),
            _ => None,
        }
    }
}

/// Counters that are no part of the ledger: positions and sums that the store itself needs.
pub(crate) mod own {
    /// Store: 1 after a clean exit.
    pub(crate) const CLEAN: &str = "clean";
    /// Store: 1 while the process has not run for long; see `rollouts.rs`.
    pub(crate) const YOUNG: &str = "young";
    /// Store: number of the last committed group.
    pub(crate) const GROUP: &str = "group";
    /// Store: the committed arrival clock, nanoseconds since the epoch.
    pub(crate) const CLOCK: &str = "clock";
    /// Store: the number of the boot of the last commit.
    pub(crate) const BOOT: &str = "boot";
    /// Store: wall minus monotonic time of the last arrival in that boot, nanoseconds; absent or the least number where it
    /// is not known.
    pub(crate) const OFFSET: &str = "clock-offset";
    /// Store: when the clock was stepped last, nanoseconds since the epoch after the step.
    pub(crate) const STEP_AT: &str = "clock-step-at";
    /// Store: by how much, nanoseconds.
    pub(crate) const STEP_BY: &str = "clock-step-by";
    /// Store: how often it was.
    pub(crate) const STEPS: &str = "clock-steps";
    /// Store: the clock by which history grows old, nanoseconds since the epoch.
    pub(crate) const AGE: &str = "age-clock";
    /// Store: when the last item was queued; never the same twice, and never less.
    pub(crate) const CREATED: &str = "created";
    /// Store: the next block's id.
    pub(crate) const NEXT_BLOCK: &str = "next-block";
    /// Store: see `series.rs`.
    pub(crate) const SEEN_STEP: &str = "seen-step";
    /// Store: the number of the next row in quarantine.
    pub(crate) const NEXT_QUARANTINE: &str = "next-quarantine";
    /// Store: the number of the next order about quarantine.
    pub(crate) const NEXT_ORDER: &str = "next-order";
    /// Store: bytes in quarantine.
    pub(crate) const QUARANTINE_BYTES: &str = "quarantine-bytes";
    /// Store: bytes of refused messages.
    pub(crate) const REJECTED_BYTES: &str = "rejected-bytes";
    /// Store: changes of alarms that were not told because there were too many.
    pub(crate) const ALARMS_SUPPRESSED: &str = "alarms-suppressed";
    /// Store: alarms that were not kept because there were too many.
    pub(crate) const ALARMS_LOST: &str = "alarms-lost";
    /// Uplink: commands that were carried out.
    pub(crate) const COMMANDS_DONE: &str = "commands-done";
    /// Uplink: commands that were refused.
    pub(crate) const COMMANDS_REFUSED: &str = "commands-refused";
    /// Uplink: commands that came again.
    pub(crate) const COMMANDS_REPEATED: &str = "commands-repeated";
    /// Store: readings of series that there is no room to listen for.
    pub(crate) const SERIES_UNHEARD: &str = "series-unheard";
    /// Pipeline: length of its windows, nanoseconds.
    pub(crate) const WINDOW: &str = "window";
    /// Pipeline: see `WindowSet::closed_before`.
    pub(crate) const CLOSED_BEFORE: &str = "closed-before";
    /// Uplink: the highest sealed sequence number.
    pub(crate) const SEQ: &str = "seq";
    /// Uplink: refused items whose bytes were given up for space.
    pub(crate) const REJECTED_DISCARDED: &str = "rejected-discarded";
}

type Key = (Scope, Arc<str>, Cow<'static, str>);

#[derive(Clone, Copy, Debug)]
enum Change {
    Add(i64),
    Set(i64),
}

/// All counters, in memory and with what is not yet written.
#[derive(Debug, Default)]
pub(crate) struct Books {
    ledger: Ledger,
    own: BTreeMap<Key, i64>,
    changes: BTreeMap<Key, Change>,
    store: Arc<str>,
}

impl Books {
    pub(crate) fn load(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let mut books = Self::default();
        let mut statement =
            conn.prepare_cached("SELECT scope, name, counter, value FROM counter")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(scope) = Scope::from_number(row.get(0)?) else {
                continue;
            };
            let name: Arc<str> = row.get(1)?;
            let counter: String = row.get(2)?;
            let value: i64 = row.get(3)?;
            match field(&mut books.ledger, scope, &name, &counter) {
                Some(field) => *field = count(value),
                None => {
                    books.own.insert((scope, name, counter.into()), value);
                }
            }
        }
        Ok(books)
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Adds to a counter of the ledger.
    pub(crate) fn add(&mut self, scope: Scope, name: &Arc<str>, counter: &'static str, by: u64) {
        self.change(scope, name, counter.into(), sql(by));
    }

    /// Takes from a counter of the ledger.
    pub(crate) fn take(&mut self, scope: Scope, name: &Arc<str>, counter: &'static str, by: u64) {
        self.change(scope, name, counter.into(), -sql(by));
    }

    /// Adds to `dropped{reason}`.
    pub(crate) fn dropped(&mut self, scope: Scope, name: &Arc<str>, reason: &str, by: u64) {
        self.change(scope, name, format!("{DROPPED}{reason}").into(), sql(by));
    }

    /// Adds what one batch came to.
    pub(crate) fn messages(&mut self, source: &Arc<str>, counts: &MessageCounts) {
        let mut add = |counter, by| self.add(Scope::Source, source, counter, by);
        add("received", counts.received);
        add("redelivered", counts.redelivered);
        add("unidentified", counts.unidentified);
        add("decoded", counts.decoded);
        add("quarantined", counts.quarantined);
        for (reason, by) in &counts.dropped {
            self.dropped(Scope::Source, source, reason, *by);
        }
    }

    /// Items that wait for an uplink.
    pub(crate) fn waiting(&self, uplink: &str) -> u64 {
        let counts = self.ledger.uplinks.get(uplink);
        counts.map_or(0, |counts| counts.waiting)
    }

    fn change(&mut self, scope: Scope, name: &Arc<str>, counter: Cow<'static, str>, by: i64) {
        if by == 0 {
            return;
        }
        if let Some(field) = field(&mut self.ledger, scope, name, &counter) {
            *field = field.saturating_add_signed(by);
        }
        self.note(scope, name, counter, by);
    }

    fn note(&mut self, scope: Scope, name: &Arc<str>, counter: Cow<'static, str>, by: i64) {
        let key = (scope, Arc::clone(name), counter);
        match self.changes.entry(key).or_insert(Change::Add(0)) {
            Change::Add(sum) | Change::Set(sum) => *sum = sum.saturating_add(by),
        }
    }

    /// One of the store's own counters.
    pub(crate) fn own(&self, scope: Scope, name: &Arc<str>, counter: &'static str) -> Option<i64> {
        let key = (scope, Arc::clone(name), Cow::Borrowed(counter));
        self.own.get(&key).copied()
    }

    pub(crate) fn set_own(
        &mut self,
        scope: Scope,
        name: &Arc<str>,
        counter: &'static str,
        value: i64,
    ) {
        let key = (scope, Arc::clone(name), Cow::Borrowed(counter));
        if self.own.insert(key.clone(), value) != Some(value) {
            self.changes.insert(key, Change::Set(value));
        }
    }

    pub(crate) fn add_own(
        &mut self,
        scope: Scope,
        name: &Arc<str>,
        counter: &'static str,
        by: i64,
    ) {
        let value = self.own(scope, name, counter).unwrap_or(0);
        self.set_own(scope, name, counter, value.saturating_add(by));
    }

    /// A counter of the store as a whole.
    pub(crate) fn store(&self, counter: &'static str) -> Option<i64> {
        self.own(Scope::Store, &self.store, counter)
    }

    pub(crate) fn set_store(&mut self, counter: &'static str, value: i64) {
        let name = Arc::clone(&self.store);
        self.set_own(Scope::Store, &name, counter, value);
    }

    pub(crate) fn add_store(&mut self, counter: &'static str, by: i64) {
        let name = Arc::clone(&self.store);
        self.add_own(Scope::Store, &name, counter, by);
    }

    /// Takes a number that is never used twice.
    pub(crate) fn take_number(&mut self, counter: &'static str) -> i64 {
        let number = self.store(counter).unwrap_or(1);
        self.set_store(counter, number + 1);
        number
    }

    /// Writes what changed into the open transaction.
    pub(crate) fn write(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        for ((scope, name, counter), change) in std::mem::take(&mut self.changes) {
            let (sql, value) = match change {
                Change::Add(0) => continue,
                Change::Add(by) => (
                    "INSERT INTO counter VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = value + ?4",
                    by,
                ),
                Change::Set(value) => (
                    "INSERT INTO counter VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET value = ?4",
                    value,
                ),
            };
            conn.prepare_cached(sql)?
                .execute((scope as u8, &name, &counter, value))?;
        }
        Ok(())
    }
}

pub(crate) const DROPPED: &str = "dropped.";

/// The place of a counter in the ledger; `None` for the store's own.
fn field<'a>(
    ledger: &'a mut Ledger,
    scope: Scope,
    name: &str,
    counter: &str,
) -> Option<&'a mut u64> {
    match scope {
        Scope::Store => None,
        Scope::Source => {
            let counts = entry(&mut ledger.sources, name);
            match counter {
                "received" => Some(&mut counts.received),
                "redelivered" => Some(&mut counts.redelivered),
                "unidentified" => Some(&mut counts.unidentified),
                "decoded" => Some(&mut counts.decoded),
                "quarantined" => Some(&mut counts.quarantined),
                _ => match counter.strip_prefix(DROPPED) {
                    Some(reason) => Some(counts.dropped.entry(reason.to_owned()).or_default()),
                    None => quarantine(&mut counts.quarantine, counter),
                },
            }
        }
        Scope::Pipeline => {
            let counts = entry(&mut ledger.pipelines, name);
            match counter {
                "selected" => Some(&mut counts.selected),
                "derived" => Some(&mut counts.derived),
                "replayed" => Some(&mut counts.replayed),
                "stored" => Some(&mut counts.stored),
                "filtered" => Some(&mut counts.filtered),
                "quarantined" => Some(&mut counts.quarantined),
                "held" => Some(&mut counts.held),
                "expired" => Some(&mut counts.expired),
                "evicted" => Some(&mut counts.evicted),
                _ => match counter.strip_prefix(DROPPED) {
                    Some(reason) => Some(counts.dropped.entry(reason.to_owned()).or_default()),
                    None => quarantine(&mut counts.quarantine, counter),
                },
            }
        }
        Scope::Uplink => {
            let counts = entry(&mut ledger.uplinks, name);
            match counter {
                "queued" => Some(&mut counts.queued),
                "delivered" => Some(&mut counts.delivered),
                "waiting" => Some(&mut counts.waiting),
                "evicted" => Some(&mut counts.evicted),
                "rejected" => Some(&mut counts.rejected),
                _ => None,
            }
        }
    }
}

/// Counters of `QuarantineCounts`, as they are called in the database.
pub(crate) mod quarantine_counter {
    pub(crate) const HELD: &str = "quarantine.held";
    pub(crate) const REPLAYED: &str = "quarantine.replayed";
    pub(crate) const DISCARDED: &str = "quarantine.discarded";
    pub(crate) const EVICTED: &str = "quarantine.evicted";
}

fn quarantine<'a>(counts: &'a mut QuarantineCounts, counter: &str) -> Option<&'a mut u64> {
    match counter {
        quarantine_counter::HELD => Some(&mut counts.held),
        quarantine_counter::REPLAYED => Some(&mut counts.replayed),
        quarantine_counter::DISCARDED => Some(&mut counts.discarded),
        quarantine_counter::EVICTED => Some(&mut counts.evicted),
        _ => None,
    }
}

fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    map.entry(name.to_owned()).or_default()
}
