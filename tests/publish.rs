//! The publisher's side of modules over the air: what the commands write is read by python-tuf, which shares no code with us.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use support::{Daemon, Site, can, components, tidegate};

/// A repository with its keys, and what is done to it.
struct Publisher {
    site: Site,
    /// `SOURCE_DATE_EPOCH`, where time is to stand still.
    at: Option<u64>,
}

impl Publisher {
    fn new() -> Self {
        let publisher = Self {
            site: Site::new(),
            at: None,
        };
        publisher.works("init", &[]);
        publisher
    }

    fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut tidegate = tidegate();
        tidegate
            .args(["repo", command, "repo", "--json"])
            .current_dir(self.site.path(""));
        if command != "show" {
            tidegate.args(["--keys", "keys"]);
        }
        tidegate.args(arguments).env_remove("SOURCE_DATE_EPOCH");
        if let Some(at) = self.at {
            tidegate.env("SOURCE_DATE_EPOCH", at.to_string());
        }
        tidegate
    }

    #[track_caller]
    fn works(&self, command: &str, arguments: &[&str]) -> Value {
        let output = self.command(command, arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{command} {arguments:?}: {}",
            said(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// It fails, says all of these words, and the repository is as it was.
    #[track_caller]
    fn fails(&self, command: &str, arguments: &[&str], words: &[&str]) {
        let before = tree(&self.site.path("repo"));
        let output = self.command(command, arguments).output().unwrap();
        let text = said(&output);
        assert!(!output.status.success(), "{command} {arguments:?} worked");
        for word in words {
            assert!(text.contains(word), "nothing says `{word}` in {text}");
        }
        assert_eq!(
            before,
            tree(&self.site.path("repo")),
            "{command} {arguments:?}"
        );
    }

    /// Puts a factory module's files here, with another version and manifest.
    fn module(&self, name: &str, version: &str, change: impl Fn(&mut Value)) -> String {
        let from = components();
        for file in ["wasm", "vectors.json"] {
            let file = format!("{name}.{file}");
            fs::copy(from.join(&file), self.site.path(&file)).unwrap();
        }
        let manifest = fs::read(from.join(format!("{name}.json"))).unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["version"] = version.into();
        change(&mut manifest);
        self.site
            .write(&format!("{name}.json"), &manifest.to_string());
        format!("{name}.wasm")
    }

    fn add(&self, name: &str, version: &str) -> Value {
        let file = self.module(name, version, |_| {});
        self.works("add", &[&file])
    }

    /// What python-tuf downloads, from a root on.
    #[track_caller]
    fn downloaded(&self, root: &Path) -> BTreeMap<String, String> {
        serde_json::from_value(self.python(root, &[])).unwrap()
    }

    #[track_caller]
    fn python(&self, root: &Path, arguments: &[&str]) -> Value {
        let repository = self.site.path("repo");
        let server = Server::start(&repository);
        let output = Command::new(client())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/publish.py"))
            .args([&repository, root])
            .arg(format!("http://127.0.0.1:{}", server.port))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.site.path("repo/metadata/1.root.json")
    }

    fn keys(&self, role: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.site.path("keys")).unwrap();
        let of = entries.map(|entry| entry.unwrap().path());
        let mut of: Vec<PathBuf> = of
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with(role)
            })
            .collect();
        of.sort();
        of
    }
}

/// Python's own web server on a directory.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line
            .split(" port ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let port = port
            .unwrap_or_else(|| panic!("no port in `{line}`"))
            .parse()
            .unwrap();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        assert!(self.child.kill().and_then(|()| self.child.wait()).is_ok());
    }
}

/// The Python that has python-tuf.
fn client() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tuf/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make tools`",
        python.display()
    );
    python
}

fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    )
}

/// Every file below a directory with its bytes, the lock aside.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name().unwrap() != ".lock" {
                let name = path.strip_prefix(dir).unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success());
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn python_tuf_reads_what_we_publish_and_refuses_every_changed_byte() {
    let publisher = Publisher::new();
    assert!(publisher.downloaded(&publisher.root()).is_empty());
    publisher.add("range", "1.0.0");
    publisher.add("deadband", "2.0.0-rc.1");
    let published = publisher.works(
        "publish",
        &[
            "--channel",
            "stable",
            "--wave",
            "5%@0s",
            "--wave",
            "100%@36h",
        ],
    );
    assert_eq!(published["epoch"], 1);
    assert_eq!(
        published["modules"].as_object().unwrap().len(),
        1,
        "pre-releases have to be asked for"
    );

    let files = publisher.downloaded(&publisher.root());
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let of = |name: &str, version: &str| {
        ["cdx.json", "intoto.json", "json", "vectors.json", "wasm"]
            .map(|part| format!("modules/{name}/{version}.{part}"))
    };
    let mut wanted = vec!["channels/stable.json".to_owned()];
    wanted.extend(of("deadband", "2.0.0-rc.1"));
    wanted.extend(of("range", "1.0.0"));
    assert_eq!(names, wanted);

    // Each file under both of its names: one file.
    let info = &publisher.works("show", &[])["targets"];
    assert_eq!(*info, 11);
    let repo = publisher.site.path("repo/targets");
    let sha = files["modules/range/1.0.0.json"].parse::<Value>().unwrap()["digest"].clone();
    let sha = sha
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned();
    let there = fs::metadata(repo.join(format!("modules/range/{sha}.1.0.0.wasm"))).unwrap();
    let tough = fs::metadata(repo.join(format!("{sha}.modules/range/1.0.0.wasm"))).unwrap();
    assert_eq!(there.ino(), tough.ino());

    // What the papers say of the component is true of it.
    let component = fs::read(components().join("range.wasm")).unwrap();
    let text: String = component.iter().copied().map(char::from).collect();
    assert!(files["modules/range/1.0.0.wasm"] == text);
    let release = parsed(&files["modules/range/1.0.0.json"]);
    assert_eq!(release["bytes"], component.len());
    assert_eq!(release["world"], "tidegate:module/filter@0.2.0");
    assert_eq!(release["minimum_daemon"], "0.1.0");
    assert_eq!(release["manifest"]["version"], "1.0.0");
    let bill = parsed(&files["modules/range/1.0.0.cdx.json"]);
    assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], sha);
    assert_eq!(
        bill["metadata"]["component"]["licenses"][0]["expression"],
        "Apache-2.0"
    );
    assert!(!bill["components"].as_array().unwrap().is_empty(), "{bill}");
    let statement = parsed(&files["modules/range/1.0.0.intoto.json"]);
    assert_eq!(statement["subject"][0]["digest"]["sha256"], sha);
    assert_eq!(
        statement["predicate"]["runDetails"]["builder"]["id"],
        "tidegate repo add"
    );
    let channel = parsed(&files["channels/stable.json"]);
    assert_eq!(channel["modules"]["range"]["digest"], release["digest"]);
    assert_eq!(channel["waves"][1], json!({"percent": 100, "after": "36h"}));

    let tampered = publisher.python(&publisher.root(), &["--tamper"]);
    assert_eq!(tampered["accepted"], json!([]));
    // Timestamp, snapshot, targets and the eleven targets.
    assert_eq!(
        tampered["refused"].as_array().unwrap().len(),
        14,
        "{tampered}"
    );
}

#[test]
fn every_role_gets_new_keys_and_gateways_follow_from_the_first_root() {
    let publisher = Publisher::new();
    publisher.add("range", "1.0.0");
    publisher.works("publish", &["--channel", "stable"]);
    let first = publisher.site.path("first-root.json");
    fs::copy(publisher.root(), &first).unwrap();
    for (round, role) in ["root", "timestamp", "targets", "snapshot", "root"]
        .into_iter()
        .enumerate()
    {
        let old = publisher.keys(role);
        let rotated = publisher.works("rotate", &["--role", role]);
        assert_eq!(rotated["versions"]["root"], round + 2);
        assert_eq!(publisher.downloaded(&first).len(), 6, "after {role}");
        // What was retired is not needed.
        for key in old {
            fs::remove_file(key).unwrap();
        }
        publisher.works("refresh", &["--targets"]);
    }
    publisher.works("refresh", &["--root"]);
    assert_eq!(publisher.downloaded(&first).len(), 6);
    let tampered = publisher.python(&first, &["--tamper"]);
    assert_eq!(tampered["accepted"], json!([]));
    // Six roots follow the first.
    assert_eq!(
        tampered["refused"].as_array().unwrap().len(),
        15,
        "{tampered}"
    );

    // With one of three root keys nothing can be given away.
    for key in &publisher.keys("root")[..2] {
        fs::remove_file(key).unwrap();
    }
    publisher.fails(
        "rotate",
        &["--role", "timestamp"],
        &[
            "2 of the keys of root",
            "1 of them",
            "missing: root-",
            "--keys",
        ],
    );
}

#[test]
fn old_metadata_goes_and_every_root_stays() {
    let publisher = Publisher::new();
    publisher.add("range", "1.0.0");
    for _ in 0..12 {
        publisher.works("publish", &["--channel", "stable"]);
    }
    let repo = publisher.site.path("repo");
    let files = tree(&repo);
    let count = |with: &str| {
        files
            .keys()
            .filter(|name| name.to_str().unwrap().contains(with))
            .count()
    };
    assert_eq!(
        (
            count(".root.json"),
            count(".targets.json"),
            count(".snapshot.json")
        ),
        (1, 9, 9)
    );
    assert_eq!(count("stable.json"), 18, "each under two names");
    assert_eq!(publisher.downloaded(&publisher.root()).len(), 6);
}

#[test]
fn the_same_input_and_time_give_the_same_bytes() {
    let mut publisher = Publisher::new();
    publisher.at = Some(
        fs::metadata(publisher.root())
            .unwrap()
            .mtime()
            .try_into()
            .unwrap(),
    );
    let run = |publisher: &Publisher| {
        publisher.add("range", "1.0.0");
        publisher.works("publish", &["--channel", "stable"]);
        tree(&publisher.site.path("repo"))
    };
    let (repo, kept) = (publisher.site.path("repo"), publisher.site.path("kept"));
    copy(&repo, &kept);
    let once = run(&publisher);
    fs::remove_dir_all(&repo).unwrap();
    fs::rename(&kept, &repo).unwrap();
    let again = run(&publisher);
    assert!(once == again);
    assert!(once.len() > 16);
    // And with another time, others.
    publisher.at = publisher.at.map(|at| at + 1);
    publisher.works("publish", &["--channel", "stable"]);
    assert!(once != tree(&repo));
}

#[test]
fn keys_are_for_their_owner_and_openssl_reads_them() {
    let publisher = Publisher::new();
    assert_eq!(publisher.keys("").len(), 6);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&publisher.site.path("keys")), 0o700);
    for key in publisher.keys("") {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
        let shown = Command::new("openssl")
            .args(["pkey", "-noout", "-text", "-in"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(said(&shown).contains("ED25519"), "{}", said(&shown));
    }
    let key = &publisher.keys("timestamp")[0];
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    publisher.fails("refresh", &[], &["0644", "chmod 600"]);

    // Under a passphrase.
    let publisher = Publisher {
        site: Site::new(),
        at: None,
    };
    publisher
        .site
        .write("passphrase", "correct horse\nnot this\n");
    publisher.site.write("wrong", "incorrect horse\n");
    publisher.works("init", &["--passphrase-file", "passphrase"]);
    let key = &publisher.keys("snapshot")[0];
    let shown = Command::new("openssl")
        .args([
            "pkey",
            "-noout",
            "-text",
            "-passin",
            "pass:correct horse",
            "-in",
        ])
        .arg(key)
        .output()
        .unwrap();
    assert!(said(&shown).contains("ED25519"), "{}", said(&shown));
    publisher.works("refresh", &["--passphrase-file", "passphrase"]);
    publisher.fails("refresh", &[], &["encrypted", "--passphrase-file"]);
    publisher.fails(
        "refresh",
        &["--passphrase-file", "wrong"],
        &["another passphrase"],
    );
    publisher.fails(
        "refresh",
        &["--passphrase-file", "nowhere"],
        &["no such file"],
    );
}

#[test]
fn what_cannot_be_added_is_refused_with_what_to_do() {
    let publisher = Publisher::new();
    let added = publisher.add("range", "1.0.0");
    assert_eq!(added["new"], true);
    let again = publisher.add("range", "1.0.0");
    assert_eq!(
        (&again["new"], &again["versions"]),
        (&json!(false), &added["versions"])
    );

    let other = publisher.module("range", "1.0.0", |manifest| {
        manifest["description"] = "other".into()
    });
    publisher.fails(
        "add",
        &[&other],
        &["range 1.0.0", "another manifest", "raise the version"],
    );
    let other = publisher.module("deadband", "1.0.0", |_| {});
    publisher.fails(
        "add",
        &[&other, "--name", "range"],
        &["another component", "sha256:", "raise the version"],
    );
    publisher.fails("add", &[&other, "--name", "../range"], &["no name", "a–z"]);
    publisher.fails(
        "add",
        &[&other, "--version", "1.0"],
        &["no version", "1.2.0"],
    );
    publisher.fails(
        "add",
        &[&other, "--version", "1.0.0/../../x"],
        &["no version"],
    );

    let bare = publisher.module("deadband", "1.0.0", |manifest| {
        manifest.as_object_mut().unwrap().remove("vectors");
    });
    publisher.fails("add", &[&bare], &["golden vectors", "--without-vectors"]);
    publisher.works("add", &[&bare, "--without-vectors"]);

    let wrong = publisher.module("range", "1.0.1", |_| {});
    let vectors = fs::read_to_string(publisher.site.path("range.vectors.json")).unwrap();
    let mut vectors = parsed(&vectors);
    vectors["vectors"][0]["steps"][0]["expect"]["filtered"] = 999.into();
    publisher
        .site
        .write("range.vectors.json", &vectors.to_string());
    publisher.fails(
        "add",
        &[&wrong],
        &["FAILED", "expected 999", "nothing was added"],
    );

    // A debug file beside it is noted and stays where it is.
    publisher.site.write("range.debug.wasm", "of this build");
    let file = publisher.module("range", "1.1.0", |_| {});
    publisher.works("add", &[&file, "--version", "1.2.0"]);
    let files = publisher.downloaded(&publisher.root());
    let release = parsed(&files["modules/range/1.2.0.json"]);
    assert!(release["debug"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(release["manifest"]["version"], "1.2.0");
}

#[test]
fn channels_go_forward_only() {
    let publisher = Publisher::new();
    publisher.fails(
        "publish",
        &["--channel", "test"],
        &["a released module", "tidegate repo add"],
    );
    for version in ["1.0.0", "1.1.0", "1.10.0", "2.0.0-rc.1"] {
        publisher.add("range", version);
    }
    publisher.add("deadband", "1.0.0");
    publisher
        .site
        .write("settings.json", r#"{"min": 0, "max": 10}"#);
    publisher.site.write(
        "canary.json",
        r#"{"gate": {"mode": "shadow", "min_samples": 10}}"#,
    );
    let first = publisher.works(
        "publish",
        &[
            "--channel",
            "test",
            "--settings",
            "range=settings.json",
            "--canary",
            "canary.json",
            "--epoch",
            "7",
        ],
    );
    assert_eq!(first["modules"]["range"]["version"], "1.10.0");
    publisher.fails(
        "publish",
        &["--channel", "test", "--epoch", "7"],
        &["epoch 7", "leave out --epoch"],
    );
    publisher.fails(
        "publish",
        &["--channel", "test", "--epoch", "99999999999999999"],
        &["above the last one"],
    );
    publisher.fails("publish", &["--channel", "Test"], &["no name"]);
    publisher.fails(
        "publish",
        &["--channel", "test", "--module", "range=3.0.0"],
        &["range 3.0.0", "1.1.0, 1.10.0"],
    );
    publisher.fails(
        "publish",
        &["--channel", "test", "--wave", "50%@1h", "--wave", "20%@2h"],
        &["more percent"],
    );
    publisher.fails(
        "publish",
        &["--channel", "test", "--wave", "500%@1h"],
        &["0.01 to 100 percent"],
    );
    publisher.site.write("wrong.json", r#"{"min": "low"}"#);
    publisher.fails(
        "publish",
        &["--channel", "test", "--settings", "range=wrong.json"],
        &["settings of range", "min"],
    );

    // The named one changes, the others and what was said of them stay.
    let second = publisher.works(
        "publish",
        &[
            "--channel",
            "test",
            "--module",
            "range=2.0.0-rc.1",
            "--without",
            "deadband",
        ],
    );
    assert_eq!(second["epoch"], 8);
    assert_eq!(second["modules"]["range"]["settings"]["max"], 10);
    assert_eq!(second["modules"].as_object().unwrap().len(), 1);

    let promoted = publisher.works(
        "promote",
        &["--from", "test", "--to", "stable", "--wave", "5%@0s"],
    );
    assert_eq!(
        (&promoted["epoch"], &promoted["modules"]),
        (&json!(1), &second["modules"])
    );
    publisher.fails(
        "promote",
        &["--from", "tset", "--to", "stable"],
        &["`tset`", "stable, test"],
    );

    let revoke = ["--channel", "stable", "--module", "range", "--minimum"];
    let with = |more: &[&'static str]| [&revoke[..], more].concat();
    publisher.fails(
        "revoke",
        &with(&["2.0.0"]),
        &["at 2.0.0 and above", "not at 2.0.0-rc.1"],
    );
    let revoked = publisher.works("revoke", &with(&["1.1.0", "--to", "1.10.0"]));
    assert_eq!(revoked["modules"]["range"]["minimum"], "1.1.0");
    assert_eq!(revoked["modules"]["range"]["version"], "1.10.0");
    publisher.fails("revoke", &with(&["1.0.0"]), &["does not go back"]);
    let below = ["--channel", "stable", "--module", "range=1.0.0"];
    publisher.fails("publish", &below, &["at 1.1.0 and above", "--module"]);
    // The minimum stays when something older is promoted over it.
    publisher.works("publish", &["--channel", "test", "--module", "range=1.0.0"]);
    publisher.fails(
        "promote",
        &["--from", "test", "--to", "stable"],
        &["at 1.1.0 and above"],
    );

    let files = publisher.downloaded(&publisher.root());
    let stable = parsed(&files["channels/stable.json"]);
    assert_eq!(stable["modules"]["range"]["minimum"], "1.1.0");
    assert_eq!(stable["canary"]["gate"]["mode"], "shadow");
    assert_eq!(
        stable["waves"],
        json!([]),
        "what is revoked is revoked everywhere"
    );
}

#[test]
fn a_repository_that_is_old_damaged_or_in_use_is_left_alone() {
    let mut publisher = Publisher::new();
    publisher.fails("init", &[], &["is a repository already"]);
    publisher.add("range", "1.0.0");

    // In use.
    let lock = fs::File::open(publisher.site.path("repo/.lock")).unwrap();
    lock.lock().unwrap();
    publisher.fails(
        "publish",
        &["--channel", "stable"],
        &["another publisher", "try again"],
    );
    lock.unlock().unwrap();

    // Without a key.
    let key = publisher.keys("targets").remove(0);
    let aside = publisher.site.path("aside");
    fs::create_dir(&aside).unwrap();
    let kept = aside.join(key.file_name().unwrap());
    fs::rename(&key, &kept).unwrap();
    let missing = [
        "1 of the keys of targets",
        "0 of them",
        key.file_name().unwrap().to_str().unwrap(),
    ];
    publisher.fails("publish", &["--channel", "stable"], &missing);
    publisher.works("refresh", &[]);
    publisher.works("publish", &["--channel", "stable", "--keys", "aside"]);
    fs::write(
        &kept,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    publisher.fails(
        "publish",
        &["--channel", "stable", "--keys", "aside"],
        &["no private key in PEM"],
    );
    fs::rename(&publisher.keys("snapshot")[0], &kept).unwrap();
    publisher.fails(
        "publish",
        &["--channel", "stable", "--keys", "aside"],
        &["another key than its name says"],
    );

    // A changed byte in any file that counts; what is not there at all.
    let repo = publisher.site.path("repo");
    let versions = publisher.works("show", &[])["versions"].clone();
    let newest = |role: &str| format!("metadata/{}.{role}.json", versions[role]);
    for name in [
        newest("root"),
        newest("targets"),
        newest("snapshot"),
        "metadata/timestamp.json".to_owned(),
    ] {
        let path = repo.join(&name);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        publisher.fails("show", &[], &["is damaged", &name, "from a copy"]);
        fs::write(&path, whole).unwrap();
    }
    let target = publisher.some_target();
    let whole = fs::read(&target).unwrap();
    fs::remove_file(&target).unwrap();
    publisher.fails("show", &[], &["not there, or not whole"]);
    fs::write(&target, whole).unwrap();
    publisher.works("show", &[]);

    // Ran out: first the timestamp, then targets, then the root.
    let made: u64 = fs::metadata(publisher.root())
        .unwrap()
        .mtime()
        .try_into()
        .unwrap();
    let day = 24 * 3600;
    publisher.at = Some(made + 31 * day);
    let file = publisher.module("range", "1.1.0", |_| {});
    publisher.fails(
        "add",
        &[&file],
        &["ran out", "old copy", "tidegate repo refresh"],
    );
    publisher.at = Some(made + 366 * day);
    publisher.fails(
        "refresh",
        &[],
        &["targets metadata ran out", "refresh --targets"],
    );
    publisher.at = Some(made + 731 * day);
    publisher.fails("refresh", &[], &["root metadata ran out", "refresh --root"]);

    let nowhere = Publisher {
        site: Site::new(),
        at: None,
    };
    fs::create_dir(nowhere.site.path("repo")).unwrap();
    nowhere.fails("show", &[], &["no repository", "tidegate repo init"]);
}

impl Publisher {
    /// Some target's file.
    fn some_target(&self) -> PathBuf {
        let dir = self.site.path("repo/targets/modules/range");
        fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }
}

#[test]
fn killed_at_any_sync_a_publisher_leaves_the_old_or_the_new_repository() {
    if !can("kill a publisher at a chosen sync", &["strace"]) {
        return;
    }
    let publisher = Publisher::new();
    publisher.add("range", "1.0.0");
    let first = publisher.site.path("first-root.json");
    fs::copy(publisher.root(), &first).unwrap();
    let (repo, kept) = (publisher.site.path("repo"), publisher.site.path("kept"));
    copy(&repo, &kept);
    let before = tree(&repo);
    for (command, arguments) in [
        ("publish", ["--channel", "stable"]),
        ("rotate", ["--role", "timestamp"]),
    ] {
        let (mut kills, mut changed) = (0, 0);
        loop {
            let mut of = publisher.command(command, &arguments);
            let inject = format!("inject=fsync:signal=SIGKILL:when={}", kills + 1);
            let mut strace = Command::new("strace");
            strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", &inject]);
            strace
                .arg(of.get_program())
                .args(of.get_args())
                .current_dir(publisher.site.path(""));
            let output = strace.output().unwrap();
            let now = tree(&repo);
            let untouched = before
                .iter()
                .all(|(name, bytes)| now.get(name) == Some(bytes));
            let roots = |tree: &BTreeMap<PathBuf, Vec<u8>>| {
                tree.keys()
                    .filter(|name| name.to_str().unwrap().ends_with(".root.json"))
                    .count()
            };
            // What a gateway reads is what it was, or python-tuf says what it makes of it.
            if !untouched || roots(&now) != roots(&before) {
                let targets = publisher.downloaded(&first).len();
                assert_eq!(
                    targets,
                    if command == "publish" { 6 } else { 5 },
                    "{command}, kill {kills}"
                );
                changed += 1;
            }
            // Whoever comes next goes on from there.
            publisher.works("refresh", &[]);
            assert!(of.output().unwrap().status.success());
            fs::remove_dir_all(&repo).unwrap();
            copy(&kept, &repo);
            if output.status.success() {
                break;
            }
            kills += 1;
        }
        assert!(
            kills >= 6 && changed >= 2,
            "{command}: {kills} kills, {changed} of them after the change"
        );
    }
}

#[test]
fn the_readme_s_way_to_publish_works_as_typed() {
    let readme = include_str!("../modules/README.md");
    let (_, section) = readme.split_once("## Publishing").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (lines, _) = block.split_once("```").unwrap();
    let publisher = Publisher {
        site: Site::new(),
        at: None,
    };
    publisher.module("range", "1.0.0", |_| {});
    let binaries = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", lines])
        .current_dir(publisher.site.path(""))
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let files = publisher.downloaded(&publisher.root());
    assert_eq!(
        parsed(&files["channels/stable.json"])["modules"]["range"]["version"],
        "1.0.0"
    );
}

/// Types at a terminal; see `tests/terminal.py`.
fn typed(publisher: &Publisher, answers: &[&str], arguments: &[&str]) -> Value {
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal.py"))
        .args(answers)
        .args(["--", env!("CARGO_BIN_EXE_tidegate"), "repo"])
        .args(arguments)
        .current_dir(publisher.site.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_passphrase_is_asked_for_at_the_terminal_and_never_shown() {
    let publisher = Publisher {
        site: Site::new(),
        at: None,
    };
    let init = ["init", "repo", "--keys", "keys", "--ask-passphrase"];
    let secret = "correct horse";
    // Nobody to ask; two that differ; given up; nothing typed. Nothing is made.
    let mut alone = publisher.command("init", &["--ask-passphrase"]);
    let alone = alone.stdin(Stdio::null()).output().unwrap();
    assert!(
        said(&alone).contains("there is no terminal"),
        "{}",
        said(&alone)
    );
    for (answers, words) in [
        (&[secret, "correct hoarse"][..], "not the same"),
        (&["cor\\x03"], "no passphrase was typed"),
        (&["", ""], "protects no key"),
    ] {
        let session = typed(&publisher, answers, &init);
        assert_eq!(session["code"], 1, "{session}");
        assert!(
            session["shown"].as_str().unwrap().contains(words),
            "{session}"
        );
        assert_eq!(session["end"], true, "the terminal is as it was: {session}");
        assert!(!publisher.site.path("keys").exists(), "{words}");
    }
    let session = typed(&publisher, &[secret, secret], &init);
    assert_eq!(
        (&session["code"], &session["echo"]),
        (&0.into(), &json!([false, false])),
        "{session}"
    );
    let shown = |session: &Value| session["shown"].as_str().unwrap().to_owned();
    assert!(!shown(&session).contains(secret), "{session}");
    // It is the passphrase: openssl reads the key by it.
    let key = &publisher.keys("targets")[0];
    let mut openssl = Command::new("openssl");
    openssl
        .args(["pkey", "-noout", "-passin"])
        .arg(format!("pass:{secret}"));
    assert!(openssl.arg("-in").arg(key).status().unwrap().success());

    // An encrypted key asks once for all, and new keys get the same.
    let rotate = ["rotate", "repo", "--keys", "keys", "--role", "targets"];
    let session = typed(&publisher, &[secret], &rotate);
    assert_eq!(
        (&session["code"], &session["echo"]),
        (&0.into(), &json!([false])),
        "{session}"
    );
    assert!(
        !shown(&session).contains(secret) && shown(&session).contains("passphrase of keys/root-"),
        "{session}"
    );
    for key in publisher.keys("targets") {
        assert!(fs::read_to_string(key).unwrap().contains("ENCRYPTED"));
    }
    let session = typed(&publisher, &["wrong"], &rotate);
    assert!(shown(&session).contains("another passphrase"), "{session}");
    assert_eq!(
        (&session["code"], &session["end"]),
        (&1.into(), &true.into())
    );
    publisher.fails(
        "refresh",
        &[],
        &["encrypted", "--passphrase-file", "terminal"],
    );
}

/// The gateway is a second client beside python-tuf: tough, through the device's own code and commands.
#[test]
fn a_gateway_takes_what_the_publisher_put_out_and_lists_what_it_is_made_of() {
    let publisher = Publisher::new();
    let added = publisher.add("range", "9.0.0");
    publisher.works("publish", &["--channel", "stable"]);
    let server = Server::start(&publisher.site.path("repo"));
    let first_root = publisher.site.path("root.json");
    fs::copy(publisher.root(), &first_root).unwrap();
    let config = publisher.site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{}\"\n[deploy]\nrepository = \"http://127.0.0.1:{}/\"\n\
             root = \"{}\"\npoll = \"7d\"\n",
            publisher.site.path("state").display(),
            server.port,
            first_root.display()
        ),
    );
    let mut daemon = Daemon::start(&config);
    let module = |arguments: &[&str]| {
        let mut module = tidegate();
        module.env(
            "TIDEGATE__STATUS__LISTEN",
            format!("\"127.0.0.1:{}\"", daemon.http),
        );
        module
            .arg("module")
            .args(arguments)
            .arg("--config")
            .arg(&config);
        module.output().unwrap()
    };
    let update = || {
        let output = module(&["update", "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer
    };
    assert!(said(&module(&["list", "--sbom"])).contains("nothing of the channel is here yet"));
    let answer = update();
    assert_eq!(
        (&answer["epoch"], &answer["news"]),
        (&1.into(), &true.into()),
        "{answer}"
    );
    assert_eq!(answer["modules"][0]["version"], "9.0.0");
    assert_eq!(answer["modules"][0]["digest"], added["digest"]);

    // The bill of materials is the one that was published, byte by byte.
    let output = module(&["list", "--sbom", "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (item, bill) = (&listed["items"][0], &listed["items"][0]["bill"]);
    assert_eq!(
        (&item["name"], &item["digest"]),
        (&"range".into(), &added["digest"])
    );
    assert_eq!(bill["bomFormat"], "CycloneDX", "{listed}");
    let about = &bill["metadata"]["component"];
    let hash = format!("sha256:{}", about["hashes"][0]["content"].as_str().unwrap());
    assert_eq!(added["digest"], *hash);
    let text = said(&module(&["list", "--sbom"]));
    for part in [
        "range 9.0.0",
        "world     ",
        "contains  ",
        "made by   wit-component",
        "import    tidegate:module/",
    ] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    // A bill that was changed on the device is none.
    let digest = item["sbom"].as_str().unwrap().trim_start_matches("sha256:");
    let kept = publisher.site.path("state/deploy/files").join(digest);
    let sound = fs::read(&kept).unwrap();
    fs::write(&kept, [&sound[..], b" "].concat()).unwrap();
    let changed = module(&["list", "--sbom"]);
    assert!(
        !changed.status.success() && said(&changed).contains("gone or damaged"),
        "{}",
        said(&changed)
    );

    // New keys for everybody, a new version, the same gateway with the root of the beginning. What was missing comes again.
    for role in ["root", "targets", "snapshot", "timestamp", "root"] {
        publisher.works("rotate", &["--role", role]);
    }
    publisher.add("range", "9.1.0");
    publisher.add("deadband", "9.0.0");
    publisher.works("publish", &["--channel", "stable"]);
    let answer = update();
    assert_eq!(
        (&answer["epoch"], &answer["news"]),
        (&2.into(), &true.into()),
        "{answer}"
    );
    let versions: Vec<&Value> = answer["modules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["version"])
        .collect();
    assert_eq!(versions, ["9.0.0", "9.1.0"]);
    assert_eq!(update()["news"], false);
    let text = said(&module(&["list", "--sbom"]));
    assert!(
        text.contains("range 9.1.0") && text.contains("deadband 9.0.0"),
        "{text}"
    );
    assert_eq!(daemon.stop(), 0);
}
