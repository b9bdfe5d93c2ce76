//! A repository on a web server: HTTP/1.1, in clear or over TLS, with conditional requests and ranges.
//!
//! No redirection is followed, no proxy asked and nothing decompressed: what is fetched lies below one folder of one host. One
//! connection serves a poll; it is driven by whoever waits for its answer, so that nothing runs on when the poll ends.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RANGE, USER_AGENT,
};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tidegate_tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::{
    Answer, Body, Chunks, FetchError, Pace, Pending, Request, Transport, is_plain, silent,
};

/// Header lines of an answer. What has more is no file server.
const HEADERS: usize = 64;
/// Bytes of an answer's header lines together, and of what is read ahead.
const BUFFER: usize = 32 * 1024;
/// Bytes of a tag that is kept. Longer ones are not used.
const TAG: usize = 256;
const AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Where a repository is served.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Its folder; `http` or `https`, with a host.
    pub url: Url,
    /// For `https`.
    pub tls: Option<Arc<Tls>>,
    /// How long and how fast.
    pub pace: Pace,
}

/// Files of a web server, for one poll.
#[derive(Debug)]
pub struct Http {
    config: HttpConfig,
    host: String,
    port: u16,
    idle: Idle,
}

type Idle = Arc<Mutex<Option<Connection>>>;

impl Http {
    /// # Errors
    /// The URL names no host.
    pub fn new(config: HttpConfig) -> Result<Self, FetchError> {
        let url = &config.url;
        let Some(host) = url.host_str() else {
            return Err(FetchError::new(
                url.as_str(),
                "the URL names no host",
                "write https://HOST/FOLDER/",
            ));
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Self {
            host,
            port,
            config,
            idle: Idle::default(),
        })
    }

    async fn get(&self, request: Request<'_>) -> Result<Answer, FetchError> {
        let path = request.path;
        if !is_plain(path) {
            return Err(FetchError::new(
                path,
                "no path of plain names",
                "the repository's publisher has to rename it",
            ));
        }
        let kept = lock(&self.idle).take();
        if let Some(mut connection) = kept {
            // The server may have closed it meanwhile, which says nothing about the file.
            let exchange = self.exchange(&mut connection, request);
            if let Ok(response) = self.patiently(path, exchange).await? {
                return self.answer(connection, response, request);
            }
        }
        let connect = self.connect(path);
        let mut connection = self.patiently(path, connect).await??;
        let exchange = self.exchange(&mut connection, request);
        let response = self.patiently(path, exchange).await?;
        let response =
            response.map_err(|error| broken(path, &error, self.config.tls.as_deref()))?;
        self.answer(connection, response, request)
    }

    async fn connect(&self, path: &str) -> Result<Connection, FetchError> {
        let unreachable = |error: std::io::Error| {
            FetchError::new(
                path,
                format!("{}:{} cannot be reached: {error}", self.host, self.port),
                "look at the line, at `deploy.repository` and at the server; the next poll tries again",
            )
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &self.config.tls else {
            return self.shake(path, stream).await;
        };
        let reading = Arc::clone(tls);
        let prepared = tokio::task::spawn_blocking(move || reading.prepare())
            .await
            .map_err(|error| FetchError::new(path, error.to_string(), "the log says more"))?
            .map_err(|error| FetchError::new(path, error.what, error.help))?;
        let stream = TlsConnector::from(prepared.client)
            .connect(prepared.name, stream)
            .await
            .map_err(|error| {
                FetchError::new(
                    path,
                    of_server(&tls.explain_handshake(&error)),
                    "the next poll tries again",
                )
            })?;
        self.shake(path, stream).await
    }

    async fn shake<S>(&self, path: &str, stream: S) -> Result<Connection, FetchError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(path, &error, self.config.tls.as_deref()))?;
        Ok(Connection {
            sender,
            driver: Some(Box::pin(driver)),
            fault: None,
        })
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<'_>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut target = self.config.url.path().trim_end_matches('/').to_owned();
        target.push('/');
        target.push_str(request.path);
        let mut host = self.config.url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = self.config.url.port() {
            host.push_str(&format!(":{port}"));
        }
        let mut message = hyper::Request::new(Empty::<Bytes>::new());
        // A path of a parsed URL and plain names: always a URI. An empty one would be refused by the server.
        *message.uri_mut() = target.parse().unwrap_or_default();
        let headers = message.headers_mut();
        if let Ok(host) = HeaderValue::try_from(host) {
            headers.insert(HOST, host);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if request.from > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", request.from))
        {
            headers.insert(RANGE, range);
        }
        if let Some((kind, tag)) = request.unless.and_then(|tag| tag.split_once(' '))
            && let Ok(tag) = HeaderValue::try_from(tag)
        {
            let name = if kind == "etag" {
                IF_NONE_MATCH
            } else {
                IF_MODIFIED_SINCE
            };
            headers.insert(name, tag);
        }
        let Connection {
            sender,
            driver,
            fault,
        } = connection;
        let answer = async {
            sender.ready().await?;
            sender.send_request(message).await
        };
        let answer = drive(driver, fault, answer).await;
        // Whoever waits is told that nobody answers any more; why, the connection said.
        answer.map_err(|error| fault.take().unwrap_or(error))
    }

    fn answer(
        &self,
        connection: Connection,
        response: Response<Incoming>,
        request: Request<'_>,
    ) -> Result<Answer, FetchError> {
        let path = request.path;
        let header = |name| response.headers().get(name)?.to_str().ok();
        let status = response.status();
        let from = match status {
            StatusCode::OK => 0,
            StatusCode::NOT_MODIFIED if request.unless.is_some() => return Ok(Answer::Unchanged),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::Missing),
            StatusCode::PARTIAL_CONTENT if request.from > 0 => {
                let range = header(CONTENT_RANGE)
                    .and_then(|range| range.strip_prefix("bytes "))
                    .and_then(|range| range.split_once('-'));
                let begin = range.and_then(|(begin, _)| begin.parse::<u64>().ok());
                if begin != Some(request.from) {
                    return Err(FetchError::new(
                        path,
                        "the server sent another part of the file than the one asked for",
                        "the next poll fetches it from its beginning",
                    ));
                }
                request.from
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(FetchError::new(
                    path,
                    format!("the server has no more than {} bytes of it", request.from),
                    "the server does not hold what the publisher signed: publish the file again",
                ));
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(FetchError::new(
                    path,
                    format!("the server refuses: {status}"),
                    "it wants to know who we are: see `deploy.cert` and `deploy.key`, or the server's permissions",
                ));
            }
            other if other.is_redirection() => {
                let to = header(LOCATION).unwrap_or("nowhere");
                let to: String = to.chars().take(TAG).collect();
                return Err(FetchError::new(
                    path,
                    format!("the server sends us on to {to}, and no redirection is followed"),
                    "write the folder that really holds the files into `deploy.repository`",
                ));
            }
            other => {
                return Err(FetchError::new(
                    path,
                    format!("the server answers {other}"),
                    "look at the server; the next poll tries again",
                ));
            }
        };
        let tag = header(ETAG).map(|tag| format!("etag {tag}"));
        let date = header(LAST_MODIFIED).map(|date| format!("date {date}"));
        let tag = tag.or(date).filter(|tag| tag.len() <= TAG);
        Ok(Answer::Body(Body {
            from,
            tag,
            chunks: Box::new(Receiving {
                whole: header(CONTENT_LENGTH).is_some(),
                body: response.into_body(),
                connection: Some(connection),
                idle: Arc::clone(&self.idle),
                path: path.to_owned(),
                tls: self.config.tls.clone(),
            }),
        }))
    }

    async fn patiently<T>(
        &self,
        path: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        let silence = self.config.pace.silence;
        match tokio::time::timeout(silence, work).await {
            Ok(done) => Ok(done),
            Err(_) => Err(silent(path, silence)),
        }
    }
}

impl Transport for Http {
    fn open<'a>(&'a self, request: Request<'a>) -> Pending<'a, Result<Answer, FetchError>> {
        Box::pin(self.get(request))
    }

    fn pace(&self) -> Pace {
        self.config.pace
    }

    fn place(&self) -> String {
        self.config.url.to_string()
    }
}

fn broken(path: &str, error: &hyper::Error, tls: Option<&Tls>) -> FetchError {
    let cause = std::error::Error::source(error);
    // That our certificate is wanted, or not taken, is said after the handshake.
    let explained = cause
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .and_then(|error| tls?.explain(error));
    let what = match explained {
        Some(explained) => of_server(&explained),
        None => {
            let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
            format!("the connection broke: {error}{cause}")
        }
    };
    let help = "the next poll goes on from where this one came to";
    FetchError::new(path, what, help)
}

/// The words of `daemon/tls`, which speaks to brokers elsewhere.
fn of_server(words: &str) -> String {
    words
        .replace("the broker", "the server")
        .replace("of a broker", "of a server")
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: Driver,
    /// How it ended, where not well.
    fault: Option<hyper::Error>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// What moves the connection's bytes; `None` when it is over.
type Driver = Option<Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>>;

/// Waits for an answer and moves the connection meanwhile.
async fn drive<T>(
    driver: &mut Driver,
    fault: &mut Option<hyper::Error>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if let Some(moving) = driver.as_mut()
            && let Poll::Ready(ended) = moving.as_mut().poll(cx)
        {
            *fault = ended.err();
            *driver = None;
        }
        // What moved may be what is waited for.
        work.as_mut().poll(cx)
    })
    .await
}

struct Receiving {
    body: Incoming,
    connection: Option<Connection>,
    idle: Idle,
    path: String,
    /// The server said how long it is.
    whole: bool,
    tls: Option<Arc<Tls>>,
}

impl Chunks for Receiving {
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            loop {
                let Some(connection) = self.connection.as_mut() else {
                    return Ok(None);
                };
                let body = &mut self.body;
                let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
                match drive(&mut connection.driver, &mut connection.fault, frame).await {
                    None => {
                        let done = self.connection.take();
                        if self.whole {
                            *lock(&self.idle) = done.filter(|done| done.driver.is_some());
                        }
                        return Ok(None);
                    }
                    Some(Err(error)) => {
                        let error = connection.fault.take().unwrap_or(error);
                        return Err(broken(&self.path, &error, self.tls.as_deref()));
                    }
                    // Trailers carry nothing of the file.
                    Some(Ok(frame)) => {
                        if let Ok(piece) = frame.into_data() {
                            return Ok(Some(piece));
                        }
                    }
                }
            }
        })
    }
}

fn lock(idle: &Mutex<Option<Connection>>) -> std::sync::MutexGuard<'_, Option<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
