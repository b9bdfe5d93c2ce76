//! Generations: records and states change together or not at all.

use tidegate_domain::outcome::{StateChange, StateDelta};
use tidegate_domain::rollout::{Chain, Change, Note, Record, SlotSpec, StateMove, candidate_key};

use super::*;

const SLOT: &str = "temperature/deadband";

fn state(byte: u8) -> StateChange {
    StateChange::Series {
        width: 2,
        names: vec!["a/temp".into()],
        records: vec![byte; 2],
    }
}

fn delta(slot: &str, byte: u8) -> StateDelta {
    StateDelta {
        slot: slot.into(),
        change: state(byte),
    }
}

fn record(version: &str) -> Record {
    Record::new(Chain {
        id: version.to_owned(),
        slots: vec![SlotSpec {
            version: version.to_owned(),
            ..SlotSpec::default()
        }],
    })
}

fn step(version: &str, states: Vec<StateMove>) -> Change {
    Change {
        pipeline: "temperature".into(),
        record: record(version),
        states,
        note: Some(Note {
            time: START,
            code: "rollout-promoted",
            text: format!("{version} is active"),
            data: serde_json::json!({ "generation": version }),
        }),
    }
}

/// A step of a rollout without any batch.
fn alone(change: Change) -> BatchOutcome {
    BatchOutcome {
        rollouts: vec![change],
        ..BatchOutcome::default()
    }
}

#[test]
fn a_candidate_begins_with_a_copy_goes_its_own_way_and_takes_over_wholly() {
    let mut bench = Bench::new();
    let candidate = candidate_key(SLOT);
    // All of it in one commit group: what the active one wrote before counts, too.
    let mut first = bench.outcome(&[("a/temp", 0, 1.0)]);
    first.pipelines[0].state.push(delta(SLOT, 1));
    bench.apply(first);
    bench.apply(alone(step(
        "1",
        vec![StateMove::Copy {
            from: SLOT.into(),
            to: candidate.clone(),
        }],
    )));
    let mut both = bench.outcome(&[("a/temp", 1, 1.0)]);
    both.pipelines[0].state.push(delta(SLOT, 2));
    bench.apply(both);
    bench.commit();
    let recovered = bench.crash();
    assert_eq!(recovered.state[SLOT], state(2));
    assert_eq!(recovered.state[&*candidate], state(1));
    assert_eq!(recovered.rollouts["temperature"].active, record("1").active);

    let mut later = bench.outcome(&[("a/temp", 2, 1.0)]);
    later.pipelines[0].state.push(delta(&candidate, 7));
    bench.apply(later);
    let promote = step(
        "2",
        vec![StateMove::Move {
            from: candidate.clone(),
            to: SLOT.into(),
        }],
    );
    bench.apply(alone(promote.clone()));
    // The process dies before the commit: everything is as it was.
    let recovered = bench.crash();
    assert_eq!(recovered.state[SLOT], state(2));
    assert_eq!(recovered.state[&*candidate], state(1));
    assert_eq!(recovered.rollouts["temperature"].active, record("1").active);

    let mut later = bench.outcome(&[("a/temp", 2, 1.0)]);
    later.pipelines[0].state.push(delta(&candidate, 7));
    bench.apply(later);
    bench.apply(alone(promote));
    bench.commit();
    let recovered = bench.crash();
    assert_eq!(recovered.state[SLOT], state(7));
    assert!(!recovered.state.contains_key(&*candidate));
    assert_eq!(recovered.rollouts["temperature"].active, record("2").active);
    bench.check_balance();
}

#[test]
fn a_dropped_candidate_leaves_the_active_ones_state_and_a_new_schema_replaces_it() {
    let mut bench = Bench::new();
    let candidate = candidate_key(SLOT);
    let mut first = bench.outcome(&[("a/temp", 0, 1.0)]);
    first.pipelines[0].state.push(delta(SLOT, 1));
    first.pipelines[0].state.push(delta(&candidate, 9));
    bench.apply(first);
    bench.commit();
    bench.apply(alone(step(
        "1",
        vec![StateMove::Drop {
            slot: candidate.clone(),
        }],
    )));
    bench.commit();
    let recovered = bench.crash();
    assert_eq!(recovered.state[SLOT], state(1));
    assert!(!recovered.state.contains_key(&*candidate));

    // The migrated state has the old one's series no more, and another width.
    let migrated = StateChange::Series {
        width: 3,
        names: vec!["b/temp".into()],
        records: vec![4; 3],
    };
    bench.apply(alone(step(
        "2",
        vec![StateMove::Set {
            slot: SLOT.into(),
            change: migrated.clone(),
        }],
    )));
    bench.commit();
    assert_eq!(bench.crash().state[SLOT], migrated);
    bench.check_balance();
}

#[test]
fn a_step_alone_moves_no_clock_and_is_told_once() {
    let mut bench = Bench::new();
    let mut first = bench.outcome(&[("a/temp", 0, 1.0)]);
    first.pipelines[0].state.push(delta(SLOT, 1));
    bench.apply(first);
    bench.commit();
    let queued = |bench: &mut Bench| bench.commit().ledger.uplinks["cloud"].queued;
    bench.apply(alone(step("1", Vec::new())));
    let one = queued(&mut bench);
    assert_eq!(bench.crash().windows_open, 1, "no window was closed by it");
    bench.apply(alone(Change {
        note: None,
        ..step("2", Vec::new())
    }));
    assert_eq!(queued(&mut bench), one, "only what has a note is told");
}

#[test]
fn unclean_exits_soon_after_the_start_are_counted_and_others_end_the_count() {
    let mut bench = Bench::new();
    bench.apply(alone(step("1", Vec::new())));
    bench.commit();
    let exits = |recovered: &Recovered| recovered.rollouts["temperature"].early_exits;
    assert_eq!(exits(&bench.crash()), 1);
    assert_eq!(exits(&bench.crash()), 2, "a start that dies at once counts");
    bench.advance(61 * SECOND);
    let outcome = bench.outcome(&[("a/temp", 61, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    assert_eq!(exits(&bench.crash()), 0, "it had run for long");
    assert_eq!(exits(&bench.crash()), 1);
    bench.close();
    assert_eq!(exits(&bench.open()), 0, "a clean exit is none");
}
