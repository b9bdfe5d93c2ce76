//! What a message carries: the bodies of its items.

use rusqlite::Connection;
use rusqlite::blob::Blob;
use tidegate_domain::delivery::ENVELOPE_ROOM;

/// From so many bytes on a body goes from the pages straight to where it is to be; as a column's value it would be copied
/// once more, through memory that is fresh from the system every time: a third of the time of a drain of 120 KB messages.
const LARGE: usize = 16 * 1024;

/// What a message says of its own length is believed up to here, or damage could ask for any amount of memory.
const BELIEVED: usize = 1024 * 1024;

/// The bodies of a range of items, joined by commas. `bytes` is how many there should be.
pub(crate) fn body(
    conn: &Connection,
    first: i64,
    last: i64,
    bytes: usize,
) -> Result<Vec<u8>, rusqlite::Error> {
    let mut body = Vec::with_capacity(bytes.min(BELIEVED) + ENVELOPE_ROOM);
    let separate = |body: &mut Vec<u8>| {
        if !body.is_empty() {
            body.push(b',');
        }
    };
    if bytes < LARGE {
        let mut statement =
            conn.prepare_cached("SELECT body FROM item WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
        let mut rows = statement.query([first, last])?;
        while let Some(row) = rows.next()? {
            separate(&mut body);
            body.extend_from_slice(row.get_ref(0)?.as_blob()?);
        }
        return Ok(body);
    }
    let mut statement =
        conn.prepare_cached("SELECT id FROM item WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
    let mut rows = statement.query([first, last])?;
    let mut blob: Option<Blob<'_>> = None;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let blob = match &mut blob {
            Some(blob) => {
                blob.reopen(id)?;
                blob
            }
            None => blob.insert(conn.blob_open("main", "item", "body", id, true)?),
        };
        separate(&mut body);
        let at = body.len();
        body.resize(at + blob.len(), 0);
        blob.read_at_exact(&mut body[at..], 0)?;
    }
    Ok(body)
}
