//! The kept corpus through a fuzz target's own function, on any compiler: part of `make test`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// No input may take longer, whatever the machine.
const HANG: Duration = Duration::from_secs(30);

/// Every file of `tests/fuzz/corpus/<target>`, in the order of their names.
pub(crate) fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let folder = root
        .map(|above| above.join("tests/fuzz/corpus").join(target))
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| panic!("tests/fuzz/corpus/{target} is missing"));
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Sends them through the target. Some have to come to something and some to nothing: a corpus of rubbish proves little.
pub(crate) fn replay(name: &str, target: fn(&[u8]) -> bool) {
    let mut sound = 0;
    let files = corpus(name);
    for (file, input) in &files {
        let began = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(came) => sound += usize::from(came),
            Err(_) => panic!("{file} does harm"),
        }
        assert!(began.elapsed() < HANG, "{file} takes {:?}", began.elapsed());
    }
    assert!(
        sound > 0 && sound < files.len(),
        "{name}: {sound} of {}",
        files.len()
    );
}
