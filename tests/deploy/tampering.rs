//! One bit of one byte, in each file that a look reads.

use std::collections::BTreeMap;
use std::fs;

use tidegate_deploy::Device;

use crate::memory::{Memory, copy, device, poll, whole};
use crate::repositories;

/// Bytes of each class that are flipped in each file.
const EACH: usize = 8;

/// What a byte is to those who read the file.
fn class(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => b'0',
        b'a'..=b'f' => b'a',
        b'g'..=b'z' => b'z',
        b'A'..=b'Z' => b'A',
        other => other,
    }
}

/// So many places of every class, spread over the file.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut classes: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for (at, byte) in bytes.iter().enumerate() {
        classes.entry(class(*byte)).or_default().push(at);
    }
    // A component has all 256: of every third one place.
    let (each, step) = if classes.len() > 64 {
        (1, 3)
    } else {
        (EACH, 1)
    };
    let spread = |all: Vec<usize>| {
        let step = (all.len() / each).max(1);
        all.into_iter().step_by(step).take(each).collect::<Vec<_>>()
    };
    classes
        .into_values()
        .step_by(step)
        .flat_map(spread)
        .collect()
}

#[test]
fn no_byte_of_any_file_can_be_changed() {
    let mut tampered = 0;
    for name in ["next-publication-with-hashes", "root-rotation"] {
        let case = repositories::case(name);
        // In memory, where there is room: a sync of the disk for each of a thousand tells nothing.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let primed = dir.path().join("primed");
        fs::create_dir(&primed).unwrap();
        poll(&device(&primed, &case), Memory::of(&case.join("good"))).unwrap();
        let then = Memory::of(&case.join("then"));
        // Only what is read can be believed: files of former publications are not.
        let read = |file: &str, bytes: &[u8]| {
            let metadata = ["4.", "timestamp", "2.root", "3.root"];
            let metadata = metadata
                .iter()
                .any(|part| file.starts_with(&format!("metadata/{part}")));
            let newest = bytes.windows(5).any(|part| part == b"1.3.0");
            metadata || file.contains(".1.3.0.") || (file.contains("channels/") && newest)
        };
        for (file, bytes) in then.files.iter().filter(|(file, bytes)| read(file, bytes)) {
            for at in places(bytes) {
                // One bit of the eight, another at each place.
                let bit = at % 8;
                let mut hostile = then.clone();
                hostile.files.get_mut(file).unwrap()[at] ^= 1 << bit;
                let site = dir.path().join("site");
                copy(&primed, &site);
                let what = format!("{name}/{file}[{at}] bit {bit}");
                check(&device(&site, &case), hostile, &what);
                fs::remove_dir_all(&site).unwrap();
                tampered += 1;
            }
        }
    }
    println!("{tampered} tamperings, none accepted");
    assert!(tampered >= 1000, "{tampered}");
}

fn check(device: &Device, hostile: Memory, what: &str) {
    let before = whole(device);
    match poll(device, hostile) {
        Ok(polled) => panic!("{what}: taken, epoch {}", polled.epoch),
        Err(refusal) => assert!(!refusal.reason.is_empty(), "{what}: {refusal}"),
    }
    assert_eq!(whole(device), before, "{what}");
}
