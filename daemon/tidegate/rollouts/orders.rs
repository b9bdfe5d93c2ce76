//! Steps on their way to the workers: all of a change, or none of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use tidegate_domain::rollout::{Chain, Change, Gates, Reason};
use tidegate_pipeline::{Lane, Pipeline, Tried};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::clock;

/// Orders that wait for a worker. It takes one between two batches.
pub(crate) const ORDERS: usize = 4;
/// How long a change that somebody asked for may take to become durable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Steps for lanes of one worker, taken between the same two batches and stored in one transaction.
pub(crate) struct Order {
    /// Each with the lane's index among the worker's.
    pub(crate) steps: Vec<(usize, Step)>,
    /// Told once they are durable. A channel of capacity 1 never blocks the worker.
    pub(crate) done: std::sync::mpsc::SyncSender<()>,
}

/// What a lane is told to do.
pub(crate) enum Step {
    Start(Box<Pipeline>, Gates),
    PutBack(Box<Pipeline>, Reason, String),
    RollBack(Reason, String),
    Refuse(Chain, Reason, String),
    Try(Box<Pipeline>, Gates, Tried),
}

impl Step {
    /// Carries it out; what comes back is to be stored.
    pub(crate) fn take(self, lane: &mut Lane) -> Option<Change> {
        let (arrival, now) = (clock::now(), Instant::now());
        Some(match self {
            Self::Start(candidate, gates) => lane.start(*candidate, gates, arrival, now),
            Self::PutBack(good, reason, why) => lane.put_back(*good, reason, &why, arrival, now),
            Self::RollBack(reason, why) => lane.roll_back(reason, &why, arrival.wall),
            Self::Refuse(chain, reason, why) => lane.refuse(chain, reason, why, arrival.wall),
            Self::Try(candidate, gates, tried) => {
                lane.try_out(*candidate, gates, tried, arrival, now);
                return None;
            }
        })
    }
}

/// Steps by worker.
#[derive(Default)]
pub(crate) struct Steps(BTreeMap<usize, (Option<mpsc::Sender<Order>>, Vec<(usize, Step)>)>);

/// How far a change got that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Durable,
    /// Every worker has it, or has it before its next batch; the store has not committed it yet.
    NotYet,
}

impl Steps {
    pub(crate) fn add(
        &mut self,
        worker: usize,
        orders: &mpsc::Sender<Order>,
        lane: usize,
        step: Step,
    ) {
        let (sender, steps) = self.0.entry(worker).or_default();
        sender.get_or_insert_with(|| orders.clone());
        steps.push((lane, step));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands all of them over, each worker's at once, and waits until they are durable. To be called where blocking is
    /// allowed, on the runtime.
    ///
    /// # Errors
    /// A worker has no place for them within `patience`, or has ended. Nothing was handed to anybody then.
    pub(crate) fn hand_over(self, patience: Duration) -> anyhow::Result<Taken> {
        let until = Instant::now() + patience;
        let runtime = Handle::current();
        let mut places = Vec::new();
        for (worker, (sender, steps)) in self.0 {
            let Some(sender) = sender else { continue };
            let place = sender.reserve_owned();
            match runtime.block_on(tokio::time::timeout_at(until.into(), place)) {
                Ok(Ok(place)) => places.push((place, steps)),
                Ok(Err(_)) => bail!("the gateway is ending"),
                Err(_) => bail!(
                    "worker {worker} has been busy for {} s and took no change; try again, and see what holds it up",
                    patience.as_secs()
                ),
            }
        }
        // With a place at every worker nothing can be refused any more.
        let told: Vec<_> = places
            .into_iter()
            .map(|(place, steps)| {
                let (done, told) = std::sync::mpsc::sync_channel(1);
                place.send(Order { steps, done });
                told
            })
            .collect();
        let durable = told.iter().all(|told| {
            let left = until.saturating_duration_since(Instant::now());
            told.recv_timeout(left).is_ok()
        });
        Ok(match durable {
            true => Taken::Durable,
            false => Taken::NotYet,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn step() -> Step {
        Step::RollBack(Reason::Operator, "a test".to_owned())
    }

    fn two(a: &mpsc::Sender<Order>, b: &mpsc::Sender<Order>) -> Steps {
        let mut steps = Steps::default();
        steps.add(0, a, 0, step());
        steps.add(0, a, 1, step());
        steps.add(1, b, 0, step());
        steps
    }

    #[test]
    fn a_change_that_one_worker_cannot_take_reaches_no_other() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let (a, mut at_a) = mpsc::channel(1);
        let (b, mut at_b) = mpsc::channel(1);
        let (done, _told) = std::sync::mpsc::sync_channel(1);
        let steps = Vec::new();
        assert!(b.try_send(Order { steps, done }).is_ok());
        let error = two(&a, &b).hand_over(SHORT).unwrap_err();
        assert!(error.to_string().contains("worker 1"), "{error}");
        assert!(at_a.try_recv().is_err(), "worker 0 was told all the same");
        assert!(at_b.try_recv().unwrap().steps.is_empty());
        assert!(at_b.try_recv().is_err());

        // One that has ended is the same.
        drop(at_b);
        let error = two(&a, &b).hand_over(SHORT).unwrap_err();
        assert!(error.to_string().contains("ending"), "{error}");
        assert!(at_a.try_recv().is_err());
    }

    #[test]
    fn a_change_that_the_store_does_not_commit_in_time_is_taken_all_the_same() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let (a, mut at_a) = mpsc::channel(1);
        let (b, mut at_b) = mpsc::channel(1);
        assert_eq!(two(&a, &b).hand_over(SHORT).unwrap(), Taken::NotYet);
        let (first, second) = (at_a.try_recv().unwrap(), at_b.try_recv().unwrap());
        assert_eq!((first.steps.len(), second.steps.len()), (2, 1));

        let worker = std::thread::spawn(move || {
            for orders in [&mut at_a, &mut at_b] {
                orders.blocking_recv().unwrap().done.send(()).unwrap();
            }
        });
        let taken = two(&a, &b).hand_over(PATIENCE).unwrap();
        assert_eq!(taken, Taken::Durable);
        worker.join().unwrap();
    }
}
