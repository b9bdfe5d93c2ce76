//! What can be asked of a running uplink.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tidegate_domain::AckToken;
use tidegate_domain::delivery::Horizon;
use tokio::sync::{Notify, watch};

use super::lock;
use crate::due::Due;
use crate::status::{Status, UplinkStatus};

/// What can be asked of a running uplink, from any thread and without waiting.
#[derive(Clone, Debug)]
pub struct UplinkHandle {
    pub(super) wake: Arc<Notify>,
    pub(super) origin: Instant,
    pub(super) horizon: Arc<Mutex<Horizon>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) says: watch::Sender<Status>,
    pub(super) status: watch::Sender<UplinkStatus>,
    pub(super) acknowledgements: Due<AckToken>,
    pub(super) deleted: Due<u64>,
}

impl UplinkHandle {
    /// Messages were sealed, up to this number. Calls that come before the uplink looks count as one.
    pub fn wake(&self, sealed: u64) {
        lock(&self.horizon).sealed(self.origin.elapsed(), sealed);
        self.wake.notify_one();
    }

    /// Ends the uplink: nothing more is sent, outstanding acknowledgements are awaited for a few seconds, the status
    /// becomes `offline`, and [`MqttUplink::run`](super::MqttUplink::run) returns. Dropping every handle does the same.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// What a command did is committed: the broker may forget it.
    pub fn acknowledge(&self, token: AckToken) {
        self.acknowledgements.extend([token]);
    }

    /// The store has deleted these messages, which were settled before: no look at the outbox finds them any more. Until
    /// then they are remembered, and when too many are, nothing more is sent.
    pub fn deleted(&self, seqs: impl IntoIterator<Item = u64>) {
        self.deleted.extend(seqs);
    }

    /// How the uplink is.
    #[must_use]
    pub fn status(&self) -> UplinkStatus {
        self.status.borrow().clone()
    }

    /// Tells of every change of [`Self::status`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<UplinkStatus> {
        self.status.subscribe()
    }

    /// Changes what the retained status message says; it is published when it differs.
    pub fn set_status(&self, status: Status) {
        self.says.send_if_modified(|now| {
            let differs = *now != status;
            *now = status;
            differs
        });
    }
}
