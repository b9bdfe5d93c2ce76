//! `tidegate:module` as Rust types, the same for 0.1.0 and 0.2.0, and what becomes of a guest's answer when nothing in it
//! is believed unchecked.

use std::sync::Arc;

use tidegate_domain::{Batch, Value};
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::bounds::SlotLimits;
use crate::columns;

/// Bytes of a reason or fault that are kept; the rest is cut.
const REASON_BYTES: usize = 1024;

/// A batch on its way in: names and texts cross one by one, every other column as one copy.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct BatchRef<'a> {
    names: &'a [Arc<str>],
    series: &'a [u32],
    time: &'a [i64],
    kind: &'a [u8],
    bits: &'a [u64],
    texts: &'a [Arc<str>],
    quality: &'a [u8],
}

impl<'a> From<&'a Batch> for BatchRef<'a> {
    fn from(batch: &'a Batch) -> Self {
        Self {
            names: &batch.names,
            series: &batch.series,
            time: &batch.time,
            kind: &batch.kind,
            bits: &batch.bits,
            texts: &batch.texts,
            quality: &batch.quality,
        }
    }
}

/// A batch on its way out.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct GuestBatch {
    names: Vec<Arc<str>>,
    series: Vec<u32>,
    time: Vec<i64>,
    kind: Vec<u8>,
    bits: Vec<u64>,
    texts: Vec<Arc<str>>,
    quality: Vec<u8>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl From<Batch> for GuestBatch {
    fn from(batch: Batch) -> Self {
        Self {
            names: batch.names,
            series: batch.series,
            time: batch.time,
            kind: batch.kind,
            bits: batch.bits,
            texts: batch.texts,
            quality: batch.quality,
        }
    }
}

impl GuestBatch {
    pub(crate) fn adopt(self) -> Result<Batch, String> {
        columns::adopt(Batch {
            names: self.names,
            series: self.series,
            time: self.time,
            kind: self.kind,
            bits: self.bits,
            texts: self.texts,
            quality: self.quality,
        })
    }
}

/// Which rows go on.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Keep {
    #[component(name = "all")]
    All,
    #[component(name = "none")]
    None,
    #[component(name = "rows")]
    Rows(Vec<u8>),
    #[component(name = "changed")]
    Changed(GuestBatch),
    #[component(name = "rows-changed")]
    RowsChanged((Vec<u8>, GuestBatch)),
}

/// A row that the filter could not judge.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Rejection {
    row: u32,
    reason: String,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Rejection {
    pub(crate) fn new(row: u32, reason: String) -> Self {
        Self { row, reason }
    }
}

/// What became of a batch.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Output {
    pub(crate) keep: Keep,
    pub(crate) derived: Option<GuestBatch>,
    pub(crate) rejected: Vec<Rejection>,
}

/// The whole batch could not be judged.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Fault {
    message: String,
}

/// Parameters and results of `process`.
pub(crate) type Parameters<'a> = (BatchRef<'a>,);
/// See [`Parameters`].
pub(crate) type Results = (Result<Output, Fault>,);

/// Parameters and results of `tick`: the present, and the series that it is about.
pub(crate) type TickParameters<'a> = (i64, &'a [Arc<str>]);
/// See [`TickParameters`].
pub(crate) type TickResults = (Result<GuestBatch, Fault>,);

impl Fault {
    pub(crate) fn message(self) -> String {
        cut(self.message, REASON_BYTES)
    }
}

/// A filter's answer, checked against the batch that it was asked about.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Per row of the input: it goes on. `None` where all do. Never set for a rejected row.
    pub(crate) kept: Option<Vec<bool>>,
    /// What goes on instead of the input's own contents.
    pub(crate) contents: Contents,
    pub(crate) derived: Option<Batch>,
    /// By row, each once.
    pub(crate) rejected: Vec<(usize, String)>,
}

#[derive(Debug)]
pub(crate) enum Contents {
    /// The input's.
    Input,
    /// One row for every row of the input.
    Whole(Batch),
    /// One row for every row that goes on.
    Kept(Batch),
}

impl Output {
    /// Rows that belong to no input.
    pub(crate) fn adding(rows: GuestBatch) -> Self {
        Self {
            keep: Keep::All,
            derived: Some(rows),
            rejected: Vec::new(),
        }
    }

    /// # Errors
    /// What in the answer means nothing, for people.
    pub(crate) fn judge(self, rows: usize, limits: &SlotLimits) -> Result<Verdict, String> {
        let mut rejected: Vec<(usize, String)> = Vec::with_capacity(self.rejected.len());
        for Rejection { row, reason } in self.rejected {
            let row = row as usize;
            if row >= rows {
                return Err(format!("it rejects row {row} of {rows}"));
            }
            rejected.push((row, cut(reason, REASON_BYTES)));
        }
        // Stable: of several reasons for a row the first is kept.
        rejected.sort_by_key(|(row, _)| *row);
        rejected.dedup_by_key(|(row, _)| *row);

        let (mut kept, contents) = match self.keep {
            Keep::All => (None, Contents::Input),
            Keep::None => (Some(vec![false; rows]), Contents::Input),
            Keep::Rows(bitmap) => (Some(mask(&bitmap, rows)?), Contents::Input),
            Keep::Changed(batch) => {
                let batch = batch.adopt()?;
                length("changed", batch.len(), rows)?;
                (None, Contents::Whole(batch))
            }
            Keep::RowsChanged((bitmap, batch)) => {
                let mask = mask(&bitmap, rows)?;
                let mut batch = batch.adopt()?;
                length(
                    "rows-changed",
                    batch.len(),
                    mask.iter().filter(|kept| **kept).count(),
                )?;
                if !rejected.is_empty() {
                    let mut of_kept = vec![true; rows];
                    for (row, _) in &rejected {
                        of_kept[*row] = false;
                    }
                    let of_kept: Vec<bool> = of_kept
                        .into_iter()
                        .zip(&mask)
                        .filter_map(|(sound, kept)| kept.then_some(sound))
                        .collect();
                    columns::retain(&mut batch, &of_kept);
                }
                (Some(mask), Contents::Kept(batch))
            }
        };
        if !rejected.is_empty() {
            let kept = kept.get_or_insert_with(|| vec![true; rows]);
            for (row, _) in &rejected {
                kept[*row] = false;
            }
        }
        let derived = self.derived.map(GuestBatch::adopt).transpose()?;
        if let Some(derived) = &derived
            && derived.len() > limits.output_rows
        {
            return Err(format!(
                "it adds {} rows; {} in a call are possible",
                derived.len(),
                limits.output_rows
            ));
        }
        let changed = match &contents {
            Contents::Input => None,
            Contents::Whole(batch) | Contents::Kept(batch) => Some(batch),
        };
        let bytes: usize = [changed, derived.as_ref()]
            .into_iter()
            .flatten()
            .map(bytes)
            .sum();
        if bytes > limits.output_bytes {
            return Err(format!(
                "its rows have {bytes} bytes, each with its name and its text; {} in a call are possible",
                limits.output_bytes
            ));
        }
        Ok(Verdict {
            kept,
            contents,
            derived,
            rejected,
        })
    }
}

fn length(what: &str, got: usize, want: usize) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    Err(format!("`{what}` has {got} rows where {want} are due"))
}

/// What the rows come to where each has its name and its text for itself, as in a message to the cloud.
pub(crate) fn bytes(batch: &Batch) -> usize {
    /// Time, kind, bits and quality.
    const FIXED: usize = 8 + 1 + 8 + 1;
    (0..batch.len())
        .map(|row| {
            let text = match batch.value(row) {
                Value::Text(text) => text.len(),
                Value::Float(_) | Value::Int(_) | Value::Bool(_) => 0,
            };
            FIXED + batch.name(row).len() + text
        })
        .sum()
}

fn mask(bitmap: &[u8], rows: usize) -> Result<Vec<bool>, String> {
    let want = rows.div_ceil(8);
    if bitmap.len() != want {
        return Err(format!(
            "a bitmap of {} bytes for {rows} rows; {want} are due",
            bitmap.len()
        ));
    }
    Ok((0..rows)
        .map(|row| bitmap[row / 8] >> (row % 8) & 1 == 1)
        .collect())
}

/// At most so many bytes of a text, not ending within a character.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
    text
}

/// `log.level`
#[expect(
    dead_code,
    reason = "only guests make them; lifting goes by the number"
)]
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// `alarm.severity`
#[expect(
    dead_code,
    reason = "only guests make them; lifting goes by the number"
)]
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Severity {
    #[component(name = "info")]
    Info,
    #[component(name = "warning")]
    Warning,
    #[component(name = "critical")]
    Critical,
}
