//! Commands from the cloud on the real binary and broker: answers, kills between, and payloads that mean harm.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::{Broker, Collector, Daemon, Site, configuration, numbered, verify, wait_for};

const COMMANDS: &str = "tidegate/gw-test/command";
const PIPELINE: &str = "[pipeline.count]\nfrom = [\"plant\"]\nsummary = { window = \"1s\" }\n\
     to = [{ uplink = \"cloud\", send = \"summary\" }]\n";

struct Cloud {
    site: Site,
    broker: Broker,
    collector: Collector,
    config: PathBuf,
}

impl Cloud {
    /// A gateway whose uplink takes `commands`, on a version of MQTT.
    fn new(commands: &str, version: &str) -> Self {
        let site = Site::new();
        let broker = Broker::start(&site, "broker");
        let collector = Collector::start(broker.port, "tidegate/#");
        let config = configuration(&site, &broker, PIPELINE);
        site.write(
            "conf.d/commands.toml",
            &format!(
                "[uplink.cloud]\nversion = \"{version}\"\ncommands = {commands}\nlinger = \"100ms\"\n"
            ),
        );
        Self {
            site,
            broker,
            collector,
            config,
        }
    }

    fn order(&self, command: &Value) {
        self.broker.publish(COMMANDS, [command.to_string()]);
    }

    /// The distinct replies to a command, in order.
    fn replies(&self, id: &str) -> Vec<Value> {
        let replies = self.collector.items("reply");
        replies
            .into_iter()
            .filter(|reply| reply["id"] == id)
            .collect()
    }

    /// Waits for a reply with that status.
    #[track_caller]
    fn wait_reply(&self, id: &str, status: &str) -> Value {
        wait_for(&format!("the reply `{status}` to {id}"), || {
            self.replies(id)
                .into_iter()
                .find(|reply| reply["status"] == status)
        })
    }

    /// How often each number came up, by the key that names the command.
    fn numbers(&self, key: &str, id: &str) -> BTreeMap<u64, u32> {
        let mut numbers = BTreeMap::new();
        for item in self.collector.items("readings") {
            if item[key] == id {
                *numbers.entry(item["value"].as_u64().unwrap()).or_default() += 1;
            }
        }
        numbers
    }
}

#[test]
fn commands_are_answered_once_carried_out_and_refused_where_they_are_not_allowed() {
    for version in ["5", "3.1.1"] {
        let cloud = Cloud::new("[\"report\", \"detail\", \"rollback\"]", version);
        // Sent before the gateway was ever there: nobody kept it. Sent while it is away: the broker did.
        let mut daemon = Daemon::start(&cloud.config);
        cloud.order(&json!({"id": "r1", "command": "report"}));
        let report = cloud.wait_reply("r1", "done");
        assert_eq!(report["data"]["gateway"]["id"], "gw-test", "{report}");
        assert!(report["data"]["ledger"]["uplinks"]["cloud"].is_object());
        assert_eq!(
            report["data"]["commands"]["uplinks"][0]["allowed"][0],
            "report"
        );

        daemon.kill();
        cloud.order(&json!({"id": "r2", "command": "report"}));
        daemon = Daemon::start(&cloud.config);
        cloud.wait_reply("r2", "done");

        // The same id is the same command, on the far side of a kill as well.
        cloud.order(&json!({"id": "r1", "command": "report"}));
        wait_for("the second answer", || {
            (cloud.replies("r1").len() > 1).then_some(())
        });
        assert_eq!(cloud.replies("r1")[0], cloud.replies("r1")[1]);

        cloud.order(&json!({"id": "b", "command": "backfill", "series": "**", "from": 1, "to": 2}));
        let refused = cloud.wait_reply("b", "error");
        assert!(
            refused["text"]
                .as_str()
                .unwrap()
                .contains("takes no `backfill`"),
            "{refused}"
        );
        cloud.order(&json!({"id": "m", "command": "rollback", "module": "range"}));
        let refused = cloud.wait_reply("m", "error");
        assert!(
            refused["text"]
                .as_str()
                .unwrap()
                .contains("no pipeline runs a module `range`"),
            "{refused}"
        );
        assert!(daemon.log().contains("command refused"), "it is on record");
        let events = cloud.collector.items("event");
        assert!(
            events
                .iter()
                .any(|event| event["code"] == "command" && event["data"]["id"] == "b")
        );
        let counts = daemon.json("/api/v1/status")["commands"]["uplinks"][0].clone();
        assert_eq!(
            (&counts["done"], &counts["refused"], &counts["repeated"]),
            (&2.into(), &2.into(), &1.into())
        );
        assert_eq!(daemon.stop(), 0);
        assert_eq!(verify(&cloud.config).0, 0);
    }
}

#[test]
fn payloads_that_mean_harm_are_answered_or_logged_and_lose_nothing() {
    for version in ["5", "3.1.1"] {
        let cloud = Cloud::new("[\"report\"]", version);
        let mut daemon = Daemon::start(&cloud.config);
        cloud.broker.publish("plant/line1", (0..100).map(numbered));
        let send = |payload: &[u8]| cloud.broker.publish_with(COMMANDS, payload, &["-q", "1"]);
        send(b" ");
        send(b"garbage \xff\x00");
        send(&[b'['; 60_000]);
        send(&vec![b'x'; 200_000]);
        // Larger than any packet that is read: the connection ends, and what the broker kept is thrown away.
        send(&vec![b'x'; 1_000_000]);
        send(br#"{"id":7,"command":"report"}"#);
        cloud
            .broker
            .publish("plant/line1", (100..200).map(numbered));
        // What was sent while the connection was gone is gone on 3.1.1: ask until somebody answers.
        let mut asked = Instant::now() - Duration::from_secs(9);
        wait_for("the line", || {
            if asked.elapsed() > Duration::from_secs(3) {
                asked = Instant::now();
                cloud.order(&json!({"id": "wrong", "command": "report", "x": [{}]}));
            }
            (!cloud.replies("wrong").is_empty()).then_some(())
        });
        let reply = &cloud.replies("wrong")[0];
        assert_eq!(reply["status"], "error");
        assert!(
            reply["text"]
                .as_str()
                .unwrap()
                .contains("`x` is no key of `report`")
        );
        cloud.order(&json!({"id": "right", "command": "report"}));
        cloud.wait_reply("right", "done");
        daemon.wait_received("plant", 200);
        assert!(daemon.log().contains("is no JSON"), "{}", daemon.log());
        assert_eq!(daemon.stop(), 0);
        let (code, report) = verify(&cloud.config);
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["sources"]["plant"]["decoded"], 200);
    }
}

#[test]
fn a_detail_survives_kills_and_ends_by_itself() {
    let cloud = Cloud::new("[\"detail\"]", "5");
    let mut daemon = Daemon::start(&cloud.config);
    cloud.broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);
    cloud.order(&json!({"id": "d", "command": "detail", "series": "plant/line1/*", "seconds": 8}));
    cloud.wait_reply("d", "accepted");
    cloud.broker.publish("plant/line1", (10..20).map(numbered));
    cloud.broker.publish("plant/line2", (0..10).map(numbered));
    daemon.wait_received("plant", 30);
    daemon.kill();
    daemon = Daemon::start(&cloud.config);
    let shown = daemon.json("/api/v1/status")["commands"]["details"][0].clone();
    assert_eq!(
        (&shown["id"], &shown["series"]),
        (&"d".into(), &"plant/line1/*".into())
    );
    assert!(
        daemon
            .get("/")
            .unwrap()
            .1
            .contains("Commands from the cloud")
    );
    cloud.broker.publish("plant/line1", (20..30).map(numbered));
    let end = cloud.wait_reply("d", "done");
    assert!(end["data"]["sent"].as_u64().unwrap() >= 20, "{end}");
    cloud.broker.publish("plant/line1", (30..40).map(numbered));
    daemon.wait_received("plant", 50);
    daemon.wait_delivered();
    let numbers: Vec<u64> = cloud.numbers("detail", "d").into_keys().collect();
    assert_eq!(numbers, (10..30).collect::<Vec<u64>>());
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&cloud.config).0, 0);
}

#[test]
fn a_backfill_sends_every_reading_once_through_kills() {
    const COUNT: u64 = 20_000;
    let cloud = Cloud::new("[\"backfill\"]", "5");
    let mut daemon = Daemon::start(&cloud.config);
    cloud
        .broker
        .publish("plant/line1", (0..COUNT).map(numbered));
    daemon.wait_received("plant", COUNT);
    let to = support::BEGIN + 10 * COUNT;
    cloud.order(&json!({
        "id": "f", "command": "backfill", "series": "plant/line1/*", "from": support::BEGIN, "to": to
    }));
    // Kills while it is at work: nothing is left out, and nothing is queued twice.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(150));
        daemon.kill();
        daemon = Daemon::start(&cloud.config);
    }
    let end = cloud.wait_reply("f", "done");
    assert_eq!(
        (&end["data"]["sent"], &end["data"]["complete"]),
        (&COUNT.into(), &true.into())
    );
    daemon.wait_delivered();
    let numbers = cloud.numbers("backfill", "f");
    assert_eq!(numbers.len() as u64, COUNT);
    assert!(numbers.values().all(|times| *times == 1));
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&cloud.config);
    assert_eq!(code, 0, "{report}");
    drop(cloud.site);
}
