//! Frames whose length is known: always the same, written before them, or as much as comes without a pause.

use super::{Garbage, Made, TOO_LONG, Width};

/// Frames of one length.
pub(super) struct Fixed {
    length: usize,
    frame: Vec<u8>,
}

impl Fixed {
    pub(super) fn new(length: usize) -> Self {
        Self {
            length,
            frame: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, byte: u8) -> Made {
        self.frame.push(byte);
        (self.frame.len() == self.length).then(|| self.take())
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.frame.len()
    }
}

/// Frames behind their length.
pub(super) struct Prefixed {
    width: usize,
    big_endian: bool,
    most: usize,
    raw: Vec<u8>,
}

impl Prefixed {
    pub(super) fn new(width: Width, big_endian: bool, most: usize) -> Self {
        let width = match width {
            Width::Bits8 => 1,
            Width::Bits16 => 2,
            Width::Bits32 => 4,
        };
        Self {
            width,
            big_endian,
            most,
            raw: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, byte: u8, garbage: &mut Garbage) -> Made {
        self.raw.push(byte);
        let length = self.length()?;
        if length > self.most {
            // It cannot be a length: the next byte may begin one.
            garbage.add(&self.raw[..1], "the length is beyond the longest frame");
            self.raw.remove(0);
            return None;
        }
        if self.raw.len() < self.width + length {
            return None;
        }
        Some(self.take().split_off(self.width))
    }

    /// The length, once all of it is there.
    fn length(&self) -> Option<usize> {
        let prefix = self.raw.get(..self.width)?;
        let add = |length: usize, byte: &u8| length << 8 | usize::from(*byte);
        Some(if self.big_endian {
            prefix.iter().fold(0, add)
        } else {
            prefix.iter().rev().fold(0, add)
        })
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raw)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.raw.len()
    }
}

/// Frames between two pauses.
pub(super) struct Gap {
    most: usize,
    frame: Vec<u8>,
    /// What comes before the next pause is garbage.
    overlong: bool,
}

impl Gap {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            frame: Vec::new(),
            overlong: false,
        }
    }

    pub(super) fn push(&mut self, byte: u8, garbage: &mut Garbage) {
        self.frame.push(byte);
        if self.overlong || self.frame.len() > self.most {
            self.overlong = true;
            garbage.add(&self.frame, TOO_LONG);
            self.frame.clear();
        }
    }

    /// The frame that a pause has ended.
    pub(super) fn silence(&mut self, garbage: &mut Garbage) -> Made {
        if std::mem::take(&mut self.overlong) {
            garbage.add(&self.frame, TOO_LONG);
            self.frame.clear();
        }
        Some(self.take())
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.overlong = false;
        std::mem::take(&mut self.frame)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.frame.len()
    }
}
