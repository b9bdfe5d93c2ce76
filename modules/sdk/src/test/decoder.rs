//! The same for decoders: messages in, readings out.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::{
    Reading, each_step, expect_each, expect_fault, expect_reasons, expect_stored, host, known,
    list, sound,
};
use crate::decoder::{Decoder, DecoderAnswer, Messages};
use crate::filter::Fault;

/// A message that goes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic.
    pub topic: String,
    /// Its arrival, nanoseconds since the epoch.
    pub time: i64,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Received {
    /// A message.
    #[must_use]
    pub fn new(topic: &str, time: i64, payload: &[u8]) -> Self {
        Self {
            topic: topic.to_owned(),
            time,
            payload: payload.to_vec(),
        }
    }
}

/// What the messages of one call became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decodings {
    /// The readings, message by message.
    pub stored: Vec<Reading>,
    /// How many of them each message has.
    pub rows: Vec<usize>,
    /// Message and reason, in the order of the messages.
    pub undecoded: Vec<(u32, String)>,
    /// What was said to the operator.
    pub notes: Vec<String>,
    /// Lines written to the log.
    pub log: Vec<String>,
}

type Run = Box<dyn Fn(&Messages) -> Result<DecoderAnswer, Fault>>;

/// A source of a gateway with one decoder in it.
pub struct DecoderHarness {
    run: Run,
    settings: Json,
    secrets: BTreeMap<String, Vec<u8>>,
    global: BTreeMap<String, Vec<u8>>,
}

impl DecoderHarness {
    /// A source without settings, secrets or memory.
    pub fn new<F: Decoder + 'static>(decoder: F) -> Self {
        Self {
            run: Box::new(move |messages| decoder.run(messages)),
            settings: Json::Object(Map::new()),
            secrets: BTreeMap::new(),
            global: BTreeMap::new(),
        }
    }

    /// The decoder's settings.
    #[must_use]
    pub fn settings(mut self, settings: Json) -> Self {
        self.settings = settings;
        self
    }

    /// A secret that the site names for the decoder.
    #[must_use]
    pub fn secret(mut self, name: &str, bytes: &[u8]) -> Self {
        self.secrets.insert(name.to_owned(), bytes.to_vec());
        self
    }

    /// Bytes of state that are kept, keys and values.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        let entries = self.global.iter();
        entries.map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Decodes messages in one call, at the arrival of the latest of them.
    ///
    /// # Errors
    /// The decoder's fault; nothing that it did counts then.
    ///
    /// # Panics
    /// When the answer breaks the contract.
    pub fn run(&mut self, received: &[Received]) -> Result<Decodings, Fault> {
        let messages = columns(received);
        host::enter(host::Slot {
            settings: self.settings.clone(),
            secrets: self.secrets.clone(),
            now: messages.time.iter().copied().max().unwrap_or_default(),
            global: self.global.clone(),
            ..host::Slot::default()
        });
        let answer = (self.run)(&messages);
        let slot = host::leave();
        let answer = answer?;
        self.global = slot.global;

        assert_eq!(
            answer.ends.len(),
            received.len(),
            "an end for every message"
        );
        assert_eq!(
            answer.ends.last().map_or(0, |end| *end as usize),
            answer.rows.len(),
            "the last message ends with the rows"
        );
        let begins = std::iter::once(0).chain(answer.ends.iter().copied());
        let rows: Vec<usize> = begins
            .zip(&answer.ends)
            .map(|(begin, end)| {
                assert!(begin <= *end, "messages overlap");
                (end - begin) as usize
            })
            .collect();
        for &(message, _) in &answer.undecoded {
            assert_eq!(rows[message as usize], 0, "an undecoded message has rows");
        }
        assert!(answer.notes.len() <= 16, "too many notes");
        Ok(Decodings {
            stored: sound(&answer.rows),
            rows,
            undecoded: answer.undecoded,
            notes: answer.notes,
            log: slot.log,
        })
    }
}

fn columns(received: &[Received]) -> Messages {
    let mut messages = Messages::default();
    for message in received {
        let topics = &mut messages.topics;
        let topic = match topics.iter().position(|topic| *topic == message.topic) {
            Some(place) => place,
            None => {
                topics.push(message.topic.clone());
                topics.len() - 1
            }
        };
        messages
            .topic
            .push(u32::try_from(topic).unwrap_or(u32::MAX));
        messages.time.push(message.time);
        messages.data.extend(&message.payload);
        let end = u32::try_from(messages.data.len()).unwrap_or(u32::MAX);
        messages.ends.push(end);
    }
    messages
}

/// Runs a decoder's golden vectors, which the gateway runs in its own engine too. The format is in `modules/README.md`.
///
/// # Panics
/// With the vector's name, the step and both sides, where they differ.
pub fn check_decoder_vectors<F: Decoder + Copy + 'static>(decoder: F, vectors: &str) {
    let begin = |settings, secrets| DecoderHarness {
        settings,
        secrets,
        ..DecoderHarness::new(decoder)
    };
    each_step(
        vectors,
        begin,
        &["messages", "expect"],
        |harness, step, place| {
            let messages: Vec<Received> = list(&step["messages"]).iter().map(received).collect();
            expect(&step["expect"], harness.run(&messages), place);
        },
    );
}

/// A message of a vector: its payload is `text`, `hex` (blanks in it mean nothing) or `json`.
fn received(json: &Json) -> Received {
    known(json, &["topic", "time", "text", "hex", "json"], "a message");
    let payload = match (&json["text"], &json["hex"], &json["json"]) {
        (Json::String(text), Json::Null, Json::Null) => text.clone().into_bytes(),
        (Json::Null, Json::String(digits), Json::Null) => hex(digits),
        (Json::Null, Json::Null, json) if !json.is_null() => json.to_string().into_bytes(),
        (text, hex, json) => panic!("{text} {hex} {json}: a message has one payload"),
    };
    Received {
        topic: json["topic"].as_str().expect("a topic").to_owned(),
        time: json["time"].as_i64().unwrap_or(0),
        payload,
    }
}

/// The bytes of hex digits, between which blanks mean nothing.
///
/// # Panics
/// At anything else.
#[must_use]
pub fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            c.to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .expect("a hex digit")
        })
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty(), "an even number of hex digits");
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}

fn expect(expect: &Json, outcome: Result<Decodings, Fault>, place: &str) {
    known(expect, &["stored", "undecoded", "notes", "fault"], place);
    let Some(outcome) = expect_fault(expect, outcome, place) else {
        return;
    };
    expect_reasons(expect, ("undecoded", "message"), &outcome.undecoded, place);
    expect_stored(expect, &outcome.stored, place);
    expect_each(expect, "notes", &outcome.notes, place, |expected, note| {
        expected.as_str().is_some_and(|part| note.contains(part))
    });
}
