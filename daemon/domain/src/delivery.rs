//! What passes between the outbox and an uplink, and the machine that sends it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::item::{ItemKind, Priority};

/// A message that was sealed: its items are fixed, and it is sent with the same ones for ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMessage {
    /// Its number in the uplink's stream: dense, from 1.
    pub seq: u64,
    /// What it carries.
    pub kind: ItemKind,
    /// How it is ordered among the others: priority first, then `seq`.
    pub priority: Priority,
    /// The number of items.
    pub items: u32,
    /// The items as JSON objects, joined by commas.
    pub body: Vec<u8>,
}

/// What the other end said to a sealed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Index of the uplink in the configuration's order.
    pub uplink: usize,
    /// The message.
    pub seq: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// How a sealed message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Acknowledged with a success code: it can be deleted.
    Delivered,
    /// Refused, or set aside because it ended the connection too often: kept and shown.
    Rejected {
        /// Why, for a person.
        reason: String,
    },
}

/// How many messages, and how many of their bytes, may be on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Messages; at least one.
    pub messages: usize,
    /// Bytes of their bodies. A single message may exceed it, or a large one would wait for ever.
    pub bytes: usize,
}

/// What is to be done next, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand this message to the connection. It counts as submitted: its packet id is the next one that
    /// [`Delivery::numbered`] is told, after those of earlier submissions.
    Send(SealedMessage),
    /// Tell the store what became of a message.
    Settle {
        /// The message.
        seq: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// End the connection and everything that the client library keeps about it, then make a new one.
    Drop {
        /// Why, for a person.
        reason: String,
    },
}

/// Who ended a connection: only the other end's decision can be a message's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The other end closed it, or said something that makes no sense: a message may have provoked it.
    Peer,
    /// The line, a time-out, the other end's maintenance, or ourselves.
    Line,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages handed to a connection, every attempt counted.
    pub sent: u64,
    /// Bytes of their bodies.
    pub sent_bytes: u64,
    /// Messages acknowledged with a success code.
    pub delivered: u64,
    /// Messages refused or set aside.
    pub rejected: u64,
    /// Acknowledgements that belong to nothing in flight: duplicates, or the other end's mistakes.
    pub ignored_acks: u64,
}

/// A message that ended this many connections is set aside.
pub const ENDINGS_BEFORE_SET_ASIDE: u8 = 3;

/// Settled messages that are remembered until the store has deleted them, so that they are not fetched and sent
/// again meanwhile. One that is forgotten too early goes up twice, which the receiver notices by its `seq`.
const REMEMBERED: usize = 1024;

/// For how long they are remembered at most: a message that an operator puts back must be able to leave again.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Suspects remembered at once. Each lost connection makes one at most, and one that is evicted from the outbox is
/// never heard of again.
const SUSPECTS: usize = 16;

/// Stalls in a row before the connection is dropped.
const STALLS_BEFORE_DROP: u8 = 2;

/// What is in flight to one broker, over which connection, and what follows from what the broker says.
///
/// The outbox is the only queue. A message belongs to the present connection from its offer on, and when the
/// connection ends, everything unsettled is forgotten here: it is fetched and sent again with the same number and
/// items. That holds whether or not the broker kept its session, so that the machine does not ask; and since it is a
/// new publication to the broker, it never carries MQTT's DUP flag: the receiver tells by `(gateway, stream, seq)`.
///
/// **Order.** Messages leave in the order in which they were offered. The client library reports the packet ids of
/// submissions in their order, which is all that ties an acknowledgement to a message.
///
/// **Poison.** A message that the broker answers by closing the connection would block the outbox for ever. When the
/// other end closes the connection, the oldest message in flight becomes a suspect; a suspect travels alone, and only
/// after the broker has acknowledged something else on the same connection (the status message), so that neither
/// another message's fault nor a broker that works for nobody is put on it. The third ending sets it aside.
///
/// Times are on any one monotonic clock.
#[derive(Debug)]
pub struct Delivery {
    window: Window,
    stall_after: Duration,
    connection: Option<Connection>,
    suspects: VecDeque<Suspect>,
    settled: VecDeque<(Duration, u64)>,
    actions: VecDeque<Action>,
    totals: Totals,
}

#[derive(Debug)]
struct Connection {
    window: Window,
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
    /// `None` for what is not out of the outbox, such as the status.
    seq: Option<u64>,
    bytes: usize,
    pkid: Option<u16>,
}

#[derive(Debug)]
struct Suspect {
    seq: u64,
    endings: u8,
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
            connection: None,
            suspects: VecDeque::new(),
            settled: VecDeque::new(),
            actions: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// A connection stands. `receive_maximum` is what the broker takes at once, where it says so (MQTT 5).
    pub fn connected(&mut self, now: Duration, receive_maximum: Option<u16>) {
        let peer = receive_maximum.map_or(usize::MAX, |most| usize::from(most.max(1)));
        self.connection = Some(Connection {
            window: Window {
                messages: self.window.messages.min(peer),
                bytes: self.window.bytes,
            },
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
    pub fn disconnected(&mut self, now: Duration, by: EndedBy, reason: &str) {
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
            self.suspect(now, seq, connection.proved, reason);
        }
    }

    /// How much may be fetched and offered, or `None` for nothing now. Unless something `urgent` may wait (it was said
    /// that messages were sealed), nothing is asked for before half of the window is free: one fetch for many
    /// acknowledgements, not one for each.
    #[must_use]
    pub fn room(&self, urgent: bool) -> Option<Window> {
        let connection = self.connection.as_ref()?;
        // What is ready already waits for room, or for a suspect ahead of it.
        if connection.closing || !connection.ready.is_empty() || self.suspect_in_flight(connection)
        {
            return None;
        }
        let window = connection.window;
        let room = Window {
            messages: window.messages.saturating_sub(connection.messages),
            bytes: window.bytes.saturating_sub(connection.bytes),
        };
        let half = room.messages * 2 >= window.messages && room.bytes * 2 >= window.bytes;
        (room.messages > 0 && room.bytes > 0 && (urgent || half)).then_some(room)
    }

    /// The messages that must not be fetched: on their way, or settled and perhaps not yet deleted.
    #[must_use]
    pub fn exclude(&self) -> Vec<u64> {
        let connection = self.connection.iter();
        connection
            .flat_map(|connection| {
                let ready = connection.ready.iter().map(|message| message.seq);
                ready.chain(connection.flight.iter().filter_map(|sent| sent.seq))
            })
            .chain(self.settled.iter().map(|&(_, seq)| seq))
            .collect()
    }

    /// Offers a message for the present connection, after those offered before. `false` when it is not taken:
    /// there is no connection or no room, or it is on its way or settled already.
    pub fn offer(&mut self, message: SealedMessage) -> bool {
        if self.knows(message.seq) {
            return false;
        }
        let Some(connection) = &mut self.connection else {
            return false;
        };
        if connection.closing
            || connection.messages + connection.ready.len() >= connection.window.messages
        {
            return false;
        }
        connection.ready.push_back(message);
        true
    }

    /// Sets a message aside that need not be sent, since it is known that it would be refused. Does nothing for one
    /// that is on its way or settled already.
    pub fn refuse(&mut self, now: Duration, seq: u64, reason: String) {
        if !self.knows(seq) {
            self.settle(now, seq, Verdict::Rejected { reason });
        }
    }

    /// Something that is not out of the outbox was submitted at QoS 1. It takes part in the order of packet ids and
    /// proves the connection when it is acknowledged; it is not sent again.
    pub fn submitted_other(&mut self, now: Duration) {
        if let Some(connection) = &mut self.connection {
            connection.submit(now, None, 0);
        }
    }

    /// The next thing to do, until there is none.
    #[must_use]
    pub fn next_action(&mut self, now: Duration) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let connection = self.connection.as_ref()?;
        let next = connection.ready.front()?;
        let alone = self.is_suspect(next.seq);
        // The number of messages was bounded when they were offered.
        let fits = connection.messages == 0
            || connection.bytes.saturating_add(next.body.len()) <= connection.window.bytes;
        let clear = if alone {
            connection.messages == 0 && connection.proved
        } else {
            !self.suspect_in_flight(connection)
        };
        if connection.closing || !fits || !clear {
            return None;
        }

        let connection = self.connection.as_mut()?;
        let message = connection.ready.pop_front()?;
        connection.submit(now, Some(message.seq), message.body.len());
        self.totals.sent += 1;
        self.totals.sent_bytes += u64::try_from(message.body.len()).unwrap_or(u64::MAX);
        Some(Action::Send(message))
    }

    /// The client library gave a packet id to the oldest submission that had none.
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
            Some(_) | None => self.drop_connection(format!(
                "the client library used packet id {pkid} for something unknown"
            )),
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
        let verdict = match refusal {
            Some(reason) => Verdict::Rejected { reason },
            None => Verdict::Delivered,
        };
        self.settle(now, seq, verdict);
    }

    /// Time passes: to be called several times in every `stall_after`.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(at, _)) = self.settled.front()
            && now.saturating_sub(at) >= REMEMBERED_FOR
        {
            self.settled.pop_front();
        }
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

    fn settle(&mut self, now: Duration, seq: u64, verdict: Verdict) {
        match verdict {
            Verdict::Delivered => self.totals.delivered += 1,
            Verdict::Rejected { .. } => self.totals.rejected += 1,
        }
        self.suspects.retain(|suspect| suspect.seq != seq);
        if self.settled.len() >= REMEMBERED {
            self.settled.pop_front();
        }
        self.settled.push_back((now, seq));
        self.actions.push_back(Action::Settle { seq, verdict });
    }

    /// The oldest message in flight when the other end closed the connection. It is guilty only of connections on
    /// which the broker had acknowledged something before.
    fn suspect(&mut self, now: Duration, seq: u64, proved: bool, reason: &str) {
        let endings = match self.suspects.iter_mut().find(|known| known.seq == seq) {
            Some(known) => {
                // It was sent on a proved connection, or not at all.
                known.endings += 1;
                known.endings
            }
            None => {
                if self.suspects.len() >= SUSPECTS {
                    self.suspects.pop_front();
                }
                let endings = u8::from(proved);
                self.suspects.push_back(Suspect { seq, endings });
                endings
            }
        };
        if endings >= ENDINGS_BEFORE_SET_ASIDE {
            let reason = format!("ended the connection {endings} times, lastly: {reason}");
            self.settle(now, seq, Verdict::Rejected { reason });
        }
    }

    fn drop_connection(&mut self, reason: String) {
        if let Some(connection) = &mut self.connection
            && !connection.closing
        {
            connection.closing = true;
            self.actions.push_back(Action::Drop { reason });
        }
    }

    fn is_suspect(&self, seq: u64) -> bool {
        self.suspects.iter().any(|suspect| suspect.seq == seq)
    }

    fn suspect_in_flight(&self, connection: &Connection) -> bool {
        // A suspect travels alone, so that it is the oldest where it is in flight at all.
        !self.suspects.is_empty()
            && connection
                .flight
                .iter()
                .find_map(|sent| sent.seq)
                .is_some_and(|seq| self.is_suspect(seq))
    }

    fn knows(&self, seq: u64) -> bool {
        let here = |connection: &Connection| {
            connection.ready.iter().any(|message| message.seq == seq)
                || connection.flight.iter().any(|sent| sent.seq == Some(seq))
        };
        self.settled.iter().any(|&(_, settled)| settled == seq)
            || self.connection.as_ref().is_some_and(here)
    }
}

impl Connection {
    fn submit(&mut self, now: Duration, seq: Option<u64>, bytes: usize) {
        if self.flight.is_empty() {
            self.progress = now;
            self.stalls = 0;
        }
        self.flight.push_back(InFlight {
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

    /// Brokers acknowledge in order, so that it is the first as a rule.
    fn find(&self, pkid: u16) -> Option<usize> {
        self.flight.iter().position(|sent| sent.pkid == Some(pkid))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    fn message(seq: u64, bytes: usize) -> SealedMessage {
        SealedMessage {
            seq,
            kind: ItemKind::Summary,
            priority: Priority::Normal,
            items: 1,
            body: vec![b'x'; bytes],
        }
    }

    fn delivery(messages: usize, bytes: usize) -> Delivery {
        let mut delivery = Delivery::new(Window { messages, bytes }, STALL);
        delivery.connected(Duration::ZERO, None);
        delivery
    }

    fn actions(delivery: &mut Delivery, now: Duration) -> Vec<Action> {
        std::iter::from_fn(|| delivery.next_action(now)).collect()
    }

    /// The numbers of what is sent next; each gets the packet id of the same number.
    fn sent(delivery: &mut Delivery) -> Vec<u64> {
        let sends =
            actions(delivery, Duration::ZERO)
                .into_iter()
                .filter_map(|action| match action {
                    Action::Send(message) => Some(message.seq),
                    Action::Settle { .. } | Action::Drop { .. } => None,
                });
        let sends: Vec<u64> = sends.collect();
        for &seq in &sends {
            delivery.numbered(u16::try_from(seq).expect("small"));
        }
        sends
    }

    fn verdicts(delivery: &mut Delivery) -> Vec<(u64, Verdict)> {
        let settles =
            actions(delivery, Duration::ZERO)
                .into_iter()
                .filter_map(|action| match action {
                    Action::Settle { seq, verdict } => Some((seq, verdict)),
                    Action::Send(_) | Action::Drop { .. } => None,
                });
        settles.collect()
    }

    #[test]
    fn a_refusal_is_kept_and_a_second_acknowledgement_ignored() {
        let mut delivery = delivery(4, 100);
        assert!(delivery.offer(message(1, 1)) && delivery.offer(message(2, 1)));
        assert_eq!(sent(&mut delivery), [1, 2]);
        delivery.acknowledged(Duration::ZERO, 2, Some("quota".to_owned()));
        delivery.acknowledged(Duration::ZERO, 2, None);
        delivery.acknowledged(Duration::ZERO, 77, None);
        delivery.acknowledged(Duration::ZERO, 1, None);
        let reason = "quota".to_owned();
        assert_eq!(
            verdicts(&mut delivery),
            [(2, Verdict::Rejected { reason }), (1, Verdict::Delivered)]
        );
        assert_eq!(delivery.totals().ignored_acks, 2);
        assert!(
            !delivery.offer(message(1, 1)),
            "settled, and perhaps not yet deleted"
        );
    }

    #[test]
    fn the_window_counts_bytes_but_one_large_message_passes() {
        let mut delivery = delivery(4, 10);
        for seq in 1..=3 {
            assert!(delivery.offer(message(seq, if seq == 2 { 50 } else { 6 })));
        }
        assert_eq!(sent(&mut delivery), [1]);
        delivery.acknowledged(Duration::ZERO, 1, None);
        assert_eq!(sent(&mut delivery), [2]);
        delivery.acknowledged(Duration::ZERO, 2, None);
        assert_eq!(sent(&mut delivery), [3]);
    }

    #[test]
    fn a_broker_that_takes_less_is_sent_less() {
        let mut delivery = delivery(4, 100);
        delivery.disconnected(Duration::ZERO, EndedBy::Line, "");
        delivery.connected(Duration::ZERO, Some(2));
        let room = delivery.room(false).map(|room| room.messages);
        assert_eq!(room, Some(2));
    }

    /// Offers `seqs` on a new connection, has the status acknowledged if `proved`, and lets the connection end.
    fn connection(delivery: &mut Delivery, seqs: &[u64], proved: bool, by: EndedBy) -> Vec<u64> {
        let now = Duration::ZERO;
        delivery.connected(now, None);
        delivery.submitted_other(now);
        delivery.numbered(1000);
        if proved {
            delivery.acknowledged(now, 1000, None);
        }
        for &seq in seqs {
            assert!(delivery.offer(message(seq, 1)));
        }
        let sent = sent(delivery);
        delivery.disconnected(now, by, "closed");
        sent
    }

    #[test]
    fn the_third_connection_that_a_message_ends_sets_it_aside() {
        let mut delivery = Delivery::new(
            Window {
                messages: 4,
                bytes: 100,
            },
            STALL,
        );
        let end = |delivery: &mut Delivery| connection(delivery, &[7, 8], true, EndedBy::Peer);
        assert_eq!(end(&mut delivery), [7, 8]);
        assert_eq!(end(&mut delivery), [7], "a suspect travels alone");
        assert_eq!(verdicts(&mut delivery), []);
        assert_eq!(end(&mut delivery), [7]);
        let reason = "ended the connection 3 times, lastly: closed".to_owned();
        assert_eq!(verdicts(&mut delivery), [(7, Verdict::Rejected { reason })]);
    }

    #[test]
    fn neither_the_line_nor_a_broker_that_works_for_nobody_is_a_message_s_fault() {
        let check = |by, connections: &[(bool, &[u64])]| {
            let mut delivery = Delivery::new(
                Window {
                    messages: 4,
                    bytes: 100,
                },
                STALL,
            );
            for (proved, expect) in connections {
                assert_eq!(connection(&mut delivery, &[7, 8], *proved, by), *expect);
            }
            assert_eq!(verdicts(&mut delivery), []);
        };
        let together: (bool, &[u64]) = (true, &[7, 8]);
        check(EndedBy::Line, &[together; 4]);
        let unproved: (bool, &[u64]) = (false, &[]);
        let proved: (bool, &[u64]) = (true, &[7]);
        check(
            EndedBy::Peer,
            &[(false, &[7, 8]), unproved, unproved, proved, proved],
        );
    }

    #[test]
    fn a_connection_without_acknowledgements_is_dropped_after_the_second_stall() {
        let mut delivery = delivery(4, 100);
        let at = |seconds| Duration::from_secs(seconds);
        delivery.tick(at(500));
        assert_eq!(
            actions(&mut delivery, at(500)),
            [],
            "nothing waits for an acknowledgement"
        );
        assert!(delivery.offer(message(1, 1)) && delivery.offer(message(2, 1)));
        assert_eq!(actions(&mut delivery, at(500)).len(), 2);
        delivery.numbered(1);
        delivery.tick(at(559));
        delivery.acknowledged(at(559), 1, None);
        assert_eq!(actions(&mut delivery, at(559)).len(), 1);
        delivery.tick(at(618));
        assert_eq!(actions(&mut delivery, at(618)), []);
        delivery.tick(at(619));
        let dropped = actions(&mut delivery, at(619));
        assert!(matches!(dropped[..], [Action::Drop { .. }]), "{dropped:?}");
        delivery.tick(at(700));
        assert_eq!(actions(&mut delivery, at(700)), [], "said once");
    }

    #[test]
    fn nothing_new_is_sent_towards_the_end() {
        let mut delivery = delivery(4, 100);
        assert!(delivery.offer(message(1, 1)));
        assert_eq!(sent(&mut delivery), [1]);
        delivery.finish();
        assert!(!delivery.offer(message(2, 1)));
        assert_eq!(delivery.room(true), None);
        delivery.acknowledged(Duration::ZERO, 1, None);
        assert_eq!(verdicts(&mut delivery), [(1, Verdict::Delivered)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Connect(Option<u16>),
        Disconnect(EndedBy),
        /// A look at the outbox.
        Fetch,
        /// The client library numbers this many submissions.
        Number(usize),
        /// The broker answers the n-th of what it has.
        Answer(usize, bool),
        /// The broker answers what it never got.
        Stray(u16),
        /// The store deletes what it was told to.
        Commit,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let by = prop_oneof![Just(EndedBy::Peer), Just(EndedBy::Line)];
        prop_oneof![
            2 => proptest::option::of(0u16..6).prop_map(Step::Connect),
            1 => by.prop_map(Step::Disconnect),
            4 => Just(Step::Fetch),
            4 => (1usize..4).prop_map(Step::Number),
            6 => (0usize..6, proptest::bool::weighted(0.9)).prop_map(|(n, good)| Step::Answer(n, good)),
            1 => (1u16..12).prop_map(Step::Stray),
            2 => Just(Step::Commit),
            1 => (0u64..40).prop_map(Step::Pass),
        ]
    }

    /// What surrounds the machine: an outbox, a client library that numbers in order, a broker.
    struct World {
        delivery: Delivery,
        window: Window,
        now: Duration,
        outbox: BTreeMap<u64, usize>,
        settled: BTreeMap<u64, Verdict>,
        connected: bool,
        /// What the broker takes at once.
        most: usize,
        submitted: VecDeque<Option<u64>>,
        broker: BTreeMap<u16, Option<u64>>,
        /// What may be settled now, and how.
        expected: BTreeMap<u64, bool>,
        /// How many connections the other end closed while the message was in flight.
        endings: BTreeMap<u64, u8>,
    }

    impl World {
        fn new(sizes: &[usize], window: Window) -> Self {
            Self {
                delivery: Delivery::new(window, STALL),
                window,
                now: Duration::ZERO,
                outbox: (1..).zip(sizes.iter().copied()).collect(),
                settled: BTreeMap::new(),
                connected: false,
                most: usize::MAX,
                submitted: VecDeque::new(),
                broker: BTreeMap::new(),
                expected: BTreeMap::new(),
                endings: BTreeMap::new(),
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Connect(most) if !self.connected => {
                    self.connected = true;
                    self.most = most.map_or(usize::MAX, |most| usize::from(most.max(1)));
                    self.delivery.connected(self.now, most);
                    self.delivery.submitted_other(self.now);
                    self.submitted.push_back(None);
                }
                Step::Connect(_) => {}
                Step::Disconnect(by) => self.disconnect(by),
                Step::Fetch => self.fetch(false),
                Step::Number(count) => {
                    for _ in 0..count.min(self.submitted.len()) {
                        let free = (1..).find(|pkid| !self.broker.contains_key(pkid));
                        let pkid = free.expect("packet ids suffice");
                        let what = self.submitted.pop_front().expect("counted");
                        self.broker.insert(pkid, what);
                        self.delivery.numbered(pkid);
                    }
                }
                Step::Answer(nth, good) => {
                    let pkid = self.broker.keys().nth(nth).copied();
                    if let Some(pkid) = pkid {
                        if let Some(Some(seq)) = self.broker.remove(&pkid) {
                            self.expected.insert(seq, good);
                        }
                        let refusal = (!good).then(|| "refused".to_owned());
                        self.delivery.acknowledged(self.now, pkid, refusal);
                    }
                }
                Step::Stray(pkid) => {
                    if !self.broker.contains_key(&pkid) {
                        self.delivery.acknowledged(self.now, pkid, None);
                    }
                }
                Step::Commit => self.outbox.retain(|seq, _| !self.settled.contains_key(seq)),
                Step::Pass(seconds) => {
                    self.now += Duration::from_secs(seconds);
                    self.delivery.tick(self.now);
                }
            }
            self.act();
        }

        fn disconnect(&mut self, by: EndedBy) {
            if by == EndedBy::Peer && self.connected {
                let flying = self.broker.values().flatten();
                for &seq in flying {
                    *self.endings.entry(seq).or_default() += 1;
                }
            }
            self.connected = false;
            self.submitted.clear();
            self.broker.clear();
            self.delivery.disconnected(self.now, by, "closed");
        }

        fn fetch(&mut self, urgent: bool) {
            let Some(room) = self.delivery.room(urgent) else {
                return;
            };
            let exclude: BTreeSet<u64> = self.delivery.exclude().into_iter().collect();
            let mut bytes = 0;
            let fetched: Vec<_> = self
                .outbox
                .iter()
                .filter(|(seq, _)| !exclude.contains(seq))
                // More than was asked for: the machine has to see to its bounds.
                .take(room.messages + 2)
                .take_while(|&(_, &size)| {
                    bytes += size;
                    bytes == size || bytes <= room.bytes
                })
                .map(|(&seq, &size)| message(seq, size))
                .collect();
            for (nth, message) in fetched.into_iter().enumerate() {
                let taken = self.delivery.offer(message);
                assert_eq!(taken, nth < room.messages, "as much as there was room for");
            }
        }

        fn act(&mut self) {
            while let Some(action) = self.delivery.next_action(self.now) {
                match action {
                    Action::Send(message) => {
                        assert!(self.connected);
                        assert!(!self.settled.contains_key(&message.seq), "sent once more");
                        self.submitted.push_back(Some(message.seq));
                    }
                    Action::Settle { seq, verdict } => {
                        let answered = self.expected.remove(&seq);
                        match &verdict {
                            Verdict::Delivered => assert_eq!(answered, Some(true)),
                            Verdict::Rejected { .. } => assert!(
                                answered == Some(false)
                                    || self.endings.get(&seq) >= Some(&ENDINGS_BEFORE_SET_ASIDE),
                                "{seq} was set aside without a reason"
                            ),
                        }
                        let before = self.settled.insert(seq, verdict);
                        assert_eq!(before, None, "{seq} was settled twice");
                    }
                    Action::Drop { .. } => self.disconnect(EndedBy::Line),
                }
            }
            assert!(self.expected.is_empty(), "an answer settled nothing");
            let flying: Vec<u64> = self
                .submitted
                .iter()
                .chain(self.broker.values())
                .filter_map(|what| *what)
                .collect();
            let bytes: usize = flying.iter().map(|seq| self.outbox[seq]).sum();
            assert!(flying.len() <= self.window.messages.min(self.most));
            assert!(bytes <= self.window.bytes || flying.len() == 1);
            assert_eq!(self.delivery.in_flight(), flying.len());
        }
    }

    proptest! {
        #[test]
        fn every_message_is_settled_once_by_its_own_acknowledgement_and_none_is_lost(
            sizes in proptest::collection::vec(1usize..40, 0..24),
            window in (1usize..6, 1usize..60),
            steps in proptest::collection::vec(step(), 0..160),
        ) {
            let window = Window { messages: window.0, bytes: window.1 };
            let mut world = World::new(&sizes, window);
            for step in steps {
                world.step(step);
            }

            // From here on the broker behaves, and everything must get through.
            world.step(Step::Disconnect(EndedBy::Line));
            world.step(Step::Connect(None));
            for _ in 0..sizes.len() + 1 {
                world.step(Step::Fetch);
                world.step(Step::Number(usize::MAX));
                while !world.broker.is_empty() {
                    world.step(Step::Answer(0, true));
                    world.step(Step::Number(usize::MAX));
                }
            }
            let settled: Vec<u64> = world.settled.keys().copied().collect();
            let all: Vec<u64> = (1..).take(sizes.len()).collect();
            prop_assert_eq!(settled, all);
        }
    }
}
