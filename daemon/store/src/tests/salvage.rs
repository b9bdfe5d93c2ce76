//! Salvage of sound, damaged and arbitrary files.

use proptest::prelude::*;
use tidegate_domain::outcome::QuarantinedMessage;

use super::*;

/// A store with something of everything; its files, partly in the log.
fn filled(batches: i64) -> (Bench, PathBuf) {
    let mut config = config();
    config.pipelines[0].to[0].send = Send::Both;
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
        bench.apply(outcome);
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
    drop(conn);
    let mut config = bench.config.clone();
    config.path = to.clone();
    let store = Store::open(config, bench.arrival()).unwrap();
    assert_eq!(store.recovered().streams.len(), 1);
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
    assert_eq!(salvaged.alarms.saved, 20);
    assert!(salvaged.counters);
    assert_eq!((salvaged.nameless_series, salvaged.guessed_pages), (0, 0));
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
    let pages = sound.len() / 4096;
    for page in 0..pages {
        let mut spoiled = sound.clone();
        spoiled[page * 4096..][..4096].fill(0xa7);
        std::fs::write(&damaged, &spoiled).unwrap();
        let salvaged = check(&bench, &damaged);
        readings += whole.readings.saved - salvaged.readings.saved;
        items += whole.items.saved - salvaged.items.saved;
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
