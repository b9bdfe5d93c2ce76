//! Value templates, as far as they only pick a value: `{{ value }}` or a path below `value_json`, and the filters `float`,
//! `int`, `round` and `is_defined`. Home Assistant's are a programming language (Jinja); one that computes is refused.

use std::borrow::Cow;

use formats::json::{Reader, Token, Within};
use formats::shown;

/// Steps of a path, and filters.
const PARTS: usize = 16;

/// A template that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    /// `None`: the payload itself.
    path: Option<Vec<Step>>,
    filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    /// With what stands in for what is no number.
    Float(Option<f64>),
    Int(Option<f64>),
    /// Decimal digits.
    Round(i32),
    IsDefined,
}

/// What a template finds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found<'a> {
    Text(Cow<'a, str>),
    /// A number of JSON, as it was written.
    Written(&'a str),
    Float(f64),
    Int(i64),
    Bool(bool),
}

impl Found<'_> {
    /// The text that Home Assistant compares with an entity's payloads.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Written(number) => Cow::Borrowed(number),
            Self::Float(number) => tidegate_sdk::Number(*number).to_string().into(),
            Self::Int(number) => number.to_string().into(),
            Self::Bool(value) => Cow::Borrowed(truth(*value)),
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
            Self::Int(number) => Some(*number as f64),
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Text(_) | Self::Written(_) => number(&self.text())?.parse().ok(),
        }
    }
}

/// A truth value as Jinja writes it.
pub(crate) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A text that is a number in whole, without the spaces around it.
pub(crate) fn number(text: &str) -> Option<&str> {
    let text = text.trim_ascii();
    let possible = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    // Rust reads `inf` and `nan` as well.
    (text.bytes().all(possible) && text.parse::<f64>().is_ok()).then_some(text)
}

impl Template {
    /// That of an entity that has none.
    pub(crate) fn payload() -> Self {
        Self {
            path: None,
            filters: Vec::new(),
        }
    }

    /// # Errors
    /// For people: that it is none of the simple ones.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        simple(text).ok_or_else(|| {
            format!(
                "the template `{}` computes: `{{{{ value }}}}`, `{{{{ value_json.x }}}}` and \
                 `{{{{ value_json['x'] }}}}` with `| float`, `| int` and `| round(n)` are understood",
                shown(text)
            )
        })
    }

    /// Whether the payload has to be JSON.
    pub(crate) fn needs_json(&self) -> bool {
        self.path.is_some()
    }

    /// What it finds in a payload, which is sound JSON where it has to be; `None` where nothing is there.
    ///
    /// # Errors
    /// What is there and cannot be used.
    pub(crate) fn find<'a>(&self, payload: &'a str) -> Result<Option<Found<'a>>, String> {
        let mut found = match &self.path {
            None => Some(Found::Text(payload.into())),
            Some(path) => follow(payload, path)?,
        };
        for filter in &self.filters {
            found = filter.apply(found)?;
        }
        Ok(found)
    }
}

impl Filter {
    fn apply(self, found: Option<Found<'_>>) -> Result<Option<Found<'_>>, String> {
        let Some(value) = found else {
            // A missing value stays missing, but where the template says what stands in for it.
            return Ok(match self {
                Self::Float(Some(default)) => Some(Found::Float(default)),
                Self::Int(Some(default)) => Some(Found::Int(whole(default))),
                Self::Float(None) | Self::Int(None) | Self::Round(_) | Self::IsDefined => None,
            });
        };
        let (Self::Float(default) | Self::Int(default)) = self else {
            let Self::Round(digits) = self else {
                return Ok(Some(value));
            };
            let number = value.float().ok_or_else(|| no_number(&value))?;
            if digits == 0 {
                return Ok(Some(Found::Int(whole(number.round_ties_even()))));
            }
            let scale = 10_f64.powi(digits);
            return Ok(Some(Found::Float(
                (number * scale).round_ties_even() / scale,
            )));
        };
        let number = value.float().or(default).ok_or_else(|| no_number(&value))?;
        Ok(Some(match self {
            Self::Int(_) => Found::Int(whole(number)),
            Self::Float(_) | Self::Round(_) | Self::IsDefined => Found::Float(number),
        }))
    }
}

fn no_number(found: &Found<'_>) -> String {
    format!("`{}` is no number", shown(&found.text()))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "towards zero, and to the ends of 64 bits, is meant"
)]
fn whole(number: f64) -> i64 {
    number as i64
}

/// The value at the end of a path; `None` where the path leads nowhere.
fn follow<'a>(payload: &'a str, path: &[Step]) -> Result<Option<Found<'a>>, String> {
    let mut reader = Reader::new(payload);
    let mut token = reader.value()?;
    for step in path {
        let mut within = Within::default();
        let there = match (step, &token) {
            (Step::Member(name), Token::Object) => loop {
                match reader.key(&mut within)? {
                    None => break false,
                    Some(key) if key == name.as_str() => break true,
                    Some(_) => {
                        let value = reader.value()?;
                        reader.skip(&value, formats::DEPTH)?;
                    }
                }
            },
            (Step::Index(index), Token::Array) => {
                let mut at = 0;
                loop {
                    if !reader.element(&mut within)? {
                        break false;
                    }
                    if at == *index {
                        break true;
                    }
                    let value = reader.value()?;
                    reader.skip(&value, formats::DEPTH)?;
                    at += 1;
                }
            }
            (Step::Member(_) | Step::Index(_), _) => false,
        };
        if !there {
            return Ok(None);
        }
        token = reader.value()?;
    }
    match token {
        Token::Text(text) => Ok(Some(Found::Text(text))),
        Token::Number(number) => Ok(Some(Found::Written(number))),
        Token::Bool(value) => Ok(Some(Found::Bool(value))),
        Token::Null => Ok(None),
        Token::Object | Token::Array => Err("an object or an array is no value".to_owned()),
    }
}

/// Reads a template of the simple kind.
fn simple(text: &str) -> Option<Template> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inner = inner.strip_prefix('-').unwrap_or(inner);
    let inner = inner.strip_suffix('-').unwrap_or(inner);
    let mut scanner = Scanner(inner);
    let path = match scanner.word()? {
        "value" => None,
        "value_json" => {
            let mut path = Vec::new();
            while let Some(step) = scanner.step()? {
                path.push(step);
            }
            Some(path)
        }
        _ => return None,
    };
    let mut filters = Vec::new();
    while scanner.sign('|') {
        let name = scanner.word()?;
        let argument = if scanner.sign('(') {
            scanner.argument()?
        } else {
            None
        };
        filters.push(match (name, argument) {
            ("float", default) => Filter::Float(default),
            ("int", default) => Filter::Int(default),
            ("round", None) => Filter::Round(0),
            ("round", Some(digits)) if digits.fract() == 0.0 && (0.0..=9.0).contains(&digits) => {
                Filter::Round(i32::try_from(whole(digits)).ok()?)
            }
            ("is_defined", None) => Filter::IsDefined,
            _ => return None,
        });
    }
    let sound = scanner.0.trim().is_empty()
        && filters.len() <= PARTS
        && path
            .as_ref()
            .is_none_or(|path: &Vec<Step>| path.len() <= PARTS);
    sound.then_some(Template { path, filters })
}

/// What is left of a template.
struct Scanner<'t>(&'t str);

impl<'t> Scanner<'t> {
    fn sign(&mut self, sign: char) -> bool {
        match self.0.trim_start().strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Option<&'t str> {
        let text = self.0.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    /// `.x`, `['x']`, `["x"]` or `[0]`; the inner `None` where the path ends, the outer one where it is broken.
    fn step(&mut self) -> Option<Option<Step>> {
        if self.sign('.') {
            return Some(Some(Step::Member(self.word()?.to_owned())));
        }
        if !self.sign('[') {
            return Some(None);
        }
        let text = self.0.trim_start();
        let step = match text.chars().next()? {
            quote @ ('\'' | '"') => {
                let (name, rest) = text[1..].split_once(quote)?;
                self.0 = rest;
                // A backslash would begin an escape.
                if name.contains('\\') {
                    return None;
                }
                Step::Member(name.to_owned())
            }
            _ => Step::Index(self.word()?.parse().ok()?),
        };
        self.sign(']').then_some(Some(step))
    }

    /// A number and `)`, or `)` alone; the outer `None` where it is neither.
    fn argument(&mut self) -> Option<Option<f64>> {
        let (inner, rest) = self.0.split_once(')')?;
        self.0 = rest;
        if inner.trim().is_empty() {
            return Some(None);
        }
        Some(Some(number(inner)?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_templates_find_values() {
        let payload = r#"{"a":{"b c":[1,"x",{"d":21.55}]},"on":true,"n":null,"t":"42.7","big":9007199254740993}"#;
        let check = |template: &str, want: Option<Found<'_>>| {
            let template = Template::parse(template).unwrap();
            assert_eq!(template.find(payload).unwrap(), want, "{template:?}");
        };
        check("{{ value_json.a['b c'][0] }}", Some(Found::Written("1")));
        check(
            "{{value_json[\"a\"]['b c'][1]}}",
            Some(Found::Text("x".into())),
        );
        check(
            "{{- value_json.a['b c'][2].d -}}",
            Some(Found::Written("21.55")),
        );
        check(
            "{{ value_json.a['b c'][2].d | round(1) }}",
            Some(Found::Float(21.6)),
        );
        check(
            "{{ value_json.a['b c'][2].d|float|round }}",
            Some(Found::Int(22)),
        );
        check("{{ value_json.t | int }}", Some(Found::Int(42)));
        check("{{ value_json.t | float }}", Some(Found::Float(42.7)));
        check("{{ value_json.on }}", Some(Found::Bool(true)));
        check("{{ value_json.on | int }}", Some(Found::Int(1)));
        check(
            "{{ value_json.big }}",
            Some(Found::Written("9007199254740993")),
        );
        check("{{ value_json.n }}", None);
        check("{{ value_json.x | is_defined }}", None);
        check("{{ value_json.x.y | float }}", None);
        check("{{ value_json.x | float(-1.5) }}", Some(Found::Float(-1.5)));
        check("{{ value_json.x | int(0) }}", Some(Found::Int(0)));
        check("{{ value_json.a[0] }}", None);
        check("{{ value_json.a['b c'][7] }}", None);
        check("{{ value }}", Some(Found::Text(payload.into())));
        let of = |template: &str, payload| {
            Template::parse(template)
                .unwrap()
                .find(payload)
                .map(|f| f.map(|f| f.text().into_owned()))
        };
        assert_eq!(
            of("{{ value | float }}", "21.5"),
            Ok(Some("21.5".to_owned()))
        );
        assert!(
            of("{{ value | float }}", "warm")
                .unwrap_err()
                .contains("`warm` is no number")
        );
        assert!(
            of("{{ value | round(2) }}", "nan")
                .unwrap_err()
                .contains("no number")
        );
        assert!(
            of("{{ value_json.a }}", r#"{"a":[1]}"#)
                .unwrap_err()
                .contains("no value")
        );
    }

    #[test]
    fn a_template_that_computes_is_refused() {
        for text in [
            "",
            "value",
            "{{ value",
            "{{ }}",
            "{{ states('x') }}",
            "{{ value_json.x / 10 }}",
            "{{ value_json.x | default(1) }}",
            "{{ value }}°C",
            "{% if value %}1{% endif %}",
            "{{ value }}{{ value }}",
            "{{ value_json.x | round(-1) }}",
            "{{ value_json.x | round(1.5) }}",
            "{{ value_json. }}",
            "{{ value_json[x] }}",
            "{{ value_json['x }}",
            "{{ value_json['x\\'] }}",
            "{{ value_json[-1] }}",
            "{{ value.x }}",
            "{{ value_json.x | float(inf) }}",
            "{{ value_json.x | }}",
            "{{ value_json.x if value_json.x else 0 }}",
            "{{ value_json.get('x') }}",
            "{{é}}",
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains("computes"), "{error}");
        }
        Template::parse(&format!("{{{{ value_json{} }}}}", ".a".repeat(16))).unwrap();
        Template::parse(&format!("{{{{ value_json{} }}}}", ".a".repeat(17))).unwrap_err();
    }
}
