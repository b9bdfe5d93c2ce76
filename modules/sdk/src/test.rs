//! A stand-in for the gateway, to run a filter natively.
//!
//! ```
//! # use tidegate_sdk::{Batch, Fault, Output, settings};
//! # fn ceiling(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
//! #     let max = settings::number("max").ok_or("the setting `max` is missing")?;
//! #     for row in batch.rows() {
//! #         if row.number().is_some_and(|number| number > max) { out.drop(row) }
//! #     }
//! #     Ok(())
//! # }
//! use tidegate_sdk::test::{Harness, Reading, json};
//!
//! let mut harness = Harness::new(ceiling).settings(json!({ "max": 10 }));
//! let outcome = harness.run(&[Reading::new("a", 0, 9.5), Reading::new("a", 1, 10.5)]).unwrap();
//! assert_eq!(outcome.stored, [Reading::new("a", 0, 9.5)]);
//! assert_eq!(outcome.filtered, 1);
//! ```
//!
//! What a filter stores, raises and rejects counts as on the gateway: only if the call succeeds. [`check_vectors`] runs
//! the golden vectors that the module ships with, which the gateway runs in its own engine too.

#![expect(clippy::expect_used, reason = "a panic is how a test reports")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

pub use serde_json::json;
use serde_json::{Map, Value as Json};

use crate::batch::{Batch, Quality, Value};
use crate::filter::{Fault, Filter};
use crate::output::{Answer, Keep};
use crate::tick::OnTick;

mod damage;
mod decoder;
mod fuzz;
pub mod host;

pub use damage::{cases, damaged};
pub use decoder::{DecoderHarness, Decodings, Received, check_decoder_vectors, hex};
pub use fuzz::replay_corpus;

/// A reading that goes in or came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The series' name.
    pub series: String,
    /// Nanoseconds since the epoch.
    pub time: i64,
    /// The value.
    pub value: Owned,
    /// How far it can be trusted.
    pub quality: Quality,
}

impl Reading {
    /// A reading of good quality.
    #[must_use]
    pub fn new(series: &str, time: i64, value: impl Into<Owned>) -> Self {
        Self {
            series: series.to_owned(),
            time,
            value: value.into(),
            quality: Quality::Good,
        }
    }

    /// The same with another quality.
    #[must_use]
    pub fn with_quality(mut self, quality: Quality) -> Self {
        self.quality = quality;
        self
    }
}

/// A value that owns its text. Equal where kind and bits are: NaN equals NaN, 1 and 1.0 differ.
#[derive(Clone, Debug)]
pub enum Owned {
    /// See [`Value::Float`].
    Float(f64),
    /// See [`Value::Int`].
    Int(i64),
    /// See [`Value::Bool`].
    Bool(bool),
    /// See [`Value::Text`].
    Text(String),
}

impl PartialEq for Owned {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Float(_) | Self::Int(_) | Self::Bool(_) | Self::Text(_), _) => false,
        }
    }
}

impl From<f64> for Owned {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<i64> for Owned {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Owned {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Owned {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<Value<'_>> for Owned {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Float(value) => Self::Float(value),
            Value::Int(value) => Self::Int(value),
            Value::Bool(value) => Self::Bool(value),
            Value::Text(value) => Self::Text(value.to_owned()),
        }
    }
}

impl Owned {
    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Float(value) => Value::Float(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Bool(value) => Value::Bool(*value),
            Self::Text(value) => Value::Text(value),
        }
    }
}

/// A call that raised or cleared an alarm. The gateway's store drops those that change nothing; here all are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The series it is about.
    pub series: String,
    /// Its code.
    pub code: String,
    /// `raised` or `cleared`.
    pub state: &'static str,
    /// `info`, `warning` or `critical`; `None` where it is cleared.
    pub severity: Option<&'static str>,
    /// What it says to people; empty where it is cleared.
    pub text: String,
}

/// What one batch became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The rows that go on, then the derived ones.
    pub stored: Vec<Reading>,
    /// Row and reason, in the order of the rows.
    pub rejected: Vec<(u32, String)>,
    /// Alarms raised and cleared, in order.
    pub alarms: Vec<Alarm>,
    /// Rows taken out.
    pub filtered: u64,
    /// The shape of the answer: `all`, `none`, `rows`, `changed` or `rows-changed`.
    pub shape: &'static str,
    /// Lines written to the log.
    pub log: Vec<String>,
}

type Run = Box<dyn Fn(Batch) -> Result<Answer, Fault>>;
type RunTick = Box<dyn Fn(i64, Vec<String>) -> Result<Batch, Fault>>;

/// Series that one call of a tick is about.
const TICK_SERIES: usize = 1024;

/// A gateway's slot with one filter in it.
pub struct Harness {
    run: Run,
    tick: Option<RunTick>,
    width: usize,
    settings: Json,
    secrets: BTreeMap<String, Vec<u8>>,
    now: i64,
    series: BTreeMap<String, Vec<u8>>,
    global: BTreeMap<String, Vec<u8>>,
}

impl Harness {
    /// A slot without settings, secrets or memory, at the time 0.
    pub fn new<Kind, F: Filter<Kind> + 'static>(filter: F) -> Self {
        Self {
            run: Box::new(move |batch| filter.run(batch)),
            tick: None,
            width: F::WIDTH,
            settings: Json::Object(Map::new()),
            secrets: BTreeMap::new(),
            now: 0,
            series: BTreeMap::new(),
            global: BTreeMap::new(),
        }
    }

    /// What the filter does as time passes.
    ///
    /// # Panics
    /// Where it keeps another record than the filter.
    #[must_use]
    pub fn ticking<Kind, F: OnTick<Kind> + 'static>(mut self, tick: F) -> Self {
        assert_eq!(self.width, F::WIDTH, "the records of `process` and `tick`");
        self.tick = Some(Box::new(move |now, series| tick.run(now, series)));
        self
    }

    /// The slot's settings.
    #[must_use]
    pub fn settings(mut self, settings: Json) -> Self {
        self.settings = settings;
        self
    }

    /// A secret that the site names for the slot.
    #[must_use]
    pub fn secret(mut self, name: &str, bytes: &[u8]) -> Self {
        self.secrets.insert(name.to_owned(), bytes.to_vec());
        self
    }

    /// When the next batches arrive: nanoseconds since the epoch.
    #[must_use]
    pub fn at(mut self, now: i64) -> Self {
        self.now = now;
        self
    }

    /// The record that is kept for a series.
    #[must_use]
    pub fn record(&self, series: &str) -> Option<&[u8]> {
        self.series.get(series).map(Vec::as_slice)
    }

    /// Runs one batch.
    ///
    /// # Errors
    /// The filter's fault; nothing that it did counts then.
    ///
    /// # Panics
    /// When the answer breaks the contract.
    pub fn run(&mut self, input: &[Reading]) -> Result<Outcome, Fault> {
        let batch = batch(input);
        let (answer, slot) = self.call(&batch.names, |harness| (harness.run)(batch.clone()))?;
        Ok(Outcome {
            alarms: alarms(slot.alarms, input),
            log: slot.log,
            ..apply(input, answer)
        })
    }

    /// Lets the time come for a tick: one call for every 1024 series with a record, in the order of their names.
    ///
    /// # Errors
    /// The filter's fault; nothing that it did in that call counts then.
    ///
    /// # Panics
    /// When the answer breaks the contract, and where the filter has no tick.
    pub fn tick(&mut self) -> Result<Outcome, Fault> {
        let series: Vec<String> = self.series.keys().cloned().collect();
        let calls: Vec<&[String]> = match self.width {
            0 => vec![&[]],
            _ => series.chunks(TICK_SERIES).collect(),
        };
        let mut outcome = Outcome::default();
        for names in calls {
            let (rows, slot) = self.call(names, |harness| {
                let tick = harness.tick.as_ref().expect("the filter has a tick");
                tick(harness.now, names.to_vec())
            })?;
            let rows = sound(&rows);
            outcome.alarms.extend(alarms(slot.alarms, &rows));
            outcome.stored.extend(rows);
            outcome.log.extend(slot.log);
        }
        Ok(outcome)
    }

    /// One call about these series. What it leaves behind counts only if it succeeds.
    fn call<T>(
        &mut self,
        names: &[String],
        run: impl FnOnce(&Self) -> Result<T, Fault>,
    ) -> Result<(T, host::Slot), Fault> {
        let none = vec![0; self.width];
        let records: Vec<u8> = names
            .iter()
            .flat_map(|name| self.series.get(name).unwrap_or(&none).iter().copied())
            .collect();
        let bytes = records.len();
        host::enter(host::Slot {
            settings: self.settings.clone(),
            secrets: self.secrets.clone(),
            now: self.now,
            records,
            global: self.global.clone(),
            ..host::Slot::default()
        });
        let answer = run(self);
        let mut slot = host::leave();
        let answer = answer?;

        self.global = std::mem::take(&mut slot.global);
        assert_eq!(
            slot.records.len(),
            bytes,
            "the filter stored another number of state bytes than it was given"
        );
        for (name, record) in names
            .iter()
            .zip(slot.records.chunks_exact(self.width.max(1)))
        {
            if record.iter().all(|&byte| byte == 0) {
                self.series.remove(name);
            } else {
                self.series.insert(name.clone(), record.to_vec());
            }
        }
        Ok((answer, slot))
    }
}

/// Calls about rows as what they say.
fn alarms(calls: Vec<host::AlarmCall>, rows: &[Reading]) -> Vec<Alarm> {
    let alarm = |call: host::AlarmCall| Alarm {
        series: rows[call.row as usize].series.clone(),
        code: call.code,
        state: if call.severity.is_some() {
            "raised"
        } else {
            "cleared"
        },
        severity: call.severity,
        text: call.text,
    };
    calls.into_iter().map(alarm).collect()
}

/// Readings as columns, series in order of their first row.
fn batch(readings: &[Reading]) -> Batch {
    let mut batch = Batch::default();
    for reading in readings {
        let series = match batch.names.iter().position(|name| *name == reading.series) {
            Some(place) => place,
            None => {
                batch.names.push(reading.series.clone());
                batch.names.len() - 1
            }
        };
        let series = u32::try_from(series).unwrap_or(u32::MAX);
        batch.push(
            series,
            reading.time,
            reading.value.as_value(),
            reading.quality,
        );
    }
    batch
}

fn readings(batch: &Batch) -> Vec<Reading> {
    batch
        .rows()
        .map(|row| Reading {
            series: row.series().to_owned(),
            time: row.time(),
            value: row.value().into(),
            quality: row.quality(),
        })
        .collect()
}

/// Does with an answer what the gateway does, after it looked at it as closely as the gateway.
fn apply(input: &[Reading], answer: Answer) -> Outcome {
    let mut rejected = answer.rejected;
    rejected.sort_by_key(|(row, _)| *row);
    let lost: BTreeSet<usize> = rejected.iter().map(|(row, _)| *row as usize).collect();
    assert_eq!(lost.len(), rejected.len(), "a row was rejected twice");
    assert!(
        lost.iter().all(|&row| row < input.len()),
        "a row was rejected that was never there"
    );

    let all = vec![true; input.len()];
    let (shape, bits, contents) = match answer.keep {
        Keep::All => ("all", all, input.to_vec()),
        Keep::None => ("none", vec![false; input.len()], input.to_vec()),
        Keep::Rows(bitmap) => ("rows", bits(&bitmap, input.len()), input.to_vec()),
        Keep::Changed(batch) => ("changed", all, sound(&batch)),
        Keep::RowsChanged(bitmap, batch) => {
            let bits = bits(&bitmap, input.len());
            let mut changed = sound(&batch).into_iter();
            let contents = bits
                .iter()
                .zip(input)
                .map(|(&bit, row)| {
                    if bit {
                        changed.next().expect("a row for every set bit")
                    } else {
                        row.clone()
                    }
                })
                .collect();
            assert_eq!(changed.next(), None, "more rows than set bits");
            ("rows-changed", bits, contents)
        }
    };
    assert_eq!(
        contents.len(),
        input.len(),
        "a changed batch has another number of rows"
    );

    let mut outcome = Outcome {
        shape,
        ..Outcome::default()
    };
    for (row, (reading, keep)) in contents.into_iter().zip(bits).enumerate() {
        match (lost.contains(&row), keep) {
            (true, _) => {}
            (false, true) => outcome.stored.push(reading),
            (false, false) => outcome.filtered += 1,
        }
    }
    outcome.stored.extend(answer.derived.iter().flat_map(sound));
    outcome.rejected = rejected;
    outcome
}

fn bits(bitmap: &[u8], rows: usize) -> Vec<bool> {
    assert_eq!(bitmap.len(), rows.div_ceil(8), "length of the bitmap");
    (0..rows)
        .map(|row| bitmap[row / 8] >> (row % 8) & 1 == 1)
        .collect()
}

fn sound(batch: &Batch) -> Vec<Reading> {
    let distinct: BTreeSet<&String> = batch.names.iter().collect();
    assert_eq!(
        distinct.len(),
        batch.names.len(),
        "a name stands there twice"
    );
    let texts: BTreeSet<u64> = batch
        .kind
        .iter()
        .zip(&batch.bits)
        .filter(|(kind, _)| **kind == 3)
        .map(|(_, bits)| *bits)
        .collect();
    assert_eq!(
        texts.len(),
        batch.texts.len(),
        "a text that no row refers to"
    );
    readings(batch)
}

/// Runs a module's golden vectors, and holds its manifest against what the code says. The format is in
/// `modules/README.md`; times are nanoseconds here.
///
/// # Panics
/// With the vector's name, the step and both sides, where they differ.
pub fn check_vectors<Kind, F: Filter<Kind> + Copy + 'static>(
    filter: F,
    manifest: &str,
    vectors: &str,
) {
    run_vectors(|| Harness::new(filter), F::WIDTH, manifest, vectors);
}

/// The same for a filter with ticks: steps with `"tick": true` have no input.
///
/// # Panics
/// Like [`check_vectors`].
pub fn check_ticking_vectors<Kind, F, OnKind, T>(filter: F, tick: T, manifest: &str, vectors: &str)
where
    F: Filter<Kind> + Copy + 'static,
    T: OnTick<OnKind> + Copy + 'static,
{
    let harness = || Harness::new(filter).ticking(tick);
    run_vectors(harness, F::WIDTH, manifest, vectors);
}

fn run_vectors(harness: impl Fn() -> Harness, width: usize, manifest: &str, vectors: &str) {
    let manifest: Json = serde_json::from_str(manifest).expect("the manifest is JSON");
    let declared = match manifest["state"].as_object() {
        Some(state) => state["series"]["width"].as_u64(),
        None => Some(0),
    };
    assert_eq!(
        declared,
        Some(width as u64),
        "the manifest's state and the filter's record"
    );

    let begin = |settings, secrets| Harness {
        settings,
        secrets,
        ..harness()
    };
    let keys = ["now", "tick", "input", "expect"];
    each_step(vectors, begin, &keys, |harness, step, place| {
        harness.now = step["now"].as_i64().unwrap_or(0);
        let input: Vec<Reading> = list(&step["input"]).iter().map(reading).collect();
        let outcome = match step["tick"].as_bool() {
            Some(true) => {
                assert!(input.is_empty(), "{place}: a tick has no input");
                harness.tick()
            }
            Some(false) | None => harness.run(&input),
        };
        expect(&step["expect"], outcome, place);
    });
}

/// Goes through golden vectors: each begins with its settings and secrets, and every step has these keys at most.
fn each_step<H>(
    vectors: &str,
    begin: impl Fn(Json, BTreeMap<String, Vec<u8>>) -> H,
    keys: &[&str],
    mut take: impl FnMut(&mut H, &Json, &str),
) {
    let vectors: Json = serde_json::from_str(vectors).expect("the vectors are JSON");
    for vector in list(&vectors["vectors"]) {
        let name = vector["name"].as_str().expect("a vector has a name");
        known(vector, &["name", "settings", "secrets", "steps"], name);
        let mut settings = vector["settings"].clone();
        if settings.is_null() {
            settings = Json::Object(Map::new());
        }
        let secrets = vector["secrets"].as_object().into_iter().flatten();
        let secrets = secrets.map(|(secret, text)| {
            let text = text.as_str().expect("a secret is a text");
            (secret.clone(), text.as_bytes().to_vec())
        });
        let mut harness = begin(settings, secrets.collect());
        for (number, step) in list(&vector["steps"]).iter().enumerate() {
            let place = format!("vector `{name}`, step {number}");
            known(step, keys, &place);
            take(&mut harness, step, &place);
        }
    }
}

fn expect(expect: &Json, outcome: Result<Outcome, Fault>, place: &str) {
    known(
        expect,
        &["stored", "rejected", "alarms", "filtered", "fault"],
        place,
    );
    let Some(outcome) = expect_fault(expect, outcome, place) else {
        return;
    };
    expect_stored(expect, &outcome.stored, place);
    if let Some(filtered) = expect["filtered"].as_u64() {
        assert_eq!(outcome.filtered, filtered, "{place}: filtered");
    }
    expect_reasons(expect, ("rejected", "row"), &outcome.rejected, place);
    let alarms = &outcome.alarms;
    expect_each(expect, "alarms", alarms, place, |expected, alarm| {
        known(
            expected,
            &["series", "code", "state", "severity", "text"],
            place,
        );
        expected["series"] == alarm.series.as_str()
            && expected["code"] == alarm.code.as_str()
            && expected["state"] == alarm.state
            && expected["severity"]
                .as_str()
                .is_none_or(|s| Some(s) == alarm.severity)
            && expected["text"]
                .as_str()
                .is_none_or(|part| alarm.text.contains(part))
    });
}

/// What came out, where no fault was expected; a fault is the one that was.
fn expect_fault<T: Debug>(expect: &Json, outcome: Result<T, Fault>, place: &str) -> Option<T> {
    match (outcome, expect["fault"].as_str()) {
        (Ok(outcome), None) => Some(outcome),
        (Err(fault), Some(expected)) => {
            assert!(
                fault.message().contains(expected),
                "{place}: the fault is {:?} where {expected:?} is expected",
                fault.message()
            );
            None
        }
        (outcome, expected) => panic!("{place}: {outcome:?} where the fault is {expected:?}"),
    }
}

/// Readings are not looked at where nothing is said of them.
fn expect_stored(expect: &Json, stored: &[Reading], place: &str) {
    if !expect["stored"].is_null() {
        expect_each(expect, "stored", stored, place, |expected, got| {
            near(&reading(expected), got)
        });
    }
}

/// Numbers with a reason, of which a part is expected.
fn expect_reasons(expect: &Json, (what, number): (&str, &str), got: &[(u32, String)], place: &str) {
    expect_each(expect, what, got, place, |expected, (place_of, reason)| {
        known(expected, &[number, "reason"], place);
        expected[number].as_u64() == Some(u64::from(*place_of))
            && expected["reason"]
                .as_str()
                .is_none_or(|part| reason.contains(part))
    });
}

/// As many as are expected, each of which fits.
fn expect_each<T: Debug>(
    expect: &Json,
    what: &str,
    got: &[T],
    place: &str,
    fits: impl Fn(&Json, &T) -> bool,
) {
    let expected = list(&expect[what]);
    let mut pairs = expected.iter().zip(got);
    assert!(
        expected.len() == got.len() && pairs.all(|(expected, got)| fits(expected, got)),
        "{place}: {what}\n{got:?}\nwhere this is expected\n{expected:?}"
    );
}

/// Floats within a billionth; an expected integer also stands for a float of its value, and what is no number for every float
/// that is not finite.
fn near(expected: &Reading, got: &Reading) -> bool {
    let close = |a: f64, b: f64| a.is_nan() && !b.is_finite() || (a - b).abs() <= 1e-9 * a.abs();
    let same = match (&expected.value, &got.value) {
        (Owned::Float(a), Owned::Float(b)) => close(*a, *b),
        (Owned::Int(a), Owned::Float(b)) => close(*a as f64, *b),
        (a, b) => a == b,
    };
    same && (&expected.series, expected.time, expected.quality)
        == (&got.series, got.time, got.quality)
}

fn reading(json: &Json) -> Reading {
    known(json, &["series", "time", "value", "quality"], "a reading");
    let value = match &json["value"] {
        Json::Null => Owned::Float(f64::NAN),
        Json::Bool(value) => Owned::Bool(*value),
        Json::String(value) => Owned::Text(value.clone()),
        Json::Number(value) => match value.as_i64() {
            Some(value) => Owned::Int(value),
            None => Owned::Float(value.as_f64().expect("a number is a double")),
        },
        other @ (Json::Array(_) | Json::Object(_)) => panic!("{other} is no value"),
    };
    Reading {
        series: json["series"].as_str().expect("a series").to_owned(),
        time: json["time"].as_i64().expect("a time in nanoseconds"),
        quality: match json["quality"].as_str() {
            None if json["value"].is_null() => Quality::Bad,
            None | Some("good") => Quality::Good,
            Some("uncertain") => Quality::Uncertain,
            Some("bad") => Quality::Bad,
            Some(other) => panic!("{other} is no quality"),
        },
        value,
    }
}

/// An absent list is an empty one.
fn list(json: &Json) -> &Vec<Json> {
    const EMPTY: &Vec<Json> = &Vec::new();
    match json {
        Json::Array(items) => items,
        Json::Null => EMPTY,
        Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => {
            panic!("{json} is no list")
        }
    }
}

/// A key that nobody reads would be an expectation that nobody checks.
fn known(json: &Json, keys: &[&str], place: &str) {
    for key in json.as_object().unwrap_or(&Map::new()).keys() {
        assert!(
            keys.contains(&key.as_str()),
            "{place}: the key `{key}` means nothing"
        );
    }
}
