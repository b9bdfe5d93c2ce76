//! What is mounted where: the whole surface in one list.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use axum::{Router, response::IntoResponse};
use tidegate_domain::limits;

use crate::action::{self, Actions};
use crate::assets::{self, Asset};
use crate::guard;
use crate::view::View;
use crate::{api, metrics, page};

/// What handlers share.
pub(crate) type Shared = Arc<dyn View>;

/// A module with what is said of it.
#[expect(clippy::cast_possible_truncation, reason = "64 MiB")]
const MODULE_BYTES: usize = limits::MODULE_FILE_MOST_BYTES as usize + limits::HTTP_BODY_BYTES;

/// Everything the status server answers. The listener's address decides whether [`crate::serve`] also checks the
/// host's name.
pub fn router(view: Arc<dyn View>) -> Router {
    let router = mounted(routes())
        .method_not_allowed_fallback(not_allowed)
        .with_state(view);
    guarded(router)
}

/// Everything the control socket answers: the same views, and the actions.
pub fn control_router(view: Arc<dyn View>, actions: Arc<dyn Actions>) -> Router {
    let views = mounted(routes()).with_state(view);
    let tries = mounted(vec![action::try_route()]).with_state(Arc::clone(&actions));
    let actions = mounted(action::actions()).with_state(actions);
    guarded(views.merge(actions)).merge(layered(tries, MODULE_BYTES))
}

fn mounted<S: Clone + Send + Sync + 'static>(
    routes: Vec<(&'static str, MethodRouter<S>)>,
) -> Router<S> {
    routes
        .into_iter()
        .fold(Router::new(), |router, (path, method)| {
            router.route(path, method)
        })
}

/// What every request goes through, wherever it came in.
fn guarded(router: Router) -> Router {
    layered(router.fallback(not_found), limits::HTTP_BODY_BYTES)
}

/// The same for routes whose bodies have a bound of their own.
fn layered(router: Router, body: usize) -> Router {
    router
        .layer(DefaultBodyLimit::max(body))
        .layer(from_fn_with_state(body, guard::body))
        .layer(from_fn(guard::panics))
        .layer(from_fn(guard::headers))
}

/// Every path that is read, with its handlers; `assets/openapi.json` describes these and the actions and no others, which
/// a test compares.
fn routes() -> Vec<(&'static str, MethodRouter<Shared>)> {
    let mut routes = vec![
        ("/", get(page::page)),
        ("/healthz", get(api::healthz)),
        ("/readyz", get(api::readyz)),
        ("/metrics", get(metrics::metrics)),
        ("/api/v1/status", get(api::status)),
        ("/api/v1/ledger", get(api::ledger)),
        ("/api/v1/sources", get(api::sources)),
        ("/api/v1/pipelines", get(api::pipelines)),
        ("/api/v1/uplinks", get(api::uplinks)),
        ("/api/v1/modules", get(api::modules)),
        ("/api/v1/alarms", get(api::alarms)),
        ("/api/v1/alarms/stale", get(api::stale_series)),
        ("/api/v1/audit", get(api::audit)),
    ];
    routes.extend(
        [
            &assets::STYLE,
            &assets::SCRIPT,
            &assets::ICON,
            &assets::OPENAPI,
        ]
        .map(|file| (file.path, asset(file))),
    );
    routes
}

fn asset(file: &'static Asset) -> MethodRouter<Shared> {
    get(move |headers: HeaderMap| async move { file.respond(&headers) })
}

async fn not_found(request: Request) -> Response {
    let (path, accept) = guard::asked(&request);
    let detail = "There is nothing at this address.";
    page::problem(StatusCode::NOT_FOUND, detail, &path, &accept).into_response()
}

async fn not_allowed(request: Request) -> Response {
    let (path, accept) = guard::asked(&request);
    let detail = "This address can be read, with GET or HEAD, and nothing else.";
    page::problem(StatusCode::METHOD_NOT_ALLOWED, detail, &path, &accept).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_lists_exactly_what_is_mounted() {
        let described: serde_json::Value =
            serde_json::from_slice(include_bytes!("../assets/openapi.json")).unwrap();
        let described: BTreeSet<String> = described["paths"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let views = routes().into_iter().map(|(path, _)| path.to_owned());
        let actions = action::actions()
            .into_iter()
            .map(|(path, _)| path.to_owned());
        let tries = [action::TRY.to_owned()];
        let mounted = views.chain(actions).chain(tries).collect();
        assert_eq!(described, mounted);
    }
}
