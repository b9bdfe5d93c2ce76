//! What stands beside a component: `<name>.json` (DESIGN 5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_domain::limits;
use tidegate_domain::signature::PublicKey;

pub use crate::bounds::{LoadLimits, SlotLimits, WantedLimits};
use crate::engine::{CodeOrigin, Compiled, LoadError, Runtime};
use crate::grants::Grant;
use crate::inspect::{self, Digest, Inspection};
use crate::schema::Schema;
use crate::worlds::{Role, World};

/// A manifest is a page of JSON; larger ones are refused.
pub const MANIFEST_BYTES: usize = 256 * 1024;

/// A module's manifest, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// `a`–`z`, `0`–`9` and `-`; at most 64.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// SHA-256 of the component beside it. Where absent, the component at hand is taken as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it is, and the version of the contract that it was built for.
    pub world: World,
    /// One or two sentences for people.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the settings, in the part of the language that `schema.rs` understands; where absent, the module
    /// takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
    /// What the module keeps between batches.
    #[serde(default)]
    pub state: StateKind,
    /// Number of the form that the state has. A version of the module that keeps it in another form raises it and exports
    /// `migrate`.
    #[serde(default = "first_schema", skip_serializing_if = "is_first_schema")]
    pub state_schema: u32,
    /// Seconds between two ticks of a filter that has them; the site may say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tick_seconds: Option<u64>,
    /// The capabilities it wants; it gets those that the site's policy gives too.
    #[serde(default)]
    pub grants: BTreeSet<Grant>,
    /// The directories it wants to read in, by the names that the site gives them; it finds each under `/NAME`. Takes the
    /// grant `wasi`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub directories: BTreeSet<String>,
    /// The bounds it wants other than the defaults.
    #[serde(default)]
    pub limits: WantedLimits,
    /// The least version of the daemon that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_daemon: Option<String>,
    /// SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// File of golden vectors beside the manifest (see [`crate::test_vectors`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<String>,
}

fn first_schema() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_first_schema(schema: &u32) -> bool {
    *schema == first_schema()
}

/// What a module keeps between batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateKind {
    /// Nothing.
    #[default]
    None,
    /// One record a series.
    Series {
        /// Bytes of a record, 1 to 256.
        width: usize,
    },
    /// Keys and values.
    Global,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, an unknown key, a key that is missing, a value of another type.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A value that means nothing.
    #[error("the manifest's `{key}`: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what is expected.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let problem = |key, problem: String| Err(ManifestError::Value { key, problem });
        if json.len() > MANIFEST_BYTES {
            return problem(
                "name",
                format!("a manifest has at most {MANIFEST_BYTES} bytes"),
            );
        }
        let manifest: Self = serde_json::from_slice(json)?;
        let name = &manifest.name;
        let letters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(letters) {
            return problem(
                "name",
                format!("`{name}` is not made of 1 to 64 of a–z, 0–9 and `-`"),
            );
        }
        if version(&manifest.version).is_none() {
            return problem(
                "version",
                format!(
                    "`{}` is no semantic version such as 1.2.3",
                    manifest.version
                ),
            );
        }
        if let StateKind::Series { width } = manifest.state
            && !(1..=limits::SERIES_STATE_BYTES).contains(&width)
        {
            return problem(
                "state",
                format!(
                    "a record of {width} bytes; 1 to {} are possible",
                    limits::SERIES_STATE_BYTES
                ),
            );
        }
        if let StateKind::Series { .. } = manifest.state
            && manifest.world.role() != Role::Filter
        {
            return problem(
                "state",
                format!(
                    "`{}` has no state by series, which belongs to the rows that a filter is given; declare `global`",
                    manifest.world
                ),
            );
        }
        if let Some(seconds) = manifest.tick_seconds {
            let (least, most) = (limits::TICK_MIN.as_secs(), limits::TICK_MAX.as_secs());
            if !manifest.world.ticks() {
                return problem(
                    "tick-seconds",
                    format!(
                        "`{}` has no `tick`; one of the world `{}` has",
                        manifest.world,
                        World::TickingFilter
                    ),
                );
            }
            if !(least..=most).contains(&seconds) {
                return problem(
                    "tick-seconds",
                    format!("{seconds} seconds; {least} to {most} are possible"),
                );
            }
        }
        if let Some(why) = directories_problem(&manifest) {
            return problem("directories", why);
        }
        if let Some(schema) = &manifest.settings
            && let Err(error) = Schema::parse(schema)
        {
            return problem("settings", error.to_string());
        }
        if let Some(wanted) = &manifest.min_daemon {
            let Some(least) = version(wanted) else {
                return problem("min-daemon", format!("`{wanted}` is no semantic version"));
            };
            let ours = env!("CARGO_PKG_VERSION");
            if version(ours).is_some_and(|ours| ours < least) {
                return problem(
                    "min-daemon",
                    format!(
                        "the module needs tidegate {wanted}, this is {ours}; update the daemon"
                    ),
                );
            }
        }
        Ok(manifest)
    }

    /// Time between two ticks; `None` where it has none.
    #[must_use]
    pub fn tick(&self) -> Option<Duration> {
        let own = self.tick_seconds.map(Duration::from_secs);
        self.world.ticks().then(|| own.unwrap_or(limits::TICK))
    }

    /// What is wrong with a slot's settings, an object; nothing when they fit the manifest's schema.
    #[must_use]
    pub fn settings_problems(&self, settings: &serde_json::Value) -> Vec<String> {
        let Some(schema) = &self.settings else {
            let empty = serde_json::json!({});
            return if *settings == empty {
                Vec::new()
            } else {
                vec![format!("`{}` takes no settings", self.name)]
            };
        };
        match Schema::parse(schema) {
            Ok(schema) => {
                let problems = schema.problems(settings);
                problems.iter().map(ToString::to_string).collect()
            }
            Err(error) => vec![format!("the manifest's `settings`: {error}")],
        }
    }
}

/// What is wrong with the directories that a manifest wants.
fn directories_problem(manifest: &Manifest) -> Option<String> {
    let wanted = &manifest.directories;
    if wanted.len() > limits::DIRECTORIES {
        return Some(format!(
            "{} of them; {} are possible",
            wanted.len(),
            limits::DIRECTORIES
        ));
    }
    if let Some(name) = wanted.iter().find(|name| !is_directory_name(name)) {
        return Some(format!(
            "`{name}` is not made of 1 to 64 of a–z, 0–9 and `-`"
        ));
    }
    (!wanted.is_empty() && !manifest.grants.contains(&Grant::Wasi)).then(|| {
        format!(
            "a directory is read through WASI: ask for `{}` in `grants` too",
            Grant::Wasi
        )
    })
}

/// Whether a directory can have this name: one component of a path, and never `..`.
#[must_use]
pub fn is_directory_name(name: &str) -> bool {
    let letters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(letters)
}

/// Major, minor and patch of a semantic version; what follows `-` or `+` is not compared.
fn version(text: &str) -> Option<[u64; 3]> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

/// Whose module it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Embedded in the binary; it has the binary's trust.
    Factory,
    /// From the site's own directory.
    Local,
    /// From there, too, and signed by this key.
    Signed(PublicKey),
    /// Over the air: a publisher signed it, and the channel gave it.
    Channel,
}

impl Origin {
    /// Whether a module that is known by this origin goes on so when the same bytes come by another one: what somebody
    /// answers for does not become a file that nobody does.
    #[must_use]
    pub fn stands_before(self, other: Self) -> bool {
        self == other || other == Self::Local || self == Self::Factory
    }
}

/// A component with its manifest, not yet loaded.
#[derive(Clone, Debug)]
pub struct Module {
    /// The manifest.
    pub manifest: Manifest,
    /// The component's bytes.
    pub component: Bytes,
    /// Whose it is.
    pub origin: Origin,
}

/// Why a module does not load.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The component is not the one that the manifest is about.
    #[error("module `{name}`: the manifest is for {manifest}, the component is {component}")]
    Digest {
        /// The module.
        name: String,
        /// The manifest's digest.
        manifest: Digest,
        /// The component's.
        component: Digest,
    },
    /// The component does not implement the manifest's world.
    #[error(
        "module `{name}`: the component is no `{world}`: it does not export `{missing}`, but {exports}; \
         build it with the SDK's macro or against modules/wit"
    )]
    World {
        /// The module.
        name: String,
        /// The world.
        world: World,
        /// The first function of it that is not there.
        missing: &'static str,
        /// What it exports instead.
        exports: String,
    },
    /// The component itself.
    #[error("module `{name}`")]
    Load {
        /// The module.
        name: String,
        /// Why.
        source: LoadError,
    },
}

/// A module that can run.
#[derive(Debug)]
pub struct LoadedModule {
    /// The manifest.
    pub manifest: Manifest,
    /// What the component imports and exports.
    pub inspection: Inspection,
    /// Whose it is.
    pub origin: Origin,
    pub(crate) compiled: Arc<Compiled>,
}

impl LoadedModule {
    /// Checks a module against its manifest and compiles it, or takes it from the cache. Imports are not judged here but
    /// by each slot, against its own grants.
    ///
    /// # Errors
    /// See [`ModuleError`].
    pub fn load(runtime: &Runtime, module: Module) -> Result<Self, ModuleError> {
        Self::load_by(module, runtime, Runtime::load_within)
    }

    /// The same for a module that leaves no trace: what is compiled is not kept.
    ///
    /// # Errors
    /// See [`ModuleError`].
    pub fn load_for_once(runtime: &Runtime, module: Module) -> Result<Self, ModuleError> {
        Self::load_by(module, runtime, Runtime::load_for_once)
    }

    fn load_by(
        module: Module,
        runtime: &Runtime,
        load: impl Fn(&Runtime, &[u8], &LoadLimits) -> Result<Arc<Compiled>, LoadError>,
    ) -> Result<Self, ModuleError> {
        let Module {
            manifest,
            component,
            origin,
        } = module;
        let name = || manifest.name.clone();
        let limits = LoadLimits::granted(&manifest.limits, &runtime.ceiling());
        let inspection = inspect::bounded(&component, limits.module_bytes)
            .and_then(|()| inspect::outline(&component))
            .map_err(|error| ModuleError::Load {
                name: name(),
                source: error.into(),
            })?;
        if let Some(digest) = &manifest.digest
            && *digest != inspection.digest
        {
            return Err(ModuleError::Digest {
                name: name(),
                manifest: digest.clone(),
                component: inspection.digest,
            });
        }
        let exported = |name: &&str| inspection.exports.iter().any(|export| export == name);
        if let Some(missing) = manifest.world.exports().iter().find(|name| !exported(name)) {
            let exports = match inspection.exports.as_slice() {
                [] => "nothing".to_owned(),
                exports => exports.join(", "),
            };
            return Err(ModuleError::World {
                name: name(),
                world: manifest.world,
                missing,
                exports,
            });
        }
        let compiled = load(runtime, &component, &limits).map_err(|source| ModuleError::Load {
            name: name(),
            source,
        })?;
        Ok(Self {
            manifest,
            inspection,
            origin,
            compiled,
        })
    }

    /// Where its native code came from.
    #[must_use]
    pub fn code_origin(&self) -> &CodeOrigin {
        self.compiled.origin()
    }

    /// Why its native code is not in the cache, where it should be.
    #[must_use]
    pub fn not_kept(&self) -> Option<&str> {
        self.compiled.not_kept()
    }
}
