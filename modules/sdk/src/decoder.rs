//! From a function to a decoder: messages in, readings out.

use crate::SERIES_NAME_BYTES;
use crate::batch::{Batch, Quality, Value};
use crate::filter::{Fault, clip};
use crate::output::Names;

/// Bytes of a text value; a longer one makes its message undecoded.
const TEXT_BYTES: usize = 16 * 1024;
/// Readings of one message; one with more is undecoded.
const MESSAGE_READINGS: usize = 65_536;
/// Notes of one call; the last of them counts those that found no room.
const NOTES: usize = 16;

/// Messages of one source, in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages {
    pub(crate) topics: Vec<String>,
    pub(crate) topic: Vec<u32>,
    pub(crate) time: Vec<i64>,
    pub(crate) ends: Vec<u32>,
    pub(crate) data: Vec<u8>,
}

impl Messages {
    /// The number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topic.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topic.is_empty()
    }

    /// The messages, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        (0..self.len()).map(|index| Message {
            messages: self,
            index,
        })
    }
}

/// One message: cheap to copy, it borrows the columns.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    messages: &'a Messages,
    index: usize,
}

impl<'a> Message<'a> {
    /// Its place in the call, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// The topic it came on.
    #[must_use]
    pub fn topic(self) -> &'a str {
        &self.messages.topics[self.messages.topic[self.index] as usize]
    }

    /// Its arrival: nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn time(self) -> i64 {
        self.messages.time[self.index]
    }

    /// Its bytes.
    #[must_use]
    pub fn payload(self) -> &'a [u8] {
        let ends = &self.messages.ends;
        let begin = self.index.checked_sub(1).map_or(0, |before| ends[before]);
        &self.messages.data[begin as usize..ends[self.index] as usize]
    }
}

/// What became of the messages.
#[derive(Default)]
pub struct Decoded {
    rows: Rows,
    /// Where the rows of each message end, for those that were looked at.
    ends: Vec<u32>,
    undecoded: Vec<(u32, String)>,
    notes: Vec<String>,
    more_notes: u32,
    out_of_order: bool,
}

impl Decoded {
    /// Decodes one message: either all that `decode` adds counts, or the message goes to quarantine for the reason it gives.
    /// Messages are decoded in their order, each once; one that is passed over is decoded to no reading.
    ///
    /// State that `decode` changed before it failed stays changed: change it last.
    pub fn message(
        &mut self,
        message: Message<'_>,
        decode: impl FnOnce(&mut Rows) -> Result<(), String>,
    ) {
        if message.index < self.ends.len() {
            self.out_of_order = true;
            return;
        }
        self.pass_over(message.index);
        self.rows.begin();
        if let Err(reason) = decode(&mut self.rows) {
            self.rows.discard();
            // A call has 1024 messages.
            let index = u32::try_from(message.index).unwrap_or(u32::MAX);
            self.undecoded.push((index, clip(reason)));
        }
        self.pass_over(message.index + 1);
    }

    /// Says something to the gateway's operator, in log and events: a gap in sequence numbers, something left out.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = clip(text.into());
        if self.notes.contains(&text) {
            return;
        }
        if self.notes.len() + 1 < NOTES {
            self.notes.push(text);
        } else {
            self.more_notes += 1;
        }
    }

    fn pass_over(&mut self, to: usize) {
        // Far fewer than u32::MAX rows fit into a module's memory.
        let end = u32::try_from(self.rows.batch.len()).unwrap_or(u32::MAX);
        self.ends.resize(to.max(self.ends.len()), end);
    }

    /// The answer to the gateway about so many messages.
    ///
    /// # Errors
    /// Where messages were not decoded in their order.
    pub(crate) fn finish(mut self, messages: usize) -> Result<DecoderAnswer, Fault> {
        if self.out_of_order {
            return Err(Fault::new("messages were not decoded in their order"));
        }
        self.pass_over(messages);
        if self.more_notes > 0 {
            self.notes.push(format!("and {} more", self.more_notes));
        }
        let Rows { batch, names, .. } = self.rows;
        Ok(DecoderAnswer {
            rows: Batch {
                names: names.names,
                ..batch
            },
            ends: self.ends,
            undecoded: self.undecoded,
            notes: self.notes,
        })
    }
}

/// The readings of the message at hand.
#[derive(Default)]
pub struct Rows {
    batch: Batch,
    names: Names,
    /// Rows and texts of the messages before.
    begin: (usize, usize),
}

impl Rows {
    /// Adds a reading. `time` is in nanoseconds since the epoch. A number that is not finite is of bad quality to the gateway.
    ///
    /// # Errors
    /// What the contract does not allow, as the reason why the message is undecoded: a name that is empty, longer than
    /// [`SERIES_NAME_BYTES`] or has a control character, a text beyond 16 KiB, more than 65,536 readings.
    pub fn add<'v>(
        &mut self,
        series: &str,
        time: i64,
        value: impl Into<Value<'v>>,
        quality: Quality,
    ) -> Result<(), String> {
        let series = match self.names.find(series) {
            Some(known) => known,
            None => {
                check(series)?;
                self.names.intern(series.to_owned())
            }
        };
        let value = value.into();
        if let Value::Text(text) = value
            && text.len() > TEXT_BYTES
        {
            return Err(format!(
                "a text of {} bytes; {TEXT_BYTES} are possible",
                text.len()
            ));
        }
        if self.batch.len() - self.begin.0 == MESSAGE_READINGS {
            return Err(format!("more than {MESSAGE_READINGS} readings"));
        }
        self.batch.push(series, time, value, quality);
        Ok(())
    }

    /// The readings that the message at hand has so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.len() - self.begin.0
    }

    /// True when it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn begin(&mut self) {
        self.begin = (self.batch.len(), self.batch.texts.len());
    }

    /// Takes the present message's rows back. Names that only it had stay, which a batch allows.
    fn discard(&mut self) {
        let (rows, texts) = self.begin;
        self.batch.series.truncate(rows);
        self.batch.time.truncate(rows);
        self.batch.kind.truncate(rows);
        self.batch.bits.truncate(rows);
        self.batch.quality.truncate(rows);
        self.batch.texts.truncate(texts);
    }
}

fn check(series: &str) -> Result<(), String> {
    if series.is_empty() || series.len() > SERIES_NAME_BYTES {
        let start: String = series.chars().take(40).collect();
        return Err(format!(
            "the series `{start}…` has a name of {} bytes; 1 to {SERIES_NAME_BYTES} are possible",
            series.len()
        ));
    }
    if series.contains(char::is_control) {
        return Err(format!(
            "the series `{}` has a control character in its name",
            series.escape_debug()
        ));
    }
    Ok(())
}

/// What crosses back to the gateway.
pub struct DecoderAnswer {
    pub(crate) rows: Batch,
    pub(crate) ends: Vec<u32>,
    pub(crate) undecoded: Vec<(u32, String)>,
    pub(crate) notes: Vec<String>,
}

/// What the [`decoder!`](crate::decoder!) macro takes: a function over messages.
pub trait Decoder {
    /// Runs it on the messages of one call.
    ///
    /// # Errors
    /// What the function says.
    fn run(&self, messages: &Messages) -> Result<DecoderAnswer, Fault>;
}

impl<F: Fn(&Messages, &mut Decoded) -> Result<(), Fault>> Decoder for F {
    fn run(&self, messages: &Messages) -> Result<DecoderAnswer, Fault> {
        let mut decoded = Decoded::default();
        self(messages, &mut decoded)?;
        decoded.finish(messages.len())
    }
}

/// Lets the compiler say early, and in the decoder's own file, that a function is no decoder.
#[doc(hidden)]
pub const fn is_decoder<F: Decoder>(_: &F) {}

#[cfg(test)]
mod tests {
    use crate::test::{DecoderHarness, Reading, Received};
    use crate::{Decoded, Fault, Messages, Quality};

    /// Every byte is a reading of the topic's series; `!` fails after those before it, `?` is noted.
    fn bytes(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
        for message in messages.iter() {
            if message.payload() == b"skip" {
                continue;
            }
            out.message(message, |rows| {
                for &byte in message.payload() {
                    if byte == b'!' {
                        return Err("an exclamation mark".to_owned());
                    }
                    let text = char::from(byte).to_string();
                    rows.add(message.topic(), message.time(), &*text, Quality::Good)?;
                }
                Ok(())
            });
            if message.payload().contains(&b'?') {
                out.note("a question");
            }
        }
        Ok(())
    }

    #[test]
    fn a_message_is_decoded_whole_or_not_at_all() {
        let mut harness = DecoderHarness::new(bytes);
        let outcome = harness
            .run(&[
                Received::new("a", 1, b"x?"),
                Received::new("b", 2, b"yy!"),
                Received::new("c", 3, b"skip"),
                Received::new("a", 4, b""),
                Received::new("b", 5, b"z?"),
            ])
            .unwrap();
        assert_eq!(
            outcome.stored,
            [
                Reading::new("a", 1, "x"),
                Reading::new("a", 1, "?"),
                Reading::new("b", 5, "z"),
                Reading::new("b", 5, "?"),
            ]
        );
        assert_eq!(outcome.rows, [2, 0, 0, 0, 2]);
        assert_eq!(outcome.undecoded, [(1, "an exclamation mark".to_owned())]);
        assert_eq!(outcome.notes, ["a question"], "said once a call");
    }

    #[test]
    fn what_the_contract_does_not_allow_is_a_reason_of_its_message() {
        let check = |series: &'static str, text: usize, rows: usize, reason: &str| {
            let decode = move |messages: &Messages, out: &mut Decoded| -> Result<(), Fault> {
                for message in messages.iter() {
                    out.message(message, |out| {
                        let text = "x".repeat(text);
                        (0..rows).try_for_each(|_| out.add(series, 0, &*text, Quality::Good))
                    });
                }
                Ok(())
            };
            let outcome = DecoderHarness::new(decode).run(&[Received::new("t", 0, b"")]);
            let outcome = outcome.unwrap();
            if reason.is_empty() {
                assert_eq!(outcome.undecoded, []);
                assert_eq!(outcome.stored.len(), rows);
            } else {
                assert!(outcome.undecoded[0].1.contains(reason), "{outcome:?}");
                assert_eq!(outcome.stored, []);
            }
        };
        check("a", 16 * 1024, 1, "");
        check("a", 16 * 1024 + 1, 1, "a text of 16385 bytes");
        check("", 0, 1, "0 bytes; 1 to 512");
        check("a\nb", 0, 1, "control character");
        check("a", 0, 65_536, "");
        check("a", 0, 65_537, "more than 65536 readings");
    }

    #[test]
    fn notes_are_bounded_and_messages_have_an_order() {
        let notes = |messages: &Messages, out: &mut Decoded| -> Result<(), Fault> {
            (0..messages.len() * 20).for_each(|n| out.note(format!("{n}")));
            Ok(())
        };
        let one = [Received::new("t", 0, b"")];
        let outcome = DecoderHarness::new(notes).run(&one).unwrap();
        assert_eq!(outcome.notes.len(), 16);
        assert_eq!(outcome.notes[15], "and 5 more");

        let twice = |messages: &Messages, out: &mut Decoded| -> Result<(), Fault> {
            for message in messages.iter() {
                out.message(message, |_| Ok(()));
                out.message(message, |_| Ok(()));
            }
            Ok(())
        };
        let fault = DecoderHarness::new(twice).run(&one).unwrap_err();
        assert!(fault.message().contains("in their order"));
    }
}
