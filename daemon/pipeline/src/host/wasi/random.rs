//! `wasi:random`: bytes of the kernel. In a rehearsal they are made of the module, the arrival and how many there were
//! before them, so that the same input gives the same output.

use sha2::{Digest as _, Sha256};
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::super::{Call, Violation};

type Cx<'a> = StoreContextMut<'a, Call>;

/// Bytes that one request may be for.
const BYTES: u64 = 64 * 1024;

pub(super) fn link_random(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    link(instance, "get-random-bytes", "get-random-u64")
}

pub(super) fn link_insecure(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    link(
        instance,
        "get-insecure-random-bytes",
        "get-insecure-random-u64",
    )
}

pub(super) fn link_insecure_seed(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("insecure-seed", |mut cx: Cx<'_>, (): ()| {
        let call = cx.data_mut();
        Ok(((number(call)?, number(call)?),))
    })
}

fn link(instance: &mut LinkerInstance<'_, Call>, bytes: &str, one: &str) -> wasmtime::Result<()> {
    instance.func_wrap(bytes, |mut cx: Cx<'_>, (length,): (u64,)| {
        if length > BYTES {
            return Err(wasmtime::Error::new(Violation(format!(
                "it asks for {length} random bytes at once; {BYTES} are possible"
            ))));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        fill(cx.data_mut(), &mut bytes)?;
        Ok((bytes,))
    })?;
    instance.func_wrap(one, |mut cx: Cx<'_>, (): ()| Ok((number(cx.data_mut())?,)))
}

fn number(call: &mut Call) -> wasmtime::Result<u64> {
    let mut bytes = [0; 8];
    fill(call, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn fill(call: &mut Call, bytes: &mut [u8]) -> wasmtime::Result<()> {
    if !call.context.rehearsal {
        return getrandom::fill(bytes)
            .map_err(|error| wasmtime::Error::msg(format!("no random bytes: {error}")));
    }
    for block in bytes.chunks_mut(32) {
        let hash = Sha256::new()
            .chain_update(call.context.module.as_bytes())
            .chain_update(call.clock.to_le_bytes())
            .chain_update(call.wasi.drawn.to_le_bytes())
            .finalize();
        call.wasi.drawn += 1;
        block.copy_from_slice(&hash[..block.len()]);
    }
    Ok(())
}
