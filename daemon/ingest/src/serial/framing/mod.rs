//! Where a frame begins and ends in a stream of bytes: pure, without a port and without a clock.
//!
//! | kind | a frame is |
//! |---|---|
//! | lines | what stands before a line feed, a carriage return or both |
//! | fixed | so many bytes |
//! | length | what follows a length of 8, 16 or 32 bits |
//! | delimiter | what stands before a delimiter that no escape precedes |
//! | SLIP | RFC 1055: what stands between two END |
//! | COBS | Cheshire and Baker 1999: what stands before a zero, without the bytes that replace zeros in it |
//! | idle gap | what comes without a pause |
//! | STX/ETX | what stands between a start and an end byte, with a checksum behind |
//!
//! What belongs to no frame is garbage. It is handed over too, with its bytes, in pieces of at most [`GARBAGE_BYTES`], each at
//! the latest before the next frame. Frames and garbage depend on the bytes and on where the line was silent, never on the
//! pieces that the bytes come in. Empty frames say nothing and are passed over.

mod checked;
mod checksum;
mod cobs;
mod counted;
mod delimited;
mod slip;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

pub use checksum::Checksum;

use checked::Checked;
use counted::{Fixed, Gap, Prefixed};
use delimited::Delimited;

/// Bytes of garbage that are handed over together. More follows in further pieces.
pub(crate) const GARBAGE_BYTES: usize = 4096;

/// How a stream is cut into frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// What stands before `\n`, `\r` or both.
    Lines,
    /// Frames of one length. A pause begins a new one.
    Fixed {
        /// Bytes of a frame, at least one.
        length: usize,
    },
    /// A length and then so many bytes. A pause begins a new frame.
    Length {
        /// How wide the length is.
        width: Width,
        /// Whether its most significant byte comes first.
        big_endian: bool,
    },
    /// What stands before a delimiter.
    Delimiter {
        /// One byte or several.
        delimiter: Vec<u8>,
        /// After it a byte means itself.
        escape: Option<Escape>,
    },
    /// RFC 1055.
    Slip,
    /// Consistent overhead byte stuffing, frames ended by a zero.
    Cobs,
    /// What comes without a pause.
    IdleGap,
    /// Between a start and an end byte, with a checksum behind.
    StxEtx(Envelope),
}

/// How wide a length is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Bits8,
    /// Two bytes.
    Bits16,
    /// Four bytes.
    Bits32,
}

/// A byte after which the next one means itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape {
    /// The byte.
    pub byte: u8,
    /// What the byte after it is combined with by XOR: 0x20 in HDLC, 0 where it stands as it is.
    pub xor: u8,
}

/// What surrounds a frame of [`Framing::StxEtx`]. Start and end do not occur in the data, but behind an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// STX.
    pub start: u8,
    /// ETX.
    pub end: u8,
    /// DLE, where the protocol has it: the byte after it means itself.
    pub escape: Option<u8>,
    /// What follows the end byte.
    pub checksum: Checksum,
    /// Which bytes it is computed over, as they stand on the line.
    pub covers: Covers,
    /// Whether its most significant byte comes first.
    pub big_endian: bool,
    /// Whether it is written as hexadecimal digits.
    pub hex: bool,
}

/// Which bytes a checksum is computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// What stands between start and end.
    Data,
    /// That and the end byte.
    DataEnd,
    /// Start, data and end.
    All,
}

/// What came out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A frame, without what surrounded it.
    Frame(Bytes),
    /// Bytes that belong to no frame.
    Garbage {
        /// The bytes.
        bytes: Bytes,
        /// What was wrong with the last of them.
        why: &'static str,
    },
}

/// Bytes of the longest frame of [`Framing::StxEtx`], whatever is asked for: what is looked at again behind a damaged frame
/// grows with the square of it.
pub const ENVELOPE_BYTES: usize = 8192;

/// Cuts one stream into frames.
pub(crate) struct Framer {
    machine: Machine,
    /// Silence that ends a frame or what was begun of one.
    pause: Option<Duration>,
    garbage: Garbage,
    /// What comes is the rest of something until a frame ends.
    cut: bool,
}

enum Machine {
    Delimited(Delimited),
    Fixed(Fixed),
    Prefixed(Prefixed),
    Checked(Checked),
    Gap(Gap),
}

/// What a machine makes of a byte.
type Made = Option<Vec<u8>>;

impl Framer {
    /// `most`: bytes of the longest frame, at least one; what would be longer is garbage. `pause`: the silence that ends a
    /// frame of [`Framing::IdleGap`], and what is begun of any other; without it a begun frame waits for ever.
    #[must_use]
    pub(crate) fn new(framing: &Framing, most: usize, pause: Option<Duration>) -> Self {
        let most = most.max(1);
        let machine = match framing {
            Framing::Lines => Machine::Delimited(Delimited::lines(most)),
            Framing::Delimiter { delimiter, escape } => {
                Machine::Delimited(Delimited::new(delimiter, *escape, most))
            }
            Framing::Slip => Machine::Delimited(Delimited::slip(most)),
            Framing::Cobs => Machine::Delimited(Delimited::cobs(most)),
            Framing::Fixed { length } => Machine::Fixed(Fixed::new((*length).clamp(1, most))),
            Framing::Length { width, big_endian } => {
                Machine::Prefixed(Prefixed::new(*width, *big_endian, most))
            }
            Framing::StxEtx(envelope) => Machine::Checked(Checked::new(*envelope, most)),
            Framing::IdleGap => Machine::Gap(Gap::new(most)),
        };
        Self {
            machine,
            pause,
            garbage: Garbage::default(),
            cut: false,
        }
    }

    /// The line was opened in the middle of what somebody sends: what ends first is the rest of a frame, and garbage. Where the
    /// start of a frame can be told, it is waited for anyway.
    pub(crate) fn begin_cut(&mut self) {
        self.cut = match self.machine {
            Machine::Checked(_) => false,
            Machine::Delimited(_) | Machine::Fixed(_) | Machine::Prefixed(_) | Machine::Gap(_) => {
                true
            }
        };
    }

    /// The silence after which [`Framer::silence`] has to be called.
    #[must_use]
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.pause
    }

    /// Takes bytes in, and hands over what they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], heard: &mut dyn FnMut(Heard)) {
        for &byte in bytes {
            let held = self.garbage.bytes.len();
            let mut made = match &mut self.machine {
                Machine::Delimited(machine) => machine.push(byte, &mut self.garbage),
                Machine::Fixed(machine) => machine.push(byte),
                Machine::Prefixed(machine) => machine.push(byte, &mut self.garbage),
                Machine::Checked(machine) => machine.push(byte, &mut self.garbage),
                Machine::Gap(machine) => {
                    machine.push(byte, &mut self.garbage);
                    None
                }
            };
            if self.cut {
                // A delimiter behind what cannot be decoded ends it as well.
                let delimited = matches!(self.machine, Machine::Delimited(_));
                let ended = delimited && self.garbage.bytes.len() > held;
                made = self.without_rest(made, ended);
            }
            self.garbage.hand_over(heard, made.is_some());
            if let Some(frame) = made.filter(|frame| !frame.is_empty()) {
                heard(Heard::Frame(frame.into()));
            }
        }
    }

    /// The line has been silent for [`Framer::pause`].
    pub(crate) fn silence(&mut self, heard: &mut dyn FnMut(Heard)) {
        if let Machine::Gap(machine) = &mut self.machine {
            let frame = machine.silence(&mut self.garbage);
            let frame = self.without_rest(frame, false);
            self.garbage.hand_over(heard, true);
            if let Some(frame) = frame.filter(|frame| !frame.is_empty()) {
                heard(Heard::Frame(frame.into()));
            }
            return;
        }
        self.begin_anew("the line fell silent in the middle of a frame");
        self.garbage.hand_over(heard, true);
    }

    /// Hands over garbage that waits for company. What is begun of a frame stays.
    pub(crate) fn flush(&mut self, heard: &mut dyn FnMut(Heard)) {
        self.garbage.hand_over(heard, true);
    }

    /// The line is gone: what was begun is garbage. The next byte begins a frame.
    pub(crate) fn end(&mut self, heard: &mut dyn FnMut(Heard)) {
        self.begin_anew("the line ended in the middle of a frame");
        self.garbage.hand_over(heard, true);
    }

    /// Bytes that it holds.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        let begun = match &self.machine {
            Machine::Delimited(machine) => machine.held(),
            Machine::Fixed(machine) => machine.held(),
            Machine::Prefixed(machine) => machine.held(),
            Machine::Checked(machine) => machine.held(),
            Machine::Gap(machine) => machine.held(),
        };
        begun + self.garbage.bytes.len()
    }

    /// What a machine made, unless it is the rest of a frame whose beginning nobody heard.
    fn without_rest(&mut self, made: Made, ended: bool) -> Made {
        if !self.cut {
            return made;
        }
        self.cut = !(ended || made.is_some());
        self.garbage.add(&made?, CUT);
        None
    }

    fn begin_anew(&mut self, why: &'static str) {
        self.cut = false;
        let begun = match &mut self.machine {
            Machine::Delimited(machine) => machine.take(),
            Machine::Fixed(machine) => machine.take(),
            Machine::Prefixed(machine) => machine.take(),
            Machine::Checked(machine) => machine.take(),
            Machine::Gap(machine) => machine.take(),
        };
        self.garbage.add(&begun, why);
    }
}

const CUT: &str = "the line was opened in the middle of a frame";
const TOO_LONG: &str = "no frame ends within the longest one";

/// Bytes of no frame, until they are handed over.
#[derive(Default)]
struct Garbage {
    bytes: Vec<u8>,
    why: &'static str,
}

impl Garbage {
    fn add(&mut self, bytes: &[u8], why: &'static str) {
        if !bytes.is_empty() {
            self.bytes.extend_from_slice(bytes);
            self.why = why;
        }
    }

    /// Hands over whole pieces, and the rest where a frame follows.
    fn hand_over(&mut self, heard: &mut dyn FnMut(Heard), all: bool) {
        while self.bytes.len() >= GARBAGE_BYTES || all && !self.bytes.is_empty() {
            let rest = self.bytes.split_off(self.bytes.len().min(GARBAGE_BYTES));
            let bytes = std::mem::replace(&mut self.bytes, rest).into();
            heard(Heard::Garbage {
                bytes,
                why: self.why,
            });
        }
    }
}
