//! Golden vectors: what a module makes of given rows, run in the very engine that production uses.
//!
//! ```json
//! {"vectors": [
//!   {"name": "keeps what moved", "settings": {"width": 0.5}, "secrets": {"key": "text"},
//!    "steps": [
//!      {"now": "2026-01-01T00:00:00Z",
//!       "input":  [{"series": "a/temp", "time": 0, "value": 20.0, "quality": "good"}],
//!       "expect": {"stored": [{"series": "a/temp", "time": 0, "value": 20.0}],
//!                  "filtered": 0, "rejected": [{"row": 0, "reason": "…"}],
//!                  "alarms": [{"series": "a/temp", "code": "spike", "state": "raised"}],
//!                  "fault": "…"}}]}]}
//! ```
//!
//! A step with `"tick": true` instead of `input` calls the filter's `tick`; what it adds is `stored`.
//!
//! The steps of a vector share the filter's state. Times are RFC 3339 or nanoseconds since the epoch; a step's `now` is
//! what the module's clock says. A value with a decimal point is a float, one without an integer, `null` a float that
//! is no number. What `expect` leaves out is not looked at, with three exceptions: rejections, alarms and faults that are
//! not expected fail the step. In `expect`, floats are equal within a billionth, an integer also stands for a float of
//! its value, and a `reason` or `fault` is a part of what the module says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::outcome::{
    AlarmChange, AlarmState, PipelineOutcome, QuarantinedReadings, Severity, reason,
};
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, Batch, Quality, Value};

use crate::chain::{Pipeline, PipelineConfig, PipelineError};
use crate::decoder_vectors;
use crate::engine::Runtime;
use crate::grants::{self, Directories, Grant};
use crate::host::Secret;
use crate::manifest::{LoadedModule, SlotLimits};
use crate::slot::{OnFailure, SlotConfig};
use crate::stats::FilterStats;
use crate::worlds::Role;

/// How far apart equal floats may be, relative to the expected one.
const TOLERANCE: f64 = 1e-9;
/// A file of vectors is for people to read; larger ones are refused.
const FILE_BYTES: usize = 4 * 1024 * 1024;

/// What became of one vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorResult {
    /// The vector's name.
    pub name: String,
    /// What was not as expected, by step; none when it passed.
    pub problems: Vec<String>,
}

impl VectorResult {
    /// True when everything was as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Why vectors cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The file is no JSON of the form above.
    #[error("the vectors cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The file is too large.
    #[error("the vectors have more than {FILE_BYTES} bytes")]
    Size,
    /// A time or value of an input means nothing.
    #[error("vector `{vector}`, step {step}: {problem}")]
    Input {
        /// The vector.
        vector: String,
        /// The step, from 1.
        step: usize,
        /// What is wrong.
        problem: String,
    },
    /// The module cannot be set up with a vector's settings.
    #[error("vector `{vector}`")]
    Module {
        /// The vector.
        vector: String,
        /// Why.
        source: PipelineError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    #[serde(default = "no_settings")]
    settings: Json,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    steps: Vec<Step>,
}

pub(crate) fn no_settings() -> Json {
    Json::Object(serde_json::Map::new())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    now: Option<Time>,
    #[serde(default)]
    tick: bool,
    #[serde(default)]
    input: Option<Vec<Row>>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Time {
    Nanoseconds(i64),
    Rfc3339(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    series: String,
    time: Time,
    value: Json,
    #[serde(default)]
    quality: Option<WantedQuality>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedQuality {
    Good,
    Uncertain,
    Bad,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    stored: Option<Vec<Row>>,
    #[serde(default)]
    filtered: Option<u64>,
    #[serde(default)]
    rejected: Vec<WantedRejection>,
    #[serde(default)]
    alarms: Vec<WantedAlarm>,
    #[serde(default)]
    fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedRejection {
    row: usize,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedAlarm {
    series: String,
    code: String,
    state: AlarmState,
    #[serde(default)]
    severity: Option<Severity>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    value: Option<f64>,
    #[serde(default)]
    time: Option<Time>,
}

/// Runs golden vectors with the grants that a site gives, and with the secrets that each vector names.
///
/// # Errors
/// Vectors that cannot be read, and settings or grants that the module refuses. A module that does something else than
/// expected is no error but a [`VectorResult`] with problems.
pub fn run_vectors(
    runtime: &Runtime,
    module: &Arc<LoadedModule>,
    policy: &[Grant],
    vectors: &[u8],
) -> Result<Vec<VectorResult>, VectorError> {
    let given = Given {
        policy,
        ceiling: &SlotLimits::default(),
        directories: &Directories::new(),
    };
    run_vectors_with(runtime, module, &given, vectors)
}

/// What a module is given beside its vectors.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Grants that a site would give.
    pub policy: &'a [Grant],
    /// The bounds up to which it gets what it wants.
    pub ceiling: &'a SlotLimits,
    /// Directories that it finds, where its manifest asks for them.
    pub directories: &'a Directories,
}

/// The same with more than the defaults.
///
/// # Errors
/// Those of [`run_vectors`].
pub fn run_vectors_with(
    runtime: &Runtime,
    module: &Arc<LoadedModule>,
    given: &Given<'_>,
    vectors: &[u8],
) -> Result<Vec<VectorResult>, VectorError> {
    if vectors.len() > FILE_BYTES {
        return Err(VectorError::Size);
    }
    if module.manifest.world.role() == Role::Decoder {
        return decoder_vectors::run_vectors(runtime, module, given, vectors);
    }
    let file: File = serde_json::from_slice(vectors)?;
    file.vectors
        .iter()
        .map(|vector| run(runtime, module, given, vector))
        .collect()
}

fn run(
    runtime: &Runtime,
    module: &Arc<LoadedModule>,
    given: &Given<'_>,
    vector: &Vector,
) -> Result<VectorResult, VectorError> {
    let policy = given.policy.iter().copied().collect();
    let secrets: BTreeMap<String, Secret> = vector
        .secrets
        .iter()
        .map(|(name, text)| (name.clone(), Secret::new(text.clone().into_bytes())))
        .collect();
    let config = PipelineConfig {
        index: 0,
        name: "vectors".to_owned(),
        select: SeriesFilter::default(),
        slots: vec![SlotConfig {
            filter: module.manifest.name.clone(),
            module: Arc::clone(module),
            settings: vector.settings.clone(),
            on_failure: OnFailure::Quarantine,
            limits: SlotLimits::granted(&module.manifest.limits, given.ceiling),
            grants: grants::granted(&module.manifest, &policy, !secrets.is_empty()),
            directories: grants::directories(&module.manifest, given.directories),
            secrets,
        }],
    };
    let mut pipeline =
        Pipeline::new(runtime, config, &BTreeMap::new()).map_err(|source| VectorError::Module {
            vector: vector.name.clone(),
            source,
        })?;
    let mut problems = Vec::new();
    for (step, wanted) in (1..).zip(&vector.steps) {
        let input = |problem| VectorError::Input {
            vector: vector.name.clone(),
            step,
            problem,
        };
        let arrival = Arrival {
            wall: wanted
                .now
                .as_ref()
                .map_or(Ok(0), nanoseconds)
                .map_err(input)?,
            synced: true,
            ..Arrival::default()
        };
        let now = Instant::now();
        let (rows, outcome) = match (&wanted.input, wanted.tick) {
            (Some(rows), false) => {
                let rows = batch(rows).map_err(input)?;
                let outcome = pipeline.run(&rows, arrival, now);
                (rows, outcome)
            }
            (None, true) => {
                let outcome = tick(&mut pipeline, arrival, now).map_err(input)?;
                (Batch::default(), outcome)
            }
            (Some(_), true) | (None, false) => {
                return Err(input(
                    "a step has either `input` or `\"tick\": true`".to_owned(),
                ));
            }
        };
        let found = compare(&rows, &outcome, &wanted.expect).map_err(input)?;
        problems.extend(
            found
                .into_iter()
                .map(|problem| format!("step {step}: {problem}")),
        );
    }
    Ok(VectorResult {
        name: vector.name.clone(),
        problems,
    })
}

/// Has the filter ticked. Nothing is set aside of a tick that fails; here it is what a batch would have been.
fn tick(
    pipeline: &mut Pipeline,
    arrival: Arrival,
    now: Instant,
) -> Result<PipelineOutcome, String> {
    let stats = pipeline.stats();
    let failures = stats.failures();
    pipeline.tick_now(now);
    let ticked = pipeline.tick(arrival, now);
    let mut outcome = ticked.ok_or("the module has no `tick`")?;
    if stats.failures() != failures {
        for filter in stats.filters.iter().map(FilterStats::snapshot) {
            outcome
                .quarantined
                .extend(filter.last_error.map(|error| QuarantinedReadings {
                    filter: filter.filter,
                    reason: error.reason,
                    detail: error.detail,
                    rows: Batch::default(),
                }));
        }
    }
    Ok(outcome)
}

fn batch(rows: &[Row]) -> Result<Batch, String> {
    let mut builder = BatchBuilder::new();
    for row in rows {
        let series = builder.series(&row.series.as_str().into());
        let value = match &row.value {
            Json::Null => Value::Float(f64::NAN),
            Json::Bool(value) => Value::Bool(*value),
            Json::String(text) => Value::Text(text),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::Array(_) | Json::Object(_) => {
                return Err(format!("{} is no value of a reading", row.value));
            }
        };
        let quality = match (row.quality, &row.value) {
            (Some(quality), _) => quality.into(),
            (None, Json::Null) => Quality::Bad,
            (None, _) => Quality::Good,
        };
        builder.push(series, nanoseconds(&row.time)?, value, quality);
    }
    Ok(builder.finish())
}

impl From<WantedQuality> for Quality {
    fn from(quality: WantedQuality) -> Self {
        match quality {
            WantedQuality::Good => Self::Good,
            WantedQuality::Uncertain => Self::Uncertain,
            WantedQuality::Bad => Self::Bad,
        }
    }
}

pub(crate) fn nanoseconds(time: &Time) -> Result<i64, String> {
    match time {
        Time::Nanoseconds(time) => Ok(*time),
        Time::Rfc3339(text) => text
            .parse::<jiff::Timestamp>()
            .map_err(|error| format!("`{text}` is no time: {error}"))
            .and_then(|time| {
                i64::try_from(time.as_nanosecond())
                    .map_err(|_| format!("`{text}` is out of the range of nanoseconds"))
            }),
    }
}

fn compare(
    input: &Batch,
    outcome: &PipelineOutcome,
    expect: &Expect,
) -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    failures(outcome, expect, &mut problems);
    if let Some(wanted) = &expect.stored {
        stored(&outcome.stored, wanted, &mut problems)?;
    }
    if let Some(wanted) = expect.filtered
        && wanted != outcome.filtered
    {
        problems.push(format!(
            "filtered {} rows, expected {wanted}",
            outcome.filtered
        ));
    }
    rejections(input, outcome, &expect.rejected, &mut problems);
    alarms(&outcome.alarms, &expect.alarms, &mut problems)?;
    Ok(problems)
}

fn failures(outcome: &PipelineOutcome, expect: &Expect, problems: &mut Vec<String>) {
    let mut faulted = false;
    for set_aside in &outcome.quarantined {
        match (set_aside.reason, &expect.fault) {
            (reason::REJECTED, _) => {}
            (reason::FAULT, Some(wanted)) => {
                faulted = true;
                if !set_aside.detail.contains(wanted.as_str()) {
                    problems.push(format!(
                        "the fault says `{}`, expected `{wanted}`",
                        set_aside.detail
                    ));
                }
            }
            (reason, _) => problems.push(format!("{reason}: {}", set_aside.detail)),
        }
    }
    if let Some(wanted) = &expect.fault
        && !faulted
    {
        problems.push(format!("no fault, expected `{wanted}`"));
    }
}

pub(crate) fn stored(
    got: &Batch,
    wanted: &[Row],
    problems: &mut Vec<String>,
) -> Result<(), String> {
    if got.len() != wanted.len() {
        let rows: Vec<String> = (0..got.len()).map(|row| describe(got, row)).collect();
        problems.push(format!(
            "stored {} rows, expected {}: {}",
            got.len(),
            wanted.len(),
            rows.join(", ")
        ));
        return Ok(());
    }
    for (row, wanted) in wanted.iter().enumerate() {
        let quality: Option<Quality> = wanted.quality.map(Into::into);
        let same = **got.name(row) == *wanted.series
            && got.time[row] == nanoseconds(&wanted.time)?
            && equal(got.value(row), &wanted.value)
            && quality.is_none_or(|quality| quality == got.quality(row));
        if !same {
            problems.push(format!(
                "stored row {row} is {}, expected {} at {} with {}",
                describe(got, row),
                wanted.series,
                nanoseconds(&wanted.time)?,
                wanted.value
            ));
        }
    }
    Ok(())
}

fn describe(batch: &Batch, row: usize) -> String {
    format!(
        "{} at {} with {:?} ({})",
        batch.name(row),
        batch.time[row],
        batch.value(row),
        batch.quality(row).as_str()
    )
}

fn equal(got: Value<'_>, wanted: &Json) -> bool {
    match (got, wanted) {
        (Value::Float(got), Json::Null) => !got.is_finite(),
        (Value::Float(got), Json::Number(wanted)) => {
            wanted.as_f64().is_some_and(|wanted| close(got, wanted))
        }
        (Value::Int(got), Json::Number(wanted)) => wanted.as_i64() == Some(got),
        (Value::Bool(got), Json::Bool(wanted)) => got == *wanted,
        (Value::Text(got), Json::String(wanted)) => got == wanted,
        (Value::Float(_) | Value::Int(_) | Value::Bool(_) | Value::Text(_), _) => false,
    }
}

fn close(got: f64, wanted: f64) -> bool {
    (got - wanted).abs() <= TOLERANCE * wanted.abs()
}

/// The outcome has the rejected rows themselves: they are found in the input, in order.
fn rejections(
    input: &Batch,
    outcome: &PipelineOutcome,
    wanted: &[WantedRejection],
    problems: &mut Vec<String>,
) {
    let mut got: Vec<(usize, &str)> = Vec::new();
    for set_aside in &outcome.quarantined {
        if set_aside.reason != reason::REJECTED {
            continue;
        }
        let rows = &set_aside.rows;
        let mut next = 0;
        for row in 0..rows.len() {
            let found = (next..input.len())
                .filter(|at| got.iter().all(|(taken, _)| taken != at))
                .find(|at| describe(input, *at) == describe(rows, row));
            if let Some(at) = found {
                got.push((at, &set_aside.detail));
                next = at + 1;
            }
        }
    }
    got.sort_unstable();
    let fits = got.len() == wanted.len()
        && wanted.iter().all(|wanted| {
            got.iter().any(|(row, said)| {
                *row == wanted.row
                    && wanted
                        .reason
                        .as_ref()
                        .is_none_or(|w| said.contains(w.as_str()))
            })
        });
    if !fits {
        let wanted: Vec<usize> = wanted.iter().map(|wanted| wanted.row).collect();
        problems.push(format!("rejected {got:?}, expected rows {wanted:?}"));
    }
}

fn alarms(
    got: &[AlarmChange],
    wanted: &[WantedAlarm],
    problems: &mut Vec<String>,
) -> Result<(), String> {
    let mut same = got.len() == wanted.len();
    for (got, wanted) in got.iter().zip(wanted) {
        let time = wanted.time.as_ref().map(nanoseconds).transpose()?;
        same &= *got.series == *wanted.series
            && got.code == wanted.code
            && got.state == wanted.state
            && wanted
                .severity
                .is_none_or(|severity| severity == got.severity)
            && wanted
                .text
                .as_ref()
                .is_none_or(|text| got.text.contains(text.as_str()))
            && wanted
                .value
                .is_none_or(|value| got.value.is_some_and(|got| close(got, value)))
            && time.is_none_or(|time| time == got.time);
    }
    if !same {
        let words =
            |series: &str, state: AlarmState, code: &str| format!("{code} {state:?} on {series}");
        let got: Vec<String> = got
            .iter()
            .map(|alarm| words(&alarm.series, alarm.state, &alarm.code))
            .collect();
        let wanted: Vec<String> = wanted
            .iter()
            .map(|alarm| words(&alarm.series, alarm.state, &alarm.code))
            .collect();
        problems.push(format!("alarms {got:?}, expected {wanted:?}"));
    }
    Ok(())
}
