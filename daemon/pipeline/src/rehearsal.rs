//! A rehearsal: the chain as it is and one with a candidate in it, over the same input, and what would become another.
//!
//! Both begin with empty state and see the time at which each batch had arrived. Under
//! [`Profile::Metered`](crate::Profile::Metered) nothing depends on the machine: the same input gives the same result.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tidegate_domain::item::JsonValue;
use tidegate_domain::outcome::{AlarmState, PipelineOutcome, Severity};
use tidegate_domain::{Arrival, Batch};

use crate::chain::Pipeline;

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "as")]
pub enum Fate {
    /// It came through, or was added.
    Stored {
        /// As it stands in a payload; `null` where it is no finite number.
        value: serde_json::Value,
        /// `good`, `uncertain` or `bad`.
        quality: &'static str,
    },
    /// It was set aside.
    Quarantined {
        /// One of `tidegate_domain::outcome::reason`.
        reason: &'static str,
        /// What was wrong, for people.
        detail: String,
    },
}

/// A row that becomes another, comes, or goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowChange {
    /// Its series.
    pub series: String,
    /// Its time, nanoseconds since the epoch.
    pub time: i64,
    /// What became of it; `None` where it was filtered, dropped or not there.
    pub present: Option<Fate>,
    /// What would become of it.
    pub candidate: Option<Fate>,
}

/// An alarm that would be raised or cleared by one of the two alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmDifference {
    /// Its series.
    pub series: String,
    /// Time of its row, nanoseconds since the epoch.
    pub time: i64,
    /// Its code.
    pub code: String,
    /// Raised or cleared.
    pub state: AlarmState,
    /// How serious it is.
    pub severity: Severity,
    /// Whether it is the candidate that says so.
    pub candidate: bool,
}

/// What differs in one batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BatchDifference {
    /// By series, then time.
    pub rows: Vec<RowChange>,
    /// Likewise.
    pub alarms: Vec<AlarmDifference>,
}

/// What one of the chains came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Readings that entered.
    pub selected: u64,
    /// Readings that came through.
    pub stored: u64,
    /// Readings that were taken out.
    pub filtered: u64,
    /// Readings that were added.
    pub derived: u64,
    /// Readings set aside.
    pub quarantined: u64,
    /// Readings dropped because a filter failed.
    pub dropped: u64,
    /// Alarms raised and cleared.
    pub alarms: u64,
}

impl Totals {
    fn add(&mut self, outcome: &PipelineOutcome) {
        self.selected += outcome.selected;
        self.stored += outcome.stored.len() as u64;
        self.filtered += outcome.filtered;
        self.derived += outcome.derived;
        let set_aside = outcome.quarantined.iter().map(|entry| entry.rows.len());
        self.quarantined += set_aside.sum::<usize>() as u64;
        self.dropped += outcome.dropped.values().sum::<u64>();
        self.alarms += outcome.alarms.len() as u64;
    }
}

/// The sums of a rehearsal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Batches replayed.
    pub batches: u64,
    /// Rows that would become another.
    pub changed_rows: u64,
    /// Alarms that one of the two has alone.
    pub changed_alarms: u64,
    /// The chain as it is.
    pub present: Totals,
    /// The chain with the candidate.
    pub candidate: Totals,
}

/// Two chains side by side.
#[derive(Debug)]
pub struct Rehearsal {
    present: Pipeline,
    candidate: Pipeline,
    /// Where the clock of back-offs and rates begins, and the arrival that it stands for.
    began: (Instant, Option<i64>),
    sums: Sums,
}

impl Rehearsal {
    /// Both are new, with empty state.
    #[must_use]
    pub fn new(present: Pipeline, candidate: Pipeline) -> Self {
        Self {
            present,
            candidate,
            began: (Instant::now(), None),
            sums: Sums::default(),
        }
    }

    /// Ticks what is due before a batch that arrives at `arrival` (nanoseconds since the epoch): once, at its time. `None`
    /// where nothing is due any more, and [`Rehearsal::run`] is next.
    pub fn tick(&mut self, arrival: i64) -> Option<BatchDifference> {
        let (began, until) = (self.began.0, self.moment(arrival));
        // The schedule begins with the first batch.
        let chains = [&mut self.present, &mut self.candidate];
        let due = chains
            .into_iter()
            .filter_map(|chain| chain.tick_at(until))
            .min();
        let now = due.filter(|due| *due <= until)?;
        let passed = now.saturating_duration_since(began).as_nanos();
        let first = self.began.1.unwrap_or(arrival);
        let present = first.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        let present = at(present);
        let outcomes = [&mut self.present, &mut self.candidate]
            .map(|chain| chain.tick(present, now).unwrap_or_default());
        Some(self.compare(&outcomes))
    }

    /// Sends a batch that arrived at `arrival` (nanoseconds since the epoch) through both.
    pub fn run(&mut self, batch: &Batch, arrival: i64) -> BatchDifference {
        let now = self.moment(arrival);
        let outcomes = [&mut self.present, &mut self.candidate]
            .map(|chain| chain.run(batch, at(arrival), now));
        self.sums.batches += 1;
        self.compare(&outcomes)
    }

    /// The moment of back-offs, rates and ticks that an arrival stands for.
    fn moment(&mut self, arrival: i64) -> Instant {
        let (began, first) = (self.began.0, *self.began.1.get_or_insert(arrival));
        let passed = u64::try_from(arrival.saturating_sub(first)).unwrap_or(0);
        began
            .checked_add(Duration::from_nanos(passed))
            .unwrap_or(began)
    }

    fn compare(&mut self, [present, candidate]: &[PipelineOutcome; 2]) -> BatchDifference {
        let difference = difference(present, candidate);
        self.sums.changed_rows += difference.rows.len() as u64;
        self.sums.changed_alarms += difference.alarms.len() as u64;
        self.sums.present.add(present);
        self.sums.candidate.add(candidate);
        difference
    }

    /// What it came to so far.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.sums
    }
}

/// An arrival by a clock that is set.
fn at(wall: i64) -> Arrival {
    Arrival {
        wall,
        synced: true,
        ..Arrival::default()
    }
}

/// What differs between what two chains made of the same batch.
pub(crate) fn difference(
    present: &PipelineOutcome,
    candidate: &PipelineOutcome,
) -> BatchDifference {
    BatchDifference {
        rows: rows(fates(present), fates(candidate)),
        alarms: alarms(present, candidate),
    }
}

/// A row of a batch: series, time, and which one where a series has several of a time.
type Place = (String, i64, usize);

fn fates(outcome: &PipelineOutcome) -> BTreeMap<Place, Fate> {
    let mut fates = BTreeMap::new();
    let mut seen: BTreeMap<(String, i64), usize> = BTreeMap::new();
    let mut put = |batch: &Batch, row: usize, fate| {
        let of = (batch.name(row).to_string(), batch.time[row]);
        let which = seen.entry(of.clone()).or_default();
        fates.insert((of.0, of.1, *which), fate);
        *which += 1;
    };
    let stored = &outcome.stored;
    for row in 0..stored.len() {
        let value = serde_json::to_value(JsonValue::from(stored.value(row)));
        let fate = Fate::Stored {
            value: value.unwrap_or_default(),
            quality: stored.quality(row).as_str(),
        };
        put(stored, row, fate);
    }
    for entry in &outcome.quarantined {
        for row in 0..entry.rows.len() {
            let fate = Fate::Quarantined {
                reason: entry.reason,
                detail: entry.detail.clone(),
            };
            put(&entry.rows, row, fate);
        }
    }
    fates
}

fn rows(
    mut present: BTreeMap<Place, Fate>,
    mut candidate: BTreeMap<Place, Fate>,
) -> Vec<RowChange> {
    present.retain(|place, fate| {
        let same = candidate.get(place) == Some(fate);
        if same {
            candidate.remove(place);
        }
        !same
    });
    let mut changes: BTreeMap<Place, (Option<Fate>, Option<Fate>)> = BTreeMap::new();
    for (place, fate) in present {
        changes.entry(place).or_default().0 = Some(fate);
    }
    for (place, fate) in candidate {
        changes.entry(place).or_default().1 = Some(fate);
    }
    let change = |((series, time, _), (present, candidate))| RowChange {
        series,
        time,
        present,
        candidate,
    };
    changes.into_iter().map(change).collect()
}

fn alarms(present: &PipelineOutcome, candidate: &PipelineOutcome) -> Vec<AlarmDifference> {
    let of = |outcome: &PipelineOutcome, candidate| -> Vec<AlarmDifference> {
        let alarms = outcome.alarms.iter();
        alarms
            .map(|alarm| AlarmDifference {
                series: alarm.series.to_string(),
                time: alarm.time,
                code: alarm.code.clone(),
                state: alarm.state,
                severity: alarm.severity,
                candidate,
            })
            .collect()
    };
    let mut ours = of(present, false);
    let mut theirs = of(candidate, false);
    ours.retain(|alarm| {
        let same = theirs.iter().position(|other| other == alarm);
        same.map(|at| theirs.swap_remove(at)).is_none()
    });
    ours.extend(theirs.into_iter().map(|alarm| AlarmDifference {
        candidate: true,
        ..alarm
    }));
    ours.sort_by(|a, b| {
        let key = |alarm: &AlarmDifference| (alarm.time, alarm.candidate);
        (&a.series, key(a), &a.code).cmp(&(&b.series, key(b), &b.code))
    });
    ours
}
