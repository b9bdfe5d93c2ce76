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
}

#[cfg(feature = "test-faults")]
mod on {
    use std::cell::Cell;
    use std::fs::File;
    use std::io::{self, Write};

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        /// The write in which the power went is over.
        static GONE: Cell<bool> = const { Cell::new(false) };
    }

    /// On this thread, the power goes after so many steps, and stays away; `None` brings it back. What had not been used
    /// up is returned.
    pub fn cut_after(steps: Option<u64>) -> Option<u64> {
        GONE.set(false);
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
pub(crate) use off::{step, torn};
#[cfg(feature = "test-faults")]
pub use on::cut_after;
#[cfg(feature = "test-faults")]
pub(crate) use on::{step, torn};
