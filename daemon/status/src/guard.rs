//! What every request and every answer goes through.
//!
//! **Host.** A page on the internet can have its own name resolve to 127.0.0.1 and then read, from the browser of
//! somebody on this machine, what is meant for this machine alone (DNS rebinding). The browser still sends the
//! page's name as `Host`; so a server on a loopback address answers only to `localhost`, names under `.localhost` and literal
//! addresses, which no resolver decides about. The port is not compared: behind `ssh -L 9000:127.0.0.1:8080` it is 9000.
//! On another address the names under which people reach the gateway are not known here, and nothing is checked:
//! whoever listens there needs what makes such an address safe first, accounts and TLS.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::action::Caller;
use crate::page;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Somebody at the page, by address.
    Page(String),
    /// Somebody at the control socket.
    Control(Caller),
}

/// A request that was not taken, for what it is or where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// Who made it.
    pub client: Client,
    /// As in `POST`.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
}

/// Who is told of such requests. It must not block.
pub type Refusals = Arc<dyn Fn(RefusedRequest) + Send + Sync>;

/// Stands in an answer of which the gateway knows by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told;

/// Letters of a method or a path that are told.
const TOLD_LETTERS: usize = 200;
/// The answers that say that a request was not taken. That there is nothing at an address is no such thing.
const REFUSED: [StatusCode; 8] = [
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// Scripts, styles, images and connections from here alone, none of them inline; no frame, no form, no base.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Security headers on every answer, errors included; figures are never cached unless the handler said how.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Tells of requests that were refused.
pub(crate) async fn refusals(
    State(refusals): State<Refusals>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<Client>().cloned();
    let short = |text: &str| text.chars().take(TOLD_LETTERS).collect::<String>();
    let (method, path) = (
        short(request.method().as_str()),
        short(request.uri().path()),
    );
    let response = next.run(request).await;
    let told = response.extensions().get::<Told>().is_some();
    if let Some(client) = client
        && !told
        && REFUSED.contains(&response.status())
    {
        refusals(RefusedRequest {
            client,
            method,
            path,
            status: response.status().as_u16(),
        });
    }
    response
}

/// Turns a handler's panic into a 500, so that neither the connection nor the process pays for it.
pub(crate) async fn panics(request: Request, next: Next) -> Response {
    let (path, accept) = asked(&request);
    let mut answer = pin!(next.run(request));
    let answer = std::future::poll_fn(|context| {
        match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await;
    match answer {
        Ok(response) => response,
        Err(panic) => {
            let what = panic_text(panic.as_ref());
            tracing::error!(%path, panic = what, "a status handler panicked");
            let detail = "The status server failed on this request. Data is not affected; the log says more.";
            page::problem(StatusCode::INTERNAL_SERVER_ERROR, detail, &path, &accept)
        }
    }
}

/// Refuses a request whose body says that it is above its bound; a body that does not say is cut at the same bound
/// by the extractor that reads it.
pub(crate) async fn body(State(most): State<usize>, request: Request, next: Next) -> Response {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        let (path, accept) = asked(&request);
        let detail = format!("The request's body is larger than {most} bytes.");
        return page::problem(StatusCode::PAYLOAD_TOO_LARGE, &detail, &path, &accept);
    }
    next.run(request).await
}

/// Refuses a request that names another host than this one; for loopback listeners.
pub(crate) async fn loopback_host(request: Request, next: Next) -> Response {
    if host(request.uri(), request.headers()).is_none_or(is_local) {
        return next.run(request).await;
    }
    let (path, _) = asked(&request);
    let detail = "This gateway answers on its loopback address only to `localhost` and to literal addresses. \
        Open http://localhost with the same port.";
    // Never the designed page: the browser would show it under the attacker's name.
    let mut response = page::problem(StatusCode::MISDIRECTED_REQUEST, detail, &path, "");
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The host that a request names: the target's, else the `Host` field's. A client without either (HTTP/1.0) is
/// no browser.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.host().or_else(|| {
        // What cannot be read as text is the name of no host, rather than the absence of one.
        headers
            .get(header::HOST)
            .map(|value| value.to_str().map_or("", without_port))
    })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

fn is_local(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

/// The path and the `Accept` field, for an answer that is made after the request is gone.
pub(crate) fn asked(request: &Request) -> (String, String) {
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    (request.uri().path().to_owned(), accept.to_owned())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_resolver_decides_about_are_local() {
        let check = |host: &str, expect| assert_eq!(is_local(without_port(host)), expect, "{host}");
        check("localhost", true);
        check("LOCALHOST:8080", true);
        check("gw.localhost:8080", true);
        check("localhost.", true);
        check("127.0.0.1:8080", true);
        check("192.0.2.7", true);
        check("[::1]:8080", true);
        check("[::1]", true);
        check("", false);
        check("attacker.example", false);
        check("attacker.example:8080", false);
        check("localhost.attacker.example", false);
        check("notlocalhost", false);
        check("127.0.0.1.attacker.example", false);
        check("[attacker.example]", false);
    }
}
