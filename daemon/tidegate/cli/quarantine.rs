//! `tidegate quarantine`: what was set aside and why, and what is to become of it. Looking works on a stopped and on a
//! running gateway; replaying and dropping go to the running one over its control socket.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_domain::quarantine::{Action, Selection};
use tidegate_store::{OpenOrder, QuarantineEntry, QuarantinedRow, Reader, RowState};

use super::{DONE, Failure, Site, say, say_json};
use crate::config::Config;
use crate::{control, time};

/// How often an order that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print what is in quarantine, newest first, and the orders under way
    List(List),
    /// Print one row: its payload or readings, the reason, and what ran
    Show(Show),
    /// Send rows through the present decoder and filters again, each exactly once
    ///
    /// A message goes through the decoder of its source and every pipeline that reads it. Readings go through the chain of
    /// their pipeline from the filter on that failed on them. What fails again stays, with the new reason. The order is
    /// durable when this returns, and is carried out beside live data; `list` shows how far it is.
    Replay(Order),
    /// Discard rows for ever
    Drop(Order),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    site: Site,
    /// Messages of this source alone
    #[arg(long, value_name = "NAME", conflicts_with = "pipeline")]
    source: Option<String>,
    /// Readings of this pipeline alone
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Rows set aside for this reason alone
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Rows below this number alone: the next page
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    /// Rows on one page
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    site: Site,
    /// The row's number, from `list`
    id: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Order {
    #[command(flatten)]
    site: Site,
    /// Rows by their numbers, from `list`
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    /// Every row
    #[arg(long)]
    all: bool,
    /// Messages of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Readings of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Rows set aside for this reason; can go with a source or a pipeline
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Return when the order is carried out, rather than when it is accepted
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 1 when the store cannot be read, a row is not there, or the gateway does not run or refuses.
pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Replay(arguments) => order(Action::Replay, arguments),
        Command::Drop(arguments) => order(Action::Drop, arguments),
    }
}

/// A page of `list --json`.
#[derive(Serialize)]
struct Page<'a> {
    items: &'a [QuarantineEntry],
    orders: &'a [OpenOrder],
    /// What to give as `--before` for the next page.
    next: Option<u64>,
}

fn list(arguments: &List) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let reader = open(&config)?;
    let selection = Selection {
        source: arguments.source.clone(),
        pipeline: arguments.pipeline.clone(),
        reason: arguments.reason.clone(),
        ..Selection::default()
    };
    let limit = usize::try_from(arguments.limit)?;
    let items = reader.quarantine(&selection, arguments.before, limit)?;
    let orders = reader.orders()?;
    let next = (items.len() == limit)
        .then(|| items.last().map(|last| last.id))
        .flatten();
    if arguments.json {
        say_json(&Page {
            items: &items,
            orders: &orders,
            next,
        })?;
        return Ok(DONE);
    }
    for order in &orders {
        say(format_args!(
            "order {}: {} {}, {} done, {} failed again",
            order.order,
            order.action.as_str(),
            order.selection,
            order.through,
            order.failed
        ))?;
    }
    if items.is_empty() {
        say("no such rows in quarantine")?;
    }
    for entry in &items {
        say(line(entry))?;
    }
    if let Some(next) = next {
        say(format_args!("there may be more: --before {next}"))?;
    }
    Ok(DONE)
}

fn line(entry: &QuarantineEntry) -> String {
    let what = match (&entry.source, &entry.pipeline) {
        (Some(source), _) => format!(
            "message of {source} on {}",
            entry.topic.as_deref().unwrap_or_default()
        ),
        (None, pipeline) => format!(
            "{} readings of {} at {}",
            entry.count,
            pipeline.as_deref().unwrap_or_default(),
            entry.filter.as_deref().unwrap_or_default()
        ),
    };
    let mut line = format!(
        "{:>8}  {}  {what}: {}: {}",
        entry.id,
        time::show(entry.arrival),
        entry.reason,
        entry.detail
    );
    if entry.is_cut() {
        line.push_str(" (cut: cannot be replayed)");
    }
    if entry.attempts > 0 {
        line.push_str(&format!(" ({} replays failed)", entry.attempts));
    }
    match entry.state {
        RowState::Held => {}
        RowState::Replaying | RowState::Dropping => {
            line.push_str(&format!(" [{}]", entry.state.as_str()));
        }
    }
    line
}

/// A row of `show --json`.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    entry: &'a QuarantineEntry,
    cut: bool,
    /// The payload where it is UTF-8.
    payload: Option<&'a str>,
    /// The payload in hex where it is not.
    payload_hex: Option<String>,
    /// The readings as they entered the filter.
    readings: Option<Vec<Reading>>,
    /// The chain that ran: its filters with their modules.
    slots: &'a [tidegate_domain::outcome::SlotGeneration],
    /// Why the readings cannot be shown.
    damaged: Option<String>,
}

/// One reading of a row.
#[derive(Serialize)]
struct Reading {
    series: String,
    time: String,
    value: serde_json::Value,
    quality: &'static str,
}

fn show(arguments: &Show) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let row = open(&config)?.quarantined(arguments.id)?.ok_or_else(|| {
        anyhow::anyhow!(
            "there is no row {} in quarantine; it may have been replayed, dropped or given up: see \
             `tidegate quarantine list` and `tidegate ledger`",
            arguments.id
        )
    })?;
    let whole = whole(&row);
    if arguments.json {
        say_json(&whole)?;
        return Ok(DONE);
    }
    print(&whole)?;
    Ok(DONE)
}

fn whole(row: &QuarantinedRow) -> Whole<'_> {
    let message = row.entry.source.is_some();
    let payload = std::str::from_utf8(&row.data).ok().filter(|_| message);
    let (readings, damaged) = if message {
        (None, None)
    } else {
        match row.readings() {
            Ok(batch) => (Some(readings(&batch)), None),
            Err(error) => (None, Some(error)),
        }
    };
    Whole {
        entry: &row.entry,
        cut: row.entry.is_cut(),
        payload_hex: (message && payload.is_none()).then(|| hex(&row.data)),
        payload,
        readings,
        slots: &row.slots,
        damaged,
    }
}

fn readings(batch: &tidegate_domain::Batch) -> Vec<Reading> {
    let reading = |row| Reading {
        series: batch.name(row).as_ref().to_owned(),
        time: time::show(batch.time[row]),
        value: super::history::json_value(batch.value(row)),
        quality: batch.quality(row).as_str(),
    };
    (0..batch.len()).map(reading).collect()
}

fn print(whole: &Whole<'_>) -> Result<(), Failure> {
    let entry = whole.entry;
    say(format_args!(
        "row        {} ({})",
        entry.id,
        entry.state.as_str()
    ))?;
    say(format_args!("arrived    {}", time::show(entry.arrival)))?;
    if let Some(source) = &entry.source {
        say(format_args!("source     {source}"))?;
    }
    if let Some(topic) = &entry.topic {
        say(format_args!("topic      {topic}"))?;
    }
    if let Some(pipeline) = &entry.pipeline {
        say(format_args!("pipeline   {pipeline}"))?;
    }
    if let Some(filter) = &entry.filter {
        say(format_args!("filter     {filter}"))?;
    }
    if let Some(generation) = &entry.generation {
        say(format_args!("generation {generation}"))?;
    }
    for slot in whole.slots {
        say(format_args!(
            "           {} = {} {} {}",
            slot.filter, slot.module, slot.version, slot.digest
        ))?;
    }
    say(format_args!("reason     {}", entry.reason))?;
    say(format_args!("detail     {}", entry.detail))?;
    say(format_args!("attempts   {} replays failed", entry.attempts))?;
    if whole.cut {
        say(format_args!(
            "payload    {} of {} bytes were kept: it cannot be replayed",
            entry.kept, entry.length
        ))?;
    }
    if let Some(payload) = whole.payload {
        say(format_args!("payload    {payload}"))?;
    }
    if let Some(payload) = &whole.payload_hex {
        say(format_args!("payload    no UTF-8; in hex: {payload}"))?;
    }
    if let Some(damaged) = &whole.damaged {
        say(format_args!("readings   {damaged}"))?;
    }
    for reading in whole.readings.iter().flatten() {
        say(format_args!(
            "reading    {}  {} = {} ({})",
            reading.time, reading.series, reading.value, reading.quality
        ))?;
    }
    Ok(())
}

fn order(action: Action, arguments: &Order) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let selection = Selection {
        ids: arguments.ids.clone(),
        all: arguments.all,
        source: arguments.source.clone(),
        pipeline: arguments.pipeline.clone(),
        reason: arguments.reason.clone(),
    };
    let selection = selection.checked().map_err(|why| anyhow::anyhow!(why))?;
    let path = format!("/api/v1/quarantine/{}", action.as_str());
    let body = serde_json::to_value(&selection)?;
    let answer = control::post(&config.gateway.state_dir, &path, &body)?;
    let number = answer["order"].as_u64().unwrap_or_default();
    if arguments.wait {
        wait(&open(&config)?, number)?;
    }
    if arguments.json {
        say_json(&answer)?;
        return Ok(DONE);
    }
    let what = match (action, arguments.wait) {
        (Action::Replay, false) => "will be replayed",
        (Action::Replay, true) => "were replayed",
        (Action::Drop, false) => "will be dropped",
        (Action::Drop, true) => "were dropped",
    };
    say(format_args!(
        "order {number}: {} rows {what}",
        answer["rows"]
    ))?;
    for (why, rows) in answer["refused"].as_object().into_iter().flatten() {
        say(format_args!("{rows} rows stay: {why}"))?;
    }
    Ok(DONE)
}

/// Waits until an order is no longer under way.
fn wait(reader: &Reader, number: u64) -> Result<(), Failure> {
    while reader.orders()?.iter().any(|order| order.order == number) {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn open(config: &Config) -> Result<Reader, Failure> {
    Ok(Reader::open(&crate::wiring::database(config), &[])?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
