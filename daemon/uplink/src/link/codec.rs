//! Packets of MQTT 3.1.1 and 5, written and read by the client library's codec.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS, v4};
use rumqttc::v5::mqttbytes as bytes5;
use rumqttc::v5::mqttbytes::v5;
use tidegate_domain::delivery::EndedBy;

use super::output::Output;
use super::{Ended, LinkEvent, Login, Session, Will, incoming_packet};
use crate::commands;
use crate::config::{MqttUplinkConfig, Version};

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The broker let us in.
    Accepted {
        receive_maximum: Option<u16>,
        max_packet: Option<u32>,
        /// Seconds, in place of what we asked for.
        keep_alive: Option<u16>,
    },
    /// The broker acknowledged a packet id, or refused it.
    Acknowledged(u16, Option<String>),
    /// The broker answered the subscription with this packet id.
    Subscribed(u16, Option<String>),
    /// Something that is told as it is.
    Event(LinkEvent),
    /// An answer to a ping.
    Alive,
}

/// One version of the protocol, and the largest packet that is read, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    version: Version,
    most: usize,
}

/// A packet that the codec cannot write: a topic or a payload beyond what MQTT can say.
#[derive(Debug)]
pub(super) struct Unwritable;

impl Codec {
    pub(super) fn new(version: Version, session: Session) -> Self {
        Self {
            version,
            most: incoming_packet(session),
        }
    }

    pub(super) fn connect(
        self,
        config: &MqttUplinkConfig,
        login: Option<Login>,
        will: Will<'_>,
        session: Session,
    ) -> Result<BytesMut, Unwritable> {
        let keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let clean = session != Session::Kept;
        let mut packet = BytesMut::new();
        match self.version {
            Version::V311 => {
                let mut connect = v4::Connect::new(&config.client_id);
                connect.keep_alive = keep_alive;
                connect.clean_session = clean;
                connect.last_will = Some(v4::LastWill::new(
                    will.topic,
                    will.payload,
                    QoS::AtLeastOnce,
                    true,
                ));
                if let Some(login) = login {
                    connect.set_login(login.username, login.password);
                }
                connect.write(&mut packet).map_err(|_| Unwritable)?;
            }
            Version::V5 => {
                let mut said = v5::ConnectProperties::new();
                said.max_packet_size = u32::try_from(self.most).ok();
                if session != Session::None {
                    let expiry = commands::SESSION_EXPIRY.as_secs();
                    said.session_expiry_interval = u32::try_from(expiry).ok();
                    said.receive_maximum = Some(commands::RECEIVE_MAXIMUM);
                }
                let connect = v5::Connect {
                    keep_alive,
                    client_id: config.client_id.clone(),
                    clean_start: clean,
                    properties: Some(said),
                };
                let qos = bytes5::QoS::AtLeastOnce;
                let will = v5::LastWill::new(will.topic, will.payload, qos, true, None);
                let login = login.map(|login| v5::Login::new(login.username, login.password));
                let written = connect.write(&Some(will), &login, &mut packet);
                written.map_err(|_| Unwritable)?;
            }
        }
        Ok(packet)
    }

    /// PUBLISH at QoS 1 (3.3 of both versions); MQTT 5 carries the content type. Written here, since the library's codec copies the
    /// payload twice.
    pub(super) fn publish(
        self,
        output: &mut Output,
        id: u16,
        (topic, content_type): (&str, &str),
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<(), Unwritable> {
        let length = |text: &str| u16::try_from(text.len()).map_err(|_| Unwritable);
        let (topic_length, type_length) = (length(topic)?, length(content_type)?);
        let said = match self.version {
            Version::V311 => 0,
            // The identifier of the content type, and a string (3.3.2.3.9).
            Version::V5 => 3 + content_type.len(),
        };
        let counted = variable(said)?;
        let counted = match self.version {
            Version::V311 => &[][..],
            Version::V5 => &counted,
        };
        let rest = 2 + topic.len() + 2 + counted.len() + said + payload.len();
        let rest = variable(rest)?;
        let end = output.end();
        end.put_u8(0x32 | u8::from(retain));
        end.put_slice(&rest);
        end.put_u16(topic_length);
        end.put_slice(topic.as_bytes());
        end.put_u16(id);
        if let Version::V5 = self.version {
            end.put_slice(counted);
            end.put_u8(0x03);
            end.put_u16(type_length);
            end.put_slice(content_type.as_bytes());
        }
        output.payload(payload);
        Ok(())
    }

    /// SUBSCRIBE at QoS 1.
    pub(super) fn subscribe(
        self,
        output: &mut BytesMut,
        id: u16,
        topic: &str,
    ) -> Result<(), Unwritable> {
        let written = match self.version {
            Version::V311 => {
                let mut subscribe = v4::Subscribe::new(topic, QoS::AtLeastOnce);
                subscribe.pkid = id;
                subscribe.write(output).is_ok()
            }
            Version::V5 => {
                let mut filter = v5::Filter::new(topic, bytes5::QoS::AtLeastOnce);
                // A command that somebody left there, perhaps years ago, is none.
                filter.retain_forward_rule = v5::RetainForwardRule::Never;
                filter.preserve_retain = true;
                let mut subscribe = v5::Subscribe::new(filter, None);
                subscribe.pkid = id;
                subscribe.write(output).is_ok()
            }
        };
        written.then_some(()).ok_or(Unwritable)
    }

    /// PUBACK.
    pub(super) fn acknowledge(self, output: &mut BytesMut, id: u16) -> Result<(), Unwritable> {
        let written = match self.version {
            Version::V311 => v4::PubAck::new(id).write(output).is_ok(),
            Version::V5 => v5::PubAck::new(id, None).write(output).is_ok(),
        };
        written.then_some(()).ok_or(Unwritable)
    }

    /// The next packet out of `input`; `None` until there are more bytes.
    pub(super) fn read(self, input: &mut BytesMut) -> Result<Option<Incoming>, Ended> {
        let there = input.len();
        let (reason, oversize) = match self.version {
            Version::V311 => match v4::Packet::read(input, self.most) {
                Ok(packet) => return incoming_v311(packet).map(Some),
                // Within a packet that was taken out it means that the packet ends too early.
                Err(mqttbytes::Error::InsufficientBytes(_)) if input.len() == there => {
                    return Ok(None);
                }
                Err(error) => (
                    error.to_string(),
                    matches!(error, mqttbytes::Error::PayloadSizeLimitExceeded(_)),
                ),
            },
            // The codec does not know the short form (3.14.2.1).
            Version::V5 if input.starts_with(&[0xE0, 0]) => {
                let normal = v5::DisconnectReasonCode::NormalDisconnection;
                return Err(disconnected(normal, None));
            }
            Version::V5 => match v5::Packet::read(input, u32::try_from(self.most).ok()) {
                Ok(packet) => return incoming_v5(packet).map(Some),
                Err(bytes5::Error::InsufficientBytes(_)) if input.len() == there => {
                    return Ok(None);
                }
                Err(error) => (
                    error.to_string(),
                    matches!(error, bytes5::Error::PayloadSizeLimitExceeded { .. }),
                ),
            },
        };
        Err(Ended {
            oversize,
            ..Ended::peer(format!("the broker sent what is no MQTT: {reason}"))
        })
    }
}

/// A variable byte integer (1.5.5 of version 5, 2.2.3 of 3.1.1).
fn variable(mut number: usize) -> Result<Vec<u8>, Unwritable> {
    if number >= 1 << 28 {
        return Err(Unwritable);
    }
    let mut bytes = Vec::with_capacity(4);
    loop {
        let [low, ..] = (number & 0x7f).to_le_bytes();
        number >>= 7;
        bytes.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return Ok(bytes);
        }
    }
}

fn incoming_v311(packet: v4::Packet) -> Result<Incoming, Ended> {
    match packet {
        v4::Packet::ConnAck(answer) if answer.code == v4::ConnectReturnCode::Success => {
            Ok(Incoming::Accepted {
                receive_maximum: None,
                max_packet: None,
                keep_alive: None,
            })
        }
        v4::Packet::ConnAck(answer) => Err(refused(&answer.code, None)),
        v4::Packet::PubAck(ack) => Ok(Incoming::Acknowledged(ack.pkid, None)),
        v4::Packet::Publish(publish) => {
            let qos = publish.qos as u8;
            command(qos, publish.pkid, publish.retain, publish.payload)
        }
        v4::Packet::SubAck(ack) => {
            let refused = ack
                .return_codes
                .contains(&v4::SubscribeReasonCode::Failure)
                .then(|| "the broker refused the subscription to commands".to_owned());
            Ok(Incoming::Subscribed(ack.pkid, refused))
        }
        v4::Packet::PingResp => Ok(Incoming::Alive),
        v4::Packet::Connect(_)
        | v4::Packet::PubRec(_)
        | v4::Packet::PubRel(_)
        | v4::Packet::PubComp(_)
        | v4::Packet::Subscribe(_)
        | v4::Packet::Unsubscribe(_)
        | v4::Packet::UnsubAck(_)
        | v4::Packet::PingReq
        | v4::Packet::Disconnect => Err(unexpected()),
    }
}

fn incoming_v5(packet: v5::Packet) -> Result<Incoming, Ended> {
    match packet {
        v5::Packet::ConnAck(answer) if answer.code == v5::ConnectReturnCode::Success => {
            let said = answer.properties;
            Ok(Incoming::Accepted {
                receive_maximum: said.as_ref().and_then(|said| said.receive_max),
                max_packet: said.as_ref().and_then(|said| said.max_packet_size),
                keep_alive: said.and_then(|said| said.server_keep_alive),
            })
        }
        v5::Packet::ConnAck(answer) => {
            let text = answer.properties.and_then(|said| said.reason_string);
            Err(refused(&answer.code, text))
        }
        v5::Packet::PubAck(ack) => {
            let id = ack.pkid;
            Ok(Incoming::Acknowledged(id, refusal(ack)))
        }
        v5::Packet::Publish(publish) => {
            let qos = publish.qos as u8;
            command(qos, publish.pkid, publish.retain, publish.payload)
        }
        v5::Packet::SubAck(ack) => Ok(Incoming::Subscribed(ack.pkid, subscription_refusal(&ack))),
        v5::Packet::PingResp(_) => Ok(Incoming::Alive),
        v5::Packet::Disconnect(disconnect) => {
            let text = disconnect.properties.and_then(|said| said.reason_string);
            Err(disconnected(disconnect.reason_code, text))
        }
        v5::Packet::Auth(_)
        | v5::Packet::Connect(..)
        | v5::Packet::PingReq(_)
        | v5::Packet::Subscribe(_)
        | v5::Packet::PubRec(_)
        | v5::Packet::PubRel(_)
        | v5::Packet::PubComp(_)
        | v5::Packet::Unsubscribe(_)
        | v5::Packet::UnsubAck(_) => Err(unexpected()),
    }
}

fn unexpected() -> Ended {
    Ended::peer("the broker sent a packet that it never may".to_owned())
}

/// The one subscription is at QoS 1, and nothing comes at more.
fn command(qos: u8, id: u16, retained: bool, payload: Bytes) -> Result<Incoming, Ended> {
    if qos > 1 {
        let reason = "the broker sent a message at QoS 2 to a subscription at QoS 1";
        return Err(Ended::peer(reason.to_owned()));
    }
    Ok(Incoming::Event(LinkEvent::Command {
        pkid: (qos == 1).then_some(id),
        retained,
        payload,
    }))
}

/// A broker that says no will not be moved by another message.
fn refused(code: &dyn std::fmt::Debug, text: Option<String>) -> Ended {
    let text = said(text);
    Ended::line(format!("the broker refused the connection: {code:?}{text}"))
}

/// The broker's own words, as far as there are any.
fn said(text: Option<String>) -> String {
    text.map(|text| format!(": {}", text.escape_debug()))
        .unwrap_or_default()
}

fn subscription_refusal(ack: &v5::SubAck) -> Option<String> {
    let refused = ack
        .return_codes
        .iter()
        .find(|code| !matches!(code, v5::SubscribeReasonCode::Success(_)))?;
    let text = ack.properties.as_ref();
    let text = said(text.and_then(|said| said.reason_string.clone()));
    Some(format!(
        "the broker refused the subscription to commands: {refused:?}{text}"
    ))
}

/// Reason codes from 0x80 on are refusals.
fn refusal(ack: v5::PubAck) -> Option<String> {
    let code = match ack.reason {
        // Nobody subscribes: the broker took it all the same.
        v5::PubAckReason::Success | v5::PubAckReason::NoMatchingSubscribers => return None,
        v5::PubAckReason::UnspecifiedError => "unspecified error (0x80)",
        v5::PubAckReason::ImplementationSpecificError => "implementation specific error (0x83)",
        v5::PubAckReason::NotAuthorized => "not authorized (0x87)",
        v5::PubAckReason::TopicNameInvalid => "topic name invalid (0x90)",
        v5::PubAckReason::PacketIdentifierInUse => "packet identifier in use (0x91)",
        v5::PubAckReason::QuotaExceeded => "quota exceeded (0x97)",
        v5::PubAckReason::PayloadFormatInvalid => "payload format invalid (0x99)",
    };
    let text = said(ack.properties.and_then(|said| said.reason_string));
    Some(format!("the broker refused it: {code}{text}"))
}

/// A broker that says why it leaves either means what we sent, or itself.
fn disconnected(code: v5::DisconnectReasonCode, text: Option<String>) -> Ended {
    use v5::DisconnectReasonCode as Code;
    let by = match code {
        Code::UnspecifiedError
        | Code::MalformedPacket
        | Code::ProtocolError
        | Code::ImplementationSpecificError
        | Code::NotAuthorized
        | Code::TopicFilterInvalid
        | Code::TopicNameInvalid
        | Code::TopicAliasInvalid
        | Code::PacketTooLarge
        | Code::PayloadFormatInvalid
        | Code::RetainNotSupported
        | Code::QoSNotSupported => EndedBy::Peer,
        Code::NormalDisconnection
        | Code::DisconnectWithWillMessage
        | Code::ServerBusy
        | Code::ServerShuttingDown
        | Code::KeepAliveTimeout
        | Code::SessionTakenOver
        | Code::ReceiveMaximumExceeded
        | Code::MessageRateTooHigh
        | Code::QuotaExceeded
        | Code::AdministrativeAction
        | Code::UseAnotherServer
        | Code::ServerMoved
        | Code::SharedSubscriptionNotSupported
        | Code::ConnectionRateExceeded
        | Code::MaximumConnectTime
        | Code::SubscriptionIdentifiersNotSupported
        | Code::WildcardSubscriptionsNotSupported => EndedBy::Line,
    };
    let text = said(text);
    Ended {
        by,
        reason: format!("the broker ended the connection: {code:?}{text}"),
        oversize: false,
    }
}
