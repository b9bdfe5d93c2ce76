//! What filters did since the start, for the page and the metrics. Counted without locks while batches run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tidegate_domain::rollout::Side;

use crate::breaker::BreakerState;
use crate::guest::Failure;

/// What one pipeline did.
#[derive(Debug, Default)]
pub struct PipelineStats {
    /// Readings that entered.
    pub selected: AtomicU64,
    /// Readings that came through.
    pub stored: AtomicU64,
    /// Its filters, in the order of the chain.
    pub filters: Vec<FilterStats>,
}

/// What one filter did.
#[derive(Debug, Default)]
pub struct FilterStats {
    filter: String,
    module: String,
    version: String,
    pub(crate) counters: Counters,
    pub(crate) histogram: Histogram,
    pub(crate) breaker: AtomicU8,
    /// Whether it ticks at all.
    pub(crate) ticking: AtomicBool,
    last_error: Mutex<Option<LastError>>,
    metrics: Mutex<BTreeMap<String, Metric>>,
}

/// Plain counters of one filter.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows_in: AtomicU64,
    pub(crate) rows_out: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) derived: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) passed_on_failure: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) traps: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) invalid_outputs: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) skipped_batches: AtomicU64,
    pub(crate) ticks: AtomicU64,
    pub(crate) ticks_failed: AtomicU64,
    pub(crate) ticks_derived: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) metrics_refused: AtomicU64,
    pub(crate) memory_peak_bytes: AtomicU64,
}

/// The last failure of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// One of `tidegate_domain::outcome::reason`.
    pub reason: &'static str,
    /// What it was.
    pub detail: String,
    /// Arrival of the batch, nanoseconds since the epoch.
    pub at: i64,
}

/// A number that a module keeps on the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Only grows.
    Counter(u64),
    /// Goes up and down.
    Gauge(f64),
}

/// What a filter's ticks did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TickCounts {
    /// Ticks on which it was called, once or, with many series, several times. Those that it was not asked about because its
    /// breaker was open are among `skipped_batches`.
    pub called: u64,
    /// Those of them that failed, as a whole or for some of the series.
    pub failed: u64,
    /// Readings that they added; they are among `derived`.
    pub derived: u64,
}

/// One filter's numbers at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterSnapshot {
    /// The filter's name in the pipeline.
    pub filter: String,
    /// The module's name.
    pub module: String,
    /// Its version.
    pub version: String,
    /// Readings that entered.
    pub rows_in: u64,
    /// Readings that left for the next filter: kept, derived, or passed on failure.
    pub rows_out: u64,
    /// Readings that it took out.
    pub filtered: u64,
    /// Readings that it added.
    pub derived: u64,
    /// Readings that it rejected one by one; they are among `quarantined`.
    pub rejected: u64,
    /// Readings set aside.
    pub quarantined: u64,
    /// Readings dropped because it failed.
    pub dropped: u64,
    /// Readings passed on unfiltered because it failed.
    pub passed_on_failure: u64,
    /// Instances run.
    pub calls: u64,
    /// Second attempts among them.
    pub retries: u64,
    /// Calls that trapped, the memory limit included.
    pub traps: u64,
    /// Calls that used up their CPU time.
    pub timeouts: u64,
    /// Calls whose output meant nothing.
    pub invalid_outputs: u64,
    /// Calls that answered with a fault.
    pub faults: u64,
    /// Batches and ticks that it was not asked about because its breaker was open.
    pub skipped_batches: u64,
    /// What its ticks did; `None` where it has none.
    pub ticks: Option<TickCounts>,
    /// Log lines above the rate, dropped.
    pub log_lines_dropped: u64,
    /// Metrics with a bad name or beyond the bound of names, ignored.
    pub metrics_refused: u64,
    /// The most linear memory that a call had, in bytes.
    pub memory_peak_bytes: u64,
    /// CPU time of half of the calls at most, in seconds.
    pub cpu_seconds_p50: f64,
    /// CPU time of 99 % of the calls at most, in seconds.
    pub cpu_seconds_p99: f64,
    /// CPU time of all calls, in seconds.
    pub cpu_seconds_total: f64,
    /// Whether it is left out for now.
    pub breaker: BreakerState,
    /// Its last failure.
    pub last_error: Option<LastError>,
    /// The module's own metrics.
    pub metrics: BTreeMap<String, Metric>,
}

impl PipelineStats {
    /// What its filters failed on so far: counts, and the most memory of a call.
    pub(crate) fn side(&self) -> Side {
        let mut side = Side::default();
        for filter in &self.filters {
            let counters = &filter.counters;
            side.traps += counters.traps.load(Relaxed);
            side.timeouts += counters.timeouts.load(Relaxed);
            side.invalid_outputs += counters.invalid_outputs.load(Relaxed);
            side.faults += counters.faults.load(Relaxed);
            side.memory_peak = side
                .memory_peak
                .max(counters.memory_peak_bytes.load(Relaxed));
        }
        side
    }

    /// Batches in which a filter failed or was left out, counted more than once where it was tried again.
    pub(crate) fn failures(&self) -> u64 {
        let side = self.side();
        let filters = self.filters.iter();
        let skipped: u64 = filters
            .map(|f| f.counters.skipped_batches.load(Relaxed))
            .sum();
        side.traps + side.timeouts + side.invalid_outputs + side.faults + skipped
    }
}

impl FilterStats {
    pub(crate) fn new(filter: &str, module: &str, version: &str) -> Self {
        Self {
            filter: filter.to_owned(),
            module: module.to_owned(),
            version: version.to_owned(),
            ..Self::default()
        }
    }

    /// Counts a call: its CPU time, and the linear memory it came to.
    pub(crate) fn called(&self, used: Duration, memory_bytes: usize) {
        self.histogram.record(used);
        let counters = &self.counters;
        counters.calls.fetch_add(1, Relaxed);
        counters
            .memory_peak_bytes
            .fetch_max(memory_bytes as u64, Relaxed);
    }

    /// Counts a call that failed.
    pub(crate) fn failed_by(&self, failure: &Failure) {
        let counter = match failure {
            Failure::Trap(_) => &self.counters.traps,
            Failure::Timeout(_) => &self.counters.timeouts,
            Failure::InvalidOutput(_) => &self.counters.invalid_outputs,
            Failure::Fault(_) => &self.counters.faults,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self, error: LastError) {
        *lock(&self.last_error) = Some(error);
    }

    /// Adds what a successful call counted. Names beyond the bound are refused, and counted as such.
    pub(crate) fn add_metrics(&self, staged: BTreeMap<String, Metric>, names: usize) {
        if staged.is_empty() {
            return;
        }
        let mut metrics = lock(&self.metrics);
        for (name, metric) in staged {
            let full = metrics.len() >= names;
            match (metrics.get_mut(&name), metric) {
                (Some(Metric::Counter(sum)), Metric::Counter(delta)) => {
                    *sum = sum.wrapping_add(delta);
                }
                (Some(Metric::Gauge(present)), Metric::Gauge(value)) => *present = value,
                (None, metric) if !full => {
                    metrics.insert(name, metric);
                }
                (Some(_) | None, _) => {
                    self.counters.metrics_refused.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// The numbers now. Each is true by itself; a batch that is just running may be in some of them already.
    #[must_use]
    pub fn snapshot(&self) -> FilterSnapshot {
        let c = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        FilterSnapshot {
            filter: self.filter.clone(),
            module: self.module.clone(),
            version: self.version.clone(),
            rows_in: get(&c.rows_in),
            rows_out: get(&c.rows_out),
            filtered: get(&c.filtered),
            derived: get(&c.derived),
            rejected: get(&c.rejected),
            quarantined: get(&c.quarantined),
            dropped: get(&c.dropped),
            passed_on_failure: get(&c.passed_on_failure),
            calls: get(&c.calls),
            retries: get(&c.retries),
            traps: get(&c.traps),
            timeouts: get(&c.timeouts),
            invalid_outputs: get(&c.invalid_outputs),
            faults: get(&c.faults),
            skipped_batches: get(&c.skipped_batches),
            ticks: self.ticking.load(Relaxed).then(|| TickCounts {
                called: get(&c.ticks),
                failed: get(&c.ticks_failed),
                derived: get(&c.ticks_derived),
            }),
            log_lines_dropped: get(&c.log_lines_dropped),
            metrics_refused: get(&c.metrics_refused),
            memory_peak_bytes: get(&c.memory_peak_bytes),
            cpu_seconds_p50: self.histogram.quantile(0.5).as_secs_f64(),
            cpu_seconds_p99: self.histogram.quantile(0.99).as_secs_f64(),
            cpu_seconds_total: self.histogram.sum().as_secs_f64(),
            breaker: if self.breaker.load(Relaxed) == BreakerState::Closed as u8 {
                BreakerState::Closed
            } else {
                BreakerState::Open
            },
            last_error: lock(&self.last_error).clone(),
            metrics: lock(&self.metrics).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times in buckets that double, each cut in four: a quantile is at most 25 % above the truth.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanoseconds: AtomicU64,
}

/// Four for every doubling of a nanosecond up to about 9 minutes.
const BUCKETS: usize = 4 * 38 + 4;

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_nanoseconds: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(crate) fn record(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanoseconds)].fetch_add(1, Relaxed);
        self.sum_nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanoseconds.load(Relaxed))
    }

    /// The upper end of the bucket that holds the quantile; zero when nothing was recorded.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 0 and the total, for which 53 bits are plenty"
        )]
        let rank = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (index, count) in counts.into_iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return Duration::from_nanos(upper_end(index));
            }
        }
        Duration::ZERO
    }
}

/// 0 to 3 as they are; beyond, the place of the highest bit and the two bits after it.
fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < 4 {
        return usize::try_from(nanoseconds).unwrap_or(0);
    }
    let exponent = nanoseconds.ilog2() - 2;
    let quarter = (nanoseconds >> exponent) & 3;
    let index = u64::from(exponent) * 4 + quarter + 4;
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let exponent = (bucket - 4) / 4;
    let quarter = (bucket - 4) as u64 % 4;
    ((4 + quarter + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_at_most_its_upper_end_and_above_the_one_before() {
        for nanoseconds in (0..20_000).chain([1_000_000, 250_000_000, 60_000_000_000]) {
            let at = bucket(nanoseconds);
            assert!(nanoseconds <= upper_end(at), "{nanoseconds}");
            assert!(at == 0 || nanoseconds > upper_end(at - 1), "{nanoseconds}");
            assert!(upper_end(at) as f64 <= nanoseconds as f64 * 1.25 + 0.5);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_99th_percentile_is_the_time_that_one_call_in_a_hundred_exceeds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        for _ in 0..99 {
            histogram.record(Duration::from_micros(20));
        }
        histogram.record(Duration::from_millis(200));
        let p99 = histogram.quantile(0.99);
        assert!((20..=25).contains(&p99.as_micros()), "{p99:?}");
        assert!(histogram.quantile(1.0) >= Duration::from_millis(200));
    }
}
