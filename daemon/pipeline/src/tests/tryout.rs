//! A candidate that somebody looks at and nobody hears.

use tidegate_domain::rollout::{Gates, Mode, Reason, Record, Verdict};

use super::*;
use crate::{End, Tryout};

const STATE: StateKind = StateKind::Series { width: 2 };

fn counting(body: &str) -> Pipeline {
    let component = guest(SERIES_STATE, &format!("{body} {COUNT_ROWS}"));
    Slot::of(module(component, &[Grant::State], STATE)).pipeline()
}

fn gates(min_samples: u64) -> Gates {
    Gates {
        mode: Mode::Canary,
        min_samples,
        differences: 1.0,
        ..Gates::default()
    }
}

fn input() -> Batch {
    batch(&[("a", Value::Int(1)), ("b", Value::Int(2))])
}

fn run_lane(lane: &mut Lane) -> PipelineOutcome {
    let mut out = Vec::new();
    lane.run(&input(), ARRIVAL, Instant::now(), &mut out);
    assert_eq!(out.len(), 1);
    balances(&out[0]);
    out.remove(0)
}

fn begin(candidate: Pipeline, min_samples: u64) -> (Lane, Tryout) {
    let active = counting("");
    let record = Record::new(active.chain());
    let mut lane = Lane::new(active, record, None, Instant::now());
    let (tryout, tried) = Tryout::new();
    lane.try_out(
        candidate,
        gates(min_samples),
        tried,
        ARRIVAL,
        Instant::now(),
    );
    (lane, tryout)
}

#[test]
fn what_is_tried_is_heard_by_nobody_and_goes_with_whoever_looks_on() {
    let dropping = format!("{} ", keep_none());
    let (mut lane, tryout) = begin(counting(&dropping), 1_000_000);
    let record = lane.record().clone();
    for call in 1..=3_u8 {
        let made = run_lane(&mut lane);
        assert_eq!((made.stored.len(), made.filtered), (2, 0));
        let [delta] = &made.state[..] else {
            panic!("states of both: {:?}", made.state);
        };
        assert_eq!(delta.slot.as_ref(), "p/f");
        let StateChange::Series { records, .. } = &delta.change else {
            panic!("{delta:?}");
        };
        assert_eq!(records[0], call, "the active chain counts its own calls");
    }
    let look = tryout.look();
    assert!(look.begun && look.end.is_none(), "{look:?}");
    assert_eq!(
        (look.evidence.samples, look.evidence.differing.integer),
        (6, 6)
    );
    assert_eq!(look.examples.rows.len(), 6);
    assert!(look.examples.rows.iter().all(|row| row.candidate.is_none()));
    assert!(tryout.look().examples.rows.is_empty(), "each is shown once");
    assert!(lane.is_trying() && lane.shown().now().tried.is_some());
    assert_eq!(*lane.record(), record);

    drop(tryout);
    assert_eq!(lane.judge(0, Instant::now()), None);
    assert!(!lane.is_trying() && lane.shown().now().tried.is_none());
    assert_eq!(*lane.record(), record);
}

#[test]
fn a_verdict_ends_it_and_the_active_chain_has_lost_nothing() {
    let (mut lane, tryout) = begin(counting("unreachable"), 1_000_000);
    assert_eq!(run_lane(&mut lane).stored.len(), 2);
    assert!(!lane.is_trying());
    let Some(End::Judged(Verdict::RollBack(Reason::Trap, _))) = tryout.look().end else {
        panic!("{:?}", tryout.look());
    };
    assert_eq!(run_lane(&mut lane).stored.len(), 2);

    let (mut lane, tryout) = begin(counting("nop"), 4);
    let before = lane.shown().now().generation.id.clone();
    run_lane(&mut lane);
    assert_eq!(tryout.look().end, None);
    run_lane(&mut lane);
    assert_eq!(tryout.look().end, Some(End::Judged(Verdict::Promote)));
    run_lane(&mut lane);
    assert_eq!(
        lane.shown().now().generation.id,
        before,
        "nothing takes over"
    );
}

#[test]
fn it_makes_way_for_a_rollout_and_waits_for_none() {
    let (mut lane, tryout) = begin(counting("nop"), 1_000_000);
    let (second, tried) = Tryout::new();
    lane.try_out(
        counting("nop nop"),
        gates(1),
        tried,
        ARRIVAL,
        Instant::now(),
    );
    let broken = |tryout: &Tryout, words: &str| match tryout.look().end {
        Some(End::Broken(why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{other:?}"),
    };
    broken(&second, "another module");
    lane.start(
        counting("nop nop"),
        gates(1_000_000),
        ARRIVAL,
        Instant::now(),
    );
    broken(&tryout, "chain changed");
    let (third, tried) = Tryout::new();
    lane.try_out(counting("nop"), gates(1), tried, ARRIVAL, Instant::now());
    broken(&third, "candidate on trial");
    let (fourth, tried) = Tryout::new();
    drop(lane);
    drop(tried);
    broken(&fourth, "gateway ended");
}
