//! One look at the repository: the way to it, what is judged of what it has, and what is said of what came of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_deploy::{
    Candidate, Device, Directory, Expiry, Http, HttpConfig, Kind, Now, Pace, Polled, Refusal,
    Transport,
};
use tidegate_domain::channel::Version;
use tidegate_domain::install::Epoch;
use tidegate_pipeline::{LoadLimits, Manifest, inspect};
use tidegate_status::view;
use tidegate_tls::Tls;

use super::{SOON, lock};
use crate::audit::{self, Audit};
use crate::clock;
use crate::config::{self, Config, Repository};

/// A look that takes longer is given up; what came of files is kept.
const LONGEST: Duration = Duration::from_hours(6);

/// What looks.
pub(crate) struct Looker {
    pub(crate) config: Arc<Config>,
    pub(crate) deploy: config::Deploy,
    pub(crate) device: Arc<Device>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) status: Arc<Mutex<view::DeployStatus>>,
    pub(crate) audit: Audit,
}

impl Looker {
    /// One look, and what is said of it.
    ///
    /// # Errors
    /// Why nothing was taken.
    pub(crate) async fn look(&self, from: Option<PathBuf>) -> Result<Value, Refusal> {
        lock(&self.status).checking = true;
        let now = now();
        let polled = match transport(&self.deploy, self.tls.as_ref(), from) {
            Err(refusal) => Err(refusal),
            Ok(transport) => {
                let admit = |candidate: &Candidate<'_>| admit(candidate, &self.config);
                let poll = self.device.poll(&transport, now, &admit);
                match tokio::time::timeout(LONGEST, poll).await {
                    Ok(polled) => polled,
                    Err(_) => Err(took_too_long(&transport.place())),
                }
            }
        };
        self.show_look(&polled, now);
        let polled = polled?;
        Ok(json!({
            "channel": self.deploy.channel.as_str(),
            "epoch": polled.epoch,
            "publication": polled.publication,
            "news": polled.news,
            "bytes": polled.bytes,
            "expires": { "role": polled.expiry.role, "time": polled.expiry.at.as_millisecond() },
            "modules": lock(&self.status).modules,
        }))
    }

    /// Changes what is shown.
    pub(crate) fn show(&self, change: impl FnOnce(&mut view::DeployStatus)) {
        change(&mut lock(&self.status));
    }

    fn show_look(&self, polled: &Result<Polled, Refusal>, now: Now) {
        let time = clock::wall() / 1_000_000;
        let mut status = lock(&self.status);
        status.checking = false;
        status.last_check = Some(time);
        status.checks += 1;
        match polled {
            Ok(polled) => {
                status.state = view::DeployState::Current;
                status.error = None;
                status.last_success = Some(time);
                status.publication = Some(polled.publication);
                show_expiry(&mut status, &polled.expiry, now);
                drop(status);
                if polled.news {
                    self.show_newest();
                    let status = lock(&self.status).clone();
                    audit::fetched(&self.audit, &status, polled.epoch);
                    tracing::info!(
                        channel = self.deploy.channel.as_str(),
                        epoch = polled.epoch,
                        bytes = polled.bytes,
                        "the channel names something new, and all of it is verified and here"
                    );
                }
            }
            Err(refusal) => {
                status.failures += 1;
                status.state = match refusal.kind {
                    Kind::Fetch => view::DeployState::Unreachable,
                    Kind::Expired => view::DeployState::Expired,
                    Kind::Malformed
                    | Kind::Signatures
                    | Kind::Rollback
                    | Kind::Mixed
                    | Kind::Content
                    | Kind::Name
                    | Kind::Channel
                    | Kind::Local => view::DeployState::Refused,
                };
                let error = view::DeployError {
                    file: refusal.file.clone(),
                    reason: refusal.reason.clone(),
                    help: refusal.help.clone(),
                };
                // The same again is no news for the log.
                if status.error.as_ref() != Some(&error) {
                    audit::not_taken(&self.audit, &status, refusal);
                    tracing::warn!("nothing is taken from the repository: {refusal}");
                }
                status.error = Some(error);
            }
        }
    }

    /// What the channel named last, as it lies here.
    pub(crate) fn show_newest(&self) {
        let newest = match self.device.newest() {
            Ok(newest) => newest,
            Err(refusal) => {
                tracing::error!("what the channel named is not known any more: {refusal}");
                None
            }
        };
        let mut status = lock(&self.status);
        status.epoch = newest.as_ref().map(|newest| newest.epoch);
        status.modules = newest.as_ref().map(modules).unwrap_or_default();
    }
}

/// The way to the configured repository, or to a folder in its place.
///
/// # Errors
/// There is none to such an address.
fn transport(
    deploy: &config::Deploy,
    tls: Option<&Arc<Tls>>,
    from: Option<PathBuf>,
) -> Result<Arc<dyn Transport>, Refusal> {
    let silence = deploy.timeout;
    if let Some(dir) = from {
        return Ok(Arc::new(Directory::new(dir, silence)));
    }
    Ok(match &deploy.repository {
        Repository::Directory(dir) => Arc::new(Directory::new(dir, silence)),
        Repository::Http { url, .. } => Arc::new(Http::new(HttpConfig {
            url: url.clone(),
            tls: tls.cloned(),
            pace: Pace {
                silence,
                most_bytes_per_second: deploy.rate_limit,
            },
        })?),
    })
}

fn show_expiry(status: &mut view::DeployStatus, expiry: &Expiry, now: Now) {
    if expiry.at.as_second() - now.time.as_second() < SOON {
        status.state = view::DeployState::Expiring;
    }
    status.expires = Some(view::DeployExpiry {
        role: expiry.role.to_owned(),
        time: expiry.at.as_millisecond(),
    });
}

fn modules(epoch: &Epoch) -> Vec<view::DeployModule> {
    let modules = epoch.modules.iter();
    modules
        .map(|module| view::DeployModule {
            name: module.name.clone(),
            version: module.version.clone(),
            digest: module.digest.clone(),
            world: module.world.clone(),
            size_bytes: module.bytes,
            sbom: module.sbom.clone(),
            provenance: module.provenance.clone(),
        })
        .collect()
}

/// What can be said of a module without running it: that it is one, that this daemon is new enough, that the site takes one of
/// its size.
fn admit(candidate: &Candidate<'_>, config: &Config) -> Result<(), (String, String)> {
    let publisher =
        |what: String| Err((what, "the publisher has to make another version".to_owned()));
    let release = candidate.release;
    let daemon: Result<Version, _> = env!("CARGO_PKG_VERSION").parse();
    if let (Some(minimum), Ok(daemon)) = (&release.minimum_daemon, daemon)
        && *minimum > daemon
    {
        return Err((
            format!("it needs version {minimum} of the daemon, and this is {daemon}"),
            "update the daemon first".to_owned(),
        ));
    }
    let manifest = Value::Object(release.manifest.clone()).to_string();
    let manifest = match Manifest::parse(manifest.as_bytes()) {
        Ok(manifest) => manifest,
        Err(error) => return publisher(format!("its manifest: {error}")),
    };
    let allowed = LoadLimits::granted(&manifest.limits, &config.policy.loading);
    let size = candidate.component.len() as u64;
    if size > allowed.module_bytes {
        return Err((
            format!(
                "it has {size} bytes, and {} are allowed",
                allowed.module_bytes
            ),
            inspect::smaller(allowed.module_bytes).to_owned(),
        ));
    }
    match inspect::inspect(candidate.component) {
        Ok(_) => Ok(()),
        Err(error) => publisher(format!("it is no module: {error}")),
    }
}

fn took_too_long(place: &str) -> Refusal {
    Refusal {
        kind: Kind::Fetch,
        file: place.to_owned(),
        reason: format!("the look took longer than {} hours", LONGEST.as_secs() / 3600),
        help: "what came is kept, and the next poll goes on from there; is `deploy.rate-limit` too low?".to_owned(),
    }
}

/// The time by which metadata is judged, as certificates are.
pub(crate) fn now() -> Now {
    let clock = crate::built::clock();
    let time = tidegate_deploy::time(clock.seconds());
    Now {
        time,
        set: clock::now().synced,
    }
}
