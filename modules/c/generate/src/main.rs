//! Writes the C side of the contract: `c-bindings WIT-FOLDER WORLD TARGET-FOLDER`.
//!
//! What it writes lies in the repository, so that a filter in C needs a C compiler and nothing else; the test below holds
//! the two together.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io, io::Write as _};

use wasmparser::{Parser, Payload};
use wit_bindgen_c::Opts;
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [wit, world, target] => {
            generate(Path::new(wit), world).and_then(|files| write(&files, Path::new(target)))
        }
        _ => Err("usage: c-bindings WIT-FOLDER WORLD TARGET-FOLDER".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is left to be told where not even this can be written.
        Err(message) => match writeln!(io::stderr(), "c-bindings: {message}") {
            Ok(()) | Err(_) => ExitCode::FAILURE,
        },
    }
}

/// The bindings of a world, by file name.
fn generate(wit: &Path, world: &str) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let text = |error: &dyn std::fmt::Display| format!("{}: {error:#}", wit.display());
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).map_err(|e| text(&e))?;
    let world = resolve
        .select_world(&[package], Some(world))
        .map_err(|e| text(&e))?;
    let mut files = Files::default();
    Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .map_err(|e| text(&e))?;
    files
        .iter()
        .map(|(name, bytes)| {
            let path = PathBuf::from(name);
            if path.extension().is_some_and(|extension| extension == "o") {
                return Ok((path.with_extension("c"), source(bytes)?.into_bytes()));
            }
            Ok((path, bytes.to_vec()))
        })
        .collect()
}

/// The C source that compiles to an object file of the generator's: a section that tells the linker the component's type,
/// and a function by which the bindings keep it. A source can be read, compared and kept in a repository.
fn source(object: &[u8]) -> Result<String, String> {
    let mut section = None;
    for payload in Parser::new(0).parse_all(object) {
        if let Payload::CustomSection(custom) = payload.map_err(|e| e.to_string())?
            && let Some(world) = custom.name().strip_prefix("component-type:")
        {
            section = Some((world.to_owned(), custom.data().to_vec()));
        }
    }
    let (world, data) = section.ok_or("the generator's object file has no component type")?;
    let mut text = format!(
        "// Generated from the contract. DO NOT EDIT!\n\
         __asm__(\".section \\\".custom_section.component-type:{world}\\\",\\\"\\\",@\\n\"\n"
    );
    for bytes in data.chunks(16) {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:#04x}")).collect();
        text.push_str(&format!("        \".byte {}\\n\"\n", bytes.join(",")));
    }
    text.push_str(&format!(
        "        \".text\\n\");\n\nvoid __component_type_object_force_link_{}(void) {{}}\n",
        world.replace('-', "_")
    ));
    Ok(text)
}

fn write(files: &[(PathBuf, Vec<u8>)], target: &Path) -> Result<(), String> {
    for (name, bytes) in files {
        let path = target.join(name);
        fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::generate;

    /// After a change of the contract `modules/build-languages.sh --bindings` writes them anew.
    #[test]
    fn the_bindings_in_the_repository_are_those_of_the_contract() {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = modules.join("c/sdk/bindings");
        let mut names = BTreeSet::new();
        for (name, bytes) in generate(&modules.join("wit/0.2.0"), "filter").unwrap() {
            let there = fs::read(folder.join(&name)).unwrap_or_default();
            assert!(there == bytes, "{} is another", name.display());
            names.insert(name.into_os_string());
        }
        let there: BTreeSet<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(there, names);
    }
}
