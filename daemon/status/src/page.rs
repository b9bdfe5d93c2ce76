//! The page: the snapshot arranged for a person. Everything that the template prints is escaped by it; texts that
//! devices sent stay texts.

mod curve;
mod equations;
mod path;

use std::collections::BTreeMap;
use std::time::SystemTime;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use tidegate_domain::Ledger;

use self::curve::{Series, series};
use self::equations::{Equation, equations};
use self::path::{Stage, stages};
use crate::format;
use crate::routes::Shared;
use crate::verdict::{self, Level, Losses, Verdict};
use crate::view::{
    AlarmRow, AlarmSeverity, AlarmState, CandidateStatus, ClockStep, DeployState, ErrorLevel,
    FilterState, FilterStatus, ModuleOrigin, ModuleState, PipelineStatus, RolloutDecision,
    RolloutStatus, SlaveStatus, Snapshot, SourceState, SourceStatus, StoreState, TickStatus,
    UplinkState, UplinkStatus,
};

/// An uplink whose oldest item has waited for less is not behind.
const KEEPS_UP_SECONDS: f64 = 30.0;
/// Series whose latest window is shown.
const SERIES: usize = 40;

pub(crate) async fn page(State(view): State<Shared>) -> Response {
    let snapshot = view.snapshot();
    let ledger = view.ledger();
    let now = now_millis();
    let verdict = verdict::judge(&snapshot, &ledger, &view.ready(), &view.healthy(), now);
    html(StatusCode::OK, &Page::new(&snapshot, &ledger, verdict, now))
}

/// An answer that says what is wrong with the request: a page for a browser, RFC 9457 for a program.
pub(crate) fn problem(status: StatusCode, detail: &str, path: &str, accept: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    if accept.contains("text/html") && !path.starts_with("/api/") {
        let page = ProblemPage {
            status: status.as_u16(),
            title,
            detail,
            path,
        };
        return html(status, &page);
    }
    let body = serde_json::to_string(&Problem {
        kind: "about:blank",
        title,
        status: status.as_u16(),
        detail,
    });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, body.unwrap_or_default()).into_response()
}

fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page could not be drawn");
            let text = "The page could not be drawn; /api/v1/status has the same figures.\n";
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

fn now_millis() -> i64 {
    // Before 1970 or beyond the year 292 million there is no sensible age to show anyway.
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    path: &'a str,
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    now: i64,
    s: &'a Snapshot,
    verdict: Verdict,
    losses: Losses,
    stages: Vec<Stage>,
    equations: Vec<Equation>,
    series: Vec<Series<'a>>,
    series_hidden: usize,
}

impl<'a> Page<'a> {
    fn new(snapshot: &'a Snapshot, ledger: &Ledger, verdict: Verdict, now: i64) -> Self {
        let mut series = series(&snapshot.recent_summaries);
        let series_hidden = series.len().saturating_sub(SERIES);
        series.truncate(SERIES);
        Self {
            now,
            s: snapshot,
            verdict,
            losses: verdict::losses(ledger),
            stages: stages(snapshot),
            equations: equations(ledger),
            series,
            series_hidden,
        }
    }

    fn ago(&self, time: &i64) -> String {
        format::relative(*time, self.now)
    }

    fn due(&self, time: &i64) -> String {
        if *time > self.now {
            format::relative(*time, self.now)
        } else {
            "due".to_owned()
        }
    }

    fn lasting(&self, since: &i64) -> String {
        let lasted = self.now.saturating_sub(*since).max(0).unsigned_abs();
        format!("for {}", format::whole(lasted / 1000))
    }

    fn balanced(&self) -> bool {
        self.equations.iter().all(Equation::balanced)
    }

    fn subscribed(&self) -> usize {
        let level = |source: &&SourceStatus| source.level() == Level::Good;
        self.s.sources.iter().filter(level).count()
    }

    fn modules_active(&self) -> usize {
        let active = |state| state == ModuleState::Active;
        self.s.modules.iter().filter(|m| active(m.state)).count()
    }

    fn alarms_hidden(&self) -> u64 {
        let shown = self.s.alarms.items.len() as u64;
        self.s.alarms.active.saturating_sub(shown)
    }

    fn stale_hidden(&self) -> u64 {
        let shown = self.s.alarms.stale_items.len() as u64;
        self.s.alarms.stale.saturating_sub(shown)
    }

    fn fill(&self) -> String {
        format::percent(self.s.store.bytes, self.s.store.max_bytes)
    }

    fn used_width(&self) -> String {
        format::width(self.s.store.bytes, self.s.store.max_bytes)
    }

    fn wal_width(&self) -> String {
        format::width(self.s.store.wal_bytes, self.s.store.max_bytes)
    }

    fn database_width(&self) -> String {
        format::width(self.database_bytes(), self.s.store.max_bytes)
    }

    fn database_bytes(&self) -> u64 {
        self.s.store.bytes.saturating_sub(self.s.store.wal_bytes)
    }
}

// States as levels and words.

/// The word of the API with a space for the hyphen.
fn words(state: &str) -> String {
    state.replace('-', " ")
}

impl AlarmRow {
    fn level(&self) -> Level {
        match (self.state, self.severity) {
            (AlarmState::Acknowledged, _) | (AlarmState::Raised, AlarmSeverity::Info) => {
                Level::Idle
            }
            (AlarmState::Raised, AlarmSeverity::Warning) => Level::Warn,
            (AlarmState::Raised, AlarmSeverity::Critical) => Level::Bad,
        }
    }
}

impl SourceStatus {
    fn level(&self) -> Level {
        match self.state {
            SourceState::Connecting => Level::Idle,
            SourceState::Subscribed => Level::Good,
            SourceState::BackingOff => Level::Warn,
        }
    }

    fn state_word(&self) -> String {
        words(self.state.as_str())
    }

    fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    fn dropped_words(&self) -> String {
        reasons(&self.dropped)
    }
}

impl SlaveStatus {
    /// Whether it does all that it is asked.
    fn is_well(&self) -> bool {
        self.answers != Some(false) && self.refused == 0
    }

    fn level(&self) -> Level {
        if self.is_well() {
            Level::Good
        } else {
            Level::Warn
        }
    }

    fn words(&self) -> String {
        let state = match self.answers {
            None => "was not asked yet",
            Some(true) => "answers",
            Some(false) => "does not answer",
        };
        let mut words = format!(
            "slave {} {state} · {} of {}",
            self.unit,
            format::count(self.answered),
            format::counted(self.requests, "request", "requests")
        );
        if self.answered + self.exceptions > 0 {
            words += &format!(
                " · {}, at most {}",
                format::duration(self.round_trip_seconds),
                format::duration(self.round_trip_longest_seconds)
            );
        }
        for (count, what) in [
            (self.silent, "without an answer"),
            (self.garbled, "damaged"),
            (self.exceptions, "refused"),
            (self.missed, "polls missed"),
        ] {
            if count > 0 {
                words += &format!(" · {} {what}", format::count(count));
            }
        }
        if self.refused > 0 {
            words += &format!(
                " · has not {}",
                format::counted(self.refused, "value", "values")
            );
        }
        words
    }
}

impl ClockStep {
    fn words(&self) -> String {
        let direction = if self.seconds < 0.0 { "back" } else { "ahead" };
        format!("{} {direction}", format::duration(self.seconds.abs()))
    }
}

impl PipelineStatus {
    fn level(&self) -> Level {
        self.filters
            .iter()
            .map(FilterStatus::level)
            .max()
            .unwrap_or(Level::Good)
    }

    fn state_word(&self) -> String {
        match self.level() {
            Level::Good | Level::Idle => "running".to_owned(),
            Level::Warn | Level::Bad => "filter switched off".to_owned(),
        }
    }

    fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    fn dropped_words(&self) -> String {
        reasons(&self.dropped)
    }
}

impl PipelineStatus {
    fn chain(&self) -> &[FilterStatus] {
        &self.filters
    }

    fn caption(&self) -> String {
        let name = &self.name;
        format!("Filters of pipeline {name}, in the order of the chain")
    }

    fn first_module(&self) -> Option<&str> {
        self.filters.first().map(|filter| filter.module.as_str())
    }
}

impl RolloutStatus {
    fn title(&self) -> &'static str {
        match self.state.as_str() {
            "shadow" => "Candidate in shadow",
            _ => "Canary",
        }
    }

    fn last_good_words(&self) -> String {
        let slots = self.last_good_slots.iter();
        let words: Vec<String> = slots
            .map(|slot| format!("{} {}", slot.module, slot.version))
            .collect();
        words.join(" → ")
    }
}

impl CandidateStatus {
    fn chain(&self) -> &[FilterStatus] {
        &self.filters
    }

    fn caption(&self) -> String {
        format!("Filters of candidate {}", self.generation)
    }

    /// `speaks for 5 % of the series`.
    fn heard(&self) -> String {
        match self.share {
            Some(share) => {
                let percent = format::measured(share * 100.0);
                format!("speaks for {percent} % of the series, one at least")
            }
            None => "runs on copies, heard by nobody".to_owned(),
        }
    }

    fn first_module(&self) -> &str {
        let first = self.filters.first();
        first.map_or("NAME", |filter| filter.module.as_str())
    }

    fn differing_words(&self) -> String {
        let by = self.differing_by;
        let kinds = [
            ("float", by.float),
            ("integer", by.integer),
            ("boolean", by.boolean),
            ("text", by.text),
            ("alarm", by.alarm),
        ];
        counted(&kinds)
    }
}

impl RolloutDecision {
    /// `promoted`, `put back (trap)`.
    fn word(&self) -> String {
        match &self.reason {
            None => "promoted".to_owned(),
            Some(reason) => format!("put back ({reason})"),
        }
    }
}

impl TickStatus {
    /// `on 12 ticks, of which 1 failed; 3 rows added`.
    fn words(&self) -> String {
        let ticks = format::counted(self.called, "tick", "ticks");
        let rows = format::counted(self.derived, "row", "rows");
        match self.failed {
            0 => format!("{ticks}; {rows} added"),
            failed => format!("{ticks}, {} failed; {rows} added", format::count(failed)),
        }
    }
}

impl FilterStatus {
    /// Of a decoder, whose rows in are messages.
    fn decoder_words(&self) -> String {
        let calls = format::counted(self.calls, "call", "calls");
        let mut words = format!("{}, {calls}, p99 {}", self.state, self.p99_seconds.took());
        if self.failures.total() > 0 {
            words = format!("{words}, failed: {}", self.failure_words());
        }
        words
    }

    fn level(&self) -> Level {
        match self.state {
            FilterState::Running => Level::Good,
            FilterState::Tripped => Level::Warn,
        }
    }

    fn failure_words(&self) -> String {
        let f = self.failures;
        let kinds = [
            ("trap", f.trap),
            ("timeout", f.timeout),
            ("fault", f.fault),
            ("invalid", f.invalid),
        ];
        counted(&kinds)
    }
}

impl crate::view::StoreStatus {
    fn level(&self) -> Level {
        match self.state {
            StoreState::Healthy => Level::Good,
            StoreState::Degraded
            | StoreState::ReadOnly
            | StoreState::Full
            | StoreState::Corrupt => match self.acknowledges {
                true => Level::Warn,
                false => Level::Bad,
            },
        }
    }

    fn state_word(&self) -> String {
        words(self.state.as_str())
    }
}

impl UplinkStatus {
    fn circuit_word(&self) -> String {
        words(self.circuit.as_str())
    }

    fn level(&self) -> Level {
        match self.state {
            UplinkState::Connecting => Level::Idle,
            UplinkState::Connected => Level::Good,
            UplinkState::BackingOff => Level::Warn,
        }
    }

    fn state_word(&self) -> String {
        words(self.state.as_str())
    }

    /// What waits is no more than what the uplink's linger and one round trip explain.
    fn keeps_up(&self) -> bool {
        let young = |age| age < KEEPS_UP_SECONDS;
        let fresh = self.oldest_waiting_age_seconds.is_none_or(young);
        self.waiting == 0 || (self.level() == Level::Good && fresh)
    }

    /// `Behind by 3 min, 1,204 items`.
    fn backlog(&self) -> String {
        if self.waiting > 0 && self.keeps_up() {
            let items = format::counted(self.waiting, "item", "items");
            return format!("Up to date, {items} on the way");
        }
        match (self.waiting, self.oldest_waiting_age_seconds) {
            (0, _) => "Up to date".to_owned(),
            (items, Some(age)) => format!(
                "Behind by {}, {}",
                format::duration(age),
                format::counted(items, "item", "items")
            ),
            (items, None) => format!("Behind by {}", format::counted(items, "item", "items")),
        }
    }
}

impl crate::view::ModuleStatus {
    /// The key in short, as much of it as tells two apart.
    fn key(&self) -> Option<&str> {
        let key = self.signed_by.as_deref()?;
        Some(key.get(..16).unwrap_or(key))
    }

    /// The class of the origin: red for what nobody answers for.
    fn origin_class(&self) -> &'static str {
        match self.origin {
            ModuleOrigin::Local => Level::Bad.class(),
            ModuleOrigin::Factory | ModuleOrigin::Signed | ModuleOrigin::Channel => "",
        }
    }

    fn level(&self) -> Level {
        match self.state {
            ModuleState::Idle | ModuleState::Candidate | ModuleState::Previous => Level::Idle,
            ModuleState::Active => Level::Good,
            ModuleState::Refused => Level::Warn,
        }
    }
}

impl crate::view::DeployStatus {
    fn level(&self) -> Level {
        match self.state {
            DeployState::Waiting => Level::Idle,
            DeployState::Current
                if self.install.refused.is_some()
                    || self.install.problem.is_some()
                    || self
                        .install
                        .waiting
                        .as_ref()
                        .is_some_and(|wait| wait.failed_tries > 0) =>
            {
                Level::Warn
            }
            DeployState::Current => Level::Good,
            DeployState::Expiring
            | DeployState::Expired
            | DeployState::Unreachable
            | DeployState::Refused => Level::Warn,
        }
    }
}

impl crate::view::ErrorGroup {
    fn class(&self) -> &'static str {
        match self.level {
            ErrorLevel::Error => Level::Bad.class(),
            ErrorLevel::Warn => Level::Warn.class(),
        }
    }
}

/// `trap 3, fault 1`: what there is any of.
fn counted(kinds: &[(&str, u64)]) -> String {
    let kinds = kinds.iter().filter(|(_, count)| *count > 0);
    let words: Vec<String> = kinds
        .map(|(kind, count)| format!("{kind} {}", format::count(*count)))
        .collect();
    words.join(", ")
}

fn reasons(by_reason: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = by_reason
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {}", format::count(*count)))
        .collect();
    parts.join(", ")
}

/// How the template prints numbers: `{{ source.received.n() }}`.
trait Whole {
    fn n(&self) -> String;
    fn size(&self) -> String;
    fn span(&self) -> String;
}

impl Whole for u64 {
    fn n(&self) -> String {
        format::count(*self)
    }

    fn size(&self) -> String {
        format::bytes(*self)
    }

    fn span(&self) -> String {
        format::whole(*self)
    }
}

/// Likewise for what is measured, and for what may be missing.
trait Measured {
    fn rate(&self) -> String;
    fn took(&self) -> String;
    fn ago(&self) -> String;
    fn value(&self) -> String;
}

impl Measured for f64 {
    fn rate(&self) -> String {
        format::rate(*self)
    }

    fn took(&self) -> String {
        format::duration(*self)
    }

    fn ago(&self) -> String {
        format::age(*self)
    }

    fn value(&self) -> String {
        format::measured(*self)
    }
}

impl Measured for Option<f64> {
    fn rate(&self) -> String {
        self.map_or_else(|| format::NONE.to_owned(), format::rate)
    }

    fn took(&self) -> String {
        self.map_or_else(|| format::NONE.to_owned(), format::duration)
    }

    fn ago(&self) -> String {
        self.map_or_else(|| format::NONE.to_owned(), format::age)
    }

    fn value(&self) -> String {
        self.map_or_else(|| format::NONE.to_owned(), format::measured)
    }
}

/// Likewise for moments.
trait Moment {
    fn iso(&self) -> String;
    fn absolute(&self) -> String;
    fn clock(&self) -> String;
}

impl Moment for i64 {
    fn iso(&self) -> String {
        format::machine_time(*self)
    }

    fn absolute(&self) -> String {
        format::absolute(*self)
    }

    fn clock(&self) -> String {
        format::clock(*self)
    }
}

/// Likewise for digests.
trait Digest {
    fn short(&self) -> String;
}

impl Digest for String {
    fn short(&self) -> String {
        format::short_digest(self)
    }
}
