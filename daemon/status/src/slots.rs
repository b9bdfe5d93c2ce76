//! Every slot of the gateway: what runs in it, what is tried, and what a rollback would put there.

use serde::Serialize;

use crate::view::{ChainSlot, FilterState, FilterStatus, PipelineStatus, RolloutStatus, Snapshot};

/// A filter's place in a pipeline, or a decoder's at a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Slot {
    pipeline: Option<String>,
    source: Option<String>,
    filter: String,
    /// `active`, or how a candidate is tried here: `shadow`, `canary`.
    state: String,
    /// The pipeline's chain that runs.
    generation: Option<String>,
    /// What runs; `None` where the candidate alone has such a slot.
    active: Option<ChainSlot>,
    breaker: Option<FilterState>,
    last_error: Option<String>,
    /// Milliseconds since the epoch.
    last_error_time: Option<i64>,
    candidate: Option<ChainSlot>,
    last_good: Option<ChainSlot>,
}

/// The generations of one pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rollout<'a> {
    pipeline: &'a str,
    generation: &'a str,
    rollout: &'a RolloutStatus,
}

pub(crate) fn slots(snapshot: &Snapshot) -> Vec<Slot> {
    let decoders = snapshot.sources.iter().filter_map(|source| {
        let decoder = source.decoder.as_ref()?;
        Some(Slot {
            source: Some(source.name.clone()),
            ..Slot::running(decoder, "active")
        })
    });
    decoders
        .chain(snapshot.pipelines.iter().flat_map(of_pipeline))
        .collect()
}

pub(crate) fn rollouts(snapshot: &Snapshot) -> Vec<Rollout<'_>> {
    let pipelines = snapshot.pipelines.iter();
    pipelines
        .map(|pipeline| Rollout {
            pipeline: &pipeline.name,
            generation: &pipeline.generation,
            rollout: &pipeline.rollout,
        })
        .collect()
}

fn of_pipeline(pipeline: &PipelineStatus) -> Vec<Slot> {
    let rollout = &pipeline.rollout;
    let candidate = rollout.candidate.as_ref();
    let candidates: &[FilterStatus] = candidate.map_or(&[], |candidate| &candidate.filters);
    let state = |name: &str| match candidates.iter().any(|tried| tried.name == name) {
        true => rollout.state.as_str(),
        false => "active",
    };
    let mut slots: Vec<Slot> = pipeline
        .filters
        .iter()
        .map(|filter| Slot::running(filter, state(&filter.name)))
        .collect();
    for tried in candidates {
        let known = |slot: &&mut Slot| slot.filter == tried.name;
        match slots.iter_mut().find(known) {
            Some(slot) => slot.candidate = Some(in_slot(tried)),
            None => slots.push(Slot {
                active: None,
                breaker: None,
                last_error: None,
                last_error_time: None,
                candidate: Some(in_slot(tried)),
                ..Slot::running(tried, &rollout.state)
            }),
        }
    }
    for slot in &mut slots {
        let mut good = rollout.last_good_slots.iter();
        slot.last_good = good.find(|good| good.filter == slot.filter).cloned();
        slot.pipeline = Some(pipeline.name.clone());
        slot.generation = Some(pipeline.generation.clone());
    }
    slots
}

impl Slot {
    fn running(filter: &FilterStatus, state: &str) -> Self {
        Self {
            pipeline: None,
            source: None,
            filter: filter.name.clone(),
            state: state.to_owned(),
            generation: None,
            active: Some(in_slot(filter)),
            breaker: Some(filter.state),
            last_error: filter.last_error.clone(),
            last_error_time: filter.last_error_time,
            candidate: None,
            last_good: None,
        }
    }
}

fn in_slot(filter: &FilterStatus) -> ChainSlot {
    ChainSlot {
        filter: filter.name.clone(),
        module: filter.module.clone(),
        version: filter.version.clone(),
        digest: filter.digest.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{CandidateStatus, SourceStatus};

    fn filter(name: &str, version: &str) -> FilterStatus {
        FilterStatus {
            name: name.to_owned(),
            module: name.to_owned(),
            version: version.to_owned(),
            ..FilterStatus::default()
        }
    }

    #[test]
    fn a_slot_says_what_runs_what_is_tried_and_what_comes_back() {
        let version = |slot: &Option<ChainSlot>| slot.as_ref().map(|slot| slot.version.clone());
        let snapshot = Snapshot {
            sources: vec![SourceStatus {
                name: "plant".to_owned(),
                decoder: Some(filter("decoder", "9")),
                ..SourceStatus::default()
            }],
            pipelines: vec![PipelineStatus {
                name: "p".to_owned(),
                filters: vec![filter("a", "2"), filter("b", "2")],
                rollout: RolloutStatus {
                    state: "canary".to_owned(),
                    candidate: Some(CandidateStatus {
                        filters: vec![filter("b", "3"), filter("c", "3")],
                        ..CandidateStatus::default()
                    }),
                    last_good_slots: vec![in_slot(&filter("a", "1"))],
                    ..RolloutStatus::default()
                },
                ..PipelineStatus::default()
            }],
            ..Snapshot::default()
        };
        let found: Vec<_> = slots(&snapshot)
            .iter()
            .map(|slot| {
                (
                    slot.filter.clone(),
                    slot.state.clone(),
                    [&slot.active, &slot.candidate, &slot.last_good].map(version),
                )
            })
            .collect();
        let some = |text: &str| Some(text.to_owned());
        let expect = [
            ("decoder", "active", [some("9"), None, None]),
            ("a", "active", [some("2"), None, some("1")]),
            ("b", "canary", [some("2"), some("3"), None]),
            ("c", "canary", [None, some("3"), None]),
        ];
        let expect =
            expect.map(|(name, state, versions)| (name.to_owned(), state.to_owned(), versions));
        assert_eq!(found, expect);
    }
}
