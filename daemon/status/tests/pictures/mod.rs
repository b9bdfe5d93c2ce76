//! Gateways made up for the tests and for looking at the page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_domain::Ledger;
use tidegate_domain::ledger::{PipelineCounts, QuarantineCounts, SourceCounts, UplinkCounts};
use tidegate_status::view::*;

/// A gateway that never changes, but for its clock.
#[derive(Clone, Default)]
pub(crate) struct Picture {
    pub(crate) snapshot: Snapshot,
    pub(crate) ledger: Ledger,
    pub(crate) readiness: Readiness,
    pub(crate) stopped: Option<String>,
    /// When the picture was made; its times move along with the clock.
    pub(crate) made: i64,
}

impl View for Picture {
    fn snapshot(&self) -> Arc<Snapshot> {
        let mut snapshot = self.snapshot.clone();
        let passed = now() - self.made;
        snapshot.time += passed;
        for window in &mut snapshot.recent_summaries {
            window.from += passed / 60_000 * 60_000;
            window.to += passed / 60_000 * 60_000;
        }
        for source in &mut snapshot.sources {
            if source.rate > 0.0 {
                source.received += passed.unsigned_abs() / 1000;
            }
        }
        Arc::new(snapshot)
    }

    fn ledger(&self) -> Arc<Ledger> {
        Arc::new(self.ledger.clone())
    }

    fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<serde_json::Value>, String> {
        self.healthy()?;
        let last = self.snapshot.audit.as_ref().map_or(0, |audit| audit.last);
        let from = before.map_or(last, |before| before.saturating_sub(1));
        let entries = (1..=from).rev().take(most);
        Ok(entries
            .map(|number| serde_json::json!({ "number": number, "action": "daemon.started" }))
            .collect())
    }

    fn ready(&self) -> Readiness {
        self.readiness.clone()
    }

    fn healthy(&self) -> Result<(), String> {
        self.stopped.clone().map_or(Ok(()), Err)
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or_default()
}

fn gateway(now: i64) -> GatewayStatus {
    GatewayStatus {
        id: "gw-0042".to_owned(),
        version: "0.1.0".to_owned(),
        boot_id: "0b9f4a51-8f0e-4a37-9a53-2d1c07e6b1aa".to_owned(),
        started: now - 1_051_200_000,
        uptime_seconds: 1_051_200,
        clock_synced: true,
        clock_last_step: Some(ClockStep {
            time: now - 1_051_190_000,
            seconds: -3.5,
        }),
        clock_steps: 1,
        clock_correcting: false,
        state: GatewayState::Online,
        state_dir: "/var/lib/tidegate".to_owned(),
    }
}

/// Two alarms, one of which somebody knows of, and a silent series.
fn alarms(now: i64) -> AlarmsStatus {
    let spike = AlarmRow {
        pipeline: Some("vibration".to_owned()),
        filter: "anomaly".to_owned(),
        series: "press/3/axial".to_owned(),
        code: "spike".to_owned(),
        severity: AlarmSeverity::Critical,
        time: now - 61_000,
        text: "7.9 mm/s is far from 2.3".to_owned(),
        value: Some(7.9),
        acknowledged_by: Some("Anna <a@b>".to_owned()),
        acknowledged_at: Some(now - 30_000),
        state: AlarmState::Acknowledged,
        ..AlarmRow::default()
    };
    let stale = AlarmRow {
        source: Some("plant".to_owned()),
        filter: "stale".to_owned(),
        series: "plant/line4/temp".to_owned(),
        code: "stale".to_owned(),
        severity: AlarmSeverity::Warning,
        time: now - 700_000,
        text: "silent for longer than 600 s".to_owned(),
        flooding: true,
        suppressed: 12,
        ..AlarmRow::default()
    };
    AlarmsStatus {
        active: 53,
        acknowledged: 1,
        suppressed: 3_120,
        floods: 1,
        series: 412,
        stale: 1,
        items: vec![spike, stale],
        stale_items: vec![StaleRow {
            source: "plant".to_owned(),
            series: "plant/line4/temp".to_owned(),
            heard: now - 1_300_000,
        }],
        ..AlarmsStatus::default()
    }
}

/// One uplink that takes commands, and one of each at work.
fn commands(now: i64) -> CommandsStatus {
    CommandsStatus {
        uplinks: vec![CommandCounts {
            uplink: "cloud".to_owned(),
            allowed: vec!["detail".to_owned(), "backfill".to_owned()],
            done: 14,
            refused: 1,
            repeated: 2,
        }],
        details: vec![DetailRow {
            uplink: "cloud".to_owned(),
            id: "7f3a".to_owned(),
            series: "press/3/*".to_owned(),
            pipeline: None,
            until: now + 900_000,
            sent: 812,
        }],
        backfills: vec![BackfillRow {
            uplink: "cloud".to_owned(),
            id: "7f3b".to_owned(),
            series: "plant/<line1>/**".to_owned(),
            pipeline: Some("temperature".to_owned()),
            from: now - 86_400_000,
            to: now - 3_600_000,
            sent: 20_480,
        }],
    }
}

/// Nothing is configured.
pub(crate) fn empty() -> Picture {
    let now = now();
    Picture {
        snapshot: Snapshot {
            time: now,
            gateway: GatewayStatus {
                started: now - 4000,
                uptime_seconds: 4,
                ..gateway(now)
            },
            store: StoreStatus {
                path: "/var/lib/tidegate/tidegate.db".to_owned(),
                bytes: 98_304,
                max_bytes: 512 << 20,
                ..StoreStatus::default()
            },
            ..Snapshot::default()
        },
        readiness: Readiness {
            ready: true,
            reasons: Vec::new(),
        },
        made: now,
        ..Picture::default()
    }
}

/// Configured, subscribed, and nothing came yet.
pub(crate) fn waiting() -> Picture {
    let mut picture = empty();
    let now = picture.made;
    picture.snapshot.sources = vec![SourceStatus {
        name: "plant".to_owned(),
        kind: "mqtt".to_owned(),
        url: "mqtt://127.0.0.1:1883".to_owned(),
        state: SourceState::Subscribed,
        since: now - 3000,
        receive_window: Some(20),
        ..SourceStatus::default()
    }];
    picture.snapshot.pipelines = vec![PipelineStatus {
        name: "temperature".to_owned(),
        from: vec!["plant".to_owned()],
        to: vec!["cloud".to_owned()],
        ..PipelineStatus::default()
    }];
    picture.snapshot.uplinks = vec![UplinkStatus {
        name: "cloud".to_owned(),
        url: "mqtts://broker.example:8883".to_owned(),
        state: UplinkState::Connecting,
        since: now - 3000,
        ..UplinkStatus::default()
    }];
    picture
}

/// Milliseconds.
pub(crate) const DAY: i64 = 86_400_000;

pub(crate) fn certificate(
    role: CertificateRole,
    subject: &str,
    not_after: i64,
) -> CertificateStatus {
    CertificateStatus {
        role,
        subject: subject.to_owned(),
        not_after,
    }
}

fn filter(name: &str, rows_in: u64, rows_out: u64, p50: f64) -> FilterStatus {
    FilterStatus {
        name: name.to_owned(),
        module: name.to_owned(),
        version: "0.1.0".to_owned(),
        digest: format!(
            "sha256:{}",
            format!("{:x}{p50:.0}", rows_in.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .repeat(6)
                .chars()
                .take(64)
                .collect::<String>()
        ),
        state: FilterState::Running,
        rows_in,
        rows_out,
        calls: rows_in / 61,
        failures: FilterFailures::default(),
        p50_seconds: Some(p50 / 1e6),
        p99_seconds: Some(p50 * 3.4 / 1e6),
        ..FilterStatus::default()
    }
}

/// A canary in the middle of its trial.
fn candidate() -> CandidateStatus {
    let tried = |name, rows_in, rows_out, p50| FilterStatus {
        version: "0.2.0".to_owned(),
        ..filter(name, rows_in, rows_out, p50)
    };
    CandidateStatus {
        generation: "a17c66f0e5d2093b".to_owned(),
        modules: vec!["range 0.2.0".to_owned(), "deadband 0.2.0".to_owned()],
        filters: vec![
            tried("range", 4120, 4119, 6.4),
            tried("deadband", 4119, 980, 10.2),
        ],
        share: Some(0.05),
        samples: 4120,
        min_samples: 10_000,
        compared: 4119,
        differing: 3,
        differing_by: Differing {
            float: 3,
            ..Differing::default()
        },
        cpu_p99_seconds: 31.2e-6,
        active_cpu_p99_seconds: 29.9e-6,
        memory_peak_bytes: 1_179_648,
        active_memory_peak_bytes: 1_114_112,
        elapsed_seconds: 640,
        seconds_left: 2960,
        ..CandidateStatus::default()
    }
}

fn windows(
    now: i64,
    pipeline: &str,
    series: &str,
    measure: Option<&str>,
    base: f64,
    swing: f64,
) -> Vec<SummaryRow> {
    let minute = now / 60_000 * 60_000;
    let mut noise = series.bytes().fold(17_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    let (pace, phase) = (1.5 + f64::from(noise % 7), f64::from(noise % 5));
    (0..20)
        .map(|back| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wobble = f64::from(noise >> 16) / 65_536.0 - 0.5;
            let mean = base + swing * ((f64::from(back) / pace + phase).sin() + wobble * 0.9);
            let spread = swing * (0.4 + wobble.abs());
            SummaryRow {
                series: series.to_owned(),
                pipeline: pipeline.to_owned(),
                from: minute - i64::from(back + 1) * 60_000,
                to: minute - i64::from(back) * 60_000,
                count: 60,
                min: Some(mean - spread),
                max: Some(mean + spread),
                mean: Some(mean),
                last: Some(mean + wobble * spread),
                measure: measure.map(str::to_owned),
            }
        })
        .collect()
}

/// Everything works; every part of the page has something to show.
pub(crate) fn rich() -> Picture {
    let now = now();
    let plant = SourceCounts {
        received: 41_207_331,
        redelivered: 214,
        unidentified: 0,
        decoded: 41_207_112,
        quarantined: 217,
        dropped: BTreeMap::from([("overflow".to_owned(), 2)]),
        quarantine: QuarantineCounts {
            held: 205,
            replayed: 9,
            discarded: 3,
            evicted: 0,
        },
    };
    let press = SourceCounts {
        received: 2_880_114,
        decoded: 2_880_114,
        ..SourceCounts::default()
    };
    let temperature = PipelineCounts {
        selected: 41_207_112,
        derived: 0,
        replayed: 12,
        stored: 9_804_771,
        filtered: 31_402_340,
        quarantined: 13,
        held: 7_120_000,
        expired: 2_684_771,
        quarantine: QuarantineCounts {
            held: 1,
            replayed: 12,
            ..QuarantineCounts::default()
        },
        ..PipelineCounts::default()
    };
    let vibration = PipelineCounts {
        selected: 2_880_114,
        derived: 48_002,
        stored: 2_928_116,
        held: 2_928_116,
        ..PipelineCounts::default()
    };
    let cloud = UplinkCounts {
        queued: 1_310_402,
        delivered: 1_310_390,
        waiting: 12,
        ..UplinkCounts::default()
    };
    let mut recent_summaries = Vec::new();
    for (pipeline, series, measure, base, swing) in [
        ("temperature", "plant/line1/temp", Some("°C"), 21.6, 0.8),
        ("temperature", "plant/line1/hum", Some("%"), 46.0, 2.5),
        ("temperature", "plant/line2/temp", Some("°C"), 64.2, 4.0),
        (
            "temperature",
            "plant/line2/pressure",
            Some("hPa"),
            1013.2,
            0.6,
        ),
        ("vibration", "press/3/axial", Some("mm/s"), 2.31, 0.4),
        ("vibration", "press/3/anomaly-score", None, 0.02, 0.01),
    ] {
        recent_summaries.extend(windows(now, pipeline, series, measure, base, swing));
    }
    let snapshot = Snapshot {
        time: now,
        gateway: gateway(now),
        alarms: alarms(now),
        commands: commands(now),
        sources: vec![
            SourceStatus {
                name: "plant".to_owned(),
                kind: "mqtt".to_owned(),
                url: "mqtt://127.0.0.1:1883".to_owned(),
                state: SourceState::Subscribed,
                since: now - 1_051_190_000,
                received: plant.received,
                redelivered: plant.redelivered,
                unidentified: plant.unidentified,
                decoded: plant.decoded,
                quarantined: plant.quarantined,
                dropped: plant.dropped.clone(),
                rate: 412.3,
                in_flight: 17,
                receive_window: Some(20),
                last_message_age_seconds: Some(0.002),
                ..SourceStatus::default()
            },
            SourceStatus {
                name: "press".to_owned(),
                kind: "mqtt".to_owned(),
                url: "mqtts://press.cell3.example:8883".to_owned(),
                decoder: Some(FilterStatus {
                    module: "nmea".to_owned(),
                    failures: FilterFailures {
                        trap: 2,
                        ..FilterFailures::default()
                    },
                    last_error: Some("trap: unreachable".to_owned()),
                    last_error_time: Some(now - 86_400_000),
                    ..filter("decoder", 2_880_114, 2_880_114, 18.0)
                }),
                tls: Some(TlsStatus {
                    certificates: vec![
                        certificate(CertificateRole::Own, "gw-0042", now + 200 * DAY),
                        certificate(CertificateRole::Ca, "Cell 3 CA", now + 2000 * DAY),
                        certificate(CertificateRole::Server, "press", now + 45 * DAY),
                    ],
                    error: None,
                }),
                state: SourceState::Subscribed,
                since: now - 8_040_000,
                last_error: Some("the broker closed the connection".to_owned()),
                received: press.received,
                decoded: press.decoded,
                rate: 28.1,
                in_flight: 3,
                receive_window: Some(1024),
                last_message_age_seconds: Some(0.04),
                ..SourceStatus::default()
            },
        ],
        pipelines: vec![
            PipelineStatus {
                name: "temperature".to_owned(),
                from: vec!["plant".to_owned()],
                to: vec!["cloud".to_owned()],
                selected: temperature.selected,
                replayed: temperature.replayed,
                stored: temperature.stored,
                filtered: temperature.filtered,
                quarantined: temperature.quarantined,
                rate: 412.3,
                stored_rate: 98.1,
                generation: "5f1c0c8e2ad97b44".to_owned(),
                filters: vec![
                    filter("range", 41_207_124, 41_207_111, 6.1),
                    filter("deadband", 41_207_111, 9_804_771, 9.4),
                ],
                windows_open: 214,
                rollout: RolloutStatus {
                    state: "canary".to_owned(),
                    candidate: Some(candidate()),
                    tried: Vec::new(),
                    last_good: Some("0d1be6a2c4419f07".to_owned()),
                    last_good_slots: vec![ChainSlot {
                        filter: "range".to_owned(),
                        module: "range".to_owned(),
                        version: "0.0.9".to_owned(),
                        digest: filter("range", 9, 9, 1.0).digest,
                    }],
                    refused: None,
                    decision: Some(RolloutDecision {
                        time: now - 7_200_000,
                        generation: "5f1c0c8e2ad97b44".to_owned(),
                        reason: None,
                        why: "the candidate passed with 1000 readings, 2 of them otherwise"
                            .to_owned(),
                    }),
                },
                ..PipelineStatus::default()
            },
            PipelineStatus {
                name: "vibration".to_owned(),
                from: vec!["press".to_owned()],
                to: vec!["cloud".to_owned()],
                selected: vibration.selected,
                derived: vibration.derived,
                stored: vibration.stored,
                rate: 28.1,
                stored_rate: 28.6,
                generation: "c09be1f7730d2e18".to_owned(),
                filters: vec![filter("anomaly", 2_880_114, 2_928_116, 31.0)],
                windows_open: 12,
                ..PipelineStatus::default()
            },
        ],
        store: StoreStatus {
            path: "/var/lib/tidegate/tidegate.db".to_owned(),
            bytes: 331_350_016,
            max_bytes: 512 << 20,
            wal_bytes: 4_202_496,
            history_rows: 10_048_116,
            oldest: Some(now - 2_592_000_000),
            commits: 8_204_119,
            commit_p50_seconds: Some(0.0042),
            commit_p99_seconds: Some(0.0187),
            rows_per_commit: 44.2,
            written_bytes: Some(19_812_352_000),
            written_bytes_per_day: Some(661_700_000),
            written_bytes_per_reading: Some(54.6),
            ..StoreStatus::default()
        },
        uplinks: vec![UplinkStatus {
            name: "cloud".to_owned(),
            url: "mqtts://broker.example:8883".to_owned(),
            state: UplinkState::Connected,
            since: now - 93_000_000,
            connected_since: Some(now - 93_000_000),
            queued: cloud.queued,
            delivered: cloud.delivered,
            waiting: cloud.waiting,
            messages_waiting: 1,
            messages_delivered: 1206,
            oldest_waiting_age_seconds: Some(2.1),
            in_flight: 1,
            rate: 3.8,
            ..UplinkStatus::default()
        }],
        deploy: Some(DeployStatus {
            state: DeployState::Current,
            repository: "https://updates.example/repo/".to_owned(),
            channel: "stable".to_owned(),
            epoch: Some(41),
            publication: Some(220),
            last_check: Some(now - 40_000),
            last_success: Some(now - 3_640_000),
            next_check: Some(now + 20_000),
            expires: Some(DeployExpiry {
                role: "timestamp".to_owned(),
                time: now + 5 * 86_400_000,
            }),
            error: None,
            checks: 12,
            failures: 0,
            modules: vec![DeployModule {
                name: "range".to_owned(),
                version: "0.2.0".to_owned(),
                digest: filter("range", 1, 0, 1.0).digest,
                world: "tidegate:module/filter@0.2.0".to_owned(),
                size_bytes: 21_256,
                sbom: None,
                provenance: None,
            }],
            ..DeployStatus::default()
        }),
        audit: Some(AuditStatus {
            key: "9a0c1f6d".repeat(8),
            first: 1,
            last: 214,
            hash: "5be3d210".repeat(8),
            time: now - 3_640_000,
            bytes: 128_400,
            ..AuditStatus::default()
        }),
        modules: [
            ("anomaly", true, 18_204),
            ("deadband", true, 15_331),
            ("dedupe", false, 14_902),
            ("range", true, 14_210),
            ("redact", false, 31_877),
            ("scale", false, 15_020),
        ]
        .map(|(name, active, size_bytes)| ModuleStatus {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            digest: filter(name, size_bytes, 0, 1.0).digest,
            state: if active {
                ModuleState::Active
            } else {
                ModuleState::Idle
            },
            trial: None,
            origin: ModuleOrigin::Factory,
            signed_by: None,
            world: "filter".to_owned(),
            size_bytes,
        })
        .to_vec(),
        quarantine_total: 206,
        recent_errors: vec![
            ErrorGroup {
                time: now - 8_041_000,
                level: ErrorLevel::Warn,
                target: "source press".to_owned(),
                message: "the broker closed the connection".to_owned(),
                count: 1,
            },
            ErrorGroup {
                time: now - 40_200_000,
                level: ErrorLevel::Warn,
                target: "source plant".to_owned(),
                message: "plant/line7/state: byte 14: expected a value, found `nan`".to_owned(),
                count: 1217,
            },
        ],
        recent_summaries,
    };
    Picture {
        snapshot,
        ledger: Ledger {
            sources: BTreeMap::from([("plant".to_owned(), plant), ("press".to_owned(), press)]),
            pipelines: BTreeMap::from([
                ("temperature".to_owned(), temperature),
                ("vibration".to_owned(), vibration),
            ]),
            uplinks: BTreeMap::from([("cloud".to_owned(), cloud)]),
        },
        readiness: Readiness {
            ready: true,
            reasons: Vec::new(),
        },
        stopped: None,
        made: now,
    }
}

/// A source and the cloud are gone, a filter is switched off; nothing is lost yet.
pub(crate) fn outage() -> Picture {
    let mut picture = rich();
    let now = picture.made;
    picture.snapshot.gateway.state = GatewayState::Degraded;
    let press = &mut picture.snapshot.sources[1];
    press.state = SourceState::BackingOff;
    press.since = now - 184_000;
    press.backing_off_until = Some(now + 12_400);
    press.last_error = Some("connection refused (os error 111)".to_owned());
    press.rate = 0.0;
    press.in_flight = 0;
    press.last_message_age_seconds = Some(184.0);
    let vibration = &mut picture.snapshot.pipelines[1];
    vibration.rate = 0.0;
    vibration.stored_rate = 0.0;
    let anomaly = &mut vibration.filters[0];
    anomaly.state = FilterState::Tripped;
    anomaly.failures = FilterFailures {
        trap: 3,
        timeout: 1,
        ..FilterFailures::default()
    };
    anomaly.last_error = Some("trap: integer divide by zero in `process`".to_owned());
    let cloud = &mut picture.snapshot.uplinks[0];
    cloud.state = UplinkState::BackingOff;
    cloud.since = now - 200_000;
    cloud.connected_since = None;
    cloud.backing_off_until = Some(now + 31_000);
    cloud.last_error = Some("broker.example: no address: name resolution failed".to_owned());
    cloud.waiting = 1204;
    cloud.messages_waiting = 19;
    cloud.in_flight = 0;
    cloud.rate = 0.0;
    cloud.oldest_waiting_age_seconds = Some(198.4);
    cloud.queued += 1192;
    let counts = picture
        .ledger
        .uplinks
        .entry("cloud".to_owned())
        .or_default();
    counts.queued += 1192;
    counts.waiting = 1204;
    picture.snapshot.recent_errors.insert(
        0,
        ErrorGroup {
            time: now - 2000,
            level: ErrorLevel::Error,
            target: "pipeline vibration".to_owned(),
            message: "filter anomaly: trap: integer divide by zero in `process`".to_owned(),
            count: 4,
        },
    );
    picture
}

/// The disk is full, readings are not stored, items were lost, and the ledger does not balance.
pub(crate) fn broken() -> Picture {
    let mut picture = outage();
    picture.snapshot.gateway.clock_synced = false;
    picture.snapshot.store.state = StoreState::Full;
    picture.snapshot.store.bytes = 512 << 20;
    picture.snapshot.store.last_error = Some(
        "/var/lib/tidegate/tidegate.db: commit: no space left on device (SQLITE_FULL)".to_owned(),
    );
    let cloud = picture
        .ledger
        .uplinks
        .entry("cloud".to_owned())
        .or_default();
    cloud.evicted = 312;
    cloud.waiting = 892;
    cloud.rejected = 4;
    picture.snapshot.uplinks[0].evicted = 312;
    picture.snapshot.uplinks[0].rejected = 4;
    picture.readiness = Readiness {
        ready: false,
        reasons: vec!["store: no space left on device".to_owned()],
    };
    picture
}
