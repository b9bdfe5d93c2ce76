//! A clock that starts in 1970, is set, and is stepped under load: the real binary under libfaketime.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use support::{Broker, Collector, Daemon, Publisher, Site, verify, wait_for};

/// Wall clock minus true time of a gateway that booted in 1970.
const IN_1970: i64 = -1_795_000_000;

/// A machine whose clock the test sets. The monotonic clock is the real one.
struct Machine {
    library: PathBuf,
    offset: PathBuf,
}

impl Machine {
    fn new(site: &Site) -> Self {
        let machine = Self {
            library: library(),
            offset: site.path("clock"),
        };
        machine.set(0);
        machine
    }

    /// Sets the clock to the true time and so many seconds.
    fn set(&self, offset: i64) {
        // Written beside and renamed: the daemon reads it at any moment.
        let beside = self.offset.with_extension("new");
        std::fs::write(&beside, format!("{offset:+}\n")).unwrap();
        std::fs::rename(&beside, &self.offset).unwrap();
    }

    fn spawn(&self, config: &Path) -> Daemon {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (library, offset) = (text(&self.library), text(&self.offset));
        let daemon = Daemon::spawn(
            config,
            &[
                ("LD_PRELOAD", library.as_str()),
                ("FAKETIME_TIMESTAMP_FILE", offset.as_str()),
                ("FAKETIME_CACHE_DURATION", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("DONT_FAKE_MONOTONIC", "1"),
            ],
        );
        daemon.wait_ready();
        daemon
    }

    /// Sets the clock and waits until the daemon lives by it.
    fn set_and_see(&self, offset: i64, daemon: &Daemon) {
        self.set(offset);
        wait_for("the new time", || {
            let status: Value = serde_json::from_str(&daemon.get("/api/v1/status")?.1).ok()?;
            let off = status["time"].as_i64()? / 1000 - now_ms() / 1000 - offset;
            (off.abs() < 60).then_some(())
        });
    }
}

/// Debian's libfaketime for programs with threads.
fn library() -> PathBuf {
    let places = ["x86_64", "aarch64", "riscv64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("faketime is installed by `make tools`")
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// Readings that bring no time along; every message is known by its number.
fn configuration(site: &Site, broker: &Broker) -> PathBuf {
    let url = broker.url();
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n[store]\nlinger = \"2ms\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n\
             identity = {{ field = \"n\" }}\n\
             [pipeline.count]\nfrom = [\"plant\"]\nsummary = {{ window = \"1s\" }}\n\
             to = [{{ uplink = \"cloud\", send = \"both\" }}]\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\n",
            state = site.path("state").display(),
        ),
    )
}

/// Publishes `{"n": …}` one by one and returns when each was sent, true time in milliseconds.
fn publish(port: u16, numbers: std::ops::Range<u64>) -> BTreeMap<u64, i64> {
    let mut publisher = Publisher::start(port, "plant/line1", &[]);
    let mut sent = BTreeMap::new();
    for n in numbers {
        sent.insert(n, now_ms());
        publisher.line(&format!("{{\"n\":{n}}}"));
        thread::sleep(Duration::from_millis(5));
    }
    publisher.finish();
    sent
}

fn database(site: &Site) -> rusqlite::Connection {
    let path = site.path("state").join("tidegate.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    rusqlite::Connection::open_with_flags(path, flags).unwrap()
}

fn count(conn: &rusqlite::Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The time of an item, put right as a receiver does it.
fn true_time(item: &Value, key: &str, offsets: &BTreeMap<String, i64>) -> i64 {
    match item["mono"].as_i64() {
        Some(mono) => mono + offsets[item["boot"].as_str().unwrap()],
        None => item[key].as_i64().unwrap(),
    }
}

/// Offsets by boot, out of the events.
fn offsets(collector: &Collector) -> BTreeMap<String, i64> {
    let events = collector.items("event");
    let set = events.iter().filter(|event| event["code"] == "clock-set");
    set.map(|event| {
        let data = &event["data"];
        (
            data["boot"].as_str().unwrap().to_owned(),
            data["offset"].as_i64().unwrap(),
        )
    })
    .collect()
}

/// Every number went up once, at the time at which it was sent, and is in one summary.
#[track_caller]
fn assert_times(collector: &Collector, sent: &BTreeMap<u64, i64>) {
    let offsets = offsets(collector);
    let mut seen = BTreeMap::new();
    for item in collector.items("readings") {
        let number = item["value"].as_u64().unwrap();
        let time = true_time(&item, "time", &offsets);
        assert_eq!(seen.insert(number, time), None, "twice: {item}");
    }
    assert_eq!(
        seen.keys().collect::<Vec<_>>(),
        sent.keys().collect::<Vec<_>>()
    );
    let end = now_ms();
    for (number, time) in &seen {
        // Sent before it arrived; what a dead daemon missed arrives later. A millisecond for rounding.
        assert!(
            (sent[number] - 1..=end).contains(time),
            "{number}: sent {}, arrived {time}",
            sent[number]
        );
    }
    let sent = u64::try_from(sent.len()).unwrap();
    assert_eq!(
        collector.sum("summary", "count"),
        sent,
        "every reading in one window"
    );
    for summary in collector.items("summary") {
        let from = true_time(&summary, "from", &offsets);
        assert!(from > end - 600_000 && from < end, "{summary}");
    }
}

#[test]
fn readings_from_before_the_clock_was_set_are_corrected_once_through_kills() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker);
    let machine = Machine::new(&site);
    machine.set(IN_1970);
    let begin = now_ms();
    let mut daemon = machine.spawn(&config);
    assert_eq!(
        daemon.json("/api/v1/status")["gateway"]["clock_synced"],
        false
    );
    let mut sent = publish(broker.port, 0..400);
    daemon.kill();
    daemon = machine.spawn(&config);
    sent.extend(publish(broker.port, 400..700));
    daemon.wait_received("plant", 700);
    let conn = database(&site);
    let unset = count(&conn, "SELECT count(*) FROM unset");
    assert!(unset > 100, "{unset} blocks");
    assert_eq!(
        count(
            &conn,
            "SELECT max(to_time) / 1000000000 < 100000000 FROM history"
        ),
        1
    );

    // The clock is set, and the daemon dies while it corrects.
    machine.set(0);
    wait_for("the correction to begin", || {
        (count(&conn, "SELECT count(*) FROM unset") < unset).then_some(())
    });
    daemon.kill();
    let left = count(&conn, "SELECT count(*) FROM unset");
    println!("killed with {left} of {unset} blocks left");
    drop(conn);
    daemon = machine.spawn(&config);
    sent.extend(publish(broker.port, 700..800));
    wait_for("everything", || {
        (daemon.ledger()["pipelines"]["count"]["stored"].as_u64()? >= 800).then_some(())
    });
    wait_for("all windows", || {
        (collector.sum("summary", "count") >= 800).then_some(())
    });
    daemon.wait_delivered();

    let conn = database(&site);
    wait_for("the correction", || {
        (count(&conn, "SELECT count(*) FROM unset") == 0).then_some(())
    });
    assert_eq!(count(&conn, "SELECT sum(rows) FROM history"), 800);
    assert_eq!(
        count(&conn, "SELECT count(*) FROM history WHERE arrival IS NULL"),
        0
    );
    let (from, to) = (
        count(&conn, "SELECT min(from_time) / 1000000 FROM history"),
        count(&conn, "SELECT max(to_time) / 1000000 FROM history"),
    );
    assert!(begin <= from && to <= now_ms(), "{begin} {from} {to}");
    assert_times(&collector, &sent);
    collector.assert_dense();
    let gateway = daemon.json("/api/v1/status")["gateway"].clone();
    assert_eq!(gateway["clock_synced"], true);
    let step = gateway["clock_last_step"]["seconds"].as_f64().unwrap();
    assert!((step + IN_1970 as f64).abs() < 1.0, "{gateway}");
    assert_eq!(offsets(&collector).len(), 1, "one boot, set once");
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn steps_of_three_hours_under_load_lose_nothing_and_count_nothing_twice() {
    const HOURS: i64 = 3 * 3600;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker);
    let machine = Machine::new(&site);
    // Far enough ahead that three hours back is still after the build: what is before it is not believed.
    machine.set(2 * HOURS);
    let mut daemon = machine.spawn(&config);
    let port = broker.port;
    let load = thread::spawn(move || publish(port, 0..1_500));
    for offset in [3 * HOURS, 2 * HOURS, HOURS, 2 * HOURS] {
        machine.set_and_see(offset, &daemon);
    }
    let sent = load.join().unwrap();
    wait_for("everything", || {
        (daemon.ledger()["pipelines"]["count"]["stored"].as_u64()? >= 1_500).then_some(())
    });
    wait_for("all windows", || {
        (collector.sum("summary", "count") >= 1_500).then_some(())
    });
    daemon.wait_delivered();

    let mut numbers: Vec<u64> = collector
        .items("readings")
        .iter()
        .map(|item| item["value"].as_u64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, sent.keys().copied().collect::<Vec<_>>());
    let summaries = collector.items("summary");
    assert_eq!(collector.sum("summary", "count"), 1_500);
    let stepped = summaries
        .iter()
        .filter(|summary| summary["stepped"] == true);
    assert!(stepped.count() >= 4, "one for each step at least");
    assert!(summaries.iter().all(|summary| summary["mono"].is_null()));
    let steps: Vec<i64> = collector
        .items("event")
        .iter()
        .filter(|event| event["code"] == "clock-stepped")
        .map(|event| event["data"]["step"].as_i64().unwrap())
        .collect();
    let hours: Vec<i64> = steps
        .iter()
        .map(|step| (step + step.signum() * 500) / 1000)
        .collect();
    assert_eq!(hours, [HOURS, -HOURS, -HOURS, HOURS]);
    let gateway = daemon.json("/api/v1/status")["gateway"].clone();
    assert_eq!(
        (&gateway["clock_steps"], &gateway["clock_synced"]),
        (&4.into(), &true.into())
    );
    collector.assert_dense();
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}
