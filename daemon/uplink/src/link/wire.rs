//! How a broker is reached: TCP, and TLS on it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::delivery::EndedBy;
use tidegate_tls::{Prepared, Tls};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Ended;

/// What carries the protocol.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The end of a line that is written to.
pub(super) type Writer = WriteHalf<Box<dyn Stream>>;

/// A line to the broker.
pub(super) struct Wire {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: Writer,
}

impl Wire {
    pub(super) fn on(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer }
    }
}

/// Where to, and how.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<(Arc<Tls>, Prepared)>,
    /// How long it may take.
    pub(super) patience: Duration,
}

/// Makes the line.
pub(super) async fn reach(target: Target) -> Result<Wire, Ended> {
    let patience = target.patience;
    match timeout(patience, attempt(target)).await {
        Ok(made) => made,
        Err(_) => Err(Ended::line(format!("no answer within {patience:?}"))),
    }
}

async fn attempt(target: Target) -> Result<Wire, Ended> {
    // An IPv6 address may have its brackets.
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |error: io::Error| Ended::line(format!("cannot be reached: {error}"));
    let tcp = TcpStream::connect((host, target.port))
        .await
        .map_err(unreachable)?;
    // What is written is what is to leave: messages are put together before.
    tcp.set_nodelay(true).map_err(unreachable)?;
    let stream: Box<dyn Stream> = match target.tls {
        None => Box::new(tcp),
        Some((tls, prepared)) => {
            let connector = TlsConnector::from(prepared.client);
            let stream = connector.connect(prepared.name, tcp).await;
            Box::new(stream.map_err(|error| Ended::line(tls.explain_handshake(&error)))?)
        }
    };
    Ok(Wire::on(stream))
}

/// A line that stood and broke.
pub(super) fn broken(tls: Option<&Tls>, error: &io::Error) -> Ended {
    let peer = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    );
    Ended {
        by: if peer { EndedBy::Peer } else { EndedBy::Line },
        reason: tls
            .and_then(|tls| tls.explain(error))
            .unwrap_or_else(|| format!("the connection broke: {error}")),
        oversize: false,
    }
}
