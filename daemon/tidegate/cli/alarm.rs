//! `tidegate alarm`: which alarms hold, which series are silent, and that somebody knows.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_domain::alarm::Request;
use tidegate_status::view::{AlarmRow, StaleRow};
use tidegate_store::Reader;

use super::{DONE, Failure, Site, say, say_json};
use crate::{control, observe, wiring};

/// More alarms than these are counted, and not printed.
const LINES: usize = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List alarms that hold and series that are silent, of a running or a stopped gateway
    List(List),
    /// Acknowledge alarms that are raised, in the running gateway: they stay until they are cleared
    Acknowledge(Acknowledge),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Acknowledge {
    #[command(flatten)]
    site: Site,
    /// Alarms of these series; `**` for all
    #[arg(value_name = "GLOB")]
    series: String,
    /// Of this pipeline alone
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Of this source alone
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// With this code alone
    #[arg(long)]
    code: Option<String>,
    /// Who acknowledges; it stands in the alarm
    #[arg(long, value_name = "NAME", env = "USER")]
    by: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Acknowledge(arguments) => acknowledge(arguments),
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

fn acknowledge(arguments: &Acknowledge) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let request = Request {
        series: arguments.series.clone(),
        pipeline: arguments.pipeline.clone(),
        source: arguments.source.clone(),
        code: arguments.code.clone(),
        by: arguments.by.clone(),
    };
    let body = serde_json::to_value(&request)?;
    let dir = &config.gateway.state_dir;
    let answer = control::post(dir, "/api/v1/alarms/acknowledge", &body)?;
    if arguments.json {
        say_json(&answer)?;
    } else {
        say(format_args!(
            "alarms acknowledged: {}",
            answer["acknowledged"]
        ))?;
    }
    Ok(DONE)
}
