//! A bad line: a TCP proxy that swallows, resets, dribbles and stalls; and real packet loss on its port.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::rng::Rng;
use crate::support::{free_port, path_with_sbin};

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything passes.
    Through = 0,
    /// Half open: connections stand, and whatever goes in is never seen again; then nor is what follows on them.
    Swallow = 1,
    /// Whatever moves is reset, and so is whoever connects.
    Reset = 2,
    /// Some bytes at a time, with pauses.
    Dribble = 3,
    /// Three pieces of ten wait as long as a retransmission would take.
    Stall = 4,
}

/// A proxy before a broker.
pub(crate) struct Line {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    mode: AtomicU8,
    ended: AtomicBool,
    swallowed: AtomicU64,
    chance: Mutex<Rng>,
    runtime: tokio::runtime::Runtime,
}

impl Line {
    pub(crate) fn new(target: u16, seed: u64) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(Mode::Through as u8),
            ended: false.into(),
            swallowed: 0.into(),
            chance: Mutex::new(Rng::new(seed)),
            // For the one call that only it offers: see `reset`.
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .unwrap(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                accepting.connect(near, target);
            }
        });
        Self { port, shared }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Bytes that were swallowed so far.
    pub(crate) fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; where nobody listens any more there is none.
        TcpStream::connect(("127.0.0.1", self.port))
            .map(drop)
            .unwrap_or_default();
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, near: TcpStream, target: u16) {
        if self.mode() == Mode::Reset as u8 {
            self.reset(near);
            return;
        }
        // A broker that is away is seen by the client as an end of the connection.
        let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else {
            return;
        };
        for (from, to) in [(&near, &far), (&far, &near)] {
            from.set_nodelay(true).unwrap();
            from.set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pump(from, to));
        }
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::Relaxed)
    }

    /// Carries bytes in one direction until either end is gone.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        let mut broken = false;
        while !self.ended.load(Ordering::Relaxed) {
            let mode = self.mode();
            if mode == Mode::Reset as u8 {
                self.reset(from);
                self.reset(to);
                return;
            }
            let dribble = mode == Mode::Dribble as u8;
            let room = if dribble { 24 } else { buffer.len() };
            let count = match from.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            broken |= mode == Mode::Swallow as u8;
            if broken {
                self.swallowed.fetch_add(count as u64, Ordering::Relaxed);
                continue;
            }
            if dribble {
                thread::sleep(Duration::from_millis(1));
            }
            if mode == Mode::Stall as u8 {
                let wait = self.chance.lock().unwrap().within(0..1000);
                // 30 % of the pieces, 200 ms to 500 ms: the first retransmission, or the second.
                if wait < 300 {
                    thread::sleep(Duration::from_millis(200 + wait));
                }
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // Errors here say that the other end has closed already, which is what is wanted.
        from.shutdown(Shutdown::Both).unwrap_or_default();
        to.shutdown(Shutdown::Both).unwrap_or_default();
    }

    /// Closes with an RST.
    fn reset(&self, stream: TcpStream) {
        let _context = self.runtime.enter();
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = tokio::net::TcpStream::from_std(stream)
        {
            stream.set_zero_linger().unwrap_or_default();
        }
    }
}

/// Three packets of ten to and from a port are lost, by a rule of the kernel's. Needs root and nftables.
pub(crate) struct Loss {
    table: String,
}

impl Loss {
    pub(crate) fn on(port: u16) -> Self {
        let table = format!("tidegate_test_{port}");
        let loss = Self { table };
        let table = &loss.table;
        nft(&format!("add table inet {table}"));
        nft(&format!(
            "add chain inet {table} input {{ type filter hook input priority 0; }}"
        ));
        for side in ["dport", "sport"] {
            nft(&format!(
                "add rule inet {table} input tcp {side} {port} numgen random mod 100 < 30 drop"
            ));
        }
        loss
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        nft(&format!("delete table inet {}", self.table));
    }
}

fn nft(rule: &str) {
    let output = Command::new("nft")
        .env("PATH", path_with_sbin())
        .arg(rule)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || thread::panicking(),
        "nft {rule}: {errors}"
    );
}
