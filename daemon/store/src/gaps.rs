//! Losses on their way to the uplinks that will miss something (promise 2).
//!
//! A loss is summed up with others of its kind until a gap item can tell it: that is at once where no gap item waits,
//! and otherwise when those that wait have been delivered. So an outage of any length leaves few gap items, and they
//! need never be given up themselves.

use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::item::{GapItem, ItemKind, Priority};
use tidegate_domain::{Item, cover};

use crate::num::{count, sql};
use crate::outbox::{Entry, LaneKey, Outbox, Pen};

/// Ranges of sealed messages that one uplink's untold losses keep apart. Beyond it a range is widened over messages
/// that did come: "first and last that will never come" stays true, only less exact.
const RANGES: usize = 64;

/// Something that will never arrive. Times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) source: Option<Arc<str>>,
    pub(crate) pipeline: Option<Arc<str>>,
    /// What covers its series, where they are known.
    pub(crate) series: Option<String>,
    pub(crate) reason: &'static str,
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// `None` where nobody knows.
    pub(crate) items: Option<u64>,
    /// The sealed message that was given up.
    pub(crate) seq: Option<u64>,
}

/// Losses that no gap item has told yet, by uplink.
#[derive(Debug)]
pub(crate) struct Gaps {
    by_uplink: Vec<Vec<Untold>>,
    next_id: i64,
}

#[derive(Clone, Debug)]
struct Untold {
    id: i64,
    changed: bool,
    source: Option<String>,
    pipeline: Option<String>,
    series: Option<String>,
    reason: String,
    from: i64,
    to: i64,
    items: Option<u64>,
    seqs: Option<(u64, u64)>,
}

impl Gaps {
    /// `uplinks` are the configured ones' numbers.
    pub(crate) fn load(conn: &Connection, uplinks: &[i64]) -> Result<Self, rusqlite::Error> {
        let mut gaps = Self {
            by_uplink: vec![Vec::new(); uplinks.len()],
            next_id: 1,
        };
        let mut statement = conn.prepare(
            "SELECT uplink, id, source, pipeline, reason, from_time, to_time, items, seq_from, seq_to, series
             FROM gap ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let uplink: i64 = row.get(0)?;
            let id: i64 = row.get(1)?;
            gaps.next_id = id + 1;
            let Some(uplink) = uplinks.iter().position(|&known| known == uplink) else {
                continue;
            };
            let seqs: (Option<i64>, Option<i64>) = (row.get(8)?, row.get(9)?);
            gaps.by_uplink[uplink].push(Untold {
                id,
                changed: false,
                source: row.get(2)?,
                pipeline: row.get(3)?,
                series: row.get(10)?,
                reason: row.get(4)?,
                from: row.get(5)?,
                to: row.get(6)?,
                items: row.get::<_, Option<i64>>(7)?.map(count),
                seqs: seqs.0.map(count).zip(seqs.1.map(count)),
            });
        }
        Ok(gaps)
    }

    /// Notes a loss for one uplink.
    pub(crate) fn record(&mut self, uplink: usize, loss: &Loss) {
        let Some(untold) = self.by_uplink.get_mut(uplink) else {
            return;
        };
        let crowded = untold.len() >= RANGES;
        let same = |known: &&mut Untold| {
            known.source.as_deref() == loss.source.as_deref()
                && known.pipeline.as_deref() == loss.pipeline.as_deref()
                && known.reason == loss.reason
        };
        let fits = |known: &Untold| match (known.seqs, loss.seq) {
            (None, None) => true,
            (Some((from, to)), Some(seq)) => {
                crowded || (from.saturating_sub(1)..=to + 1).contains(&seq)
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        // The latest first: seqs are given up in order.
        if let Some(known) = untold
            .iter_mut()
            .rev()
            .filter(same)
            .find(|known| fits(known))
        {
            known.changed = true;
            known.from = known.from.min(loss.from);
            known.to = known.to.max(loss.to);
            known.items = known.items.zip(loss.items).map(|(a, b)| a + b);
            known.series = match (known.series.take(), &loss.series) {
                (Some(known), Some(series)) => Some(cover::join(&known, series).into_owned()),
                (Some(_), None) | (None, _) => None,
            };
            if let (Some((from, to)), Some(seq)) = (known.seqs, loss.seq) {
                known.seqs = Some((from.min(seq), to.max(seq)));
            }
            return;
        }
        untold.push(Untold {
            id: self.next_id,
            changed: true,
            source: loss.source.as_deref().map(str::to_owned),
            pipeline: loss.pipeline.as_deref().map(str::to_owned),
            series: loss.series.clone(),
            reason: loss.reason.to_owned(),
            from: loss.from,
            to: loss.to,
            items: loss.items,
            seqs: loss.seq.map(|seq| (seq, seq)),
        });
        self.next_id += 1;
    }

    /// Queues gap items for what can be told now, and writes down the rest.
    pub(crate) fn write(
        &mut self,
        pen: &mut Pen<'_>,
        outbox: &mut Outbox,
        uplinks: &[i64],
    ) -> Result<(), rusqlite::Error> {
        for (uplink, untold) in self.by_uplink.iter_mut().enumerate() {
            if untold.is_empty() {
                continue;
            }
            if outbox.gaps_wait(pen.conn, uplink)? {
                for gap in untold.iter_mut().filter(|gap| gap.changed) {
                    gap.write(pen.conn, uplinks[uplink])?;
                }
                continue;
            }
            let key = LaneKey {
                uplink,
                priority: Priority::High,
                kind: ItemKind::Gap,
            };
            for gap in untold.drain(..) {
                let (from, to) = (gap.from, gap.to);
                let json = Item::Gap(gap.into_item()).to_json();
                let entry = Entry {
                    pipeline: None,
                    from,
                    to,
                    json: json.as_bytes(),
                };
                outbox.push(pen, key, entry)?;
            }
            pen.conn
                .prepare_cached("DELETE FROM gap WHERE uplink = ?1")?
                .execute([uplinks[uplink]])?;
        }
        Ok(())
    }
}

impl Untold {
    fn write(&mut self, conn: &Connection, uplink: i64) -> Result<(), rusqlite::Error> {
        self.changed = false;
        conn.prepare_cached(
            "INSERT OR REPLACE INTO gap VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute((
            self.id,
            uplink,
            &self.source,
            &self.pipeline,
            &self.reason,
            self.from,
            self.to,
            self.items.map(sql),
            self.seqs.map(|(from, _)| sql(from)),
            self.seqs.map(|(_, to)| sql(to)),
            &self.series,
        ))?;
        Ok(())
    }

    fn into_item(self) -> GapItem {
        GapItem {
            source: self.source,
            pipeline: self.pipeline,
            series: self.series,
            from: self.from,
            to: self.to,
            count: self.items,
            reason: self.reason,
            seq_from: self.seqs.map(|(from, _)| from),
            seq_to: self.seqs.map(|(_, to)| to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses of one item each, by sealed message, and the ranges and counts that stay.
    #[track_caller]
    fn check(seqs: &[Option<u64>], expect: &[(Option<(u64, u64)>, u64)]) {
        let mut gaps = Gaps {
            by_uplink: vec![Vec::new()],
            next_id: 1,
        };
        for (time, seq) in (0..).zip(seqs) {
            let loss = Loss {
                source: None,
                pipeline: Some("p".into()),
                series: Some(format!("line{time}/temp")),
                reason: "size",
                from: time,
                to: time,
                items: Some(1),
                seq: *seq,
            };
            gaps.record(0, &loss);
        }
        let kept: Vec<_> = gaps.by_uplink[0]
            .iter()
            .map(|gap| (gap.seqs, gap.items.unwrap()))
            .collect();
        assert_eq!(kept, expect);
        for gap in &gaps.by_uplink[0] {
            let series = gap.series.as_deref().unwrap();
            assert_eq!(series == "*/temp", gap.items > Some(1), "{series}");
        }
    }

    #[test]
    fn neighbours_are_summed_up_and_others_kept_apart() {
        check(&[None, None], &[(None, 2)]);
        check(
            &[Some(3), Some(4), None, Some(5)],
            &[(Some((3, 5)), 3), (None, 1)],
        );
        check(&[Some(3), Some(5)], &[(Some((3, 3)), 1), (Some((5, 5)), 1)]);
        // A message with items of one pipeline in two rows is one message.
        check(&[Some(3), Some(3)], &[(Some((3, 3)), 2)]);
    }

    #[test]
    fn the_number_of_ranges_is_bounded() {
        let seqs: Vec<Option<u64>> = (0..1000).map(|n| Some(2 * n + 1)).collect();
        let mut expect: Vec<_> = (0..64).map(|n| (Some((2 * n + 1, 2 * n + 1)), 1)).collect();
        expect[63] = (Some((127, 1999)), 937);
        check(&seqs, &expect);
    }
}
