//! What was learnt from births, in the decoder's global state.
//!
//! A publisher is an edge node, `<group>/<node>`, or a device, `<group>/<node>/<device>`.
//!
//! | key | value |
//! |---|---|
//! | `nodes` | the nodes, in the order of their first birth |
//! | `s/<node>` | its session: alive or dead, sequence number, `bdSeq` |
//! | `d/<node>` | its devices, each alive (`+`) or dead (`-`) |
//! | `m/<publisher>` | its metrics: names, aliases, datatypes |

use std::collections::BTreeMap;
use std::rc::Rc;

use formats::Kept;
use tidegate_sdk::Fault;

use crate::table::Table;

/// Nodes and devices that are remembered.
pub(crate) const PUBLISHERS: usize = 512;
/// Bytes of all that is remembered, within the MiB that the gateway gives.
pub(crate) const BYTES: usize = 900 * 1024;
/// Between two names of a list; MQTT has it in no topic.
const SEPARATOR: char = '\0';

/// A node as it was last heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) alive: bool,
    /// The number that is due next, 0 to 255.
    pub(crate) due: Option<u8>,
    /// That of its birth.
    pub(crate) bd_seq: Option<u64>,
    /// Its devices, alive or dead.
    pub(crate) devices: BTreeMap<String, bool>,
}

/// What one call has read and changed.
#[derive(Default)]
pub(crate) struct Learnt {
    kept: Kept,
    sessions: BTreeMap<String, Option<Session>>,
    tables: BTreeMap<String, Option<Rc<Table>>>,
}

impl Learnt {
    pub(crate) fn session(&mut self, node: &str) -> &mut Option<Session> {
        let kept = &mut self.kept;
        self.sessions
            .entry(node.to_owned())
            .or_insert_with(|| read_session(kept, node))
    }

    pub(crate) fn table(&mut self, publisher: &str) -> Option<Rc<Table>> {
        if let Some(known) = self.tables.get(publisher) {
            return known.clone();
        }
        let kept = self.kept.get(&format!("m/{publisher}"));
        let table = kept.and_then(Table::from_state).map(Rc::new);
        self.tables.insert(publisher.to_owned(), table.clone());
        table
    }

    /// Keeps the metrics of a birth, in place of those before. Where there is no room, nodes that are dead are forgotten; their
    /// names come back.
    ///
    /// # Errors
    /// When there is none even so.
    pub(crate) fn learn(
        &mut self,
        node: &str,
        device: Option<&str>,
        table: Table,
    ) -> Result<Vec<String>, String> {
        let publisher = device.map_or(node.to_owned(), |device| format!("{node}/{device}"));
        let value = table.to_state();
        let key = format!("m/{publisher}");
        let before = self.kept.get(&key).map(<[u8]>::len);
        // With the names in lists and keys, and the session.
        let own =
            (value.len() + 3 * publisher.len() + 32).saturating_sub(before.unwrap_or_default());
        let new = before.is_none();
        let mut forgotten = Vec::new();
        while self.publishers() + usize::from(new) > PUBLISHERS || self.kept.bytes() + own > BYTES {
            let Some(dead) = self.dead_node(node) else {
                return Err(format!(
                    "there is no room for the metrics of {publisher}: {PUBLISHERS} nodes and devices and {BYTES} bytes are \
                     possible, and none of those remembered is dead; have the source subscribe to fewer of them"
                ));
            };
            self.forget(&dead);
            forgotten.push(dead);
        }
        self.kept.set(&key, Some(value));
        self.tables.insert(publisher, Some(Rc::new(table)));
        let mut nodes = self.nodes();
        if !nodes.iter().any(|known| known == node) {
            nodes.push(node.to_owned());
            self.set_list("nodes", &nodes);
        }
        // So that the counts of publishers are right before the end of the call.
        self.session(node).get_or_insert_default();
        Ok(forgotten)
    }

    /// Writes what changed.
    ///
    /// # Errors
    /// See [`Kept::save`].
    pub(crate) fn save(mut self) -> Result<(), Fault> {
        for (node, session) in std::mem::take(&mut self.sessions) {
            if let Some(session) = session {
                let due = session.due.map_or(u16::MAX, u16::from).to_le_bytes();
                let bd_seq = session.bd_seq;
                let mut value = vec![
                    u8::from(session.alive),
                    due[0],
                    due[1],
                    u8::from(bd_seq.is_some()),
                ];
                value.extend(bd_seq.unwrap_or_default().to_le_bytes());
                self.kept.set(&format!("s/{node}"), Some(value));
                let devices = session.devices.iter();
                let devices = devices
                    .map(|(device, alive)| format!("{}{device}", if *alive { '+' } else { '-' }));
                self.set_list(&format!("d/{node}"), &devices.collect::<Vec<_>>());
            }
        }
        self.kept.save()
    }

    /// Nodes and devices that are remembered.
    fn publishers(&mut self) -> usize {
        let nodes = self.nodes();
        let devices = nodes.iter().map(|node| {
            let session = self.session(node).as_ref();
            session.map_or(0, |session| session.devices.len())
        });
        devices.sum::<usize>() + nodes.len()
    }

    fn dead_node(&mut self, but: &str) -> Option<String> {
        let nodes = self.nodes();
        let mut nodes = nodes.into_iter();
        nodes.find(|node| {
            node != but
                && self
                    .session(node)
                    .as_ref()
                    .is_none_or(|session| !session.alive)
        })
    }

    fn forget(&mut self, node: &str) {
        let devices = self.session(node).take().map(|session| session.devices);
        let devices = devices.unwrap_or_default().into_keys();
        let devices = devices.map(|device| format!("{node}/{device}"));
        for publisher in devices.chain([node.to_owned()]) {
            self.kept.set(&format!("m/{publisher}"), None);
            self.tables.insert(publisher, None);
        }
        self.kept.set(&format!("s/{node}"), None);
        self.kept.set(&format!("d/{node}"), None);
        let mut nodes = self.nodes();
        nodes.retain(|known| known != node);
        self.set_list("nodes", &nodes);
    }

    fn nodes(&mut self) -> Vec<String> {
        list(&mut self.kept, "nodes")
    }

    /// An empty list is no key.
    fn set_list(&mut self, key: &str, names: &[String]) {
        let value = names.join("\0").into_bytes();
        self.kept.set(key, (!names.is_empty()).then_some(value));
    }
}

fn list(kept: &mut Kept, key: &str) -> Vec<String> {
    let text = kept
        .get(key)
        .and_then(|kept| std::str::from_utf8(kept).ok());
    text.map_or(Vec::new(), |text| {
        text.split(SEPARATOR).map(str::to_owned).collect()
    })
}

fn read_session(kept: &mut Kept, node: &str) -> Option<Session> {
    let &[alive, low, high, birth, ref bd_seq @ ..] =
        kept.get(&format!("s/{node}"))?.first_chunk::<12>()?;
    let (alive, due, bd_seq) = (
        alive == 1,
        u16::from_le_bytes([low, high]),
        u64::from_le_bytes(*bd_seq),
    );
    let devices = list(kept, &format!("d/{node}"))
        .into_iter()
        .filter_map(|device| {
            let alive = device.starts_with('+');
            device.get(1..).map(|device| (device.to_owned(), alive))
        });
    Some(Session {
        alive,
        due: u8::try_from(due).ok(),
        bd_seq: (birth == 1).then_some(bd_seq),
        devices: devices.collect(),
    })
}
