//! The source against a broker that plays a script, byte by byte.

use std::time::Duration;

use tidegate_domain::limits::{PACKET_BYTES, PAYLOAD_BYTES, SOURCE_QUEUE_MESSAGES};
use tidegate_domain::{AckToken, Arrival};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::{Occurrence, Received, SourceError, SourceEvent, SourceHandle, SourceState};

/// The daemon's side of a source under test.
struct Daemon {
    handle: SourceHandle,
    intake: mpsc::Receiver<Received>,
    events: mpsc::Receiver<SourceEvent>,
    run: JoinHandle<Result<(), SourceError>>,
}

impl Daemon {
    fn start(broker: &Broker, change: impl FnOnce(&mut MqttConfig)) -> Self {
        let mut config = MqttConfig {
            index: 3,
            name: "plant".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: broker.port,
            transport: Transport::Tcp,
            version: Version::V311,
            client_id: "gw".to_owned(),
            subscribe: vec![Subscription {
                filter: "plant/#".to_owned(),
                qos: Qos::AtLeastOnce,
            }],
            credentials: None,
            in_flight: 20,
            keep_alive: Duration::from_secs(60),
            session_expiry: Duration::from_secs(3600),
            had_session: false,
            identity: None,
        };
        change(&mut config);
        let (intake_tx, intake) = mpsc::channel(SOURCE_QUEUE_MESSAGES);
        let (events_tx, events) = mpsc::channel(16);
        let (source, handle) = mqtt(config, intake_tx, events_tx).unwrap();
        let clock = std::sync::atomic::AtomicI64::new(0);
        let run = tokio::spawn(source.run(move || Arrival {
            monotonic: clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            ..Arrival::default()
        }));
        Self {
            handle,
            intake,
            events,
            run,
        }
    }

    async fn receive(&mut self) -> Received {
        self.intake.recv().await.unwrap()
    }

    async fn token(&mut self) -> AckToken {
        self.receive().await.message.ack.unwrap()
    }

    /// The next event that is neither a connection nor its end.
    async fn event(&mut self) -> Occurrence {
        loop {
            let what = self.events.recv().await.unwrap().what;
            if !matches!(
                what,
                Occurrence::Connected { .. } | Occurrence::Disconnected { .. }
            ) {
                return what;
            }
        }
    }

    async fn finish(self) {
        self.handle.finish();
        self.run.await.unwrap().unwrap();
        assert_eq!(self.handle.status().state, SourceState::Stopped);
    }
}

struct Broker {
    listener: TcpListener,
    port: u16,
    version: Version,
}

impl Broker {
    async fn new(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            listener,
            port,
            version,
        }
    }

    /// The next connection and its CONNECT, unanswered.
    async fn accept(&self) -> (Peer, Vec<u8>) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer {
            stream,
            version: self.version,
        };
        let connect = peer.read().await;
        assert_eq!(connect[0], 0x10);
        (peer, connect)
    }

    /// The next connection, accepted and subscribed.
    async fn serve(&self, session_present: bool) -> Peer {
        let (mut peer, _) = self.accept().await;
        peer.connack(session_present).await;
        let subscribe = peer.read().await;
        assert_eq!(subscribe[0], 0x82);
        peer.suback([subscribe[2], subscribe[3]], &[1]).await;
        peer
    }
}

struct Peer {
    stream: TcpStream,
    version: Version,
}

impl Peer {
    /// One short packet.
    async fn read(&mut self) -> Vec<u8> {
        let mut packet = vec![0; 2];
        self.stream.read_exact(&mut packet).await.unwrap();
        assert!(packet[1] < 0x80, "a long packet");
        packet.resize(2 + usize::from(packet[1]), 0);
        self.stream.read_exact(&mut packet[2..]).await.unwrap();
        packet
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn connack(&mut self, session_present: bool) {
        let present = u8::from(session_present);
        match self.version {
            Version::V311 => self.write(&[0x20, 2, present, 0]).await,
            Version::V5 => self.write(&[0x20, 3, present, 0, 0]).await,
        }
    }

    async fn suback(&mut self, id: [u8; 2], codes: &[u8]) {
        let mut body = id.to_vec();
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(codes);
        self.write(&[0x90, u8::try_from(body.len()).unwrap()]).await;
        self.write(&body).await;
    }

    async fn publish(&mut self, first: u8, id: u16, payload: &[u8]) {
        let mut body = b"\0\x06plant1".to_vec();
        if first & 6 != 0 {
            body.extend(id.to_be_bytes());
        }
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload);
        let mut packet = vec![first];
        let mut length = body.len();
        while length >= 0x80 {
            packet.push(u8::try_from(length & 0x7F).unwrap() | 0x80);
            length >>= 7;
        }
        packet.push(u8::try_from(length).unwrap());
        packet.extend(body);
        self.write(&packet).await;
    }

    async fn expect_puback(&mut self, id: u8) {
        assert_eq!(self.read().await, [0x40, 2, 0, id]);
    }
}

#[tokio::test]
async fn says_who_it_is_and_what_it_wants_in_both_versions() {
    let broker = Broker::new(Version::V311).await;
    let daemon = Daemon::start(&broker, |config| {
        config.credentials = Some(Credentials::new("ann", Some(b"pw".to_vec())));
    });
    let (mut peer, connect) = broker.accept().await;
    assert_eq!(
        connect,
        b"\x10\x17\0\x04MQTT\x04\xC0\0\x3C\0\x02gw\0\x03ann\0\x02pw"
    );
    peer.connack(false).await;
    assert_eq!(peer.read().await, b"\x82\x0C\0\x01\0\x07plant/#\x01");
    peer.suback([0, 1], &[1]).await;
    daemon.finish().await;
    assert_eq!(peer.read().await, [0xE0, 0]);

    let broker = Broker::new(Version::V5).await;
    let daemon = Daemon::start(&broker, |config| {
        config.version = Version::V5;
        config.subscribe[0].filter = "$share/g/#".to_owned();
    });
    let (mut peer, connect) = broker.accept().await;
    assert_eq!(
        connect,
        b"\x10\x17\0\x04MQTT\x05\0\0\x3C\x08\x11\0\0\x0E\x10\x21\x04\0\0\x02gw"
    );
    peer.connack(false).await;
    assert_eq!(peer.read().await, b"\x82\x10\0\x01\0\0\x0A$share/g/#\x11");
    assert_eq!(daemon.handle.status().receive_window, 1024);
    daemon.finish().await;
}

#[tokio::test]
async fn acknowledges_what_was_committed_and_nothing_else() {
    for version in [Version::V311, Version::V5] {
        let broker = Broker::new(version).await;
        let mut daemon = Daemon::start(&broker, |config| config.version = version);
        let mut peer = broker.serve(false).await;
        peer.publish(0x32, 1, b"one").await;
        peer.publish(0x3A, 2, b"two").await;
        peer.publish(0x30, 0, b"three").await;
        let first = daemon.receive().await.message;
        assert_eq!((first.source, &*first.topic), (3, "plant1"));
        assert_eq!(
            (&first.payload[..], first.redelivered),
            (&b"one"[..], false)
        );
        let second = daemon.receive().await.message;
        assert!(second.redelivered && second.arrival > first.arrival);
        assert_eq!(daemon.receive().await.message.ack, None);
        let status = daemon.handle.status();
        assert_eq!(
            (status.state, status.in_flight),
            (SourceState::Subscribed, 2)
        );
        assert_eq!(
            (status.received, status.bytes, status.redelivered),
            (3, 11, 1)
        );

        // The second alone first: had the first been acknowledged on its own, it would come before it.
        daemon.handle.acknowledge(&[second.ack.unwrap()]);
        peer.expect_puback(2).await;
        daemon
            .handle
            .acknowledge(&[first.ack.unwrap(), second.ack.unwrap()]);
        daemon.finish().await;
        peer.expect_puback(1).await;
        assert_eq!(peer.read().await, [0xE0, 0]);
    }
}

#[tokio::test]
async fn an_acknowledgement_never_crosses_to_another_connection() {
    let broker = Broker::new(Version::V311).await;
    let mut daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(false).await;
    peer.publish(0x32, 5, b"five").await;
    let old = daemon.token().await;
    drop(peer);

    let mut peer = broker.serve(true).await;
    peer.publish(0x3A, 5, b"five").await;
    peer.publish(0x32, 6, b"six").await;
    let again = daemon.token().await;
    let six = daemon.token().await;
    assert_eq!((old.id, again.id), (5, 5));
    daemon.handle.acknowledge(&[old, six]);
    peer.expect_puback(6).await;
    daemon.handle.acknowledge(&[again]);
    peer.expect_puback(5).await;
    let status = daemon.handle.status();
    assert_eq!(
        (status.stale_acks, status.reconnects, status.in_flight),
        (1, 1, 0)
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_lost_session_is_reported_with_its_time() {
    let broker = Broker::new(Version::V5).await;
    let mut daemon = Daemon::start(&broker, |config| {
        config.version = Version::V5;
        config.had_session = true;
    });
    let peer = broker.serve(false).await;
    let Occurrence::SessionLost { from: None, .. } = daemon.event().await else {
        panic!("the session from before the start");
    };
    drop(peer);
    let mut peer = broker.serve(true).await;
    peer.publish(0x32, 1, b"1").await;
    let last = daemon.receive().await.message.arrival;
    drop(peer);
    broker.serve(false).await;
    let Occurrence::SessionLost {
        from: Some(from),
        to,
    } = daemon.event().await
    else {
        panic!("the session that lasted over one reconnect");
    };
    // Heard of between the answer to the subscription and the end: the message's bytes came just before it was taken.
    assert!(
        from.monotonic + 1 >= last.monotonic && to > last,
        "{from:?} {to:?}"
    );
    daemon.finish().await;
}

#[tokio::test]
async fn refusals_are_seen() {
    let broker = Broker::new(Version::V5).await;
    let mut daemon = Daemon::start(&broker, |config| {
        config.version = Version::V5;
        config.subscribe.push(Subscription {
            filter: "secret/#".to_owned(),
            qos: Qos::AtMostOnce,
        });
    });
    let (mut peer, _) = broker.accept().await;
    peer.connack(false).await;
    peer.read().await;
    peer.suback([0, 1], &[0, 0x87]).await;
    assert_eq!(
        daemon.event().await,
        Occurrence::SubscriptionDowngraded {
            filter: "plant/#".to_owned()
        }
    );
    let Occurrence::SubscriptionRefused { filter, code, .. } = daemon.event().await else {
        panic!("a refusal");
    };
    assert_eq!((filter.as_str(), code), ("secret/#", 0x87));
    // Shown at the latest once a message after the answer has come through.
    peer.publish(0x30, 0, b"").await;
    daemon.receive().await;
    let status = daemon.handle.status();
    assert_eq!(status.state, SourceState::Refused);
    assert!(status.refused[0].1.contains("not authorized"), "{status:?}");
    drop(peer);

    let (mut peer, _) = broker.accept().await;
    peer.write(&[0x20, 3, 0, 0x86, 0]).await;
    loop {
        if let Occurrence::Disconnected { reason } = daemon.events.recv().await.unwrap().what
            && reason.contains("bad user name or password (code 0x86)")
        {
            break;
        }
    }
    daemon.finish().await;
}

#[tokio::test]
async fn garbage_and_qos_2_end_the_connection_and_no_more() {
    async fn check(bytes: &[u8], expect: &str) {
        let broker = Broker::new(Version::V311).await;
        let mut daemon = Daemon::start(&broker, |_| {});
        let mut peer = broker.serve(true).await;
        peer.write(bytes).await;
        let reason = loop {
            if let Occurrence::Disconnected { reason } = daemon.events.recv().await.unwrap().what {
                break reason;
            }
        };
        assert!(reason.contains(expect), "{reason}");
        broker.serve(true).await;
        daemon.finish().await;
    }
    check(&[0x32, 1, 0], "ends before its content").await;
    check(&[0x34, 5, 0, 1, b't', 0, 1], "QoS 2").await;
    check(&[0x32, 5, 0, 1, b't', 0, 0], "packet identifier 0").await;
    check(&[0x00, 0], "never sends").await;
    check(&[0x90, 3, 0, 77, 0], "fits no SUBSCRIBE").await;
}

#[tokio::test]
async fn a_topic_that_is_no_utf_8_is_handed_over_to_be_set_aside() {
    let broker = Broker::new(Version::V311).await;
    let mut daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(true).await;
    peer.write(b"\x32\x06\0\x02a\xFF\0\x01").await;
    assert_eq!(&*daemon.receive().await.message.topic, "a\u{FFFD}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_payload_of_any_length_is_handed_over_to_be_set_aside() {
    let broker = Broker::new(Version::V311).await;
    let mut daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(false).await;
    let mut huge = vec![b'x'; PACKET_BYTES + 1];
    peer.publish(0x32, 1, &huge).await;
    huge.truncate(PAYLOAD_BYTES + 1);
    peer.publish(0x32, 2, &huge).await;
    let cut = daemon.receive().await.message;
    assert!(cut.payload.len() > PAYLOAD_BYTES && cut.payload.len() < PACKET_BYTES);
    let Occurrence::Cut { length, kept, .. } = daemon.event().await else {
        panic!("a cut payload");
    };
    assert_eq!(
        (length, kept),
        (PACKET_BYTES as u64 + 1, cut.payload.len() as u64)
    );
    let whole = daemon.receive().await.message;
    assert_eq!(whole.payload.len(), PAYLOAD_BYTES + 1);
    daemon.handle.acknowledge(&[cut.ack.unwrap()]);
    peer.expect_puback(1).await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_full_queue_drops_qos_0_with_a_count_and_stops_reading_for_qos_1() {
    let broker = Broker::new(Version::V311).await;
    let mut daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(false).await;
    // One message that takes the whole queue, and one of QoS 0 that finds it full.
    peer.publish(0x32, 1, &vec![b'x'; 8 * 1024 * 1024]).await;
    let all = daemon.receive().await;
    peer.publish(0x30, 0, b"late").await;
    let Occurrence::Overflow {
        messages, bytes, ..
    } = daemon.event().await
    else {
        panic!("an overflow");
    };
    assert_eq!((messages, bytes), (1, 4));
    assert_eq!(daemon.handle.status().dropped, 1);

    // One of QoS 1 waits, and acknowledgements pass it in the other direction.
    peer.publish(0x32, 2, b"waits").await;
    daemon.handle.acknowledge(&[all.message.ack.unwrap()]);
    peer.expect_puback(1).await;
    assert!(daemon.intake.try_recv().is_err());
    drop(all.permit);
    assert_eq!(&daemon.receive().await.message.payload[..], b"waits");
    daemon.finish().await;
}

#[tokio::test]
async fn stopping_takes_nothing_more_and_still_acknowledges() {
    let broker = Broker::new(Version::V311).await;
    let mut daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(false).await;
    peer.publish(0x32, 1, b"1").await;
    let token = daemon.token().await;
    daemon.handle.stop_intake();
    assert_eq!(daemon.handle.status().state, SourceState::Stopping);
    assert!(
        daemon.intake.recv().await.is_none(),
        "the worker sees the end of the queue"
    );
    daemon.handle.acknowledge(&[token]);
    peer.expect_puback(1).await;
    peer.publish(0x32, 2, b"2").await;
    daemon.handle.finish();
    assert_eq!(peer.read().await, [0xE0, 0]);
    daemon.run.await.unwrap().unwrap();
}

#[tokio::test]
async fn ends_while_there_is_no_broker_and_when_nobody_takes_messages() {
    let broker = Broker::new(Version::V311).await;
    let port = broker.port;
    drop(broker.listener);
    let gone = Broker {
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        port,
        version: Version::V311,
    };
    let mut daemon = Daemon::start(&gone, |_| {});
    daemon.events.recv().await.unwrap();
    let status = daemon.handle.status();
    assert!(
        status
            .last_error
            .unwrap()
            .contains("cannot reach the broker")
    );
    assert!(matches!(
        status.state,
        SourceState::BackingOff { attempt: 1, .. } | SourceState::Connecting
    ));
    daemon.finish().await;

    let broker = Broker::new(Version::V311).await;
    let daemon = Daemon::start(&broker, |_| {});
    let mut peer = broker.serve(false).await;
    drop(daemon.intake);
    peer.publish(0x30, 0, b"").await;
    let error = daemon.run.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("source `plant`"), "{error}");
}
