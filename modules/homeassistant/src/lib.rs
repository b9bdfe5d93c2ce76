//! Home Assistant's MQTT discovery: entities announce on `<prefix>/<component>/[<node>/]<object>/config` which topic their state
//! comes on and what it looks like, and from then on that topic's messages are readings.
//!
//! A configuration is remembered in the decoder's state (`learnt.rs`). The series of an entity is its configuration's topic
//! without `/config`; beside it are `…/available`, and, where a configuration is new or has changed, `…/unit` and
//! `…/device-class` as texts. While an entity says that it is not there, what it sends is uncertain.
//!
//! Source of topics, names and defaults: Home Assistant's documentation of the integrations `mqtt`, `sensor.mqtt`,
//! `binary_sensor.mqtt`, `switch.mqtt`, `number.mqtt`, `select.mqtt` and `text.mqtt`.

mod config;
mod entity;
mod learnt;
mod template;

use formats::{json, shown};
use tidegate_sdk::{Decoded, Fault, Message, Messages, Quality, Rows, Value, settings};

use self::entity::{Entity, Kind};
use self::learnt::Learnt;
use self::template::{Found, number};

tidegate_sdk::decoder!(homeassistant);

/// Any bytes as messages: what the fuzz target calls, and the test with what that kept.
#[cfg(not(target_arch = "wasm32"))]
pub fn fuzz(input: &[u8]) -> bool {
    tidegate_sdk::test::DecoderHarness::new(homeassistant).fuzz(input)
}

/// Bytes of a configuration; a larger one is refused.
const CONFIG_BYTES: usize = 64 * 1024;

fn homeassistant(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let prefix = settings::text("prefix").unwrap_or_else(|| "homeassistant".to_owned());
    let ignore = settings::text("unknown-topics").as_deref() == Some("ignore");
    let mut learnt = Learnt::default();
    for message in messages.iter() {
        let mut note = None;
        out.message(message, |rows| match place(message.topic(), &prefix) {
            Place::Config { component, series } => {
                note = config(message, component, series, rows, &mut learnt)?;
                Ok(())
            }
            Place::HomeAssistant => Ok(()),
            Place::Other => state(message, ignore, rows, &mut learnt),
        });
        if let Some(note) = note {
            out.note(note);
        }
    }
    learnt.save()
}

enum Place<'t> {
    Config {
        component: &'t str,
        /// The topic without `/config`.
        series: &'t str,
    },
    /// Home Assistant's own birth and will.
    HomeAssistant,
    Other,
}

fn place<'t>(topic: &'t str, prefix: &str) -> Place<'t> {
    let below = topic
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('/'));
    let Some(below) = below else {
        return Place::Other;
    };
    if below == "status" {
        return Place::HomeAssistant;
    }
    let (Some(series), Some(path)) = (topic.strip_suffix("/config"), below.strip_suffix("/config"))
    else {
        return Place::Other;
    };
    let mut levels = path.split('/');
    let component = levels.next().unwrap_or_default();
    let ids: Vec<&str> = levels.collect();
    let possible = |id: &&str| {
        !id.is_empty()
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if (1..=2).contains(&ids.len()) && ids.iter().all(possible) {
        Place::Config { component, series }
    } else {
        Place::Other
    }
}

/// Learns an entity, or forgets one whose configuration is empty. What comes back is for the operator.
fn config(
    message: Message<'_>,
    component: &str,
    series: &str,
    rows: &mut Rows,
    learnt: &mut Learnt,
) -> Result<Option<String>, String> {
    let Some(kind) = Kind::of_component(component) else {
        return Ok(Some(format!(
            "entities of the component `{}` are not decoded",
            shown(component)
        )));
    };
    if message.payload().is_empty() {
        learnt.forget(series);
        return Ok(None);
    }
    let entity = match read(kind, series, message.payload()) {
        Ok(entity) => entity,
        Err(why) => {
            // What was known before does not hold any more.
            learnt.forget(series);
            return Err(why);
        }
    };
    // After every connection all of them come again.
    if let Some((_, before)) = learnt.find(series)
        && before.as_announced() == entity
    {
        return Ok(None);
    }
    for (name, text) in [
        ("unit", &entity.unit),
        ("device-class", &entity.device_class),
    ] {
        if !text.is_empty() {
            rows.add(
                &format!("{series}/{name}"),
                message.time(),
                text.as_str(),
                Quality::Good,
            )?;
        }
    }
    learnt.learn(entity)?;
    Ok(None)
}

fn read(kind: Kind, series: &str, payload: &[u8]) -> Result<Entity, String> {
    if payload.len() > CONFIG_BYTES {
        return Err(format!(
            "a configuration of {} bytes; {CONFIG_BYTES} are possible",
            payload.len()
        ));
    }
    Entity::from_config(kind, series, utf8(payload)?)
}

fn utf8(payload: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(payload)
        .map_err(|error| format!("byte {} is no UTF-8", error.valid_up_to()))
}

/// A message on a topic that entities have named: their state, or whether they are there.
fn state(
    message: Message<'_>,
    ignore: bool,
    rows: &mut Rows,
    learnt: &mut Learnt,
) -> Result<(), String> {
    let topic = message.topic();
    let numbers = learnt.on_topic(topic).clone();
    if numbers.is_empty() {
        return if ignore {
            Ok(())
        } else {
            Err(format!(
                "no configuration that came so far and could be used names the topic `{}`; replay it when one has, or set unknown-topics = \"ignore\"",
                shown(topic)
            ))
        };
    }
    let payload = utf8(message.payload())?;
    if payload.is_empty() {
        // So a broker's retained message is taken back.
        return Ok(());
    }
    let mut sound = false;
    for &number in &numbers {
        let Some(entity) = learnt
            .entity(number)
            .filter(|entity| entity.state_topic == topic)
        else {
            continue;
        };
        if entity.value.needs_json() && !sound {
            // A damaged payload may have its first members.
            check(payload).map_err(|why| {
                format!(
                    "it is no JSON, which the template of {} needs: {why}",
                    entity.series
                )
            })?;
            sound = true;
        }
        let found = entity.value.find(payload);
        found
            .and_then(|found| reading(entity, found, message.time(), rows))
            .map_err(|why| format!("{}: {why}", entity.series))?;
    }
    for &number in &numbers {
        if let Some(entity) = learnt.entity(number) {
            let can = entity.can_hear(topic, payload);
            can.map_err(|why| format!("{}: {why}", entity.series))?;
        }
    }
    // Last, because it changes the state.
    for number in numbers {
        let Some(entity) = learnt.entity(number) else {
            continue;
        };
        if !entity.availability.iter().any(|one| one.topic == topic) {
            continue;
        }
        if entity.hear(topic, payload)
            && let Some(available) = entity.available()
        {
            let series = format!("{}/available", entity.series);
            rows.add(&series, message.time(), available, Quality::Good)?;
        }
        learnt.changed(number);
    }
    Ok(())
}

fn check(payload: &str) -> Result<(), formats::Malformed> {
    let mut reader = json::Reader::new(payload);
    let value = reader.value()?;
    reader.skip(&value, formats::DEPTH)?;
    reader.end()
}

/// Adds what a template has found. Nothing, and `None`, which is Home Assistant's word for "unknown", are no reading.
fn reading(
    entity: &Entity,
    found: Option<Found<'_>>,
    time: i64,
    rows: &mut Rows,
) -> Result<(), String> {
    let Some(found) = found else {
        return Ok(());
    };
    let text = found.text();
    if text.is_empty() || text == "None" {
        return Ok(());
    }
    let (value, quality) = match entity.kind {
        Kind::BinarySensor | Kind::Switch => (Value::Bool(entity.truth_of(&text)?), Quality::Good),
        Kind::Select | Kind::Text => (Value::Text(&text), Quality::Good),
        Kind::Sensor | Kind::Number => match &found {
            Found::Bool(value) if !entity.numeric => (Value::Bool(*value), Quality::Good),
            Found::Float(value) => formats::float(*value),
            Found::Int(value) => (Value::Int(*value), Quality::Good),
            Found::Written(_) | Found::Text(_) | Found::Bool(_) => match number(&text) {
                Some(number) => json::reading(number),
                None if entity.numeric => {
                    return Err(format!(
                        "`{}` is no number, which the entity's values are",
                        shown(&text)
                    ));
                }
                None => (Value::Text(&text), Quality::Good),
            },
        },
    };
    let quality = match (entity.available(), quality) {
        (Some(false), Quality::Good) => Quality::Uncertain,
        (_, quality) => quality,
    };
    rows.add(&entity.series, time, value, quality)
}

#[cfg(test)]
mod tests;
