//! New generations of the pipelines' chains: found in a configuration, made ready off the workers' threads, and handed to
//! the workers, which take them between two batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_domain::outcome::StateChange;
use tidegate_domain::rollout::{
    Chain, Change, Gates, Mode, Plan, Reason, Record, candidate_key, is_candidate_key,
};
use tidegate_domain::series::SeriesFilter;
use tidegate_pipeline as pipeline;
use tidegate_pipeline::{Digest, Lane, LoadedModule, Pipeline, Runtime, Secret, Shown, SlotConfig};
use tidegate_status::Refused;
use tidegate_status::view::ModuleState;
use tidegate_store::Recovered;
use tokio::sync::mpsc;

use crate::config::{self, Config};
use crate::kept::Kept;
use crate::{clock, gateway, modules};

/// Steps that wait for a worker. It takes one between two batches.
pub(crate) const ORDERS: usize = 4;
/// How long a step that somebody asked for may take to become durable.
const PATIENCE: Duration = Duration::from_secs(10);

/// A step for one lane of a worker.
pub(crate) struct Order {
    /// Index among the worker's lanes.
    pub(crate) lane: usize,
    pub(crate) step: Step,
    /// Told once it is durable. A channel of capacity 1 never blocks the worker.
    pub(crate) done: Option<std::sync::mpsc::SyncSender<()>>,
}

/// What a lane is told to do.
pub(crate) enum Step {
    Start(Box<Pipeline>, Gates),
    PutBack(Box<Pipeline>, Reason, String),
    RollBack(Reason, String),
    Refuse(Chain, Reason, String),
}

impl Step {
    /// Carries it out.
    pub(crate) fn take(self, lane: &mut Lane) -> Change {
        let (arrival, now) = (clock::now(), Instant::now());
        match self {
            Self::Start(candidate, gates) => lane.start(*candidate, gates, arrival, now),
            Self::PutBack(good, reason, why) => lane.put_back(*good, reason, &why, arrival, now),
            Self::RollBack(reason, why) => lane.roll_back(reason, &why, arrival.wall),
            Self::Refuse(chain, reason, why) => lane.refuse(chain, reason, why, arrival.wall),
        }
    }
}

/// Where a pipeline's lane is.
pub(crate) struct Place {
    /// Index of the pipeline in the configuration.
    pub(crate) pipeline: usize,
    pub(crate) lane: usize,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) shown: Shown,
}

/// Everything that makes generations of a running gateway.
pub(crate) struct Rollouts {
    pub(crate) engine: Arc<Runtime>,
    pub(crate) kept: Kept,
    /// The modules that were loaded, by digest.
    pub(crate) loaded: Mutex<BTreeMap<String, Arc<LoadedModule>>>,
    /// The configuration that is in force.
    pub(crate) config: Mutex<Arc<Config>>,
    pub(crate) places: Vec<Place>,
    /// One change of generations at a time.
    pub(crate) turn: Mutex<()>,
}

impl Rollouts {
    /// Takes a configuration that changes chains and nothing else; false where it changes anything else, or nothing: then
    /// the gateway is wired anew. Blocks while modules are compiled.
    ///
    /// # Errors
    /// A chain cannot be made. Nothing has changed then.
    pub(crate) fn take(&self, new: &Arc<Config>) -> anyhow::Result<bool> {
        let _turn = lock(&self.turn);
        let old = Arc::clone(&lock(&self.config));
        if rest(&old) != rest(new) || secrets_of_brokers(&old) != secrets_of_brokers(new) {
            return Ok(false);
        }
        let maker = self.maker(new);
        let found = maker.load()?;
        let mut steps = Vec::new();
        let mut changed = false;
        for place in &self.places {
            let record = place.shown.now().record;
            let wanted = maker.chain(place.pipeline, &found)?;
            changed |= wanted != record.active;
            if let Some(step) = maker.step(place.pipeline, &found, &wanted, &record)? {
                steps.push((place, step));
            }
        }
        if !changed && steps.is_empty() {
            return Ok(false);
        }
        for (place, step) in steps {
            self.order(place, step)?;
        }
        *lock(&self.config) = Arc::clone(new);
        self.tidy();
        Ok(true)
    }

    /// The modules of the generations on record, by name, with what is done with them; each component once.
    pub(crate) fn modules(&self) -> Vec<(Arc<LoadedModule>, ModuleState)> {
        let mut states: BTreeMap<String, ModuleState> = BTreeMap::new();
        for place in &self.places {
            let record = place.shown.now().record;
            if let Some(trial) = &record.trial {
                let state = match trial.gates.mode {
                    Mode::Shadow => ModuleState::Shadow,
                    Mode::Canary | Mode::Immediate => ModuleState::Canary,
                };
                for slot in &trial.candidate.slots {
                    states.entry(slot.digest.clone()).or_insert(state);
                }
            }
            for slot in &record.active.slots {
                states.insert(slot.digest.clone(), ModuleState::Active);
            }
        }
        let loaded = lock(&self.loaded);
        let mut modules: Vec<_> = states
            .into_iter()
            .filter_map(|(digest, state)| Some((Arc::clone(loaded.get(&digest)?), state)))
            .collect();
        modules.sort_by(|(a, _), (b, _)| a.manifest.name.cmp(&b.manifest.name));
        modules
    }

    /// Goes back on a module, everywhere: a candidate with it is dropped, an active generation with it makes way for the
    /// last known good one. Answers with the pipelines. Blocks until it is durable.
    ///
    /// # Errors
    /// Nothing runs the module, or there is nothing to go back to.
    pub(crate) fn roll_back(&self, module: &str, by: &str) -> Result<Vec<String>, Refused> {
        let _turn = lock(&self.turn);
        let config = Arc::clone(&lock(&self.config));
        let maker = self.maker(&config);
        let (mut runs, mut done) = (false, Vec::new());
        for place in &self.places {
            let record = place.shown.now().record;
            let name = &config.pipelines[place.pipeline].name;
            let why = format!("{by} rolled back module {module}");
            let on_trial = record.trial.as_ref().map(|trial| &trial.candidate);
            let step = if on_trial.is_some_and(|chain| chain.runs(module)) {
                Step::RollBack(Reason::Operator, why)
            } else if record.active.runs(module) {
                runs = true;
                let Some(good) = &record.last_good else {
                    continue;
                };
                let good = maker.restore(place.pipeline, good, &BTreeMap::new());
                let good = good.map_err(|error| Refused::Unavailable(format!("{error:#}")))?;
                Step::PutBack(Box::new(good), Reason::Operator, why)
            } else {
                continue;
            };
            self.order(place, step)
                .map_err(|error| Refused::Unavailable(format!("{error:#}")))?;
            done.push(name.clone());
        }
        if done.is_empty() {
            return Err(Refused::Missing(match runs {
                true => format!(
                    "module `{module}` has no candidate and no generation before the active one: there is nothing to go \
                     back to"
                ),
                false => format!("no pipeline runs a module `{module}`"),
            }));
        }
        self.tidy();
        Ok(done)
    }

    /// Hands a step to its worker and waits until it is durable.
    fn order(&self, place: &Place, step: Step) -> anyhow::Result<()> {
        let (done, told) = std::sync::mpsc::sync_channel(1);
        let order = Order {
            lane: place.lane,
            step,
            done: Some(done),
        };
        if place.orders.blocking_send(order).is_err() {
            bail!("the gateway is ending");
        }
        told.recv_timeout(PATIENCE).with_context(|| {
            let seconds = PATIENCE.as_secs();
            format!("the store did not commit the step within {seconds} s; it may still do so")
        })
    }

    /// Removes components that no generation on record names.
    pub(crate) fn tidy(&self) {
        let records: Vec<Record> = self
            .places
            .iter()
            .map(|place| place.shown.now().record)
            .collect();
        let digests: BTreeSet<String> = records
            .iter()
            .flat_map(Record::chains)
            .flat_map(|chain| chain.slots.iter().map(|slot| slot.digest.clone()))
            .collect();
        self.kept.sweep(&digests);
        lock(&self.loaded).retain(|digest, _| digests.contains(digest));
    }

    fn maker<'a>(&'a self, config: &'a Config) -> Maker<'a> {
        Maker {
            config,
            engine: &self.engine,
            kept: &self.kept,
            loaded: &self.loaded,
        }
    }
}

/// Makes chains out of a configuration and out of records.
pub(crate) struct Maker<'a> {
    pub(crate) config: &'a Config,
    pub(crate) engine: &'a Runtime,
    pub(crate) kept: &'a Kept,
    pub(crate) loaded: &'a Mutex<BTreeMap<String, Arc<LoadedModule>>>,
}

/// Modules by the names in the configuration.
pub(crate) type Found = BTreeMap<String, Arc<LoadedModule>>;

impl Maker<'_> {
    /// The modules that the configuration names, each loaded once and kept.
    pub(crate) fn load(&self) -> anyhow::Result<Found> {
        let mut found = Found::new();
        let filters = self.config.pipelines.iter().flat_map(|p| &p.filters);
        for filter in filters {
            if found.contains_key(&filter.module) {
                continue;
            }
            let module = modules::resolve(&filter.module, &self.config.modules)?;
            self.kept.put(&module)?;
            found.insert(filter.module.clone(), self.loaded(module)?);
        }
        // Decoders have no generations: nothing is kept to go back to.
        for source in &self.config.sources {
            if let config::Decode::Module(decoder) = &source.decode
                && !found.contains_key(&decoder.module)
            {
                let module = modules::resolve(&decoder.module, &self.config.modules)?;
                found.insert(decoder.module.clone(), self.loaded(module)?);
            }
        }
        Ok(found)
    }

    fn loaded(&self, module: pipeline::Module) -> anyhow::Result<Arc<LoadedModule>> {
        let digest = Digest::of(&module.component);
        if let Some(known) = lock(self.loaded).get(digest.as_str())
            && known.manifest == module.manifest
        {
            return Ok(Arc::clone(known));
        }
        let loaded = Arc::new(LoadedModule::load(self.engine, module)?);
        tracing::info!(
            module = loaded.manifest.name,
            version = loaded.manifest.version,
            digest = digest.as_str(),
            "loaded {}",
            gateway::code(loaded.code_origin())
        );
        lock(self.loaded).insert(digest.as_str().to_owned(), Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What the configuration wants a pipeline to run.
    pub(crate) fn chain(&self, index: usize, found: &Found) -> anyhow::Result<Chain> {
        let slots = self.slots(index, found)?;
        Ok(Chain {
            id: String::new(),
            slots: slots.iter().map(SlotConfig::spec).collect(),
        })
    }

    /// The same, linked, with this state.
    pub(crate) fn wanted(
        &self,
        index: usize,
        found: &Found,
        state: &BTreeMap<String, StateChange>,
    ) -> anyhow::Result<Pipeline> {
        self.make(index, self.slots(index, found)?, state)
    }

    /// A chain out of a record, with this state.
    pub(crate) fn restore(
        &self,
        index: usize,
        chain: &Chain,
        state: &BTreeMap<String, StateChange>,
    ) -> anyhow::Result<Pipeline> {
        let policy = gateway::policy(self.config)?;
        let slots = chain.slots.iter().map(|spec| {
            let digest = Digest::try_from(spec.digest.clone())?;
            let known = lock(self.loaded).get(digest.as_str()).cloned();
            let module = match known {
                Some(known) => known,
                None => self.loaded(self.kept.get(&digest)?)?,
            };
            let filters = &self.config.pipelines[index].filters;
            let filter = filters.iter().find(|filter| filter.name == spec.filter);
            let secrets = filter.map(secrets).unwrap_or_default();
            SlotConfig::restore(spec, module, &policy, secrets).map_err(anyhow::Error::msg)
        });
        let slots = slots.collect::<anyhow::Result<Vec<SlotConfig>>>();
        let slots = slots.context("a generation on record cannot be made again")?;
        self.make(index, slots, state)
    }

    /// What has to be done so that a pipeline comes to run what is wanted.
    pub(crate) fn step(
        &self,
        index: usize,
        found: &Found,
        wanted: &Chain,
        record: &Record,
    ) -> anyhow::Result<Option<Step>> {
        let name = &self.config.pipelines[index].name;
        match record.plan(wanted) {
            Plan::Keep => return Ok(None),
            Plan::Withdraw => {
                let why = "the configuration no longer asks for the candidate".to_owned();
                return Ok(Some(Step::RollBack(Reason::Withdrawn, why)));
            }
            Plan::Known => {
                if let Some(refused) = &record.refused {
                    tracing::warn!(
                        pipeline = name,
                        reason = refused.reason.as_str(),
                        "the configured chain was put back before and is not tried again until a module or a setting of it \
                         changes: {}",
                        refused.why
                    );
                }
                return Ok(None);
            }
            Plan::Try => {}
        }
        let rollout = &self.config.rollout;
        if !rollout.more_grants
            && let Some(why) = wanted.drift(&record.active)
        {
            return Ok(Some(Step::Refuse(wanted.clone(), Reason::Drift, why)));
        }
        let candidate = match self.wanted(index, found, &BTreeMap::new()) {
            Ok(candidate) => candidate,
            // New components that do not run here are the rollout's to report; settings are the operator's mistake.
            Err(error) if !wanted.same_modules(&record.active) => {
                let why = format!("{error:#}");
                return Ok(Some(Step::Refuse(wanted.clone(), Reason::Unusable, why)));
            }
            Err(error) => return Err(error),
        };
        let mode = match wanted.same_modules(&record.active) {
            true => rollout.settings,
            false => rollout.gates.mode,
        };
        let gates = Gates {
            mode,
            ..rollout.gates
        };
        Ok(Some(Step::Start(Box::new(candidate), gates)))
    }

    /// A pipeline at the start of the process: what is on record goes on, and what is configured beyond it is tried. The
    /// changes are to be stored before anything else.
    pub(crate) fn lane(
        &self,
        index: usize,
        found: &Found,
        recovered: &Recovered,
    ) -> anyhow::Result<(Lane, Vec<Change>)> {
        let name = &self.config.pipelines[index].name;
        let (state, candidates) = states(&recovered.state);
        let wanted = self.chain(index, found)?;
        let Some(mut record) = recovered.rollouts.get(name).cloned() else {
            let active = self.wanted(index, found, &state)?;
            let record = Record::new(active.chain());
            let lane = Lane::new(active, record, None, Instant::now());
            let change = lane.recorded();
            return Ok((lane, vec![change]));
        };
        // What was put back in a boot loop stays in the record, so that the lane goes the way of every rollback.
        let looped = record.clone().boot(clock::wall());
        let good = record.last_good.clone();
        let active = match record.plan(&wanted) {
            Plan::Withdraw => self.wanted(index, found, &state),
            Plan::Keep if wanted == record.active => self.wanted(index, found, &state),
            Plan::Keep | Plan::Known | Plan::Try => self.restore(index, &record.active, &state),
        };
        let active = match active {
            Ok(active) => active,
            Err(error) if wanted != record.active => {
                tracing::error!(
                    pipeline = name,
                    "the active generation cannot be made again, and the configured one takes its place: {error:#}"
                );
                let active = self.wanted(index, found, &state)?;
                record = Record::new(active.chain());
                active
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let candidate = match &record.trial {
            Some(trial) if !looped => Some(self.restore(index, &trial.candidate, &candidates)),
            Some(_) | None => None,
        };
        let (candidate, lost) = match candidate.transpose() {
            Ok(candidate) => (candidate, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let trying = record.trial.is_some();
        let mut lane = Lane::new(active, record, candidate, now);
        let mut changes = vec![lane.recorded()];
        let at = clock::now();
        if looped {
            let why = "the daemon ended unexpectedly soon after each of its last starts with it";
            changes.push(match good {
                Some(good) if !trying => {
                    let good = self.restore(index, &good, &BTreeMap::new())?;
                    lane.put_back(good, Reason::BootLoop, why, at, now)
                }
                Some(_) | None => lane.roll_back(Reason::BootLoop, why, at.wall),
            });
        } else if let Some(why) = lost {
            changes.push(lane.roll_back(Reason::Unusable, &why, at.wall));
        }
        let record = lane.record().clone();
        if let Some(step) = self.step(index, found, &wanted, &record)? {
            changes.push(step.take(&mut lane));
        }
        Ok((lane, changes))
    }

    fn slots(&self, index: usize, found: &Found) -> anyhow::Result<Vec<SlotConfig>> {
        let policy = gateway::policy(self.config)?;
        let filters = self.config.pipelines[index].filters.iter();
        filters
            .map(|filter| {
                let module = found.get(&filter.module);
                let module = module.context("every named module was loaded")?;
                Ok(gateway::slot(
                    filter,
                    module,
                    &policy,
                    &self.config.policy.limits,
                ))
            })
            .collect()
    }

    fn make(
        &self,
        index: usize,
        slots: Vec<SlotConfig>,
        state: &BTreeMap<String, StateChange>,
    ) -> anyhow::Result<Pipeline> {
        let pipeline = &self.config.pipelines[index];
        let chain = pipeline::PipelineConfig {
            index,
            name: pipeline.name.clone(),
            select: SeriesFilter::new(&pipeline.series)?,
            slots,
        };
        let made = Pipeline::new(self.engine, chain, state)?;
        Ok(made.keeping_input(pipeline.keep_input.is_some()))
    }
}

/// A filter's secrets, for the module runtime.
pub(crate) fn secrets(filter: &config::Filter) -> BTreeMap<String, Secret> {
    let secrets = filter.secrets.iter();
    secrets
        .map(|(name, secret)| (name.clone(), Secret::new(secret.expose().clone())))
        .collect()
}

/// Stored states of slots, and of candidates by the keys of their slots.
fn states(
    all: &BTreeMap<String, StateChange>,
) -> (BTreeMap<String, StateChange>, BTreeMap<String, StateChange>) {
    let (mut active, mut candidates) = (BTreeMap::new(), BTreeMap::new());
    for (slot, state) in all {
        if is_candidate_key(slot) {
            continue;
        }
        active.insert(slot.clone(), state.clone());
    }
    for (slot, state) in all.iter().filter(|(slot, _)| is_candidate_key(slot)) {
        let own = slot.rsplit_once('@').map_or(slot.as_str(), |(own, _)| own);
        debug_assert_eq!(*candidate_key(own), **slot);
        candidates.insert(own.to_owned(), state.clone());
    }
    (active, candidates)
}

/// Everything of a configuration but what makes chains, as text that is equal when it is.
fn rest(config: &Config) -> String {
    let pipelines: Vec<_> = config
        .pipelines
        .iter()
        .map(|p| {
            (
                &p.name,
                &p.from,
                &p.series,
                &p.summary,
                &p.to,
                &p.keep_input,
            )
        })
        .collect();
    format!(
        "{:?}",
        (
            (
                &config.gateway,
                &config.store,
                &config.status,
                &config.alarms
            ),
            (&config.sources, &config.series, pipelines, &config.uplinks),
            // What may be loaded at all is the engine's from its start.
            &config.policy.limits,
        )
    )
}

/// What the text does not show.
fn secrets_of_brokers(config: &Config) -> Vec<Option<config::Secret<String>>> {
    let sources = config.sources.iter().map(|source| {
        let config::SourceKind::Mqtt(mqtt) = &source.kind;
        mqtt.broker.password.clone()
    });
    let uplinks = config
        .uplinks
        .iter()
        .map(|uplink| uplink.broker.password.clone());
    sources.chain(uplinks).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `[rollout]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    /// For new components, and what they have to pass.
    pub(crate) gates: Gates,
    /// How new settings, grants and limits for the same components come in.
    pub(crate) settings: Mode,
    /// Whether a new version may want more than the one before it.
    pub(crate) more_grants: bool,
}
