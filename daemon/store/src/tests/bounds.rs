//! The bound in bytes and age, and what it costs.

use super::*;

const MAX_BYTES: u64 = 2 * 1024 * 1024;

fn small() -> StoreConfig {
    let mut config = config();
    config.max_bytes = MAX_BYTES;
    config.pipelines[0].to.push(Route {
        uplink: 0,
        send: Send::Readings,
        priority: Priority::Low,
    });
    config
}

fn file_bytes(bench: &Bench) -> u64 {
    let wal = crate::schema::beside(&bench.config.path, "-wal");
    crate::schema::file_bytes(&bench.config.path) + crate::schema::file_bytes(&wal)
}

/// An outage: `batches` of 200 readings, every tenth with an alarm of a series of its own. The size is
/// checked after every commit.
fn fill(bench: &mut Bench, batches: i64) {
    for batch in 0..batches {
        let second = (bench.wall - START) / SECOND;
        let series = format!("line{}/temp", batch % 7);
        let readings: Vec<_> = (0..200)
            .map(|n| (series.as_str(), second, f64::from(n)))
            .collect();
        let mut outcome = bench.outcome(&readings);
        if batch % 10 == 0 {
            let name = format!("alarm{batch}");
            outcome.pipelines[0]
                .alarms
                .push(alarm(&name, AlarmState::Raised));
        }
        bench.apply(outcome);
        bench.commit();
        assert!(
            file_bytes(bench) <= MAX_BYTES,
            "{} after batch {batch}",
            file_bytes(bench)
        );
    }
}

/// Delivers everything, in the order in which an uplink would; all items by kind.
fn drain(bench: &mut Bench) -> BTreeMap<&'static str, Vec<(u64, serde_json::Value)>> {
    let mut all: BTreeMap<&'static str, Vec<(u64, serde_json::Value)>> = BTreeMap::new();
    loop {
        let messages = bench.messages();
        if messages.is_empty() {
            return all;
        }
        for message in messages {
            all.entry(message.kind.as_str())
                .or_default()
                .extend(items(&message));
            bench.settle(message.seq, Verdict::Delivered);
        }
        bench.commit();
    }
}

#[test]
fn an_outage_costs_the_least_important_and_gaps_say_what() {
    let mut bench = Bench::with(small());
    fill(&mut bench, 300);
    let ledger = bench.check_balance().ledger;
    let evicted = ledger.uplinks["cloud"].evicted;
    assert!(evicted > 10_000, "the test must reach the bound: {evicted}");
    assert!(ledger.pipelines["temperature"].evicted > 0);
    bench.crash();
    let last_seq = bench.reader().last_sealed_seq(0).unwrap();
    let all = drain(&mut bench);
    assert_eq!(all["alarm"].len(), 30, "no alarm is lost");
    // Every item that went is in exactly one gap, and every number that is missing in the range of one.
    let gaps = &all["gap"];
    let told: u64 = gaps
        .iter()
        .map(|(_, gap)| gap["count"].as_u64().unwrap())
        .sum();
    assert_eq!(told, evicted);
    let seqs: std::collections::BTreeSet<u64> =
        all.values().flatten().map(|(seq, _)| *seq).collect();
    let named = |seq: u64| {
        gaps.iter().any(|(_, gap)| {
            let bound = |key: &str| gap[key].as_u64();
            bound("seq_from").is_some_and(|from| from <= seq)
                && bound("seq_to").is_some_and(|to| seq <= to)
        })
    };
    let missing: Vec<u64> = (1..=last_seq).filter(|seq| !seqs.contains(seq)).collect();
    assert!(!missing.is_empty());
    for seq in &missing {
        assert!(named(*seq), "{seq} is in no gap");
    }
    assert!(gaps.len() < 200, "{}", gaps.len());
    assert!(
        gaps.iter()
            .all(|(_, gap)| gap["pipeline"] == "temperature" && gap["reason"] == "size")
    );
    assert!(
        gaps.iter().any(|(_, gap)| gap["series"] == "*/temp"),
        "{gaps:?}"
    );
    assert!(
        gaps.iter().all(|(_, gap)| gap["series"].is_string()),
        "{gaps:?}"
    );
    let ledger = bench.check_balance().ledger;
    assert_eq!(ledger.uplinks["cloud"].waiting, 0);
    // Windows are summarised from memory, whatever history lost.
    assert_eq!(ledger.uplinks["cloud"].evicted, evicted);
}

#[test]
fn what_is_in_flight_is_not_given_up() {
    let mut bench = Bench::with(small());
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    let first = bench.messages();
    assert_eq!(first.len(), 1);
    fill(&mut bench, 300);
    assert!(bench.check_balance().ledger.uplinks["cloud"].evicted > 0);
    let still: Vec<u64> = bench.messages().iter().map(|message| message.seq).collect();
    assert!(still.contains(&first[0].seq));
}

#[test]
fn a_window_whose_readings_went_before_a_crash_says_so() {
    let mut config = small();
    config.pipelines[0].window = Some(Duration::from_secs(3600));
    let mut bench = Bench::with(config);
    // Nothing but this window's own history and alarms is left when the bound comes.
    bench.config.pipelines[0].to.truncate(1);
    bench.close();
    bench.open();
    let second = |bench: &Bench| (bench.wall - START) / SECOND;
    let mut sent = 0;
    while bench.writer().stats().state == StoreState::Healthy {
        let readings: Vec<_> = (0..700)
            .map(|n| ("a/temp", second(&bench), f64::from(n) / 3.0))
            .collect();
        let outcome = bench.outcome(&readings);
        bench.apply(outcome);
        let committed = bench.commit();
        sent += 700;
        if committed.ledger.pipelines["temperature"].evicted > 0 {
            break;
        }
    }
    bench.crash();
    bench.advance(7300 * SECOND);
    bench.commit();
    let items: Vec<_> = bench.items();
    assert_eq!(items[0].1["incomplete"], true);
    assert!(items[0].1["count"].as_u64().unwrap() < sent);
    bench.check_balance();
}

#[test]
fn history_expires_by_age_even_while_nothing_arrives() {
    let mut config = config();
    config.max_age = Duration::from_secs(3200);
    let mut bench = Bench::with(config);
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    bench.advance(200 * SECOND);
    bench.commit();
    let wait = bench.writer().deadline().unwrap() - bench.now;
    bench.advance(i64::try_from(wait.as_nanos()).unwrap());
    let ledger = bench.commit().ledger;
    assert_eq!(ledger.pipelines["temperature"].expired, 1);
    assert_eq!(ledger.pipelines["temperature"].held, 0);
    bench.check_balance();
}

#[test]
fn quarantine_keeps_to_its_share_and_the_oldest_goes_with_a_gap() {
    let mut bench = Bench::with(small());
    let mut sent = 0;
    for _ in 0..20 {
        let mut outcome = bench.outcome(&[]);
        for _ in 0..3 {
            sent += 1;
            outcome.counts.received += 1;
            outcome.counts.quarantined += 1;
            outcome
                .quarantined
                .push(tidegate_domain::outcome::QuarantinedMessage {
                    topic: "plant/x".into(),
                    payload: vec![b'x'; 20_000].into(),
                    length: 20_000,
                    reason: "undecodable",
                    detail: String::new(),
                    arrival: bench.arrival(),
                });
        }
        bench.apply(outcome);
        let committed = bench.commit();
        assert!(committed.stats.quarantine_bytes <= MAX_BYTES / 5);
        assert!(file_bytes(&bench) <= MAX_BYTES);
    }
    let ledger = bench.check_balance().ledger;
    let counts = &ledger.sources["plant"].quarantine;
    assert_eq!(counts.held + counts.evicted, sent);
    assert!(counts.evicted > 0);
    let all = drain(&mut bench);
    let told: u64 = all["gap"]
        .iter()
        .map(|(_, gap)| gap["count"].as_u64().unwrap())
        .sum();
    assert_eq!(told, counts.evicted);
    assert!(
        all["gap"]
            .iter()
            .all(|(_, gap)| gap["reason"] == "quarantine-size" && gap["source"] == "plant")
    );
}

#[test]
fn a_smaller_bound_shrinks_the_file() {
    let mut config = small();
    config.max_bytes = 16 * 1024 * 1024;
    let mut bench = Bench::with(config);
    for _ in 0..100 {
        let second = (bench.wall - START) / SECOND;
        let readings: Vec<_> = (0..200).map(|n| ("a/temp", second, f64::from(n))).collect();
        let outcome = bench.outcome(&readings);
        bench.apply(outcome);
        bench.commit();
    }
    bench.close();
    let before = file_bytes(&bench);
    assert!(before > MAX_BYTES);
    bench.config.max_bytes = MAX_BYTES;
    bench.open();
    // Bit by bit, so that no commit takes long.
    for _ in 0..200 {
        let outcome = bench.outcome(&[]);
        bench.apply(outcome);
        bench.commit();
    }
    bench.close();
    assert!(
        file_bytes(&bench) <= MAX_BYTES,
        "{} of {before}",
        file_bytes(&bench)
    );
    bench.open();
    bench.check_balance();
}

#[test]
fn random_series_do_not_fill_the_store_with_names() {
    let mut config = small();
    config.pipelines[0].to.clear();
    config.pipelines[0].window = None;
    let mut bench = Bench::with(config);
    for batch in 0..300 {
        let names: Vec<String> = (0..200)
            .map(|n| format!("device/{batch:04}/{n:08}/temperature"))
            .collect();
        let mut readings: Vec<_> = names.iter().map(|name| (name.as_str(), 0, 1.0)).collect();
        readings.push(("steady/temp", 0, 1.0));
        let outcome = bench.outcome(&readings);
        bench.apply(outcome);
        let committed = bench.commit();
        assert_eq!(committed.stats.state, StoreState::Healthy);
        assert!(file_bytes(&bench) <= MAX_BYTES);
    }
    // 60,000 names of 100 bytes, and as much in the index, are six times the bound.
    bench.check_balance();
    let ledger = bench.reader().ledger().unwrap();
    assert!(ledger.pipelines["temperature"].held > 0);
    let latest = bench.reader().latest_readings(usize::MAX).unwrap();
    assert!(
        latest
            .iter()
            .any(|reading| &*reading.series == "steady/temp")
    );
}

/// Thousands of windows of one minute that all end now, and how many of them one transaction may close.
fn many_windows() -> (Bench, usize, Vec<String>) {
    const SERIES: usize = 2000;
    let mut config = config();
    config.max_bytes = 2 * MAX_BYTES;
    let mut bench = Bench::with(config);
    let names: Vec<String> = (0..SERIES).map(|n| format!("line{n}/temp")).collect();
    for part in names.chunks(200) {
        let readings: Vec<_> = part.iter().map(|name| (name.as_str(), 0, 1.0)).collect();
        bench.apply(bench.outcome(&readings));
        bench.commit();
    }
    let at_once = crate::setup::Bounds::new(2 * MAX_BYTES).windows;
    assert!(at_once * 4 < SERIES, "the test must be beyond the bound");
    (bench, at_once, names)
}

/// Commits until nothing is due. The size holds after every commit, and none closes too much.
fn close_all(bench: &mut Bench, at_once: usize) -> usize {
    let mut commits = 0;
    while let Some(committed) = bench.try_commit().unwrap() {
        let closed = committed.summaries.len();
        assert!(closed <= at_once, "{closed} windows in one transaction");
        assert!(file_bytes(bench) <= 2 * MAX_BYTES, "{}", file_bytes(bench));
        commits += 1;
    }
    commits
}

#[test]
fn windows_that_close_together_close_in_several_transactions_and_once() {
    let (mut bench, at_once, names) = many_windows();
    bench.advance(120 * SECOND);
    // What has arrived since waits for them: its readings must find nothing that is due.
    bench.apply(bench.outcome(&[("line0/temp", 150, 7.0), ("line1/temp", 1, 7.0)]));
    bench.advance(SECOND);
    let first = bench.try_commit().unwrap().unwrap();
    assert_eq!((first.summaries.len(), first.acks.len()), (at_once, 0));
    bench.crash();
    bench.apply(bench.outcome(&[("line0/temp", 150, 7.0), ("line1/temp", 1, 7.0)]));
    bench.advance(SECOND);
    let commits = close_all(&mut bench, at_once);
    assert!(commits > names.len() / at_once - 1, "{commits}");
    bench.advance(120 * SECOND);
    close_all(&mut bench, at_once);
    let ledger = bench.check_balance().ledger;
    assert_eq!(ledger.uplinks["cloud"].evicted, 0);
    let mut counts = BTreeMap::new();
    for (_, item) in bench.items() {
        let key = (
            item["series"].as_str().unwrap().to_owned(),
            item["from"].as_i64().unwrap(),
            item["late"] == true,
        );
        let before = counts.insert(key, item["count"].as_u64().unwrap());
        assert_eq!(before, None, "{item} went up before");
    }
    let minute = START / 1_000_000;
    let at =
        |name: &str, from: i64, late: bool| counts.get(&(name.to_owned(), from, late)).copied();
    for name in &names {
        assert_eq!(at(name, minute, false), Some(1), "{name}");
    }
    assert_eq!(at("line0/temp", minute + 120_000, false), Some(1));
    assert_eq!(at("line1/temp", minute, true), Some(1));
    assert_eq!(counts.len(), names.len() + 2);
}

#[test]
fn windows_that_a_step_closes_do_so_in_several_transactions_all_marked() {
    let (mut bench, at_once, names) = many_windows();
    let mut arrival = bench.arrival();
    arrival.wall -= 3600 * SECOND;
    let mut outcome = bench.outcome(&[("line0/temp", -3600, 7.0)]);
    outcome.arrival = arrival;
    bench.apply(outcome);
    bench.now += Duration::from_secs(1);
    let mut closed = Vec::new();
    loop {
        let now = bench.now;
        let Some(committed) = bench.writer().commit_if_due(now, arrival).unwrap() else {
            break;
        };
        assert!(committed.summaries.len() <= at_once);
        closed.extend(committed.summaries);
    }
    assert_eq!(closed.len(), names.len());
    let items = bench.items();
    let stepped = items.iter().filter(|(_, item)| item["stepped"] == true);
    assert_eq!(stepped.count(), names.len());
    bench.check_balance();
}
