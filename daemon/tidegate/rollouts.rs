//! New generations of the pipelines' chains: found in a configuration, made ready off the workers' threads, and handed to
//! the workers, which take them between two batches.

mod maker;
mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_domain::install::{Install, Phase, Verdict};
use tidegate_domain::rollout::{Chain, Gates, Mode, Reason, Record, SlotSpec};
use tidegate_pipeline::{LoadedModule, Runtime, Shown};
use tidegate_status::Refused;
use tidegate_status::view::ModuleState;
use tokio::sync::{Semaphore, mpsc};

pub(crate) use self::maker::{Found, Maker, secrets};
pub(crate) use self::orders::{ORDERS, Order, Step};
use self::orders::{PATIENCE, Steps, Taken};
use crate::audit::Audit;
use crate::brought::Brought;
use crate::config::{self, Config};
use crate::kept::Kept;

/// What became of a change of chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// The workers have it.
    Taken,
    /// Every chain is or tries what is wanted, or refused it before.
    Nothing,
    /// Decoders differ, which have no generations: the gateway has to be wired anew.
    Decoders,
}

/// Where a pipeline's lane is.
pub(crate) struct Place {
    /// Index of the pipeline in the configuration.
    pub(crate) pipeline: usize,
    pub(crate) worker: usize,
    /// Index among the worker's lanes.
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
    pub(crate) audit: Audit,
    /// The configuration that is in force.
    pub(crate) config: Mutex<Arc<Config>>,
    /// What came over the air and is in force.
    pub(crate) brought: Mutex<Arc<Brought>>,
    /// The decoders at work, which have no generations: another file of one needs the gateway to be wired anew.
    pub(crate) decoders: BTreeMap<String, Arc<LoadedModule>>,
    pub(crate) places: Vec<Place>,
    /// One change of generations at a time.
    pub(crate) turn: Mutex<()>,
    /// A place for one module that somebody tries.
    pub(crate) tryouts: Arc<Semaphore>,
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
        let done = self.change(&self.maker(new))?;
        let taken = match done {
            Changed::Taken => true,
            Changed::Nothing | Changed::Decoders => false,
        };
        if taken {
            *lock(&self.config) = Arc::clone(new);
        }
        Ok(taken)
    }

    /// What came over the air and is in force.
    pub(crate) fn brought(&self) -> Arc<Brought> {
        Arc::clone(&lock(&self.brought))
    }

    /// Puts what came over the air in force. No chain changes before [`Rollouts::adopt`].
    pub(crate) fn bring(&self, brought: &Arc<Brought>) {
        *lock(&self.brought) = Arc::clone(brought);
    }

    /// Has the chains become what is in force. Blocks while modules are compiled.
    ///
    /// # Errors
    /// A chain cannot be made, or a worker takes none. No chain has changed then.
    pub(crate) fn adopt(&self) -> anyhow::Result<Changed> {
        let _turn = lock(&self.turn);
        let config = Arc::clone(&lock(&self.config));
        self.change(&self.maker(&config))
    }

    /// What the pipelines make of what is in force.
    ///
    /// # Errors
    /// What they are to run cannot be said.
    pub(crate) fn verdict(&self) -> anyhow::Result<Verdict> {
        let _turn = lock(&self.turn);
        let config = Arc::clone(&lock(&self.config));
        let maker = self.maker(&config);
        let found = maker.load()?;
        let brought = &maker.brought;
        let trying = brought.install().phase == Phase::Trying;
        let mut verdict = Verdict::Taken;
        for place in &self.places {
            let wanted = maker.chain(place.pipeline, &found)?;
            let record = place.shown.now().record;
            // Settled, only what the channel itself gave counts: settings of later are the site's.
            let runs = |slot: &SlotSpec| {
                record.active.slots.iter().any(|active| {
                    active == slot
                        || !trying && active.filter == slot.filter && active.digest == slot.digest
                })
            };
            let given = |slot: &&SlotSpec| brought.concerns(&slot.module);
            if wanted.slots.iter().filter(given).all(runs) {
                continue;
            }
            if let Some(refused) = record.refused.filter(|refused| refused.chain == wanted) {
                let pipeline = &config.pipelines[place.pipeline].name;
                return Ok(Verdict::PutBack(format!(
                    "pipeline {pipeline} put it back ({}): {}",
                    refused.reason, refused.why
                )));
            }
            verdict = Verdict::Pending;
        }
        Ok(verdict)
    }

    /// Whether a chain runs something that was revoked.
    pub(crate) fn runs_revoked(&self, install: &Install) -> bool {
        let chains = self
            .places
            .iter()
            .map(|place| place.shown.now().record.active);
        let mut slots = chains.flat_map(|chain| chain.slots);
        slots.any(|slot| install.revoked(&slot.module, &slot.version).is_some())
    }

    /// Hands over what chains need to come to what a maker wants.
    fn change(&self, maker: &Maker<'_>) -> anyhow::Result<Changed> {
        let found = maker.load()?;
        let same = |(name, decoder): (&String, &Arc<LoadedModule>)| {
            found.get(name).is_some_and(|module| {
                module.manifest == decoder.manifest
                    && module.inspection.digest == decoder.inspection.digest
            })
        };
        if !self.decoders.iter().all(same) {
            return Ok(Changed::Decoders);
        }
        let mut steps = Steps::default();
        let mut changed = false;
        for place in &self.places {
            let record = place.shown.now().record;
            let wanted = maker.chain(place.pipeline, &found)?;
            changed |= wanted != record.active;
            if let Some(step) = maker.step(place.pipeline, &found, &wanted, &record)? {
                steps.add(place.worker, &place.orders, place.lane, step);
            }
        }
        if !changed && steps.is_empty() {
            return Ok(Changed::Nothing);
        }
        if steps.hand_over(PATIENCE)? == Taken::NotYet {
            tracing::warn!(
                "the chains have changed, and the store has not committed that within {} s: until it does, a restart begins \
                 with the generations before",
                PATIENCE.as_secs()
            );
        }
        self.tidy();
        Ok(Changed::Taken)
    }

    /// The modules of the generations on record, by name, with what is done with them and how they are tried; each component
    /// once.
    pub(crate) fn modules(&self) -> Vec<(Arc<LoadedModule>, ModuleState, Option<&'static str>)> {
        let mut states = BTreeMap::new();
        let records: Vec<Record> = self
            .places
            .iter()
            .map(|place| place.shown.now().record)
            .collect();
        let digests = |chain: &Chain| -> Vec<String> {
            let slots = chain.slots.iter();
            slots.map(|slot| slot.digest.clone()).collect()
        };
        // What says more comes later.
        for digest in records.iter().flat_map(|r| &r.last_good).flat_map(digests) {
            states.insert(digest, (ModuleState::Previous, None));
        }
        for trial in records.iter().filter_map(|record| record.trial.as_ref()) {
            let how = match trial.gates.mode {
                Mode::Shadow => "shadow",
                Mode::Canary | Mode::Immediate => "canary",
            };
            for digest in digests(&trial.candidate) {
                states.insert(digest, (ModuleState::Candidate, Some(how)));
            }
        }
        for digest in records.iter().flat_map(|record| digests(&record.active)) {
            states.insert(digest, (ModuleState::Active, None));
        }
        let loaded = lock(&self.loaded);
        let mut modules: Vec<_> = states
            .into_iter()
            .filter_map(|(digest, (state, how))| {
                Some((Arc::clone(loaded.get(&digest)?), state, how))
            })
            .collect();
        modules.sort_by(|(a, ..), (b, ..)| a.manifest.name.cmp(&b.manifest.name));
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
        let (mut runs, mut done, mut steps) = (false, Vec::new(), Steps::default());
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
            steps.add(place.worker, &place.orders, place.lane, step);
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
        let taken = steps.hand_over(PATIENCE);
        if taken.map_err(|error| Refused::Unavailable(format!("{error:#}")))? == Taken::NotYet {
            return Err(Refused::Unavailable(format!(
                "{} went back, and the store has not committed that within {} s: until it does, a restart undoes it",
                done.join(", "),
                PATIENCE.as_secs()
            )));
        }
        self.tidy();
        Ok(done)
    }

    /// The configuration that is in force.
    pub(crate) fn configuration(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.config))
    }

    /// The place of a pipeline, by its index in the configuration.
    pub(crate) fn place(&self, pipeline: usize) -> Option<usize> {
        self.places
            .iter()
            .position(|place| place.pipeline == pipeline)
    }

    /// Hands one step to its worker.
    ///
    /// # Errors
    /// The worker does not come to take it.
    pub(crate) fn give(&self, place: &Place, step: Step) -> anyhow::Result<()> {
        let _turn = lock(&self.turn);
        let mut steps = Steps::default();
        steps.add(place.worker, &place.orders, place.lane, step);
        steps.hand_over(PATIENCE).map(drop)
    }

    /// [`Rollouts::tidy`] between two changes of generations.
    pub(crate) fn tidy_between(&self) {
        let _turn = lock(&self.turn);
        self.tidy();
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

    pub(crate) fn maker<'a>(&'a self, config: &'a Config) -> Maker<'a> {
        self.maker_with(config, self.brought())
    }

    /// One for which names of modules mean something else than what is in force.
    pub(crate) fn maker_with<'a>(&'a self, config: &'a Config, brought: Arc<Brought>) -> Maker<'a> {
        Maker {
            brought,
            config,
            engine: &self.engine,
            kept: &self.kept,
            loaded: &self.loaded,
            audit: &self.audit,
        }
    }
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
            // What may be loaded at all is the engine's from its start; the repository, its desk's.
            (&config.policy.limits, &config.deploy),
        )
    )
}

/// What the text does not show.
fn secrets_of_brokers(config: &Config) -> Vec<Option<config::Secret<String>>> {
    let sources = config.sources.iter().map(|source| match &source.kind {
        config::SourceKind::Mqtt(mqtt) => mqtt.broker.password.clone(),
        config::SourceKind::Serial(_)
        | config::SourceKind::Modbus(_)
        | config::SourceKind::Sysfs(_)
        | config::SourceKind::Driver(_) => None,
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
