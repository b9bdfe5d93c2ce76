//! The size of a store, looked at all the time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Samples the size of database and write-ahead log every millisecond, on a thread of its own.
pub(crate) struct Sizes {
    ended: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Sizes {
    pub(crate) fn watch(database: &Path) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let (until, highest) = (Arc::clone(&ended), Arc::clone(&peak));
        let log = format!("{}-wal", database.display());
        let files = [database.to_owned(), log.into()];
        let thread = thread::spawn(move || {
            // A file that is not there yet has no size.
            let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
            while !until.load(Ordering::Relaxed) {
                highest.fetch_max(files.iter().map(size).sum(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            ended,
            peak,
            thread,
        }
    }

    /// The largest sample.
    pub(crate) fn end(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.peak.load(Ordering::Relaxed)
    }
}
