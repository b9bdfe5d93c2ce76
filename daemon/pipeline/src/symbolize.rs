//! From a place in a module's code to file and line, by the debug file that its publisher kept.

use std::collections::HashMap;

use addr2line::Context;
use addr2line::gimli::{self, Dwarf, EndianSlice, LittleEndian};
use serde::Serialize;
use wasmparser::{Encoding, Parser, Payload};

use crate::trace::CodePlace;

/// The section in which `modules/pack` writes, into a debug file, the digest of the component that it is for.
const STRIPPED: &str = "tidegate:stripped";
/// Functions that were inlined into each other at one place; more are not shown.
const INLINED: usize = 64;

/// A function at a place, or one that was inlined there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Its name.
    pub function: Option<String>,
    /// Path of the source file, as the publisher's build calls it.
    pub file: Option<String>,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1.
    pub column: Option<u32>,
}

/// Why there is no file and line.
#[derive(Debug, thiserror::Error)]
pub enum SymbolizeError {
    /// Something else than WebAssembly, or damaged.
    #[error("the file is no sound WebAssembly: {0}")]
    Invalid(#[from] wasmparser::Error),
    /// A component as it is shipped.
    #[error(
        "the file has no debug information: what is needed is the publisher's debug file, which \
         modules/build.sh puts into modules/target/debug-components"
    )]
    Stripped,
    /// A number of a core module that the component does not have.
    #[error("there is no core module {module}: the component has {count}")]
    Module {
        /// The number.
        module: usize,
        /// How many there are.
        count: usize,
    },
    /// Debug information that means nothing.
    #[error("the debug information cannot be read: {0}")]
    Dwarf(gimli::Error),
}

/// A publisher's debug file.
pub struct DebugFile<'a> {
    /// Custom sections of every core module, by name.
    modules: Vec<HashMap<&'a str, &'a [u8]>>,
    stripped: Option<&'a str>,
}

impl<'a> DebugFile<'a> {
    /// Reads a component with debug information.
    ///
    /// # Errors
    /// See [`SymbolizeError`].
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "debug information is in custom sections alone"
    )]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SymbolizeError> {
        let mut file = Self {
            modules: Vec::new(),
            stripped: None,
        };
        let mut within = false;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version {
                    encoding: Encoding::Module,
                    ..
                } => {
                    within = true;
                    file.modules.push(HashMap::new());
                }
                Payload::End(_) => within = false,
                Payload::CustomSection(section) => match file.modules.last_mut() {
                    Some(sections) if within => {
                        sections.insert(section.name(), section.data());
                    }
                    _ if section.name() == STRIPPED => {
                        file.stripped = std::str::from_utf8(section.data()).ok();
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        let debug = |module: &HashMap<&str, &[u8]>| module.contains_key(".debug_line");
        if !file.modules.iter().any(debug) {
            return Err(SymbolizeError::Stripped);
        }
        Ok(file)
    }

    /// Digest of the component that it is for, where it says so: to be compared with the one that runs.
    #[must_use]
    pub fn stripped(&self) -> Option<&str> {
        self.stripped
    }

    /// The functions at a place, innermost first; none where the debug information does not reach.
    ///
    /// # Errors
    /// See [`SymbolizeError`].
    pub fn frames(&self, place: CodePlace) -> Result<Vec<Frame>, SymbolizeError> {
        let sections = self
            .modules
            .get(place.module)
            .ok_or(SymbolizeError::Module {
                module: place.module,
                count: self.modules.len(),
            })?;
        let dwarf = Dwarf::load(|id| {
            let bytes = sections.get(id.name()).copied().unwrap_or_default();
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        })
        .map_err(SymbolizeError::Dwarf)?;
        let context = Context::from_dwarf(dwarf).map_err(SymbolizeError::Dwarf)?;
        let mut found = context
            .find_frames(place.offset)
            .skip_all_loads()
            .map_err(SymbolizeError::Dwarf)?;
        let mut frames = Vec::new();
        while frames.len() < INLINED {
            let Some(frame) = found.next().map_err(SymbolizeError::Dwarf)? else {
                break;
            };
            let name = |function: addr2line::FunctionName<_>| {
                function.demangle().ok().map(|name| name.into_owned())
            };
            let location = frame.location.as_ref();
            frames.push(Frame {
                function: frame.function.and_then(name),
                file: location.and_then(|at| at.file).map(str::to_owned),
                line: location.and_then(|at| at.line),
                column: location.and_then(|at| at.column),
            });
        }
        Ok(frames)
    }
}
