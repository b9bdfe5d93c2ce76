//! A configuration, as an entity announces itself.

use std::borrow::Cow;

use formats::json::{Reader, Token, Within};
use formats::{DEPTH, shown};

use crate::template::truth;

/// A configuration as it is read: what an entity can use of it. Names and abbreviations are those of Home Assistant's MQTT
/// integration, "Supported abbreviations".
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) base: Option<String>,
    pub(crate) state_topic: Option<String>,
    pub(crate) command_topic: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) payload_on: Option<String>,
    pub(crate) payload_off: Option<String>,
    pub(crate) state_on: Option<String>,
    pub(crate) state_off: Option<String>,
    pub(crate) device_class: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) state_class: Option<String>,
    pub(crate) availability_topic: Option<String>,
    pub(crate) availability_template: Option<String>,
    pub(crate) availability_mode: Option<String>,
    pub(crate) payload_available: Option<String>,
    pub(crate) payload_not_available: Option<String>,
    pub(crate) availability: Vec<Announced>,
}

/// One entry of `availability`.
#[derive(Default)]
pub(crate) struct Announced {
    pub(crate) topic: String,
    pub(crate) template: Option<String>,
    pub(crate) on: Option<String>,
    pub(crate) off: Option<String>,
}

impl Config {
    /// # Errors
    /// What is no configuration, for people.
    pub(crate) fn read(&mut self, payload: &str) -> Result<(), String> {
        let mut reader = Reader::new(payload);
        if reader.value()? != Token::Object {
            return Err("a configuration is a JSON object".to_owned());
        }
        let mut within = Within::default();
        while let Some(key) = reader.key(&mut within)? {
            let value = reader.value()?;
            let field = match &*key {
                "availability" | "avty" => {
                    self.availability = announced(&mut reader, &value)?;
                    continue;
                }
                "~" => &mut self.base,
                "state_topic" | "stat_t" => &mut self.state_topic,
                "command_topic" | "cmd_t" => &mut self.command_topic,
                "value_template" | "val_tpl" => &mut self.template,
                "payload_on" | "pl_on" => &mut self.payload_on,
                "payload_off" | "pl_off" => &mut self.payload_off,
                "state_on" | "stat_on" => &mut self.state_on,
                "state_off" | "stat_off" => &mut self.state_off,
                "device_class" | "dev_cla" => &mut self.device_class,
                "unit_of_measurement" | "unit_of_meas" => &mut self.unit,
                "state_class" | "stat_cla" => &mut self.state_class,
                "availability_topic" | "avty_t" => &mut self.availability_topic,
                "availability_template" | "avty_tpl" => &mut self.availability_template,
                "availability_mode" | "avty_mode" => &mut self.availability_mode,
                "payload_available" | "pl_avail" => &mut self.payload_available,
                "payload_not_available" | "pl_not_avail" => &mut self.payload_not_available,
                _ => {
                    reader.skip(&value, DEPTH)?;
                    continue;
                }
            };
            *field = text(&key, value)?;
        }
        Ok(reader.end()?)
    }
}

/// A list of objects, or one alone.
fn announced(reader: &mut Reader<'_>, value: &Token<'_>) -> Result<Vec<Announced>, String> {
    let mut list = Vec::new();
    match value {
        Token::Null => {}
        Token::Object => list.push(entry(reader)?),
        Token::Array => {
            let mut within = Within::default();
            while reader.element(&mut within)? {
                if reader.value()? != Token::Object {
                    return Err("`availability` has something that is no object".to_owned());
                }
                list.push(entry(reader)?);
            }
        }
        Token::Text(_) | Token::Number(_) | Token::Bool(_) => {
            return Err("`availability` is neither a list nor an object".to_owned());
        }
    }
    Ok(list)
}

fn entry(reader: &mut Reader<'_>) -> Result<Announced, String> {
    let mut entry = Announced::default();
    let mut within = Within::default();
    while let Some(key) = reader.key(&mut within)? {
        let value = reader.value()?;
        match &*key {
            "topic" | "t" => entry.topic = text(&key, value)?.unwrap_or_default(),
            "value_template" | "val_tpl" => entry.template = text(&key, value)?,
            "payload_available" | "pl_avail" => entry.on = text(&key, value)?,
            "payload_not_available" | "pl_not_avail" => entry.off = text(&key, value)?,
            _ => reader.skip(&value, DEPTH)?,
        }
    }
    Ok(entry)
}

/// What Home Assistant takes for a text: numbers and truth values too.
fn text(key: &str, value: Token<'_>) -> Result<Option<String>, String> {
    match value {
        Token::Text(text) => Ok(Some(Cow::into_owned(text))),
        Token::Number(number) => Ok(Some(number.to_owned())),
        Token::Bool(value) => Ok(Some(truth(value).to_owned())),
        Token::Null => Ok(None),
        Token::Object | Token::Array => Err(format!("`{}` is no text", shown(key))),
    }
}
