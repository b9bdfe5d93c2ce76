//! Filters in the engine of the gateway, in this process.

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

/// An engine that keeps its cache in a directory and takes any size of module.
pub(crate) fn runtime(dir: &Path) -> Runtime {
    let mut config = RuntimeConfig::new(
        dir.join("cache"),
        dir.join("secret"),
        PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
    );
    config.compile = LoadLimits::MOST.compile;
    config.module_bytes = LoadLimits::MOST.module_bytes;
    config.cache.files = 256;
    Runtime::new(config).unwrap()
}

/// A component with the manifest beside it.
pub(crate) fn module(file: &Path) -> Module {
    let manifest = fs::read(file.with_extension("json")).unwrap();
    Module {
        manifest: Manifest::parse(&manifest).unwrap(),
        component: fs::read(file).unwrap().into(),
        origin: Origin::Local,
    }
}

/// A pipeline of one filter, with all that its manifest asks for.
pub(crate) fn pipeline(
    runtime: &Runtime,
    module: Arc<LoadedModule>,
    settings: serde_json::Value,
) -> Pipeline {
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
            directories: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }],
    };
    Pipeline::new(runtime, config, &BTreeMap::new()).unwrap()
}

/// A pipeline of one filter in an engine of its own, the component's size, and how long compiling it took.
pub(crate) fn slot(file: &Path, settings: serde_json::Value) -> (Pipeline, usize, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let module = module(file);
    let size = module.component.len();
    let begin = Instant::now();
    let module = Arc::new(LoadedModule::load(&runtime, module).unwrap());
    let compiled = begin.elapsed();
    (pipeline(&runtime, module, settings), size, compiled)
}
