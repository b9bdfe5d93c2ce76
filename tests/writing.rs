//! What modules/README.md tells a newcomer to type, typed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Site, free_port, path_with_sbin};

const README: &str = include_str!("../modules/README.md");

/// A shell with everything that it started in the background.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // The whole group, whose leader it is.
        let group = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.0.id())])
            .output();
        assert!(group.is_ok());
    }
}

/// Runs lines in a folder: the exit code, what was printed and what went wrong.
fn run(site: &Site, lines: &str) -> (Option<i32>, String) {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let output = site.path("output");
    let file = std::fs::File::create(&output).unwrap();
    let child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", lines])
        .current_dir(site.path(""))
        .env(
            "PATH",
            format!("{}:{}", binaries.display(), path_with_sbin()),
        )
        .env_remove("CARGO_TARGET_DIR")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let mut shell = Shell(child);
    let status = shell.0.wait().unwrap();
    (status.code(), std::fs::read_to_string(&output).unwrap())
}

#[test]
fn the_way_from_an_empty_folder_to_the_first_verdict_is_as_the_readme_says() {
    let (_, begin) = README.split_once("## Begin one").unwrap();
    let (_, block) = begin.split_once("```sh\n").unwrap();
    let (lines, _) = block.split_once("```").unwrap();
    assert!(lines.contains("tidegate module try"), "{lines}");
    let (broker, page) = (free_port().to_string(), free_port().to_string());
    let lines = lines.replace("1883", &broker).replace("8080", &page);
    let site = Site::new();
    let (code, printed) = run(&site, &lines);
    assert!(
        code == Some(0) && printed.contains("verdict: passed"),
        "{code:?} {printed}"
    );
    assert!(printed.contains("1 of 1 vectors passed"), "{printed}");

    // The bound at 50: half of the readings are gone.
    let (before, try_it) = lines.split_once("tidegate module try").unwrap();
    let (_, start) = before.split_once("mosquitto -p").unwrap();
    let again = format!(
        "cd bearing\nmosquitto -p{start}tidegate module try{}",
        try_it.replace("100}", "50}")
    );
    let (code, printed) = run(&site, &again);
    assert!(
        code == Some(1) && printed.contains("verdict: difference"),
        "{code:?} {printed}"
    );
    assert!(printed.contains(" → nothing"), "{printed}");
}
