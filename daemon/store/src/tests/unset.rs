//! A clock that is not set, is set, and is stepped: every reading once, at its true time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value as Json;
use tidegate_domain::command::Name;
use tidegate_domain::outcome::{QuarantinedMessage, QuarantinedReadings, reason};

use super::*;
use crate::block;
use crate::series::Names;

/// A gateway whose machine is rebooted, and whose clock is wrong until somebody sets it. `bench.wall` is the true time.
struct Edge {
    bench: Bench,
    boot: u32,
    /// When the machine was booted, true time.
    booted: i64,
    /// How far the wall clock is off.
    error: i64,
    set: bool,
    /// True times of the readings by their value, and the boot they are of.
    sent: BTreeMap<u64, (i64, u32)>,
    /// Boots whose clock was set.
    set_boots: Vec<u32>,
    next: u64,
}

impl Edge {
    fn new() -> Self {
        let mut config = config();
        config.pipelines[0].to[0].send = Send::Both;
        let mut edge = Self {
            bench: Bench::with(config),
            boot: 0,
            booted: 0,
            error: 0,
            set: true,
            sent: BTreeMap::new(),
            set_boots: Vec::new(),
            next: 0,
        };
        edge.reboot();
        edge
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            monotonic: self.bench.wall - self.booted,
            wall: self.bench.wall + self.error,
            synced: self.set,
        }
    }

    /// Power is lost; the clock is in 1970 afterwards.
    fn reboot(&mut self) {
        self.bench.advance(20 * SECOND);
        self.boot += 1;
        self.booted = self.bench.wall - 5 * SECOND;
        self.error = -self.booted;
        self.set = false;
        self.bench.config.boot = format!("edge-{}", self.boot);
        self.crash();
    }

    fn crash(&mut self) {
        let arrival = self.arrival();
        self.bench.crash_at(arrival);
    }

    fn set_clock(&mut self) {
        self.error = 0;
        self.set = true;
        self.set_boots.push(self.boot);
    }

    fn send(&mut self, readings: u64) {
        for n in 0..readings {
            let series = if n % 2 == 0 { "a/temp" } else { "b/temp" };
            let arrival = self.arrival();
            let mut outcome = self.bench.outcome(&[]);
            outcome.arrival = arrival;
            outcome.arrival_times = true;
            let stored = &mut outcome.pipelines[0].stored;
            stored.names.push(series.into());
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            stored.push(
                0,
                arrival.wall,
                Value::Float(self.next as f64),
                Quality::Good,
            );
            outcome.pipelines[0].selected = 1;
            self.sent.insert(self.next, (self.bench.wall, self.boot));
            self.next += 1;
            self.bench.apply(outcome);
            self.bench.advance(SECOND / 7);
        }
    }

    fn commit(&mut self) {
        self.bench.advance(SECOND);
        let (now, arrival) = (self.bench.now, self.arrival());
        self.bench.writer().commit_if_due(now, arrival).unwrap();
    }

    fn pass(&mut self, seconds: i64) {
        self.bench.advance(seconds * SECOND);
        self.commit();
    }

    /// `(time, arrival, marked)` by value, as history has them.
    fn history(&self) -> BTreeMap<u64, (i64, Option<i64>, bool)> {
        let conn = rusqlite::Connection::open(&self.bench.config.path).unwrap();
        let mut names = Names::new(&conn);
        let mut found = BTreeMap::new();
        let mut select = conn
            .prepare("SELECT data, arrival, EXISTS (SELECT 1 FROM unset WHERE kind = 0 AND unset.id = history.id), from_time, to_time FROM history")
            .unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let data = row.get_ref(0).unwrap().as_blob().unwrap();
            let batch = block::decode(data, |id| names.get(id)).unwrap();
            assert_eq!(batch.time.iter().min(), Some(&row.get(3).unwrap()));
            assert_eq!(batch.time.iter().max(), Some(&row.get(4).unwrap()));
            for at in 0..batch.len() {
                let Value::Float(value) = batch.value(at) else {
                    panic!("a float");
                };
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                let value = value as u64;
                let entry = (batch.time[at], row.get(1).unwrap(), row.get(2).unwrap());
                assert_eq!(found.insert(value, entry), None, "{value} twice");
            }
        }
        found
    }

    /// What a receiver makes of the items: offsets by boot out of the events.
    fn offsets(&self) -> BTreeMap<String, i64> {
        let items = self.bench.items();
        let events = items.iter().filter(|(_, item)| item["code"] == "clock-set");
        events
            .map(|(_, item)| {
                let data = &item["data"];
                (
                    data["boot"].as_str().unwrap().to_owned(),
                    data["offset"].as_i64().unwrap(),
                )
            })
            .collect()
    }

    fn check(&self) {
        let history = self.history();
        assert_eq!(
            history.keys().collect::<Vec<_>>(),
            self.sent.keys().collect::<Vec<_>>(),
            "every reading once"
        );
        for (value, &(time, arrival, marked)) in &history {
            let (truth, boot) = self.sent[value];
            let was_set = self.set_boots.contains(&boot);
            assert_eq!(marked, !was_set, "{value} of boot {boot}");
            if was_set {
                assert_eq!(time, truth, "{value} of boot {boot}");
                // A block has one arrival, that of its last reading.
                let off = arrival.unwrap() - truth;
                assert!((0..60 * SECOND).contains(&off), "{value}: {off}");
            } else {
                assert_eq!(arrival, None);
            }
        }
        let offsets = self.offsets();
        let mut summed = 0;
        let mut readings = BTreeMap::new();
        for (_, item) in self.bench.items() {
            let corrected = |key: &str| match item["mono"].as_i64() {
                None => Some(item[key].as_i64().unwrap()),
                Some(mono) => Some(mono + offsets.get(item["boot"].as_str().unwrap())?),
            };
            if let Some(count) = item["count"].as_u64() {
                summed += count;
                assert!(item["mono"].is_i64() == item["boot"].is_string());
            } else if item["value"].is_number() {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                let value = item["value"].as_f64().unwrap() as u64;
                assert_eq!(readings.insert(value, ()), None);
                let (truth, boot) = self.sent[&value];
                if self.set_boots.contains(&boot) {
                    let off = corrected("time").unwrap() - truth / 1_000_000;
                    assert!(off.abs() <= 1, "{item}: {off}");
                } else {
                    assert_eq!(item["boot"], format!("edge-{boot}"));
                }
            }
        }
        assert_eq!(
            summed,
            self.sent.len() as u64,
            "every reading in one window"
        );
        assert_eq!(readings.len(), self.sent.len());
        self.bench.check_balance();
    }
}

#[test]
fn what_was_taken_before_the_clock_was_set_is_corrected_and_goes_up_marked() {
    let mut edge = Edge::new();
    edge.send(20);
    edge.commit();
    edge.pass(200);
    assert!(!edge.bench.writer().stats().clock.set);
    let before = edge.history();
    assert!(
        before
            .values()
            .all(|(time, arrival, marked)| *time < 1000 * SECOND && arrival.is_none() && *marked)
    );
    edge.send(10);
    edge.commit();
    edge.set_clock();
    edge.send(10);
    edge.commit();
    let clock = edge.bench.writer().stats().clock;
    assert!(clock.set && !clock.correcting);
    assert_eq!(clock.last_step.unwrap().by, edge.booted);
    edge.pass(200);
    edge.check();
    let marked = |item: &&Json| item["mono"].is_i64() && item["count"].is_u64();
    let items: Vec<Json> = edge
        .bench
        .items()
        .into_iter()
        .map(|(_, item)| item)
        .collect();
    let open_then = items
        .iter()
        .filter(marked)
        .filter(|item| item["stepped"] == true);
    assert!(
        open_then.count() > 0,
        "a window that was open at the setting"
    );
}

#[test]
fn what_waits_for_a_commit_while_the_clock_is_set_needs_no_mark() {
    let mut edge = Edge::new();
    edge.send(5);
    edge.set_clock();
    edge.commit();
    edge.pass(200);
    edge.check();
    assert!(
        edge.bench
            .items()
            .iter()
            .all(|(_, item)| item["mono"].is_null())
    );
}

#[test]
fn a_boot_that_ends_before_its_clock_is_set_is_never_corrected_with_another_ones() {
    let mut edge = Edge::new();
    edge.send(9);
    edge.commit();
    edge.reboot();
    edge.send(9);
    edge.commit();
    edge.set_clock();
    edge.pass(200);
    edge.reboot();
    edge.set_clock();
    edge.pass(10);
    edge.check();
    let marked = edge
        .history()
        .values()
        .filter(|(_, _, marked)| *marked)
        .count();
    assert_eq!(marked, 9);
    // They go for space and age like any other, with their marks.
    let conn = rusqlite::Connection::open(&edge.bench.config.path).unwrap();
    let left = |conn: &rusqlite::Connection| -> i64 {
        conn.query_row("SELECT count(*) FROM unset", [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(left(&conn), 1);
    for _ in 0..40 {
        edge.pass(86_400);
    }
    assert_eq!(left(&conn), 0);
    assert_eq!(edge.history().len(), 0);
    edge.bench.check_balance();
}

#[test]
fn a_backfill_marks_what_no_clock_ever_put_right() {
    let mut edge = Edge::new();
    edge.send(4);
    edge.commit();
    let booted = edge.booted;
    edge.reboot();
    edge.send(3);
    edge.commit();
    edge.set_clock();
    edge.pass(10);
    let todo = Todo::Backfill {
        series: "**".to_owned(),
        pipeline: None,
        from: 0,
        to: i64::MAX / 1_000_000,
        limit: 100,
    };
    edge.bench
        .apply(commands::command("f", Name::Backfill, todo));
    for _ in 0..5 {
        edge.pass(1);
    }
    let items = edge.bench.items();
    let asked = items.iter().filter(|(_, item)| item["backfill"] == "f");
    let (of_first, others): (Vec<_>, Vec<_>) = asked
        .map(|(_, item)| item)
        .partition(|item| item["boot"] == "edge-1");
    assert_eq!((of_first.len(), others.len()), (4, 3));
    for item in of_first {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let value = item["value"].as_f64().unwrap() as u64;
        let since_boot = (edge.sent[&value].0 - booted) / 1_000_000;
        let mono = item["mono"].as_i64().unwrap();
        assert!((mono - since_boot).abs() <= 1, "{item}: {since_boot}");
    }
    assert!(others.iter().all(|item| item["mono"].is_null()));
}

#[test]
fn correction_goes_on_where_a_crash_cut_it_off() {
    let mut edge = Edge::new();
    for _ in 0..150 {
        edge.send(1);
        edge.commit();
    }
    edge.set_clock();
    let mut rounds = 0;
    loop {
        edge.commit();
        rounds += 1;
        edge.crash();
        if !edge.bench.writer().stats().clock.correcting {
            break;
        }
    }
    assert!(rounds > 2, "in bounded steps: {rounds}");
    edge.pass(200);
    edge.check();
}

#[test]
fn quarantine_is_corrected_with_the_times_in_it() {
    let mut edge = Edge::new();
    let arrival = edge.arrival();
    let mut outcome = edge.bench.outcome(&[]);
    outcome.arrival = arrival;
    outcome.arrival_times = true;
    outcome.counts.quarantined = 1;
    outcome.counts.decoded = 0;
    outcome.quarantined.push(QuarantinedMessage {
        topic: "plant/x".into(),
        payload: b"{".to_vec().into(),
        length: 1,
        reason: reason::UNDECODABLE,
        detail: String::new(),
        arrival,
    });
    let mut rows = Batch::default();
    rows.names.push("a/temp".into());
    rows.push(0, arrival.wall, Value::Int(1), Quality::Good);
    outcome.pipelines[0].selected = 1;
    outcome.pipelines[0].quarantined.push(QuarantinedReadings {
        filter: "range".to_owned(),
        reason: reason::REJECTED,
        detail: String::new(),
        rows,
    });
    let truth = edge.bench.wall;
    edge.bench.apply(outcome);
    edge.commit();
    edge.set_clock();
    edge.commit();
    let conn = rusqlite::Connection::open(&edge.bench.config.path).unwrap();
    let mut select = conn
        .prepare("SELECT arrival, synced, pipeline, data FROM quarantine")
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut seen = 0;
    while let Some(row) = rows.next().unwrap() {
        assert_eq!(
            (
                row.get::<_, i64>(0).unwrap(),
                row.get::<_, bool>(1).unwrap()
            ),
            (truth, true)
        );
        if row.get::<_, Option<String>>(2).unwrap().is_some() {
            let batch =
                block::decode(row.get_ref(3).unwrap().as_blob().unwrap(), |_| None).unwrap();
            assert_eq!(batch.time, [truth]);
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
    edge.bench.check_balance();
}

#[test]
fn a_leap_of_years_expires_nothing_and_coming_back_neither() {
    let mut edge = Edge::new();
    edge.set_clock();
    edge.commit();
    edge.send(5);
    edge.commit();
    edge.error = 20 * 365 * 86_400 * SECOND;
    for _ in 0..20 {
        edge.pass(600);
    }
    assert_eq!(edge.history().len(), 5);
    edge.error = 0;
    edge.pass(10);
    edge.pass(3600);
    assert_eq!(edge.history().len(), 5);
    let clock = edge.bench.writer().stats().clock;
    assert!(clock.steps >= 2);
    assert!(clock.last_step.unwrap().by < 0);
    edge.check_only_history();
}

impl Edge {
    fn check_only_history(&self) {
        assert_eq!(self.history().len(), self.sent.len());
        self.bench.check_balance();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Send(u64),
    Commit,
    Pass(i64),
    Set,
    Step(i64),
    Crash,
    Reboot,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1u64..9).prop_map(Op::Send),
        4 => Just(Op::Commit),
        2 => (1i64..200).prop_map(Op::Pass),
        1 => Just(Op::Set),
        1 => (-4i64..4).prop_map(|hours| Op::Step(hours * 3600)),
        2 => Just(Op::Crash),
        1 => Just(Op::Reboot),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_clock_does_every_reading_is_there_once_at_its_time(ops in ops()) {
        let mut edge = Edge::new();
        for op in ops {
            match op {
                Op::Send(readings) => edge.send(readings),
                Op::Commit => edge.commit(),
                Op::Pass(seconds) => edge.pass(seconds),
                Op::Set => if !edge.set { edge.set_clock() },
                // A clock that is not set is stepped as well: it stays wrong, and what is corrected comes out right.
                Op::Step(seconds) => if !edge.set { edge.error += seconds * SECOND },
                // What is not committed comes again in reality; here it is committed first.
                Op::Crash => {
                    edge.commit();
                    edge.crash();
                }
                Op::Reboot => {
                    edge.commit();
                    edge.reboot();
                }
            }
        }
        if !edge.set {
            edge.set_clock();
        }
        for _ in 0..6 {
            edge.pass(300);
        }
        edge.check();
    }
}
