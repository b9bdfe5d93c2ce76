//! Opening the store: what a start finds, and what it does about it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use rusqlite::Connection;
use tidegate_domain::item::millis;
use tidegate_domain::outcome::{StateChange, reason};
use tidegate_domain::rollout::Record;
use tidegate_domain::{Arrival, Identity, Ledger};

use crate::alarms::{self, ActiveAlarm, SHOWN};
use crate::aside::{self, SetAside};
use crate::books::own;
use crate::commit::{self, Ahead, Frozen};
use crate::config::StoreConfig;
use crate::disk::{self, Wal};
use crate::gaps::Loss;
use crate::group::Group;
use crate::identities;
use crate::image::{self, Image};
use crate::input::{Event, StoreState, StoreStats};
use crate::lock::Lock;
use crate::reader::{ReadError, Reader};
use crate::reserve::Reserve;
use crate::rollouts;
use crate::schema::{self, OpenError, Trouble};
use crate::setup::Setup;
use crate::state;
use crate::trouble::Pressure;
use crate::writer::{Shared, Writer};

/// A clock this much behind the last commit was wrong then, and not merely slow, nanoseconds.
const CLOCK_BEHIND: i64 = 3_600 * 1_000_000_000;

/// The opened store.
#[derive(Debug)]
pub struct Store {
    writer: Writer,
    recovered: Recovered,
}

/// What the store knew when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// False when the last process ended without [`Writer::close`]; then redelivered messages are to be counted.
    /// True for a new database.
    pub clean_exit: bool,
    /// The database file was created just now.
    pub created: bool,
    /// The filters' states by slot (`pipeline/filter`), each as the change that makes it out of nothing.
    pub state: BTreeMap<String, StateChange>,
    /// Alarms that hold, the first thousand.
    pub alarms: Vec<ActiveAlarm>,
    /// What is recorded of generations, by pipeline; nothing of a pipeline that is new.
    pub rollouts: BTreeMap<String, Record>,
    /// The latest identities of messages by source, oldest first, as far as their windows reach.
    pub identities: Vec<Vec<Identity>>,
    /// The uplinks' stream ids, in the configuration's order.
    pub streams: Vec<String>,
    /// All counts.
    pub ledger: Arc<Ledger>,
    /// Windows that were rebuilt from history.
    pub windows_open: u64,
    /// The store's figures after the first commit.
    pub stats: StoreStats,
}

impl Store {
    /// Opens or creates the store: takes its lock, migrates its layout, and rebuilds what an earlier process left open.
    /// A damaged database is set aside and a new one begun; its first commit tells every uplink so.
    ///
    /// # Errors
    /// Another process has it, it is of a newer version, or it cannot be written; [`OpenError::state`] says whether
    /// trying again may help.
    pub fn open(config: StoreConfig, arrival_now: Arrival) -> Result<Self, OpenError> {
        let setup = Setup::new(config, arrival_now.monotonic);
        let path = &setup.config.path;
        let mut lock = Lock::take(path)?;
        if let Err(refused) = schema::accept(path) {
            lock.withdraw();
            return Err(refused);
        }
        lock.sign()?;
        aside::finish(path).map_err(|source| OpenError::Files {
            path: aside::parent(path).to_owned(),
            source,
        })?;
        let wal = Wal::of(path);
        wal.rewrite().map_err(|source| OpenError::Files {
            path: wal.path().to_owned(),
            source,
        })?;
        let shared = Arc::new(Shared::new(setup.uplinks.len()));
        let now = Instant::now();
        let reserve = Reserve::of(path, &setup.bounds);
        let attempt = || open_or_set_aside(&setup, &shared, arrival_now, now);
        let opened = attempt().or_else(|error| {
            if error.state() != Some(StoreState::Full) && !reserve.is_missed() {
                return Err(error);
            }
            reserve.release();
            attempt()
        })?;
        let mut recovered = opened.recovered;
        let database = (opened.conn, opened.image);
        let writer = Writer::new(setup, shared, database, lock, (now, arrival_now));
        recovered.stats = writer.stats();
        Ok(Self { writer, recovered })
    }

    /// What was found when it was opened.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// A reader that tells the writer what it hands out.
    ///
    /// # Errors
    /// The database cannot be opened once more.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        self.writer.reader()
    }

    /// The writer, for its thread.
    #[must_use]
    pub fn into_writer(self) -> Writer {
        self.writer
    }
}

/// A database that is ready for the writer.
pub(crate) struct Opened {
    pub(crate) conn: Connection,
    pub(crate) image: Image,
    pub(crate) recovered: Recovered,
}

/// Opens the database. One that is damaged twice in a row is damaged: it is set aside.
fn open_or_set_aside(
    setup: &Setup,
    shared: &Shared,
    arrival_now: Arrival,
    now: Instant,
) -> Result<Opened, OpenError> {
    let path = &setup.config.path;
    let attempt = || open(setup, shared, arrival_now, now, None);
    let again = attempt().or_else(|trouble| match trouble.is_damage() {
        true => attempt(),
        false => Err(trouble),
    });
    match again {
        Ok(opened) => Ok(opened),
        Err(Trouble::Database(damage)) if schema::is_damage(&damage) => {
            set_aside(setup, &damage.to_string(), arrival_now).map_err(|source| {
                OpenError::Damaged {
                    path: path.clone(),
                    damage,
                    source,
                }
            })?;
            attempt().map_err(|trouble| trouble.into_error(path))
        }
        Err(trouble) => Err(trouble.into_error(path)),
    }
}

/// Sets the database aside, and says so in the log.
pub(crate) fn set_aside(setup: &Setup, why: &str, now: Arrival) -> std::io::Result<SetAside> {
    let bound = setup.bounds.max_bytes;
    let set = aside::set_aside(&setup.config.path, why, millis(now.wall), bound)?;
    tracing::error!(
        "the database {} is damaged ({why}): it was set aside in {} and a new one is begun; `tidegate doctor salvage {}` \
         reads what is readable",
        setup.config.path.display(),
        set.dir.display(),
        set.database.display()
    );
    Ok(set)
}

/// Opens or creates the database, loads what is committed, and commits the beginning. `last` are the counts of a database
/// that was set aside while it ran.
pub(crate) fn open(
    setup: &Setup,
    shared: &Shared,
    arrival_now: Arrival,
    now: Instant,
    last: Option<&Ledger>,
) -> Result<Opened, Trouble> {
    let path = &setup.config.path;
    let (conn, created) = schema::open(path)?;
    disk::limit(&conn, setup.bounds.main_bytes)?;
    image::register(&conn, setup, arrival_now)?;
    let mut image = Image::load(&conn, setup, arrival_now, now)?;
    let clean_exit = created || image.books.store(own::CLEAN) == Some(1);
    let early_exit = !clean_exit && image.books.store(own::YOUNG) == Some(1);
    let mut recovered = Recovered {
        clean_exit,
        created,
        state: state::load(&conn)?,
        alarms: alarms::active(&conn, SHOWN)?,
        rollouts: rollouts::begin(&conn, setup, early_exit)?,
        identities: identities::latest(&conn, setup)?,
        streams: streams(&conn, setup)?,
        ledger: Arc::default(),
        windows_open: image.windows.len(),
        stats: StoreStats::default(),
    };
    let predecessor = untold(path)?;
    let group = predecessor
        .as_ref()
        .map(|set| tell(set, last, arrival_now, now))
        .unwrap_or_default();
    begin(
        &conn,
        &mut image,
        setup,
        shared,
        (clean_exit, group),
        arrival_now,
        now,
    )?;
    if let Some(set) = &predecessor
        && let Err(error) = aside::mark_told(set)
    {
        tracing::warn!(%error, "that this was told cannot be noted in {}; it may be told again", set.dir.display());
    }
    recovered.ledger = Arc::new(image.books.ledger().clone());
    Ok(Opened {
        conn,
        image,
        recovered,
    })
}

fn untold(path: &Path) -> Result<Option<SetAside>, OpenError> {
    aside::untold(path).map_err(|source| OpenError::Files {
        path: aside::parent(path).to_owned(),
        source,
    })
}

/// The first commit: from here on the exit is unclean until [`Writer::close`].
fn begin(
    conn: &Connection,
    image: &mut Image,
    setup: &Setup,
    shared: &Shared,
    (clean_exit, group): (bool, Group),
    arrival_now: Arrival,
    now: Instant,
) -> Result<(), rusqlite::Error> {
    if clean_exit {
        // What was attempted then did not kill anything.
        conn.execute("DELETE FROM attempt", [])?;
    }
    // Nothing arrived, and the clock stays: what is redelivered now shall still find its windows open.
    let mut idle = Arrival {
        wall: image.clock.committed,
        ..Arrival::default()
    };
    let behind = arrival_now.wall < image.clock.committed.saturating_sub(CLOCK_BEHIND);
    match image.boots.last {
        // The clock was set while the process was down; other steps are seen at the first arrival.
        Some((boot, _)) if boot == image.boots.present => {
            if image.clock.set.is_none() && arrival_now.synced {
                idle = arrival_now;
            }
        }
        // A clock that is not set says nothing about windows of another boot, nor the other way round.
        Some((_, was_set)) if !was_set || !arrival_now.synced => {
            idle = arrival_now;
            image.clock.step_at_next();
        }
        Some(_) if behind => {
            idle.wall = arrival_now.wall;
            image.clock.step_at_next();
        }
        Some(_) | None => {}
    }
    let (bounds, wal) = (&setup.bounds, Wal::of(&setup.config.path));
    let mut group = Some(group);
    while group.is_some() {
        let ahead = Ahead::of(image, bounds, &[], idle);
        let frozen = Frozen {
            number: image.group + 1,
            group: group.take_if(|_| ahead.is_none()).unwrap_or_default(),
            idle,
            now,
            last: false,
            ahead,
            room: Pressure::default().room(bounds),
        };
        wal.make_room(conn, bounds)?;
        commit::write(conn, image, setup, &shared.in_flight, &frozen)?;
    }
    Ok(())
}

/// What every uplink is told about a database that was set aside: an event, and a gap of unknown size for what waited.
fn tell(set: &SetAside, last: Option<&Ledger>, arrival_now: Arrival, now: Instant) -> Group {
    let begun = std::fs::metadata(&set.database)
        .and_then(|file| file.created())
        .ok()
        .and_then(|begun| begun.duration_since(UNIX_EPOCH).ok())
        .and_then(|begun| i64::try_from(begun.as_millis()).ok());
    let to = millis(arrival_now.wall);
    let waiting: BTreeMap<&str, u64> = last
        .iter()
        .flat_map(|ledger| &ledger.uplinks)
        .map(|(name, counts)| (name.as_str(), counts.waiting))
        .collect();
    let mut group = Group::default();
    group.push_event(
        Event {
            time: arrival_now.wall,
            code: "store-corrupt".to_owned(),
            text: format!(
                "the database was damaged ({}): it was set aside and a new one begun; what waited in it is a gap",
                set.why
            ),
            data: Some(serde_json::json!({
                "set": set.dir, "bytes": set.bytes, "why": set.why, "waiting": waiting,
            })),
        },
        now,
    );
    group.losses.push(Loss {
        source: None,
        pipeline: None,
        series: None,
        reason: reason::CORRUPT,
        from: begun.unwrap_or(0).min(to),
        to,
        items: None,
        seq: None,
    });
    group
}

fn streams(conn: &Connection, setup: &Setup) -> Result<Vec<String>, rusqlite::Error> {
    let stream = |name: &Arc<str>| {
        conn.query_row("SELECT stream FROM uplink WHERE name = ?1", [name], |row| {
            row.get(0)
        })
    };
    setup.uplinks.iter().map(stream).collect()
}
