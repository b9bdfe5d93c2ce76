//! The machine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::votes::{Gateway, Places, Tally, Vote};
use crate::channel::{Channel, Staged};
use crate::limits;

/// What is known of a channel's gateways. It is the sum of its [`Note`]s.
#[derive(Clone, Debug)]
pub struct Fleet {
    channel: String,
    gateways: BTreeMap<String, Gateway>,
    places: Places,
    halted: Option<(u64, String)>,
}

/// Something that changes what is known: stored before anybody acts by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Note {
    /// A gateway said something new.
    Gateway {
        /// Its name.
        name: String,
        /// Of which epoch.
        epoch: u64,
        /// What.
        vote: Vote,
        /// It means the modules that the document names.
        counts: bool,
        /// The modules that it runs now, where it says so.
        runs: Option<String>,
        /// Why.
        reason: String,
        /// When it was heard, ms since the epoch of Unix.
        at: i64,
    },
    /// What began with an epoch is to be halted. Once decided it stays, whatever is heard afterwards.
    Halt {
        /// The epoch.
        since: u64,
        /// Why.
        why: String,
    },
}

/// What a report comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something new: store the note, then apply it.
    News(Note),
    /// It was known, or is older than what is known.
    Known,
    /// It is about another channel.
    Other,
    /// It is about an epoch that the publisher never made.
    NeverMade,
    /// There is no room for a further gateway.
    Full,
}

/// What is to be done about the channel's document.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing.
    Idle(Idle),
    /// Nothing yet.
    Wait(Waiting),
    /// Publish it for its next wave.
    Widen,
    /// Store [`Note::Halt`], then publish that it is halted, and what else the document wants in that case.
    Halt {
        /// Why.
        why: String,
    },
}

/// Why nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The document does not spread by what gateways report.
    NotStaged,
    /// It is halted.
    Halted,
    /// All waves are through.
    Through,
}

/// What a further wave waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Time.
    Soak {
        /// How much is left.
        left: Duration,
    },
    /// More gateways that took it.
    Taken {
        /// So many did.
        taken: u32,
        /// So many are needed.
        needed: u32,
    },
    /// Any gateway at all: none was ever heard.
    Anybody,
}

impl Fleet {
    /// Nothing is known of the gateways of a channel.
    #[must_use]
    pub fn new(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            gateways: BTreeMap::new(),
            places: Places::new(0),
            halted: None,
        }
    }

    /// What a report comes to beside what is known. `now`: ms since the epoch of Unix; `document` is the newest.
    #[must_use]
    pub fn hear(&self, report: &Report, document: &Channel, now: i64) -> Heard {
        if report.channel != self.channel || report.channel != document.channel.as_str() {
            return Heard::Other;
        }
        if report.epoch == 0 || report.epoch > document.epoch {
            return Heard::NeverMade;
        }
        let known = self.gateways.get(&report.gateway);
        if known.is_none() && self.gateways.len() >= limits::FLEET_GATEWAYS {
            return Heard::Full;
        }
        let counts = means(report, document);
        if let Some(known) = known {
            let since = document.placed_by();
            // One vote for all documents that give the same.
            let same = report.epoch == known.epoch || (report.epoch.min(known.epoch) >= since);
            let news = match same {
                true => report.vote > known.vote || (counts && !known.counts),
                false => report.epoch > known.epoch,
            };
            if !news {
                return Heard::Known;
            }
        }
        let reason = match report.vote {
            Vote::Failed => report.reason.clone(),
            Vote::Begun | Vote::Taken => String::new(),
        };
        Heard::News(Note::Gateway {
            name: report.gateway.clone(),
            epoch: report.epoch,
            vote: report.vote,
            counts,
            runs: (report.vote == Vote::Taken).then(|| report.inventory()),
            reason,
            at: now,
        })
    }

    /// Takes a note in.
    pub fn apply(&mut self, note: &Note) {
        match note {
            Note::Halt { since, why } => self.halted = Some((*since, why.clone())),
            Note::Gateway {
                name,
                epoch,
                vote,
                counts,
                runs,
                reason,
                at,
            } => {
                let place = self.places.of(name, &self.channel);
                let former = self.gateways.get(name);
                if former.is_none() && self.gateways.len() >= limits::FLEET_GATEWAYS {
                    return;
                }
                if let Some(former) = former {
                    self.places.remove(place, former);
                }
                let ran = former.map(|former| former.runs.clone());
                let gateway = Gateway {
                    epoch: *epoch,
                    vote: *vote,
                    counts: *counts,
                    runs: runs.clone().or(ran).unwrap_or_default(),
                    reason: reason.clone(),
                    heard: *at,
                };
                self.places.add(place, &gateway);
                self.gateways.insert(name.clone(), gateway);
            }
        }
    }

    /// Gives up gateways that were not heard for [`FLEET_FORGET`](limits::FLEET_FORGET), and counts votes by the epoch that
    /// `document` began with. Call it at the start, when there is another document, and once a day.
    pub fn follow(&mut self, document: &Channel, now: i64) {
        let forget = i64::try_from(limits::FLEET_FORGET.as_millis()).unwrap_or(i64::MAX);
        self.gateways
            .retain(|_, gateway| now.saturating_sub(gateway.heard) <= forget);
        let mut places = Places::new(document.placed_by());
        for (name, gateway) in &self.gateways {
            places.add(places.of(name, &self.channel), gateway);
        }
        self.places = places;
    }

    /// The votes on a document.
    #[must_use]
    pub fn tally(&self, document: &Channel) -> Tally {
        let open = document.staged.as_ref().and_then(|staged| {
            let wave = staged.waves.get(staged.wave)?;
            Some(wave.percent.places())
        });
        let all = document.places(Duration::MAX);
        self.places.tally(open.unwrap_or(all))
    }

    /// What is to be done about the newest document. It must be the one of the last [`Fleet::follow`], or one that goes on from
    /// it.
    #[must_use]
    pub fn decide(&self, document: &Channel, now: i64) -> Decision {
        let Some(staged) = &document.staged else {
            return Decision::Idle(Idle::NotStaged);
        };
        if staged.halted.is_some() {
            return Decision::Idle(Idle::Halted);
        }
        if let Some(why) = self.halted_since(staged.since) {
            let why = why.to_owned();
            return Decision::Halt { why };
        }
        let tally = self.tally(document);
        if f64::from(tally.failed) > staged.gate.failures * f64::from(tally.wave) {
            let why = self.why(&tally, document);
            return Decision::Halt { why };
        }
        match waits(staged, &tally, document.published, now) {
            Some(waiting) => Decision::Wait(waiting),
            None if staged.is_last() => Decision::Idle(Idle::Through),
            None => Decision::Widen,
        }
    }

    /// Why what began with an epoch was to be halted, where it was.
    #[must_use]
    pub fn halted_since(&self, since: u64) -> Option<&str> {
        let (of, why) = self.halted.as_ref()?;
        (*of == since).then_some(why.as_str())
    }

    /// What was to be halted last: the epoch that began it, and why.
    #[must_use]
    pub fn last_halt(&self) -> Option<(u64, &str)> {
        let (since, why) = self.halted.as_ref()?;
        Some((*since, why))
    }

    /// All gateways, by name.
    pub fn gateways(&self) -> impl Iterator<Item = (&str, &Gateway)> {
        self.gateways
            .iter()
            .map(|(name, gateway)| (name.as_str(), gateway))
    }

    /// The least notes that come to the same.
    pub fn notes(&self) -> impl Iterator<Item = Note> {
        let gateways = self.gateways.iter().map(|(name, gateway)| Note::Gateway {
            name: name.clone(),
            epoch: gateway.epoch,
            vote: gateway.vote,
            counts: gateway.counts,
            runs: Some(gateway.runs.clone()),
            reason: gateway.reason.clone(),
            at: gateway.heard,
        });
        let halted = self.halted.iter().map(|(since, why)| Note::Halt {
            since: *since,
            why: why.clone(),
        });
        gateways.chain(halted)
    }

    /// For people: how many, and what one of them said.
    fn why(&self, tally: &Tally, document: &Channel) -> String {
        let Tally { failed, wave, .. } = tally;
        let since = document.placed_by();
        let mut failures = self.gateways.iter().filter(|(_, gateway)| {
            gateway.counts && gateway.epoch >= since && gateway.vote == Vote::Failed
        });
        let example = failures
            .next()
            .map(|(name, gateway)| format!("; {name}: {}", gateway.reason))
            .unwrap_or_default();
        format!("{failed} of the {wave} gateways of the wave refused it or put it back{example}")
    }
}

/// Whether a gateway means what the document gives.
fn means(report: &Report, document: &Channel) -> bool {
    report.modules.len() == document.modules.len()
        && report.modules.iter().all(|module| {
            document.modules.iter().any(|(name, pinned)| {
                name.as_str() == module.name && pinned.digest == module.digest
            })
        })
}

/// What the next wave waits for.
fn waits(staged: &Staged, tally: &Tally, published: u64, now: i64) -> Option<Waiting> {
    let wave = staged.waves.get(staged.wave)?;
    let since = u64::try_from(now).unwrap_or(0).saturating_sub(published);
    let left = wave.soak.saturating_sub(Duration::from_millis(since));
    if !left.is_zero() {
        return Some(Waiting::Soak { left });
    }
    if tally.gateways == 0 {
        return Some(Waiting::Anybody);
    }
    // Of a wave in which no known gateway has its place nobody is needed.
    let part = staged.gate.taken * f64::from(tally.wave);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a u32, rounded up"
    )]
    let needed = part.ceil() as u32;
    (tally.taken < needed).then_some(Waiting::Taken {
        taken: tally.taken,
        needed,
    })
}
