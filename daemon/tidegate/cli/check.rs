//! `tidegate check`: every problem of the configuration at once.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::{CONFIGURATION, DONE, Failure, Site, say, say_json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 0 when the gateway can run with it, 78 when not.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let loaded = arguments.site.read_to_run();
    let usable = loaded.config.is_some();
    if arguments.json {
        say_json(&loaded.problems)?;
    } else {
        let mut stdout = std::io::stdout().lock();
        let color = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        write!(stdout, "{}", loaded.problems.render(color))?;
        drop(stdout);
        if let Some(config) = &loaded.config {
            say(format_args!(
                "{}: {} sources, {} pipelines, {} uplinks, nothing keeps it from running",
                arguments.site.config.display(),
                config.sources.len(),
                config.pipelines.len(),
                config.uplinks.len()
            ))?;
        }
    }
    Ok(if usable { DONE } else { CONFIGURATION })
}
