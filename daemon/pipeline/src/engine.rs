//! The wasmtime engine, configured once for running and for compiling, and the way from a component's bytes to
//! native code that may run.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest as _, Sha256};
use tidegate_domain::limits;
use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::bounds::LoadLimits;
use crate::cache::{Cache, CacheLimits, Key, Miss};
use crate::compile::{CompileLimits, Compiler};
use crate::inspect::{self, Digest, InspectError};
use crate::native;
use crate::ticker::Ticker;
pub use crate::tuning::Profile;
use crate::tuning::code;
pub(crate) use crate::tuning::wasmtime_version;

/// Guests that run at the same time. A worker thread that comes when all are taken waits for one; there is one guest
/// a worker at most, so that a gateway with more workers than this only loses a little parallelism.
pub const CONCURRENT_GUESTS: u32 = 16;
/// Memory of a finished guest that is overwritten for the next one instead of being given back to the kernel. It costs
/// this much of RAM a guest at most and saves page faults: a call on one reading takes 15 µs instead of 25 (x86-64).
const RESIDENT_BYTES: usize = 256 * 1024;
/// Core instances in one component: the module itself and the adapters around it, 3 of them in most; CPython has 38.
pub(crate) const CORE_INSTANCES: u32 = 48;
/// Tables in one component.
pub(crate) const TABLES: u32 = 8;
/// Linear memories in one component: an interpreter brings its stubs as modules of their own, a composition has one for
/// each of its parts. A guest with several takes the places of as many, so that the pool reserves no more for them.
pub(crate) const MEMORIES: u32 = 4;

impl Profile {
    /// The most linear memory that a slot's limits can allow a guest, in bytes.
    #[must_use]
    pub fn max_memory_bytes(self) -> usize {
        match self {
            Self::Wide => 256 << 20,
            Self::Small | Self::Metered => 64 << 20,
        }
    }
}

/// A word that is no [`Profile`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no engine profile; there are `wide`, `small` and `metered`")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "wide" => Ok(Self::Wide),
            "small" => Ok(Self::Small),
            "metered" => Ok(Self::Metered),
            other => Err(UnknownProfile(other.to_owned())),
        }
    }
}

/// Where the runtime keeps things and what it may use.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Directory of compiled artefacts; created with mode 0700 where absent.
    pub cache_dir: PathBuf,
    /// File with the device secret that authenticates artefacts; created with mode 0600 where absent.
    pub secret: PathBuf,
    /// Our own executable, run as `tidegate compile`.
    pub compiler: PathBuf,
    /// The most that one compilation may use, whatever the manifest wants.
    pub compile: CompileLimits,
    /// The most bytes that a component may have, likewise.
    pub module_bytes: u64,
    /// Bounds of the cache directory.
    pub cache: CacheLimits,
    /// `None` tries [`Profile::Wide`] first and falls back to [`Profile::Small`].
    pub profile: Option<Profile>,
}

impl RuntimeConfig {
    /// The given places with default bounds.
    #[must_use]
    pub fn new(cache_dir: PathBuf, secret: PathBuf, compiler: PathBuf) -> Self {
        Self {
            cache_dir,
            secret,
            compiler,
            compile: CompileLimits::default(),
            module_bytes: limits::MODULE_FILE_BYTES,
            cache: CacheLimits::default(),
            profile: None,
        }
    }
}

/// Why the runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine refuses this machine.
    #[error("the WebAssembly engine does not start ({profile} profile): {detail}")]
    Engine {
        /// The profile that was tried last.
        profile: Profile,
        /// What the engine says.
        detail: String,
    },
    /// The system gives no random numbers for a device secret.
    #[error("no random numbers for a device secret")]
    Random(#[source] std::io::Error),
    /// No thread for the clock that interrupts guests.
    #[error("no thread for the clock that interrupts filters")]
    Ticker(#[source] std::io::Error),
}

/// Why a component does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are no sound component.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The compiler cannot be run at all.
    #[error("the compiler {} cannot be run", path.display())]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Memory for the compiler's input and output.
    #[error("no memory for the compiler's input and output")]
    Scratch(#[source] std::io::Error),
    /// The compiler took too long and was killed.
    #[error("compiling the module took longer than {} s and was stopped", limit.as_secs_f32())]
    CompileTime {
        /// The bound.
        limit: std::time::Duration,
    },
    /// The compiler refuses the component.
    #[error("the module cannot be compiled: {detail}")]
    Compile {
        /// The end of what it wrote to standard error.
        detail: String,
    },
    /// The system does not give the compiler what it needs.
    #[error("the compiler cannot work: {detail}")]
    CompilerMeans {
        /// The end of what it wrote to standard error.
        detail: String,
    },
    /// The compiler died, or its limits ended it.
    #[error("the module cannot be compiled, for the compiler ended ({status}): {detail}")]
    CompilerEnded {
        /// How the child ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        detail: String,
    },
    /// The compiler's output is above its bound.
    #[error("the compiled module has {got} bytes, above the bound of {limit}")]
    ArtefactSize {
        /// What came out.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// What was just compiled is refused by the engine.
    #[error("the compiled module does not load: {0}")]
    Load(String),
}

/// Where the native code of a [`Compiled`] came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeOrigin {
    /// From the cache, its MAC verified.
    Cache,
    /// Compiled now, for this reason.
    Compiled {
        /// Why the cache did not serve.
        reason: String,
    },
}

/// A component as native code of this process.
pub struct Compiled {
    digest: Digest,
    origin: CodeOrigin,
    not_kept: Option<String>,
    pub(crate) component: Component,
}

impl Compiled {
    /// Digest of the component that the code came from.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Where the code came from.
    #[must_use]
    pub fn origin(&self) -> &CodeOrigin {
        &self.origin
    }

    /// Why the cache does not have it, so that it is compiled again at the next start; `None` where it has, or was not to.
    #[must_use]
    pub fn not_kept(&self) -> Option<&str> {
        self.not_kept.as_deref()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("digest", &self.digest)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// The engine, its ticker and the cache; one a process.
pub struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) ticker: Arc<Ticker>,
    profile: Profile,
    cache: Cache,
    compiler: Compiler,
    module_bytes: u64,
    /// What is loaded now, by component. The inner lock is held while that component is loaded, so that it is compiled once
    /// however many ask for it; the outer one never for long.
    loaded: Mutex<HashMap<Digest, Arc<Mutex<Weak<Compiled>>>>>,
    /// Held over a compilation whose result is kept: one at a time, since each takes a core and memory.
    compiling: Mutex<()>,
}

impl Runtime {
    /// Starts the engine, its ticker thread, and opens the cache.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let (engine, profile) = match config.profile {
            Some(profile) => (pooled(profile)?, profile),
            None => match pooled(Profile::Wide) {
                Ok(engine) => (engine, Profile::Wide),
                Err(error) => {
                    tracing::warn!(%error, "address space is short: filters run with bounds checks");
                    (pooled(Profile::Small)?, Profile::Small)
                }
            },
        };
        let cache = Cache::open(config.cache_dir, &config.secret, config.cache)?;
        let ticker = Ticker::start(engine.clone(), CONCURRENT_GUESTS)
            .map(Arc::new)
            .map_err(RuntimeError::Ticker)?;
        Ok(Self {
            engine,
            ticker,
            profile,
            cache,
            compiler: Compiler {
                program: config.compiler,
                limits: config.compile,
                profile,
            },
            module_bytes: config.module_bytes,
            loaded: Mutex::default(),
            compiling: Mutex::default(),
        })
    }

    /// The profile in use.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The most that loading any module may use.
    pub(crate) fn ceiling(&self) -> LoadLimits {
        LoadLimits {
            module_bytes: self.module_bytes,
            compile: self.compiler.limits,
        }
    }

    /// Makes a component runnable within the most that any may use; see [`Runtime::load_within`].
    ///
    /// # Errors
    /// Those of [`Runtime::load_within`].
    pub fn load(&self, component: &[u8]) -> Result<Arc<Compiled>, LoadError> {
        self.load_within(component, &self.ceiling())
    }

    /// Makes a component runnable: from the cache where its artefact is authentic and made for this very engine and
    /// machine, else by compiling it in a child process. Blocks for the time of a compilation.
    ///
    /// # Errors
    /// See [`LoadError`]. A cache that cannot be written is a warning, not an error.
    pub fn load_within(
        &self,
        component: &[u8],
        limits: &LoadLimits,
    ) -> Result<Arc<Compiled>, LoadError> {
        inspect::bounded(component, limits.module_bytes)?;
        let digest = inspect::outline(component)?.digest;
        let place = self.place(&digest);
        let mut place = lock(&place);
        if let Some(compiled) = place.upgrade() {
            return Ok(compiled);
        }
        let compiled = Arc::new(self.cached_or_compiled(component, digest, limits, true)?);
        *place = Arc::downgrade(&compiled);
        Ok(compiled)
    }

    /// Whether something is compiled that is to be kept.
    #[cfg(test)]
    pub(crate) fn is_compiling(&self) -> bool {
        self.compiling.try_lock().is_err()
    }

    /// Where a component stands while it is loaded. Those that nobody has or waits for are forgotten.
    fn place(&self, digest: &Digest) -> Arc<Mutex<Weak<Compiled>>> {
        let mut loaded = lock(&self.loaded);
        loaded.retain(|_, place| Arc::strong_count(place) > 1 || lock(place).strong_count() > 0);
        Arc::clone(loaded.entry(digest.clone()).or_default())
    }

    /// The same for a component that leaves no trace: what is compiled is not kept.
    ///
    /// # Errors
    /// Those of [`Runtime::load_within`].
    pub(crate) fn load_for_once(
        &self,
        component: &[u8],
        limits: &LoadLimits,
    ) -> Result<Arc<Compiled>, LoadError> {
        inspect::bounded(component, limits.module_bytes)?;
        let digest = inspect::outline(component)?.digest;
        Ok(Arc::new(
            self.cached_or_compiled(component, digest, limits, false)?,
        ))
    }

    fn cached_or_compiled(
        &self,
        component: &[u8],
        digest: Digest,
        limits: &LoadLimits,
        keep: bool,
    ) -> Result<Compiled, LoadError> {
        let key = Key::new(&digest, &self.engine, self.profile);
        let miss = match self.cache.read(&key) {
            Ok(artefact) => match native::deserialize(&self.engine, &artefact) {
                Ok(component) => {
                    return Ok(Compiled {
                        digest,
                        origin: CodeOrigin::Cache,
                        not_kept: None,
                        component,
                    });
                }
                Err(error) => Miss::Refused(format!("{error:#}")),
            },
            Err(miss) => miss,
        };
        let reason = miss.to_string();
        if matches!(miss, Miss::Absent) {
            tracing::info!(component = %digest, reason, "compiling a module");
        } else {
            tracing::warn!(component = %digest, reason, "compiling a module again");
        }
        let native = {
            let _turn = keep.then(|| lock(&self.compiling));
            self.compiler.within(limits.compile).run(component)?
        };
        let artefact = self.cache.seal(&key, &native);
        let component = native::deserialize(&self.engine, &artefact)
            .map_err(|error| LoadError::Load(format!("{error:#}")))?;
        let kept = match keep {
            true => self.cache.write(&key, &artefact),
            false => Ok(()),
        };
        if let Err(error) = &kept {
            tracing::warn!(%error, "the compiled module is not kept and will be compiled again at the next start");
        }
        Ok(Compiled {
            digest,
            origin: CodeOrigin::Compiled { reason },
            not_kept: kept.err().map(|error| error.to_string()),
            component,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// The engine that compiles: the same code comes out as for the pooled one, and no address space is reserved, so that
/// it fits under a limit.
pub(crate) fn compiling(profile: Profile) -> Result<Engine, RuntimeError> {
    start(profile, &config(profile, false))
}

fn pooled(profile: Profile) -> Result<Engine, RuntimeError> {
    start(profile, &config(profile, true))
}

fn start(
    profile: Profile,
    config: &Result<Config, wasmtime::Error>,
) -> Result<Engine, RuntimeError> {
    config
        .as_ref()
        .map_err(|error| format!("{error:#}"))
        .and_then(|config| Engine::new(config).map_err(|error| format!("{error:#}")))
        .map_err(|detail| RuntimeError::Engine { profile, detail })
}

/// Both engines come from here.
fn config(profile: Profile, pool: bool) -> Result<Config, wasmtime::Error> {
    let mut config = code(profile)?;
    if pool {
        let mut pooling = PoolingAllocationConfig::new();
        pooling
            .total_component_instances(CONCURRENT_GUESTS)
            .total_core_instances(CONCURRENT_GUESTS * CORE_INSTANCES)
            .total_memories(CONCURRENT_GUESTS)
            .total_tables(CONCURRENT_GUESTS * TABLES)
            .max_memories_per_component(MEMORIES)
            .max_memories_per_module(1)
            .max_core_instances_per_component(CORE_INSTANCES)
            .max_tables_per_component(TABLES)
            .max_tables_per_module(TABLES)
            .table_elements(limits::TABLE_ELEMENTS)
            .max_memory_size(profile.max_memory_bytes())
            .linear_memory_keep_resident(RESIDENT_BYTES)
            .table_keep_resident(RESIDENT_BYTES)
            .max_unused_warm_slots(CONCURRENT_GUESTS);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    }
    Ok(config)
}

/// SHA-256, in hex, of everything that decides whether this engine's artefacts fit another: target triple, flags of
/// the instruction set as detected on this machine, tunables, WebAssembly features and version.
pub(crate) fn compatibility(engine: &Engine) -> String {
    struct Digesting(Sha256);
    impl Hasher for Digesting {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut digesting = Digesting(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut digesting);
    inspect::hex(&digesting.0.finalize())
}

const _: () = assert!(
    limits::FILTER_MEMORY_BYTES <= 64 << 20,
    "the default memory bound fits the small profile"
);
