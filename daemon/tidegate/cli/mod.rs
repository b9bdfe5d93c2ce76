//! The command line: one file a command.

mod alarm;
mod audit;
mod check;
mod compile;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
#[cfg(feature = "publish")]
mod fleet;
mod history;
mod identity;
mod ledger;
mod modbus;
mod module;
mod probe;
mod quarantine;
mod rehearse;
#[cfg(feature = "publish")]
mod repo;
mod run;
mod status;
#[cfg(feature = "publish")]
mod terminal;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Loaded};
use crate::modules::{self, Missing};

/// Everything went well.
const DONE: u8 = 0;
/// What was asked for failed.
const FAILURE: u8 = 1;
/// The configuration, or a file of a newer version, keeps the daemon from starting (`EX_CONFIG` of sysexits.h);
/// a restart would change nothing.
const CONFIGURATION: u8 = 78;

/// Edge gateway daemon: sensor data in, WebAssembly filters, SQLite, summaries out.
///
/// Exit codes: 0 done, 1 failure, 2 usage, 78 configuration.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    Run(run::Arguments),
    /// Check the configuration and print every problem in it
    Check(check::Arguments),
    /// Run the whole gateway on simulated sensors; needs nothing else
    #[cfg(feature = "demo")]
    Demo(demo::Arguments),
    /// Print what came in, what became of it and what left
    Ledger(ledger::Arguments),
    /// Look at every file of the state directory and say what is wrong; salvage a damaged database
    Doctor(doctor::Arguments),
    /// Print the state of the running gateway
    Status(status::Arguments),
    /// See which alarms hold
    #[command(subcommand)]
    Alarm(alarm::Command),
    /// Print, prove and export what was done to the gateway, and by whom
    #[command(subcommand)]
    Audit(audit::Command),
    /// The gateway's key pair: a certificate request of it, and the certificate
    #[command(subcommand)]
    Identity(identity::Command),
    /// Print the readings that are kept on the device, by series and time
    History(history::Arguments),
    /// Look into what was set aside; replay or drop it
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Read and write single values of Modbus slaves; import a register map
    #[command(subcommand)]
    Modbus(modbus::Command),
    /// See which serial devices there are, listen on one, find Modbus slaves
    Probe(probe::Arguments),
    /// Look into filter modules; begin a new one
    #[command(subcommand)]
    Module(module::Command),
    /// Publish modules for gateways: make, fill and sign a repository
    #[cfg(feature = "publish")]
    #[command(subcommand)]
    Repo(repo::Command),
    /// Take a release from wave to wave by what gateways report, and halt a bad one
    #[cfg(feature = "publish")]
    #[command(subcommand)]
    Fleet(fleet::Command),
    /// Compile a component for this machine (run by the daemon in a child process)
    #[command(hide = true)]
    Compile(compile::Arguments),
}

/// The variable that `--state-dir` stands for.
const STATE_DIR: &str = "TIDEGATE__GATEWAY__STATE_DIR";

/// Where a gateway's files are.
#[derive(Debug, Args)]
struct Site {
    /// The configuration file; `conf.d/*.toml` beside it and TIDEGATE__SECTION__KEY are read after it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/tidegate/tidegate.toml"
    )]
    config: PathBuf,
    /// Overrides `gateway.state-dir`
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// An error with the exit code that it ends in.
#[derive(Debug)]
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: FAILURE,
            error: error.into(),
        }
    }
}

impl Failure {
    fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: CONFIGURATION,
            error: error.into(),
        }
    }
}

/// Runs a command to its end and gives the process's exit code.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Ledger(arguments) => ledger::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Alarm(command) => alarm::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Identity(command) => identity::run(&command),
        Command::History(arguments) => history::run(&arguments),
        Command::Quarantine(command) => quarantine::run(&command),
        Command::Modbus(command) => modbus::run(&command),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Module(command) => module::run(&command),
        #[cfg(feature = "publish")]
        Command::Repo(command) => repo::run(&command),
        #[cfg(feature = "publish")]
        Command::Fleet(command) => fleet::run(&command),
        Command::Compile(arguments) => compile::run(&arguments),
    };
    ExitCode::from(result.unwrap_or_else(|failure| {
        say_error(&failure.error);
        failure.code
    }))
}

impl Site {
    /// Loads the configuration for looking at a gateway's files; problems are printed, and errors among them end in exit
    /// code 78.
    fn load(&self) -> Result<Config, Failure> {
        self.accept(config::load(&self.config, self.environment()))
    }

    /// Loads the configuration for what mends it: files of TLS that cannot be used are no reason not to.
    fn load_with_faults(&self) -> Result<Config, Failure> {
        self.accept(config::load_to_start(&self.config, self.environment()))
    }

    /// The environment with what was given in its place: what depends on a value is judged by the one that counts.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let given = self.state_dir.as_ref().map(|dir| {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            let quoted = serde_json::Value::from(dir.to_string_lossy()).to_string();
            (STATE_DIR.into(), quoted.into())
        });
        let others = std::env::vars_os().filter(|(name, _)| given.is_none() || name != STATE_DIR);
        others.chain(given.clone()).collect()
    }

    /// Where the state is: as given, else as configured.
    fn state_dir(&self) -> Result<PathBuf, Failure> {
        match &self.state_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(self.load()?.gateway.state_dir),
        }
    }

    /// Loads the configuration for running it: the modules that it names must be there and take their settings.
    fn load_to_run(&self) -> Result<Config, Failure> {
        self.accept(self.read_to_run())
    }

    /// The same where modules are waited for that only the channel gives.
    fn load_to_wait(&self) -> Result<Config, Failure> {
        let loaded = config::load(&self.config, self.environment());
        self.accept(with_modules(loaded, Missing::MayCome))
    }

    /// The same at the start, where nothing runs instead: see [`config::load_to_start`].
    fn load_to_start(&self) -> Result<Config, Failure> {
        let loaded = config::load_to_start(&self.config, self.environment());
        self.accept(with_modules(loaded, Missing::MayCome))
    }

    /// The configuration with every problem that keeps it from running.
    fn read_to_run(&self) -> Loaded {
        let loaded = config::load(&self.config, self.environment());
        with_modules(loaded, Missing::IsProblem)
    }

    fn accept(&self, loaded: Loaded) -> Result<Config, Failure> {
        if !loaded.problems.is_empty() {
            let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let mut stderr = std::io::stderr().lock();
            write!(stderr, "{}", loaded.problems.render(color))?;
        }
        loaded.config.ok_or_else(|| {
            Failure::configuration(anyhow::anyhow!(
                "{} cannot be used; see above",
                self.config.display()
            ))
        })
    }
}

/// Adds what is wrong with the modules that a configuration names.
fn with_modules(mut loaded: Loaded, missing: Missing) -> Loaded {
    if let Some(config) = &loaded.config {
        modules::check(config, missing, &mut loaded.problems);
    }
    if loaded.problems.has_errors() {
        loaded.config = None;
    }
    loaded
}

/// Prints a line to standard output. A reader that went away (`| head`) is no error.
fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints a value as JSON to standard output.
fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(serde_json::to_string_pretty(value)?)
}

fn say_error(error: &anyhow::Error) {
    // Standard error is all that is left to report to; where it is closed, the exit code still tells.
    writeln!(std::io::stderr().lock(), "tidegate: {error:#}").unwrap_or_default();
}
