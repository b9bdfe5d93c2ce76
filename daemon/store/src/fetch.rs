//! Which sealed messages one look at the outbox takes, and in which order.

use std::collections::BTreeSet;

use rusqlite::{Connection, Rows};
use tidegate_domain::delivery::{Lane, Request, SealedMessage};
use tidegate_domain::item::{ItemKind, Priority};

use crate::num::{count, sql};
use crate::outbox;

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
    let exclude: BTreeSet<u64> = request.exclude.iter().copied().collect();
    let mut messages: Vec<SealedMessage> = Vec::new();
    let mut bytes = 0;
    // Two texts, so that the connection keeps both prepared.
    let mut live = conn.prepare_cached(
        "SELECT seq, kind, items, bytes, first_item, last_item FROM message
         WHERE uplink = ?1 AND priority = ?2 AND seq > ?3 ORDER BY seq",
    )?;
    let mut backlog = conn.prepare_cached(
        "SELECT seq, kind, items, bytes, first_item, last_item FROM message
         WHERE uplink = ?1 AND priority = ?2 AND seq <= ?3 ORDER BY seq",
    )?;
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
        let mut live = live.query((uplink, priority as u8, mark))?;
        let mut backlog = backlog.query((uplink, priority as u8, mark))?;
        let mut heads = (next(&mut live, &exclude)?, next(&mut backlog, &exclude)?);
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
                body: outbox::body(conn, head.first, head.last)?,
            });
            match lane {
                Lane::Live => heads.0 = next(&mut live, &exclude)?,
                Lane::Backlog => heads.1 = next(&mut backlog, &exclude)?,
            }
        }
    }
    Ok(messages)
}

/// The lane's next message that is not excluded.
fn next(rows: &mut Rows<'_>, exclude: &BTreeSet<u64>) -> Result<Option<Head>, rusqlite::Error> {
    while let Some(row) = rows.next()? {
        let seq = count(row.get(0)?);
        if exclude.contains(&seq) {
            continue;
        }
        let kind: usize = row.get::<_, u8>(1)?.into();
        return Ok(Some(Head {
            seq,
            // The table holds what `ItemKind` counted out.
            kind: ItemKind::ALL.get(kind).copied().unwrap_or(ItemKind::Event),
            items: row.get(2)?,
            bytes: usize::try_from(row.get::<_, i64>(3)?).unwrap_or(usize::MAX),
            first: row.get(4)?,
            last: row.get(5)?,
        }));
    }
    Ok(None)
}
