//! `log`: lines in the gateway's log, so many a second. They are written at once: those before a trap explain it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::{Call, Context};

use crate::contract::{Level, cut};

/// Bytes of a line; the rest is cut.
const LINE_BYTES: usize = 4096;

/// So many lines in a second, counted from the first of them.
#[derive(Debug, Default)]
pub(crate) struct LogRate(Mutex<Option<(Instant, u32)>>);

impl LogRate {
    pub(crate) fn admits(&self, now: Instant, per_second: u32) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *window {
            Some((since, lines)) if now.duration_since(*since) < Duration::from_secs(1) => {
                *lines += 1;
                *lines <= per_second
            }
            window => {
                *window = Some((now, 1));
                per_second > 0
            }
        }
    }
}

/// Writes a line that a guest printed.
pub(super) fn printed(context: &Context, now: Instant, line: &str) {
    if !context.log.admits(now, context.limits.log_lines_per_second) {
        let dropped = &context.stats().counters.log_lines_dropped;
        dropped.fetch_add(1, Relaxed);
        return;
    }
    let (filter, module) = (&*context.slot, context.module.as_str());
    tracing::info!(target: "module", filter, module, "{line}");
}

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "write",
        |cx: StoreContextMut<'_, Call>, (level, message): (Level, String)| {
            let call = cx.data();
            let context = &call.context;
            if !context
                .log
                .admits(call.now, context.limits.log_lines_per_second)
            {
                let dropped = &context.stats().counters.log_lines_dropped;
                dropped.fetch_add(1, Relaxed);
                return Ok(());
            }
            let message = cut(message, LINE_BYTES);
            let (filter, module) = (&*context.slot, context.module.as_str());
            match level {
                Level::Debug => tracing::debug!(target: "module", filter, module, "{message}"),
                Level::Info => tracing::info!(target: "module", filter, module, "{message}"),
                Level::Warn => tracing::warn!(target: "module", filter, module, "{message}"),
                Level::Error => tracing::error!(target: "module", filter, module, "{message}"),
            }
            Ok(())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_rate_wait_for_the_next_second() {
        let rate = LogRate::default();
        let start = Instant::now();
        let admitted = |at| (0..25).filter(|_| rate.admits(start + at, 10)).count();
        assert_eq!(admitted(Duration::ZERO), 10);
        assert_eq!(admitted(Duration::from_millis(999)), 0);
        assert_eq!(admitted(Duration::from_secs(1)), 10);
        assert!(!rate.admits(start + Duration::from_secs(9), 0));
    }
}
