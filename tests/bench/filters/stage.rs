//! A stage's cost a reading and a call, what loading takes, and a window of `classify`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_pipeline::{CodeOrigin, LoadedModule};

use crate::measure::{batch, measure};
use crate::slot::{module, runtime, slot};
use crate::{ROWS, built, component, told};

/// Samples of a window of `classify`.
const WINDOW: usize = 64;
/// Loads of each module.
const LOADS: usize = 21;

pub(crate) fn tell() {
    for (name, settings) in [
        ("range", json!({ "min": -1000 })),
        ("scale", json!({ "factor": 1.8, "offset": 32 })),
        ("deadband", json!({ "width": 0.5 })),
    ] {
        let (mut pipeline, _, _) = slot(&component(name), settings);
        let mut nanoseconds = |rows, series| {
            measure(&mut pipeline, &batch(rows, series)).as_secs_f64() * 1e9 / rows as f64
        };
        let of = |rows| format!("{name}, a reading of {rows}, instance and call included");
        told(&of(ROWS), nanoseconds(ROWS, 16), Some(5.0), "ns");
        told(&of(64), nanoseconds(64, 16), Some(400.0), "ns");
        let call = nanoseconds(1, 1) / 1e3;
        let what = format!("{name}, fresh instance and call on one reading");
        told(&what, call, Some(30.0), "µs");
        // What a reading costs once the call is paid for.
        let (less, more) = (
            nanoseconds(64, 16) * 64.0,
            nanoseconds(ROWS, 16) * ROWS as f64,
        );
        let slope = (more - less) / (ROWS - 64) as f64;
        told(
            &format!("{name}, one more reading in a call"),
            slope,
            None,
            "ns",
        );
    }
    load();
    for (name, folder) in [("scalar", "components"), ("simd128", "simd-components")] {
        let settings = json!({ "full-scale": 8, "keep": false });
        let (mut pipeline, _, _) = slot(&built(folder, "classify"), settings);
        let full = measure(&mut pipeline, &batch(ROWS, 1));
        let window = full.as_secs_f64() * 1e6 / (ROWS / WINDOW) as f64;
        told(
            &format!("classify, {name}, a window of {WINDOW}"),
            window,
            None,
            "µs",
        );
    }
}

/// The factory module that takes longest.
fn load() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut slowest = (Duration::ZERO, String::new());
    let files = std::fs::read_dir(component("range").parent().unwrap()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|ending| ending == "wasm")) {
        let module = module(&file);
        drop(LoadedModule::load(&runtime, module.clone()).unwrap());
        let mut loads: Vec<Duration> = (0..LOADS)
            .map(|_| {
                let module = module.clone();
                let begin = Instant::now();
                let loaded = Arc::new(LoadedModule::load(&runtime, module).unwrap());
                let took = begin.elapsed();
                assert_eq!(*loaded.code_origin(), CodeOrigin::Cache);
                took
            })
            .collect();
        loads.sort();
        let name = file.file_stem().unwrap().display().to_string();
        slowest = slowest.max((loads[LOADS / 2], name));
    }
    let (took, name) = slowest;
    let what = format!("load from the cache, the slowest factory module ({name})");
    told(&what, took.as_secs_f64() * 1e3, Some(1.0), "ms");
}
