//! Chains as page, API and metrics show them: slots, decoders, candidates, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::outcome::{Generation, SlotGeneration};
use tidegate_domain::rollout::{Chain, Mode, Side, Trial};
use tidegate_pipeline::{BreakerState, FilterSnapshot, Origin, PipelineStats, Showing};
use tidegate_status::view;

use super::{Observed, Observer, Sampled};
use crate::config;

impl Observer {
    pub(super) fn pipeline(
        &self,
        index: usize,
        pipeline: &config::Pipeline,
        observed: &Observed,
        sampled: &Sampled,
    ) -> view::PipelineStatus {
        let windows = &observed.stats.windows_by_pipeline;
        let windows_open = windows.get(index).copied().unwrap_or_default();
        let counts = observed
            .ledger
            .pipelines
            .get(&pipeline.name)
            .cloned()
            .unwrap_or_default();
        let running = self.pipelines[index].now();
        let slots = &running.generation.slots;
        view::PipelineStatus {
            name: pipeline.name.clone(),
            from: pipeline
                .from
                .iter()
                .map(|&source| self.config.sources[source].name.clone())
                .collect(),
            to: pipeline
                .to
                .iter()
                .map(|route| self.config.uplinks[route.uplink].name.clone())
                .collect(),
            selected: counts.selected,
            derived: counts.derived,
            replayed: counts.replayed,
            stored: counts.stored,
            filtered: counts.filtered,
            quarantined: counts.quarantined,
            dropped: counts.dropped,
            rate: sampled.rate(|sample| sample.selected.get(index)),
            stored_rate: sampled.rate(|sample| sample.stored.get(index)),
            generation: if slots.is_empty() {
                String::new()
            } else {
                running.generation.id.clone()
            },
            filters: filters(&running.stats, &running.generation),
            windows_open,
            rollout: rollout_status(&running),
        }
    }

    /// The module that decodes a source's messages, where one does.
    pub(super) fn decoder(&self, source: usize) -> Option<view::FilterStatus> {
        let decoding = self
            .decoders
            .iter()
            .find(|decoding| decoding.source == source)?;
        let stats = decoding.stats.filters.first()?;
        let digest = decoding.module.inspection.digest.as_str();
        Some(filter_status(stats.snapshot(), digest))
    }

    pub(super) fn modules(&self) -> Vec<view::ModuleStatus> {
        let mut modules = self.rollouts.modules();
        for decoding in &self.decoders {
            let digest = &decoding.module.inspection.digest;
            // One that decodes several sources is one module.
            if !modules
                .iter()
                .any(|(known, ..)| known.inspection.digest == *digest)
            {
                modules.push((
                    Arc::clone(&decoding.module),
                    view::ModuleState::Active,
                    None,
                ));
            }
        }
        let config = self.rollouts.configuration();
        let trusted = &config.modules.trusted_keys;
        let modules = modules.into_iter();
        let mut shown: Vec<view::ModuleStatus> = modules
            .map(|(module, state, trial)| view::ModuleStatus {
                name: module.manifest.name.clone(),
                version: module.manifest.version.clone(),
                digest: module.inspection.digest.as_str().to_owned(),
                state,
                trial,
                origin: match module.origin {
                    Origin::Factory => view::ModuleOrigin::Factory,
                    Origin::Signed(key) if trusted.contains(&key) => view::ModuleOrigin::Signed,
                    Origin::Local | Origin::Signed(_) => view::ModuleOrigin::Local,
                    Origin::Channel => view::ModuleOrigin::Channel,
                },
                signed_by: match module.origin {
                    Origin::Signed(key) => Some(key.to_string()),
                    Origin::Factory | Origin::Local | Origin::Channel => None,
                },
                world: module.manifest.world.to_string(),
                size_bytes: module.inspection.size as u64,
            })
            .collect();
        if let Some(deploy) = &self.deploy {
            for module in deploy.modules() {
                if !shown.iter().any(|known| known.digest == module.digest) {
                    shown.push(module);
                }
            }
            shown.sort_by(|a, b| a.name.cmp(&b.name));
        }
        shown
    }
}

/// What stands in every slot of a chain, with its numbers.
fn filters(stats: &PipelineStats, generation: &Generation) -> Vec<view::FilterStatus> {
    let filters = stats.filters.iter();
    filters
        .map(|filter| {
            let snapshot = filter.snapshot();
            let mut slots = generation.slots.iter();
            let slot = slots.find(|slot| slot.filter == snapshot.filter);
            filter_status(snapshot, slot.map_or("", |slot| &slot.digest))
        })
        .collect()
}

/// The generations of a pipeline, as the page and the API show them.
fn rollout_status(running: &Showing) -> view::RolloutStatus {
    let record = &running.record;
    view::RolloutStatus {
        state: record.state().to_owned(),
        candidate: record
            .trial
            .as_ref()
            .map(|trial| candidate_status(trial, running)),
        tried: running.tried.as_ref().map_or_else(Vec::new, |tried| {
            let known = |slot: &&SlotGeneration| !running.generation.slots.contains(slot);
            let slots = tried.slots.iter().filter(known);
            slots
                .map(|slot| view::ChainSlot {
                    filter: slot.filter.clone(),
                    module: slot.module.clone(),
                    version: slot.version.clone(),
                    digest: slot.digest.clone(),
                })
                .collect()
        }),
        last_good: record.last_good.as_ref().map(|chain| chain.id.clone()),
        last_good_slots: record.last_good.as_ref().map_or_else(Vec::new, chain_slots),
        refused: record
            .refused
            .as_ref()
            .map(|refused| refused.chain.id.clone()),
        decision: record
            .decision
            .as_ref()
            .map(|decision| view::RolloutDecision {
                time: decision.at / 1_000_000,
                generation: decision.generation.clone(),
                reason: decision.reason.map(|reason| reason.as_str().to_owned()),
                why: decision.why.clone(),
            }),
    }
}

fn candidate_status(trial: &Trial, running: &Showing) -> view::CandidateStatus {
    let Trial {
        candidate,
        gates,
        evidence,
    } = trial;
    let slots = candidate.slots.iter();
    let differing = evidence.differing;
    view::CandidateStatus {
        generation: candidate.id.clone(),
        modules: slots
            .map(|slot| format!("{} {}", slot.module, slot.version))
            .collect(),
        filters: running
            .candidate
            .as_ref()
            .map_or_else(Vec::new, |(generation, stats)| filters(stats, generation)),
        share: (gates.mode == Mode::Canary).then_some(gates.share),
        samples: evidence.samples,
        min_samples: gates.min_samples,
        compared: evidence.compared.sum(),
        differing: differing.sum(),
        differing_by: view::Differing {
            float: differing.float,
            integer: differing.integer,
            boolean: differing.boolean,
            text: differing.text,
            alarm: differing.alarm,
        },
        traps: evidence.candidate.traps,
        timeouts: evidence.candidate.timeouts,
        faults: evidence.candidate.faults + evidence.candidate.invalid_outputs,
        failures: failures(&evidence.candidate),
        active_failures: failures(&evidence.active),
        cpu_p99_seconds: seconds(evidence.candidate.cpu_p99),
        active_cpu_p99_seconds: seconds(evidence.active.cpu_p99),
        memory_peak_bytes: evidence.candidate.memory_peak,
        active_memory_peak_bytes: evidence.active.memory_peak,
        elapsed_seconds: evidence.elapsed.as_secs(),
        seconds_left: gates.time_limit.saturating_sub(evidence.elapsed).as_secs(),
    }
}

fn chain_slots(chain: &Chain) -> Vec<view::ChainSlot> {
    let slots = chain.slots.iter();
    slots
        .map(|slot| view::ChainSlot {
            filter: slot.filter.clone(),
            module: slot.module.clone(),
            version: slot.version.clone(),
            digest: slot.digest.clone(),
        })
        .collect()
}

fn failures(side: &Side) -> view::FilterFailures {
    view::FilterFailures {
        trap: side.traps,
        timeout: side.timeouts,
        fault: side.faults,
        invalid: side.invalid_outputs,
    }
}

/// Nanoseconds as seconds.
fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

fn filter_status(filter: FilterSnapshot, digest: &str) -> view::FilterStatus {
    view::FilterStatus {
        name: filter.filter,
        module: filter.module,
        version: filter.version,
        digest: digest.to_owned(),
        state: match filter.breaker {
            BreakerState::Closed => view::FilterState::Running,
            BreakerState::Open => view::FilterState::Tripped,
        },
        rows_in: filter.rows_in,
        rows_out: filter.rows_out,
        calls: filter.calls,
        failures: view::FilterFailures {
            trap: filter.traps,
            timeout: filter.timeouts,
            fault: filter.faults,
            invalid: filter.invalid_outputs,
        },
        p50_seconds: (filter.calls > 0).then_some(filter.cpu_seconds_p50),
        p99_seconds: (filter.calls > 0).then_some(filter.cpu_seconds_p99),
        last_error_time: filter.last_error.as_ref().map(|error| error.at / 1_000_000),
        skipped_batches: filter.skipped_batches,
        ticks: filter.ticks.map(|ticks| view::TickStatus {
            called: ticks.called,
            failed: ticks.failed,
            derived: ticks.derived,
        }),
        last_error: filter
            .last_error
            .map(|error| format!("{}: {}", error.reason, error.detail)),
    }
}
