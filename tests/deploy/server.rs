//! A web server for one repository, honest or not.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the server does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It sends it.
    Honest,
    /// It sends bytes for ever.
    Endless,
    /// It sends a byte now and then.
    Dripping,
    /// It says nothing.
    Silent,
    /// It sends header lines for ever.
    EndlessHeaders,
    /// It breaks off after so many bytes of each answer.
    BreakingOff(usize),
}

struct State {
    dir: PathBuf,
    manner: Manner,
    /// The end of the names that the manner is for.
    file: &'static str,
    requests: Vec<String>,
}

/// A server on a loopback port, for as long as the test lasts.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    /// Bytes in and out, headers included.
    bytes: Arc<AtomicU64>,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(State {
                dir: dir.to_owned(),
                manner: Manner::Honest,
                file: "",
                requests: Vec::new(),
            })),
            bytes: Arc::default(),
        };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                // A client that goes away is no matter of the server's.
                thread::spawn(move || serving.serve(&stream).ok());
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/repo", self.port)
    }

    /// From now on another folder is served, and files whose name ends so in this manner.
    pub(crate) fn serve_now(&self, dir: &Path, manner: Manner, file: &'static str) {
        let mut state = self.state.lock().unwrap();
        state.dir = dir.to_owned();
        state.manner = manner;
        state.file = file;
    }

    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    pub(crate) fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if lines.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                self.count(line.len());
                if line == "\r\n" {
                    break;
                }
                head.push(line.trim_end().to_owned());
            }
            self.answer(stream, &head)?;
        }
    }

    fn answer(&self, mut stream: &TcpStream, head: &[String]) -> std::io::Result<()> {
        let path = head[0].split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            let found = head.iter().find_map(|line| {
                line.split_once(": ")
                    .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            });
            found.map(|(_, value)| value.to_owned())
        };
        let (file, manner) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(path.to_owned());
            let relative = path.strip_prefix("/repo/").unwrap_or("missing");
            let meant = !state.file.is_empty() && path.ends_with(state.file);
            let manner = if meant { state.manner } else { Manner::Honest };
            (state.dir.join(relative), manner)
        };
        let mut send = |bytes: &[u8]| {
            self.count(bytes.len());
            stream.write_all(bytes)
        };
        match manner {
            Manner::Honest | Manner::BreakingOff(_) => {}
            Manner::Silent => loop {
                thread::sleep(Duration::from_secs(1));
            },
            Manner::EndlessHeaders => {
                send(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    send(b"X-More: and more\r\n")?;
                }
            }
            Manner::Endless => {
                send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")?;
                loop {
                    send(&[b' '; 4096])?;
                }
            }
            Manner::Dripping => {
                send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")?;
                loop {
                    send(b"{")?;
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
        let Ok(bytes) = fs::read(&file) else {
            return send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        let tag = format!("\"{:x}-{}\"", crc(&bytes), bytes.len());
        if header("if-none-match").as_deref() == Some(&*tag) {
            return send(format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\n\r\n").as_bytes());
        }
        let from = header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        let from = from.unwrap_or(0usize).min(bytes.len());
        let mut answer = if from > 0 {
            let (last, all) = (bytes.len() - 1, bytes.len());
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{all}\r\n")
        } else {
            "HTTP/1.1 200 OK\r\n".to_owned()
        };
        answer += &format!(
            "ETag: {tag}\r\nContent-Length: {}\r\n\r\n",
            bytes.len() - from
        );
        send(answer.as_bytes())?;
        if let Manner::BreakingOff(after) = manner
            && bytes.len() - from > after
        {
            send(&bytes[from..from + after])?;
            return Err(std::io::Error::other("broken off"));
        }
        send(&bytes[from..])
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Something that changes with the content.
fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
