//! What passes between the outbox and an uplink, and the machines that decide what leaves when, over which broker.
//!
//! [`Delivery`] knows what is in flight and what follows from what the broker says. Beside it: which message has its turn
//! ([`Share`], [`Horizon`]), how many bytes a second ([`Bucket`]), at which broker ([`Brokers`]).

mod brokers;
mod bucket;
mod flight;
mod lanes;
mod numbers;
mod pace;
mod suspects;
#[cfg(test)]
mod tests;

pub use brokers::{ATTEMPTS_BEFORE_FAILOVER, Brokers};
pub use bucket::Bucket;
pub use flight::Delivery;
pub use lanes::{Horizon, LIVE_FOR, Lane, Request, Share};
pub use numbers::Numbers;
pub use suspects::ENDINGS_BEFORE_SET_ASIDE;

use crate::item::{ItemKind, Priority};

/// A message that was sealed: its items are fixed, and it is sent with the same ones for ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMessage {
    /// Its number in the uplink's stream: dense, from 1.
    pub seq: u64,
    /// What it carries.
    pub kind: ItemKind,
    /// How it is ordered among the others: priority first, then `seq`.
    pub priority: Priority,
    /// The number of items.
    pub items: u32,
    /// The items as JSON objects, joined by commas. Made with [`ENVELOPE_ROOM`] to spare, so that what goes around it is put
    /// there without a copy of it all.
    pub body: Vec<u8>,
}

/// Bytes that the envelope of a message takes, with ordinary names: see [`SealedMessage::body`].
pub const ENVELOPE_ROOM: usize = 192;

/// What the other end said to a sealed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Index of the uplink in the configuration's order.
    pub uplink: usize,
    /// The message.
    pub seq: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// How a sealed message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Acknowledged with a success code: it can be deleted.
    Delivered,
    /// Refused, or set aside because it ended the connection too often: kept and shown.
    Rejected {
        /// Why, for a person.
        reason: String,
    },
}

/// How many messages, and how many of their bytes, may be on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Messages; at least one.
    pub messages: usize,
    /// Bytes of their bodies. A single message may exceed it, or a large one would wait for ever.
    pub bytes: usize,
}

/// What is to be done next, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand this message to the connection. It counts as submitted: its packet id is the next one that
    /// [`Delivery::numbered`] is told, after those of earlier submissions.
    Send(SealedMessage),
    /// Tell the store what became of a message.
    Settle {
        /// The message.
        seq: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// End the connection and everything that is kept about it, then make a new one.
    Drop {
        /// Why, for a person.
        reason: String,
    },
}

/// Who ended a connection: only the other end's decision can be a message's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The other end closed it, or said something that makes no sense: a message may have provoked it.
    Peer,
    /// The line, a time-out, the other end's maintenance, or ourselves.
    Line,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages handed to a connection, every attempt counted.
    pub sent: u64,
    /// Bytes of their bodies.
    pub sent_bytes: u64,
    /// Messages acknowledged with a success code.
    pub delivered: u64,
    /// Messages refused or set aside.
    pub rejected: u64,
    /// Acknowledgements that belong to nothing in flight: duplicates, or the other end's mistakes.
    pub ignored_acks: u64,
}
