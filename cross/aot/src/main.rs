//! Compiles components as gateways with other processors do: `aot COMPONENT.wasm …` or `aot FOLDER`.
//!
//! The settings are the daemon's own file, and the processors the least that it runs on: `riscv64gc` without vectors, and
//! `aarch64` without anything beyond its base. On a gateway the compiler finds more, and may use it.

use std::num::NonZero;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{env, fs, thread};

use wasmtime::Engine;

use self::tuning::Profile;

#[path = "../../../daemon/pipeline/src/tuning.rs"]
mod tuning;

const PROFILES: [Profile; 3] = [Profile::Wide, Profile::Small, Profile::Metered];
const AARCH64: &str = "aarch64-unknown-linux-gnu";
const RISCV64: &str = "riscv64gc-unknown-linux-gnu";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut files = Vec::new();
    for argument in env::args_os().skip(1).map(PathBuf::from) {
        files.extend(components(&argument)?);
    }
    if files.is_empty() {
        return Err("usage: aot COMPONENT.wasm|FOLDER …".to_owned());
    }
    let mut jobs = Vec::new();
    for file in &files {
        let component = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let component: Arc<[u8]> = component.into();
        let targets = targets(file).iter();
        jobs.extend(targets.map(|target| (file, Arc::clone(&component), *target)));
    }
    let jobs = Mutex::new(jobs.into_iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((file, component, target)) = lock(&jobs).next() {
                    if let Err(error) = report(file, &component, target) {
                        lock(&failed).push(error);
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.join("\naot: "))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(file: &Path, component: &[u8], target: &str) -> Result<(), String> {
    let (begin, file) = (Instant::now(), file.display());
    let bytes = compile(component, target).map_err(|e| format!("{file} for {target}: {e}"))?;
    let ms = begin.elapsed().as_millis();
    println!("{file:<44} {target:<28} {bytes:>8} bytes {ms:>6} ms");
    Ok(())
}

/// A component, or those of a folder.
fn components(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let place = |e| format!("{}: {e}", path.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(place)? {
        let file = entry.map_err(place)?.path();
        if file.extension().is_some_and(|e| e == "wasm") {
            found.push(file);
        }
    }
    if found.is_empty() {
        return Err(format!(
            "{}: no component is there; run `make modules`",
            path.display()
        ));
    }
    found.sort();
    Ok(found)
}

/// The machines that a file is shipped for: those with vector instructions are for aarch64 alone (`build.rs`).
fn targets(file: &Path) -> &'static [&'static str] {
    let folder = file.parent().and_then(Path::file_name);
    match folder.is_some_and(|name| name == "simd-components") {
        true => &[AARCH64],
        false => &[AARCH64, RISCV64],
    }
}

/// Bytes of native code under the daemon's first profile, when it compiles under all of them.
fn compile(component: &[u8], target: &str) -> Result<usize, String> {
    let mut sizes = Vec::new();
    for profile in PROFILES {
        // The compiler panics on what it has no instructions for.
        let native = catch_unwind(|| engine(profile, target)?.precompile_component(component));
        let native = match native {
            Ok(native) => native.map_err(|e| format!("profile {profile}: {e:#}"))?,
            Err(_) => {
                return Err(format!(
                    "profile {profile}: the compiler panicked, see above"
                ));
            }
        };
        sizes.push(native.len());
    }
    sizes
        .first()
        .copied()
        .ok_or_else(|| "no profile".to_owned())
}

fn engine(profile: Profile, target: &str) -> Result<Engine, wasmtime::Error> {
    let mut config = tuning::code(profile)?;
    config.target(target)?;
    Engine::new(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core module with one function that copies so many bytes (a number of two LEB128 digits).
    fn copies(length: u8) -> Vec<u8> {
        let mut bytes =
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01".to_vec();
        let mut body = vec![0, 0x41, 0, 0x41, 0, 0x41];
        body.extend([length | 0x80, length >> 7]);
        body.extend([0xfc, 0x0a, 0, 0, 0x0b]);
        let size = u8::try_from(body.len()).unwrap();
        bytes.extend([0x0a, size + 2, 1, size]);
        bytes.extend(body);
        bytes
    }

    /// What `modules/pack` keeps out (wasmtime issue 13959) is what this would find. When it compiles one day, `pack` need
    /// not look any more.
    #[test]
    fn a_copy_of_constant_length_is_what_riscv64_without_vectors_cannot_compile() {
        let compiles = |length, target| {
            let module = copies(length);
            let made = catch_unwind(|| {
                engine(Profile::Wide, target)
                    .unwrap()
                    .precompile_module(&module)
            });
            made.is_ok_and(|made| made.is_ok())
        };
        assert!(compiles(15, RISCV64));
        assert!(compiles(64, AARCH64));
        assert!(!compiles(64, RISCV64));
    }

    #[test]
    fn the_compiler_is_the_daemons() {
        let versions = |lock: &str| {
            let find = |name: &str| {
                let at = lock.find(&format!("name = \"{name}\"\n")).unwrap();
                lock[at..].lines().nth(1).unwrap().to_owned()
            };
            ["wasmtime", "cranelift-codegen", "wasmparser", "regalloc2"].map(find)
        };
        let ours = versions(include_str!("../Cargo.lock"));
        assert_eq!(ours, versions(include_str!("../../../Cargo.lock")));
    }
}
