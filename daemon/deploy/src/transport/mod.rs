//! How files of a repository come here. A transport fetches one named file and believes nothing of it; who may be
//! believed is decided above, whatever the transport.

mod directory;
mod http;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::refusal::Kind;

pub use directory::Directory;
pub use http::{Http, HttpConfig};

/// A future of a transport.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Below this many bytes a second, after [`Pace::silence`], a transfer is given up: a server that drips is a server that
/// is silent. GPRS gives a hundred times as much.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 64;

/// Fetches named files below the repository's folder. One is made for each poll.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Begins to fetch a file. Every wait in it is bounded by [`Pace::silence`].
    fn open<'a>(&'a self, request: Request<'a>) -> Pending<'a, Result<Answer, FetchError>>;

    /// How long and how fast.
    fn pace(&self) -> Pace;

    /// What is fetched from, for people.
    fn place(&self) -> String;
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Below the repository's folder, with `/` between plain names.
    pub path: &'a str,
    /// From which byte on, where the transport can.
    pub from: u64,
    /// Not if it is still the one with this tag.
    pub unless: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// All of a file.
    #[must_use]
    pub fn whole(path: &'a str) -> Self {
        Self {
            path,
            from: 0,
            unless: None,
        }
    }
}

/// What comes of it.
pub enum Answer {
    /// There is no such file.
    Missing,
    /// It is still the one with the tag.
    Unchanged,
    /// Here it comes.
    Body(Body),
}

/// A file on its way.
pub struct Body {
    /// Its first byte here; less than what was asked for where the transport cannot begin in the middle.
    pub from: u64,
    /// What it can be recognised by.
    pub tag: Option<String>,
    /// The rest of it.
    pub chunks: Box<dyn Chunks>,
}

/// Pieces of a file, in order.
pub trait Chunks: Send {
    /// The next piece; `None` after the last.
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, FetchError>>;
}

/// Bounds on time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Silence after which a transfer is given up.
    pub silence: Duration,
    /// Bytes a second at most.
    pub most_bytes_per_second: Option<u64>,
}

/// Why a file did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct FetchError {
    /// Something on the way to it, or a bound that it broke.
    pub kind: Kind,
    /// Which file.
    pub path: String,
    /// What is wrong with it or the way to it.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl FetchError {
    pub(crate) fn new(path: &str, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            kind: Kind::Fetch,
            path: path.to_owned(),
            what: what.into(),
            help: help.into(),
        }
    }
}

/// Keeps a transfer to its bounds: bytes, silence, slowness, haste.
pub(crate) struct Bounded {
    body: Body,
    path: String,
    pace: Pace,
    /// Of the whole file.
    most: u64,
    got: u64,
    begun: Instant,
}

impl Bounded {
    /// `most` is what the file may have in all.
    pub(crate) fn new(body: Body, path: &str, pace: Pace, most: u64) -> Self {
        Self {
            body,
            path: path.to_owned(),
            pace,
            most,
            got: 0,
            begun: Instant::now(),
        }
    }

    /// The next piece.
    ///
    /// # Errors
    /// A bound was reached, or the transport says.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let silence = self.pace.silence;
        let piece = match tokio::time::timeout(silence, self.body.chunks.next()).await {
            Ok(piece) => piece?,
            Err(_) => return Err(silent(&self.path, silence)),
        };
        let Some(piece) = piece else { return Ok(None) };
        self.got += piece.len() as u64;
        if self.body.from.saturating_add(self.got) > self.most {
            let what = format!("larger than {} bytes, which it may have at most", self.most);
            let help = "the rest was not read; the server does not hold what the publisher signed";
            return Err(FetchError {
                kind: Kind::Content,
                ..FetchError::new(&self.path, what, help)
            });
        }
        let elapsed = self.begun.elapsed();
        let grace = elapsed.saturating_sub(silence).as_secs();
        if self.got < grace.saturating_mul(SLOWEST_BYTES_PER_SECOND) {
            return Err(FetchError::new(
                &self.path,
                format!(
                    "{} bytes in {} s: slower than {SLOWEST_BYTES_PER_SECOND} bytes a second",
                    self.got,
                    elapsed.as_secs()
                ),
                "look at the line, and at the server; the next poll tries again",
            ));
        }
        if let Some(most) = self.pace.most_bytes_per_second {
            let due = Duration::from_secs_f64(as_f64(self.got) / as_f64(most.max(1)));
            tokio::time::sleep(due.saturating_sub(elapsed)).await;
        }
        Ok(Some(piece))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 53 bits"
)]
fn as_f64(number: u64) -> f64 {
    number as f64
}

pub(crate) fn silent(path: &str, silence: Duration) -> FetchError {
    FetchError::new(
        path,
        format!("nothing came for {} s", silence.as_secs()),
        "look at the line, and at the server; the next poll tries again",
    )
}

/// A whole file in memory.
pub(crate) enum Whole {
    Missing,
    Unchanged,
    Bytes { bytes: Vec<u8>, tag: Option<String> },
}

/// Fetches a whole file of at most `most` bytes.
///
/// # Errors
/// The transport's, or a bound was reached.
pub(crate) async fn whole(
    transport: &dyn Transport,
    request: Request<'_>,
    most: u64,
) -> Result<Whole, FetchError> {
    let body = match transport.open(request).await? {
        Answer::Missing => return Ok(Whole::Missing),
        Answer::Unchanged => return Ok(Whole::Unchanged),
        Answer::Body(body) => body,
    };
    let tag = body.tag.clone();
    let mut body = Bounded::new(body, request.path, transport.pace(), most);
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(Whole::Bytes { bytes, tag })
}

/// Whether a path is made of plain names, so that it cannot lead out of a folder or mean something to a URL.
pub(crate) fn is_plain(path: &str) -> bool {
    let name = |name: &str| {
        !name.is_empty()
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+')
            })
    };
    path.len() <= 512 && path.split('/').all(name)
}
