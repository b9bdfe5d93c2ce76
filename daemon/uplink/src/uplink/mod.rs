//! The task: name what happened, tell the machine, do what it says.

mod farewell;
mod handle;
mod login;
mod look;

use std::future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidegate_domain::AckToken;
use tidegate_domain::backoff::Backoff;
use tidegate_domain::delivery::{Brokers, Delivery, EndedBy, Horizon, Settled, Share};
use tidegate_tls::Prepared;
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::mpsc::Permit;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::commands::{self, IncomingCommand, Waiting};
use crate::config::{Broker, ConfigError, MqttUplinkConfig, Topics, Transport};
use crate::due::Due;
use crate::link::{self, Link, LinkEvent, Will};
use crate::outbox::Outbox;
use crate::payload::{self, Envelope};
use crate::status::{LinkState, Status, UplinkStatus};

pub use self::handle::UplinkHandle;
use self::look::Look;

/// How long a stop, or a new connection with renewed TLS files, waits for outstanding acknowledgements and the
/// farewell. What is not acknowledged by then goes up again later, and the broker publishes the last will in the
/// farewell's place.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How long a stop then waits for room in the store's inbox. What is not said by then goes up again as well.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// So many answers of the broker are told to the store together, each alone would wake its thread; fewer wait this long for
/// company. The store itself lets them wait far longer before it commits them.
const SAY_TOGETHER: usize = 32;
const SAY_WITHIN: Duration = Duration::from_millis(20);

/// The longest time between two looks at the outbox without having been woken.
const SAFETY_LOOK: Duration = Duration::from_secs(30);

/// How long a look for the first broker may take.
const LOOK_BACK_WITHIN: Duration = Duration::from_secs(5);

/// The content type of the status.
const JSON: &str = "application/json";

/// Creates an uplink over MQTT and the handle to it. What the broker said goes to `settled`; while that is full, nothing
/// more is sent.
///
/// # Errors
/// When the configuration cannot work.
pub fn mqtt<T: From<Vec<Settled>>>(
    config: MqttUplinkConfig,
    outbox: Arc<dyn Outbox>,
    settled: mpsc::Sender<T>,
) -> Result<(MqttUplink<T>, UplinkHandle), ConfigError> {
    let topics = config.check()?;
    let overhead = link::overhead(topics.longest(), config.encoding.content_type());
    let handle = UplinkHandle {
        wake: Arc::new(Notify::new()),
        origin: Instant::now(),
        horizon: Arc::default(),
        stop: watch::Sender::new(false),
        says: watch::Sender::new(config.status.clone()),
        status: watch::Sender::new(UplinkStatus::new(&config.name)),
        acknowledgements: Due::default(),
        deleted: Due::default(),
    };
    let uplink = MqttUplink {
        topics,
        outbox,
        settled,
        unsaid: Vec::new(),
        say_at: handle.origin,
        delivery: Delivery::new(config.in_flight, config.keep_alive)
            .limited(config.rate_limit, overhead),
        share: Share::new(config.live_share),
        horizon: Arc::clone(&handle.horizon),
        brokers: Brokers::new(config.brokers.len(), config.failback),
        backoff: Backoff::new(config.reconnect.min, config.reconnect.max),
        connections: 0,
        origin: handle.origin,
        wake: Arc::clone(&handle.wake),
        stop: handle.stop.subscribe(),
        says: handle.says.subscribe(),
        status: handle.status.clone(),
        acknowledgements: handle.acknowledgements.clone(),
        deleted: handle.deleted.clone(),
        commands: None,
        waiting: Waiting::default(),
        session_is_poisoned: false,
        config,
    };
    Ok((uplink, handle))
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
    /// Settled, and not told to the store yet. While there are many nothing is fetched, so that it holds at most what was in
    /// flight and ready then.
    unsaid: Vec<Settled>,
    /// When they are told at the latest.
    say_at: Instant,
    delivery: Delivery,
    /// How live data and backlog stand.
    share: Share,
    horizon: Arc<Mutex<Horizon>>,
    brokers: Brokers,
    backoff: Backoff,
    connections: u64,
    /// What the machine's times count from.
    origin: Instant,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
    says: watch::Receiver<Status>,
    status: watch::Sender<UplinkStatus>,
    acknowledgements: Due<AckToken>,
    deleted: Due<u64>,
    /// Where commands go; `None` where none are taken.
    commands: Option<mpsc::Sender<IncomingCommand>>,
    waiting: Waiting,
    /// The broker keeps something for us that ends every connection.
    session_is_poisoned: bool,
}

/// How a connection, or the wait for the next, ended.
enum Outcome {
    Stopped,
    Again,
    /// Left in an orderly way, to come back with the renewed TLS files.
    Renewed,
    /// Another broker has its turn, at once.
    Elsewhere,
}

/// Everything that can wake the task while it has a connection, or tries to.
enum Happened<'a, T> {
    Link(LinkEvent),
    Looked(Result<Look, JoinError>),
    Sealed,
    /// The cap on bytes lets the next message leave.
    Paced,
    /// Whether the first broker can be reached again.
    LookedBack(bool),
    StatusChanged,
    Tick,
    InboxFree(Permit<'a, T>),
    CommandsFree(Permit<'a, IncomingCommand>),
    CommandsClosed,
    CommandsCommitted,
    /// The store has deleted messages that were settled.
    Deleted,
    InboxClosed,
    StopWanted,
    StopOverdue,
}

/// What is known about the present connection beyond what the machine knows.
struct Session {
    link: Link,
    /// Since when it stands.
    since: Option<Instant>,
    /// The largest packets that may be sent, in bytes.
    max_packet: usize,
    max_status: usize,
    delivered_before: u64,
    /// What messages are wrapped in.
    envelope: Option<Arc<Envelope>>,
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
    /// The farewell is said to come back at the first broker.
    returning: bool,
    /// A look for the first broker that is under way.
    look_back: Option<LookBack>,
    /// The machine wants it to end.
    dropped: Option<String>,
}

type LookBack = Pin<Box<dyn Future<Output = bool> + Send>>;

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

impl<T: From<Vec<Settled>> + Send> MqttUplink<T> {
    /// Takes commands, at QoS 1 on the topic's kind `command`, and hands them to `commands`. Each is to be answered with
    /// [`UplinkHandle::acknowledge`] once it is committed; until then the broker keeps it, also while we are away.
    #[must_use]
    pub fn taking_commands(mut self, commands: mpsc::Sender<IncomingCommand>) -> Self {
        self.commands = Some(commands);
        self
    }

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
                Outcome::Renewed | Outcome::Elsewhere => continue,
                Outcome::Again => {}
            }
            // Without randomness all gateways come back at the same time: not good, but no reason to stay away.
            let random = getrandom::u64().unwrap_or(u64::MAX);
            let wait = self.backoff.next(random);
            let attempt = self.backoff.attempts();
            self.report(|status| {
                status.state = LinkState::BackingOff { attempt };
                status.next_attempt = Some(Instant::now() + wait);
            });
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
        let turn = self.brokers.turn();
        self.report(|status| {
            status.state = LinkState::Connecting;
            status.next_attempt = None;
            status.broker = turn;
        });
        let outcome = self.attempt().await?;
        if !self.status.borrow().proved && matches!(outcome, Outcome::Again) {
            let now = self.now();
            if self.brokers.failed(now) {
                return Ok(self.elsewhere());
            }
        }
        Ok(outcome)
    }

    /// Another broker has its turn.
    fn elsewhere(&self) -> Outcome {
        let uplink = &self.config.name;
        let Broker { host, port, .. } = self.broker();
        warn!(uplink, host, port, "another broker has its turn");
        self.report(|status| status.failovers += 1);
        Outcome::Elsewhere
    }

    fn broker(&self) -> &Broker {
        // The turn is one of them, and the configuration has at least one.
        &self.config.brokers[self.brokers.turn()]
    }

    async fn attempt(&mut self) -> Result<Outcome, UplinkError> {
        self.report(|status| status.proved = false);
        let login = match self.login().await? {
            Ok(login) => login,
            Err(reason) => {
                return Ok(self.unreachable(&reason));
            }
        };
        let prepared = match self.prepare().await? {
            Ok(prepared) => prepared,
            Err(reason) => {
                return Ok(self.unreachable(&reason));
            }
        };
        let will = Will {
            topic: &self.topics.status,
            payload: payload::offline(&self.config.gateway),
        };
        let kept = match (
            &self.commands,
            std::mem::take(&mut self.session_is_poisoned),
        ) {
            (None, _) => link::Session::None,
            (Some(_), false) => link::Session::Kept,
            (Some(_), true) => link::Session::Anew,
        };
        let broker = self.broker();
        let made_of = prepared.as_ref().map(|prepared| prepared.generation);
        let link = Link::open(&self.config, broker, login, will, prepared, kept);
        let mut session = Session::new(link, &self.config, &self.delivery);
        session.made_of = made_of;
        let outcome = self.serve(&mut session).await;

        // A connection that ends with us here is not the fault of any message; one that the other end ended was reported
        // where that was seen.
        self.delivery.disconnected(EndedBy::Line, "");
        self.waiting.disconnected();
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

    async fn serve(&mut self, session: &mut Session) -> Result<Outcome, UplinkError> {
        let tick = (self.config.keep_alive / 4).clamp(Duration::from_millis(100), SAFETY_LOOK);
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut overdue = pin!(sleep(STOP_WITHIN));
        let mut fetch: Option<JoinHandle<Look>> = None;
        // Another handle on the inbox, so that a free place in it does not borrow all of the uplink.
        let inbox = self.settled.clone();
        let commands = self.commands.clone();
        let committed = self.acknowledgements.clone();
        let deleted = self.deleted.clone();
        loop {
            let held = self.delivery.wait(self.now());
            let say_at = self.say_at;
            let happened = select! {
                event = session.link.next() => Happened::Link(event),
                fetched = finished(&mut fetch) => {
                    fetch = None;
                    Happened::Looked(fetched)
                }
                () = self.wake.notified() => Happened::Sealed,
                () = sleep(held.unwrap_or_default()), if held.is_some() => Happened::Paced,
                reached = looked_back(&mut session.look_back) => {
                    session.look_back = None;
                    Happened::LookedBack(reached)
                }
                Ok(()) = self.says.changed() => Happened::StatusChanged,
                _ = ticks.tick() => Happened::Tick,
                permit = reserve_at(say_at, &inbox), if !self.unsaid.is_empty() => match permit {
                    Ok(permit) => Happened::InboxFree(permit),
                    Err(_) => Happened::InboxClosed,
                },
                () = wanted(&mut self.stop), if session.farewell == Farewell::None || session.comes_back() => {
                    Happened::StopWanted
                }
                permit = reserve(commands.as_ref()), if !self.waiting.is_empty() => match permit {
                    Some(permit) => Happened::CommandsFree(permit),
                    None => Happened::CommandsClosed,
                },
                () = committed.some() => Happened::CommandsCommitted,
                () = deleted.some() => Happened::Deleted,
                () = &mut overdue, if session.farewell != Farewell::None => Happened::StopOverdue,
            };
            // Whatever happened at the same time comes after it: once a stop is wanted, nothing new is sent.
            if *self.stop.borrow() {
                self.delivery.finish();
            }
            let leaving = (session.farewell != Farewell::None, session.comes_back());
            if let Some(outcome) = self.apply(session, happened)? {
                return Ok(outcome);
            }
            if leaving != (session.farewell != Farewell::None, session.comes_back()) {
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
            Happened::Link(LinkEvent::Acknowledged(acknowledged)) => {
                for (pkid, refusal) in acknowledged {
                    self.delivery.acknowledged(now, pkid, refusal);
                }
                self.brokers.proved(now);
                self.report(|status| status.proved = true);
            }
            Happened::Paced => {}
            Happened::LookedBack(reached) => self.looked_back(session, reached),
            Happened::Link(LinkEvent::Command {
                pkid,
                retained,
                payload,
            }) => self.command(session, pkid, retained, payload),
            Happened::Link(LinkEvent::Subscribed { refusal }) => self.subscribed(refusal),
            Happened::Link(LinkEvent::Oversize) => self.poisoned(),
            Happened::CommandsFree(permit) => {
                if let Some(command) = self.waiting.pop() {
                    permit.send(command);
                }
            }
            Happened::CommandsClosed => self.waiting = Waiting::default(),
            Happened::CommandsCommitted => self.acknowledge(session),
            Happened::Deleted => self.forget(),
            Happened::Link(LinkEvent::Left) => session.farewell = Farewell::Left,
            Happened::Link(LinkEvent::Ended { by, reason }) => {
                self.delivery.disconnected(by, &reason);
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
                self.look_back(session);
            }
            Happened::InboxFree(permit) => {
                say(permit, &mut self.unsaid);
                self.say();
            }
            Happened::InboxClosed if session.farewell != Farewell::None => {
                return Ok(Some(Outcome::Stopped));
            }
            Happened::InboxClosed => return Err(inbox_closed(&self.config)),
            Happened::StopWanted => {
                if session.since.is_none() {
                    return Ok(Some(Outcome::Stopped));
                }
                // A farewell to come back that is not on its way yet becomes one for ever.
                session.renewing = false;
                session.returning = false;
                if session.farewell == Farewell::None {
                    session.farewell = Farewell::Wanted;
                }
                self.delivery.finish();
            }
            Happened::StopOverdue if session.comes_back() => {
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
        let uplink = &self.config.name;
        let Broker { host, port, .. } = self.broker();
        info!(uplink, host, port, reconnects, "connected");
        if self.commands.is_some()
            && let Err(error) = session.link.subscribe(&self.topics.command)
        {
            session.dropped = Some(format!("no subscription to commands: {error}"));
        }
    }

    /// A command came in. It waits for whoever carries it out; the broker keeps it until that is committed.
    fn command(
        &mut self,
        session: &mut Session,
        pkid: Option<u16>,
        retained: bool,
        payload: Bytes,
    ) {
        let command = IncomingCommand {
            uplink: self.config.index,
            payload,
            retained,
            ack: pkid.map(|pkid| AckToken {
                connection: self.connections,
                id: u64::from(pkid),
            }),
        };
        if !self.waiting.push(command) {
            session.dropped =
                Some("the broker sends more commands than can be held; they come again".to_owned());
        }
    }

    /// The broker would send it again for ever: the next connection begins anew.
    fn poisoned(&mut self) {
        let uplink = &self.config.name;
        warn!(
            uplink,
            "the broker sent a packet that is larger than any command; what else it kept for us is thrown away with it"
        );
        self.session_is_poisoned = true;
    }

    fn subscribed(&self, refusal: Option<String>) {
        let uplink = &self.config.name;
        match refusal {
            Some(reason) => {
                warn!(uplink, reason, "no commands come over this connection");
                self.report(|status| status.last_error = Some(reason));
            }
            None => debug!(uplink, "commands may come"),
        }
    }

    /// Acknowledges the commands of this connection that are committed.
    fn acknowledge(&self, session: &mut Session) {
        for pkid in commands::of_connection(self.acknowledgements.take(), self.connections) {
            if let Err(error) = session.link.acknowledge(pkid) {
                session.dropped = Some(format!("no acknowledgement of a command: {error}"));
            }
        }
    }

    /// Tells the store something once it is worth waking it, or nothing more is to be expected.
    fn say_together(&mut self) {
        if self.unsaid.len() >= SAY_TOGETHER || self.delivery.in_flight() == 0 {
            self.say();
        }
    }

    /// Says it all in one place of the inbox, where that has one at once: many places would fill it while the store commits,
    /// and then nothing more would leave.
    fn say(&mut self) {
        if !self.unsaid.is_empty()
            && let Ok(permit) = self.settled.try_reserve()
        {
            say(permit, &mut self.unsaid);
        }
    }

    /// What the store has deleted need not be remembered any more.
    fn forget(&mut self) {
        for seq in self.deleted.take() {
            self.delivery.deleted(seq);
        }
    }

    /// Away from the first broker, and it is time to look for it: by a connection of TCP, so that the one that works is
    /// not given up for nothing.
    fn look_back(&mut self, session: &mut Session) {
        let idle = session.look_back.is_none() && session.farewell == Farewell::None;
        let Some(Broker { host, port, .. }) = self.config.brokers.first() else {
            return;
        };
        if idle && self.brokers.looks_back(self.now()) {
            let first = (host.clone(), *port);
            session.look_back = Some(Box::pin(async move {
                let reached = timeout(LOOK_BACK_WITHIN, TcpStream::connect(first)).await;
                matches!(reached, Ok(Ok(_)))
            }));
        }
    }

    fn looked_back(&mut self, session: &mut Session, reached: bool) {
        let uplink = &self.config.name;
        if !reached {
            debug!(uplink, "the first broker cannot be reached yet");
            self.brokers.stays(self.now());
        } else if session.farewell == Farewell::None {
            info!(uplink, "the first broker can be reached again");
            session.returning = true;
            session.farewell = Farewell::Wanted;
            self.delivery.finish();
        }
    }

    /// The connection is lost: what follows, and who is told.
    fn lost(&mut self, session: &Session, reason: &str) -> Outcome {
        if session.farewell != Farewell::None {
            return self.left(session);
        }
        self.unreachable(reason)
    }

    fn unreachable(&self, reason: &str) -> Outcome {
        let uplink = &self.config.name;
        let Broker { host, port, .. } = self.broker();
        warn!(
            uplink,
            host, port, reason, "no connection; messages wait in the outbox"
        );
        let error = format!("{host}:{port}: {reason}");
        self.report(|status| status.last_error = Some(error));
        Outcome::Again
    }

    /// What the next connection's TLS is made of, if it is to have any.
    async fn prepare(&self) -> Result<Result<Option<Prepared>, String>, UplinkError> {
        let Transport::Tls(tls) = &self.broker().transport else {
            return Ok(Ok(None));
        };
        let tls = Arc::clone(tls);
        let read = task::spawn_blocking(move || tls.prepare());
        let prepared = read.await.map_err(|source| self.panicked(source))?;
        Ok(prepared.map(Some).map_err(|error| error.to_string()))
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
    /// The farewell, if there is one, is not for ever.
    fn comes_back(&self) -> bool {
        self.renewing || self.returning
    }

    fn new(link: Link, config: &MqttUplinkConfig, delivery: &Delivery) -> Self {
        Self {
            link,
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
            returning: false,
            look_back: None,
            dropped: None,
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say<T: From<Vec<Settled>>>(permit: Permit<'_, T>, unsaid: &mut Vec<Settled>) {
    if !unsaid.is_empty() {
        permit.send(std::mem::take(unsaid).into());
    }
}

/// A place in the store's inbox, from a moment on.
async fn reserve_at<T>(
    at: Instant,
    inbox: &mpsc::Sender<T>,
) -> Result<Permit<'_, T>, mpsc::error::SendError<()>> {
    sleep_until(at.into()).await;
    inbox.reserve().await
}

/// A place for a command; `None` where nobody takes any more.
async fn reserve(
    commands: Option<&mpsc::Sender<IncomingCommand>>,
) -> Option<Permit<'_, IncomingCommand>> {
    commands?.reserve().await.ok()
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

async fn looked_back(look: &mut Option<LookBack>) -> bool {
    match look {
        Some(look) => look.await,
        None => future::pending().await,
    }
}

async fn finished<F>(fetch: &mut Option<JoinHandle<F>>) -> Result<F, JoinError> {
    match fetch {
        Some(fetch) => fetch.await,
        None => future::pending().await,
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
