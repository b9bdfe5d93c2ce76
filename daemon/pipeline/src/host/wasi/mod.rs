//! The part of WASI preview 2 that a site can grant, with a context that is empty by default.
//!
//! `wasi` alone is an empty context: no arguments, no variables, standard input at its end, no directory. Its parts are
//! grants of their own: clocks, random bytes, standard output as lines of the log, and directories that the site names, read-only.
//! Nothing waits: what would be slept for has passed already. There are no sockets.
//!
//! The interfaces are those of <https://github.com/WebAssembly/WASI> 0.2; every version of them is taken, since a later one
//! has all functions of those before it.

mod cli;
mod clocks;
mod filesystem;
mod io;
mod random;

use wasmtime::component::{LinkerInstance, ResourceTable};

pub(crate) use self::filesystem::problem as directory_problem;
use self::io::Lines;
use super::{Call, Context};
use crate::grants::Grant;

/// Handles that a guest may hold at a time; a further one ends it.
const HANDLES: usize = 1024;

/// One interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wasi {
    IoError,
    IoPoll,
    IoStreams,
    Environment,
    Exit,
    Stdin,
    Stdout,
    Stderr,
    TerminalInput,
    TerminalOutput,
    TerminalStdin,
    TerminalStdout,
    TerminalStderr,
    Files,
    Preopens,
    MonotonicClock,
    WallClock,
    Random,
    Insecure,
    InsecureSeed,
}

type Link = fn(&mut LinkerInstance<'_, Call>) -> wasmtime::Result<()>;

impl Wasi {
    const ALL: [Self; 20] = [
        Self::IoError,
        Self::IoPoll,
        Self::IoStreams,
        Self::Environment,
        Self::Exit,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::TerminalInput,
        Self::TerminalOutput,
        Self::TerminalStdin,
        Self::TerminalStdout,
        Self::TerminalStderr,
        Self::Files,
        Self::Preopens,
        Self::MonotonicClock,
        Self::WallClock,
        Self::Random,
        Self::Insecure,
        Self::InsecureSeed,
    ];

    /// The interface of a full name: of `wasi:random/random@0.2.3`, and of any other version 0.2.
    pub(crate) fn find(full: &str) -> Option<Self> {
        let (name, version) = full.strip_prefix("wasi:")?.split_once('@')?;
        let patch = version.strip_prefix("0.2.")?;
        let is_version = !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit());
        Self::ALL
            .into_iter()
            .find(|wasi| is_version && wasi.parts().0 == name)
    }

    /// Why no site can grant an import that is none of these; `None` where it is not WASI's.
    pub(crate) fn refusal(full: &str) -> Option<&'static str> {
        let name = full.strip_prefix("wasi:")?;
        Some(match name.split('/').next() {
            Some("sockets" | "http") => "no module is ever given a network",
            Some(_) | None => {
                "this daemon has no such part of WASI; it has 0.2 of clocks, random, cli, io and filesystem"
            }
        })
    }

    /// The grant it takes.
    pub(crate) fn grant(self) -> Grant {
        self.parts().1
    }

    pub(super) fn link(self) -> Link {
        self.parts().2
    }

    fn parts(self) -> (&'static str, Grant, Link) {
        match self {
            Self::IoError => ("io/error", Grant::Wasi, io::link_error),
            Self::IoPoll => ("io/poll", Grant::Wasi, io::link_poll),
            Self::IoStreams => ("io/streams", Grant::Wasi, io::link_streams),
            Self::Environment => ("cli/environment", Grant::Wasi, cli::link_environment),
            Self::Exit => ("cli/exit", Grant::Wasi, cli::link_exit),
            Self::Stdin => ("cli/stdin", Grant::Wasi, cli::link_stdin),
            Self::Stdout => ("cli/stdout", Grant::WasiStdout, cli::link_stdout),
            Self::Stderr => ("cli/stderr", Grant::WasiStdout, cli::link_stderr),
            Self::TerminalInput => ("cli/terminal-input", Grant::Wasi, cli::link_terminal_input),
            Self::TerminalOutput => (
                "cli/terminal-output",
                Grant::Wasi,
                cli::link_terminal_output,
            ),
            Self::TerminalStdin => ("cli/terminal-stdin", Grant::Wasi, cli::link_terminal_stdin),
            Self::TerminalStdout => (
                "cli/terminal-stdout",
                Grant::Wasi,
                cli::link_terminal_stdout,
            ),
            Self::TerminalStderr => (
                "cli/terminal-stderr",
                Grant::Wasi,
                cli::link_terminal_stderr,
            ),
            Self::Files => ("filesystem/types", Grant::Wasi, filesystem::link_types),
            Self::Preopens => (
                "filesystem/preopens",
                Grant::Wasi,
                filesystem::link_preopens,
            ),
            Self::MonotonicClock => (
                "clocks/monotonic-clock",
                Grant::WasiClocks,
                clocks::link_monotonic,
            ),
            Self::WallClock => ("clocks/wall-clock", Grant::WasiClocks, clocks::link_wall),
            Self::Random => ("random/random", Grant::WasiRandom, random::link_random),
            Self::Insecure => ("random/insecure", Grant::WasiRandom, random::link_insecure),
            Self::InsecureSeed => (
                "random/insecure-seed",
                Grant::WasiRandom,
                random::link_insecure_seed,
            ),
        }
    }
}

/// What one call has of WASI.
#[derive(Debug)]
pub(crate) struct WasiCall {
    table: ResourceTable,
    out: Lines,
    err: Lines,
    /// Where the random bytes of a rehearsal have got to.
    drawn: u64,
    files: filesystem::Files,
}

impl Default for WasiCall {
    fn default() -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        Self {
            table,
            out: Lines::default(),
            err: Lines::default(),
            drawn: 0,
            files: filesystem::Files::default(),
        }
    }
}

impl WasiCall {
    /// Writes the last lines, which nothing has ended.
    pub(super) fn finish(&mut self, context: &Context, now: std::time::Instant) {
        for lines in [&mut self.out, &mut self.err] {
            lines.end(|line| super::log::printed(context, now, line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_in_every_version_of_0_2_and_sockets_in_none() {
        for name in ["wasi:random/random@0.2.0", "wasi:random/random@0.2.12"] {
            assert_eq!(Wasi::find(name), Some(Wasi::Random), "{name}");
        }
        for name in [
            "wasi:random/random@0.3.0",
            "wasi:random/random@0.2.0-draft",
            "wasi:random/random",
            "wasi:sockets/tcp@0.2.0",
            "wasi:clocks/timezone@0.2.0",
        ] {
            assert_eq!(Wasi::find(name), None, "{name}");
            assert!(Wasi::refusal(name).is_some());
        }
        assert_eq!(
            Wasi::refusal("wasi:sockets/tcp@0.2.0"),
            Wasi::refusal("wasi:http/types@0.2.0")
        );
        assert_eq!(Wasi::refusal("tidegate:module/log@0.3.0"), None);
    }
}
