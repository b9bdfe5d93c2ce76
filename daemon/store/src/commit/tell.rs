//! What is told beside readings: events and losses.

use tidegate_domain::Item;
use tidegate_domain::item::{EventItem, ItemKind, Priority, millis};

use super::{Commit, encode};
use crate::gaps::Loss;
use crate::input::{Event, SourceGap};
use crate::outbox::LaneKey;

impl Commit<'_> {
    pub(super) fn event(&mut self, event: &Event) -> Result<(), rusqlite::Error> {
        let time = millis(event.time);
        let item = Item::Event(EventItem {
            time,
            code: &event.code,
            text: &event.text,
            data: event.data.clone(),
            boot: self.unset.map(|mark| self.image.boots.name(mark)),
            mono: self.unset.map(|mark| mark.mono(event.time)),
        });
        encode(&mut self.json, &item);
        for uplink in 0..self.setup.uplinks.len() {
            let key = LaneKey {
                uplink,
                priority: Priority::High,
                kind: ItemKind::Event,
            };
            self.queue(key, None, time, time)?;
        }
        Ok(())
    }

    pub(super) fn source_gap(&mut self, gap: &SourceGap) {
        let loss = Loss {
            source: self.setup.sources.get(gap.source).cloned(),
            pipeline: None,
            series: None,
            reason: gap.reason,
            from: millis(gap.from),
            to: millis(gap.to),
            items: gap.count,
            seq: None,
        };
        self.loss(&loss);
    }

    /// A loss that every uplink misses.
    pub(super) fn loss(&mut self, loss: &Loss) {
        for uplink in 0..self.setup.uplinks.len() {
            self.image.gaps.record(uplink, loss);
        }
    }
}
