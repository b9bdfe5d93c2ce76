//! What the writer does when a commit fails. Nothing of the group is acknowledged; the connection is given up, for a
//! handle whose sync failed must not be asked again; and after a while, depending on what was said:
//!
//! - **anything that may pass**: the database is opened again, and the same group is tried again;
//! - **no space**: the kept space is released, and a *relief* makes room first: a transaction of its own that books
//!   what the uplinks delivered and gives up what the policy allows;
//! - **damage, twice in a row**: the database is set aside, a new one is begun, and the group commits into that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alarms::{ActiveAlarm, SHOWN, StaleSeries};
use crate::aside;
use crate::books::{Scope, own};
use crate::commit::{Frozen, Room, Written};
use crate::config::Full;
use crate::disk::{self, Pages};
use crate::group::Group;
use crate::image::Image;
use crate::input::{
    AlarmStats, BackfillStats, ClockStats, ClockStep, CommandCounts, CommandStats, Committed,
    DetailStats, OutboxStats, StoreState, StoreStats,
};
use crate::lock::Lock;
use crate::num::count;
use crate::opening;
use crate::place::{Found, Place};
use crate::quarantine;
use crate::schema;
use crate::setup::{Bounds, Setup};
use crate::writer::{Writer, correcting};

/// Failures in a row that say damage before it is believed. One can be a read that went wrong on its way.
const BELIEVED: u32 = 2;
/// Bites that one commit gives up at most, each some blocks or a message; more than a group can bring in.
const STEPS: usize = 512;
/// What a bite of a relief writes into the log, bytes: some pages that list other pages.
const RELIEF_BITE_BYTES: u64 = 64 * 1024;
/// What a relief writes into the log to give a page back to the file system, bytes.
const RELIEF_PAGE_BYTES: u64 = 16 * 1024;
/// What is left to rows on the fullest of disks, bytes.
const LEAST_ROWS: u64 = 256 * 1024;

/// A commit failed. Nothing of its group is acknowledged; it is kept and tried again.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store {} cannot commit ({}, attempt {attempt}): nothing is acknowledged until it can; next attempt in {} ms",
    .path.display(),
    .state.as_str(),
    .retry_in.as_millis()
)]
pub struct CommitError {
    /// The database file.
    pub path: PathBuf,
    /// What the store's condition is from now on.
    pub state: StoreState,
    /// Attempts since the last success.
    pub attempt: u32,
    /// When the next one is due.
    pub retry_in: Duration,
    #[source]
    source: rusqlite::Error,
}

#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) retry_at: Instant,
}

/// How the disk and the file press the store.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// Failures in a row that said damage.
    damaged: u32,
    /// A commit found no space: room is made before the next one.
    relief: bool,
    /// Reliefs since the last group that was committed: each makes more room.
    reliefs: u64,
    /// One is under way.
    relieving: bool,
    /// The last commit left more than the bound allows, and nothing that may go.
    full: bool,
    /// Bytes of the database file when the disk was found to be full: more it does not get.
    tight: Option<u64>,
    /// The database was set aside, and its successor is not there yet.
    anew: bool,
}

impl Pressure {
    /// Whether the disk is full, and the store lives on what it has.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight.is_some()
    }

    /// The room that a group leaves.
    pub(crate) fn room(&self, bounds: &Bounds) -> Room {
        Room {
            rows_bytes: self.rows_bytes(bounds),
            steps: STEPS,
            file_bytes: self.file_bytes(bounds),
            vacuum_pages: bounds.checkpoint_bytes / disk::FRAME_BYTES,
            spare: self.tight.is_some(),
        }
    }

    /// The room that a relief makes for the group after it. Its log must fit into the space that was kept back.
    fn relief_room(&self, bounds: &Bounds) -> Room {
        let group = (bounds.wal_bytes / 4).saturating_mul(self.reliefs);
        let bites = bounds.reserve_bytes / RELIEF_BITE_BYTES;
        Room {
            rows_bytes: self
                .rows_bytes(bounds)
                .saturating_sub(group)
                .max(LEAST_ROWS),
            steps: usize::try_from(bites).unwrap_or(STEPS).clamp(1, STEPS),
            file_bytes: self.file_bytes(bounds),
            vacuum_pages: bounds.reserve_bytes / RELIEF_PAGE_BYTES,
            spare: true,
        }
    }

    fn rows_bytes(&self, bounds: &Bounds) -> u64 {
        let tight = self
            .tight
            .map(|file| file.saturating_sub(bounds.wal_bytes / 4));
        tight
            .map_or(bounds.rows_bytes, |tight| tight.min(bounds.rows_bytes))
            .max(LEAST_ROWS)
    }

    /// What the database file may take.
    fn file_bytes(&self, bounds: &Bounds) -> u64 {
        self.tight
            .map_or(bounds.main_bytes, |file| file.min(bounds.main_bytes))
    }
}

impl Writer {
    /// Gives the connection up and says when to try again.
    pub(crate) fn failed(&mut self, source: rusqlite::Error, now: Instant) -> CommitError {
        self.database = None;
        let retry_in = self.backoff.next(u64::MAX);
        self.trouble = Some(Trouble {
            retry_at: now + retry_in,
        });
        let mut state = schema::state_of(&source);
        // Not every call says ENOSPC when that is what it is.
        if state == StoreState::Degraded && self.reserve.is_missed() {
            state = StoreState::Full;
        }
        match state {
            StoreState::Corrupt => self.pressure.damaged += 1,
            StoreState::Full => {
                self.pressure.relief = true;
                self.pressure.reliefs += 1;
                if self.reserve.is_missed() {
                    self.reserve.release();
                    let file = schema::file_bytes(&self.setup.config.path);
                    self.pressure.tight =
                        Some(self.pressure.tight.map_or(file, |tight| tight.min(file)));
                }
            }
            StoreState::Healthy | StoreState::Degraded | StoreState::ReadOnly => {}
        }
        self.stats.state = state;
        self.stats.acknowledges = false;
        self.stats.failures += 1;
        self.stats.last_error = Some(source.to_string());
        CommitError {
            path: self.setup.config.path.clone(),
            state,
            attempt: self.backoff.attempts(),
            retry_in,
            source,
        }
    }

    /// Brings the database back after a failure: the one that was, or a new one.
    pub(crate) fn recover(&mut self, now: Instant) -> Result<(), CommitError> {
        if self.pressure.damaged >= BELIEVED {
            let why = self.stats.last_error.clone().unwrap_or_default();
            return self.renew(&why, now);
        }
        if self.pressure.anew {
            return self.begin_anew(now);
        }
        match self.place.look() {
            Found::File => self.reopen(now),
            Found::Directory => {
                self.renew("the database file was deleted while it was in use", now)
            }
            Found::Nothing => {
                let gone =
                    "the directory of the database is gone, or another file system is in its place";
                Err(self.failed(disk::error(rusqlite::ffi::SQLITE_CANTOPEN, gone), now))
            }
        }
    }

    /// Opens the database anew and loads what is committed.
    fn reopen(&mut self, now: Instant) -> Result<(), CommitError> {
        // A group can be larger than all that the file held when the disk was full: with room again, it may grow.
        if self.pressure.is_tight() && self.reserve.make() {
            self.pressure.tight = None;
        }
        let path = &self.setup.config.path;
        let relief = self.pressure.relief;
        let file_bytes = self.pressure.file_bytes(&self.setup.bounds);
        let rewritten = self.wal.rewrite().map_err(|error| io_failure(&error));
        let opened = rewritten.and_then(|()| schema::reopen(path)).and_then(|conn| {
            // It gives room back on a full disk. Where it finds a reader in its way, the next one does it; where the
            // database would have to grow for it, a relief comes first.
            match disk::checkpoint_all(&conn) {
                Err(error) if relief && !schema::is_damage(&error) => {
                    tracing::warn!(%error, "the write-ahead log cannot be written back until room is made");
                }
                checked => drop(checked?),
            }
            disk::limit(&conn, file_bytes)?;
            let image = Image::load(&conn, &self.setup, self.seen.1, now)?;
            Ok((conn, image))
        });
        match opened {
            Ok(database) => {
                self.database = Some(database);
                self.place = Place::of(path);
                self.trouble = None;
                self.refresh();
                Ok(())
            }
            Err(source) => Err(self.failed(source, now)),
        }
    }

    /// Sets the database aside and begins a new one. The group goes on; what it says of messages of the old one does not.
    fn renew(&mut self, why: &str, now: Instant) -> Result<(), CommitError> {
        if !self.lock.is_in_place() {
            // Whoever deleted the files deleted the lock as well.
            match Lock::take(&self.setup.config.path)
                .and_then(|mut lock| lock.sign().map(|()| lock))
            {
                Ok(lock) => self.lock = lock,
                Err(error) => return Err(self.failed(unusable(&error), now)),
            }
        }
        if let Err(error) = opening::set_aside(&self.setup, why, self.seen.1) {
            let error = self.failed(unusable(&error), now);
            self.stats.state = StoreState::Corrupt;
            return Err(error);
        }
        self.pressure.anew = true;
        self.pressure.damaged = 0;
        self.begin_anew(now)
    }

    /// Opens what takes the place of a database that was set aside.
    fn begin_anew(&mut self, now: Instant) -> Result<(), CommitError> {
        self.renewed = true;
        self.open.forget_rows();
        let opened = opening::open(
            &self.setup,
            &self.shared,
            self.seen.1,
            now,
            Some(&self.last_ledger),
        );
        let opened = match opened {
            Ok(opened) => opened,
            Err(schema::Trouble::Database(error)) => return Err(self.failed(error, now)),
            Err(schema::Trouble::Refused(error)) => {
                return Err(self.failed(unusable(&error), now));
            }
        };
        if let Some(frozen) = &mut self.frozen {
            frozen.group.forget_rows();
            frozen.number = opened.image.group + 1;
        }
        self.database = Some((opened.conn, opened.image));
        self.place = Place::of(&self.setup.config.path);
        self.pressure.anew = false;
        self.trouble = None;
        self.list_sets();
        self.refresh();
        Ok(())
    }

    /// Makes room after a commit that found none. `None` where that is not needed.
    pub(crate) fn relieve(&mut self, now: Instant) -> Result<Option<Committed>, CommitError> {
        let Some((_, image)) = self.database.as_ref().filter(|_| self.pressure.relief) else {
            return Ok(None);
        };
        let number = image.group + 1;
        if let Some(frozen) = self.frozen.take_if(|frozen| frozen.number >= number) {
            // It is not in the database: what it holds can go in another order.
            self.open.put_before(frozen.group);
        }
        if self.frozen.is_some() {
            // It is in the database after all, and is confirmed first.
            return Ok(None);
        }
        let ahead = self.ahead(self.seen.1);
        let settled = std::mem::take(&mut self.open.settled);
        self.frozen = Some(Frozen {
            group: Group::of_settled(settled, now),
            number,
            idle: self.seen.1,
            now,
            last: false,
            ahead,
            room: self.pressure.relief_room(&self.setup.bounds),
        });
        self.pressure.relieving = true;
        let committed = self.commit(now);
        self.pressure.relieving = false;
        let mut committed = committed?;
        self.judge();
        committed.stats = self.stats.clone();
        Ok(Some(committed))
    }

    /// A commit succeeded.
    pub(crate) fn succeeded(&mut self, written: &Written) {
        self.pressure.full = written.full;
        if self.pressure.relieving {
            self.pressure.relief = written.more;
        } else {
            self.backoff.reset();
            self.pressure.damaged = 0;
            self.pressure.reliefs = 0;
        }
        if self.open.is_empty() {
            self.pressure.reliefs = 0;
        }
        self.judge();
    }

    /// What the store's condition is while nothing fails.
    pub(crate) fn judge(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        let unseen = aside::any_unseen(&self.stats.set_aside);
        let (state, acknowledges, why) = if self.pressure.full {
            let why = match self.setup.config.full {
                Full::Evict => {
                    "the bound `store.max-size` is reached and nothing is left that may be given up"
                }
                Full::Stop => {
                    "the bound `store.max-size` is reached, and `store.full = \"stop\"` keeps what was not delivered"
                }
            };
            (StoreState::Full, false, Some(why.to_owned()))
        } else if self.pressure.reliefs > 0 {
            // Room is being made; the group comes next.
            (StoreState::Full, false, self.stats.last_error.take())
        } else if self.pressure.is_tight() {
            let why = "the disk is full: what comes in takes the place of what is given up; free some space";
            (StoreState::Degraded, true, Some(why.to_owned()))
        } else if unseen {
            let why = "the database was damaged, was set aside, and a new one begun: `tidegate doctor` says more, and ends this message";
            (StoreState::Corrupt, true, Some(why.to_owned()))
        } else {
            (StoreState::Healthy, true, None)
        };
        self.stats.state = state;
        self.stats.acknowledges = acknowledges;
        self.stats.last_error = why;
    }

    /// Looks at what changes without a commit: the disk's room, and whether somebody has seen what was set aside. To be
    /// called about once a second. The figures, where the store's condition changed.
    pub fn look(&mut self) -> Option<StoreStats> {
        let before = (self.stats.state, self.stats.acknowledges);
        if let Some(why) = self.shared.take_suspicion().filter(|_| !self.renewed) {
            // Whoever says so read it twice.
            let error = disk::error(rusqlite::ffi::SQLITE_CORRUPT, &why);
            let now = self.seen.0;
            let error = self.failed(error, now);
            self.pressure.damaged = BELIEVED;
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a reader found the database damaged"
            );
        }
        self.loosen();
        self.judge();
        let after = (self.stats.state, self.stats.acknowledges);
        (before != after).then(|| self.stats())
    }

    /// Ends what a full disk began, once it has room again.
    fn loosen(&mut self) {
        let Some((conn, _)) = self.database.as_ref() else {
            return;
        };
        let there = self.reserve.make();
        if !there || !self.pressure.is_tight() {
            return;
        }
        match disk::limit(conn, self.setup.bounds.main_bytes) {
            Ok(()) => self.pressure.tight = None,
            // The next commit meets the same trouble, and says so.
            Err(error) => tracing::warn!(%error, "the store cannot grow again yet"),
        }
    }

    /// Lists what was set aside. Only this process adds to it, and no figure is worth failing for.
    pub(crate) fn list_sets(&mut self) {
        match aside::list(&self.setup.config.path) {
            Ok(sets) => self.stats.set_aside = sets,
            Err(error) => {
                tracing::warn!(%error, "it cannot be seen whether databases were set aside")
            }
        }
    }

    /// Brings figures up to date. What cannot be read keeps its last value: the next commit meets the same problem, and says so.
    pub(crate) fn refresh(&mut self) {
        let Some((conn, image)) = &mut self.database else {
            return;
        };
        let stats = &mut self.stats;
        if let Ok(pages) = Pages::of(conn) {
            stats.database_bytes = pages.file_bytes();
            stats.free_bytes = pages.free_bytes();
            if pages.file_bytes() > self.setup.bounds.main_bytes
                && let Err(error) = disk::limit(conn, self.setup.bounds.main_bytes)
            {
                tracing::debug!(%error, "the file's bound is set after the next commit");
            }
        }
        stats.wal_bytes = self.wal.bytes();
        stats.max_bytes = self.setup.bounds.max_bytes;
        stats.quarantine_bytes = count(image.books.store(own::QUARANTINE_BYTES).unwrap_or(0));
        stats.windows_open = image.windows.len();
        stats.windows_by_pipeline = image.windows.by_pipeline();
        stats.oldest = image.history.oldest_arrival(conn).ok().flatten();
        stats.alarms_active = image.alarms.holding() as u64;
        refresh_alarms(&mut stats.alarms, image, &self.setup);
        refresh_commands(&mut stats.commands, image, &self.setup);
        stats.clock = clock_stats(image);
        let uplinks = self.setup.uplinks.iter().enumerate();
        stats.outbox = uplinks
            .map(|(index, name)| {
                let counts = image.books.ledger().uplinks.get(name.as_ref());
                OutboxStats {
                    items: counts.map_or(0, |counts| counts.waiting),
                    messages: image.outbox.messages(index),
                    oldest: image.outbox.oldest(conn, index).ok().flatten(),
                    last_seq: image.outbox.seq(index),
                }
            })
            .collect();
        // Not at the very moment something expires, or a silent gateway would commit for every block.
        let slack = self.setup.max_age.saturating_add(self.setup.max_age / 32);
        let ages = [stats.oldest, quarantine::oldest(conn).ok().flatten()];
        self.expiry_at =
            (ages.into_iter().flatten().min()).map(|oldest| oldest.saturating_add(slack));
        self.closing_at = image.windows.next_due();
    }
}

/// What went wrong beside SQLite, in its words.
pub(crate) fn io_failure(error: &std::io::Error) -> rusqlite::Error {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = error.kind();
    let code = if [StorageFull, QuotaExceeded].contains(&kind) {
        rusqlite::ffi::SQLITE_FULL
    } else if kind == ReadOnlyFilesystem {
        rusqlite::ffi::SQLITE_READONLY
    } else {
        rusqlite::ffi::SQLITE_IOERR
    };
    disk::error(code, &error.to_string())
}

/// Trouble with files, as the store's own.
fn unusable(error: &dyn std::error::Error) -> rusqlite::Error {
    let mut what = error.to_string();
    if let Some(source) = error.source() {
        what = format!("{what}: {source}");
    }
    disk::error(rusqlite::ffi::SQLITE_CANTOPEN, &what)
}

fn refresh_alarms(stats: &mut AlarmStats, image: &mut Image, setup: &Setup) {
    let own = |counter| count(image.books.store(counter).unwrap_or(0));
    stats.acknowledged = image.alarms.acknowledged() as u64;
    stats.suppressed = own(own::ALARMS_SUPPRESSED);
    stats.lost = own(own::ALARMS_LOST);
    stats.floods = image.alarms.floods().count() as u64;
    stats.series = image.silence.known() as u64;
    stats.stale = image.silence.stale().len() as u64;
    stats.unheard = own(own::SERIES_UNHEARD);
    if !std::mem::take(&mut image.alarms_changed) {
        return;
    }
    let active = image
        .alarms
        .iter()
        .take(SHOWN)
        .map(|(key, alarm)| ActiveAlarm {
            key: key.clone(),
            alarm: alarm.clone(),
        });
    stats.active = active.collect();
    let stale = image.silence.stale().take(SHOWN);
    let stale = stale.map(|(source, series, heard)| StaleSeries {
        source: Arc::clone(&setup.sources[source]),
        series: Arc::clone(series),
        heard,
    });
    stats.stale_series = stale.collect();
}

fn refresh_commands(stats: &mut CommandStats, image: &mut Image, setup: &Setup) {
    if !std::mem::take(&mut image.commands.changed) {
        return;
    }
    let books = &image.books;
    let counts = |name: &Arc<str>| {
        let own = |counter| count(books.own(Scope::Uplink, name, counter).unwrap_or(0));
        CommandCounts {
            done: own(own::COMMANDS_DONE),
            refused: own(own::COMMANDS_REFUSED),
            repeated: own(own::COMMANDS_REPEATED),
        }
    };
    stats.uplinks = setup.uplinks.iter().map(counts).collect();
    let details = image.commands.details.iter().map(|detail| DetailStats {
        uplink: detail.uplink,
        id: detail.id.clone(),
        series: detail.series.clone(),
        pipeline: detail.pipeline.clone(),
        until: detail.until,
        sent: detail.sent,
    });
    stats.details = details.collect();
    let backfills = image.commands.backfills.iter().map(|job| BackfillStats {
        uplink: job.uplink,
        id: job.id.clone(),
        series: job.series.clone(),
        pipeline: job.pipeline.clone(),
        from: job.from,
        to: job.to,
        sent: job.sent,
    });
    stats.backfills = backfills.collect();
}

fn clock_stats(image: &Image) -> ClockStats {
    let step = image.books.store(own::STEP_AT);
    ClockStats {
        set: image.clock.set.is_some(),
        steps: count(image.books.store(own::STEPS).unwrap_or(0)),
        last_step: step
            .zip(image.books.store(own::STEP_BY))
            .map(|(at, by)| ClockStep { at, by }),
        correcting: correcting(image),
    }
}
