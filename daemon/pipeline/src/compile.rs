//! Compilation in a short-lived child process (DESIGN 5): a compiler that panics, loops or eats memory over a hostile
//! component takes nothing but itself down.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tidegate_domain::limits;

use crate::cache::ARTEFACT_BYTES;
use crate::engine::{self, LoadError, Profile, RuntimeError};

/// What the child wrote to standard error, from its end.
const STDERR_BYTES: u64 = 4096;

/// Standard input, output and error; no other can be opened.
const OPEN_FILES: u64 = 3;

/// How the child ends that cannot compile this component on any machine: `EX_DATAERR` of sysexits.h.
const BAD_COMPONENT: u8 = 65;
/// How it ends that gets from the system what it needs: `EX_OSERR`.
const NO_MEANS: u8 = 71;

/// Bounds of one compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Wall time; then the child is killed. Its CPU time is bounded by the same.
    pub time: Duration,
    /// Address space above what the child has mapped at its start.
    pub memory_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            time: limits::COMPILE_TIME,
            memory_bytes: limits::COMPILE_MEMORY_BYTES,
        }
    }
}

/// What the child is asked, as its command line says it.
#[derive(Clone, Copy, Debug)]
pub struct CompileRequest {
    /// `--profile`
    pub profile: Profile,
    /// `--memory-bytes`: address space above what is mapped at the start.
    pub memory_bytes: u64,
    /// `--cpu-seconds`
    pub cpu_seconds: u64,
}

impl CompileRequest {
    /// The command line, without the program.
    #[must_use]
    pub fn arguments(&self) -> [String; 7] {
        [
            "compile".to_owned(),
            "--profile".to_owned(),
            self.profile.to_string(),
            "--memory-bytes".to_owned(),
            self.memory_bytes.to_string(),
            "--cpu-seconds".to_owned(),
            self.cpu_seconds.to_string(),
        ]
    }

    /// The request in such a command line, for programs that do nothing else with theirs.
    ///
    /// # Errors
    /// What is missing or no number, for people.
    pub fn of_arguments(arguments: &[String]) -> Result<Self, String> {
        fn value<T: std::str::FromStr<Err: std::fmt::Display>>(
            arguments: &[String],
            name: &str,
        ) -> Result<T, String> {
            let mut words = arguments.iter().skip_while(|argument| *argument != name);
            let word = words.nth(1).ok_or_else(|| format!("{name} is missing"))?;
            word.parse().map_err(|error| format!("{name}: {error}"))
        }
        Ok(Self {
            profile: value(arguments, "--profile")?,
            memory_bytes: value(arguments, "--memory-bytes")?,
            cpu_seconds: value(arguments, "--cpu-seconds")?,
        })
    }
}

/// Why the child could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A limit cannot be set.
    #[error("the compiler's own limits cannot be set")]
    Limits(#[source] io::Error),
    /// The component does not arrive.
    #[error("the component cannot be read")]
    Read(#[source] io::Error),
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
    /// The component cannot be compiled.
    #[error("{0}")]
    Compile(String),
    /// The artefact does not leave.
    #[error("the compiled module cannot be written")]
    Write(#[source] io::Error),
}

impl CompileError {
    /// The child's exit code, by which its parent knows whose fault it is.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Compile(_) => BAD_COMPONENT,
            Self::Limits(_) | Self::Read(_) | Self::Engine(_) | Self::Write(_) => NO_MEANS,
        }
    }
}

/// The body of `tidegate compile`: reads a component, writes native code. It limits its own process first, so it is only
/// for a process of its own.
///
/// # Errors
/// See [`CompileError`].
pub fn compile_child(
    request: &CompileRequest,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), CompileError> {
    limit_self(request).map_err(CompileError::Limits)?;
    let mut component = Vec::new();
    input
        .take(limits::MODULE_FILE_MOST_BYTES + 1)
        .read_to_end(&mut component)
        .map_err(CompileError::Read)?;
    if component.len() as u64 > limits::MODULE_FILE_MOST_BYTES {
        return Err(CompileError::Compile(format!(
            "the component has more than {} bytes",
            limits::MODULE_FILE_MOST_BYTES
        )));
    }
    let engine = engine::compiling(request.profile)?;
    // From here on there is a stranger's component at work, and nothing that it would need to open: no file, no connection.
    lower(Resource::Nofile, OPEN_FILES).map_err(CompileError::Limits)?;
    #[cfg(feature = "test-faults")]
    faults::misbehave(&component, request);
    let native = engine
        .precompile_component(&component)
        .map_err(|error| CompileError::Compile(format!("{error:#}")))?;
    output
        .write_all(&native)
        .and_then(|()| output.flush())
        .map_err(CompileError::Write)
}

fn limit_self(request: &CompileRequest) -> io::Result<()> {
    // A daemon that dies must not leave a compiler behind.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/statm does not say how much is mapped"))?;
    let mapped = pages * rustix::param::page_size() as u64;
    lower(Resource::As, mapped.saturating_add(request.memory_bytes))?;
    lower(Resource::Cpu, request.cpu_seconds)?;
    lower(Resource::Fsize, ARTEFACT_BYTES)?;
    lower(Resource::Core, 0)?;
    // Where memory runs out, the compiler goes before the daemon. A system without this file chooses by itself.
    std::fs::write("/proc/self/oom_score_adj", "1000").unwrap_or_default();
    Ok(())
}

/// Sets a limit for good, but never above one that is there.
fn lower(resource: Resource, wanted: u64) -> io::Result<()> {
    let present = getrlimit(resource);
    let value = wanted.min(present.maximum.unwrap_or(u64::MAX));
    setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )?;
    Ok(())
}

/// The parent's side.
#[derive(Clone)]
pub(crate) struct Compiler {
    pub(crate) program: PathBuf,
    pub(crate) limits: CompileLimits,
    pub(crate) profile: Profile,
}

impl Compiler {
    /// The same within other bounds.
    pub(crate) fn within(&self, limits: CompileLimits) -> Self {
        Self {
            limits,
            ..self.clone()
        }
    }

    /// Native code of a component. Files in memory carry input and output: nothing can block on a pipe, and no state of the
    /// disk keeps a module from being compiled. The child's bound on the size of files holds for them as well.
    pub(crate) fn run(&self, component: &[u8]) -> Result<Vec<u8>, LoadError> {
        let scratch = LoadError::Scratch;
        let file = || {
            memfd_create("compiler", MemfdFlags::CLOEXEC)
                .map(File::from)
                .map_err(io::Error::from)
        };
        let mut input = file().map_err(scratch)?;
        input
            .write_all(component)
            .and_then(|()| input.rewind())
            .map_err(scratch)?;
        let mut output = file().map_err(scratch)?;
        let mut stderr = file().map_err(scratch)?;
        let request = CompileRequest {
            profile: self.profile,
            memory_bytes: self.limits.memory_bytes,
            // Rounded up, with a second on top: the parent's clock is to be the one that says "too long".
            cpu_seconds: self.limits.time.as_secs() + 2,
        };
        let mut child = Command::new(&self.program)
            .args(request.arguments())
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(output.try_clone().map_err(scratch)?)
            .stderr(stderr.try_clone().map_err(scratch)?)
            .spawn()
            .map_err(|source| LoadError::Spawn {
                path: self.program.clone(),
                source,
            })?;
        let status = self.wait(&mut child)?;
        if !status.success() {
            let detail = tail(&mut stderr).map_err(scratch)?;
            return Err(match status.code().map(u8::try_from) {
                Some(Ok(BAD_COMPONENT)) => LoadError::Compile { detail },
                Some(Ok(NO_MEANS)) => LoadError::CompilerMeans { detail },
                // A signal, a panic, a bound on its memory: the component may have done that to it, or the machine.
                Some(_) | None => LoadError::CompilerEnded { status, detail },
            });
        }
        let got = output.metadata().map_err(scratch)?.len();
        if got > ARTEFACT_BYTES {
            return Err(LoadError::ArtefactSize {
                got,
                limit: ARTEFACT_BYTES,
            });
        }
        let mut native = Vec::new();
        output
            .rewind()
            .and_then(|()| output.take(got).read_to_end(&mut native))
            .map_err(scratch)?;
        Ok(native)
    }

    /// Waits within the bound, then kills. The wait between looks grows from 1 ms: a small module takes 11 ms.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus, LoadError> {
        let spawn = |source| LoadError::Spawn {
            path: self.program.clone(),
            source,
        };
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait().map_err(spawn)? {
                return Ok(status);
            }
            if started.elapsed() >= self.limits.time {
                child.kill().map_err(spawn)?;
                child.wait().map_err(spawn)?;
                return Err(LoadError::CompileTime {
                    limit: self.limits.time,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// What the tests of these bounds need: a compiler that does, within them, what a component tells it to.
#[cfg(feature = "test-faults")]
mod faults {
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};
    use std::time::Duration;

    use wasmparser::{Parser, Payload};

    /// The custom section whose contents are the order.
    const SECTION: &str = "tidegate:test-fault";

    #[expect(clippy::panic, reason = "panics are among what is tried")]
    pub(super) fn misbehave(component: &[u8], request: &super::CompileRequest) {
        for payload in Parser::new(0).parse_all(component).flatten() {
            let Payload::CustomSection(section) = payload else {
                continue;
            };
            if section.name() != SECTION {
                continue;
            }
            match section.data() {
                b"panic" => panic!("as the test ordered"),
                // Sound where it gets the usual time: it hangs on a gateway that gives less, and not at its publisher's.
                b"hang-here" if request.cpu_seconds > 30 => {}
                b"hang" | b"hang-here" => loop {
                    std::thread::sleep(Duration::from_secs(1));
                },
                b"memory" => {
                    let mut taken = Vec::new();
                    loop {
                        taken.push(vec![1_u8; 1 << 20]);
                    }
                }
                b"file" => panic!("{:?}", File::open("/proc/self/status").err()),
                b"network" => panic!(
                    "{:?} {:?}",
                    TcpListener::bind("127.0.0.1:0").err(),
                    UdpSocket::bind("127.0.0.1:0").err()
                ),
                b"environment" => panic!(
                    "{} variables, in {:?}",
                    std::env::vars_os().count(),
                    std::env::current_dir()
                ),
                _ => {}
            }
        }
    }
}

/// The last lines of a file.
fn tail(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(STDERR_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(STDERR_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() {
        return Ok(
            "it said nothing; a bound on its memory, CPU time or output ended it".to_owned(),
        );
    }
    Ok(text)
}
