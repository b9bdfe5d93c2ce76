//! `tidegate repo`: the publisher's side of modules over the air.

mod add;
mod channel;
mod sign;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_publish::{
    Error, KeyStore, Passphrase, Repository, Role, Standing, Thresholds, Validity,
};

use super::{DONE, Failure, say, say_json, terminal};
use crate::config::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a repository in a directory, and the keys of its roles
    ///
    /// It is one of The Update Framework: any web server can serve the directory, and a gateway trusts it by its
    /// metadata/1.root.json. Root has three keys, two of which have to sign; targets, snapshot and timestamp have one each. Keep the
    /// root keys elsewhere, apart from each other: they are needed for `rotate` and `refresh --root` alone.
    Init(Init),
    /// Add a version of a module: run its vectors, write its papers, sign
    ///
    /// The manifest lies beside the component as .json, the vectors as the file that it names; of a debug file
    /// NAME.debug.wasm beside it the digest is noted. What was published under a version never changes.
    #[command(disable_version_flag = true)]
    Add(add::Arguments),
    /// Publish what a channel's gateways run
    Publish(channel::Publish),
    /// Give a channel what another one has
    Promote(channel::Promote),
    /// Say which version of a module is the least that a channel's gateways may run, also as their last known good
    Revoke(channel::Revoke),
    /// Sign snapshot and timestamp anew, so that gateways go on believing that nothing newer is there
    Refresh(Refresh),
    /// Give a role new keys
    ///
    /// Gateways follow by the signatures of the old root keys, with the root that they have. The files of the old keys stay where
    /// they are; they sign nothing any more, and can be removed.
    Rotate(Rotate),
    /// Sign a module that reaches a gateway as files, without a repository
    ///
    /// Writes NAME.sig beside the component and its manifest, over both. A gateway with the key in modules.trusted-keys runs the
    /// three files from its [modules] dir.
    Sign(sign::Arguments),
    /// Check a repository and print where it stands, with the public keys of its roles
    Show(Show),
}

/// What every command but `show` is told.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    keeping: Keeping,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What it takes to change a repository.
#[derive(Debug, Args)]
pub(super) struct Keeping {
    /// The repository, the directory that holds metadata/ and targets/
    dir: PathBuf,
    /// A directory of key files (repeatable); new keys go into the first
    #[arg(long, value_name = "KEYDIR", required = true)]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: OfPassphrase,
    /// How long snapshot and timestamp hold: refresh before that
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = valid_for)]
    valid_for: Duration,
}

/// Where the passphrase of keys is. That of an encrypted key is asked for where nothing is named and there is a terminal.
#[derive(Debug, Args)]
struct OfPassphrase {
    /// A file whose first line is the passphrase of the keys
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Ask at the terminal, twice, for a passphrase that new keys get; that of keys that are encrypted is asked for in any case
    #[arg(long, conflicts_with = "passphrase_file")]
    ask_passphrase: bool,
}

impl OfPassphrase {
    /// A store of keys that knows the passphrase or whom to ask.
    fn store(
        &self,
        make: impl FnOnce(Option<Passphrase>) -> Result<KeyStore, Failure>,
    ) -> Result<KeyStore, Failure> {
        let given = match &self.passphrase_file {
            Some(file) => Some(Passphrase::from_file(file)?),
            None if self.ask_passphrase => Some(new_passphrase()?),
            None => None,
        };
        let store = make(given)?;
        Ok(match terminal::is_there() {
            true => store.asking(|key| {
                let question = format!("passphrase of {}", key.display());
                let typed = terminal::ask(&question);
                Passphrase::new(typed.map_err(|error| Error::Value(no_passphrase(&error)))?)
            }),
            false => store,
        })
    }
}

/// Asks for a passphrase that nobody has typed before: twice.
fn new_passphrase() -> anyhow::Result<Passphrase> {
    if !terminal::is_there() {
        bail!(
            "nobody can be asked for a passphrase, there is no terminal; name a file by --passphrase-file"
        );
    }
    let ask = |question| terminal::ask(question).map_err(|error| anyhow!(no_passphrase(&error)));
    let first = ask("passphrase of the new keys")?;
    if ask("the same again")? != first {
        bail!("the two are not the same; nothing was made");
    }
    Ok(Passphrase::new(first)?)
}

fn no_passphrase(error: &std::io::Error) -> String {
    format!("no passphrase was typed ({error}); nothing was changed")
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    common: Common,
    /// Keys of root
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    root_keys: usize,
    /// How many of them have to sign
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    root_threshold: usize,
}

#[derive(Debug, Args)]
pub(super) struct Refresh {
    #[command(flatten)]
    common: Common,
    /// The metadata of targets, too, which hold for a year
    #[arg(long)]
    targets: bool,
    /// The root, too, which holds for two years
    #[arg(long)]
    root: bool,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    common: Common,
    /// Whose keys: root, targets, snapshot or timestamp
    #[arg(long)]
    role: Role,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The repository, the directory that holds metadata/ and targets/
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Init(arguments) => init(arguments),
        Command::Add(arguments) => add::run(arguments),
        Command::Publish(arguments) => channel::publish(arguments),
        Command::Promote(arguments) => channel::promote(arguments),
        Command::Revoke(arguments) => channel::revoke(arguments),
        Command::Refresh(arguments) => refresh(arguments),
        Command::Rotate(arguments) => rotate(arguments),
        Command::Sign(arguments) => sign::run(arguments),
        Command::Show(arguments) => show(arguments),
    }
}

fn init(arguments: &Init) -> Result<u8, Failure> {
    let Init {
        common,
        root_keys,
        root_threshold,
    } = arguments;
    let thresholds = Thresholds {
        root_keys: *root_keys,
        root_threshold: *root_threshold,
    };
    let keys = common.keys()?;
    let made = Repository::init(&common.dir, &keys, thresholds, now()?, common.validity())?;
    common.report(&made, &serde_json::json!({}), || {
        let root = common.dir.join("metadata/1.root.json");
        format!(
            "made {}\ngateways trust it by {}",
            common.dir.display(),
            root.display()
        )
    })
}

fn refresh(arguments: &Refresh) -> Result<u8, Failure> {
    let common = &arguments.common;
    let mut repository = common.open_expired()?;
    repository.refresh(&common.keys()?, arguments.targets, arguments.root)?;
    common.report(&repository, &serde_json::json!({}), || {
        "signed anew".to_owned()
    })
}

fn rotate(arguments: &Rotate) -> Result<u8, Failure> {
    let common = &arguments.common;
    let mut repository = common.open()?;
    let rotated = repository.rotate(arguments.role, &common.keys()?)?;
    common.report(&repository, &rotated, || {
        let new = rotated.new.iter().map(|path| path.display().to_string());
        let new: Vec<String> = new.collect();
        format!(
            "{} has new keys: {}\nthese sign nothing any more: {}",
            rotated.role,
            new.join(", "),
            rotated.retired.join(", ")
        )
    })
}

fn show(arguments: &Show) -> Result<u8, Failure> {
    let repository = Repository::open(&arguments.dir, now()?, Validity::default())?;
    let standing = repository.standing();
    if arguments.json {
        say_json(&standing)?;
    } else {
        print(&standing)?;
    }
    Ok(DONE)
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report<'a, T> {
    #[serde(flatten)]
    done: &'a T,
    #[serde(flatten)]
    standing: Standing,
}

impl Keeping {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn keys(&self) -> Result<KeyStore, Failure> {
        self.passphrase
            .store(|given| Ok(KeyStore::new(self.keys.clone(), given)?))
    }

    fn validity(&self) -> Validity {
        Validity {
            online: self.valid_for,
            ..Validity::default()
        }
    }

    /// The repository, to change what is in it.
    pub(super) fn open(&self) -> Result<Repository, Failure> {
        let repository = self.open_expired()?;
        repository.unexpired()?;
        Ok(repository)
    }

    /// The repository, also where its metadata ran out.
    pub(super) fn open_expired(&self) -> Result<Repository, Failure> {
        Ok(Repository::open(&self.dir, now()?, self.validity())?)
    }
}

impl std::ops::Deref for Common {
    type Target = Keeping;

    fn deref(&self) -> &Keeping {
        &self.keeping
    }
}

impl Common {
    fn report(
        &self,
        repository: &Repository,
        done: &impl Serialize,
        words: impl FnOnce() -> String,
    ) -> Result<u8, Failure> {
        let standing = repository.standing();
        if self.json {
            say_json(&Report { done, standing })?;
        } else {
            say(words())?;
            print(&standing)?;
        }
        Ok(DONE)
    }
}

fn print(standing: &Standing) -> Result<(), Failure> {
    for (role, version) in &standing.versions {
        if let Some(at) = standing.expires.get(role) {
            say(format_args!("{role:<10} version {version}, until {at}"))?;
        }
        for key in standing.keys.get(role).into_iter().flatten() {
            say(format_args!("{:<10} {key}", ""))?;
        }
    }
    say(format_args!("{} targets", standing.targets))
}

/// The time of everything that is written: `SOURCE_DATE_EPOCH` where it is set
/// (<https://reproducible-builds.org/specs/source-date-epoch/>), in whole seconds.
pub(super) fn now() -> Result<jiff::Timestamp, Failure> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is `{text}`, not a number of seconds"))?,
        Err(std::env::VarError::NotPresent) => jiff::Timestamp::now().as_second(),
        Err(error) => {
            return Err(anyhow::Error::from(error)
                .context("SOURCE_DATE_EPOCH")
                .into());
        }
    };
    Ok(jiff::Timestamp::from_second(seconds)?)
}

fn valid_for(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let (least, most) = (Duration::from_mins(1), Duration::from_hours(2 * 365 * 24));
    if (least..=most).contains(&time) {
        Ok(time)
    } else {
        Err("metadata hold for a minute to two years".to_owned())
    }
}
