//! From the publisher's command to a gateway's pipelines and back: three gateways, of which one has no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kills;
use crate::server::Server;
use crate::support::{
    Broker, Collector, Daemon, Site, assert_numbers, configuration, hostile_components, numbered,
    run, tidegate, wait_for,
};

/// The publisher: a repository with its keys.
pub(crate) struct Publisher {
    pub(crate) site: Site,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        let publisher = Self { site: Site::new() };
        publisher.repo("init", &[]);
        publisher
    }

    #[track_caller]
    pub(crate) fn repo(&self, command: &str, arguments: &[&str]) -> Value {
        let output = tidegate()
            .args(["repo", command, "repo", "--json", "--keys", "keys"])
            .args(arguments)
            .current_dir(self.site.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A version of `varies`: other bytes, the same behaviour; `change` changes its manifest.
    pub(crate) fn add(&self, version: &str, change: impl FnOnce(&mut Value)) {
        let file = variant(&self.site.path("work"), version, change);
        self.repo(
            "add",
            &[
                file.to_str().unwrap(),
                "--name",
                "varies",
                "--version",
                version,
            ],
        );
    }

    pub(crate) fn publish(&self, version: &str, settings: Value, more: &[&str]) {
        let module = format!("varies={version}");
        let file = self.site.write("settings.json", &settings.to_string());
        let settings = format!("varies={}", file.display());
        let mut arguments = vec!["--channel", "stable", "--module", &module];
        arguments.extend(["--settings", &settings]);
        arguments.extend(more);
        self.repo("publish", &arguments);
    }

    fn root(&self) -> PathBuf {
        self.site.path("repo/metadata/1.root.json")
    }
}

/// A test guest with a custom section of its own, so that each version has its own digest.
pub(crate) fn variant(dir: &Path, version: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let from = hostile_components().join("varies");
    let mut component = fs::read(from.with_extension("wasm")).unwrap();
    // <https://webassembly.github.io/spec/core/binary/modules.html#custom-section>: id 0, size, name.
    let name = format!("version {version}");
    component.extend([0, u8::try_from(name.len() + 1).unwrap()]);
    component.push(u8::try_from(name.len()).unwrap());
    component.extend(name.as_bytes());
    let manifest = fs::read_to_string(from.with_extension("json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["name"] = "varies".into();
    manifest["version"] = version.into();
    let digest = Sha256::digest(&component);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["digest"] = format!("sha256:{hex}").into();
    manifest["vectors"] = "varies.vectors.json".into();
    change(&mut manifest);
    let row = json!({"series": "a", "time": 0, "value": 1.5});
    let settings = match manifest["settings"]["required"].is_null() {
        true => json!({}),
        false => json!({"width": 1}),
    };
    let step = json!({"input": [row.clone()], "expect": {"stored": [row]}});
    let vectors = json!({"vectors": [{"name": "what is sound passes", "settings": settings, "steps": [step]}]});
    fs::write(dir.join("varies.vectors.json"), vectors.to_string()).unwrap();
    let file = dir.join("varies.wasm");
    fs::write(&file, component).unwrap();
    fs::write(file.with_extension("json"), manifest.to_string()).unwrap();
    file
}

pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A gateway whose pipeline `p` runs `varies`, a local file of version 0.1.0 at first.
pub(crate) struct Gateway {
    config: PathBuf,
    site: Site,
    broker: Broker,
    collector: Collector,
    pub(crate) daemon: Daemon,
    sent: u64,
}

impl Gateway {
    fn new(publisher: &Publisher, repository: &str, more: &str) -> Self {
        let site = Site::new();
        variant(&site.path("modules"), "0.1.0", |_| ());
        let gateway = Self::spawn(site, publisher, repository, more);
        gateway.daemon.wait_ready();
        gateway
    }

    /// Without waiting for it, and without a local file.
    pub(crate) fn spawn(site: Site, publisher: &Publisher, repository: &str, more: &str) -> Self {
        let broker = Broker::start(&site, "broker");
        let collector = Collector::start(broker.port, "tidegate/#");
        let rest = format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
             [rollout]\nmin-samples = 40\nlatency-factor = 1000\nmemory-factor = 1000\n\
             [pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"varies\", settings = {{ behaviour = \"none\" }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [deploy]\nrepository = \"{repository}\"\nroot = \"{}\"\n{more}\n",
            site.path("modules").display(),
            publisher.root().display(),
        );
        let config = configuration(&site, &broker, &rest);
        let daemon = Daemon::spawn(&config, &[]);
        Self {
            config,
            site,
            broker,
            collector,
            daemon,
            sent: 0,
        }
    }

    pub(crate) fn send(&mut self, count: u64) {
        let numbers = self.sent..self.sent + count;
        self.broker.publish("plant/line1", numbers.map(numbered));
        self.sent += count;
        self.daemon.wait_received("plant", self.sent);
    }

    fn module(&self, arguments: &[&str]) -> Output {
        tidegate()
            .arg("module")
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()
            .unwrap()
    }

    /// Looks at the repository now, or at a folder.
    #[track_caller]
    pub(crate) fn look(&self, arguments: &[&str]) {
        let output = self.module(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }

    pub(crate) fn install(&self) -> Value {
        self.daemon.json("/api/v1/status")["deploy"]["install"].clone()
    }

    /// Waits until an epoch is in this state.
    fn wait(&self, state: &str, epoch: u64) -> Value {
        wait_for(&format!("epoch {epoch} {state}"), || {
            let install = self.install();
            (install["state"] == state && install["in_force"] == epoch).then_some(install)
        })
    }

    /// Sends readings until an epoch is settled.
    pub(crate) fn settle(&mut self, epoch: u64) {
        wait_for(&format!("epoch {epoch}"), || {
            self.send(20);
            let install = self.install();
            (install["state"] == "settled" && install["in_force"] == epoch).then_some(())
        });
    }

    /// Sends readings until an epoch is refused and the pipelines are back.
    pub(crate) fn refuses(&mut self, epoch: u64, stage: &str) -> String {
        wait_for(&format!("epoch {epoch} refused"), || {
            self.send(20);
            let install = self.install();
            let refused = &install["refused"];
            let back = install["state"] == "settled" || install["state"] == "nothing";
            (back && refused["epoch"] == epoch && refused["stage"] == stage)
                .then(|| refused["reason"].as_str().unwrap().to_owned())
        })
    }

    /// The version of `varies` in this state, as `/api/v1/modules` has it.
    pub(crate) fn version(&self, state: &str) -> Option<String> {
        let modules = self.daemon.json("/api/v1/modules");
        let modules = modules["items"].as_array().unwrap().iter();
        let mut found = modules.filter(|m| m["name"] == "varies" && m["state"] == state);
        found
            .next()
            .map(|module| module["version"].as_str().unwrap().to_owned())
    }

    /// Everything sent went up exactly once.
    pub(crate) fn check_whole(&self) {
        self.daemon.wait_delivered();
        assert_numbers(&self.collector.items("readings"), self.sent);
        let ledger = self.daemon.ledger();
        assert_eq!(ledger["balanced"], true, "{ledger}");
    }

    /// The epochs' steps in the audit log, which holds.
    pub(crate) fn audited(&self) -> Vec<String> {
        let config = self.config.to_str().unwrap();
        let verified = run(&["audit", "verify", "--config", config]);
        assert!(verified.status.success(), "{}", said(&verified));
        let shown = run(&[
            "audit", "show", "--json", "--limit", "10000", "--config", config,
        ]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let entries = shown
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let actions = entries.map(|entry| entry["action"].as_str().unwrap().to_owned());
        actions
            .filter(|action| action.starts_with("epoch."))
            .collect()
    }

    fn events(&self, code: &str) -> Vec<Value> {
        let events = self.collector.items("event").into_iter();
        events.filter(|event| event["code"] == code).collect()
    }
}

#[test]
fn a_good_release_is_adopted_a_bad_one_undone_offline_and_a_revoked_one_removed_on_three_gateways()
{
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = publisher.site.path("repo");
    let server = Server::start(&repository);
    let mut online = Gateway::new(&publisher, &server.url(), "");
    let folder = format!("file://{}", repository.display());
    let mut folder = Gateway::new(&publisher, &folder, "");
    // Nothing listens there: it gets everything from a stick.
    let mut stick = Gateway::new(&publisher, "http://127.0.0.1:1/", "");
    let usb = stick.site.path("usb");

    for gateway in [&mut online, &mut folder, &mut stick] {
        gateway.send(20);
        assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    }
    let take = |gateway: &Gateway, from_stick: bool| {
        if from_stick {
            let _gone = fs::remove_dir_all(&usb);
            crate::memory::copy(&repository, &usb);
            gateway.look(&["import", usb.to_str().unwrap()]);
        } else {
            gateway.look(&["update"]);
        }
    };
    for (index, gateway) in [&mut online, &mut folder, &mut stick]
        .into_iter()
        .enumerate()
    {
        take(gateway, index == 2);
        gateway.wait("trying", 1);
        assert_eq!(gateway.version("candidate").as_deref(), Some("1.0.0"));
        gateway.settle(1);
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
        assert_eq!(gateway.version("previous").as_deref(), Some("0.1.0"));
    }

    // The bad one: it runs its vectors, and traps on what the plant sends.
    publisher.add("1.1.0", |_| ());
    publisher.publish("1.1.0", json!({"behaviour": "trap"}), &[]);
    for (index, gateway) in [&mut online, &mut folder, &mut stick]
        .into_iter()
        .enumerate()
    {
        take(gateway, index == 2);
    }
    drop(server);
    for gateway in [&mut online, &mut folder, &mut stick] {
        let why = gateway.refuses(2, "trial");
        assert!(why.contains("trap"), "{why}");
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
        assert_eq!(gateway.version("refused").as_deref(), Some("1.1.0"));
        assert_eq!(gateway.install()["in_force"], 1);
        gateway.check_whole();
        wait_for("the event", || {
            (gateway.events("epoch-put-back").len() == 1).then_some(())
        });
        assert_eq!(
            gateway.audited(),
            [
                "epoch.begun",
                "epoch.settled",
                "epoch.begun",
                "epoch.put-back"
            ]
        );
    }

    // The one that runs is revoked: it goes at once, whatever the site holds.
    publisher.add("1.2.0", |_| ());
    publisher.publish("1.2.0", json!({"behaviour": "none"}), &["--wave", "1%@80d"]);
    folder.look(&["update"]);
    assert_eq!(folder.version("active").as_deref(), Some("1.0.0"));
    publisher.repo(
        "revoke",
        &[
            "--channel",
            "stable",
            "--module",
            "varies",
            "--minimum",
            "1.2.0",
        ],
    );
    for gateway in [&mut folder, &mut stick] {
        let from_stick = gateway.config == gateway.site.path("tidegate.toml")
            && gateway.daemon.json("/api/v1/status")["deploy"]["repository"]
                .as_str()
                .unwrap()
                .starts_with("http");
        take(gateway, from_stick);
        gateway.settle(4);
        assert_eq!(gateway.version("active").as_deref(), Some("1.2.0"));
        // There is no way back to what was revoked, not even by hand.
        let back = gateway.module(&["rollback", "varies"]);
        assert!(
            !back.status.success() && said(&back).contains("revoked"),
            "{}",
            said(&back)
        );
        assert_eq!(gateway.version("active").as_deref(), Some("1.2.0"));
        gateway.check_whole();
    }
}

#[test]
fn what_does_not_pass_the_rehearsal_never_sees_a_reading() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |manifest| {
        manifest["settings"]["properties"]["width"] = json!({"type": "number"});
        manifest["settings"]["required"] = json!(["width"]);
    });
    // The publisher sets nothing, and the site's own settings do not fit this version.
    let arguments = ["--channel", "stable", "--module", "varies=1.0.0"];
    publisher.repo("publish", &arguments);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    gateway.look(&["update"]);
    let why = gateway.refuses(1, "loading");
    assert!(why.contains("width"), "{why}");
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    assert_eq!(gateway.install()["state"], "nothing");
    // It is known: another look does not try it again.
    gateway.look(&["update"]);
    gateway.send(20);
    wait_for("the event", || {
        (gateway.events("epoch-refused").len() == 1).then_some(())
    });
    // Settings that fit make another epoch of it.
    publisher.publish("1.0.0", json!({"width": 1}), &[]);
    gateway.look(&["update"]);
    gateway.settle(2);
    gateway.check_whole();
}

#[test]
fn a_site_holds_takes_what_it_wants_and_says_what_differs() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({"behaviour": "trap"}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "hold = true\nsettings = \"site\"");
    gateway.look(&["update"]);
    let waits = wait_for("a hold", || {
        let install = gateway.install();
        (install["state"] == "waiting").then_some(install)
    });
    assert!(
        waits["waiting"]["reason"]
            .as_str()
            .unwrap()
            .contains("hold"),
        "{waits}"
    );
    assert_eq!(gateway.version("candidate").as_deref(), Some("1.0.0"));
    gateway.send(20);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    // The hold ends by a reload.
    let text = fs::read_to_string(&gateway.config).unwrap();
    fs::write(&gateway.config, text.replace("hold = true", "hold = false")).unwrap();
    gateway.daemon.signal("HUP");
    gateway.settle(1);
    // The site's own settings win here, and the page says that they differ.
    let drift = gateway.install()["drift"][0].clone();
    assert_eq!(
        (&drift["key"], &drift["wins"]),
        (&json!("behaviour"), &json!("site")),
        "{drift}"
    );
    gateway.check_whole();
}

#[test]
fn a_kill_in_any_state_of_an_installation_goes_on_after_the_restart() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    gateway.look(&["update"]);
    gateway.wait("trying", 1);
    gateway.daemon.kill();
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("trying", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    gateway.settle(1);
    gateway.daemon.kill();
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // The repository is gone: what is installed does not depend on it.
    fs::remove_dir_all(publisher.site.path("repo/targets")).unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // Its files are damaged: what ran was kept besides.
    for entry in fs::read_dir(gateway.site.path("state/deploy/files")).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // So is what says what is installed.
    fs::write(gateway.site.path("state/deploy/install.json"), "{").unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.send(20);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
}

#[test]
fn a_killed_gateway_goes_on_from_any_sync_of_an_installation() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    let mut kills = 0;
    for sync in 1..=40 {
        let tracer = kills::at_sync(&mut gateway.daemon, sync);
        let _killed_or_not = gateway.module(&["update"]);
        let settled = wait_for("a kill or the end of the installation", || {
            gateway.broker.publish(
                "plant/line1",
                (gateway.sent..gateway.sent + 20).map(numbered),
            );
            gateway.sent += 20;
            if gateway.daemon.exited().is_some() {
                return Some(false);
            }
            let (code, status) = gateway.daemon.get("/api/v1/status")?;
            assert_eq!(code, 200);
            let status: Value = serde_json::from_str(&status).unwrap();
            let install = &status["deploy"]["install"];
            (install["state"] == "settled" && install["in_force"] == 1).then_some(true)
        });
        drop(tracer);
        if settled {
            break;
        }
        kills += 1;
        gateway.daemon = Daemon::start(&gateway.config);
    }
    println!("killed {kills} times");
    assert!(kills >= 8, "{kills}");
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.daemon.wait_delivered();
    assert_numbers(&gateway.collector.items("readings"), gateway.sent);
    assert_eq!(gateway.daemon.ledger()["balanced"], true);
}

#[test]
fn a_new_gateway_waits_for_modules_that_only_the_channel_gives() {
    let publisher = Publisher::new();
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::spawn(Site::new(), &publisher, &repository, "");
    let said = |gateway: &Gateway, words: &str| {
        wait_for(words, || gateway.daemon.log().contains(words).then_some(()));
    };
    said(
        &gateway,
        "waiting for varies: neither a local file nor a factory module",
    );
    said(&gateway, "still waiting for varies");
    assert!(gateway.daemon.get("/healthz").is_none());
    // An orderly end, also now.
    assert_eq!(gateway.daemon.stop(), 0);
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &["--wave", "1%@80d"]);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.check_whole();
    // From now on it starts without the repository.
    fs::remove_dir_all(publisher.site.path("repo")).unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
}
