//! Commands from the cloud: what may be asked, and reading it (README, "Commands").
//!
//! What comes in was written by somebody else: nothing is believed, every bound is checked, and whatever is wrong is said
//! in words that can be sent back.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::limits::SERIES_NAME_BYTES;
use crate::series::SeriesFilter;

/// The largest payload that is read.
pub const PAYLOAD_BYTES: usize = 64 * 1024;
/// Bytes of an id.
pub const ID_BYTES: usize = 64;
/// The longest `detail`: it sends every reading, and somebody may forget it.
pub const DETAIL: Duration = Duration::from_hours(24);
/// Readings that one `backfill` sends at most; a further one goes on from there.
pub const BACKFILL_READINGS: u64 = 1_000_000;
/// Commands of each uplink in a minute. What is beyond waits at the broker, unacknowledged.
pub const A_MINUTE: u32 = 60;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Send every reading of some series for a time.
    Detail,
    /// Send readings out of history.
    Backfill,
    /// Say how the gateway is.
    Report,
    /// Acknowledge alarms.
    Acknowledge,
    /// Go back to a module's last version.
    Rollback,
    /// Look at the repository of modules now.
    Update,
}

impl Name {
    /// All of them, in the order of their explanation.
    pub const ALL: [Self; 6] = [
        Self::Detail,
        Self::Backfill,
        Self::Report,
        Self::Acknowledge,
        Self::Rollback,
        Self::Update,
    ];

    /// The word in payloads and in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detail => "detail",
            Self::Backfill => "backfill",
            Self::Report => "report",
            Self::Acknowledge => "acknowledge",
            Self::Rollback => "rollback",
            Self::Update => "update",
        }
    }

    /// The command with that word.
    #[must_use]
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A command that means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Names it for ever: the same id is the same command.
    pub id: String,
    /// After this it is not to be carried out any more, milliseconds since the epoch.
    pub expires: Option<i64>,
    /// What to do.
    pub what: What,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// See [`Name::Detail`].
    Detail {
        /// Which series, as a glob that was checked.
        series: String,
        /// Of this pipeline alone.
        pipeline: Option<String>,
        /// Until when.
        until: Until,
    },
    /// See [`Name::Backfill`].
    Backfill {
        /// Which series, as a glob that was checked.
        series: String,
        /// Of this pipeline alone.
        pipeline: Option<String>,
        /// From this time on, milliseconds since the epoch.
        from: i64,
        /// Up to this time, not in it, likewise.
        to: i64,
        /// Readings at most.
        limit: u64,
    },
    /// See [`Name::Report`].
    Report,
    /// See [`Name::Acknowledge`].
    Acknowledge {
        /// Alarms of which series, as a glob that was checked.
        series: String,
        /// Of this pipeline.
        pipeline: Option<String>,
        /// Of this source.
        source: Option<String>,
        /// With this code.
        code: Option<String>,
        /// On whose behalf.
        by: Option<String>,
    },
    /// See [`Name::Rollback`].
    Rollback {
        /// Which module.
        module: String,
    },
    /// See [`Name::Update`].
    Update,
}

impl What {
    /// The command's name.
    #[must_use]
    pub fn name(&self) -> Name {
        match self {
            Self::Detail { .. } => Name::Detail,
            Self::Backfill { .. } => Name::Backfill,
            Self::Report => Name::Report,
            Self::Acknowledge { .. } => Name::Acknowledge,
            Self::Rollback { .. } => Name::Rollback,
            Self::Update => Name::Update,
        }
    }
}

/// The end of a `detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many seconds.
    Seconds(u64),
    /// At this time, milliseconds since the epoch.
    Time(i64),
}

impl Until {
    /// How long it is from `now` on, milliseconds since the epoch; `None` where it lies behind, or further ahead than
    /// [`DETAIL`].
    #[must_use]
    pub fn from(self, now: i64) -> Option<Duration> {
        let lasts = match self {
            Self::Seconds(seconds) => Duration::from_secs(seconds),
            Self::Time(time) => {
                let ahead = u64::try_from(time.checked_sub(now)?).ok()?;
                Duration::from_millis(ahead)
            }
        };
        (!lasts.is_zero() && lasts <= DETAIL).then_some(lasts)
    }
}

/// A payload that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The id, where one could be read: then an answer has somewhere to go.
    pub id: Option<String>,
    /// The command, as far as it is known.
    pub name: Option<Name>,
    /// What is wrong with it, and what would be right.
    pub text: String,
}

/// Reads a payload.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
pub fn parse(payload: &[u8]) -> Result<Command, Refusal> {
    let nameless = |text: String| Refusal {
        id: None,
        name: None,
        text,
    };
    if payload.len() > PAYLOAD_BYTES {
        let length = payload.len();
        return Err(nameless(format!(
            "the payload has {length} bytes, and {PAYLOAD_BYTES} are possible"
        )));
    }
    // The parser stops at 128 levels by itself.
    let value: Value = serde_json::from_slice(payload)
        .map_err(|error| nameless(format!("the payload is no JSON: {error}")))?;
    let Value::Object(keys) = value else {
        return Err(nameless("the payload is no JSON object".to_owned()));
    };
    let mut fields = Fields { keys };
    let id = fields.id().map_err(nameless)?;
    let mut name = None;
    fields.command(&id, &mut name).map_err(|text| Refusal {
        id: Some(id.clone()),
        name,
        text,
    })
}

/// The keys that were not looked at yet.
struct Fields {
    keys: Map<String, Value>,
}

impl Fields {
    fn id(&mut self) -> Result<String, String> {
        let help =
            format!("`id` must be a string of 1 to {ID_BYTES} bytes without control characters");
        match self.keys.remove("id") {
            Some(Value::String(id))
                if (1..=ID_BYTES).contains(&id.len()) && !id.chars().any(char::is_control) =>
            {
                Ok(id)
            }
            Some(_) | None => Err(help),
        }
    }

    fn command(mut self, id: &str, name: &mut Option<Name>) -> Result<Command, String> {
        let word = self.text("command")?.ok_or("`command` is missing")?;
        let found = Name::find(&word).ok_or_else(|| {
            let known = Name::ALL.map(Name::as_str).join(", ");
            format!("there is no command `{}`; there are {known}", shown(&word))
        })?;
        *name = Some(found);
        let expires = self.integer("expires")?;
        let what = match found {
            Name::Detail => What::Detail {
                series: self.series()?,
                pipeline: self.text("pipeline")?,
                until: self.until()?,
            },
            Name::Backfill => {
                let what = What::Backfill {
                    series: self.series()?,
                    pipeline: self.text("pipeline")?,
                    from: self.required("from")?,
                    to: self.required("to")?,
                    limit: self.limit()?,
                };
                if let What::Backfill { from, to, .. } = what
                    && from >= to
                {
                    return Err("`from` must lie before `to`".to_owned());
                }
                what
            }
            Name::Report => What::Report,
            Name::Acknowledge => What::Acknowledge {
                series: self.series()?,
                pipeline: self.text("pipeline")?,
                source: self.text("source")?,
                code: self.text("code")?,
                by: self.text("by")?,
            },
            Name::Rollback => What::Rollback {
                module: self.text("module")?.ok_or("`module` is missing")?,
            },
            Name::Update => What::Update,
        };
        if let Some(key) = self.keys.keys().next() {
            return Err(format!("`{}` is no key of `{found}`", shown(key)));
        }
        Ok(Command {
            id: id.to_owned(),
            expires,
            what,
        })
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.keys.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if (1..=SERIES_NAME_BYTES).contains(&text.len()) => {
                Ok(Some(text))
            }
            Some(_) => Err(format!(
                "`{key}` must be a string of 1 to {SERIES_NAME_BYTES} bytes"
            )),
        }
    }

    fn series(&mut self) -> Result<String, String> {
        let glob = self
            .text("series")?
            .ok_or("`series` is missing: a glob, `**` for all")?;
        SeriesFilter::new(std::slice::from_ref(&glob)).map_err(|error| error.to_string())?;
        Ok(glob)
    }

    fn integer(&mut self, key: &str) -> Result<Option<i64>, String> {
        match self.keys.remove(key) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| {
                format!("`{key}` must be whole milliseconds since 1970-01-01T00:00:00Z")
            }),
        }
    }

    fn required(&mut self, key: &str) -> Result<i64, String> {
        self.integer(key)?
            .ok_or_else(|| format!("`{key}` is missing: milliseconds since 1970-01-01T00:00:00Z"))
    }

    fn count(&mut self, key: &str, most: u64) -> Result<Option<u64>, String> {
        match self.keys.remove(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|count| (1..=most).contains(count))
                .map(Some)
                .ok_or_else(|| format!("`{key}` must be a whole number from 1 to {most}")),
        }
    }

    fn limit(&mut self) -> Result<u64, String> {
        Ok(self
            .count("limit", BACKFILL_READINGS)?
            .unwrap_or(BACKFILL_READINGS))
    }

    fn until(&mut self) -> Result<Until, String> {
        let seconds = self.count("seconds", DETAIL.as_secs())?;
        let time = self.integer("until")?;
        match (seconds, time) {
            (Some(seconds), None) => Ok(Until::Seconds(seconds)),
            (None, Some(time)) => Ok(Until::Time(time)),
            (None, None) | (Some(_), Some(_)) => Err(format!(
                "say either `seconds`, 1 to {}, or `until`, milliseconds since 1970-01-01T00:00:00Z",
                DETAIL.as_secs()
            )),
        }
    }
}

/// A word of a stranger's, short enough for an answer.
fn shown(word: &str) -> String {
    const CHARS: usize = 32;
    let mut shown: String = word.chars().take(CHARS).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    shown
}

/// How many commands may be carried out now: a bucket that fills evenly.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// In nanoseconds of credit.
    credit: u64,
    at: Duration,
}

impl Pace {
    const EACH: u64 = 60_000_000_000 / A_MINUTE as u64;
    const FULL: u64 = Self::EACH * A_MINUTE as u64;

    /// A full bucket. Times count from any moment, by a clock that goes forward.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            credit: Self::FULL,
            at: now,
        }
    }

    /// Takes one; otherwise says how long to wait for it.
    ///
    /// # Errors
    /// The time after which there will be one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let passed = u64::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.at = self.at.max(now);
        self.credit = self.credit.saturating_add(passed).min(Self::FULL);
        match self.credit.checked_sub(Self::EACH) {
            Some(rest) => {
                self.credit = rest;
                Ok(())
            }
            None => Err(Duration::from_nanos(Self::EACH - self.credit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(payload: &str, id: Option<&str>, part: &str) {
        let refusal = parse(payload.as_bytes()).unwrap_err();
        assert_eq!(refusal.id.as_deref(), id, "{payload}");
        assert!(refusal.text.contains(part), "{payload}\n{}", refusal.text);
        assert!(refusal.text.len() < 1024);
    }

    #[track_caller]
    fn reads(payload: &str, expect: What) {
        let command = parse(payload.as_bytes()).unwrap();
        assert_eq!(
            (command.id.as_str(), command.what),
            ("a", expect),
            "{payload}"
        );
    }

    #[test]
    fn commands_are_read() {
        reads(
            r#"{"id":"a","command":"detail","series":"plant/*/temp","seconds":1800}"#,
            What::Detail {
                series: "plant/*/temp".to_owned(),
                pipeline: None,
                until: Until::Seconds(1800),
            },
        );
        reads(
            r#"{"id":"a","command":"detail","series":"**","pipeline":"p","until":1766000000000}"#,
            What::Detail {
                series: "**".to_owned(),
                pipeline: Some("p".to_owned()),
                until: Until::Time(1_766_000_000_000),
            },
        );
        reads(
            r#"{"id":"a","command":"backfill","series":"**","from":1,"to":2,"limit":10}"#,
            What::Backfill {
                series: "**".to_owned(),
                pipeline: None,
                from: 1,
                to: 2,
                limit: 10,
            },
        );
        reads(r#"{"command":"report","id":"a"}"#, What::Report);
        reads(
            r#"{"id":"a","command":"acknowledge","series":"x","code":"spike","by":"Anna"}"#,
            What::Acknowledge {
                series: "x".to_owned(),
                pipeline: None,
                source: None,
                code: Some("spike".to_owned()),
                by: Some("Anna".to_owned()),
            },
        );
        reads(
            r#"{"id":"a","command":"rollback","module":"range"}"#,
            What::Rollback {
                module: "range".to_owned(),
            },
        );
        let expires = parse(br#"{"id":"a","command":"report","expires":5}"#)
            .unwrap()
            .expires;
        assert_eq!(expires, Some(5));
    }

    #[test]
    fn what_is_no_command_is_refused_in_words() {
        refused("", None, "no JSON");
        refused("garbage", None, "no JSON");
        refused("[1]", None, "no JSON object");
        refused(&"[".repeat(60_000), None, "recursion limit");
        refused(
            &format!("\"{}\"", "x".repeat(PAYLOAD_BYTES)),
            None,
            "65536 are possible",
        );
        refused("{}", None, "`id` must be");
        refused(r#"{"id":7,"command":"report"}"#, None, "`id` must be");
        refused(
            r#"{"id":"a\u0007","command":"report"}"#,
            None,
            "`id` must be",
        );
        refused(
            &format!(r#"{{"id":"{}"}}"#, "x".repeat(65)),
            None,
            "1 to 64",
        );
        refused(r#"{"id":"a"}"#, Some("a"), "`command` is missing");
        refused(
            r#"{"id":"a","command":["report"]}"#,
            Some("a"),
            "`command` must be a string",
        );
        refused(
            r#"{"id":"a","command":"reboot"}"#,
            Some("a"),
            "no command `reboot`; there are detail,",
        );
        refused(
            &format!(r#"{{"id":"a","command":"{}"}}"#, "é".repeat(200)),
            Some("a"),
            "…`",
        );
        refused(
            r#"{"id":"a","command":"report","series":"x"}"#,
            Some("a"),
            "`series` is no key of `report`",
        );
        refused(
            r#"{"id":"a","command":"detail","seconds":1}"#,
            Some("a"),
            "`series` is missing",
        );
        refused(
            r#"{"id":"a","command":"detail","series":"[","seconds":1}"#,
            Some("a"),
            "no series glob",
        );
        refused(
            r#"{"id":"a","command":"detail","series":"x"}"#,
            Some("a"),
            "say either `seconds`",
        );
        refused(
            r#"{"id":"a","command":"detail","series":"x","seconds":1,"until":2}"#,
            Some("a"),
            "say either",
        );
        refused(
            r#"{"id":"a","command":"detail","series":"x","seconds":86401}"#,
            Some("a"),
            "from 1 to 86400",
        );
        refused(
            r#"{"id":"a","command":"detail","series":"x","seconds":-1}"#,
            Some("a"),
            "from 1 to 86400",
        );
        refused(
            r#"{"id":"a","command":"backfill","series":"x","from":1}"#,
            Some("a"),
            "`to` is missing",
        );
        refused(
            r#"{"id":"a","command":"backfill","series":"x","from":2,"to":2}"#,
            Some("a"),
            "before `to`",
        );
        refused(
            r#"{"id":"a","command":"backfill","series":"x","from":1.5,"to":2}"#,
            Some("a"),
            "whole milliseconds",
        );
        refused(
            r#"{"id":"a","command":"backfill","series":"x","from":1,"to":2,"limit":0}"#,
            Some("a"),
            "1 to 1000000",
        );
        refused(
            r#"{"id":"a","command":"rollback"}"#,
            Some("a"),
            "`module` is missing",
        );
        refused(
            r#"{"id":"a","command":"report","expires":"soon"}"#,
            Some("a"),
            "`expires` must be",
        );
    }

    #[test]
    fn a_detail_ends_within_a_day() {
        let now = 1_766_000_000_000;
        let lasts = |until: Until| until.from(now).map(|lasts| lasts.as_millis());
        assert_eq!(lasts(Until::Seconds(5)), Some(5_000));
        assert_eq!(lasts(Until::Time(now + 5)), Some(5));
        assert_eq!(lasts(Until::Time(now)), None);
        assert_eq!(lasts(Until::Time(i64::MIN)), None);
        assert_eq!(lasts(Until::Time(now + 86_400_000)), Some(86_400_000));
        assert_eq!(lasts(Until::Time(now + 86_400_001)), None);
        assert_eq!(lasts(Until::Time(i64::MAX)), None);
    }

    #[test]
    fn sixty_commands_a_minute_and_then_one_a_second() {
        let mut pace = Pace::new(Duration::ZERO);
        let now = Duration::from_secs(9);
        for _ in 0..A_MINUTE {
            assert_eq!(pace.take(now), Ok(()));
        }
        assert_eq!(pace.take(now), Err(Duration::from_secs(1)));
        // A clock that goes back gives nothing.
        assert_eq!(pace.take(Duration::ZERO), Err(Duration::from_secs(1)));
        assert_eq!(
            pace.take(now + Duration::from_millis(600)),
            Err(Duration::from_millis(400))
        );
        assert_eq!(pace.take(now + Duration::from_secs(1)), Ok(()));
        assert!(pace.take(now + Duration::from_secs(1)).is_err());
    }

    /// JSON that is nearly a command, so that chance gets past the first check.
    fn nearly() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("\"a\"".to_owned()),
            Just("1".to_owned()),
            Just("null".to_owned()),
            "\"\\PC{0,8}\"",
            "-?[0-9]{1,20}",
            "[\\[\\]{}\",:0-9a-z]{0,12}",
        ];
        let key = prop_oneof![
            Just("id"),
            Just("command"),
            Just("series"),
            Just("from"),
            Just("to"),
            Just("seconds"),
            Just("until"),
            Just("limit"),
            Just("module"),
            Just("x"),
        ];
        let command = prop_oneof![
            Just("detail"),
            Just("backfill"),
            Just("report"),
            Just("acknowledge"),
            Just("rollback"),
            Just("x"),
        ];
        let fields = prop::collection::vec((key, value), 0..5);
        (command, fields).prop_map(|(command, fields)| {
            let fields: String = fields
                .iter()
                .map(|(key, value)| format!(",\"{key}\":{value}"))
                .collect();
            format!("{{\"id\":\"a\",\"command\":\"{command}\"{fields}}}")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Err(refusal) = parse(&bytes) {
                prop_assert!(!refusal.text.is_empty());
            }
        }

        #[test]
        fn what_is_nearly_a_command_is_read_or_refused(text in nearly()) {
            match parse(text.as_bytes()) {
                Ok(command) => prop_assert!(command.id.len() <= ID_BYTES),
                Err(refusal) => prop_assert!(!refusal.text.is_empty() && refusal.text.len() < 2048, "{}", refusal.text),
            }
        }
    }
}
