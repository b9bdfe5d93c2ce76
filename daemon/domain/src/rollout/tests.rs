use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn chain(version: &str, settings: u64) -> Chain {
    Chain {
        id: format!("{version}-{settings}"),
        slots: vec![SlotSpec {
            filter: "f".to_owned(),
            module: "m".to_owned(),
            version: version.to_owned(),
            digest: format!("sha256:{version}"),
            settings: serde_json::json!({ "n": settings }),
            ..SlotSpec::default()
        }],
    }
}

fn sound(samples: u64) -> Evidence {
    let side = Side {
        batches: 100,
        cpu_p99: 100_000,
        memory_peak: 1 << 20,
        ..Side::default()
    };
    Evidence {
        samples,
        compared: Kinds {
            float: samples,
            ..Kinds::default()
        },
        active: side,
        candidate: side,
        ..Evidence::default()
    }
}

/// The reason to roll back, `promote`, or `none` so far.
fn verdict(evidence: &Evidence) -> &'static str {
    match evidence.verdict(&Gates::default()) {
        None => "none",
        Some(Verdict::Promote) => "promote",
        Some(Verdict::RollBack(reason, why)) => {
            assert!(!why.is_empty());
            reason.as_str()
        }
    }
}

#[test]
fn every_gate_rolls_back_for_its_own_reason() {
    let check = |change: &dyn Fn(&mut Evidence), expect: &str| {
        for samples in [10, 5000] {
            let mut evidence = sound(samples);
            change(&mut evidence);
            assert_eq!(verdict(&evidence), expect, "{evidence:?}");
        }
    };
    check(&|e| e.candidate.traps = 1, "trap");
    check(&|e| e.candidate.timeouts = 1, "timeout");
    check(&|e| e.candidate.invalid_outputs = 1, "invalid-output");
    check(&|e| e.candidate.faults = 1, "fault");
    check(&|e| e.candidate.cpu_p99 = 600_000, "latency");
    check(&|e| e.candidate.memory_peak = 4 << 20, "memory");
    check(&|e| e.differing.float = 51, "difference");
    check(&|e| e.differing.alarm = 51, "difference");
}

#[test]
fn what_the_active_generation_does_as_well_is_no_fault_of_the_candidate() {
    let check = |change: &dyn Fn(&mut Evidence), expect: &str| {
        let mut evidence = sound(1000);
        change(&mut evidence);
        assert_eq!(verdict(&evidence), expect, "{evidence:?}");
    };
    check(&|_| {}, "promote");
    check(
        &|e| {
            e.candidate.traps = 7;
            e.active.traps = 7;
        },
        "promote",
    );
    // Ten times as slow, and still faster than anybody notices.
    check(
        &|e| {
            e.active.cpu_p99 = 40_000;
            e.candidate.cpu_p99 = 400_000;
        },
        "promote",
    );
    // A few calls say nothing about time.
    check(
        &|e| {
            e.candidate.cpu_p99 = 100_000_000;
            e.candidate.batches = evidence::LATENCY_CALLS - 1;
        },
        "promote",
    );
    check(&|e| e.candidate.memory_peak = (2 << 20) - 1, "promote");
    check(&|e| e.differing.float = 10, "promote");
    check(&|e| e.differing.float = 11, "difference");
}

#[test]
fn a_quiet_series_is_no_sample() {
    let mut evidence = sound(999);
    assert_eq!(verdict(&evidence), "none");
    evidence.elapsed = Gates::default().time_limit;
    assert_eq!(verdict(&evidence), "samples");
    evidence.samples = 1000;
    assert_eq!(verdict(&evidence), "promote");
}

#[test]
fn what_was_refused_is_not_tried_again_until_it_changes() {
    let mut record = Record::new(chain("1", 0));
    assert_eq!(record.plan(&chain("1", 0)), Plan::Keep);
    assert_eq!(record.plan(&chain("2", 0)), Plan::Try);
    record.start(chain("2", 0), Gates::default());
    assert_eq!(record.plan(&chain("2", 0)), Plan::Keep);
    assert_eq!(record.plan(&chain("1", 0)), Plan::Withdraw);
    assert_eq!(record.plan(&chain("2", 1)), Plan::Try);
    record.drop_candidate(Reason::Trap, "it trapped".to_owned(), 5);
    assert_eq!(record.plan(&chain("2", 0)), Plan::Known);
    assert_eq!(record.plan(&chain("2", 1)), Plan::Try);
    assert_eq!(record.active, chain("1", 0));
    record.start(chain("2", 1), Gates::default());
    record.drop_candidate(Reason::Withdrawn, "no longer asked for".to_owned(), 6);
    assert_eq!(record.plan(&chain("2", 1)), Plan::Try);
}

#[test]
fn a_boot_loop_puts_back_the_candidate_first_and_then_the_active_generation() {
    let mut record = Record::new(chain("1", 0));
    record.early_exits = BOOT_LOOP;
    assert!(!record.boot(0), "there is nothing to go back to");
    record.start(chain("2", 0), Gates::default());
    assert_eq!(record.early_exits, 0, "no exit was its fault");
    record.promote(chain("2", 0), 1, String::new());
    record.start(chain("3", 0), Gates::default());
    record.early_exits = BOOT_LOOP - 1;
    assert!(!record.boot(2));
    record.early_exits = BOOT_LOOP;
    assert!(record.boot(3));
    assert_eq!(
        (record.trial.is_none(), &record.active),
        (true, &chain("2", 0))
    );
    assert_eq!(record.early_exits, 0);
    record.early_exits = BOOT_LOOP;
    assert!(record.boot(4));
    assert_eq!(record.active, chain("1", 0));
    assert_eq!(record.plan(&chain("2", 0)), Plan::Known);
    record.early_exits = BOOT_LOOP;
    assert!(!record.boot(5), "it goes back once");
}

#[test]
fn a_new_version_that_wants_more_is_a_drift_and_another_module_is_not() {
    let mut old = chain("1", 0);
    let mut new = chain("2", 0);
    old.slots[0].wants = ["log".to_owned()].into();
    new.slots[0].wants = ["log".to_owned()].into();
    assert_eq!(new.drift(&old), None);
    new.slots[0].wants.insert("alarm".to_owned());
    let why = new.drift(&old).unwrap();
    assert!(why.contains("m 2 wants alarm"), "{why}");
    new.slots[0].module = "other".to_owned();
    assert_eq!(new.drift(&old), None);
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Promote,
    Drop,
    PutBack,
    Exits(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8).prop_map(Step::Want),
        Just(Step::Promote),
        Just(Step::Drop),
        Just(Step::PutBack),
        (0..5_u32).prop_map(Step::Exits),
    ]
}

proptest! {
    /// However candidates come and go: what speaks was configured or promoted, what is tried is not what speaks, what was
    /// refused is never tried unchanged, and a record survives its own text.
    #[test]
    fn a_record_stays_sound(steps in proptest::collection::vec(step(), 0..40)) {
        let mut record = Record::new(chain("0", 0));
        let mut promoted = vec![chain("0", 0)];
        for step in steps {
            match step {
                Step::Want(version) => {
                    let wanted = chain(&version.to_string(), 0);
                    match record.plan(&wanted) {
                        Plan::Try => record.start(wanted, Gates::default()),
                        Plan::Withdraw => record.drop_candidate(Reason::Withdrawn, "w".to_owned(), 1),
                        Plan::Keep | Plan::Known => {}
                    }
                }
                Step::Promote => if let Some(trial) = record.trial.clone() {
                    promoted.push(trial.candidate.clone());
                    record.promote(trial.candidate, 1, String::new());
                },
                Step::Drop => record.drop_candidate(Reason::Trap, "t".to_owned(), 1),
                Step::PutBack => { record.put_back(Reason::Operator, "o".to_owned(), 1); }
                Step::Exits(exits) => {
                    record.early_exits = exits;
                    let had = record.trial.is_some() || record.last_good.is_some();
                    prop_assert_eq!(record.boot(1), exits >= BOOT_LOOP && had);
                }
            }
            prop_assert!(promoted.contains(&record.active));
            if let Some(trial) = &record.trial {
                prop_assert_ne!(&trial.candidate, &record.active);
                if let Some(refused) = &record.refused {
                    prop_assert_ne!(&trial.candidate, &refused.chain);
                }
            }
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Record>(&text).unwrap(), &record);
        }
    }

    /// More evidence against a candidate never turns a rollback into a promotion.
    #[test]
    fn a_verdict_against_stays(
        samples in 0..5000_u64, traps in 0..3_u64, differing in 0..100_u64, more in 0..100_u64, hours in 0..3_u64,
    ) {
        let mut evidence = sound(samples);
        evidence.candidate.traps = traps;
        evidence.differing.integer = differing;
        evidence.elapsed = Duration::from_hours(hours);
        let before = verdict(&evidence);
        evidence.candidate.traps += more;
        evidence.differing.text += more;
        let after = verdict(&evidence);
        if before != "promote" && before != "none" {
            prop_assert_ne!(after, "promote");
        }
        prop_assert!(samples < 1000 || before != "none");
    }
}
