//! The bad line: what stands between the daemon and the cloud delays, swallows and resets, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::proxy::{Line, Proxy};
use support::{Broker, Collector, Daemon, Site, assert_numbers, numbered, verify, wait_for};

/// A source at one broker, whatever `rest` says of uplinks, and a pipeline of plain readings to `cloud`.
fn gateway(site: &Site, plant: &Broker, rest: &str) -> PathBuf {
    let text = format!(
        "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n\
         [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n\
         decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n{rest}",
        state = site.path("state").display(),
        url = plant.url(),
    );
    site.write("tidegate.toml", &text)
}

/// The member of an uplink in `/api/v1/uplinks`.
fn uplink(daemon: &Daemon, name: &str, member: &str) -> Value {
    let uplinks = daemon.json("/api/v1/uplinks");
    let uplinks = uplinks["items"].as_array().unwrap();
    let found = uplinks.iter().find(|uplink| uplink["name"] == name);
    found.unwrap()[member].clone()
}

/// Point 4 of the bad line: the broker's side of the connection is gone without a word, and there is data in flight.
#[test]
fn a_half_open_connection_is_noticed_and_nothing_is_lost() {
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let proxy = Proxy::start(cloud.port);
    let config = gateway(
        &site,
        &plant,
        &format!(
            "[uplink.cloud]\nkind = \"mqtt\"\nurl = \"{}\"\nkeep-alive = \"5s\"\nlinger = \"0s\"\n\
             [pipeline.count]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            proxy.url()
        ),
    );
    let mut daemon = Daemon::start(&config);
    plant.publish("plant/line1", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    daemon.wait_delivered();
    assert_eq!(proxy.accepted(), 1);

    proxy.set(Line::BlackHole);
    plant.publish("plant/line1", (100..200).map(numbered));
    daemon.wait_received("plant", 200);
    wait_for("a new attempt", || (proxy.accepted() > 1).then_some(()));
    // By the ping that nobody answered, or by the messages that nobody acknowledged: either takes two keep-alives.
    let error = uplink(&daemon, "cloud", "last_error");
    let error = error.as_str().unwrap();
    assert!(
        error.contains("did not answer a ping within 5s") || error.contains("none came for 10s"),
        "{error}"
    );
    proxy.set(Line::Good);
    proxy.reset();
    daemon.wait_delivered();
    assert_numbers(&collector.items("readings"), 200);
    collector.assert_dense();
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

/// A backlog that a slow line needs half a minute for, and a reading of now: it shares the line instead of waiting.
#[test]
fn new_data_does_not_wait_behind_a_backlog() {
    const OLD: u64 = 3_000;
    let (place, mut daemon) = with_backlog(OLD, 20);
    // What was sealed before the start is backlog, however young.
    assert_eq!(daemon.stop(), 0);

    place.proxy.set(Line::Dribble(8 * 1024));
    let mut daemon = Daemon::start(&place.config);
    wait_for("the backlog to begin", || {
        (!place.collector.messages().is_empty()).then_some(())
    });
    place
        .plant
        .publish("plant/line1", (OLD..OLD + 10).map(numbered));
    let new = |message: &Value| {
        let mut items = message["items"].as_array().unwrap().iter();
        items.any(|item| item["value"].as_u64().unwrap() >= OLD)
    };
    wait_for("the new readings", || {
        place.collector.messages().iter().any(new).then_some(())
    });
    place.proxy.set(Line::Good);
    daemon.wait_delivered();
    let messages = place.collector.messages();
    let first = messages.iter().position(new).unwrap();
    assert!(
        first < messages.len() / 2,
        "{first} of {} messages came before it",
        messages.len()
    );
    assert_eq!(messages[first]["replayed"], false);
    assert_eq!(messages[0]["replayed"], true);
    assert_numbers(&place.collector.items("readings"), OLD + 10);
    place.collector.assert_dense();
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&place.config).0, 0);
}

/// A fast line answers thousands of messages before the store records the first answer: none of them leaves a second time
/// meanwhile.
#[test]
fn a_backlog_goes_up_once_over_a_good_line() {
    const OLD: u64 = 6_000;
    let (place, mut daemon) = with_backlog(OLD, 1);
    place.proxy.set(Line::Good);
    daemon.wait_delivered();
    assert_eq!(place.collector.messages().len() as u64, OLD);
    assert_numbers(&place.collector.items("readings"), OLD);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&place.config).0, 0);
}

/// A plant and a cloud, and between gateway and cloud a line that can be bad.
struct Place {
    plant: Broker,
    _cloud: Broker,
    collector: Collector,
    proxy: Proxy,
    config: PathBuf,
    /// Goes last.
    _site: Site,
}

/// A gateway with so many readings that the cloud has not got yet, for the line refuses; each message takes so many of them.
fn with_backlog(readings: u64, max_items: u32) -> (Place, Daemon) {
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let proxy = Proxy::start(cloud.port);
    let config = gateway(&site, &plant, &sending_readings(&proxy, max_items, ""));
    proxy.set(Line::Refuse);
    let daemon = Daemon::start(&config);
    plant.publish("plant/line1", (0..readings).map(numbered));
    daemon.wait_received("plant", readings);
    let place = Place {
        plant,
        _cloud: cloud,
        collector,
        proxy,
        config,
        _site: site,
    };
    (place, daemon)
}

/// A pipeline whose readings go up over the proxy at once; `more` of the uplink.
fn sending_readings(proxy: &Proxy, max_items: u32, more: &str) -> String {
    format!(
        "[uplink.cloud]\nkind = \"mqtt\"\nurl = \"{}\"\nlinger = \"0s\"\nmax-items = {max_items}\n{more}\
         [pipeline.count]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
        proxy.url()
    )
}

/// What leaves is counted behind the daemon, on the wire.
#[test]
fn a_cap_on_bytes_is_kept_on_the_wire() {
    const RATE: u64 = 16 * 1024;
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let cloud = Broker::start(&site, "cloud");
    let proxy = Proxy::start(cloud.port);
    let cap = "rate-limit = \"16KiB\"\n";
    let config = gateway(&site, &plant, &sending_readings(&proxy, 10, cap));
    let mut daemon = Daemon::start(&config);
    // Four seconds' worth and more.
    plant.publish("plant/line1", (0..2_000).map(numbered));
    daemon.wait_received("plant", 2_000);
    let (begin, before) = (Instant::now(), proxy.carried_up());
    wait_for("two seconds' worth", || {
        let sent = proxy.carried_up() - before;
        let millis = u64::try_from(begin.elapsed().as_millis()).unwrap();
        // A second's worth at once, one message, and what was between two looks.
        let most = RATE * millis / 1000 + RATE + 4 * 1024;
        assert!(sent <= most, "{sent} bytes in {millis} ms");
        (sent >= 2 * RATE).then_some(())
    });
    assert!(uplink(&daemon, "cloud", "waiting").as_u64().unwrap() > 0);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// One uplink leads into a black hole, one to a port that is closed, one to a broker.
#[test]
fn a_dead_uplink_and_a_refused_one_hold_up_none() {
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let hole = Proxy::start(cloud.port);
    hole.set(Line::BlackHole);
    let closed = support::free_port();
    let uplink_to = |name: &str, url: &str| {
        format!(
            "[uplink.{name}]\nkind = \"mqtt\"\nurl = \"{url}\"\nkeep-alive = \"5s\"\nlinger = \"0s\"\n"
        )
    };
    let config = gateway(
        &site,
        &plant,
        &[
            uplink_to("dead", &hole.url()),
            uplink_to("refused", &format!("mqtt://127.0.0.1:{closed}")),
            uplink_to("cloud", &cloud.url()),
            "[pipeline.count]\nfrom = [\"plant\"]\nto = [\n\
             { uplink = \"dead\", send = \"readings\" },\n{ uplink = \"refused\", send = \"readings\" },\n\
             { uplink = \"cloud\", send = \"readings\" },\n]\n"
                .to_owned(),
        ]
        .concat(),
    );
    let mut daemon = Daemon::start(&config);
    plant.publish("plant/line1", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    let threads = status_of(&daemon, "Threads:");
    // The dead one is in the middle of an attempt for ten seconds; the other one opens and closes its circuit.
    wait_for("an open circuit", || {
        let open = uplink(&daemon, "refused", "circuit") == "open";
        let next = uplink(&daemon, "refused", "backing_off_until");
        (open && next.is_i64()).then_some(())
    });
    assert_eq!(uplink(&daemon, "dead", "circuit"), "half-open");
    for n in 1..=5 {
        plant.publish("plant/line1", (n * 100..(n + 1) * 100).map(numbered));
        wait_for("the healthy uplink", || {
            let delivered = uplink(&daemon, "cloud", "delivered").as_u64()?;
            (delivered >= (n + 1) * 100).then_some(())
        });
    }
    assert_eq!(uplink(&daemon, "cloud", "circuit"), "closed");
    assert_eq!(uplink(&daemon, "dead", "waiting"), 600);
    assert_eq!(uplink(&daemon, "refused", "waiting"), 600);
    assert_numbers(&collector.items("readings"), 600);
    wait_for("the dead uplink's back-off", || {
        (uplink(&daemon, "dead", "circuit") == "open").then_some(())
    });
    let (threads_now, kib) = (status_of(&daemon, "Threads:"), status_of(&daemon, "VmRSS:"));
    assert!(
        threads_now <= threads + 4,
        "{threads} threads became {threads_now}"
    );
    assert!(kib < 200 * 1024, "{kib} KiB resident");
    let metrics = daemon.get("/metrics").unwrap().1;
    let closed = r#"tidegate_uplink_circuit{uplink="cloud",circuit="closed"} 1"#;
    assert!(metrics.contains(closed), "{metrics}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// A line of `/proc/PID/status`.
fn status_of(daemon: &Daemon, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The first broker goes away and comes back: what is sealed meanwhile is at the second, in the same stream.
#[test]
fn another_broker_takes_over_and_gives_back() {
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let mut first = Broker::start(&site, "first");
    let second = Broker::start(&site, "second");
    let at_first = Collector::start(first.port, "tidegate/#");
    let at_second = Collector::start(second.port, "tidegate/#");
    let config = gateway(
        &site,
        &plant,
        &format!(
            "[uplink.cloud]\nkind = \"mqtt\"\nurl = \"{}\"\nfailover = [\"{}\"]\nfailback = \"5s\"\n\
             keep-alive = \"5s\"\nlinger = \"0s\"\n\
             [pipeline.count]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            first.url(),
            second.url()
        ),
    );
    let mut daemon = Daemon::start(&config);
    plant.publish("plant/line1", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    daemon.wait_delivered();
    assert_eq!(uplink(&daemon, "cloud", "url"), first.url());

    first.stop();
    plant.publish("plant/line1", (100..200).map(numbered));
    daemon.wait_received("plant", 200);
    daemon.wait_delivered();
    assert_eq!(uplink(&daemon, "cloud", "url"), second.url());
    assert_eq!(uplink(&daemon, "cloud", "failover"), true);
    assert!(
        daemon
            .get("/")
            .unwrap()
            .1
            .contains("in place of the first broker")
    );

    first.resume();
    wait_for("the way back", || {
        let back = uplink(&daemon, "cloud", "failover") == false;
        (back && uplink(&daemon, "cloud", "circuit") == "closed").then_some(())
    });
    assert_eq!(uplink(&daemon, "cloud", "failovers"), 2);
    plant.publish("plant/line1", (200..300).map(numbered));
    daemon.wait_received("plant", 300);
    daemon.wait_delivered();
    wait_for("the last readings", || {
        let first = at_first.items("readings").len();
        (first + at_second.items("readings").len() >= 300).then_some(())
    });
    let mut items = at_first.items("readings");
    items.extend(at_second.items("readings"));
    assert_numbers(&items, 300);
    let mut seqs = BTreeSet::new();
    let mut streams = BTreeSet::new();
    for message in at_first.messages().iter().chain(&at_second.messages()) {
        seqs.insert(message["seq"].as_u64().unwrap());
        streams.insert(message["stream"].as_str().unwrap().to_owned());
    }
    assert_eq!(streams.len(), 1);
    assert_eq!(seqs, (1..=seqs.len() as u64).collect(), "dense over both");
    let said = |broker: &Broker| {
        let port = broker.port.to_string();
        let output = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-C", "1"])
            .args(["-t", "tidegate/gw-test/status"])
            .output();
        let status: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        status["state"].clone()
    };
    assert_eq!(
        (said(&first), said(&second)),
        ("online".into(), "offline".into())
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// What other programs make of the bytes: Debian's `zstd`, and a CBOR reader that is not ours.
#[test]
fn other_programs_read_cbor_and_zstandard() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = gateway(
        &site,
        &broker,
        &format!(
            "[uplink.cloud]\nkind = \"mqtt\"\nurl = \"{}\"\nformat = \"cbor\"\ncompress = \"zstd\"\nmax-items = 3\n\
             linger = \"10m\"\n\
             [pipeline.count]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            broker.url()
        ),
    );
    let port = broker.port.to_string();
    let subscriber = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "1",
            "-V",
            "5",
            "-C",
            "1",
        ])
        .args([
            "-t",
            "tidegate/+/readings",
            "-F",
            "%C %x",
            "-c",
            "-i",
            "reader",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut daemon = Daemon::start(&config);
    let values = ["9007199254740993", "-9223372036854775808", "21.6"];
    broker.publish(
        "plant/line1",
        values.map(|value| format!("{{\"ts\":{},\"n\":{value}}}", support::BEGIN)),
    );
    daemon.wait_delivered();
    let output = subscriber.wait_with_output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let (content_type, hex) = line.trim().split_once(' ').unwrap();
    assert_eq!(content_type, "application/cbor+zstd");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let payload: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();

    let mut zstd = Command::new("zstd")
        .args(["-dc", "-M128KiB"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd is installed by `make tools`");
    zstd.stdin.take().unwrap().write_all(&payload).unwrap();
    let output = zstd.wait_with_output().unwrap();
    assert!(output.status.success(), "a window of 128 KiB suffices");
    let message: ciborium::Value = ciborium::from_reader(output.stdout.as_slice()).unwrap();
    let member = |value: &ciborium::Value, key: &str| {
        let members = value.as_map().unwrap();
        let found = members.iter().find(|(name, _)| name.as_text() == Some(key));
        found.unwrap().1.clone()
    };
    assert_eq!(member(&message, "seq"), 1.into());
    let items = member(&message, "items");
    let found: Vec<ciborium::Value> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| member(item, "value"))
        .collect();
    let expect = [
        9_007_199_254_740_993_i64.into(),
        i64::MIN.into(),
        ciborium::Value::Float(21.6),
    ];
    assert_eq!(found, expect);
    assert_eq!(daemon.stop(), 0);
}
