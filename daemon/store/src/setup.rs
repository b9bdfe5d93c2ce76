//! The configuration, made ready for the writer.

use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::item::Priority;
use tidegate_domain::limits;

use crate::config::StoreConfig;

/// Names by index, routes by what they carry, and the bounds that follow from the store's size.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) config: StoreConfig,
    /// The monotonic clock when the store was opened first in this process, nanoseconds.
    pub(crate) begun: i64,
    pub(crate) sources: Vec<Arc<str>>,
    pub(crate) pipelines: Vec<PipelineSetup>,
    pub(crate) uplinks: Vec<Arc<str>>,
    pub(crate) bounds: Bounds,
    pub(crate) lateness: i64,
    pub(crate) max_age: i64,
}

#[derive(Debug)]
pub(crate) struct PipelineSetup {
    pub(crate) name: Arc<str>,
    /// Length of its windows, nanoseconds.
    pub(crate) window: Option<i64>,
    /// How long what enters it is kept, nanoseconds.
    pub(crate) keep_input: Option<i64>,
    pub(crate) summaries: Vec<(usize, Priority)>,
    pub(crate) readings: Vec<(usize, Priority)>,
    /// Every uplink of its routes, once.
    pub(crate) uplinks: Vec<usize>,
}

/// Bounds in bytes and rows. Database, log and reserve together are what `max_bytes` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) max_bytes: u64,
    /// The database file.
    pub(crate) main_bytes: u64,
    /// What rows may take of it; above that some go. The rest is room for the next group, so that the file need not grow
    /// and shrink with every commit.
    pub(crate) rows_bytes: u64,
    /// The write-ahead log. Above half of it a checkpoint waits for readers.
    pub(crate) wal_bytes: u64,
    /// The space that is kept back for making room on a full disk.
    pub(crate) reserve_bytes: u64,
    /// Frames in the log that make a checkpoint worth its writes.
    pub(crate) checkpoint_bytes: u64,
    /// Quarantine's share of the database.
    pub(crate) quarantine_bytes: u64,
    /// The share of what entered pipelines and is kept.
    pub(crate) kept_bytes: u64,
    /// Refused messages' share of the database.
    pub(crate) rejected_bytes: u64,
    pub(crate) group_rows: usize,
    pub(crate) group_bytes: usize,
    /// Windows that one transaction closes. Each is a row that goes, an item, and its part of a sealed message.
    pub(crate) windows: usize,
}

impl Bounds {
    /// A smaller store could not hold a single group beside its own pages.
    const LEAST_BYTES: u64 = 1024 * 1024;

    pub(crate) fn new(max_bytes: u64) -> Self {
        let max_bytes = max_bytes.max(Self::LEAST_BYTES);
        let wal_bytes = (max_bytes / 4).min(32 * 1024 * 1024);
        let reserve_bytes = (max_bytes / 16).clamp(256 * 1024, 4 * 1024 * 1024);
        let main_bytes = max_bytes - wal_bytes - reserve_bytes;
        // One transaction must fit into the log: payloads can go to quarantine whole, and a row with a route for
        // readings writes some 300 bytes.
        let small = usize::try_from(wal_bytes / 4).unwrap_or(usize::MAX);
        Self {
            max_bytes,
            main_bytes,
            rows_bytes: main_bytes - wal_bytes / 4,
            wal_bytes,
            reserve_bytes,
            checkpoint_bytes: wal_bytes / 4,
            quarantine_bytes: max_bytes / 5,
            kept_bytes: max_bytes / 10,
            rejected_bytes: max_bytes / 20,
            group_rows: limits::GROUP_ROWS.min(small / 300),
            group_bytes: limits::GROUP_BYTES.min(small),
            windows: limits::GROUP_ROWS.min(small / 1024),
        }
    }
}

impl Setup {
    /// `begun`: the present by the monotonic clock, nanoseconds.
    pub(crate) fn new(config: StoreConfig, begun: i64) -> Self {
        let pipelines = config.pipelines.iter().map(|pipeline| {
            let routes = |wanted: fn(crate::config::Send) -> bool| {
                let routes = pipeline.to.iter().filter(|route| wanted(route.send));
                routes.map(|route| (route.uplink, route.priority)).collect()
            };
            let mut uplinks: Vec<usize> = pipeline.to.iter().map(|route| route.uplink).collect();
            uplinks.sort_unstable();
            uplinks.dedup();
            PipelineSetup {
                name: pipeline.name.as_str().into(),
                window: pipeline.window.map(nanoseconds),
                keep_input: pipeline.keep_input.map(nanoseconds),
                summaries: routes(crate::config::Send::summaries),
                readings: routes(crate::config::Send::readings),
                uplinks,
            }
        });
        let names = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Self {
            sources: names(&config.sources),
            pipelines: pipelines.collect(),
            uplinks: config
                .uplinks
                .iter()
                .map(|uplink| uplink.name.as_str().into())
                .collect(),
            bounds: Bounds::new(config.max_bytes),
            begun,
            lateness: nanoseconds(config.lateness),
            max_age: nanoseconds(config.max_age),
            config,
        }
    }
}

pub(crate) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
