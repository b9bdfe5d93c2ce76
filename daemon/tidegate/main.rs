//! Tidegate: the daemon of an industrial edge gateway, and the commands around it.
//!
//! `daemon/ARCHITECTURE.md` shows the way of one reading through the tree.

mod audit;
mod brought;
mod built;
mod cli;
mod clock;
mod commands;
mod config;
mod control;
#[cfg(feature = "demo")]
mod demo;
mod deploy;
mod driver;
mod duplicates;
mod factory;
#[cfg(feature = "test-faults")]
mod faults;
mod first;
mod gateway;
mod identity;
mod install;
mod kept;
mod log;
mod modules;
mod notify;
mod observe;
mod operator;
mod recount;
mod replay;
mod rollouts;
mod signed;
mod supervise;
mod time;
mod tryout;
mod waiting;
mod wear;
mod wiring;
mod worker;
mod writer;

use clap::Parser;

fn main() -> std::process::ExitCode {
    cli::run(cli::Arguments::parse())
}
