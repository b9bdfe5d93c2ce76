//! What the other end answered: messages leave the outbox.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use tidegate_domain::delivery::{Settled, Verdict};

use super::body::body;
use super::{Found, Outbox, Pen};
use crate::books::{Scope, own};
use crate::num::{count, sql, sql_len};

impl Outbox {
    /// The other end answered. A message that is not there was settled before, or given up.
    pub(crate) fn settle(
        &mut self,
        pen: &mut Pen<'_>,
        answers: &[Settled],
    ) -> Result<(), rusqlite::Error> {
        let mut delivered: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for Settled {
            uplink,
            seq,
            verdict,
        } in answers
        {
            match verdict {
                Verdict::Delivered => delivered.entry(*uplink).or_default().push(*seq),
                Verdict::Rejected { reason } => self.reject(pen, *uplink, *seq, reason)?,
            }
        }
        for (uplink, mut seqs) in delivered {
            seqs.sort_unstable();
            for run in seqs.chunk_by(|before, next| before + 1 == *next) {
                self.deliver(pen, uplink, run)?;
            }
        }
        Ok(())
    }

    /// Deletes messages of consecutive numbers: on a fast line hundreds at once, for which a few statements do.
    fn deliver(
        &mut self,
        pen: &mut Pen<'_>,
        uplink: usize,
        run: &[u64],
    ) -> Result<(), rusqlite::Error> {
        let (Some(uplink), [first, ..], [.., last]) = (self.uplinks.get_mut(uplink), run, run)
        else {
            return Ok(());
        };
        let mut deleted = pen.conn.prepare_cached(
            "DELETE FROM message WHERE uplink = ?1 AND priority IN (0, 1, 2, 3) AND seq BETWEEN ?2 AND ?3
             RETURNING items, first_item, last_item",
        )?;
        let mut rows = deleted.query((uplink.id, sql(*first), sql(*last)))?;
        let mut items = 0;
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        while let Some(row) = rows.next()? {
            items += count(row.get(0)?);
            ranges.push((row.get(1)?, row.get(2)?));
        }
        uplink.messages = uplink.messages.saturating_sub(ranges.len() as u64);
        ranges.sort_unstable();
        for range in ranges.chunk_by(|before, next| before.1 + 1 == next.0) {
            if let ([(first, _), ..], [.., (_, last)]) = (range, range) {
                delete_items(pen.conn, *first, *last)?;
            }
        }
        let (books, name) = (&mut *pen.books, &uplink.name);
        books.add(Scope::Uplink, name, "delivered", items);
        books.take(Scope::Uplink, name, "waiting", items);
        Ok(())
    }

    /// Keeps what was refused, bytes and all.
    fn reject(
        &mut self,
        pen: &mut Pen<'_>,
        uplink: usize,
        seq: u64,
        reason: &str,
    ) -> Result<(), rusqlite::Error> {
        let Some(uplink) = self.uplinks.get_mut(uplink) else {
            return Ok(());
        };
        let Some(message) = find(pen.conn, uplink.id, seq)? else {
            return Ok(());
        };
        let body = body(pen.conn, message.first, message.last, 0)?;
        pen.conn
            .prepare_cached(
                "INSERT INTO rejected (uplink, seq, kind, items, time, reason, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                uplink.id,
                sql(seq),
                message.kind,
                sql(message.items),
                pen.wall,
                reason,
                &body,
            ))?;
        pen.books
            .add_store(own::REJECTED_BYTES, sql_len(body.len()));
        let (books, name) = (&mut *pen.books, &uplink.name);
        books.add(Scope::Uplink, name, "rejected", message.items);
        books.take(Scope::Uplink, name, "waiting", message.items);
        uplink.delete(pen.conn, &message)
    }
}

pub(super) fn delete_items(
    conn: &Connection,
    first: i64,
    last: i64,
) -> Result<(), rusqlite::Error> {
    conn.prepare_cached("DELETE FROM item WHERE id BETWEEN ?1 AND ?2")?
        .execute([first, last])?;
    Ok(())
}

fn find(conn: &Connection, uplink: i64, seq: u64) -> Result<Option<Found>, rusqlite::Error> {
    conn.prepare_cached(
        "SELECT priority, kind, items, first_item, last_item FROM message
         WHERE uplink = ?1 AND priority IN (0, 1, 2, 3) AND seq = ?2",
    )?
    .query_row((uplink, sql(seq)), |row| {
        Ok(Found {
            seq,
            priority: row.get(0)?,
            kind: row.get(1)?,
            items: count(row.get(2)?),
            first: row.get(3)?,
            last: row.get(4)?,
        })
    })
    .optional()
}
