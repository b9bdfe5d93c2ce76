//! The task: name what happened, tell the machine, do what it says.

use std::collections::VecDeque;
use std::future;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate_domain::backoff::Backoff;
use tidegate_domain::delivery::{Action, Delivery, EndedBy, SealedMessage, Settled};
use tidegate_tls::Prepared;
use tokio::select;
use tokio::sync::mpsc::Permit;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use crate::config::{ConfigError, Credentials, MqttUplinkConfig, Topics, Transport};
use crate::link::{self, Driver, LinkEvent, Login, NotTaken, Sender, Will};
use crate::outbox::{Outbox, OutboxError};
use crate::payload::{self, Envelope};
use crate::status::{LinkState, Status, UplinkStatus};

/// How long a stop, or a new connection with renewed TLS files, waits for outstanding acknowledgements and the
/// farewell. What is not acknowledged by then goes up again later, and the broker publishes the last will in the
/// farewell's place.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How long a stop then waits for room in the store's inbox. What is not said by then goes up again as well.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// The longest time between two looks at the outbox without having been woken.
const SAFETY_LOOK: Duration = Duration::from_secs(30);

/// The largest password file in bytes; a larger one is the wrong file.
const PASSWORD_FILE: u64 = 64 * 1024;

/// Creates an uplink over MQTT and the handle to it. What the broker said goes to `settled`; while that is full, nothing
/// more is sent.
///
/// # Errors
/// When the configuration cannot work.
pub fn mqtt<T: From<Settled>>(
    config: MqttUplinkConfig,
    outbox: Arc<dyn Outbox>,
    settled: mpsc::Sender<T>,
) -> Result<(MqttUplink<T>, UplinkHandle), ConfigError> {
    let topics = config.check()?;
    let handle = UplinkHandle {
        wake: Arc::new(Notify::new()),
        stop: watch::Sender::new(false),
        says: watch::Sender::new(config.status.clone()),
        status: watch::Sender::new(UplinkStatus::new(&config.name)),
    };
    let uplink = MqttUplink {
        topics,
        outbox,
        settled,
        unsaid: VecDeque::new(),
        delivery: Delivery::new(config.in_flight, config.keep_alive),
        backoff: Backoff::new(config.reconnect.min, config.reconnect.max),
        connections: 0,
        origin: Instant::now(),
        wake: Arc::clone(&handle.wake),
        stop: handle.stop.subscribe(),
        says: handle.says.subscribe(),
        status: handle.status.clone(),
        config,
    };
    Ok((uplink, handle))
}

/// What can be asked of a running uplink, from any thread and without waiting.
#[derive(Clone, Debug)]
pub struct UplinkHandle {
    wake: Arc<Notify>,
    stop: watch::Sender<bool>,
    says: watch::Sender<Status>,
    status: watch::Sender<UplinkStatus>,
}

impl UplinkHandle {
    /// Messages were sealed. Calls that come before the uplink looks count as one.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends the uplink: nothing more is sent, outstanding acknowledgements are awaited for a few seconds, the status
    /// becomes `offline`, and [`MqttUplink::run`] returns. Dropping every handle does the same.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// How the uplink is.
    #[must_use]
    pub fn status(&self) -> UplinkStatus {
        self.status.borrow().clone()
    }

    /// Tells of every change of [`Self::status`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<UplinkStatus> {
        self.status.subscribe()
    }

    /// Changes what the retained status message says; it is published when it differs.
    pub fn set_status(&self, status: Status) {
        self.says.send_if_modified(|now| {
            let differs = *now != status;
            *now = status;
            differs
        });
    }
}

/// An uplink that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Nobody takes what the broker said: the store's writer is gone.
    #[error("uplink {uplink}: the store no longer takes what the broker acknowledged")]
    InboxClosed {
        /// The uplink's name.
        uplink: String,
    },
    /// A read of the outbox, of the password file or of the TLS files panicked.
    #[error("uplink {uplink}: a blocking read did not come to its end")]
    Read {
        /// The uplink's name.
        uplink: String,
        /// How it ended.
        source: JoinError,
    },
}

/// An uplink over MQTT.
pub struct MqttUplink<T> {
    config: MqttUplinkConfig,
    topics: Topics,
    outbox: Arc<dyn Outbox>,
    settled: mpsc::Sender<T>,
    /// Settled, and the inbox was full. While there is any, nothing is fetched, so that it holds one window at most.
    unsaid: VecDeque<Settled>,
    delivery: Delivery,
    backoff: Backoff,
    connections: u64,
    /// What the machine's times count from.
    origin: Instant,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
    says: watch::Receiver<Status>,
    status: watch::Sender<UplinkStatus>,
}

/// How a connection, or the wait for the next, ended.
enum Outcome {
    Stopped,
    Again,
    /// Left in an orderly way, to come back with the renewed TLS files.
    Renewed,
}

/// Everything that can wake the task while it has a connection, or tries to.
enum Happened<'a, T> {
    Link(LinkEvent),
    Looked(Result<Look, JoinError>),
    Sealed,
    StatusChanged,
    Tick,
    InboxFree(Permit<'a, T>),
    InboxClosed,
    StopWanted,
    StopOverdue,
}

/// One look at the outbox.
type Look = Result<Fetched, OutboxError>;

struct Fetched {
    /// With the first look after a connection was made.
    opening: Option<Opening>,
    messages: Vec<SealedMessage>,
}

struct Opening {
    stream: String,
    last_sealed: u64,
}

/// What is known about the present connection beyond what the machine knows.
struct Session {
    sender: Sender,
    /// Since when it stands.
    since: Option<Instant>,
    /// The largest packets that may be sent, in bytes.
    max_packet: usize,
    max_status: usize,
    delivered_before: u64,
    /// What messages are wrapped in, and the last one that was sealed before the connection was made.
    envelope: Option<(Envelope, u64)>,
    /// When the outbox was read last.
    looked: Option<Instant>,
    /// There may be messages that were not fetched; somebody said so just now.
    more: bool,
    urgent: bool,
    status_due: bool,
    farewell: Farewell,
    /// Which TLS files it was made with.
    made_of: Option<u64>,
    /// The farewell is said for renewed TLS files, and not for ever: the status stays as it is.
    renewing: bool,
    /// The machine wants it to end.
    dropped: Option<String>,
}

/// How far a stop has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// None is wanted.
    None,
    /// Nothing more is sent; acknowledgements are awaited.
    Wanted,
    /// The status `offline` is on its way.
    Said,
    /// The disconnection is on its way.
    Leaving,
    /// It is out.
    Left,
}

impl<T: From<Settled> + Send> MqttUplink<T> {
    /// Runs until it is stopped. Lost connections are made again for ever.
    ///
    /// # Errors
    /// When the store is gone, or a read panicked: nothing that a new connection would mend.
    pub async fn run(mut self) -> Result<(), UplinkError> {
        let result = self.connect_again_and_again().await;
        if result.is_ok() {
            self.hand_over().await;
        }
        self.report(|status| status.state = LinkState::Stopped);
        result
    }

    async fn connect_again_and_again(&mut self) -> Result<(), UplinkError> {
        loop {
            match self.connection().await? {
                Outcome::Stopped => return Ok(()),
                Outcome::Renewed => continue,
                Outcome::Again => {}
            }
            // Without randomness all gateways come back at the same time: not good, but no reason to stay away.
            let random = getrandom::u64().unwrap_or(u64::MAX);
            let wait = self.backoff.next(random);
            let attempt = self.backoff.attempts();
            self.report(|status| status.state = LinkState::BackingOff { attempt });
            if let Outcome::Stopped = self.rest(wait).await? {
                return Ok(());
            }
        }
    }

    /// Before the end: what is settled is said, within bounds.
    async fn hand_over(&mut self) {
        let mut overdue = pin!(sleep(HAND_OVER_WITHIN));
        while !self.unsaid.is_empty() {
            select! {
                () = &mut overdue => return,
                permit = self.settled.reserve() => match permit {
                    Ok(permit) => say(permit, &mut self.unsaid),
                    Err(_) => return,
                },
            }
        }
    }

    /// Waits, and meanwhile hands over what the last connection left.
    async fn rest(&mut self, wait: Duration) -> Result<Outcome, UplinkError> {
        let mut over = pin!(sleep(wait));
        loop {
            select! {
                () = &mut over => return Ok(Outcome::Again),
                () = wanted(&mut self.stop) => return Ok(Outcome::Stopped),
                permit = self.settled.reserve(), if !self.unsaid.is_empty() => match permit {
                    Ok(permit) => say(permit, &mut self.unsaid),
                    Err(_) => return Err(inbox_closed(&self.config)),
                },
            }
        }
    }

    /// One connection, from the first packet to the last.
    async fn connection(&mut self) -> Result<Outcome, UplinkError> {
        self.report(|status| status.state = LinkState::Connecting);
        let login = match self.login().await? {
            Ok(login) => login,
            Err(reason) => {
                return Ok(self.failed(&reason));
            }
        };
        let prepared = self.prepare().await?;
        let will = Will {
            topic: &self.topics.status,
            payload: payload::offline(&self.config.gateway),
        };
        let (sender, driver) = link::open(&self.config, login, will, prepared.as_ref());
        let mut session = Session::new(sender, &self.config, &self.delivery);
        session.made_of = prepared.map(|prepared| prepared.generation);
        let outcome = self.serve(&mut session, driver).await;

        // A connection that ends with us here is not the fault of any message; one that the other end ended was reported
        // where that was seen.
        let now = self.now();
        self.delivery.disconnected(now, EndedBy::Line, "");
        self.act(&mut session);
        let totals = self.delivery.totals();
        self.report(|status| {
            status.connected_since = None;
            status.count(totals, 0);
        });
        let useful = totals.delivered > session.delivered_before;
        let lasting = session
            .since
            .is_some_and(|since| since.elapsed() >= self.config.reconnect.max);
        if useful || lasting {
            self.backoff.reset();
        }
        outcome
    }

    async fn serve(
        &mut self,
        session: &mut Session,
        driver: Driver,
    ) -> Result<Outcome, UplinkError> {
        let tick = (self.config.keep_alive / 4).clamp(Duration::from_millis(100), SAFETY_LOOK);
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = pin!(driver.next());
        let mut overdue = pin!(sleep(STOP_WITHIN));
        let mut fetch: Option<JoinHandle<Look>> = None;
        // Another handle on the inbox, so that a free place in it does not borrow all of the uplink.
        let inbox = self.settled.clone();
        loop {
            let happened = select! {
                (driver, event) = &mut turn => {
                    turn.set(driver.next());
                    Happened::Link(event)
                }
                fetched = finished(&mut fetch) => {
                    fetch = None;
                    Happened::Looked(fetched)
                }
                () = self.wake.notified() => Happened::Sealed,
                Ok(()) = self.says.changed() => Happened::StatusChanged,
                _ = ticks.tick() => Happened::Tick,
                permit = inbox.reserve(), if !self.unsaid.is_empty() => match permit {
                    Ok(permit) => Happened::InboxFree(permit),
                    Err(_) => Happened::InboxClosed,
                },
                () = wanted(&mut self.stop), if session.farewell == Farewell::None || session.renewing => {
                    Happened::StopWanted
                }
                () = &mut overdue, if session.farewell != Farewell::None => Happened::StopOverdue,
            };
            // Whatever happened at the same time comes after it: once a stop is wanted, nothing new is sent.
            if *self.stop.borrow() {
                self.delivery.finish();
            }
            let leaving = (session.farewell != Farewell::None, session.renewing);
            if let Some(outcome) = self.apply(session, happened)? {
                return Ok(outcome);
            }
            if leaving != (session.farewell != Farewell::None, session.renewing) {
                overdue.set(sleep(STOP_WITHIN));
            }
            if fetch.is_none() {
                fetch = self.fetch(session);
            }
        }
    }

    /// What happened, and what follows from it.
    fn apply(
        &mut self,
        session: &mut Session,
        happened: Happened<'_, T>,
    ) -> Result<Option<Outcome>, UplinkError> {
        let now = self.now();
        match happened {
            Happened::Link(LinkEvent::Connected {
                receive_maximum,
                max_packet,
            }) => self.connected(session, receive_maximum, max_packet),
            Happened::Link(LinkEvent::Numbered(pkid)) => self.delivery.numbered(pkid),
            Happened::Link(LinkEvent::Acknowledged { pkid, refusal }) => {
                self.delivery.acknowledged(now, pkid, refusal);
            }
            Happened::Link(LinkEvent::Left) => session.farewell = Farewell::Left,
            Happened::Link(LinkEvent::Ended { by, reason }) => {
                self.delivery.disconnected(now, by, &reason);
                return Ok(Some(self.lost(session, &reason)));
            }
            Happened::Looked(look) => self.looked(session, look)?,
            Happened::Sealed => {
                session.more = true;
                session.urgent = true;
            }
            Happened::StatusChanged => session.status_due = true,
            Happened::Tick => {
                session.more |= session
                    .looked
                    .is_none_or(|looked| looked.elapsed() >= SAFETY_LOOK);
                self.delivery.tick(now);
                if session.farewell == Farewell::None && self.outdated(session) {
                    session.renewing = true;
                    session.farewell = Farewell::Wanted;
                    self.delivery.finish();
                }
            }
            Happened::InboxFree(permit) => say(permit, &mut self.unsaid),
            Happened::InboxClosed if session.farewell != Farewell::None => {
                return Ok(Some(Outcome::Stopped));
            }
            Happened::InboxClosed => return Err(inbox_closed(&self.config)),
            Happened::StopWanted => {
                if session.since.is_none() {
                    return Ok(Some(Outcome::Stopped));
                }
                // A farewell for renewed files that is not on its way yet becomes one for ever.
                session.renewing = false;
                if session.farewell == Farewell::None {
                    session.farewell = Farewell::Wanted;
                }
                self.delivery.finish();
            }
            Happened::StopOverdue if session.renewing => {
                return Ok(Some(self.left(session)));
            }
            Happened::StopOverdue => {
                let uplink = &self.config.name;
                let waiting = self.delivery.in_flight();
                warn!(
                    uplink,
                    waiting, "stopped without the broker's last acknowledgements"
                );
                return Ok(Some(Outcome::Stopped));
            }
        }
        self.act(session);
        self.speak(session);
        let (totals, in_flight) = (self.delivery.totals(), self.delivery.in_flight());
        self.report(|status| status.count(totals, in_flight));
        if let Some(reason) = session.dropped.take() {
            return Ok(Some(self.lost(session, &reason)));
        }
        Ok((session.farewell == Farewell::Left).then(|| self.left(session)))
    }

    /// Whether the TLS files were renewed since the connection was made.
    fn outdated(&self, session: &Session) -> bool {
        match (&self.config.transport, session.made_of) {
            (Transport::Tls(tls), Some(generation)) if session.since.is_some() => {
                !tls.is_current(generation)
            }
            (Transport::Tls(_) | Transport::Plain, _) => false,
        }
    }

    /// What follows when the connection was left as intended.
    fn left(&self, session: &Session) -> Outcome {
        if !session.renewing {
            return Outcome::Stopped;
        }
        let uplink = &self.config.name;
        let sent_again = self.delivery.in_flight();
        info!(
            uplink,
            sent_again, "the TLS files were renewed: connecting anew"
        );
        Outcome::Renewed
    }

    fn connected(
        &mut self,
        session: &mut Session,
        receive_maximum: Option<u16>,
        max_packet: Option<u32>,
    ) {
        self.delivery.connected(self.now(), receive_maximum);
        session.since = Some(Instant::now());
        session.status_due = true;
        session.more = true;
        session.urgent = true;
        if let Some(most) = max_packet.and_then(|most| usize::try_from(most).ok()) {
            session.max_packet = session.max_packet.min(most);
            session.max_status = session.max_status.min(most);
        }
        self.connections += 1;
        let reconnects = self.connections - 1;
        self.report(|status| {
            status.state = LinkState::Connected;
            status.connected_since = Some(SystemTime::now());
            status.reconnects = reconnects;
        });
        let MqttUplinkConfig {
            name: uplink,
            host,
            port,
            ..
        } = &self.config;
        info!(uplink, host, port, reconnects, "connected");
    }

    /// Begins a look at the outbox, where there is a reason and room.
    fn fetch(&mut self, session: &mut Session) -> Option<JoinHandle<Look>> {
        if !session.more || !self.unsaid.is_empty() {
            return None;
        }
        let room = self.delivery.room(session.urgent)?;
        session.more = false;
        session.urgent = false;
        session.looked = Some(Instant::now());
        let opening = session.envelope.is_none();
        let exclude = self.delivery.exclude();
        let outbox = Arc::clone(&self.outbox);
        let uplink = self.config.index;
        Some(task::spawn_blocking(move || {
            // Before the messages: what is sealed between the two reads was sealed on this connection.
            let opening = if opening {
                Some(Opening {
                    stream: outbox.stream(uplink),
                    last_sealed: outbox.last_sealed(uplink)?,
                })
            } else {
                None
            };
            let messages = outbox.next(uplink, &exclude, room.messages, room.bytes)?;
            Ok(Fetched { opening, messages })
        }))
    }

    fn looked(
        &mut self,
        session: &mut Session,
        look: Result<Look, JoinError>,
    ) -> Result<(), UplinkError> {
        let fetched = match look.map_err(|source| self.panicked(source))? {
            Ok(fetched) => fetched,
            Err(error) => {
                // The next tick tries again; the connection is not at fault.
                session.looked = None;
                let uplink = &self.config.name;
                let error = chain(&error);
                warn!(uplink, error, "tried again soon");
                self.report(|status| status.last_error = Some(error));
                return Ok(());
            }
        };
        if let Some(Opening {
            stream,
            last_sealed,
        }) = fetched.opening
        {
            let envelope = Envelope::new(&self.config.gateway, &stream);
            session.envelope = Some((envelope, last_sealed));
        }
        let Some((envelope, _)) = &session.envelope else {
            return Ok(());
        };
        let now = self.now();
        let mut taken = false;
        for message in fetched.messages {
            let topic = self.topics.of(message.kind);
            let payload = envelope.size(&message);
            let size = link::packet_size(topic, payload);
            let most = session.max_packet;
            if size > most {
                let reason = format!(
                    "needs an MQTT packet of {size} bytes, and the limit is {most}; raise it at the uplink or the broker"
                );
                self.delivery.refuse(now, message.seq, reason);
                taken = true;
            } else {
                taken |= self.delivery.offer(message);
            }
        }
        // How much is left is not known, so that the next look may find nothing. An outbox that gives only what was
        // excluded is not asked in a circle.
        session.more |= taken;
        Ok(())
    }

    /// Does what the machine says.
    fn act(&mut self, session: &mut Session) {
        let now = self.now();
        while let Some(action) = self.delivery.next_action(now) {
            match action {
                Action::Send(message) => self.send(session, &message),
                Action::Settle { seq, verdict } => {
                    let uplink = &self.config.name;
                    debug!(uplink, seq, ?verdict, "settled");
                    self.unsaid.push_back(Settled {
                        uplink: self.config.index,
                        seq,
                        verdict,
                    });
                }
                Action::Drop { reason } => session.dropped = Some(reason),
            }
        }
    }

    fn send(&mut self, session: &mut Session, message: &SealedMessage) {
        let Some((envelope, last_sealed)) = &session.envelope else {
            session.dropped = Some("a message was offered before its stream was known".to_owned());
            return;
        };
        let payload = envelope.message(message, message.seq <= *last_sealed);
        let topic = self.topics.of(message.kind);
        if session.sender.publish(topic, payload, false).is_err() {
            session.dropped = Some(format!("the MQTT client did not take seq {}", message.seq));
        }
    }

    /// Publishes the status where it is due, one at a time, so that a status that changes often fills no queue; and
    /// leads a stop to its end.
    fn speak(&mut self, session: &mut Session) {
        if session.since.is_none() || session.dropped.is_some() {
            return;
        }
        let outstanding = self.delivery.unacknowledged();
        let taken = match session.farewell {
            Farewell::None if session.status_due && outstanding == self.delivery.in_flight() => {
                session.status_due = false;
                let says = self.says.borrow_and_update().clone();
                self.publish_status(session, says)
            }
            Farewell::Wanted if outstanding == 0 && session.renewing => {
                session.farewell = Farewell::Leaving;
                session.sender.leave()
            }
            Farewell::Wanted if outstanding == 0 => {
                session.farewell = Farewell::Said;
                self.delivery.submitted_other(self.now());
                let payload = payload::offline(&self.config.gateway);
                session.sender.publish(&self.topics.status, payload, true)
            }
            Farewell::Said if outstanding == 0 => {
                session.farewell = Farewell::Leaving;
                session.sender.leave()
            }
            Farewell::None
            | Farewell::Wanted
            | Farewell::Said
            | Farewell::Leaving
            | Farewell::Left => Ok(()),
        };
        if taken.is_err() {
            session.dropped = Some("the MQTT client did not take the status".to_owned());
        }
    }

    fn publish_status(&mut self, session: &Session, mut says: Status) -> Result<(), NotTaken> {
        let topic = &self.topics.status;
        let gateway = &self.config.gateway;
        let mut payload = payload::status(gateway, &says, wall_ms());
        // The library would end every connection over it.
        if link::packet_size(topic, payload.len()) > session.max_status {
            let uplink = &self.config.name;
            let (bytes, most) = (payload.len(), session.max_status);
            warn!(
                uplink,
                bytes, most, "the status is too large for the broker; sent without modules"
            );
            says.modules = serde_json::Value::Null;
            payload = payload::status(gateway, &says, wall_ms());
        }
        self.delivery.submitted_other(self.origin.elapsed());
        session.sender.publish(topic, payload, true)
    }

    /// The connection is lost: what follows, and who is told.
    fn lost(&self, session: &Session, reason: &str) -> Outcome {
        if session.farewell != Farewell::None {
            return self.left(session);
        }
        self.failed(reason)
    }

    /// There is no connection, and who is told.
    fn failed(&self, reason: &str) -> Outcome {
        let MqttUplinkConfig {
            name: uplink,
            host,
            port,
            ..
        } = &self.config;
        warn!(
            uplink,
            host, port, reason, "no connection; messages wait in the outbox"
        );
        let error = format!("{host}:{port}: {reason}");
        self.report(|status| status.last_error = Some(error));
        Outcome::Again
    }

    /// User name and password for the next connection, or why there are none.
    async fn login(&self) -> Result<Result<Option<Login>, String>, UplinkError> {
        let Some(Credentials {
            username,
            password_file,
        }) = self.config.credentials.clone()
        else {
            return Ok(Ok(None));
        };
        let read = task::spawn_blocking(move || {
            // An empty password is sent as none.
            let password = password_file.map_or(Ok(String::new()), |file| read_password(&file))?;
            Ok(Some(Login { username, password }))
        });
        read.await.map_err(|source| self.panicked(source))
    }

    /// What the next connection's TLS is made of, if it is to have any.
    async fn prepare(&self) -> Result<Option<Prepared>, UplinkError> {
        let Transport::Tls(tls) = &self.config.transport else {
            return Ok(None);
        };
        let tls = Arc::clone(tls);
        let read = task::spawn_blocking(move || tls.prepare());
        let prepared = read.await.map_err(|source| self.panicked(source))?;
        Ok(Some(prepared))
    }

    fn panicked(&self, source: JoinError) -> UplinkError {
        UplinkError::Read {
            uplink: self.config.name.clone(),
            source,
        }
    }

    fn report(&self, change: impl FnOnce(&mut UplinkStatus)) {
        self.status.send_modify(change);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Session {
    fn new(sender: Sender, config: &MqttUplinkConfig, delivery: &Delivery) -> Self {
        Self {
            sender,
            since: None,
            max_packet: config.max_packet,
            max_status: link::outgoing_packet(config),
            delivered_before: delivery.totals().delivered,
            envelope: None,
            looked: None,
            more: false,
            urgent: false,
            status_due: false,
            farewell: Farewell::None,
            made_of: None,
            renewing: false,
            dropped: None,
        }
    }
}

fn say<T: From<Settled>>(permit: Permit<'_, T>, unsaid: &mut VecDeque<Settled>) {
    if let Some(settled) = unsaid.pop_front() {
        permit.send(settled.into());
    }
}

fn inbox_closed(config: &MqttUplinkConfig) -> UplinkError {
    UplinkError::InboxClosed {
        uplink: config.name.clone(),
    }
}

/// Ready when a stop is wanted; a handle that is gone can no longer want anything else.
async fn wanted(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|wanted| *wanted).await.is_err() {
        debug!("every handle is gone, which is a stop");
    }
}

async fn finished<F>(fetch: &mut Option<JoinHandle<F>>) -> Result<F, JoinError> {
    match fetch {
        Some(fetch) => fetch.await,
        None => future::pending().await,
    }
}

fn read_password(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(PASSWORD_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("password file {shown}: {error}")),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > PASSWORD_FILE) => Err(
            format!("password file {shown}: larger than {PASSWORD_FILE} bytes"),
        ),
        Ok(_) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
