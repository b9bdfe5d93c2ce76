//! A sensor that does not let go: a QoS 1 client that numbers what it sends and sends it again until it is acknowledged.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::BEGIN;

/// Messages that wait for the broker's acknowledgement at once.
const IN_FLIGHT: usize = 64;

/// What a message says: its number, and its time in milliseconds since the epoch.
pub(crate) type Payload = fn(u64, i64) -> String;

/// Messages of one feed at most; then it falls silent. mosquitto 2.0.11 drops what is beyond its 65,535 packet identifiers,
/// and a gateway that is down for long would make it.
const MOST: usize = 30_000;

/// One message as it was sent. Its value is its number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    /// Within its feed, from 0.
    pub(crate) n: u64,
    /// The series that it becomes.
    pub(crate) series: String,
    /// Milliseconds since the epoch.
    pub(crate) time: i64,
}

/// What a feed came to. The broker acknowledged all of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) sent: Vec<Sent>,
    /// Messages that were sent once more after a lost connection: the broker may have them twice.
    pub(crate) resent: u64,
}

/// A running publisher.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    thread: JoinHandle<Published>,
}

struct Shared {
    /// Messages a second.
    rate: AtomicU64,
    acknowledged: AtomicU64,
    finishing: AtomicBool,
}

impl Feed {
    /// Publishes `{"ts": …, "n": 0}`, 1, 2, … round robin to the topics. Those whose last level begins with `old` claim
    /// times of last year, 10 ms apart; the others carry the present time.
    pub(crate) fn start(port: u16, client: &str, topics: Vec<String>, rate: u64) -> Self {
        let reading: Payload = |n, time| format!("{{\"ts\":{time},\"n\":{n}}}");
        Self::start_with(port, client, topics, rate, reading)
    }

    /// The same with other payloads.
    pub(crate) fn start_with(
        port: u16,
        client: &str,
        topics: Vec<String>,
        rate: u64,
        payload: Payload,
    ) -> Self {
        let shared = Arc::new(Shared {
            rate: rate.into(),
            acknowledged: 0.into(),
            finishing: false.into(),
        });
        let sender = Sender {
            port,
            client: client.to_owned(),
            topics,
            payload,
            shared: Arc::clone(&shared),
            waiting: VecDeque::new(),
            done: Published::default(),
        };
        let thread = thread::spawn(move || sender.run());
        Self { shared, thread }
    }

    /// Changes the speed, messages a second; 0 pauses.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Messages that the broker has acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends one more to each topic, waits until the broker has acknowledged everything, and ends.
    pub(crate) fn finish(self) -> Published {
        self.shared.finishing.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Sender {
    port: u16,
    client: String,
    topics: Vec<String>,
    payload: Payload,
    shared: Arc<Shared>,
    /// Sent and not acknowledged: packet identifier and number.
    waiting: VecDeque<(u16, u64)>,
    done: Published,
}

impl Sender {
    fn run(mut self) -> Published {
        loop {
            match self.connection() {
                Ok(()) => return self.done,
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// One connection, to its end or to the end of everything.
    fn connection(&mut self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&connect(&self.client))?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        if answer != [0x20, 2, 0, 0] {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        stream.set_read_timeout(Some(Duration::from_millis(5)))?;
        let again: Vec<(u16, u64)> = self.waiting.iter().copied().collect();
        self.done.resent += again.len() as u64;
        for (id, n) in again {
            stream.write_all(&self.publish(id, n, true))?;
        }
        let mut received = Vec::new();
        let (mut since, mut owed) = (Instant::now(), 0.0);
        let mut last: Option<usize> = None;
        loop {
            let rate = self.shared.rate.load(Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "a speed")]
            let more = since.elapsed().as_secs_f64() * rate as f64;
            (since, owed) = (Instant::now(), (owed + more).min(IN_FLIGHT as f64));
            if last.is_none() && self.shared.finishing.load(Ordering::Relaxed) {
                last = Some(self.topics.len());
            }
            let mut bytes = Vec::new();
            let silent = self.done.sent.len() >= MOST;
            while self.waiting.len() < IN_FLIGHT && (owed >= 1.0 && !silent || last > Some(0)) {
                match &mut last {
                    None => owed -= 1.0,
                    Some(0) => break,
                    Some(last) => *last -= 1,
                }
                let (id, n) = self.next();
                bytes.extend(self.publish(id, n, false));
            }
            stream.write_all(&bytes)?;
            self.take_acknowledgements(&mut stream, &mut received)?;
            if last == Some(0) && self.waiting.is_empty() {
                return stream.write_all(&[0xe0, 0]);
            }
        }
    }

    fn next(&mut self) -> (u16, u64) {
        let count = self.done.sent.len();
        let (n, topic) = (count as u64, &self.topics[count % self.topics.len()]);
        let old = topic.rsplit('/').next().unwrap().starts_with("old");
        let time = if old { BEGIN + n * 10 } else { now_millis() };
        self.done.sent.push(Sent {
            n,
            series: format!("{topic}/n"),
            time: i64::try_from(time).unwrap(),
        });
        let id = u16::try_from(n % 65_535 + 1).unwrap();
        self.waiting.push_back((id, n));
        (id, n)
    }

    fn publish(&self, id: u16, n: u64, again: bool) -> Vec<u8> {
        let sent = &self.done.sent[usize::try_from(n).unwrap()];
        let topic = sent.series.strip_suffix("/n").unwrap();
        let payload = (self.payload)(n, sent.time);
        let mut body = text(topic);
        body.extend(id.to_be_bytes());
        body.extend(payload.as_bytes());
        packet(if again { 0x3a } else { 0x32 }, &body)
    }

    fn take_acknowledgements(
        &mut self,
        stream: &mut TcpStream,
        received: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => received.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        // A broker has nothing else to say to a publisher than PUBACKs, four bytes each.
        let whole = received.len() / 4 * 4;
        for acknowledgement in received.drain(..whole).collect::<Vec<u8>>().chunks(4) {
            assert_eq!(acknowledgement[..2], [0x40, 2], "no PUBACK");
            let id = u16::from_be_bytes([acknowledgement[2], acknowledgement[3]]);
            if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == id) {
                self.waiting.remove(at);
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// CONNECT of MQTT 3.1.1 with a clean session and no keep-alive.
fn connect(client: &str) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([4, 2, 0, 0]);
    body.extend(text(client));
    packet(0x10, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap();
        length /= 128;
        packet.push(if length > 0 { low | 128 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
