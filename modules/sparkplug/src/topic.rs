//! Topics: `spBv1.0/<group>/<verb>/<node>`, of a device with `/<device>` (section 4).

/// The first level of every topic.
pub(crate) const NAMESPACE: &str = "spBv1.0";

/// What a topic says (section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topic<'t> {
    pub(crate) verb: Verb,
    pub(crate) group: &'t str,
    pub(crate) node: &'t str,
    pub(crate) device: Option<&'t str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Birth,
    Data,
    Death,
    Command,
}

const VERBS: [(&str, Verb, bool); 8] = [
    ("NBIRTH", Verb::Birth, false),
    ("DBIRTH", Verb::Birth, true),
    ("NDATA", Verb::Data, false),
    ("DDATA", Verb::Data, true),
    ("NDEATH", Verb::Death, false),
    ("DDEATH", Verb::Death, true),
    ("NCMD", Verb::Command, false),
    ("DCMD", Verb::Command, true),
];

impl<'t> Topic<'t> {
    pub(crate) fn parse(topic: &'t str) -> Option<Self> {
        let mut levels = topic.split('/');
        let (namespace, group, word, node) = (
            levels.next()?,
            levels.next()?,
            levels.next()?,
            levels.next()?,
        );
        let device = levels.next();
        let (_, verb, of_device) = *VERBS.iter().find(|(name, ..)| *name == word)?;
        let sound = namespace == NAMESPACE
            && device.is_some() == of_device
            && levels.next().is_none()
            && !group.is_empty()
            && !node.is_empty()
            && device != Some("");
        sound.then_some(Self {
            verb,
            group,
            node,
            device,
        })
    }

    /// What sequence numbers belong to.
    pub(crate) fn edge_node(&self) -> String {
        format!("{}/{}", self.group, self.node)
    }

    pub(crate) fn publisher(&self) -> String {
        match self.device {
            None => self.edge_node(),
            Some(device) => format!("{}/{device}", self.edge_node()),
        }
    }
}
