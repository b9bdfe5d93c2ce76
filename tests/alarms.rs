//! The life of alarms on the real binary: silent series, floods, acknowledgements, and kills between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use support::{Broker, Collector, Daemon, Publisher, Site, configuration, run, verify, wait_for};

const WATCH: &str = "[pipeline.watch]\nfrom = [\"plant\"]\n\
     filters = [{ module = \"anomaly\", settings = { rate = 500, zscore = 0 } }]\n\
     summary = { window = \"60s\" }\nto = [{ uplink = \"cloud\", send = \"summary\" }]\n";

/// `series code state` of every alarm item.
fn told(collector: &Collector) -> Vec<String> {
    let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    let words = |item: &Value| {
        let (series, code, state) = (
            text(item, "series"),
            text(item, "code"),
            text(item, "state"),
        );
        format!("{series} {code} {state}")
    };
    collector.items("alarm").iter().map(words).collect()
}

#[test]
fn a_series_that_falls_silent_is_an_alarm_once_through_kills_until_it_is_heard() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, WATCH);
    site.write(
        "conf.d/stale.toml",
        "[source.plant]\nstale-after = \"2s\"\nstale-alarm = \"warning\"\n",
    );
    let mut daemon = Daemon::start(&config);
    // One that is heard all the time, and one that is heard once.
    let stop = Arc::new(AtomicBool::new(false));
    let live = std::thread::spawn({
        let (stop, port) = (Arc::clone(&stop), broker.port);
        move || {
            let mut publisher = Publisher::start(port, "plant/live", &[]);
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                publisher.line(&format!("{{\"ts\":{},\"v\":1}}", support::BEGIN + n));
                n += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            publisher.finish();
        }
    });
    let once = format!("{{\"ts\":{},\"v\":1}}", support::BEGIN);
    broker.publish("plant/once", [&once]);
    wait_for("the alarm", || (!told(&collector).is_empty()).then_some(()));
    assert_eq!(told(&collector), ["plant/once/v stale raised"]);
    let item = &collector.items("alarm")[0];
    assert_eq!(
        (&item["source"], &item["severity"]),
        (&"plant".into(), &"warning".into())
    );
    let stale = daemon.json("/api/v1/alarms/stale");
    assert_eq!(stale["items"][0]["series"], "plant/once/v");
    let (code, page) = daemon.get("/").unwrap();
    assert!(code == 200 && page.contains("Silent series") && page.contains("plant/once/v"));

    // Neither is it raised again after a kill, nor is it forgotten; and what is heard is not stale for having missed a while.
    for _ in 0..2 {
        daemon.kill();
        std::thread::sleep(Duration::from_millis(500));
        daemon = Daemon::start(&config);
        let active = daemon.json("/api/v1/alarms");
        assert_eq!(active["items"][0]["series"], "plant/once/v");
        assert_eq!(active["items"][0]["code"], "stale");
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.json("/api/v1/status")["alarms"]["stale"], 1);
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(metrics.contains("tidegate_series_stale 1\n"), "{metrics}");
    broker.publish("plant/once", [&once]);
    wait_for("its end", || (told(&collector).len() > 1).then_some(()));
    stop.store(true, Ordering::Relaxed);
    live.join().unwrap();
    assert_eq!(
        told(&collector),
        ["plant/once/v stale raised", "plant/once/v stale cleared"]
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn an_operator_acknowledges_an_alarm_and_it_stays_so_until_it_is_cleared() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, WATCH);
    let path = config.to_str().unwrap();
    let mut daemon = Daemon::start(&config);
    let value = |n: u64| if n < 20 { 10 + n % 3 } else { 9_000 };
    let line = |n: u64| {
        format!(
            "{{\"ts\":{},\"v\":{}}}",
            support::BEGIN + n * 1000,
            value(n)
        )
    };
    broker.publish("plant/press", (0..21).map(line));
    wait_for("the alarm", || (!told(&collector).is_empty()).then_some(()));
    let acknowledge = |series: &str| {
        run(&[
            "alarm",
            "acknowledge",
            series,
            "--by",
            "Anna",
            "--config",
            path,
        ])
    };
    let nothing = acknowledge("nothing/*");
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("no alarm that is raised"));
    assert!(acknowledge("plant/**").status.success());
    wait_for("the acknowledgement", || {
        (told(&collector).len() > 1).then_some(())
    });
    daemon.kill();
    let stopped = acknowledge("plant/**");
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("the gateway does not run"));
    daemon = Daemon::start(&config);
    let alarm = daemon.json("/api/v1/alarms")["items"][0].clone();
    assert_eq!(
        (&alarm["state"], &alarm["acknowledged_by"]),
        (&"acknowledged".into(), &"Anna".into())
    );
    assert!(daemon.get("/").unwrap().1.contains("acknowledged by Anna"));
    broker.publish("plant/press", (21..60).map(line));
    wait_for("its end", || (told(&collector).len() > 2).then_some(()));
    let states: Vec<Value> = collector
        .items("alarm")
        .iter()
        .map(|item| item["state"].clone())
        .collect();
    assert_eq!(states, ["raised", "acknowledged", "cleared"]);
    daemon.wait_delivered();
    let events = collector.items("event");
    assert!(
        events
            .iter()
            .any(|event| event["code"] == "alarms-acknowledged")
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn a_flood_is_told_at_its_begin_and_counted_through_a_kill() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, WATCH);
    site.write(
        "conf.d/alarms.toml",
        "[alarms]\nfilter-changes-per-minute = 3\n",
    );
    let mut daemon = Daemon::start(&config);
    // Eight series, each with one jump.
    let value = |n: u64| if n < 20 { 10 + n % 3 } else { 9_000 };
    let line = |n: u64| {
        format!(
            "{{\"ts\":{},\"v\":{}}}",
            support::BEGIN + n * 1000,
            value(n)
        )
    };
    for series in 0..8 {
        broker.publish(&format!("plant/press{series}"), (0..21).map(line));
    }
    wait_for("all alarms", || {
        (daemon.json("/api/v1/status")["alarms"]["active"] == 8).then_some(())
    });
    daemon.kill();
    daemon = Daemon::start(&config);
    let alarms = daemon.json("/api/v1/status")["alarms"].clone();
    assert_eq!(
        (&alarms["active"], &alarms["floods"]),
        (&8.into(), &1.into()),
        "{alarms}"
    );
    assert_eq!(alarms["suppressed"], 5, "{alarms}");
    wait_for("what was told", || {
        let begun = collector
            .items("event")
            .iter()
            .any(|e| e["data"]["flood"] == "begin");
        (begun && told(&collector).len() == 3).then_some(())
    });
    let output = run(&[
        "alarm",
        "list",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ]);
    assert!(output.status.success());
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["alarms"].as_array().unwrap().len(), 8);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}
