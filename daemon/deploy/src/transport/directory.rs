//! A repository in a folder: a USB stick, a mount, a copy.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Body, Chunks, FetchError, Pace, Pending, Request, Transport, is_plain};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Files below a folder.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
    silence: Duration,
}

impl Directory {
    /// Those below `dir`. `silence` is how long one read may take; a stick that was pulled out does not answer.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, silence: Duration) -> Self {
        Self {
            dir: dir.into(),
            silence,
        }
    }
}

impl Transport for Directory {
    fn open<'a>(&'a self, request: Request<'a>) -> Pending<'a, Result<Answer, FetchError>> {
        Box::pin(async move {
            let (dir, path, from) = (self.dir.clone(), request.path.to_owned(), request.from);
            let opened = blocking(self.silence, request.path, move || {
                if !dir.is_dir() {
                    let error = std::io::Error::new(ErrorKind::NotFound, "no such folder");
                    return Err((error, dir.display().to_string()));
                }
                open(&dir.join(&path), from).map_err(|error| (error, path.clone()))
            });
            if !is_plain(request.path) {
                return Err(FetchError::new(
                    request.path,
                    "no path of plain names",
                    "the repository's publisher has to rename it",
                ));
            }
            match opened.await? {
                Ok(file) => Ok(Answer::Body(Body {
                    from,
                    tag: None,
                    chunks: Box::new(Reading {
                        file: Some(file),
                        path: request.path.to_owned(),
                        silence: self.silence,
                    }),
                })),
                Err((error, _)) if error.kind() == ErrorKind::NotFound && self.dir.is_dir() => {
                    Ok(Answer::Missing)
                }
                Err((error, path)) => Err(FetchError::new(
                    &path,
                    error.to_string(),
                    format!(
                        "is {} mounted, and readable for the gateway's user?",
                        self.dir.display()
                    ),
                )),
            }
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            silence: self.silence,
            most_bytes_per_second: None,
        }
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

fn open(path: &std::path::Path, from: u64) -> std::io::Result<File> {
    let mut file = File::open(path)?;
    // A pipe or a device would never end or never begin.
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    if from > 0 {
        file.seek(SeekFrom::Start(from))?;
    }
    Ok(file)
}

struct Reading {
    file: Option<File>,
    path: String,
    silence: Duration,
}

impl Chunks for Reading {
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            let Some(mut file) = self.file.take() else {
                return Ok(None);
            };
            let read = blocking(self.silence, &self.path, move || {
                let mut piece = vec![0; CHUNK];
                let count = file.read(&mut piece);
                count.map(|count| {
                    piece.truncate(count);
                    (file, piece)
                })
            });
            let (file, piece) = read.await?.map_err(|error| {
                FetchError::new(
                    &self.path,
                    error.to_string(),
                    "the medium cannot be read here; try another copy",
                )
            })?;
            if piece.is_empty() {
                return Ok(None);
            }
            self.file = Some(file);
            Ok(Some(piece.into()))
        })
    }
}

/// Runs what may block on a thread that may.
async fn blocking<T: Send + 'static>(
    silence: Duration,
    path: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::time::timeout(silence, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(FetchError::new(
            path,
            error.to_string(),
            "the log says more",
        )),
        Err(_) => Err(super::silent(path, silence)),
    }
}
