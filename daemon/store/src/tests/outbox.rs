//! From items to messages and out of the door.

use super::*;

fn readings_config() -> StoreConfig {
    let mut config = config();
    config.pipelines[0].to = vec![
        Route {
            uplink: 0,
            send: Send::Readings,
            priority: Priority::Low,
        },
        Route {
            uplink: 0,
            send: Send::Summary,
            priority: Priority::High,
        },
    ];
    config
}

#[test]
fn messages_leave_by_priority_and_then_in_order() {
    let mut bench = Bench::with(readings_config());
    for second in 0..2 {
        let outcome = bench.outcome(&[("a/temp", second, 1.0)]);
        bench.apply(outcome);
        bench.commit();
    }
    let mut outcome = bench.outcome(&[("a/temp", 70, 1.0)]);
    outcome.pipelines[0]
        .alarms
        .push(alarm("a/temp", AlarmState::Raised));
    bench.advance(70 * SECOND);
    bench.apply(outcome);
    bench.commit();
    bench.advance(100 * SECOND);
    bench.commit();
    let order: Vec<(&str, Priority)> = (bench.messages().iter())
        .map(|message| (message.kind.as_str(), message.priority))
        .collect();
    let expect = [
        ("alarm", Priority::Alarm),
        ("summary", Priority::High),
        ("readings", Priority::Low),
        ("readings", Priority::Low),
        ("readings", Priority::Low),
    ];
    assert_eq!(order, expect);
    let two = bench.reader().next_messages(0, &[], 2, usize::MAX).unwrap();
    assert_eq!(two.len(), 2);
    let handed_out: Vec<u64> = two.iter().map(|message| message.seq).collect();
    let next = bench.reader().next_messages(0, &handed_out, 9, 1).unwrap();
    assert_eq!(next.len(), 1, "one, however long");
    assert!(!handed_out.contains(&next[0].seq));
}

#[test]
fn live_data_and_backlog_share_the_bytes_of_a_look() {
    let mut bench = Bench::with(readings_config());
    // One message of readings a second: 1 to 10 are the backlog, 11 to 20 live.
    for second in 0..20 {
        let outcome = bench.outcome(&[("a/temp", second, 1.0)]);
        bench.apply(outcome);
        bench.commit();
    }
    let look = |share: u16, mark: u64, exclude: &[u64], messages: usize| {
        let mut request = Request {
            exclude: exclude.iter().copied().collect(),
            room: Window {
                messages,
                bytes: usize::MAX,
            },
            alarms_only: false,
            mark,
            share: Share::new(share),
        };
        let mut seqs = Vec::new();
        // What the share remembers goes from one look to the next.
        for _ in 0..2 {
            let messages = bench.reader().look(0, &mut request).unwrap();
            let taken = messages.iter().map(|message| message.seq);
            request.exclude.extend(taken.clone());
            seqs.extend(taken);
        }
        seqs
    };
    assert_eq!(look(500, 10, &[], 3), [11, 1, 12, 2, 13, 3]);
    assert_eq!(look(500, 10, &[11, 1], 3), [12, 2, 13, 3, 14, 4]);
    assert_eq!(
        look(1000, 10, &[], 6)[..11],
        [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 1]
    );
    assert_eq!(
        look(0, 10, &[], 6)[..11],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    );
    assert_eq!(look(250, 10, &[], 4), [11, 1, 2, 3, 12, 4, 5, 6]);
    assert_eq!(look(500, 0, &[], 2), [1, 2, 3, 4], "everything is live");
    assert_eq!(look(500, 20, &[], 2), [1, 2, 3, 4], "nothing is");

    // Alarms first, however many of them are backlog; then the higher priority.
    for state in [AlarmState::Raised, AlarmState::Cleared] {
        let mut outcome = bench.outcome(&[("a/temp", 20, 1.0)]);
        outcome.pipelines[0].alarms.push(alarm("a/temp", state));
        bench.apply(outcome);
        bench.commit();
    }
    let order = |mark, alarms_only| {
        let mut request = Request {
            exclude: tidegate_domain::delivery::Numbers::default(),
            room: Window {
                messages: 3,
                bytes: usize::MAX,
            },
            alarms_only,
            mark,
            share: Share::new(500),
        };
        let messages = bench.reader().look(0, &mut request).unwrap();
        let order = messages
            .iter()
            .map(|message| (message.priority, message.seq));
        order.collect::<Vec<_>>()
    };
    let all = order(10, false);
    assert!(all[0].0 == Priority::Alarm && all[1].0 == Priority::Alarm);
    assert!(all[0].1 < all[1].1, "raised, then cleared: {all:?}");
    assert_eq!(all[2], (Priority::Low, 11));
    assert_eq!(
        order(all[0].1, false)[..2],
        all[..2],
        "one is backlog by now"
    );
    assert_eq!(order(10, true), all[..2]);
}

#[test]
fn an_alarm_that_is_raised_already_is_no_news() {
    let mut bench = Bench::new();
    let raise = |bench: &mut Bench, states: &[AlarmState]| {
        let mut outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
        outcome.pipelines[0].alarms = states.iter().map(|state| alarm("a/temp", *state)).collect();
        bench.apply(outcome);
        assert!(bench.writer().is_full(), "an alarm does not wait");
        let committed = bench.try_commit().unwrap().unwrap();
        (
            committed.ledger.uplinks["cloud"].queued,
            committed.stats.alarms_active,
        )
    };
    use AlarmState::{Cleared, Raised};
    assert_eq!(raise(&mut bench, &[Raised]), (1, 1));
    assert_eq!(raise(&mut bench, &[Raised, Raised]), (1, 1));
    bench.crash();
    assert_eq!(raise(&mut bench, &[Raised]), (1, 1));
    assert_eq!(raise(&mut bench, &[Cleared, Raised, Cleared]), (4, 0));
    assert_eq!(raise(&mut bench, &[Cleared]), (4, 0));
}

#[test]
fn delivered_goes_and_rejected_stays_in_sight() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let second = (bench.wall - START) / SECOND;
        let outcome = bench.outcome(&[("a/temp", second, 1.0)]);
        bench.apply(outcome);
        bench.commit();
        bench.advance(62 * SECOND);
        bench.commit();
    }
    assert_eq!(bench.messages().len(), 3);
    bench.settle(1, Verdict::Delivered);
    bench.settle(
        2,
        Verdict::Rejected {
            reason: "quota".to_owned(),
        },
    );
    // A second answer to the same message, and one to a message that never was.
    bench.settle(1, Verdict::Delivered);
    bench.settle(99, Verdict::Delivered);
    let committed = bench.commit();
    let counts = &committed.ledger.uplinks["cloud"];
    assert_eq!(
        (counts.delivered, counts.rejected, counts.waiting),
        (1, 1, 1)
    );
    assert_eq!(bench.messages().len(), 1);
    let rejected = bench.reader().rejected(0, 9).unwrap();
    assert_eq!((rejected[0].seq, rejected[0].reason.as_str()), (2, "quota"));
    bench.check_balance();
}

#[test]
fn a_message_is_sealed_by_items_bytes_or_linger() {
    let seal = |max_items: u32, max_bytes: usize, readings: i64| {
        let mut config = readings_config();
        config.uplinks[0] = UplinkConfig {
            linger: Duration::from_secs(5),
            max_message_items: max_items,
            max_message_bytes: max_bytes,
            ..UplinkConfig::new("cloud")
        };
        let mut bench = Bench::with(config);
        let readings: Vec<_> = (0..readings)
            .map(|second| ("a/temp", second, 1.0))
            .collect();
        let outcome = bench.outcome(&readings);
        bench.apply(outcome);
        bench.commit();
        let at_once: Vec<u32> = bench
            .messages()
            .iter()
            .map(|message| message.items)
            .collect();
        assert!(bench.writer().deadline().is_some());
        bench.advance(5 * SECOND);
        bench.commit();
        bench.check_balance();
        (
            at_once,
            bench
                .messages()
                .iter()
                .map(|message| message.items)
                .collect::<Vec<u32>>(),
        )
    };
    assert_eq!(seal(100, 1 << 20, 10), (vec![], vec![10]));
    assert_eq!(seal(4, 1 << 20, 10), (vec![4, 4], vec![4, 4, 2]));
    let (at_once, all) = seal(100, 300, 10);
    assert_eq!(all.iter().sum::<u32>(), 10);
    assert!(at_once.len() >= 3, "{at_once:?}");
}

#[test]
fn events_and_source_gaps_go_to_every_uplink_and_gaps_are_summed_up() {
    let mut bench = Bench::new();
    let gap = |second: i64, count| SourceGap {
        source: 0,
        from: START,
        to: START + second * SECOND,
        count,
        reason: "session-lost",
    };
    bench.apply(Event {
        time: START,
        code: "started".to_owned(),
        text: "Tidegate started".to_owned(),
        data: Some(serde_json::json!({"version": "0.1.0"})),
    });
    bench.apply(gap(1, Some(3)));
    bench.commit();
    // While the first waits, the others are one.
    bench.apply(gap(2, Some(1)));
    bench.commit();
    bench.apply(gap(3, None));
    bench.commit();
    let items = bench.items();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].1["data"]["version"], "0.1.0");
    assert_eq!(items[1].1["source"], "plant");
    assert_eq!(items[1].1["count"], 3);
    bench.crash();
    bench.settle(2, Verdict::Delivered);
    bench.commit();
    let gaps: Vec<_> = bench
        .items()
        .into_iter()
        .filter(|(_, item)| item["reason"] == "session-lost")
        .collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].1["count"], serde_json::Value::Null);
    assert_eq!(gaps[0].1["to"], (START + 3 * SECOND) / 1_000_000);
    bench.check_balance();
}

#[test]
fn the_page_finds_the_latest_readings() {
    let mut bench = Bench::new();
    for second in 0..3 {
        let outcome = bench.outcome(&[
            ("a/temp", second, 1.0),
            ("b", second, f64::NAN),
            ("a/temp", second, 2.5),
        ]);
        bench.apply(outcome);
        bench.commit();
    }
    let latest = bench.reader().latest_readings(10).unwrap();
    let found: Vec<_> = latest
        .iter()
        .map(|r| (&*r.series, r.time - START, r.value.clone()))
        .collect();
    let expect = [
        ("a/temp", 2 * SECOND, 2.5.into()),
        ("b", 2 * SECOND, serde_json::Value::Null),
    ];
    assert_eq!(found, expect);
    assert_eq!(bench.reader().latest_readings(1).unwrap().len(), 1);
}
