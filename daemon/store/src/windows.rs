//! Open windows: in memory in `domain::window`, and in table `open_window` as far as a rebuild needs it.
//!
//! That each reading is in exactly one window holds across crashes because of three rules:
//! - an instance's row is written in the transaction that opens it, and deleted in the one that closes it;
//! - all readings of a group are observed at one clock, at which nothing is due any more, so that all of its readings
//!   of one series and window go into the same instance;
//! - so an instance's readings are those rows of blocks from `first_block` on (the first of the group that opened it)
//!   that lie in its range.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::Connection;
use tidegate_domain::{Batch, ClosedWindow, WindowKey, WindowSet};

use crate::block;
use crate::books::{Books, Scope, own};
use crate::series::Names;
use crate::setup::Setup;
use crate::unset::Mark;

/// The windows of all pipelines.
#[derive(Debug)]
pub(crate) struct Windows {
    pipelines: Vec<Option<PipelineWindows>>,
    lateness: i64,
}

#[derive(Debug)]
struct PipelineWindows {
    /// Its number in the database.
    id: i64,
    set: WindowSet,
    open: HashMap<WindowKey, Open>,
    /// Those among `open` that have no row yet.
    new: Vec<WindowKey>,
    /// The configuration has another length by now, or none: what is open closes with the next commit.
    retired: bool,
    /// The configuration has no windows any more: nothing new opens.
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    first_block: i64,
    opened: i64,
    /// The row's series; `None` while there is no row.
    row: Option<u32>,
    /// The clock that its times are by, where that was not set.
    unset: Option<Mark>,
}

impl Windows {
    /// Restores what was open at the last commit, out of `open_window` and history. `ids` are the pipelines' numbers.
    pub(crate) fn load(
        conn: &Connection,
        setup: &Setup,
        books: &Books,
        ids: &[i64],
        clock: i64,
    ) -> Result<Self, rusqlite::Error> {
        let mut windows = Self {
            pipelines: Vec::new(),
            lateness: setup.lateness,
        };
        for (pipeline, &id) in setup.pipelines.iter().zip(ids) {
            // 0: it had none at last.
            let stored = books
                .own(Scope::Pipeline, &pipeline.name, own::WINDOW)
                .filter(|&length| length > 0);
            let retired = stored.is_some() && stored != pipeline.window;
            let Some(length) = stored.or(pipeline.window) else {
                windows.pipelines.push(None);
                continue;
            };
            let mut set = WindowSet::new(length, setup.lateness);
            let closed_before = books.own(Scope::Pipeline, &pipeline.name, own::CLOSED_BEFORE);
            set.resume(clock, closed_before.unwrap_or(i64::MIN));
            windows.pipelines.push(Some(PipelineWindows {
                id,
                set,
                open: HashMap::new(),
                new: Vec::new(),
                retired,
                ended: false,
            }));
        }
        windows.restore(conn)?;
        windows.rebuild(conn)?;
        Ok(windows)
    }

    fn restore(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let mut statement = conn.prepare(
            "SELECT pipeline, series, from_time, to_time, late, opened, first_block, incomplete, name, boot, clock_offset
             FROM open_window JOIN series ON series.id = open_window.series",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            // A pipeline that is no longer configured: its rows stay, and wait for it.
            let Some(pipeline) = self.pipelines.iter_mut().flatten().find(|p| p.id == id) else {
                continue;
            };
            let key = WindowKey {
                series: row.get(8)?,
                from: row.get(2)?,
                to: row.get(3)?,
                late: row.get(4)?,
            };
            let open = Open {
                first_block: row.get(6)?,
                opened: row.get(5)?,
                row: Some(row.get(1)?),
                unset: (row.get::<_, Option<i64>>(9)?)
                    .zip(row.get(10)?)
                    .map(|(boot, offset)| Mark { boot, offset }),
            };
            pipeline.set.restore(&key, open.opened);
            if row.get(7)? {
                pipeline.set.mark_incomplete(&key);
            }
            pipeline.open.insert(key, open);
        }
        Ok(())
    }

    /// Puts the readings of open windows back into them, in the order in which they were committed.
    fn rebuild(&mut self, conn: &Connection) -> Result<(), rusqlite::Error> {
        let Some(first) = self.first_block() else {
            return Ok(());
        };
        let mut by_series: HashMap<(i64, Arc<str>), Vec<(WindowKey, i64)>> = HashMap::new();
        for pipeline in self.pipelines.iter().flatten() {
            for (key, open) in &pipeline.open {
                let keys = by_series
                    .entry((pipeline.id, Arc::clone(&key.series)))
                    .or_default();
                keys.push((key.clone(), open.first_block));
            }
        }
        let mut names = Names::new(conn);
        let mut statement = conn.prepare(
            "SELECT id, pipeline, from_time, to_time, data FROM history WHERE id >= ?1 ORDER BY id",
        )?;
        let mut rows = statement.query([first])?;
        while let Some(row) = rows.next()? {
            let block: i64 = row.get(0)?;
            let id: i64 = row.get(1)?;
            let Some(pipeline) = self.pipelines.iter_mut().flatten().find(|p| p.id == id) else {
                continue;
            };
            match block::decode(row.get_ref(4)?.as_blob()?, |id| names.get(id)) {
                Ok(batch) => pipeline.add_block(block, &batch, &by_series),
                Err(error) => {
                    tracing::error!(block, %error, "a block of history is damaged; windows that had readings in it are incomplete");
                    pipeline.mark_incomplete(block, row.get(2)?, row.get(3)?);
                }
            }
        }
        Ok(())
    }

    /// The oldest block with readings of an open window.
    pub(crate) fn first_block(&self) -> Option<i64> {
        let open = self
            .pipelines
            .iter()
            .flatten()
            .flat_map(|pipeline| pipeline.open.values());
        open.map(|open| open.first_block).min()
    }

    /// The number of open windows.
    pub(crate) fn len(&self) -> u64 {
        let pipelines = self.pipelines.iter().flatten();
        pipelines.map(|pipeline| pipeline.set.len() as u64).sum()
    }

    /// The number of open windows by pipeline, in the configuration's order.
    pub(crate) fn by_pipeline(&self) -> Vec<u64> {
        let open = |pipeline: &Option<_>| {
            pipeline
                .as_ref()
                .map_or(0, |p: &PipelineWindows| p.set.len() as u64)
        };
        self.pipelines.iter().map(open).collect()
    }

    /// The earliest clock at which something is to be closed.
    pub(crate) fn next_due(&self) -> Option<i64> {
        let pipelines = self.pipelines.iter().flatten();
        pipelines
            .filter_map(|pipeline| pipeline.set.next_due())
            .min()
    }

    /// Closes what belongs to an older configuration; to be called first in every commit, and does something in the
    /// first alone.
    pub(crate) fn retire(
        &mut self,
        books: &mut Books,
        setup: &Setup,
    ) -> Vec<(usize, Vec<ClosedWindow>)> {
        let mut all = Vec::new();
        for (index, slot) in self.pipelines.iter_mut().enumerate() {
            let config = &setup.pipelines[index];
            let Some(pipeline) = slot else {
                continue;
            };
            books.set_own(
                Scope::Pipeline,
                &config.name,
                own::WINDOW,
                config.window.unwrap_or(0),
            );
            if !std::mem::take(&mut pipeline.retired) {
                continue;
            }
            let clock = pipeline.set.clock();
            let mut closed = pipeline.set.step(clock);
            for window in &mut closed {
                // Its length was changed, not the clock.
                window.stepped = false;
            }
            all.push((index, closed));
            // The rows of what is closed here must still be deleted: `open` stays.
            pipeline.set = WindowSet::new(config.window.unwrap_or(i64::MAX), self.lateness);
            pipeline.set.resume(clock, i64::MIN);
            pipeline.ended = config.window.is_none();
        }
        all
    }

    /// How many windows close when the clock is moved to `clock`, or stepped to it.
    pub(crate) fn closing(&self, clock: i64, stepped: bool) -> usize {
        let pipelines = self.pipelines.iter().flatten();
        pipelines
            .map(|pipeline| match stepped || pipeline.retired {
                true => pipeline.set.len(),
                false => pipeline.set.due_at(clock),
            })
            .sum()
    }

    /// Closes some of those ahead of that. The clock stays.
    pub(crate) fn close_ahead(
        &mut self,
        clock: i64,
        stepped: bool,
        at_most: usize,
    ) -> Vec<(usize, Vec<ClosedWindow>)> {
        let mut all = Vec::new();
        let mut room = at_most;
        for (index, pipeline) in self.pipelines.iter_mut().enumerate() {
            let Some(pipeline) = pipeline else {
                continue;
            };
            let mut closed = match stepped || pipeline.retired {
                true => pipeline.set.step_ahead(room),
                false => pipeline.set.close_ahead(clock, room),
            };
            for window in &mut closed {
                // Its length may have been changed, and not the clock.
                window.stepped &= stepped;
            }
            room -= closed.len();
            if !closed.is_empty() {
                all.push((index, closed));
            }
        }
        all
    }

    /// Closes what is due at `clock`; all that is open when the clock was stepped to it.
    pub(crate) fn close(&mut self, clock: i64, stepped: bool) -> Vec<(usize, Vec<ClosedWindow>)> {
        let mut all = Vec::new();
        for (index, pipeline) in self.pipelines.iter_mut().enumerate() {
            let Some(pipeline) = pipeline else {
                continue;
            };
            let closed = if stepped {
                pipeline.set.step(clock)
            } else {
                pipeline.set.close_due(clock)
            };
            if !closed.is_empty() {
                all.push((index, closed));
            }
        }
        all
    }

    /// Takes a pipeline's committed readings; `first_block` is the group's first, `unset` says by which clock their times
    /// are where that is not set.
    pub(crate) fn observe(
        &mut self,
        pipeline: usize,
        clock: i64,
        batch: &Batch,
        first_block: i64,
        unset: Option<Mark>,
    ) {
        let Some(Some(pipeline)) = self.pipelines.get_mut(pipeline) else {
            return;
        };
        if pipeline.ended {
            return;
        }
        let before = pipeline.new.len();
        pipeline.set.observe_batch(clock, batch, &mut pipeline.new);
        for key in &pipeline.new[before..] {
            let open = Open {
                first_block,
                opened: clock,
                row: None,
                unset,
            };
            pipeline.open.insert(key.clone(), open);
        }
    }

    /// Forgets the rows of windows that were closed. One that was opened by the same group has none. Returns the clock that
    /// each one's times are by, where that was not set.
    pub(crate) fn delete_rows(
        &mut self,
        conn: &Connection,
        pipeline: usize,
        closed: &[ClosedWindow],
    ) -> Result<Vec<Option<Mark>>, rusqlite::Error> {
        let mut marks = Vec::with_capacity(closed.len());
        let Some(Some(pipeline)) = self.pipelines.get_mut(pipeline) else {
            return Ok(marks);
        };
        let mut delete = conn.prepare_cached(
            "DELETE FROM open_window
             WHERE pipeline = ?1 AND from_time = ?2 AND series = ?3 AND to_time = ?4 AND late = ?5",
        )?;
        for ClosedWindow { key, .. } in closed {
            let open = pipeline.open.remove(key);
            marks.push(open.and_then(|open| open.unset));
            if let Some(series) = open.and_then(|open| open.row) {
                delete.execute((pipeline.id, key.from, series, key.to, key.late))?;
            }
        }
        Ok(marks)
    }

    /// Writes rows for the windows that the group opened and that are still open, and what else a restart needs.
    /// `series` knows the dictionary.
    pub(crate) fn write(
        &mut self,
        conn: &Connection,
        books: &mut Books,
        setup: &Setup,
        mut series: impl FnMut(&Arc<str>) -> Result<u32, rusqlite::Error>,
    ) -> Result<(), rusqlite::Error> {
        let mut insert = conn.prepare_cached(
            "INSERT INTO open_window VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9)",
        )?;
        for (index, pipeline) in self.pipelines.iter_mut().enumerate() {
            let Some(pipeline) = pipeline else {
                continue;
            };
            for key in pipeline.new.drain(..) {
                let Some(open) = pipeline.open.get_mut(&key) else {
                    continue;
                };
                if open.row.is_some() {
                    continue;
                }
                let id = series(&key.series)?;
                open.row = Some(id);
                insert.execute((
                    pipeline.id,
                    key.from,
                    id,
                    key.to,
                    key.late,
                    open.opened,
                    open.first_block,
                    open.unset.map(|mark| mark.boot),
                    open.unset.map(|mark| mark.offset),
                ))?;
            }
            let closed_before = pipeline.set.closed_before();
            // What follows from the clock need not be kept.
            if closed_before > pipeline.set.clock().saturating_sub(self.lateness) {
                let name = &setup.pipelines[index].name;
                books.set_own(Scope::Pipeline, name, own::CLOSED_BEFORE, closed_before);
            }
        }
        Ok(())
    }
}

impl PipelineWindows {
    fn add_block(
        &mut self,
        block: i64,
        batch: &Batch,
        by_series: &HashMap<(i64, Arc<str>), Vec<(WindowKey, i64)>>,
    ) {
        let of_name: Vec<Option<&Vec<(WindowKey, i64)>>> = batch
            .names
            .iter()
            .map(|name| by_series.get(&(self.id, Arc::clone(name))))
            .collect();
        for row in 0..batch.len() {
            let time = batch.time[row];
            let instance = of_name[batch.series[row] as usize].and_then(|windows| {
                windows.iter().find(|(key, first_block)| {
                    *first_block <= block
                        && key.from <= time
                        && (time < key.to || key.to == i64::MAX)
                })
            });
            if let Some((key, _)) = instance {
                let known = self
                    .set
                    .observe_into(key, time, batch.value(row), batch.quality(row));
                debug_assert!(known, "restored before");
            }
        }
    }

    fn mark_incomplete(&mut self, block: i64, from: i64, to: i64) {
        for (key, open) in &self.open {
            if open.first_block <= block && key.from <= to && from <= key.to {
                self.set.mark_incomplete(key);
            }
        }
    }
}

/// Pipelines by number, for what refers to them.
pub(crate) fn names(conn: &Connection) -> Result<BTreeMap<i64, Arc<str>>, rusqlite::Error> {
    conn.prepare("SELECT id, name FROM pipeline")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
