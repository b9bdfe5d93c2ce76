//! The worlds of the contract: what a module is, and in which version of `tidegate:module` it was built.
//!
//! Versions stay side by side: a component of 0.1.0 runs beside one of 0.2.0. Every interface of 0.1.0 has the same
//! functions in 0.2.0, so that both names lead to the same host functions (`grants.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The package of the contract, with what stands before an interface's or a world's name.
const PACKAGE: &str = "tidegate:module/";

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V01,
    V02,
}

impl Version {
    pub(crate) const ALL: [Self; 2] = [Self::V01, Self::V02];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V01 => "0.1.0",
            Self::V02 => "0.2.0",
        }
    }
}

/// Name and version of something of the contract's: `log` and 0.1.0 of `tidegate:module/log@0.1.0`. Versions are compared
/// as they are: the linker itself would also take semver-compatible ones.
pub(crate) fn of_contract(full: &str) -> Option<(&str, Version)> {
    let (name, version) = full.strip_prefix(PACKAGE)?.split_once('@')?;
    let version = Version::ALL.into_iter().find(|v| v.as_str() == version)?;
    Some((name, version))
}

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Readings in, readings out: it stands in a pipeline's `filters`.
    Filter,
    /// Messages in, readings out: it stands in a source's `decode`.
    Decoder,
    /// A bus in, readings out.
    Driver,
}

impl Role {
    /// What such a module is and where it stands, for an error about one that stands elsewhere.
    #[must_use]
    pub fn place(self) -> &'static str {
        match self {
            Self::Filter => "a filter, and stands in a pipeline: filters = [{ module = \"NAME\" }]",
            Self::Decoder => "a decoder, and stands in a source: decode = { module = \"NAME\" }",
            Self::Driver => {
                "a driver, and is a source of its own: kind = \"driver\", module = \"NAME\""
            }
        }
    }
}

/// A world of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum World {
    /// The filter of 0.1.0.
    Filter01,
    /// The same in 0.2.0.
    Filter,
    /// A filter that also acts when nothing arrives.
    TickingFilter,
    /// A filter whose state has another schema than that of the version before.
    MigratingFilter,
    /// A decoder.
    Decoder,
    /// A driver.
    Driver,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Filter01,
        Self::Filter,
        Self::TickingFilter,
        Self::MigratingFilter,
        Self::Decoder,
        Self::Driver,
    ];

    fn parts(self) -> (&'static str, Version) {
        match self {
            Self::Filter01 => ("filter", Version::V01),
            Self::Filter => ("filter", Version::V02),
            Self::TickingFilter => ("ticking-filter", Version::V02),
            Self::MigratingFilter => ("migrating-filter", Version::V02),
            Self::Decoder => ("decoder", Version::V02),
            Self::Driver => ("driver", Version::V02),
        }
    }

    /// What modules of this world are for.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Filter01 | Self::Filter | Self::TickingFilter | Self::MigratingFilter => {
                Role::Filter
            }
            Self::Decoder => Role::Decoder,
            Self::Driver => Role::Driver,
        }
    }

    /// The functions that a component of this world exports.
    #[must_use]
    pub fn exports(self) -> &'static [&'static str] {
        match self {
            Self::Filter01 | Self::Filter => &[PROCESS],
            Self::TickingFilter => &[PROCESS, TICK],
            Self::MigratingFilter => &[PROCESS, MIGRATE],
            Self::Decoder => &[DECODE],
            Self::Driver => &[POLL],
        }
    }

    /// Whether it is called as time passes.
    pub(crate) fn ticks(self) -> bool {
        self.exports().contains(&TICK)
    }

    pub(crate) fn version(self) -> Version {
        self.parts().1
    }

    /// The world of a component that imports only from one version of the contract and exports these functions.
    pub(crate) fn of(version: Version, exported: impl Fn(&str) -> bool) -> Option<Self> {
        // The richest filter first.
        [
            Self::TickingFilter,
            Self::MigratingFilter,
            Self::Filter,
            Self::Filter01,
            Self::Decoder,
            Self::Driver,
        ]
        .into_iter()
        .filter(|world| world.version() == version)
        .find(|world| world.exports().iter().all(|name| exported(name)))
    }
}

/// What filters export.
pub(crate) const PROCESS: &str = "process";
/// What ticking filters export besides.
pub(crate) const TICK: &str = "tick";
/// What migrating filters export besides.
pub(crate) const MIGRATE: &str = "migrate";
/// What decoders export.
pub(crate) const DECODE: &str = "decode";
/// What drivers export.
pub(crate) const POLL: &str = "poll";

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version) = self.parts();
        write!(f, "{PACKAGE}{name}@{}", version.as_str())
    }
}

impl From<World> for String {
    fn from(world: World) -> Self {
        world.to_string()
    }
}

/// A name that is no [`World`].
#[derive(Debug, thiserror::Error)]
#[error("this daemon has no world `{name}`; it has {}", list())]
pub struct UnknownWorld {
    name: String,
}

fn list() -> String {
    World::ALL.map(|world| format!("`{world}`")).join(", ")
}

impl TryFrom<String> for World {
    type Error = UnknownWorld;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        // The short form of the first contract's only world.
        if name == "filter" {
            return Ok(Self::Filter01);
        }
        Self::ALL
            .into_iter()
            .find(|world| world.to_string() == name)
            .ok_or(UnknownWorld { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_has_one_name_and_is_known_by_what_a_component_exports() {
        for world in World::ALL {
            assert_eq!(World::try_from(world.to_string()).unwrap(), world);
            let exports = |name: &str| world.exports().contains(&name);
            assert_eq!(World::of(world.version(), exports), Some(world));
        }
        assert_eq!(
            World::try_from("filter".to_owned()).unwrap(),
            World::Filter01
        );
        let error = World::try_from("tidegate:module/filter@0.3.0".to_owned()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`tidegate:module/ticking-filter@0.2.0`"),
            "{error}"
        );
        // What 0.1.0 does not have is none of its worlds.
        assert_eq!(World::of(Version::V01, |name| name == DECODE), None);
        assert_eq!(World::of(Version::V02, |_| false), None);
    }

    #[test]
    fn names_of_the_contract_are_those_of_a_version_that_is_there() {
        assert_eq!(
            of_contract("tidegate:module/log@0.2.0"),
            Some(("log", Version::V02))
        );
        for other in [
            "tidegate:module/log@0.2.1",
            "tidegate:module/log",
            "wasi:clocks/wall-clock@0.2.0",
        ] {
            assert_eq!(of_contract(other), None, "{other}");
        }
    }
}
