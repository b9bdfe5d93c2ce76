//! An open line or connection: one request at a time, and the one answer to it.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use super::config::{Link, ModbusLine};
use super::mbap::{self, Cutter};
use super::pause::Pause;
use super::pdu::{Answer, Request};
use super::rtu::{self, Receiver};
use crate::serial::{Line, LineError, Parity, Port};

/// A host that takes longer to take a connection is taken for dead.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of one read.
const READ_BYTES: usize = 1024;
/// Silence inside a frame that ends it is a part of the timeout, but at least this: an adapter hands over what it has every 16 ms.
const BEGUN: Duration = Duration::from_millis(20);

/// An open line.
pub(super) struct Client {
    wire: Wire,
    framing: Framing,
    /// Of a serial line, whose silence is shorter than the runtime can wait.
    pause: Option<Pause>,
    settings: ModbusLine,
    /// When something was last heard or said.
    active: Instant,
    buffer: Vec<u8>,
    /// Bytes that belonged to no answer.
    stray: u64,
}

enum Wire {
    Line(Line, Port),
    Tcp(TcpStream),
}

enum Framing {
    Rtu {
        /// That ends a frame.
        silence: Duration,
        /// Bits a second and of a character, where there is a line.
        speed: Option<(u32, u32)>,
    },
    Tcp {
        transaction: u16,
        cutter: Cutter,
    },
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Answer),
    /// Nothing came in time.
    Silent,
    /// What came cannot be believed, or was the answer to something else.
    Garbled,
}

/// The line cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("{host}:{port} cannot be reached: {error}")]
    Connect {
        host: String,
        port: u16,
        error: io::Error,
    },
    #[error("the connection was closed by the other side")]
    Closed,
    #[error("the connection failed: {0}")]
    Failed(io::Error),
    #[error(
        "what comes is no Modbus TCP: where the device sends the frames of a serial line over TCP, write framing = \"rtu\""
    )]
    NoModbus,
}

impl Client {
    pub(super) async fn open(settings: &ModbusLine) -> Result<Self, ClientError> {
        let (wire, framing) = match &settings.link {
            Link::Serial(port) => {
                let line = &port.line;
                let parity = u32::from(line.parity != Parity::None);
                let bits = 1 + u32::from(line.data_bits) + parity + u32::from(line.stop_bits);
                let framing = Framing::Rtu {
                    silence: rtu::silence(line.speed, bits),
                    speed: Some((line.speed, bits)),
                };
                (Wire::Line(Line::open(port)?, port.clone()), framing)
            }
            Link::Tcp { host, port, rtu } => {
                let failed = |error| ClientError::Connect {
                    host: host.clone(),
                    port: *port,
                    error,
                };
                let connect = timeout(CONNECT, TcpStream::connect((host.as_str(), *port)));
                let stream = match connect.await {
                    Ok(connected) => connected.map_err(failed)?,
                    Err(_) => return Err(failed(ErrorKind::TimedOut.into())),
                };
                stream.set_nodelay(true).map_err(failed)?;
                let framing = if *rtu {
                    Framing::Rtu {
                        silence: Duration::ZERO,
                        speed: None,
                    }
                } else {
                    Framing::Tcp {
                        transaction: 0,
                        cutter: Cutter::default(),
                    }
                };
                (Wire::Tcp(stream), framing)
            }
        };
        Ok(Self {
            pause: match &wire {
                Wire::Line(..) => Pause::new().ok(),
                Wire::Tcp(_) => None,
            },
            wire,
            framing,
            settings: settings.clone(),
            active: Instant::now(),
            buffer: vec![0; READ_BYTES],
            stray: 0,
        })
    }

    /// Asks a slave.
    pub(super) async fn ask(&mut self, unit: u8, request: &Request) -> Result<Heard, ClientError> {
        let silence = match &self.framing {
            Framing::Rtu { silence, .. } => *silence,
            Framing::Tcp { .. } => Duration::ZERO,
        };
        let silence = silence.max(self.settings.pause);
        // What comes before the question is no answer to it: it is thrown away, and the silence begins again.
        let began = Instant::now();
        loop {
            self.drain()?;
            let left = silence.saturating_sub(self.active.elapsed());
            if left.is_zero() {
                break;
            }
            // Somebody on the line never stops.
            if began.elapsed() > self.settings.timeout + silence {
                return Ok(Heard::Garbled);
            }
            let waited = match &self.pause {
                Some(pause) => pause.wait(left).await.is_ok(),
                None => false,
            };
            if !waited {
                sleep(left).await;
            }
        }
        match &mut self.framing {
            Framing::Rtu { speed, .. } => {
                let speed = *speed;
                self.ask_rtu(unit, request, speed).await
            }
            Framing::Tcp { transaction, .. } => {
                *transaction = transaction.wrapping_add(1);
                let transaction = *transaction;
                self.ask_tcp(transaction, unit, request).await
            }
        }
    }

    /// Throws away what comes, until the line ends.
    pub(super) async fn idle(&mut self) -> ClientError {
        loop {
            if let Err(error) = self.read().await.map(|read| self.strays(read)) {
                return error;
            }
        }
    }

    /// Bytes that belonged to no answer, since the last time this was asked.
    pub(super) fn take_stray(&mut self) -> u64 {
        std::mem::take(&mut self.stray)
    }

    async fn ask_rtu(
        &mut self,
        unit: u8,
        request: &Request,
        speed: Option<(u32, u32)>,
    ) -> Result<Heard, ClientError> {
        let frame = rtu::encode(unit, request);
        let takes = |bytes| {
            speed.map_or(Duration::ZERO, |(speed, bits)| {
                rtu::duration(bytes, speed, bits)
            })
        };
        self.write(&frame).await?;
        let wire = takes(frame.len()) + takes(rtu::answer_bytes(request));
        let deadline = Instant::now() + self.settings.timeout + wire;
        // A frame that was begun and does not go on is none.
        let begun = (self.settings.timeout / 4).max(BEGUN);
        let mut receiver = Receiver::new(unit, request.clone());
        loop {
            let until = if receiver.heard() {
                deadline.min(Instant::now() + begun)
            } else {
                deadline
            };
            let Ok(read) = timeout_at(until.into(), self.read()).await else {
                if let Some(answer) = receiver.silence() {
                    return Ok(Heard::Answer(answer));
                }
                if !receiver.heard() {
                    return Ok(Heard::Silent);
                }
                self.stray += receiver.bytes();
                return Ok(Heard::Garbled);
            };
            let read = read?;
            if let Some(answer) = receiver.feed(&self.buffer[..read]) {
                return Ok(Heard::Answer(answer));
            }
            // A slave that never stops is one that garbles.
            if Instant::now() >= deadline {
                self.stray += receiver.bytes();
                return Ok(Heard::Garbled);
            }
        }
    }

    async fn ask_tcp(
        &mut self,
        transaction: u16,
        unit: u8,
        request: &Request,
    ) -> Result<Heard, ClientError> {
        self.write(&mbap::encode(transaction, unit, request))
            .await?;
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            let Ok(read) = timeout_at(deadline.into(), self.read()).await else {
                return Ok(Heard::Silent);
            };
            let read = read?;
            let Framing::Tcp { cutter, .. } = &mut self.framing else {
                return Ok(Heard::Silent);
            };
            cutter.feed(&self.buffer[..read]);
            while let Some(frame) = cutter.next().map_err(|_| ClientError::NoModbus)? {
                if frame.transaction != transaction {
                    // The late answer to an earlier request.
                    self.stray += frame.bytes();
                    continue;
                }
                let answer = (frame.unit == unit).then(|| request.answer(&frame.pdu));
                return Ok(answer.flatten().map_or(Heard::Garbled, Heard::Answer));
            }
        }
    }

    /// Throws away what is there already.
    fn drain(&mut self) -> Result<(), ClientError> {
        loop {
            let read = match &self.wire {
                Wire::Line(line, _) => line.try_read(&mut self.buffer),
                Wire::Tcp(stream) => stream.try_read(&mut self.buffer),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => {
                    let read = self.heard(other)?;
                    self.strays(read);
                }
            }
        }
    }

    /// Counts bytes that were read without a question. Of a TCP connection they may be the begin of a frame.
    fn strays(&mut self, read: usize) {
        self.active = Instant::now();
        if let Framing::Tcp { cutter, .. } = &mut self.framing {
            cutter.feed(&self.buffer[..read]);
            while let Ok(Some(frame)) = cutter.next() {
                self.stray += frame.bytes();
            }
        } else {
            self.stray += read as u64;
        }
    }

    async fn read(&mut self) -> Result<usize, ClientError> {
        let read = match &self.wire {
            Wire::Line(line, _) => line.read(&mut self.buffer).await,
            Wire::Tcp(stream) => loop {
                if let Err(error) = stream.readable().await {
                    break Err(error);
                }
                match stream.try_read(&mut self.buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => break other,
                }
            },
        };
        self.heard(read)
    }

    fn heard(&mut self, read: io::Result<usize>) -> Result<usize, ClientError> {
        self.active = Instant::now();
        match (read, &self.wire) {
            (Ok(0), Wire::Line(_, port)) => Err(LineError::gone(port).into()),
            (Ok(0), Wire::Tcp(_)) => Err(ClientError::Closed),
            (Ok(read), _) => Ok(read),
            (Err(error), Wire::Line(_, port)) => Err(LineError::broken(port, error).into()),
            (Err(error), Wire::Tcp(_)) => Err(ClientError::Failed(error)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let deadline = Instant::now() + CONNECT;
        let mut rest = bytes;
        while !rest.is_empty() {
            let write = async {
                match &self.wire {
                    Wire::Line(line, _) => line.write(rest).await,
                    Wire::Tcp(stream) => loop {
                        stream.writable().await?;
                        match stream.try_write(rest) {
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            other => break other,
                        }
                    },
                }
            };
            let written = match timeout_at(deadline.into(), write).await {
                Ok(written) => written,
                Err(_) => Err(ErrorKind::TimedOut.into()),
            };
            let written = written.map_err(|error| match &self.wire {
                Wire::Line(_, port) => LineError::broken(port, error).into(),
                Wire::Tcp(_) => ClientError::Failed(error),
            })?;
            rest = rest.get(written..).unwrap_or_default();
        }
        // The last byte leaves a line later than the call that takes it.
        let takes = match &self.framing {
            Framing::Rtu {
                speed: Some((speed, bits)),
                ..
            } => rtu::duration(bytes.len(), *speed, *bits),
            Framing::Rtu { speed: None, .. } | Framing::Tcp { .. } => Duration::ZERO,
        };
        self.active = Instant::now() + takes;
        Ok(())
    }
}

/// Waits for an instant, or for ever.
pub(super) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => pending().await,
    }
}
