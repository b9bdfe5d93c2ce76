//! What a module may import (promise 3): compared by exact name before anything is linked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host::{self, Wasi};
use crate::inspect::{ImportName, Inspection};
use crate::manifest::{Manifest, StateKind};
use crate::worlds::{self, Role};

/// A capability that a site gives to modules.
///
/// `settings` and `clock` are no grants: the one is what the site itself wrote for the slot, the other a constant that
/// came with the batch; neither lets a module learn or do anything that the site did not hand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// Lines in the gateway's log.
    Log,
    /// Numbers on the metrics page.
    Metrics,
    /// State that is kept between batches: per series or global, as the manifest declares.
    State,
    /// Raising and clearing alarms.
    Alarm,
    /// Keyed hashes under secrets that the site names for the slot.
    Secrets,
    /// WASI with an empty context.
    Wasi,
    /// Its clocks: the arrival of the batch.
    #[serde(rename = "wasi:clocks")]
    WasiClocks,
    /// Random bytes.
    #[serde(rename = "wasi:random")]
    WasiRandom,
    /// Standard output and error, as lines of the log.
    #[serde(rename = "wasi:stdout")]
    WasiStdout,
    /// I²C buses that a source hands in.
    I2c,
    /// Devices on SPI that a source hands in.
    Spi,
    /// Single lines that a source hands in.
    Gpio,
    /// Serial lines that a source hands in.
    Uart,
}

impl Grant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Log,
        Self::Metrics,
        Self::State,
        Self::Alarm,
        Self::Secrets,
        Self::Wasi,
        Self::WasiClocks,
        Self::WasiRandom,
        Self::WasiStdout,
        Self::I2c,
        Self::Spi,
        Self::Gpio,
        Self::Uart,
    ];

    /// Whether it is about something that a source hands in, and that no policy gives.
    #[must_use]
    pub fn is_bus(self) -> bool {
        match self {
            Self::I2c | Self::Spi | Self::Gpio | Self::Uart => true,
            Self::Log
            | Self::Metrics
            | Self::State
            | Self::Alarm
            | Self::Secrets
            | Self::Wasi
            | Self::WasiClocks
            | Self::WasiRandom
            | Self::WasiStdout => false,
        }
    }

    /// The word in manifests and in `[policy]`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::State => "state",
            Self::Alarm => "alarm",
            Self::Secrets => "secrets",
            Self::Wasi => "wasi",
            Self::WasiClocks => "wasi:clocks",
            Self::WasiRandom => "wasi:random",
            Self::WasiStdout => "wasi:stdout",
            Self::I2c => "i2c",
            Self::Spi => "spi",
            Self::Gpio => "gpio",
            Self::Uart => "uart",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`Grant`].
#[derive(Debug, thiserror::Error)]
#[error("`{word}` is no grant; there are {}", words())]
pub struct UnknownGrant {
    word: String,
}

fn words() -> String {
    Grant::ALL.map(Grant::as_str).join(", ")
}

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|grant| grant.as_str() == word)
            .ok_or_else(|| UnknownGrant {
                word: word.to_owned(),
            })
    }
}

/// What a slot gets: what the manifest wants and the site gives. A secret that the site names for the slot gives
/// `secrets`, to this slot alone.
#[must_use]
pub fn granted(
    manifest: &Manifest,
    policy: &BTreeSet<Grant>,
    secrets_named: bool,
) -> BTreeSet<Grant> {
    manifest
        .grants
        .iter()
        .copied()
        .filter(|grant| policy.contains(grant) || (secrets_named && *grant == Grant::Secrets))
        .collect()
}

/// Directories, read-only: by the name of each the root that it lies in, under that name.
pub type Directories = BTreeMap<String, PathBuf>;

/// What stands before a directory's name where grants are listed.
const DIRECTORY: &str = "directory:";

/// The directories that a slot gets: those that the manifest wants and the site gives.
#[must_use]
pub fn directories(manifest: &Manifest, site: &Directories) -> Directories {
    let wanted = site
        .iter()
        .filter(|(name, _)| manifest.directories.contains(*name));
    wanted
        .map(|(name, root)| (name.clone(), root.clone()))
        .collect()
}

/// Why a directory cannot be opened now; `None` where it can.
#[must_use]
pub fn directory_problem(root: &Path, name: &str) -> Option<String> {
    host::directory_problem(root, name)
}

/// What a manifest asks for, in words.
#[must_use]
pub fn wanted_words(manifest: &Manifest) -> BTreeSet<String> {
    let grants = manifest.grants.iter().map(ToString::to_string);
    let directories = manifest.directories.iter();
    grants
        .chain(directories.map(|name| format!("{DIRECTORY}{name}")))
        .collect()
}

/// What is given, in words; a directory with its path, since another path is another grant.
#[must_use]
pub fn given_words(grants: &BTreeSet<Grant>, directories: &Directories) -> BTreeSet<String> {
    let grants = grants.iter().map(ToString::to_string);
    grants
        .chain(
            directories
                .iter()
                .map(|(name, root)| given_word(name, root)),
        )
        .collect()
}

/// One directory in words.
#[must_use]
pub fn given_word(name: &str, root: &Path) -> String {
    format!("{DIRECTORY}{name}={}", root.join(name).display())
}

/// Whether a directory of this name is among what was given.
pub(crate) fn names_directory(words: &BTreeSet<String>, name: &str) -> bool {
    let mut named = words.iter().filter_map(|word| word.strip_prefix(DIRECTORY));
    named.any(|named| named.split('=').next() == Some(name))
}

/// The interfaces of the contract; every version so far has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    Types,
    Settings,
    Clock,
    Secrets,
    Log,
    Metrics,
    SeriesState,
    GlobalState,
    Alarm,
    Buses,
    I2c,
    Spi,
    Gpio,
    Uart,
}

impl Interface {
    pub(crate) const ALL: [Self; 14] = [
        Self::Types,
        Self::Settings,
        Self::Clock,
        Self::Secrets,
        Self::Log,
        Self::Metrics,
        Self::SeriesState,
        Self::GlobalState,
        Self::Alarm,
        Self::Buses,
        Self::I2c,
        Self::Spi,
        Self::Gpio,
        Self::Uart,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Types => "types",
            Self::Settings => "settings",
            Self::Clock => "clock",
            Self::Secrets => "secrets",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::SeriesState => "series-state",
            Self::GlobalState => "global-state",
            Self::Alarm => "alarm",
            Self::Buses => "buses",
            Self::I2c => "i2c",
            Self::Spi => "spi",
            Self::Gpio => "gpio",
            Self::Uart => "uart",
        }
    }

    /// Whether the worlds of a role have it. Alarms and state by series are about the rows of a batch, which only filters
    /// are given.
    fn is_for(self, role: Role) -> bool {
        match self {
            Self::Alarm | Self::SeriesState => role == Role::Filter,
            Self::Secrets => role != Role::Driver,
            Self::Buses | Self::I2c | Self::Spi | Self::Gpio | Self::Uart => role == Role::Driver,
            Self::Types
            | Self::Settings
            | Self::Clock
            | Self::Log
            | Self::Metrics
            | Self::GlobalState => true,
        }
    }

    /// The grant it takes; `None` where it carries no authority.
    fn grant(self) -> Option<Grant> {
        match self {
            // Waiting, and what errors are called.
            Self::Buses => None,
            Self::I2c => Some(Grant::I2c),
            Self::Spi => Some(Grant::Spi),
            Self::Gpio => Some(Grant::Gpio),
            Self::Uart => Some(Grant::Uart),
            Self::Types | Self::Settings | Self::Clock => None,
            Self::Secrets => Some(Grant::Secrets),
            Self::Log => Some(Grant::Log),
            Self::Metrics => Some(Grant::Metrics),
            Self::SeriesState | Self::GlobalState => Some(Grant::State),
            Self::Alarm => Some(Grant::Alarm),
        }
    }
}

/// An import that is let in: the name that the component knows it by, and what it leads to. The versions of an interface
/// lead to the same functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linked {
    pub(crate) name: ImportName,
    pub(crate) leads_to: LeadsTo,
}

/// The two things that an import can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeadsTo {
    /// An interface of the contract.
    Contract(Interface),
    /// One of WASI.
    Wasi(Wasi),
}

/// One import that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The import, by full name and version; or `directory:` and the name of one.
    pub import: ImportName,
    /// Why, and what would let it in.
    pub why: String,
}

/// Imports that a module was not granted: all of them, so that one look is enough.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("module `{module}` imports what it was not granted:{}", list(.refused))]
pub struct NotGranted {
    /// The module.
    pub module: String,
    /// Each of them.
    pub refused: Vec<Refusal>,
}

fn list(refused: &[Refusal]) -> String {
    refused
        .iter()
        .map(|refusal| format!("\n  {}: {}", refusal.import, refusal.why))
        .collect()
}

/// The interfaces to link for a module.
///
/// Names are compared as they are: the linker itself would also take semver-compatible ones.
///
/// # Errors
/// Every import that is unknown, not granted, or at odds with the manifest's state.
pub(crate) fn check(
    manifest: &Manifest,
    inspection: &Inspection,
    grants: &BTreeSet<Grant>,
    directories: &Directories,
) -> Result<Vec<Linked>, NotGranted> {
    let mut linked = Vec::new();
    let mut refused = Vec::new();
    for import in &inspection.imports {
        match judge(import, manifest, grants) {
            Ok(leads_to) => linked.push(Linked {
                name: import.clone(),
                leads_to,
            }),
            Err(why) => refused.push(Refusal {
                import: import.clone(),
                why,
            }),
        }
    }
    for name in &manifest.directories {
        if !directories.contains_key(name) {
            refused.push(Refusal {
                import: ImportName(format!("{DIRECTORY}{name}")),
                why: format!("`{name}` is not among the site's `[policy] directories`"),
            });
        }
    }
    if refused.is_empty() {
        return Ok(linked);
    }
    Err(NotGranted {
        module: manifest.name.clone(),
        refused,
    })
}

/// Every import and directory of a module that these grants refuse; none when it can be linked. For `tidegate module test`.
#[must_use]
pub fn refused(
    manifest: &Manifest,
    inspection: &Inspection,
    grants: &BTreeSet<Grant>,
    directories: &Directories,
) -> Vec<Refusal> {
    check(manifest, inspection, grants, directories)
        .err()
        .map_or_else(Vec::new, |error| error.refused)
}

fn judge(
    import: &ImportName,
    manifest: &Manifest,
    grants: &BTreeSet<Grant>,
) -> Result<LeadsTo, String> {
    if let Some(wasi) = Wasi::find(&import.0) {
        return given(Some(wasi.grant()), manifest, grants).map(|()| LeadsTo::Wasi(wasi));
    }
    if let Some(why) = Wasi::refusal(&import.0) {
        return Err(why.to_owned());
    }
    let Some(interface) = worlds::of_contract(&import.0)
        .and_then(|(name, _)| Interface::ALL.into_iter().find(|i| i.name() == name))
    else {
        return Err("this daemon has no such capability".to_owned());
    };
    let world = manifest.world;
    if !interface.is_for(world.role()) {
        return Err(format!("the world `{world}` has no such capability"));
    }
    let declared = match interface {
        Interface::SeriesState => matches!(manifest.state, StateKind::Series { .. }),
        Interface::GlobalState => manifest.state == StateKind::Global,
        Interface::Types
        | Interface::Settings
        | Interface::Clock
        | Interface::Secrets
        | Interface::Log
        | Interface::Metrics
        | Interface::Alarm
        | Interface::Buses
        | Interface::I2c
        | Interface::Spi
        | Interface::Gpio
        | Interface::Uart => true,
    };
    given(interface.grant(), manifest, grants)?;
    match declared {
        true => Ok(LeadsTo::Contract(interface)),
        false => Err("the manifest's `state` does not declare this kind of state".to_owned()),
    }
}

/// Whether the manifest asks for a grant and the site gives it.
fn given(
    grant: Option<Grant>,
    manifest: &Manifest,
    grants: &BTreeSet<Grant>,
) -> Result<(), String> {
    match grant {
        Some(grant) if !manifest.grants.contains(&grant) => Err(format!(
            "the manifest's `grants` does not ask for `{grant}`"
        )),
        Some(Grant::Secrets) if !grants.contains(&Grant::Secrets) => {
            Err("no secret is named for this slot".to_owned())
        }
        Some(grant) if grant.is_bus() && !grants.contains(&grant) => Err(format!(
            "the source hands in nothing of it: write {grant} = {{ NAME = {{ … }} }} in its section"
        )),
        Some(grant) if !grants.contains(&grant) => Err(format!(
            "`{grant}` is not among the site's `[policy] grants`"
        )),
        Some(_) | None => Ok(()),
    }
}
