//! The snapshot judged, in words: what is wrong now, since when, what to do, and what was ever lost.
//!
//! Only what holds now makes a finding. A loss of last year is told by [`Losses`], for ever, but a gateway that
//! works is called so.

use tidegate_domain::Ledger;
use tidegate_domain::outcome::reason;

use crate::certificates;
use crate::format::{absolute, counted, duration, relative, whole};
use crate::view::{
    DeployState, FilterState, GatewayState, ModuleOrigin, ModuleState, Readiness, Snapshot,
    SourceState, StoreState, UplinkState,
};

/// A snapshot older than this is not what the gateway looks like now. It is taken once a second.
const STALE_MILLIS: i64 = 10_000;

/// How things are; the order is that of gravity. Each has a colour and a shape of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As configured.
    Good,
    /// Nothing is wrong and nothing happens: not begun, not configured.
    #[default]
    Idle,
    /// Needs attention; the gateway copes.
    Warn,
    /// Data does not get through, or cannot be trusted.
    Bad,
}

impl Level {
    /// The class of the stylesheet, and the shape's name.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Idle => "idle",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What, without figures that tick: a screen reader is told when it changes.
    pub(crate) what: String,
    /// Since when, how much, why.
    pub(crate) detail: String,
    /// What to do next.
    pub(crate) hint: String,
    /// The part of the page that shows it.
    pub(crate) anchor: String,
}

/// The first line of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) headline: String,
    /// One more sentence where nothing is wrong.
    pub(crate) remark: String,
    /// Gravest first.
    pub(crate) findings: Vec<Finding>,
}

/// What was ever lost, as far as the ledger counts back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Each a phrase: `312 items given up unsent by uplink cloud`.
    pub(crate) lost: Vec<String>,
    /// Each a phrase: `4 items refused by uplink cloud, kept`. Not lost: still on the device.
    pub(crate) kept: Vec<String>,
}

/// Judges a snapshot at `now`, milliseconds since the epoch.
pub(crate) fn judge(
    snapshot: &Snapshot,
    ledger: &Ledger,
    ready: &Readiness,
    healthy: &Result<(), String>,
    now: i64,
) -> Verdict {
    let mut findings = Vec::new();
    if let Err(reason) = healthy {
        findings.push(Finding {
            level: Level::Bad,
            what: "The gateway has stopped working".to_owned(),
            detail: sentence(reason),
            hint: "Its supervisor should restart it; the log says what happened.".to_owned(),
            anchor: "#gateway".to_owned(),
        });
    }
    findings.extend(store(snapshot));
    findings.extend(balance(ledger));
    findings.extend(recount(snapshot));
    findings.extend(stale(snapshot, now));
    findings.extend(filters(snapshot));
    findings.extend(decoders(snapshot));
    findings.extend(rollouts(snapshot));
    findings.extend(sources(snapshot, now));
    findings.extend(slaves(snapshot));
    findings.extend(uplinks(snapshot, now));
    findings.extend(failovers(snapshot));
    findings.extend(certificates::findings(snapshot, now));
    findings.extend(modules(snapshot));
    findings.extend(unsigned(snapshot));
    findings.extend(deploy(snapshot));
    findings.extend(audit(snapshot));
    let found = !findings.is_empty();
    findings.extend(gateway(snapshot, ready, found));
    // Stable: within a level the order above stays, which is that of the damage done.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));

    let Some(worst) = findings.first() else {
        return calm(snapshot);
    };
    let headline = match findings.len() {
        1 => worst.what.clone(),
        2 => format!("{}, and one more finding", worst.what),
        many => format!("{}, and {} more findings", worst.what, many - 1),
    };
    Verdict {
        level: worst.level,
        headline,
        remark: String::new(),
        findings,
    }
}

/// What the ledger says was lost or is set aside.
pub(crate) fn losses(ledger: &Ledger) -> Losses {
    let mut losses = Losses::default();
    for (name, counts) in &ledger.sources {
        // A duplicate is no loss: its first copy was taken.
        let lost = |(reason, count): &(&String, &u64)| **count > 0 && *reason != reason::DUPLICATE;
        for (reason, count) in counts.dropped.iter().filter(lost) {
            let messages = counted(*count, "message", "messages");
            losses
                .lost
                .push(format!("{messages} dropped by source {name} ({reason})"));
        }
    }
    for (name, counts) in &ledger.pipelines {
        for (reason, count) in counts.dropped.iter().filter(|(_, count)| **count > 0) {
            let readings = counted(*count, "reading", "readings");
            losses
                .lost
                .push(format!("{readings} dropped by pipeline {name} ({reason})"));
        }
    }
    let quarantine = ledger
        .sources
        .iter()
        .map(|(name, counts)| ("source", name, &counts.quarantine, ["message", "messages"]))
        .chain(ledger.pipelines.iter().map(|(name, counts)| {
            (
                "pipeline",
                name,
                &counts.quarantine,
                ["reading", "readings"],
            )
        }));
    for (kind, name, counts, [one, many]) in quarantine {
        if counts.evicted > 0 {
            let what = counted(counts.evicted, one, many);
            losses.lost.push(format!(
                "{what} evicted from the quarantine of {kind} {name}"
            ));
        }
        if counts.held > 0 {
            let what = counted(counts.held, one, many);
            losses
                .kept
                .push(format!("{what} of {kind} {name} in quarantine"));
        }
    }
    for (name, counts) in &ledger.uplinks {
        if counts.evicted > 0 {
            let items = counted(counts.evicted, "item", "items");
            losses
                .lost
                .push(format!("{items} given up unsent by uplink {name}"));
        }
        if counts.rejected > 0 {
            let items = counted(counts.rejected, "item", "items");
            losses
                .kept
                .push(format!("{items} refused at the other end of uplink {name}"));
        }
    }
    losses
}

fn store(snapshot: &Snapshot) -> Option<Finding> {
    let store = &snapshot.store;
    let (what, hint) = match (store.state, store.acknowledges) {
        (StoreState::Healthy, _) => return None,
        (StoreState::Degraded, true) => (
            "The store has trouble writing",
            "Readings are still stored. Look at the disk before it gets worse.",
        ),
        (StoreState::Degraded, false) => (
            "Readings are not stored: the store cannot be used",
            "Nothing is acknowledged meanwhile, and it is tried again. Check the disk, its mount, and owner and permissions of the state directory.",
        ),
        (StoreState::ReadOnly, _) => (
            "Readings are not stored: the disk takes no writes",
            "Nothing is acknowledged meanwhile. The kernel's log says why it was mounted read-only; check owner and permissions of the state directory.",
        ),
        (StoreState::Full, _) => (
            "Readings are not stored: the disk is full",
            "Nothing is acknowledged meanwhile. Free space on the store's disk, or lower max-size in [store].",
        ),
        (StoreState::Corrupt, false) => (
            "Readings are not stored: the database is damaged",
            "Nothing is acknowledged meanwhile. It is set aside and a new one begun as soon as its directory can be written.",
        ),
        (StoreState::Corrupt, true) => (
            "The database was damaged and a new one begun",
            "Readings are stored. Run “tidegate doctor”: it says what was set aside and how to salvage it, and ends this message.",
        ),
    };
    Some(Finding {
        level: if store.acknowledges {
            Level::Warn
        } else {
            Level::Bad
        },
        what: what.to_owned(),
        detail: sentence(store.last_error.as_deref().unwrap_or(&store.path)),
        hint: hint.to_owned(),
        anchor: "#store".to_owned(),
    })
}

fn balance(ledger: &Ledger) -> Option<Finding> {
    let imbalances = ledger.imbalances();
    let first = imbalances.first()?;
    let more = match imbalances.len() {
        1 => String::new(),
        many => format!(" {} more equations do not hold.", many - 1),
    };
    Some(Finding {
        level: Level::Bad,
        what: "The ledger does not balance".to_owned(),
        detail: format!(
            "{}: {} not accounted for in {}.{more}",
            first.scope,
            counted(first.left.abs_diff(first.right), "row is", "rows are"),
            first.equation,
        ),
        hint: "Run “tidegate ledger --verify”: it recounts the rows themselves.".to_owned(),
        anchor: "#ledger".to_owned(),
    })
}

fn recount(snapshot: &Snapshot) -> Option<Finding> {
    let recount = snapshot.store.recount.as_ref()?;
    let (level, what, detail) = match (&recount.error, recount.differences) {
        (Some(error), _) => (
            Level::Warn,
            "The stored rows could not be counted again",
            sentence(error),
        ),
        (None, 0) => return None,
        (None, _) => (
            Level::Bad,
            "The ledger does not match the stored rows",
            sentence(&recount.named.join("; ")),
        ),
    };
    Some(Finding {
        level,
        what: what.to_owned(),
        detail,
        hint: "Nothing is repaired by itself. “tidegate ledger --verify” lists all of it, “tidegate doctor” looks at the files."
            .to_owned(),
        anchor: "#ledger".to_owned(),
    })
}

fn stale(snapshot: &Snapshot, now: i64) -> Option<Finding> {
    // A clock that was set back makes the snapshot young, never old.
    let age = now.saturating_sub(snapshot.time);
    (snapshot.time > 0 && age > STALE_MILLIS).then(|| Finding {
        level: Level::Bad,
        what: "The figures on this page stand still".to_owned(),
        detail: format!(
            "They are those of {}, {}.",
            absolute(snapshot.time),
            relative(snapshot.time, now)
        ),
        hint: "The page answers and the data path does not report: see the log.".to_owned(),
        anchor: "#gateway".to_owned(),
    })
}

fn filters(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let slots = snapshot
        .pipelines
        .iter()
        .enumerate()
        .flat_map(|(at, pipeline)| {
            pipeline
                .filters
                .iter()
                .map(move |filter| (at, pipeline, filter))
        });
    slots
        .filter(|(_, _, filter)| match filter.state {
            FilterState::Running => false,
            FilterState::Tripped => true,
        })
        .map(|(at, pipeline, filter)| Finding {
            level: Level::Warn,
            what: format!(
                "Filter {} of pipeline {} is switched off",
                filter.name, pipeline.name
            ),
            detail: format!(
                "{} {} failed too often. {}",
                filter.module,
                filter.version,
                sentence(filter.last_error.as_deref().unwrap_or_default())
            ),
            hint: "Its rows are treated as its “on-failure” says, until it is tried again."
                .to_owned(),
            anchor: format!("#pipeline-{at}"),
        })
}

fn decoders(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let sources = snapshot.sources.iter().enumerate();
    sources.filter_map(|(at, source)| {
        let decoder = source.decoder.as_ref()?;
        (decoder.state == FilterState::Tripped).then(|| Finding {
            level: Level::Warn,
            what: format!("The decoder of source {} is switched off", source.name),
            detail: format!(
                "{} {} failed too often. {}",
                decoder.module,
                decoder.version,
                sentence(decoder.last_error.as_deref().unwrap_or_default())
            ),
            hint: "Its messages go to quarantine, until it is tried again.".to_owned(),
            anchor: format!("#source-{at}"),
        })
    })
}

/// A generation that the configuration asks for and that is not what runs.
fn rollouts(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let pipelines = snapshot.pipelines.iter().enumerate();
    pipelines.filter_map(|(at, pipeline)| {
        let refused = pipeline.rollout.refused.as_ref()?;
        let decision = pipeline.rollout.decision.as_ref();
        let decision = decision.filter(|decision| decision.generation == *refused)?;
        Some(Finding {
            level: Level::Warn,
            what: format!("Pipeline {} runs another chain than configured", pipeline.name),
            detail: format!(
                "Generation {refused} was put back ({}). {}",
                decision.reason.as_deref().unwrap_or_default(),
                sentence(&decision.why)
            ),
            hint: "It is not tried again until a module or a setting of it changes: mend it, or take it out of the \
                   configuration."
                .to_owned(),
            anchor: format!("#pipeline-{at}"),
        })
    })
}

fn sources(snapshot: &Snapshot, now: i64) -> impl Iterator<Item = Finding> {
    snapshot
        .sources
        .iter()
        .enumerate()
        .filter(|(_, source)| match source.state {
            SourceState::Connecting | SourceState::Subscribed => false,
            SourceState::BackingOff => true,
        })
        .map(move |(at, source)| Finding {
            level: Level::Warn,
            what: format!("Source {} is not connected", source.name),
            detail: outage(
                source.since,
                source.last_error.as_deref(),
                source.backing_off_until,
                now,
            ),
            hint: if source.kind == "serial" || source.kind == "modbus-rtu" {
                format!("Check that {} is plugged in and may be opened.", source.url)
            } else {
                format!("Check that {} runs and can be reached.", source.url)
            },
            anchor: format!("#source-{at}"),
        })
}

/// Slaves that do not answer while their line is well.
fn slaves(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let sources = snapshot.sources.iter().enumerate();
    let lines = sources.filter(|(_, source)| source.state == SourceState::Subscribed);
    lines.flat_map(|(at, source)| {
        let silent = source.slaves.iter().filter(|slave| slave.answers == Some(false));
        silent.map(move |slave| Finding {
            level: Level::Warn,
            what: format!("Slave {} of source {} does not answer", slave.unit, source.name),
            detail: sentence(slave.last_error.as_deref().unwrap_or_default()),
            hint: "It is asked now and then, and the others as ever: check its power, its wires and its address.".to_owned(),
            anchor: format!("#source-{at}"),
        })
    })
}

fn uplinks(snapshot: &Snapshot, now: i64) -> impl Iterator<Item = Finding> {
    let hint = match snapshot.store.state {
        StoreState::Healthy | StoreState::Degraded => {
            "Readings are taken in and stored as ever; what waits is sent when the line is back."
        }
        StoreState::ReadOnly | StoreState::Full | StoreState::Corrupt => {
            "What waits is sent when the line is back."
        }
    };
    snapshot
        .uplinks
        .iter()
        .enumerate()
        .filter(|(_, uplink)| match uplink.state {
            UplinkState::Connecting | UplinkState::Connected => false,
            UplinkState::BackingOff => true,
        })
        .map(move |(at, uplink)| {
            let waiting = match (uplink.waiting, uplink.oldest_waiting_age_seconds) {
                (0, _) => "Nothing waits yet.".to_owned(),
                (items, None) => {
                    format!("{} on the device.", waits(items))
                }
                (items, Some(age)) => {
                    let age = duration(age);
                    format!("{} on the device, the oldest for {age}.", waits(items))
                }
            };
            Finding {
                level: Level::Warn,
                what: format!("Uplink {} is not connected", uplink.name),
                detail: format!(
                    "{} {waiting}",
                    outage(
                        uplink.since,
                        uplink.last_error.as_deref(),
                        uplink.backing_off_until,
                        now
                    ),
                ),
                hint: hint.to_owned(),
                anchor: format!("#uplink-{at}"),
            }
        })
}

/// Messages get through, but not where they should.
fn failovers(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let uplinks = snapshot.uplinks.iter().enumerate();
    let away =
        uplinks.filter(|(_, uplink)| uplink.failover && uplink.state == UplinkState::Connected);
    away.map(|(at, uplink)| Finding {
        level: Level::Warn,
        what: format!(
            "Uplink {} sends to another broker than its first",
            uplink.name
        ),
        detail: format!("{} has its turn.", uplink.url),
        hint:
            "Check the first broker: it is returned to some minutes after it can be reached again."
                .to_owned(),
        anchor: format!("#uplink-{at}"),
    })
}

fn modules(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    snapshot
        .modules
        .iter()
        .filter(|module| match module.state {
            ModuleState::Idle
            | ModuleState::Active
            | ModuleState::Candidate
            | ModuleState::Previous => false,
            // One of the channel is told of with the channel.
            ModuleState::Refused => module.origin != ModuleOrigin::Channel,
        })
        .map(|module| Finding {
            level: Level::Warn,
            what: format!("Module {} was refused", module.name),
            detail: format!("Version {} did not load.", module.version),
            hint: "The last errors say why; “tidegate module inspect” shows what it asks for."
                .to_owned(),
            anchor: "#modules".to_owned(),
        })
}

/// What decides about data and is nobody's.
fn unsigned(snapshot: &Snapshot) -> Option<Finding> {
    let running = snapshot.modules.iter().filter(|module| {
        let runs = matches!(module.state, ModuleState::Active | ModuleState::Candidate);
        runs && module.origin == ModuleOrigin::Local
    });
    let running: Vec<String> = running
        .map(|module| format!("{} {}", module.name, module.version))
        .collect();
    (!running.is_empty()).then(|| Finding {
        level: Level::Bad,
        what: "Modules run that nobody signed whom this site trusts".to_owned(),
        detail: format!("{}.", running.join(", ")),
        hint: "Sign them by “tidegate repo sign”, name the key in modules.trusted-keys and set modules.allow-unsigned = false."
            .to_owned(),
        anchor: "#modules".to_owned(),
    })
}

/// That nothing new comes in. What runs is untouched by any of it.
fn deploy(snapshot: &Snapshot) -> Option<Finding> {
    let deploy = snapshot.deploy.as_ref()?;
    let what = match deploy.state {
        DeployState::Waiting | DeployState::Current => return None,
        DeployState::Expiring => "Modules over the air will stop within a week",
        DeployState::Expired => "Modules over the air have stopped: the repository has expired",
        DeployState::Unreachable => "The repository of modules does not answer",
        DeployState::Refused => "The repository of modules was refused",
    };
    let (detail, hint) = match (&deploy.error, &deploy.expires) {
        (Some(error), _) => (
            format!("{}: {}.", error.file, error.reason),
            sentence(&error.help),
        ),
        (None, Some(expires)) => (
            format!(
                "metadata/{}.json expires on {}.",
                expires.role,
                absolute(expires.time)
            ),
            "The publisher has to sign and publish it anew. What runs goes on running.".to_owned(),
        ),
        (None, None) => (String::new(), String::new()),
    };
    Some(Finding {
        level: Level::Warn,
        what: what.to_owned(),
        detail,
        hint,
        anchor: "#deploy".to_owned(),
    })
}

/// That what happens cannot be proven later.
fn audit(snapshot: &Snapshot) -> Vec<Finding> {
    let Some(audit) = &snapshot.audit else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut warn = |what: &str, detail: String, hint: &str| {
        findings.push(Finding {
            level: Level::Warn,
            what: what.to_owned(),
            detail,
            hint: hint.to_owned(),
            anchor: "#audit".to_owned(),
        });
    };
    if let Some(error) = &audit.error {
        warn(
            "The audit log cannot be written",
            format!(
                "{} {} of entries wait.",
                sentence(error),
                whole(audit.waiting)
            ),
            "Data goes on. What somebody asks for is refused until the disk is well.",
        );
    }
    if audit.lost > 0 {
        warn(
            "Entries of the audit log were lost",
            format!("{} could not wait any longer.", whole(audit.lost)),
            "The log itself says how many. Find out why it could not be written.",
        );
    }
    if let Some(broken) = &audit.broken {
        warn(
            "The audit log did not hold at the start",
            sentence(broken),
            "It was set aside in the state directory, and a new one goes on. Find out who wrote there.",
        );
    }
    findings
}

fn gateway(snapshot: &Snapshot, ready: &Readiness, found: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !ready.ready {
        let reasons: Vec<String> = ready.reasons.iter().map(|r| sentence(r)).collect();
        findings.push(Finding {
            level: Level::Warn,
            what: "The gateway is not ready".to_owned(),
            detail: reasons.join(" "),
            hint: String::new(),
            anchor: "#gateway".to_owned(),
        });
    }
    if !snapshot.gateway.clock_synced && snapshot.time > 0 {
        findings.push(Finding {
            level: Level::Warn,
            what: "The clock is not set".to_owned(),
            detail: format!(
                "It says {}. Times are corrected once it is set.",
                absolute(snapshot.time)
            ),
            hint: "Check that a time server can be reached.".to_owned(),
            anchor: "#gateway".to_owned(),
        });
    }
    match snapshot.gateway.state {
        GatewayState::Online => {}
        GatewayState::Degraded if found || !findings.is_empty() => {}
        // The state sums up the other parts; alone it says that something they do not show is wrong.
        GatewayState::Degraded => findings.push(Finding {
            level: Level::Warn,
            what: "The gateway is degraded".to_owned(),
            detail: "Something does not work as configured.".to_owned(),
            hint: "The last errors may say more.".to_owned(),
            anchor: "#errors".to_owned(),
        }),
    }
    findings
}

/// The verdict when nothing is wrong.
fn calm(snapshot: &Snapshot) -> Verdict {
    let verdict = |level, headline: &str, remark: String| Verdict {
        level,
        headline: headline.to_owned(),
        remark,
        findings: Vec::new(),
    };
    let subscribed = snapshot.sources.iter().any(|source| match source.state {
        SourceState::Subscribed => true,
        SourceState::Connecting | SourceState::BackingOff => false,
    });
    let received: u64 = snapshot.sources.iter().map(|source| source.received).sum();
    let rate: f64 = snapshot.sources.iter().map(|source| source.rate).sum();
    let silence = snapshot
        .sources
        .iter()
        .filter_map(|source| source.last_message_age_seconds)
        .min_by(f64::total_cmp);
    if snapshot.sources.is_empty() {
        let remark = "Add a [source.NAME] to the configuration, then reload it.";
        verdict(Level::Idle, "No source is configured", remark.to_owned())
    } else if !subscribed {
        verdict(Level::Idle, "Connecting to the sources", String::new())
    } else if received == 0 {
        let remark = "The sources are subscribed; nothing has been published yet.";
        verdict(
            Level::Idle,
            "Ready, and waiting for the first message",
            remark.to_owned(),
        )
    } else if rate <= 0.0 {
        let remark = silence.map_or_else(String::new, |age| {
            format!("The last message came {} ago.", duration(age))
        });
        verdict(
            Level::Good,
            "Everything is in order, and the sources are silent",
            remark,
        )
    } else {
        verdict(Level::Good, "Everything is flowing", String::new())
    }
}

/// `For 3 min 4 s: connection refused. Next attempt in 12 s.`
fn outage(since: i64, error: Option<&str>, next: Option<i64>, now: i64) -> String {
    let lasted = whole(now.saturating_sub(since).max(0).unsigned_abs() / 1000);
    let error = error.map_or_else(|| ".".to_owned(), |e| format!(": {}", sentence(e)));
    let next = match next {
        Some(next) if next > now => format!(" Next attempt {}.", relative(next, now)),
        Some(_) => " The next attempt is due.".to_owned(),
        None => String::new(),
    };
    format!("For {lasted}{error}{next}")
}

fn waits(items: u64) -> String {
    let verb = if items == 1 { "waits" } else { "wait" };
    format!("{} {verb}", counted(items, "item", "items"))
}

/// The text with a full stop, unless it is empty or ends with one.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}
