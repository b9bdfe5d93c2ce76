//! The real binary, looking at a real server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::kills;
use crate::repositories;
use crate::server::{Manner, Server};
use crate::support::{Daemon, Site, tidegate, wait_for};

/// What has to come of `then`.
#[derive(Clone, Copy)]
enum Expect {
    /// It is taken.
    Epoch(u64),
    /// It is refused: a state, the file, and words of the reason.
    Refused(&'static str, &'static str, &'static str),
}
use Expect::{Epoch, Refused};

const CASES: &[(&str, Manner, &str, Expect)] = &[
    ("next-publication", Manner::Honest, "", Epoch(4)),
    ("next-publication-with-hashes", Manner::Honest, "", Epoch(4)),
    ("root-rotation", Manner::Honest, "", Epoch(4)),
    ("fast-forward-recovery", Manner::Honest, "", Epoch(4)),
    (
        "rollback-timestamp",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "rollback"),
    ),
    (
        "rollback-of-everything",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "rollback"),
    ),
    (
        "rollback-snapshot",
        Manner::Honest,
        "",
        Refused("refused", "snapshot.json", "rollback"),
    ),
    (
        "rollback-targets",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "rollback"),
    ),
    (
        "rollback-under-a-raised-threshold",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "rollback"),
    ),
    (
        "expired-root",
        Manner::Honest,
        "",
        Refused("expired", "root.json", "expired on"),
    ),
    (
        "expired-timestamp",
        Manner::Honest,
        "",
        Refused("expired", "timestamp.json", "expired on"),
    ),
    (
        "expired-snapshot",
        Manner::Honest,
        "",
        Refused("expired", "snapshot.json", "expired on"),
    ),
    (
        "expired-targets",
        Manner::Honest,
        "",
        Refused("expired", "targets.json", "expired on"),
    ),
    (
        "mix-and-match-snapshot",
        Manner::Honest,
        "",
        Refused("refused", "snapshot.json", "mixed"),
    ),
    (
        "mix-and-match-targets",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "mixed"),
    ),
    (
        "mix-and-match-by-digest",
        Manner::Honest,
        "",
        Refused("refused", "4.snapshot.json", "digest"),
    ),
    (
        "unsigned-timestamp",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "not signed"),
    ),
    (
        "unsigned-snapshot",
        Manner::Honest,
        "",
        Refused("refused", "snapshot.json", "not signed"),
    ),
    (
        "unsigned-targets",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "not signed"),
    ),
    (
        "strange-key-timestamp",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "threshold"),
    ),
    (
        "strange-key-snapshot",
        Manner::Honest,
        "",
        Refused("refused", "snapshot.json", "threshold"),
    ),
    (
        "strange-key-targets",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "threshold"),
    ),
    (
        "key-of-another-role",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "threshold"),
    ),
    (
        "root-below-threshold",
        Manner::Honest,
        "",
        Refused("refused", "root.json", "threshold of 2"),
    ),
    (
        "root-signed-twice-by-one-key",
        Manner::Honest,
        "",
        Refused("refused", "root.json", "Duplicate key ID"),
    ),
    (
        "root-rotation-without-the-old-keys",
        Manner::Honest,
        "",
        Refused("refused", "root.json", "threshold of 2"),
    ),
    (
        "root-skips-a-version",
        Manner::Honest,
        "",
        Refused("refused", "root.json", "version"),
    ),
    (
        "oversize-timestamp",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "larger than 16384 bytes"),
    ),
    (
        "oversize-root",
        Manner::Honest,
        "",
        Refused("refused", "2.root.json", "larger than 524288 bytes"),
    ),
    (
        "oversize-targets",
        Manner::Honest,
        "",
        Refused("refused", "4.targets.json", "larger than 4194304 bytes"),
    ),
    (
        "metadata-of-another-length",
        Manner::Honest,
        "",
        Refused("refused", "4.snapshot.json", "length"),
    ),
    (
        "target-too-short",
        Manner::Honest,
        "",
        Refused("refused", "range/1.3.0.wasm", "ended after"),
    ),
    (
        "target-too-long",
        Manner::Honest,
        "",
        Refused("refused", "range/1.3.0.wasm", "larger than"),
    ),
    (
        "target-changed",
        Manner::Honest,
        "",
        Refused("refused", "range/1.3.0.wasm", "its digest is"),
    ),
    (
        "target-missing",
        Manner::Honest,
        "",
        Refused("unreachable", "1.3.0.wasm", "no such file"),
    ),
    (
        "endless-target",
        Manner::Endless,
        ".1.3.0.wasm",
        Refused("refused", "1.3.0.wasm", "larger than"),
    ),
    (
        "slow-target",
        Manner::Dripping,
        ".1.3.0.wasm",
        Refused("unreachable", "1.3.0.wasm", "slower than"),
    ),
    (
        "endless-timestamp",
        Manner::Endless,
        "timestamp.json",
        Refused("refused", "timestamp.json", "larger than"),
    ),
    (
        "slow-timestamp",
        Manner::Dripping,
        "timestamp.json",
        Refused("unreachable", "timestamp.json", "slower than"),
    ),
    (
        "silent-timestamp",
        Manner::Silent,
        "timestamp.json",
        Refused("unreachable", "timestamp.json", "nothing came for 2 s"),
    ),
    (
        "endless-headers",
        Manner::EndlessHeaders,
        "timestamp.json",
        Refused("unreachable", "timestamp.json", "connection broke"),
    ),
    (
        "path-traversal",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "../"),
    ),
    (
        "path-traversal-inside",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", ".."),
    ),
    (
        "absolute-path",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "/etc/passwd"),
    ),
    (
        "url-in-a-name",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "plain names"),
    ),
    (
        "backslash-in-a-name",
        Manner::Honest,
        "",
        Refused("refused", "targets.json", "plain names"),
    ),
    (
        "duplicate-key-in-signed",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "duplicate key `version`"),
    ),
    (
        "duplicate-key-outside",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "duplicate key `signatures`"),
    ),
    (
        "not-json",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "no metadata"),
    ),
    (
        "deep-json",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "recursion"),
    ),
    (
        "empty-timestamp",
        Manner::Honest,
        "",
        Refused("refused", "timestamp.json", "no metadata"),
    ),
    (
        "no-timestamp",
        Manner::Honest,
        "",
        Refused("unreachable", "timestamp.json", "no such file"),
    ),
    (
        "channel-epoch-back",
        Manner::Honest,
        "",
        Refused(
            "refused",
            "channels/stable.json",
            "rollback: its epoch is 2",
        ),
    ),
    (
        "channel-epoch-again",
        Manner::Honest,
        "",
        Refused("refused", "channels/stable.json", "another content"),
    ),
    (
        "channel-names-another-digest",
        Manner::Honest,
        "",
        Refused("refused", "channels/stable.json", "sha256:0000"),
    ),
    (
        "channel-names-nothing-there",
        Manner::Honest,
        "",
        Refused(
            "refused",
            "channels/stable.json",
            "there is no modules/range/9.9.9.wasm",
        ),
    ),
    (
        "channel-gone",
        Manner::Honest,
        "",
        Refused("refused", "channels/stable.json", "no such channel"),
    ),
    (
        "channel-with-a-duplicate-key",
        Manner::Honest,
        "",
        Refused("refused", "channels/stable.json", "duplicate key `epoch`"),
    ),
    (
        "module-that-is-none",
        Manner::Honest,
        "",
        Refused("refused", "modules/range/1.3.0.wasm", "no module"),
    ),
    (
        "release-of-another-module",
        Manner::Honest,
        "",
        Refused("refused", "modules/range/1.3.0.json", "other"),
    ),
    (
        "release-with-another-length",
        Manner::Honest,
        "",
        Refused("refused", "modules/range/1.3.0.json", "bytes"),
    ),
    (
        "release-for-a-later-daemon",
        Manner::Honest,
        "",
        Refused("refused", "modules/range/1.3.0.wasm", "99.0.0"),
    ),
    (
        "release-without-a-manifest",
        Manner::Honest,
        "",
        Refused("refused", "modules/range/1.3.0.json", "manifest"),
    ),
];

/// A gateway that follows a repository, and nothing else.
struct Gateway {
    config: PathBuf,
    site: Site,
    server: Server,
    daemon: Daemon,
}

impl Gateway {
    fn start(case: &Path, env: &[(&str, &str)]) -> Self {
        Self::start_at(Site::new(), case, env)
    }

    fn start_at(site: Site, case: &Path, env: &[(&str, &str)]) -> Self {
        let server = Server::start(&case.join("good"));
        let config = site.write(
            "tidegate.toml",
            &format!(
                "[gateway]\nid = \"gw-test\"\nstate-dir = \"{}\"\n[deploy]\nrepository = \"{}\"\nroot = \"{}\"\n\
                 poll = \"7d\"\ntimeout = \"2s\"\n",
                site.path("state").display(),
                server.url(),
                case.join("root.json").display(),
            ),
        );
        let daemon = Daemon::spawn(&config, env);
        daemon.wait_ready();
        Self {
            config,
            site,
            server,
            daemon,
        }
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

    /// `tidegate module update --json`: what it answered, or the words of its error.
    fn update(&self) -> Result<Value, String> {
        let output = self.module(&["update", "--json"]);
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// As the gateway shows it.
    fn deploy(&self) -> Value {
        self.daemon.json("/api/v1/status")["deploy"].clone()
    }

    fn kept(&self, name: &str) -> Vec<u8> {
        fs::read(self.site.path("state/deploy").join(name)).unwrap()
    }
}

#[track_caller]
fn check((name, manner, file, expect): &(&str, Manner, &'static str, Expect)) {
    let case = repositories::case(name);
    let gateway = Gateway::start(&case, &[]);
    let first = gateway
        .update()
        .unwrap_or_else(|error| panic!("{name}, good: {error}"));
    let (before, before_trust) = (gateway.kept("channel.json"), gateway.kept("trust.json"));
    gateway.server.serve_now(&case.join("then"), *manner, file);
    let looked = gateway.update();
    let shown = gateway.deploy();
    match expect {
        Epoch(epoch) => {
            let answer = looked.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answer["epoch"], *epoch, "{name}: {answer}");
            assert_eq!(answer["modules"][0]["version"], "1.3.0", "{name}: {answer}");
            assert_eq!(shown["state"], "current", "{name}: {shown}");
            assert_eq!(shown["epoch"], *epoch, "{name}: {shown}");
            let items = gateway.daemon.json("/api/v1/modules")["items"].clone();
            assert_eq!(items[0]["state"], "candidate", "{name}: {items}");
            assert_eq!(items[0]["origin"], "channel", "{name}: {items}");
        }
        Refused(state, file, words) => {
            let error = looked.expect_err(name);
            assert!(
                error.contains(file) && error.contains(words),
                "{name}: {error}"
            );
            assert_eq!(shown["state"], *state, "{name}: {shown}");
            let (of, reason) = (
                shown["error"]["file"].as_str(),
                shown["error"]["reason"].as_str(),
            );
            assert!(of.unwrap().contains(file), "{name}: {shown}");
            assert!(reason.unwrap().contains(words), "{name}: {shown}");
            assert!(
                !shown["error"]["help"].as_str().unwrap().is_empty(),
                "{name}: {shown}"
            );
            // The good state stays, on the disk and in what is said.
            assert_eq!(shown["epoch"], first["epoch"], "{name}: {shown}");
            assert_eq!(
                shown["modules"][0]["version"], first["modules"][0]["version"],
                "{name}"
            );
            assert_eq!(gateway.kept("channel.json"), before, "{name}");
            let digest = shown["modules"][0]["digest"].as_str().unwrap();
            gateway.kept(&format!(
                "files/{}",
                digest.strip_prefix("sha256:").unwrap()
            ));
            if of.unwrap().starts_with("modules/") {
                let items = gateway.daemon.json("/api/v1/modules")["items"].clone();
                let refused = items
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|item| item["state"] == "refused");
                assert_eq!(refused.expect(name)["version"], "1.3.0", "{name}: {items}");
            }
            // What was good before is taken again, where no newer metadata was verified meanwhile.
            if before_trust == gateway.kept("trust.json") {
                gateway
                    .server
                    .serve_now(&case.join("good"), Manner::Honest, "");
                let again = gateway
                    .update()
                    .unwrap_or_else(|error| panic!("{name}, good again: {error}"));
                assert_eq!(again["news"], false, "{name}: {again}");
            }
        }
    }
}

#[test]
fn hostile_repositories_are_refused_with_the_reason_and_legal_ones_are_taken() {
    repositories::made();
    let next = Mutex::new(CASES.iter());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().unwrap().next();
                    let Some(case) = case else { return };
                    check(case);
                }
            });
        }
    });
    // Every case that is made is looked at.
    let mut made: Vec<String> = fs::read_dir(repositories::made())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    made.retain(|name| name != "broken-lines" && !CASES.iter().any(|(case, ..)| case == name));
    assert_eq!(made, Vec::<String>::new());
}

#[test]
fn without_our_floors_a_rollback_that_tough_does_not_see_is_taken() {
    let case = repositories::case("rollback-under-a-raised-threshold");
    let gateway = Gateway::start(&case, &[("TIDEGATE_TEST_FAULTS", "deploy-floors")]);
    gateway.update().unwrap();
    gateway
        .server
        .serve_now(&case.join("then"), Manner::Honest, "");
    let taken = gateway.update().expect("the fault is at work");
    assert_eq!(taken["publication"], 2, "{taken}");
}

#[test]
fn an_idle_look_costs_two_kilobytes_at_most_and_a_broken_line_goes_on_where_it_was() {
    let case = repositories::case("broken-lines");
    let gateway = Gateway::start(&case, &[]);
    gateway.update().unwrap();
    gateway.server.take_bytes();
    gateway.server.take_requests();
    let idle = gateway.update().unwrap();
    assert_eq!(idle["news"], false);
    let (bytes, requests) = (gateway.server.take_bytes(), gateway.server.take_requests());
    println!("an idle look: {bytes} bytes, {requests:?}");
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(bytes <= 2048, "{bytes}");

    // 21 kB in pieces of 4: each look fetches its piece and none twice.
    gateway
        .server
        .serve_now(&case.join("then"), Manner::BreakingOff(4000), ".1.3.0.wasm");
    let mut looks = 0;
    let taken = loop {
        looks += 1;
        match gateway.update() {
            Ok(taken) => break taken,
            Err(error) => assert!(error.contains("connection broke"), "{error}"),
        }
        assert!(looks < 20, "it does not get on");
    };
    assert_eq!((taken["epoch"].as_u64(), looks), (Some(4), 6));
    assert!(taken["bytes"].as_u64().unwrap() < 4000, "{taken}");
}

#[test]
fn a_stick_is_believed_no_more_than_the_network() {
    let case = repositories::case("next-publication");
    let gateway = Gateway::start(&case, &[]);
    let import = |dir: &Path| gateway.module(&["import", dir.to_str().unwrap()]);
    // The network is off.
    gateway
        .server
        .serve_now(Path::new("/nonexistent"), Manner::Honest, "");
    let output = import(&case.join("then"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("epoch 4, which is new") && text.contains("range"),
        "{text}"
    );
    let output = import(&case.join("copy1"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("rollback"),
        "{error}"
    );
    let output = import(&case.join("then/metadata"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("rollback") || error.contains("no such file"),
        "{error}"
    );
    assert_eq!(gateway.deploy()["epoch"], 4);
    let page = gateway.daemon.get("/").unwrap().1;
    assert!(page.contains("Modules over the air"), "{page}");
    let metrics = gateway.daemon.get("/metrics").unwrap().1;
    assert!(
        metrics.contains("tidegate_deploy_epoch{channel=\"stable\"} 4"),
        "{metrics}"
    );
}

/// What the disk does to modules over the air is no reason to take in no data.
#[test]
fn a_folder_that_cannot_be_made_is_told_and_keeps_no_gateway_from_running() {
    let case = repositories::case("next-publication");
    let site = Site::new();
    let folder = site.path("state/deploy");
    fs::create_dir_all(site.path("state")).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let gateway = Gateway::start_at(site, &case, &[]);
    let error = gateway.update().unwrap_err();
    assert!(error.contains("the folder cannot be used"), "{error}");
    assert_eq!(gateway.deploy()["state"], "refused");
    fs::remove_file(&folder).unwrap();
    assert_eq!(gateway.update().unwrap()["news"], true);
}

#[test]
fn a_killed_gateway_goes_on_from_any_sync_of_a_look() {
    let case = repositories::case("next-publication");
    let mut gateway = Gateway::start(&case, &[]);
    gateway.update().unwrap();
    gateway
        .server
        .serve_now(&case.join("then"), Manner::Honest, "");
    let mut kills = 0;
    for sync in 1..=12 {
        let tracer = kills::at_sync(&mut gateway.daemon, sync);
        let looked = gateway.update();
        // It may be killed by what comes after the look, too.
        let whole = looked.is_ok()
            && wait_for("a kill or the end", || {
                if gateway.daemon.exited().is_some() {
                    return Some(false);
                }
                let status = gateway.daemon.get("/api/v1/status")?;
                let status: Value = serde_json::from_str(&status.1).unwrap();
                let install = &status["deploy"]["install"];
                (install["in_force"] == 4 && install["state"] == "settled").then_some(true)
            });
        drop(tracer);
        if whole {
            break;
        }
        kills += 1;
        gateway.daemon.wait_exit();
        gateway.daemon = Daemon::spawn(&gateway.config, &[]);
        gateway.daemon.wait_ready();
    }
    println!("killed {kills} times");
    assert!(kills >= 3, "{kills}");
    assert_eq!(gateway.update().unwrap()["epoch"], 4);
}
