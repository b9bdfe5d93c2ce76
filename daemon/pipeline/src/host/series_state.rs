//! `series-state`: one record for every name of the batch, as one column both ways.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::{Call, Violation};

/// The records of a batch's names: as they were, and as the call left them.
#[derive(Debug)]
pub(crate) struct SeriesColumn {
    pub(crate) before: Arc<[u8]>,
    pub(crate) after: Arc<[u8]>,
}

impl SeriesColumn {
    pub(crate) fn new(column: Vec<u8>) -> Self {
        let before: Arc<[u8]> = column.into();
        Self {
            after: Arc::clone(&before),
            before,
        }
    }
}

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("load", |cx: StoreContextMut<'_, Call>, (): ()| {
        Ok((cx.data().series.as_ref().map_or_else(
            || Arc::from([].as_slice()),
            |column| Arc::clone(&column.after),
        ),))
    })?;
    instance.func_wrap(
        "store",
        |mut cx: StoreContextMut<'_, Call>, (records,): (Vec<u8>,)| {
            let Some(column) = &mut cx.data_mut().series else {
                return Err(wasmtime::Error::new(Violation(
                    "state is stored that the manifest does not declare".to_owned(),
                )));
            };
            if records.len() != column.before.len() {
                return Err(wasmtime::Error::new(Violation(format!(
                    "a state column of {} bytes is stored where {} are due",
                    records.len(),
                    column.before.len()
                ))));
            }
            column.after = records.into();
            Ok(())
        },
    )
}
