//! What a module is, and the version of the contract that it was built for, on the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a panic is a test's report, and its figures are small"
)]

mod support;

use support::{Broker, Daemon, Site, components, configuration, hostile_components, numbered, run};

/// `former` is built straight against `modules/wit/0.1.0`; `range` and `trap` are of the second contract.
#[test]
fn a_component_of_the_first_contract_runs_in_a_chain_with_those_of_the_second() {
    let world = |file: std::path::PathBuf| {
        let output = run(&["module", "inspect", "--json", file.to_str().unwrap()]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["world"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        world(hostile_components().join("former.wasm")),
        "tidegate:module/filter@0.1.0"
    );
    assert_eq!(
        world(components().join("range.wasm")),
        "tidegate:module/filter@0.2.0"
    );

    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(
        &site,
        &broker,
        &format!(
            "[modules]\nallow-unsigned = true\ndir = \"{}\"\n[pipeline.both]\nfrom = [\"plant\"]\nfilters = [\n\
             {{ module = \"range\", settings = {{ max = 5, action = \"drop\" }} }}, {{ module = \"former\" }},\n\
             {{ module = \"trap\" }}]\n[pipeline.old]\nfrom = [\"plant\"]\n\
             filters = [{{ module = \"former\", settings = {{ drop = true }} }}]\n",
            hostile_components().display()
        ),
    );
    let mut daemon = Daemon::start(&config);
    broker.publish("plant/line1", (0..10).map(numbered));
    daemon.wait_received("plant", 10);
    let pipelines = &daemon.ledger()["pipelines"];
    assert_eq!(pipelines["both"]["stored"], 6, "{pipelines}");
    assert_eq!(pipelines["old"]["filtered"], 10, "{pipelines}");
    assert_eq!(daemon.stop(), 0);
}
