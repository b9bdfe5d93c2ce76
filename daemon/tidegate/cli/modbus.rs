//! `tidegate modbus`: single values for the engineer on site, and register maps out of spreadsheets.

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tidegate_ingest::{Decoded, Kind, Order, Point, Read, Session, Table};

use super::{DONE, FAILURE, Failure, Site, say, say_json};
use crate::config::{self, Config, ModbusSource, SourceKind};

mod import;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask slaves for values, by the names of the register map or by address
    ///
    /// A TCP device is asked beside the running gateway, where it takes a second connection. A serial line belongs to the gateway
    /// while that runs: stop it first.
    Read(ReadArguments),
    /// Write one value of the register map, and read it back
    ///
    /// Refused unless the configuration has `write = true` on that register.
    Write(WriteArguments),
    /// Turn a register map in CSV into the `read` of a Modbus source
    ///
    /// The first line names the columns, in any order: series, unit, table, address and, where wanted, type, order, bit, length,
    /// scale, offset, measure, interval, write. They mean what the keys of the configuration mean. Put what is printed into the
    /// section [source.NAME], and let `tidegate check` look at it.
    Import(import::Arguments),
}

#[derive(Debug, Args)]
pub(super) struct ReadArguments {
    /// The source, as in [source.NAME]
    source: String,
    /// Series of its register map; all of them where neither these nor an address are given
    #[arg(conflicts_with = "address")]
    series: Vec<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A value that need not be in the register map.
#[derive(Debug, Args)]
struct Place {
    /// The slave's address
    #[arg(long, value_name = "N", requires = "address")]
    unit: Option<u8>,
    /// The first address, from 0
    #[arg(long, value_name = "N", requires = "unit", value_parser = clap::value_parser!(u16))]
    address: Option<u16>,
    /// How many values, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, requires = "address",
        value_parser = clap::value_parser!(u16).range(1..=2000))]
    count: u16,
    /// Which table
    #[arg(long, default_value = "holding", requires = "address")]
    table: TableWord,
    /// A type as in the configuration; uint16, or bool of bits, where it is left out
    #[arg(long = "type", value_name = "TYPE", requires = "address")]
    kind: Option<String>,
    /// The order of bytes: ABCD, DCBA, BADC or CDAB
    #[arg(long, default_value = "ABCD", requires = "address")]
    order: OrderWord,
    /// The bit of type `bit`
    #[arg(long, value_name = "N", default_value_t = 0, requires = "address",
        value_parser = clap::value_parser!(u8).range(0..=15))]
    bit: u8,
    /// The registers of type `string`
    #[arg(long, value_name = "N", default_value_t = 1, requires = "address",
        value_parser = clap::value_parser!(u8).range(1..=125))]
    length: u8,
}

#[derive(Debug, Args)]
pub(super) struct WriteArguments {
    /// The source, as in [source.NAME]
    source: String,
    /// The series of its register map
    series: String,
    /// The value, as readings have it: with scale and offset
    #[arg(allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableWord {
    Coil,
    Discrete,
    Input,
    Holding,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum OrderWord {
    Abcd,
    Dcba,
    Badc,
    Cdab,
}

/// Exit code 1 where a value could not be read or may not be written.
pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Read(arguments) => read(arguments),
        Command::Write(arguments) => write(arguments),
        Command::Import(arguments) => import::run(arguments),
    }
}

/// A value and whose it is.
struct Asked {
    unit: u8,
    table: Table,
    point: Point,
}

#[derive(Serialize)]
struct Line {
    series: String,
    unit: u8,
    table: &'static str,
    address: u16,
    value: serde_json::Value,
    quality: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn read(arguments: &ReadArguments) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let modbus = source(&config, &arguments.source)?;
    let wanted = match arguments.place.points()? {
        Some(points) => points,
        None if arguments.series.is_empty() => mapped(modbus).collect(),
        None => {
            let series = arguments.series.iter();
            series
                .map(|series| named(modbus, series))
                .collect::<Result<_, _>>()?
        }
    };
    let lines: Vec<Line> = runtime()?.block_on(async {
        let mut session = Session::open(&modbus.line).await?;
        let mut lines = Vec::new();
        for Asked { unit, table, point } in wanted {
            let read = session.read(unit, table, &point).await;
            lines.push(line(
                unit,
                table,
                &point,
                read.map_err(|error| error.to_string()),
            ));
        }
        Ok::<_, anyhow::Error>(lines)
    })?;
    let failed = lines.iter().any(|line| line.error.is_some());
    if arguments.json {
        say_json(&lines)?;
    } else {
        lines.iter().try_for_each(show)?;
    }
    Ok(if failed { FAILURE } else { DONE })
}

fn write(arguments: &WriteArguments) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let modbus = source(&config, &arguments.source)?;
    let Asked { unit, table, point } = named(modbus, &arguments.series)?;
    if !point.write {
        return Err(anyhow::anyhow!(
            "`{}` may not be written: the configuration allows it with write = true on that register",
            arguments.series
        )
        .into());
    }
    let read = runtime()?.block_on(async {
        let mut session = Session::open(&modbus.line).await?;
        session.write(unit, table, &point, &arguments.value).await?;
        session
            .read(unit, table, &point)
            .await
            .context("it was written, and cannot be read back")
    })?;
    let line = line(unit, table, &point, Ok(read));
    if arguments.json {
        say_json(&line)?;
    } else {
        show(&line)?;
    }
    Ok(DONE)
}

impl Place {
    /// Where an address is given.
    fn points(&self) -> anyhow::Result<Option<Vec<Asked>>> {
        let (Some(unit), Some(address)) = (self.unit, self.address) else {
            return Ok(None);
        };
        let table = match self.table {
            TableWord::Coil => Table::Coil,
            TableWord::Discrete => Table::Discrete,
            TableWord::Input => Table::Input,
            TableWord::Holding => Table::Holding,
        };
        let word = self.kind.as_deref();
        let word = word.unwrap_or(if table.is_bits() { "bool" } else { "uint16" });
        let kind = config::MODBUS_TYPES.iter().find(|(name, _)| *name == word);
        let kind = match kind.map(|(_, kind)| *kind) {
            Some(Kind::Bit(_)) => Kind::Bit(self.bit),
            Some(Kind::Text { .. }) => Kind::Text {
                registers: self.length,
            },
            Some(kind) => kind,
            None => {
                let names: Vec<&str> = config::MODBUS_TYPES.iter().map(|(name, _)| *name).collect();
                bail!("`{word}` is no type; possible are {}", names.join(", "));
            }
        };
        if table.is_bits() && kind != Kind::Bool {
            bail!(
                "the table `{}` holds bits: leave --type out",
                table.as_str()
            );
        }
        let mut points = Vec::new();
        for index in 0..self.count {
            let address = u32::from(address) + u32::from(index) * u32::from(kind.registers());
            if address + u32::from(kind.registers()) > 65_536 {
                bail!("the last address is 65535");
            }
            let address = u16::try_from(address)?;
            points.push(Asked {
                unit,
                table,
                point: Point {
                    series: format!("{}/{address}", table.as_str()).into(),
                    address,
                    kind,
                    order: match self.order {
                        OrderWord::Abcd => Order::Abcd,
                        OrderWord::Dcba => Order::Dcba,
                        OrderWord::Badc => Order::Badc,
                        OrderWord::Cdab => Order::Cdab,
                    },
                    scale: 1.0,
                    offset: 0.0,
                    write: false,
                },
            });
        }
        Ok(Some(points))
    }
}

fn source<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a ModbusSource> {
    let source = config.sources.iter().find(|source| source.name == name);
    let source = source.with_context(|| format!("the configuration has no source `{name}`"))?;
    match &source.kind {
        SourceKind::Modbus(modbus) => Ok(modbus),
        SourceKind::Mqtt(_)
        | SourceKind::Serial(_)
        | SourceKind::Sysfs(_)
        | SourceKind::Driver(_) => {
            bail!(
                "source `{name}` is of kind `{}`, and not Modbus",
                source.kind.as_str()
            )
        }
    }
}

fn mapped(modbus: &ModbusSource) -> impl Iterator<Item = Asked> {
    modbus.groups.iter().flat_map(|group| {
        group.points.iter().map(|point| Asked {
            unit: group.unit,
            table: group.table,
            point: point.clone(),
        })
    })
}

fn named(modbus: &ModbusSource, series: &str) -> anyhow::Result<Asked> {
    mapped(modbus)
        .find(|asked| *asked.point.series == *series)
        .with_context(|| format!("the register map has no series `{series}`"))
}

fn line(unit: u8, table: Table, point: &Point, read: Result<Read, String>) -> Line {
    let (value, quality, error) = match read {
        Ok(read) => {
            let value = match read.value {
                Decoded::Float(value) => value.into(),
                Decoded::Int(value) => value.into(),
                Decoded::Bool(value) => value.into(),
                Decoded::Text(value) => value.into(),
            };
            (value, read.quality.as_str(), None)
        }
        Err(error) => (serde_json::Value::Null, "bad", Some(error)),
    };
    Line {
        series: point.series.to_string(),
        unit,
        table: table.as_str(),
        address: point.address,
        value,
        quality,
        error,
    }
}

fn show(line: &Line) -> Result<(), Failure> {
    let quality = if line.quality == "good" {
        ""
    } else {
        line.quality
    };
    let error = line.error.as_deref().unwrap_or_default();
    let shown = format!("{}  {}  {quality}  {error}", line.series, line.value);
    say(shown.trim_end())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}
