//! What a module can call: one small file for every interface, each with its bounds.
//!
//! Nothing here has an effect outside the call except log lines and what a driver does on its buses: alarms, metrics and state are staged in [`Call`] and
//! taken over only when the call has succeeded.

mod alarm;
mod buses;
mod clock;
mod global_state;
mod log;
mod metrics;
mod secrets;
mod series_state;
mod settings;
mod wasi;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use wasmtime::ResourceLimiter;
use wasmtime::component::Linker;

pub(crate) use self::alarm::StagedAlarm;
pub(crate) use self::log::LogRate;
pub use self::secrets::Secret;
pub(crate) use self::series_state::SeriesColumn;
pub(crate) use self::wasi::{Wasi, WasiCall, directory_problem};
use crate::bounds::SlotLimits;
use crate::buses::PollBuses;
use crate::engine::{CORE_INSTANCES, MEMORIES, TABLES};
use crate::grants::{Directories, Interface, LeadsTo, Linked};
use crate::state::GlobalView;
use crate::stats::{FilterStats, Metric, PipelineStats};

/// What all calls of a slot share.
#[derive(Debug)]
pub(crate) struct Context {
    /// `pipeline/filter`
    pub(crate) slot: Arc<str>,
    /// Name and version of the module.
    pub(crate) module: String,
    pub(crate) settings: serde_json::Value,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) directories: Directories,
    pub(crate) limits: SlotLimits,
    pub(crate) log: LogRate,
    pub(crate) stats: Arc<PipelineStats>,
    /// Which of the pipeline's filters this is.
    pub(crate) index: usize,
    /// The same input has to give the same output: see [`crate::Profile::Metered`].
    pub(crate) rehearsal: bool,
}

impl Context {
    pub(crate) fn stats(&self) -> &FilterStats {
        &self.stats.filters[self.index]
    }
}

/// The data of one call's store.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) context: Arc<Context>,
    /// When the call began, for the rate of log lines.
    pub(crate) now: Instant,
    /// What `clock.now` answers: the batch's arrival, nanoseconds since the epoch.
    pub(crate) clock: i64,
    /// Rows of the batch.
    pub(crate) rows: usize,
    pub(crate) series: Option<SeriesColumn>,
    pub(crate) global: Option<GlobalView>,
    pub(crate) alarms: Vec<StagedAlarm>,
    pub(crate) metrics: BTreeMap<String, Metric>,
    pub(crate) memory: MemoryBound,
    pub(crate) wasi: WasiCall,
    /// What a driver was handed; of no other call.
    pub(crate) buses: Option<PollBuses>,
}

impl Call {
    /// A call about no rows, with no state; `clock` is what it takes for the present, nanoseconds since the epoch.
    pub(crate) fn new(context: &Arc<Context>, now: Instant, clock: i64) -> Self {
        Self {
            now,
            clock,
            rows: 0,
            series: None,
            global: None,
            alarms: Vec::new(),
            metrics: BTreeMap::new(),
            memory: MemoryBound::new(&context.limits),
            wasi: WasiCall::default(),
            buses: None,
            context: Arc::clone(context),
        }
    }

    /// The guest is gone, however it ended.
    pub(crate) fn finish(&mut self) {
        self.wasi.finish(&self.context, self.now);
    }
}

/// A call of a host function that means nothing. It ends the guest; the filter has failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub(crate) String);

/// Makes the given imports available, and no others. `types` has nothing to link.
pub(crate) fn link(linker: &mut Linker<Call>, imports: &[Linked]) -> Result<(), wasmtime::Error> {
    for import in imports {
        let add = match import.leads_to {
            LeadsTo::Contract(Interface::Types) => continue,
            LeadsTo::Contract(Interface::Settings) => settings::link,
            LeadsTo::Contract(Interface::Clock) => clock::link,
            LeadsTo::Contract(Interface::Secrets) => secrets::link,
            LeadsTo::Contract(Interface::Log) => log::link,
            LeadsTo::Contract(Interface::Metrics) => metrics::link,
            LeadsTo::Contract(Interface::SeriesState) => series_state::link,
            LeadsTo::Contract(Interface::GlobalState) => global_state::link,
            LeadsTo::Contract(Interface::Alarm) => alarm::link,
            LeadsTo::Contract(Interface::Buses) => buses::link,
            LeadsTo::Contract(Interface::I2c) => buses::link_i2c,
            LeadsTo::Contract(Interface::Spi) => buses::link_spi,
            LeadsTo::Contract(Interface::Gpio) => buses::link_gpio,
            LeadsTo::Contract(Interface::Uart) => buses::link_uart,
            LeadsTo::Wasi(wasi) => wasi.link(),
        };
        add(&mut linker.instance(&import.name.0)?)?;
    }
    Ok(())
}

/// Bounds linear memory and tables, and remembers how much memory there was.
#[derive(Debug)]
pub(crate) struct MemoryBound {
    limit: usize,
    table_elements: usize,
    /// Bytes of all memories; of them those of the last growth, which may come to nothing.
    present: usize,
    growth: usize,
    pub(crate) peak: usize,
}

impl MemoryBound {
    pub(crate) fn new(limits: &SlotLimits) -> Self {
        Self {
            limit: limits.memory_bytes,
            table_elements: limits.table_elements,
            present: 0,
            growth: 0,
            peak: 0,
        }
    }
}

/// The guest asked for more than its bound.
#[derive(Debug, thiserror::Error)]
#[error("it asked for {wanted} bytes of memory; {limit} are allowed")]
pub(crate) struct MemoryExceeded {
    wanted: usize,
    limit: usize,
}

/// The guest asked for a longer table than its bound.
#[derive(Debug, thiserror::Error)]
#[error("it asked for a table of {wanted} elements; {limit} are allowed")]
pub(crate) struct TableExceeded {
    wanted: usize,
    limit: usize,
}

impl ResourceLimiter for MemoryBound {
    /// Beyond the bound the guest is stopped instead of being told: what follows a failed `malloc` is an abort without a
    /// word, and the operator is better served with the reason.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A component may have several memories; the bound is for all of them.
        let growth = desired.saturating_sub(current);
        let wanted = self.present.saturating_add(growth);
        if wanted > self.limit {
            return Err(wasmtime::Error::new(MemoryExceeded {
                wanted,
                limit: self.limit,
            }));
        }
        self.present = wanted;
        self.growth = growth;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    /// The memory's own maximum refused what was allowed here.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.present -= std::mem::take(&mut self.growth);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.table_elements {
            return Err(wasmtime::Error::new(TableExceeded {
                wanted: desired,
                limit: self.table_elements,
            }));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::MemoryBound;
    use crate::bounds::SlotLimits;

    #[test]
    fn all_memories_of_a_guest_share_its_bound() {
        let mut bound = MemoryBound::new(&SlotLimits {
            memory_bytes: 100,
            ..SlotLimits::default()
        });
        assert!(bound.memory_growing(0, 60, None).unwrap());
        let error = bound.memory_growing(0, 41, None).unwrap_err();
        assert!(error.to_string().contains("101 bytes"), "{error}");
        // What its own maximum refuses is not held against it.
        assert!(bound.memory_growing(0, 40, None).unwrap());
        bound
            .memory_grow_failed(wasmtime::Error::msg("its maximum"))
            .unwrap();
        assert!(bound.memory_growing(60, 100, None).unwrap());
        assert_eq!(bound.peak, 100);
    }
}
