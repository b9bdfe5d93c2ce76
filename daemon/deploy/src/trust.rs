//! What of the repository is believed, kept on the device: the verified metadata, word for word, and the versions below
//! which nothing is taken.
//!
//! One file, replaced as a whole: metadata of two moments never lie beside each other, and after a power cut there is either
//! the state before or the one after. A file that cannot be read is not begun anew by itself: that would forget the floors.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidegate_domain::limits;
use tough::schema::{RoleType, Root, Signed};

use crate::durable;
use crate::refusal::{Kind, Refusal};

/// The format of the file.
const FORMAT: u32 = 1;
const NAME: &str = "trust.json";

/// What is believed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Trust {
    format: u32,
    /// SHA-256 of the configured root that all this began with.
    anchor: String,
    /// The newest root that was verified, word for word.
    pub(crate) root: String,
    /// Its version.
    pub(crate) root_version: u64,
    /// What was verified under it; none before the first complete refresh.
    pub(crate) metadata: Option<Metadata>,
    pub(crate) floors: Floors,
}

/// One consistent set, word for word.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Metadata {
    pub(crate) timestamp: String,
    pub(crate) snapshot: String,
    pub(crate) targets: String,
    /// What the transport recognises this timestamp by, and where that holds.
    pub(crate) tag: Option<(String, String)>,
}

/// Versions below which nothing is taken. tough compares with the metadata it finds; these hold without any.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Floors {
    /// The keys of timestamp and snapshot under which the rest was learnt. Other keys begin anew: that is how a
    /// repository whose version numbers an intruder drove up is recovered (TUF 1.0.33, 5.3.11).
    pub(crate) keys: String,
    pub(crate) timestamp: u64,
    pub(crate) snapshot: u64,
    pub(crate) targets: u64,
    /// Of the channel, by its name.
    pub(crate) epochs: std::collections::BTreeMap<String, u64>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct TrustFile {
    path: PathBuf,
}

impl TrustFile {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(NAME),
        }
    }

    /// What is kept, or a beginning with the configured root.
    ///
    /// # Errors
    /// The root cannot be read or is none, or what is kept cannot be read.
    pub(crate) fn load(&self, anchor: &Path) -> Result<Trust, Refusal> {
        let shown = anchor.display().to_string();
        let local = |what: String, help: &str| Refusal::new(Kind::Local, &shown, what, help);
        let help = "put the publisher's root.json there, or name it with `deploy.root`";
        let bytes = durable::read(anchor, limits::DEPLOY_ROOT_BYTES)
            .map_err(|error| local(error.to_string(), help))?
            .ok_or_else(|| local("there is no such file".to_owned(), help))?;
        let text = String::from_utf8(bytes).map_err(|error| local(error.to_string(), help))?;
        let root = parse_root(&text).map_err(|what| local(what, help))?;
        root.signed.verify_role(&root).map_err(|error| {
            local(
                format!("it does not bear its own signatures: {error}"),
                help,
            )
        })?;
        let digest = hex(&Sha256::digest(&text));
        let fresh = Trust {
            format: FORMAT,
            anchor: digest.clone(),
            root_version: root.signed.version.get(),
            root: text,
            metadata: None,
            floors: Floors::default(),
        };
        let Some(kept) = self.read()? else {
            return Ok(fresh);
        };
        if kept.anchor == digest {
            return Ok(kept);
        }
        // Another root was configured. What is kept goes on where the new one's keys signed it, too; else the operator has
        // begun a new trust.
        let continues = parse_root(&kept.root).is_ok_and(|newest| {
            newest.signed.version >= root.signed.version && root.signed.verify_role(&newest).is_ok()
        });
        if continues {
            return Ok(Trust {
                anchor: digest,
                ..kept
            });
        }
        tracing::warn!(
            "{shown} is another root than before: trust in the repository begins anew with it"
        );
        Ok(Trust {
            floors: kept.floors,
            ..fresh
        })
    }

    fn read(&self) -> Result<Option<Trust>, Refusal> {
        let shown = self.path.display().to_string();
        let refuse = |what: String| {
            Refusal::new(
                Kind::Local,
                &shown,
                what,
                "nothing is installed without it, because it holds what may not be gone back behind; to begin anew with \
                 `deploy.root`, move it away and restart",
            )
        };
        let most = 2 * (limits::DEPLOY_TARGETS_BYTES + limits::DEPLOY_SNAPSHOT_BYTES)
            + 2 * limits::DEPLOY_ROOT_BYTES;
        let bytes = durable::read(&self.path, most).map_err(|error| refuse(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let trust: Trust =
            serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if trust.format != FORMAT {
            return Err(refuse(format!(
                "it has format {}, and this version reads {FORMAT}",
                trust.format
            )));
        }
        Ok(Some(trust))
    }

    /// # Errors
    /// It cannot be written; what was there still is.
    pub(crate) fn store(&self, trust: &Trust) -> Result<(), Refusal> {
        let refuse = |what: String| {
            Refusal::new(
                Kind::Local,
                &self.path.display().to_string(),
                what,
                "nothing is installed while the device cannot remember what it verified; look at the disk",
            )
        };
        let bytes = serde_json::to_vec(trust).map_err(|error| refuse(error.to_string()))?;
        durable::replace(&self.path, &bytes).map_err(|error| refuse(error.to_string()))
    }
}

impl Trust {
    /// The floors that hold under a root.
    pub(crate) fn floors_under(&self, root: &Root) -> Floors {
        let keys = keys(root);
        if self.floors.keys == keys {
            self.floors.clone()
        } else {
            Floors {
                keys,
                ..Floors::default()
            }
        }
    }
}

/// The keys of timestamp and snapshot, as one text to compare.
fn keys(root: &Root) -> String {
    let of = |role| {
        let mut ids: Vec<String> = root
            .roles
            .get(&role)
            .map(|keys| keys.keyids.iter().map(|id| hex(id)).collect())
            .unwrap_or_default();
        ids.sort();
        ids.join(",")
    };
    format!("{};{}", of(RoleType::Timestamp), of(RoleType::Snapshot))
}

/// # Errors
/// What is wrong with it.
pub(crate) fn parse_root(text: &str) -> Result<Signed<Root>, String> {
    crate::strict::check_metadata(text.as_bytes())?;
    serde_json::from_str(text).map_err(|error| format!("it is no TUF root: {error}"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
