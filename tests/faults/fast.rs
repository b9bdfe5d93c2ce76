//! The fast part of `make faults`, inside `make test`: a few cases of each kind, one with a fixed seed and the rest with a
//! new one, which is printed; and the proof that the suite sees a broken daemon.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a panic is a test's report, and its figures are small"
)]

mod cases;
mod disk;
mod gateway;
mod loss;
mod oracle;
mod rng;
mod stand;
#[path = "../support/mod.rs"]
mod support;

use cases::{Case, Kind};
use oracle::Violation;
use stand::Stand;

#[test]
fn kills() {
    check(Kind::Kill, &[6, 6]);
}

#[test]
fn kills_at_a_sync() {
    check(Kind::StartKill, &[2, 9]);
    check(Kind::SyncKill, &[1, 40]);
}

#[test]
fn power_cuts() {
    check(Kind::PowerCut, &[3, 3]);
}

#[test]
fn power_cuts_in_mid_canary() {
    check(Kind::Canary, &[3, 3]);
}

#[test]
fn a_full_disk() {
    check(Kind::NoSpace, &[1, 2]);
}

#[test]
fn errors_of_the_disk() {
    check(Kind::WriteError, &[10, 60]);
    check(Kind::SyncError, &[3, 20]);
}

#[test]
fn a_disk_that_turns_read_only() {
    check(Kind::ReadOnly, &[2]);
}

#[test]
fn a_damaged_database() {
    check(Kind::Damage, &[2]);
}

#[test]
fn a_slow_disk() {
    check(Kind::SlowDisk, &[1]);
}

#[test]
fn restarts_of_brokers() {
    check(Kind::Brokers, &[2]);
}

#[test]
fn bad_lines() {
    check(Kind::BadLine, &[2]);
    check(Kind::CutOff, &[1]);
    check(Kind::Loss, &[1]);
}

#[test]
fn a_clock_that_is_wrong() {
    check(Kind::Clock, &[2]);
}

#[test]
fn an_outage_beyond_the_bound() {
    check(Kind::Outage, &[1]);
}

#[test]
fn acknowledging_before_the_commit_is_found() {
    proof(Kind::Kill, 6, "acknowledge-before-commit");
}

#[test]
fn commits_without_a_sync_are_found() {
    proof(Kind::PowerCut, 2, "synchronous-normal");
}

#[test]
fn deletion_before_the_acknowledgement_is_found() {
    proof(Kind::CutOff, 1, "delete-before-puback");
}

/// The compiler itself refuses the switches where assertions are off, as they are in a release.
#[test]
fn no_release_has_the_switches() {
    let site = support::Site::new();
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/daemon/tidegate/faults.rs");
    let refused = |assertions: &str| {
        let output = std::process::Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "lib",
                "--emit",
                "metadata",
                "--out-dir",
            ])
            .arg(site.path(""))
            .args(["-C", &format!("debug-assertions={assertions}"), sources])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).contains("has no place in a release")
    };
    // What it imports is not there in either case.
    assert_eq!((refused("off"), refused("on")), (true, false));
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let manifest = manifest.unwrap();
    let default = manifest
        .lines()
        .find(|line| line.starts_with("default = ["));
    let default = default.expect("there are default features");
    assert!(
        !default.contains("test-faults"),
        "and nobody has them by default"
    );
}

/// Lives of a gateway with so many strikes each: the first with a fixed seed, the rest with new ones.
#[track_caller]
fn check(kind: Kind, strikes: &[u64]) {
    if !kind.can() {
        return;
    }
    let stand = Stand::start();
    let mut seed = 1;
    for (number, strikes) in (0..).zip(strikes) {
        let judged = Case::new(kind, number, seed, *strikes).run(&stand);
        let name = kind.name();
        assert!(
            judged.is_ok(),
            "SEED={seed} STRIKES={strikes} CASES={name}:{number} make faults does it again: {judged:?}"
        );
        seed = rng::seed();
    }
}

/// The same case on a daemon that is broken on purpose must find a loss. Chance may spare one run, not five.
#[track_caller]
fn proof(kind: Kind, strikes: u64, broken: &'static str) {
    if !kind.can() {
        return;
    }
    let stand = Stand::start();
    let found = (0..5).any(|number| {
        let case = Case::new(kind, number, rng::seed(), strikes).with(broken);
        case.run(&stand).is_err_and(|violations| {
            violations
                .iter()
                .any(|violation| matches!(violation, Violation::Lost { .. }))
        })
    });
    assert!(found, "{broken} went unnoticed");
}
