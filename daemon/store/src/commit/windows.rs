//! Windows that close, in as many transactions as they need.

use std::sync::Arc;

use tidegate_domain::item::{ItemKind, SummaryItem, millis};
use tidegate_domain::{Arrival, ClosedWindow, Item};

use super::{Commit, Frozen, encode, pen};
use crate::image::Image;
use crate::input::{ClosedSummary, Committed};
use crate::outbox::LaneKey;
use crate::setup::Bounds;

/// More windows are about to close than fit into one transaction: some close before, while the clock stays. A group with
/// readings comes only when the rest fits beside it, so that its readings still find nothing that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// What the clock will be moved to.
    pub(crate) clock: i64,
    /// The clock will be stepped.
    pub(crate) stepped: bool,
}

impl Ahead {
    /// What has to close before a group of these arrivals, or of none at `idle`, can be committed.
    pub(crate) fn of(
        image: &Image,
        bounds: &Bounds,
        arrivals: &[Arrival],
        idle: Arrival,
    ) -> Option<Self> {
        let mut clock = image.clock;
        if clock.set.is_none() && clock.set_by(arrivals, idle).is_some() {
            clock.step_at_next();
        }
        let advance = clock.advance(arrivals, idle);
        let ahead = Self {
            clock: advance.observe_at,
            stepped: advance.step.is_some(),
        };
        let closing = image.windows.closing(ahead.clock, ahead.stepped);
        (closing > bounds.windows).then_some(ahead)
    }
}

impl Commit<'_> {
    pub(super) fn windows_ahead(
        &mut self,
        ahead: Ahead,
        frozen: &Frozen,
    ) -> Result<(), rusqlite::Error> {
        let Ahead { clock, stepped } = ahead;
        let at_most = self.setup.bounds.windows;
        for (pipeline, closed) in self.image.windows.close_ahead(clock, stepped, at_most) {
            self.close(pipeline, &closed)?;
        }
        let Image { outbox, books, .. } = &mut *self.image;
        outbox.settle(&mut pen(self.conn, books, self.wall), &frozen.group.settled)?;
        self.write_windows(self.image.history.next_block)?;
        self.seal(frozen.now)
    }

    pub(super) fn write_windows(&mut self, first_block: i64) -> Result<(), rusqlite::Error> {
        let (conn, measures) = (self.conn, &self.setup.config.measures);
        let Image {
            windows,
            books,
            dictionary,
            ..
        } = &mut *self.image;
        windows.write(conn, books, self.setup, |name| {
            let series = dictionary.series(conn, measures, name, first_block)?;
            Ok(series.id)
        })
    }

    /// Queues the summaries of closed windows, and forgets their rows.
    pub(super) fn close(
        &mut self,
        index: usize,
        closed: &[ClosedWindow],
    ) -> Result<(), rusqlite::Error> {
        let pipeline = &self.setup.pipelines[index];
        let measures = &self.setup.config.measures;
        let Image {
            windows,
            dictionary,
            history,
            ..
        } = &mut *self.image;
        let block = history.next_block;
        let unset = windows.delete_rows(self.conn, index, closed)?;
        let measure_of = |dictionary: &mut crate::series::Dictionary, window: &ClosedWindow| {
            let series = dictionary.series(self.conn, measures, &window.key.series, block)?;
            Ok::<_, rusqlite::Error>(series.measure.and_then(|measure| measures.text(measure)))
        };
        let found = closed
            .iter()
            .map(|window| measure_of(dictionary, window))
            .collect::<Result<Vec<Option<&str>>, _>>()?;
        for ((window, measure), unset) in closed.iter().zip(found).zip(unset) {
            let (from, to) = (millis(window.key.from), millis(window.key.to));
            let item = Item::Summary(SummaryItem {
                pipeline: &pipeline.name,
                series: &window.key.series,
                measure,
                from,
                to,
                stats: window.stats,
                late: window.key.late,
                stepped: window.stepped,
                incomplete: window.incomplete,
                boot: unset.map(|mark| self.image.boots.name(mark)),
                mono: unset.map(|mark| mark.mono(window.key.from)),
            });
            encode(&mut self.json, &item);
            for &(uplink, priority) in &pipeline.summaries {
                let key = LaneKey {
                    uplink,
                    priority,
                    kind: ItemKind::Summary,
                };
                self.queue(key, Some(index), from, to)?;
            }
            if self.written.summaries.len() < Committed::SUMMARIES {
                self.written.summaries.push(Arc::new(ClosedSummary {
                    pipeline: pipeline.name.as_ref().to_owned(),
                    series: Arc::clone(&window.key.series),
                    measure: measure.map(str::to_owned),
                    from,
                    to,
                    stats: window.stats,
                    late: window.key.late,
                }));
            }
        }
        Ok(())
    }
}
