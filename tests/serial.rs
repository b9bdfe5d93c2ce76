//! Serial lines: the real daemon on pseudo terminals that Debian's socat makes and a shell writes to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Broker, Collector, Daemon, Site, can, run, signal, verify, wait_for};

/// Two pseudo terminals whose ends are joined: the device that the daemon opens, and the instrument's end.
struct Cable {
    device: PathBuf,
    instrument: PathBuf,
    socat: Option<Child>,
    /// Both ends stay open, so that whoever closes one ends nothing.
    held: Vec<File>,
}

impl Cable {
    /// Not plugged in yet.
    fn new(site: &Site, name: &str) -> Self {
        Self {
            device: site.path(&format!("{name}.device")),
            instrument: site.path(&format!("{name}.instrument")),
            socat: None,
            held: Vec::new(),
        }
    }

    fn plugged(site: &Site, name: &str) -> Self {
        let mut cable = Self::new(site, name);
        cable.plug();
        cable
    }

    fn plug(&mut self) {
        let end = |path: &Path| format!("pty,rawer,link={}", path.display());
        let socat = Command::new("socat")
            .args([end(&self.device), end(&self.instrument)])
            .stdin(Stdio::null())
            .spawn()
            .expect("socat is installed by `make tools`");
        self.socat = Some(socat);
        self.held = [&self.device, &self.instrument]
            .map(|path| wait_for("a pseudo terminal", || open(path)))
            .into();
    }

    /// Takes the adapter out: the terminals are hung up, and their names are gone.
    fn unplug(&mut self) {
        let mut socat = self.socat.take().unwrap();
        signal(socat.id(), "TERM");
        socat.wait().unwrap();
        self.held.clear();
        assert!(!self.device.exists());
    }

    /// The instrument sends.
    fn send(&self, bytes: &[u8]) {
        let mut shell = Command::new("sh")
            .args(["-c", "exec cat >\"$1\"", "sh"])
            .arg(&self.instrument)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    fn source(&self, name: &str, lines: &str) -> String {
        format!(
            "[source.{name}]\nkind = \"serial\"\ndevice = \"{}\"\n{lines}\n",
            self.device.display()
        )
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some(mut socat) = self.socat.take() {
            socat.kill().ok();
            socat.wait().ok();
        }
    }
}

fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options.open(path).ok()
}

/// Serial sources, one pipeline over all of them, readings to the cloud.
fn site_of(site: &Site, cloud: &Broker, sources: &[(&str, String)]) -> PathBuf {
    let names: Vec<&str> = sources.iter().map(|(name, _)| *name).collect();
    let texts: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n{texts}\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\n\
             [pipeline.all]\nfrom = {names:?}\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            state = site.path("state").display(),
            url = cloud.url(),
        ),
    )
}

/// Values of one series that went up, in order.
fn values(collector: &Collector, series: &str) -> Vec<Value> {
    let items = collector.items("readings");
    let of_series = items.iter().filter(|item| item["series"] == series);
    of_series.map(|item| item["value"].clone()).collect()
}

#[track_caller]
fn wait_values(collector: &Collector, series: &str, expect: &[Value]) {
    wait_for(&format!("{expect:?} of {series}"), || {
        (values(collector, series).len() >= expect.len()).then_some(())
    });
    assert_eq!(values(collector, series), expect, "{series}");
}

/// What lies in quarantine: source, reason, payload in hexadecimal digits.
fn quarantine(config: &Path) -> Value {
    let output = run(&[
        "quarantine",
        "list",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn state_of(daemon: &Daemon, source: &str) -> Value {
    let sources = daemon.json("/api/v1/sources");
    let mut sources = sources["items"].as_array().unwrap().iter();
    sources.find(|one| one["name"] == source).unwrap().clone()
}

#[track_caller]
fn wait_state(daemon: &Daemon, source: &str, state: &str) -> Value {
    wait_for(&format!("{source} to be {state}"), || {
        let found = state_of(daemon, source);
        (found["state"] == state).then_some(found)
    })
}

#[test]
fn lines_become_series_of_their_source() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let names = ["scale", "flow", "bare", "one", "label"];
    let [scale, flow, bare, one, label] = names.map(|name| Cable::plugged(&site, name));
    let lines = "speed = 9600\nframe = { kind = \"lines\" }\n";
    let config = site_of(
        &site,
        &cloud,
        &[
            ("scale", scale.source("scale", &format!("{lines}decode = \"json\""))),
            ("flow", flow.source("flow", "decode = { as = \"csv\", columns = [\"\", \"rate\", \"total\"], separator = \";\" }")),
            ("bare", bare.source("bare", &format!("{lines}decode = \"csv\""))),
            ("one", one.source("one", &format!("{lines}decode = \"csv\""))),
            ("label", label.source("label", "decode = { as = \"regex\", pattern = '^(?P<status>ST|US),[A-Z]+,\\s*(?P<weight>[+-]?[0-9.]+)kg$' }")),
        ],
    );
    let mut daemon = Daemon::start(&config);
    scale.send(b"{\"w\": 12.5}\r\n{\"w\": 13}\n\n{\"w\":");
    scale.send(b" 14}\r");
    flow.send(b"A;1.5;100\nA;2.5;101\n");
    bare.send(b"7,8.5,ok\n");
    one.send(b"12.5\n");
    label.send(b"ST,GS,  12.5kg\r\nUS,GS,-0.5kg\r\nnonsense\r\n");
    wait_values(&collector, "scale/w", &[json!(12.5), json!(13), json!(14)]);
    wait_values(&collector, "flow/rate", &[json!(1.5), json!(2.5)]);
    wait_values(&collector, "flow/total", &[json!(100), json!(101)]);
    wait_values(&collector, "bare/0", &[json!(7)]);
    wait_values(&collector, "bare/1", &[json!(8.5)]);
    wait_values(&collector, "bare/2", &[json!("ok")]);
    wait_values(&collector, "one", &[json!(12.5)]);
    wait_values(&collector, "label/weight", &[json!(12.5), json!(-0.5)]);
    wait_values(&collector, "label/status", &[json!("ST"), json!("US")]);
    let rows = wait_for("what no pattern fits", || {
        let rows = quarantine(&config);
        (rows["items"].as_array()?.len() == 1).then_some(rows)
    });
    assert_eq!(rows["items"][0]["reason"], "undecodable", "{rows}");
    let state = wait_state(&daemon, "scale", "subscribed");
    assert_eq!(
        (&state["kind"], &state["received"]),
        (&json!("serial"), &json!(3))
    );
    assert_eq!(state["url"], scale.device.to_str().unwrap());
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// Each framing once, in pieces, with an empty frame where the format has any.
#[test]
fn every_framing_end_to_end() {
    // CRC-16/MODBUS over "123456789" is 0x4B37 and goes low byte first; CRC-32 is 0xCBF43926.
    let cases: [(&str, &str, &[&[u8]]); 8] = [
        (
            "fixed",
            "{ kind = \"fixed\", length = 3 }",
            &[b"111", b"22", b"2"],
        ),
        (
            "length",
            "{ kind = \"length\", bits = 16, order = \"little\" }",
            &[&[3, 0, b'1', b'1'], b"1", &[0, 0, 3, 0], b"222"],
        ),
        (
            "delimiter",
            "{ kind = \"delimiter\", delimiter = 0x7E, escape = 0x7D, escape-xor = 0x20 }",
            &[b"~~111~2", &[0x7D], &[b'2' ^ 0x20], b"2~"],
        ),
        (
            "slip",
            "{ kind = \"slip\" }",
            &[b"\xC0111\xC0\xC0", b"222\xC0"],
        ),
        (
            "cobs",
            "{ kind = \"cobs\" }",
            &[b"\x04111\x00", b"\x04222", b"\x00"],
        ),
        (
            "idle",
            "{ kind = \"idle\", pause = \"100ms\" }",
            &[b"111", b"222"],
        ),
        (
            "modbus-crc",
            "{ kind = \"stx-etx\", checksum = \"crc16-modbus\", covers = \"data\" }",
            &[b"\x02123456789\x03", b"\x37\x4B\r\n"],
        ),
        (
            "crc32",
            "{ kind = \"stx-etx\", checksum = \"crc32\", covers = \"data\", hex = true }",
            &[b"\x02123456789\x03CBF4", b"3926"],
        ),
    ];
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let cables = cases.map(|(name, ..)| Cable::plugged(&site, name));
    let sources: Vec<(&str, String)> = cases
        .iter()
        .zip(&cables)
        .map(|((name, frame, _), cable)| {
            (
                *name,
                cable.source(name, &format!("frame = {frame}\ndecode = \"text\"")),
            )
        })
        .collect();
    let config = site_of(&site, &cloud, &sources);
    let mut daemon = Daemon::start(&config);
    for ((name, _, pieces), cable) in cases.iter().zip(&cables) {
        for (index, piece) in pieces.iter().enumerate() {
            if *name == "idle" && index > 0 {
                daemon.wait_received(name, index as u64);
            }
            cable.send(piece);
        }
    }
    for (name, ..) in &cases[..6] {
        wait_values(&collector, name, &[json!(111), json!(222)]);
    }
    for (name, ..) in &cases[6..] {
        wait_values(&collector, name, &[json!(123_456_789)]);
    }
    assert_eq!(quarantine(&config)["items"], json!([]));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

#[test]
fn garbage_is_set_aside_with_its_bytes_and_the_next_frame_is_whole() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let cable = Cable::plugged(&site, "meter");
    let layout = "frame = { kind = \"stx-etx\", checksum = \"xor\" }\n\
                  decode = { as = \"binary\", order = \"little\", fields = [\
                  { name = \"volt\", offset = 1, type = \"uint16\", order = \"big\", scale = 0.1 }, \
                  { name = \"amp\", offset = 3, type = \"int16\" } ] }";
    let config = site_of(&site, &cloud, &[("meter", cable.source("meter", layout))]);
    let mut daemon = Daemon::start(&config);
    let frame = |data: [u8; 5]| {
        let sum = data.iter().fold(3, |sum, byte| sum ^ byte);
        [&[2][..], &data, &[3, sum]].concat()
    };
    let first = frame([b'M', 0x08, 0xFC, 0xFE, 0xFF]);
    let mut damaged = first.clone();
    damaged[1] = b'N';
    let second = frame([b'M', 0x08, 0xFD, 0x05, 0x00]);
    cable.send(&[&first[..], &[0xFF, 0x55], &damaged, &second].concat());
    wait_values(&collector, "meter/volt", &[json!(230.0), json!(230.1)]);
    wait_values(&collector, "meter/amp", &[json!(-2), json!(5)]);
    let rows = quarantine(&config);
    let rows = rows["items"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["reason"], "unframed", "{rows:?}");
    let id = rows[0]["id"].to_string();
    let shown = run(&[
        "quarantine",
        "show",
        &id,
        "--json",
        "--config",
        config.to_str().unwrap(),
    ]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let thrown = [&[0xFF, 0x55], &damaged[..]].concat();
    let digits: String = thrown.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        shown.to_string().replace(' ', "").contains(&digits),
        "{digits} in {shown}"
    );
    let counts = daemon.ledger()["sources"]["meter"].clone();
    assert_eq!(
        (&counts["received"], &counts["quarantined"]),
        (&json!(3), &json!(1)),
        "{counts}"
    );
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// Sentences of the module's golden vectors, which quote the standard.
#[test]
fn nmea_through_its_decoder() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let cable = Cable::plugged(&site, "gps");
    let settings = "speed = 4800\ndecode = { module = \"nmea\" }";
    let config = site_of(&site, &cloud, &[("gps", cable.source("gps", settings))]);
    let mut daemon = Daemon::start(&config);
    cable.send(b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n");
    let latitude = wait_for("the latitude", || {
        values(&collector, "gps/GPGGA/latitude-deg")
            .first()?
            .as_f64()
    });
    assert!((latitude - 48.1173).abs() < 1e-9, "{latitude}");
    // A byte was lost on the way.
    cable.send(b"$GPGGA,123519,4807.03,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n");
    wait_for("the sentence that is set aside", || {
        (daemon.ledger()["sources"]["gps"]["quarantined"] == 1).then_some(())
    });
    assert_eq!(values(&collector, "gps/GPGGA/latitude-deg").len(), 1);
    assert_eq!(daemon.stop(), 0);
}

/// What is asked reaches the instrument, at first and again and again.
#[test]
fn an_instrument_is_asked() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let cable = Cable::plugged(&site, "scale");
    let query = "query = { initial = \"\\u0005\", text = \"SI\\r\\n\", every = \"50ms\" }\ndecode = \"text\"";
    let config = site_of(&site, &cloud, &[("scale", cable.source("scale", query))]);
    let mut daemon = Daemon::start(&config);
    let mut end = open(&cable.instrument).unwrap();
    let mut asked = Vec::new();
    wait_for("three questions", || {
        let mut buffer = [0; 256];
        if let Ok(read) = end.read(&mut buffer) {
            asked.extend_from_slice(&buffer[..read]);
        }
        (asked.len() >= 13).then_some(())
    });
    assert_eq!(&asked[..13], b"\x05SI\r\nSI\r\nSI\r\n");
    assert_eq!(daemon.stop(), 0);
}

/// How often the daemon tries to open a device in two seconds, by what strace sees: back-off begins with 125 ms.
fn looked_for(daemon: &Daemon, device: &Path) -> usize {
    if !can("count attempts to open a device", &["strace"]) {
        return 0;
    }
    let output = Command::new("timeout")
        .args(["2", "strace", "-f", "-e", "trace=openat", "-p"])
        .arg(daemon.pid().to_string())
        .output()
        .unwrap();
    let calls = String::from_utf8_lossy(&output.stderr);
    assert!(calls.contains("attached"), "{calls}");
    calls.matches(device.to_str().unwrap()).count()
}

#[test]
fn what_is_unplugged_comes_back_and_disturbs_nobody() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let mut cable = Cable::plugged(&site, "scale");
    let mut later = Cable::new(&site, "later");
    let mqtt = format!(
        "[source.plant]\nkind = \"mqtt\"\nurl = \"{}\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n",
        cloud.url()
    );
    let config = site_of(
        &site,
        &cloud,
        &[
            ("scale", cable.source("scale", "decode = \"text\"")),
            ("later", later.source("later", "decode = \"text\"")),
            ("plant", mqtt),
        ],
    );
    // A device that is not there keeps nobody from being ready.
    let mut daemon = Daemon::start(&config);
    let away = wait_state(&daemon, "later", "backing-off");
    assert!(
        away["last_error"]
            .as_str()
            .unwrap()
            .contains("is not there"),
        "{away}"
    );
    wait_state(&daemon, "scale", "subscribed");
    cable.send(b"1\n");
    wait_values(&collector, "scale", &[json!(1)]);
    later.plug();
    wait_state(&daemon, "later", "subscribed");
    later.send(b"5\n");
    wait_values(&collector, "later", &[json!(5)]);

    // The frame before it says that what is begun has been read as well.
    cable.send(b"3\nbegun and n");
    wait_values(&collector, "scale", &[json!(1), json!(3)]);
    let descriptors = || {
        let links = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
        targets
            .filter(|target| target.starts_with("/dev/pts"))
            .count()
    };
    assert_eq!(descriptors(), 2);
    cable.unplug();
    let away = wait_state(&daemon, "scale", "backing-off");
    assert!(!away["last_error"].is_null(), "{away}");
    wait_for("the descriptor to be closed", || {
        (descriptors() == 1).then_some(())
    });
    let looked = looked_for(&daemon, &cable.device);
    assert!(looked <= 20, "{looked} attempts in two seconds");
    cloud.publish("plant/a", ["7"]);
    wait_values(&collector, "plant/a", &[json!(7)]);
    later.send(b"6\n");
    wait_values(&collector, "later", &[json!(5), json!(6)]);
    assert_eq!(daemon.get("/readyz").unwrap().0, 200);
    assert_eq!(state_of(&daemon, "plant")["state"], "subscribed");

    cable.plug();
    wait_state(&daemon, "scale", "subscribed");
    cable.send(b"2\n");
    wait_values(&collector, "scale", &[json!(1), json!(3), json!(2)]);
    let rows = quarantine(&config);
    assert_eq!(rows["items"][0]["reason"], "unframed", "{rows}");
    // Each reason was told once, however often the device was looked for.
    let told = daemon.log().matches("is not there").count();
    assert!((1..=2).contains(&told), "{told} times");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// What an instrument had begun when the device was opened is no frame, at the start and after each unplugging.
#[test]
fn a_line_that_is_opened_in_the_middle_of_a_frame_begins_with_the_next_one() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let mut scale = Cable::plugged(&site, "scale");
    let asked = Cable::plugged(&site, "asked");
    let query = "decode = \"text\"\nquery = { text = \"?\", every = \"1h\" }";
    let config = site_of(
        &site,
        &cloud,
        &[
            ("scale", scale.source("scale", "decode = \"text\"")),
            ("asked", asked.source("asked", query)),
        ],
    );
    // The terminals hold what they were sent: it comes with the opening, as from an instrument that never pauses.
    scale.send(b"2.5\r\n12.5\r\n13.5\r\n");
    asked.send(b"7.5\n");
    let mut daemon = Daemon::start(&config);
    wait_values(&collector, "scale", &[json!(12.5), json!(13.5)]);
    wait_values(&collector, "asked", &[json!(7.5)]);
    let unframed = |count: usize| {
        wait_for("what was cut", || {
            let rows = quarantine(&config);
            (rows["items"].as_array()?.len() == count).then_some(rows)
        })
    };
    let rows = unframed(1);
    let row = &rows["items"][0];
    assert_eq!(
        (&row["reason"], &row["source"]),
        (&json!("unframed"), &json!("scale")),
        "{rows}"
    );
    let detail = row["detail"].as_str().unwrap();
    assert!(detail.contains("opened in the middle of a frame"), "{rows}");
    // Whoever sends when the line has been open for a while sends whole lines.
    scale.send(b"14.5\n");
    wait_values(
        &collector,
        "scale",
        &[json!(12.5), json!(13.5), json!(14.5)],
    );
    scale.unplug();
    wait_state(&daemon, "scale", "backing-off");
    scale.plug();
    scale.send(b"5.5\n15.5\n");
    let all = [json!(12.5), json!(13.5), json!(14.5), json!(15.5)];
    wait_for("the line after the cut one", || {
        (values(&collector, "scale").last() == all.last()).then_some(())
    });
    assert!(values(&collector, "scale").starts_with(&all[..3]));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(verify(&config).0, 0);
}

/// A line cannot be told to wait: what there is no room for is counted.
#[test]
fn what_a_store_that_is_full_cannot_take_is_counted() {
    let site = Site::new();
    let mut cloud = Broker::start(&site, "cloud");
    let cable = Cable::plugged(&site, "scale");
    let config = site_of(
        &site,
        &cloud,
        &[("scale", cable.source("scale", "decode = \"csv\""))],
    );
    site.write(
        "conf.d/stop.toml",
        "[store]\nmax-size = \"4MiB\"\nfull = \"stop\"\n",
    );
    let mut daemon = Daemon::start(&config);
    cloud.stop();
    let lines: String = (0..20_000).map(|n| format!("{n},{n}.5\n")).collect();
    let dropped = |daemon: &Daemon| daemon.log().contains("overrun");
    wait_for("the first frames that there is no room for", || {
        cable.send(lines.as_bytes());
        dropped(&daemon).then_some(())
    });
    cloud.resume();
    daemon.wait_delivered();
    let counts = wait_for("the ledger to know of them", || {
        let counts = daemon.ledger()["sources"]["scale"].clone();
        (counts["dropped"]["overrun"].as_u64()? > 0).then_some(counts)
    });
    assert_eq!(counts["quarantined"], 0, "{counts}");
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_kill_loses_nothing_of_what_was_committed() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let cable = Cable::plugged(&site, "scale");
    let config = site_of(
        &site,
        &cloud,
        &[("scale", cable.source("scale", "decode = \"text\""))],
    );
    let mut expect = Vec::new();
    for round in 0..3u64 {
        let mut daemon = Daemon::start(&config);
        let lines: String = (0..100).map(|n| format!("{}\n", round * 100 + n)).collect();
        cable.send(lines.as_bytes());
        daemon.wait_received("scale", (round + 1) * 100);
        expect.extend((0..100).map(|n| json!(round * 100 + n)));
        daemon.kill();
    }
    let mut daemon = Daemon::start(&config);
    daemon.wait_delivered();
    wait_values(&collector, "scale", &expect);
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}
