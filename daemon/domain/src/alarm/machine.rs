//! All alarms of a gateway, and what each change of one comes to. Time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

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

#[cfg(test)]
mod tests;
