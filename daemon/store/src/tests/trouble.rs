//! Disks and files that fail while the store is at work.

use super::*;

const MAX_BYTES: u64 = 4 * 1024 * 1024;

fn size(bench: &Bench) -> u64 {
    ["", "-wal", ".reserve"]
        .iter()
        .map(|ending| crate::schema::file_bytes(&crate::schema::beside(&bench.config.path, ending)))
        .sum()
}

fn damage(bench: &mut Bench) {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let error = rusqlite::Error::SqliteFailure(corrupt, Some("page 7".to_owned()));
    bench.writer().fail_with(error);
}

#[test]
fn damage_that_comes_twice_is_believed_and_the_open_group_goes_into_a_new_database() {
    let mut bench = Bench::new();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.commit();
    bench.advance(100 * SECOND);
    bench.commit();
    let stream = bench.reader().stream_id(0).unwrap();
    let old = bench.messages();
    assert!(!old.is_empty());
    let outcome = bench.outcome(&[("a/temp", 200, 1.0), ("a/temp", 201, 2.0)]);
    bench.apply(outcome);
    // The answer to a message of the old database must not touch one of the same number in the new one.
    bench.settle(1, Verdict::Delivered);
    damage(&mut bench);
    damage(&mut bench);
    assert_eq!(bench.writer().stats().state, StoreState::Corrupt);
    assert!(!bench.writer().stats().acknowledges);
    bench.advance(20 * SECOND);
    let committed = bench.try_commit().unwrap().unwrap();
    assert!(committed.renewed);
    assert_eq!(committed.acks.len(), 1, "the source is told");
    assert_eq!(committed.ledger.pipelines["temperature"].held, 2);
    assert_eq!(committed.stats.state, StoreState::Corrupt);
    assert!(committed.stats.acknowledges);
    // Nor must one that comes later.
    bench.settle(1, Verdict::Delivered);
    bench.advance(2 * SECOND);
    bench.try_commit().unwrap();
    bench.close();
    bench.open();
    assert_ne!(bench.reader().stream_id(0).unwrap(), stream);
    let items = bench.items();
    let gap = items.iter().find(|(_, item)| item["reason"] == "corrupt");
    assert_eq!(gap.unwrap().1["count"], serde_json::Value::Null);
    let event = items
        .iter()
        .find(|(_, item)| item["code"] == "store-corrupt");
    assert_eq!(
        event.unwrap().1["data"]["waiting"]["cloud"],
        1,
        "as far as it was known"
    );
    let ledger = bench.check_balance().ledger;
    assert_eq!(ledger.uplinks["cloud"].delivered, 0);
}

#[test]
fn damage_that_comes_once_is_not() {
    let mut bench = Bench::new();
    for second in 0..3 {
        let outcome = bench.outcome(&[("a/temp", second, 1.0)]);
        bench.apply(outcome);
        damage(&mut bench);
        bench.advance(SECOND);
        let committed = bench.commit();
        assert!(!committed.renewed);
        assert_eq!(committed.stats.state, StoreState::Healthy);
    }
    assert_eq!(bench.writer().stats().set_aside, []);
    assert_eq!(
        bench.check_balance().ledger.pipelines["temperature"].held,
        3
    );
}

#[test]
fn a_database_that_is_deleted_under_it_is_noticed_before_anything_is_acknowledged() {
    let mut bench = Bench::new();
    for ending in ["", "-wal", "-shm"] {
        std::fs::remove_file(crate::schema::beside(&bench.config.path, ending)).unwrap();
    }
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.advance(SECOND);
    let error = bench.try_commit().unwrap_err();
    assert_eq!(error.state, StoreState::Degraded);
    let committed = bench.commit();
    assert!(committed.renewed);
    assert_eq!(committed.ledger.pipelines["temperature"].held, 1);
    bench.check_balance();
}

#[test]
fn a_directory_that_is_gone_is_waited_for() {
    let mut bench = Bench::new();
    let dir = bench.config.path.parent().unwrap().to_owned();
    let away = dir.with_extension("away");
    std::fs::rename(&dir, &away).unwrap();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    for _ in 0..3 {
        bench.advance(20 * SECOND);
        let error = bench.try_commit().unwrap_err();
        assert_eq!(error.state, StoreState::Degraded);
        assert!(!dir.exists(), "nothing is made in its place");
    }
    std::fs::rename(&away, &dir).unwrap();
    bench.advance(20 * SECOND);
    let committed = bench.try_commit().unwrap().unwrap();
    assert!(!committed.renewed);
    assert_eq!(committed.stats.state, StoreState::Healthy);
    assert_eq!(committed.ledger.pipelines["temperature"].held, 1);
    bench.check_balance();
}

/// Everything is to be kept: 200 readings a batch, each an item.
fn stopping() -> StoreConfig {
    let mut config = config();
    config.max_bytes = MAX_BYTES;
    config.full = Full::Stop;
    config.pipelines[0].to[0].send = Send::Readings;
    config
}

#[test]
fn stop_keeps_what_was_not_delivered_and_takes_nothing_until_there_is_room() {
    let mut bench = Bench::with(stopping());
    let mut sent = 0;
    let mut stuck = 0;
    while stuck < 3 {
        let second = (bench.wall - START) / SECOND;
        if !bench.writer().is_full() {
            let readings: Vec<_> = (0..200)
                .map(|n| ("a/temp", second, f64::from(n) / 3.0))
                .collect();
            let outcome = bench.outcome(&readings);
            bench.apply(outcome);
            sent += 200;
            assert!(sent < 100_000, "the bound must come");
        } else {
            stuck += 1;
        }
        bench.advance(20 * SECOND);
        match bench.try_commit() {
            Ok(_) => {}
            Err(error) => assert_eq!(error.state, StoreState::Full),
        }
        assert!(size(&bench) <= MAX_BYTES, "{}", size(&bench));
    }
    let stats = bench.writer().stats();
    assert_eq!(stats.state, StoreState::Full);
    assert!(!stats.acknowledges);
    assert!(stats.last_error.unwrap().contains("store.full"));
    // The other end takes all of it; what had to wait goes in meanwhile.
    let mut delivered = 0;
    for _ in 0..200 {
        for message in bench.messages().iter().take(20) {
            delivered += u64::from(message.items);
            bench.settle(message.seq, Verdict::Delivered);
        }
        bench.advance(20 * SECOND);
        match bench.try_commit() {
            Ok(_) => {}
            Err(error) => assert_eq!(error.state, StoreState::Full),
        }
        assert!(size(&bench) <= MAX_BYTES);
    }
    let ledger = bench.check_balance().ledger;
    assert_eq!(bench.writer().stats().state, StoreState::Healthy);
    assert_eq!(ledger.uplinks["cloud"].evicted, 0);
    assert_eq!(
        (delivered, ledger.pipelines["temperature"].stored),
        (sent, sent)
    );
}

/// A disk of its own, so small that the store's bound is out of reach. Needs root; elsewhere the test says that
/// it tested nothing.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn mount(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("not tested: a disk of its own cannot be mounted here, which needs root");
        }
        mounted.then_some(Self { dir })
    }

    fn free(&self) -> u64 {
        crate::reserve::available(&self.dir.path().join("x")).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let ended = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .status();
        assert!(ended.unwrap().success());
    }
}

#[test]
fn on_a_full_disk_what_comes_in_takes_the_place_of_what_is_given_up() {
    let Some(disk) = Disk::mount(5 * 1024) else {
        return;
    };
    let mut config = config();
    config.max_bytes = 16 * 1024 * 1024;
    config.pipelines[0].to[0].send = Send::Readings;
    let mut bench = Bench::at(config, disk.dir.path().join("store.db"));
    let mut worst = StoreState::Healthy;
    let mut acknowledged = 0;
    let mut sent = 0;
    for _ in 0..800 {
        let second = (bench.wall - START) / SECOND;
        if !bench.writer().is_full() {
            let readings: Vec<_> = (0..200)
                .map(|n| ("a/temp", second, f64::from(n) / 3.0))
                .collect();
            let mut outcome = bench.outcome(&readings);
            if sent % 10 == 0 {
                outcome.pipelines[0]
                    .alarms
                    .push(alarm(&format!("alarm{sent}"), AlarmState::Raised));
            }
            bench.apply(outcome);
            sent += 1;
        }
        bench.advance(20 * SECOND);
        bench.writer().look();
        match bench.try_commit() {
            Ok(Some(committed)) => {
                acknowledged += committed
                    .acks
                    .iter()
                    .map(|(_, acks)| acks.len())
                    .sum::<usize>()
            }
            Ok(None) => {}
            Err(error) => {
                assert_eq!(error.state, StoreState::Full, "{error:?}");
            }
        }
        if bench.writer().stats().state != StoreState::Healthy {
            worst = bench.writer().stats().state;
        }
    }
    assert!(
        bench.writer().stats().failures > 0,
        "the disk must have been full"
    );
    assert_ne!(worst, StoreState::Healthy);
    assert!(
        acknowledged + 2 >= sent,
        "{acknowledged} of {sent}: it goes on"
    );
    let ledger = bench.check_balance().ledger;
    assert!(ledger.uplinks["cloud"].evicted > 0);
    let alarms = bench
        .messages()
        .iter()
        .filter(|m| m.priority == Priority::Alarm)
        .map(|m| m.items)
        .sum::<u32>();
    assert_eq!(
        usize::try_from(alarms).unwrap(),
        sent.div_ceil(10),
        "no alarm is lost"
    );
    // Somebody makes room.
    let mounted = std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(disk.dir.path())
        .status();
    assert!(mounted.unwrap().success());
    bench.writer().look();
    let outcome = bench.outcome(&[("a/temp", 0, 1.0)]);
    bench.apply(outcome);
    bench.advance(20 * SECOND);
    let committed = bench.try_commit().unwrap().unwrap();
    assert_eq!(committed.stats.state, StoreState::Healthy);
    assert!(crate::schema::beside(&bench.config.path, ".reserve").exists());
    assert!(disk.free() > 0);
    bench.close();
}

#[test]
fn a_group_larger_than_the_file_was_commits_once_the_disk_has_room() {
    let Some(disk) = Disk::mount(16 * 1024) else {
        return;
    };
    let mut config = config();
    config.max_bytes = 16 * 1024 * 1024;
    config.pipelines[0].to[0].send = Send::Readings;
    let mut bench = Bench::at(config, disk.dir.path().join("store.db"));
    let ballast = disk.dir.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    drop(file);
    let readings: Vec<_> = (0..8192)
        .map(|n| ("a/temp", n, f64::from(i32::try_from(n).unwrap()).sin()))
        .collect();
    let outcome = bench.outcome(&readings);
    bench.apply(outcome);
    for _ in 0..3 {
        bench.advance(20 * SECOND);
        let error = bench.try_commit().unwrap_err();
        assert_eq!(error.state, StoreState::Full, "{error:?}");
    }
    std::fs::remove_file(ballast).unwrap();
    bench.advance(20 * SECOND);
    let mut acknowledged = 0;
    for _ in 0..3 {
        if let Some(committed) = bench.try_commit().unwrap() {
            acknowledged += committed.acks.len();
        }
        bench.advance(20 * SECOND);
    }
    assert!(acknowledged > 0);
    bench.writer().look();
    assert_eq!(bench.writer().stats().state, StoreState::Healthy);
    assert_eq!(
        bench.check_balance().ledger.pipelines["temperature"].stored,
        8192
    );
}

#[test]
fn a_reader_that_does_not_let_go_stops_the_log_at_its_bound() {
    let mut config = config();
    config.max_bytes = MAX_BYTES;
    config.pipelines[0].to[0].send = Send::Readings;
    let mut bench = Bench::with(config);
    let reader = rusqlite::Connection::open(&bench.config.path).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM history")
        .unwrap();
    let mut refused = 0;
    for round in 0..200 {
        if !bench.writer().is_full() {
            let readings: Vec<_> = (0..200)
                .map(|n| ("a/temp", round, f64::from(n) / 3.0))
                .collect();
            let outcome = bench.outcome(&readings);
            bench.apply(outcome);
        }
        bench.advance(20 * SECOND);
        if let Err(error) = bench.try_commit() {
            refused += 1;
            assert_eq!(error.state, StoreState::Degraded, "{error:?}");
        }
        assert!(size(&bench) <= MAX_BYTES, "{} after {round}", size(&bench));
        if refused > 3 {
            break;
        }
    }
    assert!(refused > 3, "the bound must come");
    reader.execute_batch("ROLLBACK").unwrap();
    bench.advance(20 * SECOND);
    let committed = bench.try_commit().unwrap().unwrap();
    assert_eq!(committed.stats.state, StoreState::Healthy);
    bench.check_balance();
}
