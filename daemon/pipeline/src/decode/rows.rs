//! The batch under construction.

use tidegate_domain::limits::{MESSAGE_READINGS, TEXT_BYTES};
use tidegate_domain::{Batch, Quality, Value};

use super::DecodeFailure;
use super::names::Names;

/// Rows of finished messages, those of the present one behind them, and the name of the series at hand.
pub(super) struct Rows {
    batch: Batch,
    names: Names,
    /// Topic and path: the name of the series at hand.
    path: String,
    topic: usize,
    arrival: i64,
    /// Where the present message begins, in rows and texts.
    begin: (usize, usize),
}

impl Rows {
    pub(super) fn new() -> Self {
        Self {
            batch: Batch::default(),
            names: Names::new(),
            path: String::new(),
            topic: 0,
            arrival: 0,
            begin: (0, 0),
        }
    }

    /// Begins a message.
    pub(super) fn begin(&mut self, topic: &str, arrival: i64) {
        self.path.clear();
        self.path.push_str(topic);
        self.topic = topic.len();
        self.arrival = arrival;
        self.begin = (self.batch.len(), self.batch.texts.len());
    }

    /// Goes to a series by its full name, whatever the topic is.
    pub(super) fn name(&mut self, series: &str) {
        self.path.clear();
        self.path.push_str(series);
        self.topic = 0;
    }

    /// Keeps the present message's rows and says how many they are.
    pub(super) fn keep(&mut self) -> u32 {
        // Never more than `MESSAGE_READINGS`.
        u32::try_from(self.batch.len() - self.begin.0).unwrap_or(u32::MAX)
    }

    /// Takes the present message's rows back. Names that only it had stay, which a batch allows.
    pub(super) fn discard(&mut self) {
        let (rows, texts) = self.begin;
        self.batch.series.truncate(rows);
        self.batch.time.truncate(rows);
        self.batch.kind.truncate(rows);
        self.batch.bits.truncate(rows);
        self.batch.quality.truncate(rows);
        self.batch.texts.truncate(texts);
    }

    /// The batch; the next message begins another.
    pub(super) fn finish(&mut self) -> Batch {
        self.names.next_batch();
        let rows = self.batch.len();
        // The next batch is likely to be as long.
        let next = Batch {
            series: Vec::with_capacity(rows),
            time: Vec::with_capacity(rows),
            kind: Vec::with_capacity(rows),
            bits: Vec::with_capacity(rows),
            quality: Vec::with_capacity(rows),
            ..Batch::default()
        };
        std::mem::replace(&mut self.batch, next)
    }

    /// The series' path below the topic, without the `/` between them; empty at the topic itself.
    pub(super) fn field(&self) -> &str {
        self.path.get(self.topic + 1..).unwrap_or_default()
    }

    /// Goes down one level; what comes back is for [`Rows::ascend`]. The level's name is appended to what is returned
    /// by [`Rows::path`].
    pub(super) fn descend(&mut self) -> usize {
        let back = self.path.len();
        self.path.push('/');
        back
    }

    /// The name so far, to be appended to.
    pub(super) fn path(&mut self) -> &mut String {
        &mut self.path
    }

    /// Goes back to where [`Rows::descend`] was.
    pub(super) fn ascend(&mut self, back: usize) {
        self.path.truncate(back);
    }

    /// The column of the series at hand.
    pub(super) fn column(&mut self) -> Result<u32, DecodeFailure> {
        self.names
            .column(&self.path, self.topic, &mut self.batch.names)
    }

    /// Appends a reading of the series at hand, at the time of arrival.
    pub(super) fn push(&mut self, value: Value<'_>, quality: Quality) -> Result<(), DecodeFailure> {
        let column = self.column()?;
        self.push_at(column, self.arrival, value, quality)
    }

    /// Appends a reading of the series with that column.
    pub(super) fn push_at(
        &mut self,
        column: u32,
        time: i64,
        value: Value<'_>,
        quality: Quality,
    ) -> Result<(), DecodeFailure> {
        if self.batch.len() - self.begin.0 == MESSAGE_READINGS {
            return Err(DecodeFailure::oversize(format!(
                "the message has more than {MESSAGE_READINGS} readings"
            )));
        }
        if let Value::Text(text) = value
            && text.len() > TEXT_BYTES
        {
            return Err(DecodeFailure::oversize(format!(
                "the series `{}` has a text of {} bytes; {TEXT_BYTES} are allowed",
                self.batch.names[column as usize],
                text.len()
            )));
        }
        self.batch.push(column, time, value, quality);
        Ok(())
    }

    /// The time of arrival.
    pub(super) fn arrival(&self) -> i64 {
        self.arrival
    }

    /// Gives the present message's rows their time.
    pub(super) fn set_time(&mut self, time: i64) {
        self.batch.time[self.begin.0..].fill(time);
    }
}
