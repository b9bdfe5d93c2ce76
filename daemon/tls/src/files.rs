//! From files to what TLS is made of.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use crate::certificate::{Certificate, says_version};
use crate::{Identity, Part, Role, TlsConfig, TlsError};

/// Bytes of one file. The largest bundles of CAs have a quarter of that.
const FILE: u64 = 1024 * 1024;

/// The files as they are, to be compared with what they are later.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    pub(crate) fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let ca = config.ca.as_deref();
        let identity = config.identity.as_ref();
        Ok(Self {
            ca: ca.map(|path| read(Part::Ca, path)).transpose()?,
            identity: identity
                .map(|identity| {
                    let cert = read(Part::Cert, &identity.cert)?;
                    Ok((cert, read(Part::Key, &identity.key)?))
                })
                .transpose()?,
        })
    }
}

/// The files, understood.
pub(crate) struct Material {
    pub(crate) roots: RootCertStore,
    pub(crate) identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// What there is to show.
    pub(crate) certificates: Vec<(Role, Certificate)>,
}

impl Material {
    pub(crate) fn parse(config: &TlsConfig, contents: &Contents) -> Result<Self, TlsError> {
        let mut material = Self {
            roots: RootCertStore::empty(),
            identity: None,
            certificates: Vec::new(),
        };
        match (&config.ca, &contents.ca) {
            (Some(path), Some(bytes)) => material.trust(path, bytes)?,
            _ => material.roots = system_roots()?,
        }
        if let (Some(identity), Some((cert, key))) = (&config.identity, &contents.identity) {
            let chain = certificates(Part::Cert, &identity.cert, cert)?;
            for (number, der) in chain.iter().enumerate() {
                let shown = shown(Part::Cert, &identity.cert, number, der)?;
                material.certificates.push((Role::Own, shown));
            }
            material.identity = Some((chain, private_key(&identity.key, key)?));
        }
        Ok(material)
    }

    fn trust(&mut self, path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
        for (number, der) in certificates(Part::Ca, path, bytes)?.into_iter().enumerate() {
            let shown = shown(Part::Ca, path, number, &der)?;
            self.roots
                .add(der)
                .map_err(|error| bad_certificate(Part::Ca, path, number, &error.to_string()))?;
            self.certificates.push((Role::Ca, shown));
        }
        Ok(())
    }
}

/// Reads an identity by itself.
pub(crate) fn check(identity: &Identity) -> Result<Vec<Certificate>, TlsError> {
    let chain = read(Part::Cert, &identity.cert)?;
    let chain = certificates(Part::Cert, &identity.cert, &chain)?;
    let key = private_key(&identity.key, &read(Part::Key, &identity.key)?)?;
    if let Some(number) = chain.iter().position(|der| !says_version(der)) {
        return Err(TlsError {
            part: Part::Cert,
            what: format!(
                "certificate {} in `{}` is of version 1 of X.509, and TLS takes version 3 alone",
                number + 1,
                identity.cert.display()
            ),
            help: "have it signed with an extension: `openssl x509 -req … -extfile FILE`, where FILE says \
                   basicConstraints=CA:FALSE"
                .to_owned(),
        });
    }
    let numbered = chain.iter().enumerate();
    let shown = numbered
        .map(|(number, der)| shown(Part::Cert, &identity.cert, number, der))
        .collect();
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => shown,
        Err(error) => Err(inconsistent(identity, error)),
    }
}

/// What rustls says of a certificate and a key that it cannot use together.
pub(crate) fn identity(config: &TlsConfig, error: Error) -> TlsError {
    match &config.identity {
        Some(identity) => inconsistent(identity, error),
        None => unusable(Part::Cert, error),
    }
}

fn inconsistent(identity: &Identity, error: Error) -> TlsError {
    let (cert, key) = (identity.cert.display(), identity.key.display());
    if error == Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
        return TlsError {
            part: Part::Key,
            what: format!("the key in `{key}` is not that of the certificate in `{cert}`"),
            help: "name the two files that were made together; the certificate itself comes first in its file"
                .to_owned(),
        };
    }
    TlsError {
        part: Part::Key,
        what: format!("the key in `{key}` cannot be used: {error}"),
        help: "use an RSA key of 2048 to 8192 bits, an ECDSA key on P-256 or P-384, or Ed25519"
            .to_owned(),
    }
}

/// Something that TLS cannot be made of, for reasons that no file explains.
pub(crate) fn unusable(part: Part, error: impl Display) -> TlsError {
    TlsError {
        part,
        what: format!("TLS cannot be set up: {error}"),
        help: "this is a fault of the program: please report it".to_owned(),
    }
}

fn read(part: Part, path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| TlsError {
        part,
        what: format!("cannot read `{}`: {error}", path.display()),
        help: "the file must exist and be readable by the user that runs tidegate".to_owned(),
    })
}

/// All certificates of a file, at least one.
fn certificates(
    part: Part,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let what = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) if part == Part::Cert && !keys(bytes).is_empty() => {
            format!("`{shown}` holds a key and no certificate")
        }
        Ok(_) => format!("`{shown}` holds no certificate"),
        Err(error) => format!("`{shown}` is no PEM text: {}", describe(&error)),
    };
    Err(TlsError {
        part,
        what,
        help: "it must hold one or more blocks that begin with `-----BEGIN CERTIFICATE-----`"
            .to_owned(),
    })
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let shown = path.display();
    let (what, help) = match keys(bytes).into_iter().next() {
        Some(Ok(key)) => return Ok(key),
        Some(Err(error)) => (
            format!("`{shown}` is no PEM text: {}", describe(&error)),
            "it must hold a block that begins with `-----BEGIN PRIVATE KEY-----`",
        ),
        // Both forms of encrypted keys say so: in the name of the block, or in a header.
        None if contains(bytes, b"ENCRYPTED") => (
            format!("the key in `{shown}` is encrypted, and nobody can enter a passphrase here"),
            "write it without one (openssl pkey -in OLD -out NEW), readable by tidegate's user alone",
        ),
        None => (
            format!("`{shown}` holds no private key"),
            "it must hold a block that begins with `-----BEGIN PRIVATE KEY-----`",
        ),
    };
    Err(TlsError {
        part: Part::Key,
        what,
        help: help.to_owned(),
    })
}

/// The keys of a file that are not encrypted. A PKCS#1 or SEC1 block with a header is.
fn keys(bytes: &[u8]) -> Vec<Result<PrivateKeyDer<'static>, pem::Error>> {
    if contains(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Vec::new();
    }
    PrivateKeyDer::pem_slice_iter(bytes).collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn shown(
    part: Part,
    path: &Path,
    number: usize,
    der: &CertificateDer<'_>,
) -> Result<Certificate, TlsError> {
    Certificate::read(der)
        .ok_or_else(|| bad_certificate(part, path, number, "it is not what RFC 5280 describes"))
}

fn bad_certificate(part: Part, path: &Path, number: usize, why: &str) -> TlsError {
    TlsError {
        part,
        what: format!(
            "certificate {} in `{}` cannot be read: {why}",
            number + 1,
            path.display()
        ),
        help: "replace it; `openssl x509 -text -in FILE` shows a good one".to_owned(),
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems hold one that nobody can read any more; the others are no worse for it.
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good > 0 {
        return Ok(roots);
    }
    let why = found
        .errors
        .first()
        .map_or_else(String::new, |error| format!(" ({error})"));
    Err(TlsError {
        part: Part::Ca,
        what: format!("this system has no certificates of its own to trust{why}"),
        help: "name the CA that signed the broker's certificate with ca = \"FILE\", or install the package ca-certificates"
            .to_owned(),
    })
}

/// Its own words quote bytes as numbers.
fn describe(error: &pem::Error) -> String {
    if let pem::Error::MissingSectionEnd { .. } = error {
        return "it ends in the middle of a block".to_owned();
    }
    if let pem::Error::IllegalSectionStart { line } = error {
        let line: String = String::from_utf8_lossy(line).chars().take(40).collect();
        return format!("the line `{}` begins no block", line.escape_debug());
    }
    error.to_string()
}
