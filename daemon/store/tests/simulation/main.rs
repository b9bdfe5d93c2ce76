//! A seeded simulation: the real store and the real delivery machine on a disk, a clock and a line that break.
//!
//! A run is a list of operations made out of one number. After each end of the process or the power, and at the end of
//! the run, everything that was promised is compared with a recomputation. A run that breaks a promise is shrunk to the
//! few operations that do it.
//!
//! `SIM_SEED` and `SIM_STEPS` make other and longer runs: `SIM_STEPS=10000000 cargo test -p tidegate-store --test
//! simulation -- --nocapture`.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a panic is a test's report"
)]

mod disk;
mod line;
mod model;
mod op;
mod paper;
mod random;
mod shrink;
mod vfs;
mod world;

use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use crate::disk::{Call, Ending};
use crate::model::Violation;
use crate::op::{Op, Setting, Shape};
use crate::random::Random;
use crate::world::{Counts, Mistake};

const SEED: u64 = 2026;
/// Operations of one run.
const RUN: usize = 1_000;
/// Operations on the real store, in continuous integration.
const STORE_STEPS: u64 = 40_000;
/// Steps of the pure machines, likewise.
const PAPER_STEPS: u64 = 1_000_000;

/// A number out of the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a whole number"),
        Err(_) => default,
    }
}

/// Makes runs until they have had so many operations, and gives what each came to. The first violation is shrunk and
/// told.
fn simulate<T: Clone + Debug, C>(
    seed: u64,
    operations: u64,
    generate: impl Fn(u64) -> Vec<T>,
    run: impl Fn(u64, &[T]) -> Result<C, Violation>,
) -> Result<Vec<C>, String> {
    // A panic is a violation too.
    let run = |seed, ops: &[T]| match panic::catch_unwind(AssertUnwindSafe(|| run(seed, ops))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", said.unwrap_or("without a word")))
        }
    };
    let mut random = Random::new(seed);
    let mut outcomes = Vec::new();
    for nth in 0..operations.div_ceil(RUN as u64) {
        let run_seed = random.next();
        let ops = generate(run_seed);
        match run(run_seed, &ops) {
            Ok(outcome) => outcomes.push(outcome),
            Err(violation) => {
                let all = ops.len();
                let fails = |ops: &[T]| run(run_seed, ops).err();
                let (least, violation) = shrink::shrink(ops, violation, fails);
                let least: Vec<String> = least.iter().map(|op| format!("    {op:?}")).collect();
                return Err(format!(
                    "seed {seed}, run {nth} of seed {run_seed}: {violation}\n  {} of its {all} operations do it:\n{}",
                    least.len(),
                    least.join("\n")
                ));
            }
        }
    }
    Ok(outcomes)
}

fn on_the_store(seed: u64, operations: u64, mistake: Mistake) -> Result<Counts, String> {
    let outcomes = simulate(
        seed,
        operations,
        |seed| op::generate(seed, Setting::of(seed), RUN),
        |seed, ops| world::run(seed, Setting::of(seed), mistake, ops),
    )?;
    let mut counts = Counts::default();
    outcomes.iter().for_each(|outcome| counts.add(outcome));
    Ok(counts)
}

fn on_paper(seed: u64, steps: u64, mistake: Mistake) -> Result<paper::Totals, String> {
    let outcomes = simulate(
        seed,
        steps,
        |seed| paper::generate(seed, RUN),
        |seed, steps| paper::run(seed, mistake, steps),
    )?;
    let mut totals = paper::Totals::default();
    outcomes.iter().for_each(|outcome| totals.add(outcome));
    Ok(totals)
}

#[test]
fn the_store_keeps_its_promises_on_a_disk_and_a_line_that_break() {
    let seed = number("SIM_SEED", SEED);
    let begin = Instant::now();
    match on_the_store(seed, number("SIM_STEPS", STORE_STEPS), Mistake::None) {
        Ok(counts) => println!("seed {seed}, {:?}: {counts:?}", begin.elapsed()),
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn the_pure_machines_keep_them_for_a_million_steps() {
    let seed = number("SIM_SEED", SEED);
    let begin = Instant::now();
    match on_paper(seed, number("SIM_STEPS", PAPER_STEPS), Mistake::None) {
        Ok(totals) => println!("seed {seed}, {:?}: {totals:?}", begin.elapsed()),
        Err(violation) => panic!("{violation}"),
    }
}

/// The proof of the proof: a gateway with a mistake in it must not get through.
#[track_caller]
fn must_be_found(mistake: Mistake, outcome: Result<(), String>, because: &str) {
    match outcome {
        Ok(()) => panic!("{mistake:?} goes unnoticed"),
        Err(violation) => {
            println!("{mistake:?}: {violation}");
            assert!(violation.contains(because), "{violation}");
        }
    }
}

#[test]
fn a_disk_that_does_not_sync_is_found() {
    let mistake = Mistake::NoSync;
    let outcome = on_the_store(SEED, STORE_STEPS, mistake).map(drop);
    must_be_found(mistake, outcome, "the sources' counts are");
}

#[test]
fn acknowledging_before_the_commit_is_found() {
    let mistake = Mistake::AcknowledgesEarly;
    let outcome = on_the_store(SEED, STORE_STEPS, mistake).map(drop);
    must_be_found(mistake, outcome, "was acknowledged and is not committed");
    let outcome = on_paper(SEED, PAPER_STEPS, mistake).map(drop);
    must_be_found(mistake, outcome, "differ from their readings");
}

#[test]
fn deleting_before_the_acknowledgement_is_found() {
    let mistake = Mistake::DeletesEarly;
    let outcome = on_the_store(SEED, STORE_STEPS, mistake).map(drop);
    must_be_found(
        mistake,
        outcome,
        "is neither delivered nor refused nor in a gap",
    );
    let outcome = on_paper(SEED, PAPER_STEPS, mistake).map(drop);
    must_be_found(
        mistake,
        outcome,
        "is neither delivered nor refused nor given up",
    );
}

#[test]
fn a_seed_makes_the_same_run_every_time() {
    let once = on_the_store(SEED, 3 * RUN as u64, Mistake::None);
    assert_eq!(once, on_the_store(SEED, 3 * RUN as u64, Mistake::None));
}

/// What the simulation found: each was a broken promise.
#[track_caller]
fn was_found(ops: &[Op]) {
    let setting = Setting {
        tight: false,
        short_lived: true,
        faults: true,
        clock_steps: true,
    };
    for seed in 0..32 {
        if let Err(violation) = world::run(seed, setting, Mistake::None, ops) {
            panic!("seed {seed}: {violation}");
        }
    }
}

fn publish(messages: u8, shape: Shape) -> Op {
    Op::Publish {
        source: 0,
        messages,
        readings: 3,
        age: 0,
        shape,
    }
}

const TAKE: Op = Op::Take { source: 0, most: 9 };

const POWER_CUT: Op = Op::End {
    ending: Ending::PowerCut,
    again: None,
    battery: true,
};

/// What a failed sync left in the log could be read and was not on the disk: the next process committed behind it.
#[test]
fn a_log_that_failed_to_sync_is_not_built_upon() {
    let kill = Op::End {
        ending: Ending::Kill,
        again: None,
        battery: true,
    };
    let fail = Op::Fail {
        call: Call::Sync,
        after: 0,
        times: 1,
    };
    was_found(&[
        publish(2, Shape::Plain),
        TAKE,
        fail,
        Op::Commit,
        kill,
        publish(1, Shape::Plain),
        TAKE,
        Op::Commit,
        POWER_CUT,
    ]);
}

/// The clock was set while a window was open: its readings were too old, and a crash took them out of it.
#[test]
fn readings_of_an_open_window_do_not_expire() {
    let (alarm, step) = (Shape::Clear { code: 0 }, Op::Step { seconds: 7200 });
    was_found(&[publish(1, alarm), TAKE, step, Op::Look, POWER_CUT]);
}
