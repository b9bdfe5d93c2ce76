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

/// Silence after which garbage waits for no company, where no shorter pause ends frames.
const FLUSH: Duration = Duration::from_secs(1);

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
            let end = match Line::open(&config) {
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
        self.opened += 1;
        self.shared.connected(self.opened == 1);
        self.shared.subscribed(Vec::new());
        let device = config.device.display().to_string();
        self.reporter.report(clock(), Occurrence::Opened { device });

        let mut framer = Framer::new(&config.framing, config.longest, config.pause);
        let mut buffer = vec![0; READ_BYTES];
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
                read = line.read(&mut buffer), if reading => Wake::Read(read),
                written = line.write(&output), if reading && !output.is_empty() => {
                    Wake::Written(written)
                }
                () = until(silent_at), if reading => Wake::Silence,
            };
            let heard = match wake {
                Wake::Read(Ok(0)) => {
                    break LineError::Gone {
                        device: config.device.display().to_string(),
                    };
                }
                Wake::Read(Err(error)) | Wake::Written(Err(error)) => {
                    break LineError::broken(config, error);
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
        let what = Occurrence::LineErrors {
            frame: new.frame,
            parity: new.parity,
            breaks: new.breaks,
            overrun: new.overrun,
        };
        self.reporter.report(clock(), what);
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
