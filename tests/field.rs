//! What hangs at the gateway itself: sensors that the kernel reads, and drivers on simulated buses, on the real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::{
    Broker, Collector, Daemon, Site, components, hostile_components, run, verify, wait_for,
};

/// These sources, one pipeline over all of them, readings to the cloud.
fn site_of(site: &Site, cloud: &Broker, sources: &[(&str, String)]) -> PathBuf {
    let names: Vec<&str> = sources.iter().map(|(name, _)| *name).collect();
    let texts: String = sources
        .iter()
        .map(|(name, text)| format!("[source.{name}]\n{text}\n"))
        .collect();
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

/// The last reading of a series that went up.
fn last(collector: &Collector, series: &str) -> Option<Value> {
    let items = collector.items("readings");
    items
        .into_iter()
        .rev()
        .find(|item| item["series"] == series)
}

#[track_caller]
fn wait_value(collector: &Collector, series: &str, value: &Value, measure: &str) {
    let item = wait_for(&format!("{value} of {series}"), || {
        last(collector, series).filter(|item| item["value"] == *value)
    });
    assert_eq!(
        item["measure"].as_str().unwrap_or_default(),
        measure,
        "{item}"
    );
    assert_eq!(item["quality"], Value::Null, "{item}");
}

#[track_caller]
fn wait_bad(collector: &Collector, series: &str) {
    wait_for(&format!("a bad reading of {series}"), || {
        last(collector, series).filter(|item| item["quality"] == "bad" && item["value"].is_null())
    });
}

fn source_state(daemon: &Daemon, source: &str) -> (Value, Value) {
    let sources = daemon.json("/api/v1/sources");
    let items = sources["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["name"] == source).unwrap();
    (item["state"].clone(), item["last_error"].clone())
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn what_the_kernel_measures_is_read_through_devices_that_come_and_go() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let (iio, hwmon) = (site.path("iio"), site.path("hwmon"));
    write(
        &hwmon,
        &[
            ("hwmon0/name", "coretemp\n"),
            ("hwmon0/temp1_input", "45500\n"),
            ("hwmon0/temp1_label", "Package id 0\n"),
            ("hwmon0/fan1_input", "no number\n"),
            ("hwmon1/name", "unwanted\n"),
            ("hwmon1/temp1_input", "1\n"),
        ],
    );
    let source = |kind: &str, root: &Path, more: &str| {
        let root = root.display();
        format!("kind = \"{kind}\"\nroot = \"{root}\"\ninterval = \"100ms\"\n{more}")
    };
    let config = site_of(
        &site,
        &cloud,
        &[
            ("air", source("iio", &iio, "")),
            ("board", source("hwmon", &hwmon, "devices = [\"coretemp\"]")),
        ],
    );
    // The root of one of them is not even there yet.
    let mut daemon = Daemon::start(&config);
    wait_value(
        &collector,
        "board/coretemp/temp/Package-id-0",
        &json!(45.5),
        "°C",
    );
    wait_bad(&collector, "board/coretemp/fan1");
    let (state, error) = source_state(&daemon, "air");
    assert_eq!(state, "backing-off");
    assert!(error.as_str().unwrap().contains("No such file"), "{error}");

    write(
        &iio,
        &[
            ("iio:device0/name", "bme280\n"),
            ("iio:device0/in_temp_input", "21620\n"),
            ("iio:device0/in_pressure_input", "101.325000000\n"),
            ("iio:device1/name", "ads1015\n"),
            ("iio:device1/in_voltage0_raw", "-200\n"),
            ("iio:device1/in_voltage0_offset", "1000\n"),
            ("iio:device1/in_voltage_scale", "3.000000000\n"),
        ],
    );
    wait_value(&collector, "air/bme280/temp", &json!(21.62), "°C");
    wait_value(&collector, "air/bme280/pressure", &json!(101.325), "kPa");
    wait_value(&collector, "air/ads1015/voltage0", &json!(2.4), "V");
    wait_for("the source to be well", || {
        (source_state(&daemon, "air").0 == "subscribed").then_some(())
    });

    // One is unplugged, says so once, and comes back; the other one goes on.
    fs::rename(iio.join("iio:device0"), site.path("away")).unwrap();
    wait_bad(&collector, "air/bme280/temp");
    write(&iio, &[("iio:device1/in_voltage0_raw", "0\n")]);
    wait_value(&collector, "air/ads1015/voltage0", &json!(3.0), "V");
    assert_eq!(
        last(&collector, "air/bme280/temp").unwrap()["quality"],
        "bad"
    );
    write(&site.path("away"), &[("in_temp_input", "22000\n")]);
    fs::rename(site.path("away"), iio.join("iio:device7")).unwrap();
    wait_value(&collector, "air/bme280/temp", &json!(22.0), "°C");

    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
    let series = collector.items("readings");
    assert!(
        !series
            .iter()
            .any(|item| item["series"].as_str().unwrap().contains("unwanted"))
    );
}

/// A BME280 at that address: the example of Bosch's datasheets, 25.08 °C and 1006.53 hPa.
fn bme280(address: &str, temperature: &str) -> String {
    format!(
        "{address} d0: 60\n{address} f2: 00 00 00 00 00 65 5a c0 {temperature} 75 30\n\
         {address} 88: 70 6b 43 67 18 fc 7d 8e 43 d6 d0 0b 27 0b 8c 00 f9 ff 8c 3c f8 c6 70 17 00 4b\n\
         {address} e1: 72 01 00 13 29 03 1e\n"
    )
}

const WARM: &str = "7e ed 00";

/// Starts the daemon on simulated buses.
fn start(site: &Site, config: &Path) -> Daemon {
    let buses = site.path("buses");
    let daemon = Daemon::spawn(config, &[("TIDEGATE_TEST_BUSES", buses.to_str().unwrap())]);
    daemon.wait_ready();
    daemon
}

fn driver(module: &str, more: &str) -> String {
    format!("kind = \"driver\"\nmodule = \"{module}\"\ninterval = \"100ms\"\n{more}")
}

#[test]
fn drivers_read_their_buses_through_trouble_and_kills() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let buses = site.path("buses");
    write(
        &buses,
        &[
            ("i2c-1", &bme280("76", WARM)),
            ("spidev0.0", "06 00 00: ff e3 e8\n06 40 00: ff ff ff\n"),
        ],
    );
    let config = site_of(
        &site,
        &cloud,
        &[
            (
                "climate",
                driver(
                    "bme280-driver",
                    "i2c = { sensor = { device = \"/dev/i2c-1\", address = 0x76 } }",
                ),
            ),
            (
                "analog",
                driver(
                    "mcp3x08-driver",
                    "settings = { channels = [0, 1], reference = 4.096 }\n\
                     spi = { adc = { device = \"/dev/spidev0.0\" } }",
                ),
            ),
        ],
    );
    // A filter behind a driver like behind any source.
    let text = fs::read_to_string(&config).unwrap();
    let filtered = "[pipeline.filtered]\nfrom = [\"climate\"]\nto = [{ uplink = \"cloud\", send = \"readings\" }]\n\
        filters = [{ module = \"range\", settings = { max = 100 } }]\n";
    fs::write(&config, text + filtered).unwrap();
    let mut daemon = start(&site, &config);
    wait_value(&collector, "climate/temperature", &json!(25.08), "");
    wait_value(&collector, "climate/pressure", &json!(1006.53), "");
    wait_value(&collector, "analog/channel0", &json!(1.0), "");
    wait_bad(&collector, "analog/channel1");
    wait_for("what the filter let through", || {
        let items = collector.items("readings");
        let filtered = |item: &&Value| item["pipeline"] == "filtered";
        items
            .iter()
            .filter(filtered)
            .find(|item| item["value"] == 25.08)
            .cloned()
    });
    let items = collector.items("readings");
    let let_through =
        |item: &Value| item["pipeline"] == "filtered" && item["series"] == "climate/pressure";
    assert!(!items.iter().any(let_through));
    let (status, metrics) = daemon.get("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("module=\"bme280-driver\""), "{metrics}");

    // The sensor goes: told, one reading of bad quality, and the converter goes on. It comes back, through a kill.
    fs::remove_file(buses.join("i2c-1")).unwrap();
    wait_bad(&collector, "climate/temperature");
    let (state, error) = source_state(&daemon, "climate");
    assert_eq!(state, "backing-off");
    assert!(error.as_str().unwrap().contains("Nobody"), "{error}");
    write(&buses, &[("spidev0.0", "06 00 00: ff e7 d0\n")]);
    wait_value(&collector, "analog/channel0", &json!(2.0), "");
    write(&buses, &[("i2c-1", &bme280("76", "80 00 00"))]);
    let warmer = wait_for("the sensor to be back", || {
        last(&collector, "climate/temperature").filter(|item| item["quality"].is_null())
    });
    assert!(warmer["value"].as_f64().unwrap() > 26.0, "{warmer}");
    daemon.kill();
    write(&buses, &[("i2c-1", &bme280("76", WARM))]);
    let mut daemon = start(&site, &config);
    wait_value(&collector, "climate/temperature", &json!(25.08), "");
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_driver_reaches_what_it_is_handed_and_nothing_else() {
    let site = Site::new();
    let cloud = Broker::start(&site, "cloud");
    let collector = Collector::start(cloud.port, "tidegate/#");
    let buses = site.path("buses");
    write(
        &buses,
        &[
            ("i2c-1", &format!("{}77 d0: 60\n", bme280("76", WARM))),
            ("i2c-2", &format!("wait 400\n{}", bme280("76", WARM))),
            ("gpiochip0", "3: 1\n4: 0\n"),
        ],
    );
    let modules = site.path("modules");
    fs::create_dir_all(&modules).unwrap();
    for end in ["wasm", "json"] {
        let file = format!("prober.{end}");
        fs::copy(hostile_components().join(&file), modules.join(&file)).unwrap();
    }
    let prober = |todo: &str| {
        driver(
            "prober",
            &format!(
                "settings = {{ todo = \"{todo}\" }}\ni2c = {{ sensor = {{ device = \"/dev/i2c-1\", address = 0x76 }} }}\n\
                 gpio = {{ button = {{ chip = \"/dev/gpiochip0\", line = 3 }} }}\n\
                 spi = {{ display = {{ device = \"/dev/spidev0.0\" }} }}"
            ),
        )
    };
    let slow = driver(
        "bme280-driver",
        "timeout = \"200ms\"\ni2c = { sensor = { device = \"/dev/i2c-2\", address = 0x76 } }",
    );
    let well = driver(
        "bme280-driver",
        "i2c = { sensor = { device = \"/dev/i2c-3\", address = 0x76 } }",
    );
    write(&buses, &[("i2c-3", &bme280("76", WARM))]);
    let trapping = prober("trap")
        .replace("/dev/i2c-1", "/dev/i2c-4")
        .replace("line = 3", "line = 4")
        .replace("spidev0.0", "spidev0.1");
    let config = site_of(
        &site,
        &cloud,
        &[
            ("probing", prober("reach")),
            ("trapping", trapping),
            ("slow", slow),
            ("well", well),
        ],
    );
    let text = fs::read_to_string(&config).unwrap();
    let modules = format!("{text}[modules]\ndir = \"{}\"\n", modules.display());
    // Unsigned it does not run, as no other module does.
    fs::write(&config, &modules).unwrap();
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("prober"),
        "{told}"
    );
    fs::write(&config, format!("{modules}allow-unsigned = true\n")).unwrap();

    let mut daemon = start(&site, &config);
    // What it got of each: the granted ones answer, the others are refused.
    for (series, expect) in [
        ("probing/granted", json!("96")),
        ("probing/address", json!("NotGranted")),
        ("probing/bus", json!("NotGranted")),
        ("probing/line", json!("true")),
        ("probing/output", json!("NotGranted")),
        ("probing/spi", json!("NotGranted")),
    ] {
        wait_value(&collector, series, &expect, "");
    }
    // Neither a driver that traps nor one whose bus is too slow holds up another.
    for (source, expect) in [
        ("trapping", "unreachable"),
        ("slow", "longer than the source's `timeout`"),
    ] {
        wait_for(&format!("{source} to be told"), || {
            let (_, error) = source_state(&daemon, source);
            error
                .as_str()
                .is_some_and(|error| error.contains(expect))
                .then_some(())
        });
    }
    let count = || {
        let items = collector.items("readings");
        items
            .iter()
            .filter(|item| item["series"] == "well/temperature")
            .count()
    };
    let before = count();
    wait_for("the driver beside them to go on", || {
        (count() >= before + 5).then_some(())
    });
    // Its state goes on after a restart.
    assert_eq!(daemon.stop(), 0);
    let polls = || last(&collector, "probing/polls").and_then(|item| item["value"].as_i64());
    let before = polls().unwrap();
    let mut daemon = start(&site, &config);
    wait_for("more polls than before", || {
        (polls()? > before).then_some(())
    });
    assert_eq!(daemon.stop(), 0);
    let (code, report) = verify(&config);
    assert_eq!(code, 0, "{report}");
    // What was refused is on record, each once a start although it was tried many times.
    let config = config.to_str().unwrap();
    let output = run(&["audit", "show", "--json", "--config", config]);
    let log = String::from_utf8(output.stdout).unwrap();
    let refused: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|entry: &Value| entry["action"] == "driver.refused")
        .collect();
    let wanted: Vec<String> = refused
        .iter()
        .map(|entry| {
            assert_eq!(entry["outcome"], "refused", "{entry}");
            let object = &entry["object"];
            assert_eq!(
                (&object["source"], &object["module"]),
                (&json!("probing"), &json!("prober"))
            );
            format!("{} {} {}", object["bus"], object["name"], object["wanted"]).replace('"', "")
        })
        .collect();
    for expect in [
        "i2c sensor address 0x77; 0x76 is handed in",
        "i2c other null",
        "gpio button to set an input",
        "spi adc null",
    ] {
        assert_eq!(
            wanted.iter().filter(|wanted| *wanted == expect).count(),
            2,
            "{expect}: {wanted:?}"
        );
    }
    let written = fs::read_to_string(site.path("buses/gpiochip0.written")).unwrap_or_default();
    assert_eq!(written, "");
    assert!(components().join("bme280-driver.wasm").exists());
}

/// What a command printed as JSON.
fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A fragment that was printed to be pasted is a configuration.
fn assert_config(site: &Site, printed: &Value) {
    let config = site.write("pasted.toml", printed["config"].as_str().unwrap());
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{printed}: {output:?}");
}

#[test]
fn probe_lists_serial_devices_by_what_they_are() {
    let site = Site::new();
    let root = fs::canonicalize(site.path(".")).unwrap();
    write(
        &root,
        &[
            ("sys/devices/1-1/idVendor", "0403\n"),
            ("sys/devices/1-1/idProduct", "6001\n"),
            ("sys/devices/1-1/product", "FT232R USB UART\n"),
            ("sys/devices/1-1/1-1:1.0/ttyUSB0/x", ""),
            ("sys/class/tty/ttyUSB0/uevent", ""),
            ("dev/ttyUSB0", ""),
            ("dev/serial/by-id/x", ""),
        ],
    );
    let link = root.join("dev/serial/by-id/usb-FTDI_FT232R-if00-port0");
    symlink("../../ttyUSB0", &link).unwrap();
    let place = root.join("sys/devices/1-1/1-1:1.0/ttyUSB0");
    symlink(place, root.join("sys/class/tty/ttyUSB0/device")).unwrap();
    let at = root.to_str().unwrap();
    let output = run(&["probe", "--root", at, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let devices = printed(&output);
    assert_eq!(devices[0]["usb"], "0403:6001", "{devices}");
    assert_eq!(devices[0]["by_id"], link.to_str().unwrap());
    let output = run(&["probe", "--root", at]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("FT232R USB UART") && text.contains("device = "),
        "{text}"
    );
    let output = run(&["probe", "--root", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// A pseudo terminal at whose other end a shell says something again and again.
fn instrument(site: &Site, says: &str) -> (PathBuf, std::process::Child) {
    let device = site.path("device");
    let script = format!("while printf '{says}'; do sleep 0.1; done\n");
    let script = site.write("says.sh", &script);
    let child = Command::new("socat")
        .arg(format!("pty,rawer,link={}", device.display()))
        .arg(format!("EXEC:sh {}", script.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("socat is installed by `make tools`");
    wait_for("the pseudo terminal", || device.exists().then_some(()));
    (device, child)
}

#[test]
fn probe_listens_and_prints_what_can_be_pasted() {
    for (says, frame, decode) in [
        (
            "$GPGLL,4916.45,N,12311.12,W,225444,A*31\\r\\n",
            "lines",
            "{ module = \"nmea\" }",
        ),
        (
            "21.5;1013.2;1\\r\\n",
            "lines",
            "{ as = \"csv\", separator = \";\" }",
        ),
        ("\\002+0012.5\\003", "stx-etx", "\"text\""),
    ] {
        let site = Site::new();
        let (device, mut child) = instrument(&site, says);
        let device = device.to_str().unwrap();
        let output = run(&["probe", "listen", device, "--for", "1s", "--json"]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(output.status.success(), "{says}: {output:?}");
        let heard = printed(&output);
        assert_eq!(heard["frame"], frame, "{heard}");
        assert_eq!(heard["decode"], decode, "{heard}");
        // A pseudo terminal has no speed: the first one makes sense already.
        assert_eq!(heard["tried"].as_array().unwrap().len(), 1, "{heard}");
        assert_config(&site, &heard);
    }
    let output = run(&["probe", "listen", "/nonexistent/tty"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is not there"), "{text}");
}
