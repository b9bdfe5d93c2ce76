//! The series seen so far.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_domain::limits::SERIES_NAME_BYTES;

use super::DecodeFailure;

/// Series that are remembered. A source with more starts the collection over between batches, which costs one
/// allocation for each series.
const SERIES: usize = 100_000;

/// Series names as shared strings, and the column each has in the batch that is being built.
pub(super) struct Names {
    index: HashMap<Arc<str>, Known>,
    /// The number of the batch.
    batch: u64,
}

struct Known {
    /// The last batch in which the series occurred.
    batch: u64,
    /// Its index in that batch's names.
    column: u32,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            index: HashMap::new(),
            batch: 0,
        }
    }

    /// Starts a batch.
    pub(super) fn next_batch(&mut self) {
        self.batch += 1;
        if self.index.len() > SERIES {
            self.index.clear();
        }
    }

    /// The index of a series in `names`, where it is appended if it is new there. `topic` is the length of the part of
    /// the name that is the topic.
    pub(super) fn column(
        &mut self,
        name: &str,
        topic: usize,
        names: &mut Vec<Arc<str>>,
    ) -> Result<u32, DecodeFailure> {
        // Every message has at most `MESSAGE_READINGS` names, and a batch is bounded in bytes: far below u32::MAX.
        let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
        if let Some(known) = self.index.get_mut(name) {
            if known.batch == self.batch {
                return Ok(known.column);
            }
            known.batch = self.batch;
            known.column = next;
        } else {
            check(name, topic)?;
            let known = Known {
                batch: self.batch,
                column: next,
            };
            let name: Arc<str> = name.into();
            self.index.insert(Arc::clone(&name), known);
            names.push(name);
            return Ok(next);
        }
        if let Some((name, _)) = self.index.get_key_value(name) {
            names.push(Arc::clone(name));
        }
        Ok(next)
    }
}

/// Whether a name can be a series: it goes into pages, logs, queries and payloads.
fn check(name: &str, topic: usize) -> Result<(), DecodeFailure> {
    if name.len() > SERIES_NAME_BYTES {
        let start: String = name.chars().take(40).collect();
        return Err(DecodeFailure::oversize(format!(
            "the series `{}…` has a name of {} bytes; {SERIES_NAME_BYTES} are allowed",
            start.escape_debug(),
            name.len()
        )));
    }
    let shown = || name.escape_debug();
    if name.contains('\u{FFFD}') {
        return Err(DecodeFailure::undecodable(format!(
            "the series `{}` has a name that is no UTF-8, or has U+FFFD in it",
            shown()
        )));
    }
    if name.contains(char::is_control) {
        return Err(DecodeFailure::undecodable(format!(
            "the series `{}` has a control character in its name",
            shown()
        )));
    }
    // A topic may have empty levels (`/plant//temp`), a field may not: its series would look like another's.
    if name[topic..].ends_with('/') || name[topic..].contains("//") {
        return Err(DecodeFailure::undecodable(format!(
            "the series `{}` has an empty part in its name",
            shown()
        )));
    }
    Ok(())
}
