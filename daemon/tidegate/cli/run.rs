//! `tidegate run`: the gateway itself.

use clap::Args;

use super::{Failure, Site};
use crate::supervise::Loading;
use crate::{log, supervise};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
}

/// Exit code 0 after an orderly stop, 1 when a stage ended by itself, 78 when the configuration or the store's
/// version keeps it from starting.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let recent = log::start("info");
    let site = &arguments.site;
    let config = site.load_to_start()?;
    supervise::run(config, recent, |loading| {
        let loaded = match loading {
            Loading::ToWait => site.load_to_wait(),
            Loading::ToRun => site.load_to_run(),
        };
        loaded.map_err(|failure| failure.error)
    })
    .map_err(|error| match error {
        supervise::Error::Unusable(error) => Failure::configuration(error),
        supervise::Error::Failed(error) => Failure::from(error),
    })
}
