//! The source's future: connect, serve, wait, again.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::outcome::reason;
use tidegate_domain::{Arrival, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::config::{ConfigError, MqttConfig};
use super::intake::{Intake, Offer, units};
use super::link::{self, Link, LinkError};
use super::packet::Publish;
use super::session::{Heard, Session};
use crate::source::{
    Activity, Occurrence, Phase, Received, Reporter, Shared, SourceError, SourceEvent,
    SourceHandle, left, random,
};

/// Waits between attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A connection that lasted as long has proved itself: the next wait is the shortest one again.
const PROVED: Duration = Duration::from_secs(10);

/// How often timed work is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How long the last acknowledgements may take at the end, of the source or of a connection that is made anew.
const FINISH_TIME: Duration = Duration::from_secs(5);

/// Spare bytes below which the read buffer grows, and by how much.
const READ_BYTES: (usize, usize) = (4 * 1024, 64 * 1024);

/// An MQTT source. [`MqttSource::run`] is all it does.
pub struct MqttSource<T> {
    config: Arc<MqttConfig>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    intake: Intake<T>,
    reporter: Reporter,
    /// Whether the broker is expected to have a session of ours.
    had_session: bool,
    /// The last sign of life of that session.
    last_heard: Option<Arrival>,
}

/// An MQTT source that hands its messages to `intake` and what happens to it to `events`.
///
/// Both channels are bounded. The source's own bound of messages and bytes
/// ([`SOURCE_QUEUE_MESSAGES`](tidegate_domain::limits::SOURCE_QUEUE_MESSAGES) and `…_BYTES`) holds whatever the
/// capacity of `intake` is, so that several sources can share it. `events` is never waited for: losses are merged until
/// there is room for them.
///
/// # Errors
/// A configuration that no broker could accept.
pub fn mqtt<T: From<Received>>(
    config: MqttConfig,
    intake: mpsc::Sender<T>,
    events: mpsc::Sender<SourceEvent>,
) -> Result<(MqttSource<T>, SourceHandle), ConfigError> {
    config.check()?;
    let shared = Shared::new(u32::from(config.receive_window()));
    let handle = shared.handle();
    let source = MqttSource {
        phase: shared.phase(),
        shared,
        intake: Intake::new(intake),
        reporter: Reporter::new(config.index, events),
        had_session: config.had_session,
        last_heard: None,
        config: Arc::new(config),
    };
    Ok((source, handle))
}

/// Why a connection is no longer served.
enum End {
    /// As asked.
    Finished,
    Failed(LinkError),
    /// Left in an orderly way, to come back with the renewed TLS files.
    Renewed,
    IntakeClosed,
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Failed(error)
    }
}

/// What can wake a served connection.
enum Wake {
    Read(io::Result<usize>),
    Sent(io::Result<()>),
    AcksDue,
    /// The message that waited is in the queue, or nobody takes any more.
    Room(bool),
    /// The message that waited is given up.
    GiveUp,
    Tick,
    Phase,
}

impl<T: From<Received> + Send> MqttSource<T> {
    /// Takes messages in until [`SourceHandle::finish`], over as many connections as it takes. `clock` is read once for
    /// every message. Dropping the future ends the connection without a DISCONNECT; what is not acknowledged comes
    /// again.
    ///
    /// While the queue is full, nothing is read, and pings and acknowledgements go on: the connection survives a
    /// pipeline that is slow for any length of time. QoS 1 messages wait at the broker then; QoS 0 messages are
    /// dropped and counted once the queue has been full for 250 ms.
    ///
    /// # Errors
    /// When nobody takes the messages any more. Trouble with the broker is no error: it is shown, and tried again.
    pub async fn run(
        mut self,
        clock: impl Fn() -> Arrival + Send + Sync,
    ) -> Result<(), SourceError> {
        let result = self.connections(&clock).await;
        self.shared.set_activity(Activity::Stopped);
        self.reporter.end();
        result
    }

    async fn connections(
        &mut self,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> Result<(), SourceError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.shared.set_activity(Activity::Connecting);
            let config = Arc::clone(&self.config);
            let linked = tokio::select! {
                linked = link::connect(&config) => linked,
                () = left(&mut self.phase, Phase::Running) => return Ok(()),
            };
            let began = Instant::now();
            let end = match linked {
                Ok(link) => self.serve(&config, link, clock).await,
                Err(error) => End::Failed(error),
            };
            let error = match end {
                End::Finished => return Ok(()),
                End::Renewed => {
                    tracing::info!(source = %config.name, "the TLS files were renewed: connecting anew");
                    continue;
                }
                End::IntakeClosed => {
                    return Err(SourceError::IntakeClosed {
                        source_name: self.config.name.clone(),
                    });
                }
                End::Failed(error) => error,
            };
            if *self.phase.borrow() != Phase::Running {
                // What is not acknowledged comes again: there is nothing to connect for.
                return Ok(());
            }
            if began.elapsed() >= PROVED {
                backoff.reset();
            }
            let wait = backoff.next(random());
            tracing::warn!(source = %config.name, retry_in = ?wait, "{error}");
            self.shared.failed(error.to_string());
            self.reporter.report(
                clock(),
                Occurrence::Disconnected {
                    reason: error.to_string(),
                },
            );
            self.reporter.flush_overflow();
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

    /// Serves one connection for as long as it lasts.
    async fn serve(
        &mut self,
        config: &MqttConfig,
        mut link: Link,
        clock: &(impl Fn() -> Arrival + Send + Sync),
    ) -> End {
        let connection = self.opened(link.session_present, clock());
        let mut session = Session::new(
            config,
            link.keep_alive,
            link.decoder,
            link.input,
            Instant::now(),
        );
        let mut ticks = interval_at((Instant::now() + TICK).into(), TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting: Option<Message> = None;
        let mut unflushed = false;
        // Once it is set, nothing more is read, and the connection ends when all is acknowledged, or then.
        let mut leave_by: Option<Instant> = None;
        tracing::info!(source = %config.name, connection, session_present = link.session_present, "connected");
        loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Running => {
                    if waiting.is_none() {
                        match self.take(&mut session, clock) {
                            Ok(message) => waiting = message,
                            Err(end) => return end,
                        }
                    }
                    if let Some(by) = leave_by
                        && waiting.is_none()
                        && (self.shared.acks().in_flight() == 0 || Instant::now() >= by)
                    {
                        session.acknowledge(self.shared.acks().take());
                        session.disconnect();
                        self.finish(config, &mut link.reader, &mut link.writer, session)
                            .await;
                        return End::Renewed;
                    }
                }
                Phase::Stopping => {
                    self.intake.close();
                    // Not taken after all. The broker keeps a message of QoS 1.
                    if let Some(message) = waiting.take()
                        && message.ack.is_none()
                    {
                        self.drop_message(&message);
                    }
                }
                Phase::Finishing => {
                    session.acknowledge(self.shared.acks().take());
                    session.disconnect();
                    return self
                        .finish(config, &mut link.reader, &mut link.writer, session)
                        .await;
                }
            }
            let reading = phase == Phase::Running && waiting.is_none() && leave_by.is_none();
            if reading && session.input.capacity() - session.input.len() < READ_BYTES.0 {
                session.input.reserve(READ_BYTES.1);
            }
            let give_up = waiting
                .as_ref()
                .and_then(|message| self.intake.deadline(message));
            let wanted = waiting.as_ref().map(units);
            let flushing = session.output.is_empty();

            // Every branch can be cancelled without losing anything.
            let wake = tokio::select! {
                read = link.reader.read_buf(&mut session.input), if reading => Wake::Read(read),
                sent = send(&mut link.writer, &mut session.output), if !flushing || unflushed => {
                    Wake::Sent(sent)
                }
                () = self.shared.acks_due.notified() => Wake::AcksDue,
                room = self.intake.room(wanted.unwrap_or_default()), if wanted.is_some() => {
                    match (room, waiting.take()) {
                        (Some(room), Some(message)) => {
                            room.fill(message);
                            Wake::Room(true)
                        }
                        (_, _) => Wake::Room(false),
                    }
                }
                () = until(give_up) => Wake::GiveUp,
                _ = ticks.tick() => Wake::Tick,
                _ = self.phase.changed() => Wake::Phase,
            };

            let now = Instant::now();
            match wake {
                Wake::Read(Ok(0)) => return LinkError::Closed.into(),
                Wake::Read(Ok(_)) => {
                    session.read(now);
                    self.last_heard = Some(clock());
                }
                Wake::Sent(Ok(())) => {
                    session.written(now);
                    unflushed = !flushing;
                }
                Wake::Read(Err(error)) | Wake::Sent(Err(error)) => {
                    return LinkError::broken(config, error).into();
                }
                Wake::AcksDue => session.acknowledge(self.shared.acks().take()),
                Wake::Room(true) => {
                    self.intake.has_room();
                    session.read(now);
                }
                Wake::Room(false) => return End::IntakeClosed,
                Wake::GiveUp => {
                    if let Some(message) = waiting.take() {
                        self.drop_message(&message);
                        session.read(now);
                    }
                }
                Wake::Tick => {
                    self.reporter.flush_overflow();
                    if leave_by.is_none() && link.made_of.is_outdated(&config.transport) {
                        leave_by = Some(now + FINISH_TIME);
                    }
                    if let Err(error) = session.tick(now, reading) {
                        return error.into();
                    }
                }
                Wake::Phase => {}
            }
        }
    }

    /// Notes a connection that was accepted, and the session that was lost where there should have been one.
    fn opened(&mut self, session_present: bool, at: Arrival) -> u64 {
        let connection = self.shared.acks().open();
        self.shared.connected(connection == 1);
        self.reporter.report(
            at,
            Occurrence::Connected {
                connection,
                session_present,
            },
        );
        if self.had_session && !session_present {
            self.reporter.session_lost(self.last_heard, at);
        }
        self.had_session = true;
        self.last_heard = Some(at);
        connection
    }

    /// Takes what has been read, up to the first message that there is no room for; that one is returned.
    fn take(
        &mut self,
        session: &mut Session<'_>,
        clock: &impl Fn() -> Arrival,
    ) -> Result<Option<Message>, End> {
        let now = Instant::now();
        while let Some(heard) = session.next(now, random)? {
            match heard {
                Heard::Message(publish) => {
                    let message = self.message(publish, clock());
                    match self.intake.offer(message, now) {
                        Offer::Taken => {}
                        Offer::Wait(message) => return Ok(Some(message)),
                        Offer::Drop(message) => self.drop_message(&message),
                        Offer::Closed => return Err(End::IntakeClosed),
                    }
                }
                Heard::Answer {
                    refused,
                    downgraded,
                } => {
                    let config = Arc::clone(&self.config);
                    let filter = |index: usize| config.subscribe[index].filter.clone();
                    for index in downgraded {
                        let filter = filter(index);
                        tracing::warn!(source = %config.name, filter, "the broker grants QoS 0 only: what it loses is lost");
                        self.reporter
                            .report(clock(), Occurrence::SubscriptionDowngraded { filter });
                    }
                    for refusal in &refused {
                        let filter = filter(refusal.filter);
                        tracing::warn!(source = %config.name, filter, "subscription refused: {}", refusal.reason);
                        let (code, reason) = (refusal.code, refusal.reason.clone());
                        self.reporter.report(
                            clock(),
                            Occurrence::SubscriptionRefused {
                                filter,
                                code,
                                reason,
                            },
                        );
                    }
                    let refused = refused.into_iter().map(|r| (filter(r.filter), r.reason));
                    self.shared.subscribed(refused.collect());
                }
                Heard::Alive => {}
            }
        }
        Ok(None)
    }

    fn message(&mut self, publish: Publish, arrival: Arrival) -> Message {
        let topic = self.intake.topic(publish.topic());
        let (length, redelivered) = (publish.length, publish.dup);
        let wanted = self.config.identity.as_ref();
        let identity = wanted
            .and_then(|wanted| publish.property(wanted))
            .filter(|identity| !identity.is_empty());
        self.shared.count_received(length, redelivered);
        if length > publish.payload_len() {
            self.reporter.report(
                arrival,
                Occurrence::Cut {
                    topic: Arc::clone(&topic),
                    length: length as u64,
                    kept: publish.payload_len() as u64,
                },
            );
        }
        Message {
            source: self.config.index,
            topic,
            ack: (publish.qos > 0).then(|| self.shared.acks().arrived(publish.id)),
            identity,
            payload: publish.into_payload(),
            arrival,
            redelivered,
        }
    }

    /// Counts a message of QoS 0 that is not handed over.
    fn drop_message(&mut self, message: &Message) {
        self.shared.count_dropped();
        self.reporter
            .overflow(reason::OVERFLOW, message.payload.len(), message.arrival);
    }

    /// Sends what is left to send. A broker that does not take it sends those messages again.
    ///
    /// What the broker sends meanwhile is read and thrown away until it closes: a socket that is closed with unread
    /// data resets the connection, and a reset takes acknowledgements with it that the broker has not read yet.
    async fn finish(
        &self,
        config: &MqttConfig,
        reader: &mut (impl AsyncReadExt + Unpin),
        writer: &mut (impl AsyncWriteExt + Unpin),
        mut session: Session<'_>,
    ) -> End {
        let sent = timeout(FINISH_TIME, async {
            writer.write_all_buf(&mut session.output).await?;
            writer.shutdown().await?;
            tokio::io::copy(reader, &mut tokio::io::sink()).await
        });
        match sent.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(source = %config.name, %error, "the last acknowledgements did not reach the broker");
            }
            Err(_) => {
                tracing::warn!(source = %config.name, within = ?FINISH_TIME, "the broker did not take the last acknowledgements");
            }
        }
        End::Finished
    }
}

/// Hands over some bytes to be sent, or, where there are none, sees to it that what was handed over leaves.
async fn send(writer: &mut (impl AsyncWriteExt + Unpin), output: &mut BytesMut) -> io::Result<()> {
    if output.is_empty() {
        writer.flush().await
    } else {
        writer.write_buf(output).await.map(drop)
    }
}

/// Waits for an instant, or for ever.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => pending().await,
    }
}
