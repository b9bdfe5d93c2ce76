//! What comes from outside, turned over: one function a target, for libFuzzer (`tests/fuzz`), for the corpus that it left
//! (`make test` replays it) and for seeded mutations of that (`tests/fuzz.rs`).
//!
//! Each takes any bytes. It panics where something is wrong with us, and is true where the input came to something, so
//! that a test can tell a corpus that gets in from one that is refused at the door.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a panic is a finding"
)]

mod guests;
mod shapes;

#[cfg(test)]
pub(crate) use guests::caller;
pub use guests::{answers, compile_if_asked, decodings, host_calls};
pub use shapes::{batches, manifest, outputs, payloads};

/// A target.
pub type Target = fn(&[u8]) -> bool;

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("answers", answers),
    ("batches", batches),
    ("decodings", decodings),
    ("host-calls", host_calls),
    ("manifest", manifest),
    ("outputs", outputs),
    ("payloads", payloads),
];

/// Bytes as a source of choices; zeros when they are used up.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, width: usize) -> u64 {
        let mut number = [0; 8];
        let bytes = self.bytes(width);
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    fn byte(&mut self) -> u8 {
        self.number(1).to_le_bytes()[0]
    }

    /// Below a bound, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// Seldom: a number that would be out of place almost anywhere.
    fn or_odd(&mut self, usual: u32) -> u32 {
        match self.byte() {
            0xF0..=0xFE => u32::from(self.byte()),
            0xFF => u32::MAX,
            _ => usual,
        }
    }

    /// A text of a few characters, or seldom one of an odd length.
    fn text(&mut self) -> String {
        let length = match self.byte() {
            0xFF => 600,
            0xFE => 17 * 1024,
            length => {
                return String::from_utf8_lossy(self.bytes(usize::from(length % 8))).into_owned();
            }
        };
        "x".repeat(length)
    }
}

#[cfg(test)]
#[path = "../../../../tests/fuzz/replay.rs"]
pub(crate) mod replay;

#[cfg(test)]
#[test]
fn the_corpus_of_every_target() {
    for (name, target) in TARGETS {
        replay::replay(name, target);
    }
}
