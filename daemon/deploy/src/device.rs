//! One look at the repository, from the first request to the file that says what the channel names.
//!
//! Each step ends with a file that is whole: what was verified, each file that was fetched, the channel. A look that is cut off
//! anywhere goes on from the last of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_domain::channel::{Channel, Name, Part, Pinned, Release, Target};
use tidegate_domain::install::{Epoch, EpochModule, Install};
use tidegate_domain::limits;

use crate::durable;
use crate::files::Files;
use crate::refusal::{Kind, Refusal};
use crate::strict;
use crate::transport::Transport;
use crate::trust::{Trust, TrustFile};
use crate::verify::{Expiry, Now, Verified, digest_text, refresh};

/// The format of the file that says what the channel names.
const FORMAT: u32 = 1;
const CHANNEL: &str = "channel.json";
const INSTALL: &str = "install.json";
/// Of either file: three epochs at most, with their settings.
const FILE_BYTES: u64 = 4 * limits::CHANNEL_BYTES as u64;

/// Where a device keeps what it believes, and what it follows.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// A folder of its own.
    pub dir: PathBuf,
    /// The root that is trusted at first.
    pub root: PathBuf,
    /// Which channel it follows.
    pub channel: Name,
}

/// The device's side of a repository.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    trust: TrustFile,
    files: Files,
}

/// The file that says what the channel named when all of it was here.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EpochFile {
    format: u32,
    epoch: Epoch,
}

/// The file that says what of it is installed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct InstallFile {
    format: u32,
    install: Install,
}

/// A module that is judged by who knows modules, before it counts as here.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// As the channel names it.
    pub name: &'a str,
    /// Likewise.
    pub version: &'a str,
    /// The component.
    pub component: &'a [u8],
    /// The release document, which fits the component.
    pub release: &'a Release,
}

/// Judges a candidate: what keeps it from ever running here, and what to do about it.
pub type Admission<'a> = &'a (dyn Fn(&Candidate<'_>) -> Result<(), (String, String)> + Sync);

/// What a look found.
#[derive(Clone, Debug)]
pub struct Polled {
    /// The channel's number.
    pub epoch: u64,
    /// The channel names something else than before.
    pub news: bool,
    /// Bytes of targets that came.
    pub bytes: u64,
    /// What expires first.
    pub expiry: Expiry,
    /// The publication, by the version of its timestamp.
    pub publication: u64,
}

impl Device {
    /// Nothing is read or written yet.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        Self {
            trust: TrustFile::new(&config.dir),
            files: Files::new(config.dir.join("files")),
            config,
        }
    }

    /// Makes the folder where it is not there, and removes what a look left behind that was cut off.
    fn prepare(&self) -> Result<(), Refusal> {
        let dir = &self.config.dir;
        let prepared = (|| -> io::Result<()> {
            durable::make_dir(dir)?;
            self.files.prepare()?;
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if name
                    .as_encoded_bytes()
                    .starts_with(crate::SCRATCH.as_bytes())
                {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        })();
        prepared.map_err(|error| {
            Refusal::new(
                Kind::Local,
                &dir.display().to_string(),
                format!("the folder cannot be used: {error}"),
                "look at its owner and at the disk; the next poll tries again",
            )
        })
    }

    /// The newest epoch of the channel of which all is here; `None` before that, where another channel was followed, and where the
    /// file means nothing: it is set aside then, and the next poll makes it anew, for everything in it is in the repository.
    ///
    /// # Errors
    /// The file is there, and can neither be read nor set aside.
    pub fn newest(&self) -> Result<Option<Epoch>, Refusal> {
        let path = self.config.dir.join(CHANNEL);
        let refuse = |error: io::Error| {
            let help = "look at the disk; the next poll tries again";
            Refusal::new(
                Kind::Local,
                &path.display().to_string(),
                error.to_string(),
                help,
            )
        };
        let Some(bytes) = durable::read(&path, FILE_BYTES).map_err(refuse)? else {
            return Ok(None);
        };
        let read = serde_json::from_slice(&bytes).map_err(|error| error.to_string());
        let read = read.and_then(|file: EpochFile| match file.format {
            FORMAT => Ok(file),
            other => Err(format!(
                "it has format {other}, and this daemon reads {FORMAT}"
            )),
        });
        let file = match read {
            Ok(file) => file,
            Err(why) => {
                let aside = path.with_extension("damaged");
                durable::rename(&path, &aside).map_err(refuse)?;
                tracing::error!(
                    "{} means nothing and is set aside as {}; the next look at the repository makes it anew: {why}",
                    path.display(),
                    aside.display()
                );
                return Ok(None);
            }
        };
        let ours = |epoch: &Epoch| epoch.channel == self.config.channel.as_str();
        Ok(Some(file.epoch).filter(ours))
    }

    /// What is installed; nothing where nothing ever was.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn install(&self) -> Result<Install, Refusal> {
        let help = "what runs goes on by the store's records; to begin anew, move the file away and restart: what the channel names \
                    is then installed again";
        let file: Option<InstallFile> = self.read_file(INSTALL, help)?;
        let Some(file) = file else {
            return Ok(Install::default());
        };
        self.check_format(INSTALL, file.format)?;
        Ok(file.install)
    }

    /// Stores what is installed, before anybody acts by it.
    ///
    /// # Errors
    /// It cannot be written, and is as it was.
    pub fn store_install(&self, install: &Install) -> Result<(), Refusal> {
        self.write_file(
            INSTALL,
            &InstallFile {
                format: FORMAT,
                install: install.clone(),
            },
        )
    }

    /// The channel document of an epoch; `None` where it is gone or damaged, and the next poll fetches it again.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn channel(&self, epoch: &Epoch) -> Result<Option<Channel>, Refusal> {
        let Some(document) = self.read(&epoch.document)? else {
            return Ok(None);
        };
        let name = Target::Channel(self.config.channel.clone()).to_string();
        read_channel(&name, &document).map(Some)
    }

    /// A module of an epoch, with its release document; `None` where a file is gone or damaged.
    ///
    /// # Errors
    /// A file cannot be read, or is not about this module.
    pub fn module(&self, module: &EpochModule) -> Result<Option<(Vec<u8>, Release)>, Refusal> {
        let (Some(component), Some(document)) =
            (self.read(&module.digest)?, self.read(&module.release)?)
        else {
            return Ok(None);
        };
        Ok(Some((component, read_release(&document, module)?)))
    }

    fn read_file<T: DeserializeOwned>(&self, name: &str, help: &str) -> Result<Option<T>, Refusal> {
        let path = self.config.dir.join(name);
        let refuse =
            |what: String| Refusal::new(Kind::Local, &path.display().to_string(), what, help);
        let bytes = durable::read(&path, FILE_BYTES).map_err(|error| refuse(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| refuse(error.to_string()))
    }

    fn check_format(&self, name: &str, format: u32) -> Result<(), Refusal> {
        if format == FORMAT {
            return Ok(());
        }
        Err(Refusal::new(
            Kind::Local,
            &self.config.dir.join(name).display().to_string(),
            format!("it has format {format}, and this daemon reads {FORMAT}"),
            "run the daemon that wrote it, or move the file away",
        ))
    }

    fn write_file<T: Serialize>(&self, name: &str, file: &T) -> Result<(), Refusal> {
        let path = self.config.dir.join(name);
        let refuse = |what: String| {
            Refusal::new(
                Kind::Local,
                &path.display().to_string(),
                what,
                "look at the disk; the next poll goes on from here",
            )
        };
        let bytes = serde_json::to_vec(file).map_err(|error| refuse(error.to_string()))?;
        durable::make_dir(&self.config.dir)
            .and_then(|()| durable::replace(&path, &bytes))
            .map_err(|error| refuse(error.to_string()))
    }

    /// The bytes of a file that an [`EpochModule`] names; `None` where they are gone or damaged, and the next poll fetches
    /// them again.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(&self, digest: &str) -> Result<Option<Vec<u8>>, Refusal> {
        match parse_digest(digest) {
            Some(digest) => self.files.read(&digest),
            None => Ok(None),
        }
    }

    /// Looks at the repository, verifies, and fetches what the channel names and the device lacks.
    ///
    /// Files are written on the calling thread: it is one that may block.
    ///
    /// # Errors
    /// Why the repository as it is now is not taken. What was installed before is untouched.
    pub async fn poll(
        &self,
        transport: &Arc<dyn Transport>,
        now: Now,
        admit: Admission<'_>,
    ) -> Result<Polled, Refusal> {
        self.prepare()?;
        let mut trust = self.trust.load(&self.config.root)?;
        let refreshed = refresh(transport, &trust, now, &self.config.dir).await;
        if let Some(newer) = refreshed.trust {
            self.trust.store(&newer)?;
            trust = newer;
        }
        let verified = refreshed.verified?;
        let (epoch, bytes) = self
            .fetch_channel(transport.as_ref(), &trust, &verified, admit)
            .await?;
        let number = epoch.epoch;
        let news = self.newest()?.as_ref() != Some(&epoch);
        let mut keep = self.in_use()?;
        keep.extend(digests(&epoch));
        if news {
            let floor = trust.floors.epochs.entry(epoch.channel.clone());
            *floor.or_default() = number;
            self.trust.store(&trust)?;
            self.write_file(
                CHANNEL,
                &EpochFile {
                    format: FORMAT,
                    epoch,
                },
            )?;
        }
        self.sweep(&keep);
        Ok(Polled {
            epoch: number,
            news,
            bytes,
            expiry: verified.expiry,
            publication: verified.version,
        })
    }

    /// The files of what is installed, and of what it may go back to.
    fn in_use(&self) -> Result<BTreeSet<[u8; 32]>, Refusal> {
        let install = self.install()?;
        let epochs = install.in_force.iter().chain(&install.before);
        Ok(epochs.flat_map(digests).collect())
    }

    /// The channel and all its files, on the device.
    async fn fetch_channel(
        &self,
        transport: &dyn Transport,
        trust: &Trust,
        verified: &Verified,
        admit: Admission<'_>,
    ) -> Result<(Epoch, u64), Refusal> {
        let name = Target::Channel(self.config.channel.clone()).to_string();
        let Some(file) = verified.files.get(&name) else {
            return Err(self.no_channel(verified));
        };
        let mut keep = self.in_use()?;
        keep.extend(self.newest()?.iter().flat_map(digests));
        if self.files.check_room(file.length).is_err() {
            // Not even the document fits, which says what else is wanted.
            self.sweep(&keep);
        }
        let most = limits::CHANNEL_BYTES as u64;
        let mut came = self.files.fetch(transport, &name, file, most).await?;
        let document = self.files.read(&file.digest)?.ok_or_else(gone)?;
        let channel = read_channel(&name, &document)?;
        let document = digest_text(&file.digest);
        self.check_epoch(&name, &channel, &document, trust)?;
        keep.insert(file.digest);
        keep.extend(digests_of(&channel, verified));
        // Epochs that were begun, and superseded before they were whole, have left files that nothing names.
        self.sweep(&keep);

        let mut modules = Vec::new();
        for (module, pinned) in &channel.modules {
            let (installed, bytes) = self
                .fetch_module(transport, verified, &name, module, pinned)
                .await?;
            came += bytes;
            modules.push(installed);
        }
        let epoch = Epoch {
            channel: self.config.channel.to_string(),
            epoch: channel.epoch,
            document,
            modules,
        };
        // What was judged before is not judged again.
        if self.newest()?.as_ref() != Some(&epoch) {
            self.judge(&epoch, admit)?;
        }
        Ok((epoch, came))
    }

    fn sweep(&self, keep: &BTreeSet<[u8; 32]>) {
        if let Err(error) = self.files.sweep(keep) {
            tracing::warn!(%error, "files that no channel names any more cannot be removed");
        }
    }

    async fn fetch_module(
        &self,
        transport: &dyn Transport,
        verified: &Verified,
        channel: &str,
        module: &Name,
        pinned: &Pinned,
    ) -> Result<(EpochModule, u64), Refusal> {
        let version = &pinned.version;
        let refuse = |what: String| {
            Refusal::new(
                Kind::Channel,
                channel,
                what,
                "nothing of this epoch is taken; the publisher has to publish the channel anew",
            )
        };
        let name_of = |part| {
            let (name, version) = (module.clone(), version.clone());
            Target::Module {
                name,
                version,
                part,
            }
            .to_string()
        };
        let find = |part| verified.files.get(&name_of(part));
        let must = |part| {
            let missing = || {
                let file = name_of(part);
                refuse(format!(
                    "it names {module} {version}, and there is no {file}"
                ))
            };
            find(part).ok_or_else(missing)
        };
        let (component, release) = (must(Part::Component)?, must(Part::Release)?);
        let digest = digest_text(&component.digest);
        if pinned.digest != digest {
            return Err(refuse(format!(
                "it names {module} {version} with {}, and {} has {digest}",
                pinned.digest,
                name_of(Part::Component)
            )));
        }
        let mut came = 0;
        for part in Part::ALL {
            if let Some(file) = find(part) {
                let name = name_of(part);
                let most = part.most_bytes();
                came += self.files.fetch(transport, &name, file, most).await?;
            }
        }
        let document = self.files.read(&release.digest)?.ok_or_else(gone)?;
        let text = |part| find(part).map(|file| digest_text(&file.digest));
        let mut installed = EpochModule {
            name: module.to_string(),
            version: version.to_string(),
            digest,
            bytes: component.length,
            world: String::new(),
            release: digest_text(&release.digest),
            vectors: text(Part::Vectors),
            sbom: text(Part::Sbom),
            provenance: text(Part::Provenance),
            minimum: pinned.minimum.as_ref().map(ToString::to_string),
            settings: pinned.settings.clone(),
        };
        installed.world = read_release(&document, &installed)?.world;
        Ok((installed, came))
    }

    fn judge(&self, epoch: &Epoch, admit: Admission<'_>) -> Result<(), Refusal> {
        for module in &epoch.modules {
            let base = format!("modules/{}/{}", module.name, module.version);
            let (component, release) = self.module(module)?.ok_or_else(gone)?;
            let candidate = Candidate {
                name: &module.name,
                version: &module.version,
                component: &component,
                release: &release,
            };
            admit(&candidate).map_err(|(what, help)| {
                Refusal::new(Kind::Channel, &format!("{base}.wasm"), what, help)
            })?;
        }
        Ok(())
    }

    fn check_epoch(
        &self,
        name: &str,
        channel: &Channel,
        document: &str,
        trust: &Trust,
    ) -> Result<(), Refusal> {
        let floor = trust.floors.epochs.get(self.config.channel.as_str());
        let floor = floor.copied().unwrap_or_default();
        if channel.epoch < floor {
            return Err(Refusal::new(
                Kind::Rollback,
                name,
                format!(
                    "rollback: its epoch is {}, and epoch {floor} was seen before",
                    channel.epoch
                ),
                "publish it anew with a higher epoch",
            ));
        }
        let before = self.newest()?;
        let same = before.filter(|before| before.epoch == channel.epoch);
        if same.is_some_and(|before| before.document != document) {
            return Err(Refusal::new(
                Kind::Channel,
                name,
                format!(
                    "epoch {} was seen before with another content",
                    channel.epoch
                ),
                "publish it anew with a higher epoch",
            ));
        }
        Ok(())
    }

    fn no_channel(&self, verified: &Verified) -> Refusal {
        let there: Vec<&str> = verified
            .files
            .keys()
            .filter_map(|name| name.strip_prefix("channels/")?.strip_suffix(".json"))
            .take(8)
            .collect();
        let there = if there.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", there.join(", "))
        };
        Refusal::new(
            Kind::Channel,
            &format!("channels/{}.json", self.config.channel),
            format!("the repository has no such channel; {there}"),
            "write one of them into `deploy.channel`, or publish it",
        )
    }
}

/// Of every file that belongs to an epoch.
fn digests(epoch: &Epoch) -> BTreeSet<[u8; 32]> {
    let of = |module: &EpochModule| {
        let more = [&module.vectors, &module.sbom, &module.provenance];
        let more = more.into_iter().flatten().cloned();
        [module.digest.clone(), module.release.clone()]
            .into_iter()
            .chain(more)
            .collect::<Vec<String>>()
    };
    let modules = epoch.modules.iter().flat_map(of);
    std::iter::once(epoch.document.clone())
        .chain(modules)
        .filter_map(|digest| parse_digest(&digest))
        .collect()
}

/// Of every file of the modules that a channel names.
fn digests_of(channel: &Channel, verified: &Verified) -> Vec<[u8; 32]> {
    let modules = channel.modules.iter();
    let parts = modules.flat_map(|module| Part::ALL.map(|part| (module, part)));
    let files = parts.filter_map(|((name, pinned), part)| {
        let target = Target::Module {
            name: name.clone(),
            version: pinned.version.clone(),
            part,
        };
        verified.files.get(&target.to_string())
    });
    files.map(|file| file.digest).collect()
}

fn read_channel(name: &str, document: &[u8]) -> Result<Channel, Refusal> {
    let read = strict::check(document)
        .and_then(|()| Channel::parse(document).map_err(|error| error.to_string()));
    read.map_err(|what| {
        Refusal::new(
            Kind::Malformed,
            name,
            format!("it is no channel: {what}"),
            "the publisher has to publish the channel anew",
        )
    })
}

/// A release document that speaks of this module.
fn read_release(document: &[u8], module: &EpochModule) -> Result<Release, Refusal> {
    parse_release(document, module).map_err(|what| {
        Refusal::new(
            Kind::Malformed,
            &format!("modules/{}/{}.json", module.name, module.version),
            what,
            "the publisher has to publish the module anew, under another version",
        )
    })
}

fn parse_release(document: &[u8], module: &EpochModule) -> Result<Release, String> {
    strict::check(document)?;
    let release = Release::parse(document).map_err(|error| error.to_string())?;
    let says = |key: &str, found: &str, expected: &str| {
        Err(format!(
            "its `{key}` is {found}, and the repository has {expected}"
        ))
    };
    if release.name.as_str() != module.name {
        return says("name", release.name.as_str(), &module.name);
    }
    if release.version.to_string() != module.version {
        return says("version", &release.version.to_string(), &module.version);
    }
    if release.digest != module.digest {
        return says("digest", &release.digest, &module.digest);
    }
    if release.bytes != module.bytes {
        return says(
            "bytes",
            &release.bytes.to_string(),
            &module.bytes.to_string(),
        );
    }
    if release.vectors != module.vectors {
        let show = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".to_owned());
        return says("vectors", &show(&release.vectors), &show(&module.vectors));
    }
    Ok(release)
}

fn gone() -> Refusal {
    Refusal::new(
        Kind::Local,
        "deploy/files",
        "a file that came a moment ago is damaged",
        "look at the disk; the next poll fetches it again",
    )
}

/// `sha256:…`
fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?;
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}
