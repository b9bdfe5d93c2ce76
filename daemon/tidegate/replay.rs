//! Carrying out what an operator ordered about quarantine: reads the rows of an order slice by slice, hands them to the
//! workers that own their chains, and goes on when the slice is committed. Orders and rows are durable; nothing here
//! needs to be, so a restart begins again with the rows that are still there.
//!
//! ```text
//! store ──rows──▶ this thread ──parts──▶ workers ──outcomes──▶ writer ──tried──▶ this thread
//! ```
//! The last arrow is a number that is watched: the writer waits for nobody.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidegate_domain::outcome::{NO_SOURCE, ReplayFailure, Replayed, SlotGeneration};
use tidegate_domain::quarantine::Action;
use tidegate_domain::{Batch, BatchOutcome, Message};
use tidegate_store::{OpenOrder, Orders, QuarantinedRow, ReadError, Reader};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::writer::ToWriter;

/// Rows that are read, tried and committed before the next are read. After an unclean exit so many are tried one by one.
const SLICE_ROWS: usize = 512;
/// Bytes of data in them, unless a single row has more.
const SLICE_BYTES: usize = 1024 * 1024;
/// Rows that a worker takes at a time; then live messages have their turn.
const PART_ROWS: usize = 32;
/// Rows that are discarded in one commit.
const DROP_ROWS: usize = 1024;
/// How long to wait before the store is read again after it could not be.
const RETRY: Duration = Duration::from_secs(10);

/// Parts that wait for one worker.
pub(crate) const PARTS: usize = 2;

/// What is watched of the commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tried {
    /// Rows that were replayed or discarded since the start.
    pub(crate) rows: u64,
    /// Orders that came or went since the start.
    pub(crate) orders: u64,
}

/// The thread that carries out orders.
pub(crate) struct Replayer {
    pub(crate) reader: Reader,
    /// By name: its index in the configuration and its worker.
    pub(crate) sources: HashMap<String, Owner>,
    /// By name: its index among its worker's pipelines, and the worker.
    pub(crate) pipelines: HashMap<String, Owner>,
    pub(crate) workers: Vec<mpsc::Sender<Vec<Replay>>>,
    pub(crate) inbox: mpsc::Sender<ToWriter>,
    pub(crate) tried: watch::Receiver<Tried>,
    /// Becomes true, or is dropped, at the end.
    pub(crate) stop: watch::Receiver<bool>,
    /// The last process did not end in an orderly way, perhaps on one of the first rows.
    pub(crate) careful: bool,
    pub(crate) runtime: Handle,
}

/// Who can replay what belongs to a source or a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) index: usize,
    pub(crate) worker: usize,
}

/// One row on its way to a worker.
pub(crate) struct Replay {
    pub(crate) row: u64,
    attempts: u32,
    order: u64,
    /// It may have ended the daemon: it is tried alone.
    pub(crate) careful: bool,
    /// Of its data, for the commit group's bound.
    pub(crate) bytes: usize,
    pub(crate) what: What,
}

/// What is in a row.
pub(crate) enum What {
    Message(Message),
    Readings {
        /// Index among the worker's pipelines.
        pipeline: usize,
        /// The filter that failed on them.
        filter: String,
        /// The chain of then.
        ran: Vec<SlotGeneration>,
        rows: Batch,
    },
}

impl Replay {
    /// Identifies the row, as it is now, over restarts.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update("quarantine")
            .chain_update(self.row.to_le_bytes())
            .chain_update(self.attempts.to_le_bytes())
            .finalize()
            .into()
    }

    pub(crate) fn replayed(&self, failure: Option<ReplayFailure>) -> Replayed {
        Replayed {
            row: self.row,
            attempts: self.attempts,
            order: self.order,
            failure,
        }
    }

    /// The row stays in quarantine.
    pub(crate) fn failed(&self, reason: &'static str, detail: String) -> BatchOutcome {
        BatchOutcome {
            source: NO_SOURCE,
            arrival: clock::now(),
            replayed: Some(self.replayed(Some(ReplayFailure { reason, detail }))),
            ..BatchOutcome::default()
        }
    }
}

/// Why a round ended early.
enum Stop {
    /// The gateway ends.
    End,
    /// The store could not be read.
    Unreadable(ReadError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

impl Replayer {
    /// Carries out orders until the gateway ends.
    pub(crate) fn run(mut self) {
        let mut suspects = if self.careful { SLICE_ROWS } else { 0 };
        loop {
            let before = self.tried.borrow_and_update().orders;
            let done = match self.next_order(&mut suspects) {
                Ok(true) => self.until(|tried| tried.orders != before),
                Ok(false) => {
                    // Orders that are given from now on are tried in peace.
                    suspects = 0;
                    self.until(|tried| tried.orders != before)
                }
                Err(Stop::End) => return,
                Err(Stop::Unreadable(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "orders about quarantine wait"
                    );
                    self.pause()
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Carries out the oldest order. False when there is none.
    fn next_order(&mut self, suspects: &mut usize) -> Result<bool, Stop> {
        let Some(order) = self.reader.orders()?.into_iter().next() else {
            return Ok(false);
        };
        let mut after = 0;
        loop {
            let rows = match order.action {
                Action::Replay => self
                    .reader
                    .order_rows(&order, after, SLICE_ROWS, SLICE_BYTES)?,
                Action::Drop => self
                    .reader
                    .order_rows(&order, after, DROP_ROWS, usize::MAX)?,
            };
            let Some(last) = rows.last() else {
                break;
            };
            after = last.entry.id;
            let begun = self.tried.borrow().rows;
            let sent = match order.action {
                Action::Replay => self.replay(&order, rows, suspects)?,
                Action::Drop => self.discard(&order, &rows)?,
            };
            self.until(|tried| tried.rows >= begun + sent)?;
        }
        self.tell(Orders::Done { order: order.order })?;
        Ok(true)
    }

    /// Hands rows to their workers. Returns how many.
    fn replay(
        &mut self,
        order: &OpenOrder,
        rows: Vec<QuarantinedRow>,
        suspects: &mut usize,
    ) -> Result<u64, Stop> {
        let mut parts: Vec<Vec<Replay>> = self.workers.iter().map(|_| Vec::new()).collect();
        let mut sent = 0;
        for row in rows {
            let id = row.entry.id;
            let (worker, mut replay) = match self.prepare(order.order, row) {
                Ok(prepared) => prepared,
                Err(why) => {
                    tracing::warn!(row = id, "a row of quarantine is not replayed: {why}");
                    continue;
                }
            };
            if *suspects > 0 {
                *suspects -= 1;
                replay.careful = true;
            }
            sent += 1;
            parts[worker].push(replay);
            if parts[worker].len() >= PART_ROWS {
                let part = std::mem::take(&mut parts[worker]);
                self.hand_over(worker, part)?;
            }
        }
        for (worker, part) in parts.into_iter().enumerate() {
            if !part.is_empty() {
                self.hand_over(worker, part)?;
            }
        }
        Ok(sent)
    }

    /// Finds out who can replay a row.
    fn prepare(&self, order: u64, row: QuarantinedRow) -> Result<(usize, Replay), String> {
        let entry = &row.entry;
        let (owner, what) = match (&entry.source, &entry.pipeline) {
            (Some(source), _) => {
                let owner = owner_of(&self.sources, "source", source)?;
                let message = Message {
                    source: owner.index,
                    topic: entry.topic.as_deref().unwrap_or_default().into(),
                    arrival: row.arrival(),
                    ack: None,
                    redelivered: false,
                    identity: None,
                    payload: Bytes::copy_from_slice(&row.data),
                };
                (owner, What::Message(message))
            }
            (None, Some(pipeline)) => {
                let owner = owner_of(&self.pipelines, "pipeline", pipeline)?;
                let rows = row.readings()?;
                let readings = What::Readings {
                    pipeline: owner.index,
                    filter: entry.filter.clone().unwrap_or_default(),
                    ran: row.slots.clone(),
                    rows,
                };
                (owner, readings)
            }
            (None, None) => return Err("it belongs to nobody".to_owned()),
        };
        let replay = Replay {
            row: entry.id,
            attempts: entry.attempts,
            order,
            careful: false,
            bytes: row.data.len(),
            what,
        };
        Ok((owner.worker, replay))
    }

    fn discard(&mut self, order: &OpenOrder, rows: &[QuarantinedRow]) -> Result<u64, Stop> {
        let rows: Vec<(u64, u32)> = rows
            .iter()
            .map(|row| (row.entry.id, row.entry.attempts))
            .collect();
        let sent = rows.len() as u64;
        self.tell(Orders::Discard {
            order: order.order,
            rows,
        })?;
        Ok(sent)
    }

    fn hand_over(&mut self, worker: usize, part: Vec<Replay>) -> Result<(), Stop> {
        let (workers, stop) = (&self.workers, &mut self.stop);
        self.runtime.block_on(async {
            tokio::select! {
                sent = workers[worker].send(part) => sent.map_err(|_| Stop::End),
                _ = stop.wait_for(|stop| *stop) => Err(Stop::End),
            }
        })
    }

    fn tell(&mut self, orders: Orders) -> Result<(), Stop> {
        let (inbox, stop) = (&self.inbox, &mut self.stop);
        self.runtime.block_on(async {
            tokio::select! {
                sent = inbox.send(ToWriter::Input(orders.into())) => sent.map_err(|_| Stop::End),
                _ = stop.wait_for(|stop| *stop) => Err(Stop::End),
            }
        })
    }

    /// Waits for a commit that makes something true.
    fn until(&mut self, holds: impl Fn(&Tried) -> bool) -> Result<(), Stop> {
        let (tried, stop) = (&mut self.tried, &mut self.stop);
        self.runtime.block_on(async {
            tokio::select! {
                waited = tried.wait_for(holds) => waited.map(drop).map_err(|_| Stop::End),
                _ = stop.wait_for(|stop| *stop) => Err(Stop::End),
            }
        })
    }

    fn pause(&mut self) -> Result<(), Stop> {
        let stop = &mut self.stop;
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => Ok(()),
                _ = stop.wait_for(|stop| *stop) => Err(Stop::End),
            }
        })
    }
}

/// Who can replay what belongs to a name.
///
/// # Errors
/// Why nobody can.
pub(crate) fn owner_of(
    owners: &HashMap<String, Owner>,
    kind: &str,
    name: &str,
) -> Result<Owner, String> {
    owners.get(name).copied().ok_or_else(|| {
        format!("{kind} `{name}` is not configured, or no pipeline reads it: configure it again, or drop the rows")
    })
}
