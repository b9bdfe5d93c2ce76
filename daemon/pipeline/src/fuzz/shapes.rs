//! What is read and checked without a guest: payloads, manifests, and the shapes that answers of guests have once they are
//! out of its memory.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_domain::reading::{Kind, Quality};
use tidegate_domain::{Arrival, Batch, Message, limits};

use super::Choices;
use crate::SlotLimits;
use crate::columns::{append, gather, retain};
use crate::contract::{Contents, GuestBatch, Keep, Output, Rejection};
use crate::decode::{As, DecodeConfig, Decoder, TimeUnit};
use crate::manifest::Manifest;

/// A message's payload, after a byte that chooses how it is decoded.
pub fn payloads(input: &[u8]) -> bool {
    let Some((&choice, payload)) = input.split_first() else {
        return false;
    };
    let columns = || ["ts", "temp", "name"].map(str::to_owned).to_vec();
    let format = match choice & 3 {
        0 => As::Csv {
            columns: columns(),
            separator: b',',
        },
        1 => As::Text,
        _ => As::Json,
    };
    let time_field = (choice & 4 != 0 && format != As::Text).then(|| "ts".to_owned());
    let config = DecodeConfig {
        format,
        time_field,
        time_unit: match choice >> 3 & 3 {
            0 => TimeUnit::Seconds,
            1 => TimeUnit::Millis,
            2 => TimeUnit::Micros,
            _ => TimeUnit::Nanos,
        },
    };
    let message = Message {
        source: 0,
        topic: "plant/line1".into(),
        payload: payload.to_vec().into(),
        arrival: Arrival::default(),
        ack: None,
        redelivered: false,
        identity: None,
    };
    let decoded = Decoder::new(config).unwrap().decode(&[message]);
    decoded.batch.validate().unwrap();
    assert_eq!(decoded.batch.len(), decoded.rows[0] as usize);
    assert!(decoded.failures.is_empty() || decoded.batch.is_empty());
    assert_eq!(decoded.decoded + decoded.failures.len() as u64, 1);
    for row in 0..decoded.batch.len() {
        let name = decoded.batch.name(row);
        assert!((1..=limits::SERIES_NAME_BYTES).contains(&name.len()));
    }
    !decoded.batch.is_empty()
}

/// A manifest, which is what it says once it is written again, and judges settings without harm.
pub fn manifest(json: &[u8]) -> bool {
    let Ok(manifest) = Manifest::parse(json) else {
        return false;
    };
    let settings = serde_json::json!({"min": -7, "list": ["a", 3, null], "other": {"deep": []}});
    drop(manifest.settings_problems(&settings));
    let again = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::parse(&again).unwrap(), manifest);
    true
}

/// Columns that a guest may have handed out. Those that are taken mean something in every row, and stay so when they are cut
/// and put together again.
pub fn batches(input: &[u8]) -> bool {
    let mut choices = Choices(input);
    let given = columns(&mut choices);
    let Ok(whole) = GuestBatch::from(given.clone()).adopt() else {
        return false;
    };
    whole.validate().unwrap();
    assert_eq!(whole.len(), given.len());
    let mut named = HashSet::new();
    for row in 0..whole.len() {
        assert_eq!(whole.name(row), &given.names[given.series[row] as usize]);
        assert_eq!(whole.value_bits(row), given.value_bits(row));
        let bad =
            whole.kind[row] == Kind::Float as u8 && !f64::from_bits(whole.bits[row]).is_finite();
        let quality = if bad {
            Quality::Bad as u8
        } else {
            given.quality[row]
        };
        assert_eq!(whole.quality[row], quality);
        named.insert((whole.series[row], whole.name(row).clone()));
    }
    let names: HashSet<&Arc<str>> = named.iter().map(|(_, name)| name).collect();
    assert_eq!(names.len(), named.len(), "one name, two series");

    let mask: Vec<bool> = (0..whole.len()).map(|_| choices.byte() & 1 == 1).collect();
    let mut front = gather(&whole, 0, |row| mask[row]);
    let back = gather(&whole, 0, |row| !mask[row]);
    let mut kept = whole.clone();
    retain(&mut kept, &mask);
    assert_eq!(rows(&kept), rows(&front));
    let mut want = rows(&front);
    want.extend(rows(&back));
    append(&mut front, back);
    front.validate().unwrap();
    assert_eq!(rows(&front), want);
    !whole.is_empty()
}

/// A whole answer of a filter, as it is once it has left the guest's memory.
pub fn outputs(input: &[u8]) -> bool {
    let mut choices = Choices(input);
    let rows = choices.below(40);
    let limits = SlotLimits {
        output_rows: choices.below(64),
        output_bytes: choices.below(64) * 256,
        ..SlotLimits::default()
    };
    let bitmap = |choices: &mut Choices<'_>| {
        let length = choices.or_odd(u32::try_from(rows.div_ceil(8)).unwrap());
        choices.bytes(length as usize).to_vec()
    };
    let keep = match choices.below(5) {
        0 => Keep::All,
        1 => Keep::None,
        2 => Keep::Rows(bitmap(&mut choices)),
        3 => Keep::Changed(columns(&mut choices).into()),
        _ => Keep::RowsChanged((bitmap(&mut choices), columns(&mut choices).into())),
    };
    let derived = (choices.below(2) == 1).then(|| columns(&mut choices).into());
    let rejected = (0..choices.below(4)).map(|_| {
        let row = choices.below(40);
        Rejection::new(choices.or_odd(u32::try_from(row).unwrap()), choices.text())
    });
    let output = Output {
        keep,
        derived,
        rejected: rejected.collect(),
    };
    let Ok(verdict) = output.judge(rows, &limits) else {
        return false;
    };
    let kept = verdict.kept.clone().unwrap_or_else(|| vec![true; rows]);
    assert_eq!(kept.len(), rows);
    let going = kept.iter().filter(|kept| **kept).count();
    let changed = match &verdict.contents {
        Contents::Input => None,
        Contents::Whole(batch) => {
            assert_eq!(batch.len(), rows);
            Some(batch)
        }
        Contents::Kept(batch) => {
            assert_eq!(batch.len(), going);
            Some(batch)
        }
    };
    let mut bytes = 0;
    for batch in changed.into_iter().chain(&verdict.derived) {
        batch.validate().unwrap();
        bytes += crate::contract::bytes(batch);
    }
    assert!(bytes <= limits.output_bytes);
    assert!(verdict.derived.map_or(0, |derived| derived.len()) <= limits.output_rows);
    for pair in verdict.rejected.windows(2) {
        assert!(pair[0].0 < pair[1].0, "each row once, in order");
    }
    for (row, reason) in &verdict.rejected {
        assert!(!kept[*row] && reason.len() <= 1024);
    }
    true
}

/// Columns that mostly mean something.
fn columns(choices: &mut Choices<'_>) -> Batch {
    let names: Vec<Arc<str>> = (0..choices.below(4))
        .map(|_| choices.text().into())
        .collect();
    let texts: Vec<Arc<str>> = (0..choices.below(3))
        .map(|_| choices.text().into())
        .collect();
    let mut batch = Batch {
        names,
        texts,
        ..Batch::default()
    };
    for _ in 0..choices.below(48) {
        let series = choices.below(batch.names.len().max(1));
        let series = choices.or_odd(u32::try_from(series).unwrap());
        let kind = choices.below(5);
        let bits = match kind {
            2 => choices.number(1) & 1,
            3 => choices.number(1) % (batch.texts.len() as u64).max(1),
            _ => choices.number(8),
        };
        batch.series.push(series);
        batch.time.push(choices.number(8).cast_signed());
        batch.kind.push(u8::try_from(kind % 4).unwrap());
        batch.bits.push(bits);
        batch.quality.push(choices.or_odd(0).to_le_bytes()[0] % 4);
    }
    match choices.byte() {
        0xFF => batch.time.push(0),
        0xFE => drop(batch.bits.pop()),
        0xFD => batch.quality.clear(),
        0xFC => batch.kind.push(0),
        _ => {}
    }
    batch
}

/// What a reader of the rows sees.
fn rows(batch: &Batch) -> Vec<(Arc<str>, i64, u8, ValueBits, u8)> {
    (0..batch.len())
        .map(|row| {
            (
                Arc::clone(batch.name(row)),
                batch.time[row],
                batch.kind[row],
                batch.value_bits(row),
                batch.quality[row],
            )
        })
        .collect()
}

/// A value that can be compared where it is not a number, too.
#[derive(Debug, PartialEq)]
enum ValueBits {
    Number(u64),
    Text(Arc<str>),
}

trait Bits {
    fn value_bits(&self, row: usize) -> ValueBits;
}

impl Bits for Batch {
    fn value_bits(&self, row: usize) -> ValueBits {
        if self.kind[row] == Kind::Text as u8 {
            let at = usize::try_from(self.bits[row]).unwrap();
            ValueBits::Text(Arc::clone(&self.texts[at]))
        } else {
            ValueBits::Number(self.bits[row])
        }
    }
}
