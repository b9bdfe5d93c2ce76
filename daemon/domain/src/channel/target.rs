//! Names of targets.

use std::fmt;

use super::words::{Name, Version};
use crate::limits;

/// A target of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A file of one version of a module.
    Module {
        /// The module.
        name: Name,
        /// The version.
        version: Version,
        /// Which file.
        part: Part,
    },
    /// A channel document.
    Channel(Name),
}

/// The files of one version of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The component.
    Component,
    /// The release document.
    Release,
    /// The golden vectors.
    Vectors,
    /// The software bill of materials.
    Sbom,
    /// The provenance.
    Provenance,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Component,
        Self::Release,
        Self::Vectors,
        Self::Sbom,
        Self::Provenance,
    ];

    /// What stands behind the version.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Component => ".wasm",
            Self::Release => ".json",
            Self::Vectors => ".vectors.json",
            Self::Sbom => ".cdx.json",
            Self::Provenance => ".intoto.json",
        }
    }

    /// The most bytes that it has.
    #[must_use]
    pub fn most_bytes(self) -> u64 {
        match self {
            Self::Component => limits::MODULE_FILE_MOST_BYTES,
            Self::Release => limits::RELEASE_BYTES as u64,
            Self::Vectors => limits::VECTORS_BYTES as u64,
            Self::Sbom => limits::SBOM_BYTES as u64,
            Self::Provenance => limits::PROVENANCE_BYTES as u64,
        }
    }
}

impl Target {
    /// What a target's name means; `None` for one that is none of ours, which may be a later version's.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut segments = path.split('/');
        let target = match (segments.next()?, segments.next()?, segments.next()) {
            ("modules", name, Some(file)) => {
                // The longest suffix first: `.json` ends all but the component.
                let mut parts = Part::ALL;
                parts.sort_by_key(|part| std::cmp::Reverse(part.suffix().len()));
                let (part, version) = parts
                    .iter()
                    .find_map(|part| Some((*part, file.strip_suffix(part.suffix())?)))?;
                Self::Module {
                    name: name.parse().ok()?,
                    version: version.parse().ok()?,
                    part,
                }
            }
            ("channels", file, None) => Self::Channel(file.strip_suffix(".json")?.parse().ok()?),
            _ => return None,
        };
        segments.next().is_none().then_some(target)
    }

    /// The most bytes that it has.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        match self {
            Self::Module { part, .. } => part.most_bytes(),
            Self::Channel(_) => limits::CHANNEL_BYTES as u64,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module {
                name,
                version,
                part,
            } => write!(f, "modules/{name}/{version}{}", part.suffix()),
            Self::Channel(name) => write!(f, "channels/{name}.json"),
        }
    }
}
