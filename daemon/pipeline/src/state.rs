//! What filters keep between batches. It lives in the host: an instance sees its part of it for one call, and what it
//! leaves there becomes true only if the call succeeds.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use tidegate_domain::limits;
use tidegate_domain::outcome::StateChange;

use crate::bounds::SlotLimits;
use crate::manifest::StateKind;

/// The state of one slot.
#[derive(Clone, Debug)]
pub(crate) enum SlotState {
    None,
    Series(SeriesState),
    Global(Arc<GlobalState>),
}

impl SlotState {
    /// All of it, as the change that makes it out of nothing; series in the order of their names.
    pub(crate) fn snapshot(&self) -> Option<StateChange> {
        match self {
            Self::None => None,
            Self::Series(state) => {
                let mut names: Vec<Arc<str>> = state.index.keys().cloned().collect();
                names.sort_unstable();
                Some(StateChange::Series {
                    width: state.width,
                    records: state.column(&names),
                    names,
                })
            }
            Self::Global(state) => {
                let entries = state.entries.iter();
                let entries = entries.map(|(key, value)| (key.clone(), Some(value.to_vec())));
                Some(StateChange::Global(entries.collect()))
            }
        }
    }

    /// The state that a snapshot holds. One of another kind or width belongs to another version of the module, which is
    /// nothing to this one: it starts afresh, and says so.
    pub(crate) fn restore(kind: StateKind, snapshot: Option<&StateChange>, slot: &str) -> Self {
        let fitting = match (kind, snapshot) {
            (StateKind::Series { width }, Some(StateChange::Series { width: w, .. })) => {
                width == *w
            }
            (StateKind::Global, Some(StateChange::Global(_))) | (_, None) => true,
            (StateKind::None | StateKind::Series { .. } | StateKind::Global, Some(_)) => false,
        };
        if !fitting {
            tracing::warn!(
                slot,
                "the stored state is of another kind or width than the module declares; the filter starts without it"
            );
        }
        let snapshot = snapshot.filter(|_| fitting);
        match kind {
            StateKind::None => Self::None,
            StateKind::Series { width } => {
                let mut state = SeriesState::new(width);
                if let Some(StateChange::Series { names, records, .. }) = snapshot {
                    for (name, record) in names.iter().zip(records.chunks_exact(width)) {
                        state.put(name, record);
                    }
                }
                Self::Series(state)
            }
            StateKind::Global => {
                let mut state = GlobalState::default();
                if let Some(StateChange::Global(entries)) = snapshot {
                    state.apply(entries);
                }
                Self::Global(Arc::new(state))
            }
        }
    }
}

/// One record of fixed width a series, all in one piece of memory.
#[derive(Clone, Debug)]
pub(crate) struct SeriesState {
    width: usize,
    /// Where a series' record begins.
    index: HashMap<Arc<str>, usize>,
    records: Vec<u8>,
    /// Of every record, in their order, whose it is.
    places: Vec<Option<Arc<str>>>,
    free: Vec<usize>,
}

impl SeriesState {
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width,
            index: HashMap::new(),
            records: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Places of records; some may be free.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// The series in these places, so many at most, and the place behind the last of them. Their order is that of their
    /// first records, the same for the same input.
    pub(crate) fn series_in(&self, places: Range<usize>, most: usize) -> (Vec<Arc<str>>, usize) {
        let mut names = Vec::new();
        let mut next = places.start;
        for place in &self.places[places] {
            if names.len() == most {
                break;
            }
            next += 1;
            names.extend(place.clone());
        }
        (names, next)
    }

    /// One record for every name; zeros where there is none.
    pub(crate) fn column(&self, names: &[Arc<str>]) -> Vec<u8> {
        let mut column = Vec::with_capacity(names.len() * self.width);
        for name in names {
            match self.index.get(name) {
                Some(&at) => column.extend_from_slice(&self.records[at..at + self.width]),
                None => column.resize(column.len() + self.width, 0),
            }
        }
        column
    }

    /// Takes over a column of the same shape as [`SeriesState::column`] gave for these names, and says what is new.
    ///
    /// # Errors
    /// More series than `bound`; then nothing has changed.
    pub(crate) fn replace(
        &mut self,
        names: &[Arc<str>],
        before: &[u8],
        after: &[u8],
        bound: usize,
    ) -> Result<Option<StateChange>, TooManySeries> {
        let changed = || {
            names
                .iter()
                .zip(before.chunks_exact(self.width))
                .zip(after.chunks_exact(self.width))
                .filter(|((_, before), after)| before != after)
                .map(|((name, _), after)| (name, after))
        };
        let added = changed()
            .filter(|(name, _)| !self.index.contains_key(*name))
            .count();
        if added > 0 && self.index.len() + added > bound {
            return Err(TooManySeries(bound));
        }
        let changes: Vec<(&Arc<str>, &[u8])> = changed().collect();
        if changes.is_empty() {
            return Ok(None);
        }
        let mut names = Vec::with_capacity(changes.len());
        let mut records = Vec::with_capacity(changes.len() * self.width);
        for (name, record) in changes {
            self.put(name, record);
            names.push(Arc::clone(name));
            records.extend_from_slice(record);
        }
        Ok(Some(StateChange::Series {
            width: self.width,
            names,
            records,
        }))
    }

    /// A record of zeros deletes.
    fn put(&mut self, name: &Arc<str>, record: &[u8]) {
        let empty = record.iter().all(|byte| *byte == 0);
        if empty {
            if let Some(at) = self.index.remove(name) {
                self.places[at / self.width] = None;
                self.free.push(at);
            }
            return;
        }
        let at = match self.index.get(name) {
            Some(&at) => at,
            None => {
                let at = self.free.pop().unwrap_or_else(|| {
                    let at = self.records.len();
                    self.records.resize(at + self.width, 0);
                    self.places.push(None);
                    at
                });
                self.places[at / self.width] = Some(Arc::clone(name));
                self.index.insert(Arc::clone(name), at);
                at
            }
        };
        self.records[at..at + self.width].copy_from_slice(record);
    }
}

/// See [`SeriesState::replace`].
#[derive(Debug, thiserror::Error)]
#[error("state for more than {0} series")]
pub(crate) struct TooManySeries(usize);

/// Keys and values, bounded by the slot's limits.
#[derive(Clone, Debug, Default)]
pub(crate) struct GlobalState {
    entries: BTreeMap<String, Arc<[u8]>>,
    bytes: usize,
}

impl GlobalState {
    fn apply(&mut self, changes: &[(String, Option<Vec<u8>>)]) {
        for (key, value) in changes {
            if let Some(old) = self.entries.remove(key) {
                self.bytes -= key.len() + old.len();
            }
            if let Some(value) = value {
                self.bytes += key.len() + value.len();
                self.entries.insert(key.clone(), value.as_slice().into());
            }
        }
    }
}

/// One call's view of the global state: what was there, and what the call changed.
#[derive(Debug)]
pub(crate) struct GlobalView {
    base: Arc<GlobalState>,
    changes: BTreeMap<String, Option<Arc<[u8]>>>,
    /// Keys and bytes there would be with the changes.
    keys: usize,
    bytes: usize,
    limits: SlotLimits,
}

impl GlobalView {
    pub(crate) fn new(base: &Arc<GlobalState>, limits: &SlotLimits) -> Self {
        Self {
            base: Arc::clone(base),
            changes: BTreeMap::new(),
            keys: base.entries.len(),
            bytes: base.bytes,
            limits: *limits,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        match self.changes.get(key) {
            Some(value) => value.clone(),
            None => self.base.entries.get(key).cloned(),
        }
    }

    /// # Errors
    /// For the module: what does not fit.
    pub(crate) fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        if key.len() > limits::GLOBAL_STATE_KEY_BYTES {
            return Err(format!(
                "a key of {} bytes; {} are possible",
                key.len(),
                limits::GLOBAL_STATE_KEY_BYTES
            ));
        }
        let old = self.get(&key);
        let keys = self.keys + usize::from(old.is_none());
        let old = old.map_or(0, |old| key.len() + old.len());
        let bytes = self.bytes - old + key.len() + value.len();
        // What is above a bound that was lowered since may still shrink.
        if keys > self.limits.state_keys && keys > self.keys {
            return Err(format!(
                "state would have {keys} keys; {} are possible",
                self.limits.state_keys
            ));
        }
        if bytes > self.limits.state_bytes && bytes > self.bytes {
            return Err(format!(
                "state would have {bytes} bytes; {} are possible",
                self.limits.state_bytes
            ));
        }
        self.keys = keys;
        self.bytes = bytes;
        self.changes.insert(key, Some(value.into()));
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: String) {
        if let Some(old) = self.get(&key) {
            self.bytes -= key.len() + old.len();
            self.keys -= 1;
            if self.base.entries.contains_key(&key) {
                self.changes.insert(key, None);
            } else {
                self.changes.remove(&key);
            }
        }
    }

    /// Makes the call's changes the truth.
    pub(crate) fn commit(self, state: &mut Arc<GlobalState>) -> Option<StateChange> {
        let Self { base, changes, .. } = self;
        let changes: Vec<(String, Option<Vec<u8>>)> = changes
            .into_iter()
            .filter(|(key, value)| base.entries.get(key) != value.as_ref())
            .map(|(key, value)| (key, value.map(|value| value.to_vec())))
            .collect();
        // The view's own reference would make the state be copied below.
        drop(base);
        if changes.is_empty() {
            return None;
        }
        Arc::make_mut(state).apply(&changes);
        Some(StateChange::Global(changes))
    }
}
