//! The packets that the scripted broker of the crate's tests does not send.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::config::Version;

/// A link on a line in memory, as far as its CONNECT, and the line's other end.
fn link(version: Version, keep_alive: Duration) -> (Link, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let now = Instant::now();
    let mut link = Link {
        codec: Codec::new(version, Session::Kept),
        state: State::Over,
        tls: None,
        input: BytesMut::new(),
        output: Output::default(),
        unflushed: false,
        events: VecDeque::new(),
        ids: PacketIds::new(4),
        keep_alive,
        patience: Duration::from_secs(60),
        knocked: None,
        stuck: None,
        sent: now,
        pinged: None,
        leaving: false,
    };
    link.reached(Wire::on(Box::new(ours)));
    (link, theirs)
}

const LONG: Duration = Duration::from_secs(60);

/// What the broker says, in hexadecimal, and how the link ends over it.
async fn end_over(version: Version, said: &[u8]) -> (Vec<LinkEvent>, EndedBy, String) {
    let (mut link, mut broker) = link(version, LONG);
    broker.write_all(said).await.unwrap();
    let mut events = Vec::new();
    loop {
        let event = link.next().await;
        if let LinkEvent::Ended { by, reason } = event {
            return (events, by, reason);
        }
        events.push(event);
    }
}

const LET_IN: [u8; 4] = [0x20, 2, 0, 0];
const LET_IN_5: [u8; 5] = [0x20, 3, 0, 0, 0];

#[tokio::test]
async fn what_a_broker_may_not_say_ends_the_connection_in_words() {
    use EndedBy::{Line, Peer};
    let after_5 = |said: &[u8]| [&LET_IN_5[..], said].concat();
    let after = |said: &[u8]| [&LET_IN[..], said].concat();
    let table: [(Version, Vec<u8>, EndedBy, &str); 11] = [
        (
            Version::V311,
            vec![0x20, 2, 0, 5],
            Line,
            "refused the connection: NotAuthorized",
        ),
        (
            Version::V5,
            vec![0x20, 3, 0, 0x87, 0],
            Line,
            "refused the connection: NotAuthorized",
        ),
        (Version::V311, vec![0xD0, 0], Line, "before it let us in"),
        (Version::V311, after(&LET_IN), Peer, "let us in twice"),
        (
            Version::V311,
            after(&[0x40, 2, 0, 9]),
            Line,
            "acknowledged packet 9",
        ),
        (
            Version::V311,
            after(&[0x90, 3, 0, 9, 1]),
            Line,
            "subscription 9",
        ),
        (Version::V311, after(&[0x62, 2, 0, 1]), Peer, "never may"),
        (
            Version::V311,
            after(&[0x34, 5, 0, 1, b'a', 0, 7]),
            Peer,
            "QoS 2",
        ),
        // DISCONNECT in its short form, and with a reason.
        (
            Version::V5,
            after_5(&[0xE0, 0]),
            Line,
            "NormalDisconnection",
        ),
        (
            Version::V5,
            after_5(&[0xE0, 2, 0x95, 0]),
            Peer,
            "PacketTooLarge",
        ),
        // Properties that are longer than their packet.
        (
            Version::V5,
            after_5(&[0x40, 4, 0, 1, 0, 0xFF]),
            Peer,
            "no MQTT",
        ),
    ];
    for (version, said, by, words) in table {
        let (_, ended_by, reason) = end_over(version, &said).await;
        assert_eq!(ended_by, by, "{said:x?}: {reason}");
        assert!(reason.contains(words), "{said:x?}: {reason}");
    }
}

#[tokio::test]
async fn what_came_before_an_error_is_told_before_it() {
    let mut said = LET_IN.to_vec();
    // A message, an acknowledgement of nothing, and a length that no packet has.
    said.extend([0x30, 4, 0, 1, b'a', b'x', 0x40, 2, 0, 9]);
    let (events, _, reason) = end_over(Version::V311, &said).await;
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(matches!(&events[1], LinkEvent::Command { payload, .. } if payload == "x"));
    assert_eq!(events[2], LinkEvent::Acknowledged(vec![(9, None)]));
    assert!(reason.contains("packet 9"), "{reason}");

    let oversize = [&LET_IN[..], &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]].concat();
    let (events, _, _) = end_over(Version::V311, &oversize).await;
    assert_eq!(events.last(), Some(&LinkEvent::Oversize));
}

#[tokio::test]
async fn packets_leave_together_and_acknowledgements_are_told_together() {
    let (mut link, mut broker) = link(Version::V311, LONG);
    broker.write_all(&LET_IN).await.unwrap();
    assert!(matches!(link.next().await, LinkEvent::Connected { .. }));
    for expected in 1..=4 {
        let id = link.publish("t", "", b"x".to_vec(), false).unwrap();
        assert_eq!(id, expected);
    }
    broker
        .write_all(&[0x40, 2, 0, 2, 0x40, 2, 0, 1])
        .await
        .unwrap();
    let mut heard = [0; 128];
    let mut told = None;
    let length = loop {
        tokio::select! {
            length = broker.read(&mut heard) => break length.unwrap(),
            event = link.next() => told = Some(event),
        }
    };
    assert_eq!(length, 4 * 8, "four packets of eight bytes in one piece");
    if told.is_none() {
        told = Some(link.next().await);
    }
    let together = LinkEvent::Acknowledged(vec![(2, None), (1, None)]);
    assert_eq!(told, Some(together));

    // Eight ids for four at once: the third is passed over for too long.
    for _ in 5..=8 {
        let id = link.publish("t", "", Vec::new(), false).unwrap();
        link.ids.free(id);
    }
    assert_eq!(link.publish("t", "", Vec::new(), false).unwrap(), 1);
    assert_eq!(link.publish("t", "", Vec::new(), false).unwrap(), 2);
    let skipped = link.publish("t", "", Vec::new(), false).unwrap_err();
    assert!(matches!(skipped, NotTaken::Skipped(3)), "{skipped}");
}

#[tokio::test]
async fn a_silent_line_is_pinged_and_given_up_and_a_farewell_leaves() {
    let (mut silent, mut broker) = link(Version::V311, Duration::from_millis(30));
    broker.write_all(&LET_IN).await.unwrap();
    assert!(matches!(silent.next().await, LinkEvent::Connected { .. }));
    let LinkEvent::Ended { by, reason } = silent.next().await else {
        panic!("nothing else can happen");
    };
    assert_eq!(by, EndedBy::Line);
    assert!(reason.contains("did not answer a ping"), "{reason}");
    let mut heard = [0; 64];
    assert_eq!(broker.read(&mut heard).await.unwrap(), 2);
    assert_eq!(heard[..2], [0xC0, 0]);

    let (mut link, mut broker) = link(Version::V5, LONG);
    broker.write_all(&LET_IN_5).await.unwrap();
    assert!(matches!(link.next().await, LinkEvent::Connected { .. }));
    link.leave();
    assert_eq!(link.next().await, LinkEvent::Left);
    assert_eq!(broker.read(&mut heard).await.unwrap(), 2);
    assert_eq!(heard[..2], [0xE0, 0]);
}

/// What we write is what the client library reads, whatever the payload's length.
#[test]
fn a_message_is_read_as_it_was_written() {
    use rumqttc::mqttbytes::v4;
    use rumqttc::v5::mqttbytes::v5;
    for (length, retain) in [
        (0, false),
        (90, true),
        (8_191, false),
        (8_192, true),
        (3_000_000, false),
    ] {
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        for version in [Version::V311, Version::V5] {
            let mut output = Output::default();
            let what = ("tidegate/gw-1/summary", "application/json");
            let codec = Codec::new(version, Session::None);
            let written = codec.publish(&mut output, 777, what, payload.clone(), retain);
            written.unwrap();
            let overhead = output.remaining() - length;
            assert!(overhead <= overhead_of(what), "{overhead}");
            let mut packet = BytesMut::from(&*output.copy_to_bytes(output.remaining()));
            let (topic, qos, id, kept, said, body) = match version {
                Version::V311 => {
                    let v4::Packet::Publish(it) =
                        v4::Packet::read(&mut packet, usize::MAX).unwrap()
                    else {
                        panic!("{length} bytes are no message");
                    };
                    (it.topic, it.qos as u8, it.pkid, it.retain, None, it.payload)
                }
                Version::V5 => {
                    let v5::Packet::Publish(it) = v5::Packet::read(&mut packet, None).unwrap()
                    else {
                        panic!("{length} bytes are no message");
                    };
                    let topic = String::from_utf8(it.topic.to_vec()).unwrap();
                    let said = it.properties.unwrap().content_type;
                    (topic, it.qos as u8, it.pkid, it.retain, said, it.payload)
                }
            };
            assert!(packet.is_empty());
            assert_eq!((&*topic, qos, id, kept), (what.0, 1, 777, retain));
            assert_eq!(said.is_some(), version == Version::V5);
            assert_eq!(said.unwrap_or(what.1.to_owned()), what.1);
            assert!(body == payload, "{version:?}, {length} bytes");
        }
    }
    let what = (&*"t".repeat(70_000), "application/json");
    let codec = Codec::new(Version::V5, Session::None);
    let mut output = Output::default();
    assert!(
        codec
            .publish(&mut output, 1, what, Vec::new(), false)
            .is_err()
    );
    assert_eq!(output.remaining(), 0, "nothing of it");
}

fn overhead_of((topic, content_type): (&str, &str)) -> usize {
    overhead(topic.len(), content_type)
}
