//! `wasi:clocks`: both are the arrival of the batch, as `clock` is, so that a replay gives the same result. They stand
//! still during a call, and nothing sleeps.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, Lower};

use super::super::Call;
use super::io::{Pollable, handle};

type Cx<'a> = StoreContextMut<'a, Call>;

const SECOND: i64 = 1_000_000_000;

/// `datetime`
#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

impl Datetime {
    /// Seconds since the epoch and nanoseconds beyond; `None` before it.
    pub(super) fn of(seconds: i64, nanoseconds: u32) -> Option<Self> {
        let seconds = u64::try_from(seconds).ok()?;
        Some(Self {
            seconds,
            nanoseconds,
        })
    }

    /// Nanoseconds since the epoch; what lies before it is the epoch.
    fn at(nanoseconds: i64) -> Self {
        let nanoseconds = nanoseconds.max(0);
        Self {
            seconds: (nanoseconds / SECOND).unsigned_abs(),
            // Less than a second.
            nanoseconds: u32::try_from(nanoseconds % SECOND).unwrap_or(0),
        }
    }
}

pub(super) fn link_wall(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |cx: Cx<'_>, (): ()| {
        Ok((Datetime::at(cx.data().clock),))
    })?;
    instance.func_wrap("resolution", |_: Cx<'_>, (): ()| Ok((Datetime::at(1),)))
}

pub(super) fn link_monotonic(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |cx: Cx<'_>, (): ()| {
        Ok((u64::try_from(cx.data().clock).unwrap_or(0),))
    })?;
    instance.func_wrap("resolution", |_: Cx<'_>, (): ()| Ok((1_u64,)))?;
    for name in ["subscribe-instant", "subscribe-duration"] {
        instance.func_wrap(name, |mut cx: Cx<'_>, (_,): (u64,)| {
            handle(&mut cx, Pollable)
        })?;
    }
    Ok(())
}
