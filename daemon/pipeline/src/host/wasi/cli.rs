//! `wasi:cli`: nothing to read, standard output and error, and an end that is none.

use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource};

use super::super::{Call, Violation};
use super::io::{InputStream, OutputStream, handle, resource};

type Cx<'a> = StoreContextMut<'a, Call>;

#[derive(Debug)]
struct TerminalInput;
#[derive(Debug)]
struct TerminalOutput;

pub(super) fn link_environment(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-environment", |_: Cx<'_>, (): ()| {
        Ok((Vec::<(String, String)>::new(),))
    })?;
    instance.func_wrap("get-arguments", |_: Cx<'_>, (): ()| {
        Ok((Vec::<String>::new(),))
    })?;
    instance.func_wrap("initial-cwd", |_: Cx<'_>, (): ()| Ok((None::<String>,)))
}

pub(super) fn link_exit(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    fn exits(how: &str) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Violation(format!(
            "it ends itself, {how}, instead of answering"
        ))))
    }
    instance.func_wrap("exit", |_: Cx<'_>, (status,): (Result<(), ()>,)| {
        exits(match status {
            Ok(()) => "with success",
            Err(()) => "with a failure",
        })
    })?;
    instance.func_wrap("exit-with-code", |_: Cx<'_>, (code,): (u8,)| {
        exits(&format!("with code {code}"))
    })
}

pub(super) fn link_stdin(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-stdin", |mut cx: Cx<'_>, (): ()| {
        handle(&mut cx, InputStream::Ended)
    })
}

pub(super) fn link_stdout(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-stdout", |mut cx: Cx<'_>, (): ()| {
        handle(&mut cx, OutputStream::Out)
    })
}

pub(super) fn link_stderr(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-stderr", |mut cx: Cx<'_>, (): ()| {
        handle(&mut cx, OutputStream::Err)
    })
}

pub(super) fn link_terminal_input(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<TerminalInput>(instance, "terminal-input")
}

pub(super) fn link_terminal_output(
    instance: &mut LinkerInstance<'_, Call>,
) -> wasmtime::Result<()> {
    resource::<TerminalOutput>(instance, "terminal-output")
}

pub(super) fn link_terminal_stdin(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-terminal-stdin", |_: Cx<'_>, (): ()| {
        Ok((None::<Resource<TerminalInput>>,))
    })
}

pub(super) fn link_terminal_stdout(
    instance: &mut LinkerInstance<'_, Call>,
) -> wasmtime::Result<()> {
    instance.func_wrap("get-terminal-stdout", |_: Cx<'_>, (): ()| {
        Ok((None::<Resource<TerminalOutput>>,))
    })
}

pub(super) fn link_terminal_stderr(
    instance: &mut LinkerInstance<'_, Call>,
) -> wasmtime::Result<()> {
    instance.func_wrap("get-terminal-stderr", |_: Cx<'_>, (): ()| {
        Ok((None::<Resource<TerminalOutput>>,))
    })
}
