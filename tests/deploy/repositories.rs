//! The repositories of `tests/hostile_repositories/make.py`, made once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder with a folder for each case.
pub(crate) fn made() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ready = Command::new(top.join("tests/tuf.sh")).output().unwrap();
        let words = String::from_utf8_lossy(&ready.stderr);
        assert!(ready.status.success(), "tests/tuf.sh: {words}");
        let python = top.join("target/tuf/bin/python");
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(python)
            .arg(top.join("tests/hostile_repositories/make.py"))
            .arg(dir.path())
            .arg(top.join("modules/target/components/range.wasm"))
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "make.py: {words}");
        dir
    })
    .path()
}

/// The folder of one case.
pub(crate) fn case(name: &str) -> PathBuf {
    let dir = made().join(name);
    assert!(dir.is_dir(), "make.py makes no case {name}");
    dir
}
