use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::flight::UNDELETED;
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

fn alarm(seq: u64, bytes: usize) -> SealedMessage {
    SealedMessage {
        kind: ItemKind::Alarm,
        priority: Priority::Alarm,
        ..message(seq, bytes)
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
    let sends = actions(delivery, Duration::ZERO)
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
    let settles = actions(delivery, Duration::ZERO)
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
    delivery.disconnected(EndedBy::Line, "");
    delivery.connected(Duration::ZERO, Some(2));
    let room = delivery.room(false).map(|room| room.messages);
    assert_eq!(
        room,
        Some(10),
        "four times as many are ready as it takes at once"
    );
    for seq in 1..=10 {
        assert!(delivery.offer(message(seq, 1)));
    }
    assert!(!delivery.offer(message(11, 1)));
    assert_eq!(sent(&mut delivery), [1, 2]);
    delivery.acknowledged(Duration::ZERO, 1, None);
    assert_eq!(sent(&mut delivery), [3], "at once, without a look");
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
    delivery.disconnected(by, "closed");
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

/// What was settled is not sent again before the store has deleted it, however many wait for that; and when it does not keep
/// up, nothing more is sent, since it could not be recorded.
#[test]
fn a_store_that_does_not_keep_up_is_waited_for() {
    let mut delivery = delivery(64, 1 << 20);
    let mut up = Vec::new();
    while let Some(room) = delivery.room(true) {
        let exclude = delivery.exclude();
        let waiting = (1..).filter(|seq| !exclude.contains(*seq));
        for seq in waiting.take(room.messages) {
            delivery.offer(message(seq, 1));
        }
        while let Some(action) = delivery.next_action(Duration::ZERO) {
            if let Action::Send(message) = action {
                up.push(message.seq);
                delivery.numbered(1);
                delivery.acknowledged(Duration::ZERO, 1, None);
            }
        }
    }
    let once: Vec<u64> = (1..).take(up.len()).collect();
    assert_eq!(up, once);
    assert!(up.len() >= UNDELETED, "{}", up.len());
    assert_eq!(delivery.room_for_alarms(), None);
    for &seq in &up[..up.len() - UNDELETED + 1] {
        delivery.deleted(seq);
    }
    assert!(delivery.room(true).is_some() && delivery.room_for_alarms().is_some());
}

#[test]
fn an_alarm_passes_what_waits_for_room() {
    let mut delivery = delivery(4, 10);
    for seq in [1, 2, 3, 4].into_iter().chain(20..36) {
        assert!(delivery.offer(message(seq, 6)));
    }
    assert_eq!(sent(&mut delivery), [1]);
    assert_eq!(delivery.room(true), None, "others wait here already");
    let room = delivery.room_for_alarms();
    assert!(room.is_some_and(|room| room.messages > 0 && room.bytes > 0));
    assert!(!delivery.offer(message(9, 1)), "no room for others");
    assert!(delivery.offer(alarm(5, 8)) && delivery.offer(alarm(6, 8)));
    assert_eq!(
        sent(&mut delivery),
        [5, 6],
        "bytes in flight hold up no alarm"
    );
    assert!(delivery.offer(alarm(7, 8)));
    assert_eq!(sent(&mut delivery), [7]);
    assert!(delivery.offer(alarm(8, 8)));
    assert!(sent(&mut delivery).is_empty(), "the broker takes four");
    assert_eq!(delivery.room_for_alarms(), None);
    delivery.acknowledged(Duration::ZERO, 1, None);
    assert_eq!(sent(&mut delivery), [8]);
    for pkid in 5..=8 {
        delivery.acknowledged(Duration::ZERO, pkid, None);
    }
    assert_eq!(sent(&mut delivery), [2]);
}

#[test]
fn a_cap_holds_up_all_but_alarms() {
    let at = |ms| Duration::from_millis(ms);
    let mut delivery = delivery(64, 1 << 20).limited(Some(100), 10);
    delivery.connected(at(0), None);
    let room = delivery.room(true).map(|room| room.bytes);
    assert_eq!(room, Some(100), "no more is fetched than leaves at once");
    for seq in 1..=3 {
        assert!(delivery.offer(message(seq, 40)));
    }
    assert_eq!(actions(&mut delivery, at(0)).len(), 2);
    assert_eq!(delivery.wait(at(0)), Some(at(500)));
    assert!(delivery.offer(alarm(4, 40)));
    assert_eq!(delivery.wait(at(0)), None);
    assert_eq!(actions(&mut delivery, at(0)).len(), 1);
    assert_eq!(
        delivery.wait(at(0)),
        Some(at(1000)),
        "it counts all the same"
    );
    assert_eq!(actions(&mut delivery, at(999)), []);
    assert_eq!(actions(&mut delivery, at(1000)).len(), 1);
    assert_eq!(delivery.wait(at(1000)), None, "nothing waits");
}

#[test]
fn a_line_that_answers_late_is_given_less() {
    let at = |seconds| Duration::from_secs(seconds);
    let mut delivery = delivery(64, 64_000);
    let bytes = |delivery: &Delivery| delivery.room(true).map(|room| room.bytes);
    assert!(delivery.offer(message(1, 100)));
    assert_eq!(sent(&mut delivery), [1]);
    delivery.acknowledged(at(0), 1, None);
    let window = 32_768 + 100;
    assert_eq!(bytes(&delivery), Some(window + window / 2));
    assert!(delivery.offer(message(2, 100)) && delivery.offer(message(3, 100)));
    assert_eq!(sent(&mut delivery), [2, 3]);
    delivery.acknowledged(at(5), 2, None);
    delivery.acknowledged(at(6), 3, None);
    assert_eq!(
        bytes(&delivery),
        Some(16_434),
        "once for what was sent before"
    );
    assert_eq!(verdicts(&mut delivery).len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Connect(Option<u16>),
    Disconnect(EndedBy),
    /// A look at the outbox.
    Fetch,
    /// A look for alarms alone.
    FetchAlarms,
    /// This many submissions get their numbers.
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
        2 => Just(Step::FetchAlarms),
        4 => (1usize..4).prop_map(Step::Number),
        6 => (0usize..6, proptest::bool::weighted(0.9)).prop_map(|(n, good)| Step::Answer(n, good)),
        1 => (1u16..12).prop_map(Step::Stray),
        2 => Just(Step::Commit),
        1 => (0u64..40).prop_map(Step::Pass),
    ]
}

/// What surrounds the machine: an outbox, a connection that numbers in order, a broker.
struct World {
    delivery: Delivery,
    window: Window,
    now: Duration,
    outbox: BTreeMap<u64, SealedMessage>,
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
    fn new(messages: &[(usize, bool)], window: Window, rate: Option<u64>) -> Self {
        let sealed = |(seq, &(size, urgent))| match urgent {
            true => (seq, alarm(seq, size)),
            false => (seq, message(seq, size)),
        };
        Self {
            delivery: Delivery::new(window, STALL).limited(rate, 5),
            window,
            now: Duration::ZERO,
            outbox: (1..).zip(messages).map(sealed).collect(),
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
            Step::Fetch => self.fetch(self.delivery.room(false), false),
            Step::FetchAlarms => self.fetch(self.delivery.room_for_alarms(), true),
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
            Step::Commit => {
                let deleted = self
                    .outbox
                    .extract_if(.., |seq, _| self.settled.contains_key(seq));
                deleted.for_each(|(seq, _)| self.delivery.deleted(seq));
            }
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
        self.delivery.disconnected(by, "closed");
    }

    fn fetch(&mut self, room: Option<Window>, alarms_only: bool) {
        let Some(room) = room else {
            return;
        };
        let exclude = self.delivery.exclude();
        let urgent = |message: &SealedMessage| message.priority == Priority::Alarm;
        let (alarms, others): (Vec<_>, Vec<_>) = (self.outbox.values())
            .filter(|message| !exclude.contains(message.seq))
            .cloned()
            .partition(urgent);
        let mut bytes = 0;
        let fetched = alarms
            .into_iter()
            .chain(others.into_iter().filter(|_| !alarms_only))
            // More than was asked for: the machine has to see to its bounds.
            .take(room.messages + 2)
            .take_while(|message| {
                bytes += message.body.len();
                bytes == message.body.len() || bytes <= room.bytes
            });
        for (nth, message) in fetched.enumerate() {
            let alarm = urgent(&message);
            let taken = self.delivery.offer(message);
            if !alarm {
                assert_eq!(taken, nth < room.messages, "as much as there was room for");
            }
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
        assert!(flying.len() <= self.window.messages.min(self.most));
        let flying_bytes = flying.iter().map(|seq| &self.outbox[seq]);
        let others = flying_bytes.filter(|message| message.priority != Priority::Alarm);
        let (count, bytes) = others.fold((0, 0), |(count, bytes), message| {
            (count + 1, bytes + message.body.len())
        });
        assert!(bytes <= self.window.bytes || count == 1);
        assert_eq!(self.delivery.in_flight(), flying.len());
    }
}

proptest! {
    #[test]
    fn every_message_is_settled_once_by_its_own_acknowledgement_and_none_is_lost(
        messages in proptest::collection::vec((1usize..40, proptest::bool::weighted(0.2)), 0..24),
        window in (1usize..6, 1usize..60),
        rate in proptest::option::of(1u64..200),
        steps in proptest::collection::vec(step(), 0..160),
    ) {
        let window = Window { messages: window.0, bytes: window.1 };
        let mut world = World::new(&messages, window, rate);
        for step in steps {
            world.step(step);
        }

        // From here on the broker behaves, and everything must get through.
        world.step(Step::Disconnect(EndedBy::Line));
        world.step(Step::Connect(None));
        for _ in 0..2 * messages.len() + 2 {
            world.now += world.delivery.wait(world.now).unwrap_or_default();
            world.step(Step::Fetch);
            world.step(Step::Number(usize::MAX));
            while !world.broker.is_empty() {
                world.step(Step::Answer(0, true));
                world.step(Step::Number(usize::MAX));
            }
        }
        let settled: Vec<u64> = world.settled.keys().copied().collect();
        let all: Vec<u64> = (1..).take(messages.len()).collect();
        prop_assert_eq!(settled, all);
    }
}
