//! The map of all types and orders: pymodbus holds it, mbpoll reads it, and the daemon and its command line must see the same.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::proxy::Chance;
use crate::slave::{Cable, Slave, mbpoll};
use crate::support::{Broker, Collector, Daemon, Site, run, wait_for};
use crate::{site_of, stop};

const TYPES: [(&str, u16); 17] = [
    ("bool", 1),
    ("bit", 1),
    ("int8h", 1),
    ("int8l", 1),
    ("uint8h", 1),
    ("uint8l", 1),
    ("int16", 1),
    ("uint16", 1),
    ("int32", 2),
    ("uint32", 2),
    ("int64", 4),
    ("uint64", 4),
    ("float16", 1),
    ("float32", 2),
    ("float64", 4),
    ("bcd16", 1),
    ("bcd32", 2),
];
const ORDERS: [&str; 4] = ["ABCD", "DCBA", "BADC", "CDAB"];

struct Register {
    series: String,
    table: &'static str,
    address: u16,
    kind: &'static str,
    width: u16,
    order: &'static str,
}

/// Every type in every order three times, and strings: 208 values of two tables, and coils and discrete inputs.
fn registers() -> Vec<Register> {
    let mut all = Vec::new();
    let mut next = BTreeMap::from([("holding", 0), ("input", 100)]);
    for round in 0..3 {
        let table = if round == 1 { "input" } else { "holding" };
        for (kind, width) in TYPES.into_iter().chain([("string", 3)]) {
            for order in ORDERS {
                if kind == "string" && ["DCBA", "CDAB"].contains(&order) {
                    continue;
                }
                let address = next.get_mut(table).unwrap();
                all.push(Register {
                    series: format!("v/{kind}/{order}/{round}"),
                    table,
                    address: *address,
                    kind,
                    width,
                    order,
                });
                // A gap now and then.
                *address += width + u16::from(round == 2 && width == 2);
            }
        }
    }
    for (table, count) in [("coil", 24), ("discrete", 19)] {
        all.extend((0..count).map(|bit| Register {
            series: format!("v/{table}/{bit}"),
            table,
            address: 5 + bit,
            kind: "bool",
            width: 1,
            order: "ABCD",
        }));
    }
    all
}

/// What the slave holds: chance, but where a type has values that mean something, among them some that are no numbers.
fn contents(registers: &[Register]) -> Value {
    let mut chance = Chance(7);
    let mut tables: BTreeMap<&str, BTreeMap<u16, u16>> = BTreeMap::new();
    for (index, register) in registers.iter().enumerate() {
        for offset in 0..register.width {
            let random = u16::try_from(chance.below(65536)).unwrap();
            let word = match register.kind {
                "string" => 0x4141 + (random & 0x0F0F),
                // Digits, and letters one time.
                "bcd16" | "bcd32" if index % 12 != 3 => random & 0x7777,
                "float32" | "float64" if offset == 0 && index % 3 == 0 => 0x7FFF,
                "bool" if index % 2 == 0 => 0,
                _ => random,
            };
            tables
                .entry(register.table)
                .or_default()
                .insert(register.address + offset, word);
        }
    }
    let runs = |table: &str| {
        let words = tables.get(table).unwrap();
        let (first, last) = (words.keys().next().unwrap(), words.keys().last().unwrap());
        let all: Vec<u16> = (*first..=*last)
            .map(|at| words.get(&at).copied().unwrap_or(0))
            .collect();
        json!({first.to_string(): all})
    };
    let bits = |count: u64| -> Value {
        let mut chance = Chance(count);
        json!({"0": (0..32).map(|_| chance.below(2) == 1).collect::<Vec<bool>>()})
    };
    json!({"1": {"holding": runs("holding"), "input": runs("input"), "coil": bits(1), "discrete": bits(2)}})
}

fn toml(registers: &[Register]) -> String {
    let mut text = "read = [\n".to_owned();
    for (table, fill) in [("holding", 1), ("input", 0), ("coil", 0), ("discrete", 0)] {
        writeln!(
            text,
            "{{ unit = 1, table = \"{table}\", interval = \"300ms\", fill = {fill}, registers = ["
        )
        .unwrap();
        for register in registers.iter().filter(|register| register.table == table) {
            let more = match register.kind {
                "bit" => ", bit = 11",
                "string" => ", length = 3",
                _ => "",
            };
            let Register {
                series,
                address,
                kind,
                order,
                ..
            } = register;
            writeln!(text, "{{ series = \"{series}\", address = {address}, type = \"{kind}\", order = \"{order}\"{more} }},").unwrap();
        }
        text.push_str("] },\n");
    }
    text.push(']');
    text
}

/// Everything that mbpoll sees, as registers and bits.
fn reference(peer: &[&str], registers: &[Register]) -> BTreeMap<(&'static str, u16), u16> {
    let mut seen = BTreeMap::new();
    for (table, kind) in [
        ("holding", "4:hex"),
        ("input", "3:hex"),
        ("coil", "0"),
        ("discrete", "1"),
    ] {
        let of_table: Vec<&Register> = registers
            .iter()
            .filter(|register| register.table == table)
            .collect();
        let first = of_table.first().unwrap().address;
        let end = of_table
            .last()
            .map(|last| last.address + last.width)
            .unwrap();
        for begin in (first..end).step_by(100) {
            let values = mbpoll(peer, 1, kind, begin, 100.min(end - begin));
            seen.extend(values.into_iter().map(|(address, value)| {
                let value = match value.strip_prefix("0x") {
                    Some(digits) => u16::from_str_radix(digits, 16),
                    None => value.parse(),
                };
                ((table, address), value.unwrap())
            }));
        }
    }
    seen
}

/// The value in what mbpoll saw, made out of its bytes. `None` where there is no number.
fn expected(register: &Register, seen: &BTreeMap<(&'static str, u16), u16>) -> Option<Value> {
    let words =
        (0..register.width).map(|offset| seen[&(register.table, register.address + offset)]);
    let mut bytes: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
    // The bytes of the value as they came, put into the order A, B, C, D…
    match register.order {
        "DCBA" => bytes.reverse(),
        "BADC" => bytes.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1)),
        "CDAB" => bytes = bytes.rchunks_exact(2).flatten().copied().collect(),
        _ => {}
    }
    let [high, low] = [bytes[0], *bytes.get(1).unwrap()];
    let four = || <[u8; 4]>::try_from(&bytes[..]).unwrap();
    let eight = || <[u8; 8]>::try_from(&bytes[..]).unwrap();
    let finite = |number: f64| number.is_finite().then(|| json!(number));
    match register.kind {
        "bool" => Some(json!(bytes.iter().any(|byte| *byte != 0))),
        // Bit 11 is the fourth of the high byte.
        "bit" => Some(json!(high & 0b1000 != 0)),
        "int8h" => Some(json!(high.cast_signed())),
        "int8l" => Some(json!(low.cast_signed())),
        "uint8h" => Some(json!(high)),
        "uint8l" => Some(json!(low)),
        "int16" => Some(json!(i16::from_be_bytes([high, low]))),
        "uint16" => Some(json!(u16::from_be_bytes([high, low]))),
        "int32" => Some(json!(i32::from_be_bytes(four()))),
        "uint32" => Some(json!(u32::from_be_bytes(four()))),
        "int64" => Some(json!(i64::from_be_bytes(eight()))),
        "uint64" => {
            let number = u64::from_be_bytes(eight());
            #[expect(
                clippy::cast_precision_loss,
                reason = "beyond 63 bits a reading has the nearest double"
            )]
            Some(
                i64::try_from(number).map_or_else(|_| json!(number as f64), |number| json!(number)),
            )
        }
        "float32" => finite(f64::from(f32::from_be_bytes(four()))),
        "float64" => finite(f64::from_be_bytes(eight())),
        "float16" => {
            let bits = u16::from_be_bytes([high, low]);
            let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, f64::from(bits & 1023));
            let magnitude = match exponent {
                31 => return None,
                0 => fraction / 1024.0 / 16384.0,
                _ => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
            };
            Some(json!(if sign == 1 { -magnitude } else { magnitude }))
        }
        "bcd16" | "bcd32" => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            digits.parse::<i64>().ok().map(|number| json!(number))
        }
        "string" => Some(json!(String::from_utf8(bytes).unwrap())),
        other => panic!("{other}"),
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(_), Some(_)) if one.is_i64() && other.is_i64() => one == other,
        // serde_json reads a double up to one place off.
        (Some(one), Some(other)) => (one - other).abs() <= other.abs() * 4e-16,
        _ => one == other,
    }
}

/// `peer` is what mbpoll is told, `line` what the daemon is.
fn compare(site: &Site, peer: &[&str], line: &str) {
    let registers = registers();
    assert!(registers.len() >= 200, "{}", registers.len());
    let seen = reference(peer, &registers);
    let cloud = Broker::start(site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let config = site_of(site, &cloud, &format!("{line}\n{}", toml(&registers)));

    let asked = run(&[
        "modbus",
        "read",
        "bus",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ]);
    assert!(asked.status.success(), "{asked:?}");
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let asked: BTreeMap<&str, &Value> = asked
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["series"].as_str().unwrap(), &line["value"]))
        .collect();

    let mut daemon = Daemon::start(&config);
    let found = wait_for("every value to come twice", || {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for item in collector.items("readings") {
            found
                .entry(item["series"].as_str().unwrap().to_owned())
                .or_default()
                .push(item);
        }
        (found.len() == registers.len() && found.values().all(|items| items.len() >= 2))
            .then_some(found)
    });
    let (mut numbers, mut none, mut marked) = (0, 0, 0);
    for register in &registers {
        let series = &register.series;
        let expect = expected(register, &seen);
        for item in &found[series] {
            let (value, quality) = (&item["value"], &item["quality"]);
            match &expect {
                Some(expect) => assert!(same(value, expect), "{series}: {value} is not {expect}"),
                None => assert_eq!((value, quality), (&Value::Null, &json!("bad")), "{series}"),
            }
        }
        let command = asked[series.as_str()];
        assert!(
            same(command, &expect.clone().unwrap_or(Value::Null)),
            "{series}: {command} is not {expect:?}"
        );
        let uncertain = found[series][0]["quality"] == "uncertain";
        marked += usize::from(uncertain);
        assert!(!uncertain || register.kind == "uint64", "{series}");
        match expect {
            Some(_) => numbers += 1,
            None => none += 1,
        }
    }
    // The map holds all sorts.
    assert!(
        none >= 5 && marked >= 2,
        "{none} without a number, {marked} beyond 63 bits"
    );
    println!("{numbers} values as mbpoll sees them, {none} that are no numbers, {marked} marked");
    stop(&mut daemon, &config);
}

#[test]
fn the_same_values_as_mbpoll_over_tcp() {
    let site = Site::new();
    let slave = Slave::tcp("socket", &contents(&registers()));
    let port = slave.port.to_string();
    let peer = ["127.0.0.1", "-m", "tcp", "-p", &port];
    // mbpoll's own reading of 32 bits, in the two orders that it knows.
    let registers = registers();
    let seen = reference(&peer, &registers);
    let mut compared = 0;
    for register in registers
        .iter()
        .filter(|register| register.table == "holding")
    {
        let kind = match register.kind {
            "int32" => "4:int",
            "float32" => "4:float",
            _ => continue,
        };
        let peer = match register.order {
            "ABCD" => [&peer[..], &["-B"]].concat(),
            "CDAB" => peer.to_vec(),
            _ => continue,
        };
        let Some(expect) = expected(register, &seen) else {
            continue;
        };
        let text = &mbpoll(&peer, 1, kind, register.address, 1)[&register.address];
        let (read, expect): (f64, f64) = (text.parse().unwrap(), expect.as_f64().unwrap());
        // It prints six digits of a float.
        assert!(
            (read - expect).abs() <= expect.abs() * 1e-5,
            "{}: {text} is not {expect}",
            register.series
        );
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
    compare(
        &site,
        &peer,
        &format!("kind = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:{port}\""),
    );
}

#[test]
fn the_same_values_as_mbpoll_on_a_serial_line() {
    let site = Site::new();
    let cable = Cable::plugged(&site, "bus");
    let _slave = Slave::serial(&cable.slaves, &contents(&registers()));
    let device = cable.device.to_str().unwrap();
    let line = format!("kind = \"modbus-rtu\"\ndevice = \"{device}\"\nspeed = 115200");
    // pymodbus needs a moment to open its end.
    wait_for("the slave to answer", || {
        let config = site.write(
            "first.toml",
            &format!("[source.bus]\n{line}\nread = [{{ unit = 1, table = \"coil\", registers = [{{ series = \"a\", address = 0 }}] }}]\n"),
        );
        let read = run(&[
            "modbus",
            "read",
            "bus",
            "--config",
            config.to_str().unwrap(),
        ]);
        read.status.success().then_some(())
    });
    compare(
        &site,
        &[device, "-m", "rtu", "-b", "115200", "-P", "none"],
        &line,
    );
}
