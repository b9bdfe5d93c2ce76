//! Files and disks that are not as they should be, under the real daemon.
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

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{
    Broker, Collector, Daemon, Site, assert_numbers, configuration, numbered, tidegate, verify,
    wait_for,
};

const READINGS: &str =
    "[pipeline.p]\nfrom = [\"plant\"]\nto = [{ uplink = \"cloud\", send = \"readings\" }]\n";

/// Waits until the page calls the store so.
#[track_caller]
fn wait_store(daemon: &Daemon, state: &str) -> Value {
    wait_for(&format!("a store that is {state}"), || {
        let (_, body) = daemon.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&body).unwrap();
        (status["store"]["state"] == state).then(|| status["store"].clone())
    })
}

/// What the retained status message says now.
fn status_message(broker: &Broker) -> Value {
    let output = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &broker.port.to_string(),
            "-C",
            "1",
            "-W",
            "20",
        ])
        .args(["-t", "tidegate/gw-test/status"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// The store that cannot be used is waited for: nothing is taken in, the page says why, and then all of it is.
fn waits_and_recovers(spoil: impl FnOnce(&Path), state: &str, repair: impl FnOnce(&Path)) {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, READINGS);
    spoil(&site.path("state"));
    let mut daemon = Daemon::spawn(&config, &[]);
    let store = wait_store(&daemon, state);
    assert_eq!(store["acknowledges"], false);
    assert!(!store["last_error"].as_str().unwrap().is_empty(), "{store}");
    let (code, reasons) = daemon.get("/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(
        reasons.contains(&format!("the store is {state}")),
        "{reasons}"
    );
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let line = format!("tidegate_store_state{{state=\"{state}\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(
        metrics.contains("tidegate_store_acknowledges 0"),
        "{metrics}"
    );
    assert_eq!(
        daemon.get("/healthz").unwrap().0,
        200,
        "nobody should restart it"
    );
    assert!(daemon.exited().is_none());
    repair(&site.path("state"));
    daemon.wait_ready();
    broker.publish("plant/line1", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    daemon.wait_delivered();
    assert_numbers(&collector.items("readings"), 100);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_waited_for() {
    waits_and_recovers(
        |state| fs::write(state, "a file is in the way").unwrap(),
        "degraded",
        |state| fs::remove_file(state).unwrap(),
    );
}

/// A file system of the test's own. Only root can mount one.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path, options: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", options, "tmpfs"], path);
        mounted.then_some(Self(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(ended.unwrap().success());
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    let output = Command::new("mount").args(arguments).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_read_only_file_system_is_waited_for() {
    let site = Site::new();
    let state = site.path("mounted");
    let Some(_mount) = Mount::new(&state, "size=64m") else {
        eprintln!("not root: a file system cannot be mounted, and is not tested here");
        return;
    };
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, READINGS);
    site.write(
        "conf.d/state.toml",
        &format!("[gateway]\nstate-dir = \"{}\"\n", state.display()),
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);
    assert_eq!(daemon.stop(), 0);
    assert!(mount(&["-o", "remount,ro"], &state));
    let mut daemon = Daemon::spawn(&config, &[]);
    wait_store(&daemon, "read-only");
    broker.publish("plant/line1", (10..20).map(numbered));
    assert!(daemon.exited().is_none());
    assert!(mount(&["-o", "remount,rw"], &state));
    daemon.wait_ready();
    daemon.wait_received("plant", 20);
    assert_eq!(daemon.stop(), 0);
}

/// The warnings of the daemon's log that hold these words.
fn warned(daemon: &Daemon, words: &str) -> bool {
    let log = daemon.log();
    log.lines()
        .any(|line| line.contains("WARN") && line.contains(words))
}

#[test]
fn modules_that_no_disk_takes_run_all_the_same_without_a_way_back() {
    let site = Site::new();
    let state = site.path("state");
    let places = ["modules", "cache"].map(|name| state.join(name));
    // Room for nothing that is larger than a page.
    let mounts: Vec<_> = places
        .iter()
        .filter_map(|place| Mount::new(place, "size=4k"))
        .collect();
    if mounts.len() < 2 {
        eprintln!("not root: a file system cannot be mounted, and is not tested here");
        return;
    }
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let rest = format!("{READINGS}[rollout]\nsettings-mode = \"immediate\"\n");
    let config = configuration(&site, &broker, &rest);
    let filters = |filters: &str| {
        site.write(
            "conf.d/p.toml",
            &format!("[pipeline.p]\nfilters = [{filters}]\n"),
        );
    };
    filters("{ module = \"range\", settings = { min = 0 } }");
    let mut daemon = Daemon::start(&config);
    assert!(warned(&daemon, "module range"), "{}", daemon.log());
    assert!(
        warned(&daemon, "cannot be kept, and no rollback to it"),
        "{}",
        daemon.log()
    );
    assert!(
        warned(&daemon, "compiled module is not kept"),
        "{}",
        daemon.log()
    );
    broker.publish("plant/line1", (0..50).map(numbered));
    daemon.wait_received("plant", 50);
    // Another one takes over, and is there after the next start.
    let generation = |daemon: &Daemon| {
        let modules = daemon.json("/api/v1/modules");
        modules["rollouts"][0]["generation"].clone()
    };
    let first = generation(&daemon);
    filters("{ module = \"deadband\", settings = { width = 0 } }");
    site.write("conf.d/r.toml", "[rollout]\nmode = \"immediate\"\n");
    daemon.signal("HUP");
    wait_for("the swap", || (generation(&daemon) != first).then_some(()));
    let second = generation(&daemon);
    broker.publish("plant/line1", (50..100).map(numbered));
    daemon.wait_received("plant", 100);
    assert_eq!(daemon.stop(), 0);
    let mut daemon = Daemon::start(&config);
    assert_eq!(generation(&daemon), second);
    // What the record names as the last known good is nowhere.
    let back = tidegate()
        .args(["module", "rollback", "deadband", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&back.stderr).into_owned();
    assert!(
        !back.status.success() && said.contains("cannot be made again"),
        "{said}"
    );
    broker.publish("plant/line1", (100..150).map(numbered));
    daemon.wait_received("plant", 150);
    daemon.wait_delivered();
    assert_numbers(&collector.items("readings"), 150);
    assert_eq!(daemon.stop(), 0);
    for place in &places {
        let left = fs::read_dir(place).unwrap().count();
        assert_eq!(left, 0, "{} has half a file", place.display());
    }
    assert_eq!(verify(&config).0, 0);
}

/// Overwrites whatever SQLite has written, as a disk that returns garbage.
fn spoil(database: &Path) {
    for (ending, from) in [("", 0), ("-wal", 32)] {
        let path = format!("{}{ending}", database.display());
        let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else {
            continue;
        };
        let length = file.metadata().unwrap().len();
        if length > from {
            let garbage = vec![0xa7; usize::try_from(length - from).unwrap()];
            file.write_all_at(&garbage, from).unwrap();
        }
    }
}

#[test]
fn a_garbage_store_is_set_aside_and_the_gateway_goes_on() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, READINGS);
    let garbage = "this is no database\n".repeat(500);
    site.write("state/tidegate.db", &garbage);
    let mut daemon = Daemon::start(&config);
    let store = wait_store(&daemon, "corrupt");
    assert_eq!(store["acknowledges"], true, "its successor works");
    let set = store["set_aside"][0]["dir"].as_str().unwrap();
    assert_eq!(
        fs::read_to_string(format!("{set}/tidegate.db")).unwrap(),
        garbage
    );
    broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);
    daemon.wait_delivered();
    assert_eq!(collector.items("event")[0]["code"], "store-corrupt");
    assert_eq!(collector.items("gap")[0]["count"], Value::Null);
    assert_eq!(collector.items("gap")[0]["reason"], "corrupt");
    // Whoever runs the doctor has seen it, beside the running gateway.
    let (code, report) = doctor(&config);
    assert_eq!(code, 0, "{report}");
    let about = |about: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings
            .iter()
            .find(|finding| finding["about"] == about)
            .unwrap_or_else(|| panic!("nothing about {about}: {report}"))
            .clone()
    };
    assert!(
        about("set aside")["what"].as_str().unwrap().contains(set),
        "{report}"
    );
    assert_eq!(about("ledger")["level"], "good");
    let lock = about("lock")["what"].as_str().unwrap().to_owned();
    assert!(lock.contains(&daemon.pid().to_string()), "{lock}");
    assert_eq!(wait_store(&daemon, "healthy")["set_aside"][0]["dir"], set);
    assert_eq!(daemon.stop(), 0);
}

/// `tidegate doctor --json`: exit code and output.
fn doctor(config: &Path) -> (i32, Value) {
    let output = tidegate()
        .args(["doctor", "--json", "--config"])
        .arg(config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}\n{errors}"));
    (output.status.code().unwrap(), report)
}

#[test]
fn what_is_readable_of_a_damaged_store_is_salvaged_and_goes_up_the_line() {
    const COUNT: u64 = 3_000;
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let mut cloud = Broker::start(&site, "cloud");
    let config = configuration(&site, &plant, READINGS);
    site.write(
        "conf.d/cloud.toml",
        &format!("[uplink.cloud]\nurl = \"{}\"\n", cloud.url()),
    );
    let mut daemon = Daemon::start(&config);
    cloud.stop();
    plant.publish("plant/line1", (0..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(doctor(&config).0, 0);
    // One page in the middle is gone, and with it whatever SQLite finds by way of it.
    let database = site.path("state/tidegate.db");
    let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    file.write_all_at(&[0xa7; 4096], pages / 2 * 4096).unwrap();
    drop(file);
    assert_eq!(doctor(&config).0, 1, "it is found");
    let salvaged = site.path("salvaged.db");
    let output = tidegate()
        .args(["doctor", "salvage", "--json"])
        .arg(&database)
        .arg("--to")
        .arg(&salvaged)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (saved, lost) = (&report["items"]["saved"], &report["items"]["lost"]);
    assert_eq!(
        saved.as_u64().unwrap() + lost.as_u64().unwrap(),
        COUNT,
        "{report}"
    );
    assert!(saved.as_u64().unwrap() > COUNT / 2, "{report}");
    fs::rename(&salvaged, &database).unwrap();
    let (code, report) = doctor(&config);
    assert_eq!(code, 0, "{report}");
    cloud.resume();
    let collector = Collector::start(cloud.port, "tidegate/#");
    let mut daemon = Daemon::start(&config);
    daemon.wait_delivered();
    wait_for("the saved readings", || {
        (collector.items("readings").len() as u64 == saved.as_u64().unwrap()).then_some(())
    });
    let gaps = collector.items("gap");
    let told: u64 = gaps.iter().filter_map(|gap| gap["count"].as_u64()).sum();
    assert_eq!(told, lost.as_u64().unwrap(), "{gaps:?}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// The head of the database is gone, and SQLite reads none of it: what the filter and the source's window knew comes back all
/// the same.
#[test]
fn what_a_gateway_remembers_is_salvaged_with_its_data() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(
        &site,
        &broker,
        "[pipeline.p]\nfrom = [\"plant\"]\nseries = [\"plant/*/temp\"]\n\
         filters = [{ module = \"deadband\", settings = { width = 10 } }]\n",
    );
    site.write(
        "conf.d/identity.toml",
        "[source.plant]\nidentity = { field = \"id\" }\n",
    );
    let mut daemon = Daemon::start(&config);
    let message = |id: u64, temp: f64| {
        let time = 1_766_000_040_000 + id;
        format!("{{\"ts\":{time},\"id\":\"m-{id}\",\"temp\":{temp}}}")
    };
    let first: Vec<String> = (0..20).map(|id| message(id, 100.0)).collect();
    broker.publish("plant/line1", first.clone());
    daemon.wait_received("plant", 20);
    assert_eq!(daemon.ledger()["pipelines"]["p"]["stored"], 1);
    assert_eq!(daemon.stop(), 0);
    let database = site.path("state/tidegate.db");
    let file = fs::OpenOptions::new().write(true).open(&database).unwrap();
    file.write_all_at(&[0xa7; 4096], 0).unwrap();
    drop(file);
    assert_eq!(doctor(&config).0, 1, "it is found");
    let salvaged = site.path("salvaged.db");
    let output = tidegate()
        .args(["doctor", "salvage"])
        .arg(&database)
        .arg("--to")
        .arg(&salvaged)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("states of filters and decoders: 1 saved")
            && said.contains("identities of messages: 20 saved")
            && said.contains("never merged"),
        "{said}"
    );
    fs::rename(&salvaged, &database).unwrap();
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", first);
    // Beside 100 nothing new: to a deadband without its state it would be.
    broker.publish("plant/line1", [message(20, 105.0)]);
    daemon.wait_received("plant", 41);
    let ledger = daemon.ledger();
    let (source, pipeline) = (&ledger["sources"]["plant"], &ledger["pipelines"]["p"]);
    assert_eq!(source["dropped"]["duplicate"], 20, "{ledger}");
    assert_eq!(
        (&pipeline["stored"], &pipeline["filtered"]),
        (&1.into(), &20.into()),
        "{ledger}"
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn a_database_that_is_damaged_under_the_daemon_is_replaced_and_nothing_acknowledged_later_is_lost()
{
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, READINGS);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..50).map(numbered));
    daemon.wait_received("plant", 50);
    daemon.wait_delivered();
    spoil(&site.path("state/tidegate.db"));
    let (mut sent, mut publishes) = (50, 0);
    // Whoever reads first finds it: the uplink, for what comes now.
    wait_for("the damage to be noticed", || {
        publishes += 1;
        broker.publish("plant/line1", (sent..sent + 50).map(numbered));
        sent += 50;
        let (_, body) = daemon.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&body).unwrap();
        (status["store"]["set_aside"] != Value::Array(vec![])).then_some(())
    });
    daemon.wait_ready();
    assert_eq!(wait_store(&daemon, "corrupt")["acknowledges"], true);
    broker.publish("plant/line1", (sent..sent + 50).map(numbered));
    wait_for("the last reading", || {
        let items = collector.items("readings");
        items
            .iter()
            .any(|item| item["value"] == sent + 49)
            .then_some(())
    });
    daemon.wait_delivered();
    let events = collector.items("event");
    assert!(
        events.iter().any(|event| event["code"] == "store-corrupt"),
        "{events:?}"
    );
    let gaps = collector.items("gap");
    assert!(
        gaps.iter()
            .any(|gap| gap["reason"] == "corrupt" && gap["count"].is_null()),
        "{gaps:?}"
    );
    wait_for("a status message that says so", || {
        let status = status_message(&broker);
        (status["state"] == "degraded" && status["store"] == "corrupt").then_some(())
    });
    assert!(daemon.exited().is_none(), "one process all the time");
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[cfg(feature = "test-faults")]
#[test]
fn a_ledger_that_does_not_match_its_rows_is_told_on_the_page_and_up_the_line() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, READINGS);
    let soon = [("TIDEGATE_TEST_RECOUNT_AFTER_MS", "0")];
    let mut daemon = Daemon::spawn(&config, &soon);
    daemon.wait_ready();
    broker.publish("plant/line1", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    daemon.wait_delivered();
    let recount = |daemon: &Daemon| {
        wait_for("a recount", || {
            let recount = daemon.json("/api/v1/status")["store"]["recount"].clone();
            (!recount.is_null()).then_some(recount)
        })
    };
    assert_eq!(recount(&daemon)["differences"], 0);
    assert_eq!(daemon.stop(), 0);
    let database = rusqlite::Connection::open(site.path("state/tidegate.db")).unwrap();
    database
        .execute(
            "DELETE FROM history WHERE id = (SELECT min(id) FROM history)",
            [],
        )
        .unwrap();
    drop(database);
    let mut daemon = Daemon::spawn(&config, &soon);
    daemon.wait_ready();
    let found = recount(&daemon);
    assert!(found["differences"].as_u64() > Some(0), "{found}");
    assert!(
        found["named"][0].as_str().unwrap().contains("pipeline p"),
        "{found}"
    );
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(
        metrics.contains("tidegate_ledger_recount_differences 1"),
        "{metrics}"
    );
    let event = wait_for("the event", || {
        let events = collector.items("event");
        events
            .into_iter()
            .find(|event| event["code"] == "ledger-mismatch")
    });
    assert_eq!(
        event["data"]["differences"][0]["scope"], "pipeline p",
        "{event}"
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 1, "nothing was repaired");
}

#[test]
fn stop_keeps_everything_until_the_line_is_back() {
    const COUNT: u64 = 40_000;
    let site = Site::new();
    let plant = Broker::start(&site, "plant");
    let mut cloud = Broker::start(&site, "cloud");
    let config = configuration(&site, &plant, READINGS);
    site.write(
        "conf.d/stop.toml",
        &format!(
            "[store]\nmax-size = \"4MiB\"\nfull = \"stop\"\n[uplink.cloud]\nurl = \"{}\"\n",
            cloud.url()
        ),
    );
    let mut daemon = Daemon::start(&config);
    cloud.stop();
    plant.publish("plant/line1", (0..COUNT).map(numbered));
    let store = wait_store(&daemon, "full");
    assert_eq!(store["acknowledges"], false);
    assert!(
        store["last_error"].as_str().unwrap().contains("store.full"),
        "{store}"
    );
    cloud.resume();
    daemon.wait_received("plant", COUNT);
    daemon.wait_delivered();
    assert_eq!(wait_store(&daemon, "healthy")["acknowledges"], true);
    let ledger = daemon.ledger();
    assert_eq!(ledger["uplinks"]["cloud"]["evicted"], 0, "{ledger}");
    assert_eq!(
        ledger["uplinks"]["cloud"]["delivered"],
        ledger["uplinks"]["cloud"]["queued"]
    );
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}
