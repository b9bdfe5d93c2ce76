//! The bill of materials: CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>), of what can be read from the component itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidegate_domain::channel::Release;
use wasmparser::{Encoding, KnownCustom, Parser, Payload};

use crate::error::Error;
use crate::metadata::hex;
use crate::module::Offered;

/// What a component says of itself.
#[derive(Default)]
struct Found {
    /// `language`, `processed-by` or `sdk`, name and version.
    producers: BTreeSet<(String, String, String)>,
    /// Core modules in it, in their order: name, where one is given, and SHA-256.
    parts: Vec<(Option<String>, String)>,
}

/// Entries of a bill beyond which nobody reads it; a component that has more is refused.
const ENTRIES: usize = 1024;

pub(crate) fn bill(
    offered: &Offered,
    release: &Release,
    now: jiff::Timestamp,
) -> Result<Value, Error> {
    let found = look(&offered.component)?;
    let hex = release.digest.trim_start_matches("sha256:");
    let reference = format!("{}@{}", release.name, release.version);
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": release.name,
        "version": release.version,
        "hashes": [{"alg": "SHA-256", "content": hex}],
        "properties": properties(offered, release),
    });
    if let Some(license) = offered.manifest.get("license").and_then(Value::as_str) {
        component["licenses"] = json!([{"expression": license}]);
    }
    if let Some(description) = offered.manifest.get("description").and_then(Value::as_str)
        && !description.is_empty()
    {
        component["description"] = description.into();
    }
    let mut components: Vec<Value> = Vec::new();
    for (index, (name, sha)) in found.parts.iter().enumerate() {
        components.push(json!({
            "type": "library",
            "bom-ref": format!("core-{index}"),
            "name": name.clone().unwrap_or_else(|| format!("core module {index}")),
            "hashes": [{"alg": "SHA-256", "content": sha}],
        }));
    }
    for (index, (field, name, version)) in found.producers.iter().enumerate() {
        components.push(json!({
            "type": "application",
            "bom-ref": format!("producer-{index}"),
            "name": name,
            "version": version,
            // It made the component and is not part of it.
            "scope": "excluded",
            "properties": [{"name": "wasm:producers", "value": field}],
        }));
    }
    if components.len() > ENTRIES {
        return Err(Error::Value(format!(
            "the component has {} parts and producers, {ENTRIES} fit into a bill of materials",
            components.len()
        )));
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": serial(hex),
        "version": 1,
        "metadata": {"timestamp": now.to_string(), "component": component},
        "components": components,
    }))
}

fn properties(offered: &Offered, release: &Release) -> Vec<Value> {
    let mut properties = vec![json!({"name": "tidegate:world", "value": release.world})];
    let mut imports = offered.imports.clone();
    imports.sort();
    for import in imports {
        properties.push(json!({"name": "tidegate:import", "value": import}));
    }
    for grant in &release.grants {
        properties.push(json!({"name": "tidegate:grant", "value": grant}));
    }
    if let Some(debug) = &release.debug {
        properties.push(json!({"name": "tidegate:debug-file", "value": debug}));
    }
    properties
}

/// A UUID of version 8 (RFC 9562) out of the component's digest: the same component, the same number.
fn serial(hex: &str) -> String {
    let digit = |at: usize| hex.get(at..=at).unwrap_or("0");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    // Version and variant take the place of two digits.
    let variant = match digit(16) {
        "0" | "4" | "8" | "c" => "8",
        "1" | "5" | "9" | "d" => "9",
        "2" | "6" | "a" | "e" => "a",
        _ => "b",
    };
    format!(
        "urn:uuid:{}-{}-8{}-{variant}{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        part(17, 20),
        part(20, 32)
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of WebAssembly's many sections two say who made what"
)]
fn look(component: &[u8]) -> Result<Found, Error> {
    use sha2::Digest as _;
    let unsound = |error: wasmparser::BinaryReaderError| {
        Error::Value(format!("the component is no sound WebAssembly: {error}"))
    };
    let mut found = Found::default();
    // Where core modules that are being read stand in `parts`; `None` for components.
    let mut open: Vec<Option<usize>> = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(unsound)? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => open.push(None),
            Payload::Version { .. } if open.is_empty() => open.push(None),
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                let bytes = component.get(unchecked_range).unwrap_or_default();
                open.push(Some(found.parts.len()));
                found.parts.push((None, hex(&sha2::Sha256::digest(bytes))));
            }
            Payload::End(_) => {
                open.pop();
            }
            Payload::CustomSection(section) => match section.as_known() {
                KnownCustom::Producers(fields) => {
                    for field in fields {
                        let field = field.map_err(unsound)?;
                        for value in field.values {
                            let value = value.map_err(unsound)?;
                            let entry = (field.name, value.name, value.version);
                            found.producers.insert((
                                entry.0.to_owned(),
                                entry.1.to_owned(),
                                entry.2.to_owned(),
                            ));
                            if found.producers.len() > ENTRIES {
                                break;
                            }
                        }
                    }
                }
                KnownCustom::Name(names) => {
                    for name in names {
                        let (Ok(wasmparser::Name::Module { name, .. }), Some(Some(at))) =
                            (name, open.last())
                        else {
                            continue;
                        };
                        if let Some(part) = found.parts.get_mut(*at) {
                            part.0 = Some(name.to_owned());
                        }
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    Ok(found)
}
