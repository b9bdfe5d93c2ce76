//! Where the daemon's own log goes: the journal under systemd, else standard error; and the last errors for the page.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Groups of equal messages kept for the page; the oldest makes room.
const RECENT_GROUPS: usize = 64;
/// Bytes kept of one message.
const MESSAGE_BYTES: usize = 512;

/// Warnings and errors of late, equal ones counted together.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentErrors {
    groups: Arc<Mutex<VecDeque<ErrorGroup>>>,
}

/// Equal messages.
#[derive(Clone, Debug)]
pub(crate) struct ErrorGroup {
    /// When the last of them came, milliseconds since the epoch.
    pub(crate) time: i64,
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) message: String,
    pub(crate) count: u64,
}

/// Starts logging for the whole process. `RUST_LOG` chooses levels; `default` stands where it is not set.
pub(crate) fn start(default: &str) -> RecentErrors {
    let recent = RecentErrors::default();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(recent.clone());
    // systemd sets JOURNAL_STREAM for what it connects to the journal; the native protocol keeps the fields apart.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let started = match journal {
        Some(journal) => registry.with(journal).try_init(),
        None => {
            let stderr = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(
                    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
                );
            registry.with(stderr).try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    recent
}

impl RecentErrors {
    /// The groups, the latest first.
    pub(crate) fn latest(&self) -> Vec<ErrorGroup> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.iter().rev().cloned().collect()
    }

    fn add(&self, level: Level, target: &str, message: String) {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let same = groups
            .iter()
            .position(|group| group.message == message && group.target == target);
        let count = same
            .and_then(|index| groups.remove(index))
            .map_or(0, |group| group.count);
        if groups.len() == RECENT_GROUPS {
            groups.pop_front();
        }
        groups.push_back(ErrorGroup {
            time,
            level,
            target: target.to_owned(),
            message,
            count: count + 1,
        });
    }
}

impl<S: Subscriber> Layer<S> for RecentErrors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        self.add(*metadata.level(), metadata.target(), text.finish());
    }
}

/// An event's message and fields as one line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > MESSAGE_BYTES {
            let mut end = MESSAGE_BYTES;
            while !self.message.is_char_boundary(end) {
                end -= 1;
            }
            self.message.truncate(end);
            self.message.push('…');
        }
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_messages_are_one_group_and_groups_are_bounded() {
        let recent = RecentErrors::default();
        recent.add(Level::WARN, "store", "disk full".to_owned());
        for n in 0..RECENT_GROUPS - 1 {
            recent.add(Level::ERROR, "mqtt", format!("refused {n}"));
        }
        recent.add(Level::WARN, "store", "disk full".to_owned());
        recent.add(Level::ERROR, "mqtt", "one more".to_owned());
        let latest = recent.latest();
        assert_eq!(latest.len(), RECENT_GROUPS);
        assert_eq!(latest[1].message, "disk full");
        assert_eq!(latest[1].count, 2);
        assert!(latest.iter().all(|group| group.message != "refused 0"));
    }
}
