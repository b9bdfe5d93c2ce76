use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rollout::{Gates, Mode};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn channel(change: impl Fn(&mut serde_json::Value)) -> Result<Channel, String> {
    let mut json = serde_json::json!({
        "v": 1, "channel": "stable", "epoch": 3, "published": 1_766_000_000_000_u64, "a key of later": [1],
        "modules": {"range": {"version": "1.2.0", "digest": DIGEST, "minimum": "1.0.0", "settings": {"min": 1}, "new": 1}},
        "waves": [{"percent": 5, "after": "0s"}, {"percent": 100, "after": "36h"}],
        "canary": {"gate": {"mode": "shadow", "min_samples": 50, "time_limit_seconds": 60}},
    });
    change(&mut json);
    Channel::parse(&serde_json::to_vec(&json).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_channel_is_read_and_written_as_it_was() {
    let channel = channel(|_| {}).unwrap();
    let range = &channel.modules[&"range".parse().unwrap()];
    assert_eq!(range.version.to_string(), "1.2.0");
    assert_eq!(channel.places(Duration::ZERO), 500);
    assert_eq!(channel.places(Duration::from_hours(36)), 10_000);
    let gates = channel.canary.as_ref().unwrap().gate.over(Gates::default());
    assert_eq!((gates.mode, gates.min_samples), (Mode::Shadow, 50));
    assert_eq!(gates.time_limit, Duration::from_mins(1));
    assert_eq!(gates.memory.to_bits(), 2.0_f64.to_bits());
    let written = serde_json::to_vec(&channel).unwrap();
    assert!(String::from_utf8_lossy(&written).contains(r#""after":"36h""#));
    assert_eq!(Channel::parse(&written).unwrap(), channel);
}

#[test]
fn a_channel_that_means_nothing_is_refused_with_what_is_wrong() {
    for (pointer, value, says) in [
        ("/v", serde_json::json!(2), "update the daemon"),
        ("/channel", serde_json::json!("../x"), "no name"),
        ("/epoch", serde_json::json!(0), "`epoch`"),
        ("/epoch", serde_json::json!(u64::MAX), "`epoch`"),
        (
            "/modules/range/version",
            serde_json::json!("1.2"),
            "no version",
        ),
        (
            "/modules/range/digest",
            serde_json::json!("sha256:AA"),
            "digest",
        ),
        (
            "/modules/range/minimum",
            serde_json::json!("1.2.1"),
            "minimum",
        ),
        ("/modules/range/settings", serde_json::json!([]), "map"),
        ("/waves/0/percent", serde_json::json!(0), "0.01 to 100"),
        ("/waves/0/percent", serde_json::json!(0.001), "0.01 to 100"),
        ("/waves/0/percent", serde_json::json!(-1), "0.01 to 100"),
        ("/waves/1/percent", serde_json::json!(100.01), "0.01 to 100"),
        ("/waves/1/percent", serde_json::json!(5), "more percent"),
        ("/waves/1/after", serde_json::json!("0s"), "later"),
        ("/waves/1/after", serde_json::json!("1w"), "36h"),
        ("/waves/1/after", serde_json::json!("9999999d"), "36h"),
        (
            "/canary/gate/time_limit_seconds",
            serde_json::json!(0),
            "time limit",
        ),
        ("/canary/gate/mode", serde_json::json!("none"), "canary"),
    ] {
        let refused = channel(|json| *json.pointer_mut(pointer).unwrap() = value.clone());
        let why = refused.expect_err(pointer);
        assert!(why.contains(says), "{pointer}: {why}");
    }
    let gate = channel(|json| json["canary"]["gate"]["share"] = 0.0.into());
    assert!(gate.unwrap_err().contains("parts of 1"));
    let twice = br#"{"v":1,"channel":"a","epoch":1,"published":0,"modules":{"b":{"version":"1.0.0","digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"b":{"version":"2.0.0","digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}}"#;
    assert!(
        Channel::parse(twice)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
    let long = vec![b' '; crate::limits::CHANNEL_BYTES + 1];
    assert!(matches!(
        Channel::parse(&long),
        Err(DocumentError::Size { .. })
    ));
}

/// A document in its second wave of three.
fn staged(change: impl Fn(&mut serde_json::Value)) -> Result<Channel, String> {
    channel(|json| {
        json["waves"] = serde_json::json!([{"percent": 0.5, "after": "0s"}]);
        json["staged"] = serde_json::json!({
            "since": 2, "wave": 1, "on_failure": "revoke", "replace": {"range": "1.2.1"}, "gate": {"failures": 0.1},
            "waves": [{"percent": 0.1, "soak": "1h"}, {"percent": 0.5, "soak": "2h"}, {"percent": 100, "soak": "1d"}],
            "former": {"range": {"version": "1.1.0", "digest": DIGEST}},
        });
        change(json);
    })
}

#[test]
fn a_staged_document_says_which_wave_is_open_and_what_it_goes_on_from() {
    let sound = staged(|_| {}).unwrap();
    assert_eq!(sound.places(Duration::ZERO), 50);
    assert_eq!(sound.placed_by(), 2);
    assert!(!sound.goes_on_from(1) && sound.goes_on_from(2) && sound.goes_on_from(3));
    assert!(!sound.goes_on_from(4));
    let gate = sound.staged.as_ref().unwrap().gate;
    assert_eq!(
        (gate.failures, gate.taken),
        (0.1, WaveGate::default().taken)
    );
    let written = serde_json::to_vec(&sound).unwrap();
    assert!(String::from_utf8_lossy(&written).contains(r#""percent":0.5"#));
    assert_eq!(Channel::parse(&written).unwrap(), sound);
    let halted = staged(|json| json["staged"]["halted"] = "3 of 10".into()).unwrap();
    assert_eq!(halted.places(Duration::from_hours(1000)), 0);
    // Without it, as it always was.
    let plain = channel(|_| {}).unwrap();
    assert_eq!(plain.placed_by(), 3);
    assert!(!plain.goes_on_from(3));
    for (pointer, value, says) in [
        ("/staged/since", serde_json::json!(4), "since"),
        ("/staged/since", serde_json::json!(0), "since"),
        ("/staged/wave", serde_json::json!(0), "wave number"),
        ("/staged/wave", serde_json::json!(3), "wave number"),
        ("/waves/0/after", serde_json::json!("1s"), "wave number"),
        (
            "/staged/waves/0/percent",
            serde_json::json!(0.5),
            "more percent",
        ),
        (
            "/staged/gate/failures",
            serde_json::json!(1.1),
            "parts of 1",
        ),
        ("/staged/on_failure", serde_json::json!("halt"), "replace"),
        ("/staged/replace/range", serde_json::json!("1.2.0"), "above"),
        (
            "/staged/former/range/digest",
            serde_json::json!("x"),
            "former",
        ),
    ] {
        let refused = staged(|json| *json.pointer_mut(pointer).unwrap() = value.clone());
        let why = refused.expect_err(pointer);
        assert!(why.contains(says), "{pointer}: {why}");
    }
}

fn release(change: impl Fn(&mut serde_json::Value)) -> Result<Release, String> {
    let mut json = serde_json::json!({
        "v": 1, "name": "range", "version": "1.2.0", "digest": DIGEST, "bytes": 5, "world": "tidegate:module/filter@0.1.0",
        "grants": ["log"], "limits": {"memory-bytes": 1}, "state_schema": 2, "minimum_daemon": "0.1.0", "vectors": DIGEST,
        "manifest": {"name": "range", "version": "1.2.0", "digest": DIGEST, "world": "tidegate:module/filter@0.1.0",
                     "grants": ["log"]},
    });
    change(&mut json);
    Release::parse(&serde_json::to_vec(&json).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_release_says_one_thing() {
    let sound = release(|json| json["later"] = 1.into()).unwrap();
    let written = serde_json::to_vec(&sound).unwrap();
    assert_eq!(Release::parse(&written).unwrap(), sound);
    for (pointer, value, says) in [
        ("/v", serde_json::json!(7), "version 7"),
        ("/name", serde_json::json!("deadband"), "`name` says range"),
        ("/version", serde_json::json!("1.2.1"), "`version` says"),
        (
            "/manifest/digest",
            serde_json::json!(1),
            "`digest` says nothing",
        ),
        ("/world", serde_json::json!("x"), "`world` says"),
        ("/grants", serde_json::json!([]), "`grants`"),
        ("/vectors", serde_json::json!("x"), "no digest"),
        ("/bytes", serde_json::json!(0), "bytes"),
        ("/minimum_daemon", serde_json::json!("1"), "no version"),
    ] {
        let refused = release(|json| *json.pointer_mut(pointer).unwrap() = value.clone());
        let why = refused.expect_err(pointer);
        assert!(why.contains(says), "{pointer}: {why}");
    }
}

#[test]
fn versions_are_ordered_as_semver_says() {
    // <https://semver.org/#spec-item-11>, and numbers beside each other.
    let ordered = [
        "0.9.10",
        "0.10.0",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.1",
        "10.0.0",
    ]
    .map(|text| text.parse::<Version>().unwrap());
    assert!(ordered.is_sorted_by(|a, b| a < b));
    for bad in [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.2.3",
        "1.2.3+build",
        "1.2.3-",
        "1.2.3-a..b",
        "1.2.3-01",
        "v1.2.3",
        "+1.2.3",
        "1.2.3-a/b",
        "1.2.99999999999999999999",
        "1.2.3\n",
    ] {
        assert!(bad.parse::<Version>().is_err(), "{bad}");
    }
}

#[test]
fn targets_are_told_by_their_names() {
    for path in [
        "modules/range/1.2.0.wasm",
        "modules/range/1.2.0-rc.1.json",
        "modules/range/1.2.0.vectors.json",
        "modules/range/1.2.0.cdx.json",
        "modules/range/1.2.0.intoto.json",
        "channels/stable.json",
    ] {
        assert_eq!(Target::parse(path).unwrap().to_string(), path);
    }
    for path in [
        "",
        "modules",
        "modules/range",
        "modules/../1.2.0.wasm",
        "modules/range/1.2.0.exe",
        "modules/range/.wasm",
        "modules/range/1.2.0.wasm/x",
        "channels/a/b.json",
        "/channels/a.json",
        "channels/.json",
        "modules//1.2.0.wasm",
    ] {
        assert_eq!(Target::parse(path), None, "{path}");
    }
}

#[test]
fn parts_of_gateways_are_written_as_they_are_read() {
    for text in ["100", "0.01", "0.1", "5", "12.5", "99.99", "0.29"] {
        let percent: Percent = text.parse().unwrap();
        assert_eq!(percent.to_string(), text);
        let json = serde_json::to_string(&percent).unwrap();
        assert_eq!(json, text);
        assert_eq!(serde_json::from_str::<Percent>(&json).unwrap(), percent);
    }
    for text in [
        "", "0", "0.0", "0.001", "100.01", "101", "1.", ".5", "+5", "1e1", "1000", "5%",
    ] {
        assert!(text.parse::<Percent>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_is_read_as_a_version_or_a_target_is_written_alike(text in "[0-9a-z./-]{0,24}", head in "(modules/|channels/)?") {
        if let Ok(version) = text.parse::<Version>() {
            prop_assert_eq!(version.to_string(), text.clone());
        }
        let path = format!("{head}{text}");
        if let Some(target) = Target::parse(&path) {
            prop_assert_eq!(target.to_string(), path);
        }
    }
}
