//! The part of JSON Schema (draft 2020-12) that settings need, and no more.
//!
//! A complete validator keeps about 40 MB of memory for ever, more than all the rest of the daemon. What a manifest uses
//! beyond this part is refused when the manifest is read, never ignored when settings are checked. Left out are
//! references (`$ref`, `$defs`), `patternProperties`, `contains`, `unevaluated…` and `propertyNames`. `format` is an
//! annotation, as the draft has it by default.

use std::fmt;

use regex_lite::Regex;
use serde_json::{Map, Number, Value};

/// Keywords that say something to people and nothing about validity.
const ANNOTATIONS: [&str; 11] = [
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
];

/// A compiled schema.
#[derive(Debug)]
pub(crate) enum Schema {
    /// `false`: nothing fits.
    Nothing,
    /// All of these hold; none for `true` and `{}`.
    Rules(Vec<Rule>),
}

/// One keyword.
#[derive(Debug)]
pub(crate) enum Rule {
    Type(Vec<Type>),
    Enum(Vec<Value>),
    /// A bound: what a number is to be, in words, and the test.
    Number(&'static str, Number, fn(f64, f64) -> bool),
    /// A length: of what, in words, and the least and the greatest.
    Length(Of, usize, usize),
    Pattern(Regex),
    PrefixItems(Vec<Schema>),
    /// Those after so many.
    Items(usize, Box<Schema>),
    UniqueItems,
    Required(Vec<String>),
    DependentRequired(Vec<(String, Vec<String>)>),
    /// Known members, and what holds for the others.
    Members(Vec<(String, Schema)>, Option<Box<Schema>>),
    AllOf(Vec<Schema>),
    AnyOf(Vec<Schema>),
    OneOf(Vec<Schema>),
    Not(Box<Schema>),
    If(Box<Schema>, Option<Box<Schema>>, Option<Box<Schema>>),
}

/// What a [`Rule::Length`] counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    Characters,
    Items,
    Members,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// A schema that this daemon does not understand.
#[derive(Debug, thiserror::Error)]
#[error("`{keyword}` {problem}")]
pub(crate) struct SchemaError {
    /// The way to the keyword: `properties.width.minimum`.
    keyword: String,
    problem: String,
}

/// Where a value does not fit, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `points[2].raw`; empty for the whole.
    path: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.text);
        }
        write!(f, "{}: {}", self.path, self.text)
    }
}

impl Schema {
    /// # Errors
    /// The first keyword that is unknown or has a value without a meaning.
    pub(crate) fn parse(schema: &Value) -> Result<Self, SchemaError> {
        Self::at(schema, "")
    }

    /// What does not fit; nothing when all does.
    pub(crate) fn problems(&self, value: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check(value, "", &mut problems);
        problems
    }

    fn at(schema: &Value, path: &str) -> Result<Self, SchemaError> {
        let keywords = match schema {
            Value::Bool(true) => return Ok(Self::Rules(Vec::new())),
            Value::Bool(false) => return Ok(Self::Nothing),
            Value::Object(keywords) => keywords,
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(SchemaError {
                    keyword: if path.is_empty() { "settings" } else { path }.to_owned(),
                    problem: "is no schema; a schema is an object or a truth value".to_owned(),
                });
            }
        };
        let mut rules = Vec::new();
        for (keyword, value) in keywords {
            let reader = Reader {
                path: join(path, keyword),
                value,
                keywords,
            };
            rules.extend(reader.rule(keyword)?);
        }
        Ok(Self::Rules(rules))
    }

    fn fits(&self, value: &Value) -> bool {
        self.problems(value).is_empty()
    }

    fn check(&self, value: &Value, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::Nothing => problems.push(Problem {
                path: path.to_owned(),
                text: "nothing may stand here".to_owned(),
            }),
            Self::Rules(rules) => {
                for rule in rules {
                    rule.check(value, path, problems);
                }
            }
        }
    }
}

/// One keyword with its value, while a schema is read.
struct Reader<'a> {
    path: String,
    value: &'a Value,
    /// Its neighbours.
    keywords: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn rule(&self, keyword: &str) -> Result<Option<Rule>, SchemaError> {
        if ANNOTATIONS.contains(&keyword) {
            return Ok(None);
        }
        Ok(Some(match keyword {
            "type" => Rule::Type(self.types()?),
            "enum" => Rule::Enum(self.array()?.clone()),
            "const" => Rule::Enum(vec![self.value.clone()]),
            "minimum" => self.number("at least", |value, bound| value >= bound)?,
            "maximum" => self.number("at most", |value, bound| value <= bound)?,
            "exclusiveMinimum" => self.number("more than", |value, bound| value > bound)?,
            "exclusiveMaximum" => self.number("less than", |value, bound| value < bound)?,
            "multipleOf" => {
                self.number("a multiple of", |value, step| (value / step).fract() == 0.0)?
            }
            "minLength" => Rule::Length(Of::Characters, self.count()?, usize::MAX),
            "maxLength" => Rule::Length(Of::Characters, 0, self.count()?),
            "minItems" => Rule::Length(Of::Items, self.count()?, usize::MAX),
            "maxItems" => Rule::Length(Of::Items, 0, self.count()?),
            "minProperties" => Rule::Length(Of::Members, self.count()?, usize::MAX),
            "maxProperties" => Rule::Length(Of::Members, 0, self.count()?),
            "pattern" => Rule::Pattern(
                Regex::new(self.text()?).map_err(|error| self.error(error.to_string()))?,
            ),
            "prefixItems" => Rule::PrefixItems(self.schemas()?),
            "items" => {
                let before = self.keywords.get("prefixItems").and_then(Value::as_array);
                Rule::Items(before.map_or(0, Vec::len), self.schema()?)
            }
            "uniqueItems" if *self.value == Value::Bool(false) => return Ok(None),
            "uniqueItems" => Rule::UniqueItems,
            "required" => Rule::Required(self.texts(self.value)?),
            "dependentRequired" => Rule::DependentRequired(
                self.object()?
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), self.texts(value)?)))
                    .collect::<Result<_, SchemaError>>()?,
            ),
            "properties" => self.members()?,
            "additionalProperties" if self.keywords.contains_key("properties") => {
                self.schema()?;
                return Ok(None);
            }
            "additionalProperties" => Rule::Members(Vec::new(), Some(self.schema()?)),
            "allOf" => Rule::AllOf(self.schemas()?),
            "anyOf" => Rule::AnyOf(self.schemas()?),
            "oneOf" => Rule::OneOf(self.schemas()?),
            "not" => Rule::Not(self.schema()?),
            "if" => Rule::If(self.schema()?, self.beside("then")?, self.beside("else")?),
            "then" | "else" => {
                self.schema()?;
                return Ok(None);
            }
            _ => {
                return Err(self.error(
                    "is no keyword of the part of JSON Schema that settings can use".to_owned(),
                ));
            }
        }))
    }

    fn types(&self) -> Result<Vec<Type>, SchemaError> {
        let words = match self.value.as_str() {
            Some(word) => vec![word.to_owned()],
            None => self.texts(self.value)?,
        };
        words
            .iter()
            .map(|word| Type::named(word).ok_or_else(|| self.error(format!("knows no `{word}`"))))
            .collect()
    }

    fn number(&self, words: &'static str, fits: fn(f64, f64) -> bool) -> Result<Rule, SchemaError> {
        let Value::Number(bound) = self.value else {
            return Err(self.error("takes a number".to_owned()));
        };
        Ok(Rule::Number(words, bound.clone(), fits))
    }

    fn count(&self) -> Result<usize, SchemaError> {
        self.value
            .as_u64()
            .and_then(|count| usize::try_from(count).ok())
            .ok_or_else(|| self.error("takes a whole number".to_owned()))
    }

    fn text(&self) -> Result<&str, SchemaError> {
        self.value
            .as_str()
            .ok_or_else(|| self.error("takes a text".to_owned()))
    }

    fn texts(&self, value: &Value) -> Result<Vec<String>, SchemaError> {
        value
            .as_array()
            .and_then(|values| {
                let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
                texts.collect()
            })
            .ok_or_else(|| self.error("takes a list of texts".to_owned()))
    }

    fn array(&self) -> Result<&Vec<Value>, SchemaError> {
        self.value
            .as_array()
            .ok_or_else(|| self.error("takes a list".to_owned()))
    }

    fn object(&self) -> Result<&Map<String, Value>, SchemaError> {
        self.value
            .as_object()
            .ok_or_else(|| self.error("takes an object".to_owned()))
    }

    fn schema(&self) -> Result<Box<Schema>, SchemaError> {
        Schema::at(self.value, &self.path).map(Box::new)
    }

    fn schemas(&self) -> Result<Vec<Schema>, SchemaError> {
        self.array()?
            .iter()
            .enumerate()
            .map(|(index, schema)| Schema::at(schema, &format!("{}[{index}]", self.path)))
            .collect()
    }

    /// The schema of a neighbouring keyword.
    fn beside(&self, keyword: &str) -> Result<Option<Box<Schema>>, SchemaError> {
        self.keywords
            .get(keyword)
            .map(|schema| Schema::at(schema, keyword).map(Box::new))
            .transpose()
    }

    fn members(&self) -> Result<Rule, SchemaError> {
        let known = self
            .object()?
            .iter()
            .map(|(name, schema)| Ok((name.clone(), Schema::at(schema, &join(&self.path, name))?)))
            .collect::<Result<_, SchemaError>>()?;
        Ok(Rule::Members(known, self.beside("additionalProperties")?))
    }

    fn error(&self, problem: String) -> SchemaError {
        SchemaError {
            keyword: self.path.clone(),
            problem,
        }
    }
}

impl Rule {
    fn check(&self, value: &Value, path: &str, problems: &mut Vec<Problem>) {
        let mut problem = |text: String| {
            problems.push(Problem {
                path: path.to_owned(),
                text,
            });
        };
        match self {
            Self::Type(types) => {
                if !types.iter().any(|wanted| wanted.is_of(value)) {
                    problem(format!("{} is not {}", shown(value), alternatives(types)));
                }
            }
            Self::Enum(values) => {
                if !values.iter().any(|wanted| same(wanted, value)) {
                    problem(format!("{} is not {}", shown(value), alternatives(values)));
                }
            }
            Self::Number(words, bound, fits) => {
                if let (Some(number), Some(bound)) = (value.as_f64(), bound.as_f64())
                    && !fits(number, bound)
                {
                    problem(format!("{value} is not {words} {bound}"));
                }
            }
            Self::Length(of, least, greatest) => {
                if let Some(length) = of.length(value)
                    && !(*least..=*greatest).contains(&length)
                {
                    let (words, bound) = if length < *least {
                        ("least", least)
                    } else {
                        ("most", greatest)
                    };
                    problem(format!("has {length} {of}; at {words} {bound} are due"));
                }
            }
            Self::Pattern(pattern) => {
                if let Some(text) = value.as_str()
                    && !pattern.is_match(text)
                {
                    problem(format!("{} does not match `{pattern}`", shown(value)));
                }
            }
            Self::PrefixItems(schemas) => {
                for (index, (schema, item)) in schemas.iter().zip(items(value)).enumerate() {
                    schema.check(item, &format!("{path}[{index}]"), problems);
                }
            }
            Self::Items(after, schema) => {
                for (index, item) in items(value).iter().enumerate().skip(*after) {
                    schema.check(item, &format!("{path}[{index}]"), problems);
                }
            }
            Self::UniqueItems => {
                let items = items(value);
                let twice = items
                    .iter()
                    .enumerate()
                    .find(|(index, item)| items[..*index].iter().any(|other| same(other, item)));
                if let Some((index, item)) = twice {
                    problem(format!("{} stands twice, again at {index}", shown(item)));
                }
            }
            Self::Required(names) => {
                if let Some(members) = value.as_object() {
                    for name in names.iter().filter(|name| !members.contains_key(*name)) {
                        problem(format!("`{name}` is missing"));
                    }
                }
            }
            Self::DependentRequired(rules) => {
                if let Some(members) = value.as_object() {
                    for (name, needed) in rules.iter().filter(|(n, _)| members.contains_key(n)) {
                        for needed in needed.iter().filter(|n| !members.contains_key(*n)) {
                            problem(format!("`{name}` needs `{needed}` beside it"));
                        }
                    }
                }
            }
            Self::Members(known, others) => {
                members(known, others.as_deref(), value, path, problems);
            }
            Self::AllOf(schemas) => {
                for schema in schemas {
                    schema.check(value, path, problems);
                }
            }
            Self::AnyOf(schemas) => {
                if !schemas.iter().any(|schema| schema.fits(value)) {
                    problem(none_fits(schemas, value));
                }
            }
            Self::OneOf(schemas) => {
                match schemas.iter().filter(|schema| schema.fits(value)).count() {
                    0 => problem(none_fits(schemas, value)),
                    1 => {}
                    _ => problem("is more than one of what excludes each other".to_owned()),
                }
            }
            Self::Not(schema) => {
                if schema.fits(value) {
                    problem(format!("{} is what it must not be", shown(value)));
                }
            }
            Self::If(condition, then, otherwise) => {
                let branch = if condition.fits(value) {
                    then
                } else {
                    otherwise
                };
                if let Some(branch) = branch {
                    branch.check(value, path, problems);
                }
            }
        }
    }
}

fn members(
    known: &[(String, Schema)],
    others: Option<&Schema>,
    value: &Value,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(members) = value.as_object() else {
        return;
    };
    for (name, value) in members {
        let at = join(path, name);
        match (known.iter().find(|(known, _)| known == name), others) {
            (Some((_, schema)), _) => schema.check(value, &at, problems),
            (None, Some(Schema::Nothing)) => {
                let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
                problems.push(Problem {
                    path: at,
                    text: format!("is unknown; there is {}", names.join(", ")),
                });
            }
            (None, Some(schema)) => schema.check(value, &at, problems),
            (None, None) => {}
        }
    }
}

/// Why no alternative fits: what each of them misses.
fn none_fits(schemas: &[Schema], value: &Value) -> String {
    let why: Vec<String> = schemas
        .iter()
        .map(|schema| {
            let problems = schema.problems(value);
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            problems.join(", ")
        })
        .collect();
    format!("no alternative fits: {}", why.join("; or "))
}

impl Type {
    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "string" => Self::String,
            "array" => Self::Array,
            "object" => Self::Object,
            _ => return None,
        })
    }

    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Boolean => value.is_boolean(),
            Self::Integer => {
                value.is_i64()
                    || value.is_u64()
                    || value.as_f64().is_some_and(|value| value.fract() == 0.0)
            }
            Self::Number => value.is_number(),
            Self::String => value.is_string(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "true or false",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::String => "a text",
            Self::Array => "a list",
            Self::Object => "a table",
        })
    }
}

impl Of {
    fn length(self, value: &Value) -> Option<usize> {
        match self {
            Self::Characters => value.as_str().map(|text| text.chars().count()),
            Self::Items => value.as_array().map(Vec::len),
            Self::Members => value.as_object().map(Map::len),
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Characters => "characters",
            Self::Items => "items",
            Self::Members => "keys",
        })
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// JSON's equality: `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// A value in an error message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let beginning: String = text.chars().take(57).collect();
    format!("{beginning}…")
}

fn alternatives<T: fmt::Display>(values: &[T]) -> String {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    match words.as_slice() {
        [one] => one.clone(),
        several => format!("one of {}", several.join(", ")),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn schemas() -> Vec<Value> {
        vec![
            json!(true),
            json!(false),
            json!({"type": "integer"}),
            json!({"type": ["number", "null"]}),
            json!({"enum": [1, "a", {"a": 2.0}, null]}),
            json!({"const": 1.0}),
            json!({"minimum": -1, "exclusiveMaximum": 2}),
            json!({"exclusiveMinimum": 0, "maximum": 2, "multipleOf": 0.5}),
            json!({"minLength": 2, "maxLength": 3, "pattern": "^[^\\[\\]{}]+$"}),
            json!({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}),
            json!({"prefixItems": [{"type": "string"}], "items": false, "uniqueItems": true}),
            json!({"required": ["a"], "minProperties": 2, "maxProperties": 2}),
            json!({"properties": {"a": {"type": "integer"}, "b": {}}, "additionalProperties": false}),
            json!({"properties": {"a": true}, "additionalProperties": {"type": "string"}}),
            json!({"additionalProperties": {"minimum": 1}}),
            json!({"dependentRequired": {"a": ["b", "c"]}}),
            json!({"anyOf": [{"required": ["a"]}, {"type": "string"}]}),
            json!({"oneOf": [{"minimum": 1}, {"maximum": 1}]}),
            json!({"allOf": [{"minimum": 1}, {"not": {"const": 2}}]}),
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"maxProperties": 1}}),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3..4_i64).prop_map(Value::from),
            (-6..7_i32).prop_map(|n| Value::from(f64::from(n) / 2.0)),
            "[ab\\[ü]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The judge is a complete validator.
        #[test]
        fn what_fits_here_fits_there(value in any_value(), index in 0..20_usize) {
            let schema = &schemas()[index];
            prop_assert_eq!(
                Schema::parse(schema).unwrap().fits(&value),
                jsonschema::is_valid(schema, &value),
                "{} for {}", schema, value
            );
        }
    }

    #[test]
    fn problems_say_where_and_what_instead() {
        let schema = Schema::parse(&json!({
            "properties": {
                "width": {"type": "number", "exclusiveMinimum": 0},
                "points": {"items": {"properties": {"raw": {"type": "number"}}}},
            },
            "additionalProperties": false,
            "anyOf": [{"required": ["width"]}, {"required": ["points"]}],
        }))
        .unwrap();
        let check = |value: Value, want: &[&str]| {
            let got: Vec<String> = schema
                .problems(&value)
                .iter()
                .map(Problem::to_string)
                .collect();
            assert_eq!(got, want);
        };
        check(json!({"width": 1}), &[]);
        check(json!({"width": 0}), &["width: 0 is not more than 0"]);
        check(
            json!({"points": [{}, {"raw": "x"}]}),
            &["points[1].raw: \"x\" is not a number"],
        );
        check(
            json!({"wide": 1}),
            &[
                "no alternative fits: `width` is missing; or `points` is missing",
                "wide: is unknown; there is points, width",
            ],
        );
    }

    #[test]
    fn what_would_not_be_checked_is_refused() {
        for (schema, want) in [
            (
                json!({"properties": {"a": {"minLenght": 1}}}),
                "`properties.a.minLenght` is no keyword",
            ),
            (json!({"$ref": "#/$defs/a"}), "`$ref` is no keyword"),
            (json!({"type": "float"}), "`type` knows no `float`"),
            (
                json!({"oneOf": [{}, {"pattern": "("}]}),
                "`oneOf[1].pattern`",
            ),
            (json!({"minItems": -1}), "`minItems` takes a whole number"),
            (json!(7), "`settings` is no schema"),
        ] {
            let error = Schema::parse(&schema).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }
}
