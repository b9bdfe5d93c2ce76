//! `tidegate fleet run`: reports in, documents out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tidegate_domain::channel::{Channel, Name};
use tidegate_domain::fleet::{Decision, Fleet, Heard, Idle, Note, reports};
use tidegate_domain::limits;
use tidegate_ingest::{Occurrence, Received, SourceEvent, SourceHandle};
use tidegate_publish::{Error, Journal, KeyStore, Repository, Step};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::super::{DONE, FAILURE, Failure};
use super::broker::Topic;
use super::{Run, document, words};
use crate::cli::repo::Keeping;
use crate::{clock, log};

/// Messages whose notes are synced together.
const TOGETHER: usize = 256;
/// How often the time and the repository are looked at, and what could not be published is tried again.
const LOOK: Duration = Duration::from_secs(2);
/// Messages in a row that cannot be read and are told of; then every thousandth.
const TOLD: u64 = 10;
/// How often gateways are given up that were not heard for long.
const DAY: i64 = 24 * 3_600_000;

pub(super) fn run(arguments: &Run) -> Result<u8, Failure> {
    let _recent = log::start("info");
    let Run {
        keeping,
        of,
        broker,
        until_done,
    } = arguments;
    // First, for it is quick: what keeps it from ever publishing.
    let keys = keeping.keys()?;
    keeping.open()?.can_publish(&keys)?;
    let (journal, fleet) = Journal::open(&of.state, &of.channel)?;
    let had_session = fleet.gateways().next().is_some();
    let (config, topic) = broker.source(&of.channel, had_session)?;
    let mut watch = Watch {
        keeping,
        channel: of.channel.clone(),
        keys,
        topic,
        journal,
        fleet,
        document: None,
        seen: None,
        followed: 0,
        said: String::new(),
        unreadable: 0,
    };
    watch.look()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // The source's own bounds hold whatever the capacity of these is.
        let (intake, messages) = mpsc::channel(TOGETHER);
        let (events, occurrences) = mpsc::channel(TOGETHER);
        let (source, handle) = tidegate_ingest::mqtt(config, intake, events)?;
        let source = tokio::spawn(source.run(clock::now));
        let ended = watch
            .serve(messages, occurrences, &handle, *until_done)
            .await;
        handle.finish();
        source.await??;
        ended
    })
}

struct Watch<'a> {
    keeping: &'a Keeping,
    channel: Name,
    keys: KeyStore,
    topic: Topic,
    journal: Journal,
    fleet: Fleet,
    /// The newest, and the publication that it was found in.
    document: Option<Channel>,
    seen: Option<Publication>,
    /// When gateways were given up last.
    followed: i64,
    /// What was said last, which is no news again.
    said: String,
    unreadable: u64,
}

/// A publication, as far as it can be told without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Publication {
    inode: u64,
    modified: SystemTime,
}

impl Watch<'_> {
    async fn serve(
        &mut self,
        mut messages: mpsc::Receiver<Received>,
        mut occurrences: mpsc::Receiver<SourceEvent>,
        handle: &SourceHandle,
        until_done: bool,
    ) -> Result<u8, Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(DONE),
                _ = interrupt.recv() => return Ok(DONE),
                Some(event) = occurrences.recv() => say_occurrence(&event.what),
                count = messages.recv_many(&mut batch, TOGETHER) => {
                    if count == 0 {
                        return Err(anyhow::anyhow!("nobody hears the broker any more").into());
                    }
                    self.take(&batch)?;
                    let due: Vec<_> = batch.drain(..).filter_map(|received: Received| received.message.ack).collect();
                    handle.acknowledge(&due);
                }
                _ = ticks.tick() => self.look()?,
            }
            if let Some(code) = self.act()?
                && until_done
            {
                return Ok(code);
            }
        }
    }

    /// Notes what messages say. It is on the disk afterwards.
    fn take(&mut self, batch: &[Received]) -> Result<(), Failure> {
        // An epoch that was published a moment ago is known to the gateways.
        self.look()?;
        let now = clock::wall() / 1_000_000;
        let mut notes = Vec::new();
        for received in batch {
            let message = &received.message;
            match self.read(&message.topic, &message.payload, now) {
                Ok(read) => notes.extend(read),
                Err(problem) => {
                    self.unreadable += 1;
                    if self.unreadable <= TOLD || self.unreadable.is_multiple_of(1000) {
                        let (topic, count) = (message.topic.escape_debug(), self.unreadable);
                        tracing::warn!(%topic, count, "a message does not count: {problem}");
                    }
                }
            }
        }
        if !notes.is_empty() {
            self.journal.append(&notes)?;
            self.journal.tidy(&self.fleet)?;
        }
        Ok(())
    }

    fn read(&mut self, topic: &str, payload: &[u8], now: i64) -> anyhow::Result<Vec<Note>> {
        let gateway = self.topic.gateway(topic).unwrap_or_default();
        let clear = tidegate_uplink::payload::json(payload, limits::FLEET_MESSAGE_BYTES)?;
        let mut notes = Vec::new();
        let Some(document) = &self.document else {
            return Ok(notes);
        };
        for report in reports(gateway, &clear)? {
            match self.fleet.hear(&report, document, now) {
                Heard::News(note) => {
                    // What follows in the same batch is judged beside it; nobody acts before all of them are stored.
                    self.fleet.apply(&note);
                    notes.push(note);
                }
                Heard::Known | Heard::Other => {}
                Heard::NeverMade => anyhow::bail!(
                    "it is about epoch {}, and the channel is at {}",
                    report.epoch,
                    document.epoch
                ),
                Heard::Full => anyhow::bail!(
                    "{} gateways are known, and no more are remembered",
                    limits::FLEET_GATEWAYS
                ),
            }
        }
        Ok(notes)
    }

    /// Takes the channel's newest document in, where somebody published.
    fn look(&mut self) -> Result<(), Failure> {
        let now_ms = clock::wall() / 1_000_000;
        let seen = self.publication()?;
        if self.seen == Some(seen) {
            if let Some(document) = &self.document
                && now_ms.saturating_sub(self.followed) > DAY
            {
                self.fleet.follow(document, now_ms);
                self.followed = now_ms;
            }
            return Ok(());
        }
        let repository = match self.keeping.open_expired() {
            Ok(repository) => repository,
            Err(failure) => return self.later(failure),
        };
        let document = match document(&repository, &self.channel) {
            Ok(document) => document,
            Err(error) => return self.later(error.into()),
        };
        self.fleet.follow(&document, now_ms);
        self.followed = now_ms;
        self.document = Some(document);
        self.seen = Some(seen);
        Ok(())
    }

    fn publication(&self) -> Result<Publication, Failure> {
        let path: PathBuf = self.keeping.dir().join("metadata/timestamp.json");
        let found = fs::metadata(path)?;
        Ok(Publication {
            inode: found.ino(),
            modified: found.modified()?,
        })
    }

    /// Does what is to be done. The exit code where nothing will be any more.
    fn act(&mut self) -> Result<Option<u8>, Failure> {
        let Some(document) = self.document.clone() else {
            return Ok(None);
        };
        let now_ms = clock::wall() / 1_000_000;
        let decision = self.fleet.decide(&document, now_ms);
        let step = Step {
            channel: self.channel.clone(),
            epoch: document.epoch,
        };
        match &decision {
            Decision::Idle(Idle::Through) => {
                self.say(&decision, &document);
                Ok(Some(DONE))
            }
            Decision::Idle(Idle::Halted) => {
                self.say(&decision, &document);
                Ok(Some(FAILURE))
            }
            Decision::Idle(Idle::NotStaged) => {
                // After a way back the document is not staged any more.
                self.say(&decision, &document);
                let halted = self.fleet.last_halt();
                let halted = halted.is_some_and(|(since, _)| since < document.epoch);
                Ok(Some(if halted { FAILURE } else { DONE }))
            }
            Decision::Wait(_) => {
                self.say(&decision, &document);
                Ok(None)
            }
            Decision::Widen => {
                self.publish(|repository, keys| repository.widen(&step, keys))?;
                Ok(None)
            }
            Decision::Halt { why } => {
                let since = document.placed_by();
                if self.fleet.halted_since(since).is_none() {
                    tracing::warn!(channel = %self.channel, epoch = document.epoch, "halting: {why}");
                    let why = why.clone();
                    let note = Note::Halt { since, why };
                    self.journal.append(std::slice::from_ref(&note))?;
                    self.fleet.apply(&note);
                }
                self.publish(|repository, keys| repository.halt(&step, why, keys))?;
                Ok(None)
            }
        }
    }

    fn publish(
        &mut self,
        step: impl FnOnce(&mut Repository, &KeyStore) -> Result<tidegate_publish::Published, Error>,
    ) -> Result<(), Failure> {
        let published = self.keeping.open().and_then(|mut repository| {
            let published = step(&mut repository, &self.keys)?;
            Ok(published)
        });
        match published {
            Ok(published) => {
                tracing::info!(channel = %self.channel, epoch = published.epoch, "published");
                self.said.clear();
                self.look()
            }
            Err(failure) => self.later(failure),
        }
    }

    /// What cannot be done now is tried again: the repository is in use, its metadata ran out, the disk is full.
    fn later(&mut self, failure: Failure) -> Result<(), Failure> {
        let problem = format!("{:#}", failure.error);
        if self.said != problem {
            tracing::error!(channel = %self.channel, "not now, and tried again: {problem}");
            self.said = problem;
        }
        Ok(())
    }

    /// The state, where it is another one.
    fn say(&mut self, decision: &Decision, document: &Channel) {
        let (state, text) = words(decision, document);
        let said = format!("{state} {}", document.epoch);
        if self.said != said {
            tracing::info!(channel = %self.channel, epoch = document.epoch, "{text}");
            self.said = said;
        }
    }
}

fn say_occurrence(what: &Occurrence) {
    match what {
        Occurrence::SessionLost { .. } => tracing::warn!(
            "the broker lost our session: what gateways reported meanwhile is not known, and does not count"
        ),
        Occurrence::Disconnected { reason } => {
            tracing::warn!("no connection to the broker: {reason}")
        }
        Occurrence::SubscriptionRefused { filter, reason, .. } => {
            tracing::error!(filter, "the broker lets nobody hear it: {reason}");
        }
        Occurrence::SubscriptionDowngraded { .. }
        | Occurrence::Connected { .. }
        | Occurrence::Overflow { .. }
        | Occurrence::Opened { .. }
        | Occurrence::SlaveLost { .. }
        | Occurrence::SlaveBack { .. }
        | Occurrence::Refused { .. }
        | Occurrence::LineErrors { .. }
        | Occurrence::Cut { .. } => {}
    }
}
