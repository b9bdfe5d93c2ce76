//! What goes up the line: the items of uplink payload version 1 (README, "Uplink payload").
//!
//! An item is encoded once, as JSON, in the transaction that creates it; a sealed message is its envelope around
//! encoded items. Times are milliseconds since the epoch. Absent keys mean the usual.
//!
//! Where the gateway's clock was not set, an item carries `boot` and `mono`: the time by the monotonic clock of that boot, in
//! milliseconds. An event `clock-set` of the same boot gives the offset that makes it a time since the epoch.

use serde::{Deserialize, Serialize};

use crate::alarm;
use crate::outcome::Severity;

/// What a sealed message carries; `{kind}` in the uplink's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ItemKind {
    /// Alarms raised, acknowledged and cleared.
    Alarm = 0,
    /// Losses, with range and reason.
    Gap = 1,
    /// Things that happened to the gateway.
    Event = 2,
    /// Closed windows.
    Summary = 3,
    /// Single readings.
    Readings = 4,
    /// Answers to commands.
    Reply = 5,
}

impl ItemKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Alarm,
        Self::Gap,
        Self::Event,
        Self::Summary,
        Self::Readings,
        Self::Reply,
    ];

    /// The word in payload and topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Gap => "gap",
            Self::Event => "event",
            Self::Summary => "summary",
            Self::Readings => "readings",
            Self::Reply => "reply",
        }
    }
}

/// Which items leave first and are given up last. The order of the variants is the order of importance.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Priority {
    /// Given up first.
    Low = 0,
    /// What a route has unless it says otherwise.
    #[default]
    Normal = 1,
    /// Before normal; also gaps and events.
    High = 2,
    /// Alarms alone: first to leave, last to go.
    Alarm = 3,
}

/// One item of a payload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Item<'a> {
    /// A closed window.
    Summary(SummaryItem<'a>),
    /// A single reading.
    Reading(ReadingItem<'a>),
    /// An alarm's change.
    Alarm(AlarmItem<'a>),
    /// A recorded loss.
    Gap(GapItem),
    /// Something that happened to the gateway.
    Event(EventItem<'a>),
    /// An answer to a command.
    Reply(ReplyItem<'a>),
}

impl Item<'_> {
    /// The item as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // No map with keys other than strings and no failing serializer is among the items, so that this cannot fail;
        // were it to, an empty object keeps the payload valid and the item counted.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// A closed window of one series: `from <= time < to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SummaryItem<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The series' name.
    pub series: &'a str,
    /// What is measured, as configured in `[series."…"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<&'a str>,
    /// Begin of the window.
    pub from: i64,
    /// End of the window, not in it.
    pub to: i64,
    /// The statistics.
    #[serde(flatten)]
    pub stats: Stats,
    /// A supplement: to be added to what went up for the same window before.
    #[serde(skip_serializing_if = "is_false")]
    pub late: bool,
    /// The clock was stepped while the window was open; it ends there.
    #[serde(skip_serializing_if = "is_false")]
    pub stepped: bool,
    /// Readings of the window were evicted before a crash forced its reconstruction.
    #[serde(skip_serializing_if = "is_false")]
    pub incomplete: bool,
    /// Where the gateway's clock was not set: the boot by whose clock the times are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<&'a str>,
    /// Then also: `from` by the monotonic clock of that boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mono: Option<i64>,
}

/// Statistics of a window. Those over numbers are `null` where the window holds no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// All readings of the window.
    pub count: u64,
    /// Readings among them without a usable number: texts, not finite, or of bad quality. They are in `count` alone.
    #[serde(skip_serializing_if = "is_zero")]
    pub unusable: u64,
    /// Least value.
    pub min: Option<f64>,
    /// Greatest value.
    pub max: Option<f64>,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Population standard deviation.
    pub stddev: Option<f64>,
    /// The value with the least time.
    pub first: Option<f64>,
    /// The value with the greatest time.
    pub last: Option<f64>,
    /// Median, within the sketch's error.
    pub p50: Option<f64>,
    /// 95th percentile, within the sketch's error.
    pub p95: Option<f64>,
}

/// A single reading.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadingItem<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The series' name.
    pub series: &'a str,
    /// What is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<&'a str>,
    /// When.
    pub time: i64,
    /// A number, a boolean, a text, or `null` for what is not finite.
    pub value: JsonValue<'a>,
    /// Absent when good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<&'static str>,
    /// The id of the command `detail` that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// The id of the command `backfill` that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<&'a str>,
    /// Where the gateway's clock was not set: the boot by whose clock the times are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<&'a str>,
    /// Then also: `time` by the monotonic clock of that boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mono: Option<i64>,
}

/// A reading's value in JSON; 64-bit integers stay whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum JsonValue<'a> {
    /// A finite double.
    Float(f64),
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// Not finite.
    Null(()),
}

impl<'a> From<crate::Value<'a>> for JsonValue<'a> {
    fn from(value: crate::Value<'a>) -> Self {
        match value {
            crate::Value::Float(value) if value.is_finite() => Self::Float(value),
            crate::Value::Float(_) => Self::Null(()),
            crate::Value::Int(value) => Self::Int(value),
            crate::Value::Bool(value) => Self::Bool(value),
            crate::Value::Text(value) => Self::Text(value),
        }
    }
}

/// An alarm's change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlarmItem<'a> {
    /// The source's name, where the gateway itself found something at a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    /// The pipeline's name, where one of its filters raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<&'a str>,
    /// The series' name.
    pub series: &'a str,
    /// The causing reading's time; of an acknowledgement, when that was given.
    pub time: i64,
    /// How grave.
    pub severity: Severity,
    /// Short and stable.
    pub code: &'a str,
    /// For people.
    pub text: &'a str,
    /// The causing value, where it is a number.
    pub value: Option<f64>,
    /// Raised, acknowledged or cleared.
    pub state: alarm::State,
    /// Who acknowledged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<&'a str>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<i64>,
    /// It changes too often: from `begin` to `end` changes are counted and not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<alarm::Mark>,
    /// Changes before this one that were not sent.
    #[serde(skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// The chain that raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<&'a str>,
    /// Where the gateway's clock was not set: the boot by whose clock the times are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<&'a str>,
    /// Then also: `time` by the monotonic clock of that boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mono: Option<i64>,
}

/// A recorded loss: it says what will never arrive, so that nobody waits for it or takes silence for health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GapItem {
    /// The source, where the loss happened before any pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Earliest time that is missing.
    pub from: i64,
    /// Latest time that is missing.
    pub to: i64,
    /// How many items or readings; `null` where nobody knows.
    pub count: Option<u64>,
    /// One of [`crate::outcome::reason`].
    pub reason: String,
    /// First of the sealed messages that will never come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_from: Option<u64>,
    /// Last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_to: Option<u64>,
}

/// Something that happened to the gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventItem<'a> {
    /// When.
    pub time: i64,
    /// Short and stable.
    pub code: &'a str,
    /// For people.
    pub text: &'a str,
    /// Details for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// Where the gateway's clock was not set: the boot by whose clock the times are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<&'a str>,
    /// Then also: `time` by the monotonic clock of that boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mono: Option<i64>,
}

/// An answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplyItem<'a> {
    /// The command's id.
    pub id: &'a str,
    /// Its name, as far as it was understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'a str>,
    /// When.
    pub time: i64,
    /// What it came to.
    pub status: ReplyStatus,
    /// For people.
    pub text: &'a str,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyStatus {
    /// It is at work; more follows.
    Accepted,
    /// It is still at work.
    Progress,
    /// It is done.
    Done,
    /// It was not done, and changed nothing.
    Error,
}

/// Milliseconds of a time in nanoseconds, rounded down.
#[must_use]
pub fn millis(nanoseconds: i64) -> i64 {
    nanoseconds.div_euclid(1_000_000)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_one_of_the_published_example() {
        let item = Item::Summary(SummaryItem {
            pipeline: "temperature",
            series: "plant/line1/temp",
            from: 1_766_000_000_000,
            to: 1_766_000_060_000,
            stats: Stats {
                count: 60,
                min: Some(20.9),
                max: Some(22.4),
                mean: Some(21.6),
                stddev: Some(0.3),
                first: Some(21.0),
                last: Some(21.7),
                p50: Some(21.6),
                p95: Some(22.2),
                ..Stats::default()
            },
            ..SummaryItem::default()
        });
        assert_eq!(
            item.to_json(),
            r#"{"pipeline":"temperature","series":"plant/line1/temp","from":1766000000000,"to":1766000060000,"count":60,"min":20.9,"max":22.4,"mean":21.6,"stddev":0.3,"first":21.0,"last":21.7,"p50":21.6,"p95":22.2}"#
        );
    }

    #[test]
    fn integers_stay_whole_and_what_is_not_finite_is_null() {
        let json = |value| serde_json::to_string(&JsonValue::from(value)).unwrap_or_default();
        assert_eq!(json(crate::Value::Int(i64::MAX)), "9223372036854775807");
        assert_eq!(json(crate::Value::Float(f64::NAN)), "null");
        assert_eq!(json(crate::Value::Bool(true)), "true");
        assert_eq!(json(crate::Value::Text("a\"b")), r#""a\"b""#);
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(millis(-1), -1);
        assert_eq!(millis(1_999_999), 1);
    }
}
