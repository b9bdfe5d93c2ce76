//! One call of one function of a module: an instance of its own, within the slot's bounds, gone afterwards whatever
//! happened in it. Every world's functions are called through here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_domain::limits::TABLE_ELEMENTS;
use tidegate_domain::outcome::reason;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
};
use wasmtime::{Engine, Store, Trap, UpdateDeadline, WasmBacktrace};

use crate::buses::PollTime;
use crate::contract::cut;
use crate::cpu::thread_time;
use crate::engine::{MEMORIES, Profile, Runtime};
use crate::grants::{self, Directories, Grant, Linked};
use crate::host::{self, Call, MemoryExceeded, TableExceeded, Violation};
use crate::manifest::{LoadedModule, SlotLimits};
use crate::slot::SlotError;
use crate::ticker::Ticker;
use crate::trace::CodeSections;
use crate::worlds::Role;

/// Bytes of a failure's description.
const DETAIL_BYTES: usize = 1024;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Trap(String),
    Timeout(String),
    InvalidOutput(String),
    Fault(String),
}

impl Failure {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Trap(_) => reason::TRAP,
            Self::Timeout(_) => reason::TIMEOUT,
            Self::InvalidOutput(_) => reason::INVALID_OUTPUT,
            Self::Fault(_) => reason::FAULT,
        }
    }

    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Trap(detail)
            | Self::Timeout(detail)
            | Self::InvalidOutput(detail)
            | Self::Fault(detail) => detail,
        }
    }

    /// A second attempt can go better where the machine had a part in it, and cannot where the module answered.
    pub(crate) fn worth_a_retry(&self) -> bool {
        match self {
            Self::Trap(_) | Self::Timeout(_) => true,
            Self::InvalidOutput(_) | Self::Fault(_) => false,
        }
    }
}

/// The guest used up its CPU time.
#[derive(Debug, thiserror::Error)]
#[error("it used {used:?} of CPU time; {budget:?} are allowed")]
struct DeadlineExceeded {
    used: Duration,
    budget: Duration,
}

/// A module linked with what it was granted, ready to be called.
pub(crate) struct Guest {
    engine: Engine,
    ticker: Arc<Ticker>,
    pre: InstancePre<Call>,
    /// Places that a call takes; one for each of the component's memories.
    places: u32,
    limits: SlotLimits,
    /// Under [`Profile::Metered`]: instructions so far, as nanoseconds.
    metered: Option<AtomicU64>,
    /// Its name and version.
    module: String,
    code: CodeSections,
}

/// A function that a guest exports.
pub(crate) struct Function(ComponentExportIndex);

/// What a call came to.
pub(crate) struct Called<R> {
    pub(crate) result: Result<R, Failure>,
    /// What the guest staged.
    pub(crate) call: Call,
    /// CPU time of the thread.
    pub(crate) used: Duration,
}

impl Guest {
    /// A module in a place: of the role that stands there, with settings that it takes, linked with what it was granted.
    ///
    /// # Errors
    /// See [`SlotError`].
    pub(crate) fn in_place(
        runtime: &Runtime,
        module: &LoadedModule,
        role: Role,
        settings: &serde_json::Value,
        (grants, directories): (&BTreeSet<Grant>, &Directories),
        limits: SlotLimits,
    ) -> Result<Self, SlotError> {
        let manifest = &module.manifest;
        if manifest.world.role() != role {
            return Err(SlotError::Role {
                module: manifest.name.clone(),
                role: manifest.world.role(),
            });
        }
        let imports = grants::check(manifest, &module.inspection, grants, directories)?;
        let problems = manifest.settings_problems(settings);
        if !problems.is_empty() {
            return Err(SlotError::Settings {
                module: manifest.name.clone(),
                problems,
            });
        }
        Self::link(runtime, module, &imports, limits)
            .map_err(|detail| SlotError::link(manifest, detail))
    }

    /// Links a module with the given imports and no others.
    ///
    /// # Errors
    /// Where the component's types differ from the contract's.
    fn link(
        runtime: &Runtime,
        module: &LoadedModule,
        imports: &[Linked],
        limits: SlotLimits,
    ) -> Result<Self, String> {
        let text = |error: wasmtime::Error| format!("{error:#}");
        let mut linker = Linker::new(&runtime.engine);
        host::link(&mut linker, imports).map_err(text)?;
        let pre = linker
            .instantiate_pre(&module.compiled.component)
            .map_err(text)?;
        let needs = module.compiled.component.resources_required();
        let places = needs.map_or(MEMORIES, |needs| needs.num_memories.max(1));
        Ok(Self {
            engine: runtime.engine.clone(),
            ticker: Arc::clone(&runtime.ticker),
            pre,
            metered: (runtime.profile() == Profile::Metered).then(AtomicU64::default),
            places,
            module: format!("{} {}", module.manifest.name, module.manifest.version),
            code: module.inspection.code.clone(),
            limits: SlotLimits {
                memory_bytes: limits
                    .memory_bytes
                    .min(runtime.profile().max_memory_bytes()),
                // The pool's slots are no larger.
                table_elements: limits.table_elements.min(TABLE_ELEMENTS),
                ..limits
            },
        })
    }

    /// Finds an exported function and checks its types once, so that no call has to.
    ///
    /// # Errors
    /// Where it is not there or is another.
    pub(crate) fn function<P, R>(&self, name: &str) -> Result<Function, String>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let component = self.pre.component();
        match component
            .component_type()
            .get_export(&self.engine, name)
            .map(|export| export.ty)
        {
            Some(ComponentItem::ComponentFunc(function)) => function
                .typecheck::<P, R>(&self.pre.instance_type())
                .map_err(|error| format!("`{name}`: {error:#}"))?,
            Some(_) | None => return Err(format!("`{name}` is no function")),
        }
        component
            .get_export_index(None, name)
            .map(Function)
            .ok_or_else(|| format!("`{name}` is not exported"))
    }

    /// The bounds of every call.
    pub(crate) fn limits(&self) -> &SlotLimits {
        &self.limits
    }

    /// The clock by which calls are charged: this thread's CPU time, or where instructions are counted the guest's own, at
    /// one nanosecond each.
    pub(crate) fn time(&self) -> Duration {
        match &self.metered {
            None => thread_time(),
            Some(so_far) => Duration::from_nanos(so_far.load(Relaxed)),
        }
    }

    /// Calls a function on a fresh instance. Blocks for as long as the guest computes.
    pub(crate) fn call<P, R>(&self, function: &Function, call: Call, parameters: P) -> Called<R>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.call_within(self.limits.deadline, function, call, parameters)
    }

    /// The same within another CPU time than the slot's.
    pub(crate) fn call_within<P, R>(
        &self,
        budget: Duration,
        function: &Function,
        call: Call,
        parameters: P,
    ) -> Called<R>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let place = self.ticker.enter(self.places);
        let began = self.time();
        let mut store = Store::new(&self.engine, call);
        store.limiter(|call| &mut call.memory);
        store.set_hostcall_fuel(self.limits.host_call_bytes);
        let result = match &self.metered {
            None => {
                store.epoch_deadline_callback(move |_| {
                    let used = thread_time().saturating_sub(began);
                    if used < budget {
                        return Ok(UpdateDeadline::Continue(1));
                    }
                    Err(wasmtime::Error::new(DeadlineExceeded { used, budget }))
                });
                store.set_epoch_deadline(1);
                self.enter(&mut store, function, parameters)
            }
            Some(so_far) => {
                let fuel = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX);
                let entered = store
                    .set_fuel(fuel)
                    .and_then(|()| self.enter(&mut store, function, parameters));
                let left = store.get_fuel().unwrap_or(0);
                so_far.fetch_add(fuel.saturating_sub(left), Relaxed);
                entered.map_err(|error| match error.downcast_ref::<Trap>() {
                    Some(Trap::OutOfFuel) => {
                        let used = budget;
                        error.context(DeadlineExceeded { used, budget })
                    }
                    _ => error,
                })
            }
        };
        let result = result.map_err(|error| self.classify(&error));
        let used = self.time().saturating_sub(began);
        let mut call = store.into_data();
        call.finish();
        drop(place);
        Called { result, call, used }
    }

    fn enter<P, R>(
        &self,
        store: &mut Store<Call>,
        function: &Function,
        parameters: P,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let instance = self.pre.instantiate(&mut *store)?;
        let function = instance.get_typed_func::<P, R>(&mut *store, function.0)?;
        function.call(store, parameters)
    }

    /// What ended a guest.
    fn classify(&self, error: &wasmtime::Error) -> Failure {
        if let Some(violation) = error.downcast_ref::<Violation>() {
            return Failure::InvalidOutput(violation.to_string());
        }
        if let Some(exceeded) = error.downcast_ref::<DeadlineExceeded>() {
            return Failure::Timeout(self.located(&exceeded.to_string(), error));
        }
        if let Some(exceeded) = error.downcast_ref::<PollTime>() {
            return Failure::Timeout(self.located(&exceeded.to_string(), error));
        }
        if let Some(exceeded) = error.downcast_ref::<MemoryExceeded>() {
            return Failure::Trap(self.located(&exceeded.to_string(), error));
        }
        if let Some(exceeded) = error.downcast_ref::<TableExceeded>() {
            return Failure::Trap(self.located(&exceeded.to_string(), error));
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Failure::Trap(self.located(&trap.to_string(), error));
        }
        // What remains: pointers outside of memory, texts that are no UTF-8, numbers outside of their enum, too many bytes.
        Failure::InvalidOutput(self.located(&error.root_cause().to_string(), error))
    }

    /// Names the module, its version and where in it: what `tidegate module symbolize` needs.
    fn located(&self, what: &str, error: &wasmtime::Error) -> String {
        let module = &self.module;
        let text = match error.downcast_ref::<WasmBacktrace>() {
            Some(backtrace) if !backtrace.frames().is_empty() => {
                format!("{what} ({module}, in {})", self.code.describe(backtrace))
            }
            Some(_) | None => format!("{what} ({module})"),
        };
        cut(text, DETAIL_BYTES)
    }
}
