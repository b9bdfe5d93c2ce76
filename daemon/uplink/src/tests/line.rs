//! Bad lines and bad brokers: what is sent when, and over which of them.

use super::*;
use crate::config::tests::broker;
use crate::payload::{Compress, Encoding, Format, open};
use crate::{Circuit, Window};

/// A packet id that is never acknowledged comes round again: the broker has passed a message over, however lively the line is.
#[tokio::test]
async fn a_packet_id_that_collides_costs_one_connection_and_no_message() {
    for version in BOTH {
        let broker = Broker::start(version).await;
        let mut config = config(broker.port(), version);
        config.keep_alive = Duration::from_secs(if version == Version::V5 { 5 } else { 1 });
        config.in_flight.messages = 4;
        let mut up = Running::start(config, 256);
        for seq in 1..=60 {
            up.shelf.seal(seq, "a");
        }
        let (mut client, _) = broker.accept_and_greet().await;
        let serving = tokio::spawn(async move {
            let first = client.publish().await;
            let mut served = 1;
            loop {
                match client.read().await {
                    Packet::Publish(publish) => {
                        served += 1;
                        client.ack(publish.pkid).await;
                    }
                    Packet::Ping => client.pong().await,
                    Packet::Disconnect | Packet::Closed => return (first, served),
                }
            }
        });
        let (mut client, _) = broker.accept_and_greet().await;
        let (first, served) = serving.await.unwrap();
        assert!(served < 60, "{served} were sent without a collision");
        let again = client.publish().await;
        assert_eq!(
            again.payload, first.payload,
            "what was not acknowledged comes first again"
        );
        client.ack(again.pkid).await;
        // What was acknowledged as the connection ended comes again, too.
        let rest = tokio::spawn(async move {
            loop {
                let publish = client.publish().await;
                client.ack(publish.pkid).await;
            }
        });
        let mut settled = Vec::new();
        while settled.len() < 60 {
            let (seq, verdict) = up.settled().await;
            assert_eq!(verdict, Verdict::Delivered);
            settled.push(seq);
        }
        settled.sort_unstable();
        assert_eq!(settled, (1..=60).collect::<Vec<u64>>());
        rest.abort();
        assert_eq!(up.handle.status().reconnects, 1);
    }
}

#[tokio::test]
async fn messages_say_what_they_are_written_in() {
    let check = async |version, format, compress, content_type: &str| {
        let broker = Broker::start(version).await;
        let mut config = config(broker.port(), version);
        config.encoding = Encoding { format, compress };
        let up = Running::start(config, 8);
        up.seal(1, "ä");
        let (mut client, status) = broker.accept_and_greet().await;
        serde_json::from_str::<serde_json::Value>(&status.payload)
            .expect("the status is JSON in clear");
        let publish = client.publish().await;
        let clear = open(&publish.bytes, 4096).unwrap();
        let document: serde_json::Value = match format {
            Format::Json => serde_json::from_slice(&clear).unwrap(),
            Format::Cbor => ciborium::from_reader(&*clear).unwrap(),
        };
        assert_eq!(document["seq"], 1);
        assert_eq!(document["items"][0]["text"], "ä");
        let told = (version == Version::V5).then(|| content_type.to_owned());
        assert_eq!(publish.content_type, told);
        // Once more, over another connection: the same bytes but for `replayed`, which the first already said.
        assert_eq!(document["replayed"], true);
        drop(client);
        let (mut client, _) = broker.accept_and_greet().await;
        assert_eq!(client.publish().await.bytes, publish.bytes);
    };
    for version in BOTH {
        check(version, Format::Json, Compress::None, "application/json").await;
        check(version, Format::Cbor, Compress::None, "application/cbor").await;
        check(
            version,
            Format::Json,
            Compress::Zstd,
            "application/json+zstd",
        )
        .await;
        check(
            version,
            Format::Cbor,
            Compress::Zstd,
            "application/cbor+zstd",
        )
        .await;
    }
}

#[tokio::test]
async fn a_cap_holds_up_data_and_no_alarm() {
    let broker = Broker::start(Version::V5).await;
    let mut config = config(broker.port(), Version::V5);
    // A bucket of 2000 bytes: the status and two messages of 600 with their headers.
    config.rate_limit = Some(2000);
    let mut up = Running::start(config, 64);
    for seq in 1..=20 {
        up.shelf.seal(seq, &"x".repeat(400));
    }
    let (mut client, _) = broker.accept_and_greet().await;
    let begin = tokio::time::Instant::now();
    client.publish().await;
    up.shelf.seal_at(Priority::Alarm, 21, "fire");
    up.handle.wake(21);
    let mut seqs = Vec::new();
    let mut bytes = 0;
    for _ in 0..12 {
        let publish = client.publish().await;
        bytes += publish.bytes.len();
        let text = publish.payload.clone();
        let seq = text.split("\"seq\":").nth(1).unwrap();
        seqs.push(seq.split(',').next().unwrap().parse::<u64>().unwrap());
        client.ack(publish.pkid).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert!(
        seqs[..6].contains(&21),
        "the alarm passes what waits for the cap: {seqs:?}"
    );
    let most = 2.0 * 2000.0 + 2000.0 * seconds + 700.0;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let sent = bytes as f64;
    assert!(sent <= most, "{sent} bytes in {seconds} s");
    assert_eq!(up.settled().await.1, Verdict::Delivered);
}

/// A broker that is not there.
async fn nobody() -> u16 {
    Broker::start(Version::V5).await.port()
}

#[tokio::test]
async fn when_a_broker_fails_three_times_the_next_gets_the_same_messages() {
    for version in BOTH {
        let second = Broker::start(version).await;
        let first = Broker::start(version).await;
        let mut config = config(first.port(), version);
        config.brokers.push(broker(second.port()));
        let mut up = Running::start(config, 8);
        let (mut client, _) = first.accept_and_greet().await;
        let status = up.status(|status| status.proved).await;
        assert_eq!((status.broker, status.circuit()), (0, Circuit::Closed));
        up.shelf.opened(1).await;
        up.seal(1, "a");
        let sent = client.publish().await;
        is_message(&sent, 1, false, "a");
        // It takes it and dies; what it had acknowledged nobody knows.
        drop(client);
        drop(first);
        let (mut client, status) = second.accept_and_greet().await;
        assert!(status.payload.contains(r#""state":"online""#));
        let again = client.publish().await;
        is_message(&again, 1, true, "a");
        client.ack(again.pkid).await;
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        let status = up.status(|status| status.delivered == 1).await;
        assert_eq!((status.broker, status.failovers), (1, 1));
        let error = status.last_error.unwrap();
        assert!(error.contains("refused"), "of the first broker: {error}");
    }
}

#[tokio::test]
async fn a_ring_of_brokers_that_are_not_there_is_gone_round_without_haste() {
    let mut config = config(nobody().await, Version::V5);
    for _ in 0..2 {
        config.brokers.push(broker(nobody().await));
    }
    config.reconnect.min = Duration::from_millis(20);
    config.reconnect.max = Duration::from_millis(40);
    let begin = tokio::time::Instant::now();
    let up = Running::start(config, 8);
    let status = up.status(|status| status.failovers == 6).await;
    assert_ne!(status.circuit(), Circuit::Closed);
    // Twice round: 18 attempts, of which 6 follow at once on the one before, with half of the least wait between the others.
    assert!(begin.elapsed() >= Duration::from_millis(12 * 10));
    up.handle.stop();
    up.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_first_broker_is_returned_to_in_an_orderly_way() {
    for version in BOTH {
        // A port that is closed, and opens later.
        let place = Broker::start(version).await;
        let port = place.port();
        drop(place);
        let second = Broker::start(version).await;
        let mut config = config(port, version);
        config.brokers.push(broker(second.port()));
        config.failback = Duration::from_millis(300);
        // Ticks come four times in a keep-alive.
        config.keep_alive = Duration::from_secs(5);
        let mut up = Running::start(config, 8);
        up.seal(1, "a");
        let (mut client, _) = second.accept_and_greet().await;
        let held = client.publish().await;
        // The first is back while a message is in flight at the second.
        let first = Broker::start_at(port, version).await;
        first.accept_a_look().await;
        up.seal(2, "b");
        client.ack(held.pkid).await;
        assert_eq!(up.settled().await, (1, Verdict::Delivered));
        let farewell = client.publish().await;
        assert!(farewell.retain && farewell.payload.contains("offline"));
        client.ack(farewell.pkid).await;
        assert_eq!(client.read().await, Packet::Disconnect);

        let (mut client, status) = first.accept_and_greet().await;
        assert!(status.payload.contains("online"));
        let next = client.publish().await;
        is_message(&next, 2, true, "b");
        client.ack(next.pkid).await;
        assert_eq!(up.settled().await, (2, Verdict::Delivered));
        let status = up
            .status(|status| status.proved && status.broker == 0)
            .await;
        assert_eq!(status.circuit(), Circuit::Closed);
    }
}

#[tokio::test]
async fn an_alarm_does_not_wait_for_a_window_full_of_bytes() {
    let broker = Broker::start(Version::V5).await;
    let mut config = config(broker.port(), Version::V5);
    config.in_flight = Window {
        messages: 16,
        bytes: 1000,
    };
    let up = Running::start(config, 64);
    for seq in 1..=8 {
        up.shelf.seal(seq, &"x".repeat(600));
    }
    let (mut client, _) = broker.accept_and_greet().await;
    let first = client.publish().await;
    up.shelf.seal_at(Priority::Alarm, 9, "fire");
    up.handle.wake(9);
    let alarm = client.publish().await;
    assert!(alarm.payload.contains("fire"), "{}", alarm.payload);
    client.ack(first.pkid).await;
}
