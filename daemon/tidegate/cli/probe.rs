//! `tidegate probe`: what hangs at this machine, before there is a configuration.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tidegate_ingest::probe::{self, DecodeGuess, FrameGuess, Guess, SerialDevice};
use tidegate_ingest::{
    Flow, Kind, LineSettings, Link, ModbusLine, Order, Parity, Point, Port, Session, SessionError,
    Table,
};

use super::{DONE, FAILURE, Failure, say, say_json};
use crate::config::parse_duration;

/// What instruments are set to, the commonest first.
const SPEEDS: [u32; 8] = [9600, 19_200, 38_400, 57_600, 115_200, 4800, 2400, 1200];
/// Of each speed these, in order: data bits, parity.
const FORMATS: [(u8, Parity); 3] = [(8, Parity::None), (7, Parity::Even), (8, Parity::Even)];
/// From here on what came is believed.
const BELIEVED: f64 = 0.5;
/// From here on nothing better is looked for.
const SURE: f64 = 0.9;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Where `dev` and `sys` are, for tests
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Listen on a serial line, and guess how it is set and what it says
    ///
    /// Nothing is sent. Each usual speed is tried until what comes makes sense, for as long as --for says: at least the time between two
    /// messages of the instrument. A line that the gateway reads is in use: stop it first.
    Listen(Listen),
    /// Ask which Modbus slaves answer, on a serial line or at a TCP address
    ///
    /// One register of each address is asked for, which no slave may mind; but some do, so it is asked first whether to go on.
    Modbus(Modbus),
}

#[derive(Debug, Args)]
struct Listen {
    /// The device, as in /dev/ttyUSB0
    device: PathBuf,
    /// How long to listen at each setting
    #[arg(long = "for", value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    time: Duration,
    /// Only this speed
    #[arg(long, value_name = "BAUD")]
    speed: Option<u32>,
}

#[derive(Debug, Args)]
struct Modbus {
    /// The device, or tcp://HOST:PORT
    target: String,
    /// The addresses
    #[arg(long, value_name = "FROM-TO", default_value = "1-32", value_parser = units)]
    units: RangeInclusive<u8>,
    /// How long a slave may take
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    timeout: Duration,
    /// Of a serial line
    #[arg(long, value_name = "BAUD", default_value_t = 9600)]
    speed: u32,
    /// Of a serial line
    #[arg(long, default_value = "none")]
    parity: ParityWord,
    /// Go on without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ParityWord {
    None,
    Even,
    Odd,
}

fn units(text: &str) -> Result<RangeInclusive<u8>, String> {
    let form = || "write addresses from 1 to 247, as in 1-32 or 5".to_owned();
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<u8>().map_err(|_| form());
    let (from, to) = (number(from)?, number(to)?);
    if from == 0 || to > 247 || from > to {
        return Err(form());
    }
    Ok(from..=to)
}

/// Exit code 1 where nothing was heard or nobody answers.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let json = arguments.json;
    match &arguments.command {
        None => list(&arguments.root, json),
        Some(Command::Listen(listen)) => run_listen(listen, &arguments.root, json),
        Some(Command::Modbus(modbus)) => run_modbus(modbus, json),
    }
}

#[derive(Serialize)]
struct Device {
    device: PathBuf,
    by_id: Option<PathBuf>,
    driver: Option<String>,
    usb: Option<String>,
    product: Option<String>,
    serial: Option<String>,
    config: String,
}

fn list(root: &Path, json: bool) -> Result<u8, Failure> {
    let devices: Vec<Device> = probe::serial_devices(root).into_iter().map(shown).collect();
    if json {
        say_json(&devices)?;
    } else if devices.is_empty() {
        say("no serial device is here; an adapter that is plugged in shows up at once")?;
    } else {
        for device in &devices {
            let about = [&device.product, &device.usb, &device.serial, &device.driver];
            let about: Vec<&str> = about.iter().filter_map(|part| part.as_deref()).collect();
            say(format_args!(
                "{}  {}",
                device.device.display(),
                about.join(", ")
            ))?;
            say(format_args!("    {}", device.config))?;
        }
        say("tidegate probe listen DEVICE says what comes; probe modbus DEVICE who answers")?;
    }
    Ok(if devices.is_empty() { FAILURE } else { DONE })
}

fn shown(device: SerialDevice) -> Device {
    let stable = device.by_id.as_ref().unwrap_or(&device.path);
    Device {
        config: format!("device = {}", text(&stable.display().to_string())),
        usb: device
            .usb
            .map(|(vendor, product)| format!("{vendor}:{product}")),
        device: device.path,
        by_id: device.by_id,
        driver: device.driver,
        product: device.product,
        serial: device.serial,
    }
}

/// A text of TOML.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[derive(Serialize)]
struct Heard {
    speed: u32,
    data_bits: u8,
    parity: &'static str,
    bytes: usize,
    /// 0 to 1; 0.5 and more is believed.
    score: f64,
}

#[derive(Serialize)]
struct Listened {
    device: PathBuf,
    tried: Vec<Heard>,
    /// What fits best, where something does.
    frame: Option<&'static str>,
    decode: Option<String>,
    example: Option<String>,
    config: Option<String>,
}

fn run_listen(listen: &Listen, root: &Path, json: bool) -> Result<u8, Failure> {
    let speeds: Vec<u32> = listen.speed.map_or(SPEEDS.to_vec(), |speed| vec![speed]);
    let mut tried: Vec<Heard> = Vec::new();
    let mut best: Option<(LineSettings, Guess, f64)> = None;
    'settings: for speed in speeds {
        for (data_bits, parity) in FORMATS {
            let line = LineSettings {
                speed,
                data_bits,
                parity,
                stop_bits: 1,
                flow: Flow::None,
            };
            let port = port(&listen.device, line);
            let chunks = probe::listen(&port, listen.time).map_err(anyhow::Error::msg)?;
            let score = probe::score(&chunks);
            let bytes = chunks.iter().map(|chunk| chunk.0.len()).sum();
            tried.push(Heard {
                speed,
                data_bits,
                parity: parity_word(parity),
                bytes,
                score,
            });
            let better = best.as_ref().is_none_or(|(_, _, before)| score > *before);
            if score >= BELIEVED
                && better
                && let Some(guess) = probe::guess(&chunks)
            {
                best = Some((line, guess, score));
            }
            // What is silent at one parity is at every other, and what is certain need not be heard again.
            if score >= SURE {
                break 'settings;
            }
            if bytes == 0 {
                break;
            }
        }
    }
    let devices = probe::serial_devices(root);
    let known = devices
        .into_iter()
        .find(|device| device.path == listen.device);
    let stable = known.and_then(|device| device.by_id);
    let stable = stable.unwrap_or_else(|| listen.device.clone());
    let found = best.as_ref().map(|(line, guess, _)| {
        let fragment = fragment(&stable, *line, guess);
        (guess, fragment)
    });
    let heard: usize = tried.iter().map(|heard| heard.bytes).sum();
    let listened = Listened {
        device: listen.device.clone(),
        frame: found.as_ref().map(|(guess, _)| frame_word(guess.frame)),
        decode: found
            .as_ref()
            .and_then(|(guess, _)| decode_text(guess.decode)),
        example: found
            .as_ref()
            .map(|(guess, _)| guess.example.escape_ascii().to_string()),
        config: found.as_ref().and_then(|(_, fragment)| fragment.clone()),
        tried,
    };
    if json {
        say_json(&listened)?;
    } else {
        for heard in &listened.tried {
            let Heard {
                speed,
                data_bits,
                parity,
                bytes,
                score,
            } = heard;
            say(format_args!(
                "{speed} baud, {data_bits} bits, parity {parity}: {bytes} bytes, score {score:.2}"
            ))?;
        }
        match (&listened.example, &listened.config) {
            (Some(example), Some(config)) => {
                say(format_args!(
                    "\nwhole frame: {example}\n\nto paste, with a name of your own:\n\n{config}"
                ))?;
            }
            (Some(_), None) => {
                say(
                    "\nthis is Modbus: a master talks to its slaves, and two masters on one line disturb each other",
                )?;
            }
            (None, _) if heard == 0 => {
                say(
                    "\nnothing came: listen longer with --for, look at the wires, or the instrument has to be asked (`query`)",
                )?;
            }
            (None, _) => say(
                "\nwhat came makes no sense at any of these settings: try others with --speed, or --for longer",
            )?,
        }
    }
    Ok(if found.is_some() { DONE } else { FAILURE })
}

fn port(device: &Path, line: LineSettings) -> Port {
    Port {
        device: device.to_owned(),
        line,
        exclusive: true,
        rs485: None,
    }
}

fn parity_word(parity: Parity) -> &'static str {
    match parity {
        Parity::None => "none",
        Parity::Even => "even",
        Parity::Odd => "odd",
    }
}

fn frame_word(frame: FrameGuess) -> &'static str {
    match frame {
        FrameGuess::Lines => "lines",
        FrameGuess::StxEtx => "stx-etx",
        FrameGuess::Slip => "slip",
        FrameGuess::Idle => "idle",
        FrameGuess::Modbus => "modbus",
    }
}

/// The value of `decode`; none where only a decoder of one's own can tell.
fn decode_text(decode: DecodeGuess) -> Option<String> {
    match decode {
        DecodeGuess::Json => Some("\"json\"".to_owned()),
        DecodeGuess::Text => Some("\"text\"".to_owned()),
        DecodeGuess::Csv(',') => Some("\"csv\"".to_owned()),
        DecodeGuess::Csv(separator) => Some(format!(
            "{{ as = \"csv\", separator = {} }}",
            text(&separator.to_string())
        )),
        DecodeGuess::Nmea => Some("{ module = \"nmea\" }".to_owned()),
        DecodeGuess::Unknown => None,
    }
}

/// A source to paste; none for what no serial source reads.
fn fragment(device: &Path, line: LineSettings, guess: &Guess) -> Option<String> {
    let frame = guess.frame.as_config()?;
    let decode = decode_text(guess.decode).unwrap_or_else(|| {
        // Bytes that mean nothing yet: the first one as a number, until somebody knows more.
        "{ as = \"binary\", fields = [{ name = \"byte0\", offset = 0, type = \"uint8\" }] }"
            .to_owned()
    });
    let mut lines = vec![
        "[source.serial]".to_owned(),
        "kind = \"serial\"".to_owned(),
        format!("device = {}", text(&device.display().to_string())),
        format!("speed = {}", line.speed),
    ];
    if line.data_bits != 8 {
        lines.push(format!("data-bits = {}", line.data_bits));
    }
    if line.parity != Parity::None {
        lines.push(format!("parity = {}", text(parity_word(line.parity))));
    }
    lines.push(format!("frame = {frame}"));
    lines.push(format!("decode = {decode}"));
    Some(lines.join("\n") + "\n")
}

#[derive(Serialize)]
struct Answered {
    unit: u8,
    /// `value`, `exception` or `damaged`.
    answer: &'static str,
    detail: String,
}

#[derive(Serialize)]
struct Scanned {
    target: String,
    asked: usize,
    found: Vec<Answered>,
    config: Option<String>,
}

fn run_modbus(modbus: &Modbus, json: bool) -> Result<u8, Failure> {
    let link = link(modbus)?;
    let asked = modbus.units.clone().count();
    if !modbus.yes && !agreed(modbus, asked)? {
        return Ok(FAILURE);
    }
    let line = ModbusLine {
        link,
        timeout: modbus.timeout,
        // What comes late from one address must not be taken for another's.
        quarantine: modbus.timeout,
        pause: Duration::ZERO,
        retries: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot begin")?;
    let found = runtime.block_on(scan(&line, modbus))?;
    let config = (!found.is_empty()).then(|| slaves(modbus, &found));
    let scanned = Scanned {
        target: modbus.target.clone(),
        asked,
        found,
        config,
    };
    if json {
        say_json(&scanned)?;
    } else {
        for Answered {
            unit,
            answer,
            detail,
        } in &scanned.found
        {
            say(format_args!("unit {unit}: {answer}, {detail}"))?;
        }
        match &scanned.config {
            Some(config) => say(format_args!(
                "\nto paste, with a name of your own and the registers of the manual:\n\n{config}"
            ))?,
            None => say(format_args!(
                "none of {asked} addresses answers: try another --speed or --parity, a longer --timeout, or other --units"
            ))?,
        }
    }
    Ok(if scanned.found.is_empty() {
        FAILURE
    } else {
        DONE
    })
}

fn link(modbus: &Modbus) -> anyhow::Result<Link> {
    let Some(address) = modbus.target.strip_prefix("tcp://") else {
        return Ok(Link::Serial(port(
            Path::new(&modbus.target),
            LineSettings {
                speed: modbus.speed,
                data_bits: 8,
                parity: match modbus.parity {
                    ParityWord::None => Parity::None,
                    ParityWord::Even => Parity::Even,
                    ParityWord::Odd => Parity::Odd,
                },
                stop_bits: 1,
                flow: Flow::None,
            },
        )));
    };
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "502"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Some(port) = port.parse().ok().filter(|_| !host.is_empty()) else {
        bail!("`{}` is no address: write tcp://HOST:PORT", modbus.target);
    };
    Ok(Link::Tcp {
        host: host.to_owned(),
        port,
        rtu: false,
    })
}

/// Whether somebody at the terminal says yes.
fn agreed(modbus: &Modbus, asked: usize) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked here whether to go on: say --yes");
    }
    let mut screen = io::stderr();
    write!(
        screen,
        "One read request goes to each of {asked} addresses at {}. Nothing else may talk on that line meanwhile. Go on? [y/N] ",
        modbus.target
    )?;
    screen.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

async fn scan(line: &ModbusLine, modbus: &Modbus) -> anyhow::Result<Vec<Answered>> {
    let point = Point {
        series: "probe".into(),
        address: 0,
        kind: Kind::Uint16,
        order: Order::Abcd,
        scale: 1.0,
        offset: 0.0,
        write: false,
    };
    let mut session = Session::open(line).await?;
    let mut found = Vec::new();
    for unit in modbus.units.clone() {
        let (answer, detail) = match session.read(unit, Table::Holding, &point).await {
            Ok(read) => ("value", format!("holding register 0 is {:?}", read.value)),
            Err(SessionError::Exception { reason }) => ("exception", reason.to_owned()),
            Err(error @ SessionError::Garbled { .. }) => ("damaged", error.to_string()),
            Err(SessionError::Silent { .. }) => {
                // A late answer must not be taken for the next one's.
                tokio::time::sleep(modbus.timeout).await;
                continue;
            }
            Err(SessionError::Line(error)) if matches!(line.link, Link::Tcp { .. }) => {
                // A gateway may end the connection over an address that it does not know.
                tracing::debug!(unit, error, "the connection ended");
                session = Session::open(line).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        found.push(Answered {
            unit,
            answer,
            detail,
        });
    }
    Ok(found)
}

/// A source to paste.
fn slaves(modbus: &Modbus, found: &[Answered]) -> String {
    let mut head = BTreeMap::new();
    let kind = match modbus.target.starts_with("tcp://") {
        true => {
            head.insert("url", text(&modbus.target));
            "modbus-tcp"
        }
        false => {
            head.insert("device", text(&modbus.target));
            head.insert("speed", modbus.speed.to_string());
            match modbus.parity {
                ParityWord::None => {}
                ParityWord::Even => drop(head.insert("parity", text("even"))),
                ParityWord::Odd => drop(head.insert("parity", text("odd"))),
            }
            "modbus-rtu"
        }
    };
    let mut config = format!("[source.modbus]\nkind = \"{kind}\"\n");
    for (key, value) in head {
        config.push_str(&format!("{key} = {value}\n"));
    }
    config.push_str("read = [\n");
    for Answered { unit, .. } in found {
        config.push_str(&format!(
            "  {{ unit = {unit}, table = \"holding\", registers = [{{ series = \"modbus/{unit}/0\", address = 0 }}] }},\n"
        ));
    }
    config.push_str("]\n");
    config
}
