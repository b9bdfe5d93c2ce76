//! The Prometheus text format, version 0.0.4, written from the snapshot.
//!
//! Written by hand: every figure already stands in the snapshot and the ledger, and a client library would keep a
//! second copy of each. Labels are names from the configuration and fixed words, never a series: the number of
//! time series is bounded by the configuration.

mod chains;

use std::fmt::{Display, Write};
use std::fs;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use tidegate_domain::Ledger;

use crate::certificates::connections;
use crate::routes::Shared;
use crate::view::{
    CertificateRole, Circuit, DeployState, Readiness, Snapshot, SourceState, StoreState,
    UplinkState,
};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn metrics(State(view): State<Shared>) -> impl IntoResponse {
    let text = render(
        &view.snapshot(),
        &view.ledger(),
        &view.ready(),
        view.healthy().is_ok(),
    );
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}

fn render(snapshot: &Snapshot, ledger: &Ledger, ready: &Readiness, healthy: bool) -> String {
    let mut out = Exposition::default();
    gateway(&mut out, snapshot, ledger, ready, healthy);
    sources(&mut out, snapshot);
    slaves(&mut out, snapshot);
    chains::pipelines(&mut out, snapshot);
    chains::filters(&mut out, snapshot);
    chains::rollouts(&mut out, snapshot);
    chains::decoders(&mut out, snapshot);
    store(&mut out, snapshot);
    uplinks(&mut out, snapshot);
    alarms(&mut out, snapshot);
    certificates(&mut out, snapshot);
    commands(&mut out, snapshot);
    deploy(&mut out, snapshot);
    audit(&mut out, snapshot);
    process(&mut out, snapshot);
    out.text
}

fn gateway(
    out: &mut Exposition,
    snapshot: &Snapshot,
    ledger: &Ledger,
    ready: &Readiness,
    healthy: bool,
) {
    let gateway = &snapshot.gateway;
    out.gauge("tidegate_build_info", "Always 1; the labels say what runs.")
        .sample(
            &[("version", &gateway.version), ("gateway", &gateway.id)],
            1,
        );
    out.gauge("tidegate_healthy", "1 while the process can go on.")
        .sample(&[], u8::from(healthy));
    out.gauge(
        "tidegate_ready",
        "1 while sources, store and filters work; the cloud does not count.",
    )
    .sample(&[], u8::from(ready.ready));
    out.gauge("tidegate_clock_synced", "1 while the wall clock is set.")
        .sample(&[], u8::from(gateway.clock_synced));
    out.counter(
        "tidegate_clock_steps_total",
        "Steps of the wall clock by more than a second, since the store was made.",
    )
    .sample(&[], gateway.clock_steps);
    if let Some(step) = gateway.clock_last_step {
        out.gauge(
            "tidegate_clock_last_step_seconds",
            "How far the last of them went; negative backwards.",
        )
        .sample(&[], step.seconds);
    }
    out.gauge(
        "tidegate_ledger_imbalances",
        "Ledger equations that do not hold; anything but 0 is a fault.",
    )
    .sample(&[], ledger.imbalances().len());
    out.gauge(
        "tidegate_uptime_seconds",
        "Seconds since the process started, by the monotonic clock.",
    )
    .sample(&[], gateway.uptime_seconds);
    out.gauge(
        "tidegate_snapshot_time_seconds",
        "When these figures were taken, in seconds since the epoch.",
    )
    .sample(&[], seconds(snapshot.time));
    out.gauge(
        "tidegate_quarantine_rows",
        "Messages and readings in quarantine.",
    )
    .sample(&[], snapshot.quarantine_total);
}

fn commands(out: &mut Exposition, snapshot: &Snapshot) {
    let mut family = out.counter(
        "tidegate_commands_total",
        "Commands from the cloud, by what came of them.",
    );
    for counts in &snapshot.commands.uplinks {
        for (outcome, count) in [
            ("done", counts.done),
            ("refused", counts.refused),
            ("repeated", counts.repeated),
        ] {
            family.sample(&[("uplink", &counts.uplink), ("outcome", &outcome)], count);
        }
    }
    out.gauge(
        "tidegate_details_active",
        "Series globs whose every reading goes up for a time.",
    )
    .sample(&[], snapshot.commands.details.len());
    out.gauge(
        "tidegate_backfills_active",
        "Backfills out of history that are at work.",
    )
    .sample(&[], snapshot.commands.backfills.len());
}

fn alarms(out: &mut Exposition, snapshot: &Snapshot) {
    let alarms = &snapshot.alarms;
    let mut family = out.gauge(
        "tidegate_alarms_active",
        "Alarms that hold, by whether somebody acknowledged them.",
    );
    let raised = alarms.active.saturating_sub(alarms.acknowledged);
    for (state, count) in [("raised", raised), ("acknowledged", alarms.acknowledged)] {
        family.sample(&[("state", &state)], count);
    }
    out.counter(
        "tidegate_alarm_changes_suppressed_total",
        "Changes of alarms that were counted and not sent because there were too many.",
    )
    .sample(&[], alarms.suppressed);
    out.counter(
        "tidegate_alarms_lost_total",
        "Alarms that were not kept because there were too many at once; anything but 0 is a fault.",
    )
    .sample(&[], alarms.lost);
    out.gauge(
        "tidegate_alarm_floods",
        "Filters that change too many alarms now.",
    )
    .sample(&[], alarms.floods);
    out.gauge("tidegate_series", "Series that are listened for.")
        .sample(&[], alarms.series);
    out.gauge(
        "tidegate_series_stale",
        "Series that have been silent for longer than their source allows.",
    )
    .sample(&[], alarms.stale);
    out.counter(
        "tidegate_readings_unheard_total",
        "Readings of series that there is no room to listen for.",
    )
    .sample(&[], alarms.unheard);
}

fn sources(out: &mut Exposition, snapshot: &Snapshot) {
    let sources = &snapshot.sources;
    let mut family = out.gauge(
        "tidegate_source_state",
        "1 for the state that the source is in.",
    );
    for source in sources {
        for state in SourceState::ALL {
            family.sample(
                &[("source", &source.name), ("state", state)],
                u8::from(source.state == *state),
            );
        }
    }
    let mut counter = |name, help, value: fn(&crate::view::SourceStatus) -> u64| {
        let mut family = out.counter(name, help);
        for source in sources {
            family.sample(&[("source", &source.name)], value(source));
        }
    };
    counter(
        "tidegate_source_messages_received_total",
        "Messages taken in.",
        |s| s.received,
    );
    counter(
        "tidegate_source_messages_redelivered_total",
        "Messages taken in that the source had sent before.",
        |s| s.redelivered,
    );
    counter(
        "tidegate_source_messages_unidentified_total",
        "Messages taken in without the identity that the source is configured to give.",
        |s| s.unidentified,
    );
    counter(
        "tidegate_source_messages_decoded_total",
        "Messages that became readings.",
        |s| s.decoded,
    );
    counter(
        "tidegate_source_messages_quarantined_total",
        "Messages set aside.",
        |s| s.quarantined,
    );
    let mut family = out.counter(
        "tidegate_source_messages_dropped_total",
        "Messages dropped, by reason.",
    );
    for source in sources {
        for (reason, count) in &source.dropped {
            family.sample(&[("source", &source.name), ("reason", reason)], count);
        }
    }
    let mut family = out.gauge(
        "tidegate_source_in_flight_messages",
        "Messages taken in and not yet acknowledged.",
    );
    for source in sources {
        family.sample(&[("source", &source.name)], source.in_flight);
    }
    let mut family = out.gauge(
        "tidegate_source_receive_window_messages",
        "Messages the source sends without an acknowledgement, where that is known.",
    );
    for source in sources {
        if let Some(window) = source.receive_window {
            family.sample(&[("source", &source.name)], window);
        }
    }
    let mut family = out.gauge(
        "tidegate_source_last_message_age_seconds",
        "Seconds since the last message; absent before the first.",
    );
    for source in sources {
        if let Some(age) = source.last_message_age_seconds {
            family.sample(&[("source", &source.name)], age);
        }
    }
}

/// The slaves of Modbus sources. Without any there are no such families.
fn slaves(out: &mut Exposition, snapshot: &Snapshot) {
    let all: Vec<_> = snapshot
        .sources
        .iter()
        .flat_map(|source| {
            source
                .slaves
                .iter()
                .map(|slave| (&source.name, slave.unit.to_string(), slave))
        })
        .collect();
    if all.is_empty() {
        return;
    }
    let mut family = out.gauge(
        "tidegate_modbus_slave_answers",
        "1 while the slave answers, 0 while it does not; absent before it was asked first.",
    );
    for (source, unit, slave) in &all {
        if let Some(answers) = slave.answers {
            family.sample(&[("source", source), ("unit", unit)], u8::from(answers));
        }
    }
    let mut family = out.counter(
        "tidegate_modbus_requests_total",
        "Requests to the slave, by what came of them.",
    );
    for (source, unit, slave) in &all {
        for (result, count) in [
            ("answered", slave.answered),
            ("exception", slave.exceptions),
            ("silent", slave.silent),
            ("garbled", slave.garbled),
        ] {
            family.sample(
                &[("source", source), ("unit", unit), ("result", &result)],
                count,
            );
        }
    }
    let mut family = out.counter(
        "tidegate_modbus_polls_missed_total",
        "Polls of the slave left out because the one before was not done.",
    );
    for (source, unit, slave) in &all {
        family.sample(&[("source", source), ("unit", unit)], slave.missed);
    }
    let mut family = out.gauge(
        "tidegate_modbus_refused_values",
        "Values of the register map that the slave refuses.",
    );
    for (source, unit, slave) in &all {
        family.sample(&[("source", source), ("unit", unit)], slave.refused);
    }
    let mut family = out.counter(
        "tidegate_modbus_round_trip_seconds_total",
        "Time from request to answer, all together; answered and exception are their number.",
    );
    for (source, unit, slave) in &all {
        family.sample(
            &[("source", source), ("unit", unit)],
            slave.round_trip_sum_seconds,
        );
    }
    let mut family = out.gauge(
        "tidegate_modbus_round_trip_longest_seconds",
        "The longest time from request to answer since the start.",
    );
    for (source, unit, slave) in &all {
        family.sample(
            &[("source", source), ("unit", unit)],
            slave.round_trip_longest_seconds,
        );
    }
}

fn store(out: &mut Exposition, snapshot: &Snapshot) {
    let store = &snapshot.store;
    let mut family = out.gauge(
        "tidegate_store_state",
        "1 for the state that the store is in.",
    );
    for state in StoreState::ALL {
        family.sample(&[("state", state)], u8::from(store.state == *state));
    }
    out.gauge(
        "tidegate_store_acknowledges",
        "1 while commits succeed; otherwise nothing is acknowledged.",
    )
    .sample(&[], u8::from(store.acknowledges));
    out.gauge(
        "tidegate_store_set_aside",
        "Damaged databases that were set aside and are still there.",
    )
    .sample(&[], store.set_aside.len() as u64);
    out.gauge(
        "tidegate_store_set_aside_bytes",
        "Their bytes; they are beside tidegate_store_max_bytes.",
    )
    .sample(
        &[],
        store.set_aside.iter().map(|set| set.bytes).sum::<u64>(),
    );
    if let Some(recount) = &store.recount {
        out.gauge(
            "tidegate_ledger_recount_differences",
            "Counters and stored rows that the last recount found to disagree.",
        )
        .sample(&[], recount.differences);
        out.gauge(
            "tidegate_ledger_recount_failed",
            "1 where the last recount could not be done.",
        )
        .sample(&[], u8::from(recount.error.is_some()));
        out.gauge(
            "tidegate_ledger_recount_time_seconds",
            "When the last recount ended, since 1970.",
        )
        .sample(&[], recount.time / 1000);
    }
    out.gauge("tidegate_store_bytes", "Bytes of database and WAL.")
        .sample(&[], store.bytes);
    out.gauge(
        "tidegate_store_max_bytes",
        "The bound of tidegate_store_bytes.",
    )
    .sample(&[], store.max_bytes);
    out.gauge("tidegate_store_wal_bytes", "Bytes of the WAL.")
        .sample(&[], store.wal_bytes);
    out.gauge("tidegate_store_history_readings", "Readings in history.")
        .sample(&[], store.history_rows);
    if let Some(oldest) = store.oldest {
        out.gauge(
            "tidegate_store_oldest_reading_time_seconds",
            "The oldest reading's time, in seconds since the epoch.",
        )
        .sample(&[], seconds(oldest));
    }
    out.counter("tidegate_store_commits_total", "Commits since the start.")
        .sample(&[], store.commits);
    if let Some(written) = store.written_bytes {
        out.counter(
            "tidegate_written_bytes_total",
            "Bytes that the process has written to disk.",
        )
        .sample(&[], written);
    }
    out.gauge(
        "tidegate_store_rows_per_commit",
        "Rows of a commit of late.",
    )
    .sample(&[], store.rows_per_commit);
    let mut family = out.gauge(
        "tidegate_store_commit_seconds",
        "Duration of a commit of late, by quantile; absent before the first.",
    );
    for (quantile, value) in [
        ("0.5", store.commit_p50_seconds),
        ("0.99", store.commit_p99_seconds),
    ] {
        if let Some(value) = value {
            family.sample(&[("quantile", &quantile)], value);
        }
    }
}

fn uplinks(out: &mut Exposition, snapshot: &Snapshot) {
    let uplinks = &snapshot.uplinks;
    let mut family = out.gauge(
        "tidegate_uplink_state",
        "1 for the state that the uplink is in.",
    );
    for uplink in uplinks {
        for state in UplinkState::ALL {
            family.sample(
                &[("uplink", &uplink.name), ("state", state)],
                u8::from(uplink.state == *state),
            );
        }
    }
    let mut family = out.gauge(
        "tidegate_uplink_circuit",
        "1 for whether the uplink lets messages through: closed is yes.",
    );
    for uplink in uplinks {
        for circuit in Circuit::ALL {
            family.sample(
                &[("uplink", &uplink.name), ("circuit", circuit)],
                u8::from(uplink.circuit == *circuit),
            );
        }
    }
    let mut counter = |name, help, value: fn(&crate::view::UplinkStatus) -> u64| {
        let mut family = out.counter(name, help);
        for uplink in uplinks {
            family.sample(&[("uplink", &uplink.name)], value(uplink));
        }
    };
    counter(
        "tidegate_uplink_items_queued_total",
        "Items that entered the outbox.",
        |u| u.queued,
    );
    counter(
        "tidegate_uplink_items_delivered_total",
        "Items that the other end acknowledged.",
        |u| u.delivered,
    );
    counter(
        "tidegate_uplink_items_evicted_total",
        "Items given up unsent for space or age.",
        |u| u.evicted,
    );
    counter(
        "tidegate_uplink_items_rejected_total",
        "Items that the other end refused; they are kept.",
        |u| u.rejected,
    );
    counter(
        "tidegate_uplink_messages_delivered_total",
        "Messages that the other end took.",
        |u| u.messages_delivered,
    );
    counter(
        "tidegate_uplink_failovers_total",
        "How often another broker got its turn.",
        |u| u.failovers,
    );
    let mut gauge = |name, help, value: fn(&crate::view::UplinkStatus) -> u64| {
        let mut family = out.gauge(name, help);
        for uplink in uplinks {
            family.sample(&[("uplink", &uplink.name)], value(uplink));
        }
    };
    gauge(
        "tidegate_uplink_items_waiting",
        "Items in the outbox.",
        |u| u.waiting,
    );
    gauge(
        "tidegate_uplink_failover",
        "1 while another broker than the first has its turn.",
        |u| u64::from(u.failover),
    );
    gauge(
        "tidegate_uplink_messages_waiting",
        "Sealed messages that wait or are in flight.",
        |u| u.messages_waiting,
    );
    gauge(
        "tidegate_uplink_in_flight_messages",
        "Messages sent and not yet acknowledged.",
        |u| u.in_flight,
    );
    let mut family = out.gauge(
        "tidegate_uplink_oldest_waiting_age_seconds",
        "Seconds since the oldest waiting item entered the outbox; 0 when none waits.",
    );
    for uplink in uplinks {
        family.sample(
            &[("uplink", &uplink.name)],
            uplink.oldest_waiting_age_seconds.unwrap_or(0.0),
        );
    }
}

/// Of each connection and role the one that expires first.
fn certificates(out: &mut Exposition, snapshot: &Snapshot) {
    let mut family = out.gauge(
        "tidegate_certificate_expiry_time_seconds",
        "End of validity of the certificate that expires first, in seconds since the epoch.",
    );
    for (kind, name, _, tls) in connections(snapshot) {
        for role in CertificateRole::ALL {
            let of_role = tls.certificates.iter().filter(|c| c.role == *role);
            if let Some(first) = of_role.map(|c| c.not_after).min() {
                let labels: [Label; 3] = [("kind", &kind), ("name", &name), ("role", role)];
                family.sample(&labels, seconds(first));
            }
        }
    }
    let mut family = out.gauge(
        "tidegate_certificate_files_rejected",
        "1 while renewed TLS files cannot be used and the earlier ones still are.",
    );
    for (kind, name, _, tls) in connections(snapshot) {
        let labels: [Label; 2] = [("kind", &kind), ("name", &name)];
        family.sample(&labels, u8::from(tls.error.is_some()));
    }
}

fn deploy(out: &mut Exposition, snapshot: &Snapshot) {
    let Some(deploy) = &snapshot.deploy else {
        return;
    };
    let mut family = out.gauge(
        "tidegate_deploy_state",
        "1 for what became of the last look at the repository of modules.",
    );
    for state in DeployState::ALL {
        let labels: [Label; 2] = [("channel", &deploy.channel), ("state", state)];
        family.sample(&labels, u8::from(*state == deploy.state));
    }
    let channel: [Label; 1] = [("channel", &deploy.channel)];
    out.counter(
        "tidegate_deploy_checks_total",
        "Looks at the repository since the start.",
    )
    .sample(&channel, deploy.checks);
    out.counter(
        "tidegate_deploy_failures_total",
        "Looks of which nothing was taken, since the start.",
    )
    .sample(&channel, deploy.failures);
    if let Some(epoch) = deploy.epoch {
        out.gauge(
            "tidegate_deploy_epoch",
            "The channel's number, of what is verified and here.",
        )
        .sample(&channel, epoch);
    }
    if let Some(expires) = &deploy.expires {
        out.gauge(
            "tidegate_deploy_expiry_time_seconds",
            "When the repository's metadata expires, in seconds since the epoch.",
        )
        .sample(&channel, seconds(expires.time));
    }
}

fn audit(out: &mut Exposition, snapshot: &Snapshot) {
    let Some(audit) = &snapshot.audit else {
        return;
    };
    out.counter(
        "tidegate_audit_entries_total",
        "Entries of the audit log since it began: the number of the last one.",
    )
    .sample(&[], audit.last);
    out.gauge("tidegate_audit_bytes", "Bytes of the audit log.")
        .sample(&[], audit.bytes);
    out.gauge(
        "tidegate_audit_waiting",
        "Entries that wait until the audit log can be written.",
    )
    .sample(&[], audit.waiting);
    out.counter(
        "tidegate_audit_lost_total",
        "Entries that could not wait, since the start.",
    )
    .sample(&[], audit.lost);
    out.gauge(
        "tidegate_audit_writable",
        "1 where the audit log can be written.",
    )
    .sample(&[], u8::from(audit.error.is_none()));
    out.gauge(
        "tidegate_audit_broken",
        "1 where the audit log that the start found did not hold, and was set aside.",
    )
    .sample(&[], u8::from(audit.broken.is_some()));
}

/// The metrics that every Prometheus client calls by these names. What `/proc` does not tell is left out.
fn process(out: &mut Exposition, snapshot: &Snapshot) {
    out.gauge(
        "process_start_time_seconds",
        "Start of the process, in seconds since the epoch.",
    )
    .sample(&[], seconds(snapshot.gateway.started));
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    if let Ok(cpu) = std::time::Duration::try_from(cpu) {
        out.counter(
            "process_cpu_seconds_total",
            "CPU time spent, user and system, in seconds.",
        )
        .sample(&[], cpu.as_secs_f64());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        out.gauge("process_resident_memory_bytes", "Resident memory in bytes.")
            .sample(&[], kib * 1024);
    }
    if let Some(kib) = field("VmSize:") {
        out.gauge("process_virtual_memory_bytes", "Virtual memory in bytes.")
            .sample(&[], kib * 1024);
    }
    if let Some(threads) = field("Threads:") {
        out.gauge("process_threads", "Threads.")
            .sample(&[], threads);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is being read.
        out.gauge("process_open_fds", "Open file descriptors.")
            .sample(&[], files.count().saturating_sub(1));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        out.gauge("process_max_fds", "The bound of process_open_fds.")
            .sample(&[], limit);
    }
}

/// Milliseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "whole milliseconds of any real date fit a double"
)]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

/// A label's name, and its value before escaping.
type Label<'a> = (&'static str, &'a dyn Display);

/// Text in the making. Families are written one after the other, as the format demands.
#[derive(Default)]
struct Exposition {
    text: String,
}

/// One metric's samples.
struct Family<'a> {
    out: &'a mut Exposition,
    name: &'static str,
}

impl Exposition {
    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { out: self, name }
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail; were a value's Display to, the text would end there.
        if self.text.write_fmt(text).is_err() {
            tracing::error!("a metric could not be written");
        }
    }
}

impl Family<'_> {
    fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        let name = self.name;
        self.out.push(format_args!("{name}"));
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let value = escape(&value.to_string());
            self.out.push(format_args!("{before}{label}=\"{value}\""));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.out.push(format_args!("{after} {value}\n"));
    }
}

/// A label's value, with what would end it escaped.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
