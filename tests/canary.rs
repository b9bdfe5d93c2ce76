//! New generations in the running gateway: good ones take over, bad ones are put back, and no reading is lost on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;
use support::{
    Broker, Collector, Daemon, Site, assert_numbers, configuration, hostile_components, numbered,
    verify, wait_for,
};

const UPLINK: &str = "to = [{ uplink = \"cloud\", send = \"readings\" }]";

/// A gateway whose pipeline `p` runs what `conf.d/p.toml` says.
struct Stand {
    config: PathBuf,
    site: Site,
    broker: Broker,
    collector: Collector,
    sent: u64,
    /// A kill between a commit and its acknowledgement makes the broker send again.
    killed: bool,
}

impl Stand {
    fn new(rollout: &str) -> Self {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let collector = Collector::start(broker.port, "tidegate/#");
        let rest = format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[rollout]\n{rollout}\n",
            site.path("modules").display()
        );
        let config = configuration(&site, &broker, &rest);
        fs::create_dir_all(site.path("modules")).unwrap();
        Self {
            config,
            site,
            broker,
            collector,
            sent: 0,
            killed: false,
        }
    }

    /// Puts a test guest down under a name and a version of its own.
    fn install(&self, guest: &str, name: &str, version: &str) {
        let from = hostile_components();
        let text = fs::read_to_string(from.join(guest).with_extension("json")).unwrap();
        let mut manifest: Value = serde_json::from_str(&text).unwrap();
        manifest["name"] = name.into();
        manifest["version"] = version.into();
        let to = self.site.path("modules").join(name);
        fs::copy(
            from.join(guest).with_extension("wasm"),
            to.with_extension("wasm"),
        )
        .unwrap();
        fs::write(to.with_extension("json"), manifest.to_string()).unwrap();
    }

    fn filter(&self, module: &str, settings: &str) {
        self.site.write(
            "conf.d/p.toml",
            &format!(
                "[pipeline.p]\nfrom = [\"plant\"]\nfilters = [{{ module = \"{module}\", settings = {{ {settings} }} }}]\n{UPLINK}\n"
            ),
        );
    }

    /// Sends so many more readings and waits until they are taken in.
    fn send(&mut self, daemon: &Daemon, count: u64) {
        let numbers = self.sent..self.sent + count;
        self.broker.publish("plant/line1", numbers.map(numbered));
        self.sent += count;
        daemon.wait_received("plant", self.sent);
    }

    /// Everything sent went up exactly once, and the books say so.
    fn check_whole(&self, daemon: &Daemon) {
        daemon.wait_delivered();
        assert_numbers(&self.collector.items("readings"), self.sent);
        let ledger = daemon.ledger();
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let stored = ledger["pipelines"]["p"]["stored"].as_u64().unwrap();
        assert!(
            stored == self.sent || (self.killed && stored > self.sent),
            "{ledger}"
        );
        assert_eq!(ledger["pipelines"]["p"]["quarantined"], 0, "{ledger}");
    }

    fn kill(&mut self, daemon: &mut Daemon) {
        self.killed = true;
        daemon.kill();
    }

    /// Entries of the audit log.
    fn recorded(&self, action: &str) -> Vec<Value> {
        let output = support::tidegate()
            .args(["audit", "show", "--json", "--limit", "1000", "--state-dir"])
            .arg(self.site.path("state"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let entries = text.lines().map(|line| serde_json::from_str(line).unwrap());
        entries
            .filter(|entry: &Value| entry["action"] == action)
            .collect()
    }

    fn events(&self, code: &str) -> Vec<Value> {
        let events = self.collector.items("event").into_iter();
        events.filter(|event| event["code"] == code).collect()
    }
}

/// `tidegate module …` on the running gateway.
fn module(config: &Path, daemon: &Daemon, arguments: &[&str]) -> Output {
    let listen = format!("\"127.0.0.1:{}\"", daemon.http);
    support::tidegate()
        .env("TIDEGATE__STATUS__LISTEN", listen)
        .arg("module")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn rollout(daemon: &Daemon) -> Value {
    daemon.json("/api/v1/status")["pipelines"][0]["rollout"].clone()
}

fn generation(daemon: &Daemon) -> String {
    let status = daemon.json("/api/v1/status");
    status["pipelines"][0]["generation"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Waits until a candidate is there.
fn wait_trial(daemon: &Daemon) -> Value {
    wait_for("a candidate", || {
        let rollout = rollout(daemon);
        (!rollout["candidate"].is_null()).then_some(rollout)
    })
}

/// Waits until the candidate of this generation is decided on.
fn wait_decision(daemon: &Daemon, candidate: &str) -> Value {
    wait_for("a decision", || {
        let rollout = rollout(daemon);
        let decided = rollout["decision"]["generation"] == candidate;
        (rollout["candidate"].is_null() && decided).then(|| rollout["decision"].clone())
    })
}

#[test]
fn every_kind_of_bad_candidate_is_put_back_with_its_reason_and_nothing_is_lost() {
    let mut stand = Stand::new("min-samples = 1000000\nsettings-mode = \"canary\"");
    stand.install("varies", "varies", "0.1.0");
    stand.filter("varies", "behaviour = \"none\"");
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon, 100);
    let good = generation(&daemon);
    for (behaviour, reason) in [("trap", "trap"), ("slow", "latency"), ("leak", "memory")] {
        stand.filter("varies", &format!("behaviour = \"{behaviour}\""));
        daemon.signal("HUP");
        let trial = wait_trial(&daemon);
        assert_eq!(trial["state"], "canary", "{trial}");
        let candidate = trial["candidate"]["generation"]
            .as_str()
            .unwrap()
            .to_owned();
        // Time is judged by batches: there have to be some.
        for _ in 0..60 {
            stand.send(&daemon, 20);
            if rollout(&daemon)["candidate"].is_null() {
                break;
            }
        }
        let decision = wait_decision(&daemon, &candidate);
        assert_eq!(decision["reason"], reason, "{decision}");
        assert_eq!(generation(&daemon), good);
    }
    // What answers otherwise is heard by nobody while it is a shadow.
    stand.site.write(
        "conf.d/rollout.toml",
        "[rollout]\nsettings-mode = \"shadow\"\nmin-samples = 1000\n",
    );
    stand.filter("varies", "behaviour = \"diverge\"");
    daemon.signal("HUP");
    let trial = wait_trial(&daemon);
    assert_eq!(trial["state"], "shadow", "{trial}");
    let candidate = trial["candidate"]["generation"]
        .as_str()
        .unwrap()
        .to_owned();
    stand.send(&daemon, 200);
    let decision = wait_decision(&daemon, &candidate);
    assert_eq!(decision["reason"], "difference", "{decision}");
    assert_eq!(generation(&daemon), good);

    stand.check_whole(&daemon);
    let reasons: Vec<Value> = stand
        .events("rollout-rolled-back")
        .iter()
        .map(|event| event["data"]["reason"].clone())
        .collect();
    assert_eq!(reasons, ["trap", "latency", "memory", "difference"]);
    // Each was on record before it was in the store.
    let recorded = stand.recorded("generation.rolled-back");
    let codes: Vec<&Value> = recorded
        .iter()
        .map(|entry| &entry["object"]["code"])
        .collect();
    assert_eq!(codes, ["trap", "latency", "memory", "difference"]);
    assert_eq!(stand.recorded("generation.trial").len(), 4);
    assert_eq!(stand.recorded("generation.active").len(), 1);
    // It is not tried again, also not after a restart.
    assert_eq!(daemon.stop(), 0);
    daemon = Daemon::start(&stand.config);
    assert_eq!(generation(&daemon), good);
    assert!(rollout(&daemon)["candidate"].is_null());
    assert!(
        daemon.log().contains("is not tried again"),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

#[test]
fn a_good_version_takes_over_one_that_wants_more_is_refused_and_an_operator_goes_back() {
    let mut stand = Stand::new("min-samples = 300");
    stand.install("trap", "keeper", "1.0.0");
    stand.filter("keeper", "");
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon, 100);
    let first = generation(&daemon);

    stand.install("varies", "keeper", "2.0.0");
    daemon.signal("HUP");
    let candidate = wait_trial(&daemon)["candidate"]["generation"].clone();
    let states: Vec<Value> = daemon.json("/api/v1/modules")["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|module| module["state"].clone())
        .collect();
    assert_eq!(states.len(), 2, "{states:?}");
    check_visible(&stand.config, &daemon, candidate.as_str().unwrap());
    assert!(states.contains(&"candidate".into()) && states.contains(&"active".into()));
    stand.send(&daemon, 400);
    stand.send(&daemon, 20);
    let decision = wait_decision(&daemon, candidate.as_str().unwrap());
    assert!(decision["reason"].is_null(), "{decision}");
    let second = generation(&daemon);
    assert_eq!(second, *candidate.as_str().unwrap());
    assert_ne!(second, first);

    // The next one wants secrets, which the one before it did not.
    stand.install("greedy", "keeper", "3.0.0");
    daemon.signal("HUP");
    let decision = wait_for("the refusal", || {
        let decision = rollout(&daemon)["decision"].clone();
        (decision["reason"] == "drift").then_some(decision)
    });
    assert!(
        decision["why"].as_str().unwrap().contains("wants secrets"),
        "{decision}"
    );
    assert_eq!(generation(&daemon), second);
    stand.send(&daemon, 50);

    // Somebody does not like the second one: the first is here, whatever became of its file.
    let slots = daemon.json("/api/v1/modules")["slots"].clone();
    assert_eq!(slots[0]["last_good"]["version"], "1.0.0", "{slots}");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let decided = "tidegate_rollout_last_decision_info{pipeline=\"p\",generation=";
    assert!(
        metrics.contains(decided) && metrics.contains("reason=\"drift\"} 1"),
        "{metrics}"
    );
    let roll_back = |config: &Path| module(config, &daemon, &["rollback", "keeper"]);
    let done = roll_back(&stand.config);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(generation(&daemon), first);
    let again = roll_back(&stand.config);
    assert!(!again.status.success());
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("nothing to go"),
        "{again:?}"
    );
    stand.send(&daemon, 50);
    stand.kill(&mut daemon);
    daemon = Daemon::start(&stand.config);
    assert_eq!(
        generation(&daemon),
        first,
        "it was durable when the command ended"
    );
    stand.send(&daemon, 50);
    stand.check_whole(&daemon);
    assert_eq!(stand.events("rollout-promoted").len(), 1);
    assert_eq!(
        stand.events("rollout-rolled-back")[0]["data"]["reason"],
        "operator"
    );
    assert!(!stand.events("rollout-refused").is_empty());
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

/// A canary of module `keeper` is on the page, in the API, in the metrics and on the command line.
fn check_visible(config: &Path, daemon: &Daemon, candidate: &str) {
    let modules = daemon.json("/api/v1/modules");
    let slot = &modules["slots"][0];
    assert_eq!(slot["state"], "canary", "{modules}");
    assert_eq!(slot["active"]["version"], "1.0.0", "{modules}");
    assert_eq!(slot["candidate"]["version"], "2.0.0", "{modules}");
    assert_eq!(slot["breaker"], "running", "{modules}");
    let tried = &modules["rollouts"][0]["rollout"]["candidate"];
    assert_eq!(tried["generation"], candidate, "{modules}");
    assert_eq!(tried["share"], 0.05, "{modules}");
    assert_eq!(tried["min_samples"], 300, "{modules}");
    assert!(tried["seconds_left"].as_u64().unwrap() > 0, "{modules}");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    for line in [
        "tidegate_rollout_state{pipeline=\"p\",state=\"canary\"} 1",
        "tidegate_rollout_series_share{pipeline=\"p\"} 0.05",
        "tidegate_rollout_samples_needed{pipeline=\"p\"} 300",
        "module=\"keeper\",version=\"2.0.0\"",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    let (_, page) = daemon.get("/").unwrap();
    for words in [
        &format!("Canary <code>{candidate}</code>"),
        "speaks for 5 % of the series",
        "“tidegate module rollback keeper” drops it",
    ] {
        assert!(page.contains(words), "no {words} in {page}");
    }
    let listed = module(config, daemon, &["list", "--running"]);
    let lines = text(&listed.stdout);
    for words in ["keeper 1.0.0", "canary     keeper 2.0.0", "speaks for 5 %"] {
        assert!(lines.contains(words), "no {words} in {lines}");
    }
}

#[test]
fn a_decoder_is_as_visible_as_a_filter() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let rest = format!(
        "[source.ship]\nkind = \"mqtt\"\nurl = \"{}\"\nsubscribe = [{{ topic = \"ship/#\", qos = 1 }}]\n\
         decode = {{ module = \"nmea\" }}\n[pipeline.p]\nfrom = [\"ship\"]\n{UPLINK}\n",
        broker.url()
    );
    let config = configuration(&site, &broker, &rest);
    let mut daemon = Daemon::start(&config);
    let gga = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
    broker.publish("ship/gps", [gga, "no sentence"]);
    daemon.wait_received("ship", 2);
    let modules = daemon.json("/api/v1/modules");
    let slots = modules["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["source"] == "ship").unwrap();
    assert_eq!(slot["active"]["module"], "nmea", "{modules}");
    let status = daemon.json("/api/v1/status");
    let sources = status["sources"].as_array().unwrap();
    let source = sources
        .iter()
        .find(|source| source["name"] == "ship")
        .unwrap();
    let decoder = &source["decoder"];
    assert_eq!(decoder["rows_in"], 2, "{decoder}");
    assert!(decoder["rows_out"].as_u64().unwrap() > 0, "{decoder}");
    assert!(decoder["calls"].as_u64().unwrap() > 0, "{decoder}");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    for line in [
        "tidegate_decoder_info{source=\"ship\",module=\"nmea\"",
        "tidegate_decoder_messages_total{source=\"ship\"} 2",
        "tidegate_decoder_tripped{source=\"ship\"} 0",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    assert!(daemon.get("/").unwrap().1.contains("decoded by nmea"));
    let listed = text(&module(&config, &daemon, &["list"]).stdout);
    assert!(listed.contains("source ship\n  decoder"), "{listed}");
    assert!(listed.contains("built in\n"), "{listed}");
    assert_eq!(daemon.stop(), 0);
    let stopped = module(&config, &daemon, &["list", "--running"]);
    assert!(!stopped.status.success(), "{stopped:?}");
}

/// The names of all files of a directory and below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// Somebody who tries a module.
fn try_out(stand: &Stand, arguments: &[&str]) -> Child {
    let file = hostile_components().join("varies.wasm");
    support::tidegate()
        .args(["module", "try"])
        .arg(file)
        .args(["--pipeline", "p", "--config"])
        .arg(&stand.config)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends readings until whoever tries has a verdict: the exit code, and what was printed.
fn until_judged(stand: &mut Stand, daemon: &Daemon, mut child: Child) -> (i32, String) {
    while child.try_wait().unwrap().is_none() {
        stand.send(daemon, 20);
    }
    let output = child.wait_with_output().unwrap();
    let printed = text(&output.stdout) + &text(&output.stderr);
    (output.status.code().unwrap(), printed)
}

#[test]
fn a_module_that_somebody_tries_is_judged_heard_by_nobody_and_leaves_nothing() {
    let mut stand = Stand::new("min-samples = 400");
    stand.filter("range", "min = 0");
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon, 50);
    let first = generation(&daemon);
    let state = stand.site.path("state");
    let kept = || [files(&state.join("modules")), files(&state.join("cache"))];
    let before = kept();
    assert!(!before[0].is_empty() && !before[1].is_empty(), "{before:?}");

    let passing = try_out(&stand, &[]);
    let (code, printed) = until_judged(&mut stand, &daemon, passing);
    assert!(
        code == 0 && printed.contains("verdict: passed"),
        "{code} {printed}"
    );
    assert!(printed.contains("at the end of the chain"), "{printed}");
    for (behaviour, verdict) in [
        ("trap", "verdict: trap"),
        ("slow", "verdict: latency"),
        ("leak", "verdict: memory"),
        ("diverge", "verdict: difference"),
    ] {
        let settings = format!("{{\"behaviour\": \"{behaviour}\"}}");
        let bad = try_out(&stand, &["--settings", &settings]);
        let (code, printed) = until_judged(&mut stand, &daemon, bad);
        assert!(code == 1 && printed.contains(verdict), "{code} {printed}");
        if behaviour == "diverge" {
            assert!(printed.contains(" → "), "it says what differs: {printed}");
        }
    }
    // In the place of the filter that is there.
    let settings = "{\"behaviour\": \"none\"}";
    let instead = try_out(&stand, &["--filter", "range", "--settings", settings]);
    let (code, printed) = until_judged(&mut stand, &daemon, instead);
    assert!(
        code == 0 && printed.contains("in the place of filter `range`"),
        "{printed}"
    );

    // Whoever looks on goes away: so does what they looked at.
    let tried = || daemon.json("/api/v1/modules")["rollouts"][0]["rollout"]["tried"].clone();
    let mut watching = try_out(&stand, &["--samples", "1000000"]);
    wait_for("the candidate", || {
        (tried()[0]["module"] == "varies").then_some(())
    });
    assert!(daemon.get("/").unwrap().1.contains("tried now, unsigned"));
    let second = try_out(&stand, &[]).wait_with_output().unwrap();
    assert!(text(&second.stderr).contains("one at a time"), "{second:?}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    wait_for("its end", || {
        (tried() == serde_json::json!([])).then_some(())
    });
    stand.send(&daemon, 50);

    assert_eq!(generation(&daemon), first);
    let record = rollout(&daemon);
    assert!(
        record["candidate"].is_null() && record["decision"].is_null(),
        "{record}"
    );
    assert_eq!(kept(), before, "nothing of it is kept");

    // The power goes: whoever looks on is told, and nothing comes back.
    let mut watching = try_out(&stand, &["--samples", "1000000"]);
    wait_for("the candidate", || {
        (tried()[0]["module"] == "varies").then_some(())
    });
    stand.kill(&mut daemon);
    assert_eq!(watching.wait().unwrap().code(), Some(1));
    daemon = Daemon::start(&stand.config);
    let tried = daemon.json("/api/v1/modules")["rollouts"][0]["rollout"]["tried"].clone();
    assert_eq!(tried, serde_json::json!([]));
    assert_eq!(generation(&daemon), first);
    stand.send(&daemon, 50);

    // What cannot be is said with what to do.
    let check = |arguments: &[&str], words: &str| {
        let refused = try_out(&stand, arguments).wait_with_output().unwrap();
        let said = text(&refused.stderr);
        assert!(
            refused.status.code() == Some(1) && said.contains(words),
            "{refused:?}"
        );
    };
    check(&["--filter", "rnage"], "there are: range");
    check(&["--settings", "{\"behavior\": \"x\"}"], "--settings");
    check(&["--for", "2h"], "up to 60m");
    stand
        .site
        .write("conf.d/policy.toml", "[modules]\nallow-unsigned = false\n");
    daemon.signal("HUP");
    wait_for("the policy", || {
        let refused = try_out(&stand, &["--filter", "none"])
            .wait_with_output()
            .unwrap();
        text(&refused.stderr)
            .contains("allow-unsigned")
            .then_some(())
    });
    stand.check_whole(&daemon);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

#[test]
fn what_nobody_signed_runs_no_longer_than_the_site_allows_it() {
    let mut stand = Stand::new("min-samples = 1000000");
    stand.install("varies", "varies", "0.1.0");
    stand.filter("varies", "behaviour = \"none\"");
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon, 50);
    let unsigned = generation(&daemon);
    stand.filter("range", "min = 0");
    stand
        .site
        .write("conf.d/policy.toml", "[modules]\nallow-unsigned = false\n");
    daemon.signal("HUP");
    // No trial: that would leave it running.
    wait_for("the swap", || {
        (generation(&daemon) != unsigned).then_some(())
    });
    assert!(rollout(&daemon)["candidate"].is_null());
    let signed = generation(&daemon);
    let back = module(&stand.config, &daemon, &["rollback", "range"]);
    assert!(!back.status.success(), "{back:?}");
    assert!(text(&back.stderr).contains("signed by nobody"), "{back:?}");
    assert_eq!(generation(&daemon), signed);
    stand.send(&daemon, 50);
    assert_eq!(daemon.stop(), 0);

    // The same at a start: what is on record is not made again.
    let _allowed = fs::remove_file(stand.site.path("conf.d/policy.toml"));
    stand.filter("varies", "behaviour = \"none\"");
    stand
        .site
        .write("conf.d/rollout.toml", "[rollout]\nmode = \"immediate\"\n");
    daemon = Daemon::start(&stand.config);
    assert_eq!(generation(&daemon), unsigned);
    stand.send(&daemon, 50);
    stand.kill(&mut daemon);
    stand.filter("range", "min = 0");
    stand
        .site
        .write("conf.d/rollout.toml", "[rollout]\nmode = \"canary\"\n");
    stand
        .site
        .write("conf.d/policy.toml", "[modules]\nallow-unsigned = false\n");
    daemon = Daemon::start(&stand.config);
    assert_eq!(generation(&daemon), signed);
    assert!(
        daemon.log().contains("signed by nobody"),
        "{}",
        daemon.log()
    );
    stand.send(&daemon, 50);
    stand.check_whole(&daemon);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

#[test]
fn a_kill_in_mid_canary_goes_on_with_the_trial() {
    let mut stand = Stand::new("min-samples = 600\nsettings-mode = \"canary\"");
    stand.install("varies", "varies", "0.1.0");
    stand.filter("varies", "behaviour = \"none\"");
    let mut daemon = Daemon::start(&stand.config);
    stand.send(&daemon, 50);
    let first = generation(&daemon);
    stand.filter("varies", "behaviour = \"also none\"");
    daemon.signal("HUP");
    let candidate = wait_trial(&daemon)["candidate"]["generation"].clone();
    for _ in 0..2 {
        stand.send(&daemon, 100);
        stand.kill(&mut daemon);
        daemon = Daemon::start(&stand.config);
        let rollout = rollout(&daemon);
        assert_eq!(rollout["candidate"]["generation"], candidate, "{rollout}");
        assert_eq!(generation(&daemon), first);
    }
    stand.send(&daemon, 700);
    stand.send(&daemon, 20);
    let decision = wait_decision(&daemon, candidate.as_str().unwrap());
    assert!(decision["reason"].is_null(), "{decision}");
    stand.kill(&mut daemon);
    daemon = Daemon::start(&stand.config);
    assert_eq!(generation(&daemon), *candidate.as_str().unwrap());
    stand.check_whole(&daemon);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}

#[test]
fn a_generation_with_which_the_daemon_keeps_dying_soon_is_put_back() {
    let mut stand = Stand::new("");
    stand.install("varies", "varies", "0.1.0");
    stand.filter("varies", "behaviour = \"none\"");
    let mut daemon = Daemon::start(&stand.config);
    let first = generation(&daemon);
    stand.filter("varies", "behaviour = \"also none\"");
    daemon.signal("HUP");
    wait_for("the swap", || (generation(&daemon) != first).then_some(()));
    let second = generation(&daemon);
    for _ in 0..2 {
        stand.kill(&mut daemon);
        daemon = Daemon::start(&stand.config);
        assert_eq!(generation(&daemon), second);
    }
    stand.kill(&mut daemon);
    daemon = Daemon::start(&stand.config);
    assert_eq!(generation(&daemon), first);
    assert_eq!(rollout(&daemon)["decision"]["reason"], "boot-loop");
    stand.send(&daemon, 50);
    stand.check_whole(&daemon);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn dozens_of_swaps_under_load_lose_and_repeat_nothing() {
    const SWAPS: u64 = 30;
    let mut stand = Stand::new("");
    stand.install("varies", "varies", "0.1.0");
    stand.filter("varies", "behaviour = \"0\"");
    let mut daemon = Daemon::start(&stand.config);
    let mut before = generation(&daemon);
    std::thread::scope(|scope| {
        let (broker, sent) = (&stand.broker, 6000);
        let load = scope.spawn(move || {
            broker.publish("plant/line1", (0..sent).map(numbered));
        });
        for swap in 1..=SWAPS {
            stand.filter("varies", &format!("behaviour = \"{swap}\""));
            daemon.signal("HUP");
            before = wait_for("the swap", || {
                let now = generation(&daemon);
                (now != before).then_some(now)
            });
        }
        load.join().unwrap();
    });
    stand.sent = 6000;
    daemon.wait_received("plant", stand.sent);
    stand.check_whole(&daemon);
    assert_eq!(stand.events("rollout-promoted").len() as u64, SWAPS);
    let pid = daemon.pid();
    assert!(
        pid > 0 && !daemon.log().contains("draining"),
        "nothing was wired anew"
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&stand.config).0, 0);
}
