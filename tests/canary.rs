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

use serde_json::Value;
use support::{
    Broker, Collector, Daemon, Site, assert_numbers, configuration, hostile_components, numbered,
    run, verify, wait_for,
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

    fn events(&self, code: &str) -> Vec<Value> {
        let events = self.collector.items("event").into_iter();
        events.filter(|event| event["code"] == code).collect()
    }
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
    assert!(states.contains(&"canary".into()) && states.contains(&"active".into()));
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
    let roll_back = |config: &Path| {
        let config = config.to_str().unwrap();
        run(&["module", "rollback", "keeper", "--config", config])
    };
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
