//! `tidegate module`: looking into filter modules without running them on the gateway's data, and beginning new ones.

mod list;
mod new;
mod tryout;
mod update;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_domain::signature::PublicKey;
use tidegate_pipeline::grants::{self, Directories, Refusal};
use tidegate_pipeline::symbolize::{DebugFile, Frame, SymbolizeError};
use tidegate_pipeline::test_vectors::{Given, VectorResult, run_vectors_with};
use tidegate_pipeline::{
    CodePlace, Grant, ImportName, Inspection, LoadLimits, LoadedModule, Module, Runtime,
    RuntimeConfig, SlotLimits,
};

use super::{DONE, FAILURE, Failure, Site, rehearse, say, say_json};
use crate::config::Decode;
use crate::{control, gateway, modules, signed};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a component's digest, world, imports and exports
    Inspect(Inspect),
    /// Load a component as the daemon would, under the default grants, and run its golden vectors; or replay what was kept
    Test(Test),
    /// Print function, file and line of places in a module's code, as the message of a trap names them
    Symbolize(Symbolize),
    /// Print what stands in every slot of the running gateway, and the factory modules
    List(list::Arguments),
    /// Make a folder for a new filter that builds and tests on its own
    New(new::Arguments),
    /// Run an unsigned module in the running gateway on copies of a pipeline's readings, heard by nobody; print what differs
    ///
    /// The verdict is that of a rollout: it falls as soon as enough readings were judged, or one thing speaks against the module
    /// that further readings would not mend. Needs `modules.allow-unsigned`. Nothing is kept of it, and nobody is hurt by it; it
    /// ends with this command. Exit code 0 when it passed.
    Try(tryout::Arguments),
    /// Look at the repository of [deploy] now; print what the channel names, once all of it is verified and here
    Update(update::Update),
    /// Take what the channel names from a folder, such as a USB stick, as from the repository of [deploy]
    ///
    /// The folder is a copy of the repository: it holds metadata/ and targets/. It is believed no more than the network is: the same
    /// root and the same floors decide.
    Import(update::Import),
    /// Go back on a module in the running gateway: drop a candidate with it, or put the generation before in its place
    Rollback(Rollback),
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    site: Site,
    /// The module's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The component, a .wasm file; its manifest, where it has one, lies beside it as .json
    file: PathBuf,
    /// Say of every import whether this site grants it: the site's configuration file. The manifest is needed then
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The component, a .wasm file; its manifest lies beside it as .json
    file: PathBuf,
    /// Golden vectors to run; default: those that the manifest names
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// Grant one more capability than the default policy does (repeatable)
    #[arg(long = "grant", value_name = "NAME")]
    grants: Vec<String>,
    /// Give it the limits that its manifest asks for, where a site's policy might not; default: no more than the defaults
    #[arg(long)]
    wanted_limits: bool,
    #[command(flatten)]
    directories: OfDirectories,
    #[command(flatten)]
    rehearsal: rehearse::Arguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Symbolize {
    /// The debug file that the module's publisher kept: NAME.debug.wasm, of the very build that trapped
    file: PathBuf,
    /// Places in the code, such as 0x1a2b, or 1:0x1a2b in a further core module
    #[arg(required = true, value_name = "OFFSET")]
    places: Vec<CodePlace>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `[policy] grants` is unless a site says otherwise.
const DEFAULT_GRANTS: [Grant; 4] = [Grant::Log, Grant::Metrics, Grant::State, Grant::Alarm];

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Inspect(arguments) => inspect(arguments),
        Command::Test(arguments) => test(arguments),
        Command::Symbolize(arguments) => symbolize(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::New(arguments) => new::run(arguments),
        Command::Try(arguments) => tryout::run(arguments),
        Command::Rollback(arguments) => rollback(arguments),
        Command::Update(arguments) => update::update(arguments),
        Command::Import(arguments) => update::import(arguments),
    }
}

fn rollback(arguments: &Rollback) -> Result<u8, Failure> {
    let Rollback { site, name, json } = arguments;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || !name.bytes().all(plain) {
        let why =
            anyhow::anyhow!("`{name}` is no module's name; `tidegate status` shows those that run");
        return Err(why.into());
    }
    let config = site.load()?;
    let path = format!("/api/v1/modules/{name}/rollback");
    let answer = control::post(&config.gateway.state_dir, &path, &serde_json::json!({}))?;
    if *json {
        say_json(&answer)?;
    } else {
        let pipelines = answer["pipelines"].as_array().into_iter().flatten();
        let pipelines: Vec<&str> = pipelines.filter_map(serde_json::Value::as_str).collect();
        say(format_args!("rolled back in: {}", pipelines.join(", ")))?;
    }
    Ok(DONE)
}

fn inspect(arguments: &Inspect) -> Result<u8, Failure> {
    let file = &arguments.file;
    let component = modules::read_bounded(file)?;
    let found =
        tidegate_pipeline::inspect(&component).with_context(|| format!("{}", file.display()))?;
    let of_site = match &arguments.config {
        Some(config) => Some(of_site(config, file, &found)?),
        None => None,
    };
    let signed = Signatures::of(file, &component, arguments.config.as_deref())?;
    if arguments.json {
        say_json(&Inspected {
            found: &found,
            signed,
            of_site,
        })?;
        return Ok(DONE);
    }
    say(format_args!(
        "{}\ndigest  {}\nsize    {} bytes",
        file.display(),
        found.digest,
        found.size
    ))?;
    say(format_args!(
        "world   {}",
        found
            .world
            .map_or_else(|| "none that this daemon knows".to_owned(), String::from)
    ))?;
    for line in signed.lines() {
        say(format_args!("signed  {line}"))?;
    }
    if let Some(of_site) = &of_site {
        let words = |words: &BTreeSet<String>| match words.is_empty() {
            true => "nothing".to_owned(),
            false => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                words.join(", ")
            }
        };
        say(format_args!(
            "wants   {}\ngets    {}",
            words(&of_site.wants),
            words(&of_site.gets)
        ))?;
    }
    for import in &found.imports {
        let Some(of_site) = &of_site else {
            say(format_args!("import  {import}"))?;
            continue;
        };
        match of_site
            .refused
            .iter()
            .find(|refused| refused.import == *import)
        {
            None => say(format_args!("granted {import}"))?,
            Some(refused) => say(format_args!("refused {import}: {}", refused.why))?,
        }
    }
    if let Some(of_site) = &of_site {
        for refused in &of_site.refused {
            if !found.imports.contains(&refused.import) {
                say(format_args!("refused {}: {}", refused.import, refused.why))?;
            }
        }
        for problem in &of_site.problems {
            say(format_args!("problem {problem}"))?;
        }
    }
    for export in &found.exports {
        say(format_args!("export  {export}"))?;
    }
    Ok(DONE)
}

/// What is printed of a component with `--json`.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    found: &'a Inspection,
    #[serde(flatten)]
    signed: Signatures,
    #[serde(flatten)]
    of_site: Option<OfSite>,
}

/// Who signed a component and its manifest.
#[derive(Serialize)]
struct Signatures {
    /// The keys whose signatures hold.
    signed_by: Vec<PublicKey>,
    /// Keys in whose names there are signatures that do not.
    not_signed_by: Vec<PublicKey>,
    /// Those of them that the site trusts, where its configuration was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted: Option<Vec<PublicKey>>,
}

impl Signatures {
    fn of(file: &Path, component: &[u8], config: Option<&Path>) -> Result<Self, Failure> {
        let manifest = file.with_extension("json");
        let (signed_by, not_signed_by) = match manifest.exists() {
            true => signed::keys(file, component, &modules::read_bounded(&manifest)?)?,
            false => (Vec::new(), Vec::new()),
        };
        let trusted = match config {
            Some(config) => {
                let site = Site {
                    config: config.to_owned(),
                    state_dir: None,
                };
                let trusted = site.load()?.modules.trusted_keys;
                let of_these = signed_by.iter().filter(|key| trusted.contains(key));
                Some(of_these.copied().collect())
            }
            None => None,
        };
        Ok(Self {
            signed_by,
            not_signed_by,
            trusted,
        })
    }

    fn lines(&self) -> Vec<String> {
        let trust = |key: &PublicKey| match &self.trusted {
            Some(trusted) if trusted.contains(key) => ", whom this site trusts",
            Some(_) => ", whom this site does not trust",
            None => "",
        };
        let hold = self.signed_by.iter();
        let hold = hold.map(|key| format!("by {key}{}", trust(key)));
        let broken = self
            .not_signed_by
            .iter()
            .map(|key| format!("not by {key}: component, manifest or signature changed since"));
        let lines: Vec<String> = hold.chain(broken).collect();
        match lines.is_empty() {
            true => vec!["by nobody".to_owned()],
            false => lines,
        }
    }
}

/// What a site makes of a component's imports.
#[derive(Serialize)]
struct OfSite {
    /// What the manifest asks for.
    wants: BTreeSet<String>,
    /// What of that the site gives.
    gets: BTreeSet<String>,
    /// Imports that are let in.
    granted: Vec<ImportName>,
    /// Those that are not, and directories likewise, with the reason.
    refused: Vec<Refusal>,
    /// Directories that are given, and cannot be opened.
    problems: Vec<String>,
}

fn of_site(config: &Path, file: &Path, found: &Inspection) -> Result<OfSite, Failure> {
    let manifest = modules::from_files(file)?.manifest;
    let site = Site {
        config: config.to_owned(),
        state_dir: None,
    };
    let config = site.load()?;
    let policy = gateway::policy(&config)?;
    let named = |secrets: bool, module: &str| secrets && module == manifest.name;
    let filters = config
        .pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.filters);
    let mut secrets = filters
        .map(|filter| named(!filter.secrets.is_empty(), &filter.module))
        .chain(config.sources.iter().map(|source| match &source.decode {
            Decode::Module(decoder) => named(!decoder.secrets.is_empty(), &decoder.module),
            Decode::Json { .. }
            | Decode::Text
            | Decode::Csv { .. }
            | Decode::Regex { .. }
            | Decode::Binary { .. }
            | Decode::Lines => false,
        }));
    let mut gets = grants::granted(&manifest, &policy, secrets.any(|named| named));
    let drivers = config.sources.iter().filter_map(modules::driver_of);
    let handed = drivers
        .filter(|driver| driver.module == manifest.name)
        .flat_map(gateway::handed);
    gets.extend(handed.filter(|grant| manifest.grants.contains(grant)));
    let directories = grants::directories(&manifest, &config.policy.directories);
    let refused = grants::refused(&manifest, found, &gets, &directories);
    let is_refused = |import: &&ImportName| refused.iter().any(|r| r.import == **import);
    let granted = found.imports.iter().filter(|import| !is_refused(import));
    Ok(OfSite {
        granted: granted.cloned().collect(),
        wants: grants::wanted_words(&manifest),
        gets: grants::given_words(&gets, &directories),
        problems: directories
            .iter()
            .filter_map(|(name, root)| {
                let problem = grants::directory_problem(root, name)?;
                Some(format!("directory:{name}: {problem}"))
            })
            .collect(),
        refused,
    })
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    module: &'a str,
    version: &'a str,
    digest: &'a str,
    refused: &'a [Refusal],
    vectors: &'a [VectorResult],
    passed: bool,
}

/// Exit code 1 when an import is not granted or a vector does not pass.
fn test(arguments: &Test) -> Result<u8, Failure> {
    let module = modules::from_files(&arguments.file)?;
    if let Some(replay) = arguments.rehearsal.replay() {
        let (rehearsal, file) = (&arguments.rehearsal, &arguments.file);
        return rehearse::run(rehearsal, replay, module, file, arguments.json);
    }
    let vectors = vectors(arguments, &module)?;
    let mut policy = DEFAULT_GRANTS.to_vec();
    for grant in &arguments.grants {
        policy.push(grant.parse()?);
    }
    let directories = arguments.directories.of(&module)?;
    let judged = judge(
        module,
        (&policy, &directories),
        arguments.wanted_limits,
        vectors.as_deref(),
    )?;
    let passed = judged.passed();
    let report = Report {
        module: &judged.loaded.manifest.name,
        version: &judged.loaded.manifest.version,
        digest: judged.loaded.inspection.digest.as_str(),
        refused: &judged.refused,
        vectors: &judged.results,
        passed,
    };
    if arguments.json {
        say_json(&report)?;
    } else {
        print(&report, vectors.is_some())?;
    }
    Ok(if passed { DONE } else { FAILURE })
}

/// A module that was loaded as the daemon would, with what its vectors came to.
pub(super) struct Judged {
    pub(super) loaded: Arc<LoadedModule>,
    /// Imports that the policy does not let in; then no vector was run.
    pub(super) refused: Vec<Refusal>,
    pub(super) results: Vec<VectorResult>,
}

impl Judged {
    pub(super) fn passed(&self) -> bool {
        self.refused.is_empty() && self.results.iter().all(VectorResult::passed)
    }
}

/// Directories that a module is given while its vectors run.
#[derive(Debug, Args)]
pub(super) struct OfDirectories {
    /// Let it read in a directory that its manifest asks for, as a site would by `[policy] directories` (repeatable). As below a
    /// site's directory-root, the directory has to be called NAME
    #[arg(long = "directory", value_name = "NAME=PATH")]
    directories: Vec<String>,
}

impl OfDirectories {
    /// By name the root of each.
    pub(super) fn of(&self, module: &Module) -> anyhow::Result<Directories> {
        let mut given = Directories::new();
        for written in &self.directories {
            let Some((name, path)) = written.split_once('=') else {
                bail!("`{written}` is no NAME=PATH");
            };
            let wanted = &module.manifest.directories;
            if !wanted.contains(name) {
                let asks = match wanted.is_empty() {
                    true => "none".to_owned(),
                    false => wanted
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", "),
                };
                bail!("the manifest asks for no directory `{name}`; those it asks for: {asks}");
            }
            let path = Path::new(path)
                .canonicalize()
                .with_context(|| format!("the directory `{name}`, {path}, cannot be found"))?;
            let root = path
                .parent()
                .filter(|_| path.file_name() == Some(name.as_ref()));
            let Some(root) = root else {
                bail!(
                    "{} is not called `{name}`, as it would be below a site's directory-root; rename it, or copy it into one \
                     that is",
                    path.display()
                );
            };
            if let Some(problem) = grants::directory_problem(root, name) {
                bail!("the directory `{name}`: {problem}");
            }
            given.insert(name.to_owned(), root.to_owned());
        }
        Ok(given)
    }
}

/// Loads a module under a policy, with some directories, and runs its vectors.
pub(super) fn judge(
    module: Module,
    (policy, directories): (&[Grant], &Directories),
    wanted_limits: bool,
    vectors: Option<&[u8]>,
) -> Result<Judged, Failure> {
    // The engine of the daemon, with a cache of its own that goes with the command.
    let dir = tempfile::tempdir().context("no temporary directory for compiled code")?;
    let compiler =
        std::env::current_exe().context("this program, which also compiles, cannot be found")?;
    let mut config = RuntimeConfig::new(
        dir.path().join("cache"),
        dir.path().join("secret"),
        compiler,
    );
    let mut ceiling = SlotLimits::default();
    if wanted_limits {
        config.compile = LoadLimits::MOST.compile;
        config.module_bytes = LoadLimits::MOST.module_bytes;
        ceiling = SlotLimits::MOST;
    }
    let runtime = Runtime::new(config)?;
    let loaded = Arc::new(LoadedModule::load(&runtime, module)?);

    // Vectors name the secrets that they need; a site would have to do the same, and a source to hand in buses.
    let mut grants = grants::granted(
        &loaded.manifest,
        &policy.iter().copied().collect(),
        vectors.is_some(),
    );
    let wanted = loaded.manifest.grants.iter().copied();
    grants.extend(wanted.filter(|grant| grant.is_bus()));
    let refused = grants::refused(&loaded.manifest, &loaded.inspection, &grants, directories);
    let given = Given {
        policy,
        ceiling: &ceiling,
        directories,
    };
    let results = match vectors {
        Some(vectors) if refused.is_empty() => {
            run_vectors_with(&runtime, &loaded, &given, vectors)?
        }
        _ => Vec::new(),
    };
    Ok(Judged {
        loaded,
        refused,
        results,
    })
}

fn print(report: &Report<'_>, with_vectors: bool) -> Result<(), Failure> {
    say(format_args!(
        "{} {} {}",
        report.module, report.version, report.digest
    ))?;
    for refusal in report.refused {
        say(format_args!(
            "not granted  {}: {}",
            refusal.import, refusal.why
        ))?;
    }
    for vector in report.vectors {
        let verdict = if vector.passed() { "passed" } else { "FAILED" };
        say(format_args!("{verdict}  {}", vector.name))?;
        for problem in &vector.problems {
            say(format_args!("        {problem}"))?;
        }
    }
    if report.refused.is_empty() {
        let passed = report
            .vectors
            .iter()
            .filter(|vector| vector.passed())
            .count();
        let what = if with_vectors {
            format!("{passed} of {} vectors passed", report.vectors.len())
        } else {
            "it has no golden vectors".to_owned()
        };
        say(format_args!("it loads under these grants; {what}"))?;
    }
    Ok(())
}

/// The golden vectors: as asked for, else the file that the manifest names beside the component.
fn vectors(arguments: &Test, module: &Module) -> Result<Option<Vec<u8>>, Failure> {
    let path = match (&arguments.vectors, &module.manifest.vectors) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => arguments.file.with_file_name(name),
        (None, None) => return Ok(None),
    };
    Ok(Some(modules::read_bounded(&path)?))
}

/// What is printed of one place with `--json`.
#[derive(Serialize)]
struct Symbolized {
    place: String,
    frames: Vec<Frame>,
}

/// Exit code 1 when the file tells nothing about one of the places.
fn symbolize(arguments: &Symbolize) -> Result<u8, Failure> {
    let file = &arguments.file;
    let bytes = modules::read_bounded(file)?;
    let debug = DebugFile::parse(&bytes).with_context(|| format!("{}", file.display()))?;
    let found = arguments
        .places
        .iter()
        .map(|&place| {
            Ok(Symbolized {
                place: place.to_string(),
                frames: debug.frames(place)?,
            })
        })
        .collect::<Result<Vec<Symbolized>, SymbolizeError>>()
        .with_context(|| format!("{}", file.display()))?;
    let all = found.iter().all(|place| !place.frames.is_empty());
    if arguments.json {
        say_json(&found)?;
    } else {
        if let Some(digest) = debug.stripped() {
            say(format_args!("for {digest}"))?;
        }
        for Symbolized { place, frames } in &found {
            if frames.is_empty() {
                say(format_args!(
                    "{place}  nothing known: is the file of another build?"
                ))?;
            }
            for frame in frames {
                say(format_args!(
                    "{place}  {}  {}:{}",
                    frame.function.as_deref().unwrap_or("?"),
                    frame.file.as_deref().unwrap_or("?"),
                    frame.line.unwrap_or(0),
                ))?;
            }
        }
    }
    Ok(if all { DONE } else { FAILURE })
}
