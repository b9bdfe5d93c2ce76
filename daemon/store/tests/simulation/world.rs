//! One gateway's life: sources, the real store on a simulated disk, uplinks; and after each end the question whether
//! what it promised is true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_domain::alarm;
use tidegate_domain::delivery::{EndedBy, SealedMessage, Window};
use tidegate_domain::item::{ItemKind, Priority};
use tidegate_domain::outcome::{
    AlarmChange, AlarmState, MessageCounts, PipelineOutcome, QuarantinedMessage,
    QuarantinedReadings, Severity, StateChange, StateDelta, reason,
};
use tidegate_domain::{AckToken, Arrival, Batch, BatchOutcome, Quality, Value};
use tidegate_store::{
    Committed, Event, Full, Input, Measures, PipelineConfig, Reader, Route, Send, SilenceConfig,
    SourceGap, Store, StoreConfig, UplinkConfig, Writer, verify,
};

use crate::disk::{Ending, Failing};
use crate::line::{Cloud, Line};
use crate::model::{Model, SentAlarm, SentReading, Sums, Violation, WindowName, violated};
use crate::op::{Op, SOURCES, Setting, Shape, UPLINKS};
use crate::random::Random;
use crate::vfs::{self, Drive, locked};

const SECOND: i64 = 1_000_000_000;
/// Where the right time begins: a whole minute of 2025.
const START: i64 = 1_766_000_040 * SECOND;
/// The store lies this far behind on its first instant, which it takes from the machine.
const AHEAD: Duration = Duration::from_secs(30 * 86_400);
/// Messages that a source's broker sends without an acknowledgement.
const RECEIVE_WINDOW: usize = 20;
/// Rounds of a good day after which everything must be through.
const ROUNDS: usize = 4_000;

/// A mistake that is built in, for the proof of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// The disk says that it synced and did not: what `synchronous=NORMAL` comes to.
    NoSync,
    /// Sources are told before the commit.
    AcknowledgesEarly,
    /// Outbox messages are deleted when they are sent.
    DeletesEarly,
}

#[derive(Clone, Debug)]
struct Message {
    id: u64,
    /// When its readings were taken.
    time: i64,
    readings: u8,
    shape: Shape,
    redelivered: bool,
}

/// A source and its broker.
#[derive(Debug, Default)]
struct Source {
    connection: u64,
    next_token: u64,
    waiting: VecDeque<Message>,
    /// Sent, not acknowledged.
    in_flight: VecDeque<(AckToken, Message)>,
}

/// A batch that went to the writer and is not known to be committed.
#[derive(Debug)]
struct Pending {
    outcome: BatchOutcome,
    messages: Vec<u64>,
}

pub(crate) struct World {
    directory: TempDir,
    drive: Arc<Mutex<Drive>>,
    config: StoreConfig,
    setting: Setting,
    mistake: Mistake,
    random: Random,
    origin: Instant,
    /// Since `origin`: never runs backwards.
    elapsed: Duration,
    booted: i64,
    right_time: i64,
    /// What the machine's clock is off by.
    off: i64,
    synced: bool,
    writer: Option<Writer>,
    reader: Option<Reader>,
    sources: Vec<Source>,
    lines: Vec<Line>,
    next_message: u64,
    pending: VecDeque<Pending>,
    /// So many of them may be in the failed group.
    attempted: usize,
    /// The disk failed since the last commit that went well.
    trouble: bool,
    model: Model,
    acknowledged: BTreeSet<u64>,
    events: u64,
    streams: Vec<String>,
    pub(crate) counts: Counts,
}

/// What a run came to, to see that it saw something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) commits: u64,
    pub(crate) failed_commits: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) committed: u64,
    pub(crate) committed_again: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) rejected: u64,
    pub(crate) evicted: u64,
    pub(crate) gaps: u64,
    pub(crate) alarms: u64,
    pub(crate) summaries: u64,
    pub(crate) supplements: u64,
    pub(crate) stepped: u64,
    pub(crate) incomplete: u64,
    pub(crate) syncs: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.commits += other.commits;
        self.failed_commits += other.failed_commits;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.committed += other.committed;
        self.committed_again += other.committed_again;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.evicted += other.evicted;
        self.gaps += other.gaps;
        self.alarms += other.alarms;
        self.summaries += other.summaries;
        self.supplements += other.supplements;
        self.stepped += other.stepped;
        self.incomplete += other.incomplete;
        self.syncs += other.syncs;
    }
}

fn config(path: PathBuf, setting: Setting) -> StoreConfig {
    let route = |uplink, send, priority| Route {
        uplink,
        send,
        priority,
    };
    let pipeline = |name: &str, window, to| PipelineConfig {
        name: name.to_owned(),
        window,
        keep_input: None,
        to,
    };
    StoreConfig {
        boot: "boot".to_owned(),
        path,
        max_bytes: if setting.tight { 1 << 20 } else { 64 << 20 },
        full: Full::Evict,
        max_age: Duration::from_secs(if setting.short_lived {
            1800
        } else {
            30 * 86_400
        }),
        linger: Duration::from_millis(100),
        lateness: Duration::from_secs(2),
        sources: vec!["plant".to_owned(), "yard".to_owned()],
        pipelines: vec![
            pipeline(
                "fast",
                Some(Duration::from_secs(20)),
                vec![route(0, Send::Both, Priority::Normal)],
            ),
            pipeline(
                "slow",
                Some(Duration::from_secs(300)),
                vec![
                    route(0, Send::Summary, Priority::High),
                    route(1, Send::Summary, Priority::Low),
                ],
            ),
            pipeline("raw", None, vec![route(1, Send::Readings, Priority::Low)]),
        ],
        uplinks: vec![
            UplinkConfig {
                max_message_bytes: 2048,
                max_message_items: 8,
                linger: Duration::ZERO,
                ..UplinkConfig::new("cloud")
            },
            UplinkConfig {
                max_message_bytes: 8192,
                max_message_items: 64,
                ..UplinkConfig::new("backup")
            },
        ],
        identity_windows: Vec::new(),
        // No flood: every change is told.
        alarm_limits: alarm::Limits {
            alarm: 1_000_000,
            filter: 1_000_000,
        },
        silence: SilenceConfig::default(),
        measures: Measures::new(vec![("*/0".to_owned(), "°C".to_owned())]).expect("a glob"),
    }
}

/// Runs a list of operations and then a good day; what it came to, and a digest of everything that went up.
pub(crate) fn run(
    seed: u64,
    setting: Setting,
    mistake: Mistake,
    ops: &[Op],
) -> Result<Counts, Violation> {
    let mut world = World::new(seed, setting, mistake)?;
    for (nth, op) in ops.iter().enumerate() {
        world.counts.steps += 1;
        let step = world.step(*op);
        step.map_err(|violation| format!("after {nth} operations, {op:?}: {violation}"))?;
    }
    world
        .finish()
        .map_err(|violation| format!("at the end: {violation}"))?;
    Ok(world.counts)
}

impl Drop for World {
    fn drop(&mut self) {
        self.reader = None;
        self.writer = None;
        vfs::unmount(self.directory.path().to_str().expect("a plain path"));
    }
}

impl World {
    fn new(seed: u64, setting: Setting, mistake: Mistake) -> Result<Self, Violation> {
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let directory = directory.expect("a directory for the disk's shadow");
        let drive = Arc::<Mutex<Drive>>::default();
        vfs::mount(directory.path().to_str().expect("a plain path"), &drive);
        let config = config(directory.path().join("store.db"), setting);
        let line = |uplink| Line::new(uplink, Cloud::default(), mistake == Mistake::DeletesEarly);
        let mut world = Self {
            directory,
            drive,
            model: Model::new(&config),
            config,
            setting,
            mistake,
            random: Random::new(seed.rotate_left(32)),
            origin: Instant::now(),
            elapsed: AHEAD,
            booted: 0,
            right_time: START,
            off: 0,
            synced: true,
            writer: None,
            reader: None,
            sources: (0..SOURCES).map(|_| Source::default()).collect(),
            lines: (0..UPLINKS).map(line).collect(),
            next_message: 0,
            pending: VecDeque::new(),
            attempted: 0,
            trouble: false,
            acknowledged: BTreeSet::new(),
            events: 0,
            streams: Vec::new(),
            counts: Counts::default(),
        };
        world.start(None)?;
        // From here on, so that it loses messages and not the whole database.
        locked(&world.drive).disk.ignores_sync = mistake == Mistake::NoSync;
        Ok(world)
    }

    fn now(&self) -> Instant {
        self.origin + self.elapsed
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            monotonic: self.right_time - self.booted,
            wall: self.right_time + self.off,
            synced: self.synced,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.right_time += i64::try_from(time.as_nanos()).expect("short");
    }

    fn step(&mut self, op: Op) -> Result<(), Violation> {
        match op {
            Op::Publish {
                source,
                messages,
                readings,
                age,
                shape,
            } => {
                for _ in 0..messages {
                    self.next_message += 1;
                    let message = Message {
                        id: self.next_message,
                        time: self.right_time - i64::from(age) * SECOND,
                        readings,
                        shape,
                        redelivered: false,
                    };
                    self.sources[source].waiting.push_back(message);
                }
            }
            Op::Take { source, most } => self.take(source, most.into()),
            Op::Reconnect { source } => self.sources[source].reconnect(),
            Op::Commit => {
                self.pass(Duration::from_millis(100));
                for _ in 0..3 {
                    self.commit()?;
                }
            }
            Op::Look => self.commit()?,
            Op::Pass { milliseconds } => {
                self.pass(Duration::from_millis(milliseconds.into()));
                let now = self.elapsed;
                self.lines.iter_mut().for_each(|line| line.tick(now));
                self.act()?;
            }
            Op::Step { seconds } => self.off += i64::from(seconds) * SECOND,
            Op::Synchronise => (self.off, self.synced) = (0, true),
            Op::Event => {
                self.events += 1;
                let event = Event {
                    time: self.arrival().wall,
                    code: format!("event-{}", self.events),
                    text: "something".to_owned(),
                    data: None,
                };
                self.apply(event);
            }
            Op::SourceGap { source } => {
                let gap = SourceGap {
                    source,
                    from: self.arrival().wall,
                    to: self.arrival().wall,
                    count: Some(3),
                    reason: reason::OVERFLOW,
                };
                self.apply(gap);
            }
            Op::Connect { uplink, most } => {
                self.lines[uplink].connect(self.elapsed, most);
                self.act()?;
            }
            Op::Cut { uplink, by_peer } => {
                let by = if by_peer {
                    EndedBy::Peer
                } else {
                    EndedBy::Line
                };
                let random = self.random.next();
                self.lines[uplink].cut(self.elapsed, by, random);
                self.act()?;
            }
            Op::Fetch { uplink, urgent } => {
                if let Some(reader) = &self.reader {
                    self.lines[uplink]
                        .fetch(urgent, |exclude, room| look(reader, uplink, exclude, room));
                }
                self.act()?;
            }
            Op::Carry {
                uplink,
                packets,
                arrives,
            } => {
                let random = self.random.next();
                self.lines[uplink].carry(self.elapsed, packets.into(), arrives, random)?;
                self.act()?;
            }
            Op::Answer { uplink, nth, twice } => {
                self.lines[uplink].answer(self.elapsed, nth.into(), twice);
                self.act()?;
            }
            Op::ReopenReader => self.open_reader(),
            Op::Restart => self.restart()?,
            Op::End {
                ending,
                again,
                battery,
            } => {
                locked(&self.drive).disk.end_now(ending);
                self.recover(again, battery)?;
            }
            Op::EndIn { changes, ending } => {
                locked(&self.drive).disk.end_in(changes.into(), ending);
            }
            Op::Fail { call, after, times } => locked(&self.drive).disk.fail(Failing {
                call,
                after: after.into(),
                times: times.into(),
            }),
            Op::Fill { kilobytes } => {
                locked(&self.drive).disk.fill(usize::from(kilobytes) * 1024);
            }
            Op::Mend => locked(&self.drive).disk.mend(),
            Op::Verify => self.verify()?,
        }
        if locked(&self.drive).disk.ended().is_some() {
            self.recover(None, true)?;
        }
        Ok(())
    }

    fn apply(&mut self, input: impl Into<Input>) {
        let now = self.now();
        if let Some(writer) = &mut self.writer {
            writer.apply(input.into(), now);
        }
    }

    /// The gateway takes what a source has for it, runs it through the pipelines, and hands it to the writer.
    fn take(&mut self, source: usize, most: usize) {
        let arrival = self.arrival();
        if self.writer.as_ref().is_none_or(Writer::is_full) {
            return;
        }
        // A small store takes small batches: what one brings in must fit into the log.
        let most = if self.setting.tight {
            most.min(3)
        } else {
            most
        };
        let taken = self.sources[source].take(most);
        if taken.is_empty() {
            return;
        }
        let messages = taken.iter().map(|(_, message)| message.id).collect();
        let outcome = outcome(source, arrival, &taken);
        self.pending.push_back(Pending {
            outcome: outcome.clone(),
            messages,
        });
        self.apply(outcome);
        if self.mistake == Mistake::AcknowledgesEarly {
            let acks: Vec<AckToken> = taken.iter().map(|(token, _)| *token).collect();
            self.acknowledge(source, &acks);
        }
    }

    fn acknowledge(&mut self, source: usize, acks: &[AckToken]) {
        let done = self.sources[source].acknowledge(acks);
        self.acknowledged.extend(done);
    }

    fn commit(&mut self) -> Result<(), Violation> {
        let (now, arrival) = (self.now(), self.arrival());
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        match writer.commit_if_due(now, arrival) {
            Ok(None) => Ok(()),
            Ok(Some(committed)) => self.committed(&committed),
            Err(_) => {
                self.counts.failed_commits += 1;
                self.attempted = self.pending.len();
                self.trouble = true;
                Ok(())
            }
        }
    }

    fn committed(&mut self, committed: &Committed) -> Result<(), Violation> {
        self.counts.commits += 1;
        let mut acks: BTreeSet<(usize, u64, u64)> = BTreeSet::new();
        for (source, tokens) in &committed.acks {
            acks.extend(
                tokens
                    .iter()
                    .map(|token| (*source, token.connection, token.id)),
            );
        }
        while let Some(batch) = self.pending.front() {
            let source = batch.outcome.source;
            let tokens = batch.outcome.acks.iter();
            let tokens: Vec<_> = tokens
                .map(|token| (source, token.connection, token.id))
                .collect();
            if !tokens.iter().any(|token| acks.contains(token)) {
                break;
            }
            if !tokens.iter().all(|token| acks.remove(token)) {
                violated!("half of a batch is acknowledged");
            }
            let batch = self.pending.pop_front().expect("it is there");
            self.model
                .apply(&self.config, &batch.outcome, &batch.messages);
        }
        if !acks.is_empty() {
            violated!("acknowledged without having been taken, or out of order: {acks:?}");
        }
        (self.attempted, self.trouble) = (0, false);
        for (source, tokens) in &committed.acks {
            self.acknowledge(*source, tokens);
        }
        for (uplink, seqs) in &committed.settled {
            self.lines[*uplink].deleted(seqs.iter().copied());
        }
        self.model.check_ledger(&committed.ledger)?;
        let peak = locked(&self.drive).disk.take_peak() as u64;
        if peak > committed.stats.max_bytes {
            violated!(
                "the store took {peak} bytes of {}",
                committed.stats.max_bytes
            );
        }
        Ok(())
    }

    /// The uplinks do what their machines say.
    fn act(&mut self) -> Result<(), Violation> {
        for uplink in 0..self.lines.len() {
            let random = self.random.next();
            for settled in self.lines[uplink].act(self.elapsed, random)? {
                self.apply(settled);
            }
        }
        Ok(())
    }

    fn open_reader(&mut self) {
        self.reader = None;
        // A disk that cannot be read now can be read later.
        self.reader = self.writer.as_ref().and_then(|writer| writer.reader().ok());
    }

    fn restart(&mut self) -> Result<(), Violation> {
        locked(&self.drive).disk.mend();
        self.reader = None;
        let (now, arrival) = (self.now(), self.arrival());
        if let Some(writer) = self.writer.take() {
            match writer.close(now, arrival) {
                Ok(Some(committed)) => self.committed(&committed)?,
                Ok(None) => {}
                Err(error) => violated!("a sound disk and no clean end: {error:?}"),
            }
            if !self.pending.is_empty() {
                violated!("a clean end leaves {} batches", self.pending.len());
            }
        }
        locked(&self.drive).start(&mut self.random);
        self.lose_memory();
        self.start(None)
    }

    /// The process, or the machine, has ended; it starts again.
    fn recover(&mut self, again: Option<u8>, battery: bool) -> Result<(), Violation> {
        match locked(&self.drive).disk.ended() {
            Some(Ending::Kill) | None => self.counts.kills += 1,
            Some(Ending::PowerCut) => {
                self.counts.power_cuts += 1;
                self.booted = self.right_time - 20 * SECOND;
                if !battery {
                    (self.off, self.synced) = (20 * SECOND - self.right_time, false);
                }
            }
        }
        // On a dead disk: closing writes nothing.
        self.reader = None;
        self.writer = None;
        self.counts.syncs += locked(&self.drive).disk.syncs;
        locked(&self.drive).disk.syncs = 0;
        locked(&self.drive).start(&mut self.random);
        self.lose_memory();
        self.start(again)
    }

    fn lose_memory(&mut self) {
        self.sources.iter_mut().for_each(Source::reconnect);
        let lines = std::mem::take(&mut self.lines).into_iter();
        self.lines = lines.map(Line::restarted).collect();
    }

    /// Opens the store and compares what it found with what was committed.
    fn start(&mut self, again: Option<u8>) -> Result<(), Violation> {
        if let Some(changes) = again {
            locked(&self.drive)
                .disk
                .end_in(changes.into(), Ending::PowerCut);
        }
        let store = match Store::open(self.config.clone(), self.arrival()) {
            Ok(store) => store,
            Err(_) if locked(&self.drive).disk.ended().is_some() => {
                self.counts.power_cuts += 1;
                locked(&self.drive).start(&mut self.random);
                return self.start(None);
            }
            Err(error) => violated!("a sound disk, and the store does not open: {error:?}"),
        };
        locked(&self.drive).disk.mend();
        let recovered = store.recovered().clone();
        if recovered.created {
            locked(&self.drive).disk.sync_directory();
        }
        let committed = self.recovered_batches(&recovered.ledger)?;
        for batch in self.pending.drain(..committed) {
            self.model
                .apply(&self.config, &batch.outcome, &batch.messages);
        }
        self.pending.clear();
        self.attempted = 0;
        self.trouble = false;
        self.model.check_recovered(&self.config, &recovered)?;
        if let Some(id) =
            (self.acknowledged.iter()).find(|id| !self.model.messages.contains_key(id))
        {
            violated!("message {id} was acknowledged and is not committed");
        }
        if self.streams.is_empty() {
            self.streams.clone_from(&recovered.streams);
        }
        if self.streams != recovered.streams {
            violated!("the streams have other ids");
        }
        self.reader = Some(
            store
                .reader()
                .map_err(|error| format!("no reader: {error:?}"))?,
        );
        self.writer = Some(store.into_writer());
        self.verify()
    }

    /// How many of the pending batches are in the database: all of the group that was being committed, or none.
    fn recovered_batches(&self, found: &tidegate_domain::Ledger) -> Result<usize, Violation> {
        let mut expected: BTreeMap<&String, u64> = BTreeMap::new();
        for name in &self.config.sources {
            expected.insert(name, self.model.ledger.sources[name].received);
        }
        let matches = |expected: &BTreeMap<&String, u64>| {
            (expected.iter()).all(|(name, received)| {
                found
                    .sources
                    .get(*name)
                    .is_some_and(|found| found.received == *received)
            })
        };
        if matches(&expected) {
            return Ok(0);
        }
        for (nth, batch) in self.pending.iter().take(self.attempted).enumerate() {
            let name = &self.config.sources[batch.outcome.source];
            *expected.entry(name).or_default() += batch.outcome.counts.received;
            if matches(&expected) {
                return Ok(nth + 1);
            }
        }
        violated!(
            "the sources' counts are {:?}; committed were {:?}, and {} batches were on their way",
            found.sources,
            self.model.ledger.sources,
            self.attempted
        )
    }

    fn verify(&mut self) -> Result<(), Violation> {
        if self.trouble {
            return Ok(());
        }
        locked(&self.drive).disk.mend();
        let verification = verify(&self.config.path).map_err(|error| format!("{error:?}"))?;
        if let Some(difference) = verification.differences.first() {
            violated!("a recount differs: {difference}");
        }
        Ok(())
    }

    /// A good day: the disk is sound, the time right, every line stands. Everything gets through, and adds up.
    fn finish(&mut self) -> Result<(), Violation> {
        locked(&self.drive).disk.mend();
        (self.off, self.synced) = (0, true);
        self.open_reader();
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            self.pass(Duration::from_secs(30));
            for source in 0..SOURCES {
                self.take(source, RECEIVE_WINDOW);
            }
            self.commit()?;
            if self.reader.is_none() {
                self.open_reader();
            }
            for uplink in 0..UPLINKS {
                let random = self.random.next();
                let Some(reader) = &self.reader else {
                    continue;
                };
                let look = |exclude: &[u64], room| look(reader, uplink, exclude, room);
                for settled in self.lines[uplink].flow(self.elapsed, random, look)? {
                    self.apply(settled);
                }
            }
            let waiting = self.sources.iter().any(|source| !source.is_idle());
            let writer = self.writer.as_ref().expect("it runs");
            let stats = writer.stats();
            let idle = !waiting
                && self.pending.is_empty()
                && stats.windows_open == 0
                && stats.outbox.iter().all(|outbox| outbox.items == 0);
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet > 3 {
                break;
            }
        }
        if quiet == 0 {
            let stats = self.writer.as_ref().map(Writer::stats);
            violated!("it does not come to rest: {stats:?}");
        }
        self.verify()?;
        self.check_end()
    }

    fn check_end(&mut self) -> Result<(), Violation> {
        let missing = (1..=self.next_message).find(|id| !self.model.messages.contains_key(id));
        if let Some(id) = missing {
            violated!("message {id} never arrived");
        }
        let again = self
            .model
            .messages
            .values()
            .map(|times| u64::from(*times) - 1);
        self.counts.committed += self.next_message;
        self.counts.committed_again += again.sum::<u64>();
        let reader = self.reader.take().expect("it is open");
        let ledger = reader.ledger().map_err(|error| format!("{error:?}"))?;
        for uplink in 0..UPLINKS {
            let name = self.config.uplinks[uplink].name.clone();
            let counts = ledger.uplinks[&name].clone();
            let last = reader
                .last_sealed_seq(uplink)
                .map_err(|error| format!("{error:?}"))?;
            let outcome = self.check_uplink(uplink, last, counts.evicted);
            outcome.map_err(|violation| format!("uplink {name}: {violation}"))?;
            let cloud = &self.lines[uplink].cloud;
            self.counts.delivered += cloud.seen.len() as u64;
            self.counts.duplicates += cloud.duplicates;
            self.counts.rejected += counts.rejected;
            self.counts.evicted += counts.evicted;
        }
        self.counts.syncs += locked(&self.drive).disk.syncs;
        Ok(())
    }

    /// Everything that went up one uplink, or was refused there, against what was committed.
    fn check_uplink(&mut self, uplink: usize, last: u64, evicted: u64) -> Result<(), Violation> {
        let cloud = &self.lines[uplink].cloud;
        let mut messages = cloud.seen.clone();
        for seq in &cloud.rejected {
            if let Some(message) = cloud.sent.get(seq) {
                messages.entry(*seq).or_insert_with(|| message.clone());
            }
        }
        let received = Received::read(&messages)?;
        self.counts.gaps += received.gaps.len() as u64;
        self.counts.alarms += received.alarms.len() as u64;
        self.counts.summaries += received.summaries;
        self.counts.supplements += received.supplements;
        self.counts.stepped += received.stepped;
        self.counts.incomplete += received.incomplete.len() as u64;

        if let Some((seq, _)) = messages.range(last + 1..).next() {
            violated!("message {seq} arrived, and the last one that was sealed is {last}");
        }
        let told = |seq: u64| received.gaps.iter().any(|gap| gap.names(seq));
        if let Some(seq) = (1..=last).find(|seq| !messages.contains_key(seq) && !told(*seq)) {
            violated!("message {seq} of {last} is neither delivered nor refused nor in a gap");
        }
        let lost: u64 = (received.gaps.iter())
            .filter(|gap| gap.reason == reason::SIZE)
            .map(|gap| gap.count)
            .sum();
        if lost != evicted {
            violated!("the gaps tell of {lost} items, and {evicted} were given up");
        }
        let expected = self.model.alarms.remove(&uplink).unwrap_or_default();
        if received.alarms != expected {
            violated!("the alarms are {:?} and were {expected:?}", received.alarms);
        }
        for pipeline in 0..self.config.pipelines.len() {
            let name = &self.config.pipelines[pipeline].name;
            let expected = self
                .model
                .readings
                .remove(&(uplink, pipeline))
                .unwrap_or_default();
            let found = received.readings.get(name).map_or(&[][..], Vec::as_slice);
            check_readings(found, &expected, evicted)?;
            let routes = &self.config.pipelines[pipeline].to;
            let wanted = routes
                .iter()
                .any(|route| route.uplink == uplink && !matches!(route.send, Send::Readings));
            if wanted {
                self.check_windows(name, &received, evicted)?;
            }
        }
        Ok(())
    }

    fn check_windows(
        &self,
        pipeline: &str,
        received: &Received,
        evicted: u64,
    ) -> Result<(), Violation> {
        let mut lacking = 0;
        let expected = self
            .model
            .windows
            .iter()
            .filter(|((name, ..), _)| name == pipeline);
        for (window, expected) in expected {
            let found = received.windows.get(window).cloned().unwrap_or_default();
            let same = found.count == expected.count
                && (found.sum - expected.sum).abs() <= 1e-6 * expected.sum.abs().max(1.0)
                && found.min.total_cmp(&expected.min).is_eq()
                && found.max.total_cmp(&expected.max).is_eq();
            if same {
                continue;
            }
            if found.count >= expected.count {
                violated!(
                    "the summaries of {window:?} come to {found:?}, its readings to {expected:?}"
                );
            }
            if !received.incomplete.contains(window) {
                lacking += 1;
            }
        }
        if lacking > evicted {
            violated!("{lacking} windows lack readings, and {evicted} items were given up");
        }
        let known = |window: &&WindowName| self.model.windows.contains_key(*window);
        let mut found = received
            .windows
            .keys()
            .filter(|(name, ..)| name == pipeline);
        if let Some(window) = found.find(|window| !known(window)) {
            violated!("there is a summary of {window:?} and no reading of it");
        }
        if self.setting.tight || received.incomplete.is_empty() {
            return Ok(());
        }
        violated!(
            "windows are incomplete in a store with room: {:?}",
            received.incomplete
        )
    }
}

/// A look into the outbox. A read that fails is tried again some time.
fn look(reader: &Reader, uplink: usize, exclude: &[u64], room: Window) -> Vec<SealedMessage> {
    let found = reader.next_messages(uplink, exclude, room.messages, room.bytes);
    found.unwrap_or_default()
}

/// The readings of one lane that arrived: those that were committed, in their order, but for those given up.
fn check_readings(
    found: &[SentReading],
    expected: &[SentReading],
    evicted: u64,
) -> Result<(), Violation> {
    let mut at = 0;
    for reading in found {
        let Some(skipped) = expected[at..]
            .iter()
            .position(|expected| expected == reading)
        else {
            violated!("{reading:?} arrived, out of order or out of nowhere");
        };
        at += skipped + 1;
    }
    let missing = (expected.len() - found.len()) as u64;
    if missing > evicted {
        violated!("{missing} readings did not arrive, and {evicted} items were given up");
    }
    Ok(())
}

impl Source {
    fn take(&mut self, most: usize) -> Vec<(AckToken, Message)> {
        let room = RECEIVE_WINDOW.saturating_sub(self.in_flight.len());
        let mut taken = Vec::new();
        while taken.len() < most.min(room)
            && let Some(message) = self.waiting.pop_front()
        {
            self.next_token += 1;
            let token = AckToken {
                connection: self.connection,
                id: self.next_token,
            };
            taken.push((token, message));
        }
        self.in_flight.extend(taken.iter().cloned());
        taken
    }

    /// What was not acknowledged comes again.
    fn reconnect(&mut self) {
        self.connection += 1;
        while let Some((_, mut message)) = self.in_flight.pop_back() {
            message.redelivered = true;
            self.waiting.push_front(message);
        }
    }

    /// The messages that are acknowledged by it: none by a token of an earlier connection.
    fn acknowledge(&mut self, acks: &[AckToken]) -> Vec<u64> {
        let mut done = Vec::new();
        self.in_flight.retain(|(token, message)| {
            let acknowledged = acks.contains(token);
            if acknowledged {
                done.push(message.id);
            }
            !acknowledged
        });
        done
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }
}

/// What the pipelines that read the source make of messages.
fn outcome(source: usize, arrival: Arrival, taken: &[(AckToken, Message)]) -> BatchOutcome {
    let mut counts = MessageCounts::default();
    let mut quarantined = Vec::new();
    let mut bytes = 0;
    for (_, message) in taken {
        counts.received += 1;
        counts.redelivered += u64::from(message.redelivered);
        bytes += 20 * usize::from(message.readings) + 20;
        if let Shape::Undecodable { kilobytes } = message.shape {
            counts.quarantined += 1;
            let payload = vec![b'{'; usize::from(kilobytes) * 1024 + 1];
            bytes += payload.len();
            quarantined.push(QuarantinedMessage {
                topic: "plant/x".into(),
                length: payload.len() as u64,
                payload: payload.into(),
                reason: reason::UNDECODABLE,
                detail: "line 1 column 2: end of input".to_owned(),
                arrival,
            });
        } else {
            counts.decoded += 1;
        }
    }
    let pipelines = [[0, 1], [1, 2]][source];
    BatchOutcome {
        source,
        arrival,
        acks: taken.iter().map(|(token, _)| *token).collect(),
        bytes,
        receive_window: u32::try_from(RECEIVE_WINDOW).expect("small"),
        counts,
        quarantined,
        pipelines: pipelines.map(|index| pipeline(index, taken)).to_vec(),
        ..BatchOutcome::default()
    }
}

fn pipeline(index: usize, taken: &[(AckToken, Message)]) -> PipelineOutcome {
    let mut outcome = PipelineOutcome {
        pipeline: index,
        ..PipelineOutcome::default()
    };
    let mut touched: BTreeMap<String, u64> = BTreeMap::new();
    for (_, message) in taken {
        if matches!(message.shape, Shape::Undecodable { .. }) {
            continue;
        }
        outcome.selected += u64::from(message.readings);
        if message.shape == Shape::Dropped {
            *outcome.dropped.entry(reason::FILTER_FAILURE).or_default() +=
                u64::from(message.readings);
            continue;
        }
        for nth in 0..message.readings {
            let series = format!("line/{}", (message.id + u64::from(nth)) % 3);
            let time = message.time + i64::from(nth) * SECOND / 4;
            let value = f64::from(u32::try_from(message.id * 64 + u64::from(nth)).expect("small"));
            match message.shape {
                Shape::Filtered if nth % 2 == 1 => outcome.filtered += 1,
                Shape::Rejected if nth == 0 => {
                    let mut rows = Batch::default();
                    push(&mut rows, &series, time, value);
                    outcome.quarantined.push(QuarantinedReadings {
                        filter: "range".to_owned(),
                        reason: reason::REJECTED,
                        detail: "no range for this series".to_owned(),
                        rows,
                    });
                }
                _ => push(&mut outcome.stored, &series, time, value),
            }
            touched.insert(series, message.id);
        }
        if message.shape == Shape::Filtered {
            outcome.derived += 1;
            push(&mut outcome.stored, "line/mean", message.time, 0.5);
        }
        if let Shape::Raise { code } | Shape::Clear { code } = message.shape {
            let raised = matches!(message.shape, Shape::Raise { .. });
            outcome.alarms.push(AlarmChange {
                filter: "anomaly".to_owned(),
                series: "line/0".into(),
                time: message.time,
                state: if raised {
                    AlarmState::Raised
                } else {
                    AlarmState::Cleared
                },
                severity: Severity::Warning,
                code: format!("code-{code}"),
                text: "too high".to_owned(),
                value: Some(99.0),
            });
        }
    }
    if !touched.is_empty() {
        outcome.state.push(StateDelta {
            slot: format!("pipeline-{index}/deadband").into(),
            change: StateChange::Series {
                width: 8,
                names: touched.keys().map(|name| name.as_str().into()).collect(),
                records: touched.values().flat_map(|id| id.to_le_bytes()).collect(),
            },
        });
    }
    outcome
}

fn push(batch: &mut Batch, series: &str, time: i64, value: f64) {
    let known = batch.names.iter().position(|name| **name == *series);
    let place = known.unwrap_or_else(|| {
        batch.names.push(series.into());
        batch.names.len() - 1
    });
    let place = u32::try_from(place).expect("few series");
    batch.push(place, time, Value::Float(value), Quality::Good);
}

/// The items of all messages of one uplink, by what they say.
#[derive(Debug, Default)]
struct Received {
    windows: BTreeMap<WindowName, Sums>,
    incomplete: BTreeSet<WindowName>,
    readings: BTreeMap<String, Vec<SentReading>>,
    alarms: Vec<SentAlarm>,
    gaps: Vec<Gap>,
    summaries: u64,
    supplements: u64,
    stepped: u64,
}

#[derive(Debug)]
struct Gap {
    reason: String,
    count: u64,
    seqs: Option<(u64, u64)>,
}

impl Gap {
    fn names(&self, seq: u64) -> bool {
        self.seqs
            .is_some_and(|(from, to)| (from..=to).contains(&seq))
    }
}

impl Received {
    fn read(messages: &BTreeMap<u64, (ItemKind, Vec<u8>)>) -> Result<Self, Violation> {
        let mut received = Self::default();
        for (seq, (kind, body)) in messages {
            let items = format!("[{}]", String::from_utf8_lossy(body));
            let items: Vec<serde_json::Value> = serde_json::from_str(&items)
                .map_err(|error| format!("message {seq} is no JSON: {error}"))?;
            for item in items {
                let read = received.item(*kind, &item);
                read.ok_or_else(|| format!("message {seq} holds {item}"))?;
            }
        }
        Ok(received)
    }

    fn item(&mut self, kind: ItemKind, item: &serde_json::Value) -> Option<()> {
        let text = |key: &str| item[key].as_str().map(str::to_owned);
        match kind {
            ItemKind::Summary => {
                let window = (text("pipeline")?, text("series")?, item["from"].as_i64()?);
                let count = item["count"].as_u64()?;
                let times = f64::from(u32::try_from(count).ok()?);
                // All of it can be gone, where that is said.
                if count > 0 || item["incomplete"] != true {
                    let sum = item["mean"].as_f64()? * times;
                    let sums = self.windows.entry(window.clone()).or_default();
                    sums.add(count, sum, item["min"].as_f64()?, item["max"].as_f64()?);
                }
                self.summaries += 1;
                self.supplements += u64::from(item["late"] == true);
                self.stepped += u64::from(item["stepped"] == true);
                if item["incomplete"] == true {
                    self.incomplete.insert(window);
                }
            }
            ItemKind::Readings => {
                let pipeline = text("pipeline")?;
                let (time, value) = (item["time"].as_i64()?, item["value"].as_f64()?);
                let reading = (pipeline.clone(), text("series")?, time, value);
                self.readings.entry(pipeline).or_default().push(reading);
            }
            ItemKind::Alarm => {
                let state = match item["state"].as_str()? {
                    "raised" => AlarmState::Raised,
                    "cleared" => AlarmState::Cleared,
                    _ => return None,
                };
                let alarm = (text("pipeline")?, text("series")?, text("code")?, state);
                self.alarms.push(alarm);
            }
            ItemKind::Gap => {
                let seqs = item["seq_from"].as_u64().zip(item["seq_to"].as_u64());
                self.gaps.push(Gap {
                    reason: text("reason")?,
                    count: item["count"].as_u64()?,
                    seqs,
                });
            }
            ItemKind::Event => drop(text("code")?),
            ItemKind::Reply => drop(text("id")?),
        }
        Some(())
    }
}
