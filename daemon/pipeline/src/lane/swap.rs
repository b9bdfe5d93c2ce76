//! From one generation to the next: between two batches, with everything that is slow done before.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tidegate_domain::Arrival;
use tidegate_domain::rollout::{
    Chain, Change, Evidence, Gates, Mode, Note, Reason, StateMove, Verdict, candidate_key,
};

use super::Lane;
use super::trial::{Trial, stateful};
use crate::chain::Pipeline;
use crate::slot::Handover;

impl Lane {
    /// Takes a candidate, which was made without state: it takes over at once, or goes on trial, with the states of the
    /// active chain or what the modules' `migrate` makes of them.
    pub fn start(
        &mut self,
        candidate: Pipeline,
        gates: Gates,
        arrival: Arrival,
        now: Instant,
    ) -> Change {
        let chain = candidate.chain();
        let handovers = match self.handovers(&candidate, arrival, now) {
            Ok(handovers) => handovers,
            Err(why) => return self.refuse(chain, Reason::State, why, arrival.wall),
        };
        let mut states = self.drop_trial(Reason::Withdrawn, "another candidate came", arrival.wall);
        self.tried = None;
        let gates = self.gates_for(&candidate, gates);
        if gates.mode == Mode::Immediate {
            let why = "it takes over at once".to_owned();
            states.extend(self.take_over(candidate, handovers, false));
            self.record.promote(chain, arrival.wall, why.clone());
            return self.step(states, "rollout-promoted", &why, None, arrival.wall);
        }
        let mut candidate = candidate;
        states.extend(begin(&mut self.active, &mut candidate, handovers, true));
        self.record.start(chain, gates);
        let trial = Trial::new(candidate, &self.active, gates, Evidence::default(), now);
        self.trial = Some(trial);
        let why = format!("a candidate is on trial as {}", gates.mode.as_str());
        self.step(states, "rollout-started", &why, None, arrival.wall)
    }

    /// Judges the candidate, where there is one. What comes back is to be stored with the next batch, or alone.
    pub fn judge(&mut self, at: i64, now: Instant) -> Option<Change> {
        self.look_after_tryout(now);
        let trial = self.trial.as_mut()?;
        let evidence = trial.evidence(now);
        let recorded = self.record.trial.as_mut()?;
        recorded.evidence = evidence.clone();
        if let Some(shown) = &mut self.shown.lock().record.trial {
            shown.evidence = evidence.clone();
        }
        match evidence.verdict(&recorded.gates) {
            Some(Verdict::Promote) => Some(self.promote(&evidence, at)),
            Some(Verdict::RollBack(reason, why)) => Some(self.roll_back(reason, &why, at)),
            None => trial.is_due(&evidence, now).then(|| self.recorded()),
        }
    }

    fn promote(&mut self, evidence: &Evidence, at: i64) -> Change {
        let mut states = Vec::new();
        if let Some(trial) = self.trial.take() {
            let candidate = trial.into_candidate();
            let kept = stateful(&candidate);
            let gone = stateful(&self.active);
            let gone = gone.into_iter().filter(|slot| !kept.contains(slot));
            states.extend(gone.map(|slot| StateMove::Drop { slot }));
            states.extend(kept.iter().map(|slot| StateMove::Move {
                from: candidate_key(slot),
                to: Arc::clone(slot),
            }));
            self.active = candidate;
        }
        let why = format!(
            "the candidate passed with {} readings, {} of them otherwise",
            evidence.samples,
            evidence.differing.sum()
        );
        let chain = self.active.chain();
        self.record.promote(chain, at, why.clone());
        self.step(states, "rollout-promoted", &why, None, at)
    }

    /// Drops the candidate. The active chain was never interrupted, and its state is whole.
    pub fn roll_back(&mut self, reason: Reason, why: &str, at: i64) -> Change {
        let states = self.drop_trial(reason, why, at);
        self.step(states, "rollout-rolled-back", why, Some(reason), at)
    }

    /// Goes back to the last known good chain, which was made without state.
    pub fn put_back(
        &mut self,
        good: Pipeline,
        reason: Reason,
        why: &str,
        arrival: Arrival,
        now: Instant,
    ) -> Change {
        let mut states = self.drop_trial(reason, why, arrival.wall);
        self.tried = None;
        // Going back has to be possible. A state that the old version does not understand is left behind.
        let handovers = self.slots_of(&good, |old, new| {
            Ok(old.map_or(Handover::Afresh, |old| {
                old.handover(new, arrival, now).unwrap_or(Handover::Afresh)
            }))
        });
        states.extend(self.take_over(good, handovers.unwrap_or_default(), false));
        self.record.put_back(reason, why.to_owned(), arrival.wall);
        self.step(
            states,
            "rollout-rolled-back",
            why,
            Some(reason),
            arrival.wall,
        )
    }

    /// Notes that a chain is not tried. Nothing else changes.
    pub fn refuse(&mut self, chain: Chain, reason: Reason, why: String, at: i64) -> Change {
        self.record.refuse(chain, reason, why.clone(), at);
        self.step(Vec::new(), "rollout-refused", &why, Some(reason), at)
    }

    /// Gives a chain copies of the active chain's states, in memory alone.
    ///
    /// # Errors
    /// A state cannot be taken over, for people.
    pub(super) fn copy_states(
        &mut self,
        candidate: &mut Pipeline,
        arrival: Arrival,
        now: Instant,
    ) -> Result<(), String> {
        let handovers = self.handovers(candidate, arrival, now)?;
        // What that would mean for the store is nobody's.
        begin(&mut self.active, candidate, handovers, true);
        Ok(())
    }

    /// How every slot of a chain begins.
    fn handovers(
        &self,
        candidate: &Pipeline,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Vec<Handover>, String> {
        self.slots_of(candidate, |old, new| match old {
            Some(old) => old.handover(new, arrival, now),
            None => Ok(Handover::Afresh),
        })
    }

    fn slots_of(
        &self,
        candidate: &Pipeline,
        how: impl Fn(Option<&crate::slot::Slot>, &crate::slot::Slot) -> Result<Handover, String>,
    ) -> Result<Vec<Handover>, String> {
        let slots = candidate.slots.iter();
        slots
            .map(|new| {
                let mut active = self.active.slots.iter();
                how(active.find(|old| old.filter() == new.filter()), new)
            })
            .collect()
    }

    /// Puts a chain in the place of the active one.
    fn take_over(
        &mut self,
        mut chain: Pipeline,
        handovers: Vec<Handover>,
        copy: bool,
    ) -> Vec<StateMove> {
        let kept = stateful(&chain);
        let gone = stateful(&self.active);
        let mut states = begin(&mut self.active, &mut chain, handovers, copy);
        let gone = gone.into_iter().filter(|slot| !kept.contains(slot));
        states.extend(gone.map(|slot| StateMove::Drop { slot }));
        self.active = chain;
        states
    }

    fn drop_trial(&mut self, reason: Reason, why: &str, at: i64) -> Vec<StateMove> {
        let Some(trial) = self.trial.take() else {
            return Vec::new();
        };
        self.record.drop_candidate(reason, why.to_owned(), at);
        let slots = stateful(trial.candidate()).into_iter();
        let candidates = slots.map(|slot| candidate_key(&slot));
        candidates.map(|slot| StateMove::Drop { slot }).collect()
    }

    /// What a step stores and tells.
    fn step(
        &self,
        states: Vec<StateMove>,
        code: &'static str,
        why: &str,
        reason: Option<Reason>,
        at: i64,
    ) -> Change {
        self.show();
        let record = &self.record;
        let about = match (&record.trial, &record.refused) {
            (Some(trial), _) => &trial.candidate,
            (None, Some(refused)) if reason.is_some() => &refused.chain,
            (None, _) => &record.active,
        };
        let modules: Vec<String> = about
            .slots
            .iter()
            .map(|slot| format!("{} {}", slot.module, slot.version))
            .collect();
        let (pipeline, active) = (self.name(), &record.active.id);
        let text = format!("pipeline {pipeline}: {why}");
        match reason {
            Some(Reason::Withdrawn) | None => {
                tracing::info!(pipeline, code, active, about = about.id, "{text}");
            }
            Some(reason) => {
                let reason = reason.as_str();
                tracing::warn!(pipeline, code, reason, active, about = about.id, "{text}");
            }
        }
        Change {
            pipeline: pipeline.into(),
            record: record.clone(),
            states,
            note: Some(Note {
                time: at,
                code,
                text,
                data: json!({
                    "pipeline": pipeline,
                    "generation": about.id,
                    "active": active,
                    "modules": modules,
                    "reason": reason,
                    "state": record.state(),
                }),
            }),
        }
    }
}

/// Gives every slot of a chain its beginning; says what that means for the stored states, under the candidate's keys where
/// it is a copy.
fn begin(
    active: &mut Pipeline,
    chain: &mut Pipeline,
    handovers: Vec<Handover>,
    copy: bool,
) -> Vec<StateMove> {
    let mut states = Vec::new();
    for (new, how) in chain.slots.iter_mut().zip(handovers) {
        let key = new.state_key();
        let own = key.as_ref().map(|key| match copy {
            true => candidate_key(key),
            false => Arc::clone(key),
        });
        match (&how, key, own) {
            (Handover::AsItIs, Some(from), Some(to)) if copy => {
                states.push(StateMove::Copy { from, to });
            }
            (Handover::Migrated(_, change), _, Some(slot)) => states.push(StateMove::Set {
                slot,
                change: change.clone(),
            }),
            (Handover::Afresh, _, Some(slot)) => states.push(StateMove::Drop { slot }),
            (Handover::AsItIs | Handover::Migrated(..) | Handover::Afresh, _, _) => {}
        }
        let mut before = active.slots.iter_mut();
        if let Some(before) = before.find(|old| old.filter() == new.filter()) {
            new.begin_with(before, how, copy);
        }
    }
    states
}
