//! An uplink: the real delivery machine, a line that a list of operations moves, and a cloud that remembers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_domain::backoff::Backoff;
use tidegate_domain::delivery::{
    Action, Delivery, ENDINGS_BEFORE_SET_ASIDE, EndedBy, SealedMessage, Settled, Verdict, Window,
};
use tidegate_domain::item::ItemKind;

use crate::model::{Violation, violated};

const STALL: Duration = Duration::from_secs(30);

/// How the delivery machine is driven.
#[derive(Debug)]
pub(crate) struct Line {
    uplink: usize,
    delivery: Delivery,
    backoff: Backoff,
    retry_at: Duration,
    connected: bool,
    /// Handed to the client library, no packet id yet. `None` is the status message.
    submitted: VecDeque<Option<SealedMessage>>,
    /// Out, and not there yet.
    travelling: VecDeque<(u16, Option<SealedMessage>)>,
    /// Arrived, to be acknowledged; with whether it is refused.
    arrived: BTreeMap<u16, (Option<u64>, bool)>,
    /// Packet ids in use.
    used: BTreeSet<u16>,
    pub(crate) cloud: Cloud,
    /// The proof of the proof: what is sent counts as delivered.
    pub(crate) settles_when_sent: bool,
}

/// The other end, for ever.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    /// What arrived, by number: kind and bytes.
    pub(crate) seen: BTreeMap<u64, (ItemKind, Vec<u8>)>,
    /// What was handed to a line, likewise.
    pub(crate) sent: BTreeMap<u64, (ItemKind, Vec<u8>)>,
    /// What was said to be refused or set aside.
    pub(crate) rejected: BTreeSet<u64>,
    /// How often a message arrived that had arrived before.
    pub(crate) duplicates: u64,
}

impl Cloud {
    /// It refuses some messages.
    fn refuses(seq: u64, kind: ItemKind) -> bool {
        seq % 61 == 11 && matches!(kind, ItemKind::Readings | ItemKind::Summary)
    }

    /// Some make it end the connection.
    fn chokes(seq: u64, kind: ItemKind) -> bool {
        seq % 67 == 13 && matches!(kind, ItemKind::Readings | ItemKind::Summary)
    }

    fn same(
        all: &mut BTreeMap<u64, (ItemKind, Vec<u8>)>,
        message: &SealedMessage,
    ) -> Result<bool, Violation> {
        let now = (message.kind, message.body.clone());
        match all.insert(message.seq, now.clone()) {
            Some(before) if before != now => {
                violated!("message {} has other items than before", message.seq)
            }
            before => Ok(before.is_some()),
        }
    }
}

impl Line {
    pub(crate) fn new(uplink: usize, cloud: Cloud, settles_when_sent: bool) -> Self {
        let window = Window {
            messages: 6,
            bytes: 24 * 1024,
        };
        Self {
            uplink,
            delivery: Delivery::new(window, STALL),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            retry_at: Duration::ZERO,
            connected: false,
            submitted: VecDeque::new(),
            travelling: VecDeque::new(),
            arrived: BTreeMap::new(),
            used: BTreeSet::new(),
            cloud,
            settles_when_sent,
        }
    }

    /// The process is gone: the machine knows nothing any more, the cloud everything.
    pub(crate) fn restarted(self) -> Self {
        Self::new(self.uplink, self.cloud, self.settles_when_sent)
    }

    pub(crate) fn connect(&mut self, now: Duration, most: u16) {
        if self.connected || now < self.retry_at {
            return;
        }
        self.connected = true;
        self.delivery.connected(now, Some(most));
        self.delivery.submitted_other(now);
        self.submitted.push_back(None);
    }

    pub(crate) fn cut(&mut self, now: Duration, by: EndedBy, random: u64) {
        if !self.connected {
            return;
        }
        self.connected = false;
        self.submitted.clear();
        self.travelling.clear();
        self.arrived.clear();
        self.used.clear();
        self.delivery.disconnected(by, "closed");
        let wait = self.backoff.next(random);
        assert!(wait <= Duration::from_secs(60), "the back-off has a cap");
        self.retry_at = now + wait;
    }

    /// Looks into the outbox: `look` gets what it must leave out, and how much there is room for.
    pub(crate) fn fetch(
        &mut self,
        urgent: bool,
        look: impl FnOnce(&[u64], Window) -> Vec<SealedMessage>,
    ) {
        if let Some(room) = self.delivery.room(urgent) {
            let exclude: Vec<u64> = self.delivery.exclude().iter().collect();
            for message in look(&exclude, room) {
                self.delivery.offer(message);
            }
        }
    }

    /// Does what the machine says; what it settled.
    pub(crate) fn act(&mut self, now: Duration, random: u64) -> Result<Vec<Settled>, Violation> {
        let mut settled = Vec::new();
        let uplink = self.uplink;
        while let Some(action) = self.delivery.next_action(now) {
            match action {
                Action::Send(message) => {
                    if !self.connected {
                        violated!("message {} is sent without a connection", message.seq);
                    }
                    Cloud::same(&mut self.cloud.sent, &message)?;
                    if self.settles_when_sent {
                        let (seq, verdict) = (message.seq, Verdict::Delivered);
                        settled.push(Settled {
                            uplink,
                            seq,
                            verdict,
                        });
                    }
                    self.submitted.push_back(Some(message));
                }
                Action::Settle { seq, verdict } => {
                    match &verdict {
                        Verdict::Delivered => {
                            if !self.cloud.seen.contains_key(&seq) {
                                violated!("message {seq} counts as delivered and never arrived");
                            }
                            self.backoff.reset();
                        }
                        Verdict::Rejected { .. } => {
                            self.cloud.rejected.insert(seq);
                        }
                    }
                    settled.push(Settled {
                        uplink,
                        seq,
                        verdict,
                    });
                }
                Action::Drop { .. } => self.cut(now, EndedBy::Line, random),
            }
        }
        Ok(settled)
    }

    pub(crate) fn carry(
        &mut self,
        now: Duration,
        packets: usize,
        arrives: bool,
        random: u64,
    ) -> Result<(), Violation> {
        for _ in 0..packets {
            if let Some(message) = self.submitted.pop_front() {
                let free = (1..).find(|id| !self.used.contains(id));
                let id = free.expect("packet ids suffice");
                self.used.insert(id);
                self.delivery.numbered(id);
                self.travelling.push_back((id, message));
            }
            if !arrives {
                continue;
            }
            let Some((id, message)) = self.travelling.pop_front() else {
                break;
            };
            let Some(message) = message else {
                self.arrived.insert(id, (None, false));
                continue;
            };
            if Cloud::chokes(message.seq, message.kind) {
                self.cut(now, EndedBy::Peer, random);
                break;
            }
            if Cloud::same(&mut self.cloud.seen, &message)? {
                self.cloud.duplicates += 1;
            }
            let refused = Cloud::refuses(message.seq, message.kind);
            self.arrived.insert(id, (Some(message.seq), refused));
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, now: Duration, nth: usize, twice: bool) {
        let Some(id) = self.arrived.keys().nth(nth).copied() else {
            return;
        };
        let refused = self.arrived.remove(&id).is_some_and(|(_, refused)| refused);
        self.used.remove(&id);
        for _ in 0..=usize::from(twice) {
            let refusal = refused.then(|| "refused".to_owned());
            self.delivery.acknowledged(now, id, refusal);
        }
    }

    /// The store says that it has deleted what was settled.
    pub(crate) fn deleted(&mut self, seqs: impl IntoIterator<Item = u64>) {
        seqs.into_iter().for_each(|seq| self.delivery.deleted(seq));
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        self.delivery.tick(now);
    }

    /// A good day: connected, everything out, everything acknowledged.
    pub(crate) fn flow(
        &mut self,
        now: Duration,
        random: u64,
        look: impl Fn(&[u64], Window) -> Vec<SealedMessage>,
    ) -> Result<Vec<Settled>, Violation> {
        self.retry_at = Duration::ZERO;
        self.connect(now, 20);
        let mut settled = Vec::new();
        for _ in 0..usize::from(ENDINGS_BEFORE_SET_ASIDE) {
            self.fetch(true, &look);
            settled.extend(self.act(now, random)?);
            self.carry(now, 64, true, random)?;
            while !self.arrived.is_empty() {
                self.answer(now, 0, false);
            }
            settled.extend(self.act(now, random)?);
        }
        Ok(settled)
    }
}
