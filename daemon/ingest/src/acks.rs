//! Which messages of the present connection are owed an acknowledgement.

use tidegate_domain::AckToken;

/// The acknowledgements of one source. A packet identifier is acknowledged at most once, on the connection it came
/// over or not at all; so no more than 65,535 can ever wait here.
pub(crate) struct Acks {
    connection: u64,
    /// One bit for every packet identifier that is owed an acknowledgement.
    owed: Box<[u64; 1024]>,
    in_flight: u32,
    due: Vec<u16>,
    stale: u64,
}

impl Acks {
    pub(crate) fn new() -> Self {
        Self {
            connection: 0,
            owed: Box::new([0; 1024]),
            in_flight: 0,
            due: Vec::new(),
            stale: 0,
        }
    }

    /// Starts over for a new connection and returns its number, from 1.
    pub(crate) fn open(&mut self) -> u64 {
        self.connection += 1;
        self.owed.fill(0);
        self.in_flight = 0;
        self.due.clear();
        self.connection
    }

    /// Notes a message of the present connection. A broker that sends an identifier again before its acknowledgement
    /// gets one acknowledgement for both.
    pub(crate) fn arrived(&mut self, id: u16) -> AckToken {
        let (word, bit) = place(id);
        if self.owed[word] & bit == 0 {
            self.owed[word] |= bit;
            self.in_flight += 1;
        }
        AckToken {
            connection: self.connection,
            id: u64::from(id),
        }
    }

    /// Makes acknowledgements due; true when there are any now.
    pub(crate) fn acknowledge(&mut self, tokens: &[AckToken]) -> bool {
        for token in tokens {
            let id = u16::try_from(token.id).ok();
            match id.filter(|_| token.connection == self.connection) {
                Some(id) => {
                    let (word, bit) = place(id);
                    if self.owed[word] & bit != 0 {
                        self.owed[word] &= !bit;
                        self.in_flight -= 1;
                        self.due.push(id);
                    }
                }
                None => self.stale += 1,
            }
        }
        !self.due.is_empty()
    }

    /// Takes what is due, in the order in which it was made so.
    pub(crate) fn take(&mut self) -> std::vec::Drain<'_, u16> {
        self.due.drain(..)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn stale(&self) -> u64 {
        self.stale
    }
}

fn place(id: u16) -> (usize, u64) {
    (usize::from(id / 64), 1 << (id % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_acknowledged_once_and_only_on_its_connection() {
        let mut acks = Acks::new();
        acks.open();
        let old = acks.arrived(7);
        acks.open();
        let new = acks.arrived(65_535);
        assert_eq!(acks.arrived(65_535), new);
        assert_eq!(acks.arrived(7).connection, old.connection + 1);
        assert_eq!(acks.in_flight(), 2);

        assert!(!acks.acknowledge(&[old]));
        assert!(acks.acknowledge(&[new, new]));
        assert_eq!(acks.take().collect::<Vec<_>>(), [65_535]);
        assert!(!acks.acknowledge(&[new]));
        assert_eq!((acks.in_flight(), acks.stale()), (1, 1));
    }
}
