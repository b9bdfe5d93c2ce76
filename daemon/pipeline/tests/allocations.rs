//! A chain costs the host a number of allocations a batch that does not depend on its rows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]
#![expect(unsafe_code, reason = "counting allocations takes a global allocator")]

#[path = "../src/tests/guest.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod guest;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, Batch, Quality, Value};
use tidegate_pipeline::{
    LoadedModule, Manifest, Module, OnFailure, Origin, Pipeline, PipelineConfig, Runtime,
    RuntimeConfig, SlotConfig, SlotLimits,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; only a number of this thread's changes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_chain_allocates_nothing_for_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap();
    let runtime = Runtime::new(RuntimeConfig::new(
        dir.path().join("cache"),
        dir.path().join("secret"),
        built.join("examples/tidegate-compile"),
    ))
    .unwrap();
    let guests = [
        guest::pass(),
        guest::guest("", &guest::keep_changed()),
        guest::every_second(),
    ];
    let slots = guests.into_iter().enumerate().map(|(index, component)| {
        let json = br#"{"name": "guest", "version": "1.0.0", "world": "filter"}"#;
        let module = Module {
            manifest: Manifest::parse(json).unwrap(),
            component: component.into(),
            origin: Origin::Local,
        };
        SlotConfig {
            filter: index.to_string(),
            module: Arc::new(LoadedModule::load(&runtime, module).unwrap()),
            settings: serde_json::json!({}),
            on_failure: OnFailure::Quarantine,
            limits: SlotLimits::default(),
            grants: BTreeSet::new(),
            directories: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    });
    let config = PipelineConfig {
        index: 0,
        name: "p".to_owned(),
        select: SeriesFilter::default(),
        slots: slots.collect(),
    };
    let mut pipeline = Pipeline::new(&runtime, config, &BTreeMap::new()).unwrap();
    let mut allocations = |rows: i64| {
        let batch = batch(rows);
        let before = ALLOCATIONS.get();
        let outcome = pipeline.run(&batch, Arrival::default(), Instant::now());
        let after = ALLOCATIONS.get();
        assert_eq!(outcome.stored.len() as i64, rows / 2);
        after - before
    };
    allocations(16);
    let few = allocations(16);
    let many = allocations(1024);
    assert_eq!(few, many, "16 rows against 1024");
}

fn batch(rows: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    let series = builder.series(&"a/temp".into());
    for row in 0..rows {
        builder.push(series, row, Value::Int(row), Quality::Good);
    }
    builder.finish()
}
