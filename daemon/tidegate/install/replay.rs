//! A candidate's chain on what was kept of a pipeline's input (`keep-input`), beside the chain that runs, before it sees a
//! reading that counts.
//!
//! What comes out otherwise is no failure: that is for the trial, which knows the tolerances. A chain that fails on input on
//! which the present one does not is one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate_domain::install::{Failure, Stage};
use tidegate_pipeline::rehearsal::{Rehearsal, Totals};
use tidegate_store::Reader;
use tokio::sync::watch;

use super::blame;
use crate::clock;
use crate::rollouts::{Found, Maker, Place};
use crate::wiring::database;

/// How far back it goes.
const SINCE: Duration = Duration::from_mins(15);
/// How long it may take: the device has other work.
const LONGEST: Duration = Duration::from_secs(30);

/// Runs it. Nothing to say where the pipeline keeps no input, or runs what is wanted already.
///
/// # Errors
/// The candidate fails on something, or cannot be run at all.
pub(super) fn replay(
    maker: &Maker<'_>,
    place: &Place,
    found: &Found,
    stop: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let pipeline = &maker.config.pipelines[place.pipeline];
    if pipeline.keep_input.is_none() {
        return Ok(());
    }
    let record = place.shown.now().record;
    let say = |error: anyhow::Error| {
        let error = error.context(format!("pipeline {}", pipeline.name));
        blame::failure(Stage::Replay, &error)
    };
    if maker.chain(place.pipeline, found).map_err(say)? == record.active {
        return Ok(());
    }
    let empty = BTreeMap::new();
    let present = maker.restore(place.pipeline, &record.active, &empty);
    let candidate = maker.wanted(place.pipeline, found, &empty).map_err(say)?;
    let present = match present {
        Ok(present) => present,
        Err(error) => {
            tracing::warn!("there is nothing to replay beside: {error:#}");
            return Ok(());
        }
    };
    let mut rehearsal = Rehearsal::new(present, candidate);
    let since = i64::try_from(SINCE.as_nanos()).unwrap_or(i64::MAX);
    let since = clock::wall().saturating_sub(since);
    let began = Instant::now();
    let reader = Reader::open(&database(maker.config), &[]).map_err(|error| say(error.into()))?;
    let mut next = Some(0);
    while let Some(first) = next {
        let step = reader.kept_input(&pipeline.name, since, first);
        let step = step.map_err(|error| say(error.into()))?;
        for batch in step.batches {
            // One that is damaged says nothing of the candidate.
            let Ok(readings) = batch.readings else {
                continue;
            };
            while rehearsal.tick(batch.arrival).is_some() {}
            rehearsal.run(&readings, batch.arrival);
            let sums = rehearsal.sums();
            let (now, then) = (failed(&sums.present), failed(&sums.candidate));
            if then > now {
                let why = format!(
                    "pipeline {}: of {} readings that were kept it sets aside or drops {then}, and what runs {now}",
                    pipeline.name, sums.candidate.selected
                );
                return Err(blame::of_module(Stage::Replay, why));
            }
            if began.elapsed() > LONGEST || *stop.borrow() {
                return Ok(());
            }
        }
        next = step.next;
    }
    Ok(())
}

/// Readings that did not come through because a filter failed or rejected them.
fn failed(totals: &Totals) -> u64 {
    totals.quarantined + totals.dropped
}
