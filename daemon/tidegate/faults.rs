//! Switches that break the daemon on purpose, for tests that prove what it survives and that the others would notice.
//! `TIDEGATE_TEST_FAULTS` names them. Not in any release: an optimised build with them does not compile.

pub(crate) mod simulated;

use std::sync::{Mutex, PoisonError};

use tidegate_domain::Message;
use tidegate_domain::delivery::{SealedMessage, Settled, Verdict};
use tidegate_ingest::SourceHandle;
use tidegate_store::Input;
use tokio::sync::mpsc;

use crate::writer::ToWriter;

#[cfg(not(debug_assertions))]
compile_error!(
    "the feature `test-faults` breaks promises on purpose and has no place in a release"
);

/// What the broken parts need to do their damage.
static WIRES: Mutex<Option<Wires>> = Mutex::new(None);

struct Wires {
    /// Sources are acknowledged before the commit.
    acknowledge: Option<Vec<SourceHandle>>,
    /// Messages are deleted when they are read to be sent.
    delete: Option<mpsc::Sender<ToWriter>>,
}

/// Throws the switches that act on the store; before it is opened.
pub(crate) fn switch_store() {
    if is_on("synchronous-normal") {
        tidegate_store::faults::commit_without_sync();
    }
}

/// Throws the others.
pub(crate) fn install(sources: &[SourceHandle], inbox: &mpsc::Sender<ToWriter>) {
    let wires = Wires {
        acknowledge: is_on("acknowledge-before-commit").then(|| sources.to_vec()),
        delete: is_on("delete-before-puback").then(|| inbox.clone()),
    };
    *WIRES.lock().unwrap_or_else(PoisonError::into_inner) = Some(wires);
}

/// Acknowledges what the writer has only taken, if that is switched on.
pub(crate) fn acknowledge_early(input: &Input) {
    let wires = WIRES.lock().unwrap_or_else(PoisonError::into_inner);
    let sources = wires.as_ref().and_then(|wires| wires.acknowledge.as_ref());
    if let (Some(sources), Input::Outcome(outcome)) = (sources, input)
        && let Some(source) = sources.get(outcome.source)
    {
        source.acknowledge(&outcome.acks);
    }
}

/// Has messages deleted that are only about to be sent, if that is switched on.
pub(crate) fn delete_early(uplink: usize, messages: &[SealedMessage]) {
    let wires = WIRES.lock().unwrap_or_else(PoisonError::into_inner);
    let inbox = wires.as_ref().and_then(|wires| wires.delete.as_ref());
    for message in messages {
        let settled = Settled {
            uplink,
            seq: message.seq,
            verdict: Verdict::Delivered,
        };
        if let Some(Err(error)) = inbox.map(|inbox| inbox.try_send(vec![settled].into())) {
            tracing::warn!(%error, "a fault was not made");
        }
    }
}

/// Ends the process at once, as a crash in a parser would, on a payload that says so.
pub(crate) fn die_on_poison(messages: &[Message]) {
    let poison = b"\"poison\"";
    if messages.iter().any(|message| {
        message
            .payload
            .windows(poison.len())
            .any(|window| window == poison)
    }) {
        std::process::abort();
    }
}

fn is_on(name: &str) -> bool {
    let on = std::env::var("TIDEGATE_TEST_FAULTS").unwrap_or_default();
    let on = on.split(',').any(|switch| switch == name);
    if on {
        tracing::warn!("BROKEN ON PURPOSE: {name}");
    }
    on
}
