//! Sources that give their messages an identity: whatever the broker or the sensor sends again counts once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::path::Path;
use std::thread;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::v5::{Client, Event, Incoming, MqttOptions};
use serde_json::Value;

use support::{
    Broker, Collector, Daemon, Publisher, Site, assert_numbers, assert_summaries, configuration,
    numbered, verify, wait_for,
};

const PIPELINE: &str = "
[pipeline.count]
from = [\"plant\"]
summary = { window = \"1s\" }
to = [{ uplink = \"cloud\", send = \"both\" }]
";

/// Kills the daemon while `load` publishes the numbers `0..count` to `plant/line1`.
fn kill_under_load(config: &Path, count: u64, load: impl FnOnce() + Send + 'static) -> Daemon {
    const KILLS: u64 = 5;
    let mut daemon = Daemon::start(config);
    let load = thread::spawn(load);
    for n in 1..=KILLS {
        let target = count / (KILLS + 2) * n;
        wait_for("progress", || {
            let ledger: Value = serde_json::from_str(&daemon.get("/api/v1/ledger")?.1).ok()?;
            (ledger["pipelines"]["count"]["stored"].as_u64()? >= target).then_some(())
        });
        daemon.kill();
        daemon = Daemon::start(config);
    }
    load.join().unwrap();
    daemon
}

/// Every number is in history once, went up once, and is in one summary; what came twice is counted as such.
fn assert_exactly_once(
    daemon: &mut Daemon,
    collector: &Collector,
    config: &Path,
    count: u64,
    again: u64,
) {
    wait_for("every message, and those sent again", || {
        let ledger = daemon.ledger();
        let stored = ledger["pipelines"]["count"]["stored"].as_u64()?;
        let dropped = ledger["sources"]["plant"]["dropped"]["duplicate"].as_u64();
        (stored >= count && dropped.unwrap_or(0) >= again).then_some(())
    });
    wait_for("all windows", || {
        (collector.sum("summary", "count") >= count).then_some(())
    });
    daemon.wait_delivered();
    let ledger = daemon.ledger();
    let (source, pipeline) = (&ledger["sources"]["plant"], &ledger["pipelines"]["count"]);
    assert_eq!(
        (&pipeline["stored"], &pipeline["held"]),
        (&count.into(), &count.into()),
        "{ledger}"
    );
    assert_eq!(source["unidentified"], 0, "{source}");
    assert_eq!(
        source["received"].as_u64().unwrap(),
        count + source["dropped"]["duplicate"].as_u64().unwrap(),
        "{source}"
    );
    let readings = collector.items("readings");
    assert_eq!(
        assert_numbers(&readings, count),
        0,
        "readings that came twice"
    );
    assert_summaries(&collector.items("summary"), &readings, 1_000);
    collector.assert_dense();
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_field_makes_every_message_count_once_through_kills_on_3_1_1() {
    const COUNT: u64 = 6_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    site.write(
        "conf.d/identity.toml",
        "[source.plant]\nidentity = { field = \"n\" }\n",
    );
    let port = broker.port;
    let mut daemon = kill_under_load(&config, COUNT, move || {
        let mut publisher = Publisher::start(port, "plant/line1", &[]);
        for n in 0..COUNT {
            publisher.line(&numbered(n));
            if n % 100 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        publisher.finish();
    });
    // A sensor that did not see its acknowledgements.
    broker.publish("plant/line1", (0..200).map(numbered));
    assert_exactly_once(&mut daemon, &collector, &config, COUNT, 200);
}

#[test]
fn a_property_makes_every_message_count_once_through_kills_on_5() {
    const COUNT: u64 = 6_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    site.write(
        "conf.d/identity.toml",
        "[source.plant]\nversion = \"5\"\nidentity = { property = \"message-id\" }\n",
    );
    let port = broker.port;
    let mut daemon = kill_under_load(&config, COUNT, move || {
        publish_with_property(port, (0..COUNT).chain(COUNT - 100..COUNT));
    });
    assert_exactly_once(&mut daemon, &collector, &config, COUNT, 100);
}

/// Publishes numbered messages with their number as the user property `message-id`.
fn publish_with_property(port: u16, numbers: impl Iterator<Item = u64> + Send + 'static) {
    let mut options = MqttOptions::new("sensor", "127.0.0.1", port);
    options.set_outgoing_inflight_upper_limit(100);
    let (client, mut connection) = Client::new(options, 100);
    let sender = thread::spawn(move || {
        let mut sent = 0u64;
        for n in numbers {
            let properties = PublishProperties {
                user_properties: vec![("message-id".to_owned(), n.to_string())],
                ..PublishProperties::default()
            };
            client
                .publish_with_properties(
                    "plant/line1",
                    QoS::AtLeastOnce,
                    false,
                    numbered(n),
                    properties,
                )
                .unwrap();
            sent += 1;
            if n % 100 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        (client, sent)
    });
    let mut acknowledged = 0;
    let mut sender = Some(sender);
    let mut expected = None;
    for event in connection.iter() {
        if let Ok(Event::Incoming(Incoming::PubAck(_))) = event {
            acknowledged += 1;
        }
        event.unwrap();
        if let Some(done) = sender.take_if(|sender| sender.is_finished()) {
            expected = Some(done.join().unwrap());
        }
        if expected
            .as_ref()
            .is_some_and(|(_, sent)| acknowledged >= *sent)
        {
            break;
        }
    }
}

#[test]
fn messages_without_an_identity_are_processed_and_counted() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    site.write(
        "conf.d/identity.toml",
        "[source.plant]\nidentity = { field = \"id\" }\n",
    );
    let mut daemon = Daemon::start(&config);
    let named = |n: u64| format!("{{\"ts\":1766000040000,\"n\":{n},\"id\":\"m-{n}\"}}");
    broker.publish(
        "plant/line1",
        [named(1), numbered(2), named(1), numbered(2), named(3)],
    );
    // The topic belongs to the identity.
    broker.publish("plant/line2", [named(1)]);
    daemon.wait_received("plant", 6);
    let source = daemon.ledger()["sources"]["plant"].clone();
    assert_eq!(
        (
            &source["decoded"],
            &source["unidentified"],
            &source["dropped"]["duplicate"]
        ),
        (&5.into(), &2.into(), &1.into()),
        "{source}"
    );
    // Identities outlive the process, in an orderly stop as well.
    assert_eq!(daemon.stop(), 0);
    daemon = Daemon::start(&config);
    broker.publish("plant/line1", [named(3), named(4)]);
    daemon.wait_received("plant", 8);
    let source = daemon.ledger()["sources"]["plant"].clone();
    assert_eq!(source["dropped"]["duplicate"], 2, "{source}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}
