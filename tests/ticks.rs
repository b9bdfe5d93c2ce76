//! Filters that act as time passes, on the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use std::time::Duration;

use serde_json::Value;

use support::{
    BEGIN, Broker, Collector, Daemon, Site, components, configuration, run, run_refused, verify,
    wait_for,
};

const WATCH: &str = "[pipeline.watch]\nfrom = [\"plant\"]\nkeep-input = \"1h\"\n\
     filters = [{ module = \"range\", settings = { max = 100, action = \"drop\" } },\n\
     { module = \"silence\", settings = { after = 2, severity = \"critical\" }, tick = \"1s\" }]\n\
     to = [{ uplink = \"cloud\", send = \"readings\" }]\n";

/// `series state` of every alarm `silent`.
fn told(collector: &Collector) -> Vec<String> {
    let alarms = collector.items("alarm").into_iter();
    let silent = alarms.filter(|item| item["code"] == "silent");
    let words = silent.map(|item| {
        let text = |key: &str| item[key].as_str().unwrap().to_owned();
        format!("{} {}", text("series"), text("state"))
    });
    words.collect()
}

fn line(n: u64, value: u64) -> String {
    format!("{{\"ts\":{},\"v\":{value}}}", BEGIN + n)
}

/// Rubbish that the filter before takes out is no reading. Nothing arrives when the alarm is due.
#[test]
fn a_series_of_which_nothing_sound_comes_is_an_alarm_once_through_kills_until_it_is_heard() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, WATCH);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/a", [line(0, 1)]);
    broker.publish("plant/a", [line(1, 1000)]);
    daemon.wait_received("plant", 2);
    wait_for("the alarm", || (!told(&collector).is_empty()).then_some(()));
    let alarm = &collector.items("alarm")[0];
    assert_eq!(alarm["severity"], "critical", "{alarm}");
    assert_eq!(alarm["text"], "no reading for 2 s");
    daemon.wait_delivered();
    let gaps = |collector: &Collector| {
        let readings = collector.items("readings").into_iter();
        readings
            .filter(|item| item["value"].is_null() && item["quality"] == "bad")
            .count()
    };
    wait_for("the reading without value", || {
        (gaps(&collector) == 1).then_some(())
    });
    let pipeline = daemon.ledger()["pipelines"]["watch"].clone();
    assert_eq!(
        (
            &pipeline["derived"],
            &pipeline["filtered"],
            &pipeline["stored"]
        ),
        (&1.into(), &1.into(), &2.into()),
        "{pipeline}"
    );

    // Page, API and metrics count its ticks, and say of none that it failed.
    let counts = filter(&daemon, "silence")["ticks"].clone();
    assert!(counts["called"].as_u64() > Some(1), "{counts}");
    assert_eq!(
        (&counts["failed"], &counts["derived"]),
        (&0.into(), &1.into())
    );
    assert_eq!(filter(&daemon, "range")["ticks"], Value::Null);
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let of = |family: &str, filter: &str| {
        let labels = format!("{{pipeline=\"watch\",filter=\"{filter}\"}} ");
        let start = format!("tidegate_filter_{family}_total{labels}");
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
    };
    assert!(of("ticks", "silence") > Some(1), "{metrics}");
    assert_eq!(of("ticks_failed", "silence"), Some(0));
    assert_eq!(of("ticks_derived", "silence"), Some(1));
    assert_eq!(of("ticks", "range"), None);
    let (_, page) = daemon.get("/").unwrap();
    let page = page.replace('\u{a0}', " ");
    assert!(page.contains("; 1 row added</small>"), "{page}");

    // It is raised already, whatever became of the process; and no more than that is added.
    for _ in 0..2 {
        daemon.kill();
        daemon = Daemon::start(&config);
        let before = ticks(&daemon);
        wait_for("ticks after the start", || {
            (ticks(&daemon) > before + 2).then_some(())
        });
    }
    assert_eq!(told(&collector), ["plant/a/v raised"]);
    broker.publish("plant/a", [line(2, 1000)]);
    broker.publish("plant/a", [line(3, 2)]);
    wait_for("its end", || (told(&collector).len() > 1).then_some(()));
    assert_eq!(told(&collector), ["plant/a/v raised", "plant/a/v cleared"]);
    daemon.wait_delivered();
    assert_eq!(gaps(&collector), 1);

    // Another interval is another generation.
    let id = |daemon: &Daemon| daemon.json("/api/v1/pipelines").to_string();
    let before = id(&daemon);
    let text = std::fs::read_to_string(&config).unwrap();
    site.write(
        "tidegate.toml",
        &text.replace("tick = \"1s\"", "tick = \"2s\""),
    );
    daemon.signal("HUP");
    wait_for("the other generation", || {
        (id(&daemon) != before).then_some(())
    });
    let done = ticks(&daemon);
    wait_for("its ticks", || (ticks(&daemon) > done).then_some(()));
    let begin = std::time::Instant::now();
    assert_eq!(daemon.stop(), 0);
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "it waits for no tick"
    );
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");

    // The same on what was kept, by the clock of what arrived.
    let silence = components().join("silence.wasm");
    let rehearse = || {
        let output = run(&[
            "module",
            "test",
            silence.to_str().unwrap(),
            "--replay",
            "1h",
            "--json",
            "--config",
            config.to_str().unwrap(),
        ]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        output.stdout
    };
    let report: Value = serde_json::from_slice(&rehearse()).unwrap();
    assert_eq!(report["present"]["derived"], 1, "{report}");
    assert_eq!(report["candidate"]["alarms"], 2, "{report}");
    assert_eq!(report["changed_rows"], 0);
    assert_eq!(rehearse(), rehearse(), "byte for byte");
}

/// Ticks of the filter `silence` since the start of the process.
fn ticks(daemon: &Daemon) -> u64 {
    filter(daemon, "silence")["ticks"]["called"]
        .as_u64()
        .unwrap()
}

fn filter(daemon: &Daemon, name: &str) -> Value {
    let pipelines = daemon.json("/api/v1/pipelines");
    let filters = &pipelines["items"][0]["filters"];
    let mut filters = filters.as_array().unwrap().iter();
    filters
        .find(|filter| filter["name"] == name)
        .unwrap()
        .clone()
}

#[test]
fn an_interval_for_a_module_that_has_no_ticks_is_refused_with_what_to_do() {
    for (filter, want) in [
        (
            "module = \"range\", settings = { max = 1 }, tick = \"5s\"",
            "remove the key `tick`",
        ),
        (
            "module = \"silence\", settings = { after = 60 }, tick = \"10ms\"",
            "1s",
        ),
    ] {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let rest = format!("[pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ {filter} }}]\n");
        let output = run_refused(&configuration(&site, &broker, &rest));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(want), "{text}");
    }
}
