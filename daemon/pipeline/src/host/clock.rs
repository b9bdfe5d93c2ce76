//! `clock`: the batch's arrival, the same for the whole call and for its replay.

use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::Call;

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |cx: StoreContextMut<'_, Call>, (): ()| {
        Ok((cx.data().clock,))
    })
}
