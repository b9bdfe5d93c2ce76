//! The life of alarms: raised, perhaps acknowledged, cleared; and what of it is told.
//!
//! A life begins when an alarm is raised and ends when it is cleared; raising it again begins a new one. Whoever
//! acknowledges it says that somebody knows, and it stays until it is cleared. Each change makes one item, unless there
//! are too many of them: an alarm that flaps, and a filter that raises more than anybody can read, are *flooding*. Then
//! changes are counted and not told; the begin and the end of it are, the end with the count. What an alarm came to
//! in a flood is told afterwards, at a pace, so that a receiver ends up knowing every alarm's state.
//!
//! Times that decide are monotonic: a step of the wall clock neither begins nor ends a flood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::outcome::Severity;
use crate::series::SeriesFilter;

/// The time over which changes are counted, nanoseconds.
pub const MINUTE: i64 = 60 * 1_000_000_000;
/// Alarms that are kept; one that is raised beyond that is counted as lost, and not kept. A filter that makes codes or series up
/// would fill memory and store otherwise.
pub const ALARMS: usize = 100_000;
/// Bytes kept of an alarm's text and of the name of whoever acknowledged it.
pub const TEXT_BYTES: usize = 1024;

/// From how many changes in a minute on it is a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes of one alarm that are told; further ones are counted.
    pub alarm: u32,
    /// Changes of all alarms of one filter, likewise. What was not told in a flood follows at this pace.
    pub filter: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            alarm: 10,
            filter: 1000,
        }
    }
}

/// Whose alarm it is: a filter of a pipeline raised it, or the gateway itself found it at a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// By the source's name.
    Source(Arc<str>),
    /// By the pipeline's name.
    Pipeline(Arc<str>),
}

impl Owner {
    /// The source's name.
    #[must_use]
    pub fn source(&self) -> Option<&Arc<str>> {
        match self {
            Self::Source(name) => Some(name),
            Self::Pipeline(_) => None,
        }
    }

    /// The pipeline's name.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pipeline(name) => Some(name),
            Self::Source(_) => None,
        }
    }
}

/// What identifies an alarm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose it is.
    pub owner: Owner,
    /// The series it is about.
    pub series: Arc<str>,
    /// Short and stable.
    pub code: Arc<str>,
}

/// Where in its life an alarm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It holds.
    Raised,
    /// It holds, and somebody knows.
    Acknowledged,
    /// It no longer holds.
    Cleared,
}

impl State {
    /// The word in payloads and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
        }
    }
}

/// Where in a flood an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Changes after this one are counted and not told.
    Begin,
    /// It is over; the item has the count.
    End,
}

/// What raised or cleared an alarm.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// The filter's name in the pipeline, or what found it.
    pub filter: Arc<str>,
    /// How grave.
    pub severity: Severity,
    /// The causing reading's time, nanoseconds since the epoch.
    pub time: i64,
    /// For people.
    pub text: String,
    /// The value that caused it, where it is a number.
    pub value: Option<f64>,
    /// The chain that did it.
    pub generation: Option<String>,
}

/// Who acknowledged an alarm, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// A person's name, or the command that did it.
    pub by: String,
    /// Nanoseconds since the epoch.
    #[serde(serialize_with = "as_millis")]
    pub at: i64,
}

/// One alarm. It is kept for as long as it holds, floods, or has something that was not told.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Where in its life it is.
    pub state: State,
    /// What its latest change came from; while it holds, what raised it.
    pub cause: Cause,
    /// Since it was acknowledged.
    pub acknowledged: Option<Acknowledgement>,
    /// It changes too often.
    pub flooding: bool,
    /// Changes that were not told since the last that was.
    pub suppressed: u64,
}

impl Alarm {
    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.state != State::Cleared
    }

    /// Whether a restart has to know of it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.holds() || self.flooding || self.suppressed > 0
    }
}

/// A filter that changes too many alarms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// It is on.
    pub flooding: bool,
    /// Changes that were not told since it began.
    pub suppressed: u64,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Tell {
    /// An alarm's state.
    Alarm {
        /// Which.
        key: Key,
        /// As it is now.
        alarm: Alarm,
        /// Its flood begins or ends with this.
        flood: Option<Mark>,
        /// Changes before this one that were not told.
        suppressed: u64,
    },
    /// The flood of a filter begins or ends.
    Flood {
        /// Whose filter.
        owner: Owner,
        /// Its name.
        filter: Arc<str>,
        /// Which of the two.
        mark: Mark,
        /// At the end: changes that were not told.
        suppressed: u64,
    },
}

/// Which alarms somebody means.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of this pipeline.
    pub pipeline: Option<String>,
    /// Of this source.
    pub source: Option<String>,
    /// Of these series.
    pub series: SeriesFilter,
    /// With this code.
    pub code: Option<String>,
}

/// What an operator asks for: which alarms are acknowledged, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Of which series, as a glob.
    pub series: String,
    /// Of this pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// Of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// With this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Who does it.
    pub by: String,
}

impl Request {
    /// The alarms that are meant.
    ///
    /// # Errors
    /// What is wrong with it, for whoever asked.
    pub fn selection(&self) -> Result<Selection, String> {
        if self.by.trim().is_empty() {
            return Err("`by` is empty: say who acknowledges".to_owned());
        }
        Ok(Selection {
            pipeline: self.pipeline.clone(),
            source: self.source.clone(),
            series: SeriesFilter::new(std::slice::from_ref(&self.series))
                .map_err(|error| error.to_string())?,
            code: self.code.clone(),
        })
    }
}

impl Selection {
    /// Whether an alarm is meant.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        let is = |wanted: &Option<String>, name: Option<&Arc<str>>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| name.is_some_and(|name| **name == *wanted))
        };
        is(&self.pipeline, key.owner.pipeline())
            && is(&self.source, key.owner.source())
            && is(&self.code, Some(&key.code))
            && self.series.matches(&key.series)
    }
}

/// Changes counted over a minute that begins with the first of them.
#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    begin: i64,
    count: u32,
}

impl Minute {
    /// Counts one. True when it begins a new minute.
    fn count(&mut self, now: i64) -> bool {
        let new = self.count == 0 || now >= self.end();
        if new {
            *self = Self {
                begin: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        new
    }

    fn end(&self) -> i64 {
        self.begin.saturating_add(MINUTE)
    }

    fn restart(&mut self, now: i64) {
        *self = Self {
            begin: now,
            count: 0,
        };
    }
}

#[derive(Clone, Debug)]
struct Entry {
    alarm: Alarm,
    minute: Minute,
    /// When it is looked at; `None` while nothing can change by time alone.
    due: Option<i64>,
}

#[derive(Clone, Debug, Default)]
struct Filter {
    flood: Flood,
    minute: Minute,
    due: Option<i64>,
    /// Alarms with changes that were not told and that do not flood themselves.
    untold: BTreeSet<Key>,
}

type FilterKey = (Owner, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Alarm(Key),
    Filter(FilterKey),
}

/// All alarms of a gateway. Methods append to `tell` what is to be told, in order.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    limits: Limits,
    entries: BTreeMap<Key, Entry>,
    filters: BTreeMap<FilterKey, Filter>,
    due: BTreeSet<(i64, Who)>,
    changed: BTreeSet<Key>,
    changed_filters: BTreeSet<FilterKey>,
    holding: usize,
    acknowledged: usize,
    lost: u64,
    suppressed: u64,
}

impl Alarms {
    /// What a restart finds. Minutes begin anew at `now`: a flood is not over before a calm minute has passed.
    #[must_use]
    pub fn restore(
        limits: Limits,
        now: i64,
        alarms: impl IntoIterator<Item = (Key, Alarm)>,
        floods: impl IntoIterator<Item = (Owner, Arc<str>, Flood)>,
    ) -> Self {
        let mut all = Self {
            limits,
            ..Self::default()
        };
        for (owner, filter, flood) in floods {
            let known = all.filters.entry((owner.clone(), Arc::clone(&filter)));
            known.or_default().flood = flood;
            all.schedule_filter(&(owner, filter), now.saturating_add(MINUTE));
        }
        for (key, alarm) in alarms {
            let filter = (key.owner.clone(), Arc::clone(&alarm.cause.filter));
            let untold = alarm.suppressed > 0 && !alarm.flooding;
            let flooding = alarm.flooding;
            all.holding += usize::from(alarm.holds());
            all.acknowledged += usize::from(alarm.state == State::Acknowledged);
            let entry = Entry {
                alarm,
                minute: Minute {
                    begin: now,
                    count: 0,
                },
                due: None,
            };
            all.entries.insert(key.clone(), entry);
            if flooding {
                all.schedule(&key, now.saturating_add(MINUTE));
            }
            if untold {
                all.filters
                    .entry(filter.clone())
                    .or_default()
                    .untold
                    .insert(key);
                all.schedule_filter(&filter, now.saturating_add(MINUTE));
            }
        }
        all
    }

    /// Raises an alarm. One that holds already stays as it is. False when nothing changed.
    pub fn raise(&mut self, now: i64, key: &Key, cause: Cause, tell: &mut Vec<Tell>) -> bool {
        let known = self.entries.get(key);
        if known.is_some_and(|entry| entry.alarm.holds()) {
            return false;
        }
        if known.is_none() && self.entries.len() >= ALARMS {
            self.lost = self.lost.saturating_add(1);
            return false;
        }
        let cause = cut(cause);
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            alarm: Alarm {
                state: State::Cleared,
                cause: cause.clone(),
                acknowledged: None,
                flooding: false,
                suppressed: 0,
            },
            minute: Minute::default(),
            due: None,
        });
        entry.alarm.state = State::Raised;
        entry.alarm.cause = cause;
        entry.alarm.acknowledged = None;
        self.holding += 1;
        self.changed(now, key, tell);
        true
    }

    /// Clears an alarm. Filter and severity stay those of what raised it. False when nothing changed.
    pub fn clear(&mut self, now: i64, key: &Key, cause: Cause, tell: &mut Vec<Tell>) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if !entry.alarm.holds() {
            return false;
        }
        self.holding -= 1;
        self.acknowledged -= usize::from(entry.alarm.state == State::Acknowledged);
        entry.alarm.state = State::Cleared;
        entry.alarm.cause = cut(Cause {
            filter: Arc::clone(&entry.alarm.cause.filter),
            severity: entry.alarm.cause.severity,
            ..cause
        });
        self.changed(now, key, tell);
        true
    }

    /// Acknowledges what is selected and holds and was not acknowledged, at most `limit` of them. Returns how many. This is
    /// told even in a flood: somebody did it by hand.
    pub fn acknowledge(
        &mut self,
        selection: &Selection,
        by: &Acknowledgement,
        limit: usize,
        tell: &mut Vec<Tell>,
    ) -> usize {
        let raised = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.alarm.state == State::Raised && selection.matches(key));
        let keys: Vec<Key> = raised.map(|(key, _)| key.clone()).take(limit).collect();
        for key in &keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.alarm.state = State::Acknowledged;
                entry.alarm.acknowledged = Some(Acknowledgement {
                    by: cut_text(by.by.clone()),
                    at: by.at,
                });
                self.acknowledged += 1;
            }
            self.tell(key, None, tell);
        }
        keys.len()
    }

    /// Clears the alarms of owners that are no longer configured; nobody else would.
    pub fn retire(
        &mut self,
        now: i64,
        is_configured: impl Fn(&Owner) -> bool,
        time: i64,
        tell: &mut Vec<Tell>,
    ) {
        let gone = self
            .entries
            .iter()
            .filter(|(key, _)| !is_configured(&key.owner));
        let gone: Vec<(Key, Cause)> = gone
            .map(|(key, entry)| (key.clone(), entry.alarm.cause.clone()))
            .collect();
        for (key, cause) in gone {
            let cause = Cause {
                time,
                text: "no longer configured".to_owned(),
                value: None,
                ..cause
            };
            self.clear(now, &key, cause, tell);
        }
    }

    /// Ends floods that are over, and tells what was not told in them.
    pub fn tick(&mut self, now: i64, tell: &mut Vec<Tell>) {
        while let Some((at, who)) = self.due.first().cloned() {
            if at > now {
                return;
            }
            self.due.remove(&(at, who.clone()));
            match who {
                Who::Alarm(key) => self.tick_alarm(now, &key, tell),
                Who::Filter(key) => self.tick_filter(now, &key, tell),
            }
        }
    }

    /// When [`Alarms::tick`] has something to do, by the monotonic clock.
    #[must_use]
    pub fn next_due(&self) -> Option<i64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Alarms that hold.
    #[must_use]
    pub fn holding(&self) -> usize {
        self.holding
    }

    /// Those among them that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Alarms that were raised beyond [`ALARMS`] since the last call, and are not kept; and changes that floods kept from
    /// being told.
    pub fn take_losses(&mut self) -> (u64, u64) {
        (
            std::mem::take(&mut self.lost),
            std::mem::take(&mut self.suppressed),
        )
    }

    /// Alarms that hold, by owner, series and code.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Alarm)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.alarm.holds())
            .map(|(key, entry)| (key, &entry.alarm))
    }

    /// One alarm, as far as it is kept.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Alarm> {
        self.entries.get(key).map(|entry| &entry.alarm)
    }

    /// Filters that are flooding.
    pub fn floods(&self) -> impl Iterator<Item = (&Owner, &Arc<str>, &Flood)> {
        let on = self
            .filters
            .iter()
            .filter(|(_, filter)| filter.flood.flooding);
        on.map(|((owner, name), filter)| (owner, name, &filter.flood))
    }

    /// Alarms that changed since the last call, to be written down: as they are, or `None` to be forgotten.
    pub fn take_changed(&mut self) -> Vec<(Key, Option<Alarm>)> {
        let changed = std::mem::take(&mut self.changed);
        let as_is = |key: Key| {
            let alarm = self.get(&key).filter(|alarm| alarm.is_kept()).cloned();
            (key, alarm)
        };
        changed.into_iter().map(as_is).collect()
    }

    /// Floods that changed since the last call, likewise.
    pub fn take_changed_floods(&mut self) -> Vec<(Owner, Arc<str>, Option<Flood>)> {
        let changed = std::mem::take(&mut self.changed_filters);
        let as_is = |key: FilterKey| {
            let flood = self.filters.get(&key).map(|filter| filter.flood.clone());
            (key.0, key.1, flood.filter(|flood| flood.flooding))
        };
        changed.into_iter().map(as_is).collect()
    }

    /// An alarm was raised or cleared: tells it, or counts it.
    fn changed(&mut self, now: i64, key: &Key, tell: &mut Vec<Tell>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let new_minute = entry.minute.count(now);
        let minute_ends = entry.minute.end();
        let over = entry.minute.count > self.limits.alarm;
        let begins = over && !entry.alarm.flooding;
        entry.alarm.flooding |= over;
        let flooding = entry.alarm.flooding;
        let filter = (key.owner.clone(), Arc::clone(&entry.alarm.cause.filter));
        if new_minute {
            self.schedule(key, minute_ends);
        }
        if flooding && !begins {
            self.suppress(key);
            return;
        }
        if self.filter_floods(now, &filter, tell) {
            self.suppress(key);
            if let Some(filter) = self.filters.get_mut(&filter) {
                filter.flood.suppressed = filter.flood.suppressed.saturating_add(1);
                if !flooding {
                    filter.untold.insert(key.clone());
                }
            }
            self.changed_filters.insert(filter);
            return;
        }
        self.tell(key, begins.then_some(Mark::Begin), tell);
    }

    /// Counts a change of one of a filter's alarms. True while there are too many.
    fn filter_floods(&mut self, now: i64, key: &FilterKey, tell: &mut Vec<Tell>) -> bool {
        let filter = self.filters.entry(key.clone()).or_default();
        let new_minute = filter.minute.count(now);
        let ends = filter.minute.end();
        if filter.minute.count > self.limits.filter && !filter.flood.flooding {
            filter.flood.flooding = true;
            tell.push(Tell::Flood {
                owner: key.0.clone(),
                filter: Arc::clone(&key.1),
                mark: Mark::Begin,
                suppressed: 0,
            });
            self.changed_filters.insert(key.clone());
        }
        let flooding = filter.flood.flooding;
        if new_minute {
            self.schedule_filter(key, ends);
        }
        flooding
    }

    fn suppress(&mut self, key: &Key) {
        self.suppressed = self.suppressed.saturating_add(1);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.alarm.suppressed = entry.alarm.suppressed.saturating_add(1);
        }
        self.changed.insert(key.clone());
    }

    /// Tells an alarm's state, with the count of what was not told before.
    fn tell(&mut self, key: &Key, flood: Option<Mark>, tell: &mut Vec<Tell>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let suppressed = std::mem::take(&mut entry.alarm.suppressed);
        let alarm = entry.alarm.clone();
        let filter = (key.owner.clone(), Arc::clone(&alarm.cause.filter));
        if let Some(filter) = self.filters.get_mut(&filter) {
            filter.untold.remove(key);
        }
        self.changed.insert(key.clone());
        tell.push(Tell::Alarm {
            key: key.clone(),
            alarm,
            flood,
            suppressed,
        });
    }

    /// An alarm's minute is over.
    fn tick_alarm(&mut self, now: i64, key: &Key, tell: &mut Vec<Tell>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.due = None;
        let calm = entry.minute.count <= self.limits.alarm;
        entry.minute.restart(now);
        if entry.alarm.flooding {
            if !calm {
                self.schedule(key, now.saturating_add(MINUTE));
                return;
            }
            entry.alarm.flooding = false;
            self.tell(key, Some(Mark::End), tell);
        }
        self.forget(key);
    }

    /// Drops what nothing can come of any more.
    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        if entry.alarm.is_kept() || entry.due.is_some() {
            return;
        }
        self.entries.remove(key);
    }

    /// A filter's minute is over.
    fn tick_filter(&mut self, now: i64, key: &FilterKey, tell: &mut Vec<Tell>) {
        let Some(filter) = self.filters.get_mut(key) else {
            return;
        };
        filter.due = None;
        let calm = filter.minute.count <= self.limits.filter;
        filter.minute.restart(now);
        if filter.flood.flooding && !calm {
            self.schedule_filter(key, now.saturating_add(MINUTE));
            return;
        }
        if std::mem::take(&mut filter.flood.flooding) {
            tell.push(Tell::Flood {
                owner: key.0.clone(),
                filter: Arc::clone(&key.1),
                mark: Mark::End,
                suppressed: std::mem::take(&mut filter.flood.suppressed),
            });
            self.changed_filters.insert(key.clone());
        }
        let pace = usize::try_from(self.limits.filter).unwrap_or(usize::MAX);
        let untold: Vec<Key> = filter.untold.iter().take(pace).cloned().collect();
        let more = filter.untold.len() > untold.len();
        for key in &untold {
            self.tell(key, None, tell);
            self.forget(key);
        }
        if more {
            self.schedule_filter(key, now.saturating_add(MINUTE));
        } else {
            self.filters.remove(key);
        }
    }

    fn schedule(&mut self, key: &Key, at: i64) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some(before) = entry.due.replace(at) {
            self.due.remove(&(before, Who::Alarm(key.clone())));
        }
        self.due.insert((at, Who::Alarm(key.clone())));
    }

    fn schedule_filter(&mut self, key: &FilterKey, at: i64) {
        let Some(filter) = self.filters.get_mut(key) else {
            return;
        };
        if let Some(before) = filter.due.replace(at) {
            self.due.remove(&(before, Who::Filter(key.clone())));
        }
        self.due.insert((at, Who::Filter(key.clone())));
    }
}

fn cut(cause: Cause) -> Cause {
    Cause {
        text: cut_text(cause.text),
        ..cause
    }
}

fn cut_text(mut text: String) -> String {
    let end = (0..=TEXT_BYTES.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_millis<S: Serializer>(nanoseconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(crate::item::millis(*nanoseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn key(series: &str) -> Key {
        Key {
            owner: Owner::Pipeline("watch".into()),
            series: series.into(),
            code: "spike".into(),
        }
    }

    fn cause() -> Cause {
        Cause {
            filter: "anomaly".into(),
            severity: Severity::Warning,
            time: 5,
            text: "too high".to_owned(),
            value: Some(1.0),
            generation: None,
        }
    }

    fn by(name: &str) -> Acknowledgement {
        Acknowledgement {
            by: name.to_owned(),
            at: 7,
        }
    }

    /// `a raised`, `a cleared begin`, `flood end 3`, …
    fn words(tell: &[Tell]) -> Vec<String> {
        let mark = |mark: &Option<Mark>| match mark {
            Some(Mark::Begin) => " begin",
            Some(Mark::End) => " end",
            None => "",
        };
        let count = |count: u64| match count {
            0 => String::new(),
            count => format!(" {count}"),
        };
        let word = |tell: &Tell| match tell {
            Tell::Alarm {
                key,
                alarm,
                flood,
                suppressed,
            } => format!(
                "{} {}{}{}",
                key.series,
                alarm.state.as_str(),
                mark(flood),
                count(*suppressed)
            ),
            Tell::Flood {
                mark: m,
                suppressed,
                ..
            } => format!("flood{}{}", mark(&Some(*m)), count(*suppressed)),
        };
        tell.iter().map(word).collect()
    }

    enum Do {
        Raise(&'static str),
        Clear(&'static str),
        Acknowledge(&'static str),
        Wait(i64),
        Restart,
    }

    #[track_caller]
    fn check(script: &[Do], expect: &[&str]) -> Alarms {
        let mut alarms = Alarms::default();
        let mut tell = Vec::new();
        let mut now = 100 * SECOND;
        for step in script {
            match step {
                Do::Raise(series) => {
                    alarms.raise(now, &key(series), cause(), &mut tell);
                }
                Do::Clear(series) => {
                    alarms.clear(now, &key(series), cause(), &mut tell);
                }
                Do::Acknowledge(series) => {
                    let selection = Selection {
                        series: SeriesFilter::new(&[(*series).to_owned()]).unwrap(),
                        ..Selection::default()
                    };
                    alarms.acknowledge(&selection, &by("Anna"), 10, &mut tell);
                }
                Do::Wait(seconds) => {
                    now += seconds * SECOND;
                    alarms.tick(now, &mut tell);
                }
                Do::Restart => alarms = restart(now, &mut alarms),
            }
        }
        assert_eq!(words(&tell), expect);
        alarms
    }

    /// What is written down, read again.
    fn restart(now: i64, alarms: &mut Alarms) -> Alarms {
        let kept: Vec<(Key, Alarm)> = alarms
            .entries
            .iter()
            .filter(|(_, entry)| entry.alarm.is_kept())
            .map(|(key, entry)| (key.clone(), entry.alarm.clone()))
            .collect();
        let floods: Vec<(Owner, Arc<str>, Flood)> = alarms
            .floods()
            .map(|(owner, name, flood)| (owner.clone(), Arc::clone(name), flood.clone()))
            .collect();
        Alarms::restore(alarms.limits, now, kept, floods)
    }

    #[test]
    fn a_life_is_raised_acknowledged_and_cleared() {
        use Do::{Acknowledge, Clear, Raise, Restart, Wait};
        check(
            &[
                Raise("a"),
                Raise("a"),
                Acknowledge("a"),
                Acknowledge("a"),
                Raise("a"),
                Clear("a"),
                Clear("a"),
            ],
            &["a raised", "a acknowledged", "a cleared"],
        );
        // A new life is not acknowledged; what does not hold cannot be.
        let alarms = check(
            &[
                Raise("a"),
                Acknowledge("*"),
                Clear("a"),
                Acknowledge("a"),
                Raise("a"),
            ],
            &["a raised", "a acknowledged", "a cleared", "a raised"],
        );
        assert_eq!(alarms.get(&key("a")).unwrap().acknowledged, None);
        assert_eq!((alarms.holding(), alarms.acknowledged()), (1, 0));
        let alarms = check(
            &[
                Raise("a"),
                Acknowledge("a"),
                Restart,
                Raise("a"),
                Wait(600),
                Clear("a"),
                Wait(61),
            ],
            &["a raised", "a acknowledged", "a cleared"],
        );
        assert!(alarms.entries.is_empty() && alarms.due.is_empty() && alarms.filters.is_empty());
    }

    fn flap(times: usize) -> Vec<Do> {
        let pair = || [Do::Raise("a"), Do::Clear("a")];
        (0..times).flat_map(|_| pair()).collect()
    }

    fn told(times: usize) -> Vec<&'static str> {
        ["a raised", "a cleared"].repeat(times)
    }

    #[test]
    fn an_alarm_that_flaps_is_told_at_the_begin_and_at_the_end_with_the_count() {
        // Ten changes are told, the eleventh says that it floods.
        let mut script = flap(8);
        script.push(Do::Wait(59));
        script.push(Do::Wait(1));
        let mut expect = told(5);
        expect.push("a raised begin");
        // Sixteen changes: five were kept quiet, and too many in the minute, so that a second one passes.
        check(&script, &expect);
        script.push(Do::Wait(60));
        expect.push("a cleared end 5");
        let alarms = check(&script, &expect);
        assert!(
            alarms.entries.is_empty() && alarms.due.is_empty(),
            "{alarms:?}"
        );
    }

    #[test]
    fn an_acknowledgement_is_told_in_a_flood_and_the_flood_survives_a_restart() {
        let mut script = flap(8);
        script.extend([
            Do::Raise("a"),
            Do::Acknowledge("a"),
            Do::Restart,
            Do::Wait(59),
        ]);
        let mut expect = told(5);
        expect.extend(["a raised begin", "a acknowledged 6"]);
        check(&script, &expect);
        script.push(Do::Wait(1));
        expect.push("a acknowledged end");
        check(&script, &expect);
    }

    #[test]
    fn what_changes_slowly_is_never_kept_quiet() {
        let mut script = Vec::new();
        for _ in 0..50 {
            script.extend([Do::Raise("a"), Do::Wait(7), Do::Clear("a"), Do::Wait(7)]);
        }
        check(&script, &told(50));
    }

    #[test]
    fn a_filter_that_raises_too_many_is_told_at_begin_and_end_and_each_state_after_it() {
        let limits = Limits {
            filter: 100,
            ..Limits::default()
        };
        let mut alarms = Alarms::restore(limits, 0, [], []);
        let mut tell = Vec::new();
        for n in 0..350 {
            alarms.raise(0, &key(&format!("s{n:03}")), cause(), &mut tell);
        }
        let first = words(&tell);
        assert_eq!(first.len(), 101);
        assert_eq!(first[100], "flood begin");
        tell.clear();
        // A minute with 350 is not calm.
        alarms.tick(MINUTE, &mut tell);
        assert!(tell.is_empty());
        let mut alarms = restart(MINUTE, &mut alarms);
        alarms.tick(2 * MINUTE, &mut tell);
        let end = words(&tell);
        assert_eq!(
            (end.len(), &*end[0], &*end[1]),
            (101, "flood end 250", "s100 raised 1")
        );
        // The rest follows at the same pace; one that changes meanwhile tells for itself.
        alarms.clear(2 * MINUTE, &key("s349"), cause(), &mut tell);
        assert_eq!(words(&tell).last().unwrap(), "s349 cleared 1");
        tell.clear();
        alarms.tick(3 * MINUTE, &mut tell);
        alarms.tick(4 * MINUTE, &mut tell);
        alarms.tick(5 * MINUTE, &mut tell);
        assert_eq!(words(&tell).len(), 149);
        assert_eq!(alarms.holding(), 349);
        assert!(alarms.filters.is_empty() && alarms.due.is_empty());
    }

    #[test]
    fn one_that_flaps_does_not_silence_its_neighbours() {
        let mut alarms = Alarms::default();
        let mut tell = Vec::new();
        for _ in 0..1_000 {
            alarms.raise(0, &key("a"), cause(), &mut tell);
            alarms.clear(0, &key("a"), cause(), &mut tell);
        }
        tell.clear();
        alarms.raise(0, &key("b"), cause(), &mut tell);
        assert_eq!(words(&tell), ["b raised"]);
    }

    #[test]
    fn alarms_are_bounded_and_what_is_beyond_is_counted() {
        let mut alarms = Alarms::default();
        let mut tell = Vec::new();
        for n in 0..ALARMS + 3 {
            alarms.raise(0, &key(&n.to_string()), cause(), &mut tell);
            tell.clear();
        }
        assert_eq!(alarms.holding(), ALARMS);
        let quiet = u64::try_from(ALARMS).unwrap() - u64::from(Limits::default().filter);
        assert_eq!(alarms.take_losses(), (3, quiet));
        assert_eq!(alarms.take_losses(), (0, 0));
    }

    #[test]
    fn alarms_of_what_is_no_longer_configured_are_cleared() {
        let mut alarms = Alarms::default();
        let mut tell = Vec::new();
        alarms.raise(0, &key("a"), cause(), &mut tell);
        tell.clear();
        alarms.retire(0, |_| true, 9, &mut tell);
        assert!(tell.is_empty());
        alarms.retire(0, |_| false, 9, &mut tell);
        assert_eq!(words(&tell), ["a cleared"]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut alarms = Alarms::default();
        let cause = Cause {
            text: format!("x{}", "é".repeat(TEXT_BYTES)),
            ..cause()
        };
        alarms.raise(0, &key("a"), cause, &mut Vec::new());
        let text = &alarms.get(&key("a")).unwrap().cause.text;
        assert_eq!(text.len(), TEXT_BYTES - 1);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Raise(u8),
        Clear(u8),
        Acknowledge(u8),
        Pass(u8),
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0u8..4).prop_map(Op::Raise),
            8 => (0u8..4).prop_map(Op::Clear),
            1 => (0u8..4).prop_map(Op::Acknowledge),
            2 => (0u8..90).prop_map(Op::Pass),
            1 => Just(Op::Restart),
        ]
    }

    proptest! {
        /// Every change is told or counted exactly once; when it is calm a receiver knows every alarm's state; and
        /// what is written down is what is there.
        #[test]
        fn nothing_is_lost_silently(ops in prop::collection::vec(op(), 0..400)) {
            let mut alarms = Alarms::restore(Limits { alarm: 10, filter: 25 }, 0, [], []);
            let mut now = SECOND;
            let mut changes = 0u64;
            let mut accounted = 0u64;
            let mut receiver: BTreeMap<Key, State> = BTreeMap::new();
            let mut rows: BTreeMap<Key, Alarm> = BTreeMap::new();
            let mut floods: BTreeMap<(Owner, Arc<str>), Flood> = BTreeMap::new();
            let mut ops = ops;
            // A calm end: everything is told.
            ops.extend((0..10).map(|_| Op::Pass(60)));
            for op in ops {
                let mut tell = Vec::new();
                match op {
                    Op::Raise(n) => changes += u64::from(alarms.raise(now, &key(&n.to_string()), cause(), &mut tell)),
                    Op::Clear(n) => changes += u64::from(alarms.clear(now, &key(&n.to_string()), cause(), &mut tell)),
                    Op::Acknowledge(n) => {
                        let series = SeriesFilter::new(&[n.to_string()]).unwrap();
                        let selection = Selection { series, ..Selection::default() };
                        let done = alarms.acknowledge(&selection, &by("x"), 10, &mut tell);
                        changes += u64::try_from(done).unwrap();
                    }
                    Op::Pass(seconds) => {
                        now += i64::from(seconds) * SECOND;
                        alarms.tick(now, &mut tell);
                    }
                    Op::Restart => {
                        let read = |((owner, name), flood): (&(Owner, Arc<str>), &Flood)| (owner.clone(), Arc::clone(name), flood.clone());
                        alarms = Alarms::restore(alarms.limits, now, rows.clone(), floods.iter().map(read));
                    }
                }
                for tell in &tell {
                    if let Tell::Alarm { key, alarm, flood, suppressed } = tell {
                        // The end of a flood and a state told late are no changes of their own.
                        accounted += suppressed;
                        let late = *flood == Some(Mark::End) || (*suppressed > 0 && matches!(op, Op::Pass(_)));
                        accounted += u64::from(!late);
                        receiver.insert(key.clone(), alarm.state);
                    }
                }
                for (key, alarm) in alarms.take_changed() {
                    match alarm {
                        Some(alarm) => { rows.insert(key, alarm); }
                        None => { rows.remove(&key); }
                    }
                }
                for (owner, name, flood) in alarms.take_changed_floods() {
                    match flood {
                        Some(flood) => { floods.insert((owner, name), flood); }
                        None => { floods.remove(&(owner, name)); }
                    }
                }
                let kept: BTreeMap<Key, Alarm> = alarms.entries.iter()
                    .filter(|(_, entry)| entry.alarm.is_kept())
                    .map(|(key, entry)| (key.clone(), entry.alarm.clone()))
                    .collect();
                prop_assert_eq!(&kept, &rows);
            }
            prop_assert_eq!(accounted, changes);
            for (key, state) in &receiver {
                let is = alarms.get(key).map_or(State::Cleared, |alarm| alarm.state);
                prop_assert_eq!(*state, is);
            }
            prop_assert_eq!(alarms.due.len(), 0);
        }
    }
}
