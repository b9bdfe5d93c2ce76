//! TLS for the connections that the gateway makes, the same for sources and uplinks: which files it is made of, how a
//! broker's certificate is judged, what is shown of certificates, and what the errors mean.
//!
//! The files are read again for every new connection ([`Tls::prepare`]) and looked at in between ([`Tls::refresh`]), so
//! that a renewed certificate needs no restart. Files that cannot be used leave the old ones in place; where there are no
//! old ones, at a start, there is no connection until they can.
//!
//! Nothing here opens a socket.

mod certificate;
mod clock;
mod explain;
mod files;
mod verifier;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

pub use certificate::{Certificate, date};
pub use clock::Clock;
pub use rustls;

use explain::Circumstances;
use files::{Contents, Material};
use verifier::Verifier;

/// Certificates shown of one kind. A bundle may hold hundreds; those that expire first count.
const SHOWN: usize = 16;

/// What a connection's TLS is made of.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Who connects, for the log: `source plant`.
    pub owner: String,
    /// The certificates that may sign a broker's, as PEM. Without it, those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Who we are, where the broker wants to know.
    pub identity: Option<Identity>,
    /// The name that the broker's certificate must be for: a DNS name or an IP address.
    pub server_name: String,
    /// What time it is at least.
    pub clock: Clock,
}

/// A certificate of our own and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, then those between it and the CA, as PEM.
    pub cert: PathBuf,
    /// The private key as PEM: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// The certificates of an identity, its own first: they can be read, and the key is that of the first.
///
/// # Errors
/// What is wrong with which file, and what to do.
pub fn check_identity(identity: &Identity) -> Result<Vec<Certificate>, TlsError> {
    files::check(identity)
}

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `ca`, or the system's certificates.
    Ca,
    /// `cert`
    Cert,
    /// `key`
    Key,
    /// `server-name`
    ServerName,
}

/// Files that no connection can be made with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {help}")]
pub struct TlsError {
    /// Where to look.
    pub part: Part,
    /// What is wrong, with the file.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Ours, or one between it and its CA.
    Own,
    /// One that may sign the broker's. The system's are not shown: its updates take care of them.
    Ca,
    /// The broker's, as it was shown on the latest connection.
    Server,
}

/// Certificates at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStatus {
    /// By role, those that expire first in front.
    pub certificates: Vec<(Role, Certificate)>,
    /// Why the files as they are now are not used; the earlier ones still are, where there are any.
    pub error: Option<String>,
}

/// TLS of one source or uplink.
pub struct Tls {
    config: TlsConfig,
    name: ServerName<'static>,
    /// Held while the files are read, so that what was read later is never replaced by what was read before.
    refreshing: Mutex<()>,
    /// What is in use; `None` while no files could be used yet.
    state: Mutex<Option<State>>,
    /// Why the files as they are now are not used.
    error: Mutex<Option<TlsError>>,
    generation: AtomicU64,
    seen: Arc<Mutex<Option<Certificate>>>,
}

struct State {
    contents: Contents,
    client: Arc<ClientConfig>,
    certificates: Vec<(Role, Certificate)>,
}

/// What one connection is made with.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Roots, identity, versions and the judgement of the broker's certificate.
    pub client: Arc<ClientConfig>,
    /// The name to ask for.
    pub name: ServerName<'static>,
    /// Which files it was made of: see [`Tls::is_current`].
    pub generation: u64,
}

impl Tls {
    /// Reads the files. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When a file cannot be read or used, the key is another certificate's, or the name is none.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let tls = Self::unread(config)?;
        let state = tls.read()?;
        *lock(&tls.state) = state;
        Ok(tls)
    }

    /// Reads the files, and goes without until they can be used. Blocks likewise.
    ///
    /// # Errors
    /// When the name is none, which no file can mend.
    pub fn new(config: TlsConfig) -> Result<Self, TlsError> {
        let tls = Self::unread(config)?;
        tls.refresh();
        Ok(tls)
    }

    fn unread(config: TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            name: server_name(&config.server_name)?,
            config,
            refreshing: Mutex::new(()),
            state: Mutex::default(),
            error: Mutex::default(),
            generation: AtomicU64::new(0),
            seen: Arc::default(),
        })
    }

    /// Looks whether the files have changed, and uses them if they can be used. Blocks for as long as reading takes.
    pub fn refresh(&self) {
        let _alone = lock(&self.refreshing);
        let read = self.read();
        let owner = &self.config.owner;
        let error = match read {
            // What was broken is again what is in use.
            Ok(None) => None,
            Ok(Some(renewed)) => {
                if lock(&self.state).replace(renewed).is_some() {
                    tracing::info!("{owner}: the renewed TLS files are in use");
                }
                self.generation.fetch_add(1, Ordering::Release);
                None
            }
            Err(error) => Some(error),
        };
        let mut known = lock(&self.error);
        if let Some(error) = error.as_ref().filter(|error| known.as_ref() != Some(error)) {
            let instead = match *lock(&self.state) {
                Some(_) => "the earlier ones still are",
                None => "there is no connection until they can",
            };
            tracing::error!("{owner}: the TLS files cannot be used, {instead}: {error}");
        }
        *known = error;
    }

    /// What the files are now, where that is not what is in use.
    fn read(&self) -> Result<Option<State>, TlsError> {
        let contents = Contents::read(&self.config)?;
        let is_known = |state: &State| state.contents == contents;
        if lock(&self.state).as_ref().is_some_and(is_known) {
            return Ok(None);
        }
        let material = Material::parse(&self.config, &contents)?;
        State::new(&self.config, &self.name, &self.seen, contents, material).map(Some)
    }

    /// What the next connection is made with, after a [`Tls::refresh`]. Blocks likewise.
    ///
    /// # Errors
    /// When no files could be used so far.
    pub fn prepare(&self) -> Result<Prepared, TlsError> {
        self.refresh();
        let client = lock(&self.state)
            .as_ref()
            .map(|state| Arc::clone(&state.client));
        let Some(client) = client else {
            let error = lock(&self.error).clone();
            return Err(error.unwrap_or_else(|| {
                files::unusable(
                    Part::Ca,
                    "the files were being read; the next attempt has them",
                )
            }));
        };
        Ok(Prepared {
            client,
            name: self.name.clone(),
            generation: self.generation.load(Ordering::Acquire),
        })
    }

    /// Whether a connection of this generation was made with the files that are in use. Never blocks.
    #[must_use]
    pub fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The certificates as they are now. Never waits for a file.
    #[must_use]
    pub fn status(&self) -> TlsStatus {
        let state = lock(&self.state);
        let ours = state.iter().flat_map(|state| &state.certificates).cloned();
        let server = lock(&self.seen).clone();
        TlsStatus {
            certificates: ours
                .chain(server.map(|server| (Role::Server, server)))
                .collect(),
            error: lock(&self.error).as_ref().map(ToString::to_string),
        }
    }

    /// What an error of the handshake means and what to do about it.
    #[must_use]
    pub fn explain_handshake(&self, error: &io::Error) -> String {
        explain::handshake(error, &Circumstances::of(&self.config))
    }

    /// What an error of a connection that stood means and what to do about it; `None` where it has nothing to do with TLS.
    #[must_use]
    pub fn explain(&self, error: &io::Error) -> Option<String> {
        explain::io(error, &Circumstances::of(&self.config))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it holds besides includes the key.
        f.debug_struct("Tls")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl State {
    fn new(
        config: &TlsConfig,
        name: &ServerName<'static>,
        seen: &Arc<Mutex<Option<Certificate>>>,
        contents: Contents,
        material: Material,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = config.clock.clone();
        let roots = Arc::new(material.roots);
        let verifier = Verifier::new(roots, Arc::clone(&provider), name, &clock, seen)
            .map_err(|error| files::unusable(Part::Ca, error))?;
        let builder = ClientConfig::builder_with_details(provider, Arc::new(clock))
            // 1.2 and 1.3.
            .with_safe_default_protocol_versions()
            .map_err(|error| files::unusable(Part::Ca, error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut client = match material.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| files::identity(config, error))?,
        };
        // A resumed session is not judged again: an expired certificate would stay welcome for as long as it lasts.
        client.resumption = Resumption::disabled();
        Ok(Self {
            contents,
            client: Arc::new(client),
            certificates: shown(material.certificates),
        })
    }
}

/// By role and expiry, and not too many of either.
fn shown(mut certificates: Vec<(Role, Certificate)>) -> Vec<(Role, Certificate)> {
    certificates.sort_by_key(|(role, certificate)| (*role, certificate.not_after));
    let (mut own, mut ca): (Vec<_>, Vec<_>) = certificates
        .into_iter()
        .partition(|(role, _)| *role == Role::Own);
    own.truncate(SHOWN);
    ca.truncate(SHOWN);
    own.extend(ca);
    own
}

fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError {
        part: Part::ServerName,
        what: format!("`{text}` is no name that a certificate can be for"),
        help: "write a host name or an IP address".to_owned(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
