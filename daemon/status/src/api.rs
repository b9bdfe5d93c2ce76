//! JSON, health and readiness.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use tidegate_domain::Ledger;
use tidegate_domain::ledger::Imbalance;

use crate::page;
use crate::routes::Shared;
use crate::slots::{self, Rollout, Slot};
use crate::view::ModuleStatus;

/// A list, in an object so that it can grow.
#[derive(Serialize)]
struct List<'a, T> {
    items: &'a [T],
}

/// The modules, and where they run.
#[derive(Serialize)]
struct Modules<'a> {
    items: &'a [ModuleStatus],
    slots: Vec<Slot>,
    rollouts: Vec<Rollout<'a>>,
}

/// The ledger, and whether it balances.
#[derive(Serialize)]
struct LedgerReport<'a> {
    #[serde(flatten)]
    ledger: &'a Ledger,
    balanced: bool,
    imbalances: Vec<Imbalance>,
}

pub(crate) async fn status(State(view): State<Shared>) -> impl IntoResponse {
    Json(&*view.snapshot()).into_response()
}

pub(crate) async fn ledger(State(view): State<Shared>) -> impl IntoResponse {
    let ledger = view.ledger();
    let imbalances = ledger.imbalances();
    Json(LedgerReport {
        ledger: &ledger,
        balanced: imbalances.is_empty(),
        imbalances,
    })
    .into_response()
}

pub(crate) async fn sources(State(view): State<Shared>) -> impl IntoResponse {
    list(&view.snapshot().sources)
}

pub(crate) async fn pipelines(State(view): State<Shared>) -> impl IntoResponse {
    list(&view.snapshot().pipelines)
}

pub(crate) async fn uplinks(State(view): State<Shared>) -> impl IntoResponse {
    list(&view.snapshot().uplinks)
}

pub(crate) async fn modules(State(view): State<Shared>) -> impl IntoResponse {
    let snapshot = view.snapshot();
    Json(Modules {
        items: &snapshot.modules,
        slots: slots::slots(&snapshot),
        rollouts: slots::rollouts(&snapshot),
    })
    .into_response()
}

pub(crate) async fn alarms(State(view): State<Shared>) -> impl IntoResponse {
    list(&view.alarms())
}

pub(crate) async fn stale_series(State(view): State<Shared>) -> impl IntoResponse {
    list(&view.stale_series())
}

/// Entries that one answer has, unless it is asked for fewer, and at most.
const ENTRIES: usize = 100;
const ENTRIES_MOST: usize = 1000;

/// Which entries.
#[derive(Debug, Deserialize)]
pub(crate) struct Entries {
    before: Option<u64>,
    limit: Option<usize>,
}

/// The audit log, newest first. `next` is the `before` of the page after it.
pub(crate) async fn audit(
    State(view): State<Shared>,
    query: Result<Query<Entries>, QueryRejection>,
) -> axum::response::Response {
    const PATH: &str = "/api/v1/audit";
    let Query(Entries { before, limit }) = match query {
        Ok(query) => query,
        Err(rejection) => {
            return page::problem(rejection.status(), &rejection.body_text(), PATH, "");
        }
    };
    let most = limit.unwrap_or(ENTRIES).clamp(1, ENTRIES_MOST);
    let read = tokio::task::spawn_blocking(move || view.audit(before, most)).await;
    let failed = |why: &str| page::problem(StatusCode::SERVICE_UNAVAILABLE, why, PATH, "");
    match read {
        Ok(Ok(items)) => {
            let next = items.last().and_then(|entry| entry["number"].as_u64());
            let next = next.filter(|_| items.len() == most);
            Json(serde_json::json!({ "items": items, "next": next })).into_response()
        }
        Ok(Err(why)) => failed(&why),
        Err(error) => failed(&error.to_string()),
    }
}

fn list<T: Serialize>(items: &[T]) -> axum::response::Response {
    Json(List { items }).into_response()
}

/// 200 and `ok`, or 503 and what has stopped.
pub(crate) async fn healthz(State(view): State<Shared>) -> impl IntoResponse {
    match view.healthy() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// 200 and `ready`, or 503 and a line for every condition that does not hold.
pub(crate) async fn readyz(State(view): State<Shared>) -> impl IntoResponse {
    let readiness = view.ready();
    if readiness.ready {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let reasons = if readiness.reasons.is_empty() {
        "not ready\n".to_owned()
    } else {
        readiness.reasons.iter().map(|r| format!("{r}\n")).collect()
    };
    (StatusCode::SERVICE_UNAVAILABLE, reasons)
}
