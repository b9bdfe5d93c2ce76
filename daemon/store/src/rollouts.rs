//! What is recorded of rollouts: one row a pipeline, written in the transaction that makes it true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tidegate_domain::rollout::Record;

use crate::setup::Setup;

/// An unclean exit within this time after the start may be the fault of what was active.
pub(crate) const EARLY: Duration = Duration::from_secs(60);

/// What a start finds. An exit that was unclean and early is counted before anything runs, so that a start that dies at once
/// counts as well. Pipelines that are no longer configured are forgotten.
pub(crate) fn begin(
    conn: &Connection,
    setup: &Setup,
    early_exit: bool,
) -> Result<BTreeMap<String, Record>, rusqlite::Error> {
    let mut records = load(conn)?;
    let transaction = conn.unchecked_transaction()?;
    records.retain(|pipeline, _| {
        let configured = |known: &crate::setup::PipelineSetup| *known.name == **pipeline;
        setup.pipelines.iter().any(configured)
    });
    let known = setup
        .pipelines
        .iter()
        .map(|pipeline| Arc::clone(&pipeline.name));
    forget(&transaction, &known.collect::<Vec<_>>())?;
    for (pipeline, record) in &mut records {
        let exits = if early_exit {
            record.early_exits.saturating_add(1)
        } else {
            0
        };
        if record.early_exits != exits {
            record.early_exits = exits;
            write(&transaction, pipeline, record)?;
        }
    }
    transaction.commit()?;
    Ok(records)
}

fn load(conn: &Connection) -> Result<BTreeMap<String, Record>, rusqlite::Error> {
    let mut statement = conn.prepare("SELECT pipeline, record FROM rollout")?;
    let mut rows = statement.query([])?;
    let mut records = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (pipeline, text): (String, String) = (row.get(0)?, row.get(1)?);
        match serde_json::from_str(&text) {
            Ok(record) => {
                records.insert(pipeline, record);
            }
            // What is configured is then what runs: as in a new database.
            Err(error) => {
                tracing::error!(%error, pipeline, "the record of a pipeline's generations is damaged and left out");
            }
        }
    }
    Ok(records)
}

fn forget(conn: &Connection, known: &[Arc<str>]) -> Result<(), rusqlite::Error> {
    let there = conn
        .prepare("SELECT pipeline FROM rollout")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<Arc<str>>, _>>()?;
    for pipeline in there.iter().filter(|there| !known.contains(there)) {
        conn.execute("DELETE FROM rollout WHERE pipeline = ?1", [pipeline])?;
    }
    Ok(())
}

/// Writes a pipeline's record.
pub(crate) fn write(
    conn: &Connection,
    pipeline: &str,
    record: &Record,
) -> Result<(), rusqlite::Error> {
    let text = serde_json::to_string(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    conn.prepare_cached("INSERT OR REPLACE INTO rollout (pipeline, record) VALUES (?1, ?2)")?
        .execute((pipeline, text))?;
    Ok(())
}
