//! Filters in any language, from the empty folder to the production engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

#[path = "support/slot.rs"]
mod slot;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use slot::slot;
use support::{Site, components, tidegate};
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::{Arrival, Batch, Quality, Value};

#[test]
fn a_new_module_in_rust_builds_tests_and_passes_in_the_production_engine() {
    let site = Site::new();
    let folder = begin(&site, "rust");
    // The path of a newcomer: natively, as a component, in the engine.
    succeeds(
        Command::new("cargo")
            .arg("test")
            .env_remove("CARGO_TARGET_DIR")
            .current_dir(&folder),
    );
    builds_and_passes(&folder);

    // The vectors are at work: a filter that does something else does not pass.
    let source = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    let wrong = source.replace("number > max", "number < max");
    assert_ne!(source, wrong);
    std::fs::write(folder.join("src/lib.rs"), wrong).unwrap();
    succeeds(Command::new(folder.join("build.sh")).current_dir("/"));
    let output = test(&folder);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("FAILED"), "{}", text(&output));
}

#[test]
fn a_module_is_never_made_over_what_is_there() {
    let site = Site::new();
    let precious = site.write("mine/precious", "bytes");
    let output = new(&site, "mine", "rust");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("mine is there already"),
        "{output:?}"
    );
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "bytes");

    let output = new(&site, "../mine", "rust");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("no name for a module"), "{output:?}");
    // A language that is not there names those that are.
    let output = new(&site, "other", "cobol");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("rust"), "{output:?}");
    assert!(!site.path("other").exists());
}

#[test]
#[ignore = "takes clang, node and CPython's compiler: make modules-languages"]
fn new_modules_in_other_languages_build_and_pass_in_the_production_engine() {
    for language in ["c", "js", "python"] {
        let site = Site::new();
        builds_and_passes(&begin(&site, language));
    }
}

#[test]
#[ignore = "takes clang, node and CPython's compiler: make modules-languages"]
fn one_filter_in_every_language_passes_the_same_vectors() {
    for language in ["c", "js", "python"] {
        let file = target().join(format!("languages/deadband-{language}.wasm"));
        let output = tidegate()
            .args(["module", "test", "--wanted-limits"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(
            text(&output).contains("7 of 7 vectors passed"),
            "{}",
            text(&output)
        );
    }
}

/// `range`, and a component whose exported settings take the place of the gateway's. Nobody else says what the bounds are.
#[test]
fn two_components_made_one_run_as_one_filter() {
    let site = Site::new();
    let component = site.path("composed.wasm");
    std::fs::copy(target().join("composed/range-preset.wasm"), &component).unwrap();
    site.write(
        "composed.json",
        r#"{"name": "composed", "version": "0.1.0", "world": "tidegate:module/filter@0.2.0", "vectors": "vectors.json"}"#,
    );
    let vectors = |stored: &str| {
        format!(
            r#"{{"vectors": [{{"name": "from 0 to 100", "steps": [{{
                "input": [{{"series": "a", "time": 1, "value": -1.0}}, {{"series": "a", "time": 2, "value": 50.0}},
                          {{"series": "a", "time": 3, "value": 101.0}}],
                "expect": {{"stored": [{stored}], "filtered": 2}}}}]}}]}}"#
        )
    };
    let test = || {
        tidegate()
            .args(["module", "test"])
            .arg(&component)
            .output()
            .unwrap()
    };
    site.write(
        "vectors.json",
        &vectors(r#"{"series": "a", "time": 2, "value": 50.0}"#),
    );
    let output = test();
    assert!(output.status.success(), "{}", text(&output));
    site.write(
        "vectors.json",
        &vectors(r#"{"series": "a", "time": 3, "value": 101.0}"#),
    );
    assert_eq!(test().status.code(), Some(1), "the vector is at work");

    let output = tidegate()
        .args(["module", "inspect"])
        .arg(&component)
        .output()
        .unwrap();
    assert!(!text(&output).contains("settings"), "{}", text(&output));
}

/// The same batch gives the same bytes, whatever instructions it was computed with.
#[test]
fn classify_says_the_same_with_and_without_vector_instructions() {
    let files = [
        components().join("classify.wasm"),
        target().join("simd-components/classify.wasm"),
    ];
    // The one has them and the other has not.
    let vectors = files.each_ref().map(|file| vector_instructions(file));
    assert_eq!(vectors[0], 0);
    assert!(vectors[1] > 0);

    let settings = serde_json::json!({ "full-scale": 8, "hold": 1 });
    let mut pipelines = files.map(|file| slot(&file, settings.clone()).0);
    let mut random = 1_u64;
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..50 {
        let batch = noise(&mut random, round);
        let [scalar, simd] = pipelines
            .each_mut()
            .map(|pipeline| pipeline.run(&batch, Arrival::default(), Instant::now()));
        assert!(scalar.quarantined.is_empty(), "{:?}", scalar.quarantined);
        assert_eq!(scalar.stored, simd.stored, "round {round}");
        assert_eq!(format!("{:?}", scalar.alarms), format!("{:?}", simd.alarms));
        seen.extend(scalar.stored.texts.iter().map(ToString::to_string));
    }
    assert!(seen.len() > 1, "they agree about more than one condition");
}

/// Sines of every frequency in noise of every strength.
fn noise(random: &mut u64, round: i64) -> Batch {
    let mut next = || {
        // xorshift64, Marsaglia 2003.
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut builder = BatchBuilder::new();
    let series = builder.series(&"pump/x".into());
    let (frequency, strength) = (next() * 3.0, next());
    for row in 0..1024 {
        let value = (row as f64 * frequency).sin() + (next() - 0.5) * strength * 4.0;
        builder.push(
            series,
            round * 1024 + row,
            Value::Float(value),
            Quality::Good,
        );
    }
    builder.finish()
}

/// How often `i32x4.mul` stands in a component's code: the prefix of vector instructions, 0xfd, and its number, 181.
/// Source: WebAssembly specification 2.0, binary format of vector instructions.
fn vector_instructions(file: &Path) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let multiply = [0xfd, 0xb5, 0x01];
    bytes
        .windows(3)
        .filter(|window| *window == multiply)
        .count()
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/target")
}

/// Makes the module `mine-1` and gives its folder.
fn begin(site: &Site, language: &str) -> PathBuf {
    let output = new(site, "mine-1", language);
    assert!(output.status.success(), "{}", text(&output));
    site.path("mine-1")
}

fn new(site: &Site, name: &str, language: &str) -> Output {
    tidegate()
        .args(["module", "new", name, "--lang", language])
        .current_dir(site.path("."))
        .output()
        .unwrap()
}

fn builds_and_passes(folder: &Path) {
    // From anywhere.
    succeeds(Command::new(folder.join("build.sh")).current_dir("/"));
    let output = test(folder);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("1 of 1 vectors passed"),
        "{}",
        text(&output)
    );
}

/// `tidegate module test` on what `build.sh` made.
fn test(folder: &Path) -> Output {
    tidegate()
        .args(["module", "test", "--wanted-limits"])
        .arg(folder.join("out/mine-1.wasm"))
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
