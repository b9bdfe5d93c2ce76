//! An epoch that cannot be tried by the device's fault is tried again, and is not refused; one that never gets through is, in the
//! end. And a gateway that does not know what time it is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::gateways::{Gateway, Publisher, Variant, plain, said};
use crate::support::{Daemon, Site, tidegate, wait_for};

/// A small disk of its own, in memory. Needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=4m,mode=0700", "small"];
        let mounted = Command::new("mount").args(options).arg(&at).status();
        assert!(mounted.unwrap().success(), "tests of disks need root");
        Self(at)
    }

    /// Not a byte more fits, and not a file more.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may have a file open there until it ends.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

/// Waits until so many tries have failed, and says why the last one did.
fn waits(gateway: &Gateway, tries: u64) -> String {
    wait_for(&format!("try {tries} to fail"), || {
        let install = gateway.install();
        let waiting = &install["waiting"];
        let failed = waiting["failed_tries"].as_u64()? >= tries && install["state"] == "waiting";
        failed.then(|| waiting["reason"].as_str().unwrap().to_owned())
    })
}

/// A gateway on which epoch 1 is here and held, with a small disk in its state directory.
fn held(dir: &str) -> (Gateway, SmallDisk) {
    let publisher = plain();
    let site = Site::new();
    let disk = SmallDisk::mount(site.path("state").join(dir));
    let gateway = Gateway::with(site, publisher, &publisher.folder(), "hold = true");
    gateway.look(&["update"]);
    wait_for("a hold", || {
        (gateway.install()["state"] == "waiting").then_some(())
    });
    (gateway, disk)
}

#[test]
fn a_disk_too_full_for_what_was_compiled_delays_an_epoch_and_refuses_none() {
    let (mut gateway, disk) = held("cache");
    disk.fill();
    gateway.reconfigure("hold = true", "hold = false");
    let why = waits(&gateway, 1);
    assert!(
        why.contains("cannot be kept so") && why.contains("No space left"),
        "{why}"
    );
    assert_eq!(gateway.install()["refused"], Value::Null);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    // Whoever asks for a look does not wait for the next try.
    gateway.look(&["update"]);
    waits(&gateway, 2);
    let page = gateway.daemon.get("/").unwrap().1;
    assert!(
        page.contains("waits after a failure of this device"),
        "{page}"
    );
    let listens = format!("\"127.0.0.1:{}\"", gateway.daemon.http);
    let shown = tidegate()
        .arg("status")
        .arg("--config")
        .arg(&gateway.config)
        .env("TIDEGATE__STATUS__LISTEN", listens)
        .output();
    let shown = said(&shown.unwrap());
    assert!(shown.contains("No space left"), "{shown}");
    // A restart neither forgets the tries nor tells of them again.
    gateway.restart();
    waits(&gateway, 2);
    gateway.look(&["update"]);
    waits(&gateway, 3);
    gateway.send(20);
    wait_for("the event", || {
        (gateway.events("epoch-delayed").len() == 1).then_some(())
    });
    disk.clear();
    gateway.look(&["update"]);
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.check_whole();
    assert_eq!(
        gateway.audited(),
        ["epoch.delayed", "epoch.begun", "epoch.settled"]
    );
}

#[test]
fn a_disk_too_full_for_the_installation_itself_delays_an_epoch() {
    let (mut gateway, disk) = held("deploy");
    disk.fill();
    gateway.reconfigure("hold = true", "hold = false");
    let why = waits(&gateway, 1);
    assert!(why.contains("No space left"), "{why}");
    // The look has no room either, and the try comes at once all the same.
    let _no_room = gateway.module(&["update"]);
    waits(&gateway, 2);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    gateway.send(20);
    disk.clear();
    gateway.look(&["update"]);
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.check_whole();
    assert_eq!(
        gateway.audited(),
        ["epoch.delayed", "epoch.begun", "epoch.settled"]
    );
}

#[test]
fn a_module_that_compiles_for_ever_is_refused_after_a_bounded_number_of_tries() {
    let publisher = Publisher::new();
    let endless = Variant {
        fault: Some("hang-here"),
        ..Variant::of("varies", "1.0.0")
    };
    publisher.add_from(endless, |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let more = "[policy]\ncompile-time = \"1s\"\n";
    let mut gateway = Gateway::new(&publisher, &publisher.folder(), more);
    for tries in 1..8 {
        gateway.look(&["update"]);
        let why = waits(&gateway, tries);
        assert!(why.contains("took longer than 1 s"), "{why}");
        if tries == 4 {
            gateway.restart();
            waits(&gateway, 4);
        }
        gateway.send(20);
    }
    gateway.look(&["update"]);
    let why = gateway.refuses(1, "loading");
    assert!(
        why.contains("took longer than 1 s") && why.contains("it was tried 8 times"),
        "{why}"
    );
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    gateway.check_whole();
    assert_eq!(gateway.audited(), ["epoch.delayed", "epoch.refused"]);
    // The next one is another matter.
    publisher.add("1.0.1", |_| ());
    publisher.publish("1.0.1", json!({}), &[]);
    gateway.look(&["update"]);
    gateway.settle(2);
}

/// Debian's libfaketime for programs with threads.
fn faketime() -> String {
    let places = ["x86_64", "aarch64", "riscv64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let found = places.into_iter().find(|path| Path::new(path).exists());
    found.expect("faketime is installed by `make tools`")
}

#[test]
fn a_gateway_in_1970_takes_an_epoch_and_opens_no_window() {
    let publisher = plain();
    let site = Site::new();
    Variant::of("varies", "0.1.0").write(&site.path("modules"), |_| ());
    let window = "install-window = \"00:00-23:59\"";
    let (config, broker) = Gateway::configure(&site, publisher, &publisher.folder(), window);
    let library = faketime();
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", "-1795000000"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let daemon = Daemon::spawn(&config, &environment);
    daemon.wait_ready();
    let mut gateway = Gateway::of(site, config, broker, daemon);
    gateway.look(&["update"]);
    let status = gateway.daemon.json("/api/v1/status");
    assert!(
        status["time"].as_i64().unwrap() < 365 * 86_400_000,
        "{status}"
    );
    // Metadata of another half century has neither begun nor expired by such a clock.
    assert_eq!(status["deploy"]["state"], "current", "{status}");
    let why = wait_for("a closed window", || {
        let install = gateway.install();
        let reason = install["waiting"]["reason"].as_str()?.to_owned();
        (install["state"] == "waiting").then_some(reason)
    });
    assert!(why.contains("the clock is not set"), "{why}");
    assert_eq!(gateway.install()["waiting"]["until"], Value::Null);
    assert!(
        gateway
            .daemon
            .get("/")
            .unwrap()
            .1
            .contains("the clock is not set, and nobody knows")
    );
    gateway.reconfigure(window, "");
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    assert_eq!(gateway.audited(), ["epoch.begun", "epoch.settled"]);
    gateway.check_whole();
}
