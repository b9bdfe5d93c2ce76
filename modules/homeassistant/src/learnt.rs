//! What was learnt from configurations, in the decoder's global state.
//!
//! | key | value |
//! |---|---|
//! | `count` | how many entities there are, the number of the next one, and the bytes that they take at most |
//! | `c/<series>` | the number of an entity |
//! | `e/<number>` | the entity |
//! | `t/<topic>` | the numbers of the entities that a topic has something for |
//!
//! A call reads each of them once, because its memory is not given back before its end, and writes what has changed then.

use std::collections::{BTreeMap, BTreeSet};

use formats::Kept;
use tidegate_sdk::Fault;

use crate::entity::Entity;

/// Entities that are remembered; a further one is refused.
pub(crate) const ENTITIES: u32 = 2_000;
/// Bytes of all that is remembered, within the MiB that the gateway gives.
const BYTES: usize = 900 * 1024;

/// What one call has read and changed.
#[derive(Default)]
pub(crate) struct Learnt {
    kept: Kept,
    /// Of those that were read: which there are.
    entities: BTreeMap<u32, Entity>,
    topics: BTreeMap<String, Vec<u32>>,
    changed_entities: BTreeSet<u32>,
    changed_topics: BTreeSet<String>,
}

impl Learnt {
    /// The entities that a topic has something for.
    pub(crate) fn on_topic(&mut self, topic: &str) -> &mut Vec<u32> {
        let (topics, kept) = (&mut self.topics, &mut self.kept);
        if !topics.contains_key(topic) {
            topics.insert(topic.to_owned(), numbers(kept, &format!("t/{topic}")));
        }
        topics.entry(topic.to_owned()).or_default()
    }

    pub(crate) fn entity(&mut self, number: u32) -> Option<&mut Entity> {
        if !self.entities.contains_key(&number) {
            let kept = self.kept.get(&format!("e/{number}"))?;
            let entity = Entity::from_state(std::str::from_utf8(kept).ok()?)?;
            self.entities.insert(number, entity);
        }
        self.entities.get_mut(&number)
    }

    pub(crate) fn find(&mut self, series: &str) -> Option<(u32, &mut Entity)> {
        let number = *numbers(&mut self.kept, &format!("c/{series}")).first()?;
        Some((number, self.entity(number)?))
    }

    /// An entity that is there was changed, its topics aside.
    pub(crate) fn changed(&mut self, number: u32) {
        self.changed_entities.insert(number);
    }

    /// Takes an entity in, in place of the one of that series.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn learn(&mut self, entity: Entity) -> Result<(), String> {
        self.forget(&entity.series);
        let [entities, next, bytes] = self.counts();
        if entities >= ENTITIES {
            return Err(format!(
                "there are {ENTITIES} entities, and no room for another: have the source subscribe to fewer of them"
            ));
        }
        let bytes = bytes.saturating_add(size(&entity));
        if usize::try_from(bytes).is_ok_and(|bytes| bytes > BYTES) {
            return Err(format!(
                "what is remembered of entities would take more than {BYTES} bytes: have the source subscribe to fewer of them"
            ));
        }
        self.set("count", &[entities + 1, next.wrapping_add(1), bytes]);
        self.set(&format!("c/{}", entity.series), &[next]);
        for topic in entity.topics() {
            self.on_topic(topic).push(next);
            self.changed_topics.insert(topic.to_owned());
        }
        self.entities.insert(next, entity);
        self.changed(next);
        Ok(())
    }

    /// Forgets the entity of a series, where there is one.
    pub(crate) fn forget(&mut self, series: &str) {
        let Some((number, _)) = self.find(series) else {
            return;
        };
        let Some(entity) = self.entities.remove(&number) else {
            return;
        };
        for topic in entity.topics() {
            self.on_topic(topic).retain(|other| *other != number);
            self.changed_topics.insert(topic.to_owned());
        }
        self.changed_entities.remove(&number);
        self.kept.set(&format!("e/{number}"), None);
        self.set(&format!("c/{series}"), &[]);
        let [entities, next, bytes] = self.counts();
        let bytes = bytes.saturating_sub(size(&entity));
        self.set("count", &[entities.saturating_sub(1), next, bytes]);
    }

    /// Writes what changed.
    ///
    /// # Errors
    /// See [`Kept::save`].
    pub(crate) fn save(mut self) -> Result<(), Fault> {
        for topic in std::mem::take(&mut self.changed_topics) {
            let list = self.topics.remove(&topic).unwrap_or_default();
            self.set(&format!("t/{topic}"), &list);
        }
        for number in std::mem::take(&mut self.changed_entities) {
            if let Some(entity) = self.entities.get(&number) {
                let value = entity.to_state().into_bytes();
                self.kept.set(&format!("e/{number}"), Some(value));
            }
        }
        self.kept.save()
    }

    fn counts(&mut self) -> [u32; 3] {
        let kept = numbers(&mut self.kept, "count");
        [0, 1, 2].map(|place| kept.get(place).copied().unwrap_or_default())
    }

    /// An empty list is no key.
    fn set(&mut self, key: &str, numbers: &[u32]) {
        let value: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        self.kept.set(key, (!value.is_empty()).then_some(value));
    }
}

fn numbers(kept: &mut Kept, key: &str) -> Vec<u32> {
    let (numbers, _) = kept.get(key).unwrap_or_default().as_chunks::<4>();
    numbers
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect()
}

/// What an entity takes at most: keys for itself, its series and each of its topics, and what stands there. What an
/// availability topic says has at most five bytes.
fn size(entity: &Entity) -> u32 {
    let topics: usize = entity.topics().iter().map(|topic| topic.len() + 6).sum();
    let said = 5 * (entity.availability.len() + 1);
    let as_announced = entity.as_announced().to_state().len();
    let bytes = topics + as_announced + said + entity.series.len() + 20;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
