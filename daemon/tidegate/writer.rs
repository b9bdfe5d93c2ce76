//! The writer's thread: takes what the stages hand over into the open commit group, commits it, and hands out what
//! became durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_domain::delivery::Settled;
use tidegate_store::{CommitError, Committed, Input, SourceGap, StoreStats, Writer};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::clock;

/// The longest that the thread sleeps: its heartbeat for the watchdog.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the last commit is tried again at the end.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// What reaches the writer from everybody but the workers. It is taken even when no room is left in the store, for an
/// uplink's answers are what makes room.
pub(crate) enum ToWriter {
    /// A change.
    Input(Input),
    /// What an uplink's broker answered to some messages.
    Settled(Vec<Settled>),
    /// The workers have ended: commit everything and end.
    Close,
}

impl From<Vec<Settled>> for ToWriter {
    fn from(settled: Vec<Settled>) -> Self {
        Self::Settled(settled)
    }
}

impl From<SourceGap> for ToWriter {
    fn from(gap: SourceGap) -> Self {
        Self::Input(gap.into())
    }
}

/// Everything that the thread needs.
pub(crate) struct WriterThread<C, F> {
    pub(crate) writer: Writer,
    /// What the workers made. Left alone while the store cannot take it, so that they wait, and with them the sources.
    pub(crate) outcomes: mpsc::Receiver<Input>,
    /// Everything else.
    pub(crate) inbox: mpsc::Receiver<ToWriter>,
    /// For sleeping with a deadline on asynchronous channels.
    pub(crate) runtime: Handle,
    /// Counts wake-ups: for the watchdog.
    pub(crate) heartbeat: Arc<AtomicU64>,
    /// When the store was looked at last, beside its commits.
    pub(crate) looked: Instant,
    /// Called with what became durable.
    pub(crate) committed: C,
    /// Called with the figures after a failed commit, and when the store's condition changed without one.
    pub(crate) changed: F,
}

impl<C: FnMut(Committed), F: FnMut(StoreStats)> WriterThread<C, F> {
    /// Works until [`ToWriter::Close`].
    ///
    /// # Errors
    /// The last group could not be committed; its messages come again.
    pub(crate) fn run(mut self) -> Result<(), CommitError> {
        while self.take() {
            self.heartbeat.fetch_add(1, Ordering::Relaxed);
            self.commit();
        }
        self.close()
    }

    /// Takes what waits into the open group, sleeping until there is something to do. False at the end.
    fn take(&mut self) -> bool {
        let mut next = self.wait();
        loop {
            match next {
                Some(ToWriter::Close) => return false,
                Some(change) => self.apply(change),
                None => return true,
            }
            next = self.ready();
        }
    }

    fn apply(&mut self, change: ToWriter) {
        let now = Instant::now();
        match change {
            ToWriter::Input(input) => {
                #[cfg(feature = "test-faults")]
                crate::faults::acknowledge_early(&input);
                self.writer.apply(input, now);
            }
            ToWriter::Settled(all) => {
                for settled in all {
                    self.writer.apply(settled.into(), now);
                }
            }
            ToWriter::Close => {}
        }
    }

    /// What can be taken at once.
    fn ready(&mut self) -> Option<ToWriter> {
        if let Ok(change) = self.inbox.try_recv() {
            return Some(change);
        }
        if self.writer.is_full() {
            return None;
        }
        self.outcomes.try_recv().ok().map(ToWriter::Input)
    }

    /// What comes next; `None` when a commit, or a beat of the heart, is due first.
    fn wait(&mut self) -> Option<ToWriter> {
        if let Some(ready) = self.ready() {
            return Some(ready);
        }
        let now = Instant::now();
        let until = self
            .writer
            .deadline()
            .map_or(now + HEARTBEAT, |due| due.min(now + HEARTBEAT));
        let full = self.writer.is_full();
        let (inbox, outcomes) = (&mut self.inbox, &mut self.outcomes);
        self.runtime.block_on(async {
            tokio::select! {
                change = inbox.recv() => Some(change.unwrap_or(ToWriter::Close)),
                Some(outcome) = outcomes.recv(), if !full => Some(ToWriter::Input(outcome)),
                () = tokio::time::sleep_until(until.into()) => None,
            }
        })
    }

    fn commit(&mut self) {
        match self.writer.commit_if_due(Instant::now(), clock::now()) {
            Ok(Some(committed)) => (self.committed)(committed),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "nothing is acknowledged until the store can commit again; it is tried again"
                );
                (self.changed)(self.writer.stats());
            }
        }
        if self.looked.elapsed() >= HEARTBEAT {
            self.looked = Instant::now();
            if let Some(stats) = self.writer.look() {
                (self.changed)(stats);
            }
        }
    }

    /// Commits the rest. A store in trouble gets a bounded time to recover.
    fn close(mut self) -> Result<(), CommitError> {
        let begin = Instant::now();
        loop {
            while let Some(change) = self.ready() {
                self.apply(change);
            }
            if !self.writer.is_full() || begin.elapsed() > LAST_COMMIT {
                break;
            }
            self.commit();
            if let Some(due) = self.writer.deadline() {
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(HEARTBEAT));
            }
        }
        if let Some(committed) = self.writer.close(Instant::now(), clock::now())? {
            (self.committed)(committed);
        }
        Ok(())
    }
}
