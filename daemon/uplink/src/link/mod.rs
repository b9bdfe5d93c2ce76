//! One MQTT connection, both versions of the protocol, few things that can happen.
//!
//! Every connection begins anew, and with a clean session unless commands are taken: then the broker keeps those for us. What
//! was not acknowledged is the outbox's, which sends it again; nothing of a connection follows us to the next.
//!
//! Packets are put together in memory and leave together, and what comes in together is told together: in a drain one system call
//! carries many messages, and one turn of the uplink's loop as many acknowledgements.

mod codec;
mod output;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{HashSet, VecDeque};
use std::future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tidegate_domain::delivery::EndedBy;
use tidegate_tls::{Prepared, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use self::codec::{Codec, Incoming};
use self::output::Output;
use self::wire::{Target, Wire, Writer};
use crate::config::{Broker, MqttUplinkConfig, Transport};

/// What happens on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The broker let us in.
    Connected {
        /// How many unacknowledged messages it takes at once, where it says so.
        receive_maximum: Option<u16>,
        /// The largest packet it takes in bytes, where it says so.
        max_packet: Option<u32>,
    },
    /// The broker acknowledged packet ids, each with its reason where it refused.
    Acknowledged(Vec<(u16, Option<String>)>),
    /// A command came in.
    Command {
        /// Its packet id; `None` at QoS 0.
        pkid: Option<u16>,
        /// The broker had kept it for whoever subscribes.
        retained: bool,
        /// The bytes.
        payload: Bytes,
    },
    /// The broker answered to the subscription.
    Subscribed {
        /// Why it refused, where it did.
        refusal: Option<String>,
    },
    /// Something came in that is larger than we take. The connection ends.
    Oversize,
    /// Our farewell is out.
    Left,
    /// It is over. Nothing happens after that.
    Ended {
        /// By whom.
        by: EndedBy,
        /// Why, for a person.
        reason: String,
    },
}

/// What a connection is made with, beyond the configuration.
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// The last will: published by the broker, retained, when we are gone without a farewell.
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: Vec<u8>,
}

/// What the broker keeps for us between connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Nothing: we take no commands.
    None,
    /// Commands.
    Kept,
    /// Commands, from now on: what it kept before is thrown away.
    Anew,
}

/// The bytes of an MQTT packet beyond its payload, at most: fixed header, lengths, packet id, the topic, the content
/// type.
pub(crate) fn overhead(topic: usize, content_type: &str) -> usize {
    topic + content_type.len() + 20
}

/// Without commands acknowledgements are the largest that comes in; with MQTT 5 they carry texts.
const INCOMING_PACKET: usize = 64 * 1024;

/// The largest packet that is read. A command has room for its topic and properties, and one that is too long is refused in
/// words; what is larger still ends the connection, and the next one throws away what the broker kept, or it
/// would send the same again for ever.
fn incoming_packet(session: Session) -> usize {
    match session {
        Session::None => INCOMING_PACKET,
        Session::Kept | Session::Anew => 4 * INCOMING_PACKET,
    }
}

/// The largest packet that is written. Messages are measured before, see [`overhead`]; the
/// status is small, and must be able to go out however small the messages have to be.
pub(crate) fn outgoing_packet(config: &MqttUplinkConfig) -> usize {
    config.max_packet.max(INCOMING_PACKET)
}

/// Bytes that are read at once, at least.
const READ: usize = 4 * 1024;

/// A packet was not taken, and the connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// Brokers acknowledge in the order in which they were sent to (4.6 of both versions).
    #[error(
        "the broker never acknowledged packet {0}, though it acknowledged many that came later"
    )]
    Skipped(u16),
    #[error("MQTT has no packet for it")]
    Unwritable,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    by: EndedBy,
    reason: String,
    /// By a packet that is larger than we take.
    oversize: bool,
}

impl Ended {
    /// No message of ours is at fault.
    fn line(reason: String) -> Self {
        Self {
            by: EndedBy::Line,
            reason,
            oversize: false,
        }
    }

    /// The broker did not like something.
    fn peer(reason: String) -> Self {
        Self {
            by: EndedBy::Peer,
            reason,
            oversize: false,
        }
    }
}

/// A connection to a broker, from the first packet to the last. It goes on for as long as it is asked for [`Link::next`].
pub(crate) struct Link {
    codec: Codec,
    state: State,
    /// Knows what the errors of TLS mean.
    tls: Option<Arc<Tls>>,
    input: BytesMut,
    /// Packets on their way out. Bounded by the window, acknowledgements of commands that were sent, and a few others.
    output: Output,
    /// Bytes were written that TLS may still hold.
    unflushed: bool,
    events: VecDeque<LinkEvent>,
    ids: PacketIds,
    keep_alive: Duration,
    /// How long the broker may take to let us in, and to take bytes.
    patience: Duration,
    /// Since when we wait to be let in.
    knocked: Option<Instant>,
    /// Since when bytes wait and none is taken.
    stuck: Option<Instant>,
    /// When the last bytes left.
    sent: Instant,
    /// When a ping left that nothing has come after.
    pinged: Option<Instant>,
    leaving: bool,
}

enum State {
    Reaching(Pin<Box<dyn Future<Output = Result<Wire, Ended>> + Send>>),
    Up(Wire),
    Over,
}

/// What one wait came to.
enum Step {
    Read(usize),
    Wrote,
    Flushed,
    Late,
}

impl Link {
    /// Begins a connection to one of the brokers; [`Link::next`] makes it. `prepared` is what its TLS is made of, where it
    /// has any.
    pub(crate) fn open(
        config: &MqttUplinkConfig,
        broker: &Broker,
        login: Option<Login>,
        will: Will<'_>,
        prepared: Option<Prepared>,
        session: Session,
    ) -> Self {
        let tls = match &broker.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(Arc::clone(tls)),
        };
        let patience = Duration::from_secs(config.keep_alive.as_secs().clamp(10, 60));
        let target = Target {
            host: broker.host.clone(),
            port: broker.port,
            tls: tls.clone().zip(prepared),
            patience,
        };
        let codec = Codec::new(config.version, session);
        let now = Instant::now();
        let mut link = Self {
            codec,
            state: State::Reaching(Box::pin(wire::reach(target))),
            tls,
            input: BytesMut::new(),
            output: Output::default(),
            unflushed: false,
            events: VecDeque::new(),
            // Beside the window: the subscription, the status, the farewell.
            ids: PacketIds::new(config.in_flight.messages + 8),
            keep_alive: config.keep_alive,
            patience,
            knocked: None,
            stuck: None,
            sent: now,
            pinged: None,
            leaving: false,
        };
        match codec.connect(config, login, will, session) {
            Ok(packet) => link.output.end().extend_from_slice(&packet),
            Err(_) => link.end(Ended::line(
                "the client id, the user name or the password is longer than MQTT allows"
                    .to_owned(),
            )),
        }
        link
    }

    /// Publishes at QoS 1; MQTT 5 carries the content type. Returns the packet id.
    pub(crate) fn publish(
        &mut self,
        topic: &str,
        content_type: &str,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<u16, NotTaken> {
        let id = self.ids.take()?;
        let what = (topic, content_type);
        let written = self
            .codec
            .publish(&mut self.output, id, what, payload, retain);
        written.map_err(|_| NotTaken::Unwritable)?;
        self.put();
        Ok(id)
    }

    /// Subscribes to a topic at QoS 1; [`LinkEvent::Subscribed`] follows.
    pub(crate) fn subscribe(&mut self, topic: &str) -> Result<(), NotTaken> {
        let id = self.ids.take()?;
        let written = self.codec.subscribe(self.output.end(), id, topic);
        written.map_err(|_| NotTaken::Unwritable)?;
        self.put();
        Ok(())
    }

    /// Acknowledges a command of this connection.
    pub(crate) fn acknowledge(&mut self, pkid: u16) -> Result<(), NotTaken> {
        let written = self.codec.acknowledge(self.output.end(), pkid);
        written.map_err(|_| NotTaken::Unwritable)?;
        self.put();
        Ok(())
    }

    /// Says farewell, so that the last will is not published; [`LinkEvent::Left`] follows.
    pub(crate) fn leave(&mut self) {
        // Normal disconnection, the same in both versions (3.14).
        self.output.end().extend_from_slice(&[0xE0, 0]);
        self.leaving = true;
        self.put();
    }

    /// The next thing that happens. It may be given up at any time, and asked again.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if let State::Reaching(reach) = &mut self.state {
                match reach.as_mut().await {
                    Ok(wire) => self.reached(wire),
                    Err(ended) => self.end(ended),
                }
                continue;
            }
            if let Err(ended) = self.turn().await {
                self.end(ended);
            }
        }
    }

    /// Waits for the line to give or take something, and deals with it.
    async fn turn(&mut self) -> Result<(), Ended> {
        let late = self.deadline();
        let State::Up(wire) = &mut self.state else {
            return future::pending().await;
        };
        let (input, output) = (&mut self.input, &mut self.output);
        if input.capacity() - input.len() < READ {
            input.reserve(4 * READ);
        }
        let waits = output.has_remaining() || self.unflushed;
        let step = select! {
            read = wire.reader.read_buf(input) => read.map(Step::Read),
            sent = send(&mut wire.writer, output), if waits => sent,
            () = sleep_until(late) => Ok(Step::Late),
        };
        let now = Instant::now();
        match step.map_err(|error| wire::broken(self.tls.as_deref(), &error))? {
            Step::Read(0) => Err(Ended::peer(
                "the broker closed the connection; its log says why (a second client with the same client id is a frequent reason)"
                    .to_owned(),
            )),
            Step::Read(_) => {
                self.pinged = None;
                self.hear()
            }
            Step::Wrote => {
                self.sent = now;
                self.stuck = Some(now);
                self.unflushed = true;
                Ok(())
            }
            Step::Flushed => {
                self.stuck = None;
                self.unflushed = false;
                if std::mem::take(&mut self.leaving) {
                    self.events.push_back(LinkEvent::Left);
                }
                Ok(())
            }
            Step::Late => self.late(now),
        }
    }

    /// Takes the packets out of what came in.
    fn hear(&mut self) -> Result<(), Ended> {
        let mut acknowledged = Vec::new();
        let heard = loop {
            let packet = match self.codec.read(&mut self.input) {
                Ok(Some(packet)) => packet,
                Ok(None) => break Ok(()),
                Err(ended) => break Err(ended),
            };
            // In the order in which they came.
            if !matches!(packet, Incoming::Acknowledged(..)) {
                self.acknowledged(&mut acknowledged);
            }
            if let Err(ended) = self.take(packet, &mut acknowledged) {
                break Err(ended);
            }
        };
        self.acknowledged(&mut acknowledged);
        heard
    }

    fn acknowledged(&mut self, acknowledged: &mut Vec<(u16, Option<String>)>) {
        if !acknowledged.is_empty() {
            let acknowledged = std::mem::take(acknowledged);
            self.events.push_back(LinkEvent::Acknowledged(acknowledged));
        }
    }

    fn take(
        &mut self,
        packet: Incoming,
        acknowledged: &mut Vec<(u16, Option<String>)>,
    ) -> Result<(), Ended> {
        match (packet, self.knocked) {
            (
                Incoming::Accepted {
                    receive_maximum,
                    max_packet,
                    keep_alive,
                },
                Some(_),
            ) => {
                self.knocked = None;
                // A broker may forbid keep-alives by setting them to 0; we want to know when a line is dead.
                if let Some(seconds) = keep_alive.filter(|&seconds| seconds > 0) {
                    self.keep_alive = self.keep_alive.min(Duration::from_secs(seconds.into()));
                }
                self.events.push_back(LinkEvent::Connected {
                    receive_maximum,
                    max_packet,
                });
            }
            (_, Some(_)) => {
                let reason = "the broker sent something else before it let us in";
                return Err(Ended::line(reason.to_owned()));
            }
            (Incoming::Accepted { .. }, None) => {
                return Err(Ended::peer("the broker let us in twice".to_owned()));
            }
            (Incoming::Acknowledged(id, refusal), None) => {
                acknowledged.push((id, refusal));
                if !self.ids.free(id) {
                    return Err(Ended::line(format!(
                        "the broker acknowledged packet {id}, which it was not sent"
                    )));
                }
            }
            (Incoming::Subscribed(id, refusal), None) => {
                if !self.ids.free(id) {
                    return Err(Ended::line(format!(
                        "the broker answered subscription {id}, which was not asked for"
                    )));
                }
                self.events.push_back(LinkEvent::Subscribed { refusal });
            }
            (Incoming::Event(event), None) => self.events.push_back(event),
            (Incoming::Alive, None) => {}
        }
        Ok(())
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Instant {
        let ping = self.pinged.unwrap_or(self.sent) + self.keep_alive;
        let waiting = [self.knocked, self.stuck].into_iter().flatten();
        waiting
            .map(|since| since + self.patience)
            .fold(ping, Instant::min)
    }

    fn late(&mut self, now: Instant) -> Result<(), Ended> {
        let patience = self.patience;
        let over = |since: Option<Instant>| since.is_some_and(|since| since + patience <= now);
        if over(self.knocked) {
            let reason = format!("the broker did not let us in within {patience:?}");
            return Err(Ended::line(reason));
        }
        if over(self.stuck) {
            let reason = format!("the broker took no bytes for {patience:?}");
            return Err(Ended::line(reason));
        }
        let keep_alive = self.keep_alive;
        match self.pinged {
            Some(pinged) if pinged + keep_alive <= now => Err(Ended::line(format!(
                "the broker did not answer a ping within {keep_alive:?}"
            ))),
            None if self.sent + keep_alive <= now => {
                // PINGREQ, the same in both versions (3.12).
                self.output.end().extend_from_slice(&[0xC0, 0]);
                self.pinged = Some(now);
                self.put();
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The line stands: the first packet may leave.
    fn reached(&mut self, wire: Wire) {
        let now = Instant::now();
        self.state = State::Up(wire);
        self.knocked = Some(now);
        self.sent = now;
        self.put();
    }

    /// Something was put into the output.
    fn put(&mut self) {
        self.stuck.get_or_insert_with(Instant::now);
    }

    fn end(&mut self, ended: Ended) {
        self.state = State::Over;
        if ended.oversize {
            self.events.push_back(LinkEvent::Oversize);
        }
        self.events.push_back(LinkEvent::Ended {
            by: ended.by,
            reason: ended.reason,
        });
    }
}

/// Writes what waits, or sees to it that what was written leaves. It may be given up at any time.
async fn send(writer: &mut Writer, output: &mut Output) -> std::io::Result<Step> {
    if !output.has_remaining() {
        writer.flush().await?;
        return Ok(Step::Flushed);
    }
    match writer.write_buf(output).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(Step::Wrote),
    }
}

/// Packet ids (2.3.1 of 3.1.1, 2.2.1 of 5). They go round, so that an acknowledgement that comes late meets nobody else's, and one that
/// never comes is noticed.
#[derive(Debug)]
struct PacketIds {
    last: u16,
    /// The highest.
    most: u16,
    used: HashSet<u16>,
}

impl PacketIds {
    /// For so many that are under way at once.
    fn new(under_way: usize) -> Self {
        Self {
            last: 0,
            // Twice as many, so that a broker that acknowledges out of order does not make them collide at once.
            most: u16::try_from(under_way * 2).unwrap_or(u16::MAX),
            used: HashSet::new(),
        }
    }

    fn take(&mut self) -> Result<u16, NotTaken> {
        self.last = if self.last < self.most {
            self.last + 1
        } else {
            1
        };
        match self.used.insert(self.last) {
            true => Ok(self.last),
            false => Err(NotTaken::Skipped(self.last)),
        }
    }

    /// It was acknowledged. False where it was not in use.
    fn free(&mut self, id: u16) -> bool {
        self.used.remove(&id)
    }
}
