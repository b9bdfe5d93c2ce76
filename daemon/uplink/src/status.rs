//! What an uplink says about the gateway, and what it says about itself.

use std::time::{Instant, SystemTime};

use tidegate_domain::delivery::Totals;

/// What the retained status message says. The time is added when it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// How the gateway is.
    pub state: StatusState,
    /// How its store is, in the word of its page: `healthy`, `full`, …
    pub store: &'static str,
    /// The daemon's version.
    pub version: String,
    /// The boot id that readings from before the clock was set refer to.
    pub boot: String,
    /// Whether the wall clock was set by something better than a guess.
    pub clock_synced: bool,
    /// The modules that are active, as JSON for the receiver.
    pub modules: serde_json::Value,
    /// The number and the hash of the last entry of the audit log, which the receiver keeps as a witness; `None` before the
    /// first.
    pub audit: Option<(u64, String)>,
}

/// How the gateway is, while it is there; `offline` is the last will's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusState {
    /// All is well.
    Online,
    /// It works, with something amiss.
    Degraded,
}

impl StatusState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Degraded => "degraded",
        }
    }
}

/// An uplink at one moment. Counts are since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What its connection is doing.
    pub state: LinkState,
    /// Whether something was acknowledged on the present connection.
    pub proved: bool,
    /// When the next attempt to connect begins, while it backs off.
    pub next_attempt: Option<Instant>,
    /// Which of its brokers has its turn.
    pub broker: usize,
    /// How often another broker got its turn.
    pub failovers: u64,
    /// Since when the connection stands.
    pub connected_since: Option<SystemTime>,
    /// What went wrong last: with the connection, or with reading the outbox. It stays when things are well again.
    pub last_error: Option<String>,
    /// Messages that wait for the broker's acknowledgement.
    pub in_flight: usize,
    /// Messages handed to a connection, every attempt counted.
    pub sent: u64,
    /// Bytes of their payloads.
    pub sent_bytes: u64,
    /// Messages that the broker acknowledged with a success code.
    pub delivered: u64,
    /// Messages that the broker refused, or that were set aside.
    pub rejected: u64,
    /// Acknowledgements of nothing in flight.
    pub ignored_acks: u64,
    /// Connections made after the first.
    pub reconnects: u64,
}

/// What the connection of an uplink is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// An attempt is under way.
    Connecting,
    /// It stands.
    Connected,
    /// The next attempt waits; this many failed since a connection last proved itself.
    BackingOff {
        /// Failed attempts.
        attempt: u32,
    },
    /// It was stopped, or has not begun.
    Stopped,
}

/// Whether an uplink lets messages through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// It does: the broker acknowledges.
    Closed,
    /// It does not, and nothing is tried before the next attempt.
    Open,
    /// An attempt is under way: whether it works is not known before the broker acknowledges something.
    HalfOpen,
}

impl UplinkStatus {
    /// Whether it lets messages through.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        match self.state {
            LinkState::Connected if self.proved => Circuit::Closed,
            LinkState::Connecting | LinkState::Connected => Circuit::HalfOpen,
            LinkState::BackingOff { .. } | LinkState::Stopped => Circuit::Open,
        }
    }

    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: LinkState::Stopped,
            proved: false,
            next_attempt: None,
            broker: 0,
            failovers: 0,
            connected_since: None,
            last_error: None,
            in_flight: 0,
            sent: 0,
            sent_bytes: 0,
            delivered: 0,
            rejected: 0,
            ignored_acks: 0,
            reconnects: 0,
        }
    }

    pub(crate) fn count(&mut self, totals: Totals, in_flight: usize) {
        self.in_flight = in_flight;
        self.sent = totals.sent;
        self.sent_bytes = totals.sent_bytes;
        self.delivered = totals.delivered;
        self.rejected = totals.rejected;
        self.ignored_acks = totals.ignored_acks;
    }
}
