//! The packets of MQTT 3.1.1 and 5 that a receiving client writes and reads. Pure.
//!
//! Section numbers are those of the OASIS standards of 2014 (3.1.1) and 2019 (5.0).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidegate_domain::limits::{PACKET_BYTES, PAYLOAD_BYTES};

use super::config::{MqttConfig, Property, RECEIVE_MAXIMUM, Subscription, Version};

pub(super) const PINGREQ: [u8; 2] = [0xC0, 0];
/// Normal disconnection: without the last will, and the session stays.
pub(super) const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Bytes that are kept of a PUBLISH above [`PACKET_BYTES`]: its payload stays above `PAYLOAD_BYTES` whatever the
/// lengths of its topic and properties are, unless there are more than 128 KiB of properties.
const KEPT_BYTES: usize = PAYLOAD_BYTES + 1 + 3 * 65_536;

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck {
        session_present: bool,
        code: u8,
        said: Said,
    },
    Publish(Publish),
    SubAck {
        id: u16,
        codes: Vec<u8>,
        said: Said,
    },
    PingResp,
    Disconnect {
        code: u8,
        said: Said,
    },
}

/// What the broker added in MQTT 5 properties.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reason: Option<String>,
    /// Seconds; replaces the keep-alive that we asked for.
    pub(super) server_keep_alive: Option<u16>,
}

/// A message. The topic and the payload lie in one buffer as they were received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) dup: bool,
    pub(super) qos: u8,
    /// 0 for QoS 0.
    pub(super) id: u16,
    body: Bytes,
    topic_end: usize,
    /// Where the properties of MQTT 5 lie.
    properties: (usize, usize),
    payload_start: usize,
    /// Bytes of the payload as sent; more than there are where it was cut.
    pub(super) length: usize,
}

impl Publish {
    pub(super) fn topic(&self) -> &[u8] {
        self.body.get(2..self.topic_end).unwrap_or_default()
    }

    pub(super) fn into_payload(mut self) -> Bytes {
        self.body.advance(self.payload_start);
        self.body
    }

    /// A property that a sender can set as it likes, where the message has it.
    pub(super) fn property(&self, wanted: &Property) -> Option<Bytes> {
        let (start, end) = self.properties;
        let mut fields = Fields {
            rest: self.body.get(start..end)?,
            packet: "PUBLISH",
        };
        while !fields.rest.is_empty() {
            let found = match fields.u8().ok()? {
                0x09 => {
                    let data = fields.string().ok()?;
                    (*wanted == Property::CorrelationData).then_some(data)
                }
                0x26 => {
                    let (name, value) = (fields.string().ok()?, fields.string().ok()?);
                    let is_it =
                        matches!(wanted, Property::User(wanted) if wanted.as_bytes() == name);
                    is_it.then_some(value)
                }
                property => {
                    fields.skip_property(property).ok()?;
                    None
                }
            };
            if let Some(found) = found {
                return Some(self.body.slice_ref(found));
            }
        }
        None
    }

    pub(super) fn payload_len(&self) -> usize {
        self.body.len() - self.payload_start
    }
}

/// Bytes that are no MQTT. The connection cannot go on: nobody knows where the next packet begins.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the length of a packet takes more than four bytes")]
    Length,
    #[error("a {0} packet ends before its content does")]
    Short(&'static str),
    #[error("a {name} packet of {length} bytes; no such packet has more than {PACKET_BYTES}")]
    Oversize { name: &'static str, length: usize },
    #[error("a packet with the first byte {0:#04x}, which a broker never sends to a subscriber")]
    Unexpected(u8),
    #[error("property {0:#04x} of a {1} packet, which MQTT 5 does not know")]
    Property(u8, &'static str),
}

/// Cuts the stream of bytes into packets.
#[derive(Debug)]
pub(super) struct Decoder {
    version: Version,
    /// A PUBLISH above the bound, and how many bytes of it are still to be thrown away.
    cutting: Option<(Publish, usize)>,
}

impl Decoder {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            cutting: None,
        }
    }

    /// The next packet, or `None` until there are more bytes. Never asks for more than [`PACKET_BYTES`] to be held.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, PacketError> {
        if let Some((publish, left)) = self.cutting.take() {
            let here = left.min(buffer.len());
            buffer.advance(here);
            if here < left {
                self.cutting = Some((publish, left - here));
                return Ok(None);
            }
            return Ok(Some(Packet::Publish(publish)));
        }
        let Some((header, length)) = fixed_header(buffer)? else {
            return Ok(None);
        };
        let first = buffer[0];
        if length > PACKET_BYTES {
            if first >> 4 != 3 {
                return Err(PacketError::Oversize {
                    name: name(first),
                    length,
                });
            }
            if buffer.len() < header + KEPT_BYTES {
                return Ok(None);
            }
            buffer.advance(header);
            let body = buffer.split_to(KEPT_BYTES).freeze();
            let mut publish = self.publish(first, body)?;
            publish.length += length - KEPT_BYTES;
            self.cutting = Some((publish, length - KEPT_BYTES));
            return self.next(buffer);
        }
        if buffer.len() < header + length {
            return Ok(None);
        }
        buffer.advance(header);
        let body = buffer.split_to(length).freeze();
        self.packet(first, body).map(Some)
    }

    fn packet(&self, first: u8, body: Bytes) -> Result<Packet, PacketError> {
        let mut fields = Fields {
            rest: &body,
            packet: name(first),
        };
        match first >> 4 {
            2 => {
                let flags = fields.u8()?;
                let code = fields.u8()?;
                Ok(Packet::ConnAck {
                    session_present: flags & 1 == 1,
                    code,
                    said: self.said(&mut fields)?,
                })
            }
            3 => Ok(Packet::Publish(self.publish(first, body)?)),
            9 => {
                let id = fields.u16()?;
                let said = self.said(&mut fields)?;
                Ok(Packet::SubAck {
                    id,
                    codes: fields.rest.to_vec(),
                    said,
                })
            }
            13 => Ok(Packet::PingResp),
            14 if self.version == Version::V5 => {
                // 3.14.2.1: a remaining length of 0 stands for code 0.
                let code = if fields.rest.is_empty() {
                    0
                } else {
                    fields.u8()?
                };
                Ok(Packet::Disconnect {
                    code,
                    said: self.said(&mut fields)?,
                })
            }
            _ => Err(PacketError::Unexpected(first)),
        }
    }

    fn publish(&self, first: u8, body: Bytes) -> Result<Publish, PacketError> {
        let mut fields = Fields {
            rest: &body,
            packet: "PUBLISH",
        };
        let topic = usize::from(fields.u16()?);
        fields.take(topic)?;
        let qos = first >> 1 & 3;
        let id = if qos > 0 { fields.u16()? } else { 0 };
        let mut properties = (0, 0);
        if self.version == Version::V5 {
            // None of the properties changes what a message means to us, unless one is named as its identity: topic
            // aliases are not allowed to the broker (3.1.2.11.5: we announce none).
            let length = fields.varint()?;
            let start = body.len() - fields.rest.len();
            fields.take(length)?;
            properties = (start, start + length);
        }
        let payload_start = body.len() - fields.rest.len();
        Ok(Publish {
            dup: first & 8 != 0,
            qos,
            id,
            topic_end: 2 + topic,
            properties,
            payload_start,
            length: body.len() - payload_start,
            body,
        })
    }

    /// The properties of MQTT 5 (2.2.2.2), which may be left out where the packet ends before them.
    fn said(&self, fields: &mut Fields<'_>) -> Result<Said, PacketError> {
        let mut said = Said::default();
        if self.version == Version::V311 || fields.rest.is_empty() {
            return Ok(said);
        }
        let length = fields.varint()?;
        let mut properties = Fields {
            rest: fields.take(length)?,
            packet: fields.packet,
        };
        while !properties.rest.is_empty() {
            let property = properties.u8()?;
            match property {
                0x13 => said.server_keep_alive = Some(properties.u16()?),
                0x1F => {
                    let text = properties.string()?;
                    said.reason = Some(String::from_utf8_lossy(text).into_owned());
                }
                _ => properties.skip_property(property)?,
            }
        }
        Ok(said)
    }
}

/// The bytes of the fixed header and the length after it (2.2.3), once they are here.
fn fixed_header(buffer: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let Some(rest) = buffer.get(1..) else {
        return Ok(None);
    };
    Ok(varint(rest)?.map(|(length, bytes)| (1 + bytes, length)))
}

/// A variable byte integer and its number of bytes; `None` where it is not complete.
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(PacketError::Length);
    }
    Ok(None)
}

fn name(first: u8) -> &'static str {
    match first >> 4 {
        2 => "CONNACK",
        3 => "PUBLISH",
        9 => "SUBACK",
        13 => "PINGRESP",
        14 => "DISCONNECT",
        _ => "strange",
    }
}

/// A packet's content, field by field.
struct Fields<'a> {
    rest: &'a [u8],
    packet: &'static str,
}

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], PacketError> {
        let (field, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or(PacketError::Short(self.packet))?;
        self.rest = rest;
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, PacketError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, PacketError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Passes over the value of a property (2.2.2.2).
    fn skip_property(&mut self, property: u8) -> Result<(), PacketError> {
        match property {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => {
                self.take(1)?;
            }
            0x13 | 0x21..=0x23 => {
                self.take(2)?;
            }
            0x02 | 0x11 | 0x18 | 0x27 => {
                self.take(4)?;
            }
            0x0B => {
                self.varint()?;
            }
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => {
                self.string()?;
            }
            0x26 => {
                self.string()?;
                self.string()?;
            }
            _ => return Err(PacketError::Property(property, self.packet)),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<&'a [u8], PacketError> {
        let bytes = usize::from(self.u16()?);
        self.take(bytes)
    }

    fn varint(&mut self) -> Result<usize, PacketError> {
        let (value, bytes) = varint(self.rest)?.ok_or(PacketError::Short(self.packet))?;
        self.take(bytes)?;
        Ok(value)
    }
}

/// CONNECT with a session that lasts, and without a last will.
pub(super) fn connect(config: &MqttConfig) -> BytesMut {
    let credentials = config.credentials.as_ref();
    let password = credentials.and_then(|c| c.password());
    let mut body = BytesMut::new();
    put_string(&mut body, b"MQTT");
    body.put_u8(match config.version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    // Clean session (3.1.2.4) stays 0.
    let flags = u8::from(credentials.is_some()) << 7 | u8::from(password.is_some()) << 6;
    body.put_u8(flags);
    body.put_u16(u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX));
    if config.version == Version::V5 {
        // Maximum Packet Size is not announced on purpose: the broker would drop what is longer without a word,
        // while here it is cut, counted and set aside.
        body.put_u8(8);
        body.put_u8(0x11);
        body.put_u32(u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX));
        body.put_u8(0x21);
        body.put_u16(RECEIVE_MAXIMUM);
    }
    put_string(&mut body, config.client_id.as_bytes());
    if let Some(credentials) = credentials {
        put_string(&mut body, credentials.username().as_bytes());
    }
    if let Some(password) = password {
        put_string(&mut body, password);
    }
    packet(0x10, &body)
}

/// SUBSCRIBE to all of these.
pub(super) fn subscribe<'a>(
    version: Version,
    id: u16,
    subscriptions: impl Iterator<Item = &'a Subscription>,
) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u16(id);
    // 3.8.3.1 of MQTT 5: retained messages come with a new subscription only, not again on every reconnect. On
    // 3.1.1 the broker repeats them.
    let retain_handling = match version {
        Version::V311 => 0,
        Version::V5 => {
            body.put_u8(0);
            1 << 4
        }
    };
    for subscription in subscriptions {
        put_string(&mut body, subscription.filter.as_bytes());
        body.put_u8(subscription.qos as u8 | retain_handling);
    }
    packet(0x82, &body)
}

/// Appends a PUBACK; in MQTT 5 the code for success is left out (3.4.2.1).
pub(super) fn put_puback(out: &mut BytesMut, id: u16) {
    out.put_slice(&[0x40, 2]);
    out.put_u16(id);
}

fn packet(first: u8, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(body.len() + 5);
    out.put_u8(first);
    let mut length = body.len();
    loop {
        // Seven bits at a time, and a packet of our own has less than 2^28 bytes.
        let low = u8::try_from(length & 0x7F).unwrap_or_default();
        length >>= 7;
        if length == 0 {
            out.put_u8(low);
            break;
        }
        out.put_u8(low | 0x80);
    }
    out.put_slice(body);
    out
}

/// Appends a string; `MqttConfig::check` has seen to its length.
fn put_string(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}

/// What a code of CONNACK, SUBACK or DISCONNECT means.
pub(super) fn meaning(version: Version, code: u8) -> &'static str {
    match (version, code) {
        // 3.2.2.3 of MQTT 3.1.1, CONNACK; and its one failure code of SUBACK.
        (Version::V311, 1) => "the broker does not speak this version",
        (Version::V311, 2) => "the broker does not want this client id",
        (Version::V311, 3) => "the broker is not available",
        (Version::V311, 4) => "bad user name or password",
        (Version::V311, 5) => "not authorized",
        (Version::V311, 0x80) => "refused, most likely by the broker's access rules",
        // 2.4 of MQTT 5.
        (Version::V5, 0x00) => "no reason given",
        (Version::V5, 0x81) => "malformed packet",
        (Version::V5, 0x82) => "protocol error",
        (Version::V5, 0x83) => "implementation specific error",
        (Version::V5, 0x84) => "the broker does not speak this version",
        (Version::V5, 0x85) => "the broker does not want this client id",
        (Version::V5, 0x86) => "bad user name or password",
        (Version::V5, 0x87) => "not authorized",
        (Version::V5, 0x88) => "the broker is not available",
        (Version::V5, 0x89) => "the broker is busy",
        (Version::V5, 0x8A) => "banned",
        (Version::V5, 0x8B) => "the broker is shutting down",
        (Version::V5, 0x8D) => "the broker heard nothing for the keep-alive",
        (Version::V5, 0x8E) => "somebody else has connected with the same client id",
        (Version::V5, 0x8F) => "the topic filter is not allowed",
        (Version::V5, 0x91) => "packet identifier in use",
        (Version::V5, 0x93) => "receive maximum exceeded",
        (Version::V5, 0x95) => "packet too large",
        (Version::V5, 0x97) => "quota exceeded",
        (Version::V5, 0x98) => "administrative action",
        (Version::V5, 0x9C) => "use another server",
        (Version::V5, 0x9D) => "server moved",
        (Version::V5, 0x9E) => "the broker has no shared subscriptions",
        (Version::V5, 0x9F) => "connection rate exceeded",
        (Version::V5, 0xA1) => "the broker has no subscription identifiers",
        (Version::V5, 0xA2) => "the broker has no wildcard subscriptions",
        (_, _) => "a code that the protocol does not name",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(version: Version, bytes: &[u8]) -> Result<Vec<Packet>, PacketError> {
        let mut decoder = Decoder::new(version);
        let mut buffer = BytesMut::from(bytes);
        let mut packets = Vec::new();
        while let Some(packet) = decoder.next(&mut buffer)? {
            packets.push(packet);
        }
        Ok(packets)
    }

    fn check(version: Version, bytes: &[u8], expect: Result<Packet, PacketError>) {
        let got = decode(version, bytes).map(|mut packets| packets.remove(0));
        assert_eq!(got, expect, "{bytes:02x?}");
    }

    #[test]
    fn packets_of_both_versions() {
        use Version::{V5, V311};
        let said = Said::default;
        check(
            V311,
            &[0x20, 2, 1, 0],
            Ok(Packet::ConnAck {
                session_present: true,
                code: 0,
                said: said(),
            }),
        );
        check(
            V5,
            &[
                0x20, 14, 0, 0x87, 11, 0x21, 0, 10, 0x13, 0, 7, 0x1F, 0, 2, b'n', b'o',
            ],
            Ok(Packet::ConnAck {
                session_present: false,
                code: 0x87,
                said: Said {
                    reason: Some("no".to_owned()),
                    server_keep_alive: Some(7),
                },
            }),
        );
        check(
            V311,
            &[0x90, 4, 0, 9, 1, 0x80],
            Ok(Packet::SubAck {
                id: 9,
                codes: vec![1, 0x80],
                said: said(),
            }),
        );
        check(
            V5,
            &[0x90, 4, 0, 9, 0, 0x8F],
            Ok(Packet::SubAck {
                id: 9,
                codes: vec![0x8F],
                said: said(),
            }),
        );
        check(V5, &[0xD0, 0], Ok(Packet::PingResp));
        check(
            V5,
            &[0xE0, 0],
            Ok(Packet::Disconnect {
                code: 0,
                said: said(),
            }),
        );
        check(V311, &[0xE0, 0], Err(PacketError::Unexpected(0xE0)));
        check(V5, &[0x20, 1, 0], Err(PacketError::Short("CONNACK")));
        check(V5, &[0x30, 2, 0, 9], Err(PacketError::Short("PUBLISH")));
        check(V5, &[0x32, 3, 0, 0, 1], Err(PacketError::Short("PUBLISH")));
        check(
            V5,
            &[0x20, 4, 0, 0, 1, 0x7F],
            Err(PacketError::Property(0x7F, "CONNACK")),
        );
        check(
            V311,
            &[0x30, 0x80, 0x80, 0x80, 0x80, 1],
            Err(PacketError::Length),
        );
        check(
            V311,
            &[0x20, 0xFF, 0xFF, 0xFF, 0x7F],
            Err(PacketError::Oversize {
                name: "CONNACK",
                length: 268_435_455,
            }),
        );
    }

    #[test]
    fn a_message_keeps_its_topic_and_payload() {
        for (version, bytes) in [
            (
                Version::V311,
                &[0x3A, 8, 0, 2, b'a', 0xFF, 0, 7, b'h', b'i'][..],
            ),
            (
                Version::V5,
                &[0x3A, 11, 0, 2, b'a', 0xFF, 0, 7, 2, 0x01, 1, b'h', b'i'][..],
            ),
        ] {
            let Ok([Packet::Publish(publish)]) =
                <[Packet; 1]>::try_from(decode(version, bytes).unwrap())
            else {
                panic!("no PUBLISH");
            };
            assert_eq!((publish.qos, publish.id, publish.dup), (1, 7, true));
            assert_eq!(publish.topic(), b"a\xFF");
            assert_eq!((publish.payload_len(), publish.length), (2, 2));
            assert_eq!(publish.into_payload(), &b"hi"[..]);
        }
    }

    #[test]
    fn a_named_property_is_found_among_others() {
        // Content type, correlation data, the user properties `id` twice and `no`, and expiry behind them.
        let properties = b"\x03\0\x01c\x09\0\x03cor\x26\0\x02no\0\x01x\x26\0\x02id\0\x02m1\x26\0\x02id\0\x02m2\x02\0\0\0\x09";
        let property = |properties: &[u8], wanted: Property| {
            let mut bytes = vec![
                0x30,
                u8::try_from(4 + properties.len() + 2).unwrap(),
                0,
                1,
                b'a',
            ];
            bytes.push(u8::try_from(properties.len()).unwrap());
            bytes.extend_from_slice(properties);
            bytes.extend_from_slice(b"hi");
            let packets = decode(Version::V5, &bytes).unwrap();
            let Ok([Packet::Publish(publish)]) = <[Packet; 1]>::try_from(packets) else {
                panic!("no PUBLISH");
            };
            let found = publish.property(&wanted);
            assert_eq!(publish.into_payload(), &b"hi"[..]);
            found.map(|found| String::from_utf8(found.to_vec()).unwrap())
        };
        let user = |name: &str| Property::User(name.to_owned());
        assert_eq!(property(properties, user("id")).unwrap(), "m1");
        assert_eq!(property(properties, user("no")).unwrap(), "x");
        assert_eq!(property(properties, user("i")), None);
        assert_eq!(
            property(properties, Property::CorrelationData).unwrap(),
            "cor"
        );
        assert_eq!(property(b"", user("id")), None);
        // Properties that end too early or mean nothing have no identity; the message is taken all the same.
        assert_eq!(property(b"\x26\0\x02id\0\x09m", user("id")), None);
        assert_eq!(property(b"\x7F\0\x26\0\x02id\0\x01m", user("id")), None);
    }

    #[test]
    fn a_huge_message_is_cut_and_the_next_one_is_whole() {
        let length = PACKET_BYTES + 1000;
        let mut decoder = Decoder::new(Version::V311);
        let mut buffer = BytesMut::from(&[0x32][..]);
        for shift in [0, 7, 14, 21] {
            let more = if shift < 21 { 0x80 } else { 0 };
            buffer.put_u8(u8::try_from(length >> shift & 0x7F).unwrap() | more);
        }
        buffer.put_slice(&[0, 1, b't', 0, 5]);
        let mut sent = 5;
        let mut most = 0;
        let chunk = vec![b'x'; 65_536];
        let mut found = None;
        while found.is_none() {
            let here = chunk.len().min(length - sent);
            buffer.put_slice(&chunk[..here]);
            sent += here;
            most = most.max(buffer.len());
            if sent == length {
                buffer.put_slice(&PINGREQ);
            }
            found = decoder.next(&mut buffer).unwrap();
        }
        let Some(Packet::Publish(publish)) = found else {
            panic!("{found:?}");
        };
        assert_eq!((publish.id, publish.length), (5, length - 5));
        assert!(publish.payload_len() > PAYLOAD_BYTES);
        assert!(most < 2 * 1024 * 1024, "{most} bytes held");
        assert_eq!(&buffer[..], PINGREQ);
    }

    proptest! {
        /// Whatever comes, in whatever pieces: packets or an error, never a panic, and the same of both.
        #[test]
        fn any_bytes_in_any_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            first in prop::sample::select(vec![0x20, 0x30, 0x32, 0x34, 0x90, 0xD0, 0xE0]),
            size in 1usize..20,
            five in any::<bool>(),
        ) {
            let version = if five { Version::V5 } else { Version::V311 };
            let mut stream = vec![first, u8::try_from(bytes.len().min(100)).unwrap()];
            stream.extend(&bytes);
            let whole = decode(version, &stream);
            let mut decoder = Decoder::new(version);
            let mut buffer = BytesMut::new();
            let mut packets = Vec::new();
            let mut pieces = Ok(());
            'all: for piece in stream.chunks(size) {
                buffer.put_slice(piece);
                loop {
                    match decoder.next(&mut buffer) {
                        Ok(Some(packet)) => packets.push(packet),
                        Ok(None) => break,
                        Err(error) => {
                            pieces = Err(error);
                            break 'all;
                        }
                    }
                }
            }
            prop_assert_eq!(whole, pieces.map(|()| packets));
        }
    }
}
