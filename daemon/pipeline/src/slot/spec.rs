//! A slot's configuration as text that can be stored, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_domain::rollout::SlotSpec;

use super::{OnFailure, SlotConfig};
use crate::grants::{self, Directories, Grant};
use crate::host::Secret;
use crate::manifest::LoadedModule;

impl SlotConfig {
    /// Everything that decides what the slot does, but for the secrets' bytes.
    #[must_use]
    pub fn spec(&self) -> SlotSpec {
        let manifest = &self.module.manifest;
        SlotSpec {
            filter: self.filter.clone(),
            module: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: self.module.inspection.digest.as_str().to_owned(),
            settings: self.settings.clone(),
            on_failure: self.on_failure.as_str().to_owned(),
            limits: serde_json::to_value(self.limits).unwrap_or_default(),
            wants: grants::wanted_words(manifest),
            grants: grants::given_words(&self.grants, &self.directories),
            secrets: self.secrets.keys().cloned().collect(),
        }
    }

    /// What a stored text says, with the module that it names. It gets no grant that the site does not give any more:
    /// `policy` and `directories` are what it gives now, `secrets` those that it names for the slot.
    ///
    /// # Errors
    /// What of it means nothing to this version.
    pub fn restore(
        spec: &SlotSpec,
        module: Arc<LoadedModule>,
        policy: &BTreeSet<Grant>,
        directories: &Directories,
        secrets: BTreeMap<String, Secret>,
    ) -> Result<Self, String> {
        let now = grants::granted(&module.manifest, policy, !secrets.is_empty());
        let grants = now
            .into_iter()
            .filter(|grant| spec.grants.contains(grant.as_str()));
        Ok(Self {
            filter: spec.filter.clone(),
            settings: spec.settings.clone(),
            on_failure: OnFailure::find(&spec.on_failure)
                .ok_or_else(|| format!("`{}` is no policy on failure", spec.on_failure))?,
            limits: serde_json::from_value(spec.limits.clone())
                .map_err(|error| format!("its limits: {error}"))?,
            grants: grants.collect(),
            directories: grants::directories(&module.manifest, directories)
                .into_iter()
                .filter(|(name, _)| grants::names_directory(&spec.grants, name))
                .collect(),
            secrets: secrets
                .into_iter()
                .filter(|(name, _)| spec.secrets.contains(name))
                .collect(),
            module,
        })
    }
}

impl OnFailure {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Quarantine => "quarantine",
        }
    }

    fn find(word: &str) -> Option<Self> {
        [Self::Pass, Self::Drop, Self::Quarantine]
            .into_iter()
            .find(|policy| policy.as_str() == word)
    }
}
