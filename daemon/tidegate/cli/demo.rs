//! `tidegate demo`: the whole gateway on simulated sensors, in one process.

use std::time::Duration;

use clap::Args;

use super::{DONE, FAILURE, Failure, say};
use crate::config::parse_duration;
use crate::{demo, log};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How long to run: "30s", "5m"; until Ctrl-C when not given
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
}

/// Exit code 1 when the ledger does not balance at the end.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    // What the demo shows on purpose, quarantined payloads among it, must not drown in the log.
    let recent = log::start("error,rumqttd=off");
    let ledger = demo::run(arguments.duration, recent)?;
    say("")?;
    say(super::ledger::text(&ledger.ledger))?;
    for problem in &ledger.problems {
        say(format_args!("DOES NOT BALANCE  {problem}"))?;
    }
    if ledger.problems.is_empty() {
        say("the ledger balances and matches the rows")?;
        Ok(DONE)
    } else {
        Ok(FAILURE)
    }
}
