//! The way of a message into the queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::Message;
use tokio::sync::mpsc;

use crate::source::{Budget, Permit, Received};

/// How long the queue must have been full before messages of QoS 0 are dropped. Below it the broker waits; above it
/// the broker would drop them itself, and uncounted.
const PATIENCE: Duration = Duration::from_millis(250);

/// Topics that are kept as shared strings. A source with more starts the collection over, which costs one allocation
/// for each topic.
const TOPICS: usize = 16_384;

/// The sending end of the queue.
pub(super) struct Intake<T> {
    /// `None` once nothing more is taken in: whoever reads the queue then sees its end.
    queue: Option<mpsc::Sender<T>>,
    budget: Budget,
    topics: HashSet<Arc<str>>,
    full_since: Option<Instant>,
}

/// What became of an offered message.
pub(super) enum Offer {
    Taken,
    /// There is no room yet.
    Wait(Message),
    /// There has been no room for too long, and the source expects no acknowledgement.
    Drop(Message),
    /// Nobody takes messages any more.
    Closed,
}

impl<T: From<Received>> Intake<T> {
    pub(super) fn new(queue: mpsc::Sender<T>) -> Self {
        Self {
            queue: Some(queue),
            budget: Budget::new(),
            topics: HashSet::new(),
            full_since: None,
        }
    }

    /// Takes nothing more in.
    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    /// The topic as a shared string. What is no UTF-8 becomes U+FFFD, which no series name may contain: decoding sets
    /// such a message aside.
    pub(super) fn topic(&mut self, bytes: &[u8]) -> Arc<str> {
        let text = String::from_utf8_lossy(bytes);
        if let Some(topic) = self.topics.get(text.as_ref()) {
            return Arc::clone(topic);
        }
        if self.topics.len() >= TOPICS {
            self.topics.clear();
        }
        let topic: Arc<str> = text.into();
        self.topics.insert(Arc::clone(&topic));
        topic
    }

    pub(super) fn offer(&mut self, message: Message, now: Instant) -> Offer {
        let Some(queue) = &self.queue else {
            return Offer::Closed;
        };
        let slot = match queue.try_reserve() {
            Ok(slot) => Some(slot),
            Err(mpsc::error::TrySendError::Full(())) => None,
            Err(mpsc::error::TrySendError::Closed(())) => return Offer::Closed,
        };
        let room = slot.and_then(|slot| Some((slot, self.budget.try_take(units(&message))?)));
        if let Some((slot, permit)) = room {
            slot.send(T::from(Received {
                message,
                permit,
                unframed: None,
                state: Vec::new(),
            }));
            self.full_since = None;
            return Offer::Taken;
        }
        let full_since = *self.full_since.get_or_insert(now);
        if message.ack.is_none() && now >= full_since + PATIENCE {
            Offer::Drop(message)
        } else {
            Offer::Wait(message)
        }
    }

    /// Until when a message that must wait is worth waiting for: for ever where the source keeps it until it is
    /// acknowledged.
    pub(super) fn deadline(&self, message: &Message) -> Option<Instant> {
        match message.ack {
            Some(_) => None,
            None => self.full_since.map(|since| since + PATIENCE),
        }
    }

    /// Waits for room; `None` when nobody takes messages any more. Can be cancelled.
    pub(super) async fn room(&self, units: u32) -> Option<Room<'_, T>> {
        let permit = self.budget.take(units).await?;
        let slot = self.queue.as_ref()?.reserve().await.ok()?;
        Some(Room { permit, slot })
    }

    /// Notes that a message that had to wait got its room.
    pub(super) fn has_room(&mut self) {
        self.full_since = None;
    }
}

/// Room for one message.
pub(super) struct Room<'a, T> {
    permit: Permit,
    slot: mpsc::Permit<'a, T>,
}

impl<T: From<Received>> Room<'_, T> {
    pub(super) fn fill(self, message: Message) {
        self.slot.send(T::from(Received {
            message,
            permit: self.permit,
            unframed: None,
            state: Vec::new(),
        }));
    }
}

pub(super) fn units(message: &Message) -> u32 {
    Budget::units(message.payload.len())
}
