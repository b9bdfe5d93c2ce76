//! The commands beside `run`, as a person meets them.
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

use std::path::PathBuf;

use support::{
    Broker, Daemon, Site, components, configuration, hostile_components, numbered, run,
    run_refused, tidegate, verify,
};

#[test]
fn check_names_all_five_mistakes() {
    let site = Site::new();
    let config = site.write(
        "tidegate.toml",
        r#"[gateway]
id = "gw-1"

[store]
max-sise = "512MiB"
linger = "100 parsecs"

[source.plant]
kind = "mqtt"
url = "mqtt://127.0.0.1:1883"
subscribe = [{ topic = "plant/+/+", qos = 2 }]

[pipeline.temperature]
from = ["plnt"]
to = [{ uplink = "cloud" }]
"#,
    );
    let output = tidegate()
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(78), "{text}");
    for (place, words) in [
        (":5:1", "max-size"),
        (":6:10", "100 parsecs"),
        (":11:", "qos"),
        (":14:9", "plant"),
        (":15:", "cloud"),
    ] {
        assert!(text.contains(place), "no problem at {place} in\n{text}");
        assert!(text.contains(words), "nothing says {words} in\n{text}");
    }
    assert!(text.contains("^^^^"), "the text is underlined:\n{text}");
    let output = tidegate()
        .args(["check", "--json", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let problems: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = problems
        .as_array()
        .unwrap()
        .iter()
        .filter(|problem| problem["severity"] == "error");
    assert_eq!(errors.count(), 5, "{problems}");

    let output = run_refused(&config);
    assert_eq!(
        output.status.code(),
        Some(78),
        "the daemon does not start with it"
    );
}

#[test]
fn check_knows_modules_and_their_settings() {
    let site = Site::new();
    let config = site.write(
        "tidegate.toml",
        r#"[source.plant]
kind = "mqtt"
url = "mqtt://127.0.0.1:1883"
subscribe = [{ topic = "plant/#" }]

[pipeline.p]
from = ["plant"]
filters = [
  { module = "rnage" },
  { module = "deadband", settings = { widht = 1 } },
]
"#,
    );
    let output = tidegate()
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(78), "{text}");
    for words in [":9:14", "no module is named `rnage`", ":10:37", "widht"] {
        assert!(text.contains(words), "nothing says {words} in\n{text}");
    }
}

#[test]
fn the_example_configuration_has_no_error() {
    let output = run(&[
        "check",
        "--config",
        concat!(env!("CARGO_MANIFEST_DIR"), "/config/tidegate.toml"),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn inspect_names_what_a_component_wants() {
    let file = components().join("anomaly.wasm");
    let output = run(&["module", "inspect", "--json", file.to_str().unwrap()]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let imports: Vec<&str> = found["imports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|import| import.as_str().unwrap())
        .collect();
    assert!(imports.contains(&"tidegate:module/alarm@0.2.0"), "{found}");
    assert!(
        !imports.iter().any(|import| import.starts_with("wasi:")),
        "{found}"
    );
    let digest = std::process::Command::new("sha256sum")
        .arg(&file)
        .output()
        .unwrap();
    let digest = String::from_utf8_lossy(&digest.stdout)[..64].to_owned();
    assert_eq!(found["digest"], format!("sha256:{digest}"));

    let garbage = Site::new();
    let file = garbage.write("garbage.wasm", "\0asm, but no more than that");
    let output = run(&["module", "inspect", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("garbage.wasm"));
}

#[test]
fn every_factory_module_passes_its_vectors_in_the_production_engine() {
    for name in [
        "anomaly",
        "cbor",
        "classify",
        "deadband",
        "dedupe",
        "homeassistant",
        "nmea",
        "range",
        "redact",
        "scale",
        "senml",
        "silence",
        "sparkplug",
    ] {
        let file = components().join(format!("{name}.wasm"));
        let output = run(&["module", "test", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{name}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            text.contains("passed") && !text.contains("FAILED"),
            "{text}"
        );
    }
    // What a bus says is recorded in the module's own tests.
    for name in ["bme280-driver", "mcp3x08-driver"] {
        let file = components().join(format!("{name}.wasm"));
        let output = run(&["module", "test", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("it has no golden vectors"),
            "{name}: {text}"
        );
    }
    let file = hostile_components().join("greedy.wasm");
    let output = run(&["module", "test", file.to_str().unwrap()]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "no default policy grants a secret"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("tidegate:module/secrets@0.2.0"));
}

/// A pipeline with one filter out of the components that misbehave on purpose, which may run.
fn hostile_filter(site: &Site, broker: &Broker, filter: &str) -> PathBuf {
    let rest = format!(
        "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[pipeline.p]\nfrom = [\"plant\"]\n\
         filters = [{{ {filter} }}]\n",
        hostile_components().display()
    );
    configuration(site, broker, &rest)
}

#[test]
fn a_module_that_wants_too_much_is_refused_by_name() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = hostile_filter(&site, &broker, "module = \"greedy\"");
    let output = run_refused(&config);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("tidegate:module/secrets@0.2.0"), "{text}");
}

#[test]
fn a_trap_is_found_by_file_and_line_with_the_publishers_debug_file() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = hostile_filter(
        &site,
        &broker,
        "module = \"trap\", settings = { always = true }",
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", [numbered(0)]);
    daemon.wait_received("plant", 1);
    let status = daemon.json("/api/v1/status");
    let told = status["pipelines"][0]["filters"][0]["last_error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(daemon.stop(), 0);
    assert!(
        told.contains("(trap 0.1.0, in function ") && !told.contains("abort"),
        "the component in use has no names: {told}"
    );
    let places: Vec<&str> = told
        .split(" at ")
        .skip(1)
        .map(|rest| rest.split([',', ')']).next().unwrap())
        .collect();
    assert!(!places.is_empty(), "{told}");

    let source = include_str!("../modules/test-guests/trap/src/lib.rs");
    let line_of = |words: &str| {
        source
            .lines()
            .position(|line| line.contains(words))
            .unwrap()
            + 1
    };
    // Optimised code has the abort at the line of its condition, or at its own.
    let wanted: Vec<String> = (line_of("if always")..=line_of("abort()"))
        .map(|line| format!("  trap  modules/test-guests/trap/src/lib.rs:{line}\n"))
        .collect();
    let debug = hostile_components().with_file_name("debug-components");
    let debug = debug.join("trap.debug.wasm");
    let symbolize = |file: &std::path::Path, places: &[&str]| {
        let arguments = ["module", "symbolize", file.to_str().unwrap()];
        let output = run(&[&arguments, places].concat());
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.into_owned())
    };
    let (code, text) = symbolize(&debug, &places);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        wanted.iter().any(|want| text.contains(want)),
        "{told}\n{text}"
    );
    let shipped = hostile_components().join("trap.wasm");
    let digest = std::process::Command::new("sha256sum")
        .arg(&shipped)
        .output()
        .unwrap();
    let digest = String::from_utf8_lossy(&digest.stdout)[..64].to_owned();
    assert!(
        text.starts_with(&format!("for sha256:{digest}\n")),
        "{text}"
    );

    let (code, text) = symbolize(&shipped, &places);
    assert_eq!(code, Some(1));
    assert!(text.contains("has no debug information"), "{text}");
    let (code, text) = symbolize(&debug, &["0xfffffff"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("of another build"), "{text}");
    let (code, text) = symbolize(&debug, &["9:0x10"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no core module 9"), "{text}");
    assert_eq!(symbolize(&debug, &["17"]).0, Some(2));
}

#[test]
fn an_unsigned_local_module_does_not_run() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(
        &site,
        &broker,
        &format!(
            "[modules]\ndir = \"{}\"\n[pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"trap\" }}]\n",
            hostile_components().display()
        ),
    );
    let output = run_refused(&config);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("allow-unsigned"));
}

#[test]
fn verify_finds_a_row_that_is_gone() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..100).map(support::numbered));
    daemon.wait_received("plant", 100);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);

    let database = rusqlite::Connection::open(site.path("state/tidegate.db")).unwrap();
    assert!(
        database
            .execute(
                "DELETE FROM history WHERE id = (SELECT min(id) FROM history)",
                []
            )
            .unwrap()
            > 0
    );
    drop(database);
    let (code, report) = verify(&config);
    assert_eq!(code, 1);
    assert_eq!(report["balanced"], false);
    assert!(
        !report["differences"].as_array().unwrap().is_empty(),
        "{report}"
    );
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "");
    let mut daemon = Daemon::start(&config);
    assert_eq!(daemon.stop(), 0);
    let path = site.path("state/tidegate.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 4242)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let output = run_refused(&config);
    assert_eq!(
        output.status.code(),
        Some(78),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("4242"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn status_and_ledger_speak_for_a_running_gateway() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, "[pipeline.p]\nfrom = [\"plant\"]\n");
    let daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..10).map(support::numbered));
    daemon.wait_received("plant", 10);
    let listen = format!("\"127.0.0.1:{}\"", daemon.http);
    let output = tidegate()
        .args(["status", "--config"])
        .arg(&config)
        .env("TIDEGATE__STATUS__LISTEN", listen)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("gw-test") && text.contains("10 received"),
        "{text}"
    );
    let output = tidegate()
        .args(["ledger", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("10 messages received = 10 decoded"), "{text}");
    assert!(text.contains("balances"), "{text}");
}

#[cfg(feature = "demo")]
#[test]
fn demo_balances() {
    let output = run(&["demo", "--for", "8s"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("http://127.0.0.1:"), "{text}");
    assert!(text.contains("the ledger balances"), "{text}");
    assert!(text.contains("on average"), "a summary in words:\n{text}");
}
