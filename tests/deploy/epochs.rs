//! What channels do to gateways: they disagree, take modules away, bring decoders, run out of time; what only a device can find; an
//! update in the middle of an outage, and one on command.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::gateways::{Gateway, Publisher, Variant, plain};
use crate::support::{Broker, Collector, Daemon, Site, wait_for};

#[test]
fn a_vector_that_fails_only_here_refuses_an_epoch() {
    let publisher = Publisher::new();
    // It takes 8 MiB, which its publisher has.
    let large = Variant {
        behaviour: Some("leak"),
        ..Variant::of("varies", "1.0.0")
    };
    publisher.add_from(large, |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let more = "[policy.limits]\nmemory = \"4MiB\"\n";
    let mut gateway = Gateway::new(&publisher, &publisher.folder(), more);
    gateway.look(&["update"]);
    let why = gateway.refuses(1, "vectors");
    assert!(
        why.contains("module varies 1.0.0: golden vector `what is sound passes`"),
        "{why}"
    );
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    assert_eq!(gateway.audited(), ["epoch.refused"]);
    gateway.check_whole();
}

#[test]
fn a_rehearsal_on_kept_input_refuses_what_the_vectors_let_through() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({"behaviour": "trap"}), &[]);
    let site = Site::new();
    site.write("conf.d/keep.toml", "[pipeline.p]\nkeep-input = \"1h\"\n");
    let mut gateway = Gateway::with(site, &publisher, &publisher.folder(), "");
    gateway.send(100);
    gateway.look(&["update"]);
    let why = gateway.refuses(1, "replay");
    assert!(
        why.contains("readings that were kept it sets aside or drops"),
        "{why}"
    );
    // No reading went through it: there was no trial.
    assert!(!gateway.daemon.log().contains("rollout-started"));
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    assert_eq!(gateway.audited(), ["epoch.refused"]);
    gateway.check_whole();
}

#[test]
fn a_channel_that_takes_a_module_away_stops_nothing_that_runs() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.add_from(Variant::of("range", "9.0.0"), |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    // One has the module from nowhere else, and one has a file of its own.
    let mut without = Gateway::spawn(Site::new(), &publisher, &publisher.folder(), "");
    let mut with = Gateway::new(&publisher, &publisher.folder(), "");
    with.look(&["update"]);
    for gateway in [&mut without, &mut with] {
        gateway.settle(1);
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    }
    publisher.repo("publish", &["--channel", "stable", "--without", "varies"]);
    without.look(&["update"]);
    let why = without.refuses(2, "loading");
    assert!(why.contains("no module is named `varies`"), "{why}");
    assert_eq!(without.version("active").as_deref(), Some("1.0.0"));
    without.restart();
    without.send(20);
    assert_eq!(without.version("active").as_deref(), Some("1.0.0"));
    without.check_whole();
    // Its own file is tried like any other version, and only then is the epoch in force.
    with.look(&["update"]);
    with.settle(2);
    assert_eq!(with.version("active").as_deref(), Some("0.1.0"));
    assert_eq!(with.version("previous").as_deref(), Some("1.0.0"));
    with.check_whole();
}

#[test]
fn a_gateway_goes_from_one_channel_to_another_and_back() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.add("1.1.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    publisher.publish("1.1.0", json!({}), &[]);
    publisher.publish_in("careful", "1.0.0", json!({}), &[]);
    let channel = |name: &str| format!("channel = \"{name}\"");
    let mut gateway = Gateway::new(&publisher, &publisher.folder(), &channel("stable"));
    gateway.look(&["update"]);
    gateway.settle(2);
    assert_eq!(gateway.version("active").as_deref(), Some("1.1.0"));
    gateway.reconfigure(&channel("stable"), &channel("careful"));
    // Until the other channel is here, what was taken runs on, and it is said whose it is.
    wait_for("the other channel", || {
        let status: Value = serde_json::from_str(&gateway.daemon.get("/api/v1/status")?.1).ok()?;
        let deploy = &status["deploy"];
        (deploy["channel"] == "careful" && deploy["install"]["channel"] == "stable").then_some(())
    });
    assert_eq!(gateway.version("active").as_deref(), Some("1.1.0"));
    assert!(
        gateway
            .daemon
            .get("/")
            .unwrap()
            .1
            .contains("of channel stable")
    );
    // Its epoch is lower, and its version is: each channel counts for itself.
    gateway.look(&["update"]);
    gateway.settle(1);
    assert_eq!(gateway.install()["channel"], "careful");
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.restart();
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.reconfigure(&channel("careful"), &channel("stable"));
    wait_for("the first channel", || {
        let status: Value = serde_json::from_str(&gateway.daemon.get("/api/v1/status")?.1).ok()?;
        (status["deploy"]["channel"] == "stable").then_some(())
    });
    gateway.look(&["update"]);
    gateway.settle(2);
    assert_eq!(gateway.version("active").as_deref(), Some("1.1.0"));
    gateway.check_whole();
}

#[test]
fn an_update_in_the_middle_of_an_outage_loses_nothing() {
    let publisher = plain();
    let site = Site::new();
    Variant::of("varies", "0.1.0").write(&site.path("modules"), |_| ());
    let (config, broker) = Gateway::configure(&site, publisher, &publisher.folder(), "");
    let mut cloud = Broker::start(&site, "cloud");
    let text = fs::read_to_string(&config).unwrap();
    let (before, uplink) = text.split_once("[uplink.cloud]").unwrap();
    let uplink = uplink.replacen(&broker.url(), &cloud.url(), 1);
    fs::write(&config, format!("{before}[uplink.cloud]{uplink}")).unwrap();
    let collector = Collector::start(cloud.port, "tidegate/#");
    let daemon = Daemon::start(&config);
    let mut gateway = Gateway {
        config,
        site,
        broker,
        collector,
        daemon,
        sent: 0,
    };
    gateway.send(20);
    gateway.daemon.wait_delivered();
    cloud.stop();
    gateway.send(2000);
    gateway.look(&["update"]);
    gateway.wait("trying", 1);
    gateway.restart();
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.send(500);
    let waiting = gateway.daemon.ledger()["uplinks"]["cloud"]["waiting"].as_u64();
    assert!(waiting.unwrap() >= 2500, "{waiting:?}");
    cloud.resume();
    gateway.check_whole();
    for code in ["epoch-begun", "epoch-settled"] {
        assert_eq!(gateway.events(code).len(), 1, "{code}");
    }
}

#[test]
fn a_decoder_comes_over_the_air_and_loses_no_message() {
    let publisher = Publisher::new();
    publisher.add_from(Variant::of("senml", "9.0.0"), |_| ());
    publisher.repo(
        "publish",
        &["--channel", "stable", "--module", "senml=9.0.0"],
    );
    let site = Site::new();
    let (config, broker) = Gateway::configure(&site, &publisher, &publisher.folder(), "");
    let text = fs::read_to_string(&config).unwrap();
    let json = "decode = { as = \"json\", time-field = \"ts\", time-unit = \"ms\" }";
    let filters = "filters = [{ module = \"varies\", settings = { behaviour = \"none\" } }]\n";
    assert!(text.contains(json) && text.contains(filters));
    let text = text.replace(json, "decode = { module = \"senml\" }");
    fs::write(&config, text.replace(filters, "")).unwrap();
    let daemon = Daemon::start(&config);
    let mut gateway = Gateway::of(site, config, broker, daemon);
    let send = |gateway: &mut Gateway, count: u64| {
        let numbers = gateway.sent..gateway.sent + count;
        let measured = numbers.map(|n| format!("[{{\"n\":\"plant-temp\",\"v\":{n}}}]"));
        gateway.broker.publish("plant/line1", measured);
        gateway.sent += count;
    };
    send(&mut gateway, 20);
    gateway.look(&["update"]);
    // Messages come while everything is wired anew.
    wait_for("the epoch", || {
        send(&mut gateway, 20);
        let (_, status) = gateway.daemon.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&status).ok()?;
        let install = &status["deploy"]["install"];
        (install["state"] == "settled" && install["in_force"] == 1).then_some(())
    });
    assert!(gateway.daemon.log().contains("the gateway is wired anew"));
    assert_eq!(
        gateway.version_of("senml", "active").as_deref(),
        Some("9.0.0")
    );
    send(&mut gateway, 20);
    let received = gateway.sent;
    gateway.daemon.wait_received("plant", received);
    gateway.daemon.wait_delivered();
    let readings = gateway.collector.items("readings");
    let values: BTreeSet<String> = readings
        .iter()
        .map(|reading| reading["value"].as_f64().unwrap().to_string())
        .collect();
    assert_eq!(values, (0..gateway.sent).map(|n| n.to_string()).collect());
    assert_eq!(gateway.daemon.ledger()["balanced"], true);
    assert_eq!(gateway.audited(), ["epoch.begun", "epoch.settled"]);
}

#[test]
fn the_end_of_metadata_is_told_a_week_ahead() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &["--valid-for", "3d"]);
    let gateway = Gateway::new(&publisher, &publisher.folder(), "");
    gateway.look(&["update"]);
    gateway.look(&["update"]);
    let deploy = gateway.daemon.json("/api/v1/status")["deploy"].clone();
    assert_eq!(deploy["state"], "expiring", "{deploy}");
    let role = deploy["expires"]["role"].as_str().unwrap().to_owned();
    let page = gateway.daemon.get("/").unwrap().1;
    assert!(page.contains(&format!("{role} expires")), "{page}");
    let event = wait_for("the event", || gateway.events("deploy-expiring").pop());
    assert!(
        event["text"]
            .as_str()
            .unwrap()
            .contains(&format!("metadata/{role}.json expires on")),
        "{event}"
    );
    assert_eq!(event["data"]["expires"], deploy["expires"]["time"]);
    // Twice looked, once told; and renewed it is over.
    publisher.repo("refresh", &["--valid-for", "30d"]);
    gateway.look(&["update"]);
    let deploy = gateway.daemon.json("/api/v1/status")["deploy"].clone();
    assert_eq!(deploy["state"], "current", "{deploy}");
    gateway.daemon.wait_delivered();
    assert_eq!(gateway.events("deploy-expiring").len(), 1);
}

#[test]
fn a_command_has_the_repository_looked_at_once_and_says_what_came_of_it() {
    let publisher = plain();
    let commanded = |repository: &str| {
        let site = Site::new();
        site.write(
            "conf.d/commands.toml",
            "[uplink.cloud]\ncommands = [\"update\"]\nlinger = \"100ms\"\n",
        );
        Gateway::with(site, publisher, repository, "")
    };
    let order = |gateway: &Gateway, id: &str| {
        let command = json!({"id": id, "command": "update"}).to_string();
        gateway
            .broker
            .publish("tidegate/gw-test/command", [command]);
    };
    let replies = |gateway: &Gateway, id: &str| {
        let replies = gateway.collector.items("reply").into_iter();
        replies
            .filter(|reply| reply["id"] == id)
            .collect::<Vec<_>>()
    };
    let reply = |gateway: &Gateway, id: &str| {
        wait_for(&format!("the answer to {id}"), || {
            replies(gateway, id).pop()
        })
    };
    let mut gateway = commanded(&publisher.folder());
    order(&gateway, "first");
    let done = reply(&gateway, "first");
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(
        (&done["data"]["epoch"], &done["data"]["news"]),
        (&json!(1), &json!(true)),
        "{done}"
    );
    // The same is the same, and does nothing; another one so soon is refused.
    let checks =
        |gateway: &Gateway| gateway.daemon.json("/api/v1/status")["deploy"]["checks"].clone();
    let before = checks(&gateway);
    order(&gateway, "first");
    wait_for("the same answer", || {
        (replies(&gateway, "first").len() == 2).then_some(())
    });
    assert_eq!(replies(&gateway, "first")[1], done);
    order(&gateway, "second");
    let refused = reply(&gateway, "second");
    assert_eq!(refused["status"], "error", "{refused}");
    assert!(
        refused["text"]
            .as_str()
            .unwrap()
            .contains("can be ordered in"),
        "{refused}"
    );
    assert_eq!(checks(&gateway), before);
    gateway.settle(1);
    gateway.check_whole();

    let lost = commanded("http://127.0.0.1:1/");
    order(&lost, "first");
    let error = reply(&lost, "first");
    assert_eq!(error["status"], "error", "{error}");
    assert!(
        error["text"].as_str().unwrap().contains("127.0.0.1"),
        "{error}"
    );
}
