use std::sync::Arc;

use proptest::prelude::*;
use tidegate_domain::limits::{
    JSON_DEPTH, MESSAGE_READINGS, PAYLOAD_BYTES, SERIES_NAME_BYTES, TEXT_BYTES,
};
use tidegate_domain::outcome::reason::{OVERSIZE, UNDECODABLE};
use tidegate_domain::{Arrival, Message, Quality, Value};

use super::*;

const ARRIVAL: i64 = 42;

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        source: 0,
        topic: topic.into(),
        payload: payload.to_vec().into(),
        arrival: Arrival {
            wall: ARRIVAL,
            ..Arrival::default()
        },
        ack: None,
        redelivered: false,
        identity: None,
    }
}

fn config(format: As) -> DecodeConfig {
    DecodeConfig {
        format,
        time_field: None,
        time_unit: TimeUnit::Millis,
    }
}

fn timed(format: As, field: &str) -> DecodeConfig {
    DecodeConfig {
        time_field: Some(field.to_owned()),
        ..config(format)
    }
}

fn csv(columns: &[&str]) -> As {
    As::Csv {
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
        separator: b',',
    }
}

type Row<'a> = (&'a str, i64, Value<'a>, Quality);

fn good<'a>(series: &'a str, value: Value<'a>) -> Row<'a> {
    (series, ARRIVAL, value, Quality::Good)
}

/// One payload on `t`, decoded: the rows, or the reason and a part of the detail.
fn check(config: &DecodeConfig, payload: &str, expect: Result<&[Row<'_>], (&str, &str)>) {
    let decoded = Decoder::new(config.clone())
        .unwrap()
        .decode(&[message("t", payload.as_bytes())]);
    decoded.batch.validate().unwrap();
    let rows = rows(&decoded.batch);
    let shown: String = payload.chars().take(60).collect();
    match expect {
        Ok(expect) => {
            assert_eq!(decoded.failures, [], "{shown}");
            assert_eq!(format!("{rows:?}"), format!("{expect:?}"), "{shown}");
            assert_eq!(decoded.rows, [u32::try_from(expect.len()).unwrap()]);
        }
        Err((reason, part)) => {
            let [(0, failure)] = &decoded.failures[..] else {
                panic!("{shown}: {rows:?} instead of a failure with {part:?}");
            };
            assert_eq!(failure.reason, reason, "{shown}: {}", failure.detail);
            assert!(failure.detail.contains(part), "{shown}: {}", failure.detail);
            assert_eq!((rows, decoded.rows), (vec![], vec![0]), "{shown}");
        }
    }
}

fn rows(batch: &Batch) -> Vec<Row<'_>> {
    (0..batch.len())
        .map(|row| {
            let series = &**batch.name(row);
            (
                series,
                batch.time[row],
                batch.value(row),
                batch.quality(row),
            )
        })
        .collect()
}

#[test]
fn json_values() {
    let json = config(As::Json);
    let one = |value| [good("t", value)];
    check(&json, "21.5", Ok(&one(Value::Float(21.5))));
    check(&json, " 21 \r\n", Ok(&one(Value::Int(21))));
    check(&json, "\u{FEFF}true", Ok(&one(Value::Bool(true))));
    check(&json, "1e3", Ok(&one(Value::Float(1000.0))));
    check(&json, "-0", Ok(&one(Value::Float(-0.0))));
    check(&json, "-0.0", Ok(&one(Value::Float(-0.0))));
    check(&json, "5e-324", Ok(&one(Value::Float(5e-324))));
    check(&json, "9223372036854775807", Ok(&one(Value::Int(i64::MAX))));
    check(
        &json,
        "-9223372036854775808",
        Ok(&one(Value::Int(i64::MIN))),
    );
    check(
        &json,
        "18446744073709551615",
        Ok(&[(
            "t",
            ARRIVAL,
            Value::Float(18_446_744_073_709_551_615.0),
            Quality::Uncertain,
        )]),
    );
    check(
        &json,
        "-1e400",
        Ok(&[("t", ARRIVAL, Value::Float(f64::NEG_INFINITY), Quality::Bad)]),
    );
    check(
        &json,
        r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00°""#,
        Ok(&one(Value::Text("a\"\\/\u{8}\u{c}\n\r\té😀°"))),
    );
    check(&json, "null", Ok(&[]));
    check(&json, "{}", Ok(&[]));
    check(&json, "[[], {}]", Ok(&[]));
}

#[test]
fn json_structure_becomes_series() {
    check(
        &config(As::Json),
        r#" { "temp" : 1, "m": {"x": [2, {"y": false}, null], "µ/s": "on"}, "temp": 3 } "#,
        Ok(&[
            good("t/temp", Value::Int(1)),
            good("t/m/x/0", Value::Int(2)),
            good("t/m/x/1/y", Value::Bool(false)),
            good("t/m/µ/s", Value::Text("on")),
            good("t/temp", Value::Int(3)),
        ]),
    );
}

#[test]
fn what_is_no_json() {
    let json = config(As::Json);
    let wrong = |payload: &str, part| check(&json, payload, Err((UNDECODABLE, part)));
    wrong("", "empty");
    wrong(" \n", "empty");
    wrong("\u{FEFF}", "empty");
    wrong("{\"a\":1", "ends at byte 6");
    wrong("{\"a\" 1}", "'1' at byte 5, where `:`");
    wrong("{a:1}", "'a' at byte 1, where a key");
    wrong("{\"a\":1,}", "'}' at byte 7, where a key");
    wrong("[1,]", "']' at byte 3, where a value");
    wrong("[1 2]", "'2' at byte 3, where `,` or `]`");
    wrong("1 x", "after the end of the JSON value at byte 2");
    wrong("21.5\0", "after the end of the JSON value at byte 4");
    wrong("\u{FEFF}1 x", "at byte 5");
    wrong("{\"a\":1}{\"a\":2}", "at byte 7");
    wrong("NaN", "'N' at byte 0");
    wrong("tru", "'t' at byte 0");
    wrong("01", "leading zero at byte 0");
    wrong("[-01]", "leading zero at byte 1");
    wrong("1.", "digit on each side");
    wrong("-.5", "digit on each side");
    wrong(".5", "'.' at byte 0");
    wrong("+1", "'+' at byte 0");
    wrong("-", "where a number");
    wrong("1e", "after the end of the JSON value at byte 1");
    wrong("\"a", "closing quote at byte 2");
    wrong("\"a\nb\"", "control character in a string at byte 2");
    wrong(r#""\x""#, "unknown escape at byte 1");
    wrong(r#""\u12g4""#, "four hex digits at byte 1");
    wrong(r#""\ud800""#, "surrogate pair at byte 1");
    wrong(r#""\udc00""#, "surrogate pair at byte 1");
    wrong(r#"{"a":1,"":2}"#, "an empty key at byte 7");
    wrong(r#"{"a//b":1}"#, "empty part");
    wrong(r#"{"a/":1}"#, "empty part");
    wrong(r#"{"a\u0007":1}"#, r"`t/a\u{7}` has a control character");
}

#[test]
fn bounds_hold() {
    let json = config(As::Json);
    let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let series = format!("t{}", "/0".repeat(JSON_DEPTH));
    check(
        &json,
        &nested(JSON_DEPTH),
        Ok(&[good(&series, Value::Int(1))]),
    );
    check(
        &json,
        &nested(JSON_DEPTH + 1),
        Err((OVERSIZE, "levels at byte 32")),
    );

    let name = "n".repeat(SERIES_NAME_BYTES - 2);
    let series = format!("t/{name}");
    check(
        &json,
        &format!("{{\"{name}\":1}}"),
        Ok(&[good(&series, Value::Int(1))]),
    );
    check(
        &json,
        &format!("{{\"{name}n\":1}}"),
        Err((OVERSIZE, "513 bytes")),
    );

    let text = "x".repeat(TEXT_BYTES);
    check(
        &json,
        &format!("\"{text}\""),
        Ok(&[good("t", Value::Text(&text))]),
    );
    check(
        &json,
        &format!("\"{text}x\""),
        Err((OVERSIZE, "16385 bytes")),
    );
    check(
        &config(As::Text),
        &format!("{text}x"),
        Err((OVERSIZE, "16385 bytes")),
    );

    let many = format!("[1{}]", ",1".repeat(MESSAGE_READINGS));
    check(&json, &many, Err((OVERSIZE, "more than 65536 readings")));
    let huge = "1".repeat(PAYLOAD_BYTES + 1);
    check(&json, &huge, Err((OVERSIZE, "1048577 bytes")));
}

#[test]
fn json_times() {
    let at = |time| [("t/v", time, Value::Int(1), Quality::Good)];
    let json = timed(As::Json, "ts");
    let wrong = |payload: &str, part| check(&json, payload, Err((UNDECODABLE, part)));
    check(
        &json,
        r#"{"ts":1766000000000,"v":1}"#,
        Ok(&at(1_766_000_000_000_000_000)),
    );
    check(
        &json,
        r#"{"v":1,"ts":1766000000000}"#,
        Ok(&at(1_766_000_000_000_000_000)),
    );
    check(
        &json,
        r#"{"v":1,"ts":"1766000000000.25"}"#,
        Ok(&at(1_766_000_000_000_250_000)),
    );
    check(
        &json,
        r#"{"v":1,"ts":"2025-12-17T19:33:20Z"}"#,
        Ok(&at(1_766_000_000_000_000_000)),
    );
    wrong(r#"{"v":1}"#, "time field `ts` is missing");
    wrong(r#"{"v":1,"a":{"ts":1}}"#, "time field `ts` is missing");
    wrong("1", "time field `ts` is missing");
    wrong(r#"{"v":1,"ts":null}"#, "time field `ts` is null");
    wrong(r#"{"v":1,"ts":true}"#, "time field `ts` is true");
    wrong(r#"{"v":1,"ts":"soon"}"#, "`soon`, no RFC 3339 time");
    wrong(r#"{"ts":1,"v":1,"ts":2}"#, "time field `ts` occurs twice");
    wrong(r#"{"ts":1e30,"v":1}"#, "outside the years");

    let nested = timed(As::Json, "meta/0/ts");
    let payload = r#"{"meta":[{"ts":1,"id":"x"}],"v":1}"#;
    let id = ("t/meta/0/id", 1_000_000, Value::Text("x"), Quality::Good);
    check(&nested, payload, Ok(&[id, at(1_000_000)[0]]));
}

#[test]
fn texts() {
    let text = config(As::Text);
    let one = |payload: &str, value| check(&text, payload, Ok(&[good("t", value)]));
    one("21.5 °C", Value::Float(21.5));
    one("21.5°C\r\n", Value::Float(21.5));
    one("-7", Value::Int(-7));
    one("+.5%", Value::Float(0.5));
    one("007", Value::Int(7));
    one("12 m³/h", Value::Int(12));
    one("3 eV", Value::Int(3));
    one("3e2 V", Value::Float(300.0));
    one("ON", Value::Bool(true));
    one("false", Value::Bool(false));
    one("pump running", Value::Text("pump running"));
    one("infeed", Value::Text("infeed"));
    check(
        &text,
        "-inf",
        Ok(&[("t", ARRIVAL, Value::Float(f64::NEG_INFINITY), Quality::Bad)]),
    );
    let wrong = |payload: &str, part| check(&text, payload, Err((UNDECODABLE, part)));
    wrong("12,5", "`,5` at byte 2");
    wrong("3 of 4", "` of 4` at byte 1");
    wrong("2026-01-31", "`-01-31` at byte 4");
    wrong("21.5\0", r"`\0` at byte 4");
    wrong("a\u{7}b", "at byte 1");
    wrong("  ", "empty");
}

#[test]
fn lines_of_csv() {
    let at = |series, time: i64, value| (series, time * 1_000_000, value, Quality::Good);
    let lines = timed(csv(&["ts", "temp", "", "state"]), "ts");
    check(
        &lines,
        "1,21.5,x,\"a \"\"b\"\", c\"\r\n2, 22 ,y,\n\n3,,z,TRUE",
        Ok(&[
            at("t/temp", 1, Value::Float(21.5)),
            at("t/state", 1, Value::Text("a \"b\", c")),
            at("t/temp", 2, Value::Int(22)),
            at("t/state", 3, Value::Bool(true)),
        ]),
    );
    let wrong = |payload: &str, part| check(&lines, payload, Err((UNDECODABLE, part)));
    wrong("1,2,3,4\n1,2,3", "line 2 has 3 fields; `columns` names 4");
    wrong("1,2,3,4,5", "line 1 has 5 fields; `columns` names 4");
    wrong("1,2,3,4,5,6", "line 1 has more than 4 fields");
    wrong("1,2,3,4\n,2,3,4", "line 2: the time field `ts` is empty");
    wrong("ts,temp,,state", "line 1: the time field `ts` is `ts`");

    check(
        &config(csv(&["a"])),
        "1\n2",
        Ok(&[good("t/a", Value::Int(1)), good("t/a", Value::Int(2))]),
    );
}

#[test]
fn lines_of_csv_without_names() {
    let bare = config(csv(&[]));
    check(&bare, "12.5\r\n", Ok(&[good("t", Value::Float(12.5))]));
    check(
        &bare,
        "1;,ok,,true",
        Ok(&[
            good("t/0", Value::Text("1;")),
            good("t/1", Value::Text("ok")),
            good("t/3", Value::Bool(true)),
        ]),
    );
    let many = vec!["1"; 256].join(",");
    let decoded = Decoder::new(bare.clone())
        .unwrap()
        .decode(&[message("t", many.as_bytes())]);
    assert_eq!(decoded.rows, [256]);
    check(
        &bare,
        &format!("{many},1,1"),
        Err((UNDECODABLE, "more than 256 fields")),
    );
}

fn pattern(pattern: &str) -> As {
    As::Regex {
        pattern: pattern.to_owned(),
    }
}

#[test]
fn groups_of_a_pattern() {
    let scale = config(pattern(
        r"^(?P<status>ST|US),\s*(?P<weight>[+-]?[0-9.]+)(kg)?(?P<rest>x*)",
    ));
    check(
        &scale,
        "ST,  +12.50kg",
        Ok(&[
            good("t/status", Value::Text("ST")),
            good("t/weight", Value::Float(12.5)),
        ]),
    );
    check(
        &scale,
        "OL,12kg",
        Err((UNDECODABLE, "the pattern is not found")),
    );
    let timed = timed(pattern(r"(?P<at>\d+) (?P<v>\d+)?"), "at");
    check(
        &timed,
        "2 7",
        Ok(&[("t/v", 2_000_000, Value::Int(7), Quality::Good)]),
    );
    check(&timed, "2 ", Ok(&[]));
    // Whatever the pattern, its time grows with the text alone.
    let slow = config(pattern(r"^(?P<a>(x+x+)+)y$"));
    check(&slow, &"x".repeat(10_000), Err((UNDECODABLE, "not found")));
    // A group of another alphabet, or one that is no end of a series, is refused like any other name.
    let error = |config| Decoder::new(config).err();
    assert!(matches!(
        error(config(pattern("("))),
        Some(DecodeConfigError::Pattern { .. })
    ));
    assert!(matches!(
        error(config(pattern(r"(?P<a>\w{1000}{1000})"))),
        Some(DecodeConfigError::Pattern { .. })
    ));
    assert_eq!(
        error(config(pattern("[0-9]+"))),
        Some(DecodeConfigError::NoGroups)
    );
    assert!(matches!(
        error(super::tests::timed(pattern("(?P<a>.)"), "b")),
        Some(DecodeConfigError::TimeFieldNoGroup { .. })
    ));
}

fn field(name: &str, offset: usize, kind: BinaryKind) -> BinaryField {
    BinaryField {
        name: name.to_owned(),
        offset,
        kind,
        big_endian: true,
        scale: None,
    }
}

#[test]
fn fields_of_a_layout() {
    use BinaryKind::{
        Bool, Float32, Float64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64,
    };
    let check =
        |kind: BinaryKind, scale: Option<f64>, bytes: &[u8], value: Value<'_>, quality: Quality| {
            // The same in both orders.
            let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
            for (big_endian, bytes) in [(true, bytes), (false, &reversed)] {
                let format = As::Binary {
                    fields: vec![BinaryField {
                        big_endian,
                        scale,
                        ..field("v", 1, kind)
                    }],
                };
                let payload = [&[0xEE], bytes].concat();
                let decoded = Decoder::new(config(format))
                    .unwrap()
                    .decode(&[message("t", &payload)]);
                let expect = [("t/v", ARRIVAL, value, quality)];
                assert_eq!(
                    format!("{:?}", rows(&decoded.batch)),
                    format!("{expect:?}"),
                    "{kind:?} {bytes:?}"
                );
            }
        };
    let good = |kind, bytes: &[u8], value| check(kind, None, bytes, value, Quality::Good);
    good(Bool, &[0], Value::Bool(false));
    good(Bool, &[2], Value::Bool(true));
    good(Int8, &[0xFF], Value::Int(-1));
    good(Uint8, &[0xFF], Value::Int(255));
    good(Int16, &[0x80, 0], Value::Int(-32_768));
    good(Uint16, &[0x12, 0x34], Value::Int(0x1234));
    good(Int32, &[0xFF, 0xFF, 0xFF, 0xFE], Value::Int(-2));
    good(Uint32, &[0xFF, 0xFF, 0xFF, 0xFF], Value::Int(4_294_967_295));
    good(Int64, &i64::MIN.to_be_bytes(), Value::Int(i64::MIN));
    good(
        Uint64,
        &(i64::MAX as u64).to_be_bytes(),
        Value::Int(i64::MAX),
    );
    good(Float32, &1.5f32.to_be_bytes(), Value::Float(1.5));
    good(Float64, &(-0.1f64).to_be_bytes(), Value::Float(-0.1));
    check(
        Uint64,
        None,
        &[0xFF; 8],
        Value::Float(18_446_744_073_709_551_615.0),
        Quality::Uncertain,
    );
    check(
        Float32,
        None,
        &f32::NAN.to_be_bytes(),
        Value::Float(f64::NAN),
        Quality::Bad,
    );
    check(
        Int16,
        Some(0.5),
        &[0xFF, 0xFD],
        Value::Float(-1.5),
        Quality::Good,
    );

    let format = As::Binary {
        fields: vec![field("a", 0, Uint8), field("b", 2, Uint16)],
    };
    super::tests::check(
        &config(format.clone()),
        "abc",
        Err((UNDECODABLE, "has 3 bytes; the field `b` ends at byte 4")),
    );
    let error = |config| Decoder::new(config).err();
    assert_eq!(
        error(timed(format, "a")),
        Some(DecodeConfigError::TimeFieldOfBinary)
    );
    assert_eq!(
        error(config(As::Binary { fields: vec![] })),
        Some(DecodeConfigError::NoFields)
    );
    let twice = vec![field("a", 0, Uint8), field("a", 1, Uint8)];
    assert!(matches!(
        error(config(As::Binary { fields: twice })),
        Some(DecodeConfigError::ColumnTwice { .. })
    ));
}

#[test]
fn contradictory_configurations() {
    let error = |config| Decoder::new(config).err();
    assert_eq!(
        error(timed(As::Text, "ts")),
        Some(DecodeConfigError::TimeFieldOfText)
    );
    assert_eq!(
        error(timed(As::Json, "")),
        Some(DecodeConfigError::TimeFieldEmpty)
    );
    assert!(matches!(
        error(timed(csv(&["a"]), "ts")),
        Some(DecodeConfigError::TimeFieldNoColumn { .. })
    ));
    assert_eq!(
        error(timed(csv(&["ts", ""]), "ts")),
        Some(DecodeConfigError::NoColumns)
    );
    assert!(matches!(
        error(config(csv(&["a", "", "", "a"]))),
        Some(DecodeConfigError::ColumnTwice { .. })
    ));
    let separator = As::Csv {
        columns: vec!["a".to_owned()],
        separator: b'"',
    };
    assert_eq!(error(config(separator)), Some(DecodeConfigError::Separator));
}

#[test]
fn a_failing_message_leaves_its_neighbours_alone() {
    let mut decoder = Decoder::new(config(As::Json)).unwrap();
    let messages = [
        message("a", br#"{"x":1,"s":"one"}"#),
        message("b", br#"{"x":2,"s":"two","#),
        message("c\u{FFFD}", b"1"),
        message("", b"1"),
        message("a", b"\xFF"),
        message("/a//x", b"3"),
        message("a", br#"{"s":"four","x":4}"#),
    ];
    let first = decoder.decode(&messages);
    first.batch.validate().unwrap();
    assert_eq!(first.rows, [2, 0, 0, 0, 0, 1, 2]);
    assert_eq!(first.decoded, 3);
    let details = [
        "ends at byte 17",
        "no UTF-8",
        "topic is empty",
        "byte 0 (0xff)",
    ];
    for (&(index, ref failure), (want, part)) in first.failures.iter().zip((1..).zip(details)) {
        assert_eq!(index, want);
        assert!(failure.detail.contains(part), "{}", failure.detail);
    }
    let expect = [
        good("a/x", Value::Int(1)),
        good("a/s", Value::Text("one")),
        good("/a//x", Value::Int(3)),
        good("a/s", Value::Text("four")),
        good("a/x", Value::Int(4)),
    ];
    assert_eq!(rows(&first.batch), expect);

    // The next batch stands alone, and shares the names.
    let second = decoder.decode(&messages[6..]);
    assert_eq!(rows(&second.batch), expect[3..]);
    assert_eq!(second.batch.names.len(), 2);
    assert!(Arc::ptr_eq(second.batch.name(1), first.batch.name(0)));
}

/// The values of a payload in the order in which they stand, as `serde_json` reads them.
fn reference(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Bool(value) => out.push(format!("{value}")),
        // Its doubles can be one unit in the last place off.
        serde_json::Value::Number(value) => {
            out.push(format!("{:.12e}", value.as_f64().unwrap()));
        }
        serde_json::Value::String(value) => out.push(format!("{value:?}")),
        serde_json::Value::Array(values) => values.iter().for_each(|value| reference(value, out)),
        serde_json::Value::Object(values) => {
            values.values().for_each(|value| reference(value, out));
        }
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z\"\\\\\n°😀]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("[a-z°]{1,4}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whole_numbers_and_doubles_stay_what_they_are(int: i64, float: f64) {
        prop_assume!(float.is_finite());
        let payload = format!("[{int}, {float:?}, {float:e}]");
        let decoded = Decoder::new(config(As::Json)).unwrap().decode(&[message("t", payload.as_bytes())]);
        prop_assert_eq!(decoded.batch.value(0), Value::Int(int));
        prop_assert_eq!(decoded.batch.bits[1], float.to_bits());
        if let Value::Float(value) = decoded.batch.value(2) {
            prop_assert_eq!(value.to_bits(), float.to_bits());
        }
    }

    /// What a general writer makes of values is what becomes readings.
    #[test]
    fn json_as_serde_json_writes_it(value in json_value()) {
        let payload = value.to_string();
        let decoded = Decoder::new(config(As::Json)).unwrap().decode(&[message("t", payload.as_bytes())]);
        prop_assert_eq!(&decoded.failures, &[]);
        let mut expect = Vec::new();
        // What was written rather than what serde_json makes of it: that reads a double up to one place off.
        reference(&value, &mut expect);
        let mut got: Vec<String> = (0..decoded.batch.len()).map(|row| match decoded.batch.value(row) {
            Value::Float(value) => format!("{value:.12e}"),
            #[expect(clippy::cast_precision_loss, reason = "as the reference does")]
            Value::Int(value) => format!("{:.12e}", value as f64),
            Value::Bool(value) => format!("{value}"),
            Value::Text(value) => format!("{value:?}"),
        }).collect();
        // The reference may order keys otherwise.
        got.sort_unstable();
        expect.sort_unstable();
        prop_assert_eq!(got, expect);
    }

    /// Broken JSON fails exactly where a general reader fails, apart from what only one of them bounds.
    #[test]
    fn mutated_json(value in json_value(), at: prop::sample::Index, byte in prop::sample::select(&b"{}[]\",:\\0-.e1n \x01\xC3"[..])) {
        let mut payload = value.to_string().into_bytes();
        let at = at.index(payload.len());
        payload[at] = byte;
        let decoded = Decoder::new(config(As::Json)).unwrap().decode(&[message("t", &payload)]);
        prop_assert!(decoded.batch.validate().is_ok());
        prop_assert_eq!(decoded.rows.len(), 1);
        match (&decoded.failures[..], serde_json::from_slice::<serde_json::Value>(&payload)) {
            ([], Ok(_)) => {}
            // It has no infinities.
            ([], Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}", error),
            ([(0, failure)], reference) => {
                prop_assert_eq!(decoded.batch.len(), 0);
                let name = failure.detail.contains("key") || failure.detail.contains("name");
                prop_assert!(reference.is_err() || name, "{}", failure.detail);
            }
            (more, _) => prop_assert!(false, "{more:?}"),
        }
    }

    #[test]
    fn any_bytes_become_rows_or_one_failure(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        text in "[-+0-9.eE,;\"\n a-c°\\\\{}\\[\\]:]{0,60}",
    ) {
        let binary = As::Binary {
            fields: vec![field("a", 0, BinaryKind::Float32), field("b", 200, BinaryKind::Uint64)],
        };
        let regex = pattern(r"(?P<a>[0-9]+)(?P<b>.)?");
        for format in [As::Json, As::Text, csv(&["a", "b"]), csv(&["a"]), csv(&[]), binary, regex, As::Lines] {
            let mut decoder = Decoder::new(config(format)).unwrap();
            let decoded = decoder.decode(&[message("t", &payload), message("t", text.as_bytes())]);
            prop_assert!(decoded.batch.validate().is_ok());
            let rows: u32 = decoded.rows.iter().sum();
            prop_assert_eq!(usize::try_from(rows), Ok(decoded.batch.len()));
            prop_assert_eq!(decoded.decoded + decoded.failures.len() as u64, 2);
            for (index, _) in &decoded.failures {
                prop_assert_eq!(decoded.rows[*index], 0);
            }
        }
    }
}
