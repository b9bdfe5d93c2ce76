//! What a component is, told from its bytes alone: nothing is compiled and nothing runs.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tidegate_domain::limits;
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload, TypeBounds, Validator,
};

use crate::trace::CodeSections;
use crate::worlds::{self, Version, World};

/// SHA-256 of a component, written `sha256:` and 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))))
    }

    /// As written: `sha256:` and 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hex digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no digest.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no digest; one is written `sha256:` and 64 lower-case hex digits")]
pub struct BadDigest(String);

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let sound = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if sound {
            Ok(Self(text))
        } else {
            Err(BadDigest(text))
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// The full name of something imported: `tidegate:module/log@0.1.0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ImportName(pub String);

impl fmt::Display for ImportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a component is and wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: usize,
    /// What it imports, by full name and version, in its own order.
    pub imports: Vec<ImportName>,
    /// What it exports, likewise.
    pub exports: Vec<String>,
    /// The world it implements, where that is one of ours.
    pub world: Option<World>,
    /// Where its code lies.
    #[serde(skip)]
    pub(crate) code: CodeSections,
}

/// Why bytes are no component.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// More bytes than a module file may have.
    #[error("the module has {got} bytes, {limit} are allowed; {}", smaller(*.limit))]
    Size {
        /// Its size.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// Something else than WebAssembly, or damaged.
    #[error("the file is no sound WebAssembly (at byte {offset}): {detail}")]
    Invalid {
        /// Where.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A core module.
    #[error(
        "the file is a WebAssembly core module, not a component; link it with `wasm-component-ld`, \
         or turn it into one with `wasm-tools component new`"
    )]
    CoreModule,
}

/// What can be done about a component of more bytes than this.
#[must_use]
pub fn smaller(limit: u64) -> &'static str {
    if limit >= limits::MODULE_FILE_MOST_BYTES {
        return "nothing raises that: build it smaller, without debug information and with fewer libraries";
    }
    "the manifest's `limits.module-bytes` and the site's `[policy] module-size` can raise that"
}

/// Reads what a component imports and exports, and checks it throughout.
///
/// # Errors
/// Bytes that are no sound component.
pub fn inspect(component: &[u8]) -> Result<Inspection, InspectError> {
    let inspection = outline(component)?;
    Validator::new()
        .validate_all(component)
        .map_err(|error| invalid(&error))?;
    Ok(inspection)
}

/// Like [`inspect`] without a look into function bodies: enough for what has been checked before, and for what the
/// compiler will check.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most of WebAssembly's many sections say nothing about what is imported"
)]
pub(crate) fn outline(component: &[u8]) -> Result<Inspection, InspectError> {
    bounded(component, limits::MODULE_FILE_MOST_BYTES)?;
    let mut imports = Vec::new();
    let mut exports = Vec::new();
    let mut functions = BTreeSet::new();
    // Components and modules nest; only the outermost one's imports are asked of us.
    let mut depth = 0_u32;
    let mut code = CodeSections::default();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| invalid(&error))?;
        code.note(&payload);
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => return Err(InspectError::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(|error| invalid(&error))?;
                    if let ComponentTypeRef::Type(TypeBounds::Eq(_)) = import.ty {
                        // A name for a type that is spelled out: there is nothing to hand over.
                        continue;
                    }
                    imports.push(ImportName(import.name.name.to_owned()));
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(|error| invalid(&error))?;
                    if export.kind == ComponentExternalKind::Func {
                        functions.insert(export.name.name.to_owned());
                    }
                    exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    // A component belongs to one version of the contract: the one that all of its imports are from, WASI's aside.
    let version = Version::ALL.into_iter().find(|version| {
        imports
            .iter()
            .filter(|import| !import.0.starts_with("wasi:"))
            .all(|import| worlds::of_contract(&import.0).is_some_and(|(_, of)| of == *version))
    });
    Ok(Inspection {
        digest: Digest::of(component),
        size: component.len(),
        imports,
        exports,
        code,
        world: version
            .and_then(|version| World::of(version, |function| functions.contains(function))),
    })
}

/// Refuses a component of more than so many bytes.
pub(crate) fn bounded(component: &[u8], limit: u64) -> Result<(), InspectError> {
    let got = component.len() as u64;
    if got > limit {
        return Err(InspectError::Size { got, limit });
    }
    Ok(())
}

fn invalid(error: &wasmparser::Error) -> InspectError {
    InspectError::Invalid {
        offset: error.offset() as u64,
        detail: error.message().to_owned(),
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}
