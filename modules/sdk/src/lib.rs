//! Write Tidegate modules in Rust.
//!
//! A filter is one function and one macro:
//!
//! ```
//! use tidegate_sdk::{Batch, Fault, Output, settings};
//!
//! tidegate_sdk::filter!(ceiling);
//!
//! /// Drops numbers above the setting `max`.
//! fn ceiling(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
//!     let max = settings::number("max").ok_or("the setting `max` is missing")?;
//!     for row in batch.rows() {
//!         if row.number().is_some_and(|number| number > max) {
//!             out.drop(row);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Every row goes on unchanged unless the function says otherwise to [`Output`]. A function that takes a [`State`]
//! between the two keeps a [`Record`] per series from batch to batch. What a filter reaches beyond its batch are the
//! modules [`settings`], [`clock`], [`alarm`], [`log`], [`metrics`], [`secrets`] and [`global_state`]: each but the first
//! two is a grant that its manifest has to name, and only what is called ends up among the component's imports.
//!
//! Natively the same function runs under `test::Harness`; the contract itself is `modules/wit/0.2.0/module.wit`.

mod batch;
mod capability;
mod filter;
pub mod glob;
pub mod hash;
#[cfg(all(target_arch = "wasm32", feature = "bump"))]
#[allow(unsafe_code, reason = "an allocator; SAFETY comments within")]
mod memory;
mod number;
mod output;
mod record;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;

pub use batch::{Batch, PerSeries, Quality, Row, Value};
pub use capability::{alarm, clock, global_state, log, metrics, secrets, settings};
pub use filter::{Fault, Filter, Stateful, Stateless, is_filter};
pub use number::Number;
pub use output::Output;
pub use record::{Field, Record, State};

/// Bytes of a series name; a longer one is refused by the gateway.
pub const SERIES_NAME_BYTES: usize = 512;

/// Makes a function the filter of this component.
///
/// The function is `fn(&Batch, &mut Output) -> Result<(), Fault>`, or `fn(&Batch, &mut State<R>, &mut Output) ->
/// Result<(), Fault>` with a [`Record`] `R`, whose width the manifest declares.
#[macro_export]
macro_rules! filter {
    ($process:path) => {
        const _: () = $crate::is_filter(&$process);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::bindings::Guest for Component {
                fn process(
                    batch: $crate::bindings::Batch,
                ) -> Result<$crate::bindings::Output, $crate::bindings::Fault> {
                    $crate::guest::process(&$process, batch)
                }
            }

    $crate::bindings::export_filter!(Component with_types_in $crate::bindings);
        };
    };
}

/// Generated from `modules/wit/0.2.0/module.wit`.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated code, which crosses the boundary of the component"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit/0.2.0",
        world: "filter",
        pub_export_macro: true,
        export_macro_name: "export_filter",
        default_bindings_module: "tidegate_sdk::bindings",
    });

    pub use tidegate::module::types::{Keep, Rejection};
}

/// Between the generated types and those of this crate. Columns move, nothing is copied.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest {
    use crate::output::{Answer, Keep};
    use crate::{Batch, Filter, bindings};

    /// Runs a filter on a batch that came in.
    ///
    /// # Errors
    /// The filter's fault.
    pub fn process<Kind, F: Filter<Kind>>(
        filter: &F,
        batch: bindings::Batch,
    ) -> Result<bindings::Output, bindings::Fault> {
        let batch = Batch {
            names: batch.names,
            series: batch.series,
            time: batch.time,
            kind: batch.kind,
            bits: batch.bits,
            texts: batch.texts,
            quality: batch.quality,
        };
        match filter.run(batch) {
            Ok(answer) => Ok(output(answer)),
            Err(fault) => Err(bindings::Fault {
                message: fault.into_message(),
            }),
        }
    }

    fn output(answer: Answer) -> bindings::Output {
        bindings::Output {
            keep: match answer.keep {
                Keep::All => bindings::Keep::All,
                Keep::None => bindings::Keep::None,
                Keep::Rows(bitmap) => bindings::Keep::Rows(bitmap),
                Keep::Changed(batch) => bindings::Keep::Changed(columns(batch)),
                Keep::RowsChanged(bitmap, batch) => {
                    bindings::Keep::RowsChanged((bitmap, columns(batch)))
                }
            },
            derived: answer.derived.map(columns),
            rejected: answer
                .rejected
                .into_iter()
                .map(|(row, reason)| bindings::Rejection { row, reason })
                .collect(),
        }
    }

    fn columns(batch: Batch) -> bindings::Batch {
        bindings::Batch {
            names: batch.names,
            series: batch.series,
            time: batch.time,
            kind: batch.kind,
            bits: batch.bits,
            texts: batch.texts,
            quality: batch.quality,
        }
    }
}
