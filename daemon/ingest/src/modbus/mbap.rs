//! The envelope of a TCP connection: transaction, protocol, length, unit (Modbus Messaging on TCP/IP 1.0b, 3.1.3).

use super::pdu::{PDU_BYTES, Request};

/// Bytes before the unit.
const HEADER: usize = 6;

/// The bytes of a request to a unit.
pub(super) fn encode(transaction: u16, unit: u8, request: &Request) -> Vec<u8> {
    let pdu = request.encode();
    let mut frame = Vec::with_capacity(HEADER + 1 + pdu.len());
    frame.extend(transaction.to_be_bytes());
    frame.extend([0, 0]);
    // At most 254.
    frame.extend(
        u16::try_from(pdu.len() + 1)
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    frame.push(unit);
    frame.extend(pdu);
    frame
}

/// One frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) transaction: u16,
    pub(super) unit: u8,
    pub(super) pdu: Vec<u8>,
}

impl Frame {
    /// As they went over the connection.
    pub(super) fn bytes(&self) -> u64 {
        (HEADER + 1 + self.pdu.len()) as u64
    }
}

/// The stream is no Modbus any more: nothing after this can be believed, and the connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Cuts a connection's stream into frames.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    held: Vec<u8>,
}

impl Cutter {
    /// Takes bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next frame, where there is a whole one.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Broken> {
        let Some((header, rest)) = self.held.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [high, low, p1, p0, l1, l0] = *header;
        let length = usize::from(u16::from_be_bytes([l1, l0]));
        // Unit and function at least.
        if [p1, p0] != [0, 0] || !(2..=PDU_BYTES + 1).contains(&length) {
            return Err(Broken);
        }
        let Some((unit, pdu)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let frame = Frame {
            transaction: u16::from_be_bytes([high, low]),
            unit: *unit,
            pdu: pdu.to_vec(),
        };
        self.held.drain(..HEADER + length);
        Ok(Some(frame))
    }

    /// Bytes that wait for the rest of their frame.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::map::Table;
    use super::*;

    /// The example of the messaging guide: read register 5 by transaction 0x1501.
    #[test]
    fn a_request_as_the_guide_has_it() {
        let request = Request::Read {
            table: Table::Holding,
            address: 4,
            count: 1,
        };
        let frame = encode(0x1501, 0xFF, &request);
        assert_eq!(frame, [0x15, 1, 0, 0, 0, 6, 0xFF, 3, 0, 4, 0, 1]);
    }

    #[test]
    fn what_is_no_modbus_breaks_the_connection() {
        for bytes in [
            &[0, 1, 0, 1, 0, 3, 1, 3, 0][..],
            &[0, 1, 0, 0, 0, 1, 1],
            &[0, 1, 0, 0, 1, 0, 1],
            b"HTTP/1.1 400",
        ] {
            let mut cutter = Cutter::default();
            cutter.feed(bytes);
            assert_eq!(cutter.next(), Err(Broken), "{bytes:?}");
        }
    }

    fn frames(stream: &[u8], pieces: impl Iterator<Item = usize>) -> Vec<Frame> {
        let mut cutter = Cutter::default();
        let mut found = Vec::new();
        let mut rest = stream;
        for piece in pieces {
            if rest.is_empty() {
                break;
            }
            let (piece, next) = rest.split_at(piece.min(rest.len()));
            cutter.feed(piece);
            while let Ok(Some(frame)) = cutter.next() {
                found.push(frame);
            }
            rest = next;
        }
        found
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            sent in prop::collection::vec((any::<u16>(), any::<u8>(), prop::collection::vec(any::<u8>(), 1..=PDU_BYTES)), 1..6),
            cuts in prop::collection::vec(1usize..40, 1..8),
        ) {
            let mut stream = Vec::new();
            let mut expect = Vec::new();
            for (transaction, unit, pdu) in sent {
                stream.extend(transaction.to_be_bytes());
                stream.extend([0, 0]);
                stream.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
                stream.push(unit);
                stream.extend(&pdu);
                expect.push(Frame { transaction, unit, pdu });
            }
            prop_assert_eq!(&frames(&stream, std::iter::once(usize::MAX)), &expect);
            prop_assert_eq!(&frames(&stream, cuts.into_iter().cycle()), &expect);
        }
    }
}
