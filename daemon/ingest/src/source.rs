//! What every kind of source has in common: messages out, acknowledgements in, a state to look at.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_domain::limits::{SOURCE_QUEUE_BYTES, SOURCE_QUEUE_MESSAGES};
use tidegate_domain::outcome::StateDelta;
use tidegate_domain::{AckToken, Arrival, Message};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::acks::Acks;

/// A message on its way to the pipeline.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Its place in the source's queue. Drop it when the message has left the queue for the pipeline: the source may
    /// take in as much again.
    pub permit: Permit,
    /// Why the bytes belong to no message, where they do not: they are set aside undecoded.
    pub unframed: Option<&'static str>,
    /// What became of the state of whatever read it; it is the truth once it is committed with the message.
    pub state: Vec<StateDelta>,
}

/// A share of a source's queue, returned on drop.
#[derive(Debug)]
pub struct Permit {
    _held: OwnedSemaphorePermit,
}

/// Why a source ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The receiving end of the intake is gone.
    #[error(
        "source `{source_name}` has nobody left to hand its messages to: the pipeline has ended"
    )]
    IntakeClosed {
        /// The source's name.
        source_name: String,
    },
}

/// Something that happened to a source and has to be recorded or shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEvent {
    /// Index of the source in the configuration's order.
    pub source: usize,
    /// When it happened.
    pub at: Arrival,
    /// What happened.
    pub what: Occurrence,
}

/// What happened to a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// The broker accepted the connection.
    Connected {
        /// The connection's number, from 1.
        connection: u64,
        /// Whether the broker still had our session.
        session_present: bool,
    },
    /// The connection ended, or could not be made.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The broker no longer had the session that was expected: what it held for us is lost, and nobody knows how
    /// much it was.
    SessionLost {
        /// The last sign of life of the session; `None` where that was before this process.
        from: Option<Arrival>,
        /// When the loss was noticed.
        to: Arrival,
    },
    /// The broker refused a subscription; it is asked again with back-off.
    SubscriptionRefused {
        /// The topic filter.
        filter: String,
        /// The SUBACK code.
        code: u8,
        /// What the code means, and what the broker said.
        reason: String,
    },
    /// The broker granted QoS 0 where QoS 1 was asked for: what it loses is lost.
    SubscriptionDowngraded {
        /// The topic filter.
        filter: String,
    },
    /// Messages that cannot wait where they come from (MQTT at QoS 0, a serial line) came faster than the pipeline took them
    /// and were dropped. They are not among what was handed over: count them as received and dropped.
    Overflow {
        /// [`reason::OVERFLOW`](tidegate_domain::outcome::reason) or `OVERRUN`.
        reason: &'static str,
        /// How many.
        messages: u64,
        /// Their payload bytes.
        bytes: u64,
        /// Arrival of the first.
        from: Arrival,
        /// Arrival of the last.
        to: Arrival,
    },
    /// The serial line is open, or the connection to a Modbus device.
    Opened {
        /// The device.
        device: String,
    },
    /// A Modbus slave does not answer, and is asked now and then alone.
    SlaveLost {
        /// Its address.
        unit: u8,
        /// What came last.
        reason: String,
    },
    /// It answers again.
    SlaveBack {
        /// Its address.
        unit: u8,
    },
    /// A Modbus slave has not what the register map says. These series are read no more.
    Refused {
        /// Its address.
        unit: u8,
        /// The series.
        series: Vec<Arc<str>>,
        /// What it said.
        reason: String,
    },
    /// What the driver of a serial line has counted since the last look: characters, not messages.
    LineErrors {
        /// Without a stop bit.
        frame: u32,
        /// With a wrong parity bit.
        parity: u32,
        /// Breaks.
        breaks: u32,
        /// Lost for want of room in the hardware or the kernel.
        overrun: u32,
    },
    /// A payload was too long to be held in memory: its beginning was handed over, just long enough to be set aside
    /// as oversize, and the rest was read and thrown away.
    Cut {
        /// The topic.
        topic: Arc<str>,
        /// Bytes of the payload as sent.
        length: u64,
        /// Bytes handed over.
        kept: u64,
    },
}

/// What a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Connecting, or waiting for the answer to its subscriptions.
    Connecting,
    /// Every subscription is granted.
    Subscribed,
    /// Connected, but some subscriptions were refused; see [`SourceStatus::refused`].
    Refused,
    /// Waiting before the next attempt to connect.
    BackingOff {
        /// Time left.
        retry_in: Duration,
        /// Attempts since the last connection that lasted.
        attempt: u32,
    },
    /// Takes nothing more in, still acknowledges.
    Stopping,
    /// Ended.
    Stopped,
}

/// A source as it is now. Counts are since the start of the process; the ledger has those that last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// What it is doing.
    pub state: SourceState,
    /// Messages that arrived, dropped ones included.
    pub received: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Those among them that the source marked as sent before.
    pub redelivered: u64,
    /// Those among them that were dropped by overflow.
    pub dropped: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Messages of the present connection that are not acknowledged yet.
    pub in_flight: u32,
    /// How many messages the source sends without an acknowledgement, as announced or configured.
    pub receive_window: u32,
    /// Acknowledgements that came for a connection that is gone; the broker sends those messages again.
    pub stale_acks: u64,
    /// Topic filters that the broker refuses at present, with the reason.
    pub refused: Vec<(String, String)>,
    /// Why the last connection ended or could not be made; `None` once all is well again.
    pub last_error: Option<String>,
    /// The slaves of a Modbus source.
    pub slaves: Vec<SlaveStatus>,
}

/// A Modbus slave as it is now. Counts are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlaveStatus {
    /// Its address.
    pub unit: u8,
    /// Whether it answers; `None` before it was asked first.
    pub answers: Option<bool>,
    /// Requests that were sent to it.
    pub requests: u64,
    /// Answers with data.
    pub answered: u64,
    /// Refusals and errors that it answered with.
    pub exceptions: u64,
    /// Requests without any answer in time.
    pub silent: u64,
    /// Requests whose answer was damaged or belonged to something else.
    pub garbled: u64,
    /// Polls that were left out because the one before was not done.
    pub missed: u64,
    /// Values of the register map that it refuses and that are not read.
    pub refused: u64,
    /// From request to answer, the last time.
    pub round_trip: Duration,
    /// The longest one.
    pub longest_round_trip: Duration,
    /// All together.
    pub round_trips: Duration,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// The rest of the daemon's side of a source.
#[derive(Clone)]
pub struct SourceHandle {
    shared: Arc<Shared>,
}

impl SourceHandle {
    /// Sends the acknowledgements on their way; call it once the messages are committed. Never waits, from any
    /// thread. Tokens of an earlier connection are ignored: their messages come again.
    pub fn acknowledge(&self, tokens: &[AckToken]) {
        if self.shared.acks().acknowledge(tokens) {
            self.shared.acks_due.notify_one();
        }
    }

    /// Takes nothing more in, and keeps the connection for the acknowledgements of what was taken. The source lets go
    /// of its intake, so that a receiver whose sources have all stopped sees the end once it has everything.
    pub fn stop_intake(&self) {
        self.shared.advance(Phase::Stopping);
    }

    /// Sends the acknowledgements that are due, disconnects and ends the source.
    pub fn finish(&self) {
        self.shared.advance(Phase::Finishing);
    }

    /// The source as it is now.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        self.shared.status()
    }
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    Stopping,
    Finishing,
}

/// What the source's future and its handles share.
pub(crate) struct Shared {
    phase: watch::Sender<Phase>,
    acks: Mutex<Acks>,
    pub(crate) acks_due: Notify,
    seen: Mutex<Seen>,
    receive_window: u32,
    received: AtomicU64,
    bytes: AtomicU64,
    redelivered: AtomicU64,
    dropped: AtomicU64,
}

struct Seen {
    slaves: Vec<SlaveStatus>,
    activity: Activity,
    reconnects: u64,
    refused: Vec<(String, String)>,
    last_error: Option<String>,
}

/// [`SourceState`] as it is kept: with an instant instead of the time left.
#[derive(Clone, Copy)]
pub(crate) enum Activity {
    Connecting,
    Serving,
    BackingOff { until: Instant, attempt: u32 },
    Stopped,
}

impl Shared {
    pub(crate) fn new(receive_window: u32) -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Running),
            acks: Mutex::new(Acks::new()),
            acks_due: Notify::new(),
            seen: Mutex::new(Seen {
                slaves: Vec::new(),
                activity: Activity::Connecting,
                reconnects: 0,
                refused: Vec::new(),
                last_error: None,
            }),
            receive_window,
            received: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    pub(crate) fn handle(self: &Arc<Self>) -> SourceHandle {
        SourceHandle {
            shared: Arc::clone(self),
        }
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let further = to > *phase;
            if further {
                *phase = to;
            }
            further
        });
    }

    pub(crate) fn acks(&self) -> MutexGuard<'_, Acks> {
        // The lock guards plain counters and lists that are whole after every statement.
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_activity(&self, activity: Activity) {
        self.seen().activity = activity;
    }

    pub(crate) fn connected(&self, first: bool) {
        let mut seen = self.seen();
        seen.reconnects += u64::from(!first);
        seen.refused.clear();
    }

    pub(crate) fn subscribed(&self, refused: Vec<(String, String)>) {
        let mut seen = self.seen();
        seen.activity = Activity::Serving;
        seen.last_error = None;
        seen.refused = refused;
    }

    pub(crate) fn set_slaves(&self, slaves: Vec<SlaveStatus>) {
        self.seen().slaves = slaves;
    }

    pub(crate) fn slave(&self, index: usize, change: impl FnOnce(&mut SlaveStatus)) {
        if let Some(slave) = self.seen().slaves.get_mut(index) {
            change(slave);
        }
    }

    pub(crate) fn failed(&self, error: String) {
        self.seen().last_error = Some(error);
    }

    pub(crate) fn count_received(&self, bytes: usize, redelivered: bool) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if redelivered {
            self.redelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn status(&self) -> SourceStatus {
        let (in_flight, stale_acks) = {
            let acks = self.acks();
            (acks.in_flight(), acks.stale())
        };
        let stopping = *self.phase.borrow() != Phase::Running;
        let seen = self.seen();
        let state = match seen.activity {
            Activity::Stopped => SourceState::Stopped,
            Activity::Connecting | Activity::Serving | Activity::BackingOff { .. } if stopping => {
                SourceState::Stopping
            }
            Activity::Connecting => SourceState::Connecting,
            Activity::Serving if seen.refused.is_empty() => SourceState::Subscribed,
            Activity::Serving => SourceState::Refused,
            Activity::BackingOff { until, attempt } => SourceState::BackingOff {
                retry_in: until.saturating_duration_since(Instant::now()),
                attempt,
            },
        };
        SourceStatus {
            state,
            received: self.received.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            redelivered: self.redelivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            reconnects: seen.reconnects,
            in_flight,
            receive_window: self.receive_window,
            stale_acks,
            refused: seen.refused.clone(),
            last_error: seen.last_error.clone(),
            slaves: seen.slaves.clone(),
        }
    }
}

/// The bound of a source's queue, in messages and in bytes at once; see [`Budget::units`].
pub(crate) struct Budget {
    free: Arc<Semaphore>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(SOURCE_QUEUE_BYTES)),
        }
    }

    /// The units of one message: its bytes, but never less than the queue's bytes shared among the queue's messages
    /// (so that both bounds hold at once), and never more than there are (so that a huge one can pass alone).
    pub(crate) fn units(bytes: usize) -> u32 {
        let units = bytes.clamp(
            SOURCE_QUEUE_BYTES / SOURCE_QUEUE_MESSAGES,
            SOURCE_QUEUE_BYTES,
        );
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    pub(crate) fn try_take(&self, units: u32) -> Option<Permit> {
        let held = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        Some(Permit { _held: held })
    }

    /// Waits for the units. Can be cancelled. `None` never happens: the semaphore is not closed.
    pub(crate) async fn take(&self, units: u32) -> Option<Permit> {
        let held = Arc::clone(&self.free)
            .acquire_many_owned(units)
            .await
            .ok()?;
        Some(Permit { _held: held })
    }
}

/// How many events of the informative kind wait for a slow reader; the state shows the same, so older ones can go.
const PENDING_EVENTS: usize = 64;

/// Events on their way out. Losses are merged, never dropped; the source never waits for their reader.
pub(crate) struct Reporter {
    source: usize,
    events: mpsc::Sender<SourceEvent>,
    lost: Option<SourceEvent>,
    overflow: Option<SourceEvent>,
    other: VecDeque<SourceEvent>,
}

impl Reporter {
    pub(crate) fn new(source: usize, events: mpsc::Sender<SourceEvent>) -> Self {
        Self {
            source,
            events,
            lost: None,
            overflow: None,
            other: VecDeque::new(),
        }
    }

    pub(crate) fn session_lost(&mut self, from: Option<Arrival>, at: Arrival) {
        let mut from = from;
        if let Some(Occurrence::SessionLost { from: first, .. }) =
            self.lost.take().map(|event| event.what)
        {
            from = first;
        }
        self.lost = Some(self.event(at, Occurrence::SessionLost { from, to: at }));
        self.flush();
    }

    /// Counts a dropped message; it is reported with the next [`Reporter::flush_overflow`].
    pub(crate) fn overflow(&mut self, reason: &'static str, size: usize, at: Arrival) {
        let (mut messages, mut bytes, mut from) = (1, size as u64, at);
        if let Some(Occurrence::Overflow {
            messages: m,
            bytes: b,
            from: f,
            ..
        }) = self.overflow.take().map(|event| event.what)
        {
            messages += m;
            bytes += b;
            from = f;
        }
        self.overflow = Some(self.event(
            at,
            Occurrence::Overflow {
                reason,
                messages,
                bytes,
                from,
                to: at,
            },
        ));
    }

    pub(crate) fn report(&mut self, at: Arrival, what: Occurrence) {
        if self.other.len() == PENDING_EVENTS
            && let Some(oldest) = self.other.pop_front()
        {
            tracing::warn!(event = ?oldest.what, "nobody reads the source's events; this one is not shown");
        }
        let event = self.event(at, what);
        self.other.push_back(event);
        self.flush();
    }

    /// Hands over what there is room for, but keeps counting overflow.
    pub(crate) fn flush(&mut self) {
        if let Some(event) = self.lost.take() {
            self.lost = self.send(event);
        }
        while let Some(event) = self.other.pop_front() {
            if let Some(event) = self.send(event) {
                self.other.push_front(event);
                return;
            }
        }
    }

    /// Hands over what there is room for, overflow too.
    pub(crate) fn flush_overflow(&mut self) {
        if let Some(event) = self.overflow.take() {
            self.overflow = self.send(event);
        }
        self.flush();
    }

    /// Hands over what there is room for and logs the rest, which nobody will read.
    pub(crate) fn end(mut self) {
        self.flush_overflow();
        for event in self.lost.iter().chain(&self.overflow).chain(&self.other) {
            tracing::error!(event = ?event, "the source ended before this could be recorded");
        }
    }

    fn event(&self, at: Arrival, what: Occurrence) -> SourceEvent {
        SourceEvent {
            source: self.source,
            at,
            what,
        }
    }

    /// The event back where there is no room. A reader that is gone wants none: the intake tells the source so.
    fn send(&self, event: SourceEvent) -> Option<SourceEvent> {
        match self.events.try_send(event) {
            Err(mpsc::error::TrySendError::Full(event)) => Some(event),
            Err(mpsc::error::TrySendError::Closed(_)) | Ok(()) => None,
        }
    }
}

/// Waits until the phase is another one.
pub(crate) async fn left(phase: &mut watch::Receiver<Phase>, from: Phase) {
    if phase.wait_for(|phase| *phase != from).await.is_err() {
        // The sender lives as long as the source.
        pending::<()>().await;
    }
}

/// Evenly distributed bits for jitter. Without a source of randomness the waits are the longest ones.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}
