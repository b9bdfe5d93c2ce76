//! What one slot may use at most: what its manifest wants, as far as the site's policy lets it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_domain::limits;

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
}

/// The bounds of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
        }
    }
}

impl SlotLimits {
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
        }
    }
}
