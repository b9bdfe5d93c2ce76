//! Frames between a start and an end byte, with a checksum behind.

use std::collections::VecDeque;

use super::{Covers, ENVELOPE_BYTES, Envelope, Garbage, Made, TOO_LONG};

/// Reads from a start byte through the checksum. What cannot be right is given up byte by byte: the frame behind a damaged
/// one begins where its start byte stands, also inside what was taken for the damaged one.
pub(super) struct Checked {
    envelope: Envelope,
    most: usize,
    /// From the start byte on; empty while none has come.
    raw: Vec<u8>,
    /// Where the end byte stands in `raw`.
    end: Option<usize>,
    escaped: bool,
}

impl Checked {
    pub(super) fn new(envelope: Envelope, most: usize) -> Self {
        Self {
            envelope,
            most: most.min(ENVELOPE_BYTES),
            raw: Vec::new(),
            end: None,
            escaped: false,
        }
    }

    pub(super) fn push(&mut self, byte: u8, garbage: &mut Garbage) -> Made {
        // What is looked at again after a frame was given up. No frame can come of it before its last byte.
        let mut again = VecDeque::from([byte]);
        let mut made = None;
        while let Some(byte) = again.pop_front() {
            match self.step(byte, garbage) {
                Step::More => {}
                Step::Frame(frame) => made = Some(frame),
                Step::GiveUp(why) => {
                    let raw = self.take();
                    garbage.add(&raw[..1], why);
                    for byte in raw[1..].iter().rev() {
                        again.push_front(*byte);
                    }
                }
            }
        }
        made
    }

    fn step(&mut self, byte: u8, garbage: &mut Garbage) -> Step {
        let envelope = self.envelope;
        if let Some(end) = self.end {
            self.raw.push(byte);
            return self.finished(end);
        }
        if self.escaped {
            self.escaped = false;
        } else if envelope.escape == Some(byte) && !self.raw.is_empty() {
            self.escaped = true;
        } else if byte == envelope.start {
            garbage.add(
                &self.raw,
                "a frame begins before the end of the one before it",
            );
            self.raw.clear();
            self.raw.push(byte);
            return Step::More;
        } else if byte == envelope.end && !self.raw.is_empty() {
            let end = self.raw.len();
            self.raw.push(byte);
            self.end = Some(end);
            return self.finished(end);
        }
        if self.raw.is_empty() {
            // Many devices end a frame with a line's end on top of it.
            if !matches!(byte, b'\r' | b'\n') {
                garbage.add(&[byte], "it stands outside of any frame");
            }
            return Step::More;
        }
        self.raw.push(byte);
        let most = if envelope.escape.is_some() {
            2 * self.most
        } else {
            self.most
        };
        if self.raw.len() > 1 + most {
            garbage.add(&self.raw, TOO_LONG);
            self.raw.clear();
        }
        Step::More
    }

    /// What is there once the end byte is.
    fn finished(&mut self, end: usize) -> Step {
        let envelope = self.envelope;
        let width = envelope.checksum.width() * if envelope.hex { 2 } else { 1 };
        if self.raw.len() < end + 1 + width {
            return Step::More;
        }
        let covered = match envelope.covers {
            Covers::Data => &self.raw[1..end],
            Covers::DataEnd => &self.raw[1..=end],
            Covers::All => &self.raw[..=end],
        };
        if written(&envelope, &self.raw[end + 1..]) != Some(envelope.checksum.of(covered)) {
            return Step::GiveUp("the checksum is wrong");
        }
        let mut frame = Vec::with_capacity(end);
        let mut bytes = self.raw[1..end].iter();
        while let Some(&byte) = bytes.next() {
            if envelope.escape == Some(byte) {
                frame.extend(bytes.next());
            } else {
                frame.push(byte);
            }
        }
        if frame.len() > self.most {
            return Step::GiveUp(TOO_LONG);
        }
        self.take();
        Step::Frame(frame)
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.end = None;
        self.escaped = false;
        std::mem::take(&mut self.raw)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.raw.len()
    }
}

enum Step {
    More,
    Frame(Vec<u8>),
    /// The first byte of what is there began no frame; the rest is looked at again.
    GiveUp(&'static str),
}

/// The checksum as it is written; `None` where that is no number.
fn written(envelope: &Envelope, bytes: &[u8]) -> Option<u32> {
    let mut value: Vec<u8> = if envelope.hex {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pair = |pair: &[u8]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
        bytes.chunks_exact(2).map(pair).collect::<Option<_>>()?
    } else {
        bytes.to_vec()
    };
    if !envelope.big_endian {
        value.reverse();
    }
    Some(
        value
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
    )
}
