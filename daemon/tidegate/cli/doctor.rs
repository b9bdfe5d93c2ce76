//! `tidegate doctor`: looks at every file of the state directory, beside a running gateway or without one, and says what
//! is wrong and what to do. `doctor salvage` reads what is readable of a damaged database into a new one.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use tidegate_audit::Key;
use tidegate_store as store;

use super::{DONE, FAILURE, Failure, Site, say, say_json};
use crate::config::Config;
use crate::{audit, clock, wiring};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read what is readable of a damaged database, row by row, into a new store
    Salvage(Salvage),
}

#[derive(Debug, Args)]
struct Salvage {
    /// The damaged database; its -wal file, where it has one, must lie beside it
    database: PathBuf,
    /// The store to make; put in the place of `tidegate.db` of a stopped gateway, it goes on from there
    #[arg(long, value_name = "NEW.db")]
    to: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Works, and should not stay so.
    Warn,
    /// Does not work, or data is in danger.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at: `lock`, `ledger`.
    about: &'static str,
    /// What was found.
    what: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

/// Exit code 1 where something is bad.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(Command::Salvage(salvage)) = &arguments.command {
        return self::salvage(salvage);
    }
    let config = arguments.site.load()?;
    let mut doctor = Doctor {
        dir: config.gateway.state_dir.clone(),
        database: wiring::database(&config),
        config,
        findings: Vec::new(),
    };
    doctor.examine();
    let worst = doctor.findings.iter().map(|finding| finding.level).max();
    let sound = worst < Some(Level::Bad);
    if arguments.json {
        #[derive(Serialize)]
        struct Report<'a> {
            state_dir: &'a Path,
            sound: bool,
            findings: &'a [Finding],
        }
        say_json(&Report {
            state_dir: &doctor.dir,
            sound,
            findings: &doctor.findings,
        })?;
    } else {
        for finding in &doctor.findings {
            let mark = match finding.level {
                Level::Good => "ok  ",
                Level::Note => "note",
                Level::Warn => "WARN",
                Level::Bad => "BAD ",
            };
            say(format_args!("{mark}  {}: {}", finding.about, finding.what))?;
            if !finding.hint.is_empty() {
                say(format_args!("      → {}", finding.hint))?;
            }
        }
    }
    Ok(if sound { DONE } else { FAILURE })
}

struct Doctor {
    config: Config,
    dir: PathBuf,
    database: PathBuf,
    findings: Vec<Finding>,
}

impl Doctor {
    fn add(
        &mut self,
        level: Level,
        about: &'static str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.findings.push(Finding {
            level,
            about,
            what: what.into(),
            hint: hint.into(),
        });
    }

    fn examine(&mut self) {
        if !self.directory() {
            return;
        }
        let holder = self.lock();
        self.files();
        self.space();
        self.set_aside();
        self.audit();
        if self.layout() {
            self.integrity(holder);
            self.ledger();
        }
    }

    /// False where there is nothing to look into.
    fn directory(&mut self) -> bool {
        let dir = self.dir.display().to_string();
        match fs::metadata(&self.dir) {
            Ok(found) if found.is_dir() => {
                let mode = found.mode() & 0o777;
                if mode & 0o077 == 0 {
                    self.add(Level::Good, "state directory", dir, "");
                } else {
                    self.add(
                        Level::Warn,
                        "state directory",
                        format!("{dir} is open to others (mode {mode:03o}); it holds secrets and what the plant measured"),
                        format!("chmod 700 {dir}"),
                    );
                }
                true
            }
            Ok(_) => {
                self.add(
                    Level::Bad,
                    "state directory",
                    format!("{dir} is no directory"),
                    "move it away, or change gateway.state-dir",
                );
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.add(
                    Level::Warn,
                    "state directory",
                    format!("{dir} is not there: the gateway makes it at its first start"),
                    "if it ran before, look whether a file system is not mounted",
                );
                false
            }
            Err(error) => {
                self.add(
                    Level::Bad,
                    "state directory",
                    format!("{dir} cannot be looked at: {error}"),
                    "run this as root, or as the gateway's user",
                );
                false
            }
        }
    }

    fn lock(&mut self) -> Option<String> {
        match store::holder(&self.database) {
            Ok(None) => {
                self.add(Level::Good, "lock", "no gateway runs on it", "");
                None
            }
            Ok(Some(holder)) => {
                self.add(
                    Level::Good,
                    "lock",
                    format!("a gateway runs on it, process {holder}"),
                    "",
                );
                Some(holder)
            }
            Err(error) => {
                self.add(
                    Level::Bad,
                    "lock",
                    format!("{}.lock cannot be read: {error}", self.database.display()),
                    "run this as root, or as the gateway's user",
                );
                None
            }
        }
    }

    /// Owners and permissions of all, and files that are not ours.
    fn files(&mut self) {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.add(
                    Level::Bad,
                    "files",
                    format!("the directory cannot be read: {error}"),
                    "run this as root, or as the gateway's user",
                );
                return;
            }
        };
        let owner = fs::metadata(&self.dir)
            .map(|dir| dir.uid())
            .unwrap_or_default();
        let mut strange = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let ours = [
                "tidegate.db",
                "cache",
                "modules",
                "device-secret",
                "control.sock",
                "deploy",
                "audit",
                "identity",
            ]
            .iter()
            .any(|known| name.starts_with(known));
            if !ours {
                strange.push(name);
                continue;
            }
            if found.uid() != owner {
                self.add(
                    Level::Warn,
                    "files",
                    format!(
                        "{name} belongs to user {}, the directory to user {owner}",
                        found.uid()
                    ),
                    format!("chown {owner} {}", entry.path().display()),
                );
            }
            let mode = found.permissions().mode() & 0o777;
            if name == "device-secret" && mode & 0o077 != 0 {
                self.add(
                    Level::Warn,
                    "files",
                    format!("{name} can be read by others (mode {mode:03o})"),
                    format!("chmod 600 {}", entry.path().display()),
                );
            }
            if name.ends_with(".partial") {
                self.add(
                    Level::Warn,
                    "files",
                    format!("setting a damaged database aside was interrupted: {name}"),
                    "start the gateway: it goes on with that",
                );
            }
        }
        if !strange.is_empty() {
            strange.sort();
            self.add(
                Level::Note,
                "files",
                format!("not the gateway's: {}", strange.join(", ")),
                "",
            );
        }
    }

    fn space(&mut self) {
        let max = self.config.store.max_size;
        let size = |ending: &str| {
            let mut path = self.database.clone().into_os_string();
            path.push(ending);
            fs::metadata(path).map_or(0, |file| file.len())
        };
        let reserve = size(".reserve");
        let used = size("") + size("-wal") + reserve;
        let missing = max.saturating_sub(used);
        match store::available(&self.database) {
            Some(free) if free < missing => self.add(
                Level::Warn,
                "space",
                format!("the store uses {used} of {max} bytes, and the disk has {free} bytes left: less than it may still take"),
                "free some space, or lower store.max-size",
            ),
            Some(free) => self.add(
                Level::Good,
                "space",
                format!("the store uses {used} of {max} bytes, and the disk has {free} bytes left"),
                "",
            ),
            None => self.add(Level::Warn, "space", "the file system does not say how much is free", ""),
        }
        if used > max {
            self.add(
                Level::Warn,
                "space",
                "the store is larger than store.max-size",
                "it shrinks while the gateway runs, if the bound was lowered",
            );
        }
        if used > 0 && reserve == 0 {
            self.add(
                Level::Warn,
                "space",
                "no space is kept back: the disk was full",
                "it is kept back again as soon as there is room",
            );
        }
    }

    /// Whether what was done can still be proven.
    fn audit(&mut self) {
        let key = match Key::load(&audit::identity_dir(&self.dir)) {
            Ok(Some(key)) => key.public(),
            Ok(None) => {
                let what = "the gateway has no key pair yet: it is made at the next start";
                return self.add(Level::Note, "audit", what, "");
            }
            Err(error) => return self.add(Level::Bad, "audit", error.to_string(), ""),
        };
        match tidegate_audit::verify(&audit::dir(&self.dir), Some(&key), None, |_| {}) {
            Ok((found, _)) => {
                let what = format!("entries {} to {} hold", found.first, found.last);
                self.add(Level::Good, "audit", what, "");
                for (number, why) in found.breaks {
                    self.add(
                        Level::Warn,
                        "audit",
                        format!("the log began anew at entry {number}: {why}"),
                        "what was before lies beside it; find out who wrote there",
                    );
                }
            }
            Err(fault) => self.add(
                Level::Bad,
                "audit",
                fault.to_string(),
                "keep a copy of the directory as it is, and find out who wrote there",
            ),
        }
    }

    fn set_aside(&mut self) {
        let sets = match store::set_aside(&self.database) {
            Ok(sets) => sets,
            Err(error) => {
                self.add(
                    Level::Bad,
                    "set aside",
                    format!("the directory cannot be read: {error}"),
                    "",
                );
                return;
            }
        };
        for set in sets {
            let new = self.dir.join("salvaged.db");
            self.add(
                Level::Warn,
                "set aside",
                format!("a damaged database in {}, {} bytes: {}", set.dir.display(), set.bytes, set.why),
                format!(
                    "tidegate doctor salvage {} --to {}; delete the directory when it is no longer wanted",
                    set.database.display(),
                    new.display()
                ),
            );
            if !set.seen
                && let Err(error) = store::mark_seen(&set)
            {
                self.add(
                    Level::Warn,
                    "set aside",
                    format!("that this was seen cannot be noted: {error}; the page goes on saying `corrupt`"),
                    "run this as root, or as the gateway's user",
                );
            }
        }
    }

    /// Whether there is a database that can be looked into.
    fn layout(&mut self) -> bool {
        if !self.database.exists() {
            self.add(
                Level::Note,
                "database",
                format!(
                    "{} is not there: it is made at the next start",
                    self.database.display()
                ),
                "",
            );
            return false;
        }
        match store::accept(&self.database) {
            Ok(()) => true,
            Err(error) => {
                self.add(Level::Bad, "database", error.to_string(), "");
                false
            }
        }
    }

    fn integrity(&mut self, holder: Option<String>) {
        if holder.is_some() {
            self.add(
                Level::Note,
                "database",
                "SQLite's own check takes long, and is not made beside a running gateway",
                "stop the gateway and run this again, if the ledger below does not say enough",
            );
            return;
        }
        match store::integrity(&self.database) {
            Ok(problems) if problems.is_empty() => {
                self.add(Level::Good, "database", "every page is where it should be", "");
            }
            Ok(problems) => self.add(
                Level::Bad,
                "database",
                format!("damaged: {}", problems.join("; ")),
                "start the gateway: it sets the database aside when it meets the damage; `tidegate doctor salvage` reads what is readable",
            ),
            Err(error) => self.add(
                Level::Bad,
                "database",
                format!("{:#}", anyhow::Error::from(error)),
                "start the gateway: it sets a damaged database aside; `tidegate doctor salvage` reads what is readable",
            ),
        }
    }

    fn ledger(&mut self) {
        match store::verify(&self.database) {
            Ok(found) if found.differences.is_empty() => {
                self.add(
                    Level::Good,
                    "ledger",
                    "it balances and matches the rows",
                    "",
                );
            }
            Ok(found) => {
                let all = found.differences.len() as u64 + found.more_differences;
                let first: Vec<String> = found
                    .differences
                    .iter()
                    .take(5)
                    .map(ToString::to_string)
                    .collect();
                self.add(
                    Level::Bad,
                    "ledger",
                    format!(
                        "{all} differences to the rows, among them {}",
                        first.join("; ")
                    ),
                    "tidegate ledger --verify lists them; nothing is repaired by itself",
                );
            }
            Err(error) => self.add(
                Level::Bad,
                "ledger",
                format!("it cannot be recounted: {:#}", anyhow::Error::from(error)),
                "start the gateway: it sets a damaged database aside",
            ),
        }
    }
}

/// Exit code 0 when a store was made, whatever could be saved.
fn salvage(arguments: &Salvage) -> Result<u8, Failure> {
    let found = store::salvage(&arguments.database, &arguments.to, clock::wall())?;
    if arguments.json {
        say_json(&found)?;
        return Ok(DONE);
    }
    for (what, part) in [
        ("readings of history", found.readings),
        ("items waiting for uplinks", found.items),
        ("messages and readings in quarantine", found.quarantine),
        ("alarms raised", found.alarms),
        ("states of filters and decoders", found.states),
        ("identities of messages", found.identities),
        ("answers to commands", found.answers),
        ("commands at work", found.at_work),
        ("series that are listened for", found.heard),
    ] {
        let lost = match part.lost {
            Some(lost) => format!("{lost} lost"),
            None => "nobody knows how many were lost".to_owned(),
        };
        say(format_args!(
            "{what}: {} saved, {lost}, {} damaged rows",
            part.saved, part.damaged_rows
        ))?;
    }
    if found.nameless_series > 0 {
        say(format_args!(
            "{} series lost their names and are called salvaged/series-N",
            found.nameless_series
        ))?;
    }
    if !found.begin_anew.is_empty() {
        say(format_args!(
            "without the state that they had begin {}",
            found.begin_anew.join(", ")
        ))?;
    }
    say(format_args!(
        "{} is a store: stop the gateway, put it in the place of tidegate.db (with no -wal and -shm beside it), and \
         start again; what waited is sent in new streams, so that what had arrived already arrives once more",
        arguments.to.display()
    ))?;
    say(
        "two stores are never merged: where a gateway has gone on with a new one since, let what waits in that be delivered \
         first (`tidegate status`), and keep it beside; filter state and alarms are then those of the salvaged store again",
    )?;
    Ok(DONE)
}
