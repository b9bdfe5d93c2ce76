//! `tidegate module new`: a folder with all that a filter needs, made of what is built into this binary, so that it can be
//! made, and as far as its language allows built, without a network.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use tidegate_pipeline::World;

use super::super::{DONE, Failure, say};

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The module's name, and the folder's in the current directory: a–z, 0–9 and `-`, a letter first, at most 64
    name: String,
    /// The language that it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    C,
    Js,
    Python,
}

/// A file of a new module.
pub(super) struct File {
    /// Below the module's folder.
    path: &'static str,
    text: &'static str,
    /// It has places for names, as `{{name}}`.
    template: bool,
}

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// Names that would stand twice in a module's build.
const TAKEN: [&str; 1] = ["tidegate-sdk"];

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    check(&arguments.name)?;
    let folder = PathBuf::from(&arguments.name);
    let files = files(arguments.lang)?;
    make(&folder, files, &arguments.name, arguments.lang)?;
    let limits = match arguments.lang {
        Language::Rust | Language::C => "",
        Language::Js | Language::Python => "--wanted-limits ",
    };
    say(format_args!(
        "made {0}: its README.md says how to go on\n\n    cd {0} && ./build.sh && tidegate module test {limits}out/{0}.wasm",
        arguments.name
    ))?;
    Ok(DONE)
}

fn check(name: &str) -> anyhow::Result<()> {
    let letters = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !name.starts_with(|first: char| first.is_ascii_lowercase())
        || name.len() > 64
        || !name.bytes().all(letters)
    {
        bail!(
            "`{}` is no name for a module: take 1 to 64 of a–z, 0–9 and `-`, a letter first",
            name.escape_debug()
        );
    }
    if TAKEN.contains(&name) {
        bail!("`{name}` is the name of a part of every module; take another");
    }
    Ok(())
}

fn files(language: Language) -> anyhow::Result<&'static [File]> {
    let word = language
        .to_possible_value()
        .context("a language without a name")?;
    TEMPLATES
        .iter()
        .find(|(language, _)| *language == word.get_name())
        .map(|(_, files)| *files)
        .ok_or_else(|| anyhow!("this binary has no files for `{}`", word.get_name()))
}

/// Makes the folder, which must not be there; takes it away again where it cannot be made whole.
fn make(folder: &Path, files: &[File], name: &str, language: Language) -> anyhow::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
            "{} is there already and stays as it is: take another name, or move it away",
            folder.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
    }
    let made = files
        .iter()
        .try_for_each(|file| write(folder, file, name, language));
    if made.is_err() {
        fs::remove_dir_all(folder).with_context(|| {
            format!(
                "{} is not whole and cannot be removed either",
                folder.display()
            )
        })?;
    }
    made
}

fn write(folder: &Path, file: &File, name: &str, language: Language) -> anyhow::Result<()> {
    // Under its own name it would be at work in our repository.
    let path = match file.path {
        "gitignore" => folder.join(".gitignore"),
        path => folder.join(path),
    };
    let text = if file.template {
        fill(file.text, name, language)
    } else {
        file.text.to_owned()
    };
    let script = path.extension().is_some_and(|extension| extension == "sh");
    let parent = path.parent().unwrap_or(folder);
    DirBuilder::new()
        .recursive(true)
        .create(parent)
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(if script { 0o755 } else { 0o644 })
                .open(&path)
        })
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A template with its places filled.
fn fill(text: &str, name: &str, language: Language) -> String {
    // An interpreter needs more than the gateway's defaults; a site has to allow it.
    let limits = match language {
        Language::Rust | Language::C => "{}",
        Language::Js => {
            r#"{ "memory-bytes": 67108864, "deadline-ms": 2000, "compile-ms": 600000, "compile-memory-bytes": 2147483648 }"#
        }
        Language::Python => {
            r#"{ "module-bytes": 33554432, "memory-bytes": 134217728, "deadline-ms": 2000, "compile-ms": 600000, "compile-memory-bytes": 4294967296 }"#
        }
    };
    text.replace("{{name}}", name)
        .replace("{{world}}", &String::from(World::Filter))
        .replace("{{limits}}", limits)
        .replace("{{min-daemon}}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::{File, Language, check, files, fill, make};

    #[test]
    fn names_are_those_of_modules() {
        for name in ["a", "bearing-2", "match", &"x".repeat(64)] {
            assert!(check(name).is_ok(), "{name}");
        }
        let long = "x".repeat(65);
        for name in [
            "",
            "-a",
            "2nd",
            "Bearing",
            "a_b",
            "a/b",
            "..",
            "über",
            "a b",
            &long,
            "tidegate-sdk",
        ] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.contains("take"), "{error}");
        }
    }

    #[test]
    fn every_language_has_files_and_no_place_in_them_stays_open() {
        for language in Language::value_variants() {
            let files = files(*language).unwrap();
            for path in ["README.md", "manifest.json", "vectors.json", "build.sh"] {
                assert!(
                    files.iter().any(|file| file.path == path),
                    "{language:?}: no {path}"
                );
            }
            for file in files.iter().filter(|file| file.template) {
                let text = fill(file.text, "some-name", *language);
                assert!(!text.contains("{{"), "{}: {text}", file.path);
            }
        }
    }

    /// The SDK takes its dependencies' versions from the workspace that it lies in.
    #[test]
    fn a_rust_module_depends_on_what_our_own_do() {
        let ours = include_str!("../../../../modules/Cargo.toml");
        let theirs = include_str!("../../../../modules/templates/rust/Cargo.toml");
        let (_, theirs) = theirs.split_once("[workspace.dependencies]\n").unwrap();
        let (theirs, _) = theirs.split_once("\n[").unwrap();
        let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
        for line in theirs.lines().filter(said) {
            assert!(ours.contains(line), "modules/Cargo.toml has no `{line}`");
        }
    }

    #[test]
    fn what_is_there_stays_and_what_cannot_be_made_whole_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("mine");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("precious"), "bytes").unwrap();
        let files = files(Language::Rust).unwrap();
        let error = make(&folder, files, "mine", Language::Rust).unwrap_err();
        assert!(error.to_string().contains("there already"), "{error:#}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);

        let broken = dir.path().join("broken");
        let file = |path| File {
            path,
            text: "",
            template: false,
        };
        let impossible = [file("a"), file("a/b")];
        let error = make(&broken, &impossible, "broken", Language::Rust).unwrap_err();
        assert!(format!("{error:#}").contains("a/b"), "{error:#}");
        assert!(!broken.exists());
    }
}
