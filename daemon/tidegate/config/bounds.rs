//! The bounds of filters: `[policy.limits]`, and `limits` of one filter; and those of loading a module, in `[policy]`.

use std::time::Duration;

use tidegate_domain::limits::MODULE_FILE_MOST_BYTES;
use tidegate_pipeline::{CompileLimits, LoadLimits, SlotLimits};

use super::section::{Checker, Section};

const DEADLINE_MIN: Duration = Duration::from_millis(1);
const DEADLINE_MAX: Duration = Duration::from_mins(1);
/// One page of WebAssembly memory.
const MEMORY_MIN: u64 = 64 << 10;
/// The address space of a 32-bit module.
const MEMORY_MAX: u64 = 4 << 30;
/// Below it a batch of usual size does not come back.
const HOST_CALL_MIN: u64 = 64 << 10;
const HOST_CALL_MAX: u64 = 64 << 20;
/// What the engine's pool has room for.
const TABLE_ELEMENTS_MAX: i64 = 20_000;
/// What a filter adds is filtered, committed and sent like everything else, in one piece.
const OUTPUT_ROWS_MAX: i64 = 65_536;
const OUTPUT_MAX: u64 = 64 << 20;
const STATE_SERIES_MAX: i64 = 1_000_000;
const STATE_KEYS_MAX: i64 = 100_000;
/// All of it is in memory, and in the store.
const STATE_MAX: u64 = 64 << 20;
const LOG_LINES_MAX: i64 = 1000;
/// Each is a line of the metrics page.
const METRIC_NAMES_MAX: i64 = 1000;
const ALARMS_MAX: i64 = 1_000_000;
const MODULE_SIZE_MIN: u64 = 64 << 10;
const COMPILE_TIME_MIN: Duration = Duration::from_secs(1);
const COMPILE_TIME_MAX: Duration = Duration::from_hours(1);
const COMPILE_MEMORY_MIN: u64 = 64 << 20;
const COMPILE_MEMORY_MAX: u64 = 16 << 30;

/// Bounds as they were written; `None` where nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// CPU time of one call.
    pub(crate) deadline: Option<Duration>,
    /// Bytes of linear memory.
    pub(crate) memory: Option<u64>,
    /// Bytes out of the module in one host call or result.
    pub(crate) host_call: Option<u64>,
    /// Entries of one function table.
    pub(crate) table_elements: Option<u64>,
    /// Rows that one call may add.
    pub(crate) output_rows: Option<u64>,
    /// Bytes of the rows that one call changes or adds.
    pub(crate) output: Option<u64>,
    /// Series with state.
    pub(crate) state_series: Option<u64>,
    /// Keys of global state.
    pub(crate) state_keys: Option<u64>,
    /// Bytes of global state.
    pub(crate) state: Option<u64>,
    /// Log lines in a second.
    pub(crate) log_lines: Option<u64>,
    /// Names of metrics.
    pub(crate) metric_names: Option<u64>,
    /// Changes of alarms in a minute.
    pub(crate) alarms: Option<u64>,
}

impl Limits {
    /// The ceiling of one filter: what is written for it, but never above what is written for the site; the default where
    /// neither says anything.
    pub(crate) fn ceiling(&self, site: &Self) -> SlotLimits {
        fn of<T: Ord>(filter: Option<T>, site: Option<T>, default: T) -> T {
            match (filter, site) {
                (Some(filter), Some(site)) => filter.min(site),
                (Some(written), None) | (None, Some(written)) => written,
                (None, None) => default,
            }
        }
        fn count(filter: Option<u64>, site: Option<u64>, default: usize) -> usize {
            usize::try_from(of(filter, site, default as u64)).unwrap_or(usize::MAX)
        }
        fn rate(filter: Option<u64>, site: Option<u64>, default: u32) -> u32 {
            u32::try_from(of(filter, site, u64::from(default))).unwrap_or(u32::MAX)
        }
        let default = SlotLimits::default();
        SlotLimits {
            memory_bytes: count(self.memory, site.memory, default.memory_bytes),
            deadline: of(self.deadline, site.deadline, default.deadline),
            host_call_bytes: count(self.host_call, site.host_call, default.host_call_bytes),
            table_elements: count(
                self.table_elements,
                site.table_elements,
                default.table_elements,
            ),
            output_rows: count(self.output_rows, site.output_rows, default.output_rows),
            output_bytes: count(self.output, site.output, default.output_bytes),
            state_series: count(self.state_series, site.state_series, default.state_series),
            state_keys: count(self.state_keys, site.state_keys, default.state_keys),
            state_bytes: count(self.state, site.state, default.state_bytes),
            log_lines_per_second: rate(
                self.log_lines,
                site.log_lines,
                default.log_lines_per_second,
            ),
            metric_names: count(self.metric_names, site.metric_names, default.metric_names),
            alarms_per_minute: rate(self.alarms, site.alarms, default.alarms_per_minute),
            tick: default.tick,
        }
    }
}

/// Reads the table `limits` of a section.
pub(super) fn limits(cx: &mut Checker, section: &mut Section<'_>) -> Limits {
    let mut section = section.section(cx, "limits");
    let mut whole = |cx: &mut Checker, key, range| {
        let number = Section::whole(&mut section, cx, key, range)?.value;
        u64::try_from(number).ok()
    };
    let table_elements = whole(cx, "table-elements", 0..=TABLE_ELEMENTS_MAX);
    let output_rows = whole(cx, "output-rows", 0..=OUTPUT_ROWS_MAX);
    let state_series = whole(cx, "state-series", 0..=STATE_SERIES_MAX);
    let state_keys = whole(cx, "state-keys", 0..=STATE_KEYS_MAX);
    let log_lines = whole(cx, "log-lines-per-second", 0..=LOG_LINES_MAX);
    let metric_names = whole(cx, "metric-names", 0..=METRIC_NAMES_MAX);
    let alarms = whole(cx, "alarms-per-minute", 0..=ALARMS_MAX);
    let mut size = |cx: &mut Checker, key, range| Some(section.size(cx, key, range)?.value);
    let memory = size(cx, "memory", MEMORY_MIN..=MEMORY_MAX);
    let host_call = size(cx, "host-call", HOST_CALL_MIN..=HOST_CALL_MAX);
    let output = size(cx, "output", 0..=OUTPUT_MAX);
    let state = size(cx, "state", 0..=STATE_MAX);
    let deadline = section.duration(cx, "deadline", DEADLINE_MIN..=DEADLINE_MAX);
    section.finish(cx);
    Limits {
        deadline: deadline.map(|deadline| deadline.value),
        memory,
        host_call,
        table_elements,
        output_rows,
        output,
        state_series,
        state_keys,
        state,
        log_lines,
        metric_names,
        alarms,
    }
}

/// Reads what loading any module may use at most.
pub(super) fn loading(cx: &mut Checker, section: &mut Section<'_>) -> LoadLimits {
    let default = LoadLimits::default();
    let module_bytes = section.size_or(
        cx,
        "module-size",
        MODULE_SIZE_MIN..=MODULE_FILE_MOST_BYTES,
        default.module_bytes,
    );
    let time = section.duration_or(
        cx,
        "compile-time",
        COMPILE_TIME_MIN..=COMPILE_TIME_MAX,
        default.compile.time,
    );
    let memory_bytes = section.size_or(
        cx,
        "compile-memory",
        COMPILE_MEMORY_MIN..=COMPILE_MEMORY_MAX,
        default.compile.memory_bytes,
    );
    LoadLimits {
        module_bytes: module_bytes.value,
        compile: CompileLimits {
            time: time.value,
            memory_bytes: memory_bytes.value,
        },
    }
}
