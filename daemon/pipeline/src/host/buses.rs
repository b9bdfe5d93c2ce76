//! `buses`, `i2c`, `spi`, `gpio`, `uart`: what a driver asks of what it was handed.

use std::time::Duration;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, Lower};

use super::{Call, Violation};
use crate::buses::{BusErrorKind, Denied, PollBuses, Step};

/// `buses.error`
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
enum Code {
    #[component(name = "not-granted")]
    NotGranted,
    #[component(name = "no-acknowledge")]
    NoAcknowledge,
    #[component(name = "arbitration-loss")]
    ArbitrationLoss,
    #[component(name = "bus")]
    Bus,
    #[component(name = "overrun")]
    Overrun,
    #[component(name = "mode-fault")]
    ModeFault,
    #[component(name = "frame-format")]
    FrameFormat,
    #[component(name = "too-long")]
    TooLong,
    #[component(name = "other")]
    Other,
}

impl From<BusErrorKind> for Code {
    fn from(kind: BusErrorKind) -> Self {
        match kind {
            BusErrorKind::NotGranted => Self::NotGranted,
            BusErrorKind::NoAcknowledge => Self::NoAcknowledge,
            BusErrorKind::ArbitrationLoss => Self::ArbitrationLoss,
            BusErrorKind::Bus => Self::Bus,
            BusErrorKind::Overrun => Self::Overrun,
            BusErrorKind::ModeFault => Self::ModeFault,
            BusErrorKind::FrameFormat => Self::FrameFormat,
            BusErrorKind::TooLong => Self::TooLong,
            BusErrorKind::Other => Self::Other,
        }
    }
}

/// `i2c.operation`
#[derive(ComponentType, Lift)]
#[component(variant)]
enum I2cOperation {
    #[component(name = "read")]
    Read(u32),
    #[component(name = "write")]
    Write(Vec<u8>),
}

/// `spi.operation`
#[derive(ComponentType, Lift)]
#[component(variant)]
enum SpiOperation {
    #[component(name = "read")]
    Read(u32),
    #[component(name = "write")]
    Write(Vec<u8>),
    #[component(name = "transfer")]
    Transfer(Vec<u8>),
    #[component(name = "delay")]
    Delay(u32),
}

/// Bytes of one read; the poll's own bound is what counts beyond.
const READ_BYTES: u32 = 256 * 1024;

/// Steps of one transaction; a bus has its own bound, I²C of Linux 42.
const STEPS: usize = 256;

type Answer<T> = wasmtime::Result<(Result<T, Code>,)>;

/// The poll's buses. Only a driver's component can be linked with these functions.
fn buses<'a>(cx: &'a mut StoreContextMut<'_, Call>) -> wasmtime::Result<&'a mut PollBuses> {
    let violation = || Violation("there are no buses outside of a poll".to_owned());
    Ok(cx.data_mut().buses.as_mut().ok_or_else(violation)?)
}

/// What the guest is told, or the end of it.
fn answer<T>(done: Result<T, Denied>) -> Answer<T> {
    match done {
        Ok(done) => Ok((Ok(done),)),
        Err(Denied::Told(kind)) => Ok((Err(kind.into()),)),
        Err(Denied::Ended(error)) => Err(wasmtime::Error::new(error)),
    }
}

fn read(count: u32) -> Result<Step, Denied> {
    let count = usize::try_from(count).ok().filter(|_| count <= READ_BYTES);
    let count = count.ok_or(Denied::Told(BusErrorKind::TooLong))?;
    Ok(Step::Read(vec![0; count]))
}

fn bounded(steps: usize) -> Result<(), Denied> {
    match steps <= STEPS {
        true => Ok(()),
        false => Err(Denied::Told(BusErrorKind::TooLong)),
    }
}

/// What was read, in order.
fn came(steps: Vec<Step>) -> Vec<Vec<u8>> {
    let came = steps.into_iter().filter_map(|step| match step {
        Step::Read(bytes) | Step::Transfer(bytes) => Some(bytes),
        Step::Write(_) | Step::Delay(_) => None,
    });
    came.collect()
}

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "delay",
        |mut cx: StoreContextMut<'_, Call>, (time,): (u64,)| {
            buses(&mut cx)?
                .delay(Duration::from_nanos(time))
                .map_err(wasmtime::Error::new)
        },
    )
}

pub(super) fn link_i2c(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "address",
        |mut cx: StoreContextMut<'_, Call>, (name,): (String,)| {
            Ok((buses(&mut cx)?.address(&name),))
        },
    )?;
    instance.func_wrap(
        "transaction",
        |mut cx: StoreContextMut<'_, Call>,
         (name, address, operations): (String, u16, Vec<I2cOperation>)|
         -> Answer<Vec<Vec<u8>>> {
            let buses = buses(&mut cx)?;
            let steps = bounded(operations.len()).and_then(|()| {
                let steps = operations.into_iter().map(|operation| match operation {
                    I2cOperation::Read(count) => read(count),
                    I2cOperation::Write(bytes) => Ok(Step::Write(bytes)),
                });
                steps.collect::<Result<Vec<Step>, Denied>>()
            });
            answer(steps.and_then(|mut steps| {
                buses.i2c(&name, address, &mut steps)?;
                Ok(came(steps))
            }))
        },
    )
}

pub(super) fn link_spi(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "transaction",
        |mut cx: StoreContextMut<'_, Call>,
         (name, operations): (String, Vec<SpiOperation>)|
         -> Answer<Vec<Vec<u8>>> {
            let buses = buses(&mut cx)?;
            let steps = bounded(operations.len()).and_then(|()| {
                let steps = operations.into_iter().map(|operation| match operation {
                    SpiOperation::Read(count) => read(count),
                    SpiOperation::Write(bytes) => Ok(Step::Write(bytes)),
                    SpiOperation::Transfer(bytes) => Ok(Step::Transfer(bytes)),
                    SpiOperation::Delay(time) => Ok(Step::Delay(time)),
                });
                steps.collect::<Result<Vec<Step>, Denied>>()
            });
            answer(steps.and_then(|mut steps| {
                buses.spi(&name, &mut steps)?;
                Ok(came(steps))
            }))
        },
    )
}

pub(super) fn link_gpio(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "is-high",
        |mut cx: StoreContextMut<'_, Call>, (name,): (String,)| -> Answer<bool> {
            answer(buses(&mut cx)?.is_high(&name))
        },
    )?;
    instance.func_wrap(
        "set-high",
        |mut cx: StoreContextMut<'_, Call>, (name, high): (String, bool)| -> Answer<()> {
            answer(buses(&mut cx)?.set_high(&name, high))
        },
    )
}

pub(super) fn link_uart(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "read",
        |mut cx: StoreContextMut<'_, Call>, (name, most): (String, u32)| -> Answer<Vec<u8>> {
            answer(buses(&mut cx)?.receive(&name, most))
        },
    )?;
    instance.func_wrap(
        "write",
        |mut cx: StoreContextMut<'_, Call>, (name, bytes): (String, Vec<u8>)| -> Answer<()> {
            answer(buses(&mut cx)?.send(&name, &bytes))
        },
    )
}
