//! The main job on Debian's mosquitto: everything that was acknowledged arrives, once or more, nothing else does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use serde_json::Value;

use support::{
    Broker, Collector, Daemon, Publisher, Site, assert_numbers, assert_summaries, configuration,
    numbered, verify, wait_for,
};

const PIPELINE: &str = "
[pipeline.count]
from = [\"plant\"]
filters = [{ module = \"range\", settings = { min = 0, max = 1000000 } }]
summary = { window = \"1s\" }
to = [{ uplink = \"cloud\", send = \"both\" }]
";

#[test]
fn numbered_messages_all_arrive_and_windows_add_up() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);

    broker.publish("plant/line1", (0..5_000).map(numbered));
    // A sensor that measures now, beside the numbers that claim to be of last year.
    let mut live = Publisher::start(broker.port, "plant/live", &[]);
    for n in 0..40 {
        live.line(&format!("{{\"ts\":{},\"m\":{n}}}", now_millis()));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    live.finish();
    daemon.wait_received("plant", 5_040);
    wait_for("all windows", || {
        (window_count(&collector) >= 5_040).then_some(())
    });
    // Two more of windows that are closed go up as supplements.
    broker.publish("plant/line1", [numbered(5_000), numbered(7)]);
    wait_for("the supplements", || {
        (window_count(&collector) >= 5_042).then_some(())
    });
    daemon.wait_delivered();

    let (live, readings): (Vec<Value>, Vec<Value>) = collector
        .items("readings")
        .into_iter()
        .partition(|item| item["series"] == "plant/live/m");
    assert_eq!(live.len(), 40);
    assert_eq!(assert_numbers(&readings, 5_001), 1, "7 was sent twice");
    let summaries = collector.items("summary");
    assert_summaries(&summaries, &collector.items("readings"), 1_000);
    let late = |summary: &&Value| summary["late"] == true;
    assert!(
        summaries
            .iter()
            .filter(|summary| summary["series"] == "plant/live/m")
            .all(|summary| !late(&summary))
    );
    assert!(
        summaries
            .iter()
            .filter(|summary| summary["series"] == "plant/line1/n")
            .all(|summary| late(&summary))
    );
    collector.assert_dense();
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["sources"]["plant"]["received"], 5_042);
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn ten_kills_under_load_lose_nothing() {
    const COUNT: u64 = 20_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);
    let publisher = std::thread::spawn({
        let port = broker.port;
        move || {
            let mut publisher = Publisher::start(port, "plant/line1", &[]);
            for n in 0..COUNT {
                publisher.line(&numbered(n));
                if n % 100 == 0 {
                    // Keeps the load up over all ten kills instead of letting the broker's queue take it at once.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
            publisher.finish();
        }
    });
    for n in 1..=10 {
        let target = COUNT / 12 * n;
        wait_for("progress", || {
            let ledger = daemon.get("/api/v1/ledger")?.1;
            let ledger: serde_json::Value = serde_json::from_str(&ledger).ok()?;
            (ledger["sources"]["plant"]["decoded"].as_u64()? >= target).then_some(())
        });
        daemon.kill();
        daemon = Daemon::spawn(&config, &[]);
        daemon.wait_ready();
    }
    publisher.join().unwrap();
    daemon.wait_received("plant", COUNT);
    wait_for("all windows", || {
        let readings = daemon.ledger()["pipelines"]["count"]["stored"]
            .as_u64()
            .unwrap();
        (window_count(&collector) >= readings).then_some(())
    });
    daemon.wait_delivered();

    let readings = collector.items("readings");
    let twice = assert_numbers(&readings, COUNT);
    let redelivered = daemon.ledger()["sources"]["plant"]["redelivered"]
        .as_u64()
        .unwrap();
    assert!(
        twice <= redelivered,
        "{twice} readings came twice, and the broker sent {redelivered} messages again"
    );
    assert_summaries(&collector.items("summary"), &readings, 1_000);
    collector.assert_dense();
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn restarts_of_the_broker_lose_nothing() {
    const COUNT: u64 = 6_000;
    let site = Site::new();
    let mut broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);
    for n in 0..3 {
        broker.publish(
            "plant/line1",
            (n * COUNT / 3..(n + 1) * COUNT / 3).map(numbered),
        );
        // Whatever is on its way in either direction is cut off.
        broker.stop();
        broker.resume();
    }
    daemon.wait_received("plant", COUNT);
    wait_for("all windows", || {
        (window_count(&collector) >= COUNT).then_some(())
    });
    daemon.wait_delivered();

    let readings = collector.items("readings");
    assert_numbers(&readings, COUNT);
    assert_summaries(&collector.items("summary"), &readings, 1_000);
    collector.assert_dense();
    assert!(
        collector.items("gap").is_empty(),
        "the broker kept our session"
    );
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn an_alarm_is_raised_once_and_cleared_and_survives_a_kill() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(
        &site,
        &broker,
        "[pipeline.watch]\nfrom = [\"plant\"]\n\
         filters = [{ module = \"anomaly\", settings = { rate = 500, zscore = 0 } }]\n\
         summary = { window = \"60s\" }\nto = [{ uplink = \"cloud\", send = \"summary\" }]\n",
    );
    let at = |n: u64, value: u64| format!("{{\"ts\":{},\"v\":{value}}}", support::BEGIN + n * 1000);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/press", (0..50).map(|n| at(n, 10 + n % 3)));
    broker.publish("plant/press", [at(50, 5_000)]);
    let raised = wait_for("the alarm", || collector.items("alarm").into_iter().next());
    assert_eq!(
        (&raised["state"], &raised["series"]),
        (&"raised".into(), &"plant/press/v".into()),
        "{raised}"
    );
    assert_eq!(raised["value"], 5_000.0, "{raised}");
    assert!(raised["generation"].is_string(), "{raised}");

    // The filter's state says that it is raised, on the far side of a kill as well: it is cleared, not raised again.
    daemon.kill();
    daemon = Daemon::start(&config);
    broker.publish("plant/press", (51..70).map(|n| at(n, 5_000)));
    wait_for("the end of the alarm", || {
        (collector.items("alarm").len() > 1).then_some(())
    });
    daemon.wait_delivered();
    let states: Vec<Value> = collector
        .items("alarm")
        .iter()
        .map(|alarm| alarm["state"].clone())
        .collect();
    assert_eq!(states, ["raised", "cleared"]);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn version_5_does_the_same_job() {
    const COUNT: u64 = 5_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, PIPELINE);
    site.write(
        "conf.d/version.toml",
        "[source.plant]\nversion = \"5\"\n[uplink.cloud]\nversion = \"5\"\n",
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT);
    wait_for("all windows", || {
        (window_count(&collector) >= COUNT).then_some(())
    });
    daemon.wait_delivered();
    assert_eq!(assert_numbers(&collector.items("readings"), COUNT), 0);
    collector.assert_dense();
    assert_eq!(
        daemon.json("/api/v1/status")["sources"][0]["receive_window"],
        1024
    );
    assert_eq!(daemon.stop(), 0);
}

fn now_millis() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

/// Readings in all summaries so far.
fn window_count(collector: &Collector) -> u64 {
    collector.sum("summary", "count")
}
