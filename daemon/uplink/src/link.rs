//! The seam to the MQTT client library: one connection, both versions of the protocol, few things that can happen.
//!
//! Every connection is made with a fresh client, and with a clean session unless commands are taken: then the broker keeps
//! those for us. The library keeps what was not acknowledged and
//! sends it again by itself, the broker may keep a session as well, and either would send what the outbox sends again
//! anyway; a client that was never used before has nothing to send, and none of the library's states that survive a
//! connection (a packet id that collided, an acknowledgement that never comes) can follow us to the next.

use std::future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::{DisconnectReasonCode, PubAck, PubAckReason, PublishProperties};
use rumqttc::{NetworkOptions, Outgoing, Packet, QoS, TlsConfiguration, TlsError};
use tidegate_domain::delivery::EndedBy;
use tidegate_tls::{Prepared, Tls};

use crate::commands;
use crate::config::{Broker, MqttUplinkConfig, Transport, Version};

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
    /// The oldest submission without a packet id has one.
    Numbered(u16),
    /// The broker acknowledged a packet id.
    Acknowledged {
        /// Which.
        pkid: u16,
        /// Its reason, where it refused.
        refusal: Option<String>,
    },
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

/// Begins a connection to one of the brokers; [`Driver::next`] makes it. `prepared` is what its TLS is made of, where it
/// has any.
pub(crate) fn open(
    config: &MqttUplinkConfig,
    broker: &Broker,
    login: Option<Login>,
    will: Will<'_>,
    prepared: Option<&Prepared>,
    session: Session,
) -> (Sender, Driver) {
    // Room for the window, acknowledgements of commands, the subscription, the status, the farewell and the disconnection:
    // a submission never finds it full.
    let commands = match session {
        Session::None => 0,
        Session::Kept | Session::Anew => commands::WAITING,
    };
    let queue = config.in_flight.messages + commands + 8;
    let incoming = incoming_packet(session);
    // Twice the window, so that a broker that acknowledges out of order does not make packet ids collide at once.
    let packet_ids = u16::try_from(queue * 2).unwrap_or(u16::MAX);
    // The library waits this long for a flush, too: a slow line fills its buffer with what is one window.
    let patience = config.keep_alive.as_secs().clamp(10, 60);
    let (host, transport) = match prepared {
        None => (bracketed(&broker.host), rumqttc::Transport::Tcp),
        // The library takes the host for the name in the certificate, too, where an IPv6 address has no brackets; it
        // is looked up all the same. Which name is expected is decided by the client configuration alone.
        Some(prepared) => {
            let tls = TlsConfiguration::Rustls(Arc::clone(&prepared.client));
            (
                broker.host.clone(),
                rumqttc::Transport::tls_with_config(tls),
            )
        }
    };
    let tls = match &broker.transport {
        Transport::Plain => None,
        Transport::Tls(tls) => Some(Arc::clone(tls)),
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(patience);
    match config.version {
        Version::V311 => {
            let mut options = rumqttc::MqttOptions::new(&config.client_id, host, broker.port);
            options
                .set_transport(transport)
                .set_keep_alive(config.keep_alive)
                .set_clean_session(session != Session::Kept)
                .set_manual_acks(true)
                .set_inflight(packet_ids)
                .set_max_packet_size(incoming, outgoing_packet(config))
                .set_last_will(rumqttc::LastWill::new(
                    will.topic,
                    will.payload,
                    QoS::AtLeastOnce,
                    true,
                ));
            if let Some(login) = login {
                options.set_credentials(login.username, login.password);
            }
            let (client, mut events) = rumqttc::AsyncClient::new(options, queue);
            events.set_network_options(network);
            let driver = Driver::new(EventLoop::V311(Box::new(events)), config.keep_alive, tls);
            (Sender::V311(client), driver)
        }
        Version::V5 => {
            let mut options = v5::MqttOptions::new(&config.client_id, host, broker.port);
            options
                .set_transport(transport)
                .set_keep_alive(config.keep_alive)
                .set_clean_start(session != Session::Kept)
                .set_manual_acks(true)
                .set_outgoing_inflight_upper_limit(packet_ids)
                .set_max_packet_size(u32::try_from(incoming).ok())
                .set_connection_timeout(patience)
                .set_network_options(network)
                .set_last_will(v5::mqttbytes::v5::LastWill::new(
                    will.topic,
                    will.payload,
                    v5::mqttbytes::QoS::AtLeastOnce,
                    true,
                    None,
                ));
            if let Some(login) = login {
                options.set_credentials(login.username, login.password);
            }
            if session != Session::None {
                let expiry = commands::SESSION_EXPIRY.as_secs();
                options
                    .set_session_expiry_interval(u32::try_from(expiry).ok())
                    .set_receive_maximum(Some(commands::RECEIVE_MAXIMUM));
            }
            let (client, events) = v5::AsyncClient::new(options, queue);
            let driver = Driver::new(EventLoop::V5(Box::new(events)), config.keep_alive, tls);
            (Sender::V5(client), driver)
        }
    }
}

/// The library joins host and port with a colon, of which an IPv6 address has some already.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
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

/// The library ends the connection over a packet that is larger. Messages are measured before, see [`overhead`]; the
/// status is small, and must be able to go out however small the messages have to be.
pub(crate) fn outgoing_packet(config: &MqttUplinkConfig) -> usize {
    config.max_packet.max(INCOMING_PACKET)
}

/// Submits to a connection. It never blocks.
pub(crate) enum Sender {
    V311(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A submission was not taken: the queue of the client library was full, which its size rules out.
#[derive(Debug)]
pub(crate) struct NotTaken;

impl Sender {
    /// Publishes at QoS 1; MQTT 5 carries the content type. The packet id is told by a later [`LinkEvent::Numbered`], in
    /// the order of submissions.
    pub(crate) fn publish(
        &self,
        topic: &str,
        content_type: &str,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<(), NotTaken> {
        match self {
            Self::V311(client) => client
                .try_publish(topic, QoS::AtLeastOnce, retain, payload)
                .map_err(|_| NotTaken),
            Self::V5(client) => {
                let properties = PublishProperties {
                    content_type: Some(content_type.to_owned()),
                    ..PublishProperties::default()
                };
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .try_publish_with_properties(topic, qos, retain, payload, properties)
                    .map_err(|_| NotTaken)
            }
        }
    }

    /// Subscribes to a topic at QoS 1; [`LinkEvent::Subscribed`] follows.
    pub(crate) fn subscribe(&self, topic: &str) -> Result<(), NotTaken> {
        match self {
            Self::V311(client) => client
                .try_subscribe(topic, QoS::AtLeastOnce)
                .map_err(|_| NotTaken),
            Self::V5(client) => {
                let mut filter =
                    v5::mqttbytes::v5::Filter::new(topic, v5::mqttbytes::QoS::AtLeastOnce);
                // A command that somebody left there, perhaps years ago, is none.
                filter.retain_forward_rule = v5::mqttbytes::v5::RetainForwardRule::Never;
                filter.preserve_retain = true;
                client.try_subscribe_many([filter]).map_err(|_| NotTaken)
            }
        }
    }

    /// Acknowledges a command of this connection.
    pub(crate) fn acknowledge(&self, pkid: u16) -> Result<(), NotTaken> {
        match self {
            Self::V311(client) => {
                let mut publish =
                    rumqttc::mqttbytes::v4::Publish::new("", QoS::AtLeastOnce, Vec::new());
                publish.pkid = pkid;
                client.try_ack(&publish).map_err(|_| NotTaken)
            }
            Self::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let mut publish = v5::mqttbytes::v5::Publish::new("", qos, Vec::new(), None);
                publish.pkid = pkid;
                client.try_ack(&publish).map_err(|_| NotTaken)
            }
        }
    }

    /// Says farewell, so that the last will is not published; [`LinkEvent::Left`] follows.
    pub(crate) fn leave(&self) -> Result<(), NotTaken> {
        match self {
            Self::V311(client) => client.try_disconnect().map_err(|_| NotTaken),
            Self::V5(client) => client.try_disconnect().map_err(|_| NotTaken),
        }
    }
}

/// Makes a connection and keeps it going for as long as it is asked what is next.
pub(crate) struct Driver {
    events: EventLoop,
    keep_alive: Duration,
    /// Knows what the errors of TLS mean.
    tls: Option<Arc<Tls>>,
    /// How it ended; told after what came in before.
    ended: Option<(EndedBy, String)>,
    oversize: bool,
    over: bool,
}

enum EventLoop {
    V311(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl Driver {
    fn new(events: EventLoop, keep_alive: Duration, tls: Option<Arc<Tls>>) -> Self {
        Self {
            events,
            keep_alive,
            tls,
            ended: None,
            oversize: false,
            over: false,
        }
    }

    /// The next thing that happens. It takes the driver and gives it back, because the library's `poll` is not safe to
    /// cancel: a future that owns the connection is either driven to its end or given up together with it.
    pub(crate) async fn next(mut self) -> (Self, LinkEvent) {
        loop {
            if self.over {
                return future::pending().await;
            }
            if self.ended.is_some() {
                // The library reports an error before events that were there earlier; an acknowledgement among them
                // saves a message from being sent twice.
                if let Some(event) = self.left_over() {
                    return (self, event);
                }
                if std::mem::take(&mut self.oversize) {
                    return (self, LinkEvent::Oversize);
                }
                if let Some((by, reason)) = self.ended.take() {
                    self.over = true;
                    return (self, LinkEvent::Ended { by, reason });
                }
            }
            match self.poll().await {
                Ok(Some(event)) => return (self, event),
                Ok(None) => {}
                Err(ended) => self.ended = Some(ended),
            }
        }
    }

    async fn poll(&mut self) -> Result<Option<LinkEvent>, (EndedBy, String)> {
        match &mut self.events {
            EventLoop::V311(events) => match events.poll().await {
                Ok(event) => Ok(event_v311(event)),
                Err(error) => {
                    let tls = self.tls.as_deref();
                    let reason = tls
                        .and_then(|tls| explained_v311(tls, &error))
                        .unwrap_or_else(|| error.to_string());
                    self.oversize = is_oversize_v311(&error);
                    Err((ended_by_v311(&error), reason))
                }
            },
            EventLoop::V5(events) => match events.poll().await {
                Ok(event) => {
                    // A broker may forbid keep-alives by setting them to 0; the library then asks all the time and
                    // fails, and we want to know when a line is dead.
                    if events.options.keep_alive().is_zero() {
                        events.options.set_keep_alive(self.keep_alive);
                    }
                    Ok(event_v5(event))
                }
                Err(error) => {
                    let tls = self.tls.as_deref();
                    let reason = tls
                        .and_then(|tls| explained_v5(tls, &error))
                        .unwrap_or_else(|| error.to_string());
                    self.oversize = is_oversize_v5(&error);
                    Err((ended_by_v5(&error), reason))
                }
            },
        }
    }

    fn left_over(&mut self) -> Option<LinkEvent> {
        match &mut self.events {
            EventLoop::V311(events) => {
                let events = &mut events.state.events;
                std::iter::from_fn(|| events.pop_front()).find_map(event_v311)
            }
            EventLoop::V5(events) => {
                let events = &mut events.state.events;
                std::iter::from_fn(|| events.pop_front()).find_map(event_v5)
            }
        }
    }
}

fn event_v311(event: rumqttc::Event) -> Option<LinkEvent> {
    match event {
        rumqttc::Event::Outgoing(outgoing) => outgoing_event(&outgoing),
        rumqttc::Event::Incoming(packet) => {
            if let Packet::ConnAck(_) = packet {
                return Some(LinkEvent::Connected {
                    receive_maximum: None,
                    max_packet: None,
                });
            }
            if let Packet::Publish(publish) = packet {
                return Some(LinkEvent::Command {
                    pkid: (publish.qos == QoS::AtLeastOnce).then_some(publish.pkid),
                    retained: publish.retain,
                    payload: publish.payload,
                });
            }
            if let Packet::SubAck(ack) = packet {
                return Some(LinkEvent::Subscribed {
                    refusal: ack
                        .return_codes
                        .contains(&rumqttc::SubscribeReasonCode::Failure)
                        .then(|| "the broker refused the subscription to commands".to_owned()),
                });
            }
            let Packet::PubAck(ack) = packet else {
                return None;
            };
            Some(LinkEvent::Acknowledged {
                pkid: ack.pkid,
                refusal: None,
            })
        }
    }
}

fn event_v5(event: v5::Event) -> Option<LinkEvent> {
    match event {
        v5::Event::Outgoing(outgoing) => outgoing_event(&outgoing),
        v5::Event::Incoming(packet) => {
            if let v5::Incoming::ConnAck(answer) = packet {
                let said = answer.properties;
                return Some(LinkEvent::Connected {
                    receive_maximum: said.as_ref().and_then(|said| said.receive_max),
                    max_packet: said.as_ref().and_then(|said| said.max_packet_size),
                });
            }
            if let v5::Incoming::Publish(publish) = packet {
                return Some(LinkEvent::Command {
                    pkid: (publish.qos == v5::mqttbytes::QoS::AtLeastOnce).then_some(publish.pkid),
                    retained: publish.retain,
                    payload: publish.payload,
                });
            }
            if let v5::Incoming::SubAck(ack) = packet {
                return Some(LinkEvent::Subscribed {
                    refusal: subscription_refusal(&ack),
                });
            }
            let v5::Incoming::PubAck(ack) = packet else {
                return None;
            };
            Some(LinkEvent::Acknowledged {
                pkid: ack.pkid,
                refusal: refusal(ack),
            })
        }
    }
}

fn subscription_refusal(ack: &v5::mqttbytes::v5::SubAck) -> Option<String> {
    use v5::mqttbytes::v5::SubscribeReasonCode;
    let refused = ack
        .return_codes
        .iter()
        .find(|code| !matches!(code, SubscribeReasonCode::Success(_)))?;
    let text = ack
        .properties
        .as_ref()
        .and_then(|said| said.reason_string.clone());
    let text = text.map(|text| format!(": {text}")).unwrap_or_default();
    Some(format!(
        "the broker refused the subscription to commands: {refused:?}{text}"
    ))
}

fn is_oversize_v311(error: &rumqttc::ConnectionError) -> bool {
    use rumqttc::{ConnectionError, StateError, mqttbytes};
    matches!(
        error,
        ConnectionError::MqttState(StateError::Deserialization(
            mqttbytes::Error::PayloadSizeLimitExceeded(_)
        ))
    )
}

fn is_oversize_v5(error: &v5::ConnectionError) -> bool {
    use v5::{ConnectionError, StateError, mqttbytes};
    matches!(
        error,
        ConnectionError::MqttState(
            StateError::Deserialization(mqttbytes::Error::PayloadSizeLimitExceeded { .. })
                | StateError::IncomingPacketTooLarge { .. }
        )
    )
}

fn outgoing_event(outgoing: &Outgoing) -> Option<LinkEvent> {
    if let Outgoing::Publish(pkid) = *outgoing {
        // 0 stands for QoS 0, which is never used here.
        return (pkid != 0).then_some(LinkEvent::Numbered(pkid));
    }
    matches!(outgoing, Outgoing::Disconnect).then_some(LinkEvent::Left)
}

/// Reason codes from 0x80 on are refusals.
fn refusal(ack: PubAck) -> Option<String> {
    let code = match ack.reason {
        // Nobody subscribes: the broker took it all the same.
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return None,
        PubAckReason::UnspecifiedError => "unspecified error (0x80)",
        PubAckReason::ImplementationSpecificError => "implementation specific error (0x83)",
        PubAckReason::NotAuthorized => "not authorized (0x87)",
        PubAckReason::TopicNameInvalid => "topic name invalid (0x90)",
        PubAckReason::PacketIdentifierInUse => "packet identifier in use (0x91)",
        PubAckReason::QuotaExceeded => "quota exceeded (0x97)",
        PubAckReason::PayloadFormatInvalid => "payload format invalid (0x99)",
    };
    let text = ack.properties.and_then(|said| said.reason_string);
    Some(match text {
        Some(text) => format!("the broker refused it: {code}: {text}"),
        None => format!("the broker refused it: {code}"),
    })
}

/// What an error means where the connection has TLS: one of the handshake, or one of the line below the protocol.
fn explained_v311(tls: &Tls, error: &rumqttc::ConnectionError) -> Option<String> {
    use rumqttc::{ConnectionError, StateError, mqttbytes};
    if let ConnectionError::Tls(TlsError::Io(error)) = error {
        return Some(tls.explain_handshake(error));
    }
    if let ConnectionError::Io(error)
    | ConnectionError::MqttState(
        StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
    ) = error
    {
        return tls.explain(error);
    }
    None
}

/// Likewise.
fn explained_v5(tls: &Tls, error: &v5::ConnectionError) -> Option<String> {
    use v5::{ConnectionError, StateError, mqttbytes};
    if let ConnectionError::Tls(TlsError::Io(error)) = error {
        return Some(tls.explain_handshake(error));
    }
    if let ConnectionError::Io(error)
    | ConnectionError::MqttState(
        StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
    ) = error
    {
        return tls.explain(error);
    }
    None
}

fn ended_by_v311(error: &rumqttc::ConnectionError) -> EndedBy {
    use rumqttc::{ConnectionError, StateError, mqttbytes};
    match error {
        ConnectionError::Io(error)
        | ConnectionError::MqttState(StateError::Io(error))
        | ConnectionError::MqttState(StateError::Deserialization(mqttbytes::Error::Io(error))) => {
            ended_by(error.kind())
        }
        ConnectionError::MqttState(
            StateError::ConnectionAborted
            | StateError::Deserialization(_)
            | StateError::WrongPacket
            | StateError::InvalidState,
        ) => EndedBy::Peer,
        ConnectionError::MqttState(
            StateError::Unsolicited(_)
            | StateError::AwaitPingResp
            | StateError::CollisionTimeout
            | StateError::EmptySubscription,
        )
        | ConnectionError::Tls(_)
        | ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout
        | ConnectionError::ConnectionRefused(_)
        | ConnectionError::NotConnAck(_)
        | ConnectionError::RequestsDone => EndedBy::Line,
    }
}

fn ended_by_v5(error: &v5::ConnectionError) -> EndedBy {
    use v5::mqttbytes;
    use v5::{ConnectionError, StateError};
    match error {
        ConnectionError::Io(error)
        | ConnectionError::MqttState(StateError::Io(error))
        | ConnectionError::MqttState(StateError::Deserialization(mqttbytes::Error::Io(error))) => {
            ended_by(error.kind())
        }
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            ended_by_disconnect(*reason_code)
        }
        ConnectionError::MqttState(
            StateError::ConnectionAborted
            | StateError::Deserialization(_)
            | StateError::WrongPacket
            | StateError::InvalidState
            | StateError::OutgoingPacketTooLarge { .. }
            | StateError::IncomingPacketTooLarge { .. },
        ) => EndedBy::Peer,
        ConnectionError::MqttState(
            StateError::Unsolicited(_)
            | StateError::AwaitPingResp
            | StateError::CollisionTimeout
            | StateError::EmptySubscription
            | StateError::Coversion(_)
            | StateError::InvalidAlias { .. }
            | StateError::ConnFail { .. },
        )
        | ConnectionError::Tls(_)
        | ConnectionError::Timeout(_)
        | ConnectionError::ConnectionRefused(_)
        | ConnectionError::NotConnAck(_)
        | ConnectionError::RequestsDone => EndedBy::Line,
    }
}

fn ended_by(kind: io::ErrorKind) -> EndedBy {
    let peer = matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    );
    if peer { EndedBy::Peer } else { EndedBy::Line }
}

/// A broker that says why it leaves either means what we sent, or itself.
fn ended_by_disconnect(code: DisconnectReasonCode) -> EndedBy {
    match code {
        DisconnectReasonCode::UnspecifiedError
        | DisconnectReasonCode::MalformedPacket
        | DisconnectReasonCode::ProtocolError
        | DisconnectReasonCode::ImplementationSpecificError
        | DisconnectReasonCode::NotAuthorized
        | DisconnectReasonCode::TopicFilterInvalid
        | DisconnectReasonCode::TopicNameInvalid
        | DisconnectReasonCode::TopicAliasInvalid
        | DisconnectReasonCode::PacketTooLarge
        | DisconnectReasonCode::PayloadFormatInvalid
        | DisconnectReasonCode::RetainNotSupported
        | DisconnectReasonCode::QoSNotSupported => EndedBy::Peer,
        DisconnectReasonCode::NormalDisconnection
        | DisconnectReasonCode::DisconnectWithWillMessage
        | DisconnectReasonCode::ServerBusy
        | DisconnectReasonCode::ServerShuttingDown
        | DisconnectReasonCode::KeepAliveTimeout
        | DisconnectReasonCode::SessionTakenOver
        | DisconnectReasonCode::ReceiveMaximumExceeded
        | DisconnectReasonCode::MessageRateTooHigh
        | DisconnectReasonCode::QuotaExceeded
        | DisconnectReasonCode::AdministrativeAction
        | DisconnectReasonCode::UseAnotherServer
        | DisconnectReasonCode::ServerMoved
        | DisconnectReasonCode::SharedSubscriptionNotSupported
        | DisconnectReasonCode::ConnectionRateExceeded
        | DisconnectReasonCode::MaximumConnectTime
        | DisconnectReasonCode::SubscriptionIdentifiersNotSupported
        | DisconnectReasonCode::WildcardSubscriptionsNotSupported => EndedBy::Line,
    }
}
