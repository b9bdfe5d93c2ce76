//! The audit log of the running gateway: a thread that writes it, and the handle by which everybody else records.
//!
//! An entry is stamped where it is made and durable when [`Audit::record`] returns. Whoever must not wait uses
//! [`Audit::tell`]. Where the log cannot be written, entries wait in memory, what somebody asks for is refused
//! ([`Audit::require`]), and what the gateway does by itself goes on: daemon/decisions/2026-11-28-audit-log.md says why.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_audit::{Action, Actor, Begun, Entry, Key, Log, Outcome, Stamp, object};
use tidegate_domain::backoff::Backoff;
use tidegate_status::{Refused, view};

use crate::clock;
use crate::config::Config;
use crate::identity;

mod acts;
mod throttle;

pub(crate) use self::acts::{
    bus, command, epoch, fetched, first, generation, in_force, local, not_in_force, not_taken,
    operator, quarantine, refusals, started, stopped,
};
use self::throttle::Throttle;

/// Entries on their way to the thread. It takes them at once, unless the disk does not answer.
const QUEUE: usize = 256;
/// Entries that wait in memory while the log cannot be written; further ones are lost, and counted in it later.
const WAITING: usize = 1024;
/// How long whoever records an entry waits for it to become durable.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest wait before the log is tried again.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Bytes of a certificate's file that are looked at.
const CERTIFICATE_BYTES: u64 = 1024 * 1024;
/// How often held back entries, and the gateway's certificate, are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// An entry that was not recorded in time. It waits in memory, and is written when that is possible again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub(crate) struct Unrecorded(String);

/// An act of somebody, now.
pub(crate) fn entry(actor: Actor, action: Action) -> Entry {
    Entry::new(stamp(), actor, action)
}

fn stamp() -> Stamp {
    let now = clock::now();
    Stamp {
        time: now.wall / 1_000_000,
        monotonic: now.monotonic / 1_000_000,
        boot: clock::boot_id().into(),
        synced: now.synced,
    }
}

/// Where a gateway's log lies.
pub(crate) fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("audit")
}

/// Where its key pair lies.
pub(crate) fn identity_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

/// By which the rest of the gateway records.
#[derive(Clone)]
pub(crate) struct Audit {
    desk: SyncSender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    state_dir: PathBuf,
    gateway: String,
    status: Mutex<view::AuditStatus>,
    /// Entries that found no place on the way to the thread.
    dropped: Mutex<u64>,
    /// The digest of the gateway's certificate that is on record.
    certificate: Mutex<Option<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Message {
    entry: Entry,
    /// Told the entry's number, or why it is not durable. A channel of capacity 1 never blocks the thread.
    reply: Option<SyncSender<Result<u64, String>>>,
    /// The last one: the thread ends after it.
    last: bool,
}

impl Audit {
    /// Starts the thread. The log is opened, and the key made, as soon as the state directory can be used.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn start(state_dir: &Path, gateway: &str) -> anyhow::Result<Self> {
        let (desk, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            state_dir: state_dir.to_owned(),
            gateway: gateway.to_owned(),
            status: Mutex::default(),
            dropped: Mutex::default(),
            certificate: Mutex::default(),
            thread: Mutex::default(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            log: None,
            waiting: VecDeque::new(),
            throttle: Throttle::default(),
            lost: 0,
            backoff: Backoff::new(RETRY, RETRY_MAX),
            again: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&messages))?;
        *lock(&shared.thread) = Some(thread);
        Ok(Self { desk, shared })
    }

    /// Records an act, and waits until that is durable, for five seconds at most. Blocks: not for the data path's loops, nor
    /// for a task that others share a thread with, but for a step that comes once in a while.
    ///
    /// # Errors
    /// It is not durable yet.
    pub(crate) fn record(&self, entry: Entry) -> Result<u64, Unrecorded> {
        let (reply, done) = sync_channel(1);
        self.send(entry, Some(reply), false)?;
        match done.recv_timeout(PATIENCE) {
            Ok(written) => written.map_err(Unrecorded),
            Err(RecvTimeoutError::Timeout) => {
                Err(Unrecorded("the disk does not answer".to_owned()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Unrecorded("the gateway is ending".to_owned()))
            }
        }
    }

    /// Records an act without waiting for it.
    pub(crate) fn tell(&self, entry: Entry) {
        if let Err(error) = self.send(entry, None, false) {
            tracing::error!("{error}");
        }
    }

    /// Records what somebody asks for, before it is done. What cannot be recorded is not to be done.
    ///
    /// # Errors
    /// The refusal, for whoever asked.
    pub(crate) async fn require(&self, entry: Entry) -> Result<u64, Refused> {
        let (audit, asked) = (self.clone(), entry.clone());
        let recorded = tokio::task::spawn_blocking(move || audit.record(asked)).await;
        let why = match recorded {
            Ok(Ok(number)) => return Ok(number),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.tell(Entry {
            outcome: Outcome::Refused,
            reason: why.clone(),
            ..entry
        });
        Err(Refused::Unavailable(format!(
            "{why}; what cannot be recorded is not done: see `tidegate status`, and try again when the disk is well"
        )))
    }

    /// Says what came of what was asked for in entry `of`.
    pub(crate) fn answer<T>(&self, asked: Entry, of: u64, came: &Result<T, Refused>) {
        let (outcome, reason) = match came {
            Ok(_) => (Outcome::Done, String::new()),
            Err(Refused::Request(why) | Refused::Missing(why)) => (Outcome::Refused, why.clone()),
            Err(Refused::Unavailable(why)) => (Outcome::Failed, why.clone()),
        };
        self.tell(Entry {
            at: stamp(),
            outcome,
            reason,
            of: Some(of),
            ..asked
        });
    }

    /// Says that nobody waits any more for what was asked for.
    pub(crate) fn hung_up(&self, asked: Entry, of: Option<u64>, reason: &str) {
        self.tell(Entry {
            at: stamp(),
            outcome: Outcome::Failed,
            reason: reason.to_owned(),
            of,
            ..asked
        });
    }

    /// How the log is.
    pub(crate) fn status(&self) -> view::AuditStatus {
        let mut status = lock(&self.shared.status).clone();
        status.lost += *lock(&self.shared.dropped);
        status
    }

    /// Entries in front of a number, newest first, as JSON.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(crate) fn newest(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> std::io::Result<Vec<serde_json::Value>> {
        let records = tidegate_audit::newest(&dir(&self.shared.state_dir), before, most)?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// Whose state it is.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.shared.state_dir
    }

    /// Somebody is about to put this certificate in place, which is on record with their name.
    pub(crate) fn expect_certificate(&self, digest: String) {
        *lock(&self.shared.certificate) = Some(digest);
    }

    /// Goes where a configuration says that the gateway's state is. Another place, or name, is another log.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(crate) fn follow(&mut self, config: &Config) -> anyhow::Result<()> {
        let (state_dir, id) = (&config.gateway.state_dir, &config.gateway.id);
        if self.shared.state_dir == *state_dir && self.shared.gateway == *id {
            return Ok(());
        }
        let last = Entry {
            reason: format!("gateway {id} goes on in {}", state_dir.display()),
            ..entry(Actor::Daemon, Action::DaemonStopped)
        };
        self.close(last);
        *self = Self::start(state_dir, id)?;
        started(self);
        Ok(())
    }

    /// Records the last act, and ends the thread. Waits as [`Audit::record`] does.
    pub(crate) fn close(&self, last: Entry) {
        let (reply, done) = sync_channel(1);
        let sent = self.send(last, Some(reply), true);
        let told = match sent {
            Ok(()) => match done.recv_timeout(PATIENCE) {
                Ok(written) => written.map_err(Unrecorded).map(drop),
                Err(_) => Err(Unrecorded("the disk does not answer".to_owned())),
            },
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => {
                if let Some(thread) = lock(&self.shared.thread).take()
                    && thread.join().is_err()
                {
                    tracing::error!("the audit log's thread ended badly");
                }
            }
            Err(error) => tracing::error!("the end of the daemon is not recorded: {error}"),
        }
    }

    fn send(
        &self,
        entry: Entry,
        reply: Option<SyncSender<Result<u64, String>>>,
        last: bool,
    ) -> Result<(), Unrecorded> {
        let message = Message { entry, reply, last };
        self.desk.try_send(message).map_err(|error| {
            *lock(&self.shared.dropped) += 1;
            Unrecorded(match error {
                TrySendError::Full(_) => "the disk does not answer".to_owned(),
                TrySendError::Disconnected(_) => "the gateway is ending".to_owned(),
            })
        })
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    /// `None` until it could be opened, and after trouble.
    log: Option<Log>,
    waiting: VecDeque<Message>,
    throttle: Throttle,
    /// Entries that found no place among those that wait.
    lost: u64,
    backoff: Backoff,
    /// When the log is tried again that could not be written.
    again: Option<Instant>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        // The log is there before the first act.
        self.write();
        loop {
            let now = Instant::now();
            let until = self
                .again
                .map_or(LOOK, |again| again.saturating_duration_since(now));
            let mut last = false;
            match messages.recv_timeout(until.min(LOOK)) {
                Ok(message) => {
                    last |= self.take(message);
                    // What came meanwhile is written with it.
                    while let Ok(message) = messages.try_recv() {
                        last |= self.take(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => last = true,
            }
            let due = match last {
                true => self.throttle.rest(),
                false => self.throttle.due(Instant::now()),
            };
            for entry in due {
                self.wait(Message {
                    entry,
                    reply: None,
                    last: false,
                });
            }
            if !last {
                self.look_at_certificate();
            }
            self.write();
            if last {
                return;
            }
        }
    }

    /// True for the last one.
    fn take(&mut self, mut message: Message) -> bool {
        let last = message.last;
        if message.reply.is_none() {
            let Some(entry) = self.throttle.admit(message.entry, Instant::now()) else {
                return last;
            };
            message.entry = entry;
        }
        self.wait(message);
        last
    }

    fn wait(&mut self, message: Message) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(message);
            return;
        }
        self.lost += 1;
        if let Some(reply) = message.reply {
            tell(&reply, Err("too many entries wait for the disk".to_owned()));
        }
    }

    /// Records the gateway's certificate, at the start and when it has changed.
    fn look_at_certificate(&mut self) {
        let state_dir = &self.shared.state_dir;
        let file = std::fs::File::open(identity::files(state_dir).cert);
        let mut bytes = Vec::new();
        // What cannot be read now is looked at again soon; what is not there is no certificate.
        let digest =
            match file.and_then(|file| file.take(CERTIFICATE_BYTES).read_to_end(&mut bytes)) {
                Ok(_) => Some(identity::digest(&bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(_) => return,
            };
        if digest == *lock(&self.shared.certificate) {
            return;
        }
        let entry = acts::certificate(state_dir, digest.as_deref());
        lock(&self.shared.certificate).clone_from(&digest);
        self.wait(Message {
            entry,
            reply: None,
            last: false,
        });
    }

    /// Writes what waits, or says why it cannot be.
    fn write(&mut self) {
        let asked = self.waiting.iter().any(|message| message.reply.is_some());
        if !asked && self.again.is_some_and(|again| Instant::now() < again) {
            self.show(None);
            return;
        }
        match self.try_write() {
            Ok(()) => {
                if self.again.take().is_some() {
                    tracing::info!("the audit log can be written again, and has what waited");
                }
                self.backoff.reset();
                self.show(None);
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.again.is_none() {
                    tracing::error!(
                        "what happens is not recorded until the audit log can be written, and nothing is done meanwhile for \
                         whoever asks: {why}"
                    );
                }
                self.again = Some(Instant::now() + self.backoff.next(u64::MAX));
                // Where the directory has gone, it is looked for again from the beginning.
                if !dir(&self.shared.state_dir).is_dir() {
                    self.log = None;
                }
                for message in &mut self.waiting {
                    if let Some(reply) = message.reply.take() {
                        tell(&reply, Err(why.clone()));
                    }
                }
                self.show(Some(why));
            }
        }
    }

    fn try_write(&mut self) -> anyhow::Result<()> {
        self.open()?;
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let dropped = std::mem::take(&mut *lock(&self.shared.dropped));
        self.lost += dropped;
        if self.lost > 0 {
            log.append(&[Entry {
                object: object([("entries", json!(self.lost))]),
                outcome: Outcome::Failed,
                reason: "more happened than could wait while the log could not be written"
                    .to_owned(),
                ..entry(Actor::Daemon, Action::AuditLost)
            }])?;
            lock(&self.shared.status).lost += std::mem::take(&mut self.lost);
        }
        while !self.waiting.is_empty() {
            let entries: Vec<Entry> = self
                .waiting
                .iter()
                .map(|message| message.entry.clone())
                .collect();
            let appended = log.append(&entries)?;
            let numbers = appended.first..;
            for (message, number) in self.waiting.drain(..appended.count).zip(numbers) {
                if let Some(reply) = message.reply {
                    tell(&reply, Ok(number));
                }
            }
        }
        log.sign()?;
        Ok(())
    }

    fn open(&mut self) -> anyhow::Result<()> {
        if self.log.is_some() {
            return Ok(());
        }
        let state_dir = self.shared.state_dir.clone();
        let (key, is_new) = Key::load_or_make(&identity_dir(&state_dir))?;
        let fingerprint = key.public().fingerprint();
        let mut opened = Log::open(&dir(&state_dir), key, &self.shared.gateway, &stamp())?;
        if let Some(Begun::Anew { aside, why }) = &opened.begun {
            tracing::error!(
                "the audit log does not hold and was set aside as {}, for whoever finds out why: {why}",
                aside.display()
            );
            lock(&self.shared.status).broken = Some(why.clone());
        }
        if is_new {
            tracing::info!(fingerprint, "the gateway's key pair was made");
            opened.notes.push(Entry {
                object: object([("key", json!(fingerprint))]),
                ..entry(Actor::Daemon, Action::IdentityMade)
            });
        }
        for note in opened.notes.into_iter().rev() {
            self.waiting.push_front(Message {
                entry: note,
                reply: None,
                last: false,
            });
        }
        lock(&self.shared.status).key = fingerprint;
        self.log = Some(opened.log);
        Ok(())
    }

    fn show(&self, failed: Option<String>) {
        let mut status = lock(&self.shared.status);
        status.waiting = self.waiting.len() as u64;
        if let Some(log) = &self.log {
            let head = log.head();
            status.first = head.first;
            status.last = head.number;
            status.hash = head.hash();
            status.time = head.time;
            status.bytes = log.bytes();
        }
        match (failed, self.again) {
            (Some(why), _) => {
                status
                    .failing_since
                    .get_or_insert(clock::wall() / 1_000_000);
                status.error = Some(why);
            }
            (None, None) => {
                status.failing_since = None;
                status.error = None;
            }
            (None, Some(_)) => {}
        }
    }
}

fn tell(reply: &SyncSender<Result<u64, String>>, what: Result<u64, String>) {
    if reply.try_send(what).is_err() {
        tracing::debug!("whoever recorded an entry no longer waits for it");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
