//! Connections: accepted, bounded, drained.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::action::Caller;
use crate::guard::{self, Client, Refusals};

/// Connections at a time. Further ones wait in the kernel's queue until one ends, so that viewers can take
/// neither memory nor file descriptors from the data path.
const CONNECTIONS: usize = 64;
/// From the end of one answer, or the connection's start, to the end of the next request's headers. A slower or
/// silent client is cut off and makes room.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's line and headers. A longer request is refused with 431.
const HEADER_BYTES: usize = 16 * 1024;
/// Header fields of a request; more are refused likewise.
const HEADER_FIELDS: usize = 64;
/// A connection's life. Then the answer under way is finished and the connection closed; a browser opens
/// another one without anybody noticing, a client that does not read is got rid of.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// The same on the control socket, where an answer tells of a module that is tried for an hour.
const CONTROL_TIME: Duration = Duration::from_secs(2 * 3600);
/// What an answer under way gets when its connection has to end.
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// Pause after a failed accept: the usual cause, no free file descriptor, does not pass by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Answers connections until `shutdown` completes, then finishes the answers under way (3 s at most) and returns.
///
/// On a loopback address only requests that name a loopback host are answered; see the `guard` module for why.
///
/// # Errors
/// When the listener has no address, which means that it is no listener. A single connection's trouble is logged
/// and ends that connection alone.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    refusals: Refusals,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let router = if listener.local_addr()?.ip().is_loopback() {
        router.layer(from_fn(guard::loopback_host))
    } else {
        router
    };
    answer(listener, router, refusals, CONNECTION_TIME, shutdown).await;
    Ok(())
}

/// Answers connections of the control socket in the same way and with the same bounds. Who may connect is decided by
/// the permissions of its file.
pub async fn serve_control(
    listener: UnixListener,
    router: Router,
    refusals: Refusals,
    shutdown: impl Future<Output = ()>,
) {
    answer(listener, router, refusals, CONTROL_TIME, shutdown).await;
}

/// Where connections come from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Can be cancelled.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Who made a connection.
    fn client(stream: &Self::Stream) -> Client;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }

    fn client(stream: &TcpStream) -> Client {
        Client::Page(match stream.peer_addr() {
            Ok(address) => address.ip().to_string(),
            Err(_) => "unknown".to_owned(),
        })
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn client(stream: &UnixStream) -> Client {
        Client::Control(match stream.peer_cred() {
            Ok(peer) => Caller {
                uid: peer.uid(),
                pid: peer.pid(),
            },
            Err(_) => Caller::UNKNOWN,
        })
    }
}

async fn answer<A: Accept>(
    listener: A,
    router: Router,
    refusals: Refusals,
    most: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let router = router.layer(from_fn_with_state(refusals, guard::refusals));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.next(), if connections.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    let client = A::client(&stream);
                    let router = router.clone();
                    connections.spawn(connection(stream, client, router, most, stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the status server could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(());
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

/// One connection, from its first request to its end.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    router: Router,
    most: Duration,
    mut stopped: watch::Receiver<()>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let extensions = request.extensions_mut();
        if let Client::Control(caller) = client {
            extensions.insert(caller);
        }
        extensions.insert(client.clone());
        router.call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADER_FIELDS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.changed() => None,
        () = sleep(most) => None,
    };
    let ended = match ended {
        Some(ended) => Some(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(DRAIN_TIME, connection).await.ok()
        }
    };
    match ended {
        Some(Ok(())) => {}
        // Everyday life of a server: the client went away, was silent for too long, or spoke something else.
        Some(Err(error)) => tracing::debug!(%error, "a status connection ended early"),
        None => tracing::debug!("a status connection did not take its answer in time"),
    }
}

/// Handlers catch their own panics; what is left would be a fault of this file.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a status connection failed");
    }
}
