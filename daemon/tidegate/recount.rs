//! The recount in the background: some time after the start and once a day the rows are counted and compared with the
//! ledger. A difference is shown, logged and sent up the line; nothing is repaired.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_store::{Event, Input, Recounter, Verification, VerifyError};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::writer::ToWriter;

/// After the start the line and the sources come first.
const FIRST: Duration = Duration::from_secs(10);
/// Between two recounts.
const PAUSE: Duration = Duration::from_secs(24 * 3600);
/// After every step it rests so many times as long as that took: it must not be felt.
const REST: u32 = 4;
/// Differences that the event names.
const NAMED: usize = 8;

/// What the last recount came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recounted {
    /// When it ended, milliseconds since the epoch; 0 before the first.
    pub(crate) time: i64,
    /// Differences, in words.
    pub(crate) differences: Vec<String>,
    /// Differences beyond those.
    pub(crate) more: u64,
    /// Why it could not be done.
    pub(crate) error: Option<String>,
}

/// Counts until `stop` says so or its sender is gone.
pub(crate) async fn run(
    recounter: Recounter,
    inbox: mpsc::Sender<ToWriter>,
    shown: Arc<Mutex<Recounted>>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut wait = first();
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        wait = PAUSE;
        let (recounter, stopped) = (recounter.clone(), stop.clone());
        let counted = tokio::task::spawn_blocking(move || count(&recounter, &stopped)).await?;
        let recounted = match counted {
            Ok(Some(verification)) => tell(&verification, &inbox).await,
            Ok(None) => return Ok(()),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("the ledger could not be recounted: {error:#}");
                Recounted {
                    error: Some(format!("{error:#}")),
                    ..Recounted::default()
                }
            }
        };
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Recounted {
            time: clock::wall() / 1_000_000,
            ..recounted
        };
    }
}

/// `None` when it was stopped.
fn count(
    recounter: &Recounter,
    stop: &watch::Receiver<bool>,
) -> Result<Option<Verification>, VerifyError> {
    let mut recount = recounter.begin()?;
    loop {
        let began = Instant::now();
        if let Some(verification) = recount.step()? {
            return Ok(Some(verification));
        }
        if *stop.borrow() || stop.has_changed().is_err() {
            return Ok(None);
        }
        std::thread::sleep(began.elapsed() * REST);
    }
}

async fn tell(verification: &Verification, inbox: &mpsc::Sender<ToWriter>) -> Recounted {
    let differences: Vec<String> = verification
        .differences
        .iter()
        .map(ToString::to_string)
        .collect();
    let all = differences.len() as u64 + verification.more_differences;
    if all == 0 {
        tracing::info!("the rows were counted again: the ledger matches them");
        return Recounted::default();
    }
    let named = differences[..differences.len().min(NAMED)].join("; ");
    tracing::error!(
        differences = all,
        "the ledger does not match the rows: {named}; nothing was changed, `tidegate ledger --verify` lists all of it"
    );
    let event = Event {
        time: clock::wall(),
        code: "ledger-mismatch".to_owned(),
        text: format!("the ledger does not match the stored rows: {named}"),
        data: Some(serde_json::json!({
            "differences": verification.differences[..verification.differences.len().min(NAMED)],
            "all": all,
        })),
    };
    if inbox
        .send(ToWriter::Input(Input::Event(event)))
        .await
        .is_err()
    {
        tracing::warn!("the writer had ended before the difference could go up the line");
    }
    Recounted {
        differences,
        more: verification.more_differences,
        ..Recounted::default()
    }
}

#[cfg(not(feature = "test-faults"))]
fn first() -> Duration {
    FIRST
}

/// Tests do not wait for it.
#[cfg(feature = "test-faults")]
fn first() -> Duration {
    let seconds = std::env::var("TIDEGATE_TEST_RECOUNT_AFTER_MS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(FIRST, Duration::from_millis)
}
