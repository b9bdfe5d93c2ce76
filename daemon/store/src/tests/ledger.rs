//! The ledger balances at every commit, and a recount finds what does not.

use proptest::prelude::*;
use tidegate_domain::outcome::{QuarantinedMessage, QuarantinedReadings};
use tidegate_domain::quarantine::Selection;

use super::*;

#[derive(Clone, Debug)]
struct Sample {
    decoded: u64,
    undecodable: u8,
    dropped: u64,
    stored: Vec<(u8, i64)>,
    filtered: u64,
    derived: u64,
    rejected: u8,
    alarm: Option<bool>,
    settle: Option<(u64, bool)>,
    closes: bool,
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let sample = (
        (0u64..5, 0u8..3, 0u64..3),
        prop::collection::vec((0u8..4, -100i64..5), 0..30),
        (0u64..4, 0u64..4, 0u8..3),
        prop::option::of(any::<bool>()),
        prop::option::of((1u64..30, any::<bool>())),
        prop::bool::weighted(0.1),
    );
    let sample = sample.prop_map(
        |(
            (decoded, undecodable, dropped),
            stored,
            (filtered, derived, rejected),
            alarm,
            settle,
            closes,
        )| Sample {
            decoded,
            undecodable,
            dropped,
            stored,
            filtered,
            derived,
            rejected,
            alarm,
            settle,
            closes,
        },
    );
    prop::collection::vec(sample, 1..20)
}

fn outcome(bench: &Bench, sample: &Sample) -> BatchOutcome {
    let names = ["a/temp", "b/temp", "c", "d"];
    let second = (bench.wall - START) / SECOND;
    let readings: Vec<_> = (sample.stored.iter())
        .map(|(series, age)| (names[usize::from(*series)], second + age, 1.0))
        .collect();
    let mut outcome = bench.outcome(&readings);
    let undecodable = u64::from(sample.undecodable);
    outcome.counts = MessageCounts {
        received: sample.decoded + undecodable + sample.dropped,
        redelivered: sample.decoded / 2,
        unidentified: sample.decoded / 3,
        decoded: sample.decoded,
        quarantined: undecodable,
        dropped: BTreeMap::from([("no-pipeline", sample.dropped)]),
    };
    let message = |_| QuarantinedMessage {
        topic: "plant/line1".into(),
        payload: b"{".as_slice().into(),
        length: 1,
        reason: "undecodable",
        detail: "line 1 column 2: end of input".to_owned(),
        arrival: bench.arrival(),
    };
    outcome.quarantined = (0..sample.undecodable).map(message).collect();
    let rejected = vec![("a/temp", second, 1.0); usize::from(sample.rejected)];
    let rows = bench.outcome(&rejected).pipelines.remove(0).stored;
    let pipeline = &mut outcome.pipelines[0];
    pipeline.filtered = sample.filtered;
    pipeline.derived = sample.derived;
    pipeline.dropped = BTreeMap::from([("filter-failure", 2)]);
    pipeline.selected =
        pipeline.stored.len() as u64 + sample.filtered + u64::from(sample.rejected) + 2
            - sample.derived.min(2);
    pipeline.derived = sample.derived.min(2);
    pipeline.quarantined.push(QuarantinedReadings {
        filter: "range".to_owned(),
        reason: "rejected",
        detail: "no range for this series".to_owned(),
        rows,
    });
    if let Some(raised) = sample.alarm {
        let state = if raised {
            AlarmState::Raised
        } else {
            AlarmState::Cleared
        };
        pipeline.alarms.push(alarm("a/temp", state));
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn balances_at_every_commit_whatever_comes(samples in samples()) {
        let mut config = config();
        config.pipelines[0].to.push(Route { uplink: 0, send: Send::Readings, priority: Priority::Low });
        let mut bench = Bench::with(config);
        for sample in &samples {
            let outcome = outcome(&bench, sample);
            bench.apply(outcome);
            if let Some((seq, delivered)) = sample.settle {
                let verdict = if delivered { Verdict::Delivered } else { Verdict::Rejected { reason: String::new() } };
                bench.settle(seq, verdict);
            }
            let committed = bench.commit();
            if sample.closes {
                bench.close();
                bench.open();
            }
            let verification = bench.check_balance();
            prop_assert_eq!(&bench.reader().ledger().unwrap(), &verification.ledger);
            if !sample.closes {
                prop_assert_eq!(&*committed.ledger, &verification.ledger);
            }
            bench.advance(20 * SECOND);
        }
        let received: u64 = samples.iter().map(|s| s.decoded + u64::from(s.undecodable) + s.dropped).sum();
        let stored: usize = samples.iter().map(|s| s.stored.len()).sum();
        let ledger = bench.check_balance().ledger;
        prop_assert_eq!(ledger.sources["plant"].received, received);
        prop_assert_eq!(ledger.pipelines["temperature"].stored, stored as u64);
    }
}

/// A store with something in every table; then `sql` is done to it, and a recount must name `scope`.
#[track_caller]
fn check_tampering(sql: &str, scope: &str) {
    let mut bench = Bench::new();
    let sample = Sample {
        decoded: 1,
        undecodable: 1,
        dropped: 0,
        stored: vec![(0, 0), (1, 0)],
        filtered: 0,
        derived: 0,
        rejected: 1,
        alarm: Some(true),
        settle: None,
        closes: false,
    };
    let outcome = outcome(&bench, &sample);
    bench.apply(outcome);
    bench.commit();
    bench.check_balance();
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    conn.execute_batch(sql).unwrap();
    let differences = verify(&bench.config.path).unwrap().differences;
    let found: Vec<&str> = differences
        .iter()
        .map(|difference| difference.scope.as_str())
        .collect();
    assert!(
        found.iter().any(|found| found.starts_with(scope)),
        "{sql}: {differences:?}"
    );
}

#[test]
fn a_recount_finds_tampering() {
    check_tampering("UPDATE history SET rows = rows + 1", "history block 1");
    check_tampering("DELETE FROM history", "pipeline temperature");
    check_tampering("UPDATE history SET data = zeroblob(40)", "history block 1");
    check_tampering("UPDATE item SET items = items + 1", "outbox row");
    check_tampering("DELETE FROM item", "uplink cloud");
    check_tampering(
        "UPDATE item SET body = CAST('{}' AS BLOB), items = 2",
        "outbox row",
    );
    check_tampering("UPDATE message SET seq = 9", "uplink cloud");
    check_tampering(
        "DELETE FROM quarantine WHERE pipeline IS NULL",
        "source plant",
    );
    check_tampering("UPDATE quarantine SET items = 5", "source plant");
    check_tampering(
        "UPDATE counter SET value = value + 1 WHERE counter = 'received'",
        "source plant",
    );
    check_tampering(
        "UPDATE counter SET value = value + 1 WHERE counter = 'held'",
        "pipeline temperature",
    );
}

#[test]
fn quarantine_is_listed_with_its_reasons() {
    let mut bench = Bench::new();
    let sample = Sample {
        decoded: 0,
        undecodable: 1,
        dropped: 0,
        stored: vec![],
        filtered: 0,
        derived: 0,
        rejected: 2,
        alarm: None,
        settle: None,
        closes: false,
    };
    let outcome = outcome(&bench, &sample);
    bench.apply(outcome);
    bench.commit();
    let list = bench
        .reader()
        .quarantine(&Selection::default(), None, 10)
        .unwrap();
    let found: Vec<_> = list
        .iter()
        .map(|entry| {
            (
                entry.source.as_deref(),
                entry.filter.as_deref(),
                entry.count,
            )
        })
        .collect();
    assert_eq!(found, [(None, Some("range"), 2), (Some("plant"), None, 1)]);
    let page = |before| bench.reader().quarantine(&Selection::default(), before, 1);
    let first = page(None).unwrap();
    assert_eq!(first, list[..1]);
    assert_eq!(page(Some(first[0].id)).unwrap(), list[1..]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever comes and goes between its transactions, a recount of a sound store finds nothing.
    #[test]
    fn a_recount_beside_a_writer_finds_what_is_there(
        samples in samples(),
        rows in 1usize..6,
        max_kib in 1024u64..4096,
    ) {
        let mut config = config();
        config.max_bytes = max_kib * 1024;
        config.pipelines[0].to.push(Route { uplink: 0, send: Send::Readings, priority: Priority::Low });
        let mut bench = Bench::with(config);
        let mut recount = Recount::of_rows(&bench.config.path, rows);
        let mut done = 0;
        for round in 0..6 {
            for sample in &samples {
                let outcome = outcome(&bench, sample);
                bench.apply(outcome);
                if let Some((seq, delivered)) = sample.settle {
                    let verdict = if delivered { Verdict::Delivered } else { Verdict::Rejected { reason: String::new() } };
                    bench.settle(seq + round * 30, verdict);
                }
                bench.commit();
                for _ in 0..4 {
                    if let Some(found) = recount.step().unwrap() {
                        prop_assert_eq!(found.differences, []);
                        prop_assert_eq!(found.ledger, found.recounted);
                        recount = Recount::of_rows(&bench.config.path, rows);
                        done += 1;
                    }
                }
                bench.advance(20 * SECOND);
            }
        }
        while recount.step().unwrap().is_none() {}
        prop_assert!(done < 1000);
        bench.check_balance();
    }
}
