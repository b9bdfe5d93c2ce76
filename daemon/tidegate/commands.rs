//! Commands from the cloud, between the uplink that took them in and the writer that carries them out: read, judged by
//! the configuration, and handed over at a bounded pace.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_domain::alarm::Selection;
use tidegate_domain::command::{self, DETAIL, Name, Pace, Refusal, Until, What};
use tidegate_domain::limits::OUTBOX_ITEM_BYTES;
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, item};
use tidegate_status::Refused;
use tidegate_status::view::View;
use tidegate_store::{CommandInput, Todo};
use tidegate_uplink::IncomingCommand;
use tokio::sync::{Semaphore, mpsc};

use crate::audit::{self, Audit};
use crate::clock;
use crate::deploy;
use crate::observe::Observer;
use crate::rollouts::Rollouts;
use crate::writer::ToWriter;

/// Commands of one uplink that wait for the desk. What is beyond waits in the uplink, and then at the broker.
pub(crate) const QUEUE: usize = 8;
/// Commands of one uplink that are handed over and not committed yet.
pub(crate) const AT_ONCE: usize = 8;
/// Bytes of a report. What makes it larger is left out, the largest parts first, and named.
const REPORT_BYTES: usize = OUTBOX_ITEM_BYTES - 4096;
/// How long a command waits for the look at the repository that it ordered. The look itself goes on.
const LOOK: Duration = Duration::from_mins(1);
/// Time between two looks that commands order. A look costs two requests; whoever sends commands in a loop is no reason for more.
const LOOK_PACE: Duration = Duration::from_secs(30);
/// Ids of commands that ordered a look, so that the same one orders none again. The store remembers the answers, of many more.
const LOOKS_KNOWN: usize = 64;
/// Errors that a report tells.
const REPORT_ERRORS: usize = 10;

/// One uplink's commands.
pub(crate) struct Desk {
    /// The uplink's name.
    pub(crate) uplink: String,
    /// What it may ask for.
    pub(crate) allowed: BTreeSet<Name>,
    pub(crate) commands: mpsc::Receiver<IncomingCommand>,
    pub(crate) inbox: mpsc::Sender<ToWriter>,
    /// Places for commands that are not committed yet; the writer gives them back.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) rollouts: Arc<Rollouts>,
    /// Where modules come over the air.
    pub(crate) deploy: Option<deploy::Handle>,
    pub(crate) audit: Audit,
}

/// Looks at the repository that commands order: one at a time, so that other commands need not wait for it.
#[derive(Default)]
struct Looks {
    under_way: Option<Pin<Box<dyn Future<Output = CommandInput> + Send>>>,
    last: Option<Instant>,
    known: VecDeque<String>,
}

impl Looks {
    /// The command whose look is through; for ever where none is under way. Can be cancelled.
    async fn through(&mut self) -> CommandInput {
        let Some(look) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let input = look.await;
        self.under_way = None;
        input
    }

    /// # Errors
    /// Why there is to be none now.
    fn order(&mut self, id: &str, now: Instant) -> Result<(), String> {
        if self.known.iter().any(|known| known == id) {
            return Err("this command has ordered its look already".to_owned());
        }
        if self.under_way.is_some() {
            return Err("a look at the repository is under way; its end is an event".to_owned());
        }
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if let Some(left) = since.and_then(|since| LOOK_PACE.checked_sub(since)) {
            return Err(format!(
                "the repository was looked at a moment ago by a command; the next look can be ordered in {} s",
                left.as_secs() + 1
            ));
        }
        self.last = Some(now);
        if self.known.len() >= LOOKS_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(id.to_owned());
        Ok(())
    }
}

/// Looks, and makes the answer of what came of it.
async fn look(deploy: deploy::Handle, mut input: CommandInput) -> CommandInput {
    input.todo = match tokio::time::timeout(LOOK, deploy.look(None)).await {
        Ok(Ok(data)) => Todo::Answer {
            text: match data["news"] == true {
                true => format!("epoch {} is new, and all of it is here", data["epoch"]),
                false => format!("epoch {} is the newest, and was here before", data["epoch"]),
            },
            data,
        },
        Ok(Err(Refused::Request(why) | Refused::Missing(why) | Refused::Unavailable(why))) => {
            Todo::Refuse(why)
        }
        Err(_) => Todo::Answer {
            text: format!(
                "the look takes longer than {} s and goes on; `deploy` of a report says what came of it",
                LOOK.as_secs()
            ),
            data: json!({ "under_way": true }),
        },
    };
    input
}

impl Desk {
    /// Works until the uplink or the writer has ended.
    pub(crate) async fn run(mut self) {
        let origin = Instant::now();
        let mut pace = Pace::new(origin.elapsed());
        let mut looks = Looks::default();
        loop {
            let incoming = tokio::select! {
                incoming = self.commands.recv() => incoming,
                input = looks.through() => {
                    if self.hand_over(input).await {
                        continue;
                    }
                    return;
                }
            };
            // A look that is under way was not acknowledged, and is ordered again.
            let Some(incoming) = incoming else { return };
            while let Err(wait) = pace.take(origin.elapsed()) {
                tokio::time::sleep(wait).await;
            }
            match self.room.acquire().await {
                Ok(place) => place.forget(),
                Err(_) => return,
            }
            let doing = Doing {
                report: || report(&self.observer),
                roll_back: |module: &str| self.roll_back(module),
            };
            let mut input = judge(&incoming, &self.uplink, &self.allowed, clock::now(), doing);
            let mut ordered = None;
            if let (Some(Name::Update), Todo::Answer { .. }, Some(id)) =
                (input.name, &input.todo, &input.id)
            {
                match self.order(&mut looks, id) {
                    Ok(deploy) => ordered = Some(deploy),
                    Err(why) => input.todo = Todo::Refuse(why),
                }
            }
            self.record(&mut input).await;
            self.log(&input, incoming.payload.len());
            if let (Some(deploy), Todo::Answer { .. }) = (ordered, &input.todo) {
                looks.under_way = Some(Box::pin(look(deploy, input)));
                continue;
            }
            if !self.hand_over(input).await {
                return;
            }
        }
    }

    /// # Errors
    /// Why there is to be no look at the repository.
    fn order(&self, looks: &mut Looks, id: &str) -> Result<deploy::Handle, String> {
        let deploy = self.deploy.clone().ok_or(
            "this gateway takes no modules over the air: its configuration has no [deploy]",
        )?;
        looks.order(id, Instant::now())?;
        Ok(deploy)
    }

    /// False where the writer has ended: it was not acknowledged then, and comes again.
    async fn hand_over(&self, input: CommandInput) -> bool {
        let input = ToWriter::Input(input.into());
        self.inbox.send(input).await.is_ok()
    }

    /// Has it on record before the store carries it out; what cannot be recorded is refused.
    async fn record(&self, input: &mut CommandInput) {
        let entry = audit::command(&self.uplink, input);
        let recorded = match &input.todo {
            // Nothing is done about it: it need not be waited for.
            Todo::Refuse(_) => {
                self.audit.tell(entry);
                return;
            }
            Todo::Answer { .. }
            | Todo::Detail { .. }
            | Todo::Backfill { .. }
            | Todo::Acknowledge { .. } => self.audit.require(entry).await,
        };
        if let Err(Refused::Request(why) | Refused::Missing(why) | Refused::Unavailable(why)) =
            recorded
        {
            input.todo = Todo::Refuse(why);
        }
    }

    /// Goes back on a module. It is durable when this returns; a command that comes again after a crash in between finds
    /// that there is nothing more to go back to.
    fn roll_back(&self, module: &str) -> Result<Value, String> {
        if let Some(error) = self.audit.status().error {
            return Err(format!(
                "the audit log cannot be written ({error}), and what cannot be recorded is not done"
            ));
        }
        let by = format!("uplink {}", self.uplink);
        let done = tokio::task::block_in_place(|| self.rollouts.roll_back(module, &by));
        match done {
            Ok(pipelines) => Ok(json!({ "module": module, "pipelines": pipelines })),
            Err(Refused::Request(why) | Refused::Missing(why) | Refused::Unavailable(why)) => {
                Err(why)
            }
        }
    }

    /// Every command is on record, whoever sent it and whatever came of it.
    fn log(&self, input: &CommandInput, bytes: usize) {
        let uplink = &self.uplink;
        let id = input.id.as_deref().unwrap_or("none");
        let command = input.name.map_or("unknown", Name::as_str);
        match &input.todo {
            Todo::Refuse(why) => {
                tracing::warn!(uplink, id, command, bytes, "command refused: {why}");
            }
            Todo::Answer { .. }
            | Todo::Detail { .. }
            | Todo::Backfill { .. }
            | Todo::Acknowledge { .. } => tracing::info!(uplink, id, command, "command"),
        }
    }
}

/// What is done at once for a command, beside what the store does.
struct Doing<R, B> {
    report: R,
    roll_back: B,
}

/// What is to be done about a payload.
fn judge(
    incoming: &IncomingCommand,
    uplink: &str,
    allowed: &BTreeSet<Name>,
    now: Arrival,
    doing: Doing<impl FnOnce() -> Value, impl FnOnce(&str) -> Result<Value, String>>,
) -> CommandInput {
    let (id, name, todo) = match command::parse(&incoming.payload) {
        Ok(command) => {
            let name = command.what.name();
            let todo = if incoming.retained {
                Err(
                    "a retained command may be years old: send it without the retain flag"
                        .to_owned(),
                )
            } else if !allowed.contains(&name) {
                Err(format!(
                    "this gateway takes no `{name}` over this uplink: `commands` in [uplink.{uplink}] of its configuration says what it takes"
                ))
            } else if let Some(expires) = command.expires
                && now.synced
                && item::millis(now.wall) > expires
            {
                Err("it has expired".to_owned())
            } else {
                decide(command.what, &command.id, uplink, now, doing)
            };
            (Some(command.id), Some(name), todo)
        }
        Err(Refusal { id, name, text }) => (id, name, Err(text)),
    };
    CommandInput {
        uplink: incoming.uplink,
        ack: incoming.ack,
        id,
        name,
        at: now.wall,
        todo: todo.unwrap_or_else(Todo::Refuse),
    }
}

fn decide(
    what: What,
    id: &str,
    uplink: &str,
    now: Arrival,
    doing: Doing<impl FnOnce() -> Value, impl FnOnce(&str) -> Result<Value, String>>,
) -> Result<Todo, String> {
    Ok(match what {
        What::Report => Todo::Answer {
            text: "the gateway as it is now".to_owned(),
            data: (doing.report)(),
        },
        What::Detail {
            series,
            pipeline,
            until,
        } => {
            if let (Until::Time(_), false) = (until, now.synced) {
                return Err(
                    "this gateway's clock is not set: say `seconds` and not `until`".to_owned(),
                );
            }
            let hours = DETAIL.as_secs() / 3600;
            let lasts = until
                .from(item::millis(now.wall))
                .ok_or_else(|| format!("`until` must lie ahead, by {hours} hours at most"))?;
            Todo::Detail {
                series,
                pipeline,
                lasts,
            }
        }
        What::Backfill {
            series,
            pipeline,
            from,
            to,
            limit,
        } => Todo::Backfill {
            series,
            pipeline,
            from,
            to,
            limit,
        },
        What::Acknowledge {
            series,
            pipeline,
            source,
            code,
            by,
        } => Todo::Acknowledge {
            selection: Selection {
                pipeline,
                source,
                series: SeriesFilter::new(&[series]).map_err(|error| error.to_string())?,
                code,
            },
            by: match by {
                Some(by) => format!("{by} (uplink {uplink}, command {id})"),
                None => format!("uplink {uplink}, command {id}"),
            },
        },
        What::Rollback { module } => Todo::Answer {
            text: format!("what ran before module {module} runs again"),
            data: (doing.roll_back)(&module)?,
        },
        // What comes of the look takes the place of this.
        What::Update => Todo::Answer {
            text: "the repository is looked at".to_owned(),
            data: Value::Null,
        },
    })
}

/// What `/api/v1/status` and `/api/v1/ledger` say, without the readings.
fn report(observer: &Observer) -> Value {
    let snapshot = observer.snapshot();
    let mut report = serde_json::to_value(&*snapshot).unwrap_or_else(|error| {
        // Strings and numbers alone: this cannot fail; were it to, the receiver hears of it.
        json!({ "error": error.to_string() })
    });
    if let Some(errors) = report
        .get_mut("recent_errors")
        .and_then(Value::as_array_mut)
    {
        errors.truncate(REPORT_ERRORS);
    }
    if let Value::Object(parts) = &mut report {
        parts.remove("recent_summaries");
        let ledger = serde_json::to_value(&*observer.ledger()).unwrap_or_default();
        parts.insert("ledger".to_owned(), ledger);
    }
    fit(report, REPORT_BYTES)
}

/// Leaves out the largest parts of an object until it fits, and names them.
fn fit(mut report: Value, bytes: usize) -> Value {
    let mut left_out: Vec<String> = Vec::new();
    while report.to_string().len() > bytes {
        let Value::Object(parts) = &mut report else {
            return report;
        };
        let largest = parts
            .iter()
            .filter(|(name, _)| *name != "left_out")
            .max_by_key(|(_, part)| part.to_string().len())
            .map(|(name, _)| name.clone());
        let Some(largest) = largest else {
            return report;
        };
        parts.remove(&largest);
        left_out.push(largest);
        parts.insert("left_out".to_owned(), json!(left_out));
    }
    report
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_domain::AckToken;

    use super::*;

    const NOW: i64 = 1_766_000_000_000;

    fn incoming(payload: &str) -> IncomingCommand {
        IncomingCommand {
            uplink: 1,
            payload: payload.as_bytes().to_vec().into(),
            retained: false,
            ack: Some(AckToken {
                connection: 1,
                id: 7,
            }),
        }
    }

    fn judged(incoming: &IncomingCommand, synced: bool) -> CommandInput {
        let allowed = [Name::Detail, Name::Report, Name::Rollback].into();
        let now = Arrival {
            monotonic: 1,
            wall: NOW * 1_000_000,
            synced,
        };
        let doing = Doing {
            report: || json!({ "well": true }),
            roll_back: |module: &str| Err(format!("nothing runs `{module}`")),
        };
        judge(incoming, "cloud", &allowed, now, doing)
    }

    #[track_caller]
    fn refused(payload: &str, id: Option<&str>, part: &str) {
        let input = judged(&incoming(payload), true);
        let Todo::Refuse(text) = &input.todo else {
            panic!("{input:?}");
        };
        assert!(text.contains(part), "{text}");
        assert_eq!(input.id.as_deref(), id);
        assert!(
            input.ack.is_some(),
            "what is refused is acknowledged all the same"
        );
    }

    #[test]
    fn what_is_not_allowed_or_not_possible_is_refused_in_words() {
        refused("garbage", None, "no JSON");
        refused(r#"{"id":"a","command":"x"}"#, Some("a"), "no command `x`");
        let acknowledge = r#"{"id":"a","command":"acknowledge","series":"**"}"#;
        refused(
            acknowledge,
            Some("a"),
            "takes no `acknowledge` over this uplink: `commands` in [uplink.cloud]",
        );
        refused(
            r#"{"id":"a","command":"rollback","module":"m"}"#,
            Some("a"),
            "nothing runs `m`",
        );
        let expired = format!(r#"{{"id":"a","command":"report","expires":{}}}"#, NOW - 1);
        refused(&expired, Some("a"), "expired");
        let past = format!(r#"{{"id":"a","command":"detail","series":"x","until":{NOW}}}"#);
        refused(&past, Some("a"), "must lie ahead, by 24 hours at most");
        let retained = IncomingCommand {
            retained: true,
            ..incoming(r#"{"id":"a","command":"report"}"#)
        };
        assert!(
            matches!(judged(&retained, true).todo, Todo::Refuse(text) if text.contains("retain"))
        );
    }

    #[test]
    fn a_clock_that_is_not_set_judges_nothing() {
        let expired = incoming(r#"{"id":"a","command":"report","expires":1}"#);
        assert!(matches!(judged(&expired, false).todo, Todo::Answer { .. }));
        let until = format!(
            r#"{{"id":"a","command":"detail","series":"x","until":{}}}"#,
            NOW + 5
        );
        assert!(
            matches!(judged(&incoming(&until), false).todo, Todo::Refuse(text) if text.contains("`seconds`"))
        );
        let seconds = incoming(r#"{"id":"a","command":"detail","series":"x","seconds":5}"#);
        let Todo::Detail { lasts, .. } = judged(&seconds, false).todo else {
            panic!("it needs no clock");
        };
        assert_eq!(lasts, Duration::from_secs(5));
    }

    #[test]
    fn looks_are_ordered_once_an_id_one_at_a_time_and_at_a_bounded_pace() {
        let mut looks = Looks::default();
        let began = Instant::now();
        looks.order("a", began).unwrap();
        let again = looks.order("a", began + 2 * LOOK_PACE).unwrap_err();
        assert!(again.contains("already"), "{again}");
        let soon = began + LOOK_PACE.saturating_sub(Duration::from_secs(3));
        let soon = looks.order("b", soon).unwrap_err();
        assert!(soon.contains("in 4 s"), "{soon}");
        let later = began + LOOK_PACE + Duration::from_millis(1);
        looks.order("b", later).unwrap();
        looks.under_way = Some(Box::pin(std::future::pending()));
        let busy = looks.order("c", later + 2 * LOOK_PACE).unwrap_err();
        assert!(busy.contains("under way"), "{busy}");
        looks.under_way = None;
        let mut time = later;
        for number in 0..2 * LOOKS_KNOWN {
            time += 2 * LOOK_PACE;
            looks.order(&number.to_string(), time).unwrap();
        }
        assert_eq!(looks.known.len(), LOOKS_KNOWN);
    }

    #[test]
    fn a_report_fits_into_an_item() {
        let report = json!({ "a": "x".repeat(500), "b": "y".repeat(300), "c": 1 });
        assert_eq!(fit(report.clone(), 1_000), report);
        let cut = fit(report.clone(), 400);
        assert_eq!((&cut["left_out"], &cut["c"]), (&json!(["a"]), &json!(1)));
        let cut = fit(report, 60);
        assert_eq!(cut, json!({ "c": 1, "left_out": ["a", "b"] }));
    }
}
