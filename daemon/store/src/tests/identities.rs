//! Identities of messages survive what their messages survive.

use tidegate_domain::Identity;

use super::*;

fn identity(number: u16) -> Identity {
    let mut identity = [0; 16];
    identity[..2].copy_from_slice(&number.to_be_bytes());
    identity
}

fn identities(numbers: std::ops::Range<u16>) -> Vec<Identity> {
    numbers.map(identity).collect()
}

fn bench(window: usize) -> Bench {
    let mut config = config();
    config.sources = vec!["plain".to_owned(), "plant".to_owned(), "mill".to_owned()];
    config.identity_windows = vec![0, window, window];
    Bench::with(config)
}

fn outcome(bench: &Bench, source: usize, numbers: std::ops::Range<u16>) -> BatchOutcome {
    BatchOutcome {
        source,
        identities: identities(numbers),
        ..bench.outcome(&[])
    }
}

#[test]
fn the_latest_of_each_source_are_found_again_in_their_order() {
    let mut bench = bench(100);
    for batch in 0..50 {
        let one = outcome(&bench, 1, batch * 7..batch * 7 + 7);
        let other = outcome(&bench, 2, 1000 + batch..1001 + batch);
        bench.apply(one);
        bench.apply(other);
        bench.commit();
    }
    let lost = outcome(&bench, 1, 900..901);
    bench.apply(lost);
    let recovered = bench.crash();
    let found = [vec![], identities(250..350), identities(1000..1050)];
    assert_eq!(recovered.identities, found);
    // Rows that the windows left behind are gone, as far as an eighth of the window.
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    let bytes: i64 = conn
        .query_row("SELECT sum(length(data)) FROM identity", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert!(
        (16 * 150..=16 * (150 + 100 / 8 + 7)).contains(&bytes),
        "{bytes}"
    );
}

#[test]
fn a_source_that_gives_none_any_more_leaves_none_behind_and_a_smaller_window_takes_effect() {
    let mut bench = bench(100);
    for source in [1, 2] {
        let outcome = outcome(&bench, source, 0..90);
        bench.apply(outcome);
    }
    bench.commit();
    bench.config.identity_windows = vec![0, 0, 10];
    let recovered = bench.crash();
    assert_eq!(recovered.identities, [vec![], vec![], identities(80..90)]);
    bench.config.identity_windows = vec![0, 100, 100];
    let recovered = bench.crash();
    assert_eq!(recovered.identities, [vec![], vec![], identities(0..90)]);
    let outcome = outcome(&bench, 1, 7..8);
    bench.apply(outcome);
    bench.commit();
    assert_eq!(bench.crash().identities[1], identities(7..8));
}

#[test]
fn a_group_that_had_to_be_tried_again_is_remembered_once() {
    let mut bench = bench(100);
    let outcome = outcome(&bench, 1, 0..5);
    bench.apply(outcome);
    let other = rusqlite::Connection::open(&bench.config.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    bench.advance(SECOND);
    bench.try_commit().unwrap_err();
    other.execute_batch("ROLLBACK").unwrap();
    bench.commit();
    assert_eq!(bench.crash().identities[1], identities(0..5));
}
