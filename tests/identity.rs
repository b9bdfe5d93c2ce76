//! The gateway's identity with openssl as the CA: the request that it verifies, the certificate that it signs, a broker that
//! wants one, and a renewal while data flows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{
    Broker, Collector, Daemon, Site, assert_numbers, free_port, numbered, tidegate, wait_for,
};

fn identity(config: &Path, arguments: &[&str]) -> Output {
    tidegate()
        .arg("identity")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(part), "{errors}");
}

/// A CA of openssl's own, with a certificate of a broker.
struct Authority<'a> {
    site: &'a Site,
}

impl<'a> Authority<'a> {
    fn new(site: &'a Site) -> Self {
        fs::create_dir_all(site.path("ca")).unwrap();
        let ca = Self { site };
        ca.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=plant CA",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        ca.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=broker",
            "-keyout",
            "broker.key",
            "-out",
            "broker.csr",
        ]);
        site.write("ca/names", "subjectAltName=DNS:localhost\n");
        ca.openssl(&[
            "x509",
            "-req",
            "-in",
            "broker.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            "names",
            "-out",
            "broker.pem",
        ]);
        ca
    }

    fn openssl(&self, arguments: &[&str]) -> Output {
        let output = Command::new("openssl")
            .current_dir(self.site.path("ca"))
            .args(arguments)
            .output()
            .expect("openssl is installed by `make tools`");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        output
    }

    /// Signs a request for so many days.
    fn sign(&self, request: &Path, days: u32) -> PathBuf {
        self.site.write("ca/end", "basicConstraints=CA:FALSE\n");
        let (days, out) = (days.to_string(), format!("signed-{days}.pem"));
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            request.to_str().unwrap(),
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            &days,
            "-extfile",
            "end",
            "-out",
            &out,
        ]);
        self.site.path("ca").join(out)
    }

    /// A broker that lets in whom the CA has signed, by the names in their certificates.
    fn broker(&self) -> (Broker, u16) {
        let port = free_port();
        let file = |name: &str| self.site.path("ca").join(name).display().to_string();
        let lines = format!(
            "per_listener_settings false\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true\nallow_anonymous true\n",
            file("ca.pem"),
            file("broker.pem"),
            file("broker.key"),
        );
        (Broker::start_with(self.site, "broker", &lines), port)
    }
}

fn configuration(site: &Site, port: u16) -> PathBuf {
    let url = format!("mqtts://localhost:{port}");
    let tls = "ca = \"ca/ca.pem\"\ncert = \"identity\"\n";
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n\
             decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\nkeep-alive = \"5s\"\n{tls}\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\nkeep-alive = \"5s\"\nlinger = \"0s\"\n{tls}\
             [pipeline.count]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            state = site.path("state").display(),
        ),
    )
}

/// The end of the certificate that a connection shows, milliseconds since the epoch.
fn shown(daemon: &Daemon, list: &str) -> Option<u64> {
    let list = daemon.json(&format!("/api/v1/{list}"));
    let certificates = list["items"][0]["tls"]["certificates"].as_array()?.clone();
    let own = certificates.iter().find(|shown| shown["role"] == "own")?;
    own["not_after"].as_u64()
}

#[test]
fn openssl_verifies_the_request_signs_it_and_the_broker_lets_the_gateway_in() {
    let site = Site::new();
    let ca = Authority::new(&site);
    let (broker, port) = ca.broker();
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = configuration(&site, port);

    // Before the first boot: the key is made by whoever asks for the request first.
    let request = site.write("gw.csr", &done(&identity(&config, &["request"])));
    let key = site.path("state/identity/key.pem");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let read = ca.openssl(&[
        "req",
        "-in",
        request.to_str().unwrap(),
        "-noout",
        "-verify",
        "-subject",
        "-text",
    ]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&read.stdout),
        String::from_utf8_lossy(&read.stderr)
    );
    for part in ["verify OK", "CN = gw-test", "ED25519"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // openssl reads the private key as well, and the fingerprint is of what it takes for the public one.
    let der = ca.openssl(&[
        "pkey",
        "-in",
        key.to_str().unwrap(),
        "-pubout",
        "-outform",
        "DER",
    ]);
    site.write("public.der", "");
    fs::write(site.path("public.der"), &der.stdout).unwrap();
    let sum = ca.openssl(&[
        "dgst",
        "-sha256",
        "-r",
        site.path("public.der").to_str().unwrap(),
    ]);
    let sum = String::from_utf8(sum.stdout).unwrap();
    let about: Value =
        serde_json::from_str(&done(&identity(&config, &["show", "--json"]))).unwrap();
    assert_eq!(about["fingerprint"], sum.split(' ').next().unwrap());
    assert_eq!(about["certificate"], Value::Null);

    // Without a certificate the gateway runs, and says what is missing; nothing is lost for it.
    let mut daemon = Daemon::spawn(&config, &[]);
    wait_for("what is missing", || {
        let (_, status) = daemon.get("/api/v1/status")?;
        status.contains("identity/cert.pem").then_some(())
    });
    let file = ca.sign(&request, 10);
    let said = done(&identity(&config, &["install", file.to_str().unwrap()]));
    assert!(said.contains("`gw-test` is installed"), "{said}");
    daemon.wait_ready();
    wait_for("the subscription", || {
        (daemon.json("/api/v1/sources")["items"][0]["state"] == "subscribed").then_some(())
    });
    broker.publish("plant/a", (0..200).map(numbered));
    daemon.wait_received("plant", 200);
    daemon.wait_delivered();
    let first = shown(&daemon, "uplinks").unwrap();

    // Renewed while data flows: connections are made anew with the new certificate, and nothing is lost or comes twice.
    let renewed = ca.sign(&request, 20);
    let mut sent = 200;
    done(&identity(&config, &["install", renewed.to_str().unwrap()]));
    wait_for("the new certificate", || {
        broker.publish("plant/a", (sent..sent + 20).map(numbered));
        sent += 20;
        let now = ["sources", "uplinks"].map(|list| shown(&daemon, list));
        let reconnected = daemon.log().matches("connected uplink=").count() >= 2;
        (now.iter()
            .all(|until| until.is_some_and(|until| until > first))
            && reconnected)
            .then_some(())
    });
    daemon.wait_received("plant", sent);
    daemon.wait_delivered();
    assert_numbers(&collector.items("readings"), sent);
    let ledger = daemon.ledger();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    assert_eq!(daemon.stop(), 0);

    // Both are on record, with who did it.
    let output = tidegate()
        .args(["audit", "show", "--json", "--state-dir"])
        .arg(site.path("state"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let installed: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|entry| entry["action"] == "identity.certificate")
        .collect();
    let told: Vec<_> = installed
        .iter()
        .map(|entry| (&entry["actor"]["kind"], &entry["outcome"]))
        .collect();
    let (operator, asked, done) = (json!("operator"), json!("asked"), json!("done"));
    let once = [(&operator, &asked), (&operator, &done)];
    assert_eq!(told, [once, once].concat(), "{text}");
    assert_ne!(
        installed[0]["object"]["file"],
        installed[2]["object"]["file"]
    );
    let state = json!("config");
    assert!(
        installed
            .iter()
            .all(|entry| entry["actor"]["kind"] != state),
        "{text}"
    );
    // No key is in any log or answer.
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    assert!(!daemon.log().contains(secret) && !text.contains(secret));
}

#[test]
fn a_certificate_that_is_not_this_keys_or_not_valid_is_not_installed() {
    let site = Site::new();
    let ca = Authority::new(&site);
    let config = configuration(&site, free_port());
    refused(&identity(&config, &["show"]), "there is no key");
    let stranger = site.path("ca/broker.pem");
    refused(
        &identity(&config, &["install", stranger.to_str().unwrap()]),
        "there is no key",
    );
    let request = site.write(
        "gw.csr",
        &done(&identity(&config, &["request", "--name", "press 7"])),
    );
    let sound = ca.sign(&request, 5);
    refused(
        &identity(&config, &["install", stranger.to_str().unwrap()]),
        "is not that of the certificate",
    );
    refused(
        &identity(&config, &["install", request.to_str().unwrap()]),
        "no certificate",
    );
    let cert = site.path("state/identity/cert.pem");
    assert!(!cert.exists());
    done(&identity(&config, &["install", sound.to_str().unwrap()]));
    let kept = fs::read(&cert).unwrap();
    // Yesterday's, tomorrow's, and what openssl makes where nobody names an extension.
    let end = ["-extfile", "end"];
    for (name, time, end, part) in [
        ("old", "2020-01-01 00:00:00", &end[..], "expired on"),
        ("young", "2099-01-01 00:00:00", &end[..], "lies ahead"),
        ("bare", "-1 day", &[], "version 1"),
    ] {
        let output = Command::new("faketime")
            .args([time, "openssl", "x509", "-req", "-in"])
            .arg(&request)
            .args(["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"])
            .args(["-days", "9", "-out", name])
            .args(end)
            .current_dir(site.path("ca"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let file = site.path("ca").join(name);
        let file = file.to_str().unwrap();
        refused(&identity(&config, &["install", file]), part);
    }
    assert_eq!(fs::read(&cert).unwrap(), kept, "what is there stays");
    let about: Value =
        serde_json::from_str(&done(&identity(&config, &["show", "--json"]))).unwrap();
    assert_eq!(about["certificate"]["subject"], "press 7");
}
