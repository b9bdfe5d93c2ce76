//! What 64 slots hold while nothing happens: in a process of its own, which loads them from the cache as a gateway does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tidegate_pipeline::{CodeOrigin, LoadedModule, Pipeline, Runtime};

use crate::measure::{batch, run};
use crate::slot::{module, pipeline, runtime};
use crate::{ROWS, component, told};

/// The first argument of the process that holds slots.
pub(crate) const ROLE: &str = "hold-slots";
const SLOTS: u8 = 64;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn tell() {
    let dir = tempfile::tempdir().unwrap();
    let filling = runtime(dir.path());
    for number in 0..SLOTS {
        drop(load(&filling, number));
    }
    drop(filling);
    let output = Command::new(std::env::current_exe().unwrap())
        .arg(ROLE)
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<f64> = text
        .split_whitespace()
        .map(|figure| figure.parse().unwrap())
        .collect();
    let [bare, one, all] = figures[..] else {
        panic!("{text}");
    };
    let slot = (all - one) / f64::from(SLOTS - 1) / MIB;
    told("resident, one more idle slot", slot, Some(1.0), "MiB");
    told(
        "resident, 64 slots, the engine included",
        (all - bare) / MIB,
        Some(64.0),
        "MiB",
    );
}

/// Prints what the process has in memory without an engine, with one slot and with all.
pub(crate) fn hold_slots(dir: &Path) {
    let bare = resident();
    let runtime = runtime(dir);
    let input = batch(ROWS, 64);
    let mut one = 0;
    let mut held: Vec<Pipeline> = Vec::new();
    for number in 0..SLOTS {
        let module = load(&runtime, number);
        assert_eq!(*module.code_origin(), CodeOrigin::Cache);
        let mut pipeline = pipeline(&runtime, module, json!({ "width": 0.5 }));
        run(&mut pipeline, &input);
        held.push(pipeline);
        if number == 0 {
            one = resident();
        }
    }
    println!("{bare} {one} {}", resident());
    drop(held);
}

/// `deadband` as the module of one publisher after the other: each with code of its own.
fn load(runtime: &Runtime, number: u8) -> Arc<LoadedModule> {
    let mut module = module(&component("deadband"));
    let mut bytes = module.component.to_vec();
    // A custom section: id 0, its length, the length of its name, and the name.
    bytes.extend([0, 3, 2, b'n', number]);
    module.component = bytes.into();
    module.manifest.digest = None;
    Arc::new(LoadedModule::load(runtime, module).unwrap())
}

/// Bytes in memory.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}
