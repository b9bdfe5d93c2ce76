//! What a crash or a failed commit must not change.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use proptest::prelude::*;
use tidegate_domain::outcome::{StateChange, StateDelta};

use super::*;
use crate::commit::Frozen;
use crate::group::Group;
use crate::trouble::Pressure;

/// One step of a gateway's life: readings as (series, seconds before now, value), and how long it lasts.
#[derive(Clone, Debug)]
struct Step {
    readings: Vec<(u8, i64, i32)>,
    seconds: i64,
    /// The process dies before this step's commit; the source delivers its message again.
    dies: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let age = prop_oneof![4 => 0i64..3, 2 => 0i64..90, 1 => -200i64..0];
    let reading = (0u8..3, age, -1000i32..1000);
    let step = (
        prop::collection::vec(reading, 0..12),
        prop_oneof![4 => 1i64..10, 1 => 10i64..200],
        prop::bool::weighted(0.3),
    );
    let step = step.prop_map(|(readings, seconds, dies)| Step {
        readings,
        seconds,
        dies,
    });
    prop::collection::vec(step, 1..25)
}

/// Runs the steps; what went up, and the counts that must have.
fn run(
    steps: &[Step],
    with_crashes: bool,
) -> (Vec<(u64, serde_json::Value)>, BTreeMap<(String, i64), u64>) {
    let mut bench = Bench::new();
    let mut naive = BTreeMap::new();
    for step in steps {
        bench.advance(step.seconds * SECOND);
        let second = (bench.wall - START) / SECOND;
        let series: Vec<String> = step
            .readings
            .iter()
            .map(|r| format!("s{}/temp", r.0))
            .collect();
        let readings: Vec<(&str, i64, f64)> = (step.readings.iter().zip(&series))
            .map(|((_, age, value), series)| (series.as_str(), second - age, f64::from(*value)))
            .collect();
        for (series, second, _) in &readings {
            *naive
                .entry(((*series).to_owned(), second.div_euclid(60) * 60))
                .or_default() += 1;
        }
        let outcome = bench.outcome(&readings);
        bench.apply(outcome.clone());
        if step.dies && with_crashes {
            bench.crash();
            bench.apply(outcome);
        }
        bench.commit();
        if step.dies && with_crashes {
            bench.crash();
        }
    }
    // Silence closes the rest.
    for _ in 0..4 {
        bench.advance(300 * SECOND);
        bench.try_commit().unwrap();
    }
    bench.check_balance();
    (bench.items(), naive)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn crashes_change_nothing_that_goes_up(steps in steps()) {
        let (uninterrupted, naive) = run(&steps, false);
        prop_assert_eq!(&counts(&uninterrupted), &naive);
        let (interrupted, _) = run(&steps, true);
        prop_assert_eq!(interrupted, uninterrupted);
    }
}

#[test]
fn sequence_numbers_are_dense_and_streams_stay() {
    let mut bench = Bench::new();
    let stream = bench.reader().stream_id(0).unwrap();
    for minute in 0..5 {
        let outcome = bench.outcome(&[("a/temp", minute * 60, 1.0)]);
        bench.apply(outcome);
        bench.commit();
        bench.crash();
        bench.advance(60 * SECOND);
        bench.commit();
    }
    let seqs: Vec<u64> = bench.messages().iter().map(|message| message.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(bench.reader().last_sealed_seq(0).unwrap(), 5);
    assert_eq!(bench.reader().stream_id(0).unwrap(), stream);
    assert_eq!(stream.len(), 16);
}

#[test]
fn what_was_not_committed_is_not_acknowledged_and_not_there() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    assert!(
        bench.try_commit().unwrap().is_none(),
        "linger has not passed"
    );
    bench.crash();
    assert_eq!(
        bench.reader().ledger().unwrap().sources["plant"].received,
        0
    );
}

#[test]
fn a_failed_commit_is_tried_again_and_counts_once() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0), ("a/temp", 1, 2.0)]);
    bench.apply(outcome);
    let other = rusqlite::Connection::open(&bench.config.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    bench.advance(SECOND);
    let error = bench.try_commit().unwrap_err();
    assert_eq!(error.state, StoreState::Degraded);
    assert!(bench.writer().is_full());
    assert!(bench.writer().deadline().unwrap() > bench.now);
    // What comes now is not of the failed group.
    let outcome = bench.outcome(&[("a/temp", 2, 3.0)]);
    bench.apply(outcome);
    assert!(
        bench.try_commit().unwrap().is_none(),
        "not before the back-off has passed"
    );
    other.execute_batch("ROLLBACK").unwrap();
    let first = bench.commit();
    assert_eq!(
        first.acks.iter().map(|(_, acks)| acks.len()).sum::<usize>(),
        1
    );
    assert_eq!(first.stats.state, StoreState::Healthy);
    let second = bench.commit();
    assert_eq!(second.ledger.pipelines["temperature"].held, 3);
    assert_eq!(second.ledger.sources["plant"].received, 2);
    bench.advance(100 * SECOND);
    bench.commit();
    assert_eq!(counts(&bench.items())[&("a/temp".to_owned(), 0)], 3);
    bench.check_balance();
}

#[test]
fn a_commit_that_succeeded_and_said_otherwise_is_not_repeated() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome.clone());
    bench.commit();
    // As after a sync that failed behind a complete write.
    bench.reader = None;
    let (now, arrival) = (bench.now, bench.arrival());
    let mut group = Group::default();
    group.push_outcome(Box::new(outcome), now);
    let writer = bench.writer();
    let number = writer.committed_group();
    writer.pretend_failure(Frozen {
        group,
        number,
        idle: arrival,
        now,
        last: false,
        ahead: None,
        room: Pressure::default().room(&crate::setup::Bounds::new(64 * 1024 * 1024)),
    });
    bench.advance(60 * SECOND);
    let again = bench.try_commit().unwrap().unwrap();
    assert_eq!(again.acks.len(), 1, "the source is told");
    assert_eq!(again.ledger.pipelines["temperature"].stored, 1);
    bench.check_balance();
}

#[test]
fn filter_state_and_alarms_are_those_of_the_last_commit() {
    let mut bench = Bench::new();
    let state = |byte| StateDelta {
        slot: "temperature/deadband".into(),
        change: StateChange::Series {
            width: 2,
            names: vec!["a/temp".into()],
            records: vec![byte; 2],
        },
    };
    let mut outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    outcome.pipelines[0].state.push(state(1));
    outcome.pipelines[0]
        .alarms
        .push(alarm("a/temp", AlarmState::Raised));
    bench.apply(outcome);
    bench.commit();
    let mut lost = bench.outcome(&[("a/temp", 1, 1.0)]);
    lost.pipelines[0].state.push(state(2));
    lost.pipelines[0]
        .alarms
        .push(alarm("a/temp", AlarmState::Cleared));
    bench.apply(lost);
    let recovered = bench.crash();
    assert!(!recovered.clean_exit);
    assert_eq!(recovered.state["temperature/deadband"], state(1).change);
    assert_eq!(recovered.alarms.len(), 1);
    assert_eq!(recovered.alarms[0].alarm.cause.severity, Severity::Warning);
    assert_eq!(recovered.windows_open, 1);
}

#[test]
fn attempts_are_counted_across_crashes_and_forgotten_after_a_clean_exit() {
    let mut bench = Bench::new();
    let attempt = |bench: &mut Bench| {
        let (reply, count) = sync_channel(1);
        let digest = [7; 32];
        bench.apply(Input::Attempt { digest, reply });
        assert!(
            count.try_recv().is_err(),
            "no answer before it is on record"
        );
        bench.commit();
        count.try_recv().unwrap()
    };
    assert_eq!(attempt(&mut bench), 1);
    bench.crash();
    assert_eq!(attempt(&mut bench), 2);
    let done = BatchOutcome {
        attempts_done: vec![[7; 32]],
        ..bench.outcome(&[])
    };
    bench.apply(done);
    bench.commit();
    assert_eq!(attempt(&mut bench), 1);
    bench.close();
    assert!(bench.open().clean_exit);
    assert_eq!(attempt(&mut bench), 1);
}

/// Those of a batch are suspects only when the process died over them, and are counted only when they are tried alone.
#[test]
fn attempts_of_a_batch_count_what_was_on_record_before() {
    let mut bench = Bench::new();
    let attempt = |bench: &mut Bench, digests: &[u8]| {
        let (reply, counts) = sync_channel(1);
        let digests = digests.iter().map(|digest| [*digest; 32]).collect();
        bench.apply(Input::Attempts { digests, reply });
        bench.commit();
        counts.try_recv().unwrap()
    };
    assert_eq!(attempt(&mut bench, &[1, 2, 2]), [0, 0, 0]);
    bench.crash();
    assert_eq!(attempt(&mut bench, &[1, 2, 3]), [1, 1, 0]);
    let (reply, count) = sync_channel(1);
    let digest = [1; 32];
    bench.apply(Input::Attempt { digest, reply });
    bench.commit();
    assert_eq!(count.try_recv(), Ok(2));
    bench.crash();
    let done = BatchOutcome {
        attempts_done: vec![[2; 32]],
        ..bench.outcome(&[])
    };
    bench.apply(done);
    assert_eq!(attempt(&mut bench, &[1, 2, 3]), [2, 0, 1]);
}

#[test]
fn a_clean_exit_leaves_windows_open_and_the_next_start_continues_them() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    let committed = bench.close().unwrap();
    assert_eq!(committed.acks.len(), 1);
    let recovered = bench.open();
    assert!(recovered.clean_exit);
    assert_eq!(recovered.windows_open, 1);
    let outcome = bench.outcome(&[("a/temp", 1, 3.0)]);
    bench.apply(outcome);
    bench.commit();
    assert_eq!(bench.items(), []);
    bench.advance(62 * SECOND);
    let closed = bench.commit();
    assert_eq!(closed.sealed, [0]);
    let items = bench.items();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].1["mean"], 2.0);
    assert_eq!(items[0].1["measure"], "°C");
    assert_eq!(items[0].1.get("late"), None);
    assert_eq!(bench.reader().latest_summaries(9).len(), 1);
}

#[test]
fn windows_of_another_length_close_at_the_next_start() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    bench.config.pipelines[0].window = Some(Duration::from_secs(30));
    bench.crash();
    let outcome = bench.outcome(&[("a/temp", 1, 2.0)]);
    bench.apply(outcome);
    bench.commit();
    bench.crash();
    bench.advance(100 * SECOND);
    bench.commit();
    let spans: Vec<(i64, u64)> = (bench.items().iter())
        .map(|(_, item)| {
            let span = item["to"].as_i64().unwrap() - item["from"].as_i64().unwrap();
            (span / 1000, item["count"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(spans, [(60, 1), (30, 1)]);
    bench.check_balance();
}

#[test]
fn a_step_of_the_clock_closes_what_is_open_and_loses_nothing() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    let mut outcome = bench.outcome(&[("a/temp", 7200, 2.0)]);
    outcome.arrival.wall += 7200 * SECOND;
    bench.apply(outcome);
    bench.advance(SECOND);
    bench.try_commit().unwrap().unwrap();
    let mut items = bench.items();
    let event = items.pop_if(|(_, item)| item["code"] == "clock-stepped");
    assert_eq!(event.unwrap().1["data"]["step"], 7_200_000);
    assert_eq!(items.len(), 1);
    assert_eq!(
        (&items[0].1["stepped"], &items[0].1["count"]),
        (&true.into(), &1.into())
    );
}

#[test]
fn a_full_disk_is_said_and_costs_nothing_once_there_is_room() {
    let mut bench = Bench::new();
    let rows: Vec<(&str, i64, f64)> = (0..2000).map(|n| ("a/temp", 0, f64::from(n))).collect();
    let outcome = bench.outcome(&rows);
    bench.writer().fill_disk();
    bench.apply(outcome);
    bench.advance(SECOND);
    let error = bench.try_commit().unwrap_err();
    assert_eq!(error.state, StoreState::Full);
    let committed = bench.commit();
    assert_eq!(committed.stats.state, StoreState::Healthy);
    assert_eq!(committed.stats.last_error, None);
    assert_eq!(committed.ledger.pipelines["temperature"].held, 2000);
    bench.check_balance();
}

/// A store after some commits, as its files lie on the disk.
fn files() -> (Vec<u8>, Vec<u8>) {
    let mut config = config();
    config.pipelines[0].to[0].send = Send::Both;
    let mut bench = Bench::with(config);
    for second in 0..30 {
        let mut outcome = bench.outcome(&[("a/temp", second * 7, 1.0), ("b/temp", second, 2.0)]);
        if second % 5 == 0 {
            outcome.pipelines[0]
                .alarms
                .push(alarm("a/temp", AlarmState::Raised));
            outcome.pipelines[0]
                .alarms
                .push(alarm("a/temp", AlarmState::Cleared));
        }
        bench.advance(6 * SECOND);
        bench.apply(outcome);
        bench.commit();
    }
    let read = |ending| std::fs::read(crate::schema::beside(&bench.config.path, ending)).unwrap();
    (read(""), read("-wal"))
}

#[test]
fn wherever_the_log_is_torn_a_whole_number_of_groups_is_left() {
    let (database, log) = files();
    let mut config = config();
    config.pipelines[0].to[0].send = Send::Both;
    for cut in (0..log.len()).step_by(log.len() / 60 + 1) {
        let mut bench = Bench::with(config.clone());
        bench.close();
        std::fs::write(&bench.config.path, &database).unwrap();
        std::fs::write(
            crate::schema::beside(&bench.config.path, "-wal"),
            &log[..cut],
        )
        .unwrap();
        bench.advance(200 * SECOND);
        bench.open();
        bench.check_balance();
        bench.advance(200 * SECOND);
        bench.try_commit().unwrap();
        let ledger = bench.check_balance().ledger;
        let stored = ledger.pipelines["temperature"].stored;
        assert_eq!(bench.writer().stats().windows_open, 0);
        assert_eq!(counts(&bench.items()).values().sum::<u64>(), stored);
        assert_eq!(stored % 2, 0);
    }
}
