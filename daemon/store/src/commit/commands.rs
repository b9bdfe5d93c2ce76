//! Commands in the transaction that carries them out: the effect, the answer and the memory of both are one commit.

use serde_json::{Value, json};
use tidegate_domain::command::Name;
use tidegate_domain::item::{ItemKind, Priority, ReplyItem, ReplyStatus, millis};
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Batch, Item};

use super::{Commit, Marks, Past, encode};
use crate::block;
use crate::books::{Scope, own};
use crate::commands::{self, AT_ONCE, Backfill, Detail, SLICE_BLOCKS, SLICE_HEADS};
use crate::input::{CommandInput, Event, Todo};
use crate::outbox::LaneKey;
use crate::series::Names;
use crate::setup::{PipelineSetup, nanoseconds};
use crate::unset;

/// Readings between two reports of a backfill's progress.
const PROGRESS: u64 = 100_000;

/// What a command came to.
struct Answer {
    status: ReplyStatus,
    text: String,
    data: Option<Value>,
}

impl Answer {
    fn error(text: impl Into<String>) -> Self {
        Self {
            status: ReplyStatus::Error,
            text: text.into(),
            data: None,
        }
    }
}

impl<'a> Commit<'a> {
    fn measure(&self, series: &str) -> Option<&'a str> {
        let measures = &self.setup.config.measures;
        measures.text(measures.find(series)?)
    }

    /// Carries a command out, or answers what was answered before.
    pub(super) fn command(&mut self, command: &CommandInput) -> Result<(), rusqlite::Error> {
        let Some(uplink) = self.setup.uplinks.get(command.uplink) else {
            return Ok(());
        };
        self.image.commands.changed = true;
        let mut count = |counter| {
            let books = &mut self.image.books;
            books.add_own(Scope::Uplink, uplink, counter, 1);
        };
        let Some(id) = &command.id else {
            count(own::COMMANDS_REFUSED);
            return Ok(());
        };
        let number = self.image.uplink_ids[command.uplink];
        if let Some(reply) = commands::remembered(self.conn, number, id)? {
            count(own::COMMANDS_REPEATED);
            self.json = reply;
            return self.queue_reply(command.uplink, command.at);
        }
        let answer = self.carry_out(command, id)?;
        let counter = match answer.status {
            ReplyStatus::Error => own::COMMANDS_REFUSED,
            ReplyStatus::Done | ReplyStatus::Accepted | ReplyStatus::Progress => own::COMMANDS_DONE,
        };
        let books = &mut self.image.books;
        books.add_own(Scope::Uplink, uplink, counter, 1);
        let name = command.name.map_or("unknown", Name::as_str);
        let event = Event {
            time: command.at,
            code: "command".to_owned(),
            text: format!("{name} from uplink {uplink}: {}", answer.text),
            data: Some(json!({
                "uplink": uplink.as_ref(), "id": id, "command": name, "status": answer.status,
            })),
        };
        self.event(&event)?;
        self.reply(command.uplink, id, command.name, command.at, answer)
    }

    fn carry_out(&mut self, command: &CommandInput, id: &str) -> Result<Answer, rusqlite::Error> {
        match &command.todo {
            Todo::Refuse(text) => Ok(Answer::error(text)),
            Todo::Answer { text, data } => Ok(Answer {
                status: ReplyStatus::Done,
                text: text.clone(),
                data: Some(data.clone()),
            }),
            Todo::Acknowledge { selection, by } => {
                let done = self.acknowledge(selection, by, command.at)?;
                Ok(match done {
                    0 => {
                        Answer::error("no alarm that is raised and not acknowledged is meant by it")
                    }
                    done => Answer {
                        status: ReplyStatus::Done,
                        text: format!("alarms acknowledged: {done}"),
                        data: Some(json!({ "acknowledged": done })),
                    },
                })
            }
            Todo::Detail {
                series,
                pipeline,
                lasts,
            } => {
                let filter = match self.check_job(command, series, pipeline.as_deref()) {
                    Ok(filter) => filter,
                    Err(text) => return Ok(Answer::error(text)),
                };
                let details = &mut self.image.commands.details;
                if details
                    .iter()
                    .filter(|d| d.uplink == command.uplink)
                    .count()
                    >= AT_ONCE
                {
                    return Ok(Answer::error(format!("{AT_ONCE} are at work already")));
                }
                let detail = Detail {
                    uplink: command.uplink,
                    id: id.to_owned(),
                    pipeline: pipeline.clone(),
                    series: series.clone(),
                    filter,
                    until: command.at.saturating_add(nanoseconds(*lasts)),
                    due: self.monotonic.saturating_add(nanoseconds(*lasts)),
                    sent: 0,
                    changed: false,
                };
                detail.insert(self.conn, self.image.uplink_ids[command.uplink])?;
                let until = millis(detail.until);
                details.push(detail);
                Ok(Answer {
                    status: ReplyStatus::Accepted,
                    text: "every reading of these series goes up".to_owned(),
                    data: Some(json!({ "until": until })),
                })
            }
            Todo::Backfill {
                series,
                pipeline,
                from,
                to,
                limit,
            } => {
                let filter = match self.check_job(command, series, pipeline.as_deref()) {
                    Ok(filter) => filter,
                    Err(text) => return Ok(Answer::error(text)),
                };
                let jobs = &self.image.commands.backfills;
                if jobs
                    .iter()
                    .filter(|job| job.uplink == command.uplink)
                    .count()
                    >= AT_ONCE
                {
                    return Ok(Answer::error(format!("{AT_ONCE} are at work already")));
                }
                let job = Backfill {
                    uplink: command.uplink,
                    id: id.to_owned(),
                    pipeline: pipeline.clone(),
                    series: series.clone(),
                    filter,
                    from: from.saturating_mul(1_000_000),
                    to: to.saturating_mul(1_000_000),
                    most: *limit,
                    next_block: self.image.history.oldest_block(self.conn)?,
                    end_block: self.image.history.next_block,
                    sent: 0,
                    incomplete: false,
                };
                job.insert(self.conn, self.image.uplink_ids[command.uplink])?;
                self.image.commands.backfills.push(job);
                Ok(Answer {
                    status: ReplyStatus::Accepted,
                    text: "readings of these series follow out of history, behind everything else"
                        .to_owned(),
                    data: None,
                })
            }
        }
    }

    /// A pipeline that does not send to an uplink is none of its business.
    fn check_job(
        &self,
        command: &CommandInput,
        series: &str,
        pipeline: Option<&str>,
    ) -> Result<SeriesFilter, String> {
        let sends = |known: &PipelineSetup| {
            known.uplinks.contains(&command.uplink)
                && pipeline.is_none_or(|name| *known.name == *name)
        };
        if !self.setup.pipelines.iter().any(sends) {
            let what = pipeline.map_or("no pipeline".to_owned(), |name| {
                format!("no pipeline `{name}`")
            });
            return Err(format!("{what} sends to this uplink"));
        }
        SeriesFilter::new(&[series.to_owned()]).map_err(|error| error.to_string())
    }

    /// Answers, and remembers what was answered.
    fn reply(
        &mut self,
        uplink: usize,
        id: &str,
        name: Option<Name>,
        at: i64,
        answer: Answer,
    ) -> Result<(), rusqlite::Error> {
        let item = Item::Reply(ReplyItem {
            id,
            command: name.map(Name::as_str),
            time: millis(at),
            status: answer.status,
            text: &answer.text,
            data: answer.data,
        });
        encode(&mut self.json, &item);
        let number = self.image.uplink_ids[uplink];
        let now = self.synced.then_some(self.wall);
        commands::remember(self.conn, self.setup, number, id, (at, now), &self.json)?;
        self.queue_reply(uplink, at)
    }

    /// Queues the reply in `json`.
    fn queue_reply(&mut self, uplink: usize, at: i64) -> Result<(), rusqlite::Error> {
        let key = LaneKey {
            uplink,
            priority: Priority::High,
            kind: ItemKind::Reply,
        };
        self.queue(key, None, millis(at), millis(at))
    }

    /// Sends rows of a batch whose series somebody wants in detail, to uplinks that do not get them anyway.
    pub(super) fn detail(&mut self, index: usize, batch: &Batch) -> Result<(), rusqlite::Error> {
        if self.image.commands.details.is_empty() {
            return Ok(());
        }
        let pipeline = &self.setup.pipelines[index];
        for &uplink in &pipeline.uplinks {
            if pipeline.readings.iter().any(|(known, _)| *known == uplink) {
                continue;
            }
            let wanted = |name: &str| {
                self.image.commands.details.iter().position(|detail| {
                    detail.uplink == uplink
                        && detail
                            .pipeline
                            .as_deref()
                            .is_none_or(|p| *p == *pipeline.name)
                        && detail.filter.matches(name)
                })
            };
            let wanted: Vec<Option<usize>> = batch.names.iter().map(|name| wanted(name)).collect();
            if wanted.iter().all(Option::is_none) {
                continue;
            }
            for row in 0..batch.len() {
                let Some(detail) = wanted[batch.series[row] as usize] else {
                    continue;
                };
                let id = self.image.commands.details[detail].id.clone();
                let marks = Marks {
                    detail: Some(&id),
                    ..Marks::default()
                };
                let measure = self.measure(batch.name(row));
                let time = self.encode_reading(index, batch, row, measure, marks);
                let key = LaneKey {
                    uplink,
                    priority: Priority::Normal,
                    kind: ItemKind::Readings,
                };
                self.queue(key, Some(index), time, time)?;
                let detail = &mut self.image.commands.details[detail];
                detail.sent += 1;
                detail.changed = true;
            }
        }
        Ok(())
    }

    /// Ends details whose time is over, and goes on with backfills.
    pub(super) fn commands_by_time(&mut self) -> Result<(), rusqlite::Error> {
        let now = self.monotonic;
        let mut over = Vec::new();
        let commands = &mut self.image.commands;
        for detail in &mut commands.details {
            if std::mem::take(&mut detail.changed) {
                commands.changed = true;
                detail.insert(self.conn, self.image.uplink_ids[detail.uplink])?;
            }
        }
        commands.details.retain(|detail| {
            let stays = detail.due > now;
            if !stays {
                over.push(detail.clone());
            }
            stays
        });
        for detail in over {
            self.image.commands.changed = true;
            detail.delete(self.conn, self.image.uplink_ids[detail.uplink])?;
            let answer = Answer {
                status: ReplyStatus::Done,
                text: format!("readings sent: {}", detail.sent),
                data: Some(json!({ "sent": detail.sent })),
            };
            self.reply(
                detail.uplink,
                &detail.id,
                Some(Name::Detail),
                self.wall,
                answer,
            )?;
        }
        let (books, setup) = (&self.image.books, self.setup);
        let turns = self
            .image
            .commands
            .slices(now, |uplink| books.waiting(&setup.uplinks[uplink]));
        let mut ended = Vec::new();
        for turn in turns {
            if self.slice(turn)? {
                ended.push(turn);
            }
        }
        for turn in ended.into_iter().rev() {
            let job = self.image.commands.backfills.remove(turn);
            job.delete(self.conn, self.image.uplink_ids[job.uplink])?;
            let (sent, all) = (job.sent, job.next_block >= job.end_block);
            let text = match (all, job.incomplete) {
                (true, false) => format!("readings sent: {sent}, all there were"),
                (true, true) => format!(
                    "readings sent: {sent}; others were given up for space or age, or are damaged"
                ),
                (false, _) => format!(
                    "readings sent: {sent}, which is the limit: ask for the rest with a narrower range"
                ),
            };
            let answer = Answer {
                status: ReplyStatus::Done,
                text,
                data: Some(json!({ "sent": sent, "complete": all && !job.incomplete })),
            };
            self.reply(job.uplink, &job.id, Some(Name::Backfill), self.wall, answer)?;
        }
        Ok(())
    }

    /// One slice of a backfill: some blocks of history. True when it is done.
    fn slice(&mut self, turn: usize) -> Result<bool, rusqlite::Error> {
        self.image.commands.changed = true;
        let mut job = self.image.commands.backfills[turn].clone();
        let before = job.sent;
        let oldest = self.image.history.oldest_block(self.conn)?;
        if oldest > job.next_block && job.next_block < job.end_block {
            job.incomplete = true;
            job.next_block = oldest.min(job.end_block);
        }
        let heads = commands::heads(self.conn, job.next_block, job.end_block)?;
        let last = heads.len() < SLICE_HEADS;
        let mut read = 0;
        let mut names = Names::new(self.conn);
        let mut full = false;
        for head in &heads {
            if read >= SLICE_BLOCKS || full {
                break;
            }
            let index = self
                .image
                .pipeline_ids
                .iter()
                .position(|id| *id == head.pipeline);
            let index = index.filter(|&index| {
                let pipeline = &self.setup.pipelines[index];
                pipeline.uplinks.contains(&job.uplink)
                    && job
                        .pipeline
                        .as_deref()
                        .is_none_or(|name| *name == *pipeline.name)
                    && head.to >= job.from
                    && head.from < job.to
            });
            if let Some(index) = index {
                read += 1;
                full = self.slice_block(&mut job, index, head.block, &mut names)?;
            }
            if !full {
                job.next_block = head.block + 1;
            }
        }
        if last && !full && heads.last().is_none_or(|head| job.next_block > head.block) {
            job.next_block = job.end_block;
        }
        let done = full || job.next_block >= job.end_block;
        let number = self.image.uplink_ids[job.uplink];
        job.insert(self.conn, number)?;
        if !done && before / PROGRESS != job.sent / PROGRESS {
            let answer = Answer {
                status: ReplyStatus::Progress,
                text: format!("readings sent: {}", job.sent),
                data: Some(json!({ "sent": job.sent })),
            };
            self.reply(job.uplink, &job.id, Some(Name::Backfill), self.wall, answer)?;
        }
        self.image.commands.backfills[turn] = job;
        Ok(done)
    }

    /// Sends a block's share of a backfill. True when its limit is reached and there would be more.
    fn slice_block(
        &mut self,
        job: &mut Backfill,
        index: usize,
        block: i64,
        names: &mut Names<'_>,
    ) -> Result<bool, rusqlite::Error> {
        let data: Vec<u8> = self
            .conn
            .prepare_cached("SELECT data FROM history WHERE id = ?1")?
            .query_row([block], |row| row.get(0))?;
        let Ok(batch) = block::decode(&data, |id| names.get(id)) else {
            // Whoever verifies hears of the damage; whoever asked hears that something is missing.
            job.incomplete = true;
            return Ok(false);
        };
        let unset = unset::times_of_block(self.conn, block)?;
        let wanted: Vec<bool> = batch
            .names
            .iter()
            .map(|name| job.filter.matches(name))
            .collect();
        for row in 0..batch.len() {
            if !wanted[batch.series[row] as usize] || !(job.from..job.to).contains(&batch.time[row])
            {
                continue;
            }
            if job.sent >= job.most {
                return Ok(true);
            }
            let marks = Marks {
                backfill: Some(Past { id: &job.id, unset }),
                ..Marks::default()
            };
            let measure = self.measure(batch.name(row));
            let time = self.encode_reading(index, &batch, row, measure, marks);
            let key = LaneKey {
                uplink: job.uplink,
                priority: Priority::Low,
                kind: ItemKind::Readings,
            };
            self.queue(key, Some(index), time, time)?;
            job.sent += 1;
        }
        Ok(false)
    }
}
