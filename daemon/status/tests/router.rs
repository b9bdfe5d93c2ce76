//! The status server from outside: the router in the process, and a listener where the connection matters.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value;
use tidegate_domain::ledger::SourceCounts;
use tidegate_domain::quarantine::{Action, Selection};
use tidegate_status::view::*;
use tidegate_status::{
    Actions, Caller, Client, Refusals, Refused, RefusedRequest, control_router, router, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;

mod pictures;
use pictures::{DAY, Picture, broken, certificate, empty, outage, rich, waiting};

/// The answer to one request.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn kind(&self) -> &str {
        self.header("content-type")
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

async fn ask(picture: Picture, request: Request<Body>) -> Answer {
    let response = router(Arc::new(picture)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 16 << 20).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

async fn get(picture: Picture, path: &str) -> Answer {
    ask(picture, request(Method::GET, path, &[])).await
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(Body::empty()).unwrap()
}

const KINDS: [(&str, &str); 17] = [
    ("/", "text/html; charset=utf-8"),
    ("/healthz", "text/plain; charset=utf-8"),
    ("/readyz", "text/plain; charset=utf-8"),
    ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ("/api/v1/status", "application/json"),
    ("/api/v1/ledger", "application/json"),
    ("/api/v1/sources", "application/json"),
    ("/api/v1/pipelines", "application/json"),
    ("/api/v1/uplinks", "application/json"),
    ("/api/v1/modules", "application/json"),
    ("/api/v1/alarms", "application/json"),
    ("/api/v1/alarms/stale", "application/json"),
    ("/api/v1/audit", "application/json"),
    ("/api/v1/openapi.json", "application/json"),
    ("/assets/tidegate.css", "text/css; charset=utf-8"),
    ("/assets/tidegate.js", "text/javascript; charset=utf-8"),
    ("/assets/icon.svg", "image/svg+xml"),
];

#[tokio::test]
async fn every_path_has_its_kind_its_headers_and_an_empty_head() {
    for (path, kind) in KINDS {
        let whole = get(rich(), path).await;
        assert_eq!(
            (whole.status, whole.kind()),
            (StatusCode::OK, kind),
            "{path}"
        );
        assert_eq!(whole.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(whole.header("referrer-policy"), "no-referrer", "{path}");
        let policy = whole.header("content-security-policy");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        let head = ask(rich(), request(Method::HEAD, path, &[])).await;
        assert_eq!((head.status, head.kind()), (StatusCode::OK, kind), "{path}");
        assert_eq!(head.text, "", "{path}");
        let post = ask(rich(), request(Method::POST, path, &[])).await;
        assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(post.header("allow"), "GET,HEAD", "{path}");
    }
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    for path in [
        "/assets/tidegate.css",
        "/assets/tidegate.js",
        "/assets/icon.svg",
    ] {
        let tag = get(rich(), path).await.header("etag").to_owned();
        let check = async |sent: &str, expect| {
            let headers = [("if-none-match", sent)];
            let answer = ask(rich(), request(Method::GET, path, &headers)).await;
            assert_eq!(answer.status, expect, "{path} {sent}");
            assert_eq!(answer.header("etag"), tag);
            assert_eq!(answer.text.is_empty(), expect == StatusCode::NOT_MODIFIED);
        };
        check(&tag, StatusCode::NOT_MODIFIED).await;
        check(&format!("\"old\", W/{tag}"), StatusCode::NOT_MODIFIED).await;
        check("\"old\"", StatusCode::OK).await;
    }
    assert_eq!(get(rich(), "/").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn the_audit_log_comes_in_pages_newest_first() {
    let numbers = |answer: &Answer| -> Vec<u64> {
        let answer = answer.json();
        let items = answer["items"].as_array().unwrap().iter();
        items
            .map(|entry| entry["number"].as_u64().unwrap())
            .collect()
    };
    let first = get(rich(), "/api/v1/audit").await;
    assert_eq!(numbers(&first), (115..=214).rev().collect::<Vec<_>>());
    assert_eq!(first.json()["next"], 115);
    let last = get(rich(), "/api/v1/audit?before=15&limit=20").await;
    assert_eq!(numbers(&last), (1..15).rev().collect::<Vec<_>>());
    assert_eq!(last.json()["next"], Value::Null);
    let wrong = get(rich(), "/api/v1/audit?before=x").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let unreadable = Picture {
        stopped: Some("the audit log cannot be read".to_owned()),
        ..rich()
    };
    let none = get(unreadable, "/api/v1/audit").await;
    assert_eq!(none.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(none.json()["detail"], "the audit log cannot be read");
}

#[tokio::test]
async fn an_audit_log_that_fails_is_said_and_counted() {
    let mut picture = rich();
    let audit = picture.snapshot.audit.as_mut().unwrap();
    audit.error = Some("No space left on device".to_owned());
    audit.waiting = 7;
    audit.lost = 2;
    audit.broken = Some("entries 4 to 9 are missing".to_owned());
    let metrics = get(picture.clone(), "/metrics").await.text;
    for line in [
        "tidegate_audit_writable 0\n",
        "tidegate_audit_waiting 7\n",
        "tidegate_audit_lost_total 2\n",
        "tidegate_audit_broken 1\n",
        "tidegate_audit_entries_total 214\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
    let page = get(picture, "/").await.text;
    for part in [
        "The audit log cannot be written",
        "Entries of the audit log were lost",
        "entries 4 to 9 are missing",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test]
async fn an_unknown_address_is_a_page_for_people_and_a_problem_for_programs() {
    let browser = [("accept", "text/html,*/*;q=0.8")];
    let page = ask(rich(), request(Method::GET, "/x'y&z", &browser)).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert_eq!(page.kind(), "text/html; charset=utf-8");
    assert!(page.text.contains("<h1>Not Found</h1>"));
    assert!(page.text.contains("/x&#39;y&#38;z"));
    for (path, headers) in [("/nothing", &[][..]), ("/api/v1/nothing", &browser[..])] {
        let answer = ask(rich(), request(Method::GET, path, headers)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.kind(), "application/problem+json");
        assert_eq!(answer.json()["status"], 404);
        assert!(!answer.header("content-security-policy").is_empty());
    }
}

#[tokio::test]
async fn health_and_readiness_say_why_not() {
    let check = async |picture: Picture, path, expect: (u16, &str)| {
        let answer = get(picture, path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), expect);
    };
    check(rich(), "/healthz", (200, "ok\n")).await;
    check(rich(), "/readyz", (200, "ready\n")).await;
    // The cloud is gone: that is no reason.
    check(outage(), "/readyz", (200, "ready\n")).await;
    let why = "store: no space left on device\n";
    check(broken(), "/readyz", (503, why)).await;
    let stopped = Picture {
        stopped: Some("the writer thread ended".to_owned()),
        ..rich()
    };
    check(stopped, "/healthz", (503, "the writer thread ended\n")).await;
}

#[tokio::test]
async fn a_body_above_its_bound_is_refused() {
    let long = [("content-length", "1048577")];
    let answer = ask(rich(), request(Method::POST, "/", &long)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let fits = [("content-length", "1048576")];
    let answer = ask(rich(), request(Method::POST, "/", &fits)).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_devices_send_never_becomes_markup() {
    const EVIL: &str = "\"'><script>alert(1)</script>&lt;";
    let mut picture = rich();
    let evil = || EVIL.to_owned();
    let snapshot = &mut picture.snapshot;
    for row in &mut snapshot.recent_summaries {
        row.series = evil();
        row.measure = Some(evil());
    }
    snapshot.gateway.id = evil();
    snapshot.gateway.boot_id = evil();
    snapshot.sources[0].name = evil();
    snapshot.sources[0].url = evil();
    snapshot.sources[0].last_error = Some(evil());
    snapshot.sources[0].state = SourceState::BackingOff;
    snapshot.sources[0].dropped = BTreeMap::from([(evil(), 1)]);
    snapshot.pipelines[0].name = evil();
    snapshot.pipelines[0].from = vec![evil()];
    snapshot.pipelines[0].filters[0].name = evil();
    snapshot.pipelines[0].filters[0].digest = evil();
    snapshot.pipelines[0].filters[0].last_error = Some(evil());
    snapshot.pipelines[0].filters[0].state = FilterState::Tripped;
    snapshot.store.last_error = Some(evil());
    snapshot.store.state = StoreState::Full;
    snapshot.uplinks[0].last_error = Some(evil());
    snapshot.uplinks[0].state = UplinkState::BackingOff;
    snapshot.modules[0].name = evil();
    snapshot.modules[0].state = ModuleState::Refused;
    snapshot.recent_errors[0].message = evil();
    snapshot.recent_errors[0].target = evil();
    let counts = picture.ledger.sources.entry(evil()).or_default();
    counts.dropped.insert(evil(), 3);
    picture.readiness.ready = false;
    picture.readiness.reasons = vec![evil()];
    picture.stopped = Some(evil());

    let page = get(picture, "/").await.text;
    assert!(page.contains("&#60;script&#62;alert(1)"), "it is shown");
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains(EVIL));
    // Nothing inline either, or the policy would have to allow it.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<script src=\"/assets/tidegate.js\" defer></script>"));
    for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
}

#[tokio::test]
async fn the_page_says_what_is_wrong_and_what_was_lost() {
    let check = async |picture: Picture, expect: &[&str], never: &[&str]| {
        let page = get(picture, "/").await;
        assert_eq!(page.status, StatusCode::OK);
        let page = page.text.replace('\u{a0}', " ").replace("&#39;", "'");
        for text in expect {
            assert!(page.contains(text), "missing: {text}\n{page}");
        }
        for text in never {
            assert!(!page.contains(text), "there: {text}");
        }
    };
    let quiet = ["every row is accounted for", "Everything is flowing"];
    check(rich(), &quiet, &["class=\"findings\"", "off by"]).await;
    check(
        rich(),
        &["2 messages dropped by source plant (overflow)"],
        &[],
    )
    .await;
    let gone = [
        "Uplink cloud is not connected",
        "Behind by 3 min 18 s, 1,204 items",
        "Source press is not connected",
        "Filter anomaly of pipeline vibration is switched off",
    ];
    check(outage(), &gone, &["Everything is flowing", "off by"]).await;
    let worse = [
        "class=\"verdict bad\"",
        "Readings are not stored: the disk is full",
        "off by 4",
        "The ledger does not balance",
        "312 items given up unsent by uplink cloud",
        "The clock is not set",
    ];
    check(broken(), &worse, &["every row is accounted for"]).await;
    let nothing = [
        "No source is configured",
        "No window has closed yet",
        "Nothing went wrong since the gateway started",
        "Nothing has been counted yet",
        "<dd>nothing</dd>",
    ];
    check(empty(), &nothing, &["class=\"findings\""]).await;
    let soon = ["Ready, and waiting for the first message"];
    check(waiting(), &soon, &["class=\"findings\""]).await;
    let mut away = rich();
    away.snapshot.uplinks[0].failover = true;
    away.snapshot.uplinks[0].circuit = Circuit::Closed;
    let elsewhere = [
        "Uplink cloud sends to another broker than its first",
        "in place of the first broker · circuit closed",
    ];
    check(away, &elsewhere, &["Everything is flowing"]).await;
    // Modules over the air: what is refused is named, with the reason and what to do.
    let mut refused = rich();
    let deploy = refused.snapshot.deploy.as_mut().unwrap();
    deploy.state = DeployState::Refused;
    deploy.error = Some(DeployError {
        file: "metadata/timestamp.json".to_owned(),
        reason: "rollback: its version is 219, <b>".to_owned(),
        help: "publish anew".to_owned(),
    });
    let words = [
        "The repository of modules was refused",
        "metadata/timestamp.json: rollback: its version is 219, &#60;b&#62;",
        "publish anew",
        "Modules over the air",
    ];
    check(refused, &words, &["Everything is flowing"]).await;
    let mut expiring = rich();
    expiring.snapshot.deploy.as_mut().unwrap().state = DeployState::Expiring;
    let words = [
        "Modules over the air will stop within a week",
        "metadata/timestamp.json expires on",
    ];
    check(expiring, &words, &["Everything is flowing"]).await;
    // Certificates.
    let mut ending = rich();
    let now = ending.made;
    let tls = ending.snapshot.sources[1].tls.as_mut().unwrap();
    tls.certificates[0] = certificate(CertificateRole::Own, "gw-<42>", now + 10 * DAY + 60_000);
    tls.error = Some("`cert.pem` holds no certificate".to_owned());
    ending.snapshot.uplinks[0].tls = Some(TlsStatus {
        certificates: vec![certificate(CertificateRole::Server, "cloud", now - DAY)],
        error: None,
    });
    let ends = [
        "The gateway's certificate of source press expires soon",
        "“gw-&#60;42&#62;” is valid until",
        "in 10 d",
        "TLS · own certificate until",
        "The renewed TLS files of source press are not used",
        "`cert.pem` holds no certificate.",
        "The broker's certificate of uplink cloud has expired",
        "class=\"verdict bad\"",
    ];
    check(ending, &ends, &["Everything is flowing"]).await;
    // Generations: a canary, what a rollback goes back to, and one that was put back.
    let canary = [
        "Canary <code>a17c66f0e5d2093b</code>",
        "speaks for 5 % of the series",
        "of 10,000",
        "float 3",
        "49 min left",
        "“tidegate module rollback range” drops it",
        "last known good <code>0d1be6a2c4419f07</code>: range 0.0.9",
        "promoted",
        "decoded by nmea 0.1.0",
        "decoder: trap: unreachable",
    ];
    check(rich(), &canary, &["runs another chain than configured"]).await;
    let mut refused = rich();
    let rollout = &mut refused.snapshot.pipelines[0].rollout;
    rollout.candidate = None;
    rollout.refused = Some("a17c66f0e5d2093b".to_owned());
    rollout.decision = Some(RolloutDecision {
        time: now - 5000,
        generation: "a17c66f0e5d2093b".to_owned(),
        reason: Some("trap".to_owned()),
        why: "trap in 2 calls of 9 batches".to_owned(),
    });
    let back = [
        "Pipeline temperature runs another chain than configured",
        "put back (trap)",
        "trap in 2 calls of 9 batches.",
    ];
    check(refused, &back, &["Everything is flowing", "Canary <code>"]).await;
    // The view hands out the same old snapshot for ever.
    let mut still = rich();
    still.snapshot.time -= 40_000;
    let stands = ["The figures on this page stand still"];
    check(still, &stands, &["Everything is flowing"]).await;
}

#[tokio::test]
async fn every_answer_is_what_the_description_says() {
    let document = get(rich(), "/api/v1/openapi.json").await.json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for picture in [rich, outage, broken, empty, waiting] {
        for (path, kind) in KINDS {
            let get_ = &document["paths"][path]["get"];
            let answer = get(picture(), path).await;
            let content = &get_["responses"][answer.status.as_str()]["content"];
            let described: Vec<&String> = content.as_object().unwrap().keys().collect();
            assert!(kind.starts_with(described[0].as_str()), "{path}: {kind}");
            if described[0] == "application/json" {
                let schema = serde_json::json!({
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "components": document["components"],
                    "allOf": [content["application/json"]["schema"]],
                });
                let validator = jsonschema::validator_for(&schema).unwrap();
                let errors: Vec<String> = validator
                    .iter_errors(&answer.json())
                    .map(|e| format!("{path}: {}: {e}", e.instance_path))
                    .collect();
                assert_eq!(errors, Vec::<String>::new());
            }
        }
    }
    let paths: BTreeSet<&str> = KINDS.iter().map(|(path, _)| *path).collect();
    let described = document["paths"].as_object().unwrap();
    let read = described
        .iter()
        .filter(|(_, methods)| !methods["get"].is_null());
    assert_eq!(paths, read.map(|(path, _)| path.as_str()).collect());
}

/// Takes every order about row 1, and knows no other row.
struct Clerk;

impl Actions for Clerk {
    fn try_out(
        &self,
        _by: Caller,
        request: tidegate_status::TryRequest,
    ) -> tidegate_status::Answer<'_, tokio::sync::mpsc::Receiver<Value>> {
        Box::pin(async move {
            if request.pipeline != "p" {
                return Err(Refused::Missing("no such pipeline".to_owned()));
            }
            let (lines, told) = tokio::sync::mpsc::channel(2);
            let line = serde_json::json!({ "bytes": request.component.len() });
            lines.try_send(line).unwrap();
            lines
                .try_send(serde_json::json!({ "state": "judged" }))
                .unwrap();
            Ok(told)
        })
    }

    fn roll_back(&self, _by: Caller, module: String) -> tidegate_status::Answer<'_> {
        Box::pin(async move {
            match module.as_str() {
                "scale" => Ok(serde_json::json!({ "module": module, "pipelines": ["p"] })),
                _ => Err(Refused::Missing("no pipeline runs it".to_owned())),
            }
        })
    }

    fn update(&self, _by: Caller, from: Option<std::path::PathBuf>) -> tidegate_status::Answer<'_> {
        Box::pin(async move {
            match from {
                Some(_) => Err(Refused::Request("metadata/root.json: no".to_owned())),
                None => Ok(serde_json::json!({ "epoch": 4 })),
            }
        })
    }

    fn install(&self, _by: Caller, certificate: String) -> tidegate_status::Answer<'_> {
        Box::pin(async move {
            match certificate.starts_with("-----BEGIN CERTIFICATE-----") {
                true => Ok(serde_json::json!({ "subject": "gw", "not_before": 1, "not_after": 2 })),
                false => Err(Refused::Request("it holds no certificate".to_owned())),
            }
        })
    }

    fn quarantine(
        &self,
        _by: Caller,
        action: Action,
        selection: Selection,
    ) -> tidegate_status::Answer<'_> {
        Box::pin(async move {
            match selection.ids[..] {
                [1] => Ok(serde_json::json!({
                    "order": 7, "action": action, "rows": 1, "refused": {},
                })),
                _ => Err(Refused::Missing("no such row".to_owned())),
            }
        })
    }

    fn acknowledge(
        &self,
        _by: Caller,
        request: tidegate_domain::alarm::Request,
    ) -> tidegate_status::Answer<'_> {
        Box::pin(async move {
            request.selection().map_err(Refused::Request)?;
            Ok(serde_json::json!({ "acknowledged": 2 }))
        })
    }
}

#[tokio::test]
async fn actions_are_on_the_control_socket_alone() {
    const REPLAY: &str = "/api/v1/quarantine/replay";
    let control = control_router(Arc::new(rich()), Arc::new(Clerk));
    let post = |path: &str, body: &str| {
        Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let check = async |path: &str, body: &str, expect: StatusCode, words: &str| {
        let response = control.clone().oneshot(post(path, body)).await.unwrap();
        assert_eq!(response.status(), expect, "{body}");
        assert!(
            response
                .headers()
                .contains_key(header::CONTENT_SECURITY_POLICY)
        );
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(words), "{body}: {text}");
    };
    check(
        REPLAY,
        r#"{"ids":[1]}"#,
        StatusCode::ACCEPTED,
        r#""action":"replay""#,
    )
    .await;
    let drop = "/api/v1/quarantine/drop";
    check(
        drop,
        r#"{"ids":[1]}"#,
        StatusCode::ACCEPTED,
        r#""action":"drop""#,
    )
    .await;
    const UPDATE: &str = "/api/v1/modules/update";
    check(UPDATE, "{}", StatusCode::OK, r#""epoch":4"#).await;
    let from = r#"{"from":"/media/usb"}"#;
    let refused = StatusCode::UNPROCESSABLE_ENTITY;
    check(UPDATE, from, refused, "metadata/root.json: no").await;
    const TRY: &str = "/api/v1/modules/try";
    let head = r#"{"pipeline":"p","seconds":1,"manifest":{}}"#;
    let large = format!("{head}\n{}", "x".repeat(2 << 20));
    let lines = "{\"bytes\":2097152}\n{\"state\":\"judged\"}\n";
    check(TRY, &large, StatusCode::OK, lines).await;
    let unknown = format!("{}\n", head.replace("\"p\"", "\"q\""));
    check(TRY, &unknown, StatusCode::NOT_FOUND, "no such pipeline").await;
    check(
        TRY,
        head,
        StatusCode::UNPROCESSABLE_ENTITY,
        "no line of JSON",
    )
    .await;
    let typo = "{\"pipline\":\"p\"}\n";
    check(TRY, typo, StatusCode::UNPROCESSABLE_ENTITY, "pipline").await;
    check(
        REPLAY,
        r#"{"ids":[2]}"#,
        StatusCode::NOT_FOUND,
        "no such row",
    )
    .await;
    let request = StatusCode::UNPROCESSABLE_ENTITY;
    check(REPLAY, "{}", request, "which rows?").await;
    check(REPLAY, r#"{"row":1}"#, request, "unknown field").await;
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(2 << 20));
    let large = StatusCode::PAYLOAD_TOO_LARGE;
    check(REPLAY, &long, large, "length limit").await;
    check(REPLAY, "no json", StatusCode::BAD_REQUEST, "JSON").await;

    let alarms = "/api/v1/alarms/acknowledge";
    let sound = r#"{"series":"**","by":"Anna"}"#;
    check(alarms, sound, StatusCode::OK, r#""acknowledged":2"#).await;
    check(alarms, r#"{"series":"**"}"#, request, "missing field `by`").await;
    check(
        alarms,
        r#"{"series":"[","by":"x"}"#,
        request,
        "no series glob",
    )
    .await;
    check(
        alarms,
        r#"{"series":"x","by":" "}"#,
        request,
        "`by` is empty",
    )
    .await;

    // The views are there too.
    let view = request_to(&control, Method::GET, "/healthz").await;
    assert_eq!(view, StatusCode::OK);
    assert_eq!(
        request_to(&control, Method::GET, REPLAY).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    // The page's listener has no action.
    let page = router(Arc::new(rich()));
    assert_eq!(
        request_to(&page, Method::POST, REPLAY).await,
        StatusCode::NOT_FOUND
    );
}

async fn request_to(router: &axum::Router, method: Method, path: &str) -> StatusCode {
    let request = request(method, path, &[]);
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn the_ledger_says_whether_it_balances() {
    let good = get(rich(), "/api/v1/ledger").await.json();
    assert_eq!(good["balanced"], true);
    assert_eq!(good["imbalances"], serde_json::json!([]));
    assert_eq!(good["sources"]["plant"]["received"], 41_207_331);
    assert_eq!(good["pipelines"]["temperature"]["quarantine"]["held"], 1);
    let mut picture = rich();
    picture.ledger.sources.insert(
        "odd".to_owned(),
        SourceCounts {
            received: 6,
            decoded: 5,
            ..SourceCounts::default()
        },
    );
    let bad = get(picture, "/api/v1/ledger").await.json();
    assert_eq!(bad["balanced"], false);
    assert_eq!(
        bad["imbalances"],
        serde_json::json!([{
            "scope": "source odd",
            "equation": "received = decoded + quarantined + dropped",
            "left": 6,
            "right": 5
        }])
    );
}

#[tokio::test]
async fn lists_are_the_parts_of_the_status() {
    let status = get(outage(), "/api/v1/status").await.json();
    for part in ["sources", "pipelines", "uplinks", "modules"] {
        let list = get(outage(), &format!("/api/v1/{part}")).await.json();
        let items = list["items"].as_array().unwrap();
        let names = |list: &Value| -> Vec<Value> {
            let list = list.as_array().unwrap().iter();
            list.map(|item| item["name"].clone()).collect()
        };
        assert_eq!(names(&list["items"]), names(&status[part]), "{part}");
        assert!(!items.is_empty());
        // Modules come with the slots that they stand in.
        let more: &[&str] = if part == "modules" {
            &["rollouts", "slots"]
        } else {
            &[]
        };
        let keys: Vec<&String> = list.as_object().unwrap().keys().collect();
        assert_eq!(keys, [&["items"], more].concat());
    }
}

/// One line of the text format, taken apart by its grammar.
fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let name_end = line
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap();
    let (name, mut rest) = line.split_at(name_end);
    assert!(!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()));
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("the value ends") {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c @ ('"' | '\\') => value.push(c),
                        c => panic!("\\{c} is no escape: {line}"),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').expect("a comma between labels");
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

#[tokio::test]
async fn metrics_are_well_formed_and_true() {
    let mut picture = outage();
    let evil = "back\\slash \"quote\"\nnew line";
    picture.snapshot.sources[0].name = evil.to_owned();
    let text = get(picture.clone(), "/metrics").await.text;
    assert!(text.ends_with('\n'));
    let mut kinds = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut values = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty());
            assert!(seen.insert(name.to_owned()), "{name} twice");
            family = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge"].contains(&kind));
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, family, "samples of a family stand together");
            assert_eq!(
                kinds[&name] == "counter",
                name.ends_with("_total"),
                "{name}"
            );
            let key = format!("{name} {labels:?}");
            assert!(values.insert(key, value).is_none(), "twice: {line}");
        }
    }
    let check = |name: &str, labels: &[(&str, &str)], expect: f64| {
        let labels: Vec<(String, String)> = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let key = format!("{name} {labels:?}");
        assert_eq!(values.get(&key), Some(&expect), "{key}");
    };
    check(
        "tidegate_source_messages_redelivered_total",
        &[("source", evil)],
        214.0,
    );
    let dropped = [("source", evil), ("reason", "overflow")];
    check("tidegate_source_messages_dropped_total", &dropped, 2.0);
    let down = [("uplink", "cloud"), ("state", "backing-off")];
    check("tidegate_uplink_state", &down, 1.0);
    let up = [("uplink", "cloud"), ("state", "connected")];
    check("tidegate_uplink_state", &up, 0.0);
    let cloud = [("uplink", "cloud")];
    check("tidegate_uplink_oldest_waiting_age_seconds", &cloud, 198.4);
    let trapped = [
        ("pipeline", "vibration"),
        ("filter", "anomaly"),
        ("kind", "trap"),
    ];
    check("tidegate_filter_failures_total", &trapped, 3.0);
    let temperature = ("pipeline", "temperature");
    let canary = [temperature, ("state", "canary")];
    check("tidegate_rollout_state", &canary, 1.0);
    check("tidegate_rollout_series_share", &[temperature], 0.05);
    check("tidegate_rollout_samples", &[temperature], 4120.0);
    check("tidegate_rollout_remaining_seconds", &[temperature], 2960.0);
    let floats = [temperature, ("kind", "float")];
    check("tidegate_rollout_differing", &floats, 3.0);
    let promoted = [
        temperature,
        ("generation", "5f1c0c8e2ad97b44"),
        ("reason", "promoted"),
    ];
    check("tidegate_rollout_last_decision_info", &promoted, 1.0);
    let good = [temperature, ("generation", "0d1be6a2c4419f07")];
    check("tidegate_rollout_last_good_info", &good, 1.0);
    let press = [("source", "press"), ("kind", "trap")];
    check("tidegate_decoder_failures_total", &press, 2.0);
    check("tidegate_ledger_imbalances", &[], 0.0);
    let press = [("kind", "source"), ("name", "press"), ("role", "server")];
    let until = picture.snapshot.sources[1]
        .tls
        .as_ref()
        .unwrap()
        .certificates[2]
        .not_after;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a real date")]
    let until = until as f64 / 1000.0;
    check("tidegate_certificate_expiry_time_seconds", &press, until);
    check("tidegate_store_bytes", &[], 331_350_016.0);
    let process = |name: &str| values[&format!("{name} []")];
    assert!(process("process_resident_memory_bytes") > 1e6);
    assert!(process("process_cpu_seconds_total") > 0.0);
    assert!(process("process_open_fds") >= 3.0);
    assert!(process("process_max_fds") >= process("process_open_fds"));
}

#[tokio::test]
async fn a_view_that_panics_is_a_500() {
    struct Broken;
    impl View for Broken {
        fn snapshot(&self) -> Arc<Snapshot> {
            panic!("the view is broken")
        }
        fn ledger(&self) -> Arc<tidegate_domain::Ledger> {
            Arc::default()
        }
        fn audit(&self, _: Option<u64>, _: usize) -> Result<Vec<Value>, String> {
            Ok(Vec::new())
        }
        fn ready(&self) -> Readiness {
            Readiness::default()
        }
        fn healthy(&self) -> Result<(), String> {
            Ok(())
        }
    }
    let app = router(Arc::new(Broken));
    let request = request(Method::GET, "/api/v1/status", &[]);
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        response
            .headers()
            .contains_key(header::CONTENT_SECURITY_POLICY)
    );
}

/// Sends raw bytes and reads until the server closes.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_loopback_listener_answers_local_names_alone_and_drains() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let refused = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&refused);
    let refusals: Refusals = Arc::new(move |request| told.lock().unwrap().push(request));
    let server = tokio::spawn(serve(listener, router(Arc::new(rich())), refusals, async {
        stopped.await.unwrap();
    }));
    let check = async |request: &str, status: &str| {
        let answer = exchange(address, request).await;
        assert!(answer.starts_with(status), "{request} {answer}");
        assert!(answer.contains("content-security-policy: "));
    };
    let close = "connection: close\r\n\r\n";
    let local = format!("GET /healthz HTTP/1.1\r\nhost: localhost:9\r\n{close}");
    check(&local, "HTTP/1.1 200").await;
    let rebound = format!("GET /api/v1/status HTTP/1.1\r\nhost: evil.example\r\n{close}");
    check(&rebound, "HTTP/1.1 421").await;
    let target = format!("GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n{close}");
    check(&target, "HTTP/1.1 421").await;
    let old = "GET /healthz HTTP/1.0\r\n\r\n";
    check(old, "HTTP/1.0 200").await;

    let posted = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n{close}");
    check(&posted, "HTTP/1.1 405").await;
    let nothing = format!("GET /nothing HTTP/1.1\r\nhost: localhost\r\n{close}");
    check(&nothing, "HTTP/1.1 404").await;
    let refusal = |method: &str, path: &str, status| RefusedRequest {
        client: Client::Page("127.0.0.1".to_owned()),
        method: method.to_owned(),
        path: path.to_owned(),
        status,
    };
    assert_eq!(
        *refused.lock().unwrap(),
        [
            refusal("GET", "/api/v1/status", 421),
            refusal("GET", "/", 421),
            refusal("POST", "/", 405),
        ]
    );

    // An idle connection does not hold up the end; one that is open is closed, and no further one is taken.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0_u8; 12];
    idle.read_exact(&mut first).await.unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
