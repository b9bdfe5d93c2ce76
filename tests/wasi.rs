//! WASI as a grant, on the real binary: what each part gives, and what nothing gives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;

use support::{
    Broker, Collector, Daemon, Site, configuration, hostile_components, numbered, run, run_refused,
    wait_for,
};

const ALL: &str = "\"wasi\", \"wasi:clocks\", \"wasi:random\", \"wasi:stdout\"";

/// A site that gives these grants, and a pipeline for each of the guest's behaviours.
fn site(site: &Site, broker: &Broker, grants: &str, behaviours: &[&str]) -> PathBuf {
    let mut rest = format!(
        "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[policy]\ngrants = [{grants}]\n",
        hostile_components().display()
    );
    for behaviour in behaviours {
        rest += &format!(
            "[pipeline.{behaviour}]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"worldly\", settings = {{ behaviour = \"{behaviour}\" }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n"
        );
    }
    configuration(site, broker, &rest)
}

fn inspect(config: &Path, module: &str) -> (Value, String) {
    let file = hostile_components().join(module);
    let of = |json: &[&str]| {
        let mut arguments = vec!["module", "inspect", file.to_str().unwrap()];
        arguments.extend(["--config", config.to_str().unwrap()]);
        arguments.extend(json);
        let output = run(&arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let json = serde_json::from_slice(&of(&["--json"])).unwrap();
    (json, String::from_utf8(of(&[])).unwrap())
}

#[test]
fn each_part_gives_what_it_says_and_hostile_ones_are_bounded() {
    let place = Site::new();
    let broker = Broker::start(&place, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let behaviours = ["look", "flood", "random", "handles", "sleep", "exit"];
    let config = site(&place, &broker, ALL, &behaviours);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", [numbered(0)]);
    daemon.wait_received("plant", 1);
    daemon.wait_delivered();

    // Two readings of its own, and not a thing found in its context.
    let readings = collector.items("readings");
    let of = |series: &str| {
        let found = readings.iter().filter(|item| item["series"] == series);
        found
            .map(|item| item["value"].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(of("found"), [Value::from(0.0)], "{readings:?}");
    assert_eq!(of("random").len(), 1);
    wait_for("its lines", || {
        let log = daemon.log();
        let said = [
            "said on standard output",
            "and not ended",
            "said on standard error",
        ];
        said.iter().all(|line| log.contains(line)).then_some(())
    });

    let pipelines = &daemon.ledger()["pipelines"];
    // Nothing sleeps.
    assert_eq!(pipelines["sleep"]["stored"], 1, "{pipelines}");
    assert_eq!(pipelines["look"]["stored"], 3, "{pipelines}");
    for hostile in ["flood", "random", "handles", "exit"] {
        assert_eq!(
            pipelines[hostile]["quarantined"], 1,
            "{hostile}: {pipelines}"
        );
    }
    let filters = daemon.json("/api/v1/pipelines");
    let filter = |pipeline: &str| {
        let mut all = filters["items"].as_array().unwrap().iter();
        let found = all.find(|item| item["name"] == pipeline).unwrap();
        found["filters"][0].clone()
    };
    for (pipeline, kind, detail) in [
        ("flood", "timeout", "CPU time"),
        ("random", "invalid", "1048576 random bytes at once"),
        ("exit", "invalid", "it ends itself, with success"),
        ("handles", "invalid", ""),
    ] {
        let filter = filter(pipeline);
        assert!(filter["failures"][kind].as_u64().unwrap() > 0, "{filter}");
        let error = filter["last_error"].as_str().unwrap();
        assert!(error.contains(detail), "{error}");
    }
    // Of all that was flooded ten lines a second are told.
    let lines = daemon.log().matches("a line of a flood").count();
    assert!((1..=30).contains(&lines), "{lines}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn what_is_not_granted_is_refused_by_name_and_inspect_says_the_same() {
    let place = Site::new();
    let broker = Broker::start(&place, "broker");
    let config = site(&place, &broker, "\"wasi\", \"wasi:stdout\"", &["look"]);
    let output = run_refused(&config);
    let text = String::from_utf8_lossy(&output.stderr);
    let missing = [
        "clocks/monotonic-clock",
        "clocks/wall-clock",
        "random/random",
        "random/insecure-seed",
    ];
    for name in missing {
        assert!(
            text.contains(&format!("wasi:{name}@0.2.")),
            "{name}: {text}"
        );
    }
    assert!(!text.contains("wasi:cli/stdout@"), "{text}");

    let (json, text) = inspect(&config, "worldly.wasm");
    let names = |key: &str| {
        let list = json[key].as_array().unwrap().iter();
        let name = |item: &Value| {
            item["import"]
                .as_str()
                .or(item.as_str())
                .unwrap()
                .to_owned()
        };
        list.map(name).collect::<Vec<String>>()
    };
    assert_eq!(json["wants"].as_array().unwrap().len(), 4, "{json}");
    assert_eq!(json["gets"], serde_json::json!(["wasi", "wasi:stdout"]));
    assert_eq!(names("refused").len(), missing.len(), "{json}");
    assert!(
        names("granted")
            .iter()
            .any(|name| name.starts_with("wasi:cli/stdout@0.2.")),
        "{json}"
    );
    let both = names("granted").len() + names("refused").len();
    assert_eq!(both, json["imports"].as_array().unwrap().len());
    assert!(
        text.contains("\nwants   wasi, wasi:clocks, wasi:random, wasi:stdout\n"),
        "{text}"
    );
    assert!(text.contains("\ngets    wasi, wasi:stdout\n"), "{text}");
    assert!(
        text.contains("`wasi:random` is not among the site's `[policy] grants`"),
        "{text}"
    );

    // All of it granted; and one that wants nothing of WASI.
    let config = site(&place, &broker, ALL, &["look"]);
    let (json, _) = inspect(&config, "worldly.wasm");
    assert_eq!(json["refused"], serde_json::json!([]));
    let (json, text) = inspect(&config, "trap.wasm");
    assert_eq!(json["refused"], serde_json::json!([]), "{json}");
    assert!(text.contains("\nwants   nothing\n"), "{text}");
}
