//! A fleet of two thousand: a bad release is halted before it reaches a two-hundredth of it, a good one reaches all but a few, and
//! the repository is asked evenly. `make fleet` is the same with a hundred thousand.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic is a test's report"
)]

mod scenarios;
mod world;

use scenarios::scenarios;

const GATEWAYS: u32 = 2000;

#[test]
fn a_bad_release_is_halted_a_good_one_spreads_and_the_repository_is_asked_evenly() {
    let mut problems = Vec::new();
    println!("{}", scenarios::head());
    for scenario in scenarios(GATEWAYS, 1) {
        let outcome = scenario.run();
        println!("{}", scenario.row(&outcome));
        problems.extend(scenario.problems(&outcome));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn every_number_follows_from_the_seed() {
    let of = |seed| scenarios(500, seed)[3].run();
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}
