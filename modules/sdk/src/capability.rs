//! What a filter reaches beyond its batch. Each module is an import of the component once one of its functions is called.

#[cfg(target_arch = "wasm32")]
use crate::bindings::tidegate::module as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::test::host;

/// The slot's settings, checked against the manifest's schema before the filter ever runs. A key is a path of members
/// joined with `.`; what is absent or of another type answers `None`, or an empty list. Defaults are the filter's own
/// business: the schema only states them. Read settings once a batch, not once a row: each is a call to the gateway.
pub mod settings {
    use super::host;

    /// A number, integers included.
    #[must_use]
    pub fn number(key: &str) -> Option<f64> {
        host::settings::number(key)
    }

    /// An integer.
    #[must_use]
    pub fn integer(key: &str) -> Option<i64> {
        host::settings::integer(key)
    }

    /// A truth value.
    #[must_use]
    pub fn boolean(key: &str) -> Option<bool> {
        host::settings::boolean(key)
    }

    /// A text.
    #[must_use]
    pub fn text(key: &str) -> Option<String> {
        host::settings::text(key)
    }

    /// A list of numbers.
    #[must_use]
    pub fn numbers(key: &str) -> Vec<f64> {
        host::settings::numbers(key)
    }

    /// A list of texts.
    #[must_use]
    pub fn texts(key: &str) -> Vec<String> {
        host::settings::texts(key)
    }

    /// All settings as JSON text, for what the others do not reach.
    #[must_use]
    pub fn json() -> String {
        host::settings::json()
    }
}

/// Time, the same for the whole batch, so that a replay gives the same result. Always granted.
pub mod clock {
    use super::host;

    /// When the batch arrived: nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now() -> i64 {
        host::clock::now()
    }
}

/// Alarms, by series and code, staged with the batch. Grant `alarm`.
pub mod alarm {
    use super::host;
    use crate::batch::Row;
    use crate::filter::clip;

    /// How grave an alarm is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Severity {
        /// Worth knowing.
        Info,
        /// Needs somebody's attention.
        Warning,
        /// Needs somebody now.
        Critical,
    }

    impl Severity {
        /// The severity of a word out of the settings: `info`, `warning` or `critical`.
        #[must_use]
        pub fn from_word(word: &str) -> Option<Self> {
            match word {
                "info" => Some(Self::Info),
                "warning" => Some(Self::Warning),
                "critical" => Some(Self::Critical),
                _ => None,
            }
        }
    }

    /// What an alarm is about: a [`Row`] of the batch, or an [`AddedRow`](crate::AddedRow) of a tick.
    pub trait About {
        /// Its place among the rows.
        fn row(&self) -> u32;
    }

    impl About for Row<'_> {
        fn row(&self) -> u32 {
            self.index_u32()
        }
    }

    /// Raises an alarm about the row's series; time and value are those of the row. `code` is short and stable, for
    /// programs; `text` is for people. Raising what is raised changes nothing.
    pub fn raise(row: impl About, severity: Severity, code: &str, text: impl Into<String>) {
        let severity = match severity {
            Severity::Info => host::alarm::Severity::Info,
            Severity::Warning => host::alarm::Severity::Warning,
            Severity::Critical => host::alarm::Severity::Critical,
        };
        host::alarm::raise(row.row(), severity, code, &clip(text.into()));
    }

    /// Clears it. Clearing what is not raised changes nothing.
    pub fn clear(row: impl About, code: &str) {
        host::alarm::clear(row.row(), code);
    }
}

/// Lines in the gateway's log, at most 10 a second. Grant `log`.
pub mod log {
    use super::host;

    /// For whoever develops the filter.
    pub fn debug(message: &str) {
        host::log::write(host::log::Level::Debug, message);
    }

    /// Worth knowing.
    pub fn info(message: &str) {
        host::log::write(host::log::Level::Info, message);
    }

    /// Something is not as it should be.
    pub fn warn(message: &str) {
        host::log::write(host::log::Level::Warn, message);
    }

    /// Something failed.
    pub fn error(message: &str) {
        host::log::write(host::log::Level::Error, message);
    }
}

/// Numbers on the gateway's metrics page, at most 32 names a slot. Grant `metrics`.
pub mod metrics {
    use super::host;

    /// Adds to a counter.
    pub fn count(name: &str, delta: u64) {
        host::metrics::count(name, delta);
    }

    /// Sets a gauge.
    pub fn gauge(name: &str, value: f64) {
        host::metrics::gauge(name, value);
    }
}

/// Secrets that the site named for this slot: files of the gateway, never in settings, logs or the outbox.
/// Grant `secrets`.
pub mod secrets {
    use super::host;
    use crate::filter::Fault;

    /// HMAC-SHA-256 of `data` under the named secret; the key stays with the gateway.
    ///
    /// # Errors
    /// The site names no such secret, or its file cannot be read.
    pub fn hmac_sha256(name: &str, data: &[u8]) -> Result<Vec<u8>, Fault> {
        host::secrets::hmac_sha256(name, data).map_err(Fault::from)
    }
}

/// Keys and values of the whole slot, for manifests with `"state": "global"`, at most 1 MiB. Grant `state`.
pub mod global_state {
    use super::host;
    use crate::filter::Fault;

    /// What is stored under a key.
    #[must_use]
    pub fn get(key: &str) -> Option<Vec<u8>> {
        host::global_state::get(key)
    }

    /// Stores something under a key.
    ///
    /// # Errors
    /// The slot's bound is reached.
    pub fn set(key: &str, value: &[u8]) -> Result<(), Fault> {
        host::global_state::set(key, value).map_err(Fault::from)
    }

    /// Forgets a key.
    pub fn delete(key: &str) {
        host::global_state::delete(key);
    }
}

/// The column of records behind [`State`](crate::State).
pub(crate) mod series_state {
    use super::host;

    pub(crate) fn load() -> Vec<u8> {
        host::series_state::load()
    }

    pub(crate) fn store(records: &[u8]) {
        host::series_state::store(records);
    }
}
