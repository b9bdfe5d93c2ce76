//! Sources: what takes messages in and acknowledges them after they are committed.
//!
//! A source is a future that owns its connection and a [`SourceHandle`] that the rest of the daemon holds. Messages
//! leave through a bounded channel, each with a [`Permit`] for the bytes it occupies; acknowledgements come back
//! through the handle, from any thread, without waiting. Nothing here spawns a task.

mod acks;
mod bus;
mod modbus;
mod mqtt;
mod polled;
pub mod probe;
mod serial;
mod source;
mod sysfs;

#[cfg(test)]
#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

/// The functions of the targets in `tests/fuzz`.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz {
    pub use crate::modbus::fuzz::{answers_rtu, answers_tcp};
    pub use crate::mqtt::fuzz::packets;
    pub use crate::serial::fuzz::frames;
}

pub use bus::{BusFault, LinuxI2c, LinuxPin, LinuxSpi, LinuxUart, PinBias};
pub use modbus::{
    Decoded, Kind, Link, ModbusConfig, ModbusLine, ModbusSource, Order, Point, Read, ReadGroup,
    Session, SessionError, Table, WriteError, modbus,
};
pub use mqtt::{
    ConfigError, Credentials, MqttConfig, MqttSource, Property, Qos, RECEIVE_MAXIMUM, Subscription,
    Transport, Version, mqtt,
};
pub use polled::{Answer, Asks, PolledConfig, PolledSource, polled};
pub use serial::{
    Checksum, Covers, ENVELOPE_BYTES, Envelope, Escape, Flow, Framing, LineSettings, Parity, Port,
    Query, Rs485, SerialConfig, SerialSource, Width, serial,
};
pub use source::{
    Occurrence, Permit, Received, SlaveStatus, SourceError, SourceEvent, SourceHandle, SourceState,
    SourceStatus,
};
pub use sysfs::{SysfsKind, SysfsReader};
