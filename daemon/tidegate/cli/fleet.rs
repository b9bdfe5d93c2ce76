//! `tidegate fleet`: the publisher's look at its gateways, and the waves of a release.

mod broker;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_domain::channel::{Channel, Name};
use tidegate_domain::fleet::{Decision, Fleet, Idle, Tally, Vote, Waiting};
use tidegate_publish::{Error, Journal, Repository, Validity};

use super::repo::{Keeping, now};
use super::{DONE, Failure, say, say_json};
use crate::clock;

/// Failures that are listed; the rest is counted.
const LISTED: usize = 20;
/// Different lists of modules that are counted apart.
const INVENTORIES: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Hear what gateways report of a channel, open its next wave or halt it, until SIGTERM
    ///
    /// It is for documents that were published with --staged; `tidegate fleet status` says what it waits for. What gateways
    /// reported lies in the state directory and is acknowledged once it is on the disk, so that it can be killed at any time. Run it on
    /// the machine that has the repository and the keys of targets, snapshot and timestamp; while it does not run, no further wave
    /// opens.
    Run(Run),
    /// Print what the gateways of a channel run, and what its next wave waits for
    Status(Status),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    keeping: Keeping,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    broker: broker::Arguments,
    /// End when the channel's waves are through, or, with exit code 1, when it is halted
    #[arg(long)]
    until_done: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// The repository, the directory that holds metadata/ and targets/
    dir: PathBuf,
    #[command(flatten)]
    of: Of,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which gateways.
#[derive(Debug, Args)]
struct Of {
    /// The channel
    #[arg(long)]
    channel: Name,
    /// A directory for what gateways reported, the same on every start
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => watch::run(arguments),
        Command::Status(arguments) => status(arguments),
    }
}

fn status(arguments: &Status) -> Result<u8, Failure> {
    let Status { dir, of, json } = arguments;
    let repository = Repository::open(dir, now()?, Validity::default())?;
    let document = document(&repository, &of.channel)?;
    drop(repository);
    let mut fleet = Journal::look(&of.state, &of.channel)?;
    let now = clock::wall() / 1_000_000;
    fleet.follow(&document, now);
    let standing = Standing::of(&fleet, &document, now);
    if *json {
        say_json(&standing)?;
    } else {
        standing.print()?;
    }
    Ok(DONE)
}

/// The channel's newest document.
fn document(repository: &Repository, channel: &Name) -> Result<Channel, Error> {
    let document = repository.channel(channel)?;
    document.ok_or_else(|| Error::Unknown {
        what: format!("channel `{channel}`"),
        next: "`tidegate repo publish` begins one".to_owned(),
    })
}

/// What is printed of a channel.
#[derive(Serialize)]
struct Standing {
    channel: String,
    epoch: u64,
    /// The epoch that began what the channel gives.
    since: u64,
    /// The open wave, from 1, and how many there are; absent where the document is not staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    wave: Option<OpenWave>,
    state: &'static str,
    /// For people.
    text: String,
    #[serde(flatten)]
    tally: Tally,
    /// Gateways by what they took last.
    runs: Vec<Runs>,
    /// What was halted last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_halt: Option<Halted>,
    /// Some of those that refused it.
    failures: Vec<Failed>,
}

#[derive(Serialize)]
struct OpenWave {
    number: usize,
    of: usize,
    percent: tidegate_domain::channel::Percent,
    soak_seconds: u64,
}

#[derive(Serialize)]
struct Runs {
    modules: String,
    gateways: u32,
}

#[derive(Serialize)]
struct Halted {
    since: u64,
    reason: String,
}

#[derive(Serialize)]
struct Failed {
    gateway: String,
    epoch: u64,
    reason: String,
    /// Milliseconds since the epoch of Unix.
    time: i64,
}

impl Standing {
    fn of(fleet: &Fleet, document: &Channel, now: i64) -> Self {
        let since = document.placed_by();
        let decision = fleet.decide(document, now);
        let (state, text) = words(&decision, document);
        let wave = document.staged.as_ref().and_then(|staged| {
            let open = staged.waves.get(staged.wave)?;
            Some(OpenWave {
                number: staged.wave + 1,
                of: staged.waves.len(),
                percent: open.percent,
                soak_seconds: open.soak.as_secs(),
            })
        });
        let mut runs: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, gateway) in fleet.gateways() {
            let known = runs.len() < INVENTORIES || runs.contains_key(gateway.runs.as_str());
            let modules = match (gateway.runs.is_empty(), known) {
                (true, _) => "unknown",
                (false, true) => gateway.runs.as_str(),
                (false, false) => "others",
            };
            *runs.entry(modules).or_default() += 1;
        }
        let mut runs: Vec<Runs> = runs
            .into_iter()
            .map(|(modules, gateways)| Runs {
                modules: modules.to_owned(),
                gateways,
            })
            .collect();
        runs.sort_by_key(|runs| std::cmp::Reverse(runs.gateways));
        let failures = fleet
            .gateways()
            .filter(|(_, gateway)| gateway.epoch >= since && gateway.vote == Vote::Failed);
        let failures = failures.take(LISTED).map(|(name, gateway)| Failed {
            gateway: name.to_owned(),
            epoch: gateway.epoch,
            reason: gateway.reason.clone(),
            time: gateway.heard,
        });
        Self {
            channel: document.channel.to_string(),
            epoch: document.epoch,
            since,
            wave,
            state,
            text,
            tally: fleet.tally(document),
            runs,
            last_halt: fleet.last_halt().map(|(since, why)| Halted {
                since,
                reason: why.to_owned(),
            }),
            failures: failures.collect(),
        }
    }

    fn print(&self) -> Result<(), Failure> {
        say(format_args!(
            "channel   {} epoch {}",
            self.channel, self.epoch
        ))?;
        if let Some(wave) = &self.wave {
            say(format_args!(
                "wave      {} of {}: {} % of the gateways",
                wave.number, wave.of, wave.percent
            ))?;
        }
        say(format_args!("state     {}", self.text))?;
        let tally = &self.tally;
        say(format_args!(
            "gateways  {} known, {} in the wave: {} trying, {} took it, {} failed; {} outside of it said something",
            tally.gateways, tally.wave, tally.trying, tally.taken, tally.failed, tally.outside
        ))?;
        for runs in &self.runs {
            say(format_args!(
                "runs      {:>7}  {}",
                runs.gateways, runs.modules
            ))?;
        }
        if let Some(halt) = &self.last_halt {
            say(format_args!(
                "halted    what began with epoch {}: {}",
                halt.since, halt.reason
            ))?;
        }
        for failed in &self.failures {
            say(format_args!(
                "failed    {}: {}",
                failed.gateway, failed.reason
            ))?;
        }
        Ok(())
    }
}

/// A decision in a word and in a sentence.
fn words(decision: &Decision, document: &Channel) -> (&'static str, String) {
    match decision {
        Decision::Idle(Idle::NotStaged) => (
            "not-staged",
            "the document spreads by time alone".to_owned(),
        ),
        Decision::Idle(Idle::Halted) => (
            "halted",
            format!("halted: {}", document.halted().unwrap_or_default()),
        ),
        Decision::Idle(Idle::Through) => ("through", "all waves are through".to_owned()),
        Decision::Wait(Waiting::Soak { left }) => (
            "soaking",
            format!("the wave tries for another {}", rough(*left)),
        ),
        Decision::Wait(Waiting::Taken { taken, needed }) => (
            "waiting",
            format!("{taken} gateways of the wave took it, {needed} have to"),
        ),
        Decision::Wait(Waiting::Anybody) => (
            "waiting",
            "no gateway of the channel was heard yet".to_owned(),
        ),
        Decision::Widen => ("widening", "the next wave opens".to_owned()),
        Decision::Halt { why } => ("halting", format!("to be halted: {why}")),
    }
}

/// A time in whole minutes, or seconds where there are few.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{}:{:02} h", seconds / 3600, seconds % 3600 / 60),
    }
}
