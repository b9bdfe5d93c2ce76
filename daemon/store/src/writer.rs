//! The writer: takes inputs into the open group, and commits it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tidegate_domain::backoff::Backoff;
use tidegate_domain::outcome::StateChange;
use tidegate_domain::{Arrival, Identity, Ledger};

use crate::alarms::{self, ActiveAlarm, SHOWN, StaleSeries};
use crate::books::{Scope, own};
use crate::commit::{self, Frozen, Written};
use crate::config::StoreConfig;
use crate::disk::{self, Pages, Wal};
use crate::evict;
use crate::group::{Attempt, Due, Group, InFlight};
use crate::identities;
use crate::image::{self, Image};
use crate::input::{
    AcknowledgeAlarms, AlarmStats, BackfillStats, ClockStats, ClockStep, ClosedSummary,
    CommandCounts, CommandStats, Committed, DetailStats, Input, Orders, OutboxStats, StoreState,
    StoreStats,
};
use crate::quarantine;
use crate::reader::{ReadError, Reader};
use crate::schema::{self, Lock, OpenError};
use crate::setup::Setup;
use crate::state;

/// First and longest wait before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A clock this much behind the last commit was wrong then, and not merely slow, nanoseconds.
const CLOCK_BEHIND: i64 = 3_600 * 1_000_000_000;

/// Closed windows that are kept in memory for the page.
const RECENT_SUMMARIES: usize = 1024;

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

/// What the writer shares with the readers of its process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) in_flight: evict::InFlight,
    recent: Mutex<VecDeque<Arc<ClosedSummary>>>,
}

impl Shared {
    pub(crate) fn new(uplinks: usize) -> Self {
        Self {
            in_flight: evict::InFlight::new(uplinks),
            recent: Mutex::default(),
        }
    }

    /// The latest closed windows, newest first.
    pub(crate) fn recent(&self, limit: usize) -> Vec<Arc<ClosedSummary>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().take(limit).cloned().collect()
    }

    fn note(&self, summaries: &[Arc<ClosedSummary>]) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.extend(summaries.iter().cloned());
        let excess = recent.len().saturating_sub(RECENT_SUMMARIES);
        recent.drain(..excess);
    }
}

impl Store {
    /// Opens or creates the store: takes its lock, migrates its layout, and rebuilds what an earlier process left open.
    ///
    /// # Errors
    /// Another process has it, it is of a newer version, damaged, or cannot be written. In each case nothing was
    /// changed but the lock file.
    pub fn open(config: StoreConfig, arrival_now: Arrival) -> Result<Self, OpenError> {
        let setup = Setup::new(config);
        let path = setup.config.path.clone();
        let lock = Lock::take(&path)?;
        let wal = Wal::of(&path);
        wal.rewrite().map_err(|source| OpenError::Files {
            path: wal.path().to_owned(),
            source,
        })?;
        let (conn, created) = schema::open(&path)?;
        let database = |source| OpenError::database(&path, source);
        image::register(&conn, &setup, arrival_now).map_err(database)?;
        let now = Instant::now();
        let image = Image::load(&conn, &setup, arrival_now, now).map_err(database)?;
        let clean_exit = created || image.books.store(own::CLEAN) == Some(1);
        let mut recovered = Recovered {
            clean_exit,
            created,
            state: state::load(&conn).map_err(database)?,
            identities: identities::latest(&conn, &setup).map_err(database)?,
            alarms: alarms::active(&conn, SHOWN).map_err(database)?,
            streams: streams(&conn, &setup).map_err(database)?,
            ledger: Arc::new(image.books.ledger().clone()),
            windows_open: image.windows.len(),
            stats: StoreStats::default(),
        };
        let sources = setup.sources.len();
        let shared = Arc::new(Shared::new(setup.uplinks.len()));
        let mut writer = Writer {
            open: Group::default(),
            frozen: None,
            in_flight: InFlight::new(sources),
            database: Some((conn, image)),
            trouble: None,
            backoff: Backoff::new(RETRY, RETRY_MAX),
            seen: (now, arrival_now),
            stats: StoreStats::default(),
            closing_at: None,
            expiry_at: None,
            wal,
            shared,
            setup,
            _lock: lock,
        };
        writer
            .begin(clean_exit, arrival_now, now)
            .map_err(database)?;
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

/// Owns the database. One thread calls it, in a loop: take inputs with [`Writer::apply`] until there is none or
/// [`Writer::is_full`], then [`Writer::commit_if_due`], then wait for an input until [`Writer::deadline`].
#[derive(Debug)]
pub struct Writer {
    setup: Setup,
    /// `None` after a failure, until it is opened again.
    database: Option<(Connection, Image)>,
    open: Group,
    /// A group whose commit was attempted and is not known to have succeeded. Inputs that come later are not of it.
    frozen: Option<Frozen>,
    in_flight: InFlight,
    shared: Arc<Shared>,
    trouble: Option<Trouble>,
    backoff: Backoff,
    /// The present by both clocks, as told last.
    seen: (Instant, Arrival),
    /// The wall clock at which windows close without any input.
    closing_at: Option<i64>,
    /// The wall clock at which something is far too old; it counts only while the clock is known to be set.
    expiry_at: Option<i64>,
    stats: StoreStats,
    wal: Wal,
    _lock: Lock,
}

#[derive(Debug)]
struct Trouble {
    retry_at: Instant,
}

impl Writer {
    /// The first commit: from here on the exit is unclean until [`Writer::close`].
    fn begin(
        &mut self,
        clean_exit: bool,
        arrival_now: Arrival,
        now: Instant,
    ) -> Result<(), rusqlite::Error> {
        let Some((conn, image)) = &mut self.database else {
            return Ok(());
        };
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
        let frozen = Frozen {
            number: image.group + 1,
            group: Group::default(),
            idle,
            now,
            last: false,
        };
        commit::write(conn, image, &self.setup, &self.shared.in_flight, &frozen)?;
        self.refresh();
        Ok(())
    }

    /// A reader that tells the writer what it hands out.
    ///
    /// # Errors
    /// The database cannot be opened once more.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        let uplinks: Vec<String> = self.setup.uplinks.iter().map(ToString::to_string).collect();
        Reader::sharing(&self.setup.config.path, &uplinks, Arc::clone(&self.shared))
    }

    /// Takes an input into the open group. Nothing is written.
    pub fn apply(&mut self, input: Input, now: Instant) {
        match input {
            Input::Outcome(outcome) => {
                if outcome.replayed.is_none() {
                    self.in_flight.received(&outcome);
                }
                self.open.push_outcome(outcome, now);
            }
            Input::Settled(settled) => self.open.push_settled(settled, now),
            Input::Gap(gap) => self.open.push_gap(gap, now),
            Input::Event(event) => self.open.push_event(event, now),
            Input::Command(command) => self.open.push_command(*command, now),
            Input::Acknowledge(request) => self.open.push_acknowledge(request, now),
            Input::Attempt { digest, reply } => {
                self.open.push_attempt(Attempt::One { digest, reply });
            }
            Input::Attempts { digests, reply } => {
                self.open.push_attempt(Attempt::Many { digests, reply });
            }
            Input::Quarantine(orders) => self.open.push_orders(orders, now),
        }
    }

    /// Answers the attempts of a group that is durable. One that cannot be read goes unanswered, which the asker sees.
    fn answer(&self, attempts: Vec<Attempt>) {
        let Some((conn, _)) = &self.database else {
            return;
        };
        let count = |digest: &[u8; 32]| {
            conn.prepare_cached("SELECT count FROM attempt WHERE digest = ?1")?
                .query_row([&digest[..]], |row| row.get(0))
        };
        for attempt in attempts {
            let answered = match attempt {
                Attempt::One { digest, reply } => {
                    count(&digest).map(|count| reply.try_send(count).is_ok())
                }
                Attempt::Many { digests, reply } => {
                    let counts: Result<Vec<u32>, _> = digests.iter().map(count).collect();
                    counts.map(|counts| reply.try_send(counts).is_ok())
                }
            };
            match answered {
                Ok(true) => {}
                Ok(false) => tracing::debug!("nobody waits for the count of an attempt any more"),
                Err(error) => tracing::error!(%error, "the count of an attempt cannot be read"),
            }
        }
    }

    /// Tells whoever gave an order its number, once it is durable. Returns how many orders came or went.
    fn confirm(&self, orders: Vec<Orders>) -> u64 {
        let Some((_, image)) = &self.database else {
            return 0;
        };
        let mut changed = 0;
        let mut replies = Vec::new();
        for order in orders {
            match order {
                Orders::New { reply, .. } => replies.push(reply),
                Orders::Done { .. } => changed += 1,
                Orders::Discard { .. } => {}
            }
        }
        // The group's orders have the last numbers, in their order, also where its commit was found to have succeeded.
        let next = crate::num::count(image.books.store(own::NEXT_ORDER).unwrap_or(1));
        let first = next.saturating_sub(replies.len() as u64);
        for (number, reply) in (first..next).zip(replies) {
            changed += 1;
            if reply.try_send(number).is_err() {
                tracing::debug!(number, "nobody waits for the number of an order any more");
            }
        }
        changed
    }

    /// True when no further outcome should be taken: the group is due at once, the store is in trouble, or its bound is
    /// reached and nothing is left to give up. Answers of uplinks may always be taken: they are what makes room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let due = self.open.due_at_once(&self.setup.bounds, &self.in_flight);
        self.frozen.is_some()
            || self.trouble.is_some()
            || due.is_some()
            || self.stats.state == StoreState::Full
    }

    /// When [`Writer::commit_if_due`] must be called at the latest. It may be in the past.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.retry_at);
        }
        let (now, arrival) = self.seen;
        let at_once = self.open.due_at_once(&self.setup.bounds, &self.in_flight);
        let correcting = (self.database.as_ref()).is_some_and(|(_, image)| correcting(image));
        if at_once.is_some() || correcting {
            return Some(now);
        }
        let outbox = self
            .database
            .as_ref()
            .and_then(|(_, image)| image.outbox.deadline());
        let by_monotonic = self.due_by_monotonic().map(|due| {
            let wait = u64::try_from(due.saturating_sub(arrival.monotonic)).unwrap_or(0);
            now + Duration::from_nanos(wait)
        });
        let by_wall = self.due_by_wall(arrival).map(|due| {
            let wait = u64::try_from(due.saturating_sub(arrival.wall)).unwrap_or(0);
            now + Duration::from_nanos(wait)
        });
        let linger = self.open.linger_ends(self.setup.config.linger);
        [outbox, by_monotonic, by_wall, linger]
            .into_iter()
            .flatten()
            .min()
    }

    /// Commits the group where that is due. To be called when nothing waits for [`Writer::apply`], when
    /// [`Writer::is_full`], and at [`Writer::deadline`]. `arrival_now` is the present time; windows of silent series
    /// close by it.
    ///
    /// # Errors
    /// Nothing was acknowledged. The group is kept, the database is opened anew, and the same group is tried again at
    /// [`Writer::deadline`]. Where the failed commit had succeeded after all, it is not repeated.
    pub fn commit_if_due(
        &mut self,
        now: Instant,
        arrival_now: Arrival,
    ) -> Result<Option<Committed>, CommitError> {
        let arrival_now = self.corrected(arrival_now);
        self.seen = (now, arrival_now);
        if let Some(trouble) = &self.trouble {
            if now < trouble.retry_at {
                return Ok(None);
            }
            self.reopen(now)?;
        }
        if self.frozen.is_none() {
            let Some(due) = self.due(now, arrival_now) else {
                return Ok(None);
            };
            if due == Due::Linger {
                self.in_flight.linger_expired();
            }
            self.freeze(now, arrival_now, false);
        }
        self.commit(now).map(Some)
    }

    /// Commits the rest, marks the exit clean, and writes the log back. Windows stay open.
    ///
    /// # Errors
    /// The rest could not be committed: its messages stay unacknowledged and come again.
    pub fn close(
        mut self,
        now: Instant,
        arrival_now: Arrival,
    ) -> Result<Option<Committed>, CommitError> {
        let arrival_now = self.corrected(arrival_now);
        self.seen = (now, arrival_now);
        if self.trouble.is_some() {
            self.reopen(now)?;
        }
        let earlier = match self.frozen {
            Some(_) => Some(self.commit(now)?),
            None => None,
        };
        self.freeze(now, arrival_now, true);
        let mut committed = self.commit(now)?;
        if let Some(earlier) = earlier {
            committed.acks.splice(0..0, earlier.acks);
            committed.commands.splice(0..0, earlier.commands);
            committed.summaries.splice(0..0, earlier.summaries);
            committed.rows_tried += earlier.rows_tried;
            committed.orders += earlier.orders;
        }
        if let Some((conn, _)) = self.database.take() {
            // The log alone would do: everything in it is committed.
            if let Err(error) = disk::checkpoint_all(&conn) {
                tracing::warn!(%error, "the write-ahead log was not written back; the next start does it");
            }
        }
        Ok(Some(committed))
    }

    /// The figures after the last commit, with the present condition.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.stats.clone()
    }

    /// The present time by a clock that was set in this boot, though it may not be now.
    fn corrected(&self, now: Arrival) -> Arrival {
        let image = self.database.as_ref().map(|(_, image)| image);
        match image.and_then(|image| image.clock.set) {
            Some(offset) => now.corrected(offset),
            None => now,
        }
    }

    fn due(&self, now: Instant, arrival_now: Arrival) -> Option<Due> {
        let linger = self.setup.config.linger;
        let group = self
            .open
            .due(&self.setup.bounds, &self.in_flight, linger, now);
        group.or_else(|| {
            let (_, image) = self.database.as_ref()?;
            let outbox = image.outbox.deadline().is_some_and(|due| due <= now);
            let clock = correcting(image) || image.clock.is_news(arrival_now);
            let wall = self
                .due_by_wall(arrival_now)
                .is_some_and(|due| due <= arrival_now.wall);
            let monotonic = self
                .due_by_monotonic()
                .is_some_and(|due| due <= arrival_now.monotonic);
            (outbox || wall || monotonic || clock).then_some(Due::Upkeep)
        })
    }

    /// The monotonic clock at which something is due without any input.
    fn due_by_monotonic(&self) -> Option<i64> {
        let (_, image) = self.database.as_ref()?;
        let waiting = |uplink: usize| image.books.waiting(&self.setup.uplinks[uplink]);
        let due = [
            image.alarms.next_due(),
            image.silence.next_due(),
            image.commands.next_due(waiting),
        ];
        due.into_iter().flatten().min()
    }

    /// The wall clock at which something is due without any input.
    fn due_by_wall(&self, now: Arrival) -> Option<i64> {
        // With readings in the group the clock is theirs: it moves when linger ends.
        let closing = self.closing_at.filter(|_| self.open.outcomes.is_empty());
        let age = self
            .database
            .as_ref()
            .and_then(|(_, image)| image.age.peek(now));
        let expiry = self.expiry_at.filter(|_| age.is_some());
        [closing, expiry].into_iter().flatten().min()
    }

    fn freeze(&mut self, now: Instant, idle: Arrival, last: bool) {
        let image = self.database.as_ref().map(|(_, image)| image);
        let committed = image.map_or(0, |image| image.group);
        if let Some(offset) =
            image.and_then(|image| image.clock.set_by(&self.open.arrivals(), idle))
        {
            self.open.correct(offset);
        }
        self.frozen = Some(Frozen {
            group: std::mem::take(&mut self.open),
            number: committed + 1,
            idle,
            now,
            last,
        });
    }

    /// Commits the frozen group.
    fn commit(&mut self, now: Instant) -> Result<Committed, CommitError> {
        let started = Instant::now();
        let written = match self.write() {
            Ok(written) => written,
            Err(source) => return Err(self.failed(source, now)),
        };
        self.stats.commit_latency = started.elapsed();
        Ok(self.committed(written))
    }

    fn write(&mut self) -> Result<Written, rusqlite::Error> {
        let (Some((conn, image)), Some(frozen)) = (&mut self.database, &self.frozen) else {
            // Both are there when this is called.
            return Ok(Written::default());
        };
        if image.group >= frozen.number {
            // The commit had succeeded and only said otherwise. It may be in the log without being on the disk, and a sync that
            // failed once can lie the next time: writing it into the database file makes new pages of it, whose sync
            // counts.
            if !disk::checkpoint_all(conn)? {
                return Err(busy());
            }
            return Ok(Written {
                sealed: (0..self.setup.uplinks.len()).collect(),
                ..Written::default()
            });
        }
        commit::write(conn, image, &self.setup, &self.shared.in_flight, frozen)
    }

    /// The group is durable: whatever fails from here on cannot take that back.
    fn committed(&mut self, written: Written) -> Committed {
        let mut group = self
            .frozen
            .take()
            .map(|frozen| frozen.group)
            .unwrap_or_default();
        self.answer(std::mem::take(&mut group.attempts));
        acknowledged(&group.acknowledgements, &written.acknowledged);
        let rows_tried = group.rows_tried();
        let orders = self.confirm(std::mem::take(&mut group.orders));
        let acks = group.acks(self.setup.sources.len());
        self.in_flight.acknowledged(&acks);
        for settled in &group.settled {
            if let Some(mut seqs) = self.shared.in_flight.lock(settled.uplink) {
                seqs.remove(&settled.seq);
            }
        }
        self.shared.note(&written.summaries);
        self.backoff.reset();
        let stats = &mut self.stats;
        stats.commits += 1;
        stats.rows += group.stored_rows();
        stats.commit_latency_max = stats.commit_latency_max.max(stats.commit_latency);
        stats.state = if written.full {
            StoreState::Full
        } else {
            StoreState::Healthy
        };
        stats.last_error = written.full.then(|| {
            "the bound `store.max-size` is reached and nothing is left that may be given up"
                .to_owned()
        });
        let ledger = self
            .database
            .as_ref()
            .map(|(_, image)| image.books.ledger().clone());
        if let Err(error) = self.checkpoint() {
            let error = self.failed(error, self.seen.0);
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the write-ahead log could not be written back"
            );
        }
        self.refresh();
        let commands = group
            .commands
            .iter()
            .map(|command| (command.uplink, command.ack));
        Committed {
            acks,
            commands: commands.collect(),
            sealed: written.sealed.into_iter().collect(),
            summaries: written.summaries,
            rows_tried,
            orders,
            ledger: Arc::new(ledger.unwrap_or_default()),
            stats: self.stats.clone(),
        }
    }

    fn checkpoint(&self) -> Result<(), rusqlite::Error> {
        match &self.database {
            Some((conn, _)) => self.wal.checkpoint(conn, &self.setup.bounds),
            None => Ok(()),
        }
    }

    /// Gives the connection up and says when to try again.
    fn failed(&mut self, source: rusqlite::Error, now: Instant) -> CommitError {
        self.database = None;
        let retry_in = self.backoff.next(u64::MAX);
        self.trouble = Some(Trouble {
            retry_at: now + retry_in,
        });
        let state = state_of(&source);
        self.stats.state = state;
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

    /// Opens the database anew and loads what is committed.
    fn reopen(&mut self, now: Instant) -> Result<(), CommitError> {
        let path = &self.setup.config.path;
        let rewritten = self.wal.rewrite().map_err(|error| io_failure(&error));
        let opened = rewritten
            .and_then(|()| schema::reopen(path))
            .and_then(|conn| {
                // It gives room back on a full disk. Where it finds a reader in its way, the next one does it.
                disk::checkpoint_all(&conn)?;
                let image = Image::load(&conn, &self.setup, self.seen.1, now)?;
                Ok((conn, image))
            });
        match opened {
            Ok(database) => {
                self.database = Some(database);
                self.trouble = None;
                self.refresh();
                Ok(())
            }
            Err(source) => Err(self.failed(source, now)),
        }
    }

    /// Brings figures up to date. What cannot be read keeps its last value: the next commit meets the same problem, and says so.
    fn refresh(&mut self) {
        let Some((conn, image)) = &mut self.database else {
            return;
        };
        let stats = &mut self.stats;
        if let Ok(pages) = Pages::of(conn) {
            stats.database_bytes = pages.file_bytes();
            stats.free_bytes = pages.free_bytes();
        }
        stats.wal_bytes = self.wal.bytes();
        stats.max_bytes = self.setup.bounds.max_bytes;
        stats.quarantine_bytes =
            crate::num::count(image.books.store(own::QUARANTINE_BYTES).unwrap_or(0));
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

/// Tells whoever asked how many alarms were acknowledged. Where it is not known whether a commit succeeded nobody is told, and
/// sees that.
fn acknowledged(requests: &[AcknowledgeAlarms], done: &[usize]) {
    for (request, done) in requests.iter().zip(done) {
        if request.reply.try_send(*done).is_err() {
            tracing::debug!(done, "nobody waits for an acknowledgement any more");
        }
    }
}

fn refresh_alarms(stats: &mut AlarmStats, image: &mut Image, setup: &Setup) {
    let own = |counter| crate::num::count(image.books.store(counter).unwrap_or(0));
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
        let own = |counter| crate::num::count(books.own(Scope::Uplink, name, counter).unwrap_or(0));
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

/// Rows that were taken before the clock was set wait to be corrected.
fn correcting(image: &Image) -> bool {
    image.boots.left && image.boots.set_offset.is_some()
}

fn clock_stats(image: &Image) -> ClockStats {
    let step = image.books.store(own::STEP_AT);
    ClockStats {
        set: image.clock.set.is_some(),
        steps: crate::num::count(image.books.store(own::STEPS).unwrap_or(0)),
        last_step: step
            .zip(image.books.store(own::STEP_BY))
            .map(|(at, by)| ClockStep { at, by }),
        correcting: correcting(image),
    }
}

/// Somebody else is writing the log back, or reads what is in it.
fn busy() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    rusqlite::Error::SqliteFailure(code, None)
}

/// What went wrong beside SQLite, in its words.
fn io_failure(error: &std::io::Error) -> rusqlite::Error {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = error.kind();
    let code = if [StorageFull, QuotaExceeded].contains(&kind) {
        rusqlite::ffi::SQLITE_FULL
    } else if kind == ReadOnlyFilesystem {
        rusqlite::ffi::SQLITE_READONLY
    } else {
        rusqlite::ffi::SQLITE_IOERR
    };
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(error.to_string()))
}

/// What an error says about the store.
fn state_of(error: &rusqlite::Error) -> StoreState {
    if schema::is_damage(error) {
        return StoreState::Corrupt;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreState::Full,
        Some(ErrorCode::ReadOnly) => StoreState::ReadOnly,
        Some(_) | None => StoreState::Degraded,
    }
}

fn streams(conn: &Connection, setup: &Setup) -> Result<Vec<String>, rusqlite::Error> {
    let stream = |name: &Arc<str>| {
        conn.query_row("SELECT stream FROM uplink WHERE name = ?1", [name], |row| {
            row.get(0)
        })
    };
    setup.uplinks.iter().map(stream).collect()
}

#[cfg(test)]
impl Writer {
    pub(crate) fn committed_group(&self) -> u64 {
        self.database.as_ref().map_or(0, |(_, image)| image.group)
    }

    /// As after a commit of this group that failed.
    pub(crate) fn pretend_failure(&mut self, frozen: Frozen) {
        self.frozen = Some(frozen);
        self.fail_with(busy());
    }

    pub(crate) fn fail_with(&mut self, error: rusqlite::Error) {
        let error = self.failed(error, self.seen.0);
        assert!(!error.to_string().is_empty());
    }

    /// Lets the database file grow by no page more, until it is opened again.
    pub(crate) fn fill_disk(&mut self) {
        let (conn, _) = self.database.as_ref().unwrap();
        let pages = Pages::of(conn).unwrap().all;
        let pages = crate::num::sql(pages);
        conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    }
}
