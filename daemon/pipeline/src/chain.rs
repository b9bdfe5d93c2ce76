//! A pipeline's chain of filters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use tidegate_domain::outcome::{Generation, PipelineOutcome, SlotGeneration, StateChange};
use tidegate_domain::rollout::Chain;
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, Batch};

use crate::columns;
use crate::engine::Runtime;
use crate::inspect;
use crate::slot::{Slot, SlotConfig, SlotError};
use crate::stats::{FilterStats, PipelineStats};

/// What a pipeline is.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Its place in the configuration's order.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The series that enter it.
    pub select: SeriesFilter,
    /// Its filters, in order; none is a pipeline that lets everything through.
    pub slots: Vec<SlotConfig>,
}

/// Why a pipeline cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("pipeline `{pipeline}`, filter `{filter}`")]
pub struct PipelineError {
    /// The pipeline.
    pub pipeline: String,
    /// The filter.
    pub filter: String,
    /// Why.
    pub source: SlotError,
}

/// A pipeline's chain, with the state of its filters. It belongs to one worker.
pub struct Pipeline {
    pub(crate) index: usize,
    pub(crate) name: String,
    select: SeriesFilter,
    pub(crate) slots: Vec<Slot>,
    generation: Arc<Generation>,
    stats: Arc<PipelineStats>,
    keeps_input: bool,
}

impl Pipeline {
    /// Links every filter with what it was granted and checks its settings. `state` holds snapshots of the filters' states
    /// by `pipeline/filter`; what is not in it starts empty.
    ///
    /// # Errors
    /// The first filter that cannot be made.
    pub fn new(
        runtime: &Runtime,
        config: PipelineConfig,
        state: &BTreeMap<String, StateChange>,
    ) -> Result<Self, PipelineError> {
        let PipelineConfig {
            index,
            name,
            select,
            slots: configs,
        } = config;
        let stats = Arc::new(PipelineStats {
            filters: configs
                .iter()
                .map(|slot| {
                    let manifest = &slot.module.manifest;
                    FilterStats::new(&slot.filter, &manifest.name, &manifest.version)
                })
                .collect(),
            ..PipelineStats::default()
        });
        let mut slots = Vec::with_capacity(configs.len());
        let mut generations = Vec::with_capacity(configs.len());
        let mut names = BTreeSet::new();
        for (place, config) in configs.into_iter().enumerate() {
            let filter = config.filter.clone();
            let error = |source| PipelineError {
                pipeline: name.clone(),
                filter: filter.clone(),
                source,
            };
            if !names.insert(filter.clone()) {
                return Err(error(SlotError::Name));
            }
            let grants = config.grants.clone();
            let snapshot = state.get(&format!("{name}/{filter}"));
            let slot = Slot::new(runtime, &name, config, place, Arc::clone(&stats), snapshot)
                .map_err(error)?;
            generations.push(slot.generation(&grants));
            slots.push(slot);
        }
        Ok(Self {
            index,
            name,
            select,
            slots,
            generation: Arc::new(Generation {
                id: generation_id(&generations),
                slots: generations,
            }),
            stats,
            keeps_input: false,
        })
    }

    /// Has every outcome hold what entered as well: see [`PipelineOutcome::input`].
    #[must_use]
    pub fn keeping_input(mut self, keeps: bool) -> Self {
        self.keeps_input = keeps;
        self
    }

    /// Sends what it selects of a batch through the chain. Blocks for as long as the filters compute.
    ///
    /// `arrival` is what filters see as the present; `now` moves the back-off of failing filters and the rate of log
    /// lines. The input is sound, in the sense of [`Batch::validate`], as everything is that a decoder made.
    pub fn run(&mut self, input: &Batch, arrival: Arrival, now: Instant) -> PipelineOutcome {
        let selected: Vec<bool> = input
            .names
            .iter()
            .map(|name| self.select.matches(name))
            .collect();
        let mut rows = columns::gather(input, input.len(), |row| {
            selected[input.series[row] as usize]
        });
        let mut outcome = PipelineOutcome {
            selected: rows.len() as u64,
            input: self.keeps_input.then(|| rows.clone()),
            ..self.outcome()
        };
        self.stats.selected.fetch_add(outcome.selected, Relaxed);
        rows = self.filter(0, rows, arrival, now, &mut outcome);
        outcome.stored = rows;
        outcome
    }

    /// Sends readings out of quarantine through the rest of the chain, from `filter` on, which failed on them. They are
    /// as they entered it, so what stood before it has done its work and does not see them again. `ran` is the chain of
    /// then: where it no longer has the filter, they go on behind those that stood before it.
    pub fn resume(
        &mut self,
        rows: Batch,
        filter: &str,
        ran: &[SlotGeneration],
        arrival: Arrival,
        now: Instant,
    ) -> PipelineOutcome {
        let mut outcome = PipelineOutcome {
            replayed: rows.len() as u64,
            ..self.outcome()
        };
        let present: Vec<&str> = self.slots.iter().map(Slot::filter).collect();
        let ran: Vec<&str> = ran.iter().map(|slot| slot.filter.as_str()).collect();
        let from = resume_at(&present, filter, &ran);
        outcome.stored = self.filter(from, rows, arrival, now, &mut outcome);
        outcome
    }

    /// When one of its filters is to be ticked next; `None` where none has ticks.
    pub fn tick_at(&mut self, now: Instant) -> Option<Instant> {
        let slots = self.slots.iter_mut();
        slots.filter_map(|slot| slot.tick_at(now)).min()
    }

    /// Makes all ticks due, whatever their times.
    pub(crate) fn tick_now(&mut self, now: Instant) {
        self.slots.iter_mut().for_each(|slot| slot.tick_now(now));
    }

    /// Ticks the filters that are due, in their order; what one adds goes through those behind it. `None` where none was
    /// due. Blocks for as long as the filters compute.
    ///
    /// `arrival` is the present, as for [`Pipeline::run`].
    pub fn tick(&mut self, arrival: Arrival, now: Instant) -> Option<PipelineOutcome> {
        self.tick_apart(arrival, now, |_| true)
            .map(|[outcome, _]| outcome)
    }

    /// The same with the rows of two parts of the series apart: first those that `first` says yes to. The first outcome has
    /// all alarms, and what the states became.
    pub(crate) fn tick_apart(
        &mut self,
        arrival: Arrival,
        now: Instant,
        first: impl Fn(&str) -> bool,
    ) -> Option<[PipelineOutcome; 2]> {
        let mut ticked = false;
        let mut parts = [self.outcome(), self.outcome()];
        for place in 0..self.slots.len() {
            let Some(added) = self.slots[place].tick(arrival, now, &mut parts[0]) else {
                continue;
            };
            ticked = true;
            let of_first: Vec<bool> = added.names.iter().map(|name| first(name)).collect();
            for (part, wanted) in [(0, true), (1, false)] {
                let rows = columns::gather(&added, added.len(), |row| {
                    of_first[added.series[row] as usize] == wanted
                });
                let outcome = &mut parts[part];
                outcome.derived += rows.len() as u64;
                let through = self.filter(place + 1, rows, arrival, now, outcome);
                columns::append(&mut outcome.stored, through);
                let state = std::mem::take(&mut outcome.state);
                parts[0].state.extend(state);
            }
        }
        ticked.then_some(parts)
    }

    /// An outcome of which nothing is known yet.
    fn outcome(&self) -> PipelineOutcome {
        PipelineOutcome {
            pipeline: self.index,
            generation: Some(Arc::clone(&self.generation)),
            ..PipelineOutcome::default()
        }
    }

    /// Sends rows through the slots from a place on.
    fn filter(
        &mut self,
        from: usize,
        mut rows: Batch,
        arrival: Arrival,
        now: Instant,
        outcome: &mut PipelineOutcome,
    ) -> Batch {
        for slot in self.slots.iter_mut().skip(from) {
            if rows.is_empty() {
                break;
            }
            rows = slot.run(rows, arrival, now, outcome);
        }
        self.stats.stored.fetch_add(rows.len() as u64, Relaxed);
        rows
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it runs; changes with any module, setting, grant or limit.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Everything that it runs, as it is recorded.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain {
            id: self.generation.id.clone(),
            slots: self.slots.iter().map(|slot| slot.spec().clone()).collect(),
        }
    }

    /// Its numbers, for reading from any thread.
    #[must_use]
    pub fn stats(&self) -> Arc<PipelineStats> {
        Arc::clone(&self.stats)
    }

    /// The keys, `pipeline/filter`, of the filters that keep state: the store can forget those of others.
    #[must_use]
    pub fn stateful(&self) -> Vec<Arc<str>> {
        self.slots.iter().filter_map(Slot::state_key).collect()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// The place in the present chain from which readings go on that `filter` failed on, in a chain that was `ran`.
fn resume_at(present: &[&str], filter: &str, ran: &[&str]) -> usize {
    if let Some(place) = present.iter().position(|name| *name == filter) {
        return place;
    }
    let before = ran.iter().take_while(|name| **name != filter);
    before
        .filter_map(|name| present.iter().position(|other| other == name))
        .max()
        .map_or(0, |last| last + 1)
}

/// The first 16 hex digits of the SHA-256 over the slots, each value ended by a byte that none contains.
fn generation_id(slots: &[SlotGeneration]) -> String {
    let mut hash = Sha256::new();
    for slot in slots {
        for value in [
            &slot.filter,
            &slot.module,
            &slot.version,
            &slot.digest,
            &slot.settings,
        ] {
            hash.update(value.as_bytes());
            hash.update([0xff]);
        }
    }
    let mut id = inspect::hex(&hash.finalize());
    id.truncate(16);
    id
}

#[cfg(test)]
mod tests {
    use super::resume_at;

    #[test]
    fn readings_go_on_at_the_filter_that_failed_on_them_or_where_it_stood() {
        let check = |present: &[&str], ran: &[&str], expect| {
            assert_eq!(resume_at(present, "b", ran), expect, "{present:?} {ran:?}");
        };
        check(&["a", "b", "c"], &["a", "b", "c"], 1);
        check(&["b", "a"], &["a", "b"], 0);
        check(&["x", "a", "b"], &[], 2);
        // The filter is gone: behind all that stood before it and is still there.
        check(&["a", "c"], &["a", "b", "c"], 1);
        check(&["c", "x", "a", "d"], &["a", "c", "b", "d"], 3);
        check(&["c", "d"], &["b", "c"], 0);
        check(&["c"], &["a", "b"], 0);
        check(&[], &["a", "b"], 0);
        // Nobody knows what ran.
        check(&["a", "c"], &[], 0);
    }
}
