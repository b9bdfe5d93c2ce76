//! Components that try each bound, by name, and what happened to them. Run with `--nocapture` it prints the table.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// A component and the bound that it tries.
struct Case {
    name: &'static str,
    component: Vec<u8>,
    grants: Vec<Grant>,
    state: StateKind,
    limits: SlotLimits,
    expect: Expect,
}

/// What has to happen to it.
enum Expect {
    /// The call fails, for this reason and with these words in the detail; all rows are set aside, and nothing else
    /// comes of it.
    Failed(&'static str, &'static str),
    /// It is refused before it runs, with these words.
    Refused(&'static str),
    /// It runs, and what is beyond the bound is refused to it.
    Contained(fn(&PipelineOutcome, &FilterSnapshot)),
}

use Expect::{Contained, Failed, Refused};

/// Three rows of three series with the same text.
fn input() -> Batch {
    batch(&[
        ("s/a", Value::Text("a text that each row has")),
        ("s/b", Value::Text("a text that each row has")),
        ("s/c", Value::Text("a text that each row has")),
    ])
}

fn cases() -> Vec<Case> {
    let case = |name, component, expect| Case {
        name,
        component,
        grants: Vec::new(),
        state: StateKind::None,
        limits: SlotLimits {
            deadline: Duration::from_millis(50),
            ..SlotLimits::default()
        },
        expect,
    };
    let mut cases = vec![
        // CPU time, wherever a guest's code runs.
        case(
            "endless",
            guest("", "(loop (br 0))"),
            Failed(reason::TIMEOUT, "50ms are allowed"),
        ),
        case(
            "endless-start",
            guest_with("", "(func $spin (loop (br 0))) (start $spin)", ""),
            Failed(reason::TIMEOUT, "50ms are allowed"),
        ),
        case(
            "endless-post-return",
            guest_with(
                "",
                r#"(func (export "cabi_post_process") (param i32) (loop (br 0)))"#,
                "",
            ),
            Failed(reason::TIMEOUT, "50ms are allowed"),
        ),
        case(
            "endless-host-calls",
            guest(CLOCK, "(loop (drop (call $now)) (br 0))"),
            Failed(reason::TIMEOUT, "50ms are allowed"),
        ),
        // Memory, tables, instances, stack.
        case(
            "memory-grower",
            guest("", "(loop (drop (memory.grow (i32.const 16))) (br 0))"),
            Failed(
                reason::TRAP,
                "asked for 17825792 bytes of memory; 16777216 are allowed",
            ),
        ),
        case(
            "table-grower",
            guest_with(
                "",
                "(table $t 1 funcref)",
                "(loop (drop (table.grow $t (ref.null func) (i32.const 999))) (br 0))",
            ),
            Failed(
                reason::TRAP,
                "asked for a table of 20980 elements; 20000 are allowed",
            ),
        ),
        case(
            "stack-eater",
            guest_with(
                "",
                "(func $down (param i64) (call $down (local.get 0)))",
                "(call $down (i64.const 0))",
            ),
            Failed(reason::TRAP, "call stack exhausted"),
        ),
        case(
            "many-instances",
            beside(
                &pass(),
                "(core module $m)",
                "(core instance (instantiate $m))",
                49,
            ),
            Refused("core module instances"),
        ),
        case(
            "many-memories",
            beside(
                &pass(),
                "(core module $m (memory 1))",
                "(core instance (instantiate $m))",
                4,
            ),
            Refused("memories"),
        ),
        case(
            "many-tables",
            beside(
                &pass(),
                "(core module $m (table 1 funcref))",
                "(core instance (instantiate $m))",
                9,
            ),
            Refused("tables"),
        ),
        case(
            "large-table",
            guest_with("", "(table 20001 funcref)", ""),
            Refused("table"),
        ),
        // What comes out.
        case(
            "unreachable",
            guest("", "unreachable"),
            Failed(reason::TRAP, "unreachable"),
        ),
        case(
            "many-names",
            guest(
                "",
                &("(local.set $names (i32.const 0x100000)) (local.set $names_n (i32.const 120000))"
                    .to_owned() + &keep_changed()),
            ),
            Failed(reason::INVALID_OUTPUT, "series name 0 has 0 bytes"),
        ),
        case(
            "endless-list",
            guest(
                "",
                &("(local.set $time_n (i32.const 0x1fffffff))".to_owned() + &keep_changed()),
            ),
            Failed(reason::INVALID_OUTPUT, "out of bounds"),
        ),
    ];
    cases.push(Case {
        limits: SlotLimits {
            memory_bytes: 1 << 20,
            ..SlotLimits::default()
        },
        ..case(
            "large-memory",
            pass(),
            Failed(
                reason::TRAP,
                "asked for 2097152 bytes of memory; 1048576 are allowed",
            ),
        )
    });
    cases.push(Case {
        grants: vec![Grant::Log],
        limits: SlotLimits {
            host_call_bytes: 1 << 20,
            ..SlotLimits::default()
        },
        ..case(
            "long-argument",
            guest(
                LOG,
                "(call $write (i32.const 1) (i32.const 0) (i32.const 1048577))",
            ),
            Failed(reason::INVALID_OUTPUT, "too much data"),
        )
    });
    cases.push(Case {
        limits: SlotLimits {
            host_call_bytes: 1000,
            ..SlotLimits::default()
        },
        ..case(
            "long-answer",
            guest("", &keep_rows("(i32.const 2000)")),
            Failed(reason::INVALID_OUTPUT, "too much data"),
        )
    });
    cases.push(Case {
        limits: SlotLimits {
            output_rows: 2,
            ..SlotLimits::default()
        },
        ..case(
            "row-maker",
            guest("", &derive_input()),
            Failed(
                reason::INVALID_OUTPUT,
                "adds 3 rows; 2 in a call are possible",
            ),
        )
    });
    // 3 × (18 + 3 + 24) bytes changed, and as many added: a text that is there once is stored and sent three times.
    cases.push(Case {
        limits: SlotLimits {
            output_bytes: 269,
            ..SlotLimits::default()
        },
        ..case(
            "text-multiplier",
            guest("", &(keep_changed() + &derive_input())),
            Failed(
                reason::INVALID_OUTPUT,
                "its rows have 270 bytes, each with its name and its text; 269 in a call are possible",
            ),
        )
    });
    cases.extend(state_cases(&case));
    cases.extend(rate_cases(&case));
    cases
}

/// Sets keys of four bytes, counted from 0, to one byte each; ends the loop after so many.
const SET_KEYS: &str = r"
    (loop $again
        (i32.store (i32.const 9000) (i32.add (i32.const 0x30303030) (local.get $i)))
        (call $set (i32.const 9000) (i32.const 4) (i32.const 9200) (i32.const 1) (i32.const 9300))
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))
";

fn state_cases(case: &dyn Fn(&'static str, Vec<u8>, Expect) -> Case) -> Vec<Case> {
    fn ten_keys(outcome: &PipelineOutcome, _: &FilterSnapshot) {
        let StateChange::Global(changes) = &outcome.state[0].change else {
            panic!("{:?}", outcome.state);
        };
        assert_eq!(changes.len(), 10);
        assert_eq!(outcome.stored.len(), 3);
    }
    vec![
        Case {
            grants: vec![Grant::State],
            state: StateKind::Global,
            limits: SlotLimits {
                state_keys: 10,
                ..SlotLimits::default()
            },
            ..case(
                "key-hoarder",
                guest(GLOBAL_STATE, SET_KEYS),
                Contained(ten_keys),
            )
        },
        Case {
            grants: vec![Grant::State],
            state: StateKind::Global,
            limits: SlotLimits {
                state_bytes: 54,
                ..SlotLimits::default()
            },
            ..case(
                "byte-hoarder",
                guest(GLOBAL_STATE, SET_KEYS),
                Contained(ten_keys),
            )
        },
        Case {
            grants: vec![Grant::State],
            state: StateKind::Global,
            ..case(
                "long-key",
                guest(
                    GLOBAL_STATE,
                    "(call $set (i32.const 9000) (i32.const 1025) (i32.const 0) (i32.const 1) (i32.const 9300))",
                ),
                Contained(|outcome, _| assert!(outcome.state.is_empty())),
            )
        },
        Case {
            grants: vec![Grant::State],
            state: StateKind::Series { width: 2 },
            limits: SlotLimits {
                state_series: 2,
                ..SlotLimits::default()
            },
            ..case(
                "series-hoarder",
                guest(SERIES_STATE, COUNT_ROWS),
                Failed(reason::FAULT, "state for more than 2 series"),
            )
        },
    ]
}

fn rate_cases(case: &dyn Fn(&'static str, Vec<u8>, Expect) -> Case) -> Vec<Case> {
    let forty = |call: &str| {
        format!(
            "(loop $again
                (i32.store (i32.const 9000) (i32.add (i32.const 0x61616161) (local.get $i)))
                {call}
                (br_if $again (i32.lt_u
                    (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 26))))"
        )
    };
    vec![
        Case {
            grants: vec![Grant::Log],
            limits: SlotLimits {
                log_lines_per_second: 3,
                ..SlotLimits::default()
            },
            ..case(
                "talker",
                guest(
                    LOG,
                    &forty("(call $write (i32.const 0) (i32.const 9000) (i32.const 4))"),
                ),
                Contained(|_, stats| assert_eq!(stats.log_lines_dropped, 23)),
            )
        },
        Case {
            grants: vec![Grant::Metrics],
            limits: SlotLimits {
                metric_names: 5,
                ..SlotLimits::default()
            },
            ..case(
                "name-maker",
                guest(
                    METRICS,
                    &forty("(call $count (i32.const 9000) (i32.const 4) (i64.const 1))"),
                ),
                Contained(|_, stats| {
                    assert_eq!((stats.metrics.len(), stats.metrics_refused), (5, 21));
                }),
            )
        },
        Case {
            grants: vec![Grant::Alarm],
            limits: SlotLimits {
                alarms_per_minute: 25,
                ..SlotLimits::default()
            },
            ..case(
                "alarmist",
                guest(
                    ALARM,
                    &forty(
                        "(call $raise (i32.const 0) (i32.const 2) (i32.const 9000) (i32.const 4) (i32.const 0) (i32.const 0))",
                    ),
                ),
                Failed(
                    reason::INVALID_OUTPUT,
                    "alarms change more than 25 times in a minute",
                ),
            )
        },
        Case {
            grants: vec![Grant::Alarm],
            ..case(
                "alarm-loop",
                guest(
                    ALARM,
                    "(loop (call $clear (i32.const 0) (i32.const 9000) (i32.const 4)) (br 0))",
                ),
                Failed(reason::INVALID_OUTPUT, "more than 2048 alarms in one batch"),
            )
        },
    ]
}

#[test]
fn every_bound_holds_against_a_component_that_tries_it() {
    let mut sound = Slot::of(module(every_second(), &[], StateKind::None)).pipeline();
    let mut told = Vec::new();
    let mut broken = Vec::new();
    for case in cases() {
        let name = case.name;
        match catch_unwind(AssertUnwindSafe(|| check(case))) {
            Ok(happened) => told.push(format!("{name:<20} {happened}")),
            Err(_) => broken.push(name),
        }
        // Whatever it did, the same engine goes on for others.
        assert_eq!(
            run(&mut sound, &ints(&[1, 2, 3])).stored,
            ints(&[1, 3]),
            "{name}"
        );
    }
    println!("{}", told.join("\n"));
    assert!(broken.is_empty(), "bounds do not hold: {broken:?}");
}

/// Loads and runs it on one batch; says what happened.
fn check(case: Case) -> String {
    let Case {
        name,
        component,
        grants,
        state,
        limits,
        expect,
    } = case;
    let module = Module {
        manifest: manifest(&grants, state),
        component: component.into(),
        origin: Origin::Local,
    };
    let pipeline = LoadedModule::load(shared(), module)
        .map_err(|error| match error.source() {
            Some(source) => source.to_string(),
            None => error.to_string(),
        })
        .and_then(|module| {
            let mut slot = Slot::of(Arc::new(module));
            slot.config.limits = limits;
            let pipeline = slot.try_pipeline(&BTreeMap::new());
            pipeline.map_err(|error| error.source.to_string())
        });
    let mut pipeline = match (pipeline, &expect) {
        (Err(error), Refused(words)) => {
            assert!(error.contains(words), "{name}: {error}");
            return format!("refused: {error}");
        }
        (Err(error), _) => panic!("{name}: {error}"),
        (Ok(_), Refused(_)) => panic!("{name} is not refused"),
        (Ok(pipeline), _) => pipeline,
    };
    let began = Instant::now();
    let outcome = run(&mut pipeline, &input());
    let stats = pipeline.stats().filters[0].snapshot();
    let took = began.elapsed().as_millis();
    match expect {
        Failed(reason, words) => {
            let [set_aside] = outcome.quarantined.as_slice() else {
                panic!("{name}: {:?}", outcome.quarantined);
            };
            assert_eq!(set_aside.reason, reason, "{name}: {}", set_aside.detail);
            assert!(
                set_aside.detail.contains(words),
                "{name}: {}",
                set_aside.detail
            );
            assert_eq!(set_aside.rows, input(), "{name}");
            assert!(outcome.stored.is_empty(), "{name}");
            assert!(outcome.state.is_empty(), "{name}");
            assert!(outcome.alarms.is_empty(), "{name}");
            // Two attempts and the search for the row take two deadlines of CPU time; each call runs over by a tick of the
            // clock at most.
            let most = 2.0 * limits.deadline.as_secs_f64() + 0.015 * stats.calls as f64;
            assert!(stats.cpu_seconds_total <= most, "{name}: {stats:?}");
            format!("{reason} in {took} ms: {}", set_aside.detail)
        }
        Contained(check) => {
            assert!(
                outcome.quarantined.is_empty(),
                "{name}: {:?}",
                outcome.quarantined
            );
            check(&outcome, &stats);
            format!("contained in {took} ms")
        }
        Refused(_) => unreachable!(),
    }
}

/// A component with a further one inside it, which has so many core instances of a module.
fn beside(component: &[u8], module: &str, instance: &str, count: usize) -> Vec<u8> {
    let text = format!("(component {module} {})", instance.repeat(count));
    let inner = wat::parse_str(text).unwrap();
    let mut whole = component.to_vec();
    // Component section (4), and an instance section (5) with one instance of the first component, without arguments.
    section(&mut whole, 4, &inner);
    section(&mut whole, 5, &[1, 0, 0, 0]);
    whole
}

/// A section of a component: its id, and the length of its bytes as LEB128.
fn section(to: &mut Vec<u8>, id: u8, bytes: &[u8]) {
    to.push(id);
    let mut length = bytes.len();
    loop {
        let low = length.to_le_bytes()[0] & 0x7f;
        length >>= 7;
        to.push(low | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    to.extend_from_slice(bytes);
}
