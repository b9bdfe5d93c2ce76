//! Puts into the binary when it was built, the factory modules, and what `tidegate module new` writes: the tables
//! `factory.rs`, which `daemon/tidegate/factory.rs` includes, and `templates.rs` for `daemon/tidegate/cli/module/new.rs`.
//!
//! The modules are taken as built, from `modules/target/components` or from where `TIDEGATE_MODULES` says: building
//! WebAssembly in here would need another target and another linker in the middle of the daemon's own build.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs};

const VARIABLE: &str = "TIDEGATE_MODULES";
/// How reproducible builds are told their time: https://reproducible-builds.org/specs/source-date-epoch/
const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={EPOCH}");
    println!("cargo::rustc-env=TIDEGATE_BUILT={}", built()?);
    let components = env::var_os(VARIABLE).map_or_else(
        || {
            Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
                .join("modules/target/components")
        },
        PathBuf::from,
    );
    // While the directory is missing this makes every build look again; files that were there are watched each.
    println!("cargo::rerun-if-changed={}", components.display());

    let modules = match find(&components) {
        Ok(modules) if !modules.is_empty() => modules,
        found => {
            let why = found.err().map_or(String::new(), |e| format!(" ({e})"));
            println!(
                "cargo::error=the factory modules are not in {}{why}: run `make modules` and build again",
                components.display()
            );
            return Ok(());
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("factory.rs"), table(&modules)?)?;
    fs::write(out.join("templates.rs"), templates()?)?;
    Ok(())
}

/// A time, in seconds since the epoch, that has passed when this program runs; the same for the same sources: what the
/// packager says, else that of the commit. A tree without history has only the clock of the machine that builds.
///
/// This script does not run again for every commit: a build in a tree that was built before may carry an earlier time,
/// which is as true.
fn built() -> Result<u64, Box<dyn Error>> {
    if let Ok(text) = env::var(EPOCH) {
        return Ok(text
            .trim()
            .parse()
            .map_err(|e| format!("{EPOCH}={text}: {e}"))?);
    }
    let commit = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .output();
    let commit = commit
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
    match commit {
        Some(time) => Ok(time),
        None => Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()),
    }
}

/// A component and its manifest.
struct Module {
    name: String,
    manifest: PathBuf,
    component: PathBuf,
}

/// Every component that has a manifest beside it, by name.
fn find(components: &Path) -> Result<Vec<Module>, Box<dyn Error>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(components)? {
        let component = fs::canonicalize(entry?.path())?;
        if component.extension().is_none_or(|e| e != "wasm") {
            continue;
        }
        let component = with_vectors(component);
        let manifest = component.with_extension("json");
        for file in [&component, &manifest] {
            fs::metadata(file).map_err(|e| format!("{}: {e}", file.display()))?;
            println!("cargo::rerun-if-changed={}", file.display());
        }
        let name = component.file_stem().unwrap_or_default();
        modules.push(Module {
            name: name
                .to_str()
                .ok_or("a file's name is not UTF-8")?
                .to_owned(),
            manifest,
            component,
        });
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(modules)
}

/// The build of a module with vector instructions, where there is one and all machines of the target have them. On riscv64
/// they are an extension that most do without.
fn with_vectors(component: PathBuf) -> PathBuf {
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let simd = component
        .parent()
        .and_then(Path::parent)
        .zip(component.file_name())
        .map(|(parent, name)| parent.join("simd-components").join(name));
    match simd {
        Some(simd) if matches!(&*target, "x86_64" | "aarch64") && simd.exists() => simd,
        _ => component,
    }
}

fn table(modules: &[Module]) -> Result<String, Box<dyn Error>> {
    let mut text = String::from(
        "/// The factory modules, by name.\npub(crate) const FACTORY: &[FactoryModule] = &[\n",
    );
    for module in modules {
        writeln!(
            text,
            "    FactoryModule {{ name: {:?}, manifest: include_str!({:?}), component: include_bytes!({:?}) }},",
            module.name,
            module.manifest.to_str().ok_or("a path is not UTF-8")?,
            module.component.to_str().ok_or("a path is not UTF-8")?,
        )?;
    }
    text.push_str("];\n");
    Ok(text)
}

/// What a new module in a language is made of, below `modules/`: where it lies there, and where in the new folder. Only what
/// comes from `templates` has places for names.
const LANGUAGES: [(&str, &[(&str, &str)]); 4] = [
    (
        "rust",
        &[
            ("templates/any", ""),
            ("templates/rust", ""),
            (".cargo/config.toml", ".cargo/config.toml"),
            ("Cargo.lock", "Cargo.lock"),
            ("toolchain.sh", "toolchain.sh"),
            ("sdk", "sdk"),
            ("wit", "wit"),
        ],
    ),
    (
        "c",
        &[
            ("templates/any", ""),
            ("templates/c", ""),
            ("toolchain.sh", "toolchain.sh"),
            ("c/sdk", "sdk"),
        ],
    ),
    (
        "js",
        &[
            ("templates/any", ""),
            ("templates/js", ""),
            ("js/sdk", "sdk"),
            ("wit/0.2.0", "wit/deps/tidegate"),
        ],
    ),
    (
        "python",
        &[
            ("templates/any", ""),
            ("templates/python", ""),
            ("python/sdk", "sdk"),
            ("wit/0.2.0", "wit/deps/tidegate"),
        ],
    ),
];

/// Folders that tools make, and no part of a new module.
const FETCHED: [&str; 1] = ["__pycache__"];

fn templates() -> Result<String, Box<dyn Error>> {
    let modules = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("modules");
    let mut text = String::from(
        "/// The files of a new module, by language.\npub(super) const TEMPLATES: &[(&str, &[File])] = &[\n",
    );
    for (language, parts) in LANGUAGES {
        writeln!(text, "    ({language:?}, &[")?;
        for (from, to) in parts {
            let mut files = Vec::new();
            walk(&modules.join(from), Path::new(to), &mut files)?;
            let template = from.starts_with("templates/");
            for (source, path) in files {
                writeln!(
                    text,
                    "        File {{ path: {:?}, text: include_str!({:?}), template: {template} }},",
                    path.to_str().ok_or("a path is not UTF-8")?,
                    source.to_str().ok_or("a path is not UTF-8")?,
                )?;
            }
        }
        text.push_str("    ]),\n");
    }
    text.push_str("];\n");
    Ok(text)
}

/// All files at or below `from`, by name, each with its place below `to`.
fn walk(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", from.display());
    let about = |e: std::io::Error| format!("{}: {e}", from.display());
    if !fs::metadata(from).map_err(about)?.is_dir() {
        files.push((fs::canonicalize(from).map_err(about)?, to.to_owned()));
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(about)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| !FETCHED.iter().any(|fetched| name == fetched));
    names.sort();
    for name in names {
        walk(&from.join(&name), &to.join(&name), files)?;
    }
    Ok(())
}
