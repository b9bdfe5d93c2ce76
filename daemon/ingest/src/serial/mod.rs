//! Serial lines as a source.
//!
//! The kernel's terminals are spoken to here and not by a library: what a source needs of one is to open it, to set it and to
//! wait for it, and two of the calls, RS-485 and the counts of line errors, no library has. `framing` is pure, `sys` is the
//! one module with system calls, `line` is an open device, `source` serves it and decides when to open it again.

mod config;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod line;
mod source;
mod sys;

pub use config::{Flow, LineSettings, Parity, Port, Query, Rs485, SerialConfig};
pub use framing::{Checksum, Covers, ENVELOPE_BYTES, Envelope, Escape, Framing, Width};
pub(crate) use line::{Line, LineError, open as open_device};
pub use source::{SerialSource, serial};
pub(crate) use sys::watch;
