//! A line on which things go wrong, between the daemon and pymodbus: answers that come late, cut, damaged, twice, with another
//! slave's address, behind noise or not at all, and exceptions of every code.
//!
//! The daemon's side is a TCP connection or the slaves' end of a pseudo terminal; the slaves' side is TCP, with the same frames.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Sound,
    /// It comes after the daemon has given up, and before the end of the quarantine.
    Late(Duration),
    /// Its end is missing.
    Cut,
    /// In two pieces.
    Split,
    /// Behind noise, or behind the answer to an earlier request of another slave.
    Merged,
    /// Up to three bits are wrong, which a CRC finds for certain.
    Flipped,
    /// The request comes back first.
    Echo,
    /// It is the right answer of another slave.
    WrongUnit,
    /// It bears the number of another transaction.
    WrongTransaction,
    Silence,
    Exception(u8),
}

/// Frames as on a serial line, or as on TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Rtu,
    Tcp,
}

/// Decides about an answer, by slave and chance.
pub(crate) type Mood = dyn Fn(u8, &mut Chance) -> Fault + Send + Sync;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    happened: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: Arc<AtomicBool>,
}

/// Numbers that look random and are the same each time (SplitMix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

impl Proxy {
    pub(crate) fn tcp(framing: Framing, slaves: u16, mood: Arc<Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self::new(listener.local_addr().unwrap().port());
        let (happened, stop) = (Arc::clone(&proxy.happened), Arc::clone(&proxy.stop));
        thread::spawn(move || {
            for (seed, daemon) in listener.incoming().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(daemon) = daemon else { return };
                daemon.set_nodelay(true).unwrap();
                let line = Line {
                    framing,
                    slaves,
                    mood: Arc::clone(&mood),
                    happened: Arc::clone(&happened),
                    stop: Arc::clone(&stop),
                    pace: None,
                    hang_up: daemon.try_clone().ok(),
                };
                thread::spawn(move || {
                    let writer = daemon.try_clone().unwrap();
                    daemon
                        .set_read_timeout(Some(Duration::from_millis(100)))
                        .unwrap();
                    line.serve(daemon, writer, seed as u64);
                });
            }
        });
        proxy
    }

    /// On a pseudo terminal that takes its time: so long for each byte.
    pub(crate) fn serial(end: File, slaves: u16, byte: Duration, mood: Arc<Mood>) -> Self {
        let proxy = Self::new(0);
        let line = Line {
            framing: Framing::Rtu,
            slaves,
            mood,
            happened: Arc::clone(&proxy.happened),
            stop: Arc::clone(&proxy.stop),
            pace: Some(byte),
            hang_up: None,
        };
        thread::spawn(move || {
            let writer = end.try_clone().unwrap();
            line.serve(end, writer, 1);
        });
        proxy
    }

    fn new(port: u16) -> Self {
        Self {
            port,
            happened: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// How often each fault happened.
    pub(crate) fn happened(&self) -> BTreeMap<String, u64> {
        self.happened.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Line {
    framing: Framing,
    slaves: u16,
    mood: Arc<Mood>,
    happened: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: Arc<AtomicBool>,
    pace: Option<Duration>,
    hang_up: Option<TcpStream>,
}

impl Line {
    fn serve(self, mut daemon: impl Read, writer: impl Write + Send + 'static, seed: u64) {
        let mut chance = Chance(seed);
        let writer = Arc::new(Mutex::new(writer));
        let mut slaves = TcpStream::connect(("127.0.0.1", self.slaves)).unwrap();
        slaves.set_nodelay(true).unwrap();
        let mut held: Vec<u8> = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        let mut buffer = [0; 512];
        loop {
            match daemon.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => held.extend(&buffer[..read]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return,
            }
            while let Some(request) = self.request(&mut held) {
                let unit = request[self.unit()];
                let fault = (self.mood)(unit, &mut chance);
                let name = format!("{fault:?}");
                let name = name.split('(').next().unwrap().to_owned();
                *self.happened.lock().unwrap().entry(name).or_default() += 1;
                // Whatever becomes of the answer, the slave has been asked.
                slaves.write_all(&request).unwrap();
                let answer = self.answer(&mut slaves);
                self.pass(
                    &writer,
                    fault,
                    &request,
                    &answer,
                    last.as_deref(),
                    &mut chance,
                );
                last = Some(answer);
                if fault == Fault::Cut && self.framing == Framing::Tcp {
                    // TCP loses no bytes in the middle: the connection ends there, also for what is on its way.
                    if let Some(daemon) = &self.hang_up {
                        daemon.shutdown(Shutdown::Both).ok();
                    }
                    return;
                }
            }
        }
    }

    fn pass<W: Write + Send + 'static>(
        &self,
        writer: &Arc<Mutex<W>>,
        fault: Fault,
        request: &[u8],
        answer: &[u8],
        last: Option<&[u8]>,
        chance: &mut Chance,
    ) {
        let unit = self.unit();
        let send = |bytes: &[u8]| self.send(writer, bytes);
        match fault {
            Fault::Sound => send(answer),
            Fault::Late(by) => {
                let (answer, writer) = (answer.to_vec(), Arc::clone(writer));
                thread::spawn(move || {
                    thread::sleep(by);
                    writer.lock().unwrap().write_all(&answer).ok();
                });
            }
            Fault::Cut => send(&answer[..answer.len() / 2]),
            Fault::Split => {
                let (one, two) = answer.split_at(answer.len() / 2);
                // On a line a late answer may come between; a connection mixes nothing up.
                let mut writer = writer.lock().unwrap();
                writer.write_all(one).ok();
                if self.framing == Framing::Rtu {
                    drop(writer);
                    thread::sleep(Duration::from_millis(5));
                    send(two);
                } else {
                    thread::sleep(Duration::from_millis(5));
                    writer.write_all(two).ok();
                }
            }
            Fault::Merged => {
                let before = match last {
                    // That of the same slave could be the answer; a slave sends none without being asked.
                    Some(last) if last[unit] != answer[unit] => last.to_vec(),
                    _ if self.framing == Framing::Rtu => vec![0xFF, 0, answer[0], 0x55],
                    _ => Vec::new(),
                };
                send(&[&before[..], answer].concat());
            }
            Fault::Flipped => {
                let mut damaged = answer.to_vec();
                for _ in 0..=chance.below(3) {
                    let bit = usize::try_from(chance.below(8 * answer.len() as u64)).unwrap();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                }
                // Two flips of one bit are none.
                if damaged == answer {
                    damaged[unit + 2] ^= 1;
                }
                send(&damaged);
            }
            Fault::Echo => send(&[request, answer].concat()),
            Fault::WrongUnit => {
                let mut other = answer.to_vec();
                other[unit] ^= 1;
                self.seal(&mut other);
                send(&other);
            }
            Fault::WrongTransaction => {
                let mut other = answer.to_vec();
                other[1] = other[1].wrapping_sub(1);
                send(&other);
            }
            Fault::Silence => {}
            Fault::Exception(code) => {
                let mut exception = request[..=unit + 1].to_vec();
                exception[unit + 1] |= 0x80;
                exception.push(code);
                match self.framing {
                    Framing::Rtu => exception.extend([0, 0]),
                    Framing::Tcp => exception[5] = 3,
                }
                self.seal(&mut exception);
                send(&exception);
            }
        }
    }

    fn send<W: Write>(&self, writer: &Arc<Mutex<W>>, bytes: &[u8]) {
        if let Some(byte) = self.pace {
            // A line has delivered the last byte after so long.
            thread::sleep(byte * u32::try_from(bytes.len()).unwrap());
        }
        writer.lock().unwrap().write_all(bytes).ok();
    }

    /// Where the unit stands in a frame.
    fn unit(&self) -> usize {
        match self.framing {
            Framing::Rtu => 0,
            Framing::Tcp => 6,
        }
    }

    /// A whole request: the daemon reads and does nothing else.
    fn request(&self, held: &mut Vec<u8>) -> Option<Vec<u8>> {
        let length = match self.framing {
            Framing::Rtu => 8,
            Framing::Tcp => 12,
        };
        (held.len() >= length).then(|| held.drain(..length).collect())
    }

    fn answer(&self, slaves: &mut TcpStream) -> Vec<u8> {
        let mut answer = vec![0; self.unit() + 3];
        slaves.read_exact(&mut answer).unwrap();
        let function = answer[self.unit() + 1];
        let more = if function & 0x80 != 0 {
            0
        } else {
            usize::from(answer[self.unit() + 2])
        };
        let crc = if self.framing == Framing::Rtu { 2 } else { 0 };
        let mut rest = vec![0; more + crc];
        slaves.read_exact(&mut rest).unwrap();
        answer.extend(rest);
        answer
    }

    fn seal(&self, frame: &mut [u8]) {
        if self.framing == Framing::Rtu {
            let covered = frame.len() - 2;
            let crc = frame[..covered].iter().fold(0xFFFFu16, |crc, byte| {
                (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
                    if crc & 1 == 1 {
                        crc >> 1 ^ 0xA001
                    } else {
                        crc >> 1
                    }
                })
            });
            frame[covered..].copy_from_slice(&crc.to_le_bytes());
        }
    }
}
