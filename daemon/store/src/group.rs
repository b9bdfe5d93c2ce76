//! The open commit group: what was taken in and is not committed yet, and when it is due.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tidegate_domain::delivery::Settled;
use tidegate_domain::limits;
use tidegate_domain::receive_window::ReceiveWindow;
use tidegate_domain::{AckToken, Arrival, Batch, BatchOutcome};

use crate::gaps::Loss;
use crate::input::{AcknowledgeAlarms, CommandInput, Event, Orders, SourceGap};
use crate::setup::Bounds;

/// How long answers of an uplink wait for company when nothing else makes a commit: they are only bookkeeping, and
/// waiting costs messages being sent twice after a crash. They commit without it once there are
/// [`limits::SETTLED_TOGETHER`].
const SETTLE_LINGER: Duration = Duration::from_secs(1);

/// From here on a receive window was announced and not guessed: see [`InFlight`].
const ANNOUNCED: u32 = 64;

/// Inputs in the order in which they came, and their sums.
#[derive(Debug, Default)]
pub(crate) struct Group {
    #[expect(
        clippy::vec_box,
        reason = "they come in boxes through the channel, and stay in them"
    )]
    pub(crate) outcomes: Vec<Box<BatchOutcome>>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) gaps: Vec<SourceGap>,
    /// What every uplink misses.
    pub(crate) losses: Vec<Loss>,
    pub(crate) events: Vec<Event>,
    pub(crate) acknowledgements: Vec<AcknowledgeAlarms>,
    pub(crate) commands: Vec<CommandInput>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) orders: Vec<Orders>,
    rows: usize,
    bytes: usize,
    urgent: bool,
    /// When the first outcome, gap or event came.
    first: Option<Instant>,
    /// When the first answer of an uplink came.
    first_settled: Option<Instant>,
}

/// Messages that may be processed once it is on record that somebody began to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Alone: it counts.
    One {
        digest: [u8; 32],
        reply: SyncSender<u32>,
    },
    /// With others: it counts as 0, and as 1 when that is found again, for the process died meanwhile.
    Many {
        digests: Vec<[u8; 32]>,
        reply: SyncSender<Vec<u32>>,
    },
}

/// Why a group commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// An alarm is in it, or somebody waits for an answer.
    Alarm,
    /// A message, or a batch of them, waits for its attempt to be on record. What came before commits with it, so that
    /// nothing else is under suspicion.
    Attempt,
    /// Rows, bytes or answers reached their bound.
    Bound,
    /// A source will send nothing more before it is acknowledged.
    ReceiveWindow,
    /// It has waited long enough.
    Linger,
    /// Nothing in it: a window closes, a message is sealed, something is too old.
    Upkeep,
}

impl Group {
    /// What uplinks said, alone.
    pub(crate) fn of_settled(settled: Vec<Settled>, now: Instant) -> Self {
        Self {
            first_settled: (!settled.is_empty()).then_some(now),
            settled,
            ..Self::default()
        }
    }

    /// Takes what came earlier back in.
    pub(crate) fn put_before(&mut self, mut earlier: Self) {
        earlier.outcomes.append(&mut self.outcomes);
        earlier.settled.append(&mut self.settled);
        earlier.gaps.append(&mut self.gaps);
        earlier.losses.append(&mut self.losses);
        earlier.events.append(&mut self.events);
        earlier.acknowledgements.append(&mut self.acknowledgements);
        earlier.commands.append(&mut self.commands);
        earlier.attempts.append(&mut self.attempts);
        earlier.orders.append(&mut self.orders);
        earlier.rows += self.rows;
        earlier.bytes = earlier.bytes.saturating_add(self.bytes);
        earlier.urgent |= self.urgent;
        earlier.first = earlier.first.or(self.first);
        earlier.first_settled = earlier.first_settled.or(self.first_settled);
        *self = earlier;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
            && self.settled.is_empty()
            && self.gaps.is_empty()
            && self.losses.is_empty()
            && self.events.is_empty()
            && self.acknowledgements.is_empty()
            && self.commands.is_empty()
            && self.attempts.is_empty()
            && self.orders.is_empty()
    }

    /// Forgets what is about rows of a database that was set aside: the same numbers mean others in its successor. Who
    /// waits for an answer to an order gets none, and sees that.
    pub(crate) fn forget_rows(&mut self) {
        self.settled.clear();
        self.first_settled = None;
        self.orders.clear();
        self.outcomes.retain(|outcome| outcome.replayed.is_none());
    }

    pub(crate) fn push_outcome(&mut self, outcome: Box<BatchOutcome>, now: Instant) {
        self.first.get_or_insert(now);
        self.bytes = self.bytes.saturating_add(outcome.bytes);
        for pipeline in &outcome.pipelines {
            let quarantined: usize = pipeline.quarantined.iter().map(|q| q.rows.len()).sum();
            // What is kept of the input is written as well, for each pipeline, also where its filters take everything out.
            let kept = pipeline.input.as_ref().map_or(0, Batch::len);
            self.rows += pipeline.stored.len() + quarantined + kept;
            self.urgent |= !pipeline.alarms.is_empty();
        }
        self.outcomes.push(outcome);
    }

    pub(crate) fn push_settled(&mut self, settled: Settled, now: Instant) {
        self.first_settled.get_or_insert(now);
        self.settled.push(settled);
    }

    pub(crate) fn push_gap(&mut self, gap: SourceGap, now: Instant) {
        self.first.get_or_insert(now);
        self.gaps.push(gap);
    }

    pub(crate) fn push_event(&mut self, event: Event, now: Instant) {
        self.first.get_or_insert(now);
        self.events.push(event);
    }

    pub(crate) fn push_acknowledge(&mut self, request: AcknowledgeAlarms, now: Instant) {
        self.first.get_or_insert(now);
        self.urgent = true;
        self.acknowledgements.push(request);
    }

    pub(crate) fn push_command(&mut self, command: CommandInput, now: Instant) {
        self.first.get_or_insert(now);
        self.urgent = true;
        self.commands.push(command);
    }

    pub(crate) fn push_attempt(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
    }

    pub(crate) fn push_orders(&mut self, orders: Orders, now: Instant) {
        self.first.get_or_insert(now);
        self.orders.push(orders);
    }

    /// Rows of quarantine that it tries.
    pub(crate) fn rows_tried(&self) -> u64 {
        let outcomes = self.outcomes.iter();
        let replayed = outcomes.filter(|outcome| outcome.replayed.is_some());
        let replayed = replayed.count() as u64;
        let discarded = self.orders.iter().map(|orders| match orders {
            Orders::Discard { rows, .. } => rows.len() as u64,
            Orders::New { .. } | Orders::Done { .. } => 0,
        });
        replayed + discarded.sum::<u64>()
    }

    /// Readings in it.
    pub(crate) fn stored_rows(&self) -> u64 {
        let rows = |outcome: &BatchOutcome| -> usize {
            outcome.pipelines.iter().map(|p| p.stored.len()).sum()
        };
        self.outcomes
            .iter()
            .map(|outcome| rows(outcome) as u64)
            .sum()
    }

    /// When what is in it arrived; see [`BatchOutcome::has_arrived`].
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.has_arrived())
            .map(|outcome| outcome.arrival)
            .collect()
    }

    /// Corrects what arrived before the clock was set: `offset` is that of the clock since.
    pub(crate) fn correct(&mut self, offset: i64) {
        for outcome in &mut self.outcomes {
            outcome.correct(offset);
        }
    }

    /// The acknowledgements that are due once it is committed, by source.
    pub(crate) fn acks(&self, sources: usize) -> Vec<(usize, Vec<AckToken>)> {
        let mut by_source: Vec<Vec<AckToken>> = vec![Vec::new(); sources];
        for outcome in &self.outcomes {
            if let Some(acks) = by_source.get_mut(outcome.source) {
                acks.extend_from_slice(&outcome.acks);
            }
        }
        let by_source = by_source.into_iter().enumerate();
        by_source.filter(|(_, acks)| !acks.is_empty()).collect()
    }

    /// The numbers of the messages that uplinks settled, by uplink.
    pub(crate) fn settled(&self, uplinks: usize) -> Vec<(usize, Vec<u64>)> {
        let mut by_uplink: Vec<Vec<u64>> = vec![Vec::new(); uplinks];
        for settled in &self.settled {
            if let Some(seqs) = by_uplink.get_mut(settled.uplink) {
                seqs.push(settled.seq);
            }
        }
        let by_uplink = by_uplink.into_iter().enumerate();
        by_uplink.filter(|(_, seqs)| !seqs.is_empty()).collect()
    }

    /// Why the group should commit without waiting any longer.
    pub(crate) fn due_at_once(&self, bounds: &Bounds, in_flight: &InFlight) -> Option<Due> {
        if self.urgent {
            Some(Due::Alarm)
        } else if !self.attempts.is_empty() {
            Some(Due::Attempt)
        } else if self.rows >= bounds.group_rows
            || self.bytes >= bounds.group_bytes
            || self.settled.len() >= limits::SETTLED_TOGETHER
        {
            Some(Due::Bound)
        } else if !self.outcomes.is_empty() && in_flight.any_waits() {
            Some(Due::ReceiveWindow)
        } else {
            None
        }
    }

    /// When it has waited long enough.
    pub(crate) fn linger_ends(&self, linger: Duration) -> Option<Instant> {
        let first = self.first.map(|first| first + linger);
        let settled = self
            .first_settled
            .map(|first| first + linger.max(SETTLE_LINGER));
        match (first, settled) {
            (Some(first), Some(settled)) => Some(first.min(settled)),
            (first, settled) => first.or(settled),
        }
    }

    /// Why the group is due now.
    pub(crate) fn due(
        &self,
        bounds: &Bounds,
        in_flight: &InFlight,
        linger: Duration,
        now: Instant,
    ) -> Option<Due> {
        self.due_at_once(bounds, in_flight).or_else(|| {
            let ends = self.linger_ends(linger)?;
            (ends <= now).then_some(Due::Linger)
        })
    }
}

/// Messages received and not acknowledged, by source, and how many each source sends at most.
///
/// A window of less than 64 is the setting for a 3.1.1 broker, which the protocol does not carry: it is learned.
/// A larger one was announced by us on MQTT 5, or set by somebody who knows.
#[derive(Debug)]
pub(crate) struct InFlight {
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    stated: u32,
    window: ReceiveWindow,
    waiting: u32,
}

impl InFlight {
    pub(crate) fn new(sources: usize) -> Self {
        let source = |_| Source {
            stated: 0,
            window: ReceiveWindow::fixed(0),
            waiting: 0,
        };
        Self {
            sources: (0..sources).map(source).collect(),
        }
    }

    pub(crate) fn received(&mut self, outcome: &BatchOutcome) {
        let Some(source) = self.sources.get_mut(outcome.source) else {
            return;
        };
        if source.stated != outcome.receive_window {
            source.stated = outcome.receive_window;
            source.window = match outcome.receive_window {
                window @ 1..ANNOUNCED => ReceiveWindow::learning(window),
                window => ReceiveWindow::fixed(window),
            };
        }
        let acks = u32::try_from(outcome.acks.len()).unwrap_or(u32::MAX);
        source.waiting = source.waiting.saturating_add(acks);
        source.window.on_in_flight(source.waiting);
    }

    pub(crate) fn acknowledged(&mut self, acks: &[(usize, Vec<AckToken>)]) {
        for (source, acks) in acks {
            if let Some(source) = self.sources.get_mut(*source) {
                let acks = u32::try_from(acks.len()).unwrap_or(u32::MAX);
                source.waiting = source.waiting.saturating_sub(acks);
            }
        }
    }

    pub(crate) fn linger_expired(&mut self) {
        for source in self.sources.iter_mut().filter(|source| source.waiting > 0) {
            source.window.on_linger_expired(source.waiting);
        }
    }

    /// Whether some source will send no more, or not enough to be worth waiting for.
    fn any_waits(&self) -> bool {
        let waits = |source: &Source| source.waiting >= source.window.commit_at();
        self.sources
            .iter()
            .any(|source| source.waiting > 0 && waits(source))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_domain::delivery::Verdict;
    use tidegate_domain::outcome::{AlarmChange, AlarmState, PipelineOutcome, Severity};
    use tidegate_domain::{Batch, Quality, Value};

    use super::*;

    const LINGER: Duration = Duration::from_millis(100);

    fn outcome(rows: i64, acks: u64, receive_window: u32) -> BatchOutcome {
        let mut stored = Batch::default();
        stored.names.push("s".into());
        for row in 0..rows {
            stored.push(0, row, Value::Int(row), Quality::Good);
        }
        BatchOutcome {
            acks: (0..acks).map(|id| AckToken { connection: 1, id }).collect(),
            receive_window,
            bytes: 10,
            pipelines: vec![PipelineOutcome {
                stored,
                ..PipelineOutcome::default()
            }],
            ..BatchOutcome::default()
        }
    }

    fn with_alarm(mut outcome: BatchOutcome) -> BatchOutcome {
        outcome.pipelines[0].alarms.push(AlarmChange {
            filter: "anomaly".to_owned(),
            series: "s".into(),
            time: 0,
            state: AlarmState::Raised,
            severity: Severity::Warning,
            code: "spike".to_owned(),
            text: String::new(),
            value: None,
        });
        outcome
    }

    #[track_caller]
    fn check(outcomes: Vec<BatchOutcome>, at_once: Option<Due>) {
        let bounds = Bounds::new(512 * 1024 * 1024);
        let start = Instant::now();
        let mut group = Group::default();
        let mut in_flight = InFlight::new(1);
        let empty = outcomes.is_empty();
        for outcome in outcomes {
            in_flight.received(&outcome);
            group.push_outcome(Box::new(outcome), start);
        }
        let due = |after| group.due(&bounds, &in_flight, LINGER, start + after);
        assert_eq!(due(Duration::ZERO), at_once);
        assert_eq!(due(LINGER).is_some(), !empty);
    }

    #[test]
    fn a_group_waits_unless_waiting_is_useless() {
        check(vec![], None);
        check(vec![outcome(10, 10, 0)], None);
        check(vec![with_alarm(outcome(1, 1, 1024))], Some(Due::Alarm));
        check(vec![outcome(8191, 1, 1024)], None);
        check(
            vec![outcome(8191, 1, 1024), outcome(1, 1, 1024)],
            Some(Due::Bound),
        );
        check(vec![outcome(19, 19, 20)], None);
        check(
            vec![outcome(19, 19, 20), outcome(1, 1, 20)],
            Some(Due::ReceiveWindow),
        );
        check(vec![outcome(511, 511, 1024)], None);
        check(vec![outcome(512, 512, 1024)], Some(Due::ReceiveWindow));
    }

    #[test]
    fn a_small_window_is_learned_from_linger() {
        let mut in_flight = InFlight::new(1);
        for round in 0..4 {
            let mut group = Group::default();
            let outcome = outcome(10, 10, 20);
            in_flight.received(&outcome);
            group.push_outcome(Box::new(outcome), Instant::now());
            let due = group.due_at_once(&Bounds::new(0), &in_flight);
            assert_eq!(due.is_some(), round == 3, "round {round}");
            in_flight.linger_expired();
            in_flight.acknowledged(&group.acks(1));
        }
    }

    #[test]
    fn answers_alone_wait_longer_and_ride_along() {
        let start = Instant::now();
        let settled = Settled {
            uplink: 0,
            seq: 1,
            verdict: Verdict::Delivered,
        };
        let mut group = Group::default();
        group.push_settled(settled, start);
        assert_eq!(group.linger_ends(LINGER), Some(start + SETTLE_LINGER));
        group.push_outcome(Box::new(outcome(1, 1, 0)), start);
        assert_eq!(group.linger_ends(LINGER), Some(start + LINGER));
    }
}
