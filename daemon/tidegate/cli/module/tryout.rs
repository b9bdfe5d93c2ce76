//! `tidegate module try`: an unsigned module on copies of what a pipeline of the running gateway gets, heard by nobody.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use tidegate_pipeline::Manifest;
use tidegate_status::TryRequest;

use super::super::{DONE, FAILURE, Failure, Site, say};
use crate::config::parse_duration;
use crate::{control, modules, time, tryout};

const PATH: &str = "/api/v1/modules/try";
/// Lines between two that say how far it is.
const PROGRESS: u64 = 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// The component, a .wasm file; its manifest lies beside it as .json
    file: PathBuf,
    /// The pipeline whose readings it gets
    #[arg(long, value_name = "NAME")]
    pipeline: String,
    /// The filter whose place it takes; default: that which runs a module of its name, else it comes last
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Its settings, a JSON object; default: those of the filter whose place it takes
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,
    /// How long at most, up to an hour
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    time: Duration,
    /// Readings for a verdict; default: `min-samples` of [rollout]
    #[arg(long, value_name = "N")]
    samples: Option<u64>,
    /// Rows that are printed at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print what the gateway says, a line of JSON a second
    #[arg(long)]
    json: bool,
}

/// Exit code 0 when the module passed; 1 when it failed, or there was no verdict.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.time.is_zero() || arguments.time > tryout::MOST {
        let most = tryout::MOST.as_secs() / 60;
        return Err(anyhow::anyhow!("--for takes up to {most}m, and not nothing").into());
    }
    let module = modules::from_files(&arguments.file)?;
    let config = arguments.site.load()?;
    let settings = arguments.settings.as_deref().map(serde_json::from_str);
    let settings: Option<Value> = settings
        .transpose()
        .context("--settings takes a JSON object, such as '{\"max\": 10}'")?;
    let request = TryRequest {
        pipeline: arguments.pipeline.clone(),
        filter: arguments.filter.clone(),
        settings,
        seconds: arguments.time.as_secs().max(1),
        samples: arguments.samples,
        manifest: serde_json::to_value(&module.manifest)?,
        component: module.component.clone(),
    };
    let mut body = serde_json::to_vec(&request)?;
    body.push(b'\n');
    body.extend_from_slice(&module.component);
    let mut watch = Watch {
        arguments,
        manifest: &module.manifest,
        begun: false,
        told: 0,
        left: Some(arguments.limit),
        passed: None,
    };
    let followed = control::follow(&config.gateway.state_dir, PATH, &body, |line| {
        watch.take(&line)
    });
    followed?;
    match watch.passed {
        Some(true) => Ok(DONE),
        Some(false) => Ok(FAILURE),
        None => {
            let why =
                "the gateway ended the connection before there was a verdict; its log says why";
            Err(anyhow::anyhow!(why).into())
        }
    }
}

/// Whoever looks on.
struct Watch<'a> {
    arguments: &'a Arguments,
    manifest: &'a Manifest,
    begun: bool,
    /// Seconds of the trial when its state was told last.
    told: u64,
    /// Rows that may still be printed; `None` once it was said that there are more.
    left: Option<usize>,
    passed: Option<bool>,
}

impl Watch<'_> {
    fn take(&mut self, line: &Value) -> anyhow::Result<()> {
        let state = text(&line["state"]);
        if state == "judged" {
            self.passed = line["verdict"]["passed"].as_bool();
        }
        if self.arguments.json {
            return print(line);
        }
        match state {
            "compiling" | "starting" => Ok(()),
            "broken" => bail!("{}", text(&line["why"])),
            _ => {
                self.begin(line)?;
                self.examples(line)?;
                let elapsed = line["elapsed_seconds"].as_u64().unwrap_or_default();
                if state == "judged" {
                    progress(line)?;
                    return self.verdict(line);
                }
                if elapsed >= self.told + PROGRESS {
                    self.told = elapsed;
                    progress(line)?;
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, line: &Value) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let module = &line["module"];
        print(format_args!(
            "{} {} {} runs on copies of pipeline `{}`, {}, and is heard by nobody: until {} readings are judged, for {} s at \
             most",
            self.manifest.name,
            self.manifest.version,
            text(&module["digest"]),
            text(&module["pipeline"]),
            text(&module["place"]),
            line["min_samples"],
            self.arguments.time.as_secs()
        ))
    }

    fn examples(&mut self, line: &Value) -> anyhow::Result<()> {
        for row in items(&line["rows"]) {
            if !self.room()? {
                return Ok(());
            }
            print(format_args!(
                "{}  {}  {} → {}",
                at(row),
                text(&row["series"]),
                fate(&row["present"]),
                fate(&row["candidate"])
            ))?;
        }
        for alarm in items(&line["alarms"]) {
            if !self.room()? {
                return Ok(());
            }
            print(format_args!(
                "{}  {}  alarm {} {}: {}",
                at(alarm),
                text(&alarm["series"]),
                text(&alarm["code"]),
                text(&alarm["state"]),
                match alarm["candidate"].as_bool() {
                    Some(true) => "would come as well",
                    Some(false) | None => "would not come",
                }
            ))?;
        }
        Ok(())
    }

    /// Whether another row may be printed; says once that there are more.
    fn room(&mut self) -> anyhow::Result<bool> {
        let Some(left) = self.left else {
            return Ok(false);
        };
        self.left = left.checked_sub(1);
        if self.left.is_none() {
            print("… and more: raise --limit")?;
        }
        Ok(self.left.is_some())
    }

    fn verdict(&self, line: &Value) -> anyhow::Result<()> {
        let verdict = &line["verdict"];
        if self.passed == Some(true) {
            return print("verdict: passed: as a new version it would be promoted");
        }
        print(format_args!(
            "verdict: {}: {}",
            text(&verdict["reason"]),
            text(&verdict["why"])
        ))?;
        let filter = &line["filter"]["last_error"];
        if !filter.is_null() {
            print(format_args!(
                "its last failure: {}",
                text(&filter["detail"])
            ))?;
        }
        print(match text(&verdict["reason"]) {
            "difference" => {
                "as a new version it would be put back, unless `differences` of [rollout] lets it answer otherwise"
            }
            "samples" => {
                "nothing speaks against it so far: try it for longer, or with fewer --samples"
            }
            _ => "as a new version it would be put back",
        })
    }
}

fn progress(line: &Value) -> anyhow::Result<()> {
    let failures = |side: &Value| -> u64 {
        let kinds = ["traps", "timeouts", "invalid_outputs", "faults"];
        kinds.iter().filter_map(|kind| side[*kind].as_u64()).sum()
    };
    let differing = sum(&line["differing"]);
    print(format_args!(
        "{} of {} readings judged, {differing} came out otherwise; calls failed: {} (active: {}); batch p99: {} (active: {})",
        line["samples"],
        line["min_samples"],
        failures(&line["candidate"]),
        failures(&line["active"]),
        micros(&line["candidate"]),
        micros(&line["active"]),
    ))
}

fn sum(kinds: &Value) -> u64 {
    let kinds = kinds.as_object().into_iter().flatten();
    kinds.filter_map(|(_, count)| count.as_u64()).sum()
}

fn micros(side: &Value) -> String {
    let nanoseconds = side["cpu_p99"].as_u64().unwrap_or_default();
    format!("{} µs", nanoseconds / 1000)
}

fn fate(fate: &Value) -> String {
    match text(&fate["as"]) {
        "stored" => match text(&fate["quality"]) {
            "good" => fate["value"].to_string(),
            quality => format!("{} ({quality})", fate["value"]),
        },
        "quarantined" => format!(
            "quarantine ({}: {})",
            text(&fate["reason"]),
            text(&fate["detail"])
        ),
        _ => "nothing".to_owned(),
    }
}

fn at(row: &Value) -> String {
    time::show(row["time"].as_i64().unwrap_or_default())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn print(line: impl std::fmt::Display) -> anyhow::Result<()> {
    say(line).map_err(|failure| failure.error)
}
