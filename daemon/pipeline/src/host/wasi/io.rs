//! `wasi:io`: streams that never wait, and standard output as lines.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource, ResourceType};

use super::super::{Call, Violation, log};
use super::filesystem::{Descriptor, ErrorCode};

/// Bytes of a line; the rest of it is cut.
const LINE_BYTES: usize = 4096;
/// Bytes that a stream takes at once, as its contract says of blocking writes.
const WRITE_BYTES: usize = 4096;

/// `error`: why a stream of a file failed; no other fails otherwise than by its end.
#[derive(Debug)]
pub(super) struct IoError(pub(super) ErrorCode);

/// `pollable`: always ready.
#[derive(Debug)]
pub(super) struct Pollable;

/// `input-stream`
#[derive(Debug)]
pub(super) enum InputStream {
    /// At its end.
    Ended,
    /// A file's bytes, from a place on.
    File { file: Descriptor, place: u64 },
}

/// `output-stream`
#[derive(Clone, Copy, Debug)]
pub(super) enum OutputStream {
    Out,
    Err,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    Failed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// What was written of a line that has not ended.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    fn write(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end(&mut line);
                self.cut = false;
            } else if self.line.len() < LINE_BYTES {
                self.line.push(byte);
            } else {
                self.cut = true;
            }
        }
    }

    /// Gives the line that is open, where there is anything in it.
    pub(super) fn end(&mut self, line: impl FnOnce(&str)) {
        let bytes = std::mem::take(&mut self.line);
        if !bytes.is_empty() {
            let text = String::from_utf8_lossy(&bytes);
            line(text.trim_end_matches('\r'));
        }
    }
}

type Cx<'a> = StoreContextMut<'a, Call>;

/// Declares a resource that is held in the table.
pub(super) fn resource<T: Send + 'static>(
    instance: &mut LinkerInstance<'_, Call>,
    name: &str,
) -> wasmtime::Result<()> {
    instance.resource(name, ResourceType::host::<T>(), |mut cx: Cx<'_>, rep| {
        let table = &mut cx.data_mut().wasi.table;
        table.delete(Resource::<T>::new_own(rep))?;
        Ok(())
    })
}

/// A new handle.
pub(super) fn handle<T: Send + 'static>(
    cx: &mut Cx<'_>,
    entry: T,
) -> wasmtime::Result<(Resource<T>,)> {
    Ok((cx.data_mut().wasi.table.push(entry)?,))
}

pub(super) fn link_error(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<IoError>(instance, "error")?;
    instance.func_wrap(
        "[method]error.to-debug-string",
        |cx: Cx<'_>, (error,): (Resource<IoError>,)| {
            let IoError(code) = cx.data().wasi.table.get(&error)?;
            Ok((format!("{code:?}"),))
        },
    )
}

pub(super) fn link_poll(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<Pollable>(instance, "pollable")?;
    instance.func_wrap(
        "[method]pollable.ready",
        |_: Cx<'_>, (_,): (Resource<Pollable>,)| Ok((true,)),
    )?;
    instance.func_wrap(
        "[method]pollable.block",
        |_: Cx<'_>, (_,): (Resource<Pollable>,)| Ok(()),
    )?;
    instance.func_wrap("poll", |_: Cx<'_>, (all,): (Vec<Resource<Pollable>>,)| {
        if all.is_empty() {
            return Err(wasmtime::Error::new(Violation(
                "it polls nothing at all".to_owned(),
            )));
        }
        let ready: Vec<u32> = (0..).zip(&all).map(|(place, _)| place).collect();
        Ok((ready,))
    })
}

pub(super) fn link_streams(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<InputStream>(instance, "input-stream")?;
    resource::<OutputStream>(instance, "output-stream")?;
    for name in ["read", "blocking-read"] {
        instance.func_wrap(
            &format!("[method]input-stream.{name}"),
            |mut cx: Cx<'_>, (stream, length): (Resource<InputStream>, u64)| {
                Ok((read(&mut cx, &stream, length)?,))
            },
        )?;
    }
    for name in ["skip", "blocking-skip"] {
        instance.func_wrap(
            &format!("[method]input-stream.{name}"),
            |mut cx: Cx<'_>, (stream, length): (Resource<InputStream>, u64)| {
                let skipped = read(&mut cx, &stream, length)?;
                Ok((skipped.map(|bytes| bytes.len() as u64),))
            },
        )?;
    }
    instance.func_wrap(
        "[method]input-stream.subscribe",
        |mut cx: Cx<'_>, (_,): (Resource<InputStream>,)| handle(&mut cx, Pollable),
    )?;
    instance.func_wrap(
        "[method]output-stream.subscribe",
        |mut cx: Cx<'_>, (_,): (Resource<OutputStream>,)| handle(&mut cx, Pollable),
    )?;
    instance.func_wrap(
        "[method]output-stream.check-write",
        |_: Cx<'_>, (_,): (Resource<OutputStream>,)| {
            Ok((Ok::<u64, StreamError>(WRITE_BYTES as u64),))
        },
    )?;
    for name in ["flush", "blocking-flush"] {
        instance.func_wrap(
            &format!("[method]output-stream.{name}"),
            |_: Cx<'_>, (_,): (Resource<OutputStream>,)| Ok((Ok::<(), StreamError>(()),)),
        )?;
    }
    for name in ["write", "blocking-write-and-flush"] {
        instance.func_wrap(
            &format!("[method]output-stream.{name}"),
            |cx: Cx<'_>, (stream, bytes): (Resource<OutputStream>, Vec<u8>)| {
                write(cx, &stream, bytes.len() as u64, |_| bytes)
            },
        )?;
    }
    for name in ["write-zeroes", "blocking-write-zeroes-and-flush"] {
        instance.func_wrap(
            &format!("[method]output-stream.{name}"),
            |cx: Cx<'_>, (stream, length): (Resource<OutputStream>, u64)| {
                write(cx, &stream, length, |length| vec![0; length])
            },
        )?;
    }
    for name in ["splice", "blocking-splice"] {
        instance.func_wrap(
            &format!("[method]output-stream.{name}"),
            |mut cx: Cx<'_>,
             (to, from, length): (Resource<OutputStream>, Resource<InputStream>, u64)| {
                let bytes = match read(&mut cx, &from, length.min(WRITE_BYTES as u64))? {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok((Err(error),)),
                };
                let length = bytes.len() as u64;
                let (written,) = write(cx, &to, length, |_| bytes)?;
                Ok((written.map(|()| length),))
            },
        )?;
    }
    Ok(())
}

/// The next bytes of a stream, at most so many.
fn read(
    cx: &mut Cx<'_>,
    stream: &Resource<InputStream>,
    length: u64,
) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
    let wasi = &mut cx.data_mut().wasi;
    let InputStream::File { file, place } = wasi.table.get_mut(stream)? else {
        return Ok(Err(StreamError::Closed));
    };
    let read = file.read(&mut wasi.files, length, *place)?;
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(code) => {
            let error = wasi.table.push(IoError(code))?;
            return Ok(Err(StreamError::Failed(error)));
        }
    };
    if bytes.is_empty() && length > 0 {
        return Ok(Err(StreamError::Closed));
    }
    *place += bytes.len() as u64;
    Ok(Ok(bytes))
}

fn write(
    mut cx: Cx<'_>,
    stream: &Resource<OutputStream>,
    length: u64,
    bytes: impl FnOnce(usize) -> Vec<u8>,
) -> wasmtime::Result<(Result<(), StreamError>,)> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > WRITE_BYTES {
        return Err(wasmtime::Error::new(Violation(format!(
            "{length} bytes are written to a stream that takes {WRITE_BYTES} at once"
        ))));
    }
    let call = cx.data_mut();
    let lines = match call.wasi.table.get(stream)? {
        OutputStream::Out => &mut call.wasi.out,
        OutputStream::Err => &mut call.wasi.err,
    };
    let (context, now) = (&call.context, call.now);
    lines.write(&bytes(length), |line| log::printed(context, now, line));
    Ok((Ok(()),))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_their_ends_and_at_their_bound() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for part in ["one\r\ntw", "o\n\n", &"x".repeat(5000), "y\nlast"] {
            lines.write(part.as_bytes(), |line| got.push(line.to_owned()));
        }
        lines.end(|line| got.push(line.to_owned()));
        let lengths: Vec<usize> = got.iter().map(String::len).collect();
        assert_eq!(lengths, [3, 3, LINE_BYTES, 4]);
        assert_eq!((got[0].as_str(), got[3].as_str()), ("one", "last"));
    }
}
