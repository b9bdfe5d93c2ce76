//! The factory decoders, each through the real daemon and a real broker, with payloads of its own golden vectors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Broker, Collector, Daemon, Site, run, verify, wait_for};

/// A site whose source `plant` is decoded by a factory module.
fn decoded_by(site: &Site, broker: &Broker, topics: &[&str], decode: &str) -> PathBuf {
    let url = broker.url();
    let topics = topics
        .iter()
        .map(|topic| format!("{{ topic = \"{topic}\", qos = 1 }}"));
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{topics}]\ndecode = {decode}\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\n\
             [pipeline.p]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            state = site.path("state").display(),
            topics = topics.collect::<Vec<_>>().join(", "),
        ),
    )
}

/// Publishes at QoS 1, one behind the other.
fn publish<'m>(broker: &Broker, messages: impl IntoIterator<Item = (&'m str, &'m [u8])>) {
    for (topic, payload) in messages {
        // What is empty takes a retained message back, and `mosquitto_pub` has a word of its own for it.
        broker.publish_with(topic, payload, &["-q", "1"]);
    }
}

/// The messages of a step of a module's golden vectors: topic and payload.
fn of_vectors(module: &str, vector: &str, step: usize) -> Vec<(String, Vec<u8>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("modules/{module}/vectors.json"));
    let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut vectors = vectors["vectors"].as_array().unwrap().iter();
    let vector = vectors
        .find(|one| one["name"].as_str().unwrap().contains(vector))
        .unwrap();
    let messages = vector["steps"][step]["messages"].as_array().unwrap();
    let message = |message: &Value| {
        let payload = match message["hex"].as_str() {
            Some(digits) => bytes(digits),
            None => message["text"].as_str().unwrap().into(),
        };
        (message["topic"].as_str().unwrap().to_owned(), payload)
    };
    messages.iter().map(message).collect()
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn borrowed(messages: &[(String, Vec<u8>)]) -> impl Iterator<Item = (&str, &[u8])> {
    messages
        .iter()
        .map(|(topic, payload)| (&**topic, &**payload))
}

/// Everything that is stored: time, series, value, quality.
fn stored(config: &Path) -> Vec<(String, String, Value, String)> {
    let arguments = [
        "history",
        "--series",
        "**",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ];
    let output = run(&arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let reading = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |member: &str| line[member].as_str().unwrap().to_owned();
        (
            text("time"),
            text("series"),
            line["value"].clone(),
            text("quality"),
        )
    };
    lines.lines().map(reading).collect()
}

/// The stored readings of one series: value and quality.
fn of_series(config: &Path, series: &str) -> Vec<(Value, String)> {
    let all = stored(config)
        .into_iter()
        .filter(|(_, name, ..)| name == series);
    all.map(|(.., value, quality)| (value, quality)).collect()
}

fn good(values: impl IntoIterator<Item = Value>) -> Vec<(Value, String)> {
    values
        .into_iter()
        .map(|value| (value, "good".to_owned()))
        .collect()
}

/// Why messages were set aside.
fn reasons(config: &Path) -> Vec<String> {
    let output = run(&[
        "quarantine",
        "list",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = list["items"].as_array().unwrap().iter();
    rows.map(|row| row["detail"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until so many messages were decoded and so many set aside.
#[track_caller]
fn wait_decoded(daemon: &Daemon, decoded: u64, quarantined: u64) {
    wait_for(
        &format!("{decoded} decoded and {quarantined} set aside"),
        || {
            let source = daemon.ledger()["sources"]["plant"].clone();
            let done = source["decoded"].as_u64()? + source["quarantined"].as_u64()?
                >= decoded + quarantined;
            done.then(|| {
                assert_eq!(source["decoded"], decoded, "{source}");
                assert_eq!(source["quarantined"], quarantined, "{source}");
            })
        },
    );
}

/// Stops the daemon, and recounts what it stored.
fn end(mut daemon: Daemon, config: &Path) {
    daemon.wait_delivered();
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn cbor_becomes_readings_at_its_own_time() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let decode = "{ module = \"cbor\", settings = { time-field = \"meta/ts\" } }";
    let config = decoded_by(&site, &broker, &["plant/#"], decode);
    let daemon = Daemon::start(&config);
    let messages = of_vectors("cbor", "the time of a message", 0);
    publish(&broker, borrowed(&messages));
    publish(&broker, [("plant/line1", &b"\xff"[..])]);
    wait_decoded(&daemon, 3, 2);
    let temperature = json!(21.59375);
    assert_eq!(
        of_series(&config, "plant/line1/temp"),
        good(vec![temperature.clone(); 3])
    );
    let reasons = reasons(&config);
    assert!(reasons[0].contains("byte 0: a \"break\""), "{reasons:?}");
    assert!(
        reasons[1].contains("the time field `meta/ts` is missing"),
        "{reasons:?}"
    );
    daemon.wait_delivered();
    let sent = collector.items("readings");
    assert_eq!(sent.len(), 3);
    assert!(
        sent.iter().all(|item| item["value"] == temperature),
        "{sent:?}"
    );
    let times: BTreeSet<String> = stored(&config).into_iter().map(|(time, ..)| time).collect();
    // By tag 1, by tag 0 and by a number of milliseconds, as the vector has them.
    let times: Vec<&str> = times.iter().map(String::as_str).collect();
    assert_eq!(
        times,
        [
            "2013-03-21T20:04:00.5Z",
            "2013-03-21T20:04:00Z",
            "2025-12-17T16:53:55.963Z"
        ]
    );
    end(daemon, &config);
}

#[test]
fn senml_packs_are_resolved_in_json_and_in_cbor() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = decoded_by(&site, &broker, &["site"], "{ module = \"senml\" }");
    let daemon = Daemon::start(&config);
    // The same pack, once as text and once as bytes.
    for vector in [
        "5.1.2, the same with a time for each",
        "section 6: the pack",
    ] {
        publish(&broker, borrowed(&of_vectors("senml", vector, 0)));
    }
    publish(
        &broker,
        borrowed(&of_vectors("senml", "must be understood", 0)),
    );
    wait_decoded(&daemon, 3, 2);
    let current = of_series(&config, "site/urn:dev:ow:10e2073a0108006:current/A");
    let values = [1.2, 1.3, 1.4, 1.5, 1.6, 1.7];
    assert_eq!(
        current,
        good(values.iter().chain(&values).map(|value| json!(value)))
    );
    let voltage = of_series(&config, "site/urn:dev:ow:10e2073a0108006:voltage/V");
    assert_eq!(voltage, good([json!(120.1), json!(120.1)]));
    let first = stored(&config)
        .into_iter()
        .find(|(_, series, ..)| series.ends_with("current/A"));
    assert!(
        first.unwrap().0.starts_with("2010-06-08T18:01:11.001"),
        "five seconds before the base time"
    );
    let reasons = reasons(&config);
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("`later_` must be understood")),
        "{reasons:?}"
    );
    end(daemon, &config);
}

/// Configurations are retained and come again with every connection; what was learnt is there before them.
#[test]
fn home_assistant_entities_are_learnt_and_known_after_a_kill() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let decode = "{ module = \"homeassistant\" }";
    let config = decoded_by(&site, &broker, &["homeassistant/#", "pump/#"], decode);
    let mut daemon = Daemon::start(&config);
    let announced = of_vectors("homeassistant", "sensors with a common state payload", 0);
    publish(&broker, borrowed(&announced));
    publish(
        &broker,
        [
            (
                "homeassistant/sensor/pump/flow/config",
                &br#"{"stat_t":"pump/flow","unit_of_meas":"L/min","avty_t":"pump/lwt"}"#[..],
            ),
            ("pump/lwt", b"offline"),
            ("pump/flow", b"12"),
            (
                "homeassistant/sensor/x/config",
                br#"{"stat_t":"pump/x","val_tpl":"{{ value | float * 2 }}"}"#,
            ),
            ("pump/x", b"1"),
        ],
    );
    wait_decoded(&daemon, 6, 2);
    daemon.kill();
    let daemon = Daemon::start(&config);
    let (topic, state) = announced.last().unwrap();
    publish(
        &broker,
        [
            (topic.as_str(), state.as_slice()),
            ("pump/flow", b"13"),
            ("pump/lwt", b"online"),
            ("pump/flow", b"14"),
        ],
    );
    wait_decoded(&daemon, 10, 2);
    let bedroom = |sensor: &str| {
        of_series(
            &config,
            &format!("homeassistant/sensor/sensorBedroom{sensor}"),
        )
    };
    assert_eq!(bedroom("T"), good([json!(23.2), json!(23.2)]));
    assert_eq!(bedroom("H"), good([json!(43.7), json!(43.7)]));
    assert_eq!(bedroom("T/unit"), good([json!("°C")]));
    let flow = of_series(&config, "homeassistant/sensor/pump/flow");
    let uncertain = |value: i32| (json!(value), "uncertain".to_owned());
    assert_eq!(
        flow,
        [uncertain(12), uncertain(13), (json!(14), "good".to_owned())],
        "it was known to be away, also after the kill"
    );
    assert_eq!(
        of_series(&config, "homeassistant/sensor/pump/flow/available"),
        good([json!(false), json!(true)])
    );
    let reasons = reasons(&config);
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("the template `{{ value | float * 2 }}` computes")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("names the topic `pump/x`")),
        "{reasons:?}"
    );
    end(daemon, &config);
}

/// Aliases are known after a kill, what came before its birth is replayed behind it, and a death makes everything stale.
#[test]
fn sparkplug_births_data_gaps_and_deaths() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let collector = Collector::start(broker.port, "tidegate/#");
    let config = decoded_by(&site, &broker, &["spBv1.0/#"], "{ module = \"sparkplug\" }");
    let mut daemon = Daemon::start(&config);
    // Data by an alias that nobody has named, the birth, and three more of which one is known by then.
    let early = of_vectors("sparkplug", "an alias that no birth has named", 0);
    publish(&broker, borrowed(&early));
    wait_decoded(&daemon, 2, 3);
    daemon.kill();

    let daemon = Daemon::start(&config);
    // By sequence number 5 where 4 is due; the vector has it behind a birth of its own.
    publish(
        &broker,
        borrowed(&of_vectors("sparkplug", "sequence numbers", 1)),
    );
    wait_decoded(&daemon, 3, 3);
    let note = wait_for("the gap as an event", || {
        let events = collector.items("event");
        events
            .into_iter()
            .find(|event| event["code"] == "decoder-note")
    });
    assert_eq!(
        note["text"],
        "source plant: G/N: sequence number 5 where 4 was due: 1 messages are missing"
    );
    assert_eq!(
        of_series(&config, "spBv1.0/G/N/t"),
        good([json!(20.5), json!(21.0), json!(4.0)])
    );

    let output = run(&[
        "quarantine",
        "replay",
        "--all",
        "--config",
        config.to_str().unwrap(),
    ]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The first one has its birth by now; the other two, of an unknown device and alias, have none yet.
    wait_for("the replayed reading", || {
        (of_series(&config, "spBv1.0/G/N/t").len() == 4).then_some(())
    });
    let left = reasons(&config);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left.iter()
            .any(|reason| reason.contains("no birth of G/N/D that came so far names the alias 1")),
        "{left:?}"
    );

    publish(
        &broker,
        borrowed(&of_vectors("sparkplug", "bdSeq tells a death", 1)),
    );
    publish(
        &broker,
        borrowed(&of_vectors("sparkplug", "bdSeq tells a death", 2)),
    );
    let online = || of_series(&config, "spBv1.0/G/N/$online");
    wait_for("the death", || (online().len() == 2).then_some(()));
    assert_eq!(online(), good([json!(true), json!(false)]));
    let values = of_series(&config, "spBv1.0/G/N/t");
    assert_eq!(
        values.last(),
        Some(&(Value::Null, "bad".to_owned())),
        "stale: {values:?}"
    );
    assert_eq!(
        values.len(),
        5,
        "the death of the earlier session changed nothing: {values:?}"
    );
    end(daemon, &config);
}
