//! The store: one SQLite file, one writer.
//!
//! Everything that a batch became commits in one transaction with `synchronous=FULL` (promise 1), together with the
//! counts that say so (promise 2). The open group is held in memory and written in one go, so that a failed commit is
//! retried as the same function of the same data; see [`Writer`].
//!
//! Nothing here spawns a thread or knows tokio: the caller owns the thread, the inbox and the clock.

mod alarms;
mod archive;
mod aside;
mod block;
mod books;
mod clock;
mod commands;
mod commit;
mod config;
mod disk;
mod evict;
#[cfg(feature = "test-faults")]
pub mod faults;
mod fetch;
mod gaps;
mod group;
mod history;
mod identities;
mod image;
mod input;
mod kept;
mod lock;
mod names;
mod num;
mod opening;
mod orders;
mod outbox;
mod place;
mod quarantine;
mod quarantined;
mod reader;
mod reserve;
mod rollouts;
mod salvage;
mod schema;
mod series;
mod setup;
mod state;
#[cfg(test)]
mod tests;
mod trouble;
mod unset;
mod verify;
mod windows;
mod writer;

pub use alarms::{ActiveAlarm, StaleSeries};
pub use archive::{HistoryBlock, HistoryRange, HistoryStep};
pub use aside::{SetAside, list as set_aside, mark_seen};
pub use config::{
    Full, Measures, PipelineConfig, Route, Send, SeriesAlarms, SilenceConfig, SourceSilence,
    StoreConfig, UplinkConfig,
};
pub use input::{
    AcknowledgeAlarms, AlarmStats, BackfillStats, ClockStats, ClockStep, ClosedSummary,
    CommandCounts, CommandInput, CommandStats, Committed, DetailStats, Event, Input, Orders,
    OutboxStats, SourceGap, StoreState, StoreStats, Todo,
};
pub use kept::{KeptBatch, KeptStep};
pub use lock::holder;
pub use opening::{Recovered, Store};
pub use quarantined::{Matching, OpenOrder, QuarantineEntry, QuarantinedRow, RowState};
pub use reader::{LatestReading, ReadError, Reader, RejectedEntry};
pub use reserve::available;
pub use salvage::{Part, SalvageError, Salvaged, salvage};
pub use schema::{OpenError, accept};
pub use trouble::CommitError;
pub use verify::{Difference, Recount, Recounter, Verification, VerifyError, integrity, verify};
pub use writer::Writer;
