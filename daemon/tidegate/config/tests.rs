use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tidegate_domain::item::Priority;
use tidegate_domain::outcome::Severity;

use super::model::{
    Decode, EventTime, From, IdentityBy, MqttVersion, Secret, Send, Setting, SourceKind, TimeUnit,
};
use super::validate::Host;
use super::{Config, Loaded, Purpose, load_on};

/// A whole configuration without a problem; tests change lines of it.
const GOOD: &str = r#"[gateway]
id = "gw-1"
[source.plant]
kind = "mqtt"
url = "mqtt://127.0.0.1:1883"
subscribe = [{ topic = "plant/+/+" }]
[pipeline.temperature]
from = ["plant"]
to = [{ uplink = "cloud" }]
[uplink.cloud]
kind = "mqtt"
url = "mqtt://cloud.example"
"#;

/// Loads files by name, `tidegate.toml` first among them, in a directory of their own. Its name is cut from what is
/// returned.
pub(super) fn load(files: &[(&str, &str)], env: &[(&str, &str)]) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    load_in(directory.path(), files, env)
}

fn load_in(directory: &Path, files: &[(&str, &str)], env: &[(&str, &str)]) -> Loaded {
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let env: Vec<(OsString, OsString)> = env
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let host = Host {
        name: Some("edge".into()),
        machine_id: Some("0123456789abcdef0123456789abcdef".into()),
    };
    load_on(&directory.join("tidegate.toml"), env, &host, Purpose::Judge)
}

/// `error tidegate.toml:1:2 message (help)` for each problem.
pub(super) fn told(loaded: &Loaded) -> Vec<String> {
    serde_json::to_value(&loaded.problems)
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let text = |key: &str| problem[key].as_str().unwrap_or_default();
            let file = text("file").rsplit('/').next().unwrap();
            let at = match (problem["line"].as_u64(), problem["column"].as_u64()) {
                (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
                _ => file.to_owned(),
            };
            format!(
                "{} {at} {} ({})",
                text("severity"),
                text("message"),
                text("help")
            )
        })
        .collect()
}

fn good(files: &[(&str, &str)], env: &[(&str, &str)]) -> Config {
    let loaded = load(files, env);
    assert!(!loaded.problems.has_errors(), "{}", loaded.problems);
    loaded.config.unwrap()
}

/// `change` replaces parts of [`GOOD`]; `expect` begins each problem that this makes, in order.
fn check(change: &[(&str, &str)], expect: &[&str]) {
    let mut text = GOOD.to_owned();
    for (old, new) in change {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, new, 1);
    }
    let loaded = load(&[("tidegate.toml", &text)], &[]);
    let found = told(&loaded);
    assert_eq!(
        found.len(),
        expect.len(),
        "{text}\n{found:#?}\nnot\n{expect:#?}"
    );
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.starts_with(expect), "{text}\n{found}\nnot\n{expect}");
    }
    assert_eq!(
        loaded.config.is_none(),
        expect.iter().any(|line| line.starts_with("error"))
    );
}

#[test]
fn five_mistakes_are_five_reports() {
    let text = r#"[gateway]
id = "gw-1"
stat-dir = "/var/lib/tidegate"

[store]
max-size = "512MB"

[source.plant]
kind = "mqtt"
url = "mqtt://127.0.0.1:1883"
subscribe = [{ topic = "plant/+/+", qos = 2 }]

[pipeline.temperature]
from = ["plnat"]
to = [{ uplink = "cloud", send = "sumary" }]

[uplink.cloud]
kind = "mqtt"
url = "mqtt://cloud.example"
"#;
    let directory = tempfile::tempdir().unwrap();
    let loaded = load_in(directory.path(), &[("tidegate.toml", text)], &[]);
    assert!(loaded.config.is_none());
    let shown = loaded
        .problems
        .render(false)
        .replace(&format!("{}/", directory.path().display()), "");
    let expect = r#"error: unknown key `stat-dir` in `gateway`
 --> tidegate.toml:3:1
  |
3 | stat-dir = "/var/lib/tidegate"
  | ^^^^^^^^
  |
  = help: did you mean `state-dir`?

error: `512MB` is no size
 --> tidegate.toml:6:12
  |
6 | max-size = "512MB"
  |            ^^^^^^^
  |
  = help: sizes are powers of 1024: write "512MiB"

error: subscriptions at QoS 2 are refused: there is no receive state yet that survives a restart
  --> tidegate.toml:11:43
   |
11 | subscribe = [{ topic = "plant/+/+", qos = 2 }]
   |                                           ^
   |
   = help: write qos = 1: every message arrives at least once, and the module `dedupe` removes repeated readings

error: there is no source `plnat`
  --> tidegate.toml:14:9
   |
14 | from = ["plnat"]
   |         ^^^^^^^
   |
   = help: did you mean `plant`?

error: `sumary` is no value of `pipeline.temperature.to[0].send`
  --> tidegate.toml:15:34
   |
15 | to = [{ uplink = "cloud", send = "sumary" }]
   |                                  ^^^^^^^^
   |
   = help: did you mean `summary`?

5 errors
"#;
    assert_eq!(shown, expect);
    let colored = loaded.problems.render(true);
    assert!(colored.contains("\u{1b}["), "{colored}");
}

#[test]
fn the_good_one_has_no_problem() {
    check(&[], &[]);
}

#[test]
fn keys_and_sections_that_do_not_exist() {
    check(
        &[(
            "url = \"mqtt://127",
            "client_id = \"x\"\nurl = \"mqtt://127",
        )],
        &[
            "error tidegate.toml:5:1 unknown key `client_id` in `source.plant` (did you mean `client-id`?)",
        ],
    );
    check(
        &[("[gateway]", "[gatway]\nid = 3\n[gateway]\nx = 1")],
        &[
            "error tidegate.toml:1:2 unknown section `gatway` (did you mean `gateway`?)",
            "error tidegate.toml:4:1 unknown key `x` in `gateway` (possible here: clock, id, state-dir)",
        ],
    );
    check(
        &[("[uplink.cloud]", "[uplink]")],
        &[
            "error tidegate.toml:9:18 there is no uplink `cloud` (add a section [uplink.cloud])",
            "error tidegate.toml:11:1 [uplink] has no name, so that `kind` belongs to nothing (give it one, as in [uplink.NAME])",
            "error tidegate.toml:12:1 [uplink] has no name",
        ],
    );
    check(
        &[
            ("[source.plant]", "[source.\"pl ant\"]"),
            ("[\"plant\"]", "[\"pl ant\"]"),
        ],
        &["error tidegate.toml:3:9 `pl ant` is no name of a source (write 1 to 64 letters"],
    );
}

#[test]
fn keys_that_must_be_there() {
    check(
        &[
            (
                "url = \"mqtt://127.0.0.1:1883\"\nsubscribe = [{ topic = \"plant/+/+\" }]\n",
                "",
            ),
            ("from = [\"plant\"]\n", ""),
        ],
        &[
            "error tidegate.toml:3:1 `source.plant.url` is missing (write the broker's address",
            "error tidegate.toml:3:1 `source.plant.subscribe` is missing (write subscribe = ",
            "warning tidegate.toml:3:9 no pipeline reads source `plant`",
            "error tidegate.toml:5:1 `pipeline.temperature.from` is missing (name the sources",
        ],
    );
    check(
        &[("kind = \"mqtt\"\nurl = \"mqtt://cloud.example\"", "")],
        &["error tidegate.toml:10:1 `uplink.cloud.kind` is missing (write kind = \"mqtt\")"],
    );
    check(
        &[
            ("{ topic = \"plant/+/+\" }", "{ }"),
            ("{ uplink = \"cloud\" }", "{ }"),
        ],
        &[
            "error tidegate.toml:6:14 `source.plant.subscribe[0].topic` is missing",
            "error tidegate.toml:9:7 `pipeline.temperature.to[0].uplink` is missing",
            "warning tidegate.toml:10:9 no pipeline sends to uplink `cloud`",
        ],
    );
}

#[test]
fn values_of_the_wrong_type_or_out_of_bounds() {
    check(
        &[
            ("id = \"gw-1\"", "id = [1]"),
            (
                "[source.plant]",
                "[store]\nmax-size = 512\nlinger = \"1m\"\nmax-age = \"30\"\n[source.plant]\nin-flight = 0\nkeep-alive = \"5500ms\"\nstale-after = 5.0",
            ),
        ],
        &[
            "error tidegate.toml:2:6 `gateway.id` is an array (write a string in quotes)",
            "error tidegate.toml:4:12 `store.max-size` is an integer: a size is a string (write a whole number and one of B",
            "error tidegate.toml:5:10 `1m` is out of range for `store.linger` (write a duration from 0ms to 10s)",
            "error tidegate.toml:6:11 `30` is no duration (write a whole number and one of ms",
            "error tidegate.toml:8:13 0 is out of range for `source.plant.in-flight` (write a number from 1 to 65535)",
            "error tidegate.toml:9:14 `source.plant.keep-alive` is no whole number of seconds (MQTT counts it in seconds: write \"6s\")",
            "error tidegate.toml:10:15 `source.plant.stale-after` is a float: a duration is a string",
        ],
    );
    check(
        &[
            ("from = [\"plant\"]", "from = \"plant\""),
            ("to = [{ uplink = \"cloud\" }]", "to = [\"cloud\"]"),
        ],
        &[
            "warning tidegate.toml:3:9 no pipeline reads source `plant`",
            "error tidegate.toml:8:8 `pipeline.temperature.from` is a string (write an array in [ ])",
            "error tidegate.toml:9:7 `pipeline.temperature.to[0]` is a string: a table belongs here",
            "warning tidegate.toml:10:9 no pipeline sends to uplink `cloud`",
        ],
    );
    check(
        &[(
            "[source.plant]",
            "[status]\nlisten = \"localhost\"\n[store]\nfull = \"stopp\"\n[modules]\nallow-unsigned = \"no\"\n[policy]\ngrants = [\"log\", \"allarm\", \"log\"]\n[source.plant]",
        )],
        &[
            "error tidegate.toml:4:10 `localhost` is no address to listen on",
            "error tidegate.toml:6:8 `stopp` is no value of `store.full` (did you mean `stop`?)",
            "error tidegate.toml:8:18 `modules.allow-unsigned` is a string (write true or false)",
            "error tidegate.toml:10:18 `allarm` is nothing that could be granted (did you mean `alarm`?)",
            "error tidegate.toml:10:28 `log` is granted twice",
        ],
    );
}

#[test]
fn tls_and_its_keys() {
    let cloud = |after: &str| format!("{after}\"");
    check(
        &[(
            "mqtt://cloud.example\"",
            &cloud("mqtt://cloud.example\"\nca = \"ca.pem\"\nserver-name = \"x"),
        )],
        &[
            "error tidegate.toml:13:6 `uplink.cloud.ca` without TLS: the url begins with mqtt:// (write mqtts:// in `url`",
            "error tidegate.toml:14:15 `uplink.cloud.server-name` without TLS",
        ],
    );
    check(
        &[(
            "mqtt://cloud.example\"",
            &cloud("mqtts://cloud.example\"\nca = \"ca.pem"),
        )],
        &["error tidegate.toml:13:6 cannot read `"],
    );
    check(
        &[(
            "mqtt://cloud.example\"",
            &cloud("mqtts://cloud.example\"\ncert = \"gw.pem"),
        )],
        &["error tidegate.toml:13:8 `uplink.cloud.cert` without `key`"],
    );
    check(
        &[(
            "mqtt://cloud.example\"",
            &cloud("mqtts://cloud.example\"\nca = \"tidegate.toml"),
        )],
        &["error tidegate.toml:13:6 `"],
    );
    check(
        &[("mqtt://cloud.example", "mqtt://cloud.example:8883")],
        &[
            "warning tidegate.toml:12:7 mqtt:// on port 8883, where brokers speak TLS (write mqtts://)",
        ],
    );
    // A wrong address makes no unknown keys.
    check(
        &[(
            "mqtt://cloud.example\"",
            &cloud("http://cloud.example\"\nca = \"ca.pem"),
        )],
        &["error tidegate.toml:12:7 `http://` is no address of an MQTT broker"],
    );
}

#[test]
fn kinds_that_come_later() {
    check(
        &[("kind = \"mqtt\"\n", "kind = \"drivers\"\nunit = 1\n")],
        &["error tidegate.toml:4:8 `drivers` is no kind of source"],
    );
    check(
        &[("kind = \"mqtt\"\n", "kind = \"mqt\"\n")],
        &["error tidegate.toml:4:8 `mqt` is no kind of source (did you mean `mqtt`?)"],
    );
    check(
        &[("[source.plant]", "[source.plant]\ndecode = \"raw\"")],
        &["error tidegate.toml:4:10 `raw` needs a decoder module"],
    );
    check(
        &[(
            "[source.plant]",
            "[source.plant]\ndecode = { module = \"acme\" }",
        )],
        &[],
    );
    check(
        &[(
            "[source.plant]",
            "[deploy]\nrepository = \"ftp://x\"\n[source.plant]",
        )],
        &["error tidegate.toml:4:14 `ftp://x` is no repository"],
    );
    check(
        &[(
            "[source.plant]",
            "[deploy]\nrepository = \"file:///x\"\ninstall-window = \"22-4\"\nmodules = []\n[source.plant]",
        )],
        &[
            "error tidegate.toml:5:18 `22-4` is no time of the day",
            "error tidegate.toml:6:1 an empty list takes no module",
        ],
    );
}

#[test]
fn which_commands_are_taken() {
    let with = |text: &str| format!("[uplink.cloud]\ncommands = {text}");
    check(
        &[(
            "[uplink.cloud]",
            &with("[\"report\", \"reprt\", \"report\"]"),
        )],
        &[
            "error tidegate.toml:11:23 there is no command `reprt` (did you mean `report`?)",
            "error tidegate.toml:11:32 `report` is allowed twice",
        ],
    );
    let text = GOOD.replacen("[uplink.cloud]", &with("[\"detail\", \"rollback\"]"), 1);
    let config = good(&[("tidegate.toml", &text)], &[]);
    let words: Vec<&str> = config.uplinks[0]
        .commands
        .iter()
        .map(|c| c.as_str())
        .collect();
    assert_eq!(words, ["detail", "rollback"]);
    let config = good(&[("tidegate.toml", GOOD)], &[]);
    assert!(config.uplinks[0].commands.is_empty());
}

#[test]
fn which_alarms_there_are() {
    check(
        &[(
            "[source.plant]",
            "[alarms]\nchanges-per-minute = 1\nper-minute = 3\n[series.\"a/*\"]\nstale-alarm = \"loud\"\n[source.plant]\nstale-alarm = \"warn\"",
        )],
        &[
            "error tidegate.toml:4:22 1 is out of range for `alarms.changes-per-minute` (write a number from 2 to",
            "error tidegate.toml:5:1 unknown key `per-minute` in `alarms`",
            "error tidegate.toml:7:15 `loud` is no value of `series.\"a/*\".stale-alarm` (possible here: critical, info, none, warning)",
            "error tidegate.toml:9:15 `warn` is no value of `source.plant.stale-alarm` (did you mean `warning`?)",
        ],
    );
    let text = GOOD.replacen(
        "[source.plant]",
        "[series.\"a/*\"]\nstale-alarm = \"none\"\n[series.\"b/*\"]\n[source.plant]\nstale-alarm = \"critical\"",
        1,
    );
    let config = good(&[("tidegate.toml", &text)], &[]);
    assert_eq!(config.sources[0].stale_alarm, Some(Severity::Critical));
    let series: Vec<_> = config.series.iter().map(|s| s.stale_alarm).collect();
    assert_eq!(series, [Some(None), None]);
}

#[test]
fn how_payloads_are_decoded() {
    let decode = |text: &str, expect: &[&str]| {
        let written = format!("[source.plant]\ndecode = {text}");
        check(&[("[source.plant]", &written)], expect);
    };
    decode("\"json\"", &[]);
    decode("{ as = \"text\" }", &[]);
    decode(
        "{ as = \"csv\", columns = [\"ts\", \"t\"], separator = \"\\t\", time-field = \"ts\", time-unit = \"rfc3339\" }",
        &[],
    );
    decode(
        "\"jsn\"",
        &["error tidegate.toml:4:10 `jsn` is no format (did you mean `json`?)"],
    );
    decode(
        "\"csv\"",
        &["error tidegate.toml:4:10 `csv` needs to know its columns"],
    );
    decode(
        "{ as = \"csv\" }",
        &["error tidegate.toml:4:10 `csv` needs to know its columns"],
    );
    decode(
        "{ as = \"csv\", columns = [\"a\", \"a\", \"\", \"\"] }",
        &["error tidegate.toml:4:40 two columns are named `a`"],
    );
    decode(
        "{ as = \"csv\", columns = [\"t\", \"\"], time-field = \"t\" }",
        &["error tidegate.toml:4:24 no column holds a value"],
    );
    decode(
        "{ as = \"csv\", columns = [\"time\"], time-field = \"tme\" }",
        &["error tidegate.toml:4:57 `time-field` names no column: `tme` (did you mean `time`?)"],
    );
    decode(
        "{ as = \"csv\", columns = [\"a\"], separator = \"->\" }",
        &["error tidegate.toml:4:53 `->` cannot separate columns"],
    );
    decode(
        "{ columns = [\"a\"], time-unit = \"min\" }",
        &[
            "error tidegate.toml:4:12 `columns` has no meaning for `json`",
            "error tidegate.toml:4:29 `time-unit` without `time-field`",
            "error tidegate.toml:4:41 `min` is no value of `source.plant.decode.time-unit`",
        ],
    );
    decode(
        "{ as = \"text\", time-field = \"ts\" }",
        &["error tidegate.toml:4:38 `time-field` has no meaning for `text`"],
    );
    decode(
        "5",
        &["error tidegate.toml:4:10 `source.plant.decode` is an integer: a table belongs here"],
    );
}

#[test]
fn what_an_uplink_says_of_its_line() {
    let uplink = |lines: &str| {
        let more = format!("url = \"mqtt://cloud.example\"\n{lines}");
        GOOD.replace("url = \"mqtt://cloud.example\"", &more)
    };
    let config = good(
        &[(
            "tidegate.toml",
            &uplink(
                "failover = [\"mqtt://second\", \"mqtt://[::1]:1884\"]\nfailback = \"1m\"\nrate-limit = \"64KiB\"\n\
                 live-share = 0.25\nformat = \"cbor\"\ncompress = \"zstd\"\nmax-items = 100",
            ),
        )],
        &[],
    );
    let cloud = &config.uplinks[0];
    let addresses: Vec<(&str, u16)> = cloud.addresses().collect();
    let expect = [("cloud.example", 1883), ("second", 1883), ("::1", 1884)];
    assert_eq!(addresses, expect);
    assert_eq!(cloud.failback, Duration::from_secs(60));
    assert_eq!(cloud.rate_limit, Some(65_536));
    assert_eq!((cloud.live_share, cloud.max_items), (250, 100));
    assert_eq!(cloud.encoding.content_type(), "application/cbor+zstd");
    for (share, thousandths) in [("0", 0), ("1", 1000), ("0.001", 1), ("1.0", 1000)] {
        let text = uplink(&format!("live-share = {share}"));
        let config = good(&[("tidegate.toml", &text)], &[]);
        assert_eq!(config.uplinks[0].live_share, thousandths, "{share}");
    }

    let wrong = |lines: &str, expect: &[&str]| {
        let more = format!("url = \"mqtt://cloud.example\"\n{lines}");
        check(&[("url = \"mqtt://cloud.example\"", &more)], expect);
    };
    wrong(
        "live-share = 1.5",
        &["error tidegate.toml:13:14 1.5 is out of range for `uplink.cloud.live-share`"],
    );
    wrong(
        "live-share = \"half\"",
        &[
            "error tidegate.toml:13:14 `uplink.cloud.live-share` is a string (write a number from 0.0 to 1.0)",
        ],
    );
    wrong(
        "rate-limit = \"1B\"",
        &["error tidegate.toml:13:14 `1B` is out of range"],
    );
    wrong(
        "format = \"cbr\"\ncompress = \"gzip\"",
        &[
            "error tidegate.toml:13:10 `cbr` is no value of `uplink.cloud.format` (did you mean `cbor`?)",
            "error tidegate.toml:14:12 `gzip` is no value of `uplink.cloud.compress`",
        ],
    );
    wrong(
        "failover = [\"mqtt://second\", \"second\", \"mqtt://cloud.example:1883\", \"mqtt://second:1883\"]",
        &[
            "error tidegate.toml:13:30 `second` is no broker's address",
            "error tidegate.toml:13:40 `mqtt://cloud.example:1883` is named twice",
            "error tidegate.toml:13:69 `mqtt://second:1883` is named twice",
        ],
    );
    wrong(
        "failover = [\"mqtts://second\"]",
        &["error tidegate.toml:13:13 `mqtts://second` and `url` are not of one scheme"],
    );
    wrong(
        "failover = [\"mqtt://127.0.0.1:1883\"]\nclient-id = \"gw-1-source-plant\"\ntopic = \"plant/{gateway}/{kind}\"",
        &[
            "error tidegate.toml:6:24 source `plant` reads what uplink `cloud` sends to the same broker",
            "error tidegate.toml:14:1 source `plant` and uplink `cloud` have the same client id",
        ],
    );
}

#[test]
fn what_contradicts_itself() {
    check(
        &[(
            "{ topic = \"plant/+/+\" }",
            "{ topic = \"a#\" }, { topic = \"b\" }, { topic = \"b\", qos = 0 }, { topic = \"c\", qos = 3 }",
        )],
        &[
            "error tidegate.toml:6:24 `a#` is no topic filter: `#` must be a level of its own",
            "error tidegate.toml:6:59 `b` is subscribed twice",
            "error tidegate.toml:6:96 3 is no QoS",
        ],
    );
    check(
        &[
            (
                "[\"plant\"]",
                "[\"plant\", \"plant\"]\nseries = [\"a{b\"]\nsummary = { window = \"10ms\" }",
            ),
            (
                "{ uplink = \"cloud\" }",
                "{ uplink = \"cloud\", send = \"both\" }, { uplink = \"cloud\", priority = \"alarm\" }, { uplink = \"cloud\" }",
            ),
        ],
        &[
            "error tidegate.toml:8:18 `plant` is named twice",
            "error tidegate.toml:9:11 `a{b` is no series glob",
            "error tidegate.toml:10:22 `10ms` is out of range",
            "error tidegate.toml:11:75 `alarm` is no value of `pipeline.temperature.to[1].priority` (possible here: high, low, normal)",
            "error tidegate.toml:11:97 uplink `cloud` would get the same twice",
        ],
    );
    check(
        &[(
            "{ uplink = \"cloud\" }",
            "{ uplink = \"cloud\", send = \"summary\" }",
        )],
        &["error tidegate.toml:9:27 the pipeline makes no summaries that could be sent"],
    );
    check(
        &[(
            "[pipeline.temperature]",
            "[pipeline.temperature]\nfilters = [{ module = \"/opt/x.wasm\" }, { name = \"a\", module = \"range\" }, { name = \"a\", module = \"range\", settings = { x = nan } }, { modul = \"x\" }]",
        )],
        &[
            "error tidegate.toml:8:23 `/opt/x.wasm` is no module's name",
            "error tidegate.toml:8:83 two filters of this pipeline are named `a`",
            "error tidegate.toml:8:123 settings travel as JSON",
            "error tidegate.toml:8:132 `pipeline.temperature.filters[3].module` is missing",
            "error tidegate.toml:8:134 unknown key `modul` in `pipeline.temperature.filters[3]` (did you mean `module`?)",
        ],
    );
    check(
        &[
            (
                "url = \"mqtt://cloud.example\"",
                "url = \"mqtt://localhost\"\ntopic = \"plant/{gatway}/{kind}\"\nclient-id = \"gw-1-source-plant\"",
            ),
            ("127.0.0.1:1883", "localhost"),
        ],
        &[
            "error tidegate.toml:6:24 source `plant` reads what uplink `cloud` sends to the same broker",
            "error tidegate.toml:13:9 `{gatway}` stands for nothing",
            "warning tidegate.toml:13:9 the topic has no {gateway}",
            "error tidegate.toml:14:1 source `plant` and uplink `cloud` have the same client id",
        ],
    );
}

#[test]
fn an_identity_is_a_field_or_a_property_that_can_be() {
    let subscribe = "subscribe = [{ topic = \"plant/+/+\" }]";
    let with = |lines: &str| format!("{subscribe}\n{lines}");
    let refused = |lines: &str, expect: &str| {
        check(&[(subscribe, &with(lines))], &[expect]);
    };
    refused(
        "identity = {}",
        "error tidegate.toml:7:12 `identity` says neither which field nor which property",
    );
    refused(
        "identity = { field = \"id\", property = \"id\" }",
        "error tidegate.toml:7:39 `identity` names a field and a property",
    );
    refused(
        "identity = { fild = \"id\", field = \"id\" }",
        "error tidegate.toml:7:14 unknown key",
    );
    refused(
        "identity = { field = \"\" }",
        "error tidegate.toml:7:22 `field` is empty",
    );
    refused(
        "identity = { property = \"message-id\" }",
        "error tidegate.toml:7:25 properties come with MQTT 5 alone: this source speaks 3.1.1",
    );
    refused(
        "decode = \"text\"\nidentity = { field = \"id\" }",
        "error tidegate.toml:8:22 `text` has no fields: its payload is one value",
    );
    refused(
        "decode = { as = \"csv\", columns = [\"id\", \"temp\"] }\nidentity = { field = \"idd\" }",
        "error tidegate.toml:8:22 `identity` names no column: `idd` (did you mean `id`",
    );
    refused(
        "identity-window = 9",
        "error tidegate.toml:7:19 `source.plant.identity-window` without `identity`",
    );
    refused(
        "identity = { field = \"id\" }\nidentity-window = 0",
        "error tidegate.toml:8:19 0 is out of range for `source.plant.identity-window`",
    );
    refused(
        "identity = { field = \"id\" }\n[store]\nmax-size = \"8MiB\"",
        "error tidegate.toml:9:12 the identities of messages can take 1536KiB of the store's 8MiB",
    );
    for (lines, by) in [
        (
            "identity = { field = \"meta/id\" }",
            IdentityBy::Field("meta/id".to_owned()),
        ),
        (
            "version = \"5\"\nidentity = { property = \"message-id\" }",
            IdentityBy::Property("message-id".to_owned()),
        ),
    ] {
        let text = GOOD.replace(subscribe, &with(lines));
        let config = good(&[("tidegate.toml", &text)], &[]);
        let identity = config.sources[0].identity.clone().unwrap();
        assert_eq!((identity.by, identity.window), (by, 65_536));
    }
}

#[test]
fn what_is_valid_and_looks_wrong() {
    check(
        &[
            (
                "from = [\"plant\"]\nto = [{ uplink = \"cloud\" }]",
                "from = [\"plant\"]",
            ),
            (
                "[uplink.cloud]",
                "[source.idle]\nkind = \"mqtt\"\nurl = \"mqtt://b\"\nsubscribe = [{ topic = \"$share/g/x\" }]\nsession-expiry = \"1h\"\n[modules]\nallow-unsigned = true\n[status]\nlisten = \"0.0.0.0:80\"\n[uplink.cloud]",
            ),
        ],
        &[
            "warning tidegate.toml:7:11 pipeline `temperature` has no uplink",
            "warning tidegate.toml:9:9 no pipeline reads source `idle`",
            "warning tidegate.toml:12:24 on MQTT 3.1.1 the session of a shared subscription never expires",
            "warning tidegate.toml:13:18 `source.idle.session-expiry` has no effect on MQTT 3.1.1",
            "warning tidegate.toml:15:18 unsigned module files will run",
            "warning tidegate.toml:17:10 `0.0.0.0:80` is reached from other machines",
            "warning tidegate.toml:18:9 no pipeline sends to uplink `cloud`",
        ],
    );
    let empty = load(&[("tidegate.toml", "")], &[]);
    assert_eq!(
        told(&empty),
        [
            "warning  there is no source: nothing will come in (add a section [source.NAME]; config/tidegate.toml shows one)"
        ]
    );
    let config = empty.config.unwrap();
    assert_eq!(config.gateway.id, "edge-01234567");
    assert_eq!(config.store.max_size, 512 << 20);
    assert_eq!(config.policy.grants, ["log", "metrics", "state", "alarm"]);
}

#[test]
fn syntax_errors_do_not_hide_the_rest() {
    // Errors of single lines: all of them, and what is wrong elsewhere; nothing that only follows from them.
    check(
        &[
            (
                "id = \"gw-1\"",
                "id = gw-1\nid = \"gw-1\"\nstate-dirr = \"/x\"",
            ),
            (
                "url = \"mqtt://127.0.0.1:1883\"",
                "url = \"mqtt://127.0.0.1:1883",
            ),
            ("to = [", "too = 1\nto = ["),
        ],
        &[
            "error tidegate.toml:2:6 TOML: string values must be quoted",
            "error tidegate.toml:3:1 TOML: duplicate key",
            "error tidegate.toml:4:1 unknown key `state-dirr`",
            "error tidegate.toml:7:29 TOML: invalid basic string",
            "error tidegate.toml:11:1 unknown key `too`",
        ],
    );
    // An array that is not closed swallows the rest: only the first error is certain.
    check(
        &[("[{ topic = \"plant/+/+\" }]", "[{ topic = \"plant/+/+\" }")],
        &["error tidegate.toml:7:1 TOML: "],
    );
    let two = load(
        &[
            ("tidegate.toml", GOOD),
            ("conf.d/a.toml", "[store\n"),
            ("conf.d/b.toml", "[store]\nlinger = 5\nx"),
        ],
        &[],
    );
    let found = told(&two);
    assert!(
        found[0].starts_with("error a.toml:1:7 TOML: unclosed table"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("error b.toml:2:10 `store.linger` is an integer"),
        "{found:#?}"
    );
    assert!(
        found[2].starts_with("error b.toml:3:2 TOML: key with no value"),
        "{found:#?}"
    );
    assert_eq!(found.len(), 3);
}

#[test]
fn files_that_cannot_be_read() {
    let none = load(&[], &[]);
    let found = told(&none);
    assert!(found[0].starts_with("error  cannot read `"), "{found:#?}");
    assert!(found[0].contains("--config"), "{found:#?}");
    assert_eq!(found.len(), 1);
    assert!(none.config.is_none());

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("tidegate.toml"),
        b"[store]\n# caf\xe9\n",
    )
    .unwrap();
    let found = told(&load_in(directory.path(), &[], &[]));
    assert!(
        found[0].starts_with("error tidegate.toml:2:6 the file is not UTF-8 from here on"),
        "{found:#?}"
    );

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("tidegate.toml"),
        vec![b'#'; 1024 * 1024 + 1],
    )
    .unwrap();
    let found = told(&load_in(directory.path(), &[], &[]));
    assert!(found[0].contains("is larger than 1MiB"), "{found:#?}");
}

#[test]
fn secrets_are_read_and_never_shown() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let text = GOOD
        .replace("url = \"mqtt://cloud.example\"", "url = \"mqtt://cloud.example\"\nusername = \"gw\"\npassword-file = \"secrets/cloud\"")
        .replace("[uplink.cloud]", "filters = [{ module = \"redact\", secrets = { key = \"secrets/key\" } }]\n[uplink.cloud]");
    let files = [
        ("tidegate.toml", text.as_str()),
        ("secrets/cloud", "hunter2\r\n"),
        ("secrets/key", "\0\u{1}\n\n"),
    ];
    for (name, _) in &files[1..] {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let loaded = load_in(directory.path(), &files, &[]);
    assert!(loaded.problems.is_empty(), "{}", loaded.problems);
    let config = loaded.config.unwrap();
    let broker = &config.uplinks[0].broker;
    assert_eq!(broker.username.as_deref(), Some("gw"));
    assert_eq!(broker.password.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(
        broker.password_file,
        Some(directory.path().join("secrets/cloud"))
    );
    let key: &Secret<Vec<u8>> = &config.pipelines[0].filters[0].secrets["key"];
    assert_eq!(key.expose(), b"\0\x01\n");
    let shown = format!("{config:?}");
    assert!(
        shown.contains("***") && !shown.contains("hunter2"),
        "{shown}"
    );

    // Open to everybody, empty, absent, without a user.
    std::fs::set_permissions(
        directory.path().join("secrets/cloud"),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    std::fs::write(directory.path().join("secrets/key"), "\n").unwrap();
    let found = told(&load_in(directory.path(), &files[..1], &[]));
    assert!(found[0].contains("key` is empty"), "{found:#?}");
    assert!(
        found[1].starts_with("warning tidegate.toml:15:17 `") && found[1].contains("chmod 600"),
        "{found:#?}"
    );
    assert_eq!(found.len(), 2);
    std::fs::remove_file(directory.path().join("secrets/cloud")).unwrap();
    let text = text.replace("username = \"gw\"\n", "");
    let found = told(&load_in(directory.path(), &[("tidegate.toml", &text)], &[]));
    assert!(
        found[1].starts_with(
            "error tidegate.toml:14:1 `uplink.cloud.password-file` without `username`"
        ),
        "{found:#?}"
    );
    assert!(
        found[2].starts_with("error tidegate.toml:14:17 cannot read `"),
        "{found:#?}"
    );

    check(
        &[(
            "url = \"mqtt://cloud.example\"",
            "url = \"mqtt://cloud.example\"\nusername = \"gw\"",
        )],
        &["error tidegate.toml:10:9 uplink `cloud` has a user and no password"],
    );

    // A password in an address is refused, and not repeated.
    let text = GOOD.replace("mqtt://cloud.example", "mqtt://gw:hunter2@cloud.example");
    let loaded = load(&[("tidegate.toml", &text)], &[]);
    let shown = loaded.problems.render(false);
    assert!(shown.contains("mqtt://gw:*******@cloud.example"), "{shown}");
    assert!(
        !shown.contains("hunter2")
            && !serde_json::to_string(&loaded.problems)
                .unwrap()
                .contains("hunter2")
    );
}

#[test]
fn later_files_win_by_key_in_the_order_of_their_names() {
    let config = good(
        &[
            ("tidegate.toml", GOOD),
            (
                "conf.d/20-b.toml",
                "[store]\nlinger = \"20ms\"\n[source.plant]\nsubscribe = [{ topic = \"x\", qos = 0 }]\n",
            ),
            (
                "conf.d/10-a.toml",
                "[store]\nlinger = \"10ms\"\nmax-age = \"1d\"\n[source.alpha]\nkind = \"mqtt\"\nurl = \"mqtt://a\"\nsubscribe = [{ topic = \"a\" }]\n[pipeline.temperature]\nfrom = [\"alpha\", \"plant\"]",
            ),
            ("conf.d/.hidden.toml", "nonsense"),
            ("conf.d/notes.txt", "nonsense"),
        ],
        &[
            ("TIDEGATE__STORE__MAX_AGE", "2d"),
            ("OTHER", "x"),
            ("TIDEGATE_CONFIG", "x"),
        ],
    );
    assert_eq!(config.store.linger, Duration::from_millis(20));
    assert_eq!(config.store.max_age, Duration::from_hours(48));
    let names: Vec<&str> = config
        .sources
        .iter()
        .map(|source| source.name.as_str())
        .collect();
    // As first written: neither by name nor by file that came last.
    assert_eq!(names, ["plant", "alpha"]);
    assert_eq!(config.pipelines[0].from, [1, 0]);
    let SourceKind::Mqtt(plant) = &config.sources[0].kind else {
        panic!("{:?}", config.sources[0]);
    };
    assert_eq!(plant.subscribe.len(), 1);
    assert_eq!(
        (plant.subscribe[0].topic.as_str(), plant.subscribe[0].qos),
        ("x", 0)
    );

    let from = |key: &str| -> Setting {
        let setting = config.origins.iter().find(|setting| setting.key == key);
        setting.unwrap_or_else(|| panic!("{key}")).clone()
    };
    assert_eq!(from("store.max-size").from, From::Default);
    assert_eq!(
        from("store.max-age").from,
        From::Environment("TIDEGATE__STORE__MAX_AGE".into())
    );
    assert_eq!(from("store.max-age").value, "2d");
    assert!(
        matches!(from("store.linger").from, From::File(file, 2) if file.ends_with("conf.d/20-b.toml"))
    );
    assert_eq!(from("uplink.cloud.client-id").value, "gw-1-uplink-cloud");
}

#[test]
fn variables_of_the_environment() {
    let config = good(
        &[(
            "tidegate.toml",
            &GOOD
                .replace("plant]", "Plant_1]")
                .replace("\"plant\"", "\"Plant_1\""),
        )],
        &[
            ("TIDEGATE__GATEWAY__ID", "0042"),
            ("TIDEGATE__SOURCE__PLANT_1__VERSION", "5"),
            (
                "TIDEGATE__SOURCE__PLANT_1__DECODE",
                "{ as = \"json\", time-field = \"t\" }",
            ),
            ("TIDEGATE__STATUS__LISTEN", "127.0.0.1:0"),
            ("TIDEGATE__MODULES__ALLOW_UNSIGNED", "true"),
            ("TIDEGATE__PIPELINE__TEMPERATURE__SUMMARY__WINDOW", "10s"),
            (
                "TIDEGATE__PIPELINE__TEMPERATURE__SERIES",
                "[\"a/*\", \"b\"]",
            ),
        ],
    );
    // A text that looks like a number stays a text where one is wanted.
    assert_eq!(config.gateway.id, "0042");
    let SourceKind::Mqtt(plant) = &config.sources[0].kind else {
        panic!("{:?}", config.sources[0]);
    };
    assert_eq!(plant.broker.version, MqttVersion::V5);
    assert_eq!(
        config.sources[0].decode,
        Decode::Json {
            time: Some(EventTime {
                field: "t".into(),
                unit: TimeUnit::Milliseconds
            })
        }
    );
    assert_eq!(config.status.listen.port(), 0);
    assert!(config.modules.allow_unsigned);
    assert_eq!(config.pipelines[0].series, ["a/*", "b"]);
    assert_eq!(
        config.pipelines[0].summary.as_ref().unwrap().window,
        Duration::from_secs(10)
    );

    let bad = load(
        &[("tidegate.toml", GOOD)],
        &[
            ("TIDEGATE__STORE__MAX_SIZ", "1GiB"),
            ("TIDEGATE__STORE__MAX_AGE", "soon"),
            ("TIDEGATE__", "x"),
            ("TIDEGATE__SOURCE__PLANT__IN_FLIGHT", "many"),
        ],
    );
    assert_eq!(
        told(&bad)
            .iter()
            .map(|line| line.split(" (").next().unwrap())
            .collect::<Vec<_>>(),
        [
            "error TIDEGATE__ the environment variable `TIDEGATE__` names no key",
            "error TIDEGATE__SOURCE__PLANT__IN_FLIGHT `source.plant.in-flight` is a string",
            "error TIDEGATE__STORE__MAX_AGE `soon` is no duration",
            "error TIDEGATE__STORE__MAX_SIZ unknown key `max-siz` in `store`",
        ]
    );
    let shown = bad.problems.render(false);
    let expect = "error: `soon` is no duration
 |
 | TIDEGATE__STORE__MAX_AGE=soon
 |                          ^^^^
 |
 = note: from the environment
 = help: write a whole number and one of ms, s, m, h, d, w, as in \"250ms\" or \"30d\"

error: unknown key `max-siz` in `store`
 |
 | TIDEGATE__STORE__MAX_SIZ=1GiB
 | ^^^^^^^^^^^^^^^^^^^^^^^^
 |
 = note: from the environment
 = help: did you mean `MAX_SIZE`?
";
    assert!(shown.contains(expect), "{shown}");
}

#[test]
fn filters_have_names_of_their_own_and_settings_have_places() {
    let text = GOOD.replace(
        "[uplink.cloud]",
        "filters = [\n  { module = \"range\" },\n  { module = \"range\", on-failure = \"pass\", settings = { \"a/b\" = [1, { c = 2.5 }] }, limits = { deadline = \"10ms\", memory = \"1MiB\" } },\n  { module = \"scale\", name = \"range-2\" },\n]\n[uplink.cloud]",
    );
    let config = good(&[("tidegate.toml", &text)], &[]);
    let pipeline = &config.pipelines[0];
    let names: Vec<&str> = pipeline
        .filters
        .iter()
        .map(|filter| filter.name.as_str())
        .collect();
    assert_eq!(names, ["range", "range-3", "range-2"]);
    let second = &pipeline.filters[1];
    assert_eq!(second.settings.to_string(), r#"{"a/b":[1,{"c":2.5}]}"#);
    assert_eq!(second.limits.deadline, Some(Duration::from_millis(10)));
    assert_eq!(second.limits.memory, Some(1 << 20));
    assert_eq!(pipeline.to[0].send, Send::Readings);
    assert_eq!(pipeline.to[0].priority, Priority::Normal);

    let at = |key: &str| {
        let place = config.place(key).unwrap();
        text.get(place.start..place.end).unwrap()
    };
    assert_eq!(
        at("pipeline.temperature.filters[1].settings"),
        "{ \"a/b\" = [1, { c = 2.5 }] }"
    );
    // Settings that are not written point at the filter that lacks them.
    assert_eq!(
        at("pipeline.temperature.filters[0].settings"),
        "{ module = \"range\" }"
    );

    // Problems that are found later are told in the same words.
    let mut loaded = load(&[("tidegate.toml", &text)], &[]);
    let place = loaded
        .config
        .as_ref()
        .unwrap()
        .place("pipeline.temperature.filters[0].module");
    loaded
        .problems
        .error(place, "there is no module `range`", None);
    assert_eq!(
        told(&loaded),
        ["error tidegate.toml:11:14 there is no module `range` ()"]
    );
}

#[test]
fn descriptions_keep_the_order_in_which_the_first_match_counts() {
    let text = format!(
        "{GOOD}[series.\"z/*\"]\nmeasure = \"°C\"\n[series.\"a/**\"]\ndescription = \"all\"\n[series.\"m[\"]\n"
    );
    let loaded = load(&[("tidegate.toml", &text)], &[]);
    assert!(told(&loaded)[0].starts_with("error tidegate.toml:17:9 `m[` is no series glob"));
    let config = good(
        &[(
            "tidegate.toml",
            text.strip_suffix("[series.\"m[\"]\n").unwrap(),
        )],
        &[],
    );
    let globs: Vec<&str> = config
        .series
        .iter()
        .map(|series| series.glob.as_str())
        .collect();
    assert_eq!(globs, ["z/*", "a/**"]);
    assert_eq!(config.series[0].measure.as_deref(), Some("°C"));
}

#[test]
fn a_machine_without_an_id_still_has_a_name() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("tidegate.toml"),
        GOOD.replace("id = \"gw-1\"\n", ""),
    )
    .unwrap();
    let host = Host {
        name: Some("müller edge.local".into()),
        machine_id: Some("uninitialized".into()),
    };
    let loaded = load_on(
        &directory.path().join("tidegate.toml"),
        [],
        &host,
        Purpose::Judge,
    );
    assert!(
        told(&loaded)[0].starts_with("warning tidegate.toml:1:1 this machine has no machine id")
    );
    assert_eq!(loaded.config.unwrap().gateway.id, "mlleredge.local");
}

const SHIPPED: &str = include_str!("../../../config/tidegate.toml");

#[test]
fn the_shipped_configuration_has_no_problem() {
    let loaded = load(&[("tidegate.toml", SHIPPED)], &[]);
    assert!(loaded.problems.is_empty(), "{}", loaded.problems);
    let config = loaded.config.unwrap();
    assert_eq!(config.pipelines[0].filters.len(), 2);
    // What it writes out as a default is one: `#key = value` lines apart, leaving a line out changes nothing.
    let bare = good(&[("tidegate.toml", GOOD)], &[]);
    assert_eq!(config.gateway.state_dir, bare.gateway.state_dir);
    assert_eq!(config.store, bare.store);
    assert_eq!(config.status, bare.status);
    assert_eq!(config.alarms, bare.alarms);
    assert_eq!(config.modules, bare.modules);
    assert_eq!(config.policy, bare.policy);
    assert_eq!(config.rollout, bare.rollout);
    assert_eq!(config.uplinks[0].topic, bare.uplinks[0].topic);
    assert_eq!(config.uplinks[0].in_flight, bare.uplinks[0].in_flight);
    assert_eq!(
        config.uplinks[0].in_flight_bytes,
        bare.uplinks[0].in_flight_bytes
    );
    assert_eq!(config.uplinks[0].linger, bare.uplinks[0].linger);
    assert_eq!(config.uplinks[0].max_message, bare.uplinks[0].max_message);
    assert_eq!(config.uplinks[0].max_items, bare.uplinks[0].max_items);
    assert_eq!(config.uplinks[0].failover, bare.uplinks[0].failover);
    assert_eq!(config.uplinks[0].failback, bare.uplinks[0].failback);
    assert_eq!(config.uplinks[0].rate_limit, bare.uplinks[0].rate_limit);
    assert_eq!(config.uplinks[0].live_share, bare.uplinks[0].live_share);
    assert_eq!(config.uplinks[0].encoding, bare.uplinks[0].encoding);
    assert_eq!(config.sources[0].stale_after, bare.sources[0].stale_after);
    assert_eq!(config.sources[0].stale_alarm, bare.sources[0].stale_alarm);
}

#[test]
fn the_shipped_configuration_knows_every_key_and_no_other() {
    // `#key = …` and `#[section]` are settings that are off; "# " begins prose.
    let whole: String = SHIPPED
        .lines()
        .map(|line| {
            let text = line.trim_start();
            let on = match text.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
                _ => line,
            };
            format!("{on}\n")
        })
        .collect();
    // The keys of TLS belong to mqtts:// alone.
    let whole = whole.replace("\"mqtt://", "\"mqtts://");
    let loaded = load(&[("tidegate.toml", &whole)], &[]);
    for line in told(&loaded) {
        let later = line.contains("come with a later version")
            || line.contains("comes with a later version")
            || line.contains("cannot read `")
            || line.starts_with("warning");
        assert!(later, "{line}");
    }
    // Every key that the loader asks for is in it.
    let root: toml::Table = toml::from_str(&whole).unwrap();
    let keys = |path: &[&str]| -> Vec<String> {
        let mut table = &root;
        for key in path {
            table = table[*key].as_table().unwrap();
        }
        table.keys().cloned().collect()
    };
    let has = |path: &[&str], expect: &[&str]| {
        let mut expect = expect.to_vec();
        expect.sort_unstable();
        assert_eq!(keys(path), expect, "{path:?}");
    };
    let broker = [
        "kind",
        "url",
        "version",
        "username",
        "password-file",
        "client-id",
        "keep-alive",
        "in-flight",
        "ca",
        "cert",
        "key",
        "server-name",
    ];
    has(
        &[],
        &[
            "gateway", "store", "status", "alarms", "source", "series", "pipeline", "uplink",
            "deploy", "modules", "policy", "rollout",
        ],
    );
    has(&["gateway"], &["id", "state-dir", "clock"]);
    has(&["store"], &["max-size", "full", "max-age", "linger"]);
    has(&["status"], &["listen"]);
    has(
        &["alarms"],
        &["changes-per-minute", "filter-changes-per-minute"],
    );
    has(
        &["series", "plant/*/temp"],
        &["measure", "description", "stale-alarm"],
    );
    has(
        &["source", "plant"],
        &[
            &broker[..],
            &[
                "subscribe",
                "session-expiry",
                "decode",
                "identity",
                "identity-window",
                "stale-after",
                "stale-alarm",
            ],
        ]
        .concat(),
    );
    has(
        &["source", "energy"],
        &[
            "kind",
            "url",
            "framing",
            "timeout",
            "retries",
            "quarantine",
            "pause",
            "read",
            "stale-after",
            "stale-alarm",
        ],
    );
    has(
        &["source", "scale"],
        &[
            "kind",
            "device",
            "speed",
            "data-bits",
            "parity",
            "stop-bits",
            "flow-control",
            "exclusive",
            "rs485",
            "frame",
            "query",
            "decode",
            "stale-after",
            "stale-alarm",
        ],
    );
    has(
        &["pipeline", "temperature"],
        &["from", "series", "filters", "summary", "keep-input", "to"],
    );
    has(
        &["uplink", "cloud"],
        &[
            &broker[..],
            &["topic", "linger", "max-message", "max-items"],
            &["failover", "failback", "rate-limit", "live-share"],
            &["format", "compress", "commands", "in-flight-bytes"],
        ]
        .concat(),
    );
    has(
        &["deploy"],
        &[
            "repository",
            "ca",
            "cert",
            "key",
            "server-name",
            "root",
            "channel",
            "poll",
            "timeout",
            "hold",
            "install-window",
            "modules",
            "settings",
            "rate-limit",
        ],
    );
    has(&["modules"], &["dir", "trusted-keys", "allow-unsigned"]);
    has(
        &["policy"],
        &[
            "grants",
            "directory-root",
            "directories",
            "limits",
            "module-size",
            "compile-time",
            "compile-memory",
        ],
    );
    has(
        &["policy", "limits"],
        &[
            "deadline",
            "memory",
            "host-call",
            "table-elements",
            "output-rows",
            "output",
            "state-series",
            "state-keys",
            "state",
            "log-lines-per-second",
            "metric-names",
            "alarms-per-minute",
        ],
    );
    has(
        &["rollout"],
        &[
            "mode",
            "settings-mode",
            "share",
            "min-samples",
            "time-limit",
            "differences",
            "float-tolerance",
            "integer-tolerance",
            "latency-factor",
            "memory-factor",
            "more-grants",
        ],
    );
}

#[test]
fn a_filters_limits_widen_the_defaults_and_never_the_sites() {
    let config = |policy: &str| {
        let text = GOOD.replace(
            "[uplink.cloud]",
            &format!(
                "filters = [{{ module = \"range\", limits = {{ memory = \"64MiB\", deadline = \"1s\", output-rows = 5 }} }}]\n\
                 {policy}[uplink.cloud]"
            ),
        );
        let config = good(&[("tidegate.toml", &text)], &[]);
        config.pipelines[0].filters[0]
            .limits
            .ceiling(&config.policy.limits)
    };
    let alone = config("");
    assert_eq!(alone.memory_bytes, 64 << 20);
    assert_eq!(alone.deadline, Duration::from_secs(1));
    assert_eq!(alone.output_rows, 5);
    let default = tidegate_pipeline::SlotLimits::default();
    assert_eq!(alone.state_keys, default.state_keys);
    let within = config(
        "[policy.limits]\nmemory = \"32MiB\"\noutput-rows = 9\nstate-keys = 3\nlog-lines-per-second = 0\n",
    );
    assert_eq!(within.memory_bytes, 32 << 20);
    assert_eq!(within.deadline, Duration::from_secs(1));
    assert_eq!(within.output_rows, 5);
    assert_eq!(within.state_keys, 3);
    assert_eq!(within.log_lines_per_second, 0);

    let text =
        format!("{GOOD}[policy.limits]\nmemori = \"1MiB\"\ntable-elements = 20001\nstate = 5\n");
    let told = told(&load(&[("tidegate.toml", &text)], &[])).join("\n");
    for want in ["memori", "20001 is out of range", "policy.limits.state"] {
        assert!(told.contains(want), "{want}: {told}");
    }
}

#[test]
fn what_loading_a_module_may_use_is_the_sites_to_raise() {
    let of = |policy: &str| {
        let text = format!("{GOOD}[policy]\n{policy}");
        good(&[("tidegate.toml", &text)], &[]).policy.loading
    };
    let default = tidegate_pipeline::LoadLimits::default();
    assert_eq!(of(""), default);
    let raised = of("module-size = \"32MiB\"\ncompile-time = \"10m\"\ncompile-memory = \"2GiB\"\n");
    assert_eq!(raised.module_bytes, 32 << 20);
    assert_eq!(raised.compile.time, Duration::from_mins(10));
    assert_eq!(raised.compile.memory_bytes, 2 << 30);

    let text = format!("{GOOD}[policy]\nmodule-size = \"65MiB\"\n");
    let told = told(&load(&[("tidegate.toml", &text)], &[])).join("\n");
    assert!(told.contains("policy.module-size"), "{told}");
}

#[test]
fn directories_of_modules_are_names_below_one_root() {
    let of = |policy: &str| {
        let text = format!("{GOOD}[policy]\n{policy}");
        good(&[("tidegate.toml", &text)], &[]).policy.directories
    };
    assert_eq!(of(""), BTreeMap::new());
    let root = PathBuf::from("/srv/files");
    assert_eq!(
        of("directory-root = \"/srv/files\"\ndirectories = [\"assets\", \"limits-2\"]\n"),
        BTreeMap::from([
            ("assets".to_owned(), root.clone()),
            ("limits-2".to_owned(), root)
        ])
    );
    let many: Vec<String> = (0..17).map(|n| format!("\"d{n}\"")).collect();
    for (directories, want) in [
        ("\"..\"", "`..` is no name of a directory"),
        ("\"a/b\"", "`a/b` is no name of a directory"),
        ("\"a\", \"a\"", "`a` is named twice"),
        (&many.join(", "), "more than 16 directories"),
    ] {
        let text = format!("{GOOD}[policy]\ndirectories = [{directories}]\n");
        let told = told(&load(&[("tidegate.toml", &text)], &[])).join("\n");
        assert!(told.contains(want), "{directories}: {told}");
    }
}

/// Lines that are nearly right, so that chance gets past the parser.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[source.plant]".to_owned()),
        Just("[pipeline.p]".to_owned()),
        Just("[uplink.u]".to_owned()),
        Just("kind = \"mqtt\"".to_owned()),
        Just("from = [\"plant\"]".to_owned()),
        Just("filters = [{ module = \"range\", settings = { a = [1, {}] } }]".to_owned()),
        Just("to = [{ uplink = \"u\" }, { uplink = \"x\", send = \"both\" }]".to_owned()),
        Just("decode = { as = \"csv\", columns = [\"ä\"] }".to_owned()),
        "(url|topic|series|subscribe|decode|summary|keep-alive|in-flight|version) = \\PC{0,20}",
        "(url|topic|as|listen|\"x y\".z|a.b.c) = \"\\PC{0,20}\"",
        "\\[{0,3}[a-z.\"' ]{0,12}\\]{0,3}",
        "\\PC{0,30}",
        "(topic|id|x) = (?s:.{0,12})",
        "[\\[\\]{}=\"'.,#\\\\ \\t\r0-9a-f]{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(
        lines in proptest::collection::vec(line(), 0..12),
        name in "(GATEWAY|STORE|SOURCE|SOURCE__PLANT|[A-Z_]{0,8})(__[A-Z_]{0,8}){0,3}",
        value in "\\PC{0,20}",
    ) {
        let variable = format!("TIDEGATE__{name}");
        let loaded = load(&[("tidegate.toml", &lines.join("\n"))], &[(&variable, &value)]);
        prop_assert_eq!(loaded.config.is_none(), loaded.problems.has_errors());
        prop_assert!(!loaded.problems.render(true).is_empty());
        prop_assert!(serde_json::to_value(&loaded.problems).unwrap().is_array());
    }
}

const SCALE: &str = include_str!("../../../config/examples/scale-rs232.toml");
const METER: &str = include_str!("../../../config/examples/energy-meter-modbus.toml");
const GPS: &str = include_str!("../../../config/examples/gps-nmea.toml");
const CLIMATE: &str = include_str!("../../../config/examples/climate-i2c.toml");
const BOARD: &str = include_str!("../../../config/examples/board-sensors.toml");

#[test]
fn the_examples_have_no_problem() {
    for (text, kind) in [
        (SCALE, "serial"),
        (GPS, "serial"),
        (METER, "modbus-rtu"),
        (BOARD, "iio"),
        (CLIMATE, "driver"),
    ] {
        let loaded = load(&[("tidegate.toml", text)], &[]);
        assert!(loaded.problems.is_empty(), "{}", loaded.problems);
        let config = loaded.config.unwrap();
        assert_eq!(config.sources[0].kind.as_str(), kind);
    }
}

/// A serial source, `SERIAL` with further lines, on line 2.
fn serial(lines: &str) -> String {
    format!(
        "[source.scale]\nkind = \"serial\"\n{lines}\n[pipeline.p]\nfrom = [\"scale\"]\n\
         to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
         [uplink.cloud]\nkind = \"mqtt\"\nurl = \"mqtt://cloud.example\"\n"
    )
}

#[test]
fn what_others_write_of_a_serial_line() {
    let text = serial(
        "device = \"/dev/serial/by-id/usb-scale\"\nspeed = 9600\nframe = { kind = \"lines\" }\ndecode = \"csv\"",
    );
    let config = good(&[("tidegate.toml", &text)], &[]);
    let SourceKind::Serial(scale) = &config.sources[0].kind else {
        panic!("{:?}", config.sources[0]);
    };
    assert_eq!(scale.port.device, Path::new("/dev/serial/by-id/usb-scale"));
    assert_eq!(
        (
            scale.port.line.speed,
            scale.port.line.data_bits,
            scale.port.line.stop_bits
        ),
        (9600, 8, 1)
    );
    assert_eq!(
        (scale.port.line.parity, scale.port.exclusive),
        (tidegate_ingest::Parity::None, true)
    );
    assert_eq!(scale.framing, tidegate_ingest::Framing::Lines);
    assert_eq!(
        config.sources[0].decode,
        Decode::Csv {
            columns: vec![],
            separator: b',',
            time: None
        }
    );
}

#[test]
fn a_serial_line_is_one_source_s() {
    let second = "[source.other]\nkind = \"modbus-rtu\"\ndevice = \"/dev/ttyS9\"\n\
        read = [{ unit = 1, table = \"holding\", registers = [{ series = \"a\", address = 0 }] }]\n";
    let text = serial("device = \"/dev/ttyS9\"").replace("[\"scale\"]", "[\"scale\", \"other\"]");
    let loaded = load(&[("tidegate.toml", &format!("{text}{second}"))], &[]);
    let told = told(&loaded);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].starts_with("error tidegate.toml:12:10 source `scale` reads `/dev/ttyS9` already"),
        "{told:#?}"
    );
}

#[test]
fn what_a_driver_is_handed() {
    let text = |lines: &str| {
        format!(
            "[source.d]\nkind = \"driver\"\nmodule = \"bme280-driver\"\n{lines}\n[pipeline.p]\nfrom = [\"d\"]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"mqtt://cloud.example\"\n"
        )
    };
    let all = "i2c = { a = { device = \"/dev/i2c-1\", address = 0x76 }, b = { device = \"/dev/i2c-1\", address = 0x77 } }\n\
        spi = { adc = { device = \"/dev/spidev0.0\" } }\n\
        gpio = { reset = { chip = \"/dev/gpiochip0\", line = 17, direction = \"out\" } }\n\
        uart = { port = { device = \"/dev/ttyS9\", speed = 1200 } }";
    let config = good(&[("tidegate.toml", &text(all))], &[]);
    let SourceKind::Driver(driver) = &config.sources[0].kind else {
        panic!("{:?}", config.sources[0]);
    };
    let shown: Vec<String> = driver.handed.iter().map(|h| h.grant.shown()).collect();
    assert_eq!(
        shown,
        [
            "/dev/i2c-1 0x76",
            "/dev/i2c-1 0x77",
            "/dev/spidev0.0",
            "/dev/gpiochip0 line 17",
            "/dev/ttyS9"
        ]
    );
    let check = |lines: &str, line: &str, expect: &str| {
        let loaded = load(&[("tidegate.toml", &text(lines))], &[]);
        let told = told(&loaded);
        assert_eq!(told.len(), 1, "{lines}: {told:#?}");
        let fits = told[0].starts_with(line) && told[0].contains(expect);
        assert!(fits, "{lines}: {told:#?}");
    };
    let (head, at) = ("tidegate.toml:1:", "error tidegate.toml:4:");
    check(
        "",
        &format!("warning {head}"),
        "no bus is handed to the driver",
    );
    check(
        "i2c = { a = { device = \"/dev/i2c-1\" } }",
        at,
        "`source.d.i2c.a.address` is missing",
    );
    check(
        "i2c = { a = { device = \"/dev/i2c-1\", address = 0x78 } }",
        at,
        "120 is out of range for `source.d.i2c.a.address`",
    );
    check(
        "i2c = { a = { device = \"/dev/i2c-1\", address = 0x76 }, b = { device = \"/dev/i2c-1\", address = 0x76 } }",
        &format!("error {head}"),
        "source `d` reads `/dev/i2c-1` already",
    );
    check(
        "gpio = { a = { chip = \"/dev/gpiochip0\", line = 1, direction = \"out\", bias = \"pull-up\" } }",
        at,
        "an output has no `bias`",
    );
    check(
        "spi = { \"a b\" = { device = \"/dev/spidev0.0\" } }",
        at,
        "`a b` is no name of a bus",
    );
}

#[test]
fn what_the_kernel_measures() {
    let text = |lines: &str| {
        format!(
            "[source.air]\n{lines}\n[pipeline.p]\nfrom = [\"air\"]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"mqtt://cloud.example\"\n"
        )
    };
    let config = good(&[("tidegate.toml", &text("kind = \"iio\""))], &[]);
    let SourceKind::Sysfs(air) = &config.sources[0].kind else {
        panic!("{:?}", config.sources[0]);
    };
    assert_eq!(air.root, Path::new("/sys/bus/iio/devices"));
    assert_eq!(air.interval, Duration::from_secs(1));
    let check = |lines: &str, expect: &str| {
        let loaded = load(&[("tidegate.toml", &text(lines))], &[]);
        let told = told(&loaded);
        assert_eq!(told.len(), 1, "{lines}: {told:#?}");
        assert!(told[0].starts_with(expect), "{lines}: {told:#?}");
    };
    check(
        "kind = \"hwmon\"\nroot = \"sys\"",
        "error tidegate.toml:3:8 `sys` is no absolute path",
    );
    check(
        "kind = \"hwmon\"\ndevices = []",
        "error tidegate.toml:3:1 `source.air.devices` has 0 names",
    );
    check(
        "kind = \"iio\"\ninterval = \"10m\"",
        "warning tidegate.toml:1:9 values come every 10m, and `stale-after` is 10m",
    );
}

#[test]
fn mistakes_about_a_serial_line() {
    const DEVICE: &str = "device = \"/dev/ttyS0\"\n";
    let check = |lines: &str, expect: &[&str]| {
        let loaded = load(&[("tidegate.toml", &serial(lines))], &[]);
        let told = told(&loaded);
        assert_eq!(told.len(), expect.len(), "{lines}: {told:#?}");
        for (told, expect) in told.iter().zip(expect) {
            assert!(told.starts_with(expect), "{lines}: {told} is not {expect}");
        }
    };
    let line = |lines: &str, expect: &[&str]| check(&format!("{DEVICE}{lines}"), expect);
    let place = |place: &str, what: &str| format!("error tidegate.toml:{place} {what}");
    check(
        "",
        &["error tidegate.toml:1:1 `source.scale.device` is missing"],
    );
    check(
        "device = \"ttyS0\"",
        &["error tidegate.toml:3:10 `ttyS0` is no absolute path"],
    );
    check(
        "device = \"/dev/ttyUSB0\"",
        &["warning tidegate.toml:3:10 `/dev/ttyUSB0` can be another device"],
    );
    line(
        "speed = 0",
        &["error tidegate.toml:4:9 0 is out of range for `source.scale.speed`"],
    );
    line(
        "parity = \"evn\"",
        &[
            "error tidegate.toml:4:10 `evn` is no value of `source.scale.parity` (did you mean `even`?)",
        ],
    );
    line(
        "baud = 9600",
        &["error tidegate.toml:4:1 unknown key `baud` in `source.scale`"],
    );
    line(
        "subscribe = []",
        &["error tidegate.toml:4:1 unknown key `subscribe` in `source.scale`"],
    );
    let frame = |text: &str, expect: &[String]| {
        let expect: Vec<&str> = expect.iter().map(String::as_str).collect();
        line(&format!("frame = {text}"), &expect);
    };
    frame(
        "{ kind = \"line\" }",
        &[place(
            "4:18",
            "`line` is no value of `source.scale.frame.kind`",
        )],
    );
    frame(
        "{ kind = \"fixed\" }",
        &[place("4:9", "`source.scale.frame.length` is missing")],
    );
    frame(
        "{ kind = \"length\", bits = 24 }",
        &[place("4:35", "a length of 24 bits is not known")],
    );
    frame(
        "{ kind = \"delimiter\", delimiter = \"\" }",
        &[place(
            "4:31",
            "`source.scale.frame.delimiter` is no delimiter",
        )],
    );
    frame(
        "{ kind = \"delimiter\", delimiter = 0x7E, escape = 0x7E }",
        &[place("4:58", "the escape is a byte of the delimiter")],
    );
    frame(
        "{ kind = \"stx-etx\", start = 3 }",
        &[place(
            "4:37",
            "start, end and escape must be three different bytes",
        )],
    );
    frame(
        "{ kind = \"lines\", length = 3 }",
        &[place("4:27", "unknown key `length`")],
    );
    line(
        "query = \"€\"",
        &["error tidegate.toml:4:9 `€` cannot be asked"],
    );
    line(
        "query = { every = \"1s\" }",
        &["error tidegate.toml:4:9 `source.scale.query.text` is missing"],
    );
    line(
        "decode = { as = \"regex\", pattern = \"(?P<w>[0-9\" }",
        &["error tidegate.toml:4:36 the pattern is no regular expression: unclosed"],
    );
    line(
        "decode = { as = \"regex\", pattern = \"[0-9]+\" }",
        &["error tidegate.toml:4:36 the pattern names no group with a value"],
    );
    line(
        "decode = { as = \"binary\" }",
        &["error tidegate.toml:4:10 `binary` needs to know its fields"],
    );
    line(
        "decode = { as = \"binary\", fields = [{ name = \"a\", type = \"int61\" }] }",
        &["error tidegate.toml:4:58 `int61` is no value of"],
    );
    line(
        "decode = { pattern = \"a\" }",
        &["error tidegate.toml:4:22 `pattern` has no meaning for `json`"],
    );
}
