//! One gateway's vote, and what the votes of a wave come to.

use serde::{Deserialize, Serialize};

use crate::channel::Percent;
use crate::install::place;

/// What became of an epoch on a gateway. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vote {
    /// Its pipelines try it.
    Begun,
    /// It is in force everywhere.
    Taken,
    /// It was refused, or put back.
    Failed,
}

impl Vote {
    /// The vote that an event means, by its code.
    #[must_use]
    pub fn of_event(code: &str) -> Option<Self> {
        match code {
            "epoch-begun" => Some(Self::Begun),
            "epoch-settled" => Some(Self::Taken),
            "epoch-refused" | "epoch-put-back" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What is known of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The last epoch that it said something of.
    pub epoch: u64,
    /// What.
    pub vote: Vote,
    /// It means the modules that the document names.
    pub counts: bool,
    /// The modules that it took last, in one line; empty before the first.
    pub runs: String,
    /// Why it refused the epoch.
    pub reason: String,
    /// When it was last heard, ms since the epoch of Unix.
    pub heard: i64,
}

/// The votes on what began with an epoch, in a part of the gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Gateways that follow the channel.
    pub gateways: u32,
    /// Of these in the open wave.
    #[serde(rename = "in_wave")]
    pub wave: u32,
    /// Of these still trying.
    pub trying: u32,
    /// Of these running it.
    pub taken: u32,
    /// Of these that refused it or put it back.
    pub failed: u32,
    /// Votes of gateways whose wave has not come, which do not count: new ones that had nothing else to run, and what should
    /// not be.
    pub outside: u32,
}

/// Votes by place, so that the tally of any wave is a sum.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The epoch by which gateways are placed.
    pub(super) since: u64,
    by_place: Vec<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    gateways: u32,
    votes: [u32; 3],
}

impl Places {
    pub(super) fn new(since: u64) -> Self {
        let places = usize::from(Percent::ALL.places());
        Self {
            since,
            by_place: vec![Counts::default(); places],
        }
    }

    /// The place of a gateway.
    pub(super) fn of(&self, gateway: &str, channel: &str) -> usize {
        usize::from(place(gateway, channel, self.since))
    }

    pub(super) fn add(&mut self, place: usize, gateway: &Gateway) {
        self.by_place[place].gateways += 1;
        if let Some(votes) = self.votes(place, gateway) {
            *votes += 1;
        }
    }

    /// Takes back what [`Places::add`] added for the same.
    pub(super) fn remove(&mut self, place: usize, gateway: &Gateway) {
        self.by_place[place].gateways -= 1;
        if let Some(votes) = self.votes(place, gateway) {
            *votes -= 1;
        }
    }

    fn votes(&mut self, place: usize, gateway: &Gateway) -> Option<&mut u32> {
        let counts = gateway.counts && gateway.epoch >= self.since;
        counts.then(|| &mut self.by_place[place].votes[gateway.vote as usize])
    }

    pub(super) fn tally(&self, wave: u16) -> Tally {
        let (inside, outside) = self.by_place.split_at(usize::from(wave));
        let sum = |counts: &[Counts], of: fn(&Counts) -> u32| counts.iter().map(of).sum::<u32>();
        let all_votes = |counts: &Counts| counts.votes.iter().sum::<u32>();
        let inside_gateways = sum(inside, |counts| counts.gateways);
        Tally {
            gateways: inside_gateways + sum(outside, |counts| counts.gateways),
            wave: inside_gateways,
            trying: sum(inside, |counts| counts.votes[Vote::Begun as usize]),
            taken: sum(inside, |counts| counts.votes[Vote::Taken as usize]),
            failed: sum(inside, |counts| counts.votes[Vote::Failed as usize]),
            outside: sum(outside, all_votes),
        }
    }
}
