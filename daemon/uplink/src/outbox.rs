//! What an uplink needs of the store.

use tidegate_domain::delivery::{Request, SealedMessage};

/// Read access to the outbox. The methods block; they are called on threads where that is allowed.
pub trait Outbox: Send + Sync {
    /// The next sealed messages that wait for `uplink`, in the order in which they are to leave: alarms first, then
    /// higher priorities, within which live data and backlog share as the request says; what is given is charged to its
    /// share. At most as many as there is room for, and of about as many bytes. Where any message waits, there is at
    /// least one, even when it alone is larger.
    ///
    /// # Errors
    /// When the outbox cannot be read now. It is tried again later.
    fn next(&self, uplink: usize, request: &mut Request)
    -> Result<Vec<SealedMessage>, OutboxError>;

    /// The number of the message that was sealed last for `uplink`, 0 before the first.
    ///
    /// # Errors
    /// When the outbox cannot be read now.
    fn last_sealed(&self, uplink: usize) -> Result<u64, OutboxError>;

    /// The id of the stream that the numbers belong to.
    fn stream(&self, uplink: usize) -> String;
}

/// The outbox cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the outbox cannot be read")]
pub struct OutboxError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl OutboxError {
    /// Wraps the store's error.
    #[must_use]
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
