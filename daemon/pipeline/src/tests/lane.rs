//! Generations in the real engine: swaps between batches, shadows, canaries, and what rolls them back.

use tidegate_domain::rollout::{Change, Gates, Mode, Reason, Record, StateMove, candidate_key};

use super::guest::migrating;
use super::*;

const STATE: StateKind = StateKind::Series { width: 2 };

fn with_version(component: Vec<u8>, grants: &[Grant], state: StateKind, version: &str) -> Slot {
    let mut manifest = manifest(grants, state);
    manifest.version = version.to_owned();
    let component = Bytes::from(component);
    let origin = Origin::Local;
    let module = Module {
        manifest,
        component,
        origin,
    };
    Slot::of(Arc::new(LoadedModule::load(shared(), module).unwrap()))
}

/// A filter without state whose `process` is this.
fn plain(body: &str) -> Pipeline {
    with_version(guest("", body), &[], StateKind::None, "1.0.0").pipeline()
}

/// A filter that counts its calls by series, after doing this.
fn counting(body: &str) -> Pipeline {
    let component = guest(SERIES_STATE, &format!("{body} {COUNT_ROWS}"));
    with_version(component, &[Grant::State], STATE, "1.0.0").pipeline()
}

fn lane(active: Pipeline) -> Lane {
    let record = Record::new(active.chain());
    Lane::new(active, record, None, Instant::now())
}

fn gates(mode: Mode, share: f64, min_samples: u64) -> Gates {
    Gates {
        mode,
        share,
        min_samples,
        ..Gates::default()
    }
}

fn start(lane: &mut Lane, candidate: Pipeline, gates: Gates) -> Change {
    lane.start(candidate, gates, ARRIVAL, Instant::now())
}

fn run_lane(lane: &mut Lane, input: &Batch) -> Vec<PipelineOutcome> {
    let mut out = Vec::new();
    lane.run(input, ARRIVAL, Instant::now(), &mut out);
    out.iter().for_each(balances);
    out
}

/// What came through, whoever spoke.
fn stored(outcomes: &[PipelineOutcome]) -> BTreeSet<(String, i64)> {
    let rows = |outcome: &PipelineOutcome| {
        let batch = &outcome.stored;
        let rows = (0..batch.len()).map(|row| (batch.name(row).to_string(), batch.time[row]));
        rows.collect::<Vec<_>>()
    };
    outcomes.iter().flat_map(rows).collect()
}

/// Three hundred rows of a hundred series.
fn input() -> Batch {
    let names: Vec<String> = (0..100).map(|n| format!("plant/line{n}")).collect();
    let rows: Vec<(&str, Value<'_>)> = (0..300)
        .map(|row| (names[row % 100].as_str(), Value::Int(1)))
        .collect();
    batch(&rows)
}

/// Runs until there is a decision; every batch's rows come through exactly once until then and after it.
fn until_decided(lane: &mut Lane, input: &Batch) -> Change {
    let all: BTreeSet<(String, i64)> = (0..input.len())
        .map(|row| (input.name(row).to_string(), input.time[row]))
        .collect();
    for _ in 0..200 {
        let out = run_lane(lane, input);
        assert_eq!(stored(&out), all);
        assert_eq!(
            out.iter().map(|o| o.selected).sum::<u64>(),
            input.len() as u64
        );
        if let Some(change) = lane.judge(0, Instant::now())
            && change.note.is_some()
        {
            assert_eq!(stored(&run_lane(lane, input)), all);
            return change;
        }
    }
    panic!("no verdict: {:?}", lane.record());
}

#[test]
fn a_thousand_swaps_under_load_lose_nothing_duplicate_nothing_and_keep_the_state() {
    let input = batch(&[("a", Value::Int(1)), ("b", Value::Int(2))]);
    let mut lane = lane(counting(""));
    let mut pauses = Vec::new();
    let mut last = 0;
    for swap in 0..1000_u32 {
        let out = run_lane(&mut lane, &input);
        assert_eq!((out.len(), out[0].stored.len(), out[0].selected), (1, 2, 2));
        let StateChange::Series { records, .. } = &out[0].state[0].change else {
            panic!("{:?}", out[0].state);
        };
        assert_eq!(out[0].state[0].slot.as_ref(), "p/f");
        last = swap + 1;
        assert_eq!(u32::from(records[0]), last % 256, "the state went along");
        let next = counting(if swap % 2 == 0 { "nop" } else { "" });
        let before = lane.shown().now().generation;
        let began = Instant::now();
        let change = start(&mut lane, next, gates(Mode::Immediate, 0.0, 0));
        pauses.push(began.elapsed());
        assert!(change.states.is_empty(), "it stays where it is");
        assert_ne!(lane.shown().now().generation.id, before.id);
    }
    assert_eq!(last, 1000);
    pauses.sort();
    println!("swap pause: p50 {:?}, p99 {:?}", pauses[500], pauses[990]);
}

#[test]
fn every_kind_of_bad_candidate_is_rolled_back_for_its_own_reason_and_costs_no_row() {
    let grow = "(drop (memory.grow (i32.const 64)))";
    let spin = "(loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 30000000))))";
    let wrong = store(&[(ANSWER + 4, "(i32.const 9)")]);
    let trap = "(if (i32.gt_u (local.get $n) (i32.const 100)) (then unreachable))";
    let fault = fault();
    let none = keep_none();
    for (body, expect) in [
        (trap, Reason::Trap),
        ("(loop (br 0))", Reason::Timeout),
        (wrong.as_str(), Reason::InvalidOutput),
        (fault.as_str(), Reason::Fault),
        (spin, Reason::Latency),
        (grow, Reason::Memory),
        (none.as_str(), Reason::Difference),
    ] {
        for mode in [Mode::Shadow, Mode::Canary] {
            let mut lane = lane(plain(""));
            let active = lane.record().active.clone();
            let mut gates = gates(mode, 0.3, 20_000);
            if expect == Reason::Difference {
                // Nobody but a shadow is silent enough not to be noticed; the canary has its own test below.
                gates.mode = Mode::Shadow;
            }
            let started = start(&mut lane, plain(body), gates);
            assert_eq!(started.note.unwrap().code, "rollout-started");
            let change = until_decided(&mut lane, &input());
            let note = change.note.unwrap();
            assert_eq!(note.code, "rollout-rolled-back", "{body}");
            assert_eq!(
                note.data["reason"],
                expect.as_str(),
                "{body}: {}",
                note.text
            );
            assert_eq!(lane.record().active, active);
            assert_eq!(lane.record().refused.as_ref().unwrap().reason, expect);
            assert!(!lane.is_trying());
        }
    }
}

#[test]
fn a_canary_speaks_for_its_share_under_its_own_generation_and_nobody_else_is_touched() {
    let mut lane = lane(plain(""));
    let active = lane.shown().now().generation;
    start(
        &mut lane,
        plain(&keep_none()),
        gates(Mode::Canary, 0.3, 1_000_000),
    );
    let candidate = lane.shown().now().candidate.unwrap().0;
    let out = run_lane(&mut lane, &input());
    let [rest, share] = out.as_slice() else {
        panic!("{out:?}");
    };
    assert_eq!(rest.generation.as_ref().unwrap().id, active.id);
    assert_eq!(share.generation.as_ref().unwrap().id, candidate.id);
    assert_eq!(rest.stored.len() as u64, rest.selected);
    assert_eq!(
        (share.stored.len() as u64, share.filtered),
        (0, share.selected)
    );
    assert!((45..=135).contains(&share.selected), "{}", share.selected);
    assert_eq!(rest.selected + share.selected, 300);
}

#[test]
fn a_good_candidate_is_promoted_with_its_own_state() {
    for mode in [Mode::Shadow, Mode::Canary] {
        let mut lane = lane(counting(""));
        run_lane(&mut lane, &input());
        let started = start(&mut lane, counting("nop"), gates(mode, 0.1, 3000));
        let (slot, own): (Arc<str>, _) = ("p/f".into(), candidate_key("p/f"));
        let copy = StateMove::Copy {
            from: Arc::clone(&slot),
            to: own.clone(),
        };
        assert_eq!(started.states, [copy]);
        let out = run_lane(&mut lane, &input());
        let keys: BTreeSet<&str> = out
            .iter()
            .flat_map(|outcome| &outcome.state)
            .map(|delta| &*delta.slot)
            .collect();
        assert_eq!(keys, BTreeSet::from(["p/f", &own]), "each has its own");
        let candidate = lane.shown().now().candidate.unwrap().0;
        let change = until_decided(&mut lane, &input());
        assert_eq!(change.note.unwrap().code, "rollout-promoted");
        assert_eq!(
            change.states,
            [StateMove::Move {
                from: own,
                to: slot
            }]
        );
        let now = lane.shown().now();
        assert_eq!(now.generation.id, candidate.id);
        assert!(now.candidate.is_none());
        assert_eq!(now.record.last_good, Some(counting("").chain()));
        // Calls of the swap's batches, and both parts of each: nobody's count was reset.
        let out = run_lane(&mut lane, &batch(&[("plant/line1", Value::Int(1))]));
        let StateChange::Series { records, .. } = &out[0].state[0].change else {
            panic!("{out:?}");
        };
        assert_eq!(records[0], 13);
    }
}

#[test]
fn a_rollback_leaves_the_state_of_the_active_generation_whole() {
    let one = batch(&[("plant/line1", Value::Int(1))]);
    let count = |out: &[PipelineOutcome]| {
        let delta = out[0]
            .state
            .iter()
            .find(|delta| &*delta.slot == "p/f")
            .unwrap();
        match &delta.change {
            StateChange::Series { records, .. } => records[0],
            StateChange::Global(_) => panic!(),
        }
    };
    let mut lane = lane(counting(""));
    assert_eq!(count(&run_lane(&mut lane, &one)), 1);
    start(
        &mut lane,
        counting("unreachable"),
        gates(Mode::Canary, 1.0, 100),
    );
    // It speaks for everything, and traps: the active one's output stands in, under its own name.
    let active = lane.shown().now().generation;
    let out = run_lane(&mut lane, &one);
    assert_eq!((count(&out), out[1].stored.len()), (2, 1));
    assert_eq!(out[1].generation.as_ref().unwrap().id, active.id);
    let change = lane.judge(0, Instant::now()).unwrap();
    assert_eq!(
        change.states,
        [StateMove::Drop {
            slot: candidate_key("p/f")
        }]
    );
    assert_eq!(count(&run_lane(&mut lane, &one)), 3);
    // Somebody goes back where there is nothing on trial.
    start(&mut lane, counting("nop"), gates(Mode::Immediate, 0.0, 0));
    assert_eq!(count(&run_lane(&mut lane, &one)), 4);
    let now = Instant::now();
    let change = lane.put_back(counting(""), Reason::Operator, "because", ARRIVAL, now);
    assert_eq!(change.record.active, counting("").chain());
    assert_eq!(count(&run_lane(&mut lane, &one)), 5);
}

#[test]
fn what_raises_alarms_or_has_global_state_is_a_shadow_until_it_is_promoted() {
    for (grants, state) in [
        (&[Grant::State][..], StateKind::Global),
        (&[][..], StateKind::None),
    ] {
        let make = || with_version(guest("", ""), grants, state, "2.0.0").pipeline();
        let mut lane = lane(make());
        start(&mut lane, make(), gates(Mode::Canary, 0.5, 100));
        let expect = match state {
            StateKind::Global => "shadow",
            StateKind::None | StateKind::Series { .. } => "canary",
        };
        assert_eq!(lane.record().state(), expect);
    }
}

#[test]
fn state_of_another_schema_goes_through_migrate_or_the_swap_is_refused() {
    let one = batch(&[("a", Value::Int(1))]);
    let with = |component: Vec<u8>, schema| {
        let mut manifest = manifest(&[Grant::State], STATE);
        if inspect(&component).unwrap().exports.len() > 1 {
            manifest.world = World::MigratingFilter;
        }
        manifest.version = format!("{schema}.0.0");
        manifest.state_schema = schema;
        let module = Module {
            manifest,
            component: Bytes::from(component),
            origin: Origin::Local,
        };
        Slot::of(Arc::new(LoadedModule::load(shared(), module).unwrap())).pipeline()
    };
    let old = || with(guest(SERIES_STATE, COUNT_ROWS), 1);
    // `migrate` puts a 7 into the second byte of the first record.
    let migrate = "(i32.store8 (i32.add (local.get $records) (i32.const 1)) (i32.const 7))";
    let new = || with(migrating(SERIES_STATE, migrate, 2, COUNT_ROWS), 2);
    let immediate = gates(Mode::Immediate, 0.0, 0);

    let mut lane = lane(old());
    run_lane(&mut lane, &one);
    let change = start(&mut lane, new(), immediate);
    let migrated = StateChange::Series {
        width: 2,
        names: vec!["a".into()],
        records: vec![1, 7],
    };
    let set = StateMove::Set {
        slot: "p/f".into(),
        change: migrated,
    };
    assert_eq!(change.states, [set]);
    let out = run_lane(&mut lane, &one);
    assert!(
        matches!(&out[0].state[0].change, StateChange::Series { records, .. } if *records == [2, 7])
    );

    let refused = [
        (
            with(guest(SERIES_STATE, COUNT_ROWS), 2),
            "exports no `migrate`",
        ),
        (
            with(migrating(SERIES_STATE, "unreachable", 2, COUNT_ROWS), 2),
            "trap",
        ),
        (
            with(migrating(SERIES_STATE, "(loop (br 0))", 2, COUNT_ROWS), 2),
            "timeout",
        ),
        (
            with(migrating(SERIES_STATE, "", 3, COUNT_ROWS), 2),
            "records of 3 bytes",
        ),
    ];
    for (candidate, why) in refused {
        let mut lane = self::lane(old());
        run_lane(&mut lane, &one);
        let before = lane.shown().now().generation;
        let change = start(&mut lane, candidate, immediate);
        let note = change.note.unwrap();
        assert_eq!(
            (note.code, &note.data["reason"]),
            ("rollout-refused", &"state".into())
        );
        assert!(note.text.contains(why), "{}", note.text);
        assert!(change.states.is_empty());
        assert_eq!(lane.shown().now().generation.id, before.id);
        let out = run_lane(&mut lane, &one);
        assert!(
            matches!(&out[0].state[0].change, StateChange::Series { records, .. } if records[0] == 2)
        );
    }
}

#[test]
fn a_chain_is_made_again_from_what_is_recorded() {
    let module = module(
        guest(SERIES_STATE, COUNT_ROWS),
        &[Grant::State, Grant::Log],
        STATE,
    );
    let mut slot = Slot::of(Arc::clone(&module));
    slot.config.on_failure = OnFailure::Drop;
    slot.config.limits.deadline = Duration::from_millis(7);
    let spec = slot.config.spec();
    let text = serde_json::to_string(&spec).unwrap();
    let read = serde_json::from_str(&text).unwrap();
    let policy = BTreeSet::from([Grant::State, Grant::Log]);
    let again = SlotConfig::restore(
        &read,
        Arc::clone(&module),
        &policy,
        &BTreeMap::new(),
        BTreeMap::new(),
    )
    .unwrap();
    assert_eq!(again.spec(), spec);
    assert_eq!(again.limits, slot.config.limits);
    // What the site takes back is gone, whatever was recorded.
    let policy = BTreeSet::from([Grant::State]);
    let again =
        SlotConfig::restore(&read, module, &policy, &BTreeMap::new(), BTreeMap::new()).unwrap();
    assert_eq!(again.grants, BTreeSet::from([Grant::State]));
}
