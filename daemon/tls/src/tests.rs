//! Files as they come and go, on real certificates.

use std::fs;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

/// A directory with a CA, a certificate that it signed, and its key.
struct Site {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
            ca,
        };
        site.write("ca.pem", &site.ca.pem());
        site.issue("gateway");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A certificate and key as PEM, in files.
    fn issue(&self, subject: &str) {
        let (cert, key) = self.sign(subject);
        self.write("cert.pem", &cert);
        self.write("key.pem", &key);
    }

    fn sign(&self, subject: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, subject);
        let cert = params.signed_by(&key, &self.ca).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn config(&self) -> TlsConfig {
        TlsConfig {
            owner: "source plant".to_owned(),
            ca: Some(self.path("ca.pem")),
            identity: Some(Identity {
                cert: self.path("cert.pem"),
                key: self.path("key.pem"),
            }),
            server_name: "broker.lan".to_owned(),
            clock: Clock::new(0),
        }
    }

    fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(self.config())
    }
}

fn own(tls: &Tls) -> Vec<String> {
    let certificates = tls.status().certificates.into_iter();
    certificates
        .filter(|(role, _)| *role == Role::Own)
        .map(|(_, certificate)| certificate.subject)
        .collect()
}

#[track_caller]
fn refused(site: &Site, part: Part, says: &[&str]) {
    let error = site.load().unwrap_err();
    assert_eq!(error.part, part, "{error}");
    for said in says {
        assert!(
            error.to_string().contains(said),
            "{error} does not say {said:?}"
        );
    }
}

#[test]
fn what_cannot_be_used_is_named_with_what_to_do() {
    let site = Site::new();
    site.load().unwrap();

    site.write("ca.pem", "nothing\n");
    refused(&site, Part::Ca, &["ca.pem", "holds no certificate"]);
    site.write("ca.pem", &site.ca.pem()[..200]);
    refused(&site, Part::Ca, &["ends in the middle of a block"]);
    fs::remove_file(site.path("ca.pem")).unwrap();
    refused(&site, Part::Ca, &["cannot read", "ca.pem", "No such file"]);
    fs::write(site.path("ca.pem"), vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    refused(&site, Part::Ca, &["larger than 1 MiB"]);
    site.write(
        "ca.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    refused(&site, Part::Ca, &["certificate 1 in", "cannot be read"]);
    site.write("ca.pem", &site.ca.pem());

    let (cert, key) = site.sign("gateway");
    site.write("cert.pem", &cert);
    refused(&site, Part::Key, &["is not that of the certificate"]);
    site.write("cert.pem", &key);
    refused(&site, Part::Cert, &["holds a key and no certificate"]);
    site.write("cert.pem", &cert);
    site.write("key.pem", &cert);
    refused(&site, Part::Key, &["holds no private key"]);
    site.write(
        "key.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    refused(
        &site,
        Part::Key,
        &["encrypted", "openssl pkey -in OLD -out NEW"],
    );
    site.write(
        "key.pem",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    );
    refused(&site, Part::Key, &["encrypted"]);
    site.write("key.pem", &key);
    site.load().unwrap();

    let config = TlsConfig {
        server_name: "no name".to_owned(),
        ..site.config()
    };
    assert_eq!(Tls::load(config).unwrap_err().part, Part::ServerName);
}

/// Keys as openssl writes them in its three forms.
#[test]
fn keys_in_every_form() {
    let site = Site::new();
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(site.dir.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments:?}: {errors}");
    };
    let request = |key: &str| {
        openssl(&[
            "req", "-x509", "-new", "-key", key, "-subj", "/CN=gw", "-out", "cert.pem",
        ]);
    };
    openssl(&["genrsa", "-traditional", "-out", "key.pem", "2048"]);
    request("key.pem");
    assert!(begins(&site, "-----BEGIN RSA PRIVATE KEY-----"));
    site.load().unwrap();
    openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-out", "8"]);
    fs::rename(site.path("8"), site.path("key.pem")).unwrap();
    assert!(begins(&site, "-----BEGIN PRIVATE KEY-----"));
    site.load().unwrap();
    // With the parameters in front, as openssl does by default.
    openssl(&[
        "ecparam",
        "-genkey",
        "-name",
        "prime256v1",
        "-out",
        "key.pem",
    ]);
    request("key.pem");
    assert!(begins(&site, "-----BEGIN EC PARAMETERS-----"));
    site.load().unwrap();
}

fn begins(site: &Site, with: &str) -> bool {
    fs::read_to_string(site.path("key.pem"))
        .unwrap()
        .starts_with(with)
}

#[test]
fn renewed_files_are_taken_and_broken_ones_are_not() {
    let site = Site::new();
    let tls = site.load().unwrap();
    let first = tls.prepare().unwrap();
    assert!(tls.is_current(first.generation));
    assert_eq!(own(&tls), ["gateway"]);

    // Half a renewal: the certificate is there, its key is not yet.
    let (cert, key) = site.sign("renewed");
    site.write("cert.pem", &cert);
    tls.refresh();
    assert!(tls.is_current(first.generation));
    assert_eq!(own(&tls), ["gateway"]);
    let error = tls.status().error.unwrap();
    assert!(error.contains("is not that of the certificate"), "{error}");
    // Whoever connects meanwhile connects with what is whole.
    assert!(Arc::ptr_eq(&tls.prepare().unwrap().client, &first.client));

    site.write("key.pem", &key);
    tls.refresh();
    assert!(!tls.is_current(first.generation));
    assert_eq!(own(&tls), ["renewed"]);
    assert_eq!(tls.status().error, None);
    let second = tls.prepare().unwrap();
    assert!(tls.is_current(second.generation));
    assert!(!Arc::ptr_eq(&second.client, &first.client));

    // Gone and back again is no renewal.
    fs::remove_file(site.path("ca.pem")).unwrap();
    tls.refresh();
    assert!(tls.status().error.unwrap().contains("cannot read"));
    site.write("ca.pem", &site.ca.pem());
    tls.refresh();
    assert_eq!(tls.status().error, None);
    assert!(tls.is_current(second.generation));
}

#[test]
fn files_that_cannot_be_used_at_the_start_are_used_when_they_can() {
    let site = Site::new();
    let key = fs::read_to_string(site.path("key.pem")).unwrap();
    site.write("key.pem", &key[..key.len() / 2]);
    assert!(site.load().is_err(), "whoever judges the files hears of it");
    let tls = Tls::new(site.config()).unwrap();
    let error = tls.prepare().unwrap_err();
    assert_eq!(error.part, crate::Part::Key);
    assert_eq!(tls.status().error, Some(error.to_string()));
    assert_eq!(tls.status().certificates, []);
    site.write("key.pem", &key);
    let prepared = tls.prepare().unwrap();
    assert!(tls.is_current(prepared.generation));
    assert_eq!(tls.status().error, None);
    assert_eq!(own(&tls), ["gateway"]);
}

#[test]
fn neither_errors_nor_dumps_hold_the_key() {
    let site = Site::new();
    let key = fs::read_to_string(site.path("key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let shown = format!("{:?}", site.load().unwrap());
    assert!(shown.contains("key.pem") && !shown.contains(secret));
    // A key whose begin is damaged: what is quoted of it must not be the key.
    site.write("key.pem", &key.replacen("-----BEGIN", "----BEGIN", 1));
    let error = site.load().unwrap_err().to_string();
    assert!(!error.contains(secret), "{error}");
}
