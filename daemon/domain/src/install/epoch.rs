//! One epoch of a channel, as it lies on the device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::channel::Version;

/// What a channel named, once all of it was verified and here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Epoch {
    /// The channel.
    pub channel: String,
    /// Its number; higher than that of all before it.
    pub epoch: u64,
    /// SHA-256 of its document: what an epoch is known by.
    pub document: String,
    /// By name.
    pub modules: Vec<EpochModule>,
}

/// A module of an epoch, whose files are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EpochModule {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of the component.
    pub digest: String,
    /// Its bytes.
    pub bytes: u64,
    /// The world that it implements.
    pub world: String,
    /// Of the release document.
    pub release: String,
    /// Of the golden vectors, where it has any.
    pub vectors: Option<String>,
    /// Of the software bill of materials, CycloneDX, where there is one.
    pub sbom: Option<String>,
    /// Of the provenance, in-toto, where there is one.
    pub provenance: Option<String>,
    /// The least version that may run at all, as the channel says.
    pub minimum: Option<String>,
    /// What the channel sets of its settings.
    pub settings: Option<Map<String, Value>>,
}

impl Epoch {
    /// A module of it, by name.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<&EpochModule> {
        self.modules.iter().find(|module| module.name == name)
    }
}

/// The least version of a module that may run, where this one is below it. A version that cannot be read is below all.
pub(super) fn least<'a>(
    minimums: &'a BTreeMap<String, Version>,
    module: &str,
    version: &str,
) -> Option<&'a Version> {
    let least = minimums.get(module)?;
    match version.parse::<Version>() {
        Ok(version) if version >= *least => None,
        Ok(_) | Err(_) => Some(least),
    }
}
