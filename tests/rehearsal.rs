//! What a module would have made of what the gateway kept: `keep-input` and `module test --replay` on the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use support::{
    Broker, Daemon, Site, components, configuration, hostile_components, numbered, tidegate,
};

const PIPELINE: &str = "[pipeline.line]\nfrom = [\"plant\"]\nkeep-input = \"1h\"\n\
     filters = [{ module = \"deadband\", settings = { width = 2.5 } }, { module = \"dedupe\", name = \"last\" }]\n";

fn rehearse(config: &Path, module: &Path, arguments: &[&str]) -> Output {
    let mut command = tidegate();
    command
        .args(["module", "test"])
        .arg(module)
        .args(["--replay", "1h"]);
    command
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn report(config: &Path, module: &Path, arguments: &[&str]) -> (Value, Vec<u8>) {
    let output = rehearse(config, module, &[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    (
        serde_json::from_slice(&output.stdout).unwrap(),
        output.stdout,
    )
}

#[track_caller]
fn refused(config: &Path, module: &Path, arguments: &[&str], says: &str) {
    let output = rehearse(config, module, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains(says), "{errors}");
}

#[test]
fn a_candidate_is_rehearsed_on_what_came_in_with_the_same_result_each_time() {
    const COUNT: u64 = 300;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);
    let deadband = components().join("deadband.wasm");
    refused(&config, &deadband, &[], "set keep-input");

    broker.publish("plant/a", (0..COUNT).map(numbered));
    broker.publish(
        "plant/trap",
        (0..3).map(|n| format!("{{\"ts\":{n},\"trap\":{n}}}")),
    );
    daemon.wait_received("plant", COUNT + 3);

    // Beside the running gateway; the same module changes nothing.
    let (same, _) = report(&config, &deadband, &[]);
    assert_eq!(same["present"]["selected"], COUNT + 3);
    assert_eq!(same["present"], same["candidate"]);
    assert_eq!(
        (&same["changed_rows"], &same["rows"]),
        (&0.into(), &Value::Array(Vec::new()))
    );
    let kept = same["present"]["stored"].as_u64().unwrap();
    assert!(kept < COUNT, "deadband takes something out: {same}");

    // One that traps on some rows, in the place of another module: the rows are named.
    let trap = hostile_components().join("trap.wasm");
    let place = ["--pipeline", "line", "--filter", "last"];
    refused(&config, &trap, &[], "line/deadband, line/last");
    let (traps, first) = report(&config, &trap, &place);
    assert_eq!(traps["present"]["quarantined"], 0);
    let set_aside = traps["candidate"]["quarantined"].as_u64().unwrap();
    assert!(set_aside > 0, "{traps}");
    let rows = traps["rows"].as_array().unwrap();
    let of_trap = rows.iter().filter(|row| row["series"] == "plant/trap/trap");
    assert!(
        of_trap
            .clone()
            .all(|row| row["candidate"]["as"] == "quarantined" && row["present"]["as"] == "stored"),
        "{traps}"
    );
    assert_eq!(of_trap.count() as u64, set_aside);
    let (_, again) = report(&config, &trap, &place);
    assert_eq!(first, again, "byte for byte");

    // One that never ends is stopped after as many instructions each time.
    let endless = hostile_components().join("endless.wasm");
    let fewer = [&place[..], &["--limit", "1"]].concat();
    daemon.stop();
    broker_less(&config, &endless, &fewer);

    let words = rehearse(&config, &trap, &place);
    let text = String::from_utf8_lossy(&words.stdout);
    assert!(text.contains("→ quarantine (trap"), "{text}");
    assert!(text.contains("present  candidate"), "{text}");
}

/// On a stopped gateway, with output that is cut.
fn broker_less(config: &Path, module: &Path, arguments: &[&str]) {
    let (first, bytes) = report(config, module, arguments);
    assert!(first["rows"].as_array().unwrap().len() <= 1);
    assert_eq!(report(config, module, arguments).1, bytes);
}
