//! The configuration: what was typed ([`raw`]) and what it means after checking ([`model`]) are two things.
//!
//! Reading never stops at the first mistake: every problem of every file and environment variable is collected, with
//! its place, and rendered like a compiler's. Where one is an error there is no [`Config`].

mod bounds;
mod deploy;
mod driver;
mod modbus;
mod model;
mod mqtt;
mod pipeline;
mod raw;
mod report;
mod rollout;
mod section;
mod serial;
mod source;
mod sysfs;
mod tls;
mod units;
mod uplink;
mod validate;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;

pub(crate) use bounds::Limits;
pub(crate) use modbus::TYPES as MODBUS_TYPES;
pub(crate) use model::{
    Broker, BusGrant, ClockTrust, Config, Decode, Deploy, DriverSource, EventTime, Filter, From,
    Full, Handed, Identity, IdentityBy, ModbusSource, Modules, MqttSource, MqttVersion, OnFailure,
    Pipeline, Policy, Repository, Route, Secret, Send, SerialSource, SettingsOf, Source,
    SourceKind, SysfsSource, TimeUnit, Uplink,
};
#[cfg(feature = "publish")]
pub(crate) use mqtt::{broker_address, secret};
pub(crate) use report::Problems;
pub(crate) use source::CORRELATION_DATA;
pub(crate) use units::duration as parse_duration;

/// What came of reading a configuration.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration, unless `problems` holds an error.
    pub(crate) config: Option<Config>,
    /// Everything that is wrong or looks so.
    pub(crate) problems: Problems,
}

/// Reads the main file at `path`, `conf.d/*.toml` beside it and the variables `TIDEGATE__SECTION__KEY` of `env`, and
/// checks them together. Nothing but files is read, and nothing is written.
pub(crate) fn load(path: &Path, env: impl IntoIterator<Item = (OsString, OsString)>) -> Loaded {
    load_on(path, env, &validate::Host::this(), Purpose::Judge)
}

/// The same for the start of a gateway, which would rather run in part than not at all: what is wrong with the files of
/// TLS is a warning. A power cut in the middle of a renewal must not end what else there is.
pub(crate) fn load_to_start(
    path: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Loaded {
    load_on(path, env, &validate::Host::this(), Purpose::Start)
}

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To be judged: `check`, a reload, which keeps what runs.
    Judge,
    /// To begin with, where nothing else would run instead.
    Start,
}

fn load_on(
    path: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    host: &validate::Host,
    purpose: Purpose,
) -> Loaded {
    let mut problems = Problems::default();
    let raw = raw::read(path, env.into_iter().collect(), &mut problems);
    let base = path.parent().unwrap_or(Path::new(""));
    validate::check(&raw, problems, base, host, purpose)
}
