//! TLS on Debian's mosquitto: who is let in and who is not, certificates that are renewed, and clocks that are wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use serde_json::Value;

use support::{
    Broker, Collector, Daemon, Publisher, Site, assert_numbers, free_port, numbered, tidegate,
    wait_for,
};

/// A day, in seconds.
const DAY: u64 = 86_400;
/// The password in every configuration here.
const PASSWORD: &str = "gr33n-tide-hunter2";

/// A CA and what it signs, as files of a test's site.
struct Authority<'a> {
    site: &'a Site,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(site: &'a Site, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        site.write(&format!("{name}.pem"), &issuer.pem());
        Self {
            site,
            name: name.to_owned(),
            issuer,
        }
    }

    fn file(&self) -> PathBuf {
        self.site.path(&format!("{}.pem", self.name))
    }

    /// Writes `FILE.pem` and `FILE.key`: a certificate for some names, valid from an hour ago until `seconds` from now.
    fn issue(&self, file: &str, names: &[&str], seconds: u64) {
        let now = now();
        self.issue_from(file, names, now - 3600, now + seconds);
    }

    fn issue_from(&self, file: &str, names: &[&str], from: u64, to: u64) {
        let (cert, key) = self.sign(file, names, from, to);
        self.site.write(&format!("{file}.pem"), &cert);
        self.site.write(&format!("{file}.key"), &key);
    }

    fn sign(&self, subject: &str, names: &[&str], from: u64, to: u64) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(from);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(to);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

/// A listener over TLS, for mosquitto's configuration, and its port.
fn listener(authority: &Authority<'_>, file: &str, further: &str) -> (u16, String) {
    let port = free_port();
    let site = authority.site;
    let text = format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n{further}",
        authority.file().display(),
        site.path(&format!("{file}.pem")).display(),
        site.path(&format!("{file}.key")).display(),
    );
    (port, text)
}

/// A source or an uplink; `keys` are its own.
fn section(site: &Site, kind: &str, name: &str, url: &str, keys: &str) -> String {
    let password = site.write("secrets/password", PASSWORD);
    let what = match kind {
        "source" => {
            "subscribe = [{ topic = \"plant/#\", qos = 1 }]\n\
             decode = { as = \"json\", time-field = \"ts\", time-unit = \"ms\" }\n"
        }
        _ => "linger = \"0s\"\n",
    };
    format!(
        "[{kind}.{name}]\nkind = \"mqtt\"\nurl = \"{url}\"\nkeep-alive = \"5s\"\nusername = \"gateway\"\n\
         password-file = \"{}\"\n{what}{keys}",
        password.display()
    )
}

fn write(site: &Site, sections: &[String]) -> PathBuf {
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{}\"\n{}",
            site.path("state").display(),
            sections.concat()
        ),
    )
}

const PIPELINE: &str =
    "[pipeline.count]\nfrom = [\"plant\"]\nto = [{ uplink = \"cloud\", send = \"readings\" }]\n";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The page as it is read.
fn page(daemon: &Daemon) -> String {
    let (code, page) = daemon.get("/").unwrap();
    assert_eq!(code, 200, "{page}");
    page.replace('\u{a0}', " ").replace("&#39;", "'")
}

fn item(daemon: &Daemon, list: &str, name: &str) -> Value {
    let list = daemon.json(&format!("/api/v1/{list}"));
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .find(|item| item["name"] == name)
        .unwrap()
        .clone()
}

#[track_caller]
fn wait_error(daemon: &Daemon, list: &str, name: &str, says: &[&str]) {
    let mut last = Value::Null;
    let found = || {
        last = item(daemon, list, name)["last_error"].clone();
        last.as_str().is_some().then_some(())
    };
    wait_for(&format!("an error of {list} {name}"), found);
    for said in says {
        let error = last.as_str().unwrap();
        assert!(
            error.contains(said),
            "{list} {name}: {error:?} does not say {said:?}"
        );
    }
}

/// Certificates on both sides, both versions of MQTT, sources and uplinks; and what is shown of it, and what is not.
#[test]
fn both_ends_show_certificates() {
    for (version, key) in [("3.1.1", "pkcs8"), ("5", "sec1")] {
        let site = Site::new();
        let ca = Authority::new(&site, "ca");
        ca.issue("broker", &["localhost"], 400 * DAY);
        ca.issue("gateway", &["gateway"], 10 * DAY + 600);
        if key == "sec1" {
            let file = site.path("gateway.key");
            let done = Command::new("openssl")
                .args(["ec", "-in"])
                .arg(&file)
                .arg("-out")
                .arg(&file)
                .output()
                .unwrap();
            assert!(done.status.success());
        }
        let (port, lines) = listener(&ca, "broker", "require_certificate true\n");
        let broker =
            Broker::start_with(&site, "broker-1", &format!("allow_anonymous true\n{lines}"));
        let collector = Collector::start(broker.port, "tidegate/#");
        let url = format!("mqtts://localhost:{port}");
        let keys = format!(
            "version = \"{version}\"\nca = \"ca.pem\"\ncert = \"gateway.pem\"\nkey = \"gateway.key\"\n"
        );
        let config = write(
            &site,
            &[
                section(&site, "source", "plant", &url, &keys),
                section(&site, "uplink", "cloud", &url, &keys),
                PIPELINE.to_owned(),
            ],
        );
        let mut daemon = Daemon::spawn(&config, &[("RUST_LOG", "trace")]);
        daemon.wait_ready();
        wait_for("the subscription", || {
            (item(&daemon, "sources", "plant")["state"] == "subscribed").then_some(())
        });
        broker.publish("plant/a", (0..300).map(numbered));
        daemon.wait_received("plant", 300);
        daemon.wait_delivered();
        assert_eq!(assert_numbers(&collector.items("readings"), 300), 0);

        for (list, name, kind) in [
            ("sources", "plant", "source"),
            ("uplinks", "cloud", "uplink"),
        ] {
            let tls = &item(&daemon, list, name)["tls"];
            let shown: Vec<_> = tls["certificates"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| (c["role"].as_str().unwrap(), c["subject"].as_str().unwrap()))
                .collect();
            let expect = [("own", "gateway"), ("ca", "ca"), ("server", "broker")];
            assert_eq!(shown, expect, "{list}");
            assert_eq!(tls["error"], Value::Null);
            let (_, metrics) = daemon.get("/metrics").unwrap();
            let until = tls["certificates"][0]["not_after"].as_u64().unwrap() / 1000;
            let line = format!(
                "tidegate_certificate_expiry_time_seconds{{kind=\"{kind}\",name=\"{name}\",role=\"own\"}} {until}\n"
            );
            assert!(metrics.contains(&line), "{line}{metrics}");
        }
        let page = page(&daemon);
        assert!(page.contains("The gateway's certificate of source plant expires soon"));
        assert!(page.contains("in 10 d"));
        assert!(!page.contains("The broker's certificate"));

        let key = fs::read_to_string(site.path("gateway.key")).unwrap();
        let secrets = [PASSWORD, key.lines().nth(1).unwrap()];
        assert_eq!(daemon.stop(), 0);
        let log = daemon.log();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
        for secret in secrets {
            assert!(!log.contains(secret) && !page.contains(secret));
        }
    }
}

/// `openssl s_server` with nothing newer than TLS 1.1.
struct OldServer(Child);

impl OldServer {
    fn start(site: &Site, file: &str) -> (Self, u16) {
        let port = free_port();
        let child = Command::new("openssl")
            .args(["s_server", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"])
            .args(["-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .arg("-cert")
            .arg(site.path(&format!("{file}.pem")))
            .arg("-key")
            .arg(site.path(&format!("{file}.key")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the old server's port", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        (Self(child), port)
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One gateway with a source and an uplink for everything that can be wrong, each told what to do.
#[test]
fn whom_nobody_vouches_for_is_refused() {
    let site = Site::new();
    let ca = Authority::new(&site, "ca");
    let other = Authority::new(&site, "other");
    ca.issue("good", &["localhost", "broker.lan"], 400 * DAY);
    ca.issue("elsewhere", &["other.example"], 400 * DAY);
    ca.issue_from("old", &["localhost"], now() - 90 * DAY, now() - DAY);
    ca.issue_from("young", &["localhost"], now() + DAY, now() + 90 * DAY);
    other.issue("stranger", &["gateway"], 400 * DAY);
    let (good, l1) = listener(&ca, "good", "");
    let (elsewhere, l2) = listener(&ca, "elsewhere", "");
    let (old, l3) = listener(&ca, "old", "");
    let (young, l4) = listener(&ca, "young", "");
    let (strict, l5) = listener(&ca, "good", "require_certificate true\n");
    let lines = ["allow_anonymous true\n", &l1, &l2, &l3, &l4, &l5].concat();
    let broker = Broker::start_with(&site, "broker", &lines);
    let (_old, eleven) = OldServer::start(&site, "good");
    let stranger = "cert = \"stranger.pem\"\nkey = \"stranger.key\"\n";

    let cases: [(&str, u16, &str, &str, &[&str]); 8] = [
        (
            "ca",
            good,
            "other",
            "",
            &["nobody whom", "other.pem", "`ca`"],
        ),
        (
            "name",
            elsewhere,
            "ca",
            "",
            &[
                "not for `localhost` but for `other.example`",
                "`server-name`",
            ],
        ),
        (
            "expired",
            old,
            "ca",
            "",
            &["expired on", "clock says", "renew it"],
        ),
        (
            "young",
            young,
            "ca",
            "",
            &["not valid before", "clock says"],
        ),
        ("tls11", eleven, "ca", "", &["neither TLS 1.2 nor 1.3"]),
        (
            "nobody",
            strict,
            "ca",
            "",
            &["wants a certificate", "`cert` and `key`"],
        ),
        (
            "stranger",
            strict,
            "ca",
            stranger,
            &["refused this gateway's certificate"],
        ),
        ("plain", broker.port, "ca", "", &["plain MQTT"]),
    ];
    let mut sections = Vec::new();
    for (name, port, ca, keys, _) in cases {
        let url = format!("mqtts://localhost:{port}");
        // Both versions: they are two clients in the library of the uplinks.
        for (kind, version, name) in [
            ("source", "5", name.to_owned()),
            ("uplink", "5", name.to_owned()),
            ("uplink", "3.1.1", format!("{name}-311")),
        ] {
            let keys = format!("ca = \"{ca}.pem\"\nversion = \"{version}\"\n{keys}");
            sections.push(section(&site, kind, &name, &url, &keys));
        }
    }
    // An address that no certificate is for, with the name that one is for; and the name of an alternative.
    for (name, host, server_name) in [
        ("right", "127.0.0.1", "localhost"),
        ("also", "localhost", "broker.lan"),
    ] {
        let url = format!("mqtts://{host}:{good}");
        let keys = format!("ca = \"ca.pem\"\nserver-name = \"{server_name}\"\n");
        sections.push(section(&site, "source", name, &url, &keys));
        sections.push(section(&site, "uplink", name, &url, &keys));
    }
    let daemon = Daemon::spawn(&write(&site, &sections), &[]);
    daemon.wait_ready();
    for (name, _, _, _, says) in cases {
        wait_error(&daemon, "sources", name, says);
        wait_error(&daemon, "uplinks", name, says);
        wait_error(&daemon, "uplinks", &format!("{name}-311"), says);
        assert_ne!(item(&daemon, "sources", name)["state"], "subscribed");
    }
    for name in ["right", "also"] {
        wait_for("the connections that are right", || {
            let source = item(&daemon, "sources", name)["state"] == "subscribed";
            let uplink = item(&daemon, "uplinks", name)["state"] == "connected";
            (source && uplink).then_some(())
        });
    }
    // Its age is worth showing, since the CA has signed it.
    let shown = item(&daemon, "uplinks", "expired");
    let last = shown["tls"]["certificates"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&last["role"], &last["subject"]),
        (&"server".into(), &"old".into())
    );
    let text = "The broker's certificate of uplink expired has expired";
    assert!(page(&daemon).contains(text));
}

/// A certificate is renewed under load, first half of it and then the rest, and goes over without a message lost.
#[test]
fn renewed_files_are_taken_without_a_restart() {
    let site = Site::new();
    let ca = Authority::new(&site, "ca");
    ca.issue("broker", &["localhost"], 400 * DAY);
    ca.issue("gateway", &["gateway"], 2 * DAY);
    let further = "require_certificate true\nuse_identity_as_username true\n";
    let (port, lines) = listener(&ca, "broker", further);
    let broker = Broker::start_with(&site, "broker-1", &format!("allow_anonymous true\n{lines}"));
    let collector = Collector::start(broker.port, "tidegate/#");
    let url = format!("mqtts://localhost:{port}");
    let keys = "ca = \"ca.pem\"\ncert = \"gateway.pem\"\nkey = \"gateway.key\"\n";
    let config = write(
        &site,
        &[
            section(&site, "source", "plant", &url, keys),
            section(&site, "uplink", "cloud", &url, keys),
            PIPELINE.to_owned(),
        ],
    );
    let mut daemon = Daemon::start(&config);
    // mosquitto names whom it lets in by their certificates.
    let let_in = |who: &str| {
        let log = fs::read_to_string(site.path("broker-1/log")).unwrap();
        log.matches(&format!("u'{who}'")).count()
    };
    wait_for("both connections", || {
        (let_in("gateway") == 2).then_some(())
    });
    let mut publisher = Publisher::start(broker.port, "plant/a", &[]);
    let mut sent = 0;
    let mut publish = |count: u64| {
        for _ in 0..count {
            publisher.line(&numbered(sent));
            sent += 1;
        }
        sent
    };
    publish(200);

    let (cert, key) = ca.sign("renewed", &["gateway"], now() - 3600, now() + 400 * DAY);
    site.write("gateway.pem", &cert);
    wait_for("the half-written renewal on the page", || {
        publish(20);
        page(&daemon)
            .contains("The renewed TLS files of source plant are not used")
            .then_some(())
    });
    assert_eq!(let_in("gateway"), 2, "the earlier files stay in use");
    site.write("gateway.key", &key);
    wait_for("both connections with the renewed certificate", || {
        publish(20);
        (let_in("renewed") == 2).then_some(())
    });
    let count = publish(200);
    publisher.finish();
    daemon.wait_received("plant", count);
    daemon.wait_delivered();
    assert_numbers(&collector.items("readings"), count);
    collector.assert_dense();
    let tls = &item(&daemon, "sources", "plant")["tls"];
    assert_eq!(tls["certificates"][0]["subject"], "renewed");
    assert_eq!(tls["error"], Value::Null);
    // The line was left in an orderly way: nobody saw the last will, nobody waited.
    assert_eq!(item(&daemon, "uplinks", "cloud")["last_error"], Value::Null);
    assert_eq!(item(&daemon, "sources", "plant")["last_error"], Value::Null);
    assert_eq!(daemon.stop(), 0);
    let (code, report) = daemon.verify();
    assert_eq!(code, 0, "{report}");
}

/// Starts the daemon under a clock of its own; monotonic time runs as it does.
fn daemon_at(config: &std::path::Path, clock: &str) -> Daemon {
    let library = fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime is installed by `make tools`");
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", clock),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Daemon::spawn(config, &env)
}

/// A gateway whose clock was never set connects to a broker whose certificate is younger than the program, but not to
/// one whose certificate had expired before; one whose clock is far ahead is told to look at it.
#[test]
fn clocks_that_are_wrong() {
    let site = Site::new();
    let ca = Authority::new(&site, "ca");
    // Of tomorrow, so that it is younger than the program however fresh that is.
    ca.issue_from("young", &["localhost"], now() + DAY, now() + 90 * DAY);
    ca.issue_from("old", &["localhost"], 1_500_000_000, 1_600_000_000);
    let (young, l1) = listener(&ca, "young", "");
    let (old, l2) = listener(&ca, "old", "");
    let lines = ["allow_anonymous true\n", &l1, &l2].concat();
    let broker = Broker::start_with(&site, "broker", &lines);
    let collector = Collector::start(broker.port, "tidegate/#");
    let keys = "ca = \"ca.pem\"\n";
    let url = |port: u16| format!("mqtts://localhost:{port}");
    let config = write(
        &site,
        &[
            section(&site, "source", "plant", &url(young), keys),
            section(&site, "source", "old", &url(old), keys),
            section(&site, "uplink", "cloud", &url(young), keys),
            section(&site, "uplink", "old", &url(old), keys),
            PIPELINE.to_owned(),
        ],
    );
    let mut daemon = daemon_at(&config, "@1970-01-01 00:01:00");
    daemon.wait_ready();
    wait_for("the subscription in 1970", || {
        (item(&daemon, "sources", "plant")["state"] == "subscribed").then_some(())
    });
    broker.publish("plant/a", (0..50).map(numbered));
    wait_for("all readings", || {
        (collector.items("readings").len() == 50).then_some(())
    });
    let never = [
        "expired on 2020-09-13",
        "clock says 1970-01-01",
        "never set",
    ];
    wait_error(&daemon, "sources", "old", &never);
    wait_error(&daemon, "uplinks", "old", &never);
    assert_eq!(daemon.stop(), 0);

    let mut daemon = daemon_at(&config, "@2090-01-01 00:00:00");
    daemon.wait_ready();
    let far = [
        "clock says 2090-01-01",
        "years after this program was built",
        "set it",
    ];
    wait_error(&daemon, "sources", "plant", &far);
    wait_error(&daemon, "uplinks", "cloud", &far);
    assert_eq!(daemon.stop(), 0);
}

/// A renewal was cut off by a power cut: what does not need the files works, and the rest as soon as they are whole.
#[test]
fn files_that_are_half_written_at_the_start_keep_back_their_own_connection_alone() {
    let site = Site::new();
    let ca = Authority::new(&site, "ca");
    ca.issue("broker", &["localhost"], 400 * DAY);
    ca.issue("gateway", &["gateway"], 400 * DAY);
    let (port, lines) = listener(&ca, "broker", "require_certificate true\n");
    let broker = Broker::start_with(&site, "broker-1", &format!("allow_anonymous true\n{lines}"));
    let collector = Collector::start(broker.port, "tidegate/#");
    let keys = "ca = \"ca.pem\"\ncert = \"gateway.pem\"\nkey = \"gateway.key\"\n";
    let secure = format!("mqtts://localhost:{port}");
    let config = write(
        &site,
        &[
            section(&site, "source", "plant", &broker.url(), ""),
            section(&site, "uplink", "cloud", &secure, keys),
            PIPELINE.to_owned(),
        ],
    );
    let key = fs::read_to_string(site.path("gateway.key")).unwrap();
    site.write("gateway.key", &key[..key.len() / 2]);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/a", (0..100).map(numbered));
    daemon.wait_received("plant", 100);
    wait_error(&daemon, "uplinks", "cloud", &["gateway.key"]);
    assert!(page(&daemon).contains("gateway.key"));
    assert!(
        daemon
            .log()
            .contains("does not connect until the files can be used")
    );
    // Whoever reloads keeps what runs; whoever judges the files hears the truth.
    let checked = tidegate().args(["check", "--config"]).arg(&config).output();
    assert_eq!(checked.unwrap().status.code(), Some(78));

    site.write("gateway.key", &key);
    daemon.wait_delivered();
    assert_eq!(assert_numbers(&collector.items("readings"), 100), 0);
    assert_eq!(daemon.stop(), 0);
}

/// Both brokers of an uplink and its commands, over TLS; each broker is known by its own name.
#[test]
fn commands_and_fail_over_go_over_tls() {
    for version in ["5", "3.1.1"] {
        let site = Site::new();
        let ca = Authority::new(&site, "ca");
        ca.issue("first", &["localhost"], 400 * DAY);
        ca.issue("second", &["127.0.0.1"], 400 * DAY);
        let brokers = ["first", "second"].map(|name| {
            let (port, lines) = listener(&ca, name, "");
            let lines = format!("allow_anonymous true\n{lines}");
            (
                Broker::start_with(&site, &format!("broker-{name}"), &lines),
                port,
            )
        });
        let [(mut first, one), (second, two)] = brokers;
        let collectors = [&first, &second].map(|b| Collector::start(b.port, "tidegate/#"));
        let keys = format!(
            "ca = \"ca.pem\"\nversion = \"{version}\"\ncommands = [\"report\"]\n\
             failover = [\"mqtts://127.0.0.1:{two}\"]\nfailback = \"5s\"\n"
        );
        let url = format!("mqtts://localhost:{one}");
        let config = write(&site, &[section(&site, "uplink", "cloud", &url, &keys)]);
        let mut daemon = Daemon::start(&config);
        let answered = |broker: &Broker, collector: &Collector, id: &str| {
            let command = format!("{{\"id\":\"{id}\",\"command\":\"report\"}}");
            let mut asked = 0_u64;
            wait_for(&format!("the answer to {id}"), || {
                // What is sent before the subscription stands is nobody's.
                if asked.is_multiple_of(20) {
                    broker.publish("tidegate/gw-test/command", [&command]);
                }
                asked += 1;
                let replies = collector.items("reply");
                replies.iter().any(|reply| reply["id"] == id).then_some(())
            });
        };
        answered(&first, &collectors[0], "one");
        first.stop();
        answered(&second, &collectors[1], "two");
        assert_eq!(item(&daemon, "uplinks", "cloud")["failover"], true);
        first.resume();
        answered(&first, &collectors[0], "three");
        assert_eq!(item(&daemon, "uplinks", "cloud")["failover"], false);
        assert_eq!(daemon.stop(), 0);
    }
}

/// What is wrong with the files is said at the key that names them, by whoever judges a configuration.
#[test]
fn check_names_the_file_and_the_key() {
    let site = Site::new();
    let ca = Authority::new(&site, "ca");
    ca.issue("gateway", &["gateway"], 20 * DAY);
    ca.issue("second", &["gateway"], 400 * DAY);
    let url = "mqtts://localhost";
    let keys = "ca = \"ca.pem\"\ncert = \"gateway.pem\"\nkey = \"second.key\"\n";
    let config = write(&site, &[section(&site, "uplink", "cloud", url, keys)]);
    let refused = tidegate().args(["check", "--config"]).arg(&config).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let text = String::from_utf8_lossy(&refused.stdout);
    assert!(text.contains("second.key"), "{text}");
    assert!(text.contains("is not that of the certificate"), "{text}");

    let keys = keys.replace("second.key", "gateway.key");
    let config = write(&site, &[section(&site, "uplink", "cloud", url, &keys)]);
    let checked = tidegate()
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{text}");
    assert!(text.contains("expires on"), "{text}");
    assert!(text.contains("can be read by every user"), "{text}");
    assert!(text.contains("chmod 600"), "{text}");
}
