//! A new version of a filter is on trial, or just decided on, when the power goes or the daemon is killed.

use std::fs;
use std::path::Path;
use std::thread::sleep;

use serde_json::Value;

use super::{Judged, Run};
use crate::disk::Disk;
use crate::gateway::{Gateway, Plan};
use crate::support::{Site, components, tidegate, wait_for};

impl Run<'_> {
    /// After every start there is one active version, the old one or the new one; a trial goes on or was decided on; and what
    /// a rollback goes back to is there.
    pub(super) fn canaries(mut self) -> Judged {
        let disk = Disk::new(64);
        let site = Site::new();
        let modules = site.path("modules");
        fs::create_dir_all(&modules).unwrap();
        install(&modules, 0);
        let plan = Plan {
            rate: 1000,
            split: true,
            more: format!(
                "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[rollout]\nmin-samples = 600\n",
                modules.display()
            ),
            ..Plan::on(&disk)
        };
        let mut gateway = self.gateway(site, plan);
        for number in 1..=self.case.strikes {
            let (before, wanted) = (Versions::of(&gateway).active, version(number));
            install(&modules, number);
            gateway.daemon.signal("HUP");
            match self.rng.within(0..4) {
                0 => {}
                1 => wait_begun(&gateway, &wanted),
                2 => {
                    wait_begun(&gateway, &wanted);
                    gateway.wait_published(200);
                }
                _ => wait_decided(&gateway, &wanted),
            }
            sleep(self.rng.millis(0..300));
            if self.rng.one_in(3) {
                gateway.kill();
            } else {
                gateway.lose_power(&disk);
                disk.restore();
            }
            gateway.revive();
            gateway.daemon.wait_ready();

            let found = Versions::of(&gateway);
            let taken = found.active == wanted;
            assert!(
                taken || found.active == before,
                "{before} → {wanted}: {found:?}"
            );
            if taken {
                assert_eq!(found.last_good, Some(before), "{found:?}");
            }
            let other = found.candidate.iter().find(|tried| **tried != wanted);
            assert_eq!(other, None, "{found:?}");
            wait_decided(&gateway, &wanted);
        }
        if let Some(good) = Versions::of(&gateway).last_good {
            let done = tidegate()
                .args(["module", "rollback", "range", "--config"])
                .arg(gateway.site.path("tidegate.toml"))
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
            assert_eq!(Versions::of(&gateway).active, good);
        }
        self.judge(gateway)
    }
}

/// The versions of the filter in pipeline `raw`.
#[derive(Debug)]
struct Versions {
    active: String,
    candidate: Option<String>,
    last_good: Option<String>,
    /// The configured version is not tried any more.
    refused: bool,
}

impl Versions {
    fn of(gateway: &Gateway<'_>) -> Self {
        let modules = gateway.daemon.json("/api/v1/modules");
        let slots: Vec<&Value> = modules["slots"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|slot| slot["pipeline"] == "raw")
            .collect();
        assert_eq!(slots.len(), 1, "{modules}");
        let version = |of: &str| slots[0][of]["version"].as_str().map(str::to_owned);
        let mut rollouts = modules["rollouts"].as_array().unwrap().iter();
        let raw = rollouts.find(|rollout| rollout["pipeline"] == "raw");
        Self {
            active: version("active").unwrap(),
            candidate: version("candidate"),
            last_good: version("last_good"),
            refused: !raw.unwrap()["rollout"]["refused"].is_null(),
        }
    }

    fn is_decided(&self, wanted: &str) -> bool {
        self.candidate.is_none() && (self.active == wanted || self.refused)
    }
}

fn wait_begun(gateway: &Gateway<'_>, wanted: &str) {
    wait_for("the trial", || {
        let found = Versions::of(gateway);
        (found.candidate.as_deref() == Some(wanted) || found.is_decided(wanted)).then_some(())
    });
}

fn wait_decided(gateway: &Gateway<'_>, wanted: &str) {
    wait_for("the verdict", || {
        Versions::of(gateway).is_decided(wanted).then_some(())
    });
}

fn version(number: u64) -> String {
    format!("1.0.{number}")
}

/// Puts a version down that does what every other one does, and whose bytes are its own.
fn install(modules: &Path, number: u64) {
    let from = components().join("range.wasm");
    let mut component = fs::read(&from).unwrap();
    // A custom section of the name `v` (WebAssembly component model, binary format).
    let number_text = number.to_string();
    let size = u8::try_from(2 + number_text.len()).unwrap();
    component.extend([0, size, 1, b'v']);
    component.extend(number_text.bytes());
    let manifest = fs::read_to_string(from.with_extension("json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["version"] = version(number).into();
    manifest.as_object_mut().unwrap().remove("digest");
    // A daemon that starts meanwhile finds the one or the other.
    let put = |name: &str, bytes: &[u8]| {
        let fresh = modules.join("fresh");
        fs::write(&fresh, bytes).unwrap();
        fs::rename(&fresh, modules.join(name)).unwrap();
    };
    put("range.wasm", &component);
    put("range.json", manifest.to_string().as_bytes());
}
