//! A payload and its metrics. Source: `sparkplug_b.proto` in Sparkplug 3.0.0, section 6.4.1.

use formats::Malformed;
use tidegate_sdk::Quality;

use crate::protobuf::{Reader, Wire};

/// What a payload says beside its metrics, which are read one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'a> {
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) seq: Option<u64>,
    pub(crate) uuid: Option<&'a str>,
    whole: Reader<'a>,
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metric<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) alias: Option<u64>,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) datatype: Option<u64>,
    pub(crate) is_null: bool,
    pub(crate) quality: Option<Quality>,
    pub(crate) value: Option<Raw<'a>>,
}

/// A value as it is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    /// `int_value` or `long_value`.
    Integer(u64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    /// Bytes, a dataset, a template, an extension.
    Other,
}

impl<'a> Payload<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let whole = Reader::new(bytes);
        let mut payload = Self {
            timestamp: None,
            seq: None,
            uuid: None,
            whole,
        };
        let mut reader = whole;
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Wire::Varint(timestamp)) => payload.timestamp = Some(timestamp),
                (3, Wire::Varint(seq)) => payload.seq = Some(seq),
                (4, Wire::Bytes(uuid)) => payload.uuid = Some(uuid.text()?),
                (1..=5, value) if !matches!((number, value), (2 | 5, Wire::Bytes(_))) => {
                    return Err(whole.wrong(
                        0,
                        "a field of the payload is of another type than Sparkplug's",
                    ));
                }
                _ => {}
            }
        }
        Ok(payload)
    }

    /// Reads the metrics, in order.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Result<Metric<'a>, Malformed>> + use<'a> {
        let mut reader = self.whole;
        std::iter::from_fn(move || {
            loop {
                match reader.field() {
                    Ok(Some((2, Wire::Bytes(metric)))) => return Some(Metric::read(metric)),
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(wrong) => return Some(Err(wrong)),
                }
            }
        })
    }
}

impl<'a> Metric<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let whole = reader;
        let mut metric = Self::default();
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Wire::Bytes(name)) => metric.name = Some(name.text()?),
                (2, Wire::Varint(alias)) => metric.alias = Some(alias),
                (3, Wire::Varint(timestamp)) => metric.timestamp = Some(timestamp),
                (4, Wire::Varint(datatype)) => metric.datatype = Some(datatype),
                (5 | 6, Wire::Varint(_)) | (8, Wire::Bytes(_)) => {}
                (7, Wire::Varint(is_null)) => metric.is_null = is_null != 0,
                (9, Wire::Bytes(properties)) => metric.quality = quality(properties)?,
                (10 | 11, Wire::Varint(value)) => metric.value = Some(Raw::Integer(value)),
                (12, Wire::Fixed32(bits)) => {
                    metric.value = Some(Raw::Float(f32::from_bits(bits).into()));
                }
                (13, Wire::Fixed64(bits)) => metric.value = Some(Raw::Float(f64::from_bits(bits))),
                (14, Wire::Varint(value)) => metric.value = Some(Raw::Bool(value != 0)),
                (15, Wire::Bytes(text)) => metric.value = Some(Raw::Text(text.text()?)),
                (16..=19, Wire::Bytes(_)) => metric.value = Some(Raw::Other),
                (1..=19, _) => {
                    return Err(whole.wrong(
                        0,
                        "a field of this metric is of another type than Sparkplug's",
                    ));
                }
                _ => {}
            }
        }
        Ok(metric)
    }
}

/// The property `Quality` (section 6.4.9): 0 bad, 192 good, 500 stale.
fn quality(mut properties: Reader<'_>) -> Result<Option<Quality>, Malformed> {
    let (mut keys, mut values) = (0_u32, 0_u32);
    let mut at = None;
    let mut codes = Vec::new();
    while let Some((number, value)) = properties.field()? {
        match (number, value) {
            (1, Wire::Bytes(key)) => {
                if key.bytes() == b"Quality" {
                    at = Some(keys);
                }
                keys += 1;
            }
            (2, Wire::Bytes(mut property)) => {
                while let Some((number, value)) = property.field()? {
                    if let (3 | 4, Wire::Varint(code)) = (number, value) {
                        codes.push((values, code));
                    }
                }
                values += 1;
            }
            _ => {}
        }
    }
    let code = codes.iter().find(|(place, _)| Some(*place) == at);
    Ok(code.map(|(_, code)| match code {
        192 => Quality::Good,
        0 | 500 => Quality::Bad,
        _ => Quality::Uncertain,
    }))
}
