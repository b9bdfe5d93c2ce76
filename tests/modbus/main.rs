//! Modbus: the real daemon against pymodbus, beside mbpoll as the reference reader, on connections and pseudo terminals on which
//! things go wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod proxy;
mod slave;
#[path = "../support/mod.rs"]
mod support;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proxy::{Chance, Fault, Framing, Mood, Proxy};
use serde_json::{Value, json};
use slave::{Cable, Slave};
use support::{Broker, Collector, Daemon, Site, run, verify, wait_for};

/// One Modbus source and a pipeline that sends its readings.
fn site_of(site: &Site, cloud: &Broker, source: &str) -> PathBuf {
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n[source.bus]\n{source}\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\n\
             [pipeline.all]\nfrom = [\"bus\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n",
            state = site.path("state").display(),
            url = cloud.url(),
        ),
    )
}

/// What register `address` of slave `unit` holds, so that no value passes for another one.
fn holds(unit: u16, address: u16) -> u16 {
    unit * 1000 + address
}

/// Slaves that hold that in registers 0 to 99.
fn devices(units: std::ops::RangeInclusive<u16>) -> Value {
    let device = |unit| {
        let words: Vec<u16> = (0..100).map(|address| holds(unit, address)).collect();
        (unit.to_string(), json!({"holding": {"0": words}}))
    };
    Value::Object(units.map(device).collect())
}

/// Two requests of equal length to each slave: the late answer to one could pass for that to the other.
fn map(units: std::ops::RangeInclusive<u16>, interval: &str) -> String {
    let registers: Vec<String> = (0..5)
        .chain(50..55)
        .map(|address| format!("{{ series = \"bus/{{unit}}/{address}\", address = {address} }}"))
        .collect();
    let units: Vec<u16> = units.collect();
    format!(
        "read = [{{ unit = {units:?}, table = \"holding\", interval = \"{interval}\", registers = [{}] }}]",
        registers.join(", ")
    )
}

/// Each good reading is that of its own slave and register. Gives how many were good and bad.
fn check_values(collector: &Collector) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    for item in collector.items("readings") {
        let series = item["series"].as_str().unwrap();
        let parts: Vec<&str> = series.split('/').collect();
        let expect = holds(parts[1].parse().unwrap(), parts[2].parse().unwrap());
        if item["value"].is_null() {
            assert_eq!(item["quality"], "bad", "{item}");
            bad += 1;
        } else {
            assert_eq!(item["value"], expect, "another one's value: {item}");
            good += 1;
        }
    }
    (good, bad)
}

fn source(daemon: &Daemon) -> Value {
    daemon.json("/api/v1/sources")["items"][0].clone()
}

fn slaves(daemon: &Daemon) -> BTreeMap<u64, Value> {
    let source = source(daemon);
    let slaves = source["slaves"].as_array().unwrap().iter();
    slaves
        .map(|slave| (slave["unit"].as_u64().unwrap(), slave.clone()))
        .collect()
}

fn stop(daemon: &mut Daemon, config: &std::path::Path) {
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(config);
    assert_eq!(code, 0, "{report}");
}

/// The compressed run: everything that can happen to an answer, many times over.
fn whatever_happens(framing: Framing, faults: &'static [Fault]) {
    const EACH: u64 = 15;
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let name = if framing == Framing::Rtu {
        "rtu"
    } else {
        "socket"
    };
    let slave = Slave::tcp(name, &devices(1..=8));
    let mood = move |unit: u8, chance: &mut Chance| {
        if chance.below(3) > 0 {
            return Fault::Sound;
        }
        match faults[usize::try_from(chance.below(faults.len() as u64)).unwrap()] {
            // It ends the connection, and those that end soon are made again ever more slowly.
            Fault::Cut if framing == Framing::Tcp && chance.below(5) > 0 => Fault::Sound,
            Fault::Late(_) => Fault::Late(Duration::from_millis(180 + chance.below(120))),
            // That a register is not there is believed: only one slave says so.
            Fault::Exception(_) if unit == 8 => {
                Fault::Exception(u8::try_from(1 + chance.below(11)).unwrap())
            }
            Fault::Exception(_) => Fault::Exception(
                [1, 4, 5, 6, 7, 8, 9, 10, 11][usize::try_from(chance.below(9)).unwrap()],
            ),
            fault @ (Fault::Sound
            | Fault::Cut
            | Fault::Split
            | Fault::Merged
            | Fault::Flipped
            | Fault::Echo
            | Fault::WrongUnit
            | Fault::WrongTransaction
            | Fault::Silence) => fault,
        }
    };
    let proxy = Proxy::tcp(framing, slave.port, Arc::new(mood));
    let framing = if framing == Framing::Rtu {
        "rtu"
    } else {
        "tcp"
    };
    let config = site_of(
        &site,
        &cloud,
        &format!(
            "kind = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:{}\"\nframing = \"{framing}\"\ntimeout = \"150ms\"\nquarantine = \"600ms\"\n{}",
            proxy.port,
            map(1..=8, "100ms")
        ),
    );
    let mut daemon = Daemon::start(&config);
    let happened = wait_for("every fault to happen", || {
        let happened = proxy.happened();
        let name = |fault: &Fault| format!("{fault:?}").split('(').next().unwrap().to_owned();
        let all = faults.iter().all(|fault| {
            happened.get(&name(fault)) >= Some(&if *fault == Fault::Cut { 3 } else { EACH })
        });
        let (good, _) = check_values(&collector);
        (all && good > 1000).then_some(happened)
    });
    let counts = slaves(&daemon);
    let sum = |key: &str| {
        counts
            .values()
            .map(|slave| slave[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(
        sum("silent") >= EACH && sum("exceptions") >= EACH && sum("garbled") > 0,
        "{counts:?}"
    );
    stop(&mut daemon, &config);
    let (good, bad) = check_values(&collector);
    println!(
        "{framing}: {happened:?}: {good} readings, each its own slave's, {bad} without a value"
    );
}

#[test]
fn whatever_happens_on_a_line_no_value_is_another_ones() {
    whatever_happens(
        Framing::Rtu,
        &[
            Fault::Late(Duration::ZERO),
            Fault::Cut,
            Fault::Split,
            Fault::Merged,
            Fault::Flipped,
            Fault::Echo,
            Fault::WrongUnit,
            Fault::Silence,
            Fault::Exception(0),
        ],
    );
}

#[test]
fn whatever_happens_over_tcp_no_value_is_another_ones() {
    whatever_happens(
        Framing::Tcp,
        &[
            Fault::Late(Duration::ZERO),
            Fault::Cut,
            Fault::Split,
            Fault::Merged,
            Fault::WrongUnit,
            Fault::WrongTransaction,
            Fault::Silence,
            Fault::Exception(0),
        ],
    );
}

/// Eight slaves on one line of 115200 baud; one is dead and one garbles whatever it says.
#[test]
fn one_dead_and_one_garbling_slave_starve_nobody() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let slave = Slave::tcp("rtu", &devices(1..=8));
    let cable = Cable::plugged(&site, "bus");
    let mood: Arc<Mood> = Arc::new(|unit, _: &mut Chance| match unit {
        4 => Fault::Silence,
        6 => Fault::Flipped,
        _ => Fault::Sound,
    });
    // 11 bits to a character.
    let byte = Duration::from_micros(96);
    let _proxy = Proxy::serial(cable.end(), slave.port, byte, mood);
    let config = site_of(
        &site,
        &cloud,
        &format!(
            "kind = \"modbus-rtu\"\ndevice = \"{}\"\nspeed = 115200\nparity = \"even\"\ntimeout = \"200ms\"\n{}",
            cable.device.display(),
            map(1..=8, "500ms")
        ),
    );
    let mut daemon = Daemon::start(&config);
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(20));
    let slaves = slaves(&daemon);
    let elapsed = begin.elapsed().as_secs_f64();
    for (unit, slave) in &slaves {
        let count = |key: &str| slave[key].as_u64().unwrap();
        // Two requests a poll.
        let (polls, missed) = (count("answered") / 2, count("missed"));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = polls as f64 / elapsed;
        println!(
            "slave {unit}: {rate:.2} polls/s of 2.00, {missed} missed, {} silent, {} garbled, round trip {} s, at most {} s",
            count("silent"),
            count("garbled"),
            slave["round_trip_seconds"],
            slave["round_trip_longest_seconds"]
        );
        if [4, 6].contains(unit) {
            assert_eq!((polls, &slave["answers"]), (0, &json!(false)), "{slave}");
            continue;
        }
        // Against what was due, so that a slow machine makes no difference.
        assert!(
            polls >= 9 * missed && polls > 0,
            "slave {unit} was starved: {slave}"
        );
        assert_eq!(slave["answers"], true, "{slave}");
    }
    let metrics = daemon.get("/metrics").unwrap().1;
    assert!(
        metrics.contains("tidegate_modbus_slave_answers{source=\"bus\",unit=\"4\"} 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains(
            "tidegate_modbus_requests_total{source=\"bus\",unit=\"1\",result=\"answered\"}"
        ),
        "{metrics}"
    );
    let page = daemon.get("/").unwrap().1;
    assert!(
        page.contains("slave 4 does not answer") && page.contains("slave 1 answers"),
        "{page}"
    );
    let (good, bad) = check_values(&collector);
    // The first failure is told once, for each value.
    assert_eq!(bad, 20, "{good} good");
    stop(&mut daemon, &config);
}

#[test]
fn what_a_slave_has_not_is_found_and_the_rest_is_read() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let words = |addresses: std::ops::Range<u16>| -> Vec<u16> {
        addresses.map(|address| holds(1, address)).collect()
    };
    // Registers 7 and 30 to 39 are not there; the latter nobody wants, but a filled gap touches them.
    let slave = Slave::tcp(
        "socket",
        &json!({"1": {"holding": {"0": words(0..7), "8": words(8..30), "40": words(40..50)}}}),
    );
    let registers: Vec<String> = (0..20)
        .chain(28..30)
        .chain(40..42)
        .map(|address| format!("{{ series = \"bus/1/{address}\", address = {address} }}"))
        .collect();
    let config = site_of(
        &site,
        &cloud,
        &format!(
            "kind = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:{}\"\nread = [{{ unit = 1, table = \"holding\", interval = \"100ms\", fill = 10, registers = [{}] }}]",
            slave.port,
            registers.join(", ")
        ),
    );
    let mut daemon = Daemon::start(&config);
    wait_for("every register that is there", || {
        let items = collector.items("readings");
        let good = items.iter().filter(|item| !item["value"].is_null());
        let mut series: Vec<&str> = good.map(|item| item["series"].as_str().unwrap()).collect();
        series.sort_unstable();
        series.dedup();
        (series.len() == 23).then_some(())
    });
    let slave = wait_for("the search to end", || {
        let slave = slaves(&daemon)[&1].clone();
        (slave["refused"] == 1).then_some(slave)
    });
    assert!(
        slave["last_error"]
            .as_str()
            .unwrap()
            .contains("no such address (02): holding 7, 1 of them"),
        "{slave}"
    );
    assert!(daemon.log().contains("bus/1/7"));
    // From then on nothing is refused any more.
    let exceptions = slaves(&daemon)[&1]["exceptions"].clone();
    let answered = slaves(&daemon)[&1]["answered"].as_u64().unwrap();
    wait_for("more polls", || {
        (slaves(&daemon)[&1]["answered"].as_u64().unwrap() > answered + 10).then_some(())
    });
    assert_eq!(slaves(&daemon)[&1]["exceptions"], exceptions);
    stop(&mut daemon, &config);
    check_values(&collector);
}

#[test]
fn an_unplugged_adapter_and_a_broken_connection_come_back() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let mut cable = Cable::plugged(&site, "bus");
    let mut slave = Slave::serial(&cable.slaves, &devices(1..=1));
    let config = site_of(
        &site,
        &cloud,
        &format!(
            "kind = \"modbus-rtu\"\ndevice = \"{}\"\nspeed = 115200\n{}",
            cable.device.display(),
            map(1..=1, "100ms")
        ),
    );
    let mut daemon = Daemon::start(&config);
    let good = |least: usize| {
        wait_for("readings", || {
            (check_values(&collector).0 >= least).then_some(())
        })
    };
    good(10);
    slave.stop();
    cable.unplug();
    wait_for("the loss to be seen", || {
        (source(&daemon)["state"] == "backing-off").then_some(())
    });
    assert_eq!(daemon.get("/readyz").unwrap().0, 200);
    wait_for("readings without a value", || {
        (check_values(&collector).1 == 10).then_some(())
    });
    let before = check_values(&collector).0;
    cable.plug();
    let _slave = Slave::serial(&cable.slaves, &devices(1..=1));
    good(before + 20);
    assert_eq!(source(&daemon)["state"], "subscribed");
    stop(&mut daemon, &config);
}

#[test]
fn only_changes_go_on() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let slave = Slave::tcp("socket", &devices(1..=1));
    let source = format!(
        "kind = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:{}\"\nread = [\n\
         {{ unit = 1, table = \"holding\", interval = \"50ms\", on-change = true, max-age = \"1h\", registers = [\n\
         {{ series = \"bus/1/3\", address = 3, write = true }}, {{ series = \"bus/1/4\", address = 4, measure = \"V\" }} ] }} ]\nstale-after = \"2h\"",
        slave.port
    );
    let config = site_of(&site, &cloud, &source);
    let mut daemon = Daemon::start(&config);
    wait_for("polls", || {
        (slaves(&daemon)[&1]["answered"].as_u64() > Some(20)).then_some(())
    });
    let path = config.to_str().unwrap();
    let written = run(&["modbus", "write", "bus", "bus/1/3", "7", "--config", path]);
    assert!(written.status.success(), "{written:?}");
    let values = |series: &str| -> Vec<Value> {
        let items = collector.items("readings");
        let of_series = items.iter().filter(|item| item["series"] == series);
        of_series.map(|item| item["value"].clone()).collect()
    };
    wait_for("the change", || {
        (values("bus/1/3").len() == 2).then_some(())
    });
    assert_eq!(values("bus/1/3"), [json!(1003), json!(7)]);
    assert_eq!(values("bus/1/4"), [json!(1004)]);
    stop(&mut daemon, &config);
}

#[test]
fn an_engineer_reads_writes_and_imports() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let devices = json!({"1": {"holding": {"0": [0, 0, 0, 0, 0, 0, 0, 0]}, "coil": {"0": vec![false; 16]}, "input": {"0": [9]}}});
    let slave = Slave::tcp("socket", &devices);
    let csv = site.write(
        "map.csv",
        "series,unit,table,address,type,order,scale,write\n\
         energy,1,holding,0,uint64,CDAB,,yes\n\
         level,1,holding,4,int16,,0.1,true\n\
         fixed,1,holding,5,,,,\n\
         pump,1,coil,3,,,,yes\n",
    );
    let imported = run(&["modbus", "import", csv.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
    let read = String::from_utf8(imported.stdout).unwrap();
    let config = site_of(
        &site,
        &cloud,
        &format!(
            "kind = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:{}\"\n{read}",
            slave.port
        ),
    );
    let path = config.to_str().unwrap();
    let modbus = |arguments: &[&str]| {
        let output = run(&[&["modbus"], arguments, &["--config", path]].concat());
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    assert_eq!(
        modbus(&["write", "bus", "energy", "9007199254740993"]).1,
        "energy  9007199254740993"
    );
    assert_eq!(
        modbus(&["write", "bus", "level", "-12.3"]).1,
        "level  -12.3"
    );
    assert_eq!(modbus(&["write", "bus", "pump", "on"]).1, "pump  true");
    let (code, _, error) = modbus(&["write", "bus", "fixed", "1"]);
    assert!(
        code == 1 && error.contains("`fixed` may not be written"),
        "{code} {error}"
    );
    let (code, _, error) = modbus(&["write", "bus", "level", "4000"]);
    assert!(
        code == 1 && error.contains("does not fit"),
        "{code} {error}"
    );
    let (code, _, error) = modbus(&["write", "bus", "other", "1"]);
    assert!(
        code == 1 && error.contains("no series `other`"),
        "{code} {error}"
    );
    assert_eq!(
        modbus(&["read", "bus"]),
        (
            0,
            "energy  9007199254740993\nlevel  -12.3\nfixed  0\npump  true".to_owned(),
            String::new()
        )
    );
    // Beside the map, and as mbpoll sees it: 9007199254740993 is 0x0020000000000001, whose registers stand in reverse.
    let raw = modbus(&[
        "read",
        "bus",
        "--unit",
        "1",
        "--address",
        "0",
        "--count",
        "5",
        "--json",
    ]);
    let raw: Value = serde_json::from_str(&raw.1).unwrap();
    let raw: Vec<u64> = raw
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["value"].as_u64().unwrap())
        .collect();
    assert_eq!(raw, [1, 0, 0, 0x20, 65536 - 123]);
    let port = slave.port.to_string();
    let seen = slave::mbpoll(&["127.0.0.1", "-m", "tcp", "-p", &port], 1, "4:hex", 0, 5);
    assert_eq!(
        seen.values().cloned().collect::<Vec<String>>(),
        ["0x0001", "0x0000", "0x0000", "0x0020", "0xFF85"]
    );
    let (code, said, _) = modbus(&["read", "bus", "--unit", "1", "--address", "900"]);
    assert!(
        code == 1 && said.contains("no such address (02)"),
        "{code} {said}"
    );
}

#[test]
fn probe_finds_the_slaves_that_answer_and_asks_before_it_does() {
    let site = Site::new();
    let slave = Slave::tcp("socket", &devices(3..=4));
    let target = format!("tcp://127.0.0.1:{}", slave.port);
    let scan = |more: &[&str]| {
        let arguments = [
            "probe",
            "modbus",
            &target,
            "--units",
            "1-6",
            "--timeout",
            "300ms",
        ];
        run(&[&arguments, more].concat())
    };
    // Nobody sits at a terminal here who could say yes.
    let output = scan(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--yes"),
        "{output:?}"
    );
    let output = scan(&["--yes", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let units = found["found"].as_array().unwrap().iter();
    let values: Vec<u64> = units
        .clone()
        .filter(|unit| unit["answer"] == "value")
        .map(|unit| unit["unit"].as_u64().unwrap())
        .collect();
    assert_eq!(values, [3, 4], "{found}");
    let config = site.write("pasted.toml", found["config"].as_str().unwrap());
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let output = run(&["probe", "modbus", &target, "--units", "0-6"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
