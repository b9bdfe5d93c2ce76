//! The source's future: open, ask, again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::outcome::reason;
use tidegate_domain::{Arrival, Message};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::client::{Client, ClientError, Heard, until};
use super::config::{Link, ModbusConfig};
use super::pdu::{Answer, exception};
use super::plan::Plan;
use super::schedule::{Came, Change, Job, Schedule, Step, Verdict};
use super::values::Values;
use crate::source::{
    Activity, Budget, Occurrence, Phase, Received, Reporter, Shared, SlaveStatus, SourceError,
    SourceEvent, SourceHandle, left, random,
};

/// Waits between attempts to open the line.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A line that was open as long has proved itself: the next wait is the shortest one again.
const PROVED: Duration = Duration::from_secs(10);
/// A connection that was open as long and did what it was asked is made again at once: some devices close those that are idle.
const WELL: Duration = Duration::from_secs(1);
/// How often losses are reported.
const TICK: Duration = Duration::from_secs(1);
/// Requests in a row without any answer after which a connection is taken for dead and made anew.
const SILENT: u32 = 5;

/// A Modbus source. [`ModbusSource::run`] is all it does.
pub struct ModbusSource<T> {
    config: Arc<ModbusConfig>,
    topic: Arc<str>,
    units: Vec<u8>,
    schedule: Schedule,
    values: Vec<Values>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    /// `None` once nothing more is taken in: whoever reads the queue then sees its end.
    queue: Option<mpsc::Sender<T>>,
    budget: Budget,
    reporter: Reporter,
    opened: u64,
}

/// A Modbus source that hands what it reads to `intake` and what happens to it to `events`.
///
/// Each answer is a message of the readings in it, as [`lines`](tidegate_domain::lines) has them. Both channels are bounded. A
/// process cannot be told to wait: what is read while the source's own bound is reached or `intake` is full is counted and dropped.
pub fn modbus<T: From<Received>>(
    config: ModbusConfig,
    intake: mpsc::Sender<T>,
    events: mpsc::Sender<SourceEvent>,
) -> (ModbusSource<T>, SourceHandle) {
    let shared = Shared::new(0);
    let handle = shared.handle();
    let mut units: Vec<u8> = config.groups.iter().map(|group| group.unit).collect();
    units.sort_unstable();
    units.dedup();
    shared.set_slaves(
        units
            .iter()
            .map(|unit| SlaveStatus {
                unit: *unit,
                ..SlaveStatus::default()
            })
            .collect(),
    );
    let groups = config.groups.iter().map(|group| {
        let unit = units.binary_search(&group.unit).unwrap_or_default();
        let (points, forbidden) = (Arc::clone(&group.points), group.forbidden.clone());
        let plan = Plan::new(group.table, points, group.most, group.fill, forbidden);
        (unit, plan, group.interval, group.points.len())
    });
    let line = &config.line;
    let schedule = Schedule::new(
        groups.collect(),
        units.len(),
        line.retries,
        line.quarantine,
        Instant::now(),
    );
    let values = config
        .groups
        .iter()
        .map(|group| Values::new(Arc::clone(&group.points), group.on_change));
    let source = ModbusSource {
        topic: config.name.as_str().into(),
        units,
        schedule,
        values: values.collect(),
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
    Failed {
        error: String,
        /// It did what it was asked before.
        well: bool,
    },
    IntakeClosed,
}

/// What can wake a line that has nothing to ask.
enum Wake {
    Phase,
    Tick,
    Due,
    Gone(ClientError),
}

/// Nobody takes messages any more.
struct Closed;

impl<T: From<Received> + Send> ModbusSource<T> {
    /// Reads until [`SourceHandle::finish`], however often the line comes and goes. `clock` is read once for every answer. Dropping
    /// the future closes the line.
    ///
    /// # Errors
    /// When nobody takes the messages any more. Trouble with the line is no error: it is shown, and the line opened again.
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
            let opened = tokio::select! {
                opened = Client::open(&config.line) => opened,
                () = left(&mut self.phase, Phase::Running) => return Ok(()),
            };
            let end = match opened {
                Ok(client) => {
                    said.clear();
                    self.serve(&config, client, clock).await
                }
                Err(error) => End::Failed {
                    error: error.to_string(),
                    well: false,
                },
            };
            let closed = || SourceError::IntakeClosed {
                source_name: config.name.clone(),
            };
            let (error, well) = match end {
                End::Finished => return Ok(()),
                End::IntakeClosed => return Err(closed()),
                End::Failed { error, well } => (error, well),
            };
            if *self.phase.borrow() != Phase::Running {
                return Ok(());
            }
            let lost = self.schedule.restart(Instant::now());
            if well && began.elapsed() >= WELL {
                self.shared.failed(error);
                continue;
            }
            self.lose(&lost, clock).map_err(|Closed| closed())?;
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
        config: &ModbusConfig,
        mut client: Client,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> End {
        self.opened += 1;
        self.shared.connected(self.opened == 1);
        self.shared.subscribed(Vec::new());
        let device = config.line.link.shown();
        self.reporter.report(clock(), Occurrence::Opened { device });
        let mut ticks = interval_at((Instant::now() + TICK).into(), TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        let (mut asked_any, mut answered_any) = (false, false);
        let mut flushed = Instant::now();
        loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Running => {}
                Phase::Stopping => {
                    self.reporter.flush_overflow();
                    self.queue = None;
                    left(&mut self.phase, Phase::Stopping).await;
                    return End::Finished;
                }
                Phase::Finishing => return End::Finished,
            }
            let job = match self.schedule.next(Instant::now()) {
                Step::Ask(job) => job,
                Step::Wait(due) => {
                    let wake = tokio::select! {
                        biased;
                        _ = self.phase.changed() => Wake::Phase,
                        _ = ticks.tick() => Wake::Tick,
                        error = client.idle() => Wake::Gone(error),
                        () = until(due) => Wake::Due,
                    };
                    match wake {
                        Wake::Phase | Wake::Due => {}
                        Wake::Tick => self.reporter.flush_overflow(),
                        Wake::Gone(error) => {
                            return End::Failed {
                                error: error.to_string(),
                                well: answered_any || !asked_any,
                            };
                        }
                    }
                    continue;
                }
            };
            let asked = Instant::now();
            let request = job.chunk.request();
            asked_any = true;
            let heard = tokio::select! {
                biased;
                // An open request is given up: what it would have brought was not taken in.
                () = left(&mut self.phase, Phase::Running) => continue,
                heard = client.ask(self.units[job.unit], &request) => heard,
            };
            let heard = match heard {
                Ok(heard) => heard,
                Err(error) => {
                    return End::Failed {
                        error: error.to_string(),
                        well: answered_any,
                    };
                }
            };
            answered_any |= matches!(heard, Heard::Answer(_));
            silent = match &heard {
                Heard::Silent => silent + 1,
                Heard::Answer(_) | Heard::Garbled => 0,
            };
            if self.take(job, heard, asked, clock).is_err() {
                return End::IntakeClosed;
            }
            if silent == SILENT && matches!(config.line.link, Link::Tcp { .. }) {
                return End::Failed {
                    error: format!(
                        "nothing came for {SILENT} requests; the connection is made anew"
                    ),
                    well: answered_any,
                };
            }
            if flushed.elapsed() >= TICK {
                flushed = Instant::now();
                self.reporter.flush_overflow();
            }
            let stray = client.take_stray();
            if stray > 0 {
                tracing::debug!(source = %config.name, stray, "bytes that belong to no answer");
            }
        }
    }

    /// Takes what came of a request.
    fn take(
        &mut self,
        job: Job,
        heard: Heard,
        asked: Instant,
        clock: &impl Fn() -> Arrival,
    ) -> Result<(), Closed> {
        let now = Instant::now();
        let trip = now.duration_since(asked);
        let unit = job.unit;
        let chunk = job.chunk.clone();
        let (came, trouble, data) = match heard {
            Heard::Answer(Answer::Data(data)) => (Came::Answered, None, Some(data)),
            Heard::Answer(Answer::Exception(code)) => (
                Came::Exception(code),
                Some(exception(code).to_owned()),
                None,
            ),
            // Nothing is written here.
            Heard::Answer(Answer::Written) | Heard::Garbled => {
                let trouble = "the answer was damaged, or belonged to another request";
                (Came::Failed, Some(trouble.to_owned()), None)
            }
            Heard::Silent => {
                let time = self.config.line.timeout;
                (Came::Failed, Some(format!("no answer in {time:?}")), None)
            }
        };
        let garbled = trouble
            .as_deref()
            .is_some_and(|trouble| trouble.starts_with("the answer"));
        let trouble = trouble.map(|trouble| {
            let (table, address, count) = (chunk.table.as_str(), chunk.address, chunk.count);
            format!("{trouble}: {table} {address}, {count} of them")
        });
        let group = job.group;
        let mut lines = String::new();
        if let Some(data) = &data {
            self.values[group].take(&chunk, data, now, &mut lines);
        }
        let verdict = self.schedule.done(job, came, now, random());
        let (missed, refused) = (self.schedule.missed(unit), self.schedule.refused(unit));
        let closed = self.schedule.is_closed(unit);
        self.shared.slave(unit, |slave| {
            slave.requests += 1;
            slave.missed = missed;
            slave.refused = refused as u64;
            match came {
                Came::Answered => slave.answered += 1,
                Came::Exception(_) => slave.exceptions += 1,
                Came::Failed if garbled => slave.garbled += 1,
                Came::Failed => slave.silent += 1,
            }
            if came != Came::Failed {
                slave.round_trip = trip;
                slave.longest_round_trip = slave.longest_round_trip.max(trip);
                slave.round_trips += trip;
            }
            if !closed {
                slave.answers = Some(false);
            } else if came != Came::Failed {
                slave.answers = Some(true);
            }
            if trouble.is_some() {
                slave.last_error.clone_from(&trouble);
            }
        });
        self.tell(unit, group, &verdict, trouble.unwrap_or_default(), clock());
        self.offer(lines, clock())?;
        self.lose(&verdict.lost, clock)
    }

    fn tell(&mut self, unit: usize, group: usize, verdict: &Verdict, reason: String, at: Arrival) {
        let unit = self.units[unit];
        match verdict.change {
            Some(Change::Lost) => {
                let reason = reason.clone();
                self.reporter
                    .report(at, Occurrence::SlaveLost { unit, reason });
            }
            Some(Change::Back) => self.reporter.report(at, Occurrence::SlaveBack { unit }),
            None => {}
        }
        if verdict.refused {
            let points = &self.config.groups[group].points;
            let lost = verdict
                .lost
                .iter()
                .filter_map(|(_, point)| points.get(*point));
            let series = lost.map(|point| Arc::clone(&point.series)).collect();
            self.reporter.report(
                at,
                Occurrence::Refused {
                    unit,
                    series,
                    reason,
                },
            );
        }
    }

    /// Hands on that values could not be read.
    fn lose(
        &mut self,
        lost: &[(usize, usize)],
        clock: &impl Fn() -> Arrival,
    ) -> Result<(), Closed> {
        let now = Instant::now();
        let mut lines = String::new();
        for (group, point) in lost {
            self.values[*group].lose(*point, now, &mut lines);
        }
        self.offer(lines, clock())
    }

    /// Puts readings into the queue, or counts them as dropped where there is no room.
    fn offer(&mut self, lines: String, arrival: Arrival) -> Result<(), Closed> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        if lines.is_empty() {
            return Ok(());
        }
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
            // What changed in it was not handed on.
            self.values.iter_mut().for_each(Values::forget);
            return Ok(());
        };
        let message = Message {
            source: self.config.index,
            topic: Arc::clone(&self.topic),
            payload: Bytes::from(lines),
            arrival,
            // A slave waits for no acknowledgement.
            ack: None,
            redelivered: false,
            identity: None,
        };
        slot.send(T::from(Received {
            message,
            permit,
            unframed: None,
            state: Vec::new(),
        }));
        Ok(())
    }
}
