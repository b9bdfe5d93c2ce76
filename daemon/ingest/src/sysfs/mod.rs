//! Sensors that the kernel reads itself: Industrial I/O (`/sys/bus/iio/devices`) and hwmon (`/sys/class/hwmon`), as files.
//!
//! Which files mean which channel is told by their names alone (`iio.rs`, `hwmon.rs`, pure); `tree.rs` finds devices that come
//! and go, and reads.

mod channel;
mod hwmon;
mod iio;
mod tree;

pub use tree::{SysfsKind, SysfsReader};
