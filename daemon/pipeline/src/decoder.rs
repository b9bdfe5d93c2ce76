//! A decoder module in its place: the messages of one source in, readings out, with its state and with what happens when it
//! fails.
//!
//! All messages of a batch go into one call. What fails together, by a trap, by its CPU time or by an answer that means
//! nothing, is tried again message by message, each on an instance of its own: so the deadly message alone is set aside,
//! and every other one has had its second attempt. Failing messages may use up one more deadline of a batch, each at most
//! half of what is left of it, so that one that never ends leaves some for those behind it, and a source full of them is held
//! up by no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidegate_domain::limits::MESSAGE_READINGS;
use tidegate_domain::outcome::{StateChange, StateDelta, reason};
use tidegate_domain::{Batch, Message, limits};
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::breaker::{Breaker, BreakerState};
use crate::columns;
use crate::contract::{Fault, GuestBatch, bytes, cut};
use crate::decode::{DecodeFailure, Decoded};
use crate::engine::{Profile, Runtime};
use crate::grants::{Directories, Grant};
use crate::guest::{Called, Failure, Function, Guest};
use crate::host::{Call, Context, LogRate, Secret};
use crate::manifest::{LoadedModule, SlotLimits};
use crate::slot::SlotError;
use crate::state::{GlobalView, SlotState};
use crate::stats::{FilterStats, LastError, PipelineStats};
use crate::worlds::{DECODE, Role};

/// A message is not tried alone with less than this part of the deadline.
const LEAST_PART: u32 = 64;
/// The name of a decoder in its statistics.
const NAME: &str = "decoder";
/// Bytes of a reason or a note that are kept; the rest is cut.
const TEXT_BYTES: usize = 1024;
/// Notes of one call; more are a failure of the decoder.
const NOTES: usize = 16;

/// What a source's decoder runs and how.
#[derive(Clone, Debug)]
pub struct DecoderConfig {
    /// The source's name. State belongs to it and the module.
    pub source: String,
    /// The module.
    pub module: Arc<LoadedModule>,
    /// The settings: an object, empty where there are none.
    pub settings: serde_json::Value,
    /// Bounds of every call.
    pub limits: SlotLimits,
    /// What it may import; see [`crate::grants::granted`].
    pub grants: BTreeSet<Grant>,
    /// The directories that it may read in; see [`crate::grants::directories`].
    pub directories: Directories,
    /// The secrets that the site named for it, by the names that the module knows them by.
    pub secrets: BTreeMap<String, Secret>,
}

/// What messages became, and what is to be committed with that.
#[derive(Clone, Debug, Default)]
pub struct DecodedByModule {
    /// The readings and the messages that failed.
    pub decoded: Decoded,
    /// What became of the decoder's state. It is the truth from here on, also where the messages failed.
    pub state: Vec<StateDelta>,
    /// What the decoder has to say to people, as far as the rate of log lines admits it.
    pub notes: Vec<String>,
    /// Every reading has the time of its message's arrival.
    pub arrival_times: bool,
}

/// The decoder of one source.
pub struct ModuleDecoder {
    source: String,
    guest: Guest,
    decode: Function,
    context: Arc<Context>,
    state: SlotState,
    breaker: Breaker,
    /// Why the breaker opened.
    last_failure: Option<Failure>,
}

impl std::fmt::Debug for ModuleDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleDecoder")
            .field("source", &self.source)
            .field("module", &self.context.module)
            .finish_non_exhaustive()
    }
}

/// Messages on their way in.
#[derive(ComponentType, Lower)]
#[component(record)]
struct MessagesRef<'a> {
    topics: &'a [Arc<str>],
    topic: &'a [u32],
    time: &'a [i64],
    ends: &'a [u32],
    data: &'a [u8],
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Undecoded {
    message: u32,
    reason: String,
}

/// The answer on its way out.
#[derive(ComponentType, Lift)]
#[component(record)]
struct GuestDecoded {
    rows: GuestBatch,
    ends: Vec<u32>,
    undecoded: Vec<Undecoded>,
    notes: Vec<String>,
}

type Parameters<'a> = (MessagesRef<'a>,);
type Results = (Result<GuestDecoded, Fault>,);

/// An answer, checked against the messages that it is about.
#[derive(Debug, Default)]
struct Answer {
    rows: Batch,
    /// Per message: where its rows end.
    ends: Vec<usize>,
    /// By message, each once.
    undecoded: BTreeMap<usize, String>,
    notes: Vec<String>,
}

impl ModuleDecoder {
    /// The key under which a module keeps state as the decoder of a source. No filter has it: theirs have one `/`.
    #[must_use]
    pub fn state_key(source: &str, module: &str) -> String {
        format!("source/{source}/{module}")
    }

    /// Links a decoder with what it was granted and checks its settings. `snapshot` is its state.
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn new(
        runtime: &Runtime,
        config: DecoderConfig,
        snapshot: Option<&StateChange>,
    ) -> Result<Self, SlotError> {
        let DecoderConfig {
            source,
            module,
            settings,
            limits,
            grants,
            directories,
            secrets,
        } = config;
        let manifest = &module.manifest;
        let guest = Guest::in_place(
            runtime,
            &module,
            Role::Decoder,
            &settings,
            (&grants, &directories),
            limits,
        )?;
        let decode = guest
            .function::<Parameters<'static>, Results>(DECODE)
            .map_err(|detail| SlotError::link(manifest, detail))?;
        let slot: Arc<str> = Self::state_key(&source, &manifest.name).into();
        let state = SlotState::restore(manifest.state, snapshot, &slot);
        let stats = Arc::new(PipelineStats {
            filters: vec![FilterStats::new(NAME, &manifest.name, &manifest.version)],
            ..PipelineStats::default()
        });
        let context = Arc::new(Context {
            slot,
            module: format!("{} {}", manifest.name, manifest.version),
            settings,
            secrets,
            directories,
            limits: *guest.limits(),
            log: LogRate::default(),
            stats,
            index: 0,
            rehearsal: runtime.profile() == Profile::Metered,
        });
        Ok(Self {
            source,
            guest,
            decode,
            context,
            state,
            breaker: Breaker::new(),
            last_failure: None,
        })
    }

    /// Decodes messages of its source. Blocks for as long as the decoder computes. `now` moves the back-off of a failing
    /// decoder and the rate of log lines.
    pub fn decode(&mut self, messages: &[Message], now: Instant) -> DecodedByModule {
        let counters = &self.context.stats().counters;
        counters.rows_in.fetch_add(messages.len() as u64, Relaxed);
        let mut made = Made::new(messages);
        // What no decoder is asked about.
        let asked: Vec<usize> = (0..messages.len())
            .filter(|&index| match unfit(&messages[index]) {
                Some(failure) => {
                    made.fail(index, failure);
                    false
                }
                None => true,
            })
            .collect();
        if self.breaker.admits(now) {
            self.ask(messages, &asked, now, &mut made);
        } else {
            counters.skipped_batches.fetch_add(1, Relaxed);
            let last = self.last_failure.clone();
            let last = last.unwrap_or_else(|| Failure::Trap("it failed too often".to_owned()));
            let detail = format!(
                "the decoder is left out after repeated failures; the last: {}",
                last.detail()
            );
            for index in asked {
                made.fail(index, failed(last.reason(), detail.clone()));
            }
        }
        self.tell_of_breaker();
        let mut result = made.finish(messages, &self.context.slot);
        self.tell_notes(&mut result.notes, now);
        let (rows, failed) = (result.decoded.batch.len(), result.decoded.failures.len());
        let counters = &self.context.stats().counters;
        counters.rows_out.fetch_add(rows as u64, Relaxed);
        counters.quarantined.fetch_add(failed as u64, Relaxed);
        result
    }

    /// Asks about all of them together, then, where that fails, about each alone.
    fn ask(&mut self, messages: &[Message], asked: &[usize], now: Instant, made: &mut Made) {
        if asked.is_empty() {
            return;
        }
        let budget = self.guest.limits().deadline;
        let failure = match self.attempt(messages, asked, now, budget) {
            (Ok(answer), _) => {
                made.take(asked, answer);
                self.breaker.succeeded();
                return;
            }
            (Err(failure), _) => failure,
        };
        self.report(&failure, messages, asked, now);
        if let Failure::Fault(message) = failure {
            // An orderly answer: the decoder works, and says that it can do nothing with these.
            self.breaker.succeeded();
            for &index in asked {
                made.fail(index, failed(reason::FAULT, message.clone()));
            }
            return;
        }
        let mut wasted = Duration::ZERO;
        let mut some = false;
        let mut last = failure;
        for &index in asked {
            let left = budget.saturating_sub(wasted);
            let own = if asked.len() == 1 { left } else { left / 2 };
            if own < budget / LEAST_PART {
                let detail = format!(
                    "the messages before it used up the batch's CPU time; the last: {}",
                    last.detail()
                );
                made.fail(index, failed(last.reason(), detail));
                continue;
            }
            self.context.stats().counters.retries.fetch_add(1, Relaxed);
            match self.attempt(messages, &[index], now, own) {
                (Ok(answer), _) => {
                    made.take(&[index], answer);
                    some = true;
                }
                (Err(failure), used) => {
                    wasted += used;
                    self.report(&failure, messages, &[index], now);
                    made.fail(index, failed(failure.reason(), failure.detail().to_owned()));
                    last = failure;
                }
            }
        }
        if some && wasted < budget {
            self.breaker.succeeded();
        } else {
            self.breaker.failed(now);
        }
        self.last_failure = Some(last);
    }

    /// One call on an instance of its own, with the CPU time that it took. What it leaves in the state is the truth from
    /// here on.
    fn attempt(
        &mut self,
        messages: &[Message],
        asked: &[usize],
        now: Instant,
        budget: Duration,
    ) -> (Result<(Answer, Option<StateChange>), Failure>, Duration) {
        let columns = Columns::new(messages, asked);
        let clock = columns.time.iter().copied().max().unwrap_or_default();
        let call = Call {
            global: match &self.state {
                SlotState::Global(state) => Some(GlobalView::new(state, self.guest.limits())),
                SlotState::None | SlotState::Series(_) => None,
            },
            ..Call::new(&self.context, now, clock)
        };
        let parameters = (columns.lower(),);
        let called: Called<Results> =
            self.guest
                .call_within(budget, &self.decode, call, parameters);
        let stats = self.context.stats();
        stats.called(called.used, called.call.memory.peak);
        let answer = match called.result {
            Ok((Ok(decoded),)) => {
                let limits = self.guest.limits();
                decoded
                    .judge(asked.len(), limits)
                    .map_err(Failure::InvalidOutput)
            }
            Ok((Err(fault),)) => Err(Failure::Fault(fault.message())),
            Err(failure) => Err(failure),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                stats.failed_by(&failure);
                return (Err(failure), called.used);
            }
        };
        stats.add_metrics(called.call.metrics, self.guest.limits().metric_names);
        let state = match (&mut self.state, called.call.global) {
            (SlotState::Global(state), Some(view)) => view.commit(state),
            (SlotState::None | SlotState::Series(_) | SlotState::Global(_), _) => None,
        };
        (Ok((answer, state)), called.used)
    }

    fn report(&self, failure: &Failure, messages: &[Message], asked: &[usize], now: Instant) {
        let first = asked.first().and_then(|&index| messages.get(index));
        if self.context.log.admits(now, limits::LOG_LINES_PER_SECOND) {
            tracing::warn!(
                source = self.source,
                module = self.context.module,
                messages = asked.len(),
                topic = first.map_or("", |message| &*message.topic),
                reason = failure.reason(),
                detail = failure.detail(),
                "a decoder failed"
            );
        }
        self.context.stats().failed(LastError {
            reason: failure.reason(),
            detail: failure.detail().to_owned(),
            at: first.map_or(0, |message| message.arrival.wall),
        });
    }

    fn tell_of_breaker(&self) {
        let state = self.breaker.state();
        let before = self.context.stats().breaker.swap(state as u8, Relaxed);
        if before == BreakerState::Closed as u8 && state == BreakerState::Open {
            tracing::error!(
                source = self.source,
                module = self.context.module,
                "the decoder keeps failing and is left out for a while; its messages go to quarantine"
            );
        } else if before == BreakerState::Open as u8 && state == BreakerState::Closed {
            tracing::info!(source = self.source, "the decoder works again");
        }
    }

    /// Writes notes into the log, and keeps those that the rate admits.
    fn tell_notes(&self, notes: &mut Vec<String>, now: Instant) {
        let (source, module) = (self.source.as_str(), self.context.module.as_str());
        notes.retain(|note| {
            let admitted = self
                .context
                .log
                .admits(now, self.context.limits.log_lines_per_second);
            if admitted {
                tracing::warn!(target: "module", source, module, "{note}");
            } else {
                let dropped = &self.context.stats().counters.log_lines_dropped;
                dropped.fetch_add(1, Relaxed);
            }
            admitted
        });
    }

    /// Its numbers, for reading from any thread: one entry in `filters`.
    #[must_use]
    pub fn stats(&self) -> Arc<PipelineStats> {
        Arc::clone(&self.context.stats)
    }
}

/// What no decoder is asked about: the same as no native one reads.
fn unfit(message: &Message) -> Option<DecodeFailure> {
    if message.payload.len() > limits::PAYLOAD_BYTES {
        return Some(failed(
            reason::OVERSIZE,
            format!(
                "the payload has {} bytes; {} are decoded at most",
                message.payload.len(),
                limits::PAYLOAD_BYTES
            ),
        ));
    }
    message
        .topic
        .is_empty()
        .then(|| failed(reason::UNDECODABLE, "the topic is empty".to_owned()))
}

fn failed(reason: &'static str, detail: String) -> DecodeFailure {
    DecodeFailure { reason, detail }
}

/// Messages as columns.
struct Columns {
    topics: Vec<Arc<str>>,
    topic: Vec<u32>,
    time: Vec<i64>,
    ends: Vec<u32>,
    data: Vec<u8>,
}

impl Columns {
    fn new(messages: &[Message], asked: &[usize]) -> Self {
        let bytes = asked.iter().map(|&index| messages[index].payload.len());
        let mut columns = Self {
            topics: Vec::new(),
            topic: Vec::with_capacity(asked.len()),
            time: Vec::with_capacity(asked.len()),
            ends: Vec::with_capacity(asked.len()),
            data: Vec::with_capacity(bytes.sum()),
        };
        let mut known: BTreeMap<&str, u32> = BTreeMap::new();
        for &index in asked {
            let message = &messages[index];
            let topic = *known.entry(&message.topic).or_insert_with(|| {
                columns.topics.push(Arc::clone(&message.topic));
                // A batch has 1024 messages and a megabyte: far below u32::MAX, here and in `ends`.
                u32::try_from(columns.topics.len() - 1).unwrap_or(u32::MAX)
            });
            columns.topic.push(topic);
            columns.time.push(message.arrival.wall);
            columns.data.extend_from_slice(&message.payload);
            let end = u32::try_from(columns.data.len()).unwrap_or(u32::MAX);
            columns.ends.push(end);
        }
        columns
    }

    fn lower(&self) -> MessagesRef<'_> {
        MessagesRef {
            topics: &self.topics,
            topic: &self.topic,
            time: &self.time,
            ends: &self.ends,
            data: &self.data,
        }
    }
}

impl GuestDecoded {
    /// # Errors
    /// What in the answer means nothing, for people.
    fn judge(self, messages: usize, limits: &SlotLimits) -> Result<Answer, String> {
        let rows = self.rows.adopt()?;
        let size = bytes(&rows);
        if size > limits.output_bytes {
            return Err(format!(
                "its rows have {size} bytes, each with its name and its text; {} in a call are possible",
                limits.output_bytes
            ));
        }
        for name in &rows.names {
            if name.contains(char::is_control) {
                return Err(format!(
                    "the series `{}` has a control character in its name",
                    name.escape_debug()
                ));
            }
        }
        if self.ends.len() != messages {
            return Err(format!(
                "`ends` has {} entries for {messages} messages",
                self.ends.len()
            ));
        }
        let ends: Vec<usize> = self.ends.into_iter().map(|end| end as usize).collect();
        let mut begin = 0;
        for (message, &end) in ends.iter().enumerate() {
            if end < begin || end > rows.len() {
                return Err(format!(
                    "the rows of message {message} end at {end}; they begin at {begin} of {}",
                    rows.len()
                ));
            }
            if end - begin > MESSAGE_READINGS {
                return Err(format!(
                    "message {message} has {} readings; {MESSAGE_READINGS} are possible",
                    end - begin
                ));
            }
            begin = end;
        }
        if begin != rows.len() {
            return Err(format!(
                "the rows from {begin} of {} on belong to no message",
                rows.len()
            ));
        }
        let mut undecoded = BTreeMap::new();
        for Undecoded { message, reason } in self.undecoded {
            let message = message as usize;
            if message >= messages {
                return Err(format!("message {message} of {messages} is undecoded"));
            }
            // Of several reasons the first is kept.
            undecoded
                .entry(message)
                .or_insert_with(|| cut(reason, TEXT_BYTES));
        }
        if self.notes.len() > NOTES {
            return Err(format!("{} notes; {NOTES} are possible", self.notes.len()));
        }
        let notes = self.notes.into_iter();
        Ok(Answer {
            rows,
            ends,
            undecoded,
            notes: notes.map(|note| cut(note, TEXT_BYTES)).collect(),
        })
    }
}

/// What the calls came to so far. Answers come in the order of the messages.
struct Made {
    batch: Batch,
    rows: Vec<u32>,
    failures: BTreeMap<usize, DecodeFailure>,
    states: Vec<StateChange>,
    notes: Vec<String>,
    /// Of each row its message.
    origin: Vec<usize>,
}

impl Made {
    fn new(messages: &[Message]) -> Self {
        Self {
            batch: Batch::default(),
            rows: vec![0; messages.len()],
            failures: BTreeMap::new(),
            states: Vec::new(),
            notes: Vec::new(),
            origin: Vec::new(),
        }
    }

    fn fail(&mut self, message: usize, failure: DecodeFailure) {
        self.failures.insert(message, failure);
    }

    fn take(&mut self, asked: &[usize], (answer, state): (Answer, Option<StateChange>)) {
        let Answer {
            mut rows,
            ends,
            undecoded,
            notes,
        } = answer;
        let mut kept = vec![true; rows.len()];
        let mut begin = 0;
        for (place, (&message, &end)) in asked.iter().zip(&ends).enumerate() {
            if undecoded.contains_key(&place) {
                // None of its rows count.
                kept[begin..end].fill(false);
            } else {
                // Never more than `MESSAGE_READINGS`.
                self.rows[message] = u32::try_from(end - begin).unwrap_or(u32::MAX);
                self.origin.resize(self.origin.len() + end - begin, message);
            }
            begin = end;
        }
        for (place, why) in undecoded {
            if let Some(&message) = asked.get(place) {
                self.fail(message, failed(reason::UNDECODABLE, why));
            }
        }
        if kept.contains(&false) {
            columns::retain(&mut rows, &kept);
        }
        columns::append(&mut self.batch, rows);
        self.states.extend(state);
        self.notes.extend(notes);
    }

    fn finish(self, messages: &[Message], slot: &Arc<str>) -> DecodedByModule {
        let times = self.batch.time.iter().zip(&self.origin);
        let arrival_times = times
            .filter_map(|(time, &message)| Some((*time, messages.get(message)?)))
            .all(|(time, message)| time == message.arrival.wall);
        let failures: Vec<(usize, DecodeFailure)> = self.failures.into_iter().collect();
        DecodedByModule {
            decoded: Decoded {
                batch: self.batch,
                rows: self.rows,
                decoded: (messages.len() - failures.len()) as u64,
                failures,
            },
            state: self
                .states
                .into_iter()
                .map(|change| StateDelta {
                    slot: Arc::clone(slot),
                    change,
                })
                .collect(),
            notes: self.notes,
            arrival_times,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_domain::batch::BatchBuilder;
    use tidegate_domain::{Quality, Value};

    use super::*;

    fn answer(rows: &[&str], ends: &[u32]) -> GuestDecoded {
        let mut batch = BatchBuilder::new();
        for name in rows {
            let series = batch.series(&(*name).into());
            batch.push(series, 0, Value::Int(1), Quality::Good);
        }
        GuestDecoded {
            rows: batch.finish().into(),
            ends: ends.to_vec(),
            undecoded: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Every length, index and name of an answer about two messages.
    #[test]
    fn an_answer_that_means_nothing_is_refused_with_the_place() {
        let check = |answer: GuestDecoded, want: &str| match answer.judge(2, &SlotLimits::default())
        {
            Ok(_) => assert_eq!(want, ""),
            Err(error) => assert!(!want.is_empty() && error.contains(want), "{error}"),
        };
        check(answer(&["a", "b"], &[1, 2]), "");
        check(answer(&[], &[0, 0]), "");
        check(answer(&["a"], &[1]), "1 entries for 2 messages");
        check(answer(&["a"], &[1, 1, 1]), "3 entries for 2 messages");
        check(answer(&["a"], &[1, 0]), "end at 0; they begin at 1");
        check(answer(&["a"], &[0, 2]), "end at 2");
        check(
            answer(&["a", "b"], &[0, 1]),
            "from 1 of 2 on belong to no message",
        );
        check(answer(&["a\u{7}"], &[0, 1]), "control character");
        check(answer(&[""], &[0, 1]), "0 bytes");
        check(answer(&["x"; MESSAGE_READINGS], &[0, 65_536]), "");
        check(
            answer(&["x"; MESSAGE_READINGS + 1], &[0, 65_537]),
            "message 1 has 65537 readings",
        );
        let name = "x".repeat(500);
        let large: Vec<&str> = vec![&name; 8_200];
        check(
            answer(&large, &[0, 8_200]),
            "each with its name and its text",
        );
        let mut undecoded = answer(&[], &[0, 0]);
        undecoded.undecoded.push(Undecoded {
            message: 2,
            reason: String::new(),
        });
        check(undecoded, "message 2 of 2");
        let mut notes = answer(&[], &[0, 0]);
        notes.notes = vec![String::new(); NOTES + 1];
        check(notes, "17 notes");
    }

    #[test]
    fn rows_of_an_undecoded_message_do_not_count_and_reasons_are_cut() {
        let mut guest = answer(&["a", "b", "b"], &[1, 3]);
        for reason in ["ö".repeat(600), "second".to_owned()] {
            guest.undecoded.push(Undecoded { message: 0, reason });
        }
        let message = Message {
            source: 0,
            topic: "t".into(),
            payload: bytes::Bytes::new(),
            arrival: tidegate_domain::Arrival::default(),
            ack: None,
            redelivered: false,
            identity: None,
        };
        let messages = [message.clone(), message];
        let mut made = Made::new(&messages);
        made.take(
            &[0, 1],
            (guest.judge(2, &SlotLimits::default()).unwrap(), None),
        );
        let made = made.finish(&messages, &"source/s/m".into());
        assert_eq!(made.decoded.rows, [0, 2]);
        assert_eq!(made.decoded.batch.len(), 2);
        assert_eq!(&**made.decoded.batch.name(0), "b");
        assert_eq!(made.decoded.decoded, 1);
        let (place, failure) = &made.decoded.failures[0];
        assert_eq!((*place, failure.reason), (0, reason::UNDECODABLE));
        assert_eq!(failure.detail.len(), 1024);
        assert!(made.arrival_times);
    }
}
