//! `tidegate module test FILE --replay 1h`: what a module would have made of what the gateway kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tidegate_domain::outcome::AlarmState;
use tidegate_pipeline::rehearsal::{
    AlarmDifference, BatchDifference, Fate, Rehearsal, RowChange, Sums, Totals,
};
use tidegate_pipeline::{LoadedModule, Module, Profile, Runtime, RuntimeConfig};
use tidegate_store::Reader;

use super::{DONE, Failure, Site, say, say_json};
use crate::brought::Brought;
use crate::config::{Config, parse_duration};
use crate::{clock, gateway, time};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// Rehearse the module on what entered a pipeline for so long (`keep-input`), and print what would change
    ///
    /// The pipeline's present chain and the same chain with this module in it run side by side, both from empty state, with
    /// the time at which each batch arrived for a clock. Instructions are counted instead of time, so that the same input
    /// gives the same output. Golden vectors are not run. Differences are no failure: the exit code is 0.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    replay: Option<Duration>,
    /// The pipeline; needed where several have the module
    #[arg(long, value_name = "NAME", requires = "replay")]
    pipeline: Option<String>,
    /// The filter that the module takes the place of; needed where it is another module's
    #[arg(long, value_name = "NAME", requires = "replay")]
    filter: Option<String>,
    /// Rows that are printed at most; the sums count all
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "replay")]
    limit: usize,
}

impl Arguments {
    /// How far back to go, where a rehearsal is wanted.
    pub(super) fn replay(&self) -> Option<Duration> {
        self.replay
    }
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    module: &'a str,
    version: &'a str,
    digest: &'a str,
    pipeline: &'a str,
    filter: &'a str,
    #[serde(flatten)]
    sums: Sums,
    /// The first of them, as many as were wanted.
    rows: &'a [RowChange],
    alarms: &'a [AlarmDifference],
}

pub(super) fn run(
    arguments: &Arguments,
    replay: Duration,
    module: Module,
    file: &Path,
    json: bool,
) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let (index, filter) = place(&config, &module, arguments)?;
    let mut present = config.clone();
    // Sources and uplinks are named by their places, which stay.
    present.pipelines = vec![config.pipelines[index].clone()];
    let name = present.pipelines[0].name.clone();

    // The engine of the daemon, with a cache of its own that goes with the command.
    let dir = tempfile::tempdir().context("no temporary directory for compiled code")?;
    let compiler =
        std::env::current_exe().context("this program, which also compiles, cannot be found")?;
    let engine = RuntimeConfig {
        profile: Some(Profile::Metered),
        ..RuntimeConfig::new(
            dir.path().join("cache"),
            dir.path().join("secret"),
            compiler,
        )
    };
    let runtime = Runtime::new(engine)?;
    let brought = Brought::read(&config)?;
    let mut loaded = gateway::load_modules(&present, &brought, &runtime)?;
    let candidate = Arc::new(LoadedModule::load(&runtime, module)?);
    let mut other = present.clone();
    // No module is named like a path.
    let key = file.display().to_string();
    other.pipelines[0].filters[filter].module.clone_from(&key);
    loaded.insert(key, Arc::clone(&candidate));
    let chain = |config: &Config| {
        gateway::pipeline(config, &brought, 0, &runtime, &loaded, &<_>::default())
    };
    let mut rehearsal = Rehearsal::new(chain(&present)?, chain(&other)?);

    let since = clock::wall().saturating_sub(i64::try_from(replay.as_nanos()).unwrap_or(i64::MAX));
    let reader = Reader::open(&crate::wiring::database(&config), &[])?;
    let mut printed = Printed {
        json,
        left: arguments.limit,
        rows: Vec::new(),
        alarms: Vec::new(),
    };
    let mut next = Some(0);
    while let Some(first) = next {
        let step = reader.kept_input(&name, since, first)?;
        for batch in step.batches {
            let readings = batch.readings.map_err(|damage| {
                anyhow::anyhow!("a batch that was kept is damaged: {damage}; see `tidegate doctor`")
            })?;
            while let Some(difference) = rehearsal.tick(batch.arrival) {
                printed.take(difference)?;
            }
            printed.take(rehearsal.run(&readings, batch.arrival))?;
        }
        next = step.next;
    }
    let sums = rehearsal.sums();
    if sums.batches == 0 {
        let problem = anyhow::anyhow!(
            "nothing of pipeline `{name}` was kept in that time: set keep-input = \"1h\" in [pipeline.{name}], and come \
             back when some readings have arrived"
        );
        return Err(problem.into());
    }
    let manifest = &candidate.manifest;
    let filter = &present.pipelines[0].filters[filter].name;
    if json {
        say_json(&Report {
            module: &manifest.name,
            version: &manifest.version,
            digest: candidate.inspection.digest.as_str(),
            pipeline: &name,
            filter,
            sums,
            rows: &printed.rows,
            alarms: &printed.alarms,
        })?;
        return Ok(DONE);
    }
    let shown = arguments.limit - printed.left;
    let all = sums.changed_rows + sums.changed_alarms;
    if all > shown as u64 {
        say(format_args!(
            "… and {} more: raise --limit",
            all - shown as u64
        ))?;
    }
    say(format_args!(
        "{} {} as filter `{filter}` of pipeline `{name}`: {} batches",
        manifest.name, manifest.version, sums.batches
    ))?;
    print(&sums)?;
    Ok(DONE)
}

/// The pipeline, and the filter that the module takes the place of.
fn place(
    config: &Config,
    module: &Module,
    arguments: &Arguments,
) -> Result<(usize, usize), Failure> {
    let name = &module.manifest.name;
    let mut found = Vec::new();
    for (index, pipeline) in config.pipelines.iter().enumerate() {
        if arguments
            .pipeline
            .as_ref()
            .is_some_and(|wanted| *wanted != pipeline.name)
        {
            continue;
        }
        for (place, filter) in pipeline.filters.iter().enumerate() {
            let wanted = match &arguments.filter {
                Some(wanted) => filter.name == *wanted,
                None => filter.module == *name,
            };
            if wanted {
                found.push((index, place));
            }
        }
    }
    match found[..] {
        [place] => Ok(place),
        [] => {
            let filters: Vec<String> = config
                .pipelines
                .iter()
                .flat_map(|pipeline| {
                    let filters = pipeline.filters.iter();
                    filters.map(|filter| format!("{}/{}", pipeline.name, filter.name))
                })
                .collect();
            let filters = match filters.is_empty() {
                true => "none".to_owned(),
                false => filters.join(", "),
            };
            Err(anyhow::anyhow!(
                "no such filter runs module `{name}`: say whose place it takes with --pipeline and --filter; there are {filters}"
            )
            .into())
        }
        _ => Err(anyhow::anyhow!(
            "{} filters run module `{name}`: say which with --pipeline and --filter",
            found.len()
        )
        .into()),
    }
}

/// What is said of differences, as they come.
struct Printed {
    json: bool,
    left: usize,
    rows: Vec<RowChange>,
    alarms: Vec<AlarmDifference>,
}

impl Printed {
    fn take(&mut self, difference: BatchDifference) -> Result<(), Failure> {
        for row in difference.rows {
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            if self.json {
                self.rows.push(row);
                continue;
            }
            say(format_args!(
                "{}  {}  {} → {}",
                time::show(row.time),
                row.series,
                fate(row.present.as_ref()),
                fate(row.candidate.as_ref())
            ))?;
        }
        for alarm in difference.alarms {
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            if self.json {
                self.alarms.push(alarm);
                continue;
            }
            say(format_args!(
                "{}  {}  alarm {} {}: {}",
                time::show(alarm.time),
                alarm.series,
                alarm.code,
                match alarm.state {
                    AlarmState::Raised => "raised",
                    AlarmState::Cleared => "cleared",
                },
                if alarm.candidate {
                    "would come as well"
                } else {
                    "would not come"
                }
            ))?;
        }
        Ok(())
    }
}

fn fate(fate: Option<&Fate>) -> String {
    match fate {
        None => "nothing".to_owned(),
        Some(Fate::Stored { value, quality }) if *quality == "good" => value.to_string(),
        Some(Fate::Stored { value, quality }) => format!("{value} ({quality})"),
        Some(Fate::Quarantined { reason, detail }) => format!("quarantine ({reason}: {detail})"),
    }
}

fn print(sums: &Sums) -> Result<(), Failure> {
    type Count = fn(&Totals) -> u64;
    let counts: [(&str, Count); 7] = [
        ("selected", |t| t.selected),
        ("stored", |t| t.stored),
        ("filtered", |t| t.filtered),
        ("derived", |t| t.derived),
        ("quarantined", |t| t.quarantined),
        ("dropped", |t| t.dropped),
        ("alarms", |t| t.alarms),
    ];
    say(format_args!(
        "{:<12} {:>10} {:>10}",
        "", "present", "candidate"
    ))?;
    for (what, count) in counts {
        let (present, candidate) = (count(&sums.present), count(&sums.candidate));
        say(format_args!("{what:<12} {present:>10} {candidate:>10}"))?;
    }
    say(format_args!(
        "{} rows and {} alarms would change",
        sums.changed_rows, sums.changed_alarms
    ))
}
