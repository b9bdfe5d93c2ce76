//! What is asked next: groups fall due, every slave has a queue and its turn, and a slave that does not answer has to wait.
//!
//! Pure: time and chance come in as arguments. One request is open at a time. Slaves take turns request by request, so that none
//! waits for more than one request of each other one. A slave that has failed is left alone for the quarantine, in which its late
//! answer is thrown away; after some failures in a row its circuit opens, and it is asked one request from time to time until it
//! answers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate_domain::backoff::Backoff;

use super::plan::{Chunk, Plan, Refusal};

/// Failures in a row, at least, after which a slave is asked rarely.
const FAILURES: u32 = 3;
/// Waits between two probes of a slave that does not answer.
const PROBE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// What was learnt of refused registers is put to the proof again.
const LEARN_AGAIN: Duration = Duration::from_hours(1);

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) group: usize,
    pub(super) unit: usize,
    pub(super) chunk: Chunk,
    attempt: u32,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ask(Job),
    /// Nothing before this; `None` where there is nothing at all.
    Wait(Option<Instant>),
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Answered,
    Exception(u8),
    /// No answer in time, or none that can be believed.
    Failed,
}

/// What that means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Values that will not come this time: group and index.
    pub(super) lost: Vec<(usize, usize)>,
    /// The slave answers no more, or again.
    pub(super) change: Option<Change>,
    /// Registers that the slave has not.
    pub(super) refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Lost,
    Back,
}

/// The groups of a source, and how its slaves are.
pub(super) struct Schedule {
    groups: Vec<Group>,
    units: Vec<Unit>,
    retries: u32,
    quarantine: Duration,
    turn: u64,
}

struct Group {
    unit: usize,
    plan: Plan,
    interval: Duration,
    due: Instant,
    /// Requests of the present poll that are not done.
    waiting: usize,
    points: usize,
    learn_again: Instant,
}

struct Unit {
    queue: VecDeque<Job>,
    not_before: Instant,
    failures: u32,
    /// The circuit is open until then, and half open after it.
    open: Option<Instant>,
    backoff: Backoff,
    turn: u64,
    missed: u64,
}

impl Schedule {
    /// `groups`: the index of the slave, what is read of it and how often.
    pub(super) fn new(
        groups: Vec<(usize, Plan, Duration, usize)>,
        units: usize,
        retries: u32,
        quarantine: Duration,
        now: Instant,
    ) -> Self {
        let groups = groups.into_iter();
        let unit = |_| Unit {
            queue: VecDeque::new(),
            not_before: now,
            failures: 0,
            open: None,
            backoff: Backoff::new(PROBE.0, PROBE.1),
            turn: 0,
            missed: 0,
        };
        Self {
            groups: groups
                .map(|(unit, plan, interval, points)| Group {
                    unit,
                    plan,
                    interval,
                    due: now,
                    waiting: 0,
                    points,
                    learn_again: now + LEARN_AGAIN,
                })
                .collect(),
            units: (0..units).map(unit).collect(),
            retries,
            quarantine,
            turn: 0,
        }
    }

    /// What to do now. Give the result of a request to [`Schedule::done`] before asking again.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        for (index, group) in self.groups.iter_mut().enumerate() {
            if group.due > now {
                continue;
            }
            let behind =
                now.duration_since(group.due).as_nanos() / group.interval.as_nanos().max(1);
            let behind = u32::try_from(behind).unwrap_or(u32::MAX);
            group.due = group
                .interval
                .checked_mul(behind.saturating_add(1))
                .and_then(|step| group.due.checked_add(step))
                .unwrap_or(now + group.interval);
            let unit = &mut self.units[group.unit];
            unit.missed += u64::from(behind);
            if unit.open.is_some_and(|open| open > now) {
                continue;
            }
            if group.waiting > 0 {
                unit.missed += 1;
                continue;
            }
            if now >= group.learn_again {
                group.learn_again = now + LEARN_AGAIN;
                if group.plan.has_learnt() {
                    group.plan.forget();
                }
            }
            let chunks = group.plan.chunks();
            group.waiting = chunks.len();
            unit.queue.extend(chunks.iter().map(|chunk| Job {
                group: index,
                unit: group.unit,
                chunk: chunk.clone(),
                attempt: 0,
            }));
        }
        let ready = self
            .units
            .iter_mut()
            .filter(|unit| unit.not_before <= now && !unit.queue.is_empty());
        if let Some(unit) = ready.min_by_key(|unit| unit.turn)
            && let Some(job) = unit.queue.pop_front()
        {
            self.turn += 1;
            unit.turn = self.turn;
            return Step::Ask(job);
        }
        let due = self.groups.iter().map(|group| group.due);
        let held = self.units.iter().filter(|unit| !unit.queue.is_empty());
        Step::Wait(due.chain(held.map(|unit| unit.not_before)).min())
    }

    /// Takes the result of a request. `random` as [`Backoff::next`] has it.
    pub(super) fn done(&mut self, job: Job, came: Came, now: Instant, random: u64) -> Verdict {
        let mut verdict = Verdict::default();
        match came {
            Came::Answered => self.alive(job.unit, &mut verdict),
            Came::Failed | Came::Exception(0x0A | 0x0B) => {
                self.failed(job, now, random, &mut verdict);
                return verdict;
            }
            Came::Exception(code) => {
                self.alive(job.unit, &mut verdict);
                match code {
                    0x02 | 0x03 => {
                        let group = &mut self.groups[job.group];
                        match group.plan.refuse(&job.chunk) {
                            Refusal::Split(parts) => {
                                group.waiting += parts.len();
                                for chunk in parts.into_iter().rev() {
                                    self.units[job.unit].queue.push_front(Job {
                                        chunk,
                                        ..job.clone()
                                    });
                                }
                            }
                            Refusal::Found => {
                                verdict.refused = true;
                                lose(&job, &mut verdict);
                            }
                        }
                    }
                    // It asks for time.
                    0x05 | 0x06 if job.attempt < self.retries => {
                        let unit = &mut self.units[job.unit];
                        unit.not_before = now + self.quarantine;
                        unit.queue.push_front(Job {
                            attempt: job.attempt + 1,
                            ..job
                        });
                        return verdict;
                    }
                    _ => lose(&job, &mut verdict),
                }
            }
        }
        let group = &mut self.groups[job.group];
        group.waiting = group.waiting.saturating_sub(1);
        verdict
    }

    /// The connection is gone: nothing is open, and every value is lost. On the next one slaves that did not answer are probed at once.
    pub(super) fn restart(&mut self, now: Instant) -> Vec<(usize, usize)> {
        for unit in &mut self.units {
            unit.queue.clear();
            unit.not_before = now;
            unit.open = unit.open.map(|_| now);
        }
        let mut lost = Vec::new();
        for (index, group) in self.groups.iter_mut().enumerate() {
            if std::mem::take(&mut group.waiting) > 0 {
                group.due = now;
            }
            lost.extend((0..group.points).map(|point| (index, point)));
        }
        lost
    }

    /// Polls of a slave that were left out because the one before was not done.
    pub(super) fn missed(&self, unit: usize) -> u64 {
        self.units[unit].missed
    }

    /// Whether a slave is asked in turn, and not only from time to time.
    pub(super) fn is_closed(&self, unit: usize) -> bool {
        self.units[unit].open.is_none()
    }

    /// How many values of a slave are read no more.
    pub(super) fn refused(&self, unit: usize) -> usize {
        let groups = self.groups.iter().filter(|group| group.unit == unit);
        groups.map(|group| group.plan.refused().count()).sum()
    }

    fn alive(&mut self, unit: usize, verdict: &mut Verdict) {
        let unit = &mut self.units[unit];
        unit.failures = 0;
        if unit.open.take().is_some() {
            unit.backoff.reset();
            verdict.change = Some(Change::Back);
        }
    }

    fn failed(&mut self, job: Job, now: Instant, random: u64, verdict: &mut Verdict) {
        let unit = &mut self.units[job.unit];
        unit.not_before = now + self.quarantine;
        unit.failures = unit.failures.saturating_add(1);
        if unit.open.is_some() || unit.failures >= FAILURES.max(self.retries + 1) {
            verdict.change = unit.open.is_none().then_some(Change::Lost);
            unit.open = Some(now + unit.backoff.next(random));
            unit.queue.clear();
            for (index, group) in self.groups.iter_mut().enumerate() {
                if group.unit == job.unit {
                    group.waiting = 0;
                    verdict
                        .lost
                        .extend((0..group.points).map(|point| (index, point)));
                }
            }
        } else if job.attempt < self.retries {
            unit.queue.push_front(Job {
                attempt: job.attempt + 1,
                ..job
            });
        } else {
            lose(&job, verdict);
            let group = &mut self.groups[job.group];
            group.waiting = group.waiting.saturating_sub(1);
        }
    }
}

fn lose(job: &Job, verdict: &mut Verdict) {
    verdict
        .lost
        .extend(job.chunk.points.iter().map(|point| (job.group, *point)));
}

#[cfg(test)]
mod tests {
    use super::super::map::{Kind, Point, Table};
    use super::super::plan::tests::point;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn group(unit: usize, addresses: &[u16], interval: Duration) -> (usize, Plan, Duration, usize) {
        let points: Vec<Point> = addresses
            .iter()
            .map(|at| point(*at, Kind::Uint16))
            .collect();
        let count = points.len();
        (
            unit,
            Plan::new(Table::Holding, points.into(), 125, 0, Vec::new()),
            interval,
            count,
        )
    }

    fn schedule(
        groups: Vec<(usize, Plan, Duration, usize)>,
        units: usize,
        now: Instant,
    ) -> Schedule {
        Schedule::new(groups, units, 2, 500 * MS, now)
    }

    fn asked(step: Step) -> Job {
        match step {
            Step::Ask(job) => job,
            Step::Wait(until) => panic!("it waits until {until:?}"),
        }
    }

    #[test]
    fn slaves_take_turns_request_by_request() {
        let now = Instant::now();
        let groups = vec![
            group(0, &[0, 10, 20], 100 * MS),
            group(1, &[0, 10], 100 * MS),
        ];
        let mut schedule = schedule(groups, 2, now);
        let order: Vec<(usize, u16)> = (0..5)
            .map(|_| {
                let job = asked(schedule.next(now));
                let found = (job.unit, job.chunk.address);
                schedule.done(job, Came::Answered, now, 0);
                found
            })
            .collect();
        assert_eq!(order, [(0, 0), (1, 0), (0, 10), (1, 10), (0, 20)]);
        assert_eq!(schedule.next(now), Step::Wait(Some(now + 100 * MS)));
        // 350 ms later three polls are due, of which one is made.
        asked(schedule.next(now + 350 * MS));
        assert_eq!(schedule.missed(0), 2);
    }

    #[test]
    fn a_slave_that_fails_waits_and_then_is_asked_rarely() {
        let now = Instant::now();
        let mut schedule = schedule(vec![group(0, &[0, 1], 100 * MS)], 1, now);
        let mut at = now;
        for attempt in 0..3 {
            let job = asked(schedule.next(at));
            let verdict = schedule.done(job, Came::Failed, at, u64::MAX);
            assert_eq!(schedule.is_closed(0), attempt < 2);
            if attempt < 2 {
                assert_eq!(verdict, Verdict::default());
                assert!(matches!(schedule.next(at + 499 * MS), Step::Wait(_)));
                at += 500 * MS;
            } else {
                assert_eq!(verdict.lost, [(0, 0), (0, 1)]);
                assert_eq!(verdict.change, Some(Change::Lost));
            }
        }
        // Probes after 2 s, 4 s, 8 s, each one request.
        for seconds in [2, 4, 8] {
            let probe = at + Duration::from_secs(seconds);
            let mut early = at;
            while early < probe {
                assert!(matches!(schedule.next(early), Step::Wait(_)));
                early += 50 * MS;
            }
            let job = asked(schedule.next(probe + 100 * MS));
            assert!(matches!(schedule.next(probe + 100 * MS), Step::Wait(_)));
            let verdict = schedule.done(job, Came::Failed, probe, u64::MAX);
            assert_eq!(verdict.change, None);
            at = probe;
        }
        let job = asked(schedule.next(at + Duration::from_secs(17)));
        let verdict = schedule.done(job, Came::Answered, at, 0);
        assert_eq!(verdict.change, Some(Change::Back));
        assert!(schedule.is_closed(0));
    }

    #[test]
    fn a_refused_request_is_parted_at_once() {
        let now = Instant::now();
        let mut schedule = schedule(vec![group(0, &[0, 1, 2, 3], 100 * MS)], 1, now);
        let mut refused = Vec::new();
        for _ in 0..20 {
            let Step::Ask(job) = schedule.next(now) else {
                break;
            };
            let chunk = job.chunk.clone();
            let bad = (chunk.address..chunk.address + chunk.count).contains(&2);
            let came = if bad {
                Came::Exception(2)
            } else {
                Came::Answered
            };
            let verdict = schedule.done(job, came, now, 0);
            if verdict.refused {
                refused.extend(verdict.lost);
            }
        }
        assert_eq!(refused, [(0, 2)]);
        assert_eq!(schedule.refused(0), 1);
        let job = asked(schedule.next(now + 100 * MS));
        assert_eq!((job.chunk.address, job.chunk.count), (0, 2));
        schedule.done(job, Came::Answered, now, 0);
        let job = asked(schedule.next(now + 100 * MS));
        assert_eq!((job.chunk.address, job.chunk.count), (3, 1));
        schedule.done(job, Came::Answered, now, 0);
        // After an hour the slave may be another one.
        let job = asked(schedule.next(now + LEARN_AGAIN + 100 * MS));
        assert_eq!((job.chunk.address, job.chunk.count), (0, 4));
    }

    #[test]
    fn a_busy_slave_is_alive() {
        let now = Instant::now();
        let mut schedule = schedule(vec![group(0, &[0], 100 * MS)], 1, now);
        let mut at = now;
        for attempt in 0..3 {
            let job = asked(schedule.next(at));
            let verdict = schedule.done(job, Came::Exception(6), at, 0);
            assert_eq!(verdict.lost.is_empty(), attempt < 2);
            at += 500 * MS;
        }
        assert!(schedule.is_closed(0));
    }

    /// Eight slaves on a line, each asked every second; one is dead, one garbles every answer.
    #[test]
    fn one_dead_and_one_garbling_slave_starve_nobody() {
        let start = Instant::now();
        let groups = (0..8)
            .map(|unit| group(unit, &[0, 1, 2], Duration::from_secs(1)))
            .collect();
        let mut schedule = schedule(groups, 8, start);
        let mut polls = [0u32; 8];
        let mut now = start;
        let end = start + Duration::from_secs(120);
        let mut random = 1u64;
        while now < end {
            match schedule.next(now) {
                Step::Wait(until) => now = until.unwrap(),
                Step::Ask(job) => {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let unit = job.unit;
                    let (takes, came) = match unit {
                        3 => (500 * MS, Came::Failed),
                        5 => (150 * MS, Came::Failed),
                        _ => (30 * MS, Came::Answered),
                    };
                    now += takes;
                    polls[unit] += u32::from(came == Came::Answered);
                    schedule.done(job, came, now, random);
                }
            }
        }
        for (unit, polls) in polls.into_iter().enumerate() {
            assert!(
                unit == 3 || unit == 5 || polls >= 108,
                "slave {unit}: {polls} of 120 polls"
            );
        }
    }
}
