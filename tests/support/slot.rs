//! One filter in the engine of the gateway, in this process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::series::SeriesFilter;
use tidegate_pipeline::{
    Grant, LoadLimits, LoadedModule, Manifest, Module, OnFailure, Origin, Pipeline, PipelineConfig,
    Runtime, RuntimeConfig, SlotConfig, SlotLimits,
};

/// A pipeline of one filter, the component's size, and how long compiling it took.
pub(crate) fn slot(file: &Path, settings: serde_json::Value) -> (Pipeline, usize, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(
        dir.path().join("cache"),
        dir.path().join("secret"),
        PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
    );
    config.compile = LoadLimits::MOST.compile;
    config.module_bytes = LoadLimits::MOST.module_bytes;
    let runtime = Runtime::new(config).unwrap();
    let component = fs::read(file).unwrap();
    let manifest = fs::read(file.with_extension("json")).unwrap();
    let module = Module {
        manifest: Manifest::parse(&manifest).unwrap(),
        component: component.clone().into(),
        origin: Origin::Local,
    };
    let begin = Instant::now();
    let module = Arc::new(LoadedModule::load(&runtime, module).unwrap());
    let compiled = begin.elapsed();
    let config = PipelineConfig {
        index: 0,
        name: "bench".to_owned(),
        select: SeriesFilter::default(),
        slots: vec![SlotConfig {
            filter: "filter".to_owned(),
            limits: SlotLimits::granted(&module.manifest.limits, &SlotLimits::MOST),
            module,
            settings,
            on_failure: OnFailure::Quarantine,
            grants: [Grant::State, Grant::Alarm].into(),
            secrets: BTreeMap::new(),
        }],
    };
    let pipeline = Pipeline::new(&runtime, config, &BTreeMap::new()).unwrap();
    (pipeline, component.len(), compiled)
}
