//! A power cut at a chosen step, for the tests that prove that the next start goes on from there. Nothing in a release.

#[cfg(not(feature = "test-faults"))]
mod off {
    use std::fs::File;
    use std::io;

    #[expect(clippy::unnecessary_wraps, reason = "the tests' one fails")]
    pub(crate) fn step() -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the tests' one fails")]
    pub(crate) fn torn(_file: &mut File, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn opened(_file: &File) {}

    pub(crate) fn synced(_file: &File) {}
}

#[cfg(feature = "test-faults")]
mod on {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::unix::fs::MetadataExt;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        /// The write in which the power went is over.
        static GONE: Cell<bool> = const { Cell::new(false) };
        /// Bytes of each file, by its inode, that a power cut leaves.
        static SYNCED: RefCell<BTreeMap<u64, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// On this thread, the power goes after so many steps, and stays away; `None` brings it back. What had not been used
    /// up is returned.
    pub fn cut_after(steps: Option<u64>) -> Option<u64> {
        GONE.set(false);
        if steps.is_some() {
            SYNCED.take();
        }
        LEFT.replace(steps)
    }

    pub(crate) fn step() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    /// A file was opened. One that is empty may have the inode of one that is gone.
    pub(crate) fn opened(file: &File) {
        if file.metadata().is_ok_and(|found| found.len() == 0) {
            synced(file);
        }
    }

    /// A file's sync has come back.
    pub(crate) fn synced(file: &File) {
        if let Ok(found) = file.metadata() {
            SYNCED.with_borrow_mut(|synced| synced.insert(found.ino(), found.len()));
        }
    }

    /// Bytes of a file that a power cut leaves since [`cut_after`].
    #[cfg(test)]
    pub(crate) fn synced_bytes(file: &File) -> u64 {
        let inode = file.metadata().map_or(0, |found| found.ino());
        SYNCED.with_borrow(|synced| synced.get(&inode).copied().unwrap_or_default())
    }

    /// A write in which the power goes leaves its first half.
    pub(crate) fn torn(file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let gone = step();
        if gone.is_err() && !GONE.replace(true) {
            file.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        }
        gone
    }
}

#[cfg(not(feature = "test-faults"))]
pub(crate) use off::{opened, step, synced, torn};
#[cfg(feature = "test-faults")]
pub use on::cut_after;
#[cfg(all(feature = "test-faults", test))]
pub(crate) use on::synced_bytes;
#[cfg(feature = "test-faults")]
pub(crate) use on::{opened, step, synced, torn};
