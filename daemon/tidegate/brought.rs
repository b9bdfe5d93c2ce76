//! What the channel brought and this gateway took: which modules names mean, with which settings, and what may not run.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::Value;
use tidegate_deploy::{Device, DeviceConfig};
use tidegate_domain::channel::{Canary, Channel};
use tidegate_domain::install::{Epoch, EpochModule, Install, Phase};
use tidegate_domain::rollout::Gates;
use tidegate_domain::series::SeriesFilter;
use tidegate_pipeline::{Digest, Manifest, Module, Origin};

use crate::config::{self, Config, SettingsOf};
use crate::install::Damaged;
use crate::kept::Kept;

/// One state of it; another one takes its place whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brought {
    install: Install,
    /// `None` where `[deploy]` is not configured: then nothing came.
    site: Option<Site>,
    /// How the epoch in force wants to be tried.
    canary: Option<Canary>,
}

/// What this site makes of a channel.
#[derive(Clone, Debug)]
struct Site {
    device: Arc<Device>,
    /// Where components lie that ran.
    kept: Kept,
    takes: SeriesFilter,
    settings: SettingsOf,
}

/// Where a setting of the site's file and the channel's differ.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drift {
    pub(crate) pipeline: String,
    pub(crate) filter: String,
    pub(crate) key: String,
    pub(crate) site: Value,
    pub(crate) channel: Value,
}

/// The device's side of the repository that `[deploy]` names.
pub(crate) fn device(config: &Config, deploy: &config::Deploy) -> Device {
    Device::new(DeviceConfig {
        root: deploy.root.clone(),
        channel: deploy.channel.clone(),
        dir: config.gateway.state_dir.join("deploy"),
    })
}

impl Brought {
    /// What is installed, as it lies on the device.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(crate) fn read(config: &Config) -> anyhow::Result<Self> {
        let Some(deploy) = &config.deploy else {
            return Ok(Self::default());
        };
        let device = Arc::new(device(config, deploy));
        let install = device.install()?;
        Self::new(
            &device,
            &Kept::new(&config.gateway.state_dir),
            deploy,
            install,
        )
    }

    /// At the start of a gateway, which must not depend on it: where it cannot be read, what the channel named last is tried, for it
    /// was verified.
    pub(crate) fn at_start(config: &Config) -> anyhow::Result<Self> {
        let error = match Self::read(config) {
            Ok(brought) => return Ok(brought),
            Err(error) => error,
        };
        tracing::error!("what was installed over the air is not known any more: {error:#}");
        let Some(deploy) = &config.deploy else {
            return Ok(Self::default());
        };
        let device = Arc::new(device(config, deploy));
        let mut install = Install::default();
        match device.newest() {
            Ok(Some(newest)) => install.begin(newest),
            Ok(None) => {}
            Err(error) => tracing::error!("and neither is what the channel named: {error}"),
        }
        Self::new(
            &device,
            &Kept::new(&config.gateway.state_dir),
            deploy,
            install,
        )
    }

    /// With another state of the installation.
    pub(crate) fn new(
        device: &Arc<Device>,
        kept: &Kept,
        deploy: &config::Deploy,
        install: Install,
    ) -> anyhow::Result<Self> {
        let document = install
            .in_force
            .as_ref()
            .map(|epoch| device.channel(epoch))
            .transpose();
        let canary = match document {
            Ok(document) => document.flatten().and_then(|channel| channel.canary),
            Err(error) => {
                tracing::warn!("how the channel's modules are to be tried is not known: {error}");
                None
            }
        };
        Ok(Self {
            install,
            canary,
            site: Some(Site {
                device: Arc::clone(device),
                kept: kept.clone(),
                takes: SeriesFilter::new(&deploy.modules).context("deploy.modules")?,
                settings: deploy.settings,
            }),
        })
    }

    /// The same with this epoch in force, for a rehearsal.
    pub(crate) fn with(&self, epoch: &Epoch, channel: &Channel) -> Self {
        let mut with = self.clone();
        with.install.begin(epoch.clone());
        with.canary = channel.canary.clone();
        with
    }

    /// What is installed.
    pub(crate) fn install(&self) -> &Install {
        &self.install
    }

    /// A module by its name, where the channel gives it and the site takes it. One whose files are damaged is taken from what
    /// was kept of it when it ran; where that is gone too it is as though the channel did not give it, for a gateway
    /// has to start.
    ///
    /// # Errors
    /// A file of it cannot be read, or is not what it should be.
    pub(crate) fn module(&self, name: &str) -> anyhow::Result<Option<Module>> {
        let (Some(site), Some(module)) = (&self.site, self.named(name)) else {
            return Ok(None);
        };
        let Some((component, release)) = site.device.module(module)? else {
            let (name, version) = (&module.name, &module.version);
            let kept = Digest::try_from(module.digest.clone())
                .map_err(anyhow::Error::new)
                .and_then(|digest| site.kept.get(&digest));
            return match kept {
                Ok(kept) => Ok(Some(kept)),
                Err(error) => {
                    tracing::error!(
                        "module {name} {version} of the channel is damaged on the disk, and so is what was kept of it: \
                         {error:#}; until the next look at the repository the name means what this site has itself"
                    );
                    Ok(None)
                }
            };
        };
        let manifest = Value::Object(release.manifest).to_string();
        Ok(Some(Module {
            manifest: Manifest::parse(manifest.as_bytes())
                .with_context(|| format!("module {} {}", module.name, module.version))?,
            component: component.into(),
            origin: Origin::Channel,
        }))
    }

    /// The golden vectors of a module, where it has any.
    ///
    /// # Errors
    /// They cannot be read, or are gone.
    pub(crate) fn vectors(&self, module: &EpochModule) -> anyhow::Result<Option<Vec<u8>>> {
        let (Some(site), Some(digest)) = (&self.site, &module.vectors) else {
            return Ok(None);
        };
        match site.device.read(digest)? {
            Some(bytes) => Ok(Some(bytes)),
            None => {
                let (name, version) = (&module.name, &module.version);
                bail!(Damaged(format!(
                    "the golden vectors of module {name} {version} are damaged"
                )))
            }
        }
    }

    /// What the channel in force says of a module that the site takes from it.
    pub(crate) fn named(&self, name: &str) -> Option<&EpochModule> {
        let site = self.site.as_ref()?;
        let module = self.install.in_force.as_ref()?.module(name)?;
        site.takes.matches(name).then_some(module)
    }

    /// Whether what a name means depends on the epoch in force: it gives the module, or while it is tried, takes away what the
    /// epoch before gave.
    pub(crate) fn concerns(&self, name: &str) -> bool {
        let before = self.install.before.as_ref();
        let before = before.filter(|_| self.install.phase == Phase::Trying);
        let taken = |site: &Site| site.takes.matches(name);
        self.named(name).is_some()
            || before.is_some_and(|before| before.module(name).is_some())
                && self.site.as_ref().is_some_and(taken)
    }

    /// The settings of a filter: the site's and the channel's, one over the other as `deploy.settings` says.
    pub(crate) fn settings(&self, filter: &config::Filter) -> Value {
        let own = filter.settings.clone();
        let (Some(site), Some(module)) = (&self.site, self.named(&filter.module)) else {
            return own;
        };
        let (Some(channel), Value::Object(own)) = (&module.settings, &own) else {
            return own;
        };
        let (mut below, above) = match site.settings {
            SettingsOf::Channel => (own.clone(), channel),
            SettingsOf::Site => (channel.clone(), own),
        };
        below.extend(
            above
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
        Value::Object(below)
    }

    /// Where the site's own settings and the channel's differ.
    pub(crate) fn drift(&self, config: &Config) -> Vec<Drift> {
        let filters = config.pipelines.iter().flat_map(|pipeline| {
            let filters = pipeline.filters.iter();
            filters.map(move |filter| (pipeline, filter))
        });
        let mut drift = Vec::new();
        for (pipeline, filter) in filters {
            let channel = self
                .named(&filter.module)
                .and_then(|module| module.settings.as_ref());
            for (key, value) in channel.into_iter().flatten() {
                let Some(own) = filter.settings.get(key).filter(|own| *own != value) else {
                    continue;
                };
                drift.push(Drift {
                    pipeline: pipeline.name.clone(),
                    filter: filter.name.clone(),
                    key: key.clone(),
                    site: own.clone(),
                    channel: value.clone(),
                });
            }
        }
        drift
    }

    /// What a new generation has to pass.
    pub(crate) fn gates(&self, site: Gates) -> Gates {
        let gate = self.canary.as_ref().map(|canary| canary.gate);
        gate.map_or(site, |gate| gate.over(site))
    }

    /// Whether pipelines go back to what they ran before.
    pub(crate) fn goes_back(&self) -> bool {
        self.install.phase == Phase::GoingBack
    }

    /// Why they do.
    pub(crate) fn why_back(&self) -> String {
        match &self.install.refused {
            Some(refused) => format!("epoch {} was put back: {}", refused.epoch, refused.why),
            None => "the epoch was put back".to_owned(),
        }
    }

    /// Of the modules that the channel in force gives, those that the site takes, by name.
    pub(crate) fn modules(&self) -> BTreeMap<&str, &EpochModule> {
        let epoch = self.install.in_force.iter();
        let modules = epoch.flat_map(|epoch| &epoch.modules);
        modules
            .filter(|module| self.named(&module.name).is_some())
            .map(|module| (module.name.as_str(), module))
            .collect()
    }
}
