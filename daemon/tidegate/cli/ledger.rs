//! `tidegate ledger`: what came in, what became of it, what left; `--verify` recounts the rows themselves.

use clap::Args;
use serde::Serialize;
use tidegate_domain::Ledger;
use tidegate_domain::ledger::Imbalance;
use tidegate_store::{Difference, verify};

use super::{DONE, FAILURE, Failure, Site, say, say_json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// Recount the stored rows and compare them with every counter; reads the whole database
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    balanced: bool,
    verified: bool,
    #[serde(flatten)]
    ledger: &'a Ledger,
    imbalances: &'a [Imbalance],
    differences: &'a [Difference],
}

/// Works on a stopped and on a running gateway. Exit code 1 when the ledger does not balance.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let path = crate::wiring::database(&config);
    let (ledger, differences) = if arguments.verify {
        let verification = verify(&path)?;
        (verification.ledger, verification.differences)
    } else {
        (
            tidegate_store::Reader::open(&path, &[])?.ledger()?,
            Vec::new(),
        )
    };
    let imbalances = ledger.imbalances();
    let balanced = imbalances.is_empty() && differences.is_empty();
    if arguments.json {
        say_json(&Report {
            balanced,
            verified: arguments.verify,
            ledger: &ledger,
            imbalances: &imbalances,
            differences: &differences,
        })?;
    } else {
        say(text(&ledger))?;
        for imbalance in &imbalances {
            say(format_args!(
                "DOES NOT BALANCE  {}: {} ({} ≠ {})",
                imbalance.scope, imbalance.equation, imbalance.left, imbalance.right
            ))?;
        }
        for difference in &differences {
            say(format_args!("DOES NOT MATCH THE ROWS  {difference}"))?;
        }
        if balanced {
            let how = if arguments.verify {
                "and matches the rows"
            } else {
                ""
            };
            say(format_args!("the ledger balances {how}")
                .to_string()
                .trim_end())?;
        }
    }
    Ok(if balanced { DONE } else { FAILURE })
}

/// The ledger as text, one equation a line.
pub(super) fn text(ledger: &Ledger) -> String {
    let mut lines = Vec::new();
    let reasons = |dropped: &std::collections::BTreeMap<String, u64>| -> String {
        dropped
            .iter()
            .map(|(reason, count)| format!(" + {count} dropped ({reason})"))
            .collect()
    };
    for (name, c) in &ledger.sources {
        lines.push(format!(
            "source {name}: {} messages received = {} decoded + {} quarantined{} ({} redelivered)",
            c.received,
            c.decoded,
            c.quarantined,
            reasons(&c.dropped),
            c.redelivered
        ));
    }
    for (name, c) in &ledger.pipelines {
        lines.push(format!(
            "pipeline {name}: {} readings selected + {} derived + {} replayed = {} stored + {} filtered + {} \
             quarantined{}",
            c.selected,
            c.derived,
            c.replayed,
            c.stored,
            c.filtered,
            c.quarantined,
            reasons(&c.dropped)
        ));
        lines.push(format!(
            "pipeline {name}: {} stored = {} held + {} expired + {} evicted",
            c.stored, c.held, c.expired, c.evicted
        ));
    }
    for (name, c) in &ledger.uplinks {
        lines.push(format!(
            "uplink {name}: {} items queued = {} delivered + {} waiting + {} evicted + {} rejected",
            c.queued, c.delivered, c.waiting, c.evicted, c.rejected
        ));
    }
    if lines.is_empty() {
        lines.push("nothing has come in yet".to_owned());
    }
    lines.join("\n")
}
