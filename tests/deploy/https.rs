//! The repository behind TLS: a CA of its own and a client certificate, served by Python's own web server.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::repositories;
use crate::support::{Daemon, Site, free_port, tidegate, wait_for};

/// Python's file server over TLS, for those whom the CA knows.
const SERVER: &str = "
import functools, http.server, ssl, sys
port, folder, ca, cert, key = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn issue(site: &Site, issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) {
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    site.write(&format!("{name}.pem"), &cert.pem());
    site.write(&format!("{name}.key"), &key.serialize_pem());
}

fn authority(site: &Site, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    site.write(&format!("{name}.pem"), &issuer.pem());
    issuer
}

#[test]
fn a_repository_behind_tls_knows_us_and_we_know_it() {
    let case = repositories::case("next-publication");
    let site = Site::new();
    let ours = authority(&site, "ca");
    authority(&site, "other");
    issue(&site, &ours, "localhost");
    issue(&site, &ours, "gateway");
    let port = free_port();
    let path = |name: &str| site.path(name).display().to_string();
    let peer = Command::new("python3")
        .args([
            "-c",
            SERVER,
            &port.to_string(),
            case.join("then").to_str().unwrap(),
        ])
        .args([path("ca.pem"), path("localhost.pem"), path("localhost.key")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _peer = Peer(peer);
    wait_for("the server", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let update = |keys: &str| {
        let config = site.write(
            "tidegate.toml",
            &format!(
                "[gateway]\nid = \"gw-test\"\nstate-dir = \"{}\"\n[deploy]\nrepository = \"https://localhost:{port}/\"\n\
                 root = \"{}\"\npoll = \"7d\"\n{keys}\n",
                path("state"),
                case.join("root.json").display(),
            ),
        );
        let mut daemon = Daemon::spawn(&config, &[]);
        daemon.wait_ready();
        let output = tidegate()
            .args(["module", "update", "--json", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let tls = daemon.json("/api/v1/status")["deploy"]["tls"].clone();
        assert_eq!(daemon.stop(), 0);
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
            tls,
        )
    };
    let strange = update("ca = \"other.pem\"");
    assert!(
        !strange.0 && strange.1.contains("signed the server's certificate"),
        "{}",
        strange.1
    );
    let unknown = update("ca = \"ca.pem\"");
    assert!(
        !unknown.0 && unknown.1.contains("`cert` and `key`"),
        "{}",
        unknown.1
    );
    assert!(!Path::new(&path("state/deploy/channel.json")).exists());
    let known = update("ca = \"ca.pem\"\ncert = \"gateway.pem\"\nkey = \"gateway.key\"");
    assert!(known.0, "{}", known.1);
    // Their ends are watched: our own, that of the CA, the server's.
    let certificates = known.2["certificates"].as_array().unwrap();
    let roles = certificates.iter().map(|one| one["role"].as_str().unwrap());
    let roles: std::collections::BTreeSet<&str> = roles.collect();
    assert_eq!(roles, ["ca", "own", "server"].into(), "{}", known.2);
    let installed = fs::read_to_string(path("state/deploy/channel.json")).unwrap();
    assert!(installed.contains("1.3.0"), "{installed}");
}
