//! An entity: what its configuration says, and how it is kept between messages.

use formats::shown;
use tidegate_sdk::SERIES_NAME_BYTES;

use crate::config::{Announced, Config};
use crate::template::{Template, truth};

/// What the entities of a component are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A number where it has a unit or a state class, else whatever comes.
    Sensor,
    BinarySensor,
    Switch,
    Number,
    Select,
    Text,
}

const KINDS: [(&str, Kind); 6] = [
    ("sensor", Kind::Sensor),
    ("binary_sensor", Kind::BinarySensor),
    ("switch", Kind::Switch),
    ("number", Kind::Number),
    ("select", Kind::Select),
    ("text", Kind::Text),
];

impl Kind {
    pub(crate) fn of_component(component: &str) -> Option<Self> {
        let found = KINDS.iter().find(|(name, _)| *name == component);
        found.map(|(_, kind)| *kind)
    }

    fn component(self) -> &'static str {
        let found = KINDS.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }
}

/// Which of several availability topics count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    All,
    Any,
    #[default]
    Latest,
}

const MODES: [(&str, Mode); 3] = [
    ("all", Mode::All),
    ("any", Mode::Any),
    ("latest", Mode::Latest),
];

/// One topic that says whether an entity is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Availability {
    pub(crate) topic: String,
    template: String,
    on: String,
    off: String,
    /// What it said last.
    pub(crate) last: Option<bool>,
}

impl Availability {
    /// What a payload says; `None` where its template finds nothing.
    fn said(&self, payload: &str) -> Result<Option<bool>, String> {
        match template_of(&self.template)?.find(payload)? {
            Some(found) => one_of(&found.text(), &self.on, &self.off).map(Some),
            None => Ok(None),
        }
    }
}

/// An entity that was announced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entity {
    pub(crate) kind: Kind,
    /// Its readings': the configuration's topic without `/config`.
    pub(crate) series: String,
    pub(crate) state_topic: String,
    /// Messages on it are for the entity.
    pub(crate) command_topic: String,
    template: String,
    /// The same, understood.
    pub(crate) value: Template,
    on: String,
    off: String,
    pub(crate) unit: String,
    pub(crate) device_class: String,
    /// Its values are numbers, and others are an error.
    pub(crate) numeric: bool,
    mode: Mode,
    /// What the latest of all availability topics said.
    latest: Option<bool>,
    pub(crate) availability: Vec<Availability>,
}

/// Bytes of a topic; the state's keys are made of them.
const TOPIC_BYTES: usize = 512;
/// Bytes of another text of a configuration that is kept.
const TEXT_BYTES: usize = 512;
/// Topics that say whether an entity is there.
const AVAILABILITY_TOPICS: usize = 8;
/// The form in which entities are kept.
const FORM: &str = "1";
/// Between two fields; neither topics nor what is kept of configurations has it.
const SEPARATOR: char = '\0';

impl Entity {
    /// Reads a configuration. `series` is its topic without `/config`.
    ///
    /// # Errors
    /// What it cannot be decoded by, for people.
    pub(crate) fn from_config(kind: Kind, series: &str, payload: &str) -> Result<Self, String> {
        let mut config = Config::default();
        config.read(payload)?;
        let base = config.base.take().unwrap_or_default();
        let topic = |topic: Option<String>| based(topic.unwrap_or_default(), &base);
        let state_topic = topic(config.state_topic.take());
        if state_topic.is_empty() {
            return Err(
                "it has no `state_topic`, and without one there is nothing to decode".to_owned(),
            );
        }
        let (on, off) = (config.payload_on.take(), config.payload_off.take());
        let on = on.unwrap_or_else(|| "ON".to_owned());
        let off = off.unwrap_or_else(|| "OFF".to_owned());
        let (on, off) = match kind {
            Kind::Switch => (
                config.state_on.take().unwrap_or(on),
                config.state_off.take().unwrap_or(off),
            ),
            Kind::Sensor | Kind::BinarySensor | Kind::Number | Kind::Select | Kind::Text => {
                (on, off)
            }
        };
        let template = config.template.take().unwrap_or_default();
        let value = template_of(&template)?;
        let mut availability = std::mem::take(&mut config.availability);
        availability.extend(config.availability_topic.take().map(|topic| Announced {
            topic,
            template: config.availability_template.take(),
            on: config.payload_available.take(),
            off: config.payload_not_available.take(),
        }));
        if availability.len() > AVAILABILITY_TOPICS {
            return Err(format!(
                "it has {} availability topics; {AVAILABILITY_TOPICS} are possible",
                availability.len()
            ));
        }
        let mode = match config.availability_mode.as_deref() {
            None => Mode::default(),
            Some(word) => {
                let found = MODES.iter().find(|(name, _)| *name == word);
                let (_, mode) = found.ok_or_else(|| {
                    format!(
                        "`availability_mode` is `{}`; there are `all`, `any` and `latest`",
                        shown(word)
                    )
                })?;
                *mode
            }
        };
        let unit = config.unit.take().unwrap_or_default();
        let entity = Self {
            kind,
            series: series.to_owned(),
            state_topic,
            command_topic: topic(config.command_topic.take()),
            template,
            value,
            on,
            off,
            numeric: kind == Kind::Number
                || kind == Kind::Sensor && (!unit.is_empty() || config.state_class.is_some()),
            unit,
            device_class: config.device_class.take().unwrap_or_default(),
            mode,
            latest: None,
            availability: availability
                .into_iter()
                .map(|announced| Availability {
                    topic: based(announced.topic, &base),
                    template: announced.template.unwrap_or_default(),
                    on: announced.on.unwrap_or_else(|| "online".to_owned()),
                    off: announced.off.unwrap_or_else(|| "offline".to_owned()),
                    last: None,
                })
                .collect(),
        };
        entity.check()?;
        Ok(entity)
    }

    fn check(&self) -> Result<(), String> {
        if self.series.len() + "/device-class".len() > SERIES_NAME_BYTES {
            return Err(format!(
                "the topic of the configuration has {} bytes: too many for the name of a series",
                self.series.len()
            ));
        }
        let topics = self.availability.iter().map(|one| &one.topic);
        for topic in topics.chain([&self.state_topic, &self.command_topic]) {
            if topic.len() > TOPIC_BYTES {
                return Err(format!(
                    "the topic `{}…` has {} bytes; {TOPIC_BYTES} are possible",
                    shown(topic),
                    topic.len()
                ));
            }
        }
        let texts = self
            .availability
            .iter()
            .flat_map(|one| [&one.template, &one.on, &one.off, &one.topic]);
        for text in texts.chain([
            &self.template,
            &self.on,
            &self.off,
            &self.unit,
            &self.device_class,
            &self.state_topic,
            &self.command_topic,
        ]) {
            if text.len() > TEXT_BYTES || text.contains(SEPARATOR) {
                return Err(format!(
                    "the text `{}…` is too long, or has a NUL in it",
                    shown(text)
                ));
            }
        }
        for one in &self.availability {
            template_of(&one.template)?;
            if one.topic.is_empty() {
                return Err("`availability` without a topic".to_owned());
            }
        }
        Ok(())
    }

    /// Every topic that has something for it, each once.
    pub(crate) fn topics(&self) -> Vec<&str> {
        let mut topics = vec![self.state_topic.as_str()];
        let others = self.availability.iter().map(|one| one.topic.as_str());
        for topic in others.chain([self.command_topic.as_str()]) {
            if !topic.is_empty() && !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Whether it said that it is there; `None` where it has not said anything.
    pub(crate) fn available(&self) -> Option<bool> {
        let mut all = self.availability.iter().map(|one| one.last);
        match self.mode {
            Mode::Latest => self.latest,
            // What has not been heard of is not there, as in Home Assistant, once anything was heard.
            Mode::All | Mode::Any if self.latest.is_none() => None,
            Mode::All => Some(all.all(|last| last == Some(true))),
            Mode::Any => Some(all.any(|last| last == Some(true))),
        }
    }

    /// Whether what an availability topic says can be taken in.
    ///
    /// # Errors
    /// A payload that says neither.
    pub(crate) fn can_hear(&self, topic: &str, payload: &str) -> Result<(), String> {
        let mut ones = self.availability.iter().filter(|one| one.topic == topic);
        ones.try_for_each(|one| one.said(payload).map(|_| ()))
    }

    /// Takes it in; true where the entity came or went by that.
    pub(crate) fn hear(&mut self, topic: &str, payload: &str) -> bool {
        let before = self.available();
        for one in self
            .availability
            .iter_mut()
            .filter(|one| one.topic == topic)
        {
            if let Ok(Some(said)) = one.said(payload) {
                one.last = Some(said);
                self.latest = Some(said);
            }
        }
        self.available() != before
    }

    pub(crate) fn truth_of(&self, text: &str) -> Result<bool, String> {
        one_of(text, &self.on, &self.off)
    }

    /// Without what was heard since.
    pub(crate) fn as_announced(&self) -> Self {
        let mut announced = self.clone();
        announced.latest = None;
        for one in &mut announced.availability {
            one.last = None;
        }
        announced
    }

    /// As text, field behind field.
    pub(crate) fn to_state(&self) -> String {
        let said = |said: Option<bool>| match said {
            None => "",
            Some(said) => truth(said),
        };
        let mode = MODES.iter().find(|(_, mode)| *mode == self.mode);
        let mut fields = vec![
            FORM,
            self.kind.component(),
            &self.series,
            &self.state_topic,
            &self.command_topic,
            &self.template,
            &self.on,
            &self.off,
            &self.unit,
            &self.device_class,
            truth(self.numeric),
            mode.map_or("", |(name, _)| name),
            said(self.latest),
        ];
        for one in &self.availability {
            fields.extend([
                one.topic.as_str(),
                &one.template,
                &one.on,
                &one.off,
                said(one.last),
            ]);
        }
        fields.join("\0")
    }

    /// `None` where the text is none of this form.
    pub(crate) fn from_state(text: &str) -> Option<Self> {
        let said = |text: &str| (!text.is_empty()).then(|| text == truth(true));
        let mut fields = text.split(SEPARATOR);
        if fields.next()? != FORM {
            return None;
        }
        let kind = Kind::of_component(fields.next()?)?;
        let mut next = || fields.next().map(str::to_owned);
        let (series, state_topic, command_topic, template) = (next()?, next()?, next()?, next()?);
        let mut entity = Self {
            kind,
            series,
            state_topic,
            command_topic,
            value: template_of(&template).ok()?,
            template,
            on: next()?,
            off: next()?,
            unit: next()?,
            device_class: next()?,
            numeric: next()? == truth(true),
            mode: {
                let word = next()?;
                MODES.iter().find(|(name, _)| *name == word)?.1
            },
            latest: said(&next()?),
            availability: Vec::new(),
        };
        while let Some(topic) = next() {
            entity.availability.push(Availability {
                topic,
                template: next()?,
                on: next()?,
                off: next()?,
                last: said(&next()?),
            });
        }
        Some(entity)
    }
}

fn template_of(text: &str) -> Result<Template, String> {
    if text.is_empty() {
        return Ok(Template::payload());
    }
    Template::parse(text)
}

fn one_of(text: &str, on: &str, off: &str) -> Result<bool, String> {
    if text == on {
        Ok(true)
    } else if text == off {
        Ok(false)
    } else {
        Err(format!(
            "`{}` is neither `{}` nor `{}`",
            shown(text),
            shown(on),
            shown(off)
        ))
    }
}

/// A topic with the base that `~` stands for, at its beginning or its end.
fn based(topic: String, base: &str) -> String {
    if base.is_empty() {
        return topic;
    }
    let topic = match topic.strip_prefix('~') {
        Some(rest) => format!("{base}{rest}"),
        None => topic,
    };
    match topic.strip_suffix('~') {
        Some(rest) => format!("{rest}{base}"),
        None => topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(payload: &str) -> Result<Entity, String> {
        Entity::from_config(Kind::Sensor, "homeassistant/sensor/x", payload)
    }

    #[test]
    fn an_entity_is_kept_and_found_again() {
        let mut entity = entity(
            r#"{"~":"b/x","stat_t":"~/s","cmd_t":"set/~","val_tpl":"{{ value_json.t }}","unit_of_meas":"°C","dev_cla":"temperature",
                "avty":[{"t":"~/a"},{"topic":"bridge","val_tpl":"{{ value_json.state }}","pl_avail":true,"pl_not_avail":0}],"avty_mode":"all",
                "dev":{"ids":["x"]},"qos":1}"#,
        )
        .unwrap();
        assert_eq!(entity.topics(), ["b/x/s", "b/x/a", "bridge", "set/b/x"]);
        assert_eq!(Entity::from_state(&entity.to_state()), Some(entity.clone()));
        assert_eq!(entity.available(), None);
        assert!(entity.hear("b/x/a", "online"));
        assert_eq!(
            entity.available(),
            Some(false),
            "the other has not been heard of"
        );
        assert!(entity.hear("bridge", r#"{"state":true}"#));
        assert!(!entity.hear("bridge", r#"{"state":true}"#));
        assert_eq!(entity.available(), Some(true));
        entity.can_hear("b/x/a", "offline").unwrap();
        assert!(
            entity
                .can_hear("b/x/a", "off")
                .unwrap_err()
                .contains("neither `online` nor `offline`")
        );
        let kept = Entity::from_state(&entity.to_state()).unwrap();
        assert_eq!(kept, entity);
        let state = kept.to_state();
        for cut in 0..13 {
            let fields: Vec<&str> = state.split('\0').take(cut).collect();
            assert_eq!(Entity::from_state(&fields.join("\0")), None);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        let long = |key: &str| format!("{{\"stat_t\":\"a\",\"{key}\":\"{}\"}}", "x".repeat(513));
        for (payload, want) in [
            ("", "the text ends"),
            ("[]", "a configuration is a JSON object"),
            ("{}", "no `state_topic`"),
            (r#"{"stat_t":"a""#, "the text ends within"),
            (r#"{"stat_t":"a"} x"#, "text behind the end"),
            (r#"{"stat_t":["a"]}"#, "`stat_t` is no text"),
            (r#"{"stat_t":"a","val_tpl":"{{ value|x }}"}"#, "computes"),
            (
                r#"{"stat_t":"a","avty":{"t":"b","val_tpl":"{% if %}"}}"#,
                "computes",
            ),
            (r#"{"stat_t":"a","avty":[1]}"#, "no object"),
            (r#"{"stat_t":"a","avty":1}"#, "neither a list nor an object"),
            (r#"{"stat_t":"a","avty":[{}]}"#, "without a topic"),
            (
                r#"{"stat_t":"a","avty_mode":"some"}"#,
                "`availability_mode` is `some`",
            ),
            (r#"{"stat_t":"a\u0000b"}"#, "NUL"),
            (
                &format!(
                    "{{\"stat_t\":\"a\",\"avty\":[{}]}}",
                    ["{\"t\":\"b\"}"; 9].join(",")
                ),
                "9 availability topics",
            ),
            (&long("cmd_t"), "513 bytes"),
            (&long("unit_of_meas"), "too long"),
        ] {
            let error = entity(payload).unwrap_err();
            assert!(error.contains(want), "{payload}: {error}");
        }
    }
}
