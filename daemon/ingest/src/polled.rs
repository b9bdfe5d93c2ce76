//! A source that is asked now and then, and answers on a thread of its own: files of sysfs, drivers of buses.
//!
//! Reading such a thing blocks, in a bad case for ever, so the source's future never does it itself: it asks a thread, which
//! whoever made the source runs ([`Asks::serve`]), and goes on without an answer when it has to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_domain::outcome::{StateDelta, reason};
use tidegate_domain::{Arrival, Message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::source::{
    Activity, Budget, Occurrence, Phase, Received, Reporter, Shared, SourceError, SourceEvent,
    SourceHandle, left,
};

/// An answer that takes longer than this (and than the interval) is told, and waited for all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// A source that is asked.
#[derive(Clone, Debug)]
pub struct PolledConfig {
    /// Index of the source in the configuration's order.
    pub index: usize,
    /// Its name, which stands where another's topic would.
    pub name: String,
    /// What is read, for people.
    pub device: String,
    /// Time between two questions. One that comes due while the one before is not answered is left out.
    pub interval: Duration,
}

/// What came of a question.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The readings, as [`lines`](tidegate_domain::lines) has them; empty where there are none.
    pub lines: String,
    /// What is wrong, where something is. With readings or without.
    pub trouble: Option<String>,
    /// What became of the state of whatever read it.
    pub state: Vec<StateDelta>,
}

/// A question on its way to the thread.
#[derive(Debug)]
struct Ask {
    at: Arrival,
    reply: oneshot::Sender<Answer>,
}

/// The thread's end of a source.
#[derive(Debug)]
pub struct Asks {
    questions: mpsc::Receiver<Ask>,
}

impl Asks {
    /// Answers until the source has ended. Blocks.
    pub fn serve(mut self, mut answer: impl FnMut(Arrival) -> Answer) {
        while let Some(ask) = self.questions.blocking_recv() {
            // A source that ended meanwhile wants no answer, and no further question comes.
            drop(ask.reply.send(answer(ask.at)));
        }
    }
}

/// A source that is asked. [`PolledSource::run`] is all it does.
pub struct PolledSource<T> {
    config: PolledConfig,
    topic: Arc<str>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    questions: mpsc::Sender<Ask>,
    /// `None` once nothing more is taken in: whoever reads the queue then sees its end.
    queue: Option<mpsc::Sender<T>>,
    budget: Budget,
    reporter: Reporter,
    /// The trouble that was told last.
    trouble: Option<String>,
    /// Answers in a row with trouble.
    attempts: u32,
    opened: bool,
}

/// A source that hands what it is answered to `intake` and what happens to it to `events`, and the end at which it is answered.
///
/// Both channels are bounded. What cannot be told to wait is counted and dropped while there is no room.
pub fn polled<T: From<Received>>(
    config: PolledConfig,
    intake: mpsc::Sender<T>,
    events: mpsc::Sender<SourceEvent>,
) -> (PolledSource<T>, SourceHandle, Asks) {
    let shared = Shared::new(0);
    let handle = shared.handle();
    let (questions, asked) = mpsc::channel(1);
    let source = PolledSource {
        topic: config.name.as_str().into(),
        phase: shared.phase(),
        shared,
        questions,
        queue: Some(intake),
        budget: Budget::new(),
        reporter: Reporter::new(config.index, events),
        trouble: None,
        attempts: 0,
        opened: false,
        config,
    };
    (source, handle, Asks { questions: asked })
}

/// Nobody takes messages any more.
struct Closed;

impl<T: From<Received> + Send> PolledSource<T> {
    /// Asks until [`SourceHandle::finish`]. `clock` is read once for every question.
    ///
    /// # Errors
    /// When nobody takes the messages any more. Trouble with what is read is no error: it is shown, and asked again.
    pub async fn run(
        mut self,
        clock: impl Fn() -> Arrival + Send + Sync,
    ) -> Result<(), SourceError> {
        let result = self.ask_again(&clock).await;
        self.shared.set_activity(Activity::Stopped);
        self.reporter.end();
        result.map_err(|Closed| SourceError::IntakeClosed {
            source_name: self.config.name,
        })
    }

    async fn ask_again(
        &mut self,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> Result<(), Closed> {
        let mut ticks = interval(self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let running = tokio::select! {
                biased;
                () = left(&mut self.phase, Phase::Running) => None,
                _ = ticks.tick() => Some(clock()),
            };
            let answer = match running {
                Some(at) => self.ask(at).await,
                None => None,
            };
            let Some(answer) = answer else {
                self.reporter.flush_overflow();
                self.queue = None;
                left(&mut self.phase, Phase::Running).await;
                left(&mut self.phase, Phase::Stopping).await;
                return Ok(());
            };
            let at = clock();
            self.tell(answer.trouble, at);
            self.offer(answer.lines, answer.state, at)?;
            self.reporter.flush_overflow();
        }
    }

    /// `None` where the source has to end, or the thread has.
    async fn ask(&mut self, at: Arrival) -> Option<Answer> {
        let (reply, mut answer) = oneshot::channel();
        self.questions.send(Ask { at, reply }).await.ok()?;
        let late = sleep(PATIENCE.max(self.config.interval));
        tokio::pin!(late);
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                // The answer is given up: what it would have brought was not taken in.
                () = left(&mut self.phase, Phase::Running) => return None,
                answered = &mut answer => return answered.ok(),
                () = &mut late, if !told => {
                    told = true;
                    let waited = PATIENCE.max(self.config.interval);
                    self.tell(Some(format!("no answer for {} s; still waiting", waited.as_secs())), at);
                }
            }
        }
    }

    /// Shows how it stands; each change is told once.
    fn tell(&mut self, trouble: Option<String>, at: Arrival) {
        match &trouble {
            None => {
                if !self.opened || self.trouble.is_some() {
                    self.shared.connected(!self.opened);
                    let device = self.config.device.clone();
                    self.reporter.report(at, Occurrence::Opened { device });
                }
                self.opened = true;
                self.attempts = 0;
                self.shared.subscribed(Vec::new());
            }
            Some(error) => {
                self.attempts = self.attempts.saturating_add(1);
                if trouble != self.trouble {
                    let reason = error.clone();
                    self.reporter
                        .report(at, Occurrence::Disconnected { reason });
                }
                self.shared.failed(error.clone());
                self.shared.set_activity(Activity::BackingOff {
                    until: Instant::now() + self.config.interval,
                    attempt: self.attempts,
                });
            }
        }
        self.trouble = trouble;
    }

    /// Puts readings into the queue, or counts them as dropped where there is no room.
    fn offer(
        &mut self,
        lines: String,
        state: Vec<StateDelta>,
        arrival: Arrival,
    ) -> Result<(), Closed> {
        let nothing = lines.is_empty() && state.is_empty();
        let Some(queue) = self.queue.as_ref().filter(|_| !nothing) else {
            return Ok(());
        };
        let size = lines.len();
        self.shared.count_received(size, false);
        let slot = match queue.try_reserve() {
            Ok(slot) => Some(slot),
            Err(mpsc::error::TrySendError::Full(())) => None,
            Err(mpsc::error::TrySendError::Closed(())) => return Err(Closed),
        };
        let room = slot.and_then(|slot| Some((slot, self.budget.try_take(Budget::units(size))?)));
        let Some((slot, permit)) = room else {
            self.shared.count_dropped();
            self.reporter.overflow(reason::OVERRUN, size, arrival);
            return Ok(());
        };
        let message = Message {
            source: self.config.index,
            topic: Arc::clone(&self.topic),
            payload: Bytes::from(lines),
            arrival,
            // Nothing that is measured waits for an acknowledgement.
            ack: None,
            redelivered: false,
            identity: None,
        };
        slot.send(T::from(Received {
            message,
            permit,
            unframed: None,
            state,
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use super::*;
    use crate::source::SourceState;

    fn config() -> PolledConfig {
        PolledConfig {
            index: 3,
            name: "board".to_owned(),
            device: "/sys/class/hwmon".to_owned(),
            interval: Duration::from_millis(5),
        }
    }

    fn answer(lines: &str, trouble: Option<&str>) -> Answer {
        Answer {
            lines: lines.to_owned(),
            trouble: trouble.map(str::to_owned),
            ..Answer::default()
        }
    }

    #[tokio::test]
    async fn each_answer_is_a_message_and_each_change_is_told_once() {
        let (intake, mut received) = mpsc::channel::<Received>(64);
        let (events, mut happened) = mpsc::channel(64);
        let (source, handle, asks) = polled(config(), intake, events);
        let mut answers: VecDeque<Answer> = [
            answer("a\tint\t1\tgood\n", None),
            answer("", Some("it is gone")),
            answer("", Some("it is gone")),
            answer("a\tint\t2\tgood\n", None),
        ]
        .into();
        let (done, finished) = oneshot::channel::<()>();
        let mut done = Some(done);
        let thread = thread::spawn(move || {
            asks.serve(|_| {
                answers.pop_front().unwrap_or_else(|| {
                    drop(done.take());
                    Answer::default()
                })
            });
        });
        let run = tokio::spawn(source.run(Arrival::default));
        finished.await.unwrap_err();
        handle.stop_intake();
        let mut payloads = Vec::new();
        while let Some(received) = received.recv().await {
            assert_eq!(
                (received.message.source, &*received.message.topic),
                (3, "board")
            );
            payloads.push(received.message.payload);
        }
        assert_eq!(payloads, ["a\tint\t1\tgood\n", "a\tint\t2\tgood\n"]);
        handle.finish();
        run.await.unwrap().unwrap();
        thread.join().unwrap();
        let mut told = Vec::new();
        while let Some(event) = happened.recv().await {
            told.push(event.what);
        }
        let opened = Occurrence::Opened {
            device: "/sys/class/hwmon".to_owned(),
        };
        let gone = Occurrence::Disconnected {
            reason: "it is gone".to_owned(),
        };
        assert_eq!(told, [opened.clone(), gone, opened]);
        assert_eq!(handle.status().state, SourceState::Stopped);
    }

    #[tokio::test]
    async fn a_source_whose_thread_hangs_ends_all_the_same() {
        let (intake, mut received) = mpsc::channel::<Received>(4);
        let (events, _happened) = mpsc::channel(4);
        let (source, handle, asks) = polled(config(), intake, events);
        let (begun, begins) = oneshot::channel::<()>();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let mut begun = Some(begun);
        let thread = thread::spawn(move || {
            asks.serve(|_| {
                drop(begun.take());
                hang.recv().ok();
                Answer::default()
            });
        });
        let run = tokio::spawn(source.run(Arrival::default));
        begins.await.unwrap_err();
        handle.stop_intake();
        assert!(received.recv().await.is_none());
        handle.finish();
        run.await.unwrap().unwrap();
        drop(release);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn what_has_no_room_is_counted() {
        let (intake, received) = mpsc::channel::<Received>(1);
        let (events, mut happened) = mpsc::channel(64);
        let (source, handle, asks) = polled(config(), intake, events);
        let thread = thread::spawn(move || {
            asks.serve(|_| answer("a\tint\t1\tgood\n", None));
        });
        let run = tokio::spawn(source.run(Arrival::default));
        let overflow = loop {
            let event = happened.recv().await.unwrap();
            if let Occurrence::Overflow {
                reason, messages, ..
            } = event.what
            {
                break (reason, messages);
            }
        };
        assert_eq!(overflow, (reason::OVERRUN, 1));
        handle.stop_intake();
        handle.finish();
        run.await.unwrap().unwrap();
        thread.join().unwrap();
        drop(received);
        assert!(handle.status().dropped >= 1);
    }
}
