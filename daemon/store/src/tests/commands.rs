//! Commands in the store: effect, answer and memory in one commit, through crashes.

use serde_json::{Value, json};
use tidegate_domain::alarm::Selection;
use tidegate_domain::command::Name;
use tidegate_domain::series::SeriesFilter;

use super::*;

pub(super) fn command(id: &str, name: Name, todo: Todo) -> CommandInput {
    CommandInput {
        uplink: 0,
        ack: Some(AckToken {
            connection: 3,
            id: 9,
        }),
        id: Some(id.to_owned()),
        name: Some(name),
        at: START,
        todo,
    }
}

fn detail(id: &str, series: &str, seconds: u64) -> CommandInput {
    let todo = Todo::Detail {
        series: series.to_owned(),
        pipeline: None,
        lasts: Duration::from_secs(seconds),
    };
    command(id, Name::Detail, todo)
}

/// Seconds after START.
fn backfill(id: &str, series: &str, from: i64, to: i64, limit: u64) -> CommandInput {
    let todo = Todo::Backfill {
        series: series.to_owned(),
        pipeline: None,
        from: (START / SECOND + from) * 1000,
        to: (START / SECOND + to) * 1000,
        limit,
    };
    command(id, Name::Backfill, todo)
}

impl Bench {
    fn order(&mut self, command: CommandInput) -> Committed {
        self.apply(command);
        self.try_commit().unwrap().expect("a command does not wait")
    }

    fn store(&mut self, readings: &[(&str, i64, f64)]) {
        self.apply(self.outcome(readings));
        self.commit();
    }

    /// Items of one kind that wait or were taken, by their message.
    fn of_kind(&self, kind: ItemKind) -> Vec<Value> {
        let mut messages = self.messages();
        messages.sort_by_key(|message| message.seq);
        let of_kind = messages.iter().filter(|message| message.kind == kind);
        of_kind.flat_map(items).map(|(_, item)| item).collect()
    }

    /// `id status` of each reply.
    fn replies(&self) -> Vec<String> {
        let word = |item: &Value| format!("{} {}", item["id"], item["status"]).replace('"', "");
        self.of_kind(ItemKind::Reply).iter().map(word).collect()
    }

    /// The readings that a command sent, by the key that names it.
    fn sent(&self, key: &str, id: &str) -> Vec<f64> {
        let readings = self.of_kind(ItemKind::Readings);
        let of_it = readings.iter().filter(|item| item[key] == id);
        of_it.map(|item| item["value"].as_f64().unwrap()).collect()
    }

    /// Lets the writer do what is due by time alone.
    fn idle(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.advance(SECOND);
            while self.try_commit().unwrap().is_some() {}
        }
    }
}

use tidegate_domain::item::ItemKind;

#[test]
fn a_command_that_comes_again_is_answered_again_and_not_carried_out_again() {
    let mut bench = Bench::new();
    let report = |n: u64| {
        command(
            "a",
            Name::Report,
            Todo::Answer {
                text: "well".to_owned(),
                data: json!({ "n": n }),
            },
        )
    };
    let committed = bench.order(report(1));
    let token = AckToken {
        connection: 3,
        id: 9,
    };
    assert_eq!(committed.commands, [(0, Some(token))]);
    bench.crash();
    bench.order(report(2));
    let replies = bench.of_kind(ItemKind::Reply);
    assert_eq!(replies.len(), 2);
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[0]["data"]["n"], 1);
    assert_eq!(
        (&replies[0]["command"], &replies[0]["status"]),
        (&json!("report"), &json!("done"))
    );
    let events = bench.of_kind(ItemKind::Event);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["data"]["id"], "a");
    let counts = bench.writer().stats().commands.uplinks[0];
    assert_eq!((counts.done, counts.refused, counts.repeated), (1, 0, 1));
    bench.check_balance();
}

#[test]
fn a_refusal_is_answered_and_remembered_and_what_has_no_id_is_acknowledged() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.order(command("a", Name::Rollback, Todo::Refuse("no".to_owned())));
    }
    let nameless = CommandInput {
        id: None,
        name: None,
        ..command("", Name::Report, Todo::Refuse("garbage".to_owned()))
    };
    let committed = bench.order(nameless);
    assert_eq!(committed.commands.len(), 1);
    assert_eq!(bench.replies(), ["a error", "a error"]);
    let counts = committed.stats.commands.uplinks[0];
    assert_eq!((counts.done, counts.refused, counts.repeated), (0, 2, 1));
    bench.check_balance();
}

#[test]
fn answers_are_remembered_in_a_bounded_number_and_a_bounded_size() {
    let mut bench = Bench::new();
    for n in 0..1030 {
        let answer = Todo::Answer {
            text: "well".to_owned(),
            data: json!({}),
        };
        bench.apply(command(&n.to_string(), Name::Report, answer));
    }
    bench.commit();
    let count = |bench: &Bench| -> (i64, i64) {
        let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
        let sql = "SELECT count(*), min(number) FROM command";
        conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    };
    assert_eq!(count(&bench), (1024, 7));
    // 64 MiB / 64 hold sixteen of 60 KiB; one alone is kept whatever its size.
    for n in 0..40 {
        let answer = Todo::Answer {
            text: "well".to_owned(),
            data: json!("x".repeat(60 * 1024)),
        };
        bench.order(command(&format!("large{n}"), Name::Report, answer));
    }
    assert_eq!(count(&bench).0, 17);
    bench.check_balance();
}

#[test]
fn a_detail_sends_every_reading_of_its_series_until_its_time_is_over() {
    let mut bench = Bench::new();
    bench.order(detail("d", "a/*", 30));
    bench.store(&[("a/x", 1, 1.0), ("b/x", 1, 9.0), ("a/y", 2, 2.0)]);
    // Through a crash, with the time that is left.
    bench.crash();
    bench.store(&[("a/x", 3, 3.0)]);
    let stats = bench.writer().stats().commands;
    assert_eq!((stats.details.len(), stats.details[0].sent), (1, 3));
    assert_eq!(stats.details[0].until, START + 30 * SECOND);
    bench.order(detail("d", "a/*", 30));
    bench.idle(27);
    assert_eq!(bench.replies(), ["d accepted", "d accepted"]);
    bench.idle(1);
    assert_eq!(bench.replies(), ["d accepted", "d accepted", "d done"]);
    bench.store(&[("a/x", 50, 4.0)]);
    assert_eq!(bench.sent("detail", "d"), [1.0, 2.0, 3.0]);
    assert_eq!(bench.of_kind(ItemKind::Reply)[2]["data"]["sent"], 3);
    assert!(bench.writer().stats().commands.details.is_empty());
    // The end is what is remembered.
    bench.order(detail("d", "a/*", 30));
    assert_eq!(bench.replies().last().unwrap(), "d done");
    bench.check_balance();
}

#[test]
fn a_detail_sends_nothing_twice_and_ends_by_a_clock_that_was_stepped() {
    let mut config = config();
    config.pipelines[0].to[0].send = Send::Both;
    let mut bench = Bench::with(config);
    bench.order(detail("d", "**", 30));
    bench.store(&[("a/x", 1, 1.0)]);
    assert!(
        bench.sent("detail", "d").is_empty(),
        "the route sends it anyway"
    );
    // The wall clock goes back by a day: the time that was asked for passes all the same.
    let (now, mut arrival) = (bench.now + Duration::from_secs(31), bench.arrival());
    arrival.wall -= 86_400 * SECOND;
    arrival.monotonic += 31 * SECOND;
    bench.writer().commit_if_due(now, arrival).unwrap();
    assert!(bench.writer().stats().commands.details.is_empty());
}

#[test]
fn a_backfill_sends_each_reading_once_in_slices_through_crashes() {
    let mut bench = Bench::new();
    for block in 0..60 {
        let readings: Vec<(&str, i64, f64)> = (0..20)
            .map(|n| {
                if n % 2 == 0 {
                    ("a/x", block, 1.0)
                } else {
                    ("b/x", block, 2.0)
                }
            })
            .collect();
        bench.store(&readings);
    }
    bench.order(backfill("f", "a/*", 5, 55, 1_000_000));
    let done = |bench: &Bench| {
        bench
            .replies()
            .last()
            .is_some_and(|reply| reply == "f done")
    };
    // A crash after every slice: what is on disk is neither sent again nor left out.
    let mut crashes = 0;
    while !done(&bench) {
        bench.advance(SECOND);
        bench.try_commit().unwrap();
        bench.crash();
        crashes += 1;
        assert!(crashes < 100, "{:?}", bench.replies());
    }
    assert!(crashes > 1);
    assert_eq!(bench.sent("backfill", "f"), vec![1.0; 500]);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(
        (&end["data"]["sent"], &end["data"]["complete"]),
        (&json!(500), &json!(true))
    );
    bench.check_balance();
}

#[test]
fn a_backfill_says_what_it_left_out() {
    let mut bench = Bench::new();
    for block in 0..5 {
        bench.store(&[("a/x", block, 1.0), ("a/x", block, 2.0)]);
    }
    bench.order(backfill("f", "**", 0, 100, 7));
    bench.idle(2);
    assert_eq!(bench.sent("backfill", "f").len(), 7);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(
        (&end["status"], &end["data"]["complete"]),
        (&json!("done"), &json!(false))
    );
    assert!(end["text"].as_str().unwrap().contains("limit"), "{end}");
    // Exactly as many as there are is no limit reached.
    bench.order(backfill("g", "**", 0, 100, 10));
    bench.idle(2);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(
        (&end["data"]["sent"], &end["data"]["complete"]),
        (&json!(10), &json!(true))
    );
    bench.order(backfill("h", "nothing/*", 0, 100, 10));
    bench.idle(2);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(
        (&end["data"]["sent"], &end["data"]["complete"]),
        (&json!(0), &json!(true))
    );
    // Blocks that go before they are reached.
    bench.apply(backfill("first", "**", 0, 100, 100));
    bench.apply(backfill("i", "**", 0, 100, 100));
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    bench.try_commit().unwrap();
    conn.execute("UPDATE backfill SET next_block = -5 WHERE id = 'i'", [])
        .unwrap();
    drop(conn);
    bench.crash();
    bench.idle(2);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(
        (&end["id"], &end["data"]["complete"]),
        (&json!("i"), &json!(false))
    );
}

#[test]
fn a_backfill_waits_while_much_is_waiting_and_does_not_push_it_out() {
    let mut config = config();
    config.uplinks[0].linger = Duration::ZERO;
    let mut bench = Bench::with(config);
    let readings: Vec<(&str, i64, f64)> = (0..8_000).map(|n| ("a/x", n % 50, 1.0)).collect();
    for _ in 0..4 {
        bench.store(&readings);
    }
    bench.order(backfill("f", "**", 0, 100, 1_000_000));
    bench.idle(20);
    let waiting = bench.reader().ledger().unwrap().uplinks["cloud"].waiting;
    assert!((20_000..32_000).contains(&waiting), "{waiting}");
    assert_eq!(bench.replies(), ["f accepted"]);
    // It goes on when some of it is delivered.
    for _ in 0..10 {
        for message in bench.messages() {
            if message.kind == ItemKind::Readings {
                bench.settle(message.seq, Verdict::Delivered);
            }
        }
        bench.idle(3);
    }
    assert_eq!(bench.replies(), ["f accepted", "f done"]);
    let end = bench.of_kind(ItemKind::Reply).pop().unwrap();
    assert_eq!(end["data"]["sent"], 32_000);
    bench.check_balance();
}

#[test]
fn what_an_uplink_gets_nothing_of_is_none_of_its_business() {
    let mut bench = Bench::new();
    let mut order = backfill("f", "**", 0, 1, 1);
    if let Todo::Backfill { pipeline, .. } = &mut order.todo {
        *pipeline = Some("other".to_owned());
    }
    bench.order(order);
    bench.config.pipelines[0].to.clear();
    bench.crash();
    bench.order(detail("d", "**", 5));
    assert_eq!(bench.replies(), ["f error", "d error"]);
    let text = bench.of_kind(ItemKind::Reply)[0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        text.contains("no pipeline `other` sends to this uplink"),
        "{text}"
    );
}

#[test]
fn sixteen_are_at_work_at_once() {
    let mut bench = Bench::new();
    for n in 0..17 {
        bench.order(detail(&format!("d{n:02}"), "a/*", 30));
    }
    assert_eq!(bench.replies().last().unwrap(), "d16 error");
    assert_eq!(bench.writer().stats().commands.details.len(), 16);
}

#[test]
fn a_command_acknowledges_alarms_once() {
    let mut bench = Bench::new();
    let mut outcome = bench.outcome(&[]);
    outcome.pipelines[0].alarms = vec![alarm("a/temp", AlarmState::Raised)];
    bench.apply(outcome);
    bench.try_commit().unwrap();
    let acknowledge = |id: &str, series: &str| {
        let todo = Todo::Acknowledge {
            selection: Selection {
                series: SeriesFilter::new(&[series.to_owned()]).unwrap(),
                ..Selection::default()
            },
            by: "Anna".to_owned(),
        };
        command(id, Name::Acknowledge, todo)
    };
    bench.order(acknowledge("a", "b/*"));
    bench.order(acknowledge("b", "a/*"));
    bench.order(acknowledge("b", "a/*"));
    assert_eq!(bench.replies(), ["a error", "b done", "b done"]);
    let alarms = bench.of_kind(ItemKind::Alarm);
    assert_eq!(alarms.len(), 2);
    assert_eq!(
        (&alarms[1]["state"], &alarms[1]["acknowledged_by"]),
        (&json!("acknowledged"), &json!("Anna"))
    );
}
