//! Settings as a component: what it exports takes the place of what the gateway would give to a filter. Composed with
//! `range` it makes a filter that needs no settings: from 0 to 100, and what is outside is dropped.
#![cfg(target_arch = "wasm32")]
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "mostly generated code, which crosses the boundary of the component"
)]

wit_bindgen::generate!({
    inline: "
        package test:preset;
        world preset { export tidegate:module/settings@0.2.0; }
    ",
    path: "../../wit/0.2.0",
    world: "test:preset/preset",
});

use exports::tidegate::module::settings::Guest;

struct Preset;

impl Guest for Preset {
    fn number(key: String) -> Option<f64> {
        match key.as_str() {
            "min" => Some(0.0),
            "max" => Some(100.0),
            _ => None,
        }
    }

    fn integer(_: String) -> Option<i64> {
        None
    }

    fn boolean(_: String) -> Option<bool> {
        None
    }

    fn text(key: String) -> Option<String> {
        (key == "action").then(|| "drop".to_owned())
    }

    fn numbers(_: String) -> Vec<f64> {
        Vec::new()
    }

    fn texts(_: String) -> Vec<String> {
        Vec::new()
    }

    fn json() -> String {
        r#"{"min":0,"max":100,"action":"drop"}"#.to_owned()
    }
}

export!(Preset);
