//! Sparkplug B, version 3.0.0: what edge nodes and their devices publish below `spBv1.0/`.
//!
//! A birth names every metric with its datatype and often an alias, by which data refers to it from then on; that is remembered
//! in the decoder's state (`learnt.rs`). A metric becomes a reading of `spBv1.0/<group>/<node>[/<device>]/<metric>` at the
//! metric's own time. Beside them is `…/$online`. At a death all metrics of those who died are stale: each gets a reading of
//! bad quality that is no number. Gaps in the sequence are noted; nothing can ask for what is missing from here.

mod datatype;
mod learnt;
mod payload;
mod protobuf;
mod table;
mod topic;

use formats::{DEPTH, json, shown, time};
use tidegate_sdk::{Decoded, Fault, Message, Messages, Quality, Rows, Value};

use self::datatype::Datatype;
use self::learnt::{Learnt, Session};
use self::payload::{Metric, Payload, Raw};
use self::table::Table;
use self::topic::{NAMESPACE, Topic, Verb};

tidegate_sdk::decoder!(sparkplug);

/// Any bytes as messages: what the fuzz target calls, and the test with what that kept.
#[cfg(not(target_arch = "wasm32"))]
pub fn fuzz(input: &[u8]) -> bool {
    tidegate_sdk::test::DecoderHarness::new(sparkplug).fuzz(input)
}

/// The metric of births and deaths that says which belong together (section 6.4.19).
const BD_SEQ: &str = "bdSeq";
/// Bytes of the names that a death marks as stale; more are counted. All rows of a call have 4 MiB.
const STALE_BYTES: usize = 1024 * 1024;

fn sparkplug(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let mut learnt = Learnt::default();
    for message in messages.iter() {
        let mut notes = Vec::new();
        out.message(message, |rows| {
            let mut at_hand = AtHand {
                message,
                rows,
                notes: &mut notes,
                series: String::new(),
            };
            at_hand.decode(&mut learnt)
        });
        for note in notes {
            out.note(note);
        }
    }
    learnt.save()
}

/// The message at hand, and where its readings and notes go.
struct AtHand<'a, 'r> {
    message: Message<'a>,
    rows: &'r mut Rows,
    notes: &'r mut Vec<String>,
    /// The series at hand; one piece of memory for all of them.
    series: String,
}

/// What metrics of one payload have in common.
struct Common {
    /// Nanoseconds since the epoch, where a metric has no time of its own.
    time: i64,
    /// Metrics that no reading can hold.
    left_out: u32,
    /// The first of them.
    first: String,
    /// They came when their publisher was dead.
    doubtful: bool,
}

impl<'a> AtHand<'a, '_> {
    fn decode(&mut self, learnt: &mut Learnt) -> Result<(), String> {
        let name = self.message.topic();
        if let Some(host) = name.strip_prefix("spBv1.0/STATE/") {
            return self.host(host);
        }
        let Some(topic) = Topic::parse(name) else {
            return Err(format!(
                "`{}` is no topic of Sparkplug B: spBv1.0/<group>/<verb>/<node>, with /<device> where the verb begins with D",
                shown(name)
            ));
        };
        if topic.verb == Verb::Command {
            // What is asked of a node is nothing that it measured.
            return Ok(());
        }
        let payload = Payload::read(self.message.payload())?;
        if payload.uuid == Some("SPBV1.0_COMPRESSED") {
            return Err("the payload is compressed, which this decoder does not undo; turn compression off at the node".to_owned());
        }
        match (topic.verb, topic.device) {
            (Verb::Birth, _) => self.birth(topic, &payload, learnt),
            (Verb::Data, _) => self.data(topic, &payload, learnt),
            (Verb::Death, Some(device)) => self.device_death(topic, device, &payload, learnt),
            (Verb::Death, None) => self.node_death(topic, &payload, learnt),
            (Verb::Command, _) => Ok(()),
        }
    }

    /// A host application says whether it is there (section 6.4.27): JSON.
    fn host(&mut self, host: &str) -> Result<(), String> {
        let text = std::str::from_utf8(self.message.payload())
            .map_err(|error| format!("byte {} is no UTF-8", error.valid_up_to()))?;
        let mut reader = json::Reader::new(text);
        let (mut online, mut at) = (None, Some(self.message.time()));
        if reader.value()? == json::Token::Object {
            let mut within = json::Within::default();
            while let Some(key) = reader.key(&mut within)? {
                let value = reader.value()?;
                match (&*key, &value) {
                    ("online", json::Token::Bool(value)) => online = Some(*value),
                    ("timestamp", json::Token::Number(number)) => {
                        at = number.parse().ok().and_then(|millis: u64| nanos(millis));
                    }
                    _ => reader.skip(&value, DEPTH)?,
                }
            }
        }
        reader.end()?;
        let (Some(online), Some(at)) = (online, at) else {
            return Err(
                "a host's state is {\"online\": true or false, \"timestamp\": milliseconds}"
                    .to_owned(),
            );
        };
        let series = format!("{NAMESPACE}/STATE/{host}/$online");
        self.rows.add(&series, at, online, Quality::Good)
    }

    fn birth(
        &mut self,
        topic: Topic<'a>,
        payload: &Payload<'a>,
        learnt: &mut Learnt,
    ) -> Result<(), String> {
        let node = topic.edge_node();
        let mut common = self.common(payload)?;
        let mut metrics = Vec::new();
        let mut bd_seq = None;
        for metric in payload.metrics() {
            let metric = metric?;
            let Some(name) = metric.name.filter(|name| !name.is_empty()) else {
                return Err(format!(
                    "a metric of the birth has no name (its alias is {})",
                    metric
                        .alias
                        .map_or("missing too".to_owned(), |alias| alias.to_string())
                ));
            };
            if let (BD_SEQ, None, Some(Raw::Integer(value))) = (name, topic.device, metric.value) {
                bd_seq = Some(value);
                continue;
            }
            let number = metric.datatype.unwrap_or_default();
            // 0 stands for "unknown"; most values say by themselves what they are.
            let datatype = match number {
                0 => metric.value.and_then(Datatype::of_value),
                _ => Datatype::of(number),
            };
            let Some(datatype) = datatype else {
                return Err(format!(
                    "the metric `{}` has the datatype {number}, which is none of Sparkplug's",
                    shown(name)
                ));
            };
            self.metric(topic, &metric, name, datatype, &mut common)?;
            // Known datatypes are below 35.
            metrics.push((name, u8::try_from(number).unwrap_or_default(), metric.alias));
        }
        self.online(topic, common.time, true)?;
        let table = Table::new(metrics)?;
        let forgotten = learnt.learn(&node, topic.device, table)?;
        for node in forgotten {
            self.notes.push(format!(
                "{node} is dead and was forgotten, to have room for others"
            ));
        }
        self.left_out(topic, &common);
        let session = learnt.session(&node);
        match topic.device {
            None => {
                // Its devices are born anew behind it.
                let devices = session.take().unwrap_or_default().devices.into_keys();
                *session = Some(Session {
                    alive: true,
                    due: None,
                    bd_seq,
                    devices: devices.map(|device| (device, false)).collect(),
                });
                self.sequence(topic, payload, session);
            }
            Some(device) => {
                self.sequence(topic, payload, session);
                let session = session.get_or_insert_default();
                session.devices.insert(device.to_owned(), true);
                if !session.alive {
                    self.notes.push(format!(
                        "{}: a birth without one of its node",
                        topic.publisher()
                    ));
                }
            }
        }
        Ok(())
    }

    fn data(
        &mut self,
        topic: Topic<'a>,
        payload: &Payload<'a>,
        learnt: &mut Learnt,
    ) -> Result<(), String> {
        let node = topic.edge_node();
        let publisher = topic.publisher();
        // First, also where a metric cannot be read: the message was here.
        let session = learnt.session(&node);
        self.sequence(topic, payload, session);
        let alive = match (&*session, topic.device) {
            (None, _) => None,
            (Some(session), None) => Some(session.alive),
            (Some(session), Some(device)) => session.devices.get(device).copied(),
        };
        let mut common = self.common(payload)?;
        if alive == Some(false) {
            common.doubtful = true;
            self.notes.push(format!(
                "{publisher}: data behind its death, before another birth"
            ));
        }
        let table = learnt.table(&publisher);
        for metric in payload.metrics() {
            let metric = metric?;
            let table = table.as_deref();
            let known = match (metric.name, metric.alias) {
                (Some(name), _) if !name.is_empty() => table.and_then(|table| table.by_name(name)),
                (_, Some(alias)) => {
                    let known = table.and_then(|table| table.by_alias(alias));
                    if known.is_none() {
                        return Err(format!(
                            "no birth of {publisher} that came so far names the alias {alias}; replay it when one has (the command \
                             Node Control/Rebirth asks the node for it)"
                        ));
                    }
                    known
                }
                (_, None) => return Err("a metric has neither a name nor an alias".to_owned()),
            };
            let name = known
                .map(|known| known.name)
                .or(metric.name)
                .unwrap_or_default();
            let number = metric.datatype.filter(|number| *number != 0);
            let number = number.or(known.map(|known| known.datatype.into()));
            let datatype = match number {
                None | Some(0) => metric.value.and_then(Datatype::of_value),
                Some(number) => Datatype::of(number),
            };
            match datatype {
                Some(datatype) => self.metric(topic, &metric, name, datatype, &mut common)?,
                // Nothing but null was ever said of it.
                None if number.is_none() && metric.value.is_none() => {}
                None => {
                    return Err(format!(
                        "the metric `{}` has no datatype of Sparkplug's, and no birth of {publisher} that came so far names one",
                        shown(name)
                    ));
                }
            }
        }
        self.left_out(topic, &common);
        Ok(())
    }

    fn device_death(
        &mut self,
        topic: Topic<'a>,
        device: &str,
        payload: &Payload<'a>,
        learnt: &mut Learnt,
    ) -> Result<(), String> {
        let time = self.common(payload)?.time;
        let node = topic.edge_node();
        let session = learnt.session(&node);
        self.sequence(topic, payload, session);
        let alive = session
            .as_ref()
            .and_then(|session| session.devices.get(device));
        if alive != Some(&true) {
            self.notes
                .push(format!("{}: a death without a birth", topic.publisher()));
            return Ok(());
        }
        let table = learnt.table(&topic.publisher());
        let mut names = STALE_BYTES;
        let more = self.stale(topic, table.as_deref(), time, &mut names)?;
        self.tell_of_stale(topic, more);
        self.online(topic, time, false)?;
        if let Some(session) = learnt.session(&node) {
            session.devices.insert(device.to_owned(), false);
        }
        Ok(())
    }

    /// The node died, and all of its devices with it. Its time is that of the arrival: the payload is older, the node
    /// left it with the broker when it connected.
    fn node_death(
        &mut self,
        topic: Topic<'a>,
        payload: &Payload<'a>,
        learnt: &mut Learnt,
    ) -> Result<(), String> {
        let mut bd_seq = None;
        for metric in payload.metrics() {
            if let Metric {
                name: Some(BD_SEQ),
                value: Some(Raw::Integer(value)),
                ..
            } = metric?
            {
                bd_seq = Some(value);
            }
        }
        let node = topic.edge_node();
        let Some(session) = learnt
            .session(&node)
            .as_mut()
            .filter(|session| session.alive)
        else {
            self.notes.push(format!("{node}: a death without a birth"));
            return Ok(());
        };
        if let (Some(birth), Some(death)) = (session.bd_seq, bd_seq)
            && birth != death
        {
            self.notes.push(format!(
                "{node}: the death of an earlier session is left out: its bdSeq is {death}, that of the birth {birth}"
            ));
            return Ok(());
        }
        let devices = session.devices.clone();
        let time = self.message.time();
        let mut names = STALE_BYTES;
        let mut more = 0;
        let mut died: Vec<Topic<'_>> = vec![topic];
        died.extend(
            devices
                .iter()
                .filter(|(_, alive)| **alive)
                .map(|(device, _)| Topic {
                    device: Some(device.as_str()),
                    ..topic
                }),
        );
        for publisher in died {
            let table = learnt.table(&publisher.publisher());
            more += self.stale(publisher, table.as_deref(), time, &mut names)?;
            self.online(publisher, time, false)?;
        }
        self.tell_of_stale(topic, more);
        if let Some(session) = learnt.session(&node) {
            session.alive = false;
            session.due = None;
            session
                .devices
                .values_mut()
                .for_each(|alive| *alive = false);
        }
        Ok(())
    }

    fn common(&self, payload: &Payload<'_>) -> Result<Common, String> {
        let time = match payload.timestamp {
            None => self.message.time(),
            Some(millis) => nanos(millis).ok_or_else(|| beyond("the payload", millis))?,
        };
        Ok(Common {
            time,
            left_out: 0,
            first: String::new(),
            doubtful: false,
        })
    }

    /// Adds the reading of a metric.
    fn metric(
        &mut self,
        topic: Topic<'_>,
        metric: &Metric<'_>,
        name: &str,
        datatype: Datatype,
        common: &mut Common,
    ) -> Result<(), String> {
        let scalar = match datatype {
            Datatype::Scalar(scalar) => scalar,
            Datatype::Other(kind) => {
                common.left_out += 1;
                if common.left_out == 1 {
                    common.first = format!("`{}` ({kind})", shown(name));
                }
                return Ok(());
            }
        };
        let about = |why: String| format!("the metric `{}`: {why}", shown(name));
        let at = match metric.timestamp {
            None => common.time,
            Some(millis) => nanos(millis).ok_or_else(|| about(beyond("it", millis)))?,
        };
        let (value, quality) = match metric.value {
            Some(raw) if !metric.is_null => scalar.reading(raw).map_err(about)?,
            Some(_) | None => (Value::Float(f64::NAN), Quality::Bad),
        };
        let quality = match (quality, metric.quality, common.doubtful) {
            (Quality::Bad, ..) | (_, Some(Quality::Bad), _) => Quality::Bad,
            (Quality::Good, None | Some(Quality::Good), false) => Quality::Good,
            _ => Quality::Uncertain,
        };
        self.name(topic, name);
        self.rows.add(&self.series, at, value, quality)
    }

    /// Marks what a publisher's birth named, as far as there is room for the names; what comes back are the others.
    fn stale(
        &mut self,
        topic: Topic<'_>,
        table: Option<&Table>,
        time: i64,
        room: &mut usize,
    ) -> Result<u32, String> {
        let mut more = 0;
        for known in table.into_iter().flat_map(Table::iter) {
            // What the birth left unknown was one of those that can be readings.
            if !matches!(
                Datatype::of(known.datatype.into()),
                Some(Datatype::Scalar(_)) | None
            ) {
                continue;
            }
            self.name(topic, known.name);
            match room.checked_sub(self.series.len()) {
                Some(left) => {
                    *room = left;
                    self.rows.add(&self.series, time, f64::NAN, Quality::Bad)?;
                }
                None => more += 1,
            }
        }
        Ok(more)
    }

    fn tell_of_stale(&mut self, topic: Topic<'_>, more: u32) {
        if more > 0 {
            self.notes.push(format!(
                "{}: it died, and {more} of its metrics were too many to mark as stale",
                topic.publisher()
            ));
        }
    }

    fn online(&mut self, topic: Topic<'_>, time: i64, online: bool) -> Result<(), String> {
        self.name(topic, "$online");
        self.rows.add(&self.series, time, online, Quality::Good)
    }

    fn name(&mut self, topic: Topic<'_>, metric: &str) {
        self.series.clear();
        let levels = [
            Some(NAMESPACE),
            Some(topic.group),
            Some(topic.node),
            topic.device,
        ];
        for level in levels.into_iter().flatten() {
            self.series.push_str(level);
            self.series.push('/');
        }
        self.series.push_str(metric);
    }

    /// Every message of a node but its death has a number, one more than that before it, and 0 after 255 (section 6.4.5).
    fn sequence(&mut self, topic: Topic<'_>, payload: &Payload<'_>, session: &mut Option<Session>) {
        let Some(seq) = payload.seq.and_then(|seq| u8::try_from(seq).ok()) else {
            let node = topic.edge_node();
            self.notes.push(match payload.seq {
                None => format!("{node}: a message without a sequence number"),
                Some(seq) => format!("{node}: the sequence number {seq}, beyond 255"),
            });
            return;
        };
        let Some(session) = session else {
            return;
        };
        let missing = session.due.map_or(0, |due| seq.wrapping_sub(due));
        if missing >= 128 {
            // It was overtaken, or comes again; the others go on where they were.
            self.notes.push(format!(
                "{}: sequence number {seq} came late, or again",
                topic.edge_node()
            ));
            return;
        }
        if missing > 0 {
            self.notes.push(format!(
                "{}: sequence number {seq} where {} was due: {missing} messages are missing",
                topic.edge_node(),
                session.due.unwrap_or_default()
            ));
        }
        session.due = Some(seq.wrapping_add(1));
    }

    fn left_out(&mut self, topic: Topic<'_>, common: &Common) {
        if common.left_out > 0 {
            self.notes.push(format!(
                "{}: {} metrics whose datatype no reading can hold are left out, {} the first",
                topic.publisher(),
                common.left_out,
                common.first
            ));
        }
    }
}

fn nanos(millis: u64) -> Option<i64> {
    time::from_integer(millis.into(), time::MILLISECOND)
}

fn beyond(what: &str, millis: u64) -> String {
    format!("{what} is of {millis} ms after 1970, beyond 2262")
}

#[cfg(test)]
mod tests;
