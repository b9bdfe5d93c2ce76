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

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{Site, tidegate};

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

/// Makes the module `mine-1` and gives its folder.
fn begin(site: &Site, language: &str) -> std::path::PathBuf {
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
        .args(["module", "test"])
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
