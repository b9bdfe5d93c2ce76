//! What a source calls its messages by, so that one that comes twice is known.
//!
//! MQTT at QoS 1 repeats what was not acknowledged before a connection or a process ended, and a sensor may send twice what
//! it did not see acknowledged. Nothing in the protocol tells such a message from a new one of the same content. Where the
//! source numbers its messages, a window over the latest of those numbers does.

use std::collections::{HashSet, VecDeque};

/// 128 bits of a digest over topic and identity. Two different ones collide with a probability of 2^-128 a pair: among
/// 65,536 remembered ones, a billion messages a day would have to come for 10^12 years.
pub type Identity = [u8; 16];

/// The latest identities of one source.
///
/// Memory: about 50 bytes an identity, taken as they come.
#[derive(Debug, Default)]
pub struct IdentityWindow {
    capacity: usize,
    /// Oldest first.
    order: VecDeque<Identity>,
    known: HashSet<Identity>,
}

impl IdentityWindow {
    /// An empty window that remembers `capacity` identities; 0 counts as 1.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            ..Self::default()
        }
    }

    /// Notes an identity. False when it is among those remembered, which changes nothing: it is as old as its first
    /// occurrence.
    #[must_use = "false means that the message is a duplicate"]
    pub fn is_new(&mut self, identity: Identity) -> bool {
        self.insert(identity)
    }

    /// Notes identities that are stored, oldest first.
    pub fn remember(&mut self, identities: &[Identity]) {
        for identity in identities {
            // Each was new once, and is so again when the window had left it behind in between.
            self.insert(*identity);
        }
    }

    fn insert(&mut self, identity: Identity) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        self.order.push_back(identity);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True when none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(number: u8) -> Identity {
        let mut identity = [0; 16];
        identity[3] = number;
        identity
    }

    proptest! {
        /// The window told slowly: a list of the latest distinct ones.
        #[test]
        fn it_knows_exactly_the_latest(capacity in 0usize..8, numbers in prop::collection::vec(0u8..12, 0..200)) {
            let mut window = IdentityWindow::new(capacity);
            let mut latest: Vec<u8> = Vec::new();
            for number in numbers {
                let known = latest.contains(&number);
                prop_assert_eq!(window.is_new(identity(number)), !known);
                if !known {
                    latest.push(number);
                    let excess = latest.len().saturating_sub(capacity.max(1));
                    latest.drain(..excess);
                }
                prop_assert_eq!(window.len(), latest.len());
                prop_assert_eq!(window.known.len(), latest.len());
            }
        }

        /// What a restart does: the identities that were new, in their order and perhaps more of them than the window
        /// holds, make the same window again.
        #[test]
        fn what_was_new_makes_the_window_again(capacity in 1usize..8, numbers in prop::collection::vec(0u8..12, 0..200), more in prop::collection::vec(0u8..12, 0..50)) {
            let mut window = IdentityWindow::new(capacity);
            let new: Vec<u8> = numbers.into_iter().filter(|&number| window.is_new(identity(number))).collect();
            let mut again = IdentityWindow::new(capacity);
            let new: Vec<Identity> = new.into_iter().map(identity).collect();
            again.remember(&new);
            for number in more {
                prop_assert_eq!(window.is_new(identity(number)), again.is_new(identity(number)));
            }
        }
    }
}
