//! `tidegate repo add`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};
use tidegate_domain::channel::{Name, Version};
use tidegate_pipeline::{Digest, Grant};
use tidegate_publish::Offered;

use super::super::module::{Judged, OfDirectories, judge};
use super::super::{FAILURE, Failure, say};
use super::Common;
use crate::modules;

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The component, a .wasm file with its manifest beside it
    file: PathBuf,
    /// Its name; default: the manifest's
    #[arg(long)]
    name: Option<Name>,
    /// Its version; default: the manifest's
    #[arg(id = "of", long = "version", value_name = "VERSION")]
    version: Option<Version>,
    #[command(flatten)]
    directories: OfDirectories,
    /// Add it although it has no golden vectors
    #[arg(long)]
    without_vectors: bool,
}

/// Exit code 1 when a vector does not pass; then nothing is added.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { common, file, .. } = arguments;
    // First, for it is quick: what keeps anything from being added.
    let mut repository = common.open()?;
    let keys = common.keys()?;
    let module = modules::from_files(file)?;
    let manifest = manifest(arguments)?;
    let vectors = match &module.manifest.vectors {
        Some(name) => Some(modules::read_bounded(&file.with_file_name(name))?),
        None => None,
    };
    if vectors.is_none() && !arguments.without_vectors {
        let problem = anyhow::anyhow!(
            "the manifest of {} names no golden vectors, by which every gateway tries the module before it runs; write \
             some (modules/README.md), or add it as it is by --without-vectors",
            file.display()
        );
        return Err(problem.into());
    }
    let debug = debug(arguments)?;
    let component = module.component.to_vec();
    // Whatever it wants is given: which site gives what is not the publisher's to say.
    let directories = arguments.directories.of(&module)?;
    let judged = judge(
        module,
        (&Grant::ALL, &directories),
        true,
        vectors.as_deref(),
    )?;
    refuse(&judged)?;
    if !judged.passed() {
        for result in judged.results.iter().filter(|result| !result.passed()) {
            say(format_args!("FAILED  {}", result.name))?;
            for problem in &result.problems {
                say(format_args!("        {problem}"))?;
            }
        }
        say("nothing was added: golden vectors do not pass")?;
        return Ok(FAILURE);
    }
    let imports = &judged.loaded.inspection.imports;
    let manifest_of = &judged.loaded.manifest;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => manifest_of.name.parse().context("the manifest's `name`")?,
    };
    let version = match &arguments.version {
        Some(version) => version.clone(),
        None => manifest_of
            .version
            .parse()
            .context("the manifest's `version`")?,
    };
    let offered = Offered {
        name,
        version,
        manifest,
        component,
        imports: imports.iter().map(ToString::to_string).collect(),
        vectors,
        debug,
    };
    let added = repository.add(offered, &keys)?;
    common.report(&repository, &added, || {
        let (name, version, digest) = (&added.name, &added.version, &added.digest);
        let passed = judged.results.len();
        match added.new {
            true => format!("added {name} {version} {digest}; {passed} vectors passed"),
            false => format!("{name} {version} {digest} was there already, nothing changed"),
        }
    })
}

/// The manifest as it was written, which says more than what this version of the daemon reads of it.
fn manifest(arguments: &Arguments) -> Result<Map<String, Value>, Failure> {
    let path = arguments.file.with_extension("json");
    let bytes = modules::read_bounded(&path)?;
    let json: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))?;
    match json {
        Value::Object(manifest) => Ok(manifest),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(anyhow::anyhow!("{} is no JSON object", path.display()).into())
        }
    }
}

fn debug(arguments: &Arguments) -> Result<Option<String>, Failure> {
    let path = arguments.file.with_extension("debug.wasm");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = modules::read_bounded(&path)?;
    Ok(Some(Digest::of(&bytes).as_str().to_owned()))
}

fn refuse(judged: &Judged) -> anyhow::Result<()> {
    let Some(refusal) = judged.refused.first() else {
        return Ok(());
    };
    // A directory's is its name, which no import has.
    if let Some(name) = refusal.import.0.strip_prefix("directory:") {
        bail!(
            "the manifest asks for directory:{name}, and its vectors run with it: name one by --directory {name}=PATH"
        );
    }
    bail!(
        "the component imports {}, which no gateway would let it have: {}",
        refusal.import,
        refusal.why
    )
}
