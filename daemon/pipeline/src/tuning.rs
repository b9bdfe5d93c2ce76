//! Everything that decides about the native code of modules, in one place.
//!
//! There is nothing here but wasmtime's settings.

use std::fmt;
use std::hash::{Hash, Hasher};

use wasmtime::{
    Config, ModuleVersionStrategy, OptLevel, RegallocAlgorithm, Strategy, WasmBacktraceDetails,
};

/// Stack of a guest. It is part of the calling thread's own stack, which for a thread of Rust's is 2 MiB.
const GUEST_STACK_BYTES: usize = 512 * 1024;

/// How address space is laid out for guests. It is part of every compiled artefact's identity, because bounds
/// checks are left out where a guard region catches what they would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// 4 GiB of address space a guest: no bounds checks. 16 of them fit below 39 bits.
    Wide,
    /// 64 MiB of address space a guest, for kernels or limits (RLIMIT_AS) that refuse the wide one.
    Small,
    /// The small one for rehearsals: instructions are counted instead of time, so that the same input gives the same
    /// result to the last byte, whatever else the machine does. It costs speed.
    Metered,
}

impl Profile {
    fn reservation(self) -> u64 {
        match self {
            Self::Wide => 4 << 30,
            Self::Small | Self::Metered => 64 << 20,
        }
    }

    fn guard(self) -> u64 {
        match self {
            Self::Wide => 32 << 20,
            Self::Small | Self::Metered => 64 << 10,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wide => "wide",
            Self::Small => "small",
            Self::Metered => "metered",
        })
    }
}

/// The settings of an engine: what code it makes, and what it takes.
pub(crate) fn code(profile: Profile) -> Result<Config, wasmtime::Error> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        // Outputs of two versions of a filter are compared bit by bit.
        .cranelift_nan_canonicalization(true)
        .epoch_interruption(profile != Profile::Metered)
        .consume_fuel(profile == Profile::Metered)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .wasm_component_model(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .concurrency_support(false)
        // Explicit, because an environment variable would otherwise change a tunable that artefacts are checked for.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .memory_reservation(profile.reservation())
        .memory_reservation_for_growth(0)
        .memory_guard_size(profile.guard())
        .memory_may_move(false)
        .guard_before_linear_memory(true)
        .memory_init_cow(true)
        .signals_based_traps(true)
        .native_unwind_info(false);
    // wasmtime itself only compares its major version.
    config.module_version(ModuleVersionStrategy::Custom(format!(
        "wasmtime {} tidegate {profile}",
        wasmtime_version()
    )))?;
    Ok(config)
}

/// The exact version of wasmtime. It has no constant for it, but hashes it here, as its documentation says.
pub(crate) fn wasmtime_version() -> String {
    struct Spelled(Vec<u8>);
    impl Hasher for Spelled {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }
    let mut spelled = Spelled(Vec::new());
    ModuleVersionStrategy::WasmtimeVersion.hash(&mut spelled);
    spelled
        .0
        .iter()
        .filter(|byte| byte.is_ascii_graphic())
        .map(|&byte| char::from(byte))
        .collect()
}
