//! `tidegate module try` at the running gateway: a component from whoever may use the control socket runs on copies of a
//! pipeline's batches while the connection lasts. It is kept nowhere, and nothing else ever runs it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use tidegate_domain::rollout::{Evidence, Gates, Mode, Verdict};
use tidegate_pipeline::rehearsal::BatchDifference;
use tidegate_pipeline::{
    End, FilterStats, LoadedModule, Look, Manifest, Module, Origin, PipelineStats, SlotConfig,
    Tryout,
};
use tidegate_status::{Refused, TryRequest};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::brought::Brought;
use crate::config::{self, Config};
use crate::gateway;
use crate::rollouts::{Rollouts, Step};

/// The longest time that a module is tried for.
pub(crate) const MOST: Duration = Duration::from_secs(3600);
/// How often whoever looks on is told how it goes.
const TELL: Duration = Duration::from_secs(1);
/// Lines that wait for whoever looks on.
const LINES: usize = 4;

/// A module that may be tried, and where.
struct Wanted {
    module: Module,
    /// Index of the pipeline's place.
    place: usize,
    filter: Place,
    settings: Option<Value>,
    gates: Gates,
    config: Arc<Config>,
}

/// Where in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In the place of this filter.
    Of(String),
    /// Behind the last one, under this name.
    End(String),
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Self::Of(name) | Self::End(name) => name,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Of(name) => format!("in the place of filter `{name}`"),
            Self::End(_) => "at the end of the chain".to_owned(),
        }
    }
}

/// A tryout that a lane has.
struct Running {
    tryout: Tryout,
    stats: Arc<PipelineStats>,
    name: String,
    began: Value,
    gates: Gates,
}

/// Begins to try a module. What comes back tells how it goes, a line of JSON at a time, until there is a verdict or nobody
/// reads; then the candidate is gone.
///
/// # Errors
/// The site does not let unsigned modules run, or there is no such place; each says what to do.
pub(crate) fn begin(
    rollouts: &Arc<Rollouts>,
    request: TryRequest,
) -> Result<mpsc::Receiver<Value>, Refused> {
    let (wanted, turn) = judge(rollouts, request)?;
    let (lines, told) = mpsc::channel(LINES);
    let rollouts = Arc::clone(rollouts);
    tokio::spawn(async move {
        let manifest = wanted.module.manifest.clone();
        let Manifest { name, version, .. } = &manifest;
        tracing::warn!(
            "module {name} {version}, which is signed by nobody, is tried on copies, unheard"
        );
        let end = tell(&rollouts, wanted, &lines).await;
        drop(turn);
        tracing::info!("module {name} {version} is no longer tried");
        if let Some(end) = end
            && lines.send(end).await.is_err()
        {
            tracing::debug!("nobody waits for the end of it");
        }
    });
    Ok(told)
}

/// Runs it to its end, which is the last line; `None` where nobody reads any more.
async fn tell(
    rollouts: &Arc<Rollouts>,
    wanted: Wanted,
    lines: &mpsc::Sender<Value>,
) -> Option<Value> {
    let broken = |why: String| Some(json!({ "state": "broken", "why": why }));
    lines.send(json!({ "state": "compiling" })).await.ok()?;
    let rollouts = Arc::clone(rollouts);
    let mut starting = tokio::task::spawn_blocking(move || start(&rollouts, wanted));
    // Silence would look like the end of the connection.
    let started = loop {
        tokio::select! {
            started = &mut starting => break started,
            () = tokio::time::sleep(TELL) => {
                lines.send(json!({ "state": "compiling" })).await.ok()?;
            }
        }
    };
    let running = match started {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => return broken(format!("{error:#}")),
        Err(error) => return broken(format!("it could not be started: {error}")),
    };
    loop {
        tokio::select! {
            () = lines.closed() => return None,
            () = tokio::time::sleep(TELL) => {}
        }
        let look = running.tryout.look();
        let mut line = running.line(&look);
        match look.end {
            None => lines.send(line).await.ok()?,
            Some(End::Broken(why)) => return broken(why),
            Some(End::Judged(verdict)) => {
                line["state"] = "judged".into();
                line["verdict"] = match verdict {
                    Verdict::Promote => json!({ "passed": true }),
                    Verdict::RollBack(reason, why) => {
                        json!({ "passed": false, "reason": reason, "why": why })
                    }
                };
                return Some(line);
            }
        }
    }
}

impl Running {
    fn line(&self, look: &Look) -> Value {
        let Evidence {
            samples,
            compared,
            differing,
            active,
            candidate,
            elapsed,
        } = &look.evidence;
        let mut filters = self.stats.filters.iter().map(FilterStats::snapshot);
        let filter = filters.find(|filter| filter.filter == self.name);
        let BatchDifference { rows, alarms } = &look.examples;
        json!({
            "state": if look.begun { "running" } else { "starting" },
            "module": self.began,
            "samples": samples,
            "min_samples": self.gates.min_samples,
            "compared": compared,
            "differing": differing,
            "active": active,
            "candidate": candidate,
            "filter": filter,
            "elapsed_seconds": elapsed.as_secs(),
            "seconds_left": self.gates.time_limit.saturating_sub(*elapsed).as_secs(),
            "rows": rows,
            "alarms": alarms,
        })
    }
}

/// What can be said at once.
fn judge(
    rollouts: &Rollouts,
    request: TryRequest,
) -> Result<(Wanted, OwnedSemaphorePermit), Refused> {
    let config = rollouts.configuration();
    if !config.modules.allow_unsigned {
        return Err(Refused::Request(
            "this site runs no module that nobody has signed: set `modules.allow-unsigned = true` in its configuration and \
             send SIGHUP, or try it on another gateway"
                .to_owned(),
        ));
    }
    let time = Duration::from_secs(request.seconds);
    if time.is_zero() || time > MOST {
        let most = MOST.as_secs();
        return Err(Refused::Request(format!(
            "a module is tried for 1 to {most} s, not for {} s",
            request.seconds
        )));
    }
    let manifest = Manifest::parse(request.manifest.to_string().as_bytes())
        .map_err(|error| Refused::Request(format!("the manifest: {error}")))?;
    let pipelines = &config.pipelines;
    let index = pipelines
        .iter()
        .position(|pipeline| pipeline.name == request.pipeline);
    let names = pipelines.iter().map(|pipeline| pipeline.name.as_str());
    let index = index.ok_or_else(|| missing("pipeline", &request.pipeline, names))?;
    let place = rollouts
        .place(index)
        .ok_or_else(|| Refused::Unavailable("no worker has the pipeline".to_owned()))?;
    let active = rollouts.places[place].shown.now().record.active;
    let slots: Vec<(&str, &str)> = active
        .slots
        .iter()
        .map(|slot| (slot.filter.as_str(), slot.module.as_str()))
        .collect();
    let filter = find(&slots, request.filter.as_deref(), &manifest.name)?;
    if let Some(settings) = &request.settings
        && !settings.is_object()
    {
        let why = "the settings are no object: write them as {\"max\": 10}";
        return Err(Refused::Request(why.to_owned()));
    }
    let turn = Arc::clone(&rollouts.tryouts).try_acquire_owned();
    let turn = turn.map_err(|_| {
        let why = "another module is being tried; one at a time";
        Refused::Unavailable(why.to_owned())
    })?;
    let gates = config.rollout.gates;
    // In a chain without filters it has nothing to be as fast as; its deadline holds all the same.
    let latency = match slots.is_empty() {
        true => f64::INFINITY,
        false => gates.latency,
    };
    let wanted = Wanted {
        module: Module {
            manifest,
            component: request.component,
            origin: Origin::Local,
        },
        place,
        filter,
        settings: request.settings,
        gates: Gates {
            mode: Mode::Shadow,
            time_limit: time,
            min_samples: request.samples.unwrap_or(gates.min_samples),
            latency,
            ..gates
        },
        config,
    };
    Ok((wanted, turn))
}

/// The place of a module in a chain of filters, each with its module.
fn find(slots: &[(&str, &str)], wanted: Option<&str>, module: &str) -> Result<Place, Refused> {
    if let Some(wanted) = wanted {
        let names = slots.iter().map(|(name, _)| *name);
        return match slots.iter().any(|(name, _)| *name == wanted) {
            true => Ok(Place::Of(wanted.to_owned())),
            false => Err(missing("filter", wanted, names)),
        };
    }
    let same: Vec<&str> = slots
        .iter()
        .filter(|(_, runs)| *runs == module)
        .map(|(name, _)| *name)
        .collect();
    match same[..] {
        [only] => Ok(Place::Of(only.to_owned())),
        [] if slots.iter().any(|(name, _)| *name == module) => Err(Refused::Request(format!(
            "a filter named `{module}` runs another module: say `--filter {module}` to try this one in its place"
        ))),
        [] => Ok(Place::End(module.to_owned())),
        _ => Err(Refused::Request(format!(
            "filters {} run module `{module}`: say whose place it takes with --filter",
            same.join(", ")
        ))),
    }
}

fn missing<'a>(what: &str, wanted: &str, names: impl Iterator<Item = &'a str>) -> Refused {
    let names: Vec<&str> = names.collect();
    let there = match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    Refused::Missing(format!("there is no {what} `{wanted}`; there are: {there}"))
}

/// Compiles and links it, and hands it to the pipeline's worker.
fn start(rollouts: &Rollouts, wanted: Wanted) -> anyhow::Result<Running> {
    let Wanted {
        module,
        place,
        filter,
        settings,
        gates,
        config,
    } = wanted;
    let place = &rollouts.places[place];
    let loaded = Arc::new(LoadedModule::load_for_once(&rollouts.engine, module)?);
    let maker = rollouts.maker(&config);
    let record = place.shown.now().record;
    let mut slots = maker.slots_of(place.pipeline, &record.active)?;
    let slot = slot(&config, place.pipeline, &filter, &loaded, settings, &slots)?;
    match slots.iter_mut().find(|known| known.filter == slot.filter) {
        Some(known) => *known = slot,
        None => slots.push(slot),
    }
    let candidate = maker.make(place.pipeline, slots, &BTreeMap::new())?;
    let stats = candidate.stats();
    let (tryout, tried) = Tryout::new();
    let step = Step::Try(Box::new(candidate), gates, tried);
    rollouts.give(place, step)?;
    let manifest = &loaded.manifest;
    Ok(Running {
        tryout,
        stats,
        name: filter.name().to_owned(),
        began: json!({
            "name": manifest.name,
            "version": manifest.version,
            "digest": loaded.inspection.digest.as_str(),
            "pipeline": config.pipelines[place.pipeline].name,
            "place": filter.words(),
        }),
        gates,
    })
}

/// The module in its slot: as the site has configured the filter whose place it takes, within the site's policy.
fn slot(
    config: &Config,
    pipeline: usize,
    place: &Place,
    module: &Arc<LoadedModule>,
    settings: Option<Value>,
    running: &[SlotConfig],
) -> anyhow::Result<SlotConfig> {
    let policy = gateway::policy(config)?;
    let name = place.name();
    let mut configured = config.pipelines[pipeline].filters.iter();
    let configured = configured.find(|filter| filter.name == name).cloned();
    let mut filter = configured.unwrap_or_else(|| config::Filter {
        name: name.to_owned(),
        module: module.manifest.name.clone(),
        settings: json!({}),
        on_failure: config::OnFailure::Quarantine,
        limits: config::Limits::default(),
        tick: None,
        secrets: BTreeMap::new(),
    });
    let mut running = running.iter();
    let before = running.find(|slot| slot.filter == name);
    if let Some(settings) = settings {
        filter.settings = settings;
    } else if let Some(before) = before {
        filter.settings = before.settings.clone();
    }
    let problems = module.manifest.settings_problems(&filter.settings);
    if !problems.is_empty() {
        return Err(anyhow!("{}", problems.join("; "))).with_context(|| {
            format!(
                "the settings {} do not fit module `{}`; give others with --settings",
                filter.settings, module.manifest.name
            )
        });
    }
    // Its settings are those that whoever tries it wrote.
    let slot = gateway::slot(
        &filter,
        &Brought::default(),
        module,
        &policy,
        &config.policy,
    );
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_takes_the_place_that_was_named_or_of_its_own_name_or_the_last() {
        let check =
            |slots: &[(&str, &str)], wanted: Option<&str>, expect: Result<Place, &str>| match (
                find(slots, wanted, "bearing"),
                expect,
            ) {
                (Ok(found), Ok(expect)) => assert_eq!(found, expect),
                (Err(Refused::Request(why) | Refused::Missing(why)), Err(expect)) => {
                    assert!(why.contains(expect), "{why}");
                }
                (found, expect) => panic!("{found:?}, not {expect:?}"),
            };
        let of = |name: &str| Ok(Place::Of(name.to_owned()));
        let chain = [("range", "range"), ("smooth", "bearing")];
        check(&chain, None, of("smooth"));
        check(&chain, Some("range"), of("range"));
        check(&chain, Some("rnage"), Err("there are: range, smooth"));
        check(&[], Some("x"), Err("there are: none"));
        check(&[], None, Ok(Place::End("bearing".to_owned())));
        check(&[("bearing", "range")], None, Err("--filter bearing"));
        let two = [("a", "bearing"), ("b", "bearing")];
        check(&two, None, Err("filters a, b"));
    }
}
