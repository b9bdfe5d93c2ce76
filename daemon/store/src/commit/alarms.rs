//! What a group does to alarms, and what of it is told.

use std::sync::Arc;

use serde_json::json;
use tidegate_domain::alarm::{Acknowledgement, Cause, Key, Mark, Owner, Selection, State, Tell};
use tidegate_domain::item::{AlarmItem, EventItem, ItemKind, Priority, millis};
use tidegate_domain::outcome::{AlarmChange, AlarmState, Severity};
use tidegate_domain::silence::{Fallen, Heard};
use tidegate_domain::{BatchOutcome, Item};

use super::{Commit, encode};
use crate::alarms::{self, ACKNOWLEDGED_AT_ONCE};
use crate::books::own;
use crate::image::Image;
use crate::input::Event;
use crate::num::sql;
use crate::outbox::LaneKey;
use crate::setup::Setup;

/// Who raises alarms of silence, in a filter's place, and their code.
const STALE: &str = "stale";
/// Series that fall silent in one commit at most; the next commit follows at once.
const FALLEN_AT_ONCE: usize = 1000;

impl Commit<'_> {
    /// Raising what is raised, or clearing what is not, changes nothing.
    pub(super) fn alarm(
        &mut self,
        index: usize,
        alarm: &AlarmChange,
        generation: Option<&str>,
    ) -> Result<(), rusqlite::Error> {
        let key = Key {
            owner: Owner::Pipeline(Arc::clone(&self.setup.pipelines[index].name)),
            series: Arc::clone(&alarm.series),
            code: alarm.code.as_str().into(),
        };
        let cause = Cause {
            filter: alarm.filter.as_str().into(),
            severity: alarm.severity,
            time: alarm.time,
            text: alarm.text.clone(),
            value: alarm.value,
            generation: generation.map(str::to_owned),
        };
        let mut tell = Vec::new();
        let (alarms, now) = (&mut self.image.alarms, self.monotonic);
        match alarm.state {
            AlarmState::Raised => alarms.raise(now, &key, cause, &mut tell),
            AlarmState::Cleared => alarms.clear(now, &key, cause, &mut tell),
        };
        self.tell(&tell)
    }

    /// The series that a batch names are there.
    pub(super) fn heard(&mut self, outcome: &BatchOutcome) -> Result<(), rusqlite::Error> {
        let source = outcome.source;
        if source >= self.setup.config.silence.sources.len() {
            return Ok(());
        }
        let at = (outcome.arrival.monotonic, outcome.arrival.wall);
        for series in &outcome.heard {
            let name = &self.setup.sources[source];
            match self.image.silence.hear(source, series, at) {
                Heard::Again => {}
                Heard::Unheard => self.image.books.add_store(own::SERIES_UNHEARD, 1),
                Heard::New { instead_of } => {
                    if let Some((source, series)) = instead_of {
                        self.conn
                            .prepare_cached("DELETE FROM heard WHERE source = ?1 AND series = ?2")?
                            .execute((&self.setup.sources[source], &series))?;
                        self.no_longer_stale(source, &series, at.1, "no longer watched")?;
                    }
                    self.conn
                        .prepare_cached("INSERT OR REPLACE INTO heard VALUES (?1, ?2, NULL)")?
                        .execute((name, series))?;
                }
                Heard::Back => {
                    self.conn
                        .prepare_cached(
                            "UPDATE heard SET stale = NULL WHERE source = ?1 AND series = ?2",
                        )?
                        .execute((name, series))?;
                    self.no_longer_stale(source, series, at.1, "heard again")?;
                }
            }
        }
        Ok(())
    }

    /// What happens to alarms by time alone, and in the first group of a process.
    pub(super) fn alarms_by_time(&mut self) -> Result<(), rusqlite::Error> {
        let mut tell = Vec::new();
        let (now, wall) = (self.monotonic, self.wall);
        if !std::mem::replace(&mut self.image.alarms_are_checked, true) {
            self.check_alarms()?;
        }
        for fallen in self.image.silence.tick(now, FALLEN_AT_ONCE) {
            self.fallen(&fallen)?;
        }
        self.image.alarms.tick(now, &mut tell);
        self.tell(&tell)?;
        let Image { alarms, books, .. } = &mut *self.image;
        let (lost, suppressed) = alarms.take_losses();
        books.add_store(own::ALARMS_SUPPRESSED, sql(suppressed));
        if lost > 0 {
            books.add_store(own::ALARMS_LOST, sql(lost));
            let text = format!(
                "{lost} alarms were not kept: {} are at once, and there is no room for more",
                alarms.holding()
            );
            tracing::error!("{text}");
            self.event(&Event {
                time: wall,
                code: "alarms-lost".to_owned(),
                text,
                data: Some(json!({ "count": lost })),
            })?;
        }
        self.image.alarms_changed |= alarms::write(self.conn, &mut self.image.alarms)?;
        Ok(())
    }

    /// Acknowledges alarms on somebody's behalf. Returns how many.
    pub(super) fn acknowledge(
        &mut self,
        selection: &Selection,
        by: &str,
        at: i64,
    ) -> Result<usize, rusqlite::Error> {
        let mut tell = Vec::new();
        let by = Acknowledgement {
            by: by.to_owned(),
            at,
        };
        let alarms = &mut self.image.alarms;
        let done = alarms.acknowledge(selection, &by, ACKNOWLEDGED_AT_ONCE, &mut tell);
        self.tell(&tell)?;
        Ok(done)
    }

    /// Alarms of what was configured away, and silence that is an alarm now, or no longer, are put right.
    fn check_alarms(&mut self) -> Result<(), rusqlite::Error> {
        let mut tell = Vec::new();
        let setup = self.setup;
        let is_configured = |owner: &Owner| match owner {
            Owner::Source(name) => setup.sources.contains(name),
            Owner::Pipeline(name) => setup.pipelines.iter().any(|known| known.name == *name),
        };
        let Image {
            alarms, silence, ..
        } = &mut *self.image;
        alarms.retire(self.monotonic, is_configured, self.wall, &mut tell);
        for (source, series, heard) in silence.stale() {
            let key = stale_key(&setup.sources[source], series);
            let holds = alarms.get(&key).is_some_and(|alarm| alarm.holds());
            let wanted = setup.config.silence.severity(source, series);
            match (wanted, holds) {
                (Some(severity), false) => {
                    let cause = stale_cause(severity, heard, silent_for(setup, source));
                    alarms.raise(self.monotonic, &key, cause, &mut tell);
                }
                (None, true) => {
                    let text = "no longer configured".to_owned();
                    let severity = Severity::Info;
                    let cause = stale_cause(severity, self.wall, text);
                    alarms.clear(self.monotonic, &key, cause, &mut tell);
                }
                (Some(_), true) | (None, false) => {}
            }
        }
        self.tell(&tell)
    }

    fn fallen(&mut self, fallen: &Fallen) -> Result<(), rusqlite::Error> {
        let (setup, source) = (self.setup, fallen.source);
        let name = &setup.sources[source];
        self.image.alarms_changed = true;
        self.conn
            .prepare_cached("UPDATE heard SET stale = ?3 WHERE source = ?1 AND series = ?2")?
            .execute((name, &fallen.series, fallen.heard))?;
        let Some(severity) = setup.config.silence.severity(source, &fallen.series) else {
            return Ok(());
        };
        let mut tell = Vec::new();
        let cause = stale_cause(severity, self.wall, silent_for(setup, source));
        let key = stale_key(name, &fallen.series);
        self.image
            .alarms
            .raise(self.monotonic, &key, cause, &mut tell);
        self.tell(&tell)
    }

    fn no_longer_stale(
        &mut self,
        source: usize,
        series: &Arc<str>,
        wall: i64,
        text: &str,
    ) -> Result<(), rusqlite::Error> {
        self.image.alarms_changed = true;
        let key = stale_key(&self.setup.sources[source], series);
        let severity = Severity::Info;
        let mut tell = Vec::new();
        let cause = stale_cause(severity, wall, text.to_owned());
        self.image
            .alarms
            .clear(self.monotonic, &key, cause, &mut tell);
        self.tell(&tell)
    }

    fn tell(&mut self, tell: &[Tell]) -> Result<(), rusqlite::Error> {
        for tell in tell {
            match tell {
                Tell::Alarm {
                    key,
                    alarm,
                    flood,
                    suppressed,
                } => {
                    let acknowledged = alarm.acknowledged.as_ref();
                    let cause = &alarm.cause;
                    let nanoseconds = match (alarm.state, acknowledged) {
                        (State::Acknowledged, Some(by)) => by.at,
                        _ => cause.time,
                    };
                    let time = millis(nanoseconds);
                    let item = Item::Alarm(AlarmItem {
                        source: key.owner.source().map(AsRef::as_ref),
                        pipeline: key.owner.pipeline().map(AsRef::as_ref),
                        series: &key.series,
                        time,
                        severity: cause.severity,
                        code: &key.code,
                        text: &cause.text,
                        value: cause.value,
                        state: alarm.state,
                        acknowledged_by: acknowledged.map(|by| by.by.as_str()),
                        acknowledged_at: acknowledged.map(|by| millis(by.at)),
                        flood: *flood,
                        suppressed: *suppressed,
                        generation: cause.generation.as_deref(),
                        boot: self.unset.map(|mark| self.image.boots.name(mark)),
                        mono: self.unset.map(|mark| mark.mono(nanoseconds)),
                    });
                    encode(&mut self.json, &item);
                    self.tell_owner(&key.owner, ItemKind::Alarm, Priority::Alarm, time)?;
                }
                Tell::Flood {
                    owner,
                    filter,
                    mark,
                    suppressed,
                } => self.flood(owner, filter, *mark, *suppressed)?,
            }
        }
        Ok(())
    }

    fn flood(
        &mut self,
        owner: &Owner,
        filter: &Arc<str>,
        mark: Mark,
        suppressed: u64,
    ) -> Result<(), rusqlite::Error> {
        let limit = self.setup.config.alarm_limits.filter;
        let whose = match owner {
            Owner::Source(name) => format!("source {name}"),
            Owner::Pipeline(name) => format!("pipeline {name}"),
        };
        let text = match mark {
            Mark::Begin => format!(
                "{filter} of {whose} changes more than {limit} alarms a minute: further changes are counted and not sent"
            ),
            Mark::End => format!(
                "{filter} of {whose} changes fewer alarms again: {suppressed} changes were not sent, and the state of each of those alarms follows"
            ),
        };
        tracing::warn!("{text}");
        let time = millis(self.wall);
        let item = Item::Event(EventItem {
            time,
            code: "alarm-flood",
            text: &text,
            data: Some(json!({
                "source": owner.source().map(AsRef::<str>::as_ref),
                "pipeline": owner.pipeline().map(AsRef::<str>::as_ref),
                "filter": filter.as_ref(),
                "flood": mark,
                "suppressed": suppressed,
            })),
            boot: self.unset.map(|mark| self.image.boots.name(mark)),
            mono: self.unset.map(|mark| mark.mono(self.wall)),
        });
        encode(&mut self.json, &item);
        self.tell_owner(owner, ItemKind::Event, Priority::High, time)
    }

    /// Queues the item in `json` for every uplink that hears of an owner's alarms; of one that is no longer configured
    /// all of them do.
    fn tell_owner(
        &mut self,
        owner: &Owner,
        kind: ItemKind,
        priority: Priority,
        time: i64,
    ) -> Result<(), rusqlite::Error> {
        let setup = self.setup;
        let all: Vec<usize>;
        let pipeline = setup
            .pipelines
            .iter()
            .position(|known| owner.pipeline() == Some(&known.name));
        let source = setup
            .sources
            .iter()
            .position(|known| owner.source() == Some(known));
        let silence = source.and_then(|source| setup.config.silence.sources.get(source));
        let uplinks = match (pipeline, silence) {
            (Some(pipeline), _) => &setup.pipelines[pipeline].uplinks,
            (None, Some(silence)) => &silence.uplinks,
            (None, None) => {
                all = (0..setup.uplinks.len()).collect();
                &all
            }
        };
        for &uplink in uplinks {
            let key = LaneKey {
                uplink,
                priority,
                kind,
            };
            self.queue(key, pipeline, time, time)?;
        }
        Ok(())
    }
}

fn stale_key(source: &Arc<str>, series: &Arc<str>) -> Key {
    Key {
        owner: Owner::Source(Arc::clone(source)),
        series: Arc::clone(series),
        code: STALE.into(),
    }
}

fn stale_cause(severity: Severity, time: i64, text: String) -> Cause {
    Cause {
        filter: STALE.into(),
        severity,
        time,
        text,
        value: None,
        generation: None,
    }
}

fn silent_for(setup: &Setup, source: usize) -> String {
    let after = setup
        .config
        .silence
        .sources
        .get(source)
        .map(|source| source.after);
    format!(
        "silent for longer than {} s",
        after.unwrap_or_default().as_secs()
    )
}
