//! `tidegate modbus import`: a register map out of a spreadsheet.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use csv_core::{ReadRecordResult, ReaderBuilder};

use super::{DONE, Failure, say};
use crate::config;

/// Bytes of a file. A map of 10,000 values is a tenth of it.
const FILE_BYTES: u64 = 16 << 20;
const COLUMNS: [&str; 13] = [
    "series", "unit", "table", "address", "type", "order", "bit", "length", "scale", "offset",
    "measure", "interval", "write",
];
const TABLES: [&str; 4] = ["coil", "discrete", "input", "holding"];
const ORDERS: [&str; 4] = ["ABCD", "DCBA", "BADC", "CDAB"];

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The CSV file, with the names of its columns in the first line
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// What stands between fields; `;` where the first line has one, else `,`
    #[arg(long, value_name = "CHAR")]
    separator: Option<char>,
    /// The address that the first register has in the file: 0, or 1 where it counts from 1
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    first_address: u8,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let file = &arguments.file;
    let read = || -> anyhow::Result<String> {
        let length = std::fs::metadata(file)?.len();
        if length > FILE_BYTES {
            bail!("it has {length} bytes; {FILE_BYTES} are read at most");
        }
        let text = String::from_utf8(std::fs::read(file)?)
            .context("it is no UTF-8: save it as CSV UTF-8")?;
        let separator = match arguments.separator {
            Some(separator) => {
                u8::try_from(separator).context("the separator is one ASCII character")?
            }
            None if text.lines().next().is_some_and(|line| line.contains(';')) => b';',
            None => b',',
        };
        convert(&text, separator, arguments.first_address)
    };
    let toml = read().with_context(|| file.display().to_string())?;
    say(toml.trim_end())?;
    Ok(DONE)
}

/// Values of one slave and table with one interval.
struct Group {
    unit: String,
    table: String,
    interval: String,
    registers: Vec<String>,
}

/// The TOML of a CSV text. Values that have no form are refused with their line; what they mean, `tidegate check` says.
fn convert(text: &str, separator: u8, first_address: u8) -> anyhow::Result<String> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut records = records(text, separator).into_iter();
    let (_, header) = records.next().context("it is empty")?;
    let mut columns = Vec::new();
    for name in header {
        let name = name.trim().to_ascii_lowercase();
        let Some(column) = COLUMNS.iter().find(|column| **column == name) else {
            bail!(
                "line 1: `{name}` is no column; possible are {}",
                COLUMNS.join(", ")
            );
        };
        if columns.contains(column) {
            bail!("line 1: the column `{name}` is there twice");
        }
        columns.push(*column);
    }
    for needed in ["series", "unit", "table", "address"] {
        if !columns.contains(&needed) {
            bail!("line 1: the column `{needed}` is missing");
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for (line, record) in records {
        if record.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        if record.len() != columns.len() {
            bail!(
                "line {line}: it has {} fields where line 1 has {}",
                record.len(),
                columns.len()
            );
        }
        let field = |name: &str| {
            let at = columns.iter().position(|column| *column == name)?;
            record
                .get(at)
                .map(|field| field.trim())
                .filter(|field| !field.is_empty())
        };
        let value = |name| value(name, field(name)).with_context(|| format!("line {line}"));
        let needed = |name| value(name)?.with_context(|| format!("line {line}: `{name}` is empty"));
        let (unit, table) = (needed("unit")?, needed("table")?);
        let interval = value("interval")?.unwrap_or_else(|| "\"1s\"".to_owned());
        let mut register = format!(
            "{{ series = {}, address = {}",
            needed("series")?,
            needed("address")?
        );
        for name in [
            "type", "order", "bit", "length", "scale", "offset", "measure", "write",
        ] {
            if let Some(value) = value(name)? {
                write!(register, ", {name} = {value}")?;
            }
        }
        register.push_str(" }");
        let known = groups.iter_mut().find(|group| {
            (&group.unit, &group.table, &group.interval) == (&unit, &table, &interval)
        });
        match known {
            Some(group) => group.registers.push(register),
            None => groups.push(Group {
                unit,
                table,
                interval,
                registers: vec![register],
            }),
        }
    }
    if groups.is_empty() {
        bail!("it has no values");
    }
    let base = if first_address == 1 {
        ", first-address = 1"
    } else {
        ""
    };
    let mut toml = "read = [\n".to_owned();
    for group in groups {
        let (unit, table, interval) = (group.unit, group.table, group.interval);
        writeln!(
            toml,
            "  {{ unit = {unit}, table = {table}, interval = {interval}{base}, registers = ["
        )?;
        for register in group.registers {
            writeln!(toml, "      {register},")?;
        }
        toml.push_str("  ] },\n");
    }
    toml.push_str("]\n");
    Ok(toml)
}

/// A field as TOML has it.
fn value(name: &str, field: Option<&str>) -> anyhow::Result<Option<String>> {
    let Some(field) = field else {
        return Ok(None);
    };
    let one_of = |words: &[&str], field: String| {
        if words.contains(&field.as_str()) {
            return quoted(&field);
        }
        bail!("`{field}` is no {name}; possible are {}", words.join(", "))
    };
    let value = match name {
        "unit" | "address" | "bit" | "length" => {
            let number = match field.strip_prefix("0x").or(field.strip_prefix("0X")) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => field.parse(),
            };
            number
                .with_context(|| format!("`{field}` is no {name}: write a whole number"))?
                .to_string()
        }
        "scale" | "offset" => {
            // A comma where people write one.
            let text = field.replace(',', ".");
            let number: f64 = text
                .parse()
                .with_context(|| format!("`{field}` is no {name}: write a number"))?;
            format!("{number:?}")
        }
        "write" => match field.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => "true".to_owned(),
            "false" | "no" | "0" => "false".to_owned(),
            _ => bail!("`{field}` is no {name}: write true or false"),
        },
        "table" => one_of(&TABLES, field.to_ascii_lowercase())?,
        "order" => one_of(&ORDERS, field.to_ascii_uppercase())?,
        "type" => {
            let words: Vec<&str> = config::MODBUS_TYPES.iter().map(|(name, _)| *name).collect();
            one_of(&words, field.to_ascii_lowercase())?
        }
        _ => quoted(field)?,
    };
    Ok(Some(value))
}

/// A string of JSON is one of TOML.
fn quoted(text: &str) -> anyhow::Result<String> {
    if text.contains(char::is_control) {
        bail!("`{}` has a control character", text.escape_debug());
    }
    Ok(serde_json::to_string(text)?)
}

/// The records and the lines in which they begin.
fn records(text: &str, separator: u8) -> Vec<(u64, Vec<String>)> {
    // A last line without an end would be counted as the one before it.
    let text = format!("{text}\n");
    let mut reader = ReaderBuilder::new().delimiter(separator).build();
    let mut input = text.as_bytes();
    let (mut output, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 1]);
    let mut found = Vec::new();
    loop {
        let (result, read, _, fields) = reader.read_record(input, &mut output, &mut ends);
        input = input.get(read..).unwrap_or_default();
        match result {
            // The rest is empty input, with which the last record ends.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::Record => {
                let mut begin = 0;
                let mut record = Vec::new();
                for end in ends.get(..fields).unwrap_or_default() {
                    let field = output.get(begin..*end).unwrap_or_default();
                    record.push(String::from_utf8_lossy(field).into_owned());
                    begin = *end;
                }
                found.push((reader.line().saturating_sub(1).max(1), record));
            }
            // Both are as long as the whole text.
            ReadRecordResult::OutputFull
            | ReadRecordResult::OutputEndsFull
            | ReadRecordResult::End => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::convert;

    #[test]
    fn a_map_becomes_toml() {
        let csv = "Series;unit;table;address;type;order;scale;measure;interval\n\
                   meter/\"1\";1;holding;0x10;FLOAT32;cdab;;V;1s\n\
                   \n\
                   meter/energy;1;Holding;18;uint32;;0,01;kWh;\n\
                   meter/on;2;coil;3;;;;;10s\n";
        let toml = convert(csv, b';', 1).unwrap();
        assert_eq!(
            toml,
            "read = [\n  \
             { unit = 1, table = \"holding\", interval = \"1s\", first-address = 1, registers = [\n      \
             { series = \"meter/1\", address = 16, type = \"float32\", order = \"CDAB\", measure = \"V\" },\n      \
             { series = \"meter/energy\", address = 18, type = \"uint32\", scale = 0.01, measure = \"kWh\" },\n  ] },\n  \
             { unit = 2, table = \"coil\", interval = \"10s\", first-address = 1, registers = [\n      \
             { series = \"meter/on\", address = 3 },\n  ] },\n]\n"
                .replace("meter/1\"", "meter/\\\"1\\\"\"")
        );
    }

    #[test]
    fn what_is_no_map() {
        let check = |csv: &str, expect: &str| {
            let error = format!("{:#}", convert(csv, b',', 0).unwrap_err());
            assert!(error.contains(expect), "{error}");
        };
        check("", "it is empty");
        check("series,unit,table\n", "the column `address` is missing");
        check(
            "series,unit,table,address,colour\n",
            "`colour` is no column; possible are series",
        );
        check("series,unit,table,address\n", "it has no values");
        let head = "series,unit,table,address,type\n";
        check(
            &format!("{head}a,1,holding\n"),
            "line 2: it has 3 fields where line 1 has 5",
        );
        check(
            &format!("{head}a,1,holding,0,\nb,x,holding,0,\n"),
            "line 3: `x` is no unit",
        );
        check(
            &format!("{head}a,1,register,0,\n"),
            "line 2: `register` is no table; possible are coil",
        );
        check(
            &format!("{head}a,1,holding,0,real\n"),
            "line 2: `real` is no type",
        );
        check(
            &format!("{head}a,1,holding,,\n"),
            "line 2: `address` is empty",
        );
    }
}
