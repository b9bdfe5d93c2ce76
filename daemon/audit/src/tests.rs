//! The log against everybody who can write its files and does not have its key, and against power cuts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::segments::{self, Segment};
use crate::*;

fn at(time: i64) -> Stamp {
    Stamp {
        time,
        monotonic: time,
        boot: "b".into(),
        synced: true,
    }
}

fn entry(n: u64) -> Entry {
    Entry {
        object: object([("module", json!("range")), ("n", json!(n))]),
        reason: "because \"it\" was \n asked".to_owned(),
        ..Entry::new(
            at(1_766_000_000_000),
            Actor::Operator {
                uid: 0,
                pid: Some(7),
                login: None,
            },
            Action::ModuleRollBack,
        )
    }
}

/// A gateway's directory.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    fn key(&self) -> Key {
        Key::load_or_make(&self.0.path().join("identity"))
            .unwrap()
            .0
    }

    fn open(&self) -> Opened {
        Log::open(&self.dir(), self.key(), "gw", &at(1)).unwrap()
    }

    /// A log of so many entries.
    fn with(&self, count: u64) {
        let mut log = self.open().log;
        for n in 1..=count {
            let appended = log.append(&[entry(n)]).unwrap();
            assert_eq!((appended.first, appended.count), (n, 1));
        }
    }

    fn verify(&self) -> Result<Verified, Fault> {
        let key = self.key().public();
        verify(&self.dir(), Some(&key), None, |_| {}).map(|(verified, _)| verified)
    }

    fn verify_against(&self, earlier: &Head) -> Result<Verified, Fault> {
        verify(&self.dir(), None, Some(earlier), |_| {}).map(|(verified, _)| verified)
    }

    fn head(&self) -> Head {
        Head::read(&segments::read_head(&self.dir()).unwrap().unwrap()).unwrap()
    }

    fn segment(&self) -> PathBuf {
        Segment::new(&self.dir(), 1).path
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.segment()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn put(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.segment(), text).unwrap();
    }

    #[track_caller]
    fn refused(&self, number: Option<u64>, part: &str) {
        let fault = self.verify().unwrap_err();
        assert_eq!(fault.number, number, "{fault}");
        assert!(fault.to_string().contains(part), "{fault}");
    }
}

#[test]
fn a_log_goes_on_after_a_restart_and_verifies() {
    let site = Site::new();
    let opened = site.open();
    assert_eq!(opened.begun, Some(Begun::First));
    assert_eq!(opened.notes[0].action, Action::AuditBegun);
    let mut log = opened.log;
    log.append(&opened.notes).unwrap();
    log.append(&[entry(2), entry(3)]).unwrap();
    drop(log);
    let opened = site.open();
    assert_eq!((opened.begun, opened.notes.len()), (None, 0));
    let mut log = opened.log;
    assert_eq!(log.append(&[entry(4)]).unwrap().first, 4);
    let verified = site.verify().unwrap();
    assert_eq!((verified.first, verified.last, verified.signed), (1, 4, 4));
    let newest = newest(&site.dir(), Some(4), 2).unwrap();
    let numbers: Vec<u64> = newest.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [3, 2]);
    assert_eq!(newest[0].value["object"]["module"], "range");
    assert_eq!(read(&site.dir(), 1).unwrap().unwrap().number, 1);
    assert_eq!(read(&site.dir(), 9).unwrap(), None);
    // Another process cannot write it meanwhile.
    let second = Log::open(&site.dir(), site.key(), "gw", &at(1)).unwrap_err();
    let source = std::error::Error::source(&second).unwrap().to_string();
    assert!(source.contains("another process"), "{source}");
}

#[test]
fn no_byte_of_entries_or_head_can_be_changed() {
    let site = Site::new();
    site.with(3);
    let head = segments::head_path(&site.dir());
    let mut tampered = 0;
    for path in [site.segment(), head.clone()] {
        let sound = fs::read(&path).unwrap();
        for index in 0..sound.len() {
            for change in [1_u8, 0x20, 0x80] {
                let mut bytes = sound.clone();
                bytes[index] ^= change;
                fs::write(&path, &bytes).unwrap();
                // The line feed behind the head is no part of it, and says nothing.
                if path == head && index + 1 == sound.len() {
                    continue;
                }
                let verified = site.verify();
                assert!(
                    verified.is_err(),
                    "{} {index} {change}: {verified:?}",
                    path.display()
                );
                tampered += 1;
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    assert!(tampered > 4000, "{tampered}");
    site.verify().unwrap();
}

#[test]
fn no_byte_of_evidence_can_be_changed_but_its_first_line() {
    let site = Site::new();
    site.with(2);
    let key = site.key().public();
    let text = export(&site.dir(), Some(&key), 5, "0.1.0").unwrap().text;
    let sound = text.into_bytes();
    let verified = verify_export(&sound, Some(&key), None).unwrap();
    assert_eq!((verified.first, verified.last), (1, 2));
    let about = sound.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for index in about..sound.len() {
        let mut bytes = sound.clone();
        bytes[index] ^= 1;
        let verified = verify_export(&bytes, Some(&key), None);
        assert!(verified.is_err(), "{index}: {verified:?}");
    }
    for length in 0..sound.len() {
        assert!(
            verify_export(&sound[..length], Some(&key), None).is_err(),
            "{length}"
        );
    }
    let head = Head::of_export(&sound).unwrap();
    assert_eq!(head, site.head());
    // What it says of controls is of this log's records, each action is explained, and openssl reads the key.
    let about: serde_json::Value = serde_json::from_slice(&sound[..about]).unwrap();
    assert_eq!(
        about["actions"].as_array().unwrap().len(),
        Action::ALL.len()
    );
    let controls: Vec<&str> = CONTROLS.iter().map(|control| control.id).collect();
    let wanted = [
        "CR 2.8", "CR 2.9", "CR 2.10", "CR 2.11", "CR 2.12", "EDR 2.4", "EDR 3.10",
    ];
    assert_eq!(controls, wanted);
    assert!(
        about["key_pem"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN PUBLIC KEY-----\nMCow")
    );
}

#[test]
fn entries_cannot_be_removed_exchanged_repeated_or_put_in() {
    let site = Site::new();
    site.with(6);
    let sound = site.lines();
    let check = |change: &dyn Fn(&mut Vec<String>), number: Option<u64>, part: &str| {
        let mut lines = sound.clone();
        change(&mut lines);
        site.put(&lines);
        site.refused(number, part);
        site.put(&sound);
    };
    check(&|lines| drop(lines.remove(2)), Some(3), "missing");
    check(&|lines| drop(lines.remove(0)), Some(1), "missing");
    check(&|lines| lines.swap(1, 2), Some(2), "missing");
    check(
        &|lines| lines.insert(3, lines[2].clone()),
        Some(4),
        "written twice",
    );
    check(&|lines| lines.truncate(5), None, "cut off");
    check(
        &|lines| lines.truncate(4),
        None,
        "entries 5 to 6 are missing",
    );
    check(&|lines| lines.clear(), None, "entries 1 to 6 are missing");
    // By somebody with another key, number and hash as they should be.
    let other = Site::new();
    let forged = entry(6).line(
        6,
        &Record::parse(sound[4].as_bytes()).unwrap().hash,
        &other.key(),
    );
    check(
        &|lines| lines[5] = forged.0.clone(),
        Some(6),
        "not the gateway's",
    );
    fs::remove_file(site.segment()).unwrap();
    site.refused(None, "entries 1 to 6 are missing");
    site.put(&sound);
    site.verify().unwrap();
    fs::remove_file(segments::head_path(&site.dir())).unwrap();
    site.refused(None, "head is missing");
    fs::remove_file(site.segment()).unwrap();
    site.refused(None, "there is no log");
}

#[test]
fn an_entry_of_somebody_else_behind_the_head_is_not_taken() {
    let site = Site::new();
    site.with(2);
    let other = Site::new();
    let head = site.head();
    let (line, _) = entry(3).line(3, &head.hash, &other.key());
    let mut lines = site.lines();
    lines.push(line.clone());
    site.put(&lines);
    // It is no entry, as what a power cut leaves is none.
    let verified = site.verify().unwrap();
    assert_eq!(
        (verified.last, verified.torn_bytes),
        (2, line.len() as u64 + 1)
    );
    let opened = site.open();
    assert_eq!(opened.notes[0].action, Action::AuditRecovered);
    assert_eq!(site.lines().len(), 2);
}

#[test]
fn another_key_or_another_log_is_not_this_gateways() {
    let (site, other) = (Site::new(), Site::new());
    site.with(3);
    other.with(3);
    let exported = site.head();
    for file in ["audit", "identity"] {
        fs::remove_dir_all(site.0.path().join(file)).unwrap();
    }
    site.with(3);
    assert!(site.verify().is_ok(), "the log by itself is sound");
    let fault = site.verify_against(&exported).unwrap_err();
    assert!(fault.why.contains("another gateway's"), "{fault}");
    let key = site.key().public();
    let fault = verify(&other.dir(), Some(&key), None, |_| {}).unwrap_err();
    assert!(fault.why.contains("another gateway's"), "{fault}");
}

#[test]
fn a_log_that_was_put_back_to_an_earlier_moment_is_found_by_an_exported_head() {
    let site = Site::new();
    site.with(3);
    let earlier = site.head();
    let copy = site.0.path().join("copy");
    copy_dir(&site.dir(), &copy);
    let mut log = site.open().log;
    log.append(&[entry(4), entry(5)]).unwrap();
    drop(log);
    let exported = site.head();
    assert_eq!(site.verify_against(&exported).unwrap().last, 5);
    assert_eq!(site.verify_against(&earlier).unwrap().last, 5);

    fs::remove_dir_all(site.dir()).unwrap();
    copy_dir(&copy, &site.dir());
    // By itself it is what it was: this is what nothing but a head kept elsewhere finds.
    assert_eq!(site.verify().unwrap().last, 3);
    let fault = site.verify_against(&exported).unwrap_err();
    assert!(
        fault.why.contains("goes to entry 5") && fault.why.contains("cut off"),
        "{fault}"
    );
    // A log that was written on from there is another one; of two that each hold nothing can be mixed.
    let first = Site::new();
    copy_dir(&site.dir(), &first.dir());
    copy_dir(
        &site.0.path().join("identity"),
        &first.0.path().join("identity"),
    );
    let mut log = first.open().log;
    log.append(&[entry(41), entry(51), entry(61)]).unwrap();
    drop(log);
    // Nor does it help to write on.
    let mut log = site.open().log;
    log.append(&[entry(40), entry(50), entry(60)]).unwrap();
    drop(log);
    let fault = site.verify_against(&exported).unwrap_err();
    assert_eq!(fault.number, Some(5), "{fault}");
    assert_eq!(site.verify_against(&earlier).unwrap().last, 6);
    let (ours, theirs) = (site.lines(), first.lines());
    for (index, number, part) in [
        (3, 5, "hash of the one before"),
        (4, 5, "hash of the one before"),
        (5, 6, "hash of the one before"),
    ] {
        let mut mixed = ours.clone();
        mixed[index] = theirs[index].clone();
        site.put(&mixed);
        site.refused(Some(number), part);
    }
    let mut mixed = ours[..3].to_vec();
    mixed.extend_from_slice(&theirs[3..]);
    site.put(&mixed);
    site.refused(Some(6), "the signed head names");
}

#[test]
fn the_oldest_go_and_the_rest_still_holds() {
    let site = Site::new();
    let mut log = site.open().log.bounded(1500, 3);
    let mut heads = Vec::new();
    for n in 1..=40 {
        log.append(&[entry(n)]).unwrap();
        heads.push(site.head());
        site.verify().unwrap();
    }
    let files = segments::list(&site.dir()).unwrap();
    assert_eq!(files.len(), 3);
    let verified = site.verify().unwrap();
    assert_eq!(verified.first, files[0].first);
    assert!(verified.first > 10 && verified.last > 40, "{verified:?}");
    let trimmed = newest(&site.dir(), None, 100).unwrap();
    let trimmed: Vec<&Record> = trimmed
        .iter()
        .filter(|record| record.value["action"] == "audit.trimmed")
        .collect();
    assert_eq!(trimmed[0].value["object"]["to"], verified.first - 1);
    // The head that was exported when the last entry in front of them was written is the anchor of what is kept.
    let anchor = heads
        .iter()
        .find(|head| head.number + 1 == verified.first)
        .unwrap();
    site.verify_against(anchor).unwrap();
    let fault = site.verify_against(&heads[0]).unwrap_err();
    assert!(fault.why.contains("cannot be compared"), "{fault}");
    drop(log);
    // A file more that somebody removes is missing.
    fs::remove_file(&files[0].path).unwrap();
    site.refused(
        Some(files[0].first),
        "the oldest that are kept were removed",
    );
}

#[test]
fn a_log_that_was_changed_is_set_aside_as_evidence_and_another_begins_at_its_head() {
    let site = Site::new();
    site.with(4);
    let exported = site.head();
    let mut lines = site.lines();
    lines.truncate(2);
    site.put(&lines);
    let opened = site.open();
    let Some(Begun::Anew { aside, why }) = &opened.begun else {
        panic!("{:?}", opened.begun);
    };
    assert!(why.contains("entries 3 to 4 are missing"), "{why}");
    let mut log = opened.log;
    assert_eq!(log.append(&opened.notes).unwrap().first, 5);
    let verified = site.verify().unwrap();
    assert_eq!(
        (verified.first, verified.last, verified.breaks.len()),
        (5, 5, 1)
    );
    site.verify_against(&exported).unwrap();
    let fault = verify(aside, None, None, |_| {}).unwrap_err();
    assert!(fault.why.contains("cut off"), "{fault}");
    drop(log);
    // However often: the first ones stay.
    for _ in 0..5 {
        fs::write(segments::head_path(&site.dir()), "nonsense").unwrap();
        let opened = site.open();
        assert!(matches!(opened.begun, Some(Begun::Anew { .. })));
        assert!(fs::read_dir(site.0.path()).unwrap().count() <= 6);
    }
    assert!(aside.join("head").exists());
}

#[test]
fn a_torn_end_is_no_tampering_and_a_cut_one_is() {
    let site = Site::new();
    site.with(2);
    let sound = fs::read(site.segment()).unwrap();
    let (line, _) = entry(3).line(3, &site.head().hash, &site.key());
    for length in 1..line.len() {
        let mut bytes = sound.clone();
        bytes.extend(line.as_bytes().iter().take(length));
        fs::write(site.segment(), &bytes).unwrap();
        let verified = site.verify().unwrap();
        assert_eq!((verified.last, verified.torn_bytes), (2, length as u64));
        let opened = site.open();
        assert_eq!((opened.begun, opened.notes.len()), (None, 1), "{length}");
        assert_eq!(fs::read(site.segment()).unwrap(), sound);
    }
    // Blocks that were never written read as zeros.
    let zeros = [sound.clone(), vec![0; 700]].concat();
    fs::write(site.segment(), zeros).unwrap();
    assert_eq!(site.verify().unwrap().torn_bytes, 700);
    drop(site.open());
    // In front of the head no length is a power cut's.
    for length in 0..sound.len() {
        fs::write(site.segment(), &sound[..length]).unwrap();
        assert!(site.verify().is_err(), "{length}");
    }
}

#[test]
fn a_whole_entry_behind_the_head_is_taken() {
    let site = Site::new();
    site.with(2);
    let head = fs::read(segments::head_path(&site.dir())).unwrap();
    let mut log = site.open().log;
    log.append(&[entry(3), entry(4)]).unwrap();
    drop(log);
    fs::write(segments::head_path(&site.dir()), head).unwrap();
    let verified = site.verify().unwrap();
    assert_eq!(
        (verified.last, verified.signed, verified.torn_bytes),
        (4, 2, 0)
    );
    let opened = site.open();
    assert_eq!((opened.begun, opened.notes.len()), (None, 0));
    assert_eq!(site.head().number, 4);
}

#[test]
fn entries_are_bounded_whatever_is_put_into_them() {
    let site = Site::new();
    let mut log = site.open().log;
    let long = "ä".repeat(100_000);
    let members = (0..50).map(|n| (format!("member{n}"), json!(long)));
    let huge = Entry {
        object: members.collect(),
        reason: long.clone(),
        ..entry(1)
    };
    log.append(&[huge]).unwrap();
    let record = read(&site.dir(), 1).unwrap().unwrap();
    assert!(
        record.text.len() < entry::LINE_BYTES,
        "{}",
        record.text.len()
    );
    assert!(record.value["object"]["left-out"].as_u64().unwrap() > 40);
    site.verify().unwrap();
    // What waits long is written in parts.
    let many: Vec<Entry> = (0..1000).map(entry).collect();
    let appended = log.append(&many).unwrap();
    assert_eq!((appended.first, appended.count), (2, 128));
    site.verify().unwrap();
}

#[test]
fn a_key_is_made_once_is_ones_own_and_is_never_replaced() {
    let site = Site::new();
    let dir = site.0.path().join("identity");
    let (key, is_new) = Key::load_or_make(&dir).unwrap();
    assert!(is_new);
    let path = Key::path(&dir);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let (again, is_new) = Key::load_or_make(&dir).unwrap();
    assert_eq!((again.public(), is_new), (key.public(), false));
    assert!(!format!("{key:?}").contains("PRIVATE"));
    let sound = fs::read_to_string(&path).unwrap();
    for broken in [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        fs::write(&path, broken).unwrap();
        let error = Key::load_or_make(&dir).unwrap_err().to_string();
        assert!(error.contains("is not replaced by itself"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    fs::write(&path, sound).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Key::load_or_make(&dir).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

/// The power goes at each step of everything that a log does, and what the disk has of the last write is any part of it.
#[cfg(feature = "test-faults")]
#[test]
fn whatever_was_acknowledged_is_there_after_a_power_cut_at_every_step() {
    let mut cuts = 0;
    for step in 0.. {
        let site = Site::new();
        // The key is there: its own making is tried below.
        site.key();
        let mut acknowledged = 0;
        cut_after(Some(step));
        let run = (|| -> Result<(), LogError> {
            let key = Key::load(&site.0.path().join("identity")).unwrap().unwrap();
            let opened = Log::open(&site.dir(), key, "gw", &at(1))?;
            let mut log = opened.log.bounded(900, 2);
            for n in 0..9 {
                let appended = log.append(&[entry(n)])?;
                acknowledged = appended.first;
            }
            Ok(())
        })();
        let left = cut_after(None);
        if run.is_ok() && left != Some(0) {
            break;
        }
        cuts += 1;
        let last = segments::list(&site.dir()).unwrap().pop();
        // What a kill leaves, then what a power cut may: every length of what had not been synced.
        let lengths = last.as_ref().map_or(1, |last| {
            let file = fs::File::open(&last.path).unwrap();
            let there = file.metadata().unwrap().len();
            usize::try_from(there - crate::faults::synced_bytes(&file)).unwrap() + 1
        });
        let synced = site.0.path().join("synced");
        copy_dir(&site.dir(), &synced);
        for lost in (0..lengths).step_by(61) {
            if site.dir().exists() {
                fs::remove_dir_all(site.dir()).unwrap();
            }
            copy_dir(&synced, &site.dir());
            if let Some(last) = &last {
                let bytes = fs::read(&last.path).unwrap();
                fs::write(&last.path, &bytes[..bytes.len() - lost]).unwrap();
            }
            let opened = site.open();
            assert!(
                matches!(opened.begun, None | Some(Begun::First)),
                "step {step}, {lost} bytes lost: {:?}",
                opened.begun
            );
            let mut log = opened.log;
            assert!(
                log.head().number >= acknowledged,
                "step {step}: {acknowledged}"
            );
            log.append(&[entry(99)]).unwrap();
            let verified = site.verify().unwrap();
            assert_eq!(verified.torn_bytes, 0);
        }
    }
    assert!(cuts > 60, "{cuts}");

    for step in 0.. {
        let site = Site::new();
        let dir = site.0.path().join("identity");
        cut_after(Some(step));
        let made = Key::load_or_make(&dir);
        cut_after(None);
        let (key, _) = Key::load_or_make(&dir).unwrap();
        if let Ok((made, _)) = made {
            assert_eq!(made.public(), key.public());
            break;
        }
    }
}

/// A disk that takes nothing for a while, and then does.
#[cfg(feature = "test-faults")]
#[test]
fn what_could_not_be_written_can_be_written_later_once() {
    for step in 0..12 {
        let site = Site::new();
        let mut log = site.open().log.bounded(900, 2);
        for n in 1..=5 {
            log.append(&[entry(n)]).unwrap();
        }
        let before = log.head().number;
        cut_after(Some(step));
        let failed = log.append(&[entry(6)]);
        cut_after(None);
        let appended = match failed {
            // The head came too late, and comes with the next entry.
            Ok(appended) => appended,
            Err(_) => log.append(&[entry(6)]).unwrap(),
        };
        assert!(appended.first > before);
        log.append(&[entry(7)]).unwrap();
        let verified = site.verify().unwrap();
        assert_eq!(
            (verified.last, verified.torn_bytes),
            (log.head().number, 0),
            "step {step}"
        );
        let records = newest(&site.dir(), None, 100).unwrap();
        let sixths = records
            .iter()
            .filter(|record| record.value["object"]["n"] == 6);
        assert_eq!(sixths.count(), 1, "step {step}");
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    if !from.exists() {
        return;
    }
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
