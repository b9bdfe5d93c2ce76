//! Making a connection, and what can be wrong with one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_tls::Tls;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::{MqttConfig, Transport, Version};
use super::packet::{self, Decoder, Packet, PacketError, Said};

/// From the first packet to the broker's answer.
const CONNECT_TIME: Duration = Duration::from_secs(15);

/// A connection that the broker has accepted.
pub(super) struct Link {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: WriteHalf<Box<dyn Stream>>,
    pub(super) decoder: Decoder,
    /// Bytes that came after the answer.
    pub(super) input: BytesMut,
    pub(super) session_present: bool,
    pub(super) keep_alive: Duration,
    pub(super) made_of: MadeOf,
}

/// Which TLS files a connection was made with; `None` without TLS.
#[derive(Clone, Copy)]
pub(super) struct MadeOf(Option<u64>);

impl MadeOf {
    /// Whether the files were renewed since.
    pub(super) fn is_outdated(self, transport: &Transport) -> bool {
        match (transport, self.0) {
            (Transport::Tls(tls), Some(generation)) => !tls.is_current(generation),
            (Transport::Tls(_) | Transport::Tcp, _) => false,
        }
    }
}

/// What carries the protocol.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot reach the broker at {host}:{port}: {source}")]
    Connect {
        host: String,
        port: u16,
        source: io::Error,
    },
    #[error("no TLS connection to the broker at {host}:{port}: {why}")]
    Tls {
        host: String,
        port: u16,
        why: String,
    },
    #[error("the broker at {host}:{port} did not answer within {CONNECT_TIME:?}")]
    NoAnswer { host: String, port: u16 },
    #[error("the broker refused the connection: {meaning} (code {code:#04x}){said}")]
    Refused {
        code: u8,
        meaning: &'static str,
        said: Quoted,
    },
    #[error("the broker ended the connection: {meaning} (code {code:#04x}){said}")]
    Disconnected {
        code: u8,
        meaning: &'static str,
        said: Quoted,
    },
    #[error(
        "the broker closed the connection; its log says why (a second client with the same client id is a frequent reason)"
    )]
    Closed,
    #[error("the connection to the broker broke: {0}")]
    Io(io::Error),
    #[error("the broker sent what is no MQTT: {0}")]
    Packet(#[from] PacketError),
    #[error("the broker sent {0} out of turn")]
    OutOfTurn(&'static str),
    #[error(
        "the broker sent a message of QoS {0}, but every subscription here asks for at most 1: the session of this client id holds one from elsewhere; use another client id, or end that session at the broker"
    )]
    Qos(u8),
    #[error("nothing came from the broker for {0:?}, not even answers to pings")]
    Silent(Duration),
    #[error("the broker took no bytes for {0:?}")]
    Stalled(Duration),
    #[error("the broker did not answer the subscription within {0:?}")]
    NotSubscribed(Duration),
}

/// What a broker said in its own words, or nothing.
#[derive(Debug)]
pub(super) struct Quoted(pub(super) Option<String>);

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            // It is the broker's text: control characters are escaped, for the sake of terminals and logs.
            Some(text) => write!(f, ", it says “{}”", text.escape_debug()),
            None => Ok(()),
        }
    }
}

impl LinkError {
    /// A connection that stood and broke. A broker that wants another certificate than ours says so only then (TLS 1.3
    /// tells it after the handshake).
    pub(super) fn broken(config: &MqttConfig, error: io::Error) -> Self {
        let Transport::Tls(tls) = &config.transport else {
            return Self::Io(error);
        };
        match tls.explain(&error) {
            Some(why) => Self::no_tls(config, why),
            // The other end went away without TLS's own farewell, which few send.
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    fn no_tls(config: &MqttConfig, why: String) -> Self {
        Self::Tls {
            host: config.host.clone(),
            port: config.port,
            why,
        }
    }

    pub(super) fn disconnected(version: Version, code: u8, said: Said) -> Self {
        Self::Disconnected {
            code,
            meaning: packet::meaning(version, code),
            said: Quoted(said.reason),
        }
    }
}

/// Connects and waits for the broker's answer.
pub(super) async fn connect(config: &MqttConfig) -> Result<Link, LinkError> {
    match timeout(CONNECT_TIME, attempt(config)).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::NoAnswer {
            host: config.host.clone(),
            port: config.port,
        }),
    }
}

async fn attempt(config: &MqttConfig) -> Result<Link, LinkError> {
    let (stream, made_of) = open(config).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let broken = |error| LinkError::broken(config, error);
    writer
        .write_all(&packet::connect(config))
        .await
        .map_err(broken)?;
    writer.flush().await.map_err(broken)?;
    let mut decoder = Decoder::new(config.version);
    let mut input = BytesMut::with_capacity(4096);
    let answer = loop {
        if let Some(packet) = decoder.next(&mut input)? {
            break packet;
        }
        if reader.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(LinkError::Closed);
        }
    };
    match answer {
        Packet::ConnAck {
            session_present,
            code: 0,
            said,
        } => Ok(Link {
            reader,
            writer,
            decoder,
            input,
            session_present,
            keep_alive: said
                .server_keep_alive
                .filter(|&seconds| seconds > 0)
                .map_or(config.keep_alive, |seconds| {
                    Duration::from_secs(u64::from(seconds)).min(config.keep_alive)
                }),
            made_of,
        }),
        Packet::ConnAck { code, said, .. } => Err(LinkError::Refused {
            code,
            meaning: packet::meaning(config.version, code),
            said: Quoted(said.reason),
        }),
        Packet::Disconnect { code, said } => {
            Err(LinkError::disconnected(config.version, code, said))
        }
        Packet::Publish(_) => Err(LinkError::OutOfTurn("a message before its CONNACK")),
        Packet::SubAck { .. } => Err(LinkError::OutOfTurn("SUBACK before its CONNACK")),
        Packet::PingResp => Err(LinkError::OutOfTurn("PINGRESP before its CONNACK")),
    }
}

/// The one place that knows how brokers are reached: other transports go in here.
async fn open(config: &MqttConfig) -> Result<(Box<dyn Stream>, MadeOf), LinkError> {
    let tcp = dial(config).await.map_err(|source| LinkError::Connect {
        host: config.host.clone(),
        port: config.port,
        source,
    })?;
    match &config.transport {
        Transport::Tcp => Ok((Box::new(tcp), MadeOf(None))),
        Transport::Tls(tls) => shake_hands(config, tls, tcp).await,
    }
}

async fn dial(config: &MqttConfig) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((config.host.as_str(), config.port)).await?;
    // Acknowledgements are few and small, and the broker's window waits for them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn shake_hands(
    config: &MqttConfig,
    tls: &Arc<Tls>,
    tcp: TcpStream,
) -> Result<(Box<dyn Stream>, MadeOf), LinkError> {
    let files = Arc::clone(tls);
    let prepared = spawn_blocking(move || files.prepare())
        .await
        .map_err(|error| LinkError::no_tls(config, format!("the files were not read: {error}")))?
        .map_err(|error| LinkError::no_tls(config, error.to_string()))?;
    let connector = TlsConnector::from(prepared.client);
    match connector.connect(prepared.name, tcp).await {
        Ok(stream) => Ok((Box::new(stream), MadeOf(Some(prepared.generation)))),
        Err(error) => Err(LinkError::no_tls(config, tls.explain_handshake(&error))),
    }
}
