//! What the store has to know about the gateway's configuration.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_domain::alarm;
use tidegate_domain::item::Priority;
use tidegate_domain::limits;
use tidegate_domain::outcome::Severity;
use tidegate_domain::series::{GlobError, SeriesFilter};

/// The store's settings. Indices in [`Input`](crate::Input) and [`Committed`](crate::Committed) point into its lists;
/// in the database everything goes by name, so that the configuration may be reordered.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database file. Its lock, write-ahead log and shared memory lie beside it.
    pub path: PathBuf,
    /// The kernel's name for the present boot of the machine.
    pub boot: String,
    /// Bound of database and write-ahead log together, in bytes. What is above goes, least important first.
    pub max_bytes: u64,
    /// What happens when the bound is reached.
    pub full: Full,
    /// How long history and quarantine are kept.
    pub max_age: Duration,
    /// How long a commit group waits for company.
    pub linger: Duration,
    /// How long after its end a window stays open.
    pub lateness: Duration,
    /// The sources' names.
    pub sources: Vec<String>,
    /// How many identities of messages are remembered of each of them; 0 for a source that gives none. One that is not
    /// in this list gives none.
    pub identity_windows: Vec<usize>,
    /// The pipelines.
    pub pipelines: Vec<PipelineConfig>,
    /// The uplinks.
    pub uplinks: Vec<UplinkConfig>,
    /// What is measured, by series.
    pub measures: Measures,
    /// From how many changes of alarms in a minute on it is a flood.
    pub alarm_limits: alarm::Limits,
    /// Which silence counts.
    pub silence: SilenceConfig,
}

/// When a series is stale, and where that is an alarm.
#[derive(Clone, Debug, Default)]
pub struct SilenceConfig {
    /// By source, in the configuration's order. Where it is shorter, the rest is not watched.
    pub sources: Vec<SourceSilence>,
    /// Of single series, whatever their source says.
    pub series: SeriesAlarms,
}

/// When the series of one source are stale.
#[derive(Clone, Debug)]
pub struct SourceSilence {
    /// How long they may be silent.
    pub after: Duration,
    /// Which alarm it is then; `None` for none.
    pub alarm: Option<Severity>,
    /// The uplinks that hear of it, as indices: those of the pipelines that read the source.
    pub uplinks: Vec<usize>,
}

/// Which alarm the silence of a series is, by series glob; the first match wins.
#[derive(Clone, Debug, Default)]
pub struct SeriesAlarms {
    filter: SeriesFilter,
    severities: Vec<Option<Option<Severity>>>,
}

impl SeriesAlarms {
    /// Pairs of series glob and severity, in the configuration's order: `Some(None)` for no alarm, `None` for what the
    /// source says.
    ///
    /// # Errors
    /// The first glob that cannot be read.
    pub fn new(pairs: Vec<(String, Option<Option<Severity>>)>) -> Result<Self, GlobError> {
        let (globs, severities): (Vec<String>, Vec<_>) = pairs.into_iter().unzip();
        Ok(Self {
            filter: SeriesFilter::new(&globs)?,
            severities,
        })
    }

    fn of(&self, series: &str) -> Option<Option<Severity>> {
        *self.severities.get(self.filter.first(series)?)?
    }
}

impl SilenceConfig {
    /// Which alarm it is when a series of a source falls silent.
    pub(crate) fn severity(&self, source: usize, series: &str) -> Option<Severity> {
        let of_source = || self.sources.get(source).and_then(|source| source.alarm);
        self.series.of(series).unwrap_or_else(of_source)
    }
}

/// What happens when the bound in bytes is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// What matters least goes, also undelivered; gaps tell what.
    #[default]
    Evict,
    /// Nothing undelivered goes: sources are not acknowledged until there is room.
    Stop,
}

/// One pipeline, as far as its output goes.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Its name.
    pub name: String,
    /// Length of its tumbling windows; `None` for no summaries.
    pub window: Option<Duration>,
    /// How long what enters it is kept, within a tenth of the store's bound; `None` for not at all.
    pub keep_input: Option<Duration>,
    /// Where its output goes.
    pub to: Vec<Route>,
}

/// One entry of a pipeline's `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the uplink in the configuration's order.
    pub uplink: usize,
    /// What is sent.
    pub send: Send,
    /// How it is ordered among the rest, and when it is given up.
    pub priority: Priority,
}

/// What a route carries; `send` in the configuration. Alarms go over every route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// Closed windows.
    Summary,
    /// Every reading that came through.
    Readings,
    /// Both.
    Both,
}

impl Send {
    pub(crate) fn summaries(self) -> bool {
        matches!(self, Self::Summary | Self::Both)
    }

    pub(crate) fn readings(self) -> bool {
        matches!(self, Self::Readings | Self::Both)
    }
}

/// One uplink, as far as its outbox goes.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// Its name.
    pub name: String,
    /// Bytes of encoded items at which a message is sealed. A single larger item makes a message of its own.
    pub max_message_bytes: usize,
    /// Items at which a message is sealed.
    pub max_message_items: u32,
    /// How long the first item of a message waits for company. Alarms do not wait.
    pub linger: Duration,
}

impl UplinkConfig {
    /// Default of `max_message_bytes`.
    pub const MESSAGE_BYTES: usize = 2 * limits::OUTBOX_ITEM_BYTES;
    /// Default of `max_message_items`.
    pub const MESSAGE_ITEMS: u32 = 4096;
    /// Default of `linger`.
    pub const LINGER: Duration = Duration::from_secs(1);

    /// An uplink with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            max_message_bytes: Self::MESSAGE_BYTES,
            max_message_items: Self::MESSAGE_ITEMS,
            linger: Self::LINGER,
        }
    }
}

/// What is measured, by series glob; the first match wins.
#[derive(Clone, Debug)]
pub struct Measures {
    filter: SeriesFilter,
    texts: Vec<String>,
}

impl Measures {
    /// Pairs of series glob and measure, in the configuration's order.
    ///
    /// # Errors
    /// The first glob that cannot be read.
    pub fn new(pairs: Vec<(String, String)>) -> Result<Self, GlobError> {
        let (globs, texts): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        Ok(Self {
            filter: SeriesFilter::new(&globs)?,
            texts,
        })
    }

    /// The index of a series' measure, for [`Measures::text`].
    pub(crate) fn find(&self, series: &str) -> Option<usize> {
        self.filter.first(series)
    }

    /// What a series measures.
    #[must_use]
    pub fn of(&self, series: &str) -> Option<&str> {
        self.text(self.find(series)?)
    }

    pub(crate) fn text(&self, index: usize) -> Option<&str> {
        self.texts.get(index).map(String::as_str)
    }
}
