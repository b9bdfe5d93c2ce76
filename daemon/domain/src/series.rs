//! Choosing series by name.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A list of series globs: `*` stands within one level (`plant/*/temp`), `**` crosses levels; an empty list
/// selects every series, and so does the default.
#[derive(Clone, Debug, Default)]
pub struct SeriesFilter {
    set: Option<GlobSet>,
}

/// A glob that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no series glob: {detail}")]
pub struct GlobError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub detail: String,
}

impl SeriesFilter {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// The first pattern that is no glob.
    pub fn new(patterns: &[String]) -> Result<Self, GlobError> {
        if patterns.is_empty() {
            return Ok(Self { set: None });
        }
        let mut builder = GlobSetBuilder::new();
        let error = |pattern: &str, e: &globset::Error| GlobError {
            pattern: pattern.to_owned(),
            detail: e.kind().to_string(),
        };
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(|e| error(pattern, &e))?;
            builder.add(glob);
        }
        let set = builder
            .build()
            .map_err(|e| error(&patterns.join(", "), &e))?;
        Ok(Self { set: Some(set) })
    }

    /// Whether a series is selected.
    #[must_use]
    pub fn matches(&self, series: &str) -> bool {
        self.set.as_ref().is_none_or(|set| set.is_match(series))
    }

    /// The index of the first pattern that matches, in the order given to [`SeriesFilter::new`].
    #[must_use]
    pub fn first(&self, series: &str) -> Option<usize> {
        self.set
            .as_ref()
            .and_then(|set| set.matches(series).into_iter().min())
    }
}
