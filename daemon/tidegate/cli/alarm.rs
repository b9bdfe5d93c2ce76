//! `tidegate alarm`: which alarms hold, and which series are silent.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_status::view::{AlarmRow, StaleRow};
use tidegate_store::Reader;

use super::{DONE, Failure, Site, say, say_json};
use crate::{observe, wiring};

/// More alarms than these are counted, and not printed.
const LINES: usize = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List alarms that hold and series that are silent, of a running or a stopped gateway
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::List(arguments) => list(arguments),
    }
}

fn list(arguments: &List) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let path = wiring::database(&config);
    let reader = Reader::open(&path, &[]).with_context(|| {
        format!(
            "has this gateway run before? its store is {}",
            path.display()
        )
    })?;
    let alarms: Vec<AlarmRow> = reader
        .alarms(LINES)?
        .iter()
        .map(observe::alarm_row)
        .collect();
    let stale: Vec<StaleRow> = reader
        .stale_series(LINES)?
        .iter()
        .map(observe::stale_row)
        .collect();
    if arguments.json {
        say_json(&json!({ "alarms": alarms, "stale": stale }))?;
        return Ok(DONE);
    }
    for alarm in &alarms {
        let owner = match (&alarm.source, &alarm.pipeline) {
            (Some(source), _) => format!("source {source}"),
            (None, Some(pipeline)) => format!("pipeline {pipeline}"),
            (None, None) => String::new(),
        };
        let by = alarm.acknowledged_by.as_ref();
        say(format_args!(
            "{:<8} {:<12} {:<16} {} ({owner}): {}{}",
            alarm.severity,
            alarm.state,
            alarm.code,
            alarm.series,
            alarm.text,
            by.map(|by| format!(" · acknowledged by {by}"))
                .unwrap_or_default(),
        ))?;
    }
    for series in &stale {
        say(format_args!(
            "silent   {:<29} {}",
            series.source, series.series
        ))?;
    }
    if alarms.is_empty() && stale.is_empty() {
        say("no alarm holds, and no series is silent")?;
    }
    Ok(DONE)
}
