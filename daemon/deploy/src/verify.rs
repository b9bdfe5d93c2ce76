//! TUF by tough, with what tough leaves open mended around it (see the decision page):
//!
//! - tough writes a datastore file by file, neither synced nor atomic. Here that is a scratch folder, seeded from what is kept and
//!   thrown away; what came of it is taken as one set, or not at all.
//! - It never reads the stored root back: the newest root that was verified is what it begins with.
//! - It takes a torn datastore for an empty one. Floors of our own are compared besides.
//! - It refuses a clock that stepped back. The scratch folder remembers no time; expiry is judged here, by one clock that is an
//!   argument.
//! - It takes any error for the end of the chain of roots. Here only a file that is missing ends it.
//! - It understands a JSON object with a name that stands twice, and times written otherwise than they were signed. Here that is no
//!   metadata.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp as Time;
use tidegate_domain::limits;
use tough::schema::{Metafile, Role, Root, Signed, Snapshot, Targets, Timestamp};
use tough::{
    ExpirationEnforcement, Limits, RepositoryLoader, TransportError, TransportErrorKind,
    TransportStream, async_trait,
};
use url::Url;

use crate::refusal::{Kind, Refusal};
use crate::transport::{FetchError, Request, Transport, Whole, is_plain, whole};
use crate::trust::{Floors, Metadata, Trust, hex, parse_root};
use crate::{faults, strict};

/// tough's way to say where: never resolved, never connected to.
const METADATA: &str = "http://repository/metadata/";
const TARGETS: &str = "http://repository/targets/";

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Not before the time that this program was built.
    pub time: Time,
    /// The clock shows a time that can be; else `time` is only the earliest that it is.
    pub set: bool,
}

/// What the publisher signed for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) length: u64,
    /// SHA-256.
    pub(crate) digest: [u8; 32],
}

/// A verified, consistent, timely repository.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) expiry: Expiry,
    /// `timestamp` of TUF: the number of the publication.
    pub(crate) version: u64,
}

/// What expires first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// `timestamp`, `snapshot`, `targets` or `root`
    pub role: &'static str,
    /// When.
    pub at: Time,
}

/// What came of a look at the repository.
pub(crate) struct Refreshed {
    /// What is believed from now on, where that is something else than before. To be stored whatever `verified` says:
    /// a newer root counts even where the rest does not.
    pub(crate) trust: Option<Trust>,
    pub(crate) verified: Result<Verified, Refusal>,
}

/// Looks at the repository. Where nothing is new that costs two small requests.
pub(crate) async fn refresh(
    transport: &Arc<dyn Transport>,
    trust: &Trust,
    now: Now,
    scratch: &Path,
) -> Refreshed {
    let feed = Feed::new(Arc::clone(transport));
    match look(&feed, trust).await {
        Err(error) => Refreshed {
            trust: None,
            verified: Err(error.into()),
        },
        Ok(Look::Unchanged) => Refreshed {
            trust: None,
            verified: judge_kept(trust, now),
        },
        Ok(Look::News) => load(&feed, trust, now, scratch).await,
    }
}

enum Look {
    Unchanged,
    News,
}

/// Asks for the next root, and for a timestamp that is another than the one that is kept. What comes is remembered.
async fn look(feed: &Feed, trust: &Trust) -> Result<Look, FetchError> {
    let next = format!("{}.root.json", trust.root_version.saturating_add(1));
    let root = feed.get(&next, None).await?;
    let Some(kept) = trust.metadata.as_ref().filter(|_| root.is_none()) else {
        return Ok(Look::News);
    };
    let place = feed.0.transport.place();
    let tag = kept.tag.as_ref().filter(|(of, _)| *of == place);
    let tag = tag.map(|(_, tag)| tag.as_str());
    let same = match feed.get("timestamp.json", tag).await? {
        Some(Got::Unchanged) => true,
        Some(Got::Bytes(bytes)) => bytes == kept.timestamp.as_bytes(),
        None => false,
    };
    Ok(if same { Look::Unchanged } else { Look::News })
}

/// What is kept was verified when it came; what time has done to it since is judged anew.
fn judge_kept(trust: &Trust, now: Now) -> Result<Verified, Refusal> {
    let Some(kept) = &trust.metadata else {
        return Err(damaged("there is no metadata"));
    };
    let read = |what: serde_json::Error| damaged(&what.to_string());
    let root = parse_root(&trust.root).map_err(|error| damaged(&error))?;
    let timestamp: Signed<Timestamp> = serde_json::from_str(&kept.timestamp).map_err(read)?;
    let snapshot: Signed<Snapshot> = serde_json::from_str(&kept.snapshot).map_err(read)?;
    let targets: Signed<Targets> = serde_json::from_str(&kept.targets).map_err(read)?;
    // The disk may have turned a bit.
    let verified = root
        .signed
        .verify_role(&timestamp)
        .and_then(|()| root.signed.verify_role(&snapshot))
        .and_then(|()| root.signed.verify_role(&targets));
    verified.map_err(|error| damaged(&error.to_string()))?;
    let set = Set {
        root: &root.signed,
        timestamp: &timestamp.signed,
        snapshot: &snapshot.signed,
        targets: &targets.signed,
    };
    set.judge(now)
}

fn damaged(what: &str) -> Refusal {
    Refusal::new(
        Kind::Local,
        "trust.json",
        format!("what was verified before cannot be read any more: {what}"),
        "look at the disk; to begin anew with `deploy.root`, move deploy/trust.json in the state directory away and restart",
    )
}

/// Lets tough verify everything that is new.
async fn load(feed: &Feed, trust: &Trust, now: Now, scratch: &Path) -> Refreshed {
    let refuse = |refusal| Refreshed {
        trust: None,
        verified: Err(refusal),
    };
    let datastore = match seeded(trust, scratch) {
        Ok(datastore) => datastore,
        Err(error) => {
            return refuse(Refusal::new(
                Kind::Local,
                &scratch.display().to_string(),
                error.to_string(),
                "look at the disk; the next poll tries again",
            ));
        }
    };
    let (metadata, targets) = match (Url::parse(METADATA), Url::parse(TARGETS)) {
        (Ok(metadata), Ok(targets)) => (metadata, targets),
        (Err(error), _) | (_, Err(error)) => return refuse(damaged(&error.to_string())),
    };
    let loaded = RepositoryLoader::new(&trust.root, metadata, targets)
        .transport(feed.clone())
        .datastore(datastore.path())
        .limits(Limits {
            max_root_size: limits::DEPLOY_ROOT_BYTES,
            max_targets_size: limits::DEPLOY_TARGETS_BYTES,
            max_timestamp_size: limits::DEPLOY_TIMESTAMP_BYTES,
            max_snapshot_size: limits::DEPLOY_SNAPSHOT_BYTES,
            max_root_updates: limits::DEPLOY_ROOTS,
        })
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await;
    // Roots that tough verified count, whatever came after them.
    let mut trust = trust.clone();
    let before = trust.root_version;
    if let Some((version, text)) = feed.newest_root(datastore.path(), before) {
        trust.root = text;
        trust.root_version = version;
    }
    let newer = |trust: Trust| (trust.root_version != before).then_some(trust);
    if let Some(error) = feed.error() {
        return Refreshed {
            trust: newer(trust),
            verified: Err(error),
        };
    }
    let repository = match loaded {
        Ok(repository) => repository,
        Err(error) => {
            return Refreshed {
                trust: newer(trust),
                verified: Err(crate::explain::tough(&error)),
            };
        }
    };
    let set = Set {
        root: &repository.root().signed,
        timestamp: &repository.timestamp().signed,
        snapshot: &repository.snapshot().signed,
        targets: &repository.targets().signed,
    };
    let floors = trust.floors_under(set.root);
    let taken = set
        .above(&floors)
        .and_then(|()| set.complete(feed))
        .and_then(|metadata| Ok((metadata, set.judge(now)?)));
    match taken {
        Err(refusal) => Refreshed {
            trust: newer(trust),
            verified: Err(refusal),
        },
        Ok((metadata, verified)) => {
            trust.floors = Floors {
                timestamp: set.timestamp.version.get(),
                snapshot: set.snapshot.version.get(),
                targets: set.targets.version.get(),
                ..floors
            };
            trust.metadata = Some(metadata);
            Refreshed {
                trust: Some(trust),
                verified: Ok(verified),
            }
        }
    }
}

/// A scratch folder with what tough compares with.
fn seeded(trust: &Trust, scratch: &Path) -> std::io::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new()
        .prefix(crate::SCRATCH)
        .tempdir_in(scratch)?;
    if let Some(kept) = &trust.metadata {
        for (name, text) in [
            ("timestamp.json", &kept.timestamp),
            ("snapshot.json", &kept.snapshot),
            ("targets.json", &kept.targets),
        ] {
            std::fs::write(dir.path().join(name), text)?;
        }
    }
    Ok(dir)
}

/// The four roles that tough has verified.
struct Set<'a> {
    root: &'a Root,
    timestamp: &'a Timestamp,
    snapshot: &'a Snapshot,
    targets: &'a Targets,
}

impl Set<'_> {
    /// Compares with our own floors.
    fn above(&self, floors: &Floors) -> Result<(), Refusal> {
        if faults::floors_are_off() {
            return Ok(());
        }
        for (role, found, floor) in [
            ("timestamp", self.timestamp.version.get(), floors.timestamp),
            ("snapshot", self.snapshot.version.get(), floors.snapshot),
            ("targets", self.targets.version.get(), floors.targets),
        ] {
            if found < floor {
                return Err(crate::explain::rollback(role, found, floor));
            }
        }
        Ok(())
    }

    /// The files as they came, which must have the lengths that were signed.
    fn complete(&self, feed: &Feed) -> Result<Metadata, Refusal> {
        let file = |role: &str, version: u64| {
            if self.root.consistent_snapshot {
                format!("{version}.{role}.json")
            } else {
                format!("{role}.json")
            }
        };
        let snapshot = file("snapshot", self.snapshot.version.get());
        let targets = file("targets", self.targets.version.get());
        check_length(feed, &snapshot, self.timestamp.meta.get("snapshot.json"))?;
        check_length(feed, &targets, self.snapshot.meta.get("targets.json"))?;
        let place = feed.0.transport.place();
        let tag = lock(&feed.0.files).tag.clone();
        Ok(Metadata {
            timestamp: feed.text("timestamp.json")?,
            snapshot: feed.text(&snapshot)?,
            targets: feed.text(&targets)?,
            tag: tag.map(|tag| (place, tag)),
        })
    }

    /// Names and times.
    fn judge(&self, now: Now) -> Result<Verified, Refusal> {
        let mut files = BTreeMap::new();
        for (name, target) in &self.targets.targets {
            let raw = name.raw();
            let digest = <[u8; 32]>::try_from(&*target.hashes.sha256).ok();
            if !is_plain(raw) || name.resolved() != raw {
                return Err(Refusal::new(
                    Kind::Name,
                    "metadata/targets.json",
                    format!(
                        "it names the target `{}`, which is no path of plain names below targets/",
                        raw.escape_debug()
                    ),
                    "nothing of this publication is taken; the publisher has to rename it",
                ));
            }
            let Some(digest) = digest else {
                return Err(Refusal::new(
                    Kind::Malformed,
                    "metadata/targets.json",
                    format!("the SHA-256 of `{raw}` does not have 32 bytes"),
                    "the publisher has to publish again",
                ));
            };
            let length = target.length;
            files.insert(raw.to_owned(), File { length, digest });
        }
        let roles = [
            ("root", self.root.expires()),
            ("timestamp", self.timestamp.expires()),
            ("snapshot", self.snapshot.expires()),
            ("targets", self.targets.expires()),
        ];
        for (role, at) in roles {
            if at <= now.time {
                return Err(crate::explain::expired(role, at, now));
            }
        }
        let first = roles.iter().min_by_key(|(_, at)| *at);
        let (role, at) = *first.unwrap_or(&roles[0]);
        Ok(Verified {
            files,
            expiry: Expiry { role, at },
            version: self.timestamp.version.get(),
        })
    }
}

/// tough takes a file that is shorter than what was signed, where no digest was.
fn check_length(feed: &Feed, name: &str, signed: Option<&Metafile>) -> Result<(), Refusal> {
    let Some(length) = signed.and_then(|signed| signed.length) else {
        return Ok(());
    };
    let found = feed.text(name)?.len() as u64;
    if found == length {
        return Ok(());
    }
    Err(Refusal::new(
        Kind::Content,
        &format!("metadata/{name}"),
        format!("it has a length of {found} bytes, and {length} were signed"),
        "the server does not hold what the publisher signed: publish the file again",
    ))
}

/// tough's transport: our own, which remembers what came word for word, and why something did not.
#[derive(Clone, Debug)]
struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Arc<dyn Transport>,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// What came, by name; `None` what is not there.
    came: BTreeMap<String, Option<Vec<u8>>>,
    /// What the timestamp can be recognised by.
    tag: Option<String>,
    /// Why something did not come. From then on nothing does.
    error: Option<Refusal>,
    bytes: u64,
}

enum Got {
    Unchanged,
    Bytes(Vec<u8>),
}

impl Feed {
    fn new(transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(Inner {
            transport,
            files: Mutex::default(),
        }))
    }

    /// A metadata file; `None` where there is none. What came once is not asked for again.
    async fn get(&self, name: &str, unless: Option<&str>) -> Result<Option<Got>, FetchError> {
        if let Some(came) = lock(&self.0.files).came.get(name) {
            return Ok(came.clone().map(Got::Bytes));
        }
        let path = format!("metadata/{name}");
        let most = match name.rsplit_once('.').map_or(name, |(stem, _)| stem) {
            "timestamp" => limits::DEPLOY_TIMESTAMP_BYTES,
            stem if stem.ends_with("root") => limits::DEPLOY_ROOT_BYTES,
            stem if stem.ends_with("snapshot") => limits::DEPLOY_SNAPSHOT_BYTES,
            _ => limits::DEPLOY_TARGETS_BYTES,
        };
        let request = Request {
            unless,
            ..Request::whole(&path)
        };
        let came = match whole(self.0.transport.as_ref(), request, most).await? {
            Whole::Unchanged => return Ok(Some(Got::Unchanged)),
            Whole::Missing => None,
            Whole::Bytes { bytes, tag } => {
                if name == "timestamp.json" {
                    lock(&self.0.files).tag = tag;
                }
                Some(bytes)
            }
        };
        let mut files = lock(&self.0.files);
        files.bytes += came.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if files.came.len() >= limits::DEPLOY_METADATA_FILES
            || files.bytes > limits::DEPLOY_METADATA_BYTES
        {
            return Err(FetchError::new(
                &path,
                format!(
                    "one look would fetch more than {} files or {} bytes of metadata",
                    limits::DEPLOY_METADATA_FILES,
                    limits::DEPLOY_METADATA_BYTES
                ),
                "the repository has too many roots to follow or too many delegations: give the device a newer `deploy.root`",
            ));
        }
        files.came.insert(name.to_owned(), came.clone());
        Ok(came.map(Got::Bytes))
    }

    /// What tough gets: bytes that are strict JSON, or nothing.
    async fn hand_out(&self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let bytes = match self.get(name, None).await? {
            None | Some(Got::Unchanged) => return Ok(None),
            Some(Got::Bytes(bytes)) => bytes,
        };
        let role = name.trim_end_matches(".json");
        let read = strict::check_metadata(&bytes).and_then(|()| match role {
            "timestamp" => strict::check_reading::<Timestamp>(&bytes),
            role if role.ends_with(".root") => strict::check_reading::<Root>(&bytes),
            role if role.ends_with("snapshot") => strict::check_reading::<Snapshot>(&bytes),
            _ => strict::check_reading::<Targets>(&bytes),
        });
        read.map_err(|what| {
            Refusal::new(
                Kind::Malformed,
                &format!("metadata/{name}"),
                format!("it is no metadata: {what}"),
                "it was changed on the way or on the server: publish the file again",
            )
        })?;
        Ok(Some(bytes))
    }

    fn error(&self) -> Option<Refusal> {
        lock(&self.0.files).error.clone()
    }

    /// The root that tough has arrived at, where it is above `before`: version and words.
    fn newest_root(&self, datastore: &Path, before: u64) -> Option<(u64, String)> {
        // tough writes down each root when it has verified it.
        let bytes = std::fs::read(datastore.join("root.json")).ok()?;
        let root: Signed<Root> = serde_json::from_slice(&bytes).ok()?;
        let version = root.signed.version.get();
        let text = self.text(&format!("{version}.root.json")).ok()?;
        (version > before).then_some((version, text))
    }

    fn text(&self, name: &str) -> Result<String, Refusal> {
        let came = lock(&self.0.files).came.get(name).cloned().flatten();
        came.and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| {
                Refusal::new(
                    Kind::Malformed,
                    &format!("metadata/{name}"),
                    "it is not there as text",
                    "publish the file again",
                )
            })
    }
}

#[async_trait]
impl tough::Transport for Feed {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let name = url.as_str().strip_prefix(METADATA).unwrap_or(url.path());
        match self.hand_out(name).await {
            Ok(Some(bytes)) => {
                let bytes = Ok(Bytes::from(bytes));
                Ok(Box::pin(futures_util::stream::iter([bytes])))
            }
            Ok(None) => Err(TransportError::new(TransportErrorKind::FileNotFound, url)),
            Err(refusal) => {
                lock(&self.0.files).error = Some(refusal.clone());
                Err(TransportError::new_with_cause(
                    TransportErrorKind::Other,
                    url,
                    refusal,
                ))
            }
        }
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A digest as `sha256:…`.
pub(crate) fn digest_text(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex(digest))
}

/// A time for [`Now`], from seconds since the epoch; the end of time where there is none.
#[must_use]
pub fn time(seconds: i64) -> Time {
    Time::from_second(seconds).unwrap_or(Time::MAX)
}
