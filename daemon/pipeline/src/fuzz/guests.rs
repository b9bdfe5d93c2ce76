//! What guests do, by the bytes that they are given: host calls with any arguments, and answers that are any piece of memory.
//! They run in the real engine, each on a fresh pipeline, so that an input does the same whenever it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::outcome::PipelineOutcome;
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, Batch, Message, Quality, Value};

use crate::grants::Grant;
use crate::manifest::{LoadedModule, Manifest, Module, Origin, StateKind};
use crate::{
    CompileRequest, DecoderConfig, ModuleDecoder, OnFailure, Pipeline, PipelineConfig, Runtime,
    RuntimeConfig, Secret, SlotConfig, SlotLimits, compile_child,
};

#[path = "../tests/guest.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the tests use the rest of it, and are not there in a fuzz target"
)]
mod guest;

/// What a filter can call: interface, function, and its parameters as the component model flattens them, `i` for an i32, `I` for
/// an i64, `F` for an f64. What comes back as more than one number goes to where the last parameter points.
const FUNCTIONS: [(&str, &str, &str); 17] = [
    ("settings", "number", "iii"),
    ("settings", "integer", "iii"),
    ("settings", "boolean", "iii"),
    ("settings", "text", "iii"),
    ("settings", "numbers", "iii"),
    ("settings", "texts", "iii"),
    ("settings", "json", "i"),
    ("secrets", "hmac-sha256", "iiiii"),
    ("log", "write", "iii"),
    ("metrics", "count", "iiI"),
    ("metrics", "gauge", "iiF"),
    ("alarm", "raise", "iiiiii"),
    ("alarm", "clear", "iii"),
    ("global-state", "get", "iii"),
    ("global-state", "set", "iiiii"),
    ("global-state", "delete", "ii"),
    ("clock", "now", ""),
];

/// The same with state by series.
const SERIES_FUNCTIONS: [(&str, &str, &str); 3] = [
    ("series-state", "load", "i"),
    ("series-state", "store", "ii"),
    ("clock", "now", ""),
];

/// Bytes of one host call in a program: which function, and six words.
const STEP: u32 = 25;
/// Where a program lies in the guest's memory, and how much of it.
const PROGRAM: u32 = 16_384;
const PROGRAM_BYTES: usize = 16_384;
/// Bytes of an answer that is taken from the input.
const ANSWER_BYTES: usize = 8_192;

/// A program of host calls. Its first byte chooses between global state and state by series.
pub fn host_calls(input: &[u8]) -> bool {
    static GLOBAL: LazyLock<Arc<LoadedModule>> = LazyLock::new(|| {
        let grants = [
            Grant::Log,
            Grant::Secrets,
            Grant::Metrics,
            Grant::Alarm,
            Grant::State,
        ];
        filter(calling(&FUNCTIONS), &grants, StateKind::Global)
    });
    static SERIES: LazyLock<Arc<LoadedModule>> = LazyLock::new(|| {
        let state = StateKind::Series { width: 2 };
        filter(calling(&SERIES_FUNCTIONS), &[Grant::State], state)
    });
    let Some((&choice, program)) = input.split_first() else {
        return false;
    };
    let module = if choice & 1 == 0 { &*GLOBAL } else { &*SERIES };
    let program = &program[..program.len().min(PROGRAM_BYTES)];
    let mut pipeline = pipeline(module);
    let outcome = pipeline.run(&carrier(program), Arrival::default(), Instant::now());
    check(&outcome);
    assert!(
        outcome.alarms.len() <= 2048,
        "more alarms than a batch may have"
    );
    !outcome.stored.is_empty()
}

/// The guest answers with the input, as the contract lays an answer of `process` out in memory.
pub fn answers(input: &[u8]) -> bool {
    static MODULE: LazyLock<Arc<LoadedModule>> = LazyLock::new(|| {
        let body = copy("bits", "(i32.shl (local.get $bits_n) (i32.const 3))");
        let component = guest::guest_of(guest::SECOND, "", "", &body);
        filter(component, &[], StateKind::None)
    });
    let input = &input[..input.len().min(ANSWER_BYTES)];
    let mut pipeline = pipeline(&MODULE);
    let outcome = pipeline.run(&carrier(input), Arrival::default(), Instant::now());
    check(&outcome);
    outcome.dropped.is_empty()
}

/// The same for a decoder's answer about one to four messages, whose payloads it is.
pub fn decodings(input: &[u8]) -> bool {
    static MODULE: LazyLock<Arc<LoadedModule>> = LazyLock::new(|| {
        let parameters: String = [
            "topics", "topics_n", "topic", "topic_n", "time", "time_n", "ends", "ends_n", "data",
            "data_n",
        ]
        .iter()
        .fold(String::new(), |mut text, name| {
            write!(text, "(param ${name} i32) ").unwrap();
            text
        });
        let copy = copy("data", "(local.get $data_n)");
        let answer = guest::ANSWER;
        let text = format!(
            r#"(module
                (memory (export "memory") 32)
                (global $next (mut i32) (i32.const 65536))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (global.get $next))
                    (global.set $next (i32.and
                        (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 7))
                        (i32.const -8)))
                    (local.get $at))
                (func (export "decode") {parameters} (result i32) {copy} (i32.const {answer})))"#
        );
        let component = guest::component(guest::SECOND, "decoder", &text);
        load("decoder@0.2.0", component, &[], StateKind::None)
    });
    let Some((&choice, input)) = input.split_first() else {
        return false;
    };
    let input = &input[..input.len().min(ANSWER_BYTES)];
    let count = 1 + usize::from(choice & 3);
    let messages: Vec<Message> = (0..count)
        .map(|number| Message {
            source: 0,
            topic: format!("t/{number}").into(),
            payload: match number {
                0 => input.to_vec().into(),
                _ => Vec::new().into(),
            },
            arrival: Arrival::default(),
            ack: None,
            redelivered: false,
            identity: None,
        })
        .collect();
    let config = DecoderConfig {
        source: "s".to_owned(),
        module: Arc::clone(&MODULE),
        settings: serde_json::json!({}),
        limits: limits(),
        grants: BTreeSet::new(),
        directories: BTreeMap::new(),
        secrets: BTreeMap::new(),
    };
    let mut decoder = ModuleDecoder::new(runtime(), config, None).unwrap();
    let made = decoder.decode(&messages, Instant::now());
    let decoded = &made.decoded;
    decoded.batch.validate().unwrap();
    assert_eq!(decoded.rows.len(), count);
    let rows: u32 = decoded.rows.iter().sum();
    assert_eq!(rows as usize, decoded.batch.len());
    assert_eq!(
        decoded.decoded + decoded.failures.len() as u64,
        count as u64
    );
    for (message, failure) in &decoded.failures {
        assert_eq!(decoded.rows[*message], 0, "{failure:?}");
    }
    assert!(made.notes.len() <= 16 * (1 + count));
    decoded.decoded > 0
}

/// The core code that copies a parameter to where answers are looked for.
fn copy(from: &str, bytes: &str) -> String {
    format!(
        "(memory.copy (i32.const {}) (local.get ${from}) {bytes})",
        guest::ANSWER
    )
}

/// The filter of [`host_calls`] with global state.
#[cfg(test)]
pub(crate) fn caller() -> Vec<u8> {
    calling(&FUNCTIONS)
}

/// A filter that makes the host calls of the program in its `bits`.
fn calling(functions: &[(&str, &str, &str)]) -> Vec<u8> {
    let word = |at: usize| format!("(i32.load offset={} (local.get $at))", 1 + 4 * at);
    let mut imports = String::new();
    let mut calls = String::new();
    for (number, (interface, name, parameters)) in functions.iter().enumerate() {
        let mut types = String::new();
        let mut arguments = String::new();
        for (at, parameter) in parameters.chars().enumerate() {
            let (kind, argument) = match parameter {
                'i' => ("i32", word(at)),
                'I' => (
                    "i64",
                    format!("(i64.load offset={} (local.get $at))", 1 + 4 * at),
                ),
                _ => (
                    "f64",
                    format!("(f64.load offset={} (local.get $at))", 1 + 4 * at),
                ),
            };
            write!(types, "(param {kind}) ").unwrap();
            write!(arguments, "{argument} ").unwrap();
        }
        let (result, drop) = match *name {
            "now" => ("(result i64)", "drop"),
            _ => ("", ""),
        };
        writeln!(
            imports,
            r#"(import "tidegate:module/{interface}@0.2.0" "{name}" (func $f{number} {types} {result}))"#
        )
        .unwrap();
        writeln!(
            calls,
            "(if (i32.eq (i32.rem_u (i32.load8_u (local.get $at)) (i32.const {})) (i32.const {number}))
                (then (call $f{number} {arguments}) {drop}))",
            functions.len()
        )
        .unwrap();
    }
    let body = format!(
        "(memory.copy (i32.const {PROGRAM}) (local.get $bits) (i32.shl (local.get $bits_n) (i32.const 3)))
        (call $do (i32.const {PROGRAM}) (i32.add (i32.const {PROGRAM}) (i32.shl (local.get $bits_n) (i32.const 3))))"
    );
    let items = format!(
        "(func $do (param $at i32) (param $end i32)
            (loop $next
                (if (i32.le_u (i32.add (local.get $at) (i32.const {STEP})) (local.get $end))
                    (then {calls} (local.set $at (i32.add (local.get $at) (i32.const {STEP}))) (br $next)))))"
    );
    guest::guest_of(guest::SECOND, &imports, &items, &body)
}

/// Rows whose `bits` are these bytes, filled up with zeros. It has two rows at least.
fn carrier(bytes: &[u8]) -> Batch {
    let mut batch = BatchBuilder::new();
    let names = ["a", "b"].map(|name| batch.series(&name.into()));
    let chunks = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        i64::from_le_bytes(word)
    });
    let rows = bytes.len().div_ceil(8).max(2);
    for (row, value) in chunks.chain(std::iter::repeat(0)).take(rows).enumerate() {
        batch.push(names[row % 2], 0, Value::Int(value), Quality::Good);
    }
    batch.finish()
}

/// What holds of every outcome.
fn check(outcome: &PipelineOutcome) {
    let quarantined: usize = outcome.quarantined.iter().map(|q| q.rows.len()).sum();
    let dropped: u64 = outcome.dropped.values().sum();
    assert_eq!(
        outcome.selected + outcome.derived,
        (outcome.stored.len() + quarantined) as u64 + outcome.filtered + dropped,
        "the ledger's equation"
    );
    outcome.stored.validate().unwrap();
}

fn limits() -> SlotLimits {
    SlotLimits {
        deadline: Duration::from_millis(50),
        log_lines_per_second: 1,
        ..SlotLimits::default()
    }
}

fn pipeline(module: &Arc<LoadedModule>) -> Pipeline {
    let config = PipelineConfig {
        index: 0,
        name: "p".to_owned(),
        select: SeriesFilter::default(),
        slots: vec![SlotConfig {
            filter: "f".to_owned(),
            settings: serde_json::json!({"n": 1.5, "i": -7, "t": "text", "l": [1, 2], "b": true, "ts": ["a", ""]}),
            on_failure: OnFailure::Drop,
            limits: limits(),
            grants: module.manifest.grants.clone(),
            directories: BTreeMap::new(),
            secrets: BTreeMap::from([("key".to_owned(), Secret::new(b"Jefe".to_vec()))]),
            module: Arc::clone(module),
        }],
    };
    Pipeline::new(runtime(), config, &BTreeMap::new()).unwrap()
}

fn filter(component: Vec<u8>, grants: &[Grant], state: StateKind) -> Arc<LoadedModule> {
    load("filter@0.2.0", component, grants, state)
}

fn load(world: &str, component: Vec<u8>, grants: &[Grant], state: StateKind) -> Arc<LoadedModule> {
    let manifest = serde_json::json!({
        "name": "guest", "version": "1.0.0", "world": format!("tidegate:module/{world}"), "settings": {"type": "object"},
    });
    let mut manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
    manifest.grants = grants.iter().copied().collect();
    manifest.state = state;
    let module = Module {
        manifest,
        component: component.into(),
        origin: Origin::Local,
    };
    Arc::new(LoadedModule::load(runtime(), module).unwrap())
}

/// One engine for all targets. In a fuzz target its own executable compiles: see [`compile_if_asked`].
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap();
        let compiler = if cfg!(test) {
            folder.parent().unwrap().join("examples/tidegate-compile")
        } else {
            own.clone()
        };
        let cache: PathBuf = folder.join(format!("fuzz-of-{}", own.file_name().unwrap().display()));
        Runtime::new(RuntimeConfig::new(
            cache.join("cache"),
            cache.join("secret"),
            compiler,
        ))
        .unwrap()
    })
}

/// What a fuzz target does first: where it was called as the compiler's child, it is that and ends.
pub fn compile_if_asked() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_none_or(|first| first != "compile") {
        return;
    }
    let request = CompileRequest::of_arguments(&arguments).unwrap();
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let done = compile_child(&request, &mut input, &mut output);
    let code = done.map_or_else(|error| error.exit_code(), |()| 0);
    std::process::exit(i32::from(code));
}
