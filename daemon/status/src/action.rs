//! What an operator may do to the running gateway, over its control socket: the only way in which anything here
//! changes something. The page's listener does not have these paths.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_domain::alarm;
use tidegate_domain::quarantine::{Action, Selection};
use tokio::sync::mpsc;

use crate::page;

/// What the gateway does when it is told to. Each answer comes after what was asked for is durable.
pub trait Actions: Send + Sync + 'static {
    /// Replays or discards rows of quarantine. The order is durable when the answer comes, and is carried out from then
    /// on. The selection is checked.
    fn quarantine(&self, action: Action, selection: Selection) -> Answer<'_>;

    /// Goes back on a module: drops a candidate with it, or puts the generation before the active one in its place.
    fn roll_back(&self, module: String) -> Answer<'_>;

    /// Looks at the repository of modules at once, or at a folder, and answers with what came of it.
    fn update(&self, from: Option<PathBuf>) -> Answer<'_>;

    /// Acknowledges alarms that are raised, on somebody's behalf.
    fn acknowledge(&self, request: alarm::Request) -> Answer<'_>;

    /// Runs a module on copies of what a pipeline gets, heard by nobody, for as long as the lines that tell of it are read.
    ///
    /// # Errors
    /// What can be said at once; the rest comes as a line.
    fn try_out(&self, request: TryRequest) -> Result<mpsc::Receiver<Value>, Refused>;
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
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, Refused>> + Send + 'a>>;

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
        (ROLLBACK, post(roll_back)),
        (UPDATE, post(update)),
    ]
}

/// The way in for modules, whose bodies are larger than any other.
pub(crate) fn try_route() -> (&'static str, MethodRouter<Shared>) {
    (TRY, post(try_out))
}

async fn try_out(State(actions): State<Shared>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            return page::problem(rejection.status(), &rejection.body_text(), TRY, "");
        }
    };
    let lines = read_request(&body).and_then(|request| actions.try_out(request));
    match lines {
        Ok(lines) => {
            let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (kind, Body::new(Lines(lines))).into_response()
        }
        Err(refused) => answer(TRY, StatusCode::OK, Err(refused)),
    }
}

fn read_request(body: &Bytes) -> Result<TryRequest, Refused> {
    let end = body.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| {
        let why = "the request has no line of JSON before the component";
        Refused::Request(why.to_owned())
    })?;
    let request: TryRequest = serde_json::from_slice(&body[..end])
        .map_err(|error| Refused::Request(format!("the request: {error}")))?;
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
    request: Result<Json<alarm::Request>, JsonRejection>,
) -> Response {
    let answered = match request {
        Ok(Json(request)) => actions.acknowledge(request).await,
        Err(rejection) => Err(Refused::Request(rejection.body_text())),
    };
    answer(ACKNOWLEDGE, StatusCode::OK, answered)
}

async fn roll_back(State(actions): State<Shared>, Path(module): Path<String>) -> Response {
    let answered = actions.roll_back(module).await;
    answer(ROLLBACK, StatusCode::OK, answered)
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
    request: Result<Json<UpdateRequest>, JsonRejection>,
) -> Response {
    let answered = match request {
        Ok(Json(request)) => actions.update(request.from).await,
        Err(rejection) => Err(Refused::Request(rejection.body_text())),
    };
    answer(UPDATE, StatusCode::OK, answered)
}

async fn replay(
    State(actions): State<Shared>,
    selection: Result<Json<Selection>, JsonRejection>,
) -> Response {
    quarantine(&actions, Action::Replay, selection).await
}

async fn discard(
    State(actions): State<Shared>,
    selection: Result<Json<Selection>, JsonRejection>,
) -> Response {
    quarantine(&actions, Action::Drop, selection).await
}

async fn quarantine(
    actions: &Shared,
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
        Ok(selection) => actions.quarantine(action, selection).await,
        Err(wrong) => Err(Refused::Request(wrong)),
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
    page::problem(status, &detail, path, "")
}
