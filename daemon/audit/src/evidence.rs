//! Evidence for somebody else: one file of JSON lines, which is verified without the gateway.
//!
//! The first line says whose log it is and which control each record shows; then come the entries and, last, the signed
//! head, word for word. The first line is not signed: what counts of it, the key, stands in the head as well.

use std::path::Path;

use serde_json::{Value, json};

use crate::action::{Action, CONTROLS};
use crate::head::Head;
use crate::key::PublicKey;
use crate::segments::lines;
use crate::verify::{Chain, Fault, Verified, verify};

/// The format of the file.
const FORMAT: u32 = 1;

/// What is exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// The file.
    pub text: String,
    /// What was verified of it.
    pub verified: Verified,
}

/// Verifies a log, and puts what is in it into one file.
///
/// # Errors
/// It does not hold: what is wrong first.
pub fn export(
    dir: &Path,
    key: Option<&PublicKey>,
    time: i64,
    version: &str,
) -> Result<Export, Fault> {
    let mut entries = String::new();
    let (verified, line) = verify(dir, key, None, |record| {
        entries.push_str(&record.text);
        entries.push('\n');
    })?;
    let head = Head::read(&line).map_err(|why| Fault::new(None, why))?;
    let actions: Vec<Value> = Action::ALL
        .iter()
        .map(|action| json!({ "action": action, "category": action.category() }))
        .collect();
    let about = json!({
        "tidegate-audit": FORMAT,
        "gateway": head.gateway,
        "key": head.key.to_hex(),
        "key_pem": head.key.to_pem(),
        "fingerprint": head.key.fingerprint(),
        "exported": time,
        "version": version,
        "standard": "IEC 62443-4-2:2019",
        "controls": CONTROLS,
        "actions": actions,
    });
    let line = String::from_utf8_lossy(&line);
    Ok(Export {
        text: format!("{about}\n{entries}{line}\n"),
        verified,
    })
}

/// Verifies a file that was exported.
///
/// # Errors
/// What is wrong first.
pub fn verify_export(
    bytes: &[u8],
    key: Option<&PublicKey>,
    earlier: Option<&Head>,
) -> Result<Verified, Fault> {
    let none = || {
        Fault::new(
            None,
            "this is no evidence that `tidegate audit export` wrote",
        )
    };
    let (lines, rest) = lines(bytes);
    let [about, entries @ .., head] = lines.as_slice() else {
        return Err(none());
    };
    let about: Value = serde_json::from_slice(about).map_err(|_| none())?;
    if about["tidegate-audit"] != FORMAT {
        return Err(none());
    }
    let head = Head::read(head).map_err(|why| Fault::new(None, why))?;
    if !rest.is_empty() {
        return Err(Fault::new(None, "something stands behind the signed head"));
    }
    let first = match entries.first() {
        Some(line) => {
            crate::entry::Record::parse(line)
                .map_err(|why| Fault::new(head.first, why))?
                .number
        }
        None => head.number + 1,
    };
    let mut chain = Chain::new(&head, key, earlier, first)?;
    for line in entries {
        chain.take(line)?;
    }
    chain.finish(0)
}

impl Head {
    /// The head out of a file that was exported, or of a head alone: its last line.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn of_export(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.trim_ascii_end();
        let line = text
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        Self::read(line)
    }
}
