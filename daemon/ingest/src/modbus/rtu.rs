//! The envelope of a serial line: address, PDU, CRC (Modbus over Serial Line 1.02, 2.5.1).
//!
//! Nothing in the stream says where a frame begins or how long it is, so what is looked for is the one answer that the open request
//! can have: by slave, function and length, and with a CRC that is right. Everything else on the line is none.

use std::time::Duration;

use super::pdu::{Answer, PDU_BYTES, Request};

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// Bytes around a PDU.
const AROUND: usize = 3;
/// Bytes that are looked through for one answer: the echo of the request, noise, the answer, and as much again. What is older is
/// forgotten.
const HELD: usize = 4 * (PDU_BYTES + AROUND);

/// The bytes of a request to a slave.
pub(super) fn encode(unit: u8, request: &Request) -> Vec<u8> {
    let mut frame = vec![unit];
    frame.extend(request.encode());
    frame.extend(CRC.checksum(&frame).to_le_bytes());
    frame
}

/// Bytes of the answer to a request.
pub(super) fn answer_bytes(request: &Request) -> usize {
    request.answer_bytes() + AROUND
}

/// Looks for the answer to one request.
pub(super) struct Receiver {
    unit: u8,
    request: Request,
    /// What an adapter may send back to us. An answer to a write is the same.
    echo: Option<Vec<u8>>,
    held: Vec<u8>,
}

impl Receiver {
    pub(super) fn new(unit: u8, request: Request) -> Self {
        let echo = matches!(request, Request::Read { .. }).then(|| encode(unit, &request));
        Self {
            unit,
            request,
            echo,
            held: Vec::new(),
        }
    }

    /// Takes bytes; the answer where they complete it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Answer> {
        for byte in bytes {
            if self.held.len() == HELD {
                self.held.remove(0);
            }
            self.held.push(*byte);
            if let Some(answer) = self.ends_here(true) {
                return Some(answer);
            }
        }
        None
    }

    /// The line fell silent. What looked like our own echo may have been the answer.
    pub(super) fn silence(&self) -> Option<Answer> {
        self.ends_here(false)
    }

    /// Whether anything came.
    pub(super) fn heard(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes that are held, none of which are an answer.
    pub(super) fn bytes(&self) -> u64 {
        self.held.len() as u64
    }

    /// An answer whose last byte is the last one held: where it began is looked for, as noise may stand before it.
    fn ends_here(&self, beside_echo: bool) -> Option<Answer> {
        let lengths = [answer_bytes(&self.request), 2 + AROUND];
        lengths.into_iter().find_map(|length| {
            let begin = self.held.len().checked_sub(length)?;
            let frame = self.held.get(begin..)?;
            if beside_echo && self.echo.as_deref() == Some(frame) {
                return None;
            }
            self.answer(frame)
        })
    }

    fn answer(&self, frame: &[u8]) -> Option<Answer> {
        let (covered, crc) = frame.split_last_chunk::<2>()?;
        let (unit, pdu) = covered.split_first()?;
        if *unit != self.unit {
            return None;
        }
        let answer = self.request.answer(pdu)?;
        (CRC.checksum(covered).to_le_bytes() == *crc).then_some(answer)
    }
}

/// The silence that ends a frame: 3.5 characters of `bits` bits, and above 19200 baud 1.75 ms (2.5.1.1).
pub(super) fn silence(speed: u32, bits: u32) -> Duration {
    if speed > 19_200 {
        return Duration::from_micros(1750);
    }
    // Half characters.
    duration(7, speed, bits) / 2
}

/// How long so many characters take.
pub(super) fn duration(characters: usize, speed: u32, bits: u32) -> Duration {
    let characters = u32::try_from(characters).unwrap_or(u32::MAX);
    Duration::from_secs(1).saturating_mul(characters.saturating_mul(bits)) / speed.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::map::Table;
    use super::*;

    fn holding(address: u16, count: u16) -> Request {
        Request::Read {
            table: Table::Holding,
            address,
            count,
        }
    }

    fn framed(mut covered: Vec<u8>) -> Vec<u8> {
        covered.extend(CRC.checksum(&covered).to_le_bytes());
        covered
    }

    /// A well-known frame: read holding register 107 to 109 of slave 17.
    #[test]
    fn a_request_as_others_write_it() {
        let frame = encode(0x11, &holding(0x6B, 3));
        assert_eq!(frame, [0x11, 3, 0, 0x6B, 0, 3, 0x76, 0x87]);
        assert_eq!(silence(9600, 11), Duration::from_nanos(4_010_416));
        assert_eq!(silence(115_200, 11), Duration::from_micros(1750));
    }

    #[test]
    fn only_the_answer_to_this_request_is_one() {
        let right = framed(vec![7, 3, 4, 1, 2, 3, 4]);
        let feed = |bytes: &[u8]| Receiver::new(7, holding(0, 2)).feed(bytes);
        assert_eq!(feed(&right), Some(Answer::Data(vec![1, 2, 3, 4])));
        assert_eq!(feed(&framed(vec![7, 0x83, 2])), Some(Answer::Exception(2)));
        assert_eq!(feed(&framed(vec![8, 3, 4, 1, 2, 3, 4])), None);
        assert_eq!(feed(&framed(vec![7, 4, 4, 1, 2, 3, 4])), None);
        assert_eq!(feed(&framed(vec![7, 3, 2, 1, 2])), None);
        let mut flipped = right.clone();
        flipped[4] ^= 1;
        assert_eq!(feed(&flipped), None);
        // Noise, another slave's late answer and our own echo may stand before it.
        let before = [
            &[0xFF, 0, 7][..],
            &framed(vec![8, 3, 4, 9, 9, 9, 9]),
            &encode(7, &holding(0, 2)),
            &right,
        ];
        assert_eq!(feed(&before.concat()), Some(Answer::Data(vec![1, 2, 3, 4])));
    }

    /// Coils from 0x03xx on, 17 to 24 of them: the request itself is a right answer of three bytes.
    #[test]
    fn an_echo_that_could_be_an_answer() {
        let request = Request::Read {
            table: Table::Coil,
            address: 0x0345,
            count: 20,
        };
        let echo = encode(7, &request);
        let right = framed(vec![7, 1, 3, 0xAA, 0x55, 0x0F]);
        let mut receiver = Receiver::new(7, request.clone());
        assert_eq!(receiver.feed(&echo), None);
        assert_eq!(
            receiver.feed(&right),
            Some(Answer::Data(vec![0xAA, 0x55, 0x0F]))
        );
        let mut alone = Receiver::new(7, request);
        assert_eq!(alone.feed(&echo), None);
        assert_eq!(alone.silence(), Some(Answer::Data(vec![0x45, 0, 20])));
    }

    proptest! {
        /// Any split of the stream gives the same, and nothing but a right frame is taken.
        #[test]
        fn pieces_do_not_matter(
            noise in prop::collection::vec(any::<u8>(), 0..600),
            data in prop::collection::vec(any::<u8>(), 4),
            cuts in prop::collection::vec(1usize..9, 1..8),
        ) {
            let right = framed([&[7, 3, 4][..], &data].concat());
            let stream = [&noise[..], &right].concat();
            let mut whole = Receiver::new(7, holding(0, 2));
            let expect = whole.feed(&stream);
            let mut pieces = Receiver::new(7, holding(0, 2));
            let mut rest = &stream[..];
            let mut found = None;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || found.is_some() {
                    break;
                }
                let (piece, next) = rest.split_at((*cut).min(rest.len()));
                found = pieces.feed(piece);
                rest = next;
            }
            prop_assert!(whole.held.len() <= HELD && pieces.held.len() <= HELD);
            prop_assert_eq!(&found, &expect);
            prop_assert!(found.is_some());
        }
    }
}
