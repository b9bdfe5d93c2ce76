//! What an uplink needs of the store.

use tidegate_domain::delivery::SealedMessage;

/// Read access to the outbox. The methods block; they are called on threads where that is allowed.
pub trait Outbox: Send + Sync {
    /// The next sealed messages that wait for `uplink`, in the order in which they are to leave (priority first, then
    /// `seq`), without those in `exclude`: at most `max_messages`, and of about `max_bytes` together. Where any
    /// message waits, there is at least one, even when it alone is larger than `max_bytes`.
    ///
    /// # Errors
    /// When the outbox cannot be read now. It is tried again later.
    fn next(
        &self,
        uplink: usize,
        exclude: &[u64],
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<SealedMessage>, OutboxError>;

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
