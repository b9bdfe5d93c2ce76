//! The audit log of the real binary: what an operator, the cloud and the gateway itself did is found in the evidence, and
//! whoever changes it afterwards is found as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::{Broker, Collector, Daemon, Site, can, configuration, numbered, tidegate, wait_for};

const PIPELINE: &str = "
[pipeline.count]
from = [\"plant\"]
filters = [{ module = \"range\", settings = { min = 0, max = 100000 }, on-failure = \"quarantine\" }]
to = [{ uplink = \"cloud\", send = \"readings\" }]
";

fn command(config: &Path, arguments: &[&str]) -> Output {
    tidegate()
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

/// What a command prints, and its exit code.
fn audit(config: &Path, arguments: &[&str]) -> (i32, String) {
    let output = command(config, &[&["audit"], arguments].concat());
    let text = match output.stdout.is_empty() {
        true => output.stderr,
        false => output.stdout,
    };
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

fn verdict(config: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, text) = audit(config, &[&["verify", "--json"], arguments].concat());
    (
        code,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")),
    )
}

fn entries(config: &Path) -> Vec<Value> {
    // The directory alone is enough: an auditor needs no configuration that holds.
    let state = config.with_file_name("state");
    let state = state.to_str().unwrap();
    let (code, text) = audit(
        config,
        &["show", "--json", "--limit", "10000", "--state-dir", state],
    );
    assert_eq!(code, 0, "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Entries of an action, oldest first.
fn of(entries: &[Value], action: &str) -> Vec<Value> {
    let of = entries.iter().filter(|entry| entry["action"] == action);
    of.cloned().collect()
}

/// The one act that was asked for, and what came of it.
#[track_caller]
fn asked(entries: &[Value], action: &str, outcome: &str) -> Value {
    let found = of(entries, action);
    let [asked, came] = found.as_slice() else {
        panic!("{action}: {found:#?}");
    };
    assert_eq!(asked["outcome"], "asked");
    assert_eq!(
        (&came["outcome"], &came["of"]),
        (&json!(outcome), &asked["number"])
    );
    assert_eq!(asked["actor"], came["actor"]);
    asked.clone()
}

fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid()
}

fn reload(daemon: &Daemon, config: &Path, action: &str) {
    let before = of(&entries(config), action).len();
    daemon.signal("HUP");
    wait_for("the reload's entry", || {
        (of(&entries(config), action).len() > before).then_some(())
    });
}

/// A request to the control socket, as anybody with the right permissions can make it.
fn control(site: &Site, request: &str) -> String {
    let mut stream = UnixStream::connect(site.path("state/control.sock")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_was_done_to_a_gateway_is_found_in_the_evidence() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let rest = format!(
        "commands = [\"report\"]\n{PIPELINE}[modules]\nallow-unsigned = true\ndir = \"{}\"\n\
         [rollout]\nmode = \"immediate\"\n",
        site.path("modules").display()
    );
    let config = configuration(&site, &broker, &rest);
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..5).map(numbered));
    broker.publish("plant/line1", ["{\"ts\":1766000040000,\"n\":-7}"]);
    daemon.wait_received("plant", 6);

    // By an operator.
    let done = |arguments: &[&str], code: i32| {
        let output = command(&config, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    };
    wait_for("the row in quarantine", || {
        let (_, text) = daemon.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&text).ok()?;
        (status["quarantine_total"] == 1).then_some(())
    });
    done(&["quarantine", "drop", "--all"], 0);
    done(&["module", "rollback", "range"], 1);
    done(&["alarm", "acknowledge", "**", "--by", "maria"], 1);
    // By the cloud.
    let order = |order: Value| {
        let id = order["id"].as_str().unwrap().to_owned();
        broker.publish("tidegate/gw-test/command", [order.to_string()]);
        wait_for("the reply", || {
            let replies = collector.items("reply");
            replies.into_iter().find(|reply| reply["id"] == *id)
        });
    };
    order(json!({ "id": "r-1", "command": "report" }));
    order(json!({ "id": "r-2", "command": "rollback", "module": "range" }));
    // Requests that are none.
    let (code, _) = post(&daemon, "/api/v1/status");
    assert_eq!(code, 405);
    let answer = control(&site, "DELETE /api/v1/status HTTP/1.0\r\n\r\n");
    assert!(answer.contains(" 405 "), "{answer}");
    // A module that nobody signed takes the place of the built-in one.
    install(&site, "range", "9.0.0");
    reload(&daemon, &config, "config.in-force");
    // And a configuration that is none.
    let sound = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{sound}\n[nonsense]\n")).unwrap();
    reload(&daemon, &config, "config.refused");
    fs::write(&config, &sound).unwrap();
    let told = wait_for("the retained status", || {
        let output = std::process::Command::new("mosquitto_sub")
            .args([
                "-p",
                &broker.port.to_string(),
                "-t",
                "tidegate/gw-test/status",
                "-C",
                "1",
            ])
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let told = status["audit"].clone();
        (told["number"].as_u64()? > 10).then_some(told)
    });
    let shown = daemon.json("/api/v1/audit?limit=3");
    assert_eq!(shown["items"].as_array().unwrap().len(), 3);
    assert_eq!(shown["next"], shown["items"][2]["number"]);
    assert_eq!(daemon.stop(), 0);

    // As an auditor: from the export alone.
    let evidence = site.path("evidence.jsonl");
    let (code, text) = audit(&config, &["export", evidence.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = audit(&config, &["verify", evidence.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let lines = fs::read_to_string(&evidence).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [about, entries @ .., head] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(
        (&about["gateway"], &head["gateway"]),
        (&json!("gw-test"), &json!("gw-test"))
    );
    assert_eq!(head["number"], entries.last().unwrap()["number"]);

    // The cloud was told on the way how far the log went, and can say so later.
    let number = usize::try_from(told["number"].as_u64().unwrap()).unwrap();
    let text = fs::read_to_string(&evidence).unwrap();
    let line = text.lines().nth(number).unwrap();
    assert_eq!(
        sha256(line.as_bytes()),
        format!("sha256:{}", told["hash"].as_str().unwrap())
    );

    assert_eq!(of(entries, "audit.begun").len(), 1);
    assert_eq!(of(entries, "identity.made").len(), 1);
    assert_eq!(
        of(entries, "daemon.started")[0]["object"]["version"],
        env!("CARGO_PKG_VERSION")
    );
    let stopped = entries.last().unwrap();
    assert_eq!(
        (&stopped["action"], &stopped["outcome"]),
        (&json!("daemon.stopped"), &json!("done"))
    );
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(
        entries
            .iter()
            .all(|entry| entry["boot"] == boot.trim() && entry["synced"] == true)
    );

    let drop = asked(entries, "quarantine.drop", "done");
    assert_eq!(drop["actor"]["kind"], "operator");
    assert_eq!(drop["actor"]["uid"], uid());
    let back = asked(entries, "module.roll-back", "refused");
    assert_eq!(back["object"]["module"], "range");
    let by = asked(entries, "alarm.acknowledge", "refused");
    assert_eq!(by["object"]["by"], "maria");

    let commands = of(entries, "command");
    let told: Vec<_> = commands
        .iter()
        .map(|entry| {
            (
                &entry["actor"]["uplink"],
                &entry["actor"]["id"],
                &entry["outcome"],
            )
        })
        .collect();
    let cloud = json!("cloud");
    let (one, two) = (json!("r-1"), json!("r-2"));
    let (done, refused) = (json!("done"), json!("refused"));
    assert_eq!(told, [(&cloud, &one, &done), (&cloud, &two, &refused)]);

    let requests = of(entries, "request.refused");
    assert_eq!(requests.len(), 2, "{requests:#?}");
    assert_eq!(
        requests[0]["actor"],
        json!({ "kind": "page", "address": "127.0.0.1" })
    );
    assert_eq!(requests[1]["actor"]["kind"], "operator");
    assert_eq!(
        requests[1]["object"],
        json!({ "method": "DELETE", "path": "/api/v1/status", "status": 405 })
    );

    // The generations, in order: the first, and the one of the unsigned module with what it is granted.
    let unsigned = of(entries, "module.unsigned");
    assert_eq!(unsigned[0]["object"]["version"], "9.0.0");
    let generations = of(entries, "generation.active");
    assert_eq!(generations.len(), 2, "{generations:#?}");
    let module = |at: usize| &generations[at]["object"]["modules"][0];
    assert_eq!(
        (&module(0)["module"], &module(1)["version"]),
        (&json!("range"), &json!("9.0.0"))
    );
    assert_eq!(module(1)["digest"], unsigned[0]["object"]["digest"]);
    assert_ne!(module(0)["digest"], module(1)["digest"]);
    let configurations = of(entries, "config.in-force");
    assert_eq!(configurations.len(), 2);
    assert_eq!(
        configurations[0]["object"]["digest"],
        configurations[1]["object"]["digest"]
    );
    assert_eq!(configurations[0]["object"]["allow-unsigned"], true);
    let refused = of(entries, "config.refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
}

/// Puts a component that only answers down under a name and a version.
fn install(site: &Site, name: &str, version: &str) {
    let from = support::components().join(name);
    let text = fs::read_to_string(from.with_extension("json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    manifest["version"] = version.into();
    // Another component: the same module with a custom section behind it, `x` and one byte.
    let mut component = fs::read(from.with_extension("wasm")).unwrap();
    component.extend([0, 3, 1, b'x', 7]);
    let digest = sha256(&component);
    if manifest.get("digest").is_some() {
        manifest["digest"] = digest.into();
    }
    let to = site.path("modules").join(name);
    fs::create_dir_all(site.path("modules")).unwrap();
    fs::write(to.with_extension("wasm"), component).unwrap();
    fs::write(to.with_extension("json"), manifest.to_string()).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new("sha256sum")
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", text.split(' ').next().unwrap())
}

fn post(daemon: &Daemon, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", daemon.http)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

/// A gateway that started and stopped so often.
fn lived(site: &Site, broker: &Broker, lives: usize) -> PathBuf {
    let config = configuration(site, broker, PIPELINE);
    for _ in 0..lives {
        let mut daemon = Daemon::start(&config);
        assert_eq!(daemon.stop(), 0);
    }
    config
}

fn segment(site: &Site) -> PathBuf {
    site.path("state/audit/00000000000000000001.log")
}

#[test]
fn who_changes_the_log_is_found_by_number_also_beside_the_running_gateway() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = lived(&site, &broker, 1);
    let evidence = site.path("earlier.jsonl");
    let (code, text) = audit(&config, &["export", evidence.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let copy = fs::read(segment(&site)).unwrap();
    let copied_head = fs::read(site.path("state/audit/head")).unwrap();

    let daemon = Daemon::start(&config);
    let head = ["--head", evidence.to_str().unwrap()];
    let (code, found) = verdict(&config, &head);
    assert_eq!((code, &found["whole"]), (0, &json!(true)), "{found}");
    let sound = fs::read_to_string(segment(&site)).unwrap();
    let changed = sound.replacen("a signal asked for it", "nobody asked for it..", 1);
    assert_ne!(sound, changed);
    fs::write(segment(&site), changed).unwrap();
    let (code, found) = verdict(&config, &[]);
    let number = of(&serde_lines(&sound), "daemon.stopped")[0]["number"].clone();
    assert_eq!((code, &found["entry"]), (1, &number), "{found}");
    assert!(
        found["why"].as_str().unwrap().contains("signature"),
        "{found}"
    );
    let (code, text) = audit(&config, &["export", site.path("no").to_str().unwrap()]);
    assert_eq!((code, text.contains("does not hold")), (1, true), "{text}");
    assert!(!site.path("no").exists());
    fs::write(segment(&site), &sound).unwrap();
    assert_eq!(verdict(&config, &[]).0, 0);
    drop(daemon);

    // Put back as it was at the export, head included: only what was exported since tells.
    let later = site.path("later.jsonl");
    let (code, text) = audit(&config, &["export", later.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    fs::write(segment(&site), copy).unwrap();
    fs::write(site.path("state/audit/head"), copied_head).unwrap();
    assert_eq!(verdict(&config, &[]).0, 0);
    let (code, found) = verdict(&config, &["--head", later.to_str().unwrap()]);
    assert_eq!(code, 1, "{found}");
    assert!(
        found["why"].as_str().unwrap().contains("cut off"),
        "{found}"
    );
}

fn serde_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_log_that_was_cut_off_is_set_aside_at_the_start_and_the_page_says_so() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = lived(&site, &broker, 1);
    let sound = fs::read_to_string(segment(&site)).unwrap();
    let last = sound.trim_end().rfind('\n').unwrap() + 1;
    fs::write(segment(&site), &sound[..last]).unwrap();
    let mut daemon = Daemon::start(&config);
    let status = daemon.json("/api/v1/status");
    let broken = status["audit"]["broken"].as_str().unwrap();
    assert!(broken.contains("is missing"), "{broken}");
    let (_, page) = daemon.get("/").unwrap();
    assert!(
        page.contains("The audit log did not hold at the start"),
        "{page}"
    );
    assert_eq!(daemon.stop(), 0);
    let (code, found) = verdict(&config, &[]);
    assert_eq!(
        (code, found["found"]["breaks"].as_array().unwrap().len()),
        (3, 1),
        "{found}"
    );
    // Whoever knows of it says so.
    assert_eq!(verdict(&config, &["--allow-anew"]).0, 0);
    let aside = site.path("state/audit.aside-1");
    assert_eq!(
        fs::read(aside.join("00000000000000000001.log")).unwrap(),
        &sound.as_bytes()[..last]
    );
}

#[test]
fn a_gateway_that_is_killed_again_and_again_has_a_log_that_holds() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    let mut last = 0;
    for life in 0..8 {
        let mut daemon = Daemon::spawn(&config, &[]);
        // At another moment each time, the first while nothing runs yet.
        let numbered = wait_for("an entry", || {
            let head = fs::read_to_string(site.path("state/audit/head")).ok()?;
            let head: Value = serde_json::from_str(&head).ok()?;
            head["number"]
                .as_u64()
                .filter(|number| *number >= last + life % 4)
        });
        daemon.kill();
        let (code, found) = verdict(&config, &[]);
        assert_eq!(code, 0, "life {life}: {found}");
        let there = found["found"]["last"].as_u64().unwrap();
        assert!(there >= numbered, "what was signed is there: {found}");
        last = there;
    }
    assert!(!site.path("state/audit.aside-1").exists());
}

/// Without space nothing is done for whoever asks, data goes on, and what happened meanwhile is there afterwards.
#[test]
fn a_log_that_cannot_be_written_is_said_and_catches_up() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, PIPELINE);
    let mut daemon = Daemon::start(&config);
    // In the place of the directory stands a file: whoever the user is, nothing can be written there.
    let (dir, away) = (site.path("state/audit"), site.path("state/away"));
    fs::rename(&dir, &away).unwrap();
    fs::write(&dir, "in the way").unwrap();
    // The first one may still reach the open file; that its head cannot be signed stops the next.
    wait_for("the refusal", || {
        let refused = command(&config, &["alarm", "acknowledge", "**", "--by", "maria"]);
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1));
        errors
            .contains("what cannot be recorded is not done")
            .then_some(())
    });
    broker.publish("plant/line1", (0..50).map(numbered));
    daemon.wait_received("plant", 50);
    let status = daemon.json("/api/v1/status");
    assert!(status["audit"]["error"].is_string(), "{status}");
    assert!(
        status["audit"]["waiting"].as_u64().unwrap() >= 2,
        "{status}"
    );
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(metrics.contains("\ntidegate_audit_writable 0\n"));
    let (code, _) = daemon.get("/readyz").unwrap();
    assert_eq!(code, 200, "data goes on");

    fs::remove_file(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    wait_for("the log to catch up", || {
        let status = daemon.json("/api/v1/status");
        (status["audit"]["error"].is_null() && status["audit"]["waiting"] == 0).then_some(())
    });
    let acknowledged = of(&entries(&config), "alarm.acknowledge");
    let [.., asked, refused] = acknowledged.as_slice() else {
        panic!("{acknowledged:?}");
    };
    assert_eq!(
        (&asked["outcome"], &refused["outcome"]),
        (&json!("asked"), &json!("refused"))
    );
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("cannot be written"),
        "{refused}"
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verdict(&config, &[]).0, 0);
}

/// openssl, which shares no code with ours, takes the key that stands in the evidence for the one that signed the entries.
#[test]
fn openssl_verifies_an_entry_by_the_key_in_the_evidence() {
    if !can("openssl", &["openssl"]) {
        return;
    }
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = lived(&site, &broker, 1);
    let evidence = site.path("evidence.jsonl");
    let (code, text) = audit(&config, &["export", evidence.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let text = fs::read_to_string(&evidence).unwrap();
    let about: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let key = site.write("key.pem", about["key_pem"].as_str().unwrap());
    let mut verified = 0;
    for line in text.lines().skip(1) {
        let purpose = if line.starts_with("{\"head\"") {
            "head"
        } else {
            "entry"
        };
        let (signed, signature) = line.rsplit_once(",\"sig\":\"").unwrap();
        let signature = signature.trim_end_matches("\"}");
        let signature: Vec<u8> = (0..64)
            .map(|at| u8::from_str_radix(&signature[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let message = format!("tidegate audit {purpose} 1\n{signed}");
        let (message, signature) = (site.write("message", &message), {
            let path = site.path("signature");
            fs::write(&path, signature).unwrap();
            path
        });
        let output = std::process::Command::new("openssl")
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
            .arg(&key)
            .arg("-in")
            .arg(&message)
            .arg("-sigfile")
            .arg(&signature)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        verified += 1;
    }
    assert!(verified > 4);
}

/// Whoever hangs up before the answer leaves an answer on record all the same.
#[test]
fn an_act_whose_asker_hung_up_is_answered_in_the_log() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let (repo, keys) = (site.path("repo"), site.path("keys"));
    let made = tidegate()
        .args(["repo", "init"])
        .arg(&repo)
        .arg("--keys")
        .arg(&keys)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    // A server that takes connections and says nothing.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rest = format!(
        "{PIPELINE}[deploy]\nrepository = \"http://{}/\"\nroot = \"{}\"\n",
        server.local_addr().unwrap(),
        repo.join("metadata/1.root.json").display()
    );
    let config = configuration(&site, &broker, &rest);
    let mut daemon = Daemon::start(&config);
    let mut stream = UnixStream::connect(site.path("state/control.sock")).unwrap();
    stream
        .write_all(
            b"POST /api/v1/modules/update HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Content-Length: 2\r\n\r\n{}",
        )
        .unwrap();
    wait_for("the entry", || {
        let updates = of(&entries(&config), "module.update");
        (updates.len() == 1).then_some(())
    });
    drop(stream);
    let came = wait_for("the answer", || {
        of(&entries(&config), "module.update").get(1).cloned()
    });
    assert_eq!(came["outcome"], "failed");
    assert!(
        came["reason"].as_str().unwrap().contains("hung up"),
        "{came}"
    );
    assert_eq!(daemon.stop(), 0);
}
