//! What a decoder remembers, key by key, in its global state: it survives the instance and commits with the messages.

use std::collections::BTreeMap;

use tidegate_sdk::{Fault, global_state};

/// Where the count of bytes is kept.
const BYTES: &str = "bytes";

/// What one call reads and changes of it. A key is read once, and what has changed is written at the end of the call.
#[derive(Debug, Default)]
pub struct Kept {
    entries: BTreeMap<String, Entry>,
    bytes: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    value: Option<Vec<u8>>,
    changed: bool,
}

impl Kept {
    /// What is kept under a key.
    pub fn get(&mut self, key: &str) -> Option<&[u8]> {
        if !self.entries.contains_key(key) {
            let entry = Entry {
                value: global_state::get(key),
                changed: false,
            };
            self.entries.insert(key.to_owned(), entry);
        }
        self.entries.get(key)?.value.as_deref()
    }

    /// Keeps a value, or with `None` forgets the key.
    pub fn set(&mut self, key: &str, value: Option<Vec<u8>>) {
        let before = self.get(key);
        if before == value.as_deref() {
            return;
        }
        let size = |value: Option<&[u8]>| value.map_or(0, |value| key.len() + value.len());
        let (before, after) = (size(before), size(value.as_deref()));
        self.bytes = Some(self.bytes().saturating_sub(before) + after);
        let changed = true;
        self.entries
            .insert(key.to_owned(), Entry { value, changed });
    }

    /// Bytes of all keys and values that are kept.
    pub fn bytes(&mut self) -> usize {
        if let Some(bytes) = self.bytes {
            return bytes;
        }
        let kept = self.get(BYTES).and_then(|kept| kept.try_into().ok());
        let bytes = usize::try_from(kept.map_or(0, u32::from_le_bytes)).unwrap_or_default();
        self.bytes = Some(bytes);
        bytes
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// Where the site gives this decoder less state than what its own bounds come to.
    pub fn save(mut self) -> Result<(), Fault> {
        self.entries.remove(BYTES);
        let changed = || self.entries.iter().filter(|(_, entry)| entry.changed);
        // Deleted first, so that there is room.
        for (key, _) in changed().filter(|(_, entry)| entry.value.is_none()) {
            global_state::delete(key);
        }
        for (key, entry) in changed() {
            if let Some(value) = &entry.value {
                global_state::set(key, value)?;
            }
        }
        match self.bytes.map(u32::try_from) {
            Some(Ok(bytes)) if changed().next().is_some() => {
                global_state::set(BYTES, &bytes.to_le_bytes())
            }
            _ => Ok(()),
        }
    }
}
