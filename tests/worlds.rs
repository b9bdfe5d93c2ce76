//! What a module is, and the version of the contract that it was built for, on the real binary.
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

use support::{
    Broker, Collector, Daemon, Site, components, configuration, hostile_components, numbered, run,
    run_refused, verify, wait_for,
};

/// `former` is built straight against `modules/wit/0.1.0`; `range` and `trap` are of the second contract.
#[test]
fn a_component_of_the_first_contract_runs_in_a_chain_with_those_of_the_second() {
    let world = |file: std::path::PathBuf| {
        let output = run(&["module", "inspect", "--json", file.to_str().unwrap()]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["world"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        world(hostile_components().join("former.wasm")),
        "tidegate:module/filter@0.1.0"
    );
    assert_eq!(
        world(components().join("range.wasm")),
        "tidegate:module/filter@0.2.0"
    );

    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(
        &site,
        &broker,
        &format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[pipeline.both]\nfrom = [\"plant\"]\nfilters = [\n\
             {{ module = \"range\", settings = {{ max = 5, action = \"drop\" }} }}, {{ module = \"former\" }},\n\
             {{ module = \"trap\" }}]\n[pipeline.old]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"former\", settings = {{ drop = true }} }}]\n",
            hostile_components().display()
        ),
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);
    let pipelines = &daemon.ledger()["pipelines"];
    assert_eq!(pipelines["both"]["stored"], 6, "{pipelines}");
    assert_eq!(pipelines["old"]["filtered"], 10, "{pipelines}");
    assert_eq!(daemon.stop(), 0);
}

/// A site whose source is decoded by a module of the test guests.
fn decoded_by(site: &Site, broker: &Broker, decode: &str) -> std::path::PathBuf {
    let config = configuration(
        site,
        broker,
        &format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[pipeline.p]\nfrom = [\"plant\"]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            hostile_components().display()
        ),
    );
    let text = std::fs::read_to_string(&config).unwrap();
    let lines = text.lines().map(|line| {
        let replaced = line.starts_with("decode = ");
        let line = if replaced { "" } else { line };
        let decode = if replaced {
            &format!("decode = {decode}")
        } else {
            ""
        };
        format!("{line}{decode}\n")
    });
    site.write("tidegate.toml", &lines.collect::<String>());
    config
}

/// Counts by the decoder's own state: it commits with the batch, survives a kill, and the deadly message takes nothing
/// with it.
#[test]
fn the_deadly_message_alone_is_set_aside_and_state_survives_a_kill() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = decoded_by(&site, &broker, "{ module = \"fragile\" }");
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/a", ["one", "trap", "two", "undecoded", "note"]);
    daemon.wait_received("plant", 5);
    daemon.kill();

    let mut daemon = Daemon::start(&config);
    broker.publish("plant/a", ["three", "endless", "four"]);
    daemon.wait_received("plant", 8);
    daemon.wait_delivered();
    let source = daemon.ledger()["sources"]["plant"].clone();
    assert_eq!(source["decoded"], 5, "{source}");
    assert_eq!(source["quarantined"], 3, "{source}");
    let mut values: Vec<i64> = collector
        .items("readings")
        .iter()
        .map(|item| item["value"].as_i64().unwrap())
        .collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values, [1, 2, 3, 4, 5]);
    let note = wait_for("the note as an event", || {
        let events = collector.items("event");
        events.into_iter().find(|e| e["code"] == "decoder-note")
    });
    assert_eq!(note["text"], "source plant: a note was asked for");
    let modules = daemon.json("/api/v1/modules").to_string();
    assert!(
        modules.contains("tidegate:module/decoder@0.2.0"),
        "{modules}"
    );
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_module_in_the_wrong_place_is_told_where_it_belongs() {
    for (decode, want) in [
        (
            "{ module = \"range\" }",
            "is a filter, and stands in a pipeline",
        ),
        (
            "{ module = \"nmea\", settings = { checksum = \"never\" } }",
            "checksum",
        ),
        (
            "{ module = \"nmea\", as = \"json\" }",
            "by a module as well",
        ),
        ("\"raw\"", "`raw` needs a decoder module"),
    ] {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let output = run_refused(&decoded_by(&site, &broker, decode));
        assert_eq!(output.status.code(), Some(78), "{decode}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(want), "{decode}: {text}");
    }
}

/// One reload, two changes: the filter's is a new generation, the decoder's needs the gateway to be wired anew.
#[test]
fn a_reload_takes_a_filters_settings_and_a_decoders_file_at_once() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let modules = site.path("modules");
    std::fs::create_dir(&modules).unwrap();
    for file in ["fragile.wasm", "fragile.json"] {
        std::fs::copy(hostile_components().join(file), modules.join(file)).unwrap();
    }
    let text = |max: u32| {
        format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[source.plant.decode]\nmodule = \"fragile\"\n\
             [pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"range\", settings = {{ max = {max} }} }}]\n",
            modules.display()
        )
    };
    let config = configuration(&site, &broker, "");
    let bare = std::fs::read_to_string(&config).unwrap();
    let bare: String = bare
        .lines()
        .filter(|line| !line.starts_with("decode = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let write = |max| site.write("tidegate.toml", &format!("{bare}{}", text(max)));
    write(5);
    let mut daemon = Daemon::start(&config);
    // Of nobody while the gateway is wired anew.
    let version = |daemon: &Daemon| {
        let (code, text) = daemon.get("/api/v1/modules")?;
        let modules: serde_json::Value = serde_json::from_str(&text).ok()?;
        let mut items = modules["items"].as_array()?.iter();
        let found = items.find(|item| item["name"] == "fragile" && code == 200)?;
        Some(found["version"].as_str()?.to_owned())
    };
    assert_eq!(version(&daemon).unwrap(), "0.1.0");

    let manifest = std::fs::read_to_string(modules.join("fragile.json")).unwrap();
    let newer = manifest.replace("\"version\": \"0.1.0\"", "\"version\": \"0.2.0\"");
    assert_ne!(manifest, newer);
    std::fs::write(modules.join("fragile.json"), newer).unwrap();
    write(6);
    daemon.signal("HUP");
    wait_for("the decoder's new version", || {
        version(&daemon).filter(|version| version == "0.2.0")
    });
    assert_eq!(daemon.stop(), 0);
}
