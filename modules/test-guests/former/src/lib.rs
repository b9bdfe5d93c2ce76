//! A filter as it was built for the contract's first version: straight against `wit/0.1.0`, which is frozen. The daemon
//! has to run it for ever.

#![cfg(target_arch = "wasm32")]
#![allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    reason = "generated code, which crosses the boundary of the component"
)]

wit_bindgen::generate!({
    path: "../../wit/0.1.0",
    world: "filter",
});

use tidegate::module::types::Keep;
use tidegate::module::{log, settings};

struct Former;

impl Guest for Former {
    fn process(batch: Batch) -> Result<Output, Fault> {
        log::write(log::Level::Debug, &format!("{} rows", batch.series.len()));
        let keep = if settings::boolean("drop") == Some(true) {
            Keep::None
        } else {
            Keep::All
        };
        Ok(Output {
            keep,
            derived: None,
            rejected: Vec::new(),
        })
    }
}

export!(Former);
