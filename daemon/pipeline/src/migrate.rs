//! `migrate` of the world `migrating-filter`: state of an old version in, that of the new one out, checked.

use std::sync::Arc;

use tidegate_domain::outcome::StateChange;
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::bounds::SlotLimits;
use crate::contract::Fault;
use crate::manifest::StateKind;
use crate::state::SlotState;

/// `types.state` on its way in.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct StateRef<'a> {
    version: &'a str,
    names: &'a [Arc<str>],
    width: u32,
    records: &'a [u8],
    entries: &'a [(String, Vec<u8>)],
}

/// `types.state` on its way out.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct GuestState {
    #[expect(
        dead_code,
        reason = "a module says nothing of versions that we do not know"
    )]
    version: String,
    names: Vec<Arc<str>>,
    width: u32,
    records: Vec<u8>,
    entries: Vec<(String, Vec<u8>)>,
}

/// Parameters of `migrate`.
pub(crate) type MigrateParameters<'a> = (StateRef<'a>,);
/// Its results.
pub(crate) type MigrateResults = (Result<GuestState, Fault>,);

/// What a slot has, in the contract's form.
pub(crate) struct OldState {
    version: String,
    names: Vec<Arc<str>>,
    width: u32,
    records: Vec<u8>,
    entries: Vec<(String, Vec<u8>)>,
}

impl OldState {
    pub(crate) fn new(version: &str, state: &SlotState) -> Self {
        let mut old = Self {
            version: version.to_owned(),
            names: Vec::new(),
            width: 0,
            records: Vec::new(),
            entries: Vec::new(),
        };
        match state.snapshot() {
            None => {}
            Some(StateChange::Series {
                width,
                names,
                records,
            }) => {
                old.width = u32::try_from(width).unwrap_or(u32::MAX);
                old.names = names;
                old.records = records;
            }
            Some(StateChange::Global(entries)) => {
                old.entries = entries
                    .into_iter()
                    .filter_map(|(key, value)| Some((key, value?)))
                    .collect();
            }
        }
        old
    }

    pub(crate) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(crate) fn as_ref(&self) -> StateRef<'_> {
        StateRef {
            version: &self.version,
            names: &self.names,
            width: self.width,
            records: &self.records,
            entries: &self.entries,
        }
    }
}

impl GuestState {
    /// The new state as the change that makes it out of nothing.
    ///
    /// # Errors
    /// What in the answer means nothing, for people.
    pub(crate) fn judge(
        self,
        kind: StateKind,
        names: &[Arc<str>],
        limits: &SlotLimits,
    ) -> Result<StateChange, String> {
        match kind {
            StateKind::None => Err("it keeps no state".to_owned()),
            StateKind::Series { width } => {
                if self.width as usize != width {
                    let got = self.width;
                    return Err(format!(
                        "records of {got} bytes where its manifest says {width}"
                    ));
                }
                if self.names != names {
                    return Err("its `names` are not those of the old state".to_owned());
                }
                if self.records.len() != names.len() * width || !self.entries.is_empty() {
                    return Err(format!(
                        "{} bytes of records and {} entries for {} series of {width} bytes",
                        self.records.len(),
                        self.entries.len(),
                        names.len()
                    ));
                }
                Ok(StateChange::Series {
                    width,
                    names: self.names,
                    records: self.records,
                })
            }
            StateKind::Global => {
                if !self.names.is_empty() || !self.records.is_empty() {
                    return Err("records of series where its manifest says `global`".to_owned());
                }
                let entries = self.entries.iter();
                let bytes: usize = entries.map(|(key, value)| key.len() + value.len()).sum();
                let keys = self.entries.len();
                if bytes > limits.state_bytes || keys > limits.state_keys {
                    return Err(format!(
                        "{bytes} bytes under {keys} keys; {} and {} are possible",
                        limits.state_bytes, limits.state_keys
                    ));
                }
                let entries = self.entries.into_iter();
                Ok(StateChange::Global(
                    entries.map(|(key, value)| (key, Some(value))).collect(),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_when_every_length_and_name_of_it_fits() {
        let names: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let series = StateKind::Series { width: 2 };
        let check = |kind, change: fn(&mut GuestState), expect: Option<&str>| {
            let mut state = GuestState {
                version: String::new(),
                names: vec!["a".into(), "b".into()],
                width: 2,
                records: vec![1; 4],
                entries: Vec::new(),
            };
            change(&mut state);
            let got = state.judge(kind, &names, &SlotLimits::default());
            match (got, expect) {
                (Ok(_), None) => {}
                (Err(why), Some(expect)) => assert!(why.contains(expect), "{why}"),
                (got, expect) => panic!("{got:?} where {expect:?} is due"),
            }
        };
        check(series, |_| {}, None);
        check(series, |s| s.width = 3, Some("records of 3 bytes"));
        check(series, |s| s.names.reverse(), Some("`names`"));
        check(
            series,
            |s| s.records.truncate(3),
            Some("3 bytes of records"),
        );
        check(
            series,
            |s| s.entries.push(("k".into(), vec![])),
            Some("1 entries"),
        );
        check(StateKind::Global, |_| {}, Some("`global`"));
        check(
            StateKind::Global,
            |s| {
                s.names.clear();
                s.records.clear();
                s.entries
                    .push(("k".into(), vec![0; SlotLimits::default().state_bytes]));
            },
            Some("are possible"),
        );
        check(
            StateKind::Global,
            |s| {
                s.names.clear();
                s.records.clear();
                s.entries.push(("k".into(), vec![1]));
            },
            None,
        );
    }
}
