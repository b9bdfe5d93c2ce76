//! The one judge of all cases. It knows what independent sensors sent and what an independent receiver got, and
//! nothing of how the daemon works; of the daemon it takes the ledger alone, to see whether it tells the same story.
//!
//! Readings go through two pipelines: `raw` sends each of them, `sums` sends their windows. So:
//! - what was sent is received or in a declared gap, and what is received was sent; where the daemon was killed, a message
//!   that was under its hands time and again may be in quarantine instead, which must then have this very message
//! - a reading comes twice only where a message was delivered to the daemon twice, and never from a source that gives its
//!   messages an identity
//! - every command that the broker took is answered, and always in the same words
//! - a sealed message is the same whenever it comes, and numbers are dense but for those in gaps
//! - the readings of a source come in its order
//! - windows and supplements, added up, are those of the readings; where room was short and the daemon was killed, one may
//!   say that it is incomplete, and hold less
//! - the ledger balances, matches the rows, and tells the same counts; nothing waits

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde_json::Value;

use crate::support::feed::Sent;

/// Everything that happened to one gateway, from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// By source, in its order. All of it was acknowledged to the sensor.
    pub(crate) sent: BTreeMap<String, Vec<Sent>>,
    /// By source: messages that the sensor may have sent twice.
    pub(crate) resent: BTreeMap<String, u64>,
    /// What the receiver got, in order of arrival.
    pub(crate) received: Vec<Message>,
    /// Sources that give each message an identity.
    pub(crate) identified: BTreeSet<String>,
    /// By source: the numbers of the messages that are in quarantine in the end.
    pub(crate) quarantined: BTreeMap<String, BTreeSet<u64>>,
    /// The ids of the commands that the cloud's broker took.
    pub(crate) commands: Vec<String>,
    /// Canaries cut batches in two by series: order holds within each series, not across those of a source.
    pub(crate) split: bool,
    /// How often the daemon was killed.
    pub(crate) kills: u64,
    /// Series for which an alarm must have come.
    pub(crate) alarms: BTreeSet<String>,
    /// Exit code and output of `tidegate ledger --verify`.
    pub(crate) verified: (i32, Value),
    /// Length of the windows, milliseconds.
    pub(crate) window: i64,
    /// By source, where the database was replaced: the number from which on nothing can have been in the old one. Counts
    /// tell of what came later alone.
    pub(crate) replaced: BTreeMap<String, u64>,
}

impl History {
    fn is_replaced(&self) -> bool {
        !self.replaced.is_empty()
    }
}

/// A numbered message as the receiver got it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) kind: String,
    pub(crate) items: Vec<Value>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Violation {
    Lost {
        source: String,
        numbers: Vec<u64>,
    },
    Invented {
        item: String,
    },
    Doubled {
        source: String,
        twice: u64,
        bound: u64,
    },
    Changed {
        stream: String,
        seq: u64,
    },
    Hole {
        stream: String,
        seqs: Vec<u64>,
    },
    Reordered {
        source: String,
        n: u64,
        after: u64,
    },
    Window {
        series: String,
        from: i64,
        problem: String,
    },
    Alarms {
        missing: Vec<String>,
    },
    Commands {
        problem: String,
    },
    Ledger {
        problem: String,
    },
}

/// What a sound history came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) sent: u64,
    pub(crate) twice: u64,
    pub(crate) in_gaps: u64,
    pub(crate) quarantined: u64,
    pub(crate) windows: u64,
    pub(crate) messages_again: u64,
    pub(crate) commands: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            twice,
            in_gaps,
            quarantined,
            windows,
            messages_again,
            commands,
        } = self;
        write!(
            f,
            "{sent} sent, {twice} twice, {in_gaps} in gaps, {quarantined} quarantined, {windows} windows, \
             {messages_again} messages again, {commands} commands"
        )
    }
}

/// Judges a history.
pub(crate) fn judge(history: &History) -> Result<Verdict, Vec<Violation>> {
    let mut judge = Judge {
        history,
        messages: BTreeMap::new(),
        violations: Vec::new(),
        verdict: Verdict::default(),
    };
    judge.messages();
    judge.holes();
    judge.readings();
    judge.windows();
    judge.alarms();
    judge.commands();
    judge.ledger();
    if judge.violations.is_empty() {
        Ok(judge.verdict)
    } else {
        Err(judge.violations)
    }
}

struct Judge<'a> {
    history: &'a History,
    /// Each message once, by stream in order of its first arrival, then by number.
    messages: BTreeMap<(usize, u64), &'a Message>,
    violations: Vec<Violation>,
    verdict: Verdict,
}

/// Losses that gap items tell of, for one pipeline.
#[derive(Default)]
struct Told {
    count: u64,
    /// A gap whose size nobody knows.
    unknown: bool,
    spans: Vec<(i64, i64)>,
}

impl Told {
    fn covers(&self, time: i64) -> bool {
        self.spans
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&time))
    }
}

impl<'a> Judge<'a> {
    fn messages(&mut self) {
        let mut streams = Vec::new();
        for message in &self.history.received {
            let known = streams.iter().position(|stream| *stream == &message.stream);
            let stream = known.unwrap_or_else(|| {
                streams.push(&message.stream);
                streams.len() - 1
            });
            match self.messages.insert((stream, message.seq), message) {
                Some(before)
                    if (&before.kind, &before.items) != (&message.kind, &message.items) =>
                {
                    self.violations.push(Violation::Changed {
                        stream: message.stream.clone(),
                        seq: message.seq,
                    });
                }
                Some(_) => self.verdict.messages_again += 1,
                None => {}
            }
        }
        if streams.len() > 1 && !self.history.is_replaced() {
            self.ledger_problem(format!("{} streams of one database", streams.len()));
        }
    }

    fn items(&self, kind: &str, pipeline: &str) -> Vec<&'a Value> {
        let of_kind = self
            .messages
            .values()
            .filter(|message| message.kind == kind);
        let items = of_kind.flat_map(|message| &message.items);
        items.filter(|item| item["pipeline"] == pipeline).collect()
    }

    fn told(&self, pipeline: &str) -> Told {
        let mut told = Told::default();
        let gaps = self
            .messages
            .values()
            .filter(|message| message.kind == "gap");
        for gap in gaps.flat_map(|message| &message.items) {
            // A gap without a pipeline is of everything.
            if gap["pipeline"]
                .as_str()
                .is_some_and(|name| name != pipeline)
            {
                continue;
            }
            match gap["count"].as_u64() {
                Some(count) => told.count += count,
                None => told.unknown = true,
            }
            let bound = |key: &str| gap[key].as_i64().unwrap_or_default();
            told.spans.push((bound("from"), bound("to")));
        }
        told
    }

    fn holes(&mut self) {
        let mut streams: BTreeMap<usize, (&str, BTreeSet<u64>, Vec<(u64, u64)>)> = BTreeMap::new();
        for ((stream, seq), message) in &self.messages {
            let (_, seqs, named) = streams
                .entry(*stream)
                .or_insert_with(|| (&message.stream, BTreeSet::new(), Vec::new()));
            seqs.insert(*seq);
            for item in &message.items {
                if let (Some(from), Some(to)) = (item["seq_from"].as_u64(), item["seq_to"].as_u64())
                {
                    named.push((from, to));
                }
            }
        }
        let last = streams.len().saturating_sub(1);
        for (index, (stream, seqs, named)) in streams {
            // Of a database that was set aside, what waited is gone, and a gap without numbers says so.
            if self.history.is_replaced() && index < last {
                continue;
            }
            let end = seqs.last().copied().unwrap_or(0);
            let holes: Vec<u64> = (1..=end)
                .filter(|seq| !seqs.contains(seq))
                .filter(|seq| !named.iter().any(|(from, to)| (from..=to).contains(&seq)))
                .collect();
            if !holes.is_empty() {
                let stream = stream.to_owned();
                self.violations.push(Violation::Hole {
                    stream,
                    seqs: holes,
                });
            }
        }
    }

    fn readings(&mut self) {
        let mut by_series: HashMap<&str, &str> = HashMap::new();
        for (source, sent) in &self.history.sent {
            for sent in sent {
                by_series.insert(&sent.series, source);
            }
        }
        let mut seen: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
        let items = self.items("readings", "raw");
        for item in &items {
            let source = item["series"]
                .as_str()
                .and_then(|series| by_series.get(series));
            let known = source.zip(item["value"].as_u64()).filter(|(source, n)| {
                let sent = usize::try_from(*n)
                    .ok()
                    .and_then(|n| self.history.sent[**source].get(n));
                sent.is_some_and(|sent| item["series"] == *sent.series && item["time"] == sent.time)
            });
            let Some((source, n)) = known else {
                self.violations.push(Violation::Invented {
                    item: item.to_string(),
                });
                continue;
            };
            let times = seen.entry(source).or_default().entry(n).or_default();
            *times += 1;
            if *times == 1 {
                let series = item["series"].as_str().unwrap_or_default();
                let within = if self.history.split { series } else { *source };
                let latest = latest.entry(within).or_insert(n);
                if n < *latest {
                    let (source, after) = ((*source).to_owned(), *latest);
                    self.violations
                        .push(Violation::Reordered { source, n, after });
                }
                *latest = (*latest).max(n);
            }
        }
        let told = self.told("raw");
        let mut missing_in_all = 0;
        for (source, sent) in &self.history.sent {
            let seen = seen.remove(source.as_str()).unwrap_or_default();
            self.verdict.sent += sent.len() as u64;
            let missing: Vec<&Sent> = sent
                .iter()
                .filter(|sent| !seen.contains_key(&sent.n))
                .collect();
            // A payload is set aside at its fourth attempt, so that it takes kills to get there.
            let aside = self.history.quarantined.get(source);
            let aside = aside.filter(|_| self.history.kills >= 3);
            let (aside, missing): (Vec<&Sent>, Vec<&Sent>) = missing
                .into_iter()
                .partition(|sent| aside.is_some_and(|numbers| numbers.contains(&sent.n)));
            self.verdict.quarantined += aside.len() as u64;
            missing_in_all += missing.len() as u64;
            // What waited in a database that was replaced is told as a gap of unknown size; it excuses nothing that came later.
            let later = self.history.replaced.get(source);
            let excused = |sent: &Sent| match later {
                Some(&from) => told.unknown && sent.n < from,
                None => told.unknown || told.covers(sent.time),
            };
            let lost: Vec<u64> = (missing.iter())
                .filter(|sent| !excused(sent))
                .map(|sent| sent.n)
                .collect();
            if !lost.is_empty() {
                let (source, numbers) = (source.clone(), lost);
                self.violations.push(Violation::Lost { source, numbers });
            }
            let twice: u64 = seen.values().map(|times| times - 1).sum();
            let counted = self.count(&["sources", source, "redelivered"]);
            let resent = self.history.resent.get(source).copied().unwrap_or(0);
            let identified = self.history.identified.contains(source);
            let bound = if identified { 0 } else { counted + resent };
            if twice > bound && !self.history.is_replaced() {
                let source = source.clone();
                self.violations.push(Violation::Doubled {
                    source,
                    twice,
                    bound,
                });
            }
            self.verdict.twice += twice;
        }
        self.verdict.in_gaps = missing_in_all;
        if missing_in_all > told.count && !told.unknown {
            self.ledger_problem(format!(
                "{missing_in_all} readings are missing, and gaps tell of {}",
                told.count
            ));
        }
        if !self.history.is_replaced() {
            self.add_up("raw", items.len() as u64, told.count);
        }
    }

    /// What a pipeline stored was sent up, or is in gaps. Where an acknowledgement got lost a message can be both.
    fn add_up(&mut self, pipeline: &str, received: u64, told: u64) {
        let stored = self.count(&["pipelines", pipeline, "stored"]);
        let all: u64 = self
            .messages
            .values()
            .map(|message| message.items.len() as u64)
            .sum();
        let both = all.saturating_sub(self.count(&["uplinks", "cloud", "delivered"]));
        if !(stored..=stored + both).contains(&(received + told)) {
            self.ledger_problem(format!(
                "pipeline {pipeline} stored {stored}, and {received} came and {told} are in gaps"
            ));
        }
    }

    fn windows(&mut self) {
        let window = self.history.window;
        let mut want: BTreeMap<(&str, i64), Sum> = BTreeMap::new();
        let mut add = |series: &'a str, time: i64, value: f64| {
            let from = time.div_euclid(window) * window;
            want.entry((series, from))
                .or_default()
                .add(&Sum::one(value));
        };
        // Every message went through both pipelines, so that what came of one must have come of the other. What is in
        // gaps is known from the sensor instead.
        let raw = self.told("raw");
        if raw.count == 0 && !raw.unknown {
            for item in self.items("readings", "raw") {
                let (series, time) = (item["series"].as_str(), item["time"].as_i64());
                if let (Some(series), Some(time), Some(value)) =
                    (series, time, item["value"].as_f64())
                {
                    add(series, time, value);
                }
            }
        } else {
            for sent in self.history.sent.values().flatten() {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                add(&sent.series, sent.time, sent.n as f64);
            }
        }
        let mut got: BTreeMap<(&str, i64), Sum> = BTreeMap::new();
        let mut incomplete = BTreeSet::new();
        let evicted = self.count(&["pipelines", "sums", "evicted"]);
        let mut ordinary = BTreeSet::new();
        let mut count = 0;
        for item in self.items("summary", "sums") {
            self.verdict.windows += 1;
            let series = item["series"].as_str().unwrap_or_default();
            let from = item["from"].as_i64().unwrap_or_default();
            let mut wrong = |problem: String| {
                let series = series.to_owned();
                self.violations.push(Violation::Window {
                    series,
                    from,
                    problem,
                });
            };
            if item["to"] != from + window {
                wrong(format!("another length: {item}"));
            }
            if item["late"] != true && !ordinary.insert((series, from)) {
                wrong("went up twice, and the second is no supplement".to_owned());
            }
            if item["incomplete"] == true {
                incomplete.insert((series, from));
                if self.history.kills == 0 || evicted == 0 {
                    wrong("incomplete, and nothing was given up before a kill".to_owned());
                }
                if item["count"] == 0 {
                    continue;
                }
            }
            let Some(sum) = Sum::of(item) else {
                wrong(format!("statistics are missing: {item}"));
                continue;
            };
            count += sum.count;
            got.entry((series, from)).or_default().add(&sum);
        }
        let told = self.told("sums");
        if self.history.is_replaced() {
            return;
        }
        if told.count == 0 {
            let stored = self.count(&["pipelines", "sums", "stored"]);
            let given_up = if incomplete.is_empty() { 0 } else { evicted };
            if !(count..=count + given_up).contains(&stored) {
                self.ledger_problem(format!(
                    "pipeline sums stored {stored}, and windows hold {count}"
                ));
            }
        }
        let keys: BTreeSet<(&str, i64)> = want.keys().chain(got.keys()).copied().collect();
        for (series, from) in keys {
            let partly = incomplete.contains(&(series, from));
            let problem = match (want.get(&(series, from)), got.get(&(series, from))) {
                (Some(_), None) if partly => continue,
                (Some(want), Some(got)) if partly && got.count <= want.count => continue,
                (Some(_), None) if told.covers(from) => continue,
                (Some(want), None) => format!("is missing, with {want:?}"),
                (None, _) => "nobody sent anything in it".to_owned(),
                (Some(want), Some(got)) if told.covers(from) && got.count < want.count => continue,
                (Some(want), Some(got)) if got.equals(want) => continue,
                (Some(want), Some(got)) => format!("{got:?} instead of {want:?}"),
            };
            let series = series.to_owned();
            self.violations.push(Violation::Window {
                series,
                from,
                problem,
            });
        }
    }

    fn alarms(&mut self) {
        let alarms = self
            .messages
            .values()
            .filter(|message| message.kind == "alarm");
        let came: BTreeSet<&str> = alarms
            .flat_map(|message| &message.items)
            .filter(|item| item["state"] == "raised")
            .filter_map(|item| item["series"].as_str())
            .collect();
        let missing: Vec<String> = (self.history.alarms.iter())
            .filter(|series| !came.contains(series.as_str()))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.violations.push(Violation::Alarms { missing });
        }
    }

    /// A command comes to the daemon as often as a connection breaks, and takes effect once: its second answer is the first.
    fn commands(&mut self) {
        if self.history.is_replaced() {
            return;
        }
        let mut answers: BTreeMap<&str, &Value> = BTreeMap::new();
        let replies = self.messages.values();
        let replies = replies.filter(|message| message.kind == "reply");
        for reply in replies.flat_map(|message| &message.items) {
            let id = reply["id"].as_str().unwrap_or_default();
            let first = *answers.entry(id).or_insert(reply);
            if first != reply {
                let problem = format!("{id} was answered in two ways: {first} and {reply}");
                self.violations.push(Violation::Commands { problem });
            }
            if reply["status"] != "done" {
                let problem = format!("{id} was refused: {reply}");
                self.violations.push(Violation::Commands { problem });
            }
        }
        for id in &self.history.commands {
            self.verdict.commands += 1;
            if !answers.contains_key(id.as_str()) {
                let problem = format!("{id} was never answered");
                self.violations.push(Violation::Commands { problem });
            }
        }
    }

    fn ledger(&mut self) {
        let (code, report) = &self.history.verified;
        if *code != 0 || report["balanced"] != true {
            self.ledger_problem(format!("it does not balance, exit code {code}: {report}"));
        }
        for (count, what) in [("waiting", "wait"), ("rejected", "were refused")] {
            let items = self.count(&["uplinks", "cloud", count]);
            if items != 0 {
                self.ledger_problem(format!("{items} items {what} at the end"));
            }
        }
        if self.history.is_replaced() {
            return;
        }
        let delivered = self.count(&["uplinks", "cloud", "delivered"]);
        let evicted = self.count(&["uplinks", "cloud", "evicted"]);
        let came: u64 = self
            .messages
            .values()
            .map(|message| message.items.len() as u64)
            .sum();
        if !(delivered..=delivered + evicted).contains(&came) {
            self.ledger_problem(format!(
                "{delivered} items count as delivered and {evicted} as evicted, and {came} came"
            ));
        }
        for (source, sent) in &self.history.sent {
            let received = self.count(&["sources", source, "received"]);
            if received < sent.len() as u64 {
                let sent = sent.len();
                self.ledger_problem(format!("source {source} received {received} of {sent}"));
            }
        }
    }

    fn count(&self, path: &[&str]) -> u64 {
        let report = &self.history.verified.1;
        let found = path.iter().fold(report, |value, key| &value[*key]);
        found.as_u64().unwrap_or(0)
    }

    fn ledger_problem(&mut self, problem: String) {
        self.violations.push(Violation::Ledger { problem });
    }
}

/// What adds up over the pieces of a window.
#[derive(Debug)]
struct Sum {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Sum {
    fn one(value: f64) -> Self {
        Self {
            count: 1,
            sum: value,
            min: value,
            max: value,
        }
    }

    /// Of a summary item; `None` where it is not whole.
    fn of(item: &Value) -> Option<Self> {
        let number = |key: &str| item[key].as_f64();
        let count = item["count"].as_u64()?;
        let (first, last) = (number("first")?, number("last")?);
        let (min, max) = (number("min")?, number("max")?);
        if !(min..=max).contains(&first) || !(min..=max).contains(&last) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let sum = number("mean")? * count as f64;
        Some(Self {
            count,
            sum,
            min,
            max,
        })
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn equals(&self, other: &Self) -> bool {
        (self.count, self.min, self.max) == (other.count, other.min, other.max)
            && (self.sum - other.sum).abs() <= 1e-6 * other.sum.abs().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WINDOW: i64 = 1000;

    /// Two sources of twenty readings, everything as it should be.
    fn sound() -> History {
        let mut history = History {
            window: WINDOW,
            verified: (0, json!({"balanced": true})),
            ..History::default()
        };
        for (source, series) in [("plant", "plant/a/n"), ("hall", "hall/b/n")] {
            let sent: Vec<Sent> = (0..20)
                .map(|n| Sent {
                    n,
                    series: series.to_owned(),
                    time: 10_000 + 100 * i64::try_from(n).unwrap(),
                })
                .collect();
            for readings in sent.chunks(5) {
                let items = readings.iter().map(|sent| {
                    json!({"pipeline": "raw", "series": series, "time": sent.time, "value": sent.n})
                });
                push(&mut history, "readings", items.collect());
            }
            let windows = sent.chunks(10).map(|readings| {
                let (first, last) = (readings[0].n, readings[9].n);
                json!({"pipeline": "sums", "series": series, "from": readings[0].time, "to": readings[0].time + WINDOW,
                       "count": 10, "min": first, "max": last, "first": first, "last": last,
                       "mean": (first + last) as f64 / 2.0})
            });
            push(&mut history, "summary", windows.collect());
            history.sent.insert(source.to_owned(), sent);
        }
        history.verified.1["sources"] = json!({"plant": {"received": 20, "redelivered": 0}, "hall": {"received": 20, "redelivered": 0}});
        history.verified.1["pipelines"] = json!({"raw": {"stored": 40}, "sums": {"stored": 40}});
        history.verified.1["uplinks"] =
            json!({"cloud": {"delivered": 44, "waiting": 0, "rejected": 0, "evicted": 0}});
        history
    }

    fn push(history: &mut History, kind: &str, items: Vec<Value>) {
        let seq = history.received.len() as u64 + 1;
        history.received.push(Message {
            stream: "s".to_owned(),
            seq,
            kind: kind.to_owned(),
            items,
        });
    }

    /// Doctors the sound history and expects a violation of this kind.
    #[track_caller]
    fn check(expect: fn(&Violation) -> bool, doctor: impl FnOnce(&mut History)) {
        let mut history = sound();
        doctor(&mut history);
        let violations = judge(&history).expect_err("the oracle saw nothing");
        assert!(violations.iter().any(expect), "{violations:?}");
    }

    #[test]
    fn a_sound_history_is_sound() {
        let verdict = judge(&sound()).unwrap();
        assert_eq!((verdict.sent, verdict.windows, verdict.twice), (40, 4, 0));
        // A message that came twice as it was is nothing.
        let mut again = sound();
        again.received.push(again.received[2].clone());
        assert_eq!(judge(&again).unwrap().messages_again, 1);
    }

    #[test]
    fn a_lost_reading_is_found() {
        let lost = |violation: &Violation| {
            *violation
                == Violation::Lost {
                    source: "plant".to_owned(),
                    numbers: vec![7],
                }
        };
        check(lost, |history| {
            history.received[1].items.remove(2);
        });
        // A gap that tells of another time, or of another pipeline, does not excuse it.
        for (from, pipeline) in [(90_000, "raw"), (10_000, "sums")] {
            check(lost, |history| {
                history.received[1].items.remove(2);
                let gap =
                    json!({"pipeline": pipeline, "from": from, "to": from + 5_000, "count": 1});
                push(history, "gap", vec![gap]);
            });
        }
        // The end of what was sent, with the message that held it.
        check(
            |violation| matches!(violation, Violation::Lost { source, numbers } if source == "hall" && numbers.len() == 5),
            |history| {
                let at = history.received.len() - 2;
                history.received.remove(at);
            },
        );
    }

    #[test]
    fn quarantine_excuses_what_it_holds_and_only_after_kills() {
        let quarantine = |history: &mut History, kills, number: u64| {
            history.kills = kills;
            history.received[1].items.remove(2);
            history.received[4].items[0] = json!({"pipeline": "sums", "series": "plant/a/n", "from": 10_000,
                "to": 11_000, "count": 9, "min": 0, "max": 9, "first": 0, "last": 9, "mean": 38.0 / 9.0});
            history.quarantined = [("plant".to_owned(), [number].into())].into();
            history.verified.1["pipelines"]["raw"]["stored"] = 39.into();
            history.verified.1["pipelines"]["sums"]["stored"] = 39.into();
            history.verified.1["uplinks"]["cloud"]["delivered"] = 43.into();
        };
        let mut history = sound();
        quarantine(&mut history, 4, 7);
        assert_eq!(judge(&history).unwrap().quarantined, 1);
        // Too few kills, and another message.
        for (kills, number) in [(2, 7), (4, 8)] {
            check(
                |violation| matches!(violation, Violation::Lost { .. }),
                |history| quarantine(history, kills, number),
            );
        }
    }

    #[test]
    fn a_declared_gap_is_no_loss_and_must_add_up() {
        let evict = |history: &mut History, count: u64| {
            history.received.remove(1);
            let gap = json!({"pipeline": "raw", "from": 10_500, "to": 10_900, "count": count, "seq_from": 2, "seq_to": 2});
            let seq = 7;
            history.received.push(Message {
                stream: "s".to_owned(),
                seq: seq + 4,
                kind: "gap".to_owned(),
                items: vec![gap],
            });
            history.verified.1["uplinks"]["cloud"]["delivered"] = 40.into();
            history.verified.1["uplinks"]["cloud"]["evicted"] = 5.into();
        };
        let mut history = sound();
        evict(&mut history, 5);
        assert_eq!(judge(&history).unwrap().in_gaps, 5);
        for count in [4, 6] {
            check(
                |violation| matches!(violation, Violation::Ledger { .. }),
                |history| evict(history, count),
            );
        }
    }

    #[test]
    fn a_database_that_was_replaced_excuses_what_came_before_it_alone() {
        // The old one is a stream that ends; the new one begins at 1 with the gap.
        let replaced = |history: &mut History, told: bool, from: u64| {
            history.received.remove(1);
            history.replaced = [("plant".to_owned(), from), ("hall".to_owned(), 20)].into();
            let gap = json!({"from": 1, "to": 2, "count": null, "reason": "corrupt"});
            history.received.push(Message {
                stream: "t".to_owned(),
                seq: 1,
                kind: if told { "gap" } else { "event" }.to_owned(),
                items: vec![gap],
            });
        };
        let mut history = sound();
        replaced(&mut history, true, 10);
        judge(&history).unwrap();
        for (told, from) in [(false, 10), (true, 7)] {
            check(
                |violation| matches!(violation, Violation::Lost { source, .. } if source == "plant"),
                |history| replaced(history, told, from),
            );
        }
    }

    #[test]
    fn an_invented_reading_is_found() {
        for (key, value) in [
            ("value", json!(99)),
            ("value", json!(3)),
            ("time", json!(10_001)),
            ("series", json!("plant/x/n")),
            ("value", json!(null)),
        ] {
            check(
                |violation| matches!(violation, Violation::Invented { .. }),
                |history| history.received[0].items[0][key] = value,
            );
        }
    }

    #[test]
    fn a_reading_comes_twice_only_with_its_message() {
        let twice = |history: &mut History| {
            let item = history.received[0].items[3].clone();
            history.received[1].items.push(item);
            history.verified.1["pipelines"]["raw"]["stored"] = 41.into();
            history.verified.1["pipelines"]["sums"]["stored"] = 41.into();
            history.verified.1["uplinks"]["cloud"]["delivered"] = 45.into();
            history.received[4].items[0]["count"] = 11.into();
            history.received[4].items[0]["mean"] = (48.0 / 11.0).into();
        };
        check(
            |violation| {
                matches!(
                    violation,
                    Violation::Doubled {
                        twice: 1,
                        bound: 0,
                        ..
                    }
                )
            },
            twice,
        );
        let mut history = sound();
        twice(&mut history);
        history.verified.1["sources"]["plant"]["redelivered"] = 1.into();
        history.verified.1["sources"]["plant"]["received"] = 21.into();
        assert_eq!(judge(&history).unwrap().twice, 1);
        let mut history = sound();
        twice(&mut history);
        history.resent.insert("plant".to_owned(), 1);
        assert_eq!(judge(&history).unwrap().twice, 1);
        // One with an identity never does, however often it was sent.
        check(
            |violation| matches!(violation, Violation::Doubled { bound: 0, .. }),
            |history| {
                twice(history);
                history.resent.insert("plant".to_owned(), 1);
                history.identified.insert("plant".to_owned());
            },
        );
    }

    #[test]
    fn a_sealed_message_that_changed_is_found() {
        check(
            |violation| matches!(violation, Violation::Changed { seq: 3, .. }),
            |history| {
                let mut again = history.received[2].clone();
                again.items.swap(0, 1);
                history.received.push(again);
            },
        );
    }

    #[test]
    fn a_hole_in_the_numbers_is_found() {
        check(
            |violation| matches!(violation, Violation::Hole { seqs, .. } if *seqs == [2]),
            |history| {
                history.received.remove(1);
            },
        );
    }

    #[test]
    fn another_order_is_found() {
        check(
            |violation| matches!(violation, Violation::Reordered { n: 2, after: 3, .. }),
            |history| history.received[0].items.swap(2, 3),
        );
        // Within a series also where canaries cut batches in two.
        check(
            |violation| matches!(violation, Violation::Reordered { n: 2, after: 3, .. }),
            |history| {
                history.split = true;
                history.received[0].items.swap(2, 3);
            },
        );
        // Order goes by number, not by arrival: two messages that overtook each other are none of it.
        let mut overtaken = sound();
        overtaken.received.swap(0, 1);
        judge(&overtaken).unwrap();
    }

    #[test]
    fn a_wrong_sum_is_found() {
        let wrong = |violation: &Violation| matches!(violation, Violation::Window { .. });
        check(wrong, |history| {
            history.received[4].items[0]["count"] = 9.into()
        });
        check(wrong, |history| {
            history.received[4].items[0]["mean"] = 4.6.into()
        });
        check(wrong, |history| {
            history.received[4].items[1]["max"] = 20.into()
        });
        check(wrong, |history| {
            history.received[4].items[1]["first"] = 3.into()
        });
        check(wrong, |history| {
            history.received[4].items[1]["to"] = 12_001.into()
        });
        check(wrong, |history| {
            history.received[4].items.pop();
        });
        // Twice the same window: as an ordinary one, and as a supplement that doubles it.
        for late in [false, true] {
            check(wrong, |history| {
                let mut again = history.received[4].items[0].clone();
                again["late"] = late.into();
                history.received[4].items.push(again);
            });
        }
    }

    #[test]
    fn a_window_is_incomplete_only_where_room_was_made_before_a_kill() {
        let empty = |history: &mut History, kills, evicted: u64| {
            history.kills = kills;
            history.verified.1["pipelines"]["sums"]["evicted"] = evicted.into();
            let window = &mut history.received[4].items[0];
            window["incomplete"] = true.into();
            window["count"] = 0.into();
            for key in ["min", "max", "first", "last", "mean"] {
                window[key] = Value::Null;
            }
        };
        let mut history = sound();
        empty(&mut history, 1, 10);
        judge(&history).unwrap();
        for (kills, evicted) in [(0, 10), (1, 0)] {
            check(
                |violation| matches!(violation, Violation::Window { .. }),
                |history| empty(history, kills, evicted),
            );
        }
        // More than was given up.
        check(
            |violation| matches!(violation, Violation::Ledger { .. }),
            |history| empty(history, 1, 9),
        );
    }

    #[test]
    fn a_ledger_that_tells_another_story_is_found() {
        let ledger = |violation: &Violation| matches!(violation, Violation::Ledger { .. });
        check(ledger, |history| history.verified.0 = 1);
        check(ledger, |history| {
            history.verified.1["balanced"] = false.into()
        });
        for (path, value) in [
            ("/uplinks/cloud/waiting", 1),
            ("/uplinks/cloud/rejected", 1),
            ("/uplinks/cloud/delivered", 45),
            ("/pipelines/raw/stored", 41),
            ("/pipelines/raw/stored", 39),
            ("/pipelines/sums/stored", 41),
            ("/sources/plant/received", 19),
        ] {
            check(ledger, |history| {
                *history.verified.1.pointer_mut(path).unwrap() = value.into();
            });
        }
    }

    #[test]
    fn a_command_is_answered_and_always_in_the_same_words() {
        let ask = |history: &mut History, replies: &[Value]| {
            history.commands = vec!["c-0".to_owned(), "c-1".to_owned()];
            let delivered = 44 + replies.len();
            push(history, "reply", replies.to_vec());
            history.verified.1["uplinks"]["cloud"]["delivered"] = delivered.into();
        };
        let reply = |id: &str, state: &str| json!({"id": id, "status": "done", "data": state});
        let mut history = sound();
        ask(
            &mut history,
            &[reply("c-0", "a"), reply("c-1", "b"), reply("c-0", "a")],
        );
        assert_eq!(judge(&history).unwrap().commands, 2);
        let refused = json!({"id": "c-1", "status": "error"});
        for replies in [
            vec![reply("c-0", "a")],
            vec![reply("c-0", "a"), reply("c-1", "b"), reply("c-0", "b")],
            vec![reply("c-0", "a"), refused],
        ] {
            check(
                |violation| matches!(violation, Violation::Commands { .. }),
                |history| ask(history, &replies),
            );
        }
    }

    #[test]
    fn an_alarm_that_did_not_come_is_found() {
        let expect = |history: &mut History| {
            history.alarms.insert("plant/press/v".to_owned());
        };
        check(
            |violation| matches!(violation, Violation::Alarms { .. }),
            expect,
        );
        let mut history = sound();
        expect(&mut history);
        let alarm = json!({"pipeline": "watch", "series": "plant/press/v", "state": "raised"});
        push(&mut history, "alarm", vec![alarm]);
        history.verified.1["uplinks"]["cloud"]["delivered"] = 45.into();
        judge(&history).unwrap();
    }
}
