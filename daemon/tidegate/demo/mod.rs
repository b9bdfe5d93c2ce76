//! `tidegate demo`: an embedded broker, simulated sensors, and the real daemon on a real configuration, real filters
//! and a real SQLite file in a temporary directory.

mod broker;
mod sensors;

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use tidegate_domain::Ledger;
use tidegate_status::View;
use tidegate_store::Store;
use tokio::sync::mpsc;

use crate::audit::Audit;
use crate::log::RecentErrors;
use crate::observe::Observer;
use crate::{clock, gateway, wiring};

/// How often the line is refreshed.
const REFRESH: Duration = Duration::from_millis(500);
/// Summaries told in words; afterwards the line alone goes on.
const TOLD: usize = 6;
/// How long draining may take at the end.
const DRAIN: Duration = Duration::from_secs(10);
/// Summaries that wait to be told.
const WAITING: usize = 64;

/// The books at the end.
pub(crate) struct Closing {
    /// All counts.
    pub(crate) ledger: Ledger,
    /// What does not balance or does not match the rows; none when all is well.
    pub(crate) problems: Vec<String>,
}

/// A summary as it arrives at the other end.
#[derive(Deserialize)]
struct Summary {
    series: String,
    #[serde(default)]
    measure: Option<String>,
    from: i64,
    to: i64,
    count: u64,
    min: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    #[serde(default)]
    late: bool,
}

/// Runs for `duration`, or until Ctrl-C, and closes the books.
///
/// # Errors
/// A part does not start or ends by itself.
pub(crate) fn run(duration: Option<Duration>, recent: RecentErrors) -> anyhow::Result<Closing> {
    let dir = tempfile::tempdir().context("no temporary directory for the demo")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(demonstrate(dir.path(), duration, recent))
}

async fn demonstrate(
    dir: &Path,
    duration: Option<Duration>,
    recent: RecentErrors,
) -> anyhow::Result<Closing> {
    let port = tokio::task::spawn_blocking(broker::start).await??;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("no free loopback port for the page")?;
    listener.set_nonblocking(true)?;
    let page = listener.local_addr()?;
    let file = dir.join("tidegate.toml");
    std::fs::write(&file, configuration(dir, port, page.port()))
        .context("the demo's configuration")?;
    let loaded = crate::config::load(&file, std::iter::empty());
    let config = loaded.config.with_context(|| {
        format!(
            "the demo's own configuration is wrong:\n{}",
            loaded.problems.render(false)
        )
    })?;
    let database = wiring::database(&config);

    let (told, mut summaries) = mpsc::channel(WAITING);
    wiring::make_state_dir(&config.gateway.state_dir)?;
    let store = Store::open(gateway::store_config(&config)?, clock::now())?;
    let audit = Audit::start(&config.gateway.state_dir, &config.gateway.id)?;
    let mut gateway = wiring::start(&Arc::new(config), store, listener, recent, &audit)?;
    let observer = Arc::clone(gateway.observer());
    let mut sensors = tokio::spawn(sensors::run(port));
    let mut receiver = tokio::spawn(sensors::receive(
        port,
        "tidegate/+/summary".to_owned(),
        move |payload| {
            for summary in parse(payload) {
                // What the terminal has no time for is not told; nothing else depends on it.
                if told.try_send(summary).is_err() {
                    return;
                }
            }
        },
    ));
    print(&format!(
        "page      http://{page}/\nfiles     {}\n",
        dir.display()
    ))?;

    let end = duration.map(|duration| Instant::now() + duration);
    let mut ticks = tokio::time::interval(REFRESH);
    let mut line = Line::default();
    let mut left_to_tell = TOLD;
    loop {
        tokio::select! {
            _ = ticks.tick() => line.refresh(&observer)?,
            Some(summary) = summaries.recv() => {
                if left_to_tell > 0 {
                    left_to_tell -= 1;
                    line.above(&in_words(&summary))?;
                }
            }
            error = gateway.failed() => return Err(error),
            ended = &mut sensors => return Err(ended_early("the simulated sensors", ended)),
            ended = &mut receiver => return Err(ended_early("the receiver of summaries", ended)),
            _ = tokio::signal::ctrl_c() => break,
            () = sleep_until(end) => break,
        }
    }
    sensors.abort();
    line.refresh(&observer)?;
    print("\n")?;
    gateway.stop(DRAIN).await?;
    receiver.abort();
    let verification =
        tokio::task::spawn_blocking(move || tidegate_store::verify(&database)).await??;
    let problems = verification
        .ledger
        .imbalances()
        .iter()
        .map(|imbalance| {
            format!(
                "{}: {} ({} ≠ {})",
                imbalance.scope, imbalance.equation, imbalance.left, imbalance.right
            )
        })
        .chain(verification.differences.iter().map(ToString::to_string))
        .collect();
    Ok(Closing {
        ledger: verification.ledger,
        problems,
    })
}

/// A configuration as a site would write it.
fn configuration(dir: &Path, broker: u16, page: u16) -> String {
    let state = dir.join("state");
    let state = state.display();
    format!(
        r#"[gateway]
id = "demo"
state-dir = "{state}"

[status]
listen = "127.0.0.1:{page}"

[source.plant]
kind = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
version = "3.1.1"
subscribe = [{{ topic = "plant/+", qos = 1 }}]
in-flight = 100
decode = {{ as = "json", time-field = "ts", time-unit = "ms" }}

[series."plant/*/temp"]
measure = "°C"

[series."plant/*/vibration"]
measure = "mm/s"

[pipeline.temperature]
from = ["plant"]
series = ["plant/*/temp"]
filters = [
  {{ module = "dedupe", settings = {{ window = 10 }} }},
  {{ module = "range", settings = {{ min = -40, max = 125 }} }},
  {{ module = "deadband", settings = {{ width = 0.05 }} }},
]
summary = {{ window = "2s" }}
to = [{{ uplink = "cloud", send = "summary" }}]

[pipeline.vibration]
from = ["plant"]
series = ["plant/*/vibration"]
filters = [
  {{ module = "dedupe", settings = {{ window = 10 }} }},
  {{ module = "anomaly" }},
]
summary = {{ window = "2s" }}
to = [{{ uplink = "cloud", send = "summary" }}]

[uplink.cloud]
kind = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
version = "3.1.1"
topic = "tidegate/{{gateway}}/{{kind}}"
"#
    )
}

/// The summaries of a payload; a payload that is none is the gateway's fault and shown as such.
fn parse(payload: &[u8]) -> Vec<Summary> {
    #[derive(Deserialize)]
    struct Payload {
        items: Vec<Summary>,
    }
    match serde_json::from_slice::<Payload>(payload) {
        Ok(payload) => payload.items,
        Err(error) => {
            tracing::error!(%error, "the gateway sent a payload that is none");
            Vec::new()
        }
    }
}

fn in_words(summary: &Summary) -> String {
    let measure = summary
        .measure
        .as_deref()
        .map(|measure| format!(" {measure}"))
        .unwrap_or_default();
    let seconds = (summary.to - summary.from) / 1000;
    let kind = if summary.late {
        "late readings"
    } else {
        "readings"
    };
    match (summary.mean, summary.min, summary.max) {
        (Some(mean), Some(min), Some(max)) => format!(
            "summary   {}: {} {kind} in {seconds} s, {mean:.2}{measure} on average, between {min:.2} and {max:.2}",
            summary.series, summary.count
        ),
        _ => format!(
            "summary   {}: {} {kind} in {seconds} s, none of them a number",
            summary.series, summary.count
        ),
    }
}

/// The one line that refreshes; on a terminal in place, otherwise a line every few seconds.
#[derive(Default)]
struct Line {
    shown: u64,
    open: bool,
}

impl Line {
    /// Without a terminal only every so many refreshes are printed.
    const SPARSE: u64 = 6;

    fn refresh(&mut self, observer: &Observer) -> anyhow::Result<()> {
        let ledger = observer.ledger();
        let received: u64 = ledger.sources.values().map(|c| c.received).sum();
        let broken: u64 = ledger.sources.values().map(|c| c.quarantined).sum();
        let stored: u64 = ledger.pipelines.values().map(|c| c.stored).sum();
        let filtered: u64 = ledger.pipelines.values().map(|c| c.filtered).sum();
        let rejected: u64 = ledger.pipelines.values().map(|c| c.quarantined).sum();
        let sent: u64 = ledger.uplinks.values().map(|c| c.delivered).sum();
        let behind: u64 = ledger.uplinks.values().map(|c| c.waiting).sum();
        let text = format!(
            "in {received} messages · stored {stored} readings · filtered {filtered} · quarantined {} · sent {sent} · \
             behind {behind}",
            broken + rejected
        );
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            print(&format!("\r\x1b[K{text}"))?;
            self.open = true;
        } else if self.shown.is_multiple_of(Self::SPARSE) {
            print(&format!("{text}\n"))?;
        }
        self.shown += 1;
        Ok(())
    }

    /// Prints a whole line above the one that refreshes.
    fn above(&mut self, text: &str) -> anyhow::Result<()> {
        let clear = if std::mem::take(&mut self.open) {
            "\r\x1b[K"
        } else {
            ""
        };
        print(&format!("{clear}{text}\n"))
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

fn ended_early(
    what: &str,
    ended: Result<anyhow::Result<()>, tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("{what} ended early"),
        Ok(Err(error)) => error.context(format!("{what} ended early")),
        Err(error) => anyhow::Error::from(error).context(format!("{what} ended early")),
    }
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}
