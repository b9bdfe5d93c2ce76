//! `make bench`: the main job beside a bare client, in the same run on the same broker.
//!
//! mosquitto holds a backlog for a persistent session; whoever takes the session drains it at QoS 1. The reference is a
//! rumqttc client that counts and acknowledges. The daemon decodes, runs three filters, commits with
//! `synchronous=FULL` and acknowledges then. Rounds alternate, and figures are medians: these machines are noisy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a panic is a test's report, and its figures are small"
)]

#[path = "../support/mod.rs"]
mod support;
mod uplink;

use std::fs;
use std::time::{Duration, Instant};

use support::{Broker, Daemon, Publisher, Site};

/// Messages of one drain; one reading each. mosquitto 2.0.11 queues no more than there are packet identifiers (65,535).
const COUNT: u64 = 50_000;
/// Drains of each kind.
const ROUNDS: usize = 5;

const FILTERS: &str = "
[pipeline.bench]
from = [\"plant\"]
filters = [
  { module = \"range\", settings = { min = -1000, max = 1000 } },
  { module = \"scale\", settings = { factor = 1.8, offset = 32 } },
  { module = \"deadband\", settings = { width = 0 } },
]
summary = { window = \"60s\" }
";

#[derive(Clone, Copy, PartialEq)]
enum Version {
    V311,
    V5,
}

impl Version {
    fn text(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    fn window(self) -> u32 {
        match self {
            Self::V311 => 20,
            Self::V5 => 1024,
        }
    }
}

/// What one drain by the daemon cost.
struct Drain {
    rate: f64,
    cpu_microseconds: f64,
    rss_mib: f64,
    bytes_written: f64,
    rows_per_commit: f64,
}

fn main() {
    // `cargo bench --bench main_job -- drain` does that part alone.
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| {
        parts.iter().all(|arg| arg.starts_with("--")) || parts.iter().any(|arg| arg == part)
    };
    let full = if wanted("job") { job() } else { 40_000.0 };
    if wanted("drain") {
        uplink::drain();
    }
    if wanted("alarms") {
        uplink::alarms(full / 2.0);
    }
}

/// Prints how the daemon takes in a backlog beside a bare client. Its rate in messages a second.
fn job() -> f64 {
    println!("{COUNT} messages of one reading each, QoS 1, median of {ROUNDS} rounds\n");
    println!(
        "| protocol, window | bare client | daemon | ratio | CPU a message | peak RSS | written a reading | readings a commit |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut full = f64::INFINITY;
    for version in [Version::V5, Version::V311] {
        let mut bare = Vec::new();
        let mut drains = Vec::new();
        for _ in 0..ROUNDS {
            bare.push(drain_bare(version));
            drains.push(drain_daemon(version));
        }
        let of = |field: fn(&Drain) -> f64| median(drains.iter().map(field).collect());
        let reference = median(bare);
        let rate = of(|drain| drain.rate);
        full = full.min(rate);
        println!(
            "| {}, {} | {reference:.0}/s | {rate:.0}/s | {:.2} | {:.1} µs | {:.1} MiB | {:.0} B | {:.0} |",
            version.text(),
            version.window(),
            rate / reference,
            of(|drain| drain.cpu_microseconds),
            of(|drain| drain.rss_mib),
            of(|drain| drain.bytes_written),
            of(|drain| drain.rows_per_commit),
        );
    }
    let (cold, warm): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| starts()).unzip();
    println!(
        "\nmosquitto 2.0.11 sends more than max_inflight_messages on 3.1.1 once acknowledgements flow: see readings a commit\n\
         ready after {:.0} ms with a cold cache, {:.0} ms with a warm one (three filters, process start to /readyz)",
        median(cold),
        median(warm)
    );
    full
}

/// A broker with a backlog for the client id `bench`.
fn backlog(site: &Site, version: Version) -> Broker {
    // The broker must be faster than both clients: it keeps its sessions in memory alone.
    let lines = "allow_anonymous true\nmax_inflight_messages 20\n";
    let broker = Broker::start_with(site, "broker", &format!("{lines}persistence false\n"));
    match version {
        Version::V311 => subscribe_once(broker.port),
        Version::V5 => subscribe_once_v5(broker.port),
    }
    let mut publisher = Publisher::start(broker.port, "plant/line1/temp", &[]);
    for n in 0..COUNT {
        publisher.line(&format!(
            "{{\"v\":{}}}",
            f64::from(u32::try_from(n % 1000).unwrap()) / 10.0
        ));
    }
    publisher.finish();
    broker
}

fn drain_bare(version: Version) -> f64 {
    let site = Site::new();
    let broker = backlog(&site, version);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let begin = Instant::now();
    match version {
        Version::V311 => runtime.block_on(count(broker.port)),
        Version::V5 => runtime.block_on(count_v5(broker.port)),
    }
    per_second(COUNT, begin.elapsed())
}

fn drain_daemon(version: Version) -> Drain {
    let site = Site::new();
    let broker = backlog(&site, version);
    let config = site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"bench\"\nstate-dir = \"{}\"\n[source.plant]\nkind = \"mqtt\"\nurl = \"{}\"\n\
             version = \"{}\"\nclient-id = \"bench\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n{FILTERS}",
            site.path("state").display(),
            broker.url(),
            version.text(),
        ),
    );
    let mut daemon = Daemon::spawn(&config, &[]);
    // Looked at often, because a drain takes a fraction of a second.
    let received = |at_least: u64| -> u64 {
        loop {
            let ledger = daemon
                .get("/api/v1/ledger")
                .map(|(_, body)| body)
                .unwrap_or_default();
            let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap_or_default();
            let received = ledger["sources"]["plant"]["received"].as_u64().unwrap_or(0);
            if received >= at_least {
                return received;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    // The reference has nothing to compile either: the clock starts with the first message.
    let before = received(1);
    let begin = Instant::now();
    received(COUNT);
    let elapsed = begin.elapsed();
    let status = daemon.json("/api/v1/status");
    let pid = daemon.pid();
    let commits = status["store"]["commits"].as_f64().unwrap();
    let drain = Drain {
        rate: per_second(COUNT - before, elapsed),
        cpu_microseconds: cpu_seconds(pid) * 1e6 / COUNT as f64,
        rss_mib: proc_field(&format!("/proc/{pid}/status"), "VmHWM:") / 1024.0,
        bytes_written: proc_field(&format!("/proc/{pid}/io"), "write_bytes:") / COUNT as f64,
        rows_per_commit: COUNT as f64 / commits,
    };
    assert_eq!(daemon.stop(), 0);
    drain
}

/// Milliseconds from process start to `/readyz`, with an empty and with a filled cache.
fn starts() -> (f64, f64) {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = support::configuration(&site, &broker, FILTERS);
    let start = || {
        let begin = Instant::now();
        let mut daemon = Daemon::spawn(&config, &[]);
        while !matches!(daemon.get("/readyz"), Some((200, _))) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let elapsed = begin.elapsed().as_secs_f64() * 1e3;
        assert_eq!(daemon.stop(), 0);
        elapsed
    };
    (start(), start())
}

fn subscribe_once(port: u16) {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_clean_session(false);
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("plant/#", QoS::AtLeastOnce).unwrap();
    for event in connection.iter() {
        if matches!(event.unwrap(), Event::Incoming(Packet::SubAck(_))) {
            client.disconnect().unwrap();
            break;
        }
    }
    for event in connection.iter() {
        if event.is_err() {
            break;
        }
    }
}

fn subscribe_once_v5(port: u16) {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{Client, Event, MqttOptions};
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("plant/#", QoS::AtLeastOnce).unwrap();
    for event in connection.iter() {
        if matches!(event.unwrap(), Event::Incoming(Packet::SubAck(_))) {
            client.disconnect().unwrap();
            break;
        }
    }
    for event in connection.iter() {
        if event.is_err() {
            break;
        }
    }
}

async fn count(port: u16) {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet};
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_clean_session(false);
    let (_client, mut events) = AsyncClient::new(options, 10);
    let mut count = 0;
    while count < COUNT {
        if let Event::Incoming(Packet::Publish(_)) = events.poll().await.unwrap() {
            count += 1;
        }
    }
}

async fn count_v5(port: u16) {
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    options.set_clean_start(false);
    options.set_session_expiry_interval(Some(3600));
    options.set_receive_maximum(Some(1024));
    let (_client, mut events) = AsyncClient::new(options, 10);
    let mut count = 0;
    while count < COUNT {
        if let Event::Incoming(Packet::Publish(_)) = events.poll().await.unwrap() {
            count += 1;
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything; utime and stime are the 14th and 15th fields (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn proc_field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
