//! Checks a built component against its manifest and puts both where the gateway's build finds them:
//! `pack COMPONENT MODULE-FOLDER TARGET-FOLDER`.
//!
//! Written are `<name>.wasm` without names and debug information, `<name>.json` with the component's digest filled in and, where the manifest names vectors,
//! `<name>.vectors.json`; and beside the target folder, in `debug-components`, `<name>.debug.wasm` with all of it, for
//! `tidegate module symbolize`. A file that would not change is not touched, so that nothing is built again for it. Refused are
//! components that import what the manifest does not ask for, manifests that ask for what the component does not import,
//! and code on which the gateway's compiler is known to fail.

mod strip;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, FunctionBody, Operator, Parser, Payload, Validator,
    WasmFeatures,
};

use self::strip::{mark, strip};

const PACKAGE: &str = "tidegate:module/";

/// The worlds that a manifest can name, each with the functions that it exports.
const WORLDS: [(&str, &[&str]); 6] = [
    ("filter@0.1.0", &["process"]),
    ("filter@0.2.0", &["process"]),
    ("ticking-filter@0.2.0", &["process", "tick"]),
    ("migrating-filter@0.2.0", &["process", "migrate"]),
    ("decoder@0.2.0", &["decode"]),
    ("driver@0.2.0", &["poll"]),
];

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [component, module, target] = arguments.as_slice() else {
        return end(&Err(
            "usage: pack COMPONENT MODULE-FOLDER TARGET-FOLDER".to_owned()
        ));
    };
    end(&pack(component, module, target))
}

fn end(result: &Result<String, String>) -> ExitCode {
    // Nobody is left to be told where not even these can be written.
    match result {
        Ok(line) => match writeln!(io::stdout(), "{line}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(message) => match writeln!(io::stderr(), "pack: {message}") {
            Ok(()) | Err(_) => ExitCode::FAILURE,
        },
    }
}

/// What stands beside a component. As written by hand it has no digest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Manifest {
    name: String,
    version: String,
    #[serde(default)]
    digest: String,
    world: String,
    description: String,
    /// As written: the order of the settings is the order in which people read them.
    settings: Box<RawValue>,
    state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tick_seconds: Option<u64>,
    grants: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    directories: BTreeSet<String>,
    limits: serde_json::Map<String, serde_json::Value>,
    min_daemon: String,
    license: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vectors: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    None,
    Global,
    Series { width: u16 },
}

fn pack(component: &Path, module: &Path, target: &Path) -> Result<String, String> {
    let built = read(component)?;
    let in_component = |detail: String| format!("{}: {detail}", component.display());
    let bytes = strip(&built).map_err(in_component)?;
    let path = module.join("manifest.json");
    let in_manifest = |detail: String| format!("{}: {detail}", path.display());
    let mut manifest: Manifest =
        serde_json::from_slice(&read(&path)?).map_err(|e| in_manifest(e.to_string()))?;
    let folder = module.file_name().unwrap_or_default();
    if folder != manifest.name.as_str() {
        return Err(in_manifest(format!(
            "`name` is `{}` and the folder's name is `{}`: they have to be the same",
            manifest.name,
            folder.display()
        )));
    }
    let world = manifest.world.strip_prefix(PACKAGE).unwrap_or_default();
    let Some((world, exports)) = WORLDS.into_iter().find(|(name, _)| *name == world) else {
        return Err(in_manifest(format!(
            "`world` is `{}`; there are {}",
            manifest.world,
            WORLDS
                .map(|(name, _)| format!("`{PACKAGE}{name}`"))
                .join(", ")
        )));
    };
    if manifest.tick_seconds.is_some() != exports.contains(&"tick") {
        return Err(in_manifest(format!(
            "`tick-seconds` says how often a filter of the world `ticking-filter` is called; this is `{world}`"
        )));
    }
    let version = world.find('@').map_or("", |at| &world[at..]);

    let imports = inspect(&bytes, version, exports).map_err(in_component)?;
    compare(&manifest, &imports).map_err(in_manifest)?;

    let name = manifest.name.clone();
    if let Some(vectors) = &mut manifest.vectors {
        let path = module.join(&*vectors);
        let text = read(&path)?;
        serde_json::from_slice::<&RawValue>(&text)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        *vectors = format!("{name}.vectors.json");
        write(&target.join(&*vectors), &text)?;
    }
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    manifest.digest = format!("sha256:{digest}");
    let mut json =
        serde_json::to_string_pretty(&manifest).map_err(|e| in_manifest(e.to_string()))?;
    json.push('\n');
    write(&target.join(format!("{name}.wasm")), &bytes)?;
    let debug = target.with_file_name("debug-components");
    fs::create_dir_all(&debug).map_err(|e| format!("{}: {e}", debug.display()))?;
    let mut with_names = built;
    mark(&mut with_names, "tidegate:stripped", &manifest.digest);
    write(&debug.join(format!("{name}.debug.wasm")), &with_names)?;
    write(&target.join(format!("{name}.json")), json.as_bytes())?;

    let imports: Vec<&str> = imports.iter().map(String::as_str).collect();
    Ok(format!(
        "{name:10} {:6} bytes  imports {}",
        bytes.len(),
        imports.join(" ")
    ))
}

/// The interfaces that a component imports, without package and version, which must be the given one.
fn inspect(bytes: &[u8], version: &str, functions: &[&str]) -> Result<BTreeSet<String>, String> {
    Validator::new_with_features(WasmFeatures::default())
        .validate_all(bytes)
        .map_err(|e| format!("no valid component: {e}"))?;
    let mut imports = BTreeSet::new();
    let mut exports = BTreeSet::new();
    // Modules and components may be nested; what counts as import is on the outermost level.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "every other section says nothing about imports, exports or code"
        )]
        match payload.map_err(|e| e.to_string())? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(|e| e.to_string())?;
                    // The contract's types under their own names: shapes, not capabilities.
                    if matches!(import.ty, ComponentTypeRef::Type(_)) {
                        continue;
                    }
                    let name = import.name.name;
                    if name.starts_with("wasi:") {
                        imports.insert(name.to_owned());
                        continue;
                    }
                    let interface = name
                        .strip_prefix(PACKAGE)
                        .and_then(|rest| rest.strip_suffix(version))
                        .ok_or_else(|| {
                            format!("imports `{name}`, which is not in {PACKAGE}*{version}")
                        })?;
                    imports.insert(interface.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(|e| e.to_string())?;
                    if export.kind == ComponentExternalKind::Func {
                        exports.insert(export.name.name.to_owned());
                    }
                }
            }
            Payload::CodeSectionEntry(body) => check_code(&body)?,
            _ => {}
        }
    }
    if let Some(missing) = functions.iter().find(|name| !exports.contains(**name)) {
        return Err(format!("exports no function `{missing}`, only {exports:?}"));
    }
    Ok(imports)
}

/// A copy of constant length makes wasmtime's compiler emit vector instructions even where they are off, and panic on
/// riscv64 without V (wasmtime issue 13959).
fn check_code(body: &FunctionBody<'_>) -> Result<(), String> {
    let mut constant = None;
    for operator in body.get_operators_reader().map_err(|e| e.to_string())? {
        let operator = operator.map_err(|e| e.to_string())?;
        if let (
            Operator::MemoryCopy { .. } | Operator::MemoryFill { .. },
            Some(length @ 16..=128),
        ) = (&operator, constant)
        {
            return Err(format!(
                "copies or fills {length} bytes at once with an instruction that cannot be compiled for riscv64: \
                 build with the flags of modules/.cargo/config.toml"
            ));
        }
        constant = if let Operator::I32Const { value } = operator {
            Some(value)
        } else {
            None
        };
    }
    Ok(())
}

/// Every import is granted, and nothing is asked for in vain.
fn compare(manifest: &Manifest, imports: &BTreeSet<String>) -> Result<(), String> {
    // What every module has: types and waiting carry no authority, settings and time are its own.
    let free = ["types", "settings", "clock", "buses"];
    let needed: BTreeSet<String> = imports
        .iter()
        .filter(|import| !free.contains(&import.as_str()))
        .map(|import| match import.as_str() {
            "series-state" | "global-state" => "state".to_owned(),
            other => match other.strip_prefix("wasi:") {
                Some(of_wasi) => wasi_grant(of_wasi).to_owned(),
                None => other.to_owned(),
            },
        })
        .collect();
    if needed != manifest.grants {
        return Err(format!(
            "`grants` asks for {:?}, the component needs {needed:?}",
            manifest.grants
        ));
    }
    let looks_up = |import: &String| import.starts_with("wasi:filesystem/preopens@");
    if !manifest.directories.is_empty() && !imports.iter().any(looks_up) {
        return Err(format!(
            "`directories` asks for {:?}, the component imports no `wasi:filesystem/preopens`",
            manifest.directories
        ));
    }
    let (series, global) = match manifest.state {
        State::None => (false, false),
        State::Global => (false, true),
        State::Series { width } if (1..=256).contains(&width) => (true, false),
        State::Series { width } => {
            return Err(format!(
                "`state.series.width` is {width}: a record has 1 to 256 bytes"
            ));
        }
    };
    if (series, global)
        != (
            imports.contains("series-state"),
            imports.contains("global-state"),
        )
    {
        return Err("`state` is not what the component imports".to_owned());
    }
    Ok(())
}

/// What an interface of WASI takes; whether there is such a one is for the gateway to say.
fn wasi_grant(interface: &str) -> &'static str {
    let (package, rest) = interface.split_once('/').unwrap_or((interface, ""));
    match (package, rest.split('@').next().unwrap_or_default()) {
        ("clocks", _) => "wasi:clocks",
        ("random", _) => "wasi:random",
        ("cli", "stdout" | "stderr") => "wasi:stdout",
        _ => "wasi",
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one function that copies so many bytes (a number of two LEB128 digits).
    fn copies(length: u8) -> Vec<u8> {
        let digits = [length | 0x80, length >> 7];
        let mut bytes =
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01".to_vec();
        let mut body = vec![0, 0x41, 0, 0x41, 0, 0x41];
        body.extend(digits);
        body.extend([0xfc, 0x0a, 0, 0, 0x0b]);
        let size = u8::try_from(body.len()).unwrap();
        bytes.extend([0x0a, size + 2, 1, size]);
        bytes.extend(body);
        bytes
    }

    fn refused(module: &[u8]) -> bool {
        Parser::new(0).parse_all(module).any(|payload| {
            matches!(payload.unwrap(), Payload::CodeSectionEntry(body) if check_code(&body).is_err())
        })
    }

    #[test]
    fn finds_the_copies_that_riscv64_cannot_compile() {
        let lengths: Vec<u8> = (0..=200)
            .filter(|&length| refused(&copies(length)))
            .collect();
        assert_eq!(lengths, (16..=128).collect::<Vec<u8>>());
    }

    #[test]
    fn grants_and_state_are_what_the_component_imports() {
        let check = |grants: &str, state: &str, imports: &[&str]| {
            let manifest = serde_json::from_str(&format!(
                r#"{{"name":"a","version":"1.0.0","world":"w","description":"","settings":{{}},"state":{state},
                     "grants":{grants},"limits":{{}},"min-daemon":"0.1.0","license":"MIT"}}"#
            ))
            .unwrap();
            compare(
                &manifest,
                &imports.iter().map(ToString::to_string).collect(),
            )
            .is_ok()
        };
        let series = r#"{"series":{"width":8}}"#;
        assert!(check("[]", r#""none""#, &["types", "settings", "clock"]));
        let directories = |imports: &[&str]| {
            let grants = r#"["wasi"],"directories":["a"]"#;
            check(grants, r#""none""#, imports)
        };
        assert!(directories(&["wasi:filesystem/preopens@0.2.3"]));
        assert!(!directories(&["wasi:filesystem/types@0.2.3"]));
        assert!(check(r#"["state"]"#, series, &["series-state"]));
        assert!(check(
            r#"["state","alarm"]"#,
            r#""global""#,
            &["global-state", "alarm"]
        ));
        // Not asked for; asked for in vain; another state; a record too wide.
        assert!(!check("[]", r#""none""#, &["alarm"]));
        assert!(!check(r#"["log"]"#, r#""none""#, &["types"]));
        assert!(!check(r#"["state"]"#, r#""global""#, &["series-state"]));
        assert!(!check(
            r#"["state"]"#,
            r#"{"series":{"width":257}}"#,
            &["series-state"]
        ));
    }
}
