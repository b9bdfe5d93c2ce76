//! The one place where bytes become code of this process.
#![expect(
    unsafe_code,
    reason = "wasmtime cannot check native code; the cache's MAC and the compiler child do"
)]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Artefact;

/// Loads an artefact. The bytes are copied: nothing can change underneath.
pub(crate) fn deserialize(
    engine: &Engine,
    artefact: &Artefact,
) -> Result<Component, wasmtime::Error> {
    // SAFETY: `Component::deserialize` demands bytes that `Engine::precompile_component` made. An `Artefact` exists only
    // with bytes out of our own compiler child, or with bytes whose MAC, under a secret that only our user can read, says
    // that they are such bytes for the very key (component, wasmtime version, target, CPU features, tunables) at hand.
    unsafe { Component::deserialize(engine, artefact.native()) }
}
