//! SenML (RFC 8428) in JSON and in CBOR: a pack is an array of records, each a measurement.
//!
//! A record becomes a reading of `<topic>/<name>/<unit>`, base values resolved (section 4.6), and where it has a sum another one
//! of `…/sum`. The unit is part of the series, because the RFC's own examples give a name to several quantities that only
//! the unit tells apart. A message is a whole pack or goes to quarantine: a record that must not be used casts doubt on the
//! base values that others take from it.

mod record;

use formats::{Malformed, base64url, cbor, float, json, shown, time};
use tidegate_sdk::{Decoded, Fault, Message, Messages, Quality, Rows, Value, settings};

use self::record::{Label, Record, Scalar};

tidegate_sdk::decoder!(senml);

/// Any bytes as messages: what the fuzz target calls, and the test with what that kept.
#[cfg(not(target_arch = "wasm32"))]
pub fn fuzz(input: &[u8]) -> bool {
    tidegate_sdk::test::DecoderHarness::new(senml).fuzz(input)
}

/// The version of RFC 8428, which a pack has that says nothing.
const VERSION: u64 = 10;
/// The same with secondary units (RFC 8798), by RFC 9100: units are names here, whichever they are.
const WITH_SECONDARY_UNITS: u64 = 26;
/// From here on a time is one since the epoch; below it counts from now (section 4.5.3).
const ABSOLUTE: f64 = 268_435_456.0;

fn senml(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let naming = Naming {
        topic: settings::text("series").as_deref() != Some("name"),
        unit: settings::text("unit").as_deref() != Some("omit"),
    };
    for message in messages.iter() {
        out.message(message, |rows| {
            let mut pack = Pack::new(naming, message, rows);
            let payload = message.payload();
            match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
                None => Err("the payload is empty".to_owned()),
                // In CBOR these are strings and no array; a byte order mark is no array either.
                Some(b'[' | b'{' | b'"' | 0xEF) => from_json(payload, &mut pack),
                Some(_) => from_cbor(payload, &mut pack),
            }?;
            if pack.records == 0 {
                return Err("the pack has no record".to_owned());
            }
            Ok(())
        });
    }
    Ok(())
}

const NO_PACK: &str = "a SenML pack is an array of records";

fn from_json(payload: &[u8], pack: &mut Pack<'_, '_>) -> Result<(), String> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| format!("byte {} is no UTF-8", error.valid_up_to()))?;
    let mut reader = json::Reader::new(text);
    if reader.value()? != json::Token::Array {
        return Err(NO_PACK.to_owned());
    }
    let mut records = json::Within::default();
    while reader.element(&mut records)? {
        pack.begin();
        if reader.value()? != json::Token::Object {
            return Err(pack.wrong("it is no object"));
        }
        let mut record = Record::default();
        let mut fields = json::Within::default();
        while let Some(label) = reader.key(&mut fields)? {
            let value = reader.value()?;
            match Label::of_text(&label) {
                Some(label) => {
                    let scalar = match value {
                        json::Token::Number(number) => number.parse().ok().map(Scalar::Number),
                        json::Token::Text(text) => Some(Scalar::Text(text)),
                        json::Token::Bool(value) => Some(Scalar::Bool(value)),
                        json::Token::Object | json::Token::Array | json::Token::Null => None,
                    };
                    record.put(label, scalar).map_err(|why| pack.wrong(&why))?;
                }
                None => {
                    pack.ignore(&label)?;
                    reader.skip(&value, formats::DEPTH)?;
                }
            }
        }
        pack.take(record)?;
    }
    Ok(reader.end()?)
}

fn from_cbor(payload: &[u8], pack: &mut Pack<'_, '_>) -> Result<(), String> {
    let mut reader = cbor::Reader::new(payload);
    let mut first = reader.item()?;
    if first == cbor::Item::Tag(55_799) {
        first = reader.item()?;
    }
    let cbor::Item::Array(mut records) = first else {
        return Err(NO_PACK.to_owned());
    };
    while reader.more(&mut records)? {
        pack.begin();
        let cbor::Item::Map(mut fields) = reader.item()? else {
            return Err(pack.wrong("it is no map"));
        };
        let mut record = Record::default();
        while reader.more(&mut fields)? {
            let label = reader.item()?;
            let known = if let cbor::Item::Integer(label) = label {
                Label::of_number(label)
            } else if let cbor::Item::Text(label) = label {
                let known = Label::of_text(&label);
                if known.is_none() {
                    pack.ignore(&label)?;
                }
                known
            } else {
                return Err(pack.wrong("it has a label that is neither a number nor a text"));
            };
            let value = reader.item()?;
            match known {
                Some(label) => {
                    let scalar = scalar(value, &mut reader)?;
                    record.put(label, scalar).map_err(|why| pack.wrong(&why))?;
                }
                None => reader.skip(&value, formats::DEPTH)?,
            }
        }
        pack.take(record)?;
    }
    Ok(reader.end()?)
}

/// A value that a field can have; a decimal fraction is a number.
#[expect(clippy::cast_precision_loss, reason = "SenML's numbers are doubles")]
fn scalar<'a>(
    item: cbor::Item<'a>,
    reader: &mut cbor::Reader<'a>,
) -> Result<Option<Scalar<'a>>, Malformed> {
    use cbor::Item;
    Ok(match item {
        Item::Integer(value) => Some(Scalar::Number(value as f64)),
        Item::Float(value) => Some(Scalar::Number(value)),
        Item::Text(text) => Some(Scalar::Text(text)),
        Item::Bytes(bytes) => Some(Scalar::Bytes(base64url::encode(&bytes))),
        Item::Bool(value) => Some(Scalar::Bool(value)),
        Item::Tag(4) => Some(Scalar::Number(reader.fraction(cbor::Base::Ten)?)),
        Item::Tag(_)
        | Item::Map(_)
        | Item::Array(_)
        | Item::Simple(_)
        | Item::Null
        | Item::Undefined => None,
    })
}

/// What series are named after.
#[derive(Clone, Copy)]
struct Naming {
    topic: bool,
    unit: bool,
}

/// A pack that is being read: the base values that are in force, and where its readings go.
struct Pack<'a, 'r> {
    naming: Naming,
    message: Message<'a>,
    rows: &'r mut Rows,
    /// Records so far.
    records: u32,
    version: u64,
    name: String,
    time: f64,
    unit: Option<String>,
    value: f64,
    sum: Option<f64>,
    /// The series at hand; one piece of memory for all of them.
    series: String,
}

impl<'a, 'r> Pack<'a, 'r> {
    fn new(naming: Naming, message: Message<'a>, rows: &'r mut Rows) -> Self {
        Self {
            naming,
            message,
            rows,
            records: 0,
            version: VERSION,
            name: String::new(),
            time: 0.0,
            unit: None,
            value: 0.0,
            sum: None,
            series: String::new(),
        }
    }

    fn begin(&mut self) {
        self.records += 1;
    }

    /// A reason that is about the present record; they are counted from 1 (section 9).
    fn wrong(&self, why: &str) -> String {
        format!("record {}: {why}", self.records)
    }

    /// Fields that are not known are ignored but for those that say that they must not be (section 4.4).
    fn ignore(&self, label: &str) -> Result<(), String> {
        if label.ends_with('_') {
            let label = shown(label);
            return Err(self.wrong(&format!(
                "the field `{label}` must be understood, and this decoder does not know it"
            )));
        }
        Ok(())
    }

    fn take(&mut self, record: Record<'_>) -> Result<(), String> {
        self.resolve(record).map_err(|why| self.wrong(&why))
    }

    fn resolve(&mut self, record: Record<'_>) -> Result<(), String> {
        self.base(&record)?;
        if record.is_base_only() {
            return Ok(());
        }
        let sum = match (self.sum, record.sum) {
            (None, None) => None,
            (base, own) => Some(base.unwrap_or_default() + own.unwrap_or_default()),
        };
        let value = record.value()?;
        if value.is_none() && sum.is_none() {
            return Err("it has neither a value nor a sum".to_owned());
        }
        let at = self.time_of(record.time.unwrap_or_default())?;
        self.series_of(
            record.name.as_deref().unwrap_or_default(),
            record.unit.as_deref(),
        )?;
        if let Some(value) = value {
            let (value, quality) = match value {
                Scalar::Number(value) => float(self.value + value),
                Scalar::Bool(value) => (Value::Bool(*value), Quality::Good),
                Scalar::Text(text) => (Value::Text(text), Quality::Good),
                Scalar::Bytes(text) => (Value::Text(text), Quality::Good),
            };
            self.rows.add(&self.series, at, value, quality)?;
        }
        if let Some(sum) = sum {
            self.series.push_str("/sum");
            let (sum, quality) = float(sum);
            self.rows.add(&self.series, at, sum, quality)?;
        }
        Ok(())
    }

    /// Takes over what the record says for itself and those behind it.
    fn base(&mut self, record: &Record<'_>) -> Result<(), String> {
        if let Some(version) = record.version {
            if self.records > 1 && version != self.version {
                return Err(format!(
                    "it is of version {version} in a pack of version {}",
                    self.version
                ));
            }
            if version > VERSION && version != WITH_SECONDARY_UNITS {
                return Err(format!(
                    "it is of version {version}; {VERSION} and {WITH_SECONDARY_UNITS} are known"
                ));
            }
            self.version = version;
        }
        if let Some(name) = &record.base_name {
            self.name.clear();
            self.name.push_str(name);
        }
        if let Some(unit) = &record.base_unit {
            self.unit = Some(unit.clone().into_owned());
        }
        self.time = record.base_time.unwrap_or(self.time);
        self.value = record.base_value.unwrap_or(self.value);
        self.sum = record.base_sum.or(self.sum);
        Ok(())
    }

    /// Section 4.5.3, with the arrival for now.
    fn time_of(&self, own: f64) -> Result<i64, String> {
        let seconds = self.time + own;
        let nanos = time::from_float(seconds, time::SECOND);
        let time = if seconds < ABSOLUTE {
            nanos.and_then(|offset| self.message.time().checked_add(offset))
        } else {
            nanos
        };
        time.ok_or_else(|| {
            format!(
                "its time is {}, which is none from 1677 to 2262",
                tidegate_sdk::Number(seconds)
            )
        })
    }

    /// Sections 4.5.1 and 4.5.2.
    fn series_of(&mut self, name: &str, unit: Option<&str>) -> Result<(), String> {
        self.series.clear();
        if self.naming.topic {
            self.series.push_str(self.message.topic());
            self.series.push('/');
        }
        let from = self.series.len();
        self.series.push_str(&self.name);
        self.series.push_str(name);
        let name = &self.series[from..];
        if name.is_empty() {
            return Err("it has neither a name nor a base name".to_owned());
        }
        let possible = |byte: u8| byte.is_ascii_alphanumeric() || b"-:./_".contains(&byte);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric())
            || !name.bytes().all(possible)
        {
            return Err(format!(
                "`{}` is no name: letters and digits of ASCII and `-:./_` are possible, the first of them a letter or digit",
                shown(name)
            ));
        }
        if !self.naming.unit {
            return Ok(());
        }
        let unit = unit.or(self.unit.as_deref()).unwrap_or_default();
        if !unit.is_empty() {
            self.series.push('/');
            self.series
                .extend(unit.chars().map(|c| if c == '/' { '_' } else { c }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
