//! The life of alarms: raised, perhaps acknowledged, cleared; and what of it is told.
//!
//! A life begins when an alarm is raised and ends when it is cleared; raising it again begins a new one. Whoever
//! acknowledges it says that somebody knows, and it stays until it is cleared. Each change makes one item, unless there
//! are too many of them: an alarm that flaps, and a filter that raises more than anybody can read, are *flooding*. Then
//! changes are counted and not told; the begin and the end of it are, the end with the count. What an alarm came to
//! in a flood is told afterwards, at a pace, so that a receiver ends up knowing every alarm's state.
//!
//! Times that decide are monotonic: a step of the wall clock neither begins nor ends a flood.

mod machine;

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

pub use self::machine::Alarms;
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_millis<S: Serializer>(nanoseconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(crate::item::millis(*nanoseconds))
}
