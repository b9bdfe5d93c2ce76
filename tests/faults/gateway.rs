//! One gateway under test: its configuration, its daemon, the sensors that feed it, and how its story ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::Disk;
use crate::oracle::History;
use crate::stand::Stand;
use crate::support::feed::{Feed, Payload};
use crate::support::{Daemon, Site, tidegate, verify, wait_for};

/// Length of the windows, milliseconds.
const WINDOW: i64 = 500;

/// What differs between cases.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Messages a second of each source.
    pub(crate) rate: u64,
    pub(crate) linger: &'static str,
    pub(crate) max_size: &'static str,
    /// Where the state is kept; by default beside the configuration.
    pub(crate) state: Option<PathBuf>,
    /// The ports that the gateway is told instead of the brokers' own.
    pub(crate) source_port: Option<u16>,
    pub(crate) uplink_port: Option<u16>,
    /// Further configuration, at its end.
    pub(crate) more: String,
    /// Whether canaries cut batches in two, see [`History`].
    pub(crate) split: bool,
    /// Whether the cloud sends commands. They take an uplink that comes up.
    pub(crate) commands: bool,
    /// A switch that breaks the daemon: see `daemon/tidegate/faults.rs`.
    pub(crate) broken: Option<&'static str>,
    /// What the daemon is started by.
    pub(crate) under: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rate: 400,
            linger: "20ms",
            max_size: "512MiB",
            state: None,
            source_port: None,
            uplink_port: None,
            more: String::new(),
            split: false,
            commands: true,
            broken: None,
            under: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A gateway with two sources, one for each version of MQTT.
pub(crate) struct Gateway<'a> {
    pub(crate) name: String,
    pub(crate) daemon: Daemon,
    /// It ended before it was ready, and was started again.
    pub(crate) revived: bool,
    stand: &'a Stand,
    plan: Plan,
    config: PathBuf,
    feeds: BTreeMap<&'static str, Feed>,
    commands: Option<Feed>,
    kills: u64,
    replaced: BTreeMap<String, u64>,
    /// Series for which an alarm must come.
    pub(crate) alarms: BTreeSet<String>,
    pub(crate) site: Site,
}

const SOURCES: [(&str, &str); 2] = [("plant", "3.1.1"), ("hall", "5")];
/// The source whose messages have an identity.
const IDENTIFIED: &str = "hall";

impl<'a> Gateway<'a> {
    /// Starts the daemon, and the sensors once its sessions stand. A daemon that ends before that is started again
    /// without what it was started by.
    pub(crate) fn start(stand: &'a Stand, name: &str, site: Site, plan: Plan) -> Self {
        let config = write_config(stand, name, &site, &plan);
        let daemon = spawn(&config, &plan, &plan.under);
        let mut gateway = Self {
            name: name.to_owned(),
            daemon,
            revived: false,
            stand,
            plan,
            config,
            feeds: BTreeMap::new(),
            commands: None,
            kills: 0,
            replaced: BTreeMap::new(),
            alarms: BTreeSet::new(),
            site,
        };
        if !gateway.ready_or_ended() {
            gateway.revived = true;
            gateway.revive();
            gateway.daemon.wait_ready();
        }
        for (source, _) in SOURCES {
            let topics = ["line1", "line2", "old"].map(|topic| format!("{name}/{source}/{topic}"));
            let client = format!("{name}-{source}-sensor");
            let feed = Feed::start(
                stand.field.borrow().port,
                &client,
                topics.to_vec(),
                gateway.plan.rate,
            );
            gateway.feeds.insert(source, feed);
        }
        if gateway.plan.commands {
            gateway.command();
        }
        gateway
    }

    /// Has the cloud send a command a second, from the moment at which the gateway listens to them.
    fn command(&mut self) {
        let cloud = self.stand.cloud.borrow();
        let topic = format!("tidegate/{}/command", self.name);
        let mut asked = 0_u64;
        wait_for("an answer to the first command", || {
            // What is sent before the uplink has subscribed is nobody's.
            if asked.is_multiple_of(20) {
                let first = format!("{{\"id\":\"first-{asked}\",\"command\":\"report\"}}");
                cloud.publish(&topic, [first]);
            }
            asked += 1;
            let messages = self.stand.messages(&self.name);
            messages
                .iter()
                .any(|message| message.kind == "reply")
                .then_some(())
        });
        let client = format!("{}-cloud", self.name);
        let command: Payload = |n, _| format!("{{\"id\":\"c-{n}\",\"command\":\"report\"}}");
        let feed = Feed::start_with(cloud.port, &client, vec![topic], 1, command);
        self.commands = Some(feed);
    }

    /// True when it takes messages, false when it has ended.
    pub(crate) fn ready_or_ended(&mut self) -> bool {
        wait_for("the daemon to be ready, or its end", || {
            if self.daemon.exited().is_some() {
                return Some(false);
            }
            matches!(self.daemon.get("/readyz"), Some((200, _))).then_some(true)
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.kills += 1;
        self.daemon.kill();
    }

    /// The power goes. The processor stops first: ext4 can say to a sync that is under way during its shutdown that all is
    /// well, which a daemon that went on would acknowledge.
    pub(crate) fn lose_power(&mut self, disk: &Disk) {
        self.daemon.signal("STOP");
        disk.cut();
        self.kill();
    }

    /// Notes that the database will be replaced. Whatever the daemon had of the sensors at its end, the broker has told
    /// them of by now or within a window of messages.
    pub(crate) fn expect_replacement(&mut self) {
        self.wait_published(200);
        for (source, feed) in &self.feeds {
            self.replaced
                .insert((*source).to_owned(), feed.acknowledged());
        }
    }

    /// Starts a daemon that has ended again, as it is without faults.
    pub(crate) fn revive(&mut self) {
        self.revive_under(&[]);
    }

    pub(crate) fn revive_under(&mut self, under: &[String]) {
        self.daemon = spawn(&self.config, &self.plan, under);
    }

    /// Messages that the cabinet's broker has taken so far.
    pub(crate) fn published(&self) -> u64 {
        self.feeds.values().map(Feed::acknowledged).sum()
    }

    /// Waits until the sensors have sent so many more.
    pub(crate) fn wait_published(&self, more: u64) {
        let target = self.published() + more;
        wait_for("the sensors", || (self.published() >= target).then_some(()));
    }

    pub(crate) fn set_rate(&self, rate: u64) {
        for feed in self.feeds.values() {
            feed.set_rate(rate);
        }
    }

    /// The ledger, where the daemon answers.
    pub(crate) fn ledger(&self) -> Option<Value> {
        let (_, body) = self.daemon.get("/api/v1/ledger")?;
        serde_json::from_str(&body).ok()
    }

    /// The state of the store, as the page has it.
    pub(crate) fn store_state(&self) -> Option<String> {
        let (_, status) = self.daemon.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&status).ok()?;
        status["store"]["state"].as_str().map(str::to_owned)
    }

    /// Waits until the store says that it is in this state, with the daemon alive.
    pub(crate) fn wait_state(&mut self, state: &str) {
        wait_for(&format!("the state {state}"), || {
            let ended = self.daemon.exited();
            assert_eq!(ended, None, "the daemon ended in a fault of the disk");
            (self.store_state()? == state).then_some(())
        });
    }

    /// The database's file.
    pub(crate) fn database(&self) -> PathBuf {
        let state = self.plan.state.clone();
        state
            .unwrap_or_else(|| self.site.path("state"))
            .join("tidegate.db")
    }

    /// Readings in the pipeline that sends them, 0 while nobody answers.
    pub(crate) fn stored(&self) -> u64 {
        let ledger = self.ledger().unwrap_or_default();
        ledger["pipelines"]["raw"]["stored"].as_u64().unwrap_or(0)
    }

    /// After the last fault: the sensors end, everything goes up, every window closes, the daemon ends in order. What
    /// happened is left for the oracle.
    pub(crate) fn settle(mut self) -> (History, Site) {
        let mut history = History {
            window: WINDOW,
            split: self.plan.split,
            kills: self.kills,
            replaced: self.replaced.clone(),
            alarms: self.alarms.clone(),
            identified: [IDENTIFIED.to_owned()].into(),
            ..History::default()
        };
        for (source, feed) in std::mem::take(&mut self.feeds) {
            let published = feed.finish();
            history.sent.insert(source.to_owned(), published.sent);
            history.resent.insert(source.to_owned(), published.resent);
        }
        if let Some(feed) = self.commands.take() {
            let sent = feed.finish().sent;
            history.commands = sent.iter().map(|sent| format!("c-{}", sent.n)).collect();
        }
        // A broker delivers in order, so that whatever came before the last message is settled with it.
        for sent in history.sent.values() {
            let last = &sent[sent.len() - 1];
            wait_for(&format!("{} of {}", last.n, last.series), || {
                self.stand
                    .has_come(&self.name, &last.series, last.n)
                    .then_some(())
            });
        }
        if !history.commands.is_empty() && self.replaced.is_empty() {
            wait_for("answers to all commands", || {
                let answered = self.stand.answered(&self.name);
                let open = history.commands.iter().find(|id| !answered.contains(*id));
                open.is_none().then_some(())
            });
        }
        wait_for("closed windows and an empty outbox", || {
            self.is_idle().then_some(())
        });
        self.stand.probe(&self.name);
        assert_eq!(self.daemon.stop(), 0, "{}", self.daemon.log());
        history.verified = verify(&self.config);
        history.quarantined = quarantined(&self.config);
        history.received = self.stand.messages(&self.name);
        (history, self.site)
    }

    fn is_idle(&self) -> bool {
        let Some((200, status)) = self.daemon.get("/api/v1/status") else {
            return false;
        };
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        let open = status["pipelines"].as_array().into_iter().flatten();
        let waiting = self.ledger().unwrap_or_default()["uplinks"]["cloud"]["waiting"].as_u64();
        open.map(|pipeline| pipeline["windows_open"].as_u64())
            .all(|open| open == Some(0))
            && waiting == Some(0)
    }
}

/// The numbers of the messages that are in quarantine, by source.
fn quarantined(config: &Path) -> BTreeMap<String, BTreeSet<u64>> {
    let ask = |arguments: &[&str]| -> Value {
        let mut command = tidegate();
        command.arg("quarantine").args(arguments);
        let output = command.args(["--json", "--config"]).arg(config).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut numbers = BTreeMap::<String, BTreeSet<u64>>::new();
    let page = ask(&["list", "--limit", "10000"]);
    assert_eq!(page["next"], Value::Null, "quarantine has a second page");
    for entry in page["items"].as_array().unwrap() {
        let Some(source) = entry["source"].as_str() else {
            continue;
        };
        let row = ask(&["show", &entry["id"].to_string()]);
        let payload = row["payload"].as_str().unwrap_or_default();
        let message: Value = serde_json::from_str(payload).unwrap_or_default();
        if let Some(n) = message["n"].as_u64() {
            numbers.entry(source.to_owned()).or_default().insert(n);
        }
    }
    numbers
}

fn spawn(config: &Path, plan: &Plan, under: &[String]) -> Daemon {
    let mut env: Vec<(&str, &str)> = Vec::new();
    env.extend(
        plan.env
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    env.extend(plan.broken.map(|broken| ("TIDEGATE_TEST_FAULTS", broken)));
    Daemon::spawn_under(under, config, &env)
}

fn write_config(stand: &Stand, name: &str, site: &Site, plan: &Plan) -> PathBuf {
    let state = plan.state.clone().unwrap_or_else(|| site.path("state"));
    let source_port = plan.source_port.unwrap_or(stand.field.borrow().port);
    let uplink_port = plan.uplink_port.unwrap_or(stand.cloud.borrow().port);
    let mut text = format!(
        "[gateway]\nid = \"{name}\"\nstate-dir = \"{}\"\n[store]\nlinger = \"{}\"\nmax-size = \"{}\"\n",
        state.display(),
        plan.linger,
        plan.max_size
    );
    for (source, version) in SOURCES {
        // What identifies a message is known of one of the two, so that both ways are seen.
        let identity = match source {
            IDENTIFIED => "identity = { field = \"n\" }\nidentity-window = 20000\n",
            _ => "",
        };
        text += &format!(
            "[source.{source}]\nkind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{source_port}\"\nversion = \"{version}\"\n\
             keep-alive = \"5s\"\nsubscribe = [{{ topic = \"{name}/{source}/#\", qos = 1 }}]\n\
             decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n{identity}"
        );
    }
    text += &format!(
        "[pipeline.raw]\nfrom = [\"plant\", \"hall\"]\n\
         filters = [{{ module = \"range\", settings = {{ min = 0, max = 1000000000 }} }}]\n\
         to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
         [pipeline.sums]\nfrom = [\"plant\", \"hall\"]\nsummary = {{ window = \"{WINDOW}ms\" }}\n\
         to = [{{ uplink = \"cloud\", send = \"summary\", priority = \"high\" }}]\n\
         [uplink.cloud]\nkind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{uplink_port}\"\nlinger = \"100ms\"\n\
         keep-alive = \"5s\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\ncommands = [\"report\"]\n{}",
        plan.more
    );
    site.write("tidegate.toml", &text)
}
