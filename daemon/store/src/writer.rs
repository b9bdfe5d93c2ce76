//! The writer: takes inputs into the open group, and commits it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::{Arrival, Ledger};

use crate::books::own;
use crate::commit::{self, Ahead, Frozen, Written};
use crate::disk::{self, Wal};
use crate::evict;
use crate::group::{Attempt, Due, Group, InFlight};
use crate::image::Image;
use crate::input::{
    AcknowledgeAlarms, ClosedSummary, Committed, Input, Orders, StoreState, StoreStats,
};
use crate::lock::Lock;
use crate::place::Place;
use crate::reader::{ReadError, Reader};
use crate::reserve::Reserve;
use crate::setup::Setup;
use crate::trouble::{CommitError, Pressure, Trouble, io_failure};
use crate::verify::Recounter;

/// First and longest wait before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Closed windows that are kept in memory for the page.
const RECENT_SUMMARIES: usize = 1024;

/// What the writer shares with the readers of its process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) in_flight: evict::InFlight,
    recent: Mutex<VecDeque<Arc<ClosedSummary>>>,
    /// What somebody read twice that only damage explains.
    suspicion: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(uplinks: usize) -> Self {
        Self {
            in_flight: evict::InFlight::new(uplinks),
            recent: Mutex::default(),
            suspicion: Mutex::default(),
        }
    }

    /// Says that the database is damaged: the writer looks after it.
    pub(crate) fn suspect(&self, error: &rusqlite::Error) {
        let mut suspicion = self
            .suspicion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        suspicion.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn take_suspicion(&self) -> Option<String> {
        let mut suspicion = self
            .suspicion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        suspicion.take()
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

/// Owns the database. One thread calls it, in a loop: take inputs with [`Writer::apply`] until there is none or
/// [`Writer::is_full`], then [`Writer::commit_if_due`], then wait for an input until [`Writer::deadline`].
#[derive(Debug)]
pub struct Writer {
    pub(crate) setup: Setup,
    /// `None` after a failure, until it is opened again.
    pub(crate) database: Option<(Connection, Image)>,
    pub(crate) open: Group,
    /// A group whose commit was attempted and is not known to have succeeded. Inputs that come later are not of it.
    pub(crate) frozen: Option<Frozen>,
    in_flight: InFlight,
    pub(crate) shared: Arc<Shared>,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) pressure: Pressure,
    /// The database was set aside: the uplinks' answers are about another one.
    pub(crate) renewed: bool,
    /// The counts after the last commit.
    pub(crate) last_ledger: Arc<Ledger>,
    pub(crate) backoff: Backoff,
    /// The present by both clocks, as told last.
    pub(crate) seen: (Instant, Arrival),
    /// The wall clock at which windows close without any input.
    pub(crate) closing_at: Option<i64>,
    /// The wall clock at which something is far too old; it counts only while the clock is known to be set.
    pub(crate) expiry_at: Option<i64>,
    pub(crate) stats: StoreStats,
    pub(crate) wal: Wal,
    pub(crate) reserve: Reserve,
    pub(crate) place: Place,
    pub(crate) lock: Lock,
}

impl Writer {
    pub(crate) fn new(
        setup: Setup,
        shared: Arc<Shared>,
        database: (Connection, Image),
        lock: Lock,
        seen: (Instant, Arrival),
    ) -> Self {
        let path = &setup.config.path;
        let mut writer = Self {
            open: Group::default(),
            frozen: None,
            in_flight: InFlight::new(setup.sources.len()),
            database: Some(database),
            trouble: None,
            pressure: Pressure::default(),
            renewed: false,
            last_ledger: Arc::default(),
            backoff: Backoff::new(RETRY, RETRY_MAX),
            seen,
            stats: StoreStats::default(),
            closing_at: None,
            expiry_at: None,
            wal: Wal::of(path),
            reserve: Reserve::of(path, &setup.bounds),
            place: Place::of(path),
            shared,
            setup,
            lock,
        };
        writer.reserve.make();
        writer.stats.acknowledges = true;
        writer.list_sets();
        writer.refresh();
        writer.judge();
        writer
    }

    /// A reader that tells the writer what it hands out.
    ///
    /// # Errors
    /// The database cannot be opened once more.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        let uplinks: Vec<String> = self.setup.uplinks.iter().map(ToString::to_string).collect();
        Reader::sharing(&self.setup.config.path, &uplinks, Arc::clone(&self.shared))
    }

    /// What begins recounts of this database, for a thread of its own.
    #[must_use]
    pub fn recounter(&self) -> Recounter {
        Recounter {
            path: self.setup.config.path.clone(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Takes an input into the open group. Nothing is written.
    pub fn apply(&mut self, input: Input, now: Instant) {
        match input {
            Input::Outcome(outcome) if self.renewed && outcome.replayed.is_some() => {}
            Input::Outcome(outcome) => {
                if outcome.has_arrived() {
                    self.in_flight.received(&outcome);
                }
                self.open.push_outcome(outcome, now);
            }
            // The numbers of a database that was set aside mean other rows in its successor.
            Input::Settled(_) if self.renewed => {}
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
            Input::Quarantine(_) if self.renewed => {}
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
            self.recover(now)?;
        }
        let earlier = self.relieve(now)?;
        if self.trouble.is_some() {
            // It succeeded, and what came behind it did not.
            return Ok(earlier);
        }
        if self.frozen.is_none() {
            let Some(due) = self.due(now, arrival_now) else {
                return Ok(earlier);
            };
            if let Some(ahead) = self.ahead(arrival_now) {
                self.freeze_ahead(now, arrival_now, ahead);
            } else {
                if due == Due::Linger {
                    self.in_flight.linger_expired();
                }
                self.freeze(now, arrival_now, false);
            }
        }
        let committed = self.commit(now);
        match (earlier, committed) {
            // The failure is the news; what was relieved is told with the next success.
            (Some(_), Err(error)) => Err(error),
            (earlier, committed) => committed.map(|committed| Some(committed.after(earlier))),
        }
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
            self.recover(now)?;
        }
        let relieved = self.relieve(now)?;
        let earlier = match self.frozen {
            Some(_) => Some(self.commit(now)?.after(relieved)),
            None => relieved,
        };
        let mut earlier = earlier;
        while let Some(ahead) = self.ahead(arrival_now) {
            self.freeze_ahead(now, arrival_now, ahead);
            earlier = Some(self.commit(now)?.after(earlier));
        }
        self.freeze(now, arrival_now, true);
        let committed = self.commit(now)?.after(earlier);
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

    /// The windows that have to close before the open group can be committed; the group stays open meanwhile.
    pub(crate) fn ahead(&self, idle: Arrival) -> Option<Ahead> {
        let (_, image) = self.database.as_ref()?;
        Ahead::of(image, &self.setup.bounds, &self.open.arrivals(), idle)
    }

    fn freeze_ahead(&mut self, now: Instant, idle: Arrival, ahead: Ahead) {
        let committed = self.database.as_ref().map_or(0, |(_, image)| image.group);
        self.frozen = Some(Frozen {
            group: Group::default(),
            number: committed + 1,
            idle,
            now,
            last: false,
            ahead: Some(ahead),
            room: self.pressure.room(&self.setup.bounds),
        });
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
            ahead: None,
            room: self.pressure.room(&self.setup.bounds),
        });
    }

    /// Commits the frozen group.
    pub(crate) fn commit(&mut self, now: Instant) -> Result<Committed, CommitError> {
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
            // Both are there when this is called. Were they not, nothing would be durable.
            return Err(disk::busy());
        };
        let written = if image.group >= frozen.number {
            // The commit had succeeded and only said otherwise. It may be in the log without being on the disk, and a sync that
            // failed once can lie the next time: writing it into the database file makes new pages of it, whose sync
            // counts.
            if !disk::checkpoint_all(conn)? {
                return Err(disk::busy());
            }
            Written {
                sealed: (0..self.setup.uplinks.len()).collect(),
                ..Written::default()
            }
        } else {
            self.wal.make_room(conn, &self.setup.bounds)?;
            commit::write(conn, image, &self.setup, &self.shared.in_flight, frozen)?
        };
        // SQLite goes on writing to a file that was deleted.
        self.place.check()?;
        self.lock.touch().map_err(|error| io_failure(&error))?;
        Ok(written)
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
        let settled = group.settled(self.setup.uplinks.len());
        for (uplink, settled) in &settled {
            if let Some(mut seqs) = self.shared.in_flight.lock(*uplink) {
                settled.iter().for_each(|seq| {
                    seqs.remove(seq);
                });
            }
        }
        self.shared.note(&written.summaries);
        let stats = &mut self.stats;
        stats.commits += 1;
        stats.rows += group.stored_rows();
        stats.commit_latency_max = stats.commit_latency_max.max(stats.commit_latency);
        self.succeeded(&written);
        if let Some((_, image)) = &self.database {
            self.last_ledger = Arc::new(image.books.ledger().clone());
        }
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
            settled,
            sealed: written.sealed.into_iter().collect(),
            summaries: written.summaries,
            rows_tried,
            orders,
            ledger: Arc::clone(&self.last_ledger),
            renewed: self.renewed,
            stats: self.stats.clone(),
        }
    }

    fn checkpoint(&self) -> Result<(), rusqlite::Error> {
        match &self.database {
            Some((conn, _)) if self.pressure.is_tight() => self.wal.write_back(conn)?,
            Some((conn, _)) => self.wal.checkpoint(conn, &self.setup.bounds)?,
            None => return Ok(()),
        }
        // The next commit overwrites the log, which nothing but a durable database can replace.
        self.lock.touch().map_err(|error| io_failure(&error))
    }
}

/// Rows that were taken before the clock was set wait to be corrected.
pub(crate) fn correcting(image: &Image) -> bool {
    image.boots.left && image.boots.set_offset.is_some()
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

#[cfg(test)]
impl Writer {
    pub(crate) fn committed_group(&self) -> u64 {
        self.database.as_ref().map_or(0, |(_, image)| image.group)
    }

    /// As after a commit of this group that failed.
    pub(crate) fn pretend_failure(&mut self, frozen: Frozen) {
        self.frozen = Some(frozen);
        self.fail_with(disk::busy());
    }

    pub(crate) fn fail_with(&mut self, error: rusqlite::Error) {
        let error = self.failed(error, self.seen.0);
        assert!(!error.to_string().is_empty());
    }

    /// Lets the database file grow by no page more, until it is opened again.
    pub(crate) fn fill_disk(&mut self) {
        let (conn, _) = self.database.as_ref().unwrap();
        let pages = disk::Pages::of(conn).unwrap().all;
        let pages = crate::num::sql(pages);
        conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    }
}
