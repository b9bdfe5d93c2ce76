//! The stage between sources and store: takes what a source has waiting, decodes it, runs every pipeline that reads
//! the source, and hands over what the batch became.
//!
//! One worker serves one connected set of sources and pipelines, on a thread of its own, so that a filter that
//! uses up its deadline delays only those who share a pipeline with it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tidegate_domain::limits::{ATTEMPTS, BATCH_BYTES, BATCH_ROWS, QUARANTINE_BYTES};
use tidegate_domain::outcome::{MessageCounts, NO_SOURCE, QuarantinedMessage, StateDelta, reason};
use tidegate_domain::rollout::Change;
use tidegate_domain::{Batch, BatchOutcome, Message};
use tidegate_ingest::Received;
use tidegate_pipeline::Lane;
use tidegate_pipeline::decode::{DecodeFailure, Decoder};
use tidegate_pipeline::{DecodedByModule, ModuleDecoder, PipelineStats};
use tidegate_store::Input;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::audit::{self, Audit};
use crate::clock;
use crate::duplicates::Duplicates;
use crate::observe::Progress;
use crate::replay::{Replay, What};
use crate::rollouts::Order;

/// How long to wait before an attempt that could not be put on record is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often a candidate is judged while nothing arrives: its time may be over.
const JUDGE: Duration = Duration::from_secs(1);

/// One connected set of sources and pipelines.
pub(crate) struct Worker {
    /// What its sources received.
    pub(crate) intake: mpsc::Receiver<Received>,
    /// The writer's.
    pub(crate) outcomes: mpsc::Sender<Input>,
    /// Its sources, by their index in the configuration.
    pub(crate) sources: HashMap<usize, SourceStage>,
    /// Its pipelines, with their generations.
    pub(crate) pipelines: Vec<Lane>,
    /// Steps of rollouts at the start, to be stored before anything else.
    pub(crate) begun: Vec<Change>,
    /// Further steps, taken between two batches.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// Rows of quarantine to send through again, in small parts.
    pub(crate) replays: mpsc::Receiver<Vec<Replay>>,
    /// For sleeping on both.
    pub(crate) runtime: Handle,
    /// After an unclean exit: redelivered messages are tried with a record of it.
    pub(crate) careful: Careful,
    /// For the watchdog.
    pub(crate) progress: Arc<Progress>,
    pub(crate) audit: Audit,
}

/// What a worker knows of one of its sources.
pub(crate) struct SourceStage {
    pub(crate) decoder: SourceDecoder,
    /// Where the source gives its messages an identity.
    pub(crate) duplicates: Option<Duplicates>,
    /// Indices into [`Worker::pipelines`].
    pub(crate) pipelines: Vec<usize>,
    /// Messages that the source sends without an acknowledgement.
    pub(crate) receive_window: u32,
}

/// How messages become readings.
pub(crate) enum SourceDecoder {
    Native {
        decoder: Decoder,
        /// The messages bring no times along.
        arrival_times: bool,
    },
    Module(Box<ModuleDecoder>),
}

impl SourceDecoder {
    /// Its numbers, where it is a module.
    pub(crate) fn stats(&self) -> Option<Arc<PipelineStats>> {
        match self {
            Self::Native { .. } => None,
            Self::Module(decoder) => Some(decoder.stats()),
        }
    }

    fn decode(&mut self, messages: &[Message]) -> DecodedByModule {
        match self {
            Self::Native {
                decoder,
                arrival_times,
            } => DecodedByModule {
                decoded: decoder.decode(messages),
                arrival_times: *arrival_times,
                ..DecodedByModule::default()
            },
            Self::Module(decoder) => decoder.decode(messages, Instant::now()),
        }
    }
}

/// Trying redelivered messages with a record of it, so that the message that kills the process is found.
#[derive(Clone)]
pub(crate) struct Careful {
    /// Held while a batch is tried, for the whole process.
    turn: Arc<Mutex<()>>,
    /// Sources that have not yet sent anything new since the start.
    sources: HashSet<usize>,
}

impl Careful {
    /// Tries what these sources redeliver; none after a clean exit.
    pub(crate) fn new(sources: impl IntoIterator<Item = usize>) -> Self {
        Self {
            turn: Arc::default(),
            sources: sources.into_iter().collect(),
        }
    }
}

/// What a worker does next.
enum Next {
    /// So many messages wait.
    Received(usize),
    Replay(Vec<Replay>),
    Order(Order),
    /// It is time for something.
    Time,
}

/// The writer has ended, and with it the daemon.
struct WriterGone;

impl Worker {
    /// Works until the sources have ended and everything that they sent is handed over.
    pub(crate) fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH_ROWS);
        let begun = std::mem::take(&mut self.begun);
        if self.tell(begun).is_err() {
            return;
        }
        let mut judged = Instant::now();
        loop {
            if self.tick().is_err() {
                return;
            }
            let trying = self.pipelines.iter().any(Lane::is_trying);
            if trying && judged.elapsed() >= JUDGE {
                judged = Instant::now();
                let changes = self.judge();
                if self.tell(changes).is_err() {
                    return;
                }
            }
            let lanes = self.pipelines.iter_mut();
            let tick = lanes.filter_map(|lane| lane.tick_at(Instant::now())).min();
            let wake = tick.into_iter().chain(trying.then(|| judged + JUDGE)).min();
            // Whoever is ready is taken by turns, so that neither waits for more than one batch of the other.
            let (intake, replays) = (&mut self.intake, &mut self.replays);
            let orders = &mut self.orders;
            let next = self.runtime.block_on(async {
                tokio::select! {
                    received = intake.recv_many(&mut waiting, BATCH_ROWS) => Next::Received(received),
                    Some(part) = replays.recv() => Next::Replay(part),
                    Some(order) = orders.recv() => Next::Order(order),
                    () = until(wake) => Next::Time,
                }
            });
            match next {
                // What was not replayed will be after the next start.
                Next::Received(0) => return,
                Next::Received(_) => {}
                Next::Order(order) => {
                    if self.carry_out(order).is_err() {
                        return;
                    }
                }
                Next::Time => {}
                Next::Replay(part) => {
                    if self.replay(part).is_err() {
                        tracing::error!(
                            "the writer has ended; the replay goes on after the next start"
                        );
                        return;
                    }
                }
            }
            for batch in batches(waiting.drain(..), origin) {
                if self.take(batch).is_err() {
                    tracing::error!(
                        "the writer has ended; what was not committed will be redelivered"
                    );
                    return;
                }
            }
        }
    }

    /// Takes steps of a rollout, all of them before the next batch. Whoever asked for them is told once they are durable.
    fn carry_out(&mut self, order: Order) -> Result<(), WriterGone> {
        let mut changes = Vec::new();
        for (lane, step) in order.steps {
            if let Some(lane) = self.pipelines.get_mut(lane) {
                changes.extend(step.take(lane));
            }
        }
        self.tell(changes)?;
        // No message is meant: the answer comes after the commit of what was handed over before.
        self.on_record(|reply| Input::Attempts {
            digests: Vec::new(),
            reply,
        })?;
        if order.done.try_send(()).is_err() {
            tracing::debug!("nobody waits for a step of a rollout any more");
        }
        Ok(())
    }

    fn judge(&mut self) -> Vec<Change> {
        let (at, now) = (clock::wall(), Instant::now());
        let lanes = self.pipelines.iter_mut();
        lanes.filter_map(|lane| lane.judge(at, now)).collect()
    }

    /// Ticks the filters that are due. What they add is committed like what a batch became.
    fn tick(&mut self) -> Result<(), WriterGone> {
        let now = Instant::now();
        let due = |lane: &mut Lane| lane.tick_at(now).is_some_and(|due| due <= now);
        if !self.pipelines.iter_mut().any(due) {
            return Ok(());
        }
        self.progress.busy.store(true, Ordering::Relaxed);
        let mut outcome = BatchOutcome {
            source: NO_SOURCE,
            arrival: clock::now(),
            arrival_times: true,
            ..BatchOutcome::default()
        };
        for lane in &mut self.pipelines {
            lane.tick(outcome.arrival, now, &mut outcome.pipelines);
        }
        if !outcome.pipelines.is_empty() {
            return self.hand_over(outcome);
        }
        self.progress.busy.store(false, Ordering::Relaxed);
        self.progress.batches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Hands over steps of rollouts without any batch.
    fn tell(&self, rollouts: Vec<Change>) -> Result<(), WriterGone> {
        if rollouts.is_empty() {
            return Ok(());
        }
        self.hand_over(BatchOutcome {
            source: NO_SOURCE,
            rollouts,
            ..BatchOutcome::default()
        })
    }

    /// Takes one batch of one source to the writer.
    fn take(&mut self, batch: Vec<Received>) -> Result<(), WriterGone> {
        let Some(source) = batch.first().map(|received| received.message.source) else {
            return Ok(());
        };
        if !self.careful.sources.contains(&source) {
            let outcome = self.process_framed(source, batch);
            return self.hand_over(outcome);
        }
        // A broker sends again before it sends on: with the first new message, what was in flight at the crash is through.
        let mut batch = batch;
        let new = batch
            .iter()
            .position(|received| !received.message.redelivered);
        let rest = batch.split_off(new.unwrap_or(batch.len()));
        self.try_again(source, messages(batch))?;
        if rest.is_empty() {
            return Ok(());
        }
        self.careful.sources.remove(&source);
        let outcome = self.process_framed(source, rest);
        self.hand_over(outcome)
    }

    /// Processes what are messages, and sets aside what is none: bytes of a serial line that belong to no frame.
    fn process_framed(&mut self, source: usize, batch: Vec<Received>) -> BatchOutcome {
        let mut batch = batch;
        let state: Vec<StateDelta> = batch
            .iter_mut()
            .flat_map(|received| std::mem::take(&mut received.state))
            .collect();
        let (garbage, framed): (Vec<Received>, Vec<Received>) = batch
            .into_iter()
            .partition(|received| received.unframed.is_some());
        let mut outcome = self.process(source, &messages(framed));
        outcome.state.extend(state);
        let is_read = self
            .sources
            .get(&source)
            .is_some_and(|stage| !stage.pipelines.is_empty());
        for Received {
            message, unframed, ..
        } in garbage
        {
            outcome.arrival = outcome.arrival.max(message.arrival);
            outcome.bytes += message.payload.len();
            outcome.counts.received += 1;
            if !is_read {
                *outcome
                    .counts
                    .dropped
                    .entry(reason::NO_PIPELINE)
                    .or_default() += 1;
                continue;
            }
            outcome.counts.quarantined += 1;
            let failure = DecodeFailure {
                reason: reason::UNFRAMED,
                detail: unframed.unwrap_or_default().to_owned(),
            };
            outcome.quarantined.push(quarantined(&message, failure));
        }
        outcome
    }

    /// Processes redelivered messages with their attempts on record: together those that are there for the first time,
    /// and alone, in their place, those that were when the process died.
    fn try_again(&mut self, source: usize, batch: Vec<Message>) -> Result<(), WriterGone> {
        if batch.is_empty() {
            return Ok(());
        }
        let turn = Arc::clone(&self.careful.turn);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let digests: Vec<[u8; 32]> = batch.iter().map(digest).collect();
        let counts = self.on_record(|reply| Input::Attempts {
            digests: digests.clone(),
            reply,
        })?;
        let mut together = (Vec::new(), Vec::new());
        for ((message, digest), count) in batch.into_iter().zip(digests).zip(counts) {
            if count == 0 {
                together.0.push(message);
                together.1.push(digest);
                continue;
            }
            self.try_together(source, std::mem::take(&mut together))?;
            self.try_alone(&message, digest)?;
        }
        self.try_together(source, together)
    }

    fn try_together(
        &mut self,
        source: usize,
        (messages, digests): (Vec<Message>, Vec<[u8; 32]>),
    ) -> Result<(), WriterGone> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut outcome = self.process(source, &messages);
        outcome.attempts_done = digests;
        self.hand_over(outcome)
    }

    /// Processes one message, or sets it aside after too many attempts.
    fn try_alone(&mut self, message: &Message, digest: [u8; 32]) -> Result<(), WriterGone> {
        // Whatever came before is committed with the record, so that no other message is under suspicion.
        let attempt = self.on_record(|reply| Input::Attempt { digest, reply })?;
        let mut outcome = if attempt >= ATTEMPTS {
            tracing::error!(
                topic = %message.topic,
                "the daemon ended {} times while it worked on this message; it goes to quarantine undecoded",
                ATTEMPTS - 1
            );
            undecoded(message)
        } else {
            self.process(message.source, std::slice::from_ref(message))
        };
        outcome.attempts_done.push(digest);
        self.hand_over(outcome)
    }

    /// Waits until an attempt is durable, and returns what was on record.
    fn on_record<T>(
        &self,
        input: impl Fn(std::sync::mpsc::SyncSender<T>) -> Input,
    ) -> Result<T, WriterGone> {
        loop {
            let (reply, attempt) = std::sync::mpsc::sync_channel(1);
            self.send(input(reply))?;
            match attempt.recv() {
                Ok(attempt) => return Ok(attempt),
                Err(_) => std::thread::sleep(ASK_AGAIN),
            }
        }
    }

    /// Sends rows of quarantine through decoder and chains again, each with an outcome of its own.
    fn replay(&mut self, part: Vec<Replay>) -> Result<(), WriterGone> {
        for replay in part {
            if replay.careful {
                self.replay_alone(replay)?;
            } else {
                let outcome = self.send_again(replay);
                self.hand_over(outcome)?;
            }
        }
        Ok(())
    }

    /// Replays a row that may have ended the daemon, as [`Worker::try_alone`] tries a message.
    fn replay_alone(&mut self, replay: Replay) -> Result<(), WriterGone> {
        let turn = Arc::clone(&self.careful.turn);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = replay.digest();
        let mut outcome = if self.on_record(|reply| Input::Attempt { digest, reply })? >= ATTEMPTS {
            tracing::error!(
                row = replay.row,
                "the daemon ended {} times while it replayed this row of quarantine; it stays there",
                ATTEMPTS - 1
            );
            replay.failed(
                reason::ATTEMPTS,
                format!(
                    "the daemon ended {} times while it replayed this row",
                    ATTEMPTS - 1
                ),
            )
        } else {
            self.send_again(replay)
        };
        outcome.attempts_done.push(digest);
        self.hand_over(outcome)
    }

    fn send_again(&mut self, replay: Replay) -> BatchOutcome {
        self.progress.busy.store(true, Ordering::Relaxed);
        let arrival = clock::now();
        let mut outcome = BatchOutcome {
            source: NO_SOURCE,
            arrival,
            bytes: replay.bytes,
            ..BatchOutcome::default()
        };
        match &replay.what {
            What::Message(message) => {
                #[cfg(feature = "test-faults")]
                crate::faults::die_on_poison(std::slice::from_ref(message));
                let Some(stage) = self.sources.get_mut(&message.source) else {
                    return replay
                        .failed(reason::NO_PIPELINE, "no worker has its source".to_owned());
                };
                let made = stage.decoder.decode(std::slice::from_ref(message));
                let mut decoded = made.decoded;
                if let Some((_, failure)) = decoded.failures.pop() {
                    let mut outcome = replay.failed(failure.reason, failure.detail);
                    outcome.state = made.state;
                    return outcome;
                }
                outcome.state = made.state;
                for &index in &stage.pipelines {
                    if let Some(lane) = self.pipelines.get_mut(index) {
                        let made = &mut outcome.pipelines;
                        lane.run(&decoded.batch, arrival, Instant::now(), made);
                    }
                }
            }
            What::Readings {
                pipeline,
                filter,
                ran,
                rows,
            } => {
                if let Some(pipeline) = self.pipelines.get_mut(*pipeline) {
                    let made = pipeline.resume(rows.clone(), filter, ran, arrival, Instant::now());
                    outcome.pipelines.push(made);
                }
            }
        }
        outcome.replayed = Some(replay.replayed(None));
        outcome
    }

    /// Decodes messages of one source and runs its pipelines on them.
    fn process(&mut self, source: usize, messages: &[Message]) -> BatchOutcome {
        let mut outcome = outcome_of(source, messages);
        let Some(stage) = self.sources.get_mut(&source) else {
            return outcome;
        };
        outcome.receive_window = stage.receive_window;
        self.progress.busy.store(true, Ordering::Relaxed);
        if stage.pipelines.is_empty() {
            outcome
                .counts
                .dropped
                .insert(reason::NO_PIPELINE, outcome.counts.received);
            return outcome;
        }
        let sifted;
        let messages = match &mut stage.duplicates {
            Some(duplicates) => {
                sifted = duplicates.sift(messages);
                outcome.counts.unidentified = sifted.unidentified;
                outcome.identities = sifted.identities;
                if sifted.duplicates > 0 {
                    outcome
                        .counts
                        .dropped
                        .insert(reason::DUPLICATE, sifted.duplicates);
                }
                &*sifted.new
            }
            None => messages,
        };
        #[cfg(feature = "test-faults")]
        crate::faults::die_on_poison(messages);
        let made = stage.decoder.decode(messages);
        outcome.arrival_times = made.arrival_times;
        outcome.state = made.state;
        outcome.notes = made.notes;
        let decoded = made.decoded;
        outcome.counts.decoded = (messages.len() - decoded.failures.len()) as u64;
        outcome.counts.quarantined = decoded.failures.len() as u64;
        outcome.heard = heard(&decoded.batch);
        for (index, failure) in decoded.failures {
            if let Some(message) = messages.get(index) {
                outcome.quarantined.push(quarantined(message, failure));
            }
        }
        for &index in &stage.pipelines {
            if let Some(lane) = self.pipelines.get_mut(index) {
                let now = Instant::now();
                // Between two batches: by what the ones before have shown.
                outcome
                    .rollouts
                    .extend(lane.judge(outcome.arrival.wall, now));
                let made = &mut outcome.pipelines;
                lane.run(&decoded.batch, outcome.arrival, now, made);
            }
        }
        outcome
    }

    fn hand_over(&self, outcome: BatchOutcome) -> Result<(), WriterGone> {
        // On record before they are in the store.
        for change in &outcome.rollouts {
            audit::generation(&self.audit, change);
        }
        self.send(Input::Outcome(Box::new(outcome)))
    }

    fn send(&self, input: Input) -> Result<(), WriterGone> {
        // Waiting for the writer is no work that could be stuck here.
        self.progress.busy.store(false, Ordering::Relaxed);
        self.progress.batches.fetch_add(1, Ordering::Relaxed);
        self.outcomes.blocking_send(input).map_err(|_| WriterGone)
    }
}

/// Sleeps until then; for ever where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Where messages come from, and how large they are: what a batch holds is of one source and arrived by one clock.
struct Origin<S> {
    source: S,
    /// Whether the clock was set then.
    synced: bool,
    bytes: usize,
}

fn origin(received: &Received) -> Origin<usize> {
    let message = &received.message;
    Origin {
        source: message.source,
        synced: message.arrival.synced,
        bytes: message.payload.len(),
    }
}

/// Cuts what waited into batches of one source, one state of the clock and a bounded size each, in order of arrival within
/// a source, also where the clock's state goes to and fro.
fn batches<T, S: PartialEq>(
    waiting: impl Iterator<Item = T>,
    origin: impl Fn(&T) -> Origin<S>,
) -> Vec<Vec<T>> {
    let mut done = Vec::new();
    let mut open: Vec<(Origin<S>, Vec<T>)> = Vec::new();
    for received in waiting {
        let from = origin(&received);
        let known = open
            .iter_mut()
            .find(|(other, _)| other.source == from.source);
        let Some((of, batch)) = known else {
            open.push((from, vec![received]));
            continue;
        };
        if of.synced != from.synced || of.bytes + from.bytes > BATCH_BYTES {
            done.push(std::mem::take(batch));
            of.bytes = 0;
        }
        of.synced = from.synced;
        of.bytes += from.bytes;
        batch.push(received);
    }
    done.extend(open.into_iter().map(|(_, batch)| batch));
    done
}

/// The series that rows name.
fn heard(batch: &Batch) -> Vec<Arc<str>> {
    let mut named = vec![false; batch.names.len()];
    for &series in &batch.series {
        if let Some(named) = named.get_mut(series as usize) {
            *named = true;
        }
    }
    let names = batch.names.iter().zip(named);
    let names = names.filter(|(_, named)| *named);
    names.map(|(name, _)| Arc::clone(name)).collect()
}

/// The messages alone: the queue's room is given back, as the batch now counts against the batch's own bound.
fn messages(batch: Vec<Received>) -> Vec<Message> {
    batch.into_iter().map(|received| received.message).collect()
}

/// An outcome that knows what came in and nothing of what became of it.
fn outcome_of(source: usize, messages: &[Message]) -> BatchOutcome {
    BatchOutcome {
        source,
        arrival: messages
            .iter()
            .map(|message| message.arrival)
            .max()
            .unwrap_or_default(),
        acks: messages.iter().filter_map(|message| message.ack).collect(),
        bytes: messages.iter().map(|message| message.payload.len()).sum(),
        counts: MessageCounts {
            received: messages.len() as u64,
            redelivered: messages
                .iter()
                .filter(|message| message.redelivered)
                .count() as u64,
            ..MessageCounts::default()
        },
        ..BatchOutcome::default()
    }
}

fn undecoded(message: &Message) -> BatchOutcome {
    let mut outcome = outcome_of(message.source, std::slice::from_ref(message));
    outcome.counts.quarantined = 1;
    outcome.quarantined.push(quarantined(
        message,
        DecodeFailure {
            reason: reason::ATTEMPTS,
            detail: format!(
                "the daemon ended {} times while it worked on this message",
                ATTEMPTS - 1
            ),
        },
    ));
    outcome
}

fn quarantined(message: &Message, failure: DecodeFailure) -> QuarantinedMessage {
    QuarantinedMessage {
        topic: Arc::clone(&message.topic),
        payload: message
            .payload
            .slice(..message.payload.len().min(QUARANTINE_BYTES)),
        length: message.payload.len() as u64,
        reason: failure.reason,
        detail: failure.detail,
        arrival: message.arrival,
    }
}

/// SHA-256 over topic and payload, which identifies a message across deliveries.
fn digest(message: &Message) -> [u8; 32] {
    Sha256::new()
        .chain_update((message.topic.len() as u64).to_le_bytes())
        .chain_update(message.topic.as_bytes())
        .chain_update(&message.payload)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_one_source_and_at_most_its_bytes() {
        let waiting = [
            (0, true, 10),
            (1, true, BATCH_BYTES),
            (0, true, BATCH_BYTES - 10),
            (0, true, 1),
            (1, true, BATCH_BYTES + 1),
        ];
        let mut batches = batches(waiting.into_iter(), of);
        batches.sort();
        assert_eq!(
            batches,
            [
                vec![(0, true, 1)],
                vec![(0, true, 10), (0, true, BATCH_BYTES - 10)],
                vec![(1, true, BATCH_BYTES)],
                vec![(1, true, BATCH_BYTES + 1)]
            ]
        );
    }

    #[test]
    fn a_clock_that_goes_to_and_fro_changes_no_order() {
        let waiting = [
            (0, false, 1),
            (0, true, 2),
            (1, true, 9),
            (0, false, 3),
            (0, false, 4),
        ];
        let batches = batches(waiting.into_iter(), of);
        let of_first = batches.iter().filter(|batch| batch[0].0 == 0);
        let sizes: Vec<Vec<usize>> = of_first
            .map(|batch| batch.iter().map(|message| message.2).collect())
            .collect();
        assert_eq!(sizes, [vec![1], vec![2], vec![3, 4]]);
    }

    fn of(message: &(usize, bool, usize)) -> Origin<usize> {
        let (source, synced, bytes) = *message;
        Origin {
            source,
            synced,
            bytes,
        }
    }
}
