//! Makes one component of several: `compose SOCKET PLUG… TARGET`.
//!
//! What the plugs export takes the place of what the socket imports under the same name; the rest of what each imports is
//! imported by the whole, which exports what the socket does. The same as `wac plug`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io, io::Write as _};

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId, plug};

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let result = match arguments.as_slice() {
        [socket, plugs @ .., target] if !plugs.is_empty() => compose(socket, plugs)
            .and_then(|bytes| fs::write(target, bytes).map_err(|e| about(target, &e))),
        _ => Err("usage: compose SOCKET PLUG… TARGET".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is left to be told where not even this can be written.
        Err(message) => match writeln!(io::stderr(), "compose: {message}") {
            Ok(()) | Err(_) => ExitCode::FAILURE,
        },
    }
}

fn compose(socket: &Path, plugs: &[PathBuf]) -> Result<Vec<u8>, String> {
    let mut graph = CompositionGraph::new();
    let mut ids = Vec::new();
    for (number, file) in plugs.iter().enumerate() {
        ids.push(register(&mut graph, &format!("plug-{number}"), file)?);
    }
    let into = register(&mut graph, "socket", socket)?;
    plug(&mut graph, ids, into).map_err(|e| about(socket, &e))?;
    graph
        .encode(EncodeOptions::default())
        .map_err(|e| about(socket, &e))
}

fn register(graph: &mut CompositionGraph, name: &str, file: &Path) -> Result<PackageId, String> {
    let package = Package::from_file(name, None, file, graph.types_mut())
        .map_err(|e| format!("{}: {e:#}", file.display()))?;
    graph.register_package(package).map_err(|e| about(file, &e))
}

fn about(file: &Path, error: &dyn std::error::Error) -> String {
    let mut text = format!("{}: {error}", file.display());
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
