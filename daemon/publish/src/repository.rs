//! The repository: made, opened and checked, and brought to its next state.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use tidegate_domain::channel::Target;
use tidegate_domain::limits;

use crate::error::Error;
use crate::files;
use crate::keys::{KeyStore, Signer};
use crate::metadata::{
    Info, Listing, METADATA_BYTES, Meta, Metadata, Role, Root, Targets, sign, verified,
};
use crate::prune;

/// How long each role's metadata holds when it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// Root.
    pub root: Duration,
    /// Targets.
    pub targets: Duration,
    /// Snapshot and timestamp: how long a gateway believes that nothing newer was published.
    pub online: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self {
            root: Duration::from_hours(2 * 365 * 24),
            targets: Duration::from_hours(365 * 24),
            online: Duration::from_hours(30 * 24),
        }
    }
}

/// How many root keys there are, and how many of them have to sign.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Keys of root.
    pub root_keys: usize,
    /// Of which so many sign.
    pub root_threshold: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            root_keys: 3,
            root_threshold: 2,
        }
    }
}

/// Where a repository stands, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Version of each role's metadata.
    pub versions: BTreeMap<Role, u64>,
    /// When each role's metadata runs out.
    pub expires: BTreeMap<Role, jiff::Timestamp>,
    /// Targets in it.
    pub targets: usize,
    /// The public keys of each role, as `modules.trusted-keys` takes them.
    pub keys: BTreeMap<Role, Vec<String>>,
}

/// A repository that this process alone changes, for as long as this lives.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
    _lock: File,
    pub(crate) now: jiff::Timestamp,
    pub(crate) validity: Validity,
    pub(crate) root: Root,
    pub(crate) targets: Targets,
    snapshot: Listing,
    timestamp: Listing,
}

/// Signers of the three roles that change with every publication.
pub(crate) struct Hands {
    pub(crate) targets: Vec<Signer>,
    pub(crate) snapshot: Vec<Signer>,
    pub(crate) timestamp: Vec<Signer>,
}

/// What is to become of the targets.
pub(crate) enum Next {
    /// Nothing: snapshot and timestamp are signed anew.
    Fresh,
    /// They are signed anew, with these files besides.
    With(Vec<(Target, Vec<u8>)>),
}

/// How often a repository is tried that another command has, and how long apart.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// The most versions of the root that are followed.
const ROOTS: u64 = 4096;

impl Repository {
    /// Makes a repository in a directory, and the keys of its roles.
    ///
    /// # Errors
    /// One that is there already, files that cannot be written, thresholds that mean nothing.
    pub fn init(
        dir: &Path,
        keys: &KeyStore,
        thresholds: Thresholds,
        now: jiff::Timestamp,
        validity: Validity,
    ) -> Result<Self, Error> {
        let Thresholds {
            root_keys,
            root_threshold,
        } = thresholds;
        if root_threshold == 0 || root_threshold > root_keys || root_keys > 16 {
            return Err(Error::Value(format!(
                "{root_threshold} of {root_keys} root keys is no threshold: 1 to 16 keys, of which as many or fewer sign"
            )));
        }
        files::make_dir(dir, 0o755)?;
        let lock = lock(dir)?;
        if files::read(&metadata(dir, "1.root.json"), METADATA_BYTES)?.is_some() {
            return Err(Error::There(dir.to_owned()));
        }
        for part in ["metadata", "targets"] {
            files::make_dir(&dir.join(part), 0o755)?;
        }
        let mut root = Root::new(after(now, validity.root)?);
        let mut signers: BTreeMap<Role, Vec<Signer>> = BTreeMap::new();
        for role in Role::ALL {
            let (count, threshold) = match role {
                Role::Root => (root_keys, root_threshold),
                Role::Targets | Role::Snapshot | Role::Timestamp => (1, 1),
            };
            let made: Vec<Signer> = (0..count)
                .map(|_| keys.make(role).map(|(signer, _)| signer))
                .collect::<Result<_, Error>>()?;
            let public: Vec<_> = made.iter().map(|signer| signer.public().clone()).collect();
            root.assign(role, &public, threshold);
            signers.insert(role, made);
        }
        let mut take = |role| signers.remove(&role).unwrap_or_default();
        let of_root = take(Role::Root);
        let hands = Hands {
            targets: take(Role::Targets),
            snapshot: take(Role::Snapshot),
            timestamp: take(Role::Timestamp),
        };
        let mut repository = Self {
            dir: dir.to_owned(),
            _lock: lock,
            now,
            validity,
            root,
            targets: Targets::new(now),
            snapshot: Listing::new(Role::Snapshot, now),
            timestamp: Listing::new(Role::Timestamp, now),
        };
        // From nought to the first version of each.
        repository.targets.version = 0;
        repository.snapshot.version = 0;
        repository.timestamp.version = 0;
        repository.commit(Next::With(Vec::new()), &hands)?;
        // Last: with it this is a repository.
        repository.write_root(&of_root)?;
        Ok(repository)
    }

    /// Opens a repository, with everything in it checked from the first root on but the targets' contents.
    ///
    /// # Errors
    /// None there, somebody at it, damage. Metadata that ran out is an error of what needs it: [`Repository::unexpired`].
    pub fn open(dir: &Path, now: jiff::Timestamp, validity: Validity) -> Result<Self, Error> {
        let none = || Error::None(dir.to_owned());
        if !metadata(dir, "1.root.json").exists() {
            return Err(none());
        }
        let lock = lock(dir)?;
        let root = newest_root(dir)?.ok_or_else(none)?;
        let path = metadata(dir, "timestamp.json");
        let bytes = must(&path)?;
        let timestamp: Listing = verified(&path, &bytes, Role::Timestamp, &[&root])?;
        let snapshot: Listing = listed(dir, Role::Snapshot, &timestamp, &root)?;
        let targets: Targets = listed(dir, Role::Targets, &snapshot, &root)?;
        let repository = Self {
            dir: dir.to_owned(),
            _lock: lock,
            now,
            validity,
            root,
            targets,
            snapshot,
            timestamp,
        };
        for (name, info) in &repository.targets.targets {
            for path in repository.places(name, info) {
                let there = std::fs::metadata(&path).map(|found| found.len());
                if there.ok() != Some(info.length) {
                    return Err(Error::damaged(
                        path,
                        "the target is not there, or not whole",
                    ));
                }
            }
        }
        Ok(repository)
    }

    /// Refuses a repository whose metadata ran out: it may be an old copy, and what is signed on top of one would be refused.
    ///
    /// # Errors
    /// The first role that ran out.
    pub fn unexpired(&self) -> Result<(), Error> {
        self.root_unexpired()?;
        for listing in [&self.timestamp, &self.snapshot] {
            if listing.expires <= self.now {
                return Err(Error::Expired {
                    role: listing.role(),
                    at: listing.expires,
                    next: "this may be an old copy of it. Where it is the newest, run `tidegate repo refresh` first",
                });
            }
        }
        Ok(())
    }

    fn root_unexpired(&self) -> Result<(), Error> {
        if self.root.expires > self.now {
            return Ok(());
        }
        Err(Error::Expired {
            role: Role::Root,
            at: self.root.expires,
            next: "sign it anew with `tidegate repo refresh --root`, which needs a threshold of the root keys",
        })
    }

    /// Signs snapshot and timestamp anew, and what else is asked for, with nothing else changed.
    ///
    /// # Errors
    /// Keys that are not there; files; metadata of other roles that ran out.
    pub fn refresh(
        &mut self,
        keys: &KeyStore,
        with_targets: bool,
        with_root: bool,
    ) -> Result<(), Error> {
        if with_root {
            let signers = keys.signers(Role::Root, &self.root)?;
            self.root.version += 1;
            self.root.expires = after(self.now, self.validity.root)?;
            self.write_root(&signers)?;
        }
        self.root_unexpired()?;
        if with_targets {
            let hands = self.hands(keys)?;
            return self.commit(Next::With(Vec::new()), &hands);
        }
        if self.targets.expires <= self.now {
            return Err(Error::Expired {
                role: Role::Targets,
                at: self.targets.expires,
                next: "sign it anew with `tidegate repo refresh --targets`, which needs the key of targets",
            });
        }
        let hands = Hands {
            targets: Vec::new(),
            snapshot: keys.signers(Role::Snapshot, &self.root)?,
            timestamp: keys.signers(Role::Timestamp, &self.root)?,
        };
        self.commit(Next::Fresh, &hands)
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let roles: [(Role, u64, jiff::Timestamp); 4] = [
            (Role::Root, self.root.version, self.root.expires),
            (Role::Targets, self.targets.version, self.targets.expires),
            (Role::Snapshot, self.snapshot.version, self.snapshot.expires),
            (
                Role::Timestamp,
                self.timestamp.version,
                self.timestamp.expires,
            ),
        ];
        Standing {
            versions: roles
                .iter()
                .map(|(role, version, _)| (*role, *version))
                .collect(),
            expires: roles.iter().map(|(role, _, at)| (*role, *at)).collect(),
            targets: self.targets.targets.len(),
            keys: self.root.public_keys(),
        }
    }

    /// Whether the keys of a publication are here.
    ///
    /// # Errors
    /// Which are not.
    pub fn can_publish(&self, keys: &KeyStore) -> Result<(), Error> {
        self.hands(keys).map(drop)
    }

    /// The signers of a publication.
    pub(crate) fn hands(&self, keys: &KeyStore) -> Result<Hands, Error> {
        Ok(Hands {
            targets: keys.signers(Role::Targets, &self.root)?,
            snapshot: keys.signers(Role::Snapshot, &self.root)?,
            timestamp: keys.signers(Role::Timestamp, &self.root)?,
        })
    }

    /// Writes the next version of everything that changes, the timestamp last.
    pub(crate) fn commit(&mut self, next: Next, hands: &Hands) -> Result<(), Error> {
        if let Next::With(new) = next {
            for (target, bytes) in new {
                let info = Info::of(&bytes);
                let name = target.to_string();
                if info.length > target.most_bytes() {
                    let most = target.most_bytes();
                    return Err(Error::Value(format!(
                        "{name} has {} bytes, {most} are allowed",
                        info.length
                    )));
                }
                let [first, second] = self.places(&name, &info);
                put(&first, &second, &bytes)?;
                self.targets.targets.insert(name, info);
            }
            self.targets.version += 1;
            self.targets.expires = after(self.now, self.validity.targets)?;
            let bytes = sign(&self.targets, &hands.targets)?;
            let name = format!("{}.targets.json", self.targets.version);
            files::write(&metadata(&self.dir, &name), &bytes, files::PUBLIC)?;
            let meta = Meta {
                info: Info::of(&bytes),
                version: self.targets.version,
            };
            self.snapshot.meta.insert("targets.json".to_owned(), meta);
        }
        self.snapshot.version += 1;
        self.snapshot.expires = after(self.now, self.validity.online)?;
        let bytes = sign(&self.snapshot, &hands.snapshot)?;
        let name = format!("{}.snapshot.json", self.snapshot.version);
        files::write(&metadata(&self.dir, &name), &bytes, files::PUBLIC)?;
        let meta = Meta {
            info: Info::of(&bytes),
            version: self.snapshot.version,
        };
        self.timestamp.meta.insert("snapshot.json".to_owned(), meta);
        self.timestamp.version += 1;
        self.timestamp.expires = self.snapshot.expires;
        let bytes = sign(&self.timestamp, &hands.timestamp)?;
        files::write(
            &metadata(&self.dir, "timestamp.json"),
            &bytes,
            files::PUBLIC,
        )?;
        prune::prune(&self.dir, self.targets.version, self.snapshot.version)
    }

    pub(crate) fn write_root<'a>(
        &self,
        signers: impl IntoIterator<Item = &'a Signer>,
    ) -> Result<(), Error> {
        let bytes = sign(&self.root, signers)?;
        let name = format!("{}.root.json", self.root.version);
        files::write(&metadata(&self.dir, &name), &bytes, files::PUBLIC)
    }

    /// A target's bytes, checked; `None` where there is none of that name.
    pub(crate) fn read_target(&self, target: &Target) -> Result<Option<Vec<u8>>, Error> {
        let name = target.to_string();
        let Some(info) = self.targets.targets.get(&name) else {
            return Ok(None);
        };
        let [path, _] = self.places(&name, info);
        let bytes = files::read(&path, limits::MODULE_FILE_MOST_BYTES)?.unwrap_or_default();
        if Info::of(&bytes) != *info {
            return Err(Error::damaged(
                path,
                "its hash is another than the signed one",
            ));
        }
        Ok(Some(bytes))
    }

    /// Where python-tuf and where tough look for a target.
    fn places(&self, name: &str, info: &Info) -> [PathBuf; 2] {
        let sha = info.sha256();
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let targets = self.dir.join("targets");
        [
            targets.join(folder).join(format!("{sha}.{file}")),
            targets.join(format!("{sha}.{name}")),
        ]
    }
}

/// A file under both of its names.
fn put(first: &Path, second: &Path, bytes: &[u8]) -> Result<(), Error> {
    for path in [first, second] {
        if let Some(dir) = path.parent() {
            files::make_dir(dir, 0o755)?;
        }
    }
    // The name says what is in it; a command that was killed may have left it.
    let there = files::read(first, bytes.len() as u64);
    if !there.is_ok_and(|there| there.is_some_and(|there| there == bytes)) {
        files::write(first, bytes, files::PUBLIC)?;
    }
    files::link(first, second, bytes)
}

fn newest_root(dir: &Path) -> Result<Option<Root>, Error> {
    let mut newest: Option<Root> = None;
    for version in 1..=ROOTS {
        let path = metadata(dir, &format!("{version}.root.json"));
        let Some(bytes) = files::read(&path, METADATA_BYTES)? else {
            break;
        };
        // By its own keys, and from the second on by those before.
        let own: Root = unverified(&path, &bytes)?;
        let mut roots = vec![&own];
        roots.extend(newest.as_ref());
        let root: Root = verified(&path, &bytes, Role::Root, &roots)?;
        if root.version != version {
            return Err(Error::damaged(
                path,
                format!("it says that it is version {}", root.version),
            ));
        }
        newest = Some(root);
    }
    Ok(newest)
}

/// A root before it is known whose it is.
fn unverified(path: &Path, bytes: &[u8]) -> Result<Root, Error> {
    let mut json: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| Error::damaged(path, error))?;
    serde_json::from_value(json["signed"].take()).map_err(|error| Error::damaged(path, error))
}

/// Metadata that a listing names.
fn listed<T: Metadata>(dir: &Path, role: Role, by: &Listing, root: &Root) -> Result<T, Error> {
    let own = metadata(dir, &format!("{}.json", by.role()));
    let meta = by.meta.get(&format!("{role}.json"));
    let meta = meta.ok_or_else(|| Error::damaged(own, format!("it does not name {role}.json")))?;
    let path = metadata(dir, &format!("{}.{role}.json", meta.version));
    let bytes = must(&path)?;
    if Info::of(&bytes) != meta.info {
        return Err(Error::damaged(
            path,
            "its hash is another than the signed one",
        ));
    }
    let metadata: T = verified(&path, &bytes, role, &[root])?;
    if metadata.version() != meta.version {
        return Err(Error::damaged(
            path,
            format!("it says that it is version {}", metadata.version()),
        ));
    }
    Ok(metadata)
}

fn must(path: &Path) -> Result<Vec<u8>, Error> {
    files::read(path, METADATA_BYTES)?.ok_or_else(|| Error::damaged(path, "it is not there"))
}

pub(crate) fn metadata(dir: &Path, name: &str) -> PathBuf {
    dir.join("metadata").join(name)
}

pub(crate) fn after(now: jiff::Timestamp, time: Duration) -> Result<jiff::Timestamp, Error> {
    let too_late =
        |_| Error::Value("metadata cannot hold for so long; name a shorter time".to_owned());
    now.checked_add(time).map_err(too_late)
}

/// The kernel lets go of it with the process. Most commands are done in a moment, and `tidegate fleet` looks now and then: that
/// is waited for.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_WAIT),
            Err(error) => return Err(Error::io("lock", path)(error.into())),
        }
    }
    Err(Error::Locked(dir.to_owned()))
}
