//! Ordinary and hostile components through the real engine, cache and compiler child.

#[cfg(feature = "test-faults")]
mod compiler;
mod fuzz;
mod guest;
mod hostile;
mod lane;
mod tick;
mod tryout;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::outcome::{AlarmState, PipelineOutcome, Severity, StateChange, reason};
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, Batch, Quality, Value, limits};

use self::guest::{
    ANSWER, SECOND, derive_input, every_second, fault, guest, guest_of, guest_with, keep_changed,
    keep_none, keep_rows, keep_rows_changed, pass, reject, store,
};
use crate::manifest::WantedLimits;
use crate::test_vectors::run_vectors;
use crate::*;

// The engine and its cache.

#[test]
fn code_comes_from_the_cache_only_while_every_byte_of_it_is_authentic() {
    let dir = tempfile::tempdir().unwrap();
    let load = || runtime(dir.path()).load(&pass()).unwrap().origin().clone();
    let recompiled = |why: &str| match load() {
        CodeOrigin::Compiled { reason } => assert!(reason.contains(why), "{reason}"),
        CodeOrigin::Cache => panic!("a changed file was run; expected: {why}"),
    };
    recompiled("not compiled before");
    assert_eq!(load(), CodeOrigin::Cache);

    let file = only_file(&dir.path().join("cache"));
    let sound = fs::read(&file).unwrap();
    let native = sound.len() - 1000;
    for (at, why) in [
        (0, "does not begin like one"),
        (30, "MAC does not fit"),
        (100, "MAC does not fit"),
        (native, "MAC does not fit"),
        (sound.len() - 1, "MAC does not fit"),
    ] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        recompiled(why);
        assert_eq!(load(), CodeOrigin::Cache, "the damage is mended");
    }
    fs::write(&file, &sound[..native]).unwrap();
    recompiled("its length");
    fs::write(&file, []).unwrap();
    recompiled("ends early");

    // Sound, but for something else: another module's file under this one's name.
    let other = runtime(dir.path()).load(&every_second()).unwrap();
    drop(other);
    let other = files(&dir.path().join("cache"))
        .into_iter()
        .find(|path| *path != file)
        .unwrap();
    fs::copy(other, &file).unwrap();
    recompiled("another engine, machine or module");

    // Another secret: nothing that was made under the old one counts.
    fs::write(dir.path().join("secret"), [7; 32]).unwrap();
    recompiled("MAC does not fit");
}

#[test]
fn a_secret_that_others_could_read_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    drop(runtime(dir.path()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&secret), 0o600);
    assert_eq!(mode(&dir.path().join("cache")), 0o700);
    let first = fs::read(&secret).unwrap();
    drop(runtime(dir.path()));
    assert_eq!(
        fs::read(&secret).unwrap(),
        first,
        "it stays while it is sound"
    );
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    drop(runtime(dir.path()));
    assert_ne!(fs::read(&secret).unwrap(), first);
    assert_eq!(mode(&secret), 0o600);
}

#[test]
fn the_cache_forgets_what_is_unused_for_longest() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.cache.files = 2;
    let modules = [pass(), every_second(), guest("", "nop")];
    for (age, module) in (1..).zip(&modules) {
        drop(Runtime::new(config.clone()).unwrap().load(module).unwrap());
        for file in files(&dir.path().join("cache")) {
            let then = fs::metadata(&file).unwrap().modified().unwrap();
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.set_modified(then - Duration::from_secs(age)).unwrap();
        }
    }
    assert_eq!(files(&dir.path().join("cache")).len(), 2);
    let origin = |module: &[u8]| {
        let runtime = Runtime::new(config.clone()).unwrap();
        runtime.load(module).unwrap().origin().clone()
    };
    assert_eq!(origin(&modules[1]), CodeOrigin::Cache);
    assert_eq!(origin(&modules[2]), CodeOrigin::Cache);
    assert!(matches!(origin(&modules[0]), CodeOrigin::Compiled { .. }));
}

#[test]
fn the_small_profile_runs_the_same_modules_from_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    drop(runtime(dir.path()).load(&every_second()).unwrap());
    let mut config = config(dir.path());
    config.profile = Some(Profile::Small);
    let runtime = Runtime::new(config).unwrap();
    let slot = Slot::of(module_in(&runtime, every_second(), &[], StateKind::None));
    assert!(matches!(
        slot.config.module.code_origin(),
        CodeOrigin::Compiled { .. }
    ));
    let mut pipeline = slot.pipeline_in(&runtime);
    assert_eq!(run(&mut pipeline, &ints(&[1, 2, 3])).stored.len(), 2);
}

#[test]
fn a_compilation_is_bounded_in_time_and_memory() {
    let dir = tempfile::tempdir().unwrap();
    // A second or more to compile: the child cannot be done before its parent looks at the clock.
    let heavy = guest_with(
        "",
        &"(func (param f64) (result f64) local.get 0)\n".repeat(20_000),
        "",
    );
    let with = |limits: CompileLimits| {
        let mut config = config(dir.path());
        config.compile = limits;
        Runtime::new(config).unwrap().load(&heavy).unwrap_err()
    };
    let error = with(CompileLimits {
        time: Duration::ZERO,
        ..CompileLimits::default()
    });
    assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
    let error = with(CompileLimits {
        memory_bytes: 4 * 1024 * 1024,
        ..CompileLimits::default()
    });
    // Where it runs out decides how it ends; it is never taken for what the component is to blame for.
    let ended = matches!(
        error,
        LoadError::CompilerEnded { .. } | LoadError::CompilerMeans { .. }
    );
    assert!(ended, "{error}");
    assert_eq!(files(&dir.path().join("cache")), [] as [PathBuf; 0]);
}

#[test]
fn what_is_no_component_is_refused_with_a_reason() {
    let check = |bytes: &[u8], want: &str| {
        let error = inspect(bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert!(shared().load(bytes).is_err());
    };
    check(b"", "no sound WebAssembly");
    check(b"#!/bin/sh\n", "no sound WebAssembly");
    check(b"\0asm\x01\0\0\0", "wasm-component-ld");
    check(&pass()[..200], "no sound WebAssembly");
    check(
        &vec![0; 65 * 1024 * 1024],
        "67108864 are allowed; nothing raises that",
    );
}

// Contract and grants.

#[test]
fn inspection_names_imports_exports_and_world() {
    let inspection = inspect(&guest(LOG, "")).unwrap();
    let imports: Vec<&str> = inspection.imports.iter().map(|i| i.0.as_str()).collect();
    assert!(
        imports.contains(&"tidegate:module/log@0.1.0"),
        "{imports:?}"
    );
    assert!(
        !imports.contains(&"tidegate:module/alarm@0.1.0"),
        "{imports:?}"
    );
    assert_eq!(inspection.exports, ["process"]);
    assert_eq!(inspection.world, Some(World::Filter01));
    let second = inspect(&guest_of(SECOND, "", "", "")).unwrap();
    assert_eq!(second.world, Some(World::Filter));
}

/// Both count their rows in the log, each through the interface of its own version.
#[test]
fn a_filter_of_the_first_contract_runs_in_a_chain_beside_one_of_the_second() {
    let log_second = LOG.replace("@0.1.0", "@0.2.0");
    let write = "(call $write (i32.const 1) (i32.const 0) (i32.const 0))";
    let second = &format!("{write} {}", reject(1));
    let chain = [
        (guest(LOG, write), "tidegate:module/filter@0.1.0"),
        (
            guest_of(SECOND, &log_second, "", second),
            "tidegate:module/filter@0.2.0",
        ),
        (every_second(), "tidegate:module/filter@0.1.0"),
    ];
    let slots = (0..).zip(chain).map(|(place, (component, world))| {
        let mut manifest = manifest(&[Grant::Log], StateKind::None);
        manifest.world = World::try_from(world.to_owned()).unwrap();
        let module = Module {
            manifest,
            component: component.into(),
            origin: Origin::Local,
        };
        let module = Arc::new(LoadedModule::load(shared(), module).unwrap());
        assert_eq!(module.inspection.world, Some(module.manifest.world));
        let mut slot = Slot::of(module).config;
        slot.filter = format!("f{place}");
        slot
    });
    let config = PipelineConfig {
        index: 0,
        name: "p".to_owned(),
        select: SeriesFilter::default(),
        slots: slots.collect(),
    };
    let mut pipeline = Pipeline::new(shared(), config, &BTreeMap::new()).unwrap();
    let outcome = run(&mut pipeline, &ints(&[1, 2, 3]));
    assert_eq!(outcome.stored.bits, [1]);
    assert_eq!(outcome.quarantined[0].filter, "f1");
    let calls = pipeline.stats();
    assert!(calls.filters.iter().all(|f| f.snapshot().calls == 1));
}

#[test]
fn a_module_stands_where_its_world_says() {
    let as_filter = |world: World| {
        let mut manifest = manifest(&[], StateKind::None);
        manifest.world = world;
        let component = guest::component(
            SECOND,
            world.to_string().split(['/', '@']).nth(1).unwrap(),
            &format!(
                r#"(module (memory (export "memory") 1)
                    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                    {})"#,
                match world.role() {
                    Role::Decoder => {
                        r#"(func (export "decode") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)"#
                    }
                    Role::Filter | Role::Driver =>
                        r#"(func (export "poll") (result i32) unreachable)"#,
                }
            ),
        );
        assert_eq!(inspect(&component).unwrap().world, Some(world));
        let module = Module {
            manifest,
            component: component.into(),
            origin: Origin::Local,
        };
        let module = Arc::new(LoadedModule::load(shared(), module).unwrap());
        let error = Slot::of(module).try_pipeline(&BTreeMap::new());
        error.unwrap_err().source.to_string()
    };
    assert!(as_filter(World::Decoder).contains("is a decoder, and stands in a source"));
    assert!(as_filter(World::Driver).contains("is a driver, and is a source of its own"));
}

#[test]
fn every_import_that_is_not_granted_is_named() {
    let component = guest(&[LOG, ALARM, SERIES_STATE, SETTINGS].concat(), "");
    let module = module(component, &[Grant::Log, Grant::Alarm], StateKind::None);
    let mut slot = Slot::of(module);
    slot.config.grants = BTreeSet::from([Grant::Log]);
    let error = slot.try_pipeline(&BTreeMap::new()).unwrap_err();
    let SlotError::Grants(NotGranted { refused, .. }) = error.source else {
        panic!("{error}");
    };
    let refused: Vec<(&str, &str)> = refused
        .iter()
        .map(|refusal| (refusal.import.0.as_str(), refusal.why.as_str()))
        .collect();
    assert_eq!(
        refused,
        [
            (
                "tidegate:module/series-state@0.1.0",
                "the manifest's `grants` does not ask for `state`"
            ),
            (
                "tidegate:module/alarm@0.1.0",
                "`alarm` is not among the site's `[policy] grants`"
            ),
        ]
    );
}

#[test]
fn names_are_compared_exactly_though_the_linker_would_take_compatible_ones() {
    let component = wat::parse_str(
        r#"(component
            (import "tidegate:module/log@0.2.1" (instance))
            (import "wasi:sockets/network@0.2.0" (instance)))"#,
    )
    .unwrap();
    let inspection = inspect(&component).unwrap();
    let manifest = manifest(&Grant::ALL, StateKind::None);
    let refused = grants::refused(
        &manifest,
        &inspection,
        &BTreeSet::from(Grant::ALL),
        &BTreeMap::new(),
    );
    let names: Vec<&str> = refused
        .iter()
        .map(|refusal| refusal.import.0.as_str())
        .collect();
    assert_eq!(
        names,
        ["tidegate:module/log@0.2.1", "wasi:sockets/network@0.2.0"]
    );
}

#[test]
fn a_component_of_another_shape_is_refused_before_it_runs() {
    let error = |text: &str| {
        let module = Module {
            manifest: manifest(&[], StateKind::None),
            component: wat::parse_str(text).unwrap().into(),
            origin: Origin::Local,
        };
        match LoadedModule::load(shared(), module) {
            Err(error) => error.to_string(),
            Ok(module) => {
                let error = Slot::of(Arc::new(module)).try_pipeline(&BTreeMap::new());
                error.unwrap_err().source.to_string()
            }
        }
    };
    assert!(error("(component)").contains("does not export `process`"));
    let other = r#"(component
        (core module $m (func (export "f") (param i32) (result i32) local.get 0))
        (core instance $i (instantiate $m))
        (func (export "process") (param "batch" u32) (result u32) (canon lift (core func $i "f"))))"#;
    assert!(
        error(other).contains("does not fit the contract"),
        "{}",
        error(other)
    );
}

#[test]
fn a_manifest_is_for_one_component() {
    let mut manifest = manifest(&[], StateKind::None);
    manifest.digest = Some(Digest::of(b"another"));
    let error = LoadedModule::load(
        shared(),
        Module {
            manifest,
            component: pass().into(),
            origin: Origin::Local,
        },
    );
    assert!(matches!(error, Err(ModuleError::Digest { .. })));
}

#[test]
fn manifests_are_checked() {
    let parse = |change: &str| {
        let mut json: serde_json::Value = serde_json::from_str(
            r#"{"name": "range", "version": "1.0.0", "world": "tidegate:module/filter@0.1.0"}"#,
        )
        .unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Manifest::parse(json.to_string().as_bytes())
    };
    let manifest = parse(r#"{"state": {"series": {"width": 256}}, "grants": ["state"]}"#).unwrap();
    assert_eq!(manifest.state, StateKind::Series { width: 256 });
    for (change, want) in [
        (r#"{"name": "../x"}"#, "`../x` is not made of"),
        (r#"{"version": "1"}"#, "no semantic version"),
        (r#"{"world": "wasi:cli/command"}"#, "has no world"),
        (
            r#"{"world": "tidegate:module/decoder@0.2.0", "state": {"series": {"width": 8}}}"#,
            "has no state by series",
        ),
        (r#"{"state": {"series": {"width": 257}}}"#, "1 to 256"),
        (r#"{"state": "everything"}"#, "unknown variant"),
        (
            r#"{"settings": {"type": 7}}"#,
            "`type` takes a list of texts",
        ),
        (
            r#"{"directories": ["../x"], "grants": ["wasi"]}"#,
            "`../x` is not made of",
        ),
        (
            r#"{"directories": ["x"]}"#,
            "ask for `wasi` in `grants` too",
        ),
        (r#"{"grants": ["network"]}"#, "unknown variant `network`"),
        (r#"{"min-daemon": "99.0.0"}"#, "needs tidegate 99.0.0"),
        (r#"{"digest": "sha256:00"}"#, "is no digest"),
        (r#"{"colour": "red"}"#, "unknown field `colour`"),
    ] {
        let error = parse(change).unwrap_err().to_string();
        assert!(error.contains(want), "{change}: {error}");
    }
}

#[test]
fn settings_are_checked_against_the_manifest_before_anything_runs() {
    let mut manifest = manifest(&[], StateKind::None);
    assert_eq!(
        manifest.settings_problems(&serde_json::json!({"width": 1})),
        ["`guest` takes no settings"]
    );
    manifest.settings = Some(serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["width"],
        "properties": {"width": {"type": "number"}, "deep": {"properties": {"n": {"type": "integer"}}}},
    }));
    assert_eq!(
        manifest.settings_problems(&serde_json::json!({"width": 1})),
        [] as [&str; 0]
    );
    let problems = manifest.settings_problems(&serde_json::json!({"wide": 1, "deep": {"n": "x"}}));
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems.iter().any(|p| p.starts_with("deep.n: ")),
        "{problems:?}"
    );
}

// What filters do to batches.

#[test]
fn a_pipeline_without_filters_lets_everything_through() {
    let select = SeriesFilter::new(&["a/*".to_owned()]).unwrap();
    let config = PipelineConfig {
        index: 3,
        name: "straight".to_owned(),
        select,
        slots: Vec::new(),
    };
    let mut pipeline = Pipeline::new(shared(), config, &BTreeMap::new()).unwrap();
    let input = batch(&[
        ("a/x", Value::Int(1)),
        ("a/y", Value::Text("t")),
        ("b/x", Value::Int(2)),
    ]);
    let outcome = run(&mut pipeline, &input);
    assert_eq!((outcome.pipeline, outcome.selected), (3, 2));
    assert_eq!(
        outcome.stored,
        batch(&[("a/x", Value::Int(1)), ("a/y", Value::Text("t"))])
    );
}

#[test]
fn rows_pass_unchanged_whatever_their_kind() {
    let input = batch(&[
        ("a", Value::Float(-0.0)),
        ("b", Value::Int(i64::MIN)),
        ("a", Value::Bool(true)),
        ("ü", Value::Text("drei Schläuche")),
    ]);
    for body in [String::new(), keep_changed()] {
        let mut pipeline = Slot::of(module(guest("", &body), &[], StateKind::None)).pipeline();
        assert_eq!(run(&mut pipeline, &input).stored, input);
    }
}

#[test]
fn a_long_batch_is_cut_filtered_and_merged_in_order() {
    let values: Vec<i64> = (0..2500).collect();
    let mut pipeline = Slot::of(module(every_second(), &[], StateKind::None)).pipeline();
    let outcome = run(&mut pipeline, &ints(&values));
    let got: Vec<i64> = outcome
        .stored
        .bits
        .iter()
        .map(|bits| bits.cast_signed())
        .collect();
    let want: Vec<i64> = (0..2500).step_by(2).collect();
    assert_eq!(got, want);
    assert_eq!((outcome.selected, outcome.filtered), (2500, 1250));
    assert_eq!(pipeline.stats().filters[0].snapshot().calls, 3);
}

#[test]
fn derived_rows_follow_the_kept_ones_into_the_next_filter() {
    let twice = module(guest("", &derive_input()), &[], StateKind::None);
    let second = module(every_second(), &[], StateKind::None);
    let mut slots = vec![Slot::of(twice).config, Slot::of(second).config];
    slots[1].filter = "second".to_owned();
    let config = PipelineConfig {
        index: 0,
        name: "p".to_owned(),
        select: SeriesFilter::default(),
        slots,
    };
    let mut pipeline = Pipeline::new(shared(), config, &BTreeMap::new()).unwrap();
    let outcome = run(&mut pipeline, &ints(&[1, 2, 3]));
    assert_eq!((outcome.derived, outcome.filtered), (3, 3));
    assert_eq!(outcome.stored.bits, [1, 3, 2]);
    assert_eq!(outcome.stored.names.len(), 1);
}

#[test]
fn rejected_rows_are_set_aside_with_the_reason_and_count_as_nothing_else() {
    // Rows 0, 2 and 4 are kept, and 2 is rejected.
    let fill = "(memory.fill (i32.const 8192) (i32.const 0x55) (i32.const 16))";
    let keep = keep_rows("(i32.const 1)");
    let mut pipeline = Slot::of(module(
        guest("", &[fill, &keep, &reject(2)].concat()),
        &[],
        StateKind::None,
    ))
    .pipeline();
    let outcome = run(&mut pipeline, &ints(&[0, 1, 2, 3, 4]));
    assert_eq!(outcome.stored.bits, [0, 4]);
    assert_eq!(outcome.filtered, 2);
    let [set_aside] = outcome.quarantined.as_slice() else {
        panic!("{:?}", outcome.quarantined);
    };
    assert_eq!(
        (set_aside.reason, set_aside.detail.as_str()),
        (reason::REJECTED, "bad")
    );
    assert_eq!(set_aside.rows, ints(&[2]));
}

#[test]
fn what_means_nothing_is_a_failure_of_the_filter_and_never_reaches_the_store() {
    let bits_of_text = "(i64.store (local.get $bits) (i64.const 99)) \
                        (i32.store8 (local.get $kind) (i32.const 3))";
    let kind = "(i32.store8 (local.get $kind) (i32.const 9))";
    let series = "(i32.store (local.get $series) (i32.const 1))";
    let shorter = "(local.set $quality_n (i32.const 0))";
    let empty_name = "(i32.store offset=4 (local.get $names) (i32.const 0))";
    let outside = "(local.set $time (i32.const 0x7fffffff))";
    let no_utf8 = "(i32.store8 (i32.load (local.get $names)) (i32.const 0xff))";
    let changed = |before: &str| before.to_owned() + &keep_changed();
    for (body, want) in [
        (keep_rows("(i32.const 2)"), "a bitmap of 2 bytes for 3 rows"),
        (
            keep_rows_changed("(i32.const 1)"),
            "`rows-changed` has 3 rows where 0 are due",
        ),
        (reject(3), "rejects row 3 of 3"),
        (changed(bits_of_text), "`bits` holds 99"),
        (changed(kind), "`kind` holds 9"),
        (changed(series), "`series` holds 1"),
        (changed(shorter), "column `quality` has 0 rows"),
        (changed(empty_name), "series name 0 has 0 bytes"),
        (changed(outside), "out of bounds"),
        (changed(no_utf8), "utf-8"),
        (store(&[(guest::ANSWER, "(i32.const 2)")]), "discriminant"),
    ] {
        let mut pipeline = Slot::of(module(guest("", &body), &[], StateKind::None)).pipeline();
        let outcome = run(&mut pipeline, &ints(&[1, 2, 3]));
        let set_aside = &outcome.quarantined[0];
        assert_eq!(
            set_aside.reason,
            reason::INVALID_OUTPUT,
            "{}",
            set_aside.detail
        );
        assert!(
            set_aside.detail.contains(want),
            "`{}` is not about {want}",
            set_aside.detail
        );
        assert_eq!(set_aside.rows, ints(&[1, 2, 3]));
        assert!(outcome.stored.is_empty());
        let stats = pipeline.stats().filters[0].snapshot();
        assert_eq!(
            (stats.calls, stats.invalid_outputs),
            (1, 1),
            "a second attempt is no use"
        );
    }
}

#[test]
fn a_fault_sets_the_whole_batch_aside_whatever_the_policy() {
    for on_failure in [OnFailure::Pass, OnFailure::Drop, OnFailure::Quarantine] {
        let mut slot = Slot::of(module(guest("", &fault()), &[], StateKind::None));
        slot.config.on_failure = on_failure;
        let outcome = run(&mut slot.pipeline(), &ints(&[1, 2]));
        let set_aside = &outcome.quarantined[0];
        assert_eq!(
            (set_aside.reason, set_aside.detail.as_str()),
            (reason::FAULT, "bad")
        );
        assert_eq!(set_aside.rows.len(), 2);
    }
}

// Failures.

#[test]
fn a_trap_is_tried_twice_and_then_goes_by_policy() {
    check_failure("unreachable", reason::TRAP, "unreachable");
}

#[test]
fn an_endless_loop_is_stopped_by_its_cpu_time() {
    check_failure(
        "(loop (br 0))",
        reason::TIMEOUT,
        "of CPU time; 20ms are allowed",
    );
}

#[test]
fn a_filter_that_takes_more_memory_than_it_may_is_stopped() {
    check_failure(
        "(loop (drop (memory.grow (i32.const 16))) (br 0))",
        reason::TRAP,
        "bytes of memory; 16777216 are allowed",
    );
}

fn check_failure(body: &str, why: &str, detail: &str) {
    let module = module(guest("", body), &[], StateKind::None);
    let input = ints(&[1, 2, 3]);
    for on_failure in [OnFailure::Pass, OnFailure::Drop, OnFailure::Quarantine] {
        let mut slot = Slot::of(Arc::clone(&module));
        slot.config.on_failure = on_failure;
        slot.config.limits.deadline = Duration::from_millis(20);
        let mut pipeline = slot.pipeline();
        let outcome = run(&mut pipeline, &input);
        match on_failure {
            OnFailure::Pass => assert_eq!(outcome.stored, input),
            OnFailure::Drop => {
                assert_eq!(
                    outcome.dropped,
                    BTreeMap::from([(reason::FILTER_FAILURE, 3)])
                );
            }
            OnFailure::Quarantine => {
                assert_eq!(outcome.quarantined[0].reason, why);
                assert_eq!(outcome.quarantined[0].rows, input);
            }
        }
        balances(&outcome);
        let stats = pipeline.stats().filters[0].snapshot();
        // After two timeouts there is no time to look for rows at fault; three rows take four calls.
        let calls = if why == reason::TIMEOUT { 2 } else { 6 };
        assert_eq!((stats.calls, stats.retries), (calls, 1));
        assert_eq!(stats.traps + stats.timeouts, calls);
        let error = stats.last_error.unwrap();
        assert_eq!(error.reason, why);
        assert!(error.detail.contains(detail), "{}", error.detail);
    }
}

/// Does something where a value is 666, and lets all rows go on.
fn at_666(what: &str) -> Vec<u8> {
    guest(
        "",
        &format!(
            "(block $done (loop $next
                (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
                (if (i64.eq (i64.load (i32.add (local.get $bits) (i32.shl (local.get $i) (i32.const 3))))
                        (i64.const 666))
                    (then {what}))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next)))"
        ),
    )
}

#[test]
fn of_a_batch_that_kills_two_instances_only_the_rows_at_fault_go_by_policy() {
    let module = module(at_666("unreachable"), &[], StateKind::None);
    let mut values: Vec<i64> = (1000..2000).collect();
    values[123] = 666;
    values[700] = 666;
    let rest: Vec<i64> = values.iter().copied().filter(|v| *v != 666).collect();
    for on_failure in [OnFailure::Pass, OnFailure::Drop, OnFailure::Quarantine] {
        let mut slot = Slot::of(Arc::clone(&module));
        slot.config.on_failure = on_failure;
        let mut pipeline = slot.pipeline();
        let outcome = run(&mut pipeline, &ints(&values));
        match on_failure {
            OnFailure::Pass => assert_eq!(outcome.stored, ints(&values)),
            OnFailure::Drop => {
                assert_eq!(outcome.stored, ints(&rest));
                assert_eq!(
                    outcome.dropped,
                    BTreeMap::from([(reason::FILTER_FAILURE, 2)])
                );
            }
            OnFailure::Quarantine => {
                assert_eq!(outcome.stored, ints(&rest));
                for set_aside in &outcome.quarantined {
                    assert_eq!(set_aside.reason, reason::TRAP);
                    assert_eq!(set_aside.rows, ints(&[666]));
                }
                assert_eq!(outcome.quarantined.len(), 2);
            }
        }
        let calls = pipeline.stats().filters[0].snapshot().calls;
        assert!(calls <= 2 + 40, "{calls}");
    }
}

#[test]
fn a_filter_that_fails_on_one_row_of_every_batch_goes_on_working() {
    let mut pipeline = Slot::of(module(at_666("unreachable"), &[], StateKind::None)).pipeline();
    for _ in 0..20 {
        let outcome = run(&mut pipeline, &ints(&[1, 2, 666, 4]));
        assert_eq!(outcome.stored, ints(&[1, 2, 4]));
    }
    let stats = pipeline.stats().filters[0].snapshot();
    assert_eq!(stats.breaker, BreakerState::Closed);
    assert_eq!(stats.quarantined, 20);
}

#[test]
fn a_batch_takes_two_deadlines_at_most_whatever_its_rows_do() {
    // Half a deadline, and then a trap: two attempts leave time for a part of the search.
    let slow = "(loop $spin
        (br_if $spin (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 30000000))))
        unreachable";
    for (body, at_least) in [("(loop (br 0))", 2), (slow, 2)] {
        let mut slot = Slot::of(module(at_666(body), &[], StateKind::None));
        slot.config.limits.deadline = Duration::from_millis(50);
        let mut pipeline = slot.pipeline();
        let values: Vec<i64> = (0..1000).map(|n| n + 100).collect();
        let outcome = run(&mut pipeline, &ints(&values));
        let stats = pipeline.stats().filters[0].snapshot();
        assert!(stats.calls >= at_least);
        // Each call runs over by a tick of the clock at most.
        let ticks = 0.015 * stats.calls as f64;
        assert!(stats.cpu_seconds_total <= 0.1 + ticks, "{stats:?}");
        let set_aside: usize = outcome.quarantined.iter().map(|q| q.rows.len()).sum();
        assert!(set_aside >= 1);
    }
}

#[test]
fn a_filter_that_keeps_failing_is_left_out_and_probed_again() {
    let mut pipeline = Slot::of(module(guest("", "unreachable"), &[], StateKind::None)).pipeline();
    let start = Instant::now();
    let stats = pipeline.stats();
    let calls = || stats.filters[0].snapshot().calls;
    let mut at = |seconds| {
        let now = start + Duration::from_secs(seconds);
        let outcome = pipeline.run(&ints(&[1]), ARRIVAL, now);
        assert_eq!(outcome.quarantined[0].reason, reason::TRAP);
        balances(&outcome);
        outcome.quarantined[0].detail.contains("left out")
    };
    for _ in 0..5 {
        assert!(!at(0));
    }
    assert_eq!(calls(), 10);
    assert!(at(0), "the sixth batch does not run");
    assert_eq!(calls(), 10);
    assert!(!at(1), "the probe runs");
    assert!(at(2), "and has failed: twice the pause");
    assert!(!at(3));
    assert_eq!(calls(), 14);
    assert_eq!(stats.filters[0].snapshot().breaker, BreakerState::Open);
}

#[test]
fn more_bytes_than_allowed_do_not_leave_the_guest() {
    let mut slot = Slot::of(module(
        guest("", &keep_rows("(i32.const 2000)")),
        &[],
        StateKind::None,
    ));
    slot.config.limits.host_call_bytes = 1000;
    let outcome = run(&mut slot.pipeline(), &ints(&[1]));
    let detail = &outcome.quarantined[0].detail;
    assert!(detail.contains("too much data"), "{detail}");
}

#[test]
fn the_clock_thread_rests_when_no_guest_runs() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut pipeline =
        Slot::of(module_in(&runtime, pass(), &[], StateKind::None)).pipeline_in(&runtime);
    run(&mut pipeline, &ints(&[1]));
    while !runtime.ticker.parked() {
        std::thread::yield_now();
    }
    // And wakes again: without ticks this would never end.
    let endless = module_in(&runtime, guest("", "(loop (br 0))"), &[], StateKind::None);
    let mut slot = Slot::of(endless);
    slot.config.limits.deadline = Duration::from_millis(1);
    run(&mut slot.pipeline_in(&runtime), &ints(&[1]));
}

// Host imports.

/// Adds one to the first byte of every record, and then traps if the batch's first value is 666.
const COUNT_ROWS: &str = r#"
    (call $load (i32.const 9000))
    (local.set $i (i32.const 0))
    (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $i) (i32.load (i32.const 9004))))
        (i32.store8 (i32.add (i32.load (i32.const 9000)) (local.get $i))
            (i32.add (i32.const 1) (i32.load8_u (i32.add (i32.load (i32.const 9000)) (local.get $i)))))
        (local.set $i (i32.add (local.get $i) (i32.const 2)))
        (br $next)))
    (call $store (i32.load (i32.const 9000)) (i32.load (i32.const 9004)))
    (if (i64.eq (i64.load (local.get $bits)) (i64.const 666)) (then unreachable))
"#;

#[test]
fn series_state_changes_with_a_success_and_only_then() {
    let counting = module(
        guest(SERIES_STATE, COUNT_ROWS),
        &[Grant::State],
        StateKind::Series { width: 2 },
    );
    let mut pipeline = Slot::of(Arc::clone(&counting)).pipeline();
    let delta = |outcome: &PipelineOutcome| {
        let [delta] = outcome.state.as_slice() else {
            panic!("{:?}", outcome.state);
        };
        assert_eq!(&*delta.slot, "p/f");
        delta.change.clone()
    };
    let records = |names: &[&str], records: &[u8]| StateChange::Series {
        width: 2,
        names: names.iter().map(|name| (*name).into()).collect(),
        records: records.to_vec(),
    };
    let a = batch(&[("a", Value::Int(1))]);
    let ab = batch(&[("a", Value::Int(1)), ("b", Value::Int(1))]);
    let trap = batch(&[("a", Value::Int(666)), ("b", Value::Int(1))]);
    assert_eq!(delta(&run(&mut pipeline, &a)), records(&["a"], &[1, 0]));
    assert_eq!(
        delta(&run(&mut pipeline, &ab)),
        records(&["a", "b"], &[2, 0, 1, 0])
    );
    // It fails on the row of `a`, and counts that of `b`.
    assert_eq!(delta(&run(&mut pipeline, &trap)), records(&["b"], &[2, 0]));
    let last = delta(&run(&mut pipeline, &ab));
    assert_eq!(last, records(&["a", "b"], &[3, 0, 3, 0]));

    // A new process begins with what was stored, and a record of zeros (255 + 1) is none.
    let restore = |change| BTreeMap::from([("p/f".to_owned(), change)]);
    let mut pipeline = Slot::of(Arc::clone(&counting))
        .try_pipeline(&restore(records(&["a", "b"], &[3, 0, 255, 0])))
        .unwrap();
    let change = delta(&run(&mut pipeline, &ab));
    assert_eq!(change, records(&["a", "b"], &[4, 0, 0, 0]));

    // Records of another width are another version's: it starts afresh.
    let other = StateChange::Series {
        width: 1,
        names: vec!["a".into()],
        records: vec![9],
    };
    let mut pipeline = Slot::of(counting).try_pipeline(&restore(other)).unwrap();
    assert_eq!(delta(&run(&mut pipeline, &a)), records(&["a"], &[1, 0]));
}

#[test]
fn a_state_column_of_another_length_is_refused() {
    let body = "(call $store (i32.const 0) (i32.const 3))";
    let module = module(
        guest(SERIES_STATE, body),
        &[Grant::State],
        StateKind::Series { width: 2 },
    );
    let outcome = run(&mut Slot::of(module).pipeline(), &ints(&[1]));
    let set_aside = &outcome.quarantined[0];
    assert_eq!(set_aside.reason, reason::INVALID_OUTPUT);
    assert!(
        set_aside
            .detail
            .contains("3 bytes is stored where 2 are due")
    );
    assert!(outcome.state.is_empty());
}

#[test]
fn state_for_more_series_than_allowed_is_a_fault() {
    let counting = module(
        guest(SERIES_STATE, COUNT_ROWS),
        &[Grant::State],
        StateKind::Series { width: 2 },
    );
    let names = (0..limits::STATE_SERIES)
        .map(|n| format!("s{n}").into())
        .collect();
    let full = StateChange::Series {
        width: 2,
        names,
        records: vec![1; 2 * limits::STATE_SERIES],
    };
    let mut pipeline = Slot::of(counting)
        .try_pipeline(&BTreeMap::from([("p/f".to_owned(), full)]))
        .unwrap();
    let outcome = run(&mut pipeline, &batch(&[("one more", Value::Int(1))]));
    assert_eq!(outcome.quarantined[0].reason, reason::FAULT);
    let known = run(&mut pipeline, &batch(&[("s7", Value::Int(1))]));
    assert_eq!(known.stored.len(), 1);
}

#[test]
fn global_state_is_kept_bounded_and_restored() {
    // Reads "k" (1 byte or none), stores one byte more than it found.
    let body = r#"
        (i32.store8 (i32.const 9000) (i32.const 107))
        (call $get (i32.const 9000) (i32.const 1) (i32.const 9100))
        (call $set (i32.const 9000) (i32.const 1) (i32.const 9200)
            (i32.add (i32.const 1) (i32.load (i32.const 9108))) (i32.const 9300))
        (if (i32.load8_u (i32.const 9300)) (then unreachable))
    "#;
    let module = module(
        guest(GLOBAL_STATE, body),
        &[Grant::State],
        StateKind::Global,
    );
    let mut pipeline = Slot::of(Arc::clone(&module)).pipeline();
    let value = |outcome: PipelineOutcome| match &outcome.state[0].change {
        StateChange::Global(changes) => changes.clone(),
        StateChange::Series { .. } => panic!("{:?}", outcome.state),
    };
    let k = |bytes: usize| vec![("k".to_owned(), Some(vec![0; bytes]))];
    assert_eq!(value(run(&mut pipeline, &ints(&[1]))), k(1));
    assert_eq!(value(run(&mut pipeline, &ints(&[1]))), k(2));

    let full = StateChange::Global(k(limits::GLOBAL_STATE_BYTES - 1));
    let mut pipeline = Slot::of(module)
        .try_pipeline(&BTreeMap::from([("p/f".to_owned(), full)]))
        .unwrap();
    let outcome = run(&mut pipeline, &ints(&[1]));
    assert!(outcome.state.is_empty(), "one byte more is refused");
}

#[test]
fn alarms_name_the_rows_series_time_and_value_and_fall_with_a_failed_call() {
    // Raises "hot" for row 1 and clears it for row 0, then traps if the first value is 666.
    let body = r#"
        (i32.store (i32.const 9000) (i32.const 0x746f68))
        (call $raise (i32.const 1) (i32.const 2) (i32.const 9000) (i32.const 3) (i32.const 9000) (i32.const 3))
        (call $clear (i32.const 0) (i32.const 9000) (i32.const 3))
        (if (i64.eq (i64.load (local.get $bits)) (i64.const 666)) (then unreachable))
    "#;
    let module = module(guest(ALARM, body), &[Grant::Alarm], StateKind::None);
    let mut pipeline = Slot::of(module).pipeline();
    let outcome = run(
        &mut pipeline,
        &batch(&[("a", Value::Int(1)), ("b", Value::Float(2.5))]),
    );
    let [raised, cleared] = outcome.alarms.as_slice() else {
        panic!("{:?}", outcome.alarms);
    };
    assert_eq!(
        (&*raised.series, raised.value, raised.time),
        ("b", Some(2.5), 1)
    );
    assert_eq!(
        (raised.state, raised.severity),
        (AlarmState::Raised, Severity::Critical)
    );
    assert_eq!((raised.code.as_str(), raised.text.as_str()), ("hot", "hot"));
    assert_eq!(
        (&*cleared.series, cleared.state),
        ("a", AlarmState::Cleared)
    );

    let outcome = run(
        &mut pipeline,
        &batch(&[("a", Value::Int(666)), ("b", Value::Int(1))]),
    );
    assert!(outcome.alarms.is_empty());
    // Row 1 of one row.
    let outcome = run(&mut pipeline, &ints(&[1]));
    assert!(
        outcome.quarantined[0]
            .detail
            .contains("an alarm for row 1 of 1")
    );
}

#[test]
fn settings_secrets_clock_metrics_and_log_answer_as_the_contract_says() {
    let imports = [SETTINGS, SECRETS, CLOCK, METRICS, LOG].concat();
    // Traps unless everything answers as it should.
    let body = r#"
        (memory.copy (i32.const 9000) (i32.const 400) (i32.const 64))
        (call $number (i32.const 9000) (i32.const 3) (i32.const 9104))
        (if (i32.ne (i32.load8_u (i32.const 9104)) (i32.const 1)) (then unreachable))
        (if (f64.ne (f64.load (i32.const 9112)) (f64.const 2.5)) (then unreachable))
        (call $number (i32.const 9000) (i32.const 1) (i32.const 9104))
        (if (i32.load8_u (i32.const 9104)) (then unreachable))
        (if (i64.ne (call $now) (i64.const 77)) (then unreachable))
        (call $hmac (i32.const 9003) (i32.const 3) (i32.const 9006) (i32.const 28) (i32.const 9100))
        (if (i32.load8_u (i32.const 9100)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 9108)) (i32.const 32)) (then unreachable))
        (if (i32.ne (i32.load (i32.load (i32.const 9104))) (i32.const 0x46c1dc5b)) (then unreachable))
        (call $hmac (i32.const 9000) (i32.const 3) (i32.const 9006) (i32.const 4) (i32.const 9100))
        (if (i32.eqz (i32.load8_u (i32.const 9100))) (then unreachable))
        (call $count (i32.const 9003) (i32.const 3) (i64.const 2))
        (call $count (i32.const 9003) (i32.const 3) (i64.const 3))
        (call $count (i32.const 9006) (i32.const 28) (i64.const 3))
        (loop $again
            (call $write (i32.const 1) (i32.const 9003) (i32.const 3))
            (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 25))))
    "#;
    // The HMAC is the second test case of RFC 4231: key "Jefe", 5bdcc146….
    let data = r#"(data (i32.const 400) "a.bkeywhat do ya want for nothing?")"#;
    let grants = [Grant::Secrets, Grant::Metrics, Grant::Log];
    let component = guest_with(&imports, data, body);
    let mut manifest = manifest(&grants, StateKind::None);
    manifest.settings = Some(serde_json::json!({"type": "object"}));
    let module = Module {
        manifest,
        component: component.into(),
        origin: Origin::Local,
    };
    let mut slot = Slot::of(Arc::new(LoadedModule::load(shared(), module).unwrap()));
    slot.config.settings = serde_json::json!({"a": {"b": 2.5}});
    slot.config.secrets = BTreeMap::from([("key".to_owned(), Secret::new(b"Jefe\n".to_vec()))]);
    let mut pipeline = slot.pipeline();
    let outcome = run(&mut pipeline, &ints(&[1]));
    assert_eq!(outcome.stored.len(), 1, "{:?}", outcome.quarantined);
    let stats = pipeline.stats().filters[0].snapshot();
    assert_eq!(
        stats.metrics,
        BTreeMap::from([("key".to_owned(), Metric::Counter(5))])
    );
    assert_eq!(stats.metrics_refused, 1, "a name with spaces");
    assert_eq!(stats.log_lines_dropped, 15);
}

// What is recorded about them.

#[test]
fn a_generation_is_the_same_for_the_same_and_another_for_anything_else() {
    let module = module(pass(), &[Grant::Log], StateKind::None);
    let id = |change: &dyn Fn(&mut SlotConfig)| {
        let mut slot = Slot::of(Arc::clone(&module));
        change(&mut slot.config);
        let pipeline = slot.pipeline();
        assert_eq!(pipeline.generation().id.len(), 16);
        pipeline.generation().id.clone()
    };
    let ids: BTreeSet<String> = [
        id(&|_| ()),
        id(&|slot| slot.limits.memory_bytes += 1),
        id(&|slot| slot.limits.alarms_per_minute += 1),
        id(&|slot| slot.grants = BTreeSet::new()),
        id(&|slot| slot.filter = "other".to_owned()),
    ]
    .into();
    assert_eq!(ids.len(), 5);
    assert_eq!(id(&|_| ()), id(&|_| ()));
}

#[test]
fn limits_are_what_the_manifest_wants_within_what_the_site_gives() {
    let wanted = WantedLimits {
        memory_bytes: Some(64 << 20),
        deadline_ms: Some(10),
        output_rows: Some(7),
        ..WantedLimits::default()
    };
    let site = SlotLimits {
        memory_bytes: 32 << 20,
        ..SlotLimits::default()
    };
    let got = SlotLimits::granted(&wanted, &site);
    assert_eq!(got.memory_bytes, 32 << 20);
    assert_eq!(got.deadline, Duration::from_millis(10));
    assert_eq!(got.host_call_bytes, limits::HOST_CALL_BYTES);
    assert_eq!(got.output_rows, 7);
}

#[test]
fn golden_vectors_pass_where_the_module_does_as_they_say_and_tell_where_not() {
    let module = module(every_second(), &[], StateKind::None);
    let row = |time: i64| format!(r#"{{"series": "a", "time": {time}, "value": {time}.5}}"#);
    let vectors = |expect: &str| {
        let input = [row(0), row(1), row(2)].join(",");
        format!(
            r#"{{"vectors": [{{"name": "v", "steps": [
                {{"now": "2026-01-01T00:00:00Z", "input": [{input}], "expect": {expect}}}]}}]}}"#
        )
    };
    let problems = |expect: &str| {
        let results = run_vectors(shared(), &module, &[], vectors(expect).as_bytes()).unwrap();
        results[0].problems.join("; ")
    };
    let stored = |rows: &[String]| format!(r#"{{"stored": [{}]}}"#, rows.join(","));
    assert_eq!(problems(&stored(&[row(0), row(2)])), "");
    assert_eq!(problems(r#"{"filtered": 1}"#), "");
    for (expect, want) in [
        (
            stored(&[row(0)]),
            "step 1: stored 2 rows, expected 1: a at 0 with Float(0.5) (good)",
        ),
        (stored(&[row(0), row(1)]), "stored row 1 is a at 2"),
        (
            r#"{"filtered": 0}"#.to_owned(),
            "filtered 1 rows, expected 0",
        ),
        (
            r#"{"rejected": [{"row": 1}]}"#.to_owned(),
            "rejected [], expected rows [1]",
        ),
        (
            r#"{"alarms": [{"series": "a", "code": "c", "state": "raised"}]}"#.to_owned(),
            "alarms []",
        ),
        (r#"{"fault": "bad"}"#.to_owned(), "no fault"),
    ] {
        let got = problems(&expect);
        assert!(got.contains(want), "{expect}: {got}");
    }

    let module = module_in(shared(), guest("", &reject(1)), &[], StateKind::None);
    let run = |expect| {
        let results = run_vectors(shared(), &module, &[], vectors(expect).as_bytes()).unwrap();
        results[0].passed()
    };
    assert!(run(r#"{"rejected": [{"row": 1, "reason": "ba"}]}"#));
    assert!(!run(r#"{"rejected": [{"row": 2}]}"#));
    assert!(!run("{}"), "an unexpected rejection fails");
}

// Helpers.

const LOG: &str =
    r#"(import "tidegate:module/log@0.1.0" "write" (func $write (param i32 i32 i32)))"#;
const SETTINGS: &str =
    r#"(import "tidegate:module/settings@0.1.0" "number" (func $number (param i32 i32 i32)))"#;
const SECRETS: &str = r#"(import "tidegate:module/secrets@0.1.0" "hmac-sha256" (func $hmac (param i32 i32 i32 i32 i32)))"#;
const CLOCK: &str = r#"(import "tidegate:module/clock@0.1.0" "now" (func $now (result i64)))"#;
const METRICS: &str =
    r#"(import "tidegate:module/metrics@0.1.0" "count" (func $count (param i32 i32 i64)))"#;
const ALARM: &str = r#"
    (import "tidegate:module/alarm@0.1.0" "raise" (func $raise (param i32 i32 i32 i32 i32 i32)))
    (import "tidegate:module/alarm@0.1.0" "clear" (func $clear (param i32 i32 i32)))"#;
const SERIES_STATE: &str = r#"
    (import "tidegate:module/series-state@0.1.0" "load" (func $load (param i32)))
    (import "tidegate:module/series-state@0.1.0" "store" (func $store (param i32 i32)))"#;
const GLOBAL_STATE: &str = r#"
    (import "tidegate:module/global-state@0.1.0" "get" (func $get (param i32 i32 i32)))
    (import "tidegate:module/global-state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))"#;

const ARRIVAL: Arrival = Arrival {
    monotonic: 0,
    wall: 77,
    synced: true,
};

/// One filter `f` in a pipeline `p`.
struct Slot {
    config: SlotConfig,
}

impl Slot {
    fn of(module: Arc<LoadedModule>) -> Self {
        Self {
            config: SlotConfig {
                filter: "f".to_owned(),
                settings: serde_json::json!({}),
                on_failure: OnFailure::Quarantine,
                limits: SlotLimits::default(),
                grants: module.manifest.grants.clone(),
                directories: BTreeMap::new(),
                secrets: BTreeMap::new(),
                module,
            },
        }
    }

    fn pipeline(self) -> Pipeline {
        self.try_pipeline(&BTreeMap::new()).unwrap()
    }

    fn pipeline_in(self, runtime: &Runtime) -> Pipeline {
        self.make(runtime, &BTreeMap::new()).unwrap()
    }

    fn try_pipeline(
        self,
        state: &BTreeMap<String, StateChange>,
    ) -> Result<Pipeline, PipelineError> {
        self.make(shared(), state)
    }

    fn make(
        self,
        runtime: &Runtime,
        state: &BTreeMap<String, StateChange>,
    ) -> Result<Pipeline, PipelineError> {
        let config = PipelineConfig {
            index: 0,
            name: "p".to_owned(),
            select: SeriesFilter::default(),
            slots: vec![self.config],
        };
        Pipeline::new(runtime, config, state)
    }
}

fn run(pipeline: &mut Pipeline, input: &Batch) -> PipelineOutcome {
    let outcome = pipeline.run(input, ARRIVAL, Instant::now());
    balances(&outcome);
    outcome.stored.validate().unwrap();
    outcome
}

/// The pipeline's equation in the ledger.
fn balances(outcome: &PipelineOutcome) {
    let quarantined: usize = outcome.quarantined.iter().map(|q| q.rows.len()).sum();
    let dropped: u64 = outcome.dropped.values().sum();
    assert_eq!(
        outcome.selected + outcome.derived,
        (outcome.stored.len() + quarantined) as u64 + outcome.filtered + dropped
    );
}

fn batch(rows: &[(&str, Value<'_>)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (time, (series, value)) in (0..).zip(rows) {
        let series = builder.series(&(*series).into());
        builder.push(series, time, *value, Quality::Good);
    }
    builder.finish()
}

/// Integers of one series; a row's time is 0 so that rows compare by value.
fn ints(values: &[i64]) -> Batch {
    let mut builder = BatchBuilder::new();
    let series = builder.series(&"s".into());
    for value in values {
        builder.push(series, 0, Value::Int(*value), Quality::Good);
    }
    builder.finish()
}

fn manifest(grants: &[Grant], state: StateKind) -> Manifest {
    let mut manifest =
        Manifest::parse(br#"{"name": "guest", "version": "1.0.0", "world": "filter"}"#).unwrap();
    manifest.grants = grants.iter().copied().collect();
    manifest.state = state;
    manifest
}

fn module(component: Vec<u8>, grants: &[Grant], state: StateKind) -> Arc<LoadedModule> {
    module_in(shared(), component, grants, state)
}

fn module_in(
    runtime: &Runtime,
    component: Vec<u8>,
    grants: &[Grant],
    state: StateKind,
) -> Arc<LoadedModule> {
    let module = Module {
        manifest: manifest(grants, state),
        component: Bytes::from(component),
        origin: Origin::Local,
    };
    Arc::new(LoadedModule::load(runtime, module).unwrap())
}

/// One runtime for all tests that do not look at the cache itself.
fn shared() -> &'static Runtime {
    static SHARED: OnceLock<Runtime> = OnceLock::new();
    SHARED.get_or_init(|| runtime(&build_dir().join("tidegate-pipeline-tests")))
}

fn runtime(dir: &Path) -> Runtime {
    Runtime::new(config(dir)).unwrap()
}

fn config(dir: &Path) -> RuntimeConfig {
    let compiler = build_dir().join("examples/tidegate-compile");
    assert!(
        compiler.exists(),
        "{} is missing; run all of `cargo test -p tidegate-pipeline` once",
        compiler.display()
    );
    RuntimeConfig::new(dir.join("cache"), dir.join("secret"), compiler)
}

/// Where cargo puts what it builds in this profile: the test's own executable is in `deps` there.
fn build_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().to_owned()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

fn only_file(dir: &Path) -> PathBuf {
    let files = files(dir);
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}
