//! Names that rows refer to by number.
//!
//! A name that one flipped bit made another would put readings under a stranger's series, or a filter's state into a
//! stranger's slot, and nothing else in its row would tell. So each has a checksum of its table, its number and its text,
//! which only salvage reads: SQLite finds what its own structure says, and a store that is sound has sound names.

use rusqlite::{Connection, OptionalExtension};

use crate::block::crc32;

/// The tables of names. Each has the columns `id`, `name` and `checksum`.
const TABLES: [&str; 5] = ["pipeline", "uplink", "slot", "source", "series"];

/// The checksum of a name: CRC-32 of the table's name, the number, eight bytes little-endian, and the text.
pub(crate) fn checksum(table: &str, id: i64, name: &str) -> i64 {
    crc32(&[table.as_bytes(), &id.to_le_bytes(), name.as_bytes()].concat()).into()
}

/// The number that a new row of a table of ours gets, with its checksum.
pub(crate) fn next(
    conn: &Connection,
    table: &str,
    name: &str,
) -> Result<(i64, i64), rusqlite::Error> {
    let id = conn
        .prepare_cached(&format!("SELECT ifnull(max(id), 0) + 1 FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    Ok((id, checksum(table, id, name)))
}

/// The number of a name, inserting it where it is new. `table` is one of ours, with no columns but those of all names.
pub(crate) fn number(conn: &Connection, table: &str, name: &str) -> Result<i64, rusqlite::Error> {
    let known = conn
        .query_row(
            &format!("SELECT id FROM {table} WHERE name = ?1"),
            [name],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let (id, checksum) = next(conn, table, name)?;
    conn.execute(
        &format!("INSERT INTO {table} (id, name, checksum) VALUES (?1, ?2, ?3)"),
        (id, name, checksum),
    )?;
    Ok(id)
}

/// Gives every name that has none its checksum: the names of a layout before 10.
pub(crate) fn seal(conn: &Connection) -> Result<(), rusqlite::Error> {
    for table in TABLES {
        let rows = conn
            .prepare(&format!(
                "SELECT id, name FROM {table} WHERE checksum IS NULL"
            ))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(i64, String)>, _>>()?;
        let mut update =
            conn.prepare(&format!("UPDATE {table} SET checksum = ?2 WHERE id = ?1"))?;
        for (id, name) in rows {
            update.execute((id, checksum(table, id, &name)))?;
        }
    }
    Ok(())
}
