use tidegate_sdk::test::{
    DecoderHarness, Decodings, Reading, Received, cases, check_decoder_vectors, damaged, json,
};

use super::*;

#[test]
fn golden_vectors() {
    check_decoder_vectors(homeassistant, include_str!("../vectors.json"));
}

#[test]
fn the_corpus_harms_nobody() {
    tidegate_sdk::test::replay_corpus(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fuzz/corpus/homeassistant"
        ),
        fuzz,
    );
}

const CONFIG: &str = "homeassistant/sensor/node/temp/config";

fn run(harness: &mut DecoderHarness, messages: &[(&str, &str)]) -> Decodings {
    let messages = messages
        .iter()
        .map(|(topic, payload)| Received::new(topic, 1, payload.as_bytes()));
    harness.run(&messages.collect::<Vec<_>>()).unwrap()
}

fn reasons(outcome: Decodings) -> String {
    let reasons = outcome.undecoded.into_iter().map(|(_, reason)| reason);
    reasons.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_learnt_survives_the_call_and_is_forgotten_again() {
    let mut harness = DecoderHarness::new(homeassistant);
    let config =
        r#"{"stat_t":"s","unit_of_meas":"°C","val_tpl":"{{ value_json.t }}","avty_t":"a"}"#;
    let outcome = run(&mut harness, &[(CONFIG, config)]);
    assert_eq!(
        outcome.stored,
        [Reading::new("homeassistant/sensor/node/temp/unit", 1, "°C")]
    );
    let outcome = run(
        &mut harness,
        &[
            ("s", r#"{"t":20}"#),
            (CONFIG, config),
            ("a", "offline"),
            ("s", r#"{"t":20}"#),
        ],
    );
    let series = "homeassistant/sensor/node/temp";
    let mut uncertain = Reading::new(series, 1, 20);
    uncertain.quality = Quality::Uncertain;
    assert_eq!(
        outcome.stored,
        [
            Reading::new(series, 1, 20),
            Reading::new(&format!("{series}/available"), 1, false),
            uncertain
        ]
    );
    // The same configuration again, as after every connection, changes nothing: it is still not there.
    let outcome = run(
        &mut harness,
        &[(CONFIG, config), ("a", "offline"), ("s", r#"{"t":21}"#)],
    );
    assert_eq!(outcome.stored.len(), 1);
    assert_eq!(outcome.stored[0].quality, Quality::Uncertain);
    // Another one takes its place, and its topics with it.
    let outcome = run(
        &mut harness,
        &[
            (CONFIG, r#"{"stat_t":"s2"}"#),
            ("s2", "x"),
            ("s", "{}"),
            ("a", "online"),
        ],
    );
    assert_eq!(outcome.stored, [Reading::new(series, 1, "x")]);
    assert_eq!(outcome.undecoded.len(), 2);
    run(&mut harness, &[(CONFIG, "")]);
    assert!(reasons(run(&mut harness, &[("s2", "x")])).contains("no configuration"));
    let counts = ("count".len() + 12) + ("bytes".len() + 4);
    assert_eq!(harness.state_bytes(), counts, "nothing of it is left");
}

#[test]
fn what_cannot_be_read_is_undecoded_with_the_reason() {
    let mut harness = DecoderHarness::new(homeassistant);
    let numeric = r#"{"stat_t":"n","unit_of_meas":"W"}"#;
    let binary = r#"{"stat_t":"b"}"#;
    let path = r#"{"stat_t":"j","val_tpl":"{{ value_json.x }}"}"#;
    let outcome = run(
        &mut harness,
        &[
            ("homeassistant/sensor/n/config", numeric),
            ("homeassistant/binary_sensor/b/config", binary),
            ("homeassistant/sensor/j/config", path),
        ],
    );
    assert_eq!(outcome.undecoded, []);
    let mut check = |topic: &str, payload: &str, want: &str| {
        let reason = reasons(run(&mut harness, &[(topic, payload)]));
        assert!(
            reason.contains(want) && reason.is_empty() == want.is_empty(),
            "{topic} {payload}: {reason}"
        );
    };
    check("n", "warm", "homeassistant/sensor/n: `warm` is no number");
    check("n", "", "");
    check("n", "None", "");
    check("n", "inf", "is no number");
    check(
        "b",
        "on",
        "homeassistant/binary_sensor/b: `on` is neither `ON` nor `OFF`",
    );
    check("b", "None", "");
    check(
        "j",
        "{\"x\":1",
        "it is no JSON, which the template of homeassistant/sensor/j needs: byte 6",
    );
    check("j", "{}", "");
    check("j", "{\"x\":{}}", "an object or an array is no value");
    check("elsewhere", "1", "names the topic `elsewhere`");
    check("homeassistant/sensor/a b/config", "{}", "names the topic");
    check("homeassistant/sensor/a/b/c/config", "{}", "names the topic");
    check("homeassistant/status", "online", "");
    check(
        CONFIG,
        "{\"stat_t\":\"s\",\"val_tpl\":\"{{ value_json.x * 10 }}\"}",
        "the template `{{ value_json.x * 10 }}` computes",
    );
    check("s", "1", "names the topic `s`");
    // What was known of an entity does not hold once its configuration cannot be used.
    check("n", "1", "");
    check(
        "homeassistant/sensor/n/config",
        "{\"stat_t\":\"n\",\"val_tpl\":\"{{ value | float / 10 }}\"}",
        "computes",
    );
    check("n", "1", "names the topic `n`");
    check(
        CONFIG,
        &format!("{{\"x\":\"{}\"}}", "x".repeat(70_000)),
        "65536 are possible",
    );
    let outcome = run(
        &mut harness,
        &[
            ("homeassistant/light/k/config", "{}"),
            ("homeassistant/device/k/config", "{}"),
        ],
    );
    assert_eq!(outcome.notes.len(), 2, "{outcome:?}");
    assert!(
        outcome.notes[0].contains("component `light`"),
        "{outcome:?}"
    );
    let outcome = harness.run(&[Received::new("b", 1, b"\xff")]).unwrap();
    assert!(reasons(outcome).contains("byte 0 is no UTF-8"));

    let mut harness = DecoderHarness::new(homeassistant)
        .settings(json!({ "unknown-topics": "ignore", "prefix": "ha/x" }));
    let outcome = run(
        &mut harness,
        &[
            ("elsewhere", "1"),
            ("ha/x/sensor/a/config", "{\"stat_t\":\"s\"}"),
            ("s", "7"),
        ],
    );
    assert_eq!(
        (outcome.undecoded.len(), outcome.stored),
        (0, vec![Reading::new("ha/x/sensor/a", 1, 7)])
    );
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut harness = DecoderHarness::new(homeassistant);
    let announce = |harness: &mut DecoderHarness, from: usize, count: usize, filler: usize| {
        let filler = "x".repeat(filler);
        let messages: Vec<(String, String)> = (from..from + count)
            .map(|n| {
                let config =
                    format!("{{\"stat_t\":\"s\",\"avty_t\":\"bridge\",\"cmd_t\":\"{n}{filler}\"}}");
                (format!("homeassistant/sensor/n{n}/config"), config)
            })
            .collect();
        let messages: Vec<(&str, &str)> = messages
            .iter()
            .map(|(topic, config)| (&**topic, &**config))
            .collect();
        run(harness, &messages).undecoded.len()
    };
    assert_eq!(announce(&mut harness, 0, 1000, 0), 0);
    assert_eq!(announce(&mut harness, 1000, 1000, 0), 0);
    assert_eq!(announce(&mut harness, 2000, 5, 0), 5, "no room for more");
    assert_eq!(
        announce(&mut harness, 0, 1000, 0),
        0,
        "those that are known may come again"
    );
    // A shared topic is heard by all of them, in one call.
    let outcome = run(&mut harness, &[("bridge", "online"), ("s", "1")]);
    assert_eq!(outcome.stored.len(), 4000);
    assert!(harness.state_bytes() < 1024 * 1024);

    let mut harness = DecoderHarness::new(homeassistant);
    let refused = announce(&mut harness, 0, 1000, 450) + announce(&mut harness, 1000, 1000, 450);
    assert!(refused > 0);
    let taken = harness.state_bytes();
    assert!((850_000..1024 * 1024).contains(&taken), "{taken}");
    assert!(
        reasons(run(
            &mut harness,
            &[(
                "homeassistant/sensor/z/config",
                &format!("{{\"stat_t\":\"{}\"}}", "z".repeat(500))
            )]
        ))
        .contains("would take more than")
    );
}

/// Whatever comes, the answer keeps the contract, which the harness looks at, and nothing panics.
#[test]
fn damaged_messages_harm_nobody() {
    let config = r#"{"~":"b/x","stat_t":"~/s","val_tpl":"{{ value_json['a'].b[0] | float(1) | round(2) }}","avty":[{"t":"~/s","val_tpl":"{{ value_json.c }}"}]}"#;
    let sound = [
        (CONFIG, config),
        ("b/x/s", r#"{"a":{"b":[1.255,"\u00e9"]},"c":"online"}"#),
    ];
    let mut harness = DecoderHarness::new(homeassistant);
    let outcome = run(&mut harness, &sound);
    assert_eq!((outcome.undecoded.len(), outcome.stored.len()), (0, 2));
    for case in 0..cases(20_000) {
        let place = usize::from(case % 2 == 1);
        let mut messages =
            sound.map(|(topic, payload)| Received::new(topic, 1, payload.as_bytes()));
        let payload = &mut messages[place].payload;
        *payload = damaged(payload, case / 2, b"{}[]|'\"\\~,:.()0aT\xc3\0");
        harness.run(&messages).unwrap();
    }
    assert!(harness.state_bytes() < 10_000);
}
