//! A publisher with its repository, and gateways that follow it: the real commands and the real daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    Broker, Collector, Daemon, Site, assert_numbers, components, configuration, hostile_components,
    numbered, run, tidegate, wait_for,
};

/// The publisher: a repository with its keys.
pub(crate) struct Publisher {
    pub(crate) site: Site,
}

/// A publisher that has published one sound version, 1.0.0, as epoch 1, for whoever changes nothing there.
pub(crate) fn plain() -> &'static Publisher {
    static PLAIN: OnceLock<Publisher> = OnceLock::new();
    PLAIN.get_or_init(|| {
        let publisher = Publisher::new();
        publisher.add("1.0.0", |_| ());
        publisher.publish("1.0.0", json!({}), &[]);
        publisher
    })
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
        assert!(
            output.status.success(),
            "{command}: {}: {}",
            output.status,
            said(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A version of `varies`: other bytes, the same behaviour; `change` changes its manifest.
    pub(crate) fn add(&self, version: &str, change: impl FnOnce(&mut Value)) {
        self.add_from(Variant::of("varies", version), change);
    }

    pub(crate) fn add_from(&self, variant: Variant<'_>, change: impl FnOnce(&mut Value)) {
        let file = variant.write(&self.site.path("work"), change);
        let (name, version) = (variant.name, variant.version);
        let file = file.to_str().unwrap();
        self.repo("add", &[file, "--name", name, "--version", version]);
    }

    pub(crate) fn publish(&self, version: &str, settings: Value, more: &[&str]) {
        self.publish_in("stable", version, settings, more);
    }

    pub(crate) fn publish_in(&self, channel: &str, version: &str, settings: Value, more: &[&str]) {
        let module = format!("varies={version}");
        let file = self.site.write("settings.json", &settings.to_string());
        let settings = format!("varies={}", file.display());
        let mut arguments = vec!["--channel", channel, "--module", &module];
        arguments.extend(["--settings", &settings]);
        arguments.extend(more);
        self.repo("publish", &arguments);
    }

    /// The repository, as a gateway's configuration names it.
    pub(crate) fn folder(&self) -> String {
        format!("file://{}", self.site.path("repo").display())
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.site.path("repo/metadata/1.root.json")
    }
}

/// A module of ours with a custom section of its own, so that each version has its own digest.
#[derive(Clone, Copy)]
pub(crate) struct Variant<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// What the compiler is told to do: `tidegate:test-fault`.
    pub(crate) fault: Option<&'a str>,
    /// What its golden vector sets besides.
    pub(crate) behaviour: Option<&'a str>,
}

impl<'a> Variant<'a> {
    pub(crate) fn of(name: &'a str, version: &'a str) -> Self {
        Self {
            name,
            version,
            fault: None,
            behaviour: None,
        }
    }

    /// Its component with manifest and vectors beside it.
    pub(crate) fn write(&self, dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let of_tests = hostile_components().join(self.name);
        let own = of_tests.with_extension("wasm").exists();
        let from = if own {
            of_tests
        } else {
            components().join(self.name)
        };
        let mut component = fs::read(from.with_extension("wasm")).unwrap();
        component.extend(section(&format!("version {}", self.version), b""));
        if let Some(fault) = self.fault {
            component.extend(section("tidegate:test-fault", fault.as_bytes()));
        }
        let manifest = fs::read_to_string(from.with_extension("json")).unwrap();
        let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
        manifest["name"] = self.name.into();
        manifest["version"] = self.version.into();
        let digest = Sha256::digest(&component);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        manifest["digest"] = format!("sha256:{hex}").into();
        let vectors = format!("{}.vectors.json", self.name);
        manifest["vectors"] = vectors.clone().into();
        change(&mut manifest);
        let file = dir.join(self.name).with_extension("wasm");
        if own {
            fs::write(dir.join(vectors), self.vectors(&manifest)).unwrap();
        } else {
            fs::copy(from.with_extension("vectors.json"), dir.join(vectors)).unwrap();
        }
        fs::write(&file, component).unwrap();
        fs::write(file.with_extension("json"), manifest.to_string()).unwrap();
        file
    }

    fn vectors(&self, manifest: &Value) -> String {
        let row = json!({"series": "a", "time": 0, "value": 1.5});
        let mut settings = match manifest["settings"]["required"].is_null() {
            true => json!({}),
            false => json!({"width": 1}),
        };
        if let Some(behaviour) = self.behaviour {
            settings["behaviour"] = behaviour.into();
        }
        let step = json!({"input": [row.clone()], "expect": {"stored": [row]}});
        json!({"vectors": [{"name": "what is sound passes", "settings": settings, "steps": [step]}]})
            .to_string()
    }
}

/// <https://webassembly.github.io/spec/core/binary/modules.html#custom-section>: id 0, size, name, contents.
fn section(name: &str, contents: &[u8]) -> Vec<u8> {
    let size = name.len() + 1 + contents.len();
    let mut section = vec![
        0,
        u8::try_from(size).unwrap(),
        u8::try_from(name.len()).unwrap(),
    ];
    assert!(size < 128, "larger sizes have more bytes");
    section.extend(name.as_bytes());
    section.extend(contents);
    section
}

pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A gateway whose pipeline `p` runs `varies`, a local file of version 0.1.0 at first.
pub(crate) struct Gateway {
    pub(crate) config: PathBuf,
    pub(crate) site: Site,
    pub(crate) broker: Broker,
    pub(crate) collector: Collector,
    pub(crate) daemon: Daemon,
    pub(crate) sent: u64,
}

impl Gateway {
    pub(crate) fn new(publisher: &Publisher, repository: &str, more: &str) -> Self {
        Self::with(Site::new(), publisher, repository, more)
    }

    /// In a directory where something lies already.
    pub(crate) fn with(site: Site, publisher: &Publisher, repository: &str, more: &str) -> Self {
        Variant::of("varies", "0.1.0").write(&site.path("modules"), |_| ());
        let gateway = Self::spawn(site, publisher, repository, more);
        gateway.daemon.wait_ready();
        gateway
    }

    /// Without waiting for it, and without a local file.
    pub(crate) fn spawn(site: Site, publisher: &Publisher, repository: &str, more: &str) -> Self {
        let (config, broker) = Self::configure(&site, publisher, repository, more);
        let daemon = Daemon::spawn(&config, &[]);
        Self::of(site, config, broker, daemon)
    }

    /// Its configuration, and the broker in it.
    pub(crate) fn configure(
        site: &Site,
        publisher: &Publisher,
        repository: &str,
        more: &str,
    ) -> (PathBuf, Broker) {
        let broker = Broker::start(site, "broker");
        let rest = format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
             [rollout]\nmin-samples = 40\nlatency-factor = 1000\nmemory-factor = 1000\n\
             [pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"varies\", settings = {{ behaviour = \"none\" }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [deploy]\nrepository = \"{repository}\"\nroot = \"{}\"\n{more}\n",
            site.path("modules").display(),
            publisher.root().display(),
        );
        (configuration(site, &broker, &rest), broker)
    }

    /// One whose broker takes data in and up.
    pub(crate) fn of(site: Site, config: PathBuf, broker: Broker, daemon: Daemon) -> Self {
        let collector = Collector::start(broker.port, "tidegate/#");
        Self {
            config,
            site,
            broker,
            collector,
            daemon,
            sent: 0,
        }
    }

    /// Changes its configuration, and has it read again.
    #[track_caller]
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&self.config, text.replace(from, to)).unwrap();
        self.daemon.signal("HUP");
    }

    /// Ends it at once, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.daemon.kill();
        self.daemon = Daemon::start(&self.config);
    }

    pub(crate) fn send(&mut self, count: u64) {
        let numbers = self.sent..self.sent + count;
        self.broker.publish("plant/line1", numbers.map(numbered));
        self.sent += count;
        self.daemon.wait_received("plant", self.sent);
    }

    pub(crate) fn module(&self, arguments: &[&str]) -> Output {
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
    pub(crate) fn wait(&self, state: &str, epoch: u64) -> Value {
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
        self.version_of("varies", state)
    }

    pub(crate) fn version_of(&self, name: &str, state: &str) -> Option<String> {
        let modules = self.daemon.json("/api/v1/modules");
        let modules = modules["items"].as_array().unwrap().iter();
        let mut found = modules.filter(|m| m["name"] == name && m["state"] == state);
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

    pub(crate) fn events(&self, code: &str) -> Vec<Value> {
        let events = self.collector.items("event").into_iter();
        events.filter(|event| event["code"] == code).collect()
    }
}
