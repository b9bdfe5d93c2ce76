//! Which module a name in the configuration means: what the channel brought, else what the site put into its module
//! directory, else one of the factory modules that are built into the binary.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use tidegate_domain::limits::MODULE_FILE_MOST_BYTES;
use tidegate_pipeline::{LoadLimits, Manifest, Module, Origin, Role, inspect};

use crate::brought::Brought;
use crate::config::{self, Config, Problems};
use crate::factory::FACTORY;
use crate::signed::{self, Signer};

/// A name that no module has here, or only one that this site does not let run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoModule(pub(crate) String);

/// Finds a module by its name.
///
/// # Errors
/// Where no module has the name, its files cannot be read, its manifest does not fit, or this site does not let a
/// local file run.
pub(crate) fn resolve(
    name: &str,
    site: &config::Modules,
    brought: &Brought,
) -> anyhow::Result<Module> {
    if let Some(module) = brought.module(name)? {
        return Ok(module);
    }
    let local = site.dir.join(format!("{name}.wasm"));
    if local
        .try_exists()
        .with_context(|| format!("cannot look for {}", local.display()))?
    {
        return local_module(&local, site);
    }
    let Some(factory) = FACTORY.iter().find(|module| module.name == name) else {
        let known: Vec<&str> = FACTORY.iter().map(|module| module.name).collect();
        bail!(NoModule(format!(
            "no module is named `{name}`: {} does not exist, and the factory modules are {}",
            local.display(),
            known.join(", ")
        )));
    };
    let manifest = Manifest::parse(factory.manifest.as_bytes())
        .with_context(|| format!("factory module `{name}`"))?;
    Ok(Module {
        manifest,
        component: Bytes::from_static(factory.component),
        origin: Origin::Factory,
    })
}

/// What a source of `kind = "driver"` has of its own.
pub(crate) fn driver_of(source: &config::Source) -> Option<&config::DriverSource> {
    match &source.kind {
        config::SourceKind::Driver(driver) => Some(driver),
        config::SourceKind::Mqtt(_)
        | config::SourceKind::Serial(_)
        | config::SourceKind::Modbus(_)
        | config::SourceKind::Sysfs(_) => None,
    }
}

/// The modules that a configuration names, decoders and drivers first; one may come several times.
pub(crate) fn named(config: &Config) -> impl Iterator<Item = &String> {
    let decoders = config
        .sources
        .iter()
        .filter_map(|source| match &source.decode {
            config::Decode::Module(decoder) => Some(&decoder.module),
            config::Decode::Json { .. }
            | config::Decode::Text
            | config::Decode::Csv { .. }
            | config::Decode::Regex { .. }
            | config::Decode::Binary { .. }
            | config::Decode::Lines => None,
        });
    let drivers = config.sources.iter().filter_map(driver_of);
    let filters = config
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.filters);
    let decoders = decoders.chain(drivers.map(|driver| &driver.module));
    decoders.chain(filters.map(|filter| &filter.module))
}

/// Those that this gateway has from nowhere, each once.
pub(crate) fn missing(config: &Config, brought: &Brought) -> Vec<String> {
    let named: BTreeSet<&String> = named(config).collect();
    let here = |name: &str| {
        brought.named(name).is_some()
            || FACTORY.iter().any(|factory| factory.name == name)
            || config.modules.dir.join(format!("{name}.wasm")).exists()
    };
    let missing = named.into_iter().filter(|name| !here(name));
    missing.cloned().collect()
}

/// What is to be made of a module that this gateway has from nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It keeps the configuration from being used.
    IsProblem,
    /// The start waits until the channel brings it, unless the site holds everything.
    MayCome,
}

/// Adds what is wrong with the modules that a configuration names and with their settings.
pub(crate) fn check(config: &Config, missing: Missing, problems: &mut Problems) {
    let brought = Brought::read(config).unwrap_or_else(|error| {
        let message = format!("what came over the air cannot be looked at: {error:#}");
        let help = "names of modules are judged as though nothing had come";
        problems.warning(config.place("deploy"), message, Some(help.to_owned()));
        Brought::default()
    });
    let brought = &brought;
    let waits = missing == Missing::MayCome && config.deploy.as_ref().is_some_and(|d| !d.hold);
    let coming = match waits {
        true => self::missing(config, brought),
        false => Vec::new(),
    };
    for source in &config.sources {
        if let config::Decode::Module(decoder) = &source.decode
            && !coming.contains(&decoder.module)
        {
            let key = format!("source.{}.decode", source.name);
            let place = (key.as_str(), Role::Decoder);
            let settings = &decoder.settings;
            check_one(config, problems, brought, place, &decoder.module, settings);
        }
    }
    for source in &config.sources {
        if let Some(driver) = driver_of(source)
            && !coming.contains(&driver.module)
        {
            let key = format!("source.{}", source.name);
            let place = (key.as_str(), Role::Driver);
            let settings = &driver.settings;
            check_one(config, problems, brought, place, &driver.module, settings);
        }
    }
    for pipeline in &config.pipelines {
        for (index, filter) in pipeline.filters.iter().enumerate() {
            if coming.contains(&filter.module) {
                continue;
            }
            let key = format!("pipeline.{}.filters[{index}]", pipeline.name);
            let place = (key.as_str(), Role::Filter);
            let settings = brought.settings(filter);
            check_one(config, problems, brought, place, &filter.module, &settings);
            check_tick(config, problems, brought, &key, filter);
        }
    }
}

/// Adds what is wrong with a module that stands at a key, where one of that role belongs.
fn check_one(
    config: &Config,
    problems: &mut Problems,
    brought: &Brought,
    (key, role): (&str, Role),
    name: &str,
    settings: &serde_json::Value,
) {
    let of_module = config.place(&format!("{key}.module"));
    match resolve(name, &config.modules, brought) {
        Ok(module) if module.manifest.world.role() != role => {
            let place = module.manifest.world.role().place();
            problems.error(of_module, format!("module `{name}` is {place}"), None);
        }
        Ok(module) => {
            let size = module.component.len() as u64;
            let allowed = LoadLimits::granted(&module.manifest.limits, &config.policy.loading);
            if size > allowed.module_bytes {
                let message = format!(
                    "module `{name}` has {size} bytes, {} are allowed",
                    allowed.module_bytes
                );
                let help = inspect::smaller(allowed.module_bytes).to_owned();
                problems.error(of_module, message, Some(help));
            }
            for problem in module.manifest.settings_problems(settings) {
                let help = format!("`tidegate module list --json` shows what `{name}` takes");
                problems.error(
                    config.place(&format!("{key}.settings")),
                    problem,
                    Some(help),
                );
            }
        }
        Err(error) => problems.error(of_module, format!("{error:#}"), None),
    }
}

/// Adds that a filter is to tick which has no ticks.
fn check_tick(
    config: &Config,
    problems: &mut Problems,
    brought: &Brought,
    key: &str,
    filter: &config::Filter,
) {
    let Ok(module) = resolve(&filter.module, &config.modules, brought) else {
        return;
    };
    if filter.tick.is_some() && module.manifest.tick().is_none() {
        problems.error(
            config.place(&format!("{key}.tick")),
            format!("module `{}` has no `tick`", filter.module),
            Some("remove the key `tick`".to_owned()),
        );
    }
}

/// A module from files: `<name>.wasm` with `<name>.json` beside it.
///
/// # Errors
/// Where a file cannot be read or the manifest does not fit the component.
pub(crate) fn from_files(component: &Path) -> anyhow::Result<Module> {
    let manifest = component.with_extension("json");
    let text = read_bounded(&manifest).context("a module needs its manifest beside it")?;
    Ok(Module {
        manifest: Manifest::parse(&text).with_context(|| format!("{}", manifest.display()))?,
        component: read_bounded(component)?.into(),
        origin: Origin::Local,
    })
}

/// A file of at most the size that a module may have.
///
/// # Errors
/// Where it cannot be read or is larger.
pub(crate) fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MODULE_FILE_MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MODULE_FILE_MOST_BYTES {
        bail!(
            "{} is larger than {MODULE_FILE_MOST_BYTES} bytes, the bound of a module file",
            path.display()
        );
    }
    Ok(bytes)
}

/// What runs are the bytes that were judged.
fn local_module(component: &Path, site: &config::Modules) -> anyhow::Result<Module> {
    let manifest_file = component.with_extension("json");
    let text = signed::read_file(&manifest_file, MODULE_FILE_MOST_BYTES)
        .context("a module needs its manifest beside it")?;
    let bytes = signed::read_file(component, MODULE_FILE_MOST_BYTES)?;
    let origin = match signed::judge(component, &bytes, &text, &site.trusted_keys)? {
        Signer::Trusted(key) => Origin::Signed(key),
        Signer::Nobody(_) if site.allow_unsigned => Origin::Local,
        Signer::Nobody(why) => bail!(NoModule(format!(
            "{} {why}; `tidegate repo sign` signs it for a key in `modules.trusted-keys`, \
             `modules.allow-unsigned = true` runs it as it is, and without the file the factory module of that name runs",
            component.display()
        ))),
    };
    let module = Module {
        manifest: Manifest::parse(&text).with_context(|| format!("{}", manifest_file.display()))?,
        component: bytes.into(),
        origin,
    };
    let name = component.file_stem().unwrap_or_default();
    if name != module.manifest.name.as_str() {
        bail!(
            "{} has a manifest that names `{}`",
            component.display(),
            module.manifest.name
        );
    }
    Ok(module)
}
