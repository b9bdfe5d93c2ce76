//! The path strip: sources, pipelines, store, uplinks, and what flows from one to the next.

use crate::format;
use crate::verdict::Level;
use crate::view::{PipelineStatus, Snapshot, SourceStatus, UplinkStatus};

/// Nodes of one stage that the path strip shows; of more, those in trouble come first and the rest is counted.
const STAGE_NODES: usize = 10;

/// One of sources, pipelines, store, uplinks.
pub(super) struct Stage {
    pub(super) title: &'static str,
    pub(super) anchor: &'static str,
    pub(super) nodes: Vec<Node>,
    pub(super) hidden: usize,
    pub(super) empty: &'static str,
    /// What leaves this stage towards the next one; none after the last.
    pub(super) flow: Option<Flow>,
}

/// One source, pipeline, uplink, or the store.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) anchor: String,
    pub(super) level: Level,
    pub(super) state: String,
    pub(super) figure: String,
    pub(super) notes: Vec<String>,
}

/// What flows from one stage to the next.
pub(super) struct Flow {
    pub(super) level: Level,
    pub(super) rate: String,
    pub(super) unit: &'static str,
}

impl Flow {
    /// `cut` says that nothing gets through, and how grave that is.
    fn new(rate: f64, unit: &'static str, cut: Option<Level>) -> Self {
        let level = cut.unwrap_or(if rate > 0.0 { Level::Good } else { Level::Idle });
        let rate = format::rate(rate);
        Self { level, rate, unit }
    }

    pub(super) fn cut(&self) -> bool {
        self.level >= Level::Warn
    }
}

pub(super) fn stages(snapshot: &Snapshot) -> Vec<Stage> {
    let sources = &snapshot.sources;
    let pipelines = &snapshot.pipelines;
    let uplinks = &snapshot.uplinks;
    let received: f64 = sources.iter().map(|source| source.rate).sum();
    let stored: f64 = pipelines.iter().map(|pipeline| pipeline.stored_rate).sum();
    let sent: f64 = uplinks.iter().map(|uplink| uplink.rate).sum();
    // A stage is cut when all of it is in trouble: its least trouble is one.
    let trouble = |least: Option<Level>| least.filter(|level| *level >= Level::Warn);
    let sources_cut = trouble(sources.iter().map(SourceStatus::level).min());
    let store_cut = Some(snapshot.store.level()).filter(|level| *level == Level::Bad);
    let uplinks_cut = trouble(uplinks.iter().map(UplinkStatus::level).min());
    vec![
        Stage::new(
            "Sources",
            "#sources",
            sources.iter().enumerate().map(source_node).collect(),
            "none configured",
            Some(Flow::new(received, "msg/s", sources_cut)),
        ),
        Stage::new(
            "Pipelines",
            "#pipelines",
            pipelines.iter().enumerate().map(pipeline_node).collect(),
            "none configured",
            Some(Flow::new(stored, "readings/s", store_cut)),
        ),
        Stage::new(
            "Store",
            "#store",
            vec![store_node(snapshot)],
            "",
            Some(Flow::new(sent, "items/s", uplinks_cut)),
        ),
        Stage::new(
            "Uplinks",
            "#outbox",
            uplinks.iter().enumerate().map(uplink_node).collect(),
            "none configured",
            None,
        ),
    ]
}

impl Stage {
    fn new(
        title: &'static str,
        anchor: &'static str,
        mut nodes: Vec<Node>,
        empty: &'static str,
        flow: Option<Flow>,
    ) -> Self {
        let hidden = nodes.len().saturating_sub(STAGE_NODES);
        if hidden > 0 {
            nodes.sort_by_key(|node| std::cmp::Reverse(node.level));
            nodes.truncate(STAGE_NODES);
        }
        Self {
            title,
            anchor,
            nodes,
            hidden,
            empty,
            flow,
        }
    }
}

fn source_node((at, source): (usize, &SourceStatus)) -> Node {
    Node {
        name: source.name.clone(),
        anchor: format!("#source-{at}"),
        level: source.level(),
        state: source.state_word(),
        figure: format!("{}/s", format::rate(source.rate)),
        notes: vec![source.kind.clone()],
    }
}

fn pipeline_node((at, pipeline): (usize, &PipelineStatus)) -> Node {
    let chain: Vec<&str> = pipeline.filters.iter().map(|f| f.name.as_str()).collect();
    let chain = if chain.is_empty() {
        "no filter".to_owned()
    } else {
        chain.join(" → ")
    };
    let mut notes = vec![chain];
    if !pipeline.from.is_empty() {
        notes.insert(0, format!("from {}", pipeline.from.join(", ")));
    }
    Node {
        name: pipeline.name.clone(),
        anchor: format!("#pipeline-{at}"),
        level: pipeline.level(),
        state: pipeline.state_word(),
        figure: format!("{}/s", format::rate(pipeline.rate)),
        notes,
    }
}

fn store_node(snapshot: &Snapshot) -> Node {
    let store = &snapshot.store;
    let fill = format::percent(store.bytes, store.max_bytes);
    let mut notes = vec![format!(
        "{} of {}",
        format::bytes(store.bytes),
        format::bytes(store.max_bytes)
    )];
    if let Some(p99) = store.commit_p99_seconds {
        notes.push(format!("commit p99 {}", format::duration(p99)));
    }
    Node {
        name: "database".to_owned(),
        anchor: "#store".to_owned(),
        level: store.level(),
        state: store.state_word(),
        figure: format!("{fill}{}%", '\u{a0}'),
        notes,
    }
}

fn uplink_node((at, uplink): (usize, &UplinkStatus)) -> Node {
    let waiting = if uplink.waiting == 0 {
        "nothing waits".to_owned()
    } else {
        format!(
            "{} waiting",
            format::counted(uplink.waiting, "item", "items")
        )
    };
    Node {
        name: uplink.name.clone(),
        anchor: format!("#uplink-{at}"),
        level: uplink.level(),
        state: uplink.state_word(),
        figure: format!("{}/s", format::rate(uplink.rate)),
        notes: vec![waiting],
    }
}
