//! The acts that are recorded, each with what it names: one function a kind, called where it happens.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tidegate_audit::{Action, Actor, Entry, Outcome, object};
use tidegate_deploy::Refusal;
use tidegate_domain::command::Name;
use tidegate_domain::quarantine;
use tidegate_domain::rollout::{Chain, Change, SlotSpec};
use tidegate_domain::signature::PublicKey;
use tidegate_pipeline::{BusRefusal, LoadedModule, Origin};
use tidegate_status::{Caller, Client, Refusals, view};
use tidegate_store::{CommandInput, Todo};
use tidegate_tls::date;

use super::{Audit, entry};
use crate::config::{Config, From as SetBy};
use crate::identity;
use crate::supervise;

/// The kernel's word for a user that never logged in.
const NOBODY: u32 = u32::MAX;

/// The daemon has started.
pub(crate) fn started(audit: &Audit) {
    audit.tell(Entry {
        object: object([
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("pid", json!(std::process::id())),
        ]),
        ..entry(Actor::Daemon, Action::DaemonStarted)
    });
}

/// The daemon ends.
pub(crate) fn stopped(audit: &Audit, ended: &Result<u8, supervise::Error>) {
    let (outcome, reason) = match ended {
        Ok(0) => (Outcome::Done, "a signal asked for it".to_owned()),
        Ok(_) => (
            Outcome::Failed,
            "a second signal ended it before it had drained".to_owned(),
        ),
        Err(supervise::Error::Unusable(error) | supervise::Error::Failed(error)) => {
            (Outcome::Failed, format!("{error:#}"))
        }
    };
    audit.close(Entry {
        outcome,
        reason,
        ..entry(Actor::Daemon, Action::DaemonStopped)
    });
}

/// A configuration is about to be in force.
pub(crate) fn in_force(audit: &Audit, config: &Config) {
    let (mut files, mut variables) = (BTreeSet::new(), BTreeSet::new());
    let mut hash = Sha256::new();
    for setting in &config.origins {
        hash.update(format!("{} = {}\n", setting.key, setting.value));
        match &setting.from {
            SetBy::File(file, _) => {
                files.insert(file);
            }
            SetBy::Environment(name) => {
                variables.insert(name);
            }
            SetBy::Default => {}
        }
    }
    let hash = hash.finalize();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let recorded = audit.record(Entry {
        object: object([
            ("digest", json!(format!("sha256:{hash}"))),
            ("values", json!(config.origins.len())),
            ("files", json!(files)),
            ("variables", json!(variables)),
            ("allow-unsigned", json!(config.modules.allow_unsigned)),
            ("grants", json!(config.policy.grants)),
        ]),
        ..entry(Actor::Config, Action::ConfigInForce)
    });
    if let Err(error) = recorded {
        tracing::error!("the configuration in force is not on record yet: {error}");
    }
}

/// A configuration was not taken.
pub(crate) fn not_in_force(audit: &Audit, error: &anyhow::Error) {
    audit.tell(Entry {
        outcome: Outcome::Refused,
        reason: format!("{error:#}"),
        ..entry(Actor::Config, Action::ConfigRefused)
    });
}

/// A module from a local file is loaded, by whose word: that of a key counts for as long as the site trusts it.
pub(crate) fn local(audit: &Audit, module: &LoadedModule, trusted: &[PublicKey]) {
    let (action, key, reason) = match &module.origin {
        Origin::Factory | Origin::Channel => return,
        Origin::Signed(key) if !trusted.contains(key) => (
            Action::ModuleUnsigned,
            Some(key.to_string()),
            "`modules.allow-unsigned` lets it run, for the key that signed it is not in `modules.trusted-keys` any more",
        ),
        Origin::Signed(key) => (
            Action::ModuleSigned,
            Some(key.to_string()),
            "a key in `modules.trusted-keys` signed it",
        ),
        Origin::Local => (
            Action::ModuleUnsigned,
            None,
            "`modules.allow-unsigned` lets a local file run that nobody signed",
        ),
    };
    audit.tell(Entry {
        object: object([
            ("module", json!(module.manifest.name)),
            ("version", json!(module.manifest.version)),
            ("digest", json!(module.inspection.digest.as_str())),
            ("signed-by", json!(key)),
        ]),
        reason: reason.to_owned(),
        ..entry(Actor::Config, action)
    });
}

/// The first generation of a pipeline, which nothing was before.
pub(crate) fn first(audit: &Audit, pipeline: &str, chain: &Chain) {
    record(
        audit,
        Entry {
            object: about(pipeline, chain),
            reason: "the pipeline is new".to_owned(),
            ..entry(Actor::Config, Action::GenerationActive)
        },
    );
    grants(audit, pipeline, chain, &Chain::default());
}

/// A step of a rollout, before it is in the store.
pub(crate) fn generation(audit: &Audit, change: &Change) {
    let Some(note) = &change.note else { return };
    let record_of = &change.record;
    let nothing = Chain::default();
    let refused = record_of.refused.as_ref().map(|refused| &refused.chain);
    let trial = record_of.trial.as_ref().map(|trial| &trial.candidate);
    let last_good = record_of.last_good.as_ref();
    let active = &record_of.active;
    // What the step is about, and whose grants are other ones from now on than before.
    let (action, outcome, chain, compared) = match note.code {
        "rollout-started" => {
            let candidate = trial.unwrap_or(&nothing);
            (
                Action::GenerationTrial,
                Outcome::Done,
                candidate,
                Some((candidate, active)),
            )
        }
        "rollout-promoted" => {
            let before = last_good.unwrap_or(&nothing);
            (
                Action::GenerationActive,
                Outcome::Done,
                active,
                Some((active, before)),
            )
        }
        "rollout-rolled-back" => {
            let gone = refused.unwrap_or(&nothing);
            (Action::GenerationRolledBack, Outcome::Done, gone, None)
        }
        // A code that is not known yet is recorded all the same.
        _ => {
            let gone = refused.unwrap_or(&nothing);
            (Action::GenerationRefused, Outcome::Refused, gone, None)
        }
    };
    let mut object = about(&change.pipeline, chain);
    object.insert("active".to_owned(), json!(active.id));
    if let Some(code) = note.data.get("reason").filter(|code| !code.is_null()) {
        object.insert("code".to_owned(), code.clone());
    }
    if chain.id.is_empty()
        && let Some(generation) = note.data.get("generation")
    {
        object.insert("generation".to_owned(), generation.clone());
    }
    record(
        audit,
        Entry {
            object,
            outcome,
            reason: note.text.clone(),
            ..entry(Actor::Rollout, action)
        },
    );
    if let Some((after, before)) = compared {
        grants(audit, &change.pipeline, after, before);
    }
}

fn about(pipeline: &str, chain: &Chain) -> Map<String, Value> {
    let modules = chain.slots.iter();
    let modules: Vec<Value> = modules
        .map(|slot| {
            json!({
                "filter": slot.filter,
                "module": slot.module,
                "version": slot.version,
                "digest": slot.digest,
            })
        })
        .collect();
    object([
        ("pipeline", json!(pipeline)),
        ("generation", json!(chain.id)),
        ("modules", json!(modules)),
    ])
}

/// What the slots of a chain are granted otherwise than those of the one before.
fn grants(audit: &Audit, pipeline: &str, after: &Chain, before: &Chain) {
    let nothing = SlotSpec::default();
    let of = |chain: &Chain, filter: &str| {
        let slot = chain.slots.iter().find(|slot| slot.filter == filter);
        let slot = slot.unwrap_or(&nothing);
        (slot.grants.clone(), slot.secrets.clone())
    };
    let slots = after.slots.iter();
    let changed: Vec<Value> = slots
        .filter_map(|slot| {
            let (old, new) = (of(before, &slot.filter), of(after, &slot.filter));
            (old != new).then(|| {
                json!({
                    "filter": slot.filter,
                    "module": slot.module,
                    "version": slot.version,
                    "before": old.0,
                    "after": new.0,
                    "secrets-before": old.1,
                    "secrets-after": new.1,
                })
            })
        })
        .collect();
    if changed.is_empty() {
        return;
    }
    record(
        audit,
        Entry {
            object: object([
                ("pipeline", json!(pipeline)),
                ("generation", json!(after.id)),
                ("slots", json!(changed)),
            ]),
            ..entry(Actor::Rollout, Action::GrantsChanged)
        },
    );
}

/// What the gateway does by itself is done even where it cannot be recorded at once.
fn record(audit: &Audit, entry: Entry) {
    if let Err(error) = audit.record(entry) {
        tracing::error!("a generation changes that is not on record yet: {error}");
    }
}

/// Something new of a channel was verified, and is here.
pub(crate) fn fetched(audit: &Audit, status: &view::DeployStatus, epoch: u64) {
    let modules: Vec<Value> = status
        .modules
        .iter()
        .map(|module| json!([module.name, module.version, module.digest]))
        .collect();
    let recorded = audit.record(Entry {
        object: object([
            ("repository", json!(status.repository)),
            ("channel", json!(status.channel)),
            ("epoch", json!(epoch)),
            ("publication", json!(status.publication)),
            ("modules", json!(modules)),
        ]),
        ..entry(Actor::Deploy, Action::DeployFetched)
    });
    if let Err(error) = recorded {
        tracing::error!("what was fetched is not on record yet: {error}");
    }
}

/// A step of an epoch's installation: it is on record before the step is the last word of anything.
pub(crate) fn epoch(audit: &Audit, action: Action, about: &Value, why: &str) {
    let outcome = if matches!(action, Action::EpochRefused | Action::EpochPutBack) {
        Outcome::Refused
    } else if action == Action::EpochDelayed {
        Outcome::Failed
    } else {
        Outcome::Done
    };
    record(
        audit,
        Entry {
            object: about.as_object().cloned().unwrap_or_default(),
            outcome,
            reason: why.to_owned(),
            ..entry(Actor::Deploy, action)
        },
    );
}

/// Nothing was taken from a repository.
pub(crate) fn not_taken(audit: &Audit, status: &view::DeployStatus, refusal: &Refusal) {
    audit.tell(Entry {
        object: object([
            ("repository", json!(status.repository)),
            ("channel", json!(status.channel)),
            ("file", json!(refusal.file)),
        ]),
        outcome: match status.state {
            view::DeployState::Unreachable => Outcome::Failed,
            view::DeployState::Waiting
            | view::DeployState::Current
            | view::DeployState::Expiring
            | view::DeployState::Expired
            | view::DeployState::Refused => Outcome::Refused,
        },
        reason: refusal.reason.clone(),
        ..entry(Actor::Deploy, Action::DeployRefused)
    });
}

/// The gateway's certificate is another one than before, whoever put it there.
pub(crate) fn certificate(state_dir: &Path, digest: Option<&str>) -> Entry {
    let identity = identity::files(state_dir);
    let found = digest.map(|_| tidegate_tls::check_identity(&identity));
    let (outcome, reason, first) = match found {
        None => (Outcome::Done, "it was taken away".to_owned(), None),
        Some(Ok(found)) => (Outcome::Done, String::new(), found.into_iter().next()),
        Some(Err(error)) => (Outcome::Failed, error.to_string(), None),
    };
    Entry {
        object: object([
            ("file", json!(digest)),
            ("subject", json!(first.as_ref().map(|found| &found.subject))),
            (
                "until",
                json!(first.as_ref().map(|found| date(found.not_after))),
            ),
        ]),
        outcome,
        reason,
        ..entry(Actor::Config, Action::IdentityCertificate)
    }
}

/// What somebody asks for over the control socket.
pub(crate) fn operator(by: Caller, action: Action, about: Value) -> Entry {
    // Every caller says what it is about by names.
    let mut object = about.as_object().cloned().unwrap_or_default();
    object.retain(|_, value| !value.is_null());
    Entry {
        object,
        outcome: Outcome::Asked,
        ..entry(caller(by), action)
    }
}

/// The record of an order about quarantine.
pub(crate) fn quarantine(action: quarantine::Action) -> Action {
    match action {
        quarantine::Action::Replay => Action::QuarantineReplay,
        quarantine::Action::Drop => Action::QuarantineDrop,
    }
}

fn caller(by: Caller) -> Actor {
    // Who logged in, whoever they became since. The process may be gone, or this kernel not tell.
    let login = by
        .pid
        .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok())
        .and_then(|text| text.trim().parse().ok())
        .filter(|login| *login != NOBODY);
    Actor::Operator {
        uid: by.uid,
        pid: by.pid,
        login,
    }
}

/// A command from the cloud, judged.
pub(crate) fn command(uplink: &str, input: &CommandInput) -> Entry {
    let command = input.name.map(Name::as_str);
    let done = |about| (Outcome::Done, String::new(), about);
    let (outcome, reason, about) = match &input.todo {
        Todo::Refuse(why) => (Outcome::Refused, why.clone(), Value::Null),
        Todo::Answer { data, .. } => {
            let told = match input.name {
                Some(Name::Rollback) => data.clone(),
                Some(
                    Name::Detail | Name::Backfill | Name::Report | Name::Acknowledge | Name::Update,
                )
                | None => Value::Null,
            };
            done(told)
        }
        Todo::Detail {
            series,
            pipeline,
            lasts,
        } => done(json!({ "series": series, "pipeline": pipeline, "seconds": lasts.as_secs() })),
        Todo::Backfill {
            series,
            pipeline,
            from,
            to,
            limit,
        } => done(json!({
            "series": series,
            "pipeline": pipeline,
            "from": from,
            "to": to,
            "limit": limit,
        })),
        Todo::Acknowledge { selection, by } => done(json!({
            "by": by,
            "pipeline": selection.pipeline,
            "source": selection.source,
            "code": selection.code,
        })),
    };
    Entry {
        object: object([("command", json!(command)), ("about", about)]),
        outcome,
        reason,
        ..entry(
            Actor::Cloud {
                uplink: uplink.to_owned(),
                id: input.id.clone(),
            },
            Action::Command,
        )
    }
}

/// A driver reached for what its source does not hand it.
pub(crate) fn bus(audit: &Audit, source: &str, module: &str, refusal: &BusRefusal) {
    audit.tell(Entry {
        object: object([
            ("source", json!(source)),
            ("module", json!(module)),
            ("bus", json!(refusal.bus)),
            ("name", json!(refusal.name)),
            ("wanted", json!(refusal.wanted)),
        ]),
        outcome: Outcome::Refused,
        reason: "the source does not hand it in".to_owned(),
        ..entry(Actor::Daemon, Action::DriverRefused)
    });
}

/// Records requests that page and control socket refuse.
pub(crate) fn refusals(audit: &Audit) -> Refusals {
    let audit = audit.clone();
    Arc::new(move |request| {
        let actor = match request.client {
            Client::Page(address) => Actor::Page { address },
            Client::Control(by) => caller(by),
        };
        audit.tell(Entry {
            object: object([
                ("method", json!(request.method)),
                ("path", json!(request.path)),
                ("status", json!(request.status)),
            ]),
            outcome: Outcome::Refused,
            ..entry(actor, Action::RequestRefused)
        });
    })
}
