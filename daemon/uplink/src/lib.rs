//! The way up: sealed messages out of the outbox to a broker over MQTT, and what the broker said back to the store.
//!
//! One [`MqttUplink`] is one task with an MQTT client of its own. What to do is decided by the pure machine
//! [`tidegate_domain::delivery::Delivery`]; this crate gives it a connection (`link`), a clock, the outbox
//! ([`Outbox`]) and the store's inbox. The outbox is the only queue: no message is kept here beyond the window that is
//! in flight, and an outage of any length costs nothing but the attempts to connect.

mod commands;
mod config;
mod due;
mod link;
mod outbox;
pub mod payload;
mod status;
#[cfg(test)]
mod tests;
mod uplink;

pub use commands::IncomingCommand;
pub use config::{
    Broker, ConfigError, Credentials, MqttUplinkConfig, Reconnect, Transport, Version,
    default_window,
};
pub use outbox::{Outbox, OutboxError};
pub use status::{Circuit, LinkState, Status, StatusState, UplinkStatus};
pub use tidegate_domain::delivery::Window;
pub use uplink::{MqttUplink, UplinkError, UplinkHandle, mqtt};
