//! `tidegate history`: the readings that are kept on the device, beside a running gateway or without one.

use std::io::{BufWriter, ErrorKind, Write};

use clap::Args;
use serde::Serialize;
use tidegate_domain::item::JsonValue;
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Batch, Value};
use tidegate_store::{HistoryBlock, HistoryRange, Measures, Reader};

use super::{DONE, FAILURE, Failure, Site};
use crate::{clock, gateway, time};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// Series by name: `*` stands within one level (`plant/*/temp`), `**` crosses levels (repeatable)
    #[arg(long, value_name = "GLOB", required = true)]
    series: Vec<String>,
    /// Readings of this pipeline alone
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// From this time of a reading on: 2026-11-27T15:04:05Z, 2026-11-27 (UTC), now, or -2h for two hours ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Up to this time, not included
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Stop after so many readings
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print CSV with a line of names
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Prints in the order of commits, which within a series is the order of arrival. Exit code 1 when a block is damaged or
/// the store cannot be read.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let series = SeriesFilter::new(&arguments.series)?;
    let now = clock::wall();
    let bound = |text: &Option<String>, default| match text {
        Some(text) => time::read(text, now).map_err(|why| anyhow::anyhow!(why)),
        None => Ok(default),
    };
    let range = HistoryRange {
        pipeline: arguments.pipeline.clone(),
        from: bound(&arguments.from, i64::MIN)?,
        to: bound(&arguments.to, i64::MAX)?,
    };
    let reader = Reader::open(&crate::wiring::database(&config), &[])?;
    let measures = gateway::measures(&config)?;
    let format = match (arguments.json, arguments.csv) {
        (true, _) => Format::Json,
        (_, true) => Format::Csv,
        (false, false) => Format::Text,
    };
    let printer = Printer {
        out: BufWriter::new(std::io::stdout().lock()),
        format,
        range: &range,
        series: &series,
        measures: &measures,
        left: arguments.limit.unwrap_or(u64::MAX),
    };
    match print(printer, &reader) {
        // Whoever read it has seen enough.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(DONE),
        Err(Error::Output(error)) => Err(error.into()),
        Err(Error::Store(error)) => Err(error.into()),
        Ok(damaged) => Ok(if damaged == 0 { DONE } else { FAILURE }),
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Output(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] tidegate_store::ReadError),
}

/// Prints step by step and returns the number of damaged blocks.
fn print(mut printer: Printer<'_, impl Write>, reader: &Reader) -> Result<u64, Error> {
    let mut damaged = 0;
    let mut first = 0;
    printer.head()?;
    loop {
        let step = reader.history(printer.range, first)?;
        for block in &step.blocks {
            match &block.readings {
                Ok(batch) => printer.block(block, batch)?,
                Err(why) => {
                    damaged += 1;
                    // Beside the readings, so that what is printed stays whole.
                    printer.out.flush()?;
                    writeln!(
                        std::io::stderr().lock(),
                        "tidegate: block {} of pipeline {} is damaged and left out: {why}",
                        block.id,
                        block.pipeline
                    )?;
                }
            }
            if printer.left == 0 {
                printer.out.flush()?;
                return Ok(damaged);
            }
        }
        match step.next {
            Some(next) => first = next,
            None => break,
        }
    }
    printer.out.flush()?;
    Ok(damaged)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Text,
}

struct Printer<'a, W: Write> {
    out: W,
    format: Format,
    range: &'a HistoryRange,
    series: &'a SeriesFilter,
    measures: &'a Measures,
    left: u64,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    arrival: Option<&'a str>,
    pipeline: &'a str,
    series: &'a str,
    value: serde_json::Value,
    quality: &'static str,
    measure: Option<&'a str>,
    generation: Option<&'a str>,
}

impl<W: Write> Printer<'_, W> {
    fn head(&mut self) -> std::io::Result<()> {
        match self.format {
            Format::Csv => writeln!(
                self.out,
                "time,arrival,pipeline,series,value,quality,measure,generation"
            ),
            Format::Json | Format::Text => Ok(()),
        }
    }

    fn block(&mut self, block: &HistoryBlock, batch: &Batch) -> std::io::Result<()> {
        let wanted: Vec<bool> = batch
            .names
            .iter()
            .map(|name| self.series.matches(name))
            .collect();
        let measures: Vec<Option<&str>> = batch
            .names
            .iter()
            .map(|name| self.measures.of(name))
            .collect();
        let arrival = block.arrival.map(time::show);
        for row in 0..batch.len() {
            let name = batch.series[row] as usize;
            let at = batch.time[row];
            if !wanted[name] || at < self.range.from || at >= self.range.to {
                continue;
            }
            if self.left == 0 {
                return Ok(());
            }
            self.left -= 1;
            let line = Line {
                time: time::show(at),
                arrival: arrival.as_deref(),
                pipeline: &block.pipeline,
                series: batch.name(row),
                value: json_value(batch.value(row)),
                quality: batch.quality(row).as_str(),
                measure: measures[name],
                generation: block.generation.as_deref(),
            };
            self.line(&line, batch.value(row))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>, value: Value<'_>) -> std::io::Result<()> {
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut self.out, line)?;
                writeln!(self.out)
            }
            Format::Csv => {
                let fields = [
                    line.time.as_str(),
                    line.arrival.unwrap_or_default(),
                    line.pipeline,
                    line.series,
                    &plain(value),
                    line.quality,
                    line.measure.unwrap_or_default(),
                    line.generation.unwrap_or_default(),
                ];
                let fields = fields.map(csv_field);
                writeln!(self.out, "{}", fields.join(","))
            }
            Format::Text => writeln!(
                self.out,
                "{}  {} = {}{}{}  ({}{})",
                line.time,
                line.series,
                plain(value),
                if line.measure.is_some() { " " } else { "" },
                line.measure.unwrap_or_default(),
                line.pipeline,
                if line.quality == "good" {
                    String::new()
                } else {
                    format!(", {}", line.quality)
                },
            ),
        }
    }
}

/// A value as JSON: 64-bit integers whole, `null` where it is no finite number.
pub(super) fn json_value(value: Value<'_>) -> serde_json::Value {
    match JsonValue::from(value) {
        JsonValue::Float(value) => value.into(),
        JsonValue::Int(value) => value.into(),
        JsonValue::Bool(value) => value.into(),
        JsonValue::Text(text) => text.into(),
        JsonValue::Null(()) => serde_json::Value::Null,
    }
}

/// A value as text. Numbers are as in JSON; one that is not finite is named.
fn plain(value: Value<'_>) -> String {
    match value {
        Value::Float(value) if !value.is_finite() => value.to_string(),
        Value::Text(text) => text.to_owned(),
        Value::Float(_) | Value::Int(_) | Value::Bool(_) => json_value(value).to_string(),
    }
}

/// A field as in RFC 4180: quoted where it could be taken for something else.
fn csv_field(field: &str) -> String {
    let plain =
        !field.contains(['"', ',', '\r', '\n']) && !field.starts_with(' ') && !field.ends_with(' ');
    if plain {
        return field.to_owned();
    }
    format!("\"{}\"", field.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_quoted_where_it_must_be() {
        let check = |field: &str, expect: &str| assert_eq!(csv_field(field), expect);
        check("plant/line1/temp", "plant/line1/temp");
        check("", "");
        check("a,b", "\"a,b\"");
        check("say \"hi\"", "\"say \"\"hi\"\"\"");
        check("two\nlines", "\"two\nlines\"");
        check(" padded", "\" padded\"");
        check("°C", "°C");
    }

    #[test]
    fn values_are_whole() {
        let check = |value: Value<'_>, json: &str, text: &str| {
            assert_eq!(json_value(value).to_string(), json);
            assert_eq!(plain(value), text);
        };
        check(
            Value::Int(i64::MIN),
            "-9223372036854775808",
            "-9223372036854775808",
        );
        check(
            Value::Int(9_007_199_254_740_993),
            "9007199254740993",
            "9007199254740993",
        );
        check(Value::Float(21.0), "21.0", "21.0");
        check(Value::Float(1e300), "1e+300", "1e+300");
        check(Value::Float(f64::NAN), "null", "NaN");
        check(Value::Float(f64::NEG_INFINITY), "null", "-inf");
        check(Value::Bool(true), "true", "true");
        check(Value::Text("on, off"), "\"on, off\"", "on, off");
    }
}
