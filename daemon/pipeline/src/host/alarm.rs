//! `alarm`: raised and cleared by row and code, staged with the batch.

use tidegate_domain::outcome;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::{Call, Violation};

use crate::contract::{Severity, cut};

/// Alarm calls in one batch; more are a failure of the filter.
const CALLS: usize = 2 * tidegate_domain::limits::BATCH_ROWS;
/// Bytes of a code.
const CODE_BYTES: usize = 64;
/// Bytes of a text; the rest is cut.
const TEXT_BYTES: usize = 1024;

/// One call of `raise` or `clear`.
#[derive(Debug)]
pub(crate) struct StagedAlarm {
    pub(crate) row: usize,
    /// `None` clears.
    pub(crate) raised: Option<(outcome::Severity, String)>,
    pub(crate) code: String,
}

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "raise",
        |mut cx: StoreContextMut<'_, Call>,
         (row, severity, code, text): (u32, Severity, String, String)| {
            let severity = match severity {
                Severity::Info => outcome::Severity::Info,
                Severity::Warning => outcome::Severity::Warning,
                Severity::Critical => outcome::Severity::Critical,
            };
            let raised = Some((severity, cut(text, TEXT_BYTES)));
            stage(cx.data_mut(), row, raised, code)
        },
    )?;
    instance.func_wrap(
        "clear",
        |mut cx: StoreContextMut<'_, Call>, (row, code): (u32, String)| {
            stage(cx.data_mut(), row, None, code)
        },
    )
}

fn stage(
    call: &mut Call,
    row: u32,
    raised: Option<(outcome::Severity, String)>,
    code: String,
) -> wasmtime::Result<()> {
    let violation = |text| Err(wasmtime::Error::new(Violation(text)));
    let row = row as usize;
    if row >= call.rows {
        return violation(format!("an alarm for row {row} of {}", call.rows));
    }
    if code.is_empty() || code.len() > CODE_BYTES {
        return violation(format!(
            "an alarm code of {} bytes; 1 to {CODE_BYTES} are possible",
            code.len()
        ));
    }
    if call.alarms.len() >= CALLS {
        return violation(format!("more than {CALLS} alarms in one batch"));
    }
    call.alarms.push(StagedAlarm { row, raised, code });
    Ok(())
}
