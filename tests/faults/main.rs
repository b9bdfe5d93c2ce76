//! `make faults`: every kind of fault many times over, under an hour. Prints the seed and a line for each case;
//! `SEED=… CASES=…` runs some of them again, where CASES names kinds and numbers (`kill,synckill:17`), with STRIKES=… other
//! strikes than the suite's own.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a panic is a case's report, and its figures are small"
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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cases::{Case, Kind};
use stand::Stand;

/// Cases that run side by side. They mostly wait: for windows to close, for syncs, for a process to start.
const SIDE_BY_SIDE: usize = 3;

fn main() -> std::process::ExitCode {
    let (seed, begin) = (rng::seed(), Instant::now());
    let wanted = std::env::var("CASES").unwrap_or_default();
    println!("SEED={seed} CASES={wanted}");
    let cases: Vec<Case> = all(seed)
        .into_iter()
        .filter(|case| is_wanted(case, &wanted))
        .collect();
    let (count, queue) = (cases.len(), Mutex::new(cases.into_iter()));
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                let stand = Stand::start();
                loop {
                    let Some(case) = queue.lock().unwrap().next() else {
                        return;
                    };
                    // A wait that was given up is a panic; it says for what.
                    let judged = catch_unwind(AssertUnwindSafe(|| case.run(&stand)));
                    if judged.is_err() {
                        println!("FAIL  {case}  gave up, see above");
                    }
                    if !matches!(judged, Ok(Ok(_))) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    println!("{count} cases, {failed} failed, {minutes:.0} min; SEED={seed}");
    std::process::ExitCode::from(u8::from(failed > 0))
}

/// The whole suite: lives of a gateway by kind, and faults in each.
fn all(seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        if !kind.can() {
            continue;
        }
        // Kinds that count calls strike at another one each time.
        let strikes: Vec<u64> = match kind {
            Kind::Kill => vec![20; 25],
            Kind::StartKill => (1..=30).collect(),
            Kind::SyncKill => (1..=200).collect(),
            Kind::PowerCut => vec![10; 10],
            Kind::Canary => vec![8; 6],
            Kind::NoSpace => vec![3; 6],
            Kind::WriteError | Kind::SyncError => (0..15).map(|n| 1 + n * n).collect(),
            Kind::ReadOnly => vec![4; 6],
            Kind::Damage => vec![2; 6],
            Kind::SlowDisk => vec![2; 4],
            Kind::Brokers => vec![6; 5],
            Kind::BadLine => vec![6; 10],
            Kind::CutOff => vec![3; 5],
            Kind::Loss => vec![2; 4],
            Kind::Clock => vec![4; 6],
            Kind::Outage => vec![1; 3],
        };
        let numbers = 0..;
        let other = std::env::var("STRIKES").ok();
        let other = other.map(|strikes| strikes.parse().expect("STRIKES is a number"));
        let strikes = strikes.into_iter().map(|own| other.unwrap_or(own));
        cases.extend(
            numbers
                .zip(strikes)
                .map(|(number, strikes)| Case::new(kind, number, seed, strikes)),
        );
    }
    cases
}

fn is_wanted(case: &Case, wanted: &str) -> bool {
    wanted.is_empty()
        || wanted
            .split(',')
            .any(|wanted| match wanted.split_once(':') {
                Some((name, number)) => {
                    name == case.kind.name() && number.parse() == Ok(case.number)
                }
                None => wanted == case.kind.name(),
            })
}
