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
//! A filter that also acts when nothing arrives has a second function, over a [`Tick`]: `filter!(process, tick = look)`.
//!
//! A decoder, which stands where a source's `decode` does, is a function over messages and the macro [`decoder!`].
//!
//! A driver, which is a source of its own, is a function that reads a bus and the macro [`driver!`]; its buses are those of
//! `embedded-hal` (the feature `driver`).
//!
//! Natively the same function runs under `test::Harness`; the contract itself is `modules/wit/0.2.0/module.wit`.

mod batch;
mod capability;
mod decoder;
#[cfg(feature = "driver")]
mod driver;
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
mod tick;

pub use batch::{Batch, PerSeries, Quality, Row, Value};
pub use capability::{alarm, clock, global_state, log, metrics, secrets, settings};
pub use decoder::{Decoded, Decoder, DecoderAnswer, Message, Messages, Rows, is_decoder};
#[cfg(feature = "driver")]
pub use driver::{BusError, Delay, Driver, I2c, Pin, Readings, Spi, Uart, is_driver};
pub use filter::{Fault, Filter, Stateful, Stateless, is_filter};
pub use number::Number;
pub use output::Output;
pub use record::{Field, Record, State};
pub use tick::{Added, AddedRow, OnTick, Series, Tick, is_tick};

/// Bytes of a series name; a longer one is refused by the gateway.
pub const SERIES_NAME_BYTES: usize = 512;

/// Makes a function the filter of this component.
///
/// The function is `fn(&Batch, &mut Output) -> Result<(), Fault>`, or `fn(&Batch, &mut State<R>, &mut Output) ->
/// Result<(), Fault>` with a [`Record`] `R`, whose width the manifest declares.
///
/// With `filter!(process, tick = look)` the gateway calls a second function at the interval of the manifest's
/// `tick-seconds`: `fn(&Tick, &mut Added) -> Result<(), Fault>`, or `fn(&Tick, &mut State<R>, &mut Added) -> Result<(),
/// Fault>` with the same record.
///
/// ```
/// use tidegate_sdk::{Added, Batch, Fault, Output, Quality, State, Tick};
///
/// tidegate_sdk::filter!(count, tick = tell);
///
/// tidegate_sdk::record! {
///     layout 1;
///     struct Count { readings: u64 }
/// }
///
/// /// Counts the readings of every series, and takes them out.
/// fn count(batch: &Batch, state: &mut State<Count>, out: &mut Output) -> Result<(), Fault> {
///     for row in batch.rows() {
///         state[row].get_or_insert(Count { readings: 0 }).readings += 1;
///         out.drop(row);
///     }
///     Ok(())
/// }
///
/// /// Tells of every series how many there were since the last tick.
/// fn tell(tick: &Tick, state: &mut State<Count>, out: &mut Added) -> Result<(), Fault> {
///     for series in tick.series() {
///         if let Some(count) = state[series].take() {
///             out.add(series.name(), tick.now(), count.readings as f64, Quality::Good);
///         }
///     }
///     Ok(())
/// }
/// ```
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
    ($process:path, tick = $tick:path) => {
        const _: () = $crate::is_filter(&$process);
        const _: () = $crate::is_tick(&$tick);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::ticking_bindings::Guest for Component {
                fn process(
                    batch: $crate::bindings::Batch,
                ) -> Result<$crate::bindings::Output, $crate::bindings::Fault> {
                    $crate::guest::process(&$process, batch)
                }

                fn tick(
                    now: i64,
                    series: Vec<String>,
                ) -> Result<$crate::bindings::Batch, $crate::bindings::Fault> {
                    $crate::guest::tick(&$tick, now, series)
                }
            }

    $crate::ticking_bindings::export_ticking_filter!(Component with_types_in $crate::ticking_bindings);
        };
    };
}

/// Makes a function the decoder of this component: `fn(&Messages, &mut Decoded) -> Result<(), Fault>`.
///
/// ```
/// use tidegate_sdk::{Decoded, Fault, Messages, Quality};
///
/// tidegate_sdk::decoder!(lengths);
///
/// /// Of every message its length.
/// fn lengths(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
///     for message in messages.iter() {
///         out.message(message, |rows| {
///             let length = message.payload().len() as f64;
///             rows.add(message.topic(), message.time(), length, Quality::Good)
///         });
///     }
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! decoder {
    ($decode:path) => {
        const _: () = $crate::is_decoder(&$decode);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::decoder_bindings::Guest for Component {
                fn decode(
                    messages: $crate::decoder_bindings::Messages,
                ) -> Result<$crate::decoder_bindings::Decoded, $crate::decoder_bindings::Fault> {
                    $crate::guest::decode(&$decode, messages)
                }
            }

    $crate::decoder_bindings::export_decoder!(Component with_types_in $crate::decoder_bindings);
        };
    };
}

/// Makes a function the driver of this component: `fn(&mut Readings) -> Result<(), Fault>`, called at the source's interval.
///
/// ```
/// use embedded_hal::i2c::I2c as _;
/// use tidegate_sdk::{Fault, I2c, Quality, Readings};
///
/// tidegate_sdk::driver!(poll);
///
/// /// The temperature register of an LM75, in eighths of a degree above five bits of nothing.
/// fn poll(out: &mut Readings) -> Result<(), Fault> {
///     let mut bus = I2c::named("sensor");
///     let mut register = [0; 2];
///     let address = bus.address().map_err(|error| error.to_string())?;
///     bus.write_read(address, &[0], &mut register)
///         .map_err(|error| error.to_string())?;
///     let eighths = i16::from_be_bytes(register) >> 5;
///     out.add("temperature", f64::from(eighths) / 8.0, Quality::Good);
///     Ok(())
/// }
/// ```
#[cfg(feature = "driver")]
#[macro_export]
macro_rules! driver {
    ($poll:path) => {
        const _: () = $crate::is_driver(&$poll);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::driver_bindings::Guest for Component {
                fn poll() -> Result<$crate::driver_bindings::Batch, $crate::driver_bindings::Fault> {
                    $crate::guest::poll(&$poll)
                }
            }

    $crate::driver_bindings::export_driver!(Component with_types_in $crate::driver_bindings);
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

/// The same for the world of ticking filters; the interfaces are those of [`bindings`].
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated code, which crosses the boundary of the component"
)]
pub mod ticking_bindings {
    wit_bindgen::generate!({
        path: "../wit/0.2.0",
        world: "ticking-filter",
        pub_export_macro: true,
        export_macro_name: "export_ticking_filter",
        default_bindings_module: "tidegate_sdk::ticking_bindings",
        with: {
            "tidegate:module/types@0.2.0": crate::bindings::tidegate::module::types,
            "tidegate:module/settings@0.2.0": crate::bindings::tidegate::module::settings,
            "tidegate:module/secrets@0.2.0": crate::bindings::tidegate::module::secrets,
            "tidegate:module/log@0.2.0": crate::bindings::tidegate::module::log,
            "tidegate:module/metrics@0.2.0": crate::bindings::tidegate::module::metrics,
            "tidegate:module/clock@0.2.0": crate::bindings::tidegate::module::clock,
            "tidegate:module/series-state@0.2.0": crate::bindings::tidegate::module::series_state,
            "tidegate:module/global-state@0.2.0": crate::bindings::tidegate::module::global_state,
            "tidegate:module/alarm@0.2.0": crate::bindings::tidegate::module::alarm,
        },
    });
}

/// The same for the world of decoders; the interfaces are those of [`bindings`].
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated code, which crosses the boundary of the component"
)]
pub mod decoder_bindings {
    wit_bindgen::generate!({
        path: "../wit/0.2.0",
        world: "decoder",
        pub_export_macro: true,
        export_macro_name: "export_decoder",
        default_bindings_module: "tidegate_sdk::decoder_bindings",
        with: {
            "tidegate:module/types@0.2.0": crate::bindings::tidegate::module::types,
            "tidegate:module/settings@0.2.0": crate::bindings::tidegate::module::settings,
            "tidegate:module/secrets@0.2.0": crate::bindings::tidegate::module::secrets,
            "tidegate:module/log@0.2.0": crate::bindings::tidegate::module::log,
            "tidegate:module/metrics@0.2.0": crate::bindings::tidegate::module::metrics,
            "tidegate:module/clock@0.2.0": crate::bindings::tidegate::module::clock,
            "tidegate:module/global-state@0.2.0": crate::bindings::tidegate::module::global_state,
        },
    });

    pub use crate::bindings::tidegate::module::types::Undecoded;
}

/// The same for the world of drivers; the interfaces are those of [`bindings`].
#[cfg(all(target_arch = "wasm32", feature = "driver"))]
#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated code, which crosses the boundary of the component"
)]
pub mod driver_bindings {
    wit_bindgen::generate!({
        path: "../wit/0.2.0",
        world: "driver",
        pub_export_macro: true,
        export_macro_name: "export_driver",
        default_bindings_module: "tidegate_sdk::driver_bindings",
        with: {
            "tidegate:module/types@0.2.0": crate::bindings::tidegate::module::types,
            "tidegate:module/settings@0.2.0": crate::bindings::tidegate::module::settings,
            "tidegate:module/log@0.2.0": crate::bindings::tidegate::module::log,
            "tidegate:module/metrics@0.2.0": crate::bindings::tidegate::module::metrics,
            "tidegate:module/clock@0.2.0": crate::bindings::tidegate::module::clock,
            "tidegate:module/global-state@0.2.0": crate::bindings::tidegate::module::global_state,
        },
    });
}

/// Between the generated types and those of this crate. Columns move, nothing is copied.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest {
    use crate::output::{Answer, Keep};
    use crate::{Batch, Decoder, Fault, Filter, Messages, OnTick, bindings, decoder_bindings};

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
            Err(told) => Err(fault(told)),
        }
    }

    /// Runs a filter's tick.
    ///
    /// # Errors
    /// The filter's fault.
    pub fn tick<Kind, F: OnTick<Kind>>(
        tick: &F,
        now: i64,
        series: Vec<String>,
    ) -> Result<bindings::Batch, bindings::Fault> {
        match tick.run(now, series) {
            Ok(rows) => Ok(columns(rows)),
            Err(told) => Err(fault(told)),
        }
    }

    /// Runs a decoder on messages that came in.
    ///
    /// # Errors
    /// The decoder's fault.
    pub fn decode<D: Decoder>(
        decoder: &D,
        messages: decoder_bindings::Messages,
    ) -> Result<decoder_bindings::Decoded, bindings::Fault> {
        let messages = Messages {
            topics: messages.topics,
            topic: messages.topic,
            time: messages.time,
            ends: messages.ends,
            data: messages.data,
        };
        match decoder.run(&messages) {
            Ok(answer) => Ok(decoder_bindings::Decoded {
                rows: columns(answer.rows),
                ends: answer.ends,
                undecoded: answer
                    .undecoded
                    .into_iter()
                    .map(|(message, reason)| decoder_bindings::Undecoded { message, reason })
                    .collect(),
                notes: answer.notes,
            }),
            Err(told) => Err(fault(told)),
        }
    }

    /// Runs a driver.
    ///
    /// # Errors
    /// The driver's fault.
    #[cfg(feature = "driver")]
    pub fn poll<D: crate::Driver>(driver: &D) -> Result<bindings::Batch, bindings::Fault> {
        let mut readings = crate::Readings::default();
        match driver(&mut readings) {
            Ok(()) => Ok(columns(readings.finish())),
            Err(told) => Err(fault(told)),
        }
    }

    fn fault(fault: Fault) -> bindings::Fault {
        bindings::Fault {
            message: fault.into_message(),
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
