//! `global-state`: keys and values of the slot.

use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::Call;

const UNDECLARED: &str = "the manifest does not declare global state";

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get", |cx: StoreContextMut<'_, Call>, (key,): (String,)| {
        Ok((cx.data().global.as_ref().and_then(|state| state.get(&key)),))
    })?;
    instance.func_wrap(
        "set",
        |mut cx: StoreContextMut<'_, Call>, (key, value): (String, Vec<u8>)| {
            let answer = match &mut cx.data_mut().global {
                Some(state) => state.set(key, value),
                None => Err(UNDECLARED.to_owned()),
            };
            Ok((answer,))
        },
    )?;
    instance.func_wrap(
        "delete",
        |mut cx: StoreContextMut<'_, Call>, (key,): (String,)| {
            if let Some(state) = &mut cx.data_mut().global {
                state.delete(key);
            }
            Ok(())
        },
    )
}
