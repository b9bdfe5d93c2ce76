//! What is in flight, and what follows from what the broker says.

use std::collections::VecDeque;
use std::time::Duration;

use super::pace::Pace;
use super::suspects::Suspects;
use super::{Action, Bucket, EndedBy, Numbers, SealedMessage, Totals, Verdict, Window};
use crate::item::Priority;
use crate::limits;

/// Settled messages that the store has not deleted yet, beyond which nothing more is asked for. A store that commits
/// [`limits::SETTLED_TOGETHER`] of them at once is never waited for, unless it cannot keep up or cannot write at all: then what
/// would go up could not be recorded.
pub(super) const UNDELETED: usize = 4 * limits::SETTLED_TOGETHER;

/// Stalls in a row before the connection is dropped.
const STALLS_BEFORE_DROP: u8 = 2;

/// Windows of messages that may be ready beyond what is in flight on a fast line, as far as half of the window's bytes go: new
/// data then waits for as many round trips. With half of a window of 64 a look found 30 messages, and looking cost more than
/// sending.
const WINDOWS_READY: usize = 4;

/// Alarms that may be ready ahead of others that wait for room, so that they need not wait for those to leave.
const ALARMS_AHEAD: usize = 16;

/// What is in flight to one broker, over which connection, and what follows from what the broker says.
///
/// The outbox is the only queue. A message belongs to the present connection from its offer on, and when the
/// connection ends, everything unsettled is forgotten here: it is fetched and sent again with the same number and
/// items. That holds whether or not the broker kept its session, so that the machine does not ask; and since it is a
/// new publication to the broker, it never carries MQTT's DUP flag: the receiver tells by `(gateway, stream, seq)`.
///
/// **Order.** Messages leave in the order in which they were offered. Submissions get their
/// packet ids in their order, which is all that ties an acknowledgement to a message.
///
/// **Poison.** A message that the broker answers by closing the connection would block the outbox for ever. When the
/// other end closes the connection, the oldest message in flight becomes a suspect; a suspect travels alone, and only
/// after the broker has acknowledged something else on the same connection (the status message), so that neither
/// another message's fault nor a broker that works for nobody is put on it. The third ending sets it aside.
///
/// **Room.** The window bounds messages and bytes in flight. On a slow line the bytes are fewer than configured, so that
/// what is new does not wait behind minutes of what was sent before (`pace.rs`), and [`Delivery::limited`] caps them by the
/// second. Alarms pass the messages that wait for room, and neither bytes in flight nor the cap hold them up.
///
/// **Ahead.** On a fast line more is ready than the window, so that each acknowledgement is answered with the next message at
/// once, and one look at the outbox finds many. A broker that leaves Nagle's algorithm on, as mosquitto does unless told otherwise, holds acknowledgements back
/// until something comes from us: with nothing at hand, 64 messages took 85 ms (measured) instead of 3. On a slow or capped
/// line what is ready would only be in the way of what is new.
///
/// Times are on any one monotonic clock.
#[derive(Debug)]
pub struct Delivery {
    window: Window,
    stall_after: Duration,
    limit: Option<Limit>,
    connection: Option<Connection>,
    suspects: Suspects,
    /// Settled, and still in the outbox as far as is known: they must not be fetched and sent again.
    settled: Numbers,
    actions: VecDeque<Action>,
    totals: Totals,
}

/// A cap on bytes a second.
#[derive(Debug)]
struct Limit {
    bucket: Bucket,
    /// What a message costs beyond its body.
    overhead: usize,
}

#[derive(Debug)]
struct Connection {
    /// Messages in flight at most.
    most: usize,
    /// Their bytes at most.
    pace: Pace,
    /// Offered, not yet submitted.
    ready: VecDeque<SealedMessage>,
    /// Submitted, not yet acknowledged, oldest first. The last `unnumbered` of them have no packet id yet.
    flight: VecDeque<InFlight>,
    unnumbered: usize,
    /// Messages in `flight` and their bytes; what else is in it does not count.
    messages: usize,
    bytes: usize,
    /// Something was acknowledged on this connection.
    proved: bool,
    /// When something was acknowledged last, or when something began to wait for it.
    progress: Duration,
    stalls: u8,
    /// Nothing more is sent: the connection is to be dropped, or is coming to its end.
    closing: bool,
}

#[derive(Debug)]
struct InFlight {
    sent: Duration,
    /// `None` for what is not out of the outbox, such as the status.
    seq: Option<u64>,
    bytes: usize,
    pkid: Option<u16>,
}

impl Delivery {
    /// Nothing in flight, no connection. A connection on which nothing was acknowledged for twice `stall_after`,
    /// although something waits for it, is dropped.
    #[must_use]
    pub fn new(window: Window, stall_after: Duration) -> Self {
        Self {
            window: Window {
                messages: window.messages.max(1),
                bytes: window.bytes.max(1),
            },
            stall_after: stall_after.max(Duration::from_millis(1)),
            limit: None,
            connection: None,
            suspects: Suspects::default(),
            settled: Numbers::default(),
            actions: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// Caps the line at so many bytes a second, where each message costs `overhead` bytes beyond its body.
    #[must_use]
    pub fn limited(mut self, bytes_a_second: Option<u64>, overhead: usize) -> Self {
        self.limit = bytes_a_second.map(|rate| Limit {
            bucket: Bucket::new(rate),
            overhead,
        });
        self
    }

    /// A connection stands. `receive_maximum` is what the broker takes at once, where it says so (MQTT 5).
    pub fn connected(&mut self, now: Duration, receive_maximum: Option<u16>) {
        let peer = receive_maximum.map_or(usize::MAX, |most| usize::from(most.max(1)));
        self.connection = Some(Connection {
            most: self.window.messages.min(peer),
            pace: Pace::new(self.window.bytes),
            ready: VecDeque::new(),
            flight: VecDeque::new(),
            unnumbered: 0,
            messages: 0,
            bytes: 0,
            proved: false,
            progress: now,
            stalls: 0,
            closing: false,
        });
    }

    /// The connection ended: what was in flight over it counts as unsent.
    pub fn disconnected(&mut self, by: EndedBy, reason: &str) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let oldest = connection
            .flight
            .iter()
            .find_map(|sent| sent.pkid.and(sent.seq));
        if by == EndedBy::Peer
            && let Some(seq) = oldest
        {
            // It is guilty only of connections on which the broker had acknowledged something before.
            if let Some(endings) = self.suspects.ended(seq, connection.proved) {
                let reason = format!("ended the connection {endings} times, lastly: {reason}");
                self.settle(seq, Verdict::Rejected { reason });
            }
        }
    }

    /// How much may be fetched and offered, or `None` for nothing now. Unless something `urgent` may wait (it was said
    /// that messages were sealed), nothing is asked for before half of the window is free: one fetch for many
    /// acknowledgements, not one for each.
    #[must_use]
    pub fn room(&self, urgent: bool) -> Option<Window> {
        let connection = self.connection.as_ref()?;
        let ahead = self.ahead(connection);
        // What is ready already waits for room, or for a suspect ahead of it.
        if connection.closing
            || self.settled.len() >= UNDELETED
            || connection.ready.len() > ahead.messages / 2
            || self.suspect_in_flight(connection)
        {
            return None;
        }
        let ready: usize = connection
            .ready
            .iter()
            .map(|message| message.body.len())
            .sum();
        let bytes = connection.pace.bytes();
        let taken = connection.messages + connection.ready.len();
        let mut room = Window {
            messages: (connection.most + ahead.messages).saturating_sub(taken),
            bytes: (bytes + ahead.bytes).saturating_sub(connection.bytes + ready),
        };
        // With some ready, half of that is worth a look.
        let part = if ahead.messages > 0 { 4 } else { 2 };
        let half = room.messages * part >= connection.most && room.bytes * part >= bytes;
        if let Some(limit) = &self.limit {
            // What waits here for the cap would hold up what is sealed meanwhile.
            let burst = usize::try_from(limit.bucket.burst()).unwrap_or(usize::MAX);
            room.bytes = room.bytes.min(burst);
        }
        (room.messages > 0 && room.bytes > 0 && (urgent || half)).then_some(room)
    }

    /// What may be ready beyond the window.
    fn ahead(&self, connection: &Connection) -> Window {
        if self.limit.is_some() || connection.pace.is_slow() {
            return Window {
                messages: 0,
                bytes: 0,
            };
        }
        Window {
            messages: connection.most.saturating_mul(WINDOWS_READY),
            bytes: connection.pace.bytes() / 2,
        }
    }

    /// How many alarms may be fetched and offered where there is no [`Self::room`] for others.
    #[must_use]
    pub fn room_for_alarms(&self) -> Option<Window> {
        let connection = self.connection.as_ref()?;
        let ahead = connection.alarms_ready();
        if connection.closing
            || self.settled.len() >= UNDELETED
            || connection.messages >= connection.most
            || ahead >= ALARMS_AHEAD
            || self.suspect_in_flight(connection)
        {
            return None;
        }
        Some(Window {
            messages: ALARMS_AHEAD - ahead,
            bytes: self.window.bytes,
        })
    }

    /// The messages that must not be fetched: on their way, or settled and perhaps not yet deleted.
    #[must_use]
    pub fn exclude(&self) -> Numbers {
        let mut exclude = self.settled.clone();
        if let Some(connection) = &self.connection {
            exclude.extend(connection.flight.iter().filter_map(|sent| sent.seq));
            exclude.extend(connection.ready.iter().map(|message| message.seq));
        }
        exclude
    }

    /// Offers a message for the present connection, after those offered before; an alarm before all others that are no
    /// alarms. `false` when it is not taken: there is no connection or no room, or it is on its way or settled already.
    pub fn offer(&mut self, message: SealedMessage) -> bool {
        if self.knows(message.seq) {
            return false;
        }
        let most = self.connection.as_ref().map_or(0, |connection| {
            connection.most + self.ahead(connection).messages
        });
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let ahead = connection.alarms_ready();
        let room = if message.priority == Priority::Alarm {
            ahead < ALARMS_AHEAD.max(connection.most.saturating_sub(connection.messages))
        } else {
            connection.messages + connection.ready.len() < most
        };
        if connection.closing || !room {
            return false;
        }
        if message.priority == Priority::Alarm {
            connection.ready.insert(ahead, message);
        } else {
            connection.ready.push_back(message);
        }
        true
    }

    /// Sets a message aside that need not be sent, since it is known that it would be refused. Does nothing for one
    /// that is on its way or settled already.
    pub fn refuse(&mut self, seq: u64, reason: String) {
        if !self.knows(seq) {
            self.settle(seq, Verdict::Rejected { reason });
        }
    }

    /// Something that is not out of the outbox was submitted at QoS 1. It takes part in the order of packet ids and
    /// proves the connection when it is acknowledged; it is not sent again.
    pub fn submitted_other(&mut self, now: Duration) {
        if let Some(connection) = &mut self.connection {
            connection.submit(now, None, 0);
        }
    }

    /// So many bytes left that are not out of the outbox: they count towards the cap and do not wait for it.
    pub fn spent(&mut self, now: Duration, bytes: usize) {
        if let Some(limit) = &mut self.limit {
            limit.bucket.take(now, bytes.saturating_add(limit.overhead));
        }
    }

    /// How long until the cap lets the next message leave; `None` where it holds up nothing.
    #[must_use]
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        let limit = self.limit.as_mut()?;
        let next = self.connection.as_ref()?.ready.front()?;
        let wait = limit.wait(now, next);
        (!wait.is_zero()).then_some(wait)
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn next_action(&mut self, now: Duration) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let connection = self.connection.as_ref()?;
        let next = connection.ready.front()?;
        let alone = self.suspects.contains(next.seq);
        let bytes = connection.bytes.saturating_add(next.body.len());
        let fits = connection.messages == 0
            || connection.messages < connection.most
                && (bytes <= connection.pace.bytes() || next.priority == Priority::Alarm);
        let clear = if alone {
            connection.messages == 0 && connection.proved
        } else {
            !self.suspect_in_flight(connection)
        };
        if connection.closing || !fits || !clear {
            return None;
        }
        if let Some(limit) = &mut self.limit {
            if !limit.wait(now, next).is_zero() {
                return None;
            }
            limit
                .bucket
                .take(now, next.body.len().saturating_add(limit.overhead));
        }

        let connection = self.connection.as_mut()?;
        let message = connection.ready.pop_front()?;
        connection.submit(now, Some(message.seq), message.body.len());
        self.totals.sent += 1;
        self.totals.sent_bytes += u64::try_from(message.body.len()).unwrap_or(u64::MAX);
        Some(Action::Send(message))
    }

    /// The oldest submission without a packet id has one.
    pub fn numbered(&mut self, pkid: u16) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let first = connection.flight.len() - connection.unnumbered;
        let taken = connection.find(pkid).is_some();
        match connection.flight.get_mut(first) {
            Some(sent) if !taken => {
                sent.pkid = Some(pkid);
                connection.unnumbered -= 1;
            }
            // Acknowledgements can no longer be told apart. Sending again is safe, guessing is not.
            Some(_) | None => {
                self.drop_connection(format!("packet id {pkid} was given to something unknown"))
            }
        }
    }

    /// The broker acknowledged a packet id; `refusal` is its reason where the code says refused (MQTT 5).
    pub fn acknowledged(&mut self, now: Duration, pkid: u16, refusal: Option<String>) {
        let Some(connection) = &mut self.connection else {
            self.totals.ignored_acks += 1;
            return;
        };
        let Some(sent) = connection
            .find(pkid)
            .and_then(|at| connection.flight.remove(at))
        else {
            self.totals.ignored_acks += 1;
            return;
        };
        connection.proved = true;
        connection.progress = now;
        connection.stalls = 0;
        let Some(seq) = sent.seq else {
            return;
        };
        connection.messages -= 1;
        connection.bytes -= sent.bytes;
        connection.pace.acknowledged(now, sent.sent, sent.bytes);
        let verdict = match refusal {
            Some(reason) => Verdict::Rejected { reason },
            None => Verdict::Delivered,
        };
        self.settle(seq, verdict);
    }

    /// The store has deleted a settled message: it is not fetched any more, so that it need not be remembered.
    pub fn deleted(&mut self, seq: u64) {
        self.settled.remove(seq);
    }

    /// Time passes: to be called several times in every `stall_after`.
    pub fn tick(&mut self, now: Duration) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if connection.flight.is_empty() || connection.closing {
            return;
        }
        while connection.stalls < STALLS_BEFORE_DROP
            && now.saturating_sub(connection.progress) >= self.stall_after
        {
            connection.progress += self.stall_after;
            connection.stalls += 1;
        }
        if connection.stalls >= STALLS_BEFORE_DROP {
            let waiting = connection.flight.len();
            let silent = self.stall_after * u32::from(STALLS_BEFORE_DROP);
            self.drop_connection(format!(
                "{waiting} messages wait for an acknowledgement and none came for {silent:?}"
            ));
        }
    }

    /// No more messages are sent over the present connection; what is in flight may still be acknowledged.
    pub fn finish(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.closing = true;
            connection.ready.clear();
        }
    }

    /// Everything submitted on the present connection and not acknowledged, the status included.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.connection
            .as_ref()
            .map_or(0, |connection| connection.flight.len())
    }

    /// Messages of the outbox on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.connection
            .as_ref()
            .map_or(0, |connection| connection.messages)
    }

    /// What happened since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn settle(&mut self, seq: u64, verdict: Verdict) {
        match verdict {
            Verdict::Delivered => self.totals.delivered += 1,
            Verdict::Rejected { .. } => self.totals.rejected += 1,
        }
        self.suspects.clear(seq);
        self.settled.insert(seq);
        self.actions.push_back(Action::Settle { seq, verdict });
    }

    fn drop_connection(&mut self, reason: String) {
        if let Some(connection) = &mut self.connection
            && !connection.closing
        {
            connection.closing = true;
            self.actions.push_back(Action::Drop { reason });
        }
    }

    fn suspect_in_flight(&self, connection: &Connection) -> bool {
        // A suspect travels alone, so that it is the oldest where it is in flight at all.
        !self.suspects.is_empty()
            && connection
                .flight
                .iter()
                .find_map(|sent| sent.seq)
                .is_some_and(|seq| self.suspects.contains(seq))
    }

    fn knows(&self, seq: u64) -> bool {
        let here = |connection: &Connection| {
            connection.ready.iter().any(|message| message.seq == seq)
                || connection.flight.iter().any(|sent| sent.seq == Some(seq))
        };
        self.settled.contains(seq) || self.connection.as_ref().is_some_and(here)
    }
}

impl Limit {
    fn wait(&mut self, now: Duration, message: &SealedMessage) -> Duration {
        let cost = message.body.len().saturating_add(self.overhead);
        self.bucket
            .wait(now, cost, message.priority == Priority::Alarm)
    }
}

impl Connection {
    fn submit(&mut self, now: Duration, seq: Option<u64>, bytes: usize) {
        if self.flight.is_empty() {
            self.progress = now;
            self.stalls = 0;
        }
        self.flight.push_back(InFlight {
            sent: now,
            seq,
            bytes,
            pkid: None,
        });
        self.unnumbered += 1;
        if seq.is_some() {
            self.messages += 1;
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// How many of those that are ready are alarms; they are the first.
    fn alarms_ready(&self) -> usize {
        let alarm = |message: &&SealedMessage| message.priority == Priority::Alarm;
        self.ready.iter().take_while(alarm).count()
    }

    /// Brokers acknowledge in order, so that it is the first as a rule.
    fn find(&self, pkid: u16) -> Option<usize> {
        self.flight.iter().position(|sent| sent.pkid == Some(pkid))
    }
}
