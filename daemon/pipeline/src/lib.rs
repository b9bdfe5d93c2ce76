//! Decoders and filters: WebAssembly components, compiled ahead of time and run with bounds, in chains over columns of readings.
//!
//! Messages become readings natively (`decode/`) or by a module (`decoder.rs`).
//!
//! The way of a batch: [`Pipeline::run`] (`chain.rs`) selects its series and sends the rows through each slot (`slot.rs`),
//! which calls the module on a fresh instance (`guest.rs`; `contract.rs` is the boundary, `host/` what the module can call), takes
//! over state (`state.rs`) and reports what went on, what was set aside and why. [`Runtime`] (`engine.rs`) makes
//! components runnable: from the cache (`cache.rs`) or through the compiler child (`compile.rs`).
//!
//! Nothing here spawns, except the engine's one clock thread (`ticker.rs`) and the compiler child.

mod alarm_rate;
mod bisect;
mod bounds;
mod breaker;
mod buses;
mod cache;
mod chain;
mod columns;
pub mod compile;
mod contract;
mod cpu;
pub mod decode;
mod decoder;
mod decoder_vectors;
mod driver;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod grants;
mod guest;
mod host;
pub mod inspect;
mod lane;
pub mod manifest;
mod migrate;
mod native;
pub mod rehearsal;
mod schema;
mod slot;
mod state;
mod stats;
pub mod symbolize;
pub mod test_vectors;
mod ticker;
mod trace;
mod tuning;
mod worlds;

#[cfg(test)]
mod tests;

pub use bounds::{LoadLimits, SlotLimits, WantedLimits};
pub use breaker::BreakerState;
pub use buses::{BusErrorKind, BusRefusal, Buses};
pub use cache::CacheLimits;
pub use chain::{Pipeline, PipelineConfig, PipelineError};
pub use compile::{CompileLimits, CompileRequest, compile_child};
pub use decoder::{DecodedByModule, DecoderConfig, ModuleDecoder};
pub use driver::{DriverConfig, DriverPoll, ModuleDriver};
pub use engine::{
    CONCURRENT_GUESTS, CodeOrigin, Compiled, LoadError, Profile, Runtime, RuntimeConfig,
    RuntimeError,
};
pub use grants::{Grant, NotGranted};
pub use host::Secret;
pub use inspect::{Digest, ImportName, Inspection, inspect};
pub use lane::{End, Lane, Look, Showing, Shown, Tried, Tryout};
pub use manifest::{LoadedModule, Manifest, Module, ModuleError, Origin, StateKind};
pub use slot::{OnFailure, SlotConfig, SlotError};
pub use stats::{FilterSnapshot, FilterStats, LastError, Metric, PipelineStats, TickCounts};
pub use trace::{BadPlace, CodePlace};
pub use worlds::{Role, UnknownWorld, World};
