//! What filters do as time passes, in the real engine.

use tidegate_domain::rollout::{Gates, Mode, Record};

use super::guest::{add_own_row, add_row, ticking};
use super::*;
use crate::rehearsal::Rehearsal;

const STATE: StateKind = StateKind::Series { width: 2 };
const SECOND: Duration = Duration::from_secs(1);

/// A ticking filter in its place, with an interval of ten seconds.
fn slot(component: Vec<u8>, grants: &[Grant], state: StateKind) -> Slot {
    slot_in(shared(), component, grants, state)
}

fn slot_in(runtime: &Runtime, component: Vec<u8>, grants: &[Grant], state: StateKind) -> Slot {
    let mut manifest = manifest(grants, state);
    manifest.world = World::TickingFilter;
    manifest.tick_seconds = Some(10);
    let module = Module {
        manifest,
        component: component.into(),
        origin: Origin::Local,
    };
    Slot::of(Arc::new(LoadedModule::load(runtime, module).unwrap()))
}

fn chain(slots: Vec<Slot>) -> Pipeline {
    let slots = (0..).zip(slots).map(|(place, slot)| SlotConfig {
        filter: format!("f{place}"),
        ..slot.config
    });
    let config = PipelineConfig {
        index: 0,
        name: "p".to_owned(),
        select: SeriesFilter::default(),
        slots: slots.collect(),
    };
    Pipeline::new(shared(), config, &BTreeMap::new()).unwrap()
}

/// Ticks what is due now, whenever that is.
fn tick(pipeline: &mut Pipeline, now: Instant) -> PipelineOutcome {
    pipeline.tick_now(now);
    let outcome = pipeline.tick(ARRIVAL, now).unwrap();
    balances(&outcome);
    outcome.stored.validate().unwrap();
    outcome
}

fn names(batch: &Batch) -> Vec<&str> {
    (0..batch.len()).map(|row| &**batch.name(row)).collect()
}

/// One row of as many series, so that each has a record.
fn series(count: usize) -> Batch {
    let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
    let rows = names.iter().map(|name| (name.as_str(), Value::Int(1)));
    batch(&rows.collect::<Vec<_>>())
}

#[test]
fn the_first_tick_is_an_interval_away_and_missed_ones_are_not_made_up_for() {
    let mut pipeline = slot(ticking("", &add_own_row(), ""), &[], StateKind::None).pipeline();
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * SECOND;
    assert_eq!(pipeline.tick_at(start), Some(at(10)));
    let mut ticks = Vec::new();
    for seconds in [9, 10, 11, 19, 20, 55, 56, 64, 65, 66, 75] {
        let ticked = pipeline.tick(ARRIVAL, at(seconds));
        ticks.extend(ticked.map(|outcome| (seconds, outcome.stored.len())));
    }
    assert_eq!(ticks, [(10, 1), (20, 1), (55, 1), (65, 1), (75, 1)]);
    let stats = pipeline.stats().filters[0].snapshot();
    let ticks = TickCounts {
        called: 5,
        failed: 0,
        derived: 5,
    };
    assert_eq!(
        (stats.ticks, stats.derived, stats.calls),
        (Some(ticks), 5, 5)
    );

    // One without ticks has none, and the site cannot ask it for any.
    let mut plain = Slot::of(module(pass(), &[], StateKind::None));
    assert_eq!(
        Slot::of(module(pass(), &[], StateKind::None))
            .pipeline()
            .tick_at(start),
        None
    );
    plain.config.limits.tick = Some(SECOND);
    let error = plain.try_pipeline(&BTreeMap::new()).unwrap_err().source;
    assert!(
        error.to_string().contains("remove the key `tick`"),
        "{error}"
    );
}

/// The row that the first adds is taken out by the second, which adds one of its own, and passes the third.
#[test]
fn what_a_tick_adds_goes_through_the_filters_behind_it_with_its_alarms() {
    let raise = "(call $raise (i32.const 0) (i32.const 1) (i32.const 400) (i32.const 4) (i32.const 400) (i32.const 4))";
    let first = ticking(ALARM, &format!("{raise} {}", add_own_row()), "");
    let second = ticking("", &add_own_row(), &keep_none());
    let mut pipeline = chain(vec![
        slot(first, &[Grant::Alarm], StateKind::None),
        slot(second, &[], StateKind::None),
        Slot::of(module(pass(), &[], StateKind::None)),
    ]);
    let outcome = tick(&mut pipeline, Instant::now());
    assert_eq!((outcome.derived, outcome.filtered), (2, 1));
    assert_eq!(names(&outcome.stored), ["added"]);
    assert_eq!((outcome.stored.time[0], outcome.stored.bits[0]), (77, 7));
    let alarm = &outcome.alarms[0];
    assert_eq!(
        (&*alarm.series, &*alarm.code, alarm.time),
        ("added", "code", 77)
    );
    assert_eq!(alarm.state, AlarmState::Raised);
    assert_eq!(alarm.filter, "f0");
}

/// Each call adds a row of the first series that it is about.
#[test]
fn a_tick_is_about_the_series_that_have_a_record_so_many_in_a_call() {
    let nothing = slot(
        ticking(SERIES_STATE, "unreachable", COUNT_ROWS),
        &[Grant::State],
        STATE,
    );
    let outcome = tick(&mut nothing.pipeline(), Instant::now());
    assert!(outcome.is_empty(), "without a record there is no call");

    // Bytes of the column: two for each name, and no other.
    let check = "(call $load (i32.const 9000))
        (if (i32.ne (i32.load (i32.const 9004)) (i32.mul (i32.const 2) (local.get $n))) (then unreachable))";
    let body = format!("{check} {}", add_row("(local.get $series)"));
    let mut pipeline = slot(
        ticking(SERIES_STATE, &body, COUNT_ROWS),
        &[Grant::State],
        STATE,
    )
    .pipeline();
    run(&mut pipeline, &series(1000));
    let more: Vec<(String, i64)> = (1000..2500).map(|n| (format!("s{n}"), 1)).collect();
    let more: Vec<(&str, Value<'_>)> = more
        .iter()
        .map(|(s, v)| (s.as_str(), Value::Int(*v)))
        .collect();
    run(&mut pipeline, &batch(&more));
    let outcome = tick(&mut pipeline, Instant::now());
    assert_eq!(names(&outcome.stored), ["s0", "s1024", "s2048"]);
}

/// `store` puts a 9 into every byte of the column.
#[test]
fn what_a_tick_leaves_in_the_state_commits_with_it_and_nothing_after_a_fault() {
    let write = "(memory.fill (i32.const 20000) (i32.const 9) (i32.const 2048))
        (call $store (i32.const 20000) (i32.mul (i32.const 2) (local.get $n)))";
    let make = |end: &str| {
        let body = format!("{write} {end}");
        slot(
            ticking(SERIES_STATE, &body, COUNT_ROWS),
            &[Grant::State],
            STATE,
        )
        .pipeline()
    };
    let mut pipeline = make("");
    run(&mut pipeline, &series(3));
    let outcome = tick(&mut pipeline, Instant::now());
    let StateChange::Series { names, records, .. } = &outcome.state[0].change else {
        panic!("{:?}", outcome.state);
    };
    assert_eq!((names.len(), records), (3, &vec![9; 6]));
    let after = run(&mut pipeline, &series(1));
    assert!(
        matches!(&after.state[0].change, StateChange::Series { records, .. } if records[0] == 10)
    );

    for end in [fault().as_str(), "unreachable"] {
        let mut pipeline = make(end);
        run(&mut pipeline, &series(3));
        assert!(tick(&mut pipeline, Instant::now()).is_empty(), "{end}");
        let after = run(&mut pipeline, &series(1));
        assert!(
            matches!(&after.state[0].change, StateChange::Series { records, .. } if records[0] == 2),
            "{end}"
        );
    }
}

#[test]
fn an_endless_tick_takes_two_deadlines_opens_its_own_breaker_and_holds_back_no_reading() {
    let mut slot = slot(ticking("", "(loop (br 0))", ""), &[], StateKind::None);
    slot.config.limits.deadline = Duration::from_millis(20);
    let mut pipeline = slot.pipeline();
    let start = Instant::now();
    for failed in 1..=5 {
        assert!(tick(&mut pipeline, start).is_empty());
        let stats = pipeline.stats().filters[0].snapshot();
        assert_eq!((stats.timeouts, stats.retries), (2 * failed, failed));
        // Each call runs over by a tick of the clock at most.
        let most = 0.04 * failed as f64 + 0.015 * stats.calls as f64;
        assert!(stats.cpu_seconds_total <= most, "{stats:?}");
    }
    let stats = || pipeline_stats(&pipeline);
    assert_eq!(stats().breaker, BreakerState::Open);
    let error = stats().last_error.unwrap();
    assert_eq!(error.reason, reason::TIMEOUT);
    let calls = stats().calls;
    tick(&mut pipeline, start);
    let now = pipeline_stats(&pipeline);
    assert_eq!(
        (now.calls, now.skipped_batches),
        (calls, 1),
        "it is left out"
    );
    assert_eq!(run(&mut pipeline, &ints(&[1, 2])).stored.len(), 2);
    assert_eq!(pipeline_stats(&pipeline).breaker, BreakerState::Open);
}

fn pipeline_stats(pipeline: &Pipeline) -> FilterSnapshot {
    pipeline.stats().filters[0].snapshot()
}

/// It fails wherever the series `s5` is among those that it is about.
#[test]
fn a_series_on_which_a_tick_fails_is_left_out_alone() {
    let find = "(loop $l (if (i32.eq (i32.load16_u (i32.load (i32.add (local.get $series)
            (i32.mul (i32.const 8) (local.get $i))))) (i32.const 0x3573))
            (then (if (i32.eq (i32.load (i32.add (i32.const 4) (i32.add (local.get $series)
                (i32.mul (i32.const 8) (local.get $i))))) (i32.const 2)) (then unreachable))))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))";
    let body = format!("{find} {}", add_row("(local.get $series)"));
    let mut pipeline = slot(
        ticking(SERIES_STATE, &body, COUNT_ROWS),
        &[Grant::State],
        STATE,
    )
    .pipeline();
    run(&mut pipeline, &series(8));
    for _ in 0..10 {
        // Halves: 0–3, 4–7 in halves: 4–5 in halves, and 6–7.
        let outcome = tick(&mut pipeline, Instant::now());
        assert_eq!(names(&outcome.stored), ["s0", "s4", "s6"]);
    }
    let stats = pipeline_stats(&pipeline);
    assert_eq!(stats.breaker, BreakerState::Closed);
    let ticks = TickCounts {
        called: 10,
        failed: 10,
        derived: 30,
    };
    assert_eq!(stats.ticks, Some(ticks));
    assert_eq!(stats.last_error.unwrap().reason, reason::TRAP);
}

#[test]
fn what_a_tick_has_no_time_for_comes_first_at_the_next() {
    let spin = "(loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 60000000))))";
    let body = format!("{spin} {}", add_row("(local.get $series)"));
    let mut slot = slot(
        ticking(SERIES_STATE, &body, COUNT_ROWS),
        &[Grant::State],
        STATE,
    );
    // A call takes some of it, and all of them do not get done in two.
    slot.config.limits.deadline = Duration::from_millis(120);
    let mut pipeline = slot.pipeline();
    for part in 0..30 {
        let names: Vec<String> = (0..1024).map(|n| format!("s{}", part * 1024 + n)).collect();
        let rows: Vec<(&str, Value<'_>)> = names
            .iter()
            .map(|name| (name.as_str(), Value::Int(1)))
            .collect();
        run(&mut pipeline, &batch(&rows));
    }
    let mut seen = Vec::new();
    let mut ticks = 0;
    while seen.len() < 30 {
        let outcome = tick(&mut pipeline, Instant::now());
        seen.extend(names(&outcome.stored).into_iter().map(str::to_owned));
        ticks += 1;
        assert!(ticks <= 60, "{seen:?}");
    }
    assert!(ticks > 1, "it is not bounded at all");
    let want: Vec<String> = (0..30).map(|part| format!("s{}", part * 1024)).collect();
    assert_eq!(seen[..30], want);
}

#[test]
fn an_answer_of_a_tick_that_means_nothing_is_refused() {
    let raise = "(call $raise (i32.const 1) (i32.const 1) (i32.const 400) (i32.const 4) (i32.const 400) (i32.const 4))";
    let alarm = format!("{raise} {}", add_own_row());
    // A series that is not there; a kind that is none.
    let series = format!(
        "{} (i32.store (i32.const 6000) (i32.const 1))",
        add_own_row()
    );
    let kind = format!(
        "{} (i32.store8 (i32.const 6016) (i32.const 9))",
        add_own_row()
    );
    let length = format!(
        "{} (i32.store (i32.const {}) (i32.const 2))",
        add_own_row(),
        ANSWER + 16
    );
    for (body, want) in [
        (&alarm, "an alarm for row 1 of 1"),
        (&series, "series"),
        (&kind, "kind"),
        (&length, "length"),
    ] {
        let component = ticking(ALARM, body, "");
        let mut pipeline = slot(component, &[Grant::Alarm], StateKind::None).pipeline();
        assert!(tick(&mut pipeline, Instant::now()).is_empty(), "{want}");
        let stats = pipeline_stats(&pipeline);
        assert_eq!((stats.invalid_outputs, stats.retries), (1, 0), "{stats:?}");
        let detail = stats.last_error.unwrap().detail;
        println!("{want}: {detail}");
        assert!(!detail.is_empty());
        assert_eq!(run(&mut pipeline, &ints(&[1])).stored.len(), 1);
    }
}

/// Both add a row of every hundredth series of their own accord; a part of those is the canary's.
#[test]
fn a_canarys_ticks_are_heard_for_its_share_and_a_bad_one_is_rolled_back() {
    let make = |version: &str, tick: &str| {
        let mut slot = slot(
            ticking(SERIES_STATE, tick, COUNT_ROWS),
            &[Grant::State],
            STATE,
        );
        let mut module = Module {
            manifest: slot.config.module.manifest.clone(),
            component: ticking(SERIES_STATE, tick, COUNT_ROWS).into(),
            origin: Origin::Local,
        };
        module.manifest.version = version.to_owned();
        slot.config.module = Arc::new(LoadedModule::load(shared(), module).unwrap());
        slot.pipeline()
    };
    // Every series that it is about gets a row: the answer's lists are made longer.
    let all = format!(
        "{} (i32.store (i32.const {names}) (local.get $n))
         (loop $l
            (i32.store (i32.add (i32.const 30000) (i32.mul (i32.const 4) (local.get $i))) (local.get $i))
            (i64.store (i32.add (i32.const 40000) (i32.mul (i32.const 8) (local.get $i))) (local.get $now))
            (i32.store8 (i32.add (i32.const 50000) (local.get $i)) (i32.const 1))
            (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
         {}",
        add_row("(local.get $series)"),
        [(12, 30000), (20, 40000), (28, 50000), (36, 52000), (52, 51000)]
            .map(|(at, place)| {
                let place = format!("(i32.const {place})");
                store(&[(ANSWER + at, &place), (ANSWER + at + 4, "(local.get $n)")])
            })
            .concat(),
        names = ANSWER + 8,
    );
    let now = Instant::now();
    let active = make("1.0.0", &all);
    let record = Record::new(active.chain());
    let mut lane = Lane::new(active, record, None, now);
    let gates = Gates {
        mode: Mode::Canary,
        share: 0.3,
        min_samples: 1_000_000,
        ..Gates::default()
    };
    let tick = |lane: &mut Lane, now: Instant| {
        let mut out = Vec::new();
        assert!(lane.tick_at(now).is_some());
        lane.tick(ARRIVAL, now + 10 * SECOND, &mut out);
        out.iter().for_each(balances);
        out
    };
    lane.run(&series(100), ARRIVAL, now, &mut Vec::new());
    let change = lane.start(make("2.0.0", &format!("nop {all}")), gates, ARRIVAL, now);
    assert_eq!(change.note.unwrap().code, "rollout-started");
    let out = tick(&mut lane, now);
    let [rest, share] = out.as_slice() else {
        panic!("{out:?}");
    };
    assert_eq!(rest.stored.len() + share.stored.len(), 100);
    assert!(
        (10..=50).contains(&share.stored.len()),
        "{}",
        share.stored.len()
    );
    assert_ne!(rest.generation, share.generation);
    let evidence = lane.judge(0, now + 10 * SECOND);
    assert!(evidence.is_none_or(|change| change.note.is_none()));

    // One that traps: what the active generation added stands in, and the candidate goes.
    lane.roll_back(tidegate_domain::rollout::Reason::Operator, "because", 0);
    lane.start(make("3.0.0", "unreachable"), gates, ARRIVAL, now);
    let out = tick(&mut lane, now + 10 * SECOND);
    let rows: usize = out.iter().map(|outcome| outcome.stored.len()).sum();
    assert_eq!(rows, 100);
    assert!(
        out.iter()
            .all(|outcome| outcome.generation == out[0].generation)
    );
    let note = lane.judge(0, now + 21 * SECOND).unwrap().note.unwrap();
    assert_eq!(note.data["reason"], "trap");
    // And one that says something else.
    let other = format!("{all} (i32.store8 (i32.const 52000) (i32.const 1))");
    let gates = Gates {
        mode: Mode::Shadow,
        min_samples: 1,
        ..gates
    };
    lane.start(make("4.0.0", &other), gates, ARRIVAL, now);
    tick(&mut lane, now + 20 * SECOND);
    lane.run(&series(100), ARRIVAL, now, &mut Vec::new());
    let evidence = lane.record().clone();
    let change = lane.judge(0, now + 31 * SECOND);
    assert!(change.is_some(), "{evidence:?}");
}

/// The schedule goes on, also where a candidate takes over.
#[test]
fn a_swap_changes_no_time_of_a_tick() {
    let make = |tick: &str| {
        let tick = format!("{tick} {}", add_own_row());
        slot(ticking("", &tick, ""), &[], StateKind::None).pipeline()
    };
    let now = Instant::now();
    let active = make("");
    let record = Record::new(active.chain());
    let mut lane = Lane::new(active, record, None, now);
    assert_eq!(lane.tick_at(now), Some(now + 10 * SECOND));
    let gates = Gates {
        mode: Mode::Immediate,
        ..Gates::default()
    };
    let later = now + 7 * SECOND;
    lane.start(make("nop"), gates, ARRIVAL, later);
    assert_eq!(lane.tick_at(later), Some(now + 10 * SECOND));
}

/// An hour between two batches: the virtual clock has three hundred and sixty ticks in it.
#[test]
fn a_rehearsal_ticks_by_the_clock_of_what_arrived_and_twice_alike() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.profile = Some(Profile::Metered);
    let runtime = Runtime::new(config).unwrap();
    let make = |tick: &str| {
        slot_in(&runtime, ticking("", tick, ""), &[], StateKind::None).pipeline_in(&runtime)
    };
    let rehearse = || {
        let mut rehearsal = Rehearsal::new(make(""), make(&add_own_row()));
        let mut differences = Vec::new();
        let second = 1_000_000_000;
        for arrival in [5_i64, 5 + 3600 * second] {
            while let Some(difference) = rehearsal.tick(arrival) {
                differences.push(difference);
            }
            differences.push(rehearsal.run(&ints(&[1]), arrival));
        }
        (differences, rehearsal.sums())
    };
    let (differences, sums) = rehearse();
    assert_eq!((sums.batches, sums.candidate.derived), (2, 360));
    assert_eq!(differences.len(), 362);
    let times: Vec<i64> = differences
        .iter()
        .flat_map(|d| &d.rows)
        .map(|row| row.time)
        .collect();
    let want: Vec<i64> = (1..=360).map(|n| 5 + n * 10_000_000_000).collect();
    assert_eq!(times, want);
    assert_eq!(rehearse(), (differences, sums));
}

#[test]
fn the_manifest_says_how_often_and_for_which_world() {
    let parse = |world: &str, seconds: &str| {
        let json = format!(
            r#"{{"name": "a", "version": "1.0.0", "world": "{world}", "tick-seconds": {seconds}}}"#
        );
        Manifest::parse(json.as_bytes()).map(|manifest| manifest.tick())
    };
    let ticking = "tidegate:module/ticking-filter@0.2.0";
    assert_eq!(parse(ticking, "5").unwrap(), Some(5 * SECOND));
    for (world, seconds, want) in [
        (ticking, "0", "1 to 86400"),
        (ticking, "86401", "1 to 86400"),
        ("filter", "5", "has no `tick`"),
        ("tidegate:module/decoder@0.2.0", "5", "has no `tick`"),
    ] {
        let error = parse(world, seconds).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    // Where it does not say.
    let json = format!(r#"{{"name": "a", "version": "1.0.0", "world": "{ticking}"}}"#);
    let manifest = Manifest::parse(json.as_bytes()).unwrap();
    assert_eq!(manifest.tick(), Some(limits::TICK));
}
