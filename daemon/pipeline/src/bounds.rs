//! What one slot may use at most: what its manifest wants, as far as the site's policy lets it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_domain::limits;

use crate::compile::CompileLimits;

/// Bounds that a manifest may ask for; absent ones are the defaults of [`limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WantedLimits {
    /// Linear memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    /// CPU time of one call, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Bytes out of the module in one host call or result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_call_bytes: Option<usize>,
    /// Entries of one function table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<usize>,
    /// Rows that one call may add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_rows: Option<usize>,
    /// Bytes of the rows that one call changes or adds, each with its own name and text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<usize>,
    /// Series with state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_series: Option<usize>,
    /// Keys of the global state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_keys: Option<usize>,
    /// Bytes of the global state, keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<usize>,
    /// Lines in the log in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_lines_per_second: Option<u32>,
    /// Names of metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_names: Option<usize>,
    /// Changes of alarms in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarms_per_minute: Option<u32>,
    /// Bytes of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_bytes: Option<u64>,
    /// Wall time of its compilation, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ms: Option<u64>,
    /// Address space of its compilation, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_memory_bytes: Option<u64>,
}

/// The bounds of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotLimits {
    /// Linear memory, in bytes. A filter that asks for more traps.
    pub memory_bytes: usize,
    /// CPU time of one call. A filter that needs more is stopped.
    pub deadline: Duration,
    /// Bytes out of the filter in one host call or in its result. A filter that hands out more traps.
    pub host_call_bytes: usize,
    /// Entries of one function table. A filter that asks for more traps.
    pub table_elements: usize,
    /// Rows that one call may add. More are an answer that means nothing.
    pub output_rows: usize,
    /// Bytes of the rows that one call changes or adds, each with its own name and text, as they are stored and sent.
    /// More are an answer that means nothing.
    pub output_bytes: usize,
    /// Series with state. State for a further one is a fault.
    pub state_series: usize,
    /// Keys of the global state. A further one is refused to the module.
    pub state_keys: usize,
    /// Bytes of the global state, keys and values. What would be more is refused to the module.
    pub state_bytes: usize,
    /// Lines in the log in a second; further ones are counted and dropped.
    pub log_lines_per_second: u32,
    /// Names of metrics; further ones are counted and ignored.
    pub metric_names: usize,
    /// Changes of alarms in a minute; a call that makes more has failed, and raised nothing.
    pub alarms_per_minute: u32,
    /// Time between two ticks of a filter that has them, as the site or else the manifest says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tick: Option<Duration>,
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::FILTER_MEMORY_BYTES,
            deadline: limits::FILTER_DEADLINE,
            host_call_bytes: limits::HOST_CALL_BYTES,
            table_elements: limits::TABLE_ELEMENTS,
            output_rows: limits::BATCH_ROWS,
            output_bytes: limits::OUTPUT_BYTES,
            state_series: limits::STATE_SERIES,
            state_keys: limits::GLOBAL_STATE_KEYS,
            state_bytes: limits::GLOBAL_STATE_BYTES,
            log_lines_per_second: limits::LOG_LINES_PER_SECOND,
            metric_names: limits::METRIC_NAMES,
            alarms_per_minute: limits::ALARMS_PER_MINUTE,
            tick: None,
        }
    }
}

/// The bounds of making one module runnable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadLimits {
    /// Bytes of the component. A larger one is refused before anything is done with it.
    pub module_bytes: u64,
    /// What its compilation may use.
    pub compile: CompileLimits,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            module_bytes: limits::MODULE_FILE_BYTES,
            compile: CompileLimits::default(),
        }
    }
}

impl LoadLimits {
    /// The ceiling that lets every manifest have what it wants: for a publisher's tools, not for a gateway.
    pub const MOST: Self = Self {
        module_bytes: limits::MODULE_FILE_MOST_BYTES,
        compile: CompileLimits {
            time: Duration::from_hours(1),
            memory_bytes: 16 << 30,
        },
    };

    /// What a manifest wants, as far as the site's ceiling lets it. A ceiling below the defaults lowers those too.
    #[must_use]
    pub fn granted(wanted: &WantedLimits, ceiling: &Self) -> Self {
        let default = Self::default();
        Self {
            module_bytes: wanted
                .module_bytes
                .unwrap_or(default.module_bytes)
                .min(ceiling.module_bytes),
            compile: CompileLimits {
                time: wanted
                    .compile_ms
                    .map_or(default.compile.time, Duration::from_millis)
                    .min(ceiling.compile.time),
                memory_bytes: wanted
                    .compile_memory_bytes
                    .unwrap_or(default.compile.memory_bytes)
                    .min(ceiling.compile.memory_bytes),
            },
        }
    }
}

impl SlotLimits {
    /// The ceiling that lets every manifest have what it wants: for a publisher's tools, not for a gateway.
    pub const MOST: Self = Self {
        memory_bytes: usize::MAX,
        deadline: Duration::from_mins(1),
        host_call_bytes: usize::MAX,
        table_elements: usize::MAX,
        output_rows: usize::MAX,
        output_bytes: usize::MAX,
        state_series: usize::MAX,
        state_keys: usize::MAX,
        state_bytes: usize::MAX,
        log_lines_per_second: u32::MAX,
        metric_names: usize::MAX,
        alarms_per_minute: u32::MAX,
        tick: None,
    };

    /// What a manifest wants, as far as the site's ceiling lets it. A ceiling below the defaults lowers those too.
    #[must_use]
    pub fn granted(wanted: &WantedLimits, ceiling: &Self) -> Self {
        fn within<T: Ord>(wanted: Option<T>, default: T, ceiling: T) -> T {
            wanted.unwrap_or(default).min(ceiling)
        }
        let default = Self::default();
        Self {
            memory_bytes: within(
                wanted.memory_bytes,
                default.memory_bytes,
                ceiling.memory_bytes,
            ),
            deadline: within(
                wanted.deadline_ms.map(Duration::from_millis),
                default.deadline,
                ceiling.deadline,
            ),
            host_call_bytes: within(
                wanted.host_call_bytes,
                default.host_call_bytes,
                ceiling.host_call_bytes,
            ),
            table_elements: within(
                wanted.table_elements,
                default.table_elements,
                ceiling.table_elements,
            ),
            output_rows: within(wanted.output_rows, default.output_rows, ceiling.output_rows),
            output_bytes: within(
                wanted.output_bytes,
                default.output_bytes,
                ceiling.output_bytes,
            ),
            state_series: within(
                wanted.state_series,
                default.state_series,
                ceiling.state_series,
            ),
            state_keys: within(wanted.state_keys, default.state_keys, ceiling.state_keys),
            state_bytes: within(wanted.state_bytes, default.state_bytes, ceiling.state_bytes),
            log_lines_per_second: within(
                wanted.log_lines_per_second,
                default.log_lines_per_second,
                ceiling.log_lines_per_second,
            ),
            metric_names: within(
                wanted.metric_names,
                default.metric_names,
                ceiling.metric_names,
            ),
            alarms_per_minute: within(
                wanted.alarms_per_minute,
                default.alarms_per_minute,
                ceiling.alarms_per_minute,
            ),
            tick: ceiling.tick,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LoadLimits, WantedLimits};

    #[test]
    fn loading_takes_what_the_manifest_wants_as_far_as_the_site_lets_it() {
        let default = LoadLimits::default();
        let wanted = WantedLimits {
            module_bytes: Some(32 << 20),
            compile_ms: Some(300_000),
            compile_memory_bytes: Some(1 << 30),
            ..WantedLimits::default()
        };
        // Neither alone is enough.
        assert_eq!(LoadLimits::granted(&wanted, &default), default);
        let nothing = WantedLimits::default();
        assert_eq!(LoadLimits::granted(&nothing, &LoadLimits::MOST), default);

        let got = LoadLimits::granted(&wanted, &LoadLimits::MOST);
        assert_eq!(got.module_bytes, 32 << 20);
        assert_eq!(got.compile.time, Duration::from_mins(5));
        assert_eq!(got.compile.memory_bytes, 1 << 30);
        let low = LoadLimits {
            module_bytes: 1 << 20,
            ..default
        };
        assert_eq!(LoadLimits::granted(&nothing, &low).module_bytes, 1 << 20);
    }
}
