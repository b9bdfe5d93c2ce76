//! Sources: what takes messages in and acknowledges them after they are committed.
//!
//! A source is a future that owns its connection and a [`SourceHandle`] that the rest of the daemon holds. Messages
//! leave through a bounded channel, each with a [`Permit`] for the bytes it occupies; acknowledgements come back
//! through the handle, from any thread, without waiting. Nothing here spawns a task.

mod acks;
mod mqtt;
mod source;

#[cfg(any(test, feature = "fuzzing"))]
pub use mqtt::fuzz;
pub use mqtt::{
    ConfigError, Credentials, MqttConfig, MqttSource, Property, Qos, RECEIVE_MAXIMUM, Subscription,
    Transport, Version, mqtt,
};
pub use source::{
    Occurrence, Permit, Received, SourceError, SourceEvent, SourceHandle, SourceState, SourceStatus,
};
