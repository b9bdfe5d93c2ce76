//! Golden vectors of decoders: what a decoder makes of given messages, in the very engine that production uses.
//!
//! ```json
//! {"vectors": [
//!   {"name": "one number", "settings": {},
//!    "steps": [
//!      {"messages": [{"topic": "a", "time": 0, "text": "17"}, {"topic": "b", "hex": "00 ff"}],
//!       "expect": {"stored": [{"series": "a", "time": 0, "value": 17}],
//!                  "undecoded": [{"message": 1, "reason": "…"}],
//!                  "notes": ["…"], "fault": "…"}}]}]}
//! ```
//!
//! The steps of a vector share the decoder's state. A payload is `text`, `hex` (blanks in it mean nothing) or `json`. The
//! rest is as with the vectors of filters; notes that are not expected fail the step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value as Json;
use tidegate_domain::outcome::reason;
use tidegate_domain::{Arrival, Message};

use crate::chain::PipelineError;
use crate::decoder::{DecodedByModule, DecoderConfig, ModuleDecoder};
use crate::engine::Runtime;
use crate::grants;
use crate::host::Secret;
use crate::manifest::{LoadedModule, SlotLimits};
use crate::test_vectors::{
    Given, Row, Time, VectorError, VectorResult, nanoseconds, no_settings, stored,
};

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    messages: Vec<WrittenMessage>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMessage {
    topic: String,
    #[serde(default)]
    time: Option<Time>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    hex: Option<String>,
    #[serde(default)]
    json: Option<Json>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    stored: Option<Vec<Row>>,
    #[serde(default)]
    undecoded: Vec<WantedUndecoded>,
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedUndecoded {
    message: usize,
    #[serde(default)]
    reason: Option<String>,
}

/// Runs the vectors of a decoder; see [`crate::test_vectors::run_vectors`].
///
/// # Errors
/// Vectors that cannot be read, and settings or grants that the module refuses.
pub(crate) fn run_vectors(
    runtime: &Runtime,
    module: &Arc<LoadedModule>,
    given: &Given<'_>,
    vectors: &[u8],
) -> Result<Vec<VectorResult>, VectorError> {
    let file: File = serde_json::from_slice(vectors)?;
    let vectors = file.vectors.iter();
    vectors
        .map(|vector| run(runtime, module, given, vector))
        .collect()
}

fn run(
    runtime: &Runtime,
    module: &Arc<LoadedModule>,
    given: &Given<'_>,
    vector: &Vector,
) -> Result<VectorResult, VectorError> {
    let secrets: BTreeMap<String, Secret> = vector
        .secrets
        .iter()
        .map(|(name, text)| (name.clone(), Secret::new(text.clone().into_bytes())))
        .collect();
    let policy = given.policy.iter().copied().collect();
    let config = DecoderConfig {
        source: "vectors".to_owned(),
        module: Arc::clone(module),
        settings: vector.settings.clone(),
        limits: SlotLimits::granted(&module.manifest.limits, given.ceiling),
        grants: grants::granted(&module.manifest, &policy, !secrets.is_empty()),
        directories: grants::directories(&module.manifest, given.directories),
        secrets,
    };
    let mut decoder =
        ModuleDecoder::new(runtime, config, None).map_err(|source| VectorError::Module {
            vector: vector.name.clone(),
            source: PipelineError {
                pipeline: "vectors".to_owned(),
                filter: module.manifest.name.clone(),
                source,
            },
        })?;
    let mut problems = Vec::new();
    // Steps a second apart, so that the rate of notes keeps none back.
    let mut now = Instant::now();
    for (step, wanted) in (1..).zip(&vector.steps) {
        let input = |problem| VectorError::Input {
            vector: vector.name.clone(),
            step,
            problem,
        };
        let messages = wanted.messages.iter().map(message);
        let messages: Vec<Message> = messages.collect::<Result<_, _>>().map_err(input)?;
        now += Duration::from_secs(1);
        let made = decoder.decode(&messages, now);
        let found = compare(&made, &wanted.expect).map_err(input)?;
        let found = found.into_iter();
        problems.extend(found.map(|problem| format!("step {step}: {problem}")));
    }
    Ok(VectorResult {
        name: vector.name.clone(),
        problems,
    })
}

fn message(written: &WrittenMessage) -> Result<Message, String> {
    let payload = match (&written.text, &written.hex, &written.json) {
        (Some(text), None, None) => text.clone().into_bytes(),
        (None, Some(digits), None) => unhex(digits)?,
        (None, None, Some(json)) => json.to_string().into_bytes(),
        _ => return Err("a message has one payload: `text`, `hex` or `json`".to_owned()),
    };
    let wall = written.time.as_ref().map_or(Ok(0), nanoseconds)?;
    Ok(Message {
        source: 0,
        topic: written.topic.as_str().into(),
        payload: payload.into(),
        arrival: Arrival {
            wall,
            synced: true,
            ..Arrival::default()
        },
        ack: None,
        redelivered: false,
        identity: None,
    })
}

fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let pairs = digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2);
        text.and_then(|text| u8::from_str_radix(text, 16).ok())
            .ok_or_else(|| "`hex` has something else than pairs of hex digits".to_owned())
    });
    pairs.collect()
}

fn compare(made: &DecodedByModule, expect: &Expect) -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    let mut undecoded = Vec::new();
    let mut fault = None;
    for (message, failure) in &made.decoded.failures {
        match failure.reason {
            reason::UNDECODABLE | reason::OVERSIZE => {
                undecoded.push((*message, failure.detail.as_str()));
            }
            reason::FAULT => fault = Some(failure.detail.as_str()),
            other => problems.push(format!("message {message}: {other}: {}", failure.detail)),
        }
    }
    match (fault, expect.fault.as_deref()) {
        (None, None) => {}
        (Some(got), Some(wanted)) if got.contains(wanted) => {}
        (got, wanted) => problems.push(format!("the fault is {got:?}, expected {wanted:?}")),
    }
    let fits = undecoded.len() == expect.undecoded.len()
        && undecoded
            .iter()
            .zip(&expect.undecoded)
            .all(|((message, said), wanted)| {
                let part = wanted.reason.as_deref().unwrap_or_default();
                *message == wanted.message && said.contains(part)
            });
    if !fits {
        let wanted: Vec<usize> = expect.undecoded.iter().map(|u| u.message).collect();
        problems.push(format!(
            "undecoded {undecoded:?}, expected messages {wanted:?}"
        ));
    }
    if let Some(wanted) = &expect.stored {
        stored(&made.decoded.batch, wanted, &mut problems)?;
    }
    let fits = made.notes.len() == expect.notes.len()
        && made
            .notes
            .iter()
            .zip(&expect.notes)
            .all(|(note, part)| note.contains(part.as_str()));
    if !fits {
        problems.push(format!(
            "notes {:?}, expected {:?}",
            made.notes, expect.notes
        ));
    }
    Ok(problems)
}
