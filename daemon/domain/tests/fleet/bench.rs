//! `make fleet`: the table of `scenarios` for `GATEWAYS` (100,000) gateways by `SEED` (1); exit code 1 where a bound does not hold.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for developers, which says what it found"
)]

mod scenarios;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().unwrap())
    };
    let gateways = u32::try_from(number("GATEWAYS", 100_000)).unwrap();
    let seed = number("SEED", 1);
    println!("{gateways} gateways, SEED={seed}\n{}", scenarios::head());
    let mut problems = Vec::new();
    for scenario in scenarios::scenarios(gateways, seed) {
        let outcome = scenario.run();
        println!("{}", scenario.row(&outcome));
        problems.extend(scenario.problems(&outcome));
    }
    for problem in &problems {
        println!("FAILED  {problem}");
    }
    if problems.is_empty() {
        println!("all bounds hold");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
