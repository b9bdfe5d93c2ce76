//! The counts that must balance (promise 2).
//!
//! - per source, messages: `received = decoded + quarantined + Σ dropped` (redelivered ones also shown apart)
//! - per pipeline, readings: `selected + derived + replayed = stored + filtered + quarantined + Σ dropped`
//!   and `stored = held + expired + evicted`
//! - per uplink, items: `queued = delivered + waiting + evicted + rejected`
//! - per source (messages) and pipeline (readings): `quarantined = held + replayed + discarded + evicted`
//!   for what was set aside
//!
//! A ledger is changed only by the transaction that stores what it counts. [`Ledger::imbalances`] compares counters
//! with each other; the store's `verify` also compares them with the rows themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::outcome::MessageCounts;

/// All counts of a gateway, by name as configured. What is no longer configured keeps its counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// By source.
    pub sources: BTreeMap<String, SourceCounts>,
    /// By pipeline.
    pub pipelines: BTreeMap<String, PipelineCounts>,
    /// By uplink.
    pub uplinks: BTreeMap<String, UplinkCounts>,
}

/// Messages of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Taken in.
    pub received: u64,
    /// Among them: marked by the source as sent before.
    pub redelivered: u64,
    /// Among them: without the identity that the source is configured to give, and so never known as duplicates.
    #[serde(default)]
    pub unidentified: u64,
    /// Became readings.
    pub decoded: u64,
    /// Set aside.
    pub quarantined: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Where the quarantined messages are now.
    pub quarantine: QuarantineCounts,
}

/// Readings of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineCounts {
    /// Entered from a source.
    pub selected: u64,
    /// Added by filters.
    pub derived: u64,
    /// Entered again from quarantine.
    pub replayed: u64,
    /// Came through.
    pub stored: u64,
    /// Taken out by filters.
    pub filtered: u64,
    /// Set aside.
    pub quarantined: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Of the stored: still in history.
    pub held: u64,
    /// Of the stored: deleted by age.
    pub expired: u64,
    /// Of the stored: deleted for space.
    pub evicted: u64,
    /// Where the quarantined readings are now.
    pub quarantine: QuarantineCounts,
}

/// What became of what was set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineCounts {
    /// Still there.
    pub held: u64,
    /// Sent through the chain again.
    pub replayed: u64,
    /// Dropped by an operator.
    pub discarded: u64,
    /// Deleted for space or age.
    pub evicted: u64,
}

/// Items of one uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkCounts {
    /// Entered the outbox.
    pub queued: u64,
    /// Acknowledged by the other end.
    pub delivered: u64,
    /// In the outbox.
    pub waiting: u64,
    /// Given up for space or age; named in gap items.
    pub evicted: u64,
    /// Refused by the other end; kept and shown.
    pub rejected: u64,
}

/// One equation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imbalance {
    /// `source plant`, `pipeline temperature`, `uplink cloud`.
    pub scope: String,
    /// The equation in words.
    pub equation: &'static str,
    /// Its left side.
    pub left: u64,
    /// Its right side.
    pub right: u64,
}

impl Ledger {
    /// The equations that do not hold; none when the ledger balances.
    #[must_use]
    pub fn imbalances(&self) -> Vec<Imbalance> {
        let mut found = Vec::new();
        let mut check = |scope: String, equation, left, right| {
            if left != right {
                found.push(Imbalance {
                    scope,
                    equation,
                    left,
                    right,
                });
            }
        };
        for (name, c) in &self.sources {
            let dropped: u64 = c.dropped.values().sum();
            let right = c.decoded + c.quarantined + dropped;
            check(
                format!("source {name}"),
                "received = decoded + quarantined + dropped",
                c.received,
                right,
            );
            check(
                format!("source {name}"),
                QuarantineCounts::EQUATION,
                c.quarantined,
                c.quarantine.sum(),
            );
        }
        for (name, c) in &self.pipelines {
            let dropped: u64 = c.dropped.values().sum();
            check(
                format!("pipeline {name}"),
                "selected + derived + replayed = stored + filtered + quarantined + dropped",
                c.selected + c.derived + c.replayed,
                c.stored + c.filtered + c.quarantined + dropped,
            );
            check(
                format!("pipeline {name}"),
                "stored = held + expired + evicted",
                c.stored,
                c.held + c.expired + c.evicted,
            );
            check(
                format!("pipeline {name}"),
                QuarantineCounts::EQUATION,
                c.quarantined,
                c.quarantine.sum(),
            );
        }
        for (name, c) in &self.uplinks {
            let right = c.delivered + c.waiting + c.evicted + c.rejected;
            check(
                format!("uplink {name}"),
                "queued = delivered + waiting + evicted + rejected",
                c.queued,
                right,
            );
        }
        found
    }
}

impl SourceCounts {
    /// Adds what one batch came to.
    pub fn add(&mut self, batch: &MessageCounts) {
        self.received += batch.received;
        self.redelivered += batch.redelivered;
        self.unidentified += batch.unidentified;
        self.decoded += batch.decoded;
        self.quarantined += batch.quarantined;
        self.quarantine.held += batch.quarantined;
        for (reason, count) in &batch.dropped {
            *self.dropped.entry((*reason).to_owned()).or_default() += count;
        }
    }
}

impl QuarantineCounts {
    const EQUATION: &'static str = "quarantined = held + replayed + discarded + evicted";

    fn sum(&self) -> u64 {
        self.held + self.replayed + self.discarded + self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_equation_that_does_not_hold() {
        let mut ledger = Ledger::default();
        let counts = ledger.sources.entry("plant".to_owned()).or_default();
        counts.add(&MessageCounts {
            received: 5,
            decoded: 3,
            quarantined: 1,
            dropped: BTreeMap::from([("no-pipeline", 1)]),
            ..MessageCounts::default()
        });
        assert_eq!(ledger.imbalances(), []);
        ledger
            .sources
            .entry("plant".to_owned())
            .or_default()
            .received += 1;
        assert_eq!(
            ledger.imbalances(),
            [Imbalance {
                scope: "source plant".to_owned(),
                equation: "received = decoded + quarantined + dropped",
                left: 6,
                right: 5
            }]
        );
    }
}
