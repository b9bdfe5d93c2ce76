//! Quarantine in an operator's hands: looked at, replayed exactly once whatever dies meanwhile, dropped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use support::{
    Broker, Collector, Daemon, Site, assert_numbers, configuration, hostile_components, numbered,
    tidegate, verify, wait_for,
};

const PIPELINE: &str = "
[pipeline.count]
from = [\"plant\"]
summary = { window = \"1s\" }
to = [{ uplink = \"cloud\", send = \"both\" }]
";

/// A command on the gateway of a configuration.
fn command(config: &Path, arguments: &[&str]) -> Output {
    tidegate()
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

#[track_caller]
fn done(config: &Path, arguments: &[&str]) -> String {
    let output = command(config, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that fails says.
#[track_caller]
fn refused(config: &Path, arguments: &[&str]) -> String {
    let output = command(config, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn list(config: &Path) -> Value {
    let text = done(
        config,
        &["quarantine", "list", "--json", "--limit", "10000"],
    );
    serde_json::from_str(&text).unwrap()
}

fn rows(config: &Path) -> Vec<Value> {
    list(config)["items"].as_array().unwrap().clone()
}

/// The readings in history, as `tidegate history` prints them.
fn history(config: &Path) -> Vec<Value> {
    let text = done(config, &["history", "--series", "**", "--json"]);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Has the daemon take up the configuration as it is now.
fn reload(daemon: &Daemon) {
    // A change of filters alone is taken between two batches; any other wires the gateway anew.
    let taken = || {
        let log = daemon.log();
        ["the gateway runs", "the configuration is in force"]
            .map(|says| log.matches(says).count())
            .iter()
            .sum::<usize>()
    };
    let before = taken();
    daemon.signal("HUP");
    wait_for("the reload", || (taken() > before).then_some(()));
    daemon.wait_ready();
}

/// The configuration with a way to decode that looks for the time where it is, or where it is not.
fn decoding(site: &Site, broker: &Broker, sound: bool) -> PathBuf {
    let config = configuration(site, broker, PIPELINE);
    if !sound {
        let text = fs::read_to_string(&config).unwrap();
        let broken = text.replace("time-field = \"ts\"", "time-field = \"at\"");
        assert_ne!(text, broken);
        fs::write(&config, broken).unwrap();
    }
    config
}

#[test]
fn the_control_socket_is_for_the_owner_and_goes_with_the_daemon() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    let socket = site.path("state/control.sock");
    let without = refused(&config, &["quarantine", "replay", "--all"]);
    assert!(without.contains("tidegate run"), "{without}");

    let mut daemon = Daemon::start(&config);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Actions are on the socket alone.
    let (code, _) = daemon.get("/api/v1/quarantine/replay").unwrap();
    assert_eq!(code, 404, "the page knows no action");
    let empty = refused(&config, &["quarantine", "replay", "--all"]);
    assert!(empty.contains("holds no such rows"), "{empty}");
    let nothing = refused(&config, &["quarantine", "drop"]);
    assert!(nothing.contains("which rows?"), "{nothing}");

    // A process that was killed leaves its socket; the next one takes its place.
    daemon.kill();
    assert!(socket.exists());
    let dead = refused(&config, &["quarantine", "replay", "--all"]);
    assert!(dead.contains("does not run"), "{dead}");
    let mut daemon = Daemon::start(&config);
    refused(&config, &["quarantine", "replay", "--all"]);
    // A reload makes a new one as well.
    reload(&daemon);
    let empty = refused(&config, &["quarantine", "replay", "--all"]);
    assert!(empty.contains("holds no such rows"), "{empty}");
    assert_eq!(daemon.stop(), 0);
    assert!(!socket.exists());
}

#[test]
fn messages_are_replayed_after_a_fix_with_the_time_at_which_they_came() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = decoding(&site, &broker, false);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..50).map(numbered));
    broker.publish("plant/line1", ["no json at all"]);
    broker.publish_with("plant/line1", &vec![b'x'; 200_000], &["-q", "1"]);
    daemon.wait_received("plant", 52);
    let aside = rows(&config);
    assert_eq!(aside.len(), 52);
    let cut = aside[0]["id"].to_string();
    assert_eq!(aside[0]["kept"], 65_536);
    let shown = done(&config, &["quarantine", "show", "1"]);
    assert!(shown.contains(&numbered(0)), "{shown}");
    assert!(shown.contains("undecodable"), "{shown}");
    let refusal = refused(&config, &["quarantine", "replay", &cut]);
    assert!(
        refusal.contains("longer than what quarantine keeps"),
        "{refusal}"
    );
    let missing = refused(&config, &["quarantine", "replay", "1", "4711"]);
    assert!(missing.contains("not in quarantine"), "{missing}");

    // Nothing is fixed yet: all fail again, stay, and say how often.
    done(&config, &["quarantine", "replay", "1", "--wait"]);
    let first = &rows(&config)[51];
    assert_eq!((&first["id"], &first["attempts"]), (&1.into(), &1.into()));

    decoding(&site, &broker, true);
    reload(&daemon);
    let answer = done(
        &config,
        &[
            "quarantine",
            "replay",
            "--source",
            "plant",
            "--json",
            "--wait",
        ],
    );
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["rows"], 51, "{answer}");
    let left: Vec<_> = rows(&config).iter().map(|row| row["id"].clone()).collect();
    assert_eq!(
        left,
        [52, 51],
        "the one without its end, and the one that is no JSON"
    );

    let kept = history(&config);
    assert_eq!(kept.len(), 50);
    daemon.wait_delivered();
    assert_eq!(assert_numbers(&collector.items("readings"), 50), 0);
    let codes: Vec<_> = collector
        .items("event")
        .iter()
        .map(|event| event["code"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        codes
            .iter()
            .filter(|code| *code == "quarantine-replay")
            .count(),
        2,
        "{codes:?}"
    );
    assert_eq!(
        codes
            .iter()
            .filter(|code| *code == "quarantine-replayed")
            .count(),
        2
    );
    done(&config, &["quarantine", "drop", &cut, "51", "--wait"]);
    assert_eq!(rows(&config).len(), 0);
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
    let quarantine = &report["sources"]["plant"]["quarantine"];
    assert_eq!(
        (&quarantine["replayed"], &quarantine["discarded"]),
        (&50.into(), &2.into())
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn readings_go_on_from_the_filter_that_failed_on_them() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let pipeline = |always: bool| {
        format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
             [pipeline.count]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"scale\", settings = {{ factor = 10 }} }},\n\
             {{ module = \"trap\", settings = {{ always = {always} }} }}]\n",
            hostile_components().display()
        )
    };
    let config = configuration(&site, &broker, &pipeline(true));
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..200).map(numbered));
    daemon.wait_received("plant", 200);
    let aside = rows(&config);
    assert!(aside.iter().all(|row| row["filter"] == "trap"), "{aside:?}");
    let shown = done(
        &config,
        &["quarantine", "show", &aside[0]["id"].to_string()],
    );
    assert!(
        shown.contains("generation") && shown.contains("scale"),
        "{shown}"
    );

    configuration(&site, &broker, &pipeline(false));
    reload(&daemon);
    done(
        &config,
        &["quarantine", "replay", "--pipeline", "count", "--wait"],
    );
    assert_eq!(rows(&config).len(), 0);
    let mut values: Vec<f64> = history(&config)
        .iter()
        .map(|reading| reading["value"].as_f64().unwrap())
        .collect();
    values.sort_by(f64::total_cmp);
    let expect: Vec<f64> = (0..200).map(|n| f64::from(n) * 10.0).collect();
    assert_eq!(values, expect, "scaled once");
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["pipelines"]["count"]["replayed"], 200);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn kills_in_the_middle_of_a_replay_neither_lose_nor_double_a_row() {
    const COUNT: u64 = 3_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = decoding(&site, &broker, false);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT);
    assert_eq!(daemon.stop(), 0);
    decoding(&site, &broker, true);
    let mut daemon = Daemon::start(&config);
    done(&config, &["quarantine", "replay", "--all"]);
    let mut kills = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    println!("seed {random}");
    while kills < 8 && !list(&config)["orders"].as_array().unwrap().is_empty() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(random % 200));
        daemon.kill();
        kills += 1;
        daemon = Daemon::spawn(&config, &[]);
        daemon.wait_ready();
    }
    assert!(kills > 0, "the replay was over before the first kill");
    wait_for("the end of the order", || {
        list(&config)["orders"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
    // A row on which the daemon died too often is kept rather than tried for ever; here it is innocent.
    let mut rounds = 0;
    while !rows(&config).is_empty() {
        rounds += 1;
        assert!(rounds < 4, "{:?}", rows(&config));
        done(&config, &["quarantine", "replay", "--all", "--wait"]);
    }
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for reading in history(&config) {
        *seen.entry(reading["value"].as_u64().unwrap()).or_default() += 1;
    }
    assert_eq!(seen.len() as u64, COUNT, "after {kills} kills");
    assert!(seen.values().all(|times| *times == 1), "a row counts once");
    daemon.wait_delivered();
    // A message that went out twice is dropped by its number; its items are those of one commit.
    assert_eq!(assert_numbers(&collector.items("readings"), COUNT), 0);
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["sources"]["plant"]["quarantine"]["replayed"], COUNT);
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

/// Needs `die_on_poison`, which the feature `test-faults` builds in.
#[test]
#[cfg(feature = "test-faults")]
fn a_row_that_ends_the_daemon_is_not_replayed_for_ever() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", ["no json at all"]);
    broker.publish("plant/line1", ["{\"ts\":1,\"n\":\"poison\"}"]);
    // Redelivered, it ends the daemon until it is set aside undecoded.
    for _ in 0..10 {
        wait_for("the crash or the peace", || {
            let crashed = daemon.exited().is_some();
            let aside = daemon.get("/readyz").is_some() && rows(&config).len() == 2;
            (crashed || aside).then_some(())
        });
        if daemon.exited().is_none() {
            break;
        }
        daemon = Daemon::spawn(&config, &[]);
    }
    daemon.wait_ready();
    broker.publish("plant/line1", (0..20).map(numbered));
    daemon.wait_received("plant", 20);
    let poison = rows(&config)
        .into_iter()
        .find(|row| row["reason"] == "attempts")
        .expect("the poison is in quarantine");

    // The order is durable before its rows are replayed, and they may end the daemon before its answer is out.
    let ordered = command(&config, &["quarantine", "replay", "--all"]);
    if !ordered.status.success() {
        daemon.wait_exit();
    }
    let mut crashes = 0;
    loop {
        let over = wait_for("the crash or the end of the order", || {
            if daemon.exited().is_some() {
                return Some(false);
            }
            let orders = list(&config)["orders"].as_array().unwrap().clone();
            orders.is_empty().then_some(true)
        });
        if over {
            break;
        }
        crashes += 1;
        assert!(crashes < 8, "it is replayed for ever");
        daemon = Daemon::spawn(&config, &[]);
    }
    assert_eq!(crashes, 4, "once among others, and three times alone");
    let left = rows(&config);
    assert_eq!(left.len(), 2, "{left:?}");
    let kept = left.iter().find(|row| row["id"] == poison["id"]).unwrap();
    assert_eq!(
        (&kept["reason"], &kept["attempts"]),
        (&"attempts".into(), &1.into())
    );
    assert!(
        kept["detail"]
            .as_str()
            .unwrap()
            .contains("replayed this row"),
        "{kept}"
    );
    daemon.wait_ready();
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
    assert_eq!(daemon.stop(), 0);
}
