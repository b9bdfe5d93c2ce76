//! The metrics of a birth, by name and by alias.

use formats::shown;

/// Metrics of one node or device.
pub(crate) const METRICS: usize = 4_096;
/// Bytes of a metric's name; the series it is part of has no more.
const NAME_BYTES: usize = 512;

/// What a birth says of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known<'t> {
    pub(crate) name: &'t str,
    pub(crate) datatype: u8,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// One behind the other.
    names: String,
    /// In the order of the names: where a name begins and ends, datatype, alias.
    metrics: Vec<(usize, usize, u8, Option<u64>)>,
    /// In the order of the aliases, with the place among the metrics.
    aliases: Vec<(u64, usize)>,
}

impl Table {
    /// # Errors
    /// More metrics than are remembered, a name that is too long, an alias or a name that two of them have.
    pub(crate) fn new(mut metrics: Vec<(&str, u8, Option<u64>)>) -> Result<Self, String> {
        if metrics.len() > METRICS {
            return Err(format!(
                "the birth has {} metrics; {METRICS} of a node or device are possible",
                metrics.len()
            ));
        }
        metrics.sort_unstable();
        metrics.dedup();
        let mut table = Self::default();
        for (name, datatype, alias) in metrics {
            if name.len() > NAME_BYTES {
                return Err(format!(
                    "the name of the metric `{}…` has {} bytes; {NAME_BYTES} are possible",
                    shown(name),
                    name.len()
                ));
            }
            if table
                .metrics
                .last()
                .is_some_and(|last| table.name(last) == name)
            {
                return Err(format!("two metrics have the name `{}`", shown(name)));
            }
            table.push(name, datatype, alias);
        }
        table.index()?;
        Ok(table)
    }

    pub(crate) fn by_alias(&self, alias: u64) -> Option<Known<'_>> {
        let place = self
            .aliases
            .binary_search_by_key(&alias, |(alias, _)| *alias)
            .ok()?;
        let (_, metric) = *self.aliases.get(place)?;
        self.metrics.get(metric).map(|metric| self.known(metric))
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Known<'_>> {
        let place = self
            .metrics
            .binary_search_by(|metric| self.name(metric).cmp(name))
            .ok()?;
        self.metrics.get(place).map(|metric| self.known(metric))
    }

    /// In the order of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Known<'_>> {
        self.metrics.iter().map(|metric| self.known(metric))
    }

    /// Per metric: datatype, whether it has an alias, alias, length of the name, name.
    pub(crate) fn to_state(&self) -> Vec<u8> {
        let mut state = Vec::with_capacity(self.names.len() + 12 * self.metrics.len());
        for metric in &self.metrics {
            let (_, _, datatype, alias) = *metric;
            let name = self.name(metric);
            state.extend([datatype, u8::from(alias.is_some())]);
            state.extend(alias.unwrap_or_default().to_le_bytes());
            // Of at most `NAME_BYTES`.
            state.extend(u16::try_from(name.len()).unwrap_or_default().to_le_bytes());
            state.extend(name.bytes());
        }
        state
    }

    /// `None` where the bytes are none of this form.
    pub(crate) fn from_state(mut state: &[u8]) -> Option<Self> {
        let mut table = Self::default();
        while let Some((head, rest)) = state.split_first_chunk::<12>() {
            let &[datatype, has_alias, alias @ .., low, high] = head;
            let (name, rest) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
            let alias = (has_alias == 1).then_some(u64::from_le_bytes(alias));
            table.push(std::str::from_utf8(name).ok()?, datatype, alias);
            state = rest;
        }
        table.index().ok()?;
        state.is_empty().then_some(table)
    }

    fn push(&mut self, name: &str, datatype: u8, alias: Option<u64>) {
        let begin = self.names.len();
        self.names.push_str(name);
        self.metrics
            .push((begin, self.names.len(), datatype, alias));
    }

    fn index(&mut self) -> Result<(), String> {
        let aliases = self.metrics.iter().enumerate();
        self.aliases = aliases
            .filter_map(|(place, metric)| Some((metric.3?, place)))
            .collect();
        self.aliases.sort_unstable();
        let twice = self.aliases.windows(2).find(|pair| pair[0].0 == pair[1].0);
        match twice {
            None => Ok(()),
            Some(pair) => {
                let name = |place: usize| {
                    self.metrics
                        .get(place)
                        .map_or("", |metric| self.name(metric))
                };
                Err(format!(
                    "the alias {} is that of `{}` and of `{}`",
                    pair[0].0,
                    shown(name(pair[0].1)),
                    shown(name(pair[1].1))
                ))
            }
        }
    }

    fn name(&self, &(begin, end, ..): &(usize, usize, u8, Option<u64>)) -> &str {
        self.names.get(begin..end).unwrap_or_default()
    }

    fn known(&self, metric: &(usize, usize, u8, Option<u64>)) -> Known<'_> {
        Known {
            name: self.name(metric),
            datatype: metric.2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_name_and_alias_also_out_of_the_state() {
        let table = Table::new(vec![
            ("b", 10, Some(7)),
            ("a/ü", 12, None),
            ("c", 3, Some(u64::MAX)),
            ("b", 10, Some(7)),
        ]);
        let table = table.unwrap();
        for table in [&table, &Table::from_state(&table.to_state()).unwrap()] {
            let names: Vec<&str> = table.iter().map(|known| known.name).collect();
            assert_eq!(names, ["a/ü", "b", "c"]);
            assert_eq!(table.by_alias(7).unwrap().name, "b");
            assert_eq!(table.by_alias(u64::MAX).unwrap().name, "c");
            assert_eq!(table.by_alias(0), None);
            assert_eq!(table.by_name("a/ü").unwrap().datatype, 12);
            assert_eq!(table.by_name("x"), None);
        }
        let state = table.to_state();
        for end in 1..state.len() {
            if let Some(part) = Table::from_state(&state[..end]) {
                assert!(part.metrics.len() < 3, "{end}");
            }
        }
    }

    #[test]
    fn a_birth_that_contradicts_itself_is_refused() {
        let error = |metrics| Table::new(metrics).unwrap_err();
        assert!(
            error(vec![("a", 1, Some(1)), ("b", 1, Some(1))])
                .contains("alias 1 is that of `a` and of `b`")
        );
        assert!(
            error(vec![("a", 1, None), ("a", 2, None)]).contains("two metrics have the name `a`")
        );
        let name = "x".repeat(513);
        assert!(error(vec![(&name, 1, None)]).contains("513 bytes"));
        let names: Vec<String> = (0..4097).map(|n| n.to_string()).collect();
        assert!(
            error(names.iter().map(|name| (&**name, 1, None)).collect()).contains("4097 metrics")
        );
    }
}
