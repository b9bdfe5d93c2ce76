//! Compiled modules on disk (DESIGN 5, "AOT cache").
//!
//! The signed component is the root of trust; an artefact is a convenience that is believed only with a MAC, under
//! the device's secret, over the key it was made for and all of its bytes. Anything else is compiled again.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use crate::engine::{self, Profile, RuntimeError};
use crate::inspect::{self, Digest};

/// The most bytes of native code that one module may become. The largest interpreters reach about three times the
/// 16 MiB of a component.
pub(crate) const ARTEFACT_BYTES: u64 = 128 * 1024 * 1024;
/// Magic and version of the file format.
const MAGIC: &[u8; 8] = b"TGAOT\0\0\x01";
const MAC_BYTES: usize = 32;
/// Magic, key length, artefact length, MAC.
const FIXED_BYTES: usize = 8 + 4 + 8 + MAC_BYTES;
/// Bytes of a key; real ones have some hundred.
const KEY_BYTES: usize = 16 * 1024;
const SECRET_BYTES: usize = 32;
/// A file's time of last use is renewed when it is older than this: once a day spares the flash.
const TOUCH_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How names begin that are not yet those of whole files.
const TEMPORARY: &str = ".new-";
/// A temporary file this old was left by a process that died: writing one takes a second.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Bounds of the cache directory. Artefacts in use count but are never removed.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Files kept; beyond, the one unused for longest goes and would have to be compiled again.
    pub files: usize,
    /// Bytes kept, likewise.
    pub bytes: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            files: 64,
            bytes: 256 * 1024 * 1024,
        }
    }
}

/// Everything that decides whether an artefact fits, as lines of text.
pub(crate) struct Key {
    text: String,
}

impl Key {
    pub(crate) fn new(component: &Digest, engine: &Engine, profile: Profile) -> Self {
        Self {
            text: format!(
                "component {component}\nwasmtime {}\ntarget {}-{}\nextensions {}\nprofile {profile}\nengine {}\n",
                engine::wasmtime_version(),
                std::env::consts::ARCH,
                std::env::consts::OS,
                extensions(),
                engine::compatibility(engine),
            ),
        }
    }

    fn file_name(&self) -> String {
        let hash = inspect::hex(&Sha256::digest(self.text.as_bytes()));
        format!("{}.aot", &hash[..32])
    }
}

/// The CPU's extensions by name where wasmtime does not compare them at load (riscv64: code with V on a core without it
/// ends in SIGILL). Elsewhere they are in [`engine::compatibility`] alone.
fn extensions() -> String {
    if !cfg!(target_arch = "riscv64") {
        return "in engine".to_owned();
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lines: BTreeSet<&str> = info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| matches!(name.trim(), "isa" | "hart isa"))
        .map(|(_, value)| value.trim())
        .collect();
    let mut text = lines.into_iter().collect::<Vec<_>>().join(" / ");
    text.truncate(KEY_BYTES / 2);
    text
}

/// Native code that may be loaded: it exists only freshly compiled, or with its MAC verified.
pub(crate) struct Artefact {
    /// A whole cache file.
    file: Vec<u8>,
    /// Where the native code begins.
    start: usize,
}

impl Artefact {
    pub(crate) fn native(&self) -> &[u8] {
        &self.file[self.start..]
    }
}

/// Why the cache does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Miss {
    #[error("not compiled before for this engine and machine")]
    Absent,
    #[error("the cache file cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("the cache file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the cache file was made for another engine, machine or module")]
    OtherKey,
    #[error("the cache file is not authentic: its MAC does not fit")]
    Forged,
    #[error("the engine refuses the cache file: {0}")]
    Refused(String),
}

pub(crate) struct Cache {
    dir: PathBuf,
    secret: [u8; SECRET_BYTES],
    limits: CacheLimits,
    /// File names that this process has loaded.
    used: Mutex<BTreeSet<String>>,
}

impl Cache {
    /// A cache that cannot be kept is one that is always empty: modules are compiled at every start, and that is said.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn open(
        dir: PathBuf,
        secret: &Path,
        limits: CacheLimits,
    ) -> Result<Self, RuntimeError> {
        if let Err(error) = private_dir(&dir) {
            tracing::warn!(
                %error, path = %dir.display(),
                "the directory for compiled modules cannot be used, and they will be compiled again at the next start; check \
                 its owner and free space"
            );
        }
        let secret = match device_secret(secret) {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(
                    %error, path = %secret.display(),
                    "the device secret cannot be read or created, and modules will be compiled again at the next start; it \
                     must be a file of our own user"
                );
                random_secret().map_err(RuntimeError::Random)?
            }
        };
        Ok(Self {
            dir,
            secret,
            limits,
            used: Mutex::default(),
        })
    }

    /// Reads, checks and only then hands out. The whole file is in memory first: what was checked is what is loaded.
    pub(crate) fn read(&self, key: &Key) -> Result<Artefact, Miss> {
        let name = key.file_name();
        let file = match File::open(self.dir.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Miss::Absent),
            Err(error) => return Err(Miss::Unreadable(error)),
        };
        let bound = ARTEFACT_BYTES + (KEY_BYTES + FIXED_BYTES) as u64;
        let mut bytes = Vec::new();
        file.take(bound + 1)
            .read_to_end(&mut bytes)
            .map_err(Miss::Unreadable)?;
        if bytes.len() as u64 > bound {
            return Err(Miss::Damaged("it is larger than any artefact"));
        }
        let start = self.check(key, &bytes)?;
        self.touch(&name);
        self.lock_used().insert(name);
        Ok(Artefact { file: bytes, start })
    }

    fn check(&self, key: &Key, file: &[u8]) -> Result<usize, Miss> {
        let short = || Miss::Damaged("it ends early");
        let (magic, rest) = file.split_first_chunk::<8>().ok_or_else(short)?;
        if magic != MAGIC {
            return Err(Miss::Damaged("it does not begin like one"));
        }
        let (key_length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let key_length = u32::from_le_bytes(*key_length) as usize;
        let (native_length, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let native_length = u64::from_le_bytes(*native_length);
        let (mac, rest) = rest.split_first_chunk::<MAC_BYTES>().ok_or_else(short)?;
        let (stored_key, native) = rest.split_at_checked(key_length).ok_or_else(short)?;
        if native.len() as u64 != native_length {
            return Err(Miss::Damaged("its length is not the one it says"));
        }
        // The MAC first: until it fits, nothing in the file is worth a statement.
        let authentic = self.mac(stored_key, native).verify_slice(mac).is_ok();
        if !authentic {
            return Err(Miss::Forged);
        }
        if stored_key != key.text.as_bytes() {
            return Err(Miss::OtherKey);
        }
        Ok(FIXED_BYTES + key_length)
    }

    /// Puts head and MAC before what our compiler made.
    pub(crate) fn seal(&self, key: &Key, native: &[u8]) -> Artefact {
        let text = key.text.as_bytes();
        let mut file = Vec::with_capacity(FIXED_BYTES + text.len() + native.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        file.extend_from_slice(&(native.len() as u64).to_le_bytes());
        file.extend_from_slice(&self.mac(text, native).finalize().into_bytes());
        file.extend_from_slice(text);
        let start = file.len();
        file.extend_from_slice(native);
        Artefact { file, start }
    }

    fn mac(&self, key: &[u8], native: &[u8]) -> Hmac<Sha256> {
        let mut mac = keyed(&self.secret);
        mac.update(MAGIC);
        // Lengths, so that no byte can move from one part to the other.
        mac.update(&(key.len() as u64).to_le_bytes());
        mac.update(key);
        mac.update(native);
        mac
    }

    /// Stores whole or not at all, then brings the directory under its bounds.
    pub(crate) fn write(&self, key: &Key, artefact: &Artefact) -> io::Result<()> {
        let name = key.file_name();
        write_atomically(&self.dir.join(&name), &artefact.file)?;
        self.lock_used().insert(name);
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let meta = entry.metadata()?;
            let used = meta.modified()?;
            if name.ends_with(".aot") {
                files.push((used, name, meta.len()));
            } else if name.starts_with(TEMPORARY)
                && used.elapsed().is_ok_and(|age| age > ABANDONED_AFTER)
            {
                fs::remove_file(entry.path())?;
            }
        }
        files.sort();
        let in_use = self.lock_used();
        let mut count = files.len();
        let mut bytes: u64 = files.iter().map(|(_, _, size)| size).sum();
        for (_, name, size) in files {
            if count <= self.limits.files && bytes <= self.limits.bytes {
                break;
            }
            if in_use.contains(&name) {
                continue;
            }
            fs::remove_file(self.dir.join(&name))?;
            tracing::info!(file = name, "removed an unused compiled module");
            count -= 1;
            bytes -= size;
        }
        Ok(())
    }

    /// Remembers that the file was used, for [`Cache::prune`]. A file system that does not let us costs an order only.
    fn touch(&self, name: &str) {
        let touched = (|| {
            let file = OpenOptions::new().write(true).open(self.dir.join(name))?;
            let now = SystemTime::now();
            match now.duration_since(file.metadata()?.modified()?) {
                Ok(age) if age < TOUCH_AFTER => Ok(()),
                _ => file.set_modified(now),
            }
        })();
        if let Err(error) = touched {
            tracing::debug!(%error, name, "the time of last use is not recorded");
        }
    }

    fn lock_used(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// HMAC-SHA-256 under a key of any length.
pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // RFC 2104: a key longer than the block is hashed first, a shorter one is filled with zeros. The crate does both,
    // but says so in a Result.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    if key.len() <= block.len() {
        block[..key.len()].copy_from_slice(key);
    } else {
        block[..MAC_BYTES].copy_from_slice(&Sha256::digest(key));
    }
    Hmac::new(&block)
}

/// The device's secret: read, or made where there is none. One that is damaged or open to others is replaced; all that
/// is lost is the cache.
fn device_secret(path: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    match File::open(path) {
        Ok(file) => {
            let mode = file.metadata()?.permissions().mode();
            let mut bytes = Vec::new();
            file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            match <[u8; SECRET_BYTES]>::try_from(bytes) {
                Ok(secret) if mode & 0o077 == 0 => return Ok(secret),
                Ok(_) => {
                    tracing::warn!(path = %path.display(), "the device secret was open to other users and is replaced");
                }
                Err(_) => {
                    tracing::warn!(path = %path.display(), "the device secret was damaged and is replaced");
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let secret = random_secret()?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    write_atomically(path, &secret)?;
    Ok(secret)
}

fn random_secret() -> io::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(secret)
}

/// A directory for us alone.
fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// An error without the temporary file's name, which is another one each time: the same trouble is to read the same.
fn nameless(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

/// Temporary file of mode 0600, fsync, rename, fsync of the directory.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir);
    let mut file = made.map_err(nameless)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}
