//! What an operator orders over the control socket: checked against what is there and what is configured, made durable
//! by the writer, written to the log.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_audit::{Action as Act, Entry};
use tidegate_domain::alarm;
use tidegate_domain::quarantine::{Action, ORDERS, Selection};
use tidegate_pipeline::Digest;
use tidegate_status::{Actions, Answer, Caller, Refused, TryRequest};
use tidegate_store::{AcknowledgeAlarms, Matching, Orders, ReadError, Reader};
use tokio::sync::mpsc;

use crate::audit::{self, Audit};
use crate::clock;
use crate::deploy;
use crate::identity;
use crate::replay::{Owner, owner_of};
use crate::rollouts::Rollouts;
use crate::tryout;
use crate::writer::ToWriter;

/// How long an order may take to become durable. The store commits within its linger, unless it is in trouble.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gateway's side of the actions.
pub(crate) struct Operator {
    pub(crate) reader: Arc<Mutex<Reader>>,
    /// What can be replayed.
    pub(crate) sources: HashMap<String, Owner>,
    /// Likewise.
    pub(crate) pipelines: HashMap<String, Owner>,
    pub(crate) inbox: mpsc::Sender<ToWriter>,
    pub(crate) rollouts: Arc<Rollouts>,
    /// `None` where `[deploy]` is not configured.
    pub(crate) deploy: Option<deploy::Handle>,
    pub(crate) audit: Audit,
}

impl Actions for Operator {
    fn quarantine(&self, by: Caller, action: Action, selection: Selection) -> Answer<'_> {
        let entry = audit::operator(by, audit::quarantine(action), json!(selection));
        Box::pin(self.recorded(entry, self.order(action, selection)))
    }

    fn acknowledge(&self, by: Caller, request: alarm::Request) -> Answer<'_> {
        let entry = audit::operator(by, Act::AlarmAcknowledge, json!(request));
        Box::pin(self.recorded(entry, self.acknowledge_alarms(request)))
    }

    fn roll_back(&self, by: Caller, module: String) -> Answer<'_> {
        let about = json!({ "module": module });
        let entry = audit::operator(by, Act::ModuleRollBack, about);
        Box::pin(self.recorded(entry, self.roll_back_module(module)))
    }

    fn install(&self, by: Caller, certificate: String) -> Answer<'_> {
        let digest = identity::digest(certificate.as_bytes());
        let about = json!({ "file": digest });
        let entry = audit::operator(by, Act::IdentityCertificate, about);
        Box::pin(self.recorded(entry, self.install_certificate(certificate)))
    }

    fn update(&self, by: Caller, from: Option<PathBuf>) -> Answer<'_> {
        let entry = audit::operator(by, Act::ModuleUpdate, json!({ "from": from }));
        Box::pin(self.recorded(entry, self.update_modules(from)))
    }

    fn try_out(&self, by: Caller, request: TryRequest) -> Answer<'_, mpsc::Receiver<Value>> {
        let about = json!({
            "pipeline": request.pipeline,
            "filter": request.filter,
            "module": request.manifest["name"],
            "version": request.manifest["version"],
            "digest": Digest::of(&request.component).as_str(),
        });
        let entry = audit::operator(by, Act::ModuleTry, about);
        Box::pin(self.recorded(entry, async { tryout::begin(&self.rollouts, request) }))
    }
}

/// Records what somebody asks for, does it, and records what came of it.
pub(crate) async fn recorded<T>(
    audit: &Audit,
    asked: Entry,
    act: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    let mut pending = Pending {
        audit,
        asked: Some(asked.clone()),
        number: None,
    };
    let required = audit.require(asked.clone()).await;
    let number = match required {
        Ok(number) => number,
        Err(refused) => {
            pending.asked = None;
            return Err(refused);
        }
    };
    pending.number = Some(number);
    let came = act.await;
    pending.asked = None;
    audit.answer(asked, number, &came);
    came
}

impl Operator {
    async fn recorded<T>(
        &self,
        asked: Entry,
        act: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Refused> {
        recorded(&self.audit, asked, act).await
    }

    async fn roll_back_module(&self, module: String) -> Result<Value, Refused> {
        let (rollouts, wanted) = (Arc::clone(&self.rollouts), module.clone());
        let pipelines =
            tokio::task::spawn_blocking(move || rollouts.roll_back(&wanted, "an operator"))
                .await
                .map_err(|error| Refused::Unavailable(error.to_string()))??;
        Ok(json!({ "module": module, "pipelines": pipelines }))
    }

    async fn install_certificate(&self, certificate: String) -> Result<Value, Refused> {
        let audit = self.audit.clone();
        let install = move || {
            let pem = certificate.as_bytes();
            let expected = || audit.expect_certificate(identity::digest(pem));
            identity::install(audit.state_dir(), pem, expected)
        };
        let installed = tokio::task::spawn_blocking(install).await;
        let installed = installed.map_err(|error| Refused::Unavailable(error.to_string()))?;
        let found = installed.map_err(|error| Refused::Request(format!("{error:#}")))?;
        Ok(json!({
            "subject": found.subject,
            "not_before": found.not_before * 1000,
            "not_after": found.not_after * 1000,
        }))
    }

    async fn update_modules(&self, from: Option<PathBuf>) -> Result<Value, Refused> {
        let Some(deploy) = &self.deploy else {
            let why = "no repository is configured: write a section [deploy], which also says which root is trusted";
            return Err(Refused::Missing(why.to_owned()));
        };
        deploy.look(from).await
    }

    async fn order(&self, action: Action, selection: Selection) -> Result<Value, Refused> {
        let (reader, wanted) = (Arc::clone(&self.reader), selection.clone());
        let found = tokio::task::spawn_blocking(move || look_up(&reader, &wanted))
            .await
            .map_err(|error| Refused::Unavailable(error.to_string()))?;
        let found = found.map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an order about quarantine"
            );
            Refused::Unavailable(format!("{error}; the log says why"))
        })?;
        if found.orders >= ORDERS {
            return Err(Refused::Unavailable(format!(
                "{ORDERS} orders are under way; wait until one is through"
            )));
        }
        let chosen = self.judge(action, &selection, found)?;
        let (reply, number) = std::sync::mpsc::sync_channel(1);
        let order = Orders::New {
            action,
            selection: selection.clone(),
            reply,
        };
        self.inbox
            .send(ToWriter::Input(order.into()))
            .await
            .map_err(|_| Refused::Unavailable("the gateway is ending".to_owned()))?;
        let number = tokio::task::spawn_blocking(move || number.recv_timeout(PATIENCE))
            .await
            .map_err(|error| Refused::Unavailable(error.to_string()))?
            .map_err(|_| {
                Refused::Unavailable(format!(
                    "the store did not commit the order within {} s; `tidegate quarantine list` shows whether it did later",
                    PATIENCE.as_secs()
                ))
            })?;
        tracing::info!(
            order = number,
            rows = chosen.rows,
            "ordered: {} {selection}",
            action.as_str()
        );
        Ok(json!({
            "order": number,
            "action": action,
            "rows": chosen.rows,
            "refused": chosen.refused,
        }))
    }

    async fn acknowledge_alarms(&self, request: alarm::Request) -> Result<Value, Refused> {
        let selection = request.selection().map_err(Refused::Request)?;
        let (reply, done) = std::sync::mpsc::sync_channel(1);
        let input = AcknowledgeAlarms {
            selection,
            by: request.by.clone(),
            at: clock::wall(),
            reply,
        };
        self.inbox
            .send(ToWriter::Input(input.into()))
            .await
            .map_err(|_| Refused::Unavailable("the gateway is ending".to_owned()))?;
        let done = tokio::task::spawn_blocking(move || done.recv_timeout(PATIENCE))
            .await
            .map_err(|error| Refused::Unavailable(error.to_string()))?
            .map_err(|_| {
                Refused::Unavailable(format!(
                    "the store did not commit it within {} s; `tidegate alarm list` shows whether it did later",
                    PATIENCE.as_secs()
                ))
            })?;
        let alarm::Request { series, by, .. } = &request;
        tracing::info!(series, by, done, "alarms acknowledged");
        if done == 0 {
            return Err(Refused::Missing(
                "no alarm that is raised and not acknowledged is meant by it; `tidegate alarm list` shows those there are"
                    .to_owned(),
            ));
        }
        Ok(json!({ "acknowledged": done }))
    }

    /// What of the chosen rows can be done as ordered. Rows that were named one by one must all be.
    fn judge(
        &self,
        action: Action,
        selection: &Selection,
        found: Found,
    ) -> Result<Chosen, Refused> {
        let mut chosen = Chosen::default();
        for rows in &found.rows {
            match self.replayable(rows) {
                Err(why) if action == Action::Replay => {
                    *chosen.refused.entry(why).or_default() += rows.rows;
                }
                Ok(()) | Err(_) => chosen.rows += rows.rows,
            }
        }
        let named = selection.ids.len() as u64;
        let refused: u64 = chosen.refused.values().sum();
        let missing = named.saturating_sub(chosen.rows + refused);
        if named > 0 && missing > 0 {
            return Err(Refused::Missing(format!(
                "{missing} of {named} rows are not in quarantine; `tidegate quarantine list` shows those that are"
            )));
        }
        if chosen.rows == 0 || (named > 0 && refused > 0) {
            let why: Vec<String> = chosen
                .refused
                .iter()
                .map(|(why, rows)| format!("{rows} of them: {why}"))
                .collect();
            return Err(if why.is_empty() {
                Refused::Missing(format!("quarantine holds no such rows ({selection})"))
            } else {
                Refused::Request(format!("not replayed: {}", why.join("; ")))
            });
        }
        Ok(chosen)
    }

    fn replayable(&self, rows: &Matching) -> Result<(), String> {
        if rows.cut {
            return Err(
                "the payload was longer than what quarantine keeps, and its end is gone: drop the rows"
                    .to_owned(),
            );
        }
        match (&rows.source, &rows.pipeline) {
            (Some(source), _) => owner_of(&self.sources, "source", source).map(drop),
            (None, Some(pipeline)) => owner_of(&self.pipelines, "pipeline", pipeline).map(drop),
            (None, None) => Err("it belongs to nobody".to_owned()),
        }
    }
}

/// An act that is under way. Whoever asked may hang up before its end, which is on record as well.
struct Pending<'a> {
    audit: &'a Audit,
    asked: Option<Entry>,
    /// Of the entry that says what was asked for, once it is known: then the act has begun.
    number: Option<u64>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let reason = match self.number {
            Some(_) => "whoever asked hung up before the answer; it may have been done",
            None => "whoever asked hung up before it was begun; nothing was done",
        };
        self.audit.hung_up(asked, self.number, reason);
    }
}

/// What the store has of a selection.
struct Found {
    rows: Vec<Matching>,
    orders: usize,
}

/// What of it can be done.
#[derive(Debug, Default)]
struct Chosen {
    rows: u64,
    refused: BTreeMap<String, u64>,
}

fn look_up(reader: &Mutex<Reader>, selection: &Selection) -> Result<Found, ReadError> {
    let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Found {
        rows: reader.matching(selection)?,
        orders: reader.orders()?.len(),
    })
}
