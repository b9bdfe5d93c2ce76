//! Salvage of sound, damaged and arbitrary files.

use proptest::prelude::*;
use tidegate_domain::Identity;
use tidegate_domain::command::Name;
use tidegate_domain::outcome::{QuarantinedMessage, StateChange, StateDelta};
use tidegate_domain::rollout::candidate_key;

use super::commands::command;
use super::*;

/// Slots with state, one of a candidate, and sources of which one gives identities.
const SLOTS: [&str; 2] = ["temperature/deadband", "temperature/count"];

/// Series that are new in every batch: enough for a table of several pages.
const HEARD: u64 = 20;

fn identity(number: u64) -> Identity {
    let mut identity = [7; 16];
    identity[..8].copy_from_slice(&number.to_be_bytes());
    identity
}

/// What every batch changes in filter state.
fn states(batch: i64) -> Vec<StateDelta> {
    let byte = u8::try_from(batch % 200).unwrap() + 1;
    let series = StateChange::Series {
        width: 200,
        names: vec!["a/temp".into(), "b/temp".into()],
        records: [vec![byte; 200], vec![byte + 1; 200]].concat(),
    };
    let global = StateChange::Global(vec![("count".to_owned(), Some(vec![byte; 8]))]);
    let slots = [SLOTS[0], SLOTS[1], &candidate_key(SLOTS[0])].map(Arc::from);
    let changes = [series.clone(), global, series];
    let deltas = slots.into_iter().zip(changes);
    deltas
        .map(|(slot, change)| StateDelta { slot, change })
        .collect()
}

/// A store with something of everything; its files, partly in the log.
fn filled(batches: i64) -> (Bench, PathBuf) {
    let mut config = config();
    config.pipelines[0].to[0].send = Send::Both;
    config.identity_windows = vec![10_000];
    config.silence.sources = vec![SourceSilence {
        after: Duration::from_secs(3600),
        alarm: None,
        uplinks: vec![0],
    }];
    let mut bench = Bench::with(config);
    for batch in 0..batches {
        let second = (bench.wall - START) / SECOND;
        let names = ["a/temp", "b/temp", "c/temp"];
        let readings: Vec<_> = (0..120)
            .map(|n| (names[n % 3], second, n as f64 / 7.0))
            .collect();
        let mut outcome = bench.outcome(&readings);
        outcome.counts.received += 1;
        outcome.counts.quarantined += 1;
        outcome.quarantined.push(QuarantinedMessage {
            topic: "plant/x".into(),
            payload: vec![b'x'; 6_000].into(),
            length: 6_000,
            reason: "undecodable",
            detail: "no JSON".to_owned(),
            arrival: bench.arrival(),
        });
        let name = format!("alarm{batch}");
        outcome.pipelines[0]
            .alarms
            .push(alarm(&name, AlarmState::Raised));
        outcome.pipelines[0].state = states(batch);
        let number = batch.unsigned_abs();
        outcome.identities = (number * 9..number * 9 + 9).map(identity).collect();
        let heard = (0..HEARD).map(|n| format!("a/series/of/the/plant/{batch}/{n}").into());
        outcome.heard = heard.collect();
        bench.apply(outcome);
        let id = format!("command{batch}");
        let todo = Todo::Answer {
            text: "well".to_owned(),
            data: serde_json::json!({ "n": batch }),
        };
        bench.apply(command(&id, Name::Report, todo));
        bench.commit();
        if batch == batches / 2 {
            // The first half in the file, the rest in the log alone.
            let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        }
    }
    let dir = bench.config.path.parent().unwrap().join("copy");
    std::fs::create_dir(&dir).unwrap();
    for ending in ["", "-wal"] {
        let from = crate::schema::beside(&bench.config.path, ending);
        std::fs::copy(from, dir.join(format!("damaged.db{ending}"))).unwrap();
    }
    (bench, dir)
}

/// Salvages, and holds the result to what any salvage promises: a valid store that balances, opens and goes on.
#[track_caller]
fn check(bench: &Bench, damaged: &std::path::Path) -> Salvaged {
    let to = damaged.with_file_name("new.db");
    let salvaged = salvage(damaged, &to, bench.wall).unwrap();
    let verification = verify(&to).unwrap();
    assert_eq!(verification.differences, [], "{salvaged:?}");
    let held: u64 = verification
        .ledger
        .pipelines
        .values()
        .map(|counts| counts.held)
        .sum();
    assert_eq!(held, salvaged.readings.saved);
    let conn = rusqlite::Connection::open(&to).unwrap();
    let sound: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    // A name is one that there was, or says that it is unknown.
    for (table, known, unknown) in [
        (
            "series",
            &["a/temp", "b/temp", "c/temp"][..],
            "salvaged/series-",
        ),
        ("pipeline", &["temperature"], "salvaged-pipeline-"),
        ("uplink", &["cloud"], "salvaged-uplink-"),
        ("slot", &SLOTS, "none"),
        ("source", &["plant"], "none"),
    ] {
        let mut names = conn.prepare(&format!("SELECT name FROM {table}")).unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
        for name in names.map(Result::unwrap) {
            assert!(
                known.contains(&&*name) || name.starts_with(unknown),
                "{table}: {name}"
            );
        }
    }
    drop(conn);
    let mut config = bench.config.clone();
    config.path = to.clone();
    let store = Store::open(config, bench.arrival()).unwrap();
    let recovered = store.recovered();
    assert_eq!(recovered.streams.len(), 1);
    // A state is one that there was, as a whole.
    let was = |slot: &str, change: &StateChange| {
        let mut states = (0..200).flat_map(states);
        states.any(|state| *state.slot == *slot && state.change == *change)
    };
    for (slot, state) in &recovered.state {
        assert!(SLOTS.contains(&slot.as_str()), "{slot}");
        assert!(was(slot, state), "{slot}: {state:?}");
    }
    assert_eq!(recovered.state.len() as u64, salvaged.states.saved);
    drop(store);
    assert_eq!(verify(&to).unwrap().differences, []);
    for ending in ["", "-wal", "-shm", ".lock", ".reserve"] {
        let path = crate::schema::beside(&to, ending);
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    salvaged
}

#[test]
fn of_a_sound_store_all_is_saved() {
    let (bench, dir) = filled(20);
    let ledger = bench.check_balance().ledger;
    let salvaged = check(&bench, &dir.join("damaged.db"));
    let whole = |saved| Part {
        saved,
        lost: Some(0),
        damaged_rows: 0,
    };
    assert_eq!(
        salvaged.readings,
        whole(ledger.pipelines["temperature"].held)
    );
    assert_eq!(salvaged.items, whole(ledger.uplinks["cloud"].waiting));
    assert_eq!(salvaged.quarantine, whole(20));
    assert_eq!(salvaged.alarms, whole(20));
    assert_eq!(salvaged.states, whole(2));
    assert_eq!(salvaged.begin_anew, Vec::<String>::new());
    assert_eq!(salvaged.identities, whole(20 * 9));
    assert_eq!(salvaged.answers, whole(20));
    assert_eq!(salvaged.at_work, whole(0));
    assert_eq!(salvaged.heard, whole(20 * HEARD));
    assert!(salvaged.counters);
    assert_eq!((salvaged.nameless_series, salvaged.guessed_pages), (0, 0));
}

/// What the gateway remembers is what it goes on with: the same state, the same answers, the same identities.
#[test]
fn a_salvaged_store_goes_on_with_what_it_remembers() {
    let (mut bench, dir) = filled(20);
    let order = |todo| CommandInput {
        at: bench.wall,
        ..command("running", Name::Detail, todo)
    };
    let detail = order(Todo::Detail {
        series: "a/*".to_owned(),
        pipeline: None,
        lasts: Duration::from_secs(3600),
    });
    bench.apply(detail);
    let backfill = CommandInput {
        at: bench.wall,
        ..command(
            "filling",
            Name::Backfill,
            Todo::Backfill {
                series: "a/*".to_owned(),
                pipeline: None,
                from: START / 1_000_000,
                to: START / 1_000_000 + 3_600_000,
                limit: 1_000_000,
            },
        )
    };
    bench.apply(backfill);
    bench.try_commit().unwrap();
    let alarms = bench.reader().alarms(100).unwrap();
    for ending in ["", "-wal"] {
        let from = crate::schema::beside(&bench.config.path, ending);
        std::fs::copy(from, dir.join(format!("damaged.db{ending}"))).unwrap();
    }
    let to = dir.join("new.db");
    let salvaged = salvage(&dir.join("damaged.db"), &to, bench.wall).unwrap();
    assert_eq!(salvaged.at_work.saved, 2, "{salvaged:?}");
    let mut bench = Bench::at(bench.config.clone(), to);
    let recovered = bench.crash_beside();
    let last = states(19);
    assert_eq!(recovered.state[SLOTS[0]], last[0].change);
    assert_eq!(recovered.state[SLOTS[1]], last[1].change);
    let identities: Vec<Identity> = (0..180).map(identity).collect();
    assert_eq!(recovered.identities, [identities]);
    assert_eq!(bench.reader().alarms(100).unwrap(), alarms);
    // A command that comes again is answered as before, and not carried out.
    let again = command(
        "command7",
        Name::Report,
        Todo::Answer {
            text: "well".to_owned(),
            data: serde_json::json!({}),
        },
    );
    bench.apply(again);
    bench.try_commit().unwrap();
    let replies = bench.messages();
    let replies = replies.iter().flat_map(items).map(|(_, item)| item);
    let mut replies = replies.filter(|item| item["id"] == "command7");
    assert_eq!(replies.next_back().unwrap()["data"]["n"], 7);
    // And the state goes on from there.
    let mut outcome = bench.outcome(&[("a/temp", 100, 1.0)]);
    outcome.pipelines[0].state = states(30);
    bench.apply(outcome);
    bench.commit();
    assert_eq!(bench.crash_beside().state[SLOTS[0]], states(30)[0].change);
}

#[test]
fn state_with_a_damaged_byte_is_not_taken_and_the_filter_named() {
    let (bench, dir) = filled(20);
    let damaged = dir.join("damaged.db");
    let conn = rusqlite::Connection::open(&damaged).unwrap();
    let flipped: usize = conn
        .execute(
            "UPDATE state_log SET delta = CAST(substr(delta, 1, 60) || x'ee' || substr(delta, 62) AS BLOB)
             WHERE id = (SELECT id FROM state_log WHERE slot = (SELECT id FROM slot WHERE name = ?1) LIMIT 1 OFFSET 5)",
            [SLOTS[0]],
        )
        .unwrap();
    assert_eq!(flipped, 1);
    drop(conn);
    let salvaged = check(&bench, &damaged);
    let states = Part {
        saved: 1,
        lost: Some(1),
        damaged_rows: 1,
    };
    assert_eq!(salvaged.states, states);
    assert_eq!(salvaged.begin_anew, [SLOTS[0]]);
}

/// A bit in a name makes another name of it, which nothing but its checksum tells.
#[test]
fn a_damaged_name_is_taken_for_no_name() {
    let (bench, dir) = filled(6);
    let damaged = dir.join("damaged.db");
    let conn = rusqlite::Connection::open(&damaged).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(conn);
    let whole = check(&bench, &damaged);
    let sound = std::fs::read(&damaged).unwrap();
    let salvaged = ["series", "pipeline", "uplink", "slot", "source"].map(|table| {
        let conn = rusqlite::Connection::open(&damaged).unwrap();
        let sql = format!(
            "UPDATE {table} SET name = 'x' || substr(name, 2) WHERE id = (SELECT min(id) FROM {table})"
        );
        assert_eq!(conn.execute(&sql, []).unwrap(), 1, "{table}");
        drop(conn);
        let salvaged = check(&bench, &damaged);
        std::fs::write(&damaged, &sound).unwrap();
        salvaged
    });
    // What has the only name that is left over gets it back.
    let [series, pipeline, uplink, slot, source] = salvaged;
    assert_eq!(series.nameless_series, 1);
    assert_eq!(pipeline.readings, whole.readings);
    assert_eq!(uplink.items, whole.items);
    assert_eq!(slot.states.saved, whole.states.saved - 1);
    assert_eq!(source.identities.saved, 0);
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let (bench, dir) = filled(1);
    let error = salvage(&dir.join("damaged.db"), &bench.config.path, 0).unwrap_err();
    assert!(matches!(error, SalvageError::Exists { .. }), "{error}");
}

#[test]
fn a_lost_page_costs_what_was_on_it_and_no_more() {
    let (bench, dir) = filled(20);
    let damaged = dir.join("damaged.db");
    let conn = rusqlite::Connection::open(&damaged).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(conn);
    let whole = check(&bench, &damaged);
    let sound = std::fs::read(&damaged).unwrap();
    let (mut readings, mut items) = (0, 0);
    let parts = |of: &Salvaged| [of.states, of.alarms, of.identities, of.answers, of.heard];
    let mut remembered = [0; 5];
    let pages = sound.len() / 4096;
    for page in 0..pages {
        let mut spoiled = sound.clone();
        spoiled[page * 4096..][..4096].fill(0xa7);
        std::fs::write(&damaged, &spoiled).unwrap();
        let salvaged = check(&bench, &damaged);
        readings += whole.readings.saved - salvaged.readings.saved;
        items += whole.items.saved - salvaged.items.saved;
        let (before, after) = (parts(&whole), parts(&salvaged));
        for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
            let lost = before.saved - after.saved;
            remembered[index] += lost;
            // What is said to be all is all.
            assert!(
                lost == 0 || after.lost != Some(0),
                "page {page}, part {index}: {salvaged:?}"
            );
        }
        let named = 2 - salvaged.states.saved;
        assert!(
            salvaged.begin_anew.len() as u64 == named || salvaged.states.lost.is_none(),
            "page {page}: {salvaged:?}"
        );
        // Where the counters are known, so is the loss.
        if salvaged.counters {
            assert_eq!(
                salvaged.readings.lost,
                Some(whole.readings.saved - salvaged.readings.saved),
                "page {page}: {salvaged:?}"
            );
        }
    }
    // Over all pages everything was on one page or on a chain of some.
    assert!(
        readings >= whole.readings.saved && readings <= 4 * whole.readings.saved,
        "{readings}"
    );
    assert!(items >= whole.items.saved, "{items}");
    for (lost, part) in remembered.into_iter().zip(parts(&whole)) {
        assert!(lost >= part.saved, "{remembered:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_file_holds_the_result_is_a_store(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..400),
        spoiled in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        copied in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        in_log in any::<bool>(),
    ) {
        let (bench, dir) = filled(6);
        let damaged = dir.join("damaged.db");
        let path = if in_log { dir.join("damaged.db-wal") } else { damaged.clone() };
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let pages = bytes.len() / 4096;
        for (page, byte) in spoiled {
            bytes[page.index(pages) * 4096..][..4096].fill(byte);
        }
        for (from, to) in copied {
            let from = from.index(pages) * 4096;
            bytes.copy_within(from..from + 4096, to.index(pages) * 4096);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        check(&bench, &damaged);
    }

    #[test]
    fn garbage_gives_an_empty_store(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let bench = Bench::new();
        let damaged = bench.config.path.with_file_name("damaged.db");
        std::fs::write(&damaged, bytes).unwrap();
        let salvaged = check(&bench, &damaged);
        prop_assert_eq!(salvaged.readings.saved, 0);
        prop_assert!(!salvaged.counters);
    }
}
