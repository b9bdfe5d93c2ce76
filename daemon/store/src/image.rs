//! What the writer knows of the database without asking it: the state after the last commit, and while a commit runs the
//! state after that. A failed commit throws it away; it is then loaded again, as at a start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use tidegate_domain::Arrival;
use tidegate_domain::alarm::Alarms;
use tidegate_domain::silence::Silence;

use crate::alarms;
use crate::books::{Books, Scope, own};
use crate::clock::{AgeClock, Clock};
use crate::commands::{self, Commands};
use crate::gaps::Gaps;
use crate::history::History;
use crate::identities::{self, Identities};
use crate::kept::Kept;
use crate::names;
use crate::num::count;
use crate::orders;
use crate::outbox::Outbox;
use crate::series::Dictionary;
use crate::setup::Setup;
use crate::state::Slots;
use crate::unset::{self, Boots};
use crate::windows::{self, Windows};

#[derive(Debug)]
pub(crate) struct Image {
    /// Number of the last committed group.
    pub(crate) group: u64,
    pub(crate) clock: Clock,
    pub(crate) age: AgeClock,
    pub(crate) boots: Boots,
    pub(crate) books: Books,
    pub(crate) dictionary: Dictionary,
    pub(crate) windows: Windows,
    pub(crate) outbox: Outbox,
    pub(crate) history: History,
    pub(crate) identities: Identities,
    pub(crate) kept: Kept,
    pub(crate) gaps: Gaps,
    pub(crate) slots: Slots,
    pub(crate) alarms: Alarms,
    /// Since they were shown last.
    pub(crate) alarms_changed: bool,
    /// Against the configuration.
    pub(crate) alarms_are_checked: bool,
    pub(crate) silence: Silence,
    pub(crate) commands: Commands,
    /// Numbers of the configured pipelines and uplinks.
    pub(crate) pipeline_ids: Vec<i64>,
    pub(crate) uplink_ids: Vec<i64>,
    /// All pipelines that the database knows, by number.
    pub(crate) pipeline_names: BTreeMap<i64, Arc<str>>,
}

impl Image {
    /// Reads everything. `arrival` is the present, and where the arrival clock begins in a new database.
    pub(crate) fn load(
        conn: &Connection,
        setup: &Setup,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Self, rusqlite::Error> {
        let mut books = Books::load(conn)?;
        orders::number_on(conn, &mut books)?;
        let id = |table: &str, name: &str| -> Result<i64, rusqlite::Error> {
            let sql = format!("SELECT id FROM {table} WHERE name = ?1");
            conn.query_row(&sql, [name], |row| row.get(0))
        };
        let pipeline_ids = setup
            .pipelines
            .iter()
            .map(|pipeline| id("pipeline", &pipeline.name))
            .collect::<Result<Vec<i64>, _>>()?;
        let uplink_ids = setup
            .uplinks
            .iter()
            .map(|name| id("uplink", name))
            .collect::<Result<Vec<i64>, _>>()?;
        let boots = Boots::load(conn, &setup.config.boot, &books)?;
        // Of another boot it means nothing.
        let offset = books
            .store(own::OFFSET)
            .filter(|&offset| boots.is_same() == Some(true) && offset != i64::MIN);
        let clock = Clock::at(
            books.store(own::CLOCK).unwrap_or(arrival.wall),
            offset,
            boots.set_offset,
        );
        Ok(Self {
            group: count(books.store(own::GROUP).unwrap_or(0)),
            windows: Windows::load(conn, setup, &books, &pipeline_ids, clock.committed)?,
            outbox: Outbox::load(conn, setup, &books, now)?,
            history: History::new(books.store(own::NEXT_BLOCK).unwrap_or(1)),
            identities: Identities::load(conn, setup)?,
            kept: Kept::load(conn)?,
            gaps: Gaps::load(conn, &uplink_ids)?,
            slots: Slots::load(conn)?,
            dictionary: Dictionary::new(
                books.store(own::SEEN_STEP).unwrap_or(0),
                setup.bounds.main_bytes,
            ),
            pipeline_names: windows::names(conn)?,
            alarms: alarms::load(conn, setup.config.alarm_limits, arrival.monotonic)?,
            alarms_changed: true,
            alarms_are_checked: false,
            silence: alarms::load_silence(conn, setup, arrival)?,
            commands: Commands::load(conn, setup, &uplink_ids, arrival)?,
            pipeline_ids,
            uplink_ids,
            age: AgeClock::new(books.store(own::AGE)),
            boots,
            clock,
            books,
        })
    }
}

/// Gives numbers to pipelines, uplinks and the boot where they are new, and to an uplink its stream; lists all in the
/// ledger.
pub(crate) fn register(
    conn: &Connection,
    setup: &Setup,
    arrival_now: Arrival,
) -> Result<(), rusqlite::Error> {
    let transaction = conn.unchecked_transaction()?;
    unset::register(&transaction, &setup.config.boot, arrival_now)?;
    let zero = |scope: Scope, name: &Arc<str>, counter: &str| {
        transaction
            .prepare_cached("INSERT INTO counter VALUES (?1, ?2, ?3, 0) ON CONFLICT DO NOTHING")?
            .execute((scope as u8, name, counter))
    };
    for name in &setup.sources {
        zero(Scope::Source, name, "received")?;
    }
    identities::register(&transaction, setup)?;
    alarms::forget_sources(&transaction, setup)?;
    commands::forget_uplinks(&transaction, &setup.uplinks)?;
    for pipeline in &setup.pipelines {
        zero(Scope::Pipeline, &pipeline.name, "selected")?;
        names::number(&transaction, "pipeline", &pipeline.name)?;
    }
    for name in &setup.uplinks {
        zero(Scope::Uplink, name, "queued")?;
        let (id, checksum) = names::next(&transaction, "uplink", name)?;
        transaction
            .prepare_cached("INSERT INTO uplink (id, name, stream, checksum) VALUES (?1, ?2, lower(hex(?3)), ?4) ON CONFLICT DO NOTHING")?
            .execute((id, name, random(), checksum))?;
    }
    transaction.commit()
}

/// Eight bytes that no other gateway and no earlier database has.
pub(crate) fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Only a kernel older than 3.17 that is still booting answers this way; the time makes a fair substitute.
        tracing::warn!(%error, "no random numbers for a stream id; it is taken from the clock");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanoseconds = now.map_or(0, |now| now.as_nanos());
        let mixed = nanoseconds.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
        bytes.copy_from_slice(&mixed.to_le_bytes()[8..]);
    }
    bytes
}
