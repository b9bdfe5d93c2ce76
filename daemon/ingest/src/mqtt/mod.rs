//! MQTT 3.1.1 and 5 as a source.
//!
//! The protocol is spoken here and not by a client library, because four promises need a hand on the wire:
//!
//! - Back pressure without losing the connection: while the pipeline is behind, nothing is read, yet PINGREQs and
//!   acknowledgements go out, so that the broker neither disconnects nor sends again.
//! - A payload of any length, and a topic that is no UTF-8, is handed over to be set aside. A client that ends the
//!   connection instead meets the same message again, for ever: the session is persistent.
//! - All acknowledgements of a commit leave in one write.
//! - A message costs no copy of its payload and no allocation for its topic.
//!
//! What a receiving client needs of the protocol is small: `packet` is all of it. `link` makes connections, `session` is
//! what one of them has to remember, `source` serves it and decides when to try again.

mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod intake;
mod link;
mod packet;
mod session;
mod source;
#[cfg(test)]
mod tests;

pub use config::{
    ConfigError, Credentials, MqttConfig, Property, Qos, RECEIVE_MAXIMUM, Subscription, Transport,
    Version,
};
pub use source::{MqttSource, mqtt};
