//! `tidegate compile`: native code for one component, in a process that may die of it.

use clap::Args;
use tidegate_pipeline::{CompileRequest, Profile, compile_child};

use super::{DONE, Failure};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How the engine reserves memory
    #[arg(long)]
    profile: Profile,
    /// Address space that may be mapped above what is mapped at the start
    #[arg(long)]
    memory_bytes: u64,
    /// CPU time
    #[arg(long)]
    cpu_seconds: u64,
}

/// The component on standard input, native code on standard output.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let request = CompileRequest {
        profile: arguments.profile,
        memory_bytes: arguments.memory_bytes,
        cpu_seconds: arguments.cpu_seconds,
    };
    let compiled = compile_child(
        &request,
        &mut std::io::stdin().lock(),
        &mut std::io::stdout().lock(),
    );
    match compiled {
        Ok(()) => Ok(DONE),
        Err(error) => Err(Failure {
            code: error.exit_code(),
            error: error.into(),
        }),
    }
}
