//! The bad line: what stands between the daemon and the cloud delays, swallows and resets, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::path::PathBuf;

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
        error.contains("pingreq isn't acked") || error.contains("none came for 10s"),
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
