//! `tidegate repo sign`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tidegate_domain::limits::MODULE_FILE_MOST_BYTES;
use tidegate_pipeline::{Digest, Manifest};
use tidegate_publish::{By, KeyStore, Role};

use super::super::{DONE, Failure, say, say_json};
use super::OfPassphrase;
use crate::signed;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The component, a .wasm file with its manifest beside it
    file: PathBuf,
    /// A directory of key files (repeatable)
    #[arg(long, value_name = "KEYDIR", required_unless_present = "key")]
    keys: Vec<PathBuf>,
    /// Whose key in it signs: root, targets, snapshot or timestamp
    #[arg(long, default_value = "targets", conflicts_with = "key")]
    role: Role,
    /// The file of the key that signs, an Ed25519 key in PEM (PKCS#8)
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    key: Option<PathBuf>,
    /// A file whose first line is the passphrase of the key; without it an encrypted key asks at the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { file, keys, .. } = arguments;
    let manifest_file = file.with_extension("json");
    let manifest = signed::read_file(&manifest_file, MODULE_FILE_MOST_BYTES)
        .context("a module needs its manifest beside it")?;
    let component = signed::read_file(file, MODULE_FILE_MOST_BYTES)?;
    let known =
        Manifest::parse(&manifest).with_context(|| format!("{}", manifest_file.display()))?;
    fits(arguments, &known, &component)?;
    let passphrase = OfPassphrase {
        passphrase_file: arguments.passphrase_file.clone(),
        ask_passphrase: false,
    };
    let store = passphrase.store(|given| match &arguments.key {
        Some(_) => Ok(KeyStore::without_dirs(given)),
        None => Ok(KeyStore::new(keys.clone(), given)?),
    })?;
    let by = match &arguments.key {
        Some(key) => By::File(key.clone()),
        None => By::Role(arguments.role),
    };
    let signed = store.sign(&by, &component, &manifest, &file.with_extension("sig"))?;
    if arguments.json {
        say_json(&signed)?;
    } else {
        say(format_args!(
            "signed {} {}, {}\ntrusted by [modules] trusted-keys = [\"{}\"]",
            known.name,
            known.version,
            signed.file.display(),
            signed.key
        ))?;
    }
    Ok(DONE)
}

/// What every gateway would refuse is not signed.
fn fits(arguments: &Arguments, manifest: &Manifest, component: &[u8]) -> anyhow::Result<()> {
    let file = arguments.file.display();
    let stem = arguments.file.file_stem().unwrap_or_default();
    if stem != manifest.name.as_str() {
        bail!(
            "the manifest of {file} names `{}`, and gateways find a module by its file's name: rename one of the two",
            manifest.name
        );
    }
    let digest = Digest::of(component);
    match &manifest.digest {
        Some(of) if *of != digest => bail!(
            "the manifest is for {of}, and {file} has {digest}: build both anew, or remove `digest` from the manifest"
        ),
        Some(_) | None => {}
    }
    tidegate_pipeline::inspect(component).with_context(|| format!("{file}"))?;
    Ok(())
}
