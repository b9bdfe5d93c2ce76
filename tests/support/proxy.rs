//! A TCP proxy between the daemon and a broker that does to the line what lines do: it delays, dribbles, stalls,
//! swallows, resets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::free_port;

/// How often a pump looks whether the line has changed.
const LOOK: Duration = Duration::from_millis(20);
/// The largest piece that is carried at once.
const PIECE: usize = 16 * 1024;

/// What the line does to bytes, in both directions, on connections that stand as on new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Carries them.
    Good,
    /// Carries each piece after so long.
    Slow(Duration),
    /// Carries so many bytes a second in each direction, in small pieces.
    Dribble(usize),
    /// Half-open: takes everything, carries nothing, says nothing. A connection that lost something so carries nothing any
    /// more, whatever the line becomes.
    BlackHole,
    /// Takes nothing either: the sender's buffers fill.
    Stall,
    /// Of a hundred pieces so many are held for so long, as TCP holds them when a packet is lost. Drawn from a seed.
    Lossy {
        per_cent: u64,
        held: Duration,
        seed: u64,
    },
    /// Accepts connections and resets them at once.
    Refuse,
}

/// A listener in front of a port. Connections end with it.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    line: Mutex<Line>,
    connections: Mutex<Vec<Arc<Connection>>>,
    accepted: AtomicUsize,
    up: AtomicU64,
    down: AtomicU64,
    swallowed: AtomicU64,
    over: AtomicBool,
}

/// The two sockets of one connection. They close when both directions have ended.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    reset: AtomicBool,
    /// A black hole took something of it.
    broken: AtomicBool,
}

impl Proxy {
    /// In front of `target` on the loopback address.
    pub(crate) fn start(target: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            target,
            line: Mutex::new(Line::Good),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Changes the line, at once and for everything.
    pub(crate) fn set(&self, line: Line) {
        *self.shared.line.lock().unwrap() = line;
    }

    /// Ends every connection with a TCP reset on both sides.
    pub(crate) fn reset(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            connection.reset.store(true, Ordering::Relaxed);
        }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes carried to the target so far.
    pub(crate) fn carried_up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes that black holes took so far, in both directions.
    pub(crate) fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::Relaxed)
    }

    /// Bytes carried back so far.
    pub(crate) fn carried_down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.reset();
    }
}

impl Shared {
    fn line(&self) -> Line {
        *self.line.lock().unwrap()
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.over.load(Ordering::Relaxed) {
            let Ok((client, _)) = listener.accept() else {
                thread::sleep(LOOK);
                continue;
            };
            self.accepted.fetch_add(1, Ordering::Relaxed);
            client.set_nonblocking(false).unwrap();
            if self.line() == Line::Refuse {
                reset_on_close(&client);
                continue;
            }
            // Nobody behind us looks to the client like a peer that hangs up.
            let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else {
                continue;
            };
            for socket in [&client, &server] {
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(Some(LOOK)).unwrap();
            }
            let connection = Arc::new(Connection {
                client,
                server,
                reset: AtomicBool::new(false),
                broken: AtomicBool::new(false),
            });
            let (up, down) = (Arc::clone(self), Arc::clone(self));
            let (there, back) = (Arc::clone(&connection), Arc::clone(&connection));
            thread::spawn(move || up.pump(&there, &there.client, &there.server, &up.up));
            thread::spawn(move || down.pump(&back, &back.server, &back.client, &down.down));
            let mut connections = self.connections.lock().unwrap();
            connections.retain(|known| Arc::strong_count(known) > 1);
            connections.push(connection);
        }
    }

    /// Carries one direction of one connection to its end.
    fn pump(
        &self,
        connection: &Connection,
        mut from: &TcpStream,
        mut to: &TcpStream,
        carried: &AtomicU64,
    ) {
        let mut piece = vec![0; PIECE];
        let mut draws = 0_u64;
        while !connection.reset.load(Ordering::Relaxed) {
            let most = match self.line() {
                Line::Stall => {
                    thread::sleep(LOOK);
                    continue;
                }
                // A tenth of a second at once.
                Line::Dribble(rate) => (rate / 10).clamp(1, PIECE),
                Line::Good
                | Line::Slow(_)
                | Line::BlackHole
                | Line::Lossy { .. }
                | Line::Refuse => PIECE,
            };
            let length = match from.read(&mut piece[..most]) {
                // A black hole says nothing of an end either, until the connection is reset.
                Ok(0) if self.is_lost(connection) => {
                    thread::sleep(LOOK);
                    continue;
                }
                Ok(0) => break,
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            let line = self.line();
            if self.is_lost(connection) {
                let length = u64::try_from(length).unwrap();
                self.swallowed.fetch_add(length, Ordering::Relaxed);
                continue;
            }
            match line {
                Line::Good | Line::Refuse | Line::BlackHole => {}
                Line::Slow(time) => self.hold(connection, time),
                Line::Dribble(rate) => {
                    let length = u32::try_from(length).unwrap();
                    self.hold(
                        connection,
                        Duration::from_secs(1) * length / u32::try_from(rate).unwrap(),
                    );
                }
                Line::Stall => self.hold(connection, Duration::MAX),
                Line::Lossy {
                    per_cent,
                    held,
                    seed,
                } => {
                    draws += 1;
                    if mix(seed ^ draws) % 100 < per_cent {
                        self.hold(connection, held);
                    }
                }
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
            carried.fetch_add(u64::try_from(length).unwrap(), Ordering::Relaxed);
        }
        if connection.reset.load(Ordering::Relaxed) {
            reset_on_close(from);
            return;
        }
        // The end of one direction is the end of both: MQTT knows no half-closed connection. A socket that is closed
        // already is what was wanted.
        for socket in [from, to] {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// Whether a black hole takes what there is of this connection, from now on for ever.
    fn is_lost(&self, connection: &Connection) -> bool {
        if self.line() == Line::BlackHole {
            connection.broken.store(true, Ordering::Relaxed);
        }
        connection.broken.load(Ordering::Relaxed)
    }

    /// Waits, but not beyond the line's next change.
    fn hold(&self, connection: &Connection, time: Duration) {
        let (begin, line) = (Instant::now(), self.line());
        while begin.elapsed() < time
            && self.line() == line
            && !connection.reset.load(Ordering::Relaxed)
        {
            thread::sleep(LOOK.min(time.saturating_sub(begin.elapsed())));
        }
    }
}

/// A socket with a linger of zero says RST when it is closed, and not FIN.
fn reset_on_close(socket: &TcpStream) {
    SockRef::from(socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// SplitMix64, so that a seed gives the same losses everywhere.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
