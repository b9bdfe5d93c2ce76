//! Which sealed messages one look at the outbox takes, and in which order.

use std::collections::VecDeque;

use rusqlite::Connection;
use tidegate_domain::delivery::{Lane, Numbers, Request, SealedMessage};
use tidegate_domain::item::{ItemKind, Priority};

use crate::num::{count, sql, sql_len};
use crate::outbox;

/// Messages whose heads are read together.
const HEADS: usize = 64;

/// A message without its bytes.
struct Head {
    seq: u64,
    kind: ItemKind,
    items: u32,
    bytes: usize,
    first: i64,
    last: i64,
}

/// The messages that fit the request: alarms by number, then priorities from high to low, in each of which what was
/// sealed above the mark and what was sealed up to it share the bytes.
pub(crate) fn take(
    conn: &Connection,
    uplink: i64,
    request: &mut Request,
) -> Result<Vec<SealedMessage>, rusqlite::Error> {
    let exclude = &request.exclude;
    let mut messages: Vec<SealedMessage> = Vec::new();
    let mut bytes = 0;
    for priority in [
        Priority::Alarm,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ] {
        let mark = match priority {
            // One lane: an alarm is raised before it is cleared.
            Priority::Alarm => i64::MAX,
            Priority::High | Priority::Normal | Priority::Low if request.alarms_only => break,
            Priority::High | Priority::Normal | Priority::Low => sql(request.mark),
        };
        let lane = |after, until| Cursor {
            conn,
            exclude,
            uplink,
            priority,
            after,
            until,
            heads: VecDeque::new(),
        };
        let (mut live, mut backlog) = (lane(mark, i64::MAX), lane(0, mark));
        let mut heads = (live.next()?, backlog.next()?);
        loop {
            let contended = heads.0.is_some() && heads.1.is_some();
            let lane = request.share.next(heads.0.is_some(), heads.1.is_some());
            let (lane, head) = match lane {
                Some(lane @ Lane::Live) => (lane, heads.0.take()),
                Some(lane @ Lane::Backlog) => (lane, heads.1.take()),
                None => break,
            };
            let Some(head) = head else {
                break;
            };
            if !request.fits(messages.len(), bytes, head.bytes) {
                return Ok(messages);
            }
            request.share.took(lane, head.bytes, contended);
            bytes += head.bytes;
            messages.push(SealedMessage {
                seq: head.seq,
                kind: head.kind,
                priority,
                items: head.items,
                body: outbox::body(conn, head.first, head.last, head.bytes)?,
            });
            match lane {
                Lane::Live => heads.0 = live.next()?,
                Lane::Backlog => heads.1 = backlog.next()?,
            }
        }
    }
    Ok(messages)
}

/// Goes through a lane by number.
struct Cursor<'a> {
    conn: &'a Connection,
    exclude: &'a Numbers,
    uplink: i64,
    priority: Priority,
    /// The last one that was read.
    after: i64,
    until: i64,
    /// Read ahead.
    heads: VecDeque<Head>,
}

impl Cursor<'_> {
    /// The next message that is not excluded. What is settled and not deleted yet is thousands in a row on a fast line, and
    /// is passed in one step.
    fn next(&mut self) -> Result<Option<Head>, rusqlite::Error> {
        loop {
            let Some(head) = self.heads.pop_front() else {
                if self.read()? {
                    continue;
                }
                return Ok(None);
            };
            let Some(last) = self.exclude.last_in_row(head.seq) else {
                return Ok(Some(head));
            };
            self.heads.retain(|head| head.seq > last);
            self.after = self.after.max(sql(last));
        }
    }

    /// Reads on; false where there is nothing more.
    fn read(&mut self) -> Result<bool, rusqlite::Error> {
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, kind, items, bytes, first_item, last_item FROM message
             WHERE uplink = ?1 AND priority = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq LIMIT ?5",
        )?;
        let lane = (self.uplink, self.priority as u8, self.after, self.until);
        let mut rows = statement.query((lane.0, lane.1, lane.2, lane.3, sql_len(HEADS)))?;
        while let Some(row) = rows.next()? {
            self.after = row.get(0)?;
            let kind: usize = row.get::<_, u8>(1)?.into();
            self.heads.push_back(Head {
                seq: count(self.after),
                // The table holds what `ItemKind` counted out.
                kind: ItemKind::ALL.get(kind).copied().unwrap_or(ItemKind::Event),
                items: row.get(2)?,
                bytes: usize::try_from(row.get::<_, i64>(3)?).unwrap_or(usize::MAX),
                first: row.get(4)?,
                last: row.get(5)?,
            });
        }
        Ok(!self.heads.is_empty())
    }
}
