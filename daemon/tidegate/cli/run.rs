//! `tidegate run`: the gateway itself.

use clap::Args;

use super::{DONE, Failure, Site};
use crate::first::First;
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
    if arguments.site.wait_for_modules()? == First::Stop {
        return Ok(DONE);
    }
    let config = arguments.site.load_to_start()?;
    supervise::run(config, recent, || {
        arguments
            .site
            .load_to_run()
            .map_err(|failure| failure.error)
    })
    .map_err(|error| match error {
        supervise::Error::Unusable(error) => Failure::configuration(error),
        supervise::Error::Failed(error) => Failure::from(error),
    })
}
