//! Messages under suspicion of ending connections.

use std::collections::VecDeque;

/// A message that ended this many connections is set aside.
pub const ENDINGS_BEFORE_SET_ASIDE: u8 = 3;

/// Suspects remembered at once. Each lost connection makes one at most, and one that is evicted from the outbox is
/// never heard of again.
const SUSPECTS: usize = 16;

/// The oldest messages in flight when the other end closed a connection, and how many connections each has ended.
#[derive(Debug, Default)]
pub(super) struct Suspects(VecDeque<Suspect>);

#[derive(Debug)]
struct Suspect {
    seq: u64,
    endings: u8,
}

impl Suspects {
    /// The other end closed a connection while `seq` was the oldest in flight; `proved`: it had acknowledged something
    /// on it before. Returns the endings where they suffice to set the message aside.
    pub(super) fn ended(&mut self, seq: u64, proved: bool) -> Option<u8> {
        let endings = match self.0.iter_mut().find(|known| known.seq == seq) {
            Some(known) => {
                // It was sent on a proved connection, or not at all.
                known.endings += 1;
                known.endings
            }
            None => {
                if self.0.len() >= SUSPECTS {
                    self.0.pop_front();
                }
                let endings = u8::from(proved);
                self.0.push_back(Suspect { seq, endings });
                endings
            }
        };
        (endings >= ENDINGS_BEFORE_SET_ASIDE).then_some(endings)
    }

    /// A message is settled: it is suspected no longer.
    pub(super) fn clear(&mut self, seq: u64) {
        self.0.retain(|suspect| suspect.seq != seq);
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.0.iter().any(|suspect| suspect.seq == seq)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
