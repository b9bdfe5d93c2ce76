use tidegate_sdk::test::{
    DecoderHarness, Decodings, Received, cases, check_decoder_vectors, damaged, hex, json,
};

use super::*;

/// Made by Google's Protocol Buffers: see `make-vectors.py`.
const VECTORS: &str = include_str!("../vectors.json");

#[test]
fn golden_vectors() {
    check_decoder_vectors(sparkplug, VECTORS);
}

#[test]
fn the_corpus_harms_nobody() {
    tidegate_sdk::test::replay_corpus(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fuzz/corpus/sparkplug"
        ),
        fuzz,
    );
}

/// A birth of metrics `0`, `1`, … with a `filler` in their names, all of the type Int32 and without values.
fn birth(metrics: usize, filler: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    for number in 0..metrics {
        let name = format!("{filler}{number}");
        let mut metric = vec![0x0a];
        varint(name.len(), &mut metric);
        metric.extend(name.bytes());
        metric.extend([0x10]);
        varint(number, &mut metric);
        // Datatype Int32, null.
        metric.extend([0x20, 3, 0x38, 1]);
        payload.push(0x12);
        varint(metric.len(), &mut payload);
        payload.extend(metric);
    }
    payload.extend([0x18, 0]);
    payload
}

fn varint(mut value: usize, to: &mut Vec<u8>) {
    while value >= 128 {
        to.push(value.to_le_bytes()[0] | 128);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

fn run(harness: &mut DecoderHarness, messages: &[(&str, &[u8])]) -> Decodings {
    let messages = messages
        .iter()
        .map(|(topic, payload)| Received::new(topic, 1, payload));
    harness.run(&messages.collect::<Vec<_>>()).unwrap()
}

#[test]
fn what_is_remembered_is_bounded_and_the_dead_make_room() {
    let mut harness = DecoderHarness::new(sparkplug);
    let node = |number: usize| format!("spBv1.0/G/NBIRTH/n{number}");
    let one = birth(1, "m");
    for number in 0..learnt::PUBLISHERS {
        let outcome = run(&mut harness, &[(&node(number), &one)]);
        assert_eq!((outcome.undecoded.len(), outcome.notes.len()), (0, 0));
    }
    let outcome = run(&mut harness, &[(&node(1000), &one)]);
    assert!(
        outcome.undecoded[0]
            .1
            .contains("there is no room for the metrics of G/n1000"),
        "{outcome:?}"
    );
    assert_eq!(
        run(&mut harness, &[(&node(3), &one)]).undecoded,
        [],
        "those that are known may be born again"
    );
    run(&mut harness, &[("spBv1.0/G/NDEATH/n7", b"")]);
    let outcome = run(&mut harness, &[(&node(1000), &one)]);
    assert_eq!(
        outcome.notes,
        ["G/n7 is dead and was forgotten, to have room for others"]
    );
    let outcome = run(
        &mut harness,
        &[("spBv1.0/G/NDATA/n7", &hex("12 04 10 00 50 05 18 01"))],
    );
    assert!(
        outcome.undecoded[0].1.contains("names the alias 0"),
        "{outcome:?}"
    );
    let outcome = run(
        &mut harness,
        &[("spBv1.0/G/NDATA/n1000", &hex("12 04 10 00 50 05 18 01"))],
    );
    assert_eq!(outcome.stored.len(), 1, "{outcome:?}");

    // In bytes too, whatever the births are like.
    let mut harness = DecoderHarness::new(sparkplug);
    let large = birth(1000, &"x".repeat(200));
    let refused: usize = (0..8)
        .map(|number| {
            run(&mut harness, &[(&node(number), &large)])
                .undecoded
                .len()
        })
        .sum();
    assert_eq!(refused, 4);
    let again = run(&mut harness, &[(&node(0), &large)]);
    assert_eq!(again.undecoded, [], "in place of the birth before");
    assert!(
        harness.state_bytes() <= learnt::BYTES,
        "{}",
        harness.state_bytes()
    );
    let outcome = run(&mut harness, &[(&node(0), &birth(4097, "m"))]);
    assert!(
        outcome.undecoded[0].1.contains("4097 metrics; 4096"),
        "{outcome:?}"
    );
}

#[test]
fn a_death_marks_what_there_is_room_for_and_counts_the_rest() {
    let mut harness = DecoderHarness::new(sparkplug);
    let group = "g".repeat(300);
    let topic = |verb: &str, device: &str| format!("spBv1.0/{group}/{verb}/n{device}");
    let many = birth(4000, "m");
    let births = [
        (topic("NBIRTH", ""), birth(1, "m")),
        (topic("DBIRTH", "/a"), many.clone()),
        (topic("DBIRTH", "/b"), many.clone()),
        // Again, in place of the one before.
        (topic("DBIRTH", "/a"), many),
    ];
    for (topic, payload) in &births {
        let outcome = run(&mut harness, &[(topic, payload)]);
        assert_eq!(outcome.undecoded, []);
    }
    let outcome = run(&mut harness, &[(&topic("NDEATH", ""), b"")]);
    assert_eq!(outcome.undecoded, []);
    let online = outcome
        .stored
        .iter()
        .filter(|row| row.series.ends_with("$online"));
    assert_eq!(online.count(), 3);
    let marked = outcome.stored.len() - 3;
    let bytes: usize = outcome.stored.iter().map(|row| row.series.len()).sum();
    assert!(
        marked > 3000 && bytes < STALE_BYTES + 1000,
        "{marked} {bytes}"
    );
    let rest = format!("{} of its metrics were too many", 8001 - marked);
    assert!(
        outcome.notes.iter().any(|note| note.contains(&rest)),
        "{:?}",
        outcome.notes
    );
}

/// Whatever comes, the answer keeps the contract, which the harness looks at, and nothing panics.
#[test]
fn damaged_payloads_harm_nobody() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let mut sound = Vec::new();
    for vector in vectors["vectors"].as_array().unwrap() {
        for step in vector["steps"].as_array().unwrap() {
            for message in step["messages"].as_array().unwrap() {
                let topic = message["topic"].as_str().unwrap().to_owned();
                sound.push(Received::new(
                    &topic,
                    1,
                    &hex(message["hex"].as_str().unwrap()),
                ));
            }
        }
    }
    assert!(sound.len() > 40);
    let mut harness = DecoderHarness::new(sparkplug).settings(json!({}));
    for (case, message) in (0..cases(20_000)).zip(sound.iter().cycle()) {
        let mut message = message.clone();
        // Now and then a sound one, so that there are births to refer to.
        if case % 5 > 0 {
            message.payload = damaged(&message.payload, case, b"\x0a\x10\x12\x18\x20\x50\x80\xff");
        }
        harness.run(&[message]).unwrap();
    }
    assert!(harness.state_bytes() <= learnt::BYTES);
}
