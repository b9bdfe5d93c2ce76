//! `tidegate audit`: what was done to the gateway, and the proof of it. It reads the files, beside a running gateway or
//! without one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_audit::{Fault, Head, Key, PublicKey, Verified};

use super::{DONE, FAILURE, Failure, Site, say, say_json};
use crate::audit::{dir, identity_dir};
use crate::{clock, time};

/// The exit code for a log that holds, and that began anew after one that did not.
const BEGAN_ANEW: u8 = 3;
/// Entries that `show` prints, unless it is asked for more.
const SHOWN: usize = 50;
/// Bytes of a file of evidence: the log's bound, and room for what stands around it.
const EVIDENCE_BYTES: u64 = 32 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the latest entries, the newest last
    Show(Show),
    /// Prove that the log is whole: every entry in order, unchanged and signed; exit code 1 where it is not, 3 where it is and began
    /// anew, for nothing is proven of what was before
    Verify(Verify),
    /// Write evidence for an auditor into one file, which is verified without the gateway
    Export(Export),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    site: Site,
    /// How many entries
    #[arg(long, value_name = "N", default_value_t = SHOWN)]
    limit: usize,
    /// Entries in front of this number alone
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// Print JSON, an entry a line, word for word
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    site: Site,
    /// Verify this file of evidence and no gateway
    #[arg(value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Evidence that was exported earlier: the log must go on from it
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// The gateway's public key as 64 hex digits, as `export` prints it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Exit code 0 also for a log that began anew, where whoever asks knows of it
    #[arg(long)]
    allow_anew: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    site: Site,
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Show(arguments) => show(arguments),
        Command::Verify(arguments) => verify(arguments),
        Command::Export(arguments) => export(arguments),
    }
}

fn show(arguments: &Show) -> Result<u8, Failure> {
    let dir = dir(&arguments.site.state_dir()?);
    let mut records = tidegate_audit::newest(&dir, arguments.before, arguments.limit)
        .with_context(|| format!("the audit log in {} cannot be read", dir.display()))?;
    records.reverse();
    for record in &records {
        if arguments.json {
            say(&record.text)?;
        } else {
            say(in_words(&record.value))?;
        }
    }
    if records.is_empty() && !arguments.json {
        say(format_args!("no entries in {}", dir.display()))?;
    }
    Ok(DONE)
}

/// An entry in a line.
fn in_words(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let at = entry["time"].as_i64().unwrap_or_default();
    let unset = if entry["synced"] == false { "?" } else { "" };
    let mut line = format!(
        "{:>6}  {}{unset}  {:<22} {:<8} {}",
        entry["number"].to_string(),
        time::show(at.saturating_mul(1_000_000)),
        text("action"),
        text("outcome"),
        who(&entry["actor"]),
    );
    if let Some(object) = entry["object"].as_object() {
        for (name, value) in object {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => value.to_string(),
            };
            line.push_str(&format!(" {name}={value}"));
        }
    }
    if let Some(of) = entry["of"].as_u64() {
        line.push_str(&format!(" of={of}"));
    }
    if let Some(repeated) = entry["repeated"].as_u64() {
        line.push_str(&format!(" and {repeated} more"));
    }
    let reason = text("reason");
    if !reason.is_empty() {
        line.push_str(&format!(": {reason}"));
    }
    // What came from outside does not move the terminal's cursor.
    line.chars()
        .map(|letter| if letter.is_control() { '�' } else { letter })
        .collect()
}

fn who(actor: &Value) -> String {
    let kind = actor["kind"].as_str().unwrap_or("unknown");
    let details: Vec<String> = ["uid", "login", "address", "uplink", "id"]
        .into_iter()
        .filter_map(|name| match &actor[name] {
            Value::Null => None,
            Value::String(text) => Some(format!("{name} {text}")),
            value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(format!("{name} {value}"))
            }
        })
        .collect();
    match details.is_empty() {
        true => kind.to_owned(),
        false => format!("{kind} ({})", details.join(", ")),
    }
}

fn verify(arguments: &Verify) -> Result<u8, Failure> {
    let earlier = arguments.head.as_deref().map(read_head).transpose()?;
    let named = arguments.key.as_deref().map(|key| {
        PublicKey::from_hex(key)
            .context("--key: a public key has 64 hex digits, as `export` prints it")
    });
    let named = named.transpose()?;
    let (found, about) = match &arguments.evidence {
        Some(file) => {
            let bytes = read_evidence(file)?;
            let verified = tidegate_audit::verify_export(&bytes, named.as_ref(), earlier.as_ref());
            (verified, file.display().to_string())
        }
        None => {
            let state_dir = arguments.site.state_dir()?;
            let key = match named {
                Some(named) => Some(named),
                None => own_key(&state_dir)?,
            };
            let dir = dir(&state_dir);
            let verified = tidegate_audit::verify(&dir, key.as_ref(), earlier.as_ref(), |_| {});
            (
                verified.map(|(verified, _)| verified),
                dir.display().to_string(),
            )
        }
    };
    let code = report(&about, &found, arguments.json)?;
    Ok(match &found {
        Ok(verified) if !verified.breaks.is_empty() && !arguments.allow_anew => BEGAN_ANEW,
        Ok(_) | Err(_) => code,
    })
}

/// The key that the gateway has; `None` where it has none yet.
fn own_key(state_dir: &Path) -> Result<Option<PublicKey>, Failure> {
    Ok(Key::load(&identity_dir(state_dir))?.map(|key| key.public()))
}

fn report(about: &str, found: &Result<Verified, Fault>, json: bool) -> Result<u8, Failure> {
    match found {
        Ok(verified) => {
            if json {
                say_json(&json!({ "whole": true, "log": about, "found": verified }))?;
                return Ok(DONE);
            }
            say(format_args!(
                "{about} is whole: entries {} to {}, signed up to {} by the key {}",
                verified.first, verified.last, verified.signed, verified.key
            ))?;
            if verified.torn_bytes > 0 {
                say(format_args!(
                    "behind them lie {} bytes that are being written, or that a power cut tore; nothing was acknowledged of them",
                    verified.torn_bytes
                ))?;
            }
            for (number, why) in &verified.breaks {
                say(format_args!("the log began anew at entry {number}: {why}"))?;
            }
            Ok(DONE)
        }
        Err(fault) => {
            if json {
                say_json(&json!({
                    "whole": false,
                    "log": about,
                    "entry": fault.number,
                    "why": fault.why,
                }))?;
            } else {
                say(format_args!("{about} does not hold. {fault}"))?;
            }
            Ok(FAILURE)
        }
    }
}

fn export(arguments: &Export) -> Result<u8, Failure> {
    let state_dir = arguments.site.state_dir()?;
    let key = own_key(&state_dir)?;
    let now = clock::wall() / 1_000_000;
    let version = env!("CARGO_PKG_VERSION");
    let exported = match tidegate_audit::export(&dir(&state_dir), key.as_ref(), now, version) {
        Ok(exported) => exported,
        Err(fault) => {
            return report(
                &dir(&state_dir).display().to_string(),
                &Err(fault),
                arguments.json,
            );
        }
    };
    let file = &arguments.file;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| {
            opened.write_all(exported.text.as_bytes())?;
            opened.sync_all()
        })
        .with_context(|| format!("{} cannot be written", file.display()))?;
    let verified = &exported.verified;
    if arguments.json {
        say_json(&json!({ "file": file, "found": verified }))?;
    } else {
        say(format_args!(
            "{} has entries {} to {}, signed by the key {}; `tidegate audit verify {}` proves it anywhere",
            file.display(),
            verified.first,
            verified.last,
            verified.key,
            file.display()
        ))?;
    }
    Ok(DONE)
}

fn read_head(file: &Path) -> Result<Head, Failure> {
    let bytes = read_evidence(file)?;
    let head = Head::of_export(&bytes);
    Ok(head.map_err(|why| anyhow::anyhow!("--head {}: {why}", file.display()))?)
}

fn read_evidence(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(EVIDENCE_BYTES + 1).read_to_end(&mut bytes))
        .with_context(|| format!("{} cannot be read", file.display()))?;
    if bytes.len() as u64 > EVIDENCE_BYTES {
        let file = file.display();
        return Err(anyhow::anyhow!(
            "{file} is larger than {EVIDENCE_BYTES} bytes, and no audit log is that long"
        )
        .into());
    }
    Ok(bytes)
}
