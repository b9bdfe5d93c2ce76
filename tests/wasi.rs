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
use std::process::Command;

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
    for (pipeline, kind, detail) in [
        ("flood", "timeout", "CPU time"),
        ("random", "invalid", "1048576 random bytes at once"),
        ("exit", "invalid", "it ends itself, with success"),
        ("handles", "invalid", ""),
    ] {
        let filter = filter_of(&daemon, pipeline);
        assert!(filter["failures"][kind].as_u64().unwrap() > 0, "{filter}");
        let error = filter["last_error"].as_str().unwrap();
        assert!(error.contains(detail), "{error}");
    }
    // Of all that was flooded ten lines a second are told.
    let lines = daemon.log().matches("a line of a flood").count();
    assert!((1..=30).contains(&lines), "{lines}");
    assert_eq!(daemon.stop(), 0);
}

/// A site with files, of which it gives one directory, and a pipeline for each of the guest's behaviours.
fn site_with_files(place: &Site, broker: &Broker, policy: &str, behaviours: &[&str]) -> PathBuf {
    let root = place.path("files");
    let given = root.join("calibration");
    if !given.exists() {
        std::fs::create_dir_all(given.join("sub")).unwrap();
        std::fs::write(root.join("secret"), "secret").unwrap();
        std::fs::write(given.join("factor"), "1.0625").unwrap();
        std::fs::write(given.join("sub/deep"), "deep").unwrap();
        let large = std::fs::File::create(given.join("sub/large")).unwrap();
        large.set_len(32 << 20).unwrap();
        std::os::unix::fs::symlink("sub/deep", given.join("inside")).unwrap();
        std::os::unix::fs::symlink("../secret", given.join("outside")).unwrap();
        let pipe = Command::new("mkfifo").arg(given.join("pipe")).status();
        assert!(pipe.unwrap().success());
    }
    let mut rest = format!(
        "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[policy]\ngrants = [\"wasi\", \"wasi:clocks\"]\n{policy}\n",
        hostile_components().display()
    );
    for behaviour in behaviours {
        rest += &format!(
            "[pipeline.{behaviour}]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"reader\", settings = {{ behaviour = \"{behaviour}\" }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n"
        );
    }
    configuration(place, broker, &rest)
}

fn directory_policy(place: &Site) -> String {
    let root = place.path("files");
    format!(
        "directory-root = \"{}\"\ndirectories = [\"calibration\"]",
        root.display()
    )
}

#[test]
fn a_directory_is_read_and_nothing_beyond_it_and_nothing_is_written() {
    let place = Site::new();
    let broker = Broker::start(&place, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let behaviours = ["try", "hoard", "gulp", "endlessly"];
    let config = site_with_files(&place, &broker, &directory_policy(&place), &behaviours);
    let given = place.path("files/calibration");
    let listed = || {
        let names = std::fs::read_dir(&given).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listed();
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", [numbered(0)]);
    daemon.wait_received("plant", 1);
    daemon.wait_delivered();

    let readings = collector.items("readings");
    for (attempt, expect) in [
        ("read", "1.0625"),
        ("streamed", "1.0625"),
        ("deep", "deep"),
        ("inside", "deep"),
        ("names", "factor inside outside pipe sub"),
        ("size", "6"),
        ("above", "not-permitted"),
        ("around", "not-permitted"),
        ("absolute", "not-permitted"),
        ("outside", "not-permitted"),
        ("peeked", "not-permitted"),
        ("pipe", "not-permitted"),
        ("absent", "no-entry"),
        ("created", "read-only"),
        ("truncated", "read-only"),
        ("written", "read-only"),
        ("appended", "read-only"),
        ("removed", "read-only"),
        ("directory", "read-only"),
        ("renamed", "read-only"),
        ("linked", "read-only"),
    ] {
        let mut found = readings.iter().filter(|item| item["series"] == attempt);
        let value = found.next().map(|item| &item["value"]);
        assert_eq!(value, Some(&Value::from(expect)), "{attempt}: {readings:?}");
    }
    assert_eq!(listed(), before);
    let factor = std::fs::read_to_string(given.join("factor")).unwrap();
    assert_eq!(factor, "1.0625");

    for (pipeline, kind, detail) in [
        ("hoard", "invalid", "more than 32 files open at once"),
        ("gulp", "invalid", "more than 16777216 bytes of files"),
        ("endlessly", "timeout", "CPU time"),
    ] {
        let filter = filter_of(&daemon, pipeline);
        let error = filter["last_error"].as_str().unwrap();
        assert!(filter["failures"][kind].as_u64().unwrap() > 0, "{filter}");
        assert!(error.contains(detail), "{error}");
    }

    // Another place for the directory is another generation, and the files of that are read.
    let moved = place.path("moved");
    std::fs::create_dir_all(moved.join("calibration")).unwrap();
    std::fs::write(moved.join("calibration/factor"), "2.5").unwrap();
    let generation = |daemon: &Daemon| pipeline_of(daemon, "try")["generation"].clone();
    let first = generation(&daemon);
    let text = std::fs::read_to_string(&config).unwrap();
    let elsewhere = text.replace(
        place.path("files").to_str().unwrap(),
        moved.to_str().unwrap(),
    );
    place.write("tidegate.toml", &elsewhere);
    daemon.signal("HUP");
    wait_for("the other generation", || {
        (generation(&daemon) != first).then_some(())
    });
    broker.publish("plant/line1", [numbered(1)]);
    wait_for("what the other file says", || {
        let readings = collector.items("readings");
        let mut read = readings.iter().filter(|item| item["series"] == "read");
        read.any(|item| item["value"] == "2.5").then_some(())
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_directory_that_the_site_does_not_give_is_refused_and_one_that_is_absent_is_told() {
    let place = Site::new();
    let broker = Broker::start(&place, "broker");
    let config = site_with_files(&place, &broker, "", &["try"]);
    let output = run_refused(&config);
    let text = String::from_utf8_lossy(&output.stderr);
    let why = "directory:calibration: `calibration` is not among the site's `[policy] directories`";
    assert!(text.contains(why), "{text}");
    let (json, text) = inspect(&config, "reader.wasm");
    assert_eq!(
        json["wants"],
        serde_json::json!(["directory:calibration", "wasi", "wasi:clocks"])
    );
    assert_eq!(json["gets"], serde_json::json!(["wasi", "wasi:clocks"]));
    assert_eq!(json["refused"][0]["import"], "directory:calibration");
    assert!(text.contains(&format!("\nrefused {why}\n")), "{text}");

    let config = site_with_files(&place, &broker, &directory_policy(&place), &["try"]);
    let given = place.path("files/calibration");
    let word = format!("directory:calibration={}", given.display());
    let (json, text) = inspect(&config, "reader.wasm");
    assert_eq!(
        json["gets"],
        serde_json::json!([word, "wasi", "wasi:clocks"])
    );
    assert_eq!(json["refused"], serde_json::json!([]));
    assert_eq!(json["problems"], serde_json::json!([]));
    assert!(
        text.contains(&format!("\ngets    {word}, wasi, wasi:clocks\n")),
        "{text}"
    );
    std::fs::remove_dir_all(&given).unwrap();
    std::os::unix::fs::symlink("/etc", &given).unwrap();
    let (json, text) = inspect(&config, "reader.wasm");
    let problem = json["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("it leads out of `policy.directory-root`"),
        "{problem}"
    );
    assert!(text.contains(&format!("\nproblem {problem}\n")), "{text}");

    // At run time the filter fails, and says the same; the gateway goes on.
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", [numbered(0)]);
    daemon.wait_received("plant", 1);
    wait_for("its failure", || {
        let error = filter_of(&daemon, "try")["last_error"].clone();
        error.as_str()?.contains("it leads out of").then_some(())
    });
    assert_eq!(daemon.stop(), 0);
}

fn pipeline_of(daemon: &Daemon, name: &str) -> Value {
    let pipelines = daemon.json("/api/v1/pipelines");
    let mut all = pipelines["items"].as_array().unwrap().iter();
    all.find(|item| item["name"] == name).unwrap().clone()
}

/// The one filter of a pipeline.
fn filter_of(daemon: &Daemon, pipeline: &str) -> Value {
    pipeline_of(daemon, pipeline)["filters"][0].clone()
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

/// Vectors find a directory as the filter would on a site that gives it, and not without being given it.
#[test]
fn vectors_read_in_a_directory_that_is_named_for_them() {
    let place = Site::new();
    let files = place.path("files/calibration");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("factor"), "1.0625").unwrap();
    std::fs::write(place.path("files/secret"), "secret").unwrap();
    let expected = [
        ("read", "1.0625"),
        ("streamed", "1.0625"),
        ("deep", "no-entry"),
        ("inside", "no-entry"),
        ("names", "factor"),
        ("size", "6"),
        ("above", "not-permitted"),
        ("around", "no-entry"),
        ("absolute", "not-permitted"),
        ("outside", "no-entry"),
        ("peeked", "not-permitted"),
        ("pipe", "no-entry"),
        ("absent", "no-entry"),
        ("created", "read-only"),
        ("truncated", "read-only"),
        ("written", "read-only"),
        ("appended", "read-only"),
        ("removed", "read-only"),
        ("directory", "read-only"),
        ("renamed", "read-only"),
        ("linked", "read-only"),
    ];
    let row = |series: &str, value: Value| serde_json::json!({ "series": series, "time": 7, "value": value });
    let mut stored = vec![row("a", 1.0.into())];
    stored.extend(expected.map(|(series, value)| row(series, value.into())));
    let vectors = serde_json::json!({ "vectors": [{
        "name": "reads what it was given",
        "settings": { "behaviour": "try" },
        "steps": [{ "input": [row("a", 1.0.into())], "expect": { "stored": stored } }],
    }] });
    let vectors = place.write("reader.vectors.json", &vectors.to_string());
    let module = hostile_components().join("reader.wasm");
    let test = |directories: &[&str]| {
        let mut arguments = vec![
            "module",
            "test",
            module.to_str().unwrap(),
            "--grant",
            "wasi",
        ];
        arguments.extend([
            "--grant",
            "wasi:clocks",
            "--vectors",
            vectors.to_str().unwrap(),
        ]);
        for directory in directories {
            arguments.extend(["--directory", directory]);
        }
        let output = run(&arguments);
        let text = [&output.stdout[..], &output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, text) = test(&[]);
    assert!(
        code == Some(1) && text.contains("directory:calibration"),
        "{text}"
    );
    let given = format!("calibration={}", files.display());
    let (code, text) = test(&[&given]);
    assert!(
        code == Some(0) && text.contains("1 of 1 vectors passed"),
        "{text}"
    );
    std::fs::write(files.join("factor"), "2").unwrap();
    let (code, text) = test(&[&given]);
    assert!(code == Some(1) && text.contains("FAILED"), "{text}");

    // The publisher's side runs them likewise, and puts in nothing that does not pass.
    let beside = place.path("reader.wasm");
    std::fs::copy(&module, &beside).unwrap();
    let manifest = std::fs::read_to_string(module.with_extension("json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["vectors"] = "reader.vectors.json".into();
    std::fs::write(beside.with_extension("json"), manifest.to_string()).unwrap();
    let (repo, keys) = (place.path("repo"), place.path("keys"));
    let publish = |command: &[&str], more: &[&str]| {
        let mut arguments = vec!["repo"];
        arguments.extend(command);
        arguments.extend(["--keys", keys.to_str().unwrap()]);
        arguments.extend(more);
        let output = run(&arguments);
        let text = [&output.stdout[..], &output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let repo = repo.to_str().unwrap();
    let (made, text) = publish(&["init", repo], &[]);
    assert!(made, "{text}");
    let add = ["add", repo, beside.to_str().unwrap()];
    let (added, text) = publish(&add, &[]);
    assert!(!added && text.contains("directory:calibration"), "{text}");
    let (added, text) = publish(&add, &["--directory", &given]);
    assert!(!added && text.contains("nothing was added"), "{text}");
    std::fs::write(files.join("factor"), "1.0625").unwrap();
    let (added, text) = publish(&add, &["--directory", &given]);
    assert!(added && text.contains("1 vectors passed"), "{text}");

    // What cannot be given says why.
    let other = place.path("files/other");
    std::fs::create_dir_all(&other).unwrap();
    for (directory, words) in [
        ("calibration".to_owned(), "no NAME=PATH"),
        (
            format!("other={}", other.display()),
            "asks for no directory `other`",
        ),
        (
            format!("calibration={}", other.display()),
            "is not called `calibration`",
        ),
        (
            format!("calibration={}/nowhere", other.display()),
            "cannot be found",
        ),
    ] {
        let (code, text) = test(&[&directory]);
        assert!(code == Some(1) && text.contains(words), "{words}: {text}");
    }
}
