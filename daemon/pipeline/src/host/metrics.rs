//! `metrics`: numbers of the module's own, staged and counted when the call succeeds.

use std::sync::atomic::Ordering::Relaxed;

use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::Call;
use crate::stats::Metric;

/// Bytes of a metric's name.
const NAME_BYTES: usize = 64;

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "count",
        |mut cx: StoreContextMut<'_, Call>, (name, delta): (String, u64)| {
            stage(cx.data_mut(), name, Metric::Counter(delta));
            Ok(())
        },
    )?;
    instance.func_wrap(
        "gauge",
        |mut cx: StoreContextMut<'_, Call>, (name, value): (String, f64)| {
            stage(cx.data_mut(), name, Metric::Gauge(value));
            Ok(())
        },
    )
}

/// A metric that cannot be shown is counted as refused and otherwise ignored: no reading is worth less for it.
fn stage(call: &mut Call, name: String, metric: Metric) {
    let full = call.metrics.len() >= call.context.limits.metric_names;
    match (call.metrics.get_mut(&name), metric) {
        (Some(Metric::Counter(sum)), Metric::Counter(delta)) => *sum = sum.saturating_add(delta),
        (Some(Metric::Gauge(present)), Metric::Gauge(value)) => *present = value,
        (None, metric) if !full && sound(&name) => {
            call.metrics.insert(name, metric);
        }
        (Some(_) | None, _) => {
            let refused = &call.context.stats().counters.metrics_refused;
            refused.fetch_add(1, Relaxed);
        }
    }
}

/// What Prometheus takes for a part of a name.
fn sound(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}
