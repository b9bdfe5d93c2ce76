//! Chains out of a configuration and out of records, linked and ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail};
use tidegate_domain::outcome::StateChange;
use tidegate_domain::rollout::{
    Chain, Change, Gates, Mode, Plan, Reason, Record, SlotSpec, candidate_key, is_candidate_key,
};
use tidegate_domain::series::SeriesFilter;
use tidegate_pipeline as pipeline;
use tidegate_pipeline::{
    Digest, Lane, LoadedModule, Origin, Pipeline, Runtime, Secret, SlotConfig,
};
use tidegate_store::Recovered;

use super::{Step, lock};
use crate::audit::{self, Audit};
use crate::brought::Brought;
use crate::config::{self, Config};
use crate::kept::Kept;
use crate::{clock, gateway, modules};

/// Makes chains out of a configuration and out of records.
pub(crate) struct Maker<'a> {
    pub(crate) config: &'a Config,
    pub(crate) engine: &'a Runtime,
    pub(crate) kept: &'a Kept,
    pub(crate) loaded: &'a Mutex<BTreeMap<String, Arc<LoadedModule>>>,
    pub(crate) audit: &'a Audit,
    /// What names of modules mean.
    pub(crate) brought: Arc<Brought>,
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
            let module = self.resolve(&filter.module)?;
            self.kept.put(&module);
            found.insert(filter.module.clone(), self.loaded(module)?);
        }
        // Decoders have no generations: nothing is kept to go back to.
        for source in &self.config.sources {
            if let config::Decode::Module(decoder) = &source.decode
                && !found.contains_key(&decoder.module)
            {
                let module = self.resolve(&decoder.module)?;
                found.insert(decoder.module.clone(), self.loaded(module)?);
            }
            // Nor have drivers.
            if let Some(driver) = modules::driver_of(source)
                && !found.contains_key(&driver.module)
            {
                let module = self.resolve(&driver.module)?;
                found.insert(driver.module.clone(), self.loaded(module)?);
            }
        }
        Ok(found)
    }

    fn resolve(&self, name: &str) -> anyhow::Result<pipeline::Module> {
        modules::resolve(name, &self.config.modules, &self.brought)
    }

    fn loaded(&self, module: pipeline::Module) -> anyhow::Result<Arc<LoadedModule>> {
        let digest = Digest::of(&module.component);
        if let Some(known) = lock(self.loaded).get(digest.as_str())
            && known.manifest == module.manifest
            && known.origin.stands_before(module.origin)
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
        audit::local(self.audit, &loaded, &self.config.modules.trusted_keys);
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
        self.make(index, self.slots_of(index, chain)?, state)
    }

    /// What stands in the slots of a chain on record.
    ///
    /// # Errors
    /// A component is not there, or may not run.
    pub(crate) fn slots_of(&self, index: usize, chain: &Chain) -> anyhow::Result<Vec<SlotConfig>> {
        let policy = gateway::policy(self.config)?;
        let slots = chain.slots.iter().map(|spec| {
            let digest = Digest::try_from(spec.digest.clone())?;
            let known = lock(self.loaded).get(digest.as_str()).cloned();
            let module = match known {
                Some(known) => known,
                None => {
                    let kept = self.kept.get(&digest)?;
                    self.permit(kept.origin, spec)?;
                    self.loaded(kept)?
                }
            };
            self.permit(module.origin, spec)?;
            let filters = &self.config.pipelines[index].filters;
            let filter = filters.iter().find(|filter| filter.name == spec.filter);
            let secrets = filter.map(secrets).unwrap_or_default();
            let directories = &self.config.policy.directories;
            SlotConfig::restore(spec, module, &policy, directories, secrets)
                .map_err(anyhow::Error::msg)
        });
        let slots = slots.collect::<anyhow::Result<Vec<SlotConfig>>>();
        slots.context("a generation on record cannot be made again")
    }

    /// # Errors
    /// The site does not let the component of a slot run, whatever it let run before.
    fn permit(&self, origin: Origin, spec: &SlotSpec) -> anyhow::Result<()> {
        let install = self.brought.install();
        if let Some(revoked) = install.revoked(&spec.module, &spec.version) {
            bail!(revoked);
        }
        match origin {
            Origin::Local if !self.config.modules.allow_unsigned => bail!(
                "module {} {} ({}) is signed by nobody, and `modules.allow-unsigned` is off",
                spec.module,
                spec.version,
                spec.digest
            ),
            Origin::Signed(key)
                if !self.config.modules.allow_unsigned
                    && !self.config.modules.trusted_keys.contains(&key) =>
            {
                bail!(
                    "module {} {} ({}) is signed by {key}, which is not in `modules.trusted-keys`",
                    spec.module,
                    spec.version,
                    spec.digest
                )
            }
            Origin::Factory | Origin::Local | Origin::Signed(_) | Origin::Channel => Ok(()),
        }
    }

    /// Why a chain that runs may do so no longer.
    fn forbidden(&self, chain: &Chain) -> Option<String> {
        let loaded = lock(self.loaded);
        chain.slots.iter().find_map(|spec| {
            let module = loaded.get(&spec.digest)?;
            let refused = self.permit(module.origin, spec).err()?;
            Some(format!("{refused:#}"))
        })
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
        if *wanted != record.active
            && let Some(why) = self.forbidden(&record.active)
        {
            tracing::warn!(
                pipeline = name,
                "what runs may run no longer, and the configured chain takes its place at once: {why}"
            );
            let candidate = self.wanted(index, found, &BTreeMap::new())?;
            let gates = Gates {
                mode: Mode::Immediate,
                ..self.config.rollout.gates
            };
            return Ok(Some(Step::Start(Box::new(candidate), gates)));
        }
        if self.brought.goes_back()
            && let Some(good) = &record.last_good
            && good == wanted
        {
            // No trial: it ran before, and what runs now was refused.
            let good = self.restore(index, good, &BTreeMap::new())?;
            let why = self.brought.why_back();
            return Ok(Some(Step::PutBack(Box::new(good), Reason::Epoch, why)));
        }
        match record.plan(wanted) {
            Plan::Keep => return Ok(None),
            Plan::Withdraw => {
                let (reason, why) = if self.brought.goes_back() {
                    (Reason::Epoch, self.brought.why_back())
                } else {
                    let why = "the configuration no longer asks for the candidate";
                    (Reason::Withdrawn, why.to_owned())
                };
                return Ok(Some(Step::RollBack(reason, why)));
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
        let gates = self.brought.gates(rollout.gates);
        let mode = match wanted.same_modules(&record.active) {
            true => rollout.settings,
            false => gates.mode,
        };
        let gates = Gates { mode, ..gates };
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
            audit::first(self.audit, name, &record.active);
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
            match good.filter(|_| !trying) {
                None => changes.push(lane.roll_back(Reason::BootLoop, why, at.wall)),
                Some(good) => match self.restore(index, &good, &BTreeMap::new()) {
                    Ok(good) => changes.push(lane.put_back(good, Reason::BootLoop, why, at, now)),
                    Err(error) => tracing::error!(
                        pipeline = name,
                        "{why}, and there is no way back: {error:#}"
                    ),
                },
            }
        } else if let Some(why) = lost {
            changes.push(lane.roll_back(Reason::Unusable, &why, at.wall));
        }
        let record = lane.record().clone();
        if let Some(step) = self.step(index, found, &wanted, &record)? {
            changes.extend(step.take(&mut lane));
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
                let site = &self.config.policy;
                Ok(gateway::slot(filter, &self.brought, module, &policy, site))
            })
            .collect()
    }

    /// A pipeline out of what stands in its slots.
    ///
    /// # Errors
    /// It does not link, or its settings do not fit.
    pub(crate) fn make(
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
