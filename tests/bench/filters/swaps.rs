//! A thousand generations one after the other under full load: how long batches wait for a swap, and that each reading comes
//! out exactly once.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_domain::batch::BatchBuilder;
use tidegate_domain::rollout::{Gates, Mode, Record};
use tidegate_domain::{Arrival, Batch, Quality, Value};
use tidegate_pipeline::{Lane, LoadedModule};

use crate::slot::{module, pipeline, runtime};
use crate::{ROWS, component, told};

const SWAPS: u32 = 1000;

pub(crate) fn tell() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let module = Arc::new(LoadedModule::load(&runtime, module(&component("deadband"))).unwrap());
    let make = |number: u32| {
        let settings = json!({ "width": 0, "max-silence": 1 + number });
        pipeline(&runtime, Arc::clone(&module), settings)
    };
    let active = make(0);
    let record = Record::new(active.chain());
    let mut lane = Lane::new(active, record, None, Instant::now());
    let mut pauses = Vec::new();
    let mut sent = 0_i64;
    let mut came = 0_i64;
    let mut batches = 0_u32;
    thread::scope(|scope| {
        // Candidates are made beside the worker, as in the gateway.
        let (candidates, ready) = sync_channel(1);
        scope.spawn(move || {
            for number in 1..=SWAPS {
                candidates.send(make(number)).unwrap();
            }
        });
        let mut out = Vec::new();
        let mut swaps = 0;
        while swaps < SWAPS {
            let input = counted(sent);
            sent += input.len() as i64;
            lane.run(&input, Arrival::default(), Instant::now(), &mut out);
            batches += 1;
            for outcome in out.drain(..) {
                for time in &outcome.stored.time {
                    assert_eq!(*time, came, "a reading is lost or there twice");
                    came += 1;
                }
            }
            if let Ok(candidate) = ready.try_recv() {
                let gates = Gates {
                    mode: Mode::Immediate,
                    ..Gates::default()
                };
                let before = lane.record().active.clone();
                let begin = Instant::now();
                let change = lane.start(candidate, gates, Arrival::default(), begin);
                pauses.push(begin.elapsed());
                assert_ne!(lane.record().active, before, "{change:?}");
                swaps += 1;
            }
        }
    });
    assert_eq!(came, sent, "readings in and out");
    pauses.sort();
    let at = |part: usize| pauses[(pauses.len() - 1) * part / 100];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let what = format!("pause of a swap, p99 of {SWAPS} in {batches} full batches");
    told(&what, milliseconds(at(99)), Some(2.0), "ms");
    told("  p50", milliseconds(at(50)), None, "ms");
    told(
        "  readings of those lost or there twice",
        0.0,
        Some(0.0),
        "",
    );
}

/// Readings whose times count on, each different from the one before.
fn counted(from: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    let names: Vec<_> = (0..16)
        .map(|number| builder.series(&format!("plant/line/{number}").as_str().into()))
        .collect();
    for row in 0..ROWS {
        let time = from + row as i64;
        builder.push(names[row % 16], time, Value::Int(time), Quality::Good);
    }
    builder.finish()
}
