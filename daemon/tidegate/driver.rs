//! The thread of a driver: polls when its source asks, and has what was refused recorded.

use std::collections::BTreeSet;
use std::time::Instant;

use tidegate_domain::Arrival;
use tidegate_ingest::Answer;
use tidegate_pipeline::{BusRefusal, ModuleDriver};

use crate::audit::{self, Audit};

/// Different refusals of one driver that are recorded; a driver that makes names up must not fill the log.
const REFUSALS: usize = 64;

/// A driver at work.
pub(crate) struct Driving {
    pub(crate) source: String,
    /// Name and version.
    pub(crate) module: String,
    pub(crate) driver: ModuleDriver,
    pub(crate) audit: Audit,
    /// What is on record, each once a start.
    pub(crate) refused: BTreeSet<BusRefusal>,
}

impl Driving {
    /// Polls once. Blocks.
    pub(crate) fn poll(&mut self, at: Arrival) -> Answer {
        let polled = self.driver.poll(at.wall, Instant::now());
        for refusal in polled.refused {
            if self.refused.len() >= REFUSALS || self.refused.contains(&refusal) {
                continue;
            }
            tracing::warn!(
                source = self.source,
                module = self.module,
                "a driver reached for what the source does not hand in: {refusal}"
            );
            audit::bus(&self.audit, &self.source, &self.module, &refusal);
            self.refused.insert(refusal);
        }
        Answer {
            lines: polled.lines,
            trouble: polled.trouble,
            state: polled.state,
        }
    }
}
