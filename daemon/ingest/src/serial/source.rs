//! The source's future: open, read, wait, again.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::backoff::Backoff;
use tidegate_domain::outcome::reason;
use tidegate_domain::{Arrival, Message};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until};

use super::config::SerialConfig;
use super::framing::{Framer, Heard};
use super::line::{Line, LineError};
use super::sys::Counts;
use crate::source::{
    Activity, Budget, Occurrence, Phase, Received, Reporter, Shared, SourceError, SourceEvent,
    SourceHandle, left, random,
};

/// Waits between attempts to open the device. An attempt is one system call.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A line that was open as long has proved itself: the next wait is the shortest one again.
const PROVED: Duration = Duration::from_secs(10);

/// How often losses are reported and the driver's counts are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Time between two messages about errors of a line.
const ERRORS_EVERY: Duration = Duration::from_mins(1);

/// Silence after which garbage waits for no company, where no shorter pause ends frames.
const FLUSH: Duration = Duration::from_secs(1);

/// Bytes that come within this time after the line was opened, and some characters more, are the rest of something that was
/// on its way before: a USB adapter hands over what it has every 16 ms.
const CUT: Duration = Duration::from_millis(20);

/// Bits of three characters of a line, at most.
const CUT_BITS: u64 = 36;

/// Bytes of one read: as many as the kernel holds of a line.
const READ_BYTES: usize = 4096;

/// A serial source. [`SerialSource::run`] is all it does.
pub struct SerialSource<T> {
    config: Arc<SerialConfig>,
    topic: Arc<str>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    /// `None` once nothing more is taken in: whoever reads the queue then sees its end.
    queue: Option<mpsc::Sender<T>>,
    budget: Budget,
    reporter: Reporter,
    opened: u64,
    errors: Errors,
}

/// A serial source that hands its frames to `intake` and what happens to it to `events`.
///
/// Both channels are bounded. A line cannot be told to wait: what arrives while the source's own bound
/// ([`SOURCE_QUEUE_MESSAGES`](tidegate_domain::limits::SOURCE_QUEUE_MESSAGES) and `…_BYTES`) is reached or `intake` is full, is
/// counted and dropped. `events` is never waited for: losses are merged until there is room for them.
pub fn serial<T: From<Received>>(
    config: SerialConfig,
    intake: mpsc::Sender<T>,
    events: mpsc::Sender<SourceEvent>,
) -> (SerialSource<T>, SourceHandle) {
    let shared = Shared::new(0);
    let handle = shared.handle();
    let source = SerialSource {
        topic: config.name.as_str().into(),
        phase: shared.phase(),
        shared,
        queue: Some(intake),
        budget: Budget::new(),
        reporter: Reporter::new(config.index, events),
        opened: 0,
        errors: Errors::default(),
        config: Arc::new(config),
    };
    (source, handle)
}

/// Why a line is no longer served.
enum End {
    /// As asked.
    Finished,
    Failed(LineError),
    IntakeClosed,
}

/// What can wake a served line.
enum Wake {
    Read(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Ask,
    Silence,
    Tick,
    Phase,
}

/// Nobody takes frames any more.
struct Closed;

impl<T: From<Received> + Send> SerialSource<T> {
    /// Takes frames in until [`SourceHandle::finish`], however often the device comes and goes. `clock` is read once for every
    /// read. Dropping the future closes the device.
    ///
    /// # Errors
    /// When nobody takes the frames any more. Trouble with the line is no error: it is shown, and the device opened again.
    pub async fn run(
        mut self,
        clock: impl Fn() -> Arrival + Send + Sync,
    ) -> Result<(), SourceError> {
        let result = self.lines(&clock).await;
        self.shared.set_activity(Activity::Stopped);
        self.reporter.end();
        result
    }

    async fn lines(
        &mut self,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> Result<(), SourceError> {
        let config = Arc::clone(&self.config);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut said = String::new();
        loop {
            self.shared.set_activity(Activity::Connecting);
            let began = Instant::now();
            let end = match Line::open(&config.port) {
                Ok(line) => {
                    said.clear();
                    self.serve(&config, line, clock).await
                }
                Err(error) => End::Failed(error),
            };
            let error = match end {
                End::Finished => return Ok(()),
                End::IntakeClosed => {
                    return Err(SourceError::IntakeClosed {
                        source_name: config.name.clone(),
                    });
                }
                End::Failed(error) => error.to_string(),
            };
            if *self.phase.borrow() != Phase::Running {
                return Ok(());
            }
            if began.elapsed() >= PROVED {
                backoff.reset();
            }
            let wait = backoff.next(random());
            // A device may be away for months: each reason is told once.
            if error != said {
                let reason = error.clone();
                self.reporter
                    .report(clock(), Occurrence::Disconnected { reason });
            }
            self.reporter.flush_overflow();
            self.shared.failed(error.clone());
            said = error;
            self.shared.set_activity(Activity::BackingOff {
                until: Instant::now() + wait,
                attempt: backoff.attempts(),
            });
            tokio::select! {
                () = sleep(wait) => {}
                () = left(&mut self.phase, Phase::Running) => return Ok(()),
            }
        }
    }

    /// Serves one line for as long as it is there.
    async fn serve(
        &mut self,
        config: &SerialConfig,
        mut line: Line,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> End {
        let mut framer = Framer::new(&config.framing, config.longest, config.pause);
        let mut buffer = vec![0; READ_BYTES];
        // Before it counts as open: whoever waits for that then sends whole frames.
        let mut first = rest(config, &line, &mut buffer).await;
        if first.is_some() {
            framer.begin_cut();
        }
        self.opened += 1;
        self.shared.connected(self.opened == 1);
        self.shared.subscribed(Vec::new());
        let device = config.port.device.display().to_string();
        self.reporter.report(clock(), Occurrence::Opened { device });

        let mut output = config.initial.clone();
        let mut ticks = interval_at((Instant::now() + TICK).into(), TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = config.query.as_ref().map(|query| {
            let mut asks = tokio::time::interval(query.every);
            asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            asks
        });
        let mut silent_at: Option<Instant> = None;
        let end = loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Running => {}
                Phase::Stopping => {
                    // What was begun of a frame is counted before the queue is closed.
                    if self.hear(&mut framer, clock(), Framer::end).is_err() {
                        return End::IntakeClosed;
                    }
                    self.reporter.flush_overflow();
                    self.queue = None;
                }
                Phase::Finishing => return End::Finished,
            }
            let reading = phase == Phase::Running;
            // Every branch can be cancelled without losing anything. What was received comes before what time says of it.
            let wake = tokio::select! {
                biased;
                _ = self.phase.changed() => Wake::Phase,
                _ = ticks.tick() => Wake::Tick,
                () = next(&mut asks), if reading => Wake::Ask,
                read = first_or(&mut first, &line, &mut buffer), if reading => Wake::Read(read),
                written = line.write(&output), if reading && !output.is_empty() => {
                    Wake::Written(written)
                }
                () = until(silent_at), if reading => Wake::Silence,
            };
            let heard = match wake {
                Wake::Read(Ok(0)) => {
                    break LineError::gone(&config.port);
                }
                Wake::Read(Err(error)) | Wake::Written(Err(error)) => {
                    break LineError::broken(&config.port, error);
                }
                Wake::Read(Ok(read)) => {
                    silent_at = Some(Instant::now() + framer.pause().unwrap_or(FLUSH));
                    let bytes = buffer.get(..read).unwrap_or_default();
                    self.hear(&mut framer, clock(), |framer, heard| {
                        framer.feed(bytes, heard);
                    })
                }
                Wake::Silence => {
                    silent_at = None;
                    let silence = if framer.pause().is_some() {
                        Framer::silence
                    } else {
                        Framer::flush
                    };
                    self.hear(&mut framer, clock(), silence)
                }
                Wake::Written(Ok(written)) => {
                    output.drain(..written.min(output.len()));
                    Ok(())
                }
                Wake::Ask => {
                    // A line that takes no question has one waiting already.
                    if let (true, Some(query)) = (output.is_empty(), &config.query) {
                        output.extend_from_slice(&query.bytes);
                    }
                    Ok(())
                }
                Wake::Tick => {
                    self.look(&mut line, clock);
                    self.tell_errors(clock);
                    self.reporter.flush_overflow();
                    Ok(())
                }
                Wake::Phase => Ok(()),
            };
            if let Err(Closed) = heard {
                return End::IntakeClosed;
            }
        };
        drop(line);
        match self.hear(&mut framer, clock(), Framer::end) {
            Ok(()) => End::Failed(end),
            Err(Closed) => End::IntakeClosed,
        }
    }

    /// Hands over what comes out of the framer.
    fn hear(
        &mut self,
        framer: &mut Framer,
        arrival: Arrival,
        act: impl FnOnce(&mut Framer, &mut dyn FnMut(Heard)),
    ) -> Result<(), Closed> {
        let mut result = Ok(());
        act(framer, &mut |heard| {
            if result.is_ok() {
                result = self.offer(heard, arrival);
            }
        });
        result
    }

    /// Puts a frame, or garbage, into the queue, or counts it as dropped where there is no room.
    fn offer(&mut self, heard: Heard, arrival: Arrival) -> Result<(), Closed> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let (payload, unframed) = match heard {
            Heard::Frame(payload) => (payload, None),
            Heard::Garbage { bytes, why } => (bytes, Some(why)),
        };
        let size = payload.len();
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
            payload,
            arrival,
            // A line waits for no acknowledgement.
            ack: None,
            redelivered: false,
            identity: None,
        };
        slot.send(T::from(Received {
            message,
            permit,
            unframed,
            state: Vec::new(),
        }));
        Ok(())
    }

    /// Looks at what the driver has counted.
    fn look(&mut self, line: &mut Line, clock: &impl Fn() -> Arrival) {
        let Some(new) = line.look() else {
            return;
        };
        if new.overrun > 0 {
            // How many frames those characters were of, nobody knows: one at least.
            self.shared.count_received(0, false);
            self.shared.count_dropped();
            self.reporter.overflow(reason::OVERRUN, 0, clock());
        }
        self.errors.add(new);
    }

    /// Tells what is due of the line's errors.
    fn tell_errors(&mut self, clock: &impl Fn() -> Arrival) {
        if let Some(Counts {
            frame,
            parity,
            breaks,
            overrun,
        }) = self.errors.due(Instant::now())
        {
            let what = Occurrence::LineErrors {
                frame,
                parity,
                breaks,
                overrun,
            };
            self.reporter.report(clock(), what);
        }
    }
}

/// What comes so soon after the opening of a line that its beginning was sent before; `None` where nothing does. What answers a
/// question of ours is no such thing.
async fn rest(
    config: &SerialConfig,
    line: &Line,
    buffer: &mut [u8],
) -> Option<std::io::Result<usize>> {
    if !config.initial.is_empty() || config.query.is_some() {
        return None;
    }
    let characters = CUT_BITS * 1_000_000 / u64::from(config.port.line.speed.max(1));
    // What is there is taken, however late this task comes to look.
    tokio::time::timeout(CUT + Duration::from_micros(characters), line.read(buffer))
        .await
        .ok()
}

/// What was read before, or what comes. Can be cancelled.
async fn first_or(
    first: &mut Option<std::io::Result<usize>>,
    line: &Line,
    buffer: &mut [u8],
) -> std::io::Result<usize> {
    match first.take() {
        Some(read) => read,
        None => line.read(buffer).await,
    }
}

/// Errors of a line on their way to the log: at once, and then in sums, for a cable that is bad is so for weeks.
#[derive(Debug, Default)]
struct Errors {
    untold: Counts,
    told: Option<Instant>,
}

impl Errors {
    fn add(&mut self, new: Counts) {
        let sum = &mut self.untold;
        *sum = Counts {
            frame: sum.frame.saturating_add(new.frame),
            parity: sum.parity.saturating_add(new.parity),
            breaks: sum.breaks.saturating_add(new.breaks),
            overrun: sum.overrun.saturating_add(new.overrun),
        };
    }

    /// What is to be told now.
    fn due(&mut self, now: Instant) -> Option<Counts> {
        let soon = |told: Instant| now.saturating_duration_since(told) < ERRORS_EVERY;
        if self.untold == Counts::default() || self.told.is_some_and(soon) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The next time to ask; never where nothing is asked.
async fn next(asks: &mut Option<tokio::time::Interval>) {
    match asks {
        Some(asks) => {
            asks.tick().await;
        }
        None => pending().await,
    }
}

/// Waits for an instant, or for ever.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_line_are_told_at_once_and_then_once_a_minute_in_sums() {
        let one = Counts {
            frame: 1,
            overrun: u32::MAX,
            ..Counts::default()
        };
        let mut errors = Errors::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        assert_eq!(errors.due(begin), None);
        for second in 0..200 {
            if second < 130 {
                errors.add(one);
            }
            if let Some(counts) = errors.due(begin + Duration::from_secs(second)) {
                told.push((second, counts.frame));
                assert_eq!(counts.overrun, u32::MAX);
            }
        }
        assert_eq!(told, [(0, 1), (60, 60), (120, 60), (180, 9)]);
    }
}
