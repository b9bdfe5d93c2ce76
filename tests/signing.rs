//! A site's own modules: signed by a key that it trusts, or not run. openssl, which shares no code with us, is the other side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{
    Broker, Daemon, Site, configuration, hostile_components, numbered, run, tidegate, verify,
    wait_for,
};

/// A gateway that runs the module `mine`, and keys made by openssl.
struct Stand {
    site: Site,
    broker: Broker,
    config: PathBuf,
    sent: u64,
}

impl Stand {
    fn new() -> Self {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let dir = site.path("modules");
        fs::create_dir_all(&dir).unwrap();
        let rest = format!("[modules]\ndir = \"{}\"\n", dir.display());
        let config = configuration(&site, &broker, &rest);
        let stand = Self {
            site,
            broker,
            config,
            sent: 0,
        };
        let from = hostile_components();
        fs::copy(from.join("varies.wasm"), stand.file("wasm")).unwrap();
        let text = fs::read_to_string(from.join("varies.json")).unwrap();
        let mut manifest: Value = serde_json::from_str(&text).unwrap();
        manifest["name"] = "mine".into();
        fs::write(
            stand.file("json"),
            serde_json::to_string_pretty(&manifest).unwrap(),
        )
        .unwrap();
        stand.filter("mine", "behaviour = \"none\"");
        stand
            .site
            .write("conf.d/rollout.toml", "[rollout]\nmode = \"immediate\"\n");
        stand
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.site.path("modules/mine").with_extension(extension)
    }

    fn filter(&self, module: &str, settings: &str) {
        self.site.write(
            "conf.d/p.toml",
            &format!(
                "[pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"{module}\", settings = {{ {settings} }} }}]\n"
            ),
        );
    }

    /// A private key, and the public one in PEM.
    fn key(&self, name: &str) -> (PathBuf, String) {
        let private = self.site.path(name).with_extension("pem");
        openssl(
            Command::new("openssl")
                .args(["genpkey", "-algorithm", "ed25519", "-out"])
                .arg(&private),
        );
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        let public = openssl(
            Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(&private),
        );
        (private, String::from_utf8(public.stdout).unwrap())
    }

    /// Signs `mine`; the key as it is printed.
    fn sign(&self, key: &Path) -> String {
        let output = tidegate()
            .args(["repo", "sign", "--json", "--key"])
            .arg(key)
            .arg(self.file("wasm"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
        signed["key"].as_str().unwrap().to_owned()
    }

    fn trust(&self, keys: &[&str]) {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("\"\"\"{key}\"\"\""))
            .collect();
        self.site.write(
            "conf.d/policy.toml",
            &format!("[modules]\ntrusted-keys = [{}]\n", keys.join(", ")),
        );
    }

    fn check(&self) -> Output {
        let mut check = tidegate();
        check.args(["check", "--config"]).arg(&self.config);
        check.output().unwrap()
    }

    #[track_caller]
    fn accepted(&self) {
        let output = self.check();
        assert!(output.status.success(), "{}", said(&output));
    }

    #[track_caller]
    fn refused(&self, words: &str) {
        let output = self.check();
        assert_eq!(output.status.code(), Some(78), "{}", said(&output));
        // Lines are broken where they grow long.
        let text: Vec<String> = said(&output)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let text = text.join(" ");
        assert!(text.contains(words), "nothing says `{words}` in {text}");
    }

    fn send(&mut self, daemon: &Daemon) {
        let numbers = self.sent..self.sent + 20;
        self.broker.publish("plant/line1", numbers.map(numbered));
        self.sent += 20;
        daemon.wait_received("plant", self.sent);
    }

    /// The module `mine`, or what stands in its place, as the API has it.
    fn running(&self, daemon: &Daemon) -> Value {
        let modules = daemon.json("/api/v1/modules")["items"].clone();
        let mut modules = modules.as_array().unwrap().iter();
        modules
            .find(|module| module["state"] == "active")
            .unwrap()
            .clone()
    }

    fn module(&self, daemon: &Daemon, arguments: &[&str]) -> Output {
        let listen = format!("\"127.0.0.1:{}\"", daemon.http);
        let mut module = tidegate();
        module
            .env("TIDEGATE__STATUS__LISTEN", listen)
            .arg("module")
            .args(arguments);
        module.arg("--config").arg(&self.config).output().unwrap()
    }
}

#[track_caller]
fn openssl(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What is signed, as a shell would make it: by sha256sum.
/// What the audit log has of one kind.
fn audited(stand: &Stand, action: &str) -> Vec<Value> {
    let config = stand.config.to_str().unwrap();
    let shown = run(&[
        "audit", "show", "--json", "--limit", "10000", "--config", config,
    ]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let entries = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    entries
        .filter(|entry: &Value| entry["action"] == action)
        .collect()
}

fn signed_text(stand: &Stand) -> String {
    let digest = |extension: &str| {
        let mut sha256sum = Command::new("sha256sum");
        let output = openssl(sha256sum.arg(stand.file(extension)));
        String::from_utf8(output.stdout).unwrap()[..64].to_owned()
    };
    format!(
        "tidegate module signature v1\ncomponent sha256:{}\nmanifest sha256:{}\n",
        digest("wasm"),
        digest("json")
    )
}

#[test]
fn what_we_sign_openssl_verifies_and_what_openssl_signs_runs() {
    let stand = Stand::new();
    let (private, public) = stand.key("publisher");
    let key = stand.sign(&private);
    let (text, signature, pem) = (
        stand.site.path("signed.txt"),
        stand.site.path("signature.bin"),
        stand.site.write("public.pem", &public),
    );
    fs::write(&text, signed_text(&stand)).unwrap();
    let file: Value = serde_json::from_slice(&fs::read(stand.file("sig")).unwrap()).unwrap();
    assert_eq!(file["signatures"][0]["key"], *key);
    let hex = file["signatures"][0]["signature"].as_str().unwrap();
    let bytes: Vec<u8> = (0..64)
        .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    fs::write(&signature, &bytes).unwrap();
    let mut verify = Command::new("openssl");
    verify.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]);
    verify.arg(&pem).arg("-in").arg(&text).arg("-sigfile");
    let output = openssl(verify.arg(&signature));
    assert!(said(&output).contains("Verified Successfully"));
    fs::write(&text, signed_text(&stand).replace("v1", "v2")).unwrap();
    assert!(
        !verify.output().unwrap().status.success(),
        "of that it is none"
    );

    // The other way: nothing of ours signs. The key is trusted in the form that openssl prints.
    let (private, public) = stand.key("other");
    fs::write(&text, signed_text(&stand)).unwrap();
    let mut sign = Command::new("openssl");
    sign.args(["pkeyutl", "-sign", "-rawin", "-inkey"])
        .arg(&private);
    let bytes = openssl(sign.arg("-in").arg(&text)).stdout;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let der = Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&private)
        .output()
        .unwrap()
        .stdout;
    let key: String = der[12..].iter().map(|byte| format!("{byte:02x}")).collect();
    let file = format!(
        "{{\"v\": 1, \"signatures\": [{{\"key\": \"ed25519:{key}\", \"signature\": \"{hex}\"}}]}}"
    );
    fs::write(stand.file("sig"), file).unwrap();
    stand.refused("which is not in `modules.trusted-keys`");
    stand.trust(&[&public]);
    stand.accepted();
}

#[test]
fn what_is_not_signed_as_it_stands_is_refused_with_the_reason() {
    let stand = Stand::new();
    let (private, _) = stand.key("publisher");
    let (other, _) = stand.key("other");
    stand.refused("is not signed; `tidegate repo sign` signs it");
    let key = stand.sign(&private);
    stand.refused(&format!("is signed by {key}, which is not in"));
    stand.trust(&[&key]);
    stand.accepted();

    // Every file, some bytes of each; all bytes are in the tests beside the code.
    for (extension, at) in [("wasm", 4_000), ("json", 20), ("sig", 150)] {
        let path = stand.file(extension);
        let sound = fs::read(&path).unwrap();
        let mut changed = sound.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let output = stand.check();
        assert_eq!(
            output.status.code(),
            Some(78),
            "{extension}: {}",
            said(&output)
        );
        fs::write(&path, &sound).unwrap();
    }
    let manifest = fs::read_to_string(stand.file("json")).unwrap();
    let wider = manifest.replacen('{', "{ \"grants\": [\"secrets\"],", 1);
    fs::write(stand.file("json"), wider).unwrap();
    stand.refused("is not what ed25519:");
    fs::write(stand.file("json"), &manifest).unwrap();
    stand.accepted();

    // By another key, and in the name of the trusted one.
    let sound = fs::read_to_string(stand.file("sig")).unwrap();
    let stranger = stand.sign(&other);
    stand.refused(&format!("is signed by {stranger}, which is not in"));
    let forged = fs::read_to_string(stand.file("sig")).unwrap();
    fs::write(stand.file("sig"), forged.replace(&stranger, &key)).unwrap();
    stand.refused(&format!("is not what {key} signed"));
    fs::write(stand.file("sig"), sound.replace("\"v\": 1", "\"v\": 2")).unwrap();
    stand.refused("mine.sig is damaged, it has layout 2");

    // What is no file, or has no end.
    let path = stand.file("sig");
    fs::write(&path, vec![b' '; 17 * 1024]).unwrap();
    stand.refused("is larger than 16384 bytes");
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    stand.refused("is no file");
    fs::remove_file(&path).unwrap();
    let fifo = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(fifo.success());
    stand.refused("is no file");
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    stand.refused("cannot open");
    fs::remove_file(&path).unwrap();
    // A link to a sound one is as good as that: its bytes decide.
    fs::write(stand.site.path("elsewhere.sig"), &sound).unwrap();
    symlink(stand.site.path("elsewhere.sig"), &path).unwrap();
    stand.accepted();
    fs::rename(stand.file("wasm"), stand.site.path("whole.wasm")).unwrap();
    symlink("/dev/zero", stand.file("wasm")).unwrap();
    stand.refused("is no file");

    // Keys that are none.
    for (key, words) in [
        ("", "no public key of Ed25519"),
        ("ed25519:12", "no public key of Ed25519"),
        (
            &fs::read_to_string(&private).unwrap(),
            "a private key stays with its publisher",
        ),
    ] {
        stand.trust(&[key]);
        stand.refused(words);
    }
    stand.trust(&[&key, &key]);
    stand.refused("the key is named twice");
}

#[test]
fn repo_sign_says_what_is_wrong_and_which_key_it_takes() {
    let stand = Stand::new();
    let sign = |arguments: &[&str]| {
        let mut sign = tidegate();
        sign.args(["repo", "sign"])
            .arg(stand.file("wasm"))
            .args(arguments);
        let output = sign.current_dir(stand.site.path("")).output().unwrap();
        (output.status.code(), said(&output))
    };
    let init = tidegate()
        .args(["repo", "init", "repo", "--keys", "keys"])
        .current_dir(stand.site.path(""))
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", said(&init));
    let (code, text) = sign(&["--keys", "keys"]);
    assert_eq!(code, Some(0), "{text}");
    let (_, key) = text.trim().rsplit_once("trusted-keys = [\"").unwrap();
    let key = key.strip_suffix("\"]").unwrap();
    assert!(
        said(&init).contains(key),
        "{key} is among the keys of targets"
    );
    stand.trust(&[key]);
    stand.accepted();
    assert_eq!(sign(&[]).0, Some(2));
    for (arguments, words) in [
        (
            &["--keys", "keys", "--role", "root"][..],
            "several keys of root are there",
        ),
        (&["--keys", "modules"], "no key of targets lies in modules"),
        (&["--key", "modules/mine.json"], "others may read it"),
    ] {
        let (code, text) = sign(arguments);
        assert!(code == Some(1) && text.contains(words), "{words}: {text}");
    }
    let manifest = fs::read_to_string(stand.file("json")).unwrap();
    let mut of_another: Value = serde_json::from_str(&manifest).unwrap();
    of_another["digest"] = format!("sha256:{}", "0".repeat(64)).into();
    for (changed, words) in [
        (manifest.replace("\"mine\"", "\"yours\""), "names `yours`"),
        (of_another.to_string(), "the manifest is for sha256:0000"),
        ("{}".to_owned(), "missing field"),
    ] {
        fs::write(stand.file("json"), &changed).unwrap();
        let (code, text) = sign(&["--keys", "keys"]);
        assert!(code == Some(1) && text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_signed_module_runs_shows_its_key_and_stops_with_it() {
    let mut stand = Stand::new();
    let (private, _) = stand.key("publisher");
    let key = stand.sign(&private);
    stand.trust(&[&key]);
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon);
    let module = stand.running(&daemon);
    assert_eq!(
        (&module["name"], &module["origin"], &module["signed_by"]),
        (&"mine".into(), &"signed".into(), &Value::from(key.as_str()))
    );
    let (_, page) = daemon.get("/").unwrap();
    assert!(
        page.contains(&key) && !page.contains("nobody signed"),
        "{page}"
    );
    let list = said(&stand.module(&daemon, &["list"]));
    assert!(list.contains(&format!("signed by {key}")), "{list}");
    let file = stand.file("wasm");
    let inspected = said(&stand.module(&daemon, &["inspect", file.to_str().unwrap()]));
    let trusted = format!("signed  by {key}, whom this site trusts");
    assert!(inspected.contains(&trusted), "{inspected}");

    // A configuration without the key that names what it signed is refused, and what ran goes on.
    stand.trust(&[]);
    daemon.signal("HUP");
    let words = format!("is signed by {key}, which is not in `modules.trusted-keys`");
    wait_for("the refusal", || {
        daemon.log().contains(&words).then_some(())
    });
    assert_eq!(stand.running(&daemon)["name"], "mine");
    stand.trust(&[&key]);

    // Its files are gone and another one is configured: the record brings it back, with the key that had signed it.
    for extension in ["wasm", "json", "sig"] {
        fs::remove_file(stand.file(extension)).unwrap();
    }
    stand.filter("range", "min = 0");
    daemon.signal("HUP");
    wait_for("the other module", || {
        (stand.running(&daemon)["name"] == "range").then_some(())
    });
    let back = stand.module(&daemon, &["rollback", "range"]);
    assert!(back.status.success(), "{}", said(&back));
    wait_for("the module of before", || {
        (stand.running(&daemon)["name"] == "mine").then_some(())
    });
    stand.send(&daemon);
    daemon.kill();
    daemon = Daemon::start(&stand.config);
    let module = stand.running(&daemon);
    assert_eq!(
        (&module["name"], &module["origin"], &module["signed_by"]),
        (&"mine".into(), &"signed".into(), &Value::from(key.as_str()))
    );

    // The key is trusted no longer: it goes at once, and does not come back, not by hand and not at a start.
    stand.trust(&[]);
    daemon.signal("HUP");
    wait_for("the swap", || {
        (stand.running(&daemon)["name"] == "range").then_some(())
    });
    let back = stand.module(&daemon, &["rollback", "range"]);
    assert!(
        !back.status.success() && said(&back).contains(&words),
        "{}",
        said(&back)
    );

    // A site that lets anything run lets it run, on nobody's word: it is red, and on record as what nobody trusted signed.
    daemon.kill();
    let policy = stand
        .site
        .write("conf.d/policy.toml", "[modules]\nallow-unsigned = true\n");
    let before = audited(&stand, "module.signed").len();
    daemon = Daemon::start(&stand.config);
    let back = stand.module(&daemon, &["rollback", "range"]);
    assert!(back.status.success(), "{}", said(&back));
    wait_for("the module of before", || {
        (stand.running(&daemon)["name"] == "mine").then_some(())
    });
    assert_eq!(stand.running(&daemon)["origin"], "local");
    let unsigned = audited(&stand, "module.unsigned");
    let object = &unsigned.last().unwrap()["object"];
    assert_eq!(
        (&object["module"], &object["signed-by"]),
        (&"mine".into(), &Value::from(key.as_str()))
    );
    assert_eq!(audited(&stand, "module.signed").len(), before);
    fs::remove_file(policy).unwrap();
    daemon.signal("HUP");
    wait_for("the swap", || {
        (stand.running(&daemon)["name"] == "range").then_some(())
    });
    stand.trust(&[&key]);
    daemon.signal("HUP");
    wait_for("the key", || {
        let back = stand.module(&daemon, &["rollback", "range"]);
        back.status.success().then_some(())
    });
    daemon.kill();
    stand.trust(&[]);
    daemon = Daemon::start(&stand.config);
    assert_eq!(stand.running(&daemon)["name"], "range");
    assert!(daemon.log().contains(&words), "{}", daemon.log());
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

#[test]
fn what_nobody_signed_is_red_on_the_page() {
    let stand = Stand::new();
    stand
        .site
        .write("conf.d/policy.toml", "[modules]\nallow-unsigned = true\n");
    let mut daemon = Daemon::start(&stand.config);
    let module = stand.running(&daemon);
    assert_eq!(
        (&module["origin"], &module["signed_by"]),
        (&"local".into(), &Value::Null)
    );
    let (_, page) = daemon.get("/").unwrap();
    for part in [
        "class=\"origin bad\">local, unsigned",
        "Modules run that nobody signed",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let list = said(&stand.module(&daemon, &["list"]));
    assert!(list.contains("UNSIGNED"), "{list}");
    assert_eq!(daemon.stop(), 0);
}
