//! What becomes of a filter's state when another generation takes its place.

use std::time::Instant;

use tidegate_domain::Arrival;
use tidegate_domain::outcome::StateChange;

use super::Slot;
use crate::host::Call;
use crate::manifest::StateKind;
use crate::migrate::{MigrateResults, OldState};
use crate::state::SlotState;

/// See [`Slot::handover`].
#[derive(Debug)]
pub(crate) enum Handover {
    /// The state goes on as it is.
    AsItIs,
    /// It goes on in the form that the new module made of it.
    Migrated(Box<SlotState>, StateChange),
    /// The new generation begins without.
    Afresh,
}

impl Slot {
    /// What `new` is to begin with in the place of this slot. Changes nothing.
    ///
    /// # Errors
    /// Why the state cannot be taken over, for people. The new generation is not to run then.
    pub(crate) fn handover(
        &self,
        new: &Self,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Handover, String> {
        let (from, to) = (&self.module.manifest, &new.module.manifest);
        let fits = from.state == to.state;
        if from.name != to.name || from.state == StateKind::None || to.state == StateKind::None {
            return Ok(match fits {
                true if from.name == to.name => Handover::AsItIs,
                true | false => Handover::Afresh,
            });
        }
        if from.state_schema == to.state_schema {
            return match fits {
                true => Ok(Handover::AsItIs),
                false => Err(format!(
                    "module {} {} keeps state of another kind or width than {} under the same `state-schema` {}: raise \
                     that in its manifest and export `migrate`",
                    to.name, to.version, from.version, from.state_schema
                )),
            };
        }
        let at = format!(
            "module {} {} has `state-schema` {} where {} has {}",
            to.name, to.version, to.state_schema, from.version, from.state_schema
        );
        let Some(migrate) = &new.migrate else {
            return Err(format!(
                "{at}, and exports no `migrate` that would turn the one into the other: build it for the world \
                 `migrating-filter`"
            ));
        };
        let old = OldState::new(&from.version, &self.state);
        let call = Call::new(&new.context, now, arrival.wall);
        let called = new
            .guest
            .call::<_, MigrateResults>(migrate, call, (old.as_ref(),));
        let answer = match called.result {
            Ok((Ok(state),)) => state.judge(to.state, old.names(), new.guest.limits()),
            Ok((Err(fault),)) => Err(fault.message()),
            Err(failure) => Err(format!("{}: {}", failure.reason(), failure.detail())),
        };
        let change = answer.map_err(|why| format!("{at}, and its `migrate` failed: {why}"))?;
        let state = SlotState::restore(to.state, Some(&change), &new.context.slot);
        Ok(Handover::Migrated(Box::new(state), change))
    }

    /// Begins with the state that a slot before it had: takes it, or a copy of it.
    pub(crate) fn begin_with(&mut self, before: &mut Self, how: Handover, copy: bool) {
        self.keep_time(before);
        match how {
            Handover::AsItIs if copy => self.state = before.state.clone(),
            Handover::AsItIs => std::mem::swap(&mut self.state, &mut before.state),
            Handover::Migrated(state, _) => self.state = *state,
            Handover::Afresh => {}
        }
    }

    /// Whether its output for one series says nothing of the others', and it raises no alarm: only then can another
    /// generation speak for a part of the series.
    pub(crate) fn is_divisible(&self) -> bool {
        let imports = &self.module.inspection.imports;
        self.module.manifest.state != StateKind::Global
            && !imports
                .iter()
                .any(|import| import.0.starts_with("tidegate:module/alarm@"))
    }
}
