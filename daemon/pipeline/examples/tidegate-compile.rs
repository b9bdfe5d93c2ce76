//! The compiler child alone, for this crate's own tests: what `tidegate compile` does, without the daemon around it.

use std::process::ExitCode;

use tidegate_pipeline::compile::{CompileError, CompileRequest, compile_child};

#[expect(clippy::print_stderr, reason = "a program's own standard error")]
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let code = error.downcast_ref().map(CompileError::exit_code);
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let request = CompileRequest::of_arguments(&arguments)?;
    compile_child(&request, &mut std::io::stdin(), &mut std::io::stdout())?;
    Ok(())
}
