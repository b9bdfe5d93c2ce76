//! The ledger's equations, in words and figures.

use std::collections::BTreeMap;

use tidegate_domain::Ledger;
use tidegate_domain::ledger::QuarantineCounts;

use crate::format;

/// One equation of the ledger, in words and figures.
pub(super) struct Equation {
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// What is counted: messages, readings, items.
    pub(super) unit: &'static str,
    pub(super) left: Vec<Term>,
    pub(super) right: Vec<Term>,
}

/// One term of an equation.
pub(super) struct Term {
    pub(super) word: &'static str,
    pub(super) value: u64,
    /// What it is made of: `no-pipeline 40`.
    pub(super) parts: Vec<String>,
}

impl Equation {
    pub(super) fn balanced(&self) -> bool {
        self.difference() == 0
    }

    pub(super) fn difference(&self) -> u64 {
        let sum = |terms: &[Term]| terms.iter().map(|term| term.value).sum::<u64>();
        sum(&self.left).abs_diff(sum(&self.right))
    }
}

impl Term {
    fn new(word: &'static str, value: u64) -> Self {
        Self {
            word,
            value,
            parts: Vec::new(),
        }
    }

    fn dropped(by_reason: &BTreeMap<String, u64>) -> Self {
        let parts = by_reason.iter().filter(|(_, count)| **count > 0);
        Self {
            word: "dropped",
            value: by_reason.values().sum(),
            parts: parts
                .map(|(reason, count)| format!("{reason} {}", format::count(*count)))
                .collect(),
        }
    }
}

/// The equations of [`Ledger::imbalances`], term by term; a test holds the two together.
pub(super) fn equations(ledger: &Ledger) -> Vec<Equation> {
    let mut equations = Vec::new();
    for (name, c) in &ledger.sources {
        equations.push(Equation {
            kind: "source",
            name: name.clone(),
            unit: "messages",
            left: vec![Term::new("received", c.received)],
            right: vec![
                Term::new("decoded", c.decoded),
                Term::new("quarantined", c.quarantined),
                Term::dropped(&c.dropped),
            ],
        });
        equations.extend(set_aside(
            "source",
            name,
            "messages",
            c.quarantined,
            &c.quarantine,
        ));
    }
    for (name, c) in &ledger.pipelines {
        equations.push(Equation {
            kind: "pipeline",
            name: name.clone(),
            unit: "readings",
            left: vec![
                Term::new("selected", c.selected),
                Term::new("derived", c.derived),
                Term::new("replayed", c.replayed),
            ],
            right: vec![
                Term::new("stored", c.stored),
                Term::new("filtered", c.filtered),
                Term::new("quarantined", c.quarantined),
                Term::dropped(&c.dropped),
            ],
        });
        equations.push(Equation {
            kind: "pipeline",
            name: name.clone(),
            unit: "readings",
            left: vec![Term::new("stored", c.stored)],
            right: vec![
                Term::new("held", c.held),
                Term::new("expired", c.expired),
                Term::new("evicted", c.evicted),
            ],
        });
        equations.extend(set_aside(
            "pipeline",
            name,
            "readings",
            c.quarantined,
            &c.quarantine,
        ));
    }
    for (name, c) in &ledger.uplinks {
        equations.push(Equation {
            kind: "uplink",
            name: name.clone(),
            unit: "items",
            left: vec![Term::new("queued", c.queued)],
            right: vec![
                Term::new("delivered", c.delivered),
                Term::new("waiting", c.waiting),
                Term::new("evicted", c.evicted),
                Term::new("rejected", c.rejected),
            ],
        });
    }
    equations
}

/// Where the quarantined rows are; no line where there never were any.
fn set_aside(
    kind: &'static str,
    name: &str,
    unit: &'static str,
    quarantined: u64,
    now: &QuarantineCounts,
) -> Option<Equation> {
    if quarantined == 0 && *now == QuarantineCounts::default() {
        return None;
    }
    Some(Equation {
        kind,
        name: name.to_owned(),
        unit,
        left: vec![Term::new("quarantined", quarantined)],
        right: vec![
            Term::new("held", now.held),
            Term::new("replayed", now.replayed),
            Term::new("discarded", now.discarded),
            Term::new("evicted", now.evicted),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equations_are_those_of_the_ledger() {
        // A bit in every counter in turn: each must be seen by the same number of equations on the page as in the domain.
        let fields = r#"{"sources":{"s":{"received":0,"redelivered":0,"decoded":0,"quarantined":0,"dropped":{"x":0},
            "quarantine":{"held":0,"replayed":0,"discarded":0,"evicted":0}}},
            "pipelines":{"p":{"selected":0,"derived":0,"replayed":0,"stored":0,"filtered":0,"quarantined":0,
            "dropped":{"x":0},"held":0,"expired":0,"evicted":0,
            "quarantine":{"held":0,"replayed":0,"discarded":0,"evicted":0}}},
            "uplinks":{"u":{"queued":0,"delivered":0,"waiting":0,"evicted":0,"rejected":0}}}"#;
        let places: Vec<usize> = fields.match_indices(":0").map(|(at, _)| at + 1).collect();
        assert_eq!(places.len(), 9 + 14 + 5);
        for at in places {
            let mut text = fields.to_owned();
            text.replace_range(at..=at, "7");
            let ledger: Ledger = serde_json::from_str(&text).unwrap();
            let here: Vec<String> = equations(&ledger)
                .iter()
                .filter(|equation| !equation.balanced())
                .map(|equation| format!("{} {}", equation.kind, equation.name))
                .collect();
            let there: Vec<String> = ledger.imbalances().into_iter().map(|i| i.scope).collect();
            assert_eq!(here, there, "{text}");
        }
    }
}
