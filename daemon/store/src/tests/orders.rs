//! Orders about quarantine: each row exactly once, whatever dies in between.

use std::sync::mpsc::{Receiver, sync_channel};

use proptest::prelude::*;
use tidegate_domain::outcome::{
    QuarantinedMessage, QuarantinedReadings, ReplayFailure, Replayed, SlotGeneration,
};
use tidegate_domain::quarantine::{Action, Selection};

use super::*;
use crate::commit::Frozen;
use crate::group::Group;

fn all() -> Selection {
    Selection {
        all: true,
        ..Selection::default()
    }
}

/// Sets aside messages with these payloads, and one row with these readings of `temperature`.
fn set_aside(bench: &mut Bench, payloads: &[&str], readings: &[(&str, i64, f64)]) {
    let rows = bench.outcome(readings).pipelines.remove(0).stored;
    let count = payloads.len() as u64;
    let mut outcome = bench.outcome(&[]);
    outcome.counts = MessageCounts {
        received: count + 1,
        decoded: 1,
        quarantined: count,
        ..MessageCounts::default()
    };
    let message = |payload: &&str| QuarantinedMessage {
        topic: "plant/line1".into(),
        payload: payload.as_bytes().to_vec().into(),
        // One that says so was longer.
        length: payload.len() as u64 + u64::from(payload.contains("cut")),
        reason: "undecodable",
        detail: "no JSON".to_owned(),
        arrival: bench.arrival(),
    };
    outcome.quarantined = payloads.iter().map(message).collect();
    let pipeline = &mut outcome.pipelines[0];
    pipeline.selected = rows.len() as u64;
    pipeline.quarantined.push(QuarantinedReadings {
        filter: "range".to_owned(),
        reason: "trap",
        detail: "unreachable".to_owned(),
        rows,
    });
    bench.apply(outcome);
    bench.commit();
}

/// Gives an order, and returns what confirms it.
fn order(bench: &mut Bench, action: Action, selection: Selection) -> Receiver<u64> {
    let (reply, number) = sync_channel(1);
    bench.apply(Orders::New {
        action,
        selection,
        reply,
    });
    number
}

/// What a row becomes when it goes through: one reading for a message, its own for readings.
fn through(bench: &Bench, order: u64, row: &QuarantinedRow) -> BatchOutcome {
    let mut outcome = if row.entry.source.is_some() {
        bench.outcome(&[("a/temp", i64::try_from(row.entry.id).unwrap(), 1.0)])
    } else {
        let rows = row.readings().unwrap();
        let mut outcome = bench.outcome(&[]);
        outcome.pipelines[0].replayed = rows.len() as u64;
        outcome.pipelines[0].stored = rows;
        outcome
    };
    outcome.acks.clear();
    outcome.counts = MessageCounts::default();
    outcome.replayed = Some(Replayed {
        row: row.entry.id,
        attempts: row.entry.attempts,
        order,
        failure: None,
    });
    outcome
}

/// A row that fails again as a whole: a message stays, readings are set aside once more.
fn failing(bench: &Bench, order: u64, row: &QuarantinedRow) -> BatchOutcome {
    let mut outcome = through(bench, order, row);
    if row.entry.source.is_some() {
        outcome.pipelines.clear();
        outcome.replayed.as_mut().unwrap().failure = Some(ReplayFailure {
            reason: "undecodable",
            detail: "still no JSON, and a longer text says so".to_owned(),
        });
    } else {
        let pipeline = &mut outcome.pipelines[0];
        let rows = std::mem::take(&mut pipeline.stored);
        pipeline.quarantined.push(QuarantinedReadings {
            filter: "range".to_owned(),
            reason: "fault",
            detail: "another reason".to_owned(),
            rows,
        });
    }
    outcome
}

fn rows_of(bench: &Bench) -> Vec<QuarantinedRow> {
    match bench.reader().orders().unwrap().first() {
        Some(order) => {
            let rows = bench.reader().order_rows(order, 0, 1000, usize::MAX);
            rows.unwrap()
        }
        None => Vec::new(),
    }
}

fn list(bench: &Bench) -> Vec<QuarantineEntry> {
    bench
        .reader()
        .quarantine(&Selection::default(), None, 1000)
        .unwrap()
}

fn held(bench: &Bench) -> u64 {
    bench.reader().ledger().unwrap().pipelines["temperature"].held
}

#[test]
fn an_order_is_durable_with_its_number_and_shows_in_the_list() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &["{", "{ cut"], &[("a/temp", 1, 1.0)]);
    let number = order(&mut bench, Action::Replay, all());
    assert!(
        number.try_recv().is_err(),
        "before the commit nothing is promised"
    );
    bench.commit();
    assert_eq!(number.try_recv(), Ok(1));
    bench.crash();
    let orders = bench.reader().orders().unwrap();
    assert_eq!((orders[0].order, orders[0].last), (1, 3));
    // What comes later is not of it.
    set_aside(&mut bench, &["later"], &[]);
    let states: Vec<_> = list(&bench)
        .iter()
        .map(|entry| (entry.id, entry.state, entry.order))
        .collect();
    assert_eq!(
        states,
        [
            (4, RowState::Held, None),
            (3, RowState::Replaying, Some(1)),
            // A payload without its end can never be replayed.
            (2, RowState::Held, None),
            (1, RowState::Replaying, Some(1)),
        ]
    );
    let rows: Vec<u64> = rows_of(&bench).iter().map(|row| row.entry.id).collect();
    assert_eq!(rows, [1, 3]);

    bench.apply(Orders::Done { order: 1 });
    let committed = bench.commit();
    assert_eq!(committed.orders, 1);
    assert_eq!(bench.reader().orders().unwrap(), []);
    bench.apply(Orders::Done { order: 1 });
    bench.commit();
    let number = order(&mut bench, Action::Drop, all());
    bench.commit();
    assert_eq!(number.try_recv(), Ok(2), "a number is never used twice");
    let events: Vec<String> = bench
        .items()
        .iter()
        .filter_map(|(_, item)| Some(item["code"].as_str()?.to_owned()))
        .collect();
    assert_eq!(
        events,
        [
            "quarantine-replay",
            "quarantine-replayed",
            "quarantine-drop"
        ]
    );
}

#[test]
fn an_order_whose_commit_seemed_to_fail_gets_its_number() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &["{"], &[]);
    order(&mut bench, Action::Replay, all());
    order(&mut bench, Action::Drop, all());
    bench.commit();
    // As after a sync that failed behind a complete write.
    bench.reader = None;
    let (now, idle) = (bench.now, bench.arrival());
    let mut group = Group::default();
    let mut numbers = Vec::new();
    for action in [Action::Replay, Action::Drop] {
        let (reply, number) = sync_channel(1);
        numbers.push(number);
        let selection = all();
        let order = Orders::New {
            action,
            selection,
            reply,
        };
        group.push_orders(order, now);
    }
    let writer = bench.writer();
    let number = writer.committed_group();
    writer.pretend_failure(Frozen {
        group,
        number,
        idle,
        now,
        last: false,
        ahead: None,
        room: crate::trouble::Pressure::default()
            .room(&crate::setup::Bounds::new(64 * 1024 * 1024)),
    });
    bench.advance(60 * SECOND);
    bench.try_commit().unwrap().unwrap();
    let numbers: Vec<_> = numbers.iter().map(Receiver::try_recv).collect();
    assert_eq!(numbers, [Ok(1), Ok(2)]);
}

#[test]
fn a_row_leaves_quarantine_with_what_it_became_and_only_once() {
    let mut bench = Bench::new();
    set_aside(
        &mut bench,
        &["{"],
        &[("a/temp", 1, 1.0), ("b/temp", 2, 2.0)],
    );
    order(&mut bench, Action::Replay, all());
    bench.commit();
    let rows = rows_of(&bench);
    for row in &rows {
        // The same row comes twice: two orders may mean it, or a restart begins again.
        let outcome = through(&bench, 1, row);
        bench.apply(outcome.clone());
        bench.apply(outcome);
    }
    let committed = bench.commit();
    assert_eq!(committed.rows_tried, 4);
    assert_eq!(held(&bench), 3, "one of the message, two of the readings");
    assert_eq!(list(&bench), []);
    let verification = bench.check_balance();
    let source = &verification.ledger.sources["plant"];
    assert_eq!(source.quarantine.replayed, 1);
    let pipeline = &verification.ledger.pipelines["temperature"];
    assert_eq!((pipeline.replayed, pipeline.quarantine.replayed), (2, 2));
    // Long after: the row is gone, and nothing of its outcome counts but what the filters remember.
    let late = through(&bench, 1, &rows[0]);
    bench.apply(late);
    bench.commit();
    assert_eq!(held(&bench), 3);
    bench.check_balance();
}

#[test]
fn what_fails_again_stays_with_the_new_reason_and_is_not_tried_twice_by_an_order() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &["{"], &[("a/temp", 1, 1.0)]);
    let arrived = list(&bench)[0].arrival;
    order(&mut bench, Action::Replay, all());
    bench.commit();
    for row in rows_of(&bench) {
        let outcome = failing(&bench, 1, &row);
        bench.apply(outcome);
    }
    bench.commit();
    bench.check_balance();
    assert_eq!(
        rows_of(&bench).len(),
        0,
        "the order has been through with both"
    );
    let found: Vec<_> = list(&bench)
        .into_iter()
        .map(|entry| (entry.id, entry.reason, entry.attempts, entry.state))
        .collect();
    assert_eq!(
        found,
        [
            (2, "fault".to_owned(), 1, RowState::Held),
            (1, "undecodable".to_owned(), 1, RowState::Held),
        ]
    );
    assert_eq!(list(&bench)[0].arrival, arrived, "the age stays");
    let ledger = bench.reader().ledger().unwrap();
    let pipeline = &ledger.pipelines["temperature"];
    assert_eq!((pipeline.replayed, pipeline.quarantined), (1, 2));
    // A later order tries them again.
    bench.apply(Orders::Done { order: 1 });
    bench.commit();
    order(&mut bench, Action::Replay, all());
    bench.commit();
    let rows = rows_of(&bench);
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let outcome = through(&bench, 2, row);
        bench.apply(outcome);
    }
    bench.commit();
    assert_eq!((list(&bench).len(), held(&bench)), (0, 2));
    bench.check_balance();
}

#[test]
fn readings_that_fail_for_two_reasons_become_two_rows() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &[], &[("a/temp", 1, 1.0), ("b/temp", 2, 2.0)]);
    order(&mut bench, Action::Replay, all());
    bench.commit();
    let row = rows_of(&bench).remove(0);
    let mut outcome = through(&bench, 1, &row);
    let rows = std::mem::take(&mut outcome.pipelines[0].stored);
    for (series, reason) in [("a/temp", "trap"), ("b/temp", "fault")] {
        let mut part = Batch::default();
        part.names.push(series.into());
        part.push(0, rows.time[0], Value::Float(1.0), Quality::Good);
        outcome.pipelines[0].quarantined.push(QuarantinedReadings {
            filter: "range".to_owned(),
            reason,
            detail: String::new(),
            rows: part,
        });
    }
    bench.apply(outcome);
    bench.commit();
    let found: Vec<_> = list(&bench)
        .into_iter()
        .map(|entry| (entry.id, entry.attempts))
        .collect();
    assert_eq!(found, [(2, 0), (1, 1)]);
    assert_eq!(rows_of(&bench).len(), 0);
    bench.check_balance();
}

#[test]
fn what_was_dropped_meanwhile_is_not_replayed_and_a_new_row_is_never_taken_for_it() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &["{"], &[]);
    order(&mut bench, Action::Replay, all());
    bench.commit();
    let row = rows_of(&bench).remove(0);
    bench.apply(Orders::Discard {
        order: 1,
        rows: vec![(1, 0)],
    });
    bench.commit();
    set_aside(&mut bench, &["new"], &[]);
    let outcome = through(&bench, 1, &row);
    bench.apply(outcome);
    bench.commit();
    assert_eq!(held(&bench), 0);
    assert_eq!(list(&bench)[0].id, 2);
    let ledger = bench.check_balance().ledger;
    assert_eq!(ledger.sources["plant"].quarantine.discarded, 1);
}

#[test]
fn a_row_that_changed_meanwhile_is_another_one() {
    let mut bench = Bench::new();
    set_aside(&mut bench, &[], &[("a/temp", 1, 1.0), ("b/temp", 2, 2.0)]);
    order(&mut bench, Action::Replay, all());
    bench.commit();
    let row = rows_of(&bench).remove(0);
    // One reading goes through, the other fails again and keeps the row.
    let mut part = through(&bench, 1, &row);
    let rows = std::mem::take(&mut part.pipelines[0].stored);
    part.pipelines[0].stored = bench
        .outcome(&[("a/temp", 1, 1.0)])
        .pipelines
        .remove(0)
        .stored;
    let mut left = Batch::default();
    left.names.push("b/temp".into());
    left.push(0, rows.time[1], Value::Float(2.0), Quality::Good);
    part.pipelines[0].quarantined.push(QuarantinedReadings {
        filter: "range".to_owned(),
        reason: "trap",
        detail: String::new(),
        rows: left,
    });
    bench.apply(part);
    // What the row of before became would count the first reading twice.
    let stale = through(&bench, 1, &row);
    bench.apply(stale);
    bench.apply(Orders::Discard {
        order: 1,
        rows: vec![(row.entry.id, row.entry.attempts)],
    });
    bench.commit();
    assert_eq!(held(&bench), 1);
    let left = list(&bench);
    assert_eq!((left.len(), left[0].count, left[0].attempts), (1, 1, 1));
    bench.check_balance();
}

#[test]
fn a_row_tells_what_ran_and_what_it_holds() {
    let mut bench = Bench::new();
    let mut outcome = bench.outcome(&[]);
    let slot = SlotGeneration {
        filter: "range".to_owned(),
        module: "range".to_owned(),
        version: "0.1.0".to_owned(),
        digest: "sha256:00".to_owned(),
        settings: "00".to_owned(),
    };
    let pipeline = &mut outcome.pipelines[0];
    pipeline.selected = 1;
    pipeline.generation = Some(Arc::new(Generation {
        id: "0123456789abcdef".to_owned(),
        slots: vec![slot.clone()],
    }));
    pipeline.quarantined.push(QuarantinedReadings {
        filter: "range".to_owned(),
        reason: "trap",
        detail: "unreachable".to_owned(),
        rows: bench
            .outcome(&[("a/temp", 1, 21.5)])
            .pipelines
            .remove(0)
            .stored,
    });
    bench.apply(outcome);
    bench.commit();
    let row = bench.reader().quarantined(1).unwrap().unwrap();
    assert_eq!(row.entry.generation.as_deref(), Some("0123456789abcdef"));
    assert_eq!(row.slots, [slot]);
    assert_eq!(row.readings().unwrap().value(0), Value::Float(21.5));
    assert!(bench.reader().quarantined(2).unwrap().is_none());
    let matching = bench.reader().matching(&all()).unwrap();
    let expect = Matching {
        source: None,
        pipeline: Some("temperature".to_owned()),
        cut: false,
        rows: 1,
    };
    assert_eq!(matching, [expect]);
}

/// What happens while an order is carried out.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Rows go through, or fail again; their outcomes join the open group.
    Try(u8, bool),
    Commit,
    /// The process dies; what was not committed is gone.
    Crash,
    /// A second order for the same rows.
    Order(bool),
    /// A row is dropped.
    Discard,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u8..5, any::<bool>()).prop_map(|(rows, through)| Step::Try(rows, through)),
        3 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => any::<bool>().prop_map(Step::Order),
        1 => Just(Step::Discard),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_row_counts_once_whatever_dies(steps in steps()) {
        let mut bench = Bench::new();
        set_aside(&mut bench, &["a", "b", "c", "d"], &[("a/temp", 1, 1.0), ("b/temp", 2, 2.0)]);
        set_aside(&mut bench, &["e", "f"], &[("a/temp", 3, 1.0)]);
        order(&mut bench, Action::Replay, all());
        bench.commit();
        for step in steps {
            let current = bench.reader().orders().unwrap().first().map(|order| order.order);
            match step {
                Step::Try(rows, goes) => {
                    for row in rows_of(&bench).iter().take(rows.into()) {
                        let order = current.unwrap();
                        let outcome = if goes {
                            through(&bench, order, row)
                        } else {
                            failing(&bench, order, row)
                        };
                        bench.apply(outcome);
                    }
                }
                Step::Commit => {
                    bench.advance(SECOND);
                    bench.try_commit().unwrap();
                }
                Step::Crash => {
                    bench.crash();
                }
                Step::Order(replay) => {
                    let action = if replay { Action::Replay } else { Action::Drop };
                    order(&mut bench, action, all());
                }
                Step::Discard => {
                    if let Some(order) = current {
                        let rows = rows_of(&bench);
                        let rows = rows.iter().take(1).map(|row| (row.entry.id, row.entry.attempts)).collect();
                        bench.apply(Orders::Discard { order, rows });
                    }
                }
            }
            let verification = verify(&bench.config.path).unwrap();
            prop_assert_eq!(&verification.differences, &[]);
            // Six messages and three readings were set aside. Each is in one place.
            let source = &verification.ledger.sources["plant"].quarantine;
            prop_assert_eq!(source.held + source.replayed + source.discarded, 6);
            let pipeline = &verification.ledger.pipelines["temperature"];
            let readings_through = pipeline.stored - source.replayed;
            prop_assert_eq!(
                readings_through + pipeline.quarantine.held + pipeline.quarantine.discarded, 3
            );
        }
    }
}
