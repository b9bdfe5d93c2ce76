//! Frames that end where a delimiter stands.

use super::{Escape, Garbage, Made, TOO_LONG, cobs, slip};

/// Reads up to a delimiter, and takes off what stands for something else in between.
pub(super) struct Delimited {
    kind: Kind,
    /// Of the frame begun, as it stands on the line.
    raw: Vec<u8>,
    /// Bytes at the end of `raw` that no escape has changed the meaning of.
    plain: usize,
    escaped: bool,
    /// The frame begun is too long: what comes up to the delimiter is garbage.
    overlong: bool,
    most: usize,
    most_raw: usize,
}

enum Kind {
    Lines,
    Delimiter(Vec<u8>, Option<Escape>),
    Slip,
    Cobs,
}

impl Delimited {
    fn of(kind: Kind, most: usize, most_raw: usize) -> Self {
        Self {
            kind,
            raw: Vec::new(),
            plain: 0,
            escaped: false,
            overlong: false,
            most,
            most_raw,
        }
    }

    pub(super) fn lines(most: usize) -> Self {
        Self::of(Kind::Lines, most, most)
    }

    pub(super) fn new(delimiter: &[u8], escape: Option<Escape>, most: usize) -> Self {
        let most_raw = if escape.is_some() { 2 * most } else { most };
        Self::of(
            Kind::Delimiter(delimiter.to_vec(), escape),
            most,
            most_raw + delimiter.len(),
        )
    }

    pub(super) fn slip(most: usize) -> Self {
        Self::of(Kind::Slip, most, 2 * most)
    }

    pub(super) fn cobs(most: usize) -> Self {
        Self::of(Kind::Cobs, most, cobs::longest(most))
    }

    pub(super) fn push(&mut self, byte: u8, garbage: &mut Garbage) -> Made {
        let ended = match &self.kind {
            Kind::Lines => matches!(byte, b'\n' | b'\r'),
            Kind::Slip => byte == slip::END,
            Kind::Cobs => byte == 0,
            Kind::Delimiter(delimiter, escape) => {
                self.raw.push(byte);
                if self.escaped {
                    self.escaped = false;
                    self.plain = 0;
                } else if escape.is_some_and(|escape| escape.byte == byte) {
                    self.escaped = true;
                    self.plain = 0;
                } else {
                    self.plain += 1;
                }
                let ended = self.plain >= delimiter.len() && self.raw.ends_with(delimiter);
                if ended {
                    self.raw.truncate(self.raw.len() - delimiter.len());
                } else {
                    self.bound(garbage);
                    return None;
                }
                true
            }
        };
        if !ended {
            self.raw.push(byte);
            self.bound(garbage);
            return None;
        }
        let overlong = self.overlong;
        let raw = self.take();
        if overlong {
            garbage.add(&raw, TOO_LONG);
            return None;
        }
        let decoded = match &self.kind {
            Kind::Lines | Kind::Delimiter(_, None) => return Some(raw),
            Kind::Delimiter(_, Some(escape)) => Ok(unescaped(&raw, *escape)),
            Kind::Slip => slip::decode(&raw).ok_or("an escape of SLIP has none of its two codes"),
            Kind::Cobs => cobs::decode(&raw).ok_or("a code of COBS points beyond its frame"),
        };
        match decoded {
            Ok(frame) if frame.len() <= self.most => Some(frame),
            Ok(_) => {
                garbage.add(&raw, TOO_LONG);
                None
            }
            Err(why) => {
                garbage.add(&raw, why);
                None
            }
        }
    }

    /// Gives up a frame that is too long, but for its last bytes, in which a delimiter may have begun.
    fn bound(&mut self, garbage: &mut Garbage) {
        if self.raw.len() <= self.most_raw && !self.overlong {
            return;
        }
        self.overlong = true;
        let kept = match &self.kind {
            Kind::Delimiter(delimiter, _) => delimiter.len() - 1,
            Kind::Lines | Kind::Slip | Kind::Cobs => 0,
        };
        let given_up = self.raw.len().saturating_sub(kept);
        garbage.add(&self.raw[..given_up], TOO_LONG);
        self.raw.drain(..given_up);
    }

    /// What is begun; the next byte begins a frame.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.plain = 0;
        self.escaped = false;
        self.overlong = false;
        std::mem::take(&mut self.raw)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.raw.len()
    }
}

fn unescaped(raw: &[u8], escape: Escape) -> Vec<u8> {
    let mut frame = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        if byte == escape.byte {
            frame.extend(bytes.next().map(|byte| byte ^ escape.xor));
        } else {
            frame.push(byte);
        }
    }
    frame
}
