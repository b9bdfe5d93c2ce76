//! The pure machines alone: windows, delivery, the receive window and the ledger's equations, in a gateway on paper whose
//! commits are assignments. No disk slows it down, so that it takes a million steps where the store takes thousands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::delivery::{EndedBy, SealedMessage, Settled, Verdict};
use tidegate_domain::item::{ItemKind, Priority};
use tidegate_domain::outcome::MessageCounts;
use tidegate_domain::receive_window::ReceiveWindow;
use tidegate_domain::{ClosedWindow, Ledger, Quality, Value, WindowKey, WindowSet};

use crate::line::{Cloud, Line};
use crate::model::{Sums, Violation, violated};
use crate::random::Random;
use crate::world::Mistake;

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_766_000_040 * SECOND;
const LENGTH: i64 = 20 * SECOND;
const LATENESS: i64 = 2 * SECOND;
/// Windows in one message at most.
const MESSAGE_ITEMS: usize = 4;
/// Messages in the outbox; what is above goes, oldest first, but not in flight.
const OUTBOX: usize = 12;
/// Messages that the source's broker sends without an acknowledgement. The gateway has to find out.
const RECEIVE_WINDOW: usize = 7;
const ROUNDS: usize = 2_000;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Publish {
        series: u8,
        age: i32,
    },
    /// The source sends what its window allows.
    Take,
    /// The group commits where its receive window is full.
    Look,
    /// Linger passes, and the group commits.
    Linger,
    Pass {
        milliseconds: u32,
    },
    SetClock {
        seconds: i32,
    },
    Connect {
        most: u16,
    },
    Cut {
        by_peer: bool,
    },
    Fetch {
        urgent: bool,
    },
    Carry {
        packets: u8,
        arrives: bool,
    },
    Answer {
        nth: u8,
        twice: bool,
    },
    Crash,
}

pub(crate) fn generate(seed: u64, length: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let bad_line = random.chance(1, 3);
    let clock_steps = random.chance(1, 3);
    let step = |_| step(&mut random, bad_line, clock_steps);
    (0..length).map(step).collect()
}

fn step(random: &mut Random, bad_line: bool, clock_steps: bool) -> Step {
    let small = |random: &mut Random, end: u64| u8::try_from(random.below(end)).expect("small");
    match random.below(100) {
        0..25 => Step::Publish {
            series: small(random, 3),
            age: [0, 0, 0, 0, 0, 1, 1, 2, 2, 5, 30, 600, -3, -60][random.index(14)],
        },
        25..40 => Step::Take,
        40..48 => Step::Look,
        48..56 => Step::Linger,
        56..66 => Step::Pass {
            milliseconds: [10, 500, 500, 2_000, 2_000, 20_000, 90_000][random.index(7)],
        },
        66 if clock_steps => Step::SetClock {
            seconds: [-3600, -30, 30, 3600][random.index(4)],
        },
        67 | 68 => Step::Cut {
            by_peer: random.chance(1, 2),
        },
        69..96 if bad_line && random.chance(4, 5) => Step::Cut { by_peer: false },
        69..75 => Step::Connect {
            most: [1, 2, 20][random.index(3)],
        },
        75..82 => Step::Fetch {
            urgent: random.chance(1, 2),
        },
        82..88 => Step::Carry {
            packets: small(random, 6) + 1,
            arrives: random.chance(4, 5),
        },
        88..97 => Step::Answer {
            nth: small(random, 4),
            twice: random.chance(1, 8),
        },
        97 => Step::Crash,
        _ => Step::Take,
    }
}

#[derive(Clone, Debug)]
struct Reading {
    series: Arc<str>,
    time: i64,
    value: f64,
}

/// What a database would hold.
#[derive(Debug, Default)]
struct Paper {
    clock: i64,
    closed_before: i64,
    group: u64,
    /// Open instances: when they were opened, by which group.
    open: BTreeMap<(u64, u64), (WindowKey, i64)>,
    opened: u64,
    /// Readings of open windows by group.
    history: VecDeque<(u64, Reading)>,
    outbox: BTreeMap<u64, SealedMessage>,
    last_seq: u64,
    ledger: Ledger,
    evicted: BTreeSet<u64>,
}

struct Gateway {
    mistake: Mistake,
    random: Random,
    names: Vec<Arc<str>>,
    elapsed: Duration,
    wall: i64,
    stepped: bool,
    paper: Paper,
    windows: WindowSet,
    receive_window: ReceiveWindow,
    /// Times in a row that linger ran out with a full receive window.
    lingered: u32,
    line: Line,
    handed_out: BTreeSet<u64>,
    waiting: VecDeque<Reading>,
    /// Taken, not acknowledged.
    in_flight: VecDeque<Reading>,
    /// The open group: how many of the above, and when the first and the last arrived.
    group: Vec<Reading>,
    arrivals: Option<(i64, i64)>,
    settled: Vec<Settled>,
    /// By series and begin: everything that was published.
    expected: BTreeMap<(Arc<str>, i64), Sums>,
    published: u32,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) steps: u64,
    pub(crate) readings: u64,
    pub(crate) windows: u64,
    pub(crate) supplements: u64,
    pub(crate) delivered: u64,
    pub(crate) evicted: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.readings += other.readings;
        self.windows += other.windows;
        self.supplements += other.supplements;
        self.delivered += other.delivered;
        self.evicted += other.evicted;
    }
}

pub(crate) fn run(seed: u64, mistake: Mistake, steps: &[Step]) -> Result<Totals, Violation> {
    let mut gateway = Gateway::new(seed, mistake);
    for (nth, step) in steps.iter().enumerate() {
        let done = gateway.step(*step);
        done.map_err(|violation| format!("after {nth} steps, {step:?}: {violation}"))?;
    }
    let totals = gateway.finish();
    let mut totals = totals.map_err(|violation| format!("at the end: {violation}"))?;
    totals.steps = steps.len() as u64;
    Ok(totals)
}

impl Gateway {
    fn new(seed: u64, mistake: Mistake) -> Self {
        let paper = Paper {
            clock: START,
            closed_before: i64::MIN,
            ..Paper::default()
        };
        Self {
            mistake,
            random: Random::new(seed.rotate_left(32)),
            names: vec!["a".into(), "b".into(), "c".into()],
            elapsed: Duration::ZERO,
            wall: START,
            stepped: false,
            windows: paper.windows().expect("nothing to restore"),
            paper,
            receive_window: ReceiveWindow::learning(20),
            lingered: 0,
            line: Line::new(0, Cloud::default(), mistake == Mistake::DeletesEarly),
            handed_out: BTreeSet::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            group: Vec::new(),
            arrivals: None,
            settled: Vec::new(),
            expected: BTreeMap::new(),
            published: 0,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Publish { series, age } => self.publish(series.into(), age),
            Step::Take => self.take(),
            Step::Look => {
                let in_flight = u32::try_from(self.in_flight.len()).expect("few");
                if !self.group.is_empty() && in_flight >= self.receive_window.commit_at() {
                    self.commit()?;
                }
            }
            Step::Linger => {
                self.pass(Duration::from_millis(100));
                if !self.group.is_empty() {
                    self.linger()?;
                }
                self.commit()?;
            }
            Step::Pass { milliseconds } => {
                self.pass(Duration::from_millis(milliseconds.into()));
                self.line.tick(self.elapsed);
            }
            Step::SetClock { seconds } => {
                self.wall += i64::from(seconds) * SECOND;
                self.stepped = true;
            }
            Step::Connect { most } => self.line.connect(self.elapsed, most),
            Step::Cut { by_peer } => {
                let by = if by_peer {
                    EndedBy::Peer
                } else {
                    EndedBy::Line
                };
                let random = self.random.next();
                self.line.cut(self.elapsed, by, random);
            }
            Step::Fetch { urgent } => {
                let (outbox, handed_out) = (&self.paper.outbox, &mut self.handed_out);
                self.line.fetch(urgent, |exclude, room| {
                    let found = look(outbox, exclude, room.messages);
                    handed_out.extend(found.iter().map(|message| message.seq));
                    found
                });
            }
            Step::Carry { packets, arrives } => {
                let random = self.random.next();
                self.line
                    .carry(self.elapsed, packets.into(), arrives, random)?;
            }
            Step::Answer { nth, twice } => self.line.answer(self.elapsed, nth.into(), twice),
            Step::Crash => self.crash()?,
        }
        let random = self.random.next();
        let settled = self.line.act(self.elapsed, random)?;
        self.settled.extend(settled);
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.wall += i64::try_from(time.as_nanos()).expect("short");
    }

    fn publish(&mut self, series: usize, age: i32) {
        self.published += 1;
        let reading = Reading {
            series: Arc::clone(&self.names[series]),
            time: self.wall - i64::from(age) * SECOND,
            value: f64::from(self.published),
        };
        let from = reading.time.div_euclid(LENGTH) * LENGTH;
        let sums = self.expected.entry((Arc::clone(&reading.series), from));
        sums.or_default()
            .add(1, reading.value, reading.value, reading.value);
        self.waiting.push_back(reading);
    }

    fn take(&mut self) {
        while self.in_flight.len() < RECEIVE_WINDOW
            && let Some(reading) = self.waiting.pop_front()
        {
            let (first, _) = self.arrivals.unwrap_or((self.wall, self.wall));
            self.arrivals = Some((first.min(self.wall), self.wall));
            self.group.push(reading.clone());
            // The mistake: it is acknowledged before it is committed.
            if self.mistake != Mistake::AcknowledgesEarly {
                self.in_flight.push_back(reading);
            }
        }
        let in_flight = u32::try_from(self.in_flight.len()).expect("few");
        self.receive_window.on_in_flight(in_flight);
    }

    /// Linger ran out: three times with a full window, and the window is known.
    fn linger(&mut self) -> Result<(), Violation> {
        let in_flight = u32::try_from(self.in_flight.len()).expect("few");
        let full = self.in_flight.len() == RECEIVE_WINDOW;
        self.lingered = if full { self.lingered + 1 } else { 0 };
        self.receive_window.on_linger_expired(in_flight);
        let commit_at = self.receive_window.commit_at();
        if commit_at == 0 {
            violated!("a receive window of nothing");
        }
        if self.lingered >= 3 && commit_at > in_flight {
            violated!(
                "the source stopped at {in_flight} {} times, and {commit_at} are awaited",
                self.lingered
            );
        }
        Ok(())
    }

    /// One transaction, as `store/src/commit.rs` does it.
    fn commit(&mut self) -> Result<(), Violation> {
        let paper = &mut self.paper;
        paper.group += 1;
        let (first, last) = self.arrivals.take().unwrap_or((self.wall, self.wall));
        let mut closed = Vec::new();
        let (observe_at, end_at) = if std::mem::take(&mut self.stepped) {
            closed.extend(self.windows.step(last));
            (last, last)
        } else {
            let observe_at = paper.clock.max(first);
            closed.extend(self.windows.close_due(observe_at));
            (observe_at, observe_at.max(last))
        };
        paper.close(&closed);
        let readings = std::mem::take(&mut self.group);
        let counts = paper.ledger.sources.entry("plant".to_owned()).or_default();
        counts.add(&MessageCounts {
            received: readings.len() as u64,
            decoded: readings.len() as u64,
            ..MessageCounts::default()
        });
        let counts = paper.ledger.pipelines.entry("fast".to_owned()).or_default();
        counts.selected += readings.len() as u64;
        counts.stored += readings.len() as u64;
        counts.held += readings.len() as u64;
        for reading in &readings {
            let (series, value) = (&reading.series, Value::Float(reading.value));
            let opened =
                self.windows
                    .observe(observe_at, series, reading.time, value, Quality::Good);
            if let Some(key) = opened {
                if paper.open.values().any(|(known, _)| *known == key) {
                    violated!("{key:?} is opened twice");
                }
                paper.opened += 1;
                let place = (paper.group, paper.opened);
                paper.open.insert(place, (key, observe_at));
            }
            paper.history.push_back((paper.group, reading.clone()));
        }
        let closed = self.windows.close_due(end_at);
        paper.close(&closed);
        paper.clock = end_at;
        paper.closed_before = self.windows.closed_before();
        let settled = std::mem::take(&mut self.settled);
        paper.settle(&settled, &mut self.handed_out);
        self.line.deleted(settled.iter().map(|settled| settled.seq));
        paper.evict(&self.handed_out);
        paper.forget();
        let mut rows: Vec<WindowKey> = paper.open.values().map(|(key, _)| key.clone()).collect();
        rows.retain(|key| !self.windows.is_open(key));
        if !rows.is_empty() || paper.open.len() != self.windows.len() {
            violated!("rows of windows that are not open: {rows:?}");
        }
        if let Some(imbalance) = paper.ledger.imbalances().first() {
            violated!("the ledger does not balance: {imbalance:?}");
        }
        self.in_flight.clear();
        Ok(())
    }

    /// Everything that is not on paper is lost; the source sends again what was not acknowledged.
    fn crash(&mut self) -> Result<(), Violation> {
        self.windows = self.paper.windows()?;
        self.receive_window = ReceiveWindow::learning(20);
        self.lingered = 0;
        let line = Line::new(0, Cloud::default(), false);
        self.line = std::mem::replace(&mut self.line, line).restarted();
        self.handed_out.clear();
        self.settled.clear();
        self.group.clear();
        self.arrivals = None;
        while let Some(reading) = self.in_flight.pop_back() {
            self.waiting.push_front(reading);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Totals, Violation> {
        for _ in 0..ROUNDS {
            self.pass(Duration::from_secs(30));
            self.take();
            self.commit()?;
            let outbox = &self.paper.outbox;
            let look = |exclude: &[u64], room: tidegate_domain::delivery::Window| {
                look(outbox, exclude, room.messages)
            };
            let random = self.random.next();
            let settled = self.line.flow(self.elapsed, random, look)?;
            self.settled.extend(settled);
            if self.waiting.is_empty() && self.windows.is_empty() && self.paper.outbox.is_empty() {
                return self.check();
            }
        }
        violated!(
            "it does not come to rest: {} messages wait",
            self.paper.outbox.len()
        )
    }

    fn check(&mut self) -> Result<Totals, Violation> {
        self.commit()?;
        let cloud = &self.line.cloud;
        let mut totals = Totals {
            readings: self.published.into(),
            delivered: cloud.seen.len() as u64,
            evicted: self.paper.evicted.len() as u64,
            ..Totals::default()
        };
        let mut found: BTreeMap<(Arc<str>, i64), Sums> = BTreeMap::new();
        let mut lacking = BTreeSet::new();
        for seq in 1..=self.paper.last_seq {
            let message = cloud.seen.get(&seq);
            let refused = cloud
                .sent
                .get(&seq)
                .filter(|_| cloud.rejected.contains(&seq));
            match message.or(refused) {
                Some((_, body)) => self.add(body, &mut found, &mut totals),
                None if self.paper.evicted.contains(&seq) => drop(lacking.insert(seq)),
                None => violated!("message {seq} is neither delivered nor refused nor given up"),
            }
        }
        let missing = |(window, sums): (&(Arc<str>, i64), &Sums)| found.get(window) != Some(sums);
        let wrong: Vec<_> = self
            .expected
            .iter()
            .filter(|entry| missing(*entry))
            .collect();
        if wrong.len() > lacking.len() * MESSAGE_ITEMS {
            violated!(
                "{} windows differ from their readings: {:?}",
                wrong.len(),
                wrong[0]
            );
        }
        let more = |(window, sums): &(&(Arc<str>, i64), &Sums)| {
            found
                .get(*window)
                .is_some_and(|found| found.count > sums.count)
        };
        if let Some(window) = wrong.iter().find(|entry| more(entry)) {
            violated!("readings of {window:?} are counted twice");
        }
        let readings = self.paper.ledger.sources["plant"].received;
        if readings != u64::from(self.published) {
            violated!(
                "{readings} readings are counted, and {} were sent",
                self.published
            );
        }
        Ok(totals)
    }

    fn add(&self, body: &[u8], found: &mut BTreeMap<(Arc<str>, i64), Sums>, totals: &mut Totals) {
        for item in std::str::from_utf8(body).expect("text").split(';') {
            let mut parts = item.split(',');
            let mut next = || parts.next().expect("six parts");
            let (series, from, late) = (next(), next(), next());
            let (count, mean) = (next(), next());
            let (min, max) = (next(), next());
            let number = |text: &str| text.parse::<f64>().expect("a number");
            let count: u64 = count.parse().expect("a count");
            let times = f64::from(u32::try_from(count).expect("few"));
            let sum = (number(mean) * times).round();
            let window = (Arc::from(series), from.parse().expect("a time"));
            found
                .entry(window)
                .or_default()
                .add(count, sum, number(min), number(max));
            totals.windows += 1;
            totals.supplements += u64::from(late == "true");
        }
    }
}

/// The most urgent that wait; on paper all are alike.
fn look(outbox: &BTreeMap<u64, SealedMessage>, exclude: &[u64], most: usize) -> Vec<SealedMessage> {
    let wanted = outbox
        .values()
        .filter(|message| !exclude.contains(&message.seq));
    wanted.take(most).cloned().collect()
}

impl Paper {
    /// What a start makes of it, as `store/src/windows.rs` does it.
    fn windows(&self) -> Result<WindowSet, Violation> {
        let mut windows = WindowSet::new(LENGTH, LATENESS);
        windows.resume(self.clock, self.closed_before);
        for (key, opened) in self.open.values() {
            windows.restore(key, *opened);
        }
        for (group, reading) in &self.history {
            for ((first, _), (key, _)) in &self.open {
                let within = (key.from..key.to).contains(&reading.time);
                if group >= first && within && key.series == reading.series {
                    let value = Value::Float(reading.value);
                    if !windows.observe_into(key, reading.time, value, Quality::Good) {
                        violated!("{key:?} was restored and is not open");
                    }
                }
            }
        }
        Ok(windows)
    }

    /// Closed windows become items, and items messages.
    fn close(&mut self, closed: &[ClosedWindow]) {
        for windows in closed.chunks(MESSAGE_ITEMS) {
            let items: Vec<String> = windows.iter().map(item).collect();
            self.last_seq += 1;
            let message = SealedMessage {
                seq: self.last_seq,
                kind: ItemKind::Summary,
                priority: Priority::Normal,
                items: u32::try_from(items.len()).expect("few"),
                body: items.join(";").into_bytes(),
            };
            let counts = self.ledger.uplinks.entry("cloud".to_owned()).or_default();
            counts.queued += u64::from(message.items);
            counts.waiting += u64::from(message.items);
            self.outbox.insert(message.seq, message);
        }
        let gone = |key: &WindowKey| closed.iter().any(|closed| closed.key == *key);
        self.open.retain(|_, (key, _)| !gone(key));
    }

    fn settle(&mut self, settled: &[Settled], handed_out: &mut BTreeSet<u64>) {
        for settled in settled {
            handed_out.remove(&settled.seq);
            let Some(message) = self.outbox.remove(&settled.seq) else {
                continue;
            };
            let counts = self.ledger.uplinks.entry("cloud".to_owned()).or_default();
            counts.waiting -= u64::from(message.items);
            match settled.verdict {
                Verdict::Delivered => counts.delivered += u64::from(message.items),
                Verdict::Rejected { .. } => counts.rejected += u64::from(message.items),
            }
        }
    }

    fn evict(&mut self, in_flight: &BTreeSet<u64>) {
        while self.outbox.len() > OUTBOX {
            let Some(seq) = self
                .outbox
                .keys()
                .find(|seq| !in_flight.contains(seq))
                .copied()
            else {
                return;
            };
            let message = self.outbox.remove(&seq).expect("it is there");
            let counts = self.ledger.uplinks.entry("cloud".to_owned()).or_default();
            counts.waiting -= u64::from(message.items);
            counts.evicted += u64::from(message.items);
            self.evicted.insert(seq);
        }
    }

    /// Readings that no open window needs.
    fn forget(&mut self) {
        let first = self
            .open
            .keys()
            .next()
            .map_or(u64::MAX, |(group, _)| *group);
        while self
            .history
            .front()
            .is_some_and(|(group, _)| *group < first)
        {
            self.history.pop_front();
        }
    }
}

fn item(closed: &ClosedWindow) -> String {
    let (key, stats) = (&closed.key, &closed.stats);
    let number = |number: Option<f64>| number.expect("it holds numbers");
    format!(
        "{},{},{},{},{},{},{}",
        key.series,
        key.from,
        key.late,
        stats.count,
        number(stats.mean),
        number(stats.min),
        number(stats.max)
    )
}
