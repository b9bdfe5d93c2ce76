//! Nothing that comes from outside makes the gateway panic or hang: seeded mutations of sound inputs, and of those that once
//! did harm, kept in `tests/fuzz/corpus/<target>/`. `make fuzz` runs a hundred times as many (`TIDEGATE_FUZZ=100`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidegate_domain::Message;

use super::*;
use crate::bounds::SlotLimits;
use crate::decode::{As, DecodeConfig, Decoder, TimeUnit};

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// One of the inputs with one to eight changes.
    fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 9] = [
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\x7f",
            b"\x80\x80\x80\x80\x10",
            b"-0.0e-999",
            b"18446744073709551616",
            b"\"\\ud800\"",
            b"[[{\"\":",
            b"\xc3\xa4\xf0\x9f",
        ];
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len() + 1);
            let to = (at + self.below(32)).min(bytes.len());
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next().to_le_bytes()[0],
                2 => drop(bytes.drain(at..to)),
                3 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => {
                    let copy = bytes[at..to].to_vec();
                    let place = self.below(bytes.len() + 1);
                    drop(bytes.splice(place..place, copy));
                }
                5 => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => bytes.truncate(bytes.len() - self.below(4).min(bytes.len())),
            }
        }
        bytes
    }
}

/// Calls `target` with the inputs as they are, with those kept, and with so many mutations. What fails is written down.
fn fuzz(name: &str, mut inputs: Vec<Vec<u8>>, runs: usize, mut target: impl FnMut(&[u8])) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    if let Ok(folder) = fs::read_dir(kept.join(name)) {
        inputs.extend(folder.map(|file| fs::read(file.unwrap().path()).unwrap()));
    }
    let times: usize = std::env::var("TIDEGATE_FUZZ").map_or(1, |times| times.parse().unwrap());
    let mut random = Random(7);
    let mutations = runs * times;
    for run in 0..inputs.len() + mutations {
        let input = match inputs.get(run) {
            Some(input) => input.clone(),
            None => random.mutated(&inputs),
        };
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let file = build_dir().join(format!("fuzz-{name}-{run}"));
            fs::write(&file, &input).unwrap();
            panic!(
                "{name}: input {run} does harm; it is in {}: mend it, and keep it in tests/fuzz/corpus/{name}",
                file.display()
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{name}: input {run} takes {:?}",
            began.elapsed()
        );
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn payloads_of_any_shape_are_decoded_or_refused() {
    let json = texts(&[
        r#"{"ts": 1766000000000, "temp": 21.5, "ok": true, "deep": {"a": [1, -2e3, null]}, "s": "ä\u00e4"}"#,
        r#"[{"ts": 1, "v": 9223372036854775807}, {"ts": "2026-01-01T00:00:00Z", "v": 1e400}]"#,
        "17",
    ]);
    let csv = texts(&[
        "1766000000000,21.5,\"a \"\"b\"\"\"\n2,,x\r\n",
        "\"open",
        ",,,,\n\n",
    ]);
    let text = texts(&["21.5 °C", "-1e5", "ON", "0x1f", "  7  "]);
    let columns = ["ts", "temp", "name"].map(str::to_owned).to_vec();
    for (name, format, inputs) in [
        ("json", As::Json, json),
        (
            "csv",
            As::Csv {
                columns,
                separator: b',',
            },
            csv,
        ),
        ("text", As::Text, text),
    ] {
        for time_field in [None, Some("ts".to_owned())] {
            if time_field.is_some() && format == As::Text {
                continue;
            }
            let mut decoder = Decoder::new(DecodeConfig {
                format: format.clone(),
                time_field,
                time_unit: TimeUnit::Millis,
            })
            .unwrap();
            fuzz(name, inputs.clone(), 20_000, |payload| {
                let message = Message {
                    source: 0,
                    topic: "plant/line1".into(),
                    payload: payload.to_vec().into(),
                    arrival: ARRIVAL,
                    ack: None,
                    redelivered: false,
                    identity: None,
                };
                let decoded = decoder.decode(&[message]);
                decoded.batch.validate().unwrap();
                assert_eq!(decoded.batch.len(), decoded.rows[0] as usize);
                assert!(decoded.failures.is_empty() || decoded.batch.is_empty());
            });
        }
    }
}

#[test]
fn manifests_of_any_shape_are_read_or_refused() {
    let manifest = r#"{"name": "range", "version": "1.0.0", "world": "tidegate:module/filter@0.1.0", "description": "d",
        "settings": {"type": "object", "additionalProperties": false, "required": ["min"], "properties": {
            "min": {"type": "number", "minimum": -5, "default": 1}, "list": {"type": "array", "items": {"enum": ["a", 2]}}}},
        "state": {"series": {"width": 8}}, "grants": ["state", "log"], "limits": {"memory-bytes": 1048576, "output-rows": 7},
        "min-daemon": "0.1.0", "license": "MIT", "vectors": "vectors.json"}"#;
    let settings = serde_json::json!({"min": -7, "list": ["a", 3, null], "other": {"deep": []}});
    fuzz("manifest", texts(&[manifest, "{}"]), 20_000, |json| {
        let Ok(manifest) = Manifest::parse(json) else {
            return;
        };
        drop(manifest.settings_problems(&settings));
        let again = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(Manifest::parse(&again).unwrap(), manifest);
    });
}

/// Host calls by the bytes of the first text: a byte chooses the function, six words are what it is called with.
fn caller() -> Vec<u8> {
    let imports = [LOG, SETTINGS, SECRETS, CLOCK, METRICS, ALARM, GLOBAL_STATE].concat();
    let words: Vec<String> = (0..6)
        .map(|word| format!("(i32.load offset={} (local.get $at))", 1 + 4 * word))
        .collect();
    let call = |name: &str, count: usize| format!("(call ${name} {})", words[..count].join(" "));
    let calls = [
        call("write", 3),
        call("number", 3),
        call("hmac", 5),
        format!(
            "(call $count {} {} (i64.extend_i32_u {}))",
            words[0], words[1], words[2]
        ),
        call("raise", 6),
        call("clear", 3),
        call("get", 3),
        call("set", 5),
        "(drop (call $now))".to_owned(),
    ];
    let calls: String = (0..)
        .zip(&calls)
        .map(|(number, call)| {
            format!(
                "(if (i32.eq (i32.rem_u (i32.load8_u (local.get $at)) (i32.const 9)) (i32.const {number})) (then {call}))"
            )
        })
        .collect();
    let items = format!(
        "(func $do (param $at i32) (param $end i32)
            (loop $next
                (if (i32.le_u (i32.add (local.get $at) (i32.const 25)) (local.get $end))
                    (then {calls} (local.set $at (i32.add (local.get $at) (i32.const 25))) (br $next)))))"
    );
    let body = "(call $do (i32.load (local.get $texts))
        (i32.add (i32.load (local.get $texts)) (i32.load offset=4 (local.get $texts))))";
    guest_with(&imports, &items, body)
}

#[test]
fn host_calls_with_any_arguments_answer_or_end_the_guest() {
    let grants = [
        Grant::Log,
        Grant::Secrets,
        Grant::Metrics,
        Grant::Alarm,
        Grant::State,
    ];
    let mut slot = Slot::of(module(caller(), &grants, StateKind::Global));
    slot.config.limits.deadline = Duration::from_millis(50);
    slot.config.limits.log_lines_per_second = 1;
    slot.config.on_failure = OnFailure::Drop;
    let mut pipeline = slot.pipeline();
    // Programs are text on their way in, so that each byte is below 0x80: pointers up to 0x7f7f7f7f.
    let step = |number: u8, words: [u32; 6]| {
        let mut step = vec![number];
        step.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        step
    };
    let programs: Vec<Vec<u8>> = vec![
        step(0, [1, 1024, 8, 0, 0, 0]),
        step(1, [1024, 3, 2048, 0, 0, 0]),
        step(2, [1024, 3, 1024, 64, 2048, 0]),
        step(3, [1024, 3, 5, 0, 0, 0]),
        step(4, [0, 1, 1024, 3, 1024, 9]),
        step(5, [0, 1024, 3, 0, 0, 0]),
        step(6, [1024, 3, 2048, 0, 0, 0]),
        [
            step(7, [1024, 3, 2048, 64, 4096, 0]),
            step(6, [1024, 3, 4096, 0, 0, 0]),
        ]
        .concat(),
    ];
    let mut now = Instant::now();
    let mut calls = (0, 0);
    fuzz("host-calls", programs, 5_000, |program| {
        let program: String = program.iter().map(|byte| char::from(byte & 0x7f)).collect();
        // The breaker of a filter that fails a thousand times is not what is looked at here.
        now += Duration::from_secs(61);
        let input = batch(&[("a", Value::Text(&program))]);
        let outcome = pipeline.run(&input, ARRIVAL, now);
        balances(&outcome);
        assert!(outcome.alarms.len() <= 2048);
        calls.0 += outcome.stored.len();
        calls.1 += outcome.dropped.len();
    });
    assert!(calls.0 > 0 && calls.1 > 0, "{calls:?}");
}

#[test]
fn answers_of_any_shape_are_checked() {
    // The guest answers with the bytes of the first text, as the contract lays an answer out in memory.
    let answer = format!(
        "(memory.copy (i32.const {}) (i32.load (local.get $texts)) (i32.const 200))",
        guest::ANSWER
    );
    let mut slot = Slot::of(module(guest("", &answer), &[], StateKind::None));
    slot.config.limits.deadline = Duration::from_millis(50);
    slot.config.on_failure = OnFailure::Drop;
    let mut pipeline = slot.pipeline();
    let answers: Vec<Vec<u8>> = [0_u8, 1, 2, 3, 4]
        .iter()
        .map(|&keep| {
            let mut answer = vec![0; 200];
            answer[4] = keep;
            answer
        })
        .collect();
    let mut now = Instant::now();
    let mut seen = (0, 0);
    fuzz("answers", answers, 5_000, |answer| {
        let text: String = answer.iter().map(|byte| char::from(byte & 0x7f)).collect();
        now += Duration::from_secs(61);
        let outcome = pipeline.run(
            &batch(&[("a", Value::Text(&text)), ("b", Value::Int(1))]),
            ARRIVAL,
            now,
        );
        balances(&outcome);
        outcome.stored.validate().unwrap();
        seen.0 += outcome.stored.len();
        seen.1 += outcome.dropped.len();
    });
    assert!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
}

/// 300 in an ordinary run, 30,000 with `TIDEGATE_FUZZ=100`: each is loaded as a site's module would be, and called once.
#[test]
fn mutated_components_are_refused_or_run_within_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let components = vec![pass(), every_second(), guest(LOG, ""), caller()];
    let mut ends = [0; 3];
    fuzz("components", components, 300, |component| {
        let module = Module {
            manifest: manifest(&Grant::ALL, StateKind::Global),
            component: component.to_vec().into(),
            origin: Origin::Local,
        };
        let Ok(module) = LoadedModule::load(&runtime, module) else {
            ends[0] += 1;
            return;
        };
        let mut slot = Slot::of(Arc::new(module));
        slot.config.limits = SlotLimits {
            deadline: Duration::from_millis(50),
            log_lines_per_second: 0,
            ..SlotLimits::default()
        };
        let Ok(mut pipeline) = slot.make(&runtime, &BTreeMap::new()) else {
            ends[1] += 1;
            return;
        };
        balances(&pipeline.run(&ints(&[1, 2, 3]), ARRIVAL, Instant::now()));
        ends[2] += 1;
    });
    println!(
        "refused at load {}, when linked {}; ran {}",
        ends[0], ends[1], ends[2]
    );
    assert!(ends[0] > 0 && ends[2] > 0, "{ends:?}");
}
