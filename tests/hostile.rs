//! What goes wrong beside healthy traffic: bad payloads, bad filters, bad files, lost sessions.
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

use std::collections::BTreeSet;
use std::fs;

use support::{
    Broker, Collector, Daemon, Publisher, Site, assert_numbers, configuration, hostile_components,
    numbered, verify, wait_for,
};

/// Three pipelines: a sound one, one whose filter traps, one whose filter never ends.
fn with_bad_filters() -> String {
    format!(
        "[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
         [pipeline.sound]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
         [pipeline.trapping]\nfrom = [\"plant\"]\nfilters = [{{ module = \"trap\", settings = {{ always = true }} }}]\n\
         [pipeline.endless]\nfrom = [\"plant\"]\n\
         filters = [{{ module = \"endless\", settings = {{ always = true }}, on-failure = \"drop\" }}]\n",
        hostile_components().display()
    )
}

#[test]
fn a_bad_payload_a_trap_and_an_endless_filter_hold_up_nobody() {
    const COUNT: u64 = 2_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, &broker, &with_bad_filters());
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..COUNT / 2).map(numbered));
    broker.publish(
        "plant/line1",
        ["{\"ts\": 17, \"temp", "no json at all", "{\"n\": 5}"],
    );
    broker.publish("plant/line1", (COUNT / 2..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT + 3);
    daemon.wait_delivered();

    assert_numbers(&collector.items("readings"), COUNT);
    let ledger = daemon.ledger();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    let pipelines = &ledger["pipelines"];
    assert_eq!(
        ledger["sources"]["plant"]["quarantined"], 3,
        "two that are no JSON, one without a time"
    );
    assert_eq!(pipelines["sound"]["stored"], COUNT);
    assert_eq!(
        pipelines["trapping"]["quarantined"], COUNT,
        "the default policy keeps what a filter failed on"
    );
    assert_eq!(
        pipelines["endless"]["dropped"]["filter-failure"], COUNT,
        "its own policy drops it, and says so"
    );
    let status = daemon.json("/api/v1/status");
    let filter = |name: &str| {
        let pipelines = status["pipelines"].as_array().unwrap();
        pipelines
            .iter()
            .find(|pipeline| pipeline["name"] == name)
            .unwrap()["filters"][0]
            .clone()
    };
    assert!(
        filter("trapping")["failures"]["trap"].as_u64() > Some(0),
        "{status}"
    );
    assert!(
        filter("endless")["failures"]["timeout"].as_u64() > Some(0),
        "{status}"
    );
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_filter_that_misbehaves_holds_up_its_own_source_alone() {
    const COUNT: u64 = 2_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(
        &site,
        &broker,
        &format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
             [policy.limits]\ndeadline = \"120ms\"\n\
             [source.other]\nkind = \"mqtt\"\nurl = \"{}\"\nsubscribe = [{{ topic = \"other/#\" }}]\n\
             decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n\
             [pipeline.endless]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"endless\", settings = {{ always = true }}, limits = {{ deadline = \"10s\" }} }}]\n\
             [pipeline.sound]\nfrom = [\"other\"]\nfilters = [{{ module = \"range\", settings = {{ min = 0 }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            hostile_components().display(),
            broker.url(),
        ),
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..COUNT).map(numbered));
    broker.publish("other/line1", (0..COUNT).map(numbered));
    daemon.wait_received("other", COUNT);
    daemon.wait_received("plant", COUNT);
    daemon.wait_delivered();

    assert_numbers(&collector.items("readings"), COUNT);
    let ledger = daemon.ledger();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    assert_eq!(ledger["pipelines"]["sound"]["stored"], COUNT, "{ledger}");
    assert_eq!(
        ledger["pipelines"]["endless"]["quarantined"], COUNT,
        "{ledger}"
    );
    let status = daemon.json("/api/v1/status");
    let pipelines = status["pipelines"].as_array().unwrap();
    let hostile = pipelines.iter().find(|p| p["name"] == "endless").unwrap();
    let told = hostile.to_string();
    assert!(
        told.contains("120ms are allowed"),
        "the site's limit is below what the slot asks for: {told}"
    );
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn an_oversize_payload_is_set_aside_and_the_rest_goes_on() {
    for version in ["3.1.1", "5"] {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
        site.write(
            "conf.d/version.toml",
            &format!("[source.plant]\nversion = \"{version}\"\n"),
        );
        let mut daemon = Daemon::start(&config);
        broker.publish("plant/line1", [numbered(0)]);
        broker.publish_with("plant/line1", &vec![b' '; 2 * 1024 * 1024], &["-q", "1"]);
        broker.publish("plant/line1", [numbered(1)]);
        daemon.wait_received("plant", 3);
        let ledger = daemon.ledger();
        assert_eq!(
            ledger["sources"]["plant"]["quarantined"], 1,
            "{version}: {ledger}"
        );
        assert_eq!(ledger["pipelines"]["p"]["stored"], 2, "{version}: {ledger}");
        let source = &daemon.json("/api/v1/status")["sources"][0];
        assert_eq!(
            source["state"], "subscribed",
            "{version}: the connection survived: {source}"
        );
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_flipped_byte_in_the_cache_is_compiled_anew_and_never_run() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(
        &site,
        &broker,
        "[pipeline.p]\nfrom = [\"plant\"]\nfilters = [{ module = \"range\", settings = { min = 0 } }]\n",
    );
    let mut daemon = Daemon::start(&config);
    assert_eq!(daemon.stop(), 0);
    let cached = || -> std::path::PathBuf {
        let files: Vec<_> = fs::read_dir(site.path("state/cache"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    };
    let sound = fs::read(cached()).unwrap();

    let mut daemon = Daemon::start(&config);
    assert!(
        !daemon
            .log()
            .lines()
            .last()
            .unwrap_or_default()
            .contains("compil"),
        "a warm cache compiles nothing"
    );
    assert_eq!(daemon.stop(), 0);
    // At the start (header), in the middle (native code) and at the end.
    for at in [3, sound.len() / 2, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(cached(), &bytes).unwrap();
        let before = daemon.log().len();
        daemon = Daemon::start(&config);
        let log = daemon.log()[before..].to_owned();
        assert!(
            log.contains("compil"),
            "byte {at}: the log says that it was compiled anew:\n{log}"
        );
        broker.publish("plant/line1", [numbered(at as u64)]);
        wait_for("the filter to work", || {
            (daemon.ledger()["pipelines"]["p"]["stored"].as_u64()? > 0).then_some(())
        });
        assert_eq!(daemon.stop(), 0);
        assert_eq!(
            fs::read(cached()).unwrap(),
            sound,
            "byte {at}: the cache is whole again"
        );
    }
}

#[test]
fn a_session_that_the_broker_lost_is_a_gap_of_unknown_count() {
    let site = Site::new();
    let mut broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    site.write(
        "conf.d/cloud.toml",
        &format!("[uplink.cloud]\nurl = \"{}\"\n", cloud.url()),
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", [numbered(0)]);
    daemon.wait_received("plant", 1);
    broker.stop();
    fs::remove_file(site.path("broker/mosquitto.db")).unwrap();
    broker.resume();
    let gap = wait_for("the gap", || collector.items("gap").into_iter().next());
    assert_eq!(gap["source"], "plant", "{gap}");
    assert_eq!(gap["reason"], "session-lost", "{gap}");
    assert!(gap["count"].is_null(), "nobody knows how many: {gap}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_outage_beyond_the_bound_leaves_gaps_that_add_up() {
    const COUNT: u64 = 40_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let mut cloud = Broker::start(&site, "cloud");
    let config = configuration(
        &site,
        &broker,
        "[pipeline.p]\nfrom = [\"plant\"]\nto = [{ uplink = \"cloud\", send = \"readings\" }]\n",
    );
    let url = cloud.url();
    site.write(
        "conf.d/small.toml",
        &format!("[store]\nmax-size = \"4MiB\"\n[uplink.cloud]\nurl = \"{url}\"\n"),
    );
    // Its session at the broker outlives the outage.
    let collector = Collector::start(cloud.port, "tidegate/#");
    cloud.stop();
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT);
    let store = &daemon.json("/api/v1/status")["store"];
    assert!(
        store["bytes"].as_u64().unwrap() <= 4 * 1024 * 1024,
        "{store}"
    );
    cloud.resume();
    daemon.wait_delivered();
    let ledger = daemon.ledger();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    let evicted = ledger["uplinks"]["cloud"]["evicted"].as_u64().unwrap();
    assert!(
        evicted > 0,
        "the bound forces losses in this test: {ledger}"
    );
    // Delivered means acknowledged by the broker; the collector hears of it a moment later.
    wait_for("the last gap", || {
        (collector.sum("gap", "count") >= evicted).then_some(())
    });
    wait_for("the last reading", || {
        (collector.items("readings").len() as u64 + evicted >= COUNT).then_some(())
    });
    let delivered: BTreeSet<u64> = collector
        .items("readings")
        .iter()
        .map(|item| item["value"].as_u64().unwrap())
        .collect();
    let (delivered, lost) = (delivered.len() as u64, collector.sum("gap", "count"));
    assert_eq!(
        delivered + lost,
        COUNT,
        "every reading arrived or is in a gap"
    );
    assert_eq!(lost, evicted);
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn sigterm_under_load_drains_and_repeats_nothing() {
    const COUNT: u64 = 20_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(
        &site,
        &broker,
        "[pipeline.p]\nfrom = [\"plant\"]\nto = [{ uplink = \"cloud\", send = \"readings\" }]\n",
    );
    let mut daemon = Daemon::start(&config);
    let port = broker.port;
    let publisher = std::thread::spawn(move || {
        let mut publisher = Publisher::start(port, "plant/line1", &[]);
        for n in 0..COUNT {
            publisher.line(&numbered(n));
        }
        publisher.finish();
    });
    daemon.wait_received("plant", 500);
    assert_eq!(daemon.stop(), 0, "{}", daemon.log());
    publisher.join().unwrap();
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
    let before = report["sources"]["plant"]["redelivered"].as_u64().unwrap();

    let mut daemon = Daemon::start(&config);
    daemon.wait_received("plant", COUNT);
    daemon.wait_delivered();
    assert_eq!(
        assert_numbers(&collector.items("readings"), COUNT),
        0,
        "an orderly stop repeats nothing"
    );
    assert!(
        before <= 20,
        "only what was on the wire came again: {before}"
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let mut daemon = Daemon::start(&config);
    // A broker that stands still keeps the drain waiting for its last acknowledgements.
    broker.signal("STOP");
    daemon.signal("TERM");
    wait_for("the drain", || {
        daemon.log().contains("draining").then_some(())
    });
    // Signals that come together are one wish.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(daemon.exited().is_none(), "the drain waits for the broker");
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit().code(), Some(1));
    assert!(daemon.log().contains("second signal"), "{}", daemon.log());
    broker.signal("CONT");
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn a_reload_takes_a_sound_configuration_and_refuses_a_bad_one() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);

    let extra = site.write("conf.d/extra.toml", "[pipeline.q]\nfrom = [\"nowhere\"]\n");
    daemon.signal("HUP");
    wait_for("the refusal", || {
        daemon
            .log()
            .contains("the configuration is kept as it is")
            .then_some(())
    });
    assert_eq!(
        daemon.json("/api/v1/status")["pipelines"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    fs::write(extra, "[pipeline.q]\nfrom = [\"plant\"]\n").unwrap();
    daemon.signal("HUP");
    wait_for("the new pipeline", || {
        let status: serde_json::Value =
            serde_json::from_str(&daemon.get("/api/v1/status")?.1).ok()?;
        (status["pipelines"].as_array()?.len() == 2).then_some(())
    });
    daemon.wait_ready();
    broker.publish("plant/line1", (10..20).map(numbered));
    daemon.wait_received("plant", 20);
    let ledger = daemon.ledger();
    assert_eq!(ledger["pipelines"]["p"]["stored"], 20, "{ledger}");
    assert_eq!(ledger["pipelines"]["q"]["stored"], 10, "{ledger}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn quality_of_service_0_shared_groups_and_passwords() {
    let site = Site::new();
    let passwords = site.path("passwords");
    fs::write(&passwords, "").unwrap();
    let made = std::process::Command::new("mosquitto_passwd")
        .args([
            "-b",
            passwords.to_str().unwrap(),
            "gateway",
            "correct horse",
        ])
        .status()
        .unwrap();
    assert!(made.success());
    let broker = Broker::start_with(
        &site,
        "broker",
        &format!(
            "allow_anonymous false\npassword_file {}\n",
            passwords.display()
        ),
    );
    // Two brokers side by side; the second wants no password.
    let open = Broker::start(&site, "open");
    let password = site.write("secrets/broker", "correct horse\n");
    let config = site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{}\"\n\
             [source.zero]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{{ topic = \"zero/#\", qos = 0 }}]\n\
             decode = \"json\"\nusername = \"gateway\"\npassword-file = \"{secret}\"\n\
             [source.shared]\nkind = \"mqtt\"\nurl = \"{url}\"\nversion = \"5\"\n\
             subscribe = [{{ topic = \"$share/gateways/shared/#\", qos = 1 }}]\n\
             decode = \"text\"\nusername = \"gateway\"\npassword-file = \"{secret}\"\n\
             [source.open]\nkind = \"mqtt\"\nurl = \"{other}\"\n\
             subscribe = [{{ topic = \"open/#\" }}]\ndecode = \"text\"\n\
             [pipeline.p]\nfrom = [\"zero\", \"shared\", \"open\"]\n",
            site.path("state").display(),
            other = open.url(),
            url = broker.url(),
            secret = password.display(),
        ),
    );
    let mut daemon = Daemon::start(&config);
    let login = ["-u", "gateway", "-P", "correct horse"];
    broker.publish_with(
        "zero/line1/temp",
        b"21.5",
        &[&login[..], &["-q", "0"]].concat(),
    );
    broker.publish_with(
        "shared/line1/temp",
        "22.5 °C".as_bytes(),
        &[&login[..], &["-q", "1"]].concat(),
    );
    open.publish("open/line1/temp", ["23.5"]);
    daemon.wait_received("open", 1);
    daemon.wait_received("zero", 1);
    daemon.wait_received("shared", 1);
    let ledger = daemon.ledger();
    assert_eq!(ledger["pipelines"]["p"]["stored"], 3, "{ledger}");
    assert!(
        !daemon.log().contains("correct horse"),
        "a password is never logged"
    );
    assert_eq!(daemon.stop(), 0);

    site.write("secrets/broker", "wrong\n");
    let daemon = Daemon::spawn(&config, &[]);
    let error = wait_for("the refusal on the page", || {
        let (_, body) = daemon.get("/api/v1/status")?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        status["sources"][0]["last_error"]
            .as_str()
            .map(str::to_owned)
    });
    assert!(!error.contains("wrong"), "{error}");
}

#[cfg(feature = "test-faults")]
#[test]
fn a_payload_that_kills_the_process_is_set_aside_after_its_fourth_attempt() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let mut daemon = Daemon::start(&config);
    broker.publish(
        "plant/line1",
        [numbered(0), "{\"poison\": true}".to_owned(), numbered(1)],
    );
    let mut deaths = 0;
    while let Some(_status) = wait_for("the poison's end", || match daemon.exited() {
        Some(status) => Some(Some(status)),
        None => {
            let ledger: serde_json::Value =
                serde_json::from_str(&daemon.get("/api/v1/ledger")?.1).ok()?;
            (ledger["sources"]["plant"]["quarantined"] == 1).then_some(None)
        }
    }) {
        deaths += 1;
        assert!(
            deaths <= 4,
            "the payload killed the daemon for the fifth time"
        );
        daemon = Daemon::spawn(&config, &[]);
    }
    assert_eq!(
        deaths, 4,
        "first delivery, in a batch, and twice alone; the fourth attempt goes to quarantine undecoded"
    );
    daemon.wait_received("plant", 3);
    let ledger = daemon.ledger();
    // A neighbour whose PUBACK was still on its way comes again with the crash, which is what at least once means.
    assert!(
        ledger["pipelines"]["p"]["stored"].as_u64() >= Some(2),
        "its neighbours came through: {ledger}"
    );
    assert_eq!(
        ledger["sources"]["plant"]["quarantined"], 1,
        "and were not suspected: {ledger}"
    );
    assert_eq!(daemon.stop(), 0);
}
