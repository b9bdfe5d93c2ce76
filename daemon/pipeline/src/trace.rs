//! Where in a component's code something happened, in words that its publisher can turn into file and line.
//!
//! Components in use have no names and no debug information. What stays the same in the publisher's debug file is the
//! contents of the code sections, and DWARF counts from their beginning
//! (<https://yurydelendik.github.io/webassembly-dwarf/>).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use wasmparser::{Encoding, Payload};
use wasmtime::WasmBacktrace;

/// Functions of a backtrace that are named.
const FRAMES: usize = 4;

/// A place in a component's code, written `0x1a2b`, or `1:0x1a2b` in another core module than the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePlace {
    /// Which of the component's core modules, counted from 0 in the order of the file.
    pub module: usize,
    /// Bytes from the beginning of the contents of its code section.
    pub offset: u64,
}

impl fmt::Display for CodePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.module > 0 {
            write!(f, "{}:", self.module)?;
        }
        write!(f, "{:#x}", self.offset)
    }
}

/// A text that is no [`CodePlace`].
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no place in a module's code; one is written as in the message of a trap: 0x1a2b, or 1:0x1a2b in a further core module"
)]
pub struct BadPlace(String);

impl FromStr for CodePlace {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (module, offset) = text.split_once(':').unwrap_or(("0", text));
        let read = || {
            Some(Self {
                module: module.parse().ok()?,
                offset: u64::from_str_radix(offset.strip_prefix("0x")?, 16).ok()?,
            })
        };
        read().ok_or_else(|| BadPlace(text.to_owned()))
    }
}

/// The code sections of a component's core modules, in the order of the file; empty for a module without code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CodeSections(Vec<Range<usize>>);

impl CodeSections {
    /// Takes note of a part of a component; to be called with all of them.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most of WebAssembly's many sections hold no code"
    )]
    pub(crate) fn note(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => self.0.push(0..0),
            Payload::CodeSectionStart { range, .. } => {
                if let Some(last) = self.0.last_mut() {
                    *last = range.clone();
                }
            }
            _ => {}
        }
    }

    /// What lies at a byte of the component's file.
    fn place(&self, at: usize) -> Option<CodePlace> {
        let module = self.0.iter().position(|range| range.contains(&at))?;
        Some(CodePlace {
            module,
            offset: (at - self.0[module].start) as u64,
        })
    }

    /// The innermost functions: by name where the component has one, else by number, and each with its place.
    pub(crate) fn describe(&self, backtrace: &WasmBacktrace) -> String {
        let frames = backtrace.frames().iter().take(FRAMES);
        let frames: Vec<String> = frames
            .map(|frame| {
                let name = match frame.func_name() {
                    Some(name) => name.to_owned(),
                    None => format!("function {}", frame.func_index()),
                };
                match frame.module_offset().and_then(|at| self.place(at)) {
                    Some(place) => format!("{name} at {place}"),
                    None => name,
                }
            })
            .collect();
        frames.join(", called by ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["0x0", "0x1a2b", "3:0xffff"] {
            assert_eq!(text.parse::<CodePlace>().unwrap().to_string(), text);
        }
        for text in ["", "12", "0x", "x:0x1", "1:", "0x1:1", "-1:0x1"] {
            let error = text.parse::<CodePlace>().unwrap_err().to_string();
            assert!(error.contains("0x1a2b"), "{error}");
        }
    }
}
