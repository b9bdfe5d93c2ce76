//! The power and the line are cut everywhere, and the next look goes on.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tidegate_deploy::{Kind, cut_after};

use crate::memory::{Memory, copy, device, poll, poll_at, whole};
use crate::repositories;

/// Bytes between two places at which the line breaks.
const BYTES: usize = 400;

/// Cuts the power at each step of a look at `then`, which comes after a look at `good`, or first.
fn cut_everywhere(case: &Path, primed: bool) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let before = dir.path().join("before");
    fs::create_dir(&before).unwrap();
    if primed {
        poll(&device(&before, case), Memory::of(&case.join("good"))).unwrap();
    }
    let then = Memory::of(&case.join("then"));
    for steps in 0.. {
        let site = dir.path().join("site");
        copy(&before, &site);
        fs::create_dir_all(&site).unwrap();
        let cut = {
            let device = device(&site, case);
            let old = whole(&device);
            cut_after(Some(steps));
            let looked = poll(&device, then.clone());
            let left = cut_after(None);
            // What the disk holds is the state before or the one after, whole.
            let now = whole(&device);
            let taken = now.as_ref().is_some_and(|now| now.epoch == 4);
            assert!(now == old || taken, "after {steps} steps: {now:?}");
            if let Ok(polled) = looked {
                assert_eq!(polled.epoch, 4);
            }
            left == Some(0)
        };
        // The power is back: another process opens the folder.
        let device = device(&site, case);
        let polled = poll(&device, then.clone());
        let polled = polled.unwrap_or_else(|refusal| panic!("after {steps} steps: {refusal}"));
        assert_eq!(polled.epoch, 4, "after {steps} steps");
        assert_eq!(whole(&device).unwrap().epoch, 4);
        // Nothing that it began lies about.
        for entry in fs::read_dir(site.join("deploy")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("scratch-"), "{name}");
        }
        let rolled_back = poll(&device, Memory::of(&case.join("copy1"))).unwrap_err();
        assert_eq!(rolled_back.kind, Kind::Rollback, "{rolled_back}");
        fs::remove_dir_all(&site).unwrap();
        if !cut {
            return steps;
        }
    }
    unreachable!("a look has an end")
}

#[test]
fn a_power_cut_at_any_step_of_a_look_leaves_a_state_that_goes_on() {
    let first = cut_everywhere(&repositories::case("next-publication"), false);
    let next = cut_everywhere(&repositories::case("next-publication"), true);
    println!("cut at {first} steps of a first look and at {next} of a later one");
    assert!(first > 15 && next > 15, "{first} {next}");
}

/// Epochs that are superseded before they are whole would fill the folder up to its bound, and nothing would come any more.
#[test]
fn what_a_superseded_epoch_left_is_gone_before_more_is_fetched() {
    let case = repositories::case("next-publication");
    let dir = tempfile::tempdir().unwrap();
    let device = device(dir.path(), &case);
    poll(&device, Memory::of(&case.join("good"))).unwrap();
    let before = whole(&device);
    let files = dir.path().join("deploy/files");
    let left = files.join(format!("{}.part", "ab".repeat(32)));
    // Sparse: it takes no room, and counts.
    let bytes = tidegate_domain::limits::DEPLOY_KEPT_BYTES;
    fs::File::create(&left).unwrap().set_len(bytes).unwrap();
    poll(&device, Memory::of(&case.join("then"))).unwrap();
    assert!(!left.exists());
    assert_ne!(whole(&device), before);
}

#[test]
fn a_line_that_breaks_anywhere_in_a_look_is_taken_up_again() {
    let case = repositories::case("broken-lines");
    let dir = tempfile::tempdir().unwrap();
    let primed = dir.path().join("primed");
    fs::create_dir(&primed).unwrap();
    poll(&device(&primed, &case), Memory::of(&case.join("good"))).unwrap();
    let then = Memory::of(&case.join("then"));
    let mut cuts = 0;
    for at in (0..).step_by(BYTES) {
        let site = dir.path().join("site");
        copy(&primed, &site);
        let device = device(&site, &case);
        let breaking = Memory {
            left: Some(Arc::new(Mutex::new(at))),
            ..then.clone()
        };
        if let Err(refusal) = poll(&device, breaking) {
            assert!(refusal.reason.contains("the line is gone"), "{refusal}");
            assert_eq!(whole(&device).unwrap().epoch, 3, "after {at} bytes");
            let polled = poll(&device, then.clone()).unwrap();
            assert_eq!(polled.epoch, 4, "after {at} bytes");
            // What came before the break does not come again.
            assert!(polled.bytes <= 30_000 - at, "{} after {at}", polled.bytes);
            cuts += 1;
        } else {
            break;
        }
        whole(&device).unwrap();
        fs::remove_dir_all(&site).unwrap();
    }
    println!("broken {cuts} times");
    assert!(cuts > 50, "{cuts}");
}

#[test]
fn metadata_expires_by_the_clock_and_what_is_here_stays() {
    let case = repositories::case("next-publication");
    let dir = tempfile::tempdir().unwrap();
    let device = device(dir.path(), &case);
    let good = Memory::of(&case.join("good"));
    poll(&device, good.clone()).unwrap();
    // The same files, a year on: a freeze. And the clock that steps back does not matter.
    let frozen = poll_at(&device, good.clone(), 365 * 86_400).unwrap_err();
    assert_eq!(frozen.kind, Kind::Expired, "{frozen}");
    assert!(frozen.reason.contains("expired on"), "{frozen}");
    assert_eq!(whole(&device).unwrap().epoch, 3);
    let polled = poll_at(&device, good, -30 * 86_400).unwrap();
    assert!(!polled.news);
}

#[test]
fn a_damaged_file_is_fetched_again_and_a_damaged_trust_is_not_begun_anew() {
    let case = repositories::case("next-publication");
    let dir = tempfile::tempdir().unwrap();
    let device = device(dir.path(), &case);
    let good = Memory::of(&case.join("good"));
    poll(&device, good.clone()).unwrap();
    let installed = whole(&device).unwrap();
    let file = installed.modules[0].digest.strip_prefix("sha256:").unwrap();
    let path = dir.path().join("deploy/files").join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(device.read(&installed.modules[0].digest).unwrap(), None);
    poll(&device, good.clone()).unwrap();
    whole(&device).unwrap();

    // What only says what is here is set aside, and made anew by the next look.
    let channel = dir.path().join("deploy/channel.json");
    for damage in ["{\"format\": 1, \"epoch\"", "{\"format\": 2}"] {
        fs::write(&channel, damage).unwrap();
        assert_eq!(device.newest().unwrap(), None);
        let aside = channel.with_extension("damaged");
        assert_eq!(fs::read_to_string(aside).unwrap(), damage);
        let polled = poll(&device, good.clone()).unwrap();
        assert!(polled.news && polled.bytes == 0, "{polled:?}");
        assert_eq!(whole(&device).unwrap(), installed);
    }

    let trust = dir.path().join("deploy/trust.json");
    let text = fs::read_to_string(&trust).unwrap();
    fs::write(&trust, &text[..text.len() / 2]).unwrap();
    let refusal = poll(&device, good.clone()).unwrap_err();
    assert_eq!(refusal.kind, Kind::Local, "{refusal}");
    assert!(refusal.to_string().contains("move it away"), "{refusal}");
    fs::remove_file(&trust).unwrap();
    poll(&device, good).unwrap();
}
