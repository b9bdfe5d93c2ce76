//! What systemd is told, where it listens (`Type=notify`).

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager; without one this does nothing.
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told; check NOTIFY_SOCKET");
    }
}

/// How often the watchdog wants to be fed: half of its time-out, where there is one.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}
