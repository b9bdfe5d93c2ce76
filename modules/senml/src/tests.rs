use tidegate_sdk::test::{
    DecoderHarness, Decodings, Reading, Received, cases, check_decoder_vectors, damaged, hex, json,
};

use super::*;

#[test]
fn golden_vectors() {
    check_decoder_vectors(senml, include_str!("../vectors.json"));
}

#[test]
fn the_corpus_harms_nobody() {
    tidegate_sdk::test::replay_corpus(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/senml"),
        fuzz,
    );
}

const ARRIVAL: i64 = 1_766_000_000_000_000_000;

fn run(payload: &[u8]) -> Decodings {
    let mut harness = DecoderHarness::new(senml);
    harness
        .run(&[Received::new("t", ARRIVAL, payload)])
        .unwrap()
}

fn reason(payload: &[u8]) -> String {
    let outcome = run(payload);
    assert_eq!(outcome.stored, []);
    outcome
        .undecoded
        .into_iter()
        .map(|(_, reason)| reason)
        .collect()
}

#[test]
fn what_is_no_pack_is_undecoded_with_record_and_reason() {
    for (payload, want) in [
        ("", "the payload is empty"),
        (" \n", "the payload is empty"),
        ("[]", "the pack has no record"),
        (
            "{\"n\":\"a\",\"v\":1}",
            "a SenML pack is an array of records",
        ),
        ("[1]", "record 1: it is no object"),
        (
            "[{\"n\":\"a\",\"v\":1},{\"n\":\"b\"}]",
            "record 2: it has neither a value nor a sum",
        ),
        (
            "[{\"v\":1}]",
            "record 1: it has neither a name nor a base name",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"vb\":true}]",
            "record 1: it has more than one value",
        ),
        (
            "[{\"n\":\"a\",\"v\":\"1\"}]",
            "record 1: `v` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"v\":null}]",
            "record 1: `v` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"vs\":{}}]",
            "record 1: `vs` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"vd\":\"a+b\"}]",
            "record 1: `vd` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"v\":2}]",
            "record 1: `v` is there twice",
        ),
        ("[{\"n\":\"-a\",\"v\":1}]", "record 1: `-a` is no name"),
        ("[{\"n\":\"ä\",\"v\":1}]", "record 1: `ä` is no name"),
        ("[{\"bn\":\"a b\",\"v\":1}]", "record 1: `a b` is no name"),
        (
            "[{\"n\":\"a\",\"v\":1,\"bver\":11}]",
            "record 1: it is of version 11; 10 and 26 are known",
        ),
        (
            "[{\"n\":\"a\",\"v\":1},{\"n\":\"a\",\"v\":1,\"bver\":5}]",
            "record 2: it is of version 5 in a pack of version 10",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"bver\":0}]",
            "`bver` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"bver\":1.5}]",
            "`bver` is of another kind",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"x_\":0}]",
            "record 1: the field `x_` must be understood",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"t\":1e12}]",
            "record 1: its time is 1000000000000",
        ),
        (
            "[{\"n\":\"a\",\"v\":1,\"t\":-1e12}]",
            "record 1: its time is",
        ),
        ("[{\"n\":\"a\",\"v\":1}", "the text ends within"),
        ("[{\"n\":\"a\",\"v\":1}]]", "text behind the end"),
        (
            "[{\"n\":\"a\",\"v\":01}]",
            "a number that JSON does not have",
        ),
        ("[{\"n\":\"a\",\"v\":1,\"x\":[}]", "a value was expected"),
    ] {
        let reason = reason(payload.as_bytes());
        assert!(reason.contains(want), "{payload}: {reason}");
    }
    assert!(reason(b"[\xff]").contains("byte 1 is no UTF-8"));
    let name = "x".repeat(600);
    assert!(
        reason(format!("[{{\"n\":\"{name}\",\"v\":1}}]").as_bytes()).contains("bytes; 1 to 512")
    );
    for (digits, want) in [
        ("01", "a SenML pack is an array"),
        ("81 01", "record 1: it is no map"),
        ("81 a1 80 01", "record 1: it has a label that is neither"),
        ("81 a2 00 61 61 02 f6", "record 1: `v` is of another kind"),
        (
            "81 a2 00 61 61 08 63 61 2b 62",
            "record 1: `vd` is of another kind",
        ),
        (
            "81 a3 00 61 61 02 01 20 0b",
            "record 1: it is of version 11",
        ),
        (
            "81 a3 00 61 61 02 01 62 78 5f 00",
            "record 1: the field `x_` must be understood",
        ),
        (
            "81 a3 00 61 61 02 01 06 f9 7e00",
            "record 1: its time is NaN",
        ),
        ("81 a2 00 61 61 02", "the payload ends where an item is due"),
        ("81 a2 00 61 61 02 01 00", "bytes behind the end"),
        ("81 a2 00 61 61 02 c4 01", "a decimal fraction"),
    ] {
        let reason = reason(&hex(digits));
        assert!(reason.contains(want), "{digits}: {reason}");
    }
}

/// What the RFC says and none of its examples shows.
#[test]
fn base_value_base_sum_and_fields_that_are_not_known() {
    let outcome = run(br#"[{"bn":"m/","bu":"W","bv":20,"bs":100,"x":[{"y":{}}]},
        {"n":"a","v":1.5,"s":2,"ut":5},{"n":"b","t":-1.5},{"n":"c","u":"1/min","vb":true,"bs":0,"t":268435456},
        {"n":"d","u":"","v":0,"t":268435455}]"#);
    let reading = |series, time, value: f64| Reading::new(series, time, value);
    assert_eq!(outcome.undecoded, []);
    assert_eq!(
        outcome.stored,
        [
            reading("t/m/a/W", ARRIVAL, 21.5),
            reading("t/m/a/W/sum", ARRIVAL, 102.0),
            reading("t/m/b/W/sum", ARRIVAL - 1_500_000_000, 100.0),
            Reading::new("t/m/c/1_min", 268_435_456_000_000_000, true),
            reading("t/m/c/1_min/sum", 268_435_456_000_000_000, 0.0),
            // The last time that counts from now.
            reading("t/m/d", ARRIVAL + 268_435_455_000_000_000, 20.0),
            reading("t/m/d/sum", ARRIVAL + 268_435_455_000_000_000, 0.0),
        ]
    );
    // Version 26 (RFC 9100), a label of a text and a decimal fraction in CBOR, an array of indefinite length, tag 55799.
    let outcome = run(&hex(
        "d9d9f7 9f a4 20 18 1a 61 6e 61 61 02 c4 82 21 19 6ab3 63 78 79 7a 81 f6 ff",
    ));
    assert_eq!(outcome.stored, [reading("t/a", ARRIVAL, 273.15)]);
}

#[test]
fn a_number_that_is_none_is_of_bad_quality() {
    let outcome = run(&hex("81 a2 00 61 61 02 f9 7c00"));
    assert_eq!(outcome.stored[0].quality, Quality::Bad);
}

/// Whatever comes, the answer keeps the contract, which the harness looks at, and nothing panics.
#[test]
fn damaged_packs_harm_nobody() {
    let sound: [Vec<u8>; 2] = [
        br#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"v","u":"V","v":120.1},{"n":"c","t":-5,"vs":"\u00e9"},{"n":"d","vd":"aGkgCg","s":1}]"#.to_vec(),
        hex("82 a7 21 63 61 3a 62 22 fb 41d303a15b001062 23 61 41 20 05 00 61 76 01 61 56 02 fb 405e066666666666 a3 00 61 63 06 24 08 42 0102"),
    ];
    let mut harness = DecoderHarness::new(senml).settings(json!({ "series": "name" }));
    for case in 0..cases(20_000) {
        let sound = &sound[usize::from(case % 2 == 1)];
        let payload = damaged(sound, case / 2, b",:{}[]\"\\e-\xff\xf9\xfb\xa3\x9f");
        harness.run(&[Received::new("t", 0, &payload)]).unwrap();
    }
    for sound in &sound {
        assert_eq!(
            harness
                .run(&[Received::new("t", 0, sound)])
                .unwrap()
                .undecoded,
            []
        );
    }
}
