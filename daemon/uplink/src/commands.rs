//! Commands on their way in: from the connection to whoever carries them out, and the acknowledgement back.
//!
//! The broker sends a command at QoS 1 and keeps it until it is acknowledged, which is after the commit of what it did. So
//! the broker's queue is the queue: few are taken at once, and what a connection left unacknowledged comes again with
//! the next one. An acknowledgement never crosses to another connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tidegate_domain::AckToken;

/// How long an MQTT 5 broker keeps commands for us while we are away. Longer, and an order of last week would be carried out; on
/// 3.1.1 the broker decides.
pub(crate) const SESSION_EXPIRY: Duration = Duration::from_hours(24);
/// Unacknowledged commands that an MQTT 5 broker sends.
pub(crate) const RECEIVE_MAXIMUM: u16 = 16;
/// What waits for whoever carries commands out, where a broker sends more than that. Beyond it the connection is ended, and
/// what was not acknowledged comes again.
pub(crate) const WAITING: usize = 256;
const WAITING_BYTES: usize = 1024 * 1024;

/// A command as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingCommand {
    /// Index of the uplink.
    pub uplink: usize,
    /// The bytes.
    pub payload: Bytes,
    /// It was kept by the broker for whoever subscribes, and is perhaps years old.
    pub retained: bool,
    /// For [`UplinkHandle::acknowledge`](crate::UplinkHandle::acknowledge), after the commit; `None` where it was sent at
    /// QoS 0.
    pub ack: Option<AckToken>,
}

/// Commands that nobody took yet.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    commands: VecDeque<IncomingCommand>,
    bytes: usize,
}

impl Waiting {
    /// Takes one in. False when there is no room.
    pub(crate) fn push(&mut self, command: IncomingCommand) -> bool {
        let bytes = self.bytes.saturating_add(command.payload.len());
        if self.commands.len() >= WAITING || (bytes > WAITING_BYTES && !self.commands.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.commands.push_back(command);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<IncomingCommand> {
        let command = self.commands.pop_front()?;
        self.bytes = self.bytes.saturating_sub(command.payload.len());
        Some(command)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The connection is over: what it can still be asked for comes again.
    pub(crate) fn disconnected(&mut self) {
        self.commands.retain(|command| command.ack.is_none());
        self.bytes = self
            .commands
            .iter()
            .map(|command| command.payload.len())
            .sum();
    }
}

/// The packet ids of those tokens that belong to a connection; others are for nobody.
pub(crate) fn of_connection(tokens: Vec<AckToken>, connection: u64) -> impl Iterator<Item = u16> {
    let of_it = tokens
        .into_iter()
        .filter(move |token| token.connection == connection);
    of_it.filter_map(|token| u16::try_from(token.id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(bytes: usize, id: Option<u64>) -> IncomingCommand {
        IncomingCommand {
            uplink: 0,
            payload: Bytes::from(vec![b'x'; bytes]),
            retained: false,
            ack: id.map(|id| AckToken { connection: 1, id }),
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut waiting = Waiting::default();
        // One alone is taken whatever its size.
        assert!(waiting.push(command(2 * WAITING_BYTES, Some(1))));
        assert!(!waiting.push(command(1, Some(2))));
        assert!(waiting.pop().is_some() && waiting.is_empty());
        let taken = (0..WAITING + 5)
            .filter(|_| waiting.push(command(10, None)))
            .count();
        assert_eq!((taken, waiting.bytes), (WAITING, 10 * WAITING));
    }

    #[test]
    fn a_connection_takes_what_comes_again_with_it() {
        let mut waiting = Waiting::default();
        waiting.push(command(1, Some(1)));
        waiting.push(command(2, None));
        waiting.disconnected();
        assert_eq!((waiting.commands.len(), waiting.bytes), (1, 2));
    }

    #[test]
    fn an_acknowledgement_never_crosses_to_another_connection() {
        let tokens = [(1, 5), (2, 5), (2, 7), (3, 1)];
        let tokens = tokens.map(|(connection, id)| AckToken { connection, id });
        let of_it: Vec<u16> = of_connection(tokens.to_vec(), 2).collect();
        assert_eq!(of_it, [5, 7]);
    }
}
