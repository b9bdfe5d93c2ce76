//! The one picture of the gateway, for page, API and metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::alarm::State;
use tidegate_domain::outcome::Severity;
use tidegate_domain::{Ledger, item};
use tidegate_ingest::SourceState;
use tidegate_status::view::{self, Readiness, Snapshot, View};
use tidegate_store::{
    ActiveAlarm, BackfillStats, ClosedSummary, CommandStats, DetailStats, StaleSeries, StoreState,
    StoreStats,
};
use tidegate_tls::{Role, Tls};
use tidegate_uplink::{Circuit, LinkState};

use super::{Observed, Observer, Sampled, lock};
use crate::clock;
use crate::config::{self, Config};
use crate::deploy;
use crate::log::RecentErrors;
use crate::wear::Wear;

/// Differences of a recount that are shown one by one.
const NAMED: usize = 8;
/// A gateway whose writer's heart has not beaten for so long has stopped.
const SILENCE: Duration = Duration::from_secs(60);

impl Observer {
    fn source(
        &self,
        index: usize,
        source: &config::Source,
        ledger: &Ledger,
        sampled: &Sampled,
    ) -> view::SourceStatus {
        let status = self.sources[index].status();
        let counts = ledger
            .sources
            .get(&source.name)
            .cloned()
            .unwrap_or_default();
        let seen = sampled.sources.get(index);
        let now = clock::wall() / 1_000_000;
        view::SourceStatus {
            name: source.name.clone(),
            kind: source.kind.as_str().to_owned(),
            url: source_url(source),
            tls: self.source_tls[index].as_deref().map(tls_status),
            state: source_state(&status.state),
            since: seen.map_or(self.started_at, |seen| seen.since),
            backing_off_until: match status.state {
                SourceState::BackingOff { retry_in, .. } => {
                    Some(now.saturating_add(millis(retry_in)))
                }
                SourceState::Connecting
                | SourceState::Subscribed
                | SourceState::Refused
                | SourceState::Stopping
                | SourceState::Stopped => None,
            },
            last_error: status
                .refused
                .first()
                .map(|(filter, reason)| format!("subscription `{filter}`: {reason}"))
                .or(status.last_error),
            received: counts.received,
            decoder: self.decoder(index),
            redelivered: counts.redelivered,
            unidentified: counts.unidentified,
            decoded: counts.decoded,
            quarantined: counts.quarantined,
            dropped: counts.dropped,
            rate: sampled.rate(|sample| sample.received.get(index)),
            in_flight: u64::from(status.in_flight),
            receive_window: (status.receive_window > 0).then_some(status.receive_window),
            last_message_age_seconds: seen
                .and_then(|seen| seen.counted)
                .map(|at| at.elapsed().as_secs_f64()),
            slaves: status.slaves.into_iter().map(slave).collect(),
        }
    }

    fn uplink(
        &self,
        index: usize,
        uplink: &config::Uplink,
        observed: &Observed,
        sampled: &Sampled,
    ) -> view::UplinkStatus {
        let status = self.uplinks[index].status();
        let counts = observed
            .ledger
            .uplinks
            .get(&uplink.name)
            .cloned()
            .unwrap_or_default();
        let outbox = observed
            .stats
            .outbox
            .get(index)
            .copied()
            .unwrap_or_default();
        let seen = sampled.uplinks.get(index);
        view::UplinkStatus {
            name: uplink.name.clone(),
            url: broker_url(uplink, status.broker),
            tls: self.uplink_tls[index]
                .get(status.broker)
                .and_then(Option::as_deref)
                .map(tls_status),
            failover: status.broker > 0,
            failovers: status.failovers,
            state: uplink_state(status.state),
            circuit: match status.circuit() {
                Circuit::Closed => view::Circuit::Closed,
                Circuit::Open => view::Circuit::Open,
                Circuit::HalfOpen => view::Circuit::HalfOpen,
            },
            since: seen.map_or(self.started_at, |seen| seen.since),
            connected_since: status.connected_since.and_then(|at| {
                let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
                Some(millis(since))
            }),
            backing_off_until: status.next_attempt.map(|at| {
                let wait = at.saturating_duration_since(Instant::now());
                (clock::wall() / 1_000_000).saturating_add(millis(wait))
            }),
            attempts: match status.state {
                LinkState::BackingOff { attempt } => attempt.into(),
                LinkState::Connecting | LinkState::Connected | LinkState::Stopped => 0,
            },
            queued: counts.queued,
            delivered: counts.delivered,
            waiting: counts.waiting,
            evicted: counts.evicted,
            rejected: counts.rejected,
            messages_waiting: outbox.messages,
            messages_delivered: status.delivered,
            oldest_waiting_age_seconds: outbox.oldest.map(|at| {
                let age = clock::wall().saturating_sub(at).max(0);
                Duration::from_nanos(age.unsigned_abs()).as_secs_f64()
            }),
            in_flight: status.in_flight as u64,
            rate: sampled.rate(|sample| sample.delivered.get(index)),
            last_error: status.last_error,
        }
    }

    fn store(&self, observed: &Observed, wear: &Wear) -> view::StoreStatus {
        let written_bytes = wear.total();
        let stats = &observed.stats;
        let mut latencies: Vec<Duration> = observed
            .commits
            .iter()
            .map(|(latency, _)| *latency)
            .collect();
        latencies.sort_unstable();
        let quantile = |share: usize| {
            let last = latencies.len().checked_sub(1)?;
            latencies.get(last * share / 100).map(Duration::as_secs_f64)
        };
        let rows: u64 = observed.commits.iter().map(|(_, rows)| rows).sum();
        view::StoreStatus {
            state: store_state(stats.state),
            acknowledges: stats.acknowledges,
            set_aside: stats
                .set_aside
                .iter()
                .map(|set| view::SetAside {
                    dir: set.dir.display().to_string(),
                    time: set.time,
                    bytes: set.bytes,
                    why: set.why.clone(),
                })
                .collect(),
            recount: self.recount(),
            path: crate::wiring::database(&self.config).display().to_string(),
            bytes: stats.database_bytes + stats.wal_bytes,
            max_bytes: self.config.store.max_size,
            wal_bytes: stats.wal_bytes,
            history_rows: observed
                .ledger
                .pipelines
                .values()
                .map(|counts| counts.held)
                .sum(),
            oldest: stats.oldest.map(|at| at / 1_000_000),
            commits: stats.commits,
            commit_p50_seconds: quantile(50),
            commit_p99_seconds: quantile(99),
            rows_per_commit: ratio(rows, observed.commits.len() as u64),
            written_bytes,
            written_bytes_per_day: wear.per_day(),
            written_bytes_per_reading: written_bytes
                .filter(|_| stats.rows > 0)
                .map(|bytes| ratio(bytes, stats.rows)),
            last_error: stats.last_error.clone(),
        }
    }

    fn commands(&self, stats: &CommandStats) -> view::CommandsStatus {
        let name = |uplink: usize| self.config.uplinks[uplink].name.clone();
        let uplinks = self.config.uplinks.iter().enumerate();
        let taking = uplinks.filter(|(_, uplink)| !uplink.commands.is_empty());
        let counts = |(index, uplink): (usize, &config::Uplink)| {
            let counts = stats.uplinks.get(index).copied().unwrap_or_default();
            view::CommandCounts {
                uplink: uplink.name.clone(),
                allowed: uplink.commands.iter().map(ToString::to_string).collect(),
                done: counts.done,
                refused: counts.refused,
                repeated: counts.repeated,
            }
        };
        let detail = |detail: &DetailStats| view::DetailRow {
            uplink: name(detail.uplink),
            id: detail.id.clone(),
            series: detail.series.clone(),
            pipeline: detail.pipeline.clone(),
            until: item::millis(detail.until),
            sent: detail.sent,
        };
        let backfill = |job: &BackfillStats| view::BackfillRow {
            uplink: name(job.uplink),
            id: job.id.clone(),
            series: job.series.clone(),
            pipeline: job.pipeline.clone(),
            from: item::millis(job.from),
            to: item::millis(job.to),
            sent: job.sent,
        };
        view::CommandsStatus {
            uplinks: taking.map(counts).collect(),
            details: stats.details.iter().map(detail).collect(),
            backfills: stats.backfills.iter().map(backfill).collect(),
        }
    }

    fn alarms(stats: &StoreStats) -> view::AlarmsStatus {
        let alarms = &stats.alarms;
        let mut items = alarm_rows(&alarms.active);
        items.truncate(view::AlarmsStatus::ITEMS);
        let stale = alarms.stale_series.iter().take(view::AlarmsStatus::ITEMS);
        view::AlarmsStatus {
            active: stats.alarms_active,
            acknowledged: alarms.acknowledged,
            suppressed: alarms.suppressed,
            lost: alarms.lost,
            floods: alarms.floods,
            series: alarms.series,
            stale: alarms.stale,
            unheard: alarms.unheard,
            items,
            stale_items: stale.map(stale_row).collect(),
        }
    }

    /// The last recount; `None` before the first.
    fn recount(&self) -> Option<view::Recount> {
        let recounted = lock(&self.recounted);
        (recounted.time != 0).then(|| view::Recount {
            time: recounted.time,
            differences: recounted.differences.len() as u64 + recounted.more,
            named: recounted.differences.iter().take(NAMED).cloned().collect(),
            error: recounted.error.clone(),
        })
    }
}

impl View for Observer {
    fn snapshot(&self) -> Arc<Snapshot> {
        let arrival = clock::now();
        let observed = lock(&self.observed);
        let clock = observed.stats.clock;
        let sampled = lock(&self.sampled);
        let ledger = &observed.ledger;
        let sources: Vec<_> = self
            .config
            .sources
            .iter()
            .enumerate()
            .map(|(i, s)| self.source(i, s, ledger, &sampled))
            .collect();
        let uplinks: Vec<_> = self
            .config
            .uplinks
            .iter()
            .enumerate()
            .map(|(i, u)| self.uplink(i, u, &observed, &sampled))
            .collect();
        let store = self.store(&observed, &sampled.wear);
        let degraded = store.state != view::StoreState::Healthy
            || sources
                .iter()
                .any(|source| source.state != view::SourceState::Subscribed);
        let held = |q: &tidegate_domain::ledger::QuarantineCounts| q.held;
        Arc::new(Snapshot {
            time: arrival.wall / 1_000_000,
            gateway: view::GatewayStatus {
                clock_synced: arrival.synced || clock.set,
                clock_last_step: clock.last_step.map(|step| view::ClockStep {
                    time: step.at.div_euclid(1_000_000),
                    seconds: step.by as f64 / 1e9,
                }),
                clock_steps: clock.steps,
                clock_correcting: clock.correcting,
                state: if degraded {
                    view::GatewayState::Degraded
                } else {
                    view::GatewayState::Online
                },
                ..gateway_status(&self.config, self.started, self.started_at)
            },
            sources,
            pipelines: self
                .config
                .pipelines
                .iter()
                .enumerate()
                .map(|(i, p)| self.pipeline(i, p, &observed, &sampled))
                .collect(),
            store,
            uplinks,
            modules: self.modules(),
            deploy: self.deploy.as_ref().map(deploy::Handle::status),
            audit: Some(self.audit.status()),
            alarms: Self::alarms(&observed.stats),
            commands: self.commands(&observed.stats.commands),
            quarantine_total: ledger
                .sources
                .values()
                .map(|c| held(&c.quarantine))
                .sum::<u64>()
                + ledger
                    .pipelines
                    .values()
                    .map(|c| held(&c.quarantine))
                    .sum::<u64>(),
            recent_errors: recent_errors(&self.recent),
            recent_summaries: observed
                .summaries
                .iter()
                .rev()
                .map(|summary| summary_row(summary))
                .collect(),
        })
    }

    fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&lock(&self.observed).ledger)
    }

    fn alarms(&self) -> Vec<view::AlarmRow> {
        let active = Arc::clone(&lock(&self.observed).stats.alarms.active);
        alarm_rows(&active)
    }

    fn stale_series(&self) -> Vec<view::StaleRow> {
        let stale = Arc::clone(&lock(&self.observed).stats.alarms.stale_series);
        stale.iter().map(stale_row).collect()
    }

    fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<serde_json::Value>, String> {
        let entries = self.audit.newest(before, most);
        entries.map_err(|error| format!("the audit log cannot be read: {error}"))
    }

    fn ready(&self) -> Readiness {
        let mut reasons = Vec::new();
        for (source, handle) in self.config.sources.iter().zip(&self.sources) {
            match handle.status().state {
                // Backing off is a state that the gateway keeps by itself: nobody has to wait for a broker.
                SourceState::Subscribed | SourceState::BackingOff { .. } => {}
                SourceState::Refused => {
                    reasons.push(format!("source {}: a subscription is refused", source.name))
                }
                SourceState::Connecting => {
                    reasons.push(format!("source {} is connecting", source.name))
                }
                SourceState::Stopping | SourceState::Stopped => {
                    reasons.push(format!("source {} has been stopped", source.name));
                }
            }
        }
        let observed = lock(&self.observed);
        let stats = &observed.stats;
        if !stats.acknowledges {
            let why = stats.last_error.as_deref().unwrap_or("see the log");
            reasons.push(format!("the store is {}: {why}", stats.state.as_str()));
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    fn healthy(&self) -> Result<(), String> {
        let silent = lock(&self.sampled)
            .beat
            .map_or(Duration::ZERO, |(_, at)| at.elapsed());
        if silent > SILENCE {
            return Err(format!(
                "the writer has stood still for {} s",
                silent.as_secs()
            ));
        }
        Ok(())
    }
}

/// Gravest first, then newest.
fn alarm_rows(active: &[ActiveAlarm]) -> Vec<view::AlarmRow> {
    let mut rows: Vec<view::AlarmRow> = active.iter().map(alarm_row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.severity, row.time)));
    rows
}

pub(crate) fn alarm_row(active: &ActiveAlarm) -> view::AlarmRow {
    let ActiveAlarm { key, alarm } = active;
    let (cause, acknowledged) = (&alarm.cause, alarm.acknowledged.as_ref());
    view::AlarmRow {
        source: key.owner.source().map(ToString::to_string),
        pipeline: key.owner.pipeline().map(ToString::to_string),
        filter: cause.filter.to_string(),
        series: key.series.to_string(),
        code: key.code.to_string(),
        severity: match cause.severity {
            Severity::Info => view::AlarmSeverity::Info,
            Severity::Warning => view::AlarmSeverity::Warning,
            Severity::Critical => view::AlarmSeverity::Critical,
        },
        state: match alarm.state {
            State::Acknowledged => view::AlarmState::Acknowledged,
            State::Raised | State::Cleared => view::AlarmState::Raised,
        },
        time: item::millis(cause.time),
        text: cause.text.clone(),
        value: cause.value,
        acknowledged_by: acknowledged.map(|by| by.by.clone()),
        acknowledged_at: acknowledged.map(|by| item::millis(by.at)),
        flooding: alarm.flooding,
        suppressed: alarm.suppressed,
    }
}

pub(crate) fn stale_row(stale: &StaleSeries) -> view::StaleRow {
    view::StaleRow {
        source: stale.source.to_string(),
        series: stale.series.to_string(),
        heard: item::millis(stale.heard),
    }
}

/// What is known of the gateway itself, whatever it does.
pub(crate) fn gateway_status(
    config: &Config,
    started: Instant,
    started_at: i64,
) -> view::GatewayStatus {
    view::GatewayStatus {
        id: config.gateway.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: clock::boot_id(),
        started: started_at,
        uptime_seconds: started.elapsed().as_secs(),
        clock_synced: clock::now().synced,
        state: view::GatewayState::Online,
        state_dir: config.gateway.state_dir.display().to_string(),
        ..view::GatewayStatus::default()
    }
}

/// Warnings and errors of late.
pub(crate) fn recent_errors(recent: &RecentErrors) -> Vec<view::ErrorGroup> {
    recent
        .latest()
        .into_iter()
        .map(|group| view::ErrorGroup {
            time: group.time,
            level: if group.level == tracing::Level::ERROR {
                view::ErrorLevel::Error
            } else {
                view::ErrorLevel::Warn
            },
            target: group.target,
            message: group.message,
            count: group.count,
        })
        .collect()
}

/// The store's state as the page calls it.
pub(crate) fn store_state(state: StoreState) -> view::StoreState {
    match state {
        StoreState::Healthy => view::StoreState::Healthy,
        StoreState::Degraded => view::StoreState::Degraded,
        StoreState::ReadOnly => view::StoreState::ReadOnly,
        StoreState::Full => view::StoreState::Full,
        StoreState::Corrupt => view::StoreState::Corrupt,
    }
}

/// A source's address, without user name and password; of a serial line the device, of what the kernel measures the directory.
pub(crate) fn source_url(source: &config::Source) -> String {
    match &source.kind {
        config::SourceKind::Mqtt(mqtt) => url(&mqtt.broker),
        config::SourceKind::Serial(serial) => serial.port.device.display().to_string(),
        config::SourceKind::Modbus(modbus) => modbus.line.link.shown(),
        config::SourceKind::Sysfs(sysfs) => sysfs.root.display().to_string(),
        config::SourceKind::Driver(driver) => crate::gateway::shown_buses(driver),
    }
}

fn slave(slave: tidegate_ingest::SlaveStatus) -> view::SlaveStatus {
    view::SlaveStatus {
        unit: slave.unit,
        answers: slave.answers,
        requests: slave.requests,
        answered: slave.answered,
        exceptions: slave.exceptions,
        silent: slave.silent,
        garbled: slave.garbled,
        missed: slave.missed,
        refused: slave.refused,
        round_trip_seconds: slave.round_trip.as_secs_f64(),
        round_trip_longest_seconds: slave.longest_round_trip.as_secs_f64(),
        round_trip_sum_seconds: slave.round_trips.as_secs_f64(),
        last_error: slave.last_error,
    }
}

pub(super) fn source_state(state: &SourceState) -> view::SourceState {
    match state {
        SourceState::Subscribed | SourceState::Stopping => view::SourceState::Subscribed,
        SourceState::BackingOff { .. } => view::SourceState::BackingOff,
        SourceState::Connecting | SourceState::Refused | SourceState::Stopped => {
            view::SourceState::Connecting
        }
    }
}

pub(super) fn uplink_state(state: LinkState) -> view::UplinkState {
    match state {
        LinkState::Connected => view::UplinkState::Connected,
        LinkState::BackingOff { .. } => view::UplinkState::BackingOff,
        LinkState::Connecting | LinkState::Stopped => view::UplinkState::Connecting,
    }
}

/// The generations of a pipeline, as the page and the API show them.
fn summary_row(summary: &ClosedSummary) -> view::SummaryRow {
    view::SummaryRow {
        series: summary.series.to_string(),
        pipeline: summary.pipeline.clone(),
        from: summary.from,
        to: summary.to,
        count: summary.stats.count,
        min: summary.stats.min,
        max: summary.stats.max,
        mean: summary.stats.mean,
        last: summary.stats.last,
        measure: summary.measure.clone(),
    }
}

pub(crate) fn tls_status(tls: &Tls) -> view::TlsStatus {
    let status = tls.status();
    let certificates = status.certificates.into_iter();
    view::TlsStatus {
        certificates: certificates
            .map(|(role, certificate)| view::CertificateStatus {
                role: match role {
                    Role::Own => view::CertificateRole::Own,
                    Role::Ca => view::CertificateRole::Ca,
                    Role::Server => view::CertificateRole::Server,
                },
                subject: certificate.subject,
                not_after: certificate.not_after.saturating_mul(1000),
            })
            .collect(),
        error: status.error,
    }
}

/// A broker's address without user name and password.
pub(crate) fn url(broker: &config::Broker) -> String {
    address(broker, (&broker.host, broker.port))
}

/// The address of the broker that has its turn.
fn broker_url(uplink: &config::Uplink, turn: usize) -> String {
    let turn = uplink.addresses().nth(turn);
    turn.map_or_else(|| url(&uplink.broker), |turn| address(&uplink.broker, turn))
}

fn address(broker: &config::Broker, (host, port): (&str, u16)) -> String {
    let scheme = if broker.tls.is_some() {
        "mqtts"
    } else {
        "mqtt"
    };
    if host.contains(':') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn ratio(sum: u64, count: u64) -> f64 {
    if count == 0 {
        0.0
    } else {
        sum as f64 / count as f64
    }
}
