//! The transaction: one function of what is committed and one group. It is called again with the same group when
//! it failed, after everything in memory was loaded anew.

mod alarms;
mod clock;
mod commands;
mod tell;
mod windows;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tidegate_domain::item::{ItemKind, JsonValue, ReadingItem, millis};
use tidegate_domain::outcome::{PipelineOutcome, Replayed, StateDelta};
use tidegate_domain::rollout::Change;
use tidegate_domain::{Arrival, Batch, BatchOutcome, Item, Quality};

pub(crate) use self::windows::Ahead;
use crate::books::{Scope, own};
use crate::disk;
use crate::evict::{self, InFlight};
use crate::group::{Attempt, Group};
use crate::history::Shelf;
use crate::image::Image;
use crate::input::{ClosedSummary, Event, Orders};
use crate::num::sql;
use crate::orders;
use crate::outbox::{Entry, LaneKey, Pen};
use crate::quarantine;
use crate::rollouts;
use crate::setup::{Setup, nanoseconds};
use crate::state;
use crate::unset::{Mark, RowMark};

/// A group that takes nothing more, with everything else that its transaction depends on.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) group: Group,
    /// Tells after an ambiguous failure whether it is in the database.
    pub(crate) number: u64,
    /// The present time, where nothing arrived.
    pub(crate) idle: Arrival,
    /// The present time, for what waits.
    pub(crate) now: Instant,
    /// The last one of the process: the exit is clean.
    pub(crate) last: bool,
    /// Nothing but windows close with it.
    pub(crate) ahead: Option<Ahead>,
    pub(crate) room: Room,
}

/// How much room there is to be afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What rows may take.
    pub(crate) rows_bytes: u64,
    /// Bites that are given up at most.
    pub(crate) steps: usize,
    /// What the database file may take.
    pub(crate) file_bytes: u64,
    /// Pages that are given back to the file system at most.
    pub(crate) vacuum_pages: u64,
    /// Free pages stay where the file is not too large: the disk may have no others.
    pub(crate) spare: bool,
}

/// What the transaction came to.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) sealed: BTreeSet<usize>,
    pub(crate) summaries: Vec<Arc<ClosedSummary>>,
    /// By request: how many alarms it acknowledged.
    pub(crate) acknowledged: Vec<usize>,
    /// See [`evict::Evicted::full`].
    pub(crate) full: bool,
    /// See [`evict::Evicted::more`].
    pub(crate) more: bool,
}

/// Writes the group in one transaction. On an error `image` is no longer what the database holds, and `conn` is not to
/// be used again.
pub(crate) fn write(
    conn: &Connection,
    image: &mut Image,
    setup: &Setup,
    in_flight: &InFlight,
    frozen: &Frozen,
) -> Result<Written, rusqlite::Error> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let mut commit = Commit {
        conn,
        image,
        setup,
        wall: frozen.idle.wall,
        monotonic: frozen.idle.monotonic,
        synced: frozen.idle.synced,
        json: Vec::new(),
        unset: None,
        progress: orders::Progress::default(),
        written: Written::default(),
    };
    commit.group(frozen)?;
    let evicted = commit.make_room(frozen, in_flight)?;
    commit.written.full = evicted.full;
    commit.written.more = evicted.more;
    commit.finish(frozen)?;
    let written = commit.written;
    transaction.commit()?;
    // Readers may go on now: what was given up is gone.
    drop(evicted);
    Ok(written)
}

/// Which command asked for a reading.
#[derive(Clone, Copy, Debug, Default)]
struct Marks<'a> {
    detail: Option<&'a str>,
    backfill: Option<Past<'a>>,
}

/// A command that asked for what history has.
#[derive(Clone, Copy, Debug)]
struct Past<'a> {
    id: &'a str,
    /// The clock that the reading's time is by, where that was never set.
    unset: Option<Mark>,
}

struct Commit<'a> {
    conn: &'a Connection,
    image: &'a mut Image,
    setup: &'a Setup,
    /// The present wall clock, nanoseconds since the epoch.
    wall: i64,
    /// The present monotonic clock, nanoseconds.
    monotonic: i64,
    /// Whether the wall clock is known to be set.
    synced: bool,
    /// One item at a time; kept for its allocation.
    json: Vec<u8>,
    /// The clock that the times of events and alarms at hand are by, where that is not set.
    unset: Option<Mark>,
    progress: orders::Progress,
    written: Written,
}

impl Commit<'_> {
    fn group(&mut self, frozen: &Frozen) -> Result<(), rusqlite::Error> {
        if let Some(ahead) = frozen.ahead {
            return self.windows_ahead(ahead, frozen);
        }
        let group = &frozen.group;
        let arrivals = group.arrivals();
        let set_now = self.set_clock(&arrivals, frozen.idle)?;
        self.unset = self.image.boots.mark(&frozen.idle);
        let advance = self.image.clock.advance(&arrivals, frozen.idle);
        for (pipeline, closed) in self.image.windows.retire(&mut self.image.books, self.setup) {
            self.close(pipeline, &closed)?;
        }
        let stepped = advance.step.is_some();
        for (pipeline, closed) in self.image.windows.close(advance.observe_at, stepped) {
            self.close(pipeline, &closed)?;
        }
        self.tell_of_clock(set_now, &advance)?;
        let first_block = self.image.history.next_block;
        let mut states = state::Pending::default();
        for outcome in &group.outcomes {
            for change in &outcome.rollouts {
                self.rollout(change, &mut states)?;
            }
            let unset = match outcome.has_arrived() || outcome.replayed.is_some() {
                true => self.row_mark(outcome),
                false => None,
            };
            self.attempts_done(outcome)?;
            let origin = match &outcome.replayed {
                None => {
                    self.source(outcome)?;
                    quarantine::Origin {
                        arrival: outcome.arrival,
                        row: None,
                    }
                }
                Some(replayed) => match self.replayed(replayed)? {
                    Some(origin) => origin,
                    None => {
                        let of_pipelines = outcome.pipelines.iter().flat_map(|p| &p.state);
                        self.states(outcome.state.iter().chain(of_pipelines), &mut states)?;
                        continue;
                    }
                },
            };
            self.states(outcome.state.iter(), &mut states)?;
            self.notes(outcome, unset)?;
            for pipeline in &outcome.pipelines {
                self.pipeline(pipeline, outcome.arrival, unset, origin, &mut states)?;
                let observe_at = advance.observe_at;
                let index = pipeline.pipeline;
                let times_by = unset.filter(|unset| !unset.own_times);
                self.image.windows.observe(
                    index,
                    observe_at,
                    &pipeline.stored,
                    first_block,
                    times_by.map(|unset| unset.mark),
                );
            }
        }
        let arrival = arrivals.last().copied().unwrap_or(frozen.idle);
        let (conn, ids) = (self.conn, &self.image.pipeline_ids);
        self.image.history.write(|pipeline| Shelf {
            conn,
            pipeline: ids[pipeline],
            arrival,
            unset: None,
        })?;
        self.image.identities.write(conn)?;
        let Image { outbox, books, .. } = &mut *self.image;
        outbox.settle(&mut pen(conn, books, self.wall), &group.settled)?;
        for gap in &group.gaps {
            self.source_gap(gap);
        }
        for loss in &group.losses {
            self.loss(loss);
        }
        for event in &group.events {
            self.event(event)?;
        }
        for orders in &group.orders {
            self.orders(orders)?;
        }
        self.progress.write(self.conn)?;
        for request in &group.acknowledgements {
            let done = self.acknowledge(&request.selection, &request.by, request.at)?;
            self.written.acknowledged.push(done);
            if done > 0 {
                self.event(&Event {
                    time: request.at,
                    code: "alarms-acknowledged".to_owned(),
                    text: format!("{} acknowledged {done} alarms", request.by),
                    data: Some(serde_json::json!({ "by": request.by, "alarms": done })),
                })?;
            }
        }
        for command in &group.commands {
            self.command(command)?;
        }
        self.commands_by_time()?;
        self.alarms_by_time()?;
        for attempt in &group.attempts {
            match attempt {
                Attempt::One { digest, .. } => {
                    self.conn
                        .prepare_cached(
                            "INSERT INTO attempt VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                        )?
                        .execute([&digest[..]])?;
                }
                Attempt::Many { digests, .. } => {
                    let mut insert = self.conn.prepare_cached(
                        "INSERT INTO attempt VALUES (?1, 0) ON CONFLICT DO UPDATE SET count = max(count, 1)",
                    )?;
                    // The same message twice in a batch is no attempt that failed.
                    for digest in digests.iter().collect::<BTreeSet<_>>() {
                        insert.execute([&digest[..]])?;
                    }
                }
            }
        }
        let at_most = self.setup.bounds.windows;
        let windows = &mut self.image.windows;
        let closed = match windows.closing(advance.end_at, false) > at_most {
            // The rest is due, and closes ahead of the next group.
            true => windows.close_ahead(advance.end_at, false, at_most),
            false => windows.close(advance.end_at, false),
        };
        for (pipeline, closed) in closed {
            self.close(pipeline, &closed)?;
        }
        self.write_windows(first_block)?;
        states.write(conn, &mut self.image.slots)?;
        self.seal(frozen.now)
    }

    fn source(&mut self, outcome: &BatchOutcome) -> Result<(), rusqlite::Error> {
        let Some(source) = self.setup.sources.get(outcome.source) else {
            return Ok(());
        };
        self.image.books.messages(source, &outcome.counts);
        self.image
            .identities
            .push(outcome.source, &outcome.identities);
        self.heard(outcome)?;
        let Image { books, boots, .. } = &mut *self.image;
        let mut pen = pen(self.conn, books, self.wall);
        for message in &outcome.quarantined {
            let unset = boots.mark(&message.arrival).map(|mark| RowMark {
                mark,
                monotonic: message.arrival.monotonic,
                own_times: true,
            });
            quarantine::insert_message(&mut pen, source, message, unset)?;
        }
        Ok(())
    }

    fn attempts_done(&mut self, outcome: &BatchOutcome) -> Result<(), rusqlite::Error> {
        for digest in &outcome.attempts_done {
            self.conn
                .prepare_cached("DELETE FROM attempt WHERE digest = ?1")?
                .execute([&digest[..]])?;
        }
        Ok(())
    }

    /// Takes a replayed row out of quarantine, or notes that it stays. `None` when it is no longer the row that was read:
    /// then nothing of its outcome counts.
    fn replayed(
        &mut self,
        replayed: &Replayed,
    ) -> Result<Option<quarantine::Origin>, rusqlite::Error> {
        let mut pen = pen(self.conn, &mut self.image.books, self.wall);
        let origin = orders::settle(&mut pen, replayed)?;
        if origin.is_some() {
            self.progress
                .add(replayed.order, replayed.failure.is_none());
        }
        Ok(origin)
    }

    /// What decoders and filters keep in memory is the truth, also where nothing else of an outcome counts.
    fn states<'d>(
        &mut self,
        deltas: impl Iterator<Item = &'d StateDelta>,
        states: &mut state::Pending,
    ) -> Result<(), rusqlite::Error> {
        let (conn, measures) = (self.conn, &self.setup.config.measures);
        let Image {
            dictionary,
            history,
            ..
        } = &mut *self.image;
        for delta in deltas {
            states.add(&delta.slot, &delta.change, |series| {
                Ok(dictionary
                    .series(conn, measures, series, history.next_block)?
                    .id)
            })?;
        }
        Ok(())
    }

    /// Records a step of a rollout, moves the states that it moves, and tells of it.
    fn rollout(
        &mut self,
        change: &Change,
        states: &mut state::Pending,
    ) -> Result<(), rusqlite::Error> {
        let (conn, measures) = (self.conn, &self.setup.config.measures);
        let Image {
            dictionary,
            history,
            slots,
            ..
        } = &mut *self.image;
        for moved in &change.states {
            states.shift(conn, slots, moved, |series| {
                Ok(dictionary
                    .series(conn, measures, series, history.next_block)?
                    .id)
            })?;
        }
        rollouts::write(conn, &change.pipeline, &change.record)?;
        let Some(note) = &change.note else {
            return Ok(());
        };
        self.event(&Event {
            time: note.time,
            code: note.code.to_owned(),
            text: note.text.clone(),
            data: Some(note.data.clone()),
        })
    }

    /// What a source's decoder has to say, as events.
    fn notes(
        &mut self,
        outcome: &BatchOutcome,
        unset: Option<RowMark>,
    ) -> Result<(), rusqlite::Error> {
        let Some(source) = self.setup.sources.get(outcome.source) else {
            return Ok(());
        };
        let present = std::mem::replace(&mut self.unset, unset.map(|unset| unset.mark));
        for note in &outcome.notes {
            self.event(&Event {
                time: outcome.arrival.wall,
                code: "decoder-note".to_owned(),
                text: format!("source {source}: {note}"),
                data: None,
            })?;
        }
        self.unset = present;
        Ok(())
    }

    fn orders(&mut self, change: &Orders) -> Result<(), rusqlite::Error> {
        let mut pen = pen(self.conn, &mut self.image.books, self.wall);
        match change {
            Orders::New {
                action, selection, ..
            } => {
                let order = orders::accept(&mut pen, *action, selection)?;
                self.event(&order)
            }
            Orders::Discard { order, rows } => {
                for &(row, attempts) in rows {
                    if orders::discard(&mut pen, row, attempts)? {
                        self.progress.add(*order, true);
                    }
                }
                Ok(())
            }
            Orders::Done { order } => {
                self.progress.write(self.conn)?;
                match orders::finish(&mut pen, *order)? {
                    Some(event) => self.event(&event),
                    None => Ok(()),
                }
            }
        }
    }

    fn pipeline(
        &mut self,
        outcome: &PipelineOutcome,
        arrival: Arrival,
        unset: Option<RowMark>,
        mut origin: quarantine::Origin,
        states: &mut state::Pending,
    ) -> Result<(), rusqlite::Error> {
        let setup = self.setup;
        let Some(pipeline) = setup.pipelines.get(outcome.pipeline) else {
            return Ok(());
        };
        let Image {
            books,
            dictionary,
            history,
            pipeline_ids,
            kept,
            ..
        } = &mut *self.image;
        let name = &pipeline.name;
        let stored = outcome.stored.len() as u64;
        for (counter, by) in [
            ("selected", outcome.selected),
            ("derived", outcome.derived),
            ("replayed", outcome.replayed),
            ("filtered", outcome.filtered),
            ("stored", stored),
            ("held", stored),
        ] {
            books.add(Scope::Pipeline, name, counter, by);
        }
        for (reason, by) in &outcome.dropped {
            books.dropped(Scope::Pipeline, name, reason, *by);
        }
        let conn = self.conn;
        let generation = match &outcome.generation {
            Some(generation) => Some(dictionary.generation(conn, generation)?),
            None => None,
        };
        for readings in &outcome.quarantined {
            let mut pen = pen(conn, books, self.wall);
            quarantine::insert_readings(&mut pen, name, generation, readings, origin, unset)?;
            // One row keeps the place; what failed for another reason gets rows of its own.
            origin.row = None;
        }
        if let Some(input) = &outcome.input {
            kept.insert(conn, pipeline_ids[outcome.pipeline], arrival, input)?;
        }
        let measures = &setup.config.measures;
        let block = history.next_block;
        for delta in &outcome.state {
            states.add(&delta.slot, &delta.change, |series| {
                Ok(dictionary.series(conn, measures, series, block)?.id)
            })?;
        }
        let shelf = Shelf {
            conn,
            pipeline: pipeline_ids[outcome.pipeline],
            arrival,
            unset,
        };
        history.append(
            shelf,
            dictionary,
            measures,
            outcome.pipeline,
            generation,
            &outcome.stored,
        )?;
        let times_by = unset
            .filter(|unset| !unset.own_times)
            .map(|unset| unset.mark);
        let present = std::mem::replace(&mut self.unset, times_by);
        if !pipeline.readings.is_empty() {
            self.readings(outcome.pipeline, &outcome.stored)?;
        }
        self.detail(outcome.pipeline, &outcome.stored)?;
        for alarm in &outcome.alarms {
            let generation = outcome
                .generation
                .as_ref()
                .map(|generation| generation.id.as_str());
            self.alarm(outcome.pipeline, alarm, generation)?;
        }
        self.unset = present;
        Ok(())
    }

    fn readings(&mut self, index: usize, batch: &Batch) -> Result<(), rusqlite::Error> {
        let setup = self.setup;
        for row in 0..batch.len() {
            let series = self.image.history.known[batch.series[row] as usize];
            let measure = series.and_then(|series| setup.config.measures.text(series.measure?));
            let time = self.encode_reading(index, batch, row, measure, Marks::default());
            for &(uplink, priority) in &setup.pipelines[index].readings {
                let key = LaneKey {
                    uplink,
                    priority,
                    kind: ItemKind::Readings,
                };
                self.queue(key, Some(index), time, time)?;
            }
        }
        Ok(())
    }

    /// Writes a row of a batch as an item into `json`. Returns its time in milliseconds.
    fn encode_reading(
        &mut self,
        index: usize,
        batch: &Batch,
        row: usize,
        measure: Option<&str>,
        marks: Marks<'_>,
    ) -> i64 {
        let time = millis(batch.time[row]);
        let quality = batch.quality(row);
        // What comes out of history is by no clock of the present.
        let unset = match marks.backfill {
            Some(past) => past.unset,
            None => self.unset,
        };
        let item = Item::Reading(ReadingItem {
            pipeline: &self.setup.pipelines[index].name,
            series: batch.name(row),
            measure,
            time,
            value: JsonValue::from(batch.value(row)),
            quality: match quality {
                Quality::Good => None,
                Quality::Uncertain | Quality::Bad => Some(quality.as_str()),
            },
            detail: marks.detail,
            backfill: marks.backfill.map(|past| past.id),
            boot: unset.map(|mark| self.image.boots.name(mark)),
            mono: unset.map(|mark| mark.mono(batch.time[row])),
        });
        encode(&mut self.json, &item);
        time
    }

    /// Queues the item in `json`.
    fn queue(
        &mut self,
        key: LaneKey,
        pipeline: Option<usize>,
        from: i64,
        to: i64,
    ) -> Result<(), rusqlite::Error> {
        let Image {
            outbox,
            books,
            pipeline_ids,
            ..
        } = &mut *self.image;
        let entry = Entry {
            pipeline: pipeline.map(|pipeline| pipeline_ids[pipeline]),
            from,
            to,
            json: &self.json,
        };
        outbox.push(&mut pen(self.conn, books, self.wall), key, entry)
    }

    fn seal(&mut self, now: Instant) -> Result<(), rusqlite::Error> {
        let Image { outbox, books, .. } = &mut *self.image;
        let mut pen = pen(self.conn, books, self.wall);
        outbox.write(&mut pen, now, &mut self.written.sealed)
    }

    /// Expiry, the bound in bytes, and the gap items for what went.
    fn make_room<'b>(
        &mut self,
        frozen: &Frozen,
        in_flight: &'b InFlight,
    ) -> Result<evict::Evicted<'b>, rusqlite::Error> {
        let (conn, setup, wall) = (self.conn, self.setup, self.wall);
        let Image {
            age,
            books,
            boots,
            dictionary,
            history,
            windows,
            gaps,
            kept,
            pipeline_ids,
            pipeline_names,
            ..
        } = &mut *self.image;
        let oldest = age.advance(frozen.idle);
        let oldest = oldest.map(|now| now.saturating_sub(setup.max_age));
        if boots.correct(conn)? {
            history.corrected();
        }
        let oldest_block = history.oldest_block(conn)?;
        let step = dictionary.set_held(history.next_block.saturating_sub(oldest_block));
        books.set_store(own::SEEN_STEP, step);
        if dictionary.wants_sweep() {
            dictionary.sweep(conn, oldest_block)?;
        }
        if let Some(oldest) = oldest {
            // Readings of an open window stay, however far the clock was stepped: a crash would take them out of it.
            let end = windows.first_block().unwrap_or(i64::MAX);
            history.expire(conn, books, pipeline_names, oldest, end)?;
        }
        quarantine::enforce(&mut pen(conn, books, wall), setup, gaps, oldest)?;
        kept.expire(conn, setup, pipeline_ids, wall)?;
        let evicted = evict::enforce(conn, self.image, setup, in_flight, wall, frozen.room)?;
        let Image {
            books,
            outbox,
            gaps,
            uplink_ids,
            ..
        } = &mut *self.image;
        gaps.write(&mut pen(conn, books, wall), outbox, uplink_ids)?;
        self.seal(frozen.now)?;
        Ok(evicted)
    }

    fn finish(&mut self, frozen: &Frozen) -> Result<(), rusqlite::Error> {
        let Image {
            books,
            history,
            clock,
            age,
            boots,
            group,
            ..
        } = &mut *self.image;
        *group = frozen.number;
        books.set_store(own::GROUP, sql(frozen.number));
        books.set_store(own::CLOCK, clock.committed);
        books.set_store(own::BOOT, boots.present);
        books.set_store(own::OFFSET, clock.offset.unwrap_or(i64::MIN));
        if let Some(age) = age.at {
            books.set_store(own::AGE, age);
        }
        books.set_store(own::NEXT_BLOCK, history.next_block);
        books.set_store(own::CLEAN, i64::from(frozen.last));
        let ran = frozen.idle.monotonic.saturating_sub(self.setup.begun);
        let young = ran < nanoseconds(rollouts::EARLY);
        books.set_store(own::YOUNG, i64::from(young));
        books.write(self.conn)?;
        disk::vacuum(self.conn, frozen.room)
    }
}

fn pen<'a>(conn: &'a Connection, books: &'a mut crate::books::Books, wall: i64) -> Pen<'a> {
    Pen { conn, books, wall }
}

/// Writes an item as JSON into a buffer that is kept.
fn encode(json: &mut Vec<u8>, item: &Item<'_>) {
    json.clear();
    if serde_json::to_writer(&mut *json, item).is_err() {
        // No item holds what JSON cannot say; were it so, an empty object keeps the message valid and the item counted.
        json.clear();
        json.extend_from_slice(b"{}");
    }
}
