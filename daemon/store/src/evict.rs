//! The bound in bytes: what goes, and in which order.
//!
//! 0. input of pipelines that is kept for rehearsals
//! 1. what waits for an uplink that is no longer configured, and refused messages
//! 2. history whose windows are all closed, oldest first: it is on its way up, or nobody wanted it
//! 3. waiting items by priority, oldest first; those in flight never, gap items never
//! 4. history of open windows, which are then incomplete if the process dies before they close
//! 5. quarantine
//! 6. alarms
//!
//! With `full = "stop"` only kept input, refused messages and history whose windows are all closed go.
//!
//! *In flight* is every message that a [`Reader`](crate::Reader) of this process handed out and nobody settled yet.
//! Readers wait while messages are given up, so that none is handed out that is about to go.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tidegate_domain::item::Priority;
use tidegate_domain::outcome::reason;

use crate::books::own;
use crate::commit::Room;
use crate::config::Full;
use crate::disk::Pages;
use crate::image::Image;
use crate::num::count;
use crate::outbox::Pen;
use crate::quarantine;
use crate::setup::Setup;

/// What readers handed out and nobody settled, by uplink.
#[derive(Debug)]
pub(crate) struct InFlight {
    by_uplink: Vec<Mutex<BTreeSet<u64>>>,
}

impl InFlight {
    pub(crate) fn new(uplinks: usize) -> Self {
        Self {
            by_uplink: (0..uplinks).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn lock(&self, uplink: usize) -> Option<MutexGuard<'_, BTreeSet<u64>>> {
        self.by_uplink.get(uplink).map(unpoisoned)
    }

    /// Keeps readers from handing out anything until the guards are dropped.
    fn lock_all(&self) -> Vec<MutexGuard<'_, BTreeSet<u64>>> {
        self.by_uplink.iter().map(unpoisoned).collect()
    }
}

fn unpoisoned(seqs: &Mutex<BTreeSet<u64>>) -> MutexGuard<'_, BTreeSet<u64>> {
    seqs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of making room.
#[derive(Debug, Default)]
pub(crate) struct Evicted<'a> {
    /// The bound is exceeded and nothing is left that may go.
    pub(crate) full: bool,
    /// The bound is exceeded and something is left: this was enough for one transaction.
    pub(crate) more: bool,
    /// To be held until the transaction has ended.
    pub(crate) readers: Vec<MutexGuard<'a, BTreeSet<u64>>>,
}

/// Deletes within the open transaction until the rows fit into what there is room for.
pub(crate) fn enforce<'a>(
    conn: &Connection,
    image: &mut Image,
    setup: &Setup,
    in_flight: &'a InFlight,
    wall: i64,
    room: Room,
) -> Result<Evicted<'a>, rusqlite::Error> {
    let bounds = &setup.bounds;
    let mut evicted = Evicted::default();
    let rejected = |image: &Image| count(image.books.store(own::REJECTED_BYTES).unwrap_or(0));
    while rejected(image) > bounds.rejected_bytes {
        if !image
            .outbox
            .discard_rejected(&mut pen(conn, &mut image.books, wall))?
        {
            break;
        }
    }
    while image.kept.bytes > bounds.kept_bytes && image.kept.evict(conn)? {}
    for _ in 0..room.steps {
        if Pages::of(conn)?.used_bytes() <= room.rows_bytes {
            return Ok(evicted);
        }
        if evicted.readers.is_empty() {
            evicted.readers = in_flight.lock_all();
        }
        let in_flight: Vec<&BTreeSet<u64>> = evicted.readers.iter().map(|seqs| &**seqs).collect();
        if !step(conn, image, setup, &in_flight, wall)? {
            evicted.full = true;
            return Ok(evicted);
        }
    }
    evicted.more = true;
    Ok(evicted)
}

/// Gives up one bite of what matters least. False when nothing is left.
fn step(
    conn: &Connection,
    image: &mut Image,
    setup: &Setup,
    in_flight: &[&BTreeSet<u64>],
    wall: i64,
) -> Result<bool, rusqlite::Error> {
    let Image {
        books,
        outbox,
        history,
        windows,
        gaps,
        pipeline_names,
        kept,
        ..
    } = image;
    if kept.evict(conn)? {
        return Ok(true);
    }
    let stop = setup.config.full == Full::Stop;
    if !stop && outbox.evict_unconfigured(&mut pen(conn, books, wall))? {
        return Ok(true);
    }
    if outbox.discard_rejected(&mut pen(conn, books, wall))? {
        return Ok(true);
    }
    let closed = windows.first_block().unwrap_or(i64::MAX);
    if history.evict(conn, books, pipeline_names, closed)? {
        return Ok(true);
    }
    if stop {
        return Ok(false);
    }
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        if outbox.evict(
            &mut pen(conn, books, wall),
            priority,
            in_flight,
            gaps,
            pipeline_names,
        )? {
            return Ok(true);
        }
    }
    if history.evict(conn, books, pipeline_names, i64::MAX)? {
        return Ok(true);
    }
    if quarantine::evict(
        &mut pen(conn, books, wall),
        setup,
        gaps,
        reason::QUARANTINE_SIZE,
    )? {
        return Ok(true);
    }
    outbox.evict(
        &mut pen(conn, books, wall),
        Priority::Alarm,
        in_flight,
        gaps,
        pipeline_names,
    )
}

fn pen<'a>(conn: &'a Connection, books: &'a mut crate::books::Books, wall: i64) -> Pen<'a> {
    Pen { conn, books, wall }
}
