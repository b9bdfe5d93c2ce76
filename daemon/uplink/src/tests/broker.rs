//! A broker that does what a test says, byte by byte.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Version;

pub(super) struct Broker {
    listener: TcpListener,
    version: Version,
}

/// One accepted connection, after CONNECT.
pub(super) struct Client {
    stream: TcpStream,
    version: Version,
    pub(super) connect: Connect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) level: u8,
    pub(super) clean: bool,
    pub(super) client_id: String,
    pub(super) will_retain: bool,
    pub(super) will_qos: u8,
    pub(super) will_topic: String,
    pub(super) will_payload: String,
    pub(super) login: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Publish(Publish),
    Ping,
    Disconnect,
    /// The other end closed the connection.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) dup: bool,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) topic: String,
    pub(super) pkid: u16,
    /// What is no text in it is replaced.
    pub(super) payload: String,
    pub(super) bytes: Vec<u8>,
    /// Of MQTT 5.
    pub(super) content_type: Option<String>,
}

impl Broker {
    pub(super) async fn start(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, version }
    }

    /// At a port that was another's before.
    pub(super) async fn start_at(port: u16, version: Version) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        Self { listener, version }
    }

    /// Somebody looks whether there is anybody, and goes without a word.
    pub(super) async fn accept_a_look(&self) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        assert!(read_frame(&mut stream).await.is_none());
    }

    pub(super) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Accepts a connection and lets it in. `properties` are those of an MQTT 5 CONNACK.
    pub(super) async fn accept_with(&self, properties: &[u8]) -> Client {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let (first, body) = read_frame(&mut stream).await.expect("a CONNECT");
        assert_eq!(first, 0x10);
        let connect = parse_connect(&body);
        let mut client = Client {
            stream,
            version: self.version,
            connect,
        };
        let mut answer = vec![0, 0];
        if self.version == Version::V5 {
            answer.push(u8::try_from(properties.len()).unwrap());
            answer.extend_from_slice(properties);
        }
        client.write(0x20, &answer).await;
        client
    }

    pub(super) async fn accept(&self) -> Client {
        self.accept_with(&[]).await
    }

    /// Accepts a connection and acknowledges the status, which comes first on every connection.
    pub(super) async fn accept_and_greet(&self) -> (Client, Publish) {
        let mut client = self.accept().await;
        let status = client.publish().await;
        assert!(status.retain, "the status comes first: {status:?}");
        client.ack(status.pkid).await;
        (client, status)
    }
}

impl Client {
    pub(super) async fn read(&mut self) -> Packet {
        let Some((first, body)) = read_frame(&mut self.stream).await else {
            return Packet::Closed;
        };
        match first >> 4 {
            3 => Packet::Publish(parse_publish(first, &body, self.version)),
            12 => Packet::Ping,
            14 => Packet::Disconnect,
            other => panic!("packet type {other} is not expected"),
        }
    }

    /// The next publication; pings on the way are answered.
    pub(super) async fn publish(&mut self) -> Publish {
        loop {
            match self.read().await {
                Packet::Publish(publish) => return publish,
                Packet::Ping => self.pong().await,
                other @ (Packet::Disconnect | Packet::Closed) => {
                    panic!("a PUBLISH was expected, not {other:?}")
                }
            }
        }
    }

    pub(super) async fn ack(&mut self, pkid: u16) {
        self.write(0x40, &pkid.to_be_bytes()).await;
    }

    /// A refusing PUBACK of MQTT 5, with the reason string "full".
    pub(super) async fn refuse(&mut self, pkid: u16, code: u8) {
        let [high, low] = pkid.to_be_bytes();
        let body = [high, low, code, 7, 0x1f, 0, 4, b'f', b'u', b'l', b'l'];
        self.write(0x40, &body).await;
    }

    pub(super) async fn pong(&mut self) {
        self.write(0xd0, &[]).await;
    }

    async fn write(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
        packet.extend_from_slice(body);
        // The other end may be gone meanwhile; the next read says so.
        if let Err(error) = self.stream.write_all(&packet).await {
            let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(gone.contains(&error.kind()), "{error}");
        }
    }
}

async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

/// Takes fields off the front of a packet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("a byte");
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.number());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }

    /// MQTT 5 properties; short ones alone.
    fn skip_properties(&mut self, version: u8) {
        if version == 5 {
            let length = usize::from(self.byte());
            self.0 = &self.0[length..];
        }
    }
}

fn parse_connect(body: &[u8]) -> Connect {
    let mut fields = Fields(body);
    assert_eq!(fields.text(), "MQTT");
    let level = fields.byte();
    let flags = fields.byte();
    fields.number();
    fields.skip_properties(level);
    let client_id = fields.text();
    assert_ne!(flags & 0x04, 0, "there is always a last will");
    fields.skip_properties(level);
    let (will_topic, will_payload) = (fields.text(), fields.text());
    let login = (flags & 0xc0 != 0).then(|| (fields.text(), fields.text()));
    Connect {
        level,
        clean: flags & 0x02 != 0,
        client_id,
        will_retain: flags & 0x20 != 0,
        will_qos: (flags >> 3) & 3,
        will_topic,
        will_payload,
        login,
    }
}

fn parse_publish(first: u8, body: &[u8], version: Version) -> Publish {
    let mut fields = Fields(body);
    let topic = fields.text();
    let pkid = fields.number();
    let mut content_type = None;
    if version == Version::V5 {
        let length = usize::from(fields.byte());
        let rest = fields.0.len() - length;
        while fields.0.len() > rest {
            assert_eq!(fields.byte(), 3, "the content type is the only property");
            content_type = Some(fields.text());
        }
    }
    Publish {
        dup: first & 0x08 != 0,
        qos: (first >> 1) & 3,
        retain: first & 1 != 0,
        topic,
        pkid,
        payload: String::from_utf8_lossy(fields.0).into_owned(),
        bytes: fields.0.to_vec(),
        content_type,
    }
}
