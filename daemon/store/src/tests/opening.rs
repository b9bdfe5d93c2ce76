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
fn a_newer_layout_is_refused_and_left_alone() {
    let bench = closed();
    execute(&bench, "PRAGMA user_version = 999");
    let before = std::fs::read(&bench.config.path).unwrap();
    let error = open(&bench).unwrap_err();
    assert!(
        matches!(error, OpenError::TooNew { found: 999, .. }),
        "{error}"
    );
    assert_eq!(std::fs::read(&bench.config.path).unwrap(), before);
    assert!(matches!(
        verify(&bench.config.path),
        Err(VerifyError::NotAStore { .. })
    ));
}

#[test]
fn a_foreign_database_is_refused() {
    let bench = closed();
    std::fs::remove_file(&bench.config.path).unwrap();
    execute(&bench, "CREATE TABLE t (x)");
    assert!(matches!(
        open(&bench).unwrap_err(),
        OpenError::Foreign { .. }
    ));
}

#[test]
fn garbage_is_refused_with_a_way_out() {
    let bench = closed();
    std::fs::write(&bench.config.path, vec![0x5a; 8192]).unwrap();
    let error = open(&bench).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
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
        // Whatever they find, they say it.
        match open(&bench) {
            Ok(store) => drop(store),
            Err(error) => assert!(!error.to_string().is_empty()),
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
