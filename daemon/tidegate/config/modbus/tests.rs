use std::time::Duration;

use tidegate_ingest::{Kind, Link, Order};

use super::super::tests::{load, told};
use super::super::{Config, SourceKind};
use super::address;

#[test]
fn addresses() {
    let found = |url| address(url).map(|(host, port)| format!("{host} {port}"));
    assert_eq!(found("tcp://10.0.0.7:502").as_deref(), Some("10.0.0.7 502"));
    assert_eq!(found("tcp://meter.lan/").as_deref(), Some("meter.lan 502"));
    assert_eq!(
        found("tcp://[fd00::7]:1502").as_deref(),
        Some("fd00::7 1502")
    );
    for url in [
        "10.0.0.7:502",
        "tcp://",
        "tcp://a:0",
        "tcp://a:70000",
        "tcp://[a]:1",
        "tcp://a b",
        "mqtt://a",
    ] {
        assert_eq!(address(url), None, "{url}");
    }
}

/// A source with these lines, the first of which is line 3.
fn meter(lines: &str) -> String {
    format!(
        "[source.meter]\nkind = \"modbus-tcp\"\n{lines}\n[pipeline.p]\nfrom = [\"meter\"]\nto = [{{ uplink = \"u\" }}]\n\
         [uplink.u]\nkind = \"mqtt\"\nurl = \"mqtt://cloud.example\"\n"
    )
}

fn sound(text: &str) -> Config {
    let loaded = load(&[("tidegate.toml", text)], &[]);
    assert!(loaded.problems.is_empty(), "{}", loaded.problems);
    loaded.config.unwrap()
}

#[test]
fn what_others_write() {
    let config = sound(&meter(
        "url = \"tcp://10.0.0.7:502\"\nread = [\n\
         { unit = 1, table = \"holding\", interval = \"1s\", registers = [\n\
         { series = \"meter/1/voltage\", address = 0, type = \"float32\", order = \"ABCD\" },\n\
         { series = \"meter/1/energy\",  address = 2, type = \"uint32\",  order = \"CDAB\", scale = 0.01 } ] },\n]",
    ));
    let SourceKind::Modbus(modbus) = &config.sources[0].kind else {
        panic!("no Modbus source")
    };
    assert!(
        matches!(&modbus.line.link, Link::Tcp { host, port: 502, rtu: false } if host == "10.0.0.7")
    );
    let times = (
        modbus.line.timeout,
        modbus.line.quarantine,
        modbus.line.retries,
    );
    assert_eq!(times, (Duration::from_secs(1), Duration::from_secs(1), 2));
    let [group] = &modbus.groups[..] else {
        panic!("{:?}", modbus.groups)
    };
    assert_eq!((group.unit, group.most, group.fill), (1, 125, 0));
    let energy = &group.points[1];
    assert_eq!(
        (energy.address, energy.kind, energy.order),
        (2, Kind::Uint32, Order::Cdab)
    );
    assert!((energy.scale - 0.01).abs() < 1e-12);
}

#[test]
fn slaves_that_are_alike_and_addresses_from_one() {
    let config = sound(&meter(
        "url = \"tcp://gateway\"\nread = [{ unit = [3, 4], table = \"input\", first-address = 1, forbidden = [8, \"10-12\"], registers = [\n\
         { series = \"{source}/{unit}/{table}/{address}\", address = 7, measure = \"A\" },\n\
         { series = \"s/{unit}\", address = 20, bit = 3 } ] }]",
    ));
    let SourceKind::Modbus(modbus) = &config.sources[0].kind else {
        panic!("no Modbus source")
    };
    let series: Vec<(u8, &str, u16)> = modbus
        .groups
        .iter()
        .flat_map(|group| {
            group
                .points
                .iter()
                .map(|point| (group.unit, &*point.series, point.address))
        })
        .collect();
    assert_eq!(
        series,
        [
            (3, "meter/3/input/7", 6),
            (3, "s/3", 19),
            (4, "meter/4/input/7", 6),
            (4, "s/4", 19)
        ]
    );
    assert_eq!(modbus.groups[0].points[1].kind, Kind::Bit(3));
    assert_eq!(modbus.groups[0].forbidden, [7..8, 9..12]);
    let measure = config
        .series
        .iter()
        .find(|series| series.glob == "meter/4/input/7")
        .unwrap();
    assert_eq!(measure.measure.as_deref(), Some("A"));
}

#[test]
fn mistakes() {
    let check = |lines: &str, expect: &str| {
        let told = told(&load(&[("tidegate.toml", &meter(lines))], &[]));
        assert_eq!(told.len(), 1, "{lines}: {told:#?}");
        assert!(
            told[0].contains(expect),
            "{lines}: {told:?} is not {expect}"
        );
    };
    let url = "url = \"tcp://a\"\n";
    check(&format!("{url}read = []"), "`source.meter.read` is empty");
    check(url, "`source.meter.read` is missing");
    let group = |text: &str, expect: &str| check(&format!("{url}read = [{{ {text} }}]"), expect);
    group(
        "unit = 1, registers = [{ series = \"a\", address = 0 }]",
        "`source.meter.read[0].table` is missing",
    );
    group(
        "table = \"holding\", registers = [{ series = \"a\", address = 0 }]",
        "`source.meter.read[0].unit` is missing",
    );
    group(
        "unit = 256, table = \"holding\", registers = [{ series = \"a\", address = 0 }]",
        "256 is no address of a slave",
    );
    group(
        "unit = 1, table = \"holding\", registers = []",
        "nothing would be read",
    );
    group(
        "unit = 1, table = \"register\", registers = [{ series = \"a\", address = 0 }]",
        "`register` is no value of",
    );
    group(
        "unit = 1, table = \"holding\", max-age = \"1m\", registers = [{ series = \"a\", address = 0 }]",
        "`source.meter.read[0].max-age` without `on-change`",
    );
    let register = |more: &str, text: &str, expect: &str| {
        group(
            &format!("unit = 1, table = {more}, registers = [{{ {text} }}]"),
            expect,
        );
    };
    let holding = |text: &str, expect: &str| register("\"holding\"", text, expect);
    holding("address = 0", ".series` is missing");
    holding("series = \"a\"", ".address` is missing");
    holding("series = \"a\", address = 65536", "65536 is out of range");
    holding(
        "series = \"a\", address = 65535, type = \"int32\"",
        "behind the last register",
    );
    holding(
        "series = \"a//b\", address = 0",
        "`a//b` is no name of a series",
    );
    holding(
        "series = \"a/{name}\", address = 0",
        "`a/{name}` is no name of a series",
    );
    holding(
        "series = \"a\", address = 0, type = \"real\"",
        "`real` is no value of",
    );
    holding(
        "series = \"a\", address = 0, order = \"BACD\"",
        "`BACD` is no value of",
    );
    holding(
        "series = \"a\", address = 0, type = \"bit\"",
        "does not say which bit",
    );
    holding(
        "series = \"a\", address = 0, type = \"int16\", bit = 3",
        "`bit` has no meaning",
    );
    holding(
        "series = \"a\", address = 0, type = \"string\"",
        "a string has no length",
    );
    holding(
        "series = \"a\", address = 0, type = \"string\", length = 2, order = \"CDAB\"",
        "the registers of a string stand in order",
    );
    holding("series = \"a\", address = 0, scale = 0", "a scale of 0");
    holding(
        "series = \"a\", address = 0, type = \"bool\", scale = 2",
        "only numbers have a scale",
    );
    holding(
        "series = \"a\", address = 0, bit = 3, write = true",
        "cannot be written",
    );
    holding(
        "series = \"a\", address = 0, baud = 3",
        "unknown key `baud`",
    );
    register(
        "\"input\"",
        "series = \"a\", address = 0, write = true",
        "the table `input` cannot be written",
    );
    register(
        "\"coil\"",
        "series = \"a\", address = 0, type = \"int16\"",
        "the table `coil` holds bits",
    );
    register(
        "\"holding\", first-address = 1",
        "series = \"a\", address = 0",
        "0 is out of range",
    );
    register(
        "\"holding\", forbidden = [\"1-3\"]",
        "series = \"a\", address = 0, type = \"int32\"",
        "forbidden to be read",
    );
    register(
        "\"holding\", forbidden = [\"3-1\"]",
        "series = \"a\", address = 0",
        "no range of addresses",
    );
    group(
        "unit = [1, 2], table = \"holding\", registers = [{ series = \"a\", address = 0 }]",
        "two values are named `a`",
    );
    group(
        "unit = 1, table = \"holding\", interval = \"1h\", registers = [{ series = \"a\", address = 0 }]",
        "warning tidegate.toml:1",
    );
    check(
        "url = \"mqtt://a\"\nread = [{ unit = 1, table = \"holding\", registers = [{ series = \"a\", address = 0 }] }]",
        "`mqtt://a` is no address",
    );
}
