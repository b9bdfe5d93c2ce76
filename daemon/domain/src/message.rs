//! One thing received from a source.

use bytes::Bytes;
use std::sync::Arc;

/// When a message arrived, on both clocks. Order never depends on `wall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Nanoseconds of the machine's monotonic clock since boot (`CLOCK_BOOTTIME`).
    pub monotonic: i64,
    /// Nanoseconds since 1970-01-01T00:00:00Z by the machine's wall clock.
    pub wall: i64,
    /// Whether the wall clock was known to be set when it was read.
    pub synced: bool,
}

impl Arrival {
    /// The arrival as it is known once the clock is set: `offset` is wall minus monotonic time of a clock that is set, of
    /// the same boot, in nanoseconds. What was read off a clock that was set, or without a monotonic time, stays.
    #[must_use]
    pub fn corrected(self, offset: i64) -> Self {
        if self.synced || self.monotonic == 0 {
            return self;
        }
        Self {
            wall: self.monotonic.saturating_add(offset),
            synced: true,
            ..self
        }
    }
}

/// What a source needs to acknowledge one message, opaque to everyone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AckToken {
    /// The connection the message came over; an acknowledgement never crosses to another one.
    pub connection: u64,
    /// The source's number of the message within that connection (MQTT: the packet identifier).
    pub id: u64,
}

/// One thing received: topic, payload, arrival.
#[derive(Clone, Debug)]
pub struct Message {
    /// Index of the source in the configuration's order.
    pub source: usize,
    /// MQTT topic, or the line's name for serial sources.
    pub topic: Arc<str>,
    /// The bytes as received.
    pub payload: Bytes,
    /// When it arrived.
    pub arrival: Arrival,
    /// Due after the commit; `None` where the source wants none (QoS 0).
    pub ack: Option<AckToken>,
    /// The source says that it sent this before (MQTT: DUP).
    pub redelivered: bool,
    /// What the source calls it by beside its payload (MQTT 5: a property), where it is configured to.
    pub identity: Option<Bytes>,
}
