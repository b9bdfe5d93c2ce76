//! What outlives a case: the broker in the cabinet, the broker in the cloud, and an independent receiver there.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::oracle::Message;
use crate::support::{Broker, Site, wait_for};

/// Brokers and receiver, shared by cases that leave them alone: gateways differ in their names and topics.
pub(crate) struct Stand {
    pub(crate) field: RefCell<Broker>,
    pub(crate) cloud: RefCell<Broker>,
    child: Child,
    inboxes: Arc<Mutex<HashMap<String, Inbox>>>,
    _site: Site,
}

/// What came from one gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) messages: Vec<Message>,
    /// The highest value of each series among the readings.
    highest: HashMap<String, u64>,
    probes: HashSet<String>,
}

impl Stand {
    pub(crate) fn start() -> Self {
        let site = Site::new();
        let field = Broker::start(&site, "field");
        let cloud = Broker::start(&site, "cloud");
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &cloud.port.to_string()])
            .args([
                "-q",
                "1",
                "-c",
                "-i",
                "receiver",
                "-t",
                "tidegate/#",
                "-F",
                "%t %p",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let inboxes = Arc::<Mutex<HashMap<String, Inbox>>>::default();
        let output = BufReader::new(child.stdout.take().unwrap());
        let kept = Arc::clone(&inboxes);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((topic, payload)) = line.split_once(' ') {
                    receive(&kept, topic, payload);
                }
            }
        });
        let stand = Self {
            field: field.into(),
            cloud: cloud.into(),
            child,
            inboxes,
            _site: site,
        };
        // What is sent before the subscription stands is nobody's.
        stand.probe("nobody");
        stand
    }

    /// Everything that the cloud's broker acknowledged to a gateway so far has been received once this returns.
    pub(crate) fn probe(&self, gateway: &str) {
        let mut number = 0;
        wait_for("the receiver", || {
            number += 1;
            let (topic, token) = (format!("tidegate/{gateway}/probe"), number.to_string());
            // The receiver's session may hold much before it: only what does not come at all is sent again.
            if number % 20 == 1 {
                self.cloud
                    .borrow()
                    .publish_with(&topic, token.as_bytes(), &["-q", "1"]);
            }
            let mut inboxes = self.inboxes.lock().unwrap();
            let probes = &mut inboxes.entry(gateway.to_owned()).or_default().probes;
            (!probes.is_empty()).then(|| probes.clear())
        });
    }

    /// The numbered messages of a gateway so far.
    pub(crate) fn messages(&self, gateway: &str) -> Vec<Message> {
        let inboxes = self.inboxes.lock().unwrap();
        inboxes
            .get(gateway)
            .map(|inbox| inbox.messages.clone())
            .unwrap_or_default()
    }

    /// The ids of the commands that a gateway has answered.
    pub(crate) fn answered(&self, gateway: &str) -> HashSet<String> {
        let messages = self.messages(gateway);
        let replies = messages.iter().filter(|message| message.kind == "reply");
        replies
            .flat_map(|message| &message.items)
            .filter_map(|item| item["id"].as_str().map(str::to_owned))
            .collect()
    }

    /// Whether a reading of a series with this value, or a higher one, has come.
    pub(crate) fn has_come(&self, gateway: &str, series: &str, value: u64) -> bool {
        let inboxes = self.inboxes.lock().unwrap();
        let highest = inboxes
            .get(gateway)
            .and_then(|inbox| inbox.highest.get(series));
        highest.is_some_and(|highest| *highest >= value)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

fn receive(inboxes: &Mutex<HashMap<String, Inbox>>, topic: &str, payload: &str) {
    let mut levels = topic.split('/').skip(1);
    let (Some(gateway), Some(kind)) = (levels.next(), levels.next()) else {
        return;
    };
    let mut inboxes = inboxes.lock().unwrap();
    let inbox = inboxes.entry(gateway.to_owned()).or_default();
    match kind {
        "probe" => {
            inbox.probes.insert(payload.to_owned());
        }
        // What the cloud itself sends, and what is not numbered.
        "status" | "command" => {}
        _ => {
            // What is no JSON becomes a message that no oracle lets through.
            let message: Value = serde_json::from_str(payload).unwrap_or_default();
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            let items = message["items"].as_array().cloned().unwrap_or_default();
            for item in &items {
                if let (Some(series), Some(value)) =
                    (item["series"].as_str(), item["value"].as_u64())
                {
                    let highest = inbox.highest.entry(series.to_owned()).or_default();
                    *highest = value.max(*highest);
                }
            }
            inbox.messages.push(Message {
                stream: text("stream"),
                seq: message["seq"].as_u64().unwrap_or_default(),
                kind: text("kind"),
                items,
            });
        }
    }
}
