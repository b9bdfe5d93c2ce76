//! One record: its fields, as both representations have them.

use std::borrow::Cow;

use formats::base64url;

/// A field of RFC 8428, table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    BaseName,
    BaseTime,
    BaseUnit,
    BaseValue,
    BaseSum,
    Version,
    Name,
    Unit,
    Value,
    StringValue,
    BooleanValue,
    DataValue,
    Sum,
    Time,
    UpdateTime,
}

/// With the labels of JSON and of CBOR.
const LABELS: [(Label, &str, i128); 15] = [
    (Label::BaseName, "bn", -2),
    (Label::BaseTime, "bt", -3),
    (Label::BaseUnit, "bu", -4),
    (Label::BaseValue, "bv", -5),
    (Label::BaseSum, "bs", -6),
    (Label::Version, "bver", -1),
    (Label::Name, "n", 0),
    (Label::Unit, "u", 1),
    (Label::Value, "v", 2),
    (Label::StringValue, "vs", 3),
    (Label::BooleanValue, "vb", 4),
    (Label::DataValue, "vd", 8),
    (Label::Sum, "s", 5),
    (Label::Time, "t", 6),
    (Label::UpdateTime, "ut", 7),
];

impl Label {
    pub(crate) fn of_text(label: &str) -> Option<Self> {
        let found = LABELS.iter().find(|(_, text, _)| *text == label);
        found.map(|(label, ..)| *label)
    }

    pub(crate) fn of_number(label: i128) -> Option<Self> {
        let found = LABELS.iter().find(|(.., number)| *number == label);
        found.map(|(label, ..)| *label)
    }

    fn text(self) -> &'static str {
        let found = LABELS.iter().find(|(label, ..)| *label == self);
        found.map_or("", |(_, text, _)| text)
    }
}

/// What a field can hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Number(f64),
    Text(Cow<'a, str>),
    Bool(bool),
    /// As base64url.
    Bytes(String),
}

/// The fields of one record.
#[derive(Debug, Default)]
pub(crate) struct Record<'a> {
    pub(crate) base_name: Option<Cow<'a, str>>,
    pub(crate) base_time: Option<f64>,
    pub(crate) base_unit: Option<Cow<'a, str>>,
    pub(crate) base_value: Option<f64>,
    pub(crate) base_sum: Option<f64>,
    pub(crate) version: Option<u64>,
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) unit: Option<Cow<'a, str>>,
    pub(crate) sum: Option<f64>,
    pub(crate) time: Option<f64>,
    values: [Option<Scalar<'a>>; 4],
    update_time: Option<f64>,
}

impl<'a> Record<'a> {
    /// Takes a field; `scalar` is `None` where its value is of a kind that no field has.
    ///
    /// # Errors
    /// A value of another kind than the field's, and a field that is there twice.
    pub(crate) fn put(&mut self, label: Label, scalar: Option<Scalar<'a>>) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("`{}` is {what}", label.text()));
        let number = |scalar| match scalar {
            Some(Scalar::Number(number)) => Some(number),
            _ => None,
        };
        let text = |scalar| match scalar {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        };
        let there = match label {
            Label::BaseTime => put(&mut self.base_time, number(scalar)),
            Label::BaseValue => put(&mut self.base_value, number(scalar)),
            Label::BaseSum => put(&mut self.base_sum, number(scalar)),
            Label::Sum => put(&mut self.sum, number(scalar)),
            Label::Time => put(&mut self.time, number(scalar)),
            Label::UpdateTime => put(&mut self.update_time, number(scalar)),
            Label::BaseName => put(&mut self.base_name, text(scalar)),
            Label::BaseUnit => put(&mut self.base_unit, text(scalar)),
            Label::Name => put(&mut self.name, text(scalar)),
            Label::Unit => put(&mut self.unit, text(scalar)),
            Label::Version => put(&mut self.version, number(scalar).and_then(version)),
            Label::Value | Label::StringValue | Label::BooleanValue | Label::DataValue => {
                let (place, fitting) = match (label, scalar) {
                    (Label::Value, Some(value @ Scalar::Number(_))) => (0, Some(value)),
                    (Label::StringValue, Some(value @ Scalar::Text(_))) => (1, Some(value)),
                    (Label::BooleanValue, Some(value @ Scalar::Bool(_))) => (2, Some(value)),
                    (Label::DataValue, Some(value @ Scalar::Bytes(_))) => (3, Some(value)),
                    (Label::DataValue, Some(Scalar::Text(text))) if base64url::is_valid(&text) => {
                        (3, Some(Scalar::Text(text)))
                    }
                    _ => (0, None),
                };
                put(&mut self.values[place], fitting)
            }
        };
        match there {
            Put::Done => Ok(()),
            Put::Twice => wrong("there twice"),
            Put::OfAnotherKind => wrong("of another kind than RFC 8428 says"),
        }
    }

    /// The value, of which one is possible.
    ///
    /// # Errors
    /// More than one.
    pub(crate) fn value(&self) -> Result<Option<&Scalar<'a>>, String> {
        let mut values = self.values.iter().flatten();
        let first = values.next();
        if values.next().is_some() {
            return Err("it has more than one value".to_owned());
        }
        Ok(first)
    }

    /// True where it has fields for those behind it alone (an example of section 5.1.7).
    pub(crate) fn is_base_only(&self) -> bool {
        let texts = [&self.name, &self.unit];
        let numbers = [self.sum, self.time, self.update_time];
        texts.iter().all(|text| text.is_none())
            && numbers.iter().all(Option::is_none)
            && self.values.iter().all(Option::is_none)
    }
}

enum Put {
    Done,
    Twice,
    OfAnotherKind,
}

fn put<T>(field: &mut Option<T>, value: Option<T>) -> Put {
    match (&field, value) {
        (_, None) => Put::OfAnotherKind,
        (Some(_), Some(_)) => Put::Twice,
        (None, value) => {
            *field = value;
            Put::Done
        }
    }
}

/// A version is a positive whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is whole and within the bounds"
)]
fn version(number: f64) -> Option<u64> {
    let possible = (1.0..=1e9).contains(&number) && number.fract() == 0.0;
    possible.then_some(number as u64)
}
