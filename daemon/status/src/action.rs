//! What an operator may do to the running gateway, over its control socket: the only way in which anything here
//! changes something. The page's listener does not have these paths.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Extension, Json};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_domain::alarm;
use tidegate_domain::quarantine::{Action, Selection};
use tokio::sync::mpsc;

use crate::guard::Told;
use crate::page;

/// What the gateway does when it is told to. Each answer comes after what was asked for is durable.
pub trait Actions: Send + Sync + 'static {
    /// Replays or discards rows of quarantine. The order is durable when the answer comes, and is carried out from then
    /// on. The selection is checked.
    fn quarantine(&self, by: Caller, action: Action, selection: Selection) -> Answer<'_>;

    /// Goes back on a module: drops a candidate with it, or puts the generation before the active one in its place.
    fn roll_back(&self, by: Caller, module: String) -> Answer<'_>;

    /// Looks at the repository of modules at once, or at a folder, and answers with what came of it.
    fn update(&self, by: Caller, from: Option<PathBuf>) -> Answer<'_>;

    /// Puts a certificate of the gateway's key in place, in PEM.
    fn install(&self, by: Caller, certificate: String) -> Answer<'_>;

    /// Acknowledges alarms that are raised, on somebody's behalf.
    fn acknowledge(&self, by: Caller, request: alarm::Request) -> Answer<'_>;

    /// Runs a module on copies of what a pipeline gets, heard by nobody, for as long as the lines that tell of it are read.
    ///
    /// # Errors
    /// What can be said at once; the rest comes as a line.
    fn try_out(&self, by: Caller, request: TryRequest) -> Answer<'_, mpsc::Receiver<Value>>;
}

/// Who asks over the control socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The process.
    pub pid: Option<i32>,
}

impl Caller {
    /// Nobody that the kernel named.
    pub(crate) const UNKNOWN: Self = Self {
        uid: u32::MAX,
        pid: None,
    };
}

type Named = Option<Extension<Caller>>;

fn named(caller: Named) -> Caller {
    caller.map_or(Caller::UNKNOWN, |Extension(caller)| caller)
}

/// A module to try, and where. Its JSON, on one line, is followed by the component's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TryRequest {
    /// `[pipeline.NAME]`.
    pub pipeline: String,
    /// The filter whose place it takes; by default that of its own name, else it comes last.
    #[serde(default)]
    pub filter: Option<String>,
    /// Settings; by default those of that filter.
    #[serde(default)]
    pub settings: Option<Value>,
    /// How long at most.
    pub seconds: u64,
    /// Readings for a verdict; by default as many as a rollout needs.
    #[serde(default)]
    pub samples: Option<u64>,
    /// The module's manifest.
    pub manifest: Value,
    /// The component.
    #[serde(skip)]
    pub component: Bytes,
}

/// What an action answers, later.
pub type Answer<'a, T = Value> = Pin<Box<dyn Future<Output = Result<T, Refused>> + Send + 'a>>;

/// Why an action was not taken, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What was asked for makes no sense, or not at present.
    Request(String),
    /// There is nothing of that kind.
    Missing(String),
    /// The gateway cannot do it now; later it may.
    Unavailable(String),
}

const ACKNOWLEDGE: &str = "/api/v1/alarms/acknowledge";
pub(crate) const TRY: &str = "/api/v1/modules/try";
const CERTIFICATE: &str = "/api/v1/identity/certificate";
const UPDATE: &str = "/api/v1/modules/update";
const ROLLBACK: &str = "/api/v1/modules/{name}/rollback";

/// What handlers of actions share.
pub(crate) type Shared = Arc<dyn Actions>;

/// Every action with its handler; `assets/openapi.json` describes these.
pub(crate) fn actions() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/api/v1/quarantine/replay", post(replay)),
        ("/api/v1/quarantine/drop", post(discard)),
        (ACKNOWLEDGE, post(acknowledge)),
        (CERTIFICATE, post(install)),
        (ROLLBACK, post(roll_back)),
        (UPDATE, post(update)),
    ]
}

/// The way in for modules, whose bodies are larger than any other.
pub(crate) fn try_route() -> (&'static str, MethodRouter<Shared>) {
    (TRY, post(try_out))
}

async fn try_out(
    State(actions): State<Shared>,
    caller: Named,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            return page::problem(rejection.status(), &rejection.body_text(), TRY, "");
        }
    };
    let request = match read_request(&body) {
        Ok(request) => request,
        Err(why) => return rejected(TRY, &why),
    };
    match actions.try_out(named(caller), request).await {
        Ok(lines) => {
            let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (kind, Body::new(Lines(lines))).into_response()
        }
        Err(refused) => answer(TRY, StatusCode::OK, Err(refused)),
    }
}

fn read_request(body: &Bytes) -> Result<TryRequest, String> {
    let end = body.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or("the request has no line of JSON before the component")?;
    let request: TryRequest =
        serde_json::from_slice(&body[..end]).map_err(|error| format!("the request: {error}"))?;
    Ok(TryRequest {
        component: body.slice(end + 1..),
        ..request
    })
}

/// Lines of JSON as they come; the answer ends when nobody sends any more.
struct Lines(mpsc::Receiver<Value>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = self.0.poll_recv(context);
        line.map(|line| line.map(|line| Ok(Frame::data(format!("{line}\n").into()))))
    }
}

async fn acknowledge(
    State(actions): State<Shared>,
    caller: Named,
    request: Result<Json<alarm::Request>, JsonRejection>,
) -> Response {
    let answered = match request {
        Ok(Json(request)) => actions.acknowledge(named(caller), request).await,
        Err(rejection) => return rejected(ACKNOWLEDGE, &rejection.body_text()),
    };
    answer(ACKNOWLEDGE, StatusCode::OK, answered)
}

async fn roll_back(
    State(actions): State<Shared>,
    caller: Named,
    Path(module): Path<String>,
) -> Response {
    let answered = actions.roll_back(named(caller), module).await;
    answer(ROLLBACK, StatusCode::OK, answered)
}

/// A certificate, and those between it and its CA.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateRequest {
    certificate: String,
}

async fn install(
    State(actions): State<Shared>,
    caller: Named,
    request: Result<Json<CertificateRequest>, JsonRejection>,
) -> Response {
    let answered = match request {
        Ok(Json(request)) => actions.install(named(caller), request.certificate).await,
        Err(rejection) => return rejected(CERTIFICATE, &rejection.body_text()),
    };
    answer(CERTIFICATE, StatusCode::OK, answered)
}

/// What is looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateRequest {
    /// A folder instead of the configured repository.
    #[serde(default)]
    from: Option<PathBuf>,
}

async fn update(
    State(actions): State<Shared>,
    caller: Named,
    request: Result<Json<UpdateRequest>, JsonRejection>,
) -> Response {
    let answered = match request {
        Ok(Json(request)) => actions.update(named(caller), request.from).await,
        Err(rejection) => return rejected(UPDATE, &rejection.body_text()),
    };
    answer(UPDATE, StatusCode::OK, answered)
}

async fn replay(
    State(actions): State<Shared>,
    caller: Named,
    selection: Result<Json<Selection>, JsonRejection>,
) -> Response {
    quarantine(&actions, named(caller), Action::Replay, selection).await
}

async fn discard(
    State(actions): State<Shared>,
    caller: Named,
    selection: Result<Json<Selection>, JsonRejection>,
) -> Response {
    quarantine(&actions, named(caller), Action::Drop, selection).await
}

async fn quarantine(
    actions: &Shared,
    by: Caller,
    action: Action,
    selection: Result<Json<Selection>, JsonRejection>,
) -> Response {
    let path = format!("/api/v1/quarantine/{}", action.as_str());
    let selection = match selection {
        Ok(Json(selection)) => selection.checked(),
        Err(rejection) => {
            return page::problem(rejection.status(), &rejection.body_text(), &path, "");
        }
    };
    let answered = match selection {
        Ok(selection) => actions.quarantine(by, action, selection).await,
        Err(wrong) => return rejected(&path, &wrong),
    };
    answer(&path, StatusCode::ACCEPTED, answered)
}

/// The answer of an action: what it says, or the problem.
fn answer(path: &str, status: StatusCode, answered: Result<Value, Refused>) -> Response {
    let (status, detail) = match answered {
        Ok(value) => return (status, Json(value)).into_response(),
        Err(Refused::Request(detail)) => (StatusCode::UNPROCESSABLE_ENTITY, detail),
        Err(Refused::Missing(detail)) => (StatusCode::NOT_FOUND, detail),
        Err(Refused::Unavailable(detail)) => (StatusCode::SERVICE_UNAVAILABLE, detail),
    };
    let mut response = page::problem(status, &detail, path, "");
    // The gateway knows of it, and why.
    response.extensions_mut().insert(Told);
    response
}

/// The answer to what never reached the gateway.
fn rejected(path: &str, why: &str) -> Response {
    page::problem(StatusCode::UNPROCESSABLE_ENTITY, why, path, "")
}
