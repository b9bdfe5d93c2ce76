//! The uplink against a broker that does what the test says, over real sockets, with both versions of the protocol.

mod broker;
mod line;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_domain::delivery::{Request, SealedMessage, Settled, Verdict};
use tidegate_domain::item::{ItemKind, Priority};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::broker::{Broker, Packet, Publish};
use crate::config::tests::config;
use crate::{
    Credentials, LinkState, MqttUplinkConfig, Outbox, OutboxError, StatusState, UplinkError,
    UplinkHandle, UplinkStatus, Version, mqtt,
};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// An outbox in memory.
#[derive(Default)]
struct Shelf {
    messages: Mutex<BTreeMap<u64, SealedMessage>>,
    last_sealed: Mutex<u64>,
    /// How often a connection asked what was sealed before it.
    openings: watch::Sender<usize>,
}

impl Shelf {
    fn seal(&self, seq: u64, text: &str) {
        self.seal_at(Priority::Normal, seq, text);
    }

    fn seal_at(&self, priority: Priority, seq: u64, text: &str) {
        let message = SealedMessage {
            seq,
            kind: ItemKind::Summary,
            priority,
            items: 1,
            body: format!(r#"{{"text":"{text}"}}"#).into_bytes(),
        };
        self.messages.lock().unwrap().insert(seq, message);
        *self.last_sealed.lock().unwrap() = seq;
    }

    async fn opened(&self, times: usize) {
        let mut openings = self.openings.subscribe();
        openings.wait_for(|count| *count >= times).await.unwrap();
    }
}

impl Outbox for Shelf {
    fn next(&self, _: usize, request: &mut Request) -> Result<Vec<SealedMessage>, OutboxError> {
        let messages = self.messages.lock().unwrap();
        let (mut count, mut bytes) = (0, 0);
        let urgent = |message: &&SealedMessage| message.priority == Priority::Alarm;
        let alarms = messages.values().filter(urgent);
        let others = messages.values().filter(|message| !urgent(message));
        let waiting = alarms
            .chain(others.filter(|_| !request.alarms_only))
            .filter(|message| !request.exclude.contains(message.seq))
            .take_while(|message| {
                let fits = request.fits(count, bytes, message.body.len());
                count += 1;
                bytes += message.body.len();
                fits
            });
        Ok(waiting.cloned().collect())
    }

    fn last_sealed(&self, _: usize) -> Result<u64, OutboxError> {
        let last = *self.last_sealed.lock().unwrap();
        self.openings.send_modify(|count| *count += 1);
        Ok(last)
    }

    fn stream(&self, _: usize) -> String {
        "9f2c41d07b3e8a55".to_owned()
    }
}

/// A running uplink and everything around it but the broker.
struct Running {
    shelf: Arc<Shelf>,
    handle: UplinkHandle,
    settled: mpsc::Receiver<Vec<Settled>>,
    /// Told, and not looked at yet.
    told: VecDeque<Settled>,
    task: JoinHandle<Result<(), UplinkError>>,
}

impl Running {
    fn start(config: MqttUplinkConfig, inbox: usize) -> Self {
        let shelf = Arc::new(Shelf::default());
        let (sender, settled) = mpsc::channel(inbox);
        let outbox = Arc::clone(&shelf);
        let (uplink, handle) = mqtt(config, outbox, sender).unwrap();
        Self {
            shelf,
            handle,
            settled,
            told: VecDeque::new(),
            task: tokio::spawn(uplink.run()),
        }
    }

    fn seal(&self, seq: u64, text: &str) {
        self.shelf.seal(seq, text);
        self.handle.wake(seq);
    }

    /// Waits for the next verdict and deletes the message, as the store does.
    async fn settled(&mut self) -> (u64, Verdict) {
        while self.told.is_empty() {
            let told = self.settled.recv().await.expect("the uplink runs");
            self.told.extend(told);
        }
        let settled = self.told.pop_front().unwrap();
        assert_eq!(settled.uplink, 0);
        self.shelf.messages.lock().unwrap().remove(&settled.seq);
        self.handle.deleted([settled.seq]);
        (settled.seq, settled.verdict)
    }

    async fn status(&self, expect: impl FnMut(&UplinkStatus) -> bool) -> UplinkStatus {
        let mut status = self.handle.watch();
        status.wait_for(expect).await.unwrap().clone()
    }
}

fn payload(seq: u64, replayed: bool, text: &str) -> String {
    format!(
        r#"{{"v":1,"gateway":"gw-0042","stream":"9f2c41d07b3e8a55","seq":{seq},"kind":"summary","replayed":{replayed},"items":[{{"text":"{text}"}}]}}"#
    )
}

fn is_message(publish: &Publish, seq: u64, replayed: bool, text: &str) {
    assert_eq!(publish.payload, payload(seq, replayed, text));
    assert_eq!(publish.topic, "tidegate/gw-0042/summary");
    assert_eq!(
        (publish.qos, publish.retain, publish.dup),
        (1, false, false)
    );
}

fn rejected(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Rejected { reason } => reason,
        Verdict::Delivered => panic!("it was delivered"),
    }
}

#[tokio::test]
async fn a_message_is_delivered_when_the_broker_says_so_and_not_before() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut up = Running::start(config(broker.port(), version), 8);
        let (mut client, _) = broker.accept_and_greet().await;
        up.shelf.opened(1).await;
        up.seal(1, "a");
        up.seal(2, "b");
        let first = client.publish().await;
        let second = client.publish().await;
        is_message(&first, 1, false, "a");
        is_message(&second, 2, false, "b");
        assert!(up.settled.try_recv().is_err(), "nothing is acknowledged");
        client.ack(first.pkid).await;
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        client.ack(second.pkid).await;
        assert_eq!(up.settled().await, (2, Verdict::Delivered));
        let status = up.status(|status| status.delivered == 2).await;
        assert_eq!(
            (status.sent, status.in_flight, status.reconnects),
            (2, 0, 0)
        );
        assert!(status.connected_since.is_some());
    }
}

#[tokio::test]
async fn what_the_broker_refuses_is_rejected_with_its_reason() {
    let broker = Broker::start(Version::V5).await;
    let mut up = Running::start(config(broker.port(), Version::V5), 8);
    up.seal(1, "a");
    up.seal(2, "b");
    let (mut client, _) = broker.accept_and_greet().await;
    let (first, second) = (client.publish().await, client.publish().await);
    client.refuse(first.pkid, 0x97).await;
    let (seq, verdict) = up.settled().await;
    assert_eq!(seq, 1);
    assert_eq!(
        rejected(&verdict),
        "the broker refused it: quota exceeded (0x97): full"
    );
    // 0x10, nobody subscribes, is a success.
    client.refuse(second.pkid, 0x10).await;
    assert_eq!(up.settled().await, (2, Verdict::Delivered));
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_up_again_with_the_same_bytes() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut up = Running::start(config(broker.port(), version), 8);
        let (mut client, _) = broker.accept_and_greet().await;
        assert!(client.connect.clean, "the outbox is the only queue");
        up.shelf.opened(1).await;
        up.seal(1, "a");
        is_message(&client.publish().await, 1, false, "a");
        drop(client);
        let (mut client, _) = broker.accept_and_greet().await;
        let again = client.publish().await;
        is_message(&again, 1, true, "a");
        client.ack(again.pkid).await;
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        assert!(up.settled.try_recv().is_err(), "it is settled once");
        assert_eq!(up.handle.status().reconnects, 1);
    }
}

#[tokio::test]
async fn an_acknowledgement_right_before_the_end_counts() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut up = Running::start(config(broker.port(), version), 8);
        up.seal(1, "a");
        let (mut client, _) = broker.accept_and_greet().await;
        let first = client.publish().await;
        client.ack(first.pkid).await;
        drop(client);
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        up.seal(2, "b");
        let (mut client, _) = broker.accept_and_greet().await;
        let next = client.publish().await;
        assert!(next.payload.contains(r#""seq":2,"#), "{}", next.payload);
    }
}

#[tokio::test]
async fn the_status_is_retained_and_the_last_will_says_offline() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let config = config(broker.port(), version);
        let status = config.status.clone();
        let up = Running::start(config, 8);
        let (mut client, online) = broker.accept_and_greet().await;
        let offline = r#"{"v":1,"gateway":"gw-0042","state":"offline"}"#;
        let connect = client.connect.clone();
        assert_eq!(connect.level, if version == Version::V5 { 5 } else { 4 });
        assert_eq!(connect.client_id, "gw-0042-up");
        assert_eq!(connect.will_topic, "tidegate/gw-0042/status");
        assert_eq!(connect.will_payload, offline);
        assert_eq!((connect.will_qos, connect.will_retain), (1, true));

        assert_eq!(online.topic, "tidegate/gw-0042/status");
        let said: serde_json::Value = serde_json::from_str(&online.payload).unwrap();
        assert_eq!(said["state"], "online");
        assert_eq!(said["version"], "0.1.0");
        assert!(said["clock"]["time"].as_i64().unwrap() > 1_700_000_000_000);

        up.handle.set_status(status.clone());
        up.handle.set_status(crate::Status {
            state: StatusState::Degraded,
            ..status
        });
        let degraded = client.publish().await;
        assert!(degraded.retain && degraded.payload.contains(r#""state":"degraded""#));
        client.ack(degraded.pkid).await;

        up.handle.stop();
        let farewell = client.publish().await;
        assert!(farewell.retain);
        assert_eq!(farewell.payload, offline);
        client.ack(farewell.pkid).await;
        assert_eq!(client.read().await, Packet::Disconnect);
        up.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight_and_sends_nothing_new() {
    let broker = Broker::start(Version::V5).await;
    let mut up = Running::start(config(broker.port(), Version::V5), 8);
    up.seal(1, "a");
    let (mut client, _) = broker.accept_and_greet().await;
    let first = client.publish().await;
    up.handle.stop();
    up.seal(2, "b");
    client.ack(first.pkid).await;
    assert_eq!(up.settled().await, (1, Verdict::Delivered));
    let farewell = client.publish().await;
    assert!(farewell.retain && farewell.payload.contains("offline"));
    client.ack(farewell.pkid).await;
    assert_eq!(client.read().await, Packet::Disconnect);
    up.task.await.unwrap().unwrap();
    assert_eq!(up.handle.status().state, LinkState::Stopped);
}

#[tokio::test]
async fn a_message_that_ends_the_connection_three_times_is_set_aside() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut up = Running::start(config(broker.port(), version), 8);
        up.seal(1, "poison");
        up.seal(2, "good");
        for attempt in 1..=3 {
            let (mut client, _) = broker.accept_and_greet().await;
            let publish = client.publish().await;
            assert!(publish.payload.contains("poison"), "attempt {attempt}");
        }
        let (mut client, _) = broker.accept_and_greet().await;
        let (seq, verdict) = up.settled().await;
        assert_eq!(seq, 1);
        assert_eq!(up.handle.status().rejected, 1);
        let reason = rejected(&verdict);
        assert!(
            reason.starts_with("ended the connection 3 times"),
            "{reason}"
        );
        let good = client.publish().await;
        is_message(&good, 2, true, "good");
        client.ack(good.pkid).await;
        assert_eq!(up.settled().await, (2, Verdict::Delivered));
    }
}

#[tokio::test]
async fn an_unsolicited_acknowledgement_settles_nothing() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut up = Running::start(config(broker.port(), version), 8);
        up.seal(1, "a");
        let (mut client, _) = broker.accept_and_greet().await;
        let first = client.publish().await;
        // The connection is given up over it: the broker is out of step.
        client.ack(first.pkid + 5).await;
        let (mut client, _) = broker.accept_and_greet().await;
        assert!(up.settled.try_recv().is_err());
        let again = client.publish().await;
        is_message(&again, 1, true, "a");
        client.ack(again.pkid).await;
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        let status = up.status(|status| status.delivered == 1).await;
        assert_eq!(status.ignored_acks, 1);
    }
}

#[tokio::test]
async fn a_full_inbox_stops_the_sending_and_loses_no_verdict() {
    const ALL: u64 = 300;
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut config = config(broker.port(), version);
        config.in_flight.messages = 4;
        let mut up = Running::start(config, 1);
        for seq in 1..=ALL {
            up.shelf.seal(seq, "a");
        }
        let (mut client, _) = broker.accept_and_greet().await;
        // Acknowledged as fast as they come; nobody takes the verdicts yet.
        let server = tokio::spawn(async move {
            for _ in 1..=ALL {
                let publish = client.publish().await;
                client.ack(publish.pkid).await;
            }
            client
        });
        up.status(|status| status.delivered >= 32).await;
        // It has time to go too far.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let sent = up.status(|_| true).await.sent;
        // In the inbox and beside it, each one time too many with what was ready, and what is in flight.
        let most = 2 * (32 + 5 * 4) + 5 * 4;
        assert!(sent <= most, "{sent} were sent, and nobody took a verdict");
        for seq in 1..=ALL {
            assert_eq!(up.settled().await, (seq, Verdict::Delivered));
        }
        server.await.unwrap();
        let sent = up.status(|status| status.delivered == ALL).await.sent;
        assert_eq!(sent, ALL, "none was sent twice");
    }
}

#[tokio::test]
async fn a_broker_that_takes_less_at_once_gets_less() {
    let broker = Broker::start(Version::V5).await;
    let up = Running::start(config(broker.port(), Version::V5), 64);
    for seq in 1..=10 {
        up.shelf.seal(seq, "a");
    }
    // Receive Maximum 3.
    let mut client = broker.accept_with(&[0x21, 0, 3]).await;
    let status = client.publish().await;
    client.ack(status.pkid).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(client.publish().await.pkid);
    }
    let in_flight = up.status(|status| status.sent > 0).await.in_flight;
    assert_eq!(in_flight, 3);
    assert_eq!(up.handle.status().sent, 3);
    for pkid in held {
        client.ack(pkid).await;
    }
    client.publish().await;
}

#[tokio::test]
async fn what_is_too_large_for_the_broker_is_set_aside_without_a_try() {
    let broker = Broker::start(Version::V5).await;
    let mut up = Running::start(config(broker.port(), Version::V5), 8);
    up.seal(1, &"x".repeat(2000));
    up.seal(2, "small");
    // Maximum Packet Size 1000.
    let mut client = broker.accept_with(&[0x27, 0, 0, 3, 0xe8]).await;
    let status = client.publish().await;
    client.ack(status.pkid).await;
    let small = client.publish().await;
    is_message(&small, 2, true, "small");
    let (seq, verdict) = up.settled().await;
    assert_eq!(seq, 1);
    let reason = rejected(&verdict);
    assert!(reason.contains("the limit is 1000"), "{reason}");
}

#[tokio::test]
async fn an_idle_line_that_is_dead_is_given_up() {
    let broker = Broker::start(Version::V311).await;
    let mut config = config(broker.port(), Version::V311);
    config.keep_alive = Duration::from_secs(1);
    let up = Running::start(config, 8);
    let (mut dead, _) = broker.accept_and_greet().await;
    assert_eq!(dead.read().await, Packet::Ping);
    // No answer, and the socket stays open.
    broker.accept_and_greet().await;
    assert_eq!(up.handle.status().reconnects, 1);
}

#[tokio::test]
async fn a_broker_that_lives_and_acknowledges_nothing_is_given_up() {
    let broker = Broker::start(Version::V311).await;
    let mut config = config(broker.port(), Version::V311);
    config.keep_alive = Duration::from_secs(1);
    let mut up = Running::start(config, 8);
    up.seal(1, "a");
    let (mut deaf, _) = broker.accept_and_greet().await;
    let answering = tokio::spawn(async move {
        let mut packets = Vec::new();
        loop {
            match deaf.read().await {
                Packet::Closed => return packets,
                Packet::Ping => deaf.pong().await,
                packet @ (Packet::Publish(_) | Packet::Disconnect) => packets.push(packet),
            }
        }
    });
    let (mut client, _) = broker.accept_and_greet().await;
    let again = client.publish().await;
    is_message(&again, 1, true, "a");
    client.ack(again.pkid).await;
    assert_eq!(up.settled().await, (1, Verdict::Delivered));
    assert_eq!(answering.await.unwrap().len(), 1, "it was sent once there");
}

#[tokio::test]
async fn the_password_is_read_for_every_connection() {
    let broker = Broker::start(Version::V5).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let mut config = config(broker.port(), Version::V5);
    config.credentials = Some(Credentials {
        username: "gw".to_owned(),
        password_file: Some(file.clone()),
    });
    let up = Running::start(config, 8);
    let status = up.status(|status| status.last_error.is_some()).await;
    let error = status.last_error.unwrap();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    for password in ["first", "second"] {
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let client = broker.accept().await;
        let login = Some(("gw".to_owned(), password.to_owned()));
        // The connection before may have begun with the password before.
        let client = if client.connect.login == login {
            client
        } else {
            drop(client);
            broker.accept().await
        };
        assert_eq!(client.connect.login, login);
    }
}

#[tokio::test]
async fn an_uplink_without_a_broker_backs_off_and_can_be_stopped() {
    let gone = Broker::start(Version::V5).await;
    let port = gone.port();
    drop(gone);
    let mut config = config(port, Version::V5);
    config.reconnect.max = Duration::from_secs(3600);
    let up = Running::start(config, 8);
    let status = up
        .status(|status| matches!(status.state, LinkState::BackingOff { attempt: 3.. }))
        .await;
    let error = status.last_error.unwrap();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    up.handle.stop();
    up.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_that_is_gone_ends_the_uplink() {
    let broker = Broker::start(Version::V5).await;
    let up = Running::start(config(broker.port(), Version::V5), 8);
    drop(up.settled);
    up.shelf.seal(1, "a");
    up.handle.wake(1);
    let (mut client, _) = broker.accept_and_greet().await;
    let publish = client.publish().await;
    client.ack(publish.pkid).await;
    let ended = up.task.await.unwrap();
    assert!(matches!(ended, Err(UplinkError::InboxClosed { .. })));
}
