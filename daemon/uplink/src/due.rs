//! What the store's commit made due, on its way to the connection.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::uplink::lock;

/// A list that one side adds to, without waiting, and the other takes whole. There is never more in it than the other side
/// handed out before: commands whose acknowledgement is due, or settled messages that were deleted.
#[derive(Debug)]
pub(crate) struct Due<T> {
    list: Arc<Mutex<Vec<T>>>,
    more: Arc<Notify>,
}

impl<T> Due<T> {
    pub(crate) fn extend(&self, items: impl IntoIterator<Item = T>) {
        lock(&self.list).extend(items);
        self.more.notify_one();
    }

    /// Ready when there may be something in it.
    pub(crate) async fn some(&self) {
        self.more.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.list))
    }
}

impl<T> Clone for Due<T> {
    fn clone(&self) -> Self {
        Self {
            list: Arc::clone(&self.list),
            more: Arc::clone(&self.more),
        }
    }
}

impl<T> Default for Due<T> {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            more: Arc::default(),
        }
    }
}
