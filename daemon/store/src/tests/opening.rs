//! Files that are not what they should be.

use super::*;

fn open(bench: &Bench) -> Result<Store, OpenError> {
    Store::open(bench.config.clone(), bench.arrival())
}

/// A bench whose store is closed.
fn closed() -> Bench {
    let mut bench = Bench::new();
    bench.close();
    bench
}

fn execute(bench: &Bench, sql: &str) {
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    conn.execute_batch(sql).unwrap();
}

#[test]
fn a_second_daemon_is_told_who_has_the_store() {
    let bench = Bench::new();
    let error = open(&bench).unwrap_err();
    assert!(
        matches!(&error, OpenError::InUse { holder, .. } if *holder == std::process::id().to_string())
    );
}

#[test]
fn names_of_a_layout_without_checksums_get_them() {
    const TABLES: [&str; 5] = ["pipeline", "uplink", "slot", "source", "series"];
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("plant/a", 1, 1.0), ("plant/b", 1, 2.0)]);
    bench.apply(outcome);
    bench.commit();
    bench.close();
    for table in TABLES {
        execute(&bench, &format!("ALTER TABLE {table} DROP COLUMN checksum"));
    }
    execute(&bench, "PRAGMA user_version = 9");
    drop(open(&bench).unwrap());
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    let mut named = 0;
    for table in TABLES {
        let sql = format!("SELECT id, name, checksum FROM {table}");
        let mut rows = conn.prepare(&sql).unwrap();
        let rows = rows.query_map([], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        });
        for (id, name, checksum) in rows.unwrap().map(Result::unwrap) {
            assert_eq!(
                crate::names::checksum(table, id, &name),
                checksum,
                "{table} {name}"
            );
            named += 1;
        }
    }
    assert!(named >= 4, "{named}");
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let bench = closed();
    execute(&bench, "PRAGMA user_version = 999");
    let lock = crate::schema::beside(&bench.config.path, ".lock");
    std::fs::write(&lock, "another\n").unwrap();
    let before = std::fs::read(&bench.config.path).unwrap();
    let error = open(&bench).unwrap_err();
    assert!(
        matches!(error, OpenError::TooNew { found: 999, .. }),
        "{error}"
    );
    assert_eq!(error.state(), None);
    assert_eq!(std::fs::read(&bench.config.path).unwrap(), before);
    assert_eq!(
        std::fs::read(&lock).unwrap(),
        b"another\n",
        "not even the lock"
    );
    assert!(matches!(
        verify(&bench.config.path),
        Err(VerifyError::NotAStore { .. })
    ));
}

#[test]
fn a_newer_layout_that_is_in_the_log_alone_is_refused_and_left_alone() {
    let bench = closed();
    let newer = rusqlite::Connection::open(&bench.config.path).unwrap();
    newer
        .execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA user_version = 999")
        .unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut config = bench.config.clone();
    config.path = copy.path().join("store.db");
    for ending in ["", "-wal"] {
        let from = crate::schema::beside(&bench.config.path, ending);
        std::fs::copy(from, crate::schema::beside(&config.path, ending)).unwrap();
    }
    let files = || {
        let mut files: Vec<(std::path::PathBuf, Vec<u8>)> = std::fs::read_dir(copy.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    assert!(before[1].1.len() > 4096, "the log holds it");
    let error = Store::open(config, bench.arrival()).unwrap_err();
    assert!(
        matches!(error, OpenError::TooNew { found: 999, .. }),
        "{error}"
    );
    assert!(files() == before, "nothing is touched");
}

#[test]
fn a_foreign_database_is_refused_and_left_alone() {
    let bench = closed();
    let dir = bench.config.path.parent().unwrap();
    std::fs::remove_file(&bench.config.path).unwrap();
    std::fs::remove_file(crate::schema::beside(&bench.config.path, ".lock")).unwrap();
    execute(&bench, "CREATE TABLE t (x)");
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    let error = open(&bench).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }));
    assert_eq!(error.state(), None);
    assert_eq!(names(), before);
}

#[test]
fn garbage_is_set_aside_and_the_uplinks_are_told() {
    let mut bench = closed();
    std::fs::write(&bench.config.path, vec![0x5a; 8192]).unwrap();
    let recovered = bench.open();
    assert!(recovered.created);
    let stats = bench.writer().stats();
    assert_eq!(stats.state, StoreState::Corrupt);
    assert!(stats.acknowledges, "its successor works");
    let [set] = &stats.set_aside[..] else {
        panic!("{:?}", stats.set_aside)
    };
    assert_eq!(std::fs::read(&set.database).unwrap(), [0x5a; 8192]);
    let items = bench.items();
    let gap = items.iter().find(|(_, item)| item["reason"] == "corrupt");
    assert_eq!(gap.unwrap().1["count"], serde_json::Value::Null);
    let event = items
        .iter()
        .find(|(_, item)| item["code"] == "store-corrupt");
    assert!(event.is_some());
    // It is told once, and shown until somebody has seen it.
    bench.close();
    bench.open();
    assert_eq!(bench.items().len(), items.len());
    assert_eq!(bench.writer().stats().state, StoreState::Corrupt);
    mark_seen(set).unwrap();
    assert_eq!(bench.writer().look().unwrap().state, StoreState::Healthy);
    bench.check_balance();
}

#[test]
fn a_set_that_nobody_was_told_of_is_told_at_the_next_start() {
    let mut bench = closed();
    // As after a crash between setting aside and the first commit.
    crate::aside::set_aside(&bench.config.path, "torn", 1, u64::MAX).unwrap();
    bench.open();
    assert_eq!(bench.items().len(), 2);
    assert_eq!(bench.writer().stats().set_aside.len(), 1);
}

#[test]
fn a_damaged_page_is_an_error_and_no_panic() {
    let mut bench = Bench::new();
    for second in 0..200 {
        let outcome = bench.outcome(&[("a/temp", second, 1.0)]);
        bench.apply(outcome);
        bench.commit();
    }
    bench.close();
    let sound = std::fs::read(&bench.config.path).unwrap();
    for page in 0..sound.len() / 4096 {
        let mut damaged = sound.clone();
        damaged[page * 4096..][..4096].fill(0xa7);
        std::fs::write(&bench.config.path, &damaged).unwrap();
        // Whatever they find, there is a store that works afterwards.
        open(&bench).unwrap();
        for ending in ["-wal", "-shm"] {
            let beside = crate::schema::beside(&bench.config.path, ending);
            if beside.exists() {
                std::fs::remove_file(beside).unwrap();
            }
        }
        std::fs::write(&bench.config.path, &damaged).unwrap();
        if let Ok(verification) = verify(&bench.config.path) {
            drop(verification);
        }
    }
}

#[test]
fn reordering_the_configuration_keeps_names_with_their_counts() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    let first = bench.config.pipelines[0].clone();
    bench.config.pipelines.insert(
        0,
        PipelineConfig {
            name: "other".to_owned(),
            ..first
        },
    );
    bench.config.uplinks.insert(0, UplinkConfig::new("second"));
    bench.config.pipelines[1].to[0].uplink = 1;
    bench.crash();
    bench.advance(100 * SECOND);
    let committed = bench.commit();
    assert_eq!(committed.ledger.pipelines["temperature"].held, 1);
    assert_eq!(committed.ledger.pipelines["other"].held, 0);
    assert_eq!(committed.ledger.uplinks["cloud"].waiting, 1);
    assert_eq!(committed.sealed, [1]);
    bench.check_balance();
}
